//! The embedded store: one SQLite file in WAL mode, one connection, one transaction per batch.
//!
//! ```text
//! data_dir/lock          locked (flock) for as long as the process lives; contains its pid
//! data_dir/reserve       given up when the disk is full, so that what makes room can be written
//! data_dir/in-use         says that there has been a database: an empty one is not taken for a new one
//! data_dir/backup-lock    keeps checkpoints and `rainbow-server backup` apart
//! data_dir/accept-loss    made by the operator, for one start: what is damaged or missing is given up
//! data_dir/rainbow.db    tables: see `schema`; `rainbow.db-wal` has what was committed since the last checkpoint
//! ```
//!
//! What a failure means is decided here. When the disk is full, the batch is rolled back, only what makes room is done
//! from then on, and every second the store checks whether there is room again. After a failed write or fsync nothing
//! is stored until a restart, since what the disk holds is no longer known. Loads are answered for as long as reading
//! works. The store never completes what did not reach the disk, and no file makes it panic.

mod apply;
mod backup;
mod database;
mod directory;
mod fault;
mod index;
mod load;
mod purge;
mod rows;
mod scan;
mod schema;
mod tables;
#[cfg(test)]
mod tests;
mod transfer;

use super::crash;
use super::health::{Health, Usage};
use super::opening::{OpenError, Opened, Options, Sharing};
use super::request::{ClaimOutcome, PurgeOutcome, Request, Response};
use crate::config::Durability;
use crate::shard::command::transfer::TransferAnswer;
use crate::shard::command::{Completion, Operation, StoreError, Token, UnixMs};
use apply::{WriteMode, apply};
use backup::lock::BackupLock;
use database::Database;
use directory::{Directory, log};
use fault::{Fault, open_error, reserve_error};
use tracing::warn;
use transfer::Nodes;

pub use backup::{Backup, BackupError, Progress, back_up};

pub struct Sqlite {
    database: Database,
    directory: Directory,
    bytes_max: u64,
    /// Why the store refuses; `None` when it does not.
    fault: Option<Fault>,
}

impl Sqlite {
    pub fn open(options: &Options) -> Result<(Sqlite, Opened), OpenError> {
        crash::point("open.before");
        let mut directory = Directory::lock(&options.data_dir)?;
        check_log(&directory, options.durability)?;
        let connection = schema::open(&mut directory, options.durability)?;
        crash::point("open.inside");
        let lock = BackupLock::open(directory.path())
            .map_err(|error| OpenError::Directory { path: options.data_dir.clone(), error })?;
        let (mut database, sessions) = scan::scan(connection, lock).map_err(|error| open_error(&directory, error))?;
        let own = (options.node.sharing == Sharing::Cluster).then_some(options.node.generation);
        let token = own.map(|own| Token::new(own, 1));
        let opened = transfer::on_open(&mut database, own, sessions);
        let (sessions, leaving) = opened.map_err(|error| open_error(&directory, error))?;
        let nodes = transfer::nodes(database.connection());
        let Nodes { disk, lives, met } = nodes.map_err(|error| open_error(&directory, error))?;
        let connections =
            tables::connections::all(database.connection()).map_err(|error| open_error(&directory, error))?;
        crash::point("open.after");
        directory.forget_accepted_loss();
        // On a disk that is nearly full the store works without a reserve, and reports it once the disk is full.
        let _ = directory.ensure_reserve();
        let store = Sqlite { database, directory, bytes_max: options.bytes_max, fault: None };
        Ok((store, Opened { sessions, leaving, disk, lives, met, damaged: 0, connections, token }))
    }

    pub fn commit(&mut self, requests: Vec<Request>, now: UnixMs) -> Vec<Response> {
        crash::point("commit.before");
        match self.fault {
            Some(Fault { reason, permanent: true, .. }) => return self.refuse_all(&requests, reason),
            Some(Fault { reason: StoreError::DiskFull, .. }) => return self.commit_freeing(&requests, now),
            _ => {}
        }
        let bytes_max = self.bytes_max;
        let written = self.database.write(|transaction| {
            let responses = apply(transaction, &requests, now, WriteMode::Normal { bytes_max })?;
            crash::point("commit.inside");
            Ok(responses)
        });
        match written {
            Ok(responses) => {
                crash::point("commit.after");
                self.fault = None;
                responses
            }
            Err(error) => match self.note_fault(error) {
                StoreError::DiskFull => self.commit_freeing(&requests, now),
                reason => self.refuse_all(&requests, reason),
            },
        }
    }

    /// A full disk refuses what needs room. What makes room must not be refused with it, or the disk would stay full.
    fn commit_freeing(&mut self, requests: &[Request], now: UnixMs) -> Vec<Response> {
        let mode = WriteMode::FreeingOnly { refusal: StoreError::DiskFull };
        match self.database.write(|transaction| apply(transaction, requests, now, mode)) {
            Ok(responses) => responses,
            Err(error) => {
                let reason = self.note_fault(error);
                self.refuse_all(requests, reason)
            }
        }
    }

    /// Writes nothing; answers loads for as long as reading works.
    fn refuse_all(&mut self, requests: &[Request], reason: StoreError) -> Vec<Response> {
        requests.iter().map(|request| self.refuse(request, reason)).collect()
    }

    fn refuse(&mut self, request: &Request, reason: StoreError) -> Response {
        match request {
            Request::Shard { shard, command } => {
                let completion = match command.operation {
                    Operation::Load { session, after, most } => {
                        let (connection, index) = (self.database.connection(), self.database.index());
                        match load::complete(connection, index, (session, after, most)) {
                            Ok(completion) => completion,
                            Err(error) => Completion::Refused(self.note_fault(error)),
                        }
                    }
                    Operation::Mutate(_) => Completion::Refused(reason),
                };
                Response::Shard { shard: *shard, number: command.number, completion }
            }
            Request::Claim { id, .. } => Response::Claim { id: *id, outcome: ClaimOutcome::Refused(reason) },
            Request::Settle { .. } | Request::RemoveConnection { .. } => Response::Settled,
            Request::PutConnection { id, .. } => Response::ConnectionPut { id: *id, is_stored: false },
            Request::Transfer { id, .. } => Response::Transfer { id: *id, answer: TransferAnswer::Refused(reason) },
            Request::Ownership { shard, command } => apply::refuse_ownership(*shard, command),
        }
    }

    /// Notes the fault and returns its reason. A fault that can pass does not replace a permanent one.
    fn note_fault(&mut self, error: rusqlite::Error) -> StoreError {
        let fault = Fault::new(&self.directory, &error);
        let reason = fault.reason;
        if reason == StoreError::DiskFull && self.directory.give_up_reserve() {
            // The log is written back into that room; then the log itself has room for what frees more.
            self.database.end_backup();
            let _ = self.database.checkpoint();
        }
        if !self.has_permanent_fault() {
            self.fault = Some(fault);
        }
        reason
    }

    fn has_permanent_fault(&self) -> bool {
        self.fault.as_ref().is_some_and(|fault| fault.permanent)
    }

    pub fn purge(&mut self, now: UnixMs, most: usize) -> PurgeOutcome {
        if self.has_permanent_fault() {
            return PurgeOutcome::default();
        }
        self.database.write(|transaction| purge::purge(transaction, now, most)).unwrap_or_else(|error| {
            self.note_fault(error);
            PurgeOutcome::default()
        })
    }

    /// Writes the log back into the file when it has grown, and gives unused room back to the disk when no request
    /// waits. Requests that come meanwhile wait, so it does a little at a time.
    pub fn maintain(&mut self, idle: bool) {
        if self.has_permanent_fault() {
            return;
        }
        let limit = if idle { WAL_PAGES_IDLE } else { WAL_PAGES };
        let maintained = match self.database.wal_pages() {
            pages if pages >= WAL_PAGES_BACKUP => {
                self.database.end_backup();
                self.database.checkpoint()
            }
            pages if pages >= limit => self.database.checkpoint(),
            _ if idle && !self.database.is_backed_up() => self.database.shrink_if_worthwhile(SHRINK_PAGES),
            _ => Ok(()),
        };
        if let Err(error) = maintained {
            self.note_fault(error);
        }
    }

    pub fn check(&mut self, _: UnixMs) {
        match &self.fault {
            Some(fault) if fault.permanent => {}
            Some(_) => {
                if let Err(error) = self.try_writing() {
                    self.note_fault(error);
                } else {
                    self.fault = None;
                }
            }
            None if !self.directory.has_database() => self.fault = Some(Fault::file_replaced(&self.directory)),
            None => {}
        }
    }

    /// Whether the fault has passed. Pages that were freed within the file are room for the reserve, too.
    fn try_writing(&mut self) -> rusqlite::Result<()> {
        self.database.shrink(SHRINK_PAGES)?;
        self.directory.ensure_reserve().map_err(|error| reserve_error(&error))?;
        self.database.probe_write()
    }

    pub fn health(&self) -> Health {
        match &self.fault {
            None => Health::Ready,
            Some(fault) => Health::Refusing { reason: fault.reason, detail: fault.detail.clone() },
        }
    }

    pub fn usage(&self) -> Usage {
        self.database.index().usage()
    }

    pub fn set_bytes_max(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
    }

    pub fn close(mut self) {
        crash::point("close.before");
        if !self.has_permanent_fault()
            && let Err(error) = self.database.checkpoint()
        {
            self.note_fault(error);
        }
    }
}

/// Without fsync the log is what the system made of it when the power failed: a gap in it is no damage.
fn check_log(directory: &Directory, durability: Durability) -> Result<(), OpenError> {
    let path = directory.log();
    let lost = log::check(&path).map_err(|error| OpenError::Directory { path: path.clone(), error })?;
    if !lost.is_damage() || directory.loss_is_accepted() {
        return Ok(());
    }
    match durability {
        Durability::Fsync => Err(OpenError::LogDamaged { path, commits: lost.commits }),
        Durability::Memory => {
            warn!(log = %path.display(), commits = lost.commits, "the log has a gap: what lies behind it is lost");
            Ok(())
        }
    }
}

/// 8 MiB. A checkpoint stops the responses while it writes as many pages as changed since the last one. A longer log
/// would save writes of pages that change often, and stop the responses for longer.
const WAL_PAGES: u32 = 2048;
/// When no request waits, a small log is written back too: the next start has less to read.
const WAL_PAGES_IDLE: u32 = 64;
/// 256 MiB, the longest log beside a backup: writing it back stops the responses for a second or two.
const WAL_PAGES_BACKUP: u32 = 65_536;
/// 4 MiB given back to the disk at a time.
const SHRINK_PAGES: u32 = 1024;
