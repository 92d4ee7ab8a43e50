//! Gathers: one query to many shards and nodes, and their replies added up. A gather is a oneshot whose context is the
//! sum so far: opening one does not allocate after warm-up, and a reply that comes too late is dropped. A shard that
//! does not reply in time costs its own part: what came from the others stands.

use crate::base::id::ShardId;
use crate::base::time::Tick;
use crate::cluster::calls::Answer;
use crate::io::runtime::oneshot::{Expired, Oneshot, Oneshots, ReturnAddress};
use crate::shard::command::transfer::SessionPart;
use crate::shard::{QueryId, Reply};
use std::cell::Cell;

/// Those of one worker.
pub struct Gathers {
    worker: ShardId,
    open: Oneshots<Gathered, Sum>,
    /// More are refused.
    max: Cell<usize>,
}

/// A query on its way through the shards; dropping it forgets the replies.
pub struct Gather {
    oneshot: Oneshot<Gathered, Sum>,
    query: QueryId,
}

/// What came back.
#[derive(Debug, Default, PartialEq)]
pub struct Gathered {
    /// `None` when no shard has replied.
    pub reply: Option<Reply>,
    /// Shards that did not reply in time.
    pub silent: u32,
    /// Nodes that did not reply, or could not be reached.
    pub unreachable: u32,
    /// What nodes have replied to a question for their figures.
    pub texts: Vec<Box<str>>,
    /// A part of a session.
    pub part: Option<Box<SessionPart>>,
}

#[derive(Default)]
struct Sum {
    /// Shards that have not replied; and the task that queries them, until it waits.
    missing: u32,
    /// Nodes that have not replied, and those that will not.
    nodes: u32,
    unreachable: u32,
    reply: Option<Reply>,
    texts: Vec<Box<str>>,
    part: Option<Box<SessionPart>>,
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
        let oneshot = self.open.open(Sum { missing: 1, ..Sum::default() }, deadline);
        let address = ReturnAddress::new(self.worker, oneshot.id());
        Some(Gather { oneshot, query: QueryId(address.pack()) })
    }

    /// One shard's reply. A reply that nobody waits for is dropped.
    pub fn resolve(&self, query: QueryId, reply: Reply) {
        self.open.fold(ReturnAddress::unpack(query.0).oneshot(), |sum| {
            sum.add(reply);
            sum.one_less()
        });
    }

    /// One node's answer; `None`: it will not come.
    pub fn resolve_node(&self, query: QueryId, answer: Option<Answer>) {
        self.open.fold(ReturnAddress::unpack(query.0).oneshot(), |sum| {
            match answer {
                Some(Answer::Of(reply)) => sum.add(reply),
                Some(Answer::Text(text)) => sum.texts.push(text),
                Some(Answer::Part(part)) => sum.part = Some(part),
                None => sum.unreachable += 1,
            }
            sum.nodes -= 1;
            sum.outcome()
        });
    }

    pub fn expire(&self, now: Tick) {
        self.open.expire(now);
    }

    /// When `expire` may have something to do.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.open.next_deadline()
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

    /// The same for a node.
    pub fn expect_node(&self) {
        self.oneshot.fold(|sum| {
            sum.nodes += 1;
            None
        });
    }

    /// A node that would have to be queried cannot be.
    pub fn note_unreachable(&self) {
        self.oneshot.fold(|sum| {
            sum.unreachable += 1;
            None
        });
    }

    /// The replies, added up, when all have come or at the deadline.
    pub async fn replies(mut self) -> Gathered {
        // Mostly they have come already.
        if let Some(gathered) = self.oneshot.with_context(Sum::one_less) {
            return gathered;
        }
        match (&mut self.oneshot).await {
            Ok(gathered) => gathered,
            Err(Expired) => self.oneshot.with_context(Sum::take),
        }
    }
}

impl Sum {
    fn add(&mut self, reply: Reply) {
        match &mut self.reply {
            Some(total) => total.add(reply),
            none => *none = Some(reply),
        }
    }

    /// The sum of all replies, when this was the last one.
    fn one_less(&mut self) -> Option<Gathered> {
        self.missing -= 1;
        self.outcome()
    }

    fn outcome(&mut self) -> Option<Gathered> {
        (self.missing == 0 && self.nodes == 0).then(|| self.take())
    }

    fn take(&mut self) -> Gathered {
        Gathered {
            reply: self.reply.take(),
            silent: self.missing,
            unreachable: self.unreachable + self.nodes,
            texts: std::mem::take(&mut self.texts),
            part: self.part.take(),
        }
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
        assert_eq!(poll(gather.replies()), Poll::Ready(Gathered { reply: Some(sent(5)), ..Gathered::default() }));
        assert!(gathers.is_empty());
    }

    #[test]
    fn nobody_asked_is_no_reply() {
        let gathers = Gathers::new(ShardId(3), 10, NOW);
        let gathered = poll(gathers.open(LATER).expect("there is room").replies());
        assert_eq!(gathered, Poll::Ready(Gathered::default()));
    }

    #[test]
    fn nodes_are_waited_for_and_counted_apart() {
        let gathers = Gathers::new(ShardId(0), 2, NOW);
        let gather = gathers.open(LATER).expect("there is room");
        let query = gather.query();
        gather.expect_one();
        (0..3).for_each(|_| gather.expect_node());
        gather.note_unreachable();
        gathers.resolve(query, sent(1));
        gathers.resolve_node(query, Some(Answer::Of(sent(2))));
        gathers.resolve_node(query, None);
        let mut replies = std::pin::pin!(gather.replies());
        let mut poll = || replies.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll().is_pending(), "one node is missing");
        gathers.expire(LATER);
        let gathered = Gathered { reply: Some(sent(3)), unreachable: 3, ..Gathered::default() };
        assert_eq!(poll(), Poll::Ready(gathered));
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
        assert_eq!(poll(), Poll::Ready(Gathered { reply: Some(sent(1)), silent: 1, ..Gathered::default() }));
    }
}
