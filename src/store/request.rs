//! What the store's thread requests of a store and what it gets back: requests, one response to each, and what a slice
//! of a purge removed. Plain data; it goes through queues between threads.

use crate::base::id::ShardId;
use crate::shard::command::{
    Claim, Command, CommandNumber, Completion, ExpiredMessages, Mutation, Operation, SessionId, StoreError,
};
use std::sync::Arc;

/// A batch of these is one commit.
#[derive(Debug)]
pub enum Request {
    /// A shard's commands come in the order of their numbers.
    Shard { shard: ShardId, command: Command },
    /// A call with a `message_id`, before anything is sent.
    Claim { id: ClaimId, claim: Claim },
    /// The call has its answer. A repeat of the call gets the same one.
    Settle { message_id: Arc<str>, answer: Vec<u8> },
}

/// The caller's own number for a `Request::Claim`; the response carries it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimId(pub u64);

/// The outcome of one request.
#[derive(Debug, PartialEq)]
pub enum Response {
    Shard { shard: ShardId, number: CommandNumber, completion: Completion },
    Claim { id: ClaimId, outcome: ClaimOutcome },
    Settled,
}

#[derive(Debug, PartialEq)]
pub enum ClaimOutcome {
    /// No call has used this `message_id`: send.
    New,
    /// An earlier call claimed it and was never settled (the server died meanwhile). Send: the claims of the sessions
    /// keep the message from arriving twice.
    Unsettled,
    /// An earlier call got this answer.
    Settled(Vec<u8>),
    Refused(StoreError),
}

/// What one slice of a purge removed.
#[derive(Debug, Default, PartialEq)]
pub struct PurgeOutcome {
    pub expired: Vec<ExpiredMessages>,
    /// There may be more to purge now.
    pub more: bool,
}

impl Request {
    /// The mutation that a shard asks for; `None` for a load and for calls.
    pub fn mutation(&self) -> Option<&Mutation> {
        match self {
            Request::Shard { command: Command { operation: Operation::Mutate(mutation), .. }, .. } => Some(mutation),
            _ => None,
        }
    }

    /// The session of a shard's command.
    pub fn session(&self) -> Option<SessionId> {
        match self {
            Request::Shard { command, .. } => Some(match &command.operation {
                Operation::Load { session, .. } => *session,
                Operation::Mutate(mutation) => mutation.session(),
            }),
            Request::Claim { .. } | Request::Settle { .. } => None,
        }
    }
}
