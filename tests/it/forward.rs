//! How a client's message becomes a request to the business server, and what its response headers do.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::connect::assert_signed;
use crate::harness::call::{subscribe, webhook_secret, webhook_signature};
use crate::harness::client::Upgrade;
use crate::harness::{Backend, Client, Command, Packet, Reply, Server, Setup, TIMEOUT, eventually, send};

fn started() -> (Backend, Server) {
    let backend = Backend::start();
    let server = Setup::of(&backend).start();
    (backend, server)
}

/// Sends at QoS 1 and returns the reply's body.
fn exchange(client: &mut Client, id: u16, body: &str) -> String {
    client.send(1, 1, id, body);
    client.expect(Command::Ack, id).text()
}

#[test]
fn the_message_type_is_part_of_the_path() {
    let (backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    for (id, kind) in [(1, 0), (2, 1), (3, 1984), (4, 65534)] {
        client.send(1, kind, id, "");
        client.expect(Command::Ack, id);
    }
    let paths: Vec<_> = backend.messages().into_iter().map(|r| r.path).collect();
    assert_eq!(paths, ["/message/0/", "/message/1/", "/message/1984/", "/message/65534/"]);
}

#[test]
fn a_forwarded_message_is_a_signed_post_with_the_identity() {
    let (backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    exchange(&mut client, 1, "hello");
    let heard = backend.messages().remove(0);
    assert_eq!((heard.method.as_str(), heard.text()), ("POST", "hello".into()));
    assert_eq!(heard.identity(), Some(backend.identity_of("phone").as_str()));
    assert_eq!(heard.cookie(), None, "nobody has set a cookie");
    assert_eq!(heard.header("content-length"), Some("5"));
    let host = format!("127.0.0.1:{}", backend.port());
    assert_eq!(heard.header("Host"), Some(host.as_str()));
    assert_signed(&heard);
}

#[test]
fn the_signature_joins_a_forward_url_that_has_a_query() {
    let backend = Backend::start();
    let url = backend.url("/message/?type={message_type}&app=7");
    let server = Setup::of(&backend).text("forward_url", &url).start();
    let mut client = Client::open(server.addr(), "phone");
    client.send(1, 42, 1, "x");
    client.expect(Command::Ack, 1);
    let heard = backend.messages().remove(0);
    assert_eq!(heard.param("type").as_deref(), Some("42"));
    assert_eq!(heard.param("app").as_deref(), Some("7"));
    assert!(!heard.query.contains('?'), "{}", heard.query);
    assert_signed(&heard);
}

#[test]
fn the_idempotency_key_is_stable_over_retries_and_differs_between_messages() {
    let backend = Backend::start();
    let server = Setup::of(&backend).set("breaker_failures", "1000").start();
    let forwarded = AtomicU32::new(0);
    backend.on_message(move |_| match forwarded.fetch_add(1, Ordering::SeqCst) {
        0 | 1 => Reply::status(500, "not yet"),
        2 => Reply::reset(),
        _ => Reply::ok("done"),
    });
    let mut client = Client::open(server.addr(), "phone");
    client.send(2, 1, 1, "first");
    client.packet(&Packet::send(2, 1, 1, "first").with_dup());
    assert_eq!(client.expect(Command::Rec, 1).text(), "done");
    let key =
        |r: &crate::harness::backend::Request| r.header("Idempotency-Key").expect("every request has a key").to_owned();
    let keys: BTreeSet<_> = backend.messages().iter().map(key).collect();
    assert_eq!((backend.messages().len(), keys.len()), (4, 1), "one key for four attempts");
    client.answer(Command::Rel, 1, "");
    while client.next_packet().command != Command::Com {}
    // The same id again, and the same body: another message, so another key. So is the same from another client.
    let mut other = Client::open(server.addr(), "other");
    client.send(2, 1, 1, "first");
    client.expect(Command::Rec, 1);
    other.send(2, 1, 1, "first");
    other.expect(Command::Rec, 1);
    let keys: BTreeSet<_> = backend.messages().iter().map(key).collect();
    assert_eq!(keys.len(), 3, "{keys:?}");
}

#[test]
fn answers_of_every_length_and_framing_come_through() {
    let (backend, server) = started();
    backend.on_message(|r| {
        let reply = Reply::ok(vec![b'a'; r.body.len()]);
        match r.path.as_str() {
            "/message/1/" => reply,
            "/message/2/" => reply.chunked(),
            _ => reply.until_close(),
        }
    });
    let mut client = Client::open(server.addr(), "phone");
    let mut id = 0;
    for kind in 1..=3 {
        for length in [0, 1, 125, 126, 4096, 65_535, 65_536, 300_000] {
            id += 1;
            client.send(1, kind, id, vec![b'q'; length]);
            let answer = client.expect(Command::Ack, id);
            assert_eq!(answer.body.len(), length, "framing {kind}");
            assert!(answer.body.iter().all(|&b| b == b'a'));
        }
    }
}

#[test]
fn an_answer_without_content_is_an_empty_reply() {
    let (backend, server) = started();
    backend.on_message(|_| Reply::raw("HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n"));
    let mut client = Client::open(server.addr(), "phone");
    assert_eq!(exchange(&mut client, 1, "x"), "");
    assert_eq!(exchange(&mut client, 2, "x"), "");
}

#[test]
fn an_informational_answer_is_not_the_answer() {
    let (backend, server) = started();
    backend.on_message(|_| {
        Reply::raw(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nfinal",
        )
    });
    let mut client = Client::open(server.addr(), "phone");
    assert_eq!(exchange(&mut client, 1, "x"), "final");
}

#[test]
fn a_refusal_of_the_backend_is_final_and_is_answered() {
    let (backend, server) = started();
    backend.on_message(|_| Reply::status(422, "no such room"));
    let mut client = Client::open(server.addr(), "phone");
    client.send(1, 1, 1, "x");
    client.expect(Command::Ack, 1);
    client.send(2, 1, 2, "x");
    client.expect(Command::Rec, 2);
    assert_eq!(backend.messages().len(), 2, "4xx is not retried");
}

/// The reserved bit, then the status.
#[test]
fn a_refusal_reaches_a_client_of_rainbow_2_as_one() {
    let (backend, server) = started();
    backend.on_message(|_| Reply::status(422, "no such room"));
    let mut client = Upgrade::of("page").header("Sec-WebSocket-Protocol", "rainbow.2").open(server.addr());
    client.expect_send();
    for (qos, first) in [(1, 0x21), (2, 0x31)] {
        client.send(qos, 1, u16::from(qos), "x");
        let answer = client.next_frame(TIMEOUT).expect("an answer").payload;
        assert_eq!(answer, [&[first, 0, qos, 1, 166][..], b"no such room"].concat());
    }
}

#[test]
fn a_redirect_of_the_backend_is_a_failure_and_is_not_answered() {
    let (backend, server) = started();
    let forwarded = AtomicU32::new(0);
    backend.on_message(move |_| match forwarded.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::status(302, "moved").header("Location", "/elsewhere/"),
        _ => Reply::ok("done"),
    });
    let mut client = Client::open(server.addr(), "phone");
    client.send(1, 1, 1, "x");
    eventually("the failure is counted", || {
        let samples = crate::harness::metrics::read(server.addr());
        let counts = [samples["rainbow_forwards_failed_total"], samples["rainbow_backend_redirects_total"]];
        (counts == [1.0, 1.0]).then_some(())
    });
    server.process.log.wait_for("the redirect", TIMEOUT, |entry| entry.contains("forward_url redirects"));
    client.packet(&Packet::send(1, 1, 1, "x").with_dup());
    assert_eq!(client.expect(Command::Ack, 1).text(), "done", "its repeat is another attempt");
    assert_eq!(backend.messages().len(), 2, "a redirect is neither followed nor retried");
}

/// A business server that, inside the hook of each message, asks the sender and waits for its acknowledgement.
#[test]
fn a_hook_may_wait_for_the_client_whose_messages_fill_its_queue() {
    let backend = Backend::start();
    let server = Setup::of(&backend).start();
    backend.on_connect(|_| Reply::welcome().header("RAINBOWCLIENTCHANNEL", "me"));
    let to = server.addr();
    backend.on_message(move |request| {
        let answer = send(to, "me", &[("qos", "1"), ("timeout", "5")], request.text());
        Reply::ok(answer["connections"].to_string())
    });
    let mut client = Client::open(server.addr(), "phone");
    for id in 1..=200 {
        client.send(1, 1, id, id.to_string());
    }
    let mut answered = 0;
    while answered < 200 {
        let packet = client.next_packet();
        match packet.command {
            Command::Send => client.answer(Command::Ack, packet.id, ""),
            _ => {
                answered += 1;
                assert_eq!((packet.id, packet.text()), (answered, "1".into()), "the call was acknowledged in time");
            }
        }
    }
}

#[test]
fn response_headers_subscribe_and_unsubscribe() {
    let (backend, server) = started();
    backend.on_message(|r| match r.text().as_str() {
        "join" => Reply::ok("").header("RAINBOWCLIENTCHANNEL", "a;;b"),
        "leave" => Reply::ok("").header("RAINBOWCLIENTCHANNELUNSUB", "a;;never joined"),
        _ => Reply::ok("").header("RainbowClientChannel", "a").header("RainbowClientChannelUnsub", "a;;b"),
    });
    let mut client = Client::open(server.addr(), "phone");
    exchange(&mut client, 1, "join");
    for channel in ["a", "b"] {
        send(server.addr(), channel, &[("qos", "0")], channel);
        assert_eq!(client.expect_send().text(), channel);
    }
    exchange(&mut client, 2, "leave");
    send(server.addr(), "a", &[("qos", "0")], "a");
    send(server.addr(), "b", &[("qos", "0")], "b");
    assert_eq!(client.expect_send().text(), "b", "it has left a, and nothing else");
    exchange(&mut client, 3, "swap");
    send(server.addr(), "b", &[("qos", "0")], "b");
    send(server.addr(), "a", &[("qos", "0")], "a");
    assert_eq!(client.expect_send().text(), "a", "unsubscribing came first");
}

#[test]
fn response_headers_act_at_qos_0_too() {
    let (backend, server) = started();
    backend.on_message(|_| Reply::ok("").header("RAINBOWCLIENTCHANNEL", "a"));
    let mut client = Client::open(server.addr(), "phone");
    client.send(0, 1, 0, "join");
    backend.wait_under("/message", 1);
    eventually("it is in the channel", || {
        send(server.addr(), "a", &[("qos", "0")], "hello");
        client.packet_within(std::time::Duration::from_millis(100))
    });
}

#[test]
fn a_request_that_the_backend_calls_invalid_is_logged_as_an_error() {
    let (backend, server) = started();
    backend.on_message(|_| Reply::ok("x").header("RAINBOWREQUESTINVALID", "60001"));
    let mut client = Client::open(server.addr(), "phone");
    client.send(1, 1, 1, "x");
    client.expect(Command::Ack, 1);
    server.process.log.wait_for("60001 at ERROR", crate::harness::TIMEOUT, |line| {
        line.contains("60001") && line.to_ascii_uppercase().contains("ERROR")
    });
}

#[test]
fn several_urls_of_a_hook_share_the_load() {
    let backend = Backend::start();
    let second = Backend::start();
    let urls = format!("[{:?}, {:?}]", backend.url("/message/{message_type}/"), second.url("/message/{message_type}/"));
    let server = Setup::of(&backend).set("forward_url", &urls).start();
    for number in 0..8 {
        let mut client = Client::open(server.addr(), &format!("phone{number}"));
        for id in 1..=10 {
            assert_eq!(exchange(&mut client, id, "x"), "re:x");
        }
    }
    let (one, two) = (backend.messages().len(), second.messages().len());
    assert_eq!(one + two, 80);
    assert!(one >= 16 && two >= 16, "{one} and {two} of 80");
}

#[test]
fn connections_to_the_backend_are_kept_alive_and_pooled() {
    let backend = Backend::start();
    let server = Setup::of(&backend).set("backend_connections", "2").set("workers", "1").start();
    let mut clients: Vec<_> = (0..10).map(|i| Client::open(server.addr(), &format!("phone{i}"))).collect();
    for id in 1..=10 {
        for client in &mut clients {
            client.send(1, 1, id, "x");
        }
        for client in &mut clients {
            client.expect(Command::Ack, id);
        }
    }
    let connections: BTreeSet<_> = backend.messages().iter().map(|r| r.connection).collect();
    assert_eq!(backend.messages().len(), 100);
    // Connects and messages go to one host, so they share two; one more is allowed for a replacement.
    assert!(connections.len() <= 3, "{} connections for 100 requests", connections.len());
}

#[test]
fn an_idle_connection_that_the_backend_closed_costs_no_message() {
    let (mut backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    assert_eq!(exchange(&mut client, 1, "x"), "re:x");
    // Its end of every pooled connection is gone, and the server may not have noticed.
    backend.stop();
    backend.restart();
    assert_eq!(exchange(&mut client, 2, "y"), "re:y");
}

#[test]
fn a_host_name_is_resolved() {
    let backend = Backend::start();
    let url = format!("http://localhost:{}/message/{{message_type}}/", backend.port());
    let server = Setup::of(&backend).text("forward_url", &url).start();
    let mut client = Client::open(server.addr(), "phone");
    assert_eq!(exchange(&mut client, 1, "x"), "re:x");
    let host = format!("localhost:{}", backend.port());
    assert_eq!(backend.messages()[0].header("Host"), Some(host.as_str()));
}

#[test]
fn forwarded_requests_carry_a_webhook_signature_when_a_secret_is_set() {
    let backend = Backend::start();
    let (first, second) = (webhook_secret(1), webhook_secret(2));
    let server = Setup::of(&backend).set("webhook_secrets", &format!("[{first:?}, {second:?}]")).start();
    let mut client = Client::open(server.addr(), "phone");
    exchange(&mut client, 1, "pay 5");
    client.leave();
    backend.wait_under("/close", 1);
    let requests = backend.seen();
    assert_eq!(requests.len(), 3);
    for request in requests {
        let part =
            |name: &str| request.header(name).unwrap_or_else(|| panic!("no {name} on {}", request.path)).to_owned();
        let expected = webhook_signature(&first, &part("webhook-id"), &part("webhook-timestamp"), &request.body);
        let signatures = part("webhook-signature");
        assert!(signatures.split(' ').any(|s| s == expected), "{}: {signatures}", request.path);
    }
}

#[test]
fn one_client_in_a_slow_request_does_not_hold_up_another() {
    let backend = Backend::start();
    let server = Setup::of(&backend).set("workers", "1").start();
    let gate = crate::harness::backend::Gate::new();
    backend.on_message({
        let gate = gate.clone();
        move |r| {
            if r.text() == "slow" {
                gate.pass();
            }
            Reply::ok(r.body.clone())
        }
    });
    let mut slow = Client::open(server.addr(), "slow");
    let mut quick = Client::open(server.addr(), "quick");
    slow.send(1, 1, 1, "slow");
    backend.wait_under("/message", 1);
    assert_eq!(exchange(&mut quick, 1, "quick"), "quick");
    gate.open();
    slow.expect(Command::Ack, 1);
}

#[test]
fn a_client_that_left_loses_no_message_that_it_had_sent() {
    let (backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    subscribe(server.addr(), &backend.identity_of("phone"), "a");
    client.send(1, 1, 1, "last words");
    client.leave();
    assert_eq!(backend.wait_under("/message", 1)[0].text(), "last words");
    // The business server hears the words before it hears of the end.
    backend.wait_under("/close", 1);
    let order: Vec<_> = backend.seen().into_iter().map(|r| r.path).collect();
    assert_eq!(order, ["/connect/", "/message/1/", "/close/"]);
}
