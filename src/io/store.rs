//! The store's thread, `rainbow-store`: the only one that waits for a disk or for Redis. Workers put requests into its
//! bounded queue and hear later; it commits many at once.
//!
//! How it is wired, in the order of a start:
//!
//! 1. `server`, before the workers: `Options::new(&config)`, `Store::open` (its error ends the start); each shard gets
//!    those of `Opened::sessions` whose home it is.
//! 2. `start(store, &config.store, outlets, metrics)`. The outlets are called on this thread and must not block: `told`
//!    and `claimed` post to a worker's mailbox. A mailbox that is full must not lose a `Told` (its shard would wait for
//!    ever): keep it aside and join it with the next. `expired` is for all shards, each takes what is its own.
//! 3. Each worker gets a clone of the `StoreSender`. `try_send` gives a request back when the queue is full: keep it,
//!    *and all later ones of that shard*, and offer them again in the next turn; numbers must come in order.
//! 4. A reload calls `StoreSender::reload`. /readyz and /info/ read `StoreSender::state`.
//! 5. At the end, when the workers have said their last word: `StoreThread::stop` finishes what is queued, writes the
//!    log back, closes the file and lets the lock go.
//!
//! **When a commit waits for more** (`store.commit_delay`): while a commit runs, requests gather, and the next one
//! takes them all; so a busy store needs no waiting. But callers that wait for their answers come back one by one
//! after a commit: the first of them should not be committed alone. So a batch waits until it is as large as the last
//! one was, and never longer than the delay. One caller alone never waits.

use super::clock;
use crate::base::id::ShardId;
use crate::config::StoreConfig;
use crate::metrics::store::StoreMetrics;
use crate::shard::command::{CommandNumber, Completion, Completions, ExpiredMessages, Operation, StoreError, UnixMs};
use crate::store::{Answer, Claimed, Held, Request, State, Store, crash};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{io, mem};

/// Where the thread says what became of the requests. Called on the thread; they must not block.
pub struct Outlets {
    /// One shard's work, once per batch.
    pub told: Box<dyn Fn(ShardId, Completions) + Send>,
    /// A `Claim`'s ticket and what came of it.
    pub claimed: Box<dyn Fn(u64, Claimed) + Send>,
    /// Of sessions of any shard.
    pub expired: Box<dyn Fn(Vec<ExpiredMessages>) + Send>,
}

/// Starts the thread with an opened store. It alone writes the metrics.
pub fn start(
    store: Store,
    config: &StoreConfig,
    outlets: Outlets,
    metrics: Arc<StoreMetrics>,
) -> io::Result<(StoreThread, StoreSender)> {
    let (queue, requests) = bounded(QUEUE_MAX);
    let shared = Arc::new(Shared { metrics, ..Shared::default() });
    shared.set(config);
    let sender = StoreSender { queue: queue.clone(), shared: shared.clone() };
    let turns = Turns { store, requests, outlets, shared, last_len: 1, failed: false };
    turns.note();
    let thread = thread::Builder::new().name("rainbow-store".into()).spawn(move || turns.run())?;
    Ok((StoreThread { thread, queue }, sender))
}

/// The running thread, as the server holds it.
pub struct StoreThread {
    thread: JoinHandle<()>,
    queue: Sender<Mail>,
}

impl StoreThread {
    /// Finishes everything that was sent before, closes the store, and returns when that is done.
    pub fn stop(self) {
        // An error says that it has ended already.
        let _ = self.queue.send(Mail::Stop);
        let _ = self.thread.join();
    }
}

/// The queue, as workers see it.
#[derive(Clone)]
pub struct StoreSender {
    queue: Sender<Mail>,
    shared: Arc<Shared>,
}

impl StoreSender {
    /// Gives the request back when the queue is full, or the thread has ended.
    pub fn try_send(&self, request: Request) -> Result<(), Request> {
        match self.queue.try_send(Mail::Request(request)) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(mail) | TrySendError::Disconnected(mail)) => match mail {
                Mail::Request(request) => Err(request),
                Mail::Stop => unreachable!("a request was sent"),
            },
        }
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
        self.shared.set(config);
    }

    /// Does not wait for the thread, nor make it wait.
    pub fn state(&self) -> State {
        self.shared.state()
    }

    /// `state` is `Ready`; cheaper.
    pub fn is_ready(&self) -> bool {
        self.shared.metrics.refusing.get() == 0
    }
}

#[derive(Default)]
struct Shared {
    metrics: Arc<StoreMetrics>,
    /// Locked for as long as a copy takes.
    why: Mutex<Option<(StoreError, String)>>,
    commit_delay_us: AtomicU64,
    bytes_max: AtomicUsize,
}

impl Shared {
    fn set(&self, config: &StoreConfig) {
        self.commit_delay_us.store(config.commit_delay.as_micros() as u64, Ordering::Relaxed);
        self.bytes_max.store(config.bytes_max, Ordering::Relaxed);
    }

    fn state(&self) -> State {
        match &*self.why.lock().unwrap_or_else(PoisonError::into_inner) {
            None => State::Ready,
            Some((why, detail)) => State::Refusing { why: *why, detail: detail.clone() },
        }
    }
}

enum Mail {
    Request(Request),
    Stop,
}

/// The thread's own.
struct Turns {
    store: Store,
    requests: Receiver<Mail>,
    outlets: Outlets,
    shared: Arc<Shared>,
    /// Requests in the last batch.
    last_len: usize,
    /// It has panicked: it is not asked again.
    failed: bool,
}

impl Turns {
    fn run(mut self) {
        let mut batch = Vec::new();
        let mut tick = Instant::now();
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
            if tick.elapsed() >= TICK {
                tick = Instant::now();
                self.guarded(|store| store.check(now()));
                purging = true;
            }
            if purging {
                purging = self.purge();
            }
            self.note();
        }
        if !self.failed {
            self.store.close();
        }
    }

    /// Fills the batch, by the rule at the head of this file; empty when nothing came until then. True: stop after it.
    fn gather(&self, batch: &mut Vec<Request>, until: Instant) -> bool {
        let mut bytes = 0;
        let mut deadline = until;
        loop {
            // What is there already, then what comes in time.
            let mail = self.requests.try_recv().map_err(|_| ()).or_else(|()| {
                let enough = batch.len() >= self.last_len.min(BATCH_MAX) && !batch.is_empty();
                if enough { Err(RecvTimeoutError::Timeout) } else { self.requests.recv_deadline(deadline) }
            });
            match mail {
                Ok(Mail::Request(request)) => {
                    if batch.is_empty() {
                        deadline = Instant::now() + self.commit_delay();
                    }
                    bytes += weight(&request);
                    batch.push(request);
                    if batch.len() >= BATCH_MAX || bytes >= BATCH_BYTES_MAX {
                        return false;
                    }
                }
                Err(RecvTimeoutError::Timeout) => return false,
                Ok(Mail::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    // Nobody sends any more but those who do not know yet: theirs belong to it.
                    batch.extend(self.requests.try_iter().filter_map(|mail| match mail {
                        Mail::Request(request) => Some(request),
                        Mail::Stop => None,
                    }));
                    return true;
                }
            }
        }
    }

    fn commit_delay(&self) -> Duration {
        Duration::from_micros(self.shared.commit_delay_us.load(Ordering::Relaxed))
    }

    fn commit(&mut self, requests: Vec<Request>) {
        self.last_len = requests.len();
        let began = clock::monotonic_us();
        let tickets: Vec<PendingRequest> = requests.iter().map(PendingRequest::of).collect();
        let bytes_max = self.shared.bytes_max.load(Ordering::Relaxed) as u64;
        let answers = self.guarded(|store| {
            store.set_bytes_max(bytes_max);
            store.commit(requests, now())
        });
        let answers = match answers {
            Some(answers) => answers,
            None => tickets.iter().map(PendingRequest::refused).collect(),
        };
        debug_assert_eq!(answers.len(), tickets.len(), "one answer per request");
        let metrics = &self.shared.metrics;
        let took = clock::monotonic_us() - began;
        metrics.commits.increment();
        metrics.commit_us.add(took);
        metrics.commit_us_max.raise_to(took);
        for ticket in &tickets {
            ticket.count(metrics);
        }
        // Before the answers: who hears of a refusal finds the reason.
        self.note();
        self.tell(answers);
    }

    fn tell(&self, answers: Vec<Answer>) {
        let mut shards: Vec<(ShardId, Completions)> = Vec::new();
        let mut claims = Vec::new();
        let mut refused = 0;
        for answer in answers {
            match answer {
                Answer::Shard { shard, number, outcome } => {
                    let at = shards.iter().position(|(known, _)| *known == shard).unwrap_or_else(|| {
                        shards.push((shard, Completions::default()));
                        shards.len() - 1
                    });
                    let told = &mut shards[at].1;
                    debug_assert!(told.upto < number, "a shard's numbers come in order");
                    told.upto = number;
                    refused += u64::from(matches!(outcome, Completion::Refused(_)));
                    if outcome != Completion::Done {
                        told.exceptions.push((number, outcome));
                    }
                }
                Answer::Claim { ticket, claimed } => {
                    refused += u64::from(matches!(claimed, Claimed::Refused(_)));
                    claims.push((ticket, claimed));
                }
                Answer::Settled => {}
            }
        }
        self.shared.metrics.refused.add(refused);
        crash::point("told.before");
        for (nth, (shard, told)) in shards.into_iter().enumerate() {
            if nth == 1 {
                crash::point("told.inside");
            }
            (self.outlets.told)(shard, told);
        }
        for (ticket, claimed) in claims {
            (self.outlets.claimed)(ticket, claimed);
        }
        crash::point("told.after");
    }

    fn tend(&mut self, idle: bool) {
        self.guarded(|store| store.tend(idle));
    }

    /// One slice; true when there is more to purge.
    fn purge(&mut self) -> bool {
        let Some(purged) = self.guarded(|store| store.purge(now(), PURGE_MAX)) else { return false };
        if !purged.expired.is_empty() {
            let messages = purged.expired.iter().map(|expired| u64::from(expired.messages)).sum();
            self.shared.metrics.expired.add(messages);
            (self.outlets.expired)(purged.expired);
        }
        purged.more
    }

    /// A panic costs the store, not the answers: `None` from then on.
    fn guarded<T>(&mut self, work: impl FnOnce(&mut Store) -> T) -> Option<T> {
        if self.failed {
            return None;
        }
        let done = catch_unwind(AssertUnwindSafe(|| work(&mut self.store))).ok();
        self.failed = done.is_none();
        done
    }

    /// Shows the others what is so now.
    fn note(&self) {
        let Held { messages, bytes } = self.store.held();
        self.shared.metrics.messages.set(messages);
        self.shared.metrics.bytes.set(bytes);
        let state = match self.failed {
            false => self.store.state(),
            true => State::Refusing { why: StoreError::Broken, detail: PANICKED.into() },
        };
        let new = match state {
            State::Ready => None,
            State::Refusing { why, detail } => Some((why, detail)),
        };
        let mut why = self.shared.why.lock().unwrap_or_else(PoisonError::into_inner);
        if *why == new {
            return;
        }
        match &new {
            None => tracing::info!("the store makes promises again"),
            Some((_, detail)) => tracing::error!(detail, "the store makes no promises"),
        }
        self.shared.metrics.refusing.set(u64::from(new.is_some()));
        *why = new;
    }
}

/// What is left of a request when the store has it: enough to answer it.
enum PendingRequest {
    Mutation { shard: ShardId, number: CommandNumber },
    Load { shard: ShardId, number: CommandNumber },
    Claim(u64),
    Settle,
}

impl PendingRequest {
    fn of(request: &Request) -> PendingRequest {
        match request {
            Request::Shard { shard, command } => match command.operation {
                Operation::Mutate(_) => PendingRequest::Mutation { shard: *shard, number: command.number },
                Operation::Load { .. } => PendingRequest::Load { shard: *shard, number: command.number },
            },
            Request::Claim { ticket, .. } => PendingRequest::Claim(*ticket),
            Request::Settle { .. } => PendingRequest::Settle,
        }
    }

    fn refused(&self) -> Answer {
        match *self {
            PendingRequest::Mutation { shard, number } | PendingRequest::Load { shard, number } => {
                Answer::Shard { shard, number, outcome: Completion::Refused(StoreError::Broken) }
            }
            PendingRequest::Claim(ticket) => Answer::Claim { ticket, claimed: Claimed::Refused(StoreError::Broken) },
            PendingRequest::Settle => Answer::Settled,
        }
    }

    fn count(&self, metrics: &StoreMetrics) {
        let counter = match self {
            PendingRequest::Mutation { .. } => &metrics.mutations,
            PendingRequest::Load { .. } => &metrics.loads,
            PendingRequest::Claim(_) | PendingRequest::Settle => &metrics.claims,
        };
        counter.increment();
    }
}

fn now() -> UnixMs {
    UnixMs((clock::unix_ns() / 1_000_000) as u64)
}

/// Bytes that a request brings along, roughly.
fn weight(request: &Request) -> usize {
    use crate::shard::command::Mutation;
    let carried = match request {
        Request::Shard { command, .. } => match &command.operation {
            Operation::Mutate(Mutation::PutMessage(kept)) => kept.message.len(),
            Operation::Mutate(Mutation::PutReceived { received, .. }) => received.answer.len(),
            _ => 0,
        },
        Request::Claim { .. } => 0,
        Request::Settle { answer, .. } => answer.len(),
    };
    carried + mem::size_of::<Request>()
}

/// Requests that may wait: some 0.1 s of work.
const QUEUE_MAX: usize = 16_384;
/// Of one commit: its answers wait for the last of them.
const BATCH_MAX: usize = 1024;
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Expired messages removed between two batches.
const PURGE_MAX: usize = 512;
/// Between two looks at the clock, at the store's health, and for what has expired.
const TICK: Duration = Duration::from_secs(1);
const PANICKED: &str = "the store's thread has failed by a fault of its own (see the log). Start the server again";

#[cfg(test)]
mod tests;
