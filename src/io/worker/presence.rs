//! Which shards may have members of a channel: a count per shard and hash bucket, read by all workers without a lock. A
//! send goes only to shards that may have members. Two channels in one bucket cost a message between workers, never a
//! member.

use crate::base::id::ShardId;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

pub struct Presence {
    shards: Vec<Box<[AtomicU16]>>,
    /// Per slot of the channels' hashes: channels and shards in which one of them has members. Empty with one shard.
    slots: Box<[AtomicU16]>,
    /// Slots that are not 0.
    occupied: AtomicUsize,
}

impl Presence {
    pub fn new(shards: usize) -> Presence {
        let buckets = || (0..BUCKETS).map(|_| AtomicU16::new(0)).collect();
        let slots = if shards > 1 { SLOTS } else { 0 };
        Presence {
            shards: (0..shards).map(|_| buckets()).collect(),
            slots: (0..slots).map(|_| AtomicU16::new(0)).collect(),
            occupied: AtomicUsize::new(0),
        }
    }

    /// A channel, named by its hash, gets its first member or loses its last. Called by the worker that owns the shard.
    /// Saturates: a bucket of 65,535 channels stays occupied for ever.
    pub fn set(&self, shard: ShardId, channel: u64, here: bool) {
        self.count(channel, here);
        let bucket = &self.shards[usize::from(shard.0)][bucket(channel)];
        let count = bucket.load(Ordering::Relaxed);
        // The count has one writer.
        match (here, count) {
            (_, u16::MAX) => {}
            (true, count) => bucket.store(count + 1, Ordering::Release),
            (false, count) => bucket.store(count.saturating_sub(1), Ordering::Release),
        }
    }

    /// In one place for all shards, since two of them may have the same channel.
    fn count(&self, channel: u64, here: bool) {
        let Some(slot) = self.slots.get(channel as usize % SLOTS) else { return };
        if here && slot.fetch_add(1, Ordering::Relaxed) == 0 {
            self.occupied.fetch_add(1, Ordering::Relaxed);
        } else if !here && slot.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.occupied.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// How many channels there are, each once, of `counts` per shard. Exact with one shard; else from the slots that
    /// are occupied (linear counting: Whang and others, 1990), which is off by 0.1 % at a million channels.
    pub fn channels(&self, counts: impl Iterator<Item = u64>) -> u64 {
        // Each is read once: they change meanwhile.
        let (most, sum) = counts.fold((0, 0), |(most, sum), count| (count.max(most), sum + count));
        if self.slots.is_empty() {
            return sum;
        }
        let slots = SLOTS as f64;
        let free = slots - self.occupied.load(Ordering::Relaxed) as f64;
        let estimate = slots * (slots / free.max(1.0)).ln();
        (estimate.round() as u64).clamp(most, sum)
    }

    pub fn may_have(&self, shard: ShardId, channel: u64) -> bool {
        self.shards[usize::from(shard.0)][bucket(channel)].load(Ordering::Acquire) > 0
    }
}

fn bucket(channel: u64) -> usize {
    (channel >> 48) as usize % BUCKETS
}

const BUCKETS: usize = 1 << 16;
/// 2 MiB.
const SLOTS: usize = 1 << 20;

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

    #[test]
    fn a_channel_of_several_shards_is_counted_once() {
        const KEY: HashKey = HashKey::new(1, 2);
        let presence = Presence::new(4);
        let set = |shard, n: u32, here| presence.set(ShardId(shard), KEY.hash(&format!("channel {n}")), here);
        for (channels, tolerance) in [(10, 0), (1_000, 2), (200_000, 400)] {
            (0..channels).for_each(|n| (0..4).for_each(|shard| set(shard, n, true)));
            let counted = presence.channels([u64::from(channels); 4].into_iter());
            assert!(counted.abs_diff(channels.into()) <= tolerance, "{counted} of {channels}");
            // One shard loses its members, and the channels are there still.
            (0..channels).for_each(|n| set(3, n, false));
            assert_eq!(presence.channels([channels, channels, channels, 0].map(u64::from).into_iter()), counted);
            (0..channels).for_each(|n| (0..3).for_each(|shard| set(shard, n, false)));
            assert_eq!(presence.channels([0; 4].into_iter()), 0);
        }
        let alone = Presence::new(1);
        assert_eq!(alone.channels([7].into_iter()), 7);
    }
}
