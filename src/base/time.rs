//! Time as a number. A `Tick` counts milliseconds since the process's own epoch; the clock that makes it is read in one
//! file of `io`, and everything below takes the time as a parameter.

use std::ops::{Add, Sub};
use std::time::Duration;

/// Whole milliseconds; `u64::MAX` for what is longer than these can count.
pub fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since the process started (monotonic).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u64);

impl Tick {
    /// Later than every tick that a clock yields.
    pub const NEVER: Tick = Tick(u64::MAX);

    /// Milliseconds from `earlier` to `self`; 0 when `earlier` is not earlier.
    pub fn since_ms(self, earlier: Tick) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<u64> for Tick {
    type Output = Tick;
    fn add(self, ms: u64) -> Tick {
        Tick(self.0.saturating_add(ms))
    }
}

impl Add<Duration> for Tick {
    type Output = Tick;
    fn add(self, duration: Duration) -> Tick {
        self + ms(duration)
    }
}

impl Sub<u64> for Tick {
    type Output = Tick;
    fn sub(self, ms: u64) -> Tick {
        Tick(self.0.saturating_sub(ms))
    }
}
