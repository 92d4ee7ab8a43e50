//! Fan-out: every POST's body to every client, by one send() per client and batch of at most `batch` messages. With a
//! batch of 1 it is the floor of the table; with 8 it shows what writing many frames at once is worth.

use std::os::fd::RawFd;

use super::turn::{Floor, SENT, frame, send};

pub struct Fanout {
    batch: usize,
    clients: Vec<RawFd>,
    /// Frames of this turn, concatenated, and who is to be answered for them.
    frames: Vec<u8>,
    callers: Vec<RawFd>,
}

impl Fanout {
    pub fn new(batch: usize) -> Fanout {
        Fanout { batch, clients: Vec::new(), frames: Vec::new(), callers: Vec::new() }
    }
}

impl Floor for Fanout {
    fn on_upgrade(&mut self, fd: RawFd, _request: &[u8]) {
        self.clients.push(fd);
    }

    fn on_close(&mut self, fd: RawFd) {
        self.clients.retain(|&client| client != fd);
    }

    fn on_post(&mut self, fd: RawFd, _head: &[u8], body: &[u8]) {
        self.frames.extend_from_slice(&frame(body));
        self.callers.push(fd);
        if self.callers.len() == self.batch {
            self.on_turn_end();
        }
    }

    fn on_turn_end(&mut self) {
        if !self.callers.is_empty() {
            self.clients.iter().for_each(|&client| send(client, &self.frames));
            self.callers.drain(..).for_each(|caller| send(caller, SENT));
            self.frames.clear();
        }
    }
}
