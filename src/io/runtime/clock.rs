//! The clock. A worker's turn reads it once and passes that time on; threads without turns and timers read it when they
//! need it. Monotonic time is for deadlines, Unix time for signatures, for what is stored, and to seed chance.

use crate::base::time::Tick;
use crate::shard::command::UnixMs;
use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// One worker's view of the time: read when it is first needed in a turn, and the same until the turn ends.
#[derive(Default)]
pub struct Clock {
    now: Cell<Option<Tick>>,
}

impl Clock {
    pub fn now(&self) -> Tick {
        if let Some(now) = self.now.get() {
            return now;
        }
        let now = monotonic();
        self.now.set(Some(now));
        now
    }

    /// It has been read in this turn.
    pub fn is_read(&self) -> bool {
        self.now.get().is_some()
    }

    /// The next reading is another.
    pub fn end_turn(&self) {
        self.now.set(None);
    }
}

/// The same epoch for all workers of the process.
pub fn monotonic() -> Tick {
    Tick(monotonic_us() / 1000)
}

/// The same in microseconds.
pub fn monotonic_us() -> u64 {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    // Time begins at 1 s, so that "an interval before now" exists from the start.
    1_000_000 + EPOCH.get_or_init(Instant::now).elapsed().as_micros() as u64
}

/// Seconds since 1970, for signatures.
pub fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Milliseconds since 1970, for what is stored.
pub fn unix_ms() -> UnixMs {
    UnixMs((unix_ns() / 1_000_000) as u64)
}

/// Nanoseconds since 1970, to make identities unique and to seed chance.
pub fn unix_ns() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}
