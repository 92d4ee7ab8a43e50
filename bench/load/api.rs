//! The business server's calls: a signed `/send/` as bytes, and the answer read back (PROTOCOL.md, section 5).

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use sha1::{Digest, Sha1};

use crate::ws::head_end;

/// The token that the harness writes into the server's config.
pub const TOKEN: &str = "bench-token";

/// A call of `/send/`.
pub struct Send<'a> {
    pub channel: &'a str,
    pub qos: u8,
    pub timeout_s: u32,
    pub body: &'a [u8],
}

impl Send<'_> {
    /// Appends the request. `nonce` makes the signature another one for each call, as a real caller does.
    pub fn write(&self, nonce: u64, out: &mut Vec<u8>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let (timestamp, nonce) = (now.to_string(), nonce.to_string());
        let signature = sign(&timestamp, &nonce);
        let Send { channel, qos, timeout_s, body } = self;
        write!(
            out,
            "POST /send/?channel={channel}&msgtype=1&qos={qos}&timeout={timeout_s}&timestamp={timestamp}\
             &nonce={nonce}&signature={signature} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .expect("a Vec takes it");
        out.extend_from_slice(body);
    }
}

/// The 2014 signature: SHA-1 over token, timestamp and nonce, sorted as strings.
pub fn sign(timestamp: &str, nonce: &str) -> String {
    let mut parts = [TOKEN, timestamp, nonce];
    parts.sort_unstable();
    let mut hash = Sha1::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().iter().fold(String::with_capacity(40), |mut hex, byte| {
        for digit in [byte >> 4, byte & 15] {
            hex.push(char::from_digit(digit.into(), 16).expect("a digit"));
        }
        hex
    })
}

/// An HTTP answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    pub status: u16,
    pub body: &'a [u8],
}

impl Answer<'_> {
    /// `None` while it is not whole. One answer at a time: a call waits for the one before it.
    pub fn parse(bytes: &[u8]) -> Result<Option<Answer<'_>>, String> {
        let Some(end) = head_end(bytes) else { return Ok(None) };
        let head = &bytes[..end];
        let status = std::str::from_utf8(&head[9..12]).ok().and_then(|text| text.parse().ok());
        let status = status.filter(|_| head.starts_with(b"HTTP/1.1 ")).ok_or("not an HTTP/1.1 answer")?;
        let length = content_length(head).ok_or("an answer without Content-Length")?;
        if bytes.len() < end + length {
            return Ok(None);
        }
        if bytes.len() > end + length {
            return Err("more than one answer".into());
        }
        Ok(Some(Answer { status, body: &bytes[end..] }))
    }

    /// The number at `"name":` of the JSON body. The harness's answers are flat, so that a search is enough.
    pub fn number(&self, name: &str) -> Option<u64> {
        let at = memchr::memmem::find(self.body, format!("\"{name}\"").as_bytes())? + name.len() + 2;
        let rest = self.body[at..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
    }

    /// Checks a `/send/` answer: status 0 and, when `connections` is given, that many.
    pub fn check(&self, connections: Option<u64>) -> Result<(), String> {
        let words = || String::from_utf8_lossy(&self.body[..self.body.len().min(200)]).into_owned();
        if self.status != 200 || self.number("status") != Some(0) {
            return Err(format!("/send/ was answered {} {}", self.status, words()));
        }
        match connections {
            Some(expected) if self.number("connections") != Some(expected) => {
                Err(format!("/send/ should have reached {expected}: {}", words()))
            }
            _ => Ok(()),
        }
    }
}

/// The value of Content-Length in an HTTP head.
pub fn content_length(head: &[u8]) -> Option<usize> {
    head.split(|&byte| byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(15)?;
        let value = std::str::from_utf8(value).ok()?.trim();
        name.eq_ignore_ascii_case(b"content-length:").then(|| value.parse().ok())?
    })
}

/// Run by `cargo test --benches`.
pub fn self_test() {
    // What sha1sum says of "12bench-token".
    assert_eq!(sign("2", "1"), "af899576eab8a4366fcd8c96ab818cb83f1c3400");
    assert_eq!(sign("2", "1"), sign("1", "2"), "the three strings are sorted");
    let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 35\r\n\r\n{\"status\": 0, \"connections\" : 1234}";
    for cut in 0..whole.len() {
        assert_eq!(Answer::parse(&whole[..cut]), Ok(None), "cut at {cut}");
    }
    let answer = Answer::parse(whole).unwrap().unwrap();
    assert_eq!((answer.status, answer.number("connections"), answer.number("stored")), (200, Some(1234), None));
    assert!(answer.check(Some(1234)).is_ok() && answer.check(Some(1)).is_err());
    assert!(Answer { status: 200, body: b"{\"status\":1}" }.check(None).is_err());
}
