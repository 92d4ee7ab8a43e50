//! Many values of one kind, each with a number. They lie in chunks: none is copied when there are more of them, and a
//! chunk that is empty goes back to the allocator, so that what a flood took is free when it is over. The lowest free
//! number is the next one used: what is busy stays together, and high chunks run empty.

use std::ops::{Index, IndexMut};

/// Slots of a chunk.
pub const CHUNK: usize = 512;

const WORD: usize = u64::BITS as usize;

pub struct Pool<T> {
    chunks: Vec<Chunk<T>>,
    /// A bit per chunk: it has a free slot, or is to get one.
    open: Vec<u64>,
    /// No word of `open` before this one has a bit.
    first_open: usize,
    len: usize,
    /// Slots that there is memory for.
    slots: usize,
}

struct Chunk<T> {
    slots: Vec<Option<T>>,
    /// A bit per slot of `slots` that is free.
    free: [u64; CHUNK / WORD],
    used: u32,
}

impl<T> Default for Pool<T> {
    fn default() -> Pool<T> {
        Pool { chunks: Vec::new(), open: Vec::new(), first_open: 0, len: 0, slots: 0 }
    }
}

impl<T> Default for Chunk<T> {
    fn default() -> Chunk<T> {
        Chunk { slots: Vec::new(), free: [0; CHUNK / WORD], used: 0 }
    }
}

impl<T> Pool<T> {
    /// Values in it.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Slots that there is memory for: at most two chunks more than are needed where the values lie together.
    pub fn slots(&self) -> usize {
        self.slots
    }

    pub fn insert(&mut self, value: T) -> usize {
        self.insert_with(|_| value)
    }

    /// The value knows its number.
    pub fn insert_with(&mut self, make: impl FnOnce(usize) -> T) -> usize {
        let at = self.open_chunk();
        let chunk = &mut self.chunks[at];
        let before = chunk.slots.len();
        if before == 0 && at > 0 {
            chunk.slots.reserve_exact(CHUNK);
        }
        let slot = chunk.take(|slot| make(at * CHUNK + slot));
        self.slots += chunk.slots.len() - before;
        self.len += 1;
        if chunk.used as usize == CHUNK {
            self.open[at / WORD] &= !(1 << (at % WORD));
        }
        at * CHUNK + slot
    }

    pub fn remove(&mut self, index: usize) -> T {
        self.try_remove(index).expect("the slot is in use")
    }

    pub fn try_remove(&mut self, index: usize) -> Option<T> {
        let at = index / CHUNK;
        let chunk = self.chunks.get_mut(at)?;
        let value = chunk.give_back(index % CHUNK)?;
        self.len -= 1;
        self.open[at / WORD] |= 1 << (at % WORD);
        self.first_open = self.first_open.min(at / WORD);
        // A chunk's worth of free slots stays: whoever comes and goes costs no allocation.
        if chunk.used == 0 && self.slots - self.len >= CHUNK + chunk.slots.len() {
            self.slots -= chunk.slots.len();
            *chunk = Chunk::default();
        }
        Some(value)
    }

    pub fn contains(&self, index: usize) -> bool {
        self.get(index).is_some()
    }

    pub fn get(&self, index: usize) -> Option<&T> {
        self.chunks.get(index / CHUNK)?.slots.get(index % CHUNK)?.as_ref()
    }

    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.chunks.get_mut(index / CHUNK)?.slots.get_mut(index % CHUNK)?.as_mut()
    }

    /// In the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.chunks.iter().enumerate().flat_map(|(at, chunk)| {
            let slots = chunk.slots.iter().enumerate();
            slots.filter_map(move |(slot, value)| Some((at * CHUNK + slot, value.as_ref()?)))
        })
    }

    /// One more than the highest number in use may be.
    pub fn end(&self) -> usize {
        self.chunks.len() * CHUNK
    }

    /// The lowest chunk with room.
    fn open_chunk(&mut self) -> usize {
        while let Some(&word) = self.open.get(self.first_open) {
            if word != 0 {
                return self.first_open * WORD + word.trailing_zeros() as usize;
            }
            self.first_open += 1;
        }
        let at = self.chunks.len();
        self.chunks.push(Chunk::default());
        self.open.resize(at / WORD + 1, 0);
        self.open[at / WORD] |= 1 << (at % WORD);
        self.first_open = at / WORD;
        at
    }
}

impl<T> Chunk<T> {
    fn take(&mut self, make: impl FnOnce(usize) -> T) -> usize {
        self.used += 1;
        let found = self.free.iter().position(|&word| word != 0);
        let Some(word) = found else {
            let slot = self.slots.len();
            self.slots.push(Some(make(slot)));
            return slot;
        };
        let bit = self.free[word].trailing_zeros() as usize;
        self.free[word] &= !(1 << bit);
        let slot = word * WORD + bit;
        self.slots[slot] = Some(make(slot));
        slot
    }

    fn give_back(&mut self, slot: usize) -> Option<T> {
        let value = self.slots.get_mut(slot)?.take()?;
        self.free[slot / WORD] |= 1 << (slot % WORD);
        self.used -= 1;
        Some(value)
    }
}

impl<T> Index<usize> for Pool<T> {
    type Output = T;

    fn index(&self, index: usize) -> &T {
        self.chunks[index / CHUNK].slots[index % CHUNK].as_ref().expect("the slot is in use")
    }
}

impl<T> IndexMut<usize> for Pool<T> {
    fn index_mut(&mut self, index: usize) -> &mut T {
        self.chunks[index / CHUNK].slots[index % CHUNK].as_mut().expect("the slot is in use")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn a_pool_behaves_like_a_map(steps in prop::collection::vec((0..5u8, 0..4_000usize), 1..40)) {
            let mut pool = Pool::default();
            let mut model = BTreeMap::new();
            for (n, (step, much)) in steps.into_iter().enumerate() {
                match step {
                    0..=2 => for value in 0..much {
                        let index = pool.insert(value);
                        prop_assert!(model.insert(index, value).is_none(), "{index} was in use");
                    },
                    3 => {
                        let gone: Vec<usize> = model.keys().copied().filter(|index| index * 7 % 13 != n % 13).collect();
                        for index in gone {
                            prop_assert_eq!(Some(pool.remove(index)), model.remove(&index));
                        }
                    }
                    _ => {
                        prop_assert_eq!(pool.try_remove(much), model.remove(&much));
                        prop_assert_eq!(pool.get(much), None);
                    }
                }
                prop_assert_eq!(pool.len(), model.len());
                prop_assert!(pool.iter().eq(model.iter().map(|(index, value)| (*index, value))));
                prop_assert_eq!(pool.slots(), pool.chunks.iter().map(|chunk| chunk.slots.len()).sum::<usize>());
            }
        }
    }

    #[test]
    fn memory_of_a_flood_is_given_back_when_it_is_over() {
        let mut pool = Pool::default();
        let stay: Vec<usize> = (0..100).map(|n| pool.insert(n)).collect();
        let flood: Vec<usize> = (0..100_000).map(|n| pool.insert(n)).collect();
        assert!(pool.slots() >= 100_100);
        flood.into_iter().for_each(|index| {
            pool.remove(index);
        });
        assert!(pool.slots() <= 3 * CHUNK, "{}", pool.slots());
        assert!(stay.iter().enumerate().all(|(n, &index)| pool[index] == n));
    }

    #[test]
    fn coming_and_going_at_the_edge_of_a_chunk_allocates_nothing() {
        let mut pool = Pool::default();
        (0..2 * CHUNK).for_each(|n| {
            pool.insert(n);
        });
        let edge = pool.insert(0);
        let slots = pool.slots();
        pool.remove(edge);
        for _ in 0..3 {
            let next = pool.insert(0);
            assert_eq!((next, pool.slots()), (edge, slots));
            pool.remove(next);
        }
    }

    #[test]
    fn the_lowest_free_number_is_the_next_one_used() {
        let mut pool = Pool::default();
        (0..3 * CHUNK).for_each(|n| {
            pool.insert(n);
        });
        for index in [CHUNK + 3, 7, 2 * CHUNK] {
            pool.remove(index);
        }
        assert_eq!([pool.insert(0), pool.insert(0), pool.insert(0)], [7, CHUNK + 3, 2 * CHUNK]);
    }
}
