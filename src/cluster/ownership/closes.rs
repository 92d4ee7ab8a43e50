//! The closes of a dead node's connections: each is reported once, at a pace, whoever dies meanwhile.
//!
//! Each connection that was let in has a record in the store. A survivor claims the record, sends the close hook and
//! removes the record when the hook was answered. A record that a dead reaper has claimed is claimed from it. The
//! hook's `Idempotency-Key` comes from the connection's identity alone, so that the business server knows a repeat,
//! whichever node sends it.

use super::super::planted::{ClusterBug, Planted};
use super::rendezvous::winner;
use crate::base::id::{Generation, Identity};
use crate::base::time::Tick;
use std::collections::{BTreeMap, VecDeque};

/// A connection that the backend has let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseRecord {
    pub identity: Identity,
    pub cookie: Option<Vec<u8>>,
    /// Who reports its close.
    pub claimed_by: Option<Generation>,
}

/// A page of the records of one dead node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosePage {
    pub records: Vec<CloseRecord>,
    pub next: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseOutput {
    Read {
        dead: Generation,
        from: u64,
    },
    /// If the record is claimed by `expected`, claim it.
    Claim {
        identity: Identity,
        expected: Option<Generation>,
    },
    Hook {
        identity: Identity,
        cookie: Option<Vec<u8>>,
        idempotency_key: String,
    },
    Remove {
        identity: Identity,
    },
    /// No record of this node is left.
    Done {
        dead: Generation,
    },
}

/// What the store or the backend said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseAnswer {
    Done,
    /// Another reaper has it, or it is gone.
    Taken,
    /// No answer, or a failure that may pass.
    Failed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CloseStage {
    Claiming,
    Calling,
    Removing,
    /// The hook has failed; it is sent again then.
    Retrying(Tick),
}

struct Report {
    cookie: Option<Vec<u8>>,
    stage: CloseStage,
    attempts: u32,
}

pub struct Closes {
    own: Generation,
    dead: Generation,
    /// Of the page that was read.
    queue: VecDeque<CloseRecord>,
    next_page: Option<u64>,
    in_flight: BTreeMap<Identity, Report>,
    is_reading: bool,
    has_found: bool,
    is_done: bool,
    next_at: Tick,
    pass_at: Tick,
    outputs: VecDeque<CloseOutput>,
    planted: Planted,
}

impl Closes {
    /// Of a generation that is dead for good: replaced, gone with a goodbye, or its lease has ended.
    pub fn new(own: Generation, dead: Generation, now: Tick) -> Closes {
        Closes {
            own,
            dead,
            queue: VecDeque::new(),
            next_page: Some(0),
            in_flight: BTreeMap::new(),
            is_reading: false,
            has_found: false,
            is_done: false,
            next_at: now,
            pass_at: now,
            outputs: VecDeque::new(),
            planted: Planted::default(),
        }
    }

    pub fn plant(&mut self, bug: ClusterBug) {
        self.planted.plant(bug);
    }

    /// The backend's key for this close: of the connection, not of who reports it.
    pub fn idempotency_key(identity: &Identity) -> String {
        format!("close-{identity}")
    }

    pub fn handle_timers(&mut self, now: Tick) {
        let due = |report: &Report| matches!(report.stage, CloseStage::Retrying(at) if at <= now);
        let retries: Vec<Identity> =
            self.in_flight.iter().filter(|(_, report)| due(report)).map(|(identity, _)| *identity).collect();
        retries.into_iter().for_each(|identity| self.call(identity));
        self.take_next(now);
    }

    pub fn next_tick(&self) -> Tick {
        let retries = self.in_flight.values().filter_map(|report| match report.stage {
            CloseStage::Retrying(at) => Some(at),
            _ => None,
        });
        let own = if self.is_done || self.is_reading {
            Tick::NEVER
        } else if !self.queue.is_empty() {
            if self.in_flight.len() < IN_FLIGHT_MAX { self.next_at } else { Tick::NEVER }
        } else if self.next_page.is_some() && self.in_flight.len() < IN_FLIGHT_MAX {
            self.pass_at
        } else {
            Tick::NEVER
        };
        retries.min().unwrap_or(Tick::NEVER).min(own)
    }

    /// `None`: the store did not answer. `live` are all nodes that may report, ourselves among them.
    pub fn on_page(&mut self, page: Option<ClosePage>, live: &[Generation], now: Tick) {
        self.is_reading = false;
        let Some(page) = page else {
            self.pass_at = now + PASS_MS;
            return;
        };
        self.has_found |= !page.records.is_empty();
        self.next_page = page.next;
        for record in page.records {
            let hash = u64::from_be_bytes(record.identity.0[..8].try_into().expect("eight bytes"));
            let is_careless = self.planted.is(ClusterBug::ClaimsTheClaimed);
            // Who has claimed it sees it through, whoever would be chosen among those that live now.
            let is_claimed_here = record.claimed_by == Some(self.own);
            let is_ours = is_careless || is_claimed_here || winner(hash, live.iter().copied()) == Some(self.own);
            let is_other = |by: Generation| by != self.own && live.contains(&by);
            let is_free = is_careless || !record.claimed_by.is_some_and(is_other);
            let is_known = self.in_flight.contains_key(&record.identity);
            if is_ours && is_free && !is_known {
                self.queue.push_back(record);
            }
        }
        self.end_pass_if_over(now);
        self.take_next(now);
    }

    pub fn on_claim(&mut self, identity: Identity, answer: CloseAnswer, now: Tick) {
        match answer {
            CloseAnswer::Done => self.call(identity),
            // What is not known to be ours is found again by the next pass.
            CloseAnswer::Taken | CloseAnswer::Failed => self.leave(identity, now),
        }
    }

    pub fn on_hook(&mut self, identity: Identity, answer: CloseAnswer, now: Tick) {
        let Some(report) = self.in_flight.get_mut(&identity) else { return };
        if answer == CloseAnswer::Failed {
            report.attempts += 1;
            let pause_ms = RETRY_MS << report.attempts.min(RETRY_DOUBLINGS_MAX);
            report.stage = CloseStage::Retrying(now + pause_ms);
        } else {
            report.stage = CloseStage::Removing;
            self.outputs.push_back(CloseOutput::Remove { identity });
        }
    }

    pub fn on_removed(&mut self, identity: Identity, now: Tick) {
        self.leave(identity, now);
    }

    pub fn poll_output(&mut self) -> Option<CloseOutput> {
        self.outputs.pop_front()
    }

    fn take_next(&mut self, now: Tick) {
        if self.is_done || self.is_reading {
            return;
        }
        while self.next_at <= now && self.in_flight.len() < IN_FLIGHT_MAX {
            let Some(record) = self.queue.pop_front() else { break };
            self.next_at = now + PACE_MS;
            let (identity, expected) = (record.identity, record.claimed_by);
            let report = Report { cookie: record.cookie, stage: CloseStage::Claiming, attempts: 0 };
            self.in_flight.insert(identity, report);
            self.outputs.push_back(CloseOutput::Claim { identity, expected });
        }
        if self.queue.is_empty()
            && self.pass_at <= now
            && let Some(from) = self.next_page
            && self.in_flight.len() < IN_FLIGHT_MAX
        {
            self.is_reading = true;
            self.has_found &= from != 0;
            self.outputs.push_back(CloseOutput::Read { dead: self.dead, from });
        }
    }

    fn call(&mut self, identity: Identity) {
        let Some(report) = self.in_flight.get_mut(&identity) else { return };
        report.stage = CloseStage::Calling;
        let cookie = report.cookie.clone();
        let mut idempotency_key = Closes::idempotency_key(&identity);
        if self.planted.is(ClusterBug::DrawsKeys) {
            idempotency_key = format!("{idempotency_key}-{}", self.own);
        }
        self.outputs.push_back(CloseOutput::Hook { identity, cookie, idempotency_key });
    }

    fn leave(&mut self, identity: Identity, now: Tick) {
        self.in_flight.remove(&identity);
        self.end_pass_if_over(now);
        self.take_next(now);
    }

    /// All pages were read and all that was taken of them is finished: again from the start, until nothing is found.
    fn end_pass_if_over(&mut self, now: Tick) {
        if self.is_done || self.is_reading || !self.queue.is_empty() || !self.in_flight.is_empty() {
            return;
        }
        if self.next_page.is_some() {
            return;
        }
        if self.has_found {
            (self.next_page, self.pass_at) = (Some(0), now + PASS_MS);
        } else {
            self.is_done = true;
            self.outputs.push_back(CloseOutput::Done { dead: self.dead });
        }
    }
}

/// 250 closes a second from each survivor: a business server that loses a node's clients must not drown in them.
const PACE_MS: u64 = 4;
pub const IN_FLIGHT_MAX: usize = 32;
const PASS_MS: u64 = 1_000;
const RETRY_MS: u64 = 250;
const RETRY_DOUBLINGS_MAX: u32 = 6;

#[cfg(test)]
mod tests;
