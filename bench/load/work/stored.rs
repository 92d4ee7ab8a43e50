//! One message to one durable session that is absent: the call is answered when the message is on disk. An operation is
//! a call, answered.

use hdrhistogram::Histogram;

use super::send::channel;
use super::{Pace, Pacer};
use crate::api;
use crate::round::{Losses, Work, latency_histogram};
use crate::swarm::{Play, Swarm};
use crate::sys::now_ns;
use crate::ws::Payload;

pub struct Stored {
    pacer: Pacer,
    sessions: u32,
    body: Vec<u8>,
    started: u64,
    done: u64,
    /// Per API connection, when its call was to begin.
    intended: Vec<u64>,
    latency: Histogram<u64>,
}

impl Stored {
    pub fn new(sessions: u32, pace: Pace, size: usize) -> Stored {
        Stored {
            pacer: Pacer::new(pace),
            sessions,
            body: vec![b'.'; size.max(Payload::LEN)],
            started: 0,
            done: 0,
            intended: Vec::new(),
            latency: latency_histogram(),
        }
    }

    pub fn calls(&self) -> usize {
        self.pacer.calls()
    }

    fn issue(&mut self, swarm: &mut Swarm) {
        while let Some(slot) = swarm.next_api() {
            let Some(intended_ns) = self.pacer.take((self.started - self.done) as usize) else { return };
            let who = (self.started % u64::from(self.sessions)) as u32;
            Payload { stream: u64::from(who), seq: self.started / u64::from(self.sessions), intended_ns }
                .write(&mut self.body);
            let call = api::Send { channel: &channel(who), qos: 1, timeout_s: 10, body: &self.body };
            swarm.call(|out| call.write(self.started, out));
            self.intended.resize(self.intended.len().max(slot as usize + 1), 0);
            self.intended[slot as usize] = intended_ns;
            self.started += 1;
        }
    }
}

impl Play for Stored {
    fn on_message(&mut self, swarm: &mut Swarm, who: u32, _opcode: u8, _payload: &[u8]) {
        swarm.faults.add(format!("client {who}, who has gone, got a message"));
    }

    fn on_answer(&mut self, swarm: &mut Swarm, api: u32, answer: api::Answer<'_>) {
        if answer.check(Some(0)).is_err() || answer.number("stored") != Some(1) {
            swarm.faults.add(format!("not stored: {}", String::from_utf8_lossy(answer.body)));
        }
        self.latency.saturating_record(now_ns().saturating_sub(self.intended[api as usize]));
        self.done += 1;
        self.issue(swarm);
    }

    fn on_turn(&mut self, swarm: &mut Swarm, _now_ns: u64) -> Option<u64> {
        self.issue(swarm);
        self.pacer.wake_at().filter(|_| swarm.api_is_free())
    }
}

impl Work for Stored {
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

    /// Whether they come is what `waiting` and the audit look at.
    fn finish(&mut self) -> Losses {
        Losses::default()
    }
}
