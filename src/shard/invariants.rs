//! What must hold in a shard between any two inputs. Every part checks its own lists of a connection; here their sums
//! are compared with what the arenas hold. Goes over everything, so it runs in debug builds and for small shards only.

use super::connection::conn::Phase;
use super::connection::downlink::invariants as downlink;
use super::connection::outbox::Item;
use super::connection::uplink::invariants as uplink;
use super::connection::uplink::reading;
use super::session::scope::Scope;
use crate::base::id::ConnIndex;
use crate::base::time::Tick;
use crate::shard::fanout::delivery::conn_of;
use crate::shard::fanout::runs::Fanout;

pub fn check(scope: &Scope<'_>, fanout: &Fanout) {
    if scope.conns.len() > CONNS_MAX {
        return;
    }
    scope.channels.check_invariants();
    let (mut pending, mut nodes, mut memory, mut items) = (0, 0, 0, 0);
    let (mut conns_memory, mut known_memory) = (0, 0);
    let (mut message_uses, mut calls) = fanout.check();
    for (index, conn) in scope.conns.iter() {
        let outboxes = scope.conns.outboxes();
        let outbox = conn.outbox();
        outboxes.check(outbox);
        conns_memory += outboxes.memory_of(outbox) + scope.conns.details(index).assembly_memory();
        for item in outboxes.iter(outbox) {
            items += 1;
            message_uses += usize::from(matches!(item, Item::Message(..)));
        }
        let down = downlink::Holdings::of(scope.downlinks, scope.conns, index, scope.cx.messages);
        pending += down.pending;
        message_uses += down.message_uses;
        calls.extend(down.calls);
        let up = uplink::Holdings::of(scope.uplinks, scope.conns, index, scope.cx.settings);
        nodes += up.nodes;
        known_memory += up.known_memory;
        memory += up.memory;
        check_phase(scope, index);
    }
    assert!(scope.conns.endings().all(|index| !scope.conns.conn(index).is_open()), "it is closing");
    let open = scope.conns.iter().filter(|(_, conn)| conn.is_open()).count();
    assert_eq!(scope.conns.open_len(), open);
    assert_eq!(scope.conns.items_total(), items, "items are in outboxes, and nowhere else");
    assert_eq!((scope.conns.memory(), scope.uplinks.known().memory()), (conns_memory, known_memory));
    assert_eq!(scope.cx.messages.uses(), message_uses, "messages are held by whom they are counted for");
    assert_eq!(scope.downlinks.total(), pending);
    assert_eq!((scope.uplinks.total(), scope.uplinks.memory()), (nodes, memory));
    calls.extend(scope.sessions.commands.calls());
    calls.extend(scope.sessions.detached_calls.values());
    scope.cx.calls.check(&calls);
    assert!(scope.sessions.channel_changes.len() <= scope.sessions.commands.len(), "each is a command's");
    scope.sessions.commands.check(scope.cx.settings);
    check_sessions(scope);
    check_online(scope);
}

fn check_online(scope: &Scope<'_>) {
    for (name, online) in scope.channels.in_slots(0..scope.channels.slots()) {
        let channel = scope.channels.find(name).expect("it is found by its name");
        let members = scope.channels.members(channel).filter_map(|member| conn_of(scope, member));
        assert_eq!(online, members.count(), "who is online is counted");
    }
}

fn check_phase(scope: &Scope<'_>, index: ConnIndex) {
    let (conn, details) = (scope.conns.conn(index), scope.conns.details(index));
    let empty = scope.conns.has_empty_outbox(index);
    assert!(conn.is_open() || conn.downlink().is_empty(), "only the open wait for answers");
    let joins = matches!(conn.phase(), Phase::Connecting | Phase::Open);
    assert!(joins || scope.conns.joined(index).is_empty(), "who closes has left");
    assert!(conn.is_open() || !details.is_paused(), "a closing client is read, for its close frame");
    let resumes_at = reading::resumes_at(scope.conns, index, &scope.cx);
    let armed = || scope.conns.timer(index).is_some_and(|armed| armed <= resumes_at.max(scope.cx.now + 1));
    assert!(resumes_at == Tick::NEVER || armed(), "what would resume it?");
    let under_way =
        !details.is_uplink_idle() && !reading::needs_rel(scope.conns, index, scope.uplinks.known(), &scope.cx);
    // In the very millisecond in which it may go on its timer has not come yet.
    let is_due = || scope.conns.timer(index).is_some_and(|armed| armed <= scope.cx.now);
    assert!(!details.is_paused() || under_way || resumes_at != Tick::NEVER || is_due(), "what would resume it?");
    match conn.phase() {
        Phase::Connecting => assert!(empty && details.is_uplink_idle()),
        Phase::Open => check_timer(scope, index),
        Phase::Closing => {}
        Phase::HandedOver => assert!(scope.conns.counterpart(index).is_some() && details.is_uplink_idle()),
        Phase::Gone => {
            assert!(empty && scope.conns.timer(index).is_none());
            assert!(!details.is_finished(), "kept for what is with the backend only");
        }
    }
}

/// The connection's one timer is not later than anything it waits for.
fn check_timer(scope: &Scope<'_>, index: ConnIndex) {
    let Some(armed) = scope.conns.timer(index) else { panic!("an open connection has a timer") };
    let need = downlink::earliest_wake(scope.downlinks, scope.conns, index);
    let latest = need.max(scope.cx.now + 1);
    assert!(need == Tick::NEVER || armed <= latest, "armed for {armed:?}, needed at {need:?}");
}

fn check_sessions(scope: &Scope<'_>) {
    for (index, session) in scope.sessions.table.iter() {
        for conn in [session.conn, session.uplink_conn].into_iter().flatten() {
            assert_eq!(scope.conns.conn(conn).session(), session.key(index), "a connection knows its session");
        }
        session.check();
        let expires = session.ends.is_some() && !session.passing;
        assert_eq!(expires, scope.sessions.table.has_expiry(index));
    }
}

const CONNS_MAX: usize = 64;
