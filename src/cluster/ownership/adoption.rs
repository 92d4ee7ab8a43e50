//! Survivors share the sessions of a node that has ended: each adopts those that fall to it, in slices.
//!
//! The list is read again until nothing is left of it: a survivor that dies meanwhile leaves its share to the others.
//! Until then sends that may concern the dead node are answered as unreachable.

use super::claims::{SessionName, Token};
use super::rendezvous::winner;
use crate::base::id::Generation;
use crate::base::time::Tick;
use std::collections::VecDeque;

/// A page of the sessions that a node owns by the store's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrphanPage {
    pub sessions: Vec<Orphan>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    pub name: SessionName,
    /// Of the name, with the cluster's key for sessions.
    pub hash: u64,
    pub token: Token,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdoptionOutput {
    /// Read a page of the dead node's sessions.
    Read { dead: Generation, from: u64 },
    /// `Claims::adopt`.
    Adopt { name: SessionName, token: Token },
    /// Nothing of it is left: the directory may forget the node.
    Done { dead: Generation },
}

pub struct Adoption {
    own: Generation,
    dead: Generation,
    outputs: VecDeque<AdoptionOutput>,
    /// When the next page is read, and which.
    next_at: Tick,
    from: u64,
    is_reading: bool,
    /// This pass has found a session, whoever it falls to.
    has_found: bool,
    is_done: bool,
}

impl Adoption {
    pub fn new(own: Generation, dead: Generation, now: Tick) -> Adoption {
        let outputs = VecDeque::new();
        Adoption { own, dead, outputs, next_at: now, from: 0, is_reading: false, has_found: false, is_done: false }
    }

    pub fn handle_timers(&mut self, now: Tick) {
        if !self.is_done && !self.is_reading && self.next_at <= now {
            self.has_found &= self.from > 0;
            self.is_reading = true;
            self.outputs.push_back(AdoptionOutput::Read { dead: self.dead, from: self.from });
        }
    }

    pub fn next_tick(&self) -> Tick {
        if self.is_done || self.is_reading { Tick::NEVER } else { self.next_at }
    }

    /// `None`: the store did not answer. `live` are all nodes that may adopt, ourselves among them.
    pub fn on_page(&mut self, page: Option<OrphanPage>, live: &[Generation], now: Tick) {
        self.is_reading = false;
        (self.next_at, self.from) = (now + PASS_MS, 0);
        let Some(page) = page else { return };
        self.has_found |= !page.sessions.is_empty();
        for orphan in page.sessions {
            if winner(orphan.hash, live.iter().copied()) == Some(self.own) {
                self.outputs.push_back(AdoptionOutput::Adopt { name: orphan.name, token: orphan.token });
            }
        }
        match page.next {
            Some(from) => (self.next_at, self.from) = (now + PAGE_MS, from),
            None if !self.has_found => {
                self.is_done = true;
                self.outputs.push_back(AdoptionOutput::Done { dead: self.dead });
            }
            None => {}
        }
    }

    pub fn poll_output(&mut self) -> Option<AdoptionOutput> {
        self.outputs.pop_front()
    }
}

const PASS_MS: u64 = 1_000;
/// What a page holds is claimed before the next one is read, more or less: the store has other work, too.
const PAGE_MS: u64 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD: Generation = Generation(9);

    fn orphan(n: u64) -> Orphan {
        Orphan { name: format!("s{n}").into(), hash: n.wrapping_mul(0x9E37_79B9_7F4A_7C15), token: Token(n) }
    }

    fn outputs(adoption: &mut Adoption) -> Vec<AdoptionOutput> {
        std::iter::from_fn(|| adoption.poll_output()).collect()
    }

    #[test]
    fn survivors_share_what_is_left_until_nothing_is() {
        let live = [Generation(1), Generation(2), Generation(3)];
        let mut left: Vec<Orphan> = (0..100).map(orphan).collect();
        let mut nodes: Vec<Adoption> = live.iter().map(|own| Adoption::new(*own, DEAD, Tick(0))).collect();
        let mut done = 0;
        for now in (0..10_000).step_by(100) {
            // The third one dies before it has adopted anything.
            let live = if now < 2_000 { &live[..] } else { &live[..2] };
            for node in &mut nodes[..2] {
                node.handle_timers(Tick(now));
                while let Some(output) = node.poll_output() {
                    match output {
                        AdoptionOutput::Read { from, .. } => {
                            let page = left.iter().skip(from as usize).take(10).cloned().collect::<Vec<_>>();
                            let next = (page.len() == 10).then_some(from + 10);
                            node.on_page(Some(OrphanPage { sessions: page, next }), live, Tick(now));
                        }
                        AdoptionOutput::Adopt { name, .. } => left.retain(|orphan| orphan.name != name),
                        AdoptionOutput::Done { dead } => {
                            assert_eq!((dead, left.len()), (DEAD, 0));
                            done += 1;
                        }
                    }
                }
            }
            assert!(now >= 2_000 || left.len() > 20, "the third one's share waits for it");
        }
        assert_eq!(done, 2);
    }

    #[test]
    fn a_store_that_does_not_answer_is_tried_again_later() {
        let mut adoption = Adoption::new(Generation(1), DEAD, Tick(0));
        adoption.handle_timers(Tick(0));
        adoption.handle_timers(Tick(1));
        assert_eq!(outputs(&mut adoption), [AdoptionOutput::Read { dead: DEAD, from: 0 }]);
        adoption.on_page(None, &[Generation(1)], Tick(5));
        adoption.handle_timers(Tick(6));
        assert_eq!((outputs(&mut adoption), adoption.next_tick()), (vec![], Tick(1_005)));
        adoption.handle_timers(Tick(1_005));
        assert_eq!(outputs(&mut adoption).len(), 1);
    }
}
