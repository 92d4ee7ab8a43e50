//! Queries to shards, and messages to channels and sessions: sent to the shards concerned, their replies added up.
//!
//! This worker's shard is given its query at once; another's gets it through its mailbox. A shard that does not reply
//! in time leaves its part of a message undecided; any other query fails with `NoAnswerInTime`, since a part of its
//! reply would be taken for the whole.

use crate::base::id::ShardId;
use crate::base::time::Tick;
use crate::io::worker::calls::gather::{Gather, Gathered};
use crate::io::worker::message::PeerMessage;
use crate::io::worker::turn::Worker;
use crate::policy::api::{Refusal, Targets};
use crate::shard::command::Claim;
use crate::shard::{Input, Message, Query, QueryId, Reply, Terms, Wait};
use crate::wire::packet::QoS;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

/// A message of a call.
pub struct Outgoing<'a> {
    pub qos: QoS,
    pub message_type: u16,
    pub body: &'a [u8],
    pub timeout: Duration,
    /// `None`: as configured.
    pub ttl_ms: Option<u64>,
    /// Of a call with a `message_id`.
    pub claim: Option<Claim>,
    pub wait: Wait,
}

/// Queries some shards, and adds the replies up.
pub async fn query(worker: &Worker, shards: impl Iterator<Item = ShardId>, query: Query) -> Result<Reply, Refusal> {
    query_until(worker, shards, query, worker.now() + REPLY_TIMEOUT_MS).await
}

async fn query_until(
    worker: &Worker,
    shards: impl Iterator<Item = ShardId>,
    query: Query,
    deadline: Tick,
) -> Result<Reply, Refusal> {
    let Gathered { reply, silent } = gather_until(worker, shards, query, deadline).await?;
    if silent > 0 {
        return Err(Refusal::NoAnswerInTime);
    }
    reply.ok_or(Refusal::TooManyCalls)
}

/// Whatever the shards have replied by then.
async fn gather_until(
    worker: &Worker,
    shards: impl Iterator<Item = ShardId>,
    query: Query,
    deadline: Tick,
) -> Result<Gathered, Refusal> {
    let gather = worker.calls().gathers().open(deadline).ok_or(Refusal::TooManyCalls)?;
    for shard in shards {
        gather.expect_one();
        query_one(worker, shard, gather.query(), query.clone());
    }
    Ok(gather.replies().await)
}

/// What somebody looks at: a worker that does not reply within `LOOK_MS` is missing. Returns what the others replied,
/// and how many are missing.
pub async fn look(worker: &Worker, query: Query) -> Result<(Option<Reply>, u32), Refusal> {
    let deadline = worker.now() + LOOK_MS;
    let Gathered { reply, silent } = gather_until(worker, worker.shared().workers(), query, deadline).await?;
    Ok((reply, silent))
}

/// One worker's part of a list, which is worth nothing without it.
pub async fn look_at(worker: &Worker, shard: ShardId, query: Query) -> Result<Reply, Refusal> {
    query_until(worker, std::iter::once(shard), query, worker.now() + LOOK_MS).await
}

/// A query about a durable session, to the shard that owns it.
pub async fn query_owner(
    worker: &Worker,
    session: &str,
    query_about: impl FnOnce(Arc<str>) -> Query,
) -> Result<Reply, Refusal> {
    if !worker.store().has_store() {
        return Err(Refusal::NoStoreForSessions);
    }
    let owner = worker.shared().session_owner(session);
    query(worker, std::iter::once(owner), query_about(session.into())).await
}

fn query_one(worker: &Worker, shard: ShardId, query_id: QueryId, query: Query) {
    if shard == worker.id() {
        worker.handle(Input::Query { query_id, query });
    } else {
        worker.query_peer(shard, query_id, PeerMessage::Query { query_id, query });
    }
}

/// A message to whomever it is for.
pub async fn send_to(worker: &Worker, to: &Targets<'_>, message: Outgoing<'_>) -> Result<Reply, Refusal> {
    match to {
        Targets::Session(name) => send_to_session(worker, name, message).await,
        Targets::One(_) | Targets::Many(_) => send(worker, to.channels(), message).await,
    }
}

async fn send_to_session(worker: &Worker, name: &str, message: Outgoing<'_>) -> Result<Reply, Refusal> {
    let encoded = worker.calls().encode(message.qos, message.message_type, message.body);
    let terms = terms(message, worker.now());
    let deadline = terms.deadline + REPLY_GRACE_MS;
    let owner = worker.shared().session_owner(name);
    let query = Query::SendTo { session: name.into(), message: encoded, terms };
    match query_until(worker, std::iter::once(owner), query, deadline).await {
        Err(Refusal::NoAnswerInTime) => Ok(sent(None, 1)),
        other => other,
    }
}

/// A message to channels, wherever they have members. When all members of the one channel are on this worker, it costs
/// no allocation but the message's.
pub async fn send(worker: &Worker, channels: &[Cow<'_, str>], message: Outgoing<'_>) -> Result<Reply, Refusal> {
    let now = worker.now();
    let deadline = now + message.timeout + REPLY_GRACE_MS;
    let gather = worker.calls().gathers().open(deadline).ok_or(Refusal::TooManyCalls)?;
    let encoded = worker.calls().encode(message.qos, message.message_type, message.body);
    let terms = terms(message, now);
    match channels {
        [channel] => send_to_channel(worker, &gather, channel, encoded, &terms),
        channels => broadcast(worker, &gather, channels, &encoded, &terms),
    }
    worker.carry_out();
    worker.wakeups().need_turn();
    let Gathered { reply, silent } = gather.replies().await;
    Ok(sent(reply, silent))
}

fn send_to_channel(worker: &Worker, gather: &Gather, channel: &str, message: Message, terms: &Terms) {
    let (mut elsewhere, hash) = (None, worker.shared().hash_key().hash(channel));
    for shard in worker.shared().workers().filter(|&shard| may_have(worker, shard, hash)) {
        gather.expect_one();
        let (query_id, message) = (gather.query(), message.clone());
        if shard == worker.id() {
            worker.shard().handle(Input::Send { query_id, channel, message, terms }, worker.now());
        } else {
            let channel: &Arc<str> = elsewhere.get_or_insert_with(|| Arc::from(channel));
            let query = Query::Send { channel: channel.clone(), message, terms: terms.clone() };
            query_one(worker, shard, query_id, query);
        }
    }
}

/// One query to each shard, so that it sees who is in several of the channels.
fn broadcast(worker: &Worker, gather: &Gather, channels: &[Cow<'_, str>], message: &Message, terms: &Terms) {
    let mut names: Vec<Arc<str>> = channels.iter().map(|channel| Arc::from(&**channel)).collect();
    names.sort_unstable();
    names.dedup();
    let hashes: Vec<u64> = names.iter().map(|name| worker.shared().hash_key().hash(name)).collect();
    for shard in worker.shared().workers() {
        let here = names.iter().zip(&hashes).filter(|(_, hash)| may_have(worker, shard, **hash));
        let channels: Arc<[Arc<str>]> = here.map(|(name, _)| name.clone()).collect();
        if channels.is_empty() {
            continue;
        }
        let query = Query::Broadcast { channels, message: message.clone(), terms: terms.clone() };
        (0..query.replies()).for_each(|_| gather.expect_one());
        query_one(worker, shard, gather.query(), query);
    }
}

/// Of this worker's own shard that need not be known: it finds nobody at once.
fn may_have(worker: &Worker, shard: ShardId, channel: u64) -> bool {
    shard == worker.id() || worker.shared().presence().may_have(shard, channel)
}

/// The outcome of a message, of which so many shards have said nothing.
fn sent(reply: Option<Reply>, silent: u32) -> Reply {
    let mut reply = reply.unwrap_or(Reply::sent(0));
    reply.add(Reply::silent(silent));
    reply
}

fn terms(message: Outgoing<'_>, now: Tick) -> Terms {
    let Outgoing { timeout, ttl_ms, claim, wait, .. } = message;
    Terms { deadline: now + timeout, ttl_ms, claim, wait }
}

/// Replies come much earlier, but for a store that is slow.
const REPLY_TIMEOUT_MS: u64 = 10_000;
/// People and scrapers wait for what they look at.
const LOOK_MS: u64 = 2_000;
/// Beyond a message's own deadline, by which the shards stop waiting for clients.
const REPLY_GRACE_MS: u64 = 1_000;
