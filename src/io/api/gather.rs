//! Questions on their way through the shards, and the tasks that wait for the replies. A slot per question: no
//! allocation after warm-up, and a reply that comes too late finds its slot's generation changed.

use crate::base::id::ShardId;
use crate::shard::{QueryId, Reply};
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

pub struct Asks {
    shard: ShardId,
    slots: RefCell<Slab<Slot>>,
    generation: Cell<u16>,
    /// More are refused.
    max: Cell<usize>,
}

struct Slot {
    generation: u16,
    /// Shards that have not replied.
    missing: u32,
    reply: Option<Reply>,
    waker: Option<Waker>,
}

/// A question that is being asked; dropping it forgets the replies.
pub struct Ask<'a> {
    asks: &'a Asks,
    ticket: QueryId,
}

impl Asks {
    pub fn new(shard: ShardId, max: usize) -> Asks {
        Asks { shard, slots: RefCell::default(), generation: Cell::new(0), max: Cell::new(max) }
    }

    pub fn set_max(&self, max: usize) {
        self.max.set(max);
    }

    pub fn len(&self) -> usize {
        self.slots.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.borrow().is_empty()
    }

    /// `None` when too many questions are waiting.
    pub fn open(&self) -> Option<Ask<'_>> {
        let mut slots = self.slots.borrow_mut();
        if slots.len() >= self.max.get() {
            return None;
        }
        let generation = self.generation.get().wrapping_add(1);
        self.generation.set(generation);
        let index = slots.insert(Slot { generation, missing: 0, reply: None, waker: None }) as u64;
        Some(Ask { asks: self, ticket: QueryId(index << 32 | u64::from(generation) << 16 | u64::from(self.shard.0)) })
    }

    /// A shard's reply. One that nobody waits for is forgotten.
    pub fn resolve(&self, ticket: QueryId, reply: Reply) {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut((ticket.0 >> 32) as usize);
        let Some(slot) = slot.filter(|slot| slot.generation == (ticket.0 >> 16) as u16) else { return };
        slot.missing -= 1;
        match &mut slot.reply {
            Some(sum) => sum.add(reply),
            none => *none = Some(reply),
        }
        if slot.missing == 0
            && let Some(waker) = slot.waker.take()
        {
            waker.wake();
        }
    }
}

/// Whose question it is.
pub fn asker(ticket: QueryId) -> ShardId {
    ShardId(ticket.0 as u16)
}

impl Ask<'_> {
    pub fn ticket(&self) -> QueryId {
        self.ticket
    }

    /// Must be called before the question goes to one more shard.
    pub fn expect_one(&self) {
        self.asks.slots.borrow_mut()[self.index()].missing += 1;
    }

    /// All replies, added up; `None` when nobody was asked.
    pub async fn reply(self) -> Option<Reply> {
        poll_fn(|context| {
            let mut slots = self.asks.slots.borrow_mut();
            let slot = &mut slots[self.index()];
            if slot.missing == 0 {
                return Poll::Ready(slot.reply.take());
            }
            if !slot.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                slot.waker = Some(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    fn index(&self) -> usize {
        (self.ticket.0 >> 32) as usize
    }
}

impl Drop for Ask<'_> {
    fn drop(&mut self) {
        self.asks.slots.borrow_mut().remove(self.index());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(connections: u32) -> Reply {
        Reply::Sent { connections, data: Vec::new(), kept: Default::default() }
    }

    #[test]
    fn replies_of_all_shards_are_added() {
        let asks = Asks::new(ShardId(3), 10);
        let ask = asks.open().expect("there is room");
        ask.expect_one();
        ask.expect_one();
        assert_eq!(asker(ask.ticket()), ShardId(3));
        asks.resolve(ask.ticket(), sent(1));
        asks.resolve(ask.ticket(), sent(4));
        let mut reply = std::pin::pin!(ask.reply());
        let mut context = std::task::Context::from_waker(Waker::noop());
        assert_eq!(reply.as_mut().poll(&mut context), Poll::Ready(Some(sent(5))));
    }

    #[test]
    fn a_late_reply_does_not_reach_the_slots_next_user() {
        let asks = Asks::new(ShardId(0), 1);
        let old = asks.open().expect("there is room");
        old.expect_one();
        let ticket = old.ticket();
        assert!(asks.open().is_none(), "one at most");
        drop(old);
        let new = asks.open().expect("there is room again");
        new.expect_one();
        asks.resolve(ticket, sent(9));
        let mut reply = std::pin::pin!(new.reply());
        let mut context = std::task::Context::from_waker(Waker::noop());
        assert!(reply.as_mut().poll(&mut context).is_pending());
    }
}
