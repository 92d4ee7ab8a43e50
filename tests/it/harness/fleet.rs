//! Many clients on one thread: a thousand that talk, fifteen thousand that sit.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use super::client::{self, Upgrade};
use super::packet::Packet;
use super::sys;

/// Connected clients, served by `turn`.
pub struct Fleet {
    pub members: Vec<Member>,
}

/// One client of a fleet.
pub struct Member {
    pub number: usize,
    /// How the connection ended, if it did.
    pub ended: Option<String>,
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Fleet {
    /// Opens `count` clients named `fleet-<number>`, a few at a time.
    pub fn open(port: u16, count: usize) -> Fleet {
        let opened = std::thread::scope(|scope| {
            let openers: Vec<_> =
                (0..OPENERS).map(|first| scope.spawn(move || open_every(port, first, count))).collect();
            openers.into_iter().flat_map(|o| o.join().expect("every client is let in")).collect::<Vec<_>>()
        });
        let mut members = opened;
        members.sort_by_key(|member| member.number);
        Fleet { members }
    }

    /// Waits for something to read, for at most `patience`, and hands every packet that came to `handle`.
    pub fn turn(&mut self, patience: Duration, mut handle: impl FnMut(&mut Member, Packet)) {
        let fds: Vec<_> =
            self.members.iter().map(|m| if m.ended.is_some() { -1 } else { m.stream.as_raw_fd() }).collect();
        let ready = sys::readable(&fds, patience);
        for (member, _) in self.members.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            for packet in member.read() {
                handle(member, packet);
            }
        }
    }

    pub fn ended(&self) -> Vec<String> {
        self.members.iter().filter_map(|m| m.ended.as_ref().map(|how| format!("{}: {how}", m.number))).collect()
    }
}

impl Member {
    pub fn send(&mut self, packet: &Packet) {
        self.write(&client::frame_bytes(true, client::BINARY, &packet.bytes()));
    }

    fn write(&mut self, bytes: &[u8]) {
        // A few small messages always fit into the socket's buffer; if not, the server has stopped reading.
        if let Err(error) = self.stream.write_all(bytes) {
            self.ended.get_or_insert(format!("write: {error}"));
        }
    }

    fn read(&mut self) -> Vec<Packet> {
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    self.ended.get_or_insert("end of stream".into());
                    break;
                }
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => {
                    self.ended.get_or_insert(format!("read: {e}"));
                    break;
                }
            }
        }
        let mut packets = Vec::new();
        while let Some((frame, size)) = client::parse_frame(&self.buffer) {
            self.buffer.drain(..size);
            match frame.opcode {
                client::BINARY => packets.push(Packet::parse(&frame.payload)),
                client::PING => self.write(&client::frame_bytes(true, client::PONG, &frame.payload)),
                client::CLOSE => self.ended = Some(format!("close frame {:?}", frame.payload)),
                _ => {}
            }
        }
        packets
    }
}

/// Opens every `OPENERS`-th client, beginning with `first`. The loopback addresses take turns, so that ports never run out.
fn open_every(port: u16, first: usize, count: usize) -> Vec<Member> {
    let member = |number: usize| {
        let address = Ipv4Addr::new(127, 0, 0, 1 + (number / 8192) as u8);
        let client = Upgrade::of(&format!("fleet-{number}")).open(SocketAddr::from((address, port)));
        let stream = client.wire.stream;
        stream.set_nonblocking(true).expect("a socket can be made non-blocking");
        Member { number, ended: None, stream, buffer: client.wire.buffer }
    };
    (first..count).step_by(OPENERS).map(member).collect()
}

const OPENERS: usize = 8;
