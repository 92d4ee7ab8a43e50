//! Bytes as a story: connections open, say anything, become those of durable sessions, are handed over, are asked for,
//! end; the backend and the store answer or refuse; time passes. The shard checks its invariants after each input; at
//! the end, when everyone has gone and all sessions have ended, nothing may be left.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rainbow::base::id::{ConnIndex, ConnKey, Generation, Identity, ShardId};
use rainbow::base::keyed_hash::HashKey;
use rainbow::base::limits::Limits;
use rainbow::base::time::Tick;
use rainbow::shard::command::{
    Claim, Command, Completion, Completions, ExpiredMessages, Mutation, Operation, Page, Received, SessionId,
    StoreError, StoredMessage, UnixMs,
};
use rainbow::shard::{
    DrainScope, Forward, ForwardOutcome, Input, Message, Mode, Output, Query, QueryId, SessionSettings, Settings,
    Shard, Terms, TraceEntry, TraceId, TraceTarget, TraceTerms, Wait, Who,
};
use rainbow::wire::packet::{MessageId, Packet, QoS};
use rainbow::wire::ws::frame::{ClientFrame, CloseCode, Opcode};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

// Small, so that the fuzzer reaches every limit.
const SETTINGS: Settings = Settings {
    ping_interval_ms: 1_000,
    pong_timeout_ms: 300,
    idle_timeout_ms: 5_000,
    close_timeout_ms: 200,
    ack_timeout_ms: 100,
    ack_backoff: 1.5,
    forward_deadline_ms: 1_000,
    forward_queue: 2,
    forward_queue_bytes: 100,
    forward_ahead_bytes: 50,
    hash_key: HashKey::new(1, 2),
    node: Generation(1),
    forwards: true,
    inflight_window: 2,
    received_max: 3,
    answers_bytes_max: 100,
    message_bytes_max: 100,
    outbox_bytes_max: 400,
    clients_memory_max: 1_000,
    messages_per_second: 50,
    channels_per_connection: 2,
    sessions: SESSIONS,
    mode: Mode::Packets,
    limits: Limits::DEFAULT,
};

/// So small that a few clients reach what is sliced, full and refused.
const TINY_LIMITS: Limits = Limits {
    fanout_slice_members: 1,
    gathered_members: 1,
    copied_packet_bytes_max: 12,
    fanout_at_once_members: 1,
    walked_slots: 1,
    queue_short_max: 1,
    memory_short_max: 20,
    fanout_jobs_max: 3,
    commands_max: 6,
    commands_bytes_max: 3_000,
    commands_behind: 3,
    page_messages_min: 1,
    page_messages_max: 2,
    answers_remembered_max: 2,
    held_ids_max: 3,
    sweep_ids_max: 8,
    reserve_block_min: 1,
    reserve_block_max: 4,
    session_expiries_per_tick: 1,
    store_retry_ms: 50,
    spare_bodies_max: 1,
    spare_body_bytes_max: 16,
    ..Limits::DEFAULT
};

const SESSIONS: SessionSettings = SessionSettings {
    unix_ms_at_zero: 1_000_000,
    store_after_ms: 50,
    messages_max: 4,
    bytes_max: 200,
    expiry_s: 2,
    expiry_max_s: 4,
    message_ttl_ms: 1_000,
};

const CONNS_MAX: usize = 6;
/// The last one is that of a user.
const CHANNELS: [&str; 4] = ["a", "b", "", "\u{1}v"];
const USERS: [&str; 2] = ["v", "w"];
const SESSION_NAMES: [&str; 3] = ["s", "t", "u"];

struct Story<'d> {
    data: &'d [u8],
    shard: Shard,
    now: Tick,
    /// The last is the newest; what ended stays, for late inputs.
    conns: Vec<Conn>,
    forwards: VecDeque<Forward>,
    calls: HashMap<u64, u32>,
    tickets: u64,
    opened: u64,
    closed: u64,
    presence: HashMap<u64, i32>,
    /// Given out by the shard and not completed.
    commands: VecDeque<Command>,
    /// What the store keeps, as far as a shard notices.
    messages: BTreeMap<(SessionId, u64), StoredMessage>,
    received: BTreeMap<(SessionId, u16), Received>,
    sessions: u128,
    /// Begun and not ended, their time apart.
    traces: BTreeMap<u64, TraceTerms>,
}

#[derive(Clone)]
struct Conn {
    key: ConnKey,
    identity: Identity,
    socket: Socket,
    paused: bool,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Socket {
    Connecting,
    /// The store is asked.
    Attaching,
    Open,
    /// It goes on elsewhere.
    HandedOver,
    Ended,
}

fuzz_target!(|data: &[u8]| {
    let now = Tick(1 << 30);
    // The length decides, so that no byte of the story is needed for it.
    let limits = if data.len() % 2 == 1 { TINY_LIMITS } else { Limits::DEFAULT };
    let mut story = Story {
        data,
        shard: Shard::new(ShardId(1), Settings { limits, ..SETTINGS }, Default::default(), now),
        now,
        conns: Vec::new(),
        forwards: VecDeque::new(),
        calls: HashMap::new(),
        tickets: 0,
        opened: 0,
        closed: 0,
        presence: HashMap::new(),
        commands: VecDeque::new(),
        messages: BTreeMap::new(),
        received: BTreeMap::new(),
        sessions: 0,
        traces: BTreeMap::new(),
    };
    while let Some(step) = story.byte() {
        story.step(step);
        story.carry_out();
    }
    story.end();
});

impl Story<'_> {
    fn byte(&mut self) -> Option<u8> {
        self.data.split_off_first().copied()
    }

    fn number(&mut self) -> usize {
        usize::from(self.byte().unwrap_or(0))
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let len = self.number() % (most + 1);
        self.data.split_off(..len.min(self.data.len())).expect("within it").to_vec()
    }

    fn conn(&mut self) -> Option<usize> {
        let number = self.number();
        number.checked_rem(self.conns.len())
    }

    fn channel(&mut self) -> &'static str {
        CHANNELS[self.number() % CHANNELS.len()]
    }

    fn qos(&mut self) -> QoS {
        QoS::from_u8((self.number() % 3) as u8).expect("0, 1 or 2")
    }

    fn handle(&mut self, input: Input<'_>) {
        self.shard.handle(input, self.now);
    }

    fn step(&mut self, step: u8) {
        match step % 29 {
            0 => self.reserve(),
            1 => self.decide(),
            2 => {
                let data = self.bytes(60);
                self.say(data);
            }
            3..=6 => {
                let frame = self.packet();
                self.say(frame);
            }
            7 => {
                let opcode = [Opcode::Close, Opcode::Ping, Opcode::Pong, Opcode::Text][self.number() % 4];
                let payload = self.bytes(130);
                let mut data = Vec::new();
                ClientFrame { fin: true, opcode, key: [9, 8, 7, 6], payload: &payload }.write_into(&mut data);
                self.say(data);
            }
            8 => self.end_socket(),
            9..=10 => self.backend(),
            11 => self.headers(),
            12..=14 => self.send(),
            15 => self.query(),
            16 => {
                self.now = self.now + self.number() as u64 * 10;
                self.handle(Input::Tick);
            }
            17 => {
                self.shard.poll_fanout(self.now);
            }
            18 => {
                let Some(at) = self.conn() else { return };
                let key = self.conns[at].key;
                match self.number() % 4 {
                    0 => self.handle(Input::Panicked { key }),
                    1 => {
                        self.shard.close_some(1, DrainScope::Settled, CloseCode::GOING_AWAY, String::new, self.now);
                    }
                    _ => self.handle(Input::Close { key, code: CloseCode::GOING_AWAY, reason: "bye" }),
                }
            }
            19 => self.flush(),
            20 => self.attach(),
            21..=23 => self.complete(),
            24 => self.expire(),
            25 => {
                // The wall clock is stepped.
                let unix_ms = self.number() as u64 * 8_000;
                self.shard.set_unix_ms_at_zero(unix_ms);
            }
            26 => {
                // What costs a client nothing, many times.
                let frame = self.packet();
                let Some(at) = self.conn() else { return };
                (0..40).for_each(|_| self.say_to(at, frame.clone()));
            }
            27 => self.hand_over(),
            _ => self.go_elsewhere(),
        }
    }

    fn reserve(&mut self) {
        let living = self.conns.iter().filter(|conn| conn.socket != Socket::Ended).count();
        if living < CONNS_MAX {
            let (key, identity) = self.shard.reserve([self.conns.len() as u8; 32], self.now);
            self.conns.push(Conn { key, identity, socket: Socket::Connecting, paused: false });
        }
    }

    fn decide(&mut self) {
        let Some(at) = self.conns.iter().position(|conn| conn.socket == Socket::Connecting) else { return };
        let key = self.conns[at].key;
        let number = self.number();
        if number % 8 == 0 {
            self.conns[at].socket = Socket::Ended;
            return self.handle(Input::Abandoned { key });
        }
        self.conns[at].socket = Socket::Open;
        self.opened += 1;
        self.name_user(key, number);
        self.handle(Input::Opened { key, response: Rc::from(&b"101"[..]), greets: number & 16 > 0 });
    }

    /// The connection becomes a session's; or the client goes while the store is asked.
    fn attach(&mut self) {
        let number = self.number();
        let attaching = self.conns.iter().position(|conn| conn.socket == Socket::Attaching);
        if let Some(at) = attaching.filter(|_| number & 8 > 0) {
            let key = self.conns[at].key;
            self.conns[at].socket = Socket::Ended;
            return self.handle(Input::Abandoned { key });
        }
        let Some(at) = self.conns.iter().position(|conn| conn.socket == Socket::Connecting) else { return };
        let key = self.conns[at].key;
        self.conns[at].socket = Socket::Attaching;
        self.sessions += 1;
        let (new, name) = (SessionId(self.sessions), SESSION_NAMES[number % SESSION_NAMES.len()].into());
        let expiry_s = (number & 64 > 0).then_some(1);
        let greets = number & 32 > 0;
        self.name_user(key, number);
        self.handle(Input::Attach { key, response: Rc::from(&b"101"[..]), new, name, expiry_s, greets });
    }

    /// The store has done some of its work, or refuses it.
    fn complete(&mut self) {
        let number = self.number();
        let some = number.checked_rem(self.commands.len()).map_or(0, |most| most + 1);
        self.complete_some(some, number & 128 > 0);
    }

    fn complete_some(&mut self, some: usize, refuses: bool) {
        let mut completions = Completions::default();
        for Command { number, operation } in self.commands.drain(..some).collect::<Vec<_>>() {
            completions.upto = number;
            let refused = refuses && self.number() % 2 > 0;
            let outcome = match operation {
                _ if refused => Completion::Refused([StoreError::Broken, StoreError::Unreachable][self.number() % 2]),
                Operation::Mutate(mutation) => self.mutate(mutation),
                Operation::Load { session, after, most } => {
                    let from = after.map_or(0, |after| after.0 + 1);
                    let found = self.messages.range((session, from)..=(session, u64::MAX)).map(|(_, stored)| stored);
                    let most = most.min(1 + self.data.len() % 3);
                    let messages: Vec<StoredMessage> = found.clone().take(most).cloned().collect();
                    let received = self.received.range((session, 0)..=(session, u16::MAX));
                    let received = received.map(|(_, received)| received.clone()).filter(|_| after.is_none()).collect();
                    let more = found.count() > messages.len();
                    Completion::Loaded(Page { messages, received, more })
                }
            };
            if outcome != Completion::Done {
                completions.exceptions.push((number, outcome));
            }
        }
        if some > 0 {
            self.handle(Input::Completions(completions));
        }
    }

    fn mutate(&mut self, mutation: Mutation) -> Completion {
        match mutation {
            Mutation::PutMessage(stored) => {
                if stored.claim.is_some() && self.number() % 4 == 0 {
                    return Completion::Duplicate;
                }
                self.messages.entry((stored.session, stored.offset.0)).or_insert(*stored);
            }
            Mutation::ReleaseMessage { session, offset } => {
                if let Some(stored) = self.messages.get_mut(&(session, offset.0)) {
                    stored.released = true;
                }
            }
            Mutation::RemoveMessage { session, offset } => drop(self.messages.remove(&(session, offset.0))),
            Mutation::PutReceived { session, received } => {
                drop(self.received.insert((session, received.id.0), received))
            }
            Mutation::RemoveReceived { session, id } => drop(self.received.remove(&(session, id.0))),
            Mutation::DropSession { session } => {
                self.messages.retain(|(of, _), _| *of != session);
                self.received.retain(|(of, _), _| *of != session);
            }
            Mutation::PutSession(_) | Mutation::JoinChannel { .. } | Mutation::LeaveChannel { .. } => {}
        }
        Completion::Done
    }

    /// The store removes a message whose time is over.
    fn expire(&mut self) {
        let number = self.number();
        let waiting: Vec<_> =
            self.messages.iter().filter(|(_, stored)| !stored.released).map(|(key, _)| *key).collect();
        let Some(at) = number.checked_rem(waiting.len()) else { return };
        let stored = self.messages.remove(&waiting[at]).expect("just seen");
        let bytes = stored.message.len() as u64;
        self.handle(Input::MessagesExpired(ExpiredMessages { session: stored.session, messages: 1, bytes }));
    }

    /// A session goes to another node, or has gone.
    fn go_elsewhere(&mut self) {
        let number = self.number();
        let name = &SESSION_NAMES[number % SESSION_NAMES.len()].into();
        match number / SESSION_NAMES.len() % 5 {
            0 => self.handle(Input::PassSession { name }),
            1 => self.handle(Input::LoseSession { name }),
            4 => self.handle(Input::ExpireSession { name }),
            kind => self.handle(Input::ForgetSession { name, keeps_name: kind == 2 }),
        }
    }

    /// A connection moves to another shard, or its end there is completions; or one comes from there.
    fn hand_over(&mut self) {
        let number = self.number();
        let elsewhere = ConnKey { index: ConnIndex(number as u32), generation: 1, shard: ShardId(2) };
        let socket = [Socket::Connecting, Socket::HandedOver][number % 2];
        let found = self.conns.iter().position(|conn| conn.socket == socket);
        match found {
            // What came from elsewhere is owned here.
            Some(at) if socket == Socket::Connecting && number & 4 > 0 && !self.is_adopted(at) => {
                let (identity, origin) = (self.conns[at].identity, self.conns[at].key);
                self.conns[at].socket = Socket::HandedOver;
                self.handle(Input::HandedOver { key: origin, to: elsewhere });
                if number & 8 > 0 {
                    // It comes back, as if two shards were one.
                    let key = self.shard.adopt(identity, origin, self.now);
                    self.conns.push(Conn { key, identity, socket: Socket::Connecting, paused: false });
                }
            }
            Some(at) if socket == Socket::HandedOver && !self.is_adopted(at) => {
                let key = self.conns[at].key;
                self.conns[at].socket = Socket::Ended;
                self.handle(Input::HandoverEnded { key });
            }
            _ => {
                let Some(at) = self.conn() else { return };
                let (key, identity) = (self.conns[at].key, self.conns[at].identity);
                let query_id = self.query_id();
                self.handle(Input::RedirectedQuery { key, query_id, query: Query::Exists { who: identity.into() } });
            }
        }
    }

    /// The shard itself will say when it ends.
    fn is_adopted(&self, at: usize) -> bool {
        let identity = self.conns[at].identity;
        self.conns.iter().enumerate().any(|(other, conn)| other != at && conn.identity == identity)
    }

    /// A client says it; one whose socket has ended says it late.
    fn say(&mut self, data: Vec<u8>) {
        let Some(at) = self.conn() else { return };
        self.say_to(at, data);
    }

    fn say_to(&mut self, at: usize, mut data: Vec<u8>) {
        let Conn { key, paused, .. } = self.conns[at];
        if !paused {
            self.handle(Input::Bytes { key, data: &mut data });
            self.conns[at].paused = self.shard.is_paused(key);
        }
    }

    fn packet(&mut self) -> Vec<u8> {
        let (kind, id) = (self.number(), MessageId(1 + self.number() as u16 % 6));
        let (qos, body) = (self.qos(), self.bytes(20));
        let (body, dup) = (&body[..], kind & 64 > 0);
        let packet = match kind % 8 {
            0..=3 => {
                let id = (qos != QoS::AtMostOnce).then_some(id);
                Packet::Send { dup, qos, message_type: kind as u16, id, body }
            }
            4 => Packet::Ack { id, body },
            5 => Packet::Rec { id, body },
            6 => Packet::Rel { id, dup },
            _ => Packet::Com { id },
        };
        let (mut payload, mut data) = (Vec::new(), Vec::new());
        packet.encode_into(&mut payload);
        ClientFrame { fin: true, opcode: Opcode::Binary, key: [1, 2, 3, 4], payload: &payload }.write_into(&mut data);
        data
    }

    fn end_socket(&mut self) {
        let Some(at) = self.conn().filter(|&at| self.conns[at].socket == Socket::Open) else { return };
        self.conns[at].socket = Socket::Ended;
        let key = self.conns[at].key;
        self.handle(Input::SocketEnded { key });
    }

    fn backend(&mut self) {
        let number = self.number();
        let Some(at) = number.checked_rem(self.forwards.len()) else { return };
        let Forward { key, body, .. } = self.forwards.remove(at).expect("within it");
        let answer = self.bytes(120);
        let outcome = if number & 64 > 0 { ForwardOutcome::Failed } else { ForwardOutcome::Answered(&answer) };
        self.handle(Input::Forwarded { key, outcome, spent: body });
    }

    fn headers(&mut self) {
        let Some(at) = self.conn() else { return };
        let key = self.conns[at].key;
        let channel = self.channel();
        match self.number() % 4 {
            0 => self.handle(Input::Unsubscribe { key, channel }),
            1 => self.handle(Input::Cookie { key, value: b"c" }),
            _ => self.handle(Input::Subscribe { key, channel }),
        }
    }

    /// The backend may say who the client is.
    fn name_user(&mut self, key: ConnKey, number: usize) {
        if number & 128 > 0 {
            self.handle(Input::User { key, user: USERS[number >> 6 & 1] });
        }
    }

    fn query_id(&mut self) -> QueryId {
        self.tickets += 1;
        self.calls.insert(self.tickets, 0);
        QueryId(self.tickets)
    }

    fn send(&mut self) {
        let (channel, qos, body) = (self.channel(), self.qos(), self.bytes(180));
        let deadline = Tick((self.now + self.number() as u64 * 5).0.saturating_sub(10));
        let message = Message::encode(qos, 7, &body, &mut Vec::new());
        let number = self.number();
        let until = UnixMs(u64::MAX);
        let terms = Terms {
            deadline,
            ttl_ms: (number & 1 > 0).then_some(500),
            claim: (number & 2 > 0).then(|| Claim { message_id: "m".into(), until }),
            wait: if number & 8 > 0 { Wait::Stored } else { Wait::Answered },
        };
        let query_id = self.query_id();
        if number & 4 > 0 {
            let session = SESSION_NAMES[number % SESSION_NAMES.len()].into();
            return self.handle(Input::Query { query_id, query: Query::SendTo { session, message, terms } });
        }
        self.handle(Input::Send { query_id, channel, message, terms: &terms });
    }

    fn query(&mut self) {
        let Some(at) = self.conn() else { return };
        let identity = self.conns[at].identity;
        let (channel, code, reason) = (self.channel().into(), CloseCode(4000), "go".into());
        let session = || SESSION_NAMES[identity.0[0] as usize % SESSION_NAMES.len()].into();
        let number = self.number();
        let who = if number & 128 > 0 { Who::Session(session()) } else { identity.into() };
        let query = match number % 13 {
            0 => Query::Exists { who },
            1 => Query::Unsubscribe { who, channel },
            2 => Query::Evict { channel, keep: who },
            3 => Query::Kick { identity, code, reason },
            4 => Query::KickChannel { channel, code, reason },
            5 => {
                Query::Members { channel, offset: self.number(), limit: self.number(), counts: self.number() % 2 == 0 }
            }
            6 => Query::Largest { most: self.number() },
            7 => Query::Session { session: session() },
            8 => Query::DropSession { session: session() },
            9 => Query::FindChannels { text: channel, most: self.number() },
            10 => return self.begin_trace(identity, session(), channel),
            11 => return self.end_trace(),
            _ => Query::Subscribe { who, channel },
        };
        let query_id = self.query_id();
        self.handle(Input::Query { query_id, query });
    }

    /// Somebody looks at what happens to a connection, a session or a channel.
    fn begin_trace(&mut self, identity: Identity, session: Arc<str>, channel: Arc<str>) {
        let (number, id) = (self.number(), self.number() as u64 % 4);
        let target = match number % 3 {
            0 => TraceTarget::Identity(identity),
            1 => TraceTarget::Session(session),
            _ => TraceTarget::Channel(channel),
        };
        let terms = TraceTerms { target, ends: self.now + number as u64 * 8, body_bytes: number % 7 };
        self.traces.insert(id, terms.clone());
        let query_id = self.query_id();
        self.handle(Input::Query { query_id, query: Query::Trace { id: TraceId(id), terms } });
    }

    fn end_trace(&mut self) {
        let id = self.number() as u64 % 4;
        self.traces.remove(&id);
        let query_id = self.query_id();
        self.handle(Input::Query { query_id, query: Query::EndTrace { id: TraceId(id) } });
    }

    /// An entry is of whom its trace follows, in the time that it lasts.
    fn on_traced(&self, TraceId(id): TraceId, entry: &TraceEntry) {
        let terms = self.traces.get(&id).expect("a trace that has ended says nothing");
        assert!(entry.at < terms.ends && entry.at <= self.now, "in its time");
        match &terms.target {
            TraceTarget::Identity(followed) => assert_eq!(entry.identity.as_ref(), Some(followed)),
            TraceTarget::Session(name) if entry.identity.is_some() => assert_eq!(entry.session.as_ref(), Some(name)),
            TraceTarget::Session(_) | TraceTarget::Channel(_) => {}
        }
        let shown = self.traces.values().map(|terms| terms.body_bytes).max();
        let body = entry.seen.message.as_ref().map_or(0, |message| message.body.len());
        assert!(Some(body) <= shown, "no more of a body than is allowed");
    }

    /// One connection's socket takes some bytes.
    fn flush(&mut self) {
        let Some(index) = self.shard.next_dirty() else { return };
        let most = self.number() * 2;
        let mut bytes = Vec::new();
        let shared = self.shard.gather(index, 64, &mut bytes).len();
        self.shard.written(index, (bytes.len() + shared).min(most));
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Forward(forward) => {
                    assert!(self.forwards.iter().all(|other| other.key != forward.key), "one at a time");
                    self.forwards.push_back(forward);
                }
                Output::Closed { .. } => self.closed += 1,
                Output::Reply { query_id, .. } => *self.calls.get_mut(&query_id.0).expect("was asked") += 1,
                Output::Shutdown { key } | Output::EndWriting { key } => {
                    assert_eq!(self.living(key).socket, Socket::Open)
                }
                Output::Resume { key } => self.living(key).paused = false,
                Output::Store(command) => self.commands.push_back(command),
                Output::Attached { key } => {
                    self.opened += 1;
                    self.living(key).socket = Socket::Open;
                }
                Output::AttachRefused { key, .. } => {
                    self.living(key).socket = Socket::Ended;
                    self.handle(Input::Abandoned { key });
                }
                Output::RedirectQuery { query_id, .. } => *self.calls.get_mut(&query_id.0).expect("was asked") += 1,
                Output::HandoverEnded { origin } => {
                    self.living(origin).socket = Socket::Ended;
                    self.handle(Input::HandoverEnded { key: origin });
                }
                Output::Traced { trace, entry } => self.on_traced(trace, &entry),
                Output::SessionEnded { .. } | Output::Receipt { .. } => {}
                Output::SessionHere { .. } | Output::SessionDropped { .. } | Output::SessionFlushed { .. } => {}
                Output::Presence { channel, here } => {
                    *self.presence.entry(channel).or_default() += if here { 1 } else { -1 };
                }
            }
        }
    }

    fn living(&mut self, key: ConnKey) -> &mut Conn {
        let conn = self.conns.iter_mut().find(|conn| conn.key == key && conn.socket != Socket::Ended);
        conn.expect("nothing is asked for one who has gone")
    }

    /// What the shard waits for comes: fan-out, the backend's answers, the store's completions.
    fn finish_work(&mut self) {
        loop {
            while self.shard.poll_fanout(self.now) {}
            self.carry_out();
            if self.commands.is_empty() && self.forwards.is_empty() {
                return;
            }
            if let Some(Forward { key, body, .. }) = self.forwards.pop_front() {
                self.handle(Input::Forwarded { key, outcome: ForwardOutcome::Answered(b""), spent: body });
            }
            self.complete_some(self.commands.len(), false);
            self.carry_out();
        }
    }

    /// Everyone goes; what was begun ends.
    fn end(mut self) {
        for at in 0..self.conns.len() {
            let (key, adopted) = (self.conns[at].key, self.is_adopted(at));
            match std::mem::replace(&mut self.conns[at].socket, Socket::Ended) {
                Socket::Connecting | Socket::Attaching => self.handle(Input::Abandoned { key }),
                Socket::Open => self.handle(Input::SocketEnded { key }),
                Socket::HandedOver if !adopted => self.handle(Input::HandoverEnded { key }),
                Socket::HandedOver => self.conns[at].socket = Socket::HandedOver,
                Socket::Ended => {}
            }
            self.carry_out();
        }
        for turn in 0.. {
            assert!(turn < 10_000, "it never ends: {:#?}", self.shard.metrics());
            self.finish_work();
            // Sessions that were passed on are known elsewhere; others end.
            SESSION_NAMES.iter().for_each(|name| self.handle(Input::ForgetSession { name, keeps_name: false }));
            self.finish_work();
            let Some(next) = self.shard.next_tick() else { break };
            self.now = self.now.max(next);
            self.handle(Input::Tick);
            self.carry_out();
        }
        assert!(self.shard.is_quiescent(), "something is left");
        assert_eq!(self.opened, self.closed, "each end is told once");
        assert!(self.calls.values().all(|&replies| replies == 1), "one reply to each query");
        assert!(self.presence.values().all(|&count| count == 0), "presence is told in pairs");
    }
}
