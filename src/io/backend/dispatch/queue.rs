//! The requests of one hook that wait: for a connection, or until their next attempt is due.
//!
//! Owns their order and their times, not the requests: those lie in `Requests`. A request is in a queue at most once.
//! No clock and no socket. Called by the dispatcher, through the hook's `Route`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::ids::RequestIndex;
use crate::base::time::Tick;
use crate::io::backend::request_writer::RequestNumber;

/// One hook's queue.
#[derive(Debug)]
pub struct RequestQueue {
    /// Wait for a connection.
    ready: VecDeque<RequestIndex>,
    /// No request in `ready` has a deadline before this.
    ready_earliest: Tick,
    /// Wait for their next attempt. The soonest first; equals in the order in which they were submitted.
    delayed: BinaryHeap<Reverse<Delayed>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Delayed {
    due: Tick,
    number: RequestNumber,
    index: RequestIndex,
}

impl Default for RequestQueue {
    fn default() -> RequestQueue {
        RequestQueue { ready: VecDeque::new(), ready_earliest: Tick::NEVER, delayed: BinaryHeap::new() }
    }
}

impl RequestQueue {
    /// Adds a request that is ready to go, behind the others. `deadline` is when it is given up.
    pub fn push(&mut self, index: RequestIndex, deadline: Tick) {
        self.lower_earliest(deadline);
        self.ready.push_back(index);
    }

    /// Puts a request back before the others: its attempt never reached the backend.
    pub fn push_front(&mut self, index: RequestIndex, deadline: Tick) {
        self.lower_earliest(deadline);
        self.ready.push_front(index);
    }

    fn lower_earliest(&mut self, deadline: Tick) {
        let is_first = self.ready.is_empty();
        self.ready_earliest = if is_first { deadline } else { self.ready_earliest.min(deadline) };
    }

    /// Adds a request whose next attempt is due at `due`.
    pub fn delay(&mut self, index: RequestIndex, number: RequestNumber, due: Tick) {
        self.delayed.push(Reverse(Delayed { due, number, index }));
    }

    pub fn front(&self) -> Option<RequestIndex> {
        self.ready.front().copied()
    }

    pub fn pop_front(&mut self) -> Option<RequestIndex> {
        self.ready.pop_front()
    }

    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub fn len(&self) -> usize {
        self.ready.len() + self.delayed.len()
    }

    /// Takes out a delayed request that is due.
    pub fn pop_due(&mut self, now: Tick) -> Option<RequestIndex> {
        let Reverse(soonest) = self.delayed.peek()?;
        if soonest.due > now {
            return None;
        }
        self.delayed.pop().map(|Reverse(delayed)| delayed.index)
    }

    /// Makes all delayed requests ready, the oldest first, behind those that are: their backend is back.
    pub fn release(&mut self, deadline_of: impl Fn(RequestIndex) -> Tick) {
        let mut released: Vec<Delayed> = self.delayed.drain().map(|Reverse(delayed)| delayed).collect();
        released.sort_unstable_by_key(|delayed| delayed.number);
        for delayed in released {
            self.push(delayed.index, deadline_of(delayed.index));
        }
    }

    /// Takes out the ready requests whose deadline has passed. Looks at all of them, and therefore at most once per
    /// `SCAN_INTERVAL_MS`: a deadline may be noticed so much late.
    pub fn expire(
        &mut self,
        now: Tick,
        deadline_of: impl Fn(RequestIndex) -> Tick,
        mut expired: impl FnMut(RequestIndex),
    ) {
        if now < self.ready_earliest {
            return;
        }
        let mut earliest = Tick::NEVER;
        self.ready.retain(|&index| {
            let deadline = deadline_of(index);
            if deadline <= now {
                expired(index);
                return false;
            }
            earliest = earliest.min(deadline);
            true
        });
        self.ready_earliest = if earliest == Tick::NEVER { earliest } else { earliest.max(now + SCAN_INTERVAL_MS) };
    }

    /// Takes the ready requests that `is_out` names out of the queue.
    pub fn remove(&mut self, mut is_out: impl FnMut(RequestIndex) -> bool) {
        self.ready.retain(|&index| !is_out(index));
    }

    /// Empties the queue.
    pub fn drain(&mut self) -> impl Iterator<Item = RequestIndex> {
        self.ready_earliest = Tick::NEVER;
        self.ready.drain(..).chain(self.delayed.drain().map(|Reverse(delayed)| delayed.index))
    }

    /// When a request is next due here, for its attempt or for its end.
    pub fn next_deadline(&self) -> Tick {
        let due = self.delayed.peek().map_or(Tick::NEVER, |Reverse(delayed)| delayed.due);
        if self.ready.is_empty() { due } else { due.min(self.ready_earliest) }
    }
}

/// Between two scans of the ready requests for passed deadlines.
const SCAN_INTERVAL_MS: u64 = 50;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn ready(queue: &mut RequestQueue) -> Vec<usize> {
        std::iter::from_fn(|| queue.pop_front()).map(|index| index.0).collect()
    }

    #[test]
    fn the_released_go_to_the_end_the_oldest_first() {
        let mut queue = RequestQueue::default();
        queue.push(RequestIndex(9), Tick(100));
        queue.delay(RequestIndex(1), RequestNumber(30), Tick(5));
        queue.delay(RequestIndex(2), RequestNumber(10), Tick(50));
        queue.delay(RequestIndex(3), RequestNumber(20), Tick(1));
        queue.release(|_| Tick(100));
        assert_eq!(ready(&mut queue), [9, 2, 3, 1]);
    }

    #[test]
    fn those_due_come_soonest_first() {
        let mut queue = RequestQueue::default();
        queue.delay(RequestIndex(1), RequestNumber(1), Tick(50));
        queue.delay(RequestIndex(2), RequestNumber(2), Tick(10));
        assert_eq!((queue.next_deadline(), queue.pop_due(Tick(9))), (Tick(10), None));
        let due = [10, 10, 50].map(|ms| queue.pop_due(Tick(ms)).map(|index| index.0));
        assert_eq!(due, [Some(2), None, Some(1)]);
        assert_eq!(queue.next_deadline(), Tick::NEVER);
    }

    proptest! {
        /// Nobody is lost or doubled, nobody leaves before the deadline, and all leave soon after it.
        #[test]
        fn every_request_leaves_once(steps in prop::collection::vec((0u8..6, 0u64..300), 1..200)) {
            let (mut queue, mut now, mut model) = (RequestQueue::default(), Tick(0), BTreeMap::new());
            for (number, (step, ms)) in steps.into_iter().enumerate() {
                let (index, deadline) = (RequestIndex(number), now + ms + 1);
                match step {
                    0 | 1 => { queue.push(index, deadline); model.insert(index, deadline); }
                    2 => { queue.delay(index, RequestNumber(number as u64), deadline); model.insert(index, deadline); }
                    3 => if let Some(index) = queue.pop_front() {
                        prop_assert!(model.remove(&index).is_some());
                    },
                    4 => queue.release(|index| model[&index]),
                    _ => {
                        now = now + ms;
                        while let Some(index) = queue.pop_due(now) {
                            queue.push(index, model[&index]);
                        }
                        let mut expired = Vec::new();
                        queue.expire(now, |index| model[&index], |index| expired.push(index));
                        for index in expired {
                            prop_assert!(model.remove(&index).is_some_and(|deadline| deadline <= now));
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
