//! Connect, upgrade, close, again. An operation is one of these whole; closing is ours (FIN).

use hdrhistogram::Histogram;

use crate::round::{Losses, Work, latency_histogram};
use crate::swarm::{Play, Swarm};
use crate::sys::now_ns;

pub struct Storm {
    going: bool,
    /// Per client slot: when it began to connect; `None` while it rests.
    began_ns: Vec<Option<u64>>,
    started: u64,
    done: u64,
    latency: Histogram<u64>,
}

impl Storm {
    /// `slots` handshakes at any time; the swarm must have as many clients, and may have them open.
    pub fn new(slots: usize) -> Storm {
        Storm { going: false, began_ns: vec![None; slots], started: 0, done: 0, latency: latency_histogram() }
    }

    fn begin(&mut self, swarm: &mut Swarm, who: u32) {
        self.began_ns[who as usize] = Some(now_ns());
        self.started += 1;
        if let Err(error) = swarm.reconnect(who) {
            swarm.faults.add(format!("connect: {error}"));
        }
    }
}

impl Play for Storm {
    fn on_open(&mut self, swarm: &mut Swarm, who: u32) {
        // Not ours: a client of the time before the first round.
        let Some(began_ns) = self.began_ns[who as usize].take() else { return };
        self.latency.saturating_record(swarm.read_at_ns.saturating_sub(began_ns));
        self.done += 1;
        swarm.close(who);
        if self.going {
            self.begin(swarm, who);
        }
    }

    fn on_message(&mut self, swarm: &mut Swarm, who: u32, _opcode: u8, _payload: &[u8]) {
        swarm.faults.add(format!("client {who} got a message"));
    }
}

impl Work for Storm {
    fn start(&mut self, swarm: &mut Swarm) {
        self.going = true;
        (0..self.began_ns.len() as u32).for_each(|who| self.begin(swarm, who));
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
