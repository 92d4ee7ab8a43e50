//! What no table of cases lists: random bytes, random frames, callers that hang up, failures at random. Seeds are printed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::Shutdown;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::harness::call::{signed_target, subscribe};
use crate::harness::client::{Message, frame_bytes};
use crate::harness::http::Wire;
use crate::harness::{Backend, Client, Command, Packet, Reply, Setup, Upgrade, eventually, metrics};

/// xorshift64*: small, seeded, good enough to be surprising.
struct Chance(u64);

impl Chance {
    fn seeded(what: &str) -> Chance {
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let seed = std::env::var("IT_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(clock.as_nanos() as u64 | 1);
        println!("{what}: IT_SEED={seed}");
        Chance(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn bytes(&mut self, max: u64) -> Vec<u8> {
        (0..self.below(max)).map(|_| self.next() as u8).collect()
    }
}

#[test]
fn random_bytes_break_nothing() {
    let backend = Backend::start();
    let mut server = Setup::of(&backend).set("close_timeout", "0.2").start();
    let mut chance = Chance::seeded("random bytes");
    let mut witness = Client::open(server.addr(), "witness");
    for round in 0..150 {
        let bytes = chance.bytes(3000);
        if round % 2 == 0 {
            let mut wire = Wire::connect(server.addr());
            let head = if chance.below(2) == 0 { "GET /connect/ HTTP/1.1\r\n" } else { "" };
            let _ = wire.stream.write_all(&[head.as_bytes(), &bytes].concat());
            let _ = wire.stream.shutdown(Shutdown::Write);
        } else {
            let mut client = Client::open(server.addr(), "random");
            client.raw(&bytes);
        }
    }
    witness.assert_open();
    server.assert_alive();
    let samples = metrics::read(server.addr());
    assert_eq!(samples.get("rainbow_panics_total"), Some(&0.0));
    eventually("only the witness is left", || {
        (metrics::read(server.addr())[crate::info::CONNECTIONS] == 1.0).then_some(())
    });
}

#[test]
fn random_packets_break_nothing() {
    let backend = Backend::start();
    let mut server = Setup::of(&backend).set("close_timeout", "0.2").set("ack_timeout", "0.05").start();
    let mut chance = Chance::seeded("random packets");
    backend.on_connect(|_| Reply::welcome().header("RAINBOWCLIENTCHANNEL", "all"));
    let mut witness = Client::open(server.addr(), "witness");
    for round in 0..60 {
        let mut client = Client::open(server.addr(), "random");
        if round % 10 == 0 {
            crate::harness::send(server.addr(), "all", &[("qos", "0")], "for ids to hit");
        }
        for _ in 0..chance.below(200) {
            // Valid commands with small ids, so that answers meet messages in flight and ids come twice.
            let command = 1 + chance.below(5) as u8;
            let flags = chance.below(16) as u8 & 0b1110;
            let mut packet = vec![command << 4 | flags, 0, chance.below(4) as u8, 0, chance.below(6) as u8];
            packet.extend(chance.bytes(20));
            if command >= 4 {
                packet.truncate(3);
            }
            client.raw(&frame_bytes(true, 2, &packet));
        }
    }
    while witness.packet_within(Duration::from_millis(100)).is_some() {}
    server.assert_alive();
    assert_eq!(metrics::read(server.addr()).get("rainbow_panics_total"), Some(&0.0));
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

#[test]
fn a_caller_that_hangs_up_does_no_harm() {
    let backend = Backend::start();
    let mut server = Setup::of(&backend).start();
    let mut client = Client::open(server.addr(), "phone");
    subscribe(server.addr(), &backend.identity_of("phone"), "a");
    for _ in 0..10 {
        let target = signed_target("/send/", &[("channel", "a"), ("qos", "1"), ("timeout", "2")]);
        let mut wire = Wire::connect(server.addr());
        wire.write(format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx").as_bytes());
        let id = client.expect_send().id;
        drop(wire);
        client.answer(Command::Ack, id, "nobody listens");
    }
    client.assert_open();
    eventually("no call waits any more", || {
        (metrics::read(server.addr())["rainbow_calls_waiting"] == 0.0).then_some(())
    });
    server.assert_alive();
}

/// QoS 2 up with a backend that fails before or after it has done its work, a client that repeats at random, and an
/// application that counts by Idempotency-Key: each message is done exactly once, and in order.
#[test]
fn messages_are_done_exactly_once_by_their_key() {
    let backend = Backend::start();
    let server = Setup::of(&backend)
        .set("breaker_failures", "100000")
        .set("retry_backoff_min", "0.01")
        .set("retry_backoff_max", "0.05")
        .start();
    let chance = Mutex::new(Chance::seeded("exactly once"));
    let done = std::sync::Arc::new(Mutex::new((BTreeSet::new(), BTreeMap::<String, Vec<u32>>::new())));
    backend.on_message({
        let done = done.clone();
        move |request| {
            let fate = chance.lock().unwrap().below(10);
            if fate == 0 {
                return Reply::status(503, "before the work");
            }
            let key = request.header("Idempotency-Key").expect("every request has a key").to_owned();
            let mut done = done.lock().unwrap();
            if done.0.insert(key) {
                let number = request.text().parse().expect("a number");
                done.1.entry(request.identity().unwrap_or_default().to_owned()).or_default().push(number);
            }
            if fate < 3 { Reply::reset() } else { Reply::ok(request.body.clone()) }
        }
    });
    let mut clients: Vec<_> = (0..5).map(|i| Client::open(server.addr(), &format!("phone{i}"))).collect();
    let mut repeats = Chance::seeded("repeats");
    for number in 1..=40u16 {
        for client in &mut clients {
            let message = Packet::send(2, 1, number, number.to_string());
            client.packet(&message);
            if repeats.below(3) == 0 {
                client.packet(&message.with_dup());
            }
        }
    }
    for client in &mut clients {
        let (mut received, mut completed) = (0, 0);
        let deadline = Instant::now() + Duration::from_secs(15);
        while completed < 40 {
            let packet = client.packet_within(deadline.saturating_duration_since(Instant::now()));
            let packet = packet.unwrap_or_else(|| panic!("{received} received, {completed} completed of 40"));
            match packet.command {
                // A repeat of an answer comes behind the first, and is answered all the same.
                Command::Rec => {
                    assert!(packet.id <= received + 1, "{} was answered before {}", packet.id, received + 1);
                    assert_eq!(packet.text(), packet.id.to_string());
                    received = received.max(packet.id);
                    client.answer(Command::Rel, packet.id, "");
                }
                Command::Com => completed = completed.max(packet.id),
                other => panic!("{other:?}"),
            }
        }
    }
    let done = done.lock().unwrap();
    assert_eq!(done.1.len(), 5);
    for (client, numbers) in &done.1 {
        assert_eq!(*numbers, (1..=40).collect::<Vec<_>>(), "{client}");
    }
}

#[test]
fn clients_that_come_and_go_leave_nothing_behind() {
    let backend = Backend::start();
    backend.forgetful();
    backend.on_connect(|_| {
        Reply::welcome().header("RAINBOWCLIENTCHANNEL", "a;;b;;c").header("RAINBOWCLIENTCOOKIE", "YQ==")
    });
    let server = Setup::of(&backend).start();
    let wave = || {
        for number in 0..100 {
            let mut client = Client::open(server.addr(), "phone");
            client.send(2, 1, 1, vec![b'x'; 2000]);
            match number % 3 {
                0 => client.cut(),
                1 => client.close(1000, ""),
                _ => {}
            }
        }
        eventually("all are gone", || (metrics::read(server.addr())[crate::info::CONNECTIONS] == 0.0).then_some(()));
    };
    for _ in 0..3 {
        wave();
    }
    let before = server.rss();
    for _ in 0..8 {
        wave();
    }
    let grown = server.rss().saturating_sub(before);
    println!("{grown} bytes more after 800 clients");
    assert!(grown < 1 << 20, "800 clients left {grown} bytes behind");
    let samples = metrics::read(server.addr());
    assert_eq!((samples["rainbow_channels"], samples["rainbow_forward_queue_bytes"]), (0.0, 0.0));
}

#[test]
fn a_slow_upgrade_holds_nobody_else_up() {
    let backend = Backend::start();
    let gate = crate::harness::backend::Gate::new();
    backend.on_connect({
        let gate = gate.clone();
        move |r| {
            if r.header("X-DEVICEID") == Some("slow") {
                gate.pass();
            }
            Reply::welcome()
        }
    });
    let server = Setup::of(&backend).set("workers", "1").start();
    let mut slow = Wire::connect(server.addr());
    slow.write(Upgrade::of("slow").head("x").as_bytes());
    backend.wait_under("/connect", 1);
    let mut quick = Client::open(server.addr(), "quick");
    quick.send(1, 1, 1, "x");
    assert!(matches!(quick.next(), Message::Packet(_)));
    gate.open();
    assert_eq!(slow.response(Instant::now() + crate::harness::TIMEOUT).expect("answered").status, 101);
}
