//! What the store's thread requests of a store and what it gets back: requests, one response to each, and what a slice
//! of a purge removed. Plain data; it goes through queues between threads.

use crate::base::id::{Generation, Identity, ShardId};
use crate::shard::command::transfer::{TransferAnswer, TransferCommand};
use crate::shard::command::{
    Claim, Command, CommandNumber, Completion, ExpiredMessages, Mutation, Operation, SessionId, StoreError,
};
use crate::shard::command::{OwnershipAnswer, OwnershipCommand, Token};
use std::net::SocketAddr;
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
    /// Of a worker, in the order of its shard's commands. Only where others use the store too.
    Ownership { shard: ShardId, command: OwnershipCommand },
    /// Of a session's way between the disks of two nodes.
    Transfer { id: TransferId, command: TransferCommand },
    /// A connection that the backend has let in: whoever finds the record after this process reports its close.
    PutConnection { id: RecordId, record: ConnectionRecord },
    /// Its close was reported.
    RemoveConnection { identity: Identity },
}

/// A connection that the backend has let in, as it outlives the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionRecord {
    pub identity: Identity,
    /// As the connect answer has set it.
    pub cookie: Option<Box<[u8]>>,
    /// The client, as the connect answer has named it.
    pub user: Option<Box<str>>,
}

/// The caller's own number for a `Request::PutConnection`; the response carries it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordId {
    pub worker: ShardId,
    pub number: u64,
}

/// The caller's own number for a `Request::Transfer`; the response carries it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferId(pub u64);

/// The caller's own number for a `Request::Claim`; the response carries it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimId(pub u64);

/// The outcome of one request.
#[derive(Debug, PartialEq)]
pub enum Response {
    Shard { shard: ShardId, number: CommandNumber, completion: Completion },
    Claim { id: ClaimId, outcome: ClaimOutcome },
    Settled,
    Ownership { shard: ShardId, answer: OwnershipAnswer },
    Transfer { id: TransferId, answer: TransferAnswer },
    ConnectionPut { id: RecordId, is_stored: bool },
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

/// A node that uses the store, by the store's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    pub generation: Generation,
    /// What is left of its lease; 0: it has ended.
    pub remaining_ms: u64,
    /// This life of it writes no more.
    pub is_buried: bool,
    /// Where it is reached.
    pub address: Option<SocketAddr>,
}

/// A page of the sessions that a node owns by the store's record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OrphanedSessions {
    pub sessions: Vec<(Arc<str>, Token)>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<u64>,
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
            Request::Claim { .. }
            | Request::Settle { .. }
            | Request::Ownership { .. }
            | Request::Transfer { .. }
            | Request::PutConnection { .. }
            | Request::RemoveConnection { .. } => None,
        }
    }
}
