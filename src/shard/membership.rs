//! The channels of durable sessions: a change is known to whoever asked for it, and to the client whose message it came
//! with, when the store has it. What the store refuses has not happened.

use super::command::{Mutation, StoreError};
use super::parts::QueryId;
use super::session::SESSION_MEMBER;
use super::storeline::{After, NOT_STORED, SessionKey};
use super::{Change, Output, Reply, Shard};
use std::sync::Arc;

impl Shard {
    /// What the connection has joined while it was connecting becomes the session's.
    pub(super) fn bring_channels(&mut self, index: u32, at: u32) {
        let names: Vec<Arc<str>> =
            self.channels.joined_names(&self.conns[index as usize].joined).map(Arc::from).collect();
        let (key, attempt) = (self.sessions.at(at).key(at), self.sessions.at(at).attempt);
        for channel in names {
            let change = self.channels.leave(&mut self.conns[index as usize].joined, &channel);
            self.told_presence(change, false);
            let session = self.sessions.at_mut(at);
            let (id, count) = (session.id, self.channels.count(&session.joined, self.settings.channels_per_connection));
            if count >= self.settings.channels_per_connection {
                self.stats.subscriptions_refused += 1;
                continue;
            }
            let change = self.channels.join(SESSION_MEMBER | at, &mut session.joined, &channel);
            if change != Change::Nothing || self.sessions.at(at).unsure {
                self.told_presence(change, true);
                let after = After::AttachJoin(key, attempt, channel.clone());
                self.store(Mutation::JoinChannel { session: id, channel }, after);
            }
        }
    }

    /// Joins a channel as the session that it is. False: it has been joined before, and the caller replies; true: the
    /// ticket is replied to when the store knows.
    pub(super) fn join_session(&mut self, at: u32, channel: &str, ticket: Option<QueryId>) -> bool {
        let session = self.sessions.at_mut(at);
        let change = self.channels.join(SESSION_MEMBER | at, &mut session.joined, channel);
        if change == Change::Nothing && !session.unsure {
            return self.settle_channel(at, ticket.map(|ticket| (ticket, Reply::Done { connections: 1 })));
        }
        let (key, id) = (session.key(at), session.id);
        self.told_presence(change, true);
        let channel: Arc<str> = channel.into();
        let after = After::Joined { session: key, channel: channel.clone(), ticket };
        self.store(Mutation::JoinChannel { session: id, channel }, after);
        self.sessions.at_mut(at).changed = self.storeline.last();
        true
    }

    /// Nothing changes, but what has changed before may still be on its way to the store: then the reply waits for it.
    fn settle_channel(&mut self, at: u32, told: Option<(QueryId, Reply)>) -> bool {
        let (session, since) = (self.sessions.at(at), self.storeline.told());
        let waits = told.filter(|_| session.changed > since);
        let Some((ticket, reply)) = waits else { return false };
        let session = session.key(at);
        self.put(at, After::Settled { session, since, ticket, reply });
        true
    }

    /// `told` is replied to when the store knows.
    pub(super) fn leave_session(&mut self, at: u32, channel: &str, told: Option<(QueryId, Reply)>) {
        let session = self.sessions.at_mut(at);
        let change = self.channels.leave(&mut session.joined, channel);
        if change == Change::Nothing && !session.unsure {
            if !self.settle_channel(at, told.clone())
                && let Some((ticket, reply)) = told
            {
                self.outputs.push_back(Output::Reply { ticket, reply });
            }
            return;
        }
        let (key, id) = (session.key(at), session.id);
        self.told_presence(change, false);
        let channel: Arc<str> = channel.into();
        let after = After::Left { session: key, channel: channel.clone(), told };
        self.store(Mutation::LeaveChannel { session: id, channel }, after);
        self.sessions.at_mut(at).changed = self.storeline.last();
    }

    /// A channel that the store did not leave is joined again: so it would be after a crash.
    pub(super) fn on_left(
        &mut self,
        key: SessionKey,
        channel: &str,
        told: Option<(QueryId, Reply)>,
        why: Option<StoreError>,
    ) {
        if why.is_some()
            && let Some(session) = self.sessions.get_mut(key)
        {
            let change = self.channels.join(SESSION_MEMBER | key.index, &mut session.joined, channel);
            self.told_presence(change, true);
            self.spoil(key);
        }
        if let Some((ticket, reply)) = told {
            let reply = if why.is_some() { Reply::Refused(NOT_STORED) } else { reply };
            self.outputs.push_back(Output::Reply { ticket, reply });
        }
    }

    /// In `follow`: the change that was just told of has been refused, and so is the answer that it came with.
    pub(super) fn spoil(&mut self, key: SessionKey) {
        let number = self.storeline.told();
        if let Some(session) = self.sessions.get_mut(key) {
            session.spoiled = number;
            session.unsure = true;
        }
    }

    /// A channel that could not be stored is left again: nobody was promised it.
    pub(super) fn on_joined(
        &mut self,
        key: SessionKey,
        channel: &str,
        ticket: Option<QueryId>,
        why: Option<StoreError>,
    ) {
        if why.is_some()
            && let Some(session) = self.sessions.get_mut(key)
        {
            let change = self.channels.leave(&mut session.joined, channel);
            self.told_presence(change, false);
            self.spoil(key);
        }
        if let Some(ticket) = ticket {
            let reply = if why.is_some() { Reply::Refused(NOT_STORED) } else { Reply::Done { connections: 1 } };
            self.outputs.push_back(Output::Reply { ticket, reply });
        }
    }
}
