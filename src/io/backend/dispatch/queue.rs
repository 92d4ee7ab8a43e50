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
#[derive(Debug, Default)]
pub struct RequestQueue {
    /// Wait for a connection: those whose last attempt may be what brought the backend down, and all others.
    ready: Ready,
    suspects: Ready,
    /// Whose turn it is.
    is_suspects_turn: bool,
    /// Wait for their next attempt. The soonest first; equals in the order in which they were submitted.
    delayed: BinaryHeap<Reverse<Delayed>>,
}

/// Requests that are ready to go, in order.
#[derive(Debug)]
struct Ready {
    requests: VecDeque<RequestIndex>,
    /// None of them has a deadline before this.
    earliest: Tick,
}

/// A request that is ready, as its queue knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadyRequest {
    pub index: RequestIndex,
    /// When it is given up.
    pub deadline: Tick,
    pub is_suspect: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Delayed {
    due: Tick,
    number: RequestNumber,
    index: RequestIndex,
}

impl Default for Ready {
    fn default() -> Ready {
        Ready { requests: VecDeque::new(), earliest: Tick::NEVER }
    }
}

impl Ready {
    fn lower_earliest(&mut self, deadline: Tick) {
        let is_first = self.requests.is_empty();
        self.earliest = if is_first { deadline } else { self.earliest.min(deadline) };
    }

    fn expire(&mut self, now: Tick, deadline_of: impl Fn(RequestIndex) -> Tick, expired: &mut Vec<RequestIndex>) {
        if now < self.earliest {
            return;
        }
        let mut earliest = Tick::NEVER;
        self.requests.retain(|&index| {
            let deadline = deadline_of(index);
            if deadline <= now {
                expired.push(index);
                return false;
            }
            earliest = earliest.min(deadline);
            true
        });
        self.earliest = if earliest == Tick::NEVER { earliest } else { earliest.max(now + SCAN_INTERVAL_MS) };
    }

    fn next_deadline(&self) -> Tick {
        if self.requests.is_empty() { Tick::NEVER } else { self.earliest }
    }
}

impl RequestQueue {
    fn ready_mut(&mut self, is_suspect: bool) -> &mut Ready {
        if is_suspect { &mut self.suspects } else { &mut self.ready }
    }

    /// Adds a request that is ready to go, behind the others.
    pub fn push(&mut self, request: ReadyRequest) {
        let ready = self.ready_mut(request.is_suspect);
        ready.lower_earliest(request.deadline);
        ready.requests.push_back(request.index);
    }

    /// Puts a request back before the others: its attempt never reached the backend.
    pub fn push_front(&mut self, request: ReadyRequest) {
        let ready = self.ready_mut(request.is_suspect);
        ready.lower_earliest(request.deadline);
        ready.requests.push_front(request.index);
    }

    /// Adds a request whose next attempt is due at `due`.
    pub fn delay(&mut self, index: RequestIndex, number: RequestNumber, due: Tick) {
        self.delayed.push(Reverse(Delayed { due, number, index }));
    }

    /// Takes out the next ready request for which `pick` finds a place. Suspects and others take turns, so that neither
    /// starve.
    pub fn pop_ready<T>(&mut self, mut pick: impl FnMut(bool) -> Option<T>) -> Option<(RequestIndex, T)> {
        for is_suspect in [self.is_suspects_turn, !self.is_suspects_turn] {
            if self.has_ready(is_suspect)
                && let Some(place) = pick(is_suspect)
            {
                self.is_suspects_turn = !is_suspect;
                let index = self.ready_mut(is_suspect).requests.pop_front().expect("there is one");
                return Some((index, place));
            }
        }
        None
    }

    pub fn has_ready(&self, is_suspect: bool) -> bool {
        let ready = if is_suspect { &self.suspects } else { &self.ready };
        !ready.requests.is_empty()
    }

    pub fn has_any_ready(&self) -> bool {
        self.has_ready(false) || self.has_ready(true)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn len(&self) -> usize {
        self.ready.requests.len() + self.suspects.requests.len() + self.delayed.len()
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
    pub fn release(&mut self, ready: impl Fn(RequestIndex) -> ReadyRequest) {
        let mut released: Vec<Delayed> = self.delayed.drain().map(|Reverse(delayed)| delayed).collect();
        released.sort_unstable_by_key(|delayed| delayed.number);
        for delayed in released {
            self.push(ready(delayed.index));
        }
    }

    /// Takes out the ready requests whose deadline has passed. Looks at all of them, and therefore at most once per
    /// `SCAN_INTERVAL_MS`: a deadline may be noticed so much late.
    pub fn expire(&mut self, now: Tick, deadline_of: impl Fn(RequestIndex) -> Tick, expired: &mut Vec<RequestIndex>) {
        self.ready.expire(now, &deadline_of, expired);
        self.suspects.expire(now, &deadline_of, expired);
    }

    /// Takes the ready requests that `is_out` names out of the queue.
    pub fn remove(&mut self, mut is_out: impl FnMut(RequestIndex) -> bool) {
        for ready in [&mut self.ready, &mut self.suspects] {
            ready.requests.retain(|&index| !is_out(index));
        }
    }

    /// Empties the queue.
    pub fn drain(&mut self) -> impl Iterator<Item = RequestIndex> {
        (self.ready.earliest, self.suspects.earliest) = (Tick::NEVER, Tick::NEVER);
        let ready = self.ready.requests.drain(..).chain(self.suspects.requests.drain(..));
        ready.chain(self.delayed.drain().map(|Reverse(delayed)| delayed.index))
    }

    /// When a request is next due here, for its attempt or for its end.
    pub fn next_deadline(&self) -> Tick {
        let due = self.delayed.peek().map_or(Tick::NEVER, |Reverse(delayed)| delayed.due);
        due.min(self.ready.next_deadline()).min(self.suspects.next_deadline())
    }
}

/// Between two scans of the ready requests for passed deadlines.
const SCAN_INTERVAL_MS: u64 = 50;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn request(index: usize, deadline: u64) -> ReadyRequest {
        ReadyRequest { index: RequestIndex(index), deadline: Tick(deadline), is_suspect: false }
    }

    fn pop(queue: &mut RequestQueue) -> Option<RequestIndex> {
        queue.pop_ready(|_| Some(())).map(|(index, ())| index)
    }

    fn ready(queue: &mut RequestQueue) -> Vec<usize> {
        std::iter::from_fn(|| pop(queue)).map(|index| index.0).collect()
    }

    #[test]
    fn suspects_take_turns_with_the_others_and_hold_nobody_up() {
        let mut queue = RequestQueue::default();
        (1..=3).for_each(|n| queue.push(ReadyRequest { is_suspect: true, ..request(n, 9) }));
        (4..=6).for_each(|n| queue.push(request(n, 9)));
        let fresh_only = |queue: &mut RequestQueue| queue.pop_ready(|is_suspect| (!is_suspect).then_some(()));
        assert_eq!(fresh_only(&mut queue).map(|(index, ())| index.0), Some(4));
        assert_eq!(ready(&mut queue), [1, 5, 2, 6, 3]);
    }

    #[test]
    fn the_released_go_to_the_end_the_oldest_first() {
        let mut queue = RequestQueue::default();
        queue.push(request(9, 100));
        queue.delay(RequestIndex(1), RequestNumber(30), Tick(5));
        queue.delay(RequestIndex(2), RequestNumber(10), Tick(50));
        queue.delay(RequestIndex(3), RequestNumber(20), Tick(1));
        queue.release(|index| request(index.0, 100));
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
                let (index, deadline, is_suspect) = (RequestIndex(number), now + ms + 1, ms % 2 == 0);
                match step {
                    0 | 1 => { queue.push(ReadyRequest { index, deadline, is_suspect });
                        model.insert(index, deadline);
                    }
                    2 => { queue.delay(index, RequestNumber(number as u64), deadline); model.insert(index, deadline); }
                    3 => if let Some(index) = pop(&mut queue) {
                        prop_assert!(model.remove(&index).is_some());
                    },
                    4 => queue.release(|index| ReadyRequest { index, deadline: model[&index], is_suspect }),
                    _ => {
                        now = now + ms;
                        while let Some(index) = queue.pop_due(now) {
                            queue.push(ReadyRequest { index, deadline: model[&index], is_suspect });
                        }
                        let mut expired = Vec::new();
                        queue.expire(now, |index| model[&index], &mut expired);
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
