//! What somebody costs who is neither a client nor a caller: connections before the upgrade and bodies are bounded.

use std::time::{Duration, Instant};

use crate::harness::call::signed_target;
use crate::harness::http::{self, Wire};
use crate::harness::metrics::read;
use crate::harness::{Backend, Client, Server, Setup, TIMEOUT, Upgrade, eventually};

/// A connection that has shown nothing of itself but its patience: it is answered, and stays.
fn stranger(server: &Server) -> Option<Wire> {
    let mut wire = Wire::connect(server.addr());
    greet(&mut wire).then_some(wire)
}

fn greet(wire: &mut Wire) -> bool {
    let written = std::io::Write::write_all(&mut wire.stream, b"GET /hello/ HTTP/1.1\r\nHost: x\r\n\r\n");
    written.is_ok() && wire.response(Instant::now() + TIMEOUT).is_ok_and(|response| response.status == 200)
}

/// So many strangers are in; another one that has just gone may have to be waited for.
fn strangers(server: &Server, count: usize) -> Vec<Wire> {
    (0..count).map(|_| eventually("a place for a stranger", || stranger(server))).collect()
}

/// What a connection hears that is refused before it has said anything.
fn refused_at_accept(server: &Server) -> (u16, Option<String>) {
    let mut wire = Wire::connect(server.addr());
    let refusal = wire.response(Instant::now() + TIMEOUT).expect("refused without a request");
    assert!(wire.ends_before(Instant::now() + TIMEOUT), "and closed");
    (refusal.status, refusal.header("retry-after").map(String::from))
}

fn retry_in_two_seconds(status: u16) -> (u16, Option<String>) {
    (status, Some("2".into()))
}

/// A figure, as soon as there is a place for whoever asks.
fn figure(server: &Server, name: &str) -> f64 {
    let text = eventually("a place for a scrape", || {
        let mut wire = Wire::connect(server.addr());
        let request = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", signed_target("/metrics", &[]));
        std::io::Write::write_all(&mut wire.stream, request.as_bytes()).ok()?;
        let response = wire.response(Instant::now() + TIMEOUT).ok()?;
        (response.status == 200).then(|| response.text())
    });
    let sample = text.lines().find(|entry| entry.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    sample.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
}

#[test]
fn connections_before_the_upgrade_are_bounded_in_all() {
    let backend = Backend::start();
    let server = Setup::of(&backend).set("handshakes_max", "4").start();
    // A client is counted as a client, and no longer as one that may become one.
    let mut clients: Vec<Client> = (0..6).map(|n| Client::open(server.addr(), &format!("phone{n}"))).collect();
    let mut strangers = strangers(&server, 4);
    assert_eq!(refused_at_accept(&server), retry_in_two_seconds(503));
    let log = &server.process.log;
    log.wait_for("the refusal", TIMEOUT, |entry| entry.contains("handshakes_max") && entry.contains("127.0.0.1"));
    clients.iter_mut().for_each(Client::assert_open);
    assert!(strangers.iter_mut().all(greet), "those who were first stay");
    strangers.truncate(1);
    eventually("places are free again", || Upgrade::of("next").try_open(server.addr()).ok());
    assert!(figure(&server, "rainbow_connections_refused_total{reason=\"handshakes\"}") >= 1.0);
}

#[test]
fn connections_before_the_upgrade_are_bounded_per_address() {
    let server = Setup::new().set("handshakes_per_address", "2").start();
    let strangers = strangers(&server, 2);
    assert_eq!(refused_at_accept(&server), retry_in_two_seconds(429));
    let log = &server.process.log;
    log.wait_for("the refusal", TIMEOUT, |entry| {
        entry.contains("handshakes_per_address") && entry.contains("127.0.0.1")
    });
    drop(strangers);
    assert!(figure(&server, "rainbow_connections_refused_total{reason=\"handshakes_address\"}") >= 1.0);
}

#[test]
fn an_address_of_a_proxy_is_not_limited_but_one_that_it_names_is() {
    let trusted = |setup: Setup| setup.set("trusted_proxies", r#"["127.0.0.1"]"#).set("handshakes_per_address", "1");
    let server = trusted(Setup::new()).start();
    assert_eq!(strangers(&server, 5).len(), 5);
    let server = trusted(Setup::new()).set("proxy_protocol", "true").spawn();
    server.process.log.wait_for("the start", TIMEOUT, |entry| entry.contains("listening"));
    let named = |source: &str| {
        let mut wire = Wire::connect(server.addr());
        wire.write(format!("PROXY TCP4 {source} 198.51.100.1 4711 443\r\n").as_bytes());
        wire.write(b"GET /hello/ HTTP/1.1\r\nHost: x\r\n\r\n");
        let response = wire.response(Instant::now() + TIMEOUT).expect("an answer");
        (response.status, wire)
    };
    let first = named("203.0.113.9");
    let other = named("203.0.113.10");
    assert_eq!((first.0, other.0, named("203.0.113.9").0), (200, 200, 429));
}

#[test]
fn a_thousand_idle_strangers_do_not_keep_a_client_out_for_ever() {
    let backend = Backend::start();
    let server = Setup::of(&backend).set("handshakes_max", "100").set("first_byte_timeout", "1").start();
    let mut strangers: Vec<Wire> = (0..1000).map(|_| Wire::connect(server.addr())).collect();
    let begun = Instant::now();
    let mut client = eventually("a place for a client", || Upgrade::of("honest").try_open(server.addr()).ok());
    // Without new strangers the places are free again after first_byte_timeout.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    client.assert_open();
    assert!(strangers.iter_mut().all(|wire| wire.ends_before(Instant::now() + TIMEOUT)), "somebody is still in");
    assert!(figure(&server, "rainbow_connections_refused_total{reason=\"handshakes\"}") >= 800.0);
}

#[test]
fn a_reload_changes_the_limit() {
    let setup = |max: &str| Setup::new().set("handshakes_max", max);
    let server = setup("100").start();
    let _strangers = strangers(&server, 3);
    server.rewrite(&setup("3").contents());
    server.process.signal("HUP");
    server.process.log.wait_for("the reload", TIMEOUT, |entry| entry.contains("changed handshakes_max"));
    // Those that are in stay in, and nobody else comes in.
    assert_eq!(refused_at_accept(&server), retry_in_two_seconds(503));
    server.rewrite(&setup("100").contents());
    server.process.signal("HUP");
    eventually("there is room again", || stranger(&server));
}

#[test]
fn strangers_do_not_keep_the_operator_out() {
    let admin = crate::harness::ports::free_port();
    let setup = Setup::new().set("handshakes_max", "2").text("admin_listen", &format!("127.0.0.1:{}", admin.number));
    let server = setup.start();
    let _strangers = strangers(&server, 2);
    assert_eq!(refused_at_accept(&server).0, 503);
    let operator = ([127, 0, 0, 1], admin.number).into();
    assert_eq!(http::get(operator, "/livez").status, 200);
}

#[test]
fn a_caller_with_a_valid_call_takes_no_place_of_strangers() {
    let server = Setup::new().set("handshakes_max", "1").start();
    let call = |target: &str| {
        let mut wire = Wire::connect(server.addr());
        let request = format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx");
        std::io::Write::write_all(&mut wire.stream, request.as_bytes()).ok()?;
        let response = wire.response(Instant::now() + TIMEOUT).ok()?;
        (response.status == 200).then(|| (response.json()["status"].clone(), wire))
    };
    let parameters = [("channel", "all"), ("qos", "0")];
    let callers: Vec<_> = (0..3)
        .map(|_| eventually("the last one has shown its signature", || call(&signed_target("/send/", &parameters))))
        .collect();
    assert!(callers.iter().all(|(status, _)| *status == 0));
    // One that cannot sign takes the place, and keeps it.
    let (status, _unsigned) = eventually("a place", || call("/send/?channel=all&qos=0"));
    assert_eq!(status, 1);
    assert_eq!(refused_at_accept(&server).0, 503);
}

#[test]
fn bodies_of_all_callers_together_are_bounded() {
    let backend = Backend::start();
    let setup = Setup::of(&backend).set("workers", "1").set("api_body_max", "100000");
    let server = setup.set("bodies_bytes_max", "250000").start();
    let begin = || {
        let mut wire = Wire::connect(server.addr());
        let target = signed_target("/send/", &[("channel", "all"), ("qos", "0")]);
        let head =
            format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\nExpect: 100-continue\r\n\r\n");
        wire.write(head.as_bytes());
        let status = wire.response(Instant::now() + TIMEOUT).expect("an answer to the head");
        (wire, status)
    };
    let mut callers: Vec<_> = (0..2).map(|_| begin()).collect();
    assert!(callers.iter().all(|(_, response)| response.status == 100));
    let (_, refused) = begin();
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("2")));
    assert_eq!(read(server.addr())["rainbow_calls_refused_total{reason=\"bodies\"}"], 1.0);
    let (wire, _) = &mut callers[0];
    wire.write(&[b'x'; 100_000]);
    assert_eq!(wire.response(Instant::now() + TIMEOUT).expect("carried out").status, 200);
    assert_eq!(begin().1.status, 100, "the room is free again");
    // A caller that goes in the middle of its body gives its room back.
    callers.clear();
    let (_, next) = eventually("the room is free", || Some(begin()).filter(|(_, response)| response.status == 100));
    assert_eq!(next.status, 100);
}
