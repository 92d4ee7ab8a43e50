//! Send to one: an HTTP request in, a frame out to the client that it names, an HTTP answer back.

use std::os::fd::RawFd;

use super::turn::{Floor, SENT, frame, number_after, send};

/// Clients by the number in their channel's name (`u17`).
#[derive(Default)]
pub struct SendOne(Vec<RawFd>);

impl Floor for SendOne {
    fn on_upgrade(&mut self, fd: RawFd, request: &[u8]) {
        let number = number_after(request, b"chan=u");
        self.0.resize(self.0.len().max(number + 1), -1);
        self.0[number] = fd;
    }

    fn on_post(&mut self, fd: RawFd, head: &[u8], body: &[u8]) {
        send(self.0[number_after(head, b"channel=u")], &frame(body));
        send(fd, SENT);
    }
}
