//! Responses to callers, written at the end of the turn, each behind the frames that waited when it was appended. So
//! the turn first reads and thinks, and then writes, everything back to back. (A receiver that works in the meantime is
//! woken once per turn instead of once per write, and neither code evicts the other from the processor's cache.)
//!
//! ```text
//! serve: append, push ─► DueResponses ─► end of the turn: send ─► all taken: written
//!                                                              └─► the caller takes no more: a task sends on, until
//!                                                                  a deadline
//! ```

use crate::io::runtime::clock;
use crate::io::runtime::deadlines::{Deadlines, Watch};
use crate::io::runtime::net;
use crate::io::runtime::notify::Notify;
use crate::io::runtime::socket::Socket;
use crate::io::worker::descriptors::{Descriptors, Purpose};
use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;

/// The responses of this turn, in order.
#[derive(Default)]
pub struct DueResponses(RefCell<Vec<DueResponse>>);

/// One caller's bytes, and their place among the turn's writes.
pub struct DueResponse {
    behind: usize,
    to: Rc<ResponseStream>,
}

/// The writing side of one HTTP connection. Must be dropped before its socket.
pub struct ResponseWriter(Rc<ResponseStream>);

struct ResponseStream {
    fd: RawFd,
    bytes: RefCell<Vec<u8>>,
    state: Cell<WriterState>,
    /// The caller is gone, or was given up: nothing more is written.
    cut_off: Cell<bool>,
    written: Notify,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WriterState {
    /// Nothing waits.
    Written,
    /// Among the turn's responses.
    Due,
    /// The peer takes no more for now; a task waits until it does.
    Blocked,
}

impl DueResponses {
    /// What was appended is written in this turn, behind the frames of so many connections.
    pub fn push(&self, ResponseWriter(to): &ResponseWriter, behind: usize) {
        if to.state.get() == WriterState::Written {
            to.state.set(WriterState::Due);
            self.0.borrow_mut().push(DueResponse { behind, to: to.clone() });
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Hands each to `write`, in order.
    pub fn drain(&self, write: impl FnMut(DueResponse)) {
        let mut due = self.0.take();
        due.drain(..).for_each(write);
        debug_assert!(self.is_empty(), "writing a response makes no other due");
        // The vector's capacity is kept for the next turn.
        self.0.replace(due);
    }
}

impl DueResponse {
    /// How many connections had frames to write when this response became due.
    pub fn behind(&self) -> usize {
        self.behind
    }

    /// Writes what the socket takes. `Some` when that is not all: the future writes the rest, and yields false when the
    /// caller has taken nothing for `timeout_ms`.
    #[must_use]
    pub fn write(
        self,
        deadlines: &Rc<Deadlines>,
        descriptors: &Descriptors,
        timeout_ms: u64,
    ) -> Option<impl Future<Output = bool> + use<>> {
        let DueResponse { to, .. } = self;
        if to.state.get() != WriterState::Due {
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
        to.state.set(WriterState::Blocked);
        let has_room = descriptors.has_room(Purpose::Service);
        let socket = has_room.then(|| to.second_descriptor().ok()).flatten();
        if socket.is_none() {
            net::shutdown(to.fd);
        }
        let rest = socket.map(|socket| {
            let watch = deadlines.watch(socket.fd());
            watch.set_writing(clock::monotonic() + timeout_ms);
            (watch, socket)
        });
        Some(to.send_on(rest, timeout_ms))
    }
}

impl ResponseWriter {
    pub fn new(fd: RawFd) -> ResponseWriter {
        let (bytes, written) = Default::default();
        let (state, cut_off) = (Cell::new(WriterState::Written), Cell::new(false));
        ResponseWriter(Rc::new(ResponseStream { fd, bytes, state, cut_off, written }))
    }

    /// Appends what the closure writes; `DueResponses::push` must follow.
    pub fn append(&self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.0.bytes.borrow_mut());
    }

    /// One more response may be appended: `bytes_max` bounds what waits for a caller that does not read.
    pub fn has_room(&self, bytes_max: usize) -> bool {
        let ResponseStream { state, cut_off, bytes, .. } = &*self.0;
        state.get() != WriterState::Blocked && !cut_off.get() && bytes.borrow().len() < bytes_max
    }

    pub fn is_written(&self) -> bool {
        self.0.state.get() == WriterState::Written
    }

    /// Returns when all has been written; false when the caller is gone or was given up.
    pub async fn written(&self) -> bool {
        while !self.is_written() {
            self.0.written.notified().await;
        }
        !self.0.cut_off.get()
    }
}

impl Drop for ResponseWriter {
    /// What is due is written now, while the descriptor is ours. A task that sends the rest goes on.
    fn drop(&mut self) {
        if self.0.state.get() == WriterState::Due {
            let sent = self.0.send(self.0.fd);
            self.0.end(sent.is_ok());
        }
    }
}

impl ResponseStream {
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

    async fn send_on(self: Rc<ResponseStream>, rest: Option<(Watch, Socket)>, timeout_ms: u64) -> bool {
        let Some((watch, socket)) = rest else {
            self.end(false);
            return false;
        };
        loop {
            socket.writable().await;
            match self.send(socket.fd()) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    watch.set_writing(clock::monotonic() + timeout_ms);
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
        // SAFETY: it is open: the writer, which is dropped first, would have written this before.
        let fd: OwnedFd = unsafe { BorrowedFd::borrow_raw(self.fd) }.try_clone_to_owned()?;
        debug_assert_ne!(fd.as_raw_fd(), self.fd);
        Socket::new(fd)
    }

    fn end(&self, written: bool) {
        self.cut_off.set(!written);
        let mut bytes = self.bytes.borrow_mut();
        bytes.clear();
        bytes.shrink_to(IDLE_CAPACITY_MAX);
        drop(bytes);
        self.state.set(WriterState::Written);
        self.written.notify();
    }
}

/// The buffer's capacity between two responses, at most.
const IDLE_CAPACITY_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::ShardId;
    use crate::config::Config;
    use std::os::unix::net::UnixStream;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn roomy() -> Descriptors {
        Descriptors::new(ShardId(0), 1000, &Config::default())
    }

    fn writer(socket: &UnixStream, bytes: &[u8]) -> ResponseWriter {
        let writer = ResponseWriter::new(socket.as_raw_fd());
        writer.append(|out| out.extend_from_slice(bytes));
        writer
    }

    #[test]
    fn responses_go_out_in_order_and_once() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (due, deadlines) = (DueResponses::default(), Rc::new(Deadlines::new(clock::monotonic())));
        let writer = writer(&ours, b"one ");
        due.push(&writer, 3);
        writer.append(|out| out.extend_from_slice(b"two"));
        due.push(&writer, 4);
        let mut places = Vec::new();
        due.drain(|response| {
            places.push(response.behind());
            assert!(response.write(&deadlines, &roomy(), TIMEOUT_MS).is_none());
        });
        assert_eq!(places, [3], "both go with the first");
        assert!(writer.0.state.get() == WriterState::Written);
        drop((writer, ours));
        assert_eq!(read_all(theirs), b"one two");
    }

    #[test]
    fn what_is_due_is_written_before_the_socket_is_closed() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (due, deadlines) = (DueResponses::default(), Rc::new(Deadlines::new(clock::monotonic())));
        let writer = writer(&ours, b"last words");
        due.push(&writer, 0);
        drop((writer, ours));
        // The number may be somebody else's now.
        due.drain(|response| assert!(response.write(&deadlines, &roomy(), TIMEOUT_MS).is_none()));
        assert_eq!(read_all(theirs), b"last words");
    }

    /// More than a socket holds, written at once; `then` is what the caller does while the rest is being written.
    fn blocked(then: impl FnOnce(UnixStream, &Deadlines)) -> bool {
        let runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().build();
        runtime.expect("io_uring is allowed here").block_on(async {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            let (due, deadlines) = (DueResponses::default(), Rc::new(Deadlines::new(clock::monotonic())));
            let writer = writer(&ours, &vec![7; LONG]);
            due.push(&writer, 0);
            let mut rest = None;
            due.drain(|response| rest = response.write(&deadlines, &roomy(), TIMEOUT_MS));
            assert!(writer.0.state.get() == WriterState::Blocked);
            // Its number may be another's from here on.
            drop((writer, ours));
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
        let mut unread = None;
        let in_time = blocked(|theirs, deadlines| {
            unread = Some(theirs);
            deadlines.poll(clock::monotonic() + 2 * TIMEOUT_MS);
        });
        assert!(!in_time);
        assert!(read_all(unread.expect("the caller is there")).len() < LONG);
    }

    #[test]
    fn a_slow_caller_is_given_up_where_the_last_descriptors_are_for_others() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (due, deadlines) = (DueResponses::default(), Rc::new(Deadlines::new(clock::monotonic())));
        let writer = writer(&ours, &vec![7; LONG]);
        due.push(&writer, 0);
        let full = Descriptors::new(ShardId(0), 0, &Config::default());
        let mut rest = None;
        due.drain(|response| rest = response.write(&deadlines, &full, TIMEOUT_MS));
        let mut context = Context::from_waker(Waker::noop());
        let ended = pin!(rest.expect("not all of it was taken")).poll(&mut context);
        assert_eq!(ended, Poll::Ready(false));
        assert!(read_all(theirs).len() < LONG, "the stream has ended");
    }

    const LONG: usize = 4 << 20;
    const TIMEOUT_MS: u64 = 30_000;

    fn read_all(mut theirs: UnixStream) -> Vec<u8> {
        let mut read = Vec::new();
        std::io::Read::read_to_end(&mut theirs, &mut read).expect("the peer reads");
        read
    }
}
