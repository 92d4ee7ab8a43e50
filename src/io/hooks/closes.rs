//! Ends of connections and sessions that the business server has not confirmed yet, the oldest first. A few of them are
//! with the backend pool at a time; the others wait here, where one costs a tenth of a request.
//!
//! Each is retried until its deadline. One that is given up, there or because too many wait, is counted and logged.
//! Either way nothing is owed any more, and `take_settled` names the connection.
//!
//! The closes of former processes, and of nodes that have died, are fed in at a pace: the business server must not
//! drown in the ends of all the clients that a node had.

use crate::base::client::ClientContext;
use crate::base::id::Identity;
use crate::base::time::Tick;
use crate::shard::{Ending, SessionEnd};
use crate::store::ConnectionRecord;
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use tracing::warn;

#[derive(Default)]
pub struct Closes {
    waiting: RefCell<VecDeque<Close>>,
    /// Wait until this time before they wait for the pool, the soonest first.
    delayed: RefCell<VecDeque<(Tick, Close)>>,
    /// In memory, of those that wait.
    bytes: Cell<usize>,
    /// With the pool; `None` for a session's.
    in_flight: RefCell<Slab<Option<Identity>>>,
    /// Of former processes and of dead nodes; they wait in the store too.
    former: RefCell<VecDeque<ConnectionRecord>>,
    /// When the next one of them is fed in.
    next_former: Cell<Tick>,
    /// Connections of which nothing is owed any more.
    settled: RefCell<Vec<Identity>>,
    given_up: Cell<u64>,
    /// Of those, how many are not in the log; and before when nothing is logged about them.
    unlogged: Cell<u64>,
    next_warning: Cell<Tick>,
}

/// Of a close that is with the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseNumber(pub u32);

#[derive(Debug)]
pub struct Close {
    pub ended: Ended,
    pub client: ClientContext,
    pub deadline: Tick,
}

/// What has ended.
#[derive(Debug)]
pub enum Ended {
    Connection { identity: Identity, ending: Ending },
    Session { name: Arc<str>, why: SessionEnd },
}

impl Closes {
    /// False when it would take more than `bytes_max`: it is given up.
    pub fn push(&self, close: Close, bytes_max: usize) -> bool {
        let has_room = self.make_room(&close, bytes_max);
        if has_room {
            self.waiting.borrow_mut().push_back(close);
        }
        has_room
    }

    /// `push`, but not before `due`. Later calls must not name an earlier time, or wait as long as those before them.
    pub fn push_delayed(&self, close: Close, due: Tick, bytes_max: usize) {
        if self.make_room(&close, bytes_max) {
            self.delayed.borrow_mut().push_back((due, close));
        }
    }

    fn make_room(&self, close: &Close, bytes_max: usize) -> bool {
        let bytes = self.bytes.get() + memory(close);
        if bytes > bytes_max {
            self.give_up(close);
            return false;
        }
        self.bytes.set(bytes);
        true
    }

    fn give_up(&self, close: &Close) {
        self.given_up.set(self.given_up.get() + 1);
        self.settled.borrow_mut().extend(close.ended.identity());
    }

    /// Connections of others, whose closes are to be reported.
    pub fn push_former(&self, records: &[ConnectionRecord], now: Tick) {
        let mut former = self.former.borrow_mut();
        if former.is_empty() {
            self.next_former.set(self.next_former.get().max(now));
        }
        former.extend(records.iter().cloned());
    }

    /// The next one of them whose turn it is, if there is room for it.
    pub fn take_former(&self, now: Tick, bytes_max: usize) -> Option<ConnectionRecord> {
        let due = self.next_former.get();
        if due > now || self.bytes.get() >= bytes_max {
            return None;
        }
        let record = self.former.borrow_mut().pop_front()?;
        self.next_former.set(due + FORMER_MS);
        Some(record)
    }

    /// The business server hears of no close: nothing is owed.
    pub fn settle(&self, identity: Identity) {
        self.settled.borrow_mut().push(identity);
    }

    /// Connections of which nothing is owed any more, since the last time.
    pub fn take_settled(&self) -> Vec<Identity> {
        self.settled.take()
    }

    /// Those whose delay is over wait for the pool from now on.
    pub fn release(&self, now: Tick) {
        let mut delayed = self.delayed.borrow_mut();
        while let Some((_, close)) = delayed.pop_front_if(|(due, _)| *due <= now) {
            self.waiting.borrow_mut().push_back(close);
        }
    }

    /// The next one for the pool, while fewer than `in_flight_max` are there; `ended` or `put_back` must follow.
    pub fn take(&self, in_flight_max: usize) -> Option<(CloseNumber, Close)> {
        let mut in_flight = self.in_flight.borrow_mut();
        if in_flight.len() >= in_flight_max {
            return None;
        }
        let close = self.waiting.borrow_mut().pop_front()?;
        self.bytes.set(self.bytes.get() - memory(&close));
        let number = in_flight.insert(close.ended.identity());
        Some((CloseNumber(number as u32), close))
    }

    /// The pool has no room for it.
    pub fn put_back(&self, number: CloseNumber, close: Close) {
        self.in_flight.borrow_mut().remove(number.0 as usize);
        self.bytes.set(self.bytes.get() + memory(&close));
        self.waiting.borrow_mut().push_front(close);
    }

    /// The pool has given one back.
    pub fn ended(&self, number: CloseNumber, is_confirmed: bool) {
        let identity = self.in_flight.borrow_mut().remove(number.0 as usize);
        self.settled.borrow_mut().extend(identity);
        self.given_up.set(self.given_up.get() + u64::from(!is_confirmed));
    }

    /// Gives up those whose time is over. They are in the order of their deadlines, unless a reload has shortened it.
    pub fn expire(&self, now: Tick) {
        let mut waiting = self.waiting.borrow_mut();
        while let Some(close) = waiting.pop_front_if(|close| close.deadline <= now) {
            self.bytes.set(self.bytes.get() - memory(&close));
            self.give_up(&close);
        }
    }

    /// When `release`, `expire` or `take_former` has something to do.
    pub fn next_deadline(&self) -> Tick {
        let former = if self.former.borrow().is_empty() { Tick::NEVER } else { self.next_former.get() };
        let deadline = self.waiting.borrow().front().map_or(former, |close| close.deadline.min(former));
        self.delayed.borrow().front().map_or(deadline, |(due, _)| deadline.min(*due))
    }

    /// Not confirmed yet, those with the pool included.
    pub fn len(&self) -> usize {
        self.waiting.borrow().len() + self.delayed.borrow().len() + self.in_flight.borrow().len()
    }

    /// Nothing is owed, and `take_settled` has nothing. Those that are left in the store do not count.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.settled.borrow().is_empty()
    }

    /// Of others, not fed in yet.
    pub fn former_len(&self) -> usize {
        self.former.borrow().len()
    }

    /// How many were given up since the last time; says it, at most once in `interval_ms`.
    pub fn take_given_up(&self, now: Tick, interval_ms: u64) -> u64 {
        let given_up = self.given_up.take();
        let count = self.unlogged.get() + given_up;
        if count > 0 && now >= self.next_warning.get() {
            self.next_warning.set(now + interval_ms);
            self.unlogged.set(0);
            warn!(closes = count, "given up: the business server did not take these closes (see close_deadline)");
        } else {
            self.unlogged.set(count);
        }
        given_up
    }
}

impl Ended {
    /// Of a connection.
    fn identity(&self) -> Option<Identity> {
        match self {
            Ended::Connection { identity, .. } => Some(*identity),
            Ended::Session { .. } => None,
        }
    }
}

fn memory(close: &Close) -> usize {
    let name = match &close.ended {
        Ended::Connection { ending, .. } => ending.reason.len() + ending.session.as_ref().map_or(0, |name| name.len()),
        Ended::Session { name, .. } => name.len(),
    };
    size_of::<Close>() + name + close.client.memory()
}

/// Between two closes of others, per worker.
const FORMER_MS: u64 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn close(deadline: u64) -> Close {
        Close {
            ended: Ended::Connection { identity: Identity([0; 32]), ending: Ending::default() },
            client: ClientContext::default(),
            deadline: Tick(deadline),
        }
    }

    fn take(closes: &Closes, in_flight_max: usize) -> Option<u64> {
        closes.take(in_flight_max).map(|(_, close)| close.deadline.0)
    }

    #[test]
    fn those_of_others_come_at_a_pace_and_when_there_is_room() {
        let closes = Closes::default();
        let record = |n| ConnectionRecord { identity: Identity([n; 32]), cookie: None, user: None };
        let taken = |now, bytes_max| {
            std::iter::from_fn(|| closes.take_former(Tick(now), bytes_max)).map(|record| record.identity.0[0]).collect()
        };
        closes.push_former(&[1, 2, 3].map(record), Tick(100));
        assert_eq!((closes.next_deadline(), closes.former_len(), closes.is_empty()), (Tick(100), 3, true));
        let first: Vec<u8> = taken(100, 10_000);
        assert_eq!((first, closes.next_deadline()), (vec![1], Tick(100 + FORMER_MS)));
        assert!(closes.push(close(500), 10_000));
        let none: Vec<u8> = taken(200, 1);
        assert!(none.is_empty(), "what waits here already fills the room");
        let rest: Vec<u8> = taken(200, 10_000);
        assert_eq!(rest, [2, 3]);
        assert_eq!(closes.next_deadline(), Tick(500));
    }

    #[test]
    fn a_hundred_thousand_closes_of_a_dead_node_come_at_a_pace() {
        let closes = Closes::default();
        let record = ConnectionRecord { identity: Identity([7; 32]), cookie: None, user: None };
        // As the store reads them: piece by piece, while the first ones are on their way.
        let pieces = vec![vec![record; 1_000]; 100];
        let (mut now, mut taken) = (Tick(0), 0);
        for piece in &pieces {
            closes.push_former(piece, now);
            for _ in 0..1_000 {
                taken += u64::from(closes.take_former(now, 10_000).is_some());
                assert!(taken <= now.0 / FORMER_MS + 1, "{taken} after {} ms", now.0);
                now = now + 1;
            }
        }
        while closes.former_len() > 0 {
            taken += u64::from(closes.take_former(now, 10_000).is_some());
            now = now + 1;
        }
        assert_eq!((taken, now.0), (100_000, 99_999 * FORMER_MS + 1));
    }

    #[test]
    fn a_few_are_with_the_pool_and_come_in_order() {
        let closes = Closes::default();
        (1..=5).for_each(|n| assert!(closes.push(close(n), 10_000)));
        let taken: Vec<(CloseNumber, Close)> = std::iter::from_fn(|| closes.take(2)).collect();
        let deadlines: Vec<u64> = taken.iter().map(|(_, close)| close.deadline.0).collect();
        assert_eq!((deadlines, closes.len()), (vec![1, 2], 5));
        closes.ended(taken[0].0, true);
        closes.put_back(taken[1].0, close(2));
        assert_eq!(take(&closes, 2), Some(2));
        assert_eq!((closes.len(), closes.take_given_up(Tick(0), 1)), (4, 0));
        assert_eq!(closes.take_settled(), [Identity([0; 32])], "the other one is still owed");
    }

    #[test]
    fn a_delayed_one_waits_its_time() {
        let closes = Closes::default();
        closes.push_delayed(close(100), Tick(10), 10_000);
        assert!(closes.push(close(50), 10_000));
        assert_eq!((closes.len(), closes.next_deadline()), (2, Tick(10)));
        closes.release(Tick(9));
        assert_eq!(take(&closes, 9), Some(50));
        assert!(closes.take(9).is_none());
        closes.release(Tick(10));
        assert_eq!(take(&closes, 9), Some(100));
    }

    #[test]
    fn those_that_are_too_late_or_too_many_are_counted() {
        let closes = Closes::default();
        let one = memory(&close(0));
        assert!((1..=3).all(|n| closes.push(close(n), 3 * one)));
        assert!(!closes.push(close(4), 3 * one));
        assert_eq!(closes.next_deadline(), Tick(1));
        closes.expire(Tick(2));
        assert_eq!((closes.len(), closes.next_deadline()), (1, Tick(3)));
        assert_eq!(closes.take_given_up(Tick(2), 1), 3);
        assert!(closes.push(close(9), 3 * one), "there is room again");
        let (number, _) = closes.take(1).expect("one waits");
        closes.ended(number, false);
        assert_eq!(closes.take_given_up(Tick(2), 1), 1);
        assert_eq!(closes.take_settled().len(), 4, "nothing is owed of those that were given up");
    }
}
