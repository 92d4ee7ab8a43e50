//! The business server of the harness: a thread that answers Rainbow's hooks as fast as HTTP allows.
//!
//! connect: success, with the channels and the durable session that the client's query named (`chan=`, `session=`). message: the request's body back, each
//! (client, number) tallied so that a message handed on twice is seen. close: counted. Requests on one connection may be
//! pipelined; bodies must have a Content-Length.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;

use crate::api::content_length;
use crate::round::Outcome;
use crate::sys::{self, Epoll};
use crate::ws::{Payload, Tally, head_end};

/// What the backend got, counted; read while it runs.
#[derive(Default)]
pub struct HookCounts {
    pub connects: AtomicU64,
    pub messages: AtomicU64,
    pub closes: AtomicU64,
    /// Messages that came a second time.
    pub repeats: AtomicU64,
    /// Requests it did not understand.
    pub faults: AtomicU64,
    stop: AtomicBool,
}

pub struct Backend {
    pub port: u16,
    pub counts: Arc<HookCounts>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Backend {
    /// `first`: before all else on its core, where latency is what is measured. It costs the generator batches otherwise.
    pub fn start(first: bool) -> io::Result<Backend> {
        let listener = sys::listen(0)?;
        let port = sys::port_of(&listener)?;
        let counts = Arc::new(HookCounts::default());
        let shared = counts.clone();
        let run = move || {
            // Its own table, so that what it accepts is closed when it closes it, and counts against its own limit.
            sys::own_table(&[listener.as_raw_fd()])?;
            let _ = first && sys::be_first();
            Loop { epoll: Epoll::new()?, listener, conns: Vec::new(), free: Vec::new(), tallies: HashMap::new() }
                .run(&shared)
        };
        let thread = std::thread::Builder::new().name("backend".into()).spawn(run)?;
        Ok(Backend { port, counts, thread: Some(thread) })
    }
}

impl Backend {
    /// Adds to an outcome what only the backend can see.
    pub fn judge(&self, outcome: &mut Outcome) {
        outcome.losses.repeats += self.counts.repeats.load(Relaxed);
        let faults = self.counts.faults.load(Relaxed);
        if faults > 0 {
            outcome.faults.add(format!("the backend did not understand {faults} requests"));
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.counts.stop.store(true, Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Ok(()))) | None => {}
            Some(failed) => eprintln!("backend: {failed:?}"),
        }
    }
}

struct Conn {
    socket: OwnedFd,
    /// Bytes of a request whose rest has not come.
    rest: Vec<u8>,
}

struct Loop {
    epoll: Epoll,
    listener: OwnedFd,
    conns: Vec<Option<Conn>>,
    free: Vec<usize>,
    tallies: HashMap<u64, Tally>,
}

impl Loop {
    fn run(mut self, counts: &HookCounts) -> io::Result<()> {
        self.epoll.add(self.listener.as_raw_fd(), LISTENER)?;
        let (mut buffer, mut out) = (vec![0; 1 << 20], Vec::new());
        while !counts.stop.load(Relaxed) {
            for index in 0..self.epoll.wait(100_000_000)? {
                match self.epoll.event(index).tag {
                    LISTENER => self.accept()?,
                    tag => self.serve(tag as usize, counts, &mut buffer, &mut out),
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let socket = match sys::accept(&self.listener) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                other => other?,
            };
            let slot = self.free.pop().unwrap_or_else(|| {
                self.conns.push(None);
                self.conns.len() - 1
            });
            self.epoll.add(socket.as_raw_fd(), slot as u64)?;
            self.conns[slot] = Some(Conn { socket, rest: Vec::new() });
        }
    }

    /// Reads once, answers every whole request in one write.
    fn serve(&mut self, slot: usize, counts: &HookCounts, buffer: &mut [u8], out: &mut Vec<u8>) {
        let Some(conn) = &mut self.conns[slot] else { return };
        let earlier = conn.rest.len();
        buffer[..earlier].copy_from_slice(&conn.rest);
        conn.rest.clear();
        let bytes = match sys::recv(conn.socket.as_raw_fd(), &mut buffer[earlier..]) {
            Ok(count) if count > 0 => &buffer[..earlier + count],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return conn.rest.extend_from_slice(&buffer[..earlier]);
            }
            _ => {
                self.conns[slot] = None;
                return self.free.push(slot);
            }
        };
        out.clear();
        let mut at = 0;
        while let Some(length) = answer(&bytes[at..], counts, &mut self.tallies, out) {
            at += length;
        }
        conn.rest.extend_from_slice(&bytes[at..]);
        if !out.is_empty() && sys::send(conn.socket.as_raw_fd(), out).ok() != Some(out.len()) {
            counts.faults.fetch_add(1, Relaxed);
        }
    }
}

/// Appends the answer to the request at the start of `bytes` and returns the request's length; `None` while it is not whole.
fn answer(bytes: &[u8], counts: &HookCounts, tallies: &mut HashMap<u64, Tally>, out: &mut Vec<u8>) -> Option<usize> {
    let end = head_end(bytes)?;
    let length = end + content_length(&bytes[..end]).unwrap_or(0);
    let body = bytes.get(end..length)?;
    let target = bytes.split(|&byte| byte == b' ').nth(1).unwrap_or(b"");
    if target.starts_with(b"/message/") {
        counts.messages.fetch_add(1, Relaxed);
        match Payload::read(body) {
            Some(payload) if tallies.entry(payload.stream).or_default().see(payload.seq) => {}
            Some(_) => drop(counts.repeats.fetch_add(1, Relaxed)),
            None => drop(counts.faults.fetch_add(1, Relaxed)),
        }
        put_answer(out, &[], body);
    } else if target.starts_with(b"/connect/") {
        counts.connects.fetch_add(1, Relaxed);
        let headers =
            [("RAINBOWCLIENTCHANNEL", query(target, b"chan=")), ("RAINBOWCLIENTSESSION", query(target, b"session="))];
        put_answer(out, &headers, br#"{"status":"success"}"#);
    } else if target.starts_with(b"/close/") {
        counts.closes.fetch_add(1, Relaxed);
        put_answer(out, &[], b"{}");
    } else {
        counts.faults.fetch_add(1, Relaxed);
        put_answer(out, &[], b"{}");
    }
    Some(length)
}

/// Headers without a value are left out.
fn put_answer(out: &mut Vec<u8>, headers: &[(&str, Vec<u8>)], body: &[u8]) {
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n");
    for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
    out.extend_from_slice(body);
}

/// The value of `name` (with its `=`) in a request target, percent-decoded.
fn query(target: &[u8], name: &[u8]) -> Vec<u8> {
    let Some(at) = memchr::memmem::find(target, name) else { return Vec::new() };
    let mut raw = target[at + name.len()..].split(|&byte| byte == b'&').next().unwrap_or(b"");
    let mut value = Vec::with_capacity(raw.len());
    while let [first, rest @ ..] = raw {
        let digits = rest.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match digits.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => (value.push(byte), raw = &rest[2..]).1,
            None => (value.push(*first), raw = rest).1,
        }
    }
    value
}

const LISTENER: u64 = u64::MAX;

/// Run by `cargo test --benches`.
pub fn self_test() {
    let (counts, mut tallies, mut out) = (HookCounts::default(), HashMap::new(), Vec::new());
    let mut body = [0; 24];
    Payload { stream: 3, seq: 0, intended_ns: 5 }.write(&mut body);
    let mut request = b"POST /message/1/?nonce=1 HTTP/1.1\r\nContent-Length: 24\r\n\r\n".to_vec();
    request.extend_from_slice(&body);
    for cut in 0..request.len() {
        assert_eq!(answer(&request[..cut], &counts, &mut tallies, &mut out), None);
    }
    for _ in 0..2 {
        assert_eq!(answer(&request, &counts, &mut tallies, &mut out), Some(request.len()));
    }
    assert!(out.ends_with(&body));
    assert_eq!((counts.messages.load(Relaxed), counts.repeats.load(Relaxed)), (2, 1));
    out.clear();
    answer(b"GET /connect/?chan=room%3b;u7&nonce=1 HTTP/1.1\r\n\r\n", &counts, &mut tallies, &mut out);
    assert!(memchr::memmem::find(&out, b"RAINBOWCLIENTCHANNEL: room;;u7\r\n").is_some());
}
