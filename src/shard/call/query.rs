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
        tally: Tally,
        /// The first client's answer that was not empty.
        data: Vec<u8>,
    },
    /// `None`: no such session.
    Session(Option<Box<SessionInfo>>),
    /// How many connections it concerned.
    Done {
        connections: u32,
        /// Part of it could not be done.
        refused: Option<QueryRefusal>,
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

/// What became of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Whom it was for: connections, and sessions also while they are absent. At QoS 0 those that are online.
    pub targets: u32,
    /// Those that have acknowledged it; at QoS 0 those it was sent to.
    pub connections: u32,
    /// Sessions for which it is safely stored.
    pub stored: u32,
    /// Targets that will not get it. A part that refuses without knowing how many targets it has counts as one.
    pub refused: u32,
    /// Targets of which it is not known: time was over first.
    pub undecided: u32,
    /// Why one of the last two is not 0.
    pub why: Option<NotSent>,
}

/// Why not all is well with a message that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    #[error("{0}")]
    Refused(QueryRefusal),
    #[error("{0}")]
    NotStored(NotStored),
    #[error("the time was over before it was acknowledged or stored")]
    TimeOver,
    #[error("a worker did not answer in time")]
    Silent,
}

/// Why a message is not stored for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotStored {
    #[error("too many messages wait for the session (store.session_messages_max)")]
    TooMany,
    #[error("too many bytes wait for the session (store.session_bytes_max)")]
    TooLarge,
    #[error("the session ends with its connection")]
    Ending,
    #[error("its ttl was over before it was sent")]
    Expired,
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

impl Tally {
    pub fn add(&mut self, other: Tally) {
        self.targets += other.targets;
        self.connections += other.connections;
        self.stored += other.stored;
        self.refused += other.refused;
        self.undecided += other.undecided;
        self.why = self.why.or(other.why);
    }

    /// So many targets will not get it.
    pub fn refuse(&mut self, targets: u32, why: NotSent) {
        self.refused += targets;
        self.why.get_or_insert(why);
    }

    /// The outcome for so many targets is not known.
    pub fn leave_undecided(&mut self, targets: u32, why: NotSent) {
        if targets > 0 {
            self.undecided += targets;
            self.why.get_or_insert(why);
        }
    }

    /// Every target's outcome is known, and none was refused.
    pub fn is_success(&self) -> bool {
        self.refused == 0 && self.undecided == 0
    }
}

impl Reply {
    /// Two shards' replies to one query as one. What one of them refuses is never lost in what the other has done; a
    /// refusal beside a shard that had nothing to do is a refusal of the whole.
    pub fn add(&mut self, other: Reply) {
        match (&mut *self, other) {
            (Reply::Sent { tally, data }, Reply::Sent { tally: others, data: other }) => {
                tally.add(others);
                if data.is_empty() {
                    *data = other;
                }
            }
            (Reply::Sent { tally, .. }, Reply::Refused(why)) => match tally.targets {
                0 => *self = Reply::Refused(why),
                _ => tally.refuse_part(why),
            },
            (Reply::Refused(why), Reply::Sent { mut tally, data }) => {
                if tally.targets > 0 {
                    tally.refuse_part(*why);
                    *self = Reply::Sent { tally, data };
                }
            }
            (Reply::Done { connections, refused }, Reply::Done { connections: more, refused: others }) => {
                *connections += more;
                *refused = refused.or(others);
            }
            (Reply::Done { connections, refused }, Reply::Refused(why)) => match connections {
                0 => *self = Reply::Refused(why),
                _ => *refused = refused.or(Some(why)),
            },
            (Reply::Refused(why), Reply::Done { connections, .. }) => {
                if connections > 0 {
                    *self = Reply::Done { connections, refused: Some(*why) };
                }
            }
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
            (Reply::Refused(_), _) => {}
            (_, Reply::Refused(why)) => *self = Reply::Refused(why),
            (mine, other) => debug_assert!(false, "two kinds of reply to one query: {mine:?}, {other:?}"),
        }
    }
}

impl Tally {
    /// A shard has refused it for its members, and does not say how many they are.
    fn refuse_part(&mut self, why: QueryRefusal) {
        self.targets += 1;
        self.refuse(1, NotSent::Refused(why));
    }
}

impl Reply {
    /// How many connections a message was sent to, when nobody's answer is waited for.
    pub fn sent(connections: usize) -> Reply {
        let connections = connections as u32;
        Reply::Sent { tally: Tally { targets: connections, connections, ..Tally::default() }, data: Vec::new() }
    }

    /// A message that so many targets will not get.
    pub fn not_sent(targets: usize, why: QueryRefusal) -> Reply {
        let targets = targets as u32;
        let (refused, why) = (targets, Some(NotSent::Refused(why)));
        Reply::Sent { tally: Tally { targets, refused, why, ..Tally::default() }, data: Vec::new() }
    }

    pub fn done(connections: u32) -> Reply {
        Reply::Done { connections, refused: None }
    }

    /// Whether the one connection or session that is meant was found.
    pub fn found(found: bool) -> Reply {
        Reply::done(u32::from(found))
    }
}
