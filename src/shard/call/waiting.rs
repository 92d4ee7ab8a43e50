//! Calls that wait for clients' answers: this shard's share of each /send/. A call ends when every member has answered
//! or can no longer answer, or at its deadline; then one reply goes back to the sender of the query.

use super::query::{DurableTally, NotStored};
use crate::base::time::Tick;
use crate::base::wheel::Wheel;
use crate::shard::ids::QueryId;
use slab::Slab;

/// A member's reference to the call that waits for its answer. Stale once the call has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallRef {
    index: u32,
    generation: u32,
}

pub struct Calls {
    calls: Slab<Call>,
    deadlines: Wheel,
    generation: u32,
}

struct Call {
    query_id: QueryId,
    generation: u32,
    /// Members that may still answer.
    waiting: u32,
    answered: u32,
    durable: DurableTally,
    data: Vec<u8>,
}

/// A call that has ended.
#[derive(Debug, PartialEq, Eq)]
pub struct CallEnd {
    pub query_id: QueryId,
    pub answered: u32,
    pub durable: DurableTally,
    /// The first answer's body that was not empty.
    pub data: Vec<u8>,
}

impl Calls {
    pub fn new(now: Tick) -> Calls {
        Calls { calls: Slab::new(), deadlines: Wheel::new(now), generation: 0 }
    }

    pub fn len(&self) -> usize {
        self.calls.len()
    }

    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// `members` must not be 0: a call that nobody can answer is not opened.
    pub fn open(&mut self, query_id: QueryId, members: u32, deadline: Tick) -> CallRef {
        debug_assert!(members > 0, "somebody can answer");
        self.generation = self.generation.wrapping_add(1);
        let call = Call {
            query_id,
            generation: self.generation,
            waiting: members,
            answered: 0,
            durable: DurableTally::default(),
            data: Vec::new(),
        };
        let index = self.calls.insert(call) as u32;
        self.deadlines.arm(index, deadline);
        CallRef { index, generation: self.generation }
    }

    /// A member has answered.
    pub fn answered(&mut self, call: CallRef, body: &[u8]) -> Option<CallEnd> {
        let open = self.get(call)?;
        open.answered += 1;
        if open.data.is_empty() {
            open.data.extend_from_slice(body);
        }
        self.one_less(call)
    }

    /// It is safely stored for a member that has not answered.
    pub fn stored(&mut self, call: CallRef) -> Option<CallEnd> {
        self.get(call)?.durable.stored += 1;
        self.one_less(call)
    }

    /// It is not stored for a member that cannot answer.
    pub fn refused(&mut self, call: CallRef, why: NotStored) -> Option<CallEnd> {
        let durable = &mut self.get(call)?.durable;
        durable.refused += 1;
        durable.why.get_or_insert(why);
        self.one_less(call)
    }

    /// A member can no longer answer.
    pub fn gone(&mut self, call: CallRef) -> Option<CallEnd> {
        self.get(call)?;
        self.one_less(call)
    }

    pub fn poll_expired(&mut self, now: Tick) -> Option<CallEnd> {
        let index = self.deadlines.poll(now)?;
        Some(self.end(index))
    }

    pub fn next_poll(&self) -> Option<Tick> {
        self.deadlines.next_poll()
    }

    /// Every call waits for exactly those who hold it.
    #[cfg(debug_assertions)]
    pub fn check(&self, holds: &[CallRef]) {
        for (index, call) in &self.calls {
            let unmatched_recs =
                holds.iter().filter(|h| h.index as usize == index && h.generation == call.generation).count();
            assert_eq!(call.waiting as usize, unmatched_recs, "a call waits for those who hold it");
            assert!(call.waiting > 0 && self.deadlines.deadline(index as u32).is_some());
        }
        assert_eq!(self.calls.len(), self.deadlines.len());
    }

    fn one_less(&mut self, call: CallRef) -> Option<CallEnd> {
        let open = self.get(call)?;
        open.waiting -= 1;
        (open.waiting == 0).then(|| self.end(call.index))
    }

    fn get(&mut self, call: CallRef) -> Option<&mut Call> {
        self.calls.get_mut(call.index as usize).filter(|open| open.generation == call.generation)
    }

    fn end(&mut self, index: u32) -> CallEnd {
        self.deadlines.cancel(index);
        let Call { query_id, answered, durable, data, .. } = self.calls.remove(index as usize);
        CallEnd { query_id, answered, durable, data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_ends_with_its_last_member() {
        let mut calls = Calls::new(Tick(0));
        let call = calls.open(QueryId(9), 3, Tick(100));
        assert_eq!(calls.answered(call, b""), None);
        assert_eq!(calls.gone(call), None);
        let ended = calls.answered(call, b"late but first").expect("all are accounted for");
        assert_eq!(
            ended,
            CallEnd {
                query_id: QueryId(9),
                answered: 2,
                durable: DurableTally::default(),
                data: b"late but first".to_vec()
            }
        );
        assert_eq!(calls.poll_expired(Tick(100)), None);
    }

    #[test]
    fn an_answer_after_the_end_is_stale_even_when_the_slot_is_used_again() {
        let mut calls = Calls::new(Tick(0));
        let old = calls.open(QueryId(1), 2, Tick(10));
        assert_eq!(calls.poll_expired(Tick(10)).map(|ended| (ended.query_id, ended.answered)), Some((QueryId(1), 0)));
        let new = calls.open(QueryId(2), 1, Tick(20));
        assert_eq!(calls.answered(old, b"x"), None);
        assert_eq!(calls.answered(new, b"y").map(|ended| ended.answered), Some(1));
    }
}
