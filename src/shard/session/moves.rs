//! Sessions that go to another node, where several share a store.
//!
//! ```text
//! pass ─► its client gets 4409, what is unfinished is stored ─► SessionFlushed ─► passing ─► forget
//! lose ─► its client gets 4409 ─► gone                                              │
//!                                                    what is sent to it is refused ◄┘
//! ```
//! A session that was passed on stays until its new owner is known to everybody: a message for one of its channels that
//! came meanwhile would find nobody, and its caller would believe that nobody was to have it.

use super::commands::Then;
use super::end::{close_client, forget, release_uplink};
use super::row::put;
use super::scope::Scope;
use crate::shard::ids::SessionKey;
use crate::shard::output::Output;
use crate::wire::ws::frame::CloseCode;
use std::sync::Arc;

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
    let session = scope.sessions.table.key(index);
    put(scope, index, Then::Flushed(session));
    release_uplink(scope, uplink_conn);
}

/// Everything of the session is stored, or the store refuses.
pub fn on_flushed(scope: &mut Scope<'_>, key: SessionKey) {
    if let Some(session) = scope.sessions.table.get(key) {
        scope.cx.output(Output::SessionFlushed { name: session.name.clone() });
    }
}

/// Another node has it: nothing of it is written back, since the store refuses that.
pub fn lose(scope: &mut Scope<'_>, name: &str) {
    let Some(index) = scope.sessions.table.by_name(name) else { return };
    let uplink_conn = close_client(scope, index, (CloseCode::TAKEN_OVER, "taken over"));
    forget(scope, index);
    release_uplink(scope, uplink_conn);
}

/// The new owner of a session that was passed on is known to everybody; or the session comes back.
pub fn forget_passed(scope: &mut Scope<'_>, name: &str) {
    if let Some(index) = scope.sessions.table.by_name(name)
        && scope.sessions.table.at(index).passing
    {
        forget(scope, index);
    }
}
