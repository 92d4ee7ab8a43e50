//! Gathers: one query to many shards, and their replies added up. A gather is a oneshot whose context is the sum so
//! far: opening one does not allocate after warm-up, and a reply that comes too late is dropped. A shard that does not
//! reply in time costs its own part: what came from the others stands.

use crate::base::id::ShardId;
use crate::base::time::Tick;
use crate::io::runtime::oneshot::{Expired, Oneshot, Oneshots, ReturnAddress};
use crate::shard::{QueryId, Reply};
use std::cell::Cell;

/// Those of one worker.
pub struct Gathers {
    worker: ShardId,
    open: Oneshots<Option<Reply>, Sum>,
    /// More are refused.
    max: Cell<usize>,
}

/// A query on its way through the shards; dropping it forgets the replies.
pub struct Gather {
    oneshot: Oneshot<Option<Reply>, Sum>,
    query: QueryId,
}

/// What came back.
#[derive(Debug, PartialEq)]
pub struct Gathered {
    /// `None` when no shard has replied.
    pub reply: Option<Reply>,
    /// Shards that did not reply in time.
    pub silent: u32,
}

struct Sum {
    /// Shards that have not replied; and the task that queries them, until it waits.
    missing: u32,
    reply: Option<Reply>,
}

impl Gathers {
    pub fn new(worker: ShardId, max: usize, now: Tick) -> Gathers {
        Gathers { worker, open: Oneshots::new(now), max: Cell::new(max) }
    }

    pub fn set_max(&self, max: usize) {
        self.max.set(max);
    }

    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// `None` when too many calls are waiting.
    pub fn open(&self, deadline: Tick) -> Option<Gather> {
        if self.open.len() >= self.max.get() {
            return None;
        }
        let oneshot = self.open.open(Sum { missing: 1, reply: None }, deadline);
        let address = ReturnAddress::new(self.worker, oneshot.id());
        Some(Gather { oneshot, query: QueryId(address.pack()) })
    }

    /// One shard's reply. A reply that nobody waits for is dropped.
    pub fn resolve(&self, query: QueryId, reply: Reply) {
        self.open.fold(ReturnAddress::unpack(query.0).oneshot(), |sum| {
            match &mut sum.reply {
                Some(total) => total.add(reply),
                none => *none = Some(reply),
            }
            sum.one_less()
        });
    }

    pub fn expire(&self, now: Tick) {
        self.open.expire(now);
    }
}

/// The worker that gathers the replies to this query.
pub fn origin(query: QueryId) -> ShardId {
    ReturnAddress::unpack(query.0).worker()
}

impl Gather {
    pub fn query(&self) -> QueryId {
        self.query
    }

    /// Must be called before the query goes to one more shard.
    pub fn expect_one(&self) {
        self.oneshot.fold(|sum| {
            sum.missing += 1;
            None
        });
    }

    /// The replies, added up, when all have come or at the deadline.
    pub async fn replies(mut self) -> Gathered {
        self.oneshot.fold(Sum::one_less);
        match (&mut self.oneshot).await {
            Ok(reply) => Gathered { reply, silent: 0 },
            Err(Expired) => self.oneshot.with_context(|sum| Gathered { reply: sum.reply.take(), silent: sum.missing }),
        }
    }
}

impl Sum {
    /// The sum of all replies, when this was the last one.
    fn one_less(&mut self) -> Option<Option<Reply>> {
        self.missing -= 1;
        (self.missing == 0).then(|| self.reply.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Poll, Waker};

    const NOW: Tick = Tick(1_000);
    const LATER: Tick = Tick(61_000);

    fn sent(connections: u32) -> Reply {
        Reply::sent(connections as usize)
    }

    fn poll(future: impl Future<Output = Gathered>) -> Poll<Gathered> {
        std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn replies_of_all_shards_are_added() {
        let gathers = Gathers::new(ShardId(3), 10, NOW);
        let gather = gathers.open(LATER).expect("there is room");
        gather.expect_one();
        assert_eq!(origin(gather.query()), ShardId(3));
        gathers.resolve(gather.query(), sent(1));
        // The first has replied before the second is queried.
        gather.expect_one();
        gathers.resolve(gather.query(), sent(4));
        assert_eq!(poll(gather.replies()), Poll::Ready(Gathered { reply: Some(sent(5)), silent: 0 }));
        assert!(gathers.is_empty());
    }

    #[test]
    fn nobody_asked_is_no_reply() {
        let gathers = Gathers::new(ShardId(3), 10, NOW);
        let gathered = poll(gathers.open(LATER).expect("there is room").replies());
        assert_eq!(gathered, Poll::Ready(Gathered { reply: None, silent: 0 }));
    }

    #[test]
    fn a_late_reply_does_not_reach_the_slots_next_user() {
        let gathers = Gathers::new(ShardId(0), 1, NOW);
        let old = gathers.open(LATER).expect("there is room");
        old.expect_one();
        let query = old.query();
        assert!(gathers.open(LATER).is_none(), "one at most");
        drop(old);
        let new = gathers.open(LATER).expect("there is room again");
        new.expect_one();
        gathers.resolve(query, sent(9));
        assert!(poll(new.replies()).is_pending());
    }

    #[test]
    fn a_shard_that_does_not_reply_costs_the_deadline_and_its_own_part() {
        let gathers = Gathers::new(ShardId(0), 1, NOW);
        let gather = gathers.open(LATER).expect("there is room");
        gather.expect_one();
        gather.expect_one();
        gathers.resolve(gather.query(), sent(1));
        let mut replies = std::pin::pin!(gather.replies());
        let mut poll = || replies.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll().is_pending());
        gathers.expire(LATER);
        assert_eq!(poll(), Poll::Ready(Gathered { reply: Some(sent(1)), silent: 1 }));
    }
}
