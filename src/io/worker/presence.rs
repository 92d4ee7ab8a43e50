//! Which shards may have members of a channel: a count per shard and hash bucket, read by all workers without a lock. A
//! send goes only to shards that may have members. Two channels in one bucket cost a message between workers, never a
//! member.

use crate::base::id::ShardId;
use std::sync::atomic::{AtomicU16, Ordering};

pub struct Presence {
    shards: Vec<Box<[AtomicU16]>>,
}

impl Presence {
    pub fn new(shards: usize) -> Presence {
        let buckets = || (0..BUCKETS).map(|_| AtomicU16::new(0)).collect();
        Presence { shards: (0..shards).map(|_| buckets()).collect() }
    }

    /// A channel, named by its hash, gets its first member or loses its last. Called by the worker that owns the shard.
    /// Saturates: a bucket of 65,535 channels stays occupied for ever.
    pub fn set(&self, shard: ShardId, channel: u64, here: bool) {
        let bucket = &self.shards[usize::from(shard.0)][bucket(channel)];
        let count = bucket.load(Ordering::Relaxed);
        // The count has one writer.
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
    (channel >> 48) as usize % BUCKETS
}

const BUCKETS: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::keyed_hash::HashKey;

    #[test]
    fn presence_counts_channels_per_shard() {
        let presence = Presence::new(2);
        let (channel, here, there) = (HashKey::new(1, 2).hash("news"), ShardId(0), ShardId(1));
        presence.set(here, channel, true);
        presence.set(here, channel, true);
        presence.set(here, channel, false);
        assert!(presence.may_have(here, channel) && !presence.may_have(there, channel));
        presence.set(here, channel, false);
        assert!(!presence.may_have(here, channel));
    }
}
