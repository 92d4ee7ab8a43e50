//! Names a call, in the lines of the log that belong to it and in its response: the caller's own name for it
//! (`X-Request-Id`), or one that is drawn. A value without an allocation, since every call has one.

use crate::io::runtime::clock;
use crate::wire::http1::RequestHead;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

/// 1–64 printable ASCII characters, no space.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    len: u8,
    bytes: [u8; LEN_MAX],
}

impl RequestId {
    /// The caller's, when it can stand in a line of the log.
    pub fn of(head: &RequestHead<'_>) -> RequestId {
        head.headers.get("x-request-id").and_then(RequestId::read).unwrap_or_else(RequestId::draw)
    }

    fn read(text: &[u8]) -> Option<RequestId> {
        let is_id = (1..=LEN_MAX).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic);
        is_id.then(|| {
            let mut bytes = [0; LEN_MAX];
            bytes[..text.len()].copy_from_slice(text);
            RequestId { len: text.len() as u8, bytes }
        })
    }

    pub fn draw() -> RequestId {
        let number = RandomState::new().hash_one(clock::unix_ns());
        let mut bytes = [0; LEN_MAX];
        for (digit, byte) in bytes[..DRAWN_LEN].iter_mut().enumerate() {
            *byte = b"0123456789abcdef"[(number >> (4 * digit)) as usize & 15];
        }
        RequestId { len: DRAWN_LEN as u8, bytes }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(self.as_bytes()).expect("it is ASCII"))
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({self})")
    }
}

const LEN_MAX: usize = 64;
/// Hexadecimal digits of 64 bits.
const DRAWN_LEN: usize = 16;
const _: () = assert!(LEN_MAX <= u8::MAX as usize && DRAWN_LEN <= LEN_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_short_and_printable() {
        for text in ["a", "7f3c-19", &*"x".repeat(LEN_MAX)] {
            assert_eq!(RequestId::read(text.as_bytes()).expect("an id").to_string(), text);
        }
        for text in ["", "two words", "a\tb", "é", &*"x".repeat(LEN_MAX + 1)] {
            assert_eq!(RequestId::read(text.as_bytes()), None, "{text}");
        }
        let drawn = RequestId::draw();
        assert!(drawn.as_bytes().len() == DRAWN_LEN && drawn != RequestId::draw());
    }
}
