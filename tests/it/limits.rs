//! What a client may take: connections, message sizes, rates, and what happens to one that does not read.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use crate::harness::call::{send_later, signed_target};
use crate::harness::client::{BINARY, CONTINUATION, MASK, Message, TEXT};
use crate::harness::http::{self, Wire};
use crate::harness::metrics::{Counted, counted, read, risen};
use crate::harness::{Backend, Client, Command, Packet, Reply, Setup, TIMEOUT, Upgrade, eventually, send};

/// Everybody is in channel `all` and in one of the device's name.
fn subscribing() -> Backend {
    let backend = Backend::start();
    backend.on_connect(|r| {
        let device = r.header("X-DEVICEID").unwrap_or_default().to_owned();
        Reply::welcome().header("RAINBOWCLIENTCHANNEL", &format!("all;;{device}"))
    });
    backend
}

#[test]
fn one_connection_too_many_gets_503_and_the_backend_is_not_asked() {
    let backend = Backend::start();
    let server = Setup::of(&backend).set("connections_max", "4").start();
    let mut clients: Vec<_> = (0..4).map(|i| Client::open(server.addr(), &format!("phone{i}"))).collect();
    let refusal = counted(server.addr(), Counted::Refusal, || Upgrade::of("fifth").refused(server.addr()));
    assert_eq!(refusal.status, 503);
    assert!(refusal.header("retry-after").is_some());
    assert_eq!(backend.connects().len(), 4, "the backend was asked about the fifth");
    for client in &mut clients {
        client.assert_open();
    }
    clients.pop().expect("there are four").close(1000, "");
    eventually("the place is free again", || Upgrade::of("next").try_open(server.addr()).ok());
}

#[test]
fn too_many_of_one_address_get_429() {
    let backend = Backend::start();
    let server = Setup::of(&backend).set("connections_per_address", "3").text("listen", "::").start();
    let mut clients: Vec<_> = (0..3).map(|i| Client::open(server.addr(), &format!("phone{i}"))).collect();
    let refusal = counted(server.addr(), Counted::Refusal, || Upgrade::of("fourth").refused(server.addr()));
    assert_eq!(refusal.status, 429);
    assert!(refusal.header("retry-after").is_some());
    assert_eq!(backend.connects().len(), 3, "the backend was asked about the fourth");
    // Another address has a count of its own.
    let mut neighbour = Upgrade::of("neighbour").open((Ipv6Addr::LOCALHOST, server.port()).into());
    neighbour.assert_open();
    clients.pop().expect("there are three").cut();
    eventually("the place is free again", || Upgrade::of("next").try_open(server.addr()).ok());
}

#[test]
fn an_origin_that_is_not_allowed_gets_403() {
    let backend = Backend::start();
    let server = Setup::of(&backend).set("allowed_origins", r#"["https://app.test"]"#).start();
    let with = |origin: &str| Upgrade::of("phone").header("Origin", origin);
    for origin in ["https://evil.test", "http://app.test", "https://app.test.evil.test", "null"] {
        let refusal = counted(server.addr(), Counted::Refusal, || with(origin).refused(server.addr()));
        assert_eq!(refusal.status, 403, "{origin}");
    }
    assert_eq!(backend.seen().len(), 0);
    with("https://app.test").open(server.addr()).assert_open();
}

#[test]
fn without_allowed_origins_a_page_may_connect_to_its_own_host() {
    let server = Setup::new().start();
    let with = |origin: &str| Upgrade::of("phone").header("Origin", origin);
    with("http://127.0.0.1:8000").open(server.addr()).assert_open();
    for origin in ["https://anything.test", "http://127.0.0.2", "null"] {
        assert_eq!(with(origin).refused(server.addr()).status, 403, "{origin}");
    }
    for every in [
        Setup::new().set("allowed_origins", r#"["*"]"#),
        Setup::new().file("rainbow.ini", "[main]\nsecurity_token = x\n"),
    ] {
        let server = every.start();
        with("https://anything.test").open(server.addr()).assert_open();
    }
}

#[test]
fn an_app_without_an_origin_is_let_in_whatever_is_allowed() {
    let server = Setup::new().set("allowed_origins", r#"["https://app.test"]"#).start();
    Upgrade::of("phone").open(server.addr()).assert_open();
}

#[test]
fn a_message_over_the_limit_gets_1009() {
    let backend = Backend::start();
    let mut server = Setup::of(&backend).set("message_bytes_max", "1000").start();
    let limit = |client: &mut Client| {
        client.send(1, 1, 1, vec![b'x'; 1000 - 5]);
        client.expect(Command::Ack, 1);
    };
    let mut whole = Client::open(server.addr(), "whole");
    limit(&mut whole);
    let code = counted(server.addr(), Counted::Violation, || {
        whole.send(1, 1, 2, vec![b'x'; 1001 - 5]);
        whole.expect_close().0
    });
    assert_eq!(code, 1009, "one frame over the limit");
    // From the header alone: not one byte of the payload has come.
    let headers: [(&str, &[u8]); 3] = [
        ("two bytes of length", &[0x82, 0xfe, 0x03, 0xe9]),
        ("a terabyte", &[0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 0]),
        ("nearly all there is", &[0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
    ];
    let before = server.rss();
    for (name, header) in headers {
        let mut client = Client::open(server.addr(), "declared");
        client.raw(&[header, &MASK].concat());
        assert_eq!(client.expect_close().0, 1009, "{name}");
    }
    assert!(server.rss() < before + (8 << 20), "allocated by a declared length");
    let mut fragments = Client::open(server.addr(), "fragments");
    limit(&mut fragments);
    fragments.frame(false, BINARY, &[b'x'; 600]);
    fragments.frame(false, CONTINUATION, &[b'x'; 400]);
    fragments.assert_open();
    fragments.frame(true, CONTINUATION, b"x");
    assert_eq!(fragments.expect_close().0, 1009, "fragments that are too long together");
    let mut text = Client::open(server.addr(), "text");
    text.frame(true, TEXT, &[b'x'; 1001]);
    assert_eq!(text.expect_close().0, 1009);
    server.assert_alive();
}

#[test]
fn more_messages_per_second_than_allowed_wait_and_repeats_do_not_count() {
    let backend = Backend::start();
    let server = Setup::of(&backend).set("messages_per_second", "50").start();
    let mut greedy = Client::open(server.addr(), "greedy");
    let began = std::time::Instant::now();
    for id in 1..=150 {
        greedy.send(1, 1, id, "x");
    }
    (1..=150).for_each(|id| drop(greedy.expect(Command::Ack, id)));
    // Three seconds' worth: the first at once, the second a second later.
    greedy.send(1, 1, 151, "x");
    greedy.expect(Command::Ack, 151);
    assert!(began.elapsed() > std::time::Duration::from_millis(900), "{:?}", began.elapsed());
    for _ in 0..200 {
        greedy.packet(&Packet::send(1, 1, 151, "x").with_dup());
    }
    (0..200).for_each(|_| drop(greedy.expect(Command::Ack, 151)));
    greedy.assert_open();
    assert_eq!(backend.messages().len(), 151);
}

/// An honest client that pipelines, and a backend whose answers are long.
#[test]
fn long_answers_to_a_client_that_pipelines_wait_for_its_releases() {
    let backend = Backend::start();
    let server = Setup::of(&backend).start();
    backend.on_message(|_| Reply::ok(vec![b'a'; 200_000]));
    let mut client = Client::open(server.addr(), "phone");
    (1..=12).for_each(|id| client.send(2, 1, id, "x"));
    let (mut received, mut released) = (0, 0);
    while received < 12 {
        // It releases what it has when nothing more comes.
        match client.packet_within(Duration::from_millis(300)) {
            Some(packet) if packet.command == Command::Com => {}
            Some(packet) => {
                received += 1;
                assert_eq!((packet.command, packet.id, packet.body.len()), (Command::Rec, received, 200_000));
            }
            None => {
                assert!(released < received, "nothing comes, and nothing is left to release");
                (released + 1..=received).for_each(|id| client.answer(Command::Rel, id, ""));
                released = received;
            }
        }
    }
    assert_eq!(backend.messages().len(), 12, "each is forwarded once");
}

#[test]
fn a_slow_reader_loses_qos_0_oldest_first() {
    let backend = subscribing();
    let server = Setup::of(&backend).set("outbox_bytes_max", "65536").set("message_bytes_max", "65536").start();
    let mut lazy = Client::open(server.addr(), "lazy");
    let before = read(server.addr());
    let drops = || risen(&before, &read(server.addr()), Counted::DroppedDown);
    // The kernel takes some MiB for a client that does not read; then the outbox fills, then it drops.
    let mut count = 0;
    while drops() < 10.0 {
        assert!(count < 5000, "50 MB are kept for one client");
        let body = [format!("{count:06}").as_bytes(), &vec![b'x'; 10_000]].concat();
        assert_eq!(send(server.addr(), "all", &[("qos", "0")], body)["status"], 0);
        count += 1;
    }
    let mut received = Vec::new();
    while received.last() != Some(&(count - 1)) {
        let packet = lazy
            .packet_within(TIMEOUT)
            .unwrap_or_else(|| panic!("{} of {count} came, the last {:?}", received.len(), received.last()));
        received.push(packet.text()[..6].parse::<usize>().expect("a number"));
    }
    assert!(received.is_sorted(), "out of order: {received:?}");
    let lost = count - received.len();
    eventually("each drop is counted once", || (drops() as usize == lost).then_some(()));
    lazy.assert_open();
}

#[test]
fn a_client_that_does_not_read_is_closed_when_its_outbox_is_full() {
    let backend = subscribing();
    let mut server = Setup::of(&backend).set("inflight_window", "1000").start();
    let mut lazy = Client::open(server.addr(), "lazy");
    let mut quick = Client::open(server.addr(), "quick");
    counted(server.addr(), Counted::SlowClient, || {
        // QoS 1 cannot be dropped, so what does not fit closes the client.
        let senders: Vec<_> = (0..8)
            .map(|_| {
                let to = server.addr();
                std::thread::spawn(move || {
                    for _ in 0..8 {
                        send(to, "lazy", &[("qos", "1"), ("timeout", "1")], vec![b'x'; 900_000]);
                    }
                })
            })
            .collect();
        backend.wait_under("/close", 1);
        for sender in senders {
            sender.join().expect("every call is answered");
        }
    });
    let waiting = send_later(server.addr(), "quick", &[("qos", "1"), ("timeout", "5")], "x");
    let id = quick.expect_send().id;
    quick.answer(Command::Ack, id, "");
    assert_eq!(waiting.join().expect("answered")["connections"], 1, "one suffered for another");
    // What the kernel had taken comes first; then the code, if its frame found room, and the end.
    let closed = loop {
        match lazy.next_within(Duration::from_secs(5)) {
            Ok(Message::Close(code, _)) => break Some(code),
            Ok(_) => {}
            Err(crate::harness::Gone::Ended) => break None,
            Err(gone) => panic!("{gone:?}"),
        }
    };
    assert!(closed.is_none_or(|code| code == 1013), "closed with {closed:?}");
    server.assert_alive();
}

#[test]
fn the_close_code_for_a_full_outbox_is_1013() {
    let backend = subscribing();
    // The client reads, but it answers nothing: the window fills, then the outbox behind it.
    let server = Setup::of(&backend)
        .set("outbox_bytes_max", "65536")
        .set("message_bytes_max", "65536")
        .set("inflight_window", "2")
        .start();
    let mut client = Client::open(server.addr(), "phone");
    let senders: Vec<_> = (0..12)
        .map(|_| send_later(server.addr(), "all", &[("qos", "1"), ("timeout", "3")], vec![b'x'; 20_000]))
        .collect();
    assert_eq!(client.expect_close().0, 1013);
    for sender in senders {
        assert_eq!(sender.join().expect("answered")["status"], 0);
    }
}

#[test]
fn channels_per_connection_are_limited() {
    let backend = Backend::start();
    let mut server = Setup::of(&backend).set("channels_per_connection", "5").start();
    let names: Vec<_> = (0..100).map(|i| format!("c{i}")).collect();
    let names = names.join(";;");
    backend.on_message(move |_| Reply::ok("").header("RAINBOWCLIENTCHANNEL", &names));
    let mut client = Client::open(server.addr(), "phone");
    client.send(1, 1, 1, "join all");
    client.expect(Command::Ack, 1);
    let mut heard = 0;
    for i in 0..100 {
        let to = server.addr();
        send(to, &format!("c{i}"), &[("qos", "0")], "x");
    }
    while client.packet_within(Duration::from_millis(500)).is_some() {
        heard += 1;
    }
    assert_eq!(heard, 5);
    server.assert_alive();
}

#[test]
fn qos_2_ids_that_are_never_released_are_limited() {
    let backend = Backend::start();
    let mut server = Setup::of(&backend).set("received_max", "16").start();
    let mut client = Client::open(server.addr(), "phone");
    let mut closed = None;
    let before = read(server.addr());
    for id in 1..=200 {
        client.send(2, 1, id, "x");
    }
    for _ in 0..200 {
        match client.next_within(Duration::from_secs(3)) {
            Ok(Message::Close(code, _)) => {
                closed = Some(code);
                break;
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    // Held back or closed with 1008; in no case are 200 ids held.
    assert!(closed.is_none_or(|code| code == 1008), "{closed:?}");
    let counted = risen(&before, &read(server.addr()), Counted::OverLimit);
    assert_eq!(counted > 0.0, closed.is_some());
    assert!(backend.messages().len() <= 20, "{} were taken", backend.messages().len());
    server.assert_alive();
}

#[test]
fn calls_that_wait_are_limited() {
    let backend = subscribing();
    let mut server = Setup::of(&backend).set("calls_max", "3").set("workers", "1").start();
    let mut client = Client::open(server.addr(), "phone");
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let to = server.addr();
            std::thread::spawn(move || {
                crate::harness::call(to, "/send/", &[("channel", "all"), ("qos", "1"), ("timeout", "3")], "x")
            })
        })
        .collect();
    // Those that are let wait reach the client, the others are refused at once.
    let first = client.expect_send();
    client.answer(Command::Ack, first.id, "");
    let answers: Vec<_> = calls.into_iter().map(|call| call.join().expect("answered")).collect();
    let refused = answers.iter().filter(|answer| answer.is_refusal() || answer.status == 503).count();
    assert!((1..=7).contains(&refused), "{refused} of 10 calls refused with room for 3");
    server.assert_alive();
}

#[test]
fn an_unsubscription_that_finds_no_room_among_the_calls_is_no_success() {
    let backend = subscribing();
    let mut server = Setup::of(&backend).set("calls_max", "1").set("workers", "1").start();
    let mut client = Client::open(server.addr(), "phone");
    let waiting = crate::harness::call::send_later(server.addr(), "all", &[("qos", "1"), ("timeout", "20")], "x");
    let message = client.expect_send();
    let body = format!(r#"{{"identity":"{}","channel":"all"}}"#, backend.identity_of("phone"));
    let refused = crate::harness::call(server.addr(), "/unsub/", &[], &body);
    assert_eq!(refused.status, 503, "{refused:?}");
    client.answer(Command::Ack, message.id, "");
    waiting.join().expect("answered");
    assert_eq!(crate::harness::call(server.addr(), "/unsub/", &[], &body).outcome(), 0);
    server.assert_alive();
}

#[test]
fn a_panic_costs_one_connection_1011_and_no_other() {
    let backend = Backend::start();
    let mut server = Setup::of(&backend).env("RAINBOW_TEST_PANIC_TYPE", "4242").set("workers", "1").start();
    let mut bystander = Client::open(server.addr(), "bystander");
    let mut unlucky = Client::open(server.addr(), "unlucky");
    let before = read(server.addr());
    unlucky.send(1, 4242, 1, "x");
    assert_eq!(unlucky.expect_close().0, 1011);
    let after = read(server.addr());
    assert_eq!(after["rainbow_panics_total"] - before["rainbow_panics_total"], 1.0);
    assert_eq!(
        after["rainbow_connections_closed_total{reason=\"panic\"}"]
            - before["rainbow_connections_closed_total{reason=\"panic\"}"],
        1.0
    );
    bystander.send(1, 1, 1, "x");
    bystander.expect(Command::Ack, 1);
    backend.wait_under("/close", 1);
    server.assert_alive();
}

#[test]
fn a_panic_that_concerns_more_than_a_connection_ends_the_process() {
    let backend = Backend::start();
    let mut server = Setup::of(&backend).env("RAINBOW_TEST_PANIC_IN_TURN_TYPE", "4242").set("workers", "2").start();
    let mut unlucky = Client::open(server.addr(), "unlucky");
    unlucky.send(1, 4242, 1, "x");
    assert_eq!(server.exited_within(TIMEOUT).code(), Some(101));
    let log = server.log();
    assert!(log.contains("asked to panic by a test") && log.contains("so that it can be started again"), "{log}");
}

#[test]
fn a_caller_that_does_not_read_is_not_written_for() {
    let backend = Backend::start();
    let server = Setup::of(&backend).start();
    let page = http::get(server.addr(), "/serverinfo/").body;
    let before = server.rss();
    // Enough answers to fill what the kernel holds, and 20 MB more.
    let pairs = (24 << 20) / page.len();
    let wire = Wire::connect(server.addr());
    let mut writing = wire.stream.try_clone().expect("a second handle");
    let writer = std::thread::spawn(move || {
        let pair = b"GET /hello/ HTTP/1.1\r\nHost: x\r\n\r\nGET /serverinfo/ HTTP/1.1\r\nHost: x\r\n\r\n";
        (0..pairs).for_each(|_| writing.write_all(pair).expect("the server reads on when its answers are read"));
    });
    let mut requests = 0.0;
    eventually("no request is read but this question", || {
        let now = read(server.addr())["rainbow_http_requests_total"];
        (std::mem::replace(&mut requests, now) + 1.0 == now).then_some(())
    });
    let grown = server.rss().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more for a caller that does not read");
    let mut wire = wire;
    let deadline = Instant::now() + TIMEOUT;
    for pair in 0..pairs {
        let hello = wire.response(deadline).unwrap_or_else(|e| panic!("of {pairs} pairs came {pair}: {e}"));
        assert_eq!((hello.status, hello.text().as_str()), (200, "ok"));
        assert_eq!(wire.response(deadline).expect("the page").body, page);
    }
    writer.join().expect("all was written");
    assert!(wire.buffer.is_empty(), "more answers than requests");
}

#[test]
fn a_caller_that_half_closes_gets_the_whole_of_a_long_answer() {
    let backend = subscribing();
    let server = Setup::of(&backend).start();
    let mut client = Client::open(server.addr(), "c");
    let mut wire = Wire::connect(server.addr());
    let target = signed_target("/send/", &[("channel", "all"), ("qos", "1"), ("timeout", "10")]);
    wire.write(format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi").as_bytes());
    // A second call that never comes whole: the connection is ended for it.
    wire.write(format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nh").as_bytes());
    wire.stream.shutdown(std::net::Shutdown::Write).expect("the server is there");
    let before = read(server.addr());
    // In JSON each byte takes six: more than the kernel holds for a caller that does not read.
    let reply = "\x01".repeat(900_000);
    let message = client.next_packet();
    client.answer(Command::Ack, message.id, &reply);
    eventually("the call is done", || {
        let calls = |samples: &BTreeMap<String, f64>| samples["rainbow_calls_total"];
        (calls(&read(server.addr())) > calls(&before)).then_some(())
    });
    let answer = wire.response(Instant::now() + TIMEOUT).expect("the whole answer");
    assert!(answer.json()["data"] == *reply, "not the client's reply");
}
