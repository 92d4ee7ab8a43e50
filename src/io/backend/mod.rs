//! The client of the business server: keep-alive HTTP/1.1 connections, owned by the worker that owns the clients.
//!
//! ```text
//!   worker ── submit(job) ──▶ line ──▶ lane (one connection, one task, one read always outstanding) ──▶ backend
//!      ▲                       ▲ │ backoff, breaker          │
//!      └──── sink(done) ───────┴─┴──────── answer or failure ┘
//! ```
//!
//! Every job that `submit` accepts comes back through the sink exactly once. Nothing is unbounded: not the line (count
//! and bytes), not the connections, not an answer. A warm pool forwards without allocating, without spawning, and with
//! one `send` per request. Retries, breaker and balancing are decided by `policy::backend`; this moves bytes and keeps
//! time.

mod dispatch;
mod lane;
mod line;
mod options;
mod request;
mod response;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

pub use options::Options;

use crate::base::time::Tick;
use crate::io::resolve::Resolver;
use crate::metrics::backend::BackendMetrics;
use crate::policy::backend::{Failure, Verdict};
use crate::wire::http1::ResponseHead;

use self::dispatch::Dispatcher;
use self::request::Now;

/// What the business server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// GET: may this client come in?
    Connect,
    /// POST: a client's message.
    Forward { message_type: u16 },
    /// GET: a connection has ended.
    Close,
    /// GET: a durable session has ended; told as `Close` is. `headers` are ours, and go out as they are.
    SessionEnded,
    /// POST: stored messages have reached their sessions; `body` is JSON.
    Receipts,
}

impl Hook {
    /// The body goes out.
    fn has_body(self) -> bool {
        matches!(self, Hook::Forward { .. } | Hook::Receipts)
    }

    /// It is about one connection, which is named.
    fn has_identity(self) -> bool {
        !matches!(self, Hook::SessionEnded | Hook::Receipts)
    }
}

/// Whether a failed attempt is followed by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// One attempt, and none while the backend is known to be down: connects, messages of QoS 0.
    Never,
    /// Until answered, or until then.
    Until(Tick),
}

/// One request to be made.
#[derive(Debug)]
pub struct Job {
    pub hook: Hook,
    /// Given back with the outcome; the pool does not look at it.
    pub ticket: u64,
    pub retry: Retry,
    /// Hex, see `base::id::Identity`.
    pub identity: [u8; 64],
    pub cookie: Option<Rc<[u8]>>,
    pub idempotency_key: Option<IdempotencyKey>,
    /// Of a connect: the client's own, without `?`.
    pub query: Option<Rc<str>>,
    /// Ready-made lines, each with its CRLF. Of a connect the client's own: those that are not for clients to say
    /// (framing, compression, `RAINBOW*`) are left out on the way.
    pub headers: Option<Rc<[u8]>>,
    /// Of a forward; given back for reuse.
    pub body: Vec<u8>,
}

/// Names a message towards the backend, the same over all repeats: 1–95 printable ASCII characters without full stops.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct IdempotencyKey {
    len: u8,
    bytes: [u8; IdempotencyKey::LEN_MAX],
}

/// A job that came back.
#[derive(Debug)]
pub struct Done<'a> {
    pub ticket: u64,
    pub outcome: Outcome<'a>,
    /// The job's own body, for reuse.
    pub request_body: Vec<u8>,
}

/// How a job ended.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// `Verdict::Retry` comes only to jobs that are not, or no longer, retried.
    Answered {
        verdict: Verdict,
        head: &'a ResponseHead<'a>,
        body: &'a [u8],
    },
    GaveUp {
        reason: GiveUp,
    },
}

/// Why a job ended without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GiveUp {
    #[error("{0}")]
    Failed(#[from] Failure),
    #[error("the backend is down, and was not asked")]
    Down,
    #[error("the deadline has passed")]
    Deadline,
    #[error("no URL is configured for this")]
    NoUrl,
    #[error("shutting down")]
    Closed,
}

/// Gets every job back. Called with no borrow held, so it may submit again; never called from within `submit`,
/// `reconfigure` or `close`. A panic in it goes through to whoever polls the connection's task: catch it inside.
pub type Sink = Rc<dyn Fn(Done<'_>)>;

/// Called when `next_deadline` has become earlier than it last said, so that the worker can set its timer anew. It is
/// called in the middle of things and must not call the pool.
pub type Alarm = Box<dyn Fn(Tick)>;

/// Where the time comes from.
pub struct Clock {
    /// Microseconds since the process's epoch: a thousandth of it is the worker's `Tick`.
    pub monotonic_us: Box<dyn Fn() -> u64>,
    /// Seconds since 1970, for signatures.
    pub unix_s: Box<dyn Fn() -> u64>,
}

/// What a pool is made of.
pub struct Parts {
    pub options: Options,
    pub stats: Arc<BackendMetrics>,
    pub resolver: Resolver,
    pub clock: Clock,
    /// Of jitter, nonces and webhook ids; different in every worker and at every start.
    pub seed: u64,
    pub sink: Sink,
    pub alarm: Alarm,
}

/// One worker's client of the business server. Must live on a monoio runtime with the io_uring driver; clones are
/// handles.
#[derive(Clone)]
pub struct Pool(Rc<Inner>);

struct Inner {
    dispatcher: RefCell<Dispatcher>,
    sink: Sink,
    clock: Clock,
}

/// A backend as /serverinfo/ shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamState {
    pub host: String,
    pub port: u16,
    /// False while its breaker is open or half open.
    pub is_closed: bool,
    pub outstanding: usize,
    pub connections: usize,
}

impl Pool {
    pub fn new(parts: Parts) -> Pool {
        let Parts { options, stats, resolver, clock, seed, sink, alarm } = parts;
        Pool(Rc::new_cyclic(|me| {
            let dispatcher = RefCell::new(Dispatcher::new(me.clone(), options, stats, resolver, seed, alarm));
            Inner { dispatcher, sink, clock }
        }))
    }

    /// Accepts a job, or gives it back when the line is full (counted as `queue_full`). The sink is not called from
    /// here: what ends at once ends in the next `poll_timers`, and `next_deadline` says so.
    #[expect(clippy::result_large_err, reason = "the job is moved either way")]
    pub fn submit(&self, job: Job) -> Result<(), Job> {
        self.0.dispatcher.borrow_mut().submit(job, self.0.clock.now())
    }

    /// Carries out what is due: timeouts, retries, probes, jobs to give back. Part of the worker's turn.
    pub fn poll_timers(&self, now: Tick) {
        self.0.dispatcher.borrow_mut().poll(self.0.clock.at(now));
        self.0.deliver();
    }

    /// When `poll_timers` has to be called next; `Tick(0)` is "at once".
    pub fn next_deadline(&self) -> Tick {
        self.0.dispatcher.borrow_mut().next_deadline()
    }

    /// Changes URLs, limits and keys. Requests under way end as they began; connections to backends that are no longer
    /// listed are closed when they are idle.
    pub fn reconfigure(&self, options: Options) {
        self.0.dispatcher.borrow_mut().reconfigure(options, self.0.clock.now());
    }

    /// True when every job has come back.
    pub fn is_idle(&self) -> bool {
        self.0.dispatcher.borrow().is_idle()
    }

    /// Gives up what is left and closes all connections. The jobs come back in the next `poll_timers`.
    pub fn close(&self) {
        self.0.dispatcher.borrow_mut().close();
    }

    pub fn upstreams(&self) -> Vec<UpstreamState> {
        self.0.dispatcher.borrow().upstream_states()
    }
}

impl Inner {
    /// Hands given-up jobs to the sink: those that are there now, not those that it submits meanwhile.
    fn deliver(&self) {
        let count = self.dispatcher.borrow().given_up.len();
        for _ in 0..count {
            let Some(given) = self.dispatcher.borrow_mut().given_up.pop_front() else { return };
            let outcome = Outcome::GaveUp { reason: given.reason };
            (self.sink)(Done { ticket: given.ticket, outcome, request_body: given.body });
        }
    }
}

impl Clock {
    fn now(&self) -> Now<'_> {
        let us = (self.monotonic_us)();
        Now { tick: Tick(us / 1000), us, unix_s: &*self.unix_s }
    }

    /// The worker's own reading, to the millisecond.
    fn at(&self, tick: Tick) -> Now<'_> {
        Now { tick, us: tick.0 * 1000, unix_s: &*self.unix_s }
    }
}

impl IdempotencyKey {
    pub const LEN_MAX: usize = 95;

    pub fn new(text: &str) -> Option<IdempotencyKey> {
        IdempotencyKey::format(format_args!("{text}"))
    }

    /// As `format!`, into the key itself. `None` when it is no key.
    pub fn format(text: fmt::Arguments<'_>) -> Option<IdempotencyKey> {
        let mut key = IdempotencyKey { len: 0, bytes: [0; IdempotencyKey::LEN_MAX] };
        fmt::write(&mut key, text).ok()?;
        // Full stops separate the parts of what Standard Webhooks signs.
        let is_key = key.len > 0 && key.as_bytes().iter().all(|byte| byte.is_ascii_graphic() && *byte != b'.');
        is_key.then_some(key)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    pub fn as_str(&self) -> &str {
        str::from_utf8(self.as_bytes()).expect("a key is ASCII")
    }
}

impl fmt::Write for IdempotencyKey {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let start = usize::from(self.len);
        let room = self.bytes.get_mut(start..start + text.len()).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len += text.len() as u8;
        Ok(())
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdempotencyKey({})", self.as_str())
    }
}

const _: () = assert!(IdempotencyKey::LEN_MAX <= u8::MAX as usize);
