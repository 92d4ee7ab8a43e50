//! A connection becomes a session's: attach, takeover, resume; and the sessions that are there at the start.

use super::channels::{note_online, share_user, take_channels};
use super::commands::Then;
use super::end::{displace_attaching, leave};
use super::pages::take_page;
use super::row::{arm_expiry, put};
use super::scope::Scope;
use super::state::{Attaching, Sweep};
use crate::base::id::ConnIndex;
use crate::shard::command::{Offset, Page, Received, SessionId, StoreError, StoredSession, UnixMs};
use crate::shard::connection::conn::Phase;
use crate::shard::connection::keepalive;
use crate::shard::greeting::{Attached, greet};
use crate::shard::ids::{SessionIndex, SessionKey};
use crate::shard::output::Output;
use crate::shard::planted::Bug;
use crate::wire::ws::frame::CloseCode;
use std::rc::Rc;
use std::sync::Arc;

/// `Input::Attach` without its key.
pub struct Attach {
    pub response: Rc<[u8]>,
    pub new: SessionId,
    pub name: Arc<str>,
    pub expiry_s: Option<u64>,
    pub greets: bool,
}

/// The connection becomes the session's; the one that had it is closed.
pub fn attach(scope: &mut Scope<'_>, conn: ConnIndex, attach: Attach) {
    let is_passing = scope.sessions.table.by_name(&attach.name) != scope.sessions.table.present(&attach.name);
    if scope.sessions.commands.is_busy(&scope.cx) || is_passing {
        scope.cx.metrics.stores_refused.increment();
        let key = scope.conns.key(conn);
        return scope.cx.output(Output::AttachRefused { key, why: StoreError::TooBusy });
    }
    let Attach { response, new, name, expiry_s, greets } = attach;
    let known = scope.sessions.table.by_name(&name);
    let index = known.unwrap_or_else(|| {
        scope.cx.output(Output::SessionHere { name: name.clone(), here: true });
        scope.sessions.table.insert(new, name)
    });
    let resumed = take_over(scope, index).unwrap_or(known.is_some());
    let settings = scope.cx.settings.sessions;
    let block_min = scope.cx.settings.limits.reserve_block_min;
    let session = scope.sessions.table.at_mut(index);
    session.conn = Some(conn);
    session.attachment = session.attachment.wrapping_add(1);
    session.attaching = Some(Box::new(Attaching { response, resumed }));
    session.expiry_s = expiry_s.unwrap_or(settings.expiry_s).min(settings.expiry_max_s);
    session.ends = None;
    session.greets = greets;
    // What is stored from now on is not in the first page.
    (session.loading, session.more) = (true, false);
    session.loaded = Offset(0);
    session.unmatched_recs.clear();
    session.recs_missed = false;
    session.sweep = session.sweep.map(|sweep| Sweep::new(sweep.from, sweep.upto));
    session.block = block_min;
    session.reserving = session.reserving.max(Offset(session.next.0 + block_min));
    let (key, attachment, id) = (session.key(index), session.attachment, session.id);
    scope.sessions.table.cancel_expiry(index);
    scope.conns.set_session(conn, key);
    scope.conns.set_greets(conn, greets);
    share_cookie(scope, conn, index);
    put(scope, index, Then::AttachRow { session: key, attachment });
    take_channels(scope, conn, index);
    share_user(scope, conn, index);
    scope.load(id, None, Then::AttachPage { session: key, attachment });
}

/// The cookie of the connect answer is the session's from now on; without one, the session's is the connection's.
fn share_cookie(scope: &mut Scope<'_>, conn: ConnIndex, index: SessionIndex) {
    let session = scope.sessions.table.at_mut(index);
    match scope.conns.cookie(conn).cloned() {
        Some(cookie) => {
            session.cookie = Some(Arc::from(&cookie[..]));
            // What an earlier connection still forwards is the session's too.
            if let Some(uplink_conn) = session.uplink_conn {
                scope.conns.set_cookie(uplink_conn, Some(cookie));
            }
        }
        None => scope.conns.set_cookie(conn, session.cookie.as_ref().map(|cookie| Rc::from(&cookie[..]))),
    }
}

/// Detaches the session's present connection. `Some` where that one was not open yet: had it resumed the session?
fn take_over(scope: &mut Scope<'_>, index: SessionIndex) -> Option<bool> {
    let old = scope.sessions.table.at(index).conn?;
    scope.cx.metrics.sessions_taken_over.increment();
    let mut resumed = None;
    match scope.conns.conn(old).phase() {
        Phase::Connecting => resumed = displace_attaching(scope, index),
        _ => {
            scope.conns.close(old, CloseCode::TAKEN_OVER, "taken over", &mut scope.cx);
            leave(scope, old);
        }
    }
    debug_assert_eq!(scope.sessions.table.at(index).conn, None);
    resumed
}

/// The store has the session, and this is what waits for it: the 101 goes out.
pub fn on_attached(scope: &mut Scope<'_>, key: SessionKey, attachment: u32, page: Page) {
    let Some(session) = scope.sessions.table.get_mut(key).filter(|session| session.attachment == attachment) else {
        return;
    };
    let Some(attaching) = session.attaching.take() else { return };
    let conn = session.conn.expect("a connection is being attached");
    let Attaching { response, resumed } = *attaching;
    // Its row was stored before this page was read.
    session.reserved = session.reserving;
    let (id, name, waiting, greets) = (session.id, session.name.clone(), session.waiting, session.greets);
    take_uplink(scope, key, conn, page.received);
    scope.conns.open(conn, response, &mut scope.cx);
    note_online(scope, key.index);
    scope.conns.arm_no_later(conn, keepalive::next_check(scope.conns, conn, scope.cx.settings));
    if greets {
        let attached = Attached { name: &name, id, resumed, waiting };
        greet(scope.conns, conn, Some(attached), &mut scope.cx);
    }
    scope.cx.output(Output::Attached { key: scope.conns.key(conn) });
    if scope.conns.conn(conn).is_open() {
        take_page(scope, key.index, page.messages, page.more);
        scope.uplinks.forward_next(scope.conns, conn, Some(id), &mut scope.cx);
    }
}

/// What came from the client: from the connection that still has it, or from the store.
fn take_uplink(scope: &mut Scope<'_>, key: SessionKey, conn: ConnIndex, received: Vec<Received>) {
    let before = scope.sessions.table.at_mut(key.index).uplink_conn.replace(conn);
    match before.filter(|_| !scope.cx.is_planted(Bug::LeavesUplink)) {
        None => scope.uplinks.restore(scope.conns, conn, received, &mut scope.cx),
        Some(before) => {
            scope.uplinks.move_to(scope.conns, before, conn, &mut scope.cx);
            // Its slot stays while a message that it forwarded is with the backend.
            scope.conns.report_if_done(before);
        }
    }
}

/// Sessions that were stored: at the start of the process, or when they have come from another node.
pub fn restore(scope: &mut Scope<'_>, stored: Vec<StoredSession>) {
    let now = scope.cx.unix();
    for StoredSession { row, channels, waiting, waiting_bytes, next, oldest, first } in stored {
        scope.cx.output(Output::SessionHere { name: row.name.clone(), here: true });
        let index = scope.sessions.table.insert(row.session, row.name);
        let crashed = row.ends.is_none();
        let reserved = row.downlink.reserved;
        let session = scope.sessions.table.at_mut(index);
        (session.expiry_s, session.cookie) = (row.expiry_s, row.cookie);
        (session.waiting, session.waiting_bytes, session.oldest_stored) = (waiting, waiting_bytes, oldest);
        session.next = if scope.cx.is_planted(Bug::ForgetsReserved) { next } else { next.max(reserved) };
        session.oldest = first.unwrap_or(session.next);
        // What was stored while the session was absent has not been sent; of the rest nobody knows.
        session.launched = if crashed { session.next } else { reserved.min(session.next) };
        // So that the row says the same when it is written again.
        (session.reserved, session.reserving) = (session.launched, session.launched);
        session.mark = if crashed { row.uplink.after_crash() } else { row.uplink };
        session.sweep = (row.downlink.floor < reserved).then_some(Sweep::new(row.downlink.floor, reserved));
        session.ends = Some(row.ends.unwrap_or(UnixMs(now.0.saturating_add(row.expiry_s.saturating_mul(1000)))));
        for channel in channels {
            let change = scope.channels.join(index.into(), &mut session.joined, &channel);
            scope.cx.presence(change, true);
        }
        note_online(scope, index);
        arm_expiry(scope, index);
    }
}
