//! How many sockets lie in this thread's descriptor table, and who waits until one of them is closed.
//!
//! Kept per thread, as the table is: a handle in every socket would cost each client eight bytes. `Socket` counts
//! itself; what a worker makes of the number is in `worker::descriptors`.

use super::notify::Notify;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

thread_local! {
    static OPEN: Cell<usize> = const { Cell::new(0) };
    static WAITING: RefCell<Vec<Rc<Notify>>> = const { RefCell::new(Vec::new()) };
}

/// Sockets of this thread's table, without those that lead to backends.
pub fn open_sockets() -> usize {
    OPEN.get()
}

/// Notifies once, when the next socket of this thread has been closed.
pub fn notify_at_close(closed: &Rc<Notify>) {
    WAITING.with_borrow_mut(|waiting| {
        if !waiting.iter().any(|other| Rc::ptr_eq(other, closed)) {
            waiting.push(closed.clone());
        }
    });
}

pub(super) fn socket_opened() {
    OPEN.set(OPEN.get() + 1);
}

pub(super) fn socket_closed() {
    OPEN.set(OPEN.get() - 1);
    // The last sockets are closed when the thread ends; nobody waits then.
    let _ = WAITING.try_with(|waiting| waiting.borrow_mut().drain(..).for_each(|closed| closed.notify()));
}

#[cfg(test)]
mod tests {
    use super::super::socket::Socket;
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::pin::pin;
    use std::task::{Context, Waker};

    #[test]
    fn sockets_are_counted_and_whoever_waits_is_notified_once() {
        let runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().build();
        runtime.expect("io_uring is allowed here").block_on(async {
            let sockets = UnixStream::pair().expect("a pair");
            let [one, other] = [sockets.0, sockets.1].map(|socket| Socket::new(socket.into()).expect("a socket"));
            assert_eq!(open_sockets(), 2);
            let closed = Rc::<Notify>::default();
            notify_at_close(&closed);
            notify_at_close(&closed);
            assert_eq!(Rc::strong_count(&closed), 2, "it waits once");
            drop(one);
            closed.notified().await;
            assert_eq!((open_sockets(), Rc::strong_count(&closed)), (1, 1));
            drop(other);
            let mut context = Context::from_waker(Waker::noop());
            assert!(pin!(closed.notified()).poll(&mut context).is_pending());
            assert_eq!(open_sockets(), 0);
        });
    }
}
