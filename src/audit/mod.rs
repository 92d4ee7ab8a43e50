//! Proves the promises of durable sessions against a running server: the business server, the callers and the clients
//! of a run in one process, faults on every line, a ledger on disk, and a verdict made of that ledger.
//!
//! It talks to Rainbow over sockets like any user; it shares the parsers, the packets and the signature with it and
//! nothing else. Called by `main` (`rainbow-server audit`) and by the crash tests.

mod backend;
mod board;
mod caller;
mod client;
mod command;
mod judge;
mod ledger;
mod line;
mod payload;
mod session;
mod victim;

pub use board::Phase;
pub use command::{AuditCommand, hooks};
pub use judge::{Row, Verdict, judge};
pub use ledger::Plant;
pub use line::{Frame, Greeting, Line};
pub use payload::{Corrupt, Direction, Payload, Stream};
pub use victim::{Plan, Way};

use crate::wire::packet::QoS;
use backend::{Backend, STACK_BYTES};
use board::{Board, read};
use caller::{Caller, streams_per_thread};
use client::Client;
use serde_json::json;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use victim::Keeper;

#[derive(Clone, Debug)]
pub struct Options {
    /// Where Rainbow listens.
    pub target: SocketAddr,
    /// Rainbow's `security_token`.
    pub token: String,
    pub sessions: u32,
    /// In all, both directions and all QoS together; `None`: until the kills or the seconds are over.
    pub messages: Option<u64>,
    pub seconds: Option<u64>,
    /// Faults of lines per second, over all sessions.
    pub cuts_per_second: u32,
    /// 1, 2 or both.
    pub qos: Vec<QoS>,
    /// A directory that is there and holds no ledger yet.
    pub ledger: PathBuf,
    pub seed: u64,
    /// No durable sessions: clients are found by their channel, and nothing survives a cut.
    pub channels: bool,
    /// Calls in a hundred that carry no `message_id`, and so may take the way without the disk.
    pub plain_percent: u64,
    /// Forwarded messages in a hundred for which the business server stumbles: a 500, or no answer at all, though it
    /// has taken the message.
    pub stumbles_percent: u64,
    pub plant: Option<Plant>,
    /// Who starts and kills the server.
    pub plan: Option<Plan>,
    /// A line per second to stderr.
    pub shows_progress: bool,
}

impl Options {
    /// A small run without faults.
    pub fn new(target: SocketAddr, token: &str, ledger: PathBuf) -> Options {
        Options {
            target,
            token: token.into(),
            sessions: 10,
            messages: Some(1000),
            seconds: None,
            cuts_per_second: 0,
            qos: vec![QoS::AtLeastOnce, QoS::ExactlyOnce],
            ledger,
            seed: 1,
            channels: false,
            plain_percent: 30,
            stumbles_percent: 0,
            plant: None,
            plan: None,
            shows_progress: false,
        }
    }
}

/// What all threads of a run have.
#[derive(Debug)]
struct Shared {
    options: Options,
    /// Drawn anew for every run, so that a second one against the same server meets no message of the first.
    run: u64,
    board: Board,
}

impl Shared {
    /// Messages of one stream.
    fn quota(&self) -> u64 {
        let streams = 2 * u64::from(self.options.sessions) * self.options.qos.len() as u64;
        self.options.messages.map_or(u64::MAX, |messages| messages.div_ceil(streams))
    }

    fn prefix(&self) -> String {
        format!("audit-{:08x}-", self.run as u32)
    }

    /// Of a session, its channel, and its client's device.
    fn session_name(&self, session: u32) -> String {
        self.prefix() + &session.to_string()
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Report {
    pub verdict: Verdict,
    pub seconds: f64,
    pub kills: u64,
    pub kills_at_points: u64,
    pub kills_in_recovery: u64,
    pub connects: u64,
    pub cuts: u64,
    pub takeovers: u64,
    pub takeovers_told: u64,
    pub pauses: u64,
    pub absences: u64,
    pub calls_broken: u64,
    /// Not answered long after their timeout, over a connection that stood.
    pub calls_silent: u64,
    pub calls_refused: u64,
    pub calls_given_up: u64,
    /// As the answers counted them.
    pub connections: u64,
    pub stored: u64,
    /// Clients' messages that never got their answer, though the server was there.
    pub unanswered: u64,
    /// The last thing that went wrong on the way; empty when nothing did.
    pub complaint: String,
}

impl Report {
    pub fn violations(&self) -> u64 {
        self.verdict.violations() + self.unanswered + self.calls_silent
    }

    pub fn to_json(&self) -> serde_json::Value {
        json!({
            "verdict": self.verdict.to_json(), "seconds": self.seconds, "kills": self.kills,
            "kills_at_points": self.kills_at_points, "kills_in_recovery": self.kills_in_recovery,
            "connects": self.connects, "cuts": self.cuts, "takeovers": self.takeovers,
            "takeovers_told": self.takeovers_told, "pauses": self.pauses, "absences": self.absences,
            "calls_broken": self.calls_broken, "calls_silent": self.calls_silent, "calls_refused": self.calls_refused,
            "calls_given_up": self.calls_given_up, "connections": self.connections, "stored": self.stored,
            "unanswered": self.unanswered, "violations": self.violations(), "complaint": self.complaint,
        })
    }
}

/// A whole run: opening, messages and faults, drain, verdict. `listener` is where Rainbow finds its business server.
pub fn run(options: Options, listener: TcpListener) -> io::Result<Report> {
    let begun = Instant::now();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = format!("{} {} {}", options.seed, now.as_nanos(), std::process::id());
    let run = payload::checksum(seed.as_bytes());
    let board = Board::new(options.sessions);
    let shared = Arc::new(Shared { options, run, board });
    let backend = Backend::start(listener, shared.clone())?;
    let mut keeper = match shared.options.plan.clone() {
        Some(plan) => Some(Keeper::start(shared.clone(), plan)?),
        None => None,
    };
    let threads = start_threads(&shared)?;
    let outcome = go_through_phases(&shared, keeper.as_mut());
    shared.board.enter(Phase::Over);
    for thread in threads {
        thread.join().map_err(|_| io::Error::other("a thread of the audit has panicked"))?;
    }
    drop(keeper);
    backend.stop();
    outcome?;
    report(&shared, begun)
}

fn start_threads(shared: &Arc<Shared>) -> io::Result<Vec<JoinHandle<()>>> {
    let mut threads = Vec::new();
    let mut spawn = |name: &str, work: Box<dyn FnOnce() + Send>| -> io::Result<()> {
        threads.push(thread::Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(work)?);
        Ok(())
    };
    for session in 0..shared.options.sessions {
        let client = Client::new(shared.clone(), session)?;
        spawn("audit-client", Box::new(move || client.run()))?;
    }
    for (number, streams) in streams_per_thread(shared).into_iter().enumerate() {
        let caller = Caller::new(shared.clone(), number, streams)?;
        spawn("audit-caller", Box::new(move || caller.run()))?;
    }
    Ok(threads)
}

fn go_through_phases(shared: &Arc<Shared>, keeper: Option<&mut Keeper>) -> io::Result<()> {
    let board = &shared.board;
    let sessions = u64::from(shared.options.sessions);
    let mut watch = Watch::new(shared);
    watch.until(OPENING_PATIENCE, |board| read(&board.opened) >= sessions)?;
    board.enter(Phase::Running);
    let seconds = shared.options.seconds.map_or(Duration::MAX, Duration::from_secs);
    // A keeper without kills has only started the server.
    let keeper = keeper.filter(|_| shared.options.plan.as_ref().is_some_and(|plan| plan.kills > 0));
    let is_kept = AtomicBool::new(keeper.is_some());
    let had_keeper = keeper.is_some();
    thread::scope(|scope| {
        let keeping = keeper.map(|keeper| {
            scope.spawn(|| {
                let outcome = keeper.run();
                is_kept.store(false, Ordering::Release);
                outcome
            })
        });
        let over = |board: &Board| read(&board.senders) == 0 || had_keeper && !is_kept.load(Ordering::Acquire);
        watch.for_at_most(seconds, over);
        board.enter(Phase::Draining);
        keeping.map_or(Ok(()), |keeping| keeping.join().expect("the keeper does not panic"))
    })?;
    watch.drain();
    board.enter(Phase::Finale);
    // A session that cannot come back any more owes its messages, and the verdict says which.
    let _ = watch.until(OPENING_PATIENCE, |board| read(&board.returned) >= sessions);
    watch.drain();
    watch.for_at_most(SETTLING, |_| false);
    Ok(())
}

/// Waits, and says every second how far the run is.
struct Watch<'a> {
    shared: &'a Shared,
    begun: Instant,
    lines: u64,
}

impl<'a> Watch<'a> {
    fn new(shared: &'a Shared) -> Watch<'a> {
        Watch { shared, begun: Instant::now(), lines: 0 }
    }

    fn until(&mut self, patience: Duration, done: impl Fn(&Board) -> bool) -> io::Result<()> {
        if self.for_at_most(patience, done) {
            return Ok(());
        }
        let phase = self.shared.board.phase();
        Err(io::Error::other(format!("{phase:?} is not over after {patience:?}: {}", self.shared.board.complaint())))
    }

    fn for_at_most(&mut self, patience: Duration, done: impl Fn(&Board) -> bool) -> bool {
        let begun = Instant::now();
        loop {
            if done(&self.shared.board) {
                return true;
            }
            if begun.elapsed() >= patience {
                return false;
            }
            self.show();
            thread::sleep(WATCH);
        }
    }

    /// Until nothing is owed, or nothing has moved for a while.
    fn drain(&mut self) {
        let mut last = (None, Instant::now());
        loop {
            let board = &self.shared.board;
            let left = (board.owed_down(), read(&board.up_in_flight), read(&board.senders));
            if left == (0, 0, 0) {
                return;
            }
            if last.0 != Some(left) {
                last = (Some(left), Instant::now());
            }
            if last.1.elapsed() > DRAIN_PATIENCE {
                return;
            }
            self.show();
            thread::sleep(WATCH);
        }
    }

    fn show(&mut self) {
        let seconds = self.begun.elapsed().as_secs();
        if !self.shared.options.shows_progress || seconds < self.lines {
            return;
        }
        self.lines = seconds + 1;
        let board = &self.shared.board;
        eprintln!(
            "{seconds:5} s  {:?}  up {}/{}/{}  down {}/{}/{}  owed {}+{}  connects {}  faults {}  kills {}  {}",
            board.phase(),
            read(&board.up.tried),
            read(&board.up.acknowledged),
            read(&board.up.delivered),
            read(&board.down.tried),
            read(&board.down.acknowledged),
            read(&board.down.delivered),
            read(&board.up_in_flight),
            board.owed_down(),
            read(&board.connects),
            read(&board.cuts) + read(&board.takeovers) + read(&board.pauses),
            read(&board.kills),
            board.complaint(),
        );
    }
}

fn report(shared: &Shared, begun: Instant) -> io::Result<Report> {
    let board = &shared.board;
    Ok(Report {
        verdict: judge(&shared.options.ledger)?,
        seconds: begun.elapsed().as_secs_f64(),
        kills: read(&board.kills),
        kills_at_points: read(&board.kills_at_points),
        kills_in_recovery: read(&board.kills_in_recovery),
        connects: read(&board.connects),
        cuts: read(&board.cuts),
        takeovers: read(&board.takeovers),
        takeovers_told: read(&board.takeovers_told),
        pauses: read(&board.pauses),
        absences: read(&board.absences),
        calls_broken: read(&board.calls_broken),
        calls_silent: read(&board.calls_silent),
        calls_refused: read(&board.calls_refused),
        calls_given_up: read(&board.calls_given_up),
        connections: read(&board.connections),
        stored: read(&board.stored),
        unanswered: read(&board.up_in_flight),
        complaint: board.complaint(),
    })
}

const OPENING_PATIENCE: Duration = Duration::from_secs(60);
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);
/// Longer than the server's `ack_timeout`: what it believes unanswered comes again within.
const SETTLING: Duration = Duration::from_millis(3500);
const WATCH: Duration = Duration::from_millis(20);
