//! A client's message to the business server and its answer. An operation is a message, answered with its own body.
//!
//! The same against the echo floor, which sends back the frame as it came.

use hdrhistogram::Histogram;

use super::{Pace, Pacer};
use crate::round::{Losses, Work, latency_histogram};
use crate::swarm::{Play, Swarm};
use crate::ws::{self, Packet, Payload, Tally};

pub struct Uplink {
    qos: u8,
    pacer: Pacer,
    body: Vec<u8>,
    /// Added to a client's index, so that streams of several targets stay apart in one backend.
    first: u32,
    clients: Vec<Sender>,
    /// Whose turn it is in an open pace; messages go round.
    next: usize,
    /// Clients without a message under way, in a closed pace.
    free: Vec<u32>,
    started: u64,
    done: u64,
    latency: Histogram<u64>,
}

#[derive(Clone, Copy, Default)]
struct Sender {
    sent: u64,
    answers: Tally,
}

impl Uplink {
    pub fn new(clients: u32, qos: u8, pace: Pace, size: usize, first: u32) -> Uplink {
        Uplink {
            qos,
            pacer: Pacer::new(pace),
            body: vec![b'.'; size.max(Payload::LEN)],
            first,
            clients: vec![Sender::default(); clients as usize],
            next: 0,
            free: (0..clients).collect(),
            started: 0,
            done: 0,
            latency: latency_histogram(),
        }
    }

    fn issue(&mut self, swarm: &mut Swarm) {
        loop {
            let who = match self.pacer.wake_at() {
                Some(_) => (self.next % self.clients.len()) as u32,
                None if self.free.is_empty() => return,
                None => self.free[self.free.len() - 1],
            };
            let Some(intended_ns) = self.pacer.take((self.started - self.done) as usize) else { return };
            self.free.pop();
            self.next += 1;
            let sender = &mut self.clients[who as usize];
            let stream = u64::from(self.first + who);
            Payload { stream, seq: sender.sent, intended_ns }.write(&mut self.body);
            // Ids 1–65,534 in turn: one comes again long after its message has been answered.
            let id = (sender.sent % 65_534 + 1) as u16;
            sender.sent += 1;
            self.started += 1;
            let mut frame = Vec::with_capacity(self.body.len() + 16);
            ws::put_send(&mut frame, self.qos, 1, id, &self.body);
            swarm.send_to(who, &frame);
        }
    }

    fn take_answer(&mut self, swarm: &mut Swarm, who: u32, body: &[u8]) {
        let Some(payload) = Payload::read(body) else {
            return swarm.faults.add(format!("client {who} got an answer of {} bytes", body.len()));
        };
        if payload.stream != u64::from(self.first + who) || body.len() != self.body.len() {
            return swarm.faults.add(format!("client {who} got the answer to another's message"));
        }
        if self.clients[who as usize].answers.see(payload.seq) {
            self.latency.saturating_record(swarm.read_at_ns.saturating_sub(payload.intended_ns));
        }
    }

    fn complete(&mut self, swarm: &mut Swarm, who: u32) {
        self.done += 1;
        if self.pacer.wake_at().is_none() {
            self.free.push(who);
        }
        self.issue(swarm);
    }
}

impl Play for Uplink {
    fn on_message(&mut self, swarm: &mut Swarm, who: u32, _opcode: u8, payload: &[u8]) {
        let packet = match Packet::parse(payload) {
            Ok(packet) => packet,
            Err(what) => return swarm.faults.add(what),
        };
        match packet.command {
            // The echo floor's answer.
            ws::SEND | ws::ACK => {
                self.take_answer(swarm, who, packet.body);
                self.complete(swarm, who);
            }
            ws::REC => {
                self.take_answer(swarm, who, packet.body);
                ws::put_answer(&mut swarm.out, ws::REL, packet.id);
            }
            ws::COM => self.complete(swarm, who),
            command => swarm.faults.add(format!("command {command} to a client")),
        }
    }

    fn on_turn(&mut self, swarm: &mut Swarm, _now_ns: u64) -> Option<u64> {
        self.issue(swarm);
        self.pacer.wake_at()
    }
}

impl Work for Uplink {
    fn start(&mut self, swarm: &mut Swarm) {
        self.pacer.start();
        self.issue(swarm);
    }

    fn stop(&mut self) {
        self.pacer.stop();
    }

    fn is_idle(&self, _swarm: &Swarm) -> bool {
        self.started == self.done
    }

    fn done(&self) -> u64 {
        self.done
    }

    fn take_latency(&mut self) -> Histogram<u64> {
        std::mem::replace(&mut self.latency, latency_histogram())
    }

    fn finish(&mut self) -> Losses {
        let mut losses = Losses::default();
        for sender in &mut self.clients {
            sender.answers.finish(sender.sent);
            losses.lost += u64::from(sender.answers.lost);
            losses.repeats += u64::from(sender.answers.repeats);
        }
        losses
    }
}
