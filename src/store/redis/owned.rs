//! The sessions that this server owns: their names, and the token of each that lies in Redis beside it. Every write
//! carries that token, and is refused when Redis has another.
//!
//! Where no other server uses the store (`Sharing::Alone`), a session is owned when its row is put, with the token of
//! the process. Where others do (`Sharing::Cluster`), it is claimed first.

use super::keys::Keys;
use crate::shard::command::Token;
use crate::shard::command::{Mutation, SessionId};
use crate::store::opening::Sharing;
use crate::store::request::Request;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub struct Owned {
    sharing: Sharing,
    /// Of the process.
    token: Token,
    by_id: HashMap<SessionId, Ownership>,
    by_name: HashMap<Arc<str>, SessionId>,
}

struct Ownership {
    name: Arc<str>,
    token: Token,
}

impl Owned {
    pub fn new(sharing: Sharing, token: Token) -> Owned {
        Owned { sharing, token, by_id: HashMap::new(), by_name: HashMap::new() }
    }

    pub fn sharing(&self) -> Sharing {
        self.sharing
    }

    /// `None`: another server has it, and nothing may be written.
    pub fn token(&self, session: SessionId) -> Option<Token> {
        let own = (self.sharing == Sharing::Alone).then_some(self.token);
        self.by_id.get(&session).map(|ownership| ownership.token).or(own)
    }

    pub fn get(&self, name: &str) -> Option<SessionId> {
        self.by_name.get(name).copied()
    }

    pub fn name(&self, session: SessionId) -> Option<&Arc<str>> {
        self.by_id.get(&session).map(|ownership| &ownership.name)
    }

    /// Its row is there, with the token of the process.
    pub fn insert(&mut self, name: Arc<str>, session: SessionId) {
        self.take(name, session, self.token);
    }

    /// It was claimed, or was there at the start.
    pub fn take(&mut self, name: Arc<str>, session: SessionId, token: Token) {
        if let Some(before) = self.by_id.insert(session, Ownership { name: name.clone(), token })
            && before.name != name
        {
            self.by_name.remove(&before.name);
        }
        self.by_name.insert(name, session);
    }

    /// A row was put: the claim of a session that was claimed stays.
    pub fn put(&mut self, name: &Arc<str>, session: SessionId) {
        if self.name(session) != Some(name) {
            self.insert(name.clone(), session);
        }
    }

    /// Its name, if it was ours.
    pub fn remove(&mut self, session: SessionId) -> Option<Arc<str>> {
        let Ownership { name, .. } = self.by_id.remove(&session)?;
        if self.get(&name) == Some(session) {
            self.by_name.remove(&name);
        }
        Some(name)
    }

    pub fn clear(&mut self) {
        self.by_id.clear();
        self.by_name.clear();
    }

    /// The key of the session's name, where it is known and lies with the session's other keys. Names and ids that
    /// `SessionId::new` has made always do.
    pub fn name_key(&self, keys: &Keys, session: SessionId) -> Option<Vec<u8>> {
        keys.name_beside(self.name(session)?, session)
    }
}

/// The names as they will be after the requests of a batch that have been checked so far.
pub struct NamesInBatch<'a> {
    before: &'a Owned,
    put: HashMap<Arc<str>, SessionId>,
    dropped: HashSet<SessionId>,
}

impl NamesInBatch<'_> {
    pub fn new(before: &Owned) -> NamesInBatch<'_> {
        NamesInBatch { before, put: HashMap::new(), dropped: HashSet::new() }
    }

    /// Whether the request is for a name that another session has. If not, the request counts as done.
    pub fn is_taken(&mut self, request: &Request) -> bool {
        match request.mutation() {
            Some(Mutation::PutSession(row)) => {
                let owner = self.put.get(&row.name).copied().or_else(|| self.before.get(&row.name));
                if owner.is_some_and(|owner| owner != row.session && !self.dropped.contains(&owner)) {
                    return true;
                }
                self.dropped.remove(&row.session);
                self.put.insert(row.name.clone(), row.session);
            }
            Some(Mutation::DropSession { session }) => {
                self.dropped.insert(*session);
            }
            _ => {}
        }
        false
    }
}
