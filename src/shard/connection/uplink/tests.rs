//! A client's messages as a client and a backend see them: known ids, answers, failures, order, the forward
//! queue and its bounds.

use super::*;
use crate::base::limits::Limits;
use crate::shard::tests::{Rig, send_frame};
use crate::wire::ws::frame::Opcode;

const ANSWERS_MAX: u16 = Limits::DEFAULT.answers_remembered_max;

#[test]
fn a_message_is_forwarded_once_and_answered_with_the_backends_body() {
    let mut rig = Rig::new();
    let key = rig.open();
    rig.input(crate::shard::Input::Cookie { key, value: b"me" });
    rig.send(key, 1, 5, "hello");
    let forward = rig.forward();
    assert_eq!((forward.message_type, forward.qos, forward.sequence), (7, QoS::AtLeastOnce, 1));
    assert_eq!((&forward.body[..], forward.cookie.as_deref()), (&b"hello"[..], Some(&b"me"[..])));
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
    assert_eq!(forward.sequence, 2, "the id is free again");
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
        assert_eq!(other.sequence, 2);
        rig.answer(other, "");
        rig.hear(key);
        rig.advance(50_000);
        rig.send_dup(key, qos, 5, "x");
        let repeated = rig.forward();
        assert_eq!((repeated.sequence, &repeated.body[..], repeated.deadline), (1, &b"x"[..], rig.now + 120_000));
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
fn a_full_line_pauses_the_client_and_half_a_line_resumes_it() {
    let mut rig = Rig::new();
    let key = rig.open();
    let mut resumed = 0;
    for id in 1..=5 {
        assert!(!rig.shard.is_paused(key), "one with the backend and three in the line do not fill it");
        rig.send(key, 1, id, "x");
    }
    assert!(rig.shard.is_paused(key));
    assert_eq!(rig.stats().pauses.get(), 1);
    for answered in 1..=5 {
        let forward = rig.forward();
        rig.answer(forward, "");
        let left = 5 - answered;
        assert_eq!(rig.shard.is_paused(key), left > 3, "{left} left");
        resumed += rig.outputs.iter().filter(|output| matches!(output, Output::Resume { .. })).count();
        rig.outputs.retain(|output| !matches!(output, Output::Resume { .. }));
    }
    assert_eq!(resumed, 1);
    rig.finish();
}

#[test]
fn bytes_of_all_lines_pause_whoever_adds_to_them() {
    let mut rig = Rig::with(|settings| settings.forward_queue_bytes = 1_500);
    let (one, two) = (rig.open(), rig.open());
    rig.send(one, 1, 1, &"x".repeat(900));
    assert!(!rig.shard.is_paused(one));
    rig.send(two, 1, 1, &"x".repeat(900));
    assert!(rig.shard.is_paused(two) && !rig.shard.is_paused(one));
    let forwards = rig.forwards();
    for forward in forwards {
        rig.answer(forward, "");
    }
    assert!(!rig.shard.is_paused(two));
    assert_eq!(rig.stats().forward_queue_bytes.get(), 0);
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
    assert_eq!(forward.sequence, 1000);
    rig.answer(forward, "");
    assert_eq!(rig.hear(key), ["ack #1000 \"\""]);
    rig.finish();
}

#[test]
fn answers_of_qos_1_are_kept_for_the_last_ids_only() {
    let mut rig = Rig::new();
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
    assert_eq!(forward.sequence, u64::from(ANSWERS_MAX) + 2, "at least once: forgotten, so it is new");
    rig.answer(forward, "");
    rig.finish();
}

#[test]
fn answers_keep_their_byte_limit() {
    let mut rig = Rig::with(|settings| settings.answers_bytes_max = 500);
    let key = rig.open();
    for id in 1..=10 {
        rig.send(key, 1, id, "x");
        let forward = rig.forward();
        rig.answer(forward, &"a".repeat(100));
        assert!(rig.shard.conns.details(key.index).uplink.known.answer_bytes() <= 500);
        rig.hear(key);
    }
    for id in 11..=14 {
        rig.send(key, 2, id, "x");
        let forward = rig.forward();
        rig.answer(forward, &"a".repeat(100));
        assert_eq!(rig.hear(key).len(), 1);
    }
    rig.send(key, 2, 15, "x");
    let forward = rig.forward();
    rig.answer(forward, &"a".repeat(100));
    assert_eq!(rig.hear(key).last().expect("closed"), "close 1008 too many answers without REL");
    rig.finish();
}

#[test]
fn one_answer_may_be_longer_than_the_limit() {
    let mut rig = Rig::with(|settings| settings.answers_bytes_max = 50);
    let key = rig.open();
    rig.send(key, 2, 1, "x");
    let forward = rig.forward();
    rig.answer(forward, &"a".repeat(100));
    rig.send_dup(key, 2, 1, "x");
    let heard = rig.hear(key);
    assert!(heard.len() == 2 && heard[0] == heard[1], "{heard:?}");
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
fn more_messages_per_second_than_allowed_close_with_1008() {
    let mut rig = Rig::with(|settings| (settings.messages_per_second, settings.forwards) = (3, false));
    let key = rig.open();
    for id in 1..=9 {
        rig.send(key, 1, id, "x");
        if id % 3 == 0 {
            rig.advance(1_000);
        }
    }
    assert_eq!(rig.hear(key).len(), 9);
    for id in 10..=13 {
        rig.send(key, 1, id, "x");
    }
    assert_eq!(rig.hear(key).last().expect("closed"), "close 1008 too many messages per second");
    assert_eq!(rig.stats().closed_policy.get(), 1);
    rig.finish();
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
