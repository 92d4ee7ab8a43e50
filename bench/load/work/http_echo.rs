//! HTTP requests whose bodies come back: what the HTTP half of forwarding costs, against its floor.

use hdrhistogram::Histogram;

use crate::api;
use crate::round::{Losses, Work, latency_histogram};
use crate::swarm::{Play, Swarm};
use crate::sys::now_ns;
use crate::ws::Payload;

pub struct HttpEcho {
    body: Vec<u8>,
    going: bool,
    started: u64,
    done: u64,
    latency: Histogram<u64>,
}

impl HttpEcho {
    pub fn new(size: usize) -> HttpEcho {
        let body = vec![b'.'; size.max(Payload::LEN)];
        HttpEcho { body, going: false, started: 0, done: 0, latency: latency_histogram() }
    }

    fn issue(&mut self, swarm: &mut Swarm) {
        while self.going && swarm.api_is_free() {
            Payload { stream: 0, seq: self.started, intended_ns: now_ns() }.write(&mut self.body);
            swarm.call(|out| {
                let head = format!(
                    "POST /message/1/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n\r\n",
                    self.body.len()
                );
                out.extend_from_slice(head.as_bytes());
                out.extend_from_slice(&self.body);
            });
            self.started += 1;
        }
    }
}

impl Play for HttpEcho {
    fn on_message(&mut self, _swarm: &mut Swarm, _who: u32, _opcode: u8, _payload: &[u8]) {}

    fn on_answer(&mut self, swarm: &mut Swarm, _api: u32, answer: api::Answer<'_>) {
        match Payload::read(answer.body).filter(|_| answer.body.len() == self.body.len()) {
            Some(payload) => {
                self.latency.saturating_record(swarm.read_at_ns.saturating_sub(payload.intended_ns));
            }
            None => swarm.faults.add("an answer that is not the request's body".into()),
        }
        self.done += 1;
        self.issue(swarm);
    }
}

impl Work for HttpEcho {
    fn start(&mut self, swarm: &mut Swarm) {
        self.going = true;
        self.issue(swarm);
    }

    fn stop(&mut self) {
        self.going = false;
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
        Losses { lost: self.started - self.done, repeats: 0 }
    }
}
