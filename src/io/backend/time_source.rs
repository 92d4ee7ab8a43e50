//! Where the pool's time comes from, and one reading of it.
//!
//! The pool reads no clock of its own: the worker passes its clocks in, tests pass virtual ones. A task reads the time
//! once for each report to the dispatcher; the worker's turn brings its own reading.

use crate::base::time::Tick;

/// The clocks that the worker passes in.
pub struct Clocks {
    /// Microseconds since the process's epoch: a thousandth of it is the worker's `Tick`.
    pub monotonic_us: Box<dyn Fn() -> u64>,
    /// Seconds since 1970, for signatures.
    pub unix_s: Box<dyn Fn() -> u64>,
}

/// Reads the clocks.
pub struct TimeSource(Clocks);

/// The time, read once for everything that one input causes. Unix time is read only when a signature needs it.
#[derive(Clone, Copy)]
pub struct Now<'a> {
    pub tick: Tick,
    /// The same in microseconds.
    pub us: u64,
    pub unix_s: &'a dyn Fn() -> u64,
}

impl TimeSource {
    pub fn new(clocks: Clocks) -> TimeSource {
        TimeSource(clocks)
    }

    pub fn now(&self) -> Now<'_> {
        let us = (self.0.monotonic_us)();
        Now { tick: Tick(us / 1000), us, unix_s: &*self.0.unix_s }
    }

    /// The worker's reading, which is exact to the millisecond.
    pub fn at(&self, tick: Tick) -> Now<'_> {
        Now { tick, us: tick.0 * 1000, unix_s: &*self.0.unix_s }
    }
}
