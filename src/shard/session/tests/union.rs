//! Messages of another disk come into a session, as if they were all stored at once.

use super::*;
use crate::shard::command::transfer::Backlog;
use crate::shard::command::{Mutation, StoredMessage};
use crate::shard::{Attachment, Place};

/// The other disk's messages. What the shard has given out before has been carried out.
fn begin(bench: &mut Bench, bodies: &[&str], channels: &[&str]) -> (Place, Backlog) {
    let mut backlog = Backlog::default();
    backlog.add(&bodies.iter().map(|body| stored_message(body)).collect::<Vec<_>>());
    let channels = channels.iter().map(|channel| Arc::from(*channel)).collect();
    bench.take_commands();
    let (before, now) = (bench.commands.len(), bench.rig.now);
    let place = bench.rig.shard.union(now).begin("me", backlog, channels).expect("it is here");
    for _ in 0..before {
        assert!(bench.store_one());
    }
    (place, backlog)
}

/// The store's transaction.
fn unite(bench: &mut Bench, place: &Place, bodies: &[&str]) {
    for (body, offset) in bodies.iter().zip(place.room.first.0..) {
        let stored = StoredMessage { session: place.room.session, offset: Offset(offset), ..stored_message(body) };
        bench.disk.mutate(Mutation::PutMessage(Box::new(stored)));
    }
    for channel in &place.room.channels {
        bench.disk.mutate(Mutation::JoinChannel { session: place.room.session, channel: channel.clone() });
    }
}

fn end(bench: &mut Bench, place: Place, taken: Option<Backlog>) {
    let now = bench.rig.now;
    bench.rig.shard.union(now).end(place, taken);
    bench.store();
}

fn stored_message(body: &str) -> StoredMessage {
    StoredMessage {
        session: SessionId(0),
        offset: Offset(0),
        message: Message::encode(QOS2, 7, body.as_bytes(), &mut Vec::new()),
        sent: false,
        released: false,
        stored: UnixMs(5),
        expires: UnixMs(u64::MAX),
        claim: None,
    }
}

#[test]
fn an_absent_session_gets_them_behind_its_own() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    bench.rig.end(key);
    bench.send_to("me", QOS2, "own");
    bench.store();
    let (place, backlog) = begin(&mut bench, &["x", "y"], &["new"]);
    // What comes meanwhile comes behind them.
    bench.send_to("me", QOS2, "later");
    unite(&mut bench, &place, &["x", "y"]);
    end(&mut bench, place, Some(backlog));
    assert_eq!(bench.rig.replies().len(), 2);
    assert_eq!((bench.waiting("me"), bench.channels("me")), (4, vec!["new".to_owned()]));
    bench.crash();
    assert_eq!(bench.waiting("me"), 4);
    let key = bench.open("me");
    let heard = bench.rig.hear(key);
    assert_eq!(heard, [r#"send2 #1 "own""#, r#"send2 #2 "x""#, r#"send2 #3 "y""#, r#"send2 #4 "later""#]);
    bench.finish();
}

#[test]
fn a_client_that_is_there_gets_them_at_once() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    bench.send_to("me", QOS1, "own");
    assert_eq!(bench.rig.hear(key), [r#"send1 #1 "own""#]);
    let (place, backlog) = begin(&mut bench, &["x", "y"], &[]);
    unite(&mut bench, &place, &["x", "y"]);
    bench.send_to("me", QOS1, "later");
    bench.store();
    end(&mut bench, place, Some(backlog));
    assert_eq!(bench.rig.hear(key), [r#"send2 #2 "x""#, r#"send2 #3 "y""#, r#"send1 #4 "later""#]);
    bench.finish();
}

#[test]
fn a_client_whose_first_page_is_under_way_gets_them_with_the_next() {
    let mut bench = Bench::new();
    let key = bench.attach("me", &[]);
    let (place, backlog) = begin(&mut bench, &["x"], &["new"]);
    unite(&mut bench, &place, &["x"]);
    bench.store();
    assert!(bench.attached(key));
    end(&mut bench, place, Some(backlog));
    assert_eq!(bench.rig.hear(key), [r#"send2 #1 "x""#]);
    assert_eq!(bench.channels("me"), ["new"]);
    bench.finish();
}

#[test]
fn what_the_store_has_not_taken_is_not_counted() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    let (place, _) = begin(&mut bench, &["x", "y"], &["new"]);
    end(&mut bench, place, None);
    assert_eq!((bench.waiting("me"), bench.channels("me").len()), (0, 0));
    let (place, _) = begin(&mut bench, &["x", "y", "z"], &[]);
    unite(&mut bench, &place, &["x"]);
    let bytes = stored_message("x").message.len() as u64;
    end(&mut bench, place, Some(Backlog { messages: 1, bytes, oldest: None }));
    assert_eq!(bench.waiting("me"), 1);
    assert_eq!(bench.rig.hear(key), [r#"send2 #3 "x""#]);
    bench.send_to("me", QOS1, "goes on");
    assert_eq!(bench.rig.hear(key), [r#"send1 #6 "goes on""#]);
    bench.finish();
}

#[test]
fn a_session_that_leaves_or_ends_takes_nothing() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    let now = bench.rig.now + 70;
    assert_eq!(bench.rig.shard.union(now).attachment("me"), Some(Attachment::Online { age_ms: 70 }));
    bench.rig.end(key);
    bench.store();
    assert_eq!(bench.rig.shard.union(now).attachment("me"), Some(Attachment::Absent));
    let (place, backlog) = begin(&mut bench, &["x"], &[]);
    bench.rig.query(Query::DropSession { session: "me".into() });
    bench.store();
    end(&mut bench, place, Some(backlog));
    assert_eq!(bench.rig.shard.union(now).attachment("me"), None);
    assert_eq!(bench.rig.shard.union(now).begin("me", backlog, Vec::new()), None);
    let key = bench.open("me");
    bench.rig.end(key);
    bench.rig.input(Input::PassSession { name: &"me".into() });
    bench.store();
    assert_eq!(bench.rig.shard.union(now).begin("me", backlog, Vec::new()), None);
    assert_eq!(bench.rig.shard.union(now).attachment("me"), None);
}

#[test]
fn what_a_client_may_have_is_told_from_what_was_never_sent() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    bench.send_to("me", QOS2, "sent");
    bench.rig.hear(key);
    bench.rig.end(key);
    bench.send_to("me", QOS2, "not sent");
    bench.store();
    let now = bench.rig.now;
    assert_eq!(bench.rig.shard.union(now).launched("me"), Some(Offset(1)));
}
