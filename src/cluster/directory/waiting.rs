//! Who waits until the live peers know of a change: the 101 of a connection, the answer of /sub/.
//!
//! All wait equally long, so they end in the order in which they began, as far as time goes; and numbers grow, so a
//! peer that knows of one knows of all before it. A queue is enough.

use crate::base::time::Tick;
use crate::wire::peer::frame::ChangeNumber;
use std::collections::VecDeque;

/// One that waits; the caller's number for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WaiterId(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every live peer knows.
    Known,
    /// Some did not say so in time; the connection is open all the same.
    TimedOut,
}

#[derive(Default)]
pub struct Waiting(VecDeque<Waiter>);

struct Waiter {
    id: WaiterId,
    /// Of the turn in which it came; not yet numbered while that has not ended.
    number: Option<ChangeNumber>,
    deadline: Tick,
}

impl Waiting {
    pub fn push(&mut self, id: WaiterId, number: Option<ChangeNumber>, now: Tick) {
        self.0.push_back(Waiter { id, number, deadline: now + WAIT_MS });
    }

    /// The turn has ended with this number.
    pub fn number_turn(&mut self, number: ChangeNumber) {
        let of_turn = self.0.iter_mut().rev().take_while(|waiter| waiter.number.is_none());
        of_turn.for_each(|waiter| waiter.number = Some(number));
    }

    /// The next one that need not wait longer.
    pub fn pop(&mut self, now: Tick, is_known: impl FnOnce(ChangeNumber) -> bool) -> Option<(WaiterId, Outcome)> {
        let first = self.0.front()?;
        let outcome = match first.number {
            Some(number) if is_known(number) => Outcome::Known,
            _ if first.deadline <= now => Outcome::TimedOut,
            _ => return None,
        };
        self.0.pop_front().map(|waiter| (waiter.id, outcome))
    }

    pub fn next_deadline(&self) -> Tick {
        self.0.front().map_or(Tick::NEVER, |waiter| waiter.deadline)
    }
}

/// A round trip in a LAN a hundred times over; a client notices no more than that.
pub const WAIT_MS: u64 = 100;
