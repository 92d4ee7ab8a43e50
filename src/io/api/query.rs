//! Queries to shards, and messages to channels and sessions: sent to the shards concerned, here and on other nodes, and
//! their replies added up.
//!
//! This worker's shard is given its query at once; another's gets it through its mailbox. A shard that does not reply
//! in time leaves its part of a message undecided; any other query fails with `NoAnswerInTime`, since a part of its
//! reply would be taken for the whole.

use crate::base::id::{Generation, Identity, ShardId};
use crate::base::time::Tick;
use crate::cluster::calls::{Call, SendCall, SentClaim};
use crate::cluster::directory::waiting::Outcome;
use crate::io::cluster::calls::hash_of_session;
use crate::io::cluster::port::PeerEntry;
use crate::io::runtime::clock;
use crate::io::worker::calls::gather::{Gather, Gathered};
use crate::io::worker::message::PeerMessage;
use crate::io::worker::turn::Worker;
use crate::policy::api::{Refusal, Targets, outcome};
use crate::shard::channel::traffic::Traffic;
use crate::shard::command::Claim;
use crate::shard::{ChannelMember, Input, Message, Query, QueryId, QueryRefusal, Reply, Terms, Wait, Who};
use crate::wire::packet::QoS;
use std::borrow::Cow;
use std::cell::LazyCell;
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

/// How far a call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// All nodes of the cluster.
    Cluster,
    /// This node: the call came from another.
    Node,
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
    let Gathered { reply, silent, .. } = gather_until(worker, shards, query, deadline).await?;
    if silent > 0 {
        return Err(Refusal::NoAnswerInTime);
    }
    reply.ok_or(Refusal::TooManyCalls)
}

/// Queries all shards of this node, and all nodes that may have members of the channel: `call` is the same query for
/// another node.
pub async fn query_everywhere(
    worker: &Worker,
    reach: Reach,
    query: Query,
    call: &Call<'_>,
    channel: &str,
) -> Result<Reply, Refusal> {
    let gather = worker.calls().gathers().open(worker.now() + REPLY_TIMEOUT_MS).ok_or(Refusal::TooManyCalls)?;
    for shard in worker.shared().workers() {
        gather.expect_one();
        query_one(worker, shard, gather.query(), query.clone());
    }
    if reach == Reach::Cluster {
        let (peers, hash) = (worker.cluster().peers(), worker.shared().hash_key().hash(channel));
        let concerned = peers.iter().filter(|peer| peer.table.may_have(hash));
        concerned.for_each(|peer| call_node(worker, &gather, peer, NODE_TIMEOUT_MS, call));
    }
    let Gathered { reply, silent, unreachable, .. } = gather.replies().await;
    if silent > 0 {
        return Err(Refusal::NoAnswerInTime);
    }
    let mut reply = reply.ok_or(Refusal::TooManyCalls)?;
    if unreachable > 0 {
        reply.add(Reply::Refused(QueryRefusal::Unreachable));
    }
    Ok(reply)
}

/// Queries another node.
pub async fn query_node(worker: &Worker, node: Generation, call: &Call<'_>) -> Result<Reply, Refusal> {
    query_node_within(worker, node, call, REPLY_TIMEOUT_MS).await
}

pub async fn query_node_within(
    worker: &Worker,
    node: Generation,
    call: &Call<'_>,
    within_ms: u64,
) -> Result<Reply, Refusal> {
    let Gathered { reply, .. } = gather_node(worker, node, call, within_ms).await?;
    reply.ok_or(Refusal::Shard(QueryRefusal::Unreachable))
}

/// The same, with all that came back.
pub async fn gather_from(worker: &Worker, node: Generation, call: &Call<'_>) -> Result<Gathered, Refusal> {
    gather_node(worker, node, call, REPLY_TIMEOUT_MS).await
}

/// What another node has to say of itself, for somebody who looks.
pub async fn look_at_node(worker: &Worker, node: Generation, call: &Call<'_>) -> Result<Gathered, Refusal> {
    gather_node(worker, node, call, LOOK_MS + NODE_GRACE_MS).await
}

async fn gather_node(worker: &Worker, node: Generation, call: &Call<'_>, within_ms: u64) -> Result<Gathered, Refusal> {
    let gather = worker.calls().gathers().open(worker.now() + within_ms).ok_or(Refusal::TooManyCalls)?;
    let peers = worker.cluster().peers();
    match peers.iter().find(|peer| peer.node.generation == node) {
        Some(peer) => call_node(worker, &gather, peer, within_ms, call),
        None => gather.note_unreachable(),
    }
    Ok(gather.replies().await)
}

fn call_node(worker: &Worker, gather: &Gather, peer: &PeerEntry, timeout_ms: u64, call: &Call<'_>) {
    gather.expect_node();
    if worker.cluster().call(peer, gather.query(), timeout_ms, call, worker.now()).is_err() {
        worker.calls().gathers().resolve_node(gather.query(), None);
    }
    worker.wakeups().need_turn();
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

/// What somebody looks at: a worker or node that does not reply within `LOOK_MS` is missing.
pub async fn look_everywhere(
    worker: &Worker,
    reach: Reach,
    query: Query,
    call: &Call<'_>,
) -> Result<Gathered, Refusal> {
    let gather = open_look(worker)?;
    for shard in worker.shared().workers() {
        gather.expect_one();
        query_one(worker, shard, gather.query(), query.clone());
    }
    if reach == Reach::Cluster {
        // A worker that is stuck there costs its own part.
        worker.cluster().peers().iter().for_each(|peer| call_node(worker, &gather, peer, LOOK_MS, call));
    }
    Ok(gather.replies().await)
}

/// A worker that is stuck on another node costs that node's own time: its answer still comes.
fn open_look(worker: &Worker) -> Result<Gather, Refusal> {
    let grace = if worker.cluster().has_peers() { NODE_GRACE_MS } else { 0 };
    worker.calls().gathers().open(worker.now() + LOOK_MS + grace).ok_or(Refusal::TooManyCalls)
}

/// The same of the workers of this node alone.
pub async fn look_here(worker: &Worker, query: Query) -> Result<Gathered, Refusal> {
    gather_until(worker, worker.shared().workers(), query, worker.now() + LOOK_MS).await
}

/// What all other nodes say of themselves.
pub async fn look_at_nodes(worker: &Worker, call: &Call<'_>) -> Result<Gathered, Refusal> {
    let gather = open_look(worker)?;
    worker.cluster().peers().iter().for_each(|peer| call_node(worker, &gather, peer, LOOK_MS, call));
    Ok(gather.replies().await)
}

/// One worker's part of a list, which is worth nothing without it.
pub async fn look_at(worker: &Worker, shard: ShardId, query: Query) -> Result<Reply, Refusal> {
    query_until(worker, std::iter::once(shard), query, worker.now() + LOOK_MS).await
}

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    Here(ShardId),
    Node(Generation),
    /// The name is foreign, or of a former life of a node.
    Nowhere,
}

pub fn locate(worker: &Worker, identity: &Identity) -> Location {
    let (node, shard) = (identity.node(), identity.key().shard);
    if node == worker.shared().node() {
        let is_ours = usize::from(shard.0) < worker.shared().workers_len();
        if is_ours { Location::Here(shard) } else { Location::Nowhere }
    } else if worker.cluster().peers().iter().any(|peer| peer.node.generation == node) {
        Location::Node(node)
    } else {
        Location::Nowhere
    }
}

/// The same query for whoever knows of somebody: a shard here, or another node. `None`: nobody does.
pub async fn query_one_of(worker: &Worker, who: &Who, query: Query, call: &Call<'_>) -> Result<Option<Reply>, Refusal> {
    match who {
        Who::Connection(identity) => match locate(worker, identity) {
            Location::Node(node) => query_node(worker, node, call).await.map(Some),
            Location::Here(_) | Location::Nowhere => query_one_here(worker, who, query).await,
        },
        Who::Session(name) => query_session(worker, name, query, call).await.map(Some),
    }
}

/// On this node only.
pub async fn query_one_here(worker: &Worker, who: &Who, query: Query) -> Result<Option<Reply>, Refusal> {
    match who {
        Who::Connection(identity) => match locate(worker, identity) {
            Location::Here(shard) => self::query(worker, std::iter::once(shard), query).await.map(Some),
            Location::Node(_) | Location::Nowhere => Ok(None),
        },
        Who::Session(name) => query_owner(worker, name, query).await.map(Some),
    }
}

/// A query about a durable session, wherever it is.
pub async fn query_session(worker: &Worker, name: &str, query: Query, call: &Call<'_>) -> Result<Reply, Refusal> {
    let here = query_owner(worker, name, query).await?;
    if !here.is_absent() {
        return Ok(here);
    }
    let Some(gather) = query_nodes_with(worker, name, NODE_TIMEOUT_MS, call)? else { return Ok(here) };
    let Gathered { reply, unreachable, .. } = gather.replies().await;
    match reply.filter(|reply| !reply.is_absent()) {
        Some(reply) => Ok(reply),
        None if unreachable > 0 => Err(Refusal::Shard(QueryRefusal::Unreachable)),
        None => Ok(here),
    }
}

/// Queries the nodes that may have the session. `None`: there are none.
fn query_nodes_with(worker: &Worker, name: &str, timeout_ms: u64, call: &Call<'_>) -> Result<Option<Gather>, Refusal> {
    let (peers, hash) = (worker.cluster().peers(), hash_of_session(worker.shared().hash_key(), name));
    let mut concerned = peers.iter().filter(|peer| peer.table.may_have(hash)).peekable();
    if concerned.peek().is_none() {
        return Ok(None);
    }
    let deadline = worker.now() + timeout_ms + NODE_GRACE_MS;
    let gather = worker.calls().gathers().open(deadline).ok_or(Refusal::TooManyCalls)?;
    concerned.for_each(|peer| call_node(worker, &gather, peer, timeout_ms, call));
    Ok(Some(gather))
}

/// Waits until every node knows of what was subscribed, or has had its time.
pub async fn until_known(worker: &Worker) -> Outcome {
    match worker.cluster().known(worker.now()) {
        Some(known) => known.await.unwrap_or(Outcome::TimedOut),
        None => Outcome::Known,
    }
}

/// As `until_known`, and a node that is linked and says nothing has until it is given up. False: it was not.
pub async fn until_all_know(worker: &Worker) -> bool {
    let until = worker.now() + SILENT_MS_MAX;
    loop {
        match until_known(worker).await {
            Outcome::Known => return true,
            Outcome::TimedOut if worker.now() >= until => return false,
            Outcome::TimedOut => {}
        }
    }
}

/// Who is in a channel on this node: how many, so many of them behind the first ones, and what has been counted of the
/// channel where `counts` says that it shall be.
pub async fn members_here(
    worker: &Worker,
    channel: &Arc<str>,
    (offset, limit): (usize, usize),
    counts: bool,
) -> Result<(usize, Vec<ChannelMember>, Option<Traffic>), Refusal> {
    let (mut total, mut members, mut traffic) = (0, Vec::new(), Some(Traffic::default()));
    // Shard after shard, so that an offset means the same on every page.
    for shard in worker.shared().workers() {
        let skip = offset.saturating_sub(total);
        let page = Query::Members { channel: channel.clone(), offset: skip, limit: limit - members.len(), counts };
        let (here, some, counted) = outcome::members(look_at(worker, shard, page).await?)?;
        total += here;
        members.extend(some);
        traffic = Traffic::added(traffic, counted);
    }
    Ok((total, members, traffic))
}

/// A query about a durable session, to the shard that owns it if this node does.
pub async fn query_owner(worker: &Worker, session: &str, query: Query) -> Result<Reply, Refusal> {
    if !worker.store().has_store() {
        return Err(Refusal::NoStoreForSessions);
    }
    let owner = worker.shared().session_owner(session);
    self::query(worker, std::iter::once(owner), query).await
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
        Targets::Session(name) => send_to_session(worker, Reach::Cluster, name, message).await,
        Targets::One(_) | Targets::Many(_) => send(worker, Reach::Cluster, to.channels(), message).await,
    }
}

/// To a durable session, wherever it is.
pub async fn send_to_session(
    worker: &Worker,
    reach: Reach,
    name: &str,
    message: Outgoing<'_>,
) -> Result<Reply, Refusal> {
    let &Outgoing { qos, message_type, body, timeout, ttl_ms, wait, .. } = &message;
    let claim = sent_claim(&message);
    let encoded = worker.calls().encode(message.qos, message.message_type, message.body);
    let terms = terms(message, worker.now());
    let deadline = terms.deadline + REPLY_GRACE_MS;
    let owner = worker.shared().session_owner(name);
    let query = Query::SendTo { session: name.into(), message: encoded, terms };
    let here = match query_until(worker, std::iter::once(owner), query, deadline).await {
        Err(Refusal::NoAnswerInTime) => return Ok(sent(None, 1, 0)),
        other => other?,
    };
    if !here.is_absent() || reach == Reach::Node {
        return Ok(here);
    }
    let send = SendCall { channels: vec![name], qos, message_type, ttl_ms, wait, claim, body };
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let Some(gather) = query_nodes_with(worker, name, timeout_ms, &Call::SendTo(send))? else { return Ok(here) };
    let Gathered { reply, unreachable, .. } = gather.replies().await;
    match reply.filter(|reply| !reply.is_absent()) {
        Some(reply) => Ok(reply),
        // The session may be there, and may be nowhere.
        None if unreachable > 0 => Ok(Reply::unreachable(unreachable)),
        None => Ok(here),
    }
}

/// A message to channels, wherever they have members. When all members of the one channel are on this worker, it costs
/// no allocation but the message's.
pub async fn send(
    worker: &Worker,
    reach: Reach,
    channels: &[Cow<'_, str>],
    message: Outgoing<'_>,
) -> Result<Reply, Refusal> {
    let gather = begin_send(worker, reach, channels, message)?;
    Ok(end_send(gather).await)
}

/// Sends it on its way; `end_send` says what became of it.
pub fn begin_send(
    worker: &Worker,
    reach: Reach,
    channels: &[Cow<'_, str>],
    message: Outgoing<'_>,
) -> Result<Gather, Refusal> {
    let now = worker.now();
    let deadline = now + message.timeout + REPLY_GRACE_MS;
    let gather = worker.calls().gathers().open(deadline).ok_or(Refusal::TooManyCalls)?;
    let encoded = worker.calls().encode(message.qos, message.message_type, message.body);
    if reach == Reach::Cluster && worker.cluster().has_peers() {
        send_to_nodes(worker, &gather, channels, &message);
    }
    let terms = terms(message, now);
    match channels {
        [channel] => send_to_channel(worker, &gather, channel, encoded, &terms),
        channels => broadcast(worker, &gather, channels, &encoded, &terms),
    }
    worker.carry_out();
    worker.wakeups().need_turn();
    Ok(gather)
}

pub async fn end_send(gather: Gather) -> Reply {
    let Gathered { reply, silent, unreachable, .. } = gather.replies().await;
    sent(reply, silent, unreachable)
}

/// To each node that may have members of one of the channels.
fn send_to_nodes(worker: &Worker, gather: &Gather, channels: &[Cow<'_, str>], message: &Outgoing<'_>) {
    let key = worker.shared().hash_key();
    let timeout_ms = u64::try_from(message.timeout.as_millis()).unwrap_or(u64::MAX);
    for peer in worker.cluster().peers().iter() {
        let names: Vec<&str> =
            channels.iter().map(|name| &**name).filter(|name| peer.table.may_have(key.hash(name))).collect();
        if names.is_empty() {
            continue;
        }
        let &Outgoing { qos, message_type, body, ttl_ms, wait, .. } = message;
        let claim = sent_claim(message);
        let call = Call::Send(SendCall { channels: names, qos, message_type, ttl_ms, wait, claim, body });
        call_node(worker, gather, peer, timeout_ms, &call);
    }
}

fn sent_claim(message: &Outgoing<'_>) -> Option<SentClaim> {
    message.claim.as_ref().map(|claim| SentClaim::new(claim, clock::stored_unix_ms()))
}

fn send_to_channel(worker: &Worker, gather: &Gather, channel: &str, message: Message, terms: &Terms) {
    let mut elsewhere = None;
    let hash = LazyCell::new(|| worker.shared().hash_key().hash(channel));
    for shard in worker.shared().workers().filter(|&shard| may_have(worker, shard, || *hash)) {
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
        let here = names.iter().zip(&hashes).filter(|(_, hash)| may_have(worker, shard, || **hash));
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
fn may_have(worker: &Worker, shard: ShardId, hash: impl FnOnce() -> u64) -> bool {
    shard == worker.id() || worker.shared().presence().may_have(shard, hash())
}

/// The outcome of a message, of which so many shards and nodes have said nothing.
fn sent(reply: Option<Reply>, silent: u32, unreachable: u32) -> Reply {
    let mut reply = reply.unwrap_or(Reply::sent(0));
    if silent > 0 {
        reply.add(Reply::silent(silent));
    }
    if unreachable > 0 {
        reply.add(Reply::unreachable(unreachable));
    }
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
/// A node has less time than its caller, so that what it knows still arrives.
const NODE_TIMEOUT_MS: u64 = REPLY_TIMEOUT_MS - NODE_GRACE_MS;
const NODE_GRACE_MS: u64 = 500;
/// A silent link is given up much earlier.
const SILENT_MS_MAX: u64 = 30_000;
/// Beyond a message's own deadline, by which the shards stop waiting for clients.
const REPLY_GRACE_MS: u64 = 1_000;
