//! A million connections, each answering one QoS 1 send. Both ends spread over threads with descriptor tables of their own.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use super::Bench;
use crate::api;
use crate::dialect::Dialect;
use crate::meter::Meter;
use crate::round::Losses;
use crate::row::Row;
use crate::swarm::{Faults, Play, Progress, Swarm};
use crate::sys;
use crate::target::{Kind, Target};
use crate::work::fanout::ROOM;
use crate::ws::{self, Packet, Payload};

/// Clients per thread and connections per worker: below the hard limit of 20,000 descriptors per table, with room for the
/// uneven hand of SO_REUSEPORT (the square root of its share, some 140) and for everything else that has a descriptor.
pub const PER_TABLE: usize = 18_500;
pub const TIMEOUT_S: u32 = 240;

/// What the swarms tell each other.
#[derive(Default)]
pub struct Shared {
    pub open: AtomicU64,
    pub delivered: AtomicU64,
    pub repeats: AtomicU64,
    pub over: AtomicBool,
    pub faults: Mutex<Faults>,
}

impl Shared {
    pub fn fail(&self, what: String) {
        self.faults.lock().expect("no panic").add(what);
        self.over.store(true, Relaxed);
    }
}

pub fn million(bench: &Bench, clients: usize, workers: Option<usize>) -> Result<Vec<Row>, String> {
    let cores = sys::allowed_cores_of_machine();
    // All cores for both ends: the figure is memory, and that all answer.
    sys::pin(&cores).map_err(|error| format!("pin: {error}"))?;
    let threads = clients.div_ceil(PER_TABLE);
    let workers = workers.unwrap_or(threads.max(cores.len()));
    // An ACK may be late while the rest of a million is being written, and a handshake while others are: with more threads
    // than cores it is the generator that is late, and what it has not said for seconds must not be held against it.
    let config = [
        format!("ack_timeout = {TIMEOUT_S}\nsend_timeout_max = {TIMEOUT_S}\n"),
        "handshake_timeout = 120\nfirst_byte_timeout = 120\nconnect_timeout = 60\nping_interval = 600\n".into(),
    ]
    .concat();
    let started = bench.start(&Kind::Rainbow { workers, cores: cores.clone(), config })?;
    let target = &started.target;
    let shared = Shared::default();
    let before = target.rss();
    let began = Instant::now();
    let row = thread::scope(|scope| {
        for number in 0..threads {
            let (first, shared) = (number * PER_TABLE, &shared);
            let share = PER_TABLE.min(clients - first);
            let in_flight = (2048 / threads).max(4);
            scope.spawn(move || {
                if let Err(what) = swarm_thread(target.port, first, share, in_flight, shared) {
                    shared.fail(what);
                }
            });
        }
        let row = conduct(bench, target, clients, workers, before, began, &shared);
        shared.over.store(true, Relaxed);
        row
    });
    sys::pin(&[bench.plan.generator_core]).map_err(|error| format!("pin: {error}"))?;
    let mut row = row?;
    let mut outcome = crate::round::Outcome::default();
    let mut started = started;
    started.judge(&mut outcome);
    for faults in [std::mem::take(&mut *shared.faults.lock().expect("no panic")), outcome.faults] {
        faults.words.into_iter().for_each(|what| row.faults.add(what));
    }
    row.losses.repeats += outcome.losses.repeats;
    Ok(vec![row])
}

/// Waits for all to be open, sends to all, and counts.
fn conduct(
    bench: &Bench,
    target: &Target,
    clients: usize,
    workers: usize,
    before: u64,
    began: Instant,
    shared: &Shared,
) -> Result<Row, String> {
    sys::own_table(&[]).map_err(|error| format!("unshare: {error}"))?;
    await_count(&shared.open, clients as u64, "connected", shared)?;
    let connected_s = began.elapsed().as_secs_f64();
    let rss_idle = target.rss();
    let mut caller = Caller { answer: None };
    let mut swarm = Swarm::new(target.port, 0, Dialect::Rainbow).map_err(|error| format!("epoll: {error}"))?;
    swarm.open_apis(&mut caller, 1)?;
    let mut body = vec![b'.'; bench.size.max(Payload::LEN)];
    Payload { stream: 0, seq: 0, intended_ns: sys::now_ns() }.write(&mut body);
    let meter = Meter::start(target.pids(), &sys::allowed_cores_of_machine(), bench.plan.generator_core);
    swarm.call(|out| api::Send { channel: ROOM, qos: 1, timeout_s: TIMEOUT_S, body: &body }.write(1, out));
    let mut progress = Progress::new(60_000_000_000);
    let (mut shown, mut peak) = (Instant::now(), 0);
    while caller.answer.is_none() {
        swarm.turn(&mut caller, 20_000_000).map_err(|error| format!("epoll: {error}"))?;
        let delivered = shared.delivered.load(Relaxed);
        peak = peak.max(target.rss());
        if shown.elapsed().as_secs() >= 1 {
            eprintln!("  {delivered} of {clients} have answered");
            shown = Instant::now();
        }
        if !progress.is_made(delivered) || shared.over.load(Relaxed) || swarm.faults.count > 0 {
            break;
        }
    }
    let used = meter.stop();
    let delivered = shared.delivered.load(Relaxed);
    let mut row = Row {
        scenario: "million",
        case: format!("{clients} clients, {workers} workers, QoS 1 to all"),
        target: target.name.clone(),
        unit: "GB RSS",
        value: peak.max(rss_idle) as f64 / 1e9,
        must: (clients >= 1_000_000).then_some(1.5),
        ops: delivered,
        per_second: Some(delivered as f64 / (used.wall_ns as f64 / 1e9)),
        losses: Losses { lost: clients as u64 - delivered.min(clients as u64), repeats: shared.repeats.load(Relaxed) },
        extra: vec![
            ("connected_per_s", clients as f64 / connected_s),
            ("bytes_each_idle", rss_idle.saturating_sub(before) as f64 / clients as f64),
            ("us_cpu_per_delivery", used.cpu_ns as f64 / 1e3 / delivered.max(1) as f64),
            ("answered_connections", caller.answer.unwrap_or(0) as f64),
        ],
        ..Row::default()
    };
    if caller.answer != Some(clients as u64) {
        row.faults.add(format!("/send/ answered {:?} connections of {clients}", caller.answer));
    }
    swarm.faults.words.drain(..).for_each(|what| row.faults.add(what));
    Ok(row)
}

pub fn await_count(count: &AtomicU64, goal: u64, word: &str, shared: &Shared) -> Result<(), String> {
    let mut progress = Progress::new(60_000_000_000);
    let mut shown = Instant::now();
    loop {
        let now = count.load(Relaxed);
        if now >= goal {
            return Ok(());
        }
        if shared.over.load(Relaxed) || !progress.is_made(now) {
            let words = &shared.faults.lock().expect("no panic").words;
            return Err(format!("{now} of {goal} clients {word}; {words:?}"));
        }
        if shown.elapsed().as_secs() >= 2 {
            eprintln!("  {now} of {goal} {word}");
            shown = Instant::now();
        }
        thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Connects its share and answers until all is over.
fn swarm_thread(port: u16, first: usize, share: usize, in_flight: usize, shared: &Shared) -> Result<(), String> {
    sys::own_table(&[]).map_err(|error| format!("unshare: {error}"))?;
    let mut swarm = Swarm::new(port, first as u32, Dialect::Rainbow).map_err(|error| format!("epoll: {error}"))?;
    swarm.connecting_max = in_flight;
    swarm.timeout_ns = 60_000_000_000;
    let mut crowd = Crowd { heard: vec![false; share], shared };
    swarm.connect(&mut crowd, share, |_| ROOM.into())?;
    while !shared.over.load(Relaxed) && swarm.faults.count == 0 {
        swarm.turn(&mut crowd, 50_000_000).map_err(|error| format!("epoll: {error}"))?;
    }
    match swarm.faults.words.pop() {
        Some(what) => Err(what),
        None => Ok(()),
    }
}

struct Crowd<'a> {
    heard: Vec<bool>,
    shared: &'a Shared,
}

impl Play for Crowd<'_> {
    fn on_open(&mut self, _swarm: &mut Swarm, _who: u32) {
        self.shared.open.fetch_add(1, Relaxed);
    }

    fn on_message(&mut self, swarm: &mut Swarm, who: u32, _opcode: u8, payload: &[u8]) {
        match Packet::parse(payload) {
            Ok(Packet { command: ws::SEND, qos: 1, id, .. }) => {
                ws::put_answer(&mut swarm.out, ws::ACK, id);
                if std::mem::replace(&mut self.heard[who as usize], true) {
                    self.shared.repeats.fetch_add(1, Relaxed);
                } else {
                    self.shared.delivered.fetch_add(1, Relaxed);
                }
            }
            other => swarm.faults.add(format!("client {who} got {other:?}")),
        }
    }
}

/// Makes the one call.
struct Caller {
    answer: Option<u64>,
}

impl Play for Caller {
    fn on_message(&mut self, _swarm: &mut Swarm, _who: u32, _opcode: u8, _payload: &[u8]) {}

    fn on_answer(&mut self, swarm: &mut Swarm, _api: u32, answer: api::Answer<'_>) {
        self.answer = answer.number("connections");
        if let Err(what) = answer.check(None) {
            swarm.faults.add(what);
        }
    }
}
