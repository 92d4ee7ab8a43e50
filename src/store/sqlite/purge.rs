//! Removes what has expired, a slice per transaction: messages, the guards of claims, claims.

use super::super::{Now, Purged, crash};
use super::book::Book;
use crate::shard::steps::{Expired, SessionId};
use rusqlite::{OptionalExtension, Result, params};
use std::collections::BTreeMap;

/// At most `most` of each kind.
pub fn slice(book: &mut Book, now: Now, most: usize) -> Result<Purged> {
    let now = i64::try_from(now.0).unwrap_or(i64::MAX - 1);
    let most_rows = i64::try_from(most).unwrap_or(i64::MAX);
    let due = messages_due(book, now, most_rows)?;
    let mut more = due.len() == most;
    let mut sessions: BTreeMap<i64, (u32, u64)> = BTreeMap::new();
    for (key, place, bytes) in due {
        book.conn.prepare_cached("DELETE FROM messages WHERE key = ?1 AND place = ?2")?.execute([key, place])?;
        book.release(1, bytes);
        let gone = sessions.entry(key).or_default();
        *gone = (gone.0 + 1, gone.1 + bytes);
    }
    for sql in [
        "DELETE FROM guards WHERE (key, message_id) IN
             (SELECT key, message_id FROM guards WHERE until <= ?1 ORDER BY until LIMIT ?2)",
        "DELETE FROM claims WHERE message_id IN
             (SELECT message_id FROM claims WHERE until <= ?1 ORDER BY until LIMIT ?2)",
    ] {
        more |= book.conn.prepare_cached(sql)?.execute(params![now, most_rows])? == most;
    }
    let mut expired = Vec::with_capacity(sessions.len());
    for (key, (messages, bytes)) in sessions {
        if let Some(session) = session(book, key)? {
            expired.push(Expired { session, messages, bytes });
        }
    }
    crash::point("purge.inside");
    Ok(Purged { expired, more })
}

/// Key, place and bytes.
fn messages_due(book: &Book, now: i64, most: i64) -> Result<Vec<(i64, i64, u64)>> {
    let sql = "SELECT key, place, bytes FROM messages INDEXED BY messages_due WHERE due <= ?1 ORDER BY due LIMIT ?2";
    let mut statement = book.conn.prepare_cached(sql)?;
    let due = statement.query_map([now, most], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, i64>(2)? as u64)))?;
    due.collect()
}

fn session(book: &Book, key: i64) -> Result<Option<SessionId>> {
    let mut statement = book.conn.prepare_cached("SELECT session FROM sessions WHERE key = ?1")?;
    statement.query_row([key], |row| Ok(SessionId(u128::from_be_bytes(row.get(0)?)))).optional()
}
