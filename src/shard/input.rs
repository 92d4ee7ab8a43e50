//! What goes into a shard.

use super::call::query::{Query, Terms};
use super::command::{Completions, ExpiredMessages, SessionId};
use super::ids::QueryId;
use super::message::Message;
use crate::base::id::ConnKey;
use crate::wire::packet::MessageRefusal;
use crate::wire::ws::frame::CloseCode;
use std::rc::Rc;
use std::sync::Arc;

pub enum Input<'a> {
    /// The backend has let the connection in; `response` is the 101 that goes out first.
    Opened {
        key: ConnKey,
        response: Rc<[u8]>,
        /// The client speaks `rainbow.2` and gets the packet of type 65535 first.
        greets: bool,
    },
    /// The backend has refused the connection, or the client went away during its connect hook.
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
    /// Stays with the connection, and goes back with every later hook for it.
    Cookie {
        key: ConnKey,
        value: &'a [u8],
    },
    /// Who the client is, as the business server says when it lets it in: before `Opened` or `Attach`.
    User {
        key: ConnKey,
        user: &'a str,
    },
    /// What the client's socket yielded; unmasked in place.
    Bytes {
        key: ConnKey,
        data: &'a mut [u8],
    },
    /// One packet, from a transport whose frames are taken apart outside (SSE, long poll).
    Packet {
        key: ConnKey,
        packet: &'a [u8],
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
        query_id: QueryId,
        query: Query,
    },
    /// `Query::Send` without owning the channel's name.
    Send {
        query_id: QueryId,
        channel: &'a str,
        message: Message,
        terms: &'a Terms,
    },
    /// Attaches the connection to a durable session. Replaces `Opened` for such connections: `Output::Attached` or
    /// `AttachRefused` follows, and the 101 goes out when the store has the session.
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
    /// The store has completed commands.
    Completions(Completions),
    /// The store has removed messages whose time was over.
    MessagesExpired(ExpiredMessages),
    /// Another node is to have the session: `Output::SessionFlushed` follows. From now on nothing is taken for it.
    PassSession {
        name: &'a Arc<str>,
    },
    /// Another node has the session. Nothing is taken for it, until `ForgetSession`.
    LoseSession {
        name: &'a str,
    },
    /// Its node has ended while it was online, and it does not outlive its connection.
    ExpireSession {
        name: &'a str,
    },
    /// The session that was passed on, or lost, need not be known here any more. `keeps_name`: but by its name it must,
    /// until it is certain what became of it.
    ForgetSession {
        name: &'a str,
        keeps_name: bool,
    },
    /// The connection goes on in the shard that owns its session. Its slot here stays, since its identity leads here.
    HandedOver {
        key: ConnKey,
        to: ConnKey,
    },
    /// A connection that was handed over has ended.
    HandoverEnded {
        key: ConnKey,
    },
    /// A query about an identity, redirected to where its connection was handed over.
    RedirectedQuery {
        key: ConnKey,
        query_id: QueryId,
        query: Query,
    },
    Close {
        key: ConnKey,
        code: CloseCode,
        reason: &'a str,
    },
    /// Handling this connection panicked: its state is not trusted any more.
    Panicked {
        key: ConnKey,
    },
    Tick,
}

/// What became of a forwarded message.
#[derive(Clone, Copy, Debug)]
pub enum ForwardOutcome<'a> {
    Answered(&'a [u8]),
    /// The backend has refused the message for good.
    Refused(MessageRefusal<'a>),
    /// Given up: the deadline has passed, QoS 0 found no backend, or the backend answered what is no answer.
    Failed,
}

/// Which connections a drain closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainScope {
    /// Those without anything in flight.
    Settled,
    All,
}
