//! Carries out requests within a transaction, one response each: which request changes which rows. While the disk is
//! full only what makes room is done.

use super::database::Transaction;
use super::load;
use super::tables::{claims, connections, messages, sessions};
use super::transfer;
use crate::base::id::ShardId;
use crate::shard::command::{ClaimAnswer, OwnershipCommand, WriteAnswer};
use crate::shard::command::{Command, Completion, Mutation, Operation, StoreError, UnixMs};
use crate::store::request::{ClaimOutcome, Request, Response};
use rusqlite::Result;

/// What a batch may do.
#[derive(Clone, Copy)]
pub enum WriteMode {
    Normal {
        bytes_max: u64,
    },
    /// Mutations that make room are done; the rest is refused with `refusal`.
    FreeingOnly {
        refusal: StoreError,
    },
}

/// One response per request, in their order.
pub fn apply(
    transaction: &mut Transaction,
    requests: &[Request],
    now: UnixMs,
    mode: WriteMode,
) -> Result<Vec<Response>> {
    requests.iter().map(|request| apply_one(transaction, request, now, mode)).collect()
}

fn apply_one(transaction: &mut Transaction, request: &Request, now: UnixMs, mode: WriteMode) -> Result<Response> {
    Ok(match (request, mode) {
        (Request::Shard { shard, command }, _) => {
            let completion = complete(transaction, command, now, mode)?;
            Response::Shard { shard: *shard, number: command.number, completion }
        }
        (Request::Claim { id, .. }, WriteMode::FreeingOnly { refusal }) => {
            Response::Claim { id: *id, outcome: ClaimOutcome::Refused(refusal) }
        }
        (Request::Claim { id, claim }, WriteMode::Normal { bytes_max }) => {
            Response::Claim { id: *id, outcome: claims::claim(transaction, claim, now, bytes_max)? }
        }
        (Request::Settle { .. }, WriteMode::FreeingOnly { .. }) => Response::Settled,
        (Request::Settle { message_id, answer }, WriteMode::Normal { .. }) => {
            claims::settle(transaction, message_id, answer)?;
            Response::Settled
        }
        (Request::Transfer { id, command }, mode) => {
            let bytes_max = match mode {
                WriteMode::Normal { bytes_max } => Ok(bytes_max),
                WriteMode::FreeingOnly { refusal } => Err(refusal),
            };
            Response::Transfer { id: *id, answer: transfer::apply(transaction, command, now, bytes_max)? }
        }
        (Request::Ownership { shard, command }, _) => refuse_ownership(*shard, command),
        (Request::PutConnection { id, .. }, WriteMode::FreeingOnly { .. }) => {
            Response::ConnectionPut { id: *id, is_stored: false }
        }
        (Request::PutConnection { id, record }, WriteMode::Normal { .. }) => {
            connections::put(transaction.connection, record)?;
            Response::ConnectionPut { id: *id, is_stored: true }
        }
        (Request::RemoveConnection { identity }, _) => {
            connections::remove(transaction.connection, identity)?;
            Response::Settled
        }
    })
}

/// One server has the file: nobody asks.
pub fn refuse_ownership(shard: ShardId, command: &OwnershipCommand) -> Response {
    Response::Ownership { shard, answer: command.clone().undone(ClaimAnswer::Unknown, WriteAnswer::Unknown) }
}

fn complete(transaction: &mut Transaction, command: &Command, now: UnixMs, mode: WriteMode) -> Result<Completion> {
    match (&command.operation, mode) {
        // What is written now would not go along.
        (Operation::Mutate(mutation), _) if transaction.index.is_frozen(mutation.session()) => {
            Ok(Completion::Refused(StoreError::Fenced))
        }
        (Operation::Load { session, after, most }, _) => {
            load::complete(transaction.connection, transaction.index, (*session, *after, *most))
        }
        // A client that comes back for its messages makes room: its row is there already.
        (Operation::Mutate(Mutation::PutSession(row)), WriteMode::FreeingOnly { .. })
            if transaction.index.session_row(row.session).is_some() =>
        {
            sessions::put(transaction, row)
        }
        (Operation::Mutate(mutation), WriteMode::FreeingOnly { refusal }) if !makes_room(mutation) => {
            Ok(Completion::Refused(refusal))
        }
        (Operation::Mutate(mutation), WriteMode::FreeingOnly { .. }) => mutate(transaction, mutation, now, u64::MAX),
        (Operation::Mutate(mutation), WriteMode::Normal { bytes_max }) => mutate(transaction, mutation, now, bytes_max),
    }
}

fn mutate(transaction: &mut Transaction, mutation: &Mutation, now: UnixMs, bytes_max: u64) -> Result<Completion> {
    let session = mutation.session();
    if let Mutation::PutSession(row) = mutation {
        return sessions::put(transaction, row);
    }
    let Some(row) = transaction.index.session_row(session) else {
        // The session was dropped, or its `PutSession` was refused. Nothing can be stored for it, and there is nothing
        // to remove.
        return Ok(if makes_room(mutation) { Completion::Done } else { Completion::Refused(StoreError::Fenced) });
    };
    match mutation {
        Mutation::PutSession(_) => {}
        Mutation::JoinChannel { channel, .. } => sessions::join(transaction, row, channel)?,
        Mutation::LeaveChannel { channel, .. } => sessions::leave(transaction, row, channel)?,
        Mutation::PutMessage(message) => return messages::put(transaction, row, message, now, bytes_max),
        Mutation::ReleaseMessage { offset, .. } => return messages::release(transaction, session, *offset),
        Mutation::RemoveMessage { offset, .. } => return messages::remove(transaction, session, *offset),
        Mutation::PutReceived { received, .. } => sessions::put_received(transaction, row, received)?,
        Mutation::RemoveReceived { id, .. } => sessions::remove_received(transaction, row, *id)?,
        Mutation::DropSession { .. } => sessions::drop_session(transaction, session, row)?,
    }
    Ok(Completion::Done)
}

/// The mutation leaves less in the file than there was.
fn makes_room(mutation: &Mutation) -> bool {
    matches!(
        mutation,
        Mutation::LeaveChannel { .. }
            | Mutation::ReleaseMessage { .. }
            | Mutation::RemoveMessage { .. }
            | Mutation::RemoveReceived { .. }
            | Mutation::DropSession { .. }
    )
}
