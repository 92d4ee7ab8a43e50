//! Echo: what a client sends comes back, byte for byte.

use std::os::fd::RawFd;

use super::turn::{Floor, send};

pub struct Echo;

impl Floor for Echo {
    fn on_bytes(&mut self, fd: RawFd, bytes: &[u8]) {
        send(fd, bytes);
    }
}
