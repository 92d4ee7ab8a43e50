//! Names a call, in the lines of the log that belong to it and in its response: the caller's own name for it
//! (`X-Request-Id`), or one that is drawn. Every call has one and hardly any is looked at: one that is drawn is a
//! number until it is written.

use crate::base::digits::hex_of;
use crate::base::rng::Rng;
use crate::io::runtime::clock;
use crate::wire::http1::RequestHead;
use std::cell::RefCell;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;

#[derive(Clone, PartialEq, Eq)]
pub enum RequestId {
    Drawn(u64),
    /// 1–64 printable ASCII characters, no space.
    Callers(Rc<str>),
}

thread_local! {
    /// Seeded by the system, so that no two threads, and no two processes, draw the same names.
    static NAMES: RefCell<Rng> = RefCell::new(Rng::new(RandomState::new().hash_one(clock::unix_ns())));
}

impl RequestId {
    /// The caller's, when it can stand in a line of the log.
    pub fn of(head: &RequestHead<'_>) -> RequestId {
        head.headers.get("x-request-id").and_then(RequestId::read).unwrap_or_else(RequestId::draw)
    }

    fn read(text: &[u8]) -> Option<RequestId> {
        let is_id = (1..=LEN_MAX).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic);
        is_id.then(|| RequestId::Callers(str::from_utf8(text).expect("it is ASCII").into()))
    }

    pub fn draw() -> RequestId {
        RequestId::Drawn(NAMES.with_borrow_mut(Rng::next_u64))
    }

    /// Appends it as it is in a header.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            RequestId::Drawn(number) => out.extend_from_slice(&hex_of::<8, DRAWN_LEN>(number.to_be_bytes())),
            RequestId::Callers(id) => out.extend_from_slice(id.as_bytes()),
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestId::Drawn(number) => write!(f, "{number:0DRAWN_LEN$x}"),
            RequestId::Callers(id) => f.write_str(id),
        }
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
        assert_ne!(RequestId::draw(), RequestId::draw());
        for id in [RequestId::Drawn(0), RequestId::Drawn(0xFEDC_BA98_7654_3210), RequestId::draw()] {
            let mut written = Vec::new();
            id.write(&mut written);
            assert_eq!(String::from_utf8(written).expect("it is ASCII"), id.to_string());
            assert_eq!(id.to_string().len(), DRAWN_LEN);
        }
    }
}
