//! What a worker's descriptor table is used for: some of it is kept for connections to backends, so that clients that
//! are in are served however many others come.
//!
//! ```text
//! 0 ............................................................................. RLIMIT_NOFILE
//! | open at the start | whoever connects | what we need to serve them | backends |
//! ```
//! It also knows whether accepting pauses, and says so once per change.

use crate::base::id::ShardId;
use crate::base::time::Tick;
use crate::io::runtime::claim::DESCRIPTORS_ADVICE;
use crate::io::runtime::descriptors::open_sockets;
use std::cell::Cell;
use std::io;
use tracing::{info, warn};

pub struct Descriptors {
    worker: ShardId,
    /// What is left of the table behind what was open at the start.
    room: usize,
    shares: Cell<Shares>,
    /// Listeners that wait for room.
    waiting: Cell<u32>,
    /// When accepting last had to wait; `None` once that is over.
    short: Cell<Option<Tick>>,
}

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Whoever connects to the address for clients.
    Newcomer,
    /// The operator, a client that another worker hands over, a response that takes time.
    Service,
}

/// Why accepting pauses.
pub enum Shortage<'a> {
    /// What is left of the table is kept for others.
    Full,
    Failed(&'a io::Error),
}

/// How many sockets a table may hold, depending on what one more would be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    newcomers_max: usize,
    sockets_max: usize,
}

impl Shares {
    /// `room`: descriptors that are left at the start; `backends`: connections to backends that may be opened.
    pub fn new(room: usize, backends: usize) -> Shares {
        // A table that is too small for all of them serves its clients more slowly rather than nobody.
        let reserve = (backends + OTHERS).min(room / 4);
        let sockets_max = room - reserve;
        Shares { newcomers_max: sockets_max - SERVICE.min(sockets_max / 16), sockets_max }
    }

    pub fn max(self, purpose: Purpose) -> usize {
        match purpose {
            Purpose::Newcomer => self.newcomers_max,
            Purpose::Service => self.sockets_max,
        }
    }
}

impl Descriptors {
    pub fn new(worker: ShardId, room: usize, backends: usize) -> Descriptors {
        let shares = Cell::new(Shares::new(room, backends));
        Descriptors { worker, room, shares, waiting: Cell::new(0), short: Cell::new(None) }
    }

    /// There are more or fewer backends.
    pub fn set_backends(&self, backends: usize) {
        self.shares.set(Shares::new(self.room, backends));
    }

    pub fn has_room(&self, purpose: Purpose) -> bool {
        open_sockets() < self.shares.get().max(purpose)
    }

    /// A listener waits; `went_on` must follow.
    pub fn paused(&self, why: Shortage<'_>, now: Tick) {
        self.waiting.set(self.waiting.get() + 1);
        if self.short.replace(Some(now)).is_some() {
            return;
        }
        let (worker, sockets) = (self.worker.0, open_sockets());
        match why {
            Shortage::Full => {
                warn!(worker, sockets, "accepting pauses: the last descriptors are for backends. {DESCRIPTORS_ADVICE}");
            }
            Shortage::Failed(error) if is_ours(error) => {
                warn!(worker, sockets, "accepting pauses: {error}. {DESCRIPTORS_ADVICE}");
            }
            Shortage::Failed(error) => warn!(worker, sockets, "accepting pauses: {error}"),
        }
    }

    /// The listener tries again.
    pub fn went_on(&self, now: Tick) {
        self.waiting.set(self.waiting.get() - 1);
        self.short.set(Some(now));
    }

    /// Says that accepting goes on, once it has done so for a while: at the limit it may pause many times a second.
    pub fn on_time(&self, now: Tick) {
        if self.waiting.get() == 0 && self.short.get().is_some_and(|last| now.since_ms(last) >= SETTLED_MS) {
            self.short.set(None);
            info!(worker = self.worker.0, sockets = open_sockets(), "accepting goes on");
        }
    }
}

/// The table, or the system's, is full.
fn is_ours(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Descriptors that are opened for a moment, or once, after the start: files under /proc, bells.
const OTHERS: usize = 16;
const SERVICE: usize = 64;
const SETTLED_MS: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_table_keeps_what_all_backends_may_take() {
        let shares = Shares::new(10_000, 128);
        assert_eq!(10_000 - shares.max(Purpose::Service), 128 + OTHERS);
        assert_eq!(shares.max(Purpose::Service) - shares.max(Purpose::Newcomer), SERVICE);
    }

    #[test]
    fn a_small_table_has_something_for_everybody() {
        for room in [8, 16, 50, 100, 500] {
            let shares = Shares::new(room, 128);
            assert!(shares.max(Purpose::Newcomer) >= room / 2 && shares.max(Purpose::Service) < room, "{shares:?}");
        }
        assert_eq!(Shares::new(0, 128).max(Purpose::Service), 0);
    }

    #[test]
    fn a_pause_is_over_when_nobody_has_waited_for_a_while() {
        let descriptors = Descriptors::new(ShardId(0), 0, 0);
        assert!(!descriptors.has_room(Purpose::Newcomer));
        let is_short = |now| {
            descriptors.on_time(Tick(now));
            descriptors.short.get().is_some()
        };
        descriptors.paused(Shortage::Full, Tick(10));
        assert!(is_short(5_000), "it waits still");
        descriptors.went_on(Tick(5_000));
        assert!(is_short(5_999));
        descriptors.paused(Shortage::Full, Tick(5_999));
        descriptors.went_on(Tick(6_000));
        assert!(is_short(6_999) && !is_short(7_000));
    }

    #[test]
    fn backends_that_come_with_a_reload_get_their_descriptors() {
        let descriptors = Descriptors::new(ShardId(0), 10_000, 0);
        descriptors.set_backends(640);
        assert_eq!(descriptors.shares.get(), Shares::new(10_000, 640));
    }
}
