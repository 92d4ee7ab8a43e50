//! Numbers that one thread writes and any thread reads. Adding is a load and a store, not a locked instruction: only
//! the owner writes, and a reader needs no order between figures.
//!
//! `SharedCounter` is for the few figures that several threads count.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts up since the start.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// Stands at a value.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

/// Counts up since the start, on any thread: each addition is a locked instruction.
#[derive(Debug, Default)]
pub struct SharedCounter(AtomicU64);

/// How a number behaves over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
}

/// A number that can be exported.
pub trait Value {
    const KIND: Kind;

    fn value(&self) -> u64;
}

impl Counter {
    #[inline]
    pub fn increment(&self) {
        self.add(1);
    }

    /// By the owner only: two writers would lose counts.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Gauge {
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// Sets the value if it is larger than the one that stands. By the owner only.
    #[inline]
    pub fn raise_to(&self, value: u64) {
        self.set(self.get().max(value));
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl SharedCounter {
    pub fn increment(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Value for Counter {
    const KIND: Kind = Kind::Counter;

    fn value(&self) -> u64 {
        self.get()
    }
}

impl Value for Gauge {
    const KIND: Kind = Kind::Gauge;

    fn value(&self) -> u64 {
        self.get()
    }
}

impl Value for SharedCounter {
    const KIND: Kind = Kind::Counter;

    fn value(&self) -> u64 {
        self.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn a_reader_sees_a_counter_only_rise() {
        const COUNT: u64 = 100_000;
        let counter = Counter::default();
        thread::scope(|scope| {
            scope.spawn(|| (0..COUNT).for_each(|_| counter.increment()));
            let mut seen = 0;
            while seen < COUNT {
                let now = counter.get();
                assert!(now >= seen, "{now} after {seen}");
                seen = now;
            }
        });
        counter.add(5);
        assert_eq!(counter.get(), COUNT + 5);
    }

    #[test]
    fn a_shared_counter_loses_no_count_of_any_thread() {
        let counter = SharedCounter::default();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| counter.increment()));
            }
        });
        assert_eq!(counter.get(), 40_000);
    }

    #[test]
    fn a_gauge_stands_at_what_was_set_last() {
        let gauge = Gauge::default();
        gauge.set(7);
        gauge.set(3);
        assert_eq!(gauge.get(), 3);
        gauge.raise_to(2);
        assert_eq!(gauge.get(), 3);
        gauge.raise_to(4);
        assert_eq!(gauge.get(), 4);
    }
}
