//! Sessions that leave this file for another node's, and that come from one: which rows a transfer's commands change.
//!
//! A session that leaves lies in its tables as before, with a row in `leaving`: a start does not hand it to a shard as
//! one of its own, and nothing more is written to it. A session that comes lies there from its first part on, with a
//! row in `arriving`: before its last part it is nobody's, and a start removes it. A transfer that was settled as
//! `Never` keeps its row, so that a part that comes later is refused.

mod arriving;
mod union;

use super::database::{Database, Transaction};
use super::load;
use super::rows::SessionRowId;
use super::scan;
use super::tables::{claims, messages, sessions};
use crate::base::id::{DiskId, Generation};
use crate::shard::command::transfer::{Guard, Head, Outcome, Position, SessionPart, TransferAnswer, TransferCommand};
use crate::shard::command::{Completion, Offset, StoreError, StoredSession, Token, UnixMs};
use crate::store::opening::MetNode;
use arriving::{State, is_partial, key, partial_of, session_of, set_state, state_of};
use rusqlite::{Connection, OptionalExtension, Result, Row, params};
use std::sync::Arc;
use union::Target;

/// A session that an earlier process was sending away, and the transfer.
pub type Leaving = (StoredSession, Token);

/// `bytes_max`: `None` where nothing that needs room is done.
pub fn apply(
    transaction: &mut Transaction,
    command: &TransferCommand,
    now: UnixMs,
    bytes_max: std::result::Result<u64, StoreError>,
) -> Result<TransferAnswer> {
    match (command, bytes_max) {
        (TransferCommand::Freeze { .. } | TransferCommand::Write { .. } | TransferCommand::Unite { .. }, Err(why)) => {
            Ok(TransferAnswer::Refused(why))
        }
        (TransferCommand::Freeze { name, token }, Ok(_)) => freeze(transaction, name, *token),
        (TransferCommand::Read { name, token, from }, _) => read(transaction, (name, *token), from, now),
        (TransferCommand::Delete { name, token }, _) => delete(transaction, name, *token),
        (TransferCommand::Thaw { name, token }, _) => thaw(transaction, name, *token),
        (TransferCommand::Write { name, token, part }, Ok(bytes_max)) => {
            write(transaction, (name, *token), part, now, bytes_max)
        }
        (TransferCommand::Unite { name, token, session, first, channels }, Ok(_)) => {
            let target = Target { name, session: *session, first: *first, channels };
            union::unite(transaction, &target, *token)
        }
        (TransferCommand::NoteSent { name, below }, _) => union::note_sent(transaction, name, *below),
        (TransferCommand::Settle { token }, _) => settle(transaction, *token).map(TransferAnswer::Settled),
        (TransferCommand::Meet { node, disk, lives }, _) => {
            for life in lives.iter().filter(|life| *life != node) {
                part(transaction.connection, *life)?;
            }
            let sql = "INSERT OR REPLACE INTO met (generation, disk) VALUES (?1, ?2)";
            transaction.connection.prepare_cached(sql)?.execute(params![node.0, disk.0])?;
            Ok(TransferAnswer::Done)
        }
        (TransferCommand::Part { node }, _) => part(transaction.connection, *node).map(|()| TransferAnswer::Done),
        (TransferCommand::Forget { token }, _) => {
            let sql = "DELETE FROM arriving WHERE token = ?1 AND state <> 0";
            transaction.connection.prepare_cached(sql)?.execute([key(*token)])?;
            union::forget(transaction.connection, *token)?;
            Ok(TransferAnswer::Done)
        }
    }
}

// ---- the disk that a session leaves ----

fn freeze(transaction: &mut Transaction, name: &str, token: Token) -> Result<TransferAnswer> {
    match leaves_by(transaction.connection, name)? {
        Some(other) if other != token => return Ok(TransferAnswer::NotHere),
        Some(_) => return Ok(TransferAnswer::Done),
        None => {}
    }
    let Some((session, _)) = session_of(transaction.connection, name)? else { return Ok(TransferAnswer::NotHere) };
    if is_partial(transaction.connection, name)? {
        return Ok(TransferAnswer::NotHere);
    }
    let sql = "INSERT INTO leaving (name, token) VALUES (?1, ?2)";
    transaction.connection.prepare_cached(sql)?.execute(params![name, key(token)])?;
    transaction.index.freeze(session);
    Ok(TransferAnswer::Done)
}

fn read(
    transaction: &Transaction,
    (name, token): (&str, Token),
    from: &Position,
    now: UnixMs,
) -> Result<TransferAnswer> {
    let connection = transaction.connection;
    let session = match leaves_by(connection, name)? {
        Some(of) if of == token => session_of(connection, name)?,
        _ => None,
    };
    let Some((session, row)) = session else { return Ok(TransferAnswer::NotHere) };
    let mut part = SessionPart { now, ..SessionPart::default() };
    match from {
        Position::Start => {
            let Some(StoredSession { row: stored, channels, .. }) = scan::one(connection, transaction.index, name)?
            else {
                return Ok(TransferAnswer::NotHere);
            };
            part.head = Some(Box::new(Head { row: stored, channels, received: load::received(connection, row)? }));
            read_guards(connection, row, "", &mut part)?;
        }
        Position::Guards(behind) => read_guards(connection, row, behind, &mut part)?,
        Position::Messages(offset) => {
            // What lies behind the one before.
            let after = offset.0.checked_sub(1).map(Offset);
            match load::complete(connection, transaction.index, (session, after, PART_MESSAGES_MAX))? {
                Completion::Loaded(page) => {
                    let last = page.messages.last().map(|message| message.offset);
                    part.next = last.filter(|_| page.more).map(|last| Position::Messages(last.next()));
                    part.messages = page.messages;
                }
                Completion::Refused(why) => return Ok(TransferAnswer::Refused(why)),
                _ => return Ok(TransferAnswer::Refused(StoreError::Broken)),
            }
        }
    }
    Ok(TransferAnswer::Part(Box::new(part)))
}

/// Those behind an id; then come the messages.
fn read_guards(connection: &Connection, row: SessionRowId, behind: &str, part: &mut SessionPart) -> Result<()> {
    let sql = "SELECT message_id, place, until FROM guards
         WHERE key = ?1 AND message_id > ?2 ORDER BY message_id LIMIT ?3";
    let read = |row: &Row| {
        let (offset, until) = (Offset(row.get::<_, i64>(1)? as u64), UnixMs(row.get::<_, i64>(2)? as u64));
        Ok(Guard { message_id: row.get(0)?, offset, until })
    };
    let mut statement = connection.prepare_cached(sql)?;
    let guards = statement.query_map(params![row, behind, PART_GUARDS_MAX as i64], read)?;
    part.guards = guards.collect::<Result<_>>()?;
    part.next = Some(match part.guards.last() {
        Some(last) if part.guards.len() == PART_GUARDS_MAX => Position::Guards(last.message_id.clone()),
        _ => Position::Messages(Offset(0)),
    });
    Ok(())
}

fn delete(transaction: &mut Transaction, name: &str, token: Token) -> Result<TransferAnswer> {
    match leaves_by(transaction.connection, name)? {
        Some(of) if of == token => {}
        // It was deleted before, and may have come back since.
        _ => return Ok(TransferAnswer::NotHere),
    }
    if let Some((session, row)) = session_of(transaction.connection, name)? {
        sessions::drop_session(transaction, session, row)?;
    }
    stay(transaction, name)?;
    Ok(TransferAnswer::Done)
}

fn thaw(transaction: &mut Transaction, name: &str, token: Token) -> Result<TransferAnswer> {
    match leaves_by(transaction.connection, name)? {
        Some(of) if of == token => stay(transaction, name)?,
        Some(_) => return Ok(TransferAnswer::NotHere),
        // A repeat; or it was never frozen.
        None if is_partial(transaction.connection, name)? => return Ok(TransferAnswer::NotHere),
        None => {}
    }
    here(transaction, name)
}

/// By which transfer the session of this name leaves.
fn leaves_by(connection: &Connection, name: &str) -> Result<Option<Token>> {
    let sql = "SELECT token FROM leaving WHERE name = ?1";
    let read = |row: &Row| row.get::<_, i64>(0).map(|token| Token(token as u64));
    connection.prepare_cached(sql)?.query_row([name], read).optional()
}

fn stay(transaction: &mut Transaction, name: &str) -> Result<()> {
    if let Some((session, _)) = session_of(transaction.connection, name)? {
        transaction.index.thaw(session);
    }
    transaction.connection.prepare_cached("DELETE FROM leaving WHERE name = ?1")?.execute([name]).map(drop)
}

// ---- the disk that a session comes to ----

fn write(
    transaction: &mut Transaction,
    (name, token): (&Arc<str>, Token),
    part: &SessionPart,
    now: UnixMs,
    bytes_max: u64,
) -> Result<TransferAnswer> {
    let state = state_of(transaction.connection, token)?;
    match (state, &part.head) {
        (Some(State::Never), _) => return Ok(TransferAnswer::Refused(StoreError::Fenced)),
        (Some(State::Arrived), _) if part.next.is_none() => return here(transaction, name),
        (Some(State::Arrived), _) => return Ok(TransferAnswer::Done),
        (None, None) => return Ok(TransferAnswer::NotHere),
        (None, Some(_)) => {
            if let Some(other) = partial_of(transaction.connection, name)? {
                give_up(transaction, other)?;
            }
            if session_of(transaction.connection, name)?.is_some() {
                return Ok(TransferAnswer::Refused(StoreError::NameTaken));
            }
            set_state(transaction.connection, name, token, State::Partial)?;
        }
        (Some(State::Partial), _) => {}
    }
    if let Some(head) = &part.head {
        let row = match sessions::put(transaction, &head.row)? {
            Completion::Done => transaction.index.session_row(head.row.session),
            _ => None,
        };
        // Another session has its id or its name: the transaction goes on, without this one.
        let Some(row) = row else {
            give_up(transaction, token)?;
            return Ok(TransferAnswer::Refused(StoreError::NameTaken));
        };
        for channel in &head.channels {
            sessions::join(transaction, row, channel)?;
        }
        for received in &head.received {
            sessions::put_received(transaction, row, received)?;
        }
    }
    let Some((session, row)) = session_of(transaction.connection, name)? else { return Ok(TransferAnswer::NotHere) };
    for guard in part.guards.iter().filter(|guard| guard.until > now) {
        claims::put_guard(transaction, row, guard)?;
    }
    for message in &part.messages {
        if message.session != session || !messages::put_arrived(transaction, row, message, bytes_max)? {
            give_up(transaction, token)?;
            return Ok(TransferAnswer::Refused(StoreError::StoreFull));
        }
    }
    if part.next.is_some() {
        return Ok(TransferAnswer::Done);
    }
    set_state(transaction.connection, name, token, State::Arrived)?;
    here(transaction, name)
}

fn here(transaction: &Transaction, name: &str) -> Result<TransferAnswer> {
    let session = scan::one(transaction.connection, transaction.index, name)?;
    Ok(session.map_or(TransferAnswer::NotHere, |session| TransferAnswer::Here(Box::new(session))))
}

fn settle(transaction: &mut Transaction, token: Token) -> Result<Outcome> {
    match state_of(transaction.connection, token)? {
        Some(State::Arrived) => return Ok(Outcome::Arrived),
        Some(State::Never) => return Ok(Outcome::Never),
        Some(State::Partial) => {}
        None if token.owner().is_some_and(|owner| lived(transaction.connection, owner).unwrap_or(false)) => {
            set_state(transaction.connection, "", token, State::Never)?;
            return Ok(Outcome::Never);
        }
        None => return Ok(Outcome::Foreign),
    }
    give_up(transaction, token)?;
    Ok(Outcome::Never)
}

/// What came of the session is removed, and nothing more of this transfer is taken.
fn give_up(transaction: &mut Transaction, token: Token) -> Result<()> {
    let sql = "SELECT name FROM arriving WHERE token = ?1 AND state = 0";
    let read = |row: &Row| row.get::<_, String>(0);
    let name = transaction.connection.prepare_cached(sql)?.query_row([key(token)], read).optional()?;
    let Some(name) = name else { return Ok(()) };
    if let Some((session, row)) = session_of(transaction.connection, &name)? {
        sessions::drop_session(transaction, session, row)?;
        claims::remove_guards(transaction, row)?;
    }
    set_state(transaction.connection, "", token, State::Never)
}

fn lived(connection: &Connection, node: Generation) -> Result<bool> {
    let sql = "SELECT 1 FROM lives WHERE generation = ?1";
    connection.prepare_cached(sql)?.exists([node.0])
}

/// The life of a node is over, or the node does not come back.
fn part(connection: &Connection, life: Generation) -> Result<()> {
    connection.prepare_cached("DELETE FROM met WHERE generation = ?1")?.execute([life.0]).map(drop)
}

// ---- a start ----

/// This node, and those that it has met.
pub struct Nodes {
    pub disk: Option<DiskId>,
    pub lives: Vec<Generation>,
    pub met: Vec<MetNode>,
}

pub fn nodes(connection: &Connection) -> Result<Nodes> {
    let disk = connection.query_row("SELECT id FROM disk", [], |row| row.get(0).map(DiskId)).optional()?;
    let mut lives = connection.prepare("SELECT generation FROM lives ORDER BY nth")?;
    let lives = lives.query_map([], |row| row.get(0).map(Generation))?.collect::<Result<_>>()?;
    let sql = "SELECT generation, disk FROM met WHERE generation NOT IN (SELECT generation FROM lives)";
    let read = |row: &Row| {
        let disk: Option<u32> = row.get(1)?;
        Ok(MetNode { node: Generation(row.get(0)?), disk: disk.map(DiskId) })
    };
    let met = connection.prepare(sql)?.query_map([], read)?.collect::<Result<_>>()?;
    Ok(Nodes { disk, lives, met })
}

/// Notes that the file is this life's, removes what came in part, and takes the sessions that leave out of those that
/// are this node's.
pub fn on_open(
    database: &mut Database,
    own: Option<Generation>,
    sessions: Vec<StoredSession>,
) -> Result<(Vec<StoredSession>, Vec<Leaving>)> {
    let connection = database.connection();
    let partial: Vec<Token> = tokens(connection, "SELECT token, name FROM arriving WHERE state = 0")?
        .into_iter()
        .map(|(token, _)| token)
        .collect();
    let leaving = tokens(connection, "SELECT token, name FROM leaving")?;
    if partial.is_empty() && leaving.is_empty() && own.is_none() {
        return Ok((sessions, Vec::new()));
    }
    let is_partial = |session: &StoredSession| partial_of(connection, &session.row.name).map(|token| token.is_some());
    let (mut own_sessions, mut left) = (Vec::with_capacity(sessions.len()), Vec::new());
    for session in sessions {
        let token = leaving.iter().find(|(_, name)| **name == *session.row.name).map(|(token, _)| *token);
        match token {
            Some(token) => left.push((session, token)),
            None if !partial.is_empty() && is_partial(&session)? => {}
            None => own_sessions.push(session),
        }
    }
    database.write(|transaction| {
        left.iter().for_each(|(session, _)| transaction.index.freeze(session.row.session));
        for token in &partial {
            give_up(transaction, *token)?;
        }
        if let Some(own) = own {
            note_life(transaction.connection, own)?;
            note_disk(transaction.connection)?;
            // For `read_guards`; a node that is alone does without.
            let sql = "CREATE INDEX IF NOT EXISTS guards_session ON guards (key, message_id)";
            transaction.connection.execute_batch(sql)?;
        }
        Ok(())
    })?;
    Ok((own_sessions, left))
}

fn note_life(connection: &Connection, own: Generation) -> Result<()> {
    connection.prepare_cached("INSERT INTO lives (generation) VALUES (?1)")?.execute([own.0])?;
    let sql = "DELETE FROM lives WHERE nth <= (SELECT max(nth) FROM lives) - ?1";
    connection.prepare_cached(sql)?.execute([LIVES_MAX]).map(drop)
}

/// Once: the lives themselves are forgotten after many.
fn note_disk(connection: &Connection) -> Result<()> {
    let sql = "INSERT OR IGNORE INTO disk (one, id) SELECT 1, generation FROM lives ORDER BY nth LIMIT 1";
    connection.prepare_cached(sql)?.execute([]).map(drop)
}

fn tokens(connection: &Connection, sql: &str) -> Result<Vec<(Token, String)>> {
    let read = |row: &Row| Ok((Token(row.get::<_, i64>(0)? as u64), row.get(1)?));
    connection.prepare_cached(sql)?.query_map([], read)?.collect()
}

const PART_GUARDS_MAX: usize = 4_096;
/// A part ends earlier where its messages are large.
const PART_MESSAGES_MAX: usize = 1_024;
/// Lives of this node that others may still ask about.
const LIVES_MAX: i64 = 1_000;
