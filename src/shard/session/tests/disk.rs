//! The disk of the store that the tests of sessions use: it does what a store must, in memory.

use crate::shard::command::{
    Completion, Mutation, Offset, Page, Received, SessionId, SessionRow, StoredMessage, StoredSession,
};
use crate::wire::packet::MessageId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The disk of the test's store.
#[derive(Default)]
pub struct Disk {
    pub rows: BTreeMap<SessionId, SessionRow>,
    pub channels: BTreeSet<(SessionId, Arc<str>)>,
    pub messages: BTreeMap<(SessionId, Offset), StoredMessage>,
    pub received: BTreeMap<(SessionId, MessageId), Received>,
    pub claims: BTreeSet<(SessionId, Arc<str>)>,
}

impl Disk {
    pub fn mutate(&mut self, mutation: Mutation) -> Completion {
        match mutation {
            Mutation::PutSession(row) => drop(self.rows.insert(row.session, *row)),
            Mutation::JoinChannel { session, channel } => drop(self.channels.insert((session, channel))),
            Mutation::LeaveChannel { session, channel } => drop(self.channels.remove(&(session, channel))),
            Mutation::PutMessage(stored) => {
                if stored
                    .claim
                    .as_ref()
                    .is_some_and(|claim| !self.claims.insert((stored.session, claim.message_id.clone())))
                {
                    return Completion::Duplicate;
                }
                self.messages.entry((stored.session, stored.offset)).or_insert(*stored);
            }
            Mutation::ReleaseMessage { session, offset } => match self.messages.get_mut(&(session, offset)) {
                Some(stored) => stored.released = true,
                None => return Completion::Absent,
            },
            Mutation::RemoveMessage { session, offset } => {
                if self.messages.remove(&(session, offset)).is_none() {
                    return Completion::Absent;
                }
            }
            Mutation::PutReceived { session, received } => drop(self.received.insert((session, received.id), received)),
            Mutation::RemoveReceived { session, id } => drop(self.received.remove(&(session, id))),
            Mutation::DropSession { session } => {
                self.rows.remove(&session);
                self.channels.retain(|(of, _)| *of != session);
                self.messages.retain(|(of, _), _| *of != session);
                self.received.retain(|(of, _), _| *of != session);
            }
        }
        Completion::Done
    }

    pub fn load(&self, session: SessionId, after: Option<Offset>, most: usize) -> Page {
        let mut messages = self.messages.values().filter(|stored| stored.session == session).cloned();
        let mut rest = messages.by_ref().filter(|stored| after.is_none_or(|after| stored.offset > after));
        let page: Vec<StoredMessage> = rest.by_ref().take(most).collect();
        let more = rest.next().is_some();
        let received = self.received.values().filter(|_| after.is_none());
        Page { messages: page, more, received: received.cloned().collect() }
    }

    pub fn sessions(&self) -> Vec<StoredSession> {
        let stored = |row: &SessionRow| {
            let of = || self.messages.values().filter(|stored| stored.session == row.session);
            let waiting = || of().filter(|stored| !stored.released);
            StoredSession {
                row: row.clone(),
                channels: self.channels.iter().filter(|(of, _)| *of == row.session).map(|(_, c)| c.clone()).collect(),
                waiting: waiting().count() as u32,
                waiting_bytes: waiting().map(|stored| stored.message.len() as u64).sum(),
                next: of().next_back().map_or(Offset(0), |stored| stored.offset.next()),
                oldest: waiting().next().map(|stored| stored.stored),
                first: of().next().map(|stored| stored.offset),
            }
        };
        self.rows.values().map(stored).collect()
    }
}
