//! Queries that a call, or a page of figures, sends to a shard, and the shard's replies. Both travel between workers:
//! owned data only.
//!
//! A query that concerns all shards goes to each of them; whoever sent it adds the replies up (`Reply::add`).

use crate::base::id::Identity;
use crate::base::time::Tick;
use crate::shard::command::{Claim, StoreError, UnixMs};
use crate::shard::message::Message;
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
    /// The same for one durable session, sent to its owner.
    SendTo {
        session: Arc<str>,
        message: Message,
        terms: Terms,
    },
    /// The state of a durable session, sent to its owner.
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
}

#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Sent {
        connections: u32,
        data: Vec<u8>,
        durable: DurableTally,
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
    /// Nothing was done.
    Refused(QueryRefusal),
}

/// Why a shard does nothing of what a query wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryRefusal {
    #[error("too busy")]
    TooBusy,
    #[error("too many messages at once")]
    TooManyMessages,
    #[error("the message is larger than outbox_bytes_max")]
    MessageTooLarge,
    #[error("bad channel name")]
    BadChannelName,
    #[error("too many channels")]
    TooManyChannels,
    #[error("no such connection")]
    NoSuchConnection,
    #[error("no such session")]
    NoSuchSession,
    #[error("the store refuses it (see /readyz)")]
    NotStored,
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

/// Why a message is not stored for a session.
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

impl Reply {
    /// Two shards' replies to one query as one. A refusal of either is a refusal, unless the other did something.
    pub fn add(&mut self, other: Reply) {
        let did_nothing =
            |reply: &Reply| matches!(reply, Reply::Sent { connections: 0, .. } | Reply::Done { connections: 0 });
        match (&mut *self, other) {
            (
                Reply::Sent { connections, data, durable },
                Reply::Sent { connections: more, data: other, durable: others },
            ) => {
                *connections += more;
                durable.add(others);
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
            (Reply::Refused(_), other) if did_nothing(&other) => {}
            (Reply::Refused(_), other) => *self = other,
            (mine, Reply::Refused(why)) if did_nothing(mine) => *mine = Reply::Refused(why),
            (_, Reply::Refused(_)) => {}
            (mine, other) => debug_assert!(false, "two kinds of reply to one query: {mine:?}, {other:?}"),
        }
    }
}

impl Reply {
    /// How many connections a message was sent to, when nobody's answer is waited for.
    pub fn sent(connections: usize) -> Reply {
        Reply::Sent { connections: connections as u32, data: Vec::new(), durable: DurableTally::default() }
    }

    /// Whether the one connection or session that is meant was found.
    pub fn found(found: bool) -> Reply {
        Reply::Done { connections: u32::from(found) }
    }
}
