//! HTTP echo: a POST's body comes back. What forwarding costs beyond the echo, were the server the backend's side.

use std::io::Write;
use std::os::fd::RawFd;

use super::turn::{Floor, send};

pub struct HttpEcho;

impl Floor for HttpEcho {
    fn on_post(&mut self, fd: RawFd, _head: &[u8], body: &[u8]) {
        let mut answer = Vec::with_capacity(64 + body.len());
        write!(answer, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).expect("a Vec takes it");
        answer.extend_from_slice(body);
        send(fd, &answer);
    }
}
