//! Durable sessions: what the store costs those who are there, how fast it takes messages for those who are not, and
//! how a server starts with many of them waiting.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Instant;

use rainbow::base::id::ShardId;
use rainbow::config::{Durability, StoreKind};
use rainbow::shard::Message;
use rainbow::shard::command::{
    Command as StoreCommand, CommandNumber, DownlinkMark, Mutation, Offset, Operation, SessionId, SessionRow,
    StoredMessage, UnixMs, UplinkMark,
};
use rainbow::store::{Options, Request, Response, Store, StoreNode};
use rainbow::wire::packet::QoS;

use super::{Bench, Case};
use crate::backend::Backend;
use crate::dialect::Dialect;
use crate::round::{Contender, Outcome, Running, Runs, alternate};
use crate::row::Row;
use crate::swarm::{Play, Swarm};
use crate::sys;
use crate::target::{Kind, Target, scratch_dir};
use crate::work::Pace;
use crate::work::send::{Send, channel};
use crate::work::stored::Stored;

/// The server with a store in a directory of its own.
fn with_store(bench: &Bench, dir: &Path, more: &str) -> Kind {
    let config = format!("[store]\nkind = \"sqlite\"\ndata_dir = \"{}\"\n{more}", dir.display());
    Kind::Rainbow { workers: 1, cores: vec![bench.server_core()], config }
}

fn store_dir() -> PathBuf {
    static MADE: AtomicU32 = AtomicU32::new(0);
    scratch_dir().join(format!("store-{}", MADE.fetch_add(1, Relaxed)))
}

/// A client in a channel of its own, of a session of its own: more of the query of /connect/.
fn session(who: u32) -> String {
    format!("{}&session=s{who}", channel(who))
}

/// All targets are online and answer at once: a message at QoS 1 costs as much as without a store.
pub fn send_durable(bench: &Bench, clients: usize, pace: Pace, must: Option<f64>) -> Result<Vec<Row>, String> {
    let case = |kind: Kind, name: &str, channels: fn(u32) -> String| {
        let work = Send::new(clients as u32, 1, pace, bench.size);
        Case::new(kind, clients, channels, work.calls(), work)
            .named(&format!("to one of {clients}, QoS 1, {}, {name}", pace.name()))
    };
    let off = case(Kind::rainbow(bench.server_core()), "no store", channel);
    let on = case(with_store(bench, &store_dir(), ""), "durable sessions", session).must(must);
    bench.compare("send-durable", vec![off, on], 1)
}

/// Calls for absent sessions, each answered when its message is on disk.
pub fn stored(bench: &Bench, sessions: usize, pace: Pace, size: usize) -> Result<Vec<Row>, String> {
    let dir = store_dir();
    let more = "session_messages_max = 30000\nsession_bytes_max = \"1GiB\"\nbytes_max = \"20GiB\"\n";
    let mut started = bench.start(&with_store(bench, &dir, more))?;
    let target = &started.target;
    let prepare = move || {
        let mut work = Stored::new(sessions as u32, pace, size);
        let mut swarm = Swarm::new(target.port, 0, Dialect::Rainbow).map_err(|error| format!("epoll: {error}"))?;
        eprint!("  {}: {sessions} sessions …", target.name);
        swarm.connect(&mut work, sessions, session)?;
        (0..sessions as u32).for_each(|who| swarm.close(who));
        target.wait_for("connections", 0)?;
        let calls = work.calls();
        swarm.open_apis(&mut work, calls)?;
        let running: Box<dyn Runs> = Box::new(Running { swarm, work });
        Ok(running)
    };
    let outcomes = alternate(vec![Contender { target, prepare: Box::new(prepare) }], &bench.plan);
    eprintln!();
    let mut outcome = outcomes.into_iter().next().expect("one contender");
    started.judge(&mut outcome);
    let row = Row::of("stored", &format!("for {sessions} absent sessions, {size} B, {}", pace.name()), outcome);
    let must = |limit: f64| (!bench.small).then_some(limit);
    let figure = |case: &str, unit: &'static str, value: f64, must: Option<f64>| Row {
        scenario: "stored",
        case: case.into(),
        target: row.target.clone(),
        unit,
        value,
        low: value,
        high: value,
        must,
        ops: row.ops,
        ..Row::default()
    };
    let p99 = figure("p99 of the answer", "ms", row.p99_us.unwrap_or(0.0) / 1e3, must(50.0));
    let pace = figure("time per message (50 µs: 20,000/s)", "µs", 1e6 / row.per_second.unwrap_or(1.0), must(50.0));
    Ok(vec![row, p99, pace])
}

/// A start with `sessions` absent sessions of `each` waiting messages: until it is ready, and what it weighs then.
pub fn waiting(bench: &Bench, sessions: usize, each: usize) -> Result<Vec<Row>, String> {
    let dir = store_dir();
    let began = Instant::now();
    fill(&dir, sessions, each)?;
    eprintln!("  filled in {:.1} s", began.elapsed().as_secs_f64());
    let backend = Backend::start(false).map_err(|error| format!("backend: {error}"))?;
    let began = Instant::now();
    let target = Target::start(&with_store(bench, &dir, ""), backend.port, bench.server_core())?;
    let ready_s = began.elapsed().as_secs_f64();
    let rss_mb = target.rss() as f64 / 1e6;
    let mut outcome = Outcome { target: target.name.clone(), ..Outcome::default() };
    if let Err(what) = come_back(&target, sessions, each) {
        outcome.faults.add(what);
    }
    backend.judge(&mut outcome);
    let case = format!("{} messages in {sessions} sessions", sessions * each);
    let row = |what: &str, unit: &'static str, value: f64, limit: f64| Row {
        scenario: "waiting",
        case: format!("{case}, {what}"),
        target: target.name.clone(),
        unit,
        value,
        low: value,
        high: value,
        must: (!bench.small).then_some(limit),
        ops: sessions as u64,
        ..Row::default()
    };
    let mut ready = row("ready after", "s", ready_s, 3.0);
    ready.faults = outcome.faults;
    Ok(vec![ready, row("RSS then", "MB", rss_mb, 300.0)])
}

/// Writes the store as a server would have left it.
fn fill(dir: &Path, sessions: usize, each: usize) -> Result<(), String> {
    let options = Options {
        node: StoreNode::alone(),
        kind: StoreKind::Sqlite,
        data_dir: dir.into(),
        url: Default::default(),
        durability: Durability::Fsync,
        bytes_max: 20 << 30,
        cluster_name: String::new(),
    };
    let now = UnixMs(sys::unix_ms());
    let later = UnixMs(now.0 + 24 * 3_600_000);
    let (mut store, _) = Store::open(&options, now).map_err(|error| error.to_string())?;
    let mut number = 0;
    let message = Message::encode(QoS::AtLeastOnce, 1, &[b'.'; 200], &mut Vec::new());
    for first in (0..sessions).step_by(FILLED_AT_ONCE) {
        let mut requests = Vec::new();
        let mut mutate = |mutation: Mutation| {
            number += 1;
            requests.push(Request::Shard {
                shard: ShardId(0),
                command: StoreCommand { number: CommandNumber(number), operation: Operation::Mutate(mutation) },
            });
        };
        for who in first..sessions.min(first + FILLED_AT_ONCE) {
            let session = SessionId(who as u128 + 1);
            mutate(Mutation::PutSession(Box::new(SessionRow {
                session,
                name: format!("s{who}").into(),
                expiry_s: 86_400,
                ends: Some(later),
                cookie: None,
                downlink: DownlinkMark { reserved: Offset(each as u64), floor: Offset(each as u64) },
                uplink: UplinkMark::FIRST,
            })));
            mutate(Mutation::JoinChannel { session, channel: channel(who as u32).into() });
            for offset in 0..each as u64 {
                let (message, offset) = (message.clone(), Offset(offset));
                let message = StoredMessage {
                    session,
                    offset,
                    message,
                    sent: false,
                    released: false,
                    stored: now,
                    expires: later,
                    claim: None,
                };
                mutate(Mutation::PutMessage(Box::new(message)));
            }
        }
        let responses = store.commit(requests, now);
        let refused = |response: &&Response| {
            !matches!(response, Response::Shard { completion: rainbow::shard::command::Completion::Done, .. })
        };
        if let Some(refused) = responses.iter().find(refused) {
            return Err(format!("filling the store: {refused:?}"));
        }
    }
    store.close();
    Ok(())
}

/// Some of the sessions come and get what waits for them, once and in order.
fn come_back(target: &Target, sessions: usize, each: usize) -> Result<(), String> {
    let comers = sessions.min(100);
    let mut got = Got { each: vec![0; comers] };
    let mut swarm = Swarm::new(target.port, 0, Dialect::Rainbow).map_err(|error| format!("epoll: {error}"))?;
    swarm.connect(&mut got, comers, session)?;
    let deadline = Instant::now() + std::time::Duration::from_secs(10);
    while got.each.iter().any(|&count| count < each) {
        swarm.turn(&mut got, 10_000_000).map_err(|error| format!("epoll: {error}"))?;
        if Instant::now() > deadline {
            return Err(format!("not all came: {:?}", got.each));
        }
    }
    if swarm.faults.count > 0 || got.each.iter().any(|&count| count != each) {
        return Err(format!("{:?} {:?}", swarm.faults.words, got.each));
    }
    Ok(())
}

struct Got {
    each: Vec<usize>,
}

impl Play for Got {
    fn on_message(&mut self, swarm: &mut Swarm, who: u32, _opcode: u8, payload: &[u8]) {
        match swarm.dialect().receive(payload, &mut swarm.out) {
            Ok(Some(_)) => self.each[who as usize] += 1,
            Ok(None) => {}
            Err(what) => swarm.faults.add(what),
        }
    }
}

const FILLED_AT_ONCE: usize = 1_000;
