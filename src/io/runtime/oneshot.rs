//! One value that one task of this worker waits for, with a deadline.
//!
//! ```text
//! open(context, deadline) ─► Oneshot: the task awaits it        id ─► whoever will have the value: complete(id, value)
//! ```
//! The value may come before the task begins to wait. A slot per oneshot is kept for reuse, so that opening one does
//! not allocate after warm-up. An id carries its slot's generation: a value that comes after the receiver was dropped
//! finds another generation, and is dropped.
//!
//! A deadline is a backstop against a part that never answers. The worker calls `expire` at least once a second (its
//! timer task never sleeps longer), so a deadline is noticed at most a second late and costs a turn nothing.

use crate::base::id::ShardId;
use crate::base::time::Tick;
use crate::base::wheel::Wheel;
use slab::Slab;
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// The oneshots of one kind: `T` is their value, `C` what is kept for whoever completes them. Clones are handles.
pub struct Oneshots<T, C = ()>(Rc<RefCell<Table<T, C>>>);

/// The receiver. Dropping it frees the slot.
pub struct Oneshot<T, C = ()> {
    table: Oneshots<T, C>,
    id: OneshotId,
}

/// Names a oneshot of this worker: 48 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OneshotId {
    index: u32,
    generation: u32,
}

/// Names a oneshot of any worker of this process: where a reply goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReturnAddress {
    worker: ShardId,
    oneshot: OneshotId,
}

/// No value came before the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no answer in time")]
pub struct Expired;

struct Table<T, C> {
    slots: Slab<Slot<T, C>>,
    /// By the slot's index.
    deadlines: Wheel,
    /// Of the newest oneshot. Counts all of them, so that a slot's users have different generations.
    generation: u32,
}

struct Slot<T, C> {
    generation: u32,
    context: C,
    state: SlotState<T>,
}

enum SlotState<T> {
    Open(Option<Waker>),
    Ended(Result<T, Expired>),
    Taken,
}

impl<T, C> Oneshots<T, C> {
    pub fn new(now: Tick) -> Oneshots<T, C> {
        Oneshots(Rc::new(RefCell::new(Table { slots: Slab::new(), deadlines: Wheel::new(now), generation: 0 })))
    }

    pub fn open(&self, context: C, deadline: Tick) -> Oneshot<T, C> {
        let mut table = self.0.borrow_mut();
        let generation = (table.generation + 1) & OneshotId::MASK;
        table.generation = generation;
        let index = table.slots.insert(Slot { generation, context, state: SlotState::Open(None) });
        assert!(index <= OneshotId::MASK as usize, "the number of oneshots is bounded by those of calls and connects");
        let index = index as u32;
        table.deadlines.arm(index, deadline);
        Oneshot { table: self.clone(), id: OneshotId { index, generation } }
    }

    /// Ends the wait. A value for a oneshot that has ended, or whose receiver is gone, is dropped.
    pub fn complete(&self, id: OneshotId, value: T) {
        self.fold(id, |_| Some(value));
    }

    /// Lets `step` work on the context of an open oneshot; what `step` returns is the oneshot's value and ends the
    /// wait.
    pub fn fold(&self, id: OneshotId, step: impl FnOnce(&mut C) -> Option<T>) {
        let mut table = self.0.borrow_mut();
        let Table { slots, deadlines, .. } = &mut *table;
        let slot = slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation);
        let Some(Slot { context, state: state @ SlotState::Open(_), .. }) = slot else { return };
        let Some(value) = step(context) else { return };
        deadlines.cancel(id.index);
        let before = std::mem::replace(state, SlotState::Ended(Ok(value)));
        drop(table);
        wake(before);
    }

    /// The same value for all that are open.
    pub fn complete_all(&self, value: T)
    where
        T: Clone,
    {
        let open: Vec<OneshotId> = {
            let table = self.0.borrow();
            let id =
                |(index, slot): (usize, &Slot<T, C>)| OneshotId { index: index as u32, generation: slot.generation };
            table.slots.iter().map(id).collect()
        };
        open.into_iter().for_each(|id| self.complete(id, value.clone()));
    }

    /// Ends those whose deadline has passed.
    pub fn expire(&self, now: Tick) {
        while let Some(before) = self.expire_one(now) {
            wake(before);
        }
    }

    fn expire_one(&self, now: Tick) -> Option<SlotState<T>> {
        let mut table = self.0.borrow_mut();
        let index = table.deadlines.poll(now)?;
        let slot = table.slots.get_mut(index as usize).expect("a slot that is freed has no deadline");
        Some(std::mem::replace(&mut slot.state, SlotState::Ended(Err(Expired))))
    }

    /// When `expire` may have something to do.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.0.borrow().deadlines.next_poll()
    }

    /// Receivers that have not been dropped.
    pub fn len(&self) -> usize {
        self.0.borrow().slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.borrow().slots.is_empty()
    }
}

impl<T, C> Clone for Oneshots<T, C> {
    fn clone(&self) -> Oneshots<T, C> {
        Oneshots(self.0.clone())
    }
}

fn wake<T>(state: SlotState<T>) {
    if let SlotState::Open(Some(waker)) = state {
        waker.wake();
    }
}

impl<T, C> Oneshot<T, C> {
    pub fn id(&self) -> OneshotId {
        self.id
    }

    /// What was kept for whoever completes it; also after the deadline.
    pub fn with_context<R>(&self, look: impl FnOnce(&mut C) -> R) -> R {
        look(&mut self.table.0.borrow_mut().slots[self.id.index as usize].context)
    }

    /// As `Oneshots::fold`.
    pub fn fold(&self, step: impl FnOnce(&mut C) -> Option<T>) {
        self.table.fold(self.id, step);
    }
}

impl<T, C> Future for Oneshot<T, C> {
    type Output = Result<T, Expired>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut table = self.table.0.borrow_mut();
        let state = &mut table.slots[self.id.index as usize].state;
        if let SlotState::Open(waker) = state {
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                *waker = Some(context.waker().clone());
            }
            return Poll::Pending;
        }
        match std::mem::replace(state, SlotState::Taken) {
            SlotState::Ended(outcome) => Poll::Ready(outcome),
            SlotState::Open(_) | SlotState::Taken => panic!("a oneshot is polled again after it was ready"),
        }
    }
}

impl<T, C> Drop for Oneshot<T, C> {
    fn drop(&mut self) {
        let mut table = self.table.0.borrow_mut();
        table.deadlines.cancel(self.id.index);
        let freed = table.slots.remove(self.id.index as usize);
        // A value that nobody took may have a destructor of its own.
        drop(table);
        drop(freed);
    }
}

impl OneshotId {
    const BITS: u32 = 24;
    const MASK: u32 = (1 << OneshotId::BITS) - 1;
    /// Bits of a packed id.
    pub const PACKED_BITS: u32 = 2 * OneshotId::BITS;

    pub fn pack(self) -> u64 {
        u64::from(self.index) << OneshotId::BITS | u64::from(self.generation)
    }

    /// Bits above `PACKED_BITS` are ignored.
    pub fn unpack(packed: u64) -> OneshotId {
        let mask = u64::from(OneshotId::MASK);
        OneshotId { index: (packed >> OneshotId::BITS & mask) as u32, generation: (packed & mask) as u32 }
    }
}

impl ReturnAddress {
    pub fn new(worker: ShardId, oneshot: OneshotId) -> ReturnAddress {
        ReturnAddress { worker, oneshot }
    }

    pub fn worker(self) -> ShardId {
        self.worker
    }

    pub fn oneshot(self) -> OneshotId {
        self.oneshot
    }

    /// The worker above, the oneshot below.
    pub fn pack(self) -> u64 {
        u64::from(self.worker.0) << OneshotId::PACKED_BITS | self.oneshot.pack()
    }

    pub fn unpack(packed: u64) -> ReturnAddress {
        let worker = ShardId((packed >> OneshotId::PACKED_BITS) as u16);
        ReturnAddress { worker, oneshot: OneshotId::unpack(packed) }
    }
}

const _: () = assert!(OneshotId::PACKED_BITS + u16::BITS == u64::BITS);

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;

    const NOW: Tick = Tick(1_000);
    const LATER: Tick = Tick(61_000);

    fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_value_arrives_before_or_after_the_wait_begins() {
        let oneshots = Oneshots::<&str>::new(NOW);
        let early = oneshots.open((), LATER);
        oneshots.complete(early.id(), "early");
        assert_eq!(poll(pin!(early)), Poll::Ready(Ok("early")));
        let mut late = pin!(oneshots.open((), LATER));
        assert!(poll(late.as_mut()).is_pending());
        oneshots.complete(late.id(), "late");
        oneshots.complete(late.id(), "later still");
        assert_eq!(poll(late), Poll::Ready(Ok("late")));
    }

    #[test]
    fn a_late_value_does_not_reach_the_slots_next_user() {
        let oneshots = Oneshots::<&str>::new(NOW);
        let old = oneshots.open((), LATER).id();
        assert!(oneshots.is_empty(), "dropping the receiver frees the slot");
        oneshots.complete(old, "for nobody");
        let mut new = pin!(oneshots.open((), LATER));
        assert_eq!((old.index, oneshots.len()), (new.id().index, 1), "the slot is used again");
        oneshots.complete(old, "for nobody");
        assert!(poll(new.as_mut()).is_pending());
        oneshots.complete(new.id(), "for the new one");
        assert_eq!(poll(new), Poll::Ready(Ok("for the new one")));
    }

    #[test]
    fn a_deadline_ends_the_wait_and_a_later_value_is_dropped() {
        let oneshots = Oneshots::<&str>::new(NOW);
        let (mut first, mut second) = (pin!(oneshots.open((), LATER)), pin!(oneshots.open((), LATER + 1)));
        assert!(poll(first.as_mut()).is_pending());
        oneshots.expire(Tick(LATER.0 - 1));
        assert!(poll(first.as_mut()).is_pending(), "not yet");
        oneshots.expire(LATER);
        oneshots.complete(first.id(), "too late");
        assert_eq!(poll(first), Poll::Ready(Err(Expired)));
        assert!(poll(second.as_mut()).is_pending(), "its deadline is another");
        oneshots.complete(second.id(), "in time");
        oneshots.expire(LATER + 1);
        assert_eq!(poll(second), Poll::Ready(Ok("in time")));
    }

    #[test]
    fn a_slot_that_is_used_again_has_its_own_deadline() {
        let oneshots = Oneshots::<&str>::new(NOW);
        drop(oneshots.open((), LATER));
        let mut new = pin!(oneshots.open((), LATER + 60_000));
        oneshots.expire(LATER + 1);
        assert!(poll(new.as_mut()).is_pending());
    }

    #[test]
    fn slots_are_reused() {
        let oneshots = Oneshots::<u32>::new(NOW);
        let rounds = |count: u32| {
            for n in 0..count {
                let [one, other] = [n, n + 1].map(|value| (oneshots.open((), LATER), value));
                for (oneshot, value) in [other, one] {
                    oneshots.complete(oneshot.id(), value);
                    assert_eq!(poll(pin!(oneshot)), Poll::Ready(Ok(value)));
                }
            }
            oneshots.0.borrow().slots.capacity()
        };
        let warm = rounds(1);
        assert_eq!(rounds(1_000), warm, "a warm table does not grow");
    }

    #[test]
    fn a_context_is_folded_until_it_yields_the_value() {
        let oneshots = Oneshots::<u32, u32>::new(NOW);
        let mut sum = pin!(oneshots.open(0, LATER));
        let add = |n| {
            oneshots.fold(sum.id(), |total| {
                *total += n;
                (*total >= 5).then_some(*total)
            });
        };
        add(2);
        add(3);
        add(4);
        assert_eq!(poll(sum.as_mut()), Poll::Ready(Ok(5)), "a sum that has ended is not added to");
    }

    #[test]
    fn ids_and_addresses_are_packed_and_unpacked() {
        for (index, generation) in [(0, 0), (1, 2), (OneshotId::MASK, OneshotId::MASK)] {
            let oneshot = OneshotId { index, generation };
            assert_eq!(OneshotId::unpack(oneshot.pack()), oneshot);
            for worker in [ShardId(0), ShardId(7), ShardId(u16::MAX)] {
                let address = ReturnAddress { worker, oneshot };
                assert_eq!(ReturnAddress::unpack(address.pack()), address);
            }
        }
    }
}
