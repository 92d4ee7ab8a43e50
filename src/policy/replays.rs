//! Signatures that were used: the same one is not taken twice while it would still be in its window.
//!
//! Two generations, so that forgetting costs nothing: what is older than a whole generation is outside the window.
//! Bounded: when a generation is full, the older one is forgotten early and that is counted.

use std::collections::HashSet;
use std::hash::BuildHasher;

/// `S` is keyed: ids are chosen by callers.
pub struct Replays<S> {
    hasher: S,
    young: HashSet<u64>,
    old: HashSet<u64>,
    /// When `young` began, in seconds.
    began_s: u64,
    entries_max: usize,
    forgotten_early: u64,
}

impl<S: BuildHasher> Replays<S> {
    /// At most twice `entries_max` are remembered.
    pub fn new(entries_max: usize, hasher: S) -> Replays<S> {
        let (young, old) = Default::default();
        Replays { hasher, young, old, began_s: 0, entries_max, forgotten_early: 0 }
    }

    /// This id was used with this timestamp, as far as is remembered.
    pub fn was_used(&self, id: &str, timestamp: &str) -> bool {
        let used = self.hasher.hash_one((id, timestamp));
        self.old.contains(&used) || self.young.contains(&used)
    }

    /// True when this id was not used with this timestamp before. `window_s`: how far a timestamp may be from now,
    /// either way.
    pub fn is_first(&mut self, id: &str, timestamp: &str, now_s: u64, window_s: u64) -> bool {
        let is_full = self.young.len() >= self.entries_max;
        // From the earliest to the latest moment at which one timestamp is taken.
        if is_full || now_s.abs_diff(self.began_s) > 2 * window_s {
            self.forgotten_early += u64::from(is_full);
            self.old = std::mem::take(&mut self.young);
            self.began_s = now_s;
        }
        let used = self.hasher.hash_one((id, timestamp));
        !self.old.contains(&used) && self.young.insert(used)
    }

    /// Generations that were forgotten before their time, since the last time.
    pub fn take_forgotten_early(&mut self) -> u64 {
        std::mem::take(&mut self.forgotten_early)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::{BuildHasherDefault, DefaultHasher};

    fn replays() -> Replays<BuildHasherDefault<DefaultHasher>> {
        Replays::new(100, BuildHasherDefault::default())
    }

    #[test]
    fn a_signature_is_taken_once_in_its_window() {
        let mut replays = replays();
        assert!(!replays.was_used("a", "1000"), "to look is not to use");
        assert!(replays.is_first("a", "1000", 990, 10));
        assert!(replays.was_used("a", "1000") && !replays.was_used("a", "1001") && !replays.was_used("b", "1000"));
        for now_s in 990..=1010 {
            assert!(!replays.is_first("a", "1000", now_s, 10), "at {now_s}");
        }
        assert!(replays.is_first("a", "1001", 1001, 10), "a retry has a timestamp of its own");
        assert!(replays.is_first("b", "1000", 1001, 10));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut replays = replays();
        assert!((0..1000).all(|n| replays.is_first(&n.to_string(), "5", 5, 10)));
        assert!(replays.young.len() + replays.old.len() <= 200);
        assert_eq!(replays.take_forgotten_early(), 9);
        assert!(!replays.is_first("999", "5", 5, 10), "the newest are known");
    }
}
