//! What each hook says beside its message: an id for the logs of both sides, and where the client is.

use crate::harness::backend::Request;
use crate::harness::{Backend, Client, Command, Reply, Setup, TIMEOUT, Upgrade};

const REPORTED: [&str; 5] =
    ["x-forwarded-for", "x-real-ip", "x-forwarded-proto", "rainbowclienthost", "rainbowclientorigin"];

fn request_id(request: &Request) -> String {
    let ids: Vec<_> = request.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("x-request-id")).collect();
    let [(_, id)] = ids[..] else { panic!("{ids:?} in {}", request.path) };
    id.clone()
}

/// A client of a trusted proxy's, which names its requests.
fn proxied(device: &str) -> Upgrade {
    Upgrade::of(device)
        .header("X-Forwarded-For", "203.0.113.9, 10.0.0.7")
        .header("X-Forwarded-Proto", "https")
        .header("X-Request-Id", "edge-42")
}

#[test]
fn each_hook_has_a_request_id_that_the_log_has_too() {
    let backend = Backend::start();
    let failures = std::sync::atomic::AtomicU32::new(1);
    backend.on_message(move |request| match request.text().as_str() {
        "poison" => Reply::status(500, ""),
        _ if failures.swap(0, std::sync::atomic::Ordering::Relaxed) > 0 => Reply::status(503, ""),
        _ => Reply::ok(""),
    });
    let setup = Setup::of(&backend).text("log", "info,rainbow=debug").set("trusted_proxies", r#"["127.0.0.1"]"#);
    let setup = setup.set("forward_attempts_max", "1").set("retry_backoff_max", "0.2");
    let server = setup.text("dead_letter_url", &backend.url("/dead/")).start();
    let mut client = proxied("phone").open(server.addr());
    assert_eq!(request_id(&backend.wait_under("/connect", 1)[0]), "edge-42");
    let identity = backend.identity_of("phone");
    let is_opening = |entry: &str| entry.contains("request_id=edge-42") && entry.contains(&identity);
    server.process.log.wait_for("the connect's id", TIMEOUT, is_opening);

    client.send(1, 1, 1, "tried twice");
    client.expect(Command::Ack, 1);
    client.send(1, 1, 2, "another");
    client.expect(Command::Ack, 2);
    let forwards: Vec<_> = backend.messages().iter().map(request_id).collect();
    assert!(forwards[0] == forwards[1] && forwards[1] != forwards[2], "{forwards:?}");

    client.send(1, 1, 3, "poison");
    let poisoned = request_id(&backend.wait_under("/message", 4)[3]);
    let is_refusal = |entry: &str| entry.contains("refused for good") && entry.contains(&poisoned);
    server.process.log.wait_for("the message's id", TIMEOUT, is_refusal);
    assert_ne!(request_id(&backend.wait_under("/dead", 1)[0]), poisoned);
    client.cut();
    assert_ne!(request_id(&backend.wait_under("/close", 1)[0]), "edge-42");
}

const TRACE_PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn trace_parents(request: &Request) -> Vec<&str> {
    let named = request.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("traceparent"));
    named.map(|(_, value)| value.as_str()).collect()
}

#[test]
fn the_trace_of_a_clients_connect_goes_with_each_of_its_hooks() {
    let backend = Backend::start();
    // In half of the cases, another worker owns the session.
    backend.on_connect(|request| {
        Reply::welcome().header("RAINBOWCLIENTSESSION", request.header("X-DEVICEID").unwrap_or_default())
    });
    let contents = format!("{}[store]\nkind = \"sqlite\"\n", Setup::of(&backend).text("log_format", "json").contents());
    let server = Setup::new().file("rainbow.toml", &contents).env("RAINBOW_LOG", "info,rainbow=debug").start();
    for n in 0..6 {
        let traced = Upgrade::of(&format!("phone {n}")).header("traceparent", TRACE_PARENT);
        let mut client = traced.open(server.addr());
        client.send(1, 1, 1, "hello");
        client.expect(Command::Ack, 1);
        client.cut();
        for hook in ["/connect", "/message", "/close"] {
            let request = backend.wait_under(hook, n + 1).remove(n);
            assert_eq!(trace_parents(&request), [TRACE_PARENT], "{}", request.path);
        }
    }
    let is_opening = |entry: &str| entry.contains("\"trace_id\":\"4bf92f3577b34da6a3ce929d0e0e4736\"");
    server.process.log.wait_for("the trace of a connect", TIMEOUT, is_opening);
    let mut forged = Upgrade::of("forger").header("traceparent", "00-zz-zz-01").open(server.addr());
    forged.send(1, 1, 1, "hello");
    forged.expect(Command::Ack, 1);
    for hook in ["/connect", "/message"] {
        assert!(trace_parents(&backend.wait_under(hook, 7).remove(6)).is_empty(), "{hook}");
    }
}

#[test]
fn a_stranger_does_not_name_our_requests() {
    let backend = Backend::start();
    let server = Setup::of(&backend).start();
    let _client = Upgrade::of("phone").header("X-Request-Id", "mine").open(server.addr());
    assert_ne!(request_id(&backend.wait_under("/connect", 1)[0]), "mine");
}

fn reported(request: &Request) -> [Option<&str>; 5] {
    REPORTED.map(|name| request.header(name))
}

#[test]
fn each_hook_says_where_its_client_is() {
    let backend = Backend::start();
    // In half of the cases, another worker owns the session.
    backend.on_connect(|request| {
        let device = request.header("X-DEVICEID").unwrap_or_default();
        Reply::welcome().header("RAINBOWCLIENTSESSION", device).header("RAINBOWCLIENTCOOKIE", "Y29va2ll")
    });
    let setup = Setup::of(&backend).set("trusted_proxies", r#"["127.0.0.1", "10.0.0.0/8"]"#);
    let server = setup.text("store.kind", "sqlite").set("workers", "2").start();
    const CLIENTS: usize = 12;
    let (host, origin) = (server.addr().to_string(), format!("http://{}", server.addr()));
    let open = |n| proxied(&format!("phone{n}")).header("Origin", &origin).open(server.addr());
    let mut clients: Vec<_> = (0..CLIENTS).map(open).collect();
    clients.iter_mut().for_each(|client| {
        client.send(1, 1, 1, "x");
        client.expect(Command::Ack, 1);
    });
    clients.into_iter().for_each(Client::cut);
    for path in ["/connect", "/message", "/close"] {
        for request in backend.wait_under(path, CLIENTS) {
            let expected = ["203.0.113.9, 10.0.0.7", "203.0.113.9", "https", &host, &origin].map(Some);
            assert_eq!(reported(&request), expected, "{path}");
            assert_eq!(request.cookie().is_some(), path != "/connect", "{path}");
        }
    }
    assert!(crate::harness::metrics::read(server.addr())["rainbow_handovers_total"] > 0.0, "some were handed over");
}

#[test]
fn a_close_after_a_connect_without_an_answer_says_where_the_client_was() {
    let backend = Backend::start();
    backend.on_connect(|_| Reply::hang());
    let server = Setup::of(&backend).set("connect_timeout", "0.3").set("trusted_proxies", r#"["127.0.0.1"]"#).start();
    assert_eq!(proxied("phone").refused(server.addr()).status, 503);
    assert_eq!(backend.wait_under("/close", 1)[0].header("x-real-ip"), Some("10.0.0.7"));
}
