//! Who is let in, the hook that the business server gets, and what its answer does to the connection.

use std::time::Duration;

use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;

use crate::harness::backend::Request;
use crate::harness::call::{call_get, send_later, signature_2014};
use crate::harness::client::ACCEPT;
use crate::harness::http::percent;
use crate::harness::{Backend, Client, Command, Reply, Server, Setup, TOKEN, Upgrade, call, eventually, send};

/// How the business server fails to answer.
type Failure = fn() -> Reply;

/// How a connection ends.
type End = fn(Client, &Server, &Backend);

fn started() -> (Backend, Server) {
    let backend = Backend::start();
    let server = Setup::of(&backend).start();
    (backend, server)
}

#[test]
fn device_and_platform_in_headers_let_a_client_in() {
    let (_backend, server) = started();
    let mut client = Upgrade::of("phone").open(server.addr());
    assert_eq!(client.response.header("sec-websocket-accept"), Some(ACCEPT));
    assert!(client.response.header("upgrade").is_some_and(|v| v.eq_ignore_ascii_case("websocket")));
    assert!(client.response.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("upgrade")));
    client.assert_open();
}

#[test]
fn every_spelling_of_device_and_platform_lets_a_client_in() {
    let (backend, server) = started();
    let spellings = [
        Upgrade::bare().header("x-deviceid", "lower").header("x-client-os", "test"),
        Upgrade::bare().header("X_DEVICEID", "score").header("X_CLIENT_OS", "test"),
        Upgrade::bare().query("X-DEVICEID", "query").query("X-CLIENT-OS", "test"),
        Upgrade::bare().query("X_DEVICEID", "qscore").query("X_CLIENT_OS", "test"),
        Upgrade::bare().header("X-DEVICEID", "mixed").query("X-CLIENT-OS", "test"),
    ];
    for (upgrade, device) in spellings.iter().zip(["lower", "score", "query", "qscore", "mixed"]) {
        upgrade.open(server.addr()).assert_open();
        let hook = backend.wait(device, 1, |r| r.header("X-DEVICEID") == Some(device));
        assert_eq!(hook[0].header("X-CLIENT-OS"), Some("test"), "platform of {device}");
    }
}

#[test]
fn a_client_without_device_or_platform_gets_401_and_nobody_is_asked() {
    let (backend, server) = started();
    for name in ["X-DEVICEID", "X-CLIENT-OS"] {
        let refusal = Upgrade::of("phone").without(name).refused(server.addr());
        assert_eq!(refusal.status, 401, "without {name}");
    }
    assert_eq!(Upgrade::bare().refused(server.addr()).status, 401);
    assert_eq!(backend.seen().len(), 0, "the business server got a hook for a client that is refused anyway");
}

#[test]
fn the_path_may_lack_its_trailing_slash() {
    let (_backend, server) = started();
    Upgrade::of("phone").path("/connect").open(server.addr()).assert_open();
}

#[test]
fn the_backend_is_asked_with_query_signature_and_identity() {
    let (backend, server) = started();
    let _client = Upgrade::of("phone").query("room", "a b&c").query("X-TOKEN", "t=1").open(server.addr());
    let hook = backend.connects().remove(0);
    assert_eq!((hook.method.as_str(), hook.path.as_str()), ("GET", "/connect/"));
    assert_eq!(hook.param("room").as_deref(), Some("a b&c"));
    assert_eq!(hook.param("X-TOKEN").as_deref(), Some("t=1"));
    assert_signed(&hook);
    assert_identity(&hook);
    assert_eq!(hook.header("X-DEVICEID"), Some("phone"));
    assert_eq!(hook.header("X-CLIENT-OS"), Some("test"));
    assert_eq!(hook.cookie(), None, "nobody has set a cookie");
}

#[test]
fn query_parameters_join_a_connect_url_that_has_a_query() {
    let backend = Backend::start();
    let url = backend.url("/connect/?app=7");
    let server = Setup::of(&backend).text("connect_url", &url).start();
    let _client = Upgrade::of("phone").query("room", "x").open(server.addr());
    let hook = backend.connects().remove(0);
    assert_eq!(hook.query.matches('?').count(), 0, "{}", hook.query);
    assert_eq!(hook.param("app").as_deref(), Some("7"));
    assert_eq!(hook.param("room").as_deref(), Some("x"));
    assert_signed(&hook);
}

#[test]
fn a_client_cannot_sign_for_the_server() {
    let (backend, server) = started();
    let smuggled = Upgrade::of("phone").query("timestamp", "1").query("nonce", "2").query("signature", "feed");
    // Refusing such a client is as good as dropping what it brings; a signature that the backend cannot trust is not.
    let Ok(_client) = smuggled.try_open(server.addr()) else { return };
    let hook = backend.connects().remove(0);
    let last = |name: &str| {
        let pairs = hook.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).next_back().unwrap_or_default()
    };
    // Django and most others take the last of several values.
    assert_eq!(last("signature"), signature_2014(TOKEN, &last("timestamp"), &last("nonce")), "{}", hook.query);
}

#[test]
fn headers_of_the_client_are_handed_on_except_those_of_the_hop() {
    let (backend, server) = started();
    let upgrade = Upgrade::of("phone")
        .without("Connection")
        .header("Connection", "Upgrade, X-Hop")
        .header("X-Hop", "named by Connection")
        .header("Keep-Alive", "timeout=5")
        .header("Proxy-Connection", "keep-alive")
        .header("TE", "trailers")
        .header("Trailer", "X-End")
        .header("Origin", "http://127.0.0.1:8000")
        .header("Sec-WebSocket-Extensions", "permessage-deflate")
        .header("Cookie", "sessionid=1234")
        .header("User-Agent", "Rainbow/iOS")
        .header("X-App-Version", "2.0");
    let _client = upgrade.open(server.addr());
    let hook = backend.connects().remove(0);
    assert_eq!(hook.header("Cookie"), Some("sessionid=1234"));
    assert_eq!(hook.header("User-Agent"), Some("Rainbow/iOS"));
    assert_eq!(hook.header("X-App-Version"), Some("2.0"));
    let dropped = ["Upgrade", "Origin", "X-Hop", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding"];
    for name in dropped {
        assert!(!hook.has_header(name), "{name} was handed on: {:?}", hook.headers);
    }
    assert_ne!(hook.header("Keep-Alive"), Some("timeout=5"));
    assert_ne!(hook.header("Connection"), Some("Upgrade, X-Hop"));
    let web_socket = hook.headers.iter().find(|(n, _)| n.to_ascii_lowercase().starts_with("sec-websocket-"));
    assert_eq!(web_socket, None);
    let host = format!("127.0.0.1:{}", backend.port());
    assert_eq!(hook.header("Host"), Some(host.as_str()), "the host named is the backend");
}

#[test]
fn rainbow_headers_of_a_client_are_dropped() {
    let (backend, server) = started();
    let upgrade = Upgrade::of("phone")
        .header("RAINBOWCLIENTIDENTITY", "f00d")
        .header("rainbowclientcookie", "c3RvbGVu")
        .header("Rainbow-Admin", "1")
        .header("RAINBOW_CLIENT_COOKIE", "x");
    let _client = upgrade.open(server.addr());
    let hook = backend.connects().remove(0);
    let of_rainbow: Vec<_> =
        hook.headers.iter().filter(|(n, _)| n.to_ascii_uppercase().starts_with("RAINBOW")).collect();
    let names: Vec<_> = of_rainbow.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["RAINBOWCLIENTIDENTITY", "RAINBOWCLIENTHOST"], "only what Rainbow says itself");
    assert_identity(&hook);
    assert_ne!(hook.identity(), Some("f00d"));
}

#[test]
fn a_header_of_a_client_cannot_split_the_request_to_the_backend() {
    let (backend, server) = started();
    let upgrade = Upgrade::bare().query("X-DEVICEID", "a\r\nRAINBOWCLIENTCOOKIE: eA==").query("X-CLIENT-OS", "test");
    let opened = upgrade.try_open(server.addr());
    let forged = backend.connects().iter().any(|r| r.has_header("RAINBOWCLIENTCOOKIE"));
    assert!(!forged, "a device id with a line end made a header");
    if let Err(refusal) = opened {
        assert!((400..500).contains(&refusal.status), "{}", refusal.status);
    }
}

#[test]
fn identities_are_unique_per_connection() {
    let (backend, server) = started();
    let clients: Vec<_> = (0..20).map(|_| Client::open(server.addr(), "same")).collect();
    let mut identities: Vec<_> = backend.connects().iter().map(|r| r.identity().expect("named").to_owned()).collect();
    identities.sort();
    identities.dedup();
    assert_eq!(identities.len(), clients.len());
}

#[test]
fn a_client_that_the_backend_refuses_gets_401() {
    let (backend, server) = started();
    for body in [r#"{"status": "failed"}"#, r#"{"status": 0}"#, r#"{"status": "SUCCESS"}"#] {
        backend.on_connect(move |_| Reply::ok(body));
        assert_eq!(Upgrade::of("phone").refused(server.addr()).status, 401, "after {body}");
    }
    for status in [401, 403] {
        backend.on_connect(move |_| Reply::status(status, r#"{"reason": "the trial is over"}"#));
        let refusal = Upgrade::of("phone").refused(server.addr());
        assert_eq!((refusal.status, refusal.text()), (401, "the trial is over\n".into()), "after {status}");
    }
}

#[test]
fn a_backend_that_fails_to_answer_gives_503_with_retry_after() {
    let backend = Backend::start();
    // The breaker would answer in the backend's place; it has tests of its own.
    let server = Setup::of(&backend).set("connect_timeout", "0.3").set("breaker_failures", "1000").start();
    let failures: [(&str, Failure); 6] = [
        ("an error status", || Reply::status(500, r#"{"status": "success"}"#)),
        ("another status", || Reply::status(404, r#"{"status": "success"}"#)),
        ("no JSON", || Reply::ok("<html>success</html>")),
        ("no answer in time", Reply::hang),
        ("a reset", Reply::reset),
        ("no HTTP", || Reply::raw("+OK POP3 ready\r\n\r\n")),
    ];
    for (name, failure) in failures {
        backend.on_connect(move |_| failure());
        let refusal = Upgrade::of("phone").refused(server.addr());
        assert_eq!(refusal.status, 503, "{name}");
        let retry_after = refusal.header("retry-after").unwrap_or_else(|| panic!("no Retry-After after {name}"));
        assert!(retry_after.parse::<u32>().is_ok_and(|s| s > 0), "Retry-After: {retry_after}");
    }
    backend.on_connect(|_| Reply::welcome());
    Client::open(server.addr(), "phone").assert_open();
}

#[test]
fn a_backend_that_is_away_gives_503_with_retry_after() {
    let (mut backend, server) = started();
    backend.stop();
    let refusal = Upgrade::of("phone").refused(server.addr());
    assert_eq!(refusal.status, 503);
    assert!(refusal.header("retry-after").is_some());
    backend.restart();
    eventually("the backend gets a hook again", || Upgrade::of("phone").try_open(server.addr()).ok());
}

#[test]
fn without_a_connect_url_everybody_is_let_in() {
    let server = Setup::new().start();
    Client::open(server.addr(), "phone").assert_open();
}

#[test]
fn the_connect_answer_subscribes_to_every_channel_it_names() {
    let (backend, server) = started();
    backend.on_connect(|_| Reply::welcome().header("RAINBOWCLIENTCHANNEL", "a;;b"));
    let mut client = Client::open(server.addr(), "phone");
    for channel in ["a", "b"] {
        assert_eq!(send(server.addr(), channel, &[("qos", "0")], channel)["status"], 0);
        assert_eq!(client.expect_send().text(), channel);
    }
}

#[test]
fn unsubscribing_comes_first() {
    let (backend, server) = started();
    backend.on_connect(|_| {
        Reply::welcome().header("RAINBOWCLIENTCHANNEL", "a;;b").header("RAINBOWCLIENTCHANNELUNSUB", "a;;c")
    });
    let mut client = Client::open(server.addr(), "phone");
    send(server.addr(), "a", &[("qos", "0")], "still in a");
    assert_eq!(client.expect_send().text(), "still in a");
}

#[test]
fn the_cookie_is_kept_and_sent_back_with_every_later_call() {
    let (backend, server) = started();
    backend.on_connect(|_| Reply::welcome().header("RAINBOWCLIENTCOOKIE", "Zmlyc3Q="));
    backend.on_message(|r| match r.text().as_str() {
        "change" => Reply::ok("").header("RAINBOWCLIENTCOOKIE", "c2Vjb25k"),
        _ => Reply::ok(""),
    });
    let mut client = Client::open(server.addr(), "phone");
    for (id, body) in [(1, "see"), (2, "change"), (3, "see again")] {
        client.send(1, 1, id, body);
        client.expect(Command::Ack, id);
    }
    client.leave();
    let cookies: Vec<_> = backend.messages().iter().map(|r| r.cookie().map(str::to_owned)).collect();
    assert_eq!(cookies, [Some("Zmlyc3Q=".into()), Some("Zmlyc3Q=".into()), Some("c2Vjb25k".into())]);
    assert_eq!(backend.wait_under("/close", 1)[0].cookie(), Some("c2Vjb25k"));
}

#[test]
fn the_close_hook_hears_every_kind_of_end() {
    let backend = Backend::start();
    let server =
        Setup::of(&backend).set("pong_timeout", "0.3").set("ping_interval", "0.3").set("close_timeout", "0.2").start();
    backend.on_connect(|r| {
        let cookie = r.header("X-DEVICEID").unwrap_or_default().to_owned();
        Reply::welcome().header("RAINBOWCLIENTCOOKIE", &cookie)
    });
    let ends: [(&str, End); 6] = [
        ("handshake", |c, _, _| c.leave()),
        ("fin", |c, _, _| drop(c)),
        ("reset", |c, _, _| c.cut()),
        ("violation", |mut c, _, _| c.raw(&[0xff; 16])),
        ("kicked", |_c, server, backend| {
            let body = format!(r#"{{"identity": "{}"}}"#, backend.identity_of("kicked"));
            assert_eq!(call(server.addr(), "/kick/", &[], body).outcome(), 0);
        }),
        ("silence", |mut c, _, _| {
            // It reads, but it never answers a ping.
            c.answers_pings = false;
            while c.next_within(Duration::from_secs(5)).is_ok() {}
        }),
    ];
    for (device, end) in ends {
        let client = Client::open(server.addr(), device);
        let identity = backend.identity_of(device);
        end(client, &server, &backend);
        let heard = backend.wait(device, 1, |r| r.path.starts_with("/close") && r.cookie() == Some(device));
        assert_eq!(heard[0].method, "GET");
        assert_eq!(heard[0].identity(), Some(identity.as_str()), "{device}");
        assert_signed(&heard[0]);
    }
    assert_eq!(backend.closes().len(), ends.len(), "each end is told once");
}

#[test]
fn a_client_that_is_gone_is_in_no_channel() {
    let (backend, server) = started();
    backend.on_connect(|_| Reply::welcome().header("RAINBOWCLIENTCHANNEL", "a"));
    Client::open(server.addr(), "phone").close(1000, "");
    backend.wait_under("/close", 1);
    let answer = send(server.addr(), "a", &[("qos", "1"), ("timeout", "5")], "anybody?");
    assert_eq!((&answer["status"], &answer["connections"]), (&0.into(), &0.into()));
}

#[test]
fn a_client_that_leaves_while_the_backend_is_asked_does_no_harm() {
    let (backend, mut server) = started();
    let gate = crate::harness::backend::Gate::new();
    backend.on_connect({
        let gate = gate.clone();
        move |_| {
            gate.pass();
            Reply::welcome().header("RAINBOWCLIENTCHANNEL", "a")
        }
    });
    let mut wire = crate::harness::http::Wire::connect(server.addr());
    wire.write(Upgrade::of("hasty").head("rainbow").as_bytes());
    backend.wait_under("/connect", 1);
    drop(wire);
    gate.open();
    // The backend has let it in, so the backend hears its end; and nobody is left in its channel.
    eventually("nobody is in the channel", || {
        let answer = send(server.addr(), "a", &[("qos", "1"), ("timeout", "1")], "");
        (answer["connections"] == 0).then_some(())
    });
    let mut next = Client::open(server.addr(), "next");
    next.assert_open();
    server.assert_alive();
}

#[test]
fn a_websocket_library_of_others_connects_and_talks() {
    let (backend, server) = started();
    backend.on_connect(|_| Reply::welcome().header("RAINBOWCLIENTCHANNEL", "lib"));
    let url = format!("ws://{}/connect/?{}=1", server.addr(), percent("v"));
    let mut request = url.into_client_request().expect("a URL");
    request.headers_mut().insert("X-DEVICEID", HeaderValue::from_static("tungstenite"));
    request.headers_mut().insert("X-CLIENT-OS", HeaderValue::from_static("rust"));
    let (mut socket, answer) = tungstenite::connect(request).expect("let in");
    assert_eq!(answer.status(), 101);
    let message = [0b0001_0010, 0, 9, 0, 1, b'h', b'i'];
    socket.send(tungstenite::Message::binary(message.to_vec())).expect("sent");
    let ack = socket.read().expect("answered").into_data();
    assert_eq!(&ack[1..], [&[0, 1][..], b"re:hi"].concat());
    assert_eq!(ack[0] >> 4, Command::Ack as u8);
    let waiting = send_later(server.addr(), "lib", &[("qos", "1"), ("timeout", "5")], vec![7; 70_000]);
    let pushed = socket.read().expect("pushed").into_data();
    assert_eq!(pushed.len(), 5 + 70_000);
    socket.send(tungstenite::Message::binary([&[0x20], &pushed[3..5], b"got it"].concat())).expect("sent");
    assert_eq!(waiting.join().expect("answered")["connections"], 1);
    socket.close(None).expect("closes");
    while socket.read().is_ok() {}
    drop(socket);
    backend.wait_under("/close", 1);
}

#[test]
fn hello_is_for_everybody() {
    let (_backend, server) = started();
    for path in ["/hello/", "/hello"] {
        let hello = crate::harness::http::get(server.addr(), path);
        assert_eq!((hello.status, hello.text().trim()), (200, "ok"));
    }
    let nowhere = call_get(server.addr(), "/nowhere/", &[]);
    assert_eq!(nowhere.status, 404);
}

/// The 2014 signature that the server put on a request.
pub fn assert_signed(request: &Request) {
    let param = |name: &str| request.param(name).unwrap_or_else(|| panic!("no {name} in {}", request.query));
    let (timestamp, nonce) = (param("timestamp"), param("nonce"));
    assert_eq!(param("signature"), signature_2014(TOKEN, &timestamp, &nonce));
    let now = crate::harness::call::unix_now() as f64;
    let age = now - timestamp.parse::<f64>().expect("seconds");
    assert!(age.abs() < 15.0, "the timestamp is {age} s old");
    assert!(nonce.parse::<f64>().is_ok(), "the nonce is a number, not {nonce}");
}

fn assert_identity(request: &Request) {
    let identity = request.identity().expect("the identity is named");
    assert!(identity.len() == 64 && identity.bytes().all(|b| b.is_ascii_hexdigit()), "{identity}");
}
