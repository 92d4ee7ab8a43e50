//! What the business server asks, and how several shards' replies become one.

use super::*;
use crate::base::id::{ConnIndex, Identity, ShardId};
use crate::shard::ChannelMember;
use crate::shard::Input;
use crate::shard::channel::traffic::Traffic;
use crate::shard::channel::user::channel_of;
use crate::shard::tests::{NODE, Rig, sent};
use crate::shard::{NotSent, NotStored, Tally};
use crate::wire::packet::QoS;
use crate::wire::ws::frame::CloseCode;
use proptest::prelude::*;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

fn done_with(connections: u32) -> Reply {
    Reply::done(connections)
}

fn members_of(rig: &mut Rig, channel: &str) -> Vec<Identity> {
    match rig.reply_to(Query::Members { channel: channel.into(), offset: 0, limit: 100, counts: false }) {
        Reply::Members { total, members, .. } => {
            assert_eq!(total, members.len());
            members.into_iter().map(|member| member.identity).collect()
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
    let subscribe = || Query::Subscribe { who: identity.into(), channel: "news".into() };
    assert_eq!(rig.reply_to(subscribe()), done_with(0));
    rig.opened(key);
    assert_eq!(rig.reply_to(Query::Exists { who: identity.into() }), done_with(1));
    assert_eq!(rig.reply_to(subscribe()), done_with(1));
    assert_eq!(members_of(&mut rig, "news"), [identity]);
    assert_eq!(rig.reply_to(Query::Unsubscribe { who: identity.into(), channel: "news".into() }), done_with(1));
    assert!(members_of(&mut rig, "news").is_empty());
    rig.input(Input::Close { key, code: CloseCode::GOING_AWAY, reason: "" });
    assert_eq!(rig.reply_to(subscribe()), done_with(0));
    rig.end(key);
    assert_eq!(rig.reply_to(Query::Exists { who: identity.into() }), done_with(0));
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
        Query::Exists { who: identity.into() },
        Query::Subscribe { who: identity.into(), channel: "news".into() },
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
    let subscribe = |channel: &str| Query::Subscribe { who: identity.into(), channel: channel.into() };
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
    let evict = || Query::Evict { channel: "seat".into(), keep: keep.into() };
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
fn a_user_is_whom_the_backend_has_named() {
    let mut rig = Rig::new();
    let named = |rig: &mut Rig, user: &str| {
        let (key, identity) = rig.reserve();
        rig.input(Input::User { key, user });
        rig.input(Input::Subscribe { key, channel: "news" });
        rig.input(Input::Opened { key, response: Rc::from(&b""[..]), greets: false });
        (key, identity)
    };
    let ((ann, identity), _) = (named(&mut rig, "ann"), named(&mut rig, "bob"));
    let nobody = rig.open_in("news");
    let page = Query::Members { channel: "news".into(), offset: 0, limit: 9, counts: false };
    let Reply::Members { members, .. } = rig.reply_to(page) else { panic!("members") };
    let mut users: Vec<_> = members.into_iter().map(|member| member.user).collect();
    users.sort();
    assert_eq!(users, [None, Some("ann".into()), Some("bob".into())]);

    assert_eq!(members_of(&mut rig, &channel_of("ann")), [identity]);
    assert_eq!(rig.reply_to(Query::Largest { most: 9 }), Reply::Channels(vec![("news".into(), 3)]), "users are hidden");
    let found = rig.reply_to(Query::FindChannels { text: "ann".into(), most: 9 });
    assert_eq!(found, Reply::Channels(vec![]));
    let info = Arc::new(OnceLock::new());
    rig.reply_to(Query::Connection { identity, info: info.clone() });
    let info = info.get().expect("it is open");
    assert_eq!((info.user.as_deref(), &info.channels[..]), (Some("ann"), &["news".to_string()][..]));

    let who = rig.identity(nobody).into();
    let join = Query::Subscribe { who, channel: channel_of("ann").into() };
    assert_eq!(rig.reply_to(join), Reply::Refused(QueryRefusal::BadChannelName), "nobody becomes a user so");
    rig.send(ann, 1, 1, "up");
    assert_eq!(rig.forward().client.user().map(|user| &**user), Some("ann"), "hooks say it");
}

#[test]
fn members_are_told_page_by_page() {
    let mut rig = Rig::new();
    let keys: Vec<_> = (0..7).map(|_| rig.open_in("news")).collect();
    let mut all: Vec<Identity> = keys.into_iter().map(|key| rig.identity(key)).collect();
    let mut listed = Vec::new();
    for offset in [0, 3, 6, 9] {
        let Reply::Members { total: 7, members, .. } =
            rig.reply_to(Query::Members { channel: "news".into(), offset, limit: 3, counts: false })
        else {
            panic!("seven are there")
        };
        listed.extend(members.into_iter().map(|member| member.identity));
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
fn channels_are_found_by_a_part_of_their_name() {
    let mut rig = Rig::new();
    for (channel, members) in [("room:a", 1), ("room:b", 2), ("news", 3)] {
        (0..members).for_each(|_| {
            rig.open_in(channel);
        });
    }
    let mut find = |text: &str, most| match rig.reply_to(Query::FindChannels { text: text.into(), most }) {
        Reply::Channels(channels) => channels,
        other => panic!("{other:?}"),
    };
    assert_eq!(find("room", 9), [("room:b".into(), 2), ("room:a".into(), 1)]);
    assert_eq!(find("room", 1), [("room:b".into(), 2)]);
    assert_eq!(find("Room", 9), []);
    rig.finish();
}

#[test]
fn a_connection_says_how_it_stands() {
    let mut rig = Rig::new();
    let key = rig.open_in("news");
    let identity = rig.identity(key);
    rig.call("news", QoS::AtLeastOnce, "not acknowledged");
    rig.send(key, 1, 1, "first");
    rig.send(key, 1, 2, "second");
    let info = std::sync::Arc::new(std::sync::OnceLock::new());
    assert_eq!(rig.reply_to(Query::Connection { identity, info: info.clone() }), Reply::found(true));
    let info = info.get().expect("it was found");
    assert_eq!((info.in_flight, info.forward_queue, info.is_forwarding, info.is_paused), (1, 1, true, false));
    assert_eq!((&info.channels[..], &info.session), (&["news".to_owned()][..], &None));
    let nobody = std::sync::Arc::new(std::sync::OnceLock::new());
    let identity = Identity([7; 32]);
    assert_eq!(rig.reply_to(Query::Connection { identity, info: nobody.clone() }), Reply::found(false));
    assert_eq!(nobody.get(), None);
    for body in ["", ""] {
        let forward = rig.forward();
        rig.answer(forward, body);
    }
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
    let cases = [
        (sent(1, ""), sent(2, "b"), sent(3, "b")),
        (done_with(0), done_with(1), done_with(1)),
        (done_with(0), refused(), refused()),
        (done_with(1), refused(), Reply::Done { connections: 1, refused: Some(QueryRefusal::TooBusy) }),
        (
            Reply::Channels(vec![("b".into(), 1), ("a".into(), 1)]),
            Reply::Channels(vec![("a".into(), 2)]),
            Reply::Channels(vec![("a".into(), 3), ("b".into(), 1)]),
        ),
        (Reply::Channels(vec![("a".into(), 1)]), refused(), refused()),
    ];
    for (one, other, sum) in cases {
        assert_eq!(added([one.clone(), other.clone()]), sum);
        assert_eq!(added([other, one]), sum);
    }
}

#[test]
fn every_part_that_refuses_a_message_counts() {
    let why = NotSent::Refused(QueryRefusal::TooBusy);
    let refused = || Reply::not_sent(1, QueryRefusal::TooBusy);
    let stored = Reply::Sent { tally: Tally { targets: 7, stored: 7, ..Tally::default() }, data: b"x".to_vec() };
    let sum = added([refused(), stored, refused(), Reply::silent(3), Reply::unreachable(2)]);
    let tally =
        Tally { targets: 12, stored: 7, refused: 2, undecided: 3, unreachable: 2, why: Some(why), ..Tally::default() };
    assert_eq!(sum, Reply::Sent { tally, data: b"x".to_vec() });
    assert!(!tally.is_success());
}

fn added(replies: impl IntoIterator<Item = Reply>) -> Reply {
    replies
        .into_iter()
        .reduce(|mut sum, reply| {
            sum.add(reply);
            sum
        })
        .expect("there are some")
}

/// Replies of one kind, and refusals: what several shards may reply to one query.
fn replies() -> impl Strategy<Value = Vec<Reply>> {
    let refusal = || prop_oneof![Just(QueryRefusal::TooBusy), Just(QueryRefusal::NotStored)];
    let reason = prop_oneof![
        refusal().prop_map(NotSent::Refused),
        Just(NotSent::NotStored(NotStored::Expired)),
        Just(NotSent::TimeOver),
    ];
    let tally = (prop::array::uniform5(0..3_u32), reason).prop_map(
        |([more, connections, stored, refused, undecided], reason)| Tally {
            targets: connections + stored + refused + undecided + more,
            connections,
            stored,
            refused,
            undecided,
            unreachable: 0,
            why: (refused + undecided > 0).then_some(reason),
        },
    );
    let sent = (tally, prop::collection::vec(0..3_u8, 0..3)).prop_map(|(tally, data)| Reply::Sent { tally, data });
    let done = prop_oneof![(0..3_u32).prop_map(Reply::done), refusal().prop_map(Reply::Refused)];
    let channels = prop::collection::btree_map("[a-c]", 1..4_usize, 0..3);
    let channels = prop_oneof![
        channels.prop_map(|channels| Reply::Channels(channels.into_iter().collect())),
        refusal().prop_map(Reply::Refused),
    ];
    let identity = (0..9_u8).prop_map(|n| {
        Identity::new([n; 32], NODE, ConnKey { index: ConnIndex(u32::from(n)), generation: 0, shard: ShardId(0) })
    });
    let member = (identity, prop::option::of("[ab]"));
    let member = member.prop_map(|(identity, user)| ChannelMember { identity, user: user.map(String::into) });
    let members = prop::collection::vec(member, 0..3).prop_map(|members| Reply::Members {
        total: members.len(),
        members,
        traffic: Some(Traffic::default()),
    });
    let members = prop_oneof![members, refusal().prop_map(Reply::Refused)];
    let some = 2..5_usize;
    prop_oneof![
        prop::collection::vec(sent, some.clone()),
        prop::collection::vec(done, some.clone()),
        prop::collection::vec(channels, some.clone()),
        prop::collection::vec(members, some),
    ]
}

/// Every order of so many things.
fn orders(len: usize) -> Vec<Vec<usize>> {
    let Some(last) = len.checked_sub(1) else { return vec![Vec::new()] };
    let longer = |order: Vec<usize>| {
        (0..=order.len()).map(move |at| {
            let mut order = order.clone();
            order.insert(at, last);
            order
        })
    };
    orders(last).into_iter().flat_map(longer).collect()
}

proptest! {
    #[test]
    fn the_order_of_replies_does_not_matter(replies in replies(), split in 1..4_usize) {
        let sum = added(replies.clone());
        for order in orders(replies.len()) {
            let in_order: Vec<Reply> = order.iter().map(|&index| replies[index].clone()).collect();
            prop_assert_eq!(&added(in_order.clone()), &sum);
            // Parts may be sums themselves.
            let (some, others) = in_order.split_at(split.min(replies.len() - 1));
            prop_assert_eq!(&added([added(some.to_vec()), added(others.to_vec())]), &sum);
        }
        let refused = replies.iter().any(|reply| match reply {
            Reply::Refused(_) => true,
            Reply::Sent { tally, .. } => !tally.is_success(),
            _ => false,
        });
        let is_success = match sum {
            Reply::Sent { tally, .. } => tally.is_success(),
            Reply::Done { refused, .. } => refused.is_none(),
            Reply::Refused(_) => false,
            _ => true,
        };
        prop_assert_eq!(is_success, !refused);
    }
}
