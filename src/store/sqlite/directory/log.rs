//! Looks into the write-ahead log before SQLite reads it. SQLite takes the log up to its first damaged frame and says
//! nothing of what lies behind. That is right for the commit that a crash has cut off, and wrong for a log that was
//! damaged later: there, promised messages lie behind.
//!
//! ```text
//! header(32): magic, version, page size, checkpoints, salts(8), checksum(8)
//! frame(24):  page, pages of the file after a commit or 0, salts(8), checksum(8) of all before it    page
//! ```
//! See "The Database File Format" of SQLite, 4.1 and 4.2.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Result};
use std::path::Path;

/// What lies behind the first damage of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Commits of this log's that SQLite would not see.
    pub commits: u64,
    /// The first frame that it would not see.
    pub frame: u64,
    /// The header is damaged: all of the log would be ignored.
    pub header: bool,
}

impl Lost {
    /// More than what a crash cuts off: each commit is synced before the next one begins.
    pub fn is_damage(self) -> bool {
        self.header || self.commits > 1
    }
}

/// Reads the whole log, once.
pub fn check(path: &Path) -> Result<Lost> {
    let mut lost = Lost::default();
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(lost),
        file => file?,
    };
    let mut file = BufReader::with_capacity(1 << 16, file);
    let mut header = [0; HEADER_LEN];
    if !fill(&mut file, &mut header)? || header == [0; HEADER_LEN] {
        return Ok(lost);
    }
    let magic = number(&header, 0);
    let is_big_endian = magic & 1 == 1;
    let mut sum = checksum(&header[..24], (0, 0), is_big_endian);
    let page_len = number(&header, 8) as usize;
    let is_sound = magic & !1 == MAGIC && sum == pair(&header, 24) && number(&header, 4) == VERSION;
    if !is_sound || !(512..=65_536).contains(&page_len) {
        return Ok(Lost { header: true, ..lost });
    }
    let salts = pair(&header, 16);
    let (mut frame, mut is_valid) = (vec![0; FRAME_LEN + page_len], true);
    while fill(&mut file, &mut frame)? {
        if pair(&frame, 8) != salts {
            // Of an earlier log, which was written back, or damaged like any other.
            is_valid = false;
            continue;
        }
        sum = checksum(&frame[FRAME_LEN..], checksum(&frame[..8], sum, is_big_endian), is_big_endian);
        is_valid &= sum == pair(&frame, 16);
        lost.frame += u64::from(is_valid);
        lost.commits += u64::from(!is_valid && number(&frame, 4) != 0);
    }
    Ok(lost)
}

/// False at the end of the file.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> Result<bool> {
    match file.read_exact(buffer) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| true),
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn pair(bytes: &[u8], at: usize) -> (u32, u32) {
    (number(bytes, at), number(bytes, at + 4))
}

fn checksum(bytes: &[u8], (mut one, mut two): (u32, u32), is_big_endian: bool) -> (u32, u32) {
    let word = |bytes: &[u8]| {
        let bytes = bytes.try_into().expect("four bytes");
        if is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    };
    for words in bytes.chunks_exact(8) {
        one = one.wrapping_add(word(&words[..4])).wrapping_add(two);
        two = two.wrapping_add(word(&words[4..])).wrapping_add(one);
    }
    (one, two)
}

/// The lowest bit is the byte order of the checksums.
const MAGIC: u32 = 0x377F_0682;
const VERSION: u32 = 3_007_000;
const HEADER_LEN: usize = 32;
const FRAME_LEN: usize = 24;
