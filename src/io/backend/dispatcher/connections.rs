//! Lanes as the dispatcher sees them: opened for a flight, idle between two, closed; and what their tasks report.

use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::Arc;

use monoio::io::OwnedWriteHalf;
use monoio::net::TcpStream;

use super::{Attempt, Dispatcher};
use crate::base::time::Tick;
use crate::io::backend::connection::{self as lane, LaneEnd};
use crate::io::backend::options::HookKind;
use crate::io::backend::request_writer::Now;
use crate::io::backend::resolver::Lookup;
use crate::io::backend::{Hook, Job, Retry};
use crate::policy::backend::{self as policy, Failure, Verdict};

/// One connection.
pub(super) struct Lane {
    pub(super) serial: u64,
    pub(super) upstream: usize,
    pub(super) state: LaneState,
    pub(super) flight: Option<usize>,
    /// -1 until there is a socket. Valid as long as the slot is, since the lane's task frees the slot before the
    /// socket.
    pub(super) fd: RawFd,
    /// To send what the kernel did not take at once; away while that is going on.
    pub(super) write_half: Option<OwnedWriteHalf<TcpStream>>,
    pub(super) out: Vec<u8>,
    /// What is left of `out` is being sent by a task of its own.
    pub(super) is_sending: bool,
    /// By when the flight must be answered, or an idle lane used.
    pub(super) deadline: Tick,
    /// By when the present address must have answered, while others are left to try.
    pub(super) connect_by: Tick,
    /// Answers received.
    pub(super) served: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LaneState {
    /// No task yet: the address is not known.
    Resolving,
    Connecting,
    Busy,
    Idle,
    /// Shut down; its task is about to end.
    Closing,
}

/// What the tasks ask for and report. `lane` is the task's own slot, which nobody else frees.
impl Dispatcher {
    /// A socket on its way to an address of the backend, the last one or not. False: the lane is being closed.
    pub fn lane_tries(&mut self, lane: usize, fd: RawFd, is_last: bool, now: Now<'_>) -> bool {
        let state = &mut self.lanes[lane];
        if state.state == LaneState::Closing {
            return false;
        }
        state.fd = fd;
        state.connect_by = if is_last { Tick::NEVER } else { now.tick + CONNECT_TRY_MS };
        let deadline = state.deadline();
        self.arm(deadline);
        true
    }

    /// Its socket is gone.
    pub fn lane_gave_up_address(&mut self, lane: usize) {
        self.lanes[lane].fd = -1;
    }

    pub fn address_hint(&self, lane: usize) -> usize {
        self.upstreams[self.lanes[lane].upstream].address_hint
    }

    /// The connection stands: out with the request that it was opened for.
    pub fn lane_connected(&mut self, lane: usize, address: usize, half: OwnedWriteHalf<TcpStream>, now: Now<'_>) {
        self.stats.connections_opened.add(1);
        let slot = &mut self.lanes[lane];
        slot.write_half = Some(half);
        self.upstreams[slot.upstream].address_hint = address;
        if slot.state == LaneState::Closing {
            // Shut down while it was connecting: its first read ends at once.
            return;
        }
        slot.state = LaneState::Busy;
        slot.connect_by = Tick::NEVER;
        self.send_request(lane, now);
    }

    /// Has anybody asked for the bytes that arrive on this lane?
    pub fn is_expected(&self, lane: usize) -> bool {
        self.lanes[lane].flight.is_some()
    }

    pub fn body_bytes_max(&self) -> usize {
        self.options.body_bytes_max
    }

    /// A whole answer. The job, when it is done with that; the lane, and perhaps others, already go on with what waits.
    pub fn lane_answered(
        &mut self,
        lane: usize,
        status: u16,
        is_reusable: bool,
        now: Now<'_>,
    ) -> Option<(Job, Verdict)> {
        let key = self.lanes[lane].flight.take()?;
        let Attempt { upstream, permit, started_us, .. } = self.end_attempt_with_permit(key);
        self.stats.answers.add(1);
        self.stats.latency_us.record(now.us.saturating_sub(started_us));
        match status {
            400..=499 => self.stats.status_4xx.add(1),
            500..=599 => self.stats.status_5xx.add(1),
            _ => {}
        }
        let verdict = policy::classify(Ok(status));
        let flight = &self.flights[key];
        let is_retried = verdict == Verdict::Retry && flight.job.retry != Retry::Never && now.tick < flight.deadline;
        let answered = if is_retried {
            self.delay(key, now.tick);
            None
        } else {
            Some((self.take_flight(key).job, verdict))
        };
        self.free_lane(lane, is_reusable, now.tick);
        let change = if policy::is_backend_failure(Ok(status)) {
            self.upstreams[upstream].breaker.failed(permit, now.tick, &self.options.breaker, &mut self.rng)
        } else {
            self.upstreams[upstream].breaker.answered(permit)
        };
        self.apply(change);
        self.serve_lines(now);
        self.settle();
        answered
    }

    /// The lane is over; its socket is still open, and is closed after this. A flight still on it has failed.
    pub fn lane_ended(&mut self, lane: usize, end: LaneEnd, now: Now<'_>) {
        let lane = self.remove_lane(lane);
        // What still arrives on a lane that was cut off was asked for once.
        if end == LaneEnd::Unasked && lane.state == LaneState::Idle {
            self.stats.unasked.add(1);
        }
        if let Some(key) = lane.flight {
            // A request that crossed the backend's closing of an idle connection was not seen by it.
            let flight = &mut self.flights[key];
            let is_repeatable = flight.job.retry != Retry::Never || !matches!(flight.job.hook, Hook::Forward { .. });
            let is_stale = end == LaneEnd::ClosedUntouched && lane.served > 0;
            if is_stale && is_repeatable && flight.stale_tries < STALE_TRIES_MAX {
                flight.stale_tries += 1;
                let (hook, deadline) = (HookKind::from(flight.job.hook), flight.deadline);
                self.stats.stale.add(1);
                let attempt = self.end_attempt_with_permit(key);
                self.upstreams[attempt.upstream].breaker.unused(attempt.permit, now.tick);
                self.line(hook).push_front(key, deadline);
            } else {
                self.attempt_failed(key, end.failure(), now.tick);
            }
        }
        self.serve_lines(now);
        self.settle();
    }

    /// What the kernel did not take at once has been sent, or cannot be.
    pub fn lane_sent_rest(
        &mut self,
        lane: usize,
        serial: u64,
        half: OwnedWriteHalf<TcpStream>,
        out: Vec<u8>,
        ok: bool,
    ) {
        let Some(slot) = self.lanes.get_mut(lane).filter(|slot| slot.serial == serial) else { return };
        slot.is_sending = false;
        slot.write_half = Some(half);
        slot.out = out;
        empty(&mut slot.out);
        if !ok {
            lane::shutdown(slot.fd);
        }
    }
}

/// From nothing to busy, to idle, and to nothing again.
impl Dispatcher {
    pub(super) fn open_lane(&mut self, upstream: usize, flight: usize, deadline: Tick, now: Tick) {
        self.upstreams[upstream].lanes += 1;
        self.next_serial += 1;
        let lane = self.lanes.insert(Lane {
            serial: self.next_serial,
            upstream,
            state: LaneState::Resolving,
            flight: Some(flight),
            fd: -1,
            write_half: None,
            out: Vec::new(),
            is_sending: false,
            deadline,
            connect_by: Tick::NEVER,
            served: 0,
        });
        self.resolving += 1;
        self.arm(deadline);
        self.resolve_lane(lane, now);
    }

    /// Looks for the lane's address, and starts its task when there is one.
    pub(super) fn resolve_lane(&mut self, lane: usize, now: Tick) {
        let upstream = &self.upstreams[self.lanes[lane].upstream];
        match self.resolver.lookup(&upstream.host, now) {
            Lookup::Ready(addresses) => {
                let port = upstream.port;
                self.resolving -= 1;
                self.lanes[lane].state = LaneState::Connecting;
                self.spawn_lane(lane, addresses, port);
            }
            // The bell is the worker's; should it have none, this is how late an address is noticed.
            Lookup::Pending => self.arm(now + RESOLVE_POLL_MS),
            Lookup::Failed => {
                let flight = self.remove_lane(lane).flight.expect("opened for a flight, closed without it");
                self.attempt_failed(flight, Failure::NoAddress, now);
            }
        }
    }

    pub(super) fn spawn_lane(&self, lane: usize, addresses: Arc<[IpAddr]>, port: u16) {
        let inner = self.me.upgrade().expect("called through the pool");
        monoio::spawn(lane::run(inner, lane, addresses, port));
    }

    pub(super) fn open_resolved(&mut self, now: Now<'_>) {
        let waiting = self.lanes.iter().filter(|(_, lane)| lane.state == LaneState::Resolving);
        let waiting: Vec<usize> = waiting.map(|(key, _)| key).collect();
        for lane in waiting {
            self.resolve_lane(lane, now.tick);
        }
        self.serve_lines(now);
    }

    /// Writes the flight's request into the lane's buffer and gives it to the kernel, which nearly always takes all of
    /// it.
    pub(super) fn send_request(&mut self, lane: usize, now: Now<'_>) {
        let Lane { serial, flight, fd, write_half, out, is_sending, .. } = &mut self.lanes[lane];
        let flight = &self.flights[flight.expect("a busy lane has a flight")];
        let target = &flight.attempt.as_ref().expect("a flight on a lane is an attempt").target;
        target.write(out, &flight.job, flight.number, &mut self.signer, now);
        match lane::send(*fd, out) {
            Ok(sent) if sent == out.len() => empty(out),
            Ok(sent) => {
                *is_sending = true;
                let half = write_half.take().expect("at home while nothing is being sent");
                let inner = self.me.upgrade().expect("called through the pool");
                // Only for what exceeds the socket's buffer, so no ordinary message pays for a task.
                monoio::spawn(lane::send_rest(inner, lane, *serial, half, std::mem::take(out), sent));
            }
            // The read that is outstanding will end and report it.
            Err(_) => lane::shutdown(*fd),
        }
    }

    // Lanes: from an attempt back to idle, or to nothing.

    pub(super) fn free_lane(&mut self, lane: usize, is_reusable: bool, now: Tick) {
        let slot = &mut self.lanes[lane];
        slot.served += 1;
        let upstream = &mut self.upstreams[slot.upstream];
        // An answer before the end of its request: the rest of it would be taken for the next one.
        let is_kept =
            is_reusable && slot.state == LaneState::Busy && !slot.is_sending && !upstream.is_retired && !self.is_shut;
        if !is_kept {
            return self.close_lane(lane);
        }
        slot.state = LaneState::Idle;
        slot.deadline = now + self.options.idle_timeout_ms;
        let deadline = slot.deadline;
        upstream.idle.push(lane);
        self.arm(deadline);
    }

    /// Ends a lane that has no flight. Its task notices by its read, which is never dropped while it is outstanding.
    pub(super) fn close_lane(&mut self, lane: usize) {
        let slot = &mut self.lanes[lane];
        debug_assert!(slot.flight.is_none(), "a flight would be lost");
        match slot.state {
            LaneState::Resolving => {
                self.remove_lane(lane);
                return;
            }
            LaneState::Idle => self.upstreams[slot.upstream].idle.retain(|idle| *idle != lane),
            LaneState::Connecting | LaneState::Busy | LaneState::Closing => {}
        }
        slot.state = LaneState::Closing;
        lane::shutdown(slot.fd);
    }

    pub(super) fn remove_lane(&mut self, lane: usize) -> Lane {
        let lane_key = lane;
        let lane = self.lanes.remove(lane_key);
        self.upstreams[lane.upstream].lanes -= 1;
        match lane.state {
            LaneState::Resolving => self.resolving -= 1,
            LaneState::Idle => self.upstreams[lane.upstream].idle.retain(|idle| *idle != lane_key),
            LaneState::Connecting | LaneState::Busy | LaneState::Closing => {}
        }
        lane
    }

    /// Cuts off what takes too long, and closes what was idle too long.
    pub(super) fn expire_lanes(&mut self, now: Tick) {
        let overdue: Vec<usize> =
            self.lanes.iter().filter(|(_, lane)| lane.deadline() <= now).map(|(key, _)| key).collect();
        for lane in overdue {
            let slot = &mut self.lanes[lane];
            if slot.deadline > now {
                // This address does not answer: its socket ends, and the lane's task goes on to the next one.
                slot.connect_by = Tick::NEVER;
                lane::shutdown(slot.fd);
                continue;
            }
            let flight = slot.flight.take();
            self.close_lane(lane);
            if let Some(key) = flight {
                self.attempt_timed_out(key, now);
            }
        }
        let earliest = self.lanes.iter().map(|(_, lane)| lane.deadline()).min();
        self.arm(earliest.unwrap_or(Tick::NEVER));
        if self.resolving > 0 {
            self.arm(now + RESOLVE_POLL_MS);
        }
    }
}

impl Lane {
    pub(super) fn deadline(&self) -> Tick {
        match self.state {
            LaneState::Closing => Tick::NEVER,
            LaneState::Connecting => self.deadline.min(self.connect_by),
            LaneState::Resolving | LaneState::Busy | LaneState::Idle => self.deadline,
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
