//! What a shard wants done. The worker, the simulator and the fuzzer are three interpreters of it.

use super::call::query::{Query, Reply};
use super::call::trace::{TraceEntry, TraceId};
use super::command::{Command, SessionId, StoreError};
use super::ids::QueryId;
use crate::base::client::ClientContext;
use crate::base::id::{ConnKey, Identity};
use crate::base::time::Tick;
use crate::wire::packet::QoS;
use crate::wire::ws::frame::CloseCode;
use std::sync::Arc;

/// How a connection has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Of the first close frame, whoever sent it; `ABNORMAL` without one.
    pub code: CloseCode,
    pub reason: Box<str>,
    /// The durable session that it was attached to.
    pub session: Option<Arc<str>>,
}

impl Default for Ending {
    fn default() -> Ending {
        Ending { code: CloseCode::ABNORMAL, reason: "".into(), session: None }
    }
}

#[derive(Debug)]
pub enum Output {
    Forward(Forward),
    /// A connection that the backend had let in has ended.
    Closed {
        identity: Identity,
        client: ClientContext,
        ending: Ending,
    },
    Reply {
        query_id: QueryId,
        reply: Reply,
    },
    /// The connection is attached to its session, and its 101 is on the way.
    Attached {
        key: ConnKey,
    },
    /// The store does not take the session; `Input::Abandoned` must follow.
    AttachRefused {
        key: ConnKey,
        why: StoreError,
    },
    /// For the store, in this order.
    Store(Command),
    /// A query about a connection that was handed over: `Input::RedirectedQuery` there.
    RedirectQuery {
        to: ConnKey,
        query_id: QueryId,
        query: Query,
    },
    /// A connection that came from another shard has ended: `Input::HandoverEnded` there, for the slot it came from.
    HandoverEnded {
        origin: ConnKey,
    },
    /// A session has come here, or is not here any more.
    SessionHere {
        name: Arc<str>,
        here: bool,
    },
    /// After `Input::PassSession`: everything of the session is stored, or the store refuses.
    SessionFlushed {
        name: Arc<str>,
    },
    /// The session has ended, and what the store has of it is removed.
    SessionDropped {
        name: Arc<str>,
    },
    /// A durable session has ended: for the backend.
    SessionEnded {
        name: Arc<str>,
        cookie: Option<Arc<[u8]>>,
        why: SessionEnd,
    },
    /// A stored message has reached its session.
    Receipt {
        session: Arc<str>,
        message_id: Option<Arc<str>>,
    },
    /// An entry for whoever reads the trace.
    Traced {
        trace: TraceId,
        entry: Box<TraceEntry>,
    },
    /// End our direction of the socket, so that the close frame arrives whatever the client still sends.
    EndWriting {
        key: ConnKey,
    },
    /// End the socket; `Input::SocketEnded` follows.
    Shutdown {
        key: ConnKey,
    },
    /// Read the client again.
    Resume {
        key: ConnKey,
    },
    /// The first member of a channel (named by its hash, with the shard's key) has joined here, or the last one has
    /// left.
    Presence {
        channel: u64,
        here: bool,
    },
}

/// A client's message for the backend.
#[derive(Debug)]
pub struct Forward {
    pub key: ConnKey,
    /// Of a durable session: its messages are numbered over all its connections.
    pub session: Option<SessionId>,
    pub message_type: u16,
    pub qos: QoS,
    /// The message's run (high bits) and id (low 16), the same for all repeats. 0 at QoS 0.
    pub sequence: u64,
    pub deadline: Tick,
    pub identity: Identity,
    pub client: ClientContext,
    pub body: Vec<u8>,
}

impl Forward {
    /// As the business server has set it.
    pub fn cookie(&self) -> Option<&[u8]> {
        self.client.cookie().map(|cookie| &cookie[..])
    }
}

/// Why a durable session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    Expired,
    Dropped,
}
