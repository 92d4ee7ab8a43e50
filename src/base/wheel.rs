//! Hierarchical timing wheel: six levels of 64 slots over milliseconds. Arming, moving and cancelling a timer is O(1).
//!
//! The wheel holds list heads; a timer is a small number of the caller's (a slab index), and its links lie in `timers`
//! under that number, apart from what the timer is for: moving a timer touches no cold data. It knows no clock and
//! calls nobody: the owner asks `poll` what has expired.
//!
//! ```text
//! level 0: slots of 1 ms      level 1: slots of 64 ms     …     level 5: slots of 2^30 ms
//! a timer lies in the level of the highest bit in which `when` and `elapsed` differ; a higher slot that begins is
//! emptied into lower levels (at most five times in a timer's life)
//! ```

use super::time::Tick;

/// Which timer: an index chosen by the owner. `timers` grows to the largest one used.
pub type TimerId = u32;

pub struct Wheel {
    elapsed: u64,
    levels: Box<[Level; LEVELS]>,
    /// Expired, not yet fetched.
    due: u32,
    timers: Vec<Timer>,
    len: usize,
}

struct Level {
    /// Bit n: slot n is not empty.
    occupied: u64,
    heads: [u32; SLOTS],
}

#[derive(Clone, Copy)]
struct Timer {
    when: u64,
    next: u32,
    prev: u32,
    /// `level * SLOTS + slot`, `DUE` or `IDLE`.
    place: u16,
}

impl Wheel {
    pub fn new(now: Tick) -> Wheel {
        let level = || Level { occupied: 0, heads: [NIL; SLOTS] };
        Wheel {
            elapsed: now.0,
            levels: Box::new([level(), level(), level(), level(), level(), level()]),
            due: NIL,
            timers: Vec::new(),
            len: 0,
        }
    }

    /// Armed timers, including those expired but not yet fetched.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn deadline(&self, id: TimerId) -> Option<Tick> {
        let timer = self.timers.get(id as usize)?;
        (timer.place != IDLE).then_some(Tick(timer.when))
    }

    /// Arms the timer, or moves it when it is armed. What is past expires at the next `poll`; what lies beyond the
    /// horizon (two years) expires at the horizon, where its owner looks again.
    pub fn arm(&mut self, id: TimerId, when: Tick) {
        let index = id as usize;
        if index >= self.timers.len() {
            self.timers.resize(index + 1, Timer::IDLE);
        }
        if self.timers[index].place != IDLE {
            self.unlink(id);
        } else {
            self.len += 1;
        }
        self.timers[index].when = when.0.min(self.elapsed + HORIZON_MS);
        self.link(id);
    }

    /// Arms the timer unless it is armed for an earlier or equal time.
    pub fn arm_no_later(&mut self, id: TimerId, when: Tick) {
        if self.deadline(id).is_none_or(|armed| armed > when) {
            self.arm(id, when);
        }
    }

    /// True when it was armed (expired but not fetched counts as armed).
    pub fn cancel(&mut self, id: TimerId) -> bool {
        if self.timers.get(id as usize).is_none_or(|timer| timer.place == IDLE) {
            return false;
        }
        self.unlink(id);
        self.timers[id as usize].place = IDLE;
        self.len -= 1;
        true
    }

    /// One expired timer, now idle again; `None` when there is none up to `now`. The order within a slot is not
    /// promised.
    pub fn poll(&mut self, now: Tick) -> Option<TimerId> {
        while self.due == NIL {
            match self.next_slot() {
                Some(next) if next.begins <= now.0 => self.open(next),
                _ => {
                    self.elapsed = self.elapsed.max(now.0);
                    return None;
                }
            }
        }
        let id = self.due;
        self.cancel(id);
        Some(id)
    }

    /// When to poll next: never later than the earliest deadline, and earlier only when a slot has to be emptied
    /// downwards.
    pub fn next_poll(&self) -> Option<Tick> {
        if self.due != NIL {
            return Some(Tick(self.elapsed));
        }
        self.next_slot().map(|slot| Tick(slot.begins))
    }

    /// The first slot in time that is not empty. A lower level's slots all begin before a higher level's.
    fn next_slot(&self) -> Option<Slot> {
        let level = (0..LEVELS).find(|&level| self.levels[level].occupied != 0)?;
        let shift = level as u32 * BITS;
        let current = (self.elapsed >> shift) as u32 % SLOTS as u32;
        let ahead = self.levels[level].occupied.rotate_right(current).trailing_zeros();
        debug_assert!(ahead > 0, "a slot that has begun has been emptied");
        let begins = ((self.elapsed >> shift) + u64::from(ahead)) << shift;
        Some(Slot { level, slot: ((current + ahead) % SLOTS as u32) as usize, begins })
    }

    /// Time has reached the slot: its timers are due, or fall into lower levels.
    fn open(&mut self, slot: Slot) {
        self.elapsed = slot.begins;
        let level = &mut self.levels[slot.level];
        level.occupied &= !(1 << slot.slot);
        let mut id = std::mem::replace(&mut level.heads[slot.slot], NIL);
        while id != NIL {
            let next = self.timers[id as usize].next;
            self.link(id);
            id = next;
        }
    }

    fn link(&mut self, id: TimerId) {
        let when = self.timers[id as usize].when;
        let (place, head) = if when <= self.elapsed {
            (DUE, &mut self.due)
        } else {
            let level = level_of(self.elapsed, when);
            let slot = (when >> (level as u32 * BITS)) as usize % SLOTS;
            self.levels[level].occupied |= 1 << slot;
            ((level * SLOTS + slot) as u16, &mut self.levels[level].heads[slot])
        };
        let next = std::mem::replace(head, id);
        if next != NIL {
            self.timers[next as usize].prev = id;
        }
        let timer = &mut self.timers[id as usize];
        (timer.place, timer.next, timer.prev) = (place, next, NIL);
    }

    fn unlink(&mut self, id: TimerId) {
        let Timer { next, prev, place, .. } = self.timers[id as usize];
        if next != NIL {
            self.timers[next as usize].prev = prev;
        }
        if prev != NIL {
            self.timers[prev as usize].next = next;
        } else if place == DUE {
            self.due = next;
        } else {
            let (level, slot) = (usize::from(place) / SLOTS, usize::from(place) % SLOTS);
            self.levels[level].heads[slot] = next;
            if next == NIL {
                self.levels[level].occupied &= !(1 << slot);
            }
        }
    }
}

struct Slot {
    level: usize,
    slot: usize,
    /// In ticks.
    begins: u64,
}

impl Timer {
    const IDLE: Timer = Timer { when: 0, next: NIL, prev: NIL, place: IDLE };
}

/// The level of the highest bit in which the two differ.
fn level_of(elapsed: u64, when: u64) -> usize {
    let differing = 63 - (elapsed ^ when).leading_zeros();
    ((differing / BITS) as usize).min(LEVELS - 1)
}

const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
const LEVELS: usize = 6;
const NIL: u32 = u32::MAX;
const IDLE: u16 = u16::MAX;
const DUE: u16 = u16::MAX - 1;

/// How far ahead a timer can lie. Two top slots less than a full turn: so the top level never holds a timer in the slot
/// that is running now, and "the next slot" has one meaning.
const HORIZON_MS: u64 = 62 << (BITS * (LEVELS as u32 - 1));

const _: () = assert!(LEVELS * SLOTS < DUE as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn drain(wheel: &mut Wheel, now: u64) -> Vec<TimerId> {
        let mut ids: Vec<TimerId> = std::iter::from_fn(|| wheel.poll(Tick(now))).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn a_timer_at_the_present_expires_at_once() {
        let mut wheel = Wheel::new(Tick(1000));
        wheel.arm(3, Tick(1000));
        assert_eq!(drain(&mut wheel, 1000), [3]);
        assert!(wheel.is_empty());
    }

    #[test]
    fn an_expired_timer_that_was_not_fetched_can_be_cancelled() {
        let mut wheel = Wheel::new(Tick(0));
        wheel.arm(1, Tick(5));
        wheel.arm(2, Tick(5));
        let first = wheel.poll(Tick(9)).expect("both are due");
        let other = 3 - first;
        assert!(wheel.cancel(other));
        assert!(!wheel.cancel(other));
        assert_eq!(wheel.poll(Tick(9)), None);
    }

    #[test]
    fn every_level_boundary_keeps_its_time_beside_a_far_timer() {
        for start in [0, 63, 64, 4095, (1 << 30) - 1, 1 << 36, (1 << 40) + 12345] {
            for level in 0..LEVELS as u32 {
                for near in [(1u64 << (level * BITS)) - 1, 1 << (level * BITS), (1 << (level * BITS)) + 1] {
                    let mut wheel = Wheel::new(Tick(start));
                    wheel.arm(0, Tick(start + HORIZON_MS));
                    wheel.arm(1, Tick(start + near));
                    if near > 0 {
                        assert_eq!(drain(&mut wheel, start + near - 1), [0u32; 0], "start {start} near {near}");
                    }
                    assert_eq!(drain(&mut wheel, start + near), [1], "start {start} near {near}");
                    assert_eq!(drain(&mut wheel, start + HORIZON_MS), [0]);
                }
            }
        }
    }

    #[test]
    fn beyond_the_horizon_expires_at_the_horizon() {
        let mut wheel = Wheel::new(Tick(7));
        wheel.arm(0, Tick::NEVER);
        assert_eq!(wheel.deadline(0), Some(Tick(7 + HORIZON_MS)));
        assert_eq!(drain(&mut wheel, u64::MAX / 2), [0]);
    }

    #[test]
    fn next_poll_is_never_late() {
        let mut wheel = Wheel::new(Tick(0));
        wheel.arm(0, Tick(100_000));
        let mut now = Tick(0);
        loop {
            let next = wheel.next_poll().expect("one is armed");
            assert!(next > now && next <= Tick(100_000));
            now = next;
            if wheel.poll(now).is_some() {
                break;
            }
        }
        assert_eq!(now, Tick(100_000));
    }

    #[derive(Clone, Debug)]
    enum Mutation {
        Arm(u32, u64),
        Cancel(u32),
        Advance(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Mutation>> {
        let delay = prop_oneof![0..100u64, 0..10_000u64, 0..1u64 << 37];
        let step = prop_oneof![
            4 => (0..20u32, delay.clone()).prop_map(|(id, delay)| Mutation::Arm(id, delay)),
            2 => (0..20u32).prop_map(Mutation::Cancel),
            3 => delay.prop_map(Mutation::Advance),
        ];
        prop::collection::vec(step, 1..200)
    }

    proptest! {
        #[test]
        fn behaves_like_a_sorted_map(start in 0..1u64 << 41, steps in steps()) {
            let mut wheel = Wheel::new(Tick(start));
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            let mut now = start;
            for step in steps {
                match step {
                    Mutation::Arm(id, delay) => {
                        wheel.arm(id, Tick(now + delay));
                        model.insert(id, (now + delay).min(now + HORIZON_MS));
                    }
                    Mutation::Cancel(id) => prop_assert_eq!(wheel.cancel(id), model.remove(&id).is_some()),
                    Mutation::Advance(by) => {
                        now += by;
                        let due: Vec<u32> =
                            model.iter().filter(|(_, when)| **when <= now).map(|(id, _)| *id).collect();
                        due.iter().for_each(|id| { model.remove(id); });
                        prop_assert_eq!(drain(&mut wheel, now), due);
                    }
                }
                prop_assert_eq!(wheel.len(), model.len());
                if let Some(first) = model.values().min() {
                    prop_assert!(wheel.next_poll().expect("something is armed").0 <= *first);
                }
            }
        }
    }
}
