//! Lists of a shard's durable sessions: found by a walk over all of them, a slice at a time, so that a list of millions
//! holds nobody up. Queries that come while a walk is on its way wait for the next one; a walk serves a few of them.

use super::SessionTable;
use crate::shard::call::sessions::{SessionRank, SessionSummary, WantedSessions};
use crate::shard::ids::{QueryId, SessionIndex};
use crate::shard::session::state::Session;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

#[derive(Default)]
pub struct Listing {
    waiting: Vec<(QueryId, Arc<WantedSessions>)>,
    walk: Option<Walk>,
}

struct Walk {
    /// The first slot that has not been looked at.
    next: usize,
    lists: Vec<List>,
}

/// What one query has found so far.
struct List {
    query_id: QueryId,
    wanted: Arc<WantedSessions>,
    total: usize,
    first: BTreeMap<SessionRank, SessionSummary>,
}

/// A finished list: how many sessions are meant, and the first of them.
pub struct ListReply {
    pub query_id: QueryId,
    pub total: usize,
    pub sessions: Vec<SessionSummary>,
}

impl Listing {
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.walk.is_none()
    }

    /// False when too many queries wait.
    pub fn query(&mut self, query_id: QueryId, wanted: Arc<WantedSessions>) -> bool {
        let has_room = self.waiting.len() < WAITING_MAX;
        if has_room {
            self.waiting.push((query_id, wanted));
        }
        has_room
    }

    /// One slice of so many slots; at the end of a walk the lists that it has made. `summarise` says how a session
    /// stands.
    pub fn poll(
        &mut self,
        table: &SessionTable,
        slots: usize,
        summarise: impl Fn(SessionIndex, &Session) -> SessionSummary,
    ) -> Vec<ListReply> {
        if self.is_idle() {
            return Vec::new();
        }
        let waiting = &mut self.waiting;
        let walk = self.walk.get_or_insert_with(|| Walk::new(waiting));
        // A slice takes as long however many lists it makes.
        let slots = (slots / walk.lists.len()).max(1);
        walk.look_at(table, walk.next..walk.next + slots, summarise);
        if walk.next < table.slots() {
            return Vec::new();
        }
        let lists = self.walk.take().map(|walk| walk.lists).unwrap_or_default();
        lists.into_iter().map(List::end).collect()
    }
}

impl Walk {
    fn new(waiting: &mut Vec<(QueryId, Arc<WantedSessions>)>) -> Walk {
        let served = waiting.drain(..waiting.len().min(LISTS_MAX));
        let list = |(query_id, wanted)| List { query_id, wanted, total: 0, first: BTreeMap::new() };
        Walk { next: 0, lists: served.map(list).collect() }
    }

    fn look_at(
        &mut self,
        table: &SessionTable,
        slots: Range<usize>,
        summarise: impl Fn(SessionIndex, &Session) -> SessionSummary,
    ) {
        self.next = slots.end;
        // One that goes to another node is listed there.
        for (index, session) in table.in_slots(slots).filter(|(_, session)| !session.passing) {
            self.lists.iter_mut().for_each(|list| list.look_at(index, session, &summarise));
        }
    }
}

impl List {
    fn look_at(
        &mut self,
        index: SessionIndex,
        session: &Session,
        summarise: impl Fn(SessionIndex, &Session) -> SessionSummary,
    ) {
        if !self.wanted.means(&session.name, session.conn.is_some(), session.waiting) {
            return;
        }
        self.total += 1;
        let rank = self.wanted.rank(&session.name, session.oldest_stored.map(|at| at.0));
        let is_full = self.first.len() >= self.wanted.most;
        if is_full && self.first.last_key_value().is_none_or(|(last, _)| *last < rank) {
            return;
        }
        self.first.insert(rank, summarise(index, session));
        if is_full {
            self.first.pop_last();
        }
    }

    fn end(self) -> ListReply {
        let List { query_id, total, first, .. } = self;
        ListReply { query_id, total, sessions: first.into_values().collect() }
    }
}

/// Of one walk: what it costs in memory.
const LISTS_MAX: usize = 8;
/// More queries are refused.
const WAITING_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::ConnIndex;
    use crate::base::keyed_hash::HashKey;
    use crate::base::time::Tick;
    use crate::shard::call::sessions::{SessionOrder, SessionState};
    use crate::shard::command::{SessionId, UnixMs};
    use proptest::prelude::*;

    fn summary(_: SessionIndex, session: &Session) -> SessionSummary {
        SessionSummary {
            name: session.name.clone(),
            identity: None,
            user: None,
            waiting: session.waiting,
            waiting_bytes: session.waiting_bytes,
            oldest_ms: session.oldest_stored.map(|at| 2_000 - at.0),
            left_ms: None,
        }
    }

    /// (online, waiting) of each, by name; some slots are free.
    fn table(sessions: &[(bool, u32)]) -> SessionTable {
        let mut table = SessionTable::new(HashKey::new(1, 2), Tick(0));
        let mut free = Vec::new();
        for (n, &(is_online, waiting)) in sessions.iter().enumerate() {
            let index = table.insert(SessionId(n as u128), format!("user {n:03}").into());
            let session = table.at_mut(index);
            session.conn = is_online.then_some(ConnIndex(n as u32));
            session.waiting = waiting;
            session.oldest_stored = (waiting > 0).then_some(UnixMs(1_000 - n as u64 % 37));
            free.push(table.insert(SessionId(1_000 + n as u128), format!("gone {n}").into()));
        }
        free.into_iter().for_each(|index| drop(table.remove(index)));
        table
    }

    fn list(table: &SessionTable, wanted: &WantedSessions, slots: usize) -> (usize, Vec<SessionSummary>) {
        let mut listing = Listing::default();
        assert!(listing.query(QueryId(1), Arc::new(wanted.clone())));
        for _ in 0..=table.slots() {
            if let Some(found) = listing.poll(table, slots, summary).pop() {
                assert!(listing.is_idle());
                return (found.total, found.sessions);
            }
        }
        panic!("the walk does not end");
    }

    proptest! {
        #[test]
        fn a_walk_in_slices_finds_what_sorting_all_finds(
            sessions in prop::collection::vec((any::<bool>(), 0..3_u32), 0..200),
            (state, order) in (0..4_usize, 0..2_usize),
            (slots, most) in (1..300_usize, 0..60_usize),
            find in "(|1|r 0)",
        ) {
            let table = table(&sessions);
            let (state, order) = (SessionState::ALL[state], SessionOrder::ALL[order]);
            let wanted = WantedSessions { state, order, find: find.into(), most };
            let mut all: Vec<SessionSummary> = table
                .iter()
                .filter(|(_, session)| wanted.means(&session.name, session.conn.is_some(), session.waiting))
                .map(|(index, session)| summary(index, session))
                .collect();
            let total = all.len();
            wanted.merge(&mut all);
            prop_assert_eq!(list(&table, &wanted, slots), (total, all));
        }
    }

    #[test]
    fn the_oldest_come_first_and_those_without_messages_last() {
        let table = table(&[(false, 0), (true, 1), (false, 2), (false, 0)]);
        let wanted = WantedSessions { state: SessionState::Any, order: SessionOrder::Oldest, find: "".into(), most: 9 };
        let names: Vec<_> = list(&table, &wanted, 7).1.into_iter().map(|session| session.name.to_string()).collect();
        assert_eq!(names, ["user 002", "user 001", "user 000", "user 003"]);
        let away = WantedSessions { state: SessionState::Away, ..wanted };
        assert_eq!(list(&table, &away, 1_000).0, 3);
    }

    #[test]
    fn more_queries_than_a_walk_serves_wait_and_more_than_may_wait_are_refused() {
        let table = table(&[(true, 0); 5]);
        let wanted =
            Arc::new(WantedSessions { state: SessionState::Any, order: SessionOrder::Name, find: "".into(), most: 1 });
        let mut listing = Listing::default();
        let taken = (0..WAITING_MAX as u64 + 3).filter(|&n| listing.query(QueryId(n), wanted.clone())).count();
        assert_eq!(taken, WAITING_MAX);
        let mut ends = Vec::new();
        while !listing.is_idle() {
            let found = listing.poll(&table, 1_000_000, summary);
            assert!(found.len() <= LISTS_MAX);
            ends.extend(found.into_iter().map(|found| found.query_id.0));
        }
        assert_eq!(ends, (0..WAITING_MAX as u64).collect::<Vec<_>>());
    }
}
