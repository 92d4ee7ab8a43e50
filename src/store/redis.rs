//! The shared store: Redis 7 or newer, or Valkey. A batch becomes one pipeline of script calls (`Batch`) on the lines
//! to the servers (`Nodes`); it is tried again until it is answered, or was tried long enough, and it is noticed when
//! Redis does not hold any more what it had promised. A lost answer is never taken for "no": the whole batch is
//! repeated, on a new connection, after the old one has been ended; a script does nothing the second time and answers
//! the same.
//!
//! Keys, each behind `rainbow:CLUSTER:{BUCKET}:` (one bucket; 64 in a Redis cluster, a session is in `id mod 64`):
//!
//! ```text
//! writer      string  which server writes here, and the number of its last batch: how lost data is noticed
//! sessions    set     ids of the bucket's sessions (16 bytes each), found by SSCAN at the start
//! due         zset    session → when its first message expires, or earlier
//! s:ID        string  the session's row: owner, what waits, its last purge, then name, cookie and marks
//! q:ID        list    its messages, ascending by order; 30 bytes of header each and 2 to 5 of Redis's own
//! c:ID        hash    its channels (a hash stays a listpack where a set does not)
//! r:ID        hash    received ids → sequence and answer
//! g:ID CLAIM  string  the session has had the message of this claim; expires by itself
//! m:CLAIM     string  a call's message_id: claimed by whom, or its answer; expires by itself
//! ```
//!
//! A row's owner is the random token of the server that found or put it; steps of another are `Fenced`.

mod batch;
mod entry;
mod line;
mod nodes;
mod place;
mod script;
#[cfg(test)]
mod tests;

use super::crash;
use super::{Health, OpenError, Opened, Options, PurgeOutcome, Request, Response, Usage};
use crate::config::Durability;
use crate::shard::command::{ExpiredMessages, Offset, SessionId, StoreError, StoredSession, UnixMs};
use batch::{Asker, Batch, ByName, Change, Known, Packing, reason_of};
use nodes::{Calls, Nodes};
use place::{Names, Place};
use redis::{ServerError, Value, cmd};
use script::Script;
use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;
use tracing::{error, info, warn};

pub struct Redis {
    nodes: Nodes,
    names: Names,
    /// This process among all that write to Redis.
    token: [u8; 8],
    /// Counts batches, purges among them.
    batch: u64,
    /// Per bucket, the batch that was last told to be kept there.
    promised: Vec<u64>,
    by_name: ByName,
    /// New sessions of which nobody knows whether they were made. Nobody else knows them: they are dropped.
    orphans: Vec<SessionId>,
    held: Usage,
    bytes_max: u64,
    /// Between one try of a batch and the next, in milliseconds.
    pauses: &'static [u64],
    state: Health,
    /// What was promised is not there any more, or another server writes here: no promise until the next start.
    over: bool,
}

/// Why a batch has no answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nobody knows what was done: it is tried again.
    Lost(String),
    /// Trying again at once is of no use.
    Refuse { reason: StoreError, detail: String },
    /// Nor is it later: the operator must look.
    Over { reason: StoreError, detail: String },
}

impl Redis {
    pub fn open(options: &Options) -> Result<(Redis, Opened), OpenError> {
        crash::point("open.before");
        let mut store = Redis::new(options).map_err(refused_open)?;
        let opened = store.with_pauses(|store| store.begin()).map_err(refused_open)?;
        if options.durability == Durability::Memory {
            warn!(
                "store.durability is \"memory\": a message that is kept outlives what Redis's memory outlives, no more"
            );
        }
        crash::point("open.after");
        info!(sessions = opened.sessions.len(), messages = store.held.messages, "the store in Redis is open");
        Ok((store, opened))
    }

    fn new(options: &Options) -> Result<Redis, Fault> {
        let place = Place::parse(&options.url)?;
        let buckets = place.buckets();
        Ok(Redis {
            nodes: Nodes::new(place, options.durability),
            names: Names::new(&options.cluster_name, buckets),
            token: random_token()?,
            batch: 0,
            promised: vec![0; buckets.into()],
            by_name: ByName::new(),
            orphans: Vec::new(),
            held: Usage::default(),
            bytes_max: options.bytes_max,
            pauses: &PAUSES_MS,
            state: Health::Ready,
            over: false,
        })
    }

    /// From here on this server writes, and what it finds is its own.
    fn begin(&mut self) -> Result<Opened, Fault> {
        self.nodes.connect()?;
        let mut calls = Calls::default();
        for bucket in self.buckets() {
            calls.write(bucket, Script::Begin, &[&self.names.writer(bucket)], (&[FORMAT][..], &self.token[..]));
        }
        for value in self.nodes.exchange(&Calls::default(), &calls)? {
            match value {
                Value::Int(format) => {
                    return Err(self.broken(&format!(
                        "what lies there has format {format}, this version reads {FORMAT}. Start the version that \
                         wrote it, or name another database in store.url"
                    )));
                }
                Value::ServerError(error) => return Err(refusal(&error)),
                _ => {}
            }
        }
        crash::point("open.inside");
        self.find()
    }

    fn find(&mut self) -> Result<Opened, Fault> {
        let mut found: Vec<StoredSession> = Vec::new();
        (self.by_name, self.held) = (ByName::new(), Usage::default());
        for bucket in self.buckets() {
            let sessions = self.scan(bucket)?;
            for some in sessions.chunks(FOUND_AT_ONCE) {
                found.extend(self.look_at(bucket, some)?);
            }
        }
        self.settle_names(found)
    }

    /// The ids of a bucket's sessions, each once.
    fn scan(&mut self, bucket: u16) -> Result<Vec<SessionId>, Fault> {
        let (mut ids, mut cursor) = (HashSet::new(), 0_u64);
        loop {
            let mut calls = Calls::default();
            let key = self.names.sessions(bucket);
            calls.ask(bucket, cmd("SSCAN").arg(key).arg(cursor).arg("COUNT").arg(FOUND_AT_ONCE));
            let value = self.nodes.exchange(&Calls::default(), &calls)?.pop().unwrap_or_default();
            let (next, some): (u64, Vec<Vec<u8>>) =
                redis::from_redis_value(value).map_err(|error| self.broken(&format!("SSCAN: {error}")))?;
            ids.extend(some.iter().filter_map(|id| id[..].try_into().ok().map(u128::from_be_bytes)).map(SessionId));
            if next == 0 {
                return Ok(ids.into_iter().collect());
            }
            cursor = next;
        }
    }

    fn look_at(&mut self, bucket: u16, sessions: &[SessionId]) -> Result<Vec<StoredSession>, Fault> {
        let (mut calls, names) = (Calls::default(), &self.names);
        for session in sessions {
            let keys =
                [&names.row(*session)[..], &names.queue(*session), &names.channels(*session), &names.sessions(bucket)];
            calls.write(bucket, Script::Found, &keys, (&self.token[..], &session.0.to_be_bytes()[..]));
        }
        let mut found = Vec::new();
        for (session, value) in sessions.iter().zip(self.nodes.exchange(&Calls::default(), &calls)?) {
            match value {
                // Its row went between the scan and now.
                Value::BulkString(_) => {}
                Value::ServerError(error) => return Err(refusal(&error)),
                value => {
                    let unreadable = || self.broken(&format!("the session {:032x} cannot be read", session.0));
                    found.push(decode_found(*session, value).ok_or_else(unreadable)?);
                }
            }
        }
        Ok(found)
    }

    /// Two sessions of one name are left where the answer to the first one's making was lost and its server died. One
    /// of them was never used.
    fn settle_names(&mut self, mut found: Vec<StoredSession>) -> Result<Opened, Fault> {
        found.sort_by_key(|found| (found.next, found.waiting, found.channels.len(), found.row.session));
        let mut unused = Calls::default();
        let mut sessions: Vec<StoredSession> = Vec::with_capacity(found.len());
        while let Some(one) = found.pop() {
            if !self.by_name.contains_key(&one.row.name) {
                self.by_name.insert(one.row.name.clone(), one.row.session);
                self.held.messages += u64::from(one.waiting);
                self.held.bytes += one.waiting_bytes;
                sessions.push(one);
            } else if one.waiting == 0 {
                warn!(session = &*one.row.name, "an unused second session of that name is dropped");
                self.packing(UnixMs(0)).drop_session(&mut unused, one.row.session);
            } else {
                return Err(self.broken(&format!(
                    "messages wait for two sessions named {}, and only one can be right",
                    one.row.name
                )));
            }
        }
        if unused.len() > 0 {
            self.nodes.exchange(&Calls::default(), &unused)?;
        }
        Ok(Opened { sessions })
    }

    /// Does all of it and answers each, in their order. When Redis cannot be reached for long, nobody knows what was
    /// done, and the answers say so (`Unreachable`).
    pub fn commit(&mut self, requests: Vec<Request>, now: UnixMs) -> Vec<Response> {
        crash::point("commit.before");
        self.batch += 1;
        let known = Known { by_name: &self.by_name, room: self.bytes_max.saturating_sub(self.held.bytes) };
        let batch = Batch::new(requests, &self.orphans, known, &self.packing(now));
        if self.over {
            return batch.refuse(self.reason());
        }
        let mut tries = 0;
        let values = self.with_pauses(|store| {
            store.connect()?;
            tries += 1;
            store.exchange(&batch.calls)
        });
        match values {
            Ok(values) => {
                crash::point("commit.after");
                let done = batch.finish(values, tries > 1, &mut self.by_name);
                self.orphans.clear();
                self.hold(done.change);
                self.turn(done.refused.map_or(Health::Ready, |(reason, detail)| Health::Refusing { reason, detail }));
                done.answers
            }
            Err(fault) => {
                let new = batch.puts().filter(|(name, _)| !self.by_name.contains_key(*name));
                self.orphans.extend(new.map(|(_, session)| session).collect::<Vec<_>>());
                self.orphans.truncate(ORPHANS_MAX);
                let unknown = tries > 0 && !matches!(fault, Fault::Over { .. });
                self.give_up(fault);
                batch.refuse(if unknown { StoreError::Unreachable } else { self.reason() })
            }
        }
    }

    /// Removes what has expired, `most` of it at most.
    pub fn purge(&mut self, now: UnixMs, most: usize) -> PurgeOutcome {
        if !self.nodes.is_connected() || self.over {
            return PurgeOutcome::default();
        }
        self.purge_slice(now, most).unwrap_or_else(|fault| {
            self.give_up(fault);
            PurgeOutcome::default()
        })
    }

    /// A purge has a number, which the rows note: what it has removed is told however often it had to be tried.
    fn purge_slice(&mut self, now: UnixMs, most: usize) -> Result<PurgeOutcome, Fault> {
        self.batch += 1;
        let at_once = most.clamp(1, PURGED_AT_ONCE);
        let due = self.with_pauses(|store| store.due(now, at_once))?;
        let each = (most / due.len().max(1)).clamp(1, u32::MAX as usize);
        let number = u64::from_be_bytes(self.token).wrapping_add(self.batch).to_be_bytes();
        let mut calls = Calls::default();
        for (bucket, session) in &due {
            let names = &self.names;
            let keys = [&names.row(*session)[..], &names.queue(*session), &names.due(*bucket)];
            let id = session.0.to_be_bytes();
            calls.write(*bucket, Script::Purge, &keys, (&self.token[..], &id[..], now.0, each, &number[..]));
        }
        let mut purged = PurgeOutcome { more: due.len() == at_once, ..PurgeOutcome::default() };
        if due.is_empty() {
            return Ok(purged);
        }
        let values = self.with_pauses(|store| {
            store.connect()?;
            store.exchange(&calls)
        })?;
        crash::point("purge.inside");
        for ((_, session), value) in due.into_iter().zip(values) {
            let counts: Option<(u32, u64, u8)> = redis::from_redis_value(value).ok();
            let Some((messages @ 1.., bytes, more)) = counts else { continue };
            purged.more |= more == 1;
            purged.expired.push(ExpiredMessages { session, messages, bytes });
            self.hold(Change { messages: -i64::from(messages), bytes: -(bytes as i64) });
        }
        Ok(purged)
    }

    /// Sessions in which a message may have expired.
    fn due(&mut self, now: UnixMs, most: usize) -> Result<Vec<(u16, SessionId)>, Fault> {
        self.connect()?;
        let mut calls = Calls::default();
        for bucket in self.buckets() {
            let key = self.names.due(bucket);
            let mut range = cmd("ZRANGEBYSCORE");
            calls.ask(bucket, range.arg(key).arg("-inf").arg(now.0).arg("LIMIT").arg(0).arg(most));
        }
        let mut due = Vec::new();
        for (bucket, value) in self.buckets().zip(self.nodes.exchange(&Calls::default(), &calls)?) {
            let ids: Vec<Vec<u8>> =
                redis::from_redis_value(value).map_err(|error| self.broken(&format!("ZRANGEBYSCORE: {error}")))?;
            let ids = ids.iter().filter_map(|id| id[..].try_into().ok().map(u128::from_be_bytes));
            due.extend(ids.map(|id| (bucket, SessionId(id))));
        }
        due.truncate(most);
        Ok(due)
    }

    /// Redis keeps its own house.
    pub fn maintain(&mut self, _idle: bool) {}

    /// Looks whether Redis is there, has what it promised, and has room.
    pub fn check(&mut self, _now: UnixMs) {
        if self.over {
            return;
        }
        let looked = self.connect().and_then(|()| self.exchange(&Calls::default())).and_then(|_| self.nodes.is_full());
        match looked {
            Ok(false) => self.turn(Health::Ready),
            Ok(true) => self.turn(Health::Refusing { reason: StoreError::StoreFull, detail: FULL.into() }),
            Err(fault) => self.give_up(fault),
        }
    }

    pub fn health(&self) -> Health {
        self.state.clone()
    }

    /// As this server has counted since it opened the store; steps whose answers were lost are not in it.
    pub fn usage(&self) -> Usage {
        self.held
    }

    pub fn set_bytes_max(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
    }

    /// Nothing is left to do: what was answered is in Redis.
    pub fn close(self) {
        crash::point("close.before");
    }

    fn connect(&mut self) -> Result<(), Fault> {
        if self.nodes.is_connected() {
            return Ok(());
        }
        self.nodes.connect()?;
        // A server that came back empty or old is noticed before anything is written to it.
        self.exchange(&Calls::default()).map(|_| ())
    }

    /// One try of a batch, with a look at what was promised in front of it: in the buckets it touches, or in all.
    fn exchange(&mut self, calls: &Calls) -> Result<Vec<Value>, Fault> {
        let touched = if calls.len() > 0 { calls.buckets() } else { self.buckets().collect() };
        let number = if calls.writes() { self.batch.to_be_bytes().to_vec() } else { Vec::new() };
        let mut looks = Calls::default();
        for bucket in &touched {
            let promised = self.promised[usize::from(*bucket)].to_be_bytes();
            let args = (&self.token[..], &promised[..], &number[..]);
            looks.look(*bucket, Script::Writer, &[&self.names.writer(*bucket)], args);
        }
        let mut values = self.nodes.exchange(&looks, calls)?;
        crash::point("commit.inside");
        let answers = values.split_off(touched.len());
        for (bucket, look) in touched.iter().zip(values) {
            self.judge(*bucket, look)?;
        }
        if calls.writes() {
            for bucket in touched {
                self.promised[usize::from(bucket)] = self.batch;
            }
        }
        Ok(answers)
    }

    /// What `writer.lua` found.
    fn judge(&self, bucket: u16, look: Value) -> Result<(), Fault> {
        let address = self.nodes.addresses();
        let (reason, detail) = match look {
            Value::Int(1) => return Ok(()),
            Value::ServerError(error) => return Err(refusal(&error)),
            Value::BulkString(word) if word == b"taken" => {
                (StoreError::Fenced, format!("{address}: another server writes to this store now. {RESTART}"))
            }
            Value::BulkString(word) if word == b"lost" => (
                StoreError::Broken,
                format!("{address}: Redis has lost its data: it holds nothing of what it had promised. {RESTART}"),
            ),
            Value::BulkString(number) => {
                let (number, promised) = (entry::decode_u64(&number), self.promised[usize::from(bucket)]);
                let number = number.unwrap_or_default();
                let gone = format!("the last batch it has is {number}, but {promised} was promised");
                (
                    StoreError::Broken,
                    format!("{address}: Redis came back with an older copy of its data: {gone}. {RESTART}"),
                )
            }
            _ => return Err(self.broken("the look at the last batch was not answered")),
        };
        Err(Fault::Over { reason, detail })
    }

    /// Tries until there is an answer, with pauses that grow, or the pauses are used up. Where Redis was away already,
    /// the others in the line do not wait: one try.
    fn with_pauses<T>(&mut self, mut attempt: impl FnMut(&mut Redis) -> Result<T, Fault>) -> Result<T, Fault> {
        let away = matches!(self.state, Health::Refusing { reason: StoreError::Unreachable, .. });
        let mut pauses = if away { [].iter() } else { self.pauses.iter() };
        loop {
            match (attempt(self), pauses.next()) {
                (Err(Fault::Lost(detail)), Some(pause)) => {
                    warn!(detail, pause, "Redis gave no answer; the batch is tried again");
                    std::thread::sleep(Duration::from_millis(*pause));
                }
                (answered, _) => return answered,
            }
        }
    }

    fn give_up(&mut self, fault: Fault) {
        self.nodes.give_up();
        let (reason, detail) = match fault {
            Fault::Lost(detail) => (StoreError::Unreachable, format!("Redis does not answer ({detail})")),
            Fault::Refuse { reason, detail } => (reason, detail),
            Fault::Over { reason, detail } => {
                self.over = true;
                (reason, detail)
            }
        };
        self.turn(Health::Refusing { reason, detail });
    }

    /// Says so where it is something new.
    fn turn(&mut self, state: Health) {
        match (&self.state, &state) {
            (Health::Refusing { reason: before, .. }, Health::Refusing { reason: now, .. }) if before == now => {}
            (_, Health::Refusing { reason, detail }) => error!(why = %reason, detail, "the store refuses"),
            (Health::Refusing { .. }, Health::Ready) => info!("the store is ready again"),
            (Health::Ready, Health::Ready) => {}
        }
        self.state = state;
    }

    fn reason(&self) -> StoreError {
        match &self.state {
            Health::Refusing { reason, .. } => *reason,
            Health::Ready => StoreError::Unreachable,
        }
    }

    fn hold(&mut self, change: Change) {
        self.held.messages = self.held.messages.saturating_add_signed(change.messages);
        self.held.bytes = self.held.bytes.saturating_add_signed(change.bytes);
    }

    fn buckets(&self) -> std::ops::Range<u16> {
        0..self.promised.len() as u16
    }

    fn packing(&self, now: UnixMs) -> Packing<'_> {
        Packing { names: &self.names, asker: Asker { token: self.token, batch: self.batch }, now }
    }

    fn broken(&self, what: &str) -> Fault {
        Fault::Refuse { reason: StoreError::Broken, detail: format!("{}: {what}", self.nodes.addresses()) }
    }
}

/// Row, messages, bytes, channels, when the first was stored(8), orders of the first and the last(8)
fn decode_found(session: SessionId, value: Value) -> Option<StoredSession> {
    type Parts = (Vec<u8>, u32, u64, Vec<String>, Vec<u8>, Vec<u8>, Vec<u8>);
    let (row, waiting, waiting_bytes, channels, oldest, first, last): Parts = redis::from_redis_value(value).ok()?;
    Some(StoredSession {
        row: entry::decode_row(session, &row)?,
        channels: channels.iter().map(|channel| Arc::from(&**channel)).collect(),
        waiting,
        waiting_bytes,
        next: entry::decode_u64(&last).map_or(Offset(0), |last| Offset(last).next()),
        oldest: entry::decode_u64(&oldest).map(UnixMs),
        first: entry::decode_u64(&first).map(Offset),
    })
}

fn refusal(error: &ServerError) -> Fault {
    let (reason, detail) = reason_of(error);
    Fault::Refuse { reason, detail }
}

fn refused_open(fault: Fault) -> OpenError {
    match fault {
        Fault::Lost(detail) | Fault::Refuse { detail, .. } | Fault::Over { detail, .. } => OpenError::Redis { detail },
    }
}

fn random_token() -> Result<[u8; 8], Fault> {
    let mut token = [0; 8];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut token));
    let failed = |error| Fault::Refuse { reason: StoreError::Broken, detail: format!("/dev/urandom: {error}") };
    read.map(|()| token).map_err(failed)
}

/// Of the layout above.
const FORMAT: u8 = 1;
const FOUND_AT_ONCE: usize = 500;
const PURGED_AT_ONCE: usize = 256;
const ORPHANS_MAX: usize = 10_000;
/// A restart of Redis takes some of it; then the callers hear that the store does not answer. 3.9 s and the timeouts.
const PAUSES_MS: [u64; 10] = [5, 20, 50, 100, 200, 500, 500, 500, 1000, 1000];
const FULL: &str = "Redis has reached its maxmemory; give it more, or let messages be delivered or expire";
const RESTART: &str = "No promise is made until this server is started again; it then goes on with what is there";
