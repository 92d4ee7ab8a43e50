//! What an error of SQLite's means for the promises: which of them pass, which last until a restart, and how a person
//! is told.

use super::super::OpenError;
use super::schema::Directory;
use crate::shard::steps::Refused;
use rusqlite::{Error, ErrorCode, ffi};
use std::fs::{self, File};
use std::io::{self, Write};

/// Why no promise is made.
#[derive(Clone, Debug)]
pub struct Fault {
    pub why: Refused,
    pub detail: String,
    /// Until a restart: what the disk holds is not known, and nothing is tried again.
    pub lasts: bool,
}

impl Directory {
    pub fn fault(&self, error: &Error) -> Fault {
        let file = self.database();
        let file = file.display();
        let (why, lasts, rest) = match self.cause(error) {
            Cause::Full => (
                Refused::DiskFull,
                false,
                "the disk is full. Make room; promises are made again as soon as there is some".to_owned(),
            ),
            Cause::ReadOnly => (
                Refused::ReadOnly,
                true,
                "it cannot be written any more. Make the disk writable and start again".to_owned(),
            ),
            Cause::Damaged => (
                Refused::Broken,
                true,
                format!("the file is damaged ({error}). Stop, put a backup in its place, and look at the disk"),
            ),
            Cause::Busy => (Refused::TooBusy, false, format!("it is locked ({error}); it is tried again")),
            Cause::Failed => (
                Refused::Broken,
                true,
                format!(
                    "writing failed ({error}), and nothing more is promised. Look at the disk (dmesg), then start again"
                ),
            ),
        };
        Fault { why, detail: format!("{file}: {rest}"), lasts }
    }

    pub fn open_error(&self, error: Error) -> OpenError {
        let path = self.database();
        match self.cause(&error) {
            Cause::Full => OpenError::DiskFull { path },
            Cause::ReadOnly => OpenError::ReadOnly { path },
            Cause::Damaged => OpenError::Damaged { path, detail: error.to_string() },
            Cause::Busy => OpenError::Locked { path, holder: "(unknown)".into() },
            Cause::Failed => OpenError::Failed { path, detail: error.to_string() },
        }
    }

    fn cause(&self, error: &Error) -> Cause {
        match code(error) {
            Some(ErrorCode::DiskFull) => Cause::Full,
            Some(ErrorCode::ReadOnly) => Cause::ReadOnly,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Cause::Damaged,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Cause::Busy,
            // SQLite knows of ENOSPC only; a write that failed for lack of a quota, or since the system has mounted a
            // failing disk read-only, is told apart by trying. A failed fsync never is: it is broken.
            Some(ErrorCode::SystemIoFailure) if extended(error) == Some(ffi::SQLITE_IOERR_WRITE) => {
                match self.probe(PROBE_LEN).map_err(|error| error.kind()) {
                    Err(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => Cause::Full,
                    Err(io::ErrorKind::ReadOnlyFilesystem) => Cause::ReadOnly,
                    _ => Cause::Failed,
                }
            }
            Some(_) => Cause::Failed,
            // A row that does not read as what was written into it.
            None => Cause::Damaged,
        }
    }

    /// Whether promises may be tried again: `Err` is what SQLite would say.
    pub fn has_room(&self) -> Result<(), Error> {
        self.probe(ROOM_LEN).map_err(|error| {
            let code = match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ffi::SQLITE_FULL,
                io::ErrorKind::ReadOnlyFilesystem => ffi::SQLITE_READONLY,
                _ => ffi::SQLITE_FULL,
            };
            Error::SqliteFailure(ffi::Error::new(code), Some(error.to_string()))
        })
    }

    /// The file is gone or another one: what is promised now would be gone with it.
    pub fn lost(&self) -> Option<Fault> {
        (!self.holds_its_file()).then(|| Fault {
            why: Refused::Broken,
            detail: format!(
                "{}: the file was moved or removed while it was in use. Put it back, then start again",
                self.database().display()
            ),
            lasts: true,
        })
    }

    /// Writes a file of that length beside the database, and removes it.
    fn probe(&self, len: usize) -> io::Result<()> {
        let path = self.path().join("room");
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(&vec![0x5A; len])?;
            file.sync_all()
        });
        let removed = fs::remove_file(&path);
        written.and(removed)
    }
}

enum Cause {
    Full,
    ReadOnly,
    Damaged,
    Busy,
    Failed,
}

fn code(error: &Error) -> Option<ErrorCode> {
    error.sqlite_error_code()
}

fn extended(error: &Error) -> Option<i32> {
    error.sqlite_error().map(|error| error.extended_code)
}

/// A page.
const PROBE_LEN: usize = 4096;
/// Enough for a batch, so that "there is room" is not said for every page that comes free.
const ROOM_LEN: usize = 1 << 20;
