//! A client's messages as a client and a backend see them: known ids, answers, failures, order, the forward
//! queue and its bounds.

mod bounds;

use super::*;
use crate::base::limits::Limits;
use crate::base::time::Tick;
use crate::shard::tests::{Rig, send_frame};
use crate::wire::ws::frame::Opcode;

const ANSWERS_MAX: u16 = Limits::DEFAULT.answers_remembered_max;

/// Of a message whose id belongs to the first run.
fn number(id: u16) -> u64 {
    1 << 16 | u64::from(id)
}

#[test]
fn a_message_is_forwarded_once_and_answered_with_the_backends_body() {
    let mut rig = Rig::new();
    let key = rig.open();
    rig.input(crate::shard::Input::Cookie { key, value: b"me" });
    rig.send(key, 1, 5, "hello");
    let forward = rig.forward();
    assert_eq!((forward.message_type, forward.qos, forward.sequence), (7, QoS::AtLeastOnce, number(5)));
    assert_eq!((&forward.body[..], forward.cookie()), (&b"hello"[..], Some(&b"me"[..])));
    assert_eq!((forward.identity, forward.deadline), (rig.identity(key), rig.now + 120_000));
    assert_eq!(rig.hear(key), [""; 0], "nothing is answered that the backend does not have");
    rig.answer(forward, "welcome");
    assert_eq!(rig.hear(key), ["ack #5 \"welcome\""]);
    rig.finish();
}

#[test]
fn a_packet_whose_frame_was_taken_apart_outside_is_one_like_any() {
    let mut rig = Rig::new();
    let key = rig.open();
    let packet = |dup| {
        let mut bytes = Vec::new();
        let body = &b"hello"[..];
        Packet::Send { dup, qos: QoS::AtLeastOnce, message_type: 7, id: Some(MessageId(5)), body }
            .encode_into(&mut bytes);
        bytes
    };
    rig.input(crate::shard::Input::Packet { key, packet: &packet(false) });
    let forward = rig.forward();
    rig.answer(forward, "welcome");
    assert_eq!(rig.hear(key), ["ack #5 \"welcome\""]);
    rig.send_dup(key, 1, 5, "hello");
    assert_eq!(rig.hear(key), ["ack #5 \"welcome\""], "it is known from either side");
    rig.input(crate::shard::Input::Packet { key, packet: &[0xff] });
    assert_eq!(rig.hear(key).len(), 1, "a close frame: no packet begins so");
    rig.end(key);
    rig.finish();
}

#[test]
fn qos_0_is_forwarded_and_not_answered() {
    let mut rig = Rig::new();
    let key = rig.open();
    rig.send(key, 0, 0, "a");
    let forward = rig.forward();
    assert_eq!(forward.sequence, 0);
    rig.answer(forward, "unheard");
    rig.send(key, 0, 0, "a");
    let forward = rig.forward();
    rig.fail(forward);
    assert_eq!(rig.hear(key), [""; 0]);
    rig.finish();
}

#[test]
fn a_repeat_is_absorbed_while_the_backend_has_the_message() {
    for qos in [1, 2] {
        let mut rig = Rig::new();
        let key = rig.open();
        rig.send(key, qos, 5, "x");
        let forward = rig.forward();
        rig.send_dup(key, qos, 5, "x");
        rig.send(key, qos, 5, "x");
        rig.send(key, qos, 6, "behind");
        rig.send_dup(key, qos, 6, "behind");
        assert!(rig.forwards().is_empty());
        assert_eq!(rig.hear(key), [""; 0]);
        rig.answer(forward, "ok");
        assert_eq!(rig.hear(key).len(), 1, "one answer, however often it was asked");
        let behind = rig.forward();
        rig.answer(behind, "ok");
        assert_eq!(rig.hear(key).len(), 1);
        rig.finish();
    }
}

#[test]
fn a_repeat_is_answered_with_the_same_bytes_as_the_first_time() {
    for qos in [1, 2] {
        let mut rig = Rig::new();
        let key = rig.open();
        rig.send(key, qos, 5, "x");
        let forward = rig.forward();
        rig.answer(forward, "the answer");
        let first = rig.take_bytes(key, usize::MAX);
        for _ in 0..3 {
            rig.send_dup(key, qos, 5, "x");
            assert_eq!(rig.take_bytes(key, usize::MAX), first);
        }
        rig.send(key, qos, 5, "x");
        assert_eq!(rig.take_bytes(key, usize::MAX), first, "without DUP it is a repeat too");
        assert!(rig.forwards().is_empty());
        assert_eq!(rig.stats().repeats_in.get(), 4);
        rig.finish();
    }
}

#[test]
fn rel_frees_the_id_and_is_answered_as_often_as_it_comes() {
    let mut rig = Rig::new();
    let key = rig.open();
    rig.send(key, 2, 5, "x");
    let forward = rig.forward();
    rig.answer(forward, "ok");
    rig.rel(key, 5);
    rig.rel(key, 5);
    rig.rel(key, 77);
    assert_eq!(rig.hear(key), ["rec #5 \"ok\"", "com #5", "com #5", "com #77"]);
    rig.send(key, 2, 5, "another message");
    let forward = rig.forward();
    assert_eq!(forward.sequence, 2 << 16 | 5, "the id is free again");
    rig.answer(forward, "");
    rig.finish();
}

#[test]
fn a_rel_before_the_rec_releases_nothing() {
    let mut rig = Rig::new();
    let key = rig.open();
    rig.send(key, 2, 5, "x");
    rig.rel(key, 5);
    rig.send_dup(key, 2, 5, "x");
    assert_eq!(rig.hear(key), [""; 0]);
    let forward = rig.forward();
    rig.answer(forward, "ok");
    assert_eq!(rig.hear(key), ["rec #5 \"ok\""]);
    rig.finish();
}

#[test]
fn a_timer_never_forgets_a_received_qos_2_id() {
    let mut rig = Rig::with(|settings| settings.ping_interval_ms = 1_000);
    let key = rig.open();
    rig.send(key, 2, 5, "x");
    let forward = rig.forward();
    rig.answer(forward, "ok");
    rig.send(key, 1, 6, "y");
    let forward = rig.forward();
    rig.answer(forward, "ok");
    for _ in 0..100 {
        rig.advance(2_000);
        rig.bytes(key, &crate::shard::tests::client_frame(Opcode::Pong, b""));
    }
    rig.hear(key);
    rig.send_dup(key, 2, 5, "x");
    assert_eq!(rig.hear(key), ["rec #5 \"ok\""]);
    assert!(rig.forwards().is_empty());
    rig.finish();
}

#[test]
fn what_failed_is_forwarded_again_under_the_same_number() {
    for qos in [1, 2] {
        let mut rig = Rig::new();
        let key = rig.open();
        rig.send(key, qos, 5, "x");
        rig.send(key, qos, 6, "y");
        let forward = rig.forward();
        rig.fail(forward);
        let other = rig.forward();
        assert_eq!(other.sequence, number(6));
        rig.answer(other, "");
        rig.hear(key);
        rig.advance(50_000);
        rig.send_dup(key, qos, 5, "x");
        let repeated = rig.forward();
        assert_eq!(
            (repeated.sequence, &repeated.body[..], repeated.deadline),
            (number(5), &b"x"[..], rig.now + 120_000)
        );
        rig.send_dup(key, qos, 5, "x");
        assert!(rig.forwards().is_empty(), "and absorbed meanwhile");
        rig.answer(repeated, "at last");
        assert_eq!(rig.hear(key).len(), 1);
        rig.finish();
    }
}

#[test]
fn the_backend_gets_a_clients_messages_in_order_and_one_at_a_time() {
    let mut rig = Rig::with(|settings| settings.forward_queue = 100);
    let (key, other) = (rig.open(), rig.open());
    let frames: Vec<u8> = (1..=20).flat_map(|id| send_frame(false, (id % 3) as u8, id, &id.to_string())).collect();
    rig.bytes(key, &frames);
    rig.send(other, 1, 1, "does not wait for the other");
    let mut forwards = rig.forwards();
    let waited_for = forwards.pop().expect("each client has one");
    assert_eq!(waited_for.key, other);
    for id in 1..=20 {
        let forward = forwards.pop().expect("the next");
        assert!(forwards.is_empty());
        assert_eq!(forward.body, id.to_string().as_bytes());
        rig.answer(forward, "");
        forwards = rig.forwards();
    }
    rig.answer(waited_for, "");
    rig.finish();
}

#[test]
fn a_paused_client_is_neither_pinged_nor_closed_and_its_silence_forgiven() {
    let mut rig = Rig::with(|settings| (settings.forward_queue, settings.idle_timeout_ms) = (1, 100_000));
    let key = rig.open();
    rig.send(key, 1, 1, "x");
    rig.send(key, 1, 2, "y");
    assert!(rig.shard.is_paused(key));
    rig.advance(1_000_000);
    assert_eq!(rig.hear(key), [""; 0]);
    let forward = rig.forward();
    rig.answer(forward, "");
    let forward = rig.forward();
    rig.answer(forward, "");
    assert!(!rig.shard.is_paused(key));
    assert_eq!(rig.hear(key), ["ack #1 \"\"", "ack #2 \"\""]);
    rig.advance(59_000);
    assert_eq!(rig.hear(key), [""; 0]);
    rig.advance(1_100);
    assert_eq!(rig.hear(key), ["ping"], "and it is watched again");
    rig.finish();
}

#[test]
fn a_client_that_closes_while_paused_is_read_for_its_close_frame() {
    let mut rig = Rig::with(|settings| settings.forward_queue = 1);
    let key = rig.open();
    rig.send(key, 1, 1, "x");
    rig.send(key, 1, 2, "y");
    rig.input(crate::shard::Input::Close { key, code: CloseCode::GOING_AWAY, reason: "" });
    let first = rig.forward();
    assert!(matches!(rig.outputs()[..], [Output::Resume { .. }]));
    rig.end(key);
    rig.answer(first, "");
    let second = rig.forward();
    rig.answer(second, "");
    assert!(matches!(rig.outputs()[..], [Output::Closed { .. }]), "nobody resumes a connection that has gone");
    rig.finish();
}

#[test]
fn a_client_that_ends_while_paused_is_not_resumed() {
    let mut rig = Rig::with(|settings| settings.forward_queue = 1);
    let key = rig.open();
    rig.send(key, 1, 1, "x");
    rig.send(key, 1, 2, "y");
    assert!(rig.shard.is_paused(key));
    let first = rig.forward();
    rig.end(key);
    rig.answer(first, "");
    let second = rig.forward();
    rig.answer(second, "");
    assert!(matches!(rig.outputs()[..], [Output::Closed { .. }]));
    rig.finish();
}

#[test]
fn too_many_ids_without_rel_close_with_1008() {
    let mut rig = Rig::new();
    let key = rig.open();
    for id in 1..=8 {
        rig.send(key, 2, id, "x");
        let forward = rig.forward();
        rig.answer(forward, "");
    }
    assert_eq!(rig.hear(key).len(), 8);
    rig.send(key, 2, 9, "one too many");
    assert_eq!(rig.hear(key), ["close 1008 too many messages without REL"]);
    assert!(rig.forwards().is_empty());
    rig.finish();
}

#[test]
fn a_burst_at_qos_1_is_no_reason_to_close() {
    let mut rig = Rig::new();
    let key = rig.open();
    let burst: Vec<u8> = (1..=500).flat_map(|id| send_frame(false, 1, id, "x")).collect();
    rig.bytes(key, &burst);
    for id in 1..=500 {
        let forward = rig.forward();
        rig.answer(forward, "");
        assert_eq!(rig.hear(key), [format!("ack #{id} \"\"")]);
    }
    rig.finish();
}

#[test]
fn failures_that_are_never_repeated_do_not_pile_up_and_do_not_close() {
    let mut rig = Rig::new();
    let key = rig.open();
    for id in 1..=1000 {
        rig.send(key, 1, id, "x");
        let forward = rig.forward();
        rig.fail(forward);
    }
    assert_eq!(rig.shard.uplinks.known.total(), 8, "as many as QoS 2 ids may be held");
    rig.send_dup(key, 1, 1000, "x");
    let forward = rig.forward();
    assert_eq!(forward.sequence, number(1000));
    rig.answer(forward, "");
    assert_eq!(rig.hear(key), ["ack #1000 \"\""]);
    rig.finish();
}

#[test]
fn answers_of_qos_1_are_kept_for_the_last_ids_only() {
    let mut rig = Rig::with(|settings| settings.outbox_bytes_max = 8_000);
    let key = rig.open();
    for id in 1..=ANSWERS_MAX + 1 {
        rig.send(key, 1, id, "x");
        let forward = rig.forward();
        rig.answer(forward, "");
    }
    rig.hear(key);
    rig.send_dup(key, 1, 2, "x");
    assert_eq!(rig.hear(key), ["ack #2 \"\""]);
    assert!(rig.forwards().is_empty());
    rig.send_dup(key, 1, 1, "x");
    let forward = rig.forward();
    assert_eq!(forward.sequence, number(1), "at least once: forgotten, so it is forwarded again");
    rig.answer(forward, "");
    rig.finish();
}

#[test]
fn an_id_is_recognised_wherever_in_the_runs_it_stands() {
    // 5, then a run that comes up to it: the shortcut for "follows the last one" must not let it through.
    let mut rig = Rig::new();
    let key = rig.open();
    for id in [5, 3, 4] {
        rig.send(key, 2, id, "x");
        let forward = rig.forward();
        rig.answer(forward, "");
    }
    rig.hear(key);
    rig.send(key, 2, 5, "x");
    assert!(rig.forwards().is_empty());
    assert_eq!(rig.hear(key), ["rec #5 \"\""]);
    rig.finish();
}

#[test]
fn an_id_is_recognised_after_all_ids_have_gone_round() {
    let mut rig = Rig::new();
    let key = rig.open();
    rig.send(key, 2, 1, "kept");
    let forward = rig.forward();
    rig.answer(forward, "kept");
    let uplink = &mut rig.shard.conns.details_mut(key.index).uplink;
    // As if 65,533 more had come, been answered and been released.
    uplink.known.skip_to(65_534);
    rig.hear(key);
    rig.send(key, 2, 1, "kept");
    assert_eq!(rig.hear(key), ["rec #1 \"kept\""]);
    assert!(rig.forwards().is_empty());
    rig.finish();
}

#[test]
fn equal_ids_in_both_directions_are_different_messages() {
    let mut rig = Rig::new();
    let key = rig.open_in("news");
    rig.send(key, 2, 1, "up");
    rig.call("news", QoS::ExactlyOnce, "down");
    assert_eq!(rig.hear(key), ["send2 #1 \"down\""]);
    let forward = rig.forward();
    rig.answer(forward, "answer");
    assert_eq!(rig.hear(key), ["rec #1 \"answer\""]);
    rig.rel(key, 1);
    assert_eq!(rig.hear(key), ["com #1"]);
    rig.rec(key, 1, "reply");
    assert_eq!(rig.hear(key), ["rel #1"]);
    rig.com(key, 1);
    assert_eq!(rig.replies().len(), 1);
    assert_eq!(rig.stats().answers_unknown.get(), 0);
    rig.finish();
}

#[test]
fn an_id_of_an_answered_qos_1_message_names_another_one() {
    let mut rig = Rig::new();
    let key = rig.open();
    let mut numbers = std::collections::HashSet::new();
    for body in ["a", "b", "a"] {
        rig.send(key, 1, 1, body);
        let forward = rig.forward();
        assert!(numbers.insert(forward.sequence), "each message has a number of its own");
        rig.send(key, 1, 1, "is ignored: the id is not free");
        rig.answer(forward, &format!("to {body}"));
        assert_eq!(rig.hear(key), [format!("ack #1 \"to {body}\"")]);
        rig.send_dup(key, 1, 1, "a repeat is never another message");
        assert_eq!(rig.hear(key), [format!("ack #1 \"to {body}\"")]);
    }
    let packet = |message_type, qos| Packet::Send { dup: false, qos, message_type, id: MessageId::new(1), body: b"a" };
    for packet in [packet(8, QoS::AtLeastOnce), packet(8, QoS::ExactlyOnce)] {
        rig.packet(key, packet);
        let forward = rig.forward();
        assert!(numbers.insert(forward.sequence), "another type, another QoS");
        rig.answer(forward, "");
    }
    rig.finish();
}

#[test]
fn the_number_of_a_failed_message_is_never_anothers() {
    for qos in [1, 2] {
        let mut rig = Rig::new();
        let key = rig.open();
        rig.send(key, qos, 1, "x");
        let failed = rig.forward();
        let number = failed.sequence;
        rig.fail(failed);
        // As if all other ids had come and been answered since.
        rig.shard.conns.details_mut(key.index).uplink.known.skip_to(65_534);
        rig.send(key, qos, 1, "x");
        let forward = rig.forward();
        assert_ne!(forward.sequence, number, "the same content, but the ids have gone round");
        rig.fail(forward);
        rig.send(key, qos, 1, "y");
        let forward = rig.forward();
        assert_ne!(forward.sequence, number);
        rig.answer(forward, "");
        rig.finish();
    }
}

#[test]
fn a_repeat_keeps_its_number_however_late_it_comes() {
    let mut rig = Rig::with(|settings| settings.outbox_bytes_max = 8_000);
    let key = rig.open();
    for id in 1..=2 * ANSWERS_MAX {
        rig.send(key, 1, id, "x");
        let forward = rig.forward();
        rig.answer(forward, "");
    }
    rig.hear(key);
    for _ in 0..2 {
        rig.send_dup(key, 1, 1, "x");
        let forward = rig.forward();
        assert_eq!(forward.sequence, number(1));
        rig.answer(forward, "");
        assert_eq!(rig.hear(key), ["ack #1 \"\""]);
        for id in 1..=ANSWERS_MAX {
            rig.send(key, 1, 1_000 + id, "x");
            let forward = rig.forward();
            rig.answer(forward, "");
        }
        rig.hear(key);
    }
    rig.finish();
}

#[test]
fn a_refusal_reaches_a_client_of_rainbow_2_as_one_and_others_as_an_answer() {
    for (qos, name) in [(1, "ack"), (2, "rec")] {
        for greets in [true, false] {
            let mut rig = Rig::new();
            let (key, _) = rig.reserve();
            rig.input(crate::shard::Input::Opened { key, response: Rc::from(&b"101"[..]), greets });
            rig.take_bytes(key, usize::MAX);
            rig.send(key, qos, 5, "x");
            let forward = rig.forward();
            rig.refuse(forward, 422, "no");
            let expected = if greets { format!("{name} #5 refused 422 \"no\"") } else { format!("{name} #5 \"no\"") };
            assert_eq!(rig.hear(key), std::slice::from_ref(&expected));
            rig.send_dup(key, qos, 5, "x");
            assert_eq!(rig.hear(key), [expected], "a repeat is answered alike");
            assert_eq!(rig.stats().forwards_refused.get(), 1);
            rig.finish();
        }
    }
}

#[test]
fn without_a_backend_and_for_the_reserved_type_the_answer_is_empty() {
    let mut rig = Rig::with(|settings| settings.forwards = false);
    let key = rig.open();
    rig.send(key, 2, 1, "x");
    assert_eq!(rig.hear(key), ["rec #1 \"\""]);
    rig.finish();
    let mut rig = Rig::new();
    let key = rig.open();
    let id = MessageId::new(4);
    rig.packet(
        key,
        Packet::Send { dup: false, qos: QoS::AtLeastOnce, message_type: RESERVED_TYPE, id, body: b"our own" },
    );
    assert_eq!(rig.hear(key), ["ack #4 \"\""]);
    assert!(rig.forwards().is_empty());
    rig.finish();
}

/// Each holds one, which it may.
#[test]
fn long_answers_that_are_not_released_are_given_up_at_twice_the_memory() {
    const ANSWER: usize = 20_000;
    let mut rig = Rig::with(|settings| {
        settings.clients_memory_max = 3 * ANSWER;
        settings.answers_bytes_max = ANSWER;
        settings.outbox_bytes_max = 2 * ANSWER;
    });
    let closed = (0..12).filter(|_| {
        let key = rig.open();
        rig.send(key, 2, 1, "x");
        let forward = rig.forward();
        rig.answer(forward, &"a".repeat(ANSWER));
        rig.hear(key) == ["close 1013 no memory for so long an answer"]
    });
    let closed = closed.count();
    // Those that are there already stay: what they were promised is kept.
    assert_eq!((closed, rig.shard.len()), (6, 6));
    let short = rig.open();
    rig.send(short, 2, 1, "x");
    let forward = rig.forward();
    rig.answer(forward, "short");
    assert_eq!(rig.hear(short), ["rec #1 \"short\""]);
    assert_eq!(rig.stats().memory_full.get(), 6);
    rig.finish();
}

#[test]
fn answers_to_a_client_that_is_closing_are_not_sent() {
    let mut rig = Rig::new();
    let key = rig.open();
    rig.send(key, 1, 1, "x");
    let forward = rig.forward();
    rig.input(crate::shard::Input::Close { key, code: CloseCode::GOING_AWAY, reason: "" });
    rig.answer(forward, "late");
    assert_eq!(rig.hear(key), ["close 1001"]);
    rig.finish();
}
