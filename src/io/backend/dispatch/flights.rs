//! Flights: jobs that were accepted and not yet given back, and what answers, failures and time mean to them.

use std::rc::Rc;

use super::{Dispatcher, GivenUp, HookState};
use crate::base::time::Tick;
use crate::io::backend::options::HookKind;
use crate::io::backend::request::Target;
use crate::io::backend::{GiveUp, Job, Retry};
use crate::metrics::backend::BackendMetrics;
use crate::metrics::counter::Counter;
use crate::policy::backend::breaker::Change;
use crate::policy::backend::{Failure, Permit};

/// A job that was accepted.
pub(super) struct Flight {
    pub(super) job: Job,
    pub(super) number: u64,
    pub(super) bytes: usize,
    /// When it is given up, whatever happens.
    pub(super) deadline: Tick,
    /// Failed so far.
    pub(super) attempts: u32,
    /// Times it met a connection that the backend was just closing.
    pub(super) stale_tries: u32,
    pub(super) attempt: Option<Attempt>,
}

pub(super) struct Attempt {
    pub(super) upstream: usize,
    pub(super) target: Rc<Target>,
    pub(super) permit: Permit,
    pub(super) started_us: u64,
    /// What this attempt's time would be if the job's deadline did not cut it short.
    pub(super) full_deadline: Tick,
}

impl Dispatcher {
    // Flights: what a failure means to them.

    pub(super) fn attempt_timed_out(&mut self, key: usize, now: Tick) {
        let attempt = self.flights[key].attempt.as_ref().expect("it was on a lane");
        if now >= attempt.full_deadline {
            return self.attempt_failed(key, Failure::Timeout, now);
        }
        // Cut short by the job's own deadline: that says nothing about the backend.
        let attempt = self.end_attempt_with_permit(key);
        self.upstreams[attempt.upstream].breaker.unused(attempt.permit, now);
        self.give_up(key, GiveUp::Deadline);
    }

    pub(super) fn attempt_failed(&mut self, key: usize, failure: Failure, now: Tick) {
        failures_counter(&self.stats, failure).increment();
        let attempt = self.end_attempt_with_permit(key);
        let breaker = &mut self.upstreams[attempt.upstream].breaker;
        let change = breaker.failed(attempt.permit, now, &self.options.breaker, &mut self.rng);
        match self.flights[key].job.retry {
            Retry::Never => self.give_up(key, GiveUp::Failed(failure)),
            Retry::Until(deadline) if now >= deadline || self.is_shut => self.give_up(key, GiveUp::Deadline),
            Retry::Until(_) => self.delay(key, now),
        }
        self.apply(change);
    }

    /// Apart with it until its next attempt, or until its deadline if that is sooner.
    pub(super) fn delay(&mut self, key: usize, now: Tick) {
        let flight = &mut self.flights[key];
        flight.attempts += 1;
        let due = (now + self.options.retry.delay_ms(flight.attempts, &mut self.rng)).min(flight.deadline);
        let (hook, number) = (HookKind::from(flight.job.hook), flight.number);
        self.line(hook).delay(key, number, due);
        self.arm(due);
    }

    pub(super) fn expire_line(&mut self, hook: HookKind, now: Tick) {
        while let Some(key) = self.line(hook).pop_due(now) {
            let deadline = self.flights[key].deadline;
            if deadline <= now {
                self.give_up(key, GiveUp::Deadline);
            } else {
                self.line(hook).push(key, deadline);
            }
        }
        let mut expired = Vec::new();
        let Dispatcher { hooks, flights, .. } = self;
        hooks[hook as usize].line.expire(now, |key| flights[key].deadline, |key| expired.push(key));
        expired.into_iter().for_each(|key| self.give_up(key, GiveUp::Deadline));
        let next = self.line(hook).next_deadline();
        self.arm(next);
    }

    /// What a breaker's change means to those in line.
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::None => return,
            Change::Opened => {
                self.stats.breaker_opened.add(1);
                for hook in HookKind::ALL {
                    self.give_up_impatient(hook);
                }
            }
            Change::Closed => {
                for HookState { line, targets, .. } in &mut self.hooks {
                    if targets.iter().any(|target| self.upstreams[target.upstream].breaker.is_closed()) {
                        line.release(|key| self.flights[key].deadline);
                    }
                }
            }
        }
        let open =
            self.upstreams.iter().filter(|upstream| !upstream.breaker.is_closed() && !upstream.is_retired).count();
        self.stats.open_breakers.set(open as u64);
    }

    /// All of a hook's backends are down: those who cannot wait are told now rather than at their deadline.
    pub(super) fn give_up_impatient(&mut self, hook: HookKind) {
        let HookState { targets, line, .. } = &mut self.hooks[hook as usize];
        if targets.iter().any(|target| self.upstreams[target.upstream].breaker.is_closed()) {
            return;
        }
        let mut impatient = Vec::new();
        line.remove(|key| {
            let is_impatient = self.flights[key].job.retry == Retry::Never;
            if is_impatient {
                impatient.push(key);
            }
            is_impatient
        });
        impatient.into_iter().for_each(|key| self.give_up(key, GiveUp::Down));
    }

    /// Why a job would not even be put in line.
    pub(super) fn refusal(&self, hook: HookKind, retry: Retry, now: Tick) -> Option<GiveUp> {
        let targets = &self.hooks[hook as usize].targets;
        if self.is_shut {
            return Some(GiveUp::Closed);
        }
        if targets.is_empty() {
            return Some(GiveUp::NoUrl);
        }
        let is_down = || targets.iter().all(|target| !self.upstreams[target.upstream].breaker.admits(now));
        match retry {
            Retry::Until(deadline) if deadline <= now => Some(GiveUp::Deadline),
            Retry::Never if is_down() => Some(GiveUp::Down),
            Retry::Never | Retry::Until(_) => None,
        }
    }

    pub(super) fn end_attempt_with_permit(&mut self, key: usize) -> Attempt {
        let attempt = self.flights[key].attempt.take().expect("it was on a lane");
        self.upstreams[attempt.upstream].outstanding -= 1;
        attempt
    }

    pub(super) fn end_attempt(&mut self, key: usize) {
        let attempt = self.end_attempt_with_permit(key);
        self.upstreams[attempt.upstream].breaker.unused(attempt.permit, Tick(0));
    }

    pub(super) fn take_flight(&mut self, key: usize) -> Flight {
        let flight = self.flights.remove(key);
        debug_assert!(flight.attempt.is_none(), "its lane would answer somebody else");
        self.job_bytes -= flight.bytes;
        flight
    }

    pub(super) fn give_up(&mut self, key: usize, reason: GiveUp) {
        let flight = self.take_flight(key);
        self.lay_aside(flight.job, flight.number, reason);
    }

    pub(super) fn lay_aside(&mut self, job: Job, number: u64, reason: GiveUp) {
        self.stats.gave_up.add(1);
        self.given_up.push_back(GivenUp { ticket: job.ticket, reason, body: job.body, number });
        self.ring(Tick(0));
    }
}

/// Where a failed attempt is counted.
fn failures_counter(metrics: &BackendMetrics, failure: Failure) -> &Counter {
    match failure {
        Failure::NoAddress => &metrics.failures_no_address,
        Failure::Refused => &metrics.failures_refused,
        Failure::Reset => &metrics.failures_reset,
        Failure::Timeout => &metrics.failures_timeout,
        Failure::Rubbish => &metrics.failures_rubbish,
        Failure::TooLarge => &metrics.failures_too_large,
    }
}
