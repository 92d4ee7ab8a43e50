//! Queries that a call, or a page of figures, sends to a shard, and the shard's replies. Both travel between workers:
//! owned data only.
//!
//! A query that concerns all shards goes to each of them; whoever sent it adds the replies up (`Reply::add`).

use super::sessions::{SessionSummary, WantedSessions};
use super::trace::{TraceId, TraceTerms};
use crate::base::id::Identity;
use crate::base::time::Tick;
use crate::shard::channel::traffic::Traffic;
use crate::shard::command::{Claim, StoreError};
use crate::shard::message::Message;
use crate::wire::ws::frame::CloseCode;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

#[derive(Clone, Debug)]
pub enum Query {
    /// Replied when every member has answered, or at the deadline; at QoS 0 at once.
    Send {
        channel: Arc<str>,
        message: Message,
        terms: Terms,
    },
    /// The same to several channels, once to each member of any; a reply for each channel.
    Broadcast {
        channels: Arc<[Arc<str>]>,
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
    /// Is this connection open here, or this session here?
    Exists {
        who: Who,
    },
    Subscribe {
        who: Who,
        channel: Arc<str>,
    },
    Unsubscribe {
        who: Who,
        channel: Arc<str>,
    },
    /// Everyone but `keep` leaves the channel.
    Evict {
        channel: Arc<str>,
        keep: Who,
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
    /// Who is in a channel: `limit` names after the first `offset`; with `counts` the channel is counted for a while.
    Members {
        channel: Arc<str>,
        offset: usize,
        limit: usize,
        counts: bool,
    },
    /// The channels with the most members.
    Largest {
        most: usize,
    },
    /// The same of those whose name contains the text.
    FindChannels {
        text: Arc<str>,
        most: usize,
    },
    /// A list of durable sessions.
    Sessions {
        wanted: Arc<WantedSessions>,
    },
    /// Somebody looks at what happens, until then.
    Trace {
        id: TraceId,
        terms: TraceTerms,
    },
    EndTrace {
        id: TraceId,
    },
    /// How an open connection stands. The shard puts that into `info`, and replies whether it has the connection.
    Connection {
        identity: Identity,
        info: Arc<OnceLock<ConnectionInfo>>,
    },
}

impl Query {
    /// How many replies a shard makes.
    pub fn replies(&self) -> usize {
        match self {
            Query::Broadcast { channels, .. } => channels.len(),
            _ => 1,
        }
    }
}

/// Who is to join or leave a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// An open connection; what it joins is its session's, where it has one.
    Connection(Identity),
    /// A durable session, online or not.
    Session(Arc<str>),
}

impl From<Identity> for Who {
    fn from(identity: Identity) -> Who {
        Who::Connection(identity)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Sent {
        tally: Tally,
        /// The first client's answer that was not empty; of several shards' the greatest, by its bytes.
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
        members: Vec<ChannelMember>,
        /// `None`: it is not counted.
        traffic: Option<Traffic>,
    },
    Channels(Vec<(String, usize)>),
    /// How many durable sessions are meant, and the first of them.
    Sessions {
        total: usize,
        sessions: Vec<SessionSummary>,
    },
    /// Nothing was done. Never the reply to a message for a channel: that one counts its targets (`not_sent`).
    Refused(QueryRefusal),
}

/// A connection that is in a channel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChannelMember {
    pub identity: Identity,
    /// The client, as the business server has named it.
    pub user: Option<Box<str>>,
}

/// Why a shard does nothing of what a query wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
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
    #[error("a node of the cluster did not answer")]
    Unreachable,
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
    pub wait: Wait,
}

/// What the caller waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wait {
    /// Clients' answers. What a session does not answer soon is stored.
    #[default]
    Answered,
    /// An answer or the store, whichever is first: the message goes to both at once.
    Stored,
}

impl From<Tick> for Terms {
    fn from(deadline: Tick) -> Terms {
        Terms { deadline, ttl_ms: None, claim: None, wait: Wait::Answered }
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
    /// Targets that will not get it. A shard that could not be given the message counts as one.
    pub refused: u32,
    /// Targets of which it is not known: time was over first.
    pub undecided: u32,
    /// Nodes that may have had targets, and did not reply.
    pub unreachable: u32,
    /// Why one of the last three is not 0.
    pub why: Option<NotSent>,
}

/// Why not all is well with a message that was sent. Of several reasons the first in this order is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum NotSent {
    #[error("{0}")]
    Refused(QueryRefusal),
    #[error("{0}")]
    NotStored(NotStored),
    #[error("the time was over before it was acknowledged or stored")]
    TimeOver,
    #[error("a worker did not answer in time")]
    Silent,
    #[error("a node of the cluster did not answer")]
    Unreachable,
}

/// Why a message is not stored for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum NotStored {
    #[error("too many messages wait for the session (store.session_messages_max)")]
    TooMany,
    #[error("too many bytes wait for the session (store.session_bytes_max)")]
    TooLarge,
    #[error("the session ends with its connection")]
    Ending,
    #[error("its ttl was over before it was sent")]
    Expired,
    #[error("the session is on its way to another node")]
    Moving,
    #[error("{0}")]
    Store(StoreError),
}

/// A durable session as `/session/` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionInfo {
    pub name: Arc<str>,
    /// Its connection, while it is online.
    pub identity: Option<Identity>,
    /// The one that stands for its user included.
    pub channels: Vec<String>,
    /// Messages that wait in the store, those on their way included.
    pub waiting: u32,
    pub waiting_bytes: u64,
    /// How long the oldest of them has waited. No time of day: the clock of the node that asks may be another.
    pub oldest_ms: Option<u64>,
    /// What is left until it ends, while it is absent.
    pub left_ms: Option<u64>,
}

/// An open connection as `/connection/` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// As far as trusted proxies say.
    pub address: Option<IpAddr>,
    /// It has come by `https` or `wss`.
    pub is_secure: bool,
    pub since_s: u64,
    /// Since bytes last came from the client.
    pub silent_ms: u64,
    /// The client is not read: its messages wait for the backend.
    pub is_paused: bool,
    /// Messages that the client has not acknowledged.
    pub in_flight: usize,
    /// Memory of messages that wait for room in the window.
    pub queued_bytes: usize,
    /// Memory of what waits for the socket.
    pub outbox_bytes: usize,
    /// Messages of the client that wait for the backend.
    pub forward_queue: usize,
    pub forward_queue_bytes: usize,
    /// The backend has one of them.
    pub is_forwarding: bool,
    /// The cookie itself may be a secret of the business server's.
    pub cookie_bytes: usize,
    /// The client, as the business server has named it.
    pub user: Option<Box<str>>,
    pub session: Option<Arc<str>>,
    /// The first `CHANNELS_SHOWN`.
    pub channels: Vec<String>,
}

/// Of one connection.
pub const CHANNELS_SHOWN: usize = 1_000;

impl Tally {
    pub fn add(&mut self, other: Tally) {
        self.targets += other.targets;
        self.connections += other.connections;
        self.stored += other.stored;
        self.refused += other.refused;
        self.undecided += other.undecided;
        self.unreachable += other.unreachable;
        self.why = first(self.why, other.why);
    }

    /// So many targets will not get it.
    pub fn refuse(&mut self, targets: u32, why: NotSent) {
        self.refused += targets;
        self.why = first(self.why, Some(why));
    }

    /// The outcome for so many targets is not known.
    pub fn leave_undecided(&mut self, targets: u32, why: NotSent) {
        if targets > 0 {
            self.undecided += targets;
            self.why = first(self.why, Some(why));
        }
    }

    /// Every target's outcome is known, and none was refused. Then every node has replied.
    pub fn is_success(&self) -> bool {
        self.refused == 0 && self.undecided == 0 && self.unreachable == 0
    }
}

impl Reply {
    /// Whoever is meant is not there.
    pub fn is_absent(&self) -> bool {
        matches!(
            self,
            Reply::Session(None)
                | Reply::Done { connections: 0, refused: None }
                | Reply::Refused(QueryRefusal::NoSuchSession)
        )
    }

    /// Several shards' parts of a list: worth nothing where one of them is missing.
    fn is_list(&self) -> bool {
        matches!(self, Reply::Members { .. } | Reply::Channels(_) | Reply::Sessions { .. })
    }

    /// Several shards' replies to one query as one, whatever the order in which they come. What one of them refuses is
    /// never lost in what the others have done; beside shards that had nothing to do it is a refusal of the whole.
    pub fn add(&mut self, other: Reply) {
        match (&mut *self, other) {
            (Reply::Sent { tally, data }, Reply::Sent { tally: others, data: other }) => {
                tally.add(others);
                if other > *data {
                    *data = other;
                }
            }
            (Reply::Done { connections, refused }, Reply::Done { connections: more, refused: others }) => {
                *connections += more;
                *refused = first(*refused, others);
            }
            (
                Reply::Members { total, members, traffic },
                Reply::Members { total: more, members: others, traffic: other },
            ) => {
                *total += more;
                members.extend(others);
                members.sort_unstable();
                *traffic = Traffic::added(*traffic, other);
            }
            (Reply::Channels(channels), Reply::Channels(others)) => add_channels(channels, others),
            (Reply::Sessions { total, sessions }, Reply::Sessions { total: more, sessions: others }) => {
                *total += more;
                sessions.extend(others);
                sessions.sort_unstable();
            }
            (Reply::Session(session), Reply::Session(other)) => *session = session.take().or(other),
            (Reply::Refused(QueryRefusal::NoSuchSession), sent @ Reply::Sent { .. }) => *self = sent,
            (Reply::Sent { .. }, Reply::Refused(QueryRefusal::NoSuchSession)) => {}
            (Reply::Refused(why), Reply::Refused(other)) => *why = (*why).min(other),
            (Reply::Done { connections: 0, .. }, Reply::Refused(why)) => *self = Reply::Refused(why),
            (Reply::Done { refused, .. }, Reply::Refused(why)) => *refused = first(*refused, Some(why)),
            (mine, refused @ Reply::Refused(_)) if mine.is_list() => *self = refused,
            (Reply::Refused(_), mut other) if other.is_list() || matches!(other, Reply::Done { .. }) => {
                std::mem::swap(self, &mut other);
                self.add(other);
            }
            (mine, other) => {
                debug_assert!(false, "two kinds of reply to one query: {mine:?}, {other:?}");
                *self = Reply::Refused(QueryRefusal::TooBusy);
            }
        }
    }
}

/// One of two reasons, the same one whichever comes first.
fn first<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    one.into_iter().chain(other).min()
}

/// Merges lists of channels; the sum is in the order of their names.
fn add_channels(channels: &mut Vec<(String, usize)>, others: Vec<(String, usize)>) {
    channels.extend(others);
    channels.sort_unstable();
    channels.dedup_by(|later, one| {
        let is_same = later.0 == one.0;
        if is_same {
            one.1 += later.1;
        }
        is_same
    });
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

    /// A message of which so many shards have said nothing in time. Each counts as one target.
    pub fn silent(shards: u32) -> Reply {
        let mut tally = Tally { targets: shards, ..Tally::default() };
        tally.leave_undecided(shards, NotSent::Silent);
        Reply::Sent { tally, data: Vec::new() }
    }

    /// A message of which so many nodes have said nothing, though they may have had targets.
    pub fn unreachable(nodes: u32) -> Reply {
        let why = (nodes > 0).then_some(NotSent::Unreachable);
        Reply::Sent { tally: Tally { unreachable: nodes, why, ..Tally::default() }, data: Vec::new() }
    }

    /// The reply of a shard that could not be given the query. One of `Query::replies`.
    pub fn not_queried(query: &Query, why: QueryRefusal) -> Reply {
        match query {
            Query::Send { .. } | Query::SendTo { .. } | Query::Broadcast { .. } => Reply::not_sent(1, why),
            _ => Reply::Refused(why),
        }
    }

    pub fn done(connections: u32) -> Reply {
        Reply::Done { connections, refused: None }
    }

    /// Whether the one connection or session that is meant was found.
    pub fn found(found: bool) -> Reply {
        Reply::done(u32::from(found))
    }
}
