//! Wakes one task of the same worker, and lets others run before it. Any number of notifications before the task runs
//! wake it once.
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

/// This thread waits with epoll, not with io_uring. Then a read must return at once, so sockets are non-blocking.
pub fn is_epoll() -> bool {
    monoio::utils::is_legacy()
}

/// Lets the other tasks run before the next read. With io_uring every read does; with epoll one that finds bytes
/// completes at once, so that a client that never stops would keep the thread for itself.
pub fn give_way() -> impl Future<Output = ()> {
    let mut gave_way = !is_epoll();
    poll_fn(move |cx| {
        if std::mem::replace(&mut gave_way, true) {
            return Poll::Ready(());
        }
        GIVING_WAY.with_borrow_mut(|tasks| tasks.push(cx.waker().clone()));
        // Where there is none, it has been woken already.
        if let Some(relay) = RELAY.take() {
            relay.wake();
        }
        Poll::Pending
    })
}

/// Wakes the tasks that have given way; runs beside all others on epoll. monoio puts a task that wakes itself in front
/// of those that are ready, and would run it again at once: this one is put behind them, and so is whom it wakes.
pub async fn relay() {
    poll_fn(|cx| {
        RELAY.set(Some(cx.waker().clone()));
        GIVING_WAY.take().into_iter().for_each(Waker::wake);
        Poll::<()>::Pending
    })
    .await;
}

thread_local! {
    static GIVING_WAY: RefCell<Vec<Waker>> = const { RefCell::new(Vec::new()) };
    static RELAY: Cell<Option<Waker>> = const { Cell::new(None) };
}
