//! Keeps backups and checkpoints apart. In WAL mode only a checkpoint writes into the database file; so whoever holds
//! this lock shared may copy that file, and then the log, from outside while the server goes on committing.
//!
//! The lock is an flock on `data_dir/backup-lock`: it ends with the process that holds it. A server that has to write
//! its log back in spite of a backup puts another file in the place of the locked one, by which the backup notices.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Result;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

pub struct BackupLock {
    path: PathBuf,
    file: File,
}

/// No backup begins while this lives.
pub struct NoBackup<'a>(&'a File);

impl BackupLock {
    /// Makes the file where it is missing.
    pub fn open(data_dir: &Path) -> Result<BackupLock> {
        let path = data_dir.join("backup-lock");
        let file = open(&path)?;
        Ok(BackupLock { path, file })
    }

    /// `None` while a backup is made. A file system without locks has no backups to wait for.
    pub fn exclude(&self) -> Option<NoBackup<'_>> {
        match self.file.try_lock() {
            Err(TryLockError::WouldBlock) => None,
            Ok(()) | Err(TryLockError::Error(_)) => Some(NoBackup(&self.file)),
        }
    }

    /// The backup under way is void from here on.
    pub fn revoke(&mut self) -> Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => self.file = open(&self.path)?,
        }
        Ok(())
    }

    /// For the one who makes the backup: false when the server went on writing its log back for too long.
    pub fn wait_shared(&self) -> Result<bool> {
        for _ in 0..TRIES {
            match self.file.try_lock_shared() {
                Ok(()) => return Ok(true),
                Err(TryLockError::WouldBlock) => thread::sleep(PAUSE),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Whether the server has kept its log unwritten since `wait_shared`.
    pub fn is_revoked(&self) -> bool {
        let (Ok(locked), Ok(there)) = (self.file.metadata(), std::fs::metadata(&self.path)) else { return true };
        (locked.dev(), locked.ino()) != (there.dev(), there.ino())
    }
}

impl Drop for NoBackup<'_> {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Together 60 s: a checkpoint of the longest log on a slow disk takes less.
const TRIES: usize = 3000;
const PAUSE: Duration = Duration::from_millis(20);
