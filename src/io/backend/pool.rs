//! One worker's client of the business server, as the worker holds it.
//!
//! Accepts requests, is called once per turn, and hands each request back through the sink. Joins the dispatcher, which
//! decides, with the tasks, which wait for the network. Must live on a monoio runtime with the io_uring driver. Called
//! by the worker's turn and by whoever has a hook to call.

use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::connection_task;
use super::dispatch::connections::Unsent;
use super::dispatch::dispatcher::{Dispatcher, DispatcherParts};
use super::dispatch::ids::ConnectionIndex;
use super::dispatch::tasks::ConnectionTasks;
use super::dispatch::upstreams::UpstreamState;
use super::dispatch::worker_timer::Alarm;
use super::hook::HookRequest;
use super::options::Options;
use super::resolver::Resolver;
use super::shared_dispatcher::{SharedDispatcher, Sink};
use super::time_source::{Clocks, TimeSource};
use crate::base::time::Tick;
use crate::metrics::backend::BackendMetrics;

/// Clones are handles of the same pool.
#[derive(Clone)]
pub struct Pool(Rc<SharedDispatcher>);

/// What a pool is made of.
pub struct PoolParts {
    pub options: Options,
    pub stats: Arc<BackendMetrics>,
    pub resolver: Resolver,
    pub clocks: Clocks,
    /// Of jitter, nonces and webhook ids; different in every worker and at every start.
    pub seed: u64,
    pub sink: Sink,
    pub alarm: Alarm,
}

impl Pool {
    pub fn new(parts: PoolParts) -> Pool {
        let PoolParts { options, stats, resolver, clocks, seed, sink, alarm } = parts;
        Pool(Rc::new_cyclic(|shared| {
            let tasks = Box::new(Spawner(shared.clone()));
            let dispatcher = Dispatcher::new(DispatcherParts { options, stats, resolver, seed, alarm, tasks });
            SharedDispatcher::new(dispatcher, sink, TimeSource::new(clocks))
        }))
    }

    /// Accepts a request, or gives it back when the queue is full (counted as `queue_full`). The sink is not called
    /// from here: a request that ends at once ends in the next `poll_timers`, and `next_deadline` says so.
    #[expect(clippy::result_large_err, reason = "the request is moved either way")]
    pub fn submit(&self, request: HookRequest) -> Result<(), HookRequest> {
        self.0.with_now(|dispatcher, now| dispatcher.submit(request, now))
    }

    /// Carries out what is due: timeouts, retries, probes, requests to give back. Part of the worker's turn.
    pub fn poll_timers(&self, now: Tick) {
        let now = self.0.time().at(now);
        self.0.with(|dispatcher| dispatcher.poll(now));
        self.0.deliver_given_up();
    }

    /// Takes what the resolver has found; it may be called at any time, since it judges no deadline.
    pub fn poll_resolver(&self, now: Tick) {
        let now = self.0.time().at(now);
        self.0.with(|dispatcher| dispatcher.poll_resolver(now));
        self.0.deliver_given_up();
    }

    /// When `poll_timers` has to be called next; `Tick(0)` is "at once".
    pub fn next_deadline(&self) -> Tick {
        self.0.with(Dispatcher::next_deadline)
    }

    /// Changes URLs, limits and keys. Attempts under way end as they began; connections to backends that are no longer
    /// listed are closed when they are idle.
    pub fn reconfigure(&self, options: Options) {
        self.0.with_now(|dispatcher, now| dispatcher.reconfigure(options, now));
    }

    /// True when every request has come back.
    pub fn is_idle(&self) -> bool {
        self.0.with(|dispatcher| dispatcher.is_idle())
    }

    /// Gives up what is left and closes all connections. The requests come back in the next `poll_timers`.
    pub fn close(&self) {
        self.0.with(Dispatcher::close);
    }

    pub fn upstreams(&self) -> Vec<UpstreamState> {
        self.0.with(|dispatcher| dispatcher.upstream_states())
    }
}

/// Starts the tasks of connections, each with a handle of its own to the dispatcher.
struct Spawner(Weak<SharedDispatcher>);

impl Spawner {
    fn shared(&self) -> Rc<SharedDispatcher> {
        self.0.upgrade().expect("the dispatcher is called through it")
    }
}

impl ConnectionTasks for Spawner {
    fn start_connection(&self, connection: ConnectionIndex, addresses: Arc<[IpAddr]>, port: u16) {
        monoio::spawn(connection_task::run(self.shared(), connection, addresses, port));
    }

    fn start_sending(&self, connection: ConnectionIndex, unsent: Unsent) {
        monoio::spawn(connection_task::send_rest(self.shared(), connection, unsent));
    }
}
