//! The channels with the most members online: found by a walk over all channels, a slice at a time. A query that comes
//! while a walk is on its way waits for the next one, which serves all that wait.

use super::members::Channels;
use crate::shard::ids::QueryId;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::ops::Range;

#[derive(Default)]
pub struct Largest {
    waiting: Vec<LargestQuery>,
    walk: Option<Walk>,
}

struct LargestQuery {
    id: QueryId,
    most: usize,
}

struct Walk {
    queries: Vec<LargestQuery>,
    /// The first slot that has not been looked at.
    next: usize,
    ranking: Ranking,
}

/// Of all that were looked at so many with the most members; the least of them first.
struct Ranking {
    most: usize,
    channels: BTreeSet<(usize, Reverse<String>)>,
}

impl Largest {
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.walk.is_none()
    }

    pub fn query(&mut self, id: QueryId, most: usize) {
        self.waiting.push(LargestQuery { id, most });
    }

    /// One slice of so many slots. At the end of a walk, what each of its queries is to be told.
    pub fn poll(&mut self, channels: &Channels, slots: usize) -> Vec<(QueryId, Vec<(String, usize)>)> {
        if self.is_idle() {
            return Vec::new();
        }
        let waiting = &mut self.waiting;
        let walk = self.walk.get_or_insert_with(|| Walk::new(std::mem::take(waiting)));
        walk.look_at(channels, walk.next..walk.next + slots);
        if walk.next < channels.slots() {
            return Vec::new();
        }
        let Walk { queries, ranking, .. } = self.walk.take().expect("it has just ended");
        let largest: Vec<(String, usize)> =
            ranking.channels.into_iter().rev().map(|(members, Reverse(name))| (name, members)).collect();
        let of = |most: usize| largest[..most.min(largest.len())].to_vec();
        queries.into_iter().map(|query| (query.id, of(query.most))).collect()
    }
}

impl Walk {
    fn new(queries: Vec<LargestQuery>) -> Walk {
        let most = queries.iter().map(|query| query.most).max().unwrap_or_default();
        Walk { queries, next: 0, ranking: Ranking { most, channels: BTreeSet::new() } }
    }

    fn look_at(&mut self, channels: &Channels, slots: Range<usize>) {
        self.next = slots.end;
        channels.in_slots(slots).for_each(|(name, members)| self.ranking.add(name, members));
    }
}

impl Ranking {
    fn add(&mut self, name: &str, members: usize) {
        let is_full = self.channels.len() >= self.most;
        let is_larger = || {
            let least = self.channels.first();
            least.is_some_and(|(least, Reverse(of))| members > *least || members == *least && name < of.as_str())
        };
        if members == 0 || is_full && !is_larger() {
            return;
        }
        self.channels.insert((members, Reverse(name.into())));
        if is_full {
            self.channels.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::arena::List;
    use crate::base::id::ConnIndex;
    use crate::base::keyed_hash::HashKey;

    /// `count` channels; channel n has n % 7 + 1 members.
    fn channels(count: u32) -> Channels {
        let mut channels = Channels::new(HashKey::new(1, 2));
        for n in 0..count {
            for member in 0..n % 7 + 1 {
                channels.join(ConnIndex(member).into(), &mut List::default(), &format!("c{n:04}"));
            }
        }
        channels
    }

    #[test]
    fn a_walk_is_done_in_slices_and_finds_what_one_look_finds() {
        let channels = channels(1_000);
        let mut largest = Largest::default();
        largest.query(QueryId(1), 3);
        largest.query(QueryId(2), 100);
        let (mut slices, mut replies) = (0, Vec::new());
        while replies.is_empty() {
            replies = largest.poll(&channels, 64);
            slices += 1;
            if slices == 2 {
                largest.query(QueryId(3), 1);
            }
        }
        assert_eq!(slices, channels.slots().div_ceil(64));
        let expected: Vec<(String, usize)> =
            (0..1_000).filter(|n| n % 7 == 6).map(|n| (format!("c{n:04}"), 7)).collect();
        assert_eq!(replies, [(QueryId(1), expected[..3].to_vec()), (QueryId(2), expected[..100].to_vec())]);
        assert!(!largest.is_idle(), "the query that came later is served by the next walk");
        let replies = (0..slices).flat_map(|_| largest.poll(&channels, 64)).collect::<Vec<_>>();
        assert_eq!(replies, [(QueryId(3), expected[..1].to_vec())]);
        assert!(largest.is_idle());
    }

    #[test]
    fn no_channels_are_found_at_once() {
        let mut largest = Largest::default();
        largest.query(QueryId(1), 3);
        assert_eq!(largest.poll(&channels(0), 64), [(QueryId(1), vec![])]);
    }
}
