//! Messages to one client as the client sees them: ids, repeats, the window, deadlines, the outbox and its limit.

use super::*;
use crate::shard::connection::outbox;
use crate::shard::connection::pending::*;
use crate::shard::tests::{Rig, send_frame, sent};
use crate::shard::{NotSent, QueryRefusal, Reply, Tally};
use crate::wire::ws::frame::CloseCode;

const QOS0: QoS = QoS::AtMostOnce;
const QOS1: QoS = QoS::AtLeastOnce;
const QOS2: QoS = QoS::ExactlyOnce;
const NOTHING: [&str; 0] = [];

#[test]
fn ack_ends_qos_1_and_its_body_is_the_reply() {
    let mut rig = Rig::new();
    let key = rig.open_in("news");
    let query_id = rig.call("news", QOS1, "x");
    assert_eq!(rig.hear(key), ["send1 #1 \"x\""]);
    assert!(rig.replies().is_empty());
    rig.ack(key, 1, "thanks");
    assert_eq!(rig.replies(), [(query_id, sent(1, "thanks"))]);
    rig.advance(10_000);
    assert_eq!(rig.hear(key), NOTHING, "an ACK cancels the repeat");
    assert!(rig.replies().is_empty());
    rig.finish();
}

#[test]
fn rec_counts_as_the_answer_and_com_ends_qos_2() {
    let mut rig = Rig::new();
    let key = rig.open_in("news");
    let query_id = rig.call("news", QOS2, "x");
    assert_eq!(rig.hear(key), ["send2 #1 \"x\""]);
    rig.rec(key, 1, "thanks");
    assert_eq!(rig.replies(), [(query_id, sent(1, "thanks"))]);
    assert_eq!(rig.hear(key), ["rel #1"]);
    rig.com(key, 1);
    rig.advance(10_000);
    assert_eq!(rig.hear(key), NOTHING);
    assert_eq!(rig.stats().answers_unknown.get(), 0);
    rig.finish();
}

#[test]
fn an_unanswered_message_is_repeated_with_dup_and_its_id_at_every_ack_timeout() {
    for (qos, name) in [(QOS1, "send1"), (QOS2, "send2")] {
        let mut rig = Rig::new();
        let key = rig.open_in("news");
        rig.call_by("news", qos, "x", rig.now + 60_000);
        assert_eq!(rig.hear(key), [format!("{name} #1 \"x\"")]);
        for _ in 0..5 {
            rig.advance(2_999);
            assert_eq!(rig.hear(key), NOTHING);
            rig.advance(1);
            assert_eq!(rig.hear(key), [format!("{name} dup #1 \"x\"")]);
        }
        assert_eq!((rig.stats().messages_out.get(), rig.stats().repeats_out.get()), (1, 5));
        rig.finish();
    }
}

#[test]
fn each_of_several_unanswered_messages_is_repeated() {
    let mut rig = Rig::new();
    let key = rig.open_in("news");
    for body in ["a", "b", "c"] {
        rig.call("news", QOS1, body);
    }
    rig.hear(key);
    for _ in 0..2 {
        rig.advance(3_000);
        assert_eq!(rig.hear(key), ["send1 dup #1 \"a\"", "send1 dup #2 \"b\"", "send1 dup #3 \"c\""]);
    }
    rig.finish();
}

#[test]
fn backoff_makes_every_further_wait_longer() {
    let mut rig = Rig::with(|settings| settings.ack_backoff = 2.0);
    let key = rig.open_in("news");
    rig.call_by("news", QOS1, "x", rig.now + 50_000);
    rig.hear(key);
    for wait in [3_000, 6_000, 12_000, 24_000] {
        rig.advance(wait - 1);
        assert_eq!(rig.hear(key), NOTHING);
        rig.advance(1);
        assert_eq!(rig.hear(key), ["send1 dup #1 \"x\""], "after {wait}");
    }
    rig.finish();
}

#[test]
fn rel_is_repeated_until_com_comes() {
    let mut rig = Rig::new();
    let key = rig.open_in("news");
    rig.call("news", QOS2, "x");
    rig.hear(key);
    rig.rec(key, 1, "");
    assert_eq!(rig.hear(key), ["rel #1"]);
    for _ in 0..10 {
        rig.advance(3_000);
        assert_eq!(rig.hear(key), ["rel dup #1"], "long after the call's deadline");
        rig.rec(key, 1, "");
        assert_eq!(rig.hear(key), ["rel dup #1"], "a late REC asks for it, too");
    }
    rig.com(key, 1);
    rig.advance(30_000);
    assert_eq!(rig.hear(key), NOTHING);
    rig.finish();
}

#[test]
fn rel_is_repeated_in_time_after_a_long_backoff() {
    let mut rig = Rig::with(|settings| settings.ack_backoff = 10.0);
    let key = rig.open_in("news");
    rig.call_by("news", QOS2, "x", rig.now + 1_000_000);
    rig.advance(40_000);
    rig.rec(key, 1, "");
    rig.hear(key);
    rig.advance(3_000);
    assert_eq!(rig.hear(key), ["rel dup #1"]);
    rig.finish();
}

#[test]
fn no_repeat_goes_out_that_leaves_no_room_for_an_answer() {
    let mut rig = Rig::new();
    let key = rig.open_in("news");
    let query_id = rig.call_by("news", QOS1, "x", rig.now + 8_000);
    rig.hear(key);
    rig.advance(3_000);
    assert_eq!(rig.hear(key), ["send1 dup #1 \"x\""]);
    rig.advance(4_999);
    assert_eq!(rig.hear(key), NOTHING);
    assert!(rig.replies().is_empty());
    rig.advance(1);
    assert_eq!(rig.replies(), [(query_id, sent(0, ""))]);
    assert_eq!(rig.hear(key), ["ping"], "does the client live?");
    assert_eq!(rig.stats().messages_timed_out.get(), 1);
    rig.advance(20_000);
    assert_eq!(rig.hear(key), ["close 1001 no pong"]);
    rig.finish();
}

#[test]
fn a_repeat_goes_out_when_there_is_just_room_for_an_answer() {
    for (timeout, repeats) in [(6_000, 1), (5_999, 0)] {
        let mut rig = Rig::new();
        let key = rig.open_in("news");
        rig.call_by("news", QOS1, "x", rig.now + timeout);
        rig.hear(key);
        rig.advance(timeout - 1);
        assert_eq!(rig.hear(key).len(), repeats);
        rig.finish();
    }
}

#[test]
fn a_queued_message_is_given_up_before_any_other_timer_is_due() {
    let mut rig = Rig::with(|settings| settings.inflight_window = 1);
    let key = rig.open_in("news");
    rig.call_by("news", QOS1, "a", rig.now + 60_000);
    let query_id = rig.call_by("news", QOS1, "b", rig.now + 1_000);
    rig.hear(key);
    rig.advance(1_000);
    assert_eq!(rig.replies(), [(query_id, sent(0, ""))]);
    assert_eq!(rig.stats().messages_timed_out.get(), 1);
    rig.ack(key, 1, "");
    assert_eq!(rig.hear(key), NOTHING);
    rig.finish();
}

#[test]
fn a_client_that_lives_survives_a_message_it_did_not_answer() {
    let mut rig = Rig::new();
    let key = rig.open_in("news");
    rig.call("news", QOS1, "x");
    rig.advance(10_000);
    rig.hear(key);
    rig.advance(1_000);
    rig.ack(key, 1, "late");
    assert_eq!(rig.stats().answers_unknown.get(), 1);
    rig.advance(20_000);
    assert_eq!(rig.hear(key), NOTHING);
    rig.finish();
}

#[test]
fn a_late_rec_is_released_so_that_the_client_can_forget_the_id() {
    let mut rig = Rig::new();
    let key = rig.open_in("news");
    rig.call("news", QOS2, "x");
    rig.advance(10_000);
    rig.hear(key);
    rig.rec(key, 1, "late");
    assert_eq!(rig.hear(key), ["rel #1"]);
    rig.com(key, 1);
    rig.finish();
}

#[test]
fn the_window_is_kept_and_what_waits_follows_in_order() {
    let mut rig = Rig::new();
    let key = rig.open_in("news");
    for n in 1..=10 {
        rig.call("news", if n % 2 == 0 { QOS1 } else { QOS2 }, &n.to_string());
    }
    assert_eq!(
        rig.hear(key),
        ["send2 #1 \"1\"", "send1 #2 \"2\"", "send2 #3 \"3\"", "send1 #4 \"4\""],
        "four are in flight, the others wait"
    );
    rig.ack(key, 2, "");
    assert_eq!(rig.hear(key), ["send2 #5 \"5\""]);
    rig.rec(key, 1, "");
    assert_eq!(rig.hear(key), ["rel #1"], "not finished before COM");
    rig.com(key, 1);
    assert_eq!(rig.hear(key), ["send1 #6 \"6\""]);
    rig.finish();
}

#[test]
fn a_message_that_a_deadline_lets_into_the_window_is_repeated_too() {
    let mut rig = Rig::with(|settings| settings.inflight_window = 1);
    let key = rig.open_in("news");
    rig.call_by("news", QOS1, "short", rig.now + 4_000);
    rig.call_by("news", QOS1, "long", rig.now + 60_000);
    rig.hear(key);
    rig.advance(4_000);
    assert_eq!(rig.hear(key), ["ping", "send1 #2 \"long\""]);
    rig.advance(3_000);
    assert_eq!(rig.hear(key), ["send1 dup #2 \"long\""]);
    rig.finish();
}

#[test]
fn a_deadline_is_kept_for_what_never_came_into_the_window() {
    let mut rig = Rig::with(|settings| settings.inflight_window = 1);
    let key = rig.open_in("news");
    rig.call_by("news", QOS1, "a", rig.now + 60_000);
    let query_id = rig.call_by("news", QOS1, "b", rig.now + 5_000);
    rig.call_by("news", QOS1, "c", rig.now + 60_000);
    rig.advance(5_000);
    assert_eq!(rig.replies(), [(query_id, sent(0, ""))]);
    rig.hear(key);
    rig.ack(key, 1, "");
    assert_eq!(rig.hear(key), ["send1 #2 \"c\""]);
    rig.finish();
}

/// A deadline each millisecond, and a queue that takes longer than that to walk through.
#[test]
fn a_long_queue_is_looked_at_at_a_pace_and_sends_nothing_too_late() {
    let mut rig = Rig::with(|settings| {
        settings.inflight_window = 1;
        settings.outbox_bytes_max = 1 << 20;
        (settings.limits.queue_short_max, settings.limits.queue_look_ms) = (10, 500);
    });
    let key = rig.open_in("news");
    rig.call_by("news", QOS1, "first", rig.now + 60_000);
    let calls: Vec<_> = (0..100).map(|n| rig.call_by("news", QOS1, &format!("{n}"), rig.now + 1_000 + n)).collect();
    assert_eq!(rig.hear(key), ["send1 #1 \"first\""]);
    rig.advance(1_000);
    assert_eq!(rig.stats().messages_timed_out.get(), 1, "it is looked at for the first deadline");
    rig.advance(50);
    assert_eq!(rig.stats().messages_timed_out.get(), 1, "and not for the next ones");
    assert_eq!(rig.replies().len(), 51, "their calls are answered all the same");
    rig.ack(key, 1, "");
    assert_eq!(rig.hear(key), ["send1 #2 \"51\""], "those before it are late");
    rig.advance(450);
    assert_eq!(rig.stats().messages_timed_out.get(), 100, "now all of it is looked at");
    assert_eq!(rig.replies().len(), calls.len() - 51 + 1);
    rig.finish();
}

#[test]
fn ids_go_round_and_never_meet_one_in_flight() {
    let mut rig = Rig::with(|settings| settings.inflight_window = 3);
    let key = rig.open_in("news");
    // Ids 2 and 4 stay unanswered over more than a whole round.
    let deadline = rig.now + 1_000_000_000;
    let mut last = 0;
    for n in 1..=65_540u32 {
        rig.call_by("news", QOS1, "x", deadline);
        let heard = rig.hear(key);
        let id: u16 = heard[0].split(['#', ' ']).nth(2).expect("an id").parse().expect("a number");
        assert!((1..=65_534).contains(&id));
        let round =
            if n > 65_534 { [Some(1), Some(3), Some(5), Some(6), Some(7), Some(8)][n as usize - 65_535] } else { None };
        assert_eq!(u32::from(id), round.unwrap_or(n), "after {last}");
        last = id;
        if !(id == 2 || id == 4) {
            rig.ack(key, id, "");
        }
        rig.replies();
    }
    rig.finish();
}

#[test]
fn ids_go_on_without_a_jump_where_the_counter_ends() {
    let mut rig = Rig::with(|settings| settings.inflight_window = 8);
    let key = rig.open_in("news");
    rig.shard.conns.conn_mut(key.index).downlink.launched = (OFFSETS - 2) as u32;
    for _ in 0..4 {
        rig.call("news", QOS1, "x");
    }
    let ids: Vec<String> = rig.hear(key).iter().map(|frame| frame.replace("send1 ", "")).collect();
    assert_eq!(ids, ["#65533 \"x\"", "#65534 \"x\"", "#1 \"x\"", "#2 \"x\""]);
    assert_eq!(rig.shard.conns.conn(key.index).downlink.launched, 2);
    rig.finish();
}

#[test]
fn an_answer_of_the_wrong_kind_answers_nothing() {
    let mut rig = Rig::new();
    let key = rig.open_in("news");
    rig.call("news", QOS1, "a");
    rig.call("news", QOS2, "b");
    rig.hear(key);
    rig.rec(key, 1, "");
    rig.ack(key, 2, "");
    rig.com(key, 2);
    rig.ack(key, 99, "");
    assert!(rig.replies().is_empty());
    assert_eq!(rig.stats().answers_unknown.get(), 4);
    assert_eq!(rig.hear(key), NOTHING);
    rig.finish();
}

#[test]
fn a_connection_that_ends_counts_as_one_that_did_not_answer() {
    let mut rig = Rig::new();
    let (one, two) = (rig.open_in("news"), rig.open_in("news"));
    let first = rig.call("news", QOS1, "a");
    let second = rig.call("news", QOS2, "b");
    rig.ack(one, 1, "yes");
    rig.rec(two, 2, "rec");
    assert!(rig.replies().is_empty());
    rig.end(two);
    assert_eq!(rig.replies(), [(first, sent(1, "yes"))]);
    rig.input(crate::shard::Input::Close { key: one, code: CloseCode::GOING_AWAY, reason: "" });
    assert_eq!(rig.replies(), [(second, sent(1, "rec"))], "what was answered before counts");
    rig.finish();
}

#[test]
fn qos_0_is_dropped_oldest_first_and_qos_1_closes_when_it_does_not_fit() {
    let mut rig = Rig::new();
    let key = rig.open_in("news");
    let body = |n: u32| format!("{n}{}", "x".repeat(199));
    for n in 0..6 {
        rig.call("news", QOS0, &body(n));
    }
    assert_eq!(rig.stats().outbox_dropped_qos0.get(), 2, "four of 206 bytes fit into 1,000");
    rig.call("news", QOS1, &body(6));
    rig.call("news", QOS1, &body(7));
    let stats = rig.stats();
    assert_eq!(
        (stats.outbox_dropped_qos0.get(), stats.closed_too_slow.get()),
        (4, 0),
        "the older make room for the more important"
    );
    rig.call("news", QOS1, &body(8));
    rig.call("news", QOS1, &body(9));
    rig.replies();
    let last = rig.call("news", QOS1, &body(0));
    assert_eq!(rig.stats().closed_too_slow.get(), 1);
    assert!(rig.replies().contains(&(last, sent(0, ""))));
    assert_eq!(rig.hear(key), ["close 1013 too slow"]);
    rig.finish();
}

#[test]
fn without_memory_for_all_who_is_behind_gets_nothing_more_and_who_reads_does() {
    let mut rig = Rig::with(|settings| settings.clients_memory_max = 1_200);
    let (behind, reads) = (rig.open_in("behind"), rig.open_in("reads"));
    let pings = rig.open();
    for _ in 0..2 {
        rig.call("behind", QOS0, &"x".repeat(400));
    }
    assert_eq!(rig.stats().memory_full.get(), 0);
    rig.bytes(pings, &send_frame(false, 0, 0, &"p".repeat(600))[..500]);
    rig.call("behind", QOS0, &"x".repeat(100));
    assert_eq!((rig.stats().outbox_dropped_qos0.get(), rig.stats().memory_full.get()), (1, 1));
    rig.call("reads", QOS1, "y");
    assert_eq!(rig.hear(reads), ["send1 #1 \"y\""], "nothing waits for it");
    rig.ack(reads, 1, "");
    rig.call("behind", QOS1, "z");
    assert_eq!(rig.stats().closed_too_slow.get(), 1);
    assert_eq!(rig.hear(behind), ["close 1013 too slow"]);
    rig.call("reads", QOS1, "y");
    rig.hear(reads);
    assert_eq!(rig.stats().memory_full.get(), 2, "there is memory again");
    rig.finish();
}

#[test]
fn without_memory_for_all_a_long_message_is_not_assembled() {
    let mut rig = Rig::with(|settings| {
        (settings.clients_memory_max, settings.limits.memory_short_max) = (1_000, 800);
    });
    let keys: Vec<_> = (0..3).map(|_| rig.open()).collect();
    let long = send_frame(false, 0, 0, &"x".repeat(900));
    for &key in &keys {
        rig.bytes(key, &long[..100]);
    }
    assert_eq!(rig.stats().memory_full.get(), 0);
    rig.bytes(keys[0], &long[100..900]);
    rig.bytes(keys[1], &long[100..900]);
    assert_eq!(rig.hear(keys[1]), ["close 1013 no memory for so long a message"]);
    rig.bytes(keys[0], &long[900..]);
    let forward = rig.forward();
    assert_eq!(forward.body.len(), 900, "who had it first is heard to the end");
    rig.answer(forward, "");
    rig.finish();
}

#[test]
fn the_oldest_are_the_ones_dropped() {
    let mut rig = Rig::new();
    let key = rig.open_in("news");
    for n in 0..9 {
        rig.call("news", QOS0, &format!("{n}{}", "x".repeat(199)));
    }
    let heard: Vec<String> = rig.hear(key).iter().map(|frame| frame[..8].into()).collect();
    assert_eq!(heard, ["send0 \"5", "send0 \"6", "send0 \"7", "send0 \"8"]);
    rig.finish();
}

#[test]
fn what_waits_behind_the_window_counts_against_the_outbox() {
    let mut rig = Rig::with(|settings| settings.inflight_window = 1);
    let key = rig.open_in("news");
    rig.call("news", QOS1, &"x".repeat(200));
    rig.hear(key);
    for _ in 0..3 {
        rig.call("news", QOS1, &"x".repeat(200));
    }
    rig.call("news", QOS0, &"y".repeat(200));
    assert_eq!((rig.stats().outbox_dropped_qos0.get(), rig.shard.len()), (1, 1), "no room for QoS 0");
    rig.call("news", QOS1, &"x".repeat(200));
    assert_eq!(rig.stats().closed_too_slow.get(), 1);
    rig.finish();
}

#[test]
fn a_message_as_long_as_the_outbox_reaches_who_reads_and_a_longer_one_is_refused() {
    let mut rig = Rig::new();
    let key = rig.open_in("news");
    rig.call("news", QOS1, &"x".repeat(1_000));
    assert_eq!(rig.hear(key).len(), 1);
    rig.ack(key, 1, "");
    rig.replies();
    let query_id = rig.call("news", QOS1, &"x".repeat(1_020));
    let why = Some(NotSent::Refused(QueryRefusal::MessageTooLarge));
    let tally = Tally { refused: 1, why, ..Tally::default() };
    assert_eq!(rig.replies(), [(query_id, Reply::Sent { tally, data: Vec::new() })]);
    assert_eq!(rig.shard.len(), 1);
    rig.finish();
}

#[test]
fn the_longest_message_drives_out_all_of_qos_0_and_closes_nobody() {
    let mut rig = Rig::new();
    let key = rig.open_in("news");
    rig.call("news", QOS0, "a");
    rig.call("news", QOS0, "b");
    rig.call("news", QOS1, &"x".repeat(1_000));
    assert_eq!((rig.stats().outbox_dropped_qos0.get(), rig.shard.len()), (2, 1));
    assert_eq!(rig.hear(key).len(), 1);
    rig.finish();
}

#[test]
fn a_client_that_does_not_read_gets_no_repeats_on_top() {
    let mut rig = Rig::new();
    let key = rig.open_in("news");
    rig.call("news", QOS1, "x");
    assert_eq!(rig.take_bytes(key, 3).len(), 3);
    let before = rig.shard.conns.conn(key.index).outbox.memory();
    rig.advance(9_000);
    assert_eq!(rig.shard.conns.conn(key.index).outbox.memory(), before);
    assert_eq!(rig.stats().repeats_out.get(), 0);
    rig.finish();
}

#[test]
fn what_was_queued_in_the_same_turn_holds_up_no_repeat() {
    let mut rig = Rig::new();
    let key = rig.open_in("news");
    rig.call("news", QOS1, "x");
    rig.hear(key);
    rig.now = rig.now + 3_000;
    rig.call("news", QOS0, "y");
    rig.advance(0);
    assert_eq!(rig.hear(key), ["send0 \"y\"", "send1 dup #1 \"x\""]);
    rig.finish();
}

#[test]
fn a_socket_that_takes_nothing_gets_no_repeats_either() {
    let mut rig = Rig::new();
    let key = rig.open_in("news");
    rig.call("news", QOS1, "x");
    rig.hear(key);
    rig.call("news", QOS1, "y");
    assert_eq!(rig.shard.next_dirty(), Some(key.index));
    rig.advance(9_000);
    assert_eq!(rig.stats().repeats_out.get(), 0);
    assert_eq!(rig.hear(key), ["send1 #2 \"y\""]);
    rig.finish();
}

#[test]
fn repeats_never_exceed_the_outbox_and_never_close() {
    let mut rig = Rig::new();
    let key = rig.open_in("news");
    for _ in 0..4 {
        rig.call_by("news", QOS1, &"x".repeat(200), rig.now + 100_000);
    }
    rig.hear(key);
    rig.advance(59_000);
    let outbox: &outbox::Outbox = &rig.shard.conns.conn(key.index).outbox;
    assert!(outbox.memory() <= 1_000);
    assert_eq!(rig.shard.len(), 1);
    rig.finish();
}

#[test]
fn a_close_for_slowness_keeps_a_begun_frame_whole() {
    let mut rig = Rig::new();
    let key = rig.open_in("news");
    rig.call("news", QOS1, &"x".repeat(300));
    let mut bytes = rig.take_bytes(key, 10);
    for _ in 0..4 {
        rig.call("news", QOS1, &"y".repeat(300));
    }
    assert_eq!(rig.stats().closed_too_slow.get(), 1);
    bytes.extend(rig.take_bytes(key, usize::MAX));
    let heard = crate::shard::tests::describe(&bytes);
    assert_eq!(heard, [format!("send1 #1 {:?}", "x".repeat(300)), "close 1013 too slow".into()]);
    rig.finish();
}

#[test]
fn a_deadline_in_the_past_ends_at_once_and_not_never() {
    let mut rig = Rig::new();
    let key = rig.open_in("news");
    let query_id = rig.call_by("news", QOS1, "x", rig.now - 5);
    rig.advance(1);
    assert_eq!(rig.replies(), [(query_id, sent(0, ""))]);
    rig.hear(key);
    rig.finish();
}
