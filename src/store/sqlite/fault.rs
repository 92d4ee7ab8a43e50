//! What an error of SQLite's means for the promises: which of them pass, which last until a restart, and how a person
//! is told.

use super::super::OpenError;
use super::schema::Directory;
use crate::shard::command::StoreError;
use rusqlite::{Error, ErrorCode, ffi};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Why no promise is made.
#[derive(Clone, Debug)]
pub struct Fault {
    pub reason: StoreError,
    pub detail: String,
    /// Until a restart: what the disk holds is not known, and nothing is tried again.
    pub lasts: bool,
}

impl Directory {
    pub fn fault(&self, error: &Error) -> Fault {
        let file = self.database();
        let file = file.display();
        let (reason, lasts, rest) = match self.cause(error) {
            Cause::Full => (
                StoreError::DiskFull,
                false,
                "the disk is full. Make room; promises are made again as soon as there is some".to_owned(),
            ),
            Cause::ReadOnly => (
                StoreError::ReadOnly,
                true,
                "it cannot be written any more. Make the disk writable and start again".to_owned(),
            ),
            Cause::Damaged => (
                StoreError::Broken,
                true,
                format!("the file is damaged ({error}). Stop, put a backup in its place, and look at the disk"),
            ),
            Cause::Busy => (StoreError::TooBusy, false, format!("it is locked ({error}); it is tried again")),
            Cause::Failed => (
                StoreError::Broken,
                true,
                format!(
                    "writing failed ({error}), and nothing more is promised. Look at the disk (dmesg), then start again"
                ),
            ),
        };
        Fault { reason, detail: format!("{file}: {rest}"), lasts }
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
                match self.probe().map_err(|error| error.kind()) {
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

    /// Makes the reserve where it is missing; when that is possible, promises may be tried again. `Err` is what SQLite
    /// would say.
    pub fn has_reserve(&self) -> Result<(), Error> {
        let path = self.path().join("reserve");
        if fs::metadata(&path).is_ok_and(|reserve| reserve.len() == RESERVE_LEN as u64) {
            return Ok(());
        }
        fill(&path, RESERVE_LEN).map_err(|error| {
            let _ = fs::remove_file(&path);
            let code = match error.kind() {
                io::ErrorKind::ReadOnlyFilesystem => ffi::SQLITE_READONLY,
                _ => ffi::SQLITE_FULL,
            };
            Error::SqliteFailure(ffi::Error::new(code), Some(error.to_string()))
        })
    }

    /// False when it has been given up already.
    pub fn give_reserve_up(&self) -> bool {
        fs::remove_file(self.path().join("reserve")).is_ok()
    }

    /// The file is gone or another one: what is promised now would be gone with it.
    pub fn lost(&self) -> Option<Fault> {
        (!self.holds_its_file()).then(|| Fault {
            reason: StoreError::Broken,
            detail: format!(
                "{}: the file was moved or removed while it was in use. Put it back, then start again",
                self.database().display()
            ),
            lasts: true,
        })
    }

    /// Writes a page beside the database, and removes it.
    fn probe(&self) -> io::Result<()> {
        let path = self.path().join("probe");
        let written = fill(&path, PAGE_LEN);
        let removed = fs::remove_file(&path);
        written.and(removed)
    }
}

/// Not a length alone: blocks of the disk.
fn fill(path: &Path, len: usize) -> io::Result<()> {
    let mut file = File::create(path)?;
    for _ in 0..len / PAGE_LEN {
        file.write_all(&[0x5A; PAGE_LEN])?;
    }
    file.sync_all()
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

const PAGE_LEN: usize = 4096;
/// More than the log ever holds, so that it can be written back in full.
const RESERVE_LEN: usize = 16 << 20;
