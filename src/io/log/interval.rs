//! What may happen a million times is logged once a minute, with how often it has happened since.

use crate::base::time::Tick;
use std::cell::Cell;

/// Of one place of the code, on one worker.
#[derive(Default)]
pub struct LogInterval {
    unlogged: Cell<u64>,
    next: Cell<Tick>,
}

impl LogInterval {
    /// It has happened once more. `Some` when that has to be logged: how often it has happened since the last line.
    pub fn due(&self, now: Tick) -> Option<u64> {
        self.unlogged.set(self.unlogged.get() + 1);
        (now >= self.next.get()).then(|| {
            self.next.set(now + INTERVAL_MS);
            self.unlogged.take()
        })
    }
}

const INTERVAL_MS: u64 = 60_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_logged_and_the_rest_once_a_minute() {
        let interval = LogInterval::default();
        assert_eq!(interval.due(Tick(5)), Some(1));
        assert_eq!(interval.due(Tick(6)), None);
        assert_eq!(interval.due(Tick(60_004)), None);
        assert_eq!(interval.due(Tick(60_005)), Some(3));
    }
}
