//! The store's thread, `rainbow-store`: the only one that waits for a disk or for Redis. Workers put requests into its
//! bounded queue and receive reports later; it commits many requests at once.
//!
//! The order of a start:
//!
//! 1. `server`, before the workers: `Options::new(&config)`, `Store::open` (its error ends the start). Each shard gets
//!    those of `Opened::sessions` that it owns.
//! 2. `start(store, &config.store, limits, sinks, metrics)`. The sinks are called on this thread and must not block.
//! 3. Each worker gets a clone of the `StoreSender`. `try_send` gives a request back when the queue is full: the worker
//!    keeps it, *and all later ones of its shard*, and offers them again in the next turn; numbers must come in order.
//! 4. A reload calls `StoreSender::reload`. /readyz and /info/ read `StoreSender::state`.
//! 5. At the end, when the workers have sent their last requests: `StoreThread::stop` finishes what is queued, writes
//!    the log back, closes the file and releases the lock.
//!
//! **When a commit waits for more** (`store.commit_delay`): while a commit runs, requests gather, and the next one
//! takes them all; so a busy store needs no waiting. But callers that wait for their answers come back one by one
//! after a commit: the first of them should not be committed alone. So a batch waits until it is as large as the last
//! one was, and never longer than the delay. One caller alone never waits.

use crate::base::id::{Generation, ShardId};
use crate::base::limits::Limits;
use crate::base::time::Tick;
use crate::config::StoreConfig;
use crate::io::runtime::clock;
use crate::metrics::store::StoreMetrics;
use crate::shard::command::OwnershipAnswer;
use crate::shard::command::transfer::TransferAnswer;
use crate::shard::command::{Completion, Completions, ExpiredMessages, Operation, StoreError, UnixMs};
use crate::store::{
    ClaimId, ClaimOutcome, ConnectionRecord, Health, NodeRecord, OpenError, Opened, Options, OrphanedSessions, Request,
    Response, Store, TransferId, Usage, crash,
};
use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, TrySendError, bounded};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{io, mem};

/// Take the thread's reports. Called on the thread; they must not block.
pub struct ReportSinks {
    /// Completions of one shard's commands, once per batch.
    pub completions: Box<dyn Fn(ShardId, Completions) + Send>,
    /// A `Claim` and its outcome.
    pub claimed: Box<dyn Fn(ClaimId, ClaimOutcome) + Send>,
    /// Messages that expired, of sessions of any shard.
    pub expired: Box<dyn Fn(Vec<ExpiredMessages>) + Send>,
    /// The answer to a worker's `Request::Transfer`.
    pub transferred: Box<dyn Fn(TransferId, TransferAnswer) + Send>,
    /// The answer to a worker's `Request::Ownership`.
    pub ownership: Box<dyn Fn(ShardId, OwnershipAnswer) + Send>,
    /// Records of connections that a worker has given, in the order in which it gave them: each number, and whether it
    /// is stored. Once per batch.
    pub recorded: RecordSink,
    /// Another server has taken this session.
    pub fenced: Box<dyn Fn(Arc<str>) + Send>,
    /// What the store says of its nodes; `None` where nobody asks.
    pub nodes: Option<NodeSink>,
}

pub type RecordSink = Box<dyn Fn(ShardId, Vec<(u64, bool)>) + Send>;
pub type NodeSink = Box<dyn Fn(NodeReport) + Send>;

/// For a store that several nodes use; a report follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeCommand {
    Bury(Generation),
    /// `from`: 0, or `next` of the last page.
    ReadOrphans {
        node: Generation,
        from: u64,
    },
    /// Some of its connections' closes are to be this node's to report.
    TakeConnections(Generation),
    /// Nothing of it was left when the store had been away so many times. No report follows.
    Forget {
        node: Generation,
        gaps: u64,
    },
}

/// What the store says of the nodes that use it.
#[derive(Debug)]
pub enum NodeReport {
    /// The store was away, so often by now, and may be another one with older data: what it said of the nodes before
    /// says nothing of now.
    Reconnected {
        gaps: u64,
    },
    /// This node's lease was to be renewed then. `None`: the store did not answer.
    Leases {
        sent: Tick,
        nodes: Option<Vec<NodeRecord>>,
    },
    Buried {
        node: Generation,
        is_buried: bool,
    },
    Orphans {
        node: Generation,
        page: Option<OrphanedSessions>,
    },
    /// They are this node's; none: no more are left. `None`: the store did not answer.
    Connections {
        node: Generation,
        records: Option<Vec<ConnectionRecord>>,
    },
    /// What this process knows is not what the store has: it must be started anew.
    Ended,
}

/// Opens the store, and goes by its clock from then on, if it has one.
pub fn open(options: &Options) -> Result<(Store, Opened), OpenError> {
    let (mut store, opened) = Store::open(options, clock::unix_ms())?;
    let began = clock::monotonic();
    if let Some(time) = store.check(clock::unix_ms()) {
        clock::set_store_time(time, began);
    }
    Ok((store, opened))
}

/// Starts the thread with an opened store. It alone writes the metrics.
pub fn start(
    store: Store,
    config: &StoreConfig,
    limits: &Limits,
    sinks: ReportSinks,
    metrics: Arc<StoreMetrics>,
) -> io::Result<(StoreThread, StoreSender)> {
    let (queue, requests) = bounded(limits.store_queue_max);
    let status = Arc::new(StoreStatus { metrics, ..StoreStatus::default() });
    status.set(config);
    let sender = StoreSender { queue: queue.clone(), status: status.clone() };
    let store_loop = StoreLoop {
        store,
        limits: limits.clone(),
        requests,
        sinks,
        status,
        last_len: 1,
        has_ended: false,
        commands: VecDeque::new(),
        gaps: 0,
    };
    store_loop.publish();
    let (running, ended) = bounded(0);
    let run = move || {
        let _running: Sender<()> = running;
        let mut store_loop = store_loop;
        store_loop.run();
        store_loop.store.close();
    };
    let thread = thread::Builder::new().name("rainbow-store".into()).spawn(run)?;
    Ok((StoreThread { thread, queue, ended }, sender))
}

/// The running thread, as the server holds it.
pub struct StoreThread {
    thread: JoinHandle<()>,
    queue: Sender<ThreadMessage>,
    /// Disconnected when the thread ends.
    ended: Receiver<()>,
}

impl StoreThread {
    /// Finishes everything that was sent before this call, and closes the store. False when that is not done by
    /// `until`: the disk or Redis does not answer, and the thread is left to itself.
    pub fn stop(self, until: Instant) -> bool {
        // Disconnected: it has ended already.
        if let Err(SendTimeoutError::Timeout(_)) = self.queue.send_deadline(ThreadMessage::Stop, until) {
            return false;
        }
        let has_ended = self.ended.recv_deadline(until) == Err(RecvTimeoutError::Disconnected);
        if has_ended {
            let _ = self.thread.join();
        }
        has_ended
    }
}

/// The queue, as workers see it.
#[derive(Clone)]
pub struct StoreSender {
    queue: Sender<ThreadMessage>,
    status: Arc<StoreStatus>,
}

impl StoreSender {
    /// Gives the request back when the queue is full, or the thread has ended.
    pub fn try_send(&self, request: Request) -> Result<(), Request> {
        match self.queue.try_send(ThreadMessage::Request(request)) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => match message {
                ThreadMessage::Request(request) => Err(request),
                ThreadMessage::Node(_) | ThreadMessage::Stop => unreachable!("a request was sent"),
            },
        }
    }

    /// False when there is no room now.
    pub fn try_command(&self, command: NodeCommand) -> bool {
        self.queue.try_send(ThreadMessage::Node(command)).is_ok()
    }

    /// Requests that wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// What of the store's configuration can change while it runs, from the next batch on.
    pub fn reload(&self, config: &StoreConfig) {
        self.status.set(config);
    }

    /// Does not wait for the thread, nor make it wait.
    pub fn state(&self) -> Health {
        self.status.state()
    }

    /// For how long the thread has been waiting for the disk or for Redis.
    pub fn busy_ms(&self) -> u64 {
        match self.status.busy_since_us.load(Ordering::Relaxed) {
            0 => 0,
            since => clock::monotonic_us().saturating_sub(since) / 1_000,
        }
    }

    /// Whether `state` is `Ready`; cheaper.
    pub fn is_ready(&self) -> bool {
        self.status.metrics.refusing.get() == 0
    }
}

#[derive(Default)]
struct StoreStatus {
    metrics: Arc<StoreMetrics>,
    /// Why it refuses. Locked for as long as a copy takes.
    why: Mutex<Option<(StoreError, String)>>,
    commit_delay_us: AtomicU64,
    /// When the thread began what it is doing now; 0 while it waits for work.
    busy_since_us: AtomicU64,
    bytes_max: AtomicUsize,
}

impl StoreStatus {
    fn set(&self, config: &StoreConfig) {
        self.commit_delay_us.store(config.commit_delay.as_micros() as u64, Ordering::Relaxed);
        self.bytes_max.store(config.bytes_max, Ordering::Relaxed);
    }

    fn state(&self) -> Health {
        match &*self.why.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Health::Ready,
            Some((why, detail)) => Health::Refusing { reason: *why, detail: detail.clone() },
        }
    }
}

enum ThreadMessage {
    Request(Request),
    Node(NodeCommand),
    Stop,
}

/// What the thread owns.
struct StoreLoop {
    store: Store,
    limits: Limits,
    requests: Receiver<ThreadMessage>,
    sinks: ReportSinks,
    status: Arc<StoreStatus>,
    /// Requests in the last batch.
    last_len: usize,
    /// It was reported.
    has_ended: bool,
    /// To be carried out behind the batch.
    commands: VecDeque<NodeCommand>,
    /// How often the store was away, as far as it was reported.
    gaps: u64,
}

impl StoreLoop {
    /// Returns when the thread is to stop.
    fn run(&mut self) {
        let mut batch = Vec::new();
        let mut tick = Instant::now();
        let mut renewed = None;
        let mut purging = false;
        let mut idle = false;
        loop {
            let until = if purging { Instant::now() } else { tick + TICK };
            let stopped = self.gather(&mut batch, until);
            if batch.is_empty() {
                self.tend(idle);
                idle = true;
            } else {
                idle = false;
                self.commit(mem::take(&mut batch));
                self.tend(false);
            }
            if stopped {
                break;
            }
            self.carry_out_commands();
            if self.sinks.nodes.is_some() && renewed.is_none_or(|at: Instant| at.elapsed() >= RENEW) {
                renewed = Some(Instant::now());
                self.renew();
            }
            if tick.elapsed() >= TICK {
                tick = Instant::now();
                let began = clock::monotonic();
                if let Some(time) = self.timed(|store| store.check(now())) {
                    clock::set_store_time(time, began);
                }
                purging = true;
            }
            if purging {
                purging = self.purge();
            }
            self.publish();
        }
    }

    /// Fills the batch, by the rule at the head of this file; it stays empty when nothing came in time. True: stop
    /// after this batch.
    fn gather(&mut self, batch: &mut Vec<Request>, until: Instant) -> bool {
        let mut bytes = 0;
        let mut deadline = until;
        loop {
            // What is there already, then what comes in time.
            let message = self.requests.try_recv().map_err(|_| ()).or_else(|()| {
                let is_enough = batch.len() >= self.last_len.min(self.limits.store_batch_max) && !batch.is_empty();
                if is_enough { Err(RecvTimeoutError::Timeout) } else { self.requests.recv_deadline(deadline) }
            });
            match message {
                Ok(ThreadMessage::Request(request)) => {
                    if batch.is_empty() {
                        deadline = Instant::now() + self.commit_delay();
                    }
                    bytes += weight(&request);
                    batch.push(request);
                    if batch.len() >= self.limits.store_batch_max || bytes >= self.limits.store_batch_bytes_max {
                        return false;
                    }
                }
                Ok(ThreadMessage::Node(command)) => {
                    self.commands.push_back(command);
                    return false;
                }
                Err(RecvTimeoutError::Timeout) => return false,
                Ok(ThreadMessage::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    // Requests that were sent at the same moment still belong to the last batch.
                    batch.extend(self.requests.try_iter().filter_map(|message| match message {
                        ThreadMessage::Request(request) => Some(request),
                        ThreadMessage::Node(_) | ThreadMessage::Stop => None,
                    }));
                    return true;
                }
            }
        }
    }

    fn commit_delay(&self) -> Duration {
        Duration::from_micros(self.status.commit_delay_us.load(Ordering::Relaxed))
    }

    fn commit(&mut self, requests: Vec<Request>) {
        self.last_len = requests.len();
        let began = clock::monotonic_us();
        let kinds: Vec<RequestKind> = requests.iter().map(RequestKind::of).collect();
        let bytes_max = self.status.bytes_max.load(Ordering::Relaxed) as u64;
        let answers = self.timed(|store| {
            store.set_bytes_max(bytes_max);
            store.commit(requests, now())
        });
        debug_assert_eq!(answers.len(), kinds.len(), "one answer per request");
        let metrics = &self.status.metrics;
        let took = clock::monotonic_us() - began;
        metrics.commits.increment();
        metrics.commit.record(took);
        metrics.commit_us_max.raise_to(took);
        for kind in &kinds {
            kind.count(metrics);
        }
        // Before the reports: whoever receives a refusal finds the reason.
        self.publish();
        self.report(answers);
        self.store.take_fenced().into_iter().for_each(&self.sinks.fenced);
    }

    fn carry_out_commands(&mut self) {
        while let Some(command) = self.commands.pop_front() {
            let gaps = self.gaps;
            let report = self.timed(|store| match command {
                NodeCommand::Bury(node) => Some(NodeReport::Buried { node, is_buried: store.bury(node) }),
                NodeCommand::ReadOrphans { node, from } => {
                    Some(NodeReport::Orphans { node, page: store.orphans(node, from) })
                }
                NodeCommand::TakeConnections(node) => {
                    Some(NodeReport::Connections { node, records: store.take_connections(node) })
                }
                NodeCommand::Forget { node, gaps: known } => {
                    // Otherwise the store may have of it again what it had left.
                    if known == gaps {
                        store.forget_node(node);
                    }
                    None
                }
            });
            self.report_gap();
            if let (Some(report), Some(sink)) = (report, &self.sinks.nodes) {
                sink(report);
            }
        }
    }

    /// Must be called before anything is reported that the store has said since.
    fn report_gap(&mut self) {
        if self.store.take_reconnected() {
            self.gaps += 1;
            let gaps = self.gaps;
            self.sinks.nodes.iter().for_each(|sink| sink(NodeReport::Reconnected { gaps }));
        }
    }

    fn renew(&mut self) {
        let sent = clock::monotonic();
        let nodes = self.timed(Store::renew);
        let has_ended = self.store.has_ended();
        self.report_gap();
        let Some(sink) = &self.sinks.nodes else { return };
        sink(NodeReport::Leases { sent, nodes });
        if has_ended && !self.has_ended {
            sink(NodeReport::Ended);
        }
        self.has_ended = has_ended;
    }

    fn report(&self, answers: Vec<Response>) {
        let mut shards: Vec<(ShardId, Completions)> = Vec::new();
        let (mut claims, mut owned, mut transferred) = (Vec::new(), Vec::new(), Vec::new());
        let mut recorded: BTreeMap<ShardId, Vec<(u64, bool)>> = BTreeMap::new();
        let mut refused = 0;
        for answer in answers {
            match answer {
                Response::Shard { shard, number, completion } => {
                    let index = shards.iter().position(|(known, _)| *known == shard).unwrap_or_else(|| {
                        shards.push((shard, Completions::default()));
                        shards.len() - 1
                    });
                    let completions = &mut shards[index].1;
                    debug_assert!(completions.upto < number, "a shard's numbers come in order");
                    completions.upto = number;
                    refused += u64::from(matches!(completion, Completion::Refused(_)));
                    let is_damaged = completion == Completion::Refused(StoreError::Damaged);
                    self.status.metrics.damaged.add(u64::from(is_damaged));
                    if completion != Completion::Done {
                        completions.exceptions.push((number, completion));
                    }
                }
                Response::Claim { id, outcome } => {
                    refused += u64::from(matches!(outcome, ClaimOutcome::Refused(_)));
                    claims.push((id, outcome));
                }
                Response::Settled => {}
                Response::Transfer { id, answer } => {
                    refused += u64::from(matches!(answer, TransferAnswer::Refused(_)));
                    transferred.push((id, answer));
                }
                Response::Ownership { shard, answer } => owned.push((shard, answer)),
                Response::ConnectionPut { id, is_stored } => {
                    refused += u64::from(!is_stored);
                    recorded.entry(id.worker).or_default().push((id.number, is_stored));
                }
            }
        }
        self.status.metrics.refused.add(refused);
        crash::point("told.before");
        for (nth, (shard, completions)) in shards.into_iter().enumerate() {
            if nth == 1 {
                crash::point("told.inside");
            }
            (self.sinks.completions)(shard, completions);
        }
        for (id, outcome) in claims {
            (self.sinks.claimed)(id, outcome);
        }
        for (id, answer) in transferred {
            (self.sinks.transferred)(id, answer);
        }
        for (worker, numbers) in recorded {
            (self.sinks.recorded)(worker, numbers);
        }
        for (shard, answer) in owned {
            (self.sinks.ownership)(shard, answer);
        }
        crash::point("told.after");
    }

    fn tend(&mut self, idle: bool) {
        self.timed(|store| store.maintain(idle));
    }

    /// One slice; true when there is more to purge.
    fn purge(&mut self) -> bool {
        let purge_max = self.limits.store_purge_max;
        let purged = self.timed(|store| store.purge(now(), purge_max));
        if !purged.expired.is_empty() {
            let messages = purged.expired.iter().map(|expired| u64::from(expired.messages)).sum();
            self.status.metrics.expired.add(messages);
            (self.sinks.expired)(purged.expired);
        }
        purged.more
    }

    /// Marks the time that the disk or Redis takes.
    fn timed<T>(&mut self, work: impl FnOnce(&mut Store) -> T) -> T {
        self.status.busy_since_us.store(clock::monotonic_us(), Ordering::Relaxed);
        let done = work(&mut self.store);
        self.status.busy_since_us.store(0, Ordering::Relaxed);
        done
    }

    /// Publishes figures and state for the other threads.
    fn publish(&self) {
        let Usage { messages, bytes } = self.store.usage();
        self.status.metrics.messages.set(messages);
        self.status.metrics.bytes.set(bytes);
        let new = match self.store.health() {
            Health::Ready => None,
            Health::Refusing { reason, detail } => Some((reason, detail)),
        };
        let mut why = self.status.why.lock().unwrap_or_else(PoisonError::into_inner);
        if *why == new {
            return;
        }
        match &new {
            None => tracing::info!("the store makes promises again"),
            Some((_, detail)) => tracing::error!(detail, "the store makes no promises"),
        }
        self.status.metrics.refusing.set(u64::from(new.is_some()));
        *why = new;
    }
}

/// What a request counts as.
enum RequestKind {
    Mutation,
    Load,
    Call,
    Ownership,
    Connection,
}

impl RequestKind {
    fn of(request: &Request) -> RequestKind {
        match request {
            Request::Shard { command, .. } => match command.operation {
                Operation::Mutate(_) => RequestKind::Mutation,
                Operation::Load { .. } => RequestKind::Load,
            },
            Request::Claim { .. } | Request::Settle { .. } => RequestKind::Call,
            Request::Ownership { .. } | Request::Transfer { .. } => RequestKind::Ownership,
            Request::PutConnection { .. } | Request::RemoveConnection { .. } => RequestKind::Connection,
        }
    }

    fn count(&self, metrics: &StoreMetrics) {
        let counter = match self {
            RequestKind::Mutation => &metrics.mutations,
            RequestKind::Load => &metrics.loads,
            RequestKind::Call => &metrics.claims,
            RequestKind::Ownership => &metrics.ownerships,
            RequestKind::Connection => &metrics.connections,
        };
        counter.increment();
    }
}

/// The clock that the shards go by too (`Clock::with_wall_clock`).
fn now() -> UnixMs {
    clock::stored_unix_ms()
}

/// Bytes that a request brings along, roughly.
fn weight(request: &Request) -> usize {
    use crate::shard::command::Mutation;
    let carried = match request {
        Request::Shard { command, .. } => match &command.operation {
            Operation::Mutate(Mutation::PutMessage(stored)) => stored.message.len(),
            Operation::Mutate(Mutation::PutReceived { received, .. }) => received.answer.len(),
            _ => 0,
        },
        Request::Claim { .. } | Request::Ownership { .. } | Request::RemoveConnection { .. } => 0,
        Request::PutConnection { record, .. } => {
            record.cookie.as_ref().map_or(0, |cookie| cookie.len()) + record.user.as_ref().map_or(0, |user| user.len())
        }
        Request::Transfer { command, .. } => command.cost(),
        Request::Settle { answer, .. } => answer.len(),
    };
    carried + mem::size_of::<Request>()
}

/// Between two looks at the clock, at the store's health, and for what has expired.
const TICK: Duration = Duration::from_secs(1);
/// As `cluster::ownership::lease` expects it.
const RENEW: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
