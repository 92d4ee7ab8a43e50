//! Messages of a session's client: their numbers must be stored before they go on, and some answers before they are
//! given.

use super::commands::Then;
use super::row::put;
use super::scope::Scope;
use crate::base::id::ConnIndex;
use crate::shard::command::{CommandNumber, Mutation, Received};
use crate::shard::ids::{SessionIndex, SessionKey};
use crate::shard::planted::Bug;
use crate::wire::packet::{MessageId, QoS};

/// The connection that has what this one's client sent.
pub fn uplink_conn(scope: &Scope<'_>, conn: ConnIndex) -> ConnIndex {
    let here = scope.conns.details(conn).has_current();
    let session = scope.session_of(conn).filter(|_| !here);
    session.and_then(|index| scope.sessions.table.at(index).uplink_conn).unwrap_or(conn)
}

/// The messages must not go on before the store has the mark that their numbers are made of.
pub fn on_mark_changed(scope: &mut Scope<'_>, conn: ConnIndex) {
    let Some(index) = scope.session_of(conn) else { return };
    let key = scope.sessions.table.key(index);
    put(scope, index, Then::MarkStored(key));
    scope.sessions.table.at_mut(index).mark_command = scope.sessions.commands.last();
}

pub fn on_mark_stored(scope: &mut Scope<'_>, key: SessionKey, number: CommandNumber, done: bool) {
    // The mark may have changed again: then the later command decides.
    let Some(session) = scope.sessions.table.get(key).filter(|session| session.mark_command == number) else { return };
    let id = session.id;
    if let Some(conn) = session.uplink_conn {
        scope.uplinks.on_mark_stored(scope.conns, conn, done, id, &mut scope.cx);
    }
}

/// The backend has answered. The store must have the answer first where it is of QoS 2, and where it follows a change
/// of the session that is not stored yet.
pub fn on_answered(scope: &mut Scope<'_>, conn: ConnIndex, sequence: u64) {
    let is_its = |index: &SessionIndex| scope.sessions.table.at(*index).uplink_conn == Some(conn);
    let Some(index) = scope.session_of(conn).filter(is_its) else {
        // The session was dropped meanwhile, or goes to another node: nothing of it is stored.
        return scope.uplinks.on_answer_stored(scope.conns, conn, sequence, true, None, &mut scope.cx);
    };
    let Some((qos, received)) = scope.uplinks.storing(scope.conns, conn, sequence) else { return };
    let exactly_once = qos == QoS::ExactlyOnce && !scope.cx.is_planted(Bug::AnswersUnstored);
    let since = scope.sessions.commands.completed();
    let session = scope.sessions.table.key(index);
    let then = exactly_once.then_some(received);
    if scope.sessions.table.at(index).changed > since {
        return put(scope, index, Then::AnswerStored { session, sequence, since, then });
    }
    match then {
        // Its client waits: one message of each is with the backend, so that as many can wait here.
        Some(_) if scope.sessions.commands.is_busy(&scope.cx) => {
            scope.sessions.delayed_answers.push((session, sequence))
        }
        Some(received) => store_answer(scope, session, received),
        None => {
            let id = Some(scope.sessions.table.at(index).id);
            scope.uplinks.on_answer_stored(scope.conns, conn, sequence, true, id, &mut scope.cx);
        }
    }
}

/// The store has completed commands: there may be room for answers that had to wait.
pub fn store_delayed_answers(scope: &mut Scope<'_>) {
    if scope.sessions.delayed_answers.is_empty() || scope.sessions.commands.is_busy(&scope.cx) {
        return;
    }
    for (key, sequence) in std::mem::take(&mut scope.sessions.delayed_answers) {
        if let Some(conn) = scope.sessions.table.get(key).and_then(|session| session.uplink_conn) {
            on_answered(scope, conn, sequence);
        }
    }
}

/// The answer goes out when it is stored.
fn store_answer(scope: &mut Scope<'_>, key: SessionKey, received: Received) {
    let Some(session) = scope.sessions.table.get(key).map(|session| session.id) else { return };
    let (sequence, since) = (received.sequence, scope.sessions.commands.completed());
    let then = Then::AnswerStored { session: key, sequence, since, then: None };
    scope.mutate(Mutation::PutReceived { session, received }, then);
}

/// What an answer had to wait for is stored, or (`done` is false) refused.
pub fn on_answer_stored(scope: &mut Scope<'_>, key: SessionKey, sequence: u64, then: Option<Received>, done: bool) {
    match then.filter(|_| done) {
        Some(received) => store_answer(scope, key, received),
        None => {
            let Some(session) = scope.sessions.table.get(key) else { return };
            let id = Some(session.id);
            if let Some(conn) = session.uplink_conn {
                scope.uplinks.on_answer_stored(scope.conns, conn, sequence, done, id, &mut scope.cx);
            }
        }
    }
}

/// A QoS 2 id is free again.
pub fn on_id_released(scope: &mut Scope<'_>, conn: ConnIndex, id: MessageId) {
    if let Some(index) = scope.session_of(conn) {
        let session = scope.sessions.table.at(index).id;
        scope.mutate(Mutation::RemoveReceived { session, id }, Then::Nothing);
    }
}
