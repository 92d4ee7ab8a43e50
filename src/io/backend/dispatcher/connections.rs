//! Connections as the dispatcher sees them: opened for a request, idle between two, closed; and what their tasks report.

use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::Arc;

use monoio::io::OwnedWriteHalf;
use monoio::net::TcpStream;

use super::{Attempt, Dispatcher};
use crate::base::time::Tick;
use crate::io::backend::connection::{self, ConnectionEnd};
use crate::io::backend::options::HookKind;
use crate::io::backend::request_writer::Now;
use crate::io::backend::resolver::Lookup;
use crate::io::backend::{Hook, HookRequest, Retry};
use crate::policy::backend::{self as policy, Failure, Verdict};

/// One connection.
pub(super) struct UpstreamConnection {
    pub(super) serial: u64,
    pub(super) upstream: usize,
    pub(super) state: ConnectionState,
    pub(super) request: Option<usize>,
    /// -1 until there is a socket. Valid as long as the slot is, since the connection's task frees the slot before the
    /// socket.
    pub(super) fd: RawFd,
    /// To send what the kernel did not take at once; away while that is going on.
    pub(super) writer: Option<OwnedWriteHalf<TcpStream>>,
    pub(super) out: Vec<u8>,
    /// What is left of `out` is being sent by a task of its own.
    pub(super) is_sending: bool,
    /// By when the request must be answered, or an idle connection used.
    pub(super) deadline: Tick,
    /// By when the present address must have answered, while others are left to try.
    pub(super) connect_by: Tick,
    /// Answers received.
    pub(super) served: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionState {
    /// No task yet: the address is not known.
    Resolving,
    Connecting,
    Busy,
    Idle,
    /// Shut down; its task is about to end.
    Closing,
}

/// What the tasks ask for and report. `connection` is the task's own slot, which nobody else frees.
impl Dispatcher {
    /// A socket on its way to an address of the backend, the last one or not. False: the connection is being closed.
    pub fn connection_connecting(&mut self, connection: usize, fd: RawFd, is_last: bool, now: Now<'_>) -> bool {
        let state = &mut self.connections[connection];
        if state.state == ConnectionState::Closing {
            return false;
        }
        state.fd = fd;
        state.connect_by = if is_last { Tick::NEVER } else { now.tick + CONNECT_TRY_MS };
        let deadline = state.deadline();
        self.arm(deadline);
        true
    }

    /// Its socket is gone.
    pub fn connection_lost_address(&mut self, connection: usize) {
        self.connections[connection].fd = -1;
    }

    pub fn address_hint(&self, connection: usize) -> usize {
        self.upstreams[self.connections[connection].upstream].address_hint
    }

    /// The connection stands: out with the request that it was opened for.
    pub fn connection_connected(
        &mut self,
        connection: usize,
        address: usize,
        half: OwnedWriteHalf<TcpStream>,
        now: Now<'_>,
    ) {
        self.stats.connections_opened.add(1);
        let slot = &mut self.connections[connection];
        slot.writer = Some(half);
        self.upstreams[slot.upstream].address_hint = address;
        if slot.state == ConnectionState::Closing {
            // Shut down while it was connecting: its first read ends at once.
            return;
        }
        slot.state = ConnectionState::Busy;
        slot.connect_by = Tick::NEVER;
        self.send_request(connection, now);
    }

    /// Has anybody asked for the bytes that arrive on this connection?
    pub fn is_expected(&self, connection: usize) -> bool {
        self.connections[connection].request.is_some()
    }

    pub fn body_bytes_max(&self) -> usize {
        self.options.body_bytes_max
    }

    /// A whole answer. The job, when it is done with that; the connection, and perhaps others, already go on with what waits.
    pub fn connection_answered(
        &mut self,
        connection: usize,
        status: u16,
        is_reusable: bool,
        now: Now<'_>,
    ) -> Option<(HookRequest, Verdict)> {
        let key = self.connections[connection].request.take()?;
        let Attempt { upstream, permit, started_us, .. } = self.end_attempt_with_permit(key);
        self.stats.answers.add(1);
        self.stats.latency_us.record(now.us.saturating_sub(started_us));
        match status {
            400..=499 => self.stats.status_4xx.add(1),
            500..=599 => self.stats.status_5xx.add(1),
            _ => {}
        }
        let verdict = policy::classify(Ok(status));
        let request = &self.requests[key];
        let is_retried = verdict == Verdict::Retry && request.job.retry != Retry::Never && now.tick < request.deadline;
        let answered = if is_retried {
            self.delay(key, now.tick);
            None
        } else {
            Some((self.take_request(key).job, verdict))
        };
        self.free_connection(connection, is_reusable, now.tick);
        let change = if policy::is_backend_failure(Ok(status)) {
            self.upstreams[upstream].breaker.failed(permit, now.tick, &self.options.breaker, &mut self.rng)
        } else {
            self.upstreams[upstream].breaker.answered(permit)
        };
        self.apply(change);
        self.serve_queues(now);
        self.settle();
        answered
    }

    /// The connection is over; its socket is still open, and is closed after this. A request still on it has failed.
    pub fn connection_ended(&mut self, connection: usize, end: ConnectionEnd, now: Now<'_>) {
        let connection = self.remove_connection(connection);
        // What still arrives on a connection that was cut off was asked for once.
        if end == ConnectionEnd::Unasked && connection.state == ConnectionState::Idle {
            self.stats.unasked.add(1);
        }
        if let Some(key) = connection.request {
            // A request that crossed the backend's closing of an idle connection was not seen by it.
            let request = &mut self.requests[key];
            let is_repeatable = request.job.retry != Retry::Never || !matches!(request.job.hook, Hook::Forward { .. });
            let is_stale = end == ConnectionEnd::ClosedUntouched && connection.served > 0;
            if is_stale && is_repeatable && request.stale_tries < STALE_TRIES_MAX {
                request.stale_tries += 1;
                let (hook, deadline) = (HookKind::from(request.job.hook), request.deadline);
                self.stats.stale.add(1);
                let attempt = self.end_attempt_with_permit(key);
                self.upstreams[attempt.upstream].breaker.unused(attempt.permit, now.tick);
                self.queue(hook).push_front(key, deadline);
            } else {
                self.attempt_failed(key, end.failure(), now.tick);
            }
        }
        self.serve_queues(now);
        self.settle();
    }

    /// What the kernel did not take at once has been sent, or cannot be.
    pub fn connection_sent_rest(
        &mut self,
        connection: usize,
        serial: u64,
        half: OwnedWriteHalf<TcpStream>,
        out: Vec<u8>,
        ok: bool,
    ) {
        let Some(slot) = self.connections.get_mut(connection).filter(|slot| slot.serial == serial) else { return };
        slot.is_sending = false;
        slot.writer = Some(half);
        slot.out = out;
        empty(&mut slot.out);
        if !ok {
            connection::shutdown(slot.fd);
        }
    }
}

/// From nothing to busy, to idle, and to nothing again.
impl Dispatcher {
    pub(super) fn open_connection(&mut self, upstream: usize, request: usize, deadline: Tick, now: Tick) {
        self.upstreams[upstream].connections += 1;
        self.next_serial += 1;
        let connection = self.connections.insert(UpstreamConnection {
            serial: self.next_serial,
            upstream,
            state: ConnectionState::Resolving,
            request: Some(request),
            fd: -1,
            writer: None,
            out: Vec::new(),
            is_sending: false,
            deadline,
            connect_by: Tick::NEVER,
            served: 0,
        });
        self.resolving += 1;
        self.arm(deadline);
        self.resolve_connection(connection, now);
    }

    /// Looks for the connection's address, and starts its task when there is one.
    pub(super) fn resolve_connection(&mut self, connection: usize, now: Tick) {
        let upstream = &self.upstreams[self.connections[connection].upstream];
        match self.resolver.lookup(&upstream.host, now) {
            Lookup::Ready(addresses) => {
                let port = upstream.port;
                self.resolving -= 1;
                self.connections[connection].state = ConnectionState::Connecting;
                self.spawn_connection(connection, addresses, port);
            }
            // The bell is the worker's; should it have none, this is how late an address is noticed.
            Lookup::Pending => self.arm(now + RESOLVE_POLL_MS),
            Lookup::Failed => {
                let request =
                    self.remove_connection(connection).request.expect("opened for a request, closed without it");
                self.attempt_failed(request, Failure::NoAddress, now);
            }
        }
    }

    pub(super) fn spawn_connection(&self, connection: usize, addresses: Arc<[IpAddr]>, port: u16) {
        let inner = self.me.upgrade().expect("called through the pool");
        monoio::spawn(connection::run(inner, connection, addresses, port));
    }

    pub(super) fn open_resolved(&mut self, now: Now<'_>) {
        let waiting = self.connections.iter().filter(|(_, connection)| connection.state == ConnectionState::Resolving);
        let waiting: Vec<usize> = waiting.map(|(key, _)| key).collect();
        for connection in waiting {
            self.resolve_connection(connection, now.tick);
        }
        self.serve_queues(now);
    }

    /// Writes the request's request into the connection's buffer and gives it to the kernel, which nearly always takes all of
    /// it.
    pub(super) fn send_request(&mut self, connection: usize, now: Now<'_>) {
        let UpstreamConnection { serial, request, fd, writer, out, is_sending, .. } = &mut self.connections[connection];
        let request = &self.requests[request.expect("a busy connection has a request")];
        let target = &request.attempt.as_ref().expect("a request on a connection is an attempt").target;
        target.write(out, &request.job, request.number, &mut self.signer, now);
        match connection::send(*fd, out) {
            Ok(sent) if sent == out.len() => empty(out),
            Ok(sent) => {
                *is_sending = true;
                let half = writer.take().expect("at home while nothing is being sent");
                let inner = self.me.upgrade().expect("called through the pool");
                // Only for what exceeds the socket's buffer, so no ordinary message pays for a task.
                monoio::spawn(connection::send_rest(inner, connection, *serial, half, std::mem::take(out), sent));
            }
            // The read that is outstanding will end and report it.
            Err(_) => connection::shutdown(*fd),
        }
    }

    // Connections: from an attempt back to idle, or to nothing.

    pub(super) fn free_connection(&mut self, connection: usize, is_reusable: bool, now: Tick) {
        let slot = &mut self.connections[connection];
        slot.served += 1;
        let upstream = &mut self.upstreams[slot.upstream];
        // An answer before the end of its request: the rest of it would be taken for the next one.
        let is_kept = is_reusable
            && slot.state == ConnectionState::Busy
            && !slot.is_sending
            && !upstream.is_retired
            && !self.is_shut;
        if !is_kept {
            return self.close_connection(connection);
        }
        slot.state = ConnectionState::Idle;
        slot.deadline = now + self.options.idle_timeout_ms;
        let deadline = slot.deadline;
        upstream.idle.push(connection);
        self.arm(deadline);
    }

    /// Ends a connection that has no request. Its task notices by its read, which is never dropped while it is outstanding.
    pub(super) fn close_connection(&mut self, connection: usize) {
        let slot = &mut self.connections[connection];
        debug_assert!(slot.request.is_none(), "a request would be lost");
        match slot.state {
            ConnectionState::Resolving => {
                self.remove_connection(connection);
                return;
            }
            ConnectionState::Idle => self.upstreams[slot.upstream].idle.retain(|idle| *idle != connection),
            ConnectionState::Connecting | ConnectionState::Busy | ConnectionState::Closing => {}
        }
        slot.state = ConnectionState::Closing;
        connection::shutdown(slot.fd);
    }

    pub(super) fn remove_connection(&mut self, connection: usize) -> UpstreamConnection {
        let index = connection;
        let connection = self.connections.remove(index);
        self.upstreams[connection.upstream].connections -= 1;
        match connection.state {
            ConnectionState::Resolving => self.resolving -= 1,
            ConnectionState::Idle => self.upstreams[connection.upstream].idle.retain(|idle| *idle != index),
            ConnectionState::Connecting | ConnectionState::Busy | ConnectionState::Closing => {}
        }
        connection
    }

    /// Cuts off what takes too long, and closes what was idle too long.
    pub(super) fn expire_connections(&mut self, now: Tick) {
        let overdue: Vec<usize> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.deadline() <= now)
            .map(|(key, _)| key)
            .collect();
        for connection in overdue {
            let slot = &mut self.connections[connection];
            if slot.deadline > now {
                // This address does not answer: its socket ends, and the connection's task goes on to the next one.
                slot.connect_by = Tick::NEVER;
                connection::shutdown(slot.fd);
                continue;
            }
            let request = slot.request.take();
            self.close_connection(connection);
            if let Some(key) = request {
                self.attempt_timed_out(key, now);
            }
        }
        let earliest = self.connections.iter().map(|(_, connection)| connection.deadline()).min();
        self.arm(earliest.unwrap_or(Tick::NEVER));
        if self.resolving > 0 {
            self.arm(now + RESOLVE_POLL_MS);
        }
    }
}

impl UpstreamConnection {
    pub(super) fn deadline(&self) -> Tick {
        match self.state {
            ConnectionState::Closing => Tick::NEVER,
            ConnectionState::Connecting => self.deadline.min(self.connect_by),
            ConnectionState::Resolving | ConnectionState::Busy | ConnectionState::Idle => self.deadline,
        }
    }
}

/// One large request must not keep its memory for the life of the connection.
fn empty(out: &mut Vec<u8>) {
    out.clear();
    out.shrink_to(KEPT_BYTES_MAX);
}

/// How long one address of several may take before the next one is tried.
const CONNECT_TRY_MS: u64 = 3000;
/// How late an address is noticed by a worker that hung up no bell.
const RESOLVE_POLL_MS: u64 = 20;
/// After so many connections in a row that closed under one request it counts as a failure like any other.
const STALE_TRIES_MAX: u32 = 3;
const KEPT_BYTES_MAX: usize = 64 << 10;
