//! A WebSocket client of the tests' own: it can say what no honest client says, and sees every frame.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::TIMEOUT;
use super::http::{Response, Wire, percent};
use super::packet::{Command, Packet};

/// A client that is let in.
pub struct Client {
    pub wire: Wire,
    /// Whether pings that pass by are answered; a test that starves the server of pongs says no.
    pub answers_pings: bool,
    /// The answer to the upgrade.
    pub response: Response,
}

/// One frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub fin: bool,
    pub opcode: u8,
    pub payload: Vec<u8>,
}

/// Why there is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// The stream ended, by FIN or by reset.
    Ended,
    TimedOut,
}

/// What a reader of whole messages sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Packet(Packet),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(u16, String),
}

/// An upgrade request, to be changed before it is sent.
#[derive(Clone)]
pub struct Upgrade {
    pub path: String,
    pub query: Vec<(String, String)>,
    pub headers: Vec<(String, String)>,
}

impl Upgrade {
    /// As the 2014 clients do it: device and platform as headers.
    pub fn of(device: &str) -> Upgrade {
        Upgrade::bare().header("X-DEVICEID", device).header("X-CLIENT-OS", "test")
    }

    /// Without device and platform.
    pub fn bare() -> Upgrade {
        let headers = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", KEY),
        ];
        let headers = headers.map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec();
        Upgrade { path: "/connect/".into(), query: Vec::new(), headers }
    }

    pub fn header(mut self, name: &str, value: &str) -> Upgrade {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn without(mut self, name: &str) -> Upgrade {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self
    }

    pub fn query(mut self, name: &str, value: &str) -> Upgrade {
        self.query.push((name.into(), value.into()));
        self
    }

    pub fn path(mut self, path: &str) -> Upgrade {
        self.path = path.into();
        self
    }

    /// The request's bytes.
    pub fn head(&self, host: &str) -> String {
        let query: Vec<_> = self.query.iter().map(|(k, v)| format!("{}={}", percent(k), percent(v))).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        let mut head = format!("GET {}{mark}{} HTTP/1.1\r\nHost: {host}\r\n", self.path, query.join("&"));
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head + "\r\n"
    }

    /// The client, or the refusal.
    pub fn try_open(&self, to: SocketAddr) -> Result<Client, Response> {
        self.try_open_on(Wire::connect(to))
    }

    /// The upgrade is sent, and its answer not waited for.
    pub fn begin(&self, to: SocketAddr) -> Wire {
        let mut wire = Wire::connect(to);
        wire.write(self.head(&to.to_string()).as_bytes());
        wire
    }

    pub fn try_open_on(&self, mut wire: Wire) -> Result<Client, Response> {
        let host = wire.stream.peer_addr().map(|a| a.to_string()).unwrap_or_default();
        wire.write(self.head(&host).as_bytes());
        let response = wire.response(Instant::now() + TIMEOUT).unwrap_or_else(|e| panic!("no answer to upgrade: {e}"));
        if response.status == 101 { Ok(Client { wire, answers_pings: true, response }) } else { Err(response) }
    }

    /// `None`: nobody is there, or it is not let in.
    pub fn open_if_there(&self, to: SocketAddr) -> Option<Client> {
        let mut wire = Wire::new(TcpStream::connect_timeout(&to, TIMEOUT).ok()?);
        wire.stream.write_all(self.head("x").as_bytes()).ok()?;
        Client::begun(wire, TIMEOUT)
    }

    pub fn open(&self, to: SocketAddr) -> Client {
        self.try_open(to).unwrap_or_else(|r| panic!("not let in: {} {:?}", r.status, r.text()))
    }

    /// The refusal; fails the test when the client is let in.
    pub fn refused(&self, to: SocketAddr) -> Response {
        match self.try_open(to) {
            Ok(_) => panic!("let in: {}", self.head("")),
            Err(response) => response,
        }
    }
}

impl Client {
    /// What has become of an upgrade that was begun; `None` when it was not accepted within that time.
    pub fn begun(mut wire: Wire, within: Duration) -> Option<Client> {
        let response = wire.response(Instant::now() + within).ok()?;
        (response.status == 101).then(|| Client { wire, answers_pings: true, response })
    }

    pub fn open(to: SocketAddr, device: &str) -> Client {
        Upgrade::of(device).open(to)
    }

    // Out.

    /// Bytes as they are; a server that has closed already is no failure of the test.
    pub fn raw(&mut self, bytes: &[u8]) {
        let _ = self.wire.stream.write_all(bytes);
    }

    pub fn frame(&mut self, fin: bool, opcode: u8, payload: &[u8]) {
        self.raw(&frame_bytes(fin, opcode, payload));
    }

    pub fn packet(&mut self, packet: &Packet) {
        self.frame(true, BINARY, &packet.bytes());
    }

    /// A SEND; `id` is not used at QoS 0.
    pub fn send(&mut self, qos: u8, kind: u16, id: u16, body: impl AsRef<[u8]>) {
        self.packet(&Packet::send(qos, kind, id, body));
    }

    pub fn answer(&mut self, command: Command, id: u16, body: impl AsRef<[u8]>) {
        self.packet(&Packet::answer(command, id, body));
    }

    pub fn close(&mut self, code: u16, reason: &str) {
        self.frame(true, CLOSE, &[&code.to_be_bytes(), reason.as_bytes()].concat());
    }

    /// As a client that is done does it: the close handshake, then the end of the stream.
    pub fn leave(mut self) {
        self.close(1000, "");
        assert!(self.wire.ends_before(Instant::now() + TIMEOUT), "still open after the close handshake");
    }

    /// The cable is cut: a reset, no close frame. The kernel resets a connection that is closed with something unread.
    pub fn cut(mut self) {
        self.frame(true, PING, b"unread");
        let mut unread = [0];
        assert!(self.wire.stream.peek(&mut unread).is_ok_and(|n| n > 0), "no pong to leave unread");
    }

    /// The end of the stream without a close frame.
    pub fn hang_up(&mut self) {
        let _ = self.wire.stream.shutdown(Shutdown::Write);
    }

    // In.

    /// The next frame of any kind.
    pub fn next_frame(&mut self, timeout: Duration) -> Result<Frame, Gone> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some((frame, size)) = parse_frame(&self.wire.buffer) {
                self.wire.buffer.drain(..size);
                return Ok(frame);
            }
            match self.wire.fill(deadline) {
                Ok(0) => return Err(Gone::Ended),
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::TimedOut => return Err(Gone::TimedOut),
                Err(_) => return Err(Gone::Ended),
            }
        }
    }

    /// The next message, fragments joined, pings answered on the way (and still returned).
    pub fn next_within(&mut self, timeout: Duration) -> Result<Message, Gone> {
        let deadline = Instant::now() + timeout;
        let mut whole = Vec::new();
        loop {
            let frame = self.next_frame(deadline.saturating_duration_since(Instant::now()))?;
            match frame.opcode {
                CONTINUATION | TEXT | BINARY => {
                    whole.extend(frame.payload);
                    if frame.fin {
                        return Ok(Message::Packet(Packet::parse(&whole)));
                    }
                }
                PING => {
                    if self.answers_pings {
                        self.frame(true, PONG, &frame.payload);
                    }
                    return Ok(Message::Ping(frame.payload));
                }
                PONG => return Ok(Message::Pong(frame.payload)),
                CLOSE => {
                    let code = frame.payload.first_chunk().map_or(NO_CODE, |code| u16::from_be_bytes(*code));
                    let reason = String::from_utf8_lossy(frame.payload.get(2..).unwrap_or_default()).into_owned();
                    return Ok(Message::Close(code, reason));
                }
                other => panic!("the server sent opcode {other}"),
            }
        }
    }

    pub fn next(&mut self) -> Message {
        self.next_within(TIMEOUT).unwrap_or_else(|gone| panic!("expected a message, but {gone:?}"))
    }

    /// The next packet; pings and pongs may pass by.
    pub fn next_packet(&mut self) -> Packet {
        self.packet_within(TIMEOUT).unwrap_or_else(|| panic!("no packet in {TIMEOUT:?}"))
    }

    /// None when the time is over; fails the test when the connection ends.
    pub fn packet_within(&mut self, timeout: Duration) -> Option<Packet> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.next_within(deadline.saturating_duration_since(Instant::now())) {
                Ok(Message::Packet(packet)) => return Some(packet),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(Message::Close(code, reason)) => panic!("expected a packet, got close {code} {reason:?}"),
                Err(Gone::TimedOut) => return None,
                Err(Gone::Ended) => panic!("expected a packet, but the connection ended"),
            }
        }
    }

    /// The next packet, which must be this answer to that id.
    pub fn expect(&mut self, command: Command, id: u16) -> Packet {
        let packet = self.next_packet();
        assert_eq!((packet.command, packet.id), (command, id), "{packet:?}");
        packet
    }

    /// The next packet, which must be a SEND.
    pub fn expect_send(&mut self) -> Packet {
        let packet = self.next_packet();
        assert_eq!(packet.command, Command::Send, "{packet:?}");
        packet
    }

    /// The close frame of the server, which must come; packets may pass by. Then the server must end the stream.
    pub fn expect_close(&mut self) -> (u16, String) {
        let deadline = Instant::now() + TIMEOUT;
        let closed = loop {
            match self.next_within(deadline.saturating_duration_since(Instant::now())) {
                Ok(Message::Close(code, reason)) => break (code, reason),
                Ok(_) => {}
                Err(gone) => panic!("expected a close frame, but {gone:?}"),
            }
        };
        // RFC 6455 5.5.1: a close is answered with a close, then the server ends the stream.
        let code = if closed.0 == NO_CODE { Vec::new() } else { closed.0.to_be_bytes().to_vec() };
        self.frame(true, CLOSE, &code);
        assert!(self.wire.ends_before(deadline), "the stream is still open after the close handshake");
        closed
    }

    /// The connection ends, in whatever way.
    pub fn expect_end(&mut self) {
        assert!(self.wire.ends_before(Instant::now() + TIMEOUT), "still connected");
    }

    /// Proves that the connection lives and that what was sent before has been read: a ping that comes back.
    pub fn assert_open(&mut self) {
        let token = b"still there?";
        self.frame(true, PING, token);
        let deadline = Instant::now() + TIMEOUT;
        loop {
            match self.next_within(deadline.saturating_duration_since(Instant::now())) {
                Ok(Message::Pong(payload)) if payload == token => return,
                Ok(Message::Close(code, reason)) => panic!("closed with {code} {reason:?}"),
                Ok(Message::Packet(packet)) => panic!("unexpected {packet:?}"),
                Ok(_) => {}
                Err(gone) => panic!("no pong: {gone:?}"),
            }
        }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.wire.stream
    }
}

/// A masked frame with the shortest length that fits.
pub fn frame_bytes(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![u8::from(fin) << 7 | opcode];
    match payload.len() {
        len @ 0..=125 => out.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend((len as u16).to_be_bytes());
        }
        len => {
            out.push(0x80 | 127);
            out.extend((len as u64).to_be_bytes());
        }
    }
    out.extend(MASK);
    out.extend(masked(payload));
    out
}

/// `payload` under the mask that all frames of the tests carry.
pub fn masked(payload: &[u8]) -> Vec<u8> {
    payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
}

/// One frame of a server, checked against RFC 6455 5.2: no mask, no reserved bits, shortest length.
pub fn parse_frame(bytes: &[u8]) -> Option<(Frame, usize)> {
    let (&[first, second], _) = bytes.split_first_chunk()?;
    assert_eq!(first & 0x70, 0, "the server set reserved bits");
    assert_eq!(second & 0x80, 0, "the server masked a frame");
    let (len, head) = match second & 0x7f {
        126 => {
            let len = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize;
            assert!(len > 125, "the server sent a length of {len} in two bytes");
            (len, 4)
        }
        127 => {
            let len = u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize;
            assert!(len > 0xffff, "the server sent a length of {len} in eight bytes");
            (len, 10)
        }
        len => (len as usize, 2),
    };
    let payload = bytes.get(head..head + len)?.to_vec();
    let frame = Frame { fin: first & 0x80 != 0, opcode: first & 0x0f, payload };
    assert!(frame.opcode < 8 || (frame.fin && len <= 125), "the server sent a bad control frame {frame:?}");
    Some((frame, head + len))
}

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// Stands for a close frame without a code (RFC 6455 7.1.5).
pub const NO_CODE: u16 = 1005;

/// The key of RFC 6455 1.3, whose answer the RFC names.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
