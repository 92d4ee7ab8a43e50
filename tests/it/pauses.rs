//! A process that was idle, or that stood still: deadlines count from when something came, and a late timer judges after
//! what lies in the sockets was read.

use std::time::{Duration, Instant};

use crate::harness::backend::Gate;
use crate::harness::call::{call, signed_query};
use crate::harness::client::{Message, PONG};
use crate::harness::http::Wire;
use crate::harness::metrics::read;
use crate::harness::{Backend, Client, Command, Reply, Server, Setup, TIMEOUT, send};

#[test]
fn a_call_that_ends_an_idle_time_has_its_whole_timeout() {
    let backend = Backend::start();
    backend.on_connect(|_| Reply::welcome().header("RAINBOWCLIENTCHANNEL", "all"));
    let server = Setup::of(&backend).set("workers", "1").start();
    let mut client = Client::open(server.addr(), "phone");
    for idle_ms in [310, 420, 530, 640] {
        // Nothing comes of a connection that says nothing but its deadline.
        let silent = Wire::connect(server.addr());
        assert!(client.packet_within(Duration::from_millis(idle_ms)).is_none());
        let begun = Instant::now();
        let answer = send(server.addr(), "all", &[("qos", "1"), ("timeout", "1")], "x");
        assert_eq!(answer["connections"], 0, "the client did not acknowledge it");
        let waited = begun.elapsed();
        assert!(waited >= Duration::from_millis(980), "timeout 1 s was over after {waited:?}, idle for {idle_ms} ms");
        let _ = client.packet_within(Duration::from_millis(1));
        drop(silent);
    }
}

#[test]
fn a_process_that_stood_still_reads_before_it_judges() {
    let backend = Backend::start();
    let setup = Setup::of(&backend).set("ping_interval", "1").set("pong_timeout", "1").set("workers", "1");
    let server = setup.set("handshake_timeout", "1").start();
    let mut clients: Vec<Client> = (0..CLIENTS).map(|n| Client::open(server.addr(), &format!("phone{n}"))).collect();
    let target = format!("/send/?{}&channel=all&qos=0", signed_query(crate::harness::TOKEN));
    let request = format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx");
    let (first, rest) = request.split_at(20);
    // The last of them has its ping when the process stops; what they answer waits in their sockets.
    let mut pings = Vec::new();
    for client in &mut clients {
        client.answers_pings = false;
        let Message::Ping(payload) = client.next() else { panic!("a ping comes first") };
        pings.push(payload);
    }
    let mut wire = Wire::connect(server.addr());
    wire.write(first.as_bytes());
    assert_eq!(call(server.addr(), "/hello/", &[], "").status, 200);
    server.process.signal("STOP");
    wire.write(rest.as_bytes());
    for (client, payload) in clients.iter_mut().zip(pings) {
        client.frame(true, PONG, &payload);
        client.answers_pings = true;
    }
    let stopped = Instant::now();
    while stopped.elapsed() < Duration::from_secs(4) {
        let _ = clients[0].next_within(Duration::from_millis(200));
    }
    server.process.signal("CONT");
    assert_eq!(wire.response(Instant::now() + TIMEOUT).expect("answered").status, 200, "it was complete in time");
    clients.iter_mut().for_each(Client::assert_open);
    assert_eq!(backend.closes().len(), 0);
}

/// What wakes a worker for other reasons must not judge either: a fan-out in slices rings the worker's own bell, while
/// the response of the backend, which came in time, takes several reads.
#[test]
fn a_response_that_came_while_the_process_stood_still_is_read_before_its_request_times_out() {
    let backend = Backend::start();
    let gate = Gate::new();
    backend.on_connect(|_| Reply::welcome().header("RAINBOWCLIENTCHANNEL", "all"));
    backend.on_message({
        let gate = gate.clone();
        move |_| {
            gate.pass();
            Reply::ok([b'x'; LONG])
        }
    });
    let server = Setup::of(&backend).set("forward_timeout", "1").set("workers", "1").start();
    let mut clients: Vec<Client> =
        (0..2 * CLIENTS).map(|n| Client::open(server.addr(), &format!("phone{n}"))).collect();
    let talkers = &mut clients[..TALKERS];
    talkers.iter_mut().for_each(|talker| talker.send(1, 1, 1, "x"));
    backend.wait_under("/message/", TALKERS);
    server.process.signal("STOP");
    gate.open();
    let _calls: Vec<Wire> = (0..CALLS).map(|_| fan_out(&server)).collect();
    std::thread::park_timeout(Duration::from_secs(3));
    server.process.signal("CONT");
    for talker in talkers {
        while talker.next_packet().command != Command::Ack {}
    }
    assert_eq!(read(server.addr())["rainbow_backend_failures_total{reason=\"timeout\"}"], 0.0);
    assert_eq!(backend.messages().len(), TALKERS, "none was sent twice");
}

/// A call whose outcome nobody waits for.
fn fan_out(server: &Server) -> Wire {
    let target = format!("/send/?{}&channel=all&qos=0", signed_query(crate::harness::TOKEN));
    let mut wire = Wire::connect(server.addr());
    wire.write(format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx").as_bytes());
    wire
}

const CALLS: usize = 20;
const LONG: usize = 100_000;
const TALKERS: usize = 5;
const CLIENTS: usize = 100;
