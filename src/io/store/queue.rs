//! What this worker asks the store: handed over as it comes, kept in its order while the store's queue is full.
//! The shard makes no new promises when too much is under way, which bounds what is kept here.

use crate::store::Request;
use std::cell::RefCell;
use std::collections::VecDeque;

/// Hands a request to the store's thread, or gives it back when the queue is full.
pub type Slot = Box<dyn Fn(Request) -> Result<(), Request>>;

pub struct StoreBox {
    /// `None`: no session is durable.
    slot: Option<Slot>,
    unsent: RefCell<VecDeque<Request>>,
}

impl StoreBox {
    pub fn new(slot: Option<Slot>) -> StoreBox {
        StoreBox { slot, unsent: RefCell::default() }
    }

    /// Can anything be kept?
    pub fn is_open(&self) -> bool {
        self.slot.is_some()
    }

    /// Work of the shard: never lost, never overtaken.
    pub fn push(&self, request: Request) {
        let Some(slot) = &self.slot else { return debug_assert!(false, "without a store there is no session") };
        let mut unsent = self.unsent.borrow_mut();
        if !unsent.is_empty() {
            return unsent.push_back(request);
        }
        if let Err(back) = slot(request) {
            unsent.push_back(back);
        }
    }

    /// What need not be asked: false when there is no room for it now.
    pub fn offer(&self, request: Request) -> bool {
        let behind_nobody = self.unsent.borrow().is_empty();
        behind_nobody && self.slot.as_ref().is_some_and(|slot| slot(request).is_ok())
    }

    /// At the end of a turn: what there was no room for.
    pub fn send_unsent(&self) {
        let mut unsent = self.unsent.borrow_mut();
        while let (Some(slot), Some(request)) = (&self.slot, unsent.pop_front()) {
            if let Err(back) = slot(request) {
                return unsent.push_front(back);
            }
        }
    }

    pub fn has_unsent(&self) -> bool {
        !self.unsent.borrow().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::ShardId;
    use crate::shard::command::{Command, CommandNumber, Mutation, Operation, SessionId};
    use std::cell::Cell;
    use std::rc::Rc;

    fn work(number: u64) -> Request {
        let operation = Operation::Mutate(Mutation::DropSession { session: SessionId(1) });
        Request::Shard { shard: ShardId(0), command: Command { number: CommandNumber(number), operation } }
    }

    #[test]
    fn work_keeps_its_order_while_the_queue_is_full_and_nothing_is_offered_ahead_of_it() {
        let (room, taken) = (Rc::new(Cell::new(2)), Rc::new(RefCell::new(Vec::new())));
        let (left, queue) = (room.clone(), taken.clone());
        let store = StoreBox::new(Some(Box::new(move |request| {
            if left.get() == 0 {
                return Err(request);
            }
            left.set(left.get() - 1);
            match request {
                Request::Shard { command, .. } => queue.borrow_mut().push(command.number.0),
                other => panic!("not work: {other:?}"),
            }
            Ok(())
        })));
        (1..=5).for_each(|number| store.push(work(number)));
        assert_eq!(*taken.borrow(), [1, 2]);
        room.set(1);
        assert!(!store.offer(work(99)), "there is room, but others wait for it");
        store.push(work(6));
        assert_eq!(*taken.borrow(), [1, 2], "a place that comes free is for the first in line");
        store.send_unsent();
        assert_eq!(*taken.borrow(), [1, 2, 3]);
        room.set(9);
        store.send_unsent();
        assert_eq!(*taken.borrow(), [1, 2, 3, 4, 5, 6]);
        assert!(!store.has_unsent() && store.offer(work(7)));
    }
}
