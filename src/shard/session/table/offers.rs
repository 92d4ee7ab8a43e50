//! A walk over the sessions of a shard that ends, for the other nodes to take them: each that has no client is offered
//! once. It goes on from where it stopped, a slice at a time, and round again: clients leave meanwhile, and their
//! sessions are then to be offered too. What was offered is noted in the session.

use super::SessionTable;
use crate::shard::session::state::Offer;
use std::sync::Arc;

/// Changes with each connection that has come or gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    pub came_and_went: u64,
    pub connections: usize,
}

/// Where the walk stands.
#[derive(Debug, Default)]
pub struct OfferWalk {
    next: usize,
    /// When this round began.
    began: Option<Moment>,
    /// This round has found a session that is to be offered, or whose offer is open.
    has_found: bool,
    /// When a round began that found none.
    nothing_left: Option<Moment>,
}

impl OfferWalk {
    /// Names of sessions to be offered now, at most `most` of them.
    pub fn slice(&mut self, table: &mut SessionTable, most: usize, now: Moment) -> Vec<Arc<str>> {
        let began = *self.began.get_or_insert(now);
        let mut names = Vec::new();
        let until = self.next.saturating_add(SLOTS_PER_SLICE).min(table.slots());
        while self.next < until && names.len() < most {
            let session = table.in_slot_mut(self.next);
            self.next += 1;
            let Some(session) = session.filter(|session| session.is_absent() && session.offer != Offer::Declined)
            else {
                continue;
            };
            self.has_found = true;
            if session.offer == Offer::Due {
                session.offer = Offer::Open;
                names.push(session.name.clone());
            }
        }
        if self.next >= table.slots() {
            let has_found = std::mem::take(&mut self.has_found);
            (self.next, self.began, self.nothing_left) = (0, None, Some(began).filter(|_| !has_found));
        }
        names
    }

    /// Every session without a client has been offered and declined, or is another node's.
    pub fn is_over(&self, now: Moment) -> bool {
        self.nothing_left == Some(now)
    }
}

/// Some tenths of a millisecond.
const SLOTS_PER_SLICE: usize = 8_192;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::ConnIndex;
    use crate::base::keyed_hash::HashKey;
    use crate::base::time::Tick;
    use crate::shard::command::SessionId;

    const NOW: Moment = Moment { came_and_went: 7, connections: 0 };

    fn table(sessions: usize) -> SessionTable {
        let mut table = SessionTable::new(HashKey::new(1, 2), Tick(0));
        for n in 0..sessions {
            table.insert(SessionId(n as u128), format!("user {n}").into());
        }
        table
    }

    fn mark_all(table: &mut SessionTable, offer: Offer) {
        for slot in 0..table.slots() {
            table.in_slot_mut(slot).into_iter().for_each(|session| session.offer = offer);
        }
    }

    fn decline(table: &mut SessionTable, names: &[Arc<str>]) {
        names.iter().for_each(|name| table.decline_offer(name));
    }

    #[test]
    fn a_slice_costs_the_same_however_many_sessions_there_are() {
        for sessions in [20_000, 200_000] {
            let (mut table, mut walk) = (table(sessions), OfferWalk::default());
            // All have been offered: nothing stops a slice but its bound.
            mark_all(&mut table, Offer::Open);
            let mut slices = 0;
            loop {
                let before = walk.next;
                assert!(walk.slice(&mut table, 256, NOW).is_empty());
                slices += 1;
                if walk.next == 0 {
                    break;
                }
                assert_eq!(walk.next - before, SLOTS_PER_SLICE, "of {sessions}");
            }
            assert_eq!(slices, table.slots().div_ceil(SLOTS_PER_SLICE));
        }
    }

    #[test]
    fn each_session_is_offered_once_and_the_walk_is_over_when_all_are_declined() {
        let (mut table, mut walk) = (table(20_000), OfferWalk::default());
        let mut offered = Vec::new();
        while offered.len() < 20_000 {
            assert!(!walk.is_over(NOW));
            let names = walk.slice(&mut table, 256, NOW);
            assert!(names.len() <= 256);
            offered.extend(names);
        }
        let unique: std::collections::BTreeSet<_> = offered.iter().collect();
        assert_eq!(unique.len(), 20_000);
        for _ in 0..10 {
            assert!(walk.slice(&mut table, 256, NOW).is_empty());
            assert!(!walk.is_over(NOW), "no offer has been answered");
        }
        // One is taken, the others are declined.
        let taken = table.by_name("user 5").expect("it is there");
        table.remove(taken);
        decline(&mut table, &offered[..]);
        for _ in 0..2 * 20_000_usize.div_ceil(SLOTS_PER_SLICE) {
            assert!(walk.slice(&mut table, 256, NOW).is_empty());
        }
        assert!(walk.is_over(NOW));
    }

    #[test]
    fn a_session_whose_client_leaves_behind_the_walk_is_offered_too() {
        let (mut table, mut walk) = (table(3), OfferWalk::default());
        let online = table.by_name("user 0").expect("it is there");
        table.at_mut(online).conn = Some(ConnIndex(9));
        let now = Moment { connections: 1, ..NOW };
        let names = walk.slice(&mut table, 256, now);
        assert_eq!(names.len(), 2);
        decline(&mut table, &names);
        walk.slice(&mut table, 256, now);
        assert!(walk.is_over(now));
        table.at_mut(online).conn = None;
        assert!(!walk.is_over(NOW), "a connection has gone");
        let names = walk.slice(&mut table, 256, NOW);
        assert_eq!(names, [Arc::<str>::from("user 0")]);
        decline(&mut table, &names);
        walk.slice(&mut table, 256, NOW);
        assert!(walk.is_over(NOW));
    }

    #[test]
    fn a_connection_that_goes_during_a_round_makes_another_round_necessary() {
        let (mut table, mut walk) = (table(2 * SLOTS_PER_SLICE), OfferWalk::default());
        mark_all(&mut table, Offer::Declined);
        let before = Moment { connections: 1, ..NOW };
        walk.slice(&mut table, 256, before);
        walk.slice(&mut table, 256, NOW);
        assert!(!walk.is_over(NOW));
        walk.slice(&mut table, 256, NOW);
        walk.slice(&mut table, 256, NOW);
        assert!(walk.is_over(NOW));
    }
}
