//! What is kept in memory beside the file: for each session its key and where its messages lie, and how much is held.
//! It follows the transaction: rolled back, it is as it was.
//!
//! Messages lie in the file in the order in which they came, whoever they are for, so that a batch for many sessions
//! writes a few pages at its end. An index of (session, order) in the file would undo that: each message would touch a
//! page of its own. It is here instead: 20 bytes per message, made anew at each start.

use super::super::Usage;
use crate::shard::command::SessionId;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;

/// Where a message lies. Packed: there may be millions.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, packed(4))]
pub struct Slot {
    /// Its order.
    pub place: u64,
    pub row: i64,
    /// What it counts for; 0 when it is only to be released.
    pub bytes: u32,
}

#[derive(Default)]
pub struct Ledger {
    lines: FxHashMap<SessionId, Line>,
    marks: Marks,
    /// The marks as the open transaction found them, and what it has done since, to be taken back in reverse.
    before: Marks,
    undo: Vec<Undo>,
}

#[derive(Clone, Copy, Default)]
struct Marks {
    /// Neither is used a second time as long as the process lives.
    last_key: i64,
    last_row: i64,
    held: Usage,
}

/// A session's key, and its messages in their order.
pub struct Line {
    pub key: i64,
    slots: VecDeque<Slot>,
}

enum Undo {
    Added(SessionId),
    Dropped(SessionId, Line),
    StoredMessage(SessionId, u64),
    Removed(SessionId, Slot),
    Released(SessionId, Slot),
}

impl Ledger {
    // As the file is read

    /// A session and its messages, in any order. `last_key`, `last_row`: no higher ones were ever used.
    pub fn add(&mut self, session: SessionId, key: i64, mut slots: Vec<Slot>) {
        for slot in &slots {
            self.marks.held.messages += u64::from(slot.bytes > 0);
            self.marks.held.bytes += u64::from(slot.bytes);
        }
        if !slots.is_sorted_by_key(|slot| slot.place) {
            slots.sort_unstable_by_key(|slot| slot.place);
        }
        slots.shrink_to_fit();
        self.lines.insert(session, Line { key, slots: slots.into() });
    }

    pub fn set_last(&mut self, key: i64, row: i64) {
        (self.marks.last_key, self.marks.last_row) = (key, row);
    }

    // Transactions

    pub fn begin(&mut self) {
        self.before = self.marks;
    }

    pub fn commit(&mut self) {
        self.undo.clear();
    }

    pub fn roll_back(&mut self) {
        self.marks = self.before;
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::Added(session) => drop(self.lines.remove(&session)),
                Undo::Dropped(session, line) => drop(self.lines.insert(session, line)),
                Undo::StoredMessage(session, place) => drop(self.line(session).and_then(|line| line.remove(place))),
                Undo::Removed(session, slot) | Undo::Released(session, slot) => {
                    if let Some(line) = self.line(session) {
                        line.put(slot);
                    }
                }
            }
        }
    }

    // Reading

    pub fn usage(&self) -> Usage {
        self.marks.held
    }

    pub fn key(&self, session: SessionId) -> Option<i64> {
        self.lines.get(&session).map(|line| line.key)
    }

    pub fn slot(&self, session: SessionId, place: u64) -> Option<Slot> {
        let line = self.lines.get(&session)?;
        line.find(place).ok().map(|at| line.slots[at])
    }

    /// The session's messages from that place on.
    pub fn slots_from(&self, session: SessionId, place: u64) -> impl Iterator<Item = Slot> {
        let line = self.lines.get(&session);
        let slots = line.map(|line| line.slots.range(line.find(place).unwrap_or_else(|at| at)..));
        slots.into_iter().flatten().copied()
    }

    // Writing, within a transaction

    /// The key that the next session will have.
    pub fn next_key(&self) -> i64 {
        self.marks.last_key + 1
    }

    /// A new session, with the key that `next_key` gave.
    pub fn add_session(&mut self, session: SessionId) {
        self.marks.last_key += 1;
        self.lines.insert(session, Line { key: self.marks.last_key, slots: VecDeque::new() });
        self.undo.push(Undo::Added(session));
    }

    /// Its messages go with it; returns where they lie.
    pub fn drop_session(&mut self, session: SessionId) -> Vec<i64> {
        let Some(line) = self.lines.remove(&session) else { return Vec::new() };
        let rows = line.slots.iter().map(|slot| slot.row).collect();
        line.slots.iter().for_each(|slot| self.count_off(slot.bytes));
        self.undo.push(Undo::Dropped(session, line));
        rows
    }

    /// The row that the next message will have.
    pub fn next_row(&self) -> i64 {
        self.marks.last_row + 1
    }

    /// A new message, in the row that `next_row` gave.
    pub fn keep(&mut self, session: SessionId, place: u64, bytes: u32) {
        self.marks.last_row += 1;
        let slot = Slot { place, row: self.marks.last_row, bytes };
        let Some(line) = self.line(session) else { return debug_assert!(false, "the session is known") };
        line.put(slot);
        self.marks.held.messages += u64::from(bytes > 0);
        self.marks.held.bytes += u64::from(bytes);
        self.undo.push(Undo::StoredMessage(session, place));
    }

    pub fn remove(&mut self, session: SessionId, place: u64) {
        let Some(slot) = self.line(session).and_then(|line| line.remove(place)) else { return };
        self.count_off(slot.bytes);
        self.undo.push(Undo::Removed(session, slot));
    }

    /// It counts no longer, and stays.
    pub fn release(&mut self, session: SessionId, place: u64) {
        let Some(old) = self.slot(session, place) else { return };
        self.count_off(old.bytes);
        self.undo.push(Undo::Released(session, old));
        if let Some(line) = self.line(session) {
            line.put(Slot { bytes: 0, ..old });
        }
    }

    fn count_off(&mut self, bytes: u32) {
        self.marks.held.messages -= u64::from(bytes > 0);
        self.marks.held.bytes -= u64::from(bytes);
    }

    fn line(&mut self, session: SessionId) -> Option<&mut Line> {
        self.lines.get_mut(&session)
    }

    /// Everything in the ledger is in the file, and the other way round. Reads all of it.
    #[cfg(test)]
    pub fn check_invariants(&self, conn: &rusqlite::Connection) -> rusqlite::Result<()> {
        let mut held = Usage::default();
        let mut slots = 0;
        for (session, line) in &self.lines {
            let key: i64 =
                conn.query_row("SELECT key FROM sessions WHERE session = ?1", [&session.0.to_be_bytes()[..]], |row| {
                    row.get(0)
                })?;
            assert_eq!(key, line.key);
            assert!(line.slots.iter().is_sorted_by(|one, next| one.place < next.place));
            for slot in &line.slots {
                let found: (i64, u64, u32) =
                    conn.query_row("SELECT key, place, bytes FROM messages WHERE row = ?1", [slot.row], |row| {
                        Ok((row.get(0)?, row.get::<_, i64>(1)? as u64, row.get(2)?))
                    })?;
                assert_eq!(found, (key, slot.place, slot.bytes));
                slots += 1;
                held.messages += u64::from(found.2 > 0);
                held.bytes += u64::from(found.2);
            }
        }
        let count =
            |table: &str| conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0));
        assert_eq!(held, self.usage());
        assert_eq!((slots, self.lines.len() as i64), (count("messages")?, count("sessions")?));
        Ok(())
    }
}

impl Line {
    fn find(&self, place: u64) -> std::result::Result<usize, usize> {
        // New ones come at the end.
        match self.slots.back() {
            Some(last) if last.place < place => Err(self.slots.len()),
            _ => self.slots.binary_search_by_key(&place, |slot| slot.place),
        }
    }

    /// Replaces one of the same place.
    fn put(&mut self, slot: Slot) {
        match self.find(slot.place) {
            Ok(at) => self.slots[at] = slot,
            Err(at) => self.slots.insert(at, slot),
        }
    }

    fn remove(&mut self, place: u64) -> Option<Slot> {
        let slot = self.slots.remove(self.find(place).ok()?);
        if self.slots.is_empty() {
            self.slots = VecDeque::new();
        }
        slot
    }
}
