//! Keeps the server of a run: starts it, kills it at random moments and at named points, and starts it again.
//!
//! A kill is SIGKILL: nothing is flushed, no destructor runs. Three kinds of lives alternate: one ends at a random
//! moment, one at a named point inside the store (`--crash-at NAME:N`, where the server kills itself), one while the
//! server is still starting. Runs on a thread of its own; whoever runs the audit awaits it.

use super::Shared;
use super::board::{Phase, count, read};
use crate::base::rng::Rng;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
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
        let mut keeper = Keeper { shared, plan, rng, child: None };
        if let Way::Child { .. } = keeper.plan.way {
            keeper.launch(&End::Never)?;
        }
        keeper.await_ready()?;
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
                self.await_ready()?;
            }
        }
        if end != End::Never {
            self.kill()?;
            self.launch(&End::Never)?;
            self.await_ready()?;
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
        match self.rng.below(100) {
            0..15 => at_opening.unwrap_or(starting),
            15..30 => starting,
            30..65 => at_work.unwrap_or_else(|| End::Moment(self.a_life())),
            _ => End::Moment(self.a_life()),
        }
    }

    /// Waits for the end that was planned, and brings it about where it does not come by itself.
    fn finish(&mut self, end: &End) -> io::Result<()> {
        let shared = self.shared.clone();
        let board = &shared.board;
        match end {
            End::Moment(life) | End::Starting(life) => {
                if self.ended_within(*life)? {
                    return Err(io::Error::other("the server ended by itself; see server.log beside the ledger"));
                }
                if matches!(end, End::Starting(_)) {
                    count(&board.kills_in_recovery);
                }
            }
            End::Point(point) => {
                if self.ended_within(POINT_PATIENCE)? {
                    count(if point.starts_with("open") { &board.kills_in_recovery } else { &board.kills_at_points });
                }
            }
            End::Never => {}
        }
        self.kill()?;
        count(&board.kills);
        Ok(())
    }

    fn ended_within(&mut self, patience: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(child) = &mut self.child
                && child.try_wait()?.is_some()
            {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
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
        Ok(())
    }

    fn launch(&mut self, end: &End) -> io::Result<()> {
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

    /// Until it accepts connections, or has ended (a point inside its start), which `finish` finds out.
    fn await_ready(&mut self) -> io::Result<()> {
        let target: SocketAddr = self.shared.options.target;
        let deadline = Instant::now() + READY_PATIENCE;
        while TcpStream::connect_timeout(&target, Duration::from_secs(1)).is_err() {
            if self.ended_within(POLL)? {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(io::Error::other("the server does not start; see server.log beside the ledger"));
            }
        }
        Ok(())
    }
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
const POLL: Duration = Duration::from_millis(2);
