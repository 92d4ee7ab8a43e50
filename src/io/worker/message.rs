//! What one worker sends to another, through `peers`; the main thread sends reloads and the drain.
//!
//! `turn` handles each message. A message that answers something names the oneshot that waits for it.

use crate::base::id::{ConnKey, Generation};
use crate::cluster::ownership::disk_calls::NameQuery;
use crate::config::{Change, Config};
use crate::io::cluster::port::ToWorker;
use crate::io::runtime::oneshot::{OneshotId, ReturnAddress};
use crate::shard::command::Token;
use crate::shard::{Query, QueryId, Reply, TraceEntry, TraceId};
use std::sync::Arc;

/// The error says, for people, why nothing was changed or who has not taken it.
pub type ReloadOutcome = Result<ReloadReport, String>;

/// What a reload has changed, or would change.
pub struct ReloadReport {
    /// One line for people.
    pub text: String,
    pub changes: Vec<Change>,
}

pub enum PeerMessage {
    Query {
        query_id: QueryId,
        query: Query,
    },
    Reply {
        query_id: QueryId,
        reply: Reply,
    },
    /// An entry of a trace that a caller of this worker reads.
    Traced {
        trace: TraceId,
        entry: Box<TraceEntry>,
    },
    /// A query about a connection that was handed over to this worker.
    RedirectedQuery {
        key: ConnKey,
        query_id: QueryId,
        query: Query,
    },
    /// The owner of its session has taken the connection over.
    HandedOver {
        origin: ConnKey,
        to: ConnKey,
    },
    /// A connection that was handed over has ended.
    HandoverEnded {
        origin: ConnKey,
    },
    /// A connection was lost on its way.
    HandoverFailed {
        origin: ConnKey,
    },
    /// The call that was first with a `message_id` has ended; `None`: it failed.
    CallEnded {
        oneshot: OneshotId,
        response: Option<Arc<[u8]>>,
    },
    /// A new configuration is in force.
    Reload {
        config: Arc<Config>,
        /// Of the reload, for `Event::Reloaded`.
        number: u64,
    },
    /// The outcome of an `Event::Reload` or an `Event::PreviewReload`.
    Reloaded {
        oneshot: OneshotId,
        outcome: ReloadOutcome,
    },
    /// Another node asks for a session that this worker owns; `SessionPassed` goes to `to`.
    PassSession {
        from: Generation,
        name: Arc<str>,
        token: Token,
        to: ReturnAddress,
    },
    /// Its owner, another node, stops: it is to be this node's.
    TakeSession {
        from: Generation,
        name: Arc<str>,
    },
    /// What became of a `PassSession`.
    SessionPassed {
        oneshot: OneshotId,
        is_passed: bool,
    },
    /// The session that was passed on is known where it is.
    SessionKnown {
        name: Arc<str>,
    },
    /// Another node asks about a session that would be this worker's; `NameAnswered` goes to `to`.
    QueryName {
        from: Generation,
        query: NameQuery,
        to: ReturnAddress,
    },
    NameAnswered {
        oneshot: OneshotId,
        code: u32,
    },
    /// What the cluster's thread has to say.
    Cluster(ToWorker),
    /// Close everything at a pace, then end.
    Drain,
}
