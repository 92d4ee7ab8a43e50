//! The connections of a shard: their slots, phases, outboxes and timers. Every way in which a connection opens, is
//! written to, closes and ends goes through here; nobody else changes its phase.
//!
//! Closing is done in two steps. `close` and `end` change the connection itself at once, so that nothing more is
//! delivered to it, and report `Event::Left`; the shard then takes it out of its channels and its session.

use super::conn::{Conn, ConnDetails, Peer, Phase};
use super::event::Event;
use super::outbox::{ITEM_MEMORY, Item, Outboxes};
use super::transport::Receiver;
use crate::base::arena::List;
use crate::base::client::ClientContext;
use crate::base::id::{ConnIndex, ConnKey, Identity, ShardId};
use crate::base::time::Tick;
use crate::base::wheel::Wheel;
use crate::shard::call::query::ConnectionInfo;
use crate::shard::call::trace::{Happening, Seen};
use crate::shard::context::Context;
use crate::shard::ids::SessionKey;
use crate::shard::message::{MessageRef, Messages, Stamp};
use crate::shard::output::{Ending, Output};
use crate::shard::planted::Bug;
use crate::wire::packet::{MessageId, Packet, QoS};
use crate::wire::ws::frame::CloseCode;
use rustc_hash::FxHashMap;
use slab::Slab;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

pub struct Table {
    shard: ShardId,
    conns: Slab<Conn>,
    /// By the same slots; of a free slot there is what a new connection begins with.
    details: Vec<ConnDetails>,
    outboxes: Outboxes,
    /// Of messages from clients that are not complete.
    assembly_memory: usize,
    /// One timer per connection: the earliest thing it waits for. It may fire early; whoever is called looks what is
    /// due.
    timers: Wheel,
    /// Connections to be written, each once.
    dirty: VecDeque<ConnIndex>,
    events: VecDeque<Event>,
    /// By slot: where a connection that was handed over has gone, or where it came from.
    counterparts: FxHashMap<ConnIndex, ConnKey>,
    /// By slot, of those that are closing: what is known of their end.
    endings: FxHashMap<ConnIndex, Ending>,
    generation: u32,
    /// Connections in phase `Open`.
    open: usize,
}

impl Table {
    pub fn new(shard: ShardId, now: Tick) -> Table {
        Table {
            shard,
            conns: Slab::new(),
            details: Vec::new(),
            outboxes: Outboxes::default(),
            assembly_memory: 0,
            timers: Wheel::new(now),
            dirty: VecDeque::new(),
            events: VecDeque::new(),
            counterparts: FxHashMap::default(),
            endings: FxHashMap::default(),
            generation: 0,
            open: 0,
        }
    }

    // ---- slots ----

    /// Takes a slot. `identity` makes the connection's name of its key.
    pub fn insert(&mut self, identity: impl FnOnce(ConnKey) -> Identity, now: Tick) -> (ConnKey, Identity) {
        self.generation = self.generation.wrapping_add(1);
        let index = ConnIndex(self.conns.insert(Conn::new(self.generation)) as u32);
        let key = ConnKey { index, generation: self.generation, shard: self.shard };
        let identity = identity(key);
        let details = ConnDetails::new(identity, now);
        match self.details.get_mut(index.slot()) {
            Some(free) => *free = details,
            None => self.details.push(details),
        }
        (key, identity)
    }

    /// The connection must hold nothing any more.
    pub fn remove(&mut self, index: ConnIndex) -> (Identity, ClientContext, Ending) {
        let conn = self.conns.remove(index.slot());
        debug_assert!(conn.outbox.is_empty() && conn.joined.is_empty() && conn.downlink.is_empty());
        let details = &mut self.details[index.slot()];
        debug_assert!(details.uplink.is_idle());
        let (identity, client) = (details.identity, std::mem::take(&mut details.client));
        self.take_receiver(index);
        (identity, client, self.endings.remove(&index).unwrap_or_default())
    }

    /// The connection of that key, if its slot is still the same connection's.
    pub fn lookup(&self, key: ConnKey, trusts_stale: bool) -> Option<ConnIndex> {
        let conn = self.conns.get(key.index.slot())?;
        let same = conn.generation == key.generation || trusts_stale;
        (same && key.shard == self.shard).then_some(key.index)
    }

    /// The connection of that name in that phase.
    pub fn find(&self, identity: &Identity, phase: Phase) -> Option<ConnIndex> {
        let key = identity.key();
        let conn = self.conns.get(key.index.slot()).filter(|_| key.shard == self.shard)?;
        (self.details(key.index).identity == *identity && conn.phase == phase).then_some(key.index)
    }

    pub fn key(&self, index: ConnIndex) -> ConnKey {
        self.conn(index).key(index, self.shard)
    }

    pub fn conn(&self, index: ConnIndex) -> &Conn {
        &self.conns[index.slot()]
    }

    pub(super) fn conn_mut(&mut self, index: ConnIndex) -> &mut Conn {
        &mut self.conns[index.slot()]
    }

    pub fn details(&self, index: ConnIndex) -> &ConnDetails {
        &self.details[index.slot()]
    }

    pub(super) fn details_mut(&mut self, index: ConnIndex) -> &mut ConnDetails {
        &mut self.details[index.slot()]
    }

    /// `None` when the slot is free.
    pub fn get(&self, index: ConnIndex) -> Option<&Conn> {
        self.conns.get(index.slot())
    }

    pub fn iter(&self) -> impl Iterator<Item = (ConnIndex, &Conn)> {
        self.conns.iter().map(|(slot, conn)| (ConnIndex(slot as u32), conn))
    }

    /// Connections in any phase.
    pub fn len(&self) -> usize {
        self.conns.len()
    }

    pub fn is_empty(&self) -> bool {
        self.conns.is_empty()
    }

    /// Connections in phase `Open`.
    pub fn open_len(&self) -> usize {
        self.open
    }

    /// Since its slot was taken; of one that is not closing.
    pub fn age_ms(&self, index: ConnIndex, now: Tick) -> u64 {
        now.since_ms(self.details(index).phase_time)
    }

    /// How an open connection stands, but for what others know of it: its session and its channels.
    pub fn info(&self, index: ConnIndex, now: Tick) -> ConnectionInfo {
        let (conn, details) = (self.conn(index), self.details(index));
        ConnectionInfo {
            address: details.client.ip(),
            is_secure: details.client.is_secure(),
            since_s: now.since_ms(details.phase_time) / 1000,
            silent_ms: now.since_ms(details.received),
            is_paused: details.paused,
            in_flight: conn.downlink.in_flight(),
            queued_bytes: conn.downlink.queued_memory(),
            outbox_bytes: self.outboxes.waiting_memory(&conn.outbox),
            forward_queue: details.uplink.queue_len as usize,
            forward_queue_bytes: details.uplink.queue_memory as usize,
            is_forwarding: details.has_current(),
            cookie_bytes: details.cookie().map_or(0, |cookie| cookie.len()),
            user: details.client.user().map(|user| (**user).into()),
            session: None,
            channels: Vec::new(),
        }
    }

    // ---- what belongs to a connection ----

    pub fn joined_mut(&mut self, index: ConnIndex) -> &mut List {
        &mut self.conn_mut(index).joined
    }

    pub fn joined(&self, index: ConnIndex) -> &List {
        &self.conn(index).joined
    }

    pub fn set_session(&mut self, index: ConnIndex, session: SessionKey) {
        self.conn_mut(index).session = session;
    }

    pub fn cookie(&self, index: ConnIndex) -> Option<&Rc<[u8]>> {
        self.details(index).cookie()
    }

    /// What hooks say of the connection's client.
    pub fn client(&self, index: ConnIndex) -> &ClientContext {
        &self.details(index).client
    }

    pub fn set_client(&mut self, index: ConnIndex, client: ClientContext) {
        self.details_mut(index).client = client;
    }

    pub fn set_cookie(&mut self, index: ConnIndex, cookie: Option<Rc<[u8]>>) {
        self.details_mut(index).client.set_cookie(cookie);
    }

    pub fn user(&self, index: ConnIndex) -> Option<&Rc<str>> {
        self.client(index).user()
    }

    pub fn set_user(&mut self, index: ConnIndex, user: Option<Rc<str>>) {
        self.details_mut(index).client.set_user(user);
    }

    /// The client speaks `rainbow.2`.
    pub fn set_greets(&mut self, index: ConnIndex, greets: bool) {
        self.details_mut(index).greets = greets;
    }

    // ---- phases ----

    /// From `Connecting` to `Open`: the response goes out first.
    pub fn open(&mut self, index: ConnIndex, response: Rc<[u8]>, cx: &mut Context<'_>) {
        let conn = self.conn_mut(index);
        debug_assert_eq!(conn.phase, Phase::Connecting);
        conn.phase = Phase::Open;
        let broken = conn.peer == Peer::Undecodable;
        let details = self.details_mut(index);
        (details.received, details.active) = (cx.now, cx.now);
        self.open += 1;
        cx.metrics.opened.increment();
        if !cx.traces.is_idle() {
            self.report(Event::Traced { index, seen: Box::new(Seen { what: Happening::Opened, message: None }) });
        }
        self.push(index, Item::Response(response), cx);
        if broken {
            self.close(index, CloseCode::INTERNAL_ERROR, "internal error", cx);
        }
    }

    /// Sends a close and waits for the client's, for `close_timeout` at the most.
    pub fn close(&mut self, index: ConnIndex, code: CloseCode, reason: &str, cx: &mut Context<'_>) {
        if !self.conn(index).is_open() {
            return;
        }
        match code {
            CloseCode::POLICY => cx.metrics.closed_policy.increment(),
            CloseCode::TRY_AGAIN_LATER => cx.metrics.closed_too_slow.increment(),
            CloseCode::INTERNAL_ERROR => cx.metrics.closed_panic.increment(),
            _ => {}
        }
        self.begin_closing(index, code, reason, cx);
        let conn = &mut self.conns[index.slot()];
        if code == CloseCode::TRY_AGAIN_LATER {
            self.outboxes.clear_unbegun(&mut conn.outbox, cx.messages);
        }
        let close = Item::close(code, reason, conn.outbox.transport());
        self.push_unbounded(index, close);
    }

    /// The client's close: it is answered with the same code, and the socket ends once that is written.
    pub fn on_peer_close(&mut self, index: ConnIndex, code: Option<CloseCode>, reason: &str, cx: &mut Context<'_>) {
        if self.conn(index).is_open() {
            self.begin_closing(index, code.unwrap_or(CloseCode::NO_STATUS), reason, cx);
            self.push_unbounded(index, Item::Close(code.map(|code| (code, "".into()))));
        }
        let conn = self.conn_mut(index);
        conn.peer = Peer::Closed;
        if conn.outbox.is_empty() {
            cx.output(Output::Shutdown { key: self.key(index) });
        }
    }

    fn begin_closing(&mut self, index: ConnIndex, code: CloseCode, reason: &str, cx: &mut Context<'_>) {
        let ending = self.endings.entry(index).or_default();
        (ending.code, ending.reason) = (code, reason.into());
        let close_by = cx.now + cx.settings.close_timeout_ms;
        let conn = self.conn_mut(index);
        debug_assert_eq!(conn.phase, Phase::Open);
        conn.phase = Phase::Closing;
        let details = self.details_mut(index);
        details.phase_time = close_by;
        if std::mem::take(&mut details.paused) {
            cx.output(Output::Resume { key: self.key(index) });
        }
        self.open -= 1;
        self.timers.arm(index.0, close_by);
        self.report(Event::Left(index));
    }

    /// The socket has ended. A connection that was never open only reports it.
    pub fn end(&mut self, index: ConnIndex, cx: &mut Context<'_>) {
        let conn = &mut self.conns[index.slot()];
        match conn.phase {
            Phase::Gone | Phase::HandedOver => return debug_assert!(false, "a socket ends once"),
            Phase::Connecting => return self.report(Event::Left(index)),
            Phase::Open => self.open -= 1,
            Phase::Closing => {}
        }
        cx.metrics.ended.increment();
        conn.phase = Phase::Gone;
        self.outboxes.clear(&mut conn.outbox, cx.messages);
        self.details_mut(index).paused = false;
        self.take_receiver(index);
        self.timers.cancel(index.0);
        self.report(Event::Left(index));
    }

    /// It leaves its durable session.
    pub fn note_session(&mut self, index: ConnIndex, name: Arc<str>) {
        self.endings.entry(index).or_default().session = Some(name);
    }

    /// Connections of whose end something is known.
    pub fn endings(&self) -> impl Iterator<Item = ConnIndex> {
        self.endings.keys().copied()
    }

    /// The connection goes on in another shard, as `to`; the slot stays for its identity.
    pub fn hand_over(&mut self, index: ConnIndex, to: ConnKey) {
        let conn = self.conn_mut(index);
        debug_assert_eq!(conn.phase, Phase::Connecting);
        conn.phase = Phase::HandedOver;
        self.counterparts.insert(index, to);
    }

    /// The connection came from another shard, where its slot is `origin`.
    pub fn set_origin(&mut self, index: ConnIndex, origin: ConnKey) {
        self.counterparts.insert(index, origin);
    }

    /// Where a connection that was handed over has gone, or where it came from.
    pub fn counterpart(&self, index: ConnIndex) -> Option<ConnKey> {
        self.counterparts.get(&index).copied()
    }

    /// A connection has ended: the shard that it came from may give its slot to another.
    pub fn end_handover(&mut self, index: ConnIndex, cx: &mut Context<'_>) {
        if let Some(origin) = self.counterparts.remove(&index) {
            cx.output(Output::HandoverEnded { origin });
        }
    }

    /// The connection that was handed over has ended there: its slot is free.
    pub fn free_handed_over(&mut self, index: ConnIndex) {
        self.counterparts.remove(&index);
        self.remove(index);
    }

    /// In phase `Closing`: when to stop waiting for the client's close.
    pub fn close_by(&self, index: ConnIndex) -> Tick {
        debug_assert_eq!(self.conn(index).phase, Phase::Closing);
        self.details(index).phase_time
    }

    /// A connection that has ended and has nothing of its client's under way is to be freed.
    pub fn report_if_done(&mut self, index: ConnIndex) {
        if self.is_done(index) {
            self.report(Event::Done(index));
        }
    }

    pub fn is_done(&self, index: ConnIndex) -> bool {
        self.get(index).is_some_and(|conn| conn.phase == Phase::Gone && self.details(index).is_finished())
    }

    /// Nothing is under way with this client, in either direction.
    pub fn is_settled(&self, index: ConnIndex) -> bool {
        let conn = self.conn(index);
        self.details(index).is_uplink_idle() && conn.downlink.is_empty() && conn.outbox.is_empty()
    }

    // ---- reading ----

    /// Takes the receiver for a batch of bytes; `end_reading` gives it back. `None` when nothing that the client sends
    /// counts any more.
    pub fn begin_reading(&mut self, index: ConnIndex, now: Tick) -> Option<Receiver> {
        let details = &mut self.details[index.slot()];
        details.received = now;
        let conn = &self.conns[index.slot()];
        let reads = conn.peer == Peer::Speaks && matches!(conn.phase, Phase::Open | Phase::Closing);
        reads.then(|| self.take_receiver(index))
    }

    /// What waits to be completed stays; a client whose incomplete message is long closes when all of them together
    /// have no memory left.
    pub fn end_reading(&mut self, index: ConnIndex, receiver: Receiver, cx: &mut Context<'_>) {
        let memory = receiver.memory();
        if cx.is_memory_full && memory > cx.settings.limits.memory_short_max && self.conn(index).is_open() {
            cx.metrics.memory_full.increment();
            self.set_undecodable(index);
            return self.close(index, CloseCode::TRY_AGAIN_LATER, "no memory for so long a message", cx);
        }
        self.assembly_memory += memory;
        self.details_mut(index).receiver = receiver;
    }

    fn take_receiver(&mut self, index: ConnIndex) -> Receiver {
        let receiver = std::mem::take(&mut self.details_mut(index).receiver);
        self.assembly_memory -= receiver.memory();
        receiver
    }

    /// Of what waits for clients to read it, without the messages, which others share, and of incomplete messages.
    pub fn memory(&self) -> usize {
        self.outboxes.memory() + self.assembly_memory
    }

    /// The client sent something other than a pong.
    pub fn note_activity(&mut self, index: ConnIndex, now: Tick) {
        self.details_mut(index).active = now;
    }

    /// The client's close has come: nothing that counts follows it (RFC 6455 section 5.5.1).
    pub fn is_peer_closed(&self, index: ConnIndex) -> bool {
        self.conn(index).peer == Peer::Closed
    }

    /// What the client sends cannot be understood any more.
    pub fn set_undecodable(&mut self, index: ConnIndex) {
        let conn = self.conn_mut(index);
        if conn.peer == Peer::Speaks {
            conn.peer = Peer::Undecodable;
        }
    }

    pub fn is_paused(&self, index: ConnIndex) -> bool {
        self.details(index).paused
    }

    // ---- writing ----

    /// Anything but a QoS 0 message. A client without room for it is too slow: its connection closes. True when it is
    /// in the outbox.
    pub fn push(&mut self, index: ConnIndex, item: Item, cx: &mut Context<'_>) -> bool {
        let len = item.len(self.conn(index).outbox.transport());
        let room = cx.is_planted(Bug::AnswersWithoutLimit) || self.make_room(index, len, cx);
        if room {
            self.push_unbounded(index, item);
        }
        room
    }

    /// A packet that is small: REL, COM, an empty ACK or REC.
    pub fn push_packet(&mut self, index: ConnIndex, packet: Packet<'_>, cx: &mut Context<'_>) {
        let item = Item::small(packet, cx.scratch);
        self.push(index, item, cx);
    }

    /// The answer to a ping. A client that does not read gets one for the newest only.
    pub fn push_pong(&mut self, index: ConnIndex, payload: &[u8], cx: &mut Context<'_>) {
        let conn = &mut self.conns[index.slot()];
        if !conn.blocked || !self.outboxes.replace_pong(&mut conn.outbox, payload) {
            self.push(index, Item::Pong(payload.into()), cx);
        }
    }

    /// The answer to the packet PING, unless one that the socket has not begun is the last to be written.
    pub fn push_pong_packet(&mut self, index: ConnIndex, cx: &mut Context<'_>) {
        let is_answered = self.outboxes.ends_with_pong_packet(&self.conns[index.slot()].outbox);
        if !is_answered && !cx.is_planted(Bug::NeverPongs) {
            self.push(index, Item::pong_packet(), cx);
        }
    }

    /// Whatever the limit: what is short, comes once, or has been given room.
    pub fn push_unbounded(&mut self, index: ConnIndex, item: Item) {
        let conn = &mut self.conns[index.slot()];
        self.outboxes.push(&mut conn.outbox, item);
        if !std::mem::replace(&mut conn.dirty, true) {
            self.dirty.push_back(index);
        }
    }

    /// One more use of the message, into the outbox.
    #[inline]
    pub fn push_message(&mut self, index: ConnIndex, message: &MessageRef, stamp: Stamp, cx: &mut Context<'_>) {
        let conn = &mut self.conns[index.slot()];
        self.outboxes.push_message(&mut conn.outbox, cx.messages.another(message), stamp);
        if !std::mem::replace(&mut conn.dirty, true) {
            self.dirty.push_back(index);
        }
    }

    /// False when there is no room even without the QoS 0 messages: the client is too slow, its connection is closing.
    pub fn make_room(&mut self, index: ConnIndex, len: usize, cx: &mut Context<'_>) -> bool {
        if !matches!(self.conn(index).phase, Phase::Open | Phase::Closing) {
            return false;
        }
        let room = self.drop_for_room(index, len, cx);
        if !room {
            self.close(index, CloseCode::TRY_AGAIN_LATER, "too slow", cx);
        }
        room
    }

    /// Drops QoS 0 messages, the oldest first, until an item of `len` bytes fits; true when it does. Where nothing
    /// waits anything fits: its length is bounded elsewhere, and a client that reads all it gets is not slow. While all
    /// clients together have no memory left, nothing fits for one that is behind; when they take twice as much, nothing
    /// long for anyone.
    pub fn drop_for_room(&mut self, index: ConnIndex, len: usize, cx: &mut Context<'_>) -> bool {
        let max = cx.settings.outbox_bytes_max;
        let conn = &mut self.conns[index.slot()];
        let queued = conn.downlink.queued_memory();
        let waiting = self.outboxes.waiting_memory(&conn.outbox) + queued;
        let memory = ITEM_MEMORY + len;
        if cx.is_memory_full && waiting > 0 || cx.has_no_memory_for(len) {
            cx.metrics.memory_full.increment();
            return false;
        }
        if waiting == 0 || waiting + memory <= max {
            return true;
        }
        let dropped = self.outboxes.drop_oldest_qos0(&mut conn.outbox, cx.messages, queued + memory, max);
        cx.metrics.outbox_dropped_qos0.add(dropped as u64);
        let waiting = self.outboxes.waiting_memory(&conn.outbox) + queued;
        waiting == 0 || waiting + memory <= max
    }

    /// A connection that has something to be written, once each until it has more; who had it first comes first.
    pub fn next_dirty(&mut self) -> Option<ConnIndex> {
        let index = self.dirty.pop_front()?;
        if let Some(conn) = self.conns.get_mut(index.slot()) {
            conn.dirty = false;
            // Until `written` says otherwise: a socket that takes nothing is not written to.
            conn.blocked = !conn.outbox.is_empty();
        }
        Some(index)
    }

    /// Connections that `next_dirty` will name.
    pub fn dirty_len(&self) -> usize {
        self.dirty.len()
    }

    /// See `Outboxes::gather`; nothing when the connection is gone or has nothing.
    pub fn gather<'a>(
        &'a self,
        index: ConnIndex,
        sizes: (usize, usize),
        messages: &'a Messages,
        out: &mut Vec<u8>,
    ) -> &'a [u8] {
        self.get(index).map_or(&[], |conn| self.outboxes.gather(&conn.outbox, messages, sizes, out))
    }

    /// The socket took `bytes`. True when there is more to write.
    pub fn written(&mut self, index: ConnIndex, bytes: usize, cx: &mut Context<'_>) -> bool {
        let Some(conn) = self.conns.get_mut(index.slot()) else { return false };
        let waited = !conn.outbox.is_empty();
        self.outboxes.advance(&mut conn.outbox, cx.messages, bytes);
        if !conn.outbox.is_empty() && cx.is_planted(Bug::SkipsBytes) {
            self.outboxes.advance(&mut conn.outbox, cx.messages, 1);
        }
        conn.blocked = !conn.outbox.is_empty();
        if !waited || conn.blocked {
            return conn.blocked;
        }
        match conn.peer {
            Peer::Speaks => {}
            // The client's close cannot be found any more in bytes that broke the protocol: it is not waited for.
            Peer::Undecodable => cx.output(Output::EndWriting { key: self.key(index) }),
            Peer::Closed => cx.output(Output::Shutdown { key: self.key(index) }),
        }
        false
    }

    /// Nothing waits to be written.
    pub fn has_empty_outbox(&self, index: ConnIndex) -> bool {
        self.conn(index).outbox.is_empty()
    }

    // ---- timers and events ----

    /// Arms the connection's timer unless it is armed for an earlier time.
    pub fn arm_no_later(&mut self, index: ConnIndex, when: Tick) {
        self.timers.arm_no_later(index.0, when);
    }

    pub fn arm(&mut self, index: ConnIndex, when: Tick) {
        self.timers.arm(index.0, when);
    }

    pub fn poll_timer(&mut self, now: Tick) -> Option<ConnIndex> {
        self.timers.poll(now).map(ConnIndex)
    }

    pub fn next_timer(&self) -> Option<Tick> {
        self.timers.next_poll()
    }

    pub fn timers_len(&self) -> usize {
        self.timers.len()
    }

    /// QoS and id of the message that the backend has from this connection; QoS 0 has no id.
    pub fn forwarding(&self, index: ConnIndex) -> Option<(QoS, Option<MessageId>)> {
        let origin = self.details(index).uplink.current?.origin();
        Some((origin.qos, (origin.id != 0).then_some(MessageId(origin.id))))
    }

    pub fn report(&mut self, event: Event) {
        self.events.push_back(event);
    }

    #[inline]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    // ---- invariants ----

    pub fn items_total(&self) -> usize {
        self.outboxes.total()
    }

    #[cfg(debug_assertions)]
    pub fn outboxes(&self) -> &Outboxes {
        &self.outboxes
    }

    #[cfg(debug_assertions)]
    pub fn timer(&self, index: ConnIndex) -> Option<Tick> {
        self.timers.deadline(index.0)
    }
}
