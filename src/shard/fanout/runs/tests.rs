//! Large channels: slices, order, members that come and go while a run is on its way, many messages in one run.

use super::*;
use crate::base::id::ConnKey;
use crate::base::limits::Limits;
use crate::shard::tests::{Rig, sent};
use crate::shard::{Input, Mode, NotSent, Query, Tally};

const SLICE: usize = Limits::DEFAULT.fanout_slice_members;
const AT_ONCE: usize = Limits::DEFAULT.fanout_at_once_members;
const JOBS_MAX: usize = Limits::DEFAULT.fanout_jobs_max;

fn crowd(rig: &mut Rig, channel: &str, size: usize) -> Vec<ConnKey> {
    (0..size).map(|_| rig.open_in(channel)).collect()
}

#[test]
fn each_member_of_a_large_channel_gets_each_message_once_and_in_order() {
    let mut rig = Rig::new();
    let members = crowd(&mut rig, "all", 3 * SLICE + 1);
    let tickets = [rig.call("all", QoS::AtLeastOnce, "a"), rig.call("all", QoS::AtLeastOnce, "b")];
    rig.call("all", QoS::AtMostOnce, "c");
    let mut slices = 1;
    while rig.shard.poll_fanout(rig.now) {
        slices += 1;
    }
    // 22 members each: a slice of three messages has fewer than one of one.
    assert_eq!(slices, 5, "one run for all three");
    for &key in &members {
        assert_eq!(rig.hear(key), ["send1 #1 \"a\"", "send1 #2 \"b\"", "send0 \"c\""]);
        rig.ack(key, 1, "");
        rig.ack(key, 2, "two");
    }
    let total = members.len() as u32;
    let replies = rig.replies();
    let [qos0, one, two] = &replies[..] else { panic!("{replies:?}") };
    assert_eq!(qos0.1, sent(total, ""));
    assert_eq!((one, two), (&(tickets[0], sent(total, "")), &(tickets[1], sent(total, "two"))));
    rig.finish();
}

#[test]
fn a_message_that_comes_during_a_run_comes_after_it() {
    let mut rig = Rig::new();
    let members = crowd(&mut rig, "all", AT_ONCE + 1);
    rig.call("all", QoS::AtMostOnce, "a");
    assert!(rig.shard.poll_fanout(rig.now));
    rig.call("all", QoS::AtMostOnce, "b");
    rig.call("all", QoS::AtMostOnce, "c");
    let last = *members.last().expect("many");
    rig.end(members[0]);
    rig.call("all", QoS::AtMostOnce, "d");
    rig.fan_out();
    assert_eq!(rig.hear(last), ["send0 \"a\"", "send0 \"b\"", "send0 \"c\"", "send0 \"d\""]);
    rig.finish();
}

#[test]
fn members_that_leave_during_a_run_are_not_waited_for() {
    let mut rig = Rig::new();
    let members = crowd(&mut rig, "all", AT_ONCE + 10);
    let query_id = rig.call("all", QoS::AtLeastOnce, "a");
    assert!(rig.shard.poll_fanout(rig.now));
    // Of those who are still to be served: one ends, one closes, one ends and its slot is used again.
    let waiting = &members[SLICE..];
    rig.end(waiting[1]);
    let new = rig.open_in("all");
    assert_eq!(new.index, waiting[1].index);
    rig.end(waiting[2]);
    rig.input(Input::Close { key: waiting[3], code: CloseCode::GOING_AWAY, reason: "" });
    rig.fan_out();
    assert_eq!(rig.hear(new), [""; 0], "who came later was not meant");
    for &key in &members {
        rig.ack(key, 1, "");
    }
    assert_eq!(rig.replies(), [(query_id, sent(members.len() as u32 - 3, ""))]);
    rig.finish();
}

#[test]
fn a_member_that_is_closed_by_one_message_is_not_waited_for_by_the_next() {
    let mut rig = Rig::new();
    crowd(&mut rig, "all", AT_ONCE + 1);
    let tickets: Vec<QueryId> = (0..6).map(|_| rig.call("all", QoS::AtLeastOnce, &"x".repeat(300))).collect();
    rig.fan_out();
    rig.advance(10_000);
    let mut replies = rig.replies();
    replies.sort_by_key(|(query_id, _)| query_id.0);
    assert_eq!(replies, tickets.into_iter().map(|query_id| (query_id, sent(0, ""))).collect::<Vec<_>>());
    assert_eq!(rig.stats().closed_too_slow.get(), AT_ONCE as u64 + 1);
    rig.finish();
}

#[test]
fn a_channel_that_empties_before_its_run_answers_nobody() {
    let mut rig = Rig::new();
    let members = crowd(&mut rig, "all", AT_ONCE + 1);
    let query_id = rig.call("all", QoS::ExactlyOnce, "a");
    for key in members {
        rig.end(key);
    }
    rig.fan_out();
    assert_eq!(rig.replies(), [(query_id, sent(0, ""))]);
    rig.finish();
}

#[test]
fn parts_of_a_large_channel_time_out() {
    let mut rig = Rig::new();
    let members = crowd(&mut rig, "all", AT_ONCE + 1);
    let query_id = rig.call("all", QoS::AtLeastOnce, "a");
    rig.fan_out();
    rig.ack(members[5], 1, "only me");
    rig.advance(9_999);
    assert!(rig.replies().is_empty());
    rig.advance(1);
    assert_eq!(rig.replies(), [(query_id, sent(1, "only me"))]);
    rig.ack(members[6], 1, "too late");
    assert!(rig.replies().is_empty());
    rig.finish();
}

fn refused(refused: u32) -> Reply {
    let why = Some(NotSent::Refused(QueryRefusal::TooManyMessages));
    Reply::Sent { tally: Tally { refused, why, ..Tally::default() }, data: Vec::new() }
}

#[test]
fn a_room_does_not_wait_behind_a_broadcast() {
    let mut rig = Rig::new();
    crowd(&mut rig, "everybody", 20 * SLICE);
    let room = crowd(&mut rig, "room", AT_ONCE + 1);
    rig.call("everybody", QoS::AtMostOnce, "news");
    assert!(rig.shard.poll_fanout(rig.now));
    rig.call("room", QoS::AtMostOnce, "a");
    for _ in 0..2 * (AT_ONCE / SLICE + 1) {
        assert!(rig.shard.poll_fanout(rig.now), "the broadcast goes on");
    }
    assert!(room.iter().all(|&key| rig.hear(key) == ["send0 \"a\""]), "all of the room have it");
    rig.fan_out();
    rig.finish();
}

#[test]
fn a_message_whose_call_is_over_goes_to_nobody_any_more() {
    let mut rig = Rig::new();
    let members = crowd(&mut rig, "all", AT_ONCE + SLICE);
    let running = rig.call("all", QoS::AtLeastOnce, "a");
    assert!(rig.shard.poll_fanout(rig.now));
    let waiting = rig.call("all", QoS::AtLeastOnce, "b");
    let unacknowledged = rig.call("all", QoS::AtMostOnce, "c");
    rig.ack(members[0], 1, "in time");
    rig.advance(10_000);
    rig.fan_out();
    let replies = rig.replies();
    assert!(replies.contains(&(running, sent(1, "in time"))), "{replies:?}");
    assert!(replies.contains(&(waiting, refused(members.len() as u32))), "{replies:?}");
    assert!(replies.contains(&(unacknowledged, sent(members.len() as u32, ""))), "{replies:?}");
    let last = *members.last().expect("many");
    assert_eq!(rig.hear(last), ["send0 \"c\""], "only what nobody waits for");
    assert_eq!(rig.stats().fanout_late.get(), 2);
    rig.finish();
}

#[test]
fn too_many_waiting_messages_are_refused() {
    let mut rig = Rig::new();
    crowd(&mut rig, "all", AT_ONCE + 1);
    for _ in 0..JOBS_MAX {
        rig.call("all", QoS::AtMostOnce, "a");
    }
    rig.replies();
    let query_id = rig.call("all", QoS::AtLeastOnce, "a");
    assert_eq!(rig.replies(), [(query_id, refused(AT_ONCE as u32 + 1))]);
    let kick = Query::KickChannel { channel: "all".into(), code: CloseCode(4000), reason: "".into() };
    assert_eq!(rig.reply_to(kick), Reply::Refused(QueryRefusal::TooManyMessages));
    assert_eq!(rig.stats().fanout_refused.get(), 2);
    rig.finish();
}

#[test]
fn kicking_a_channel_closes_its_members_behind_what_was_sent_before() {
    let mut rig = Rig::new();
    let (one, two, other) = (rig.open_in("room"), rig.open_in("room"), rig.open_in("else"));
    rig.call("room", QoS::AtMostOnce, "last words");
    rig.replies();
    let kick = Query::KickChannel { channel: "room".into(), code: CloseCode(4001), reason: "over".into() };
    assert_eq!(rig.reply_to(kick), Reply::done(2));
    rig.call("room", QoS::AtMostOnce, "unheard");
    rig.fan_out();
    for key in [one, two] {
        assert_eq!(rig.hear(key), ["send0 \"last words\"", "close 4001 over"]);
    }
    assert_eq!(rig.hear(other), [""; 0]);
    assert_eq!(rig.stats().kicked.get(), 2);
    rig.finish();
}

/// A message to the channels `a` and `b`, with two members in both: how many are counted, and how often each hears it.
fn to_both(sizes: [usize; 2], qos: QoS, mode: Mode) -> (u32, Vec<usize>) {
    let mut rig = Rig::with(|settings| settings.mode = mode);
    let mut members = crowd(&mut rig, "a", sizes[0]);
    members.extend(crowd(&mut rig, "b", sizes[1]));
    for &key in &members[..2] {
        rig.input(Input::Subscribe { key, channel: "b" });
    }
    let message = Message::encode(qos, 7, b"x", &mut Vec::new());
    let channels = Arc::from(["a".into(), "b".into(), "nobody's".into()]);
    let query_id = rig.query(Query::Broadcast { channels, message, terms: (rig.now + 10_000).into() });
    rig.fan_out();
    let heard = members.iter().map(|&key| {
        let heard = rig.hear(key).len();
        (1..=heard as u16).for_each(|id| {
            if qos != QoS::AtMostOnce {
                rig.ack(key, id, "")
            }
        });
        heard
    });
    let heard = heard.collect();
    let replies = rig.replies();
    assert_eq!(replies.len(), 3, "one for each channel");
    assert!(replies.iter().all(|(of, _)| *of == query_id));
    let count = |reply: &Reply| match reply {
        Reply::Sent { tally, .. } if tally.is_success() => tally.connections,
        other => panic!("{other:?}"),
    };
    let count = replies.iter().map(|(_, reply)| count(reply)).sum();
    rig.finish();
    (count, heard)
}

#[test]
fn a_member_of_two_channels_of_a_call_gets_the_message_once_and_counts_once() {
    for sizes in [[4, 3], [AT_ONCE + 1, 3], [3, AT_ONCE + 1], [2 * AT_ONCE, 3 * AT_ONCE]] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
            let (count, heard) = to_both(sizes, qos, Mode::Packets);
            assert_eq!(count as usize, sizes.iter().sum::<usize>(), "{sizes:?} {qos:?}");
            assert!(heard.iter().all(|&heard| heard == 1), "{sizes:?} {qos:?}");
            let (count, heard) = to_both(sizes, qos, Mode::Planted(Bug::SendsTwice));
            assert_eq!((count as usize, heard[0]), (heard.len() + 2, 2), "the mistake would show");
        }
    }
}

#[test]
fn a_message_of_qos_0_to_several_channels_whose_turn_comes_too_late_is_refused() {
    let mut rig = Rig::new();
    let members = crowd(&mut rig, "a", AT_ONCE + 1);
    let message = Message::encode(QoS::AtMostOnce, 7, b"x", &mut Vec::new());
    let terms = (rig.now + 100).into();
    let query_id = rig.query(Query::Broadcast { channels: Arc::from(["a".into()]), message, terms });
    rig.advance(100);
    let [(of, Reply::Sent { tally, .. })] = &rig.replies()[..] else { panic!("one reply") };
    assert_eq!((*of, tally.refused), (query_id, members.len() as u32));
    rig.fan_out();
    assert_eq!(rig.hear(members[0]), [""; 0]);
    rig.finish();
}

#[test]
fn many_are_evicted_in_slices_and_messages_keep_their_place() {
    let mut rig = Rig::new();
    let members = crowd(&mut rig, "all", 2 * AT_ONCE);
    let keep = rig.identity(members[3]);
    rig.call("all", QoS::AtMostOnce, "before");
    let query_id = rig.query(Query::Evict { channel: "all".into(), keep: keep.into() });
    rig.replies();
    let mut slices = 1;
    while rig.shard.poll_fanout(rig.now) {
        slices += 1;
        rig.input(Input::Tick);
        if slices == 2 {
            assert!(rig.replies().is_empty(), "not all have left");
        }
    }
    rig.input(Input::Tick);
    assert!(slices >= 2 * AT_ONCE / SLICE, "{slices} slices");
    assert_eq!(rig.replies(), [(query_id, Reply::done(2 * AT_ONCE as u32 - 1))]);
    rig.call("all", QoS::AtMostOnce, "after");
    assert_eq!(rig.hear(members[3]), ["send0 \"before\"", "send0 \"after\""]);
    assert_eq!(rig.hear(members[4]), ["send0 \"before\""]);
    rig.finish();
}
