//! Joins the tables: takes requests in, sends them out on connections, and decides what responses, failures and time
//! mean to them.
//!
//! A request is in its hook's queue, or on exactly one connection, and nowhere else, until it is given back. Never
//! waits, never reads and reads no clock; the only calls to the outside are a `send` that does not wait, a shutdown,
//! the start of a task and the alarm. Requests that end without a response wait in `Requests` until the sink can be
//! called, which is when no borrow is held. Called by `SharedDispatcher`, for the pool's handle and for the tasks of
//! connections.

use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::Arc;

use monoio::io::OwnedWriteHalf;
use monoio::net::TcpStream;
use tracing::{info, warn};

use super::connections::{ConnectionState, Connections, UpstreamConnection};
use super::dead_letters::DeadLetters;
use super::failures::{BreakerCause, count_status, failure_counter};
use super::ids::{ConnectionIndex, ConnectionSerial, RequestIndex, UpstreamIndex};
use super::requests::{Attempt, GivenUp, Requests, queued_bytes};
use super::routes::{RouteTarget, Routes};
use super::tasks::{ConnectionEnd, ConnectionTasks};
use super::upstreams::{Place, UpstreamState, Upstreams};
use super::worker_timer::{Alarm, WorkerTimer};
use crate::base::rng::Rng;
use crate::base::time::Tick;
use crate::io::backend::hook::{GiveUp, HookKind, HookRequest, RequestTag, Retry};
use crate::io::backend::options::{self, Options};
use crate::io::backend::request_writer::{RequestTemplate, Signer};
use crate::io::backend::resolver::{Lookup, Resolver};
use crate::io::backend::time_source::Now;
use crate::metrics::backend::BackendMetrics;
use crate::policy::backend::breaker::Change;
use crate::policy::backend::{self as policy, Blame, Failure, Permit, Verdict};

/// All state of one pool.
pub struct Dispatcher {
    options: Options,
    stats: Arc<BackendMetrics>,
    routes: Routes,
    upstreams: Upstreams,
    connections: Connections,
    requests: Requests,
    dead_letters: DeadLetters,
    timer: WorkerTimer,
    signer: Signer,
    rng: Rng,
    resolver: Resolver,
    tasks: Box<dyn ConnectionTasks>,
    is_closed: bool,
}

/// What a dispatcher is made of.
pub struct DispatcherParts {
    pub options: Options,
    pub stats: Arc<BackendMetrics>,
    pub resolver: Resolver,
    pub seed: u64,
    pub alarm: Alarm,
    pub tasks: Box<dyn ConnectionTasks>,
}

/// Calls of the worker.
impl Dispatcher {
    pub fn new(parts: DispatcherParts) -> Dispatcher {
        let DispatcherParts { options, stats, resolver, seed, alarm, tasks } = parts;
        let mut rng = Rng::new(seed);
        let signer = Signer::new(options.security_token.clone(), options.webhook_key.clone(), Rng::new(rng.next_u64()));
        let mut dispatcher = Dispatcher {
            dead_letters: DeadLetters::new(&options.limits, stats.clone()),
            options,
            stats,
            routes: Routes::default(),
            upstreams: Upstreams::default(),
            connections: Connections::default(),
            requests: Requests::default(),
            timer: WorkerTimer::new(alarm),
            signer,
            rng,
            resolver,
            tasks,
            is_closed: false,
        };
        dispatcher.set_targets();
        dispatcher
    }

    #[expect(clippy::result_large_err, reason = "the request is moved either way")]
    pub fn submit(&mut self, request: HookRequest, now: Now<'_>) -> Result<(), HookRequest> {
        let len = self.requests.len() - self.dead_letters.len();
        let bytes = self.requests.bytes() - self.dead_letters.bytes() + queued_bytes(&request);
        let is_full = len >= self.options.limits.backend_queue_max || bytes > self.options.queue_bytes_max;
        // A single request larger than the whole limit would otherwise never pass. Dead letters have their own room.
        if is_full && len > 0 {
            self.stats.queue_full.increment();
            return Err(request);
        }
        let hook = HookKind::from(request.hook);
        let number = self.requests.take_number();
        if let Some(reason) = self.refusal(hook, request.retry, now.tick) {
            self.requests.refuse(request, number, reason);
            self.count_given_up();
            return Ok(());
        }
        let deadline = match request.retry {
            Retry::Never => now.tick + options::attempt_ms(&self.options, hook),
            Retry::Until(deadline) => deadline,
        };
        let index = self.requests.insert(request, number, deadline);
        let ready = self.requests[index].ready(index);
        self.routes[hook].queue_mut().push(ready);
        self.serve_queue(hook, now);
        self.settle();
        Ok(())
    }

    /// Opens connections whose addresses have been found. Judges no deadline.
    pub fn poll_resolver(&mut self, now: Now<'_>) {
        if self.connections.has_resolving() {
            self.resolver.poll();
            self.open_resolved(now);
            self.settle();
        }
    }

    pub fn poll(&mut self, now: Now<'_>) {
        self.poll_resolver(now);
        if self.timer.expire(now.tick) {
            let before = self.requests.given_up();
            self.expire_connections(now.tick);
            for hook in HookKind::ALL {
                self.expire_queue(hook, now.tick);
            }
            self.serve_queues(now);
            self.requests.sort_given_up(before);
        }
        self.settle();
    }

    pub fn next_deadline(&mut self) -> Tick {
        self.timer.next_deadline(self.requests.given_up() > 0)
    }

    pub fn reconfigure(&mut self, options: Options, now: Now<'_>) {
        self.signer.rekey(options.security_token.clone(), options.webhook_key.clone());
        self.options = options;
        self.set_targets();
        for hook in HookKind::ALL {
            if !self.routes[hook].has_targets() {
                self.give_up_queue(hook, GiveUp::NoUrl);
            }
        }
        self.serve_queues(now);
        self.settle();
    }

    pub fn close(&mut self) {
        self.is_closed = true;
        for hook in HookKind::ALL {
            self.give_up_queue(hook, GiveUp::Closed);
        }
        for connection in self.connections.all() {
            if let Some(request) = self.connections[connection].take_request() {
                self.end_unused_attempt(request, Tick(0));
                self.give_up(request, GiveUp::Closed);
            }
            self.close_connection(connection);
        }
        self.settle();
    }

    pub fn is_idle(&self) -> bool {
        self.requests.is_empty() && self.requests.given_up() == 0
    }

    pub fn upstream_states(&self) -> Vec<UpstreamState> {
        self.upstreams.states()
    }

    /// Requests that have ended without a response and wait for the sink.
    pub fn given_up(&self) -> usize {
        self.requests.given_up()
    }

    pub fn pop_given_up(&mut self) -> Option<GivenUp> {
        self.requests.pop_given_up()
    }

    /// Makes routes and upstreams what the options say. Upstreams that stay keep their connections and their breaker.
    fn set_targets(&mut self) {
        self.upstreams.retire_all();
        for hook in HookKind::ALL {
            let targets: Vec<RouteTarget> = options::urls(&self.options, hook)
                .iter()
                .map(|url| RouteTarget {
                    upstream: self.upstreams.find_or_add(&url.host, url.port),
                    template: RequestTemplate::new(hook, url).into(),
                })
                .collect();
            if hook == HookKind::Connect {
                targets.iter().for_each(|target| self.upstreams[target.upstream].set_takes_connects());
            }
            self.routes[hook].set_targets(targets);
        }
        self.upstreams.retired_idle().into_iter().for_each(|connection| self.close_connection(connection));
    }

    /// Why a request would not even be queued.
    fn refusal(&self, hook: HookKind, retry: Retry, now: Tick) -> Option<GiveUp> {
        let route = &self.routes[hook];
        if self.is_closed {
            return Some(GiveUp::Closed);
        }
        if !route.has_targets() {
            return Some(GiveUp::NoUrl);
        }
        match retry {
            Retry::Until(deadline) if deadline <= now => Some(GiveUp::Deadline),
            Retry::Never if route.is_down(&self.upstreams, hook, now) => Some(GiveUp::Down),
            Retry::Never | Retry::Until(_) => None,
        }
    }
}

/// Calls of the tasks of connections. `connection` is the task's own; its entry is removed by its task
/// only, once there is one.
impl Dispatcher {
    /// In which order the connection tries its upstream's addresses.
    pub fn address_order(&mut self, connection: ConnectionIndex, addresses: &[IpAddr], now: Now<'_>) -> Vec<usize> {
        let memory_ms = self.options.limits.backend_address_failed_ms;
        self.upstreams[self.connections[connection].upstream()].address_order(addresses, now.tick, memory_ms)
    }

    /// A socket is on its way to an address of the backend, the last one or not. False: it is not wanted any more.
    pub fn connecting(&mut self, connection: ConnectionIndex, fd: RawFd, is_last: bool, now: Now<'_>) -> bool {
        let connect_by = if is_last { Tick::NEVER } else { now.tick + self.options.limits.backend_connect_ms };
        let is_wanted = self.connections[connection].connecting(fd, connect_by);
        if is_wanted {
            self.timer.arm(self.connections[connection].next_deadline());
        }
        is_wanted
    }

    pub fn address_failed(&mut self, connection: ConnectionIndex, address: IpAddr, now: Now<'_>) {
        self.connections[connection].address_failed();
        self.upstreams[self.connections[connection].upstream()].address_failed(address, now.tick);
    }

    /// The connection stands: the request that it was opened for goes out.
    pub fn connected(&mut self, connection: ConnectionIndex, writer: OwnedWriteHalf<TcpStream>, now: Now<'_>) {
        self.stats.connections_opened.add(1);
        // Not all at the same moment: a backend that restarts would get them all back at once.
        let age_ms = self.options.limits.backend_connection_age_ms;
        let retire_at = now.tick + (age_ms - self.rng.below(age_ms / 4 + 1));
        if self.connections[connection].connected(writer, retire_at) {
            self.send_request(connection, now);
        }
    }

    /// True when a request waits for the bytes that arrive on this connection.
    pub fn is_expected(&self, connection: ConnectionIndex) -> bool {
        self.connections[connection].request().is_some()
    }

    pub fn body_bytes_max(&self) -> usize {
        self.options.body_bytes_max
    }

    /// A whole response has come. Returns tag and body of the request, when this ends it. The connection, and perhaps
    /// others, already go on with what waits.
    pub fn responded(
        &mut self,
        connection: ConnectionIndex,
        (status, body): (u16, &[u8]),
        is_reusable: bool,
        now: Now<'_>,
    ) -> Option<((RequestTag, Vec<u8>), Verdict)> {
        let request = self.connections[connection].take_request()?;
        let hook = self.requests[request].hook();
        let Attempt { upstream, permit, started_us, .. } = self.end_attempt(request);
        self.stats.answers.add(1);
        self.upstreams[upstream].record_answer(hook, (status, body), [started_us, now.us], now.tick, &self.stats);
        count_status(&self.stats, status);
        let (mut verdict, blame) = (policy::classify(Ok(status)), policy::blame(Ok(status)));
        if blame == Blame::Request && self.is_used_up(request, BreakerCause::Status(status), now.tick) {
            verdict = Verdict::Final;
        }
        self.requests.set_suspect(request, policy::is_suspect(Ok(status)));
        let accepted = &self.requests[request];
        let is_retried =
            verdict == Verdict::Retry && accepted.retry() != Retry::Never && now.tick < accepted.deadline();
        let finished = if is_retried {
            self.schedule_retry(request, now.tick);
            None
        } else if self.dead_letters.end(&mut self.requests, request, verdict == Verdict::Success) {
            None
        } else {
            Some((self.requests.finish(request), verdict))
        };
        self.free_connection(connection, is_reusable, now.tick);
        if blame == Blame::Upstream {
            self.upstream_failed(upstream, hook, permit, BreakerCause::Status(status), now.tick);
        } else {
            let change = self.upstreams[upstream].answered(hook, permit);
            self.apply(change, upstream, hook, BreakerCause::Status(status));
        }
        self.serve_queues(now);
        self.settle();
        finished
    }

    /// The connection is over. Its socket is still open, and is closed after this. A request that is still on it has
    /// failed.
    pub fn connection_ended(&mut self, connection: ConnectionIndex, end: ConnectionEnd, now: Now<'_>) {
        let ended = self.remove_connection(connection);
        // A connection that we shut down may still receive the response to a request that was given up.
        if end == ConnectionEnd::Unsolicited && ended.state() == ConnectionState::Idle {
            self.stats.unasked.add(1);
        }
        if let Some(request) = ended.request() {
            // The backend closed an idle connection while our request was on its way: it has not seen the request, and
            // nobody has failed.
            let is_stale = end == ConnectionEnd::ClosedUntouched && ended.has_responded();
            if !is_stale {
                self.attempt_failed(request, end.failure(), now.tick);
            } else if self.requests[request].is_repeatable()
                && self.requests.count_stale(request, self.options.limits.backend_stale_max)
            {
                self.requeue_stale(request, now.tick);
            } else {
                self.end_unused_attempt(request, now.tick);
                self.retry_or_give_up(request, end.failure(), now.tick);
            }
        }
        self.serve_queues(now);
        self.settle();
    }

    /// What the kernel did not take at once has been sent, or cannot be. The connection may have ended meanwhile.
    pub fn rest_sent(
        &mut self,
        connection: ConnectionIndex,
        serial: ConnectionSerial,
        writer: OwnedWriteHalf<TcpStream>,
        bytes: Vec<u8>,
        is_sent: bool,
    ) {
        if let Some(connection) = self.connections.get_mut(connection, serial) {
            connection.rest_sent(writer, bytes, is_sent);
        }
    }
}

/// From a queue to a connection.
impl Dispatcher {
    fn serve_queues(&mut self, now: Now<'_>) {
        self.routes.next_round().for_each(|hook| self.serve_queue(hook, now));
    }

    /// Sends out as many of a queue's requests as breakers and connections allow.
    fn serve_queue(&mut self, hook: HookKind, now: Now<'_>) {
        if !self.routes[hook].queue().has_any_ready() {
            return;
        }
        let connections_max = self.options.connections_max;
        let place = Place { hook, is_suspect: false, now: now.tick, connections_max };
        while let Some((request, target)) = self.routes[hook].pop_ready(&self.upstreams, place) {
            self.start_attempt(request, target, now);
        }
        // Those that wait for a breaker go on when it admits a probe.
        let probe_at = self.routes[hook].probe_at(&self.upstreams, hook, now.tick);
        self.timer.arm(probe_at.unwrap_or(Tick::NEVER));
    }

    fn start_attempt(&mut self, request: RequestIndex, target: RouteTarget, now: Now<'_>) {
        let RouteTarget { upstream, template } = target;
        let accepted = &self.requests[request];
        let permit = self.upstreams[upstream].begin_attempt(accepted.hook(), now.tick, accepted.is_suspect());
        let full_deadline = now.tick + options::attempt_ms(&self.options, accepted.hook());
        let deadline = full_deadline.min(accepted.deadline());
        self.stats.requests.add(1);
        self.stats.retries.add(u64::from(accepted.is_retried()));
        let attempt = Attempt { upstream, template, permit, started_us: now.us, full_deadline };
        self.requests.begin_attempt(request, attempt);
        if let Some(connection) = self.upstreams[upstream].pop_idle() {
            self.connections[connection].assign(request, deadline);
            self.timer.arm(deadline);
            self.send_request(connection, now);
        } else {
            self.open_connection(upstream, request, deadline, now.tick);
        }
    }

    fn send_request(&mut self, connection: ConnectionIndex, now: Now<'_>) {
        let Dispatcher { connections, requests, signer, tasks, .. } = self;
        let sender = &mut connections[connection];
        let accepted = &requests[sender.request().expect("a busy connection has a request")];
        let template = &accepted.attempt().expect("a request on a connection is an attempt").template;
        let unsent = sender.send(|out| template.write(out, accepted.request(), accepted.number(), signer, now));
        if let Some(unsent) = unsent {
            // Only for what exceeds the socket's buffer, so no ordinary message pays for a task.
            tasks.start_sending(connection, unsent);
        }
    }
}

/// Connections: from nothing to busy, to idle, and to nothing again.
impl Dispatcher {
    fn open_connection(&mut self, upstream: UpstreamIndex, request: RequestIndex, deadline: Tick, now: Tick) {
        self.upstreams[upstream].connection_opened();
        let connection = self.connections.open(upstream, request, deadline);
        self.timer.arm(deadline);
        self.resolve(connection, now);
    }

    /// Looks for the connection's addresses, and starts its task when there are some.
    fn resolve(&mut self, connection: ConnectionIndex, now: Tick) {
        let upstream = &self.upstreams[self.connections[connection].upstream()];
        match self.resolver.lookup(upstream.host(), now) {
            Lookup::Ready(addresses) => {
                self.connections.resolved(connection);
                self.tasks.start_connection(connection, addresses, upstream.port());
            }
            // The resolver wakes the worker. Should it not, an address is noticed this late.
            Lookup::Pending => self.timer.arm(now + RESOLVE_POLL_MS),
            Lookup::Failed => {
                let request = self.remove_connection(connection).request();
                let request = request.expect("opened for a request, closed without it");
                self.attempt_failed(request, Failure::NoAddress, now);
            }
        }
    }

    fn open_resolved(&mut self, now: Now<'_>) {
        for connection in self.connections.resolving() {
            self.resolve(connection, now.tick);
        }
        self.serve_queues(now);
    }

    /// A response has come, and the connection carries no request any more.
    fn free_connection(&mut self, connection: ConnectionIndex, is_reusable: bool, now: Tick) {
        let freed = &mut self.connections[connection];
        freed.count_response();
        let upstream = &mut self.upstreams[freed.upstream()];
        if !is_reusable || !freed.is_reusable(now) || upstream.is_retired() || self.is_closed {
            return self.close_connection(connection);
        }
        let deadline = now + self.options.idle_timeout_ms;
        freed.rest_until(deadline);
        upstream.push_idle(connection);
        self.timer.arm(deadline);
    }

    /// Ends a connection that carries no request.
    fn close_connection(&mut self, connection: ConnectionIndex) {
        let closed = &mut self.connections[connection];
        match closed.state() {
            // There is no task yet that would remove it.
            ConnectionState::Resolving => {
                self.remove_connection(connection);
                return;
            }
            ConnectionState::Idle => self.upstreams[closed.upstream()].remove_idle(connection),
            ConnectionState::Connecting | ConnectionState::Busy | ConnectionState::Closing => {}
        }
        closed.close();
    }

    fn remove_connection(&mut self, index: ConnectionIndex) -> UpstreamConnection {
        let connection = self.connections.remove(index);
        let upstream = &mut self.upstreams[connection.upstream()];
        upstream.connection_removed();
        if connection.state() == ConnectionState::Idle {
            upstream.remove_idle(index);
        }
        connection
    }

    /// Cuts off what takes too long, and closes what was idle too long.
    fn expire_connections(&mut self, now: Tick) {
        for connection in self.connections.overdue(now) {
            let overdue = &mut self.connections[connection];
            if overdue.deadline() > now {
                overdue.abandon_address();
                continue;
            }
            let request = overdue.take_request();
            self.close_connection(connection);
            if let Some(request) = request {
                self.attempt_timed_out(request, now);
            }
        }
        self.timer.arm(self.connections.next_deadline());
        if self.connections.has_resolving() {
            self.timer.arm(now + RESOLVE_POLL_MS);
        }
    }
}

/// Attempts that fail, and requests that wait or are given up.
impl Dispatcher {
    fn end_attempt(&mut self, request: RequestIndex) -> Attempt {
        let attempt = self.requests.end_attempt(request);
        self.upstreams[attempt.upstream].end_attempt(self.requests[request].hook());
        attempt
    }

    /// Ends an attempt that says nothing about the backend.
    fn end_unused_attempt(&mut self, request: RequestIndex, now: Tick) {
        let attempt = self.end_attempt(request);
        self.upstreams[attempt.upstream].unused(self.requests[request].hook(), attempt.permit, now);
    }

    fn attempt_timed_out(&mut self, request: RequestIndex, now: Tick) {
        let attempt = self.requests[request].attempt().expect("it was on a connection");
        if now >= attempt.full_deadline {
            return self.attempt_failed(request, Failure::Timeout, now);
        }
        // The request's own deadline cut the attempt short.
        self.end_unused_attempt(request, now);
        self.give_up(request, GiveUp::Deadline);
    }

    fn attempt_failed(&mut self, request: RequestIndex, failure: Failure, now: Tick) {
        failure_counter(&self.stats, failure).increment();
        let hook = self.requests[request].hook();
        let Attempt { upstream, permit, .. } = self.end_attempt(request);
        self.requests.set_suspect(request, policy::is_suspect(Err(failure)));
        let blame = policy::blame(Err(failure));
        if blame == Blame::Request && self.is_used_up(request, BreakerCause::Failure(failure), now) {
            self.give_up(request, GiveUp::Failed(failure));
        } else {
            self.retry_or_give_up(request, failure, now);
        }
        match blame {
            Blame::Nobody => self.upstreams[upstream].unused(hook, permit, now),
            Blame::Upstream => self.upstream_failed(upstream, hook, permit, BreakerCause::Failure(failure), now),
            Blame::Request => {
                let change = self.upstreams[upstream].answered(hook, permit);
                self.apply(change, upstream, hook, BreakerCause::Failure(failure));
            }
        }
    }

    /// An attempt was charged to the request itself: it has used up its attempts, and becomes a dead letter.
    fn is_used_up(&mut self, request: RequestIndex, cause: BreakerCause, now: Tick) -> bool {
        let is_counted = self.requests[request].hook() == HookKind::Forward;
        if !is_counted || self.requests.count_blamed(request) < self.options.forward_attempts_max {
            return false;
        }
        self.dead_letters.submit(&mut self.requests, &mut self.routes, &self.signer, request, cause, now);
        true
    }

    fn retry_or_give_up(&mut self, request: RequestIndex, failure: Failure, now: Tick) {
        match self.requests[request].retry() {
            Retry::Never => self.give_up(request, GiveUp::Failed(failure)),
            Retry::Until(deadline) if now >= deadline || self.is_closed => self.give_up(request, GiveUp::Deadline),
            Retry::Until(_) => self.schedule_retry(request, now),
        }
    }

    fn upstream_failed(
        &mut self,
        upstream: UpstreamIndex,
        hook: HookKind,
        permit: Permit,
        cause: BreakerCause,
        now: Tick,
    ) {
        let change = self.upstreams[upstream].failed(hook, permit, now, &self.options.breaker, &mut self.rng);
        self.apply(change, upstream, hook, cause);
    }

    /// The request goes first again, on another connection.
    fn requeue_stale(&mut self, request: RequestIndex, now: Tick) {
        self.stats.stale.add(1);
        self.end_unused_attempt(request, now);
        let (hook, ready) = (self.requests[request].hook(), self.requests[request].ready(request));
        self.routes[hook].queue_mut().push_front(ready);
    }

    /// The request waits for its next attempt, or for its deadline if that is sooner.
    fn schedule_retry(&mut self, request: RequestIndex, now: Tick) {
        let failed = self.requests.count_failed(request);
        let accepted = &self.requests[request];
        let due = (now + self.options.retry.delay_ms(failed, &mut self.rng)).min(accepted.deadline());
        self.routes[accepted.hook()].queue_mut().delay(request, accepted.number(), due);
        self.timer.arm(due);
    }

    fn expire_queue(&mut self, hook: HookKind, now: Tick) {
        while let Some(request) = self.routes[hook].queue_mut().pop_due(now) {
            let ready = self.requests[request].ready(request);
            if ready.deadline <= now {
                self.give_up(request, GiveUp::Deadline);
            } else {
                self.routes[hook].queue_mut().push(ready);
            }
        }
        let mut expired = Vec::new();
        let deadline_of = |request| self.requests[request].deadline();
        self.routes[hook].queue_mut().expire(now, deadline_of, &mut expired);
        expired.into_iter().for_each(|request| self.give_up(request, GiveUp::Deadline));
        self.timer.arm(self.routes[hook].queue().next_deadline());
    }

    /// What a breaker's change means to the requests that wait.
    fn apply(&mut self, change: Change, upstream: UpstreamIndex, hook: HookKind, cause: BreakerCause) {
        let host_and_port = || format!("{}:{}", self.upstreams[upstream].host(), self.upstreams[upstream].port());
        match change {
            Change::None => return,
            Change::Opened | Change::StaysOpen => {
                if change == Change::Opened {
                    warn!(backend = host_and_port(), %hook, "taken for down: {cause}");
                }
                self.stats.breaker_opened.add(1);
                self.give_up_unretried(hook);
            }
            Change::Closed => {
                info!(backend = host_and_port(), %hook, "is back: {cause}");
                let requests = &self.requests;
                self.routes[hook].queue_mut().release(|request| requests[request].ready(request));
            }
        }
        self.stats.open_breakers.set(self.upstreams.open_breakers() as u64);
    }

    /// When all of a hook's backends are down, requests that are never retried end now rather than at their deadline.
    fn give_up_unretried(&mut self, hook: HookKind) {
        if self.routes[hook].has_closed_breaker(&self.upstreams, hook) {
            return;
        }
        let mut unretried = Vec::new();
        self.routes[hook].queue_mut().remove(|request| {
            let is_unretried = self.requests[request].retry() == Retry::Never;
            if is_unretried {
                unretried.push(request);
            }
            is_unretried
        });
        unretried.into_iter().for_each(|request| self.give_up(request, GiveUp::Down));
    }

    fn give_up_queue(&mut self, hook: HookKind, reason: GiveUp) {
        let waiting: Vec<RequestIndex> = self.routes[hook].queue_mut().drain().collect();
        waiting.into_iter().for_each(|request| self.give_up(request, reason));
    }

    fn give_up(&mut self, request: RequestIndex, reason: GiveUp) {
        if !self.dead_letters.end(&mut self.requests, request, false) {
            self.requests.give_up(request, reason);
            self.count_given_up();
        }
    }

    fn count_given_up(&mut self) {
        self.stats.gave_up.add(1);
        self.timer.arm_now();
    }
}

/// After every change.
impl Dispatcher {
    /// Arms the queues' deadlines and publishes the gauges.
    fn settle(&mut self) {
        self.timer.arm(self.routes.next_deadline());
        self.stats.jobs.set(self.requests.len() as u64);
        self.stats.waiting.set(self.routes.waiting() as u64);
        self.stats.connections.set(self.connections.len() as u64);
        #[cfg(debug_assertions)]
        if self.requests.len() <= INVARIANTS_MAX {
            self.check_invariants();
        }
    }

    #[cfg(debug_assertions)]
    fn check_invariants(&self) {
        let on_connections = self.connections.iter().filter(|connection| connection.request().is_some()).count();
        let is_complete = self.routes.waiting() + on_connections == self.requests.len();
        assert!(is_complete, "every request is in a queue or on a connection");
        self.requests.check_invariants();
        self.connections.check_invariants();
        for (index, upstream) in self.upstreams.iter() {
            let connections = || self.connections.iter().filter(|connection| connection.upstream() == index);
            let busy = connections().filter(|connection| connection.request().is_some()).count();
            let idle = connections().filter(|connection| connection.state() == ConnectionState::Idle).count();
            upstream.check_counts(connections().count(), busy, idle);
        }
    }
}

/// How late an address is noticed by a worker that the resolver does not wake.
const RESOLVE_POLL_MS: u64 = 20;
/// Debug builds look at every request after every change up to this many.
#[cfg(debug_assertions)]
const INVARIANTS_MAX: usize = 256;
