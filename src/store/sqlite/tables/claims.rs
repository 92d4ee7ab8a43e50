//! The rows of calls with a `message_id`: claimed before anything is sent, settled with the answer that a repeat gets.
//! They count towards `bytes_max` with their guards, since callers choose how many there are.

use crate::shard::command::transfer::Guard;
use crate::shard::command::{Claim, StoreError, UnixMs};
use crate::store::request::ClaimOutcome;
use crate::store::sqlite::database::Transaction;
use crate::store::sqlite::index::ROW_BYTES;
use crate::store::sqlite::rows::{SessionRowId, signed};
use rusqlite::{OptionalExtension, Result, Row, params};

/// What all claims and guards count for.
pub const CALL_BYTES: &str = "SELECT
    (SELECT coalesce(sum(64 + length(message_id) + coalesce(length(answer), 0)), 0) FROM claims) +
    (SELECT coalesce(sum(64 + length(message_id)), 0) FROM guards)";
const _: () = assert!(ROW_BYTES == 64, "as in `CALL_BYTES`");

/// What a claim with such an answer counts for, and a guard with none.
pub fn bytes(message_id: &str, answer_len: usize) -> u64 {
    ROW_BYTES + (message_id.len() + answer_len) as u64
}

/// The session has had the message of this claim elsewhere.
pub fn put_guard(transaction: &mut Transaction, session_row: SessionRowId, guard: &Guard) -> Result<()> {
    let sql = "INSERT INTO guards (message_id, key, until, place) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING";
    let (until, place) = (signed(guard.until.0), signed(guard.offset.0));
    let guarded = params![&*guard.message_id, session_row, until, place];
    let added = transaction.connection.prepare_cached(sql)?.execute(guarded)?;
    transaction.index.add_call_bytes(added as u64 * bytes(&guard.message_id, 0));
    Ok(())
}

/// Of a session that did not come whole.
pub fn remove_guards(transaction: &mut Transaction, session_row: SessionRowId) -> Result<()> {
    let sql = "DELETE FROM guards WHERE key = ?1 RETURNING length(message_id)";
    let mut delete = transaction.connection.prepare_cached(sql)?;
    let lengths = delete.query_map([session_row], |row| row.get::<_, i64>(0).map(|length| length as u64))?;
    let lengths: Vec<u64> = lengths.collect::<Result<_>>()?;
    lengths.iter().for_each(|length| transaction.index.subtract_call_bytes(ROW_BYTES + length));
    Ok(())
}

pub fn claim(transaction: &mut Transaction, claim: &Claim, now: UnixMs, bytes_max: u64) -> Result<ClaimOutcome> {
    let sql = "SELECT until, answer FROM claims WHERE message_id = ?1";
    let read = |row: &Row| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<Vec<u8>>>(1)?));
    let known = transaction.connection.prepare_cached(sql)?.query_row(params![&*claim.message_id], read).optional()?;
    let had = known.as_ref().map_or(0, |(_, answer)| bytes(&claim.message_id, answer.as_ref().map_or(0, Vec::len)));
    match known {
        Some((until, Some(answer))) if until > signed(now.0) => return Ok(ClaimOutcome::Settled(answer)),
        // The time of its end stays: the sessions' guards of the first call end then.
        Some((until, None)) if until > signed(now.0) => return Ok(ClaimOutcome::Unsettled),
        _ => {}
    }
    if !transaction.index.fits(bytes(&claim.message_id, 0), bytes_max) {
        return Ok(ClaimOutcome::Refused(StoreError::StoreFull));
    }
    let sql = "INSERT OR REPLACE INTO claims (message_id, until, answer) VALUES (?1, ?2, NULL)";
    let until = signed(claim.until.0);
    transaction.connection.prepare_cached(sql)?.execute(params![&*claim.message_id, until])?;
    transaction.index.subtract_call_bytes(had);
    transaction.index.add_call_bytes(bytes(&claim.message_id, 0));
    Ok(ClaimOutcome::New)
}

/// The answer of a call that was settled before stays.
pub fn settle(transaction: &mut Transaction, message_id: &str, answer: &[u8]) -> Result<()> {
    let sql = "UPDATE claims SET answer = ?2 WHERE message_id = ?1 AND answer IS NULL";
    let settled = transaction.connection.prepare_cached(sql)?.execute(params![message_id, answer])?;
    transaction.index.add_call_bytes((settled * answer.len()) as u64);
    Ok(())
}
