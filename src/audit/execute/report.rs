//! How a run ended: the verdict, and the counts of everything that happened on the way.

use crate::audit::closes::Tally;
use crate::audit::judge::{Verdict, judge};
use crate::audit::progress::read;
use crate::audit::run::Run;
use serde_json::json;
use std::io;
use std::time::Instant;

/// How a run ended.
#[derive(Debug)]
pub struct Report {
    pub verdict: Verdict,
    pub closes: Tally,
    /// Identities of some connections that have no close.
    pub closes_missing: Vec<String>,
    /// A store outlives a server that is killed, and knows whose ends are to be reported.
    pub promises_closes: bool,
    pub seconds: f64,
    pub kills: u64,
    pub kills_at_points: u64,
    pub kills_in_recovery: u64,
    pub connects: u64,
    pub cuts: u64,
    pub takeovers: u64,
    pub takeovers_notified: u64,
    pub pauses: u64,
    pub absences: u64,
    pub calls_broken: u64,
    /// Calls without an answer long after their timeout, though their connection was open.
    pub calls_silent: u64,
    pub calls_refused: u64,
    pub calls_given_up: u64,
    /// As the answers to the calls counted them.
    pub connections: u64,
    pub stored: u64,
    /// Clients' messages that got no answer, though the server was running.
    pub unanswered: u64,
    /// The last problem of the run; empty when there was none.
    pub complaint: String,
}

impl Report {
    pub fn new(run: &Run, started: Instant) -> io::Result<Report> {
        let progress = &run.progress;
        Ok(Report {
            verdict: judge(&run.options.ledger)?,
            closes: run.closes.tally(),
            closes_missing: run.closes.missing(),
            promises_closes: !run.options.channels || read(&progress.kills) == 0,
            seconds: started.elapsed().as_secs_f64(),
            kills: read(&progress.kills),
            kills_at_points: read(&progress.kills_at_points),
            kills_in_recovery: read(&progress.kills_in_recovery),
            connects: read(&progress.connects),
            cuts: read(&progress.cuts),
            takeovers: read(&progress.takeovers),
            takeovers_notified: read(&progress.takeovers_notified),
            pauses: read(&progress.pauses),
            absences: read(&progress.absences),
            calls_broken: read(&progress.calls_broken),
            calls_silent: read(&progress.calls_silent),
            calls_refused: read(&progress.calls_refused),
            calls_given_up: read(&progress.calls_given_up),
            connections: read(&progress.connections),
            stored: read(&progress.stored),
            unanswered: read(&progress.up_in_flight),
            complaint: progress.complaint(),
        })
    }

    pub fn violations(&self) -> u64 {
        let missing = if self.promises_closes { self.closes.missing } else { 0 };
        self.verdict.violations() + self.unanswered + self.calls_silent + self.closes.doubled + missing
    }

    pub fn to_json(&self) -> serde_json::Value {
        json!({
            "verdict": self.verdict.to_json(), "closes": self.closes.to_json(),
            "closes_missing": self.closes_missing, "seconds": self.seconds, "kills": self.kills,
            "kills_at_points": self.kills_at_points, "kills_in_recovery": self.kills_in_recovery,
            "connects": self.connects, "cuts": self.cuts, "takeovers": self.takeovers,
            "takeovers_told": self.takeovers_notified, "pauses": self.pauses, "absences": self.absences,
            "calls_broken": self.calls_broken, "calls_silent": self.calls_silent, "calls_refused": self.calls_refused,
            "calls_given_up": self.calls_given_up, "connections": self.connections, "stored": self.stored,
            "unanswered": self.unanswered, "violations": self.violations(), "complaint": self.complaint,
        })
    }
}
