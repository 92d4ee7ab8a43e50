//! The rows of calls with a `message_id`: claimed before anything is sent, settled with the answer that a repeat gets.

use crate::shard::command::{Claim, UnixMs};
use crate::store::request::ClaimOutcome;
use crate::store::sqlite::database::Transaction;
use crate::store::sqlite::rows::signed;
use rusqlite::{OptionalExtension, Result, Row, params};

pub fn claim(transaction: &Transaction, claim: &Claim, now: UnixMs) -> Result<ClaimOutcome> {
    let sql = "SELECT answer FROM claims WHERE message_id = ?1 AND until > ?2";
    let read = |row: &Row| row.get::<_, Option<Vec<u8>>>(0);
    let mut select = transaction.connection.prepare_cached(sql)?;
    let known = select.query_row(params![&*claim.message_id, signed(now.0)], read);
    Ok(match known.optional()? {
        Some(Some(answer)) => ClaimOutcome::Settled(answer),
        // The time of its end stays: the sessions' guards of the first call end then.
        Some(None) => ClaimOutcome::Unsettled,
        None => {
            let sql = "INSERT OR REPLACE INTO claims (message_id, until, answer) VALUES (?1, ?2, NULL)";
            let mut insert = transaction.connection.prepare_cached(sql)?;
            insert.execute(params![&*claim.message_id, signed(claim.until.0)])?;
            ClaimOutcome::New
        }
    })
}

pub fn settle(transaction: &Transaction, message_id: &str, answer: &[u8]) -> Result<()> {
    let sql = "UPDATE claims SET answer = ?2 WHERE message_id = ?1";
    transaction.connection.prepare_cached(sql)?.execute(params![message_id, answer]).map(drop)
}
