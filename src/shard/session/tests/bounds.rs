//! A store that does not answer: what waits for it is bounded, whatever is asked.

use super::*;

/// The store has more to do than it may.
fn busy(change: impl FnOnce(&mut Settings)) -> (Bench, ConnKey) {
    let mut bench = Bench::with(|settings| {
        settings.limits.commands_max = 4;
        change(settings);
    });
    let key = bench.open("me");
    bench.open("away");
    let away = bench.rig.shard.sessions.table.by_name("away").expect("it is open");
    let conn = bench.rig.shard.sessions.table.at(away).conn.expect("it is open");
    let away = bench.rig.shard.conns.key(conn);
    bench.rig.end(away);
    bench.store();
    (bench, key)
}

#[test]
fn messages_beyond_the_limit_are_refused_by_name() {
    let (mut bench, _) = busy(|_| {});
    for _ in 0..10 {
        bench.send_to("away", QOS1, "x");
    }
    let why = NotSent::NotStored(NotStored::Store(StoreError::TooBusy));
    let is_refused = |reply: &Reply| matches!(reply, Reply::Sent { tally, .. } if tally.why == Some(why));
    assert_eq!(bench.rig.replies().iter().filter(|(_, reply)| is_refused(reply)).count(), 6);
    assert_eq!(bench.rig.stats().stores_refused.get(), 6);
    assert_eq!(bench.rig.shard.store_under_way(), 4);
    bench.store();
    bench.rig.replies();
    bench.finish();
}

#[test]
fn bytes_beyond_the_limit_are_refused() {
    let (mut bench, _) = busy(|settings| {
        settings.limits.commands_max = 1_000;
        settings.limits.commands_bytes_max = 100_000;
        settings.message_bytes_max = 60_000;
    });
    let large = "x".repeat(30_000);
    for _ in 0..10 {
        bench.send_to("away", QOS1, &large);
    }
    assert!(bench.rig.shard.store_under_way() <= 4, "{} are under way", bench.rig.shard.store_under_way());
    bench.store();
    bench.rig.replies();
    bench.finish();
}

#[test]
fn an_attach_is_refused_and_leaves_nothing() {
    let (mut bench, _) = busy(|_| {});
    for _ in 0..4 {
        bench.send_to("away", QOS1, "x");
    }
    let sessions = bench.rig.shard.sessions.table.len();
    let key = bench.attach("new", &["news"]);
    let refused = |output: &Output| matches!(output, Output::AttachRefused { why: StoreError::TooBusy, .. });
    assert!(bench.rig.outputs().iter().any(refused));
    bench.rig.input(Input::Abandoned { key });
    assert_eq!((bench.rig.shard.sessions.table.len(), bench.rig.shard.store_under_way()), (sessions, 4));
    bench.store();
    bench.rig.replies();
    bench.finish();
}

#[test]
fn a_change_of_channels_is_refused() {
    let (mut bench, key) = busy(|_| {});
    for _ in 0..4 {
        bench.send_to("away", QOS1, "x");
    }
    let identity = bench.rig.identity(key);
    for query in
        [Query::Subscribe { identity, channel: "news".into() }, Query::Unsubscribe { identity, channel: "news".into() }]
    {
        bench.rig.query(query);
        assert_eq!(bench.reply(), Reply::Refused(crate::shard::QueryRefusal::TooBusy));
    }
    bench.store();
    bench.rig.replies();
    bench.finish();
}
