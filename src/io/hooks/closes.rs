//! Ends of connections and sessions that the business server has not confirmed yet, the oldest first. A few of them are
//! with the backend pool at a time; the others wait here, where one costs a tenth of a request.
//!
//! Each is retried until its deadline. One that is given up, there or because too many wait, is counted and logged.

use crate::base::client::ClientContext;
use crate::base::id::Identity;
use crate::base::time::Tick;
use crate::shard::SessionEnd;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use tracing::warn;

#[derive(Default)]
pub struct Closes {
    waiting: RefCell<VecDeque<Close>>,
    /// Wait until this time before they wait for the pool, the soonest first.
    delayed: RefCell<VecDeque<(Tick, Close)>>,
    /// In memory, of those that wait.
    bytes: Cell<usize>,
    /// With the pool.
    in_flight: Cell<usize>,
    given_up: Cell<u64>,
    /// Of those, how many are not in the log; and before when nothing is logged about them.
    unlogged: Cell<u64>,
    next_warning: Cell<Tick>,
}

#[derive(Debug)]
pub struct Close {
    pub ended: Ended,
    pub client: Option<Rc<ClientContext>>,
    pub deadline: Tick,
}

/// What has ended.
#[derive(Debug)]
pub enum Ended {
    Connection(Identity),
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
            self.given_up.set(self.given_up.get() + 1);
            return false;
        }
        self.bytes.set(bytes);
        true
    }

    /// Those whose delay is over wait for the pool from now on.
    pub fn release(&self, now: Tick) {
        let mut delayed = self.delayed.borrow_mut();
        while let Some((_, close)) = delayed.pop_front_if(|(due, _)| *due <= now) {
            self.waiting.borrow_mut().push_back(close);
        }
    }

    /// The next one for the pool, while fewer than `in_flight_max` are there; `ended` or `put_back` must follow.
    pub fn take(&self, in_flight_max: usize) -> Option<Close> {
        if self.in_flight.get() >= in_flight_max {
            return None;
        }
        let close = self.waiting.borrow_mut().pop_front()?;
        self.bytes.set(self.bytes.get() - memory(&close));
        self.in_flight.set(self.in_flight.get() + 1);
        Some(close)
    }

    /// The pool has no room for it.
    pub fn put_back(&self, close: Close) {
        self.in_flight.set(self.in_flight.get() - 1);
        self.bytes.set(self.bytes.get() + memory(&close));
        self.waiting.borrow_mut().push_front(close);
    }

    /// The pool has given one back.
    pub fn ended(&self, is_confirmed: bool) {
        self.in_flight.set(self.in_flight.get() - 1);
        self.given_up.set(self.given_up.get() + u64::from(!is_confirmed));
    }

    /// Gives up those whose time is over. They are in the order of their deadlines, unless a reload has shortened it.
    pub fn expire(&self, now: Tick) {
        let mut waiting = self.waiting.borrow_mut();
        while let Some(close) = waiting.pop_front_if(|close| close.deadline <= now) {
            self.bytes.set(self.bytes.get() - memory(&close));
            self.given_up.set(self.given_up.get() + 1);
        }
    }

    /// When `release` or `expire` has something to do.
    pub fn next_deadline(&self) -> Tick {
        let deadline = self.waiting.borrow().front().map_or(Tick::NEVER, |close| close.deadline);
        self.delayed.borrow().front().map_or(deadline, |(due, _)| deadline.min(*due))
    }

    /// Not confirmed yet, those with the pool included.
    pub fn len(&self) -> usize {
        self.waiting.borrow().len() + self.delayed.borrow().len() + self.in_flight.get()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
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

fn memory(close: &Close) -> usize {
    let name = match &close.ended {
        Ended::Connection(_) => 0,
        Ended::Session { name, .. } => name.len(),
    };
    let client = close.client.as_deref().map_or(0, |client| {
        let proxies = client.address.as_ref().map_or(0, |address| size_of_val(&*address.proxies));
        let cookie = client.cookie.as_ref().map_or(0, |cookie| RC_HEADER + cookie.len());
        RC_HEADER + size_of::<ClientContext>() + proxies + cookie
    });
    size_of::<Close>() + name + client
}

/// The two counters of an `Rc`.
const RC_HEADER: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn close(deadline: u64) -> Close {
        Close { ended: Ended::Connection(Identity([0; 32])), client: None, deadline: Tick(deadline) }
    }

    #[test]
    fn a_few_are_with_the_pool_and_come_in_order() {
        let closes = Closes::default();
        (1..=5).for_each(|n| assert!(closes.push(close(n), 10_000)));
        let taken: Vec<u64> = std::iter::from_fn(|| closes.take(2)).map(|close| close.deadline.0).collect();
        assert_eq!((taken, closes.len()), (vec![1, 2], 5));
        closes.ended(true);
        closes.put_back(close(2));
        assert_eq!(closes.take(2).map(|close| close.deadline.0), Some(2));
        assert_eq!((closes.len(), closes.take_given_up(Tick(0), 1)), (4, 0));
    }

    #[test]
    fn a_delayed_one_waits_its_time() {
        let closes = Closes::default();
        closes.push_delayed(close(100), Tick(10), 10_000);
        assert!(closes.push(close(50), 10_000));
        assert_eq!((closes.len(), closes.next_deadline()), (2, Tick(10)));
        closes.release(Tick(9));
        assert_eq!(closes.take(9).map(|close| close.deadline.0), Some(50));
        assert!(closes.take(9).is_none());
        closes.release(Tick(10));
        assert_eq!(closes.take(9).map(|close| close.deadline.0), Some(100));
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
        closes.take(1).expect("one waits");
        closes.ended(false);
        assert_eq!(closes.take_given_up(Tick(2), 1), 1);
    }
}
