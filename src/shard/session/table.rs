//! The sessions of a shard, by slot, name and id, and the timers of those that are absent.

pub mod listing;
pub mod offers;

use super::state::{Offer, Session};
use crate::base::id::ShardId;
use crate::base::keyed_hash::HashKey;
use crate::base::pool::Pool;
use crate::base::time::Tick;
use crate::base::wheel::Wheel;
use crate::shard::command::SessionId;
use crate::shard::ids::{SessionIndex, SessionKey};
use hashbrown::HashTable;
use rustc_hash::FxHashMap;
use std::ops::Range;
use std::sync::Arc;

/// The shard that owns a session, among as many as there are workers. All workers of a process have one key, and so
/// they agree.
pub fn session_owner(key: HashKey, name: &str, workers: usize) -> ShardId {
    ShardId((((key.hash(name) >> 32) * workers as u64) >> 32) as u16)
}

pub struct SessionTable {
    key: HashKey,
    slots: Pool<Session>,
    names: HashTable<SessionIndex>,
    ids: FxHashMap<SessionId, SessionIndex>,
    generation: u32,
    /// When absent sessions end.
    expiries: Wheel,
}

impl SessionTable {
    pub fn new(key: HashKey, now: Tick) -> SessionTable {
        SessionTable {
            key,
            slots: Pool::default(),
            names: HashTable::new(),
            ids: FxHashMap::default(),
            generation: 0,
            expiries: Wheel::new(now),
        }
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub fn get(&self, key: SessionKey) -> Option<&Session> {
        self.slots.get(key.index.slot()).filter(|session| session.generation == key.generation)
    }

    pub fn get_mut(&mut self, key: SessionKey) -> Option<&mut Session> {
        self.slots.get_mut(key.index.slot()).filter(|session| session.generation == key.generation)
    }

    /// The slot must be taken.
    pub fn at(&self, index: SessionIndex) -> &Session {
        &self.slots[index.slot()]
    }

    pub fn at_mut(&mut self, index: SessionIndex) -> &mut Session {
        &mut self.slots[index.slot()]
    }

    pub fn key(&self, index: SessionIndex) -> SessionKey {
        self.at(index).key(index)
    }

    pub fn by_name(&self, name: &str) -> Option<SessionIndex> {
        self.names.find(self.key.hash(name), |&index| *self.at(index).name == *name).copied()
    }

    /// The same, if it is not passed on to another node.
    pub fn present(&self, name: &str) -> Option<SessionIndex> {
        self.by_name(name).filter(|&index| !self.at(index).passing)
    }

    pub fn index_of(&self, id: SessionId) -> Option<SessionIndex> {
        self.ids.get(&id).copied()
    }

    pub fn insert(&mut self, id: SessionId, name: Arc<str>) -> SessionIndex {
        self.generation = self.generation.wrapping_add(1);
        debug_assert!(self.by_name(&name).is_none(), "a name is one session's");
        let (key, hash) = (self.key, self.key.hash(&name));
        let index = SessionIndex(self.slots.insert(Session::new(id, name, self.generation)) as u32);
        let slots = &self.slots;
        self.names.insert_unique(hash, index, |&index| key.hash(&slots[index.slot()].name));
        self.ids.insert(id, index);
        index
    }

    pub fn remove(&mut self, index: SessionIndex) -> Session {
        self.expiries.cancel(index.0);
        let session = self.slots.remove(index.slot());
        let hash = self.key.hash(&session.name);
        self.names.find_entry(hash, |&known| known == index).expect("a session has its name").remove();
        self.ids.remove(&session.id);
        session
    }

    /// Those in so many slots; fewer where slots are free.
    pub fn in_slots(&self, slots: Range<usize>) -> impl Iterator<Item = (SessionIndex, &Session)> {
        slots.filter_map(|slot| Some((SessionIndex(slot as u32), self.slots.get(slot)?)))
    }

    pub fn in_slot_mut(&mut self, slot: usize) -> Option<&mut Session> {
        self.slots.get_mut(slot)
    }

    /// No other node takes the session.
    pub fn decline_offer(&mut self, name: &str) {
        if let Some(index) = self.by_name(name) {
            self.at_mut(index).offer = Offer::Declined;
        }
    }

    /// No session's slot is beyond it.
    pub fn slots(&self) -> usize {
        self.slots.end()
    }

    pub fn arm_expiry(&mut self, index: SessionIndex, when: Tick) {
        self.expiries.arm(index.0, when);
    }

    /// Its time is over, and it has not been ended yet.
    pub fn is_ending(&self, index: SessionIndex, now: Tick) -> bool {
        self.expiries.deadline(index.0).is_some_and(|when| when <= now)
    }

    pub fn cancel_expiry(&mut self, index: SessionIndex) {
        self.expiries.cancel(index.0);
    }

    pub fn poll_expiry(&mut self, now: Tick) -> Option<SessionIndex> {
        self.expiries.poll(now).map(SessionIndex)
    }

    pub fn next_expiry(&self) -> Option<Tick> {
        self.expiries.next_poll()
    }

    pub fn iter(&self) -> impl Iterator<Item = (SessionIndex, &Session)> {
        self.slots.iter().map(|(slot, session)| (SessionIndex(slot as u32), session))
    }

    #[cfg(debug_assertions)]
    pub fn has_expiry(&self, index: SessionIndex) -> bool {
        self.expiries.deadline(index.0).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_agreed_on_by_key_and_spread_evenly() {
        let keys = [HashKey::new(1, 2), HashKey::new(3, 4)];
        let names: Vec<String> = (0..4_000).map(|n| format!("user {n}")).collect();
        let owners = keys.map(|key| names.iter().map(|name| session_owner(key, name, 4)).collect::<Vec<_>>());
        for owned in &owners {
            let of = |shard| owned.iter().filter(|owner| owner.0 == shard).count();
            assert!((0..4).all(|shard| (900..1_100).contains(&of(shard))), "a quarter each");
        }
        let same = owners[0].iter().zip(&owners[1]).filter(|(one, other)| one == other).count();
        assert!((900..1_100).contains(&same), "another key, other owners: {same} of 4,000 are the same by chance");
        assert_eq!(session_owner(keys[0], "user 7", 1), ShardId(0));
    }

    #[test]
    fn a_session_is_found_by_name_until_it_is_removed() {
        let mut table = SessionTable::new(HashKey::new(1, 2), Tick(0));
        let name = |n: u32| -> Arc<str> { format!("user {n}").into() };
        let indices: Vec<SessionIndex> = (0..100).map(|n| table.insert(SessionId(u128::from(n)), name(n))).collect();
        assert!((0..100).all(|n| table.by_name(&name(n)) == Some(indices[n as usize])));
        for n in (0..100).step_by(2) {
            table.remove(indices[n as usize]);
        }
        assert!((0..100).all(|n| table.by_name(&name(n)).is_some() == (n % 2 == 1)));
    }
}
