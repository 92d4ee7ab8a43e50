//! Everything one core owns, as plain data: `handle(input, now)` changes it and leaves outputs.
//!
//! The shard knows no socket, clock, randomness or async. Bytes from clients come in as `Input::Bytes`; bytes to
//! clients are fetched per connection (`next_dirty`, `gather`, `written`); everything else that the world has to do is
//! an `Output`. The worker, the simulator and the fuzzer are three interpreters of the same outputs.
//!
//! ```text
//! Bytes ─► decoder ─► packet ─► uplink ───► Output::Forward …… Input::Forwarded ─► uplink ─┐
//! Query ─► channels ─► fanout ─► downlink ────────────────────────────────────────────────► outbox ─► gather
//! Tick  ─► wheel ─► repeats, pings, deadlines ─────────────────────────────────────────────►┘
//! ```

pub mod arena;
pub mod channels;
pub mod command;
mod conn;
mod downlink;
mod fanout;
#[cfg(debug_assertions)]
mod invariants;
mod keepalive;
mod keeping;
mod membership;
mod messages;
mod numbering;
mod outbox;
mod parts;
mod planted;
mod query;
mod session;
mod stats;
mod storeline;
mod uplink;
pub mod wheel;
mod words;

pub use messages::Message;
pub use parts::QueryId;
pub use planted::Bug;
pub use query::{DurableTally, Figures, NotStored, Query, Reply, SessionInfo, Terms};
pub use session::{SessionEnd, SessionSettings, home};
pub use stats::Stats;
pub use uplink::{ForwardOutcome, RESERVED_TYPE};
pub use words::{DrainScope, Forward, Input, Mode, Output, Settings};

use crate::base::id::{ConnKey, Identity, ShardId};
use crate::base::time::Tick;
use crate::wire::packet::{Packet, QoS};
use crate::wire::ws::decoder::{self, Event};
use crate::wire::ws::frame::{self, CloseCode, Opcode};
use arena::Arena;
use channels::{Change, Channels};
use command::{Offset, SessionId};
use conn::{Conn, Phase};
use downlink::Pending;
use fanout::Fanout;
use messages::Messages;
use outbox::{Item, Items};
use parts::{PartRef, Parts};
use rustc_hash::FxHashMap;
use session::{Attach, NO_CONN, Sessions};
use slab::Slab;
use std::collections::VecDeque;
use std::rc::Rc;
use storeline::{SessionKey, StoreLine};
use uplink::{Incoming, Known, Waiting};
use wheel::Wheel;

pub struct Shard {
    id: ShardId,
    settings: Settings,
    conns: Slab<Conn>,
    generation: u16,
    /// Connections in phase `Open`.
    open: usize,
    channels: Channels,
    messages: Messages,
    items: Items,
    pending: Arena<Pending>,
    known: Arena<Known>,
    line: Arena<Waiting>,
    /// Bytes of clients' messages in all lines and with the backend.
    line_bytes: usize,
    parts: Parts,
    fanout: Fanout,
    /// One timer per connection: the earliest thing it waits for. It may fire early; `on_timer` looks what is due.
    timers: Wheel,
    dirty: VecDeque<u32>,
    outputs: VecDeque<Output>,
    sessions: Sessions,
    storeline: StoreLine,
    /// When absent sessions end.
    ends: Wheel,
    /// Sessions that are no more, and when the store is asked again to drop them.
    undropped: Vec<SessionId>,
    drop_at: Tick,
    /// By slot: where a moved connection has gone, or whence it came.
    stubs: FxHashMap<u32, ConnKey>,
    /// Calls that wait for messages on their way to the store whose connection has ended.
    kept_parts: FxHashMap<(SessionKey, Offset), PartRef>,
    stats: Stats,
    spare_bodies: Vec<Vec<u8>>,
    member_scratch: Vec<u32>,
    scratch: Vec<u8>,
}

impl Shard {
    pub fn new(id: ShardId, settings: Settings, now: Tick) -> Shard {
        Shard {
            id,
            settings,
            conns: Slab::new(),
            generation: 0,
            open: 0,
            channels: Channels::default(),
            messages: Messages::default(),
            items: Items::default(),
            pending: Arena::default(),
            known: Arena::default(),
            line: Arena::default(),
            line_bytes: 0,
            parts: Parts::new(now),
            fanout: Fanout::default(),
            timers: Wheel::new(now),
            dirty: VecDeque::new(),
            outputs: VecDeque::new(),
            sessions: Sessions::default(),
            storeline: StoreLine::default(),
            ends: Wheel::new(now),
            undropped: Vec::new(),
            drop_at: Tick::NEVER,
            stubs: FxHashMap::default(),
            kept_parts: FxHashMap::default(),
            stats: Stats::default(),
            spare_bodies: Vec::new(),
            member_scratch: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// New limits and times, for what happens from now on.
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Takes a slot before the backend is asked, so that the connection has a name. `digest` makes it unique.
    /// `Input::Opened` or `Input::Abandoned` must follow.
    pub fn reserve(&mut self, digest: [u8; 32], now: Tick) -> (ConnKey, Identity) {
        self.take_slot(|key| Identity::new(digest, key), now)
    }

    fn take_slot(&mut self, identity: impl FnOnce(ConnKey) -> Identity, now: Tick) -> (ConnKey, Identity) {
        self.generation = self.generation.wrapping_add(1);
        let entry = self.conns.vacant_entry();
        let key = ConnKey { index: entry.key() as u32, generation: self.generation, shard: self.id };
        let identity = identity(key);
        entry.insert(Conn::new(self.generation, identity, now));
        (key, identity)
    }

    pub fn handle(&mut self, input: Input<'_>, now: Tick) {
        match input {
            Input::Opened { key, response } => self.with(key, |shard, index| shard.on_opened(index, response, now)),
            Input::Abandoned { key } => self.with(key, |shard, index| shard.on_socket_ended(index, now)),
            Input::Subscribe { key, channel } => self.with(key, |shard, index| {
                let _ = shard.subscribe(index, channel, None);
            }),
            Input::Unsubscribe { key, channel } => {
                self.with(key, |shard, index| shard.unsubscribe(index, channel, None));
            }
            Input::Cookie { key, value } => {
                self.with(key, |shard, index| shard.set_cookie(index, value));
            }
            Input::Bytes { key, data } => self.with(key, |shard, index| shard.on_bytes(index, data, now)),
            Input::SocketEnded { key } => self.with(key, |shard, index| shard.on_socket_ended(index, now)),
            Input::Forwarded { key, outcome, spent } => {
                self.with(key, |shard, index| shard.on_forwarded(index, outcome, spent, now));
            }
            Input::Query { ticket, query } => self.on_query(ticket, query, None, now),
            Input::Send { ticket, channel, message, terms } => self.send(ticket, channel, message, terms, now),
            Input::Close { key, code, reason } => {
                self.with(key, |shard, index| shard.begin_close(index, code, reason, now));
            }
            Input::Panicked { key } => self.with(key, |shard, index| {
                shard.begin_close(index, CloseCode::INTERNAL_ERROR, "internal error", now);
                shard.conns[index as usize].deaf = true;
            }),
            Input::Attach { key, response, new, name, expiry_s, greets } => self.with(key, |shard, index| {
                shard.on_attach(index, Attach { response, new, name, expiry_s, greets }, now);
            }),
            Input::Completions(told) => self.on_told(told, now),
            Input::MessagesExpired(expired) => self.on_expired(expired),
            Input::HandedOver { key, to } => self.with(key, |shard, index| shard.on_moved(index, to)),
            Input::HandoverEnded { key } => self.with(key, |shard, index| {
                shard.stubs.remove(&index);
                shard.conns.remove(index as usize);
            }),
            Input::RedirectedQuery { key, ticket, query } => {
                let open = |index: &u32| self.conns[*index as usize].phase == Phase::Open;
                match self.lookup(key).filter(open) {
                    Some(index) => self.on_query(ticket, query, Some(index), now),
                    None => self.outputs.push_back(Output::Reply { ticket, reply: Reply::Done { connections: 0 } }),
                }
            }
            Input::Tick => self.on_tick(now),
        }
        #[cfg(debug_assertions)]
        if !matches!(self.settings.mode, Mode::Planted(_)) {
            self.check_invariants(now);
        }
    }

    /// What the world has to do next. Nothing is asked for a connection that has ended meanwhile: its slot may be
    /// another's by now.
    pub fn poll_output(&mut self) -> Option<Output> {
        loop {
            let output = self.outputs.pop_front()?;
            let (Output::EndWriting { key } | Output::Shutdown { key } | Output::Resume { key }) = output else {
                return Some(output);
            };
            if self.lookup(key).is_some_and(|index| self.conns[index as usize].phase != Phase::Gone) {
                return Some(output);
            }
        }
    }

    /// A connection that has something to be written, once each until it has more; who had it first comes first.
    pub fn next_dirty(&mut self) -> Option<u32> {
        let index = self.dirty.pop_front()?;
        if let Some(conn) = self.conns.get_mut(index as usize) {
            conn.dirty = false;
            // Until `written` says otherwise: a socket that takes nothing is not written to.
            conn.stuck = !conn.outbox.is_empty();
        }
        Some(index)
    }

    pub fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Connections that `next_dirty` will name.
    pub fn dirty_len(&self) -> usize {
        self.dirty.len()
    }

    /// Connections opened and connections ended, since the start.
    pub fn came_and_went(&self) -> u64 {
        self.stats.opened + self.stats.ended
    }

    /// Appends what is to be written next, about `enough` bytes of it; nothing when the connection is gone or has
    /// nothing.
    pub fn gather(&self, index: u32, enough: usize, out: &mut Vec<u8>) {
        if let Some(conn) = self.conns.get(index as usize) {
            self.items.gather(&conn.outbox, &self.messages, enough, out);
        }
    }

    /// The socket took `bytes`. True when there is more to write.
    pub fn written(&mut self, index: u32, bytes: usize) -> bool {
        let Some(conn) = self.conns.get_mut(index as usize) else { return false };
        let waited = !conn.outbox.is_empty();
        let skips = self.settings.is_planted(Bug::SkipsBytes);
        let bytes = if skips && bytes < conn.outbox.bytes() { bytes + 1 } else { bytes };
        self.items.advance(&mut conn.outbox, &mut self.messages, bytes);
        conn.stuck = !conn.outbox.is_empty();
        if waited && !conn.stuck && conn.peer_closed {
            self.outputs.push_back(Output::Shutdown { key: conn.key(index, self.id) });
        } else if waited && !conn.stuck && conn.deaf {
            // The client's close cannot be found any more in a stream that broke the protocol: it is not waited for.
            self.outputs.push_back(Output::EndWriting { key: conn.key(index, self.id) });
        }
        conn.stuck
    }

    pub fn is_paused(&self, key: ConnKey) -> bool {
        self.lookup(key).is_some_and(|index| self.conns[index as usize].paused)
    }

    /// When to send `Input::Tick` next.
    pub fn next_tick(&self) -> Option<Tick> {
        let drop_at = (self.drop_at != Tick::NEVER).then_some(self.drop_at);
        [self.timers.next_poll(), self.parts.next_poll(), self.ends.next_poll(), drop_at].into_iter().flatten().min()
    }

    /// Open connections.
    pub fn len(&self) -> usize {
        self.open
    }

    /// Connections in any phase.
    pub fn slots(&self) -> usize {
        self.conns.len()
    }

    /// No connection at all, not even one whose last messages are with the backend.
    pub fn is_empty(&self) -> bool {
        self.conns.is_empty()
    }

    /// Closes up to `most` connections, for a drain at a pace. `Settled`: only those with whom nothing is under way, so
    /// that answers in flight finish first.
    pub fn close_some(&mut self, most: usize, which: DrainScope, code: CloseCode, reason: &str, now: Tick) {
        let chosen = |conn: &Conn| conn.phase == Phase::Open && (which == DrainScope::All || conn.is_settled());
        let open = self.conns.iter().filter(|(_, conn)| chosen(conn)).take(most);
        let chosen: Vec<u32> = open.map(|(index, _)| index as u32).collect();
        for &index in &chosen {
            self.begin_close(index, code, reason, now);
        }
    }

    fn lookup(&self, key: ConnKey) -> Option<u32> {
        let conn = self.conns.get(key.index as usize)?;
        let same = conn.generation == key.generation || self.settings.is_planted(Bug::TrustsStaleKeys);
        (same && key.shard == self.id).then_some(key.index)
    }

    /// Does it for a connection that is still the one meant; a stale key is counted.
    fn with(&mut self, key: ConnKey, act: impl FnOnce(&mut Shard, u32)) {
        match self.lookup(key) {
            Some(index) => act(self, index),
            None => self.stats.stale += 1,
        }
    }

    fn on_opened(&mut self, index: u32, response: Rc<[u8]>, now: Tick) {
        let conn = &mut self.conns[index as usize];
        debug_assert_eq!(conn.phase, Phase::Connecting);
        conn.phase = Phase::Open;
        (conn.heard, conn.spoke) = (now, now);
        let broken = conn.deaf;
        self.open += 1;
        self.stats.opened += 1;
        self.timers.arm(index, self.next_keepalive(index));
        self.push_item(index, Item::Frame(response), now);
        if broken {
            self.begin_close(index, CloseCode::INTERNAL_ERROR, "internal error", now);
        }
    }

    fn on_bytes(&mut self, index: u32, data: &mut [u8], now: Tick) {
        let conn = &mut self.conns[index as usize];
        conn.heard = now;
        if conn.deaf || conn.peer_closed || !matches!(conn.phase, Phase::Open | Phase::Closing) {
            return;
        }
        let limits = decoder::Limits { message_bytes_max: self.settings.message_bytes_max };
        let mut decoder = std::mem::take(&mut conn.decoder);
        let mut input = decoder::Input::new(data);
        loop {
            match decoder.next(&mut input, &limits) {
                Ok(Some(event)) => {
                    self.on_event(index, event, now);
                    // RFC 6455 section 5.5.1: nothing that counts follows a close frame.
                    if self.conns[index as usize].peer_closed {
                        return;
                    }
                }
                Ok(None) => break,
                Err(violation) => {
                    self.stats.ws_violations += 1;
                    self.conns[index as usize].deaf = true;
                    self.begin_close(index, violation.close_code(), &violation.to_string(), now);
                    return;
                }
            }
        }
        self.conns[index as usize].decoder = decoder;
    }

    fn on_event(&mut self, index: u32, event: Event<'_>, now: Tick) {
        let conn = &mut self.conns[index as usize];
        let phase = conn.phase;
        if !matches!(event, Event::Pong(_)) {
            conn.spoke = now;
        }
        match event {
            Event::Close { code, .. } => self.on_peer_close(index, code, now),
            _ if phase != Phase::Open => {}
            Event::Ping(payload) => {
                let mut pong = Vec::with_capacity(2 + payload.len());
                frame::write_header(&mut pong, Opcode::Pong, payload.len());
                pong.extend_from_slice(payload);
                self.push_item(index, Item::Frame(pong.into()), now);
            }
            Event::Pong(_) => self.conns[index as usize].pinged = Tick::NEVER,
            Event::Message { text, data } => self.on_message(index, text, data, now),
        }
    }

    fn on_message(&mut self, index: u32, text: bool, data: &[u8], now: Tick) {
        if self.settings.mode == Mode::Echo {
            let mut echo = Vec::with_capacity(frame::header_len(data.len()) + data.len());
            frame::write_header(&mut echo, if text { Opcode::Text } else { Opcode::Binary }, data.len());
            echo.extend_from_slice(data);
            return self.push_item(index, Item::Frame(echo.into()), now);
        }
        if data.is_empty() {
            return;
        }
        match Packet::decode(data) {
            Ok(Packet::Send { dup, qos, message_type, id, body }) => {
                assert!(self.settings.mode != Mode::PanicOn(message_type), "asked to panic by a test");
                self.on_send(index, Incoming { qos, id, dup, message_type, body }, now);
            }
            Ok(Packet::Ack { id, body }) => self.on_answer(index, id, QoS::AtLeastOnce, body, now),
            Ok(Packet::Rec { id, body }) => self.on_answer(index, id, QoS::ExactlyOnce, body, now),
            Ok(Packet::Rel { id, .. }) => self.on_rel(index, id, now),
            Ok(Packet::Com { id }) => self.on_com(index, id, now),
            Err(error) => {
                self.stats.packet_violations += 1;
                self.begin_close(index, CloseCode::PROTOCOL_ERROR, &error.to_string(), now);
            }
        }
    }

    /// The client's close frame: it is answered with the same code, and the socket ends once that is written.
    fn on_peer_close(&mut self, index: u32, code: Option<CloseCode>, now: Tick) {
        if self.conns[index as usize].phase == Phase::Open {
            self.leave_open(index, now);
            let mut answer = Vec::with_capacity(4);
            match code {
                Some(code) => frame::write_close(&mut answer, code, ""),
                None => frame::write_header(&mut answer, Opcode::Close, 0),
            }
            self.items.push(&mut self.conns[index as usize].outbox, &self.messages, Item::small(&answer));
            self.mark_dirty(index);
        }
        let conn = &mut self.conns[index as usize];
        conn.peer_closed = true;
        if conn.outbox.is_empty() {
            self.outputs.push_back(Output::Shutdown { key: conn.key(index, self.id) });
        }
    }

    /// Sends a close frame and waits for the client's, for `close_timeout` at the most.
    fn begin_close(&mut self, index: u32, code: CloseCode, reason: &str, now: Tick) {
        if self.conns[index as usize].phase != Phase::Open {
            return;
        }
        match code {
            CloseCode::POLICY => self.stats.closed_policy += 1,
            CloseCode::TRY_AGAIN_LATER => self.stats.closed_too_slow += 1,
            CloseCode::INTERNAL_ERROR => self.stats.closed_panic += 1,
            _ => {}
        }
        self.leave_open(index, now);
        let conn = &mut self.conns[index as usize];
        if code == CloseCode::TRY_AGAIN_LATER {
            self.items.clear_unbegun(&mut conn.outbox, &mut self.messages);
        }
        let mut close = Vec::with_capacity(frame::CONTROL_PAYLOAD_MAX + 2);
        frame::write_close(&mut close, code, reason);
        self.items.push(&mut conn.outbox, &self.messages, Item::Frame(close.into()));
        self.mark_dirty(index);
    }

    /// From `Open` to `Closing`: no more deliveries, and nobody waits for this client's answers.
    fn leave_open(&mut self, index: u32, now: Tick) {
        let conn = &mut self.conns[index as usize];
        debug_assert_eq!(conn.phase, Phase::Open);
        conn.phase = Phase::Closing;
        conn.close_by = now + self.settings.close_timeout_ms;
        if std::mem::take(&mut conn.paused) {
            self.outputs.push_back(Output::Resume { key: conn.key(index, self.id) });
        }
        self.open -= 1;
        self.timers.arm(index, now + self.settings.close_timeout_ms);
        self.leave_channels(index);
        self.detach(index, now);
        self.abandon_pending(index);
    }

    fn on_socket_ended(&mut self, index: u32, now: Tick) {
        let conn = &mut self.conns[index as usize];
        match conn.phase {
            Phase::Gone | Phase::Moved => return debug_assert!(false, "a socket ends once"),
            Phase::Connecting => {
                self.leave_channels(index);
                self.detach(index, now);
                self.end_stub(index);
                let conn = self.conns.remove(index as usize);
                if self.settings.is_planted(Bug::ClosesUnopened) {
                    self.outputs.push_back(Output::Closed { identity: conn.identity, cookie: None });
                }
                return;
            }
            Phase::Open => self.open -= 1,
            Phase::Closing => {}
        }
        self.stats.ended += 1;
        conn.phase = Phase::Gone;
        conn.paused = false;
        conn.decoder = Default::default();
        self.timers.cancel(index);
        self.items.clear(&mut conn.outbox, &mut self.messages);
        self.leave_channels(index);
        self.detach(index, now);
        self.abandon_pending(index);
        let conn = &self.conns[index as usize];
        if conn.uplink.is_idle() && !conn.owes {
            self.free(index);
        } else if self.settings.is_planted(Bug::ClosesEarly) {
            let conn = &mut self.conns[index as usize];
            self.outputs.push_back(Output::Closed { identity: conn.identity, cookie: conn.cookie.take() });
        }
    }

    /// The end of a connection: the backend hears of it after the last message it was sent.
    fn free(&mut self, index: u32) {
        self.forget_uplink(index);
        self.end_stub(index);
        if let Some(at) = self.session_of(index).filter(|&at| self.sessions.at(at).holder == index) {
            self.sessions.at_mut(at).holder = NO_CONN;
        }
        let conn = self.conns.remove(index as usize);
        debug_assert!(conn.outbox.is_empty() && conn.joined.is_empty() && conn.downlink.list().is_empty());
        self.outputs.push_back(Output::Closed { identity: conn.identity, cookie: conn.cookie });
    }

    /// The shard that the connection came from may give its slot to another.
    fn end_stub(&mut self, index: u32) {
        if let Some(stub) = self.stubs.remove(&index) {
            self.outputs.push_back(Output::HandoverEnded { stub });
        }
    }

    fn on_moved(&mut self, index: u32, to: ConnKey) {
        debug_assert_eq!(self.conns[index as usize].phase, Phase::Connecting);
        self.leave_channels(index);
        self.conns[index as usize].phase = Phase::Moved;
        self.stubs.insert(index, to);
    }

    fn set_cookie(&mut self, index: u32, value: &[u8]) {
        self.conns[index as usize].cookie = Some(value.into());
        if let Some(at) = self.session_of(index) {
            self.set_session_cookie(at, value);
        }
    }

    fn leave_channels(&mut self, index: u32) {
        let mut joined = std::mem::take(&mut self.conns[index as usize].joined);
        while let Some(change) = self.channels.leave_any(&mut joined) {
            self.told_presence(change, false);
        }
    }

    /// `Ok(true)`: the ticket is replied to when the store has it.
    fn subscribe(&mut self, index: u32, channel: &str, ticket: Option<QueryId>) -> Result<bool, &'static str> {
        // What an answer of the backend's says is meant for the session, although this connection of its has ended.
        let session = self.session_of(index);
        let conn = &mut self.conns[index as usize];
        let joined = session.map_or(&conn.joined, |at| &self.sessions.at(at).joined);
        let most = self.settings.channels_per_connection;
        let refusal = match conn.phase {
            _ if channel.is_empty() || channel.len() > CHANNEL_NAME_MAX => Some("bad channel name"),
            Phase::Closing | Phase::Gone if session.is_none() => Some("no such connection"),
            Phase::Moved => Some("no such connection"),
            _ if self.channels.count(joined, most) < most => None,
            _ if self.channels.joined_names(joined).any(|joined| joined == channel) => None,
            _ => Some("too many channels"),
        };
        if let Some(why) = refusal {
            self.stats.subscriptions_refused += 1;
            return Err(why);
        }
        if let Some(at) = session {
            return Ok(self.join_session(at, channel, ticket) && ticket.is_some());
        }
        let change = self.channels.join(index, &mut conn.joined, channel);
        self.told_presence(change, true);
        Ok(false)
    }

    fn unsubscribe(&mut self, index: u32, channel: &str, told: Option<(QueryId, Reply)>) {
        if let Some(at) = self.session_of(index) {
            return self.leave_session(at, channel, told);
        }
        let change = self.channels.leave(&mut self.conns[index as usize].joined, channel);
        self.told_presence(change, false);
        if let Some((ticket, reply)) = told {
            self.outputs.push_back(Output::Reply { ticket, reply });
        }
    }

    fn told_presence(&mut self, change: Change, here: bool) {
        if let Change::Presence(channel) = change {
            self.outputs.push_back(Output::Presence { channel, here });
        }
    }

    fn on_tick(&mut self, now: Tick) {
        while let Some(ended) = self.parts.poll_expired(now) {
            if !self.settings.is_planted(Bug::LosesReplies) {
                self.reply_ended(ended);
            }
        }
        while let Some(index) = self.timers.poll(now) {
            self.on_timer(index, now);
        }
        self.end_expired(now);
        self.drop_undropped(now);
    }

    fn on_timer(&mut self, index: u32, now: Tick) {
        let conn = &self.conns[index as usize];
        if conn.phase == Phase::Closing {
            if now < conn.close_by {
                return self.timers.arm(index, conn.close_by);
            }
            return self.outputs.push_back(Output::Shutdown { key: conn.key(index, self.id) });
        }
        let wake = self.repeat_due(index, now);
        if let Some(at) = self.session_of(index).filter(|&at| self.sessions.at(at).conn == index) {
            // A page that the store refused is asked for again.
            self.load_more(at);
        }
        self.keep_alive(index, now);
        if self.conns[index as usize].phase == Phase::Open {
            // Later than now, or this tick would never end.
            self.timers.arm_no_later(index, wake.min(self.next_keepalive(index)).max(now + 1));
        }
    }

    fn mark_dirty(&mut self, index: u32) {
        let conn = &mut self.conns[index as usize];
        if !std::mem::replace(&mut conn.dirty, true) {
            self.dirty.push_back(index);
        }
    }

    /// Nothing is held and nothing is to be done: no connection, no memory, no timer. Outputs have been fetched.
    pub fn is_quiescent(&self) -> bool {
        let arenas = [self.items.len(), self.pending.len(), self.known.len(), self.line.len(), self.messages.uses()];
        let rooms =
            self.conns.is_empty() && self.channels.is_empty() && self.parts.is_empty() && self.fanout.is_empty();
        rooms
            && self.storeline.is_empty()
            && self.undropped.is_empty()
            && arenas == [0; 5]
            && self.line_bytes == 0
            && self.timers.is_empty()
            && self.outputs.is_empty()
    }
}

/// A channel's name, in bytes.
pub const CHANNEL_NAME_MAX: usize = 256;

#[cfg(test)]
pub(crate) mod tests;
