//! A chat: rooms of 50, one client in twenty speaks. What it says goes to the business server by uplink (QoS 1) and comes
//! back to its room by /send/ (QoS 1). An operation is a delivery; its latency counts from the speaker's intended time.
//!
//! With churn, clients reconnect meanwhile. Who was in the room before the call and still is when it is answered must have
//! the message; who came or went in between may.

use std::collections::{HashMap, VecDeque};

use hdrhistogram::Histogram;

use super::{Pace, Pacer};
use crate::api;
use crate::round::{Losses, Work, latency_histogram};
use crate::swarm::{Play, Swarm};
use crate::sys::now_ns;
use crate::ws::{self, Packet, Payload, Tally};

pub const ROOM_SIZE: u32 = 50;
const SPEAKER_OF: u32 = 20;
/// Connections for calls; a message waits when all are busy.
pub const CALLS: usize = 64;

/// The channel of client `who`'s room.
pub fn channel(who: u32) -> String {
    format!("r{}", who / ROOM_SIZE)
}

pub struct Chat {
    pacer: Pacer,
    body: Vec<u8>,
    members: Vec<Member>,
    /// Per room: the number of its next message.
    rooms: Vec<u64>,
    /// Speakers without a message of theirs under way to the business server.
    quiet: VecDeque<u32>,
    /// Rooms and intended times of messages that wait for a connection to call on.
    to_call: VecDeque<(u32, u64)>,
    /// Per API connection: the message that it called with.
    called: HashMap<u32, (u32, u64)>,
    started: u64,
    ended: u64,
    delivered: u64,
    losses: Losses,
    churn: Option<Churn>,
    pub uplink_latency: Histogram<u64>,
    latency: Histogram<u64>,
}

#[derive(Clone, Copy, Default)]
struct Member {
    /// Messages below this number may come to it, but need not.
    joined_at: u64,
    here: bool,
    speaking: bool,
    sent: u64,
    heard: Tally,
    answers: Tally,
}

struct Churn {
    period_ns: f64,
    next_ns: f64,
    next: u32,
}

impl Chat {
    /// `churn_per_second`: how many clients reconnect each second.
    pub fn new(clients: u32, pace: Pace, size: usize, churn_per_second: f64) -> Chat {
        let rooms = clients.div_ceil(ROOM_SIZE) as usize;
        let churn = Churn { period_ns: 1e9 / churn_per_second, next_ns: 0.0, next: 0 };
        Chat {
            pacer: Pacer::new(pace),
            body: vec![b'.'; size.max(Payload::LEN)],
            members: vec![Member::default(); clients as usize],
            rooms: vec![0; rooms],
            quiet: (0..clients).step_by(SPEAKER_OF as usize).collect(),
            to_call: VecDeque::new(),
            called: HashMap::new(),
            started: 0,
            ended: 0,
            delivered: 0,
            losses: Losses::default(),
            churn: (churn_per_second > 0.0).then_some(churn),
            uplink_latency: latency_histogram(),
            latency: latency_histogram(),
        }
    }

    fn speak(&mut self, swarm: &mut Swarm) {
        while let Some(&who) = self.quiet.front() {
            let Some(intended_ns) = self.pacer.take((self.started - self.ended) as usize) else { return };
            self.quiet.pop_front();
            self.started += 1;
            let member = &mut self.members[who as usize];
            Payload { stream: u64::from(who), seq: member.sent, intended_ns }.write(&mut self.body);
            let id = (member.sent % 65_534 + 1) as u16;
            member.sent += 1;
            member.speaking = true;
            let mut frame = Vec::with_capacity(self.body.len() + 16);
            ws::put_send(&mut frame, 1, 7, id, &self.body);
            swarm.send_to(who, &frame);
        }
    }

    /// The business server has the message; it tells the room.
    fn take_answer(&mut self, swarm: &mut Swarm, who: u32, body: &[u8]) {
        let member = &mut self.members[who as usize];
        let Some(payload) = Payload::read(body).filter(|payload| payload.stream == u64::from(who)) else {
            return swarm.faults.add(format!("client {who} got an answer that is not its own"));
        };
        if !member.answers.see(payload.seq) {
            return;
        }
        self.uplink_latency.saturating_record(swarm.read_at_ns.saturating_sub(payload.intended_ns));
        member.speaking = false;
        self.quiet.push_back(who);
        self.to_call.push_back((who / ROOM_SIZE, payload.intended_ns));
        self.call(swarm);
        self.speak(swarm);
    }

    fn call(&mut self, swarm: &mut Swarm) {
        while swarm.api_is_free()
            && let Some((room, intended_ns)) = self.to_call.pop_front()
        {
            let seq = self.rooms[room as usize];
            self.rooms[room as usize] += 1;
            Payload { stream: u64::from(room), seq, intended_ns }.write(&mut self.body);
            let name = channel(room * ROOM_SIZE);
            let call = api::Send { channel: &name, qos: 1, timeout_s: 10, body: &self.body };
            let api = swarm.call(|out| call.write(seq, out)).expect("one is free");
            self.called.insert(api, (room, seq));
        }
    }

    fn hear(&mut self, swarm: &mut Swarm, who: u32, body: &[u8]) {
        let member = &mut self.members[who as usize];
        let Some(payload) = Payload::read(body).filter(|payload| payload.stream == u64::from(who / ROOM_SIZE)) else {
            return swarm.faults.add(format!("client {who} got a message of another room"));
        };
        if payload.seq < member.joined_at || member.heard.see(payload.seq) {
            self.delivered += 1;
            self.latency.saturating_record(swarm.read_at_ns.saturating_sub(payload.intended_ns));
        }
    }

    /// Message `seq` of `room` has been answered: who stayed must have it.
    fn check(&mut self, room: u32, seq: u64) {
        let first = (room * ROOM_SIZE) as usize;
        let end = (first + ROOM_SIZE as usize).min(self.members.len());
        let stayed = self.members[first..end].iter().filter(|member| member.here && member.joined_at <= seq);
        self.losses.lost += stayed.filter(|member| !member.heard.has(seq)).count() as u64;
    }

    fn reconnect_one(&mut self, swarm: &mut Swarm, now_ns: u64) {
        let Some(churn) = &mut self.churn else { return };
        while churn.next_ns <= now_ns as f64 {
            churn.next_ns += churn.period_ns;
            // A step that is prime to the number of clients visits all, and neighbours far apart in time.
            churn.next = (churn.next + 7) % self.members.len() as u32;
            let who = churn.next;
            let member = &mut self.members[who as usize];
            if !member.here || member.speaking || who.is_multiple_of(SPEAKER_OF) {
                continue;
            }
            member.here = false;
            self.losses.repeats += u64::from(member.heard.repeats);
            if let Err(error) = swarm.reconnect(who) {
                swarm.faults.add(format!("connect: {error}"));
            }
        }
    }
}

impl Play for Chat {
    fn on_open(&mut self, _swarm: &mut Swarm, who: u32) {
        let member = &mut self.members[who as usize];
        member.here = true;
        member.joined_at = self.rooms[(who / ROOM_SIZE) as usize];
        member.heard = Tally::starting_at(member.joined_at);
    }

    fn on_message(&mut self, swarm: &mut Swarm, who: u32, _opcode: u8, payload: &[u8]) {
        match Packet::parse(payload) {
            Ok(Packet { command: ws::SEND, id, body, .. }) => {
                ws::put_answer(&mut swarm.out, ws::ACK, id);
                self.hear(swarm, who, body);
            }
            Ok(Packet { command: ws::ACK, body, .. }) => self.take_answer(swarm, who, body),
            Ok(packet) => swarm.faults.add(format!("command {} to a client", packet.command)),
            Err(what) => swarm.faults.add(what),
        }
    }

    fn on_answer(&mut self, swarm: &mut Swarm, api: u32, answer: api::Answer<'_>) {
        let (room, seq) = self.called.remove(&api).expect("it was called");
        let all = u64::from(ROOM_SIZE).min(self.members.len() as u64 - u64::from(room * ROOM_SIZE));
        if let Err(what) = answer.check(self.churn.is_none().then_some(all)) {
            swarm.faults.add(what);
        }
        self.check(room, seq);
        self.ended += 1;
        self.call(swarm);
        self.speak(swarm);
    }

    fn on_turn(&mut self, swarm: &mut Swarm, now_ns: u64) -> Option<u64> {
        self.reconnect_one(swarm, now_ns);
        self.speak(swarm);
        let churn_at = self.churn.as_ref().map(|churn| churn.next_ns as u64);
        self.pacer.wake_at().filter(|_| !self.quiet.is_empty()).into_iter().chain(churn_at).min()
    }
}

impl Work for Chat {
    fn start(&mut self, swarm: &mut Swarm) {
        self.pacer.start();
        if let Some(churn) = &mut self.churn {
            churn.next_ns = now_ns() as f64;
        }
        self.speak(swarm);
    }

    fn stop(&mut self) {
        self.pacer.stop();
        if let Some(churn) = &mut self.churn {
            churn.next_ns = f64::INFINITY;
        }
    }

    fn is_idle(&self, _swarm: &Swarm) -> bool {
        self.started == self.ended && self.members.iter().all(|member| member.here)
    }

    fn done(&self) -> u64 {
        self.delivered
    }

    fn take_latency(&mut self) -> Histogram<u64> {
        std::mem::replace(&mut self.latency, latency_histogram())
    }

    fn finish(&mut self) -> Losses {
        for member in &mut self.members {
            member.answers.finish(member.sent);
            self.losses.lost += u64::from(member.answers.lost);
            self.losses.repeats += u64::from(member.answers.repeats + member.heard.repeats);
        }
        self.losses
    }
}
