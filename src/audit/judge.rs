//! The verdict on a run, made of its ledger alone.
//!
//! Per direction and QoS, over all sessions:
//! - *lost*: acknowledged, and never delivered.
//! - *doubled*: delivered twice. To a client: QoS 2 handed to the application twice. To the business server, which
//!   recognises a repeat by its `Idempotency-Key`: forwarded twice under different keys, at QoS 1 as well as 2.
//! - *unexpected*: delivered, and never sent (or not to this session, or not at this QoS).
//! - *out of order*: of one stream (one session, direction and QoS), a *first* delivery behind that of a later message.
//!   A client sends with ascending ids, and all that it sends keeps that order. A caller makes one call after the
//!   other, and what was acknowledged before the next call keeps its place, stored or live. A call that broke may still
//!   be under way when the caller goes on, over another connection or another node: its message comes whenever it is
//!   accepted.
//! - *corrupted*: a body whose checksum is wrong, an answer that belongs to another message, a wrong cookie.
//! - *keys*: two messages under one key (the business server would drop the second, and it does here), or none.
//!
//! What was tried and never acknowledged may have been delivered or not. Memory: a few bits per message, and a key per
//! forwarded one.

use super::bits::Bits;
use super::ledger::{Entry, Fact, read_all};
use super::payload::{Direction, Stream};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::path::Path;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    pub tried: u64,
    pub acknowledged: u64,
    /// Different messages.
    pub delivered: u64,
    /// Deliveries beyond the first that the promise allows.
    pub repeated: u64,
    pub lost: u64,
    pub doubled: u64,
    pub unexpected: u64,
    pub out_of_order: u64,
    pub corrupted: u64,
    pub keys: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub rows: BTreeMap<(Direction, u8), Row>,
    /// The server had promised to store the session and began it anew.
    pub sessions_lost: u64,
}

#[derive(Debug, Default)]
struct Seen {
    tried: Bits,
    acknowledged: Bits,
    delivered: Bits,
    /// One more than the highest sequence that was delivered.
    end: u64,
    /// Whose first delivery came behind that of a later one.
    late: Bits,
    /// Of the first forward of each message; to the business server only.
    keys: Vec<u64>,
    row: Row,
}

/// Judges the files of a run.
pub fn judge(dir: &Path) -> io::Result<Verdict> {
    let mut streams: HashMap<Stream, Seen> = HashMap::new();
    let mut owners: HashMap<u64, u64> = HashMap::new();
    let mut verdict = Verdict::default();
    read_all(dir, |entry| {
        let seen = streams.entry(entry.stream).or_default();
        match entry.fact {
            Fact::SessionLost => verdict.sessions_lost += 1,
            Fact::Corrupted => seen.row.corrupted += 1,
            // A message that was never sent may carry any number; memory must not grow with it.
            _ if entry.sequence >= SEQUENCES_MAX => seen.row.unexpected += 1,
            Fact::Tried => drop(seen.tried.insert(entry.sequence)),
            Fact::Acknowledged => drop(seen.acknowledged.insert(entry.sequence)),
            Fact::Delivered if entry.stream.direction == Direction::Down => seen.deliver_down(&entry),
            Fact::Delivered => {
                let message = numbered(&entry);
                if entry.key == 0 || *owners.entry(entry.key).or_insert(message) != message {
                    seen.row.keys += 1;
                } else {
                    seen.deliver_up(&entry);
                }
            }
        }
    })?;
    for (stream, seen) in streams {
        verdict.rows.entry((stream.direction, stream.qos as u8)).or_default().add(&seen.finished(stream.direction));
    }
    Ok(verdict)
}

impl Seen {
    fn deliver_down(&mut self, entry: &Entry) {
        if self.delivered.insert(entry.sequence) {
            self.first(entry.sequence);
        } else if entry.stream.qos as u8 == 2 {
            self.row.doubled += 1;
        } else {
            self.row.repeated += 1;
        }
    }

    fn deliver_up(&mut self, entry: &Entry) {
        let position = entry.sequence as usize;
        if self.delivered.insert(entry.sequence) {
            self.first(entry.sequence);
            if self.keys.len() <= position {
                self.keys.resize(position + 1, 0);
            }
            self.keys[position] = entry.key;
        } else if self.keys[position] == entry.key {
            self.row.repeated += 1;
        } else {
            self.row.doubled += 1;
        }
    }

    fn first(&mut self, sequence: u64) {
        if sequence < self.end {
            self.late.insert(sequence);
        }
        self.end = self.end.max(sequence + 1);
    }

    fn finished(&self, direction: Direction) -> Row {
        let unordered = if direction == Direction::Down { self.late.without(&self.acknowledged) } else { 0 };
        Row {
            tried: self.tried.count(),
            acknowledged: self.acknowledged.count(),
            delivered: self.delivered.count(),
            lost: self.acknowledged.without(&self.delivered),
            out_of_order: self.late.count() - unordered,
            unexpected: self.row.unexpected + self.delivered.without(&self.tried),
            ..self.row
        }
    }
}

impl Row {
    fn add(&mut self, other: &Row) {
        self.tried += other.tried;
        self.acknowledged += other.acknowledged;
        self.delivered += other.delivered;
        self.repeated += other.repeated;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.unexpected += other.unexpected;
        self.out_of_order += other.out_of_order;
        self.corrupted += other.corrupted;
        self.keys += other.keys;
    }

    pub fn violations(&self) -> u64 {
        self.lost + self.doubled + self.unexpected + self.out_of_order + self.corrupted + self.keys
    }
}

impl Verdict {
    pub fn violations(&self) -> u64 {
        self.sessions_lost + self.rows.values().map(Row::violations).sum::<u64>()
    }

    /// All rows added up.
    pub fn total(&self) -> Row {
        let mut total = Row::default();
        self.rows.values().for_each(|row| total.add(row));
        total
    }

    pub fn to_json(&self) -> serde_json::Value {
        let row = |name: &str, row: &Row| {
            json!({
                "stream": name, "tried": row.tried, "acknowledged": row.acknowledged, "delivered": row.delivered,
                "repeated": row.repeated, "lost": row.lost, "doubled": row.doubled, "unexpected": row.unexpected,
                "out_of_order": row.out_of_order, "corrupted": row.corrupted, "keys": row.keys,
            })
        };
        let rows: Vec<_> = self.rows.iter().map(|(stream, found)| row(&stream_name(*stream), found)).collect();
        json!({
            "rows": rows, "total": row("total", &self.total()), "sessions_lost": self.sessions_lost,
            "violations": self.violations(),
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = [
            "tried",
            "acknowledged",
            "delivered",
            "repeated",
            "lost",
            "doubled",
            "unexpected",
            "out of order",
            "corrupted",
            "keys",
        ];
        write!(f, "{:12}", "")?;
        heads.iter().try_for_each(|head| write!(f, "{head:>14}"))?;
        writeln!(f)?;
        let rows = self.rows.iter().map(|(stream, row)| (stream_name(*stream), *row));
        for (name, row) in rows.chain([("total".into(), self.total())]) {
            write!(f, "{name:12}")?;
            let figures = [
                row.tried,
                row.acknowledged,
                row.delivered,
                row.repeated,
                row.lost,
                row.doubled,
                row.unexpected,
                row.out_of_order,
                row.corrupted,
                row.keys,
            ];
            figures.iter().try_for_each(|figure| write!(f, "{figure:>14}"))?;
            writeln!(f)?;
        }
        writeln!(f, "sessions lost: {}", self.sessions_lost)
    }
}

/// Another number for every message to the business server, in the place of its name.
fn numbered(entry: &Entry) -> u64 {
    debug_assert!(entry.sequence < SEQUENCES_MAX, "checked before");
    (u64::from(entry.stream.session) << 2 | entry.stream.qos as u64) << 32 | entry.sequence
}

fn stream_name((direction, qos): (Direction, u8)) -> String {
    let direction = if direction == Direction::Up { "up" } else { "down" };
    format!("{direction} QoS {qos}")
}

/// Messages of one stream.
const SEQUENCES_MAX: u64 = 1 << 32;

#[cfg(test)]
mod tests;
