//! Who is in which channel, on this shard. Joining, leaving and finding a channel are O(1); a channel exists while it
//! has members. A member is a connection's slot: a connection that ends leaves all its channels first, so no slot is
//! stale.
//!
//! ```text
//! names ──► channel ──► members: (conn, its membership) (conn, …) …
//!                           ▲                 │
//! conn ──► List ──► membership: channel, position in its members
//! ```

use super::arena::{Arena, At, List};
use hashbrown::HashTable;
use rustc_hash::FxHasher;
use slab::Slab;
use std::hash::Hasher;

/// A connection's slot in its shard's table.
pub type ConnIndex = u32;

/// A channel's slot; reused after the channel has lost its last member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChannelIndex(u32);

#[derive(Default)]
pub struct Channels {
    names: HashTable<u32>,
    channels: Slab<Channel>,
    memberships: Arena<Membership>,
}

struct Channel {
    name: Box<str>,
    hash: u64,
    members: Vec<Member>,
}

#[derive(Clone, Copy)]
struct Member {
    conn: ConnIndex,
    membership: At,
}

struct Membership {
    channel: u32,
    position: u32,
}

/// What a change meant for the channel as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Nothing,
    /// A member more or less.
    Member,
    /// The first member came, or the last one left; the hash is `name_hash` of the channel.
    Presence(u64),
}

impl Channels {
    /// Channels with at least one member here.
    pub fn len(&self) -> usize {
        self.channels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    pub fn find(&self, name: &str) -> Option<ChannelIndex> {
        let found = self.names.find(name_hash(name), |&index| &*self.channels[index as usize].name == name);
        found.map(|&index| ChannelIndex(index))
    }

    pub fn members(&self, channel: ChannelIndex) -> impl ExactSizeIterator<Item = ConnIndex> + '_ {
        self.channels[channel.0 as usize].members.iter().map(|member| member.conn)
    }

    /// (name, members) of every channel, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, usize)> {
        self.channels.iter().map(|(_, channel)| (&*channel.name, channel.members.len()))
    }

    /// `joined` is the connection's own list.
    pub fn join(&mut self, conn: ConnIndex, joined: &mut List, name: &str) -> Change {
        let hash = name_hash(name);
        let known = self.names.find(hash, |&index| &*self.channels[index as usize].name == name).copied();
        if known.is_some_and(|channel| self.membership(joined, channel).is_some()) {
            return Change::Nothing;
        }
        let channel = known.unwrap_or_else(|| self.create(name, hash));
        let members = &mut self.channels[channel as usize].members;
        let membership = self.memberships.push_back(joined, Membership { channel, position: members.len() as u32 });
        members.push(Member { conn, membership });
        if known.is_some() { Change::Member } else { Change::Presence(hash) }
    }

    pub fn leave(&mut self, joined: &mut List, name: &str) -> Change {
        let Some(ChannelIndex(channel)) = self.find(name) else { return Change::Nothing };
        match self.membership(joined, channel) {
            Some(at) => self.remove(joined, at),
            None => Change::Nothing,
        }
    }

    /// Leaves one of the channels in the list; `None` when none is left.
    pub fn leave_any(&mut self, joined: &mut List) -> Option<Change> {
        joined.front().map(|at| self.remove(joined, at))
    }

    /// How many channels the connection is in, counted up to `most`.
    pub fn count(&self, joined: &List, most: usize) -> usize {
        self.memberships.iter(joined).take(most).count()
    }

    pub fn joined_names<'a>(&'a self, joined: &List) -> impl Iterator<Item = &'a str> + use<'a> {
        self.memberships.iter(joined).map(|(_, joined)| &*self.channels[joined.channel as usize].name)
    }

    fn membership(&self, joined: &List, channel: u32) -> Option<At> {
        self.memberships.iter(joined).find(|(_, joined)| joined.channel == channel).map(|(at, _)| at)
    }

    fn create(&mut self, name: &str, hash: u64) -> u32 {
        let index = self.channels.insert(Channel { name: name.into(), hash, members: Vec::new() }) as u32;
        let channels = &self.channels;
        self.names.insert_unique(hash, index, |&index| channels[index as usize].hash);
        index
    }

    fn remove(&mut self, joined: &mut List, at: At) -> Change {
        let Membership { channel, position } = self.memberships.remove(joined, at);
        let members = &mut self.channels[channel as usize].members;
        members.swap_remove(position as usize);
        if let Some(moved) = members.get(position as usize) {
            self.memberships.get_mut(moved.membership).position = position;
            return Change::Member;
        }
        if !members.is_empty() {
            return Change::Member;
        }
        let Channel { hash, .. } = self.channels.remove(channel as usize);
        self.names.find_entry(hash, |&index| index == channel).expect("a channel has its name").remove();
        Change::Presence(hash)
    }

    #[cfg(any(test, debug_assertions))]
    pub fn check_invariants(&self) {
        assert_eq!(self.names.len(), self.channels.len());
        let members: usize = self.channels.iter().map(|(_, channel)| channel.members.len()).sum();
        assert_eq!(members, self.memberships.len(), "every membership is one member");
        for (index, channel) in &self.channels {
            assert!(!channel.members.is_empty(), "a channel without members is gone");
            for (position, member) in channel.members.iter().enumerate() {
                let membership = self.memberships.get(member.membership);
                assert_eq!((membership.channel as usize, membership.position as usize), (index, position));
            }
        }
    }
}

/// The same on every shard of the process; not for the wire.
pub fn name_hash(name: &str) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(name.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn presence_is_told_at_the_first_and_the_last_member() {
        let mut channels = Channels::default();
        let (mut a, mut b) = (List::default(), List::default());
        let hash = name_hash("news");
        assert_eq!(channels.join(0, &mut a, "news"), Change::Presence(hash));
        assert_eq!(channels.join(1, &mut b, "news"), Change::Member);
        assert_eq!(channels.join(1, &mut b, "news"), Change::Nothing);
        assert_eq!(channels.leave(&mut a, "news"), Change::Member);
        assert_eq!(channels.leave(&mut a, "news"), Change::Nothing);
        assert_eq!(channels.leave_any(&mut b), Some(Change::Presence(hash)));
        assert_eq!(channels.leave_any(&mut b), None);
        assert!(channels.is_empty());
    }

    proptest! {
        #[test]
        fn behaves_like_sets(steps in prop::collection::vec((0..3u8, 0..6u32, 0..5u8), 1..200)) {
            let mut channels = Channels::default();
            let mut joined = [List::default(); 6];
            let mut model: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
            for (step, conn, name) in steps {
                let name = format!("c{name}");
                let list = &mut joined[conn as usize];
                match step {
                    0 => {
                        channels.join(conn, list, &name);
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
                    prop_assert_eq!(&channels.members(index).collect::<BTreeSet<_>>(), members);
                }
            }
        }
    }
}
