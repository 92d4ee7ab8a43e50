//! The timers that foca has asked for, in the order in which it must get them.
//!
//! Those that are due come out sorted by their due time, and by foca's own order where that is the same. When the
//! caller comes late, the time that it missed did not pass for anybody (`resume`): the answers that came meanwhile lie
//! unread, and no peer is to blame for that. There is one timer per address to forget a dead member, and their number
//! is limited.

use super::swim::SwimId;
use crate::base::time::Tick;
use foca::Timer;
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;

#[derive(Default)]
pub struct Timers {
    waiting: BinaryHeap<Reverse<Entry>>,
    removals: BTreeMap<SocketAddr, (Tick, SwimId)>,
    count: u64,
}

impl Timers {
    /// Returns what has to happen at once instead, since there is no room to remember it.
    pub fn insert(&mut self, timer: Timer<SwimId>, due: Tick) -> Option<Timer<SwimId>> {
        if let Timer::RemoveDown(id) = timer {
            self.removals.insert(id.node.address, (due, id));
            let is_full = self.removals.len() > REMOVALS_MAX;
            let first = self.removals.iter().min_by_key(|(_, (due, _))| *due).map(|(address, _)| *address);
            let (_, id) = first.filter(|_| is_full).and_then(|first| self.removals.remove(&first))?;
            return Some(Timer::RemoveDown(id));
        }
        self.count += 1;
        self.waiting.push(Reverse(Entry { due, timer, number: self.count }));
        None
    }

    /// The next timer that is due.
    pub fn take_due(&mut self, now: Tick) -> Option<Timer<SwimId>> {
        if self.waiting.peek().is_some_and(|Reverse(entry)| entry.due <= now) {
            return self.waiting.pop().map(|Reverse(entry)| entry.timer);
        }
        let removal = self.removals.iter().find(|(_, (due, _))| *due <= now).map(|(address, _)| *address)?;
        self.removals.remove(&removal).map(|(_, id)| Timer::RemoveDown(id))
    }

    /// When the next timer is due. To forget the dead is in no hurry and wakes nobody.
    pub fn next_due(&self) -> Tick {
        self.waiting.peek().map_or(Tick::NEVER, |Reverse(entry)| entry.due)
    }

    /// The caller stood still for `ms`: all timers are due that much later.
    pub fn resume(&mut self, ms: u64) {
        let later = |Reverse(entry): Reverse<Entry>| Reverse(Entry { due: entry.due + ms, ..entry });
        self.waiting = std::mem::take(&mut self.waiting).into_iter().map(later).collect();
    }
}

struct Entry {
    due: Tick,
    timer: Timer<SwimId>,
    number: u64,
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        // `Timer` is ordered by its kind only.
        self.due.cmp(&other.due).then_with(|| self.timer.cmp(&other.timer)).then(self.number.cmp(&other.number))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

/// Dead addresses that are remembered: those of a large cluster for a day of restarts.
const REMOVALS_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn id(port: u16) -> SwimId {
        SwimId::anybody(([127, 0, 0, 1], port).into())
    }

    #[test]
    fn due_timers_come_by_due_time_and_then_in_focas_order() {
        let mut timers = Timers::default();
        let indirect = Timer::SendIndirectProbe { probed_id: id(1), token: 0 };
        timers.insert(Timer::ProbeRandomMember(0), Tick(20));
        timers.insert(Timer::PeriodicGossip(0), Tick(10));
        timers.insert(indirect.clone(), Tick(20));
        let due: Vec<_> = std::iter::from_fn(|| timers.take_due(Tick(20))).collect();
        assert_eq!(due, [Timer::PeriodicGossip(0), indirect, Timer::ProbeRandomMember(0)]);
        assert_eq!(timers.next_due(), Tick::NEVER);
    }

    #[test]
    fn time_that_was_missed_did_not_pass() {
        let mut timers = Timers::default();
        timers.insert(Timer::PeriodicGossip(0), Tick(10));
        timers.resume(100);
        assert_eq!((timers.take_due(Tick(109)), timers.next_due()), (None, Tick(110)));
    }

    #[test]
    fn the_dead_are_remembered_by_address_and_up_to_a_limit() {
        let mut timers = Timers::default();
        for life in 0..10 {
            let renewed = SwimId { start: life, ..id(1) };
            assert_eq!(timers.insert(Timer::RemoveDown(renewed), Tick(life)), None);
        }
        assert_eq!(timers.removals.len(), 1);
        let first =
            (1..=1024 + 1).find_map(|port| timers.insert(Timer::RemoveDown(id(port)), Tick(100 + u64::from(port))));
        assert_eq!(first, Some(Timer::RemoveDown(id(1))), "the oldest makes room");
        assert_eq!(timers.removals.len(), REMOVALS_MAX);
    }
}
