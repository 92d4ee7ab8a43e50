//! What the queries of calls do: everything but sending to a channel, which is fan-out's.

use super::call::query::{Query, QueryRefusal, Reply, SessionInfo, Terms};
use super::connection::conn::Phase;
use super::ids::{MemberKind, QueryId};
use super::message::Message;
use super::output::Output;
use super::session::channels::{leave_session, subscribe, unsubscribe};
use super::session::scope::Scope;
use super::session::{self, end};
use crate::base::id::{ConnIndex, ConnKey, Identity};
use crate::shard::fanout::delivery::{self, conn_of, kick, online_members, open_call};
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
    if let Some(to) = handed_over_to(scope, &query).filter(|_| redirected.is_none()) {
        return scope.cx.output(Output::RedirectQuery { to, query_id, query });
    }
    let find = |scope: &Scope<'_>, identity: &Identity| redirected.or_else(|| scope.conns.find(identity, Phase::Open));
    let reply = match query {
        Query::Send { channel, message, terms } => return fanout.send(scope, query_id, &channel, message, &terms),
        Query::SendTo { session, message, terms } => {
            return send_to_session(scope, query_id, &session, message, &terms);
        }
        Query::Session { session } => session_info(scope, &session),
        Query::DropSession { session } => return end::drop_session(scope, query_id, &session),
        Query::Exists { identity } => Reply::found(find(scope, &identity).is_some()),
        Query::Subscribe { identity, channel } => match find(scope, &identity) {
            Some(conn) => match subscribe(scope, conn, &channel, Some(query_id)) {
                Ok(true) => return,
                Ok(false) => Reply::found(true),
                Err(why) => Reply::Refused(why),
            },
            None => Reply::found(false),
        },
        Query::Unsubscribe { identity, channel } => match find(scope, &identity) {
            Some(conn) => return unsubscribe(scope, conn, &channel, Some((query_id, Reply::found(true)))),
            None => Reply::found(false),
        },
        Query::Evict { channel, keep } => evict(scope, &channel, &keep),
        Query::Kick { identity, code, reason } => {
            let found = find(scope, &identity);
            if let Some(conn) = found {
                kick(scope, conn, code, &reason);
            }
            Reply::found(found.is_some())
        }
        Query::KickChannel { channel, code, reason } => fanout.close_channel(scope, &channel, code, &reason),
        Query::Members { channel, offset, limit } => members(scope, &channel, offset, limit),
        Query::Largest { most } => largest(scope, most),
    };
    scope.cx.reply(query_id, reply);
}

/// Where the connection that is meant has gone.
fn handed_over_to(scope: &Scope<'_>, query: &Query) -> Option<ConnKey> {
    let (Query::Exists { identity }
    | Query::Subscribe { identity, .. }
    | Query::Unsubscribe { identity, .. }
    | Query::Kick { identity, .. }) = query
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
    let member_terms = open_call(scope, query_id, &message, (1, 1), terms);
    session::downlink::deliver(scope, index, &message, member_terms.as_ref());
    scope.cx.messages.release(message);
}

fn session_info(scope: &Scope<'_>, name: &str) -> Reply {
    let Some(index) = scope.sessions.table.by_name(name) else { return Reply::Session(None) };
    let session = scope.sessions.table.at(index);
    Reply::Session(Some(Box::new(SessionInfo {
        name: session.name.clone(),
        identity: scope.online_conn(index).map(|conn| scope.conns.details(conn).identity()),
        channels: scope.channels.joined_names(&session.joined).map(String::from).collect(),
        waiting: session.waiting,
        waiting_bytes: session.waiting_bytes,
        oldest: session.oldest_stored,
        ends: session.ends,
    })))
}

/// Everyone but `keep` leaves the channel.
fn evict(scope: &mut Scope<'_>, channel: &str, keep: &Identity) -> Reply {
    let Some(found) = scope.channels.find(channel) else { return Reply::found(false) };
    let members: Vec<_> = scope.channels.members(found).collect();
    let mut evicted = 0;
    for member in members {
        let conn = conn_of(scope, member);
        if conn.is_some_and(|conn| scope.conns.details(conn).identity() == *keep) {
            continue;
        }
        evicted += 1;
        match member.kind() {
            MemberKind::Session(index) => leave_session(scope, index, channel, None),
            MemberKind::Connection(conn) => unsubscribe(scope, conn, channel, None),
        }
    }
    Reply::done(evicted)
}

fn members(scope: &Scope<'_>, channel: &str, offset: usize, limit: usize) -> Reply {
    let Some(found) = scope.channels.find(channel) else {
        return Reply::Members { total: 0, identities: Vec::new() };
    };
    let total = online_members(scope, found);
    let online = scope.channels.members(found).filter_map(|member| conn_of(scope, member));
    let identities = online.skip(offset).take(limit).map(|conn| scope.conns.details(conn).identity()).collect();
    Reply::Members { total, identities }
}

fn largest(scope: &Scope<'_>, most: usize) -> Reply {
    let mut channels: Vec<(&str, usize)> = scope.channels.iter().collect();
    let most = most.min(channels.len());
    if most < channels.len() {
        channels.select_nth_unstable_by_key(most, |(_, members)| std::cmp::Reverse(*members));
    }
    Reply::Channels(channels[..most].iter().map(|(name, members)| (String::from(*name), *members)).collect())
}

#[cfg(test)]
mod tests;
