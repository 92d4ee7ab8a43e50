//! A batch of requests as script calls, and the scripts' answers as outcomes. It can be sent any number of times: what
//! is done already is not done again, and answered as it was the first time.

use super::entry;
use super::nodes::Calls;
use super::place::Names;
use super::script::Script;
use crate::shard::command::{
    Claim, Command, Completion, Mutation, Offset, Operation, Page, SessionId, StoreError, StoredMessage, UnixMs,
};
use crate::store::{ClaimOutcome, Request, Response};
use redis::{ServerError, Value};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tracing::error;

/// Sessions by their names, those of this store. A store has one server that writes (`Fenced`), so this is the truth
/// about whose a name is; in a Redis cluster no script could look at it, as names and sessions lie on different nodes.
pub type ByName = HashMap<Arc<str>, SessionId>;

/// What the server knows of the store without asking.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    pub by_name: &'a ByName,
    /// Bytes of messages that may be kept in addition.
    pub room: u64,
}

pub struct Batch {
    requests: Vec<Request>,
    /// Per request, which call is for it; or that none is needed.
    asked: Vec<Asked>,
    pub calls: Calls,
    /// Calls in front that no request is behind.
    extra: usize,
}

enum Asked {
    Call(usize),
    Refused(StoreError),
}

/// Who asks, so that a repeat of the same question is known as such.
#[derive(Clone, Copy)]
pub struct Asker {
    pub token: [u8; 8],
    pub batch: u64,
}

/// What a batch changed in what is held, as far as it was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub messages: i64,
    pub bytes: i64,
}

/// All answers, and what is known beside them.
pub struct Done {
    pub answers: Vec<Response>,
    pub change: Change,
    /// A step was refused for that.
    pub refused: Option<(StoreError, String)>,
}

impl Batch {
    /// `orphans`: sessions to be dropped first.
    pub fn new(requests: Vec<Request>, orphans: &[SessionId], known: Known<'_>, packing: &Packing<'_>) -> Batch {
        let mut calls = Calls::default();
        let mut room = known.room;
        for orphan in orphans {
            packing.drop_session(&mut calls, *orphan);
        }
        let extra = calls.len();
        let mut names = Overlay { by_name: known.by_name, put: HashMap::new(), dropped: HashSet::new() };
        let mut asked = Vec::with_capacity(requests.len());
        for (at, request) in requests.iter().enumerate() {
            let taken = names.is_taken(request);
            if taken || !takes_room(request, &mut room) {
                asked.push(Asked::Refused(if taken { StoreError::NameTaken } else { StoreError::StoreFull }));
                continue;
            }
            asked.push(Asked::Call(calls.len()));
            packing.add(&mut calls, request, at);
        }
        Batch { requests, asked, calls, extra }
    }

    /// Sessions that the batch writes a row of, with their names.
    pub fn puts(&self) -> impl Iterator<Item = (&Arc<str>, SessionId)> {
        self.requests.iter().filter_map(|request| match step(request) {
            Some(Mutation::PutSession(row)) => Some((&row.name, row.session)),
            _ => None,
        })
    }

    /// Every request is refused.
    pub fn refuse(self, reason: StoreError) -> Vec<Response> {
        let refuse = |request| match request {
            Request::Shard { shard, command } => {
                Response::Shard { shard, number: command.number, completion: Completion::Refused(reason) }
            }
            Request::Claim { id, .. } => Response::Claim { id, outcome: ClaimOutcome::Refused(reason) },
            Request::Settle { .. } => Response::Settled,
        };
        self.requests.into_iter().map(refuse).collect()
    }

    /// `values`: one per call. `repeated`: the batch may have been done before, so a session may be gone that was
    /// there. What was done to names is noted in `by_name`.
    pub fn finish(self, mut values: Vec<Value>, repeated: bool, by_name: &mut ByName) -> Done {
        debug_assert_eq!(values.len(), self.calls.len(), "one answer per call");
        let dropped: HashSet<SessionId> = self.requests.iter().filter_map(dropped_by).collect();
        let mut done =
            Done { answers: Vec::with_capacity(self.requests.len()), change: Change::default(), refused: None };
        for value in &values[..self.extra] {
            done.change.count_drop(value);
        }
        let mut scratch = Vec::new();
        for (request, asked) in self.requests.into_iter().zip(self.asked) {
            let value = match asked {
                Asked::Call(at) => match std::mem::take(&mut values[at]) {
                    Value::ServerError(error) => Err(done.refuse(&error)),
                    value => Ok(value),
                },
                Asked::Refused(reason) => Err(reason),
            };
            let excused = repeated && session_of(&request).is_some_and(|session| dropped.contains(&session));
            let answer = done.answer(request, value, excused, by_name, &mut scratch);
            done.answers.push(answer);
        }
        done
    }
}

impl Done {
    fn answer(
        &mut self,
        request: Request,
        value: Result<Value, StoreError>,
        excused: bool,
        by_name: &mut ByName,
        scratch: &mut Vec<u8>,
    ) -> Response {
        match request {
            Request::Shard { shard, command: Command { number, operation } } => {
                let completion = value.and_then(|value| self.completion(&operation, value, excused, by_name, scratch));
                Response::Shard { shard, number, completion: completion.unwrap_or_else(Completion::Refused) }
            }
            Request::Claim { id, .. } => {
                let outcome = match value {
                    Ok(Value::Int(0)) => ClaimOutcome::New,
                    Ok(Value::Int(_)) => ClaimOutcome::Unsettled,
                    Ok(Value::BulkString(answer)) => ClaimOutcome::Settled(answer),
                    Ok(_) => ClaimOutcome::Refused(self.wrong("a claim")),
                    Err(reason) => ClaimOutcome::Refused(reason),
                };
                Response::Claim { id, outcome }
            }
            Request::Settle { .. } => Response::Settled,
        }
    }

    fn completion(
        &mut self,
        operation: &Operation,
        value: Value,
        excused: bool,
        by_name: &mut ByName,
        scratch: &mut Vec<u8>,
    ) -> Result<Completion, StoreError> {
        if let Value::BulkString(word) = &value {
            return match &word[..] {
                b"F" => Err(StoreError::Fenced),
                b"K" => Ok(Completion::Duplicate),
                b"G" => gone(operation, excused),
                _ => Err(self.wrong("a step")),
            };
        }
        match (operation, &value) {
            (Operation::Load { session, .. }, _) => {
                let page = decode_page(*session, value, scratch);
                return page.map(Completion::Loaded).ok_or_else(|| self.wrong("a load"));
            }
            (Operation::Mutate(Mutation::PutSession(row)), _) => {
                by_name.insert(row.name.clone(), row.session);
            }
            (Operation::Mutate(Mutation::PutMessage(_)), Value::Int(bytes @ 1..)) => self.change.add(1, *bytes),
            (Operation::Mutate(Mutation::RemoveMessage { .. }), Value::Int(bytes @ 1..)) => self.change.add(-1, -bytes),
            (Operation::Mutate(Mutation::ReleaseMessage { .. }), Value::Int(bytes @ 1..)) => {
                self.change.add(-1, -bytes)
            }
            (Operation::Mutate(Mutation::DropSession { session }), _) => {
                self.change.count_drop(&value);
                forget_name(*session, &value, by_name);
            }
            _ => {}
        }
        Ok(Completion::Done)
    }

    fn refuse(&mut self, error: &ServerError) -> StoreError {
        let (reason, detail) = reason_of(error);
        self.refused = Some((reason, detail));
        reason
    }

    fn wrong(&mut self, to: &str) -> StoreError {
        self.refused = Some((StoreError::Broken, format!("{to} was answered with what this version never wrote")));
        StoreError::Broken
    }
}

impl Change {
    fn add(&mut self, messages: i64, bytes: i64) {
        self.messages += messages;
        self.bytes += bytes;
    }

    fn count_drop(&mut self, value: &Value) {
        if let Value::Array(counts) = value
            && let [Value::Int(messages), Value::Int(bytes), _] = counts[..]
        {
            self.add(-messages, -bytes);
        }
    }
}

/// A dropped session's name is free again. `value`: messages, bytes, and the row as it was, or nothing where an earlier
/// try of the batch has dropped it: then the whole table is searched.
fn forget_name(session: SessionId, value: &Value, by_name: &mut ByName) {
    let row = match value {
        Value::Array(parts) => match parts.last() {
            Some(Value::BulkString(bytes)) => entry::decode_row(session, bytes),
            _ => None,
        },
        _ => None,
    };
    match row {
        Some(row) if by_name.get(&row.name) == Some(&session) => {
            by_name.remove(&row.name);
        }
        Some(_) => {}
        None => by_name.retain(|_, named| *named != session),
    }
}

/// What an error of a script or of Redis itself means for the step.
pub fn reason_of(error: &ServerError) -> (StoreError, String) {
    let text = error.to_string();
    let reason = match error.code() {
        "OOM" => StoreError::StoreFull,
        "MISCONF" if text.contains("No space left") => StoreError::DiskFull,
        "MISCONF" => StoreError::ReadOnly,
        _ => StoreError::Broken,
    };
    // A script's error names the script; what Redis said stands in it.
    let reason = if text.contains("OOM command not allowed") { StoreError::StoreFull } else { reason };
    (reason, text)
}

/// The session is not there. What takes something from it has nothing to do; what adds to it would promise nothing.
fn gone(operation: &Operation, excused: bool) -> Result<Completion, StoreError> {
    match operation {
        Operation::Load { .. } if excused => Ok(Completion::Loaded(Page::default())),
        Operation::Mutate(Mutation::PutMessage(_) | Mutation::JoinChannel { .. } | Mutation::PutReceived { .. })
        | Operation::Load { .. }
            if !excused =>
        {
            error!("a session is not in Redis where it should be");
            Err(StoreError::Broken)
        }
        _ => Ok(Completion::Done),
    }
}

fn decode_page(session: SessionId, value: Value, scratch: &mut Vec<u8>) -> Option<Page> {
    let Value::Array(parts) = value else { return None };
    let Ok([Value::Array(messages), Value::Int(more), Value::Array(received)]) = <[Value; 3]>::try_from(parts) else {
        return None;
    };
    let mut page = Page { more: more == 1, ..Page::default() };
    for message in messages {
        let Value::BulkString(bytes) = message else { return None };
        page.messages.push(entry::decode_kept(session, &bytes, scratch)?);
    }
    for pair in received.chunks_exact(2) {
        let [Value::BulkString(id), Value::BulkString(bytes)] = pair else { return None };
        page.received.push(entry::decode_received(id, bytes)?);
    }
    page.received.sort_unstable_by_key(|received| (received.sequence, received.id));
    Some(page)
}

/// Whether a message that is to be kept still fits.
fn takes_room(request: &Request, room: &mut u64) -> bool {
    let Some(Mutation::PutMessage(kept)) = step(request) else { return true };
    let left = room.checked_sub(entry::size(kept).into());
    *room = left.unwrap_or(*room);
    left.is_some()
}

/// Names as they will be in the midst of a batch.
struct Overlay<'a> {
    by_name: &'a ByName,
    put: HashMap<Arc<str>, SessionId>,
    dropped: HashSet<SessionId>,
}

impl Overlay<'_> {
    /// Whether the request is for a name that another session has; otherwise it is as if it were done.
    fn is_taken(&mut self, request: &Request) -> bool {
        match step(request) {
            Some(Mutation::PutSession(row)) => {
                let holder = self.put.get(&row.name).or_else(|| self.by_name.get(&row.name));
                if holder.is_some_and(|holder| *holder != row.session && !self.dropped.contains(holder)) {
                    return true;
                }
                self.dropped.remove(&row.session);
                self.put.insert(row.name.clone(), row.session);
            }
            Some(Mutation::DropSession { session }) => {
                self.dropped.insert(*session);
            }
            _ => {}
        }
        false
    }
}

fn step(request: &Request) -> Option<&Mutation> {
    match request {
        Request::Shard { command: Command { operation: Operation::Mutate(step), .. }, .. } => Some(step),
        _ => None,
    }
}

fn dropped_by(request: &Request) -> Option<SessionId> {
    match step(request) {
        Some(Mutation::DropSession { session }) => Some(*session),
        _ => None,
    }
}

pub fn session_of(request: &Request) -> Option<SessionId> {
    let Request::Shard { command, .. } = request else { return None };
    Some(match &command.operation {
        Operation::Load { session, .. } => *session,
        Operation::Mutate(Mutation::PutSession(row)) => row.session,
        Operation::Mutate(Mutation::PutMessage(kept)) => kept.session,
        Operation::Mutate(
            Mutation::JoinChannel { session, .. }
            | Mutation::LeaveChannel { session, .. }
            | Mutation::ReleaseMessage { session, .. }
            | Mutation::RemoveMessage { session, .. }
            | Mutation::PutReceived { session, .. }
            | Mutation::RemoveReceived { session, .. }
            | Mutation::DropSession { session },
        ) => *session,
    })
}

/// What a call is made of beside the request itself.
pub struct Packing<'a> {
    pub names: &'a Names,
    pub asker: Asker,
    pub now: UnixMs,
}

impl Packing<'_> {
    fn add(&self, calls: &mut Calls, request: &Request, at: usize) {
        match request {
            Request::Shard { command, .. } => match &command.operation {
                Operation::Mutate(step) => self.add_step(calls, step),
                Operation::Load { session, after, most } => self.add_load(calls, *session, *after, *most),
            },
            Request::Claim { claim, .. } => self.add_claim(calls, claim, at),
            Request::Settle { message_id, answer } => {
                let bucket = self.names.bucket_of_claim(message_id);
                let key = self.names.claim(message_id);
                calls.write(bucket, Script::Settle, &[&key], (&answer[..], self.now.0));
            }
        }
    }

    fn add_step(&self, calls: &mut Calls, step: &Mutation) {
        let (names, token) = (self.names, &self.asker.token[..]);
        match step {
            Mutation::PutSession(row) => {
                let bucket = names.bucket_of(row.session);
                let (id, online) = (row.session.0.to_be_bytes(), if row.ends.is_none() { "1" } else { "0" });
                let keys = [&names.row(row.session)[..], &names.sessions(bucket)];
                calls.write(bucket, Script::Put, &keys, (token, online, &id[..], entry::encode_row(row)));
            }
            Mutation::JoinChannel { session, channel } => {
                let keys = [&names.row(*session)[..], &names.channels(*session)];
                calls.write(names.bucket_of(*session), Script::Join, &keys, (token, channel.as_bytes()));
            }
            Mutation::LeaveChannel { session, channel } => {
                let keys = [&names.row(*session)[..], &names.channels(*session)];
                calls.write(names.bucket_of(*session), Script::Leave, &keys, (token, channel.as_bytes()));
            }
            Mutation::PutMessage(kept) => self.add_keep(calls, kept),
            Mutation::ReleaseMessage { session, offset } => {
                let keys = [&names.row(*session)[..], &names.queue(*session)];
                let args = (token, &offset.0.to_be_bytes()[..]);
                calls.write(names.bucket_of(*session), Script::Release, &keys, args);
            }
            Mutation::RemoveMessage { session, offset } => {
                let keys = [&names.row(*session)[..], &names.queue(*session)];
                calls.write(names.bucket_of(*session), Script::Remove, &keys, (token, &offset.0.to_be_bytes()[..]));
            }
            Mutation::PutReceived { session, received } => {
                let keys = [&names.row(*session)[..], &names.received(*session)];
                let args = (token, &received.id.0.to_be_bytes()[..], entry::encode_received(received));
                calls.write(names.bucket_of(*session), Script::Receive, &keys, args);
            }
            Mutation::RemoveReceived { session, id } => {
                let keys = [&names.row(*session)[..], &names.received(*session)];
                calls.write(names.bucket_of(*session), Script::Forget, &keys, (token, &id.0.to_be_bytes()[..]));
            }
            Mutation::DropSession { session } => self.drop_session(calls, *session),
        }
    }

    fn add_keep(&self, calls: &mut Calls, kept: &StoredMessage) {
        let (names, token, session) = (self.names, &self.asker.token[..], kept.session);
        let bucket = names.bucket_of(session);
        let (row, queue, due) = (names.row(session), names.queue(session), names.due(bucket));
        let id = session.0.to_be_bytes();
        let (bytes, now) = (entry::encode_kept(kept), self.now.0);
        match &kept.claim {
            None => calls.write(bucket, Script::Keep, &[&row, &queue, &due], (token, &id[..], bytes, now)),
            Some(claim) => {
                let guard = names.guard(session, &claim.message_id);
                let value = [claim.until.0.to_be_bytes(), kept.offset.0.to_be_bytes()].concat();
                let args = (token, &id[..], bytes, now, value, life_ms(claim.until, self.now));
                calls.write(bucket, Script::Keep, &[&row, &queue, &due, &guard], args);
            }
        }
    }

    fn add_load(&self, calls: &mut Calls, session: SessionId, after: Option<Offset>, most: usize) {
        let names = self.names;
        let keys = [&names.row(session)[..], &names.queue(session), &names.received(session)];
        let after = after.map_or(Vec::new(), |offset| offset.0.to_be_bytes().to_vec());
        let args = (&self.asker.token[..], after, most.max(1), self.now.0, PAGE_BYTES_MAX);
        calls.read(names.bucket_of(session), Script::Load, &keys, args);
    }

    fn add_claim(&self, calls: &mut Calls, claim: &Claim, at: usize) {
        let Asker { token, batch } = self.asker;
        let asker = [token, batch.to_be_bytes(), (at as u64).to_be_bytes()].concat();
        let key = self.names.claim(&claim.message_id);
        let args = (asker, &claim.until.0.to_be_bytes()[..], life_ms(claim.until, self.now), self.now.0);
        calls.write(self.names.bucket_of_claim(&claim.message_id), Script::Claim, &[&key], args);
    }

    pub fn drop_session(&self, calls: &mut Calls, session: SessionId) {
        let names = self.names;
        let bucket = names.bucket_of(session);
        let keys = [
            &names.row(session)[..],
            &names.queue(session),
            &names.channels(session),
            &names.received(session),
            &names.sessions(bucket),
            &names.due(bucket),
        ];
        let id = session.0.to_be_bytes();
        calls.write(bucket, Script::Drop, &keys, (&self.asker.token[..], &id[..]));
    }
}

/// Redis forgets it by itself after so long. Its clock need not be ours: only the distance is given.
fn life_ms(until: UnixMs, now: UnixMs) -> u64 {
    until.0.saturating_sub(now.0).max(1)
}

/// Of one page, with at least one message.
const PAGE_BYTES_MAX: usize = 1 << 20;
