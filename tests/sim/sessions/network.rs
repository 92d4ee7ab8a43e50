//! Connections: dialling, being let in, bytes in both directions in pieces of any length, cuts at any byte.

use super::connection::{Connection, ConnectionId, Stage};
use super::world::{CHANNELS, Event, World, channel_name};
use crate::peer::RESPONSE;
use rainbow::base::id::ConnKey;
use rainbow::base::time::Tick;
use rainbow::shard::Input;
use rainbow::shard::command::{SessionId, StoreError};
use std::rc::Rc;

impl World {
    pub fn dial(&mut self, client: usize) {
        if self.over {
            return;
        }
        if !self.is_serving() {
            let retry = 200 + self.rng.below(1_000);
            return self.at(self.now + retry, Event::Dial(client));
        }
        if let Some(old) = self.clients[client].connection {
            // It has given up on that one; the server does not know.
            match self.rng.chance(50) {
                true => self.connections[old].left = true,
                false => self.connections[old].ignored = true,
            }
        }
        let digest = std::array::from_fn(|_| self.rng.next_u64() as u8);
        let now = Tick(self.now);
        let (key, identity) = self.shard().reserve(digest, now);
        let id = self.connections.len();
        let server = self.server.as_mut().expect("it serves");
        assert_eq!(server.slots.insert(key.index, id), None, "a slot has one connection");
        let down_max = 60 + self.rng.below(800) as usize;
        self.connections.push(Connection::new(client, self.epoch, key, identity, down_max));
        self.clients[client].connection = Some(id);
        self.trace(format_args!("client {client} dials as connection {id}, {key:?}"));
        let delay = self.rng.below(200);
        self.at(self.now + delay, Event::Decide(id));
    }

    /// The backend has said whether to let it in.
    pub fn decide(&mut self, id: ConnectionId) {
        if self.connections[id].stage != Stage::Connecting {
            return;
        }
        if self.connections[id].fin || self.connections[id].left || !self.healed && self.rng.chance(5) {
            return self.abandon(id);
        }
        let (client, key) = (self.connections[id].client, self.connections[id].key);
        let new = SessionId(u128::from(self.rng.next_u64()));
        if !self.known.contains_key(&client) {
            self.fresh.insert(new);
        }
        let session = *self.known.entry(client).or_insert(new);
        let resumed = !self.fresh.contains(&session);
        for channel in 0..CHANNELS {
            if self.rng.chance(if resumed { 10 } else { 60 }) {
                let query_id = self.next_token();
                self.channel_op((session, channel), query_id);
                self.input(Input::Subscribe { key, channel: channel_name(channel) });
            }
        }
        if self.rng.chance(30) {
            let value = format!("cookie of connection {id}").into_bytes();
            self.input(Input::Cookie { key, value: &value });
            self.cookies.entry(session).or_default().values.push(Some(value));
        }
        let (name, expiry_s) = (self.clients[client].name.clone(), self.clients[client].expiry_s);
        let greets = self.clients[client].greets();
        let connection = &mut self.connections[id];
        (connection.stage, connection.session, connection.resumed) = (Stage::Attaching, Some(session), resumed);
        self.input(Input::Attach { key, response: Rc::from(RESPONSE), new, name, expiry_s, greets });
        self.turn();
    }

    pub fn on_attached(&mut self, key: ConnKey) {
        let id = self.connection_at(key);
        self.trace(format_args!("connection {id} is attached"));
        let connection = &mut self.connections[id];
        assert_eq!(connection.stage, Stage::Attaching);
        connection.stage = Stage::Open;
        connection.window = self.window;
        let (client, session) = (connection.client, connection.session.expect("attaching"));
        assert_eq!(self.known.get(&client), Some(&session), "it is this session that it is attached to");
        self.fresh.remove(&session);
        let (waiting, _) = self.store.waiting(session);
        let expired = self.store.expired_of.get(&session).copied().unwrap_or_default();
        let most = waiting + self.store.keeps_under_way(session) + expired;
        self.connections[id].waiting = if self.store.inexact || self.store.fell_back {
            (0, u32::MAX)
        } else {
            (waiting.saturating_sub(expired), most)
        };
        self.seen.attached += 1;
        self.seen.resumed += u64::from(self.connections[id].resumed);
        self.read_soon(id);
    }

    pub fn on_attach_refused(&mut self, key: ConnKey, why: StoreError) {
        let id = self.connection_at(key);
        self.trace(format_args!("connection {id} is refused: {why:?}"));
        self.seen.attach_refused += 1;
        let (client, session) = (self.connections[id].client, self.connections[id].session.expect("attaching"));
        if let Some(cookies) = self.cookies.get_mut(&session) {
            // The session may never have heard of this connection's.
            cookies.is_exact = false;
        }
        // Fenced: another connection has it now, or it is dropped.
        let is_wanted = |other: &Connection| other.stage == Stage::Attaching && other.session == Some(session);
        let others = self.connections.iter().filter(|other| is_wanted(other)).count() > 1;
        if why != StoreError::Fenced
            && !others
            && self.fresh.contains(&session)
            && self.known.get(&client) == Some(&session)
        {
            self.known.remove(&client);
            self.ended.insert(session);
        }
        self.connections[id].stage = Stage::Connecting;
        self.abandon(id);
    }

    fn abandon(&mut self, id: ConnectionId) {
        let key = self.connections[id].key;
        if let Some(session) = self.connections[id].session.filter(|_| self.connections[id].stage == Stage::Attaching) {
            // Nobody was let in, and it is there all the same.
            self.fresh.remove(&session);
        }
        self.connections[id].stage = Stage::Abandoned;
        self.server.as_mut().expect("the process lives").slots.remove(&key.index);
        self.input(Input::Abandoned { key });
        self.carry_out();
        self.client_left(id);
    }

    /// The client's side is over; it comes back.
    pub fn client_left(&mut self, id: ConnectionId) {
        self.connections[id].left = true;
        let client = self.connections[id].client;
        if self.clients[client].connection == Some(id) {
            self.clients[client].connection = None;
            let away = if !self.healed && self.rng.chance(20) { 8_000 } else { 1_200 };
            let delay = 50 + self.rng.below(away);
            self.at(self.now + delay, Event::Dial(client));
        }
    }

    /// The network breaks at any byte, in both directions.
    pub fn cut(&mut self, id: ConnectionId) {
        let arriving = self.rng.below(self.connections[id].up.len() as u64 + 1) as usize;
        self.connections[id].cut(arriving);
        self.seen.cut += 1;
        self.client_left(id);
        match self.connections[id].stage {
            Stage::Attaching if self.rng.chance(50) => {
                self.abandon(id);
                self.turn();
            }
            _ => self.read_soon(id),
        }
    }

    pub fn on_speak(&mut self, client: usize) {
        if self.healed {
            return;
        }
        for _ in 0..if self.rng.chance(15) { 5 } else { 1 } {
            self.speak(client);
        }
        let next = 100 + self.rng.below(1_200);
        self.at(self.now + next, Event::Speak(client));
    }

    pub fn read_soon(&mut self, id: ConnectionId) {
        if !std::mem::replace(&mut self.connections[id].reading, true) {
            let delay = self.rng.below(40);
            self.at(self.now + delay, Event::ServerReads(id));
        }
    }

    pub fn receive_soon(&mut self, id: ConnectionId) {
        if !std::mem::replace(&mut self.connections[id].receiving, true) {
            let delay = self.rng.below(40);
            self.at(self.now + delay, Event::ClientReads(id));
        }
    }

    pub fn server_reads(&mut self, id: ConnectionId) {
        self.connections[id].reading = false;
        let connection = &mut self.connections[id];
        if connection.stage != Stage::Open || connection.epoch != self.epoch {
            return;
        }
        if connection.paused || connection.up.is_empty() {
            if connection.fin {
                connection.up.clear();
                self.socket_ended(id);
            }
            return;
        }
        let most = connection.up.len().min(if self.rng.chance(20) { 3 } else { 300 });
        let len = 1 + self.rng.below(most as u64) as usize;
        let mut data: Vec<u8> = connection.up.drain(..len).collect();
        let key = connection.key;
        self.input(Input::Bytes { key, data: &mut data });
        if self.shard().is_paused(key) {
            self.connections[id].paused = true;
            self.seen.paused += 1;
        }
        self.turn();
        self.read_soon(id);
    }

    fn socket_ended(&mut self, id: ConnectionId) {
        self.trace(format_args!("connection {id} ends"));
        let key = self.connections[id].key;
        self.connections[id].stage = Stage::Ended;
        self.server.as_mut().expect("the process lives").slots.remove(&key.index);
        self.input(Input::SocketEnded { key });
        self.turn();
        self.receive_soon(id);
    }

    pub fn client_reads(&mut self, id: ConnectionId) {
        let now = self.now;
        let connection = &mut self.connections[id];
        connection.receiving = false;
        if connection.left {
            // Nobody reads; what is written is thrown away when the socket is full.
            return;
        }
        if connection.frozen > now {
            connection.receiving = true;
            let until = connection.frozen;
            return self.at(until, Event::ClientReads(id));
        }
        if !connection.down.is_empty() {
            let most = connection.down.len().min(if self.rng.chance(10) { 3 } else { 400 });
            let len = 1 + self.rng.below(most as u64) as usize;
            let bytes: Vec<u8> = connection.down.drain(..len).collect();
            self.client_hears(id, &bytes);
        }
        let connection = &self.connections[id];
        if connection.left {
            return;
        }
        if !connection.down.is_empty() {
            self.receive_soon(id);
        } else if matches!(connection.stage, Stage::Ended | Stage::Abandoned) || connection.write_ended {
            self.connections[id].fin = true;
            self.client_left(id);
            self.read_soon(id);
        }
        self.writable(id);
    }

    pub fn writable(&mut self, id: ConnectionId) {
        let connection = &mut self.connections[id];
        if connection.stage == Stage::Open && connection.epoch == self.epoch && std::mem::take(&mut connection.blocked)
        {
            self.write(id);
            self.turn();
        }
    }

    pub fn write(&mut self, id: ConnectionId) {
        let index = self.connections[id].key.index;
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let enough = if self.rng.chance(30) { usize::MAX } else { 1 + self.rng.below(400) as usize };
            let shared = self.shard().gather(index, enough, &mut bytes);
            bytes.extend_from_slice(shared);
            if bytes.is_empty() {
                return;
            }
            let connection = &mut self.connections[id];
            let mut taken = bytes.len().min(connection.down_max.saturating_sub(connection.down.len()));
            if self.rng.chance(10) {
                taken = self.rng.below(taken as u64 + 1) as usize;
                self.at(self.now + 3, Event::Writable(id));
            }
            let connection = &mut self.connections[id];
            connection.blocked = taken < bytes.len();
            connection.down.extend(&bytes[..taken]);
            let more = if taken > 0 { self.shard().written(index, taken) } else { true };
            self.receive_soon(id);
            if self.connections[id].blocked || !more {
                return;
            }
        }
    }
}
