//! What an error of SQLite means for the store: why it refuses, whether that can pass or lasts until a restart, and
//! what the operator can do.

use super::directory::Directory;
use crate::shard::command::StoreError;
use crate::store::opening::OpenError;
use rusqlite::{Error, ErrorCode, ffi};
use std::io;

/// Why the store refuses.
#[derive(Clone, Debug)]
pub struct Fault {
    pub reason: StoreError,
    pub detail: String,
    /// Until a restart: what the disk holds is not known, and nothing is tried any more.
    pub permanent: bool,
}

impl Fault {
    pub fn new(directory: &Directory, error: &Error) -> Fault {
        let file = directory.database();
        let file = file.display();
        let (reason, permanent, advice) = match cause(directory, error) {
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
        Fault { reason, detail: format!("{file}: {advice}"), permanent }
    }

    /// The database is not the file that was opened: what is stored now would be gone with it.
    pub fn file_replaced(directory: &Directory) -> Fault {
        Fault {
            reason: StoreError::Broken,
            detail: format!(
                "{}: the file was moved or removed while it was in use. Put it back, then start again",
                directory.database().display()
            ),
            permanent: true,
        }
    }
}

pub fn open_error(directory: &Directory, error: Error) -> OpenError {
    let path = directory.database();
    match cause(directory, &error) {
        Cause::Full => OpenError::DiskFull { path },
        Cause::ReadOnly => OpenError::ReadOnly { path },
        Cause::Damaged => OpenError::Damaged { path, detail: error.to_string() },
        Cause::Busy => OpenError::Locked { path, holder: "(unknown)".into() },
        Cause::Failed => OpenError::Failed { path, detail: error.to_string() },
    }
}

/// The error that SQLite would report, for a reserve that could not be made.
pub fn reserve_error(error: &io::Error) -> Error {
    let code = match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => ffi::SQLITE_READONLY,
        _ => ffi::SQLITE_FULL,
    };
    Error::SqliteFailure(ffi::Error::new(code), Some(error.to_string()))
}

enum Cause {
    Full,
    ReadOnly,
    Damaged,
    Busy,
    Failed,
}

fn cause(directory: &Directory, error: &Error) -> Cause {
    let extended_code = error.sqlite_error().map(|error| error.extended_code);
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Cause::Full,
        Some(ErrorCode::ReadOnly) => Cause::ReadOnly,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Cause::Damaged,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Cause::Busy,
        // SQLite recognises ENOSPC only. Whether a write failed for a quota, or because the system has mounted a
        // failing disk read-only, is found out by writing a page. A failed fsync is never tried again: the store is
        // broken.
        Some(ErrorCode::SystemIoFailure) if extended_code == Some(ffi::SQLITE_IOERR_WRITE) => {
            match directory.probe().map_err(|error| error.kind()) {
                Err(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => Cause::Full,
                Err(io::ErrorKind::ReadOnlyFilesystem) => Cause::ReadOnly,
                _ => Cause::Failed,
            }
        }
        Some(_) => Cause::Failed,
        // A column does not have the type that was written.
        None => Cause::Damaged,
    }
}
