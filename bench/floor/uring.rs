//! Fan-out by io_uring: one SEND entry per delivery, submitted a ring at a time. It shows that the ring alone saves
//! little on loopback; reading stays with epoll, one read per message sent to thousands.

use std::io;
use std::os::fd::RawFd;

use io_uring::{IoUring, opcode, types};

use super::turn::{Floor, SENT, frame, send};

pub struct Fanout {
    ring: IoUring,
    clients: Vec<RawFd>,
}

impl Fanout {
    pub fn new() -> io::Result<Fanout> {
        let ring = IoUring::builder().setup_single_issuer().setup_coop_taskrun().build(ENTRIES)?;
        Ok(Fanout { ring, clients: Vec::new() })
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
        let frame = frame(body);
        for clients in self.clients.chunks(ENTRIES as usize) {
            for &client in clients {
                let entry = opcode::Send::new(types::Fd(client), frame.as_ptr(), frame.len() as u32)
                    .flags(libc::MSG_NOSIGNAL)
                    .build();
                // SAFETY: `frame` lives until every completion of this chunk has been taken, below.
                unsafe { self.ring.submission().push(&entry) }.expect("a chunk fits the ring");
            }
            self.ring.submit_and_wait(clients.len()).expect("submit");
            for done in self.ring.completion() {
                let gone = [-libc::EPIPE, -libc::ECONNRESET].contains(&done.result());
                assert!(gone || done.result() as usize == frame.len(), "send: {}", done.result());
            }
        }
        send(fd, SENT);
    }
}

const ENTRIES: u32 = 1024;
