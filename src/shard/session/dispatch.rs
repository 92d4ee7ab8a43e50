//! What the store and the connections report, handed to whom it concerns.

pub mod traced;

use super::commands::Then;
use super::scope::Scope;
use super::{attach, channels, downlink, end, pages, uplink};
use crate::base::id::ConnIndex;
use crate::shard::call::trace::{Happening, Seen};
use crate::shard::command::{CommandNumber, Completion, Completions, ExpiredMessages, StoreError};
use crate::shard::connection::event::Event;
use crate::shard::ids::SessionKey;
use crate::shard::output::Output;
use crate::shard::planted::Bug;

/// The store has completed commands.
pub fn on_completions(scope: &mut Scope<'_>, completions: Completions) {
    let mut exceptions = completions.exceptions.into_iter().peekable();
    while let Some((number, then)) = scope.sessions.commands.complete_next(completions.upto) {
        let exception = exceptions.next_if(|(of, _)| *of == number);
        let completion = exception.map_or(Completion::Done, |(_, completion)| completion);
        if let Completion::Refused(_) = completion {
            scope.cx.metrics.store_refused.increment();
        }
        complete(scope, number, then, completion);
        on_events(scope);
    }
    let completed = scope.sessions.commands.completed();
    for (query, reply) in scope.sessions.evictions.settle(completed) {
        scope.cx.reply(query, reply);
    }
    uplink::store_delayed_answers(scope);
}

fn complete(scope: &mut Scope<'_>, number: CommandNumber, then: Then, completion: Completion) {
    let refused = match &completion {
        Completion::Refused(why) => Some(*why),
        _ => None,
    };
    let done = refused.is_none();
    match then {
        Then::AttachRow { .. } | Then::AttachChannel { .. } | Then::AttachPage { .. } | Then::NextPage { .. } => {
            complete_attach(scope, then, completion, refused);
        }
        Then::MessageStored { session, offset, bytes, call } => {
            downlink::on_message_stored(scope, (session, offset), bytes, call, completion);
        }
        Then::Released { session, offset, bytes, expired } => {
            count_off(scope, session, bytes, expired, &completion);
            downlink::on_released(scope, session, offset, completion);
        }
        // Where it was refused it is there still, and comes again with the next connection.
        Then::MessageRemoved { session, bytes, expired } => count_off(scope, session, bytes, expired, &completion),
        Then::ReleaseStored { session, offset } if !done => downlink::on_release_refused(scope, session, offset),
        Then::AnswerStored { session, sequence, since, then } => {
            let done = done && !was_refused(scope, session, since);
            uplink::on_answer_stored(scope, session, sequence, then, done);
        }
        Then::Settled { session, since, query } => {
            let refused = refused.or_else(|| was_refused(scope, session, since).then_some(StoreError::Broken));
            channels::reply(scope, query, refused);
        }
        Then::Changed(session) if !done => channels::note_refusal(scope, session),
        Then::Dropped { session, query } => {
            // Another node's session is not ours to drop.
            if refused.is_some_and(|why| why != StoreError::Fenced) {
                end::retry_drop(scope, session);
            }
            if let Some(query) = query {
                channels::reply(scope, query, refused);
            }
        }
        Then::Flushed(session) => end::on_flushed(scope, session),
        Then::MarkStored(session) => uplink::on_mark_stored(scope, session, number, done),
        Then::Reserved { session, upto } if done => {
            let session = scope.sessions.table.get_mut(session).filter(|session| session.conn.is_some());
            if let Some(session) = session {
                session.reserved = session.reserved.max(upto.min(session.reserving));
            }
        }
        Then::ChannelChanged { session, channel, joins, query } => {
            channels::on_changed(scope, session, (channel, joins), query, refused);
        }
        Then::Nothing | Then::ReleaseStored { .. } | Then::Changed(_) | Then::Reserved { .. } => {}
    }
}

fn complete_attach(scope: &mut Scope<'_>, then: Then, completion: Completion, refused: Option<StoreError>) {
    let page = if let Completion::Loaded(page) = completion { Some(page) } else { None };
    match (then, page) {
        (Then::AttachPage { session, attachment }, Some(page)) => attach::on_attached(scope, session, attachment, page),
        (Then::AttachPage { session, attachment }, None) => {
            end::refuse_attach(scope, session, attachment, refused.unwrap_or(StoreError::Broken));
        }
        (Then::NextPage { session, attachment }, page) => pages::on_page(scope, session, attachment, page),
        (Then::AttachRow { session, attachment }, _) => {
            if let Some(why) = refused {
                // Another attachment may have taken it over. What came after the row had no session to go to.
                if let Some(session) = scope.sessions.table.get_mut(session) {
                    session.unsure = true;
                }
                end::refuse_attach(scope, session, attachment, why);
            }
        }
        (Then::AttachChannel { session, attachment, channel, joins }, _) => {
            channels::on_changed(scope, session, (channel, joins), None, refused);
            if let Some(why) = refused {
                end::refuse_attach(scope, session, attachment, why);
            }
        }
        _ => unreachable!("only what attaches or loads"),
    }
}

/// A stored message leaves the store once: removed or released here (`Done`), or by the purge, which reports it. What
/// is `Absent` the purge has counted, or it was never stored.
fn count_off(scope: &mut Scope<'_>, key: SessionKey, bytes: u64, expired: bool, completion: &Completion) {
    let counts = *completion == Completion::Done
        || *completion == Completion::Absent && scope.cx.is_planted(Bug::CountsExpiredTwice);
    scope.cx.metrics.messages_expired.add(u64::from(counts && expired));
    if let Some(session) = scope.sessions.table.get_mut(key).filter(|_| counts && bytes > 0) {
        session.uncount_waiting(bytes);
    }
}

/// Has a change of the session been refused after that number?
fn was_refused(scope: &Scope<'_>, session: SessionKey, since: CommandNumber) -> bool {
    scope.sessions.table.get(session).is_some_and(|session| session.refused > since)
}

/// The store has removed messages whose time was over.
pub fn on_messages_expired(scope: &mut Scope<'_>, expired: ExpiredMessages) {
    let Some(index) = scope.sessions.table.index_of(expired.session) else { return };
    let session = scope.sessions.table.at_mut(index);
    session.uncount_expired(expired.messages, expired.bytes);
    scope.cx.metrics.messages_expired.add(u64::from(expired.messages));
    downlink::note_expired(scope, index);
}

/// What the connections have reported since the last time, in its order.
#[inline]
pub fn on_events(scope: &mut Scope<'_>) {
    if scope.conns.has_events() {
        handle_events(scope);
    }
}

fn handle_events(scope: &mut Scope<'_>) {
    while let Some(event) = scope.conns.poll_event() {
        on_event(scope, event);
    }
}

fn on_event(scope: &mut Scope<'_>, event: Event) {
    match event {
        Event::Left(conn) => {
            if !scope.cx.traces.is_idle() {
                traced::on_connection(scope, conn, Seen { what: Happening::Closed, message: None });
            }
            end::leave(scope, conn);
            let session = scope.session_of(conn).map(|index| scope.sessions.table.at(index).id);
            scope.uplinks.on_left(scope.conns, conn, session, &mut scope.cx);
        }
        Event::Done(conn) => free(scope, conn),
        Event::Traced { index, seen } => traced::on_connection(scope, index, *seen),
        Event::Finished { index, offset, stored, bytes, expired } => {
            downlink::on_finished(scope, index, offset, stored.then_some((bytes, expired)));
        }
        Event::Received { index, message_id } => downlink::on_received(scope, index, message_id),
        Event::Releasing { index, offset, bytes, expired } => {
            downlink::on_releasing(scope, index, offset, (bytes, expired));
        }
        Event::StoreDue { index, node } => downlink::on_store_due(scope, index, node),
        Event::UnknownRec { index, id } => pages::on_unknown_rec(scope, index, id),
        Event::UnknownCom { index, id } => pages::on_unknown_com(scope, index, id),
        Event::MarkChanged(index) => uplink::on_mark_changed(scope, index),
        Event::Answered { index, sequence } => uplink::on_answered(scope, index, sequence),
        Event::IdReleased { index, id } => uplink::on_id_released(scope, index, id),
    }
}

/// The end of a connection: the backend hears of it after the connection's last message.
fn free(scope: &mut Scope<'_>, conn: ConnIndex) {
    // It may have been reported twice.
    if scope.conns.is_done(conn) {
        scope.uplinks.forget(scope.conns, conn);
        end::on_done(scope, conn);
        scope.conns.end_handover(conn, &mut scope.cx);
        let (identity, client, ending) = scope.conns.remove(conn);
        scope.cx.output(Output::Closed { identity, client, ending });
    }
}
