//! What simulation and fuzzing with tiny limits have found.

use super::*;
use crate::shard::QueryRefusal;
use crate::shard::channel::user::channel_of;
use crate::shard::command::Claim;
use crate::shard::ids::SessionIndex;

#[test]
fn a_run_that_began_before_a_connection_was_attached_does_not_reach_it() {
    let mut bench = Bench::with(|settings| {
        settings.limits.fanout_at_once_members = 0;
        settings.limits.fanout_slice_members = 1;
    });
    let plain = bench.rig.open_in("news");
    let (key, _) = bench.rig.reserve();
    bench.rig.input(Input::Subscribe { key, channel: "news" });
    bench.rig.call("news", QOS1, "x");
    assert!(bench.rig.shard.poll_fanout(bench.rig.now), "one of two members is served");
    let (response, name) = (Rc::from(&b""[..]), "me".into());
    bench.rig.input(Input::Attach { key, response, new: SessionId(7), name, expiry_s: None, greets: false });
    bench.store();
    bench.rig.fan_out();
    assert_eq!(bench.rig.hear(plain), [r#"send1 #1 "x""#]);
    assert_eq!(bench.rig.hear(key), [""; 0], "it had no session when the run began");
    bench.rig.ack(plain, 1, "");
    assert_eq!(bench.reply(), answered(1));
    bench.finish();
}

#[test]
fn offsets_of_messages_that_are_stored_at_once_are_reserved_too() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    for n in 0..300 {
        let claim = Claim { message_id: format!("{n}").into(), until: UnixMs(u64::MAX) };
        let terms = Terms { claim: Some(claim), ..Terms::from(bench.rig.now + 10_000) };
        bench.send_on("me", QOS1, "x", terms);
        bench.store();
        assert_eq!(bench.reply(), stored(1));
        let used = bench.rig.shard.sessions.table.at(SessionIndex(0)).next;
        let row = bench.disk.rows.values().next().expect("it is stored");
        assert!(row.downlink.reserved >= used, "a crash must not give {used:?} away again");
        let heard = bench.rig.hear(key);
        heard.iter().for_each(|_| bench.rig.ack(key, n + 1, ""));
    }
    bench.finish();
}

/// Its message is with the backend when the session goes to another node, in each order of what follows.
#[test]
fn the_end_of_a_connection_is_told_when_its_session_goes_while_its_message_is_with_the_backend() {
    type Act = fn(&mut Bench, ConnKey);
    let leaves: [Act; 2] = [
        |bench, _| bench.rig.input(Input::PassSession { name: &"me".into() }),
        |bench, _| bench.rig.input(Input::LoseSession { name: "me" }),
    ];
    let then: [Act; 3] = [
        |bench, _| {
            for forward in bench.rig.forwards() {
                bench.rig.answer(forward, "");
            }
        },
        |bench, _| bench.store(),
        |bench, key| bench.rig.end(key),
    ];
    for (qos, leave, order) in [1, 2].into_iter().flat_map(|qos| {
        let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        orders.into_iter().flat_map(move |order| leaves.map(|leave| (qos, leave, order)))
    }) {
        let mut bench = Bench::new();
        let key = bench.open("me");
        bench.rig.send(key, qos, 1, "x");
        bench.store();
        leave(&mut bench, key);
        order.iter().for_each(|step: &usize| then[*step](&mut bench, key));
        bench.store();
        bench.take_commands();
        let closed = bench.rig.outputs().iter().filter(|output| matches!(output, Output::Closed { .. })).count();
        assert_eq!(closed, 1, "QoS {qos}, order {order:?}");
    }
}

#[test]
fn the_rel_of_a_message_that_the_store_refuses_after_all_is_stored_when_the_connection_ends() {
    let mut bench = Bench::new();
    let old = bench.open("me");
    bench.send_to("me", QOS2, "x");
    assert_eq!(bench.rig.hear(old), [r#"send2 #1 "x""#]);
    bench.rig.advance(1_500);
    bench.rig.rec(old, 1, "");
    let new = bench.attach("me", &[]);
    bench.refuses = Some(StoreError::DiskFull);
    assert!(bench.store_one(), "the message, on its way before REC came");
    bench.refuses = None;
    bench.store();
    assert_eq!(bench.rig.hear(new), ["rel dup #1"], "the client holds the id until then");
    bench.rig.com(new, 1);
    bench.finish();
}

#[test]
fn a_client_that_holds_too_many_ids_is_closed_when_some_are_released_and_reports_the_rest_again() {
    let mut bench = Bench::with(|settings| {
        (settings.inflight_window, settings.limits.held_ids_max) = (1, 2);
        (settings.limits.page_messages_min, settings.limits.page_messages_max) = (1, 1);
    });
    let key = bench.open("me");
    bench.rig.end(key);
    bench.store();
    for body in ["a", "b", "c"] {
        bench.send_to("me", QOS1, body);
        bench.store();
    }
    bench.rig.replies();
    let key = bench.open("me");
    assert_eq!(bench.rig.hear(key), [r#"send1 #1 "a""#]);
    (901..=904).for_each(|id| bench.rig.rec(key, id, ""));
    let mut heard = Vec::new();
    for id in 1..=3 {
        bench.rig.ack(key, id, "");
        bench.store();
        heard.extend(bench.rig.hear(key));
    }
    let released = [r#"send1 #2 "b""#, "rel dup #901", "rel dup #902"];
    assert_eq!(heard[..3], released, "once all that is stored is loaded");
    assert_eq!(heard[3..], ["close 1008 too many ids are held"]);
    assert_eq!(bench.rig.stats().closed_policy.get(), 1);
    bench.finish();
}

#[test]
fn a_channel_is_what_the_last_change_that_the_store_took_makes_it() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    let subscribe = |bench: &mut Bench| bench.rig.input(Input::Subscribe { key, channel: "news" });
    bench.refuses = Some(StoreError::DiskFull);
    subscribe(&mut bench);
    bench.store();
    assert_eq!(bench.channels("me"), [""; 0], "the one change was refused");

    subscribe(&mut bench);
    bench.store_one();
    subscribe(&mut bench);
    bench.rig.input(Input::Unsubscribe { key, channel: "news" });
    bench.store();
    assert_eq!(bench.channels("me"), [""; 0], "it never joined");

    subscribe(&mut bench);
    subscribe(&mut bench);
    bench.store_one();
    bench.refuses = None;
    bench.store();
    assert_eq!(bench.channels("me"), ["news"], "the second was taken");
    bench.finish();
}

#[test]
fn a_channel_that_came_with_a_refused_row_is_stored_when_it_is_joined_again() {
    let mut bench = Bench::new();
    bench.attach("me", &["news"]);
    let key = bench.attach("me", &[]);
    bench.refuses = Some(StoreError::NameTaken);
    bench.store_one();
    bench.refuses = None;
    bench.store();
    assert!(bench.attached(key), "its own row was taken");
    // The store does not know a session whose row it has refused, and a join of it is done with that.
    bench.disk.channels.clear();
    bench.rig.input(Input::Subscribe { key, channel: "news" });
    bench.store();
    assert_eq!(bench.disk.channels.len(), 1);
    bench.finish();
}

#[test]
fn a_rel_that_could_not_be_stored_comes_with_every_connection_until_it_is_answered() {
    let mut bench = Bench::new();
    let first = bench.open("me");
    bench.send_to("me", QOS2, "x");
    bench.rig.rec(first, 1, "");
    bench.refuses = Some(StoreError::Broken);
    bench.rig.end(first);
    bench.store();
    bench.refuses = None;
    for _ in 0..2 {
        let lost = bench.open("me");
        assert_eq!(bench.rig.hear(lost), ["rel dup #1"]);
        bench.rig.end(lost);
        bench.store();
    }
    let last = bench.open("me");
    assert_eq!(bench.rig.hear(last), ["rel dup #1"]);
    bench.rig.com(last, 1);
    bench.rig.end(last);
    bench.store();
    let key = bench.open("me");
    assert_eq!(bench.rig.hear(key), [""; 0], "its COM has come");
    bench.finish();
}

#[test]
fn an_absent_session_joins_and_leaves_and_occupies() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    bench.rig.end(key);
    bench.store();
    let other = bench.attach("other", &["seat"]);
    bench.store();
    let me = || Who::Session("me".into());
    let nobody = Who::Session("nobody".into());
    assert_eq!(bench.rig.reply_to(Query::Exists { who: nobody.clone() }), Reply::done(0));
    assert_eq!(bench.rig.reply_to(Query::Exists { who: me() }), Reply::done(1));
    bench.rig.replies();
    for (query, expected, channels) in [
        (Query::Subscribe { who: me(), channel: "seat".into() }, Reply::done(1), vec!["seat"]),
        (Query::Subscribe { who: nobody.clone(), channel: "seat".into() }, Reply::done(0), vec!["seat"]),
        (Query::Evict { channel: "seat".into(), keep: me() }, Reply::done(1), vec!["seat"]),
        (Query::Unsubscribe { who: nobody, channel: "seat".into() }, Reply::done(0), vec!["seat"]),
        (Query::Unsubscribe { who: me(), channel: "seat".into() }, Reply::done(1), vec![]),
    ] {
        bench.rig.query(query);
        bench.store();
        assert_eq!(bench.reply(), expected);
        assert_eq!(bench.channels("me"), channels);
        let stored = bench.disk.sessions().into_iter().find(|session| &*session.row.name == "me").expect("it is there");
        assert!(stored.channels.iter().map(|name| &**name).eq(channels), "the store has it too");
    }
    assert!(bench.channels("other").is_empty(), "it was evicted");
    bench.rig.end(other);
    bench.finish();
}

#[test]
fn a_call_that_names_a_session_on_its_way_in_is_answered_when_its_channels_are_stored() {
    let mut bench = Bench::new();
    let key = bench.attach("me", &["news"]);
    bench.rig.query(Query::Subscribe { who: Who::Session("me".into()), channel: "news".into() });
    assert!(bench.rig.replies().is_empty(), "that it has joined is not stored yet");
    bench.store();
    assert_eq!(bench.reply(), Reply::done(1));
    bench.rig.end(key);
    bench.finish();
}

#[test]
fn who_is_online_is_counted_the_same_everywhere() {
    let mut bench = Bench::new();
    let key = bench.attach("me", &["news"]);
    bench.store();
    bench.attach("other", &["news"]);
    bench.store();
    let counts = |bench: &mut Bench| {
        let page = Query::Members { channel: "news".into(), offset: 0, limit: 10, counts: false };
        let Reply::Members { total, members, .. } = bench.rig.reply_to(page) else { panic!("members") };
        let Reply::Channels(largest) = bench.rig.reply_to(Query::Largest { most: 1 }) else { panic!("channels") };
        assert_eq!(members.len(), total);
        (total, largest.first().map_or(0, |(_, members)| *members))
    };
    assert_eq!(counts(&mut bench), (2, 2));
    bench.rig.end(key);
    assert_eq!(counts(&mut bench), (1, 1));
    bench.store();
    let key = bench.open("me");
    assert_eq!(counts(&mut bench), (2, 2));
    bench.rig.input(Input::Unsubscribe { key, channel: "news" });
    assert_eq!(counts(&mut bench), (1, 1));
    bench.store();
    bench.crash();
    assert_eq!(counts(&mut bench), (0, 0));
    bench.finish();
}

#[test]
fn a_call_that_waits_for_the_store_is_answered_at_once_and_the_client_gets_the_message_too() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    let terms = Terms { wait: Wait::Stored, ..Terms::from(bench.rig.now + 10_000) };
    bench.send_on("me", QOS1, "x", terms);
    assert_eq!(bench.rig.hear(key), ["send1 #1 \"x\""]);
    bench.rig.advance(1);
    bench.store();
    let Reply::Sent { tally, .. } = bench.reply() else { panic!("a message") };
    assert_eq!((tally.stored, tally.connections), (1, 0));
    bench.rig.ack(key, 1, "");
    bench.store();
    assert_eq!(bench.waiting("me"), 0);
    bench.finish();
}

#[test]
fn an_eviction_that_the_store_refuses_is_refused() {
    let mut bench = Bench::new();
    bench.attach("me", &["seat"]);
    bench.store();
    let evict = || Query::Evict { channel: "seat".into(), keep: Who::Session("other".into()) };
    bench.rig.query(evict());
    assert!(bench.rig.replies().is_empty(), "the store does not have it yet");
    bench.refuses = Some(StoreError::DiskFull);
    bench.store();
    assert_eq!(bench.reply(), Reply::Refused(QueryRefusal::NotStored));
    assert_eq!(bench.channels("me"), ["seat"], "it is still in");
    bench.refuses = None;
    bench.rig.query(evict());
    bench.store();
    assert_eq!(bench.reply(), Reply::done(1));
    assert!(bench.channels("me").is_empty());
    bench.finish();
}

#[test]
fn a_session_is_the_user_s_whom_the_backend_named_last() {
    let mut bench = Bench::new();
    let open_as = |bench: &mut Bench, user: Option<&str>| {
        let (key, _) = bench.rig.reserve();
        user.into_iter().for_each(|user| bench.rig.input(Input::User { key, user }));
        let key = bench.attach_reserved(key, "me");
        bench.store();
        key
    };
    let send_to = |bench: &mut Bench, user: &str| {
        bench.rig.call(&channel_of(user), QOS1, "x");
        bench.store();
        bench.reply()
    };
    let key = open_as(&mut bench, Some("ann"));
    bench.rig.end(key);
    bench.store();
    assert_eq!(send_to(&mut bench, "ann"), stored(1), "the session is away");
    bench.crash();
    let key = open_as(&mut bench, None);
    bench.rig.send(key, 1, 1, "up");
    bench.store();
    let forward = bench.forward();
    assert_eq!(forward.client.user().map(|user| &**user), Some("ann"), "it is the session's");
    bench.rig.fail(forward);
    bench.rig.end(key);
    bench.store();

    let key = open_as(&mut bench, Some("bob"));
    bench.rig.end(key);
    bench.store();
    assert_eq!((send_to(&mut bench, "ann"), send_to(&mut bench, "bob")), (answered(0), stored(1)));
    bench.crash();
    assert_eq!((send_to(&mut bench, "ann"), send_to(&mut bench, "bob")), (answered(0), stored(1)), "the store has it");
}

/// Also when its row is written in between.
#[test]
fn what_was_never_sent_is_known_to_be_so_after_any_restart() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    bench.send_to("me", QOS2, "sent");
    bench.rig.hear(key);
    bench.rig.end(key);
    bench.send_to("me", QOS2, "not sent");
    bench.store();
    for _ in 0..3 {
        bench.crash();
        let table = &bench.rig.shard.sessions.table;
        assert_eq!(table.at(table.by_name("me").expect("it is stored")).launched, Offset(1));
        bench.rig.input(Input::PassSession { name: &"me".into() });
        bench.store();
    }
}

#[test]
fn what_was_passed_on_or_taken_is_found_by_its_name_until_it_is_certain_what_became_of_it() {
    let leaves: [fn(&mut Bench); 2] = [
        |bench| bench.rig.input(Input::PassSession { name: &"me".into() }),
        |bench| bench.rig.input(Input::LoseSession { name: "me" }),
    ];
    for leave in leaves {
        let mut bench = Bench::new();
        let key = bench.open("me");
        bench.rig.input(Input::Subscribe { key, channel: "news" });
        bench.rig.end(key);
        bench.store();
        leave(&mut bench);
        bench.store();
        let refused = |bench: &mut Bench| {
            bench.rig.call("news", QOS1, "x");
            bench.store();
            let Reply::Sent { tally, .. } = bench.reply() else { panic!("a send is answered") };
            tally.refused
        };
        assert_eq!(refused(&mut bench), 1, "whoever does not know its new owner is to send again");
        bench.rig.input(Input::ForgetSession { name: "me", keeps_name: true });
        assert_eq!(refused(&mut bench), 0, "its new owner has it");
        assert!(bench.rig.shard.has_session("me"));
        bench.rig.input(Input::ForgetSession { name: "me", keeps_name: false });
        assert!(!bench.rig.shard.has_session("me"));
        bench.finish();
    }
}
