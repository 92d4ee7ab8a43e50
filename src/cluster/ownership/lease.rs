//! Whether a node has ended, by the store's word: the third witness, for what cannot be undone.
//!
//! Every node renews its lease in the store, which counts it down by its own clock. A node has ended when the store
//! says that its lease has, and the store could be reached from here for twice a lease without a gap: after an outage
//! of the store everybody's leases have ended, and nobody is dead.

use crate::base::id::Generation;
use crate::base::time::Tick;

#[derive(Default)]
pub struct LeaseWatch {
    reachable_since: Option<Tick>,
    /// `None` before the first time: who has no lease could die without anybody noticing.
    renewed: Option<Tick>,
    sent_at: Option<Tick>,
}

/// What the store says of a node's lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub node: Generation,
    /// By the store's clock; 0: it has ended, or there is none.
    pub remaining_ms: u64,
}

impl LeaseWatch {
    /// It is time to renew our lease and to read the others'.
    pub fn is_due(&self, now: Tick) -> bool {
        self.next_tick() <= now
    }

    pub fn next_tick(&self) -> Tick {
        self.renewed.map_or(Tick(0), |renewed| renewed + RENEW_MS)
    }

    /// The command was sent.
    pub fn sent(&mut self, now: Tick) {
        // A store that did not answer the last one was not reachable.
        if self.sent_at.is_some() {
            self.reachable_since = None;
        }
        // We stood still, and do not know what happened to the store meanwhile.
        if self.renewed.is_some_and(|renewed| now.since_ms(renewed) > 2 * RENEW_MS) {
            self.reachable_since = None;
        }
        self.sent_at = Some(now);
        self.renewed = Some(now);
    }

    /// The store has answered: which of these nodes are to be buried.
    pub fn on_answer<'a>(&mut self, leases: &'a [Lease], now: Tick) -> impl Iterator<Item = Generation> + 'a {
        // The answer is as old as the command: what was true then.
        let sent_at = self.sent_at.take().unwrap_or(now);
        let since = *self.reachable_since.get_or_insert(sent_at);
        let is_sure = sent_at.since_ms(since) >= 2 * LEASE_MS;
        leases.iter().filter(move |lease| is_sure && lease.remaining_ms == 0).map(|lease| lease.node)
    }

    /// The store did not answer, or was away meanwhile: it may be another one, with other leases.
    pub fn on_failure(&mut self) {
        self.sent_at = None;
        self.reachable_since = None;
    }
}

/// A lease that is not renewed ends after it.
pub const LEASE_MS: u64 = 6_000;
pub const RENEW_MS: u64 = 2_000;

const _: () = assert!(3 * RENEW_MS <= LEASE_MS, "two renewals may be lost");

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD: Lease = Lease { node: Generation(7), remaining_ms: 0 };
    const ALIVE: Lease = Lease { node: Generation(8), remaining_ms: 1 };

    fn ended(watch: &mut LeaseWatch, now: u64) -> Vec<Generation> {
        watch.sent(Tick(now));
        watch.on_answer(&[DEAD, ALIVE], Tick(now + 1)).collect()
    }

    #[test]
    fn a_node_has_ended_after_twice_a_lease_of_answers() {
        let mut watch = LeaseWatch::default();
        assert!(watch.is_due(Tick(0)), "at once");
        watch.sent(Tick(0));
        assert!(!watch.is_due(Tick(RENEW_MS - 1)) && watch.is_due(watch.next_tick()));
        watch.on_failure();
        for now in (RENEW_MS..RENEW_MS + 2 * LEASE_MS).step_by(RENEW_MS as usize) {
            assert_eq!(ended(&mut watch, now), [], "at {now}");
        }
        assert_eq!(ended(&mut watch, RENEW_MS + 2 * LEASE_MS), [Generation(7)]);
    }

    #[test]
    fn a_store_that_was_away_for_a_minute_makes_nobody_dead() {
        for breaks in [0, 1, 2] {
            let mut watch = LeaseWatch::default();
            (2..40).step_by(2).for_each(|s| drop(ended(&mut watch, s * 1_000)));
            match breaks {
                0 => watch.on_failure(),
                // No answer at all.
                1 => watch.sent(Tick(42_000)),
                // We stood still.
                _ => {}
            }
            let back = if breaks == 2 { 50_000 } else { 44_000 };
            for now in (back..back + 2 * LEASE_MS).step_by(RENEW_MS as usize) {
                assert_eq!(ended(&mut watch, now), [], "{breaks}, at {now}");
            }
            assert_eq!(ended(&mut watch, back + 2 * LEASE_MS), [Generation(7)]);
        }
    }
}
