//! What the business server asks of a shard, and what the shard replies. Both travel between cores: owned data only.
//!
//! A question that concerns all shards is asked of each; whoever asked adds the replies up (`Reply::add`).

use super::command::{Claim, StoreError, UnixMs};
use super::conn::Phase;
use super::messages::Message;
use super::parts::QueryId;
use super::{Output, Shard};
use crate::base::id::{ConnKey, Identity};
use crate::base::time::Tick;
use crate::wire::ws::frame::CloseCode;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub enum Query {
    /// Replied when every member has answered, or at the deadline; at QoS 0 at once.
    Send {
        channel: Arc<str>,
        message: Message,
        terms: Terms,
    },
    /// The same for one durable session, asked of its home.
    SendTo {
        session: Arc<str>,
        message: Message,
        terms: Terms,
    },
    /// What is known of a durable session, asked of its home.
    Session {
        session: Arc<str>,
    },
    /// Ends a durable session and all that waits for it.
    DropSession {
        session: Arc<str>,
    },
    /// Is this connection open here?
    Exists {
        identity: Identity,
    },
    Subscribe {
        identity: Identity,
        channel: Arc<str>,
    },
    Unsubscribe {
        identity: Identity,
        channel: Arc<str>,
    },
    /// Everyone but `keep` leaves the channel.
    Evict {
        channel: Arc<str>,
        keep: Identity,
    },
    Kick {
        identity: Identity,
        code: CloseCode,
        reason: Arc<str>,
    },
    KickChannel {
        channel: Arc<str>,
        code: CloseCode,
        reason: Arc<str>,
    },
    /// Who is in a channel: `limit` names after the first `offset`.
    Members {
        channel: Arc<str>,
        offset: usize,
        limit: usize,
    },
    /// The channels with the most members.
    Largest {
        most: usize,
    },
    Figures,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Sent {
        connections: u32,
        data: Vec<u8>,
        kept: DurableTally,
    },
    /// `None`: no such session.
    Session(Option<Box<SessionInfo>>),
    /// How many connections it concerned.
    Done {
        connections: u32,
    },
    Members {
        total: usize,
        identities: Vec<Identity>,
    },
    Channels(Vec<(String, usize)>),
    Figures(Vec<Figures>),
    /// Nothing was done, and why.
    Refused(&'static str),
}

/// On what terms a message is sent.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Until when the caller waits.
    pub deadline: Tick,
    /// How long the message waits for those who are away; `None`: `message_ttl`.
    pub ttl_ms: Option<u64>,
    /// Of a call with a `message_id`: durable sessions have it stored first, and once.
    pub claim: Option<Claim>,
}

impl From<Tick> for Terms {
    fn from(deadline: Tick) -> Terms {
        Terms { deadline, ttl_ms: None, claim: None }
    }
}

/// What became of a message for durable sessions that have not acknowledged it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DurableTally {
    /// Sessions for which it is safely stored.
    pub stored: u32,
    /// Sessions that will not get it, and why one of them does not.
    pub refused: u32,
    pub why: Option<NotStored>,
}

/// Why a message is not kept for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotStored {
    #[error("too many messages wait for the session (store.session_messages_max)")]
    TooMany,
    #[error("too many bytes wait for the session (store.session_bytes_max)")]
    TooLarge,
    #[error("{0}")]
    Store(StoreError),
}

/// A durable session as `/session/` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionInfo {
    pub name: Arc<str>,
    /// Its connection, while it is online.
    pub identity: Option<Identity>,
    pub channels: Vec<String>,
    /// Messages that wait in the store, those on their way included.
    pub waiting: u32,
    pub waiting_bytes: u64,
    pub oldest: Option<UnixMs>,
    /// When it ends, while it is absent.
    pub ends: Option<UnixMs>,
}

impl DurableTally {
    fn add(&mut self, other: DurableTally) {
        self.stored += other.stored;
        self.refused += other.refused;
        self.why = self.why.or(other.why);
    }
}

/// One shard as it stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    pub shard: u16,
    pub connections: usize,
    pub channels: usize,
    pub timers: usize,
    pub calls: usize,
    pub line_bytes: usize,
    /// Durable sessions, those without a connection included.
    pub sessions: usize,
    /// Work that the store has not told of.
    pub store_under_way: usize,
    pub stats: super::stats::Stats,
}

impl Reply {
    /// Two shards' replies to one question as one. A refusal of either is a refusal, unless the other did something.
    pub fn add(&mut self, other: Reply) {
        let did_nothing =
            |reply: &Reply| matches!(reply, Reply::Sent { connections: 0, .. } | Reply::Done { connections: 0 });
        match (&mut *self, other) {
            (Reply::Sent { connections, data, kept }, Reply::Sent { connections: more, data: other, kept: others }) => {
                *connections += more;
                kept.add(others);
                if data.is_empty() {
                    *data = other;
                }
            }
            (Reply::Done { connections }, Reply::Done { connections: more }) => *connections += more,
            (Reply::Members { total, identities }, Reply::Members { total: more, identities: others }) => {
                *total += more;
                identities.extend(others);
            }
            (Reply::Channels(channels), Reply::Channels(others)) => {
                for (name, members) in others {
                    match channels.iter_mut().find(|(known, _)| *known == name) {
                        Some((_, count)) => *count += members,
                        None => channels.push((name, members)),
                    }
                }
            }
            (Reply::Figures(figures), Reply::Figures(others)) => figures.extend(others),
            (Reply::Refused(_), other) if did_nothing(&other) => {}
            (Reply::Refused(_), other) => *self = other,
            (mine, Reply::Refused(why)) if did_nothing(mine) => *mine = Reply::Refused(why),
            (_, Reply::Refused(_)) => {}
            (mine, other) => debug_assert!(false, "two kinds of reply to one question: {mine:?}, {other:?}"),
        }
    }
}

impl Shard {
    /// `at`: the connection that an identity has moved to, when the question was redirected here.
    pub(super) fn on_query(&mut self, ticket: QueryId, query: Query, at: Option<u32>, now: Tick) {
        if let Some(to) = self.moved_to(&query).filter(|_| at.is_none()) {
            return self.outputs.push_back(Output::RedirectQuery { to, ticket, query });
        }
        let find = |shard: &Shard, identity: &Identity| at.or_else(|| shard.find(identity));
        let reply = match query {
            Query::Send { channel, message, terms } => return self.send(ticket, &channel, message, &terms, now),
            Query::SendTo { session, message, terms } => {
                return self.send_to_session(ticket, &session, message, &terms, now);
            }
            Query::Session { session } => self.session_info(&session),
            Query::DropSession { session } => return self.drop_session(ticket, &session, now),
            Query::Exists { identity } => done(find(self, &identity).is_some()),
            Query::Subscribe { identity, channel } => match find(self, &identity) {
                Some(index) => match self.subscribe(index, &channel, Some(ticket)) {
                    Ok(true) => return,
                    Ok(false) => done(true),
                    Err(why) => Reply::Refused(why),
                },
                None => done(false),
            },
            Query::Unsubscribe { identity, channel } => {
                let found = find(self, &identity);
                if let Some(index) = found {
                    let reply = done(true);
                    return self.unsubscribe(index, &channel, Some((ticket, reply)));
                }
                done(false)
            }
            Query::Evict { channel, keep } => self.evict(&channel, &keep),
            Query::Kick { identity, code, reason } => {
                let found = find(self, &identity);
                if let Some(index) = found {
                    self.kick(index, code, &reason, now);
                }
                done(found.is_some())
            }
            Query::KickChannel { channel, code, reason } => self.close_channel(&channel, code, &reason),
            Query::Members { channel, offset, limit } => self.members(&channel, offset, limit),
            Query::Largest { most } => self.largest(most),
            Query::Figures => Reply::Figures(vec![self.figures()]),
        };
        self.outputs.push_back(Output::Reply { ticket, reply });
    }

    /// Where the connection that is asked about has gone.
    fn moved_to(&self, query: &Query) -> Option<ConnKey> {
        let (Query::Exists { identity }
        | Query::Subscribe { identity, .. }
        | Query::Unsubscribe { identity, .. }
        | Query::Kick { identity, .. }) = query
        else {
            return None;
        };
        let key = identity.key();
        let conn = self.conns.get(key.index as usize).filter(|_| key.shard == self.id)?;
        let moved = conn.identity == *identity && conn.phase == Phase::Moved;
        moved.then(|| self.stubs.get(&key.index).copied()).flatten()
    }

    /// The open connection of that name.
    fn find(&self, identity: &Identity) -> Option<u32> {
        let key = identity.key();
        let conn = self.conns.get(key.index as usize).filter(|_| key.shard == self.id)?;
        (conn.identity == *identity && conn.phase == Phase::Open).then_some(key.index)
    }

    /// The business server wants it closed.
    pub(super) fn kick(&mut self, index: u32, code: CloseCode, reason: &str, now: Tick) {
        if self.conns[index as usize].phase == Phase::Open {
            self.stats.kicked += 1;
            self.begin_close(index, code, reason, now);
        }
    }

    fn evict(&mut self, channel: &str, keep: &Identity) -> Reply {
        let Some(found) = self.channels.find(channel) else { return Reply::Done { connections: 0 } };
        let members: Vec<u32> = self.channels.members(found).collect();
        let mut evicted = 0;
        for member in members {
            let conn = self.member_conn(member);
            if conn.is_some_and(|index| self.conns[index as usize].identity == *keep) {
                continue;
            }
            evicted += 1;
            match Shard::session_member(member) {
                Some(session) => self.leave_session(session, channel, None),
                None => self.unsubscribe(member, channel, None),
            }
        }
        Reply::Done { connections: evicted }
    }

    fn members(&self, channel: &str, offset: usize, limit: usize) -> Reply {
        let Some(found) = self.channels.find(channel) else {
            return Reply::Members { total: 0, identities: Vec::new() };
        };
        let total =
            if self.sessions.is_empty() { self.channels.members(found).len() } else { self.online_members(channel) };
        let members = self.channels.members(found).filter_map(|member| self.member_conn(member));
        let identities = members.skip(offset).take(limit).map(|index| self.conns[index as usize].identity).collect();
        Reply::Members { total, identities }
    }

    fn largest(&self, most: usize) -> Reply {
        let mut channels: Vec<(&str, usize)> = self.channels.iter().collect();
        let kept = most.min(channels.len());
        if kept < channels.len() {
            channels.select_nth_unstable_by_key(kept, |(_, members)| std::cmp::Reverse(*members));
        }
        Reply::Channels(channels[..kept].iter().map(|(name, members)| (String::from(*name), *members)).collect())
    }

    pub fn figures(&self) -> Figures {
        Figures {
            shard: self.id.0,
            connections: self.open,
            channels: self.channels.len(),
            timers: self.timers.len(),
            calls: self.parts.len(),
            line_bytes: self.line_bytes,
            sessions: self.sessions.len(),
            store_under_way: self.storeline.len(),
            stats: self.stats.clone(),
        }
    }
}

fn done(found: bool) -> Reply {
    Reply::Done { connections: u32::from(found) }
}

#[cfg(test)]
mod tests;
