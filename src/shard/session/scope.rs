//! What the handling of one input may change in a session: the parts of the shard below it, and all sessions.

use super::commands::{ChannelChanges, Commands, Then};
use super::table::SessionTable;
use super::table::listing::Listing;
use crate::base::id::ConnIndex;
use crate::base::keyed_hash::HashKey;
use crate::base::time::Tick;
use crate::shard::call::evictions::Evictions;
use crate::shard::call::waiting::CallRef;
use crate::shard::channel::largest::Largest;
use crate::shard::channel::members::Channels;
use crate::shard::command::{Mutation, Offset, SessionId};
use crate::shard::connection::downlink::Downlinks;
use crate::shard::connection::table::Table;
use crate::shard::connection::uplink::Uplinks;
use crate::shard::context::Context;
use crate::shard::ids::{SessionIndex, SessionKey};
use rustc_hash::FxHashMap;

/// The sessions of a shard, with their commands to the store.
pub struct Sessions {
    pub table: SessionTable,
    pub listing: Listing,
    pub commands: Commands,
    pub channel_changes: ChannelChanges,
    pub evictions: Evictions,
    /// Calls that wait for messages on their way to the store whose connection has ended.
    pub detached_calls: FxHashMap<(SessionKey, Offset), CallRef>,
    /// Answers of QoS 2 that wait until the store can take more commands.
    pub delayed_answers: Vec<(SessionKey, u64)>,
    /// Sessions that have ended and that the store still has: `DropSession` is sent again at `drop_at`.
    pub undropped: Vec<SessionId>,
    pub drop_at: Tick,
}

pub struct Scope<'a> {
    pub conns: &'a mut Table,
    pub downlinks: &'a mut Downlinks,
    pub uplinks: &'a mut Uplinks,
    pub channels: &'a mut Channels,
    pub largest: &'a mut Largest,
    pub sessions: &'a mut Sessions,
    pub cx: Context<'a>,
}

impl Sessions {
    pub fn new(key: HashKey, now: Tick) -> Sessions {
        Sessions {
            table: SessionTable::new(key, now),
            listing: Listing::default(),
            commands: Commands::default(),
            channel_changes: ChannelChanges::default(),
            evictions: Evictions::default(),
            detached_calls: FxHashMap::default(),
            delayed_answers: Vec::new(),
            undropped: Vec::new(),
            drop_at: Tick::NEVER,
        }
    }

    /// When `end::tick` has something to do.
    pub fn next_tick(&self) -> Option<Tick> {
        let drop_at = (self.drop_at != Tick::NEVER).then_some(self.drop_at);
        self.table.next_expiry().into_iter().chain(drop_at).min()
    }
}

impl Scope<'_> {
    /// The session that the connection belongs to, or belonged to.
    pub fn session_of(&self, conn: ConnIndex) -> Option<SessionIndex> {
        let key = self.conns.conn(conn).session();
        self.sessions.table.get(key).map(|_| key.index)
    }

    /// The session that this is the current connection of.
    pub fn attached_session(&self, conn: ConnIndex) -> Option<SessionIndex> {
        self.session_of(conn).filter(|&index| self.sessions.table.at(index).conn == Some(conn))
    }

    /// The session's open connection.
    pub fn online_conn(&self, index: SessionIndex) -> Option<ConnIndex> {
        self.sessions.table.at(index).conn.filter(|&conn| self.conns.conn(conn).is_open())
    }

    pub fn mutate(&mut self, mutation: Mutation, then: Then) {
        self.sessions.commands.mutate(mutation, then, &mut self.cx);
    }

    pub fn load(&mut self, session: SessionId, after: Option<Offset>, then: Then) {
        self.sessions.commands.load(session, after, then, &mut self.cx);
    }
}
