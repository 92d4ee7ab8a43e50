//! What all workers of the process share: counters, who may come in, which channels are where, and each other's
//! mailboxes.

use crate::base::id::{ConnKey, ShardId};
use crate::base::time::Tick;
use crate::config::Config;
use crate::io::api::idempotent::Repeats;
use crate::io::backend::BackendStats;
use crate::io::handover::worker::Moves;
use crate::io::runtime::events::EventSender;
use crate::io::runtime::mailbox::MailSender;
use crate::io::store::inbox::StoreInbox;
use crate::io::store::thread::{ReportSinks, StoreSender};
use crate::policy::admission::Admission;
use crate::shard::{Query, QueryId, Reply};
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, OnceLock, PoisonError};

pub struct Shared {
    pub admission: Arc<Admission>,
    pub presence: Presence,
    pub mail: Vec<MailSender<Mail>>,
    /// Where connections move to their session's home; only with a store and more than one worker.
    pub moves: Option<Moves>,
    pub repeats: Repeats,
    /// Empty without a store.
    pub store: OnceLock<StoreSender>,
    /// Per worker, what the store's thread reports to it.
    pub store_inboxes: Vec<StoreInbox>,
    /// No worker lets anybody in before all have their sessions: a message for a channel must find all its members.
    pub restored: Barrier,
    /// One per worker.
    pub backend: Vec<Arc<BackendStats>>,
    /// One per worker.
    pub counters: Vec<Counters>,
    /// In force now.
    pub config: Mutex<Arc<Config>>,
    /// Set by the first SIGTERM: nobody new comes in.
    pub draining: AtomicBool,
    /// To the main thread.
    pub events: EventSender,
    /// Per worker, when its timer task last ran.
    pub beats: Vec<AtomicU64>,
    pub listen: SocketAddr,
    /// The descriptors that workers begin with; what others open later (the store's files and sockets) is not theirs,
    /// and a copy would keep it open.
    pub inherited: Vec<RawFd>,
    /// Per worker, the CPU it is pinned to.
    pub cores: Vec<Option<usize>>,
    pub started: Tick,
}

/// What one worker sends to another.
pub enum Mail {
    Query {
        ticket: QueryId,
        query: Query,
    },
    Reply {
        ticket: QueryId,
        reply: Reply,
    },
    /// A new configuration is in force.
    Reload(Arc<Config>),
    /// The outcome of `Event::Reload`.
    Reloaded {
        ticket: u64,
        outcome: Result<String, String>,
    },
    /// Close everything at a pace, then end.
    Drain,
    /// A question about a connection that has moved here.
    QueryAt {
        key: ConnKey,
        ticket: QueryId,
        query: Query,
    },
    /// A connection has been taken over by its session's home.
    Moved {
        key: ConnKey,
        to: ConnKey,
    },
    /// A connection that had moved is no more.
    StubEnded {
        key: ConnKey,
    },
    /// It did not arrive.
    MoveLost {
        key: ConnKey,
    },
    /// Another worker has made the same call; `None`: it came to no answer.
    Answered {
        ticket: u64,
        answer: Option<Arc<[u8]>>,
    },
}

macro_rules! counters {
    ($(#[doc = $doc:literal] $name:ident)+) => {
        /// What one worker counts outside its shard. On cache lines of its own: nobody waits for another core to count.
        #[derive(Default)]
        #[repr(align(128))]
        pub struct Counters {
            $(#[doc = $doc] pub $name: AtomicU64,)+
        }

        impl Counters {
            /// (name, what it counts, value of all workers) of each.
            pub fn sum(workers: &[Counters]) -> impl Iterator<Item = (&'static str, &'static str, u64)> + use<> {
                let sum = |counter: fn(&Counters) -> &AtomicU64| {
                    workers.iter().map(|worker| counter(worker).load(Ordering::Relaxed)).sum()
                };
                [$((stringify!($name), $doc.trim_ascii(), sum(|counters| &counters.$name))),+].into_iter()
            }
        }
    };
}

counters! {
    /// HTTP requests read.
    http_requests
    /// HTTP requests that could not be read (4xx).
    http_refused
    /// HTTP requests that did not come, or were not complete, in time (408).
    http_timeouts
    /// Connections refused: no device, or by the backend (401).
    connect_refused
    /// Connections refused because the backend did not answer (503).
    connect_failed
    /// Connections refused for their Origin (403).
    origin_refused
    /// Calls by the business server carried out.
    calls
    /// Calls refused for what they ask.
    calls_refused
    /// Calls refused for their signature.
    signatures_refused
    /// Messages between workers refused because a mailbox was full.
    mail_full
    /// Panics in the handling of one connection.
    panics
    /// Callers that did not take an answer in time.
    answers_not_taken
    /// New connections that could not be accepted.
    accept_errors
    /// Answers that carried RAINBOWREQUESTINVALID.
    backend_invalid
    /// Answers with a RAINBOW* header whose value is not what it should be.
    backend_unreadable
    /// Sessions that the backend named although there is no store.
    sessions_ignored
    /// Connections that went on in their session's worker.
    moves
    /// Connections that could not move to their session's worker.
    moves_failed
    /// Delivery receipts that the backend did not take in time.
    receipts_dropped
}

impl Counters {
    /// By the worker whose they are: nobody else writes.
    pub fn add(counter: &AtomicU64, count: u64) {
        counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }
}

impl Shared {
    pub fn config(&self) -> Arc<Config> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub fn workers(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.mail.len() as u16).map(ShardId)
    }

    /// For the store's thread: each report goes into a worker's inbox, and the worker is woken.
    pub fn report_sinks(self: &Arc<Shared>) -> ReportSinks {
        let [completions, claimed, expired] = [self.clone(), self.clone(), self.clone()];
        ReportSinks {
            completions: Box::new(move |shard, report| {
                completions.report(shard, |inbox| inbox.push_completions(report));
            }),
            claimed: Box::new(move |ticket, report| {
                let worker = ShardId((ticket >> TICKET_SHARD_AT) as u16);
                claimed.report(worker, |inbox| inbox.push_claimed(ticket, report));
            }),
            // The store does not know which shard a session belongs to: each shard takes what it knows.
            expired: Box::new(move |report| {
                expired.workers().for_each(|shard| expired.report(shard, |inbox| inbox.push_expired(report.clone())));
            }),
        }
    }

    fn report(&self, shard: ShardId, push: impl FnOnce(&StoreInbox)) {
        let shard = usize::from(shard.0);
        push(&self.store_inboxes[shard]);
        // Always: a worker that is about to sleep looks into its mailbox, not into its inbox.
        self.mail[shard].ring_always();
    }

    pub fn uptime_s(&self, now: Tick) -> u64 {
        now.since_ms(self.started) / 1000
    }

    /// A worker that has stopped turning; `None` when all turn.
    pub fn stuck_worker(&self, now: Tick) -> Option<ShardId> {
        let stuck = |beat: &AtomicU64| now.since_ms(Tick(beat.load(Ordering::Relaxed))) > STUCK_MS;
        self.beats.iter().position(stuck).map(|worker| ShardId(worker as u16))
    }
}

/// Which shards may have members of a channel: a count per shard and hash bucket. A send goes only where it can find
/// somebody; two channels in one bucket cost a message between cores, never a member.
pub struct Presence {
    shards: Vec<Box<[AtomicU16]>>,
}

impl Presence {
    pub fn new(shards: usize) -> Presence {
        let buckets = || (0..BUCKETS).map(|_| AtomicU16::new(0)).collect();
        Presence { shards: (0..shards).map(|_| buckets()).collect() }
    }

    /// `channel` is `shard::channels::name_hash`. Saturates: a bucket of 65,535 channels stays occupied for ever.
    pub fn set(&self, shard: ShardId, channel: u64, here: bool) {
        let bucket = &self.shards[usize::from(shard.0)][bucket(channel)];
        let count = bucket.load(Ordering::Relaxed);
        // Only the shard itself writes its counts.
        match (here, count) {
            (_, u16::MAX) => {}
            (true, count) => bucket.store(count + 1, Ordering::Release),
            (false, count) => bucket.store(count.saturating_sub(1), Ordering::Release),
        }
    }

    pub fn may_have(&self, shard: ShardId, channel: u64) -> bool {
        self.shards[usize::from(shard.0)][bucket(channel)].load(Ordering::Acquire) > 0
    }
}

fn bucket(channel: u64) -> usize {
    // The upper bits of the hash are the mixed ones.
    (channel >> 48) as usize % BUCKETS
}

/// The high bits of a wait's ticket name its worker.
pub const TICKET_SHARD_AT: u32 = 48;
/// A worker's timer task runs once a second at least.
const STUCK_MS: u64 = 5_000;
const BUCKETS: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::channels::name_hash;

    #[test]
    fn presence_counts_channels_per_shard() {
        let presence = Presence::new(2);
        let (news, here, there) = (name_hash("news"), ShardId(0), ShardId(1));
        presence.set(here, news, true);
        presence.set(here, news, true);
        presence.set(here, news, false);
        assert!(presence.may_have(here, news) && !presence.may_have(there, news));
        presence.set(here, news, false);
        assert!(!presence.may_have(here, news));
    }
}
