//! A whole run: starts the threads, takes them through the phases, and makes the report.

mod report;
mod watch;

pub use report::Report;

use super::business::backend::{Backend, STACK_BYTES};
use super::business::caller::{Caller, streams_per_thread};
use super::client::Client;
use super::closes::Closes;
use super::options::Options;
use super::payload;
use super::progress::{Phase, Progress, read};
use super::run::Run;
use super::supervisor::Supervisor;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use watch::Watch;

/// A whole run: opening, messages and faults, drain, verdict. `listener` is where Rainbow finds its business server.
pub fn run(options: Options, listener: TcpListener) -> io::Result<Report> {
    let started = Instant::now();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = format!("{} {} {}", options.seed, now.as_nanos(), std::process::id());
    let number = payload::checksum(seed.as_bytes());
    let progress = Progress::new(options.sessions);
    let closes = Closes::new(options.plant);
    let run = Arc::new(Run { options, number, progress, closes });
    let backend = Backend::start(listener, run.clone())?;
    let mut supervisor = match run.options.plan.clone() {
        Some(plan) => Some(Supervisor::start(run.clone(), plan)?),
        None => None,
    };
    let threads = start_threads(&run)?;
    let outcome = go_through_phases(&run, supervisor.as_mut());
    run.progress.enter(Phase::Over);
    for thread in threads {
        thread.join().map_err(|_| io::Error::other("a thread of the audit has panicked"))?;
    }
    if outcome.is_ok() {
        Watch::new(&run).for_at_most(CLOSES_TIMEOUT, |_| run.closes.tally().missing == 0);
    }
    drop(supervisor);
    backend.stop();
    outcome?;
    Report::new(&run, started)
}

fn start_threads(run: &Arc<Run>) -> io::Result<Vec<JoinHandle<()>>> {
    let mut threads = Vec::new();
    let mut spawn = |name: &str, work: Box<dyn FnOnce() + Send>| -> io::Result<()> {
        threads.push(thread::Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(work)?);
        Ok(())
    };
    for session in 0..run.options.sessions {
        let client = Client::new(run.clone(), session)?;
        spawn("audit-client", Box::new(move || client.run()))?;
    }
    for (number, streams) in streams_per_thread(run).into_iter().enumerate() {
        let caller = Caller::new(run.clone(), number, streams)?;
        spawn("audit-caller", Box::new(move || caller.run()))?;
    }
    Ok(threads)
}

fn go_through_phases(run: &Arc<Run>, supervisor: Option<&mut Supervisor>) -> io::Result<()> {
    let progress = &run.progress;
    let sessions = u64::from(run.options.sessions);
    let mut watch = Watch::new(run);
    watch.until(OPENING_TIMEOUT, |progress| read(&progress.opened) >= sessions)?;
    progress.enter(Phase::Running);
    let seconds = run.options.seconds.map_or(Duration::MAX, Duration::from_secs);
    // A supervisor without kills has only started the server.
    let supervisor = supervisor.filter(|_| run.options.plan.as_ref().is_some_and(|plan| plan.kills > 0));
    let kills = supervisor.is_some();
    let is_killing = AtomicBool::new(kills);
    thread::scope(|scope| {
        let killing = supervisor.map(|supervisor| {
            scope.spawn(|| {
                let outcome = supervisor.run();
                is_killing.store(false, Ordering::Release);
                outcome
            })
        });
        let over = |progress: &Progress| read(&progress.senders) == 0 || kills && !is_killing.load(Ordering::Acquire);
        watch.for_at_most(seconds, over);
        progress.enter(Phase::Draining);
        killing.map_or(Ok(()), |killing| killing.join().expect("the supervisor does not panic"))
    })?;
    watch.drain();
    progress.enter(Phase::Finale);
    // The messages of a session that cannot come back are missing, and the verdict counts them.
    let _ = watch.until(OPENING_TIMEOUT, |progress| read(&progress.returned) >= sessions);
    watch.drain();
    watch.for_at_most(SETTLING, |_| false);
    Ok(())
}

const OPENING_TIMEOUT: Duration = Duration::from_secs(60);
/// So long after a node's death all closes of its connections are reported, at a pace.
const CLOSES_TIMEOUT: Duration = Duration::from_secs(60);
/// Longer than the server's `ack_timeout`: what it believes unanswered comes again within.
const SETTLING: Duration = Duration::from_millis(3500);
