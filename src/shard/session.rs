//! Durable sessions: what outlives the connection. A session belongs to one shard, its home, for as long as the process
//! lives; connections come and go.
//!
//! ```text
//!             Attach: row stored, first page loaded             line ends, or another takes over
//! (new) ─► Attaching ─────────────────────────────► Online ───────────────────────────────────► Absent ─► expired
//!              ▲                                                                                  │
//!              └──────────────────────────────────── Attach ──────────────────────────────────────┘
//! ```
//! In memory a session that is absent is what stands in `Session`; its messages, received ids and answers are in the
//! store. While it is online, its connection holds the messages in flight (`downlink`) and what came from the client
//! (`uplink`); when it ends, what is not finished is stored.

use super::arena::List;
use super::command::{
    DownlinkMark, IDS, Mutation, Offset, Page, Received, SessionId, SessionRow, StoreError, StoredSession, UnixMs,
    UplinkMark,
};
use super::conn::Phase;
use super::outbox::Item;
use super::parts::QueryId;
use super::storeline::{After, SessionKey};
use super::uplink::RESERVED_TYPE;
use super::{Bug, Message, Output, Reply, SessionInfo, Shard};
use crate::base::id::{ConnKey, Identity, ShardId};
use crate::base::time::Tick;
use crate::wire::packet::{MessageId, Packet, QoS};
use crate::wire::ws::frame::{self, CloseCode, Opcode};
use rustc_hash::{FxHashMap, FxHasher};
use slab::Slab;
use std::collections::HashSet;
use std::hash::Hasher;
use std::rc::Rc;
use std::sync::Arc;

/// The shard that a session belongs to, among as many as there are workers.
pub fn home(name: &str, workers: usize) -> ShardId {
    let mut hasher = FxHasher::default();
    hasher.write(name.as_bytes());
    // The high bits of Fx are the good ones.
    ShardId((((hasher.finish() >> 32) * workers as u64) >> 32) as u16)
}

/// Limits and times of durable sessions; times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SessionSettings {
    /// The wall clock, in milliseconds since 1970, when `Tick` was 0.
    pub unix_ms_at_zero: u64,
    /// A message that an online session has not acknowledged for so long is stored.
    pub patience_ms: u64,
    pub messages_max: usize,
    pub bytes_max: usize,
    pub expiry_s: u64,
    pub expiry_max_s: u64,
    pub message_ttl_ms: u64,
}

impl Default for SessionSettings {
    fn default() -> SessionSettings {
        SessionSettings {
            unix_ms_at_zero: 0,
            patience_ms: 1_000,
            messages_max: 1_000,
            bytes_max: 1 << 20,
            expiry_s: 24 * 3600,
            expiry_max_s: 30 * 24 * 3600,
            message_ttl_ms: 7 * 24 * 3_600_000,
        }
    }
}

/// Why a session is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    Expired,
    Dropped,
}

pub struct Session {
    pub id: SessionId,
    pub name: Arc<str>,
    pub generation: u32,
    /// The connection that is online or being attached; `NO_CONN`.
    pub conn: u32,
    /// The connection that has the client's messages: `conn`, or one that has ended while its last messages are with
    /// the backend; `NO_CONN`.
    pub holder: u32,
    pub joined: List,
    pub cookie: Option<Arc<[u8]>>,
    pub expiry_s: u64,
    pub ends: Option<UnixMs>,
    /// The next message's order.
    pub next: Offset,
    /// Orders below it may be used without being stored.
    pub reserved: Offset,
    /// As far as was asked for, in blocks of this many.
    pub reserving: Offset,
    pub block: u64,
    /// No message that is not finished has a lower order.
    pub oldest: Offset,
    /// All stored messages below it are in memory or finished, while online.
    pub loaded: Offset,
    /// Messages below it may have been sent on an earlier connection: they are repeats.
    pub launched: Offset,
    /// Messages in the store, those on their way there included.
    pub waiting: u32,
    pub waiting_bytes: u64,
    /// When the oldest of them was stored.
    pub oldest_stored: Option<UnixMs>,
    /// There may be stored messages that are not in memory.
    pub more: bool,
    pub loading: bool,
    /// Counts attachments: what was asked for an earlier one is not for this one.
    pub attempt: u32,
    pub mark: UplinkMark,
    /// The client's messages do not go on before the store has told of this number.
    pub line_hold: u64,
    /// The number of the last change that an answer to the client must not overtake.
    pub changed: u64,
    /// The number of the last change that was refused.
    pub spoiled: u64,
    /// Changes were refused, or were they made all the same: what seems to be so already is stored again.
    pub unsure: bool,
    /// After a crash: the client may hold QoS 2 ids of orders from the first up to the second.
    pub sweep: Option<(Offset, Offset)>,
    /// Its client speaks `rainbow.2`.
    pub greets: bool,
    /// Ids that the client holds although they are not in memory: what is stored under them may still be loaded.
    pub held: Vec<MessageId>,
    pub attaching: Option<Box<Attaching>>,
}

/// A connection on its way to become a session's.
pub struct Attaching {
    response: Rc<[u8]>,
    resumed: bool,
}

#[derive(Default)]
pub struct Sessions {
    slots: Slab<Session>,
    names: FxHashMap<Arc<str>, u32>,
    ids: FxHashMap<SessionId, u32>,
    generation: u32,
}

pub const NO_CONN: u32 = u32::MAX;

/// Marks a channel's member that is a session; the rest of the number is its slot.
pub const SESSION_MEMBER: u32 = 1 << 31;

impl Sessions {
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub fn get(&self, key: SessionKey) -> Option<&Session> {
        self.slots.get(key.index as usize).filter(|session| session.generation == key.generation)
    }

    pub fn get_mut(&mut self, key: SessionKey) -> Option<&mut Session> {
        self.slots.get_mut(key.index as usize).filter(|session| session.generation == key.generation)
    }

    pub fn at(&self, index: u32) -> &Session {
        &self.slots[index as usize]
    }

    pub fn at_mut(&mut self, index: u32) -> &mut Session {
        &mut self.slots[index as usize]
    }

    pub fn by_name(&self, name: &str) -> Option<u32> {
        self.names.get(name).copied()
    }

    pub fn by_id(&mut self, id: SessionId) -> Option<&mut Session> {
        self.ids.get(&id).map(|&index| &mut self.slots[index as usize])
    }

    #[cfg(any(test, debug_assertions))]
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Session)> {
        self.slots.iter().map(|(index, session)| (index as u32, session))
    }

    fn insert(&mut self, id: SessionId, name: Arc<str>) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        let session = Session {
            id,
            name: name.clone(),
            generation: self.generation,
            conn: NO_CONN,
            holder: NO_CONN,
            joined: List::default(),
            cookie: None,
            expiry_s: 0,
            ends: None,
            next: Offset(0),
            reserved: Offset(0),
            reserving: Offset(0),
            block: 0,
            oldest: Offset(0),
            loaded: Offset(0),
            launched: Offset(0),
            waiting: 0,
            waiting_bytes: 0,
            oldest_stored: None,
            more: false,
            loading: false,
            attempt: 0,
            mark: UplinkMark::FIRST,
            line_hold: 0,
            changed: 0,
            spoiled: 0,
            unsure: false,
            sweep: None,
            greets: false,
            held: Vec::new(),
            attaching: None,
        };
        let index = self.slots.insert(session) as u32;
        self.names.insert(name, index);
        self.ids.insert(id, index);
        index
    }

    fn remove(&mut self, index: u32) -> Session {
        let session = self.slots.remove(index as usize);
        self.names.remove(&session.name);
        self.ids.remove(&session.id);
        session
    }
}

impl Session {
    pub fn key(&self, index: u32) -> SessionKey {
        SessionKey { index, generation: self.generation }
    }

    fn row(&self) -> SessionRow {
        SessionRow {
            session: self.id,
            name: self.name.clone(),
            expiry_s: self.expiry_s,
            ends: self.ends,
            cookie: self.cookie.clone(),
            downlink: DownlinkMark { reserved: self.reserving, floor: self.floor() },
            uplink: self.mark,
        }
    }

    /// The client may hold QoS 2 ids of orders from here on that nothing is stored of.
    fn floor(&self) -> Offset {
        match self.sweep {
            Some((from, _)) => from,
            None if self.conn == NO_CONN => self.reserving,
            None => self.oldest,
        }
    }

    /// One more message is stored, or on its way there.
    pub fn count_waiting(&mut self, bytes: u64, now: UnixMs) {
        self.waiting += 1;
        self.waiting_bytes += bytes;
        self.oldest_stored.get_or_insert(now);
    }

    pub fn uncount_waiting(&mut self, bytes: u64) {
        self.waiting = self.waiting.saturating_sub(1);
        self.waiting_bytes = self.waiting_bytes.saturating_sub(bytes);
        if self.waiting == 0 {
            self.oldest_stored = None;
        }
    }
}

impl Shard {
    /// The slot of the session that the connection belongs to, or belonged to.
    pub(super) fn session_of(&self, index: u32) -> Option<u32> {
        let key = self.conns[index as usize].session;
        self.sessions.get(key).map(|_| key.index)
    }

    pub(super) fn unix(&self, now: Tick) -> UnixMs {
        UnixMs(self.settings.sessions.unix_ms_at_zero.saturating_add(now.0))
    }

    /// The sessions that were kept, at the start of the process and before any other input.
    pub fn restore(&mut self, found: Vec<StoredSession>, now: Tick) {
        let unix = self.unix(now);
        for StoredSession { row, channels, waiting, waiting_bytes, next, oldest, first } in found {
            let index = self.sessions.insert(row.session, row.name);
            let crashed = row.ends.is_none();
            let session = self.sessions.at_mut(index);
            (session.expiry_s, session.cookie) = (row.expiry_s, row.cookie);
            (session.waiting, session.waiting_bytes, session.oldest_stored) = (waiting, waiting_bytes, oldest);
            let reserved = row.downlink.reserved;
            session.next = next.max(reserved);
            (session.reserved, session.reserving) = (session.next, session.next);
            session.oldest = first.unwrap_or(session.next);
            // What was stored while it was away has not been sent; of the rest nobody knows.
            session.launched = if crashed { session.next } else { reserved };
            session.mark = if crashed { row.uplink.after_crash() } else { row.uplink };
            session.sweep = (row.downlink.floor < reserved).then_some((row.downlink.floor, reserved));
            session.ends = Some(row.ends.unwrap_or(UnixMs(unix.0.saturating_add(row.expiry_s.saturating_mul(1000)))));
            self.arm_end(index, now);
            for channel in channels {
                let session = self.sessions.at_mut(index);
                let change = self.channels.join(SESSION_MEMBER | index, &mut session.joined, &channel);
                self.told_presence(change, true);
            }
        }
    }

    /// Takes a slot for a connection that comes from another shard, where `stub` is its slot; `Input::Attach` or
    /// `Abandoned` must follow.
    pub fn adopt(&mut self, identity: Identity, stub: ConnKey, now: Tick) -> ConnKey {
        let (key, _) = self.take_slot(|_| identity, now);
        self.stubs.insert(key.index, stub);
        key
    }

    /// The connection becomes the session's; whoever was, is closed.
    pub(super) fn on_attach(&mut self, index: u32, attach: Attach, now: Tick) {
        let Attach { response, new, name, expiry_s, greets } = attach;
        let known = self.sessions.by_name(&name);
        let at = known.unwrap_or_else(|| self.sessions.insert(new, name));
        let resumed = self.take_over(at, now).unwrap_or(known.is_some());
        let settings = self.settings.sessions;
        let session = self.sessions.at_mut(at);
        session.conn = index;
        session.attempt = session.attempt.wrapping_add(1);
        session.attaching = Some(Box::new(Attaching { response, resumed }));
        session.expiry_s = expiry_s.unwrap_or(settings.expiry_s).min(settings.expiry_max_s);
        session.ends = None;
        session.greets = greets;
        // What is stored from now on is not in the first page.
        (session.loading, session.more) = (true, false);
        session.loaded = Offset(0);
        session.held.clear();
        if !self.settings.is_planted(Bug::ReservesNothing) {
            session.block = RESERVE_MIN;
            session.reserving = session.reserving.max(Offset(session.next.0 + RESERVE_MIN));
        }
        let (key, attempt) = (session.key(at), session.attempt);
        self.ends.cancel(at);
        let conn = &mut self.conns[index as usize];
        conn.session = key;
        match conn.cookie.take() {
            Some(cookie) => {
                session.cookie = Some(Arc::from(&cookie[..]));
                conn.cookie = Some(cookie.clone());
                // What an earlier connection still forwards is the session's too.
                if session.holder != NO_CONN {
                    self.conns[session.holder as usize].cookie = Some(cookie);
                }
            }
            None => conn.cookie = session.cookie.as_ref().map(|cookie| Rc::from(&cookie[..])),
        }
        let id = session.id;
        self.put(at, After::AttachStep(key, attempt));
        self.bring_channels(index, at);
        self.load(id, None, After::Attach(key, attempt));
    }

    /// Whoever holds the session loses it. Was it resumed, where that one has not even been let in?
    fn take_over(&mut self, at: u32, now: Tick) -> Option<bool> {
        let old = self.sessions.at(at).conn;
        if old == NO_CONN {
            return None;
        }
        self.stats.sessions_taken_over += 1;
        let mut resumed = None;
        match self.conns[old as usize].phase {
            Phase::Connecting => resumed = self.refuse_attaching(at, now),
            _ => self.begin_close(old, CloseCode::TAKEN_OVER, "taken over", now),
        }
        debug_assert_eq!(self.sessions.at(at).conn, NO_CONN);
        resumed
    }

    /// Another connection, or nobody, gets the session: it stays, even if it is new.
    fn refuse_attaching(&mut self, at: u32, now: Tick) -> Option<bool> {
        let session = self.sessions.at_mut(at);
        let (key, attempt) = (session.key(at), session.attempt);
        let resumed = std::mem::replace(&mut session.attaching.as_mut()?.resumed, true);
        self.refuse_attach(key, attempt, StoreError::Fenced, now);
        Some(resumed)
    }

    /// The store does not take it: the client is told to come back later.
    pub(super) fn refuse_attach(&mut self, session: SessionKey, attempt: u32, why: StoreError, now: Tick) {
        let Some(found) = self.sessions.get_mut(session).filter(|found| found.attempt == attempt) else { return };
        let Some(attaching) = found.attaching.take() else { return };
        let index = found.conn;
        found.conn = NO_CONN;
        found.attempt = found.attempt.wrapping_add(1);
        self.conns[index as usize].session = SessionKey::NONE;
        self.outputs.push_back(Output::AttachRefused { key: self.conns[index as usize].key(index, self.id), why });
        if attaching.resumed {
            self.rest(session.index, now);
        } else {
            // Whether it was stored is not known.
            let session = self.forget_session(session.index).id;
            self.store(Mutation::DropSession { session }, After::Dropped(session));
        }
    }

    /// The store has the session, and this is what waits for it: the 101 goes out.
    pub(super) fn on_attached(&mut self, key: SessionKey, attempt: u32, page: Page, now: Tick) {
        let Some(session) = self.sessions.get_mut(key).filter(|session| session.attempt == attempt) else { return };
        let Some(attaching) = session.attaching.take() else { return };
        let index = session.conn;
        let Attaching { response, resumed } = *attaching;
        // Its row was stored before this page was read.
        session.reserved = session.reserving;
        let (name, waiting, greets) = (session.name.clone(), session.waiting, session.greets);
        self.bring_uplink(key, index, page.received);
        self.on_opened(index, response, now);
        if greets && self.conns[index as usize].phase == Phase::Open {
            let greeting = greeting(&name, resumed, waiting);
            let greeting =
                self.messages.insert(Message::encode(QoS::AtMostOnce, RESERVED_TYPE, &greeting, &mut Vec::new()));
            self.deliver_qos0(index, &greeting);
            self.messages.release(greeting);
        }
        let conn_key = self.conns[index as usize].key(index, self.id);
        self.outputs.push_back(Output::Attached { key: conn_key });
        if self.conns[index as usize].phase == Phase::Open {
            self.take_page(key.index, page.messages, page.more, now);
            self.forward_next(index, now);
        }
    }

    /// What came from the client: from the connection that still has it, or from the store.
    fn bring_uplink(&mut self, key: SessionKey, index: u32, received: Vec<Received>) {
        let holder = self.sessions.at(key.index).holder;
        self.sessions.at_mut(key.index).holder = index;
        if holder == NO_CONN || self.settings.is_planted(Bug::LeavesUplink) {
            return self.restore_uplink(index, received);
        }
        self.move_uplink(holder, index);
        // Its slot stays while a message that it forwarded is with the backend.
        self.free_if_done(holder);
    }

    /// The session's connection is over: what is unfinished is stored, and the session waits for the next one.
    pub(super) fn detach(&mut self, index: u32, now: Tick) {
        let Some(at) = self.session_of(index).filter(|&at| self.sessions.at(at).conn == index) else { return };
        if self.sessions.at_mut(at).attaching.take().is_some() {
            self.conns[index as usize].session = SessionKey::NONE;
        } else {
            self.note_oldest(at, index);
            self.keep_unfinished(index, at, now);
        }
        let session = self.sessions.at_mut(at);
        session.conn = NO_CONN;
        session.attempt = session.attempt.wrapping_add(1);
        if session.holder == index && self.conns[index as usize].uplink.is_idle() {
            session.holder = NO_CONN;
        }
        self.rest(at, now);
    }

    /// The session waits: its row says until when.
    fn rest(&mut self, at: u32, now: Tick) {
        let unix = self.unix(now);
        let session = self.sessions.at_mut(at);
        session.ends = Some(UnixMs(unix.0.saturating_add(session.expiry_s.saturating_mul(1000))));
        // Nothing above is in use any more.
        (session.reserved, session.reserving) = (session.next, session.next);
        (session.more, session.loading) = (false, false);
        self.put(at, After::Nothing);
        self.arm_end(at, now);
    }

    /// Writes the session's row as it is now.
    pub(super) fn put(&mut self, at: u32, after: After) {
        let row = self.sessions.at(at).row();
        self.store(Mutation::PutSession(Box::new(row)), after);
    }

    pub(super) fn on_reserved(&mut self, key: SessionKey, upto: Offset) {
        if let Some(session) = self.sessions.get_mut(key).filter(|session| session.conn != NO_CONN) {
            session.reserved = session.reserved.max(upto.min(session.reserving));
        }
    }

    /// Asks for more orders before they run out.
    pub(super) fn reserve_ahead(&mut self, at: u32) {
        let session = self.sessions.at_mut(at);
        if session.conn != NO_CONN && session.next.0 + session.block / 2 >= session.reserving.0 {
            session.block = (session.block * 2).min(RESERVE_MAX);
            session.reserving = Offset(session.next.0 + session.block);
            let (key, upto) = (session.key(at), session.reserving);
            self.put(at, After::Reserved(key, upto));
        }
    }

    fn arm_end(&mut self, at: u32, now: Tick) {
        let unix = self.unix(now);
        if let Some(ends) = self.sessions.at(at).ends {
            self.ends.arm(at, now + ends.0.saturating_sub(unix.0));
        }
    }

    /// Sessions whose time is over, a bounded number per tick.
    pub(super) fn end_expired(&mut self, now: Tick) {
        for _ in 0..ENDS_PER_TICK {
            let Some(at) = self.ends.poll(now) else { return };
            let unix = self.unix(now);
            let session = self.sessions.at(at);
            match session.ends {
                Some(ends) if ends > unix => self.arm_end(at, now),
                Some(_) if session.holder != NO_CONN => self.ends.arm(at, now + ENDS_AGAIN_MS),
                Some(_) => {
                    self.stats.sessions_expired += 1;
                    let session = self.end_session(at, SessionEnd::Expired);
                    self.store(Mutation::DropSession { session }, After::Dropped(session));
                }
                None => {}
            }
        }
    }

    /// Takes the session out of memory; its `Step::Drop` must follow.
    fn end_session(&mut self, at: u32, why: SessionEnd) -> SessionId {
        let session = self.forget_session(at);
        self.outputs.push_back(Output::SessionEnded { name: session.name, cookie: session.cookie, why });
        session.id
    }

    fn forget_session(&mut self, at: u32) -> Session {
        self.ends.cancel(at);
        let mut joined = std::mem::take(&mut self.sessions.at_mut(at).joined);
        while let Some(change) = self.channels.leave_any(&mut joined) {
            self.told_presence(change, false);
        }
        self.sessions.remove(at)
    }

    /// `/session/drop/`: told when the store has forgotten it.
    pub(super) fn drop_session(&mut self, ticket: QueryId, name: &str, now: Tick) {
        let Some(at) = self.sessions.by_name(name) else {
            return self.outputs.push_back(Output::Reply { ticket, reply: Reply::Done { connections: 0 } });
        };
        let session = self.sessions.at(at);
        let (conn, holder) = (session.conn, session.holder);
        if conn != NO_CONN {
            match self.conns[conn as usize].phase {
                Phase::Connecting => drop(self.refuse_attaching(at, now)),
                _ => self.begin_close(conn, SESSION_DROPPED, "the session was dropped", now),
            }
        }
        if holder != NO_CONN {
            self.orphan_uplink(holder, now);
        }
        let session = self.end_session(at, SessionEnd::Dropped);
        let reply = Reply::Done { connections: 1 };
        self.store(Mutation::DropSession { session }, After::DropReplied { session, ticket, reply });
        if holder != NO_CONN {
            // What was held until the store had its numbers is nobody's now.
            self.forward_next(holder, now);
            self.free_if_done(holder);
        }
    }

    /// The store still has a session that is no more, and nobody else gets its name before it is gone there.
    pub(super) fn drop_again(&mut self, session: SessionId, now: Tick) {
        self.undropped.push(session);
        self.drop_at = self.drop_at.min(now + DROP_AGAIN_MS);
    }

    pub(super) fn drop_undropped(&mut self, now: Tick) {
        if now >= self.drop_at {
            self.drop_at = Tick::NEVER;
            for session in std::mem::take(&mut self.undropped) {
                self.store(Mutation::DropSession { session }, After::Dropped(session));
            }
        }
    }

    pub(super) fn session_info(&self, name: &str) -> Reply {
        let Some(at) = self.sessions.by_name(name) else { return Reply::Session(None) };
        let session = self.sessions.at(at);
        let conn = self.conns.get(session.conn as usize).filter(|conn| conn.phase == Phase::Open);
        Reply::Session(Some(Box::new(SessionInfo {
            name: session.name.clone(),
            identity: conn.map(|conn| conn.identity),
            channels: self.channels.joined_names(&session.joined).map(String::from).collect(),
            waiting: session.waiting,
            waiting_bytes: session.waiting_bytes,
            oldest: session.oldest_stored,
            ends: session.ends,
        })))
    }

    pub(super) fn set_session_cookie(&mut self, at: u32, value: &[u8]) {
        let session = self.sessions.at_mut(at);
        session.cookie = Some(value.into());
        // The answer may be to a message that came on an earlier connection.
        for conn in [session.conn, session.holder].into_iter().filter(|&conn| conn != NO_CONN) {
            self.conns[conn as usize].cookie = Some(value.into());
        }
        let key = self.sessions.at(at).key(at);
        self.put(at, After::Changed(key));
        self.sessions.at_mut(at).changed = self.storeline.last();
    }

    /// After a crash, once all that is stored is in memory: the client may hold ids of QoS 2 messages that were
    /// acknowledged and are finished for us. A REL frees each; for an id that it does not hold it only answers COM. A
    /// client of `rainbow.2` needs no such thing: it repeats REC for what it holds, and is answered.
    pub(super) fn sweep(&mut self, at: u32) {
        let session = self.sessions.at_mut(at);
        if session.more || session.loading {
            return;
        }
        let held = std::mem::take(&mut session.held);
        self.release_held(at, &held);
        let session = self.sessions.at_mut(at);
        let Some((from, upto)) = session.sweep.take() else { return };
        let index = session.conn;
        if session.greets || self.settings.is_planted(Bug::SweepsNothing) {
            return;
        }
        let kept = self.orders_in_memory(index);
        let from = from.max(Offset(upto.0.saturating_sub(SWEEP_MAX)));
        let orders = (from.0..upto.0).map(Offset).filter(|offset| kept.binary_search(offset).is_err());
        self.push_releases(index, orders.map(Offset::id));
    }

    /// REC came for an id that is not in flight. What is stored under it and not sent yet will be sent, with DUP, and
    /// its REC releases it; anything else is finished for us, and the client wants its REL, or it would hold the id
    /// for ever.
    pub(super) fn on_held(&mut self, index: u32, id: MessageId, now: Tick) {
        let Some(at) = self.session_of(index).filter(|&at| self.sessions.at(at).conn == index) else {
            return self.push_packet(index, Packet::Rel { id, dup: false }, now);
        };
        let session = self.sessions.at_mut(at);
        if session.held.len() < HELD_MAX {
            session.held.push(id);
        }
        self.sweep(at);
    }

    fn release_held(&mut self, at: u32, held: &[MessageId]) {
        if !held.is_empty() {
            let index = self.sessions.at(at).conn;
            let kept: HashSet<MessageId> = self.orders_in_memory(index).into_iter().map(Offset::id).collect();
            self.push_releases(index, held.iter().copied().filter(|id| !kept.contains(id)));
        }
    }

    /// One piece, whatever the limit of the outbox: it is short, and comes once.
    fn push_releases(&mut self, index: u32, ids: impl Iterator<Item = MessageId>) {
        let mut frames = Vec::new();
        for id in ids {
            let rel = Packet::Rel { id, dup: true };
            frame::write_header(&mut frames, Opcode::Binary, rel.encoded_len());
            rel.encode_into(&mut frames);
        }
        let conn = &mut self.conns[index as usize];
        if conn.phase == Phase::Open && !frames.is_empty() {
            self.items.push(&mut conn.outbox, &self.messages, Item::Frame(frames.into()));
            self.mark_dirty(index);
        }
    }
}

/// `Input::Attach` without its key.
pub struct Attach {
    pub response: Rc<[u8]>,
    pub new: SessionId,
    pub name: Arc<str>,
    pub expiry_s: Option<u64>,
    pub greets: bool,
}

/// The packet of type 65535 that a client of `rainbow.2` gets first.
fn greeting(name: &str, resumed: bool, waiting: u32) -> Vec<u8> {
    let name = serde_json::Value::from(name);
    format!("{{\"session\":{name},\"resumed\":{resumed},\"waiting\":{waiting}}}").into_bytes()
}

/// Orders reserved ahead, more each time: a write of the session's row per half as many messages. A crash leaves the
/// rest of a block unused, and many crashes in a row must not use up the ids behind an unfinished message.
const RESERVE_MIN: u64 = 64;
const RESERVE_MAX: u64 = 1024;
/// Ids that a client may claim to hold before all that is stored has been loaded.
const HELD_MAX: usize = 20_000;
/// A window of at most 16,384 and what was reserved.
const SWEEP_MAX: u64 = 20_000;
const ENDS_PER_TICK: usize = 64;
const ENDS_AGAIN_MS: u64 = 1_000;
const DROP_AGAIN_MS: u64 = 1_000;
/// The business server has dropped the session: the client does not come back by itself.
pub const SESSION_DROPPED: CloseCode = CloseCode(4510);
/// Orders that one session's unfinished messages may span, so that no two have one id.
pub const SPAN_MAX: u64 = IDS - RESERVE_MAX;

#[cfg(test)]
mod tests;
