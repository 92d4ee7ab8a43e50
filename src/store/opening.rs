//! How a store is opened: what the operator decided (`Options`), what the store held already (`Opened`), and why it
//! could not be opened (`OpenError`, whose texts tell the operator what to do).

use crate::base::id::{DiskId, Generation};
use crate::base::secret::Secret;
use crate::config::{Config, Durability, StoreKind};
use crate::shard::command::StoredSession;
use crate::shard::command::Token;
use crate::store::request::ConnectionRecord;
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub kind: StoreKind,
    pub data_dir: PathBuf,
    pub url: Secret,
    pub durability: Durability,
    /// The limit of all sessions together. A `PutMessage` that would pass it is refused (`StoreFull`).
    pub bytes_max: u64,
    /// Keeps the stores of different clusters apart in one Redis.
    pub cluster_name: String,
    pub node: StoreNode,
}

/// Who opens a store that others may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreNode {
    /// This life of it; no other has the same.
    pub generation: Generation,
    /// Where it runs: of two that were at one place, the earlier one has ended.
    pub place: String,
    /// Where the other nodes reach it; `None`: it has none.
    pub address: Option<SocketAddr>,
    pub sharing: Sharing,
}

impl StoreNode {
    /// Of a store that no other server can use.
    pub fn alone() -> StoreNode {
        StoreNode { generation: Generation(1), place: String::new(), address: None, sharing: Sharing::Alone }
    }
}

/// Who uses a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// This server alone: whatever lies there is its own, and who was there before has ended.
    Alone,
    /// All nodes of a cluster, each its own sessions.
    Cluster,
}

impl Options {
    /// `None`: no session is durable.
    pub fn new(config: &Config, node: StoreNode) -> Option<Options> {
        let store = &config.store;
        (store.kind != StoreKind::None).then(|| Options {
            kind: store.kind,
            data_dir: store.data_dir.clone(),
            url: store.url.clone(),
            durability: store.durability,
            bytes_max: store.bytes_max as u64,
            cluster_name: config.cluster.name.clone(),
            node,
        })
    }
}

/// What the store held when it was opened.
#[derive(Debug, Default)]
pub struct Opened {
    /// The sessions that are this server's, each with a summary of the messages that wait for it.
    pub sessions: Vec<StoredSession>,
    /// Sessions that were on their way to another node, and by which transfer: nobody's before that is settled.
    pub leaving: Vec<(StoredSession, Token)>,
    /// Where the store is a node's disk: which one, the lives of that node, and the others that it has met.
    pub disk: Option<DiskId>,
    pub lives: Vec<Generation>,
    pub met: Vec<MetNode>,
    /// Connections of former lives whose closes nobody has reported.
    pub connections: Vec<ConnectionRecord>,
    /// By which it owns them, where others use the store too.
    pub token: Option<Token>,
    /// Sessions that are left where they lie, since they cannot be read (see the log).
    pub damaged: u64,
}

/// The last known life of a node that this one has met, and its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetNode {
    pub node: Generation,
    pub disk: Option<DiskId>,
}

/// Why the store could not be opened.
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
    #[error(
        "{}: the log is damaged, and up to {commits} commits behind the damage would be lost. Put a backup of the \
         directory in its place, or make an empty file accept-loss beside it to start with what lies before",
        path.display()
    )]
    LogDamaged { path: PathBuf, commits: u64 },
    #[error(
        "{}: the database is empty, and this directory has had sessions. Put a backup of the directory in its place, \
         or make an empty file accept-loss beside it to start with no sessions",
        path.display()
    )]
    Emptied { path: PathBuf },
    #[error("{}: the disk is full. Make room and start again", path.display())]
    DiskFull { path: PathBuf },
    #[error("{}: it cannot be written. Let this user write there, or mount it writable", path.display())]
    ReadOnly { path: PathBuf },
    #[error("{}: {detail}", path.display())]
    Failed { path: PathBuf, detail: String },
    #[error("the store in Redis: {detail}")]
    Redis { detail: String },
}
