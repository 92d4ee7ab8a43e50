//! The sockets of this worker's clients, by their slot in the shard: writing to them, ending them, and waking the
//! client tasks that have stopped reading.
//!
//! Writes are direct: one `send` per 64 KiB of the frames that wait for a connection, once per turn; a long packet goes
//! out from where it lies, whatever part of it the socket takes at a time. A socket that
//! takes no more is put into an epoll set, which one task of the worker waits for: a blocked client costs no task and
//! no buffer.

use crate::base::id::{ConnIndex, ConnKey};
use crate::io::runtime::net;
use crate::io::runtime::notify::Notify;
use crate::io::runtime::socket::Pollable;
use crate::io::runtime::sys;
use crate::shard::Shard;
use rustc_hash::FxHashMap;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::os::fd::RawFd;

pub struct ClientSockets {
    /// By the connection's slot.
    sockets: RefCell<Vec<ClientSocket>>,
    /// Connections that are not read for now, and those that may be read again but whose tasks have not run yet.
    paused: RefCell<FxHashMap<ConnIndex, Notify>>,
    epoll: Pollable,
    scratch: RefCell<Vec<u8>>,
}

#[derive(Clone, Copy)]
struct ClientSocket {
    /// `NONE` when the slot has no socket.
    fd: RawFd,
    /// The socket takes no more; epoll tells when it does.
    blocked: bool,
    /// So many wait for something before it is written to.
    corks: u8,
}

impl ClientSockets {
    pub fn new() -> io::Result<ClientSockets> {
        Ok(ClientSockets {
            sockets: RefCell::default(),
            paused: RefCell::default(),
            epoll: Pollable::new(sys::epoll_create()?)?,
            scratch: RefCell::default(),
        })
    }

    pub fn attach(&self, index: ConnIndex, fd: RawFd) {
        let mut sockets = self.sockets.borrow_mut();
        if sockets.len() <= index.slot() {
            sockets.resize(index.slot() + 1, ClientSocket::EMPTY);
        }
        debug_assert_eq!(sockets[index.slot()].fd, NONE, "a slot has one socket");
        sockets[index.slot()] = ClientSocket { fd, blocked: false, corks: 0 };
    }

    /// Before the socket is closed: its number may come back as somebody else's.
    pub fn detach(&self, index: ConnIndex) {
        self.sockets.borrow_mut()[index.slot()] = ClientSocket::EMPTY;
        self.paused.borrow_mut().remove(&index);
    }

    /// Ends our direction; the client's task reads on until the peer ends its own.
    pub fn end_writing(&self, index: ConnIndex) {
        let socket = self.socket(index);
        if socket.fd != NONE {
            net::shutdown_write(socket.fd);
        }
    }

    /// The pending read completes, the client's task ends.
    pub fn shutdown(&self, index: ConnIndex) {
        let socket = self.socket(index);
        if socket.fd != NONE {
            net::shutdown(socket.fd);
        }
    }

    /// Writes to the next connections that have something to write, so many of them.
    pub fn flush(&self, shard: &mut Shard, most: usize) {
        for _ in 0..most {
            let Some(index) = shard.next_dirty() else { return };
            let socket = self.socket(index);
            if socket.fd != NONE && !socket.blocked && socket.corks == 0 {
                self.flush_one(shard, index, socket.fd);
            }
        }
    }

    /// Keeps what waits for a connection until `uncork`; each that was called needs one.
    pub fn cork(&self, index: ConnIndex) {
        if let Some(socket) = self.sockets.borrow_mut().get_mut(index.slot()) {
            socket.corks += 1;
        }
    }

    pub fn uncork(&self, shard: &mut Shard, index: ConnIndex) {
        let socket = self.socket(index);
        if socket.corks > 0 {
            self.sockets.borrow_mut()[index.slot()].corks -= 1;
            if socket.corks == 1 {
                self.flush_one(shard, index, socket.fd);
            }
        }
    }

    fn flush_one(&self, shard: &mut Shard, index: ConnIndex, fd: RawFd) {
        let mut scratch = self.scratch.borrow_mut();
        loop {
            scratch.clear();
            let shared = shard.gather(index, WRITE_ENOUGH, &mut scratch);
            let len = scratch.len() + shared.len();
            if len == 0 {
                break;
            }
            let sent = if shared.is_empty() { net::send(fd, &scratch) } else { net::send_both(fd, &scratch, shared) };
            match sent {
                Ok(sent) => {
                    let more = shard.written(index, sent);
                    if sent < len {
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
                // The peer is gone; the pending read ends, and with it the client's task.
                Err(_) => {
                    net::shutdown(fd);
                    break;
                }
            }
        }
        scratch.shrink_to(SCRATCH_BYTES_MAX);
    }

    fn block(&self, index: ConnIndex, fd: RawFd) {
        self.sockets.borrow_mut()[index.slot()].blocked = true;
        if sys::epoll_arm_write(self.epoll.fd(), fd, u64::from(index.0) << 32 | fd as u32 as u64).is_err() {
            net::shutdown(fd);
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
            let socket = self.socket(index);
            if socket.fd == fd && socket.blocked {
                self.sockets.borrow_mut()[index.slot()].blocked = false;
                self.flush_one(shard, index, fd);
            }
        }
    }

    /// The client's task waits here while its client is not to be read.
    pub async fn resumed(&self, key: ConnKey) {
        poll_fn(|context| {
            let mut paused = self.paused.borrow_mut();
            let resumed = paused.entry(key.index).or_default().poll_notified(context);
            if resumed.is_ready() {
                paused.remove(&key.index);
            }
            resumed
        })
        .await
    }

    /// The client's task may read again, also when it has not come to wait yet.
    pub fn resume(&self, key: ConnKey) {
        if self.socket(key.index).fd != NONE {
            self.paused.borrow_mut().entry(key.index).or_default().notify();
        }
    }

    fn socket(&self, index: ConnIndex) -> ClientSocket {
        self.sockets.borrow().get(index.slot()).copied().unwrap_or(ClientSocket::EMPTY)
    }
}

impl ClientSocket {
    const EMPTY: ClientSocket = ClientSocket { fd: NONE, blocked: false, corks: 0 };
}

const NONE: RawFd = -1;
/// Bytes gathered for one send: more than a socket's buffer usually takes.
const WRITE_ENOUGH: usize = 64 << 10;
const SCRATCH_BYTES_MAX: usize = 256 << 10;
const EVENTS_PER_LOOK: usize = 256;
