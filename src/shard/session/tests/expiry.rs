//! A message's time is over: before it is stored, in the store, in the queue, and in flight.

use super::*;
use crate::shard::command::ExpiredMessages;

/// Two seconds to live, with a caller that waits longer.
fn two_seconds(bench: &Bench) -> Terms {
    Terms { ttl_ms: Some(2_000), ..Terms::from(bench.rig.now + 10_000) }
}

/// How many messages wait, whatever was replied before.
fn waiting(bench: &mut Bench) -> u32 {
    bench.rig.replies();
    bench.info("me").waiting
}

/// What the store's purge removes, and reports.
fn purge(bench: &mut Bench) {
    let now = UnixMs(bench.rig.now.0);
    let due: Vec<_> =
        bench.disk.messages.iter().filter(|(_, stored)| stored.expires <= now).map(|(at, _)| *at).collect();
    for at in due {
        let stored = bench.disk.messages.remove(&at).expect("just seen");
        let bytes = stored.message.len() as u64;
        bench.rig.input(Input::MessagesExpired(ExpiredMessages { session: at.0, messages: 1, bytes }));
    }
}

#[test]
fn what_expires_behind_the_window_is_not_sent() {
    let mut bench = Bench::with(|settings| settings.inflight_window = 1);
    let key = bench.open("me");
    bench.send_to("me", QOS1, "first");
    for body in ["second", "third"] {
        let terms = two_seconds(&bench);
        bench.send_on("me", QOS1, body, terms);
    }
    assert_eq!(bench.rig.hear(key), [r#"send1 #1 "first""#]);
    bench.rig.advance(1_500);
    bench.store();
    bench.rig.advance(1_000);
    bench.rig.hear(key);
    bench.rig.ack(key, 1, "");
    assert_eq!(bench.rig.hear(key), [""; 0]);
    bench.store();
    assert_eq!((waiting(&mut bench), bench.disk.messages.len()), (0, 0));
    assert_eq!(bench.rig.stats().messages_expired.get(), 2);
    bench.rig.replies();
    bench.finish();
}

#[test]
fn what_expires_in_flight_is_repeated_no_more() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    let terms = two_seconds(&bench);
    bench.send_on("me", QOS1, "x", terms);
    bench.rig.advance(1_500);
    bench.store();
    assert!(bench.rig.hear(key)[0].starts_with("send1 #1"));
    bench.rig.advance(600);
    bench.rig.hear(key);
    bench.rig.advance(60_000);
    assert!(!bench.rig.hear(key).iter().any(|heard| heard.contains("send1")));
    bench.store();
    assert_eq!((waiting(&mut bench), bench.disk.messages.len()), (0, 0));
    bench.rig.replies();
    bench.finish();
}

#[test]
fn the_id_of_a_qos2_message_that_expires_in_flight_is_released() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    let terms = two_seconds(&bench);
    bench.send_on("me", QOS2, "x", terms);
    bench.rig.advance(1_500);
    bench.store();
    bench.rig.hear(key);
    bench.rig.advance(600);
    bench.store();
    assert_eq!(bench.rig.hear(key), ["rel #1"]);
    bench.rig.com(key, 1);
    bench.store();
    assert_eq!((waiting(&mut bench), bench.disk.messages.len()), (0, 0));
    bench.rig.replies();
    bench.finish();
}

#[test]
fn what_the_store_has_purged_is_counted_off_once() {
    for qos in [QOS1, QOS2] {
        let mut bench = Bench::new();
        let key = bench.open("me");
        bench.send_to("me", QOS1, "stays");
        let terms = two_seconds(&bench);
        bench.send_on("me", qos, "expires", terms);
        bench.rig.advance(1_999);
        bench.store();
        assert_eq!(waiting(&mut bench), 2);
        bench.rig.now = bench.rig.now + 1;
        purge(&mut bench);
        assert_eq!(waiting(&mut bench), 1);
        if qos == QOS1 {
            bench.rig.ack(key, 2, "")
        } else {
            bench.rig.rec(key, 2, "")
        }
        bench.store();
        assert_eq!(waiting(&mut bench), 1, "the other message waits still");
        assert_eq!(bench.rig.stats().messages_expired.get(), 1);
        bench.rig.hear(key);
        bench.rig.com(key, 2);
        bench.rig.ack(key, 1, "");
        bench.store();
        assert_eq!((waiting(&mut bench), bench.disk.messages.len()), (0, 0));
        bench.rig.replies();
        bench.finish();
    }
}

#[test]
fn ids_of_what_expires_while_the_client_is_away_are_swept() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    bench.rig.end(key);
    bench.store();
    let terms = Terms { ttl_ms: Some(5_000), ..Terms::from(bench.rig.now + 100) };
    bench.send_on("me", QOS2, "x", terms);
    bench.store();
    bench.rig.replies();
    let key = bench.open("me");
    assert_eq!(bench.rig.hear(key), [r#"send2 #1 "x""#]);
    bench.rig.end(key);
    bench.store();
    bench.rig.advance(6_000);
    purge(&mut bench);
    bench.store();
    let key = bench.open("me");
    assert_eq!(bench.rig.hear(key), ["rel dup #1"], "it may hold the id");
    bench.rig.com(key, 1);
    bench.store();
    bench.finish();
}

fn tally(tally: Tally) -> Reply {
    Reply::Sent { tally, data: Vec::new() }
}

#[test]
fn a_session_that_ends_with_its_connection_has_nothing_called_stored() {
    let mut bench = Bench::with(|settings| settings.sessions.expiry_s = 0);
    let key = bench.open("me");
    bench.send_to("me", QOS1, "x");
    assert_eq!(bench.rig.hear(key), [r#"send1 #1 "x""#]);
    bench.rig.advance(3_000);
    bench.store();
    assert!(bench.disk.messages.is_empty(), "the store would lose it with the session");
    bench.rig.end(key);
    bench.store();
    assert_eq!(bench.reply(), tally(Tally { undecided: 1, why: Some(NotSent::TimeOver), ..Tally::default() }));
    bench.send_to("me", QOS1, "to one that is about to end");
    let why = Some(NotSent::NotStored(NotStored::Ending));
    assert_eq!(bench.reply(), tally(Tally { refused: 1, why, ..Tally::default() }));
    bench.rig.advance(1);
    bench.store();
    bench.rig.outputs.clear();
    bench.finish();
}

#[test]
fn what_has_expired_in_the_store_is_removed_when_it_is_loaded() {
    let mut bench = Bench::new();
    bench.rig.shard.set_unix_ms_at_zero(1_000_000);
    let key = bench.open("me");
    bench.rig.end(key);
    bench.store();
    for body in ["expires", "stays"] {
        let terms = if body == "expires" { two_seconds(&bench) } else { Terms::from(bench.rig.now + 100) };
        bench.send_on("me", QOS1, body, terms);
        bench.store();
    }
    bench.rig.advance(2_000);
    let key = bench.open("me");
    // A clock that is stepped back does not bring back what has been passed over.
    bench.rig.shard.set_unix_ms_at_zero(0);
    assert_eq!(bench.rig.hear(key), [r#"send1 #2 "stays""#]);
    bench.rig.ack(key, 2, "");
    bench.store();
    assert_eq!((waiting(&mut bench), bench.disk.messages.len()), (0, 0));
    assert_eq!(bench.rig.stats().messages_expired.get(), 1);
    bench.rig.replies();
    bench.finish();
}

/// A channel of one absent session, whose messages wait for their turn.
fn slow_room() -> Bench {
    let mut bench = Bench::with(|settings| settings.limits.fanout_at_once_members = 0);
    let key = bench.attach("me", &["room"]);
    bench.store();
    bench.rig.end(key);
    bench.store();
    bench.rig.outputs();
    let message = Message::encode(QOS1, 7, b"late", &mut Vec::new());
    let terms = two_seconds(&bench);
    bench.rig.query(Query::Send { channel: "room".into(), message, terms });
    bench
}

#[test]
fn a_ttl_runs_from_the_call_not_from_the_turn_of_its_channel() {
    let mut bench = slow_room();
    let called = UnixMs(bench.rig.now.0);
    bench.rig.now = bench.rig.now + 1_500;
    bench.rig.fan_out();
    bench.store();
    let expires: Vec<UnixMs> = bench.disk.messages.values().map(|stored| stored.expires).collect();
    assert_eq!(expires, [UnixMs(called.0 + 2_000)]);
    bench.rig.replies();
    bench.finish();
}

#[test]
fn what_expires_before_its_turn_is_refused_by_name() {
    let mut bench = slow_room();
    bench.rig.now = bench.rig.now + 2_000;
    bench.rig.fan_out();
    bench.store();
    assert_eq!(bench.disk.messages.len(), 0);
    let reply = format!("{:?}", bench.reply());
    assert!(reply.contains("Expired"), "{reply}");
    bench.finish();
}
