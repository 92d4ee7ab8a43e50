//! Removes what has expired, a slice per transaction: messages, the guards of claims, claims.

use super::database::Transaction;
use super::index::ROW_BYTES;
use super::rows::{MessageRowId, SessionRowId};
use super::tables::messages;
use crate::shard::command::{ExpiredMessages, Offset, SessionId, UnixMs};
use crate::store::crash;
use crate::store::request::PurgeOutcome;
use rusqlite::{Connection, OptionalExtension, Result, Row, params};
use std::collections::BTreeMap;

/// A message whose time is over.
struct Due {
    row: MessageRowId,
    offset: Offset,
    bytes: u64,
}

/// At most `most` messages, guards and claims each.
pub fn purge(transaction: &mut Transaction, now: UnixMs, most: usize) -> Result<PurgeOutcome> {
    let now = i64::try_from(now.0).unwrap_or(i64::MAX - 1);
    let most_rows = i64::try_from(most).unwrap_or(i64::MAX);
    let (count, sessions) = due_messages(transaction.connection, now, most_rows)?;
    let mut outcome = PurgeOutcome { expired: Vec::with_capacity(sessions.len()), more: count == most };
    for (session_row, due) in sessions {
        if let Some(expired) = remove(transaction, session_row, due)? {
            outcome.expired.push(expired);
        }
    }
    for sql in [
        "DELETE FROM guards WHERE (message_id, key) IN
             (SELECT message_id, key FROM guards WHERE until <= ?1 ORDER BY until LIMIT ?2)
         RETURNING length(message_id)",
        "DELETE FROM claims WHERE message_id IN
             (SELECT message_id FROM claims WHERE until <= ?1 ORDER BY until LIMIT ?2)
         RETURNING length(message_id) + coalesce(length(answer), 0)",
    ] {
        let mut delete = transaction.connection.prepare_cached(sql)?;
        let lengths =
            delete.query_map(params![now, most_rows], |row| row.get::<_, i64>(0).map(|length| length as u64))?;
        let lengths: Vec<u64> = lengths.collect::<Result<_>>()?;
        lengths.iter().for_each(|length| transaction.index.subtract_call_bytes(ROW_BYTES + length));
        outcome.more |= lengths.len() == most;
    }
    crash::point("purge.inside");
    Ok(outcome)
}

/// How many messages are due, and which, by the rows of their sessions.
fn due_messages(connection: &Connection, now: i64, most: i64) -> Result<(usize, BTreeMap<SessionRowId, Vec<Due>>)> {
    let sql = "SELECT key, row, place, bytes FROM messages INDEXED BY messages_due WHERE due <= ?1
         ORDER BY due LIMIT ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([now, most])?;
    let (mut count, mut sessions) = (0, BTreeMap::<SessionRowId, Vec<Due>>::new());
    while let Some(row) = rows.next()? {
        let number = |column| row.get::<_, i64>(column).map(|number| number as u64);
        let due = Due { row: row.get(1)?, offset: Offset(number(2)?), bytes: number(3)? };
        sessions.entry(row.get(0)?).or_default().push(due);
        count += 1;
    }
    Ok((count, sessions))
}

/// `None` when the messages belong to no session.
fn remove(transaction: &mut Transaction, session_row: SessionRowId, due: Vec<Due>) -> Result<Option<ExpiredMessages>> {
    let session = session_id(transaction.connection, session_row)?;
    for message in &due {
        messages::delete_row(transaction.connection, message.row)?;
        if let Some(session) = session {
            transaction.index.remove_message(session, message.offset);
        }
    }
    let bytes = due.iter().map(|message| message.bytes).sum();
    Ok(session.map(|session| ExpiredMessages { session, messages: due.len() as u32, bytes }))
}

fn session_id(connection: &Connection, row: SessionRowId) -> Result<Option<SessionId>> {
    let mut statement = connection.prepare_cached("SELECT session FROM sessions WHERE key = ?1")?;
    let read = |row: &Row| Ok(SessionId(u128::from_be_bytes(row.get(0)?)));
    statement.query_row([row], read).optional()
}
