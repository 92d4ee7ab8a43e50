//! Mailboxes between workers: bounded, lock-free, many senders and one receiver. A full mailbox gives the message back;
//! what is done with it is the sender's decision (`worker::peers`).
//!
//! The bell is rung once per sleep of the receiver, not once per message. `Asleep` has the proof that no message is
//! slept over.

mod asleep;

use self::asleep::Asleep;
use crate::io::runtime::socket::Pollable;
use crate::io::runtime::sys;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// A worker's mailbox, as other workers see it.
pub struct MailboxSender<T> {
    sender: Sender<T>,
    bell: Arc<Doorbell>,
}

pub struct MailboxReceiver<T> {
    receiver: Receiver<T>,
    bell: Arc<Doorbell>,
}

/// Must be called before any worker has a descriptor table of its own: the bell's number has to mean the same in all.
/// `messages_max` may wait.
pub fn mailbox<T>(messages_max: usize) -> io::Result<(MailboxSender<T>, MailboxReceiver<T>)> {
    let (sender, receiver) = bounded(messages_max);
    let bell = Arc::new(Doorbell { asleep: Asleep::default(), eventfd: sys::eventfd()? });
    Ok((MailboxSender { sender, bell: bell.clone() }, MailboxReceiver { receiver, bell }))
}

impl<T> Clone for MailboxSender<T> {
    fn clone(&self) -> MailboxSender<T> {
        MailboxSender { sender: self.sender.clone(), bell: self.bell.clone() }
    }
}

impl<T> MailboxSender<T> {
    /// Gives the item back when the mailbox is full (or its worker has ended).
    pub fn try_send(&self, item: T) -> Result<(), T> {
        self.put(item)?;
        self.ring();
        Ok(())
    }

    /// Without waking the receiver: `ring` must follow.
    fn put(&self, item: T) -> Result<(), T> {
        self.sender.try_send(item).map_err(TrySendError::into_inner)
    }
}

/// Receivers that were sent something by this worker and have not been woken for it.
///
/// Waking a core that sleeps costs its waker 10 µs, so it is done once per turn, behind the turn's own writes: what
/// this worker has to write is on its way before another begins to write to the same readers.
pub struct Bells {
    unrung: RefCell<Vec<usize>>,
    put: Cell<usize>,
    /// Messages that are put before their receivers are woken all the same: far from filling a mailbox.
    unrung_max: usize,
}

impl Bells {
    pub fn new(unrung_max: usize) -> Bells {
        Bells { unrung: RefCell::default(), put: Cell::new(0), unrung_max }
    }

    /// Puts the item into one of the mailboxes; gives it back when that is full. `ring` must follow.
    pub fn put<T>(&self, mailboxes: &[MailboxSender<T>], to: usize, item: T) -> Result<(), T> {
        mailboxes[to].put(item)?;
        let mut unrung = self.unrung.borrow_mut();
        if !unrung.contains(&to) {
            unrung.push(to);
        }
        drop(unrung);
        self.put.set(self.put.get() + 1);
        if self.put.get() == self.unrung_max {
            self.ring(mailboxes);
        }
        Ok(())
    }

    /// Wakes all receivers that were sent something.
    pub fn ring<T>(&self, mailboxes: &[MailboxSender<T>]) {
        self.put.set(0);
        for to in self.unrung.borrow_mut().drain(..) {
            mailboxes[to].ring();
        }
    }
}

impl<T> MailboxSender<T> {
    /// Wakes the receiver without a message: something else waits for it.
    pub fn ring(&self) {
        if self.bell.asleep.wake() {
            sys::eventfd_ring(self.bell.eventfd.as_raw_fd());
        }
    }

    /// Wakes the receiver now, or makes its next sleep end at once.
    pub fn ring_always(&self) {
        sys::eventfd_ring(self.bell.eventfd.as_raw_fd());
    }

    /// Messages that wait.
    pub fn len(&self) -> usize {
        self.sender.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sender.is_empty()
    }
}

impl<T> MailboxReceiver<T> {
    pub fn try_recv(&self) -> Option<T> {
        self.receiver.try_recv().ok()
    }

    pub fn len(&self) -> usize {
        self.receiver.len()
    }

    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }

    /// The receiving worker's own view of the bell's descriptor; call it in the thread that will wait.
    pub fn pollable(&self) -> io::Result<Pollable> {
        Pollable::new(self.bell.eventfd.try_clone()?)
    }

    /// Returns when there may be a message. Always through the ring: while there is one more message each time, what
    /// sockets have ready would wait for ever.
    pub async fn wait(&self, pollable: &Pollable) {
        self.bell.asleep.fall_asleep();
        // Looked at once more after "asleep" was published: what was sent before that rings no bell.
        if !self.receiver.is_empty() && self.bell.asleep.wake() {
            sys::eventfd_ring(self.bell.eventfd.as_raw_fd());
        }
        pollable.readable().await;
        self.bell.asleep.wake();
        sys::eventfd_clear(self.bell.eventfd.as_raw_fd());
    }
}

struct Doorbell {
    asleep: Asleep,
    eventfd: OwnedFd,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::rc::Rc;
    use std::task::Poll;

    const MESSAGES_MAX: usize = 128;
    const UNRUNG_MAX: usize = 64;

    #[test]
    fn a_receiver_is_woken_once_per_turn() {
        let (sender, receiver) = mailbox(MESSAGES_MAX).expect("eventfd");
        let (mailboxes, bells) = ([sender], Bells::new(UNRUNG_MAX));
        receiver.bell.asleep.fall_asleep();
        assert_eq!((bells.put(&mailboxes, 0, 1), bells.put(&mailboxes, 0, 2)), (Ok(()), Ok(())));
        assert_eq!(sys::eventfd_clear(receiver.bell.eventfd.as_raw_fd()), 0, "not before it is time");
        bells.ring(&mailboxes);
        bells.ring(&mailboxes);
        assert_eq!(sys::eventfd_clear(receiver.bell.eventfd.as_raw_fd()), 1);
        assert_eq!((receiver.try_recv(), receiver.try_recv()), (Some(1), Some(2)));
    }

    #[test]
    fn many_messages_wake_the_receiver_within_the_turn() {
        let (sender, receiver) = mailbox(MESSAGES_MAX).expect("eventfd");
        let (mailboxes, bells) = ([sender], Bells::new(UNRUNG_MAX));
        receiver.bell.asleep.fall_asleep();
        (0..UNRUNG_MAX).for_each(|n| assert_eq!(bells.put(&mailboxes, 0, n), Ok(())));
        assert_eq!(sys::eventfd_clear(receiver.bell.eventfd.as_raw_fd()), 1);
    }

    #[test]
    fn a_full_mailbox_gives_the_item_back() {
        let (sender, receiver) = mailbox(MESSAGES_MAX).expect("eventfd");
        for n in 0..MESSAGES_MAX {
            assert_eq!(sender.try_send(n), Ok(()));
        }
        assert_eq!(sender.try_send(7), Err(7));
        assert_eq!(receiver.try_recv(), Some(0));
        assert_eq!(sender.try_send(7), Ok(()));
    }

    /// A task that always finds a message, as beside a worker that sends without end.
    #[test]
    fn sockets_are_heard_beside_steady_messages() {
        let mut ring = io_uring_monoio::IoUring::builder();
        ring.setup_single_issuer().setup_defer_taskrun();
        let builder = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().uring_builder(ring);
        let mut runtime = builder.build().expect("io_uring is allowed here");
        let rounds = runtime.block_on(async {
            let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().expect("two sockets");
            let ours = Rc::new(Pollable::new(ours.into()).expect("a descriptor"));
            let heard = Rc::new(Cell::new(false));
            let reading = monoio::spawn({
                let heard = heard.clone();
                async move {
                    ours.readable().await;
                    heard.set(true);
                }
            });
            theirs.write_all(b"here I am").expect("there is room");
            let (sender, receiver) = mailbox(MESSAGES_MAX).expect("eventfd");
            let bell = receiver.pollable().expect("a descriptor");
            let rounds = monoio::spawn(async move {
                for round in 0..1_000 {
                    if heard.get() {
                        return round;
                    }
                    sender.try_send(()).expect("there is room");
                    receiver.wait(&bell).await;
                    assert_eq!(receiver.try_recv(), Some(()));
                    let mut is_second = false;
                    std::future::poll_fn(|cx| {
                        cx.waker().wake_by_ref();
                        if std::mem::replace(&mut is_second, true) { Poll::Ready(()) } else { Poll::Pending }
                    })
                    .await;
                }
                1_000
            });
            let rounds = rounds.await;
            if rounds < 1_000 {
                reading.await;
            }
            rounds
        });
        assert!(rounds < 10, "not heard in {rounds} rounds");
    }
}
