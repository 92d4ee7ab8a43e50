//! What a worker's descriptor table is used for: some of it is kept for connections to backends, so that clients that
//! are in are served however many others come.
//!
//! ```text
//! 0 ............................................................................. RLIMIT_NOFILE
//! | open at the start | whoever connects | handovers | operator, slow responses | backends |
//! ```
//! It also knows whether accepting pauses, and says so once per change.

use crate::base::id::ShardId;
use crate::base::time::Tick;
use crate::config::Config;
use crate::io::backend::backends;
use crate::io::log::interval::LogInterval;
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
    lost: LogInterval,
}

/// Where workers have their descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tables {
    /// Each in a table of its own: RLIMIT_NOFILE counts per worker.
    Own,
    /// All in that of the process.
    Shared,
}

impl Tables {
    /// Of so many descriptors in a table, those that one of the workers may use.
    pub fn of_each(self, descriptors: usize, workers: usize) -> usize {
        match self {
            Tables::Own => descriptors,
            Tables::Shared => descriptors / workers,
        }
    }
}

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Whoever connects to the address for clients.
    Newcomer,
    /// A client that another worker hands over.
    Handover,
    /// The operator, and a response that takes time.
    Service,
}

/// Why accepting pauses.
pub enum Shortage<'a> {
    /// What is left of the table is kept for others.
    Full,
    Failed(&'a io::Error),
}

/// How a table is shared out: how many sockets it may hold, depending on what one more would be for, and how many
/// connections to each backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    newcomers_max: usize,
    handovers_max: usize,
    sockets_max: usize,
    per_backend: usize,
}

impl Shares {
    /// `room`: descriptors that are left at the start.
    pub fn new(room: usize, config: &Config) -> Shares {
        let (backends, wanted) = (backends(config), config.backend_connections);
        // A table that is too small for all of it serves its clients more slowly rather than nobody.
        let reserve = backends.saturating_mul(wanted).saturating_add(OTHERS).min(room / 4);
        let others = OTHERS.min(reserve / 4);
        let sockets_max = room - reserve;
        let service = SERVICE.min(sockets_max / 8);
        Shares {
            newcomers_max: sockets_max - service,
            handovers_max: sockets_max - service / 2,
            sockets_max,
            per_backend: wanted.min((reserve - others).checked_div(backends).unwrap_or(wanted)).max(1),
        }
    }

    pub fn max(self, purpose: Purpose) -> usize {
        match purpose {
            Purpose::Newcomer => self.newcomers_max,
            Purpose::Handover => self.handovers_max,
            Purpose::Service => self.sockets_max,
        }
    }

    pub fn per_backend(self) -> usize {
        self.per_backend
    }
}

impl Descriptors {
    pub fn new(worker: ShardId, room: usize, config: &Config) -> Descriptors {
        let shares = Cell::new(Shares::new(room, config));
        let (waiting, short, lost) = Default::default();
        Descriptors { worker, room, shares, waiting, short, lost }
    }

    /// There may be more or fewer backends.
    pub fn reconfigure(&self, config: &Config) {
        self.shares.set(Shares::new(self.room, config));
    }

    /// No more than `backend_connections`.
    pub fn connections_per_backend(&self) -> usize {
        self.shares.get().per_backend()
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

    /// A connection that another worker handed over found no room here.
    pub fn handover_lost(&self, now: Tick) {
        if let Some(lost) = self.lost.due(now) {
            warn!(worker = self.worker.0, lost, "connections were lost on their way here. {DESCRIPTORS_ADVICE}");
        }
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

    fn with_backends(count: usize) -> Config {
        let url = |n| format!("http://backend{n}/message/");
        Config { forward_url: (0..count).map(url).collect(), close_url: vec![url(0)], ..Config::default() }
    }

    #[test]
    fn a_large_table_keeps_what_all_backends_may_take() {
        let shares = Shares::new(10_000, &with_backends(2));
        assert_eq!(10_000 - shares.max(Purpose::Service), 2 * Config::default().backend_connections + OTHERS);
        assert_eq!(shares.max(Purpose::Service) - shares.max(Purpose::Newcomer), SERVICE);
        assert_eq!(shares.per_backend(), Config::default().backend_connections);
    }

    #[test]
    fn a_small_table_has_something_for_everybody() {
        for (room, backends) in [(24, 1), (50, 1), (100, 3), (500, 5)] {
            let shares = Shares::new(room, &with_backends(backends));
            let most = [Purpose::Newcomer, Purpose::Handover, Purpose::Service].map(|purpose| shares.max(purpose));
            assert!(most.is_sorted_by(|less, more| less < more), "{shares:?}");
            assert!(most[0] >= room / 2 && most[2] + backends * shares.per_backend() < room, "{shares:?}");
        }
        assert_eq!(Shares::new(0, &with_backends(2)).max(Purpose::Service), 0);
    }

    #[test]
    fn a_pause_is_over_when_nobody_has_waited_for_a_while() {
        let descriptors = Descriptors::new(ShardId(0), 0, &Config::default());
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
        let descriptors = Descriptors::new(ShardId(0), 10_000, &with_backends(1));
        descriptors.reconfigure(&with_backends(7));
        assert_eq!(descriptors.shares.get(), Shares::new(10_000, &with_backends(7)));
    }
}
