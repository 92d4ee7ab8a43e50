//! The server alone on a small machine: one CPU, and a cgroup of 1 GiB in which the kernel's share counts. How many
//! connections it holds, each of which answers a QoS 1 send, and how many messages a second it delivers to half as many.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;

use super::million::{PER_TABLE, Shared, TIMEOUT_S, await_count};
use super::{Bench, Started};
use crate::api;
use crate::backend::Backend;
use crate::cgroup::{Cgroup, MemoryUse};
use crate::dialect::Dialect;
use crate::meter::{Meter, Used};
use crate::round::{Losses, Outcome};
use crate::row::Row;
use crate::swarm::{Play, Progress, Swarm};
use crate::sys::{self, now_ns};
use crate::target::{Kind, Target};
use crate::work::fanout::ROOM;
use crate::work::send::channel;
use crate::ws::{self, Packet, Payload, Tally};

/// What the conductor tells the swarms.
struct Orders {
    /// Clients that are to be connected, of all swarms.
    wanted: AtomicUsize,
    /// Every second client is to leave.
    halve: AtomicBool,
    shared: Shared,
}

pub fn small_box(bench: &Bench, clients_max: Option<usize>) -> Result<Vec<Row>, String> {
    let group = Cgroup::new(if bench.small { 256 << 20 } else { 1 << 30 });
    if let Some(why) = group.absence() {
        eprintln!("  no cgroup: {why}");
    }
    let clients_max = clients_max.unwrap_or((group.limit() / CONNECTION_BYTES_MIN) as usize);
    // One worker, where its descriptor table has room for all.
    let one = sys::raise_nofile() > 2 * clients_max as u64;
    let workers = if one { 1 } else { clients_max.div_ceil(PER_TABLE) };
    let config = format!(
        "ack_timeout = {TIMEOUT_S}\nsend_timeout_max = {TIMEOUT_S}\nhandshake_timeout = 120\nfirst_byte_timeout = 120\n\
         connect_timeout = 60\nping_interval = 600\n"
    );
    let kind = Kind::Rainbow { workers, cores: vec![bench.server_core()], config };
    let backend = Backend::start(false).map_err(|error| format!("backend: {error}"))?;
    let target = Target::start_in(&kind, backend.port, bench.server_core(), group.procs())?;
    let mut started = Started { target, backend: Some(backend) };
    let orders = Orders { wanted: AtomicUsize::new(0), halve: AtomicBool::new(false), shared: Shared::default() };
    let mut rows = thread::scope(|scope| {
        let (target, orders) = (&started.target, &orders);
        for number in 0..clients_max.div_ceil(PER_TABLE) {
            let first = number * PER_TABLE;
            scope.spawn(move || {
                if let Err(what) = swarm_thread(target.port, first, PER_TABLE.min(clients_max - first), orders) {
                    orders.shared.fail(what);
                }
            });
        }
        // It opens descriptors of its own, which must not be in the tables of others.
        let conductor = scope.spawn(|| {
            let rows = Conductor::new(bench, target, &group, orders, clients_max)
                .and_then(|mut conductor| conductor.run(workers));
            orders.shared.over.store(true, Relaxed);
            rows
        });
        conductor.join().expect("no panic")
    })?;
    let mut outcome = Outcome::default();
    started.judge(&mut outcome);
    let Shared { faults, repeats, .. } = orders.shared;
    let row = rows.last_mut().expect("three rows");
    row.losses.repeats += outcome.losses.repeats + repeats.into_inner();
    for more in [faults.into_inner().expect("no panic"), outcome.faults] {
        more.words.into_iter().for_each(|what| row.faults.add(what));
    }
    Ok(rows)
}

/// Makes the calls, and watches the memory.
struct Conductor<'a> {
    bench: &'a Bench,
    target: &'a Target,
    group: &'a Cgroup,
    orders: &'a Orders,
    clients_max: usize,
    swarm: Swarm,
    caller: Caller,
    /// Before the first client.
    empty: MemoryUse,
    peak: MemoryUse,
    /// Messages that were sent to the room.
    room_seq: u64,
}

impl<'a> Conductor<'a> {
    fn new(
        bench: &'a Bench,
        target: &'a Target,
        group: &'a Cgroup,
        orders: &'a Orders,
        clients_max: usize,
    ) -> Result<Conductor<'a>, String> {
        sys::own_table(&[]).map_err(|error| format!("unshare: {error}"))?;
        let mut swarm = Swarm::new(target.port, 0, Dialect::Rainbow).map_err(|error| format!("epoll: {error}"))?;
        let mut caller = Caller::default();
        swarm.open_apis(&mut caller, CALLS)?;
        let empty = group.used(target.rss());
        let peak = empty;
        Ok(Conductor { bench, target, group, orders, clients_max, swarm, caller, empty, peak, room_seq: 0 })
    }

    fn run(&mut self, workers: usize) -> Result<Vec<Row>, String> {
        let (connected, idle) = self.fill()?;
        let mut full =
            self.row(format!("{connected} clients, {workers} workers, {}", self.group.name()), "connections");
        full.value = connected as f64;
        full.ops = connected as u64;
        full.extra = vec![
            ("bytes_each", idle.total.saturating_sub(self.empty.total) as f64 / connected as f64),
            ("kernel_bytes_each", idle.kernel.saturating_sub(self.empty.kernel) as f64 / connected as f64),
            ("empty_mib", self.empty.total as f64 / MIB),
            ("idle_mib", idle.total as f64 / MIB),
            ("peak_mib", self.peak.total as f64 / MIB),
            ("limit_hits", self.group.limit_hits() as f64),
        ];
        self.orders.halve.store(true, Relaxed);
        let half: usize =
            (0..connected).step_by(PER_TABLE).map(|first| PER_TABLE.min(connected - first).div_ceil(2)).sum();
        self.target.wait_for("connections", half as u64)?;
        let seconds = if self.bench.small { 0.2 } else { SECONDS };
        let (used, messages) = self.deliver(seconds, 2, half as u64, |_| ROOM.into())?;
        let room = self.rate_row(format!("QoS 1 to all of {half}, 2 in flight"), used, messages);
        // The clients that stay have even numbers within their swarms.
        let one_of = move |number: u64| {
            let who = (number as usize * 2) % connected;
            channel((who - who % PER_TABLE + ((who % PER_TABLE) & !1)) as u32)
        };
        let (used, messages) = self.deliver(seconds, CALLS, 1, one_of)?;
        let one = self.rate_row(format!("QoS 1 to one of {half}, {CALLS} in flight"), used, messages);
        Ok(vec![full, room, one])
    }

    /// Connects clients until the next ones would not fit; how many there are, and what they take while nothing happens.
    /// After each step all of them answer a message.
    fn fill(&mut self) -> Result<(usize, MemoryUse), String> {
        let step_min = self.clients_max.div_ceil(128);
        let (mut connected, mut step) = (0, self.clients_max.div_ceil(8));
        loop {
            step = step.min(self.clients_max - connected);
            self.orders.wanted.store(connected + step, Relaxed);
            await_count(&self.orders.shared.open, (connected + step) as u64, "connected", &self.orders.shared)?;
            connected += step;
            let idle = self.group.used(self.target.rss());
            self.peak = MemoryUse::default();
            self.deliver(0.0, 1, connected as u64, |_| ROOM.into())?;
            let each = idle.total.saturating_sub(self.empty.total) / connected as u64 + 1;
            let spare = self.group.limit().saturating_sub(self.peak.total);
            eprintln!("  {connected} have answered: {} of {} MiB", self.peak.total >> 20, self.group.limit() >> 20);
            // Half of what would fit: the next peak is not known yet.
            step = (spare / each / 2) as usize;
            if connected == self.clients_max || step < step_min {
                return Ok((connected, idle));
            }
        }
    }

    /// Makes calls for so long, one at least, and waits for all answers; each must tell of `connections`.
    fn deliver(
        &mut self,
        seconds: f64,
        in_flight: usize,
        connections: u64,
        to: impl Fn(u64) -> String,
    ) -> Result<(Used, u64), String> {
        self.caller = Caller { connections, answered: 0 };
        let cores = [self.bench.server_core()];
        let meter = Meter::start(self.target.pids(), &cores, self.bench.plan.generator_core);
        let (end_ns, mut started, mut looked_ns) = (now_ns() + (seconds * 1e9) as u64, 0, 0);
        let mut progress = Progress::new(60_000_000_000);
        let mut body = vec![b'.'; self.bench.size.max(Payload::LEN)];
        loop {
            while started == 0 || (now_ns() < end_ns && started - self.caller.answered < in_flight as u64) {
                let channel = to(started);
                let is_room = channel == ROOM;
                Payload { stream: u64::from(is_room), seq: self.room_seq, intended_ns: 0 }.write(&mut body);
                self.room_seq += u64::from(is_room);
                let call = api::Send { channel: &channel, qos: 1, timeout_s: TIMEOUT_S, body: &body };
                self.swarm.call(|out| call.write(started, out)).ok_or("no connection for a call is free")?;
                started += 1;
            }
            self.swarm.turn(&mut self.caller, 5_000_000).map_err(|error| format!("epoll: {error}"))?;
            if now_ns() - looked_ns > LOOK_NS {
                looked_ns = now_ns();
                self.look();
            }
            let progressed = progress.is_made(self.orders.shared.delivered.load(Relaxed) + self.caller.answered);
            if !progressed || self.swarm.faults.count > 0 || self.orders.shared.over.load(Relaxed) {
                let words = self.orders.shared.faults.lock().expect("no panic").words.join("; ");
                return Err(format!("{} {words}\n{}", self.swarm.faults.words.join("; "), self.target.log_tail()));
            }
            if started == self.caller.answered && now_ns() >= end_ns {
                return Ok((meter.stop(), started * connections));
            }
        }
    }

    fn look(&mut self) {
        let used = self.group.used(self.target.rss());
        if used.total > self.peak.total {
            self.peak = used;
        }
    }

    fn row(&self, case: String, unit: &'static str) -> Row {
        Row { scenario: "small-box", case, target: self.target.name.clone(), unit, ..Row::default() }
    }

    fn rate_row(&self, case: String, used: Used, messages: u64) -> Row {
        let value = messages as f64 / (used.wall_ns as f64 / 1e9);
        Row {
            value,
            ops: messages,
            per_second: Some(value),
            server_busy: used.server_busy(),
            generator_busy: used.generator_busy,
            generator_was_the_limit: used.generator_was_the_limit(),
            losses: Losses::default(),
            extra: vec![("us_cpu_each", used.cpu_ns as f64 / 1e3 / messages.max(1) as f64)],
            ..self.row(case, "messages/s")
        }
    }
}

/// Each answer must tell of so many clients that have acknowledged.
#[derive(Default)]
struct Caller {
    connections: u64,
    answered: u64,
}

impl Play for Caller {
    fn on_message(&mut self, _swarm: &mut Swarm, _who: u32, _opcode: u8, _payload: &[u8]) {}

    fn on_answer(&mut self, swarm: &mut Swarm, _api: u32, answer: api::Answer<'_>) {
        self.answered += 1;
        if let Err(what) = answer.check(Some(self.connections)) {
            swarm.faults.add(what);
        }
    }
}

/// Connects its share as far as it is wanted, and acknowledges until all is over.
fn swarm_thread(port: u16, first: usize, share: usize, orders: &Orders) -> Result<(), String> {
    sys::own_table(&[]).map_err(|error| format!("unshare: {error}"))?;
    let mut swarm = Swarm::new(port, first as u32, Dialect::Rainbow).map_err(|error| format!("epoll: {error}"))?;
    swarm.timeout_ns = 60_000_000_000;
    let mut crowd = Crowd { tallies: Vec::new(), shared: &orders.shared };
    let mut halved = false;
    while !orders.shared.over.load(Relaxed) && swarm.faults.count == 0 {
        let open = crowd.tallies.len();
        let wanted = orders.wanted.load(Relaxed).saturating_sub(first).min(share);
        if open < wanted {
            let more = (wanted - open).min(AT_ONCE);
            crowd.tallies.resize(open + more, Tally::default());
            swarm.connect(&mut crowd, more, |who| format!("{ROOM};;{}", channel(first as u32 + who)))?;
        } else if orders.halve.load(Relaxed) && !halved {
            halved = true;
            (1..open as u32).step_by(2).for_each(|who| swarm.close(who));
        } else {
            swarm.turn(&mut crowd, 20_000_000).map_err(|error| format!("epoll: {error}"))?;
        }
    }
    match swarm.faults.words.pop() {
        Some(what) => Err(what),
        None => Ok(()),
    }
}

struct Crowd<'a> {
    /// Of each client, the room's messages.
    tallies: Vec<Tally>,
    shared: &'a Shared,
}

impl Play for Crowd<'_> {
    fn on_open(&mut self, _swarm: &mut Swarm, _who: u32) {
        self.shared.open.fetch_add(1, Relaxed);
    }

    fn on_message(&mut self, swarm: &mut Swarm, who: u32, _opcode: u8, payload: &[u8]) {
        let Ok(Packet { command: ws::SEND, qos: 1, id, body, .. }) = Packet::parse(payload) else {
            return swarm.faults.add(format!("client {who} got {payload:02x?}"));
        };
        ws::put_answer(&mut swarm.out, ws::ACK, id);
        self.shared.delivered.fetch_add(1, Relaxed);
        // Clients come while messages are sent: what was sent before is not lost.
        let tally = &mut self.tallies[who as usize];
        match Payload::read(body) {
            Some(Payload { stream: 0, .. }) => {}
            Some(Payload { seq, .. }) if tally.see(seq) => {}
            _ => {
                self.shared.repeats.fetch_add(1, Relaxed);
            }
        }
    }
}

/// The kernel's objects of a connection alone take more.
const CONNECTION_BYTES_MIN: u64 = 3_700;
/// API connections.
const CALLS: usize = 32;
/// How long messages are sent at half of what it holds.
const SECONDS: f64 = 10.0;
/// How often the memory is looked at.
const LOOK_NS: u64 = 20_000_000;
/// Clients that a swarm connects before it looks whether all is over.
const AT_ONCE: usize = 512;
const MIB: f64 = (1 << 20) as f64;
