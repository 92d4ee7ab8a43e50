//! The connection, and the ledger beside it: steps, loads and claims in SQL.

use super::super::{ClaimOutcome, Request, Response, crash};
use super::ledger::{Ledger, Slot};
use super::schema;
use crate::shard::Message;
use crate::shard::command::{
    Claim, Completion, Mutation, Offset, Operation, Page, Received, SessionId, SessionRow, StoreError, StoredMessage,
    UnixMs,
};
use crate::wire::packet::{MessageId, QoS};
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, Error, ErrorCode, OptionalExtension, Result, Row, ffi, params};
use sha1::{Digest, Sha1};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

pub struct Book {
    pub conn: Connection,
    pub ledger: Ledger,
    /// Pages in the log since its last restart.
    wal_pages: Arc<AtomicU32>,
    scratch: Vec<u8>,
}

/// What a batch may do.
#[derive(Clone, Copy)]
pub enum Allowed {
    All {
        bytes_max: u64,
    },
    /// Only what makes room; the rest is refused.
    Freeing {
        otherwise: StoreError,
    },
}

/// It leaves less than there was.
pub fn frees(step: &Mutation) -> bool {
    matches!(
        step,
        Mutation::LeaveChannel { .. }
            | Mutation::ReleaseMessage { .. }
            | Mutation::RemoveMessage { .. }
            | Mutation::RemoveReceived { .. }
            | Mutation::DropSession { .. }
    )
}

impl Book {
    /// The ledger is what the file holds.
    pub fn new(mut conn: Connection, ledger: Ledger) -> Result<Book> {
        let wal_pages = Arc::new(AtomicU32::new(0));
        let counter = wal_pages.clone();
        // In place of SQLite's own checkpoints, which would keep the answers of that commit waiting.
        conn.wal_hook(Some(move |_: &mut _, pages| {
            counter.store(pages as u32, Ordering::Relaxed);
            Ok(())
        }))?;
        Ok(Book { conn, ledger, wal_pages, scratch: Vec::new() })
    }

    /// One transaction: all of `work`, on disk when this returns, or nothing of it.
    pub fn write<T>(&mut self, work: impl FnOnce(&mut Book) -> Result<T>) -> Result<T> {
        self.run("BEGIN")?;
        self.ledger.begin();
        let done = work(self).and_then(|done| self.run("COMMIT").map(|()| done));
        match done {
            Ok(_) => self.ledger.commit(),
            Err(_) => {
                self.ledger.roll_back();
                // Some errors have rolled back already.
                if !self.conn.is_autocommit() {
                    self.run("ROLLBACK")?;
                }
            }
        }
        done
    }

    fn run(&self, sql: &str) -> Result<()> {
        self.conn.prepare_cached(sql)?.execute([]).map(drop)
    }

    // Requests

    /// One answer per request.
    pub fn apply(&mut self, requests: &[Request], now: UnixMs, allowed: Allowed) -> Result<Vec<Response>> {
        requests.iter().map(|request| self.request(request, now, allowed)).collect()
    }

    fn request(&mut self, request: &Request, now: UnixMs, allowed: Allowed) -> Result<Response> {
        Ok(match (request, allowed) {
            (Request::Shard { shard, command }, _) => {
                let completion = match (&command.operation, allowed) {
                    (Operation::Load { session, after, most }, _) => {
                        Completion::Loaded(self.load(*session, *after, *most, now)?)
                    }
                    (Operation::Mutate(step), Allowed::Freeing { otherwise }) if !frees(step) => {
                        Completion::Refused(otherwise)
                    }
                    (Operation::Mutate(step), Allowed::Freeing { .. }) => self.step(step, now, u64::MAX)?,
                    (Operation::Mutate(step), Allowed::All { bytes_max }) => self.step(step, now, bytes_max)?,
                };
                Response::Shard { shard: *shard, number: command.number, completion }
            }
            (Request::Claim { id, .. }, Allowed::Freeing { otherwise }) => {
                Response::Claim { id: *id, outcome: ClaimOutcome::Refused(otherwise) }
            }
            (Request::Claim { id, claim }, Allowed::All { .. }) => {
                Response::Claim { id: *id, outcome: self.claim(claim, now)? }
            }
            (Request::Settle { .. }, Allowed::Freeing { .. }) => Response::Settled,
            (Request::Settle { message_id, answer }, Allowed::All { .. }) => {
                self.settle(message_id, answer)?;
                Response::Settled
            }
        })
    }

    fn step(&mut self, step: &Mutation, now: UnixMs, bytes_max: u64) -> Result<Completion> {
        let session = session_of(step);
        if let Mutation::PutSession(row) = step {
            return self.put(row);
        }
        let Some(key) = self.ledger.key(session) else {
            // Dropped, or its `Put` was refused: nothing can be promised of it, and nothing has to be taken away.
            return Ok(if frees(step) { Completion::Done } else { Completion::Refused(StoreError::Fenced) });
        };
        match step {
            Mutation::PutSession(_) => {}
            Mutation::JoinChannel { channel, .. } => self.join(key, channel)?,
            Mutation::LeaveChannel { channel, .. } => self.leave(key, channel)?,
            Mutation::PutMessage(kept) => return self.keep(key, kept, now, bytes_max),
            Mutation::ReleaseMessage { offset, .. } => self.release(session, *offset)?,
            Mutation::RemoveMessage { offset, .. } => self.remove(session, *offset)?,
            Mutation::PutReceived { received, .. } => self.receive(key, received)?,
            Mutation::RemoveReceived { id, .. } => self.forget(key, *id)?,
            Mutation::DropSession { .. } => self.drop_session(session, key)?,
        }
        Ok(Completion::Done)
    }

    // Sessions

    fn put(&mut self, row: &SessionRow) -> Result<Completion> {
        let known = self.ledger.key(row.session);
        let key = known.unwrap_or(self.ledger.next_key());
        let sql = match known {
            Some(_) => {
                "UPDATE sessions SET session = ?2, name = ?3, expiry_s = ?4, ends = ?5, cookie = ?6, reserved = ?7,
                     floor = ?8, run = ?9, last = ?10, past_half = ?11 WHERE key = ?1"
            }
            None => {
                "INSERT INTO sessions (key, session, name, expiry_s, ends, cookie, reserved, floor, run, last,
                     past_half) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
            }
        };
        let put = self.conn.prepare_cached(sql)?.execute(params![
            key,
            &row.session.0.to_be_bytes()[..],
            &*row.name,
            whole(row.expiry_s),
            row.ends.map(|ends| whole(ends.0)),
            row.cookie.as_deref(),
            whole(row.downlink.reserved.0),
            whole(row.downlink.floor.0),
            row.uplink.run,
            row.uplink.last,
            row.uplink.past_half,
        ]);
        match put {
            // The statement alone is undone, the transaction goes on.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                return Ok(Completion::Refused(StoreError::NameTaken));
            }
            put => put?,
        };
        if known.is_none() {
            self.ledger.add_session(row.session);
        }
        Ok(Completion::Done)
    }

    fn join(&self, key: i64, channel: &str) -> Result<()> {
        let sql = "INSERT INTO channels (key, channel) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
        self.conn.prepare_cached(sql)?.execute(params![key, channel]).map(drop)
    }

    fn leave(&self, key: i64, channel: &str) -> Result<()> {
        let sql = "DELETE FROM channels WHERE key = ?1 AND channel = ?2";
        self.conn.prepare_cached(sql)?.execute(params![key, channel]).map(drop)
    }

    /// The guards of its claims stay until their time; its key is not used again.
    fn drop_session(&mut self, session: SessionId, key: i64) -> Result<()> {
        for row in self.ledger.drop_session(session) {
            self.delete(row)?;
        }
        for sql in [
            "DELETE FROM channels WHERE key = ?1",
            "DELETE FROM received WHERE key = ?1",
            "DELETE FROM sessions WHERE key = ?1",
        ] {
            self.conn.prepare_cached(sql)?.execute([key])?;
        }
        Ok(())
    }

    // Messages

    fn keep(&mut self, key: i64, kept: &StoredMessage, now: UnixMs, bytes_max: u64) -> Result<Completion> {
        let (session, place) = (kept.session, kept.offset.0);
        if let Some(claim) = &kept.claim
            && let Some((guarded, until)) = self.guard(key, &claim.message_id)?
            && until > whole(now.0)
        {
            // Its own guard: the same step again, and the message may be gone already.
            return Ok(if guarded == whole(place) { Completion::Done } else { Completion::Duplicate });
        }
        if self.ledger.slot(session, place).is_none() {
            // What is only to be released holds nothing, and does not wait.
            let bytes = if kept.released { 0 } else { kept.message.len() as u32 };
            if !kept.released && !self.fits(bytes, bytes_max) {
                return Ok(Completion::Refused(StoreError::StoreFull));
            }
            self.insert(key, kept, bytes)?;
            self.ledger.keep(session, place, bytes);
        }
        if let Some(claim) = &kept.claim {
            let sql = "INSERT OR REPLACE INTO guards (message_id, key, until, place) VALUES (?1, ?2, ?3, ?4)";
            let until = whole(claim.until.0);
            self.conn.prepare_cached(sql)?.execute(params![&*claim.message_id, key, until, whole(place)])?;
        }
        Ok(Completion::Done)
    }

    fn insert(&self, key: i64, kept: &StoredMessage, bytes: u32) -> Result<()> {
        let sql = "INSERT INTO messages (row, key, place, flags, type, stored, expires, due, bytes, sum, claim,
             claim_until, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
        let (message_type, body) = if kept.released { (0, &[][..]) } else { kept.message.parts() };
        // The client may hold the id of a QoS 2 message that was sent, and waits for its REL: that does not expire.
        let held_by_client = kept.released || kept.sent && kept.message.qos == QoS::ExactlyOnce;
        let place = whole(kept.offset.0);
        self.conn.prepare_cached(sql)?.execute(params![
            self.ledger.next_row(),
            key,
            place,
            flags(kept),
            message_type,
            whole(kept.stored.0),
            whole(kept.expires.0),
            if held_by_client { NEVER } else { whole(kept.expires.0) },
            bytes,
            sum(key, place, message_type, body),
            kept.claim.as_ref().map(|claim| &*claim.message_id),
            kept.claim.as_ref().map(|claim| whole(claim.until.0)),
            body,
        ])?;
        Ok(())
    }

    fn fits(&self, bytes: u32, bytes_max: u64) -> bool {
        let held = self.ledger.usage();
        held.bytes + (held.messages + 1) * ROW_BYTES + u64::from(bytes) <= bytes_max
    }

    /// The place of the message that was kept under that id, and until when it is remembered.
    fn guard(&self, key: i64, message_id: &str) -> Result<Option<(i64, i64)>> {
        let sql = "SELECT place, until FROM guards WHERE message_id = ?1 AND key = ?2";
        let found = |row: &Row| Ok((row.get(0)?, row.get(1)?));
        self.conn.prepare_cached(sql)?.query_row(params![message_id, key], found).optional()
    }

    fn release(&mut self, session: SessionId, offset: Offset) -> Result<()> {
        let Some(Slot { row, .. }) = self.ledger.slot(session, offset.0) else { return Ok(()) };
        let sql = "UPDATE messages SET flags = flags | ?2, type = 0, body = x'', bytes = 0, due = ?3 WHERE row = ?1";
        self.conn.prepare_cached(sql)?.execute(params![row, RELEASED, NEVER])?;
        self.ledger.release(session, offset.0);
        Ok(())
    }

    fn remove(&mut self, session: SessionId, offset: Offset) -> Result<()> {
        let Some(Slot { row, .. }) = self.ledger.slot(session, offset.0) else { return Ok(()) };
        self.delete(row)?;
        self.ledger.remove(session, offset.0);
        Ok(())
    }

    pub fn delete(&self, row: i64) -> Result<()> {
        self.conn.prepare_cached("DELETE FROM messages WHERE row = ?1")?.execute([row]).map(drop)
    }

    // What came from the client

    fn receive(&self, key: i64, received: &Received) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO received (key, id, sequence, answer) VALUES (?1, ?2, ?3, ?4)";
        let Received { id, sequence, answer } = received;
        self.conn.prepare_cached(sql)?.execute(params![key, id.0, *sequence as i64, &**answer]).map(drop)
    }

    fn forget(&self, key: i64, id: MessageId) -> Result<()> {
        let sql = "DELETE FROM received WHERE key = ?1 AND id = ?2";
        self.conn.prepare_cached(sql)?.execute(params![key, id.0]).map(drop)
    }

    // Calls

    fn claim(&self, claim: &Claim, now: UnixMs) -> Result<ClaimOutcome> {
        let sql = "SELECT answer FROM claims WHERE message_id = ?1 AND until > ?2";
        let found = |row: &Row| row.get::<_, Option<Vec<u8>>>(0);
        let known = self.conn.prepare_cached(sql)?.query_row(params![&*claim.message_id, whole(now.0)], found);
        Ok(match known.optional()? {
            Some(Some(answer)) => ClaimOutcome::Settled(answer),
            // Until when it is remembered stays: the sessions' guards of the first try end then.
            Some(None) => ClaimOutcome::Unsettled,
            None => {
                let sql = "INSERT OR REPLACE INTO claims (message_id, until, answer) VALUES (?1, ?2, NULL)";
                self.conn.prepare_cached(sql)?.execute(params![&*claim.message_id, whole(claim.until.0)])?;
                ClaimOutcome::New
            }
        })
    }

    fn settle(&self, message_id: &str, answer: &[u8]) -> Result<()> {
        let sql = "UPDATE claims SET answer = ?2 WHERE message_id = ?1";
        self.conn.prepare_cached(sql)?.execute(params![message_id, answer]).map(drop)
    }

    // Reading

    pub fn load(&mut self, session: SessionId, after: Option<Offset>, most: usize, now: UnixMs) -> Result<Page> {
        let mut page = Page::default();
        let Some(key) = self.ledger.key(session) else { return Ok(page) };
        if after.is_none() {
            page.received = self.received(key)?;
        }
        let sql = "SELECT place, flags, type, stored, expires, claim, claim_until, body, sum, due, key
             FROM messages WHERE row = ?1";
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut bytes = 0;
        for slot in self.ledger.slots_from(session, after.map_or(0, |after| after.0.saturating_add(1))) {
            let mut rows = statement.query([slot.row])?;
            let row = rows.next()?.ok_or_else(|| damaged(session, slot.place))?;
            if row.get::<_, i64>(0)? as u64 != slot.place || row.get::<_, i64>(10)? != key {
                return Err(damaged(session, slot.place));
            }
            if row.get::<_, i64>(9)? <= whole(now.0) {
                continue;
            }
            if page.messages.len() == most || bytes >= PAGE_BYTES_MAX {
                page.more = true;
                break;
            }
            let kept = kept(row, session, key, &mut self.scratch)?;
            bytes += kept.message.len();
            page.messages.push(kept);
        }
        Ok(page)
    }

    fn received(&self, key: i64) -> Result<Vec<Received>> {
        let mut statement = self.conn.prepare_cached("SELECT id, sequence, answer FROM received WHERE key = ?1")?;
        let read = |row: &Row| {
            let answer: Arc<[u8]> = row.get_ref(2)?.as_blob()?.into();
            Ok(Received { id: MessageId(row.get(0)?), sequence: row.get::<_, i64>(1)? as u64, answer })
        };
        let mut received: Vec<Received> = statement.query_map([key], read)?.collect::<Result<_>>()?;
        received.sort_unstable_by_key(|received| received.sequence);
        Ok(received)
    }

    // Housekeeping

    pub fn wal_pages(&self) -> u32 {
        self.wal_pages.load(Ordering::Relaxed)
    }

    /// Nobody else reads the file, so that all of the log goes into it and the next commit begins a new one.
    pub fn checkpoint(&self) -> Result<()> {
        crash::point("checkpoint.before");
        self.conn.wal_checkpoint_v2(None::<&str>, CheckpointMode::PASSIVE)?;
        self.wal_pages.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Gives pages back to the disk when a good part of the file is unused.
    pub fn shrink_when_it_pays(&self, pages: u32) -> Result<()> {
        let count = |name| self.conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let (free, all) = (count("freelist_count")?, count("page_count")?);
        if free < FREE_PAGES_MIN || free < all / 4 {
            return Ok(());
        }
        self.shrink(pages)
    }

    /// Gives so many pages back, as far as they are unused.
    pub fn shrink(&self, pages: u32) -> Result<()> {
        // A row per page that is given back.
        let mut statement = self.conn.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        drop(rows);
        // The file gets shorter then.
        self.checkpoint()
    }

    /// Writes what is there already, as a try.
    pub fn touch(&self) -> Result<()> {
        self.conn.pragma_update(None, "user_version", schema::FORMAT)
    }
}

pub fn session_of(step: &Mutation) -> SessionId {
    match step {
        Mutation::PutSession(row) => row.session,
        Mutation::PutMessage(kept) => kept.session,
        Mutation::JoinChannel { session, .. }
        | Mutation::LeaveChannel { session, .. }
        | Mutation::ReleaseMessage { session, .. }
        | Mutation::RemoveMessage { session, .. }
        | Mutation::PutReceived { session, .. }
        | Mutation::RemoveReceived { session, .. }
        | Mutation::DropSession { session } => *session,
    }
}

fn kept(row: &Row, session: SessionId, key: i64, scratch: &mut Vec<u8>) -> Result<StoredMessage> {
    let (place, flags, message_type): (i64, i64, u16) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let body = row.get_ref(7)?.as_blob()?;
    if flags & RELEASED == 0 && row.get::<_, i64>(8)? != sum(key, place, message_type, body) {
        return Err(damaged(session, place as u64));
    }
    let qos = QoS::from_u8((flags & QOS) as u8).ok_or_else(|| damaged(session, place as u64))?;
    let claim: Option<Arc<str>> = row.get(5)?;
    let until: Option<i64> = row.get(6)?;
    Ok(StoredMessage {
        session,
        offset: Offset(place as u64),
        message: Message::encode(qos, message_type, body, scratch),
        sent: flags & SENT != 0,
        released: flags & RELEASED != 0,
        stored: UnixMs(row.get::<_, i64>(3)? as u64),
        expires: UnixMs(row.get::<_, i64>(4)? as u64),
        claim: claim.zip(until).map(|(message_id, until)| Claim { message_id, until: UnixMs(until as u64) }),
    })
}

/// SQLite would not notice.
fn damaged(session: SessionId, place: u64) -> Error {
    let what = format!("message {place} of session {:032x} is not what was stored", session.0);
    Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CORRUPT), Some(what))
}

/// Half of a SHA-1, fast and good enough against chance.
fn sum(key: i64, place: i64, message_type: u16, body: &[u8]) -> i64 {
    let mut sum = Sha1::new();
    sum.update(key.to_le_bytes());
    sum.update(place.to_le_bytes());
    sum.update(message_type.to_le_bytes());
    sum.update(body);
    i64::from_le_bytes(sum.finalize()[..8].try_into().expect("eight of twenty bytes"))
}

fn flags(kept: &StoredMessage) -> i64 {
    i64::from(kept.message.qos as u8) | if kept.sent { SENT } else { 0 } | if kept.released { RELEASED } else { 0 }
}

/// SQLite's numbers have a sign. Orders and times never come near it; what does is held there.
fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

const QOS: i64 = 3;
const SENT: i64 = 4;
const RELEASED: i64 = 8;
const NEVER: i64 = i64::MAX;
/// What a message costs on disk beside its bytes: its row, its place in the index.
const ROW_BYTES: u64 = 64;
/// Of one page, passed by its last message at most.
const PAGE_BYTES_MAX: usize = 1 << 20;
/// 16 MiB.
const FREE_PAGES_MIN: i64 = 4096;
