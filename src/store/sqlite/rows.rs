//! Numbers as SQLite stores them: the row ids of sessions and messages, and unsigned integers in signed columns.

use rusqlite::Result;
use rusqlite::types::{FromSql, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

/// The column `key`: it stands for a session in all tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionRowId(pub i64);

/// The column `row` of the table `messages`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MessageRowId(pub i64);

impl ToSql for SessionRowId {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
        self.0.to_sql()
    }
}

impl FromSql for SessionRowId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<SessionRowId> {
        i64::column_result(value).map(SessionRowId)
    }
}

impl ToSql for MessageRowId {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
        self.0.to_sql()
    }
}

impl FromSql for MessageRowId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<MessageRowId> {
        i64::column_result(value).map(MessageRowId)
    }
}

/// SQLite's integers have a sign. Offsets and times never come near its bit; what does is stored as the highest number.
pub fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
