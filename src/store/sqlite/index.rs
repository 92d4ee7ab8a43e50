//! What is in memory beside the file: for each session its row and the rows of its messages, and how much is stored.
//! It follows the transaction: after a rollback it is as it was before.
//!
//! Messages lie in the file in the order in which they were stored, whichever session they are for, so that a batch
//! for many sessions writes a few pages at the file's end. An index of (session, offset) in the file would undo that:
//! each message would touch a page of its own. So the index is here: 20 bytes per message, built at each start.

use super::rows::{MessageRowId, SessionRowId};
#[cfg(test)]
use super::tables::claims::CALL_BYTES;
use crate::shard::command::{Offset, SessionId};
use crate::store::health::Usage;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::VecDeque;

/// Where a message lies. Packed: there may be millions.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, packed(4))]
pub struct Entry {
    pub offset: Offset,
    pub row: MessageRowId,
    /// The bytes that count for it; 0 when the message was released.
    pub bytes: u32,
}

#[derive(Default)]
pub struct Index {
    sessions: FxHashMap<SessionId, Entries>,
    /// Those of them that leave for another node's disk: nothing is written to them.
    leaving: FxHashSet<SessionId>,
    totals: Totals,
    /// The totals when the open transaction began.
    totals_before: Totals,
    /// The changes of the open transaction, to be undone in reverse.
    undo: Vec<Undo>,
}

#[derive(Clone, Copy, Default)]
struct Totals {
    /// Neither row id is used a second time as long as the process lives.
    last_session_row: SessionRowId,
    last_message_row: MessageRowId,
    usage: Usage,
    /// Of the claims of calls and of their guards, rows and all.
    call_bytes: u64,
}

/// What a message, a claim or a guard costs on disk beside its bytes: its row and its entry in an index.
pub const ROW_BYTES: u64 = 64;

/// A session's row, and its messages by ascending offset.
struct Entries {
    row: SessionRowId,
    messages: VecDeque<Entry>,
}

enum Undo {
    SessionAdded(SessionId),
    SessionDropped(SessionId, Entries),
    MessageAdded(SessionId, Offset),
    MessageRemoved(SessionId, Entry),
    MessageReleased(SessionId, Entry),
    Frozen(SessionId),
    Thawed(SessionId),
}

impl Index {
    // At the start, while the file is read

    /// A session and its messages, in any order.
    pub fn restore_session(&mut self, session: SessionId, row: SessionRowId, mut messages: Vec<Entry>) {
        for entry in &messages {
            self.totals.usage.messages += u64::from(entry.bytes > 0);
            self.totals.usage.bytes += u64::from(entry.bytes);
        }
        if !messages.is_sorted_by_key(|entry| entry.offset) {
            messages.sort_unstable_by_key(|entry| entry.offset);
        }
        messages.shrink_to_fit();
        self.sessions.insert(session, Entries { row, messages: messages.into() });
    }

    /// The highest row ids that were ever used.
    pub fn restore_last_rows(&mut self, session: SessionRowId, message: MessageRowId) {
        (self.totals.last_session_row, self.totals.last_message_row) = (session, message);
    }

    pub fn restore_call_bytes(&mut self, bytes: u64) {
        self.totals.call_bytes = bytes;
    }

    // Transactions

    pub fn begin(&mut self) {
        self.totals_before = self.totals;
    }

    pub fn commit(&mut self) {
        self.undo.clear();
    }

    pub fn roll_back(&mut self) {
        self.totals = self.totals_before;
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::SessionAdded(session) => drop(self.sessions.remove(&session)),
                Undo::SessionDropped(session, entries) => drop(self.sessions.insert(session, entries)),
                Undo::MessageAdded(session, offset) => {
                    self.entries(session).and_then(|entries| entries.remove(offset));
                }
                Undo::Frozen(session) => drop(self.leaving.remove(&session)),
                Undo::Thawed(session) => drop(self.leaving.insert(session)),
                Undo::MessageRemoved(session, entry) | Undo::MessageReleased(session, entry) => {
                    if let Some(entries) = self.entries(session) {
                        entries.put(entry);
                    }
                }
            }
        }
    }

    // Reading

    pub fn usage(&self) -> Usage {
        self.totals.usage
    }

    /// So many bytes more, and the row they are in, are within `bytes_max`.
    pub fn fits(&self, bytes: u64, bytes_max: u64) -> bool {
        let Totals { usage, call_bytes, .. } = self.totals;
        usage.bytes + (usage.messages + 1) * ROW_BYTES + call_bytes + bytes <= bytes_max
    }

    pub fn session_row(&self, session: SessionId) -> Option<SessionRowId> {
        self.sessions.get(&session).map(|entries| entries.row)
    }

    /// It leaves for another node's disk.
    pub fn is_frozen(&self, session: SessionId) -> bool {
        // Mostly none leaves, and nothing is hashed.
        !self.leaving.is_empty() && self.leaving.contains(&session)
    }

    pub fn message(&self, session: SessionId, offset: Offset) -> Option<Entry> {
        let entries = self.sessions.get(&session)?;
        entries.find(offset).ok().map(|position| entries.messages[position])
    }

    /// The session's messages from that offset on.
    pub fn messages_from(&self, session: SessionId, offset: Offset) -> impl Iterator<Item = Entry> {
        let entries = self.sessions.get(&session);
        let messages = entries.map(|entries| {
            let first = entries.find(offset).unwrap_or_else(|position| position);
            entries.messages.range(first..)
        });
        messages.into_iter().flatten().copied()
    }

    // Writing, within a transaction

    /// The row of the next new session.
    pub fn next_session_row(&self) -> SessionRowId {
        SessionRowId(self.totals.last_session_row.0 + 1)
    }

    /// A new session, in the row that `next_session_row` gave.
    pub fn add_session(&mut self, session: SessionId) {
        let row = self.next_session_row();
        self.totals.last_session_row = row;
        self.sessions.insert(session, Entries { row, messages: VecDeque::new() });
        self.undo.push(Undo::SessionAdded(session));
    }

    /// Removes the session with its messages; returns their rows.
    pub fn drop_session(&mut self, session: SessionId) -> Vec<MessageRowId> {
        let Some(entries) = self.sessions.remove(&session) else { return Vec::new() };
        let rows = entries.messages.iter().map(|entry| entry.row).collect();
        entries.messages.iter().for_each(|entry| self.subtract(entry.bytes));
        self.undo.push(Undo::SessionDropped(session, entries));
        self.thaw(session);
        rows
    }

    pub fn freeze(&mut self, session: SessionId) {
        if self.leaving.insert(session) {
            self.undo.push(Undo::Frozen(session));
        }
    }

    pub fn thaw(&mut self, session: SessionId) {
        if self.leaving.remove(&session) {
            self.undo.push(Undo::Thawed(session));
        }
    }

    /// The row of the next new message.
    pub fn next_message_row(&self) -> MessageRowId {
        MessageRowId(self.totals.last_message_row.0 + 1)
    }

    /// A new message, in the row that `next_message_row` gave.
    pub fn add_message(&mut self, session: SessionId, offset: Offset, bytes: u32) {
        let row = self.next_message_row();
        self.totals.last_message_row = row;
        let Some(entries) = self.entries(session) else { return debug_assert!(false, "the session is known") };
        entries.put(Entry { offset, row, bytes });
        self.totals.usage.messages += u64::from(bytes > 0);
        self.totals.usage.bytes += u64::from(bytes);
        self.undo.push(Undo::MessageAdded(session, offset));
    }

    pub fn remove_message(&mut self, session: SessionId, offset: Offset) {
        let Some(entry) = self.entries(session).and_then(|entries| entries.remove(offset)) else { return };
        self.subtract(entry.bytes);
        self.undo.push(Undo::MessageRemoved(session, entry));
    }

    /// The message stays and counts no longer.
    pub fn release_message(&mut self, session: SessionId, offset: Offset) {
        let Some(before) = self.message(session, offset) else { return };
        self.subtract(before.bytes);
        self.undo.push(Undo::MessageReleased(session, before));
        if let Some(entries) = self.entries(session) {
            entries.put(Entry { bytes: 0, ..before });
        }
    }

    /// A claim or a guard, or what is added to one.
    pub fn add_call_bytes(&mut self, bytes: u64) {
        self.totals.call_bytes += bytes;
    }

    pub fn subtract_call_bytes(&mut self, bytes: u64) {
        self.totals.call_bytes = self.totals.call_bytes.saturating_sub(bytes);
    }

    fn subtract(&mut self, bytes: u32) {
        self.totals.usage.messages -= u64::from(bytes > 0);
        self.totals.usage.bytes -= u64::from(bytes);
    }

    fn entries(&mut self, session: SessionId) -> Option<&mut Entries> {
        self.sessions.get_mut(&session)
    }

    /// Everything in the index is in the file, and the other way round. Reads all of it.
    #[cfg(test)]
    pub fn check_invariants(&self, connection: &rusqlite::Connection) -> rusqlite::Result<()> {
        let mut usage = Usage::default();
        let mut messages = 0;
        for (session, entries) in &self.sessions {
            let id = &session.0.to_be_bytes()[..];
            let row: SessionRowId =
                connection.query_row("SELECT key FROM sessions WHERE session = ?1", [id], |row| row.get(0))?;
            assert_eq!(row, entries.row);
            assert!(entries.messages.iter().is_sorted_by(|one, next| { one.offset } < { next.offset }));
            for entry in &entries.messages {
                let sql = "SELECT key, place, bytes FROM messages WHERE row = ?1";
                let found: (SessionRowId, Offset, u32) = connection.query_row(sql, [entry.row], |row| {
                    Ok((row.get(0)?, Offset(row.get::<_, i64>(1)? as u64), row.get(2)?))
                })?;
                assert_eq!(found, (row, entry.offset, entry.bytes));
                messages += 1;
                usage.messages += u64::from(found.2 > 0);
                usage.bytes += u64::from(found.2);
            }
        }
        let count = |table: &str| {
            connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0))
        };
        assert_eq!(usage, self.usage());
        let sql = "SELECT session FROM sessions WHERE name IN (SELECT name FROM leaving)";
        let mut leaving = connection.prepare(sql)?;
        let leaving = leaving.query_map([], |row| row.get(0).map(u128::from_be_bytes).map(SessionId))?;
        assert_eq!(leaving.collect::<rusqlite::Result<FxHashSet<_>>>()?, self.leaving);
        let call_bytes = connection.query_row(CALL_BYTES, [], |row| row.get::<_, i64>(0))? as u64;
        assert_eq!(self.totals.call_bytes, call_bytes);
        assert_eq!((messages, self.sessions.len() as i64), (count("messages")?, count("sessions")?));
        Ok(())
    }
}

impl Entries {
    /// The position of the message, or where it would stand.
    fn find(&self, offset: Offset) -> Result<usize, usize> {
        // New messages come at the end.
        match self.messages.back() {
            Some(last) if { last.offset } < offset => Err(self.messages.len()),
            _ => self.messages.binary_search_by_key(&offset, |entry| entry.offset),
        }
    }

    /// Replaces the entry of the same offset.
    fn put(&mut self, entry: Entry) {
        match self.find(entry.offset) {
            Ok(position) => self.messages[position] = entry,
            Err(position) => self.messages.insert(position, entry),
        }
    }

    fn remove(&mut self, offset: Offset) -> Option<Entry> {
        let entry = self.messages.remove(self.find(offset).ok()?);
        if self.messages.is_empty() {
            self.messages = VecDeque::new();
        }
        entry
    }
}
