//! A batch of requests as one pipeline, and the answers of Redis as responses. The pipeline can be sent any number of
//! times: what is done already is not done again, and is answered as it was the first time.

pub mod answers;

use super::encoder::Encoder;
use super::encoding;
use super::owned::{NamesInBatch, Owned};
use super::pipeline::Pipeline;
use crate::shard::command::transfer::TransferAnswer;
use crate::shard::command::{ClaimAnswer, OwnershipCommand, WriteAnswer};
use crate::shard::command::{Completion, Mutation, SessionId, StoreError};
use crate::store::request::{ClaimOutcome, Request, Response};
use answers::BatchOutcome;
use redis::Value;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What this server knows of the store without asking Redis.
pub struct Known {
    /// Bytes of messages for which there is room.
    pub room: u64,
    /// The sessions of the names that are claimed.
    pub claimed: HashMap<Arc<str>, SessionId>,
}

pub struct Batch {
    requests: Vec<Request>,
    /// Per request.
    plans: Vec<Plan>,
    pipeline: Pipeline,
    claimed: HashMap<Arc<str>, SessionId>,
    /// The first commands drop orphans; they belong to no request.
    orphans: usize,
}

enum Plan {
    /// The position of the request's command in the pipeline.
    Command(usize),
    /// Refused without asking Redis.
    /// `Fenced`: another server has the session.
    Refuse(StoreError),
}

impl Batch {
    /// `orphans`: sessions to be dropped first.
    pub fn new(requests: Vec<Request>, orphans: &[SessionId], known: Known, encoder: &Encoder<'_>) -> Batch {
        let mut pipeline = Pipeline::default();
        let mut room = known.room;
        orphans.iter().for_each(|orphan| encoder.drop_session(&mut pipeline, *orphan, encoder.batch.token));
        let mut names = NamesInBatch::new(encoder.owned);
        let mut plans = Vec::with_capacity(requests.len());
        for (position, request) in requests.iter().enumerate() {
            if names.is_taken(request) {
                plans.push(Plan::Refuse(StoreError::NameTaken));
            } else if !take_room(request, &mut room) {
                plans.push(Plan::Refuse(StoreError::StoreFull));
            } else {
                let at = pipeline.len();
                let is_encoded = encode(&mut pipeline, request, position, &known, encoder);
                plans.push(if is_encoded { Plan::Command(at) } else { Plan::Refuse(StoreError::Fenced) });
            }
        }
        Batch { requests, plans, pipeline, claimed: known.claimed, orphans: orphans.len() }
    }

    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// The sessions of which the batch writes a row, with their names.
    pub fn put_sessions(&self) -> impl Iterator<Item = (&Arc<str>, SessionId)> {
        self.requests.iter().filter_map(|request| match request.mutation() {
            Some(Mutation::PutSession(row)) => Some((&row.name, row.session)),
            _ => None,
        })
    }

    /// Refuses every request.
    pub fn refuse(self, reason: StoreError) -> Vec<Response> {
        refuse(self.requests, reason)
    }

    /// `values`: one answer per command. `repeated`: the batch may have been done before, so a session that it drops
    /// may be gone already. What is owned from then on is noted in `owned`.
    pub fn finish(self, mut values: Vec<Value>, repeated: bool, owned: &mut Owned) -> BatchOutcome {
        debug_assert_eq!(values.len(), self.pipeline.len(), "one answer per command");
        let dropped: HashSet<SessionId> = self.requests.iter().filter_map(dropped_session).collect();
        let mut outcome = BatchOutcome::with_capacity(self.requests.len(), repeated);
        values[..self.orphans].iter().for_each(|value| outcome.count_drop(value));
        let mut scratch = Vec::new();
        for (request, plan) in self.requests.into_iter().zip(self.plans) {
            let value = match plan {
                Plan::Command(position) => Ok(std::mem::take(&mut values[position])),
                Plan::Refuse(reason) => Err(reason),
            };
            let may_be_gone = repeated && request.session().is_some_and(|session| dropped.contains(&session));
            let claimed = match &request {
                Request::Ownership { command, .. } => self.claimed.get(command.name()).copied(),
                _ => None,
            };
            outcome.respond(request, value, may_be_gone, (owned, claimed), &mut scratch);
        }
        outcome
    }
}

/// Refuses every request.
pub fn refuse(requests: Vec<Request>, reason: StoreError) -> Vec<Response> {
    let refuse = |request| match request {
        Request::Shard { shard, command } => {
            Response::Shard { shard, number: command.number, completion: Completion::Refused(reason) }
        }
        Request::Claim { id, .. } => Response::Claim { id, outcome: ClaimOutcome::Refused(reason) },
        Request::Settle { .. } | Request::RemoveConnection { .. } => Response::Settled,
        Request::PutConnection { id, .. } => Response::ConnectionPut { id, is_stored: false },
        Request::Transfer { id, .. } => Response::Transfer { id, answer: TransferAnswer::Refused(reason) },
        Request::Ownership { shard, command } => {
            Response::Ownership { shard, answer: command.undone(ClaimAnswer::Unknown, WriteAnswer::Unknown) }
        }
    };
    requests.into_iter().map(refuse).collect()
}

/// False: another server has the session.
fn encode(pipeline: &mut Pipeline, request: &Request, position: usize, known: &Known, encoder: &Encoder<'_>) -> bool {
    match request {
        Request::Shard { command, .. } => return encoder.operation(pipeline, &command.operation).is_ok(),
        Request::Claim { claim, .. } => encoder.claim_call(pipeline, claim, position),
        Request::Settle { message_id, answer } => encoder.settle_call(pipeline, message_id, answer),
        Request::PutConnection { record, .. } => encoder.put_connection(pipeline, record),
        // All nodes have one Redis.
        Request::Transfer { .. } => return false,
        Request::RemoveConnection { identity } => encoder.remove_connection(pipeline, identity),
        Request::Ownership { command: OwnershipCommand::Claim { name, expected, token }, .. } => {
            let session = known.claimed[name];
            encoder.claim_session(pipeline, (name, session), *expected, *token);
        }
        Request::Ownership { command, .. } => {
            let Some(session) = encoder.owned.get(command.name()) else { return false };
            match command {
                OwnershipCommand::Pass { token, to, .. } => encoder.pass_session(pipeline, session, *token, *to),
                OwnershipCommand::Verify { token, .. } => encoder.verify_session(pipeline, session, *token),
                OwnershipCommand::Claim { .. } => unreachable!("above"),
            }
        }
    }
    true
}

/// Whether there is room for a message that is to be stored; if so, the room is taken.
fn take_room(request: &Request, room: &mut u64) -> bool {
    let Some(Mutation::PutMessage(message)) = request.mutation() else { return true };
    let left = room.checked_sub(encoding::counted_bytes(message).into());
    *room = left.unwrap_or(*room);
    left.is_some()
}

fn dropped_session(request: &Request) -> Option<SessionId> {
    match request.mutation() {
        Some(Mutation::DropSession { session }) => Some(*session),
        _ => None,
    }
}
