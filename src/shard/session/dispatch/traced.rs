//! What traces follow: each packet of a client, each message to one, and the calls for a channel or a session, handed
//! to the traces whom they concern (`call::trace`). Called only while somebody traces.

use crate::base::id::ConnIndex;
use crate::shard::call::query::Reply;
use crate::shard::call::trace::{Happening, Seen, SeenMessage, TraceEntry, TraceId, TraceTarget, TraceTerms};
use crate::shard::channel::user::user_of;
use crate::shard::input::ForwardOutcome;
use crate::shard::message::Message;
use crate::shard::output::Output;
use crate::shard::session::scope::Scope;
use crate::wire::packet::Packet;

pub fn begin(scope: &mut Scope<'_>, id: TraceId, terms: TraceTerms) -> Reply {
    scope.cx.traces.begin(id, terms);
    Reply::found(true)
}

/// A client's packet, before it is handled.
#[cold]
pub fn on_packet(scope: &mut Scope<'_>, conn: ConnIndex, packet: &[u8]) {
    let shown = scope.cx.traces.body_bytes();
    let (what, message, body) = match Packet::decode(packet) {
        Ok(Packet::Send { dup, qos, message_type, id, body }) => {
            let message =
                SeenMessage { message_type: Some(message_type), qos: Some(qos), id, dup, ..Default::default() };
            (Happening::FromClient, message, body)
        }
        Ok(Packet::Ack { id, body } | Packet::Rec { id, body }) => {
            (Happening::Acknowledged, SeenMessage { id: Some(id), ..Default::default() }, body)
        }
        _ => return,
    };
    on_connection(scope, conn, Seen { what, message: Some(message.with_body(body, shown)) });
}

/// What became of a client's message.
#[cold]
pub fn on_forwarded(scope: &mut Scope<'_>, conn: ConnIndex, outcome: &ForwardOutcome<'_>) {
    let Some((qos, id)) = scope.conns.forwarding(conn) else { return };
    let (what, body) = match outcome {
        ForwardOutcome::Answered(body) => (Happening::Answered, *body),
        ForwardOutcome::Refused(refusal) => (Happening::Refused, refusal.body),
        ForwardOutcome::Failed => (Happening::Failed, &b""[..]),
    };
    let message = SeenMessage { qos: Some(qos), id, ..Default::default() };
    let message = message.with_body(body, scope.cx.traces.body_bytes());
    on_connection(scope, conn, Seen { what, message: Some(message) });
}

/// A call's message for a channel.
#[cold]
pub fn on_call(scope: &mut Scope<'_>, channel: &str, message: &Message) {
    called(scope, message, |target| matches!(target, TraceTarget::Channel(traced) if **traced == *channel));
}

/// A call's message for a session.
#[cold]
pub fn on_session_call(scope: &mut Scope<'_>, session: &str, message: &Message) {
    called(scope, message, |target| matches!(target, TraceTarget::Session(traced) if **traced == *session));
}

fn called(scope: &mut Scope<'_>, message: &Message, follows: impl Fn(&TraceTarget) -> bool) {
    let (now, shown) = (scope.cx.now, scope.cx.traces.body_bytes());
    for (trace, lost) in scope.cx.traces.take(now, follows) {
        let seen = Seen { what: Happening::Called, message: Some(SeenMessage::of(message, shown)) };
        let entry = TraceEntry { at: now, seen, identity: None, session: None, user: None, lost };
        scope.cx.output(Output::Traced { trace, entry: Box::new(entry) });
    }
}

/// What was seen of a connection.
#[cold]
pub fn on_connection(scope: &mut Scope<'_>, conn: ConnIndex, seen: Seen) {
    let identity = scope.conns.details(conn).identity();
    let session = scope.session_of(conn).map(|index| scope.sessions.table.at(index));
    let (now, conns, channels) = (scope.cx.now, &*scope.conns, &*scope.channels);
    let joined = session.map_or_else(|| conns.joined(conn), |session| &session.joined);
    let follows = |target: &TraceTarget| match target {
        TraceTarget::Identity(of) => *of == identity,
        TraceTarget::Session(name) => session.is_some_and(|session| session.name == *name),
        TraceTarget::Channel(channel) => channels.joined_names(joined).any(|name| *name == **channel),
    };
    let taking = scope.cx.traces.take(now, follows);
    let session = session.map(|session| session.name.clone());
    let user = channels.joined_names(joined).find_map(user_of).map(Box::from);
    for (trace, lost) in taking {
        let (seen, session, user) = (seen.clone(), session.clone(), user.clone());
        let entry = TraceEntry { at: now, seen, identity: Some(identity), session, user, lost };
        scope.cx.output(Output::Traced { trace, entry: Box::new(entry) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::ConnKey;
    use crate::base::time::Tick;
    use crate::shard::call::query::Query;
    use crate::shard::channel::user::channel_of;
    use crate::shard::input::Input;
    use crate::shard::tests::Rig;
    use crate::wire::packet::QoS;

    fn begin(rig: &mut Rig, id: u64, target: TraceTarget) {
        begin_with(rig, id, target, 0);
    }

    fn begin_with(rig: &mut Rig, id: u64, target: TraceTarget, body_bytes: usize) {
        let terms = TraceTerms { target, ends: rig.now + 60_000, body_bytes };
        assert_eq!(rig.reply_to(Query::Trace { id: TraceId(id), terms }), Reply::found(true));
    }

    /// What the trace has shown since the last time; other outputs wait.
    fn entries(rig: &mut Rig, id: u64) -> Vec<String> {
        let mut shown = Vec::new();
        for output in rig.outputs() {
            match output {
                Output::Traced { trace, entry } => {
                    if trace == TraceId(id) {
                        shown.push(described(&entry));
                    }
                }
                other => rig.outputs.push(other),
            }
        }
        shown
    }

    fn described(entry: &TraceEntry) -> String {
        let mut out = format!("{:?}", entry.seen.what);
        if let Some(SeenMessage { message_type, qos, id, dup, bytes, body }) = &entry.seen.message {
            let [message_type, qos, id] = [*message_type, qos.map(|qos| qos as u16), id.map(|id| id.0)]
                .map(|n| n.map_or("-".into(), |n| n.to_string()));
            out += &format!(" {message_type} {qos} #{id} {bytes}{}", if *dup { " dup" } else { "" });
            out += &String::from_utf8_lossy(body);
        }
        out
    }

    fn open_user(rig: &mut Rig, user: &str) -> ConnKey {
        let (key, _) = rig.reserve();
        rig.input(Input::User { key, user });
        rig.opened(key);
        key
    }

    #[test]
    fn a_connection_is_followed_in_both_directions_until_it_ends() {
        let mut rig = Rig::new();
        let (key, other) = (rig.open_in("news"), rig.open_in("news"));
        let identity = rig.identity(key);
        begin(&mut rig, 1, TraceTarget::Identity(identity));
        rig.send(other, 1, 1, "of another");
        let forward = rig.forward();
        rig.answer(forward, "");
        rig.send(key, 1, 3, "hello");
        let forward = rig.forward();
        rig.answer(forward, "ok");
        rig.call("news", QoS::AtLeastOnce, "to all");
        assert_eq!(entries(&mut rig, 1), ["FromClient 7 1 #3 5", "Answered - 1 #3 2", "ToClient 7 1 #1 6"]);
        rig.advance(3_000);
        rig.ack(key, 1, "got it");
        rig.ack(other, 1, "");
        rig.end(key);
        assert_eq!(entries(&mut rig, 1), ["ToClient 7 1 #1 6 dup", "Acknowledged - - #1 6", "Closed"]);
        rig.finish();
    }

    #[test]
    fn a_channel_has_the_calls_for_it_and_all_its_members() {
        let mut rig = Rig::new();
        begin_with(&mut rig, 1, TraceTarget::Channel("news".into()), 3);
        let keys = [rig.open_in("news"), rig.open_in("weather"), rig.open_in("news")];
        rig.call("news", QoS::AtMostOnce, "storm");
        rig.call("weather", QoS::AtMostOnce, "sun");
        assert_eq!(entries(&mut rig, 1), ["Called 7 0 #- 5sto", "ToClient 7 0 #- 5sto", "ToClient 7 0 #- 5sto"]);
        keys.into_iter().for_each(|key| rig.end(key));
        assert_eq!(entries(&mut rig, 1), ["Closed", "Closed"]);
        rig.finish();
    }

    #[test]
    fn a_users_connections_are_followed_from_their_first_moment() {
        let mut rig = Rig::new();
        begin(&mut rig, 2, TraceTarget::Channel(channel_of("ann").into()));
        let (ann, bob) = (open_user(&mut rig, "ann"), open_user(&mut rig, "bob"));
        rig.send(ann, 0, 0, "x");
        rig.send(bob, 0, 0, "y");
        for forward in rig.forwards() {
            rig.fail(forward);
        }
        assert_eq!(entries(&mut rig, 2), ["Opened", "FromClient 7 0 #- 1", "Failed - 0 #- 0"]);
        rig.finish();
    }

    #[test]
    fn a_trace_that_has_ended_says_nothing() {
        let mut rig = Rig::new();
        let key = rig.open_in("news");
        begin(&mut rig, 1, TraceTarget::Channel("news".into()));
        begin(&mut rig, 2, TraceTarget::Channel("news".into()));
        assert_eq!(rig.reply_to(Query::EndTrace { id: TraceId(1) }), Reply::found(true));
        rig.now = Tick(rig.now.0 + 60_000);
        rig.call("news", QoS::AtMostOnce, "storm");
        assert_eq!((entries(&mut rig, 1), entries(&mut rig, 2)), (vec![], vec![]));
        assert!(!rig.shard.is_tracing(), "both are over");
        rig.end(key);
        rig.finish();
    }
}
