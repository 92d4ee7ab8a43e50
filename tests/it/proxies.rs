//! Where a client is: its own address, or what a trusted proxy says, and nothing that the client says itself.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use crate::harness::call::{call, call_get, call_unsigned};
use crate::harness::front::{Front, Haproxy};
use crate::harness::http::{self, Wire};
use crate::harness::ports::{Port, free_port};
use crate::harness::{Backend, Client, Server, Setup, TIMEOUT, Upgrade};

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

/// A server that listens for clients behind a proxy, and for its operator.
struct Fronted {
    front: Front,
    _server: Server,
    backend: Backend,
    admin: SocketAddr,
    _admin_port: Port,
}

impl Fronted {
    fn new(front: impl FnOnce(SocketAddr) -> Front, proxy: &str, is_announced: bool) -> Fronted {
        let (backend, admin) = (Backend::start(), free_port());
        let admin_at = SocketAddr::from((Ipv4Addr::LOCALHOST, admin.number));
        let server = Setup::of(&backend)
            .set("trusted_proxies", &format!("[{proxy:?}]"))
            .set("proxy_protocol", if is_announced { "true" } else { "false" })
            .text("admin_listen", &admin_at.to_string())
            .spawn();
        server.process.log.wait_for("the start", TIMEOUT, |entry| entry.contains("listening"));
        Fronted { front: front(server.addr()), _server: server, backend, admin: admin_at, _admin_port: admin }
    }

    /// The proxy's client is this machine, whatever it claims itself.
    fn assert_client_is_known(&self) -> Client {
        let origin = format!("http://{}", self.front.addr);
        let upgrade = claiming("phone", "203.0.113.9").without("Origin").header("Origin", &origin);
        let mut client = upgrade.open(self.front.addr);
        client.send(0, 1, 1, "through the proxy");
        self.backend.wait_under("/message", 1);
        let [_, address, ..] = reported(&self.backend, "phone");
        assert_eq!(address.as_deref(), Some("127.0.0.1"));
        client
    }

    /// Even to whoever can sign.
    fn assert_only_clients_get_through(&self, client: &mut Client) {
        let kick = format!(r#"{{"identity": "{}"}}"#, self.backend.identity_of("phone"));
        for path in ["/info/", "/metrics", "/channel/", "/serverinfo/", "/updateconfig/"] {
            assert_eq!(call_get(self.front.addr, path, &[]).status, 404, "{path}");
        }
        for path in ["/updateconfig/", "/kick/"] {
            assert_eq!(call(self.front.addr, path, &[], &kick).status, 404, "{path}");
        }
        assert_eq!(http::get(self.front.addr, "/hello/").status, 200);
        client.assert_open();
        for path in ["/info/", "/metrics", "/channel/", "/serverinfo/"] {
            assert_eq!(http::get(self.admin, path).status, 200, "{path} for the operator");
        }
        assert_eq!(call_unsigned(self.admin, "/updateconfig/", &[], "").outcome(), 0);
        assert_eq!(call(self.admin, "/kick/", &[], &kick).outcome(), 0);
        client.expect_close();
    }
}

#[test]
fn behind_nginx_the_client_is_known_and_nothing_else_gets_through() {
    let fronted = Fronted::new(Front::nginx, Front::NGINX, false);
    let mut client = fronted.assert_client_is_known();
    fronted.assert_only_clients_get_through(&mut client);
}

#[test]
fn behind_haproxy_the_client_is_known_and_nothing_else_gets_through() {
    for how in [Haproxy::ForwardFor, Haproxy::SendProxy, Haproxy::SendProxyV2] {
        println!("{how:?}");
        let is_announced = !matches!(how, Haproxy::ForwardFor);
        let fronted = Fronted::new(|to| Front::haproxy(to, how), Front::HAPROXY, is_announced);
        let mut client = fronted.assert_client_is_known();
        fronted.assert_only_clients_get_through(&mut client);
    }
}

/// One listener for all: what comes through a proxy comes from its address, which is loopback.
#[test]
fn without_an_admin_listener_a_proxy_lets_through_what_is_signed_alone() {
    let (_backend, server) = behind(&format!("[{:?}, {:?}]", Front::NGINX, Front::HAPROXY));
    let fronts = [Haproxy::ForwardFor, Haproxy::Bytes].map(|how| Front::haproxy(server.addr(), how));
    for front in fronts.into_iter().chain([Front::nginx(server.addr())]) {
        for path in ["/info/", "/metrics", "/channel/", "/updateconfig/"] {
            assert_eq!(http::get(front.addr, path).status, 401, "{path}");
            assert_eq!(call_get(front.addr, path, &[]).status, 200, "{path}, signed");
        }
        for path in ["/kick/", "/send/", "/updateconfig/"] {
            assert!(call_unsigned(front.addr, path, &[("channel", "a")], "{}").is_refusal(), "{path}");
        }
    }
}

/// What comes through a proxy that says nothing of itself comes from this machine, as far as anybody can tell.
#[test]
fn where_no_secret_is_set_only_the_operators_listener_takes_calls() {
    let server = Setup::new().text("security_token", "").start();
    let front = Front::haproxy(server.addr(), Haproxy::Bytes);
    for at in [front.addr, server.addr()] {
        for path in ["/info/", "/metrics", "/channel/"] {
            assert_eq!(http::get(at, path).status, 401, "{path}");
        }
        for path in ["/updateconfig/", "/kick/", "/send/"] {
            let answer = call_unsigned(at, path, &[("channel", "a"), ("qos", "0")], "{}");
            assert!(answer.is_refusal() && answer.text().contains("admin_listen"), "{path}: {}", answer.text());
        }
        for path in ["/hello/", "/livez", "/readyz"] {
            assert_eq!(http::get(at, path).status, 200, "{path}");
        }
    }
    let operator = server.admin_addr();
    assert!(operator.ip().is_loopback());
    for path in ["/info/", "/metrics", "/channel/", "/serverinfo/"] {
        assert_eq!(http::get(operator, path).status, 200, "{path}");
    }
    for path in ["/updateconfig/", "/send/"] {
        let answer = call_unsigned(operator, path, &[("channel", "a"), ("qos", "0")], "x");
        assert_eq!(answer.outcome(), 0, "{path}: {}", answer.text());
    }
}

/// Two servers on one machine: the port of the second one is in its log.
#[test]
fn each_server_without_a_secret_has_an_operators_listener() {
    let servers = [0, 1].map(|_| Setup::new().text("security_token", "").start());
    assert_ne!(servers[0].admin_addr(), servers[1].admin_addr());
    servers.iter().for_each(|server| assert_eq!(http::get(server.admin_addr(), "/info/").status, 200));
}

#[test]
fn a_secret_that_a_reload_sets_opens_the_one_listener_to_whoever_knows_it() {
    let setup = || Setup::new().text("security_token", "");
    let server = setup().start();
    assert!(call(server.addr(), "/send/", &[("channel", "a"), ("qos", "0")], "x").is_refusal());
    server.rewrite(&Setup::new().contents());
    assert_eq!(call_unsigned(server.admin_addr(), "/updateconfig/", &[], "").outcome(), 0);
    assert_eq!(call(server.addr(), "/send/", &[("channel", "a"), ("qos", "0")], "x").outcome(), 0);
    assert!(call_unsigned(server.admin_addr(), "/send/", &[("channel", "a")], "x").is_refusal(), "a secret is set");
}
