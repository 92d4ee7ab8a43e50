//! Joining and leaving channels. A connection without a session joins by itself. The channels of a session are its own:
//! a change is known to whoever asked for it, and to the client whose message it came with, when the store has it. What
//! the store refuses has not happened.
//!
//! A client's user is such a membership too, by which messages go and which the store keeps; the connection has the
//! name as well, for hooks and lists.

use super::commands::Then;
use super::row::{note_change, put, refuse_change};
use super::scope::Scope;
use crate::base::arena::List;
use crate::base::id::ConnIndex;
use crate::shard::call::query::{QueryRefusal, Reply};
use crate::shard::channel::members::{CHANNEL_NAME_MAX, Change};
use crate::shard::channel::user::{channel_of, user_of};
use crate::shard::command::{Mutation, StoreError};
use crate::shard::connection::conn::Phase;
use crate::shard::ids::{QueryId, SessionIndex, SessionKey};
use crate::shard::planted::Bug;
use std::rc::Rc;
use std::sync::Arc;

/// `Ok(true)`: the query is replied to when the store has it.
pub fn subscribe(
    scope: &mut Scope<'_>,
    conn: ConnIndex,
    channel: &str,
    query: Option<QueryId>,
) -> Result<bool, QueryRefusal> {
    // What the backend answers is meant for the session, although this connection of its may have ended.
    let session = scope.session_of(conn);
    let is_gone = match scope.conns.conn(conn).phase() {
        Phase::Closing | Phase::Gone => session.is_none(),
        phase => phase == Phase::HandedOver,
    };
    if is_gone {
        scope.cx.metrics.subscriptions_refused.increment();
        return Err(QueryRefusal::NoSuchConnection);
    }
    if let Some(index) = session {
        return subscribe_session(scope, index, channel, query);
    }
    check_room(scope, scope.conns.joined(conn), channel)?;
    let change = scope.channels.join(conn.into(), scope.conns.joined_mut(conn), channel);
    scope.cx.presence(change, true);
    Ok(false)
}

/// The same for a session, whether or not it is online.
pub fn subscribe_session(
    scope: &mut Scope<'_>,
    index: SessionIndex,
    channel: &str,
    query: Option<QueryId>,
) -> Result<bool, QueryRefusal> {
    check_room(scope, &scope.sessions.table.at(index).joined, channel)?;
    if scope.sessions.commands.is_busy(&scope.cx) {
        refuse_change(scope, index, query.is_none());
        return Err(QueryRefusal::TooBusy);
    }
    Ok(join_session(scope, index, channel, query) && query.is_some())
}

/// Whether a member of these channels may join one more.
fn check_room(scope: &Scope<'_>, joined: &List, channel: &str) -> Result<(), QueryRefusal> {
    let most = scope.cx.settings.channels_per_connection;
    let refusal = if channel.is_empty() || channel.len() > CHANNEL_NAME_MAX || user_of(channel).is_some() {
        QueryRefusal::BadChannelName
    } else if scope.channels.count(joined, most) < most
        || scope.channels.joined_names(joined).any(|joined| joined == channel)
    {
        return Ok(());
    } else {
        QueryRefusal::TooManyChannels
    };
    scope.cx.metrics.subscriptions_refused.increment();
    Err(refusal)
}

/// `query` gets its reply, for a session when the store has it.
pub fn unsubscribe(scope: &mut Scope<'_>, conn: ConnIndex, channel: &str, query: Option<(QueryId, Reply)>) {
    if let Some(index) = scope.session_of(conn) {
        return leave_session(scope, index, channel, query);
    }
    let change = scope.channels.leave(scope.conns.joined_mut(conn), channel);
    scope.cx.presence(change, false);
    scope.cx.reply_some(query);
}

/// What the connection has joined while it was connecting becomes the session's.
pub fn take_channels(scope: &mut Scope<'_>, conn: ConnIndex, index: SessionIndex) {
    let names: Vec<Arc<str>> = scope.channels.joined_names(scope.conns.joined(conn)).map(Arc::from).collect();
    let session = scope.sessions.table.at(index);
    let (key, attachment) = (session.key(index), session.attachment);
    let most = scope.cx.settings.channels_per_connection;
    for channel in names {
        let change = scope.channels.leave(scope.conns.joined_mut(conn), &channel);
        scope.cx.presence(change, false);
        let session = scope.sessions.table.at_mut(index);
        if user_of(&channel).is_none() && scope.channels.count(&session.joined, most) >= most {
            scope.cx.metrics.subscriptions_refused.increment();
            continue;
        }
        let change = scope.channels.join(index.into(), &mut session.joined, &channel);
        if change != Change::Nothing || session.unsure {
            scope.cx.presence(change, true);
            let then = Then::AttachChannel { session: key, attachment, channel: channel.clone(), joins: true };
            write_change(scope, index, (channel, true), change == Change::Nothing, then);
            // A call may name the session before it is online: no reply to it may overtake this.
            note_change(scope, index);
        }
    }
    note_online(scope, index);
}

/// The business server lets the connection in as this user. Its session, if it is to have one, is not attached yet.
pub fn set_user(scope: &mut Scope<'_>, conn: ConnIndex, user: &str) {
    scope.conns.set_user(conn, Some(user.into()));
    let change = scope.channels.join(conn.into(), scope.conns.joined_mut(conn), &channel_of(user));
    scope.cx.presence(change, true);
}

/// The user that the business server has named is the session's from now on; where it has named none, the session's is
/// the connection's. The connection's channels are the session's already.
pub fn share_user(scope: &mut Scope<'_>, conn: ConnIndex, index: SessionIndex) {
    let session = scope.sessions.table.at(index);
    let Some(user) = scope.conns.user(conn).cloned() else {
        let user = scope.channels.joined_names(&session.joined).find_map(user_of).map(Rc::from);
        return scope.conns.set_user(conn, user);
    };
    // What an earlier connection still forwards is the session's too.
    if let Some(uplink_conn) = session.uplink_conn {
        scope.conns.set_user(uplink_conn, Some(user.clone()));
    }
    replace_users(scope, index, &user);
}

/// The session, which is being attached, is this user's alone from now on.
fn replace_users(scope: &mut Scope<'_>, index: SessionIndex, user: &str) {
    let session = scope.sessions.table.at(index);
    let (key, attachment) = (session.key(index), session.attachment);
    let others = |channel: &&str| user_of(channel).is_some_and(|other| other != user);
    let former: Vec<Arc<str>> = scope.channels.joined_names(&session.joined).filter(others).map(Arc::from).collect();
    for channel in former {
        let change = scope.channels.leave(&mut scope.sessions.table.at_mut(index).joined, &channel);
        scope.cx.presence(change, false);
        let then = Then::AttachChannel { session: key, attachment, channel: channel.clone(), joins: false };
        write_change(scope, index, (channel, false), true, then);
        note_change(scope, index);
    }
}

/// The session's connection has opened or ended, or the session has joined a channel: channels count who is online.
pub fn note_online(scope: &mut Scope<'_>, index: SessionIndex) {
    let is_absent = scope.online_conn(index).is_none() && !scope.cx.is_planted(Bug::CountsTheAbsent);
    scope.channels.set_absent(&scope.sessions.table.at(index).joined, is_absent);
}

/// False: the session had joined before, and the caller replies. True: the query is replied to when the store knows.
fn join_session(scope: &mut Scope<'_>, index: SessionIndex, channel: &str, query: Option<QueryId>) -> bool {
    let session = scope.sessions.table.at_mut(index);
    let change = scope.channels.join(index.into(), &mut session.joined, channel);
    if change == Change::Nothing && !session.unsure {
        return settle(scope, index, query.map(|query| (query, Reply::found(true)))).is_none() && query.is_some();
    }
    let key = session.key(index);
    scope.cx.presence(change, true);
    note_online(scope, index);
    let channel: Arc<str> = channel.into();
    let query = query.map(|query| (query, Reply::found(true)));
    let then = Then::ChannelChanged { session: key, channel: channel.clone(), joins: true, query };
    write_change(scope, index, (channel, true), change == Change::Nothing, then);
    note_change(scope, index);
    true
}

/// Nothing changes, but what has changed before may still be on its way to the store: then the reply waits for it.
/// Gives the query back where it does not.
fn settle(scope: &mut Scope<'_>, index: SessionIndex, query: Option<(QueryId, Reply)>) -> Option<(QueryId, Reply)> {
    let since = scope.sessions.commands.completed();
    if scope.sessions.table.at(index).changed <= since {
        return query;
    }
    let session = scope.sessions.table.key(index);
    put(scope, index, Then::Settled { session, since, query: query? });
    None
}

/// `query` is replied to when the store knows.
pub fn leave_session(scope: &mut Scope<'_>, index: SessionIndex, channel: &str, query: Option<(QueryId, Reply)>) {
    if scope.sessions.commands.is_busy(&scope.cx) {
        refuse_change(scope, index, query.is_none());
        return scope.cx.reply_some(query.map(|(query, _)| (query, Reply::Refused(QueryRefusal::TooBusy))));
    }
    let session = scope.sessions.table.at_mut(index);
    let change = scope.channels.leave(&mut session.joined, channel);
    if change == Change::Nothing && !session.unsure {
        let query = settle(scope, index, query);
        return scope.cx.reply_some(query);
    }
    let key = session.key(index);
    scope.cx.presence(change, false);
    let channel: Arc<str> = channel.into();
    let then = Then::ChannelChanged { session: key, channel: channel.clone(), joins: false, query };
    write_change(scope, index, (channel, false), change != Change::Nothing, then);
    note_change(scope, index);
}

/// Writes a change of membership that memory has already.
fn write_change(scope: &mut Scope<'_>, index: SessionIndex, change: (Arc<str>, bool), was_joined: bool, then: Then) {
    let (channel, joins) = change;
    let session = scope.sessions.table.at(index);
    scope.sessions.channel_changes.begin(session.key(index), channel.clone(), was_joined);
    let session = session.id;
    let mutation = match joins {
        true => Mutation::JoinChannel { session, channel },
        false => Mutation::LeaveChannel { session, channel },
    };
    scope.mutate(mutation, then);
}

/// A change is completed; after the last of a channel, the session is where the store has it.
pub fn on_changed(
    scope: &mut Scope<'_>,
    key: SessionKey,
    (channel, joins): (Arc<str>, bool),
    query: Option<(QueryId, Reply)>,
    refused: Option<StoreError>,
) {
    let settled = scope.sessions.channel_changes.complete(key, &channel, refused.is_none().then_some(joins));
    if let (Some(joined), Some(session)) = (settled, scope.sessions.table.get_mut(key)) {
        let change = match joined {
            true => scope.channels.join(key.index.into(), &mut session.joined, &channel),
            false => scope.channels.leave(&mut session.joined, &channel),
        };
        scope.cx.presence(change, joined);
        note_online(scope, key.index);
    }
    if refused.is_some() {
        note_refusal(scope, key);
        if !joins && query.is_none() {
            scope.sessions.evictions.note_refusal();
        }
    }
    if let Some(query) = query {
        reply(scope, query, refused);
    }
}

/// The reply to a query whose command is completed.
pub fn reply(scope: &mut Scope<'_>, (query, reply): (QueryId, Reply), refused: Option<StoreError>) {
    let refusal = refused.map(|_| Reply::Refused(QueryRefusal::NotStored));
    scope.cx.reply(query, refusal.unwrap_or(reply));
}

/// The change that was just completed has been refused, and so is the answer that it came with.
pub fn note_refusal(scope: &mut Scope<'_>, key: SessionKey) {
    let number = scope.sessions.commands.completed();
    if let Some(session) = scope.sessions.table.get_mut(key) {
        session.refused = number;
        session.unsure = true;
    }
}
