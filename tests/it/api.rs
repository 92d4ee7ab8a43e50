//! Calls by the business server: subscriptions, kicks, broadcasts, who is in a channel, and what a bad call gets.
//!
//! How the calls that 2014 did not have name their parameters is in `names`, so that it is changed in one place.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::call::{call_get, call_unsigned, send_later, signed_target, subscribe};
use crate::harness::http::{self, Wire};
use crate::harness::ports::free_port;
use crate::harness::{Backend, Client, Command, Server, Setup, TIMEOUT, call, eventually, send};

/// The spellings that the issue leaves open.
mod names {
    use super::*;

    pub fn kick_identity(identity: &str, code: u16, reason: &str) -> Value {
        json!({"identity": identity, "code": code, "reason": reason})
    }

    pub fn kick_channel(channel: &str, code: u16, reason: &str) -> Value {
        json!({"channel": channel, "code": code, "reason": reason})
    }

    /// Channels of a broadcast, as a parameter of the query.
    pub const BROADCAST_CHANNELS: &str = "channels";

    /// How many a page of `/channel/` may list, and where it begins.
    pub const PAGE_SIZE: &str = "limit";
    pub const PAGE_BEGIN: &str = "offset";
    pub const IDENTITIES: &str = "identities";
}

fn started() -> (Backend, Server) {
    let backend = Backend::start();
    let server = Setup::of(&backend).start();
    (backend, server)
}

fn post(server: &Server, path: &str, body: Value) -> Value {
    let response = call(server.addr(), path, &[], body.to_string());
    assert_eq!(response.status, 200, "{path} {body}: {}", response.text());
    response.json()
}

#[test]
fn sub_makes_a_client_hear_a_channel_and_unsub_ends_it() {
    let (backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    let identity = backend.identity_of("phone");
    for channel in ["news", "räume/1 & ;\"x\""] {
        assert_eq!(post(&server, "/sub/", json!({"identity": identity, "channel": channel, "occupy": 0}))["status"], 0);
        send(server.addr(), channel, &[("qos", "0")], "in");
        assert_eq!(client.expect_send().text(), "in");
        assert_eq!(post(&server, "/unsub/", json!({"identity": identity, "channel": channel}))["status"], 0);
        let answer = send(server.addr(), channel, &[("qos", "1"), ("timeout", "5")], "out");
        assert_eq!(answer["connections"], 0);
    }
    client.assert_open();
}

#[test]
fn sub_twice_is_heard_once() {
    let (backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    let identity = backend.identity_of("phone");
    subscribe(server.addr(), &identity, "news");
    subscribe(server.addr(), &identity, "news");
    send(server.addr(), "news", &[("qos", "0")], "one");
    send(server.addr(), "news", &[("qos", "0")], "two");
    assert_eq!((client.expect_send().text(), client.expect_send().text()), ("one".into(), "two".into()));
}

#[test]
fn occupy_leaves_one_client_alone_in_the_channel() {
    let (backend, server) = started();
    // Several, so that some live on each worker.
    let mut clients: Vec<_> = (0..6).map(|i| Client::open(server.addr(), &format!("phone{i}"))).collect();
    for i in 0..6 {
        subscribe(server.addr(), &backend.identity_of(&format!("phone{i}")), "seat");
    }
    let newest = backend.identity_of("phone3");
    assert_eq!(post(&server, "/sub/", json!({"identity": newest, "channel": "seat", "occupy": 1}))["status"], 0);
    let waiting = send_later(server.addr(), "seat", &[("qos", "1"), ("timeout", "5")], "to the one");
    let message = clients[3].expect_send();
    clients[3].answer(Command::Ack, message.id, "");
    assert_eq!(waiting.join().expect("answered")["connections"], 1);
    for client in &mut clients {
        client.assert_open();
    }
}

#[test]
fn a_message_sent_after_sub_reaches_a_client_of_any_worker() {
    let (backend, server) = started();
    // The call that subscribes and the call that sends may be served by different workers.
    for number in 0..20 {
        let device = format!("phone{number}");
        let mut client = Client::open(server.addr(), &device);
        subscribe(server.addr(), &backend.identity_of(&device), &device);
        send(server.addr(), &device, &[("qos", "0")], "hello");
        assert_eq!(client.expect_send().text(), "hello");
    }
}

#[test]
fn an_unknown_identity_is_no_such_connection() {
    let (_backend, server) = started();
    for identity in ["", "nobody", &"0".repeat(64), &"f".repeat(10_000)] {
        let answer =
            call(server.addr(), "/sub/", &[], json!({"identity": identity, "channel": "a", "occupy": 0}).to_string());
        assert_eq!(answer.json(), json!({"status": 1, "msg": "no such connection"}));
        assert_eq!(post(&server, "/unsub/", json!({"identity": identity, "channel": "a"}))["status"], 0);
    }
}

#[test]
fn an_identity_ends_with_its_connection() {
    let (backend, server) = started();
    let client = Client::open(server.addr(), "phone");
    let identity = backend.identity_of("phone");
    client.leave();
    backend.wait_under("/close", 1);
    let _next = Client::open(server.addr(), "next");
    let answer = post(&server, "/sub/", json!({"identity": identity, "channel": "a", "occupy": 0}));
    assert_eq!(answer["msg"], "no such connection");
}

#[test]
fn kick_closes_one_client_with_code_and_reason() {
    let (backend, server) = started();
    let mut kicked = Client::open(server.addr(), "kicked");
    let mut other = Client::open(server.addr(), "other");
    let body = names::kick_identity(&backend.identity_of("kicked"), 4501, "banned");
    assert_eq!(post(&server, "/kick/", body)["status"], 0);
    assert_eq!(kicked.expect_close(), (4501, "banned".into()));
    other.assert_open();
}

#[test]
fn kick_closes_a_whole_channel() {
    let (backend, server) = started();
    let mut clients: Vec<_> = (0..6).map(|i| Client::open(server.addr(), &format!("phone{i}"))).collect();
    for i in 0..5 {
        subscribe(server.addr(), &backend.identity_of(&format!("phone{i}")), "room");
    }
    assert_eq!(post(&server, "/kick/", names::kick_channel("room", 4002, "closing"))["status"], 0);
    for client in &mut clients[..5] {
        assert_eq!(client.expect_close(), (4002, "closing".into()));
    }
    clients[5].assert_open();
}

#[test]
fn kick_refuses_codes_that_may_not_be_sent() {
    let (backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    let identity = backend.identity_of("phone");
    // RFC 6455 7.4: these are reserved or out of range.
    for code in [0, 999, 1005, 1006, 1015, 5000] {
        let body = names::kick_identity(&identity, code, "x").to_string();
        let answer = call(server.addr(), "/kick/", &[], body);
        assert!(answer.is_refusal(), "code {code}: {}", answer.text());
    }
    // A close frame holds 125 bytes, two of them the code.
    let answer =
        call(server.addr(), "/kick/", &[], names::kick_identity(&identity, 4000, &"x".repeat(124)).to_string());
    if answer.is_refusal() {
        client.assert_open();
    } else {
        assert_eq!(client.expect_close().0, 4000);
    }
}

#[test]
fn broadcast_sends_one_body_to_many_channels() {
    let (backend, server) = started();
    let mut clients: Vec<_> = (0..4).map(|i| Client::open(server.addr(), &format!("phone{i}"))).collect();
    for (i, channel) in ["a", "b", "a", "c"].iter().enumerate() {
        subscribe(server.addr(), &backend.identity_of(&format!("phone{i}")), channel);
    }
    let params = [(names::BROADCAST_CHANNELS, "a;;b"), ("qos", "0"), ("msgtype", "77")];
    let answer = call(server.addr(), "/broadcast/", &params, "to many");
    assert_eq!(answer.outcome(), 0, "{}", answer.text());
    for client in &mut clients[..3] {
        let message = client.expect_send();
        assert_eq!((message.kind, message.text()), (77, "to many".into()));
    }
    clients[3].assert_open();
}

#[test]
fn broadcast_counts_those_who_answered() {
    let (backend, server) = started();
    let mut clients: Vec<_> = (0..2).map(|i| Client::open(server.addr(), &format!("phone{i}"))).collect();
    for (i, channel) in ["a", "b"].iter().enumerate() {
        subscribe(server.addr(), &backend.identity_of(&format!("phone{i}")), channel);
    }
    let to = server.addr();
    let waiting = std::thread::spawn(move || {
        let params = [(names::BROADCAST_CHANNELS, "a;;b"), ("qos", "1"), ("timeout", "5")];
        call(to, "/broadcast/", &params, "to many").json()
    });
    for client in &mut clients {
        let id = client.expect_send().id;
        client.answer(Command::Ack, id, "");
    }
    let answer = waiting.join().expect("answered");
    assert_eq!((&answer["status"], &answer["connections"]), (&0.into(), &2.into()), "{answer}");
}

#[test]
fn channel_says_how_many_and_who_page_by_page() {
    let (backend, server) = started();
    let _clients: Vec<_> = (0..7).map(|i| Client::open(server.addr(), &format!("phone{i}"))).collect();
    let mut expected = BTreeSet::new();
    for i in 0..7 {
        let identity = backend.identity_of(&format!("phone{i}"));
        subscribe(server.addr(), &identity, "room");
        expected.insert(identity);
    }
    let mut found = BTreeSet::new();
    for page in 0.. {
        let offset = found.len().to_string();
        let params = [("channel", "room"), (names::PAGE_SIZE, "3"), (names::PAGE_BEGIN, &offset)];
        let answer = call_get(server.addr(), "/channel/", &params).json();
        assert_eq!((&answer["status"], &answer["connections"]), (&0.into(), &7.into()), "{answer}");
        let identities = answer[names::IDENTITIES].as_array().unwrap_or_else(|| panic!("no identities in {answer}"));
        assert_eq!(identities.len(), [3, 3, 1, 0][page], "{answer}");
        if identities.is_empty() {
            break;
        }
        for identity in identities {
            let identity = identity.as_str().expect("an identity is a text").to_owned();
            assert!(found.insert(identity), "one is listed twice: {answer}");
        }
    }
    assert_eq!(found, expected);
}

#[test]
fn an_unknown_channel_has_nobody() {
    let (_backend, server) = started();
    let answer = call_get(server.addr(), "/channel/", &[("channel", "nowhere")]).json();
    assert_eq!((&answer["status"], &answer["connections"]), (&0.into(), &0.into()));
}

#[test]
fn send_without_a_channel_or_with_bad_parameters_is_refused() {
    let (_backend, server) = started();
    let bad: [&[(&str, &str)]; 11] = [
        &[("qos", "1")],
        &[("channel", ""), ("qos", "1")],
        &[("channel", "a"), ("qos", "3")],
        &[("channel", "a"), ("qos", "-1")],
        &[("channel", "a"), ("qos", "one")],
        &[("channel", "a"), ("msgtype", "65536")],
        &[("channel", "a"), ("msgtype", "-1")],
        &[("channel", "a"), ("msgtype", "x")],
        &[("channel", "a"), ("timeout", "x")],
        &[("channel", "a"), ("timeout", "-5")],
        &[("channel", "a"), ("timeout", "nan")],
    ];
    for params in bad {
        let answer = call(server.addr(), "/send/", params, "x");
        assert!(answer.is_refusal(), "{params:?}: {} {}", answer.status, answer.text());
    }
}

#[test]
fn a_timeout_beyond_the_limit_is_bounded() {
    let backend = Backend::start();
    let server = Setup::of(&backend).set("send_timeout_max", "1").set("send_timeout", "1").start();
    let mut client = Client::open(server.addr(), "phone");
    subscribe(server.addr(), &backend.identity_of("phone"), "a");
    let begun = Instant::now();
    let answer = call(server.addr(), "/send/", &[("channel", "a"), ("qos", "1"), ("timeout", "1e9")], "x");
    assert!(begun.elapsed() < Duration::from_secs(5), "{}", answer.text());
    client.expect_send();
}

#[test]
fn bad_json_is_400() {
    let (_backend, server) = started();
    for path in ["/sub/", "/unsub/", "/kick/"] {
        for body in [
            "",
            "{",
            "[]",
            "null",
            r#"{"identity": 5}"#,
            r#"{"identity": "x"}"#,
            "\u{0}",
            "{\"identity\": \"\\ud800\"}",
        ] {
            let answer = call(server.addr(), path, &[], body);
            // To unsubscribe what is not there is no mistake: always status 0, if it can be read at all.
            let taken = path == "/unsub/" && answer.status == 200 && answer.json()["status"] == 0;
            assert!(answer.is_refusal() || taken, "{path} {body:?}: {} {}", answer.status, answer.text());
        }
        assert_eq!(call(server.addr(), path, &[], "{").status, 400, "{path}: unreadable input");
    }
    let nested = "[".repeat(100_000);
    assert!(call(server.addr(), "/sub/", &[], nested).is_refusal());
}

#[test]
fn a_body_over_its_limit_is_refused_and_not_read() {
    let backend = Backend::start();
    let mut server = Setup::of(&backend).set("api_body_max", "1000").start();
    assert_eq!(call(server.addr(), "/send/", &[("channel", "a"), ("qos", "0")], vec![b'x'; 1000]).outcome(), 0);
    let answer = call(server.addr(), "/send/", &[("channel", "a"), ("qos", "0")], vec![b'x'; 1001]);
    assert!(answer.is_refusal(), "{} {}", answer.status, answer.text());
    // By the head alone: none of the body is sent, and still there is an answer.
    let target = signed_target("/send/", &[("channel", "a")]);
    let mut wire = Wire::connect(server.addr());
    wire.write(format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n").as_bytes());
    let answer = wire.response(Instant::now() + TIMEOUT).expect("answered before the body has come");
    assert!(answer.is_refusal(), "{}", answer.status);
    // Chunked: the limit holds although no length was named.
    let target = signed_target("/send/", &[("channel", "a")]);
    let mut wire = Wire::connect(server.addr());
    wire.write(format!("POST {target} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n").as_bytes());
    wire.write(&vec![b'x'; 2000]);
    let answer = wire.response(Instant::now() + TIMEOUT).expect("answered");
    assert!(answer.is_refusal(), "{}", answer.status);
    server.assert_alive();
}

#[test]
fn a_chunked_call_is_understood() {
    let (backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    subscribe(server.addr(), &backend.identity_of("phone"), "a");
    let target = signed_target("/send/", &[("channel", "a"), ("qos", "0")]);
    let mut wire = Wire::connect(server.addr());
    let head = format!("POST {target} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    for byte in [head.as_bytes(), b"5\r\nhello\r\n7;ext=1\r\n, world\r\n0\r\n\r\n"].concat() {
        wire.write(&[byte]);
    }
    assert_eq!(wire.response(Instant::now() + TIMEOUT).expect("answered").outcome(), 0);
    assert_eq!(client.expect_send().text(), "hello, world");
}

#[test]
fn calls_on_one_connection_are_answered_in_turn() {
    let (_backend, server) = started();
    let mut wire = Wire::connect(server.addr());
    let mut requests = String::new();
    for _ in 0..5 {
        let target = signed_target("/send/", &[("channel", "a"), ("qos", "0")]);
        requests += &format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi");
    }
    // All at once: an HTTP/1.1 caller may pipeline.
    wire.write(requests.as_bytes());
    for _ in 0..5 {
        assert_eq!(wire.response(Instant::now() + TIMEOUT).expect("answered").outcome(), 0);
    }
}

#[test]
fn an_expectation_is_met() {
    let (_backend, server) = started();
    let target = signed_target("/send/", &[("channel", "a"), ("qos", "0")]);
    let mut wire = Wire::connect(server.addr());
    // curl asks so for bodies over 1 MiB, older ones over 1 KiB, and waits a second without an answer.
    let head = format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    wire.write(head.as_bytes());
    wire.write(b"hi");
    let response = loop {
        let response = wire.response(Instant::now() + TIMEOUT).expect("answered");
        if response.status != 100 {
            break response;
        }
    };
    assert_eq!(response.outcome(), 0);
}

#[test]
fn a_get_is_not_a_call() {
    let (_backend, server) = started();
    for path in ["/send/", "/sub/", "/unsub/", "/kick/", "/broadcast/"] {
        let answer = call_get(server.addr(), path, &[("channel", "a"), ("qos", "0")]);
        assert!(answer.is_refusal(), "{path}: {} {}", answer.status, answer.text());
    }
}

#[test]
fn calls_work_without_their_trailing_slash() {
    let (_backend, server) = started();
    assert_eq!(call(server.addr(), "/send", &[("channel", "a"), ("qos", "0")], "x").outcome(), 0);
}

#[test]
fn admin_listen_moves_all_but_connect_and_hello() {
    let backend = Backend::start();
    let admin = free_port();
    let admin_at = std::net::SocketAddr::from(([127, 0, 0, 1], admin.number));
    let server = Setup::of(&backend).text("admin_listen", &admin_at.to_string()).start();
    let mut client = Client::open(server.addr(), "phone");
    eventually("the admin address listens", || std::net::TcpStream::connect(admin_at).ok());
    assert_eq!(http::get(server.addr(), "/hello/").status, 200);
    for path in ["/send/", "/sub/", "/unsub/", "/kick/", "/broadcast/"] {
        let answer = call(server.addr(), path, &[("channel", "a"), ("qos", "0")], "{}");
        assert_eq!(answer.status, 404, "{path} on the public address: {}", answer.text());
    }
    for path in
        ["/info/", "/metrics", "/serverinfo/", "/openapi.json", "/channel/", "/livez", "/readyz", "/updateconfig/"]
    {
        assert_eq!(call_get(server.addr(), path, &[]).status, 404, "{path} on the public address");
    }
    subscribe(admin_at, &backend.identity_of("phone"), "a");
    assert_eq!(send(admin_at, "a", &[("qos", "0")], "hello")["status"], 0);
    assert_eq!(client.expect_send().text(), "hello");
    for path in ["/info/", "/metrics", "/serverinfo/", "/openapi.json", "/livez", "/readyz"] {
        assert_eq!(http::get(admin_at, path).status, 200, "{path} on the admin address");
    }
}

#[test]
fn parameters_that_a_call_does_not_have_are_named_in_its_answer() {
    let backend = Backend::start();
    let server = Setup::of(&backend).start();
    let answer = call(server.addr(), "/send/", &[("channel", "c"), ("qso", "1"), ("timeout", "1")], "x").json();
    assert_eq!((&answer["status"], &answer["ignored"]), (&json!(0), &json!(["qso"])), "{answer}");
    let refused = call(server.addr(), "/send/", &[("chanel", "c")], "x").json();
    assert_eq!(refused, json!({"status": 1, "msg": "no channel", "ignored": ["chanel"]}));
}

#[test]
fn with_strict_status_a_refused_call_has_a_status_of_its_own_and_a_problem() {
    let backend = Backend::start();
    let server = Setup::of(&backend).set("strict_status", "true").start();
    let to = server.addr();
    let nobody = json!({"identity": "ab".repeat(32), "channel": "c"}).to_string();
    for (path, params, body, status, detail) in [
        ("/send/", &[("qos", "1")][..], "x", 400, "no channel"),
        ("/send/", &[("channel", "c"), ("qso", "1")], "x", 400, "unknown parameters: qso"),
        ("/sub/", &[], nobody.as_str(), 404, "no such connection"),
        (
            "/send/",
            &[("channel", "c"), ("message_id", "m")],
            "x",
            409,
            "message_id needs a store; none is configured (store.kind)",
        ),
    ] {
        let response = call(to, path, params, body);
        assert_eq!(response.status, status, "{path} {params:?}: {}", response.text());
        assert_eq!(response.header("content-type"), Some("application/problem+json"));
        let problem = response.json();
        assert_eq!((&problem["status"], &problem["detail"]), (&json!(status), &json!(detail)), "{problem}");
    }
    let unsigned = call_unsigned(to, "/send/", &[("channel", "c")], "x");
    assert_eq!((unsigned.status, unsigned.header("content-type")), (401, Some("application/problem+json")));
    let sent = call(to, "/send/", &[("channel", "c"), ("qos", "1")], "x");
    assert_eq!((sent.status, sent.outcome()), (200, 0));
}
