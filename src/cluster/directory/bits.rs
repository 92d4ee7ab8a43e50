//! A presence bitmap: one bit per hash of a channel that has members, in a table that grows by doubling.
//!
//! One thread changes a table; any number may read it meanwhile without a lock (`Table`). A bit is found by the highest
//! bits of the hash. A checksum over the bits that are set goes along with every change.

use crate::base::rng::Rng;
use crate::wire::peer::frame::{CHUNK_BITS, CHUNK_BYTES, Chunk, SIZE_LOG2_MAX, SIZE_LOG2_MIN};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What readers see of a bitmap.
pub struct Table {
    size_log2: u8,
    /// Until it is complete, everything may be in it.
    is_complete: AtomicBool,
    words: Box<[AtomicU64]>,
}

impl Table {
    fn new(size_log2: u8) -> Table {
        let words = (0..1_usize << (size_log2 - 6)).map(|_| AtomicU64::new(0)).collect();
        Table { size_log2, is_complete: AtomicBool::new(false), words }
    }

    /// Of a node of which nothing is known.
    pub fn of_everything() -> Arc<Table> {
        Arc::new(Table::new(SIZE_LOG2_MIN))
    }

    /// Whether a channel of this hash may be there. Never false for one that is.
    #[inline]
    pub fn may_have(&self, hash: u64) -> bool {
        // Pairs with `Bitmap::complete`: who sees that it is complete sees its bits.
        !self.is_complete.load(Ordering::Acquire) || self.get(self.bit_of(hash))
    }

    /// What it does not have is not there.
    pub fn is_complete(&self) -> bool {
        self.is_complete.load(Ordering::Acquire)
    }

    fn bit_of(&self, hash: u64) -> u32 {
        (hash >> (64 - self.size_log2)) as u32
    }

    fn get(&self, bit: u32) -> bool {
        self.words[bit as usize / 64].load(Ordering::Relaxed) & mask(bit) != 0
    }
}

/// The one who changes a table.
pub struct Bitmap {
    table: Arc<Table>,
    checksum: u64,
    count: u64,
}

impl Bitmap {
    pub fn new(size_log2: u8) -> Bitmap {
        debug_assert!((SIZE_LOG2_MIN..=SIZE_LOG2_MAX).contains(&size_log2));
        Bitmap { table: Arc::new(Table::new(size_log2)), checksum: 0, count: 0 }
    }

    /// For readers; another one after the bitmap was replaced.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    pub fn size_log2(&self) -> u8 {
        self.table.size_log2
    }

    pub fn bytes(&self) -> usize {
        self.table.words.len() * 8
    }

    /// Bits that are set.
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn checksum(&self) -> u64 {
        self.checksum
    }

    pub fn is_complete(&self) -> bool {
        self.table.is_complete.load(Ordering::Relaxed)
    }

    pub fn set_complete(&mut self, is_complete: bool) {
        self.table.is_complete.store(is_complete, Ordering::Release);
    }

    pub fn bit_of(&self, hash: u64) -> u32 {
        self.table.bit_of(hash)
    }

    pub fn get(&self, bit: u32) -> bool {
        self.table.get(bit)
    }

    /// True if the bit was another one. `bit` is within the size.
    pub fn set(&mut self, bit: u32, is_set: bool) -> bool {
        let word = &self.table.words[bit as usize / 64];
        let before = word.load(Ordering::Relaxed);
        let after = if is_set { before | mask(bit) } else { before & !mask(bit) };
        if before == after {
            return false;
        }
        word.store(after, Ordering::Relaxed);
        self.checksum =
            if is_set { self.checksum.wrapping_add(sum_of(bit)) } else { self.checksum.wrapping_sub(sum_of(bit)) };
        self.count = if is_set { self.count + 1 } else { self.count - 1 };
        true
    }

    pub fn chunks(&self) -> u32 {
        1 << (self.size_log2() - SIZE_LOG2_MIN)
    }

    /// The shorter of a chunk's two forms: positions, or all bits.
    pub fn encode_chunk(&self, index: u32, scratch: &mut Scratch) -> Encoded {
        let words = &self.table.words[index as usize * WORDS..][..WORDS];
        scratch.positions.clear();
        scratch.bits.clear();
        for (n, word) in words.iter().enumerate() {
            let word = word.load(Ordering::Relaxed);
            scratch.bits.extend_from_slice(&word.reverse_bits().to_be_bytes());
            let mut rest = word;
            while rest != 0 {
                let position = (n * 64) as u16 + rest.trailing_zeros() as u16;
                scratch.positions.extend_from_slice(&position.to_be_bytes());
                rest &= rest - 1;
            }
        }
        if scratch.positions.len() < CHUNK_BYTES { Encoded::Positions } else { Encoded::Bits }
    }

    /// Makes a chunk what the sender has. False for one that is outside of the bitmap.
    pub fn apply_chunk(&mut self, index: u32, chunk: Chunk<'_>) -> bool {
        if index >= self.chunks() {
            return false;
        }
        let base = index * CHUNK_BITS as u32;
        let mut wanted = [0_u64; WORDS];
        match chunk {
            Chunk::Bits(bits) => {
                let (words, _) = bits.as_chunks::<8>();
                wanted.iter_mut().zip(words).for_each(|(to, from)| *to = u64::from_be_bytes(*from).reverse_bits());
            }
            Chunk::Positions(positions) => {
                positions.iter().for_each(|position| wanted[usize::from(position) / 64] |= mask(u32::from(position)));
            }
        }
        for (n, wanted) in wanted.into_iter().enumerate() {
            let before = self.table.words[index as usize * WORDS + n].load(Ordering::Relaxed);
            let mut differ = before ^ wanted;
            while differ != 0 {
                let bit = base + n as u32 * 64 + differ.trailing_zeros();
                self.set(bit, wanted & mask(bit) != 0);
                differ &= differ - 1;
            }
        }
        true
    }
}

/// Which form of a chunk lies in the scratch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoded {
    Bits,
    Positions,
}

/// Buffers that are used for chunk after chunk.
#[derive(Default)]
pub struct Scratch {
    bits: Vec<u8>,
    positions: Vec<u8>,
}

impl Scratch {
    pub fn chunk(&self, encoded: Encoded) -> Chunk<'_> {
        use crate::wire::peer::frame::Positions;
        match encoded {
            Encoded::Bits => Chunk::Bits(self.bits.as_slice().try_into().expect("a whole chunk")),
            Encoded::Positions => Chunk::Positions(Positions::new(&self.positions).expect("they ascend")),
        }
    }
}

fn mask(bit: u32) -> u64 {
    1 << (bit % 64)
}

/// What one bit adds to the checksum.
fn sum_of(bit: u32) -> u64 {
    Rng::new(u64::from(bit)).next_u64()
}

const WORDS: usize = CHUNK_BITS / 64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn filled(size_log2: u8, bits: &[u32]) -> Bitmap {
        let mut bitmap = Bitmap::new(size_log2);
        assert!(bits.iter().all(|bit| bitmap.set(*bit, true)), "each once");
        bitmap
    }

    fn copy(of: &Bitmap, to: &mut Bitmap) -> Vec<Encoded> {
        let mut scratch = Scratch::default();
        let chunks = (0..of.chunks()).map(|index| {
            let encoded = of.encode_chunk(index, &mut scratch);
            assert!(to.apply_chunk(index, scratch.chunk(encoded)));
            encoded
        });
        chunks.collect()
    }

    #[test]
    fn a_table_that_is_not_complete_may_have_everything() {
        let mut bitmap = Bitmap::new(SIZE_LOG2_MIN);
        let table = Arc::clone(bitmap.table());
        assert!(table.may_have(0) && table.may_have(u64::MAX));
        bitmap.set_complete(true);
        assert!(!table.may_have(0));
        assert!(bitmap.set(bitmap.bit_of(u64::MAX), true) && !bitmap.set(bitmap.bit_of(u64::MAX), true));
        assert!(table.may_have(u64::MAX) && !table.may_have(0));
    }

    #[test]
    fn few_bits_travel_as_positions_and_many_as_bits() {
        let half: Vec<u32> = (0..CHUNK_BITS as u32).step_by(2).collect();
        let bitmap = filled(SIZE_LOG2_MIN + 1, &[&half[..], &[CHUNK_BITS as u32]].concat());
        let mut other = filled(SIZE_LOG2_MIN + 1, &[1, 3, CHUNK_BITS as u32 + 9]);
        assert_eq!(copy(&bitmap, &mut other), [Encoded::Bits, Encoded::Positions]);
        assert_eq!((other.checksum(), other.count()), (bitmap.checksum(), bitmap.count()));
        assert!(!other.apply_chunk(2, Chunk::Bits(&[0; CHUNK_BYTES])), "outside");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_bitmap_is_a_set(changes in prop::collection::vec((0_u32..1 << 17, any::<bool>()), 0..300)) {
            let (mut bitmap, mut model) = (Bitmap::new(17), BTreeSet::new());
            for (bit, is_set) in changes {
                let is_new = if is_set { model.insert(bit) } else { model.remove(&bit) };
                prop_assert_eq!(bitmap.set(bit, is_set), is_new);
            }
            let bits: Vec<u32> = model.iter().copied().collect();
            let copied = filled(17, &bits);
            prop_assert_eq!((bitmap.checksum(), bitmap.count()), (copied.checksum(), bits.len() as u64));
            let mut other = filled(17, &[5, 70_000]);
            copy(&bitmap, &mut other);
            prop_assert!((0..1 << 17).all(|bit| other.get(bit) == model.contains(&bit)));
            prop_assert_eq!(other.checksum(), bitmap.checksum());
        }
    }
}
