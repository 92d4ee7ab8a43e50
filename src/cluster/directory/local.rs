//! The channels of this node: how often each is announced, their bitmap, and the changes of a turn.
//!
//! Workers count: a channel is added by each shard that has members of it, and is gone when the last one has removed
//! it. The bitmap has a bit per hash; two channels may share one, so hashes are counted, too. What changes within a
//! turn and changes back is no change.

use super::bits::Bitmap;
use crate::wire::peer::frame::{Change, ChangeNumber, Changes, SIZE_LOG2_MAX, SIZE_LOG2_MIN};
use hashbrown::HashTable;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Changes with their number, encoded once for all peers.
pub struct Batch {
    pub number: ChangeNumber,
    pub size_log2: u8,
    encoded: Vec<u8>,
}

impl Batch {
    pub fn changes(&self) -> Changes<'_> {
        Changes::new(&self.encoded).expect("whole words")
    }

    pub fn bytes(&self) -> usize {
        self.encoded.len()
    }
}

/// What became of a turn.
#[derive(Default)]
pub struct Turn {
    pub batches: Vec<Arc<Batch>>,
    /// The bitmap has another size: everybody needs a snapshot.
    pub has_grown: bool,
}

pub struct Local {
    bitmap: Bitmap,
    hashes: HashTable<Counted>,
    /// Per bit that more than one hash has: how many more.
    shared: BTreeMap<u32, u32>,
    /// A bit is in it once per flip of this turn.
    flips: Vec<u32>,
    has_grown: bool,
    number: ChangeNumber,
}

struct Counted {
    hash: u64,
    count: u32,
}

impl Default for Local {
    fn default() -> Local {
        Local {
            bitmap: Bitmap::new(SIZE_LOG2_MIN),
            hashes: HashTable::new(),
            shared: BTreeMap::new(),
            flips: Vec::new(),
            has_grown: false,
            number: ChangeNumber::default(),
        }
    }
}

impl Local {
    /// A shard has members of a channel.
    pub fn add(&mut self, hash: u64) {
        let entry = self.hashes.entry(hash, |counted| counted.hash == hash, |counted| counted.hash);
        let mut is_new = false;
        let mut counted = entry.or_insert_with(|| {
            is_new = true;
            Counted { hash, count: 0 }
        });
        counted.get_mut().count += 1;
        if is_new {
            self.set(hash);
            self.grow_if_full();
        }
    }

    /// It has none any more. False for what was not added.
    pub fn remove(&mut self, hash: u64) -> bool {
        let Ok(mut entry) = self.hashes.find_entry(hash, |counted| counted.hash == hash) else { return false };
        entry.get_mut().count -= 1;
        if entry.get().count > 0 {
            return true;
        }
        entry.remove();
        let bit = self.bitmap.bit_of(hash);
        match self.shared.get_mut(&bit) {
            Some(1) => drop(self.shared.remove(&bit)),
            Some(more) => *more -= 1,
            None => {
                self.bitmap.set(bit, false);
                self.flips.push(bit);
            }
        }
        true
    }

    fn set(&mut self, hash: u64) {
        let bit = self.bitmap.bit_of(hash);
        if self.bitmap.set(bit, true) {
            self.flips.push(bit);
        } else {
            *self.shared.entry(bit).or_default() += 1;
        }
    }

    /// A hash that is not there hits a bit that is set as often as bits are: that is what wasted sends are.
    fn grow_if_full(&mut self) {
        let size_log2 = self.bitmap.size_log2();
        if self.bitmap.count() * 100 <= WASTED_PERCENT_MAX << size_log2 || size_log2 == SIZE_LOG2_MAX {
            return;
        }
        self.bitmap = Bitmap::new(size_log2 + 1);
        self.shared.clear();
        let hashes: Vec<u64> = self.hashes.iter().map(|counted| counted.hash).collect();
        hashes.into_iter().for_each(|hash| self.set(hash));
        self.flips.clear();
        self.has_grown = true;
    }

    /// Numbers what has changed since the last turn.
    pub fn end_turn(&mut self) -> Turn {
        let has_grown = std::mem::take(&mut self.has_grown);
        let mut flips = std::mem::take(&mut self.flips);
        flips.sort_unstable();
        let odd = flips.chunk_by(|one, next| one == next).filter(|flips| flips.len() % 2 == 1);
        let changed = odd.map(|flips| flips[0]);
        let changes: Vec<Change> = changed.map(|bit| Change { bit, is_set: self.bitmap.get(bit) }).collect();
        if has_grown {
            // The growth itself is a number, so that whoever waits for this turn has one to wait for.
            self.number = self.number.next();
        }
        let mut batches = Vec::new();
        for changes in changes.chunks(CHANGES_PER_BATCH) {
            self.number = self.number.next();
            let encoded = Changes::encode(changes.iter().copied());
            batches.push(Arc::new(Batch { number: self.number, size_log2: self.bitmap.size_log2(), encoded }));
        }
        Turn { batches, has_grown }
    }

    /// Nothing has changed since the last turn.
    pub fn is_settled(&self) -> bool {
        self.flips.is_empty() && !self.has_grown
    }

    /// Of the last turn.
    pub fn number(&self) -> ChangeNumber {
        self.number
    }

    pub fn bitmap(&self) -> &Bitmap {
        &self.bitmap
    }

    pub fn channels(&self) -> usize {
        self.hashes.len()
    }
}

const WASTED_PERCENT_MAX: u64 = 3;
/// 32 KiB of a frame.
const CHANGES_PER_BATCH: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::keyed_hash::HashKey;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const KEY: HashKey = HashKey::new(11, 12);

    fn changes(turn: &Turn) -> Vec<Change> {
        turn.batches.iter().flat_map(|batch| batch.changes().iter().collect::<Vec<_>>()).collect()
    }

    #[test]
    fn unsubscribe_and_subscribe_within_one_turn_is_no_change() {
        let mut local = Local::default();
        local.add(KEY.hash("a"));
        assert_eq!(changes(&local.end_turn()).len(), 1);
        local.remove(KEY.hash("a"));
        local.add(KEY.hash("a"));
        assert!(local.end_turn().batches.is_empty());
        assert_eq!(local.number(), ChangeNumber(1));
        local.add(KEY.hash("b"));
        local.remove(KEY.hash("b"));
        local.remove(KEY.hash("a"));
        let turn = local.end_turn();
        assert_eq!(changes(&turn), [Change { bit: local.bitmap().bit_of(KEY.hash("a")), is_set: false }]);
    }

    #[test]
    fn a_channel_of_several_shards_goes_with_the_last() {
        let mut local = Local::default();
        local.add(1 << 60);
        local.add(1 << 60);
        assert!(local.remove(1 << 60));
        assert_eq!(local.bitmap().count(), 1);
        assert!(local.remove(1 << 60) && !local.remove(1 << 60), "it was added twice");
        assert_eq!((local.bitmap().count(), local.channels()), (0, 0));
    }

    #[test]
    fn channels_that_share_a_bit_are_counted() {
        let mut local = Local::default();
        (0..3).for_each(|n| local.add(n));
        assert_eq!(local.bitmap().count(), 1);
        local.remove(0);
        local.remove(2);
        assert_eq!(local.bitmap().count(), 1);
        local.remove(1);
        assert_eq!(local.bitmap().count(), 0);
    }

    #[test]
    fn a_large_turn_is_several_batches() {
        let mut local = Local::default();
        let hashes: Vec<u64> = (0..20_000).map(|n| KEY.hash(&format!("{n}"))).collect();
        hashes.iter().for_each(|hash| local.add(*hash));
        local.end_turn();
        assert!(hashes.iter().all(|hash| local.remove(*hash)));
        let before = local.number();
        let turn = local.end_turn();
        assert!(turn.batches.len() > 1 && turn.batches.iter().all(|batch| batch.bytes() <= 4 * CHANGES_PER_BATCH));
        let numbers: Vec<u64> = turn.batches.iter().map(|batch| batch.number.0).collect();
        assert_eq!(numbers, (before.0 + 1..=local.number().0).collect::<Vec<_>>());
        assert_eq!(local.bitmap().count(), 0);
    }

    /// 1,000,000 channels: at most 8 MB per peer, under 3 % wasted sends. Said in DESIGN.
    #[test]
    fn a_million_channels_cost_a_peer_less_than_8_mb_and_3_percent_of_sends() {
        let mut local = Local::default();
        for n in 0..1_000_000_u32 {
            local.add(KEY.hash(&format!("channel/{n}")));
        }
        assert!(local.bitmap().bytes() <= 8_000_000, "{} bytes", local.bitmap().bytes());
        local.bitmap.set_complete(true);
        let table = local.bitmap().table();
        let wasted = (0..100_000).filter(|n| table.may_have(KEY.hash(&format!("elsewhere/{n}")))).count();
        assert!(wasted < 3_000, "{wasted} of 100,000");
        assert!((0..1_000_000).step_by(1_000).all(|n| table.may_have(KEY.hash(&format!("channel/{n}")))));
        println!("{} bytes, {wasted} of 100,000 sends wasted", local.bitmap().bytes());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_bit_is_set_while_a_channel_of_it_is_there(
            steps in prop::collection::vec((0_u64..40, any::<bool>(), 0..10_u8), 0..300),
        ) {
            let (mut local, mut model, mut peer) = (Local::default(), BTreeMap::<u64, u32>::new(), Bitmap::new(16));
            for (n, adds, end) in steps {
                // Of 40 hashes, four share a bit each.
                let hash = (n / 4) << 50 | n;
                if adds {
                    local.add(hash);
                    *model.entry(hash).or_default() += 1;
                } else {
                    let count = model.entry(hash).or_default();
                    prop_assert_eq!(local.remove(hash), *count > 0);
                    *count = count.saturating_sub(1);
                }
                if end == 0 {
                    for change in changes(&local.end_turn()) {
                        prop_assert!(peer.set(change.bit, change.is_set), "no change");
                    }
                    prop_assert_eq!(peer.checksum(), local.bitmap().checksum());
                }
                for n in 0..10 {
                    let hash = |m| (n << 50) | (n * 4 + m);
                    let is_there = (0..4).any(|m| model.get(&hash(m)).is_some_and(|count| *count > 0));
                    prop_assert_eq!(local.bitmap().get(local.bitmap().bit_of(n << 50)), is_there);
                }
            }
        }
    }
}
