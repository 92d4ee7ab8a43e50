//! The rows of messages: stored, released, removed, and decoded again. A claim on a message leaves a *guard* beside it:
//! the session takes one message per claim, even when that message is gone already.

use crate::shard::Message;
use crate::shard::command::{Claim, Completion, Offset, SessionId, StoreError, StoredMessage, UnixMs};
use crate::store::sqlite::database::Transaction;
use crate::store::sqlite::index::Entry;
use crate::store::sqlite::rows::{MessageRowId, SessionRowId, signed};
use crate::store::sqlite::tables::claims;
use crate::wire::packet::QoS;
use rusqlite::types::Type;
use rusqlite::{Connection, Error, OptionalExtension, Result, Row, params};
use sha1::{Digest, Sha1};
use std::sync::Arc;

pub fn put(
    transaction: &mut Transaction,
    session_row: SessionRowId,
    message: &StoredMessage,
    now: UnixMs,
    bytes_max: u64,
) -> Result<Completion> {
    let offset = message.offset;
    let guard = match &message.claim {
        Some(claim) => guard(transaction.connection, session_row, &claim.message_id)?,
        None => None,
    };
    if let Some((guarded, until)) = guard
        && until > signed(now.0)
    {
        // The guard of this very message: the same mutation a second time. The message may be gone already.
        return Ok(if guarded == signed(offset.0) { Completion::Done } else { Completion::Duplicate });
    }
    if transaction.index.message(message.session, offset).is_none() {
        // A released message has no body and does not count.
        let bytes = if message.released { 0 } else { message.message.len() as u32 };
        if !message.released && !transaction.index.fits(u64::from(bytes), bytes_max) {
            return Ok(Completion::Refused(StoreError::StoreFull));
        }
        insert(transaction, session_row, message, bytes)?;
        transaction.index.add_message(message.session, offset, bytes);
    }
    if let Some(claim) = &message.claim {
        let sql = "INSERT OR REPLACE INTO guards (message_id, key, until, place) VALUES (?1, ?2, ?3, ?4)";
        let (until, place) = (signed(claim.until.0), signed(offset.0));
        transaction.connection.prepare_cached(sql)?.execute(params![&*claim.message_id, session_row, until, place])?;
        if guard.is_none() {
            transaction.index.add_call_bytes(claims::bytes(&claim.message_id, 0));
        }
    }
    Ok(Completion::Done)
}

/// A message that another disk had; its guard comes by itself. False: there is no room.
pub fn put_arrived(
    transaction: &mut Transaction,
    session_row: SessionRowId,
    message: &StoredMessage,
    bytes_max: u64,
) -> Result<bool> {
    if transaction.index.message(message.session, message.offset).is_some() {
        return Ok(true);
    }
    let bytes = if message.released { 0 } else { message.message.len() as u32 };
    if !message.released && !transaction.index.fits(u64::from(bytes), bytes_max) {
        return Ok(false);
    }
    insert(transaction, session_row, message, bytes)?;
    transaction.index.add_message(message.session, message.offset, bytes);
    Ok(true)
}

fn insert(transaction: &Transaction, session_row: SessionRowId, message: &StoredMessage, bytes: u32) -> Result<()> {
    let sql = "INSERT INTO messages (row, key, place, flags, type, stored, expires, due, bytes, sum, claim,
         claim_until, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
    let (message_type, body) = if message.released { (0, &[][..]) } else { message.message.parts() };
    // The client may have the id of a QoS 2 message that was sent, and waits for its REL: the message does not expire.
    let id_in_use = message.released || message.sent && message.message.qos == QoS::ExactlyOnce;
    transaction.connection.prepare_cached(sql)?.execute(params![
        transaction.index.next_message_row(),
        session_row,
        signed(message.offset.0),
        flags(message),
        message_type,
        signed(message.stored.0),
        signed(message.expires.0),
        if id_in_use { NEVER } else { signed(message.expires.0) },
        bytes,
        checksum(session_row, message.offset, message_type, body),
        message.claim.as_ref().map(|claim| &*claim.message_id),
        message.claim.as_ref().map(|claim| signed(claim.until.0)),
        body,
    ])?;
    Ok(())
}

/// The offset of the message that was stored with that claim, and when the guard ends.
pub fn guard(connection: &Connection, session_row: SessionRowId, message_id: &str) -> Result<Option<(i64, i64)>> {
    let sql = "SELECT place, until FROM guards WHERE message_id = ?1 AND key = ?2";
    let read = |row: &Row| Ok((row.get(0)?, row.get(1)?));
    connection.prepare_cached(sql)?.query_row(params![message_id, session_row], read).optional()
}

pub fn release(transaction: &mut Transaction, session: SessionId, offset: Offset) -> Result<Completion> {
    let Some(Entry { row, .. }) = transaction.index.message(session, offset) else { return Ok(Completion::Absent) };
    let sql = "UPDATE messages SET flags = flags | ?2, type = 0, body = x'', bytes = 0, due = ?3 WHERE row = ?1";
    transaction.connection.prepare_cached(sql)?.execute(params![row, RELEASED, NEVER])?;
    transaction.index.release_message(session, offset);
    Ok(Completion::Done)
}

pub fn remove(transaction: &mut Transaction, session: SessionId, offset: Offset) -> Result<Completion> {
    let Some(Entry { row, .. }) = transaction.index.message(session, offset) else { return Ok(Completion::Absent) };
    delete_row(transaction.connection, row)?;
    transaction.index.remove_message(session, offset);
    Ok(Completion::Done)
}

/// The client may have the id of this message, if it is of QoS 2.
pub fn note_sent(connection: &Connection, row: MessageRowId) -> Result<()> {
    let sql = "UPDATE messages SET flags = flags | ?2, due = ?3 WHERE row = ?1 AND flags & ?4 = ?5";
    let values = params![row, SENT, NEVER, QOS | SENT, QoS::ExactlyOnce as i64];
    connection.prepare_cached(sql)?.execute(values).map(drop)
}

pub fn delete_row(connection: &Connection, row: MessageRowId) -> Result<()> {
    connection.prepare_cached("DELETE FROM messages WHERE row = ?1")?.execute([row]).map(drop)
}

/// The columns that `decode` takes, in its order.
pub const COLUMNS: &str = "place, flags, type, stored, expires, claim, claim_until, body, sum";

/// `scratch` is cleared and used.
pub fn decode(
    row: &Row,
    session: SessionId,
    session_row: SessionRowId,
    scratch: &mut Vec<u8>,
) -> Result<StoredMessage> {
    let offset = Offset(row.get::<_, i64>(0)? as u64);
    let (flags, message_type): (i64, u16) = (row.get(1)?, row.get(2)?);
    let body = row.get_ref(7)?.as_blob()?;
    let released = flags & RELEASED != 0;
    if !released && row.get::<_, i64>(8)? != checksum(session_row, offset, message_type, body) {
        return Err(damaged(session, offset));
    }
    let qos = QoS::from_u8((flags & QOS) as u8).ok_or_else(|| damaged(session, offset))?;
    let claim: Option<Arc<str>> = row.get(5)?;
    let until: Option<i64> = row.get(6)?;
    Ok(StoredMessage {
        session,
        offset,
        message: Message::encode(qos, message_type, body, scratch),
        sent: flags & SENT != 0,
        released,
        stored: UnixMs(row.get::<_, i64>(3)? as u64),
        expires: UnixMs(row.get::<_, i64>(4)? as u64),
        claim: claim.zip(until).map(|(message_id, until)| Claim { message_id, until: UnixMs(until as u64) }),
    })
}

/// Damage that SQLite itself does not notice: it concerns one session.
pub fn damaged(session: SessionId, offset: Offset) -> Error {
    let detail = format!("message {} of session {:032x} is not what was stored", offset.0, session.0);
    Error::FromSqlConversionFailure(0, Type::Blob, detail.into())
}

/// Half of a SHA-1: fast, and good enough against chance.
fn checksum(session_row: SessionRowId, offset: Offset, message_type: u16, body: &[u8]) -> i64 {
    let mut hash = Sha1::new();
    hash.update(session_row.0.to_le_bytes());
    hash.update(signed(offset.0).to_le_bytes());
    hash.update(message_type.to_le_bytes());
    hash.update(body);
    i64::from_le_bytes(hash.finalize()[..8].try_into().expect("eight of twenty bytes"))
}

fn flags(message: &StoredMessage) -> i64 {
    let sent = if message.sent { SENT } else { 0 };
    let released = if message.released { RELEASED } else { 0 };
    i64::from(message.message.qos as u8) | sent | released
}

/// The column `flags`: the QoS in its lowest two bits.
const QOS: i64 = 3;
const SENT: i64 = 4;
const RELEASED: i64 = 8;
/// The column `due` of a message that must not expire.
const NEVER: i64 = i64::MAX;
