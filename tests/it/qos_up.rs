//! From the client to the business server: what each quality of service promises, repeats included.

use crate::harness::backend::Gate;
use crate::harness::client::{BINARY, TEXT};
use crate::harness::{Backend, Client, Command, Packet, Reply, Server, Setup, send};

fn started() -> (Backend, Server) {
    let backend = Backend::start();
    let server = Setup::of(&backend).start();
    (backend, server)
}

#[test]
fn qos_0_is_forwarded_and_not_answered() {
    let (backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    client.send(0, 7, 0, "hello");
    let heard = backend.wait_under("/message", 1);
    assert_eq!((heard[0].method.as_str(), heard[0].path.as_str()), ("POST", "/message/7/"));
    assert_eq!(heard[0].text(), "hello");
    // The next answer is that of the next message: nothing was said to the first.
    client.send(1, 8, 1, "x");
    client.expect(Command::Ack, 1);
}

#[test]
fn qos_1_is_answered_with_the_reply() {
    let (_backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    client.send(1, 1, 500, "hello");
    assert_eq!(client.expect(Command::Ack, 500).text(), "re:hello");
}

#[test]
fn qos_2_goes_through_its_four_steps() {
    let (backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    client.send(2, 1, 65534, "hello");
    assert_eq!(client.expect(Command::Rec, 65534).text(), "re:hello");
    client.answer(Command::Rel, 65534, "");
    client.expect(Command::Com, 65534);
    assert_eq!(backend.messages().len(), 1);
}

#[test]
fn a_repeat_is_answered_as_the_first_time_and_forwarded_once() {
    let (backend, server) = started();
    let forwarded = std::sync::atomic::AtomicU32::new(0);
    backend.on_message(move |_| {
        let count = forwarded.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Reply::ok(format!("answer {count}"))
    });
    let mut client = Client::open(server.addr(), "phone");
    for (qos, id, answer) in [(1, 1, Command::Ack), (2, 2, Command::Rec)] {
        let message = Packet::send(qos, 1, id, "pay");
        client.packet(&message);
        let first = client.expect(answer, id);
        for _ in 0..3 {
            client.packet(&message.clone().with_dup());
            assert_eq!(client.expect(answer, id).body, first.body, "QoS {qos}");
        }
    }
    assert_eq!(backend.messages().len(), 2, "one request per message");
}

#[test]
fn a_repeat_of_qos_2_without_dup_is_still_a_repeat() {
    let (backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    for _ in 0..3 {
        client.send(2, 1, 9, "pay");
        assert_eq!(client.expect(Command::Rec, 9).text(), "re:pay");
    }
    assert_eq!(backend.messages().len(), 1);
}

#[test]
fn repeats_that_come_while_the_backend_works_are_absorbed() {
    let (backend, server) = started();
    let gate = Gate::new();
    backend.on_message({
        let gate = gate.clone();
        move |r| {
            gate.pass();
            Reply::ok(r.body.clone())
        }
    });
    let mut client = Client::open(server.addr(), "phone");
    for (qos, id) in [(1, 1), (2, 2)] {
        client.send(qos, 1, id, "slow");
        for _ in 0..5 {
            client.packet(&Packet::send(qos, 1, id, "slow").with_dup());
        }
    }
    client.assert_open();
    backend.wait_under("/message", 1);
    gate.open();
    let mut answered = [0, 0];
    while answered.contains(&0) {
        let packet = client.next_packet();
        assert_eq!(packet.text(), "slow");
        answered[packet.id as usize - 1] += 1;
    }
    backend.wait_under("/message", 2);
    // A message after them: when it is answered, nothing of the repeats is left in the line.
    client.send(1, 1, 3, "last");
    while client.next_packet().id != 3 {}
    assert_eq!(backend.messages().len(), 3, "the repeats were not forwarded");
}

#[test]
fn a_repeat_after_a_cut_frame_is_not_taken_for_known() {
    let (backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    // DUP alone proves nothing: the first copy may never have come.
    client.packet(&Packet::send(2, 1, 4, "only copy").with_dup());
    assert_eq!(client.expect(Command::Rec, 4).text(), "re:only copy");
    assert_eq!(backend.messages().len(), 1);
}

#[test]
fn rel_is_answered_as_often_as_it_comes() {
    let (_backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    client.send(2, 1, 3, "hello");
    client.expect(Command::Rec, 3);
    for _ in 0..3 {
        client.answer(Command::Rel, 3, "");
        client.expect(Command::Com, 3);
    }
}

#[test]
fn an_id_may_be_used_again_after_com() {
    let (backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    for body in ["first", "second"] {
        client.send(2, 1, 3, body);
        assert_eq!(client.expect(Command::Rec, 3).text(), format!("re:{body}"));
        client.answer(Command::Rel, 3, "");
        client.expect(Command::Com, 3);
    }
    assert_eq!(backend.messages().len(), 2);
}

#[test]
fn ids_from_all_over_the_range_are_taken() {
    let (_backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    for first in (1..=65_000).step_by(3_000) {
        for id in first..first + 50 {
            client.send(1, 1, id, id.to_string());
        }
        for id in first..first + 50 {
            assert_eq!(client.expect(Command::Ack, id).text(), format!("re:{id}"));
        }
    }
}

#[test]
fn messages_of_one_client_arrive_and_are_answered_in_order() {
    let (backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    for id in 1..=60 {
        client.send(if id % 3 == 0 { 2 } else { 1 }, 1, id, id.to_string());
    }
    for id in 1..=60 {
        let answer = client.next_packet();
        assert_eq!((answer.id, answer.text()), (id, format!("re:{id}")));
    }
    let arrived: Vec<_> = backend.messages().iter().map(|r| r.text().parse::<u16>().expect("a number")).collect();
    assert_eq!(arrived, (1..=60).collect::<Vec<_>>());
}

#[test]
fn more_messages_than_the_forward_queue_holds_only_wait() {
    let backend = Backend::start();
    let server = Setup::of(&backend).set("forward_queue", "4").start();
    let mut client = Client::open(server.addr(), "phone");
    for id in 1..=200 {
        client.send(1, 1, id, id.to_string());
    }
    for id in 1..=200 {
        assert_eq!(client.expect(Command::Ack, id).text(), format!("re:{id}"));
    }
}

#[test]
fn equal_ids_in_the_two_directions_are_different_messages() {
    let (backend, server) = started();
    backend.on_connect(|_| Reply::welcome().header("RAINBOWCLIENTCHANNEL", "me"));
    let gate = Gate::new();
    backend.on_message({
        let gate = gate.clone();
        move |_| {
            gate.pass();
            Reply::ok("reply")
        }
    });
    let mut client = Client::open(server.addr(), "phone");
    let to = server.addr();
    let waiting = std::thread::spawn(move || send(to, "me", &[("qos", "2"), ("timeout", "8")], "down"));
    let down = client.expect_send();
    client.send(2, 1, down.id, "up");
    backend.wait_under("/message", 1);
    client.answer(Command::Rec, down.id, "of the client");
    client.expect(Command::Rel, down.id);
    client.answer(Command::Com, down.id, "");
    assert_eq!(waiting.join().expect("answered")["data"], "of the client");
    gate.open();
    assert_eq!(client.expect(Command::Rec, down.id).text(), "reply");
    client.answer(Command::Rel, down.id, "");
    client.expect(Command::Com, down.id);
}

#[test]
fn a_text_message_is_a_packet_too() {
    let (backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    let packet = Packet::send(1, 0x41, 0x42, "grüße");
    client.frame(true, TEXT, &packet.bytes());
    assert_eq!(client.expect(Command::Ack, 0x42).text(), "re:grüße");
    assert_eq!(backend.messages()[0].path, "/message/65/");
}

#[test]
fn empty_messages_are_ignored() {
    let (backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    client.frame(true, BINARY, b"");
    client.frame(true, TEXT, b"");
    client.assert_open();
    assert_eq!(backend.messages().len(), 0);
}

#[test]
fn a_message_with_an_empty_body_is_a_message() {
    let (backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    client.send(1, 3, 1, "");
    assert_eq!(client.expect(Command::Ack, 1).text(), "re:");
    assert_eq!(backend.messages()[0].body, b"");
}

#[test]
fn answers_to_nothing_are_ignored() {
    let (_backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    client.answer(Command::Ack, 77, "late");
    client.answer(Command::Com, 77, "");
    client.assert_open();
}

#[test]
fn without_a_forward_url_messages_are_answered_empty() {
    let server = Setup::new().start();
    let mut client = Client::open(server.addr(), "phone");
    client.send(1, 1, 1, "hello");
    assert_eq!(client.expect(Command::Ack, 1).body, b"");
    client.send(2, 1, 2, "hello");
    assert_eq!(client.expect(Command::Rec, 2).body, b"");
}

#[test]
fn bodies_travel_byte_for_byte() {
    let (backend, server) = started();
    let every_byte: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let mut client = Client::open(server.addr(), "phone");
    client.send(1, 65534, 1, &every_byte);
    assert_eq!(client.expect(Command::Ack, 1).body, [b"re:", &every_byte[..]].concat());
    assert_eq!(backend.messages()[0].body, every_byte);
    assert_eq!(backend.messages()[0].path, "/message/65534/");
}
