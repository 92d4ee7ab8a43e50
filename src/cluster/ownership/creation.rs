//! With SQLite: one at a time may create a session of a name, or fetch it from another node.
//!
//! The node that rendezvous hashing picks for a name grants that; while nodes join, several are asked (`grantors`).
//! What is granted to a node that dies or forgets it is free after a while: it may have made the session. And nobody
//! waits for longer than it could use a grant: who cannot be heard any more does not stand before those who can.

use super::super::planted::{ClusterBug, Planted};
use super::claims::{RequestId, SessionName};
use crate::base::id::Generation;
use crate::base::time::Tick;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreationOutput {
    /// `to` may create or fetch the session, and says when it is done.
    Grant { to: Generation, id: RequestId },
    /// Too many want this name, or another node has had it for long.
    Refuse { to: Generation, id: RequestId },
}

/// Who asked, and the number of the request there.
type Requester = (Generation, RequestId);

struct Name {
    granted: Requester,
    until: Tick,
    /// Each with the moment from which it waits no more, which is a later one for those behind.
    waiting: VecDeque<(Requester, Tick)>,
}

impl Name {
    fn due(&self) -> Tick {
        self.waiting.front().map_or(self.until, |(_, until)| self.until.min(*until))
    }
}

#[derive(Default)]
pub struct Creation {
    names: BTreeMap<SessionName, Name>,
    /// When a name's time, or that of who waits for it, is over: each name once.
    due: BTreeSet<(Tick, SessionName)>,
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
            self.due.insert((until, name.clone()));
            self.names.insert(name, Name { granted: requester, until, waiting: VecDeque::new() });
            return;
        };
        let was_due = known.due();
        // A repeat, since the answer may be lost.
        if known.granted == requester || self.planted.is(ClusterBug::GrantsToAll) {
            self.outputs.push_back(CreationOutput::Grant { to: from, id });
        } else if known.waiting.iter().any(|(waiting, _)| *waiting == requester) {
        } else if known.waiting.len() >= WAITING_MAX {
            self.outputs.push_back(CreationOutput::Refuse { to: from, id });
        } else {
            known.waiting.push_back((requester, now + WAIT_MS));
            self.reschedule(&name, was_due);
        }
    }

    /// It has the session, or has given it up.
    pub fn finished(&mut self, from: Generation, id: RequestId, name: &SessionName, now: Tick) {
        let Some(known) = self.names.get_mut(name) else { return };
        let was_due = known.due();
        match known.granted == (from, id) {
            true => self.pass_on(name, now),
            false => known.waiting.retain(|(waiting, _)| *waiting != (from, id)),
        }
        self.reschedule(name, was_due);
    }

    pub fn handle_timers(&mut self, now: Tick) {
        while let Some((was_due, name)) = self.due.first().filter(|(due, _)| *due <= now).cloned() {
            let known = self.names.get_mut(&name).expect("every name that is due is known");
            while let Some(((to, id), _)) = known.waiting.pop_front_if(|(_, until)| *until <= now) {
                self.outputs.push_back(CreationOutput::Refuse { to, id });
            }
            if known.until <= now {
                self.pass_on(&name, now);
            }
            self.reschedule(&name, was_due);
        }
    }

    pub fn next_tick(&self) -> Tick {
        self.due.first().map_or(Tick::NEVER, |(due, _)| *due)
    }

    pub fn poll_output(&mut self) -> Option<CreationOutput> {
        self.outputs.pop_front()
    }

    fn reschedule(&mut self, name: &SessionName, was_due: Tick) {
        self.due.remove(&(was_due, name.clone()));
        self.due.extend(self.names.get(name).map(|known| (known.due(), name.clone())));
    }

    fn pass_on(&mut self, name: &SessionName, now: Tick) {
        let Some(known) = self.names.get_mut(name) else { return };
        match known.waiting.pop_front() {
            Some((next, _)) => {
                (known.granted, known.until) = (next, now + GRANT_MS);
                self.outputs.push_back(CreationOutput::Grant { to: next.0, id: next.1 });
            }
            None => drop(self.names.remove(name)),
        }
    }
}

/// A transfer of a large session takes seconds.
pub const GRANT_MS: u64 = 10_000;
/// A search that has lasted so long makes nothing of a grant (`Disks::look_at_next`).
pub const WAIT_MS: u64 = GRANT_MS / 2;
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
        request(&mut creation, 1, 1, 5);
        request(&mut creation, 2, 1, GRANT_MS);
        assert_eq!(outputs(&mut creation), [grant(1, 1)]);
        creation.handle_timers(Tick(5 + GRANT_MS));
        assert_eq!(outputs(&mut creation), [grant(2, 1)]);
    }

    /// Their `Release` was lost in a partition: each would have the name for ten seconds, one after the other.
    #[test]
    fn those_who_are_not_heard_any_more_do_not_stand_before_the_others() {
        let mut creation = Creation::default();
        (1..=9).for_each(|from| request(&mut creation, from, 1, u64::from(from)));
        assert_eq!(outputs(&mut creation), [grant(1, 1)]);
        assert_eq!(creation.next_tick(), Tick(2 + WAIT_MS));
        creation.handle_timers(Tick(9 + WAIT_MS));
        let refused = |to| CreationOutput::Refuse { to: Generation(to), id: RequestId(1) };
        assert_eq!(outputs(&mut creation), (2..=9).map(refused).collect::<Vec<_>>());
        request(&mut creation, 1, 2, GRANT_MS - 1_000);
        creation.handle_timers(creation.next_tick());
        assert_eq!(outputs(&mut creation), [grant(1, 2)], "as soon as the first has had its time");
    }

    #[test]
    fn many_names_at_once_cost_no_look_at_all_of_them() {
        let mut creation = Creation::default();
        for n in 0..50_000 {
            creation.request(Generation(1), RequestId(n), format!("{n}").into(), Tick(n / 10));
            creation.request(Generation(2), RequestId(n), format!("{n}").into(), Tick(n / 10));
        }
        assert_eq!((outputs(&mut creation).len(), creation.next_tick()), (50_000, Tick(WAIT_MS)));
        (0..50_000).for_each(|n| creation.finished(Generation(1), RequestId(n), &format!("{n}").into(), Tick(5_000)));
        assert_eq!((outputs(&mut creation).len(), creation.next_tick()), (50_000, Tick(5_000 + GRANT_MS)));
        creation.handle_timers(Tick(5_000 + GRANT_MS));
        assert_eq!((creation.next_tick(), creation.names.len(), creation.due.len()), (Tick::NEVER, 0, 0));
    }

    #[test]
    fn a_name_that_too_many_want_is_refused() {
        let mut creation = Creation::default();
        (0..WAITING_MAX as u32 + 2).for_each(|from| request(&mut creation, from, 1, 0));
        let last = Generation(WAITING_MAX as u32 + 1);
        assert_eq!(outputs(&mut creation), [grant(0, 1), CreationOutput::Refuse { to: last, id: RequestId(1) }]);
    }
}
