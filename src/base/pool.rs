//! Many values of one kind, each with a number. They lie in chunks: none is copied when there are more of them, and a
//! chunk that is empty goes back to the allocator, so that what a flood took is free when it is over. The next value
//! gets the lowest free number that there is memory for: what is busy stays together, and high chunks run empty.
//!
//! Every message looks values up many times, so that a look-up has to cost little: a chunk has as many slots as a word
//! has bits, and its length is part of its type.

use std::ops::{Index, IndexMut};

/// Slots of a chunk.
pub const CHUNK: usize = u64::BITS as usize;

const WORD: usize = u64::BITS as usize;

pub struct Pool<T> {
    chunks: Vec<Chunk<T>>,
    /// A bit per chunk: it has memory and a free slot.
    open: Vec<u64>,
    /// No word of `open` before this one has a bit.
    first_open: usize,
    /// Chunks without memory.
    bare: Vec<usize>,
    len: usize,
}

struct Chunk<T> {
    /// `None`: it has no memory, and every slot is free.
    slots: Option<Slots<T>>,
    /// A bit per slot that is free.
    free: u64,
}

type Slots<T> = Box<[Option<T>; CHUNK]>;

impl<T> Default for Pool<T> {
    fn default() -> Pool<T> {
        Pool { chunks: Vec::new(), open: Vec::new(), first_open: 0, bare: Vec::new(), len: 0 }
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

    /// Slots that there is memory for: fewer than `SPARE + CHUNK` more than are needed where the values lie together.
    pub fn slots(&self) -> usize {
        (self.chunks.len() - self.bare.len()) * CHUNK
    }

    // Always, as below: a value is put together, and taken apart, where it lies.
    #[inline(always)]
    pub fn insert(&mut self, value: T) -> usize {
        self.insert_with(|_| value)
    }

    /// The value knows its number.
    #[inline(always)]
    pub fn insert_with(&mut self, make: impl FnOnce(usize) -> T) -> usize {
        let at = self.open_chunk();
        let chunk = &mut self.chunks[at];
        let slot = chunk.free.trailing_zeros() as usize % CHUNK;
        let index = at * CHUNK + slot;
        chunk.slots.as_mut().expect("an open chunk has memory")[slot] = Some(make(index));
        chunk.free &= chunk.free - 1;
        if chunk.free == 0 {
            self.open[at / WORD] &= !(1 << (at % WORD));
        }
        self.len += 1;
        index
    }

    #[inline(always)]
    pub fn remove(&mut self, index: usize) -> T {
        self.try_remove(index).expect("the slot is in use")
    }

    #[inline(always)]
    pub fn try_remove(&mut self, index: usize) -> Option<T> {
        let (at, slot) = (index / CHUNK, index % CHUNK);
        let chunk = self.chunks.get_mut(at)?;
        let place = &mut chunk.slots.as_mut()?[slot];
        if place.is_none() {
            return None;
        }
        self.len -= 1;
        if chunk.free == 0 {
            self.open[at / WORD] |= 1 << (at % WORD);
            self.first_open = self.first_open.min(at / WORD);
        }
        chunk.free |= 1 << slot;
        if chunk.free == u64::MAX {
            return self.remove_last(index);
        }
        place.take()
    }

    /// The last value of a chunk. Some free slots stay: whoever comes and goes costs no allocation.
    #[inline(never)]
    fn remove_last(&mut self, index: usize) -> Option<T> {
        let at = index / CHUNK;
        let has_enough = self.slots() - self.len >= SPARE + CHUNK;
        let place = &mut self.chunks[at].slots;
        if !has_enough {
            return place.as_mut()?[index % CHUNK].take();
        }
        self.open[at / WORD] &= !(1 << (at % WORD));
        self.bare.push(at);
        place.take()?[index % CHUNK].take()
    }

    pub fn contains(&self, index: usize) -> bool {
        self.get(index).is_some()
    }

    pub fn get(&self, index: usize) -> Option<&T> {
        self.chunks.get(index / CHUNK)?.slots.as_ref()?[index % CHUNK].as_ref()
    }

    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.chunks.get_mut(index / CHUNK)?.slots.as_mut()?[index % CHUNK].as_mut()
    }

    /// In the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.chunks.iter().enumerate().flat_map(|(at, chunk)| {
            let slots = chunk.slots.iter().flat_map(|slots| slots.iter()).enumerate();
            slots.filter_map(move |(slot, value)| Some((at * CHUNK + slot, value.as_ref()?)))
        })
    }

    /// One more than the highest number in use may be.
    pub fn end(&self) -> usize {
        self.chunks.len() * CHUNK
    }

    /// The lowest chunk with memory and room.
    #[inline]
    fn open_chunk(&mut self) -> usize {
        match self.open.get(self.first_open) {
            Some(&word) if word != 0 => self.first_open * WORD + word.trailing_zeros() as usize,
            _ => self.next_open_chunk(),
        }
    }

    /// The same where `first_open` is too low, or no chunk is open.
    #[cold]
    fn next_open_chunk(&mut self) -> usize {
        let found = (self.first_open..self.open.len()).find(|&at| self.open[at] != 0);
        if let Some(at) = found {
            self.first_open = at;
            return at * WORD + self.open[at].trailing_zeros() as usize;
        }
        let at = self.bare.pop().unwrap_or_else(|| {
            self.chunks.push(Chunk { slots: None, free: u64::MAX });
            self.open.resize(self.chunks.len().div_ceil(WORD), 0);
            self.chunks.len() - 1
        });
        let slots: Box<[Option<T>]> = (0..CHUNK).map(|_| None).collect();
        self.chunks[at].slots = slots.try_into().ok();
        self.open[at / WORD] |= 1 << (at % WORD);
        self.first_open = at / WORD;
        at
    }
}

impl<T> Index<usize> for Pool<T> {
    type Output = T;

    fn index(&self, index: usize) -> &T {
        self.get(index).expect("the slot is in use")
    }
}

impl<T> IndexMut<usize> for Pool<T> {
    fn index_mut(&mut self, index: usize) -> &mut T {
        self.get_mut(index).expect("the slot is in use")
    }
}

/// Free slots that keep their memory.
const SPARE: usize = 8 * CHUNK;

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
                prop_assert_eq!(pool.slots(), pool.chunks.iter().filter(|chunk| chunk.slots.is_some()).count() * CHUNK);
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
        assert!(pool.slots() < 100 + SPARE + 2 * CHUNK, "{}", pool.slots());
        assert!(stay.iter().enumerate().all(|(n, &index)| pool[index] == n));
    }

    #[test]
    fn coming_and_going_at_an_edge_allocates_nothing() {
        let mut pool = Pool::default();
        let all: Vec<usize> = (0..SPARE + 4 * CHUNK).map(|n| pool.insert(n)).collect();
        let most = pool.slots();
        let mut left = all.into_iter().rev();
        // What is at the edge of a chunk, while all memory is kept, and once some is given back.
        for given_back in [0, CHUNK] {
            while pool.slots() > most - given_back || pool.len() % CHUNK != 0 {
                pool.remove(left.next().expect("memory is given back before it is empty"));
            }
            let first = pool.insert(0);
            pool.remove(first);
            let edge = pool.slots();
            for _ in 0..3 {
                let next = pool.insert(0);
                assert_eq!(pool.slots(), edge);
                pool.remove(next);
                assert_eq!(pool.slots(), edge);
            }
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
