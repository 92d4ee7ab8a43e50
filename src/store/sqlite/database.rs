//! The SQLite connection with the index beside it: transactions that change both or neither, and the file's
//! housekeeping (checkpoints of the write-ahead log, unused pages). What is written in a transaction is the business
//! of `apply` and `purge`.

use super::backup::lock::BackupLock;
use super::index::Index;
use super::schema;
use crate::store::crash;
use rusqlite::config::DbConfig;
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, Result};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tracing::warn;

pub struct Database {
    /// Ends before the lock does: SQLite writes the log back when it ends.
    connection: Connection,
    lock: BackupLock,
    index: Index,
    /// Pages in the log since its last restart.
    wal_pages: Arc<AtomicU32>,
}

/// What may be changed while a transaction is open.
pub struct Transaction<'a> {
    pub connection: &'a Connection,
    pub index: &'a mut Index,
}

impl Database {
    /// `index` must be what the file holds.
    pub fn new(mut connection: Connection, index: Index, lock: BackupLock) -> Result<Database> {
        let wal_pages = Arc::new(AtomicU32::new(0));
        let counter = wal_pages.clone();
        // In place of SQLite's own checkpoints, which would delay the responses of the commit that sets them off.
        connection.wal_hook(Some(move |_: &mut _, pages| {
            counter.store(pages as u32, Ordering::Relaxed);
            Ok(())
        }))?;
        Ok(Database { connection, lock, index, wal_pages })
    }

    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Runs `changes` in one transaction: all of them are on disk when this returns `Ok`, or none is made.
    pub fn write<T>(&mut self, changes: impl FnOnce(&mut Transaction) -> Result<T>) -> Result<T> {
        self.run("BEGIN")?;
        self.index.begin();
        let result = changes(&mut Transaction { connection: &self.connection, index: &mut self.index });
        let result = result.and_then(|value| self.run("COMMIT").map(|()| value));
        match result {
            Ok(_) => self.index.commit(),
            Err(_) => {
                self.index.roll_back();
                // After some errors SQLite has rolled back already.
                if !self.connection.is_autocommit() {
                    self.run("ROLLBACK")?;
                }
            }
        }
        result
    }

    fn run(&self, sql: &str) -> Result<()> {
        self.connection.prepare_cached(sql)?.execute([]).map(drop)
    }

    pub fn wal_pages(&self) -> u32 {
        self.wal_pages.load(Ordering::Relaxed)
    }

    /// Writes the log back into the file, unless a backup is made. There is no other reader, so all of it is written
    /// and the next commit begins a new log.
    pub fn checkpoint(&self) -> Result<()> {
        let Some(_no_backup) = self.lock.exclude() else { return Ok(()) };
        crash::point("checkpoint.before");
        self.connection.wal_checkpoint_v2(None::<&str>, CheckpointMode::PASSIVE)?;
        self.wal_pages.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Whether a backup is made, beside which the log is not written back.
    pub fn is_backed_up(&self) -> bool {
        self.lock.exclude().is_none()
    }

    /// The backup that is being made, if any, is void: the log has to be written back.
    pub fn end_backup(&mut self) {
        if self.is_backed_up()
            && let Err(error) = self.lock.revoke()
        {
            warn!(%error, "a backup could not be ended, and the log grows");
        }
    }

    /// Gives at most `pages` back to the disk when a good part of the file is unused.
    pub fn shrink_if_worthwhile(&self, pages: u32) -> Result<()> {
        let count = |name| self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let (unused, all) = (count("freelist_count")?, count("page_count")?);
        if unused < UNUSED_PAGES_MIN || unused < all / 4 {
            return Ok(());
        }
        self.shrink(pages)
    }

    /// Gives at most `pages` unused pages back to the disk.
    pub fn shrink(&self, pages: u32) -> Result<()> {
        // SQLite returns a row per page that it gives back.
        let mut statement = self.connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        drop(rows);
        // The checkpoint truncates the file.
        self.checkpoint()
    }

    /// Writes a value that is there already, to find out whether the file can be written.
    pub fn probe_write(&self) -> Result<()> {
        self.connection.pragma_update(None, "user_version", schema::FORMAT)
    }
}

impl Drop for Database {
    /// Writes the log back at the end, unless a backup is made.
    fn drop(&mut self) {
        if let Some(no_backup) = self.lock.exclude() {
            let _ = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false);
            // Until the connection has ended.
            mem::forget(no_backup);
        }
    }
}

/// 16 MiB.
const UNUSED_PAGES_MIN: i64 = 4096;
