//! The business server fails in every way it can: no client loses its connection, no message of QoS 1 or 2 is lost.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::harness::backend::Request;
use crate::harness::metrics::{Counted, await_rise, counted, read};
use crate::harness::{Backend, Client, Command, Packet, Reply, Server, Setup, TIMEOUT, Upgrade, eventually};

/// A breaker that stays out of the way, and short pauses.
fn stubborn(backend: &Backend) -> Setup {
    Setup::of(backend)
        .set("breaker_failures", "100000")
        .set("retry_backoff_min", "0.05")
        .set("retry_backoff_max", "0.2")
}

/// Fails so often, then answers `done`.
fn failing(times: u32, failure: impl Fn() -> Reply + Send + Sync + 'static) -> Backend {
    let backend = Backend::start();
    let forwarded = AtomicU32::new(0);
    backend.on_message(
        move |_| if forwarded.fetch_add(1, Ordering::SeqCst) < times { failure() } else { Reply::ok("done") },
    );
    backend
}

fn assert_answered_after(failure: impl Fn() -> Reply + Send + Sync + 'static) -> (Backend, Server) {
    let backend = failing(2, failure);
    let mut server = stubborn(&backend).set("forward_timeout", "0.5").set("backend_body_max", "10000").start();
    let mut client = Client::open(server.addr(), "phone");
    for (qos, answer) in [(1, Command::Ack), (2, Command::Rec)] {
        client.send(qos, 1, u16::from(qos), "x");
        assert_eq!(client.expect(answer, u16::from(qos)).text(), "done");
    }
    client.assert_open();
    server.assert_alive();
    assert_eq!(backend.messages().len(), 4, "two failures, two answers");
    (backend, server)
}

#[test]
fn errors_5xx_are_retried() {
    assert_answered_after(|| Reply::status(503, "busy"));
}

#[test]
fn a_reset_is_retried() {
    assert_answered_after(Reply::reset);
}

#[test]
fn a_timeout_is_retried() {
    assert_answered_after(Reply::hang);
}

#[test]
fn rubbish_is_a_failure() {
    assert_answered_after(|| Reply::raw("\u{0}\u{1}rubbish\r\n\r\n"));
}

#[test]
fn an_answer_cut_short_is_a_failure() {
    assert_answered_after(|| Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"));
}

#[test]
fn chunks_cut_short_are_a_failure() {
    assert_answered_after(|| Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"));
}

#[test]
fn a_chunk_size_that_is_none_is_a_failure() {
    assert_answered_after(|| {
        Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nx")
    });
}

#[test]
fn a_length_and_chunks_together_are_a_failure() {
    assert_answered_after(|| {
        Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    });
}

#[test]
fn a_head_without_end_is_a_failure() {
    assert_answered_after(|| Reply::raw(format!("HTTP/1.1 200 OK\r\nX-Endless: {}", "x".repeat(1 << 20))));
}

#[test]
fn a_body_of_2_gb_is_a_failure_and_is_not_kept() {
    let backend = failing(2, Reply::endless);
    let server = stubborn(&backend).start();
    let mut client = Client::open(server.addr(), "phone");
    let before = server.rss();
    counted(server.addr(), Counted::BackendFailure, || {
        client.send(1, 1, 1, "x");
        assert_eq!(client.expect(Command::Ack, 1).text(), "done");
    });
    let grown = server.rss().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes for a body that is too large");
}

#[test]
fn failures_are_counted() {
    let backend = failing(1, || Reply::status(500, "no"));
    let server = stubborn(&backend).start();
    let mut client = Client::open(server.addr(), "phone");
    counted(server.addr(), Counted::BackendFailure, || {
        client.send(1, 1, 1, "x");
        client.expect(Command::Ack, 1);
    });
}

#[test]
fn messages_sent_while_the_backend_is_away_are_answered_in_order_when_it_returns() {
    let mut backend = Backend::start();
    let server = stubborn(&backend).start();
    let mut clients: Vec<_> = (0..10).map(|i| Client::open(server.addr(), &format!("phone{i}"))).collect();
    backend.stop();
    for client in &mut clients {
        for id in 1..=20 {
            client.send(if id % 2 == 0 { 2 } else { 1 }, 1, id, id.to_string());
        }
        client.assert_open();
    }
    backend.restart();
    for client in &mut clients {
        for id in 1..=20 {
            let answer = client.next_packet();
            assert_eq!((answer.id, answer.text()), (id, format!("re:{id}")));
        }
    }
    assert_eq!(backend.messages().len(), 200, "each message reached it once");
}

#[test]
fn a_clients_repeats_are_absorbed_while_the_backend_is_away() {
    let mut backend = Backend::start();
    let server = stubborn(&backend).start();
    let mut client = Client::open(server.addr(), "phone");
    backend.stop();
    client.send(2, 1, 1, "once");
    for _ in 0..10 {
        client.packet(&Packet::send(2, 1, 1, "once").with_dup());
        client.assert_open();
    }
    backend.restart();
    assert_eq!(client.expect(Command::Rec, 1).text(), "re:once");
    client.send(1, 1, 2, "next");
    while client.next_packet().id != 2 {}
    assert_eq!(backend.messages().len(), 2);
}

#[test]
fn qos_0_is_dropped_and_counted_while_the_backend_is_away() {
    let mut backend = Backend::start();
    let server = stubborn(&backend).start();
    let mut client = Client::open(server.addr(), "phone");
    backend.stop();
    let before = read(server.addr());
    for _ in 0..10 {
        client.send(0, 1, 0, "lost");
    }
    client.assert_open();
    await_rise(server.addr(), &before, Counted::DroppedUp, 10.0);
    backend.restart();
    client.send(1, 1, 1, "kept");
    client.expect(Command::Ack, 1);
    assert_eq!(backend.messages().iter().filter(|r| r.text() == "lost").count(), 0);
}

#[test]
fn after_its_deadline_a_message_is_left_to_the_clients_repeats() {
    let mut backend = Backend::start();
    let server = stubborn(&backend).set("forward_deadline", "0.6").start();
    let mut client = Client::open(server.addr(), "phone");
    backend.stop();
    let message = Packet::send(1, 1, 1, "patience");
    client.packet(&message);
    // Nothing comes for it, and the client is not closed for it.
    assert_eq!(client.packet_within(Duration::from_millis(1500)), None);
    backend.restart();
    assert_eq!(client.packet_within(Duration::from_millis(700)), None, "it was given up");
    assert_eq!(backend.messages().len(), 0);
    client.packet(&message.with_dup());
    assert_eq!(client.expect(Command::Ack, 1).text(), "re:patience");
}

#[test]
fn a_message_waits_no_longer_than_the_backend_is_away() {
    let mut backend = Backend::start();
    // The breaker is on, its pauses are short.
    let server = Setup::of(&backend).set("retry_backoff_max", "0.5").set("breaker_cooldown", "0.3").start();
    let mut client = Client::open(server.addr(), "phone");
    backend.stop();
    client.send(1, 1, 1, "x");
    assert_eq!(client.packet_within(Duration::from_secs(2)), None);
    backend.restart();
    let returned = Instant::now();
    client.expect(Command::Ack, 1);
    assert!(returned.elapsed() < Duration::from_secs(2), "answered {:?} after the return", returned.elapsed());
}

#[test]
fn the_breaker_stops_hammering() {
    let backend = Backend::start();
    let server = Setup::of(&backend)
        .set("breaker_failures", "3")
        .set("breaker_cooldown", "1")
        .set("retry_backoff_min", "0.02")
        .set("retry_backoff_max", "0.05")
        .set("workers", "1")
        .start();
    let mut clients: Vec<_> = (0..20).map(|i| Client::open(server.addr(), &format!("phone{i}"))).collect();
    backend.on_message(|_| Reply::status(503, "ill"));
    for client in &mut clients {
        client.send(1, 1, 1, "x");
    }
    assert_eq!(clients[0].packet_within(Duration::from_millis(2500)), None);
    let attempts = backend.messages().len();
    // Twenty clients at 20 tries a second would be about a thousand.
    assert!(attempts <= 20 + 3 + 4 * 3, "{attempts} attempts in 2.5 s against an open breaker");
    backend.on_message(|_| Reply::ok("well"));
    for client in &mut clients {
        assert_eq!(client.expect(Command::Ack, 1).text(), "well");
    }
}

#[test]
fn another_url_takes_over_from_one_that_is_away() {
    let mut first = Backend::start();
    let second = Backend::start();
    let urls = format!("[{:?}, {:?}]", first.url("/message/{message_type}/"), second.url("/message/{message_type}/"));
    let server = Setup::of(&second).set("forward_url", &urls).start();
    let mut client = Client::open(server.addr(), "phone");
    first.stop();
    for id in 1..=20 {
        client.send(1, 1, id, "x");
        assert_eq!(client.expect(Command::Ack, id).text(), "re:x");
    }
    assert_eq!(second.messages().len(), 20);
}

#[test]
fn connects_while_the_backend_is_away_get_503() {
    let mut backend = Backend::start();
    let server = Setup::of(&backend).start();
    backend.stop();
    for _ in 0..10 {
        let refusal = Upgrade::of("phone").refused(server.addr());
        assert_eq!(refusal.status, 503);
        assert!(refusal.header("retry-after").is_some());
    }
}

#[test]
fn a_close_is_told_when_the_backend_returns() {
    let mut backend = Backend::start();
    let server = stubborn(&backend).start();
    let client = Client::open(server.addr(), "phone");
    let identity = backend.identity_of("phone");
    backend.stop();
    client.leave();
    backend.restart();
    assert_eq!(backend.wait_under("/close", 1)[0].identity(), Some(identity.as_str()));
}

#[test]
fn the_forward_queue_of_one_client_is_bounded_and_the_client_only_waits() {
    let mut backend = Backend::start();
    let mut server = stubborn(&backend).set("forward_queue", "8").start();
    let mut client = Client::open(server.addr(), "phone");
    let mut other = Client::open(server.addr(), "other");
    backend.stop();
    let before = server.rss();
    // Far more than the line and the kernel's buffers take together; the rest waits in the client.
    let writer = std::thread::spawn({
        let mut stream = client.stream().try_clone().expect("a descriptor is left");
        move || {
            for id in 1..=300u16 {
                let frame =
                    crate::harness::client::frame_bytes(true, 2, &Packet::send(1, 1, id, vec![b'x'; 60_000]).bytes());
                std::io::Write::write_all(&mut stream, &frame).expect("the server reads again in time");
            }
        }
    });
    for _ in 0..20 {
        other.assert_open();
    }
    assert!(server.rss() < before + (8 << 20), "18 MB of one client were taken in");
    backend.restart();
    for id in 1..=300 {
        assert_eq!(client.expect(Command::Ack, id).body.len(), 60_003);
    }
    writer.join().expect("everything was written");
    server.assert_alive();
}

#[test]
fn messages_answered_500_cost_nobody_else_anything() {
    let backend = Backend::start();
    let is_poison = |path: &str| path.starts_with("/message/13");
    backend.on_message(move |request| if is_poison(&request.path) { Reply::status(500, "bug") } else { Reply::ok("") });
    let server = Setup::of(&backend).set("workers", "1").set("forward_attempts_max", "6").start();
    let mut poisoned: Vec<_> = (0..20).map(|i| Client::open(server.addr(), &format!("poisoned{i}"))).collect();
    for client in &mut poisoned {
        client.send(1, 13, 1, "poison");
        client.send(1, 1, 2, "what comes behind it");
    }
    for i in 0..60 {
        let mut newcomer = Client::open(server.addr(), &format!("newcomer{i}"));
        newcomer.send(0, 1, 0, format!("qos 0 of {i}"));
        newcomer.send(1, 1, 1, format!("qos 1 of {i}"));
        newcomer.expect(Command::Ack, 1);
    }
    for client in &mut poisoned {
        client.expect(Command::Ack, 1);
        client.expect(Command::Ack, 2);
    }
    let arrived = |what: &str| backend.messages().iter().filter(|request| request.text().starts_with(what)).count();
    assert_eq!((arrived("qos 0 of"), arrived("qos 1 of"), arrived("what comes")), (60, 60, 20));
    assert_eq!(arrived("poison"), 20 * 6);
    let samples = read(server.addr());
    assert_eq!((samples["rainbow_backend_poison_total"], samples["rainbow_backend_breaker_opened_total"]), (20.0, 0.0));
}

#[test]
fn connects_answered_500_shut_nobody_out() {
    let backend = Backend::start();
    backend.on_connect(|request| match request.header("x-deviceid") {
        Some("bad") => Reply::status(500, "bug"),
        _ => Reply::welcome(),
    });
    let server = Setup::of(&backend).set("workers", "1").start();
    for i in 0..60 {
        assert_eq!(Upgrade::of("bad").refused(server.addr()).status, 503);
        Client::open(server.addr(), &format!("newcomer{i}"));
    }
}

#[test]
fn what_refuses_clients_and_what_is_back_is_in_the_log() {
    let mut backend = Backend::start();
    backend.on_connect(|request| match request.header("x-deviceid") {
        Some("broken") => Reply::status(500, "bug"),
        _ => Reply::welcome(),
    });
    let server = Setup::of(&backend).set("workers", "1").set("breaker_cooldown", "0.1").start();
    for _ in 0..20 {
        assert_eq!(Upgrade::of("broken").refused(server.addr()).status, 503);
    }
    server.process.log.wait_for("the reason", TIMEOUT, |entry| entry.contains("the backend answered 500"));
    backend.stop();
    for _ in 0..10 {
        assert_eq!(Upgrade::of("phone").refused(server.addr()).status, 503);
    }
    server.process.log.wait_for("the outage", TIMEOUT, |entry| entry.contains("taken for down"));
    backend.restart();
    eventually("the backend is back", || Upgrade::of("phone").try_open(server.addr()).ok());
    server.process.log.wait_for("the return", TIMEOUT, |entry| entry.contains("is back"));
    let entries = |what: &str| server.log().lines().filter(|entry| entry.contains(what)).count();
    assert_eq!(entries("taken for down"), 1, "{}", server.log());
    assert_eq!(entries("refused with 503"), 1, "once a minute: {}", server.log());
}

#[test]
fn a_message_refused_for_good_goes_to_dead_letter_url() {
    let backend = Backend::start();
    backend.on_connect(|_| Reply::welcome().header("RAINBOWCLIENTCOOKIE", "Y29va2ll"));
    backend.on_message(|request| match request.path.split('/').nth(2) {
        Some("13") => Reply::status(500, "bug"),
        Some("14") => Reply::status(422, "no"),
        _ => Reply::ok(""),
    });
    let is_away = Arc::new(AtomicBool::new(true));
    let away = is_away.clone();
    backend.on("/dead/", move |_| if away.load(SeqCst) { Reply::status(503, "away") } else { Reply::ok("") });
    let server = Setup::of(&backend)
        .set("workers", "1")
        .set("forward_attempts_max", "3")
        .set("breaker_failures", "1")
        .set("retry_backoff_max", "0.2")
        .text("dead_letter_url", &backend.url("/dead/{message_type}/"))
        .start();
    let mut client = Client::open(server.addr(), "phone");
    for (id, (message_type, qos)) in [(13, 1), (14, 1), (13, 2), (13, 0), (1, 1)].into_iter().enumerate() {
        client.send(qos, message_type, id as u16 + 1, format!("message {id}"));
    }
    for (command, id) in [(Command::Ack, 1), (Command::Ack, 2), (Command::Rec, 3), (Command::Ack, 5)] {
        client.expect(command, id);
    }
    // Its URL fails, which opens its breaker alone.
    backend.wait_under("/dead/", 1);
    client.send(1, 1, 6, "on its way all the same");
    client.expect(Command::Ack, 6);
    is_away.store(false, SeqCst);
    let samples = eventually("both are taken", || {
        let samples = read(server.addr());
        (samples["rainbow_dead_letters_total"] == 2.0).then_some(samples)
    });
    assert_eq!((samples["rainbow_backend_poison_total"], samples["rainbow_dead_letters_lost_total"]), (2.0, 0.0));
    for text in ["message 0", "message 2"] {
        let of = |requests: Vec<Request>| requests.into_iter().rfind(|request| request.text() == text);
        let forwarded = of(backend.messages()).expect("forwarded");
        let dead_letter = of(backend.seen_under("/dead/13/")).expect("handed over");
        assert_eq!(dead_letter.method, "POST");
        for name in ["rainbowclientidentity", "rainbowclientcookie", "idempotency-key", "content-type"] {
            assert!(dead_letter.has_header(name), "{name}");
            assert_eq!(dead_letter.header(name), forwarded.header(name), "{name}");
        }
        let reason = ["rainbowmessagetype", "rainbowfailure", "rainbowattempts"].map(|name| dead_letter.header(name));
        assert_eq!(reason, [Some("13"), Some("500"), Some("3")]);
    }
    let log = &server.process.log;
    log.wait_for("the reason", TIMEOUT, |entry| entry.contains("refused for good") && entry.contains("500"));
}
