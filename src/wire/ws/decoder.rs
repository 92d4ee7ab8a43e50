//! Bytes of a client → messages and control frames: framing, unmasking and assembly in one pass.
//!
//! ```text
//! input     |····consumed····|header|payload, unmasked in place|····not yet looked at····|
//!                                    ^ an event is a slice of the input when its frame lies whole in it,
//!                                      else a slice of `Partial`, which gathers what the input cuts
//! ```
//!
//! An idle connection costs the eight bytes of an empty `Option<Box>`. What is incomplete lies in one `Partial`, which
//! grows with bytes that have arrived, never by a declared length, and is freed when its message has been handed out.
//! What RFC 6455 forbids a client is refused at the first byte that shows it. Called by the session task; knows no
//! socket.

use std::ops::Range;

use super::frame::{self, CloseCode, Opcode};
use super::header::{Frame, HEADER_LEN_MAX, parse_header};
use super::mask;
use super::utf8::Utf8;
use simdutf8::basic;

pub use super::header::{Limits, Violation};

/// The state of one connection's receiving side between two reads.
#[derive(Default, Debug)]
pub struct Decoder {
    partial: Option<Box<Partial>>,
}

/// A chunk as it was read, and how far it has been consumed. It is unmasked in place.
#[derive(Debug)]
pub struct Input<'c> {
    bytes: &'c mut [u8],
    consumed: usize,
}

/// A message or a control frame of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// `data` is valid UTF-8 when `text`.
    Message {
        text: bool,
        data: &'a [u8],
    },
    Ping(&'a [u8]),
    Pong(&'a [u8]),
    /// The last frame of a connection: stop decoding after it.
    Close {
        code: Option<CloseCode>,
        reason: &'a str,
    },
}

impl<'c> Input<'c> {
    pub fn new(bytes: &'c mut [u8]) -> Input<'c> {
        Input { bytes, consumed: 0 }
    }

    /// Bytes that no event has used yet.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.consumed
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.consumed..]
    }

    fn take(&mut self, len: usize) -> Range<usize> {
        let start = self.consumed;
        self.consumed += len;
        start..self.consumed
    }
}

impl Decoder {
    /// What it holds of a frame or message that is not complete.
    pub fn memory(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| size_of::<Partial>() + partial.data.capacity())
    }

    /// The next event, or `None` when all of `input` is consumed and nothing more is complete.
    ///
    /// Call until `None` with the same input, then with the next chunk. After a violation or a close the connection
    /// says nothing more that counts: do not call again.
    pub fn next<'a>(&'a mut self, input: &'a mut Input<'_>, limits: &Limits) -> Result<Option<Event<'a>>, Violation> {
        self.release();
        match self.advance(input, limits)? {
            Some(found) => self.event(found, input).map(Some),
            None => Ok(None),
        }
    }

    /// True while the beginning of a frame or message is buffered and its end has not arrived.
    pub fn is_mid_message(&self) -> bool {
        self.partial.as_ref().is_some_and(|partial| !partial.is_idle())
    }

    /// Frees the buffer of the last event.
    fn release(&mut self) {
        if !self.is_mid_message() {
            self.partial = None;
        }
    }

    fn advance(&mut self, input: &mut Input<'_>, limits: &Limits) -> Result<Option<Completed>, Violation> {
        // Every turn consumes a header or ends, so the input bounds the loop.
        loop {
            if self.partial.as_ref().is_none_or(|partial| partial.frame.is_none()) {
                let Some(frame) = self.read_header(input, limits)? else { return Ok(None) };
                if frame.is_message_of_its_own() && frame.len <= input.remaining() {
                    return take_whole(frame, input).map(Some);
                }
                self.partial.get_or_insert_default().begin(frame);
            }
            match self.partial.get_or_insert_default().read_payload(input)? {
                Progress::NeedMore => return Ok(None),
                Progress::FrameEnded => {}
                Progress::Completed(completed) => return Ok(Some(completed)),
            }
        }
    }

    /// Reads a header out of the input, or out of the input and the bytes buffered from earlier ones.
    fn read_header(&mut self, input: &mut Input<'_>, limits: &Limits) -> Result<Option<Frame>, Violation> {
        let assembled = self.partial.as_ref().and_then(|partial| partial.message.as_ref().map(|_| partial.data.len()));
        let buffered = self.partial.as_ref().map_or(0, |partial| usize::from(partial.header_len));
        if buffered == 0 {
            if let Some((frame, len)) = parse_header(input.rest(), assembled, limits)? {
                input.take(len);
                return Ok(Some(frame));
            }
            if input.remaining() == 0 {
                return Ok(None);
            }
        }
        let partial = self.partial.get_or_insert_default();
        let copied = input.remaining().min(HEADER_LEN_MAX - buffered);
        partial.header[buffered..buffered + copied].copy_from_slice(&input.rest()[..copied]);
        let parsed = parse_header(&partial.header[..buffered + copied], assembled, limits)?;
        // A header that is complete ends in this input: it was not complete before.
        let (frame, used, buffered) = match parsed {
            Some((frame, len)) => (Some(frame), len - buffered, 0),
            None => (None, copied, buffered + copied),
        };
        input.take(used);
        partial.header_len = buffered as u8;
        Ok(frame)
    }

    fn event<'a>(&'a self, completed: Completed, input: &'a Input<'_>) -> Result<Event<'a>, Violation> {
        let data = match (completed.place, &self.partial) {
            (Place::Input(range), _) => &input.bytes[range],
            (Place::Control(len), Some(partial)) => &partial.control[..len],
            (Place::Message, Some(partial)) => &partial.data,
            (Place::Control(_) | Place::Message, None) => &[],
        };
        Ok(match completed.kind {
            Kind::Text => Event::Message { text: true, data },
            Kind::Binary => Event::Message { text: false, data },
            Kind::Ping => Event::Ping(data),
            Kind::Pong => Event::Pong(data),
            Kind::Close => {
                let (code, reason) = parse_close(data)?;
                Event::Close { code, reason }
            }
        })
    }
}

/// What is buffered when a chunk ends inside a frame or a fragmented message.
#[derive(Debug)]
struct Partial {
    /// The message that `data` begins.
    message: Option<Assembly>,
    /// Payload of all its frames so far, unmasked.
    data: Vec<u8>,
    /// The frame whose payload is being read.
    frame: Option<Frame>,
    /// Payload of that frame if it is a control frame: it must not touch the message that it interrupts.
    control: [u8; frame::CONTROL_PAYLOAD_MAX],
    /// The beginning of a header.
    header: [u8; HEADER_LEN_MAX],
    header_len: u8,
}

impl Default for Partial {
    fn default() -> Partial {
        Partial {
            message: None,
            data: Vec::new(),
            frame: None,
            control: [0; frame::CONTROL_PAYLOAD_MAX],
            header: [0; HEADER_LEN_MAX],
            header_len: 0,
        }
    }
}

impl Partial {
    /// Nothing is incomplete; `data` and `control` may still be what the last event showed.
    fn is_idle(&self) -> bool {
        self.message.is_none() && self.frame.is_none() && self.header_len == 0
    }

    fn begin(&mut self, frame: Frame) {
        debug_assert!(self.frame.is_none() && self.header_len == 0);
        match frame.opcode {
            Opcode::Text => self.message = Some(Assembly::Text(Utf8::default())),
            Opcode::Binary => self.message = Some(Assembly::Binary),
            Opcode::Continuation | Opcode::Close | Opcode::Ping | Opcode::Pong => {}
        }
        self.frame = Some(frame);
    }

    /// Moves what the input has of the frame's payload to where it belongs.
    fn read_payload(&mut self, input: &mut Input<'_>) -> Result<Progress, Violation> {
        let Some(mut frame) = self.frame.take() else { return Ok(Progress::FrameEnded) };
        let range = input.take(input.remaining().min(frame.len - frame.read));
        let bytes = &mut input.bytes[range];
        mask::unmask(bytes, frame.key, frame.read);
        if frame.opcode.is_control() {
            self.control[frame.read..frame.read + bytes.len()].copy_from_slice(bytes);
        } else {
            if let Some(Assembly::Text(utf8)) = &mut self.message {
                utf8.feed(bytes)?;
            }
            self.append(bytes, &frame);
        }
        frame.read += bytes.len();
        if frame.read < frame.len {
            self.frame = Some(frame);
            return Ok(Progress::NeedMore);
        }
        self.end(&frame)
    }

    /// Appends to the message. The buffer doubles like any `Vec`, but not beyond a message whose length is known.
    fn append(&mut self, bytes: &[u8], frame: &Frame) {
        let len = self.data.len() + bytes.len();
        if len > self.data.capacity() {
            let doubled = len.max(2 * self.data.capacity());
            let message_len = self.data.len() + (frame.len - frame.read);
            let capacity = if frame.fin { doubled.min(message_len) } else { doubled };
            self.data.reserve_exact(capacity - self.data.len());
        }
        self.data.extend_from_slice(bytes);
    }

    /// The frame has been read whole: what it completes.
    fn end(&mut self, frame: &Frame) -> Result<Progress, Violation> {
        let (kind, place) = match (frame.opcode, &self.message) {
            (Opcode::Close, _) => (Kind::Close, Place::Control(frame.len)),
            (Opcode::Ping, _) => (Kind::Ping, Place::Control(frame.len)),
            (Opcode::Pong, _) => (Kind::Pong, Place::Control(frame.len)),
            _ if !frame.fin => return Ok(Progress::FrameEnded),
            (_, Some(Assembly::Text(utf8))) if !utf8.is_complete() => return Err(Violation::InvalidUtf8),
            (_, Some(Assembly::Text(_))) => (Kind::Text, Place::Message),
            (_, Some(Assembly::Binary) | None) => (Kind::Binary, Place::Message),
        };
        if matches!(place, Place::Message) {
            self.message = None;
        }
        Ok(Progress::Completed(Completed { kind, place }))
    }
}

/// A message that is being put together.
#[derive(Debug)]
enum Assembly {
    Text(Utf8),
    Binary,
}

enum Progress {
    NeedMore,
    FrameEnded,
    Completed(Completed),
}

/// What a frame completed: an event without its borrow.
struct Completed {
    kind: Kind,
    place: Place,
}

enum Kind {
    Text,
    Binary,
    Ping,
    Pong,
    Close,
}

/// Where an event's bytes lie.
enum Place {
    Input(Range<usize>),
    /// So many bytes of `Partial::control`.
    Control(usize),
    /// All of `Partial::data`.
    Message,
}

/// The fast path: the frame lies whole in the input and stays there.
fn take_whole(frame: Frame, input: &mut Input<'_>) -> Result<Completed, Violation> {
    let range = input.take(frame.len);
    let payload = &mut input.bytes[range.clone()];
    mask::unmask(payload, frame.key, 0);
    let kind = match frame.opcode {
        Opcode::Text if basic::from_utf8(payload).is_err() => return Err(Violation::InvalidUtf8),
        Opcode::Text => Kind::Text,
        Opcode::Binary | Opcode::Continuation => Kind::Binary,
        Opcode::Close => Kind::Close,
        Opcode::Ping => Kind::Ping,
        Opcode::Pong => Kind::Pong,
    };
    Ok(Completed { kind, place: Place::Input(range) })
}

/// RFC 6455 section 5.5.1: nothing, or a code and a reason.
fn parse_close(payload: &[u8]) -> Result<(Option<CloseCode>, &str), Violation> {
    if payload.is_empty() {
        return Ok((None, ""));
    }
    let (code, reason) = payload.split_first_chunk().ok_or(Violation::CloseTooShort)?;
    let code = CloseCode(u16::from_be_bytes(*code));
    if !code.is_valid_on_wire() {
        return Err(Violation::InvalidCloseCode { code });
    }
    let reason = str::from_utf8(reason).map_err(|_| Violation::InvalidCloseReason)?;
    Ok((Some(code), reason))
}

/// A million idle connections have a million of these.
const _: () = assert!(size_of::<Decoder>() == 8);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;
    use crate::wire::ws::frame::ClientFrame;

    const LIMITS: Limits = Limits { message_bytes_max: 100_000 };

    /// An event that has left its borrow, or the violation that ended the stream.
    #[derive(Clone, PartialEq, Debug)]
    enum Seen {
        Text(Vec<u8>),
        Binary(Vec<u8>),
        Ping(Vec<u8>),
        Pong(Vec<u8>),
        Close(Option<CloseCode>, String),
        Violation(Violation),
    }

    fn feed(decoder: &mut Decoder, chunk: &[u8], seen: &mut Vec<Seen>) {
        let mut chunk = chunk.to_vec();
        let mut input = Input::new(&mut chunk);
        loop {
            seen.push(match decoder.next(&mut input, &LIMITS) {
                Ok(Some(Event::Message { text: true, data })) => Seen::Text(data.to_vec()),
                Ok(Some(Event::Message { text: false, data })) => Seen::Binary(data.to_vec()),
                Ok(Some(Event::Ping(data))) => Seen::Ping(data.to_vec()),
                Ok(Some(Event::Pong(data))) => Seen::Pong(data.to_vec()),
                Ok(Some(Event::Close { code, reason })) => Seen::Close(code, reason.to_owned()),
                Ok(None) => break assert_eq!(input.remaining(), 0),
                Err(violation) => break seen.push(Seen::Violation(violation)),
            });
        }
    }

    /// The events of a stream that arrives in pieces of these lengths, repeated.
    fn decode(stream: &[u8], lens: &[usize]) -> Vec<Seen> {
        let (mut decoder, mut seen, mut rest) = (Decoder::default(), Vec::new(), stream);
        for &len in lens.iter().cycle() {
            let (chunk, tail) = rest.split_at(len.min(rest.len()));
            feed(&mut decoder, chunk, &mut seen);
            rest = tail;
            if rest.is_empty() || matches!(seen.last(), Some(Seen::Violation(_))) {
                break;
            }
        }
        seen
    }

    /// The events of a stream fed whole, after a check that they are the same byte by byte.
    fn decode_both_ways(stream: &[u8]) -> Vec<Seen> {
        let whole = decode(stream, &[usize::MAX]);
        assert_eq!(decode(stream, &[1]), whole);
        whole
    }

    fn frame(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        ClientFrame { fin, opcode, key: [0x12, 0xC4, 0x56, 0xFF], payload }.write_into(&mut out);
        out
    }

    fn first_bytes_of(opcode: Opcode, len: u8, following: &[u8]) -> Vec<u8> {
        [&[frame::FIN | opcode as u8, frame::MASK | len], following].concat()
    }

    #[test]
    fn a_whole_frame_stays_where_it_was_read() {
        let mut decoder = Decoder::default();
        let mut chunk = [frame(true, Opcode::Binary, b"one"), frame(true, Opcode::Text, "zwö".as_bytes())].concat();
        let bounds = chunk.as_ptr_range();
        let mut input = Input::new(&mut chunk);
        for expected in [&b"one"[..], "zwö".as_bytes()] {
            let Ok(Some(Event::Message { data, .. })) = decoder.next(&mut input, &LIMITS) else { panic!("no message") };
            assert_eq!(data, expected);
            assert!(bounds.contains(&data.as_ptr()));
            assert!(decoder.partial.is_none());
        }
        assert_eq!(decoder.next(&mut input, &LIMITS), Ok(None));
    }

    #[test]
    fn nothing_is_kept_once_a_message_is_out() {
        let stream = [frame(false, Opcode::Text, b"ab"), frame(true, Opcode::Continuation, b"c")].concat();
        let (mut decoder, mut seen) = (Decoder::default(), Vec::new());
        for (i, byte) in stream.iter().enumerate() {
            feed(&mut decoder, &[*byte], &mut seen);
            assert_eq!(decoder.is_mid_message(), i + 1 < stream.len());
        }
        assert_eq!(seen, [Seen::Text(b"abc".to_vec())]);
        assert!(decoder.partial.is_none());
    }

    #[test]
    fn memory_follows_what_arrived_not_what_was_announced() {
        let stream = frame(true, Opcode::Binary, &[7; 90_000]);
        let mut decoder = Decoder::default();
        feed(&mut decoder, &stream[..1000], &mut Vec::new());
        assert!(decoder.partial.as_ref().unwrap().data.capacity() < 2000);
        feed(&mut decoder, &stream[1000..60_000], &mut Vec::new());
        feed(&mut decoder, &stream[60_000..89_000], &mut Vec::new());
        assert_eq!(decoder.partial.as_ref().unwrap().data.capacity(), 90_000);
    }

    #[test]
    fn control_frames_interrupt_a_fragmented_message() {
        let stream = [
            frame(false, Opcode::Text, b"\xF0\x9F"),
            frame(true, Opcode::Ping, b"ping"),
            frame(false, Opcode::Continuation, b""),
            frame(true, Opcode::Pong, &[0xFF; 125]),
            frame(true, Opcode::Continuation, b"\x98\x80"),
            frame(true, Opcode::Binary, b"next"),
        ];
        let expected = [
            Seen::Ping(b"ping".to_vec()),
            Seen::Pong(vec![0xFF; 125]),
            Seen::Text("😀".into()),
            Seen::Binary(b"next".to_vec()),
        ];
        assert_eq!(decode_both_ways(&stream.concat()), expected);
    }

    #[test]
    fn empty_messages_are_messages() {
        let stream = [
            frame(true, Opcode::Text, b""),
            frame(true, Opcode::Binary, b""),
            frame(false, Opcode::Text, b""),
            frame(true, Opcode::Continuation, b""),
        ];
        let expected = [Seen::Text(vec![]), Seen::Binary(vec![]), Seen::Text(vec![])];
        assert_eq!(decode_both_ways(&stream.concat()), expected);
    }

    #[test]
    fn every_length_form_is_read() {
        for len in [0, 1, 125, 126, 127, 65535, 65536, 100_000] {
            let payload = vec![0x5A; len];
            let stream = frame(true, Opcode::Binary, &payload);
            let expected = [Seen::Binary(payload)];
            assert_eq!(decode_both_ways(&stream), expected);
            // Every place where a chunk can cut the header, with more behind it than the header needs.
            for cut in 1..HEADER_LEN_MAX + 2 {
                assert_eq!(decode(&stream, &[cut, usize::MAX]), expected);
            }
        }
    }

    #[test]
    fn the_first_two_bytes_alone_are_refused_if_and_only_if_a_rule_forbids_them() {
        for mid_message in [false, true] {
            for (first, second) in (0..=255u8).flat_map(|first| (0..=255u8).map(move |second| (first, second))) {
                let (fin, opcode, len) = (first >> 7 == 1, first & 15, second & 127);
                let rules = [
                    first >> 4 & 7 == 0,
                    [0, 1, 2, 8, 9, 10].contains(&opcode),
                    second >> 7 == 1,
                    opcode < 8 || (fin && len <= 125),
                    opcode != 0 || mid_message,
                    opcode > 2 || opcode == 0 || !mid_message,
                ];
                let mut decoder = Decoder::default();
                if mid_message {
                    feed(&mut decoder, &frame(false, Opcode::Binary, b""), &mut Vec::new());
                }
                let violation = decoder.next(&mut Input::new(&mut [first, second]), &LIMITS).err();
                assert_eq!(violation.is_none(), rules.iter().all(|holds| *holds), "{first:#x} {second:#x}");
                assert!(violation.is_none_or(|v| v.close_code() == CloseCode::PROTOCOL_ERROR));
            }
        }
    }

    #[test]
    fn a_violation_says_which_rule_it_was() {
        let inside = |opcode| [frame(false, Opcode::Text, b"a"), frame(true, opcode, b"b")].concat();
        let cases = [
            (vec![0xC1, 0x80], Violation::ReservedBits),
            (vec![0x83, 0x80], Violation::ReservedOpcode { opcode: 3 }),
            (vec![0x81, 0x00], Violation::Unmasked),
            (vec![0x09, 0x80], Violation::ControlFragmented),
            (vec![0x89, 0xFE], Violation::ControlTooLong),
            (vec![0x80, 0x80], Violation::ContinuationWithoutStart),
            (inside(Opcode::Binary), Violation::MessageInterrupted),
        ];
        for (stream, violation) in cases {
            assert_eq!(decode_both_ways(&stream), [Seen::Violation(violation)]);
        }
    }

    #[test]
    fn a_length_is_refused_before_the_mask_has_come() {
        let cases: &[(u8, &[u8], Violation)] = &[
            (126, &[0, 125], Violation::LengthNotMinimal { len: 125 }),
            (127, &[0, 0, 0, 0, 0, 0, 0xFF, 0xFF], Violation::LengthNotMinimal { len: 65535 }),
            (127, &[0x80, 0, 0, 0, 0, 0, 0, 1], Violation::LengthTopBit),
            (127, &[0, 0, 0, 0, 0, 1, 0x86, 0xA1], Violation::MessageTooBig { len: 100_001, max: 100_000 }),
            (
                127,
                &[0x7F, 255, 255, 255, 255, 255, 255, 255],
                Violation::MessageTooBig { len: i64::MAX as u64, max: 100_000 },
            ),
        ];
        for (len, following, violation) in cases {
            let stream = first_bytes_of(Opcode::Binary, *len, following);
            assert_eq!(decode_both_ways(&stream), [Seen::Violation(*violation)]);
        }
    }

    #[test]
    fn the_limit_is_on_the_message_not_on_the_frame() {
        let mut stream = frame(false, Opcode::Binary, &[1; 60_000]);
        stream.extend_from_slice(&frame(true, Opcode::Continuation, &[1; 40_000]));
        assert_eq!(decode_both_ways(&stream), [Seen::Binary(vec![1; 100_000])]);

        let mut stream = frame(false, Opcode::Binary, &[1; 60_000]);
        stream.extend_from_slice(&frame(true, Opcode::Continuation, &[1; 40_001])[..4]);
        let violation = Violation::MessageTooBig { len: 100_001, max: 100_000 };
        assert_eq!(decode_both_ways(&stream), [Seen::Violation(violation)]);
        assert_eq!(violation.close_code(), CloseCode::MESSAGE_TOO_BIG);
    }

    #[test]
    fn invalid_text_is_refused_at_its_first_wrong_byte() {
        // U+D800 in the middle of a frame of which the rest never comes: the second of its bytes is the wrong one.
        let stream = frame(true, Opcode::Text, b"abc\xED\xA0\x80 and more");
        let header = 6;
        assert_eq!(decode_both_ways(&stream[..header + 4]), []);
        assert_eq!(decode_both_ways(&stream[..header + 5]), [Seen::Violation(Violation::InvalidUtf8)]);
        assert_eq!(Violation::InvalidUtf8.close_code(), CloseCode::INVALID_PAYLOAD);
    }

    #[test]
    fn text_must_not_end_inside_a_code_point() {
        let stream = [frame(false, Opcode::Text, b"\xE2"), frame(true, Opcode::Continuation, b"\x82")].concat();
        assert_eq!(decode_both_ways(&stream), [Seen::Violation(Violation::InvalidUtf8)]);
        assert_eq!(
            decode_both_ways(&frame(true, Opcode::Text, b"\xE2\x82")),
            [Seen::Violation(Violation::InvalidUtf8)]
        );
        let stream = frame(true, Opcode::Binary, b"\xE2\x82");
        assert_eq!(decode_both_ways(&stream), [Seen::Binary(b"\xE2\x82".to_vec())]);
    }

    #[test]
    fn close_frames_carry_nothing_or_a_code_and_a_reason() {
        let longest = [&b"\x03\xE8"[..], &[b'x'; 123]].concat();
        let close = |payload: &[u8]| decode_both_ways(&frame(true, Opcode::Close, payload)).remove(0);
        assert_eq!(close(b""), Seen::Close(None, String::new()));
        assert_eq!(close(b"\x03\xE8"), Seen::Close(Some(CloseCode::NORMAL), String::new()));
        assert_eq!(close(&longest), Seen::Close(Some(CloseCode::NORMAL), "x".repeat(123)));
        assert_eq!(close(b"\x11\x39bye"), Seen::Close(Some(CloseCode::TAKEN_OVER), "bye".into()));
        assert_eq!(close(b"\x03"), Seen::Violation(Violation::CloseTooShort));
        assert_eq!(close(b"\x03\xED"), Seen::Violation(Violation::InvalidCloseCode { code: CloseCode(1005) }));
        assert_eq!(close(b"\x03\xE8\xFF"), Seen::Violation(Violation::InvalidCloseReason));
        assert_eq!(Violation::InvalidCloseReason.close_code(), CloseCode::INVALID_PAYLOAD);
        assert_eq!(Violation::CloseTooShort.close_code(), CloseCode::PROTOCOL_ERROR);
    }

    /// A message cut into fragments, with control frames between them.
    fn message() -> impl Strategy<Value = Vec<(bool, Opcode, Vec<u8>)>> {
        let len = prop_oneof![4 => 0..40usize, 1 => 120..135usize, 1 => 300..700usize];
        let data = len.prop_flat_map(|len| proptest::collection::vec(any::<u8>(), len));
        let control =
            (prop_oneof![Just(Opcode::Ping), Just(Opcode::Pong)], proptest::collection::vec(any::<u8>(), 0..126));
        let cuts = proptest::collection::vec((any::<Index>(), proptest::option::of(control)), 0..4);
        (any::<bool>(), data, ".{0,100}", cuts).prop_map(|(text, data, string, mut cuts)| {
            let data = if text { string.into_bytes() } else { data };
            cuts.sort_by_key(|(cut, _)| cut.index(data.len() + 1));
            let mut opcode = if text { Opcode::Text } else { Opcode::Binary };
            let (mut frames, mut start) = (Vec::new(), 0);
            for (cut, control) in cuts {
                let end = cut.index(data.len() + 1);
                frames.push((false, opcode, data[start..end].to_vec()));
                frames.extend(control.map(|(opcode, payload)| (true, opcode, payload)));
                (start, opcode) = (end, Opcode::Continuation);
            }
            frames.push((true, opcode, data[start..].to_vec()));
            frames
        })
    }

    fn stream_of(frames: &[(bool, Opcode, Vec<u8>)], key: [u8; 4]) -> Vec<u8> {
        let mut stream = Vec::new();
        for (fin, opcode, payload) in frames {
            ClientFrame { fin: *fin, opcode: *opcode, key, payload }.write_into(&mut stream);
        }
        stream
    }

    /// What frames mean, put together in the plainest way.
    fn model(frames: &[(bool, Opcode, Vec<u8>)]) -> Vec<Seen> {
        let (mut seen, mut text, mut data) = (Vec::new(), false, Vec::new());
        for (fin, opcode, payload) in frames {
            match opcode {
                Opcode::Ping => seen.push(Seen::Ping(payload.clone())),
                Opcode::Pong => seen.push(Seen::Pong(payload.clone())),
                _ => {
                    if *opcode != Opcode::Continuation {
                        text = *opcode == Opcode::Text;
                    }
                    data.extend_from_slice(payload);
                    if *fin {
                        let data = std::mem::take(&mut data);
                        seen.push(if text { Seen::Text(data) } else { Seen::Binary(data) });
                    }
                }
            }
        }
        seen
    }

    proptest! {
        #[test]
        fn any_split_of_a_stream_says_the_same(
            messages in proptest::collection::vec(message(), 1..5), key: [u8; 4],
            lens in proptest::collection::vec(1..50usize, 1..8),
        ) {
            let frames = messages.concat();
            let stream = stream_of(&frames, key);
            let expected = model(&frames);
            prop_assert_eq!(&decode(&stream, &[usize::MAX]), &expected);
            prop_assert_eq!(&decode(&stream, &[1]), &expected);
            prop_assert_eq!(&decode(&stream, &lens), &expected);
        }

        #[test]
        fn a_damaged_stream_says_the_same_however_it_is_split(
            messages in proptest::collection::vec(message(), 1..4), key: [u8; 4],
            damage in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..4),
            lens in proptest::collection::vec(1..50usize, 1..8),
        ) {
            let mut stream = stream_of(&messages.concat(), key);
            for (place, byte) in damage {
                let place = place.index(stream.len());
                stream[place] = byte;
            }
            let whole = decode(&stream, &[usize::MAX]);
            prop_assert_eq!(&decode(&stream, &[1]), &whole);
            prop_assert_eq!(&decode(&stream, &lens), &whole);
        }

        #[test]
        fn garbage_never_panics(stream in proptest::collection::vec(any::<u8>(), 0..64), len in 1..8usize) {
            prop_assert_eq!(decode(&stream, &[len]), decode(&stream, &[usize::MAX]));
        }
    }
}
