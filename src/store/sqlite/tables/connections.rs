//! A row for each connection that the backend has let in and whose close it has not heard of.

use crate::base::id::Identity;
use crate::store::request::ConnectionRecord;
use rusqlite::{Connection, Result, Row, params};

pub fn put(connection: &Connection, record: &ConnectionRecord) -> Result<()> {
    let ConnectionRecord { identity, cookie, user } = record;
    let sql = "INSERT OR REPLACE INTO connections (identity, cookie, user) VALUES (?1, ?2, ?3)";
    connection.prepare_cached(sql)?.execute(params![identity.0, cookie.as_deref(), user.as_deref()]).map(drop)
}

pub fn remove(connection: &Connection, identity: &Identity) -> Result<()> {
    let sql = "DELETE FROM connections WHERE identity = ?1";
    connection.prepare_cached(sql)?.execute(params![identity.0]).map(drop)
}

/// Those that an earlier process has left.
pub fn all(connection: &Connection) -> Result<Vec<ConnectionRecord>> {
    let read = |row: &Row| {
        let (cookie, user): (Option<Vec<u8>>, Option<String>) = (row.get(1)?, row.get(2)?);
        let (cookie, user) = (cookie.map(Into::into), user.map(Into::into));
        Ok(ConnectionRecord { identity: Identity(row.get(0)?), cookie, user })
    };
    connection.prepare("SELECT identity, cookie, user FROM connections")?.query_map([], read)?.collect()
}
