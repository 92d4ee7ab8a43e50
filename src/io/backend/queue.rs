//! The jobs of one hook that wait: in line for a connection, or apart until their next attempt is due.
//!
//! Holds keys and times, not jobs: those lie in the pool's table. A job is in a line at most once. No clock, no socket.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::base::time::Tick;

/// One hook's line.
#[derive(Debug)]
pub struct RequestQueue {
    ready: VecDeque<usize>,
    /// No job in `ready` has a deadline before this.
    ready_earliest: Tick,
    /// Soonest first; equals in the order in which they were submitted.
    delayed: BinaryHeap<Reverse<Delayed>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Delayed {
    due: Tick,
    number: u64,
    key: usize,
}

impl Default for RequestQueue {
    fn default() -> RequestQueue {
        RequestQueue { ready: VecDeque::new(), ready_earliest: Tick::NEVER, delayed: BinaryHeap::new() }
    }
}

impl RequestQueue {
    /// At the end of the queue. `deadline` is the job's last.
    pub fn push(&mut self, key: usize, deadline: Tick) {
        self.note(deadline);
        self.ready.push_back(key);
    }

    /// Back to the head of the queue, for one that was called up in vain.
    pub fn push_front(&mut self, key: usize, deadline: Tick) {
        self.note(deadline);
        self.ready.push_front(key);
    }

    fn note(&mut self, deadline: Tick) {
        let is_first = self.ready.is_empty();
        self.ready_earliest = if is_first { deadline } else { self.ready_earliest.min(deadline) };
    }

    /// Apart until `due`. `number` is the job's place in the order of all.
    pub fn delay(&mut self, key: usize, number: u64, due: Tick) {
        self.delayed.push(Reverse(Delayed { due, number, key }));
    }

    pub fn front(&self) -> Option<usize> {
        self.ready.front().copied()
    }

    pub fn pop_front(&mut self) -> Option<usize> {
        self.ready.pop_front()
    }

    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub fn len(&self) -> usize {
        self.ready.len() + self.delayed.len()
    }

    /// One that is due, taken out of those set apart.
    pub fn pop_due(&mut self, now: Tick) -> Option<usize> {
        let Reverse(soonest) = self.delayed.peek()?;
        if soonest.due > now {
            return None;
        }
        self.delayed.pop().map(|Reverse(delayed)| delayed.key)
    }

    /// Everybody set apart goes to the end of the queue, the oldest first: their backend is back.
    pub fn release(&mut self, deadline_of: impl Fn(usize) -> Tick) {
        let mut released: Vec<Delayed> = self.delayed.drain().map(|Reverse(delayed)| delayed).collect();
        released.sort_unstable_by_key(|delayed| delayed.number);
        for delayed in released {
            self.push(delayed.key, deadline_of(delayed.key));
        }
    }

    /// Takes those out of the queue whose deadline has passed. Looks at the whole queue, and therefore at most once per
    /// `SCAN_INTERVAL_MS`: that is how late a deadline in the queue may be noticed.
    pub fn expire(&mut self, now: Tick, deadline_of: impl Fn(usize) -> Tick, mut expired: impl FnMut(usize)) {
        if now < self.ready_earliest {
            return;
        }
        let mut earliest = Tick::NEVER;
        self.ready.retain(|&key| {
            let deadline = deadline_of(key);
            if deadline <= now {
                expired(key);
                return false;
            }
            earliest = earliest.min(deadline);
            true
        });
        self.ready_earliest = if earliest == Tick::NEVER { earliest } else { earliest.max(now + SCAN_INTERVAL_MS) };
    }

    /// Takes those out of the queue that `is_out` names.
    pub fn remove(&mut self, mut is_out: impl FnMut(usize) -> bool) {
        self.ready.retain(|&key| !is_out(key));
    }

    /// Everybody leaves.
    pub fn drain(&mut self) -> impl Iterator<Item = usize> {
        self.ready_earliest = Tick::NEVER;
        self.ready.drain(..).chain(self.delayed.drain().map(|Reverse(delayed)| delayed.key))
    }

    /// When something happens here by itself.
    pub fn next_deadline(&self) -> Tick {
        let due = self.delayed.peek().map_or(Tick::NEVER, |Reverse(delayed)| delayed.due);
        if self.ready.is_empty() { due } else { due.min(self.ready_earliest) }
    }
}

const SCAN_INTERVAL_MS: u64 = 50;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn ready(queue: &mut RequestQueue) -> Vec<usize> {
        std::iter::from_fn(|| queue.pop_front()).collect()
    }

    #[test]
    fn the_released_go_to_the_end_the_oldest_first() {
        let mut queue = RequestQueue::default();
        queue.push(9, Tick(100));
        queue.delay(1, 30, Tick(5));
        queue.delay(2, 10, Tick(50));
        queue.delay(3, 20, Tick(1));
        queue.release(|_| Tick(100));
        assert_eq!(ready(&mut queue), [9, 2, 3, 1]);
    }

    #[test]
    fn those_due_come_soonest_first() {
        let mut queue = RequestQueue::default();
        queue.delay(1, 1, Tick(50));
        queue.delay(2, 2, Tick(10));
        assert_eq!((queue.next_deadline(), queue.pop_due(Tick(9))), (Tick(10), None));
        assert_eq!(
            [queue.pop_due(Tick(10)), queue.pop_due(Tick(10)), queue.pop_due(Tick(50))],
            [Some(2), None, Some(1)]
        );
        assert_eq!(queue.next_deadline(), Tick::NEVER);
    }

    proptest! {
        /// Nobody is lost or doubled, nobody leaves before the deadline, and all leave soon after it.
        #[test]
        fn every_key_leaves_once(steps in prop::collection::vec((0u8..6, 0u64..300), 1..200)) {
            let (mut queue, mut now, mut model) = (RequestQueue::default(), Tick(0), BTreeMap::new());
            for (key, (step, ms)) in steps.into_iter().enumerate() {
                let deadline = now + ms + 1;
                match step {
                    0 | 1 => { queue.push(key, deadline); model.insert(key, deadline); }
                    2 => { queue.delay(key, key as u64, deadline); model.insert(key, deadline); }
                    3 => if let Some(key) = queue.pop_front() {
                        prop_assert!(model.remove(&key).is_some());
                    },
                    4 => queue.release(|key| model[&key]),
                    _ => {
                        now = now + ms;
                        while let Some(key) = queue.pop_due(now) {
                            queue.push(key, model[&key]);
                        }
                        let mut expired = Vec::new();
                        queue.expire(now, |key| model[&key], |key| expired.push(key));
                        for key in expired {
                            prop_assert!(model.remove(&key).is_some_and(|deadline| deadline <= now));
                        }
                        let soon = now + SCAN_INTERVAL_MS;
                        prop_assert!(model.values().all(|deadline| queue.next_deadline() <= soon.max(*deadline)));
                    }
                }
                prop_assert_eq!(queue.len(), model.len());
            }
            let mut left: Vec<_> = queue.drain().collect();
            left.sort_unstable();
            prop_assert_eq!(left, model.into_keys().collect::<Vec<_>>());
        }
    }
}
