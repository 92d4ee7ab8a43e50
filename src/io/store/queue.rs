//! Queue of one worker's requests to the store. A request goes to the store's thread at once, or waits here, in order,
//! while the thread's own queue is full. The shard stops giving commands when too many are unfinished, which bounds
//! what waits here.

use crate::store::Request;
use std::cell::RefCell;
use std::collections::VecDeque;

/// Hands a request to the store's thread, or gives it back when the thread's queue is full.
pub type TrySend = Box<dyn Fn(Request) -> Result<(), Request>>;

pub struct StoreQueue {
    /// `None`: there is no store.
    try_send: Option<TrySend>,
    waiting: RefCell<VecDeque<Request>>,
}

impl StoreQueue {
    pub fn new(try_send: Option<TrySend>) -> StoreQueue {
        StoreQueue { try_send, waiting: RefCell::default() }
    }

    pub fn has_store(&self) -> bool {
        self.try_send.is_some()
    }

    /// A command of the shard: never lost, never overtaken.
    pub fn push(&self, request: Request) {
        let Some(try_send) = &self.try_send else { return debug_assert!(false, "without a store there is no session") };
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.is_empty() {
            return waiting.push_back(request);
        }
        if let Err(back) = try_send(request) {
            waiting.push_back(back);
        }
    }

    /// A request that may be refused: false when there is no room for it now.
    pub fn offer(&self, request: Request) -> bool {
        let is_first = self.waiting.borrow().is_empty();
        is_first && self.try_send.as_ref().is_some_and(|try_send| try_send(request).is_ok())
    }

    /// At the end of a turn: what there was no room for.
    pub fn send_waiting(&self) {
        let mut waiting = self.waiting.borrow_mut();
        while let (Some(try_send), Some(request)) = (&self.try_send, waiting.pop_front()) {
            if let Err(back) = try_send(request) {
                return waiting.push_front(back);
            }
        }
    }

    /// Requests that wait here.
    pub fn len(&self) -> usize {
        self.waiting.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::ShardId;
    use crate::shard::command::{Command, CommandNumber, Mutation, Operation, SessionId};
    use std::cell::Cell;
    use std::rc::Rc;

    fn command(number: u64) -> Request {
        let operation = Operation::Mutate(Mutation::DropSession { session: SessionId(1) });
        Request::Shard { shard: ShardId(0), command: Command { number: CommandNumber(number), operation } }
    }

    #[test]
    fn commands_keep_their_order_while_the_threads_queue_is_full_and_nothing_overtakes_them() {
        let (room, taken) = (Rc::new(Cell::new(2)), Rc::new(RefCell::new(Vec::new())));
        let (left, queue) = (room.clone(), taken.clone());
        let store = StoreQueue::new(Some(Box::new(move |request| {
            if left.get() == 0 {
                return Err(request);
            }
            left.set(left.get() - 1);
            match request {
                Request::Shard { command, .. } => queue.borrow_mut().push(command.number.0),
                other => panic!("not a command: {other:?}"),
            }
            Ok(())
        })));
        (1..=5).for_each(|number| store.push(command(number)));
        assert_eq!(*taken.borrow(), [1, 2]);
        room.set(1);
        assert!(!store.offer(command(99)), "there is room, but others wait for it");
        store.push(command(6));
        assert_eq!(*taken.borrow(), [1, 2], "a place that comes free is for the first that waits");
        store.send_waiting();
        assert_eq!(*taken.borrow(), [1, 2, 3]);
        room.set(9);
        store.send_waiting();
        assert_eq!(*taken.borrow(), [1, 2, 3, 4, 5, 6]);
        assert!(store.is_empty() && store.offer(command(7)));
    }
}
