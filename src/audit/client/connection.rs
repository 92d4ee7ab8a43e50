//! One WebSocket connection of the audit, on a blocking socket with time limits.
//!
//! It reads frames with code of its own, so that a fault of the server's framing does not meet the same fault here, and
//! it can end at any byte, in the middle of a frame as well. Called by `client`.

use crate::wire::packet::{Packet, QoS};
use serde::Deserialize;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::ops::Range;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// Read and not used yet, from `used` on.
    buffer: Vec<u8>,
    used: usize,
}

/// The first message of the server to a client with a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Greeting {
    pub session: Option<String>,
    pub resumed: bool,
    pub waiting: u64,
}

/// A frame as it came; the payload lies in the connection's buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Binary(Range<usize>),
    Ping(Range<usize>),
    Close(u16),
    Other,
}

impl Connection {
    /// Connects and upgrades. With `greets` the first packet must be the session's greeting, which is returned.
    /// `attempt` goes to the business server, in the query.
    pub fn open(to: SocketAddr, device: &str, attempt: u64, greets: bool) -> io::Result<(Connection, Greeting)> {
        let stream = TcpStream::connect_timeout(&to, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let mut connection = Connection { stream, buffer: Vec::new(), used: 0 };
        let protocol = if greets { "Sec-WebSocket-Protocol: rainbow.2\r\n" } else { "" };
        let head = format!(
            "GET /connect/?X-DEVICEID={device}&X-CLIENT-OS=audit&attempt={attempt} HTTP/1.1\r\nHost: {to}\r\n\
             Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {KEY}\r\n{protocol}\r\n"
        );
        connection.write(head.as_bytes())?;
        let deadline = Instant::now() + UPGRADE_TIMEOUT;
        let end = loop {
            match memchr::memmem::find(&connection.buffer, b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => connection.read_before(deadline)?,
            }
        };
        let answer = String::from_utf8_lossy(&connection.buffer[..end]).to_ascii_lowercase();
        connection.used = end;
        if !answer.starts_with("http/1.1 101") || !answer.contains(&ACCEPT.to_ascii_lowercase()) {
            return Err(wrong(format!("upgrade: {}", answer.lines().next().unwrap_or(""))));
        }
        if !greets {
            return Ok((connection, Greeting::default()));
        }
        if !answer.contains("sec-websocket-protocol: rainbow.2\r\n") {
            return Err(wrong("the server does not speak rainbow.2".into()));
        }
        let greeting = connection.greeting(deadline)?;
        Ok((connection, greeting))
    }

    fn greeting(&mut self, deadline: Instant) -> io::Result<Greeting> {
        loop {
            match self.next_frame()? {
                Some(Frame::Binary(range)) => {
                    let Ok(Packet::Send { qos: QoS::AtMostOnce, message_type: u16::MAX, body, .. }) =
                        Packet::decode(self.payload(&range))
                    else {
                        return Err(wrong("the first packet is no greeting".into()));
                    };
                    return serde_json::from_slice(body).map_err(|error| wrong(format!("greeting: {error}")));
                }
                Some(Frame::Close(code)) => return Err(wrong(format!("closed with {code} before the greeting"))),
                Some(_) => {}
                None => self.read_before(deadline)?,
            }
        }
    }

    pub fn payload(&self, range: &Range<usize>) -> &[u8] {
        &self.buffer[range.clone()]
    }

    /// The next frame that is whole, or `None`: read more.
    pub fn next_frame(&mut self) -> io::Result<Option<Frame>> {
        let rest = &self.buffer[self.used..];
        let [first, second, ..] = *rest else { return Ok(None) };
        if first & 0xF0 != 0x80 || second & 0x80 != 0 {
            return Err(wrong(format!("a fragment, a reserved bit or a mask: {first:#04x} {second:#04x}")));
        }
        let (head, len) = match (second, rest) {
            (126, [_, _, a, b, ..]) => (4, usize::from(u16::from_be_bytes([*a, *b]))),
            (127, [_, _, len @ ..]) if len.len() >= 8 => {
                (10, u64::from_be_bytes(*len.first_chunk().expect("eight bytes")) as usize)
            }
            (126 | 127, _) => return Ok(None),
            (len, _) => (2, usize::from(len)),
        };
        if len > FRAME_BYTES_MAX {
            return Err(wrong(format!("a frame of {len} bytes")));
        }
        if rest.len() < head + len {
            return Ok(None);
        }
        let range = self.used + head..self.used + head + len;
        self.used = range.end;
        Ok(Some(match first & 0x0F {
            2 => Frame::Binary(range),
            8 => Frame::Close(self.payload(&range).first_chunk().map_or(1005, |code| u16::from_be_bytes(*code))),
            9 => Frame::Ping(range),
            _ => Frame::Other,
        }))
    }

    /// Reads what comes within `timeout`; false when nothing came. The end of the stream is an error.
    pub fn read(&mut self, timeout: Duration) -> io::Result<bool> {
        self.buffer.drain(..std::mem::take(&mut self.used));
        self.stream.set_read_timeout(Some(timeout.max(Duration::from_millis(1))))?;
        let start = self.buffer.len();
        self.buffer.resize(start + READ_BYTES, 0);
        let outcome = self.stream.read(&mut self.buffer[start..]);
        self.buffer.truncate(start + *outcome.as_ref().unwrap_or(&0));
        match outcome {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn read_before(&mut self, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !self.read(left)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The server reads what was written and then the end of the stream; what it sends can still be read.
    pub fn end_writing(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// How many bytes were read and not used.
    pub fn unused(&self) -> usize {
        self.buffer.len() - self.used
    }

    /// The last `len` bytes have not arrived yet: for a connection that is cut in the middle of a read.
    pub fn forget_last(&mut self, len: usize) {
        self.buffer.truncate(self.buffer.len() - len);
    }

    /// Reads until the end; true when the server closed with that code.
    pub fn ends_with(mut self, code: u16, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            match self.next_frame() {
                Ok(Some(Frame::Close(found))) => return found == code,
                Ok(Some(_)) => {}
                Ok(None) if self.read_before(deadline).is_ok() => {}
                _ => return false,
            }
        }
    }
}

fn wrong(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(20);
/// The server stops reading for a while when a client has much waiting for the backend.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);
const READ_BYTES: usize = 32 * 1024;
const FRAME_BYTES_MAX: usize = 1 << 20;
