//! `shard.handle` per input, with what the worker does around it: outputs fetched, bytes gathered and written.

use std::sync::Arc;

use divan::Bencher;
use rainbow::base::id::{ConnKey, Generation, ShardId};
use rainbow::base::keyed_hash::HashKey;
use rainbow::base::limits::Limits;
use rainbow::base::time::Tick;
use rainbow::shard::{ForwardOutcome, Input, Message, Mode, Output, Query, QueryId, SessionSettings, Settings, Shard};
use rainbow::wire::packet::{MessageId, Packet, QoS};
use rainbow::wire::ws::frame::{ClientFrame, Opcode};

const NOW: Tick = Tick(1_000);

/// A shard with open connections, each in the channel `room` and one of its own (`u17`), and nothing left to write.
struct Bed {
    shard: Shard,
    keys: Vec<ConnKey>,
    out: Vec<u8>,
}

impl Bed {
    fn new(connections: usize) -> Bed {
        let shard = Shard::new(ShardId(0), settings(), Arc::default(), NOW);
        let mut bed = Bed { shard, keys: Vec::new(), out: Vec::new() };
        for number in 0..connections {
            let (key, _) = bed.shard.reserve([number as u8; 32], NOW);
            bed.shard.handle(Input::Opened { key, response: b"HTTP/1.1 101\r\n\r\n"[..].into(), greets: false }, NOW);
            for channel in ["room", &format!("u{number}")] {
                bed.shard.handle(Input::Subscribe { key, channel }, NOW);
            }
            bed.keys.push(key);
        }
        bed.flush();
        bed
    }

    fn query(&mut self, channel: &Arc<str>, message: &Message) {
        let query = Query::Send { channel: channel.clone(), message: message.clone(), terms: (NOW + 10_000).into() };
        self.shard.handle(Input::Query { query_id: QueryId(1), query }, NOW);
    }

    /// Bytes from a client; `frame` is a template, as they are unmasked in place.
    fn bytes(&mut self, key: ConnKey, frame: &[u8]) {
        let mut data = [0; 256];
        data[..frame.len()].copy_from_slice(frame);
        self.shard.handle(Input::Bytes { key, data: &mut data[..frame.len()] }, NOW);
    }

    /// Writes all there is, as the worker does at the end of its turns; how many writes and outputs that made. A
    /// fan-out goes on by a slice each turn.
    fn flush(&mut self) -> (usize, usize) {
        let (mut written, mut outputs) = (0, 0);
        loop {
            let more = self.shard.poll_fanout(NOW);
            while let Some(index) = self.shard.next_dirty() {
                self.out.clear();
                let shared = self.shard.gather(index, 64 << 10, &mut self.out).len();
                self.shard.written(index, self.out.len() + shared);
                written += 1;
            }
            while self.shard.poll_output().is_some() {
                outputs += 1;
            }
            if !more {
                return (written, outputs);
            }
        }
    }
}

fn settings() -> Settings {
    Settings {
        ping_interval_ms: 60_000,
        pong_timeout_ms: 20_000,
        idle_timeout_ms: 0,
        close_timeout_ms: 5_000,
        ack_timeout_ms: 3_000,
        ack_backoff: 1.0,
        forward_deadline_ms: 120_000,
        forward_queue: 64,
        forward_queue_bytes: 64 << 20,
        forward_ahead_bytes: 256 << 10,
        hash_key: HashKey::new(1, 2),
        node: Generation(1),
        forwards: true,
        inflight_window: 64,
        received_max: 1024,
        answers_bytes_max: 1 << 20,
        message_bytes_max: 1 << 20,
        outbox_bytes_max: 1 << 20,
        clients_memory_max: 1 << 30,
        messages_per_second: 0,
        sessions: SessionSettings::default(),
        channels_per_connection: 1024,
        limits: Limits::DEFAULT,
        mode: Mode::Packets,
    }
}

fn message(qos: QoS) -> Message {
    Message::encode(qos, 1, &[0x5A; 128], &mut Vec::new())
}

fn frame(packet: &Packet<'_>) -> Vec<u8> {
    let (mut payload, mut bytes) = (Vec::new(), Vec::new());
    packet.encode_into(&mut payload);
    let frame = ClientFrame { fin: true, opcode: Opcode::Binary, key: [1, 2, 3, 4], payload: &payload };
    frame.write_into(&mut bytes);
    bytes
}

/// A message of QoS 0 to one of a thousand clients, the clients in turn.
#[divan::bench]
fn shard_send_to_one_qos0(bencher: Bencher) {
    let mut bed = Bed::new(CLIENTS);
    let channels: Vec<Arc<str>> = (0..CLIENTS).map(|number| format!("u{number}").into()).collect();
    let (message, mut next) = (message(QoS::AtMostOnce), 0);
    bencher.bench_local(|| {
        next = (next + 1) % CLIENTS;
        bed.query(&channels[next], &message);
        assert_eq!(bed.flush(), (1, 1), "one write, one reply");
    });
}

/// The same with QoS 1, acknowledged.
#[divan::bench]
fn shard_send_to_one_qos1_acked(bencher: Bencher) {
    let mut bed = Bed::new(CLIENTS);
    let channels: Vec<Arc<str>> = (0..CLIENTS).map(|number| format!("u{number}").into()).collect();
    let (message, mut next, mut sent) = (message(QoS::AtLeastOnce), 0, 0);
    let mut id = MessageId::MIN;
    bencher.bench_local(|| {
        bed.query(&channels[next], &message);
        assert_eq!(bed.flush(), (1, 0), "written, not yet answered");
        bed.bytes(bed.keys[next], &frame(&Packet::Ack { id, body: &[] }));
        assert_eq!(bed.flush(), (0, 1), "answered");
        // Every client counts its own ids.
        (next, sent) = ((next + 1) % CLIENTS, sent + 1);
        if sent % CLIENTS == 0 {
            id = id.next();
        }
    });
}

/// A message of QoS 0 to all of a thousand.
#[divan::bench]
fn shard_fanout_to_all_qos0(bencher: Bencher) {
    let mut bed = Bed::new(CLIENTS);
    let (room, message): (Arc<str>, _) = ("room".into(), message(QoS::AtMostOnce));
    bencher.counter(CLIENTS).bench_local(|| {
        bed.query(&room, &message);
        assert_eq!(bed.flush().0, CLIENTS);
    });
}

/// A client's message of QoS 1: forwarded, answered by the backend, acknowledged.
#[divan::bench]
fn shard_uplink_qos1(bencher: Bencher) {
    let mut bed = Bed::new(CLIENTS);
    let (mut next, mut sent, mut id) = (0, 0, MessageId::MIN);
    bencher.bench_local(|| {
        let key = bed.keys[next];
        let send =
            Packet::Send { dup: false, qos: QoS::AtLeastOnce, message_type: 7, id: Some(id), body: &[0x5A; 128] };
        bed.bytes(key, &frame(&send));
        let Some(Output::Forward(forward)) = bed.shard.poll_output() else { panic!("it is forwarded") };
        let outcome = ForwardOutcome::Answered(&[0x5A; 128]);
        bed.shard.handle(Input::Forwarded { key, outcome, spent: forward.body }, NOW);
        assert_eq!(bed.flush(), (1, 0), "the ACK");
        (next, sent) = ((next + 1) % CLIENTS, sent + 1);
        if sent % CLIENTS == 0 {
            id = id.next();
        }
    });
}

/// A pong: what an idle client costs the shard.
#[divan::bench]
fn shard_pong(bencher: Bencher) {
    let mut bed = Bed::new(CLIENTS);
    let (mut pong, mut next) = (Vec::new(), 0);
    ClientFrame { fin: true, opcode: Opcode::Pong, key: [1, 2, 3, 4], payload: &[] }.write_into(&mut pong);
    bencher.bench_local(|| {
        next = (next + 1) % CLIENTS;
        bed.bytes(bed.keys[next], &pong);
    });
}

/// A connection comes, joins a channel and goes.
#[divan::bench]
fn shard_connect_and_end(bencher: Bencher) {
    let mut bed = Bed::new(CLIENTS);
    bencher.bench_local(|| {
        let (key, _) = bed.shard.reserve([7; 32], NOW);
        bed.shard.handle(Input::Opened { key, response: b"HTTP/1.1 101\r\n\r\n"[..].into(), greets: false }, NOW);
        bed.shard.handle(Input::Subscribe { key, channel: "room" }, NOW);
        bed.flush();
        bed.shard.handle(Input::SocketEnded { key }, NOW);
        bed.flush()
    });
}

/// In debug builds every call checks the whole shard: fewer make the same point.
const CLIENTS: usize = if cfg!(debug_assertions) { 20 } else { 1_000 };
