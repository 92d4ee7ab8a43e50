//! Which session has which name. One server writes to a store (others are fenced), so its own table is the truth. In a
//! Redis cluster no script could look names up, as names and sessions lie on different nodes.

use crate::shard::command::{Mutation, SessionId};
use crate::store::request::Request;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

#[derive(Default)]
pub struct SessionNames(HashMap<Arc<str>, SessionId>);

impl SessionNames {
    pub fn get(&self, name: &str) -> Option<SessionId> {
        self.0.get(name).copied()
    }

    pub fn insert(&mut self, name: Arc<str>, session: SessionId) {
        self.0.insert(name, session);
    }

    /// The session was dropped, so its name is free. `None` for the name, where it is not known: the whole table is
    /// searched.
    pub fn remove(&mut self, session: SessionId, name: Option<&str>) {
        match name {
            Some(name) if self.get(name) == Some(session) => {
                self.0.remove(name);
            }
            Some(_) => {}
            None => self.0.retain(|_, owner| *owner != session),
        }
    }
}

/// The names as they will be after the requests of a batch that have been checked so far.
pub struct NamesInBatch<'a> {
    before: &'a SessionNames,
    put: HashMap<Arc<str>, SessionId>,
    dropped: HashSet<SessionId>,
}

impl NamesInBatch<'_> {
    pub fn new(before: &SessionNames) -> NamesInBatch<'_> {
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
