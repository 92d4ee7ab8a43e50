//! What a shard is told, what it says, and what its operator has decided.

use super::command::{Command, Completions, ExpiredMessages, SessionId, StoreError};
use super::messages::Message;
use super::parts::QueryId;
use super::planted::Bug;
use super::query::{Query, Reply, Terms};
use super::session::{SessionEnd, SessionSettings};
use super::uplink::ForwardOutcome;
use crate::base::id::{ConnKey, Identity};
use crate::base::time::Tick;
use crate::wire::packet::QoS;
use crate::wire::ws::frame::CloseCode;
use std::rc::Rc;
use std::sync::Arc;

/// What the operator decided, as far as it concerns a shard. Times in milliseconds; a `messages_per_second` or
/// `idle_timeout_ms` of 0 means none.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub ping_interval_ms: u64,
    pub pong_timeout_ms: u64,
    pub idle_timeout_ms: u64,
    pub close_timeout_ms: u64,
    pub ack_timeout_ms: u64,
    pub ack_backoff: f64,
    pub forward_deadline_ms: u64,
    pub forward_queue: usize,
    pub forward_queue_bytes: usize,
    /// Is there a backend that wants clients' messages?
    pub forwards: bool,
    pub inflight_window: usize,
    pub received_max: usize,
    pub answers_bytes_max: usize,
    pub message_bytes_max: usize,
    pub outbox_bytes_max: usize,
    pub messages_per_second: u32,
    pub channels_per_connection: usize,
    pub sessions: SessionSettings,
    pub mode: Mode,
}

/// What messages are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Messages are Rainbow packets.
    Packets,
    /// Every message goes back as it came (for conformance tests of framer, session task and outbox).
    Echo,
    /// `Packets`, but a message of this type panics: shows that one panic costs one connection.
    PanicOn(u16),
    /// `Packets`, with a mistake: shows that the simulation's model would notice it. In debug builds only.
    #[doc(hidden)]
    Planted(Bug),
}

/// Which connections a drain closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainScope {
    Settled,
    All,
}

pub enum Input<'a> {
    /// The backend has let it in; `response` is the 101 that goes out first.
    Opened {
        key: ConnKey,
        response: Rc<[u8]>,
    },
    /// It was refused, or went away while the backend was asked.
    Abandoned {
        key: ConnKey,
    },
    Subscribe {
        key: ConnKey,
        channel: &'a str,
    },
    Unsubscribe {
        key: ConnKey,
        channel: &'a str,
    },
    /// Kept, and sent back with every later call for this connection.
    Cookie {
        key: ConnKey,
        value: &'a [u8],
    },
    /// What the client's socket yielded; unmasked in place.
    Bytes {
        key: ConnKey,
        data: &'a mut [u8],
    },
    SocketEnded {
        key: ConnKey,
    },
    /// The outcome of `Output::Forward`; `spent` is its body, for reuse.
    Forwarded {
        key: ConnKey,
        outcome: ForwardOutcome<'a>,
        spent: Vec<u8>,
    },
    Query {
        ticket: QueryId,
        query: Query,
    },
    /// `Query::Send` without owning the channel's name.
    Send {
        ticket: QueryId,
        channel: &'a str,
        message: Message,
        terms: &'a Terms,
    },
    /// Instead of `Opened`: the connection becomes that of a durable session. `Output::Attached` or `AttachRefused`
    /// follows; the 101 goes out when the store has it.
    Attach {
        key: ConnKey,
        response: Rc<[u8]>,
        /// Names the session if it is new.
        new: SessionId,
        name: Arc<str>,
        /// As the backend asked; `None`: the configured one.
        expiry_s: Option<u64>,
        /// The client speaks `rainbow.2` and gets the packet of type 65535 first.
        greets: bool,
    },
    /// The store has finished work.
    Completions(Completions),
    /// The store has removed messages whose time was over.
    MessagesExpired(ExpiredMessages),
    /// The connection goes on elsewhere, in its session's home; the slot stays, since the identity leads here.
    HandedOver {
        key: ConnKey,
        to: ConnKey,
    },
    /// A moved connection has ended.
    HandoverEnded {
        key: ConnKey,
    },
    /// A question about an identity, redirected to where its connection has moved.
    RedirectedQuery {
        key: ConnKey,
        ticket: QueryId,
        query: Query,
    },
    Close {
        key: ConnKey,
        code: CloseCode,
        reason: &'a str,
    },
    /// Handling this connection panicked: what it holds is not trusted any more.
    Panicked {
        key: ConnKey,
    },
    Tick,
}

#[derive(Debug)]
pub enum Output {
    Forward(Forward),
    /// A connection that the backend had let in is no more.
    Closed {
        identity: Identity,
        cookie: Option<Rc<[u8]>>,
    },
    Reply {
        ticket: QueryId,
        reply: Reply,
    },
    /// The connection is its session's, its 101 is on the way.
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
    /// A question about a connection that has moved: `Input::RedirectedQuery` there.
    RedirectQuery {
        to: ConnKey,
        ticket: QueryId,
        query: Query,
    },
    /// A connection that came from another shard has ended: `Input::HandoverEnded` there.
    HandoverEnded {
        stub: ConnKey,
    },
    /// A durable session is no more.
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
    /// The first member of a channel (by `channels::name_hash`) is here, or the last one has left.
    Presence {
        channel: u64,
        here: bool,
    },
}

/// A client's message for the backend.
#[derive(Debug)]
pub struct Forward {
    pub key: ConnKey,
    /// Of a durable session: then `sequence` is its run (high bits) and its id (low 16).
    pub session: Option<SessionId>,
    pub message_type: u16,
    pub qos: QoS,
    /// Counts the connection's QoS 1/2 messages from 1; the same for all repeats. 0 at QoS 0.
    pub sequence: u64,
    pub deadline: Tick,
    pub identity: Identity,
    pub cookie: Option<Rc<[u8]>>,
    pub body: Vec<u8>,
}

impl Settings {
    #[inline]
    pub(super) fn is_planted(&self, bug: Bug) -> bool {
        cfg!(debug_assertions) && self.mode == Mode::Planted(bug)
    }
}
