//! The world: virtual time, a queue of events, shards and what their outputs do. One seed decides everything. It
//! carries out outputs as a worker does: after each input the outputs, fan-out, one write per dirty connection, the
//! next tick.

use crate::backend::Backend;
use crate::calls::Calls;
use crate::chaos::answers_to_floods;
use crate::connection::{Answer, Connection, ConnectionId, Stage};
use crate::limits::{has_tiny_limits, limits_of};
use crate::node::{EVICTION, Node};
use crate::peer::RESPONSE;
use crate::seen::Seen;
use rainbow::base::id::{ConnKey, Generation, Identity, ShardId};
use rainbow::base::keyed_hash::HashKey;
use rainbow::base::rng::Rng;
use rainbow::base::time::Tick;
use rainbow::shard::{Input, Mode, Output, Query, Reply, SessionSettings, Settings};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::fmt;
use std::rc::Rc;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    Dial(usize),
    Decide(ConnectionId),
    Speak(usize),
    PeerTimer(ConnectionId),
    ServerReads(ConnectionId),
    ClientReads(ConnectionId),
    Writable(ConnectionId),
    BackendDone(u64),
    BackendBack,
    Call,
    CallArrives { node: usize, token: u64 },
    Turn(usize),
    Tick(usize),
    Chaos,
}

pub struct World {
    pub now: u64,
    pub rng: Rng,
    pub nodes: Vec<Node>,
    pub connections: Vec<Connection>,
    pub backend: Backend,
    pub calls: Calls,
    /// (connection, channel): somebody put it there and nobody took it out.
    pub joined: HashSet<(ConnectionId, usize)>,
    /// Of those the ones that are being evicted.
    pub leaving: HashSet<(ConnectionId, usize)>,
    pub next_token: u64,
    pub seen: Seen,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    next_event: u64,
    pub clients: Vec<Client>,
    /// From then on nothing goes wrong any more and nobody says anything new.
    healed: bool,
    /// Tiny limits: fan-out is done in slices.
    pub slices: bool,
    talks: bool,
}

pub struct Client {
    pub connection: Option<ConnectionId>,
    loses: bool,
    /// It speaks `rainbow.2`.
    pub greets: bool,
    dials: u32,
}

pub const CHANNELS: usize = 3;

pub const HASH_KEY: HashKey = HashKey::new(1, 2);

pub fn channel_name(channel: usize) -> &'static str {
    ["news", "sport", "weather"][channel]
}

impl World {
    pub fn new(seed: u64, mode: Mode, talks: bool) -> World {
        let mut rng = Rng::new(seed ^ 0x5EED_0000);
        let now = rng.below(1 << 40);
        let settings = Settings {
            ping_interval_ms: 10_000 + rng.below(10_000),
            pong_timeout_ms: 5_000,
            idle_timeout_ms: if rng.chance(20) { 30_000 } else { 0 },
            close_timeout_ms: 2_000,
            ack_timeout_ms: 1_000,
            ack_backoff: if rng.chance(50) { 1.0 } else { 1.5 },
            forward_deadline_ms: 2_000 + rng.below(20_000),
            forward_queue: 1 + rng.below(6) as usize,
            forward_queue_bytes: 300 + rng.below(2_000) as usize,
            forward_ahead_bytes: 1 + rng.below(3_000) as usize,
            hash_key: HASH_KEY,
            node: Generation(7),
            forwards: true,
            inflight_window: 1 + rng.below(4) as usize,
            received_max: 6 + rng.below(6) as usize,
            answers_bytes_max: if rng.chance(40) { 250 + rng.below(400) as usize } else { PLENTY },
            message_bytes_max: 300,
            outbox_bytes_max: 400 + rng.below(3_000) as usize,
            clients_memory_max: if rng.chance(30) { 1_500 + rng.below(10_000) as usize } else { 1 << 20 },
            messages_per_second: if rng.chance(20) { 8 } else { 0 },
            sessions: SessionSettings::default(),
            channels_per_connection: CHANNELS,
            limits: limits_of(seed),
            mode,
        };
        let nodes = 1 + rng.below(3) as usize;
        let nodes = (0..nodes).map(|n| Node::new(ShardId(n as u16), settings.clone(), now)).collect();
        let clients = 2 + rng.below(4);
        let client = |_| Client { connection: None, loses: rng.chance(40), greets: rng.chance(50), dials: 0 };
        let clients = (0..clients).map(client).collect();
        let backend = Backend::new(rng.below(3) * 10, 1 + rng.below(400));
        World {
            now,
            rng,
            nodes,
            connections: Vec::new(),
            backend,
            calls: Calls::default(),
            joined: HashSet::new(),
            leaving: HashSet::new(),
            next_token: 1,
            seen: Seen::default(),
            events: BinaryHeap::new(),
            next_event: 0,
            clients,
            healed: false,
            slices: has_tiny_limits(seed),
            talks,
        }
    }

    /// The whole story; panics where a promise is broken.
    pub fn run(mut self) -> Seen {
        let begun = self.now;
        for client in 0..self.clients.len() {
            let (dial, speak) = (self.rng.below(500), 500 + self.rng.below(1_000));
            self.at(begun + dial, Event::Dial(client));
            self.at(begun + speak, Event::Speak(client));
        }
        self.at(begun + 800, Event::Call);
        self.at(begun + 1_500, Event::Chaos);
        self.run_until(begun + STORY_MS, |_| false);
        self.healed = true;
        self.backend.down = false;
        self.backend.fails = 0;
        assert!(self.run_until(self.now + HEALING_MS, World::is_settled), "what is left is never answered");
        self.check_lives();
        for id in 0..self.connections.len() {
            self.connections[id].cut(0);
            self.read_soon(id);
        }
        let empty = |world: &World| world.backend.is_idle() && world.nodes.iter().all(|node| node.shard.is_quiescent());
        assert!(self.run_until(self.now + HEALING_MS, empty), "something is left when everyone has gone");
        self.check_ends();
        for node in &self.nodes {
            self.seen.answer_holds += node.shard.metrics().answer_holds.get();
            self.seen.rate_paused += node.shard.metrics().rate_pauses.get();
            self.seen.memory_full += node.shard.metrics().memory_full.get();
        }
        self.seen
    }

    /// True when `done` before the time was over.
    fn run_until(&mut self, end: u64, done: impl Fn(&World) -> bool) -> bool {
        loop {
            if done(self) {
                return true;
            }
            let Some(Reverse((when, _, _))) = self.events.peek() else { return false };
            if *when > end {
                self.now = end;
                return false;
            }
            let Reverse((when, _, event)) = self.events.pop().expect("just looked at");
            self.now = when;
            self.seen.events += 1;
            self.on_event(event);
        }
    }

    fn on_event(&mut self, event: Event) {
        if let Some(until) = self.node_of(&event).map(|node| self.nodes[node].stalled).filter(|until| *until > self.now)
        {
            // What lies in the sockets is read before timers judge.
            let judges = matches!(event, Event::Tick(_) | Event::Turn(_));
            return self.at(until + u64::from(judges), event);
        }
        match event {
            Event::Dial(client) => self.dial(client),
            Event::Decide(id) => self.decide(id),
            Event::Speak(client) => self.on_speak(client),
            Event::PeerTimer(id) => self.on_peer_timer(id),
            Event::ServerReads(id) => self.server_reads(id),
            Event::ClientReads(id) => self.client_reads(id),
            Event::Writable(id) => self.writable(id),
            Event::BackendDone(job) => self.on_backend_done(job),
            Event::BackendBack => self.backend.down = false,
            Event::Call if self.healed => {}
            Event::Call => {
                for _ in 0..if self.rng.chance(10) { 8 } else { 1 } {
                    self.call();
                }
                let next = 200 + self.rng.below(1_000);
                self.at(self.now + next, Event::Call);
            }
            Event::CallArrives { node, token } => self.call_arrives(node, token),
            Event::Turn(node) => self.turn(node),
            Event::Tick(node) => self.tick(node),
            Event::Chaos if self.healed => {}
            Event::Chaos => {
                self.chaos();
                let next = 200 + self.rng.below(1_500);
                self.at(self.now + next, Event::Chaos);
            }
        }
    }

    pub fn at(&mut self, when: u64, event: Event) {
        self.events.push(Reverse((when, self.next_event, event)));
        self.next_event += 1;
    }

    pub fn trace(&self, what: fmt::Arguments<'_>) {
        if self.talks {
            println!("{:>12} {what}", self.now);
        }
    }

    // ---- connections ----

    fn dial(&mut self, client: usize) {
        if self.healed || self.clients[client].dials >= DIALS_MAX {
            return;
        }
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        let digest = std::array::from_fn(|_| self.rng.next_u64() as u8);
        let (key, identity) = self.nodes[node].shard.reserve(digest, Tick(self.now));
        let down_max = 50 + self.rng.below(800) as usize;
        let id = self.connections.len();
        let taken = self.nodes[node].slots.insert(key.index, id);
        assert_eq!(taken, None, "a slot has one connection");
        self.connections.push(Connection::new(node, client, key, identity, down_max, self.clients[client].loses));
        self.clients[client].connection = Some(id);
        self.clients[client].dials += 1;
        self.trace(format_args!("client {client} dials as connection {id}, {key:?}"));
        let delay = self.rng.below(300);
        self.at(self.now + delay, Event::Decide(id));
    }

    /// The backend has been asked whether to let it in.
    fn decide(&mut self, id: ConnectionId) {
        let (node, key) = (self.connections[id].node, self.connections[id].key);
        if self.connections[id].fin || self.rng.chance(10) {
            if self.rng.chance(50) {
                self.subscribe(id, 0);
            }
            self.connections[id].stage = Stage::Abandoned;
            self.nodes[node].slots.remove(&key.index);
            self.nodes[node].input(Input::Abandoned { key }, self.now);
            self.seen.abandoned += 1;
            self.turn(node);
            return self.client_left(id);
        }
        for channel in 0..CHANNELS {
            if self.rng.chance(50) {
                self.subscribe(id, channel);
            }
        }
        if self.rng.chance(50) {
            self.set_cookie(id, format!("cookie of {id}").into_bytes());
        }
        self.connections[id].stage = Stage::Open;
        self.seen.opened += 1;
        let greets = self.clients[self.connections[id].client].greets;
        self.nodes[node].input(Input::Opened { key, response: Rc::from(RESPONSE), greets }, self.now);
        self.turn(node);
    }

    pub fn subscribe(&mut self, id: ConnectionId, channel: usize) {
        let (node, key) = (self.connections[id].node, self.connections[id].key);
        self.nodes[node].input(Input::Subscribe { key, channel: channel_name(channel) }, self.now);
        self.joined.insert((id, channel));
    }

    pub fn unsubscribe(&mut self, id: ConnectionId, channel: usize) {
        let (node, key) = (self.connections[id].node, self.connections[id].key);
        self.nodes[node].input(Input::Unsubscribe { key, channel: channel_name(channel) }, self.now);
        self.joined.remove(&(id, channel));
    }

    pub fn set_cookie(&mut self, id: ConnectionId, cookie: Vec<u8>) {
        let (node, key) = (self.connections[id].node, self.connections[id].key);
        self.nodes[node].input(Input::Cookie { key, value: &cookie }, self.now);
        self.connections[id].cookie = Some(cookie);
    }

    /// The client's side is over; it comes back.
    pub fn client_left(&mut self, id: ConnectionId) {
        self.connections[id].left = true;
        let client = self.connections[id].client;
        if self.clients[client].connection == Some(id) {
            self.clients[client].connection = None;
            let delay = 100 + self.rng.below(2_000);
            self.at(self.now + delay, Event::Dial(client));
        }
    }

    fn on_speak(&mut self, client: usize) {
        if self.healed {
            return;
        }
        if let Some(id) = self.clients[client].connection.filter(|&id| self.connections[id].can_speak()) {
            for _ in 0..if self.rng.chance(10) { 6 } else { 1 } {
                if self.connections[id].frozen <= self.now {
                    self.speak(id);
                }
            }
        }
        let next = 100 + self.rng.below(1_500);
        self.at(self.now + next, Event::Speak(client));
    }

    pub fn read_soon(&mut self, id: ConnectionId) {
        if !std::mem::replace(&mut self.connections[id].reading, true) {
            let delay = self.rng.below(40);
            self.at(self.now + delay, Event::ServerReads(id));
        }
    }

    fn receive_soon(&mut self, id: ConnectionId) {
        if !std::mem::replace(&mut self.connections[id].receiving, true) {
            let delay = self.rng.below(40);
            self.at(self.now + delay, Event::ClientReads(id));
        }
    }

    fn server_reads(&mut self, id: ConnectionId) {
        self.connections[id].reading = false;
        let connection = &mut self.connections[id];
        if connection.stage != Stage::Open {
            return;
        }
        if connection.paused {
            // Nobody reads; but a broken connection may be noticed all the same.
            if connection.fin && self.rng.chance(30) {
                self.connections[id].up.clear();
                self.socket_ended(id);
            }
            return;
        }
        if connection.up.is_empty() {
            if connection.fin {
                self.socket_ended(id);
            }
            return;
        }
        let most = connection.up.len().min(if self.rng.chance(20) { 3 } else { 200 });
        let len = 1 + self.rng.below(most as u64) as usize;
        let mut data: Vec<u8> = connection.up.drain(..len).collect();
        connection.up_read += len;
        let read = connection.up_read;
        let (node, key) = (connection.node, connection.key);
        let whole = connection.answers.front().is_some_and(|(end, _)| *end <= read)
            || connection.peer.ends_within(read - len, read);
        let open = whole && self.is_open(id);
        self.nodes[node].input(Input::Bytes { key, data: &mut data }, self.now);
        if open {
            let still = self.is_open(id);
            if still {
                self.connections[id].peer.accepted_to(read);
            }
            for answer in self.answers_read(id, read) {
                self.on_answer_read(id, answer, still);
            }
        } else if whole {
            self.answers_read(id, read);
        }
        if self.nodes[node].shard.is_paused(key) {
            self.check_pause(node);
            self.connections[id].paused = true;
            self.connections[id].hindered = self.now;
            self.seen.paused += 1;
        }
        self.turn(node);
        self.read_soon(id);
    }

    /// A client is read, for its acknowledgements, until what waits is too much in memory.
    fn check_pause(&self, node: usize) {
        let Node { shard, settings, .. } = &self.nodes[node];
        let memory = shard.metrics().forward_queue_bytes.get() as usize;
        let least = settings.forward_ahead_bytes.min(2 * settings.forward_queue_bytes);
        assert!(memory >= least || settings.messages_per_second > 0, "{memory} bytes of {least} pause a client");
    }

    fn answers_read(&mut self, id: ConnectionId, read: usize) -> Vec<Answer> {
        let answers = &mut self.connections[id].answers;
        let whole = answers.iter().take_while(|(end, _)| *end <= read).count();
        answers.drain(..whole).map(|(_, answer)| answer).collect()
    }

    fn socket_ended(&mut self, id: ConnectionId) {
        self.trace(format_args!("connection {id} ends"));
        let (node, key) = (self.connections[id].node, self.connections[id].key);
        self.connections[id].stage = Stage::Ended;
        self.nodes[node].slots.remove(&key.index);
        self.nodes[node].input(Input::SocketEnded { key }, self.now);
        self.turn(node);
        if !self.connections[id].left {
            self.receive_soon(id);
        }
    }

    fn client_reads(&mut self, id: ConnectionId) {
        let now = self.now;
        let connection = &mut self.connections[id];
        connection.receiving = false;
        if connection.left || connection.frozen == u64::MAX {
            return;
        }
        if connection.frozen > now {
            connection.receiving = true;
            let until = connection.frozen;
            return self.at(until, Event::ClientReads(id));
        }
        if !connection.down.is_empty() {
            let most = connection.down.len().min(if self.rng.chance(10) { 3 } else { 300 });
            let len = 1 + self.rng.below(most as u64) as usize;
            let bytes: Vec<u8> = connection.down.drain(..len).collect();
            self.peer_hears(id, &bytes);
        }
        if !self.connections[id].down.is_empty() {
            self.receive_soon(id);
        } else if !self.connections[id].left
            && (self.connections[id].stage == Stage::Ended || self.connections[id].write_ended)
        {
            self.connections[id].fin = true;
            self.client_left(id);
            self.read_soon(id);
        }
        self.writable(id);
    }

    /// The socket may take more.
    fn writable(&mut self, id: ConnectionId) {
        if self.connections[id].stage == Stage::Open && std::mem::take(&mut self.connections[id].blocked) {
            self.write(id);
            self.turn(self.connections[id].node);
        }
    }

    /// What waits for the client goes into its socket, as far as that takes it.
    fn write(&mut self, id: ConnectionId) {
        let (node, index) = (self.connections[id].node, self.connections[id].key.index);
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let enough = if self.rng.chance(30) { usize::MAX } else { 1 + self.rng.below(400) as usize };
            let shared = self.nodes[node].shard.gather(index, enough, &mut bytes);
            bytes.extend_from_slice(shared);
            if bytes.is_empty() {
                return;
            }
            let most = self.nodes[node].settings.outbox_bytes_max + OUTBOX_SLACK;
            assert!(bytes.len() <= most, "{} bytes wait for connection {id}", bytes.len());
            let answers = answers_to_floods(&bytes);
            assert!(answers * ANSWER_MEMORY <= most, "{answers} answers to a flood wait for connection {id}");
            let connection = &mut self.connections[id];
            let mut taken = bytes.len().min(connection.down_max - connection.down.len());
            if self.rng.chance(10) {
                taken = self.rng.below(taken as u64 + 1) as usize;
                self.at(self.now + 3, Event::Writable(id));
            }
            let connection = &mut self.connections[id];
            connection.blocked = taken < bytes.len();
            self.seen.blocked += u64::from(connection.blocked);
            if !connection.left {
                connection.down.extend(&bytes[..taken]);
            }
            // A worker that gets EAGAIN tells the shard nothing.
            let more = if taken > 0 { self.nodes[node].shard.written(index, taken) } else { true };
            self.receive_soon(id);
            if self.connections[id].blocked || !more {
                return;
            }
        }
    }

    // ---- a shard's worker ----

    pub fn turn(&mut self, node: usize) {
        self.carry_out(node);
        for (token, channel) in std::mem::take(&mut self.nodes[node].behind) {
            let targets = self.members(node, channel);
            self.calls.retarget(token, node, targets);
        }
        self.nodes[node].kicked.clear();
        self.fan_out(node);
        self.carry_out(node);
        while let Some(index) = self.nodes[node].shard.next_dirty() {
            let id = self.nodes[node].slots.get(&index).copied();
            if let Some(id) =
                id.filter(|&id| self.connections[id].stage == Stage::Open && !self.connections[id].blocked)
            {
                self.write(id);
            }
        }
        self.carry_out(node);
        let state = &mut self.nodes[node];
        let open = state.slots.len() + 1;
        let forward_queue_bytes = state.shard.metrics().forward_queue_bytes.get() as usize;
        let most = 2 * state.settings.forward_queue_bytes + open * READ_MEMORY_MAX;
        assert!(forward_queue_bytes <= most, "{forward_queue_bytes} bytes wait for the backend");
        if let Some(next) = state.shard.next_tick() {
            let next = next.0.max(self.now);
            if next < state.tick_at {
                state.tick_at = next;
                self.at(next, Event::Tick(node));
            }
        }
    }

    /// All of it, or one slice, so that other inputs come in between.
    fn fan_out(&mut self, node: usize) {
        let now = Tick(self.now);
        if !self.slices {
            while self.nodes[node].shard.poll_fanout(now) {}
            return;
        }
        self.note_members(node);
        if self.nodes[node].shard.poll_fanout(now) {
            let delay = 1 + self.rng.below(40);
            self.at(self.now + delay, Event::Turn(node));
        }
    }

    fn tick(&mut self, node: usize) {
        if self.nodes[node].tick_at > self.now {
            return;
        }
        self.nodes[node].tick_at = u64::MAX;
        self.nodes[node].input(Input::Tick, self.now);
        let next = self.nodes[node].shard.next_tick();
        assert!(next.is_none_or(|next| next.0 > self.now), "a tick leaves nothing for the same time");
        self.turn(node);
    }

    fn call_arrives(&mut self, node: usize, token: u64) {
        let channel = self.calls.channel(token);
        if self.nodes[node].kicked.contains(&channel) {
            self.nodes[node].behind.push((token, channel));
        }
        self.on_call(node, token);
    }

    fn carry_out(&mut self, node: usize) {
        while let Some(output) = self.nodes[node].next_output() {
            match output {
                Output::Forward(forward) => self.on_forward(forward),
                Output::Closed { identity, client, .. } => self.on_closed(node, &identity, &client),
                Output::Reply { query_id: EVICTION, reply } => self.nodes[node].evicted = Some(reply),
                Output::Reply { query_id, reply } => self.on_reply(node, query_id.0, reply),
                Output::EndWriting { key } => {
                    let id = self.nodes[node].slots[&key.index];
                    assert_eq!(self.connections[id].key, key, "nothing is asked for one who has gone");
                    self.connections[id].write_ended = true;
                    self.receive_soon(id);
                }
                Output::Shutdown { key } => {
                    let id = self.nodes[node].slots[&key.index];
                    assert_eq!(self.connections[id].key, key, "nothing is asked for one who has gone");
                    self.connections[id].fin = true;
                    self.read_soon(id);
                }
                Output::Resume { key } => {
                    let id = self.nodes[node].slots[&key.index];
                    assert_eq!(self.connections[id].key, key, "nothing is asked for one who has gone");
                    self.connections[id].paused = false;
                    self.connections[id].hindered = self.now;
                    self.read_soon(id);
                }
                Output::Presence { channel, here } => self.nodes[node].note_presence(channel, here),
                Output::Traced { trace, entry } => self.on_traced(node, trace, &entry),
                other => panic!("no session here has asked for {other:?}"),
            }
        }
    }

    fn on_closed(&mut self, node: usize, identity: &Identity, client: &rainbow::base::client::ClientContext) {
        let id = self.connection_named(node, identity);
        self.trace(format_args!("backend hears the end of connection {id}"));
        let connection = &mut self.connections[id];
        assert_eq!(connection.stage, Stage::Ended, "the end of what was open is told, at its end");
        assert!(!std::mem::replace(&mut connection.closed, true), "an end is told once");
        assert!(!connection.forwarding, "the end comes behind the last message");
        assert_eq!(connection.cookie.as_deref(), client.cookie().map(|cookie| &cookie[..]));
    }

    /// Asks a shard and takes the reply out of its outputs.
    pub fn query(&mut self, node: usize, query: Query) -> Reply {
        self.nodes[node].query(query, self.now)
    }

    pub fn connection_named(&self, node: usize, identity: &Identity) -> ConnectionId {
        let named = |connection: &Connection| connection.node == node && connection.identity == *identity;
        self.connections.iter().rposition(named).expect("a name that was given")
    }

    pub fn connection_of(&self, key: ConnKey, identity: &Identity) -> ConnectionId {
        let id = self.connection_named(usize::from(key.shard.0), identity);
        assert_eq!(self.connections[id].key, key);
        id
    }

    pub fn here(&self, node: usize) -> Vec<ConnectionId> {
        let here = |connection: &Connection| {
            connection.node == node && matches!(connection.stage, Stage::Connecting | Stage::Open)
        };
        (0..self.connections.len()).filter(|&id| here(&self.connections[id])).collect()
    }

    pub fn some_connection(&mut self) -> Option<ConnectionId> {
        let client = self.rng.below(self.clients.len() as u64) as usize;
        self.clients[client].connection
    }

    // ---- the end ----

    fn is_settled(&self) -> bool {
        let quiet = |(id, connection): (ConnectionId, &Connection)| match connection.stage {
            Stage::Connecting => false,
            Stage::Open if !connection.fin => {
                let owed =
                    connection.peer.received.values().any(|&token| self.calls.was_answered(token, connection.node, id));
                connection.frozen <= self.now
                    && connection.peer.outstanding.is_empty()
                    && !connection.peer.awaits_pong()
                    && !owed
            }
            _ => true,
        };
        self.calls.all_replied() && self.backend.is_idle() && self.connections.iter().enumerate().all(quiet)
    }

    /// Everyone who is still there got everything.
    fn check_lives(&mut self) {
        for id in 0..self.connections.len() {
            let connection = &self.connections[id];
            for &(token, qos) in connection.peer.accepted() {
                assert!(
                    self.backend.has_heard(token),
                    "{token} of connection {id} was taken, and never forwarded, {qos:?}"
                );
            }
            if connection.can_speak() {
                self.seen.survivors += 1;
                for &(token, _) in connection.peer.spoken.iter().filter(|(_, qos)| *qos as u8 > 0) {
                    assert!(self.backend.has_done(token), "{token} of connection {id} was answered and not done");
                }
            }
        }
    }

    fn check_ends(&self) {
        for (id, connection) in self.connections.iter().enumerate() {
            assert_eq!(
                connection.closed,
                connection.stage != Stage::Abandoned,
                "the end of connection {id} is told if it was open"
            );
        }
        let mut opened = 0;
        for node in &self.nodes {
            let stats = node.shard.metrics();
            assert_eq!(stats.stale.get(), node.stale, "what is stale is counted, and nothing else");
            assert_eq!(stats.opened.get(), stats.ended.get());
            opened += stats.opened.get();
            assert!(node.presence.values().all(|&count| count == 0), "presence is told in pairs");
        }
        assert_eq!(opened, self.seen.opened);
    }
}

/// How long things go wrong, and how long it may take until all is well.
const STORY_MS: u64 = 15_000;
const HEALING_MS: u64 = 600_000;
const DIALS_MAX: u32 = 6;
/// Of a small answer that waits for its client: more than its bytes.
const ANSWER_MEMORY: usize = 32;
/// Of memory for answers: none is forgotten, and no queue held.
pub const PLENTY: usize = 100_000;
/// What one read of a client can add to its queue.
const READ_MEMORY_MAX: usize = 5_000;
/// Beyond the outbox's limit: a close frame, and a frame that the socket has begun or that stood alone.
const OUTBOX_SLACK: usize = 127 + 300;
