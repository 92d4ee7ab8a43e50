//! What the business server asks, and how several shards' replies become one.

use super::*;
use crate::shard::Input;
use crate::shard::tests::{Rig, sent};
use crate::shard::{NotSent, Tally};
use crate::wire::packet::QoS;
use crate::wire::ws::frame::CloseCode;

fn done_with(connections: u32) -> Reply {
    Reply::done(connections)
}

fn members_of(rig: &mut Rig, channel: &str) -> Vec<Identity> {
    match rig.reply_to(Query::Members { channel: channel.into(), offset: 0, limit: 100 }) {
        Reply::Members { total, identities } => {
            assert_eq!(total, identities.len());
            identities
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_channel_with_nobody_is_answered_at_once() {
    let mut rig = Rig::new();
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let query_id = rig.call("nobody", qos, "x");
        assert_eq!(rig.replies(), [(query_id, sent(0, ""))]);
    }
    rig.finish();
}

#[test]
fn qos_0_is_answered_at_once() {
    let mut rig = Rig::new();
    let key = rig.open_in("news");
    let query_id = rig.call("news", QoS::AtMostOnce, "x");
    assert_eq!(rig.replies(), [(query_id, sent(1, ""))]);
    assert_eq!(rig.hear(key), ["send0 \"x\""]);
    rig.finish();
}

#[test]
fn the_first_reply_that_says_something_is_the_data() {
    let mut rig = Rig::new();
    let keys = [rig.open_in("news"), rig.open_in("news"), rig.open_in("news")];
    let query_id = rig.call("news", QoS::AtLeastOnce, "x");
    for (key, body) in keys.into_iter().zip(["", "first", "second"]) {
        rig.ack(key, 1, body);
    }
    assert_eq!(rig.replies(), [(query_id, sent(3, "first"))]);
    rig.finish();
}

#[test]
fn subscribing_wants_an_open_connection_of_that_name() {
    let mut rig = Rig::new();
    let (key, identity) = rig.reserve();
    let subscribe = || Query::Subscribe { identity, channel: "news".into() };
    assert_eq!(rig.reply_to(subscribe()), done_with(0));
    rig.opened(key);
    assert_eq!(rig.reply_to(Query::Exists { identity }), done_with(1));
    assert_eq!(rig.reply_to(subscribe()), done_with(1));
    assert_eq!(members_of(&mut rig, "news"), [identity]);
    assert_eq!(rig.reply_to(Query::Unsubscribe { identity, channel: "news".into() }), done_with(1));
    assert!(members_of(&mut rig, "news").is_empty());
    rig.input(Input::Close { key, code: CloseCode::GOING_AWAY, reason: "" });
    assert_eq!(rig.reply_to(subscribe()), done_with(0));
    rig.end(key);
    assert_eq!(rig.reply_to(Query::Exists { identity }), done_with(0));
    rig.finish();
}

#[test]
fn a_name_of_one_who_had_the_slot_before_is_nobodys() {
    let mut rig = Rig::new();
    let old = rig.open();
    let identity = rig.identity(old);
    rig.end(old);
    let new = rig.open();
    assert_eq!(new.index, old.index);
    for query in [
        Query::Exists { identity },
        Query::Subscribe { identity, channel: "news".into() },
        Query::Kick { identity, code: CloseCode(4000), reason: "".into() },
    ] {
        assert_eq!(rig.reply_to(query), done_with(0));
    }
    assert_eq!(rig.shard.len(), 1);
    rig.finish();
}

#[test]
fn too_many_channels_and_bad_names_are_refused() {
    let mut rig = Rig::new();
    let key = rig.open();
    let identity = rig.identity(key);
    let subscribe = |channel: &str| Query::Subscribe { identity, channel: channel.into() };
    for channel in ["a", "b", "c", "d", "a"] {
        assert_eq!(rig.reply_to(subscribe(channel)), done_with(1));
    }
    assert_eq!(rig.reply_to(subscribe("e")), Reply::Refused(QueryRefusal::TooManyChannels));
    assert_eq!(rig.reply_to(subscribe("a")), done_with(1), "it is in that one already");
    for name in ["", &"x".repeat(257)] {
        assert_eq!(rig.reply_to(subscribe(name)), Reply::Refused(QueryRefusal::BadChannelName));
    }
    assert_eq!(rig.stats().subscriptions_refused.get(), 3);
    rig.finish();
}

#[test]
fn evicting_leaves_the_one_who_occupies() {
    let mut rig = Rig::new();
    let keys = [rig.open_in("seat"), rig.open_in("seat"), rig.open_in("seat")];
    let keep = rig.identity(keys[1]);
    let evict = || Query::Evict { channel: "seat".into(), keep };
    assert_eq!(rig.reply_to(evict()), done_with(2));
    assert_eq!(members_of(&mut rig, "seat"), [keep]);
    assert_eq!(rig.reply_to(evict()), done_with(0));
    rig.end(keys[1]);
    assert_eq!(rig.reply_to(evict()), done_with(0));
    rig.finish();
}

#[test]
fn a_kick_closes_with_the_callers_code_and_reason() {
    let mut rig = Rig::new();
    let key = rig.open();
    let kick = Query::Kick { identity: rig.identity(key), code: CloseCode(4500), reason: "do not return".into() };
    assert_eq!(rig.reply_to(kick.clone()), done_with(1));
    assert_eq!(rig.hear(key), ["close 4500 do not return"]);
    assert_eq!(rig.reply_to(kick), done_with(0));
    assert_eq!(rig.stats().kicked.get(), 1);
    rig.finish();
}

#[test]
fn members_are_told_page_by_page() {
    let mut rig = Rig::new();
    let keys: Vec<_> = (0..7).map(|_| rig.open_in("news")).collect();
    let mut all: Vec<Identity> = keys.into_iter().map(|key| rig.identity(key)).collect();
    let mut listed = Vec::new();
    for offset in [0, 3, 6, 9] {
        let Reply::Members { total: 7, identities } =
            rig.reply_to(Query::Members { channel: "news".into(), offset, limit: 3 })
        else {
            panic!("seven are there")
        };
        listed.extend(identities);
    }
    all.sort_by_key(|identity| identity.0);
    listed.sort_by_key(|identity| identity.0);
    assert_eq!(listed, all);
    rig.finish();
}

#[test]
fn the_largest_channels_are_found() {
    let mut rig = Rig::new();
    for (channel, members) in [("a", 1), ("b", 5), ("c", 3), ("d", 4), ("e", 2)] {
        (0..members).for_each(|_| {
            rig.open_in(channel);
        });
    }
    let Reply::Channels(mut largest) = rig.reply_to(Query::Largest { most: 3 }) else { panic!("channels") };
    largest.sort_by_key(|(_, members)| *members);
    assert_eq!(largest, [("c".into(), 3), ("d".into(), 4), ("b".into(), 5)]);
    assert!(matches!(rig.reply_to(Query::Largest { most: 0 }), Reply::Channels(none) if none.is_empty()));
    assert!(matches!(rig.reply_to(Query::Largest { most: 9 }), Reply::Channels(all) if all.len() == 5));
    rig.finish();
}

#[test]
fn metrics_show_the_shard_as_it_stands() {
    let mut rig = Rig::new();
    let key = rig.open_in("news");
    rig.reserve();
    rig.send(key, 1, 1, "12345");
    rig.call("news", QoS::AtLeastOnce, "x");
    let metrics = rig.stats();
    let gauges = [&metrics.connections, &metrics.channels, &metrics.calls_waiting, &metrics.forward_queue_bytes];
    let memory = rig.shard.uplinks.memory() as u64;
    assert!(memory > 5, "what a message of five bytes costs");
    assert_eq!(gauges.map(|gauge| gauge.get()), [1, 1, 1, memory]);
    let counters = [&metrics.opened, &metrics.messages_in, &metrics.forwards, &metrics.messages_out];
    assert_eq!(counters.map(|counter| counter.get()), [1; 4]);
    let forward = rig.forward();
    rig.answer(forward, "");
    rig.finish();
}

#[test]
fn shards_replies_add_up() {
    let refused = || Reply::Refused(QueryRefusal::TooBusy);
    let partly_done = || Reply::Done { connections: 1, refused: Some(QueryRefusal::TooBusy) };
    let cases = [
        (sent(1, ""), sent(2, "b"), sent(3, "b")),
        (sent(1, "a"), sent(0, "b"), sent(1, "a")),
        (done_with(0), done_with(1), done_with(1)),
        (refused(), done_with(0), refused()),
        (done_with(0), refused(), refused()),
        (refused(), done_with(1), partly_done()),
        (done_with(1), refused(), partly_done()),
        (Reply::sent(0), refused(), refused()),
        (refused(), Reply::sent(0), refused()),
        (
            Reply::Channels(vec![("a".into(), 1)]),
            Reply::Channels(vec![("a".into(), 2), ("b".into(), 1)]),
            Reply::Channels(vec![("a".into(), 3), ("b".into(), 1)]),
        ),
    ];
    for (mut one, other, sum) in cases {
        one.add(other);
        assert_eq!(one, sum);
    }
}

#[test]
fn a_refusal_beside_a_success_is_not_lost_and_loses_nothing() {
    let why = Some(NotSent::Refused(QueryRefusal::TooBusy));
    let stored = Reply::Sent { tally: Tally { targets: 7, stored: 7, ..Tally::default() }, data: b"x".to_vec() };
    let partly = Reply::Sent {
        tally: Tally { targets: 8, stored: 7, refused: 1, why, ..Tally::default() },
        data: b"x".to_vec(),
    };
    let refused = Reply::Refused(QueryRefusal::TooBusy);
    for (mut one, other) in [(stored.clone(), refused.clone()), (refused, stored)] {
        one.add(other);
        assert_eq!(one, partly);
    }
    let Reply::Sent { tally, .. } = partly else { unreachable!() };
    assert!(!tally.is_success());
}
