//! Durable sessions as their clients and callers see them, with a store on the bench that does what it is asked when a
//! test lets it.

use crate::base::id::{ConnIndex, ConnKey, Identity, ShardId};
use crate::shard::command::{Command, Completion, Completions, IDS, Offset, Operation, SessionId, StoreError, UnixMs};
use crate::shard::tests::{NODE, Rig, settings};
use crate::shard::{
    Forward, Input, Message, NotSent, NotStored, Output, Query, QueryId, Reply, SessionEnd, SessionInfo, Settings,
    Tally, Terms, Wait, Who,
};
use crate::wire::packet::QoS;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

mod bounds;
mod disk;
mod edges;
mod expiry;
mod union;

use disk::Disk;

const QOS1: QoS = QoS::AtLeastOnce;
const QOS2: QoS = QoS::ExactlyOnce;

struct Bench {
    rig: Rig,
    disk: Disk,
    commands: VecDeque<Command>,
    refuses: Option<StoreError>,
    opened: u128,
    written: usize,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Settings)) -> Bench {
        Bench {
            rig: Rig::with(change),
            disk: Disk::default(),
            commands: VecDeque::new(),
            refuses: None,
            opened: 0,
            written: 0,
        }
    }

    fn take_commands(&mut self) {
        for output in self.rig.outputs() {
            match output {
                Output::Store(command) => self.commands.push_back(command),
                other => self.rig.outputs.push(other),
            }
        }
    }

    /// The store does the next piece of work, and tells.
    fn store_one(&mut self) -> bool {
        self.take_commands();
        let Some(Command { number, operation }) = self.commands.pop_front() else { return false };
        let outcome = match operation {
            Operation::Mutate(_) if self.refuses.is_some() => Completion::Refused(self.refuses.expect("just seen")),
            Operation::Mutate(mutation) => self.disk.mutate(mutation),
            Operation::Load { session, after, most } => Completion::Loaded(self.disk.load(session, after, most)),
        };
        let other = if outcome == Completion::Done { Vec::new() } else { vec![(number, outcome)] };
        self.rig.input(Input::Completions(Completions { upto: number, exceptions: other }));
        true
    }

    fn store(&mut self) {
        while self.store_one() {}
    }

    /// Asks for a connection of the session; it is open when the store has done its work.
    fn attach(&mut self, name: &str, channels: &[&str]) -> ConnKey {
        let (key, _) = self.rig.reserve();
        self.opened += 1;
        for &channel in channels {
            self.rig.input(Input::Subscribe { key, channel });
        }
        self.attach_reserved(key, name)
    }

    fn attach_reserved(&mut self, key: ConnKey, name: &str) -> ConnKey {
        self.rig.input(Input::Attach {
            key,
            response: Rc::from(&b""[..]),
            new: SessionId(self.opened),
            name: name.into(),
            expiry_s: None,
            greets: false,
        });
        key
    }

    fn open(&mut self, name: &str) -> ConnKey {
        let key = self.attach(name, &[]);
        self.store();
        assert!(self.attached(key), "the store has taken it");
        key
    }

    fn attached(&mut self, key: ConnKey) -> bool {
        self.rig.outputs().iter().any(|output| matches!(output, Output::Attached { key: of } if *of == key))
    }

    fn send_to(&mut self, name: &str, qos: QoS, body: &str) -> QueryId {
        self.send_on(name, qos, body, (self.rig.now + 10_000).into())
    }

    fn send_on(&mut self, name: &str, qos: QoS, body: &str, terms: Terms) -> QueryId {
        let message = Message::encode(qos, 7, body.as_bytes(), &mut Vec::new());
        self.rig.query(Query::SendTo { session: name.into(), message, terms })
    }

    fn reply(&mut self) -> Reply {
        let mut replies = self.rig.replies();
        assert_eq!(replies.len(), 1, "{replies:?}");
        replies.remove(0).1
    }

    /// The process is gone, and what the store had not done with it.
    fn crash(&mut self) {
        let now = self.rig.now + 1;
        self.rig = Rig::with(|_| {});
        self.rig.now = now;
        self.commands.clear();
        self.rig.shard.restore(self.disk.sessions(), now);
    }

    fn forward(&mut self) -> Forward {
        self.take_commands();
        self.rig.forward()
    }

    fn info(&mut self, name: &str) -> SessionInfo {
        match self.rig.reply_to(Query::Session { session: name.into() }) {
            Reply::Session(Some(info)) => *info,
            other => panic!("{other:?}"),
        }
    }

    fn waiting(&mut self, name: &str) -> u32 {
        self.info(name).waiting
    }

    fn channels(&mut self, name: &str) -> Vec<String> {
        self.info(name).channels
    }

    fn finish(mut self) {
        let names: Vec<Arc<str>> =
            self.rig.shard.sessions.table.iter().map(|(_, session)| session.name.clone()).collect();
        for session in names {
            self.rig.query(Query::DropSession { session });
        }
        self.store();
        for output in self.rig.outputs() {
            if let Output::Forward(forward) = output {
                self.rig.fail(forward);
            }
        }
        self.store();
        self.rig.finish();
    }
}

fn stored(stored: u32) -> Reply {
    Reply::Sent { tally: Tally { stored, ..Tally::default() }, data: Vec::new() }
}

fn answered(connections: u32) -> Reply {
    Reply::Sent { tally: Tally { connections, ..Tally::default() }, data: Vec::new() }
}

#[test]
fn what_is_sent_while_away_waits_and_comes_in_order() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    bench.rig.end(key);
    for body in ["a", "b", "c"] {
        bench.send_to("me", QOS2, body);
        assert!(bench.rig.replies().is_empty(), "not before it is on disk");
        bench.store();
        assert_eq!(bench.reply(), stored(1));
    }
    let key = bench.open("me");
    assert_eq!(bench.rig.hear(key), [r#"send2 #1 "a""#, r#"send2 #2 "b""#, r#"send2 #3 "c""#]);
    bench.finish();
}

#[test]
fn a_client_that_answers_at_once_costs_no_write() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    for n in 1..=2_000 {
        bench.send_to("me", QOS1, "x");
        bench.rig.hear(key);
        bench.rig.ack(key, n, "");
        assert_eq!(bench.reply(), answered(1));
        bench.take_commands();
        assert!(bench.commands.len() <= 1, "orders are reserved, in blocks");
        bench.written += bench.commands.len();
        bench.store();
    }
    assert!(bench.written <= 10, "{}", bench.written);
    assert!(bench.disk.messages.is_empty());
    bench.finish();
}

#[test]
fn a_client_that_is_slow_has_it_stored_and_the_caller_hears_so() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    bench.send_to("me", QOS1, "x");
    bench.rig.advance(999);
    bench.store();
    assert!(bench.rig.replies().is_empty() && bench.disk.messages.is_empty());
    bench.rig.advance(1);
    bench.store();
    assert_eq!(bench.reply(), stored(1));
    bench.rig.hear(key);
    bench.rig.ack(key, 1, "");
    bench.store();
    assert!(bench.disk.messages.is_empty());
    assert_eq!(bench.waiting("me"), 0);
    bench.finish();
}

#[test]
fn what_was_in_flight_comes_again_with_dup_and_its_old_id() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    bench.send_to("me", QOS2, "a");
    bench.send_to("me", QOS1, "b");
    assert_eq!(bench.rig.hear(key), [r#"send2 #1 "a""#, r#"send1 #2 "b""#]);
    bench.rig.end(key);
    bench.store();
    assert_eq!(bench.rig.replies().len(), 2);
    bench.send_to("me", QOS1, "c");
    bench.store();
    let key = bench.open("me");
    let heard = bench.rig.hear(key);
    assert_eq!(heard, [r#"send2 dup #1 "a""#, r#"send1 dup #2 "b""#, r#"send1 #3 "c""#]);
    bench.finish();
}

#[test]
fn past_rec_it_is_the_rel_that_comes_again() {
    for crash in [false, true] {
        let mut bench = Bench::new();
        let key = bench.open("me");
        bench.send_to("me", QOS2, "a");
        bench.rig.rec(key, 1, "");
        bench.rig.end(key);
        bench.store();
        if crash {
            bench.crash();
        }
        let key = bench.open("me");
        assert_eq!(bench.rig.hear(key), ["rel dup #1"]);
        bench.rig.com(key, 1);
        bench.store();
        assert!(bench.disk.messages.is_empty());
        bench.finish();
    }
}

#[test]
fn rel_of_a_stored_message_waits_for_the_store() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    bench.rig.end(key);
    bench.send_to("me", QOS2, "a");
    bench.store();
    let key = bench.open("me");
    bench.rig.hear(key);
    bench.rig.rec(key, 1, "");
    assert!(bench.rig.hear(key).is_empty(), "a crash now must not bring the message to one who has let go of its id");
    bench.store();
    assert_eq!(bench.rig.hear(key), ["rel #1"]);
    bench.finish();
}

#[test]
fn after_a_crash_ids_go_on_behind_all_that_may_have_been_used() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    bench.send_to("me", QOS2, "a");
    bench.rig.rec(key, 1, "");
    assert_eq!(bench.reply(), answered(1), "acknowledged, and nothing of it is on disk");
    bench.crash();
    let key = bench.open("me");
    let heard = bench.rig.hear(key);
    assert!(heard.contains(&"rel dup #1".into()), "the client may hold its id: it is freed");
    assert!(heard.iter().all(|frame| frame.starts_with("rel")), "{heard:?}");
    bench.send_to("me", QOS2, "b");
    assert_eq!(bench.rig.hear(key), [r#"send2 #65 "b""#]);
    bench.finish();
}

#[test]
fn a_newer_connection_takes_over_with_all_that_is_unfinished() {
    let mut bench = Bench::new();
    let old = bench.open("me");
    bench.send_to("me", QOS2, "a");
    bench.rig.send(old, 2, 5, "up");
    let forward = bench.forward();
    let new = bench.attach("me", &[]);
    assert_eq!(bench.rig.hear(old), [r#"send2 #1 "a""#, "close 4409 taken over"]);
    bench.store();
    assert_eq!(bench.reply(), stored(1));
    assert_eq!(bench.rig.hear(new), [r#"send2 dup #1 "a""#]);
    bench.rig.send_dup(new, 2, 5, "up");
    assert!(bench.rig.forwards().is_empty(), "the backend has it");
    bench.rig.answer(forward, "done");
    bench.store();
    assert_eq!(bench.rig.hear(new), [r#"rec #5 "done""#]);
    bench.rig.end(old);
    bench.finish();
}

#[test]
fn a_received_id_survives_a_crash_with_its_answer() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    bench.rig.send(key, 2, 1, "up");
    let forward = bench.forward();
    let number = forward.sequence;
    bench.rig.answer(forward, "done");
    assert!(bench.rig.hear(key).is_empty(), "REC is sent when the id is on disk");
    bench.store();
    assert_eq!(bench.rig.hear(key), [r#"rec #1 "done""#]);
    bench.crash();
    let key = bench.open("me");
    bench.rig.hear(key);
    bench.rig.send_dup(key, 2, 1, "up");
    assert!(bench.rig.forwards().is_empty());
    assert_eq!(bench.rig.hear(key), [r#"rec #1 "done""#]);
    bench.rig.send_dup(key, 2, 2, "next");
    bench.store();
    let next = bench.forward();
    assert_eq!(next.sequence, number + 1);
    bench.rig.fail(next);
    bench.finish();
}

#[test]
fn a_crash_between_the_backends_answer_and_the_commit_forwards_under_the_same_number() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    bench.rig.send(key, 2, 1, "up");
    let first = bench.forward();
    let (session, sequence) = (first.session, first.sequence);
    assert!(session.is_some());
    bench.rig.answer(first, "done");
    bench.crash();
    let key = bench.open("me");
    bench.rig.send_dup(key, 2, 1, "up");
    let repeated = bench.forward();
    assert_eq!((repeated.session, repeated.sequence), (session, sequence));
    bench.rig.fail(repeated);
    bench.finish();
}

#[test]
fn a_client_that_begins_anew_is_not_taken_for_its_old_self() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    bench.rig.send(key, 2, 1, "old");
    let forward = bench.forward();
    let old = forward.sequence;
    bench.rig.answer(forward, "done");
    bench.store();
    bench.rig.end(key);
    bench.store();
    let key = bench.open("me");
    bench.rig.send(key, 2, 1, "new");
    assert!(bench.rig.forwards().is_empty(), "its number is not on disk yet");
    bench.store();
    let forward = bench.forward();
    assert_ne!(forward.sequence, old);
    assert_eq!(forward.body, b"new");
    bench.rig.fail(forward);
    bench.finish();
}

#[test]
fn a_full_session_refuses_before_it_acknowledges() {
    let mut bench = Bench::with(|settings| settings.sessions.messages_max = 2);
    let key = bench.open("me");
    bench.rig.end(key);
    for _ in 0..2 {
        bench.send_to("me", QOS1, "x");
        bench.store();
        assert_eq!(bench.reply(), stored(1));
    }
    bench.send_to("me", QOS1, "x");
    let why = Some(NotSent::NotStored(NotStored::TooMany));
    let tally = Tally { refused: 1, why, ..Tally::default() };
    assert_eq!(bench.reply(), Reply::Sent { tally, data: Vec::new() });
    assert_eq!(bench.waiting("me"), 2);
    bench.finish();
}

#[test]
fn a_store_that_refuses_makes_no_promise_of_ours() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    bench.rig.end(key);
    bench.store();
    bench.refuses = Some(StoreError::DiskFull);
    bench.send_to("me", QOS1, "x");
    bench.store();
    let why = Some(NotSent::NotStored(NotStored::Store(StoreError::DiskFull)));
    let tally = Tally { refused: 1, why, ..Tally::default() };
    assert_eq!(bench.reply(), Reply::Sent { tally, data: Vec::new() });
    assert_eq!(bench.waiting("me"), 0);
    let key = bench.attach("me", &[]);
    bench.store();
    let refused = |output: &Output| matches!(output, Output::AttachRefused { key: of, .. } if *of == key);
    assert!(bench.rig.outputs().iter().any(refused));
    bench.rig.input(Input::Abandoned { key });
    bench.refuses = None;
    let key = bench.open("me");
    bench.send_to("me", QOS1, "y");
    assert_eq!(bench.rig.hear(key).len(), 1);
    bench.finish();
}

#[test]
fn the_burst_on_resume_keeps_a_smaller_window_and_loads_page_after_page() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    bench.rig.end(key);
    for n in 0..100 {
        bench.send_to("me", QOS1, &n.to_string());
        bench.store();
    }
    bench.rig.replies();
    bench.rig.shard.set_settings(Settings { inflight_window: 2, ..settings() });
    let key = bench.open("me");
    let mut got = Vec::new();
    while got.len() < 100 {
        let heard = bench.rig.hear(key);
        assert!((1..=2).contains(&heard.len()), "{heard:?}");
        for frame in heard {
            got.push(frame.rsplit(' ').next().expect("a body").trim_matches('"').parse::<u32>().expect("a number"));
            bench.rig.ack(key, got.len() as u16, "");
        }
        bench.store();
    }
    assert!(got.iter().copied().eq(0..100), "{got:?}");
    assert!(bench.disk.messages.is_empty());
    bench.finish();
}

#[test]
fn new_messages_come_behind_stored_ones() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    bench.rig.end(key);
    for body in ["1", "2", "3", "4", "5", "6"] {
        bench.send_to("me", QOS1, body);
    }
    bench.store();
    let key = bench.open("me");
    assert_eq!(bench.rig.hear(key).len(), 4, "the window");
    bench.send_to("me", QOS1, "7");
    for id in 1..=6 {
        bench.rig.ack(key, id, "");
    }
    bench.store();
    assert_eq!(bench.rig.hear(key), [r#"send1 #5 "5""#, r#"send1 #6 "6""#, r#"send1 #7 "7""#]);
    bench.finish();
}

#[test]
fn a_claimed_message_is_taken_once_even_when_it_is_done() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    let claim = crate::shard::command::Claim { message_id: "order-7".into(), until: UnixMs(u64::MAX) };
    let terms = Terms { claim: Some(claim), ..(bench.rig.now + 10_000).into() };
    bench.send_on("me", QOS2, "x", terms.clone());
    assert!(bench.rig.hear(key).is_empty(), "it is stored first");
    bench.store();
    assert_eq!(bench.reply(), stored(1));
    assert_eq!(bench.rig.hear(key), [r#"send2 #1 "x""#]);
    bench.rig.rec(key, 1, "");
    bench.store();
    bench.rig.com(key, 1);
    bench.store();
    bench.rig.hear(key);
    bench.send_on("me", QOS2, "x", terms);
    bench.store();
    assert_eq!(bench.reply(), stored(1), "answered alike");
    assert!(bench.rig.hear(key).is_empty(), "and not sent again");
    bench.finish();
}

#[test]
fn channels_and_cookie_survive_a_crash() {
    let mut bench = Bench::new();
    let key = bench.attach("me", &["news", "sport"]);
    bench.store();
    bench.rig.input(Input::Unsubscribe { key, channel: "sport" });
    bench.rig.input(Input::Cookie { key, value: b"c1" });
    bench.store();
    bench.crash();
    bench.rig.call("news", QOS1, "x");
    bench.store();
    assert_eq!(bench.reply(), stored(1));
    bench.rig.call("sport", QOS1, "x");
    assert_eq!(bench.reply(), answered(0));
    let key = bench.open("me");
    bench.rig.send(key, 1, 1, "up");
    bench.store();
    let forward = bench.forward();
    assert_eq!(forward.cookie(), Some(&b"c1"[..]));
    bench.rig.fail(forward);
    bench.finish();
}

#[test]
fn an_answer_waits_for_the_channel_that_it_promised() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    bench.rig.send(key, 1, 1, "up");
    let forward = bench.forward();
    bench.rig.input(Input::Subscribe { key, channel: "news" });
    bench.rig.answer(forward, "joined");
    assert!(bench.rig.hear(key).is_empty());
    bench.store();
    assert_eq!(bench.rig.hear(key), [r#"ack #1 "joined""#]);
    assert_eq!(bench.disk.channels.len(), 1);
    bench.finish();
}

#[test]
fn a_session_ends_when_its_time_is_over() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    bench.rig.end(key);
    bench.send_to("me", QOS1, "x");
    bench.store();
    bench.rig.outputs();
    bench.rig.advance(24 * 3_600_000);
    bench.store();
    let ended = |output: &Output| matches!(output, Output::SessionEnded { why: SessionEnd::Expired, .. });
    assert!(bench.rig.outputs().iter().any(ended));
    assert!(bench.disk.rows.is_empty() && bench.disk.messages.is_empty());
    bench.finish();
}

#[test]
fn a_dropped_session_is_gone_with_all_that_waits() {
    let mut bench = Bench::new();
    let key = bench.open("me");
    bench.rig.send(key, 2, 1, "up");
    let forward = bench.forward();
    bench.rig.end(key);
    let key = bench.open("me");
    bench.rig.query(Query::DropSession { session: "me".into() });
    assert_eq!(bench.rig.hear(key), ["close 4510 the session was dropped"]);
    bench.store();
    assert!(bench.rig.replies().contains(&(QueryId(1), Reply::done(1))));
    bench.rig.answer(forward, "late");
    bench.rig.end(key);
    bench.store();
    assert!(bench.disk.rows.is_empty() && bench.disk.received.is_empty());
    assert_eq!(bench.rig.reply_to(Query::Session { session: "me".into() }), Reply::Session(None));
    bench.finish();
}

#[test]
fn the_greeting_says_what_was_resumed() {
    let mut bench = Bench::new();
    let greeted = |bench: &mut Bench| {
        let (key, _) = bench.rig.reserve();
        let name = "a \"b\"".into();
        let response = Rc::from(&b""[..]);
        bench.rig.input(Input::Attach { key, response, new: SessionId(9), name, expiry_s: None, greets: true });
        bench.store();
        let heard = bench.rig.hear(key);
        bench.rig.end(key);
        heard[0].clone()
    };
    let new = greeted(&mut bench);
    assert!(new.starts_with("send0") && new.contains("false") && new.contains(r#"\"waiting\":0"#), "{new}");
    bench.send_to("a \"b\"", QOS1, "x");
    bench.store();
    let old = greeted(&mut bench);
    assert!(old.contains(r#"\"resumed\":true"#) && old.contains(r#"\"waiting\":1"#), "{old}");
    bench.finish();
}

#[test]
fn a_moved_connection_is_found_by_its_identity() {
    let mut bench = Bench::new();
    let (origin, identity) = bench.rig.reserve();
    let to = ConnKey { index: ConnIndex(5), generation: 6, shard: ShardId(7) };
    bench.rig.input(Input::HandedOver { key: origin, to });
    bench.rig.query(Query::Exists { who: identity.into() });
    let redirect = |output: &Output| matches!(output, Output::RedirectQuery { to: at, .. } if *at == to);
    assert!(bench.rig.outputs().iter().any(redirect));
    bench.rig.input(Input::HandoverEnded { key: origin });
    let foreign = Identity::new([7; 32], NODE, ConnKey { index: ConnIndex(1), generation: 1, shard: ShardId(0) });
    let key = bench.rig.shard.adopt(foreign, to, bench.rig.now);
    let response = Rc::from(&b""[..]);
    let (new, name) = (SessionId(1), "me".into());
    bench.rig.input(Input::Attach { key, response, new, name, expiry_s: None, greets: false });
    bench.store();
    bench.rig.input(Input::RedirectedQuery {
        key,
        query_id: QueryId(77),
        query: Query::Exists { who: foreign.into() },
    });
    assert_eq!(bench.reply(), Reply::done(1));
    bench.rig.end(key);
    let ended = |output: &Output| matches!(output, Output::HandoverEnded { origin } if *origin == to);
    assert!(bench.rig.outputs().iter().any(ended));
    bench.finish();
}

#[test]
fn two_first_connections_at_once_are_one_new_session() {
    let mut bench = Bench::new();
    let first = bench.attach("me", &["news"]);
    let second = bench.attach("me", &[]);
    bench.store();
    let outputs = bench.rig.outputs();
    let refused = |output: &Output| matches!(output, Output::AttachRefused { key, .. } if *key == first);
    let attached = |output: &Output| matches!(output, Output::Attached { key } if *key == second);
    assert!(outputs.iter().any(refused) && outputs.iter().any(attached), "{outputs:?}");
    bench.rig.input(Input::Abandoned { key: first });
    bench.send_to("me", QOS1, "x");
    assert_eq!(bench.rig.hear(second), [r#"send1 #1 "x""#]);
    bench.finish();
}

#[test]
fn an_attach_that_is_given_up_leaves_the_session_absent() {
    let mut bench = Bench::new();
    let key = bench.attach("me", &[]);
    bench.rig.input(Input::Abandoned { key });
    bench.store();
    bench.send_to("me", QOS1, "x");
    bench.store();
    assert_eq!(bench.reply(), stored(1));
    let key = bench.open("me");
    assert_eq!(bench.rig.hear(key), [r#"send1 #1 "x""#]);
    bench.finish();
}

#[test]
fn no_two_unfinished_messages_have_one_id_however_often_the_process_dies() {
    let mut bench = Bench::with(|settings| settings.inflight_window = 1);
    let key = bench.open("me");
    bench.rig.end(key);
    bench.send_to("me", QOS1, "old");
    bench.store();
    let mut refused = 0;
    for _ in 0..1_200 {
        bench.crash();
        bench.open("me");
        bench.send_to("me", QOS1, "new");
        bench.store();
        bench.rig.advance(1_000);
        bench.store();
        let Reply::Sent { tally, .. } = bench.reply() else { panic!("it was a call") };
        refused += tally.refused;
    }
    assert!(refused > 0, "the ids are used up");
    let orders: Vec<u64> = bench.disk.messages.keys().map(|(_, offset)| offset.0).collect();
    assert!(orders.last().expect("some") - orders[0] < IDS, "{orders:?}");
}
