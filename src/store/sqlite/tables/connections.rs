//! A row for each connection that the backend has let in and whose close it has not heard of.

use crate::base::id::Identity;
use crate::store::request::ConnectionRecord;
use rusqlite::{Connection, Result, Row, params};

pub fn put(connection: &Connection, record: &ConnectionRecord) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO connections (identity, cookie) VALUES (?1, ?2)";
    connection.prepare_cached(sql)?.execute(params![record.identity.0, record.cookie.as_deref()]).map(drop)
}

pub fn remove(connection: &Connection, identity: &Identity) -> Result<()> {
    let sql = "DELETE FROM connections WHERE identity = ?1";
    connection.prepare_cached(sql)?.execute(params![identity.0]).map(drop)
}

/// Those that an earlier process has left.
pub fn all(connection: &Connection) -> Result<Vec<ConnectionRecord>> {
    let read = |row: &Row| {
        let cookie: Option<Vec<u8>> = row.get(1)?;
        Ok(ConnectionRecord { identity: Identity(row.get(0)?), cookie: cookie.map(Into::into) })
    };
    connection.prepare("SELECT identity, cookie FROM connections")?.query_map([], read)?.collect()
}
