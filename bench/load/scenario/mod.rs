//! Scenarios: which targets do which work, and what the figure must be. One file per kind.

pub mod chat;
pub mod cluster;
pub mod cluster_sim;
pub mod cost;
pub mod crowd;
pub mod durable;
pub mod idle;
pub mod million;
pub mod pages;
pub mod peer;
pub mod small_box;

use crate::backend::Backend;
use crate::round::{Contender, Outcome, Plan, Prepare, Running, Work, alternate};
use crate::row::Row;
use crate::swarm::Swarm;
use crate::target::{Kind, Target};

/// What the command line says, for all scenarios.
#[derive(Clone, Debug)]
pub struct Bench {
    pub plan: Plan,
    /// A second or two per scenario: it shows that it works, not how fast.
    pub small: bool,
    pub floors: bool,
    pub server: bool,
    pub peers: bool,
    pub size: usize,
}

impl Bench {
    pub fn server_core(&self) -> usize {
        self.plan.server_cores[0]
    }

    /// `full`, or `small` in a small run.
    pub fn scaled(&self, full: usize, small: usize) -> usize {
        if self.small { small } else { full }
    }

    /// Starts a target and its own backend, if it needs one.
    pub fn start(&self, kind: &Kind) -> Result<Started, String> {
        let backend = match kind {
            Kind::Rainbow { .. } | Kind::Cluster { .. } => {
                Some(Backend::start(false).map_err(|error| format!("backend: {error}"))?)
            }
            _ => None,
        };
        let port = backend.as_ref().map_or(0, |backend| backend.port);
        Ok(Started { target: Target::start(kind, port, self.server_core())?, backend })
    }

    /// Measures cases alternately, each on a target of its own, as far as the command line wants it; a row each. The
    /// floors come first: ratios are to the sum of the first `floors`.
    pub fn compare(&self, scenario: &'static str, mut cases: Vec<Case>, floors: usize) -> Result<Vec<Row>, String> {
        cases.retain(|case| match case.kind {
            Kind::Floor(_) => self.floors,
            Kind::Rainbow { .. } | Kind::Cluster { .. } => self.server,
            Kind::Peer(_) => self.peers,
        });
        let heads: Vec<(String, Option<f64>)> = cases.iter().map(|case| (case.name.clone(), case.must)).collect();
        let outcomes = self.measure(cases)?;
        let mut rows: Vec<Row> =
            outcomes.into_iter().zip(&heads).map(|(outcome, (name, _))| Row::of(scenario, name, outcome)).collect();
        if self.floors && floors > 0 {
            let rounds = |number: usize| rows[..floors].iter().filter_map(|row| row.rounds.get(number)).sum();
            let floor: Vec<f64> = (0..self.plan.rounds).map(rounds).collect();
            let others = rows.split_off(floors).into_iter().zip(&heads[floors..]);
            rows.extend(others.map(|(row, (_, must))| row.against(&floor, *must)).collect::<Vec<_>>());
        }
        Ok(rows)
    }

    fn measure(&self, cases: Vec<Case>) -> Result<Vec<Outcome>, String> {
        let mut started = Vec::new();
        for case in &cases {
            started.push(self.start(&case.kind)?);
        }
        let contenders = cases.into_iter().zip(&started).map(|(case, started)| {
            let target = &started.target;
            let prepare: Prepare = Box::new(move || (case.prepare)(target));
            Contender { target, prepare }
        });
        let mut outcomes = alternate(contenders.collect(), &self.plan);
        eprintln!();
        for (outcome, started) in outcomes.iter_mut().zip(&mut started) {
            started.judge(outcome);
        }
        Ok(outcomes)
    }
}

/// A running target with its backend.
pub struct Started {
    pub target: Target,
    pub backend: Option<Backend>,
}

impl Started {
    /// Adds what the backend saw, and whether the target lives.
    pub fn judge(&mut self, outcome: &mut Outcome) {
        if let Some(backend) = &self.backend {
            backend.judge(outcome);
        }
        if !self.target.is_alive() {
            outcome.faults.add(format!("{} has died:\n{}", self.target.name, self.target.log_tail()));
        }
    }
}

/// A kind of target and the work to be done on it.
pub struct Case {
    pub kind: Kind,
    pub prepare: MakeRuns,
    /// In the row.
    pub name: String,
    /// What its ratio to the floor must not exceed.
    pub must: Option<f64>,
}

type MakeRuns = Box<dyn FnOnce(&Target) -> Result<Box<dyn crate::round::Runs>, String> + Send>;

impl Case {
    /// `clients` clients in the channels that `channels` says, and `calls` API connections, doing `work`.
    pub fn new<W: Work + Send + 'static>(
        kind: Kind,
        clients: usize,
        channels: impl Fn(u32) -> String + Send + 'static,
        calls: usize,
        mut work: W,
    ) -> Case {
        let prepare = move |target: &Target| {
            let mut swarm =
                Swarm::new(target.port, 0, target.kind.dialect()).map_err(|error| format!("epoll: {error}"))?;
            swarm.call_at(target.api_port());
            eprint!("  {}: {clients} clients …", target.name);
            swarm.connect(&mut work, clients, channels)?;
            swarm.open_apis(&mut work, calls)?;
            let running: Box<dyn crate::round::Runs> = Box::new(Running { swarm, work });
            Ok(running)
        };
        Case { kind, prepare: Box::new(prepare), name: String::new(), must: None }
    }
}

impl Case {
    pub fn named(self, name: &str) -> Case {
        Case { name: name.into(), ..self }
    }

    pub fn must(self, must: Option<f64>) -> Case {
        Case { must, ..self }
    }
}
