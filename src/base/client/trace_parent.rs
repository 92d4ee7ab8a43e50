//! The W3C's `traceparent`: which trace a request belongs to, as its sender says, and which step of it the sender is.
//!
//! We are no step of our own: what came is handed on as it was, so that the business server's steps hang below the
//! client's or the caller's.

use std::fmt;

/// `00-` trace id (32 hex digits) `-` the sender's id (16) `-` flags (2).
#[derive(Clone, PartialEq, Eq)]
pub struct TraceParent([u8; LEN]);

impl TraceParent {
    /// `None` for what is no traceparent of version 00. The specification forbids capitals, and ids of zeros.
    pub fn read(text: &[u8]) -> Option<TraceParent> {
        let bytes: [u8; LEN] = text.try_into().ok()?;
        let is_hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let is_id = |part: &[u8]| is_hex(part) && part.iter().any(|byte| *byte != b'0');
        let are_apart = bytes.starts_with(b"00-") && bytes[35] == b'-' && bytes[52] == b'-';
        let is_one = are_apart && is_id(&bytes[TRACE_ID]) && is_id(&bytes[36..52]) && is_hex(&bytes[53..]);
        is_one.then_some(TraceParent(bytes))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What logs name a trace by.
    pub fn trace_id(&self) -> &str {
        std::str::from_utf8(&self.0[TRACE_ID]).expect("it is ASCII")
    }
}

impl fmt::Debug for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.0).expect("it is ASCII"))
    }
}

const LEN: usize = 55;
const TRACE_ID: std::ops::Range<usize> = 3..35;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_read_as_it_is_written() {
        let text = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent = TraceParent::read(text).expect("the specification's own example");
        assert_eq!(parent.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(parent.as_bytes(), text);
    }

    #[test]
    fn what_is_none_is_not_handed_on() {
        for text in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0\n",
        ] {
            assert_eq!(TraceParent::read(text.as_bytes()), None, "{text:?}");
        }
    }
}
