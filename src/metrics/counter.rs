//! A number with one writer and many readers. Adding is a load and a store, not a locked instruction: only the owner
//! writes, and a reader needs no order between figures.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts up since the start.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// Stands at a value.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Counter {
    #[inline]
    pub fn increment(&self) {
        self.add(1);
    }

    /// By the owner only: two writers would lose counts.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed) + count, Relaxed);
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

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
