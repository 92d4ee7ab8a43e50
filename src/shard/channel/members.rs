//! Who is in which channel, on this shard. Joining, leaving and finding a channel are O(1); a channel exists while it
//! has members. A connection or session that ends leaves all its channels first, so no member is stale.
//!
//! ```text
//! names ──► channel ──► members: (member, its membership) (member, …) …
//!                           ▲                 │
//! member ──► List ──► membership: channel, position in its members
//! ```

use crate::base::arena::{Arena, List, NodeIndex};
use crate::base::keyed_hash::HashKey;
use crate::base::pool::Pool;
use crate::shard::ids::Member;
use hashbrown::HashTable;
use std::collections::BTreeMap;
use std::ops::Range;

/// A channel's slot; reused after the channel has lost its last member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelIndex(u32);

pub struct Channels {
    key: HashKey,
    names: HashTable<ChannelIndex>,
    channels: Pool<Channel>,
    memberships: Arena<Membership>,
    /// Of channels whose members are being walked over, from the last to the first: those below are still to come.
    walks: BTreeMap<ChannelIndex, u32>,
}

struct Channel {
    name: Box<str>,
    hash: u64,
    members: Members,
    /// Sessions among the members that have no open connection.
    absent: u32,
}

/// Most channels have one member: it lies in the channel itself.
enum Members {
    One(Entry),
    Many(Vec<Entry>),
}

#[derive(Clone, Copy)]
struct Entry {
    member: Member,
    membership: NodeIndex,
}

struct Membership {
    channel: ChannelIndex,
    position: u32,
    is_absent: bool,
}

/// What a change meant for the channel as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Nothing,
    /// A member more or less.
    Member,
    /// The first member joined, or the last one left; the hash is the channel's, by the shard's key.
    Presence(u64),
}

impl ChannelIndex {
    fn slot(self) -> usize {
        self.0 as usize
    }
}

impl Members {
    fn as_slice(&self) -> &[Entry] {
        match self {
            Members::One(entry) => std::slice::from_ref(entry),
            Members::Many(entries) => entries,
        }
    }

    fn push(&mut self, entry: Entry) {
        match self {
            Members::One(first) => *self = Members::Many(vec![*first, entry]),
            Members::Many(entries) => entries.push(entry),
        }
    }

    /// The last one takes the place of the removed one. `None`: it was the only one.
    fn swap_remove(&mut self, position: usize) -> Option<&[Entry]> {
        let Members::Many(entries) = self else { return None };
        entries.swap_remove(position);
        if let [last] = entries[..] {
            *self = Members::One(last);
        }
        Some(self.as_slice())
    }
}

impl Channel {
    fn online_len(&self) -> usize {
        self.members.as_slice().len() - self.absent as usize
    }
}

impl Channels {
    pub fn new(key: HashKey) -> Channels {
        Channels {
            key,
            names: HashTable::new(),
            channels: Pool::default(),
            memberships: Arena::default(),
            walks: BTreeMap::new(),
        }
    }

    /// Channels with at least one member here.
    pub fn len(&self) -> usize {
        self.channels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    pub fn find(&self, name: &str) -> Option<ChannelIndex> {
        self.find_hashed(name, self.key.hash(name))
    }

    fn find_hashed(&self, name: &str, hash: u64) -> Option<ChannelIndex> {
        self.names.find(hash, |&index| &*self.channels[index.slot()].name == name).copied()
    }

    pub fn members(&self, channel: ChannelIndex) -> impl ExactSizeIterator<Item = Member> + '_ {
        self.channels[channel.slot()].members.as_slice().iter().map(|entry| entry.member)
    }

    pub fn members_len(&self, channel: ChannelIndex) -> usize {
        self.channels[channel.slot()].members.as_slice().len()
    }

    /// `position` is below `members_len`.
    pub fn member(&self, channel: ChannelIndex, position: usize) -> Member {
        self.channels[channel.slot()].members.as_slice()[position].member
    }

    /// Members that are not absent.
    pub fn online_len(&self, channel: ChannelIndex) -> usize {
        self.channels[channel.slot()].online_len()
    }

    /// (name, members online) of the channels in so many slots, in no order; fewer where slots are free.
    pub fn in_slots(&self, slots: Range<usize>) -> impl Iterator<Item = (&str, usize)> {
        slots.filter_map(|slot| self.channels.get(slot)).map(|channel| (&*channel.name, channel.online_len()))
    }

    /// No channel's slot is beyond it.
    pub fn slots(&self) -> usize {
        self.channels.end()
    }

    /// Begins to walk over those who are members now, one walk per channel. Who leaves meanwhile is left out, who joins
    /// is not met; nobody is met twice.
    pub fn begin_walk(&mut self, channel: ChannelIndex) {
        self.walks.insert(channel, self.members_len(channel) as u32);
    }

    /// The positions of the next members of the walk, at most so many; `None` when it is over.
    pub fn walk(&mut self, channel: ChannelIndex, most: usize) -> Option<Range<usize>> {
        let below = self.walks.get_mut(&channel)?;
        let end = *below as usize;
        let begin = end.saturating_sub(most);
        *below = begin as u32;
        if begin == 0 {
            self.walks.remove(&channel);
        }
        Some(begin..end)
    }

    /// The walk is not over.
    pub fn is_walked(&self, channel: ChannelIndex) -> bool {
        self.walks.contains_key(&channel)
    }

    /// A member's session has lost its connection, or has one; also after it has joined a channel.
    pub fn set_absent(&mut self, joined: &List, is_absent: bool) {
        let nodes = self.memberships.iter(joined).filter(|(_, membership)| membership.is_absent != is_absent);
        for node in nodes.map(|(node, _)| node).collect::<Vec<_>>() {
            let membership = self.memberships.get_mut(node);
            membership.is_absent = is_absent;
            let absent = &mut self.channels[membership.channel.slot()].absent;
            *absent = if is_absent { *absent + 1 } else { *absent - 1 };
        }
    }

    /// `joined` is the member's own list.
    pub fn join(&mut self, member: Member, joined: &mut List, name: &str) -> Change {
        let hash = self.key.hash(name);
        let Some(channel) = self.find_hashed(name, hash) else {
            self.create(name, hash, member, joined);
            return Change::Presence(hash);
        };
        if self.membership(joined, channel).is_some() {
            return Change::Nothing;
        }
        let members = &mut self.channels[channel.slot()].members;
        let position = members.as_slice().len() as u32;
        let membership = self.memberships.push_back(joined, Membership { channel, position, is_absent: false });
        members.push(Entry { member, membership });
        Change::Member
    }

    fn create(&mut self, name: &str, hash: u64, member: Member, joined: &mut List) {
        let memberships = &mut self.memberships;
        let slot = self.channels.insert_with(|slot| {
            let channel = ChannelIndex(slot as u32);
            let membership = memberships.push_back(joined, Membership { channel, position: 0, is_absent: false });
            Channel { name: name.into(), hash, members: Members::One(Entry { member, membership }), absent: 0 }
        });
        let (channel, channels) = (ChannelIndex(slot as u32), &self.channels);
        self.names.insert_unique(hash, channel, |&index| channels[index.slot()].hash);
    }

    pub fn leave(&mut self, joined: &mut List, name: &str) -> Change {
        let Some(channel) = self.find(name) else { return Change::Nothing };
        match self.membership(joined, channel) {
            Some(membership) => self.remove(joined, membership),
            None => Change::Nothing,
        }
    }

    /// Leaves one of the channels in the list; `None` when none is left.
    pub fn leave_any(&mut self, joined: &mut List) -> Option<Change> {
        joined.front().map(|membership| self.remove(joined, membership))
    }

    /// How many channels the member is in, counted up to `most`.
    pub fn count(&self, joined: &List, most: usize) -> usize {
        self.memberships.iter(joined).take(most).count()
    }

    pub fn joined_names<'a>(&'a self, joined: &List) -> impl Iterator<Item = &'a str> + use<'a> {
        self.memberships.iter(joined).map(|(_, joined)| &*self.channels[joined.channel.slot()].name)
    }

    fn membership(&self, joined: &List, channel: ChannelIndex) -> Option<NodeIndex> {
        self.memberships.iter(joined).find(|(_, joined)| joined.channel == channel).map(|(node, _)| node)
    }

    fn remove(&mut self, joined: &mut List, membership: NodeIndex) -> Change {
        let Membership { channel, position, is_absent } = self.memberships.remove(joined, membership);
        self.channels[channel.slot()].absent -= u32::from(is_absent);
        let position = self.pass_walk(channel, position);
        if let Some(rest) = self.channels[channel.slot()].members.swap_remove(position as usize) {
            if let Some(swapped) = rest.get(position as usize) {
                self.memberships.get_mut(swapped.membership).position = position;
            }
            return Change::Member;
        }
        self.walks.remove(&channel);
        let Channel { hash, .. } = self.channels.remove(channel.slot());
        self.names.find_entry(hash, |&index| index == channel).expect("a channel has its name").remove();
        Change::Presence(hash)
    }

    /// A member leaves before a walk has come to it: the last of those that are still to come takes its place, so that
    /// the gap is among those that the walk has met. Returns where.
    fn pass_walk(&mut self, channel: ChannelIndex, position: u32) -> u32 {
        let Some(below) = self.walks.get_mut(&channel).filter(|below| position < **below) else { return position };
        *below -= 1;
        let gap = *below;
        let Members::Many(entries) = &mut self.channels[channel.slot()].members else { return position };
        entries.swap(position as usize, gap as usize);
        if position != gap {
            self.memberships.get_mut(entries[position as usize].membership).position = position;
        }
        gap
    }

    #[cfg(any(test, debug_assertions))]
    pub fn check_invariants(&self) {
        assert_eq!(self.names.len(), self.channels.len());
        assert!(self.walks.iter().all(|(channel, below)| *below as usize <= self.members_len(*channel)));
        let members: usize = self.channels.iter().map(|(_, channel)| channel.members.as_slice().len()).sum();
        assert_eq!(members, self.memberships.len(), "every membership is one member");
        for (index, channel) in self.channels.iter() {
            let members = channel.members.as_slice();
            let absent = members.iter().filter(|entry| self.memberships.get(entry.membership).is_absent);
            assert_eq!(channel.absent as usize, absent.count(), "every absent member is counted");
            assert!(!members.is_empty(), "a channel without members is gone");
            assert_eq!(
                members.len() == 1,
                matches!(channel.members, Members::One(_)),
                "one member lies in the channel"
            );
            for (position, entry) in members.iter().enumerate() {
                let membership = self.memberships.get(entry.membership);
                assert_eq!((membership.channel.slot(), membership.position as usize), (index, position));
            }
        }
    }
}

/// A channel's name, in bytes.
pub const CHANNEL_NAME_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::ConnIndex;
    use crate::shard::ids::MemberKind;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    const KEY: HashKey = HashKey::new(1, 2);

    fn member(number: u32) -> Member {
        ConnIndex(number).into()
    }

    fn number(member: Member) -> u32 {
        match member.kind() {
            MemberKind::Connection(index) => index.0,
            MemberKind::Session(_) => panic!("none has joined"),
        }
    }

    #[test]
    fn presence_is_reported_at_the_first_and_the_last_member() {
        let mut channels = Channels::new(KEY);
        let (mut a, mut b) = (List::default(), List::default());
        let hash = KEY.hash("news");
        assert_eq!(channels.join(member(0), &mut a, "news"), Change::Presence(hash));
        assert_eq!(channels.join(member(1), &mut b, "news"), Change::Member);
        assert_eq!(channels.join(member(1), &mut b, "news"), Change::Nothing);
        assert_eq!(channels.leave(&mut a, "news"), Change::Member);
        assert_eq!(channels.leave(&mut a, "news"), Change::Nothing);
        assert_eq!(channels.leave_any(&mut b), Some(Change::Presence(hash)));
        assert_eq!(channels.leave_any(&mut b), None);
        assert!(channels.is_empty());
    }

    proptest! {
        #[test]
        fn a_walk_meets_once_whoever_stays(
            begin in 1..20u32,
            steps in prop::collection::vec((0..3u8, 0..30u32), 0..60),
        ) {
            let mut channels = Channels::new(KEY);
            let mut joined = [List::default(); 30];
            for conn in 0..begin {
                channels.join(member(conn), &mut joined[conn as usize], "news");
            }
            let channel = channels.find("news").expect("it has members");
            let (mut stayed, mut met): (BTreeSet<u32>, Vec<u32>) = ((0..begin).collect(), Vec::new());
            let mut left = BTreeSet::new();
            channels.begin_walk(channel);
            let steps = steps.into_iter().chain((0..=begin).map(|_| (0, 0)));
            for (step, conn) in steps {
                match step {
                    0 => if let Some(positions) = channels.walk(channel, 1 + conn as usize % 3) {
                        met.extend(positions.map(|position| number(channels.member(channel, position))));
                    },
                    1 => {
                        channels.join(member(conn), &mut joined[conn as usize], "news");
                    }
                    _ => {
                        channels.leave(&mut joined[conn as usize], "news");
                        left.insert(conn);
                    }
                }
                channels.check_invariants();
                if channels.find("news") != Some(channel) {
                    break;
                }
            }
            let once: BTreeSet<u32> = met.iter().copied().collect();
            prop_assert_eq!(once.len(), met.len(), "nobody is met twice");
            prop_assert!(once.iter().all(|conn| *conn < begin), "nobody is met who came later");
            stayed.retain(|conn| !left.contains(conn));
            if channels.find("news") == Some(channel) {
                prop_assert!(stayed.is_subset(&once), "{:?} are left out", stayed.difference(&once));
                prop_assert!(!channels.is_walked(channel));
            }
        }

        #[test]
        fn behaves_like_sets(steps in prop::collection::vec((0..3u8, 0..6u32, 0..5u8), 1..200)) {
            let mut channels = Channels::new(KEY);
            let mut joined = [List::default(); 6];
            let mut model: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
            for (step, conn, name) in steps {
                let name = format!("c{name}");
                let list = &mut joined[conn as usize];
                match step {
                    0 => {
                        channels.join(member(conn), list, &name);
                        model.entry(name).or_default().insert(conn);
                    }
                    1 => {
                        channels.leave(list, &name);
                        model.entry(name).or_default().remove(&conn);
                    }
                    _ => {
                        while channels.leave_any(list).is_some() {}
                        model.values_mut().for_each(|members| { members.remove(&conn); });
                    }
                }
                channels.check_invariants();
                model.retain(|_, members| !members.is_empty());
                prop_assert_eq!(channels.len(), model.len());
                for (name, members) in &model {
                    let index = channels.find(name).expect("the model has it");
                    prop_assert_eq!(&channels.members(index).map(number).collect::<BTreeSet<_>>(), members);
                }
            }
        }
    }
}
