//! Messages to durable sessions: sent at once where the client is there, stored where it is not, and stored too when it
//! does not acknowledge soon.
//!
//! ```text
//! deliver ──(online, nothing older is stored)──► in flight ──ACK──► done: the disk was never touched
//!    │                                              │ not acknowledged in time, or the connection ends
//!    │                                              ▼
//!    └──(absent, or behind stored ones)─────► PutMessage ──completed──► the call counts it as stored
//!                                                   │
//!                         Load, a page at a time ◄──┘──► in flight, same offset, same id ──► RemoveMessage
//! ```
//! A stored QoS 2 message's REL waits for the store too: once the client has it, it may forget the id, and then nothing
//! may bring the message back.

pub mod union;

use super::commands::Then;
use super::pages::{advance_oldest, load_more, sweep};
use super::row::{put, reserve_ahead};
use super::scope::Scope;
use super::state::Sweep;
use crate::base::arena::NodeIndex;
use crate::base::id::ConnIndex;
use crate::shard::call::query::NotStored;
use crate::shard::call::waiting::CallRef;
use crate::shard::command::{Completion, IDS, Mutation, Offset, StoreError, StoredMessage, UnixMs};
use crate::shard::connection::pending::{MemberTerms, StoreState, ToStore};
use crate::shard::ids::{SessionIndex, SessionKey};
use crate::shard::message::{Message, MessageRef};
use crate::shard::output::Output;
use crate::shard::planted::Bug;
use crate::wire::packet::QoS;
use std::sync::Arc;

/// To one session. `delivery` is `None` at QoS 0, which is for those who are online.
pub fn deliver(scope: &mut Scope<'_>, index: SessionIndex, message: &MessageRef, member_terms: Option<&MemberTerms>) {
    let online = scope.online_conn(index);
    let Some(member_terms) = member_terms else {
        if let Some(conn) = online {
            scope.downlinks.deliver_qos0(scope.conns, conn, message, &mut scope.cx);
        }
        return;
    };
    let member_terms = &member_terms.of_session();
    let span_max = IDS - scope.cx.settings.limits.reserve_block_max;
    let session = scope.sessions.table.at(index);
    if session.next.0 - session.oldest.0 >= span_max {
        // No two unfinished messages may have one id.
        return scope.cx.call_refused(Some(member_terms.call), NotStored::TooMany);
    }
    // A claim is stored first, and so is what has an offset that is not reserved; unless nothing is stored at all.
    let needs_store = member_terms.claim.is_some() || session.next >= session.reserved;
    let direct = !(session.more || session.loading || needs_store && session.outlives_connection());
    let len = message.len();
    match online.filter(|&conn| direct && scope.conns.drop_for_room(conn, len, &mut scope.cx)) {
        Some(conn) => {
            let session = scope.sessions.table.at_mut(index);
            let offset = session.take_offset();
            session.loaded = session.next;
            scope.downlinks.deliver_at(scope.conns, conn, (message, offset), member_terms, &mut scope.cx);
            reserve_ahead(scope, index);
        }
        None => store_new(scope, index, message, member_terms),
    }
}

/// A message whose client is not there, or has older ones to get first.
fn store_new(scope: &mut Scope<'_>, index: SessionIndex, message: &MessageRef, member_terms: &MemberTerms) {
    let len = message.len();
    if let Some(why) = no_room(scope, index, len) {
        return scope.cx.call_refused(Some(member_terms.call), why);
    }
    let now = scope.cx.unix();
    let session = scope.sessions.table.at_mut(index);
    let offset = session.take_offset();
    session.more |= session.conn.is_some();
    session.count_waiting(len as u64, now);
    let (key, id) = (session.key(index), session.id);
    let stored = StoredMessage {
        session: id,
        offset,
        message: scope.cx.messages.get(message).clone(),
        sent: false,
        released: false,
        stored: now,
        expires: member_terms.expires,
        claim: member_terms.claim.clone(),
    };
    let then = Then::MessageStored { session: key, offset, bytes: len as u64, call: Some(member_terms.call) };
    scope.mutate(Mutation::PutMessage(Box::new(stored)), then);
    // The client may hold its id when the store has forgotten the message: a crash must not use the offset again.
    reserve_ahead(scope, index);
}

/// Why nothing more is stored for the session.
fn no_room(scope: &mut Scope<'_>, index: SessionIndex, len: usize) -> Option<NotStored> {
    let limits = scope.cx.settings.sessions;
    let session = scope.sessions.table.at(index);
    let why = if session.passing {
        NotStored::Moving
    } else if !session.outlives_connection() || scope.sessions.table.is_ending(index, scope.cx.now) {
        NotStored::Ending
    } else if session.waiting as usize >= limits.messages_max {
        NotStored::TooMany
    } else if session.waiting_bytes + len as u64 > limits.bytes_max as u64 {
        NotStored::TooLarge
    } else if scope.sessions.commands.is_busy(&scope.cx) {
        NotStored::Store(StoreError::TooBusy)
    } else {
        return None;
    };
    scope.cx.metrics.stores_refused.increment();
    Some(why)
}

/// A message in memory that its client is slow to acknowledge, or has left. False when there is no room for it.
fn store_pending(scope: &mut Scope<'_>, index: SessionIndex, node: NodeIndex) -> bool {
    let len = scope.downlinks.message_len(node);
    if let Some(why) = no_room(scope, index, len) {
        scope.downlinks.refuse_storing(node);
        let call = scope.downlinks.take_call(node);
        scope.cx.call_refused(call, why);
        return false;
    }
    let ToStore { offset, message, sent, expires } = scope.downlinks.begin_storing(node, &scope.cx);
    let now = scope.cx.unix();
    let session = scope.sessions.table.at_mut(index);
    session.count_waiting(len as u64, now);
    let (key, session) = (session.key(index), session.id);
    let stored = StoredMessage { session, offset, message, sent, released: false, stored: now, expires, claim: None };
    let then = Then::MessageStored { session: key, offset, bytes: len as u64, call: None };
    scope.mutate(Mutation::PutMessage(Box::new(stored)), then);
    true
}

/// The client has not acknowledged the message in time.
pub fn on_store_due(scope: &mut Scope<'_>, conn: ConnIndex, node: NodeIndex) {
    if let Some(index) = scope.attached_session(conn) {
        if scope.sessions.table.at(index).outlives_connection() {
            scope.cx.metrics.stored_late.increment();
            store_pending(scope, index, node);
        } else {
            scope.downlinks.refuse_storing(node);
        }
        scope.downlinks.arm_for(scope.conns, conn, node, scope.cx.now);
    }
}

/// A `PutMessage` is completed. `call`: of a message that is not in memory.
pub fn on_message_stored(
    scope: &mut Scope<'_>,
    (key, offset): (SessionKey, Offset),
    bytes: u64,
    call: Option<CallRef>,
    completion: Completion,
) {
    let call = call.or_else(|| scope.sessions.detached_calls.remove(&(key, offset)));
    let call = call.or_else(|| note_stored(scope, key, offset, &completion));
    match completion {
        Completion::Done => {
            scope.cx.metrics.messages_stored.increment();
            scope.cx.call_stored(call);
        }
        other => {
            if let Some(session) = scope.sessions.table.get_mut(key) {
                session.uncount_waiting(bytes);
            }
            match other {
                Completion::Refused(why) => scope.cx.call_refused(call, NotStored::Store(why)),
                // The session has had the message of this claim.
                _ => scope.cx.call_stored(call),
            }
        }
    }
    if scope.sessions.table.get(key).is_some_and(|session| session.conn.is_some()) {
        load_more(scope, key.index);
    }
}

/// What the completion means for the message in memory, if it is there. Returns the call that waits for it.
fn note_stored(scope: &mut Scope<'_>, key: SessionKey, offset: Offset, completion: &Completion) -> Option<CallRef> {
    let (conn, node) = find(scope, key, offset)?;
    let state = match completion {
        Completion::Done => StoreState::Stored,
        Completion::Refused(StoreError::Unreachable) => StoreState::Unknown,
        // Then it is a message like any other, without a promise.
        _ => StoreState::NotStored,
    };
    scope.downlinks.set_store_state(scope.conns, conn, node, state, scope.cx.now);
    scope.downlinks.take_call(node)
}

/// The message in flight or queued under this offset, where its session is online.
fn find(scope: &Scope<'_>, key: SessionKey, offset: Offset) -> Option<(ConnIndex, NodeIndex)> {
    let conn = scope.sessions.table.get(key)?.conn?;
    scope.downlinks.find_offset(scope.conns, conn, offset).map(|node| (conn, node))
}

/// A message has left its connection's list. `stored`: where the store has it, its bytes that count as waiting, and
/// whether it has expired.
pub fn on_finished(scope: &mut Scope<'_>, conn: ConnIndex, offset: Offset, stored: Option<(u64, bool)>) {
    let Some(index) = scope.session_of(conn) else { return };
    advance_oldest(scope, index, conn);
    if let Some((bytes, expired)) = stored {
        let session = scope.sessions.table.at(index);
        let (key, session) = (session.key(index), session.id);
        let then = Then::MessageRemoved { session: key, bytes, expired };
        scope.mutate(Mutation::RemoveMessage { session, offset }, then);
    }
    load_more(scope, index);
    sweep(scope, index);
}

/// The client has a stored message: a receipt is reported where they are wanted.
pub fn on_received(scope: &mut Scope<'_>, conn: ConnIndex, message_id: Option<Arc<str>>) {
    if let Some(index) = scope.session_of(conn) {
        let session = scope.sessions.table.at(index).name.clone();
        scope.cx.output(Output::Receipt { session, message_id });
    }
}

/// REC for a stored message, or its time is over.
pub fn on_releasing(scope: &mut Scope<'_>, conn: ConnIndex, offset: Offset, (bytes, expired): (u64, bool)) {
    if let Some(index) = scope.session_of(conn) {
        let session = scope.sessions.table.at(index);
        let (key, session) = (session.key(index), session.id);
        let then = Then::Released { session: key, offset, bytes, expired };
        scope.mutate(Mutation::ReleaseMessage { session, offset }, then);
    }
}

/// The store has recorded that the client has the message, or has it no more, or has refused to record it.
pub fn on_released(scope: &mut Scope<'_>, key: SessionKey, offset: Offset, completion: Completion) {
    let state = match completion {
        Completion::Done => Some(StoreState::Stored),
        // Should the connection end before COM, the REL must be stored.
        Completion::Absent => Some(StoreState::NotStored),
        _ => None,
    };
    if let Some(conn) = scope.sessions.table.get(key).and_then(|session| session.conn) {
        scope.downlinks.on_release_stored(scope.conns, conn, offset, state, &mut scope.cx);
    }
}

/// The connection is over: what its client has not acknowledged is stored.
pub fn store_unfinished(scope: &mut Scope<'_>, index: SessionIndex, conn: ConnIndex) {
    let queued = scope.downlinks.first_queued_offset(scope.conns, conn);
    let session = scope.sessions.table.at_mut(index);
    session.launched = session.launched.max(queued.unwrap_or(session.end_of_memory()));
    let (key, keeps) = (session.key(index), session.outlives_connection());
    let mut next = scope.downlinks.first(scope.conns, conn).filter(|_| !scope.cx.is_planted(Bug::ForgetsAtTheEnd));
    while let Some(node) = next {
        next = scope.downlinks.next(node);
        let pending = scope.downlinks.get(node);
        let offset = pending.offset();
        match pending.store_state() {
            StoreState::NotStored if !keeps => {}
            StoreState::NotStored | StoreState::Unknown if pending.is_released() => store_release(scope, index, offset),
            StoreState::NotStored if pending.has_call() => {
                if store_pending(scope, index, node) {
                    detach_call(scope, key, offset, node);
                }
            }
            // Its call was answered: nothing is promised.
            StoreState::NotStored | StoreState::Unknown => {}
            StoreState::Storing => {
                if pending.is_released() {
                    // Should the store refuse the message that is on its way, its REL must still be stored.
                    store_release(scope, index, offset);
                }
                detach_call(scope, key, offset, node);
            }
            StoreState::Stored if pending.leaves_an_id(&scope.cx) => note_unreleased(scope, index, offset),
            StoreState::Stored => {}
        }
    }
}

/// The store has removed messages whose time was over. The client may hold ids of those that an earlier connection has
/// sent: they are swept.
pub fn note_expired(scope: &mut Scope<'_>, index: SessionIndex) {
    let session = scope.sessions.table.at(index);
    let (oldest, launched) = (session.oldest, session.launched);
    let is_known = session.sweep.is_some_and(|sweep| sweep.from <= oldest && sweep.upto >= launched);
    if session.conn.is_none() && oldest < launched && !is_known {
        note_unreleased(scope, index, oldest);
        note_unreleased(scope, index, Offset(launched.0 - 1));
        put(scope, index, Then::Nothing);
    }
}

/// The client may hold the id of this offset for ever, unless it is swept.
fn note_unreleased(scope: &mut Scope<'_>, index: SessionIndex, offset: Offset) {
    let session = scope.sessions.table.at_mut(index);
    let known = session.sweep.unwrap_or(Sweep::new(offset, offset));
    session.sweep = Some(Sweep::new(known.from.min(offset), known.upto.max(offset.next())));
}

/// The call goes on waiting for the store, without the connection.
fn detach_call(scope: &mut Scope<'_>, key: SessionKey, offset: Offset, node: NodeIndex) {
    let call = scope.downlinks.take_call(node);
    scope.sessions.detached_calls.extend(call.map(|call| ((key, offset), call)));
}

/// A message that was never stored and that the client has: what is left of it is its REL.
fn store_release(scope: &mut Scope<'_>, index: SessionIndex, offset: Offset) {
    let now = scope.cx.unix();
    let session = scope.sessions.table.at(index);
    let (key, session) = (session.key(index), session.id);
    let stored = StoredMessage {
        session,
        offset,
        message: Message::encode(QoS::ExactlyOnce, 0, b"", scope.cx.scratch),
        sent: true,
        released: true,
        stored: now,
        expires: UnixMs(now.0.saturating_add(scope.cx.settings.sessions.message_ttl_ms)),
        claim: None,
    };
    scope.mutate(Mutation::PutMessage(Box::new(stored)), Then::ReleaseStored { session: key, offset });
}

/// The REL of a message could not be stored: the client may hold its id for ever, unless it is swept.
pub fn on_release_refused(scope: &mut Scope<'_>, key: SessionKey, offset: Offset) {
    if scope.sessions.table.get(key).is_none() {
        return;
    }
    note_unreleased(scope, key.index, offset);
    if scope.online_conn(key.index).is_some() {
        sweep(scope, key.index);
    }
}
