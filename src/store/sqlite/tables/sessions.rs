//! A session's own rows: what is known of it, its channels, and the QoS 2 ids that it has received.

use super::messages;
use crate::shard::command::{Completion, Received, SessionId, SessionRow, StoreError};
use crate::store::sqlite::database::Transaction;
use crate::store::sqlite::rows::{SessionRowId, signed};
use crate::wire::packet::MessageId;
use rusqlite::{ErrorCode, Result, params};

pub fn put(transaction: &mut Transaction, session: &SessionRow) -> Result<Completion> {
    let known = transaction.index.session_row(session.session);
    let row = known.unwrap_or(transaction.index.next_session_row());
    let sql = match known {
        Some(_) => {
            "UPDATE sessions SET session = ?2, name = ?3, expiry_s = ?4, ends = ?5, cookie = ?6, reserved = ?7,
                 floor = ?8, run = ?9, last = ?10, past_half = ?11 WHERE key = ?1"
        }
        None => {
            "INSERT INTO sessions (key, session, name, expiry_s, ends, cookie, reserved, floor, run, last,
                 past_half) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
        }
    };
    let written = transaction.connection.prepare_cached(sql)?.execute(params![
        row,
        &session.session.0.to_be_bytes()[..],
        &*session.name,
        signed(session.expiry_s),
        session.ends.map(|ends| signed(ends.0)),
        session.cookie.as_deref(),
        signed(session.downlink.reserved.0),
        signed(session.downlink.floor.0),
        session.uplink.run,
        session.uplink.last,
        session.uplink.past_half,
    ]);
    match written {
        // SQLite undoes this statement alone; the transaction goes on.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
            return Ok(Completion::Refused(StoreError::NameTaken));
        }
        written => written?,
    };
    if known.is_none() {
        transaction.index.add_session(session.session);
    }
    Ok(Completion::Done)
}

pub fn join(transaction: &Transaction, row: SessionRowId, channel: &str) -> Result<()> {
    let sql = "INSERT INTO channels (key, channel) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
    transaction.connection.prepare_cached(sql)?.execute(params![row, channel]).map(drop)
}

pub fn leave(transaction: &Transaction, row: SessionRowId, channel: &str) -> Result<()> {
    let sql = "DELETE FROM channels WHERE key = ?1 AND channel = ?2";
    transaction.connection.prepare_cached(sql)?.execute(params![row, channel]).map(drop)
}

pub fn put_received(transaction: &Transaction, row: SessionRowId, received: &Received) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO received (key, id, sequence, answer) VALUES (?1, ?2, ?3, ?4)";
    let sequence = received.stored_sequence() as i64;
    transaction
        .connection
        .prepare_cached(sql)?
        .execute(params![row, received.id.0, sequence, &*received.answer])
        .map(drop)
}

pub fn remove_received(transaction: &Transaction, row: SessionRowId, id: MessageId) -> Result<()> {
    let sql = "DELETE FROM received WHERE key = ?1 AND id = ?2";
    transaction.connection.prepare_cached(sql)?.execute(params![row, id.0]).map(drop)
}

/// Removes the session with all that belongs to it. The guards of its claims stay until their time is over; its row id
/// is not used again.
pub fn drop_session(transaction: &mut Transaction, session: SessionId, row: SessionRowId) -> Result<()> {
    for message in transaction.index.drop_session(session) {
        messages::delete_row(transaction.connection, message)?;
    }
    for sql in [
        "DELETE FROM channels WHERE key = ?1",
        "DELETE FROM received WHERE key = ?1",
        "DELETE FROM sessions WHERE key = ?1",
    ] {
        transaction.connection.prepare_cached(sql)?.execute([row])?;
    }
    Ok(())
}
