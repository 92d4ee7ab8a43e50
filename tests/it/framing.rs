//! RFC 6455 as bytes: what a client may send in which pieces, and which close code a violation gets.

use std::time::{Duration, Instant};

use crate::harness::client::{
    BINARY, CLOSE, CONTINUATION, MASK, Message, NO_CODE, PING, PONG, TEXT, frame_bytes, masked,
};
use crate::harness::metrics::{Counted, counted};
use crate::harness::{Backend, Client, Command, Packet, Server, Setup, TIMEOUT};

fn started() -> (Backend, Server) {
    let backend = Backend::start();
    let server = Setup::of(&backend).start();
    (backend, server)
}

/// One server, one client per case; each must be closed with `code`, counted, and the server lives on.
fn assert_violations(code: u16, cases: &[(&str, Vec<u8>)]) {
    let backend = Backend::start();
    // After a violation nothing of the client is looked at, so the server may wait this long for its end.
    let mut server = Setup::of(&backend).set("close_timeout", "0.3").start();
    for (name, bytes) in cases {
        let mut client = Client::open(server.addr(), "phone");
        let closed = counted(server.addr(), Counted::Violation, || {
            client.raw(bytes);
            client.expect_close()
        });
        assert_eq!(closed.0, code, "{name}: closed with {closed:?}");
    }
    server.assert_alive();
}

/// A header with a mask bit and the mask, no payload.
fn head(first: u8, rest: &[u8]) -> Vec<u8> {
    [&[first][..], rest, &MASK].concat()
}

#[test]
fn a_ping_is_answered_with_its_payload() {
    let (_backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    for length in [0, 1, 125] {
        let payload = vec![b'p'; length];
        client.frame(true, PING, &payload);
        assert_eq!(client.next(), Message::Pong(payload));
    }
}

#[test]
fn an_unasked_pong_is_ignored() {
    let (_backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    client.frame(true, PONG, b"nobody asked");
    client.assert_open();
}

#[test]
fn a_message_may_come_in_fragments_with_control_frames_between() {
    let (backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    let packet = Packet::send(1, 1, 1, "in many pieces").bytes();
    let (last, pieces) = packet.split_last().expect("not empty");
    for (index, byte) in pieces.iter().enumerate() {
        client.frame(false, if index == 0 { BINARY } else { CONTINUATION }, &[*byte]);
        client.frame(true, PING, &[*byte]);
        assert_eq!(client.next(), Message::Pong(vec![*byte]));
        client.frame(false, CONTINUATION, b"");
    }
    client.frame(true, CONTINUATION, &[*last]);
    assert_eq!(client.expect(Command::Ack, 1).text(), "re:in many pieces");
    assert_eq!(backend.messages()[0].text(), "in many pieces");
}

#[test]
fn bytes_may_come_one_by_one() {
    let (_backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    let stream = [
        frame_bytes(true, BINARY, &Packet::send(1, 1, 1, "slow").bytes()),
        frame_bytes(true, PING, b"p"),
        frame_bytes(true, BINARY, &Packet::send(1, 1, 2, vec![b'l'; 130]).bytes()),
    ];
    for byte in stream.concat() {
        client.raw(&[byte]);
    }
    let mut answers = Vec::new();
    while answers.len() < 3 {
        answers.push(match client.next() {
            Message::Packet(packet) => packet.id,
            Message::Pong(_) => 0,
            other => panic!("{other:?}"),
        });
    }
    answers.sort_unstable();
    assert_eq!(answers, [0, 1, 2]);
}

#[test]
fn many_frames_may_come_in_one_piece() {
    let (_backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    let frames: Vec<u8> =
        (1..=500).flat_map(|id| frame_bytes(true, BINARY, &Packet::send(1, 1, id, "x").bytes())).collect();
    client.raw(&frames);
    for id in 1..=500 {
        client.expect(Command::Ack, id);
    }
}

#[test]
fn frames_may_follow_the_upgrade_at_once() {
    let (_backend, server) = started();
    let mut wire = crate::harness::http::Wire::connect(server.addr());
    let head = crate::harness::Upgrade::of("eager").head("rainbow");
    let frame = frame_bytes(true, BINARY, &Packet::send(1, 1, 1, "eager").bytes());
    wire.write(&[head.as_bytes(), &frame].concat());
    let response = wire.response(Instant::now() + TIMEOUT).expect("answered");
    assert_eq!(response.status, 101);
    let mut client = Client { wire, answers_pings: true, response };
    assert_eq!(client.expect(Command::Ack, 1).text(), "re:eager");
}

#[test]
fn a_close_is_answered_with_its_code() {
    let (_backend, server) = started();
    for code in [1000, 1001, 1007, 1011, 3000, 4999] {
        let mut client = Client::open(server.addr(), "phone");
        client.close(code, "bye");
        // RFC 6455 5.5.1: the answer names the code again; it may leave the reason out.
        let Message::Close(answered, _) = client.next() else { panic!("no close") };
        assert_eq!(answered, code);
        client.expect_end();
    }
    let mut client = Client::open(server.addr(), "phone");
    client.frame(true, CLOSE, b"");
    let Message::Close(code, _) = client.next() else { panic!("no close") };
    assert!(code == NO_CODE || code == 1000, "{code}");
    client.expect_end();
}

#[test]
fn nothing_after_a_close_is_looked_at() {
    let (backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    let close = frame_bytes(true, CLOSE, &1000u16.to_be_bytes());
    let message = frame_bytes(true, BINARY, &Packet::send(1, 1, 1, "too late").bytes());
    client.raw(&[close, message].concat());
    assert!(matches!(client.next(), Message::Close(1000, _)));
    client.expect_end();
    drop(client);
    backend.wait_under("/close", 1);
    assert_eq!(backend.messages().len(), 0);
}

#[test]
fn a_client_that_does_not_answer_a_close_is_let_go() {
    let backend = Backend::start();
    let server = Setup::of(&backend).set("close_timeout", "0.3").start();
    let mut client = Client::open(server.addr(), "phone");
    client.raw(&[0xff, 0x80]);
    assert!(matches!(client.next(), Message::Close(1002, _)));
    client.expect_end();
    backend.wait_under("/close", 1);
}

#[test]
fn frames_that_break_the_rules_get_1002() {
    let cases = [
        ("no mask", vec![0x82, 0x03, 0x10, 0, 1]),
        ("no mask, empty", vec![0x82, 0x00]),
        ("no mask on a ping", vec![0x89, 0x00]),
        ("reserved bit 1", head(0xc2, &[0x80])),
        ("reserved bit 2", head(0xa2, &[0x80])),
        ("reserved bit 3", head(0x92, &[0x80])),
        ("opcode 3", head(0x83, &[0x80])),
        ("opcode 7", head(0x87, &[0x80])),
        ("opcode 11", head(0x8b, &[0x80])),
        ("opcode 15", head(0x8f, &[0x80])),
        ("a ping in fragments", frame_bytes(false, PING, b"x")),
        ("a close in fragments", frame_bytes(false, CLOSE, b"")),
        ("a ping of 126", frame_bytes(true, PING, &[b'x'; 126])),
        ("a close of 126", frame_bytes(true, CLOSE, &[b'x'; 126])),
        ("a length of 125 in two bytes", head(0x82, &[0xfe, 0, 125])),
        ("a length of 65535 in eight bytes", head(0x82, &[0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff])),
        ("a length with its highest bit", head(0x82, &[0xff, 0x80, 0, 0, 0, 0, 0, 0, 0])),
        ("a continuation of nothing", frame_bytes(true, CONTINUATION, b"x")),
        ("a message within a message", [frame_bytes(false, BINARY, b"x"), frame_bytes(true, BINARY, b"y")].concat()),
    ];
    assert_violations(1002, &cases);
}

#[test]
fn close_frames_that_break_the_rules_get_1002() {
    let cases = [
        ("half a code", frame_bytes(true, CLOSE, &[3])),
        ("code 0", frame_bytes(true, CLOSE, &0u16.to_be_bytes())),
        ("code 999", frame_bytes(true, CLOSE, &999u16.to_be_bytes())),
        ("code 1004", frame_bytes(true, CLOSE, &1004u16.to_be_bytes())),
        ("code 1005", frame_bytes(true, CLOSE, &1005u16.to_be_bytes())),
        ("code 1006", frame_bytes(true, CLOSE, &1006u16.to_be_bytes())),
        ("code 1015", frame_bytes(true, CLOSE, &1015u16.to_be_bytes())),
        ("code 2999", frame_bytes(true, CLOSE, &2999u16.to_be_bytes())),
        ("code 5000", frame_bytes(true, CLOSE, &5000u16.to_be_bytes())),
    ];
    assert_violations(1002, &cases);
}

#[test]
fn packets_that_break_the_rules_get_1002_with_a_reason() {
    let packets: [(&str, &[u8]); 14] = [
        ("command 0", &[0x00, 0, 1]),
        ("command 6", &[0x60, 0, 1]),
        ("command 15", &[0xf0, 0, 1]),
        ("QoS 3", &[0x16, 0, 1, 0, 1]),
        ("a SEND without a type", &[0x10]),
        ("a SEND with half a type", &[0x10, 0]),
        ("a QoS 1 SEND without an id", &[0x12, 0, 1]),
        ("a QoS 2 SEND with half an id", &[0x14, 0, 1, 0]),
        ("a SEND with id 0", &[0x12, 0, 1, 0, 0]),
        ("a SEND with id 65535", &[0x12, 0, 1, 0xff, 0xff]),
        ("an ACK without an id", &[0x20]),
        ("a REC with half an id", &[0x30, 1]),
        ("a REL without an id", &[0x40]),
        ("a COM with half an id", &[0x50, 0]),
    ];
    let (backend, mut server) = started();
    for (name, packet) in packets {
        let mut client = Client::open(server.addr(), "phone");
        let (code, reason) = counted(server.addr(), Counted::Violation, || {
            client.frame(true, BINARY, packet);
            client.expect_close()
        });
        assert_eq!(code, 1002, "{name}");
        assert!(!reason.is_empty(), "{name}: no reason");
    }
    assert_eq!(backend.messages().len(), 0);
    server.assert_alive();
}

#[test]
fn text_that_is_no_utf_8_gets_1007() {
    let cases = [
        ("a lone continuation byte", frame_bytes(true, TEXT, b"\x10\x00\x01\x80")),
        ("an overlong slash", frame_bytes(true, TEXT, b"\x10\x00\x01\xc0\xaf")),
        ("a surrogate", frame_bytes(true, TEXT, b"\x10\x00\x01\xed\xa0\x80")),
        ("beyond the last character", frame_bytes(true, TEXT, b"\x10\x00\x01\xf4\x90\x80\x80")),
        ("cut at the end", frame_bytes(true, TEXT, b"\x10\x00\x01\xc3")),
        ("a close reason", frame_bytes(true, CLOSE, b"\x03\xe8\xff")),
    ];
    assert_violations(1007, &cases);
}

#[test]
fn bad_text_is_seen_before_its_message_ends() {
    let (_backend, server) = started();
    // In a first fragment, and in the middle of a frame whose rest never comes.
    let mut fragment = Client::open(server.addr(), "phone");
    fragment.frame(false, TEXT, b"\x10\x00\x01\xff");
    assert_eq!(fragment.expect_close().0, 1007);
    let mut middle = Client::open(server.addr(), "phone");
    middle.raw(&[&[0x81, 0x80 | 100][..], &MASK, &masked(b"\x10\x00\x01ok\xfe")].concat());
    assert_eq!(middle.expect_close().0, 1007);
}

#[test]
fn a_character_may_be_split_between_fragments() {
    let (_backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    client.frame(false, TEXT, b"\x12\x00\x01\x00\x01\xe2");
    client.frame(true, PING, b"");
    client.frame(false, CONTINUATION, b"\x82");
    client.frame(true, CONTINUATION, b"\xac");
    assert!(matches!(client.next(), Message::Pong(_)));
    assert_eq!(client.expect(Command::Ack, 1).text(), "re:€");
}

#[test]
fn a_client_that_ends_in_the_middle_of_a_frame_is_told_to_the_backend() {
    let (backend, mut server) = started();
    let mut client = Client::open(server.addr(), "phone");
    client.raw(&[0x82, 0x80 | 50, 1, 2]);
    client.hang_up();
    backend.wait_under("/close", 1);
    assert_eq!(backend.messages().len(), 0);
    server.assert_alive();
}

#[test]
fn endless_empty_fragments_are_not_kept() {
    let (_backend, mut server) = started();
    let mut client = Client::open(server.addr(), "phone");
    client.frame(false, BINARY, b"");
    let fragments = frame_bytes(false, CONTINUATION, b"").repeat(1000);
    let before = server.rss();
    for _ in 0..100 {
        client.raw(&fragments);
    }
    client.frame(true, PING, b"end");
    // Being closed for it is as good as being borne.
    while let Ok(message) = client.next_within(Duration::from_secs(8)) {
        if matches!(message, Message::Pong(_) | Message::Close(..)) {
            break;
        }
    }
    let grown = server.rss().saturating_sub(before);
    assert!(grown < 4 << 20, "100,000 empty fragments cost {grown} bytes");
    server.assert_alive();
}
