//! What the answers of the scripts mean: a response per request, what changed in the usage, and which names were put or
//! dropped.

use super::super::encoding;
use super::super::fault::{is_damage, store_error};
use super::super::owned::Owned;
use super::super::scan::decode_session;
use crate::shard::command::transfer::TransferAnswer;
use crate::shard::command::{ClaimAnswer, OwnershipAnswer, OwnershipCommand, Token, WriteAnswer};
use crate::shard::command::{Command, Completion, Mutation, Operation, Page, SessionId, StoreError, StoredSession};
use crate::store::request::{ClaimOutcome, Request, Response};
use redis::{ServerError, Value};
use std::sync::Arc;
use tracing::error;

/// All responses of a batch, and what its answers show beside them.
pub struct BatchOutcome {
    pub responses: Vec<Response>,
    pub change: UsageChange,
    /// The last refusal that came from Redis, with its text.
    pub refusal: Option<(StoreError, String)>,
    /// Sessions that another server has taken.
    pub fenced: Vec<Arc<str>>,
    /// The batch may have been done before.
    repeated: bool,
}

/// What a batch changed in the usage, as far as it was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageChange {
    pub messages: i64,
    pub bytes: i64,
}

impl BatchOutcome {
    pub fn with_capacity(requests: usize, repeated: bool) -> BatchOutcome {
        let responses = Vec::with_capacity(requests);
        BatchOutcome { responses, change: UsageChange::default(), refusal: None, fenced: Vec::new(), repeated }
    }

    /// Adds the response to a request. `value`: the answer of Redis, or why the request was refused without one.
    pub fn respond(
        &mut self,
        request: Request,
        value: Result<Value, StoreError>,
        may_be_gone: bool,
        (owned, claimed): (&mut Owned, Option<SessionId>),
        scratch: &mut Vec<u8>,
    ) {
        let value = match value {
            Ok(Value::ServerError(error)) if is_damage(&error) => Err(note_damage(&request, &error.to_string())),
            Ok(Value::ServerError(error)) => Err(self.refuse(&error)),
            value => value,
        };
        let response = match request {
            Request::Shard { shard, command: Command { number, operation } } => {
                let completion = value.and_then(|value| self.complete(&operation, value, may_be_gone, owned, scratch));
                Response::Shard { shard, number, completion: completion.unwrap_or_else(Completion::Refused) }
            }
            Request::Claim { id, .. } => {
                let outcome = match value {
                    Ok(Value::Int(0)) => ClaimOutcome::New,
                    Ok(Value::Int(_)) => ClaimOutcome::Unsettled,
                    Ok(Value::BulkString(answer)) => ClaimOutcome::Settled(answer),
                    Ok(_) => ClaimOutcome::Refused(self.unexpected_answer("a claim")),
                    Err(reason) => ClaimOutcome::Refused(reason),
                };
                Response::Claim { id, outcome }
            }
            Request::Settle { .. } | Request::RemoveConnection { .. } => Response::Settled,
            Request::PutConnection { id, .. } => {
                Response::ConnectionPut { id, is_stored: matches!(value, Ok(Value::Int(_))) }
            }
            Request::Transfer { id, .. } => {
                Response::Transfer { id, answer: TransferAnswer::Refused(StoreError::Fenced) }
            }
            Request::Ownership { shard, command } => {
                Response::Ownership { shard, answer: self.ownership(command, value, owned, claimed) }
            }
        };
        self.responses.push(response);
    }

    fn ownership(
        &mut self,
        command: OwnershipCommand,
        value: Result<Value, StoreError>,
        owned: &mut Owned,
        session: Option<SessionId>,
    ) -> OwnershipAnswer {
        match command {
            OwnershipCommand::Claim { name, token, .. } => {
                let session = session.expect("what is claimed has an id");
                let (answer, session) = self.claimed((&name, session), token, value, owned);
                OwnershipAnswer::Claim { name, token, answer, session }
            }
            OwnershipCommand::Pass { name, token, .. } => {
                let answer = self.written(value);
                // Whatever became of it: who was to have it takes it, and nothing more is written here.
                if let Some(session) = owned.get(&name) {
                    owned.remove(session);
                }
                OwnershipAnswer::Pass { name, token, answer }
            }
            OwnershipCommand::Verify { name, token } => {
                let answer = self.written(value);
                if answer == WriteAnswer::Fenced
                    && let Some(session) = owned.get(&name)
                {
                    owned.remove(session);
                }
                OwnershipAnswer::Verify { name, token, answer }
            }
        }
    }

    /// `value`: of `claim_session.lua`.
    fn claimed(
        &mut self,
        (name, session): (&Arc<str>, SessionId),
        token: Token,
        value: Result<Value, StoreError>,
        owned: &mut Owned,
    ) -> (ClaimAnswer, Option<Box<StoredSession>>) {
        match value {
            Ok(Value::BulkString(word)) => {
                let found = word.strip_prefix(b"T").and_then(|token| token.try_into().ok()).map(u64::from_be_bytes);
                let answer = match (&word[..], found) {
                    (b"N", _) => ClaimAnswer::NoLease,
                    // It was dropped meanwhile, and made anew.
                    (b"R", _) => ClaimAnswer::Taken(None),
                    (_, Some(0)) => ClaimAnswer::Taken(None),
                    (_, Some(token)) => ClaimAnswer::Taken(Some(Token(token))),
                    _ => {
                        self.unexpected_answer("a claim of a session");
                        ClaimAnswer::Damaged
                    }
                };
                (answer, None)
            }
            Ok(value @ Value::Array(_)) => match self.claimed_session(name, session, value) {
                Some(session) => {
                    owned.take(name.clone(), session.row.session, token);
                    (ClaimAnswer::Claimed, Some(Box::new(session)))
                }
                None => (ClaimAnswer::Damaged, None),
            },
            Err(StoreError::Damaged) => (ClaimAnswer::Damaged, None),
            Ok(_) | Err(_) => (ClaimAnswer::Unknown, None),
        }
    }

    fn claimed_session(&mut self, name: &str, session: SessionId, value: Value) -> Option<StoredSession> {
        let session = decode_session(session, value).filter(|session| *session.row.name == *name);
        if session.is_none() {
            error!(session = name, "a session cannot be read: put its row back from a backup");
        }
        session
    }

    fn written(&mut self, value: Result<Value, StoreError>) -> WriteAnswer {
        match value {
            Ok(Value::Int(1)) => WriteAnswer::Stored,
            Ok(Value::BulkString(_)) | Err(StoreError::Fenced) => WriteAnswer::Fenced,
            Ok(_) | Err(_) => WriteAnswer::Unknown,
        }
    }

    fn complete(
        &mut self,
        operation: &Operation,
        value: Value,
        may_be_gone: bool,
        owned: &mut Owned,
        scratch: &mut Vec<u8>,
    ) -> Result<Completion, StoreError> {
        if let Value::BulkString(word) = &value {
            return match &word[..] {
                b"F" => Err(self.fence(operation, owned)),
                b"G" if is_put(operation) => Err(self.fence(operation, owned)),
                b"K" => Ok(Completion::Duplicate),
                b"G" => complete_without_session(operation, may_be_gone),
                _ => Err(self.unexpected_answer("a mutation")),
            };
        }
        match (operation, &value) {
            (Operation::Load { session, .. }, _) => {
                let page = decode_page(*session, value, scratch);
                return page
                    .map(Completion::Loaded)
                    .ok_or_else(|| note_session_damage(*session, "it cannot be decoded"));
            }
            (Operation::Mutate(Mutation::PutSession(row)), _) => owned.put(&row.name, row.session),
            (Operation::Mutate(Mutation::PutMessage(_)), Value::Int(bytes @ 1..)) => self.change.add(1, *bytes),
            (
                Operation::Mutate(Mutation::RemoveMessage { .. } | Mutation::ReleaseMessage { .. }),
                Value::Int(bytes @ 1..),
            ) => self.change.add(-1, -bytes),
            // In a batch that was tried before, this very mutation may have removed it.
            (
                Operation::Mutate(Mutation::RemoveMessage { .. } | Mutation::ReleaseMessage { .. }),
                Value::Int(..=-1),
            ) if !self.repeated => return Ok(Completion::Absent),
            (Operation::Mutate(Mutation::DropSession { session }), _) => {
                self.count_drop(&value);
                owned.remove(*session);
            }
            _ => {}
        }
        Ok(Completion::Done)
    }

    /// Another server has taken the session: nothing more is written to it.
    fn fence(&mut self, operation: &Operation, owned: &mut Owned) -> StoreError {
        let session = match operation {
            Operation::Mutate(mutation) => mutation.session(),
            Operation::Load { session, .. } => *session,
        };
        self.fenced.extend(owned.remove(session));
        StoreError::Fenced
    }

    /// `value`: messages and bytes of a dropped session.
    pub fn count_drop(&mut self, value: &Value) {
        if let Value::Array(fields) = value
            && let [Value::Int(messages), Value::Int(bytes)] = fields[..]
        {
            self.change.add(-messages, -bytes);
        }
    }

    fn refuse(&mut self, error: &ServerError) -> StoreError {
        let reason = store_error(error);
        self.refusal = Some((reason, error.to_string()));
        reason
    }

    fn unexpected_answer(&mut self, to: &str) -> StoreError {
        self.refusal = Some((StoreError::Broken, format!("{to} was answered with what this version never wrote")));
        StoreError::Broken
    }
}

/// The damage is the session's, or the claim's, alone: the store goes on.
fn note_damage(request: &Request, damage: &str) -> StoreError {
    match (request.session(), request) {
        (Some(session), _) => note_session_damage(session, damage),
        (None, Request::Claim { claim, .. }) => {
            error!(message_id = &*claim.message_id, damage, "a message_id's claim is damaged: it is refused");
            StoreError::Damaged
        }
        (None, _) => StoreError::Damaged,
    }
}

fn note_session_damage(session: SessionId, damage: &str) -> StoreError {
    let session = format!("{:032x}", session.0);
    error!(session, damage, "what lies in Redis for a session is damaged: it is refused; /session/drop/ ends it");
    StoreError::Damaged
}

impl UsageChange {
    fn add(&mut self, messages: i64, bytes: i64) {
        self.messages += messages;
        self.bytes += bytes;
    }
}

fn is_put(operation: &Operation) -> bool {
    matches!(operation, Operation::Mutate(Mutation::PutSession(_)))
}

/// The session is not in Redis. Removing something from it is done; adding to it would lose what is added.
fn complete_without_session(operation: &Operation, may_be_gone: bool) -> Result<Completion, StoreError> {
    match operation {
        Operation::Load { .. } if may_be_gone => Ok(Completion::Loaded(Page::default())),
        Operation::Mutate(Mutation::PutMessage(_) | Mutation::JoinChannel { .. } | Mutation::PutReceived { .. })
        | Operation::Load { .. }
            if !may_be_gone =>
        {
            error!("a session is not in Redis where it should be");
            Err(StoreError::Broken)
        }
        _ => Ok(Completion::Done),
    }
}

fn decode_page(session: SessionId, value: Value, scratch: &mut Vec<u8>) -> Option<Page> {
    let Value::Array(fields) = value else { return None };
    let Ok([Value::Array(messages), Value::Int(more), Value::Array(received)]) = <[Value; 3]>::try_from(fields) else {
        return None;
    };
    let mut page = Page { more: more == 1, ..Page::default() };
    for message in messages {
        let Value::BulkString(bytes) = message else { return None };
        page.messages.push(encoding::decode_message(session, &bytes, scratch)?);
    }
    for pair in received.chunks_exact(2) {
        let [Value::BulkString(id), Value::BulkString(bytes)] = pair else { return None };
        page.received.push(encoding::decode_received(id, bytes)?);
    }
    page.received.sort_unstable_by_key(|received| (received.sequence, received.id));
    Some(page)
}
