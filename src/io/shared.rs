//! What all workers of the process share: metrics, who may come in, which channels are where, and each other's
//! mailboxes.

use super::events::EventSender;
use super::mailbox::MailSender;
use super::moves::Moves;
use super::repeats::Repeats;
use super::shelf::{News, Shelf};
use super::store::{Outlets, StoreSender};
use crate::base::id::{ConnKey, ShardId};
use crate::base::time::Tick;
use crate::config::Config;
use crate::metrics::process::Metrics;
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
    /// Per worker, what the store has said.
    pub shelves: Vec<Shelf>,
    /// No worker lets anybody in before all have their sessions: a message for a channel must find all its members.
    pub restored: Barrier,
    pub metrics: Metrics,
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

    /// For the store's thread: what it says is laid on shelves, and the bell is rung.
    pub fn outlets(self: &Arc<Shared>) -> Outlets {
        let [told, claimed, expired] = [self.clone(), self.clone(), self.clone()];
        Outlets {
            told: Box::new(move |shard, news| told.lay(shard, |shelf| shelf.add_told(news))),
            claimed: Box::new(move |ticket, news| {
                claimed.lay(ShardId((ticket >> TICKET_SHARD_AT) as u16), |shelf| shelf.claimed.push((ticket, news)));
            }),
            // Whose they are is not said: each shard takes what it knows.
            expired: Box::new(move |news| {
                expired.workers().for_each(|shard| expired.lay(shard, |shelf| shelf.expired.extend(news.clone())));
            }),
        }
    }

    fn lay(&self, shard: ShardId, put: impl FnOnce(&mut News)) {
        let shard = usize::from(shard.0);
        self.shelves[shard].lay(put);
        // Always: who is about to sleep looks for mail, not at its shelf.
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

    /// `channel` is `shard::name_hash`. Saturates: a bucket of 65,535 channels stays occupied for ever.
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
    use crate::shard::name_hash;

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
