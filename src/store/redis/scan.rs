//! Reads Redis at the start: all sessions, with a summary of the messages that wait for each. This server becomes the
//! owner of every session that it reads.

use super::encoding;
use super::fault::{Fault, is_damage};
use super::fencing::FencingToken;
use super::keys::{Bucket, Keys};
use super::pipeline::Pipeline;
use super::script::Script;
use super::servers::Servers;
use crate::shard::command::{Offset, SessionId, StoredSession, UnixMs};
use redis::{Value, cmd};
use std::collections::HashSet;
use std::sync::Arc;
use tracing::{error, warn};

/// Sessions as they were read, in no order; two may have one name.
#[derive(Default)]
pub struct Scanned {
    pub found: Vec<StoredSession>,
    /// Sessions that cannot be read. They are left where they lie, for the operator.
    pub damaged: u64,
}

pub fn scan(servers: &mut Servers, keys: &Keys, token: FencingToken) -> Result<Scanned, Fault> {
    let mut scanned = Scanned::default();
    for bucket in keys.buckets() {
        let sessions = session_ids(servers, keys, bucket)?;
        for some in sessions.chunks(SESSIONS_AT_ONCE) {
            adopt(servers, keys, token, bucket, some, &mut scanned)?;
        }
    }
    Ok(scanned)
}

/// The ids of a bucket's sessions, each once.
fn session_ids(servers: &mut Servers, keys: &Keys, bucket: Bucket) -> Result<Vec<SessionId>, Fault> {
    let (mut ids, mut cursor) = (HashSet::new(), 0_u64);
    loop {
        let mut pipeline = Pipeline::default();
        let key = keys.sessions(bucket);
        pipeline.command(bucket, cmd("SSCAN").arg(key).arg(cursor).arg("COUNT").arg(SESSIONS_AT_ONCE));
        let value = servers.exchange(&Pipeline::default(), &pipeline)?.pop().unwrap_or_default();
        let (next, some): (u64, Vec<Vec<u8>>) =
            redis::from_redis_value(value).map_err(|error| broken(servers, &format!("SSCAN: {error}")))?;
        ids.extend(some.iter().filter_map(|id| decode_session_id(id)));
        if next == 0 {
            return Ok(ids.into_iter().collect());
        }
        cursor = next;
    }
}

pub fn decode_session_id(bytes: &[u8]) -> Option<SessionId> {
    bytes.try_into().ok().map(u128::from_be_bytes).map(SessionId)
}

fn adopt(
    servers: &mut Servers,
    keys: &Keys,
    token: FencingToken,
    bucket: Bucket,
    sessions: &[SessionId],
    scanned: &mut Scanned,
) -> Result<(), Fault> {
    let mut pipeline = Pipeline::default();
    for session in sessions {
        let names = [&keys.row(*session)[..], &keys.queue(*session), &keys.channels(*session), &keys.sessions(bucket)];
        pipeline.write(bucket, Script::AdoptSession, &names, (token, &session.0.to_be_bytes()[..]));
    }
    for (session, value) in sessions.iter().zip(servers.exchange(&Pipeline::default(), &pipeline)?) {
        let decoded = match value {
            // The session was removed since its id was read.
            Value::BulkString(_) => continue,
            Value::ServerError(error) if is_damage(&error) => None,
            Value::ServerError(error) => return Err(Fault::of_answer(&error)),
            value => decode_session(*session, value),
        };
        match decoded {
            Some(session) => scanned.found.push(session),
            None => {
                scanned.damaged += 1;
                let row = String::from_utf8_lossy(&keys.row(*session)).into_owned();
                let session = format!("{:032x}", session.0);
                error!(session, row, "a session cannot be read, and is left out: put its row back from a backup");
            }
        }
    }
    Ok(())
}

/// Row, messages, bytes, channels, when the first message was stored(8), offsets of the first and the last(8)
fn decode_session(session: SessionId, value: Value) -> Option<StoredSession> {
    type Fields = (Vec<u8>, u32, u64, Vec<String>, Vec<u8>, Vec<u8>, Vec<u8>);
    let (row, waiting, waiting_bytes, channels, oldest, first, last): Fields = redis::from_redis_value(value).ok()?;
    Some(StoredSession {
        row: encoding::decode_row(session, &row)?,
        channels: channels.iter().map(|channel| Arc::from(&**channel)).collect(),
        waiting,
        waiting_bytes,
        next: encoding::decode_u64(&last).map_or(Offset(0), |last| Offset(last).next()),
        oldest: encoding::decode_u64(&oldest).map(UnixMs),
        first: encoding::decode_u64(&first).map(Offset),
    })
}

/// Sessions of which each has a name of its own, and those that are to be dropped.
#[derive(Default)]
pub struct Named {
    pub sessions: Vec<StoredSession>,
    pub unused: Vec<SessionId>,
}

/// When the answer to a `PutSession` was lost and the server died, two sessions of one name are left, and one of them
/// was never used. It is an error when messages wait for both: the text contains the name.
pub fn one_per_name(mut found: Vec<StoredSession>) -> Result<Named, String> {
    found.sort_by_key(|found| (found.next, found.waiting, found.channels.len(), found.row.session));
    let mut named = Named { sessions: Vec::with_capacity(found.len()), unused: Vec::new() };
    let mut names: HashSet<Arc<str>> = HashSet::with_capacity(found.len());
    while let Some(session) = found.pop() {
        if names.insert(session.row.name.clone()) {
            named.sessions.push(session);
        } else if session.waiting == 0 {
            warn!(session = &*session.row.name, "an unused second session of that name is dropped");
            named.unused.push(session.row.session);
        } else {
            return Err(format!(
                "messages wait for two sessions named {}, and only one can be right",
                session.row.name
            ));
        }
    }
    Ok(named)
}

fn broken(servers: &Servers, problem: &str) -> Fault {
    Fault::broken(format!("{}: {problem}", servers.addresses()))
}

const SESSIONS_AT_ONCE: usize = 500;
