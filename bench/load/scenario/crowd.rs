//! Scenarios with more than one swarm on a target: slow (clients that do not read) and uplink-during-fanout.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use super::Bench;
use crate::backend::Backend;
use crate::dialect::Dialect;
use crate::round::{Contender, Outcome, Running, Runs, alternate};
use crate::row::{Row, median};
use crate::swarm::{Faults, Swarm};
use crate::sys;
use crate::target::{Kind, Target};
use crate::work::Pace;
use crate::work::fanout::{Fanout, ROOM};
use crate::work::uplink::Uplink;

/// A tenth of the clients does not read while messages of 4 kB go to all. The others must get every one, and the server's
/// memory must not grow by more than the outboxes of the deaf.
pub fn slow(bench: &Bench, clients: usize, pace: Pace) -> Result<Vec<Row>, String> {
    let outbox = 64 << 10;
    let config = format!("outbox_bytes_max = {outbox}\nmessage_bytes_max = {outbox}\n");
    let kind = Kind::Rainbow { workers: 1, cores: vec![bench.server_core()], config };
    let mut started = bench.start(&kind)?;
    let deaf = (clients / 10).max(1);
    let readers = clients - deaf;
    let target = &started.target;
    let prepare = move || {
        let mut work = Fanout::new(readers as u32, 0, pace, 4096);
        let mut swarm = Swarm::new(target.port, 0, Dialect::Rainbow).map_err(|error| format!("epoll: {error}"))?;
        swarm.connect(&mut work, clients, |_| ROOM.into())?;
        (readers..clients).for_each(|who| swarm.deafen(who as u32));
        let calls = work.calls();
        swarm.open_apis(&mut work, calls)?;
        let running: Box<dyn Runs> = Box::new(Running { swarm, work });
        Ok(running)
    };
    let (ended, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    let before = started.target.rss();
    let mut outcomes = thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Relaxed) {
                peak.fetch_max(target.rss(), Relaxed);
                thread::sleep(Duration::from_millis(50));
            }
        });
        let outcomes = alternate(vec![Contender { target, prepare: Box::new(prepare) }], &bench.plan);
        ended.store(true, Relaxed);
        outcomes
    });
    eprintln!();
    let mut outcome = outcomes.pop().expect("one contender");
    let growth = peak.load(Relaxed).saturating_sub(before);
    // An outbox each, as much again for what is on its way, 4 kB per connection, and 16 MB for everything else.
    let allowed = (deaf * 2 * outbox + clients * 4096 + (16 << 20)) as u64;
    if growth > allowed {
        outcome.faults.add(format!("RSS grew by {growth} B for {deaf} deaf clients; at most {allowed} B is sound"));
    }
    started.judge(&mut outcome);
    let mut row = Row::of("slow", &format!("{clients} clients, {deaf} deaf, 4 kB, {}", pace.name()), outcome);
    row.extra.push(("rss_growth_mb", growth as f64 / 1e6));
    Ok(vec![row])
}

/// Uplink at a fixed rate, alone and while messages go to `crowd` clients one after another: its p99 must not grow threefold.
pub fn uplink_during_fanout(bench: &Bench, crowd: usize, rate: f64, must: Option<f64>) -> Result<Vec<Row>, String> {
    // Uplink and backend come before the crowd on the generator's core: its queue is not the server's.
    let backend = Backend::start(true).map_err(|error| format!("backend: {error}"))?;
    let mut target = Target::start(&Kind::rainbow(bench.server_core()), backend.port, bench.server_core())?;
    let busy = Busy::default();
    let (uplink, fanout) = uplink_beside(bench, &target, rate, &busy, || busy.fan_out(bench, &target, crowd))?;
    let (alone, during, mut outcome) = uplink;
    backend.judge(&mut outcome);
    outcome.losses.lost += fanout.losses.lost;
    outcome.losses.repeats += fanout.losses.repeats;
    fanout.faults.words.into_iter().for_each(|what| outcome.faults.add(what));
    if !target.is_alive() {
        outcome.faults.add(format!("the server has died:\n{}", target.log_tail()));
    }
    let row = |case, rounds: &[f64], outcome| p99_row("uplink-during-fanout", case, rounds, outcome);
    let name = format!("100 clients, {rate}/s");
    let none = Outcome { target: target.name.clone(), ..Outcome::default() };
    let mut alone_row = row(format!("{name}, alone"), &alone, none);
    alone_row.ops = 1;
    let mut row = row(format!("{name}, during fan-out to {crowd}"), &during, outcome).against(&alone, must);
    row.extra.push(("fanouts", busy.fanouts.load(Relaxed) as f64 / crowd as f64));
    Ok(vec![alone_row, row])
}

/// A row of rounds' p99.
pub fn p99_row(scenario: &'static str, case: String, rounds: &[f64], outcome: Outcome) -> Row {
    Row {
        unit: "µs p99",
        value: median(rounds),
        low: rounds.iter().copied().fold(f64::INFINITY, f64::min),
        high: rounds.iter().copied().fold(0.0, f64::max),
        rounds: rounds.to_vec(),
        ..Row::of(scenario, &case, outcome)
    }
}

/// Rounds of uplink alone, and beside what keeps the server busy when it is wanted; what came of both.
pub fn uplink_beside<T: Send>(
    bench: &Bench,
    target: &Target,
    rate: f64,
    busy: &Busy,
    keep_busy: impl FnOnce() -> Result<T, String> + Send,
) -> Result<(UplinkRounds, T), String> {
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            let result = keep_busy();
            // Whoever waits for us must not wait for ever.
            busy.ready.store(true, Relaxed);
            result
        });
        let uplink = scope.spawn(|| {
            let result = uplink_rounds(bench, target, rate, busy);
            busy.over.store(true, Relaxed);
            result
        });
        Ok((uplink.join().expect("no panic")?, other.join().expect("no panic")?))
    })
}

/// The p99 in µs of rounds alone and during, and what came of it all.
pub type UplinkRounds = (Vec<f64>, Vec<f64>, Outcome);

/// Rounds alone and during, in turn.
fn uplink_rounds(bench: &Bench, target: &Target, rate: f64, busy: &Busy) -> Result<UplinkRounds, String> {
    sys::own_table(&[]).map_err(|error| format!("unshare: {error}"))?;
    sys::be_first();
    let clients = 100;
    let mut work = Uplink::new(clients, 1, Pace::Open(rate), bench.size, 1 << 20);
    let mut swarm = Swarm::new(target.port, 1 << 20, Dialect::Rainbow).map_err(|error| format!("epoll: {error}"))?;
    swarm.connect(&mut work, clients as usize, |_| String::new())?;
    while !busy.ready.load(Relaxed) && !busy.over.load(Relaxed) {
        swarm.turn(&mut work, 10_000_000).map_err(|error| format!("epoll: {error}"))?;
    }
    let mut running = Running { swarm, work };
    let (mut alone, mut during) = (Vec::new(), Vec::new());
    let mut outcome = Outcome { target: target.name.clone(), ..Outcome::default() };
    running.round(target, &bench.plan, bench.plan.seconds.min(0.5))?;
    for _ in 0..bench.plan.rounds {
        for with_crowd in [false, true] {
            busy.wanted.store(with_crowd, Relaxed);
            while busy.resting.load(Relaxed) == with_crowd && !busy.over.load(Relaxed) {
                running.swarm.turn(&mut running.work, 1_000_000).map_err(|error| format!("epoll: {error}"))?;
            }
            let round = running.round(target, &bench.plan, bench.plan.seconds)?;
            let p99 = round.latency.value_at_quantile(0.99) as f64 / 1e3;
            eprint!("  p99 {p99:.0} µs {} ", if with_crowd { "during" } else { "alone" });
            if with_crowd {
                during.push(p99);
                outcome.rounds.push(round);
            } else {
                alone.push(p99);
            }
        }
    }
    eprintln!();
    (outcome.losses, outcome.faults) = running.finish();
    Ok((alone, during, outcome))
}

/// The orders of a thread that keeps the server busy.
#[derive(Default)]
pub struct Busy {
    pub ready: AtomicBool,
    pub wanted: AtomicBool,
    /// Nothing of it is on its way.
    pub resting: AtomicBool,
    pub over: AtomicBool,
    fanouts: AtomicU64,
}

impl Busy {
    fn fan_out(&self, bench: &Bench, target: &Target, crowd: usize) -> Result<Outcome, String> {
        sys::own_table(&[]).map_err(|error| format!("unshare: {error}"))?;
        let mut work = Fanout::new(crowd as u32, 0, Pace::Closed(1), bench.size);
        let mut swarm = Swarm::new(target.port, 0, Dialect::Rainbow).map_err(|error| format!("epoll: {error}"))?;
        swarm.connect(&mut work, crowd, |_| ROOM.into())?;
        swarm.open_apis(&mut work, 1)?;
        self.ready.store(true, Relaxed);
        let mut running = Running { swarm, work };
        while !self.over.load(Relaxed) {
            if self.wanted.load(Relaxed) {
                self.resting.store(false, Relaxed);
                // One or two messages at a time: so it stops soon after it shall.
                let round = running.round(target, &bench.plan, 0.02)?;
                self.fanouts.fetch_add(round.ops, Relaxed);
            } else {
                self.resting.store(true, Relaxed);
                thread::sleep(Duration::from_millis(5));
            }
        }
        let (losses, faults): (_, Faults) = running.finish();
        Ok(Outcome { losses, faults, ..Outcome::default() })
    }
}
