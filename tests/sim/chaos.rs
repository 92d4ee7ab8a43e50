//! What goes wrong: clients freeze, vanish, are cut off at any byte, close, send rubbish; the backend goes down;
//! something late comes for a connection that has ended; limits change.

use crate::connection::ConnectionId;
use crate::world::{Event, World, channel_name};
use rainbow::base::time::Tick;
use rainbow::shard::{DrainScope, Input};
use rainbow::wire::packet::{MessageId, Packet};
use rainbow::wire::ws::frame::{CloseCode, Opcode};

/// An id that no message of a world gets.
pub const UNKNOWN: MessageId = MessageId(60_000);

/// In bytes for a client: REL and COM of the unknown id, each in a frame.
pub fn answers_to_floods(bytes: &[u8]) -> usize {
    let [high, low] = UNKNOWN.0.to_be_bytes();
    bytes.windows(5).filter(|frame| frame[..2] == [0x82, 3] && frame[3..] == [high, low]).count()
}

fn encoded(packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.encode_into(&mut bytes);
    bytes
}

impl World {
    pub fn chaos(&mut self) {
        let Some(id) = self.some_connection() else { return };
        let (node, now) = (self.connections[id].node, self.now);
        match self.rng.below(21) {
            // Never silent for as long as a ping takes: answers at QoS 1 may be forgotten then.
            0..=1 if self.connections[id].frozen + 3_000 < now => {
                let until = now + 500 + self.rng.below(7_000);
                self.trace(format_args!("connection {id} freezes until {until}"));
                self.connections[id].frozen = until;
                self.connections[id].hindered = until;
                self.seen.frozen += 1;
            }
            2 => {
                self.trace(format_args!("connection {id} vanishes"));
                self.connections[id].frozen = u64::MAX;
                self.connections[id].hindered = u64::MAX;
                self.seen.vanished += 1;
                self.client_gone_silently(id);
            }
            3..=4 => {
                let arriving = self.rng.below(self.connections[id].up.len() as u64 + 1) as usize;
                self.trace(format_args!("connection {id} is cut, {arriving} bytes still arrive"));
                self.connections[id].cut(arriving);
                self.seen.cut += 1;
                self.client_left(id);
                self.read_soon(id);
            }
            5 if self.connections[id].can_speak() => {
                self.connections[id].peer.closing = true;
                self.frame(id, Opcode::Close, &1000u16.to_be_bytes());
            }
            6 if self.connections[id].can_speak() => {
                let rubbish: &[u8] = [&b"\x82\x01x"[..], b"\x81\x82\0\0\0\0\xFF\xFF", b"\x82\xFE\x7F\xFF\0\0\0\0"]
                    [self.rng.below(3) as usize];
                self.connections[id].peer.closing = true;
                self.connections[id].write(rubbish);
                self.read_soon(id);
            }
            7 => {
                self.backend.down = true;
                self.seen.outages += 1;
                let back = now + 500 + self.rng.below(15_000);
                self.at(back, Event::BackendBack);
            }
            8 => self.stale_input(),
            9 => {
                let which = if self.rng.chance(50) { DrainScope::All } else { DrainScope::Settled };
                self.nodes[node].shard.close_some(1, which, CloseCode::GOING_AWAY, || "drain".into(), Tick(now));
                self.turn(node);
            }
            10 => self.change_limits(node),
            11 if self.connections[id].can_speak() => self.flood(id),
            12 if self.nodes[node].stalled < now => {
                let until = now + 200 + self.rng.below(3_000);
                self.trace(format_args!("shard {node} is stuck until {until}"));
                self.nodes[node].stalled = until;
                self.seen.stalls += 1;
            }
            13..=14 => self.watch(node),
            _ => self.control(),
        }
    }

    /// The shard whose worker has to handle it.
    pub fn node_of(&self, event: &Event) -> Option<usize> {
        match event {
            Event::ServerReads(id) | Event::Writable(id) | Event::Decide(id) => Some(self.connections[*id].node),
            Event::BackendDone(job) => self.backend.connection_of(*job).map(|id| self.connections[id].node),
            Event::CallArrives { node, .. } | Event::Turn(node) | Event::Tick(node) => Some(*node),
            _ => None,
        }
    }

    /// A client says what costs it nothing, and reads none of the answers for a while.
    fn flood(&mut self, id: ConnectionId) {
        let until = self.now + 1_000;
        self.connections[id].frozen = until;
        self.connections[id].hindered = until;
        self.seen.floods += 1;
        let greets = self.clients[self.connections[id].client].greets;
        let what = self.rng.below(if greets { 4 } else { 3 });
        self.trace(format_args!("connection {id} floods with {}", ["pings", "REL", "REC", "PING"][what as usize]));
        for n in 0..100 + self.rng.below(200) {
            match what {
                0 => self.frame(id, Opcode::Ping, &n.to_le_bytes()[..1 + n as usize % 8]),
                1 => self.frame(id, Opcode::Binary, &encoded(&Packet::Rel { id: UNKNOWN, dup: true })),
                2 => self.frame(id, Opcode::Binary, &encoded(&Packet::Rec { id: UNKNOWN, body: b"" })),
                _ => self.ping(id),
            }
        }
    }

    /// The operator reloads the configuration.
    fn change_limits(&mut self, node: usize) {
        let settings = &mut self.nodes[node].settings;
        settings.ack_timeout_ms = 500 + self.rng.below(1_000);
        settings.forward_queue = 1 + self.rng.below(6) as usize;
        settings.inflight_window = 1 + self.rng.below(4) as usize;
        settings.outbox_bytes_max = settings.outbox_bytes_max.max(400 + self.rng.below(3_000) as usize);
        let settings = settings.clone();
        self.nodes[node].shard.set_settings(settings);
        self.seen.limits_changed += 1;
    }

    /// Nobody tells the server; the client comes back on another connection.
    fn client_gone_silently(&mut self, id: ConnectionId) {
        let client = self.connections[id].client;
        self.clients[client].connection = None;
        self.at(self.now + 1_000, Event::Dial(client));
    }

    /// Something late for a connection that has ended.
    fn stale_input(&mut self) {
        let gone: Vec<ConnectionId> = (0..self.connections.len()).filter(|&id| self.connections[id].closed).collect();
        if gone.is_empty() {
            return;
        }
        let id = gone[self.rng.below(gone.len() as u64) as usize];
        let (node, key) = (self.connections[id].node, self.connections[id].key);
        let mut rubbish = *b"\x82\x80\0\0\0\0";
        let input = match self.rng.below(4) {
            0 => Input::Subscribe { key, channel: channel_name(0) },
            1 => Input::Close { key, code: CloseCode::GOING_AWAY, reason: "stale" },
            2 => Input::Bytes { key, data: &mut rubbish },
            _ => Input::SocketEnded { key },
        };
        self.nodes[node].stale += 1;
        self.seen.stale += 1;
        self.nodes[node].input(input, self.now);
        self.turn(node);
    }
}
