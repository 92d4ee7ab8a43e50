//! The answers to calls. A turn's answers are written at its end, each behind the frames that waited when it was given:
//! so the turn first reads and thinks, and then writes, everything back to back. (A receiver that works in the meantime
//! is woken once per turn instead of once per write, and neither code throws the other out of the processor's cache.)
//!
//! ```text
//! serve: give ─► Answers ─► end of the turn: send ─► all taken: written
//!                                                └─► the caller takes no more: a task sends on, until a deadline
//! ```

use crate::io::runtime::clock;
use crate::io::runtime::deadlines::{Deadlines, Watch};
use crate::io::runtime::net;
use crate::io::runtime::socket::Socket;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Poll, Waker};

/// What this turn has to say to callers, in order.
#[derive(Default)]
pub struct Answers(RefCell<Vec<Answer>>);

/// One caller's bytes, and where they stand among the turn's writes.
pub struct Answer {
    /// Connections with frames that were in the shard's line before it.
    pub behind: usize,
    to: Rc<Outgoing>,
}

/// Where one HTTP connection's bytes go. Must be dropped before its socket.
pub struct Outlet(Rc<Outgoing>);

struct Outgoing {
    fd: RawFd,
    bytes: RefCell<Vec<u8>>,
    state: Cell<State>,
    /// The caller is gone, or was given up: nothing more is written.
    cut_off: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing waits.
    Written,
    /// In the turn's line.
    Given,
    /// The peer takes no more for now; a task waits until it does.
    Blocked,
}

impl Answers {
    pub fn give(&self, Outlet(to): &Outlet, behind: usize) {
        if to.state.get() == State::Written {
            to.state.set(State::Given);
            self.0.borrow_mut().push(Answer { behind, to: to.clone() });
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Hands each to `write`, in order.
    pub fn drain(&self, write: impl FnMut(Answer)) {
        let mut given = self.0.take();
        given.drain(..).for_each(write);
        debug_assert!(self.is_empty(), "writing gives no answers");
        // For its room.
        self.0.replace(given);
    }
}

impl Answer {
    /// Writes what the socket takes. `Some` when that is not all: the future writes the rest, and yields false when the
    /// caller has taken nothing for `PATIENCE_MS`.
    #[must_use]
    pub fn write(self, deadlines: &Rc<Deadlines>) -> Option<impl Future<Output = bool> + use<>> {
        let Answer { to, .. } = self;
        if to.state.get() != State::Given {
            // Its connection has ended.
            return None;
        }
        match to.send(to.fd) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            outcome => {
                to.end(outcome.is_ok());
                return None;
            }
        }
        to.state.set(State::Blocked);
        // The table may be full.
        let socket = to.second_descriptor().inspect_err(|_| net::shutdown(to.fd)).ok();
        let rest = socket.map(|socket| {
            let watch = deadlines.watch(socket.fd());
            watch.set_writing(clock::monotonic() + PATIENCE_MS);
            (watch, socket)
        });
        Some(to.send_on(rest))
    }
}

impl Outlet {
    pub fn new(fd: RawFd) -> Outlet {
        let (bytes, waker) = Default::default();
        let (state, cut_off) = (Cell::new(State::Written), Cell::new(false));
        Outlet(Rc::new(Outgoing { fd, bytes, state, cut_off, waker }))
    }

    /// Appends what the closure writes; to be given then.
    pub fn append(&self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.0.bytes.borrow_mut());
    }

    /// One more answer may be appended: nothing is heaped up for a caller that does not take it.
    pub fn has_room(&self) -> bool {
        let Outgoing { state, cut_off, bytes, .. } = &*self.0;
        state.get() != State::Blocked && !cut_off.get() && bytes.borrow().len() < HEAP_MAX
    }

    pub fn is_written(&self) -> bool {
        self.0.state.get() == State::Written
    }

    /// Returns when all has been written; false when the caller is gone or was given up.
    pub async fn written(&self) -> bool {
        poll_fn(|context| {
            if self.is_written() {
                return Poll::Ready(!self.0.cut_off.get());
            }
            *self.0.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl Drop for Outlet {
    /// What is in the turn's line goes now, while the descriptor is ours. A task that sends on does so.
    fn drop(&mut self) {
        if self.0.state.get() == State::Given {
            let sent = self.0.send(self.0.fd);
            self.0.end(sent.is_ok());
        }
    }
}

impl Outgoing {
    /// All of it, or as much as the socket takes (`WouldBlock`).
    fn send(&self, fd: RawFd) -> io::Result<()> {
        let mut bytes = self.bytes.borrow_mut();
        let mut sent = 0;
        let outcome = loop {
            if sent == bytes.len() {
                break Ok(());
            }
            match net::send(fd, &bytes[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        bytes.drain(..sent);
        outcome
    }

    async fn send_on(self: Rc<Outgoing>, rest: Option<(Watch, Socket)>) -> bool {
        let Some((watch, socket)) = rest else {
            self.end(false);
            return false;
        };
        loop {
            socket.writable().await;
            match self.send(socket.fd()) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    watch.set_writing(clock::monotonic() + PATIENCE_MS);
                }
                outcome => {
                    self.end(outcome.is_ok());
                    return !watch.expired();
                }
            }
        }
    }

    /// One of our own, since the connection may end and its number be another's before all is written.
    fn second_descriptor(&self) -> io::Result<Socket> {
        // SAFETY: it is open: the outlet, which is dropped first, would have taken this out of the turn's line.
        let fd: OwnedFd = unsafe { BorrowedFd::borrow_raw(self.fd) }.try_clone_to_owned()?;
        debug_assert_ne!(fd.as_raw_fd(), self.fd);
        Socket::new(fd)
    }

    fn end(&self, written: bool) {
        self.cut_off.set(!written);
        let mut bytes = self.bytes.borrow_mut();
        bytes.clear();
        bytes.shrink_to(KEPT);
        drop(bytes);
        self.state.set(State::Written);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// Answers to requests that came in one piece go out in one piece, up to so many bytes.
const HEAP_MAX: usize = 64 << 10;
const KEPT: usize = 64 << 10;
/// A caller that takes nothing for so long is given up.
const PATIENCE_MS: u64 = 30_000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn outlet(socket: &UnixStream, bytes: &[u8]) -> Outlet {
        let outlet = Outlet::new(socket.as_raw_fd());
        outlet.append(|out| out.extend_from_slice(bytes));
        outlet
    }

    #[test]
    fn answers_go_out_in_order_and_once() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (answers, deadlines) = (Answers::default(), Rc::new(Deadlines::new(clock::monotonic())));
        let outlet = outlet(&ours, b"one ");
        answers.give(&outlet, 3);
        outlet.append(|out| out.extend_from_slice(b"two"));
        answers.give(&outlet, 4);
        let mut places = Vec::new();
        answers.drain(|answer| {
            places.push(answer.behind);
            assert!(answer.write(&deadlines).is_none());
        });
        assert_eq!(places, [3], "both go with the first");
        assert!(outlet.0.state.get() == State::Written);
        drop((outlet, ours));
        assert_eq!(read_all(theirs), b"one two");
    }

    #[test]
    fn what_was_given_is_written_before_the_socket_is_closed() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (answers, deadlines) = (Answers::default(), Rc::new(Deadlines::new(clock::monotonic())));
        let outlet = outlet(&ours, b"last words");
        answers.give(&outlet, 0);
        drop((outlet, ours));
        // The number may be somebody else's now.
        answers.drain(|answer| assert!(answer.write(&deadlines).is_none()));
        assert_eq!(read_all(theirs), b"last words");
    }

    /// More than a socket holds, given at once; `then` is what the caller does while the rest is being written.
    fn blocked(then: impl FnOnce(UnixStream, &Deadlines)) -> bool {
        let runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().build();
        runtime.expect("io_uring is allowed here").block_on(async {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            let (answers, deadlines) = (Answers::default(), Rc::new(Deadlines::new(clock::monotonic())));
            let outlet = outlet(&ours, &vec![7; LONG]);
            answers.give(&outlet, 0);
            let mut rest = None;
            answers.drain(|answer| rest = answer.write(&deadlines));
            assert!(outlet.0.state.get() == State::Blocked);
            // Its number may be another's from here on.
            drop((outlet, ours));
            then(theirs, &deadlines);
            rest.expect("not all of it was taken").await
        })
    }

    #[test]
    fn a_slow_caller_gets_the_rest() {
        let mut reader = None;
        assert!(blocked(|theirs, _| reader = Some(std::thread::spawn(|| read_all(theirs)))));
        assert_eq!(reader.expect("started").join().expect("no panic"), vec![7; LONG]);
    }

    #[test]
    fn a_caller_that_takes_nothing_is_given_up_at_the_deadline() {
        let mut kept = None;
        let in_time = blocked(|theirs, deadlines| {
            kept = Some(theirs);
            deadlines.poll(clock::monotonic() + 2 * PATIENCE_MS);
        });
        assert!(!in_time);
        assert!(read_all(kept.expect("given")).len() < LONG);
    }

    const LONG: usize = 4 << 20;

    fn read_all(mut theirs: UnixStream) -> Vec<u8> {
        let mut read = Vec::new();
        std::io::Read::read_to_end(&mut theirs, &mut read).expect("the peer reads");
        read
    }
}
