//! Records of connections in the store: whoever has them after this process reports the closes of those that it has
//! not reported.
//!
//! A client's 101 waits until its record is stored, and not longer than `CORKED_MS`: a store that says nothing keeps
//! nobody out. Who is let in without a record is counted.

use crate::base::id::{ConnKey, Identity, ShardId};
use crate::base::time::Tick;
use crate::store::{ConnectionRecord, RecordId, Request};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

pub struct Records {
    worker: ShardId,
    /// New connections get a record.
    is_on: Cell<bool>,
    /// There may be records of this worker's.
    is_used: Cell<bool>,
    last: Cell<u64>,
    /// Clients that wait to be let in, the oldest first. Bounded by those that come within `CORKED_MS`.
    corked: RefCell<VecDeque<Corked>>,
}

#[derive(Clone, Copy, Debug)]
struct Corked {
    number: u64,
    key: ConnKey,
    deadline: Tick,
}

/// What the store's answers mean.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Clients that wait no longer.
    pub released: Vec<ConnKey>,
    /// So many have no record, or had none when they were let in.
    pub missed: u64,
}

impl Records {
    pub fn new(worker: ShardId) -> Records {
        let (is_on, is_used, last) = Default::default();
        Records { worker, is_on, is_used, last, corked: RefCell::default() }
    }

    pub fn set_on(&self, is_on: bool) {
        self.is_on.set(is_on);
    }

    pub fn is_on(&self) -> bool {
        self.is_on.get()
    }

    /// There are records that others have left.
    pub fn set_used(&self) {
        self.is_used.set(true);
    }

    /// The backend has let a connection in. `corked`: its 101 waits, until `on_answers` or `expire` says its key.
    pub fn put(&self, record: ConnectionRecord, corked: Option<ConnKey>, now: Tick) -> Request {
        self.is_used.set(true);
        let number = self.last.get() + 1;
        self.last.set(number);
        let deadline = now + CORKED_MS;
        self.corked.borrow_mut().extend(corked.map(|key| Corked { number, key, deadline }));
        let id = RecordId { worker: self.worker, number };
        Request::PutConnection { id, record }
    }

    /// `None`: no record was made.
    pub fn remove(&self, identity: Identity) -> Option<Request> {
        self.is_used.get().then_some(Request::RemoveConnection { identity })
    }

    /// Numbers, in order, and whether each is stored.
    pub fn on_answers(&self, answers: &[(u64, bool)]) -> Recorded {
        let mut corked = self.corked.borrow_mut();
        let upto = answers.last().map_or(0, |(number, _)| *number);
        let released =
            std::iter::from_fn(|| corked.pop_front_if(|corked| corked.number <= upto)).map(|corked| corked.key);
        let missed = answers.iter().filter(|(_, is_stored)| !is_stored).count() as u64;
        Recorded { released: released.collect(), missed }
    }

    pub fn expire(&self, now: Tick) -> Recorded {
        let mut corked = self.corked.borrow_mut();
        let released =
            std::iter::from_fn(|| corked.pop_front_if(|corked| corked.deadline <= now)).map(|corked| corked.key);
        let released: Vec<ConnKey> = released.collect();
        Recorded { missed: released.len() as u64, released }
    }

    pub fn next_deadline(&self) -> Tick {
        self.corked.borrow().front().map_or(Tick::NEVER, |corked| corked.deadline)
    }
}

/// A store that is well answers within a commit.
const CORKED_MS: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::ConnIndex;

    fn key(index: u32) -> ConnKey {
        ConnKey { index: ConnIndex(index), generation: 1, shard: ShardId(3) }
    }

    fn put(records: &Records, corked: Option<ConnKey>, now: u64) -> u64 {
        let record = ConnectionRecord { identity: Identity([7; 32]), cookie: Some((*b"c=1").into()), user: None };
        match records.put(record, corked, Tick(now)) {
            Request::PutConnection { id, .. } => id.number,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_client_waits_for_its_record_and_not_for_long() {
        let records = Records::new(ShardId(3));
        assert!(records.remove(Identity([7; 32])).is_none(), "none was made");
        let first = put(&records, Some(key(1)), 0);
        let of_session = put(&records, None, 1);
        let third = put(&records, Some(key(3)), 2);
        let fourth = put(&records, Some(key(4)), 5);
        let recorded = records.on_answers(&[(first, true), (of_session, false)]);
        assert_eq!(recorded, Recorded { released: vec![key(1)], missed: 1 });
        assert_eq!(records.next_deadline(), Tick(2 + CORKED_MS));
        assert_eq!(records.expire(Tick(2 + CORKED_MS)), Recorded { released: vec![key(3)], missed: 1 });
        let late = records.on_answers(&[(third, true), (fourth, true)]);
        assert_eq!(late, Recorded { released: vec![key(4)], missed: 0 }, "who was let in is not let in again");
        assert_eq!(records.next_deadline(), Tick::NEVER);
        assert!(records.remove(Identity([7; 32])).is_some());
    }
}
