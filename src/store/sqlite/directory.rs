//! The store's directory: made when it is missing, locked by one process at a time. It also holds the *reserve*, a file
//! that is given up when the disk is full, so that what makes room can still be written.

pub mod log;

use crate::store::opening::OpenError;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// Locked for as long as this lives.
pub struct Directory {
    path: PathBuf,
    /// Device and inode of the database when it was opened.
    database_file: Option<(u64, u64)>,
    /// The lock ends when this file is closed, however the process ends.
    _lock: File,
}

impl Directory {
    /// Makes the directory where it is missing, and locks it.
    pub fn lock(path: &Path) -> Result<Directory, OpenError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => OpenError::DiskFull { path: path.into() },
            io::ErrorKind::ReadOnlyFilesystem => OpenError::ReadOnly { path: path.into() },
            _ => OpenError::Directory { path: path.into(), error },
        };
        make(path).map_err(failed)?;
        // SQLite interprets a path that begins with `file:`; an absolute path it takes as it is.
        let path = path.canonicalize().map_err(failed)?;
        let lock = lock(&path, failed)?;
        Ok(Directory { path, database_file: None, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn database(&self) -> PathBuf {
        self.path.join("rainbow.db")
    }

    /// The write-ahead log.
    pub fn log(&self) -> PathBuf {
        self.path.join("rainbow.db-wal")
    }

    /// There has been a database with tables.
    pub fn is_in_use(&self) -> bool {
        self.path.join(IN_USE).exists()
    }

    /// Without the mark, an emptied database would only not be noticed: where it cannot be written, the store works.
    pub fn note_use(&self) {
        if !self.is_in_use() {
            let _ = File::create(self.path.join(IN_USE)).and_then(|mark| mark.sync_all());
            let _ = File::open(&self.path).and_then(|directory| directory.sync_all());
        }
    }

    /// The operator gives up what is damaged or missing, for one start.
    pub fn loss_is_accepted(&self) -> bool {
        self.path.join(ACCEPT_LOSS).exists()
    }

    pub fn forget_accepted_loss(&self) {
        let _ = fs::remove_file(self.path.join(ACCEPT_LOSS));
    }

    /// Remembers which file the database is, for `has_database`.
    pub fn note_database(&mut self) {
        self.database_file = fs::metadata(self.database()).ok().map(|file| (file.dev(), file.ino()));
    }

    /// Whether the database is still the file that was opened.
    pub fn has_database(&self) -> bool {
        let Some(opened) = self.database_file else { return true };
        fs::metadata(self.database()).is_ok_and(|now| (now.dev(), now.ino()) == opened)
    }

    /// Makes the reserve where it is missing. That this is possible shows that the disk has room again.
    pub fn ensure_reserve(&self) -> io::Result<()> {
        let path = self.reserve();
        if fs::metadata(&path).is_ok_and(|reserve| reserve.len() == RESERVE_LEN as u64) {
            return Ok(());
        }
        write_blocks(&path, RESERVE_LEN).inspect_err(|_| {
            let _ = fs::remove_file(&path);
        })
    }

    /// False when the reserve has been given up already.
    pub fn give_up_reserve(&self) -> bool {
        fs::remove_file(self.reserve()).is_ok()
    }

    fn reserve(&self) -> PathBuf {
        self.path.join("reserve")
    }

    /// Writes a page beside the database, and removes it.
    pub fn probe(&self) -> io::Result<()> {
        let path = self.path.join("probe");
        let written = write_blocks(&path, PAGE_LEN);
        let removed = fs::remove_file(&path);
        written.and(removed)
    }
}

/// Messages are private: 0700.
fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    // The new name must be on disk before anything in it can be, and so must the names of its parents where they are
    // new.
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
    // A process that was killed a moment ago may still be ending, with a million connections to close.
    let mut locked = lock.try_lock();
    for _ in 0..LOCK_TRIES {
        if !matches!(locked, Err(TryLockError::WouldBlock)) {
            break;
        }
        thread::sleep(LOCK_PAUSE);
        locked = lock.try_lock();
    }
    match locked {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = lock.read_to_string(&mut holder);
            let holder = if holder.is_empty() { "(unknown)".into() } else { holder.trim().into() };
            return Err(OpenError::Locked { path: path.into(), holder });
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    // The pid is for the operator; the lock holds without it, on a full disk too.
    let _ = lock.set_len(0).and_then(|()| lock.write_all(format!("{}\n", std::process::id()).as_bytes()));
    Ok(lock)
}

/// Writes real blocks: setting a length alone would take no room on the disk.
fn write_blocks(path: &Path, len: usize) -> io::Result<()> {
    let mut file = File::create(path)?;
    for _ in 0..len / PAGE_LEN {
        file.write_all(&[0x5A; PAGE_LEN])?;
    }
    file.sync_all()
}

const IN_USE: &str = "in-use";
const ACCEPT_LOSS: &str = "accept-loss";
const PAGE_LEN: usize = 4096;
/// More than the log ever holds, so that all of it can be written back.
const RESERVE_LEN: usize = 16 << 20;
/// Together 2 s.
const LOCK_TRIES: usize = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
