//! With SQLite: one at a time may create a session of a name, or fetch it from another node.
//!
//! The node that rendezvous hashing picks for a name grants that; while nodes join, several are asked (`grantors`).
//! What is granted to a node that dies or forgets it is free after a while.

use super::super::planted::{ClusterBug, Planted};
use super::claims::{RequestId, SessionName};
use crate::base::id::Generation;
use crate::base::time::Tick;
use std::collections::{BTreeMap, VecDeque};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreationOutput {
    /// `to` may create or fetch the session, and says when it is done.
    Grant { to: Generation, id: RequestId },
    /// Too many want this name.
    Refuse { to: Generation, id: RequestId },
}

/// Who asked, and the number of the request there.
type Requester = (Generation, RequestId);

struct Name {
    granted: Requester,
    until: Tick,
    waiting: VecDeque<Requester>,
}

#[derive(Default)]
pub struct Creation {
    names: BTreeMap<SessionName, Name>,
    outputs: VecDeque<CreationOutput>,
    planted: Planted,
}

impl Creation {
    pub fn plant(&mut self, bug: ClusterBug) {
        self.planted.plant(bug);
    }

    pub fn request(&mut self, from: Generation, id: RequestId, name: SessionName, now: Tick) {
        self.handle_timers(now);
        let requester = (from, id);
        let Some(known) = self.names.get_mut(&name) else {
            self.outputs.push_back(CreationOutput::Grant { to: from, id });
            let until = now + GRANT_MS;
            self.names.insert(name, Name { granted: requester, until, waiting: VecDeque::new() });
            return;
        };
        // A repeat, since the answer may be lost.
        if known.granted == requester || self.planted.is(ClusterBug::GrantsToAll) {
            self.outputs.push_back(CreationOutput::Grant { to: from, id });
        } else if known.waiting.contains(&requester) {
        } else if known.waiting.len() >= WAITING_MAX {
            self.outputs.push_back(CreationOutput::Refuse { to: from, id });
        } else {
            known.waiting.push_back(requester);
        }
    }

    /// It has the session, or has given it up.
    pub fn finished(&mut self, from: Generation, id: RequestId, name: &SessionName, now: Tick) {
        if self.names.get(name).is_some_and(|known| known.granted == (from, id)) {
            self.pass_on(name, now);
        } else if let Some(known) = self.names.get_mut(name) {
            known.waiting.retain(|waiting| *waiting != (from, id));
        }
    }

    /// A node that is down wants nothing.
    pub fn node_down(&mut self, node: Generation, now: Tick) {
        self.names.values_mut().for_each(|known| known.waiting.retain(|(from, _)| *from != node));
        let granted = self.names.iter().filter(|(_, known)| known.granted.0 == node);
        let names: Vec<SessionName> = granted.map(|(name, _)| name.clone()).collect();
        names.iter().for_each(|name| self.pass_on(name, now));
    }

    pub fn handle_timers(&mut self, now: Tick) {
        let over = self.names.iter().filter(|(_, known)| known.until <= now);
        let names: Vec<SessionName> = over.map(|(name, _)| name.clone()).collect();
        names.iter().for_each(|name| self.pass_on(name, now));
    }

    pub fn next_tick(&self) -> Tick {
        self.names.values().map(|known| known.until).min().unwrap_or(Tick::NEVER)
    }

    pub fn poll_output(&mut self) -> Option<CreationOutput> {
        self.outputs.pop_front()
    }

    fn pass_on(&mut self, name: &SessionName, now: Tick) {
        let Some(known) = self.names.get_mut(name) else { return };
        match known.waiting.pop_front() {
            Some(next) => {
                (known.granted, known.until) = (next, now + GRANT_MS);
                self.outputs.push_back(CreationOutput::Grant { to: next.0, id: next.1 });
            }
            None => drop(self.names.remove(name)),
        }
    }
}

/// A transfer of a large session takes seconds.
pub const GRANT_MS: u64 = 10_000;
const WAITING_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(creation: &mut Creation) -> Vec<CreationOutput> {
        std::iter::from_fn(|| creation.poll_output()).collect()
    }

    fn grant(to: u32, id: u64) -> CreationOutput {
        CreationOutput::Grant { to: Generation(to), id: RequestId(id) }
    }

    fn request(creation: &mut Creation, from: u32, id: u64, now: u64) {
        creation.request(Generation(from), RequestId(id), "s".into(), Tick(now));
    }

    #[test]
    fn two_nodes_in_the_same_millisecond_come_one_after_the_other() {
        let mut creation = Creation::default();
        request(&mut creation, 1, 1, 0);
        request(&mut creation, 2, 1, 0);
        request(&mut creation, 1, 1, 0);
        assert_eq!(outputs(&mut creation), [grant(1, 1), grant(1, 1)], "a repeat is answered again");
        creation.finished(Generation(2), RequestId(7), &"s".into(), Tick(1));
        assert_eq!(outputs(&mut creation), []);
        creation.finished(Generation(1), RequestId(1), &"s".into(), Tick(1));
        assert_eq!(outputs(&mut creation), [grant(2, 1)]);
        creation.finished(Generation(2), RequestId(1), &"s".into(), Tick(1));
        assert_eq!(creation.next_tick(), Tick::NEVER, "nothing is remembered");
    }

    #[test]
    fn what_is_granted_to_the_dead_or_forgetful_is_free_again() {
        let mut creation = Creation::default();
        (1..=3).for_each(|from| request(&mut creation, from, 1, 0));
        creation.node_down(Generation(1), Tick(5));
        assert_eq!(outputs(&mut creation), [grant(1, 1), grant(2, 1)]);
        creation.handle_timers(Tick(5 + GRANT_MS));
        assert_eq!(outputs(&mut creation), [grant(3, 1)]);
    }

    #[test]
    fn a_name_that_too_many_want_is_refused() {
        let mut creation = Creation::default();
        (0..WAITING_MAX as u32 + 2).for_each(|from| request(&mut creation, from, 1, 0));
        let last = Generation(WAITING_MAX as u32 + 1);
        assert_eq!(outputs(&mut creation), [grant(0, 1), CreationOutput::Refuse { to: last, id: RequestId(1) }]);
    }
}
