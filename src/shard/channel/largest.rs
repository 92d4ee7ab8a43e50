//! The channels with the most members online (users' apart), of all or of those whose name contains a text: found by a
//! walk over all channels, a slice at a time. A query that comes while a walk is on its way waits for the next one,
//! which serves all that wait for all channels, and a few that look for texts.

use super::members::Channels;
use super::user::user_of;
use crate::shard::ids::QueryId;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

#[derive(Default)]
pub struct Largest {
    waiting: Vec<LargestQuery>,
    walk: Option<Walk>,
}

struct LargestQuery {
    id: QueryId,
    most: usize,
    /// What the name must contain; `None`: any name.
    text: Option<Arc<str>>,
}

struct Walk {
    queries: Vec<LargestQuery>,
    /// The first slot that has not been looked at.
    next: usize,
    /// One for each text, and one for any name.
    rankings: Vec<Ranking>,
}

/// Of all that were looked at so many with the most members; the least of them first.
struct Ranking {
    text: Option<Arc<str>>,
    most: usize,
    channels: BTreeSet<(usize, Reverse<String>)>,
}

impl Largest {
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.walk.is_none()
    }

    pub fn query(&mut self, id: QueryId, most: usize, text: Option<Arc<str>>) {
        self.waiting.push(LargestQuery { id, most, text });
    }

    /// One slice of so many slots. At the end of a walk, what each of its queries is to be told.
    pub fn poll(&mut self, channels: &Channels, slots: usize) -> Vec<(QueryId, Vec<(String, usize)>)> {
        if self.is_idle() {
            return Vec::new();
        }
        let waiting = &mut self.waiting;
        let walk = self.walk.get_or_insert_with(|| Walk::new(waiting));
        // A slice takes as long whatever is looked for.
        let slots = (slots / walk.rankings.len()).max(1);
        walk.look_at(channels, walk.next..walk.next + slots);
        if walk.next < channels.slots() {
            return Vec::new();
        }
        let Walk { queries, rankings, .. } = self.walk.take().expect("it has just ended");
        let of = |query: &LargestQuery| {
            let ranking = rankings.iter().find(|ranking| ranking.text == query.text).expect("each query has one");
            let largest = ranking.channels.iter().rev().take(query.most);
            largest.map(|(members, Reverse(name))| (name.clone(), *members)).collect()
        };
        queries.iter().map(|query| (query.id, of(query))).collect()
    }
}

impl Walk {
    /// Takes the queries that it serves; those whose text would be one too many wait on.
    fn new(waiting: &mut Vec<LargestQuery>) -> Walk {
        let mut walk = Walk { queries: Vec::new(), next: 0, rankings: Vec::new() };
        for query in std::mem::take(waiting) {
            if walk.takes(&query) { walk.queries.push(query) } else { waiting.push(query) }
        }
        walk
    }

    /// Makes room for what the query looks for, if there is any.
    fn takes(&mut self, query: &LargestQuery) -> bool {
        let is_full = self.rankings.len() >= RANKINGS_MAX;
        match self.rankings.iter_mut().find(|ranking| ranking.text == query.text) {
            Some(ranking) => ranking.most = ranking.most.max(query.most),
            None if is_full => return false,
            None => self.rankings.push(Ranking::new(query)),
        }
        true
    }

    fn look_at(&mut self, channels: &Channels, slots: Range<usize>) {
        self.next = slots.end;
        for (name, members) in channels.in_slots(slots) {
            self.rankings.iter_mut().for_each(|ranking| ranking.add(name, members));
        }
    }
}

impl Ranking {
    fn new(query: &LargestQuery) -> Ranking {
        Ranking { text: query.text.clone(), most: query.most, channels: BTreeSet::new() }
    }

    fn add(&mut self, name: &str, members: usize) {
        let is_full = self.channels.len() >= self.most;
        let is_larger = || {
            let least = self.channels.first();
            least.is_some_and(|(least, Reverse(of))| members > *least || members == *least && name < of.as_str())
        };
        let is_meant = || user_of(name).is_none() && self.text.as_ref().is_none_or(|text| name.contains(&**text));
        if members == 0 || is_full && !is_larger() || !is_meant() {
            return;
        }
        self.channels.insert((members, Reverse(name.into())));
        if is_full {
            self.channels.pop_first();
        }
    }
}

/// Of one walk: what it costs in memory and time.
const RANKINGS_MAX: usize = 8;

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
        largest.query(QueryId(1), 3, None);
        largest.query(QueryId(2), 100, None);
        let (mut slices, mut replies) = (0, Vec::new());
        while replies.is_empty() {
            replies = largest.poll(&channels, 64);
            slices += 1;
            if slices == 2 {
                largest.query(QueryId(3), 1, None);
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
    fn a_text_leads_to_the_largest_that_contain_it() {
        let channels = channels(1_000);
        let mut largest = Largest::default();
        largest.query(QueryId(1), 2, Some("00".into()));
        largest.query(QueryId(2), 1, None);
        largest.query(QueryId(3), 5, Some("nobody".into()));
        let mut replies = Vec::new();
        while replies.is_empty() {
            replies = largest.poll(&channels, 64);
        }
        let of = |names: &[&str]| names.iter().map(|name| (name.to_string(), 7)).collect::<Vec<_>>();
        assert_eq!(
            replies,
            [(QueryId(1), of(&["c0006", "c0013"])), (QueryId(2), of(&["c0006"])), (QueryId(3), Vec::new())]
        );
    }

    #[test]
    fn more_texts_than_one_walk_looks_for_wait_for_the_next() {
        let channels = channels(100);
        let mut largest = Largest::default();
        let texts = 2 * RANKINGS_MAX as u64 + 1;
        (0..texts).for_each(|n| largest.query(QueryId(n), 1, Some(format!("c00{n:02}").into())));
        let mut replies = Vec::new();
        while !largest.is_idle() {
            replies.extend(largest.poll(&channels, 1_000_000));
        }
        assert_eq!(replies.len() as u64, texts);
        for (QueryId(n), found) in replies {
            assert_eq!(found, [(format!("c00{n:02}"), n as usize % 7 + 1)]);
        }
    }

    #[test]
    fn no_channels_are_found_at_once() {
        let mut largest = Largest::default();
        largest.query(QueryId(1), 3, None);
        assert_eq!(largest.poll(&channels(0), 64), [(QueryId(1), vec![])]);
    }
}
