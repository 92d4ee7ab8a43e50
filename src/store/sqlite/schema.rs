//! The database file: opened with the pragmas that it is used with, its tables made in a new file, refused when another
//! program or another version wrote it.

use super::directory::Directory;
use super::fault::open_error;
use crate::config::Durability;
use crate::store::opening::OpenError;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

/// Opens the database and makes its tables where they are missing.
pub fn open(directory: &mut Directory, durability: Durability) -> Result<Connection, OpenError> {
    let connection = connect(directory, durability).map_err(|error| open_error(directory, error))?;
    if connection.is_readonly("main").unwrap_or(false) {
        return Err(OpenError::ReadOnly { path: directory.database() });
    }
    prepare(&connection, directory)?;
    directory.note_database();
    Ok(connection)
}

fn connect(directory: &Directory, durability: Durability) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(directory.database(), flags)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // No other process reads the file, so no memory is shared and no lock is taken per transaction. The file is never
    // mapped into memory: a failing disk would kill the process.
    connection.execute_batch(
        "PRAGMA locking_mode = EXCLUSIVE;
         PRAGMA cache_size = -32768;
         PRAGMA temp_store = MEMORY;
         PRAGMA mmap_size = 0;
         PRAGMA wal_autocheckpoint = 0;
         PRAGMA cell_size_check = ON;
         PRAGMA foreign_keys = OFF;",
    )?;
    // A connection that ends leaves the log as it is: see `Database` for when it is written back.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // FULL: the log is synced at every commit. NORMAL: at checkpoints only.
    connection.execute_batch(match durability {
        Durability::Fsync => "PRAGMA synchronous = FULL",
        Durability::Memory => "PRAGMA synchronous = NORMAL",
    })?;
    Ok(connection)
}

/// Checks who wrote the file; makes the tables in a new one.
fn prepare(connection: &Connection, directory: &Directory) -> Result<(), OpenError> {
    let failed = |error| open_error(directory, error);
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(failed);
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    let (application, format) = (pragma("application_id")?, pragma("user_version")?);
    match (application, format) {
        (APPLICATION, FORMAT) => {}
        (APPLICATION, found) => {
            return Err(OpenError::Format { path: directory.database(), found, known: FORMAT });
        }
        (0, 0) if tables == 0 && directory.is_in_use() && !directory.loss_is_accepted() => {
            return Err(OpenError::Emptied { path: directory.database() });
        }
        (0, 0) if tables == 0 => {}
        _ => return Err(OpenError::Foreign { path: directory.database() }),
    }
    // Only now that the file is known to be ours: this writes into it.
    if tables == 0 {
        connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL").map_err(failed)?;
    }
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0)).map_err(failed)?;
    if mode != "wal" {
        let detail = format!("it cannot be used with a write-ahead log (journal mode {mode})");
        return Err(OpenError::Failed { path: directory.database(), detail });
    }
    if tables == 0 {
        let marks = format!("PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORMAT};");
        connection.execute_batch(&format!("BEGIN IMMEDIATE; {TABLES} {marks} COMMIT;")).map_err(failed)?;
    }
    connection.execute_batch(CONNECTIONS).map_err(failed)?;
    connection.execute_batch(TRANSFERS).map_err(failed)?;
    if connection.prepare("SELECT user FROM connections").is_err() {
        connection.execute_batch("ALTER TABLE connections ADD COLUMN user TEXT").map_err(failed)?;
    }
    if connection.prepare("SELECT disk FROM met").is_err() {
        connection.execute_batch("ALTER TABLE met ADD COLUMN disk INTEGER").map_err(failed)?;
    }
    directory.note_use();
    Ok(())
}

/// A session's `key` is short and stands for the session in all other tables; it is never used again, since guards
/// outlive sessions. Messages lie in the order in which they were stored (see `index`); `place` is the offset. A
/// message's `due` is when it may be removed: `expires`, or never where the client may have its id; its `bytes` are 0
/// when it was released. `sum` is a checksum, since SQLite does not notice a damaged message. The purge goes by
/// `messages_due`, and it is all that a start reads of the messages.
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

/// Added to format 1 later: an older version does not look at them. In `leaving` and `arriving` are sessions on their
/// way between two nodes' files (see `transfer`), in `united` what came of those that have become one with another.
/// `lives` are those of the node that has this file, and `disk` is the first of them. `met` are the last lives of the
/// others, and their disks.
const TRANSFERS: &str = "
    CREATE TABLE IF NOT EXISTS leaving (
        name TEXT PRIMARY KEY, token INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS arriving (
        token INTEGER PRIMARY KEY, name TEXT NOT NULL, state INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX IF NOT EXISTS arriving_name ON arriving (name);
    CREATE TABLE IF NOT EXISTS united (
        token INTEGER PRIMARY KEY, messages INTEGER NOT NULL, bytes INTEGER NOT NULL, oldest INTEGER,
        repeats INTEGER NOT NULL, uncertain INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS lives (
        nth INTEGER PRIMARY KEY AUTOINCREMENT, generation INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS disk (one INTEGER PRIMARY KEY CHECK (one = 1), id INTEGER NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS met (generation INTEGER PRIMARY KEY, disk INTEGER) STRICT;
    CREATE INDEX IF NOT EXISTS lives_generation ON lives (generation);
";

/// Added to format 1 later: an older version does not look at it.
const CONNECTIONS: &str = "
    CREATE TABLE IF NOT EXISTS connections (
        identity BLOB PRIMARY KEY, cookie BLOB, user TEXT
    ) STRICT, WITHOUT ROWID;
";

/// "Rain", in SQLite's header: the file is ours.
const APPLICATION: i64 = 0x5261_696E;
/// Raised whenever an older version could not read the tables.
pub const FORMAT: i64 = 1;
/// What a sound file of this version says of itself.
pub const MARKS: (i64, i64) = (APPLICATION, FORMAT);
/// More than there are statements.
const STATEMENTS_MAX: usize = 64;
