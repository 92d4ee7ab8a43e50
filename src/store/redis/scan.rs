//! Reads Redis at the start: the sessions that are this server's, with a summary of the messages that wait for each.

use super::encoding;
use super::fault::{Fault, is_damage};
use super::keys::{Bucket, Keys};
use super::pipeline::Pipeline;
use super::script::Script;
use super::servers::Servers;
use crate::base::id::Generation;
use crate::shard::command::Token;
use crate::shard::command::{Offset, SessionId, StoredSession, UnixMs};
use redis::{Value, cmd};
use std::collections::HashSet;
use std::sync::Arc;
use tracing::{error, warn};

/// Whose sessions are read, and who is their owner from then on.
pub struct Heir<'a> {
    pub node: Generation,
    pub token: Token,
    pub predecessors: Predecessors<'a>,
}

#[derive(Clone, Copy)]
pub enum Predecessors<'a> {
    /// Everybody.
    All,
    Only(&'a [Generation]),
}

/// Sessions as they were read, in no order; two may have one name.
#[derive(Default)]
pub struct Scanned {
    pub found: Vec<StoredSession>,
    /// Sessions that cannot be read. They are left where they lie, for the operator.
    pub damaged: u64,
}

pub fn scan(servers: &mut Servers, keys: &Keys, heir: &Heir<'_>) -> Result<Scanned, Fault> {
    let mut scanned = Scanned::default();
    for bucket in keys.buckets() {
        let lists: Vec<Vec<u8>> = match heir.predecessors {
            Predecessors::All => vec![keys.sessions(bucket)],
            Predecessors::Only(nodes) => nodes.iter().map(|node| keys.owned(bucket, *node)).collect(),
        };
        let mut sessions = HashSet::new();
        for list in lists {
            read_ids(servers, bucket, &list, &mut sessions)?;
        }
        let sessions: Vec<SessionId> = sessions.into_iter().collect();
        for some in sessions.chunks(SESSIONS_AT_ONCE) {
            adopt(servers, keys, heir, bucket, some, &mut scanned)?;
        }
    }
    Ok(scanned)
}

/// The ids in a bucket's list. One may be in two lists: of a predecessor, and of who was taking it over.
fn read_ids(servers: &mut Servers, bucket: Bucket, list: &[u8], ids: &mut HashSet<SessionId>) -> Result<(), Fault> {
    let mut cursor = 0_u64;
    loop {
        let (next, some) = some_ids(servers, bucket, list, cursor)?;
        ids.extend(some);
        if next == 0 {
            return Ok(());
        }
        cursor = next;
    }
}

/// Some ids of a list, and the cursor behind them; 0 at the end.
pub fn some_ids(
    servers: &mut Servers,
    bucket: Bucket,
    list: &[u8],
    cursor: u64,
) -> Result<(u64, Vec<SessionId>), Fault> {
    let mut pipeline = Pipeline::default();
    pipeline.command(bucket, cmd("SSCAN").arg(list).arg(cursor).arg("COUNT").arg(SESSIONS_AT_ONCE));
    let value = servers.exchange(&Pipeline::default(), &pipeline)?.pop().unwrap_or_default();
    let (next, some): (u64, Vec<Vec<u8>>) =
        redis::from_redis_value(value).map_err(|error| broken(servers, &format!("SSCAN: {error}")))?;
    Ok((next, some.iter().filter_map(|id| decode_session_id(id)).collect()))
}

pub fn decode_session_id(bytes: &[u8]) -> Option<SessionId> {
    bytes.try_into().ok().map(u128::from_be_bytes).map(SessionId)
}

fn adopt(
    servers: &mut Servers,
    keys: &Keys,
    heir: &Heir<'_>,
    bucket: Bucket,
    sessions: &[SessionId],
    scanned: &mut Scanned,
) -> Result<(), Fault> {
    let mut pipeline = Pipeline::default();
    let predecessors: Vec<u8> = match heir.predecessors {
        Predecessors::All => Vec::new(),
        Predecessors::Only(nodes) => nodes.iter().flat_map(|node| node.0.to_be_bytes()).collect(),
    };
    let (owned, due) = (keys.owned(bucket, heir.node), keys.due_of(bucket, heir.node));
    for session in sessions {
        let (row, queue, channels) = (keys.row(*session), keys.queue(*session), keys.channels(*session));
        let names = [&row[..], &queue, &channels, &keys.sessions(bucket), &owned, &due];
        let args = (heir.token, &session.0.to_be_bytes()[..], &predecessors[..]);
        pipeline.write(bucket, Script::AdoptSession, &names, args);
    }
    for (session, value) in sessions.iter().zip(servers.exchange(&Pipeline::default(), &pipeline)?) {
        let decoded = match value {
            // The session was removed, or has got another owner, since its id was read.
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
pub fn decode_session(session: SessionId, value: Value) -> Option<StoredSession> {
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
