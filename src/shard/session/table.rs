//! The sessions of a shard, by slot, name and id, and the timers of those that are absent.

use super::state::Session;
use crate::base::id::ShardId;
use crate::base::time::Tick;
use crate::base::wheel::Wheel;
use crate::shard::command::SessionId;
use crate::shard::ids::{SessionIndex, SessionKey};
use rustc_hash::{FxHashMap, FxHasher};
use slab::Slab;
use std::hash::Hasher;
use std::sync::Arc;

/// The shard that owns a session, among as many as there are workers.
pub fn session_owner(name: &str, workers: usize) -> ShardId {
    let mut hasher = FxHasher::default();
    hasher.write(name.as_bytes());
    // The high bits of Fx are the good ones.
    ShardId((((hasher.finish() >> 32) * workers as u64) >> 32) as u16)
}

pub struct SessionTable {
    slots: Slab<Session>,
    names: FxHashMap<Arc<str>, SessionIndex>,
    ids: FxHashMap<SessionId, SessionIndex>,
    generation: u32,
    /// When absent sessions end.
    expiries: Wheel,
}

impl SessionTable {
    pub fn new(now: Tick) -> SessionTable {
        SessionTable {
            slots: Slab::new(),
            names: FxHashMap::default(),
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
        self.names.get(name).copied()
    }

    pub fn index_of(&self, id: SessionId) -> Option<SessionIndex> {
        self.ids.get(&id).copied()
    }

    pub fn insert(&mut self, id: SessionId, name: Arc<str>) -> SessionIndex {
        self.generation = self.generation.wrapping_add(1);
        let index = SessionIndex(self.slots.insert(Session::new(id, name.clone(), self.generation)) as u32);
        self.names.insert(name, index);
        self.ids.insert(id, index);
        index
    }

    pub fn remove(&mut self, index: SessionIndex) -> Session {
        self.expiries.cancel(index.0);
        let session = self.slots.remove(index.slot());
        self.names.remove(&session.name);
        self.ids.remove(&session.id);
        session
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

    #[cfg(any(test, debug_assertions))]
    pub fn iter(&self) -> impl Iterator<Item = (SessionIndex, &Session)> {
        self.slots.iter().map(|(slot, session)| (SessionIndex(slot as u32), session))
    }

    #[cfg(debug_assertions)]
    pub fn has_expiry(&self, index: SessionIndex) -> bool {
        self.expiries.deadline(index.0).is_some()
    }
}
