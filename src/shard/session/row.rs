//! Writing a session's row: its marks, its cookie, and until when it waits for a connection.

use super::commands::Then;
use super::scope::Scope;
use crate::shard::command::{CommandNumber, Mutation, Offset, UnixMs};
use crate::shard::ids::SessionIndex;

/// Writes the session's row as it is now.
pub fn put(scope: &mut Scope<'_>, index: SessionIndex, then: Then) {
    let row = scope.sessions.table.at(index).row();
    scope.mutate(Mutation::PutSession(Box::new(row)), then);
}

/// The session is absent from now on: its row says until when it waits.
pub fn put_absent(scope: &mut Scope<'_>, index: SessionIndex) {
    let now = scope.cx.unix();
    let session = scope.sessions.table.at_mut(index);
    session.ends = Some(UnixMs(now.0.saturating_add(session.expiry_s.saturating_mul(1000))));
    // Nothing above is in use any more.
    (session.reserved, session.reserving) = (session.next, session.next);
    (session.more, session.loading) = (false, false);
    put(scope, index, Then::Nothing);
    arm_expiry(scope, index);
}

pub fn arm_expiry(scope: &mut Scope<'_>, index: SessionIndex) {
    if let Some(ends) = scope.sessions.table.at(index).ends {
        let when = scope.cx.now + ends.0.saturating_sub(scope.cx.unix().0);
        scope.sessions.table.arm_expiry(index, when);
    }
}

/// Reserves more offsets before they run out.
pub fn reserve_ahead(scope: &mut Scope<'_>, index: SessionIndex) {
    let block_max = scope.cx.settings.limits.reserve_block_max;
    let session = scope.sessions.table.at_mut(index);
    if session.conn.is_some() && session.next.0 + session.block / 2 >= session.reserving.0 {
        session.block = (session.block * 2).min(block_max);
        session.reserving = session.reserving.max(Offset(session.next.0 + session.block));
        let (session, upto) = (session.key(index), session.reserving);
        put(scope, index, Then::Reserved { session, upto });
    }
}

/// The backend has given the session a cookie.
pub fn set_cookie(scope: &mut Scope<'_>, index: SessionIndex, value: &[u8]) {
    let session = scope.sessions.table.at_mut(index);
    session.cookie = Some(value.into());
    // The answer may be to a message that came on an earlier connection.
    for conn in [session.conn, session.uplink_conn].into_iter().flatten() {
        scope.conns.set_cookie(conn, Some(value.into()));
    }
    if scope.sessions.commands.is_busy(&scope.cx) {
        // The next row has it.
        return refuse_change(scope, index, true);
    }
    let key = scope.sessions.table.key(index);
    put(scope, index, Then::Changed(key));
    note_change(scope, index);
}

/// The last command changes the session: no answer to its client may overtake it.
pub fn note_change(scope: &mut Scope<'_>, index: SessionIndex) {
    scope.sessions.table.at_mut(index).changed = scope.sessions.commands.last();
}

/// The store has too much to do for a change of the session. `has_answer`: it came with an answer of the backend's,
/// which must not go out as if the change were made.
pub fn refuse_change(scope: &mut Scope<'_>, index: SessionIndex, has_answer: bool) {
    scope.cx.metrics.stores_refused.increment();
    if has_answer {
        let number = CommandNumber(scope.sessions.commands.last().0 + 1);
        let session = scope.sessions.table.at_mut(index);
        (session.changed, session.refused, session.unsure) = (number, number, true);
    }
}
