//! The W3C's `traceparent`: which trace a request belongs to, as its sender says, and which step of it the sender is.
//!
//! Where no spans of ours are collected we are no step of our own: what came is handed on as it was, so that the
//! business server's steps hang below the client's or the caller's. Else they hang below ours.

use std::fmt;
use std::ops::Range;

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
        let is_one = are_apart && is_id(&bytes[TRACE_ID]) && is_id(&bytes[SPAN_ID]) && is_hex(&bytes[53..]);
        is_one.then_some(TraceParent(bytes))
    }

    /// The first step of a trace that is collected. Neither id may be 0.
    pub fn sampled(trace_id: u128, span_id: u64) -> TraceParent {
        let text = format!("00-{trace_id:032x}-{span_id:016x}-01");
        TraceParent(text.into_bytes().try_into().expect("each part has its length"))
    }

    /// Another step of the same trace, below this one. Its id may not be 0.
    pub fn child(&self, span_id: u64) -> TraceParent {
        let mut child = self.clone();
        child.0[SPAN_ID].copy_from_slice(format!("{span_id:016x}").as_bytes());
        child
    }

    /// Its sender collects the trace.
    pub fn is_sampled(&self) -> bool {
        let flags = u8::from_str_radix(self.part(53..55), 16).expect("they are hexadecimal digits");
        flags & 1 != 0
    }

    /// Of the trace, and of the step.
    pub fn ids(&self) -> (u128, u64) {
        let trace_id = u128::from_str_radix(self.trace_id(), 16);
        let span_id = u64::from_str_radix(self.part(SPAN_ID), 16);
        (trace_id.expect("it is hexadecimal"), span_id.expect("it is hexadecimal"))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What logs name a trace by.
    pub fn trace_id(&self) -> &str {
        self.part(TRACE_ID)
    }

    fn part(&self, range: Range<usize>) -> &str {
        std::str::from_utf8(&self.0[range]).expect("it is ASCII")
    }
}

impl fmt::Debug for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.0).expect("it is ASCII"))
    }
}

const LEN: usize = 55;
const TRACE_ID: Range<usize> = 3..35;
const SPAN_ID: Range<usize> = 36..52;

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
    fn a_step_of_ours_is_of_the_same_trace() {
        let parent = TraceParent::read(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00").expect("one");
        let child = parent.child(0xAB);
        assert_eq!(child.as_bytes(), b"00-4bf92f3577b34da6a3ce929d0e0e4736-00000000000000ab-00");
        assert_eq!(child.ids(), (0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, 0xAB));
        assert!(!parent.is_sampled() && !child.is_sampled());
        let first = TraceParent::sampled(7, 9);
        assert!(first.is_sampled());
        assert_eq!(TraceParent::read(first.as_bytes()), Some(first));
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
