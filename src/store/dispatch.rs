//! One store, SQLite or Redis: each call goes to the kind that the operator configured. Every method may block; the
//! store's thread (`io::store`) alone calls them: a batch of requests, a commit, the responses; between batches
//! `purge`, `maintain` and `check`.

use super::health::{Health, Usage};
use super::opening::{OpenError, Opened, Options};
use super::redis::Redis;
use super::request::{ConnectionRecord, NodeRecord, OrphanedSessions, PurgeOutcome, Request, Response};
use super::sqlite::Sqlite;
use crate::base::id::Generation;
use crate::config::StoreKind;
use crate::shard::command::UnixMs;
use std::sync::Arc;

pub enum Store {
    Sqlite(Box<Sqlite>),
    Redis(Box<Redis>),
}

impl Store {
    /// Opens the store and reads what it holds. Expired messages that are not purged yet are among it.
    pub fn open(options: &Options, _now: UnixMs) -> Result<(Store, Opened), OpenError> {
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

    /// Carries out all requests in one commit, and returns when the commit is as durable as the operator asked for: one
    /// response per request, in their order. A load sees the mutations before it.
    pub fn commit(&mut self, requests: Vec<Request>, now: UnixMs) -> Vec<Response> {
        match self {
            Store::Sqlite(store) => store.commit(requests, now),
            Store::Redis(store) => store.commit(requests, now),
        }
    }

    /// Removes expired messages, at most `most` of them.
    pub fn purge(&mut self, now: UnixMs, most: usize) -> PurgeOutcome {
        match self {
            Store::Sqlite(store) => store.purge(now, most),
            Store::Redis(store) => store.purge(now, most),
        }
    }

    /// Housekeeping after each batch, when its responses are delivered (a checkpoint, where one is due). `idle`: no
    /// request waits, so it may take longer.
    pub fn maintain(&mut self, idle: bool) {
        match self {
            Store::Sqlite(store) => store.maintain(idle),
            Store::Redis(store) => store.maintain(idle),
        }
    }

    /// Called every second or so: checks whether a fault has passed, and whether a healthy store still is. Returns what
    /// the store's clock showed meanwhile; `None`: it has none of its own, or does not answer.
    pub fn check(&mut self, now: UnixMs) -> Option<UnixMs> {
        match self {
            Store::Sqlite(store) => {
                store.check(now);
                None
            }
            Store::Redis(store) => store.check(now),
        }
    }

    pub fn health(&self) -> Health {
        match self {
            Store::Sqlite(store) => store.health(),
            Store::Redis(store) => store.health(),
        }
    }

    pub fn usage(&self) -> Usage {
        match self {
            Store::Sqlite(store) => store.usage(),
            Store::Redis(store) => store.usage(),
        }
    }

    /// From the next commit on (a reload).
    pub fn set_bytes_max(&mut self, bytes_max: u64) {
        match self {
            Store::Sqlite(store) => store.set_bytes_max(bytes_max),
            Store::Redis(store) => store.set_bytes_max(bytes_max),
        }
    }

    /// Sessions that another server has taken since the last call: nothing more is written to them.
    pub fn take_fenced(&mut self) -> Vec<Arc<str>> {
        match self {
            Store::Sqlite(_) => Vec::new(),
            Store::Redis(store) => store.take_fenced(),
        }
    }

    /// Nothing is promised before the process is started anew, as what it knows is not what the store has.
    pub fn has_ended(&self) -> bool {
        match self {
            Store::Sqlite(_) => false,
            Store::Redis(store) => store.has_ended(),
        }
    }

    // ---- of a store that others use too ----

    /// Renews this node's lease, and says which nodes there are. `None`: the store does not answer, or is one server's.
    pub fn renew(&mut self) -> Option<Vec<NodeRecord>> {
        match self {
            Store::Sqlite(_) => None,
            Store::Redis(store) => store.renew(),
        }
    }

    /// True if the store was away since the last call: what it said before of the nodes says nothing of now.
    pub fn take_reconnected(&mut self) -> bool {
        match self {
            Store::Sqlite(_) => false,
            Store::Redis(store) => store.take_reconnected(),
        }
    }

    /// Ends the life of a node whose lease has ended. False: it has not, or the store does not answer.
    pub fn bury(&mut self, node: Generation) -> bool {
        match self {
            Store::Sqlite(_) => false,
            Store::Redis(store) => store.bury(node),
        }
    }

    /// A page of a buried node's sessions; `from` is 0 or `next` of the last page. `None`: the store does not answer.
    pub fn orphans(&mut self, node: Generation, from: u64) -> Option<OrphanedSessions> {
        match self {
            Store::Sqlite(_) => None,
            Store::Redis(store) => store.orphans(node, from),
        }
    }

    /// Some of a buried node's connections, which are this node's to report from now on; none when it has none left.
    /// `None`: the store does not answer.
    pub fn take_connections(&mut self, node: Generation) -> Option<Vec<ConnectionRecord>> {
        match self {
            Store::Sqlite(_) => None,
            Store::Redis(store) => store.take_connections(node),
        }
    }

    /// Nothing of a buried node is left.
    pub fn forget_node(&mut self, node: Generation) {
        if let Store::Redis(store) = self {
            store.forget_node(node);
        }
    }

    /// Ends the store in order. A store that is only dropped is left like one whose process died, and loses nothing.
    pub fn close(self) {
        match self {
            Store::Sqlite(store) => store.close(),
            Store::Redis(store) => store.close(),
        }
    }
}
