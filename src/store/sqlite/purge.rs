//! Removes what has expired, a slice per transaction: messages, the guards of claims, claims.

use super::super::{PurgeOutcome, crash};
use super::book::Book;
use crate::shard::command::{ExpiredMessages, SessionId, UnixMs};
use rusqlite::{OptionalExtension, Result, Row, params};
use std::collections::BTreeMap;

struct Due {
    row: i64,
    place: u64,
    bytes: u64,
}

/// At most `most` of each kind.
pub fn slice(book: &mut Book, now: UnixMs, most: usize) -> Result<PurgeOutcome> {
    let now = i64::try_from(now.0).unwrap_or(i64::MAX - 1);
    let most_rows = i64::try_from(most).unwrap_or(i64::MAX);
    let (messages, sessions) = messages_due(book, now, most_rows)?;
    let mut purged = PurgeOutcome { expired: Vec::with_capacity(sessions.len()), more: messages == most };
    for (key, messages) in sessions {
        if let Some(expired) = remove(book, key, messages)? {
            purged.expired.push(expired);
        }
    }
    for sql in [
        "DELETE FROM guards WHERE (message_id, key) IN
             (SELECT message_id, key FROM guards WHERE until <= ?1 ORDER BY until LIMIT ?2)",
        "DELETE FROM claims WHERE message_id IN
             (SELECT message_id FROM claims WHERE until <= ?1 ORDER BY until LIMIT ?2)",
    ] {
        purged.more |= book.conn.prepare_cached(sql)?.execute(params![now, most_rows])? == most;
    }
    crash::point("purge.inside");
    Ok(purged)
}

/// How many there are, and which, by their sessions' keys.
fn messages_due(book: &Book, now: i64, most: i64) -> Result<(usize, BTreeMap<i64, Vec<Due>>)> {
    let sql = "SELECT key, row, place, bytes FROM messages INDEXED BY messages_due WHERE due <= ?1
         ORDER BY due LIMIT ?2";
    let mut statement = book.conn.prepare_cached(sql)?;
    let mut rows = statement.query([now, most])?;
    let (mut count, mut sessions) = (0, BTreeMap::<i64, Vec<Due>>::new());
    while let Some(row) = rows.next()? {
        let number = |at| row.get::<_, i64>(at).map(|number| number as u64);
        let due = Due { row: row.get(1)?, place: number(2)?, bytes: number(3)? };
        sessions.entry(row.get(0)?).or_default().push(due);
        count += 1;
    }
    Ok((count, sessions))
}

/// `None` for messages of no session.
fn remove(book: &mut Book, key: i64, messages: Vec<Due>) -> Result<Option<ExpiredMessages>> {
    let session = session(book, key)?;
    for due in &messages {
        book.delete(due.row)?;
        if let Some(session) = session {
            book.ledger.remove(session, due.place);
        }
    }
    let bytes = messages.iter().map(|due| due.bytes).sum();
    Ok(session.map(|session| ExpiredMessages { session, messages: messages.len() as u32, bytes }))
}

fn session(book: &Book, key: i64) -> Result<Option<SessionId>> {
    let mut statement = book.conn.prepare_cached("SELECT session FROM sessions WHERE key = ?1")?;
    let read = |row: &Row| Ok(SessionId(u128::from_be_bytes(row.get(0)?)));
    statement.query_row([key], read).optional()
}
