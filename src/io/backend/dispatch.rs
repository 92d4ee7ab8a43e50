//! Which job goes out on which connection, and when: the pool's state, as plain data behind one borrow.
//!
//! Three tables: *flights* (jobs accepted and not yet given back), *lanes* (connections), *upstreams* (host and port,
//! with breaker). A flight is in its hook's line, or on exactly one lane, and nowhere else. Nothing here waits; the
//! only calls to the outside are a non-blocking send, a shutdown, and the spawning of a lane's task. Jobs that end
//! without an answer are laid into `given_up`, to be handed to the sink when no borrow is held.

mod flights;
mod lanes;
mod upstreams;

use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use slab::Slab;

use self::flights::{Attempt, Flight};
use self::lanes::{Lane, LaneState};
use self::upstreams::{HookState, Upstream};
use super::line::Line;
use super::options::{HookKind, Options};
use super::request::{Now, Signer, Target};
use super::{Alarm, GiveUp, Inner, Job, Retry};
use crate::base::rng::Rng;
use crate::base::time::Tick;
use crate::io::resolve::Resolver;
use crate::metrics::backend::BackendMetrics;
use crate::policy::backend::{Breaker, Candidate};

/// Everything a pool knows.
pub struct Dispatcher {
    me: Weak<Inner>,
    pub options: Options,
    pub stats: Arc<BackendMetrics>,
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

impl Dispatcher {
    pub(super) fn new(
        me: Weak<Inner>,
        options: Options,
        stats: Arc<BackendMetrics>,
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
            self.stats.queue_full.increment();
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

    // Targets and time.

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

fn job_bytes(job: &Job) -> usize {
    let of = |part: &Option<Rc<[u8]>>| part.as_ref().map_or(0, |part| part.len());
    job.body.len() + of(&job.headers) + job.query.as_ref().map_or(0, |query| query.len())
}

/// Debug builds look at every flight after every change while there are no more than these.
#[cfg(debug_assertions)]
const INVARIANTS_MAX: usize = 256;
