//! Who may call: the 2014 signature, Standard Webhooks, and what a wrong one gets. Checked before the body is parsed.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::harness::call::{
    Webhook, call_unsigned, call_webhook, signature_2014, signed_query_at, target, unix_now, webhook_secret,
};
use crate::harness::http::{self, Response, Wire};
use crate::harness::metrics::{Counted, counted};
use crate::harness::{Backend, Client, Reply, Server, Setup, TIMEOUT, TOKEN, call};

/// The three headers of a webhook signature.
type Headers = [(&'static str, String); 3];

const SEND: &[(&str, &str)] = &[("channel", "a"), ("qos", "0")];

fn post(server: &Server, path: &str, signature: &str, body: &str) -> Response {
    http::request(server.addr(), "POST", &target(path, SEND, signature), &[], body.as_bytes())
}

fn assert_refused(response: &Response, why: &str) {
    assert!(response.is_refusal(), "{why}: {} {:?}", response.status, response.text());
    assert!(!response.text().contains(TOKEN), "{why}: the token is in the answer");
}

#[test]
fn a_signed_call_is_taken_and_an_unsigned_one_is_not() {
    let server = Setup::new().start();
    assert_eq!(call(server.addr(), "/send/", SEND, "x").outcome(), 0);
    for path in ["/send/", "/sub/", "/unsub/", "/kick/", "/broadcast/"] {
        assert_refused(&call_unsigned(server.addr(), path, SEND, "{}"), path);
    }
}

#[test]
fn the_signature_covers_token_timestamp_and_nonce() {
    let server = Setup::new().start();
    let now = unix_now();
    let good = signed_query_at(TOKEN, now, 5);
    assert_eq!(post(&server, "/send/", &good, "x").outcome(), 0);
    let signature = signature_2014(TOKEN, &now.to_string(), "5");
    let wrong = [
        ("another token", signed_query_at("othertoken", now, 5)),
        ("another nonce", format!("timestamp={now}&nonce=6&signature={signature}")),
        ("another time", format!("timestamp={}&nonce=5&signature={signature}", now + 1)),
        ("a cut signature", format!("timestamp={now}&nonce=5&signature={}", &signature[..39])),
        ("an empty signature", format!("timestamp={now}&nonce=5&signature=")),
        ("no timestamp", format!("nonce=5&signature={signature}")),
        ("no nonce", format!("timestamp={now}&signature={signature}")),
        ("a time that is no number", format!("timestamp=now&nonce=5&signature={}", signature_2014(TOKEN, "now", "5"))),
        ("no hex", format!("timestamp={now}&nonce=5&signature={}", "z".repeat(40))),
        ("a flood", format!("timestamp={now}&nonce=5&signature={}", "a".repeat(3000))),
    ];
    for (why, query) in wrong {
        assert_refused(&post(&server, "/send/", &query, "x"), why);
    }
}

#[test]
fn a_stale_or_early_signature_is_refused() {
    let server = Setup::new().start();
    let now = unix_now();
    for (offset, taken) in [(-3600, false), (-30, false), (-5, true), (5, true), (30, false), (3600, false)] {
        let query = signed_query_at(TOKEN, now.saturating_add_signed(offset), 5);
        let response = post(&server, "/send/", &query, "x");
        assert_eq!(!response.is_refusal(), taken, "{offset} s off: {}", response.text());
    }
}

#[test]
fn the_window_is_configurable() {
    let server = Setup::new().set("signature_window", "100").start();
    let query = signed_query_at(TOKEN, unix_now() - 60, 5);
    assert_eq!(post(&server, "/send/", &query, "x").outcome(), 0);
}

#[test]
fn refused_calls_are_counted() {
    let server = Setup::new().start();
    counted(server.addr(), Counted::BadCall, || {
        assert_refused(&call_unsigned(server.addr(), "/send/", SEND, "x"), "unsigned");
    });
}

#[test]
fn the_signature_is_checked_before_the_body_is_parsed() {
    let server = Setup::new().start();
    let good = call_unsigned(server.addr(), "/sub/", &[], r#"{"identity": "i", "channel": "c"}"#);
    let bad = call_unsigned(server.addr(), "/sub/", &[], "}{ no json");
    assert_refused(&good, "unsigned");
    assert_eq!((bad.status, bad.text()), (good.status, good.text()), "the body made a difference");
}

#[test]
fn a_webhook_signature_is_taken() {
    let secret = webhook_secret(7);
    let server = Setup::new().set("webhook_secrets", &format!("[{secret:?}]")).start();
    let good = Webhook::now(&secret, "body");
    assert_eq!(call_webhook(server.addr(), "/send/", SEND, "body", &good).outcome(), 0);
    // The 2014 scheme goes on beside it.
    assert_eq!(call(server.addr(), "/send/", SEND, "x").outcome(), 0);
}

#[test]
fn a_webhook_signature_covers_id_time_and_body() {
    let secret = webhook_secret(7);
    let server = Setup::new().set("webhook_secrets", &format!("[{secret:?}]")).start();
    let good = Webhook::now(&secret, "body");
    let with = |change: &dyn Fn(&mut Headers)| {
        let mut headers = good.headers();
        change(&mut headers);
        let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        http::request(server.addr(), "POST", &target("/send/", SEND, ""), &headers, b"body")
    };
    assert_refused(&with(&|h| h[0].1 = "msg_other".into()), "another id");
    assert_refused(&with(&|h| h[1].1 = (unix_now() - 1).to_string()), "another time");
    assert_refused(&with(&|h| h[2].1 = h[2].1.replace("v1,", "v2,")), "an unknown version");
    assert_refused(&with(&|h| h[2].1 = "v1,".into()), "an empty signature");
    assert_refused(&with(&|h| h[2].1 = "v1,!!!".into()), "no base64");
    assert_refused(&call_webhook(server.addr(), "/send/", SEND, "other body", &good), "another body");
    let stale = Webhook { timestamp: unix_now() - 3600, ..good.clone() };
    assert_refused(&call_webhook(server.addr(), "/send/", SEND, "body", &stale), "stale");
    let foreign = Webhook { secret: webhook_secret(8), ..good.clone() };
    assert_refused(&call_webhook(server.addr(), "/send/", SEND, "body", &foreign), "another secret");
    // Several signatures in one header, one of them good: how a caller rotates its key.
    let rotated = with(&|h| h[2].1 = format!("v1,AAAA {}", h[2].1));
    assert_eq!(rotated.outcome(), 0, "{}", rotated.text());
}

#[test]
fn a_webhook_signature_is_taken_once() {
    let secret = webhook_secret(7);
    let server = Setup::new().set("webhook_secrets", &format!("[{secret:?}]")).set("workers", "2").start();
    let signed = Webhook::now(&secret, "body");
    let outcomes: Vec<_> =
        (0..20).map(|_| call_webhook(server.addr(), "/send/", SEND, "body", &signed).is_refusal()).collect();
    assert_eq!(outcomes.iter().filter(|refused| !**refused).count(), 1, "whichever worker is called");
    assert!(!outcomes[0]);
}

/// The body is what such a signature is about, but much is known before it: then it is not waited for.
#[test]
fn a_webhook_signature_that_cannot_be_right_is_refused_with_the_head() {
    let secret = webhook_secret(7);
    let server = Setup::new().set("webhook_secrets", &format!("[{secret:?}]")).start();
    let body = [b'x'; 1000];
    let head_of = |headers: &Headers| {
        let mut head = format!("POST {} HTTP/1.1\r\nHost: x\r\n", target("/send/", SEND, ""));
        headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        let mut wire = Wire::connect(server.addr());
        wire.write(format!("{head}Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n").as_bytes());
        let response = wire.response(Instant::now() + TIMEOUT).expect("an answer to the head");
        (response, wire)
    };
    let good = Webhook::now(&secret, body);
    let (response, mut wire) = head_of(&good.headers());
    assert_eq!(response.status, 100, "{}", response.text());
    wire.write(&body);
    assert_eq!(wire.response(Instant::now() + TIMEOUT).expect("carried out").outcome(), 0);
    let new = || Webhook::now(&secret, body);
    let with = |name: &str, value: &str| {
        let mut headers = new().headers();
        headers.iter_mut().filter(|header| header.0 == name).for_each(|header| header.1 = value.to_owned());
        headers
    };
    let wrong = [
        ("used before", good.headers()),
        ("stale", Webhook { timestamp: new().timestamp - 3600, ..new() }.headers()),
        ("early", Webhook { timestamp: new().timestamp + 3600, ..new() }.headers()),
        ("a time that is no number", with("webhook-timestamp", "now")),
        ("an id with full stops", with("webhook-id", "a.b")),
        ("a signature of another version", with("webhook-signature", "v2,AAAA")),
        ("a signature that is too short", with("webhook-signature", "v1,AAAA")),
    ];
    for (why, headers) in wrong {
        let (response, _) = counted(server.addr(), Counted::BadCall, || head_of(&headers));
        assert_ne!(response.status, 100, "{why}");
        assert_refused(&response, why);
    }
}

#[test]
fn a_webhook_signature_may_cover_the_target_and_must_where_it_is_required() {
    let secret = webhook_secret(1);
    let with_target = |server: &Server, target: &str, signed: &str| {
        let webhook = Webhook::now(&secret, "x").for_target(signed);
        let mut headers: Vec<_> = webhook.headers().into();
        headers.push(("webhook-target", signed.to_owned()));
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        http::request(server.addr(), "POST", target, &headers, b"x")
    };
    let (target, other) = ("/send/?channel=a&qos=0", "/send/?channel=b&qos=0");
    for require in ["any", "webhook"] {
        let setup = Setup::new().set("webhook_secrets", &format!("[{secret:?}]")).text("signature_require", require);
        let server = setup.start();
        assert_eq!(with_target(&server, target, &format!("POST {target}")).outcome(), 0);
        assert_refused(&with_target(&server, target, &format!("POST {other}")), "another target");
        assert_refused(&with_target(&server, target, &format!("GET {target}")), "another method");
        let without = call_webhook(server.addr(), "/send/", SEND, "x", &Webhook::now(&secret, "x"));
        assert_eq!(without.is_refusal(), require == "webhook", "{}", without.text());
    }
}

#[test]
fn what_rainbow_signs_for_a_hook_opens_nothing() {
    let backend = Backend::start();
    let server = Setup::of(&backend).start();
    let mut client = Client::open(server.addr(), "phone");
    for id in 1..=20 {
        client.send(1, 1, id, "x");
        client.next_packet();
    }
    let signed: Vec<String> = backend
        .messages()
        .iter()
        .map(|request| {
            let part = |name| format!("{name}={}", request.param(name).expect("signed"));
            ["timestamp", "nonce", "signature"].map(part).join("&")
        })
        .collect();
    for query in &signed {
        assert_refused(&post(&server, "/send/", query, "x"), "our own signature");
    }
    let nonces: BTreeSet<_> = backend.messages().iter().map(|request| request.param("nonce")).collect();
    assert_eq!(nonces.len(), 20, "a backend may remember them");
}

#[test]
fn a_nonce_is_any_printable_text() {
    let server = Setup::new().start();
    let now = unix_now().to_string();
    for (nonce, is_taken) in [("0.1745", true), ("a-b_C", true), (&*"n".repeat(64), true), (&*"n".repeat(65), false)] {
        let query = format!("timestamp={now}&nonce={nonce}&signature={}", signature_2014(TOKEN, &now, nonce));
        assert_eq!(!post(&server, "/send/", &query, "x").is_refusal(), is_taken, "{nonce}");
        assert_eq!(!post(&server, "/send/", &query, "x").is_refusal(), is_taken, "{nonce}, again: 2014's draw few");
    }
}

#[test]
fn two_webhook_secrets_are_valid_at_a_time() {
    let (old, new) = (webhook_secret(1), webhook_secret(2));
    let server = Setup::new().set("webhook_secrets", &format!("[{new:?}, {old:?}]")).start();
    for secret in [&old, &new] {
        let webhook = Webhook::now(secret, "x");
        assert_eq!(call_webhook(server.addr(), "/send/", SEND, "x", &webhook).outcome(), 0);
    }
}

#[test]
fn webhook_signatures_can_be_required() {
    let secret = webhook_secret(1);
    let setup = Setup::new().set("webhook_secrets", &format!("[{secret:?}]")).text("signature_require", "webhook");
    let server = setup.start();
    assert_refused(&call(server.addr(), "/send/", SEND, "x"), "the 2014 scheme");
}

#[test]
fn no_secret_is_in_any_log() {
    let backend = Backend::start();
    backend.on_message(|_| Reply::status(400, "refused").header("RAINBOWREQUESTINVALID", "60001"));
    let secret = webhook_secret(9);
    let server = Setup::of(&backend)
        .set("webhook_secrets", &format!("[{secret:?}]"))
        .text("admin_token", "admin-s3cret")
        .text("log", "trace")
        .start();
    let mut client = Client::open(server.addr(), "phone");
    client.send(1, 1, 1, "x");
    client.next_packet();
    let good = Webhook::now(&secret, "x");
    call_webhook(server.addr(), "/send/", SEND, "x", &good);
    let bad = Webhook { secret: webhook_secret(3), ..good };
    call_webhook(server.addr(), "/send/", SEND, "x", &bad);
    call(server.addr(), "/send/", SEND, "x");
    post(&server, "/send/", &signed_query_at("wrong", unix_now(), 1), "x");
    http::get(server.addr(), "/info/?admin_token=wrong");
    http::get(server.addr(), "/serverinfo/");
    server.process.signal("HUP");
    assert_logged_nothing_of(&server, &[TOKEN, secret.trim_start_matches("whsec_"), "admin-s3cret"]);
}

fn assert_logged_nothing_of(server: &Server, secrets: &[&str]) {
    // Whatever the calls have logged is out when the next answer is.
    http::get(server.addr(), "/hello/");
    let log = server.log();
    for secret in secrets {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "a secret is in the log");
    }
}

#[test]
fn what_loopback_may_do_a_page_of_another_site_may_not() {
    let server = Setup::new().text("security_token", "").start();
    let get =
        |path: &str, headers: &[(&str, &str)]| http::request(server.admin_addr(), "GET", path, headers, b"").status;
    let post =
        |path: &str, headers: &[(&str, &str)]| http::request(server.admin_addr(), "POST", path, headers, b"x").status;
    let send = "/send/?channel=a&qos=0";
    for (path, method) in [("/info/", "GET"), ("/metrics", "GET"), (send, "POST"), ("/updateconfig/", "POST")] {
        let call = |headers: &[(&str, &str)]| if method == "GET" { get(path, headers) } else { post(path, headers) };
        assert_eq!(call(&[]), 200, "{path}");
        assert_eq!(call(&[("Origin", "http://127.0.0.1:9999")]), 200, "{path}: a page of this machine");
        assert_eq!(call(&[("Origin", "https://evil.test")]), 403, "{path}");
        assert_eq!(call(&[("Sec-Fetch-Site", "cross-site")]), 403, "{path}");
    }
    assert_eq!(get("/updateconfig/", &[]), 401, "a link must not change anything");
}

#[test]
fn what_was_sent_to_another_name_does_not_come_from_this_machine() {
    let server = Setup::new().text("security_token", "").start();
    let status = |host: &str, more: &str| {
        let head = format!("GET /info/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n");
        let mut wire = http::Wire::connect(server.admin_addr());
        wire.write(head.as_bytes());
        while wire.fill(std::time::Instant::now() + crate::harness::TIMEOUT).is_ok_and(|len| len > 0) {}
        String::from_utf8_lossy(&wire.buffer)[9..12].to_owned()
    };
    assert_eq!(
        (status("127.0.0.1", ""), status("localhost:1984", ""), status("[::1]", "")),
        ("200".into(), "200".into(), "200".into())
    );
    assert_eq!(status("rebound.test", ""), "401", "DNS rebinding, or a proxy that passes the name on");
    for proxied in ["X-Forwarded-For: 1.2.3.4\r\n", "Via: 1.1 proxy\r\n", "X-Real-IP: 1.2.3.4\r\n"] {
        assert_eq!(status("127.0.0.1", proxied), "401", "{proxied}");
    }
}

#[test]
fn the_page_is_for_anybody_and_its_figures_are_not() {
    let server = Setup::new().text("admin_token", "s3cret").start();
    let at = |path: &str, headers: &[(&str, &str)]| http::request(server.addr(), "GET", path, headers, b"");
    let page = at("/serverinfo/", &[]);
    assert_eq!(page.status, 200);
    assert!(page.header("content-security-policy").is_some_and(|policy| policy.contains("frame-ancestors 'none'")));
    assert_eq!(at("/info/", &[]).status, 401);
    assert_eq!(at("/info/?token=s3cret", &[]).status, 401, "addresses are logged");
    assert_eq!(at("/info/", &[("Authorization", "Bearer s3cret")]).status, 200);
}

/// nginx's usual recipe for WebSockets passes everything on from loopback, and says so nowhere.
#[test]
fn where_a_secret_is_configured_loopback_opens_nothing() {
    let keyed = [Setup::new(), Setup::new().text("security_token", "").text("admin_token", "s3cret")];
    for setup in keyed {
        let server = setup.start();
        let status = |method: &str, path: &str| {
            let response = http::request(server.addr(), method, path, &[], b"x");
            if response.is_refusal() { 401 } else { response.status }
        };
        for path in ["/info/", "/metrics", "/channel/", "/session/?session=ann"] {
            assert_eq!(status("GET", path), 401, "{path}");
        }
        for path in ["/updateconfig/", "/send/?channel=a&qos=0", "/kick/", "/sub/"] {
            assert_eq!(status("POST", path), 401, "{path}");
        }
        for path in ["/hello/", "/livez", "/readyz", "/serverinfo/"] {
            assert_eq!(status("GET", path), 200, "{path}");
        }
    }
}

#[test]
fn the_admin_token_makes_calls() {
    let server = Setup::new().text("admin_token", "s3cret").start();
    let with = |token: &str, path: &str| {
        http::request(server.addr(), "POST", path, &[("Authorization", &format!("Bearer {token}"))], b"x")
    };
    for path in ["/send/?channel=a&qos=0", "/updateconfig/"] {
        assert_eq!(with("s3cret", path).outcome(), 0, "{path}");
        assert_refused(&with("other", path), path);
    }
}

#[test]
fn the_admin_listener_of_this_machine_needs_no_token_but_a_name_of_this_machine() {
    let admin = crate::harness::ports::free_port();
    let listener = format!("127.0.0.1:{}", admin.number);
    let server = Setup::new().text("admin_listen", &listener).set("admin_hosts", r#"["ops.example"]"#).start();
    let at = |method: &str, path: &str, host: &str| {
        let mut wire = Wire::connect(([127, 0, 0, 1], admin.number).into());
        wire.write(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n").as_bytes());
        let response = wire.response(Instant::now() + TIMEOUT).expect("an answer");
        if response.is_refusal() { 401 } else { response.status }
    };
    for (method, path) in [("GET", "/info/"), ("GET", "/metrics"), ("POST", "/updateconfig/")] {
        assert_eq!(at(method, path, "localhost"), 200, "{path}");
        assert_eq!(at(method, path, &format!("OPS.example:{}", admin.number)), 200, "{path}");
        for other in ["rebound.test", "evil.ops.example", "ops.example.test"] {
            assert_eq!(at(method, path, other), 401, "{path} at {other}");
        }
    }
    assert_eq!(at("POST", "/send/?channel=a&qos=0", "localhost"), 401, "what is signed stays so");
    drop(server);
}
