//! Two sessions of one name become one. The one that has come from another disk lies here under a name that no client
//! can have (`shadow_name`), as one that has come in part does. `unite` moves what is its into the session that stays,
//! in one transaction, and that is the end of it.

use super::arriving::{State, key, session_of, set_state, state_of};
use crate::shard::command::transfer::{Backlog, Guard, TransferAnswer, United, shadow_name};
use crate::shard::command::{Offset, SessionId, StoreError, StoredMessage, Token, UnixMs};
use crate::store::crash;
use crate::store::sqlite::database::Transaction;
use crate::store::sqlite::index::Entry;
use crate::store::sqlite::rows::SessionRowId;
use crate::store::sqlite::tables::{claims, messages, sessions};
use crate::wire::packet::QoS;
use rusqlite::{Connection, OptionalExtension, Result, Row, params};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The session that stays, and where in it the messages go.
pub struct Target<'a> {
    pub name: &'a str,
    pub session: SessionId,
    pub first: Offset,
    pub channels: &'a [Arc<str>],
}

/// `Refused` or `NotHere`: nothing is changed.
pub fn unite(transaction: &mut Transaction, target: &Target<'_>, token: Token) -> Result<TransferAnswer> {
    match state_of(transaction.connection, token)? {
        Some(State::Partial) => {}
        Some(State::Arrived) => {
            let known = known(transaction.connection, token)?;
            return Ok(known.map_or(TransferAnswer::NotHere, TransferAnswer::United));
        }
        Some(State::Never) => return Ok(TransferAnswer::Refused(StoreError::Fenced)),
        None => return Ok(TransferAnswer::NotHere),
    }
    let stays = session_of(transaction.connection, target.name)?.filter(|(session, _)| *session == target.session);
    let other = session_of(transaction.connection, &shadow_name(token))?;
    let (Some((_, row)), Some(other)) = (stays, other) else { return Ok(TransferAnswer::NotHere) };
    let entries: Vec<Entry> = transaction.index.messages_from(other.0, Offset(0)).collect();
    // All of them are read before anything is changed.
    for entry in &entries {
        match read(transaction.connection, other, entry) {
            Ok(_) => {}
            Err(damage) if damage.sqlite_error().is_none() => {
                return Ok(TransferAnswer::Refused(StoreError::Damaged));
            }
            Err(error) => return Err(error),
        }
    }
    let (united, offsets) = move_messages(transaction, target, row, (other, &entries))?;
    for guard in guards(transaction.connection, other.1)? {
        let offset = offsets.get(&guard.offset).copied().unwrap_or(guard.offset);
        claims::put_guard(transaction, row, &Guard { offset, ..guard })?;
    }
    for channel in target.channels {
        sessions::join(transaction, row, channel)?;
    }
    sessions::drop_session(transaction, other.0, other.1)?;
    claims::remove_guards(transaction, other.1)?;
    set_state(transaction.connection, "", token, State::Arrived)?;
    note(transaction.connection, token, united)?;
    crash::point("unite.inside");
    Ok(TransferAnswer::United(united))
}

/// In their order, each with the next offset. What cannot be sent again, or was there before, is left out.
fn move_messages(
    transaction: &mut Transaction,
    target: &Target<'_>,
    row: SessionRowId,
    (other, entries): ((SessionId, SessionRowId), &[Entry]),
) -> Result<(United, BTreeMap<Offset, Offset>)> {
    let (mut united, mut offsets, mut next) = (United::default(), BTreeMap::new(), target.first);
    for entry in entries {
        let message = read(transaction.connection, other, entry)?;
        let claim = message.claim.as_ref();
        if message.released {
            // Its client has it.
        } else if message.sent && message.message.qos == QoS::ExactlyOnce {
            united.uncertain += 1;
        } else if let Some(claim) = claim
            && messages::guard(transaction.connection, row, &claim.message_id)?.is_some()
        {
            united.repeats += 1;
        } else {
            let (before, taken) = (message.offset, &mut united.taken);
            taken.messages += 1;
            taken.bytes += message.message.len() as u64;
            taken.oldest = taken.oldest.into_iter().chain([message.stored]).min();
            // Under this id nobody has had it.
            let merged = StoredMessage { session: target.session, offset: next, sent: false, ..message };
            messages::put_arrived(transaction, row, &merged, u64::MAX)?;
            offsets.insert(before, next);
            next = next.next();
        }
    }
    Ok((united, offsets))
}

fn read(
    connection: &Connection,
    (session, session_row): (SessionId, SessionRowId),
    entry: &Entry,
) -> Result<StoredMessage> {
    let sql = format!("SELECT {} FROM messages WHERE row = ?1", messages::COLUMNS);
    let read = |row: &Row| messages::decode(row, session, session_row, &mut Vec::new());
    connection.prepare_cached(&sql)?.query_row([entry.row], read)
}

fn guards(connection: &Connection, row: SessionRowId) -> Result<Vec<Guard>> {
    let mut statement = connection.prepare_cached("SELECT message_id, place, until FROM guards WHERE key = ?1")?;
    let read = |row: &Row| {
        let (offset, until) = (Offset(row.get::<_, i64>(1)? as u64), UnixMs(row.get::<_, i64>(2)? as u64));
        Ok(Guard { message_id: row.get(0)?, offset, until })
    };
    statement.query_map([row], read)?.collect()
}

// ---- what came of it, should the answer be lost ----

fn note(connection: &Connection, token: Token, united: United) -> Result<()> {
    let United { taken, repeats, uncertain } = united;
    let sql = "INSERT OR REPLACE INTO united (token, messages, bytes, oldest, repeats, uncertain)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let oldest = taken.oldest.map(|oldest| oldest.0 as i64);
    let values = params![key(token), taken.messages, taken.bytes as i64, oldest, repeats, uncertain];
    connection.prepare_cached(sql)?.execute(values).map(drop)
}

fn known(connection: &Connection, token: Token) -> Result<Option<United>> {
    let sql = "SELECT messages, bytes, oldest, repeats, uncertain FROM united WHERE token = ?1";
    let read = |row: &Row| {
        let oldest: Option<i64> = row.get(2)?;
        let oldest = oldest.map(|oldest| UnixMs(oldest as u64));
        let taken = Backlog { messages: row.get(0)?, bytes: row.get::<_, i64>(1)? as u64, oldest };
        Ok(United { taken, repeats: row.get(3)?, uncertain: row.get(4)? })
    };
    connection.prepare_cached(sql)?.query_row([key(token)], read).optional()
}

pub fn forget(connection: &Connection, token: Token) -> Result<()> {
    connection.prepare_cached("DELETE FROM united WHERE token = ?1")?.execute([key(token)]).map(drop)
}

// ---- the disk that a session leaves ----

/// Messages of QoS 2 below that offset may have been sent to the session's client.
pub fn note_sent(transaction: &Transaction, name: &str, below: Offset) -> Result<TransferAnswer> {
    let Some((session, _)) = session_of(transaction.connection, name)? else { return Ok(TransferAnswer::NotHere) };
    let sent = transaction.index.messages_from(session, Offset(0)).take_while(|entry| { entry.offset } < below);
    for entry in sent {
        messages::note_sent(transaction.connection, entry.row)?;
    }
    Ok(TransferAnswer::Done)
}
