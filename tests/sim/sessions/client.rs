//! A client that outlives its connections: it repeats what is unanswered, knows the QoS 2 ids that it holds, and hands
//! a message on as its QoS promises. Now and then it dies between two steps, or loses all that it knew.

use super::calls::Way;
use super::connection::ConnectionId;
use super::world::{Event, World};
use crate::backend::status_of;
use crate::peer::{RESPONSE, body_of, take_frame, token_of};
use crate::world::PLENTY;
use rainbow::shard::RESERVED_TYPE;
use rainbow::shard::command::SessionId;
use rainbow::wire::packet::{MessageId, MessageRefusal, PING, PONG, Packet, QoS};
use rainbow::wire::ws::frame::{ClientFrame, Opcode};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

pub struct Client {
    pub name: Arc<str>,
    pub connection: Option<ConnectionId>,
    pub expiry_s: Option<u64>,
    greets: bool,
    /// Report REC again for what it holds when it comes back.
    repeats_rec: bool,
    /// The session that its memory belongs to.
    pub session: Option<SessionId>,
    next_id: MessageId,
    pub outstanding: Vec<Outstanding>,
    /// QoS 2 ids between SEND and REL, and their tokens.
    pub received: BTreeMap<u16, u64>,
    /// The id of every message that came.
    came: HashMap<u64, u16>,
    /// QoS 2 messages handed to the application.
    handed_once: HashSet<(SessionId, u64)>,
    /// All messages that ever reached the application, and the place of the last first one.
    pub handed: BTreeSet<(SessionId, u64)>,
    last_place: HashMap<(SessionId, Way), u64>,
    /// It has never lost its memory, or was answered since.
    established: bool,
    /// Bodies of REC that it has seen.
    pub answered: HashMap<u64, String>,
    /// It has taken its last breath in a story without end: nobody waits for these.
    pub abandoned: HashSet<u64>,
}

pub struct Outstanding {
    pub token: u64,
    id: MessageId,
    qos: QoS,
    written: bool,
    released: bool,
}

pub struct Habits {
    pub greets: bool,
    pub repeats_rec: bool,
    pub first_id: u16,
    pub expiry_s: Option<u64>,
}

impl Client {
    pub fn new(name: Arc<str>, habits: Habits) -> Client {
        let Habits { greets, repeats_rec, first_id, expiry_s } = habits;
        Client {
            name,
            connection: None,
            expiry_s,
            greets,
            repeats_rec: repeats_rec || greets,
            session: None,
            next_id: MessageId(first_id),
            outstanding: Vec::new(),
            received: BTreeMap::new(),
            came: HashMap::new(),
            handed_once: HashSet::new(),
            handed: BTreeSet::new(),
            last_place: HashMap::new(),
            established: true,
            answered: HashMap::new(),
            abandoned: HashSet::new(),
        }
    }

    pub fn greets(&self) -> bool {
        self.greets
    }

    pub fn repeats_rec(&self) -> bool {
        self.repeats_rec
    }

    /// Nothing is left of what it knew.
    pub fn lose_memory(&mut self) {
        self.abandoned.extend(self.outstanding.drain(..).map(|out| out.token));
        let session = self.session;
        for token in self.received.values() {
            self.handed_once.retain(|(of, handed)| Some(*of) != session || handed != token);
        }
        self.received.clear();
        self.came.clear();
        self.next_id = MessageId::MIN;
        self.established = false;
    }

    /// Its session is another one: ids mean nothing any more.
    fn begin_anew(&mut self, session: Option<SessionId>) {
        self.abandoned.extend(self.outstanding.drain(..).map(|out| out.token));
        self.received.clear();
        self.came.clear();
        self.session = session;
        self.established = true;
    }
}

impl World {
    pub fn client_hears(&mut self, id: ConnectionId, bytes: &[u8]) {
        self.connections[id].input.extend_from_slice(bytes);
        loop {
            let connection = &mut self.connections[id];
            if connection.left {
                return;
            }
            if !connection.ready {
                if connection.input.len() < RESPONSE.len() {
                    return;
                }
                assert_eq!(&connection.input[..RESPONSE.len()], RESPONSE, "the response comes first");
                connection.input.drain(..RESPONSE.len());
                connection.ready = true;
                if !connection.ignored && !self.clients[connection.client].greets {
                    self.go_on(id);
                }
                continue;
            }
            let Some((opcode, payload)) = take_frame(&mut connection.input) else { return };
            if !connection.ignored || opcode == 8 {
                self.on_frame(id, opcode, &payload);
            }
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
                self.seen.close(code);
                if !self.connections[id].closing {
                    self.frame(id, Opcode::Close, &payload[..2]);
                    self.connections[id].closing = true;
                }
            }
            9 => self.frame(id, Opcode::Pong, payload),
            2 if payload == PONG => {
                let connection = &mut self.connections[id];
                connection.pongs += 1;
                connection.awaits_pong = false;
                assert!(connection.pongs <= connection.pings, "nobody asked");
                self.seen.pongs += 1;
            }
            2 => {
                let packet = Packet::decode(payload).expect("the server speaks the protocol");
                self.trace(format_args!("connection {id} hears {packet:?}"));
                match packet {
                    Packet::Send { message_type: RESERVED_TYPE, body, .. } => self.on_greeting(id, body),
                    packet => {
                        assert!(self.connections[id].greeted, "the greeting is the first packet");
                        self.on_packet(id, packet, MessageRefusal::decode(payload));
                    }
                }
            }
            other => panic!("connection {id} hears opcode {other}"),
        }
    }

    fn on_greeting(&mut self, id: ConnectionId, body: &[u8]) {
        let connection = &self.connections[id];
        assert!(!connection.greeted && self.clients[connection.client].greets, "greeted once, if at all");
        let greeting: serde_json::Value = serde_json::from_slice(body).expect("JSON");
        assert_eq!(greeting["session"], *self.clients[connection.client].name);
        assert_eq!(greeting["resumed"], connection.resumed, "resumed or not");
        let waiting = greeting["waiting"].as_u64().expect("a number") as u32;
        assert!(
            (connection.waiting.0..=connection.waiting.1).contains(&waiting),
            "{waiting} wait, not {:?}",
            connection.waiting
        );
        self.go_on(id);
    }

    /// The connection is open and it is known whose: what is unfinished goes on.
    fn go_on(&mut self, id: ConnectionId) {
        self.connections[id].greeted = true;
        let (client, session) = (self.connections[id].client, self.connections[id].session);
        let known = &mut self.clients[client];
        if known.session != session {
            self.seen.anew += u64::from(known.session.is_some());
            known.begin_anew(session);
        }
        if !known.established {
            // Whether they are new or repeats, nobody could tell: it does not say them again.
            let lost = known.outstanding.extract_if(.., |out| out.written).map(|out| out.token);
            known.abandoned.extend(lost);
        }
        let repeats_rec = known.repeats_rec || !self.connections[id].resumed;
        let received: Vec<u16> = known.received.keys().copied().filter(|_| repeats_rec).collect();
        let all: Vec<usize> = (0..known.outstanding.len()).collect();
        for n in all {
            self.repeat(id, n);
        }
        for number in received {
            self.say(id, Packet::Rec { id: MessageId(number), body: b"" });
        }
    }

    fn repeat(&mut self, id: ConnectionId, n: usize) {
        let client = self.connections[id].client;
        let out = &mut self.clients[client].outstanding[n];
        let (token, dup) = (out.token, std::mem::replace(&mut out.written, true));
        if out.released {
            let rel = Packet::Rel { id: out.id, dup: true };
            return self.say(id, rel);
        }
        let body = body_of(token, "u");
        let packet =
            Packet::Send { dup, qos: out.qos, message_type: token as u16 % 1000, id: Some(out.id), body: &body };
        self.seen.repeats_up += u64::from(dup);
        self.say(id, packet);
        if !dup && self.rng.chance(5) {
            // The network doubles it.
            self.say(id, packet);
        }
    }

    pub fn speak(&mut self, client: usize) {
        let id = self.clients[client].connection.filter(|&id| self.connections[id].can_speak());
        if let Some(id) = id.filter(|_| self.clients[client].greets && self.rng.chance(20)) {
            self.frame(id, Opcode::Binary, &PING);
            let connection = &mut self.connections[id];
            (connection.pings, connection.awaits_pong) = (connection.pings + 1, true);
        }
        if self.clients[client].outstanding.len() >= OUTSTANDING_MAX {
            return;
        }
        let qos = if self.rng.chance(50) { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        let token = self.next_token();
        let known = &mut self.clients[client];
        let number = known.next_id;
        known.next_id = number.next();
        known.outstanding.push(Outstanding { token, id: number, qos, written: false, released: false });
        self.seen.spoken += 1;
        if let Some(id) = id {
            self.repeat(id, self.clients[client].outstanding.len() - 1);
        } else {
            // Said when it is back; ids are given when they are said first.
        }
    }

    /// Repeats what is unanswered.
    pub fn on_client_timer(&mut self, client: usize) {
        if let Some(id) = self.clients[client].connection.filter(|&id| self.connections[id].can_speak())
            && self.connections[id].frozen <= self.now
        {
            for n in 0..self.clients[client].outstanding.len() {
                self.repeat(id, n);
            }
        }
        let next = 1_000 + self.rng.below(2_000);
        self.at(self.now + next, Event::ClientTimer(client));
    }

    fn on_packet(&mut self, id: ConnectionId, packet: Packet<'_>, refusal: Option<MessageRefusal<'_>>) {
        match packet {
            Packet::Send { dup, qos, id: Some(number), body, .. } => {
                self.on_down(id, Down { dup, qos, number: number.0, token: token_of(body) });
            }
            Packet::Send { .. } => {}
            Packet::Ack { id: number, body } => self.on_answer(id, number, QoS::AtLeastOnce, answer(body, refusal)),
            Packet::Rec { id: number, body } => self.on_answer(id, number, QoS::ExactlyOnce, answer(body, refusal)),
            Packet::Rel { id: number, .. } => {
                let client = self.connections[id].client;
                self.connections[id].unfinished.remove(&number.0);
                self.seen.released += u64::from(self.clients[client].received.remove(&number.0).is_some());
                self.say(id, Packet::Com { id: number });
            }
            Packet::Com { id: number } => {
                let client = self.connections[id].client;
                self.clients[client].outstanding.retain(|out| out.id != number || !out.released);
            }
        }
    }

    /// The application's side of a SEND.
    fn on_down(&mut self, id: ConnectionId, down: Down) {
        let Down { dup, qos, number, token } = down;
        let connection = &mut self.connections[id];
        let (client, session) = (connection.client, connection.session.expect("attached"));
        let place = self.calls.place(token, client, session);
        let (now, unix_ms, stepped_at) = (self.now, self.unix_ms(), self.stepped_at);
        let over_for = self.calls.over_for(token, unix_ms).min(now - stepped_at);
        assert!(over_for <= ON_ITS_WAY_MS, "{token} comes {over_for} ms after its time");
        let connection = &mut self.connections[id];
        // What was answered on this connection may come again, crossing its answer.
        if connection.came.insert(token) {
            connection.unfinished.insert(number, token);
        }
        // What the server has given up meanwhile does not count.
        let counts = |token: &&u64| self.calls.is_promised_or_open(**token, now, unix_ms);
        let unfinished = connection.unfinished.values().filter(counts).count();
        assert!(unfinished <= connection.window, "the window is kept, {:?}", connection.unfinished);
        let known = &mut self.clients[client];
        match known.came.insert(token, number) {
            None => self.seen.marked_first += u64::from(dup),
            Some(before) => {
                assert_eq!(before, number, "{token} keeps its id");
                assert!(dup, "the repeat of {token} is marked");
                self.seen.repeats_down += 1;
            }
        }
        if qos == QoS::ExactlyOnce {
            match known.received.get(&number) {
                Some(other) => assert_eq!(*other, token, "id {number} stands for another message"),
                None => {
                    assert!(known.handed_once.insert((session, token)), "{token} was handed on twice at QoS 2");
                    known.received.insert(number, token);
                }
            }
        }
        if known.handed.insert((session, token)) {
            self.seen.handed += 1;
            if let Some((way, place)) = place {
                let last = known.last_place.insert((session, way), place);
                assert!(last.is_none_or(|last| last < place), "{token} overtook another message of its session");
            }
        }
        self.calls.delivered(token, client, session);
        let body = if token.is_multiple_of(3) { String::new() } else { format!("r{token}") };
        let number = MessageId(number);
        let packet = match qos {
            QoS::ExactlyOnce => Packet::Rec { id: number, body: body.as_bytes() },
            _ => Packet::Ack { id: number, body: body.as_bytes() },
        };
        if self.rng.chance(15) {
            let mut later = Vec::new();
            packet.encode_into(&mut later);
            self.connections[id].later.push_back(later);
            let delay = 100 + self.rng.below(2_500);
            return self.at(self.now + delay, Event::Answers(id));
        }
        self.say(id, packet);
    }

    /// The application has an answer after all.
    pub fn answer_later(&mut self, id: ConnectionId) {
        if let Some(packet) = self.connections[id].later.pop_front()
            && !self.connections[id].left
        {
            let packet = Packet::decode(&packet).expect("encoded above");
            self.say(id, packet);
        }
    }

    fn on_answer(&mut self, id: ConnectionId, number: MessageId, qos: QoS, (status, body): (Option<u16>, &[u8])) {
        let client = self.connections[id].client;
        let body = String::from_utf8(body.to_vec()).expect("as the backend answered");
        let known = &mut self.clients[client];
        let Some(n) = known.outstanding.iter().position(|out| out.id == number && out.written) else {
            if qos == QoS::ExactlyOnce {
                self.say(id, Packet::Rel { id: number, dup: false });
            }
            return;
        };
        let out = &mut known.outstanding[n];
        if out.qos != qos {
            // Of a message from before it lost its memory.
            assert!(!known.abandoned.is_empty(), "ACK answers QoS 1, REC answers QoS 2");
            return;
        }
        let token = out.token;
        if !known.established && self.backend.answer_to(token) != Some(body.as_str()) {
            // It meant another message, from before the client lost its memory: nobody could tell.
            known.outstanding.remove(n);
            known.abandoned.insert(token);
            return;
        }
        let full = self.backend.answer_to(token).expect("what is answered the backend had");
        // Answers given on earlier connections lose their bodies when they take too much memory.
        let is_cut = body.is_empty() && qos == QoS::ExactlyOnce && self.settings.answers_bytes_max < PLENTY;
        assert!(is_cut || full == body, "{token} was answered {body:?}, not {full:?}");
        let body = full.to_owned();
        assert_eq!(status, status_of(token).filter(|_| known.greets), "a refusal is one for who understands it");
        self.seen.refused_up += u64::from(status.is_some());
        let first = known.answered.entry(token).or_insert_with(|| body.clone());
        assert_eq!(*first, body, "a repeat is answered as the first time");
        known.established = true;
        self.seen.answered_up += 1;
        self.commit_answer(token);
        let out = &mut self.clients[client].outstanding[n];
        if qos == QoS::AtLeastOnce {
            self.clients[client].outstanding.remove(n);
        } else if !out.released && self.rng.chance(4) {
            // It dies before it has noted the REC.
            self.seen.died += 1;
            self.trace(format_args!("client {client} dies before REL"));
            self.cut(id);
        } else {
            out.released = true;
            self.say(id, Packet::Rel { id: number, dup: false });
        }
    }

    fn say(&mut self, id: ConnectionId, packet: Packet<'_>) {
        if !self.connections[id].can_speak() {
            return;
        }
        if let Packet::Ack { id: number, .. } = packet {
            self.connections[id].unfinished.remove(&number.0);
        }
        self.trace(format_args!("connection {id} says {packet:?}"));
        let mut payload = Vec::new();
        packet.encode_into(&mut payload);
        self.frame(id, Opcode::Binary, &payload);
    }

    fn frame(&mut self, id: ConnectionId, opcode: Opcode, payload: &[u8]) {
        if self.connections[id].fin {
            return;
        }
        let key = (self.rng.next_u64() as u32).to_le_bytes();
        let mut bytes = Vec::new();
        ClientFrame { fin: true, opcode, key, payload }.write_into(&mut bytes);
        self.connections[id].up.extend(bytes);
        self.read_soon(id);
    }
}

/// The status of a refusal, and the body.
fn answer<'a>(body: &'a [u8], refusal: Option<MessageRefusal<'a>>) -> (Option<u16>, &'a [u8]) {
    refusal.map_or((None, body), |refusal| (Some(refusal.status), refusal.body))
}

struct Down {
    dup: bool,
    qos: QoS,
    number: u16,
    token: u64,
}

const OUTSTANDING_MAX: usize = 5;
/// A message that was sent in time waits as long for a client that does not read.
const ON_ITS_WAY_MS: u64 = 6_000;
