//! How connections of sessions end, and how sessions do: detached, refused, expired, dropped; and how they go to
//! another node, where several share a store.
//!
//! ```text
//! pass ─► its client gets 4409, what is unfinished is stored ─► SessionFlushed ─► passing ─► let_go
//! lose ─► its client gets 4409 ────────────────────────────────────────► passing ─► let_go
//!                                                                           │
//!                                             what is sent to it is refused ◄┘
//! ```
//! A session that was passed on, or taken, stays until its new owner is known to everybody, or to this node: a message
//! for one of its channels that came meanwhile would find nobody, and its caller would believe that nobody was to have
//! it.

use super::channels::note_online;
use super::commands::Then;
use super::downlink::store_unfinished;
use super::pages::advance_oldest;
use super::row::{arm_expiry, put, put_absent};
use super::scope::Scope;
use super::state::Session;
use crate::base::id::ConnIndex;
use crate::shard::call::query::Reply;
use crate::shard::command::{Mutation, SessionId, StoreError};
use crate::shard::connection::conn::Phase;
use crate::shard::ids::{QueryId, SessionIndex, SessionKey};
use crate::shard::output::{Output, SessionEnd};
use crate::wire::ws::frame::CloseCode;
use std::sync::Arc;

/// The connection is not open any more: it leaves its channels and its session, and nobody waits for its answers. Doing
/// it twice does no harm.
pub fn leave(scope: &mut Scope<'_>, conn: ConnIndex) {
    while let Some(change) = scope.channels.leave_any(scope.conns.joined_mut(conn)) {
        scope.cx.presence(change, false);
    }
    detach(scope, conn);
    scope.downlinks.abandon(scope.conns, conn, &mut scope.cx);
}

/// The session's connection is over: what is unfinished is stored, and the session waits for the next one.
fn detach(scope: &mut Scope<'_>, conn: ConnIndex) {
    let Some(index) = scope.attached_session(conn) else { return };
    if scope.sessions.table.at_mut(index).attaching.take().is_some() {
        scope.conns.set_session(conn, SessionKey::NONE);
    } else {
        scope.conns.note_session(conn, scope.sessions.table.at(index).name.clone());
        advance_oldest(scope, index, conn);
        store_unfinished(scope, index, conn);
    }
    let uplink_idle = scope.conns.details(conn).is_uplink_idle();
    let session = scope.sessions.table.at_mut(index);
    session.conn = None;
    session.attachment = session.attachment.wrapping_add(1);
    if session.uplink_conn == Some(conn) && uplink_idle {
        session.uplink_conn = None;
    }
    note_online(scope, index);
    put_absent(scope, index);
}

/// The store does not take the connection's session: the client gets a 503 with Retry-After.
pub fn refuse_attach(scope: &mut Scope<'_>, key: SessionKey, attachment: u32, why: StoreError) {
    let Some(session) = scope.sessions.table.get_mut(key).filter(|session| session.attachment == attachment) else {
        return;
    };
    let Some(attaching) = session.attaching.take() else { return };
    let conn = session.conn.take().expect("a connection is being attached");
    session.attachment = session.attachment.wrapping_add(1);
    scope.conns.set_session(conn, SessionKey::NONE);
    scope.cx.output(Output::AttachRefused { key: scope.conns.key(conn), why });
    if attaching.resumed {
        put_absent(scope, key.index);
    } else {
        // Whether it was stored is not known.
        let Session { id: session, name, .. } = forget(scope, key.index);
        scope.cx.output(Output::SessionDropped { name });
        scope.mutate(Mutation::DropSession { session }, Then::Dropped { session, query: None });
    }
}

/// Another connection, or nobody, gets the session that is being attached: it stays, even if it is new. `Some`: had
/// that one resumed it?
pub fn displace_attaching(scope: &mut Scope<'_>, index: SessionIndex) -> Option<bool> {
    let session = scope.sessions.table.at_mut(index);
    let (key, attachment) = (session.key(index), session.attachment);
    let resumed = std::mem::replace(&mut session.attaching.as_mut()?.resumed, true);
    refuse_attach(scope, key, attachment, StoreError::Fenced);
    Some(resumed)
}

/// `/session/drop/`: replied to when the store has forgotten it.
pub fn drop_session(scope: &mut Scope<'_>, query: QueryId, name: &str) {
    let Some(index) = scope.sessions.table.present(name) else { return scope.cx.reply(query, Reply::found(false)) };
    let uplink_conn = close_client(scope, index, (SESSION_DROPPED, "the session was dropped"));
    if let Some(conn) = uplink_conn {
        scope.uplinks.orphan(scope.conns, conn, &mut scope.cx);
    }
    let session = end(scope, index, SessionEnd::Dropped);
    let query = Some((query, Reply::found(true)));
    scope.mutate(Mutation::DropSession { session }, Then::Dropped { session, query });
    if let Some(conn) = uplink_conn {
        // What was held until the store had its numbers is nobody's now.
        scope.uplinks.forward_next(scope.conns, conn, None, &mut scope.cx);
        scope.conns.report_if_done(conn);
    }
}

/// Closes the session's connection and takes it off the session; so is the connection that still forwards for it, which
/// is returned.
fn close_client(scope: &mut Scope<'_>, index: SessionIndex, (code, why): (CloseCode, &str)) -> Option<ConnIndex> {
    let session = scope.sessions.table.at(index);
    let (conn, uplink_conn) = (session.conn, session.uplink_conn);
    if let Some(conn) = conn {
        match scope.conns.conn(conn).phase() {
            Phase::Connecting => drop(displace_attaching(scope, index)),
            _ => {
                scope.conns.close(conn, code, why, &mut scope.cx);
                leave(scope, conn);
            }
        }
    }
    scope.sessions.table.at_mut(index).uplink_conn = None;
    uplink_conn
}

/// What its client sent and has not gone to the backend is repeated elsewhere.
fn abandon_uplink(scope: &mut Scope<'_>, uplink_conn: Option<ConnIndex>) {
    if let Some(conn) = uplink_conn {
        scope.uplinks.abandon(scope.conns, conn, &mut scope.cx);
    }
}

/// Takes the session out of memory; its `DropSession` must follow.
fn end(scope: &mut Scope<'_>, index: SessionIndex, why: SessionEnd) -> SessionId {
    let session = forget(scope, index);
    scope.cx.output(Output::SessionDropped { name: session.name.clone() });
    scope.cx.output(Output::SessionEnded { name: session.name, cookie: session.cookie, why });
    session.id
}

/// Takes the session out of memory, and nothing else.
fn forget(scope: &mut Scope<'_>, index: SessionIndex) -> Session {
    leave_channels(scope, index);
    let session = scope.sessions.table.remove(index);
    scope.cx.output(Output::SessionHere { name: session.name.clone(), here: false });
    session
}

fn leave_channels(scope: &mut Scope<'_>, index: SessionIndex) {
    while let Some(change) = scope.channels.leave_any(&mut scope.sessions.table.at_mut(index).joined) {
        scope.cx.presence(change, false);
    }
}

/// Ends sessions whose time is over, a bounded number per tick, and asks the store again to drop what it still has.
pub fn tick(scope: &mut Scope<'_>) {
    for _ in 0..scope.cx.settings.limits.session_expiries_per_tick {
        let Some(index) = scope.sessions.table.poll_expiry(scope.cx.now) else { break };
        end_if_expired(scope, index);
    }
    if scope.cx.now >= scope.sessions.drop_at {
        scope.sessions.drop_at = crate::base::time::Tick::NEVER;
        for session in std::mem::take(&mut scope.sessions.undropped) {
            scope.mutate(Mutation::DropSession { session }, Then::Dropped { session, query: None });
        }
    }
}

fn end_if_expired(scope: &mut Scope<'_>, index: SessionIndex) {
    let session = scope.sessions.table.at(index);
    match session.ends {
        Some(ends) if ends > scope.cx.unix() => arm_expiry(scope, index),
        Some(_) if session.uplink_conn.is_some() => {
            let retry_at = scope.cx.now + scope.cx.settings.limits.store_retry_ms;
            scope.sessions.table.arm_expiry(index, retry_at);
        }
        Some(_) => {
            scope.cx.metrics.sessions_expired.increment();
            let session = end(scope, index, SessionEnd::Expired);
            scope.mutate(Mutation::DropSession { session }, Then::Dropped { session, query: None });
        }
        None => {}
    }
}

/// Ends the session now if its time is over.
pub fn expire(scope: &mut Scope<'_>, name: &str) {
    if let Some(index) = scope.sessions.table.present(name) {
        end_if_expired(scope, index);
    }
}

/// The store still has a session that has ended, and nobody else gets its name before it is gone there.
pub fn retry_drop(scope: &mut Scope<'_>, session: SessionId) {
    scope.sessions.undropped.push(session);
    scope.sessions.drop_at = scope.sessions.drop_at.min(scope.cx.now + scope.cx.settings.limits.store_retry_ms);
}

/// The connection's slot is about to be freed.
pub fn on_done(scope: &mut Scope<'_>, conn: ConnIndex) {
    if let Some(index) = scope.session_of(conn) {
        let session = scope.sessions.table.at_mut(index);
        session.uplink_conn = session.uplink_conn.filter(|&uplink_conn| uplink_conn != conn);
    }
}

/// Stores everything of the session, and takes nothing more for it. `Output::SessionFlushed` follows.
pub fn pass(scope: &mut Scope<'_>, name: &Arc<str>) {
    let Some(index) = scope.sessions.table.by_name(name) else {
        return scope.cx.output(Output::SessionFlushed { name: name.clone() });
    };
    if scope.sessions.table.at(index).passing {
        return;
    }
    let uplink_conn = close_client(scope, index, (CloseCode::TAKEN_OVER, "taken over"));
    scope.sessions.table.at_mut(index).passing = true;
    scope.sessions.table.cancel_expiry(index);
    abandon_uplink(scope, uplink_conn);
    let session = scope.sessions.table.key(index);
    put(scope, index, Then::Flushed(session));
}

/// Everything of the session is stored, or the store refuses.
pub fn on_flushed(scope: &mut Scope<'_>, key: SessionKey) {
    if let Some(session) = scope.sessions.table.get(key) {
        scope.cx.output(Output::SessionFlushed { name: session.name.clone() });
    }
}

/// Another node has it: nothing of it is written back, since the store refuses that. Until it is seen there it is
/// known here as one that is on its way, or what is sent to it would find it nowhere. `let_go` follows.
pub fn lose(scope: &mut Scope<'_>, name: &str) {
    let Some(index) = scope.sessions.table.by_name(name) else { return };
    let uplink_conn = close_client(scope, index, (CloseCode::TAKEN_OVER, "taken over"));
    scope.sessions.table.at_mut(index).passing = true;
    scope.sessions.table.cancel_expiry(index);
    abandon_uplink(scope, uplink_conn);
}

/// The new owner of a session that was passed on is known to everybody; or the session comes back. `keeps_name`: of
/// `Input::ForgetSession`.
pub fn let_go(scope: &mut Scope<'_>, name: &str, keeps_name: bool) {
    let Some(index) = scope.sessions.table.by_name(name) else { return };
    match scope.sessions.table.at(index).passing {
        true if keeps_name => leave_channels(scope, index),
        true => drop(forget(scope, index)),
        false => {}
    }
}

/// The business server has dropped the session: the client does not come back by itself.
pub const SESSION_DROPPED: CloseCode = CloseCode(4510);
