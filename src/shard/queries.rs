//! What the queries of calls do: everything but sending to a channel, which is fan-out's.

use super::call::query::{Query, QueryRefusal, Reply, SessionInfo, Terms, Who};
use super::connection::conn::Phase;
use super::ids::{Member, MemberKind, QueryId};
use super::message::Message;
use super::output::Output;
use super::session::channels::{leave_session, subscribe, subscribe_session, unsubscribe};
use super::session::scope::Scope;
use super::session::{self, end};
use crate::base::id::{ConnIndex, ConnKey};
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
        Query::Evict { channel, keep } => evict(scope, &channel, &keep),
        Query::Kick { identity, code, reason } => {
            let found = redirected.or_else(|| scope.conns.find(&identity, Phase::Open));
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

/// Who is meant, if he is here. `redirected`: the connection that the identity's has become.
fn find_member(scope: &Scope<'_>, who: &Who, redirected: Option<ConnIndex>) -> Option<MemberKind> {
    match who {
        Who::Connection(identity) => {
            redirected.or_else(|| scope.conns.find(identity, Phase::Open)).map(MemberKind::Connection)
        }
        Who::Session(name) => scope.sessions.table.by_name(name).map(MemberKind::Session),
    }
}

/// Where the connection that is meant has gone.
fn handed_over_to(scope: &Scope<'_>, query: &Query) -> Option<ConnKey> {
    let (Query::Exists { who: Who::Connection(identity) }
    | Query::Subscribe { who: Who::Connection(identity), .. }
    | Query::Unsubscribe { who: Who::Connection(identity), .. }
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
fn evict(scope: &mut Scope<'_>, channel: &str, keep: &Who) -> Reply {
    let Some(found) = scope.channels.find(channel) else { return Reply::found(false) };
    let members: Vec<_> = scope.channels.members(found).collect();
    let mut evicted = 0;
    for member in members {
        if is_member(scope, member, keep) {
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

fn is_member(scope: &Scope<'_>, member: Member, who: &Who) -> bool {
    match (who, member.kind()) {
        (Who::Connection(identity), _) => {
            conn_of(scope, member).is_some_and(|conn| scope.conns.details(conn).identity() == *identity)
        }
        (Who::Session(name), MemberKind::Session(index)) => scope.sessions.table.at(index).name == *name,
        (Who::Session(_), MemberKind::Connection(_)) => false,
    }
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
