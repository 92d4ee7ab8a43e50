//! Whether each worker still turns: its timer task beats once a second at least, and anybody may look.

use crate::base::id::ShardId;
use crate::base::time::Tick;
use std::sync::atomic::{AtomicU64, Ordering};

/// Per worker, when its timer task last ran.
pub struct Heartbeats(Vec<AtomicU64>);

/// A worker whose heart has not beaten for so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silent {
    pub worker: ShardId,
    pub ms: u64,
}

impl Heartbeats {
    pub fn new(workers: usize, now: Tick) -> Heartbeats {
        Heartbeats((0..workers).map(|_| AtomicU64::new(now.0)).collect())
    }

    pub fn beat(&self, worker: ShardId, now: Tick) {
        self.0[usize::from(worker.0)].store(now.0, Ordering::Relaxed);
    }

    /// Since the worker's timer task last ran; up to a second while all is well.
    pub fn silent_ms(&self, worker: ShardId, now: Tick) -> u64 {
        now.since_ms(self.last(worker))
    }

    pub fn is_stuck(&self, worker: ShardId, now: Tick) -> bool {
        now.since_ms(self.last(worker)) > STUCK_MS
    }

    pub fn any_is_stuck(&self, now: Tick) -> bool {
        self.workers().any(|worker| self.is_stuck(worker, now))
    }

    /// The worker that has been stuck for the longest, when that is so long that only a restart helps. Compared with
    /// the others' beats, not with the clock: where the whole process stood still (SIGSTOP, a paused machine), no
    /// worker is stuck.
    pub fn dead(&self) -> Option<Silent> {
        let newest = self.workers().map(|worker| self.last(worker)).max()?;
        let silent = self.workers().map(|worker| Silent { worker, ms: newest.since_ms(self.last(worker)) });
        silent.max_by_key(|silent| silent.ms).filter(|silent| silent.ms > DEAD_MS)
    }

    fn workers(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.0.len() as u16).map(ShardId)
    }

    fn last(&self, worker: ShardId) -> Tick {
        Tick(self.0[usize::from(worker.0)].load(Ordering::Relaxed))
    }
}

/// Newcomers are better sent elsewhere.
const STUCK_MS: u64 = 5_000;
/// A turn is a few milliseconds of work, in slices: so long a one does not end. Whoever restarts the process by it
/// (Kubernetes asks three times, ten seconds apart) ends all connections, so it comes well behind `STUCK_MS`.
const DEAD_MS: u64 = 15_000;
const _: () = assert!(DEAD_MS >= 3 * STUCK_MS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_others_have_left_behind_is_stuck_and_then_dead() {
        let beats = Heartbeats::new(3, Tick(1_000));
        let others_beat = |now| [0, 2].into_iter().for_each(|worker| beats.beat(ShardId(worker), now));
        let stuck = Tick(1_000 + STUCK_MS + 1);
        others_beat(stuck);
        assert!(beats.is_stuck(ShardId(1), stuck) && beats.any_is_stuck(stuck) && !beats.is_stuck(ShardId(0), stuck));
        assert_eq!(beats.dead(), None);
        others_beat(Tick(1_000 + DEAD_MS + 1));
        assert_eq!(beats.dead(), Some(Silent { worker: ShardId(1), ms: DEAD_MS + 1 }));
        beats.beat(ShardId(1), Tick(17_000));
        assert_eq!(beats.dead(), None);
    }

    #[test]
    fn where_the_whole_process_stood_still_nobody_is_dead() {
        let beats = Heartbeats::new(2, Tick(0));
        beats.beat(ShardId(0), Tick(900));
        let hours_later = Tick(10_000_000);
        assert!(beats.any_is_stuck(hours_later));
        assert_eq!(beats.dead(), None);
    }
}
