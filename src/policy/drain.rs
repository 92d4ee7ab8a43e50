//! The pace of a drain: how many clients a worker closes when, and when each of them is to come back.
//!
//! Whom nothing keeps is closed within the first part of the time, whatever the operator's rate is, and the others
//! within the rest. Clients come back at about the rate at which they were closed, and each at a moment of its own:
//! all of them lose the server together, and would meet the next one together.

use crate::base::rng::Rng;
use crate::base::time::Tick;

/// Of one worker.
pub struct DrainPace {
    /// Clients per second, of this worker, as the operator wants it.
    rate: u64,
    settle_by: Tick,
    over: Tick,
    last: Tick,
    /// What may be closed, in thousandths of clients.
    credit: u64,
    spread_ms: u64,
    rng: Rng,
}

/// What a drain begins with.
#[derive(Clone, Copy, Debug)]
pub struct DrainTerms {
    /// `drain_rate`: clients per second of the whole process.
    pub rate: u32,
    pub workers: usize,
    /// Clients of this worker.
    pub clients: usize,
    /// Until then clients that wait for an answer are left alone.
    pub settle_by: Tick,
    pub over: Tick,
    pub seed: u64,
}

impl DrainPace {
    pub fn new(terms: DrainTerms, now: Tick) -> DrainPace {
        let rate = u64::from(terms.rate).div_ceil(terms.workers.max(1) as u64).max(1);
        let back_ms = terms.clients as u64 * 1_000 / rate;
        DrainPace {
            rate,
            settle_by: terms.settle_by,
            over: terms.over,
            last: now,
            credit: 0,
            spread_ms: back_ms.clamp(SPREAD_MS_MIN, SPREAD_MS_MAX),
            rng: Rng::new(terms.seed),
        }
    }

    /// How many may be closed now; `open` are there. `closed` follows.
    pub fn due(&mut self, open: usize, now: Tick) -> usize {
        let deadline = if now < self.settle_by { self.settle_by } else { self.over };
        let needed = (open as u64 * 1_000).div_ceil(deadline.since_ms(now).max(1));
        let rate = self.rate.max(needed);
        let elapsed_ms = now.since_ms(self.last).min(BURST_MS);
        self.last = now;
        // One client at least, however low the rate is.
        let most = (rate * BURST_MS).max(1_000);
        self.credit = (self.credit + rate * elapsed_ms).min(most);
        (self.credit / 1_000) as usize
    }

    pub fn closed(&mut self, count: usize) {
        self.credit = self.credit.saturating_sub(count as u64 * 1_000);
    }

    /// The reason of a close with 1001: clients of ours wait so many seconds before they come back.
    pub fn reason(&mut self) -> String {
        let ms = RETRY_AFTER_MS_MIN + self.rng.below(self.spread_ms + 1);
        format!("going away; retry_after={}.{:03}", ms / 1_000, ms % 1_000)
    }
}

/// After a pause the pace does not make up for more than this.
const BURST_MS: u64 = 100;
/// For the node that ends to hand its sessions over, or for its next life to listen.
const RETRY_AFTER_MS_MIN: u64 = 500;
const SPREAD_MS_MIN: u64 = 2_000;
/// Beyond it people notice.
const SPREAD_MS_MAX: u64 = 30_000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const STEP_MS: u64 = 20;

    fn pace(rate: u32, clients: usize, settle_ms: u64) -> DrainPace {
        let (settle_by, over) = (Tick(settle_ms), Tick(settle_ms * 2));
        DrainPace::new(DrainTerms { rate, workers: 2, clients, settle_by, over, seed: 7 }, Tick(0))
    }

    /// How many were closed by when, if all are settled.
    fn run(pace: &mut DrainPace, clients: usize, until_ms: u64) -> Vec<(u64, usize)> {
        let (mut open, mut seen) = (clients, Vec::new());
        for ms in (0..=until_ms).step_by(STEP_MS as usize) {
            let due = pace.due(open, Tick(ms)).min(open);
            pace.closed(due);
            open -= due;
            seen.push((ms, clients - open));
        }
        seen
    }

    #[test]
    fn clients_are_closed_at_the_rate_of_their_worker() {
        let seen = run(&mut pace(1_000, 2_000, 60_000), 2_000, 5_000);
        for (ms, closed) in seen {
            assert_eq!(closed as u64, (ms / 2).min(2_000), "500 a second, {ms} ms");
        }
    }

    #[test]
    fn a_rate_that_is_too_low_for_the_time_is_raised() {
        let seen = run(&mut pace(10, 10_000, 5_000), 10_000, 5_000);
        let closed_at = |ms: u64| seen.iter().find(|(at, _)| *at == ms).expect("a step").1;
        assert_eq!(closed_at(5_000), 10_000);
        assert!((4_500..5_500).contains(&closed_at(2_500)), "evenly: {}", closed_at(2_500));
    }

    #[test]
    fn the_lowest_rate_still_closes_somebody() {
        let seen = run(&mut pace(1, 3, 60_000), 3, 6_000);
        assert_eq!(seen.last(), Some(&(6_000, 3)));
        assert!(seen.iter().all(|(ms, closed)| *closed as u64 <= ms / 1_000), "one a second");
    }

    #[test]
    fn those_who_were_not_settled_do_not_leave_all_at_once() {
        let mut pace = pace(1_000, 5_000, 10_000);
        for ms in (0..10_000).step_by(STEP_MS as usize) {
            pace.due(5_000, Tick(ms));
        }
        let due = pace.due(5_000, Tick(10_000));
        assert!(due <= 50, "a tenth of a second's: {due}");
    }

    #[test]
    fn each_client_comes_back_at_a_moment_of_its_own() {
        let mut pace = pace(2_000, 500, 10_000);
        let after: Vec<u64> = (0..500)
            .map(|_| {
                let reason = pace.reason();
                assert!(reason.len() <= 123, "as much as a close frame has room for");
                let seconds = reason.strip_prefix("going away; retry_after=").expect(&reason);
                (seconds.parse::<f64>().expect(seconds) * 1_000.0).round() as u64
            })
            .collect();
        assert!(after.iter().all(|ms| (500..=2_500).contains(ms)), "{after:?}");
        let windows: BTreeSet<u64> = after.iter().map(|ms| ms / 100).collect();
        assert!(windows.len() >= 20, "{windows:?}");
        let fullest = windows.iter().map(|window| after.iter().filter(|ms| *ms / 100 == *window).count()).max();
        assert!(fullest.is_some_and(|count| count < 60), "{fullest:?} of 500 within the same 100 ms");
    }

    #[test]
    fn many_clients_are_spread_over_as_long_as_they_were_closed() {
        let mut pace = pace(2_000, 10_000, 60_000);
        let last = (0..10_000).map(|_| pace.reason()).max_by_key(String::len);
        assert!(last.is_some_and(|reason| reason.ends_with(|end: char| end.is_ascii_digit())));
        let seconds = |reason: String| reason.rsplit('=').next().and_then(|after| after.parse::<f64>().ok());
        let latest = (0..10_000).filter_map(|_| seconds(pace.reason())).fold(0.0, f64::max);
        assert!((9.0..=10.5).contains(&latest), "{latest}");
    }
}
