//! The session that a connection is to be attached to, as the business server named it. Plain data: it goes with the
//! connection when another worker owns the session.

use crate::base::id::{ConnKey, Identity};
use crate::base::time::Tick;
use crate::shard::command::SessionId;
use crate::shard::{Input, Shard};
use std::sync::Arc;

/// The durable session that the backend wants for a connection; it may go to another worker.
#[derive(Default)]
pub struct SessionRequest {
    pub name: Arc<str>,
    pub expiry_s: Option<u64>,
    pub cookie: Option<Box<[u8]>>,
    pub unsubscribe: Vec<String>,
    pub subscribe: Vec<String>,
    /// The 101.
    pub response: Vec<u8>,
    pub greets: bool,
}

/// Names the session, if the connection's is new.
pub fn new_session(identity: Identity, name: &str) -> SessionId {
    SessionId::new(u128::from_be_bytes(identity.0[..16].try_into().expect("sixteen bytes")), name)
}

/// Attaches the connection to its session, which is this shard's.
pub fn attach(request: SessionRequest, shard: &mut Shard, key: ConnKey, new: SessionId, now: Tick) {
    let SessionRequest { name, expiry_s, cookie, unsubscribe, subscribe, response, greets } = request;
    for channel in &subscribe {
        shard.handle(Input::Subscribe { key, channel }, now);
    }
    if let Some(value) = &cookie {
        shard.handle(Input::Cookie { key, value }, now);
    }
    shard.handle(Input::Attach { key, response: response.into(), new, name, expiry_s, greets }, now);
    // A session that exists brings channels of its own; what is named in both lists stays, as unsubscribing comes
    // first.
    for channel in unsubscribe.iter().filter(|name| !subscribe.contains(name)) {
        shard.handle(Input::Unsubscribe { key, channel }, now);
    }
}
