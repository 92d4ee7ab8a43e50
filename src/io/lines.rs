//! The sockets of this worker's clients, by their slot in the shard: writing to them, ending them, and waking the
//! session tasks that were told to stop reading.
//!
//! Writes are direct: one `send` per connection and turn, of all frames that wait. A socket that takes no more is put
//! into an epoll set, which one task of the worker waits for: a blocked client costs no task and no buffer.

use super::socket::Pollable;
use super::sys;
use crate::base::id::{ConnIndex, ConnKey};
use crate::shard::Shard;
use rustc_hash::FxHashMap;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::os::fd::RawFd;
use std::task::{Poll, Waker};

pub struct Lines {
    lines: RefCell<Vec<Line>>,
    paused: RefCell<FxHashMap<ConnIndex, Paused>>,
    epoll: Pollable,
    scratch: RefCell<Vec<u8>>,
}

#[derive(Clone, Copy)]
struct Line {
    /// `NONE` when the slot has no socket.
    fd: RawFd,
    /// The socket takes no more; epoll tells when it does.
    blocked: bool,
}

enum Paused {
    Waiting(Waker),
    Resumed,
}

impl Lines {
    pub fn new() -> io::Result<Lines> {
        Ok(Lines {
            lines: RefCell::default(),
            paused: RefCell::default(),
            epoll: Pollable::new(sys::epoll_create()?)?,
            scratch: RefCell::default(),
        })
    }

    pub fn attach(&self, index: ConnIndex, fd: RawFd) {
        let mut lines = self.lines.borrow_mut();
        if lines.len() <= index.slot() {
            lines.resize(index.slot() + 1, Line::EMPTY);
        }
        debug_assert_eq!(lines[index.slot()].fd, NONE, "a slot has one socket");
        lines[index.slot()] = Line { fd, blocked: false };
    }

    /// Before the socket is closed: its number may come back as somebody else's.
    pub fn detach(&self, index: ConnIndex) {
        self.lines.borrow_mut()[index.slot()] = Line::EMPTY;
        self.paused.borrow_mut().remove(&index);
    }

    /// Ends our direction; the session task reads on until the peer ends its own.
    pub fn end_writing(&self, index: ConnIndex) {
        let line = self.line(index);
        if line.fd != NONE {
            sys::shutdown_write(line.fd);
        }
    }

    /// The pending read completes, the session task ends.
    pub fn shutdown(&self, index: ConnIndex) {
        let line = self.line(index);
        if line.fd != NONE {
            sys::shutdown(line.fd);
        }
    }

    /// Writes to the next connections that have something to write, so many of them.
    pub fn flush(&self, shard: &mut Shard, most: usize) {
        for _ in 0..most {
            let Some(index) = shard.next_dirty() else { return };
            let line = self.line(index);
            if line.fd != NONE && !line.blocked {
                self.flush_one(shard, index, line.fd);
            }
        }
    }

    fn flush_one(&self, shard: &mut Shard, index: ConnIndex, fd: RawFd) {
        let mut scratch = self.scratch.borrow_mut();
        loop {
            scratch.clear();
            shard.gather(index, WRITE_ENOUGH, &mut scratch);
            if scratch.is_empty() {
                break;
            }
            match sys::send(fd, &scratch) {
                Ok(sent) => {
                    let more = shard.written(index, sent);
                    if sent < scratch.len() {
                        self.block(index, fd);
                        break;
                    }
                    if !more {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.block(index, fd);
                    break;
                }
                // The peer is gone; the pending read ends, and with it the session task.
                Err(_) => {
                    sys::shutdown(fd);
                    break;
                }
            }
        }
        scratch.shrink_to(SCRATCH_KEPT);
    }

    fn block(&self, index: ConnIndex, fd: RawFd) {
        self.lines.borrow_mut()[index.slot()].blocked = true;
        if sys::epoll_arm_write(self.epoll.fd(), fd, u64::from(index.0) << 32 | fd as u32 as u64).is_err() {
            sys::shutdown(fd);
        }
    }

    /// Returns when some socket can be written again; then `take_writable`.
    pub async fn writable(&self) {
        self.epoll.readable().await;
    }

    /// Writes on where it was blocked.
    pub fn take_writable(&self, shard: &mut Shard) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS_PER_LOOK];
        let count = sys::epoll_take(self.epoll.fd(), &mut events);
        for event in &events[..count] {
            let data = event.u64;
            let (index, fd) = (ConnIndex((data >> 32) as u32), data as u32 as RawFd);
            // A socket that was closed meanwhile, or its number used again, is not the one that was blocked.
            let line = self.line(index);
            if line.fd == fd && line.blocked {
                self.lines.borrow_mut()[index.slot()].blocked = false;
                self.flush_one(shard, index, fd);
            }
        }
    }

    /// The session task waits here while its client is not to be read.
    pub async fn resumed(&self, key: ConnKey) {
        poll_fn(|context| {
            let mut paused = self.paused.borrow_mut();
            if matches!(paused.get(&key.index), Some(Paused::Resumed)) {
                paused.remove(&key.index);
                return Poll::Ready(());
            }
            paused.insert(key.index, Paused::Waiting(context.waker().clone()));
            Poll::Pending
        })
        .await
    }

    pub fn resume(&self, key: ConnKey) {
        if self.line(key.index).fd == NONE {
            return;
        }
        if let Some(Paused::Waiting(waker)) = self.paused.borrow_mut().insert(key.index, Paused::Resumed) {
            waker.wake();
        }
    }

    fn line(&self, index: ConnIndex) -> Line {
        self.lines.borrow().get(index.slot()).copied().unwrap_or(Line::EMPTY)
    }
}

impl Line {
    const EMPTY: Line = Line { fd: NONE, blocked: false };
}

const NONE: RawFd = -1;
/// Bytes gathered for one send: more than a socket's buffer usually takes.
const WRITE_ENOUGH: usize = 64 << 10;
const SCRATCH_KEPT: usize = 256 << 10;
const EVENTS_PER_LOOK: usize = 256;
