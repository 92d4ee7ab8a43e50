//! The directory and the file in it: taken by one process at a time, made when missing, refused when it is another
//! program's or another version's. And the tables.

use super::super::OpenError;
use crate::config::Durability;
use rusqlite::{Connection, OpenFlags};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// The store's directory, ours as long as this lives.
pub struct Directory {
    path: PathBuf,
    /// Device and inode of the database, as it was opened.
    file: Option<(u64, u64)>,
    /// The lock goes when it is closed, however the process ends.
    _lock: File,
}

impl Directory {
    /// Makes it where it is missing, and takes it.
    pub fn take(path: &Path) -> Result<Directory, OpenError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => OpenError::DiskFull { path: path.into() },
            io::ErrorKind::ReadOnlyFilesystem => OpenError::ReadOnly { path: path.into() },
            _ => OpenError::Directory { path: path.into(), error },
        };
        make(path).map_err(failed)?;
        // SQLite takes a path that begins with `file:` apart; an absolute one it takes as it is.
        let path = path.canonicalize().map_err(failed)?;
        let lock = lock(&path, failed)?;
        Ok(Directory { path, file: None, _lock: lock })
    }

    pub fn database(&self) -> PathBuf {
        self.path.join("rainbow.db")
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the database is still the file that was opened.
    pub fn holds_its_file(&self) -> bool {
        let Some(opened) = self.file else { return true };
        fs::metadata(self.database()).is_ok_and(|now| (now.dev(), now.ino()) == opened)
    }
}

/// What messages tell is nobody else's business: 0700.
fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    // The new name must be on disk before anything in it can be. Its parents' names, where they are new, too.
    for parent in path.ancestors().skip(1) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        File::open(parent).and_then(|directory| directory.sync_all()).or_else(unless_forbidden)?;
    }
    Ok(())
}

/// A directory that this user may not even open has existed before.
fn unless_forbidden(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Ok(()),
        _ => Err(error),
    }
}

fn lock(path: &Path, failed: impl Fn(io::Error) -> OpenError) -> Result<File, OpenError> {
    let file = path.join("lock");
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(file)
        .map_err(&failed)?;
    // Who was killed a moment ago may still be on its way out, with a million connections to close.
    let mut tried = lock.try_lock();
    for _ in 0..LOCK_TRIES {
        if !matches!(tried, Err(TryLockError::WouldBlock)) {
            break;
        }
        thread::sleep(LOCK_PAUSE);
        tried = lock.try_lock();
    }
    match tried {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = lock.read_to_string(&mut holder);
            let holder = if holder.is_empty() { "(unknown)".into() } else { holder.trim().into() };
            return Err(OpenError::Locked { path: path.into(), holder });
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    // The pid is for people; the lock holds without it, on a full disk too.
    let _ = lock.set_len(0).and_then(|()| lock.write_all(format!("{}\n", std::process::id()).as_bytes()));
    Ok(lock)
}

/// Opens the database as it is to be used, with its tables.
pub fn open(directory: &mut Directory, durability: Durability) -> Result<Connection, OpenError> {
    let conn = connect(directory, durability).map_err(|error| directory.open_error(error))?;
    if conn.is_readonly("main").unwrap_or(false) {
        return Err(OpenError::ReadOnly { path: directory.database() });
    }
    prepare(&conn, directory)?;
    directory.file = fs::metadata(directory.database()).ok().map(|file| (file.dev(), file.ino()));
    Ok(conn)
}

fn connect(directory: &Directory, durability: Durability) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(directory.database(), flags)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // Nobody else reads the file: no shared memory, and no lock is taken and given back per transaction. Memory is
    // never mapped from the file, a failing disk would kill the process.
    conn.execute_batch(
        "PRAGMA locking_mode = EXCLUSIVE;
         PRAGMA cache_size = -32768;
         PRAGMA temp_store = MEMORY;
         PRAGMA mmap_size = 0;
         PRAGMA cell_size_check = ON;
         PRAGMA foreign_keys = OFF;",
    )?;
    // FULL: the log is synced at every commit. NORMAL: at checkpoints only.
    conn.execute_batch(match durability {
        Durability::Fsync => "PRAGMA synchronous = FULL",
        Durability::Memory => "PRAGMA synchronous = NORMAL",
    })?;
    Ok(conn)
}

/// Checks whose file it is; makes the tables in a new one.
fn prepare(conn: &Connection, directory: &Directory) -> Result<(), OpenError> {
    let failed = |error| directory.open_error(error);
    let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(failed);
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    let (application, format) = (pragma("application_id")?, pragma("user_version")?);
    match (application, format) {
        (APPLICATION, FORMAT) => {}
        (APPLICATION, found) => {
            return Err(OpenError::Format { path: directory.database(), found, known: FORMAT });
        }
        (0, 0) if tables == 0 => {}
        _ => return Err(OpenError::Foreign { path: directory.database() }),
    }
    // Not before it is known to be ours: this writes into the file.
    if tables == 0 {
        conn.execute_batch("PRAGMA auto_vacuum = INCREMENTAL").map_err(failed)?;
    }
    let mode: String = conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0)).map_err(failed)?;
    if mode != "wal" {
        let detail = format!("it cannot be used with a write-ahead log (journal mode {mode})");
        return Err(OpenError::Failed { path: directory.database(), detail });
    }
    if tables == 0 {
        let marks = format!("PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORMAT};");
        conn.execute_batch(&format!("BEGIN IMMEDIATE; {TABLES} {marks} COMMIT;")).map_err(failed)?;
    }
    Ok(())
}

/// A session's `key` is short and stands for it in all other tables; it is never used again, since guards outlive
/// sessions. Messages lie as they came (see `ledger`); `place` is the order. A message's `due` is when it may be
/// removed: `expires`, or never where the client may hold its id; its `bytes` are 0 when it is only to be released.
/// `sum` tells a damaged message from a sound one, which SQLite does not. `messages_due` is the way of the purge, and
/// all that a start reads of the messages.
const TABLES: &str = "
    CREATE TABLE sessions (
        key INTEGER PRIMARY KEY AUTOINCREMENT, session BLOB NOT NULL, name TEXT NOT NULL UNIQUE,
        expiry_s INTEGER NOT NULL, ends INTEGER, cookie BLOB,
        reserved INTEGER NOT NULL, floor INTEGER NOT NULL,
        run INTEGER NOT NULL, last INTEGER NOT NULL, past_half INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE channels (
        key INTEGER NOT NULL, channel TEXT NOT NULL, PRIMARY KEY (key, channel)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE messages (
        row INTEGER PRIMARY KEY, key INTEGER NOT NULL, place INTEGER NOT NULL, flags INTEGER NOT NULL,
        type INTEGER NOT NULL, stored INTEGER NOT NULL, expires INTEGER NOT NULL, due INTEGER NOT NULL,
        bytes INTEGER NOT NULL, sum INTEGER NOT NULL, claim TEXT, claim_until INTEGER, body BLOB NOT NULL
    ) STRICT;
    CREATE INDEX messages_due ON messages (due, key, place, stored, bytes);
    CREATE TABLE received (
        key INTEGER NOT NULL, id INTEGER NOT NULL, sequence INTEGER NOT NULL, answer BLOB NOT NULL,
        PRIMARY KEY (key, id)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE guards (
        message_id TEXT NOT NULL, key INTEGER NOT NULL, until INTEGER NOT NULL, place INTEGER NOT NULL,
        PRIMARY KEY (message_id, key)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX guards_until ON guards (until);
    CREATE TABLE claims (
        message_id TEXT PRIMARY KEY, until INTEGER NOT NULL, answer BLOB
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX claims_until ON claims (until);
";

/// "Rain", in SQLite's header: the file is ours.
const APPLICATION: i64 = 0x5261_696E;
/// Counted up whenever an older version could not read the tables.
pub const FORMAT: i64 = 1;
/// Together 2 s.
const LOCK_TRIES: usize = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// More than there are statements.
const STATEMENTS_MAX: usize = 64;
