//! A connection's slot in the shard: taken, opened or given up, attached to a session; and what the business server's
//! answers tell us to do with it.
//!
//! Plain calls into the shard, none of which waits. `upgrade`, `handover` and `service::completions` use them.

use crate::base::id::{ConnKey, Identity};
use crate::io::handover::session_request::{self, SessionRequest, Waiting};
use crate::io::runtime::oneshot::Oneshot;
use crate::io::worker::connecting::AttachOutcome;
use crate::io::worker::turn::Worker;
use crate::policy::backend::{Actions, Grant};
use crate::shard::Input;
use crate::store::ConnectionRecord;
use std::os::fd::RawFd;
use tracing::{error, warn};

/// Takes a slot and ties it to a socket. `Opened`, `attach`, a handover or `abandon` must follow.
pub fn reserve(worker: &Worker, digest: [u8; 32], fd: RawFd) -> (ConnKey, Identity) {
    let (key, identity) = worker.shard().reserve(digest, worker.now());
    worker.sockets().attach(key.index, fd);
    (key, identity)
}

/// Takes a slot for a connection that was handed over; `origin` is its slot in the other worker. `attach` or `abandon`
/// must follow.
pub fn adopt(worker: &Worker, identity: Identity, origin: ConnKey, fd: RawFd) -> ConnKey {
    let key = worker.shard().adopt(identity, origin, worker.now());
    worker.sockets().attach(key.index, fd);
    key
}

/// Gives the slot back: no client was opened in it.
pub fn abandon(worker: &Worker, key: ConnKey) {
    worker.connects().forget(key);
    worker.sockets().detach(key.index);
    worker.handle(Input::Abandoned { key });
}

/// Attaches the connection to its durable session. What comes back says whether the store takes it.
pub fn attach(worker: &Worker, key: ConnKey, identity: Identity, request: SessionRequest) -> Oneshot<AttachOutcome> {
    // In front of the session's own commands: who is attached has a record.
    record(worker, identity, &request.grant, None);
    let attached = worker.connects().open_attach(key, worker.now() + ATTACH_TIMEOUT_MS);
    if worker.ownership().is_shared() {
        worker.own(|ownership, now| ownership.attach(Waiting { key, identity, request }, now));
    } else {
        let new = session_request::new_session(identity, &request.name);
        session_request::attach(request, &mut worker.shard(), key, new, worker.now());
    }
    worker.wakeups().need_turn();
    attached
}

/// Notes in the store that the business server has let the connection in, and is owed its close. `corked`: its 101
/// waits until that is stored.
pub fn record(worker: &Worker, identity: Identity, grant: &Grant, corked: Option<ConnKey>) {
    let records = worker.hooks().records();
    if !records.is_on() {
        return;
    }
    if worker.store().len() >= worker.limits().records_waiting_max {
        return worker.count(|counters| &counters.connections_unrecorded);
    }
    if let Some(key) = corked {
        worker.sockets().cork(key.index);
    }
    let (cookie, user) = (grant.cookie.clone(), grant.user.clone());
    worker.store().push(records.put(ConnectionRecord { identity, cookie, user }, corked, worker.now()));
}

/// Does with the connection what the business server's answer says: unsubscribes first.
pub fn apply(worker: &Worker, key: ConnKey, actions: &Actions<'_>) {
    if actions.is_empty() {
        return;
    }
    let now = worker.now();
    let mut shard = worker.shard();
    for channel in actions.unsubscribe.iter() {
        shard.handle(Input::Unsubscribe { key, channel: &channel }, now);
    }
    for channel in actions.subscribe.iter() {
        shard.handle(Input::Subscribe { key, channel: &channel }, now);
    }
    if let Some(value) = actions.cookie {
        shard.handle(Input::Cookie { key, value }, now);
    }
    drop(shard);
    note_invalid(worker, actions);
}

/// The business server does not accept our requests, or says what cannot be read: an operator must know.
pub fn note_invalid(worker: &Worker, actions: &Actions<'_>) {
    if actions.unreadable > 0 && worker.count_first(|counters| &counters.backend_unreadable) {
        warn!("the business server sends RAINBOW* headers that cannot be parsed; they are ignored (logged once)");
    }
    if let Some(invalid) = actions.invalid {
        worker.count(|counters| &counters.backend_invalid);
        let meaning = match invalid {
            60001 => "invalid signature",
            60002 => "identity required",
            60003 => "POST required",
            _ => "unknown",
        };
        error!(code = invalid, meaning, "the business server calls our request invalid (RAINBOWREQUESTINVALID)");
    }
}

/// A store that says nothing for so long is taken for unreachable.
const ATTACH_TIMEOUT_MS: u64 = 60_000;
