//! Calls that wait for clients' answers: this shard's share of each /send/. A call ends when every member has answered
//! or can no longer answer, or at its deadline; then one reply goes back to the sender of the query.

use super::query::{NotSent, NotStored, Tally};
use crate::base::pool::Pool;
use crate::base::time::Tick;
use crate::base::wheel::Wheel;
use crate::shard::ids::QueryId;

/// A member's reference to the call that waits for its answer. Stale once the call has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallRef {
    /// Of the call; the highest bit marks a durable session's reference.
    index: u32,
    generation: u32,
}

const OF_SESSION: u32 = 1 << 31;

impl CallRef {
    /// The reference of a member that is a durable session: its outcome is not lost with its connection.
    pub fn of_session(self) -> CallRef {
        CallRef { index: self.index | OF_SESSION, ..self }
    }

    fn is_of_session(self) -> bool {
        self.index & OF_SESSION != 0
    }

    fn slot(self) -> usize {
        (self.index & !OF_SESSION) as usize
    }
}

pub struct Calls {
    calls: Pool<Call>,
    deadlines: Wheel,
    generation: u32,
}

struct Call {
    query_id: QueryId,
    generation: u32,
    /// Members that may still answer, and those among them that are durable sessions.
    waiting: u32,
    sessions: u32,
    tally: Tally,
    data: Vec<u8>,
}

/// A call that has ended.
#[derive(Debug, PartialEq, Eq)]
pub struct CallEnd {
    pub query_id: QueryId,
    pub tally: Tally,
    /// The first answer's body that was not empty.
    pub data: Vec<u8>,
}

impl Calls {
    pub fn new(now: Tick) -> Calls {
        Calls { calls: Pool::default(), deadlines: Wheel::new(now), generation: 0 }
    }

    pub fn len(&self) -> usize {
        self.calls.len()
    }

    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// `members` must not be 0: a call that nobody can answer is not opened. `sessions` of them are durable sessions,
    /// which hold it by `CallRef::of_session`.
    pub fn open(&mut self, query_id: QueryId, members: u32, sessions: u32, deadline: Tick) -> CallRef {
        debug_assert!(members > 0 && sessions <= members, "somebody can answer");
        self.generation = self.generation.wrapping_add(1);
        let call = Call {
            query_id,
            generation: self.generation,
            waiting: members,
            sessions,
            tally: Tally { targets: members, ..Tally::default() },
            data: Vec::new(),
        };
        let index = self.calls.insert(call) as u32;
        self.deadlines.arm(index, deadline);
        CallRef { index, generation: self.generation }
    }

    /// A member has answered.
    pub fn answered(&mut self, call: CallRef, body: &[u8]) -> Option<CallEnd> {
        self.one_less(call, |open| {
            open.tally.connections += 1;
            if open.data.is_empty() {
                open.data.extend_from_slice(body);
            }
        })
    }

    /// It is safely stored for a member that has not answered.
    pub fn stored(&mut self, call: CallRef) -> Option<CallEnd> {
        self.one_less(call, |open| open.tally.stored += 1)
    }

    /// It is not stored for a member that cannot answer.
    pub fn refused(&mut self, call: CallRef, why: NotStored) -> Option<CallEnd> {
        self.one_less(call, |open| open.tally.refuse(1, NotSent::NotStored(why)))
    }

    /// A member can no longer answer. A durable session may have the message or not: that was not known in time.
    pub fn gone(&mut self, call: CallRef) -> Option<CallEnd> {
        let undecided = u32::from(call.is_of_session());
        self.one_less(call, |open| open.tally.leave_undecided(undecided, NotSent::TimeOver))
    }

    /// A member has left before the message came to it: the message is not for it any more.
    pub fn left(&mut self, call: CallRef) -> Option<CallEnd> {
        self.one_less(call, |open| open.tally.targets -= 1)
    }

    /// Its time is over.
    pub fn over(&mut self, call: CallRef) -> Option<CallEnd> {
        self.get(call)?;
        Some(self.end(call.slot() as u32))
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
        for (index, call) in self.calls.iter() {
            let references = || holds.iter().filter(|h| h.slot() == index && h.generation == call.generation);
            assert_eq!(call.waiting as usize, references().count(), "a call waits for those who hold it");
            assert_eq!(
                call.sessions as usize,
                references().filter(|h| h.is_of_session()).count(),
                "and knows the sessions"
            );
            assert!(call.waiting > 0 && self.deadlines.deadline(index as u32).is_some());
        }
        assert_eq!(self.calls.len(), self.deadlines.len());
    }

    /// `count` enters what became of the member. The last one ends the call.
    fn one_less(&mut self, call: CallRef, count: impl FnOnce(&mut Call)) -> Option<CallEnd> {
        let open = self.get(call)?;
        count(open);
        open.waiting -= 1;
        open.sessions -= u32::from(call.is_of_session());
        (open.waiting == 0).then(|| self.end(call.slot() as u32))
    }

    fn get(&mut self, call: CallRef) -> Option<&mut Call> {
        self.calls.get_mut(call.slot()).filter(|open| open.generation == call.generation)
    }

    fn end(&mut self, index: u32) -> CallEnd {
        self.deadlines.cancel(index);
        let Call { query_id, mut tally, sessions, data, .. } = self.calls.remove(index as usize);
        // Those of whom nothing was heard: a connection may not have it, as in 2014; of a session it would be promised.
        tally.leave_undecided(sessions, NotSent::TimeOver);
        CallEnd { query_id, tally, data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_ends_with_its_last_member() {
        let mut calls = Calls::new(Tick(0));
        let call = calls.open(QueryId(9), 3, 0, Tick(100));
        assert_eq!(calls.answered(call, b""), None);
        assert_eq!(calls.gone(call), None);
        let ended = calls.answered(call, b"late but first").expect("all are accounted for");
        assert_eq!(
            ended,
            CallEnd {
                query_id: QueryId(9),
                tally: Tally { targets: 3, connections: 2, ..Tally::default() },
                data: b"late but first".to_vec()
            }
        );
        assert_eq!(calls.poll_expired(Tick(100)), None);
    }

    #[test]
    fn an_answer_after_the_end_is_stale_even_when_the_slot_is_used_again() {
        let mut calls = Calls::new(Tick(0));
        let old = calls.open(QueryId(1), 2, 0, Tick(10));
        let ended = calls.poll_expired(Tick(10)).expect("its time is over");
        assert_eq!((ended.query_id, ended.tally.connections), (QueryId(1), 0));
        let new = calls.open(QueryId(2), 1, 0, Tick(20));
        assert_eq!(calls.answered(old, b"x"), None);
        assert_eq!(calls.answered(new, b"y").map(|ended| ended.tally.connections), Some(1));
    }

    #[test]
    fn what_is_not_known_of_a_session_in_time_is_undecided() {
        let mut calls = Calls::new(Tick(0));
        let call = calls.open(QueryId(1), 6, 4, Tick(10));
        let of_session = call.of_session();
        let ends = [
            calls.answered(of_session, b""),
            calls.stored(of_session),
            calls.refused(of_session, NotStored::TooMany),
            calls.gone(call),
        ];
        assert!(ends.iter().all(Option::is_none), "a session and a connection are missing");
        let why = Some(NotSent::NotStored(NotStored::TooMany));
        let tally = Tally { targets: 6, connections: 1, stored: 1, refused: 1, undecided: 1, unreachable: 0, why };
        assert_eq!(calls.poll_expired(Tick(10)).map(|ended| ended.tally), Some(tally));
        assert_eq!(calls.stored(of_session), None, "too late");
        assert!(!tally.is_success());
    }
}
