//! Takes the framing off a body while it arrives: by length, chunked, or until the connection closes.
//!
//! The decoder holds a few numbers and no bytes; what it yields goes to the caller's buffer. It grows that buffer by
//! what has arrived and never by what was declared, and stops at the limit it was given. Chunks are read strictly (RFC
//! 9112, section 7.1): what is sloppy here is a smuggled request elsewhere. Called by the control API and the client of
//! the business server.

use super::head::BodyFraming;

/// Reads one body. Start the next one with `new`; after an error it must not be used any more.
#[derive(Clone, Debug)]
pub struct BodyDecoder {
    state: BodyState,
    max: u64,
    /// Bytes yielded so far.
    received: u64,
    /// Bytes of the current chunk, or of the whole body, that have not arrived.
    missing: u64,
    /// Bytes of chunk extensions and trailers so far: they are thrown away, so they must not be endless.
    overhead: usize,
}

/// What one call of `advance` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the input that belong to the body; what follows them belongs to the next head.
    pub consumed: usize,
    pub done: bool,
}

/// Why a body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("body longer than {max} bytes")]
    TooLarge { max: u64 },
    #[error("malformed chunk size")]
    ChunkSize,
    #[error("chunk not ended by CRLF")]
    ChunkEnd,
    #[error("malformed chunk extension")]
    ChunkExtension,
    #[error("malformed trailer")]
    Trailer,
    #[error("more than {max} bytes of chunk extensions and trailers")]
    TooMuchOverhead { max: usize },
    #[error("connection ended inside the body")]
    Truncated,
}

impl BodyError {
    /// The HTTP status that answers a refused request. The connection is closed after it.
    pub fn status(self) -> u16 {
        match self {
            BodyError::TooLarge { .. } => 413,
            _ => 400,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyState {
    Length,
    UntilClose,
    /// In a chunk size of which so many digits were read.
    Size(u32),
    Extension,
    /// After the CR that ends the size line.
    SizeCr,
    Data,
    /// The chunk's data is complete; its CR, then its LF follow.
    DataEnd,
    DataCr,
    TrailerStart,
    Trailer,
    TrailerCr,
    /// After the CR of the empty line that ends the body.
    EndCr,
    Done,
}

impl BodyDecoder {
    /// `max` is the largest body accepted, in bytes; a declared length above it is refused before a byte is read.
    pub fn new(framing: BodyFraming, max: usize) -> Result<BodyDecoder, BodyError> {
        let max = max as u64;
        let (state, missing) = match framing {
            BodyFraming::None | BodyFraming::Length(0) => (BodyState::Done, 0),
            BodyFraming::Length(len) if len > max => return Err(BodyError::TooLarge { max }),
            BodyFraming::Length(len) => (BodyState::Length, len),
            BodyFraming::Chunked => (BodyState::Size(0), 0),
            BodyFraming::UntilClose => (BodyState::UntilClose, 0),
        };
        Ok(BodyDecoder { state, max, received: 0, missing, overhead: 0 })
    }

    /// Takes what it can from `input` and appends the body's bytes to `out`. Call again with what comes after
    /// `consumed`.
    pub fn advance(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Progress, BodyError> {
        let mut consumed = 0;
        while self.state != BodyState::Done && consumed < input.len() {
            consumed += match self.state {
                BodyState::Length | BodyState::Data | BodyState::UntilClose => {
                    self.take_data(&input[consumed..], out)?
                }
                _ => self.step(input[consumed]).map(|()| 1)?,
            };
        }
        Ok(Progress { consumed, done: self.state == BodyState::Done })
    }

    pub fn is_done(&self) -> bool {
        self.state == BodyState::Done
    }

    /// The connection ended: a body framed by that is complete now, any other must already be.
    pub fn finish(&mut self) -> Result<(), BodyError> {
        match self.state {
            BodyState::Done | BodyState::UntilClose => {
                self.state = BodyState::Done;
                Ok(())
            }
            _ => Err(BodyError::Truncated),
        }
    }

    fn take_data(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, BodyError> {
        let len = if self.state == BodyState::UntilClose {
            self.check_room(input.len() as u64)?;
            input.len()
        } else {
            input.len().min(usize::try_from(self.missing).unwrap_or(usize::MAX))
        };
        out.extend_from_slice(&input[..len]);
        self.received += len as u64;
        self.missing = self.missing.saturating_sub(len as u64);
        debug_assert!(self.received <= self.max, "no body outgrows its limit");
        self.state = match self.state {
            BodyState::Length if self.missing == 0 => BodyState::Done,
            BodyState::Data if self.missing == 0 => BodyState::DataEnd,
            state => state,
        };
        Ok(len)
    }

    /// One byte of chunk framing.
    fn step(&mut self, byte: u8) -> Result<(), BodyError> {
        self.state = match (self.state, byte) {
            (BodyState::Size(digits), _) if byte.is_ascii_hexdigit() => self.size_digit(digits, byte)?,
            (BodyState::Size(1..), b'\r') => BodyState::SizeCr,
            // RFC 9112, section 7.1.1, allows blanks before the semicolon for old senders; no sender in use needs them.
            (BodyState::Size(1..), b';') => BodyState::Extension,
            (BodyState::Size(_), _) => return Err(BodyError::ChunkSize),
            (BodyState::Extension, b'\r') => BodyState::SizeCr,
            (BodyState::Extension, b'\t' | b' '..=b'~' | 0x80..) => self.spend_overhead(BodyState::Extension)?,
            (BodyState::Extension, _) => return Err(BodyError::ChunkExtension),
            (BodyState::SizeCr, b'\n') => self.chunk_begins()?,
            (BodyState::SizeCr, _) => return Err(BodyError::ChunkSize),
            (BodyState::DataEnd, b'\r') => BodyState::DataCr,
            (BodyState::DataCr, b'\n') => BodyState::Size(0),
            (BodyState::DataEnd | BodyState::DataCr, _) => return Err(BodyError::ChunkEnd),
            (BodyState::TrailerStart, b'\r') => BodyState::EndCr,
            (BodyState::TrailerStart, b'!'..=b'~') | (BodyState::Trailer, b'\t' | b' '..=b'~' | 0x80..) => {
                self.spend_overhead(BodyState::Trailer)?
            }
            (BodyState::Trailer, b'\r') => BodyState::TrailerCr,
            (BodyState::TrailerCr, b'\n') => BodyState::TrailerStart,
            (BodyState::EndCr, b'\n') => BodyState::Done,
            (BodyState::TrailerStart | BodyState::Trailer | BodyState::TrailerCr | BodyState::EndCr, _) => {
                return Err(BodyError::Trailer);
            }
            (BodyState::Length | BodyState::Data | BodyState::UntilClose | BodyState::Done, _) => {
                unreachable!("data is taken in slices")
            }
        };
        Ok(())
    }

    fn size_digit(&mut self, digits: u32, byte: u8) -> Result<BodyState, BodyError> {
        let digit = char::from(byte).to_digit(16).expect("a hex digit");
        // Sixteen digits fill the u64 exactly; a seventeenth would push the first one out.
        if digits == CHUNK_SIZE_DIGITS_MAX {
            return Err(BodyError::ChunkSize);
        }
        self.missing = self.missing << 4 | u64::from(digit);
        Ok(BodyState::Size(digits + 1))
    }

    fn chunk_begins(&mut self) -> Result<BodyState, BodyError> {
        self.check_room(self.missing)?;
        Ok(if self.missing == 0 { BodyState::TrailerStart } else { BodyState::Data })
    }

    fn check_room(&self, len: u64) -> Result<(), BodyError> {
        if len > self.max - self.received { Err(BodyError::TooLarge { max: self.max }) } else { Ok(()) }
    }

    fn spend_overhead(&mut self, next: BodyState) -> Result<BodyState, BodyError> {
        if self.overhead == OVERHEAD_BYTES_MAX {
            return Err(BodyError::TooMuchOverhead { max: OVERHEAD_BYTES_MAX });
        }
        self.overhead += 1;
        Ok(next)
    }
}

const CHUNK_SIZE_DIGITS_MAX: u32 = 16;
const _: () = assert!(CHUNK_SIZE_DIGITS_MAX * 4 == u64::BITS);
/// In one body. Extensions are unknown in practice, and trailers a few checksums; both are thrown away.
const OVERHEAD_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The body and how many bytes were consumed, or `None` when it is not done.
    type Decoded = Result<Option<(Vec<u8>, usize)>, BodyError>;

    fn whole(framing: BodyFraming, max: usize, input: &[u8]) -> Decoded {
        let mut out = Vec::new();
        let progress = BodyDecoder::new(framing, max)?.advance(input, &mut out)?;
        Ok(progress.done.then_some((out, progress.consumed)))
    }

    /// Fed in pieces of these sizes in turn; what a piece left over is not fed again, as nothing may be left over.
    fn in_pieces(framing: BodyFraming, max: usize, input: &[u8], sizes: &[usize]) -> Decoded {
        let mut decoder = BodyDecoder::new(framing, max)?;
        let (mut out, mut consumed, mut sizes) = (Vec::new(), 0, sizes.iter().cycle());
        while !decoder.is_done() && consumed < input.len() {
            let end = input.len().min(consumed + sizes.next().unwrap());
            let progress = decoder.advance(&input[consumed..end], &mut out)?;
            assert!(progress.done || consumed + progress.consumed == end, "only a finished body leaves bytes over");
            consumed += progress.consumed;
        }
        Ok(decoder.is_done().then_some((out, consumed)))
    }

    fn chunked(input: &[u8]) -> Decoded {
        whole(BodyFraming::Chunked, 100, input)
    }

    #[test]
    fn a_body_by_length_ends_at_its_length() {
        assert_eq!(whole(BodyFraming::Length(3), 3, b"abcGET"), Ok(Some((b"abc".to_vec(), 3))));
        assert_eq!(whole(BodyFraming::Length(3), 3, b"ab"), Ok(None));
        assert_eq!(whole(BodyFraming::Length(0), 3, b"GET"), Ok(Some((vec![], 0))));
        assert_eq!(whole(BodyFraming::None, 0, b"GET"), Ok(Some((vec![], 0))));
    }

    #[test]
    fn a_declared_length_over_the_limit_is_refused_before_a_byte_is_read() {
        let refused = |len| BodyDecoder::new(BodyFraming::Length(len), 100).err();
        assert_eq!(refused(101), Some(BodyError::TooLarge { max: 100 }));
        assert_eq!(refused(u64::MAX), Some(BodyError::TooLarge { max: 100 }));
        assert_eq!(refused(100), None);
    }

    #[test]
    fn chunks_are_joined() {
        let body = b"4\r\nwiki\r\n0005;a=\"b c\"\r\npedia\r\nA\r\n0123456789\r\n0\r\nX-Sum: 1\r\nY: \xE4\r\n\r\nGET";
        assert_eq!(chunked(body), Ok(Some((b"wikipedia0123456789".to_vec(), body.len() - 3))));
        assert_eq!(chunked(b"0\r\n\r\n"), Ok(Some((vec![], 5))));
        assert_eq!(chunked(b"1\r\na\r\n0\r\n\r"), Ok(None));
        assert_eq!(chunked(b"0000000000000001\r\na\r\n0\r\n\r\n"), Ok(Some((b"a".to_vec(), 26))));
    }

    #[test]
    fn sloppy_chunks_are_refused() {
        let cases: &[(&[u8], BodyError)] = &[
            (b"\r\n", BodyError::ChunkSize),
            (b";a\r\n", BodyError::ChunkSize),
            (b" 1\r\n", BodyError::ChunkSize),
            (b"1 \r\n", BodyError::ChunkSize),
            (b"+1\r\n", BodyError::ChunkSize),
            (b"-1\r\n", BodyError::ChunkSize),
            (b"0x1\r\n", BodyError::ChunkSize),
            (b"g\r\n", BodyError::ChunkSize),
            (b"1\na", BodyError::ChunkSize),
            (b"1\rX", BodyError::ChunkSize),
            (b"00000000000000001\r\n", BodyError::ChunkSize),
            (b"1;a\nb\r\n", BodyError::ChunkExtension),
            (b"1;a\0b\r\n", BodyError::ChunkExtension),
            (b"1;a\rb", BodyError::ChunkSize),
            (b"1\r\nab", BodyError::ChunkEnd),
            (b"1\r\na\n0", BodyError::ChunkEnd),
            (b"1\r\na\rX", BodyError::ChunkEnd),
            (b"1\r\na0\r\n\r\n", BodyError::ChunkEnd),
            (b"0\r\n\n", BodyError::Trailer),
            (b"0\r\n\rX", BodyError::Trailer),
            (b"0\r\n X: y\r\n", BodyError::Trailer),
            (b"0\r\nX: y\n\r\n", BodyError::Trailer),
            (b"0\r\nX: \0\r\n", BodyError::Trailer),
            (b"0\r\nX: y\rZ", BodyError::Trailer),
        ];
        for (body, error) in cases {
            assert_eq!(chunked(body), Err(*error), "{}", body.escape_ascii());
        }
    }

    #[test]
    fn a_chunk_over_the_limit_is_refused_from_its_size_line() {
        let large = Err(BodyError::TooLarge { max: 5 });
        assert_eq!(whole(BodyFraming::Chunked, 5, b"6\r\n"), large);
        assert_eq!(whole(BodyFraming::Chunked, 5, b"FFFFFFFFFFFFFFFF\r\n"), large);
        assert_eq!(whole(BodyFraming::Chunked, 5, b"3\r\nabc\r\n3\r\n"), large);
        assert_eq!(whole(BodyFraming::Chunked, 5, b"5\r\nabcde\r\n0\r\n\r\n"), Ok(Some((b"abcde".to_vec(), 15))));
        assert_eq!(BodyError::TooLarge { max: 5 }.status(), 413);
        assert_eq!(BodyError::ChunkSize.status(), 400);
    }

    #[test]
    fn a_declared_chunk_costs_no_memory() {
        let mut out = Vec::new();
        let mut decoder = BodyDecoder::new(BodyFraming::Chunked, 1 << 40).unwrap();
        decoder.advance(b"FFFFFFFFF\r\nabc", &mut out).unwrap();
        assert_eq!(out, b"abc");
        assert!(out.capacity() < 1024);
    }

    #[test]
    fn extensions_and_trailers_are_bounded_over_the_whole_body() {
        let refused = Err(BodyError::TooMuchOverhead { max: OVERHEAD_BYTES_MAX });
        let extension = |len: usize| [b"1;", "x".repeat(len).as_bytes(), b"\r\na\r\n"].concat();
        let trailer = |len: usize| [b"0\r\nX:", "x".repeat(len).as_bytes(), b"\r\n\r\n"].concat();
        assert_eq!(chunked(&extension(OVERHEAD_BYTES_MAX)), Ok(None));
        assert_eq!(chunked(&extension(OVERHEAD_BYTES_MAX + 1)), refused);
        assert!(matches!(chunked(&trailer(OVERHEAD_BYTES_MAX - 2)), Ok(Some(_))));
        assert_eq!(chunked(&trailer(OVERHEAD_BYTES_MAX - 1)), refused);
        assert_eq!(chunked(&extension(OVERHEAD_BYTES_MAX / 64).repeat(65)), refused);
    }

    #[test]
    fn the_end_of_the_connection_ends_only_a_body_that_waits_for_it() {
        let mut out = Vec::new();
        let mut decoder = BodyDecoder::new(BodyFraming::UntilClose, 3).unwrap();
        assert_eq!(decoder.advance(b"abc", &mut out), Ok(Progress { consumed: 3, done: false }));
        assert_eq!(decoder.clone().finish(), Ok(()));
        assert_eq!(decoder.advance(b"d", &mut out), Err(BodyError::TooLarge { max: 3 }));
        assert_eq!(out, b"abc");
        for framing in [BodyFraming::Length(1), BodyFraming::Chunked] {
            assert_eq!(BodyDecoder::new(framing, 3).unwrap().finish(), Err(BodyError::Truncated));
        }
        assert_eq!(BodyDecoder::new(BodyFraming::None, 3).unwrap().finish(), Ok(()));
    }

    fn nearly_chunked() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            8 => proptest::collection::vec(any::<u8>(), 1..20)
                .prop_map(|data| [format!("{:x}\r\n", data.len()).as_bytes(), &data, b"\r\n"].concat()),
            1 => Just(b"2;e=1\r\nab\r\n".to_vec()),
            1 => Just(b"0\r\n".to_vec()),
            1 => Just(b"T: r\r\n".to_vec()),
            1 => Just(b"\r\n".to_vec()),
            1 => proptest::collection::vec(any::<u8>(), 0..4),
        ];
        proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_split_equals_whole(
            input in nearly_chunked(),
            sizes in proptest::collection::vec(1..9usize, 1..5),
            length in 0..60u64,
        ) {
            for framing in [BodyFraming::Chunked, BodyFraming::Length(length), BodyFraming::UntilClose] {
                let expected = whole(framing, 50, &input);
                prop_assert_eq!(&in_pieces(framing, 50, &input, &sizes), &expected);
                prop_assert_eq!(&in_pieces(framing, 50, &input, &[1]), &expected);
            }
        }

        #[test]
        fn what_was_chunked_comes_back(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
        ) {
            let mut input = Vec::new();
            for chunk in &chunks {
                input.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
                input.extend_from_slice(chunk);
                input.extend_from_slice(b"\r\n");
            }
            input.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(whole(BodyFraming::Chunked, 300, &input), Ok(Some((chunks.concat(), input.len()))));
        }
    }
}
