//! Clients that say nothing: kept alive by pings, closed when they are gone, and cheap while they sit.

use std::time::{Duration, Instant};

use crate::harness::client::{Message, PONG};
use crate::harness::fleet::Sitting;
use crate::harness::{Backend, Client, Setup, eventually, heavy, sys};

#[test]
fn an_idle_client_is_pinged_and_stays_while_it_answers() {
    let backend = Backend::start();
    let server = Setup::of(&backend).set("ping_interval", "0.4").set("pong_timeout", "0.3").start();
    let mut client = Client::open(server.addr(), "phone");
    for _ in 0..5 {
        assert!(matches!(client.next(), Message::Ping(_)));
    }
    client.assert_open();
    assert_eq!(backend.closes().len(), 0);
}

#[test]
fn a_client_that_answers_no_ping_is_closed() {
    let backend = Backend::start();
    let setup = Setup::of(&backend).set("ping_interval", "0.4").set("pong_timeout", "0.3");
    let server = setup.set("close_timeout", "0.2").start();
    let mut client = Client::open(server.addr(), "phone");
    client.answers_pings = false;
    let begun = Instant::now();
    while matches!(client.next_within(Duration::from_secs(8)), Ok(Message::Ping(_))) {}
    client.expect_end();
    assert!(begun.elapsed() >= Duration::from_millis(500), "closed before its time: {:?}", begun.elapsed());
    backend.wait_under("/close", 1);
}

#[test]
fn a_client_that_sends_nothing_but_pongs_is_idle() {
    let backend = Backend::start();
    let server =
        Setup::of(&backend).set("idle_timeout", "1").set("ping_interval", "0.3").set("pong_timeout", "0.3").start();
    let mut idle = Client::open(server.addr(), "idle");
    let begun = Instant::now();
    let busy = std::thread::spawn({
        let mut busy = Client::open(server.addr(), "busy");
        move || {
            for id in 1..=10 {
                busy.send(1, 1, id, "x");
                while !matches!(busy.next(), Message::Packet(_)) {}
                let _ = busy.packet_within(Duration::from_millis(200));
            }
            busy.assert_open();
        }
    });
    loop {
        match idle.next_within(Duration::from_secs(8)) {
            Ok(Message::Close(..)) | Err(crate::harness::Gone::Ended) => break,
            Ok(_) => idle.frame(true, PONG, b"unasked"),
            Err(gone) => panic!("still open: {gone:?}"),
        }
    }
    assert!(begun.elapsed() >= Duration::from_millis(900), "closed after {:?}", begun.elapsed());
    busy.join().expect("a busy client stays");
}

#[test]
fn fifteen_thousand_idle_clients_cost_2_kib_each() {
    let _alone = heavy();
    let limit = sys::raise_descriptor_limit();
    assert!(limit >= 16_000, "this machine allows {limit} descriptors, the test needs 16,000");
    let server = Setup::new().text("listen", "0.0.0.0").set("ping_interval", "600").start();
    // A few first, so that what is made once is not counted.
    let warm = Sitting::open(server.port(), 200);
    let before = server.rss();
    let fleet = Sitting::open(server.port(), IDLE);
    let grown = server.rss().saturating_sub(before);
    let each = grown / IDLE as u64;
    println!("{each} bytes of RSS per idle connection");
    assert!(each <= 2048, "{each} bytes of RSS per idle connection ({grown} for {IDLE})");
    assert_eq!((warm.disturbed(), fleet.disturbed()), (0, 0), "they were to be left alone");
    drop((warm, fleet));
    // Their end is noticed, and the places are free for others.
    eventually("all of them are gone", || {
        let samples = crate::harness::metrics::read(server.addr());
        let open = samples.iter().find(|(name, _)| name.starts_with(crate::info::CONNECTIONS)).map(|(_, value)| *value);
        (open.expect("a gauge of connections") < 100.0).then_some(())
    });
    Client::open(server.addr(), "after").assert_open();
}

const IDLE: usize = 15_000;
