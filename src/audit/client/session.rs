//! The client's half of a durable session, as plain data: it outlives every connection.
//!
//! Ids count up over all connections. What is unanswered is sent again with DUP after each return (for QoS 2 past REC:
//! REL), in the old order and before anything new. A QoS 2 id that came in is remembered until REL, and its REC is
//! repeated. Packets go into a buffer, notes into the ledger; who calls flushes the ledger before the first byte
//! leaves. Called by `client`.

use crate::audit::ledger::{Entry, Fact, Ledger};
use crate::audit::payload::{Direction, Payload, Stream, UP_TYPE, answer_to};
use crate::audit::progress::{Progress, count};
use crate::wire::packet::{MessageId, Packet, QoS};
use crate::wire::ws::frame::{ClientFrame, Opcode};
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct Session {
    run: u64,
    number: u32,
    next_id: MessageId,
    in_flight: VecDeque<Outgoing>,
    /// QoS 2 ids that were delivered and not released.
    received: BTreeSet<MessageId>,
    /// Messages sent so far, per QoS.
    sent: [u64; 3],
}

#[derive(Debug)]
struct Outgoing {
    id: MessageId,
    qos: QoS,
    sequence: u64,
    /// REC came.
    released: bool,
    repeat_at: Instant,
}

/// Where a session writes its packets, and notes what happens.
pub struct Outputs<'a> {
    pub out: &'a mut Vec<u8>,
    pub ledger: &'a mut Ledger,
    pub progress: &'a Progress,
}

impl Session {
    /// `first_id` lets a run begin shortly before the ids wrap around.
    pub fn new(run: u64, number: u32, first_id: MessageId) -> Session {
        Session { run, number, next_id: first_id, in_flight: VecDeque::new(), received: BTreeSet::new(), sent: [0; 3] }
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Messages sent at that QoS.
    pub fn sent(&self, qos: QoS) -> u64 {
        self.sent[qos as usize]
    }

    /// When the next repeat is due.
    pub fn next_repeat(&self) -> Option<Instant> {
        self.in_flight.iter().map(|outgoing| outgoing.repeat_at).min()
    }

    /// A new message.
    pub fn send(&mut self, qos: QoS, now: Instant, outputs: &mut Outputs<'_>) {
        let sequence = self.sent[qos as usize];
        self.sent[qos as usize] += 1;
        let outgoing = Outgoing { id: self.next_id, qos, sequence, released: false, repeat_at: now + REPEAT };
        self.next_id = self.next_id.next();
        outputs.ledger.note(self.entry(Fact::Tried, Direction::Up, qos, sequence));
        count(&outputs.progress.up.tried);
        count(&outputs.progress.up_in_flight);
        self.write(&outgoing, false, outputs);
        self.in_flight.push_back(outgoing);
    }

    /// The server knows the session: sends everything unanswered again, as after any cut, and REC for every received
    /// id, since a server that has forgotten the id would never send REL.
    pub fn resume(&mut self, now: Instant, outputs: &mut Outputs<'_>) {
        self.received.iter().for_each(|id| push(Packet::Rec { id: *id, body: b"" }, outputs.out));
        self.in_flight.iter_mut().for_each(|outgoing| outgoing.repeat_at = now + REPEAT);
        self.in_flight.iter().for_each(|outgoing| self.write(outgoing, true, outputs));
    }

    /// The server does not know the session, so ids mean nothing any more: sends what is unanswered with new ids.
    pub fn start_afresh(&mut self, now: Instant, outputs: &mut Outputs<'_>) {
        self.received.clear();
        let released = self.in_flight.iter().filter(|outgoing| outgoing.released).count() as u64;
        outputs.progress.up_in_flight.fetch_sub(released, Ordering::Relaxed);
        self.in_flight.retain(|outgoing| !outgoing.released);
        for position in 0..self.in_flight.len() {
            self.in_flight[position].id = self.next_id;
            self.in_flight[position].repeat_at = now + REPEAT;
            self.next_id = self.next_id.next();
            self.write(&self.in_flight[position], false, outputs);
        }
    }

    pub fn repeat_due(&mut self, now: Instant, outputs: &mut Outputs<'_>) {
        for position in 0..self.in_flight.len() {
            if self.in_flight[position].repeat_at <= now {
                self.in_flight[position].repeat_at = now + REPEAT;
                self.write(&self.in_flight[position], true, outputs);
            }
        }
    }

    pub fn on_packet(&mut self, packet: Packet<'_>, now: Instant, outputs: &mut Outputs<'_>) {
        match packet {
            Packet::Send { qos, id, body, .. } => self.on_message(qos, id, body, outputs),
            Packet::Ack { id, body } => self.on_answer(QoS::AtLeastOnce, id, body, now, outputs),
            Packet::Rec { id, body } => self.on_answer(QoS::ExactlyOnce, id, body, now, outputs),
            Packet::Rel { id, .. } => {
                self.received.remove(&id);
                push(Packet::Com { id }, outputs.out);
            }
            Packet::Com { id } => {
                let done = |outgoing: &Outgoing| outgoing.id == id && outgoing.released;
                if let Some(position) = self.in_flight.iter().position(done) {
                    self.finish(position, outputs);
                }
            }
        }
    }

    fn on_message(&mut self, qos: QoS, id: Option<MessageId>, body: &[u8], outputs: &mut Outputs<'_>) {
        match (qos, id) {
            (QoS::AtLeastOnce, Some(id)) => {
                self.deliver(qos, body, outputs);
                push(Packet::Ack { id, body: b"" }, outputs.out);
            }
            (QoS::ExactlyOnce, Some(id)) => {
                if self.received.insert(id) {
                    self.deliver(qos, body, outputs);
                }
                push(Packet::Rec { id, body: b"" }, outputs.out);
            }
            // The audit sends nothing at QoS 0.
            _ => outputs.ledger.note(self.entry(Fact::Corrupted, Direction::Down, qos, 0)),
        }
    }

    fn deliver(&self, qos: QoS, body: &[u8], outputs: &mut Outputs<'_>) {
        let mine = Stream { direction: Direction::Down, qos, session: self.number };
        let entry = match Payload::read(body) {
            Ok(Payload { run, stream, sequence }) if run == self.run && stream == mine => {
                outputs.progress.delivered_down(self.number, qos, sequence);
                self.entry(Fact::Delivered, Direction::Down, qos, sequence)
            }
            // Another session's message: a delivery that no sender asked for.
            Ok(_) => self.entry(Fact::Delivered, Direction::Down, qos, u64::MAX),
            Err(_) => self.entry(Fact::Corrupted, Direction::Down, qos, 0),
        };
        outputs.ledger.note(entry);
    }

    /// ACK or REC, with the backend's answer.
    fn on_answer(&mut self, qos: QoS, id: MessageId, body: &[u8], now: Instant, outputs: &mut Outputs<'_>) {
        let is_answered = |outgoing: &Outgoing| outgoing.id == id && outgoing.qos == qos;
        let Some(position) = self.in_flight.iter().position(is_answered) else {
            // The server still has an id of ours and waits for its REL.
            if qos == QoS::ExactlyOnce {
                push(Packet::Rel { id, dup: true }, outputs.out);
            }
            return;
        };
        let outgoing = &mut self.in_flight[position];
        let sequence = outgoing.sequence;
        let dup = std::mem::replace(&mut outgoing.released, true);
        outgoing.repeat_at = now + REPEAT;
        if body != answer_to(sequence).as_bytes() {
            outputs.ledger.note(self.entry(Fact::Corrupted, Direction::Up, qos, sequence));
        }
        if !dup {
            outputs.ledger.note(self.entry(Fact::Acknowledged, Direction::Up, qos, sequence));
            count(&outputs.progress.up.acknowledged);
        }
        match qos {
            QoS::ExactlyOnce => push(Packet::Rel { id, dup }, outputs.out),
            _ => self.finish(position, outputs),
        }
    }

    fn finish(&mut self, position: usize, outputs: &mut Outputs<'_>) {
        self.in_flight.remove(position);
        outputs.progress.up_in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    fn write(&self, outgoing: &Outgoing, dup: bool, outputs: &mut Outputs<'_>) {
        let &Outgoing { id, qos, sequence, released, .. } = outgoing;
        if released {
            return push(Packet::Rel { id, dup }, outputs.out);
        }
        let mut body = Vec::new();
        let stream = Stream { direction: Direction::Up, qos, session: self.number };
        Payload { run: self.run, stream, sequence }.write_into(&mut body);
        push(Packet::Send { dup, qos, message_type: UP_TYPE, id: Some(id), body: &body }, outputs.out);
    }

    fn entry(&self, fact: Fact, direction: Direction, qos: QoS, sequence: u64) -> Entry {
        Entry { fact, stream: Stream { direction, qos, session: self.number }, sequence, key: 0 }
    }
}

fn push(packet: Packet<'_>, out: &mut Vec<u8>) {
    let mut payload = Vec::with_capacity(packet.encoded_len());
    packet.encode_into(&mut payload);
    ClientFrame { fin: true, opcode: Opcode::Binary, key: MASK, payload: &payload }.write_into(out);
}

/// A message that is unanswered for so long is repeated on the same connection.
const REPEAT: Duration = Duration::from_secs(3);
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

#[cfg(test)]
mod tests;
