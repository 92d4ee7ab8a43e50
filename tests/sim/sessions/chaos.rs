//! What goes wrong: the process dies or stops, connections break, clients vanish and lose their memory, sessions are dropped,
//! the backend is down, the store refuses, tears, falls back.

use super::connection::Stage;
use super::world::{CHANNELS, Event, Pending, World, channel_name};
use rainbow::base::time::Tick;
use rainbow::shard::command::StoreError;
use rainbow::shard::{DrainScope, Input, Query, QueryId, Reply, Who};
use rainbow::wire::ws::frame::CloseCode;

impl World {
    pub fn chaos(&mut self) {
        if self.server.is_none() {
            return;
        }
        // Half of all deaths come while the store is at work.
        if self.store.is_busy() && self.rng.chance(6) {
            return self.crash();
        }
        let client = self.rng.below(self.clients.len() as u64) as usize;
        match self.rng.below(40) {
            0..=1 => self.crash(),
            2 => self.stop(),
            which @ 3..=17 => self.client_trouble(client, which),
            18..=21 => self.store_trouble(),
            22 if self.rng.chance(50) => self.drop_session(client),
            23 => {
                self.backend.down = true;
                self.seen.outages += 1;
                let back = self.now + 500 + self.rng.below(6_000);
                self.at(back, Event::BackendBack);
            }
            24 => {
                let now = Tick(self.now);
                let which = if self.rng.chance(50) { DrainScope::All } else { DrainScope::Settled };
                self.shard().close_some(1, which, CloseCode::GOING_AWAY, || "drain".into(), now);
                self.turn();
            }
            25 => {
                let channel = channel_name(self.rng.below(CHANNELS as u64) as usize).into();
                let code = CloseCode(4000);
                let query_id = self.query_id(Pending::Nothing);
                self.input(Input::Query {
                    query_id,
                    query: Query::KickChannel { channel, code, reason: "kick".into() },
                });
                self.turn();
            }
            26..=33 => self.join_or_leave(client),
            34 => {
                self.window = 1 + self.rng.below(4) as usize;
                self.settings.inflight_window = self.window;
                let settings = self.settings.clone();
                self.shard().set_settings(settings);
                for connection in &mut self.connections {
                    // What was sent before counts as it was then.
                    connection.window = connection.window.max(self.window);
                }
            }
            35 => self.store.remember(),
            38 => self.step_clock(),
            36..=37 if self.falls_back && !self.store.fell_back => {
                let to_nothing = self.rng.chance(50);
                self.trace(format_args!("the store falls back to {}", if to_nothing { "nothing" } else { "a copy" }));
                self.store.fall_back(to_nothing);
                self.seen.fell_back += 1;
            }
            _ => {}
        }
    }

    /// Somebody sets the wall clock.
    pub fn step_clock(&mut self) {
        let most = if self.rng.chance(50) { 20_000 } else { 7_200_000 };
        let step = 1_000 + self.rng.below(most);
        let forward = self.rng.chance(50);
        self.trace(format_args!("the wall clock is stepped by {step} ms, forward: {forward}"));
        let unix_ms = self.unix_ms();
        self.calls.note_over(unix_ms);
        self.unix_ms_at_zero = if forward { self.unix_ms_at_zero + step } else { self.unix_ms_at_zero - step };
        let (unix_ms, at_zero) = (self.unix_ms(), self.unix_ms_at_zero);
        self.calls.note_over(unix_ms);
        self.stepped_at = self.now;
        self.settings.sessions.unix_ms_at_zero = at_zero;
        self.store.set_unix_ms_at_zero(at_zero);
        self.shard().set_unix_ms_at_zero(at_zero);
        self.seen.clock_steps += 1;
    }

    /// Something happens to a client: which of the fifteen cases, 3 to 17, was drawn.
    fn client_trouble(&mut self, client: usize, which: u64) {
        let connection = self.clients[client].connection;
        match which {
            3..=9 => {
                if let Some(id) = connection {
                    self.trace(format_args!("connection {id} is cut"));
                    self.cut(id);
                }
            }
            10..=13 => {
                self.trace(format_args!("client {client} comes on another connection"));
                self.seen.vanished += 1;
                self.at(self.now, Event::Dial(client));
                if self.rng.chance(30) {
                    self.at(self.now + 100, Event::Dial(client));
                }
            }
            14..=16 => {
                if let Some(id) = connection {
                    let until = self.now + 500 + self.rng.below(4_000);
                    self.trace(format_args!("connection {id} does not read until {until}"));
                    self.connections[id].frozen = until;
                    self.seen.frozen += 1;
                }
            }
            _ => {
                self.trace(format_args!("client {client} loses its memory"));
                if let Some(id) = connection {
                    self.cut(id);
                }
                self.clients[client].lose_memory();
                self.seen.forgot += 1;
            }
        }
    }

    fn store_trouble(&mut self) {
        let why = match self.rng.below(6) {
            0 => StoreError::DiskFull,
            1 => StoreError::StoreFull,
            2 => StoreError::Unreachable,
            _ => StoreError::Broken,
        };
        let until = self.now + 100 + self.rng.below(4_000);
        self.trace(format_args!("the store refuses until {until}: {why:?}"));
        self.store.refuse_until(why, until);
        self.seen.troubles += 1;
    }

    fn query_id(&mut self, pending: Pending) -> QueryId {
        let query_id = self.next_token();
        self.pending.insert(query_id, pending);
        QueryId(query_id)
    }

    pub fn drop_session(&mut self, client: usize) {
        if let Some(&session) = self.known.get(&client) {
            self.trace(format_args!("{session:?} of client {client} is dropped"));
            let query_id = self.query_id(Pending::Nothing);
            let session = self.clients[client].name.clone();
            self.input(Input::Query { query_id, query: Query::DropSession { session } });
            self.turn();
        }
    }

    /// The business server moves a client by its identity, or by its session, which may be absent.
    fn join_or_leave(&mut self, client: usize) {
        let online = self.clients[client].connection.filter(|&id| self.connections[id].stage == Stage::Open);
        let (who, session) = match (online, self.known.get(&client)) {
            (_, Some(&session)) if self.rng.chance(50) => (Who::Session(self.clients[client].name.clone()), session),
            (Some(id), _) => (self.connections[id].identity.into(), self.connections[id].session.expect("attached")),
            (None, _) => return,
        };
        let (channel, joins) = (self.rng.below(CHANNELS as u64) as usize, self.rng.chance(70));
        let by = self.next_token();
        let query_id = self.query_id(Pending::Join { session, channel, by, joins });
        self.channel_op((session, channel), by);
        let name = channel_name(channel).into();
        let query = match joins {
            true => Query::Subscribe { who, channel: name },
            false => Query::Unsubscribe { who, channel: name },
        };
        self.trace(format_args!("{query:?}"));
        self.input(Input::Query { query_id, query });
        self.turn();
    }

    pub fn on_pending_reply(&mut self, pending: Pending, reply: Reply) {
        match pending {
            Pending::Join { .. } if reply != (Reply::done(1)) => {}
            Pending::Join { session, channel, by, joins } => self.channel_is_sure(session, channel, by, joins),
            Pending::Nothing => {}
        }
    }
}
