//! Which job goes out on which connection, and when: the pool's state, as plain data behind one borrow.
//!
//! Three tables: *flights* (jobs accepted and not yet given back), *lanes* (connections), *upstreams* (host and port, with
//! breaker). A flight is in its hook's line, or on exactly one lane, and nowhere else. Nothing here waits; the only calls
//! to the outside are a non-blocking send, a shutdown, and the spawning of a lane's task. Jobs that end without an answer
//! are laid into `given_up`, to be handed to the sink when no borrow is held.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use monoio::io::OwnedWriteHalf;
use monoio::net::TcpStream;
use slab::Slab;

use super::lane::{self, LaneEnd};
use super::line::Line;
use super::options::{HookKind, Options};
use super::request::{Now, Signer, Target};
use super::stats::BackendStats;
use super::{Alarm, GiveUp, Hook, Inner, Job, Retry, UpstreamState};
use crate::base::rng::Rng;
use crate::base::time::Tick;
use crate::io::resolve::{Lookup, Resolver};
use crate::policy::backend::breaker::Change;
use crate::policy::backend::{self as policy, Balancer, Breaker, Candidate, Failure, Permit, Verdict};

/// Everything a pool knows.
pub struct Dispatcher {
    me: Weak<Inner>,
    pub options: Options,
    pub stats: Arc<BackendStats>,
    pub given_up: VecDeque<GivenUp>,
    hooks: [HookState; HookKind::ALL.len()],
    upstreams: Vec<Upstream>,
    lanes: Slab<Lane>,
    flights: Slab<Flight>,
    signer: Signer,
    rng: Rng,
    resolver: Resolver,
    alarm: Alarm,
    /// Bytes of the jobs in `flights`.
    job_bytes: usize,
    /// Counts jobs; the order in which they were submitted.
    next_number: u64,
    /// Counts lanes, to tell a slot's users apart.
    next_serial: u64,
    /// Nothing is due before this. May be too early, never too late.
    earliest: Tick,
    /// What the worker's timer is set to.
    told: Tick,
    /// The hook whose line is served first next time.
    turn: usize,
    /// Lanes that wait for their backend's address.
    resolving: usize,
    is_shut: bool,
}

/// A job on its way back without an answer.
pub struct GivenUp {
    pub ticket: u64,
    pub reason: GiveUp,
    pub body: Vec<u8>,
    number: u64,
}

#[derive(Default)]
struct HookState {
    targets: Vec<Rc<Target>>,
    balancer: Balancer,
    line: Line,
}

/// One host and port, whichever hooks lead there.
struct Upstream {
    host: Rc<str>,
    port: u16,
    breaker: Breaker,
    /// Connections, those that are still being opened included.
    lanes: usize,
    /// Last in, first out: few connections stay warm, the others grow old and are closed.
    idle: Vec<usize>,
    /// Flights on its lanes.
    outstanding: usize,
    /// Which of its addresses worked last.
    address_hint: usize,
    /// No hook leads there any more.
    is_retired: bool,
}

/// One connection.
struct Lane {
    serial: u64,
    upstream: usize,
    state: LaneState,
    flight: Option<usize>,
    /// -1 until there is a socket. Valid as long as the slot is, since the lane's task frees the slot before the socket.
    fd: RawFd,
    /// To send what the kernel did not take at once; away while that is going on.
    write_half: Option<OwnedWriteHalf<TcpStream>>,
    out: Vec<u8>,
    /// What is left of `out` is being sent by a task of its own.
    is_sending: bool,
    /// By when the flight must be answered, or an idle lane used.
    deadline: Tick,
    /// By when the present address must have answered, while others are left to try.
    connect_by: Tick,
    /// Answers received.
    served: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LaneState {
    /// No task yet: the address is not known.
    Resolving,
    Connecting,
    Busy,
    Idle,
    /// Shut down; its task is about to end.
    Closing,
}

/// A job that was accepted.
struct Flight {
    job: Job,
    number: u64,
    bytes: usize,
    /// When it is given up, whatever happens.
    deadline: Tick,
    /// Failed so far.
    attempts: u32,
    /// Times it met a connection that the backend was just closing.
    stale_tries: u32,
    attempt: Option<Attempt>,
}

struct Attempt {
    upstream: usize,
    target: Rc<Target>,
    permit: Permit,
    started_us: u64,
    /// What this attempt's time would be if the job's deadline did not cut it short.
    full_deadline: Tick,
}

impl Dispatcher {
    pub(super) fn new(
        me: Weak<Inner>,
        options: Options,
        stats: Arc<BackendStats>,
        resolver: Resolver,
        seed: u64,
        alarm: Alarm,
    ) -> Dispatcher {
        let mut rng = Rng::new(seed);
        let signer = Signer::new(options.security_token.clone(), options.webhook_key.clone(), Rng::new(rng.next_u64()));
        let mut dispatcher = Dispatcher {
            me,
            options,
            stats,
            given_up: VecDeque::new(),
            hooks: Default::default(),
            upstreams: Vec::new(),
            lanes: Slab::new(),
            flights: Slab::new(),
            signer,
            rng,
            resolver,
            alarm,
            job_bytes: 0,
            next_number: 0,
            next_serial: 0,
            earliest: Tick::NEVER,
            told: Tick::NEVER,
            turn: 0,
            resolving: 0,
            is_shut: false,
        };
        dispatcher.set_targets();
        dispatcher
    }

    // What the worker asks for.

    #[expect(clippy::result_large_err, reason = "the job is moved either way")]
    pub fn submit(&mut self, job: Job, now: Now<'_>) -> Result<(), Job> {
        let bytes = job_bytes(&job);
        let is_full =
            self.flights.len() >= self.options.jobs_max || self.job_bytes + bytes > self.options.job_bytes_max;
        // A single job larger than the whole line would otherwise never pass.
        if is_full && !self.flights.is_empty() {
            self.stats.line_full.add(1);
            return Err(job);
        }
        let hook = HookKind::from(job.hook);
        let number = self.next_number;
        self.next_number += 1;
        if let Some(reason) = self.refusal(hook, job.retry, now.tick) {
            self.lay_aside(job, number, reason);
            return Ok(());
        }
        let deadline = match job.retry {
            Retry::Never => self.options.attempt_deadline(hook, now.tick),
            Retry::Until(deadline) => deadline,
        };
        self.job_bytes += bytes;
        let flight = Flight { job, number, bytes, deadline, attempts: 0, stale_tries: 0, attempt: None };
        let key = self.flights.insert(flight);
        self.line(hook).push(key, deadline);
        self.serve_line(hook, now);
        self.settle();
        Ok(())
    }

    pub fn poll(&mut self, now: Now<'_>) {
        if self.resolving > 0 {
            self.resolver.poll();
            self.open_resolved(now);
        }
        if now.tick >= self.earliest {
            let before = self.given_up.len();
            self.earliest = Tick::NEVER;
            self.expire_lanes(now.tick);
            for hook in HookKind::ALL {
                self.expire_line(hook, now.tick);
            }
            self.serve_lines(now);
            self.given_up.make_contiguous()[before..].sort_unstable_by_key(|given| given.number);
        }
        self.settle();
    }

    pub fn next_deadline(&mut self) -> Tick {
        self.told = if self.given_up.is_empty() { self.earliest } else { Tick(0) };
        self.told
    }

    pub fn reconfigure(&mut self, options: Options, now: Now<'_>) {
        self.signer.rekey(options.security_token.clone(), options.webhook_key.clone());
        self.options = options;
        self.set_targets();
        for hook in HookKind::ALL {
            if self.hooks[hook as usize].targets.is_empty() {
                let waiting: Vec<usize> = self.line(hook).drain().collect();
                waiting.into_iter().for_each(|key| self.give_up(key, GiveUp::NoUrl));
            }
        }
        self.serve_lines(now);
        self.settle();
    }

    pub fn close(&mut self) {
        self.is_shut = true;
        for hook in HookKind::ALL {
            let waiting: Vec<usize> = self.line(hook).drain().collect();
            waiting.into_iter().for_each(|key| self.give_up(key, GiveUp::Closed));
        }
        let lanes: Vec<usize> = self.lanes.iter().map(|(key, _)| key).collect();
        for lane in lanes {
            if let Some(key) = self.lanes[lane].flight.take() {
                self.end_attempt(key);
                self.give_up(key, GiveUp::Closed);
            }
            self.close_lane(lane);
        }
        self.settle();
    }

    pub fn is_idle(&self) -> bool {
        self.flights.is_empty() && self.given_up.is_empty()
    }

    pub fn upstream_states(&self) -> Vec<UpstreamState> {
        let in_use = self.upstreams.iter().filter(|upstream| !upstream.is_retired);
        in_use
            .map(|upstream| UpstreamState {
                host: upstream.host.to_string(),
                port: upstream.port,
                is_closed: upstream.breaker.is_closed(),
                outstanding: upstream.outstanding,
                connections: upstream.lanes,
            })
            .collect()
    }

    // What a lane's task asks for and reports. `lane` is its own slot, which nobody else frees.

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
        if !ok {
            lane::shutdown(slot.fd);
        }
    }

    // Lines: from waiting to a lane.

    /// Serves all lines, a different one first each time, so that none starves another.
    fn serve_lines(&mut self, now: Now<'_>) {
        self.turn = (self.turn + 1) % HookKind::ALL.len();
        for offset in 0..HookKind::ALL.len() {
            self.serve_line(HookKind::ALL[(self.turn + offset) % HookKind::ALL.len()], now);
        }
    }

    /// Sends out as many of a line's jobs as backends and connections allow.
    fn serve_line(&mut self, hook: HookKind, now: Now<'_>) {
        while let Some(key) = self.line(hook).front() {
            let Some(target) = self.pick(hook, now.tick) else { break };
            self.line(hook).pop_front();
            self.start_attempt(key, target, now);
        }
        if self.line(hook).has_ready() {
            // Whoever waits for a breaker goes on when it admits a probe.
            let Dispatcher { hooks, upstreams, .. } = self;
            let of_targets = hooks[hook as usize].targets.iter().map(|target| &upstreams[target.upstream].breaker);
            let probe_at = of_targets.filter_map(Breaker::probe_at).filter(|at| *at > now.tick).min();
            self.arm(probe_at.unwrap_or(Tick::NEVER));
        }
    }

    fn pick(&mut self, hook: HookKind, now: Tick) -> Option<Rc<Target>> {
        let Dispatcher { hooks, upstreams, options, .. } = self;
        let HookState { targets, balancer, .. } = &mut hooks[hook as usize];
        let candidates = targets.iter().map(|target| {
            let upstream = &upstreams[target.upstream];
            let has_room = !upstream.idle.is_empty() || upstream.lanes < options.connections_max;
            Candidate { outstanding: upstream.outstanding, usable: has_room && upstream.breaker.admits(now) }
        });
        balancer.pick(candidates).map(|index| Rc::clone(&targets[index]))
    }

    fn start_attempt(&mut self, key: usize, target: Rc<Target>, now: Now<'_>) {
        let upstream_key = target.upstream;
        let upstream = &mut self.upstreams[upstream_key];
        let permit = upstream.breaker.admit(now.tick).expect("picked because it admits");
        upstream.outstanding += 1;
        let flight = &mut self.flights[key];
        let full_deadline = self.options.attempt_deadline(flight.job.hook.into(), now.tick);
        let deadline = full_deadline.min(flight.deadline);
        self.stats.requests.add(1);
        self.stats.retries.add(u64::from(flight.attempts > 0));
        flight.attempt = Some(Attempt { upstream: upstream_key, target, permit, started_us: now.us, full_deadline });
        if let Some(lane) = upstream.idle.pop() {
            let slot = &mut self.lanes[lane];
            debug_assert!(slot.state == LaneState::Idle && slot.flight.is_none());
            (slot.state, slot.flight, slot.deadline) = (LaneState::Busy, Some(key), deadline);
            self.arm(deadline);
            self.send_request(lane, now);
        } else {
            self.open_lane(upstream_key, key, deadline, now.tick);
        }
    }

    fn open_lane(&mut self, upstream: usize, flight: usize, deadline: Tick, now: Tick) {
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
    fn resolve_lane(&mut self, lane: usize, now: Tick) {
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

    fn spawn_lane(&self, lane: usize, addresses: Arc<[IpAddr]>, port: u16) {
        let inner = self.me.upgrade().expect("called through the pool");
        monoio::spawn(lane::run(inner, lane, addresses, port));
    }

    fn open_resolved(&mut self, now: Now<'_>) {
        let waiting = self.lanes.iter().filter(|(_, lane)| lane.state == LaneState::Resolving);
        let waiting: Vec<usize> = waiting.map(|(key, _)| key).collect();
        for lane in waiting {
            self.resolve_lane(lane, now.tick);
        }
        self.serve_lines(now);
    }

    /// Writes the flight's request into the lane's buffer and gives it to the kernel, which nearly always takes all of it.
    fn send_request(&mut self, lane: usize, now: Now<'_>) {
        let Lane { serial, flight, fd, write_half, out, is_sending, .. } = &mut self.lanes[lane];
        let flight = &self.flights[flight.expect("a busy lane has a flight")];
        let target = &flight.attempt.as_ref().expect("a flight on a lane is an attempt").target;
        target.write(out, &flight.job, flight.number, &mut self.signer, now);
        match lane::send(*fd, out) {
            Ok(sent) if sent == out.len() => out.shrink_to(KEPT_BYTES_MAX),
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

    fn free_lane(&mut self, lane: usize, is_reusable: bool, now: Tick) {
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
    fn close_lane(&mut self, lane: usize) {
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

    fn remove_lane(&mut self, lane: usize) -> Lane {
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
    fn expire_lanes(&mut self, now: Tick) {
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

    // Flights: what a failure means to them.

    fn attempt_timed_out(&mut self, key: usize, now: Tick) {
        let attempt = self.flights[key].attempt.as_ref().expect("it was on a lane");
        if now >= attempt.full_deadline {
            return self.attempt_failed(key, Failure::Timeout, now);
        }
        // Cut short by the job's own deadline: that says nothing about the backend.
        let attempt = self.end_attempt_with_permit(key);
        self.upstreams[attempt.upstream].breaker.unused(attempt.permit, now);
        self.give_up(key, GiveUp::Deadline);
    }

    fn attempt_failed(&mut self, key: usize, failure: Failure, now: Tick) {
        self.stats.failure(failure).add(1);
        let attempt = self.end_attempt_with_permit(key);
        let breaker = &mut self.upstreams[attempt.upstream].breaker;
        let change = breaker.failed(attempt.permit, now, &self.options.breaker, &mut self.rng);
        match self.flights[key].job.retry {
            Retry::Never => self.give_up(key, GiveUp::Failed(failure)),
            Retry::Until(deadline) if now >= deadline || self.is_shut => self.give_up(key, GiveUp::Deadline),
            Retry::Until(_) => self.delay(key, now),
        }
        self.apply(change);
    }

    /// Apart with it until its next attempt, or until its deadline if that is sooner.
    fn delay(&mut self, key: usize, now: Tick) {
        let flight = &mut self.flights[key];
        flight.attempts += 1;
        let due = (now + self.options.retry.delay_ms(flight.attempts, &mut self.rng)).min(flight.deadline);
        let (hook, number) = (HookKind::from(flight.job.hook), flight.number);
        self.line(hook).delay(key, number, due);
        self.arm(due);
    }

    fn expire_line(&mut self, hook: HookKind, now: Tick) {
        while let Some(key) = self.line(hook).pop_due(now) {
            let deadline = self.flights[key].deadline;
            if deadline <= now {
                self.give_up(key, GiveUp::Deadline);
            } else {
                self.line(hook).push(key, deadline);
            }
        }
        let mut expired = Vec::new();
        let Dispatcher { hooks, flights, .. } = self;
        hooks[hook as usize].line.expire(now, |key| flights[key].deadline, |key| expired.push(key));
        expired.into_iter().for_each(|key| self.give_up(key, GiveUp::Deadline));
        let next = self.line(hook).next_deadline();
        self.arm(next);
    }

    /// What a breaker's change means to those in line.
    fn apply(&mut self, change: Change) {
        match change {
            Change::None => return,
            Change::Opened => {
                self.stats.breaker_opened.add(1);
                for hook in HookKind::ALL {
                    self.give_up_impatient(hook);
                }
            }
            Change::Closed => {
                for HookState { line, targets, .. } in &mut self.hooks {
                    if targets.iter().any(|target| self.upstreams[target.upstream].breaker.is_closed()) {
                        line.release(|key| self.flights[key].deadline);
                    }
                }
            }
        }
        let open =
            self.upstreams.iter().filter(|upstream| !upstream.breaker.is_closed() && !upstream.is_retired).count();
        self.stats.open_breakers.set(open as u64);
    }

    /// All of a hook's backends are down: those who cannot wait are told now rather than at their deadline.
    fn give_up_impatient(&mut self, hook: HookKind) {
        let HookState { targets, line, .. } = &mut self.hooks[hook as usize];
        if targets.iter().any(|target| self.upstreams[target.upstream].breaker.is_closed()) {
            return;
        }
        let mut impatient = Vec::new();
        line.remove(|key| {
            let is_impatient = self.flights[key].job.retry == Retry::Never;
            if is_impatient {
                impatient.push(key);
            }
            is_impatient
        });
        impatient.into_iter().for_each(|key| self.give_up(key, GiveUp::Down));
    }

    /// Why a job would not even be put in line.
    fn refusal(&self, hook: HookKind, retry: Retry, now: Tick) -> Option<GiveUp> {
        let targets = &self.hooks[hook as usize].targets;
        if self.is_shut {
            return Some(GiveUp::Closed);
        }
        if targets.is_empty() {
            return Some(GiveUp::NoUrl);
        }
        let is_down = || targets.iter().all(|target| !self.upstreams[target.upstream].breaker.admits(now));
        match retry {
            Retry::Until(deadline) if deadline <= now => Some(GiveUp::Deadline),
            Retry::Never if is_down() => Some(GiveUp::Down),
            Retry::Never | Retry::Until(_) => None,
        }
    }

    fn end_attempt_with_permit(&mut self, key: usize) -> Attempt {
        let attempt = self.flights[key].attempt.take().expect("it was on a lane");
        self.upstreams[attempt.upstream].outstanding -= 1;
        attempt
    }

    fn end_attempt(&mut self, key: usize) {
        let attempt = self.end_attempt_with_permit(key);
        self.upstreams[attempt.upstream].breaker.unused(attempt.permit, Tick(0));
    }

    fn take_flight(&mut self, key: usize) -> Flight {
        let flight = self.flights.remove(key);
        debug_assert!(flight.attempt.is_none(), "its lane would answer somebody else");
        self.job_bytes -= flight.bytes;
        flight
    }

    fn give_up(&mut self, key: usize, reason: GiveUp) {
        let flight = self.take_flight(key);
        self.lay_aside(flight.job, flight.number, reason);
    }

    fn lay_aside(&mut self, job: Job, number: u64, reason: GiveUp) {
        self.stats.gave_up.add(1);
        self.given_up.push_back(GivenUp { ticket: job.ticket, reason, body: job.body, number });
        self.ring(Tick(0));
    }

    // Targets and time.

    /// Makes hooks and upstreams what the options say; upstreams that stay keep their connections and their breaker.
    fn set_targets(&mut self) {
        self.upstreams.iter_mut().for_each(|upstream| upstream.is_retired = true);
        for hook in HookKind::ALL {
            let urls = self.options.urls(hook).to_vec();
            let target = |url| Rc::new(Target::new(hook, url, self.upstream_for(&url.host, url.port)));
            let targets = urls.iter().map(target).collect();
            let state = &mut self.hooks[hook as usize];
            (state.targets, state.balancer) = (targets, Balancer::default());
        }
        let retired = self.upstreams.iter().filter(|upstream| upstream.is_retired);
        let idle: Vec<usize> = retired.flat_map(|upstream| upstream.idle.iter().copied()).collect();
        idle.into_iter().for_each(|lane| self.close_lane(lane));
    }

    /// The upstream of that host and port, taking the slot of one that is over if there is none.
    fn upstream_for(&mut self, host: &str, port: u16) -> usize {
        if let Some(index) = self.upstreams.iter().position(|known| *known.host == *host && known.port == port) {
            self.upstreams[index].is_retired = false;
            return index;
        }
        let upstream = Upstream {
            host: host.into(),
            port,
            breaker: Breaker::default(),
            lanes: 0,
            idle: Vec::new(),
            outstanding: 0,
            address_hint: 0,
            is_retired: false,
        };
        match self.upstreams.iter().position(|known| known.is_retired && known.lanes == 0) {
            Some(index) => {
                self.upstreams[index] = upstream;
                index
            }
            None => {
                self.upstreams.push(upstream);
                self.upstreams.len() - 1
            }
        }
    }

    fn line(&mut self, hook: HookKind) -> &mut Line {
        &mut self.hooks[hook as usize].line
    }

    /// Something will be due at `at`.
    fn arm(&mut self, at: Tick) {
        if at < self.earliest {
            self.earliest = at;
            self.ring(at);
        }
    }

    /// Tells the worker if its timer is set too late.
    fn ring(&mut self, at: Tick) {
        if at < self.told {
            self.told = at;
            (self.alarm)(at);
        }
    }

    /// After every change from outside: lines' times are armed and the gauges shown.
    fn settle(&mut self) {
        let of_lines = self.hooks.iter().map(|hook| hook.line.next_deadline()).min().unwrap_or(Tick::NEVER);
        self.arm(of_lines);
        self.stats.jobs.set(self.flights.len() as u64);
        self.stats.waiting.set(self.hooks.iter().map(|hook| hook.line.len() as u64).sum());
        self.stats.connections.set(self.lanes.len() as u64);
        #[cfg(debug_assertions)]
        if self.flights.len() <= INVARIANTS_MAX {
            self.check_invariants();
        }
    }

    #[cfg(debug_assertions)]
    fn check_invariants(&self) {
        let in_lines: usize = self.hooks.iter().map(|hook| hook.line.len()).sum();
        let on_lanes = self.lanes.iter().filter(|(_, lane)| lane.flight.is_some()).count();
        assert_eq!(in_lines + on_lanes, self.flights.len(), "every flight is in a line or on a lane");
        assert_eq!(self.job_bytes, self.flights.iter().map(|(_, flight)| flight.bytes).sum::<usize>());
        let resolving = self.lanes.iter().filter(|(_, lane)| lane.state == LaneState::Resolving).count();
        assert_eq!(resolving, self.resolving);
        for (index, upstream) in self.upstreams.iter().enumerate() {
            let lanes = || self.lanes.iter().filter(|(_, lane)| lane.upstream == index);
            assert_eq!(lanes().count(), upstream.lanes);
            assert_eq!(lanes().filter(|(_, lane)| lane.flight.is_some()).count(), upstream.outstanding);
            let idle = lanes().filter(|(_, lane)| lane.state == LaneState::Idle).count();
            assert_eq!(idle, upstream.idle.len());
        }
        for (_, lane) in &self.lanes {
            assert!(!(lane.flight.is_some() && matches!(lane.state, LaneState::Idle | LaneState::Closing)));
        }
    }
}

impl Lane {
    fn deadline(&self) -> Tick {
        match self.state {
            LaneState::Closing => Tick::NEVER,
            LaneState::Connecting => self.deadline.min(self.connect_by),
            LaneState::Resolving | LaneState::Busy | LaneState::Idle => self.deadline,
        }
    }
}

fn job_bytes(job: &Job) -> usize {
    let of = |part: &Option<Rc<[u8]>>| part.as_ref().map_or(0, |part| part.len());
    job.body.len() + of(&job.headers) + job.query.as_ref().map_or(0, |query| query.len())
}

/// How long one address of several may take before the next one is tried.
const CONNECT_TRY_MS: u64 = 3000;
const RESOLVE_POLL_MS: u64 = 20;
/// After so many connections in a row that closed under one request it counts as a failure like any other.
const STALE_TRIES_MAX: u32 = 3;
/// Debug builds look at every flight after every change while there are no more than these.
#[cfg(debug_assertions)]
const INVARIANTS_MAX: usize = 256;
const KEPT_BYTES_MAX: usize = 64 << 10;
