//! One message, or one close, to one member of a channel: a connection or a session.

use crate::base::id::ConnIndex;
use crate::shard::call::query::{NotStored, QueryRefusal, Terms, Who};
use crate::shard::command::UnixMs;
use crate::shard::connection::pending::MemberTerms;
use crate::shard::context::Context;
use crate::shard::ids::{Member, MemberKind, QueryId, SessionKey};
use crate::shard::message::{Message, MessageRef};
use crate::shard::session;
use crate::shard::session::scope::Scope;
use crate::wire::packet::{self, QoS};
use crate::wire::ws::frame::CloseCode;

/// `member_terms` is `None` at QoS 0.
#[inline]
pub fn deliver(scope: &mut Scope<'_>, member: Member, message: &MessageRef, member_terms: Option<&MemberTerms>) {
    if let Some(terms) = member_terms.filter(|terms| terms.expires <= scope.cx.unix()) {
        let is_session = matches!(member.kind(), MemberKind::Session(_));
        let call = if is_session { terms.call.of_session() } else { terms.call };
        return scope.cx.call_refused(Some(call), NotStored::Expired);
    }
    match (member.kind(), member_terms) {
        (MemberKind::Connection(conn), None) => {
            scope.downlinks.deliver_qos0(scope.conns, conn, message, &mut scope.cx);
        }
        (MemberKind::Connection(conn), Some(member_terms)) => {
            scope.downlinks.deliver(scope.conns, conn, message, member_terms, &mut scope.cx);
        }
        (MemberKind::Session(index), member_terms) => session::downlink::deliver(scope, index, message, member_terms),
    }
}

/// Opens the call that waits for so many members, of whom so many are sessions. `None` at QoS 0: no answer is waited
/// for.
pub fn open_call(
    scope: &mut Scope<'_>,
    query: QueryId,
    message: &MessageRef,
    (members, sessions): (usize, usize),
    terms: &Terms,
    expires: UnixMs,
) -> Option<MemberTerms> {
    let acknowledged = message.qos() != QoS::AtMostOnce;
    acknowledged.then(|| MemberTerms {
        call: scope.cx.calls.open(query, members as u32, sessions as u32, terms.deadline),
        deadline: terms.deadline,
        expires,
        claim: terms.claim.clone(),
        wait: terms.wait,
    })
}

/// Until when a message waits that is sent on these terms now: its time runs from the call.
pub fn expires(terms: &Terms, cx: &Context<'_>) -> UnixMs {
    let ttl_ms = terms.ttl_ms.unwrap_or(cx.settings.sessions.message_ttl_ms);
    UnixMs(cx.unix().0.saturating_add(ttl_ms))
}

/// Why no client can get the message.
pub fn too_large(message: &Message, cx: &Context<'_>) -> Option<QueryRefusal> {
    let fits = message.len() <= cx.settings.outbox_bytes_max + SEND_HEADERS_MAX;
    (!fits).then_some(QueryRefusal::MessageTooLarge)
}

/// The open connection of a member; `None` for a session that is absent.
pub fn conn_of(scope: &Scope<'_>, member: Member) -> Option<ConnIndex> {
    match member.kind() {
        MemberKind::Connection(conn) => Some(conn),
        MemberKind::Session(index) => scope.online_conn(index),
    }
}

/// The generation of a member's slot, to see later whether it is still the same one.
pub fn generation(scope: &Scope<'_>, member: Member) -> u32 {
    match member.kind() {
        MemberKind::Connection(conn) => scope.conns.conn(conn).generation(),
        MemberKind::Session(index) => scope.sessions.table.at(index).generation,
    }
}

/// The member that was there with this generation is there still.
pub fn is_present(scope: &Scope<'_>, member: Member, generation: u32) -> bool {
    match member.kind() {
        // A connection that has become a session's is not a member by itself any more.
        MemberKind::Connection(conn) => {
            scope.conns.get(conn).is_some_and(|conn| conn.generation() == generation && !conn.session().is_some())
        }
        MemberKind::Session(index) => scope.sessions.table.get(SessionKey { index, generation }).is_some(),
    }
}

/// Whether the member is who is meant.
pub fn is_who(scope: &Scope<'_>, member: Member, who: &Who) -> bool {
    match (who, member.kind()) {
        (Who::Connection(identity), _) => {
            conn_of(scope, member).is_some_and(|conn| scope.conns.details(conn).identity() == *identity)
        }
        (Who::Session(name), MemberKind::Session(index)) => scope.sessions.table.at(index).name == *name,
        (Who::Session(_), MemberKind::Connection(_)) => false,
    }
}

/// The business server wants the connection closed.
pub fn kick(scope: &mut Scope<'_>, conn: ConnIndex, code: CloseCode, reason: &str) {
    if scope.conns.conn(conn).is_open() {
        scope.cx.metrics.kicked.increment();
        scope.conns.close(conn, code, reason, &mut scope.cx);
    }
}

/// The longest frame header and the header of a SEND: what a body of the largest allowed length may have before it.
const SEND_HEADERS_MAX: usize = 10 + packet::SEND_ID_AT + packet::ID_LEN;
