//! Sessions and messages that outlive connections and the process: one interface (`Store`), SQLite and Redis behind
//! it. The store only stores; the shard decides what. Everything here blocks and runs on the store's own thread
//! (`io::store`), which alone calls it.

pub mod crash;
mod dispatch;
mod health;
mod opening;
mod redis;
mod request;
mod sqlite;

pub use dispatch::Store;
pub use health::{Health, Usage};
pub use opening::{MetNode, OpenError, Opened, Options, Sharing, StoreNode};
pub use request::{
    ClaimId, ClaimOutcome, ConnectionRecord, NodeRecord, OrphanedSessions, PurgeOutcome, RecordId, Request, Response,
    TransferId,
};
pub use sqlite::{Backup, BackupError, Progress, back_up};
