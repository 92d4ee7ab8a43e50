//! How a node that the others hold for down comes back, and that it does not fight for ever.
//!
//! The way back is a later start. How late it must be, a refusal does not say. Whoever refuses a link mentions the
//! rival by a datagram, which may be lost: so the step doubles, too. A clock that went back an hour costs some twenty
//! rounds of a few milliseconds. A node that is refused more often than any clock explains has a twin at its address,
//! and both outbid each other: the pauses double, up to half a minute.

use super::swim::SwimId;
use crate::base::time::Tick;

#[derive(Default)]
pub struct Rejoin {
    at: Option<Tick>,
    last: Tick,
    in_a_row: u32,
    /// The latest start of another life at our address that anybody mentioned.
    rival_start: u64,
}

impl Rejoin {
    pub fn schedule(&mut self, now: Tick) {
        let doublings = self.in_a_row.saturating_sub(ROUNDS_QUICK).min(16);
        let pause_ms = (PAUSE_MS << doublings).min(PAUSE_MS_MAX);
        self.at.get_or_insert(now + pause_ms);
    }

    pub fn due(&self) -> Tick {
        self.at.unwrap_or(Tick::NEVER)
    }

    pub fn take_due(&mut self, now: Tick) -> bool {
        self.at.take_if(|at| *at <= now).is_some()
    }

    pub fn note_rival(&mut self, rival: SwimId) {
        self.rival_start = self.rival_start.max(rival.start);
    }

    /// The start to come back with.
    pub fn next_start(&mut self, own: SwimId, now: Tick) -> u64 {
        self.in_a_row = if now.since_ms(self.last) > IN_A_ROW_MS { 0 } else { self.in_a_row + 1 };
        self.last = now;
        own.start.max(self.rival_start).saturating_add(1 << self.in_a_row.min(STEP_LOG2_MAX))
    }
}

const PAUSE_MS: u64 = 20;
const PAUSE_MS_MAX: u64 = 30_000;
/// 2²⁴ ms are four hours, in half a second of rounds; the next eight of 36 rounds are for a clock that is years off.
const ROUNDS_QUICK: u32 = 24;
const IN_A_ROW_MS: u64 = 2 * PAUSE_MS_MAX;
/// Twelve days in one step.
const STEP_LOG2_MAX: u32 = 30;
