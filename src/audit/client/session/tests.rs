//! The client's state machine, fed by hand: an auditor that errs would accuse the server.

use super::*;
use crate::audit::judge::{Row, judge};

struct Bench {
    session: Session,
    ledger: Option<Ledger>,
    progress: Progress,
    dir: std::path::PathBuf,
}

impl Bench {
    fn new(name: &str) -> Bench {
        let dir = std::env::temp_dir().join(format!("rainbow-session-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let ledger = Some(Ledger::create(&dir, "client", None).unwrap());
        Bench { session: Session::new(9, 0, MessageId(65534)), ledger, progress: Progress::new(1), dir }
    }

    /// Runs `act`; returns the packets that it wrote.
    fn written(&mut self, act: impl FnOnce(&mut Session, &mut Outputs<'_>)) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        let ledger = self.ledger.as_mut().unwrap();
        act(&mut self.session, &mut Outputs { out: &mut out, ledger, progress: &self.progress });
        let mut packets = Vec::new();
        while !out.is_empty() {
            let (head, len) = match out[1] & 0x7F {
                126 => (4, usize::from(u16::from_be_bytes([out[2], out[3]]))),
                len => (2, usize::from(len)),
            };
            let mut packet: Vec<u8> = out.drain(..head + 4 + len).skip(head + 4).collect();
            packet.iter_mut().zip(MASK.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
            packets.push(packet);
        }
        packets
    }

    fn receive(&mut self, packet: Packet<'_>) -> Vec<Vec<u8>> {
        self.written(|session, outputs| session.on_packet(packet, Instant::now(), outputs))
    }

    fn row(&mut self, direction: Direction, qos: u8) -> Row {
        drop(self.ledger.take());
        judge(&self.dir).unwrap().rows[&(direction, qos)]
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        drop(self.ledger.take());
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn bytes(packet: Packet<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    packet.encode_into(&mut out);
    out
}

fn down(qos: QoS, sequence: u64) -> Vec<u8> {
    let mut body = Vec::new();
    let stream = Stream { direction: Direction::Down, qos, session: 0 };
    Payload { run: 9, stream, sequence }.write_into(&mut body);
    body
}

#[test]
fn what_is_unanswered_is_repeated_in_order_with_its_ids() {
    let mut bench = Bench::new("resume");
    let now = Instant::now();
    let first = bench.written(|session, outputs| session.send(QoS::ExactlyOnce, now, outputs));
    assert!(matches!(Packet::decode(&first[0]), Ok(Packet::Send { dup: false, id: Some(MessageId(65534)), .. })));
    bench.written(|session, outputs| session.send(QoS::AtLeastOnce, now, outputs));
    let id = MessageId(65534);
    let rel = bench.receive(Packet::Rec { id, body: b"seen 0" });
    assert_eq!(rel, [bytes(Packet::Rel { id, dup: false })]);
    let repeats = bench.written(|session, outputs| session.resume(now, outputs));
    assert_eq!(repeats[0], bytes(Packet::Rel { id, dup: true }));
    assert!(matches!(Packet::decode(&repeats[1]), Ok(Packet::Send { dup: true, id: Some(MessageId(1)), .. })));
    assert_eq!(bench.receive(Packet::Com { id }), [[0u8; 0]; 0]);
    assert_eq!(bench.session.in_flight(), 1);
    assert_eq!(bench.row(Direction::Up, 2).acknowledged, 1);
}

#[test]
fn a_received_id_is_remembered_until_rel() {
    let mut bench = Bench::new("received");
    let (id, body) = (MessageId(5), down(QoS::ExactlyOnce, 0));
    let send = |dup, body| Packet::Send { dup, qos: QoS::ExactlyOnce, message_type: 1, id: Some(id), body };
    for dup in [false, true, true] {
        assert_eq!(bench.receive(send(dup, &body)), [bytes(Packet::Rec { id, body: b"" })]);
    }
    let repeats = bench.written(|session, outputs| session.resume(Instant::now(), outputs));
    assert_eq!(repeats, [bytes(Packet::Rec { id, body: b"" })]);
    assert_eq!(bench.receive(Packet::Rel { id, dup: false }), [bytes(Packet::Com { id })]);
    assert!(bench.written(|session, outputs| session.resume(Instant::now(), outputs)).is_empty());
    let next = down(QoS::ExactlyOnce, 1);
    bench.receive(send(false, &next));
    let row = bench.row(Direction::Down, 2);
    assert_eq!((row.delivered, row.doubled), (2, 0));
}

#[test]
fn a_wrong_answer_and_a_foreign_message_are_noted() {
    let mut bench = Bench::new("wrong");
    bench.written(|session, outputs| session.send(QoS::AtLeastOnce, Instant::now(), outputs));
    bench.receive(Packet::Ack { id: MessageId(65534), body: b"seen 1" });
    let mut foreign = Vec::new();
    let stream = Stream { direction: Direction::Down, qos: QoS::AtLeastOnce, session: 1 };
    Payload { run: 9, stream, sequence: 0 }.write_into(&mut foreign);
    let id = Some(MessageId(1));
    bench.receive(Packet::Send { dup: false, qos: QoS::AtLeastOnce, message_type: 1, id, body: &foreign });
    drop(bench.ledger.take());
    let verdict = judge(&bench.dir).unwrap();
    assert_eq!(verdict.rows[&(Direction::Up, 1)].corrupted, 1);
    assert_eq!(verdict.rows[&(Direction::Down, 1)].unexpected, 1);
}

#[test]
fn a_new_session_gets_what_is_unanswered_under_new_ids() {
    let mut bench = Bench::new("afresh");
    let now = Instant::now();
    bench.written(|session, outputs| session.send(QoS::ExactlyOnce, now, outputs));
    bench.written(|session, outputs| session.send(QoS::ExactlyOnce, now, outputs));
    bench.receive(Packet::Rec { id: MessageId(65534), body: b"seen 0" });
    let repeats = bench.written(|session, outputs| session.start_afresh(now, outputs));
    assert_eq!(repeats.len(), 1);
    assert!(matches!(Packet::decode(&repeats[0]), Ok(Packet::Send { dup: false, id: Some(MessageId(2)), .. })));
}
