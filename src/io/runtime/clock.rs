//! The clock. A worker's turn reads it once and passes that time on; threads without turns and timers read it when they
//! need it. Monotonic time is for deadlines, Unix time for signatures, for what is stored, and to seed chance.
//!
//! What is stored goes by the store's clock where it has one, since the clocks of the nodes that share it may be apart.

use crate::base::time::Tick;
use crate::shard::command::UnixMs;
use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tracing::warn;

/// One worker's view of the time: read when it is first needed in a turn, and the same until the turn ends.
#[derive(Default)]
pub struct Clock {
    now_us: Cell<Option<u64>>,
    /// The same of the wall clock, for signatures.
    unix_s: Cell<Option<u64>>,
    /// What the clock of what is stored showed, in milliseconds since 1970, when `Tick` was 0; read again in each turn,
    /// so that a step of it (NTP, a resumed machine) counts from the next turn on. `None`: nobody needs it.
    unix_ms_at_zero: Cell<Option<u64>>,
}

impl Clock {
    /// Reads the wall clock too.
    pub fn with_wall_clock() -> Clock {
        Clock { unix_ms_at_zero: Cell::new(Some(unix_ms_at_zero())), ..Clock::default() }
    }

    pub fn now(&self) -> Tick {
        Tick(self.now_us() / 1000)
    }

    /// The same in microseconds.
    #[inline]
    pub fn now_us(&self) -> u64 {
        self.now_us.get().unwrap_or_else(|| self.read())
    }

    #[cold]
    fn read(&self) -> u64 {
        let now = monotonic_us();
        self.now_us.set(Some(now));
        if let Some(before) = self.unix_ms_at_zero.get() {
            let at_zero = unix_ms_at_zero();
            // The two clocks are read one after the other, in whole milliseconds.
            if at_zero.abs_diff(before) > CLOCKS_DIFFER_MS {
                self.unix_ms_at_zero.set(Some(at_zero));
                note_step(before, at_zero);
            }
        }
        now
    }

    /// Seconds since 1970.
    pub fn unix_s(&self) -> u64 {
        self.unix_s.get().unwrap_or_else(|| {
            let now = unix_s();
            self.unix_s.set(Some(now));
            now
        })
    }

    /// As of this turn.
    pub fn unix_ms_at_zero(&self) -> Option<u64> {
        self.unix_ms_at_zero.get()
    }

    /// It has been read in this turn.
    pub fn is_read(&self) -> bool {
        self.now_us.get().is_some()
    }

    /// The next reading is another. Returns how long the turn took, in microseconds, since the time was read.
    pub fn end_turn(&self) -> u64 {
        self.unix_s.set(None);
        self.now_us.take().map_or(0, |began| monotonic_us().saturating_sub(began))
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

/// What the clock of what is stored showed when `Tick` was 0, by what it shows now.
pub fn unix_ms_at_zero() -> u64 {
    STORE_CLOCK.ms_at_zero().unwrap_or_else(|| unix_ms().0.saturating_sub(monotonic().0))
}

/// Milliseconds since 1970, for what is stored.
pub fn stored_unix_ms() -> UnixMs {
    UnixMs(unix_ms_at_zero() + monotonic().0)
}

/// What is stored goes by the store's clock from now on. It showed `unix` at some moment between `began` and now.
pub fn set_store_time(unix: UnixMs, began: Tick) {
    if STORE_CLOCK.set(unix, began, monotonic()) {
        let ahead_ms = stored_unix_ms().0 as i64 - unix_ms().0 as i64;
        if ahead_ms.unsigned_abs() >= STEP_MS {
            warn!(ahead_ms, "the store's clock and this machine's are apart: what is stored expires by the store's");
        }
    }
}

static STORE_CLOCK: StoreClock = StoreClock(AtomicU64::new(0));

/// What the store's clock showed when `Tick` was 0; 0: it has none.
struct StoreClock(AtomicU64);

impl StoreClock {
    fn ms_at_zero(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|at_zero| *at_zero > 0)
    }

    /// It showed `unix` at some moment between the two. True: that is news, and more than a clock that is slewed.
    fn set(&self, unix: UnixMs, began: Tick, ended: Tick) -> bool {
        let (earliest, latest) = (unix.0.saturating_sub(ended.0), unix.0.saturating_sub(began.0));
        let known = self.ms_at_zero();
        if known.is_some_and(|at| earliest <= at + CLOCKS_DIFFER_MS && at <= latest + CLOCKS_DIFFER_MS) {
            return false;
        }
        self.0.store(earliest.midpoint(latest).max(1), Ordering::Relaxed);
        known.is_none_or(|at| at.abs_diff(earliest) >= STEP_MS)
    }
}

/// Logs a step of the wall clock, once for all threads that notice it.
fn note_step(from: u64, at_zero: u64) {
    static NOTED: AtomicU64 = AtomicU64::new(0);
    let _ = NOTED.compare_exchange(0, from, Ordering::Relaxed, Ordering::Relaxed);
    let before = NOTED.load(Ordering::Relaxed);
    if at_zero.abs_diff(before) >= STEP_MS
        && NOTED.compare_exchange(before, at_zero, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    {
        let step_ms = at_zero as i64 - before as i64;
        warn!(step_ms, "the wall clock was stepped: what is stored expires by the new time");
    }
}

/// Seconds since 1970, for signatures.
pub fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Milliseconds since 1970, as this machine has it.
pub fn unix_ms() -> UnixMs {
    UnixMs((unix_ns() / 1_000_000) as u64)
}

/// Nanoseconds since 1970, to make identities unique and to seed chance.
pub fn unix_ns() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}

/// More than two readings one after the other, rounded down each, can differ.
const CLOCKS_DIFFER_MS: u64 = 5;
/// A clock that is slewed differs less between one turn and the next.
const STEP_MS: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stores_clock_is_known_as_well_as_it_was_read() {
        let clock = StoreClock(AtomicU64::new(0));
        assert_eq!(clock.ms_at_zero(), None);
        assert!(clock.set(UnixMs(5_000_000), Tick(1_000), Tick(1_010)));
        assert_eq!(clock.ms_at_zero(), Some(4_998_995));
        // Right, and late.
        assert!(!clock.set(UnixMs(5_001_000), Tick(2_000), Tick(9_000)));
        assert_eq!(clock.ms_at_zero(), Some(4_998_995));
        // Slewed by little: taken over without a word.
        assert!(!clock.set(UnixMs(5_002_100), Tick(3_000), Tick(3_002)));
        assert_eq!(clock.ms_at_zero(), Some(4_999_099));
        // Another server, or a step.
        assert!(clock.set(UnixMs(1_000_000), Tick(4_000), Tick(4_000)));
        assert_eq!(clock.ms_at_zero(), Some(996_000));
    }
}
