//! Rounds: a scenario's work is measured on one target, then on the next, and again, so that what changes with time
//! (a neighbour on the machine, a warm cache) changes for all alike.

use std::sync::{Condvar, Mutex};

use hdrhistogram::Histogram;

use crate::meter::{Meter, Used, ksoftirqd};
use crate::swarm::{Faults, Play, Progress, Swarm};
use crate::sys::{self, now_ns};
use crate::target::{Kind, Target};

/// Something that can be done for a while, and then be drained.
pub trait Work: Play {
    /// Operations may be started from now on.
    fn start(&mut self, swarm: &mut Swarm);
    /// None more are started; those in flight go on.
    fn stop(&mut self);
    fn is_idle(&self, swarm: &Swarm) -> bool;
    /// Operations completed since the beginning.
    fn done(&self) -> u64;
    /// Latencies since the last call, in ns from the intended time.
    fn take_latency(&mut self) -> Histogram<u64>;
    /// Everything has been drained: what is missing now is lost.
    fn finish(&mut self) -> Losses;
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    pub lost: u64,
    pub repeats: u64,
}

/// One measured round.
pub struct Round {
    pub ops: u64,
    pub used: Used,
    pub latency: Histogram<u64>,
}

impl Round {
    pub fn us_per_op(&self) -> f64 {
        self.used.cpu_ns as f64 / 1e3 / self.ops.max(1) as f64
    }
}

/// What came of one target.
#[derive(Default)]
pub struct Outcome {
    pub target: String,
    pub rounds: Vec<Round>,
    pub losses: Losses,
    pub faults: Faults,
}

/// How long and how often. Cores: where the server runs, where the harness does.
#[derive(Clone, Debug)]
pub struct Plan {
    pub rounds: usize,
    pub seconds: f64,
    pub server_cores: Vec<usize>,
    pub generator_core: usize,
    /// A shell command to run beside Rainbow's rounds (perf).
    pub beside: Option<String>,
}

/// A target and what to do with it. `prepare` runs in the thread that will run the rounds.
pub struct Contender<'a> {
    pub target: &'a Target,
    pub prepare: Prepare<'a>,
}

pub type Prepare<'a> = Box<dyn FnOnce() -> Result<Box<dyn Runs>, String> + Send + 'a>;

/// Work on its swarm, without its type.
pub trait Runs {
    fn round(&mut self, target: &Target, plan: &Plan, seconds: f64) -> Result<Round, String>;
    fn finish(&mut self) -> (Losses, Faults);
}

/// A swarm and the work it does.
pub struct Running<W> {
    pub swarm: Swarm,
    pub work: W,
}

impl<W: Work> Runs for Running<W> {
    fn round(&mut self, target: &Target, plan: &Plan, seconds: f64) -> Result<Round, String> {
        let Running { swarm, work } = self;
        swarm.catch_up(work).map_err(|error| format!("epoll: {error}"))?;
        drop(work.take_latency());
        let before = work.done();
        let meter = Meter::start(target.pids(), &plan.server_cores, plan.generator_core);
        let end_ns = now_ns() + (seconds * 1e9) as u64;
        let mut progress = Progress::new(STALL_NS);
        let mut going = true;
        work.start(swarm);
        while going || !work.is_idle(swarm) {
            swarm.turn(work, 5_000_000).map_err(|error| format!("epoll: {error}"))?;
            if going && now_ns() >= end_ns {
                going = false;
                work.stop();
            }
            if !progress.is_made(work.done()) {
                return Err(format!("nothing was completed for 10 s, after {} operations", work.done() - before));
            }
            if swarm.faults.count > 0 {
                return Err(swarm.faults.words.join("; "));
            }
        }
        Ok(Round { ops: work.done() - before, used: meter.stop(), latency: work.take_latency() })
    }

    fn finish(&mut self) -> (Losses, Faults) {
        (self.work.finish(), std::mem::take(&mut self.swarm.faults))
    }
}

/// Prepares each contender, then gives each a round in turn: one to warm up, `plan.rounds` that count.
pub fn alternate(contenders: Vec<Contender<'_>>, plan: &Plan) -> Vec<Outcome> {
    let turns = Turns::new(contenders.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = contenders
            .into_iter()
            .enumerate()
            .map(|(place, contender)| {
                let turns = &turns;
                scope.spawn(move || {
                    let _leaves = Leaves { turns, place };
                    let name = contender.target.name.clone();
                    let mut outcome = Outcome { target: name, ..Outcome::default() };
                    if let Err(what) = compete(contender, plan, turns, place, &mut outcome) {
                        outcome.faults.add(what);
                    }
                    outcome
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a contender does not panic")).collect()
    })
}

fn compete(
    contender: Contender<'_>,
    plan: &Plan,
    turns: &Turns,
    place: usize,
    outcome: &mut Outcome,
) -> Result<(), String> {
    let target = contender.target;
    sys::own_table(&[]).map_err(|error| format!("unshare: {error}"))?;
    let mut runs = turns.take(place, || (contender.prepare)())?;
    let warm_up = turns.take(place, || runs.round(target, plan, plan.seconds.min(0.5)));
    let mut result = warm_up.map(drop);
    let mut beside = Beside::start(plan, target);
    for _ in 0..plan.rounds {
        if result.is_err() {
            break;
        }
        result = turns.take(place, || runs.round(target, plan, plan.seconds)).map(|round| {
            eprint!("  {} {:.2} µs   ", target.name, round.us_per_op());
            outcome.rounds.push(round);
        });
    }
    beside.stop();
    let (losses, faults) = turns.take(place, || runs.finish());
    outcome.losses = losses;
    outcome.faults = faults;
    if result.is_err() {
        // What was cut short is not lost.
        outcome.losses.lost = 0;
    }
    result
}

/// The command beside the rounds: what it sees is the server at work, not at its start.
pub struct Beside(Option<std::process::Child>);

impl Beside {
    pub fn start(plan: &Plan, target: &Target) -> Beside {
        let rainbow = matches!(target.kind, Kind::Rainbow { .. });
        let Some(command) = plan.beside.as_ref().filter(|_| rainbow) else { return Beside(None) };
        let softirq = ksoftirqd(plan.server_cores[0]).unwrap_or(target.pid());
        let mut shell = std::process::Command::new("bash");
        shell.args(["-c", command]).env("SERVER_PID", target.pid().to_string());
        shell.env("SOFTIRQ_PID", softirq.to_string()).stdout(std::process::Stdio::null());
        let child = shell.spawn().map_err(|error| eprintln!("{command}: {error}")).ok();
        // perf needs a moment until it watches.
        std::thread::sleep(std::time::Duration::from_millis(500));
        Beside(child)
    }

    /// SIGINT, as a person would end it; then waits, and ends it for good if that takes long.
    pub fn stop(&mut self) {
        let Some(mut child) = self.0.take() else { return };
        sys::kill(child.id(), libc::SIGINT);
        let deadline_ns = now_ns() + BESIDE_NS;
        while matches!(child.try_wait(), Ok(None)) {
            if now_ns() > deadline_ns {
                eprintln!("the command of --beside does not end on SIGINT (does its shell `exec` it?); it is killed");
                let _ = child.kill();
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Whose turn it is. A contender that has left is passed over.
struct Turns {
    state: Mutex<(usize, Vec<bool>)>,
    changed: Condvar,
}

impl Turns {
    fn new(count: usize) -> Turns {
        Turns { state: Mutex::new((0, vec![true; count])), changed: Condvar::new() }
    }

    fn take<T>(&self, place: usize, act: impl FnOnce() -> T) -> T {
        let state = self.state.lock().expect("no contender panics");
        drop(self.changed.wait_while(state, |(turn, _)| *turn != place).expect("no contender panics"));
        let result = act();
        self.pass(place, true);
        result
    }

    fn pass(&self, place: usize, stays: bool) {
        let mut state = self.state.lock().expect("no contender panics");
        let (turn, stay) = &mut *state;
        stay[place] = stays;
        if *turn == place {
            let count = stay.len();
            *turn = (1..=count).map(|step| (place + step) % count).find(|&next| stay[next]).unwrap_or(place);
        }
        self.changed.notify_all();
    }
}

/// Leaves the round when dropped, by a panic too: the others must not wait for ever.
struct Leaves<'a> {
    turns: &'a Turns,
    place: usize,
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.turns.pass(self.place, false);
    }
}

/// A histogram of ns up to a minute, to three digits.
pub fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(100, 60_000_000_000, 3).expect("sound bounds")
}

const STALL_NS: u64 = 10_000_000_000;
/// perf writes its file when it is told to end.
const BESIDE_NS: u64 = 30_000_000_000;
