//! Reads a page of a session's messages, and with the first page the QoS 2 ids that it has received. It writes nothing
//! and works without a transaction, so that a store that cannot write still answers loads.

use super::index::Index;
use super::rows::SessionRowId;
use super::tables::messages;
use crate::shard::command::{Completion, Offset, Page, Received, SessionId, StoreError};
use crate::wire::packet::MessageId;
use rusqlite::{Connection, Result, Row};
use std::sync::Arc;
use tracing::error;

/// The page, or a refusal where the session's own rows are damaged: the other sessions have theirs. An error of
/// SQLite's concerns the file.
pub fn complete(
    connection: &Connection,
    index: &Index,
    (session, after, most): (SessionId, Option<Offset>, usize),
) -> Result<Completion> {
    match page(connection, index, session, after, most) {
        Ok(page) => Ok(Completion::Loaded(page)),
        Err(damage) if damage.sqlite_error().is_none() => {
            let session = format!("{:032x}", session.0);
            error!(session, %damage, "a session's messages are damaged: it is refused; /session/drop/ ends it");
            Ok(Completion::Refused(StoreError::Damaged))
        }
        Err(error) => Err(error),
    }
}

/// At most `most` messages behind the offset `after`, expired ones too: the shard decides what becomes of them.
fn page(
    connection: &Connection,
    index: &Index,
    session: SessionId,
    after: Option<Offset>,
    most: usize,
) -> Result<Page> {
    let mut page = Page::default();
    let Some(session_row) = index.session_row(session) else { return Ok(page) };
    if after.is_none() {
        page.received = received(connection, session_row)?;
    }
    let sql = format!("SELECT {}, key FROM messages WHERE row = ?1", messages::COLUMNS);
    let mut statement = connection.prepare_cached(&sql)?;
    let (mut bytes, mut scratch) = (0, Vec::new());
    for entry in index.messages_from(session, after.map_or(Offset(0), |after| Offset(after.0.saturating_add(1)))) {
        let mut rows = statement.query([entry.row])?;
        let row = rows.next()?.ok_or_else(|| messages::damaged(session, entry.offset))?;
        let offset = Offset(row.get::<_, i64>(0)? as u64);
        if offset != { entry.offset } || row.get::<_, SessionRowId>(9)? != session_row {
            return Err(messages::damaged(session, entry.offset));
        }
        if page.messages.len() == most || bytes >= PAGE_BYTES_MAX {
            page.more = true;
            break;
        }
        let message = messages::decode(row, session, session_row, &mut scratch)?;
        bytes += message.message.len();
        page.messages.push(message);
    }
    Ok(page)
}

pub fn received(connection: &Connection, session_row: SessionRowId) -> Result<Vec<Received>> {
    let mut statement = connection.prepare_cached("SELECT id, sequence, answer FROM received WHERE key = ?1")?;
    let read = |row: &Row| {
        let answer: Arc<[u8]> = row.get_ref(2)?.as_blob()?.into();
        Ok(Received::from_stored(MessageId(row.get(0)?), row.get::<_, i64>(1)? as u64, answer))
    };
    let mut received: Vec<Received> = statement.query_map([session_row], read)?.collect::<Result<_>>()?;
    received.sort_unstable_by_key(|received| received.sequence);
    Ok(received)
}

/// The last message of a page may pass it.
const PAGE_BYTES_MAX: usize = 1 << 20;
