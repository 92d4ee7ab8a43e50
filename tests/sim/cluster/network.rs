//! The network between nodes: which directions are cut, and the links.
//!
//! A frame that is sent into a cut stays away, and so does whatever follows it in that direction: a stream has no gaps.
//! Links end when one side closes them; the other hears of it, or not.

use rainbow::base::time::Tick;
use std::collections::{BTreeMap, BTreeSet};

/// Links that carry calls, beside the control links of these numbers.
pub const CALLS: u64 = 1 << 32;

#[derive(Default)]
pub struct Network {
    /// From port to port.
    cut: BTreeSet<(u16, u16)>,
    /// Directions of links in which something was lost.
    stalled: BTreeSet<(u64, u16)>,
    /// When the last frame of a direction arrives.
    last: BTreeMap<(u64, u16), Tick>,
    links: u64,
}

impl Network {
    pub fn passes(&self, from: u16, to: u16) -> bool {
        !self.cut.contains(&(from, to))
    }

    pub fn passes_both_ways(&self, one: u16, other: u16) -> bool {
        self.passes(one, other) && self.passes(other, one)
    }

    pub fn cut(&mut self, from: u16, to: u16) {
        if from != to {
            self.cut.insert((from, to));
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// Nothing arrives over it before `up`, when both sides have it.
    pub fn new_link(&mut self, one: u16, other: u16, up: Tick) -> u64 {
        self.links += 1;
        for link in [self.links, CALLS + self.links] {
            self.last.extend([((link, one), up), ((link, other), up)]);
        }
        self.links
    }

    /// When a frame arrives that is sent now; `None` if it does not.
    pub fn send(&mut self, link: u64, (from, to): (u16, u16), at: Tick) -> Option<Tick> {
        if link >= CALLS {
            return self.send_call(link, (from, to), at);
        }
        if !self.passes(from, to) {
            self.stalled.insert((link, from));
        }
        if self.stalled.contains(&(link, from)) {
            return None;
        }
        Some(self.arrives((link, from), at))
    }

    /// Whoever misses an answer makes another link for calls: what was lost keeps nothing back.
    fn send_call(&mut self, link: u64, (from, to): (u16, u16), at: Tick) -> Option<Tick> {
        self.passes(from, to).then(|| self.arrives((link, from), at))
    }

    fn arrives(&mut self, way: (u64, u16), at: Tick) -> Tick {
        let last = self.last.entry(way).or_default();
        *last = at.max(*last);
        *last
    }
}
