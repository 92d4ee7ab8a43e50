//! What the file holds at the start: all sessions with their channels, and how much waits for each. Of the messages
//! only an index is read: a million of them is some 40 MB.

use super::book::Book;
use super::ledger::{Ledger, Slot};
use crate::shard::command::{DownlinkMark, Offset, SessionId, SessionRow, StoredSession, UnixMs, UplinkMark};
use rusqlite::{Connection, OptionalExtension, Result, Row};
use rustc_hash::{FxHashMap, FxHashSet};
use std::mem;
use std::sync::Arc;

pub fn all(conn: Connection) -> Result<(Book, Vec<StoredSession>)> {
    let (keys, mut found) = sessions(&conn)?;
    channels(&conn, &keys, &mut found)?;
    let mut slots = vec![Vec::new(); found.len()];
    let last_row = messages(&conn, &keys, &mut found, &mut slots)?;
    // Made at the first session.
    let last_key = "SELECT seq FROM sqlite_sequence WHERE name = 'sessions'";
    let last_key = conn.query_row(last_key, [], |row| row.get(0)).optional()?.unwrap_or(0);
    let mut ledger = Ledger::default();
    for (key, at) in keys {
        ledger.add(found[at].row.session, key, mem::take(&mut slots[at]));
    }
    ledger.set_last(last_key, last_row);
    Ok((Book::new(conn, ledger)?, found))
}

/// Sessions, and where each key's is.
fn sessions(conn: &Connection) -> Result<(FxHashMap<i64, usize>, Vec<StoredSession>)> {
    let mut statement = conn.prepare(
        "SELECT key, session, name, expiry_s, ends, cookie, reserved, floor, run, last, past_half
         FROM sessions ORDER BY key",
    )?;
    let (mut keys, mut found) = (FxHashMap::default(), Vec::new());
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        keys.insert(row.get(0)?, found.len());
        let row = session(row)?;
        found.push(StoredSession {
            row,
            channels: Vec::new(),
            waiting: 0,
            waiting_bytes: 0,
            next: Offset(0),
            oldest: None,
            first: None,
        });
    }
    Ok((keys, found))
}

fn session(row: &Row) -> Result<SessionRow> {
    let number = |at| row.get::<_, i64>(at).map(|number| number as u64);
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

/// Many sessions are in few channels: each name is kept once.
fn channels(conn: &Connection, keys: &FxHashMap<i64, usize>, found: &mut [StoredSession]) -> Result<()> {
    let mut names: FxHashSet<Arc<str>> = FxHashSet::default();
    let mut statement = conn.prepare("SELECT key, channel FROM channels ORDER BY key")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let Some(&at) = keys.get(&row.get(0)?) else { continue };
        let name = row.get_ref(1)?.as_str()?;
        let name = match names.get(name) {
            Some(name) => name.clone(),
            None => {
                let name: Arc<str> = name.into();
                names.insert(name.clone());
                name
            }
        };
        found[at].channels.push(name);
    }
    Ok(())
}

/// Through the index alone; it comes in the order of expiry. Returns the last row.
fn messages(
    conn: &Connection,
    keys: &FxHashMap<i64, usize>,
    found: &mut [StoredSession],
    slots: &mut [Vec<Slot>],
) -> Result<i64> {
    let mut last = 0;
    let mut statement = conn.prepare("SELECT row, key, place, stored, bytes FROM messages INDEXED BY messages_due")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let number = |at| row.get::<_, i64>(at).map(|number| number as u64);
        let slot = Slot { place: number(2)?, row: row.get(0)?, bytes: row.get(4)? };
        last = last.max(slot.row);
        let Some(&at) = keys.get(&row.get(1)?) else { continue };
        let (place, stored, bytes) = (Offset(slot.place), UnixMs(number(3)?), slot.bytes);
        let found = &mut found[at];
        found.next = found.next.max(place.next());
        found.first = Some(found.first.map_or(place, |first| first.min(place)));
        if bytes > 0 {
            found.waiting += 1;
            found.waiting_bytes += u64::from(bytes);
            found.oldest = Some(found.oldest.map_or(stored, |oldest| oldest.min(stored)));
        }
        slots[at].push(slot);
    }
    Ok(last)
}
