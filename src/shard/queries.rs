//! What the queries of calls do: everything but sending to a channel, which is fan-out's.

use super::call::query::{
    CHANNELS_SHOWN, ChannelMember, ConnectionInfo, Query, QueryRefusal, Reply, SessionInfo, Terms, Who,
};
use super::call::sessions::SessionSummary;
use super::channel::user::user_of;
use super::connection::conn::Phase;
use super::ids::{MemberKind, QueryId};
use super::message::Message;
use super::output::Output;
use super::session::channels::{leave_session, subscribe, subscribe_session, unsubscribe};
use super::session::dispatch::traced;
use super::session::scope::{Scope, Sessions};
use super::session::table::listing::ListReply;
use super::session::{self, end};
use crate::base::id::{ConnIndex, ConnKey};
use crate::shard::fanout::delivery::{self, conn_of, kick, open_call};
use crate::shard::fanout::runs::Fanout;
use crate::wire::packet::QoS;

/// `redirected`: the connection that an identity's has become, when the query was redirected here.
pub fn on_query(
    scope: &mut Scope<'_>,
    fanout: &mut Fanout,
    query_id: QueryId,
    query: Query,
    redirected: Option<ConnIndex>,
) {
    if !scope.cx.traces.is_idle() {
        trace_call(scope, &query);
    }
    if let Some(to) = handed_over_to(scope, &query).filter(|_| redirected.is_none()) {
        return scope.cx.output(Output::RedirectQuery { to, query_id, query });
    }
    let reply = match query {
        Query::Send { channel, message, terms } => return fanout.send(scope, query_id, &channel, message, &terms),
        Query::Broadcast { channels, message, terms } => {
            return fanout.broadcast(scope, query_id, &channels, &message, &terms);
        }
        Query::SendTo { session, message, terms } => {
            return send_to_session(scope, query_id, &session, message, &terms);
        }
        Query::Session { session } => session_info(scope, &session),
        Query::DropSession { session } => return end::drop_session(scope, query_id, &session),
        Query::Exists { who } => Reply::found(find_member(scope, &who, redirected).is_some()),
        Query::Subscribe { who, channel } => {
            let subscribed = match find_member(scope, &who, redirected) {
                Some(MemberKind::Connection(conn)) => subscribe(scope, conn, &channel, Some(query_id)),
                Some(MemberKind::Session(index)) => subscribe_session(scope, index, &channel, Some(query_id)),
                None => return scope.cx.reply(query_id, Reply::found(false)),
            };
            match subscribed {
                Ok(true) => return,
                Ok(false) => Reply::found(true),
                Err(why) => Reply::Refused(why),
            }
        }
        Query::Unsubscribe { who, channel } => {
            let query = Some((query_id, Reply::found(true)));
            match find_member(scope, &who, redirected) {
                Some(MemberKind::Connection(conn)) => return unsubscribe(scope, conn, &channel, query),
                Some(MemberKind::Session(index)) => return leave_session(scope, index, &channel, query),
                None => Reply::found(false),
            }
        }
        Query::Evict { channel, keep } => return fanout.evict(scope, query_id, &channel, keep),
        Query::Kick { identity, code, reason } => {
            let found = redirected.or_else(|| scope.conns.find(&identity, Phase::Open));
            if let Some(conn) = found {
                kick(scope, conn, code, &reason);
            }
            Reply::found(found.is_some())
        }
        Query::KickChannel { channel, code, reason } => fanout.close_channel(scope, &channel, code, &reason),
        Query::Members { channel, offset, limit, counts } => members(scope, &channel, (offset, limit), counts),
        walk @ (Query::Largest { .. } | Query::FindChannels { .. } | Query::Sessions { .. }) => {
            return begin_walk(scope, query_id, walk);
        }
        Query::Trace { id, terms } => traced::begin(scope, id, terms),
        Query::EndTrace { id } => Reply::found(scope.cx.traces.end(id)),
        Query::Connection { identity, info } => {
            let conn = redirected.or_else(|| scope.conns.find(&identity, Phase::Open));
            let found = connection_info(scope, conn);
            // A query is handled once, so that nobody has set it.
            Reply::found(found.is_some_and(|found| info.set(found).is_ok()))
        }
    };
    scope.cx.reply(query_id, reply);
}

/// What takes a walk over all channels or sessions: its first slice is done at once.
fn begin_walk(scope: &mut Scope<'_>, query_id: QueryId, query: Query) {
    match query {
        Query::Largest { most } => scope.largest.query(query_id, most, None),
        Query::FindChannels { text, most } => scope.largest.query(query_id, most, Some(text)),
        Query::Sessions { wanted } => {
            if !scope.sessions.listing.query(query_id, wanted) {
                scope.cx.reply(query_id, Reply::Refused(QueryRefusal::TooBusy));
            }
            return poll_listing(scope);
        }
        _ => unreachable!("it takes no walk"),
    }
    poll_largest(scope);
}

#[cold]
fn trace_call(scope: &mut Scope<'_>, query: &Query) {
    match query {
        Query::Send { channel, message, .. } => traced::on_call(scope, channel, message),
        Query::Broadcast { channels, message, .. } => {
            channels.iter().for_each(|channel| traced::on_call(scope, channel, message));
        }
        Query::SendTo { session, message, .. } => traced::on_session_call(scope, session, message),
        _ => {}
    }
}

/// Who is meant, if he is here. `redirected`: the connection that the identity's has become.
fn find_member(scope: &Scope<'_>, who: &Who, redirected: Option<ConnIndex>) -> Option<MemberKind> {
    match who {
        Who::Connection(identity) => {
            redirected.or_else(|| scope.conns.find(identity, Phase::Open)).map(MemberKind::Connection)
        }
        Who::Session(name) => scope.sessions.table.present(name).map(MemberKind::Session),
    }
}

/// Where the connection that is meant has gone.
fn handed_over_to(scope: &Scope<'_>, query: &Query) -> Option<ConnKey> {
    let (Query::Exists { who: Who::Connection(identity) }
    | Query::Subscribe { who: Who::Connection(identity), .. }
    | Query::Unsubscribe { who: Who::Connection(identity), .. }
    | Query::Kick { identity, .. }
    | Query::Connection { identity, .. }) = query
    else {
        return None;
    };
    scope.conns.find(identity, Phase::HandedOver).and_then(|conn| scope.conns.counterpart(conn))
}

/// To one session, online or not.
fn send_to_session(scope: &mut Scope<'_>, query_id: QueryId, name: &str, message: Message, terms: &Terms) {
    let Some(index) = scope.sessions.table.by_name(name) else {
        return scope.cx.reply(query_id, Reply::Refused(QueryRefusal::NoSuchSession));
    };
    if let Some(why) = delivery::too_large(&message, &scope.cx) {
        return scope.cx.reply(query_id, Reply::not_sent(1, why));
    }
    if message.qos == QoS::AtMostOnce {
        let online = usize::from(scope.online_conn(index).is_some());
        scope.cx.reply(query_id, Reply::sent(online));
    }
    let message = scope.cx.messages.insert(message);
    let expires = delivery::expires(terms, &scope.cx);
    let member_terms = open_call(scope, query_id, &message, (1, 1), terms, expires);
    session::downlink::deliver(scope, index, &message, member_terms.as_ref());
    scope.cx.messages.release(message);
}

fn session_info(scope: &Scope<'_>, name: &str) -> Reply {
    let Some(index) = scope.sessions.table.present(name) else { return Reply::Session(None) };
    let (session, now) = (scope.sessions.table.at(index), scope.cx.unix());
    Reply::Session(Some(Box::new(SessionInfo {
        name: session.name.clone(),
        identity: scope.online_conn(index).map(|conn| scope.conns.details(conn).identity()),
        channels: scope.channels.joined_names(&session.joined).map(String::from).collect(),
        waiting: session.waiting,
        waiting_bytes: session.waiting_bytes,
        oldest_ms: session.oldest_stored.map(|oldest| now.0.saturating_sub(oldest.0)),
        left_ms: session.ends.map(|ends| ends.0.saturating_sub(now.0)),
    })))
}

fn connection_info(scope: &Scope<'_>, conn: Option<ConnIndex>) -> Option<ConnectionInfo> {
    let conn = conn.filter(|&conn| scope.conns.conn(conn).is_open())?;
    let session = scope.attached_session(conn).map(|index| scope.sessions.table.at(index));
    let joined = session.map_or_else(|| scope.conns.joined(conn), |session| &session.joined);
    let joined_by_name = scope.channels.joined_names(joined).filter(|channel| user_of(channel).is_none());
    Some(ConnectionInfo {
        session: session.map(|session| session.name.clone()),
        channels: joined_by_name.take(CHANNELS_SHOWN).map(String::from).collect(),
        ..scope.conns.info(conn, scope.cx.now)
    })
}

fn members(scope: &mut Scope<'_>, channel: &str, (offset, limit): (usize, usize), counts: bool) -> Reply {
    let traffic = if counts { scope.cx.watches.look(channel, scope.cx.now) } else { None };
    let scope = &*scope;
    let Some(found) = scope.channels.find(channel) else {
        return Reply::Members { total: 0, members: Vec::new(), traffic };
    };
    let total = scope.channels.online_len(found);
    let all = scope.channels.members(found);
    let shown = |conn| ChannelMember {
        identity: scope.conns.details(conn).identity(),
        user: scope.conns.user(conn).map(|user| (**user).into()),
    };
    let members = if total == all.len() {
        // A slice: skipping costs nothing.
        all.skip(offset).take(limit).filter_map(|member| conn_of(scope, member)).map(shown).collect()
    } else {
        all.filter_map(|member| conn_of(scope, member)).skip(offset).take(limit).map(shown).collect()
    };
    Reply::Members { total, members, traffic }
}

/// A slice of the walk over all channels.
pub fn poll_largest(scope: &mut Scope<'_>) {
    let slots = scope.cx.settings.limits.walked_slots;
    for (query_id, channels) in scope.largest.poll(scope.channels, slots) {
        scope.cx.reply(query_id, Reply::Channels(channels));
    }
}

/// A slice of the walk over all sessions.
pub fn poll_listing(scope: &mut Scope<'_>) {
    let (conns, channels, now) = (&*scope.conns, &*scope.channels, scope.cx.unix());
    let Sessions { table, listing, .. } = &mut *scope.sessions;
    let found = listing.poll(table, scope.cx.settings.limits.walked_slots, |_, session| SessionSummary {
        name: session.name.clone(),
        identity: session.conn.map(|conn| conns.details(conn).identity()),
        user: channels.joined_names(&session.joined).find_map(user_of).map(Box::from),
        waiting: session.waiting,
        waiting_bytes: session.waiting_bytes,
        oldest_ms: session.oldest_stored.map(|oldest| now.0.saturating_sub(oldest.0)),
        left_ms: session.ends.map(|ends| ends.0.saturating_sub(now.0)),
    });
    for ListReply { query_id, total, sessions } in found {
        scope.cx.reply(query_id, Reply::Sessions { total, sessions });
    }
}

#[cfg(test)]
mod tests;
