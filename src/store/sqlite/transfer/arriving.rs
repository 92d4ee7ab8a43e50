//! Which transfers come to this file, how far each has come, and the session of a name.

use crate::shard::command::{SessionId, Token};
use crate::store::sqlite::rows::SessionRowId;
use rusqlite::{Connection, OptionalExtension, Result, Row, params};

/// How far a transfer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Partial,
    Arrived,
    Never,
}

pub fn state_of(connection: &Connection, token: Token) -> Result<Option<State>> {
    let sql = "SELECT state FROM arriving WHERE token = ?1";
    let read = |row: &Row| row.get::<_, i64>(0);
    let state = connection.prepare_cached(sql)?.query_row([key(token)], read).optional()?;
    Ok(state.map(|state| match state {
        0 => State::Partial,
        1 => State::Arrived,
        _ => State::Never,
    }))
}

pub fn set_state(connection: &Connection, name: &str, token: Token, state: State) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO arriving (token, name, state) VALUES (?1, ?2, ?3)";
    connection.prepare_cached(sql)?.execute(params![key(token), name, state as i64]).map(drop)
}

/// The transfer by which a session of this name comes.
pub fn partial_of(connection: &Connection, name: &str) -> Result<Option<Token>> {
    let sql = "SELECT token FROM arriving WHERE name = ?1 AND state = 0";
    let read = |row: &Row| row.get::<_, i64>(0).map(|token| Token(token as u64));
    connection.prepare_cached(sql)?.query_row([name], read).optional()
}

pub fn is_partial(connection: &Connection, name: &str) -> Result<bool> {
    partial_of(connection, name).map(|token| token.is_some())
}

pub fn session_of(connection: &Connection, name: &str) -> Result<Option<(SessionId, SessionRowId)>> {
    let read = |row: &Row| Ok((SessionId(u128::from_be_bytes(row.get(0)?)), row.get(1)?));
    connection.prepare_cached("SELECT session, key FROM sessions WHERE name = ?1")?.query_row([name], read).optional()
}

/// A token uses all bits of a number.
pub fn key(token: Token) -> i64 {
    token.0 as i64
}
