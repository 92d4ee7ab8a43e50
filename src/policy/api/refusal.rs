//! Why a call is refused; the texts are the `msg` of its answer.

use super::limits::{CHANNELS_PER_BROADCAST, NAME_BYTES_MAX, SESSIONS_LISTED_MAX};
use crate::base::id::Generation;
use crate::shard::CHANNEL_NAME_MAX;
use crate::shard::QueryRefusal;
use crate::shard::command::StoreError;

/// Why a call is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no channel")]
    NoChannel,
    #[error("a channel's name has 1 to {CHANNEL_NAME_MAX} bytes, and does not begin with U+0001")]
    BadChannel,
    #[error("more than {CHANNELS_PER_BROADCAST} channels in one call")]
    TooManyChannels,
    #[error("no session")]
    NoSession,
    #[error("a session's name has 1 to {NAME_BYTES_MAX} printable ASCII characters")]
    BadSession,
    #[error("a user's name has 1 to {NAME_BYTES_MAX} printable ASCII characters")]
    BadUser,
    #[error("only one of channel, session and user")]
    SeveralTargets,
    #[error("either identity or session, not both")]
    IdentityAndSession,
    /// Only where `strict_status` is on.
    #[error("unknown parameters: {}", .0.join(", "))]
    UnknownParameters(Vec<String>),
    #[error("qos must be 0, 1 or 2")]
    BadQos,
    #[error("msgtype must be a number from 0 to 65534")]
    BadMessageType,
    #[error("timeout must be a number of seconds")]
    BadTimeout,
    #[error("wait must be stored, or be left out")]
    BadWait,
    #[error("ttl must be a number of seconds above 0")]
    BadTtl,
    #[error("a message_id has 1 to {NAME_BYTES_MAX} printable ASCII characters")]
    BadMessageId,
    #[error("this message_id was used for another message (see store.dedupe_window)")]
    OtherCall,
    #[error("message_id needs a store; none is configured (store.kind)")]
    NoStoreForId,
    #[error("there are no durable sessions; no store is configured (store.kind)")]
    NoStoreForSessions,
    #[error("{0}")]
    Store(StoreError),
    /// A shard refused; the text is the shard's.
    #[error("{0}")]
    Shard(QueryRefusal),
    #[error("no such connection")]
    NoSuchConnection,
    #[error("no such session")]
    NoSuchSession,
    #[error("node must be the 8 hex digits of a node that is away, as /info/ has them")]
    BadNode,
    #[error("no such node: /info/ names those that are there")]
    NoSuchNode,
    #[error("the node is there: stop it first")]
    NodeIsThere,
    #[error("identity must be the 64 hex digits of a connection")]
    BadIdentity,
    #[error("the connection is on node {node}: look there")]
    OnAnotherNode { node: Generation },
    #[error("one of identity, session, channel and user must be given")]
    NoTraceTarget,
    #[error("seconds must be from 1 to 60")]
    BadSeconds,
    #[error("too many traces are being read")]
    TooManyTraces,
    #[error("state must be online, away or waiting, or be left out")]
    BadState,
    #[error("order must be name or oldest")]
    BadOrder,
    #[error("a list reaches {SESSIONS_LISTED_MAX} sessions far: narrow it with find or state")]
    PageTooDeep,
    #[error("span must be hour or day")]
    BadSpan,
    #[error("identity, channel or user must be given")]
    NoTarget,
    #[error("code must be 1000 or from 3000 to 4999, reason at most 123 bytes")]
    BadClose,
    #[error("too many calls are waiting")]
    TooManyCalls,
    /// A worker, the store or another call did not answer.
    #[error("no answer in time")]
    NoAnswerInTime,
    #[error("the body is not the JSON that this call takes: {0}")]
    BadJson(String),
}

impl Refusal {
    /// The HTTP status: 400 where the 2014 server failed with 500, 503 where the same call may succeed later, else 200.
    pub fn status(&self) -> u16 {
        match self {
            Refusal::BadJson(_) => 400,
            Refusal::TooManyCalls | Refusal::TooManyTraces => 503,
            Refusal::NoAnswerInTime | Refusal::Store(StoreError::TooBusy) => 503,
            _ => 200,
        }
    }

    /// The HTTP status where `strict_status` is on.
    pub fn strict_status(&self) -> u16 {
        use QueryRefusal as Of;
        match self {
            Refusal::TooManyCalls | Refusal::TooManyTraces | Refusal::NoAnswerInTime | Refusal::Store(_) => 503,
            Refusal::Shard(Of::TooBusy | Of::TooManyMessages | Of::NotStored | Of::Unreachable) => 503,
            Refusal::NoSuchConnection | Refusal::NoSuchSession | Refusal::OnAnotherNode { .. } => 404,
            Refusal::Shard(Of::NoSuchConnection | Of::NoSuchSession) => 404,
            Refusal::Shard(Of::MessageTooLarge) => 413,
            Refusal::OtherCall | Refusal::NoStoreForId | Refusal::NoStoreForSessions => 409,
            Refusal::Shard(Of::TooManyChannels) => 409,
            _ => 400,
        }
    }
}
