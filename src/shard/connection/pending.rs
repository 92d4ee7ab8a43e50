//! One message on its way to a client, and a connection's list of them. `downlink` moves messages through these states.

use crate::base::arena::{LINKS_MEMORY, List, NodeIndex};
use crate::base::time::Tick;
use crate::shard::call::query::Wait;
use crate::shard::call::waiting::CallRef;
use crate::shard::command::{Claim, IDS, Offset, UnixMs};
use crate::shard::context::Context;
use crate::shard::message::{Message, MessageRef};
use crate::shard::planted::Bug;
use crate::wire::packet::{MessageId, QoS};
use std::sync::Arc;

/// One connection's list, and where it stands in it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Downlink {
    pub(super) list: List,
    /// All that come before it in the list have been sent.
    pub(super) first_queued: Option<NodeIndex>,
    pub(super) queued_memory: u32,
    /// The offset of the next message that gets an id; its id follows from it. Below `OFFSETS`.
    pub(super) launched: u32,
    pub(super) in_flight: u16,
}

/// A QoS 1/2 message to a client that is not finished.
pub struct Pending {
    /// `None` once the client has it (QoS 2, after REC).
    pub(super) message: Option<MessageRef>,
    /// `None` when no call waits any more: the message is stored, or was loaded from the store.
    pub(super) call: Option<CallRef>,
    /// When it is given up, unless it is stored.
    pub(super) deadline: Tick,
    pub(super) repeat_at: Tick,
    /// When a durable session has it stored.
    pub(super) store_at: Tick,
    pub(super) expires: UnixMs,
    /// Its place among all that got an id, below `OFFSETS`; in a durable session its `Offset`.
    pub(super) offset: u64,
    pub(super) attempts: u16,
    pub(super) state: State,
    pub(super) store_state: StoreState,
    /// Sent before, on an earlier connection.
    pub(super) dup: bool,
    /// The caller's `message_id`, for receipts.
    pub(super) message_id: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Queued,
    /// Sent; waiting for ACK or REC.
    Sent(QoS),
    /// REC came for a stored message; REL waits for the store.
    Releasing,
    /// REC came, REL went out; waiting for COM.
    Released,
}

/// Does the store have the message?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreState {
    NotStored,
    Storing,
    Stored,
    /// Refused by a store that may have stored it all the same: nothing is promised, and it is treated as stored.
    Unknown,
}

impl StoreState {
    /// Does the message count as waiting?
    pub fn counts(self) -> bool {
        matches!(self, StoreState::Storing | StoreState::Stored)
    }
}

/// On what terms a message is delivered to each member of a channel.
pub struct MemberTerms {
    pub call: CallRef,
    pub deadline: Tick,
    pub expires: UnixMs,
    pub claim: Option<Claim>,
    pub wait: Wait,
}

/// What the store needs of a message in memory.
pub struct ToStore {
    pub offset: Offset,
    pub message: Message,
    /// It may have reached the client.
    pub sent: bool,
    pub expires: UnixMs,
}

impl MemberTerms {
    /// For a member that is a durable session.
    pub fn of_session(&self) -> MemberTerms {
        let MemberTerms { call, deadline, expires, ref claim, wait } = *self;
        MemberTerms { call: call.of_session(), deadline, expires, claim: claim.clone(), wait }
    }
}

impl Downlink {
    /// Of messages that wait for room in the window.
    pub fn queued_memory(&self) -> usize {
        self.queued_memory as usize
    }

    pub fn in_flight(&self) -> usize {
        usize::from(self.in_flight)
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Messages wait for room in the window.
    pub fn has_queued(&self) -> bool {
        self.first_queued.is_some()
    }
}

impl Pending {
    pub(super) fn new(message: &MessageRef, member_terms: &MemberTerms, cx: &mut Context<'_>) -> Pending {
        Pending {
            message: Some(cx.messages.another(message)),
            call: Some(member_terms.call),
            deadline: member_terms.deadline,
            repeat_at: Tick::NEVER,
            store_at: Tick::NEVER,
            expires: member_terms.expires,
            offset: 0,
            attempts: 0,
            state: State::Queued,
            store_state: StoreState::NotStored,
            dup: false,
            message_id: None,
        }
    }

    /// What it costs while it is queued: its place in the list, and its message, also where others share it.
    pub(super) fn memory(&self) -> usize {
        PENDING_MEMORY + self.message.as_ref().map_or(0, MessageRef::len)
    }

    pub(super) fn id(&self) -> MessageId {
        id_of(self.offset)
    }

    /// For a durable session; a plain connection's message has its deadline.
    pub(super) fn has_expired(&self, cx: &Context<'_>) -> bool {
        self.expires <= cx.unix() && !cx.is_planted(Bug::DeliversExpired)
    }

    /// Its time is over, and the client may hold its id.
    pub fn leaves_an_id(&self, cx: &Context<'_>) -> bool {
        self.state == State::Sent(QoS::ExactlyOnce) && self.has_expired(cx)
    }

    /// Nobody was promised that it arrives.
    pub(super) fn may_be_given_up(&self) -> bool {
        self.store_state == StoreState::NotStored && !self.is_released()
    }

    /// When it has to be looked at.
    pub(super) fn wake(&self) -> Tick {
        let deadline = if self.may_be_given_up() { self.deadline.min(self.store_at) } else { Tick::NEVER };
        deadline.min(self.repeat_at)
    }

    pub fn offset(&self) -> Offset {
        Offset(self.offset)
    }

    pub fn store_state(&self) -> StoreState {
        self.store_state
    }

    pub fn has_call(&self) -> bool {
        self.call.is_some()
    }

    /// The client has it; its REL, or the answer to that, is missing.
    pub fn is_released(&self) -> bool {
        matches!(self.state, State::Releasing | State::Released)
    }
}

/// 1, 2, …, 65534, 1, …
pub(super) fn id_of(offset: u64) -> MessageId {
    Offset(offset).id()
}

pub(super) fn offset_after(offset: u64) -> u64 {
    (offset + 1) % OFFSETS
}

pub(super) const PENDING_MEMORY: usize = size_of::<Pending>() + LINKS_MEMORY;

/// A connection's offsets go round where ids do, so that the ids go on without a jump, and fit `launched`.
pub(super) const OFFSETS: u64 = u32::MAX as u64 / IDS * IDS;
