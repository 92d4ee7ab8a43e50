//! `rainbow-server backup`: a consistent copy of the store, made beside a running server or without one.
//!
//! ```text
//! hold backup-lock       the server commits to its log and leaves the database file as it is
//! copy rainbow.db        then rainbow.db-wal: all that was committed until then
//! check                  SQLite reads the log into the copy and looks through all of it
//! rename                 only a copy that was found sound is called rainbow.db
//! ```

use lock::BackupLock;
pub mod lock;

use super::{log, schema};
use rusqlite::{Connection, OpenFlags};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backup {
    pub bytes: u64,
    pub sessions: u64,
    pub messages: u64,
}

/// How far a backup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Copied { bytes: u64, of: u64 },
    Checking,
}

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{}: there is no store here. Name the server's configuration (its store.data_dir): -f FILE", .0.display())]
    NoStore(PathBuf),
    #[error("{}: it is not empty. Name a directory that is empty, or that does not exist", .0.display())]
    HasContent(PathBuf),
    #[error("{}: {error}. Name a place that this user can write", path.display())]
    Target { path: PathBuf, error: io::Error },
    #[error("{}: {error}. Run the backup as the user who runs the server", path.display())]
    Source { path: PathBuf, error: io::Error },
    #[error("the disk of {} is full. Make room, or name a directory on another disk", .0.display())]
    DiskFull(PathBuf),
    #[error("the server has been writing its log back for a minute. Look at its disk, then try again")]
    Busy,
    #[error(
        "the copy took so long that the server's log came to its limit, or its disk was full. Try again when fewer \
         messages are stored, or name a directory on a faster disk"
    )]
    Revoked,
    #[error(
        "the copy is damaged ({0}), and was removed. Try again; if it happens again, the store itself is damaged: \
         keep the older backups"
    )]
    Damaged(String),
}

/// Copies the store in `data_dir` into `target`, which must be empty or missing. What a failed backup has made is
/// removed again.
pub fn back_up(data_dir: &Path, target: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Backup, BackupError> {
    let source = |error| BackupError::Source { path: data_dir.into(), error };
    let database = data_dir.join("rainbow.db");
    if !database.try_exists().map_err(source)? {
        return Err(BackupError::NoStore(data_dir.into()));
    }
    let is_new = prepare(target)?;
    let lock = BackupLock::open(data_dir).map_err(source)?;
    let copied = copy_and_check(&Places::new(data_dir, target), &lock, progress);
    if copied.is_err() {
        Places::new(data_dir, target).remove_copy(is_new);
    }
    copied
}

/// Makes the target where it is missing (messages are private: 0700); true when it did.
fn prepare(target: &Path) -> Result<bool, BackupError> {
    let failed = |error| BackupError::Target { path: target.into(), error };
    match fs::read_dir(target) {
        Ok(mut entries) => match entries.next() {
            None => Ok(false),
            Some(_) => Err(BackupError::HasContent(target.into())),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(target).map_err(failed)?;
            Ok(true)
        }
        Err(error) => Err(failed(error)),
    }
}

struct Places {
    source: PathBuf,
    source_log: PathBuf,
    target: PathBuf,
    /// The copy until it was found sound.
    copy: PathBuf,
    copy_log: PathBuf,
    /// A server that is started in an unfinished backup reports an emptied database.
    mark: PathBuf,
}

impl Places {
    fn new(data_dir: &Path, target: &Path) -> Places {
        Places {
            source: data_dir.join("rainbow.db"),
            source_log: data_dir.join("rainbow.db-wal"),
            target: target.into(),
            copy: target.join("unfinished.db"),
            copy_log: target.join("unfinished.db-wal"),
            mark: target.join("in-use"),
        }
    }

    fn remove_copy(&self, with_directory: bool) {
        for path in [&self.copy, &self.copy_log, &self.mark] {
            let _ = fs::remove_file(path);
        }
        if with_directory {
            let _ = fs::remove_dir(&self.target);
        }
    }

    fn failed(&self, error: io::Error) -> BackupError {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => BackupError::DiskFull(self.target.clone()),
            _ => BackupError::Target { path: self.target.clone(), error },
        }
    }
}

fn copy_and_check(
    places: &Places,
    lock: &BackupLock,
    progress: &mut dyn FnMut(Progress),
) -> Result<Backup, BackupError> {
    create(&places.mark).map_err(|error| places.failed(error))?;
    match lock.wait_shared() {
        Ok(true) => {}
        Ok(false) => return Err(BackupError::Busy),
        Err(error) => return Err(BackupError::Source { path: places.source.clone(), error }),
    }
    copy(places, progress)?;
    if lock.is_revoked() {
        return Err(BackupError::Revoked);
    }
    progress(Progress::Checking);
    let backup = check(places)?;
    let finish = || {
        File::open(&places.copy)?.sync_all()?;
        fs::rename(&places.copy, places.target.join("rainbow.db"))?;
        File::open(&places.target)?.sync_all()
    };
    finish().map_err(|error| places.failed(error))?;
    Ok(backup)
}

/// The database first: the log then has all that was committed after.
fn copy(places: &Places, progress: &mut dyn FnMut(Progress)) -> Result<(), BackupError> {
    copy_file(places, (&places.source, &places.copy), progress)?;
    let mut damage = None;
    for _ in 0..LOG_TRIES {
        let before = log_header(places)?;
        if before.is_some() {
            copy_file(places, (&places.source_log, &places.copy_log), progress)?;
        }
        // The first commit after a checkpoint begins the log anew. That happens once at most while no checkpoint is
        // made; a log of two halves would bring old pages back.
        if log_header(places)? != before {
            continue;
        }
        // In a log that was begun anew the server writes over old frames. When it overtakes the copying, one of them is
        // in the copy, and new ones behind it: that looks like damage, and is not there the next time.
        let lost = log::check(&places.copy_log).map_err(|error| places.failed(error))?;
        if !lost.is_damage() || damage == Some(lost.frame) {
            return Ok(());
        }
        damage = Some(lost.frame);
    }
    Err(BackupError::Revoked)
}

fn log_header(places: &Places) -> Result<Option<Vec<u8>>, BackupError> {
    let read = || -> io::Result<Vec<u8>> {
        let mut header = Vec::new();
        File::open(&places.source_log)?.take(LOG_HEADER_LEN).read_to_end(&mut header)?;
        Ok(header)
    };
    match read() {
        Ok(header) => Ok(Some(header)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(BackupError::Source { path: places.source_log.clone(), error }),
    }
}

fn copy_file(
    places: &Places,
    (from, to): (&Path, &Path),
    progress: &mut dyn FnMut(Progress),
) -> Result<(), BackupError> {
    let source = |error| BackupError::Source { path: from.into(), error };
    let mut from_file = File::open(from).map_err(source)?;
    let mut to_file = create(to).map_err(|error| places.failed(error))?;
    let of = from_file.metadata().map_err(source)?.len();
    let (mut chunk, mut bytes) = (vec![0; CHUNK_LEN], 0);
    // What the server appends while this reads belongs to later commits.
    while bytes < of {
        let most = CHUNK_LEN.min((of - bytes) as usize);
        let read = from_file.read(&mut chunk[..most]).map_err(source)?;
        if read == 0 {
            break;
        }
        to_file.write_all(&chunk[..read]).map_err(|error| places.failed(error))?;
        bytes += read as u64;
        progress(Progress::Copied { bytes, of });
    }
    to_file.sync_all().map_err(|error| places.failed(error))
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Reads the log into the copy, and looks through all of it.
fn check(places: &Places) -> Result<Backup, BackupError> {
    let lost = log::check(&places.copy_log).map_err(|error| places.failed(error))?;
    if lost.is_damage() {
        return Err(BackupError::Damaged(format!("its log, with {} commits behind the damage", lost.commits)));
    }
    // SQLite interprets a path that begins with `file:`; an absolute path it takes as it is.
    let path = places.copy.canonicalize().map_err(|error| places.failed(error))?;
    let looked = look_through(&path).map_err(|error| BackupError::Damaged(error.to_string()))?;
    let Looked { integrity, foreign, sessions, messages } = looked;
    if foreign {
        return Err(BackupError::Damaged("it is no store of this version's".into()));
    }
    if integrity != "ok" {
        return Err(BackupError::Damaged(integrity));
    }
    let bytes = fs::metadata(&path).map_err(|error| places.failed(error))?.len();
    Ok(Backup { bytes, sessions, messages })
}

struct Looked {
    integrity: String,
    foreign: bool,
    sessions: u64,
    messages: u64,
}

fn look_through(path: &Path) -> rusqlite::Result<Looked> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // No memory is shared for the log: the copy may lie where that cannot be.
    connection.execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA mmap_size = 0")?;
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    let foreign = (number("PRAGMA application_id")?, number("PRAGMA user_version")?) != schema::MARKS;
    let looked = Looked {
        integrity: connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?,
        foreign,
        sessions: if foreign { 0 } else { number("SELECT count(*) FROM sessions")? as u64 },
        messages: if foreign { 0 } else { number("SELECT count(*) FROM messages")? as u64 },
    };
    connection.close().map_err(|(_, error)| error)?;
    Ok(looked)
}

const LOG_TRIES: usize = 10;
const LOG_HEADER_LEN: u64 = 32;
const CHUNK_LEN: usize = 1 << 20;
