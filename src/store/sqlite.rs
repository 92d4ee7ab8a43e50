//! The embedded store: one SQLite file in WAL mode, one connection, one transaction per batch.
//!
//! ```text
//! data_dir/lock          held (flock) as long as the process lives, with its pid
//! data_dir/reserve       room that is given up when the disk is full, so that what makes room can be written
//! data_dir/rainbow.db    tables: see `schema`; `rainbow.db-wal`: what was committed since the last checkpoint
//! ```
//!
//! What a failure means is decided here, once: a full disk is rolled back, only what makes room is done from then on,
//! and every second it is looked whether there is some; a failed write or fsync ends all promises until a restart,
//! since what the disk holds is no longer known. Reading goes on as long as it works. It never calls ok what did not
//! reach the disk, and it never panics over a file.

mod book;
mod fault;
mod find;
mod ledger;
mod purge;
mod schema;
#[cfg(test)]
mod tests;

use super::crash;
use super::{ClaimOutcome, Health, OpenError, Opened, Options, PurgeOutcome, Request, Response, Usage};
use crate::shard::command::{Completion, Operation, StoreError, UnixMs};
use book::{Allowed, Book};
use fault::Fault;
use schema::Directory;

pub struct Sqlite {
    book: Book,
    directory: Directory,
    bytes_max: u64,
    /// Why no promise is made, since when it is so.
    fault: Option<Fault>,
}

impl Sqlite {
    pub fn open(options: &Options) -> Result<(Sqlite, Opened), OpenError> {
        crash::point("open.before");
        let mut directory = Directory::take(&options.data_dir)?;
        let conn = schema::open(&mut directory, options.durability)?;
        crash::point("open.inside");
        let (book, sessions) = find::all(conn).map_err(|error| directory.open_error(error))?;
        crash::point("open.after");
        // On a disk that is nearly full it goes without, and says so when it is full.
        let _ = directory.has_reserve();
        let store = Sqlite { book, directory, bytes_max: options.bytes_max, fault: None };
        Ok((store, Opened { sessions }))
    }

    pub fn commit(&mut self, requests: Vec<Request>, now: UnixMs) -> Vec<Response> {
        crash::point("commit.before");
        match self.fault {
            Some(Fault { reason, lasts: true, .. }) => return self.refuse_all(&requests, reason, now),
            Some(Fault { reason: StoreError::DiskFull, .. }) => return self.commit_freeing(&requests, now),
            _ => {}
        }
        let bytes_max = self.bytes_max;
        let written = self.book.write(|book| {
            let answers = book.apply(&requests, now, Allowed::All { bytes_max })?;
            crash::point("commit.inside");
            Ok(answers)
        });
        match written {
            Ok(answers) => {
                crash::point("commit.after");
                self.fault = None;
                answers
            }
            Err(error) => match self.suffer(error) {
                StoreError::DiskFull => self.commit_freeing(&requests, now),
                reason => self.refuse_all(&requests, reason, now),
            },
        }
    }

    /// A full disk refuses what needs room. What makes room must not be refused with it, or it would stay full.
    fn commit_freeing(&mut self, requests: &[Request], now: UnixMs) -> Vec<Response> {
        let otherwise = StoreError::DiskFull;
        match self.book.write(|book| book.apply(requests, now, Allowed::Freeing { otherwise })) {
            Ok(answers) => answers,
            Err(error) => {
                let reason = self.suffer(error);
                self.refuse_all(requests, reason, now)
            }
        }
    }

    /// Nothing is written; loads are answered as long as reading works.
    fn refuse_all(&mut self, requests: &[Request], reason: StoreError, now: UnixMs) -> Vec<Response> {
        requests.iter().map(|request| self.refuse(request, reason, now)).collect()
    }

    fn refuse(&mut self, request: &Request, reason: StoreError, now: UnixMs) -> Response {
        match request {
            Request::Shard { shard, command } => {
                let completion = match command.operation {
                    Operation::Load { session, after, most } => match self.book.load(session, after, most, now) {
                        Ok(page) => Completion::Loaded(page),
                        Err(error) => Completion::Refused(self.suffer(error)),
                    },
                    Operation::Mutate(_) => Completion::Refused(reason),
                };
                Response::Shard { shard: *shard, number: command.number, completion }
            }
            Request::Claim { id, .. } => Response::Claim { id: *id, outcome: ClaimOutcome::Refused(reason) },
            Request::Settle { .. } => Response::Settled,
        }
    }

    /// Notes what went wrong; what lasts is not replaced by what passes.
    fn suffer(&mut self, error: rusqlite::Error) -> StoreError {
        let fault = self.directory.fault(&error);
        let reason = fault.reason;
        if reason == StoreError::DiskFull && self.directory.give_reserve_up() {
            // The log is written back into that room, and has room itself then, for what frees some.
            let _ = self.book.checkpoint();
        }
        if !self.fault.as_ref().is_some_and(|old| old.lasts) {
            self.fault = Some(fault);
        }
        reason
    }

    pub fn purge(&mut self, now: UnixMs, most: usize) -> PurgeOutcome {
        if self.fault.as_ref().is_some_and(|fault| fault.lasts) {
            return PurgeOutcome::default();
        }
        match self.book.write(|book| purge::slice(book, now, most)) {
            Ok(purged) => purged,
            Err(error) => {
                self.suffer(error);
                PurgeOutcome::default()
            }
        }
    }

    /// Writes the log back into the file when it has grown, and gives unused room back when there is nothing else to
    /// do. In the way of nobody's answer but those who come meanwhile, so a little at a time.
    pub fn maintain(&mut self, idle: bool) {
        if self.fault.as_ref().is_some_and(|fault| fault.lasts) {
            return;
        }
        let due = if idle { WAL_PAGES_IDLE } else { WAL_PAGES };
        let tended = match self.book.wal_pages() {
            pages if pages >= due => self.book.checkpoint(),
            _ if idle => self.book.shrink_when_it_pays(SHRINK_PAGES),
            _ => Ok(()),
        };
        if let Err(error) = tended {
            self.suffer(error);
        }
    }

    pub fn check(&mut self, _: UnixMs) {
        match &self.fault {
            Some(fault) if fault.lasts => {}
            Some(_) => {
                // What was freed within the file is room for the reserve, too.
                let shrunk = self.book.shrink(SHRINK_PAGES);
                match shrunk.and_then(|()| self.directory.has_reserve()).and_then(|()| self.book.touch()) {
                    Ok(()) => self.fault = None,
                    Err(error) => {
                        self.suffer(error);
                    }
                }
            }
            None => self.fault = self.directory.lost(),
        }
    }

    pub fn health(&self) -> Health {
        match &self.fault {
            None => Health::Ready,
            Some(fault) => Health::Refusing { reason: fault.reason, detail: fault.detail.clone() },
        }
    }

    pub fn usage(&self) -> Usage {
        self.book.ledger.usage()
    }

    pub fn set_bytes_max(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
    }

    pub fn close(mut self) {
        crash::point("close.before");
        if !self.fault.as_ref().is_some_and(|fault| fault.lasts)
            && let Err(error) = self.book.checkpoint()
        {
            self.suffer(error);
        }
    }
}

/// 8 MiB. A checkpoint stops the answers while it writes as many pages as changed since the last one; a longer log
/// would save writes of pages that change often, and stop the answers for longer.
const WAL_PAGES: u32 = 2048;
/// With nothing to do, a small log is written back too: the next start has less to read.
const WAL_PAGES_IDLE: u32 = 64;
/// 4 MiB given back to the disk at a time.
const SHRINK_PAGES: u32 = 1024;
