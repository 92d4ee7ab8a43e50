//! One message to every client: /send/ to a channel that all are in. An operation is a delivery.

use std::collections::VecDeque;

use hdrhistogram::Histogram;

use super::{Pace, Pacer};
use crate::api;
use crate::round::{Losses, Work, latency_histogram};
use crate::swarm::{Play, Swarm};
use crate::ws::{Payload, Tally};

/// The channel of all clients.
pub const ROOM: &str = "room";

pub struct Fanout {
    qos: u8,
    pacer: Pacer,
    /// Clients that get every message; they come first in the swarm.
    readers: u32,
    body: Vec<u8>,
    /// The oldest message under way is number `base`.
    base: u64,
    pending: VecDeque<Pending>,
    under_way: usize,
    /// The message that each API connection called with.
    called: Vec<u64>,
    tallies: Vec<Tally>,
    delivered: u64,
    latency: Histogram<u64>,
}

struct Pending {
    missing: u32,
    answered: bool,
}

impl Fanout {
    pub fn new(readers: u32, qos: u8, pace: Pace, size: usize) -> Fanout {
        Fanout {
            qos,
            pacer: Pacer::new(pace),
            readers,
            body: vec![b'.'; size.max(Payload::LEN)],
            base: 0,
            pending: VecDeque::new(),
            under_way: 0,
            called: Vec::new(),
            tallies: vec![Tally::default(); readers as usize],
            delivered: 0,
            latency: latency_histogram(),
        }
    }

    /// The API connections it needs.
    pub fn calls(&self) -> usize {
        self.pacer.calls()
    }

    fn issue(&mut self, swarm: &mut Swarm) {
        while swarm.api_is_free() {
            let Some(intended_ns) = self.pacer.take(self.under_way) else { return };
            let seq = self.base + self.pending.len() as u64;
            Payload { stream: 0, seq, intended_ns }.write(&mut self.body);
            let call = api::Send { channel: ROOM, qos: self.qos, timeout_s: 10, body: &self.body };
            let dialect = swarm.dialect();
            let index = swarm.call(|out| dialect.publish(&call, seq, out)).expect("one is free") as usize;
            self.called.resize(self.called.len().max(index + 1), 0);
            self.called[index] = seq;
            self.pending.push_back(Pending { missing: self.readers, answered: false });
            self.under_way += 1;
        }
    }

    /// Looks whether message `seq` is complete, and starts the next if so.
    fn settle(&mut self, swarm: &mut Swarm, seq: u64) {
        let pending = &self.pending[(seq - self.base) as usize];
        if pending.missing > 0 || !pending.answered {
            return;
        }
        self.under_way -= 1;
        while self.pending.front().is_some_and(|front| front.missing == 0 && front.answered) {
            self.pending.pop_front();
            self.base += 1;
        }
        self.issue(swarm);
    }

    fn deliver(&mut self, swarm: &mut Swarm, who: u32, body: &[u8]) {
        let Some(payload) = Payload::read(body) else { return swarm.faults.add("a short body".into()) };
        if who >= self.readers {
            return;
        }
        if !self.tallies[who as usize].see(payload.seq) {
            return;
        }
        let Some(pending) = payload.seq.checked_sub(self.base).and_then(|at| self.pending.get_mut(at as usize)) else {
            return swarm.faults.add(format!("message {} was not sent", payload.seq));
        };
        pending.missing -= 1;
        self.delivered += 1;
        self.latency.saturating_record(swarm.read_at_ns.saturating_sub(payload.intended_ns));
        if pending.missing == 0 {
            self.settle(swarm, payload.seq);
        }
    }
}

impl Play for Fanout {
    fn on_message(&mut self, swarm: &mut Swarm, who: u32, _opcode: u8, payload: &[u8]) {
        match swarm.dialect().receive(payload, &mut swarm.out) {
            Ok(Some(body)) => self.deliver(swarm, who, body),
            Ok(None) => {}
            Err(what) => swarm.faults.add(what),
        }
    }

    fn on_answer(&mut self, swarm: &mut Swarm, api: u32, answer: api::Answer<'_>) {
        let expected = (self.qos > 0).then_some(u64::from(self.readers));
        if let Err(what) = swarm.dialect().check(&answer, expected) {
            swarm.faults.add(what);
        }
        let seq = self.called[api as usize];
        self.pending[(seq - self.base) as usize].answered = true;
        self.settle(swarm, seq);
        // An open pace may have waited for a free connection.
        self.issue(swarm);
    }

    fn on_closed(&mut self, swarm: &mut Swarm, who: u32, code: Option<u16>) {
        if who < self.readers {
            swarm.faults.add(format!("client {who} was disconnected (close code {code:?})"));
        }
    }

    fn on_turn(&mut self, swarm: &mut Swarm, _now_ns: u64) -> Option<u64> {
        self.issue(swarm);
        self.pacer.wake_at().filter(|_| swarm.api_is_free())
    }
}

impl Work for Fanout {
    fn start(&mut self, swarm: &mut Swarm) {
        self.pacer.start();
        self.issue(swarm);
    }

    fn stop(&mut self) {
        self.pacer.stop();
    }

    fn is_idle(&self, _swarm: &Swarm) -> bool {
        self.under_way == 0
    }

    fn done(&self) -> u64 {
        self.delivered
    }

    fn take_latency(&mut self) -> Histogram<u64> {
        std::mem::replace(&mut self.latency, latency_histogram())
    }

    fn finish(&mut self) -> Losses {
        let sent = self.base + self.pending.len() as u64;
        let mut losses = Losses::default();
        for tally in &mut self.tallies {
            tally.finish(sent);
            losses.lost += u64::from(tally.lost);
            losses.repeats += u64::from(tally.repeats);
        }
        losses
    }
}
