//! Two sessions of one name become one: what another disk has of it comes into the session that is here, behind what
//! waits for it. The store moves the messages; here they get their offsets, and are counted.
//!
//! ```text
//! begin: offsets ─► the store's transaction ─► end: channels, what has not come is uncounted, the client gets the rest
//! ```
//! For the shard it is as if all of them were stored at once: a load that was under way before has none of them, and
//! every later one has.

use super::reserve_ahead;
use crate::shard::channel::user::user_of;
use crate::shard::command::transfer::{Backlog, Room};
use crate::shard::command::{IDS, Offset};
use crate::shard::ids::{SessionIndex, SessionKey};
use crate::shard::session::channels::note_online;
use crate::shard::session::pages::load_more;
use crate::shard::session::scope::Scope;
use std::sync::Arc;

/// What is kept free, until the store has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    key: SessionKey,
    backlog: Backlog,
    pub room: Room,
}

/// What a session has of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    Absent,
    /// A connection, for so long.
    Online {
        age_ms: u64,
    },
}

/// The sessions of a shard, as far as those of other nodes come into them.
pub struct Union<'a>(Scope<'a>);

impl<'a> Union<'a> {
    pub fn new(scope: Scope<'a>) -> Union<'a> {
        Union(scope)
    }

    /// `None`: it is not here, or is on its way to another node.
    pub fn attachment(&self, name: &str) -> Option<Attachment> {
        let Union(scope) = self;
        let session = scope.sessions.table.at(scope.sessions.table.present(name)?);
        Some(match session.conn {
            Some(conn) => Attachment::Online { age_ms: scope.conns.age_ms(conn, scope.cx.now) },
            None => Attachment::Absent,
        })
    }

    /// Messages below it may have been sent to the session's client.
    pub fn launched(&self, name: &str) -> Option<Offset> {
        let Union(scope) = self;
        scope.sessions.table.by_name(name).map(|index| scope.sessions.table.at(index).launched)
    }

    /// Makes room for the messages; `end` must follow when the store has answered. `None`: the session is not here, or
    /// takes nothing now.
    pub fn begin(&mut self, name: &str, backlog: Backlog, channels: Vec<Arc<str>>) -> Option<Place> {
        let Union(scope) = self;
        let index = scope.sessions.table.present(name)?;
        let span_max = IDS - scope.cx.settings.limits.reserve_block_max;
        let is_ending = scope.sessions.table.is_ending(index, scope.cx.now);
        let is_busy = scope.sessions.commands.is_busy(&scope.cx);
        let session = scope.sessions.table.at_mut(index);
        let next = Offset(session.next.0 + u64::from(backlog.messages));
        // No two unfinished messages may have one id.
        if is_ending || is_busy || next.0 - session.oldest.0 >= span_max {
            return None;
        }
        let first = std::mem::replace(&mut session.next, next);
        // While a page is under way too: they are not in it.
        session.more |= session.conn.is_some() && backlog.messages > 0;
        session.waiting += backlog.messages;
        session.waiting_bytes += backlog.bytes;
        session.oldest_stored = session.oldest_stored.into_iter().chain(backlog.oldest).min();
        let (key, session) = (session.key(index), session.id);
        reserve_ahead(scope, index);
        let channels = wanted(scope, index, channels);
        Some(Place { key, backlog, room: Room { session, first, channels } })
    }

    /// The store has done it, and `taken` of the messages are there; `None`: it has not.
    pub fn end(&mut self, place: Place, taken: Option<Backlog>) {
        let Union(scope) = self;
        let Place { key, backlog, room } = place;
        let Some(session) = scope.sessions.table.get_mut(key) else { return };
        let (messages, bytes) = taken.map_or((0, 0), |taken| (taken.messages, taken.bytes));
        session.uncount_expired(backlog.messages.saturating_sub(messages), backlog.bytes.saturating_sub(bytes));
        for channel in room.channels.iter().filter(|_| taken.is_some()) {
            join(scope, key, channel);
        }
        note_online(scope, key.index);
        load_more(scope, key.index);
    }
}

/// A session is one user's: where this one has one, the other's is not taken.
fn wanted(scope: &Scope<'_>, index: SessionIndex, mut channels: Vec<Arc<str>>) -> Vec<Arc<str>> {
    let joined = &scope.sessions.table.at(index).joined;
    if scope.channels.joined_names(joined).any(|channel| user_of(channel).is_some()) {
        channels.retain(|channel| user_of(channel).is_none());
    }
    channels
}

/// The store has the session in it. Whoever changes that meanwhile has the last word, there as here.
fn join(scope: &mut Scope<'_>, key: SessionKey, channel: &Arc<str>) {
    if !scope.sessions.channel_changes.is_under_way(key, channel) {
        let session = scope.sessions.table.at_mut(key.index);
        let change = scope.channels.join(key.index.into(), &mut session.joined, channel);
        scope.cx.presence(change, true);
    }
}
