//! Stored messages on their way into memory, a page at a time, and the ids that a client holds after a crash.

use super::commands::Then;
use super::scope::Scope;
use super::state::Sweep;
use crate::base::id::ConnIndex;
use crate::shard::command::{Offset, Page, StoredMessage};
use crate::shard::connection::outbox::Item;
use crate::shard::ids::{SessionIndex, SessionKey};
use crate::shard::planted::Bug;
use crate::wire::packet::{MessageId, Packet};
use crate::wire::ws::frame::CloseCode;
use std::collections::HashSet;

/// Loads the next page when what is in memory is in flight.
pub fn load_more(scope: &mut Scope<'_>, index: SessionIndex) {
    let Some(conn) = scope.online_conn(index) else { return };
    let has_queued = scope.conns.conn(conn).downlink().has_queued();
    let session = scope.sessions.table.at_mut(index);
    if !session.more || session.loading || has_queued {
        return;
    }
    // What is stored from now on is not in the page.
    (session.loading, session.more) = (true, false);
    let after = session.loaded.0.checked_sub(1).map(Offset);
    let then = Then::NextPage { session: session.key(index), attachment: session.attachment };
    let id = session.id;
    scope.load(id, after, then);
}

/// `None`: the store cannot be read now.
pub fn on_page(scope: &mut Scope<'_>, key: SessionKey, attachment: u32, page: Option<Page>) {
    let Some(session) = scope.sessions.table.get_mut(key).filter(|session| session.attachment == attachment) else {
        return;
    };
    match page {
        Some(page) => take_page(scope, key.index, page.messages, page.more),
        // The connection's timer tries again.
        None => {
            (session.loading, session.more) = (false, true);
            let retry_at = scope.cx.now + scope.cx.settings.limits.store_retry_ms;
            if let Some(conn) = session.conn {
                scope.conns.arm_no_later(conn, retry_at);
            }
        }
    }
}

/// Stored messages take their place behind what is in memory.
pub fn take_page(scope: &mut Scope<'_>, index: SessionIndex, mut messages: Vec<StoredMessage>, more: bool) {
    let session = scope.sessions.table.at_mut(index);
    let conn = session.conn.expect("a page is loaded for an attached connection");
    session.loading = false;
    session.more |= more;
    if let Some(last) = messages.last() {
        session.loaded = session.loaded.max(last.offset.next());
    }
    if !session.more {
        // Messages that were refused or have expired have left gaps.
        session.loaded = session.next;
    }
    let launched = session.launched;
    scope.cx.is_planted(Bug::LoadsBackwards).then(|| messages.reverse());
    let marks_repeats = !scope.cx.is_planted(Bug::ResumesWithoutDup);
    for stored in messages {
        let dup = (stored.sent || stored.offset < launched) && marks_repeats;
        scope.downlinks.queue_stored(scope.conns, conn, stored, dup, &mut scope.cx);
    }
    advance_oldest(scope, index, conn);
    scope.downlinks.fill_window(scope.conns, conn, &mut scope.cx);
    if scope.conns.conn(conn).is_open() {
        load_more(scope, index);
        sweep(scope, index);
    }
}

/// Messages before the first in memory are finished.
pub fn advance_oldest(scope: &mut Scope<'_>, index: SessionIndex, conn: ConnIndex) {
    let first = scope.downlinks.first_offset(scope.conns, conn);
    scope.sessions.table.at_mut(index).advance_oldest(first);
}

/// Once all that is stored is in memory: a REL frees each id that the client may hold (`Sweep`); for one that it does
/// not hold it only answers COM. A client of `rainbow.2` needs no such thing: it repeats REC for what it holds, and is
/// answered.
pub fn sweep(scope: &mut Scope<'_>, index: SessionIndex) {
    let session = scope.sessions.table.at_mut(index);
    if session.more || session.loading {
        return;
    }
    let unmatched_recs = std::mem::take(&mut session.unmatched_recs);
    release_unmatched(scope, index, &unmatched_recs);
    let session = scope.sessions.table.at_mut(index);
    if let Some(conn) = session.conn.filter(|_| std::mem::take(&mut session.recs_missed)) {
        // It reports the others on its next connection.
        return scope.conns.close(conn, CloseCode::POLICY, "too many ids are held", &mut scope.cx);
    }
    let (Some(sweep), Some(conn)) = (session.sweep, session.conn) else { return };
    if sweep.last_sent.is_some() {
        return;
    }
    if session.greets || scope.cx.is_planted(Bug::SweepsNothing) {
        session.sweep = None;
        return;
    }
    let in_memory = ids_in_memory(scope, conn);
    let from = sweep.from.max(Offset(sweep.upto.0.saturating_sub(scope.cx.settings.limits.sweep_ids_max)));
    let ids = (from.0..sweep.upto.0).map(|offset| Offset(offset).id());
    let ids: Vec<MessageId> = ids.filter(|id| !in_memory.contains(id)).collect();
    let last_sent = ids.last().copied();
    scope.sessions.table.at_mut(index).sweep = last_sent.map(|_| Sweep { last_sent, ..sweep });
    push_releases(scope, conn, ids);
}

/// COM came for an id that is not in flight: the last one of a sweep shows that the client has had them all.
pub fn on_unknown_com(scope: &mut Scope<'_>, conn: ConnIndex, id: MessageId) {
    let Some(index) = scope.attached_session(conn) else { return };
    let session = scope.sessions.table.at_mut(index);
    if session.sweep.is_some_and(|sweep| sweep.last_sent == Some(id)) {
        session.sweep = None;
    }
}

/// REC came for an id that is not in flight. What is stored under it and not sent yet will be sent, with DUP, and its
/// REC releases it; anything else is finished for us, and the client wants its REL, or it would hold the id for ever.
pub fn on_unknown_rec(scope: &mut Scope<'_>, conn: ConnIndex, id: MessageId) {
    let Some(index) = scope.attached_session(conn) else {
        return scope.conns.push_packet(conn, Packet::Rel { id, dup: false }, &mut scope.cx);
    };
    let session = scope.sessions.table.at_mut(index);
    if session.unmatched_recs.len() < scope.cx.settings.limits.held_ids_max {
        session.unmatched_recs.push(id);
    } else {
        session.recs_missed = true;
    }
    sweep(scope, index);
}

fn release_unmatched(scope: &mut Scope<'_>, index: SessionIndex, unmatched_recs: &[MessageId]) {
    let Some(conn) = scope.sessions.table.at(index).conn.filter(|_| !unmatched_recs.is_empty()) else { return };
    let in_memory = ids_in_memory(scope, conn);
    let ids: Vec<MessageId> = unmatched_recs.iter().copied().filter(|id| !in_memory.contains(id)).collect();
    if scope.conns.conn(conn).is_open() && !ids.is_empty() {
        scope.conns.push(conn, Item::Releases(ids.into()), &mut scope.cx);
    }
}

fn ids_in_memory(scope: &Scope<'_>, conn: ConnIndex) -> HashSet<MessageId> {
    scope.downlinks.offsets(scope.conns, conn).into_iter().map(Offset::id).collect()
}

/// One piece, whatever the limit of the outbox: it is short, and comes once.
fn push_releases(scope: &mut Scope<'_>, conn: ConnIndex, ids: Vec<MessageId>) {
    if scope.conns.conn(conn).is_open() && !ids.is_empty() {
        scope.conns.push_unbounded(conn, Item::Releases(ids.into()));
    }
}
