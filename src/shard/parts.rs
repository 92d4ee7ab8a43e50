//! Calls waiting for clients' answers: this shard's part of each /send/. A part ends when every member has answered or
//! can no longer answer, or when its time is over; then one reply goes back to whoever asked.

use super::query::{DurableTally, NotStored};
use super::wheel::Wheel;
use crate::base::time::Tick;
use slab::Slab;

/// Names a question to the shard; made by who asks, given back with the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueryId(pub u64);

/// A member's hold on a part. Stale once the part has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartRef {
    index: u32,
    generation: u32,
}

pub struct Parts {
    parts: Slab<Part>,
    deadlines: Wheel,
    generation: u32,
}

struct Part {
    ticket: QueryId,
    generation: u32,
    /// Members that may still answer.
    waiting: u32,
    answered: u32,
    kept: DurableTally,
    data: Vec<u8>,
}

/// A part that has ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    pub ticket: QueryId,
    pub answered: u32,
    pub kept: DurableTally,
    /// The first answer's body that was not empty.
    pub data: Vec<u8>,
}

impl Parts {
    pub fn new(now: Tick) -> Parts {
        Parts { parts: Slab::new(), deadlines: Wheel::new(now), generation: 0 }
    }

    pub fn len(&self) -> usize {
        self.parts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// `members` must not be 0: a part that nobody can answer is not opened.
    pub fn open(&mut self, ticket: QueryId, members: u32, deadline: Tick) -> PartRef {
        debug_assert!(members > 0, "somebody can answer");
        self.generation = self.generation.wrapping_add(1);
        let part = Part {
            ticket,
            generation: self.generation,
            waiting: members,
            answered: 0,
            kept: DurableTally::default(),
            data: Vec::new(),
        };
        let index = self.parts.insert(part) as u32;
        self.deadlines.arm(index, deadline);
        PartRef { index, generation: self.generation }
    }

    /// A member has answered.
    pub fn answered(&mut self, part: PartRef, body: &[u8]) -> Option<Ended> {
        let open = self.get(part)?;
        open.answered += 1;
        if open.data.is_empty() {
            open.data.extend_from_slice(body);
        }
        self.one_less(part)
    }

    /// It is safely stored for a member that has not answered.
    pub fn stored(&mut self, part: PartRef) -> Option<Ended> {
        self.get(part)?.kept.stored += 1;
        self.one_less(part)
    }

    /// It is not stored for a member that cannot answer.
    pub fn refused(&mut self, part: PartRef, why: NotStored) -> Option<Ended> {
        let kept = &mut self.get(part)?.kept;
        kept.refused += 1;
        kept.why.get_or_insert(why);
        self.one_less(part)
    }

    /// A member can no longer answer.
    pub fn gone(&mut self, part: PartRef) -> Option<Ended> {
        self.get(part)?;
        self.one_less(part)
    }

    pub fn poll_expired(&mut self, now: Tick) -> Option<Ended> {
        let index = self.deadlines.poll(now)?;
        Some(self.end(index))
    }

    pub fn next_poll(&self) -> Option<Tick> {
        self.deadlines.next_poll()
    }

    /// Every part waits for exactly those who hold it.
    #[cfg(debug_assertions)]
    pub fn check(&self, holds: &[PartRef]) {
        for (index, part) in &self.parts {
            let held = holds.iter().filter(|h| h.index as usize == index && h.generation == part.generation).count();
            assert_eq!(part.waiting as usize, held, "a part waits for those who hold it");
            assert!(part.waiting > 0 && self.deadlines.deadline(index as u32).is_some());
        }
        assert_eq!(self.parts.len(), self.deadlines.len());
    }

    fn one_less(&mut self, part: PartRef) -> Option<Ended> {
        let open = self.get(part)?;
        open.waiting -= 1;
        (open.waiting == 0).then(|| self.end(part.index))
    }

    fn get(&mut self, part: PartRef) -> Option<&mut Part> {
        self.parts.get_mut(part.index as usize).filter(|open| open.generation == part.generation)
    }

    fn end(&mut self, index: u32) -> Ended {
        self.deadlines.cancel(index);
        let Part { ticket, answered, kept, data, .. } = self.parts.remove(index as usize);
        Ended { ticket, answered, kept, data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_ends_with_its_last_member() {
        let mut parts = Parts::new(Tick(0));
        let part = parts.open(QueryId(9), 3, Tick(100));
        assert_eq!(parts.answered(part, b""), None);
        assert_eq!(parts.gone(part), None);
        let ended = parts.answered(part, b"late but first").expect("all are accounted for");
        assert_eq!(
            ended,
            Ended { ticket: QueryId(9), answered: 2, kept: DurableTally::default(), data: b"late but first".to_vec() }
        );
        assert_eq!(parts.poll_expired(Tick(100)), None);
    }

    #[test]
    fn an_answer_after_the_end_is_stale_even_when_the_slot_is_used_again() {
        let mut parts = Parts::new(Tick(0));
        let old = parts.open(QueryId(1), 2, Tick(10));
        assert_eq!(parts.poll_expired(Tick(10)).map(|ended| (ended.ticket, ended.answered)), Some((QueryId(1), 0)));
        let new = parts.open(QueryId(2), 1, Tick(20));
        assert_eq!(parts.answered(old, b"x"), None);
        assert_eq!(parts.answered(new, b"y").map(|ended| ended.answered), Some(1));
    }
}
