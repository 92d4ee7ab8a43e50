//! The breaker: after so many failures in a row a backend gets no requests for a while, then one, the probe.
//!
//! ```text
//!            failures in a row               cooldown over, one request admitted
//!   closed ────────────────────▶ open ────────────────────────────────────────▶ probing
//!     ▲                           ▲  │ any answer                                 │  │
//!     └───────────────────────────┼──┴──────────────◀── the probe is answered ────┘  │
//!                                 └─────── longer cooldown ◀── the probe fails ──────┘
//! ```
//!
//! Every request carries the `Permit` it was admitted with, so that a failure from before the last change of state,
//! which may arrive long after it, is not counted twice. No clock: time and chance are passed in.

use super::backoff::Backoff;
use crate::base::rng::Rng;
use crate::base::time::Tick;

/// When to open and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerLimits {
    /// Failures in a row that open it; at least 1.
    pub failures: u32,
    /// The first cooldown, and the longest one.
    pub cooldown: Backoff,
}

/// One backend's breaker.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    state: State,
    /// In a row, while closed.
    failures: u32,
    /// In a row, without one answer between them; the cooldown grows with it.
    openings: u32,
    /// Counts the changes of state.
    epoch: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    /// The first of the two times is when any request may be the probe, the second when a suspect may.
    Open {
        until: Tick,
        suspects_from: Tick,
    },
    Probing,
}

/// Permission for one request; to be given back exactly once, to `answered`, `failed` or `unused`.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Permit {
    epoch: u32,
}

/// What a result did to the breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    None,
    /// It was closed.
    Opened,
    /// The probe has failed.
    StaysOpen,
    /// Requests that wait for this backend may go at once.
    Closed,
}

impl Breaker {
    /// True when `admit` would give a permit. A suspect, a request that may have opened the breaker itself, waits for
    /// the cooldown twice: whoever comes meanwhile is the better probe.
    pub fn admits(&self, now: Tick, is_suspect: bool) -> bool {
        match self.state {
            State::Closed => true,
            State::Open { until, suspects_from } => now >= if is_suspect { suspects_from } else { until },
            State::Probing => false,
        }
    }

    /// A permit for one request. The first after the cooldown is the probe; until it has ended, no other is admitted.
    pub fn admit(&mut self, now: Tick, is_suspect: bool) -> Option<Permit> {
        if !self.admits(now, is_suspect) {
            return None;
        }
        if self.state != State::Closed {
            self.enter(State::Probing);
        }
        Some(Permit { epoch: self.epoch })
    }

    /// When it will admit a probe; `None` while it is closed, and while a probe is under way.
    pub fn probe_at(&self, is_suspect: bool) -> Option<Tick> {
        match self.state {
            State::Open { until, suspects_from } => Some(if is_suspect { suspects_from } else { until }),
            State::Closed | State::Probing => None,
        }
    }

    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// The backend answered. However old the request is, the backend is alive.
    pub fn answered(&mut self, _permit: Permit) -> Change {
        self.failures = 0;
        self.openings = 0;
        if self.state == State::Closed {
            return Change::None;
        }
        self.enter(State::Closed);
        Change::Closed
    }

    /// The backend failed. Only a request of the current state counts: forty requests that were under way when it died
    /// are one death, not eight.
    pub fn failed(&mut self, permit: Permit, now: Tick, limits: &BreakerLimits, rng: &mut Rng) -> Change {
        if permit.epoch != self.epoch {
            return Change::None;
        }
        self.failures += 1;
        if self.state == State::Closed && self.failures < limits.failures {
            return Change::None;
        }
        self.openings = self.openings.saturating_add(1);
        let cooldown_ms = limits.cooldown.pause_ms(self.openings, rng).max(1);
        let until = now + cooldown_ms;
        let was_closed = self.state == State::Closed;
        self.enter(State::Open { until, suspects_from: until + cooldown_ms });
        if was_closed { Change::Opened } else { Change::StaysOpen }
    }

    /// The request was never made, or ended without a fact about the backend. If it was the probe, the next one may be
    /// it.
    pub fn unused(&mut self, permit: Permit, now: Tick) {
        if permit.epoch == self.epoch && self.state == State::Probing {
            self.enter(State::Open { until: now, suspects_from: now });
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.failures = 0;
        self.epoch = self.epoch.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::rng::Rng;

    const LIMITS: BreakerLimits = BreakerLimits { failures: 3, cooldown: Backoff { min_ms: 1000, max_ms: 4000 } };

    fn fail(breaker: &mut Breaker, now: Tick) -> Change {
        let permit = breaker.admit(now, false).expect("admitted");
        breaker.failed(permit, now, &LIMITS, &mut Rng::new(now.0))
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::default();
        assert_eq!([1, 2, 3].map(|t| fail(&mut breaker, Tick(t))), [Change::None, Change::None, Change::Opened]);
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_an_answer_between_them_does_not() {
        let mut breaker = Breaker::default();
        for t in 0..20 {
            assert_eq!(fail(&mut breaker, Tick(t)), Change::None);
            assert_eq!(fail(&mut breaker, Tick(t)), Change::None);
            let permit = breaker.admit(Tick(t), false).unwrap();
            assert_eq!(breaker.answered(permit), Change::None);
        }
        assert!(!opened().is_closed());
    }

    #[test]
    fn while_open_nobody_goes_and_then_one_probe_at_a_time() {
        let mut breaker = opened();
        let until = breaker.probe_at(false).unwrap();
        assert!((500..=1003).contains(&until.0), "{until:?}");
        assert_eq!(breaker.admit(until - 1, false), None);
        let probe = breaker.admit(until, false).expect("the probe");
        assert_eq!(breaker.admit(until + 60_000, false), None, "one at a time, however long it takes");
        assert_eq!(breaker.answered(probe), Change::Closed);
        assert!(breaker.admits(until, false));
    }

    #[test]
    fn a_suspect_probes_only_when_nobody_better_came_for_as_long_again() {
        let breaker = opened();
        let (until, suspects_from) = (breaker.probe_at(false).unwrap(), breaker.probe_at(true).unwrap());
        assert!(suspects_from.since_ms(until) >= 500 && !breaker.admits(suspects_from - 1, true));
        let mut other = breaker.clone();
        assert!(other.admit(until, false).is_some() && !other.admits(suspects_from, true), "one probe at a time");
        let mut alone = breaker;
        assert!(alone.admit(suspects_from, true).is_some(), "there is a way back without anybody else");
        assert!(Breaker::default().admits(Tick(0), true), "while it is closed, suspects are like others");
    }

    #[test]
    fn a_failed_probe_opens_it_for_longer() {
        let mut breaker = opened();
        let mut cooldowns = Vec::new();
        for _ in 0..6 {
            let now = breaker.probe_at(false).unwrap();
            assert_eq!(fail(&mut breaker, now), Change::StaysOpen);
            cooldowns.push(breaker.probe_at(false).unwrap().since_ms(now));
        }
        assert!((1000..=2000).contains(&cooldowns[0]), "{cooldowns:?}");
        assert!(cooldowns[1..].iter().all(|cooldown| (2000..=4000).contains(cooldown)), "{cooldowns:?}");
        let permit = breaker.admit(breaker.probe_at(false).unwrap(), false).unwrap();
        assert_eq!(breaker.answered(permit), Change::Closed);
        for t in 0..3 {
            fail(&mut breaker, Tick(t));
        }
        assert!(breaker.probe_at(false).unwrap() <= Tick(1002), "after an answer the cooldown starts small again");
    }

    #[test]
    fn a_failure_from_before_the_opening_does_not_count_again() {
        let mut breaker = Breaker::default();
        let early = breaker.admit(Tick(0), false).unwrap();
        for t in 0..3 {
            fail(&mut breaker, Tick(t));
        }
        let until = breaker.probe_at(false).unwrap();
        assert_eq!(breaker.failed(early, Tick(400), &LIMITS, &mut Rng::new(1)), Change::None);
        assert_eq!(breaker.probe_at(false), Some(until));
    }

    #[test]
    fn a_late_answer_closes_it() {
        let mut breaker = Breaker::default();
        let slow = breaker.admit(Tick(0), false).unwrap();
        for t in 0..3 {
            fail(&mut breaker, Tick(t));
        }
        assert_eq!(breaker.answered(slow), Change::Closed);
        assert!(breaker.admits(Tick(4), false));
    }

    #[test]
    fn an_unused_probe_leaves_room_for_the_next() {
        let mut breaker = opened();
        let until = breaker.probe_at(false).unwrap();
        let probe = breaker.admit(until, false).unwrap();
        breaker.unused(probe, until);
        assert!(breaker.admits(until, false));
    }

    proptest! {
        /// Whatever comes back, and in whatever order: never two probes at once, and never shut for ever.
        #[test]
        fn there_is_always_a_way_back(seed: u64, steps in prop::collection::vec((0u64..3000, 0u8..4), 1..200)) {
            let (mut breaker, mut rng, mut now) = (Breaker::default(), Rng::new(seed), Tick(0));
            let mut under_way = Vec::new();
            for (wait, action) in steps {
                now = now + wait;
                let was_closed = breaker.is_closed();
                match action {
                    0 => if let Some(permit) = breaker.admit(now, false) {
                        prop_assert!(was_closed || !breaker.admits(Tick::NEVER, false), "a second probe");
                        under_way.push(permit);
                    },
                    _ if under_way.is_empty() => {}
                    step => {
                        let permit = under_way.swap_remove(rng.below(under_way.len() as u64) as usize);
                        let change = match step {
                            1 => breaker.answered(permit),
                            2 => breaker.failed(permit, now, &LIMITS, &mut rng),
                            _ => { breaker.unused(permit, now); Change::None }
                        };
                        match change {
                            Change::Closed => prop_assert!(!was_closed && breaker.is_closed()),
                            Change::Opened | Change::StaysOpen => {
                                prop_assert_eq!(change == Change::Opened, was_closed);
                                prop_assert!(breaker.probe_at(false).is_some_and(|at| at > now && at <= now + 4000));
                            }
                            Change::None => {}
                        }
                    }
                }
                // Closed, open until a time, or a probe is out: with nothing under way it must admit by and by.
                prop_assert!(breaker.admits(Tick::NEVER, false) || !under_way.is_empty());
            }
        }
    }
}
