//! SIGTERM: nobody new, answers under way finish, clients go with 1001, the business server hears every close, exit 0.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::harness::backend::Gate;
use crate::harness::call::send_later;
use crate::harness::client::Message;
use crate::harness::{Backend, Client, Command, Reply, Server, Setup, Upgrade, eventually, http};

fn started() -> (Backend, Server) {
    let backend = Backend::start();
    backend.on_connect(|_| Reply::welcome().header("RAINBOWCLIENTCHANNEL", "all"));
    let server = Setup::of(&backend).set("shutdown_timeout", "8").start();
    (backend, server)
}

#[test]
fn every_client_goes_with_1001_and_every_close_is_told() {
    let (backend, mut server) = started();
    let mut clients: Vec<_> = (0..50).map(|i| Client::open(server.addr(), &format!("phone{i}"))).collect();
    server.terminate();
    for client in &mut clients {
        assert_eq!(client.expect_close().0, 1001);
    }
    drop(clients);
    let status = server.exited_within(Duration::from_secs(9));
    assert_eq!(status.code(), Some(0), "{status}: {}", server.log());
    let mut closed: Vec<_> = backend.closes().iter().map(|r| r.identity().expect("named").to_owned()).collect();
    let mut connected: Vec<_> = backend.connects().iter().map(|r| r.identity().expect("named").to_owned()).collect();
    closed.sort();
    connected.sort();
    assert_eq!(closed, connected);
}

#[test]
fn without_clients_it_ends_at_once() {
    let (_backend, mut server) = started();
    let begun = Instant::now();
    server.terminate();
    assert_eq!(server.exited_within(Duration::from_secs(5)).code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[test]
fn nobody_new_is_let_in() {
    let (backend, server) = started();
    let gate = Gate::new();
    backend.on_message({
        let gate = gate.clone();
        move |_| {
            gate.pass();
            Reply::ok("")
        }
    });
    let mut client = Client::open(server.addr(), "phone");
    client.send(1, 1, 1, "keeps the drain waiting");
    backend.wait_under("/message", 1);
    server.terminate();
    eventually("newcomers are turned away", || {
        let Ok(stream) = TcpStream::connect(server.addr()) else { return Some(()) };
        let mut wire = crate::harness::http::Wire::new(stream);
        let _ = std::io::Write::write_all(&mut wire.stream, Upgrade::of("late").head("x").as_bytes());
        match wire.response(Instant::now() + Duration::from_millis(500)) {
            Ok(response) => (response.status != 101).then_some(()),
            Err(_) => Some(()),
        }
    });
    gate.open();
}

#[test]
fn an_answer_under_way_is_still_given() {
    let (backend, mut server) = started();
    let gate = Gate::new();
    backend.on_message({
        let gate = gate.clone();
        move |_| {
            gate.pass();
            Reply::ok("late but true")
        }
    });
    let mut client = Client::open(server.addr(), "phone");
    client.send(1, 1, 1, "pay");
    backend.wait_under("/message", 1);
    server.terminate();
    server
        .process
        .log
        .wait_for("the drain", Duration::from_secs(5), |line| line.to_ascii_lowercase().contains("drain"));
    gate.open();
    assert_eq!(client.expect(Command::Ack, 1).text(), "late but true");
    assert_eq!(client.expect_close().0, 1001);
    drop(client);
    assert_eq!(server.exited_within(Duration::from_secs(9)).code(), Some(0));
    backend.wait_under("/close", 1);
}

#[test]
fn a_call_under_way_is_still_answered() {
    let (_backend, mut server) = started();
    let mut client = Client::open(server.addr(), "phone");
    let waiting = send_later(server.addr(), "all", &[("qos", "1"), ("timeout", "6")], "hello");
    let id = client.expect_send().id;
    server.terminate();
    server
        .process
        .log
        .wait_for("the drain", Duration::from_secs(5), |line| line.to_ascii_lowercase().contains("drain"));
    client.answer(Command::Ack, id, "in time");
    let answer = waiting.join().expect("answered");
    assert_eq!((&answer["connections"], &answer["data"]), (&1.into(), &"in time".into()));
    assert_eq!(client.expect_close().0, 1001);
    drop(client);
    assert_eq!(server.exited_within(Duration::from_secs(9)).code(), Some(0));
}

/// What a load balancer sees before anybody is turned away.
fn announced(server: &Server) {
    server.terminate();
    let answer = eventually("it is not ready", || {
        Some(http::get(server.addr(), "/readyz")).filter(|answer| answer.status == 503)
    });
    assert_eq!(answer.text().trim(), "draining");
}

#[test]
fn during_the_delay_it_serves_on_and_a_second_signal_ends_that() {
    let backend = Backend::start();
    backend.on_connect(|_| Reply::welcome().header("RAINBOWCLIENTCHANNEL", "all"));
    let mut server = Setup::of(&backend).set("drain_delay", "60").set("shutdown_timeout", "8").start();
    let mut early = Client::open(server.addr(), "early");
    announced(&server);
    assert_eq!(http::get(server.addr(), "/livez").status, 200);
    let mut late = Client::open(server.addr(), "late");
    let sent = send_later(server.addr(), "all", &[("qos", "1"), ("timeout", "6")], "hello");
    for client in [&mut early, &mut late] {
        let id = client.expect_send().id;
        client.answer(Command::Ack, id, "");
    }
    assert_eq!(sent.join().expect("answered")["connections"], 2);
    let begun = Instant::now();
    server.terminate();
    for client in [&mut early, &mut late] {
        assert_eq!(client.expect_close().0, 1001);
    }
    drop((early, late));
    assert_eq!(server.exited_within(Duration::from_secs(9)).code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(9), "the rest of the minute is skipped");
}

#[test]
fn after_the_delay_it_drains() {
    let mut server = Setup::new().set("drain_delay", "1").start();
    let begun = Instant::now();
    announced(&server);
    assert_eq!(server.exited_within(Duration::from_secs(9)).code(), Some(0));
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[test]
fn a_backend_that_never_answers_does_not_hold_the_end_up() {
    let backend = Backend::start();
    backend.on_message(|_| Reply::hang());
    backend.on_close(|_| Reply::hang());
    let mut server = Setup::of(&backend).set("shutdown_timeout", "2").start();
    let mut client = Client::open(server.addr(), "phone");
    client.send(1, 1, 1, "never answered");
    backend.wait_under("/message", 1);
    let begun = Instant::now();
    server.terminate();
    assert_eq!(server.exited_within(Duration::from_secs(4)).code(), Some(0));
    assert!(begun.elapsed() < Duration::from_millis(3500), "{:?} with shutdown_timeout 2 s", begun.elapsed());
}

#[test]
fn a_client_that_ignores_the_close_does_not_hold_the_end_up() {
    let backend = Backend::start();
    let mut server = Setup::of(&backend).set("shutdown_timeout", "3").set("close_timeout", "0.5").start();
    let mut client = Client::open(server.addr(), "phone");
    server.terminate();
    while !matches!(client.next(), Message::Close(1001, _)) {}
    assert_eq!(server.exited_within(Duration::from_secs(4)).code(), Some(0));
    backend.wait_under("/close", 1);
}

#[test]
fn sigint_ends_it_as_well() {
    let (_backend, mut server) = started();
    server.process.signal("INT");
    assert_eq!(server.exited_within(Duration::from_secs(9)).code(), Some(0));
}

#[test]
fn a_signal_during_the_start_ends_it_cleanly() {
    // Whatever has been started by then: it is no error to be closed to stop.
    for _ in 0..10 {
        let mut server = Setup::new().set("workers", "8").spawn();
        eventually("the first worker listens", || TcpStream::connect(server.addr()).ok());
        server.terminate();
        let status = server.exited_within(Duration::from_secs(5));
        assert_eq!(status.code(), Some(0), "{}", server.log());
    }
}
