//! The ledger: what was sent, answered and seen, as lines of text in files that are only ever appended to.
//!
//! ```text
//! T d2 17 345 0        fact · direction and QoS · session · sequence · key (hexadecimal; of a forwarded message)
//! ```
//! A thread writes its own file, and what it is about to send is in it before the first byte goes out. The verdict is
//! made of these files alone, so it can be made again. Called by every part that sends or receives; read by the judge.

use super::payload::{Direction, Stream};
use crate::wire::packet::QoS;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// About to be sent; noted once, however often it is repeated.
    Tried,
    /// The other side has taken it over: ACK or REC to a client, `connections` + `stored` ≥ 1 to a caller.
    Acknowledged,
    /// Handed to the application: to the client's, or to the business server.
    Delivered,
    /// A message came that is not as it was sent. Its sequence means nothing.
    Corrupted,
    /// A server that had promised to store the session began it anew.
    SessionLost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub fact: Fact,
    pub stream: Stream,
    pub sequence: u64,
    /// A digest of the `Idempotency-Key`, 0 when there was none. 0 where there cannot be one.
    pub key: u64,
}

/// A fault that the audit plants in its own notes, to show that it would be caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Plant {
    Lose,
    Double,
    Reorder,
    Corrupt,
    DoubleClose,
}

/// The writing end of one file.
#[derive(Debug)]
pub struct Ledger {
    file: File,
    buffer: Vec<u8>,
    planted: Planted,
}

#[derive(Debug, Default)]
struct Planted {
    plant: Option<Plant>,
    deliveries: u64,
    /// A delivery that is to be noted after the next of its stream.
    delayed: Option<Entry>,
}

impl Ledger {
    pub fn create(dir: &Path, name: &str, plant: Option<Plant>) -> io::Result<Ledger> {
        let file = File::create_new(dir.join(name).with_extension(EXTENSION))?;
        Ok(Ledger { file, buffer: Vec::new(), planted: Planted { plant, ..Planted::default() } })
    }

    pub fn note(&mut self, entry: Entry) {
        let (first, second) =
            if entry.fact == Fact::Delivered { self.planted.alter(entry) } else { (Some(entry), None) };
        for entry in [first, second].into_iter().flatten() {
            entry.write_into(&mut self.buffer);
        }
    }

    /// To be called before anything goes out that the notes are about.
    ///
    /// # Panics
    /// When the file cannot be written: without it nothing could be proved.
    pub fn flush(&mut self) {
        if !self.buffer.is_empty() {
            self.file.write_all(&self.buffer).expect("the ledger can be written");
            self.buffer.clear();
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if let Some(delayed) = self.planted.delayed.take() {
            delayed.write_into(&mut self.buffer);
        }
        if !std::thread::panicking() {
            self.flush();
        }
    }
}

impl Planted {
    /// What is noted in place of a delivery.
    fn alter(&mut self, entry: Entry) -> (Option<Entry>, Option<Entry>) {
        if let Some(delayed) = self.delayed.take_if(|delayed| delayed.stream == entry.stream) {
            return (Some(entry), Some(delayed));
        }
        self.deliveries += 1;
        let altered = self.deliveries.is_multiple_of(PLANT_EVERY);
        match self.plant.filter(|_| altered) {
            None | Some(Plant::DoubleClose) => (Some(entry), None),
            Some(Plant::Lose) => (None, None),
            Some(Plant::Double) => (Some(entry), Some(Entry { key: entry.key ^ 1 << 63, ..entry })),
            Some(Plant::Corrupt) => (Some(Entry { fact: Fact::Corrupted, ..entry }), None),
            Some(Plant::Reorder) => {
                let before = self.delayed.replace(entry);
                (before, None)
            }
        }
    }
}

impl Entry {
    fn write_into(&self, out: &mut Vec<u8>) {
        let fact = match self.fact {
            Fact::Tried => 'T',
            Fact::Acknowledged => 'A',
            Fact::Delivered => 'D',
            Fact::Corrupted => 'C',
            Fact::SessionLost => 'L',
        };
        let Stream { direction, qos, session } = self.stream;
        let direction = if direction == Direction::Up { 'u' } else { 'd' };
        let (qos, sequence, key) = (qos as u8, self.sequence, self.key);
        writeln!(out, "{fact} {direction}{qos} {session} {sequence} {key:x}").expect("memory takes it");
    }

    fn read(line: &str) -> Option<Entry> {
        let mut words = line.split(' ');
        let fact = match words.next()? {
            "T" => Fact::Tried,
            "A" => Fact::Acknowledged,
            "D" => Fact::Delivered,
            "C" => Fact::Corrupted,
            "L" => Fact::SessionLost,
            _ => return None,
        };
        let (direction, qos) = words.next()?.split_at_checked(1)?;
        let direction = match direction {
            "u" => Direction::Up,
            "d" => Direction::Down,
            _ => return None,
        };
        let stream = Stream { direction, qos: QoS::from_u8(qos.parse().ok()?)?, session: words.next()?.parse().ok()? };
        let sequence = words.next()?.parse().ok()?;
        let key = u64::from_str_radix(words.next()?, 16).ok()?;
        Some(Entry { fact, stream, sequence, key })
    }
}

/// Hands every entry of every file to `each`: those of one file in their order.
pub fn read_all(dir: &Path, mut each: impl FnMut(Entry)) -> io::Result<()> {
    for file in fs::read_dir(dir)? {
        let path = file?.path();
        if path.extension().is_none_or(|extension| extension != EXTENSION) {
            continue;
        }
        for line in BufReader::new(File::open(&path)?).lines() {
            let line = line?;
            let unreadable = || io::Error::new(io::ErrorKind::InvalidData, format!("{}: {line:?}", path.display()));
            each(Entry::read(&line).ok_or_else(unreadable)?);
        }
    }
    Ok(())
}

const EXTENSION: &str = "ledger";
/// Deliveries per planted fault, of one file.
const PLANT_EVERY: u64 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_as_they_were_written() {
        let facts = [Fact::Tried, Fact::Acknowledged, Fact::Delivered, Fact::Corrupted, Fact::SessionLost];
        for (number, fact) in (0..).zip(facts) {
            let stream = Stream { direction: Direction::Up, qos: QoS::AtLeastOnce, session: number };
            let entry = Entry { fact, stream, sequence: u64::MAX, key: 0xABCD };
            let mut line = Vec::new();
            entry.write_into(&mut line);
            assert_eq!(Entry::read(std::str::from_utf8(&line).unwrap().trim_end()), Some(entry));
        }
        assert_eq!([Entry::read("T d3 1 1 0"), Entry::read("T d1 1 1"), Entry::read("")], [None; 3]);
    }
}
