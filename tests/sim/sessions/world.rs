//! The world of durable sessions: virtual time, one shard that dies and is restored from what the store has, and a
//! queue of events. One seed decides everything. Outputs are carried out as a worker does.

use super::backend::{Backend, Change, Cookies};
use super::calls::{Calls, Meant};
use super::client::{Client, Habits};
use super::connection::{Connection, ConnectionId, Stage};
use super::seen::Seen;
use super::store::{Fault, Report, Store};
use crate::limits::{has_tiny_limits, limits_of};
use crate::world::PLENTY;
use rainbow::base::id::{ConnIndex, ConnKey, Generation, Identity, ShardId};
use rainbow::base::keyed_hash::HashKey;
use rainbow::base::limits::Limits;
use rainbow::base::rng::Rng;
use rainbow::base::time::Tick;
use rainbow::shard::command::SessionId;
use rainbow::shard::{
    Input, Mode, Output, Query, QueryId, Reply, SessionEnd, SessionInfo, SessionSettings, Settings, Shard,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    Dial(usize),
    Decide(ConnectionId),
    Speak(usize),
    ClientTimer(usize),
    Answers(ConnectionId),
    ServerReads(ConnectionId),
    ClientReads(ConnectionId),
    Writable(ConnectionId),
    BackendDone(u64),
    BackendBack,
    Call,
    RetryCall(u64),
    Turn(u32),
    Tick(u32),
    StoreTakes(u32),
    StoreCommits(u32),
    StoreReports(u32),
    Purge,
    Chaos,
    Start,
    Stopped(u32),
}

/// What a seed is told to do wrong.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub mode: Mode,
    pub fault: Option<Fault>,
    pub talks: bool,
}

pub struct World {
    pub now: u64,
    pub rng: Rng,
    pub settings: Settings,
    pub window: usize,
    /// `None` while the process is down.
    pub server: Option<Server>,
    /// Counts processes.
    pub epoch: u32,
    pub store: Store,
    /// The store's commits take up to so long.
    pub store_ms: u64,
    /// What the wall clock showed when virtual time was 0, and when it was last stepped.
    pub unix_ms_at_zero: u64,
    pub stepped_at: u64,
    pub connections: Vec<Connection>,
    pub clients: Vec<Client>,
    pub backend: Backend,
    pub calls: Calls,
    /// By ticket: whom a call is for.
    pub meant: HashMap<u64, Meant>,
    /// Sessions that the shard knows, by client.
    pub known: BTreeMap<usize, SessionId>,
    /// Those among them that nobody has been let into yet.
    pub fresh: HashSet<SessionId>,
    /// Sessions that were dropped or have expired.
    pub ended: HashSet<SessionId>,
    pub changes: HashMap<u64, Vec<Change>>,
    /// Who last changed it, and how it is when that is sure.
    pub channel_ops: HashMap<(SessionId, usize), (u64, Option<bool>)>,
    pub cookies: HashMap<SessionId, Cookies>,
    pub seen: Seen,
    /// Queries that belong to no call, and what their replies decide.
    pub pending: HashMap<u64, Pending>,
    next_token: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    next_event: u64,
    pub healed: bool,
    /// Nobody comes back any more.
    pub over: bool,
    /// In this world the store falls back to an older copy.
    pub falls_back: bool,
    /// Tiny limits: what is done in slices may need several ticks.
    slices: bool,
    /// Ticks in a row that left something for the same time.
    rests: usize,
    talks: bool,
}

/// A query whose reply comes later.
pub enum Pending {
    Join { session: SessionId, channel: usize, by: u64, joins: bool },
    Nothing,
}

/// The process.
pub struct Server {
    pub shard: Shard,
    pub slots: HashMap<ConnIndex, ConnectionId>,
    stash: VecDeque<Output>,
    tick_at: u64,
    pub stopping: bool,
    store_scheduled: bool,
}

pub const CHANNELS: usize = 3;

pub fn channel_name(channel: usize) -> &'static str {
    ["news", "sport", "weather"][channel]
}

impl World {
    pub fn new(seed: u64, plan: Plan) -> World {
        let mut rng = Rng::new(seed ^ 0x5E55_1045);
        let now = 1 + rng.below(1 << 36);
        let window = 1 + rng.below(4) as usize;
        let mut settings = settings(&mut rng, window, plan.mode);
        settings.limits = limits_of(seed);
        settings.sessions.unix_ms_at_zero = UNIX_MS_AT_ZERO;
        let clients = 1 + rng.below(3) as usize;
        let clients = (0..clients).map(|n| Client::new(format!("session {n}").into(), habits(&mut rng))).collect();
        let (fails, slow_ms) = (rng.below(3) * 15, 1 + rng.below(600));
        let falls_back = rng.chance(8);
        let store_ms = if rng.chance(30) { 1_000 } else { 1 + rng.below(60) };
        World {
            now,
            rng,
            settings,
            window,
            server: None,
            epoch: 0,
            store: Store::new(plan.fault, UNIX_MS_AT_ZERO, limits_of(seed).commands_max),
            store_ms,
            unix_ms_at_zero: UNIX_MS_AT_ZERO,
            stepped_at: 0,
            connections: Vec::new(),
            clients,
            backend: Backend::new(fails, slow_ms),
            calls: Calls::new(has_tiny_limits(seed)),
            meant: HashMap::new(),
            known: BTreeMap::new(),
            fresh: HashSet::new(),
            ended: HashSet::new(),
            changes: HashMap::new(),
            channel_ops: HashMap::new(),
            cookies: HashMap::new(),
            seen: Seen::default(),
            pending: HashMap::new(),
            next_token: 1,
            events: BinaryHeap::new(),
            next_event: 0,
            healed: false,
            over: false,
            falls_back,
            slices: has_tiny_limits(seed),
            rests: 0,
            talks: plan.talks,
        }
    }

    /// The whole story; panics where a promise is broken.
    pub fn run(mut self) -> Seen {
        let begun = self.now;
        self.start();
        for client in 0..self.clients.len() {
            let (dial, speak) = (self.rng.below(500), 500 + self.rng.below(1_000));
            self.at(begun + dial, Event::Dial(client));
            self.at(begun + speak, Event::Speak(client));
            self.at(begun + 2_000, Event::ClientTimer(client));
        }
        self.at(begun + 600, Event::Call);
        self.at(begun + 1_000, Event::Chaos);
        self.at(begun + 500, Event::Purge);
        self.run_until(begun + STORY_MS, |_| false);
        if !self.store.fell_back {
            self.heal();
        }
        self.tally();
        self.seen
    }

    fn heal(&mut self) {
        self.trace(format_args!("nothing goes wrong any more"));
        self.healed = true;
        self.backend.down = false;
        self.backend.fails = 0;
        self.store.heal();
        self.store_ms = 20;
        if self.store.left_behind {
            // What the store still has comes with the next connection.
            for client in 0..self.clients.len() {
                if let Some(id) = self.clients[client].connection {
                    self.cut(id);
                }
            }
        }
        assert!(self.run_until(self.now + HEALING_MS, World::is_settled), "what is left never ends: {}", self.rest());
        self.check_settled();
        self.over = true;
        for id in 0..self.connections.len() {
            if matches!(self.connections[id].stage, Stage::Open) {
                self.connections[id].cut(0);
                self.read_soon(id);
            }
        }
        let gone = |world: &mut World| {
            world.backend.is_idle() && world.store.is_idle() && world.shard().is_empty() && world.clients_have_left()
        };
        let done = self.run_until(self.now + HEALING_MS, gone);
        assert!(done, "something is left when everyone has gone: {:#?}", self.shard().metrics());
        self.check_waiting();
        for client in 0..self.clients.len() {
            self.drop_session(client);
        }
        let empty = |world: &mut World| world.store.is_idle() && world.shard().is_quiescent();
        let done = self.run_until(self.now + HEALING_MS, empty);
        assert!(done, "something is left without sessions: {:#?}", self.shard().metrics());
        assert!(self.store.disk.is_empty(), "nothing is kept of what was dropped: {:#?}", self.store.disk);
    }

    fn clients_have_left(&self) -> bool {
        self.connections.iter().all(|connection| matches!(connection.stage, Stage::Ended | Stage::Abandoned))
    }

    fn run_until(&mut self, end: u64, done: impl Fn(&mut World) -> bool) -> bool {
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
        match event {
            Event::Dial(client) => self.dial(client),
            Event::Decide(id) => self.decide(id),
            Event::Speak(client) => self.on_speak(client),
            Event::ClientTimer(client) => self.on_client_timer(client),
            Event::Answers(id) => self.answer_later(id),
            Event::ServerReads(id) => self.server_reads(id),
            Event::ClientReads(id) => self.client_reads(id),
            Event::Writable(id) => self.writable(id),
            Event::BackendDone(job) => self.on_backend_done(job),
            Event::BackendBack => self.backend.down = false,
            Event::Call if self.healed => {}
            Event::Call => {
                for _ in 0..if self.rng.chance(15) { 12 } else { 1 } {
                    self.call();
                }
                let next = 100 + self.rng.below(900);
                self.at(self.now + next, Event::Call);
            }
            Event::RetryCall(token) => self.try_call(token),
            Event::Turn(epoch) if epoch == self.epoch => self.turn(),
            Event::Tick(epoch) if epoch == self.epoch => self.tick(),
            Event::StoreTakes(epoch) if epoch == self.epoch => self.store_takes(),
            Event::StoreCommits(epoch) if epoch == self.epoch => self.store_commits(),
            Event::StoreReports(epoch) if epoch == self.epoch => self.store_reports(),
            Event::Turn(_)
            | Event::Tick(_)
            | Event::StoreTakes(_)
            | Event::StoreCommits(_)
            | Event::StoreReports(_) => {}
            Event::Purge => {
                self.purge();
                self.at(self.now + 700, Event::Purge);
            }
            Event::Chaos if self.healed => {}
            Event::Chaos => {
                self.chaos();
                let next = 100 + self.rng.below(1_200);
                self.at(self.now + next, Event::Chaos);
            }
            Event::Start => self.start(),
            Event::Stopped(epoch) => self.stopped(epoch),
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

    pub fn next_token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    /// What the wall clock shows.
    pub fn unix_ms(&self) -> u64 {
        self.unix_ms_at_zero + self.now
    }

    pub fn is_serving(&self) -> bool {
        self.server.as_ref().is_some_and(|server| !server.stopping)
    }

    // ---- the process ----

    fn start(&mut self) {
        if self.server.is_some() {
            return;
        }
        self.epoch += 1;
        let mut shard = Shard::new(ShardId(0), self.settings.clone(), Arc::default(), Tick(self.now));
        let found = self.store.found();
        self.trace(format_args!("process {} starts with {found:#?}", self.epoch));
        self.known.clear();
        self.fresh.clear();
        for found in &found {
            let client = self.clients.iter().position(|client| client.name == found.row.name).expect("a client's");
            let twice = self.known.insert(client, found.row.session);
            assert_eq!(twice, None, "one session per name");
        }
        shard.restore(found, Tick(self.now));
        self.server = Some(Server {
            shard,
            slots: HashMap::new(),
            stash: VecDeque::new(),
            tick_at: u64::MAX,
            stopping: false,
            store_scheduled: false,
        });
        self.check_channels();
        self.turn();
    }

    /// The process dies, whatever it was doing.
    pub fn crash(&mut self) {
        if self.server.take().is_none() {
            return;
        }
        self.trace(format_args!("the process dies"));
        self.store.crash(&mut self.rng, self.now);
        self.seen.crashes += 1;
        self.process_ended();
    }

    fn process_ended(&mut self) {
        self.epoch += 1;
        self.store.restart();
        self.backend.crash();
        self.pending.clear();
        self.meant.clear();
        for token in self.calls.crash() {
            let retry = 200 + self.rng.below(3_000);
            self.at(self.now + retry, Event::RetryCall(token));
        }
        for cookies in self.cookies.values_mut() {
            cookies.is_exact = false;
        }
        for id in 0..self.connections.len() {
            match self.connections[id].stage {
                Stage::Ended | Stage::Abandoned => continue,
                Stage::Open => self.connections[id].stage = Stage::Ended,
                _ => self.connections[id].stage = Stage::Abandoned,
            }
            // Some of what was written arrives.
            let connection = &mut self.connections[id];
            let arriving = self.rng.below(connection.down.len() as u64 + 1) as usize;
            connection.down.truncate(arriving);
            connection.up.clear();
            self.receive_soon(id);
        }
        let delay = 1 + self.rng.below(1_500);
        self.at(self.now + delay, Event::Start);
    }

    /// Everyone is sent away, the store finishes, and the process ends.
    pub fn stop(&mut self) {
        let Some(server) = self.server.as_mut().filter(|server| !server.stopping) else { return };
        server.stopping = true;
        self.send_away();
        self.trace(format_args!("the process stops"));
        self.seen.stops += 1;
        self.turn();
        self.at(self.now + 100, Event::Stopped(self.epoch));
    }

    fn stopped(&mut self, epoch: u32) {
        if epoch != self.epoch || self.server.is_none() {
            return;
        }
        let server = self.server.as_ref().expect("just seen");
        if server.shard.is_empty() && self.store.is_idle() {
            self.server = None;
            return self.process_ended();
        }
        // Some were still on their way in.
        self.send_away();
        self.turn();
        self.at(self.now + 100, Event::Stopped(epoch));
    }

    fn send_away(&mut self) {
        let (now, all) = (Tick(self.now), rainbow::shard::DrainScope::All);
        self.shard().close_some(usize::MAX, all, rainbow::wire::ws::frame::CloseCode(1001), || "stopping".into(), now);
    }

    pub fn input(&mut self, input: Input<'_>) {
        let now = Tick(self.now);
        self.server.as_mut().expect("the process lives").shard.handle(input, now);
    }

    pub fn shard(&mut self) -> &mut Shard {
        &mut self.server.as_mut().expect("the process lives").shard
    }

    pub fn turn(&mut self) {
        let now = Tick(self.now);
        self.carry_out();
        self.note_members();
        // All of it, or one slice, so that other inputs come in between.
        while self.shard().poll_fanout(now) {
            if self.slices {
                let delay = 1 + self.rng.below(40);
                self.at(self.now + delay, Event::Turn(self.epoch));
                break;
            }
        }
        self.carry_out();
        while let Some(index) = self.shard().next_dirty() {
            let id = self.server.as_ref().and_then(|server| server.slots.get(&index).copied());
            if let Some(id) =
                id.filter(|&id| self.connections[id].stage == Stage::Open && !self.connections[id].blocked)
            {
                self.write(id);
            }
        }
        self.carry_out();
        if let Some(next) = self.shard().next_tick() {
            let next = next.0.max(self.now);
            let (epoch, server) = (self.epoch, self.server.as_mut().expect("the process lives"));
            if next < server.tick_at {
                server.tick_at = next;
                self.at(next, Event::Tick(epoch));
            }
        }
    }

    fn tick(&mut self) {
        let server = self.server.as_mut().expect("of this process");
        if server.tick_at > self.now {
            return;
        }
        server.tick_at = u64::MAX;
        self.input(Input::Tick);
        let next = self.shard().next_tick();
        // What is left for the same time is the rest of a slice; each tick ends one session at least.
        let is_rest = next.is_some_and(|next| next.0 <= self.now);
        self.rests = if is_rest { self.rests + 1 } else { 0 };
        let most = if self.slices { self.clients.len() } else { 0 };
        assert!(self.rests <= most, "a tick leaves nothing for the same time");
        self.turn();
    }

    pub fn carry_out(&mut self) {
        loop {
            let server = self.server.as_mut().expect("the process lives");
            let Some(output) = server.stash.pop_front().or_else(|| server.shard.poll_output()) else { return };
            match output {
                Output::Forward(forward) => self.on_forward(forward),
                Output::Closed { identity, .. } => self.on_closed(&identity),
                Output::Reply { query_id, reply } => match self.pending.remove(&query_id.0) {
                    Some(pending) => self.on_pending_reply(pending, reply),
                    None => self.on_call_reply(query_id.0, reply),
                },
                Output::Attached { key } => self.on_attached(key),
                Output::AttachRefused { key, why } => self.on_attach_refused(key, why),
                Output::Store(command) => {
                    self.trace(format_args!("command {}: {:?}", command.number.0, command.operation));
                    self.store.give(command);
                    self.store_soon();
                }
                Output::SessionEnded { name, why, .. } => self.on_session_ended(&name, why),
                Output::Receipt { .. } => self.seen.receipts += 1,
                Output::EndWriting { key } => {
                    let id = self.connection_at(key);
                    self.connections[id].write_ended = true;
                    self.receive_soon(id);
                }
                Output::Shutdown { key } => {
                    let id = self.connection_at(key);
                    self.connections[id].fin = true;
                    self.read_soon(id);
                }
                Output::Resume { key } => {
                    let id = self.connection_at(key);
                    self.connections[id].paused = false;
                    self.read_soon(id);
                }
                Output::Presence { .. } | Output::SessionHere { .. } | Output::SessionDropped { .. } => {}
                other => panic!("nobody here has moved: {other:?}"),
            }
        }
    }

    fn on_closed(&mut self, identity: &Identity) {
        let id = self.connection_named(identity);
        let connection = &mut self.connections[id];
        assert_eq!(connection.stage, Stage::Ended, "the end of what was open is told, at its end");
        assert!(!std::mem::replace(&mut connection.closed, true), "an end is told once");
    }

    fn on_session_ended(&mut self, name: &str, why: SessionEnd) {
        let client = self.clients.iter().position(|client| *client.name == *name).expect("a client's");
        let session = self.known.remove(&client).expect("it was known");
        self.trace(format_args!("{session:?} of client {client} has ended: {why:?}"));
        self.ended.insert(session);
        self.backend.forget(session);
        match why {
            SessionEnd::Expired => self.seen.expired_sessions += 1,
            SessionEnd::Dropped => self.seen.dropped_sessions += 1,
        }
    }

    pub fn connection_at(&self, key: ConnKey) -> ConnectionId {
        let id = self.server.as_ref().expect("the process lives").slots[&key.index];
        assert_eq!(self.connections[id].key, key, "nothing is asked for one who has gone");
        id
    }

    fn connection_named(&self, identity: &Identity) -> ConnectionId {
        let named = |connection: &Connection| connection.epoch == self.epoch && connection.identity == *identity;
        self.connections.iter().rposition(named).expect("a name that was given")
    }

    pub fn connection_of(&self, key: ConnKey, identity: &Identity) -> ConnectionId {
        let id = self.connection_named(identity);
        assert_eq!(self.connections[id].key, key);
        id
    }

    // ---- the store ----

    fn store_soon(&mut self) {
        let server = self.server.as_mut().expect("the process lives");
        if self.store.wants_to_take() && !std::mem::replace(&mut server.store_scheduled, true) {
            let delay = self.rng.below(6);
            self.at(self.now + delay, Event::StoreTakes(self.epoch));
        }
    }

    fn store_takes(&mut self) {
        self.server.as_mut().expect("of this process").store_scheduled = false;
        if self.store.wants_to_take() {
            self.store.take(&mut self.rng, self.now);
            let late = match self.rng.below(100) {
                0 if !self.healed => 20_000,
                0..=3 => 4_000,
                _ => self.store_ms,
            };
            let delay = 1 + self.rng.below(late);
            self.at(self.now + delay, Event::StoreCommits(self.epoch));
            self.report_soon();
        }
    }

    fn store_commits(&mut self) {
        self.store.commit(&mut self.rng, self.now);
        self.report_soon();
        self.store_soon();
    }

    pub fn report_soon(&mut self) {
        if self.server.is_some() {
            let delay = if self.rng.chance(3) { self.rng.below(3_000) } else { self.rng.below(20) };
            self.at(self.now + delay, Event::StoreReports(self.epoch));
        }
    }

    fn store_reports(&mut self) {
        let mut any = false;
        self.store.begin_reports();
        while let Some(says) = self.store.next_report() {
            any = true;
            match says {
                Report::Completions(completions) => {
                    self.trace(format_args!("the store reports {completions:?}"));
                    self.input(Input::Completions(completions));
                }
                Report::Expired(expired) => {
                    self.trace(format_args!("the store reports {expired:?}"));
                    self.input(Input::MessagesExpired(expired));
                }
            }
        }
        if any {
            self.turn();
        }
    }

    /// Asks the shard and takes the reply out of its outputs.
    pub fn query(&mut self, query: Query) -> Reply {
        let now = Tick(self.now);
        let probe = QueryId(u64::MAX);
        let server = self.server.as_mut().expect("the process lives");
        server.shard.handle(Input::Query { query_id: probe, query }, now);
        let mut found = None;
        while let Some(output) = server.shard.poll_output() {
            match output {
                Output::Reply { query_id, reply } if query_id == probe => found = Some(reply),
                other => server.stash.push_back(other),
            }
        }
        found.expect("a query is replied to at once")
    }

    pub fn session_info(&mut self, client: usize) -> Option<SessionInfo> {
        let session = self.clients[client].name.clone();
        let Reply::Session(info) = self.query(Query::Session { session }) else { panic!("a session was asked for") };
        info.map(|info| *info)
    }
}

fn settings(rng: &mut Rng, window: usize, mode: Mode) -> Settings {
    let sessions = SessionSettings {
        store_after_ms: 200 + rng.below(2_000),
        messages_max: if rng.chance(25) { 3 + rng.below(10) as usize } else { 1_000 },
        bytes_max: if rng.chance(15) { 300 + rng.below(600) as usize } else { 1 << 20 },
        expiry_s: 3_600,
        expiry_max_s: 7_200,
        message_ttl_ms: 24 * 3_600_000,
        ..SessionSettings::default()
    };
    Settings {
        ping_interval_ms: 5_000 + rng.below(5_000),
        pong_timeout_ms: 4_000,
        idle_timeout_ms: 0,
        close_timeout_ms: 1_000,
        ack_timeout_ms: 500 + rng.below(1_000),
        ack_backoff: if rng.chance(50) { 1.0 } else { 1.5 },
        forward_deadline_ms: 2_000 + rng.below(10_000),
        forward_queue: 1 + rng.below(6) as usize,
        forward_queue_bytes: 300 + rng.below(2_000) as usize,
        forward_ahead_bytes: 1 + rng.below(3_000) as usize,
        hash_key: HashKey::new(1, 2),
        node: Generation(1),
        forwards: true,
        inflight_window: window,
        received_max: 100,
        answers_bytes_max: if rng.chance(30) { 250 + rng.below(400) as usize } else { PLENTY },
        message_bytes_max: 300,
        clients_memory_max: if rng.chance(30) { 1_500 + rng.below(10_000) as usize } else { 1 << 20 },
        outbox_bytes_max: if rng.chance(30) { 800 + rng.below(3_000) as usize } else { 1 << 16 },
        messages_per_second: 0,
        channels_per_connection: CHANNELS,
        sessions,
        limits: Limits::DEFAULT,
        mode,
    }
}

fn habits(rng: &mut Rng) -> Habits {
    Habits {
        greets: rng.chance(60),
        repeats_rec: rng.chance(60),
        first_id: if rng.chance(30) { 65_500 + rng.below(35) as u16 } else { 1 },
        expiry_s: rng.chance(25).then(|| 1 + rng.below(6)),
    }
}

/// Far enough from 0 for every step back.
const UNIX_MS_AT_ZERO: u64 = 1 << 40;
/// How long things go wrong, and how long it may take until all is well.
const STORY_MS: u64 = 20_000;
const HEALING_MS: u64 = 300_000;
