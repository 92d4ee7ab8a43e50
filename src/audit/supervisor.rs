//! Starts the servers of a run, one or the nodes of a cluster, kills one at random moments and at named points, and
//! starts it again.
//!
//! A kill is SIGKILL: nothing is flushed, no destructor runs. Three kinds of lives alternate: one ends at a random
//! moment, one at a named point inside the store (`--crash-at NAME:N`, where the server kills itself), one while the
//! server is still starting. Runs on a thread of its own; `execute` waits for it.

use super::options::{Plan, Way};
use super::progress::{Phase, count, read};
use super::run::Run;
use crate::base::rng::Rng;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

pub struct Supervisor {
    run: Arc<Run>,
    plan: Plan,
    rng: Rng,
    /// One for each target.
    nodes: Vec<Node>,
    /// Which of them is killed next.
    current: usize,
}

struct Node {
    target: SocketAddr,
    child: Option<Child>,
    launched: Instant,
}

/// How a server's life is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// After so long.
    Moment(Duration),
    /// At a named point, or after a while when it is not passed.
    Point(String),
    /// While it starts: so long after the start.
    Starting(Duration),
    /// The supervisor does not end it.
    Never,
}

impl Supervisor {
    /// Starts the servers; they are ready when this returns.
    pub fn start(run: Arc<Run>, plan: Plan) -> io::Result<Supervisor> {
        let rng = Rng::new(run.options.seed ^ 0x4B11);
        let node = |target: &SocketAddr| Node { target: *target, child: None, launched: Instant::now() };
        let nodes: Vec<Node> = run.options.targets.iter().map(node).collect();
        let mut supervisor = Supervisor { run, plan, rng, nodes, current: 0 };
        for node in 0..supervisor.nodes.len() {
            supervisor.current = node;
            if let Way::Child { .. } = supervisor.plan.way {
                supervisor.launch(&End::Never)?;
            }
            supervisor.await_ready(&End::Never)?;
        }
        Ok(supervisor)
    }

    fn node(&mut self) -> &mut Node {
        &mut self.nodes[self.current]
    }

    /// Kills and restarts until the plan is done or the run leaves its phase; a server is ready when this returns.
    pub fn run(&mut self) -> io::Result<()> {
        let run = self.run.clone();
        let mut end = End::Moment(self.random_life());
        while run.progress.phase() == Phase::Running && read(&run.progress.kills) < self.plan.kills {
            self.finish(&end)?;
            end = self.next_end();
            if read(&run.progress.kills) >= self.plan.kills || run.progress.phase() != Phase::Running {
                end = End::Never;
            }
            self.stay_away(&run);
            self.launch(&end)?;
            if !matches!(end, End::Starting(_)) {
                self.await_ready(&end)?;
            }
            // Nothing is planned for this very life.
            if matches!(end, End::Moment(_)) {
                self.current = self.rng.below(self.nodes.len() as u64) as usize;
            }
        }
        if end != End::Never {
            self.kill()?;
            self.launch(&End::Never)?;
            self.await_ready(&End::Never)?;
        }
        Ok(())
    }

    /// The others do without it for a while.
    fn stay_away(&mut self, run: &Run) {
        let until = Instant::now() + self.plan.away.mul_f64(self.rng.below(200) as f64 / 100.0);
        while Instant::now() < until && run.progress.phase() == Phase::Running {
            thread::sleep(AWAY_LOOK);
        }
    }

    fn random_life(&mut self) -> Duration {
        self.plan.life.mul_f64(self.rng.below(200) as f64 / 100.0)
    }

    fn next_end(&mut self) -> End {
        let points = match &self.plan.way {
            Way::Child { points, .. } => points.clone(),
            Way::Shell { .. } => Vec::new(),
        };
        let (opening, working): (Vec<String>, Vec<String>) =
            points.into_iter().partition(|point| point.starts_with("open"));
        let mut draw = |points: &[String], most: u64| {
            let point = points.get(self.rng.below(points.len() as u64) as usize)?;
            Some(End::Point(format!("{point}:{}", 1 + self.rng.below(most))))
        };
        let at_opening = draw(&opening, 1);
        let at_work = draw(&working, POINT_PASSES_MAX);
        let starting = End::Starting(Duration::from_micros(self.rng.below(STARTING_MAX.as_micros() as u64)));
        let (kills, in_recovery) = (read(&self.run.progress.kills), read(&self.run.progress.kills_in_recovery));
        let lot = self.rng.below(100);
        match lot {
            // At least a quarter, which is more than chance brings when some starts are too quick.
            _ if 4 * in_recovery < kills => {
                if lot < 50 {
                    at_opening.unwrap_or(starting)
                } else {
                    starting
                }
            }
            0..10 => at_opening.unwrap_or(starting),
            10..20 => starting,
            20..60 => at_work.unwrap_or_else(|| End::Moment(self.random_life())),
            _ => End::Moment(self.random_life()),
        }
    }

    /// Waits for the planned end, and kills the server when it does not end by itself.
    fn finish(&mut self, end: &End) -> io::Result<()> {
        let run = self.run.clone();
        let progress = &run.progress;
        let (timeout, in_recovery) = match end {
            End::Moment(life) => (*life, false),
            End::Starting(life) => (*life, true),
            End::Point(point) => (POINT_TIMEOUT, point.starts_with("open")),
            End::Never => (Duration::ZERO, false),
        };
        let ended = self.ended_within(timeout)?;
        match (end, ended) {
            // The server could not start, because its predecessor's port is not free yet: that was no kill.
            (_, Some(status)) if status.code().is_some() && self.node().launched.elapsed() < COULD_NOT_START => {
                return self.kill();
            }
            (End::Point(_), Some(status)) if status.code().is_none() => {
                count(if in_recovery { &progress.kills_in_recovery } else { &progress.kills_at_points });
            }
            (_, Some(status)) => return Err(io::Error::other(format!("the server ended by itself: {status}; {LOG}"))),
            (End::Starting(_), None) => count(&progress.kills_in_recovery),
            (_, None) => {}
        }
        self.kill()?;
        count(&progress.kills);
        Ok(())
    }

    fn ended_within(&mut self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(child) = &mut self.node().child
                && let Some(status) = child.try_wait()?
            {
                return Ok(Some(status));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            thread::sleep(left.min(POLL));
        }
    }

    fn kill(&mut self) -> io::Result<()> {
        if let Some(mut child) = self.node().child.take() {
            // When it has killed itself already, only its exit status is left to be read.
            let _ = child.kill();
            child.wait()?;
        } else if let Way::Shell { kill, .. } = &self.plan.way {
            Command::new("sh").args(["-c", kill]).status()?;
        }
        self.await_free_port();
        Ok(())
    }

    /// The kernel cleans up a killed process's rings a moment later; the port is in use until then.
    fn await_free_port(&mut self) {
        let deadline = Instant::now() + PORT_TIMEOUT;
        let target = self.node().target;
        while TcpStream::connect_timeout(&target, HELLO_TIMEOUT).is_ok() {
            if Instant::now() >= deadline {
                return;
            }
            thread::sleep(POLL);
        }
    }

    fn launch(&mut self, end: &End) -> io::Result<()> {
        self.node().launched = Instant::now();
        let port = self.node().target.port().to_string();
        match &self.plan.way {
            Way::Child { command, env, .. } => {
                let log = self.log(&port)?;
                let mut started = Command::new(&command[0]);
                started.args(command[1..].iter().map(|word| word.replace("{port}", &port)));
                started.envs(env.iter().map(|(name, value)| (name, value)));
                if let End::Point(point) = end {
                    started.args(["--crash-at", point]);
                }
                started.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
                let child = started.spawn()?;
                self.node().child = Some(child);
            }
            Way::Shell { restart, .. } => drop(Command::new("sh").args(["-c", restart]).status()?),
        }
        Ok(())
    }

    fn log(&self, port: &str) -> io::Result<File> {
        let name = if self.nodes.len() > 1 { format!("server-{port}.log") } else { "server.log".into() };
        OpenOptions::new().create(true).append(true).open(self.run.options.ledger.join(name))
    }

    /// Waits until the server answers, or has killed itself (a point inside its start), which `finish` finds out.
    fn await_ready(&mut self, end: &End) -> io::Result<()> {
        let target = self.node().target;
        let deadline = Instant::now() + READY_TIMEOUT;
        while says_hello(target).is_err() {
            match self.ended_within(POLL)? {
                Some(status) if status.code().is_none() => return Ok(()),
                // Its predecessor's port was not free yet. A shell's child shows that by its silence alone.
                Some(_) => {
                    self.kill()?;
                    thread::sleep(RELAUNCH_PAUSE);
                    self.launch(end)?;
                }
                None if self.node().child.is_none() && self.node().launched.elapsed() > SHELL_TIMEOUT => {
                    self.launch(end)?
                }
                None => {}
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("the server does not start; {LOG}")));
            }
        }
        Ok(())
    }
}

/// A connection alone proves nothing: the port of a killed process accepts some until the kernel has cleaned up.
fn says_hello(target: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(HELLO_TIMEOUT))?;
    stream.write_all(b"GET /hello/ HTTP/1.1\r\nHost: audit\r\nConnection: close\r\n\r\n")?;
    stream.read_exact(&mut [0; 1])
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        for node in 0..self.nodes.len() {
            self.current = node;
            if self.node().child.is_some() {
                let _ = self.kill();
            }
        }
    }
}

/// A server's start takes about so long; a kill within it finds the store half open.
const STARTING_MAX: Duration = Duration::from_millis(120);
const POINT_PASSES_MAX: u64 = 60;
/// When the point is not passed in this time, the server is killed.
const POINT_TIMEOUT: Duration = Duration::from_millis(1500);
const READY_TIMEOUT: Duration = Duration::from_secs(20);
const PORT_TIMEOUT: Duration = Duration::from_secs(2);
const HELLO_TIMEOUT: Duration = Duration::from_millis(300);
/// A process that ends by itself within this time has not served.
const COULD_NOT_START: Duration = Duration::from_millis(500);
const SHELL_TIMEOUT: Duration = Duration::from_secs(3);
const RELAUNCH_PAUSE: Duration = Duration::from_millis(20);
const LOG: &str = "see server.log beside the ledger";
const POLL: Duration = Duration::from_millis(2);
const AWAY_LOOK: Duration = Duration::from_millis(20);
