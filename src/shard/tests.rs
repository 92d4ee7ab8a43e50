//! A shard on the bench, with clients as text: what a client hears is described in one line per frame, `send1 dup #3
//! "x"`, so that a test reads like the wire. Used by the tests of every room; below are those of the shard as a whole.

use super::*;
use crate::base::id::Generation;
use crate::base::keyed_hash::HashKey;
use crate::base::limits::Limits;
use crate::wire::packet::{MessageId, MessageRefusal};
use crate::wire::ws::frame::{ClientFrame, Opcode};

const HASH_KEY: HashKey = HashKey::new(1, 2);
pub const NODE: Generation = Generation(7);

pub struct Rig {
    pub shard: Shard,
    pub now: Tick,
    /// Outputs that nobody has asked for yet.
    pub outputs: Vec<Output>,
    tickets: u64,
    opened: u8,
}

pub fn settings() -> Settings {
    Settings {
        ping_interval_ms: 60_000,
        pong_timeout_ms: 20_000,
        idle_timeout_ms: 0,
        close_timeout_ms: 5_000,
        ack_timeout_ms: 3_000,
        ack_backoff: 1.0,
        forward_deadline_ms: 120_000,
        forward_queue: 4,
        forward_queue_bytes: 10_000,
        forward_ahead_bytes: 0,
        forwards: true,
        inflight_window: 4,
        received_max: 8,
        answers_bytes_max: 10_000,
        message_bytes_max: 1_000,
        outbox_bytes_max: 1_000,
        clients_memory_max: 1 << 20,
        messages_per_second: 0,
        sessions: SessionSettings::default(),
        hash_key: HASH_KEY,
        node: NODE,
        channels_per_connection: 4,
        limits: Limits::DEFAULT,
        mode: Mode::Packets,
    }
}

impl Rig {
    pub fn new() -> Rig {
        Rig::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Settings)) -> Rig {
        let mut settings = settings();
        change(&mut settings);
        let now = Tick(1_000_000);
        Rig {
            shard: Shard::new(ShardId(3), settings, Arc::default(), now),
            now,
            outputs: Vec::new(),
            tickets: 0,
            opened: 0,
        }
    }

    pub fn reserve(&mut self) -> (ConnKey, Identity) {
        self.opened = self.opened.wrapping_add(1);
        self.shard.reserve([self.opened; 32], self.now)
    }

    pub fn opened(&mut self, key: ConnKey) {
        self.input(Input::Opened { key, response: Rc::from(&b"101"[..]), greets: false });
        assert_eq!(self.take_bytes(key, usize::MAX), b"101");
    }

    pub fn open(&mut self) -> ConnKey {
        let (key, _) = self.reserve();
        self.opened(key);
        key
    }

    pub fn open_in(&mut self, channel: &str) -> ConnKey {
        let key = self.open();
        self.input(Input::Subscribe { key, channel });
        key
    }

    pub fn identity(&self, key: ConnKey) -> Identity {
        self.shard.conns.details(key.index).identity()
    }

    pub fn input(&mut self, input: Input<'_>) {
        self.shard.handle(input, self.now);
        self.outputs.extend(std::iter::from_fn(|| self.shard.poll_output()));
    }

    pub fn bytes(&mut self, key: ConnKey, data: &[u8]) {
        self.input(Input::Bytes { key, data: &mut data.to_vec() });
    }

    pub fn end(&mut self, key: ConnKey) {
        self.input(Input::SocketEnded { key });
    }

    pub fn send(&mut self, key: ConnKey, qos: u8, id: u16, body: &str) {
        self.bytes(key, &send_frame(false, qos, id, body));
    }

    pub fn send_dup(&mut self, key: ConnKey, qos: u8, id: u16, body: &str) {
        self.bytes(key, &send_frame(true, qos, id, body));
    }

    pub fn packet(&mut self, key: ConnKey, packet: Packet<'_>) {
        self.bytes(key, &packet_frame(packet));
    }

    pub fn ack(&mut self, key: ConnKey, id: u16, body: &str) {
        self.packet(key, Packet::Ack { id: MessageId(id), body: body.as_bytes() });
    }

    pub fn rec(&mut self, key: ConnKey, id: u16, body: &str) {
        self.packet(key, Packet::Rec { id: MessageId(id), body: body.as_bytes() });
    }

    pub fn rel(&mut self, key: ConnKey, id: u16) {
        self.packet(key, Packet::Rel { id: MessageId(id), dup: false });
    }

    pub fn com(&mut self, key: ConnKey, id: u16) {
        self.packet(key, Packet::Com { id: MessageId(id) });
    }

    /// Lets `ms` pass, with a tick whenever the shard wants one.
    pub fn advance(&mut self, ms: u64) {
        let end = self.now + ms;
        let mut ticks = 0;
        while let Some(next) = self.shard.next_tick().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.input(Input::Tick);
            ticks += 1;
            assert!(ticks < 100_000, "a tick leads to the next one without end");
        }
        self.now = end;
    }

    /// What a client that reads everything hears, one line per frame.
    pub fn hear(&mut self, key: ConnKey) -> Vec<String> {
        let bytes = self.take_bytes(key, usize::MAX);
        describe(&bytes)
    }

    /// At most `most` bytes of what waits for the client.
    pub fn take_bytes(&mut self, key: ConnKey, most: usize) -> Vec<u8> {
        while self.shard.next_dirty().is_some() {}
        let mut bytes = Vec::new();
        if self.shard.lookup(key).is_some() {
            loop {
                let begin = bytes.len();
                let shared = self.shard.gather(key.index, usize::MAX, &mut bytes);
                bytes.extend_from_slice(shared);
                bytes.truncate(most);
                if bytes.len() == begin || !self.shard.written(key.index, bytes.len() - begin) {
                    break;
                }
            }
        }
        self.input(Input::Tick);
        bytes
    }

    pub fn outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// The forwards since the last call; other outputs wait for whoever asks for them.
    pub fn forwards(&mut self) -> Vec<Forward> {
        let mut forwards = Vec::new();
        for output in self.outputs() {
            match output {
                Output::Forward(forward) => forwards.push(forward),
                other => self.outputs.push(other),
            }
        }
        forwards
    }

    /// Exactly one message goes to the backend.
    pub fn forward(&mut self) -> Forward {
        let mut forwards = self.forwards();
        assert_eq!(forwards.len(), 1, "{forwards:?}");
        forwards.remove(0)
    }

    pub fn answer(&mut self, forward: Forward, body: &str) {
        let outcome = ForwardOutcome::Answered(body.as_bytes());
        self.input(Input::Forwarded { key: forward.key, outcome, spent: forward.body });
    }

    pub fn refuse(&mut self, forward: Forward, status: u16, body: &str) {
        let outcome = ForwardOutcome::Refused(MessageRefusal { status, body: body.as_bytes() });
        self.input(Input::Forwarded { key: forward.key, outcome, spent: forward.body });
    }

    pub fn fail(&mut self, forward: Forward) {
        self.input(Input::Forwarded { key: forward.key, outcome: ForwardOutcome::Failed, spent: forward.body });
    }

    pub fn query(&mut self, query: Query) -> QueryId {
        self.tickets += 1;
        let query_id = QueryId(self.tickets);
        self.input(Input::Query { query_id, query });
        query_id
    }

    /// `/send/` with a deadline in 10 s.
    pub fn call(&mut self, channel: &str, qos: QoS, body: &str) -> QueryId {
        self.call_by(channel, qos, body, self.now + 10_000)
    }

    pub fn call_by(&mut self, channel: &str, qos: QoS, body: &str, deadline: Tick) -> QueryId {
        let message = Message::encode(qos, 7, body.as_bytes(), &mut Vec::new());
        self.query(Query::Send { channel: channel.into(), message, terms: deadline.into() })
    }

    /// The replies since the last call; other outputs wait.
    pub fn replies(&mut self) -> Vec<(QueryId, Reply)> {
        let mut replies = Vec::new();
        for output in self.outputs() {
            match output {
                Output::Reply { query_id, reply } => replies.push((query_id, without_targets(reply))),
                other => self.outputs.push(other),
            }
        }
        replies
    }

    /// Asks, and is replied to at once.
    pub fn reply_to(&mut self, query: Query) -> Reply {
        let query_id = self.query(query);
        let mut replies = self.replies();
        assert_eq!(replies.len(), 1, "{replies:?}");
        let (replied, reply) = replies.remove(0);
        assert_eq!(replied, query_id);
        reply
    }

    pub fn fan_out(&mut self) {
        while self.shard.poll_fanout(self.now) {}
        self.input(Input::Tick);
    }

    pub fn stats(&self) -> &ShardMetrics {
        self.shard.metrics()
    }

    /// Ends everything that is left; nothing may remain.
    pub fn finish(mut self) {
        let keys: Vec<ConnKey> = self.shard.conns.iter().map(|(index, _)| self.shard.conns.key(index)).collect();
        for key in keys {
            if self.shard.conns.conn(key.index).phase() != Phase::Gone {
                self.end(key);
            }
        }
        self.fan_out();
        self.advance(600_000);
        assert!(self.shard.conns.is_empty(), "a forward has no outcome: the test forgot it");
        assert!(self.shard.is_quiescent(), "something is left");
    }
}

/// How many a message was for is what few tests are about.
fn without_targets(mut reply: Reply) -> Reply {
    if let Reply::Sent { tally, .. } = &mut reply {
        assert!(tally.targets >= tally.connections + tally.stored + tally.refused + tally.undecided, "{tally:?}");
        tally.targets = 0;
    }
    reply
}

pub fn sent(connections: u32, data: &str) -> Reply {
    Reply::Sent { tally: Tally { connections, ..Tally::default() }, data: data.as_bytes().to_vec() }
}

/// A client's SEND of type 7; the id counts at QoS 1 and 2 only.
pub fn send_frame(dup: bool, qos: u8, id: u16, body: &str) -> Vec<u8> {
    let qos = QoS::from_u8(qos).expect("0, 1 or 2");
    let id = (qos != QoS::AtMostOnce).then_some(MessageId(id));
    packet_frame(Packet::Send { dup, qos, message_type: 7, id, body: body.as_bytes() })
}

pub fn packet_frame(packet: Packet<'_>) -> Vec<u8> {
    let mut payload = Vec::new();
    packet.encode_into(&mut payload);
    client_frame(Opcode::Binary, &payload)
}

pub fn client_frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    ClientFrame { fin: true, opcode, key: [1, 2, 3, 4], payload }.write_into(&mut bytes);
    bytes
}

/// A server's frames, whole ones only, as text.
pub fn describe(mut bytes: &[u8]) -> Vec<String> {
    let mut described = Vec::new();
    while let [first, len, rest @ ..] = bytes {
        let (len, rest) = match len {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            127 => panic!("no test needs so long a frame"),
            len => (usize::from(*len), rest),
        };
        let (payload, rest) = rest.split_at(len);
        described.push(describe_frame(first & 15, payload));
        bytes = rest;
    }
    assert!(bytes.is_empty(), "half a frame: {bytes:?}");
    described
}

fn describe_frame(opcode: u8, payload: &[u8]) -> String {
    match opcode {
        8 if payload.is_empty() => "close".into(),
        8 => {
            let code = u16::from_be_bytes([payload[0], payload[1]]);
            format!("close {code} {}", text(&payload[2..])).trim_end().into()
        }
        9 => "ping".into(),
        10 => format!("pong {:?}", text(payload)),
        1 => format!("text {:?}", text(payload)),
        _ => {
            let packet = Packet::decode(payload).expect("the server speaks the protocol");
            match MessageRefusal::decode(payload) {
                Some(refusal) => describe_refusal(packet, refusal),
                None => describe_packet(packet),
            }
        }
    }
}

fn describe_refusal(packet: Packet<'_>, MessageRefusal { status, body }: MessageRefusal<'_>) -> String {
    let described = describe_packet(packet);
    let end = described.find('"').expect("an answer has a body");
    format!("{}refused {status} {:?}", &described[..end], text(body))
}

fn describe_packet(packet: Packet<'_>) -> String {
    let mark = |dup| if dup { " dup" } else { "" };
    match packet {
        Packet::Send { qos: QoS::AtMostOnce, body, .. } => format!("send0 {:?}", text(body)),
        Packet::Send { dup, qos, id, body, .. } => {
            let id = id.expect("above QoS 0").0;
            format!("send{}{} #{id} {:?}", qos as u8, mark(dup), text(body))
        }
        Packet::Ack { id, body } => format!("ack #{} {:?}", id.0, text(body)),
        Packet::Rec { id, body } => format!("rec #{} {:?}", id.0, text(body)),
        Packet::Rel { id, dup } => format!("rel{} #{}", mark(dup), id.0),
        Packet::Com { id } => format!("com #{}", id.0),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn shutdowns(rig: &mut Rig) -> usize {
    rig.outputs().iter().filter(|output| matches!(output, Output::Shutdown { .. })).count()
}

fn closed(rig: &mut Rig) -> usize {
    rig.outputs().iter().filter(|output| matches!(output, Output::Closed { .. })).count()
}

fn close_frame(code: u16) -> Vec<u8> {
    client_frame(Opcode::Close, &code.to_be_bytes())
}

#[test]
fn the_response_goes_out_before_anything_else() {
    let mut rig = Rig::new();
    let (key, _) = rig.reserve();
    rig.input(Input::Subscribe { key, channel: "news" });
    rig.input(Input::Opened { key, response: Rc::from(&b"101"[..]), greets: false });
    rig.call("news", QoS::AtMostOnce, "x");
    assert!(rig.take_bytes(key, usize::MAX).starts_with(b"101\x82"));
    rig.finish();
}

#[test]
fn a_refused_connection_leaves_no_trace() {
    let mut rig = Rig::new();
    let (key, identity) = rig.reserve();
    rig.input(Input::Subscribe { key, channel: "news" });
    assert_eq!(rig.reply_to(Query::Exists { who: identity.into() }), Reply::done(0));
    rig.outputs();
    rig.input(Input::Abandoned { key });
    let left = HASH_KEY.hash("news");
    assert!(matches!(rig.outputs()[..], [Output::Presence { channel, here: false }] if channel == left));
    assert_eq!((rig.stats().opened.get(), rig.stats().ended.get()), (0, 0));
    rig.finish();
}

#[test]
fn a_close_by_the_client_is_answered_and_ends_the_socket_once() {
    let mut rig = Rig::new();
    let key = rig.open();
    rig.bytes(key, &close_frame(4321));
    assert_eq!(shutdowns(&mut rig), 0, "the answer has to go out first");
    assert_eq!(rig.hear(key), ["close 4321"]);
    assert_eq!(shutdowns(&mut rig), 1);
    assert_eq!(rig.hear(key), [""; 0]);
    assert_eq!(shutdowns(&mut rig), 0);
    rig.end(key);
    assert_eq!(closed(&mut rig), 1);
    rig.finish();
}

#[test]
fn nothing_counts_behind_a_close_frame() {
    let mut rig = Rig::new();
    let key = rig.open();
    let frames = [close_frame(1000), send_frame(false, 1, 1, "late"), close_frame(1001), b"rubbish".to_vec()].concat();
    rig.bytes(key, &frames);
    rig.bytes(key, &send_frame(false, 1, 2, "later"));
    assert_eq!(rig.hear(key), ["close 1000"]);
    assert_eq!(rig.stats().ws_violations.get(), 0);
    assert!(rig.forwards().is_empty());
    rig.finish();
}

#[test]
fn a_close_without_a_code_is_answered_without_one() {
    let mut rig = Rig::new();
    let key = rig.open();
    rig.bytes(key, &client_frame(Opcode::Close, b""));
    assert_eq!(rig.hear(key), ["close"]);
    rig.finish();
}

#[test]
fn our_close_waits_for_the_clients_and_then_ends_the_socket() {
    let mut rig = Rig::new();
    let key = rig.open();
    rig.input(Input::Close { key, code: CloseCode::GOING_AWAY, reason: "bye" });
    assert_eq!(rig.hear(key), ["close 1001 bye"]);
    rig.send(key, 1, 1, "too late");
    assert_eq!(shutdowns(&mut rig), 0);
    rig.bytes(key, &close_frame(1001));
    assert_eq!(shutdowns(&mut rig), 1);
    assert_eq!(rig.hear(key), [""; 0], "a close is answered once");
    rig.finish();
}

#[test]
fn a_client_that_does_not_answer_a_close_is_cut_off() {
    let mut rig = Rig::new();
    let key = rig.open();
    rig.input(Input::Close { key, code: CloseCode::GOING_AWAY, reason: "" });
    rig.advance(4_999);
    assert_eq!(shutdowns(&mut rig), 0);
    rig.advance(1);
    assert_eq!(shutdowns(&mut rig), 1);
    rig.finish();
}

#[test]
fn what_breaks_the_rules_is_closed_with_its_code() {
    let text = |bytes: &[u8]| client_frame(Opcode::Text, bytes);
    let binary = |bytes: &[u8]| client_frame(Opcode::Binary, bytes);
    let cases: &[(Vec<u8>, &str)] = &[
        (b"\x82\x00".to_vec(), "close 1002"),
        (b"\xF2\x80".to_vec(), "close 1002"),
        (text(b"\xFF\xFE"), "close 1007"),
        (binary(&[0; 1001]), "close 1009"),
        (binary(b"\x60\x00\x01"), "close 1002"),
        (binary(b"\x12\x00\x01\x00\x00"), "close 1002"),
    ];
    for (bytes, close) in cases {
        let mut rig = Rig::new();
        let key = rig.open();
        rig.bytes(key, bytes);
        rig.bytes(key, &send_frame(false, 1, 1, "unheard"));
        let heard = rig.hear(key);
        assert!(heard.len() == 1 && heard[0].starts_with(close), "{bytes:?}: {heard:?}");
        assert_eq!(rig.stats().ws_violations.get() + rig.stats().packet_violations.get(), 1);
        assert!(rig.forwards().is_empty());
        rig.advance(5_000);
        assert_eq!(shutdowns(&mut rig), 1);
        rig.finish();
    }
}

#[test]
fn an_empty_message_is_ignored_and_text_is_a_packet_too() {
    let mut rig = Rig::new();
    let key = rig.open();
    rig.bytes(key, &client_frame(Opcode::Binary, b""));
    rig.bytes(key, &client_frame(Opcode::Text, b"\x10\x00\x07{}"));
    let forward = rig.forward();
    assert_eq!((forward.message_type, &forward.body[..]), (7, &b"{}"[..]));
    rig.answer(forward, "");
    rig.finish();
}

#[test]
fn a_packet_may_come_byte_by_byte() {
    let mut rig = Rig::new();
    let key = rig.open();
    for byte in send_frame(false, 2, 9, "slowly") {
        assert!(rig.forwards().is_empty());
        rig.bytes(key, &[byte]);
    }
    assert_eq!(rig.forward().body, b"slowly");
    // The repeat's beginning comes with one read, its end with the next.
    let repeat = send_frame(true, 2, 9, "slowly");
    rig.bytes(key, &repeat[..5]);
    rig.bytes(key, &repeat[5..]);
    assert!(rig.forwards().is_empty());
    assert_eq!(rig.stats().repeats_in.get(), 1);
}

#[test]
fn a_panic_costs_the_connection_that_caused_it() {
    let mut rig = Rig::with(|settings| settings.mode = Mode::PanicOn(7));
    let (key, other) = (rig.open(), rig.open());
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rig.send(key, 1, 1, "boom")));
    assert!(panicked.is_err());
    rig.input(Input::Panicked { key });
    rig.bytes(key, &send_frame(false, 1, 2, "unheard"));
    assert_eq!(rig.hear(key), ["close 1011 internal error"]);
    assert_eq!(rig.stats().closed_panic.get(), 1);
    rig.bytes(other, &client_frame(Opcode::Ping, b"?"));
    assert_eq!(rig.hear(other), ["pong \"?\""]);
    rig.advance(5_000);
    assert_eq!(shutdowns(&mut rig), 1);
    rig.finish();
}

#[test]
fn a_panic_before_the_connection_opened_closes_it_when_it_opens() {
    let mut rig = Rig::new();
    let (key, _) = rig.reserve();
    rig.input(Input::Panicked { key });
    rig.input(Input::Opened { key, response: Rc::from(&b"101"[..]), greets: false });
    assert!(rig.take_bytes(key, usize::MAX).starts_with(b"101\x88"));
    rig.finish();
}

#[test]
fn inputs_with_a_stale_key_are_dropped_and_counted() {
    let mut rig = Rig::new();
    let old = rig.open();
    rig.end(old);
    let new = rig.open();
    assert_eq!(old.index, new.index, "the slot is used again");
    rig.input(Input::Subscribe { key: old, channel: "news" });
    rig.input(Input::Close { key: old, code: CloseCode::GOING_AWAY, reason: "" });
    rig.bytes(old, b"rubbish");
    rig.end(old);
    rig.input(Input::Close { key: ConnKey { shard: ShardId(4), ..new }, code: CloseCode::GOING_AWAY, reason: "" });
    assert_eq!(rig.stats().stale.get(), 5);
    assert_eq!(rig.hear(new), [""; 0]);
    assert_eq!(rig.shard.len(), 1);
    rig.finish();
}

/// A stranger can make so many connections in seconds.
#[test]
fn a_key_stays_stale_after_a_hundred_thousand_connections() {
    let mut rig = Rig::new();
    let old = rig.open();
    rig.end(old);
    for _ in 1..u32::from(u16::MAX) + 1 {
        let (passing, _) = rig.reserve();
        rig.input(Input::Abandoned { key: passing });
    }
    let new = rig.open();
    assert_eq!(old.index, new.index, "the slot is used again");
    assert_ne!(old, new);
    rig.input(Input::Close { key: old, code: CloseCode::GOING_AWAY, reason: "" });
    assert_eq!((rig.stats().stale.get(), rig.shard.len()), (1, 1));
    rig.finish();
}

#[test]
fn nothing_is_asked_for_a_connection_that_has_ended_meanwhile() {
    let mut rig = Rig::with(|settings| settings.forward_queue = 1);
    let (key, paused) = (rig.open(), rig.open());
    rig.send(paused, 1, 1, "x");
    rig.send(paused, 1, 2, "y");
    let first = rig.forward();
    // Both outputs wait while both sockets end, and one slot is used again.
    rig.shard.handle(Input::Close { key, code: CloseCode::GOING_AWAY, reason: "" }, rig.now);
    rig.shard.handle(Input::Tick, rig.now + 5_000);
    rig.shard.handle(Input::Close { key: paused, code: CloseCode::GOING_AWAY, reason: "" }, rig.now + 5_000);
    rig.shard.handle(Input::SocketEnded { key }, rig.now + 5_000);
    rig.shard.handle(Input::SocketEnded { key: paused }, rig.now + 5_000);
    let (new, _) = rig.reserve();
    assert_eq!(new.index, key.index);
    let outputs: Vec<Output> = std::iter::from_fn(|| rig.shard.poll_output()).collect();
    assert!(matches!(outputs[..], [Output::Closed { .. }]), "{outputs:?}");
    rig.now = rig.now + 5_000;
    rig.input(Input::Abandoned { key: new });
    rig.answer(first, "");
    let second = rig.forward();
    rig.answer(second, "");
    rig.finish();
}

#[test]
fn the_end_is_told_once_and_behind_the_last_forward() {
    let mut rig = Rig::new();
    let key = rig.open();
    rig.input(Input::Cookie { key, value: b"who" });
    rig.send(key, 1, 1, "first");
    rig.send(key, 0, 0, "second");
    let first = rig.forward();
    rig.end(key);
    assert_eq!((closed(&mut rig), rig.shard.is_empty()), (0, false));
    rig.answer(first, "ok");
    let second = rig.forward();
    assert_eq!(closed(&mut rig), 0);
    rig.input(Input::Cookie { key, value: b"who else" });
    rig.fail(second);
    let outputs = rig.outputs();
    let [Output::Closed { client, .. }] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(client.cookie().map(|cookie| &cookie[..]), Some(&b"who else"[..]));
    rig.finish();
}

#[test]
fn presence_is_told_in_pairs() {
    let mut rig = Rig::new();
    let (one, two) = (rig.open_in("news"), rig.open_in("news"));
    rig.input(Input::Subscribe { key: two, channel: "sport" });
    rig.input(Input::Unsubscribe { key: one, channel: "news" });
    rig.input(Input::Unsubscribe { key: one, channel: "news" });
    rig.end(two);
    rig.end(one);
    let reported = |channel: &str, wanted: bool, outputs: &[Output]| {
        let hash = HASH_KEY.hash(channel);
        let matching =
            |o: &&Output| matches!(o, Output::Presence { channel, here } if (*channel, *here) == (hash, wanted));
        outputs.iter().filter(matching).count()
    };
    let outputs = rig.outputs();
    for channel in ["news", "sport"] {
        assert_eq!((reported(channel, true, &outputs), reported(channel, false, &outputs)), (1, 1), "{channel}");
    }
    rig.finish();
}

#[test]
fn a_drain_closes_as_many_as_it_is_told() {
    let mut rig = Rig::new();
    let keys = [rig.open(), rig.open(), rig.open()];
    let mut reasons = (1..).map(|n| format!("restart {n}"));
    let mut close = |rig: &mut Rig| {
        let reason = || reasons.next().expect("endless");
        rig.shard.close_some(2, DrainScope::All, CloseCode::GOING_AWAY, reason, rig.now)
    };
    assert_eq!((close(&mut rig), rig.shard.len()), (2, 1));
    assert_eq!((close(&mut rig), rig.shard.len()), (1, 0));
    assert_eq!((close(&mut rig), rig.shard.len()), (0, 0));
    for (key, n) in keys.into_iter().zip(1..) {
        assert_eq!(rig.hear(key), [format!("close 1001 restart {n}")]);
    }
    rig.finish();
}

#[test]
fn echo_gives_every_message_back() {
    let mut rig = Rig::with(|settings| settings.mode = Mode::Echo);
    let key = rig.open();
    rig.bytes(key, &client_frame(Opcode::Text, "grüß".as_bytes()));
    rig.bytes(key, &client_frame(Opcode::Text, b""));
    assert_eq!(rig.hear(key), ["text \"grüß\"", "text \"\""]);
    rig.finish();
}

#[test]
fn new_settings_hold_from_now_on() {
    let mut rig = Rig::new();
    let key = rig.open_in("news");
    rig.call("news", QoS::AtLeastOnce, "a");
    rig.shard.set_settings(Settings { ack_timeout_ms: 500, inflight_window: 1, ..settings() });
    rig.call("news", QoS::AtLeastOnce, "b");
    assert_eq!(rig.hear(key), ["send1 #1 \"a\""]);
    rig.ack(key, 1, "");
    assert_eq!(rig.hear(key), ["send1 #2 \"b\""]);
    rig.advance(500);
    assert_eq!(rig.hear(key), ["send1 dup #2 \"b\""]);
    rig.finish();
}
