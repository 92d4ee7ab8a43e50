//! What this worker asks the store: handed over as it comes, kept in its order while the store's queue is full.
//! The shard makes no new promises when too much is under way, which bounds what is kept here.

use super::store::StoreSender;
use crate::store::Request;
use std::cell::RefCell;
use std::collections::VecDeque;

pub struct StoreBox {
    /// `None`: no session is durable.
    sender: Option<StoreSender>,
    unsent: RefCell<VecDeque<Request>>,
}

impl StoreBox {
    pub fn new(sender: Option<StoreSender>) -> StoreBox {
        StoreBox { sender, unsent: RefCell::default() }
    }

    /// Can anything be kept?
    pub fn is_open(&self) -> bool {
        self.sender.is_some()
    }

    /// Work of the shard: never lost, never overtaken.
    pub fn push(&self, request: Request) {
        let Some(sender) = &self.sender else { return debug_assert!(false, "without a store there is no session") };
        let mut unsent = self.unsent.borrow_mut();
        if !unsent.is_empty() {
            return unsent.push_back(request);
        }
        if let Err(back) = sender.try_send(request) {
            unsent.push_back(back);
        }
    }

    /// What need not be asked: false when there is no room for it now.
    pub fn offer(&self, request: Request) -> bool {
        let behind_nobody = self.unsent.borrow().is_empty();
        behind_nobody && self.sender.as_ref().is_some_and(|sender| sender.try_send(request).is_ok())
    }

    /// At the end of a turn: what there was no room for.
    pub fn send_unsent(&self) {
        let mut unsent = self.unsent.borrow_mut();
        while let (Some(sender), Some(request)) = (&self.sender, unsent.pop_front()) {
            if let Err(back) = sender.try_send(request) {
                return unsent.push_front(back);
            }
        }
    }

    pub fn has_unsent(&self) -> bool {
        !self.unsent.borrow().is_empty()
    }
}
