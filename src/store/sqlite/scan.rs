//! Reads the file at the start: all sessions with their channels, and a summary of the messages that wait for each. Of
//! the messages only an index is read: a million of them is some 40 MB.

use super::backup::lock::BackupLock;
use super::database::Database;
use super::index::{Entry, Index};
use super::rows::{MessageRowId, SessionRowId};
use super::tables::claims::CALL_BYTES;
use crate::shard::command::{DownlinkMark, Offset, SessionId, SessionRow, StoredSession, UnixMs, UplinkMark};
use rusqlite::{Connection, OptionalExtension, Result, Row};
use rustc_hash::FxHashMap;
use std::collections::HashSet;
use std::mem;
use std::sync::Arc;

/// A session's position in the vector of all sessions, by its row.
type Positions = FxHashMap<SessionRowId, usize>;

pub fn scan(connection: Connection, lock: BackupLock) -> Result<(Database, Vec<StoredSession>)> {
    let (positions, mut sessions) = read_sessions(&connection)?;
    read_channels(&connection, &positions, &mut sessions)?;
    let mut messages = vec![Vec::new(); sessions.len()];
    let last_message_row = read_messages(&connection, &positions, &mut sessions, &mut messages)?;
    // SQLite makes this row when the first session is stored.
    let last_session_row = "SELECT seq FROM sqlite_sequence WHERE name = 'sessions'";
    let last_session_row = connection.query_row(last_session_row, [], |row| row.get(0)).optional()?.unwrap_or_default();
    let mut index = Index::default();
    for (row, position) in positions {
        index.restore_session(sessions[position].row.session, row, mem::take(&mut messages[position]));
    }
    index.restore_last_rows(last_session_row, last_message_row);
    index.restore_call_bytes(connection.query_row(CALL_BYTES, [], |row| row.get::<_, i64>(0))? as u64);
    Ok((Database::new(connection, index, lock)?, sessions))
}

fn read_sessions(connection: &Connection) -> Result<(Positions, Vec<StoredSession>)> {
    let mut statement = connection.prepare(
        "SELECT key, session, name, expiry_s, ends, cookie, reserved, floor, run, last, past_half
         FROM sessions ORDER BY key",
    )?;
    let (mut positions, mut sessions) = (FxHashMap::default(), Vec::new());
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        positions.insert(row.get(0)?, sessions.len());
        let row = decode_session(row)?;
        sessions.push(StoredSession {
            row,
            channels: Vec::new(),
            waiting: 0,
            waiting_bytes: 0,
            next: Offset(0),
            oldest: None,
            first: None,
        });
    }
    Ok((positions, sessions))
}

/// One session as `scan` finds it. Damage to it is an error of its own.
pub fn one(connection: &Connection, index: &Index, name: &str) -> Result<Option<StoredSession>> {
    let sql = "SELECT key, session, name, expiry_s, ends, cookie, reserved, floor, run, last, past_half
         FROM sessions WHERE name = ?1";
    let read = |row: &Row| Ok((row.get::<_, SessionRowId>(0)?, decode_session(row)?));
    let Some((key, row)) = connection.prepare_cached(sql)?.query_row([name], read).optional()? else { return Ok(None) };
    let mut statement = connection.prepare_cached("SELECT channel FROM channels WHERE key = ?1")?;
    let channels = statement.query_map([key], |row| row.get(0))?.collect::<Result<_>>()?;
    let session = row.session;
    let mut found =
        StoredSession { row, channels, waiting: 0, waiting_bytes: 0, next: Offset(0), oldest: None, first: None };
    let mut oldest = connection.prepare_cached("SELECT stored FROM messages WHERE row = ?1")?;
    for entry in index.messages_from(session, Offset(0)) {
        let (offset, row, bytes) = (entry.offset, entry.row, entry.bytes);
        found.next = offset.next();
        found.first = found.first.or(Some(offset));
        if bytes > 0 {
            found.waiting += 1;
            found.waiting_bytes += u64::from(bytes);
            let stored = oldest.query_row([row], |row| row.get::<_, i64>(0)).map(|stored| UnixMs(stored as u64))?;
            found.oldest = Some(found.oldest.map_or(stored, |oldest| oldest.min(stored)));
        }
    }
    Ok(Some(found))
}

fn decode_session(row: &Row) -> Result<SessionRow> {
    let number = |column| row.get::<_, i64>(column).map(|number| number as u64);
    Ok(SessionRow {
        session: SessionId(u128::from_be_bytes(row.get(1)?)),
        name: row.get(2)?,
        expiry_s: number(3)?,
        ends: row.get::<_, Option<i64>>(4)?.map(|ends| UnixMs(ends as u64)),
        cookie: row.get_ref(5)?.as_blob_or_null()?.map(Arc::from),
        downlink: DownlinkMark { reserved: Offset(number(6)?), floor: Offset(number(7)?) },
        uplink: UplinkMark { run: row.get(8)?, last: row.get(9)?, past_half: row.get(10)? },
    })
}

/// Many sessions are in few channels: they share one copy of each name.
fn read_channels(connection: &Connection, positions: &Positions, sessions: &mut [StoredSession]) -> Result<()> {
    let mut names: HashSet<Arc<str>> = HashSet::new();
    let mut statement = connection.prepare("SELECT key, channel FROM channels ORDER BY key")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let Some(&position) = positions.get(&row.get(0)?) else { continue };
        let name = row.get_ref(1)?.as_str()?;
        let name = match names.get(name) {
            Some(name) => name.clone(),
            None => {
                let name: Arc<str> = name.into();
                names.insert(name.clone());
                name
            }
        };
        sessions[position].channels.push(name);
    }
    Ok(())
}

/// Reads the file's index alone, which is in the order of expiry. Returns the highest message row.
fn read_messages(
    connection: &Connection,
    positions: &Positions,
    sessions: &mut [StoredSession],
    messages: &mut [Vec<Entry>],
) -> Result<MessageRowId> {
    let mut last = MessageRowId::default();
    let sql = "SELECT row, key, place, stored, bytes FROM messages INDEXED BY messages_due";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let number = |column| row.get::<_, i64>(column).map(|number| number as u64);
        let (offset, stored, bytes) = (Offset(number(2)?), UnixMs(number(3)?), row.get(4)?);
        let entry = Entry { offset, row: row.get(0)?, bytes };
        last = last.max(entry.row);
        let Some(&position) = positions.get(&row.get(1)?) else { continue };
        let session = &mut sessions[position];
        session.next = session.next.max(offset.next());
        session.first = Some(session.first.map_or(offset, |first| first.min(offset)));
        if bytes > 0 {
            session.waiting += 1;
            session.waiting_bytes += u64::from(bytes);
            session.oldest = Some(session.oldest.map_or(stored, |oldest| oldest.min(stored)));
        }
        messages[position].push(entry);
    }
    Ok(last)
}
