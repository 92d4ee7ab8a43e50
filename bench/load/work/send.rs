//! One message to one client: /send/ to a channel of its own. An operation is a call, delivered and answered.

use hdrhistogram::Histogram;

use super::{Pace, Pacer};
use crate::api;
use crate::round::{Losses, Work, latency_histogram};
use crate::swarm::{Play, Swarm};
use crate::ws::{Payload, Tally};

/// The channel that client `who` alone is in.
pub fn channel(who: u32) -> String {
    format!("u{who}")
}

pub struct Send {
    qos: u8,
    pacer: Pacer,
    clients: u32,
    body: Vec<u8>,
    /// Operations started; they go to the clients in turn.
    started: u64,
    done: u64,
    /// Per API connection: what its call still waits for.
    slots: Vec<Slot>,
    tallies: Vec<Tally>,
    latency: Histogram<u64>,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    delivered: bool,
    answered: bool,
}

impl Send {
    pub fn new(clients: u32, qos: u8, pace: Pace, size: usize) -> Send {
        Send {
            qos,
            pacer: Pacer::new(pace),
            clients,
            body: vec![b'.'; size.max(Payload::LEN)],
            started: 0,
            done: 0,
            slots: Vec::new(),
            tallies: vec![Tally::default(); clients as usize],
            latency: latency_histogram(),
        }
    }

    pub fn calls(&self) -> usize {
        self.pacer.calls()
    }

    fn issue(&mut self, swarm: &mut Swarm) {
        while let Some(slot) = swarm.next_api() {
            // A connection is free once answered, but its operation may still wait for the delivery.
            if self.slots.get(slot as usize).is_some_and(|slot| slot.answered && !slot.delivered) {
                return;
            }
            let Some(intended_ns) = self.pacer.take((self.started - self.done) as usize) else { return };
            let who = (self.started % u64::from(self.clients)) as u32;
            let seq = self.started / u64::from(self.clients);
            Payload { stream: u64::from(slot), seq, intended_ns }.write(&mut self.body);
            let call = api::Send { channel: &channel(who), qos: self.qos, timeout_s: 10, body: &self.body };
            let dialect = swarm.dialect();
            swarm.call(|out| dialect.publish(&call, self.started, out));
            self.slots.resize(self.slots.len().max(slot as usize + 1), Slot::default());
            self.slots[slot as usize] = Slot::default();
            self.started += 1;
        }
    }

    fn settle(&mut self, swarm: &mut Swarm, slot: usize) {
        let Slot { delivered, answered } = self.slots[slot];
        if delivered && answered {
            self.done += 1;
            self.issue(swarm);
        }
    }

    fn deliver(&mut self, swarm: &mut Swarm, who: u32, body: &[u8]) {
        let Some(payload) = Payload::read(body) else { return swarm.faults.add("a short body".into()) };
        if !self.tallies[who as usize].see(payload.seq) {
            return;
        }
        let slot = payload.stream as usize;
        match self.slots.get_mut(slot) {
            Some(state) if !state.delivered => state.delivered = true,
            _ => return swarm.faults.add(format!("a message of no call came to client {who}")),
        }
        self.latency.saturating_record(swarm.read_at_ns.saturating_sub(payload.intended_ns));
        self.settle(swarm, slot);
    }
}

impl Play for Send {
    fn on_message(&mut self, swarm: &mut Swarm, who: u32, _opcode: u8, payload: &[u8]) {
        match swarm.dialect().receive(payload, &mut swarm.out) {
            Ok(Some(body)) => self.deliver(swarm, who, body),
            Ok(None) => {}
            Err(what) => swarm.faults.add(what),
        }
    }

    fn on_answer(&mut self, swarm: &mut Swarm, api: u32, answer: api::Answer<'_>) {
        if let Err(what) = swarm.dialect().check(&answer, (self.qos > 0).then_some(1)) {
            swarm.faults.add(what);
        }
        self.slots[api as usize].answered = true;
        self.settle(swarm, api as usize);
    }

    fn on_turn(&mut self, swarm: &mut Swarm, _now_ns: u64) -> Option<u64> {
        self.issue(swarm);
        self.pacer.wake_at().filter(|_| swarm.api_is_free())
    }
}

impl Work for Send {
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
        for (who, tally) in self.tallies.iter_mut().enumerate() {
            let clients = u64::from(self.clients);
            tally.finish((self.started + clients - 1 - who as u64) / clients);
            losses.lost += u64::from(tally.lost);
            losses.repeats += u64::from(tally.repeats);
        }
        losses
    }
}
