//! Request heads that are too large, too slow, or not HTTP: refused, the connection closed, counted.

use std::time::{Duration, Instant};

use crate::harness::http::{self, Response, Wire};
use crate::harness::metrics::{Counted, counted, read, risen};
use crate::harness::{Backend, Client, Reply, Server, Setup, TIMEOUT, Upgrade};

fn started() -> (Backend, Server) {
    let backend = Backend::start();
    let server = Setup::of(&backend).start();
    (backend, server)
}

/// Sends bytes and returns the answer, after which the server must close.
fn answer_to(server: &Server, bytes: &[u8]) -> Response {
    let mut wire = Wire::connect(server.addr());
    wire.write(bytes);
    let deadline = Instant::now() + TIMEOUT;
    let response = wire.response(deadline).unwrap_or_else(|e| panic!("no answer to {:?}: {e}", text(bytes)));
    assert!(wire.ends_before(deadline), "still open after {} to {:?}", response.status, text(bytes));
    response
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned()
}

fn upgrade_with(line: &str) -> Vec<u8> {
    let head = Upgrade::of("phone").head("rainbow");
    head.replacen("\r\n", &format!("\r\n{line}\r\n"), 1).into_bytes()
}

#[test]
fn a_head_over_8_kib_is_431() {
    let (backend, server) = started();
    let long = upgrade_with(&format!("X-Long: {}", "x".repeat(8 * 1024)));
    let refusal = counted(server.addr(), Counted::BadRequest, || answer_to(&server, &long));
    assert_eq!(refusal.status, 431);
    // The line of the request counts too, whatever it is called then.
    let line = format!("GET /connect/?x={} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(9000));
    assert!(matches!(answer_to(&server, line.as_bytes()).status, 414 | 431));
    // And one that never ends is refused when it is over the limit, not at its end.
    let mut wire = Wire::connect(server.addr());
    wire.write(b"GET /connect/ HTTP/1.1\r\nX-Endless: ");
    wire.write(&vec![b'x'; 9000]);
    assert_eq!(wire.response(Instant::now() + TIMEOUT).expect("answered").status, 431);
    assert_eq!(backend.seen().len(), 0);
}

#[test]
fn a_head_just_under_8_kib_is_taken() {
    let (_backend, server) = started();
    let bare = Upgrade::of("phone").head("rainbow").len();
    let mut wire = Wire::connect(server.addr());
    wire.write(&upgrade_with(&format!("X-Long: {}", "x".repeat(8 * 1024 - bare - 32))));
    assert_eq!(wire.response(Instant::now() + TIMEOUT).expect("answered").status, 101);
}

#[test]
fn more_than_64_headers_are_431() {
    let (_backend, server) = started();
    let lines = |count: usize| (0..count).map(|i| format!("X-{i}: {i}")).collect::<Vec<_>>().join("\r\n");
    let own = Upgrade::of("phone").headers.len() + 1;
    let refusal = counted(server.addr(), Counted::BadRequest, || answer_to(&server, &upgrade_with(&lines(65 - own))));
    assert_eq!(refusal.status, 431);
    let mut wire = Wire::connect(server.addr());
    wire.write(&upgrade_with(&lines(64 - own)));
    assert_eq!(wire.response(Instant::now() + TIMEOUT).expect("answered").status, 101);
}

#[test]
fn a_head_that_is_not_complete_in_time_is_408() {
    let backend = Backend::start();
    let server = Setup::of(&backend).set("handshake_timeout", "0.5").set("first_byte_timeout", "0.5").start();
    let begun = Instant::now();
    let refusal =
        counted(server.addr(), Counted::BadRequest, || answer_to(&server, b"GET /connect/ HTTP/1.1\r\nHost: x\r\n"));
    assert_eq!(refusal.status, 408);
    assert!(begun.elapsed() >= Duration::from_millis(400));
}

#[test]
fn a_head_that_trickles_in_does_not_move_its_deadline() {
    let backend = Backend::start();
    let server = Setup::of(&backend).set("handshake_timeout", "0.6").start();
    let mut wire = Wire::connect(server.addr());
    let begun = Instant::now();
    wire.write(b"GET /connect/ HTTP/1.1\r\n");
    // A byte every 50 ms: the pace is the point, so this wait is not for anything.
    let ended = loop {
        if wire.ends_before(Instant::now() + Duration::from_millis(50)) {
            break true;
        }
        if begun.elapsed() > Duration::from_secs(5) {
            break false;
        }
        let _ = std::io::Write::write_all(&mut wire.stream, b"x");
    };
    assert!(ended, "a slow head was borne for {:?}", begun.elapsed());
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    let backend = Backend::start();
    let server = Setup::of(&backend).set("first_byte_timeout", "1").start();
    let mut wire = Wire::connect(server.addr());
    assert!(wire.ends_before(Instant::now() + TIMEOUT), "silence was borne");
    let mut survivor = Client::open(server.addr(), "phone");
    assert!(survivor.packet_within(Duration::from_millis(2500)).is_none());
    survivor.assert_open();
}

#[test]
fn the_end_of_a_silent_connection_hurts_nobody_else() {
    let backend = Backend::start();
    let server = Setup::of(&backend).set("first_byte_timeout", "1").set("workers", "1").start();
    // A descriptor that is closed is soon somebody else's: each newcomer gets the one of a connection just ended.
    let mut clients = Vec::new();
    for round in 0..3 {
        let silent: Vec<_> = (0..10).map(|_| Wire::connect(server.addr())).collect();
        for mut wire in silent {
            assert!(wire.ends_before(Instant::now() + TIMEOUT), "silence was borne");
            drop(wire);
            clients.push(Client::open(server.addr(), &format!("phone{round}")));
        }
    }
    for client in &mut clients {
        client.assert_open();
    }
    assert_eq!(backend.closes().len(), 0);
}

#[test]
fn heads_that_are_not_http_are_400() {
    let (backend, mut server) = started();
    let good = Upgrade::of("phone").head("rainbow");
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("bare line feeds", good.replace("\r\n", "\n").into_bytes()),
        ("one bare line feed", good.replacen("\r\nUpgrade", "\nUpgrade", 1).into_bytes()),
        ("a folded header", upgrade_with("X-Folded: one\r\n two")),
        ("a second Host", upgrade_with("Host: other")),
        ("no Host", good.replacen("Host: rainbow\r\n", "", 1).into_bytes()),
        ("a length and chunks", upgrade_with("Content-Length: 0\r\nTransfer-Encoding: chunked")),
        ("two lengths", upgrade_with("Content-Length: 0\r\nContent-Length: 5")),
        ("a body on the upgrade", [upgrade_with("Content-Length: 5"), b"hello".to_vec()].concat()),
        ("chunks on the upgrade", [upgrade_with("Transfer-Encoding: chunked"), b"0\r\n\r\n".to_vec()].concat()),
        ("space before the colon", upgrade_with("X-Space : x")),
        ("a header without a colon", upgrade_with("X-Nothing")),
        ("a zero byte in a header", upgrade_with("X-Zero: a\0b")),
        ("no version", b"GET /connect/\r\n\r\n".to_vec()),
        ("rubbish", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec()),
    ];
    let mut uncounted = Vec::new();
    for (name, bytes) in cases {
        let before = read(server.addr());
        assert_eq!(answer_to(&server, &bytes).status, 400, "{name}");
        if risen(&before, &read(server.addr()), Counted::BadRequest) != 1.0 {
            uncounted.push(name);
        }
    }
    assert_eq!(uncounted, [""; 0], "refused, but not counted");
    assert_eq!(backend.seen().len(), 0, "the backend was asked about a request that is none");
    server.assert_alive();
}

#[test]
fn a_call_with_two_lengths_or_length_and_chunks_is_400() {
    let (_backend, server) = started();
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: +5",
        "Content-Length: 5, 5x",
        "Transfer-Encoding: gzip, chunked, x",
    ] {
        let target = crate::harness::call::signed_target("/send/", &[("channel", "a"), ("qos", "0")]);
        let request = format!("POST {target} HTTP/1.1\r\nHost: x\r\n{lines}\r\n\r\nhello");
        let status = answer_to(&server, request.as_bytes()).status;
        assert!(status == 400 || status == 501 && lines.contains("gzip"), "{lines:?}: {status}");
    }
}

#[test]
fn a_head_may_come_byte_by_byte() {
    let (_backend, server) = started();
    let mut wire = Wire::connect(server.addr());
    for byte in Upgrade::of("phone").head("rainbow").bytes() {
        wire.write(&[byte]);
    }
    assert_eq!(wire.response(Instant::now() + TIMEOUT).expect("answered").status, 101);
}

#[test]
fn an_upgrade_that_is_none_is_refused() {
    let (backend, server) = started();
    let of = || Upgrade::of("phone");
    let cases = [
        ("no Upgrade", of().without("Upgrade"), &[400, 426][..]),
        ("another Upgrade", of().without("Upgrade").header("Upgrade", "h2c"), &[400, 426]),
        ("no Connection", of().without("Connection"), &[400, 426]),
        ("no key", of().without("Sec-WebSocket-Key"), &[400]),
        ("a short key", of().without("Sec-WebSocket-Key").header("Sec-WebSocket-Key", "c2hvcnQ="), &[400]),
        ("no version", of().without("Sec-WebSocket-Version"), &[400, 426]),
        ("version 8", of().without("Sec-WebSocket-Version").header("Sec-WebSocket-Version", "8"), &[400, 426]),
    ];
    for (name, upgrade, allowed) in cases {
        let status = upgrade.refused(server.addr()).status;
        assert!(allowed.contains(&status), "{name}: {status}");
    }
    // RFC 6455 4.4: the answer to an unknown version names the known one.
    let refusal = of().without("Sec-WebSocket-Version").header("Sec-WebSocket-Version", "8").refused(server.addr());
    assert_eq!(refusal.header("sec-websocket-version"), Some("13"));
    let post = http::request(server.addr(), "POST", "/connect/", &[], b"");
    assert!((400..500).contains(&post.status), "POST: {}", post.status);
    assert_eq!(backend.seen().len(), 0);
}

#[test]
fn the_words_of_an_upgrade_compare_without_case_and_in_lists() {
    let (_backend, server) = started();
    let upgrade = Upgrade::of("phone")
        .without("Upgrade")
        .header("UPGRADE", "WebSocket")
        .without("Connection")
        .header("connection", "keep-alive, upgrade");
    upgrade.open(server.addr()).assert_open();
}

#[test]
fn head_is_get_without_the_body() {
    let (_backend, server) = started();
    let mut wire = Wire::connect(server.addr());
    let host = server.addr();
    wire.write(
        format!("HEAD /hello/ HTTP/1.1\r\nHost: {host}\r\n\r\nGET /hello/ HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes(),
    );
    let expected = ["HTTP/1.1 200 OK", "HTTP/1.1 200 OK", "ok"];
    while !wire.buffer.ends_with(b"\r\n\r\nok") {
        let read = wire.fill(Instant::now() + TIMEOUT);
        assert!(read.as_ref().is_ok_and(|len| *len > 0), "{read:?} {}", String::from_utf8_lossy(&wire.buffer));
    }
    let text = String::from_utf8_lossy(&wire.buffer).into_owned();
    let seen: Vec<_> = text.split("\r\n").filter(|part| expected.contains(part)).collect();
    assert_eq!(seen, expected, "{text}");
    assert_eq!(text.matches("Content-Length: 2").count(), 2);
}

#[test]
fn a_caller_of_http_1_0_keeps_its_connection_when_it_asks_for_it() {
    let (_backend, server) = started();
    let mut wire = Wire::connect(server.addr());
    for _ in 0..3 {
        wire.write(b"GET /hello/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let response = wire.response(Instant::now() + TIMEOUT).expect("answered");
        assert_eq!((response.status, response.header("connection")), (200, Some("keep-alive")));
    }
    wire.write(b"GET /hello/ HTTP/1.0\r\n\r\n");
    let response = wire.response(Instant::now() + TIMEOUT).expect("answered");
    assert_eq!(response.header("connection"), Some("close"));
}

#[test]
fn an_upgrade_may_say_that_its_body_is_empty() {
    let (_backend, server) = started();
    Upgrade::of("phone").header("Content-Length", "0").open(server.addr()).assert_open();
    assert_eq!(Upgrade::of("phone").header("Content-Length", "1").refused(server.addr()).status, 400);
}

#[test]
fn a_backend_may_answer_with_many_and_long_headers() {
    let backend = Backend::start();
    backend
        .on_connect(|_| (0..200).fold(Reply::welcome(), |reply, n| reply.header(&format!("X-{n}"), &"v".repeat(200))));
    let server = Setup::of(&backend).start();
    Upgrade::of("phone").open(server.addr()).assert_open();
}
