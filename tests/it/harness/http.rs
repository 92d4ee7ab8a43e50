//! HTTP/1.1 as the tests speak it: one request on one connection, bytes as given, answers read with a deadline.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::TIMEOUT;

/// An answer, its header names as they came.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; fails the test when it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("no JSON ({e}) in {} {:?}", self.status, self.text()))
    }

    /// The answer's own `status`: 0 done, 1 refused.
    pub fn outcome(&self) -> i64 {
        let json = self.json();
        json["status"].as_i64().unwrap_or_else(|| panic!("no status in {json}"))
    }

    /// Refused in one of the two ways that are allowed: `{"status":1,"msg":…}`, or a 4xx.
    pub fn is_refusal(&self) -> bool {
        (400..500).contains(&self.status)
            || (self.status == 200
                && serde_json::from_slice::<serde_json::Value>(&self.body)
                    .is_ok_and(|json| json["status"] == 1 && json["msg"].is_string()))
    }
}

/// A stream with what has been read and not yet taken.
pub struct Wire {
    pub stream: TcpStream,
    pub buffer: Vec<u8>,
    /// The last byte of a request, seen but left in the kernel.
    pub spared: Option<u8>,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Wire {
        let _ = stream.set_nodelay(true);
        stream.set_write_timeout(Some(TIMEOUT)).expect("not zero");
        Wire { stream, buffer: Vec::new(), spared: None }
    }

    pub fn connect(to: SocketAddr) -> Wire {
        let stream = TcpStream::connect_timeout(&to, TIMEOUT).unwrap_or_else(|e| panic!("connect {to}: {e}"));
        Wire::new(stream)
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the peer still reads");
    }

    /// Reads once. `Ok(0)` is the end of the stream; `TimedOut` when the deadline passes first.
    pub fn fill(&mut self, deadline: Instant) -> io::Result<usize> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(n) => {
                self.buffer.extend_from_slice(&chunk[..n]);
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::TimedOut.into()),
            Err(e) => Err(e),
        }
    }

    /// Reads once, but leaves the last byte of a whole request in the kernel: a connection that is dropped with
    /// something unread is reset, which is how a backend that crashes looks. `whole` tells a request's length.
    pub fn fill_sparing(&mut self, whole: impl Fn(&[u8]) -> Option<usize>) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        let mut chunk = [0; 16 * 1024];
        let seen = self.stream.peek(&mut chunk)?;
        self.buffer.extend_from_slice(&chunk[..seen]);
        if let Some(len) = whole(&self.buffer) {
            assert!(self.buffer.len() <= len, "pipelined requests, or a body longer than its length");
            if self.buffer.len() == len {
                self.spared = self.buffer.pop();
            }
        }
        self.stream.read_exact(&mut chunk[..seen - usize::from(self.spared.is_some())])?;
        Ok(seen)
    }

    /// Reads the byte that `fill_sparing` left.
    pub fn take_spared(&mut self) -> io::Result<()> {
        if self.spared.take().is_some() {
            self.stream.read_exact(&mut [0])?;
        }
        Ok(())
    }

    /// One whole answer: chunked, by length, or until the end of the stream; 1xx has no body.
    pub fn response(&mut self, deadline: Instant) -> io::Result<Response> {
        let head_len = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            self.need(deadline)?;
        };
        let head = String::from_utf8_lossy(&self.buffer[..head_len]).into_owned();
        self.buffer.drain(..head_len);
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let status = first.split(' ').nth(1).and_then(|s| s.parse().ok());
        let status = status.ok_or_else(|| invalid(format!("status line {first:?}")))?;
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
            .collect();
        let mut response = Response { status, headers, body: Vec::new() };
        if status < 200 || status == 204 || status == 304 {
            return Ok(response);
        }
        response.body = if response.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            self.chunked(deadline)?
        } else if let Some(length) = response.header("content-length") {
            let length = length.parse().map_err(|_| invalid(format!("content-length {length:?}")))?;
            self.exactly(length, deadline)?
        } else {
            while self.fill(deadline)? > 0 {}
            std::mem::take(&mut self.buffer)
        };
        Ok(response)
    }

    /// Whether the peer closes (or resets) before the deadline; what it still sends is thrown away.
    pub fn ends_before(&mut self, deadline: Instant) -> bool {
        loop {
            match self.fill(deadline) {
                Ok(0) => return true,
                Ok(_) => self.buffer.clear(),
                Err(e) => return e.kind() != io::ErrorKind::TimedOut,
            }
        }
    }

    pub fn exactly(&mut self, count: usize, deadline: Instant) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            self.need(deadline)?;
        }
        Ok(self.buffer.drain(..count).collect())
    }

    fn chunked(&mut self, deadline: Instant) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                if let Some(at) = find(&self.buffer, b"\r\n") {
                    break self.buffer.drain(..at + 2).collect::<Vec<u8>>();
                }
                self.need(deadline)?;
            };
            let text = String::from_utf8_lossy(&line);
            let size = usize::from_str_radix(text.trim().split(';').next().unwrap_or_default(), 16)
                .map_err(|_| invalid(format!("chunk size {text:?}")))?;
            body.extend(self.exactly(size, deadline)?);
            self.exactly(2, deadline)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn need(&mut self, deadline: Instant) -> io::Result<()> {
        match self.fill(deadline)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// One request with the headers given (Host, Connection and Content-Length are added) and its answer.
pub fn request(to: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    request_within(to, method, target, headers, body, TIMEOUT)
}

pub fn request_within(
    to: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    timeout: Duration,
) -> Response {
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n");
    if method != "GET" || !body.is_empty() {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    let mut wire = Wire::connect(to);
    // A server that refuses by the head alone may close before it has read the body: then its answer is what counts.
    let _ = wire.stream.write_all(&[head.as_bytes(), body].concat());
    wire.response(Instant::now() + timeout).unwrap_or_else(|e| panic!("{method} {target}: {e}"))
}

pub fn get(to: SocketAddr, target: &str) -> Response {
    request(to, "GET", target, &[], b"")
}

/// `text` so that it can stand in a query.
pub fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => (byte as char).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// The inverse of [`percent`]; `+` is a space.
pub fn unpercent(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digits = [bytes.next().unwrap_or(b'0'), bytes.next().unwrap_or(b'0')];
                let digits = std::str::from_utf8(&digits).unwrap_or("00");
                out.push(u8::from_str_radix(digits, 16).unwrap_or(b'?'));
            }
            b'+' => out.push(b' '),
            other => out.push(other),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
