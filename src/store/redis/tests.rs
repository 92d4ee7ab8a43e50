//! The Redis store against a real redis-server: each mutation, a model, and everything that can go wrong in between.

mod damage;
mod faults;
mod model;
mod mutations;
mod nodes;
mod opening;
mod server;
mod topologies;
mod waitaof;

use super::*;
use crate::base::id::{Generation, ShardId};
use crate::config::StoreKind;
use crate::shard::Message;
use crate::shard::command::{
    Claim, Command, CommandNumber, Completion, DownlinkMark, Mutation, Offset, Operation, Page, SessionRow,
    StoredMessage, StoredSession, UplinkMark,
};
use crate::store::opening::StoreNode;
use crate::store::request::{ClaimId, ClaimOutcome};
use crate::wire::packet::QoS;
use server::Server;
use std::sync::Arc;
use std::time::Instant;

fn options(url: &str, cluster_name: &str) -> Options {
    Options {
        kind: StoreKind::Redis,
        data_dir: "unused".into(),
        url: url.into(),
        durability: Durability::Fsync,
        bytes_max: u64::MAX,
        cluster_name: cluster_name.into(),
        node: node(1, "here", Sharing::Alone),
    }
}

/// A life of a node; each time another one, as `nth` counts.
fn node(nth: u32, place: &str, sharing: Sharing) -> StoreNode {
    StoreNode { generation: Generation(nth), place: place.into(), address: None, sharing }
}

/// A store of its own, at a time of its own.
struct Rig {
    store: Redis,
    options: Options,
    number: u64,
    now: UnixMs,
}

impl Rig {
    fn new(url: &str) -> Rig {
        Rig::with(options(url, "test"))
    }

    #[track_caller]
    fn with(options: Options) -> Rig {
        let (store, opened) = Redis::open(&options).expect("it opens");
        assert!(opened.sessions.is_empty(), "a new store is empty");
        Rig { store, options, number: 0, now: NOW }
    }

    /// As after a restart of the process; what it found, by name.
    fn reopen(&mut self) -> Vec<StoredSession> {
        self.options.node.generation.0 += 1;
        let (store, opened) = Redis::open(&self.options).expect("it opens again");
        self.store = store;
        sorted(opened)
    }

    fn requests(&mut self, operations: Vec<Operation>) -> Vec<Request> {
        let numbered = operations.into_iter().map(|operation| {
            self.number += 1;
            Request::Shard { shard: ShardId(0), command: Command { number: CommandNumber(self.number), operation } }
        });
        numbered.collect()
    }

    fn mutate(&mut self, mutations: Vec<Mutation>) -> Vec<Completion> {
        let requests = self.requests(mutations.into_iter().map(Operation::Mutate).collect());
        let responses = self.store.commit(requests, self.now);
        responses.into_iter().map(completion).collect()
    }

    #[track_caller]
    fn expect_done(&mut self, mutations: Vec<Mutation>) {
        let completions = self.mutate(mutations);
        assert!(completions.iter().all(|completion| *completion == Completion::Done), "{completions:?}");
    }

    fn mutate_one(&mut self, mutation: Mutation) -> Completion {
        self.mutate(vec![mutation]).remove(0)
    }

    fn load(&mut self, session: SessionId, after: Option<Offset>, most: usize) -> Completion {
        let requests = self.requests(vec![Operation::Load { session, after, most }]);
        completion(self.store.commit(requests, self.now).remove(0))
    }

    #[track_caller]
    fn page(&mut self, session: SessionId) -> Page {
        match self.load(session, None, 1000) {
            Completion::Loaded(page) => page,
            other => panic!("no page but {other:?}"),
        }
    }

    #[track_caller]
    fn offsets(&mut self, session: SessionId) -> Vec<u64> {
        self.page(session).messages.iter().map(|message| message.offset.0).collect()
    }

    fn claim(&mut self, message_id: &str, life_ms: u64) -> ClaimOutcome {
        let claim = Claim { message_id: message_id.into(), until: UnixMs(self.now.0 + life_ms) };
        match self.store.commit(vec![Request::Claim { id: ClaimId(7), claim }], self.now).remove(0) {
            Response::Claim { id: ClaimId(7), outcome } => outcome,
            other => panic!("no answer to a claim: {other:?}"),
        }
    }
}

fn completion(answer: Response) -> Completion {
    match answer {
        Response::Shard { completion, .. } => completion,
        other => panic!("not a shard's answer: {other:?}"),
    }
}

fn sorted(opened: Opened) -> Vec<StoredSession> {
    let mut found = opened.sessions;
    found.sort_by(|a, b| a.row.name.cmp(&b.row.name));
    for one in &mut found {
        one.channels.sort();
    }
    found
}

/// An online session.
fn row(session: u128) -> SessionRow {
    SessionRow {
        session: SessionId(session),
        name: format!("name-{session}").into(),
        expiry_s: 3600,
        ends: None,
        cookie: None,
        downlink: DownlinkMark::default(),
        uplink: UplinkMark::default(),
    }
}

fn put_session(session: u128) -> Mutation {
    Mutation::PutSession(Box::new(row(session)))
}

fn message(qos: QoS, body: &str) -> Message {
    Message::encode(qos, 9, body.as_bytes(), &mut Vec::new())
}

fn stored(session: u128, offset: u64) -> StoredMessage {
    StoredMessage {
        session: SessionId(session),
        offset: Offset(offset),
        message: message(QoS::AtLeastOnce, &format!("message {offset}")),
        sent: false,
        released: false,
        stored: NOW,
        expires: UnixMs(NOW.0 + 1_000_000),
        claim: None,
    }
}

fn put_message(session: u128, offset: u64) -> Mutation {
    Mutation::PutMessage(Box::new(stored(session, offset)))
}

// How fast it is: figures for people, not judged.

/// One session per message and many of them; every answer after its fsync, where the server was started so.
fn batches(rig: &mut Rig, what: &str, mut mutation: impl FnMut(u64) -> Mutation) {
    let began = Instant::now();
    let count = 200;
    for batch in 0..count {
        rig.expect_done((batch * BATCH..(batch + 1) * BATCH).map(&mut mutation).collect());
    }
    let took = began.elapsed().as_micros();
    let each = took as f64 / (count * BATCH) as f64;
    println!("{what}: {:.0} mutations/s, {:.2} ms per batch of {BATCH}", 1e6 / each, each * BATCH as f64 / 1e3);
}

fn measure(server: &Server, options: Options) {
    let mut rig = Rig::with(options);
    let sessions = 1000;
    let session = |n: u64| u128::from(n % sessions);
    rig.expect_done((0..sessions).map(|session| put_session(session.into())).collect());
    let body = message(QoS::AtLeastOnce, &"x".repeat(200));
    let large = |n: u64| StoredMessage { message: body.clone(), ..stored(session(n), n / sessions) };
    batches(&mut rig, "keep", |n| Mutation::PutMessage(Box::new(large(n))));
    if let Value::BulkString(info) = server.query("INFO memory") {
        let info = String::from_utf8_lossy(&info);
        let used = info.lines().find_map(|line| line.strip_prefix("used_memory_dataset:")).expect("a count");
        println!("{} bytes of Redis for {} messages in {sessions} sessions", used, rig.store.usage().messages);
    }
    let began = Instant::now();
    let found = rig.reopen();
    println!("opened with {} sessions in {} µs", found.len(), began.elapsed().as_micros());
    batches(&mut rig, "remove", |n| Mutation::RemoveMessage {
        session: SessionId(session(n)),
        offset: Offset(n / sessions),
    });
    batches(&mut rig, "put", |n| put_session(n.into()));
    let began = Instant::now();
    let found = rig.reopen();
    println!("opened with {} sessions in {} ms", found.len(), (began.elapsed().as_micros()) / 1000);
}

#[test]
#[ignore = "it measures; run it alone, in a release build"]
fn mutations_per_second() {
    let server = Server::start();
    println!("-- appendfsync always");
    measure(&server, options(&server.url(), "test"));
    let server = Server::with(&["--appendonly", "no"]);
    println!("-- memory");
    measure(&server, Options { durability: Durability::Memory, ..options(&server.url(), "test") });
}

const BATCH: u64 = 256;
const NOW: UnixMs = UnixMs(1_700_000_000_000);
