//! What the swarm can be made to do, one file each. Scenarios put it together.

pub mod chat;
pub mod fanout;
pub mod http_echo;
pub mod send;
pub mod stored;
pub mod storm;
pub mod uplink;

use crate::sys::now_ns;

/// When the next operation is due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// So many at any time; an operation starts when another has ended.
    Closed(usize),
    /// So many per second, whether others have ended or not: lateness counts from when it should have started.
    Open(f64),
}

impl Pace {
    pub fn name(self) -> String {
        match self {
            Pace::Closed(count) => format!("{count} in flight"),
            Pace::Open(rate) => format!("{rate}/s offered"),
        }
    }
}

/// Deals out intended times by a pace.
pub struct Pacer {
    pace: Pace,
    going: bool,
    next_ns: f64,
}

impl Pacer {
    pub fn new(pace: Pace) -> Pacer {
        Pacer { pace, going: false, next_ns: 0.0 }
    }

    pub fn start(&mut self) {
        self.going = true;
        self.next_ns = now_ns() as f64;
    }

    pub fn stop(&mut self) {
        self.going = false;
    }

    /// How many connections for calls the pace needs.
    pub fn calls(&self) -> usize {
        match self.pace {
            Pace::Closed(in_flight) => in_flight,
            Pace::Open(_) => 64,
        }
    }

    /// The intended time of an operation that is due now, with `in_flight` others under way; it is taken as started.
    pub fn take(&mut self, in_flight: usize) -> Option<u64> {
        let now = now_ns();
        match self.pace {
            Pace::Closed(most) => (self.going && in_flight < most).then_some(now),
            Pace::Open(rate) => {
                let due = self.next_ns;
                (self.going && due <= now as f64).then(|| {
                    self.next_ns += 1e9 / rate;
                    due as u64
                })
            }
        }
    }

    /// When there will be something due without anything happening.
    pub fn wake_at(&self) -> Option<u64> {
        matches!(self.pace, Pace::Open(_)).then_some(self.next_ns as u64).filter(|_| self.going)
    }
}
