//! Everything one worker owns, as plain data: `handle(input, now)` changes it and leaves outputs.
//!
//! The shard knows no socket, clock, randomness or async. The worker, the simulator and the fuzzer use it alike:
//!
//! * *Inputs*: `reserve` or `adopt` a slot, then `handle` what happens to it; `handle` what the backend, the store,
//!   callers and time bring; `poll_fanout` once per turn.
//! * *Outputs*: after inputs, `poll_output` until `None`.
//! * *Bytes to clients*: `next_dirty` names a connection, `gather` yields the bytes to write, `written` says how
//!   much of that its socket took.
//! * *Time*: `next_tick` says when to send `Input::Tick`.
//!
//! ```text
//! Bytes ─► transport ─► packet ─► uplink ─► Output::Forward …… Input::Forwarded ─► uplink ─┐
//! Query ─► fanout ─► session ─► downlink ──────────────────────────────────────────────────► outbox ─► bytes
//! Tick  ─► wheel ─► repeats, pings, deadlines ─────────────────────────────────────────────┘
//! ```
//! `Shard` itself only dispatches. State belongs to the parts: connections (`connection::table`, `downlink`, `uplink`),
//! channels, sessions, calls. A part changes what it owns and the parts below it; what concerns a part above it is
//! reported by an event (`connection::event`), which is handled before `handle` returns.

pub mod call;
pub mod channel;
pub mod command;
pub mod connection;
mod context;

mod fanout;
mod greeting;
pub mod ids;
pub mod input;
#[cfg(debug_assertions)]
mod invariants;
pub mod message;
pub mod output;
pub mod planted;
mod queries;
mod session;
pub mod settings;
pub mod uplink_sequence;

pub use call::query::{
    ChannelMember, ConnectionInfo, NotSent, NotStored, Query, QueryRefusal, Reply, SessionInfo, Tally, Terms, Wait, Who,
};
pub use call::sessions::{SessionOrder, SessionState, SessionSummary, WantedSessions};
pub use call::trace::{Happening, Seen, SeenMessage, TraceEntry, TraceId, TraceTarget, TraceTerms};
pub use channel::members::CHANNEL_NAME_MAX;
pub use connection::uplink::RESERVED_TYPE;
pub use ids::QueryId;
pub use input::{DrainScope, ForwardOutcome, Input};
pub use message::Message;
pub use output::{Ending, Forward, Output, SessionEnd};
pub use planted::Bug;
pub use session::downlink::union::{Attachment, Place, Union};
pub use session::table::offers::OfferWalk;
pub use session::table::session_owner;
pub use settings::{Mode, SessionSettings, Settings};

use crate::base::client::ClientContext;
use crate::base::id::{ConnIndex, ConnKey, Identity, ShardId};
use crate::base::keyed_hash::HashKey;
use crate::base::time::Tick;
use crate::metrics::shard::ShardMetrics;
use crate::wire::packet::{PING, Packet, QoS};
use crate::wire::ws::frame::CloseCode;
use call::trace::Traces;
use call::waiting::Calls;
use channel::largest::Largest;
use channel::members::Channels;
use channel::traffic::Watches;
use command::StoredSession;
use connection::conn::Phase;
use connection::downlink::Downlinks;
use connection::keepalive::{self, Alive};
use connection::outbox::Item;
use connection::table::Table;
use connection::transport::{Arrival, Bytes};
use connection::uplink::reading;
use connection::uplink::{Incoming, Numbering, Uplinks};
use context::Context;
use fanout::runs::Fanout;
use message::Messages;
use session::attach::{self, Attach};
use session::channels::{subscribe, unsubscribe};
use session::dispatch::{on_completions, on_events, on_messages_expired, traced};
use session::scope::{Scope, Sessions};
use session::table::offers::Moment;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

pub struct Shard {
    settings: Settings,
    metrics: Arc<ShardMetrics>,
    conns: Table,
    downlinks: Downlinks,
    uplinks: Uplinks,
    channels: Channels,
    largest: Largest,
    sessions: Sessions,
    fanout: Fanout,
    messages: Messages,
    calls: Calls,
    outputs: VecDeque<Output>,
    /// Mostly none, as are the watches.
    traces: Traces,
    watches: Watches,
    scratch: Vec<u8>,
}

impl Shard {
    pub fn new(id: ShardId, settings: Settings, metrics: Arc<ShardMetrics>, now: Tick) -> Shard {
        let is_keyless = settings.is_planted(Bug::HashesWithoutKey);
        let hash_key = if is_keyless { HashKey::new(0, 0) } else { settings.hash_key };
        Shard {
            settings,
            metrics,
            conns: Table::new(id, now),
            downlinks: Downlinks::default(),
            uplinks: Uplinks::default(),
            channels: Channels::new(hash_key),
            largest: Largest::default(),
            sessions: Sessions::new(hash_key, now),
            fanout: Fanout::default(),
            messages: Messages::default(),
            calls: Calls::new(now),
            outputs: VecDeque::new(),
            traces: Traces::default(),
            watches: Watches::default(),
            scratch: Vec::new(),
        }
    }

    /// New limits and times, for what happens from now on.
    pub fn set_settings(&mut self, settings: Settings) {
        debug_assert_eq!(settings.hash_key, self.settings.hash_key, "names have been hashed with it");
        debug_assert_eq!(settings.node, self.settings.node, "identities have it");
        self.settings = settings;
    }

    /// What the wall clock showed when `Tick` was 0: it may be stepped at any time.
    #[inline]
    pub fn set_unix_ms_at_zero(&mut self, unix_ms_at_zero: u64) {
        if !self.settings.is_planted(Bug::IgnoresClockSteps) {
            self.settings.sessions.unix_ms_at_zero = unix_ms_at_zero;
        }
    }

    /// Takes a slot before the connect hook is sent, so that the connection has a name. `digest` makes it unique.
    /// `Input::Opened`, `Attach`, `HandedOver` or `Abandoned` must follow.
    pub fn reserve(&mut self, digest: [u8; 32], now: Tick) -> (ConnKey, Identity) {
        let node = self.settings.node;
        self.conns.insert(|key| Identity::new(digest, node, key), now)
    }

    /// What hooks are to say of a connection's client.
    pub fn set_client(&mut self, key: ConnKey, client: ClientContext) {
        if let Some(conn) = self.conns.lookup(key, false) {
            self.conns.set_client(conn, client);
        }
    }

    /// What hooks say of a connection's client.
    pub fn client(&self, key: ConnKey) -> Option<ClientContext> {
        self.conns.lookup(key, false).map(|conn| self.conns.client(conn).clone())
    }

    /// Takes a slot for a connection that comes from another shard, where its slot is `origin`. `Input::Attach` or
    /// `Abandoned` must follow.
    pub fn adopt(&mut self, identity: Identity, origin: ConnKey, now: Tick) -> ConnKey {
        let (key, _) = self.conns.insert(|_| identity, now);
        self.conns.set_origin(key.index, origin);
        key
    }

    /// It may be on its way to another node.
    pub fn has_session(&self, name: &str) -> bool {
        self.sessions.table.by_name(name).is_some()
    }

    /// Sessions that were stored, and have come to this shard: no session here has their names.
    pub fn restore(&mut self, stored: Vec<StoredSession>, now: Tick) {
        attach::restore(&mut self.scope(now).0, stored);
        self.publish();
    }

    /// For a session that another node has too.
    pub fn union(&mut self, now: Tick) -> Union<'_> {
        Union::new(self.scope(now).0)
    }

    pub fn handle(&mut self, input: Input<'_>, now: Tick) {
        match input {
            Input::Bytes { key, data } => self.with(key, |shard, conn| shard.on_bytes(conn, data, now)),
            Input::Packet { key, packet } => self.with(key, |shard, conn| {
                if shard.conns.conn(conn).is_open() {
                    shard.on_packet(conn, packet, now);
                }
            }),
            Input::Send { query_id, channel, message, terms } => {
                let (mut scope, fanout) = self.scope(now);
                if !scope.cx.traces.is_idle() {
                    traced::on_call(&mut scope, channel, &message);
                }
                fanout.send(&mut scope, query_id, channel, message, terms);
            }
            Input::Query { query_id, query } => {
                let (mut scope, fanout) = self.scope(now);
                queries::on_query(&mut scope, fanout, query_id, query, None);
            }
            Input::RedirectedQuery { key, query_id, query } => self.on_redirected(key, query_id, query, now),
            Input::Completions(completions) => on_completions(&mut self.scope(now).0, completions),
            Input::MessagesExpired(expired) => on_messages_expired(&mut self.scope(now).0, expired),
            Input::PassSession { name } => session::end::pass(&mut self.scope(now).0, name),
            Input::LoseSession { name } => session::end::lose(&mut self.scope(now).0, name),
            Input::ExpireSession { name } => session::end::expire(&mut self.scope(now).0, name),
            Input::ForgetSession { name, keeps_name } => session::end::let_go(&mut self.scope(now).0, name, keeps_name),
            Input::Tick => self.on_tick(now),
            other => self.on_connection(other, now),
        }
        if self.conns.has_events() {
            on_events(&mut self.scope(now).0);
        }
        #[cfg(debug_assertions)]
        if !matches!(self.settings.mode, Mode::Planted(_)) {
            self.check_invariants(now);
        }
    }

    /// What happens to one connection.
    fn on_connection(&mut self, input: Input<'_>, now: Tick) {
        let key = match &input {
            Input::Opened { key, .. }
            | Input::Abandoned { key }
            | Input::Subscribe { key, .. }
            | Input::Unsubscribe { key, .. }
            | Input::Cookie { key, .. }
            | Input::User { key, .. }
            | Input::SocketEnded { key }
            | Input::Forwarded { key, .. }
            | Input::Attach { key, .. }
            | Input::HandedOver { key, .. }
            | Input::HandoverEnded { key }
            | Input::Close { key, .. }
            | Input::Panicked { key } => *key,
            _ => unreachable!("handled by `handle`"),
        };
        self.with(key, |shard, conn| {
            let (mut scope, _) = shard.scope(now);
            match input {
                Input::Opened { response, greets, .. } => open(&mut scope, conn, response, greets),
                Input::Abandoned { .. } | Input::SocketEnded { .. } => end(&mut scope, conn),
                Input::Subscribe { channel, .. } => drop(subscribe(&mut scope, conn, channel, None)),
                Input::Unsubscribe { channel, .. } => unsubscribe(&mut scope, conn, channel, None),
                Input::Cookie { value, .. } => set_cookie(&mut scope, conn, value),
                Input::User { user, .. } => session::channels::set_user(&mut scope, conn, user),
                Input::Forwarded { outcome, spent, .. } => on_forwarded(&mut scope, conn, outcome, spent),
                Input::Attach { response, new, name, expiry_s, greets, .. } => {
                    attach::attach(&mut scope, conn, Attach { response, new, name, expiry_s, greets });
                }
                Input::HandedOver { to, .. } => {
                    session::end::leave(&mut scope, conn);
                    scope.conns.hand_over(conn, to);
                }
                Input::HandoverEnded { .. } => scope.conns.free_handed_over(conn),
                Input::Close { code, reason, .. } => scope.conns.close(conn, code, reason, &mut scope.cx),
                Input::Panicked { .. } => {
                    scope.conns.close(conn, CloseCode::INTERNAL_ERROR, "internal error", &mut scope.cx);
                    scope.conns.set_undecodable(conn);
                }
                _ => unreachable!("it has no key"),
            }
        });
    }

    /// The next output. There is none for a connection that has ended meanwhile: its slot may be
    /// another's by now.
    pub fn poll_output(&mut self) -> Option<Output> {
        loop {
            let output = self.outputs.pop_front();
            let Some(Output::EndWriting { key } | Output::Shutdown { key } | Output::Resume { key }) = output else {
                return output;
            };
            if self.lookup(key).is_some_and(|conn| self.conns.conn(conn).phase() != Phase::Gone) {
                return output;
            }
        }
    }

    /// One slice of fan-out, and of what else takes long. True when there is more to do.
    pub fn poll_fanout(&mut self, now: Tick) -> bool {
        if self.fanout.is_empty() && self.largest.is_idle() && self.sessions.listing.is_idle() {
            return false;
        }
        let (mut scope, fanout) = self.scope(now);
        queries::poll_largest(&mut scope);
        queries::poll_listing(&mut scope);
        let is_listing = !scope.largest.is_idle() || !scope.sessions.listing.is_idle();
        let more = !fanout.is_empty() && fanout.poll(&mut scope) || is_listing;
        on_events(&mut scope);
        more
    }

    // ---- writing ----

    /// A connection that has something to be written, once each until it has more; who had it first comes first.
    pub fn next_dirty(&mut self) -> Option<ConnIndex> {
        self.conns.next_dirty()
    }

    pub fn has_dirty(&self) -> bool {
        self.conns.dirty_len() > 0
    }

    /// Connections that `next_dirty` will name.
    pub fn dirty_len(&self) -> usize {
        self.conns.dirty_len()
    }

    /// What is to be written next, about `enough` bytes: appended to `out`, and the bytes behind them, which are not
    /// copied. Nothing when the connection is gone or has nothing.
    pub fn gather(&self, conn: ConnIndex, enough: usize, out: &mut Vec<u8>) -> &[u8] {
        let copied_max = self.settings.limits.copied_packet_bytes_max;
        self.conns.gather(conn, (enough, copied_max), &self.messages, out)
    }

    /// The socket took `bytes`. True when there is more to write.
    pub fn written(&mut self, conn: ConnIndex, bytes: usize) -> bool {
        let (mut scope, _) = self.scope(Tick(0));
        scope.conns.written(conn, bytes, &mut scope.cx)
    }

    // ---- how it stands ----

    /// The slot is this connection's still.
    pub fn is_current(&self, key: ConnKey) -> bool {
        self.lookup(key).is_some()
    }

    pub fn is_paused(&self, key: ConnKey) -> bool {
        self.lookup(key).is_some_and(|conn| self.conns.is_paused(conn))
    }

    /// When to send `Input::Tick` next.
    pub fn next_tick(&self) -> Option<Tick> {
        let timers =
            [self.conns.next_timer(), self.calls.next_poll(), self.sessions.next_tick(), self.fanout.next_tick()];
        timers.into_iter().flatten().min()
    }

    /// Open connections.
    pub fn len(&self) -> usize {
        self.conns.open_len()
    }

    /// Connections in any phase.
    pub fn slots(&self) -> usize {
        self.conns.len()
    }

    /// No connection at all, not even one whose last messages are with the backend.
    pub fn is_empty(&self) -> bool {
        self.conns.is_empty()
    }

    /// Connections opened and connections ended, since the start.
    pub fn came_and_went(&self) -> u64 {
        self.metrics.opened.get() + self.metrics.ended.get()
    }

    /// The next sessions to be offered to other nodes, at most `most`. Each call looks at a slice.
    pub fn offer_sessions(&mut self, walk: &mut OfferWalk, most: usize) -> Vec<Arc<str>> {
        let now = self.moment();
        walk.slice(&mut self.sessions.table, most, now)
    }

    /// No other node takes the session.
    pub fn decline_offer(&mut self, name: &str) {
        self.sessions.table.decline_offer(name);
    }

    /// No session without a connection is to be offered, and no offer is open.
    pub fn are_offers_over(&self, walk: &OfferWalk) -> bool {
        walk.is_over(self.moment())
    }

    fn moment(&self) -> Moment {
        Moment { came_and_went: self.came_and_went(), connections: self.slots() }
    }

    /// Those that are on their way to another node among them.
    pub fn sessions_len(&self) -> usize {
        self.sessions.table.len()
    }

    /// Commands that the store has not completed.
    pub fn store_under_way(&self) -> usize {
        self.sessions.commands.len()
    }

    /// With gauges as of now. Other threads see them as `publish` has left them.
    pub fn metrics(&self) -> &ShardMetrics {
        self.publish();
        &self.metrics
    }

    /// Nothing is held and nothing is to be done: no connection, no memory, no timer. Outputs have been fetched.
    pub fn is_quiescent(&self) -> bool {
        let arenas = [self.conns.items_total(), self.downlinks.total(), self.uplinks.total(), self.messages.uses()];
        self.conns.is_empty()
            && self.channels.is_empty()
            && self.calls.is_empty()
            && self.fanout.is_empty()
            && self.largest.is_idle()
            && self.sessions.listing.is_idle()
            && self.sessions.commands.is_empty()
            && self.sessions.undropped.is_empty()
            && self.sessions.evictions.is_empty()
            && arenas == [0; 4]
            && self.uplinks.memory() == 0
            && self.conns.timers_len() == 0
            && self.outputs.is_empty()
    }

    /// Closes up to `most` connections, each with a reason of its own, for a drain at a pace; returns how many.
    /// `Settled`: only those with whom nothing is under way, so that answers in flight finish first.
    pub fn close_some(
        &mut self,
        most: usize,
        which: DrainScope,
        code: CloseCode,
        mut reason: impl FnMut() -> String,
        now: Tick,
    ) -> usize {
        let settled = |conn| which == DrainScope::All || self.conns.is_settled(conn);
        let open = self.conns.iter().filter(|(index, conn)| conn.is_open() && settled(*index)).take(most);
        let chosen: Vec<ConnIndex> = open.map(|(index, _)| index).collect();
        let (mut scope, _) = self.scope(now);
        for &conn in &chosen {
            scope.conns.close(conn, code, &reason(), &mut scope.cx);
        }
        on_events(&mut scope);
        self.publish();
        chosen.len()
    }

    /// Somebody follows a connection, a channel or a session.
    pub fn is_tracing(&self) -> bool {
        !self.traces.is_idle()
    }

    // ---- dispatch ----

    fn scope(&mut self, now: Tick) -> (Scope<'_>, &mut Fanout) {
        let (memory, memory_max) = (self.clients_memory(), self.settings.clients_memory_max);
        let cx = Context {
            now,
            is_memory_full: memory > memory_max,
            is_memory_exhausted: memory > memory_max.saturating_mul(2),
            settings: &self.settings,
            metrics: &self.metrics,
            messages: &mut self.messages,
            calls: &mut self.calls,
            outputs: &mut self.outputs,
            traces: &mut self.traces,
            watches: &mut self.watches,
            scratch: &mut self.scratch,
        };
        let scope = Scope {
            conns: &mut self.conns,
            downlinks: &mut self.downlinks,
            uplinks: &mut self.uplinks,
            channels: &mut self.channels,
            largest: &mut self.largest,
            sessions: &mut self.sessions,
            cx,
        };
        (scope, &mut self.fanout)
    }

    /// What clients have caused, and what waits for them, beside their forward queues.
    fn clients_memory(&self) -> usize {
        self.conns.memory() + self.downlinks.memory() + self.uplinks.known().memory() + self.messages.memory()
    }

    fn lookup(&self, key: ConnKey) -> Option<ConnIndex> {
        self.conns.lookup(key, self.settings.is_planted(Bug::TrustsStaleKeys))
    }

    /// Does it for a connection that is still the one meant; a stale key is counted.
    fn with(&mut self, key: ConnKey, act: impl FnOnce(&mut Shard, ConnIndex)) {
        match self.lookup(key) {
            Some(conn) => act(self, conn),
            None => self.metrics.stale.increment(),
        }
    }

    fn on_bytes(&mut self, conn: ConnIndex, data: &mut [u8], now: Tick) {
        let Some(mut receiver) = self.conns.begin_reading(conn, now) else { return };
        let mut bytes = Bytes::new(data);
        loop {
            match receiver.next(&mut bytes, self.settings.message_bytes_max) {
                Ok(Some(arrival)) => {
                    self.on_arrival(conn, arrival, now);
                    if self.conns.is_peer_closed(conn) {
                        return;
                    }
                }
                Ok(None) => break,
                Err(violation) => {
                    self.metrics.ws_violations.increment();
                    self.conns.set_undecodable(conn);
                    let (mut scope, _) = self.scope(now);
                    return scope.conns.close(conn, violation.close_code(), &violation.to_string(), &mut scope.cx);
                }
            }
        }
        let (mut scope, _) = self.scope(now);
        scope.conns.end_reading(conn, receiver, &mut scope.cx);
    }

    fn on_arrival(&mut self, conn: ConnIndex, arrival: Arrival<'_>, now: Tick) {
        if !matches!(arrival, Arrival::Pong(_)) {
            self.conns.note_activity(conn, now);
        }
        let open = self.conns.conn(conn).is_open();
        match arrival {
            Arrival::Message { data, .. } if open && self.settings.mode != Mode::Echo => {
                self.on_packet(conn, data, now);
            }
            Arrival::Close { code, reason } => {
                let (mut scope, _) = self.scope(now);
                scope.conns.on_peer_close(conn, code, reason, &mut scope.cx);
            }
            _ if !open => {}
            Arrival::Pong(_) => keepalive::on_pong(&mut self.conns, conn),
            Arrival::Ping(payload) => {
                let (mut scope, _) = self.scope(now);
                scope.conns.push_pong(conn, payload, &mut scope.cx);
            }
            Arrival::Message { text, data } => {
                let echo = if text { Item::Text(data.into()) } else { Item::SharedPacket(data.into()) };
                self.push(conn, echo, now);
            }
        }
    }

    fn push(&mut self, conn: ConnIndex, item: Item, now: Tick) {
        let (mut scope, _) = self.scope(now);
        scope.conns.push(conn, item, &mut scope.cx);
    }

    /// One packet of an open connection. Empty ones are ignored.
    fn on_packet(&mut self, conn: ConnIndex, packet: &[u8], now: Tick) {
        if packet.is_empty() {
            return;
        }
        let mode = self.settings.mode;
        let (mut scope, _) = self.scope(now);
        if !scope.cx.traces.is_idle() {
            traced::on_packet(&mut scope, conn, packet);
        }
        let Scope { conns, downlinks, uplinks, sessions, cx, .. } = &mut scope;
        match Packet::decode(packet) {
            Ok(Packet::Send { dup, qos, message_type, id, body }) => {
                assert!(mode != Mode::PanicOn(message_type), "asked to panic by a test");
                let session = sessions.table.get_mut(conns.conn(conn).session());
                let numbering = session.map(|session| Numbering { session: session.id, mark: &mut session.mark });
                uplinks.on_send(conns, conn, Incoming { qos, id, dup, message_type, body }, numbering, cx);
            }
            Ok(Packet::Ack { id, body }) => downlinks.on_answer(conns, conn, (QoS::AtLeastOnce, id), body, cx),
            Ok(Packet::Rec { id, body }) => downlinks.on_answer(conns, conn, (QoS::ExactlyOnce, id), body, cx),
            Ok(Packet::Rel { id, .. }) => {
                let session = sessions.table.get(conns.conn(conn).session()).map(|session| session.id);
                uplinks.on_rel(conns, conn, id, session, cx);
            }
            Ok(Packet::Com { id }) => downlinks.on_com(conns, conn, id, cx),
            Err(_) if packet == PING && conns.details(conn).greets() => {
                conns.push_pong_packet(conn, cx);
            }
            Err(error) => {
                cx.metrics.packet_violations.increment();
                conns.close(conn, CloseCode::PROTOCOL_ERROR, &error.to_string(), cx);
            }
        }
        if scope.conns.has_events() {
            on_events(&mut scope);
        }
    }

    fn on_redirected(&mut self, key: ConnKey, query_id: QueryId, query: Query, now: Tick) {
        let conn = self.lookup(key).filter(|&conn| self.conns.conn(conn).is_open());
        let (mut scope, fanout) = self.scope(now);
        match conn {
            Some(conn) => queries::on_query(&mut scope, fanout, query_id, query, Some(conn)),
            None => scope.cx.reply(query_id, Reply::found(false)),
        }
    }

    fn on_tick(&mut self, now: Tick) {
        let (mut scope, fanout) = self.scope(now);
        fanout.expire(&mut scope);
        while let Some(end) = scope.cx.calls.poll_expired(now) {
            let lost = scope.cx.is_planted(Bug::LosesReplies);
            scope.cx.end_call((!lost).then_some(end));
        }
        while let Some(conn) = scope.conns.poll_timer(now) {
            on_timer(&mut scope, conn);
            on_events(&mut scope);
        }
        session::end::tick(&mut scope);
    }

    /// Gauges, as they stand after an input.
    /// Writes the gauges: once per turn, before anybody hears of what the turn has done.
    pub fn publish(&self) {
        let metrics = &self.metrics;
        metrics.connections.set(self.conns.open_len() as u64);
        metrics.channels.set(self.channels.len() as u64);
        metrics.timers.set(self.conns.timers_len() as u64);
        metrics.calls_waiting.set(self.calls.len() as u64);
        metrics.clients_memory.set(self.clients_memory() as u64);
        metrics.forward_queue_bytes.set(self.uplinks.memory() as u64);
        metrics.sessions.set(self.sessions.table.len() as u64);
        metrics.store_under_way.set(self.sessions.commands.len() as u64);
    }

    #[cfg(debug_assertions)]
    fn check_invariants(&mut self, now: Tick) {
        let (scope, fanout) = self.scope(now);
        invariants::check(&scope, fanout);
    }
}

/// The backend has let the connection in, and it has no session.
fn open(scope: &mut Scope<'_>, conn: ConnIndex, response: Rc<[u8]>, greets: bool) {
    scope.conns.set_greets(conn, greets);
    scope.conns.open(conn, response, &mut scope.cx);
    if greets {
        greeting::greet(scope.conns, conn, None, &mut scope.cx);
    }
    scope.conns.arm_no_later(conn, keepalive::next_check(scope.conns, conn, scope.cx.settings));
}

/// The socket has ended, or was never a client's.
fn end(scope: &mut Scope<'_>, conn: ConnIndex) {
    let was_connecting = scope.conns.conn(conn).phase() == Phase::Connecting;
    scope.conns.end(conn, &mut scope.cx);
    on_events(scope);
    if was_connecting {
        scope.conns.end_handover(conn, &mut scope.cx);
        scope.conns.remove(conn);
    } else {
        scope.conns.report_if_done(conn);
    }
}

fn set_cookie(scope: &mut Scope<'_>, conn: ConnIndex, value: &[u8]) {
    scope.conns.set_cookie(conn, Some(value.into()));
    if let Some(index) = scope.session_of(conn) {
        session::row::set_cookie(scope, index, value);
    }
}

fn on_forwarded(scope: &mut Scope<'_>, conn: ConnIndex, outcome: ForwardOutcome<'_>, spent: Vec<u8>) {
    let holder = session::uplink::uplink_conn(scope, conn);
    let session = scope.sessions.table.get(scope.conns.conn(holder).session()).map(|session| session.id);
    if !scope.cx.traces.is_idle() {
        traced::on_forwarded(scope, holder, &outcome);
    }
    scope.uplinks.on_forwarded(scope.conns, (conn, holder), outcome, spent, session, &mut scope.cx);
}

/// The connection's timer has fired, perhaps early.
fn on_timer(scope: &mut Scope<'_>, conn: ConnIndex) {
    if scope.conns.conn(conn).phase() == Phase::Closing {
        let close_by = scope.conns.close_by(conn);
        if scope.cx.now < close_by {
            return scope.conns.arm_no_later(conn, close_by);
        }
        return scope.cx.output(Output::Shutdown { key: scope.conns.key(conn) });
    }
    let wake = scope.downlinks.repeat_due(scope.conns, conn, &mut scope.cx);
    if let Some(index) = scope.attached_session(conn) {
        // A page that the store refused is asked for again.
        session::pages::load_more(scope, index);
    }
    if keepalive::check(scope.conns, conn, &mut scope.cx) == Alive::Quiet {
        scope.uplinks.forget_old_answers(scope.conns, conn);
    }
    reading::resume(scope.conns, conn, scope.uplinks.known(), scope.uplinks.memory(), &mut scope.cx);
    if scope.conns.conn(conn).is_open() {
        // Later than now, or this tick would never end.
        let next = wake.min(keepalive::next_check(scope.conns, conn, scope.cx.settings));
        let next = next.min(reading::resumes_at(scope.conns, conn, &scope.cx));
        scope.conns.arm_no_later(conn, next.max(scope.cx.now + 1));
    }
}

#[cfg(test)]
mod tests;
