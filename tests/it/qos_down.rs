//! From the business server to clients: /send/ in its three qualities of service, repeats, windows, and who has answered.

use std::time::{Duration, Instant};

use crate::harness::call::send_later;
use crate::harness::client::Message;
use crate::harness::metrics::{Counted, counted};
use crate::harness::{Backend, Client, Command, Gone, Packet, Reply, Server, Setup, send};

/// Everybody is in channel `all` and in one of the device's name.
fn subscribing() -> Backend {
    let backend = Backend::start();
    backend.on_connect(|r| {
        let device = r.header("X-DEVICEID").unwrap_or_default().to_owned();
        Reply::welcome().header("RAINBOWCLIENTCHANNEL", &format!("all;;{device}"))
    });
    backend
}

fn started() -> (Backend, Server) {
    let backend = subscribing();
    let server = Setup::of(&backend).start();
    (backend, server)
}

fn impatient(backend: &Backend) -> Setup {
    Setup::of(backend).set("ack_timeout", "0.3")
}

#[test]
fn qos_0_is_sent_and_answered_at_once() {
    let (_backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    let body: Vec<u8> = (0..=255).collect();
    let answer = send(server.addr(), "all", &[("qos", "0"), ("msgtype", "513")], &body);
    assert_eq!(answer["status"], 0);
    assert_eq!(client.expect_send(), Packet::send(0, 513, 0, &body));
}

#[test]
fn qos_1_is_answered_when_the_client_has() {
    let (_backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    let waiting = send_later(server.addr(), "all", &[("qos", "1"), ("msgtype", "9"), ("timeout", "8")], "hello");
    let message = client.expect_send();
    assert_eq!((message.qos, message.kind, message.dup, message.text()), (1, 9, false, "hello".into()));
    client.answer(Command::Ack, message.id, "thank you");
    let answer = waiting.join().expect("answered");
    assert_eq!((&answer["status"], &answer["connections"]), (&0.into(), &1.into()));
    assert_eq!(answer["data"], "thank you");
}

#[test]
fn qos_2_is_answered_when_the_client_has_received() {
    let (_backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    let waiting = send_later(server.addr(), "all", &[("qos", "2"), ("timeout", "8")], "hello");
    let message = client.expect_send();
    assert_eq!((message.qos, message.text()), (2, "hello".into()));
    client.answer(Command::Rec, message.id, "thank you");
    client.expect(Command::Rel, message.id);
    client.answer(Command::Com, message.id, "");
    let answer = waiting.join().expect("answered");
    assert_eq!((&answer["status"], &answer["connections"]), (&0.into(), &1.into()));
    assert_eq!(answer["data"], "thank you");
    client.assert_open();
}

#[test]
fn quality_and_type_have_their_defaults() {
    let (_backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    let waiting = send_later(server.addr(), "all", &[], "hello");
    let message = client.expect_send();
    assert_eq!((message.qos, message.kind), (2, 1));
    client.answer(Command::Rec, message.id, "");
    client.expect(Command::Rel, message.id);
    client.answer(Command::Com, message.id, "");
    assert_eq!(waiting.join().expect("answered")["connections"], 1);
}

#[test]
fn an_unanswered_send_is_repeated_with_dup_and_its_id() {
    let backend = subscribing();
    let server = impatient(&backend).start();
    let mut client = Client::open(server.addr(), "phone");
    for (qos, answer) in [(1, Command::Ack), (2, Command::Rec)] {
        let waiting = send_later(server.addr(), "all", &[("qos", &qos.to_string()), ("timeout", "8")], "hello");
        let begun = Instant::now();
        let first = client.expect_send();
        assert!(!first.dup);
        let repeats: Vec<_> = (0..2).map(|_| client.expect_send()).collect();
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(500), "two repeats after {took:?}");
        for repeat in repeats {
            assert_eq!(repeat, first.clone().with_dup());
        }
        client.answer(answer, first.id, "at last");
        if qos == 2 {
            client.expect(Command::Rel, first.id);
            client.answer(Command::Com, first.id, "");
        }
        assert_eq!(waiting.join().expect("answered")["data"], "at last");
    }
}

#[test]
fn repeats_may_become_rarer() {
    let backend = subscribing();
    let server = Setup::of(&backend).set("ack_timeout", "0.2").set("ack_backoff", "3").start();
    let mut client = Client::open(server.addr(), "phone");
    let waiting = send_later(server.addr(), "all", &[("qos", "1"), ("timeout", "9")], "hello");
    client.expect_send();
    let sent = Instant::now();
    client.expect_send();
    let first = sent.elapsed();
    let repeated_at = Instant::now();
    let id = client.expect_send().id;
    let second = repeated_at.elapsed();
    assert!(second >= Duration::from_millis(450) && second > first, "{first:?}, then {second:?}");
    client.answer(Command::Ack, id, "");
    assert_eq!(waiting.join().expect("answered")["connections"], 1);
}

#[test]
fn repeats_are_counted() {
    let backend = subscribing();
    let server = impatient(&backend).start();
    let mut client = Client::open(server.addr(), "phone");
    let waiting = counted(server.addr(), Counted::Repeat, || {
        let waiting = send_later(server.addr(), "all", &[("qos", "1"), ("timeout", "8")], "hello");
        client.expect_send();
        assert!(client.expect_send().dup);
        waiting
    });
    client.answer(Command::Ack, 1, "");
    drop((client, waiting));
}

#[test]
fn an_answer_ends_the_repeats() {
    let backend = subscribing();
    let server = impatient(&backend).start();
    let mut client = Client::open(server.addr(), "phone");
    let waiting = send_later(server.addr(), "all", &[("qos", "1"), ("timeout", "8")], "hello");
    let id = client.expect_send().id;
    client.answer(Command::Ack, id, "");
    waiting.join().expect("answered");
    // Three times the time to a repeat.
    assert_eq!(client.packet_within(Duration::from_millis(900)), None);
}

#[test]
fn rel_is_repeated_until_com_comes() {
    let backend = subscribing();
    let server = impatient(&backend).start();
    let mut client = Client::open(server.addr(), "phone");
    let waiting = send_later(server.addr(), "all", &[("qos", "2"), ("timeout", "8")], "hello");
    let id = client.expect_send().id;
    client.answer(Command::Rec, id, "r");
    for _ in 0..3 {
        client.expect(Command::Rel, id);
    }
    client.answer(Command::Com, id, "");
    assert_eq!(waiting.join().expect("answered")["connections"], 1);
    assert_eq!(client.packet_within(Duration::from_millis(900)), None);
}

#[test]
fn a_repeated_rec_is_answered_with_rel_again() {
    let (_backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    let waiting = send_later(server.addr(), "all", &[("qos", "2"), ("timeout", "8")], "hello");
    let id = client.expect_send().id;
    for _ in 0..3 {
        client.answer(Command::Rec, id, "r");
        client.expect(Command::Rel, id);
    }
    client.answer(Command::Com, id, "");
    let answer = waiting.join().expect("answered");
    assert_eq!((&answer["connections"], &answer["data"]), (&1.into(), &"r".into()));
}

#[test]
fn a_client_that_never_answers_is_pinged_and_then_closed() {
    let backend = subscribing();
    let server = impatient(&backend).set("pong_timeout", "0.5").set("close_timeout", "0.2").start();
    let mut client = Client::open(server.addr(), "phone");
    client.answers_pings = false;
    let waiting = send_later(server.addr(), "all", &[("qos", "1"), ("timeout", "1")], "hello");
    let mut pinged = None;
    let gone = loop {
        match client.next_within(Duration::from_secs(8)) {
            Ok(Message::Ping(_)) => pinged = Some(Instant::now()),
            Ok(Message::Packet(packet)) => assert_eq!(packet.command, Command::Send),
            Ok(Message::Close(..)) => break Gone::Ended,
            Ok(Message::Pong(_)) => panic!("a pong to no ping"),
            Err(gone) => break gone,
        }
    };
    assert_eq!(gone, Gone::Ended, "it was not closed");
    let pinged = pinged.expect("it was pinged first");
    assert!(pinged.elapsed() >= Duration::from_millis(300), "closed {:?} after the ping", pinged.elapsed());
    assert_eq!(waiting.join().expect("answered")["connections"], 0);
    backend.wait_under("/close", 1);
}

#[test]
fn a_client_that_never_answers_but_pongs_stays() {
    let backend = subscribing();
    let server = impatient(&backend).set("pong_timeout", "0.5").set("close_timeout", "0.2").start();
    let mut client = Client::open(server.addr(), "phone");
    let waiting = send_later(server.addr(), "all", &[("qos", "1"), ("timeout", "1")], "hello");
    while !matches!(client.next(), Message::Ping(_)) {}
    assert_eq!(waiting.join().expect("answered")["connections"], 0);
    // Well past pong_timeout.
    let later = Instant::now() + Duration::from_millis(1500);
    while let Ok(message) = client.next_within(later.saturating_duration_since(Instant::now())) {
        assert!(!matches!(message, Message::Close(..)), "{message:?}");
    }
    client.assert_open();
    assert_eq!(backend.closes().len(), 0);
}

#[test]
fn the_caller_is_answered_within_its_timeout() {
    let backend = subscribing();
    let server = impatient(&backend).start();
    let mut silent = Client::open(server.addr(), "silent");
    let begun = Instant::now();
    let answer = send(server.addr(), "silent", &[("qos", "1"), ("timeout", "1")], "hello");
    let took = begun.elapsed();
    assert_eq!((&answer["status"], &answer["connections"]), (&0.into(), &0.into()));
    assert!(took >= Duration::from_millis(800) && took < Duration::from_secs(3), "{took:?} for a timeout of 1 s");
    silent.expect_send();
}

#[test]
fn the_answer_counts_those_who_answered() {
    let (_backend, server) = started();
    let mut clients: Vec<_> = (0..6).map(|i| Client::open(server.addr(), &format!("phone{i}"))).collect();
    let waiting = send_later(server.addr(), "all", &[("qos", "1"), ("timeout", "2")], "hello");
    for (number, client) in clients.iter_mut().enumerate() {
        let id = client.expect_send().id;
        if number < 4 {
            client.answer(Command::Ack, id, format!("from {number}"));
        }
    }
    let answer = waiting.join().expect("answered");
    assert_eq!(answer["connections"], 4);
    let data = answer["data"].as_str().expect("a client's reply as text");
    assert!(data.starts_with("from "), "{data}");
}

#[test]
fn a_client_that_leaves_does_not_hold_the_caller_up() {
    let (_backend, server) = started();
    let mut stays = Client::open(server.addr(), "stays");
    let mut leaves = Client::open(server.addr(), "leaves");
    let begun = Instant::now();
    let waiting = send_later(server.addr(), "all", &[("qos", "1"), ("timeout", "9")], "hello");
    let id = stays.expect_send().id;
    leaves.expect_send();
    leaves.cut();
    stays.answer(Command::Ack, id, "");
    assert_eq!(waiting.join().expect("answered")["connections"], 1);
    assert!(begun.elapsed() < Duration::from_secs(7), "waited for somebody who is gone: {:?}", begun.elapsed());
}

#[test]
fn a_channel_with_nobody_is_answered_at_once() {
    let (_backend, server) = started();
    let begun = Instant::now();
    let answer = send(server.addr(), "empty", &[("qos", "2"), ("timeout", "9")], "hello");
    assert_eq!((&answer["status"], &answer["connections"]), (&0.into(), &0.into()));
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn the_window_limits_what_is_in_flight() {
    let backend = subscribing();
    let server = impatient(&backend).set("inflight_window", "4").start();
    let mut client = Client::open(server.addr(), "phone");
    let waiting: Vec<_> =
        (0..10).map(|i| send_later(server.addr(), "all", &[("qos", "1"), ("timeout", "9")], format!("{i}"))).collect();
    // Every message of the window comes again before it is answered, so what is not seen by then is held back.
    let mut repeats = std::collections::BTreeMap::new();
    while repeats.len() < 4 || repeats.values().any(|&n| n < 2) {
        let message = client.expect_send();
        *repeats.entry(message.id).or_insert(0) += u32::from(message.dup);
        assert!(repeats.len() <= 4, "five in flight: {repeats:?}");
    }
    // Each answer lets one more in, until all ten have come.
    let mut bodies = std::collections::BTreeSet::new();
    for &id in repeats.keys() {
        client.answer(Command::Ack, id, "");
    }
    while repeats.len() < 10 {
        let message = client.expect_send();
        client.answer(Command::Ack, message.id, "");
        repeats.insert(message.id, 0);
        bodies.insert(message.text());
    }
    assert!(bodies.len() >= 6, "the six that waited: {bodies:?}");
    for caller in waiting {
        assert_eq!(caller.join().expect("answered")["connections"], 1);
    }
}

#[test]
fn ids_in_flight_differ() {
    let (_backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    let waiting: Vec<_> = (0..12)
        .map(|i| {
            let qos = if i % 2 == 0 { "1" } else { "2" };
            send_later(server.addr(), "all", &[("qos", qos), ("timeout", "9")], format!("{i}"))
        })
        .collect();
    let messages: Vec<_> = (0..12).map(|_| client.expect_send()).collect();
    let mut ids: Vec<_> = messages.iter().map(|m| m.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 12, "{messages:?}");
    for message in messages {
        let answer = if message.qos == 1 { Command::Ack } else { Command::Rec };
        client.answer(answer, message.id, message.text());
    }
    let mut replies: Vec<_> = waiting
        .into_iter()
        .enumerate()
        .map(|(i, caller)| (i.to_string(), caller.join().expect("answered")["data"].as_str().map(str::to_owned)))
        .collect();
    replies.retain(|(sent, reply)| reply.as_ref() != Some(sent));
    assert_eq!(replies, [], "each caller gets the reply to its own message");
}

#[test]
fn messages_to_one_client_keep_their_order() {
    let (_backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    for number in 0..50 {
        send(server.addr(), "all", &[("qos", "0")], number.to_string());
    }
    let received: Vec<_> = (0..50).map(|_| client.expect_send().text()).collect();
    assert_eq!(received, (0..50).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_broad_message_reaches_clients_of_every_worker() {
    let (_backend, server) = started();
    let mut clients: Vec<_> = (0..30).map(|i| Client::open(server.addr(), &format!("phone{i}"))).collect();
    let waiting = send_later(server.addr(), "all", &[("qos", "2"), ("timeout", "9")], "to all");
    for client in &mut clients {
        let message = client.expect_send();
        assert_eq!(message.text(), "to all");
        client.answer(Command::Rec, message.id, "");
        client.expect(Command::Rel, message.id);
        client.answer(Command::Com, message.id, "");
    }
    assert_eq!(waiting.join().expect("answered")["connections"], 30);
}

#[test]
fn a_reply_that_is_no_text_does_not_break_the_answer() {
    let (_backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    let waiting = send_later(server.addr(), "all", &[("qos", "1"), ("timeout", "8")], "hello");
    let id = client.expect_send().id;
    client.answer(Command::Ack, id, [0xff, 0x00, b'"', b'\\', 0xfe]);
    let answer = waiting.join().expect("valid JSON");
    assert_eq!(answer["connections"], 1);
    assert!(answer["data"].is_string(), "{answer}");
}
