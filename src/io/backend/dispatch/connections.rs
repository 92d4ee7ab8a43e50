//! Connections to backends as plain data: what each one is doing, for which request, and until when.
//!
//! ```text
//!   open ──▶ Resolving ──▶ Connecting ──▶ Busy ◀──▶ Idle
//!                │              │           │         │
//!             removed           └────────▶ Closing ◀──┘    (Closing: shut down, and its task is about to end)
//! ```
//!
//! Owns the sockets' numbers, the write buffers and the table's entries; the task of a connection owns its socket.
//! Sends without waiting and shuts down; never reads and never waits. Called by the dispatcher only.

use std::io::{self, ErrorKind};
use std::ops::{Index, IndexMut};
use std::os::fd::RawFd;

use monoio::io::OwnedWriteHalf;
use monoio::net::TcpStream;
use slab::Slab;

use super::ids::{ConnectionIndex, ConnectionSerial, RequestIndex, UpstreamIndex};
use crate::base::time::Tick;
use crate::io::runtime::net;

#[derive(Default)]
pub struct Connections {
    entries: Slab<UpstreamConnection>,
    next_serial: u64,
    /// Entries that wait for their upstream's address.
    resolving: usize,
}

/// One connection to a backend.
pub struct UpstreamConnection {
    serial: ConnectionSerial,
    upstream: UpstreamIndex,
    state: ConnectionState,
    request: Option<RequestIndex>,
    /// `None` until there is a socket. The number stays valid as long as the entry does: the task removes the entry
    /// before it closes the socket.
    fd: Option<RawFd>,
    /// For what the kernel does not take at once; away while that is being sent.
    writer: Option<OwnedWriteHalf<TcpStream>>,
    out: Vec<u8>,
    /// A task of its own sends the rest of a request.
    is_sending: bool,
    /// By when the request must be answered, or the idle connection used.
    deadline: Tick,
    /// By when the present address must have answered, while there are others to try.
    connect_by: Tick,
    /// Responses received.
    responses: u64,
    /// Carries no request that begins after this, so that a change of the name's addresses is noticed.
    retire_at: Tick,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// No task yet: the address is not known.
    Resolving,
    Connecting,
    Busy,
    Idle,
    /// Shut down; its task is about to end.
    Closing,
}

/// What the kernel did not take of a request.
pub struct Unsent {
    pub serial: ConnectionSerial,
    pub writer: OwnedWriteHalf<TcpStream>,
    pub bytes: Vec<u8>,
    /// So many of `bytes` are sent.
    pub sent: usize,
}

impl Connections {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Enters a connection that is opened for `request`.
    pub fn open(&mut self, upstream: UpstreamIndex, request: RequestIndex, deadline: Tick) -> ConnectionIndex {
        self.next_serial += 1;
        self.resolving += 1;
        ConnectionIndex(self.entries.insert(UpstreamConnection {
            serial: ConnectionSerial(self.next_serial),
            upstream,
            state: ConnectionState::Resolving,
            request: Some(request),
            fd: None,
            writer: None,
            out: Vec::new(),
            is_sending: false,
            deadline,
            connect_by: Tick::NEVER,
            responses: 0,
            retire_at: Tick::NEVER,
        }))
    }

    /// The addresses are known, and the connection's task is about to begin.
    pub fn resolved(&mut self, index: ConnectionIndex) {
        self.resolving -= 1;
        self[index].state = ConnectionState::Connecting;
    }

    pub fn remove(&mut self, index: ConnectionIndex) -> UpstreamConnection {
        let connection = self.entries.remove(index.0);
        self.resolving -= usize::from(connection.state == ConnectionState::Resolving);
        connection
    }

    /// The connection with that serial number, unless it has ended.
    pub fn get_mut(&mut self, index: ConnectionIndex, serial: ConnectionSerial) -> Option<&mut UpstreamConnection> {
        self.entries.get_mut(index.0).filter(|connection| connection.serial == serial)
    }

    pub fn all(&self) -> Vec<ConnectionIndex> {
        self.select(|_| true)
    }

    pub fn has_resolving(&self) -> bool {
        self.resolving > 0
    }

    pub fn resolving(&self) -> Vec<ConnectionIndex> {
        self.select(|connection| connection.state == ConnectionState::Resolving)
    }

    pub fn overdue(&self, now: Tick) -> Vec<ConnectionIndex> {
        self.select(|connection| connection.next_deadline() <= now)
    }

    pub fn next_deadline(&self) -> Tick {
        self.entries.iter().map(|(_, connection)| connection.next_deadline()).min().unwrap_or(Tick::NEVER)
    }

    fn select(&self, is_meant: impl Fn(&UpstreamConnection) -> bool) -> Vec<ConnectionIndex> {
        let meant = self.entries.iter().filter(|(_, connection)| is_meant(connection));
        meant.map(|(index, _)| ConnectionIndex(index)).collect()
    }

    #[cfg(debug_assertions)]
    pub fn iter(&self) -> impl Iterator<Item = &UpstreamConnection> {
        self.entries.iter().map(|(_, connection)| connection)
    }

    #[cfg(debug_assertions)]
    pub fn check_invariants(&self) {
        assert_eq!(self.resolving().len(), self.resolving);
        for (_, connection) in &self.entries {
            let is_free = matches!(connection.state, ConnectionState::Idle | ConnectionState::Closing);
            assert!(!is_free || connection.request.is_none(), "nobody would answer the request");
        }
    }
}

impl Index<ConnectionIndex> for Connections {
    type Output = UpstreamConnection;

    fn index(&self, index: ConnectionIndex) -> &UpstreamConnection {
        &self.entries[index.0]
    }
}

impl IndexMut<ConnectionIndex> for Connections {
    fn index_mut(&mut self, index: ConnectionIndex) -> &mut UpstreamConnection {
        &mut self.entries[index.0]
    }
}

impl UpstreamConnection {
    pub fn upstream(&self) -> UpstreamIndex {
        self.upstream
    }

    pub fn state(&self) -> ConnectionState {
        self.state
    }

    /// The request that waits for a response on this connection.
    pub fn request(&self) -> Option<RequestIndex> {
        self.request
    }

    pub fn take_request(&mut self) -> Option<RequestIndex> {
        self.request.take()
    }

    /// By when its request must be answered, or it must be used.
    pub fn deadline(&self) -> Tick {
        self.deadline
    }

    /// When something has to be done about it.
    pub fn next_deadline(&self) -> Tick {
        match self.state {
            ConnectionState::Closing => Tick::NEVER,
            ConnectionState::Connecting => self.deadline.min(self.connect_by),
            ConnectionState::Resolving | ConnectionState::Busy | ConnectionState::Idle => self.deadline,
        }
    }

    /// It has carried a request before, so the backend may have closed it as idle.
    pub fn has_responded(&self) -> bool {
        self.responses > 0
    }

    /// Another request may follow the one that was answered. Not while a rest of that one is still being sent: the
    /// backend would take it for the next one.
    pub fn is_reusable(&self, now: Tick) -> bool {
        self.state == ConnectionState::Busy && !self.is_sending && now < self.retire_at
    }

    // Its life, in order.

    /// The socket on its way to an address. False: the connection is being closed, so the socket is not wanted.
    pub fn connecting(&mut self, fd: RawFd, connect_by: Tick) -> bool {
        if self.state == ConnectionState::Closing {
            return false;
        }
        (self.fd, self.connect_by) = (Some(fd), connect_by);
        true
    }

    /// The address did not answer, and its socket is gone.
    pub fn address_failed(&mut self) {
        self.fd = None;
    }

    /// Ends the try of the present address; the task then goes on to the next one.
    pub fn abandon_address(&mut self) {
        self.connect_by = Tick::NEVER;
        self.shutdown();
    }

    /// The connection stands. False: it was shut down meanwhile, and its first read will end at once.
    pub fn connected(&mut self, writer: OwnedWriteHalf<TcpStream>, retire_at: Tick) -> bool {
        (self.writer, self.retire_at) = (Some(writer), retire_at);
        if self.state == ConnectionState::Closing {
            return false;
        }
        (self.state, self.connect_by) = (ConnectionState::Busy, Tick::NEVER);
        true
    }

    /// An idle connection gets a request.
    pub fn assign(&mut self, request: RequestIndex, deadline: Tick) {
        debug_assert!(self.state == ConnectionState::Idle && self.request.is_none());
        (self.state, self.request, self.deadline) = (ConnectionState::Busy, Some(request), deadline);
    }

    /// Has `write` fill the buffer with a request, and gives it to the kernel, which nearly always takes all of it.
    /// What it does not take is to be sent by a task and to come back to `rest_sent`.
    pub fn send(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Option<Unsent> {
        write(&mut self.out);
        let fd = self.fd.expect("a connection that stands has a socket");
        match send_some(fd, &self.out) {
            Ok(sent) if sent == self.out.len() => self.empty_buffer(),
            Ok(sent) => {
                self.is_sending = true;
                let writer = self.writer.take().expect("at home while nothing is being sent");
                return Some(Unsent { serial: self.serial, writer, bytes: std::mem::take(&mut self.out), sent });
            }
            // The read that is outstanding will end and report it.
            Err(_) => self.shutdown(),
        }
        None
    }

    /// What the kernel did not take at once has been sent, or cannot be.
    pub fn rest_sent(&mut self, writer: OwnedWriteHalf<TcpStream>, bytes: Vec<u8>, is_sent: bool) {
        self.is_sending = false;
        (self.writer, self.out) = (Some(writer), bytes);
        self.empty_buffer();
        if !is_sent {
            self.shutdown();
        }
    }

    /// The whole response has come.
    pub fn count_response(&mut self) {
        self.responses += 1;
    }

    /// Nothing to do until `deadline`.
    pub fn rest_until(&mut self, deadline: Tick) {
        (self.state, self.deadline) = (ConnectionState::Idle, deadline);
    }

    /// Its task notices by its read, which is never dropped while it is outstanding.
    pub fn close(&mut self) {
        debug_assert!(self.request.is_none(), "a request would be lost");
        self.state = ConnectionState::Closing;
        self.shutdown();
    }

    /// Ends both directions, which ends reads, writes and connects that are under way.
    fn shutdown(&self) {
        if let Some(fd) = self.fd {
            net::shutdown(fd);
        }
    }

    /// One large request must not keep its memory for the life of the connection.
    fn empty_buffer(&mut self) {
        self.out.clear();
        self.out.shrink_to(BUFFER_BYTES_MAX);
    }
}

/// One `send` that does not wait: how much of `bytes` the kernel has taken.
fn send_some(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    match net::send(fd, bytes) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}

/// What a write buffer keeps of its memory between two requests.
const BUFFER_BYTES_MAX: usize = 64 << 10;
