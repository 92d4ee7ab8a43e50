//! What is kept for those who are away: one interface, SQLite and Redis behind it. Storage only: the decisions are the
//! shard's (`shard::steps`). Everything here blocks; it lives on the store's own thread (`io::store`), which alone
//! calls it: a batch of requests, a commit, the answers; between batches `purge`, `tend` and `check`.

pub mod crash;
mod redis;
mod sqlite;

use self::redis::Redis;
use crate::base::id::ShardId;
use crate::config::{Config, Durability, StoreKind};
use crate::shard::command::{
    Claim, Command, CommandNumber, Completion, ExpiredMessages, StoreError, StoredSession, UnixMs,
};
use sqlite::Sqlite;
use std::path::PathBuf;
use std::sync::Arc;

/// What the store is asked to do; a batch of them is one commit.
#[derive(Debug)]
pub enum Request {
    /// In the order of its number within its shard.
    Shard { shard: ShardId, command: Command },
    /// A call with a `message_id`, before anything is sent.
    Claim { ticket: u64, claim: Claim },
    /// The call has its answer, which a repeat gets.
    Settle { message_id: Arc<str>, answer: Vec<u8> },
}

/// What became of one request.
#[derive(Debug, PartialEq)]
pub enum Answer {
    Shard { shard: ShardId, number: CommandNumber, outcome: Completion },
    Claim { ticket: u64, claimed: Claimed },
    Settled,
}

#[derive(Debug, PartialEq)]
pub enum Claimed {
    /// Nobody has used this id: send.
    New,
    /// It was claimed and never settled (the server died meanwhile): send, the sessions' claims keep it from doubling.
    Again,
    /// It was answered so.
    Settled(Vec<u8>),
    Refused(StoreError),
}

/// What one slice of a purge came to.
#[derive(Debug, Default, PartialEq)]
pub struct Purged {
    /// Expired messages that were removed.
    pub expired: Vec<ExpiredMessages>,
    /// There may be more to purge now.
    pub more: bool,
}

/// What the store can do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Ready,
    /// No promise is made; the text says what happened, where, and what to do.
    Refusing {
        why: StoreError,
        detail: String,
    },
}

/// Now, as the store's thread read the clock.
pub type Now = UnixMs;

/// What is kept, all sessions together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub messages: u64,
    pub bytes: u64,
}

/// What the store is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub kind: StoreKind,
    pub data_dir: PathBuf,
    pub url: String,
    pub durability: Durability,
    /// Of all sessions together; a `Keep` that would pass it is refused (`StoreFull`).
    pub bytes_max: u64,
    /// Stores of different clusters in one Redis do not meet.
    pub cluster_name: String,
}

impl Options {
    /// `None`: no session is durable.
    pub fn new(config: &Config) -> Option<Options> {
        let store = &config.store;
        (store.kind != StoreKind::None).then(|| Options {
            kind: store.kind,
            data_dir: store.data_dir.clone(),
            url: store.url.clone(),
            durability: store.durability,
            bytes_max: store.bytes_max as u64,
            cluster_name: config.cluster_name.clone(),
        })
    }
}

/// What an opened store holds.
#[derive(Debug, Default)]
pub struct Opened {
    /// All sessions, with what waits for them.
    pub sessions: Vec<StoredSession>,
}

/// Why there is no store; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the store needs store.kind = \"sqlite\" or \"redis\"")]
    NoKind,
    #[error("{}: {error}. Name another store.data_dir, or let this user write there", path.display())]
    Directory { path: PathBuf, error: std::io::Error },
    #[error(
        "{}: the process {holder} has this store. End it, or give each server its own store.data_dir", path.display()
    )]
    Locked { path: PathBuf, holder: String },
    #[error(
        "{}: its format is {found}, this version reads {known}. Start the version that wrote it, or move the \
         directory away", path.display()
    )]
    Format { path: PathBuf, found: i64, known: i64 },
    #[error("{}: this is no store of Rainbow's. Name another store.data_dir", path.display())]
    Foreign { path: PathBuf },
    #[error(
        "{}: the file is damaged ({detail}). Put a backup of the directory in its place, or move it away to start \
         with no sessions", path.display()
    )]
    Damaged { path: PathBuf, detail: String },
    #[error("{}: the disk is full. Make room and start again", path.display())]
    DiskFull { path: PathBuf },
    #[error("{}: it cannot be written. Let this user write there, or mount it writable", path.display())]
    ReadOnly { path: PathBuf },
    #[error("{}: {detail}", path.display())]
    Failed { path: PathBuf, detail: String },
    #[error("the store in Redis: {detail}")]
    Redis { detail: String },
}

/// One store, of either kind.
pub enum Store {
    Sqlite(Box<Sqlite>),
    Redis(Box<Redis>),
}

impl Store {
    /// Opens it and finds what it holds. What has expired and is not purged yet counts.
    pub fn open(options: &Options, _now: Now) -> Result<(Store, Opened), OpenError> {
        match options.kind {
            StoreKind::Sqlite => {
                let (store, opened) = Sqlite::open(options)?;
                Ok((Store::Sqlite(Box::new(store)), opened))
            }
            StoreKind::Redis => {
                let (store, opened) = Redis::open(options)?;
                Ok((Store::Redis(Box::new(store)), opened))
            }
            StoreKind::None => Err(OpenError::NoKind),
        }
    }

    /// Does all of it, one commit, and returns when that is as durable as it was promised to be: one answer per
    /// request, in their order. A load sees the steps before it.
    pub fn commit(&mut self, requests: Vec<Request>, now: Now) -> Vec<Answer> {
        match self {
            Store::Sqlite(store) => store.commit(requests, now),
            Store::Redis(store) => store.commit(requests, now),
        }
    }

    /// Removes what has expired, `most` of it at most.
    pub fn purge(&mut self, now: Now, most: usize) -> Purged {
        match self {
            Store::Sqlite(store) => store.purge(now, most),
            Store::Redis(store) => store.purge(now, most),
        }
    }

    /// Housekeeping after each batch, when its answers are told (a checkpoint, where one is due). `idle`: nothing
    /// waits, it may take longer.
    pub fn tend(&mut self, idle: bool) {
        match self {
            Store::Sqlite(store) => store.tend(idle),
            Store::Redis(store) => store.tend(idle),
        }
    }

    /// Called every second or so: looks whether what was wrong is over, and whether what was right still is.
    pub fn check(&mut self, now: Now) {
        match self {
            Store::Sqlite(store) => store.check(now),
            Store::Redis(store) => store.check(now),
        }
    }

    pub fn state(&self) -> State {
        match self {
            Store::Sqlite(store) => store.state(),
            Store::Redis(store) => store.state(),
        }
    }

    pub fn held(&self) -> Held {
        match self {
            Store::Sqlite(store) => store.held(),
            Store::Redis(store) => store.held(),
        }
    }

    /// From the next commit on (a reload).
    pub fn set_bytes_max(&mut self, bytes_max: u64) {
        match self {
            Store::Sqlite(store) => store.set_bytes_max(bytes_max),
            Store::Redis(store) => store.set_bytes_max(bytes_max),
        }
    }

    /// Leaves everything in order; a store that is only dropped is as good as one whose process died.
    pub fn close(self) {
        match self {
            Store::Sqlite(store) => store.close(),
            Store::Redis(store) => store.close(),
        }
    }
}
