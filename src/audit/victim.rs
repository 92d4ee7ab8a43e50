//! Keeps the server of a run: starts it, kills it at random moments and at named points, and starts it again.
//!
//! A kill is SIGKILL: nothing is flushed, no destructor runs. Three kinds of lives alternate: one ends at a random
//! moment, one at a named point inside the store (`--crash-at NAME:N`, where the server kills itself), one while the
//! server is still starting. Runs on a thread of its own; whoever runs the audit awaits it.

use super::Shared;
use super::board::{Phase, count, read};
use crate::base::rng::Rng;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How the server is started and ended.
#[derive(Clone, Debug)]
pub struct Plan {
    pub way: Way,
    /// The keeper stops then; the run ends with it.
    pub kills: u64,
    /// How long a server lives on average after it is ready.
    pub life: Duration,
}

#[derive(Clone, Debug)]
pub enum Way {
    /// Our own child: program and arguments, environment, and the names of points where it can kill itself.
    Child { command: Vec<String>, env: Vec<(String, String)>, points: Vec<String> },
    /// Somebody else's: commands for the shell.
    Shell { kill: String, restart: String },
}

pub struct Keeper {
    shared: Arc<Shared>,
    plan: Plan,
    rng: Rng,
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
    /// Not by us.
    Never,
}

impl Keeper {
    /// Starts the server; it is ready when this returns.
    pub fn start(shared: Arc<Shared>, plan: Plan) -> io::Result<Keeper> {
        let rng = Rng::new(shared.options.seed ^ 0x4B11);
        let mut keeper = Keeper { shared, plan, rng, child: None, launched: Instant::now() };
        if let Way::Child { .. } = keeper.plan.way {
            keeper.launch(&End::Never)?;
        }
        keeper.await_ready(&End::Never)?;
        Ok(keeper)
    }

    /// Kills and restarts until the plan is done or the run leaves its phase; a server is ready when this returns.
    pub fn run(&mut self) -> io::Result<()> {
        let shared = self.shared.clone();
        let mut end = End::Moment(self.a_life());
        while shared.board.phase() == Phase::Running && read(&shared.board.kills) < self.plan.kills {
            self.finish(&end)?;
            end = self.next_end();
            if read(&shared.board.kills) >= self.plan.kills || shared.board.phase() != Phase::Running {
                end = End::Never;
            }
            self.launch(&end)?;
            if !matches!(end, End::Starting(_)) {
                self.await_ready(&end)?;
            }
        }
        if end != End::Never {
            self.kill()?;
            self.launch(&End::Never)?;
            self.await_ready(&End::Never)?;
        }
        Ok(())
    }

    fn a_life(&mut self) -> Duration {
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
        let (kills, in_recovery) = (read(&self.shared.board.kills), read(&self.shared.board.kills_in_recovery));
        let lot = self.rng.below(100);
        match lot {
            // A quarter at least, which is more than comes by lot when some starts are too quick.
            _ if 4 * in_recovery < kills => {
                if lot < 50 {
                    at_opening.unwrap_or(starting)
                } else {
                    starting
                }
            }
            0..10 => at_opening.unwrap_or(starting),
            10..20 => starting,
            20..60 => at_work.unwrap_or_else(|| End::Moment(self.a_life())),
            _ => End::Moment(self.a_life()),
        }
    }

    /// Waits for the end that was planned, and brings it about where it does not come by itself.
    fn finish(&mut self, end: &End) -> io::Result<()> {
        let shared = self.shared.clone();
        let board = &shared.board;
        let (patience, in_recovery) = match end {
            End::Moment(life) => (*life, false),
            End::Starting(life) => (*life, true),
            End::Point(point) => (POINT_PATIENCE, point.starts_with("open")),
            End::Never => (Duration::ZERO, false),
        };
        let ended = self.ended_within(patience)?;
        match (end, ended) {
            // It could not even start, because its predecessor's port is not free yet: that was no kill.
            (_, Some(status)) if status.code().is_some() && self.launched.elapsed() < COULD_NOT_START => {
                return self.kill();
            }
            (End::Point(_), Some(status)) if status.code().is_none() => {
                count(if in_recovery { &board.kills_in_recovery } else { &board.kills_at_points });
            }
            (_, Some(status)) => return Err(io::Error::other(format!("the server ended by itself: {status}; {LOG}"))),
            (End::Starting(_), None) => count(&board.kills_in_recovery),
            (_, None) => {}
        }
        self.kill()?;
        count(&board.kills);
        Ok(())
    }

    fn ended_within(&mut self, patience: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(child) = &mut self.child
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
        if let Some(mut child) = self.child.take() {
            // It may have killed itself already; then there is only its end to be taken note of.
            let _ = child.kill();
            child.wait()?;
        } else if let Way::Shell { kill, .. } = &self.plan.way {
            Command::new("sh").args(["-c", kill]).status()?;
        }
        self.await_free_port();
        Ok(())
    }

    /// What a killed process had in its rings the kernel clears away a moment later; the port is in use until then.
    fn await_free_port(&self) {
        let deadline = Instant::now() + PORT_PATIENCE;
        while TcpStream::connect_timeout(&self.shared.options.target, HELLO_TIMEOUT).is_ok() {
            if Instant::now() >= deadline {
                return;
            }
            thread::sleep(POLL);
        }
    }

    fn launch(&mut self, end: &End) -> io::Result<()> {
        self.launched = Instant::now();
        match &self.plan.way {
            Way::Child { command, env, .. } => {
                let log = self.log()?;
                let mut started = Command::new(&command[0]);
                started.args(&command[1..]).envs(env.iter().map(|(name, value)| (name, value)));
                if let End::Point(point) = end {
                    started.args(["--crash-at", point]);
                }
                started.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
                self.child = Some(started.spawn()?);
            }
            Way::Shell { restart, .. } => drop(Command::new("sh").args(["-c", restart]).status()?),
        }
        Ok(())
    }

    fn log(&self) -> io::Result<File> {
        OpenOptions::new().create(true).append(true).open(self.shared.options.ledger.join("server.log"))
    }

    /// Until it accepts connections, or has killed itself (a point inside its start), which `finish` finds out.
    fn await_ready(&mut self, end: &End) -> io::Result<()> {
        let target: SocketAddr = self.shared.options.target;
        let deadline = Instant::now() + READY_PATIENCE;
        while says_hello(target).is_err() {
            match self.ended_within(POLL)? {
                Some(status) if status.code().is_none() => return Ok(()),
                // Its predecessor's port was not free yet; a shell's child does not tell, but by its silence.
                Some(_) => {
                    self.kill()?;
                    thread::sleep(AGAIN);
                    self.launch(end)?;
                }
                None if self.child.is_none() && self.launched.elapsed() > SHELL_PATIENCE => self.launch(end)?,
                None => {}
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("the server does not start; {LOG}")));
            }
        }
        Ok(())
    }
}

/// A connection alone proves nothing: the port of a killed process takes some until the kernel has cleared it away.
fn says_hello(target: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(HELLO_TIMEOUT))?;
    stream.write_all(b"GET /hello/ HTTP/1.1\r\nHost: audit\r\nConnection: close\r\n\r\n")?;
    stream.read_exact(&mut [0; 1])
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if self.child.is_some() {
            let _ = self.kill();
        }
    }
}

/// A server's start takes about so long; a kill within it finds the store half open.
const STARTING_MAX: Duration = Duration::from_millis(120);
const POINT_PASSES_MAX: u64 = 60;
/// A point that is not passed in this time will not be: it becomes a kill at some moment.
const POINT_PATIENCE: Duration = Duration::from_millis(1500);
const READY_PATIENCE: Duration = Duration::from_secs(20);
const PORT_PATIENCE: Duration = Duration::from_secs(2);
const HELLO_TIMEOUT: Duration = Duration::from_millis(300);
/// A process that ends of itself within this time has not served.
const COULD_NOT_START: Duration = Duration::from_millis(500);
const SHELL_PATIENCE: Duration = Duration::from_secs(3);
const AGAIN: Duration = Duration::from_millis(20);
const LOG: &str = "see server.log beside the ledger";
const POLL: Duration = Duration::from_millis(2);
