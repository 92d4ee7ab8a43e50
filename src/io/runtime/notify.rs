//! Wakes one task of the same worker. Any number of notifications before the task runs wake it once.
//!
//! Only this file, `oneshot` and monoio handle wakers.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

#[derive(Default)]
pub struct Notify {
    notified: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Notify {
    pub fn notify(&self) {
        if !self.notified.replace(true)
            && let Some(waker) = self.waker.borrow_mut().take()
        {
            waker.wake();
        }
    }

    /// Returns once it was notified since the last return. One waiter at a time.
    pub async fn notified(&self) {
        poll_fn(|context| self.poll_notified(context)).await
    }

    /// The same, for a future that cannot borrow the `Notify` while it waits.
    pub fn poll_notified(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.notified.replace(false) {
            return Poll::Ready(());
        }
        *self.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }
}
