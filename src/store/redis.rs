//! The shared store: Redis 7 or newer, or Valkey. A batch becomes one pipeline of script calls (`Batch`), which goes to
//! the servers (`Servers`) and is tried again until it is answered, or was tried for long enough. The store notices
//! when Redis no longer has what it had acknowledged. A lost answer is never taken for a "no": the whole batch is
//! repeated on a new connection, after the old one was killed; a script does nothing the second time and answers the
//! same.
//!
//! Keys, each behind `rainbow:CLUSTER:{BUCKET}:` (one bucket; 64 in a Redis cluster, a session is in `id mod 64`):
//!
//! ```text
//! format      string  of this layout
//! nodes       hash    node (its generation) → whether it lives or is buried, and its place
//! l:NODE      string  its lease; expires by itself
//! w:NODE      string  the number of its last batch: shows lost data
//! o:NODE      set     ids of the sessions that it owns
//! k:NODE      hash    its connections: identity → cookie, until their closes are reported
//! t:NODE      list    a number, and those of a dead node's connections that became its own by it
//! d:NODE      zset    those of them in which a message expires → when the first one does, or earlier
//! sessions    set     ids of all sessions of the bucket (16 bytes each)
//! n:NAME      string  the id of the session of that name
//! s:ID        string  the session's row: its owner's token, what waits, its last purge, then name, cookie and marks
//! q:ID        list    its messages by ascending offset; 30 bytes of header each and 2 to 5 of Redis's own
//! c:ID        hash    its channels (a hash stays a listpack where a set does not)
//! r:ID        hash    received ids → sequence and answer
//! g:ID CLAIM  string  guard: the session has had the message of this claim; expires by itself
//! m:CLAIM     string  a call's message_id: the request that claimed it, or the call's answer; expires by itself
//! ```
//!
//! A token begins with the owner's generation; a mutation with another token is `Fenced`. A server that is alone owns
//! everything from its start on. In a cluster a node claims the sessions of its clients and adopts those of nodes that
//! have ended; at its start it takes what the node had that ran at its place before.

mod batch;
mod encoder;
mod encoding;
mod fault;
mod fencing;
mod keys;
mod nodes;
mod owned;
mod pipeline;
mod scan;
mod script;
mod servers;
#[cfg(test)]
mod tests;

use super::crash;
use super::health::{Health, Usage};
use super::opening::{OpenError, Opened, Options, Sharing};
use super::request::{ConnectionRecord, NodeRecord, OrphanedSessions, PurgeOutcome, Request, Response};
use crate::base::id::Generation;
use crate::config::Durability;
use crate::config::store_url::StoreUrl;
use crate::shard::command::{ExpiredMessages, SessionId, StoreError, UnixMs};
use crate::shard::command::{OwnershipCommand, Token};
use batch::answers::UsageChange;
use batch::{Batch, Known};
use encoder::Encoder;
use fault::Fault;
use fencing::{BatchId, BatchNumber, draw};
use keys::{Bucket, Keys, text_of};
use nodes::{Answered, Nodes};
use owned::Owned;
use pipeline::Pipeline;
use redis::{Value, cmd};
use scan::{Heir, Named, Predecessors, Scanned};
use script::Script;
use servers::Servers;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tracing::{error, info, warn};

pub struct Redis {
    servers: Servers,
    keys: Keys,
    nodes: Nodes,
    /// Of the process.
    token: Token,
    /// The last batch or purge.
    batch: BatchNumber,
    /// Per bucket, the last batch that Redis has acknowledged.
    acknowledged: Vec<BatchNumber>,
    owned: Owned,
    /// New sessions of which it is not known whether they were stored. No shard knows them: they are dropped.
    orphans: Vec<SessionId>,
    /// Sessions that another server has taken, and that were not reported yet.
    fenced: Vec<Arc<str>>,
    usage: Usage,
    bytes_max: u64,
    /// Between one try of a batch and the next, in milliseconds.
    backoff_ms: &'static [u64],
    health: Health,
    /// Since `take_reconnected`.
    has_reconnected: bool,
    /// Acknowledged data is lost, or another server writes here: nothing is stored until the next start.
    has_permanent_fault: bool,
}

impl Redis {
    pub fn open(options: &Options) -> Result<(Redis, Opened), OpenError> {
        crash::point("open.before");
        let mut store = Redis::new(options)?;
        let opened = store.with_retries(Redis::begin)?;
        if options.durability == Durability::Memory {
            warn!(
                "store.durability is \"memory\": a message that is kept outlives what Redis's memory outlives, no more"
            );
        }
        crash::point("open.after");
        info!(sessions = opened.sessions.len(), messages = store.usage.messages, "the store in Redis is open");
        Ok((store, opened))
    }

    fn new(options: &Options) -> Result<Redis, Fault> {
        let url = StoreUrl::parse(options.url.expose())
            .map_err(|why| Fault::broken(format!("store.url: {why}. {}", why.hint())))?;
        // For rediss://; it stays whatever was installed before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let keys = Keys::new(&options.cluster_name, url.is_cluster());
        let buckets: Vec<Bucket> = keys.buckets().collect();
        let node = options.node.clone();
        let token = Token::new(node.generation, u64::from_be_bytes(draw()?));
        Ok(Redis {
            acknowledged: vec![BatchNumber::default(); buckets.len()],
            servers: Servers::new(url, buckets, options.durability),
            keys,
            owned: Owned::new(node.sharing, token),
            nodes: Nodes::new(node),
            token,
            batch: BatchNumber::default(),
            orphans: Vec::new(),
            fenced: Vec::new(),
            usage: Usage::default(),
            bytes_max: options.bytes_max,
            backoff_ms: &BACKOFF_MS,
            health: Health::Ready,
            has_reconnected: false,
            has_permanent_fault: false,
        })
    }

    /// Makes this server a node of the store, and the owner of what its predecessors had.
    fn begin(&mut self) -> Result<Opened, Fault> {
        self.servers.connect()?;
        let known = self.nodes.register(&mut self.servers, &self.keys)?;
        crash::point("open.inside");
        for node in &known.predecessors {
            self.nodes.bury(&mut self.servers, &self.keys, *node, true)?;
        }
        let takes_all = self.nodes.sharing() == Sharing::Alone || known.is_format_1;
        // An attempt before this one, whose answers were lost, may have taken them already.
        let had: Vec<Generation> = known.predecessors.iter().copied().chain([self.nodes.own()]).collect();
        let predecessors = if takes_all { Predecessors::All } else { Predecessors::Only(&had) };
        let heir = Heir { node: self.nodes.own(), token: self.token, predecessors };
        let Scanned { found, damaged } = scan::scan(&mut self.servers, &self.keys, &heir)?;
        let Named { sessions, unused } = scan::one_per_name(found).map_err(|problem| self.broken(&problem))?;
        (self.usage, self.orphans) = (Usage::default(), Vec::new());
        self.owned.clear();
        for session in &sessions {
            self.owned.insert(session.row.name.clone(), session.row.session);
            self.usage.messages += u64::from(session.waiting);
            self.usage.bytes += session.waiting_bytes;
        }
        self.drop_sessions(&unused)?;
        if known.is_format_1 {
            nodes::finish_migration(&mut self.servers, &self.keys, &sessions)?;
        }
        for node in &known.predecessors {
            while !self.take_some_connections(*node)?.is_empty() {}
            self.nodes.forget(&mut self.servers, &self.keys, *node)?;
        }
        // It has none of its own yet.
        let connections = self.nodes.own_connections(&mut self.servers, &self.keys)?;
        let token = (self.nodes.sharing() == Sharing::Cluster).then_some(self.token);
        Ok(Opened { sessions, damaged, connections, token, ..Opened::default() })
    }

    fn drop_sessions(&mut self, sessions: &[SessionId]) -> Result<(), Fault> {
        if sessions.is_empty() {
            return Ok(());
        }
        let mut pipeline = Pipeline::default();
        let encoder = self.encoder(UnixMs(0));
        sessions.iter().for_each(|session| encoder.drop_session(&mut pipeline, *session, self.token));
        self.servers.exchange(&Pipeline::default(), &pipeline).map(drop)
    }

    /// Carries out all requests: one response each, in their order. When Redis cannot be reached for long it is not
    /// known what was done, and the responses say so (`Unreachable`).
    pub fn commit(&mut self, requests: Vec<Request>, now: UnixMs) -> Vec<Response> {
        crash::point("commit.before");
        self.batch = self.batch.next();
        let room = self.bytes_max.saturating_sub(self.usage.bytes);
        let claimed = match self.has_permanent_fault {
            true => Err(None),
            false => self.find_claimed(&requests).map_err(Some),
        };
        let claimed = match claimed {
            Ok(claimed) => claimed,
            Err(fault) => {
                if let Some(fault) = fault {
                    self.note_fault(fault);
                }
                return batch::refuse(requests, self.reason());
            }
        };
        let batch = Batch::new(requests, &self.orphans, Known { room, claimed }, &self.encoder(now));
        let mut tries = 0;
        let values = self.with_retries(|store| {
            store.connect()?;
            tries += 1;
            store.exchange(batch.pipeline())
        });
        match values {
            Ok(values) => {
                crash::point("commit.after");
                let outcome = batch.finish(values, tries > 1, &mut self.owned);
                self.orphans.clear();
                self.fenced.extend(outcome.fenced);
                self.count(outcome.change);
                let health = outcome.refusal.map(|(reason, detail)| Health::Refusing { reason, detail });
                self.set_health(health.unwrap_or(Health::Ready));
                outcome.responses
            }
            Err(fault) => {
                let new = batch.put_sessions().filter(|(name, _)| self.owned.get(name).is_none());
                self.orphans.extend(new.map(|(_, session)| session).collect::<Vec<_>>());
                self.orphans.truncate(ORPHANS_MAX);
                let unknown = tries > 0 && !matches!(fault, Fault::Permanent { .. });
                self.note_fault(fault);
                batch.refuse(if unknown { StoreError::Unreachable } else { self.reason() })
            }
        }
    }

    /// The ids of the sessions that are claimed: that which has the name, or one that is drawn now.
    fn find_claimed(&mut self, requests: &[Request]) -> Result<HashMap<Arc<str>, SessionId>, Fault> {
        let mut claimed = HashMap::new();
        for request in requests {
            if let Request::Ownership { command: OwnershipCommand::Claim { name, .. }, .. } = request {
                let drawn = u128::from_be_bytes(draw()?);
                claimed.insert(name.clone(), SessionId::new(drawn, name));
            }
        }
        if claimed.is_empty() {
            return Ok(claimed);
        }
        let mut pipeline = Pipeline::default();
        let names: Vec<Arc<str>> = claimed.keys().cloned().collect();
        for name in &names {
            pipeline.command(self.keys.bucket_of_name(name), cmd("GET").arg(self.keys.name(name)));
        }
        let found = self.with_retries(|store| {
            store.connect()?;
            store.servers.exchange(&Pipeline::default(), &pipeline)
        })?;
        for (name, value) in names.into_iter().zip(found) {
            if let Value::BulkString(id) = value
                && let Some(session) = scan::decode_session_id(&id)
            {
                claimed.insert(name, session);
            }
        }
        Ok(claimed)
    }

    /// Removes expired messages, at most `most` of them.
    pub fn purge(&mut self, now: UnixMs, most: usize) -> PurgeOutcome {
        if !self.servers.is_connected() || self.has_permanent_fault {
            return PurgeOutcome::default();
        }
        self.purge_slice(now, most).unwrap_or_else(|fault| {
            self.note_fault(fault);
            PurgeOutcome::default()
        })
    }

    /// A purge has a number, which the rows note: what it removed is reported however often it had to be tried.
    fn purge_slice(&mut self, now: UnixMs, most: usize) -> Result<PurgeOutcome, Fault> {
        self.batch = self.batch.next();
        let sessions_max = most.clamp(1, PURGED_SESSIONS_MAX);
        let due = self.with_retries(|store| store.due_sessions(now, sessions_max))?;
        let mut outcome = PurgeOutcome { more: due.len() == sessions_max, ..PurgeOutcome::default() };
        if due.is_empty() {
            return Ok(outcome);
        }
        let each = (most / due.len()).clamp(1, u32::MAX as usize);
        let number = self.batch_id().purge_number();
        let mut pipeline = Pipeline::default();
        for (bucket, session) in &due {
            let due = self.keys.due_of(*bucket, self.nodes.own());
            let names = [&self.keys.row(*session)[..], &self.keys.queue(*session), &due];
            let token = self.owned.token(*session).unwrap_or(self.token);
            let args = (token, &session.0.to_be_bytes()[..], now.0, each, &number[..]);
            pipeline.write(*bucket, Script::Purge, &names, args);
        }
        let values = self.with_retries(|store| {
            store.connect()?;
            store.exchange(&pipeline)
        })?;
        crash::point("purge.inside");
        for ((_, session), value) in due.into_iter().zip(values) {
            let counts: Option<(u32, u64, u8)> = redis::from_redis_value(value).ok();
            let Some((messages @ 1.., bytes, more)) = counts else { continue };
            outcome.more |= more == 1;
            outcome.expired.push(ExpiredMessages { session, messages, bytes });
            self.count(UsageChange { messages: -i64::from(messages), bytes: -(bytes as i64) });
        }
        Ok(outcome)
    }

    /// Sessions in which a message may have expired.
    fn due_sessions(&mut self, now: UnixMs, most: usize) -> Result<Vec<(Bucket, SessionId)>, Fault> {
        self.connect()?;
        let mut pipeline = Pipeline::default();
        for bucket in self.keys.buckets() {
            let key = self.keys.due_of(bucket, self.nodes.own());
            let mut range = cmd("ZRANGEBYSCORE");
            pipeline.command(bucket, range.arg(key).arg("-inf").arg(now.0).arg("LIMIT").arg(0).arg(most));
        }
        let mut due = Vec::new();
        for (bucket, value) in self.keys.buckets().zip(self.servers.exchange(&Pipeline::default(), &pipeline)?) {
            let ids: Vec<Vec<u8>> =
                redis::from_redis_value(value).map_err(|error| self.broken(&format!("ZRANGEBYSCORE: {error}")))?;
            due.extend(ids.iter().filter_map(|id| scan::decode_session_id(id)).map(|session| (bucket, session)));
        }
        due.truncate(most);
        Ok(due)
    }

    /// Redis does its own housekeeping.
    pub fn maintain(&mut self, _idle: bool) {}

    /// Checks whether Redis answers, has what it acknowledged, and has room.
    pub fn check(&mut self, _now: UnixMs) -> Option<UnixMs> {
        if self.has_permanent_fault {
            return None;
        }
        let full =
            self.connect().and_then(|()| self.exchange(&Pipeline::default())).and_then(|_| self.servers.is_full());
        match full {
            Ok(false) => self.set_health(Health::Ready),
            Ok(true) => self.set_health(Health::Refusing { reason: StoreError::StoreFull, detail: FULL.into() }),
            Err(fault) => self.note_fault(fault),
        }
        // Without connections, nobody was asked.
        self.servers.time()
    }

    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// As this server has counted since it opened the store, without the mutations whose answers were lost.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    pub fn set_bytes_max(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
    }

    /// What was acknowledged is in Redis. The other nodes need not wait until the lease has ended.
    pub fn close(mut self) {
        crash::point("close.before");
        if self.servers.is_connected() && !self.has_permanent_fault {
            let _ = self.nodes.bury(&mut self.servers, &self.keys, self.nodes.own(), true);
        }
    }

    fn connect(&mut self) -> Result<(), Fault> {
        if self.servers.is_connected() {
            return Ok(());
        }
        self.servers.connect()?;
        self.has_reconnected = true;
        // Before anything is written, find out whether the server came back empty or with older data.
        self.exchange(&Pipeline::default()).map(drop)
    }

    /// One try of a batch. In front of it, Redis is asked whether it has what it acknowledged, in the buckets that the
    /// batch touches; in all when the batch is empty.
    fn exchange(&mut self, pipeline: &Pipeline) -> Result<Vec<Value>, Fault> {
        let buckets = if pipeline.is_empty() { self.keys.buckets().collect() } else { pipeline.distinct_buckets() };
        let number = if pipeline.writes() { self.batch.to_be_bytes().to_vec() } else { Vec::new() };
        let mut checks = Pipeline::default();
        for bucket in &buckets {
            let acknowledged = self.acknowledged[usize::from(bucket.0)].to_be_bytes();
            let node = self.nodes.own();
            let args = (&text_of(node)[..], &acknowledged[..], &number[..]);
            let names = [&self.keys.writes(*bucket, node)[..], &self.keys.nodes(*bucket), &self.keys.format(*bucket)];
            checks.read(*bucket, Script::CheckNode, &names, args);
        }
        let mut values = self.servers.exchange(&checks, pipeline)?;
        crash::point("commit.inside");
        let answers = values.split_off(buckets.len());
        for (bucket, answer) in buckets.iter().zip(values) {
            self.check_node(*bucket, answer)?;
        }
        if pipeline.writes() {
            for bucket in buckets {
                self.acknowledged[usize::from(bucket.0)] = self.batch;
            }
        }
        Ok(answers)
    }

    /// `answer`: of `check_node.lua`.
    fn check_node(&self, bucket: Bucket, answer: Value) -> Result<(), Fault> {
        let address = self.servers.addresses();
        let (reason, detail) = match answer {
            Value::Int(1) => return Ok(()),
            Value::ServerError(error) => return Err(Fault::of_answer(&error)),
            Value::BulkString(word) if word == b"buried" => {
                let why = "another server has taken over what this one had in the store";
                (StoreError::Fenced, format!("{address}: {why}. {RESTART}"))
            }
            Value::BulkString(word) if word == b"lost" => (
                StoreError::Broken,
                format!("{address}: Redis has lost its data: it holds nothing of what it had promised. {RESTART}"),
            ),
            Value::BulkString(number) => {
                let number = encoding::decode_u64(&number).unwrap_or_default();
                let acknowledged = self.acknowledged[usize::from(bucket.0)].0;
                let gone = format!("the last batch it has is {number}, but {acknowledged} was promised");
                (
                    StoreError::Broken,
                    format!("{address}: Redis came back with an older copy of its data: {gone}. {RESTART}"),
                )
            }
            _ => return Err(self.broken("the look at the last batch was not answered")),
        };
        Err(Fault::Permanent { reason, detail })
    }

    /// Tries until there is an answer or the backoff is used up. When Redis was unreachable already there is one try,
    /// so that the batches behind this one do not wait.
    fn with_retries<T>(&mut self, mut attempt: impl FnMut(&mut Redis) -> Result<T, Fault>) -> Result<T, Fault> {
        let unreachable = matches!(self.health, Health::Refusing { reason: StoreError::Unreachable, .. });
        let mut pauses = if unreachable { [].iter() } else { self.backoff_ms.iter() };
        loop {
            match (attempt(self), pauses.next()) {
                (Err(Fault::Unanswered(detail)), Some(pause)) => {
                    warn!(detail, pause, "Redis gave no answer; the batch is tried again");
                    std::thread::sleep(Duration::from_millis(*pause));
                }
                (result, _) => return result,
            }
        }
    }

    fn note_fault(&mut self, fault: Fault) {
        self.servers.disconnect();
        let (reason, detail) = match fault {
            Fault::Unanswered(detail) => (StoreError::Unreachable, format!("Redis does not answer ({detail})")),
            Fault::Refused { reason, detail } => (reason, detail),
            Fault::Permanent { reason, detail } => {
                self.has_permanent_fault = true;
                (reason, detail)
            }
        };
        self.set_health(Health::Refusing { reason, detail });
    }

    /// Logs the health where it has changed.
    fn set_health(&mut self, health: Health) {
        match (&self.health, &health) {
            (Health::Refusing { reason: before, .. }, Health::Refusing { reason: now, .. }) if before == now => {}
            (_, Health::Refusing { reason, detail }) => error!(why = %reason, detail, "the store refuses"),
            (Health::Refusing { .. }, Health::Ready) => info!("the store is ready again"),
            (Health::Ready, Health::Ready) => {}
        }
        self.health = health;
    }

    fn reason(&self) -> StoreError {
        match &self.health {
            Health::Refusing { reason, .. } => *reason,
            Health::Ready => StoreError::Unreachable,
        }
    }

    fn count(&mut self, change: UsageChange) {
        self.usage.messages = self.usage.messages.saturating_add_signed(change.messages);
        self.usage.bytes = self.usage.bytes.saturating_add_signed(change.bytes);
    }

    fn batch_id(&self) -> BatchId {
        BatchId { token: self.token, number: self.batch }
    }

    fn encoder(&self, now: UnixMs) -> Encoder<'_> {
        Encoder { keys: &self.keys, node: self.nodes.own(), owned: &self.owned, batch: self.batch_id(), now }
    }

    /// Sessions that another server has taken since the last call.
    pub fn take_fenced(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.fenced)
    }

    /// Nothing is promised before the process is started anew.
    pub fn has_ended(&self) -> bool {
        self.has_permanent_fault
    }

    // ---- the nodes that use the store ----

    /// Renews this node's lease, and says which nodes there are. `None`: Redis does not answer.
    pub fn renew(&mut self) -> Option<Vec<NodeRecord>> {
        self.on_nodes(|store| {
            let answered = store.nodes.renew(&mut store.servers, &store.keys)?;
            store.unless_ended(answered)
        })
    }

    /// True if Redis, or another one in its place, was found again since the last call.
    pub fn take_reconnected(&mut self) -> bool {
        std::mem::take(&mut self.has_reconnected)
    }

    /// Ends the life of a node whose lease has ended. False: it has not, or Redis does not answer.
    pub fn bury(&mut self, node: Generation) -> bool {
        self.on_nodes(|store| store.nodes.bury(&mut store.servers, &store.keys, node, false)).unwrap_or(false)
    }

    /// Nothing of a buried node is left.
    pub fn forget_node(&mut self, node: Generation) {
        let _ = self.on_nodes(|store| match store.has_reconnected {
            // Something of it may be there again.
            true => Ok(()),
            false => store.nodes.forget(&mut store.servers, &store.keys, node),
        });
    }

    /// A page of a buried node's sessions; `from` is 0 or `next` of the last page. `None`: Redis does not answer.
    pub fn orphans(&mut self, node: Generation, from: u64) -> Option<OrphanedSessions> {
        self.on_nodes(|store| store.nodes.orphans(&mut store.servers, &store.keys, node, from))
    }

    /// Some of a buried node's connections, which are this node's to report from now on; none when it has none left.
    /// `None`: Redis does not answer.
    pub fn take_connections(&mut self, node: Generation) -> Option<Vec<ConnectionRecord>> {
        self.on_nodes(|store| store.take_some_connections(node))
    }

    fn take_some_connections(&mut self, node: Generation) -> Result<Vec<ConnectionRecord>, Fault> {
        let answered = self.nodes.take_connections(&mut self.servers, &self.keys, node)?;
        self.unless_ended(answered)
    }

    fn unless_ended<T>(&self, answered: Answered<T>) -> Result<T, Fault> {
        let (bucket, word) = match answered {
            Answered::Here(answer) => return Ok(answer),
            Answered::Ended(bucket, word) => (bucket, word),
        };
        self.check_node(bucket, word)?;
        Err(self.broken("whether this server has been replaced was not answered"))
    }

    fn on_nodes<T>(&mut self, work: impl FnOnce(&mut Redis) -> Result<T, Fault>) -> Option<T> {
        if self.has_permanent_fault {
            return None;
        }
        let done = self.connect().and_then(|()| work(self));
        done.map_err(|fault| self.note_fault(fault)).ok()
    }

    fn broken(&self, problem: &str) -> Fault {
        Fault::broken(format!("{}: {problem}", self.servers.addresses()))
    }
}

const PURGED_SESSIONS_MAX: usize = 256;
const ORPHANS_MAX: usize = 10_000;
/// A restart of Redis takes some of it; then the requests are refused. Together 3.9 s and the timeouts.
const BACKOFF_MS: [u64; 10] = [5, 20, 50, 100, 200, 500, 500, 500, 1000, 1000];
const FULL: &str = "Redis has reached its maxmemory; give it more, or let messages be delivered or expire";
const RESTART: &str = "No promise is made until this server is started again; it then goes on with what is there";
