//! Where a client is: its own address, or what a trusted proxy says, and nothing that the client says itself.

use std::io::ErrorKind;
use std::time::Instant;

use crate::harness::http::Wire;
use crate::harness::{Backend, Server, Setup, TIMEOUT, Upgrade};

fn behind(trusted: &str) -> (Backend, Server) {
    let backend = Backend::start();
    let server = Setup::of(&backend).set("trusted_proxies", trusted).set("connections_per_address", "1").start();
    (backend, server)
}

fn claiming(device: &str, address: &str) -> Upgrade {
    Upgrade::of(device)
        .header("X-Forwarded-For", address)
        .header("X-Real-IP", address)
        .header("X_Real_IP", address)
        .header("Forwarded", &format!("for={address}"))
        .header("X-Forwarded-Proto", "https")
        .header("Origin", "http://127.0.0.1:8000")
}

/// What the backend hears of a device's client.
fn reported(backend: &Backend, device: &str) -> [Option<String>; 5] {
    backend.identity_of(device);
    let connects = backend.connects();
    let connect = connects.iter().rfind(|connect| connect.header("x-deviceid") == Some(device)).expect("it was asked");
    assert!(!connect.has_header("forwarded") && !connect.has_header("x_real_ip"), "nothing of the client's own");
    let names = ["x-forwarded-for", "x-real-ip", "x-forwarded-proto", "rainbowclienthost", "rainbowclientorigin"];
    names.map(|name| connect.header(name).map(String::from))
}

fn some(values: [&str; 5]) -> [Option<String>; 5] {
    values.map(|value| Some(value.to_owned()))
}

#[test]
fn a_client_is_not_believed_about_its_address() {
    let (backend, server) = behind("[]");
    let _client = claiming("liar", "203.0.113.9").open(server.addr());
    let host = server.addr().to_string();
    assert_eq!(reported(&backend, "liar"), some(["127.0.0.1", "127.0.0.1", "http", &host, "http://127.0.0.1:8000"]));
    assert_eq!(claiming("another", "203.0.113.10").refused(server.addr()).status, 429, "it is the same address");
}

#[test]
fn a_trusted_proxy_is_believed_about_its_client() {
    let (backend, server) = behind(r#"["127.0.0.0/8", "10.0.0.0/8"]"#);
    let _client = claiming("one", "1.2.3.4, 203.0.113.9, 10.1.1.1").open(server.addr());
    let host = server.addr().to_string();
    assert_eq!(
        reported(&backend, "one"),
        some(["203.0.113.9, 10.1.1.1", "203.0.113.9", "https", &host, "http://127.0.0.1:8000"])
    );
    assert_eq!(claiming("two", "203.0.113.9").refused(server.addr()).status, 429);
    let _other = claiming("three", "203.0.113.10").open(server.addr());
}

/// Listens for one proxy.
fn proxied(backend: &Backend, trusted: &str) -> Server {
    let server = Setup::of(backend).set("trusted_proxies", trusted).set("proxy_protocol", "true").spawn();
    server.process.log.wait_for("the start", TIMEOUT, |entry| entry.contains("listening"));
    server
}

#[test]
fn a_proxy_header_names_the_client() {
    let backend = Backend::start();
    let server = proxied(&backend, r#"["127.0.0.1"]"#);
    let v1 = b"PROXY TCP4 203.0.113.9 198.51.100.1 4711 443\r\n".to_vec();
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    v2.extend([203, 0, 113, 10, 198, 51, 100, 1, 1, 2, 3, 4]);
    for (device, header, address) in [("v1", v1, "203.0.113.9"), ("v2", v2, "203.0.113.10")] {
        let mut wire = Wire::connect(server.addr());
        wire.write(&header);
        let mut client = Upgrade::of(device).try_open_on(wire).expect("let in");
        client.send(0, 1, 0, "x");
        assert_eq!(reported(&backend, device)[1].as_deref(), Some(address));
    }
}

fn assert_closed(server: &Server, bytes: &[u8]) {
    let mut wire = Wire::connect(server.addr());
    wire.write(bytes);
    let end = wire.fill(Instant::now() + TIMEOUT);
    let is_closed = end.as_ref().map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |len| *len == 0);
    assert!(is_closed, "{end:?} {:?}", wire.buffer);
}

#[test]
fn without_its_header_or_from_elsewhere_a_connection_is_closed() {
    let backend = Backend::start();
    let server = proxied(&backend, r#"["127.0.0.1"]"#);
    assert_closed(&server, b"GET /hello/ HTTP/1.1\r\nHost: x\r\n\r\n");
    let server = proxied(&backend, r#"["192.0.2.1"]"#);
    assert_closed(&server, b"PROXY TCP4 203.0.113.9 198.51.100.1 4711 443\r\n");
    assert_eq!(backend.connects().len(), 0);
}

#[test]
fn proxy_protocol_without_proxies_is_refused() {
    let outcome = Setup::new().set("proxy_protocol", "true").refused();
    assert!(outcome.text.contains("trusted_proxies"), "{}", outcome.text);
}
