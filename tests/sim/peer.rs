//! A client as the protocol wants it: reads frames byte by byte, answers SENDs, repeats its own until they are
//! answered. A client that *loses* drops a packet now and then, coming or going, each at most `LOSSES_MAX` times.

use crate::backend::status_of;
use crate::chaos::UNKNOWN;
use crate::connection::{Answer, ConnectionId};
use crate::world::{Event, PLENTY, World};
use rainbow::shard::RESERVED_TYPE;
use rainbow::wire::packet::{MessageId, MessageRefusal, PING, PONG, Packet, QoS};
use rainbow::wire::ws::frame::{ClientFrame, Opcode};
use std::collections::{BTreeMap, HashMap};

#[derive(Default)]
pub struct Peer {
    /// The response to the upgrade has come.
    pub ready: bool,
    /// A close frame came or went.
    pub closing: bool,
    loses: bool,
    input: Vec<u8>,
    /// The first packet of `rainbow.2` has come.
    greeted: bool,
    pings: u64,
    pongs: u64,
    /// The stream's length behind a PING that has no PONG.
    pinged: Option<usize>,
    losses: HashMap<(Way, u8, u16), u8>,

    /// Id, QoS and copies of every message that ever came, by token.
    came: HashMap<u64, (u16, QoS)>,
    next_down_id: u16,
    /// QoS 2 ids between SEND and REL, and their tokens.
    pub received: BTreeMap<u16, u64>,
    /// How often a message was handed to the application.
    handed: HashMap<u64, u32>,
    /// The arrival number of the last message, per channel, with and without acknowledgement.
    last: HashMap<(usize, bool), u64>,

    /// Messages put on the wire, in their order.
    pub spoken: Vec<(u64, QoS)>,
    spoken_by_token: HashMap<u64, usize>,
    /// The stream's length behind the first copy of each.
    spoken_ends: Vec<usize>,
    /// How many of them the shard has taken while the connection was open.
    accepted: usize,
    pub outstanding: BTreeMap<u16, Outstanding>,
    answered: HashMap<u16, String>,
    next_up_id: u16,
    /// Ids of QoS 1 that were answered and never repeated: nothing of theirs is under way, so they are used again.
    free_ids: Vec<u16>,
    timer_at: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Way {
    Coming,
    Going,
}

pub struct Outstanding {
    pub token: u64,
    qos: QoS,
    released: bool,
    rel_sent: bool,
    repeated: bool,
    repeat_at: u64,
}

impl Outstanding {
    /// A QoS 2 message whose answer the server has to remember.
    pub fn is_unreleased(&self) -> bool {
        self.qos == QoS::ExactlyOnce && !self.rel_sent
    }
}

const LOSSES_MAX: u8 = 2;
pub const OUTSTANDING_MAX: usize = 6;
pub const RESPONSE: &[u8] = b"HTTP/1.1 101 \r\n\r\n";

impl Peer {
    pub fn new(loses: bool) -> Peer {
        Peer { loses, next_down_id: 1, next_up_id: 1, timer_at: u64::MAX, ..Peer::default() }
    }

    /// A PING has no answer.
    pub fn awaits_pong(&self) -> bool {
        self.pinged.is_some()
    }

    /// Position among all that was spoken.
    pub fn place(&self, token: u64) -> Option<usize> {
        self.spoken_by_token.get(&token).copied()
    }

    /// Does a message's first copy end there?
    pub fn ends_within(&self, after: usize, until: usize) -> bool {
        self.spoken_ends.get(self.accepted).is_some_and(|&end| after < end && end <= until)
    }

    /// The shard has read so far, and the connection is open.
    pub fn accepted_to(&mut self, read: usize) {
        self.accepted = self.spoken_ends.partition_point(|&end| end <= read);
    }

    /// What the shard has taken, so that the backend must hear of it.
    pub fn accepted(&self) -> &[(u64, QoS)] {
        &self.spoken[..self.accepted]
    }
}

impl World {
    /// Bytes reach the client.
    pub fn peer_hears(&mut self, id: ConnectionId, bytes: &[u8]) {
        self.connections[id].peer.input.extend_from_slice(bytes);
        loop {
            let peer = &mut self.connections[id].peer;
            if !peer.ready {
                if peer.input.len() < RESPONSE.len() {
                    return;
                }
                assert_eq!(&peer.input[..RESPONSE.len()], RESPONSE, "the response comes first");
                peer.input.drain(..RESPONSE.len());
                peer.ready = true;
                continue;
            }
            let Some((opcode, payload)) = take_frame(&mut peer.input) else { return };
            self.on_frame(id, opcode, &payload);
        }
    }

    fn on_frame(&mut self, id: ConnectionId, opcode: u8, payload: &[u8]) {
        match opcode {
            8 => {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                self.trace(format_args!(
                    "connection {id} hears close {code} {}",
                    String::from_utf8_lossy(&payload[2..])
                ));
                assert_ne!(&payload[2..], b"stale", "a stale key closed somebody else");
                self.seen.close(code);
                if !self.connections[id].peer.closing {
                    self.connections[id].peer.closing = true;
                    self.frame(id, Opcode::Close, &payload[..2]);
                }
            }
            9 => self.frame(id, Opcode::Pong, payload),
            10 => {}
            2 if payload == PONG => self.on_pong(id),
            2 => {
                let packet = Packet::decode(payload).expect("the server speaks the protocol");
                match packet {
                    Packet::Send { message_type: RESERVED_TYPE, body, .. } => self.on_greeting(id, body),
                    _ => self.on_packet(id, packet, payload),
                }
            }
            other => panic!("connection {id} hears opcode {other}"),
        }
    }

    fn on_greeting(&mut self, id: ConnectionId, body: &[u8]) {
        let connection = &mut self.connections[id];
        let client = &self.clients[connection.client];
        assert!(client.greets && !std::mem::replace(&mut connection.peer.greeted, true), "greeted once, if at all");
        let greeting: serde_json::Value = serde_json::from_slice(body).expect("JSON");
        assert_eq!(greeting["identity"], connection.identity.to_string());
        assert_eq!((&greeting["session"], &greeting["resumed"]), (&serde_json::Value::Null, &false.into()));
        self.seen.greeted += 1;
    }

    fn on_pong(&mut self, id: ConnectionId) {
        self.trace(format_args!("connection {id} hears PONG"));
        let connection = &mut self.connections[id];
        connection.peer.pongs += 1;
        assert!(connection.peer.pongs <= connection.peer.pings, "nobody asked");
        connection.peer.pinged = connection.peer.pinged.filter(|end| connection.up_read < *end);
        self.seen.pongs += 1;
    }

    fn on_packet(&mut self, id: ConnectionId, packet: Packet<'_>, payload: &[u8]) {
        self.trace(format_args!("connection {id} hears {packet:?}"));
        let connection = &self.connections[id];
        assert_eq!(connection.peer.greeted, self.clients[connection.client].greets, "the greeting is the first packet");
        if let Packet::Send { dup, qos, id: message, body, .. } = packet {
            self.check_send(id, dup, qos, message, token_of(body));
        }
        let number = match packet {
            Packet::Send { id, .. } => id.map_or(0, |id| id.0),
            Packet::Ack { id, .. } | Packet::Rec { id, .. } | Packet::Rel { id, .. } | Packet::Com { id } => id.0,
        };
        if self.is_lost(id, Way::Coming, payload[0] >> 4, number) {
            return;
        }
        let refusal = MessageRefusal::decode(payload);
        match packet {
            Packet::Send { qos, id: message, body, .. } => self.on_down(id, qos, message, token_of(body)),
            Packet::Ack { id: message, body } => self.on_up_answer(id, message.0, QoS::AtLeastOnce, body, refusal),
            Packet::Rec { id: message, body } => self.on_up_answer(id, message.0, QoS::ExactlyOnce, body, refusal),
            Packet::Rel { id: message, .. } => {
                self.connections[id].peer.received.remove(&message.0);
                self.say(id, Packet::Com { id: message });
            }
            Packet::Com { id: message } => {
                let peer = &mut self.connections[id].peer;
                assert!(message.0 < peer.next_up_id || message == UNKNOWN, "COM for what was never sent");
                if peer.outstanding.get(&message.0).is_some_and(|out| out.released) {
                    peer.outstanding.remove(&message.0);
                }
            }
        }
    }

    /// What a SEND must look like, whether the client loses it or not.
    fn check_send(&mut self, id: ConnectionId, dup: bool, qos: QoS, message: Option<MessageId>, token: u64) {
        let (channel, arrival) = self.calls.origin(token, self.connections[id].node);
        let peer = &mut self.connections[id].peer;
        let number = message.map_or(0, |message| message.0);
        match peer.came.get(&token) {
            None => {
                assert!(!dup, "the first copy of {token} is no repeat");
                if let Some(message) = message {
                    assert_eq!(message.0, peer.next_down_id, "ids are counted per connection");
                    peer.next_down_id += 1;
                }
                peer.came.insert(token, (number, qos));
                let last = peer.last.insert((channel, message.is_some()), arrival);
                assert!(last.is_none_or(|last| last < arrival), "{token} overtook another message of its channel");
            }
            Some(&first) => {
                assert!(dup, "the repeat of {token} is marked");
                assert_eq!(first, (number, qos), "a repeat of {token} is the same message");
                assert_ne!(qos, QoS::AtMostOnce, "QoS 0 comes at most once");
                self.seen.repeats_down += 1;
            }
        }
    }

    /// The application's side of a SEND.
    fn on_down(&mut self, id: ConnectionId, qos: QoS, message: Option<MessageId>, token: u64) {
        let peer = &mut self.connections[id].peer;
        let known = message.is_some_and(|message| peer.received.contains_key(&message.0));
        if qos != QoS::ExactlyOnce || !known {
            *peer.handed.entry(token).or_default() += 1;
        }
        assert!(qos != QoS::ExactlyOnce || peer.handed[&token] == 1, "{token} was handed on twice at QoS 2");
        self.seen.handed_down += 1;
        let Some(message) = message else { return };
        if qos == QoS::ExactlyOnce {
            peer.received.insert(message.0, token);
        }
        let body = if token.is_multiple_of(3) { String::new() } else { format!("r{token}-{id}") };
        let packet = match qos {
            QoS::ExactlyOnce => Packet::Rec { id: message, body: body.as_bytes() },
            _ => Packet::Ack { id: message, body: body.as_bytes() },
        };
        if self.say(id, packet) {
            let connection = &mut self.connections[id];
            connection.answers.push_back((connection.up_written, Answer { token, body }));
        }
    }

    fn on_up_answer(
        &mut self,
        id: ConnectionId,
        message: u16,
        qos: QoS,
        body: &[u8],
        refusal: Option<MessageRefusal<'_>>,
    ) {
        let body = refusal.map_or(body, |refusal| refusal.body);
        let body = String::from_utf8(body.to_vec()).expect("as the backend answered");
        let greets = self.clients[self.connections[id].client].greets;
        let peer = &mut self.connections[id].peer;
        assert!(message < peer.next_up_id, "an answer to what was never sent");
        let first = peer.answered.entry(message).or_insert_with(|| body.clone());
        assert_eq!(*first, body, "a repeat is answered as the first time");
        let Some(out) = peer.outstanding.get_mut(&message) else { return };
        assert_eq!(out.qos, qos, "ACK answers QoS 1, REC answers QoS 2");
        let (token, repeated) = (out.token, out.repeated);
        let status = status_of(token).filter(|_| greets);
        assert_eq!(refusal.map(|refusal| refusal.status), status, "a refusal is one for who understands it");
        self.seen.refused_up += u64::from(status.is_some());
        assert_eq!(self.backend.answer_to(token), Some(body.as_str()), "{token} was answered, and the backend had it");
        if qos == QoS::AtLeastOnce {
            peer.outstanding.remove(&message);
            if !repeated {
                peer.free_ids.push(message);
            }
        } else {
            out.released = true;
            out.repeat_at = self.now + self.rng.below(2_000) + 500;
            // Some take their time.
            if self.rng.chance(60) {
                self.say_rel(id, message, false);
            }
        }
        self.seen.answered_up += 1;
    }

    /// Only a client of `rainbow.2` may.
    pub fn ping(&mut self, id: ConnectionId) {
        self.frame(id, Opcode::Binary, &PING);
        let connection = &mut self.connections[id];
        connection.peer.pings += 1;
        connection.peer.pinged = Some(connection.up_written);
    }

    /// The client has something to say.
    pub fn speak(&mut self, id: ConnectionId) {
        if self.clients[self.connections[id].client].greets && self.rng.chance(20) {
            self.ping(id);
        }
        let qos = QoS::from_u8(self.rng.below(3) as u8).expect("0, 1 or 2");
        // An answer that is lost or forgotten would be taken for that of the next message of its id.
        let plenty = self.nodes[self.connections[id].node].settings.answers_bytes_max == PLENTY;
        let reuses = !self.connections[id].peer.loses && plenty && self.rng.chance(50);
        let peer = &mut self.connections[id].peer;
        if qos != QoS::AtMostOnce && peer.outstanding.len() >= OUTSTANDING_MAX {
            return;
        }
        let token = self.next_token;
        self.next_token += 1;
        let mut number = peer.next_up_id;
        if qos != QoS::AtMostOnce {
            match peer.free_ids.pop().filter(|_| reuses) {
                Some(free) => {
                    number = free;
                    peer.answered.remove(&free);
                    self.seen.ids_reused += 1;
                }
                None => peer.next_up_id += 1,
            }
            let repeat_at = self.now + self.rng.below(2_000) + 500;
            let out = Outstanding { token, qos, released: false, rel_sent: false, repeated: false, repeat_at };
            peer.outstanding.insert(number, out);
        }
        self.say_message(id, false, qos, number, token);
        self.arm_peer(id);
    }

    fn say_message(&mut self, id: ConnectionId, dup: bool, qos: QoS, number: u16, token: u64) {
        let message = (qos != QoS::AtMostOnce).then_some(MessageId(number));
        let body = body_of(token, "u");
        let message_type = token as u16 % 1000;
        let packet = Packet::Send { dup, qos, message_type, id: message, body: &body };
        if !self.say(id, packet) {
            return;
        }
        let written = self.connections[id].up_written;
        let peer = &mut self.connections[id].peer;
        if !peer.spoken_by_token.contains_key(&token) {
            peer.spoken_by_token.insert(token, peer.spoken.len());
            peer.spoken.push((token, qos));
            peer.spoken_ends.push(written);
        }
        // Networks and clients repeat without being asked to.
        if qos != QoS::AtMostOnce && self.rng.chance(8) {
            // One without DUP whose id has been forgotten would be a new message.
            let plenty = self.nodes[self.connections[id].node].settings.answers_bytes_max == PLENTY;
            let dup = self.rng.chance(50) || !plenty;
            self.note_repeated(id, number);
            self.say(id, Packet::Send { dup, qos, message_type, id: message, body: &body });
        }
    }

    /// Repeats what is due.
    pub fn on_peer_timer(&mut self, id: ConnectionId) {
        if self.connections[id].peer.timer_at > self.now {
            return;
        }
        self.connections[id].peer.timer_at = u64::MAX;
        if self.connections[id].can_speak() && self.connections[id].frozen <= self.now {
            let now = self.now;
            let due = self.connections[id].peer.outstanding.iter().filter(|(_, out)| out.repeat_at <= now);
            let due: Vec<(u16, u64, QoS, bool)> =
                due.map(|(number, out)| (*number, out.token, out.qos, out.released)).collect();
            for (number, token, qos, released) in due {
                let wait = self.rng.below(2_000) + 1_000;
                if let Some(out) = self.connections[id].peer.outstanding.get_mut(&number) {
                    out.repeat_at = now + wait;
                }
                self.note_repeated(id, number);
                match released {
                    true => self.say_rel(id, number, true),
                    false => self.say_message(id, true, qos, number, token),
                }
            }
        }
        self.arm_peer(id);
    }

    fn say_rel(&mut self, id: ConnectionId, number: u16, dup: bool) {
        let sent = self.say(id, Packet::Rel { id: MessageId(number), dup });
        if let Some(out) = self.connections[id].peer.outstanding.get_mut(&number) {
            out.rel_sent |= sent;
        }
    }

    fn note_repeated(&mut self, id: ConnectionId, number: u16) {
        if let Some(out) = self.connections[id].peer.outstanding.get_mut(&number) {
            out.repeated = true;
        }
    }

    fn arm_peer(&mut self, id: ConnectionId) {
        let connection = &mut self.connections[id];
        let Some(due) = connection.peer.outstanding.values().map(|out| out.repeat_at).min() else { return };
        let due = due.max(connection.frozen).max(self.now + 1);
        if !connection.fin && due < connection.peer.timer_at {
            connection.peer.timer_at = due;
            self.at(due, Event::PeerTimer(id));
        }
    }

    /// False when the client loses it, or cannot speak.
    fn say(&mut self, id: ConnectionId, packet: Packet<'_>) -> bool {
        let mut payload = Vec::new();
        packet.encode_into(&mut payload);
        let number = if payload.len() >= 5 && payload[0] >> 4 == 1 {
            [payload[3], payload[4]]
        } else {
            [payload[1], payload[2]]
        };
        let lost = self.is_lost(id, Way::Going, payload[0] >> 4, u16::from_be_bytes(number));
        if lost || !self.connections[id].can_speak() {
            return false;
        }
        self.trace(format_args!("connection {id} says {packet:?}"));
        self.frame(id, Opcode::Binary, &payload);
        true
    }

    pub fn frame(&mut self, id: ConnectionId, opcode: Opcode, payload: &[u8]) {
        let mut bytes = Vec::new();
        let key = self.rng.next_u64().to_le_bytes();
        // A message may come in fragments.
        let split = if opcode == Opcode::Binary && self.rng.chance(10) {
            self.rng.below(payload.len() as u64) as usize
        } else {
            0
        };
        let [a, b, c, d, ..] = key;
        if split > 0 {
            ClientFrame { fin: false, opcode, key: [a, b, c, d], payload: &payload[..split] }.write_into(&mut bytes);
        }
        let opcode = if split > 0 { Opcode::Continuation } else { opcode };
        ClientFrame { fin: true, opcode, key: [d, c, b, a], payload: &payload[split..] }.write_into(&mut bytes);
        self.connections[id].write(&bytes);
        self.read_soon(id);
    }

    fn is_lost(&mut self, id: ConnectionId, way: Way, command: u8, number: u16) -> bool {
        if !self.connections[id].peer.loses || !self.rng.chance(25) {
            return false;
        }
        let losses = self.connections[id].peer.losses.entry((way, command, number)).or_default();
        *losses += 1;
        let lost = *losses <= LOSSES_MAX;
        self.seen.lost += u64::from(lost);
        lost
    }
}

/// Text that says which message it is, of some length.
pub fn body_of(token: u64, kind: &str) -> Vec<u8> {
    let mut body = format!("{token} {kind}").into_bytes();
    body.resize(body.len() + (token * 7 % 40) as usize, b'.');
    body
}

pub fn token_of(body: &[u8]) -> u64 {
    let text = std::str::from_utf8(body).expect("as it was sent");
    text.split(' ').next().and_then(|token| token.parse().ok()).expect("a token")
}

/// A server's whole frame, off the front.
pub fn take_frame(input: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let (&first, &len) = (input.first()?, input.get(1)?);
    assert_eq!(first & 0xF0, 0x80, "whole frames without reserved bits");
    assert_eq!(len & 0x80, 0, "a server does not mask");
    let (len, at) = match len {
        126 => (usize::from(u16::from_be_bytes([*input.get(2)?, *input.get(3)?])), 4),
        127 => panic!("nothing here is that long"),
        len => (usize::from(len), 2),
    };
    if input.len() < at + len {
        return None;
    }
    let payload = input[at..at + len].to_vec();
    input.drain(..at + len);
    Some((first & 15, payload))
}
