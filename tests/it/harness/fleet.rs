//! Many clients at once: a thousand that talk, fifteen thousand that sit.
//!
//! Those that talk have a reader thread each, with a small stack, which hands packets to the one thread that thinks.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::client::{self, Upgrade};
use super::packet::Packet;

/// What ends the threads of clients and callers, also when their test fails.
pub struct Ends<'a>(pub [&'a AtomicBool; 2]);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|end| end.store(true, Ordering::Relaxed));
    }
}

/// Connected clients that nobody reads for.
pub struct Sitting {
    streams: Vec<TcpStream>,
}

/// So many of them that the descriptors of one process are not enough.
pub struct Crowd {
    processes: Vec<std::process::Child>,
}

/// Connected clients, served by `turn`.
pub struct Talking {
    pub members: Vec<Member>,
    heard: Receiver<(usize, Heard)>,
    ended: Vec<String>,
}

/// One client that talks.
pub struct Member {
    pub number: usize,
    stream: TcpStream,
}

enum Heard {
    Packet(Packet),
    Ping(Vec<u8>),
    End(String),
}

impl Sitting {
    /// Opens `count` clients, a few at a time.
    pub fn open(port: u16, count: usize) -> Sitting {
        Sitting { streams: open(port, 0..count).into_iter().map(|(_, stream)| stream).collect() }
    }

    /// How many have ended, or have been sent something.
    pub fn disturbed(&self) -> usize {
        let disturbed = |stream: &&TcpStream| {
            stream.set_nonblocking(true).expect("a socket can be made non-blocking");
            !stream.peek(&mut [0]).is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)
        };
        self.streams.iter().filter(disturbed).count()
    }
}

impl Crowd {
    /// Has `count` clients opened, numbered from 0. They are not all there yet.
    pub fn open(port: u16, count: usize) -> Crowd {
        let one = |first: usize| {
            let members = format!("{port} {first} {}", count.min(first + CROWD_PER_PROCESS));
            let own = std::env::current_exe().expect("it is there");
            std::process::Command::new(own)
                .args(["--exact", "--ignored", "harness::fleet::a_part_of_a_crowd"])
                .env(CROWD_MEMBERS, members)
                .stdin(std::process::Stdio::piped())
                .spawn()
                .expect("it starts")
        };
        Crowd { processes: (0..count).step_by(CROWD_PER_PROCESS).map(one).collect() }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // The end of their input ends them, also when the test was killed.
        self.processes.iter_mut().for_each(|process| drop(process.stdin.take()));
        self.processes.iter_mut().for_each(|process| drop(process.wait()));
    }
}

#[test]
#[ignore = "a process of `Crowd`"]
fn a_part_of_a_crowd() {
    let members = std::env::var(CROWD_MEMBERS).expect("`Crowd` starts it");
    let numbers: Vec<usize> = members.split(' ').map(|word| word.parse().expect("a number")).collect();
    let [port, first, end] = numbers[..] else { panic!("{members}: three numbers") };
    let _sitting = open(port as u16, first..end);
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

impl Talking {
    /// Opens `count` clients, a few at a time, numbered from 0.
    pub fn open(port: u16, count: usize) -> Talking {
        let (reports, heard) = channel();
        let mut members: Vec<_> = open(port, 0..count)
            .into_iter()
            .map(|(number, stream)| {
                let reading = stream.try_clone().expect("a descriptor is left");
                let reports = reports.clone();
                let reader = std::thread::Builder::new().stack_size(READER_STACK);
                reader.spawn(move || read_all(number, reading, &reports)).expect("a thread is left");
                Member { number, stream }
            })
            .collect();
        members.sort_by_key(|member| member.number);
        Talking { members, heard, ended: Vec::new() }
    }

    /// Waits for packets for at most `timeout`; hands the first, and all others that are there, to `handle`.
    pub fn turn(&mut self, timeout: Duration, mut handle: impl FnMut(&mut Member, Packet)) {
        let deadline = Instant::now() + timeout;
        let mut next = self.heard.recv_timeout(timeout);
        while let Ok((number, heard)) = next {
            match heard {
                Heard::Packet(packet) => handle(&mut self.members[number], packet),
                Heard::Ping(payload) => self.members[number].write(&client::frame_bytes(true, client::PONG, &payload)),
                Heard::End(how) => self.ended.push(format!("{number}: {how}")),
            }
            if Instant::now() >= deadline {
                return;
            }
            next = self.heard.try_recv().map_err(|_| RecvTimeoutError::Timeout);
        }
    }

    /// Fails the test when somebody was disconnected.
    pub fn assert_all_open(&self) {
        assert_eq!(self.ended, Vec::<String>::new(), "disconnected");
    }
}

impl Member {
    pub fn send(&mut self, packet: &Packet) {
        self.write(&client::frame_bytes(true, client::BINARY, &packet.bytes()));
    }

    fn write(&mut self, bytes: &[u8]) {
        // A failure shows at the reader, too.
        let _ = self.stream.write_all(bytes);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

/// Reads one client to its end.
fn read_all(number: usize, mut stream: TcpStream, reports: &Sender<(usize, Heard)>) {
    let mut buffer = Vec::new();
    let mut chunk = [0; 4096];
    let how = loop {
        while let Some((frame, size)) = client::parse_frame(&buffer) {
            buffer.drain(..size);
            let heard = match frame.opcode {
                client::BINARY => Heard::Packet(Packet::parse(&frame.payload)),
                client::PING => Heard::Ping(frame.payload),
                client::CLOSE => Heard::End(format!("close frame {:?}", frame.payload)),
                _ => continue,
            };
            // The fleet is gone when nobody listens any more.
            let _ = reports.send((number, heard));
        }
        match stream.read(&mut chunk) {
            Ok(0) => break "end of stream".to_owned(),
            Ok(n) => buffer.extend_from_slice(&chunk[..n]),
            Err(e) => break e.to_string(),
        }
    };
    let _ = reports.send((number, Heard::End(how)));
}

/// Opens clients named `fleet-<number>` on a few threads. The server's loopback addresses take turns, so that ports never
/// run out.
fn open(port: u16, numbers: Range<usize>) -> Vec<(usize, TcpStream)> {
    let one = |number: usize| {
        let address = Ipv4Addr::new(127, 0, 0, 1 + (number / 8192) as u8);
        let client = Upgrade::of(&format!("fleet-{number}")).open(SocketAddr::from((address, port)));
        assert!(client.wire.buffer.is_empty(), "something was sent to a new client");
        client.wire.stream.set_read_timeout(None).expect("none is allowed");
        (number, client.wire.stream)
    };
    std::thread::scope(|scope| {
        let openers: Vec<_> = (0..OPENERS)
            .map(|nth| {
                let own = numbers.clone().skip(nth).step_by(OPENERS);
                scope.spawn(move || own.map(one).collect::<Vec<_>>())
            })
            .collect();
        openers.into_iter().flat_map(|opener| opener.join().expect("every client is let in")).collect()
    })
}

/// The port, the first client's number and the one behind the last's.
const CROWD_MEMBERS: &str = "RAINBOW_TEST_CROWD";
const CROWD_PER_PROCESS: usize = 15_000;
const OPENERS: usize = 8;
const READER_STACK: usize = 64 * 1024;
