//! The session that a connection is to be attached to, as the business server named it. Plain data: it goes with the
//! connection when another worker owns the session.

use crate::base::id::{ConnKey, Identity};
use crate::base::time::Tick;
use crate::policy::backend::Grant;
use crate::shard::command::{SessionId, StoredSession};
use crate::shard::{Input, Shard};
use std::sync::Arc;

/// The durable session that the backend wants for a connection; it may go to another worker.
#[derive(Default)]
pub struct SessionRequest {
    pub name: Arc<str>,
    pub grant: Grant,
    /// The 101.
    pub response: Vec<u8>,
    pub greets: bool,
}

/// A connection that waits for its session.
pub struct Waiting {
    pub key: ConnKey,
    pub identity: Identity,
    pub request: SessionRequest,
}

/// Names the session, if the connection's is new.
pub fn new_session(identity: Identity, name: &str) -> SessionId {
    SessionId::new(u128::from_be_bytes(identity.0[..16].try_into().expect("sixteen bytes")), name)
}

/// Attaches the connection to its session, which is this shard's.
pub fn attach(request: SessionRequest, shard: &mut Shard, key: ConnKey, new: SessionId, now: Tick) {
    let SessionRequest { name, grant, response, greets } = request;
    apply(&grant, shard, key, now);
    let expiry_s = grant.session_expiry_s;
    shard.handle(Input::Attach { key, response: response.into(), new, name, expiry_s, greets }, now);
    // A session that exists brings channels of its own; what is named in both lists stays, as unsubscribing comes
    // first.
    for channel in grant.unsubscribe.iter().filter(|name| !grant.subscribe.contains(name)) {
        shard.handle(Input::Unsubscribe { key, channel }, now);
    }
}

/// What is granted to a connection that is not open yet, and is in no channel.
pub fn apply(grant: &Grant, shard: &mut Shard, key: ConnKey, now: Tick) {
    if let Some(user) = &grant.user {
        shard.handle(Input::User { key, user }, now);
    }
    for channel in &grant.subscribe {
        shard.handle(Input::Subscribe { key, channel }, now);
    }
    if let Some(value) = &grant.cookie {
        shard.handle(Input::Cookie { key, value }, now);
    }
}

/// The session is this node's, with those who wait for it. `stored`: it has come just now. Returns those who have to
/// ask for it once more, behind its end.
#[must_use]
pub fn take(
    shard: &mut Shard,
    name: &str,
    stored: Option<Box<StoredSession>>,
    mut waiting: Vec<Waiting>,
    now: Tick,
) -> Vec<Waiting> {
    // Some clients may have gone meanwhile.
    waiting.retain(|client| shard.is_current(client.key));
    let mut new = None;
    if let Some(session) = stored {
        shard.handle(Input::ForgetSession { name, keeps_name: false }, now);
        if session.row.has_ended_with_its_node() {
            shard.restore(vec![*session], now);
            shard.handle(Input::ExpireSession { name }, now);
            return waiting;
        }
        // One that nobody was attached to comes into the shard with its client. Without one it has to end.
        match session.row.is_unused() && !waiting.is_empty() {
            true => new = Some(session.row.session),
            false => shard.restore(vec![*session], now),
        }
    }
    for Waiting { key, identity, request } in waiting {
        let new = new.unwrap_or_else(|| new_session(identity, name));
        attach(request, shard, key, new, now);
    }
    Vec::new()
}
