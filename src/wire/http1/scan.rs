//! Finds the end of an HTTP/1 head while it arrives, and refuses at the first byte that cannot belong to one.
//!
//! The scanner remembers where it stopped and looks at no byte twice, so that a head sent byte by byte costs no more
//! than one sent whole. It owns line structure (line ends, folding, control bytes, size, number of headers); what the
//! lines say is read afterwards by `RequestHead` and `ResponseHead`. Called by whoever owns a read buffer.

/// How large a head may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// From the first byte to the end of the empty line.
    pub bytes_max: usize,
    pub headers_max: usize,
}

impl HeadLimits {
    /// What a client or a caller of the control API may send.
    pub const REQUEST: HeadLimits = HeadLimits { bytes_max: 8192, headers_max: 64 };
    /// What a business server may answer: it is trusted more, and frameworks like to add headers.
    pub const RESPONSE: HeadLimits = HeadLimits { bytes_max: 64 << 10, headers_max: 256 };
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("head longer than {max} bytes")]
    TooLong { max: usize },
    #[error("more than {max} headers")]
    TooManyHeaders { max: usize },
    /// Known to the owner of the deadline only; it is here so that one type answers for heads.
    #[error("head not complete in time")]
    Timeout,
    #[error("line feed without carriage return")]
    BareLf,
    #[error("carriage return without line feed")]
    BareCr,
    #[error("control byte {byte:#04x}")]
    ControlByte { byte: u8 },
    #[error("folded header line")]
    Folded,
    #[error("more than one empty line before the head")]
    EmptyLines,
    #[error("malformed request line")]
    RequestLine,
    #[error("malformed status line")]
    StatusLine,
    #[error("malformed header name")]
    HeaderName,
    #[error("malformed header value")]
    HeaderValue,
    #[error("neither HTTP/1.0 nor HTTP/1.1")]
    Version,
    #[error("request target of no supported form")]
    Target,
    #[error("no Host")]
    HostMissing,
    #[error("more than one Host")]
    HostRepeated,
    #[error("malformed Host")]
    HostMalformed,
    #[error("malformed Content-Length")]
    LengthMalformed,
    #[error("Content-Length headers that differ")]
    LengthsDiffer,
    #[error("Content-Length together with Transfer-Encoding")]
    LengthWithTransferCoding,
    #[error("Transfer-Encoding in HTTP/1.0")]
    TransferCodingInHttp10,
    #[error("transfer coding other than a single chunked")]
    TransferCoding,
}

impl HeadError {
    /// The HTTP status that answers a refused request. The connection is closed after it: where the next request would
    /// begin is not known.
    pub fn status(self) -> u16 {
        match self {
            HeadError::Timeout => 408,
            HeadError::TooLong { .. } | HeadError::TooManyHeaders { .. } => 431,
            HeadError::TransferCoding => 501,
            HeadError::Version => 505,
            _ => 400,
        }
    }
}

/// Where in a head the scanner stands. One per head: start the next one with `HeadScanner::default()`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeadScanner {
    /// Bytes scanned. An offending byte is not counted, so that the next call gives the same refusal.
    seen: usize,
    /// Lines ended: the first is the request or status line.
    lines: usize,
    state: ScanState,
    /// Robustness allows one empty line before a request (RFC 9112, section 2.2).
    skipped_empty_line: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ScanState {
    #[default]
    LineStart,
    Line,
    /// After the CR that ends a line.
    LineCr,
    /// After the CR of an empty line.
    EmptyCr,
    Done,
}

impl HeadScanner {
    /// Looks at the bytes of `buf` not seen before; `buf` begins where the head begins and only grows between calls.
    /// `Some(len)` when `buf[..len]` is a whole head, `None` when more must be read. A repeated call changes nothing.
    pub fn advance(&mut self, buf: &[u8], limits: &HeadLimits) -> Result<Option<usize>, HeadError> {
        debug_assert!(buf.len() >= self.seen, "the buffer grows while a head is scanned");
        let end = buf.len().min(limits.bytes_max);
        while self.state != ScanState::Done && self.seen < end {
            if self.state == ScanState::Line {
                self.seen += text_len(&buf[self.seen..end]);
                if self.seen == end {
                    break;
                }
            }
            self.state = self.step(buf[self.seen], limits)?;
            self.seen += 1;
        }
        match self.state {
            ScanState::Done => Ok(Some(self.seen)),
            // The empty line is still missing and there is no room for it.
            _ if self.seen >= limits.bytes_max => Err(HeadError::TooLong { max: limits.bytes_max }),
            _ => Ok(None),
        }
    }

    /// True before the first byte: no request has begun, so closing the connection loses nothing.
    pub fn is_untouched(&self) -> bool {
        self.seen == 0
    }

    fn step(&mut self, byte: u8, limits: &HeadLimits) -> Result<ScanState, HeadError> {
        match (self.state, byte) {
            (ScanState::LineCr, b'\n') => {
                self.lines += 1;
                Ok(ScanState::LineStart)
            }
            (ScanState::EmptyCr, b'\n') if self.lines > 0 => Ok(ScanState::Done),
            (ScanState::EmptyCr, b'\n') if self.skipped_empty_line => Err(HeadError::EmptyLines),
            (ScanState::EmptyCr, b'\n') => {
                self.skipped_empty_line = true;
                Ok(ScanState::LineStart)
            }
            (ScanState::LineCr | ScanState::EmptyCr, _) => Err(HeadError::BareCr),
            (_, b'\n') => Err(HeadError::BareLf),
            (ScanState::LineStart, b'\r') => Ok(ScanState::EmptyCr),
            (_, b'\r') => Ok(ScanState::LineCr),
            // RFC 9112, section 5.2: a server must refuse a folded line, or rewrite it.
            (ScanState::LineStart, b' ' | b'\t') if self.lines > 0 => Err(HeadError::Folded),
            (ScanState::Line, b'\t') if self.lines > 0 => Ok(ScanState::Line),
            (_, 0..0x20 | 0x7F) => Err(HeadError::ControlByte { byte }),
            (ScanState::LineStart, _) if self.lines > limits.headers_max => {
                Err(HeadError::TooManyHeaders { max: limits.headers_max })
            }
            _ => Ok(ScanState::Line),
        }
    }
}

/// How many bytes at the front of `bytes` are neither control bytes nor DEL: in blocks, without a branch per byte, so
/// that the compiler looks at a block at once; then in words, for the place in a block, and for short lines.
fn text_len(bytes: &[u8]) -> usize {
    let is_text = |byte: u8| (byte >= 0x20) & (byte != 0x7F);
    let (blocks, _) = bytes.as_chunks::<16>();
    let is_all_text = |block: &&[u8; 16]| block.iter().fold(true, |text, &byte| text & is_text(byte));
    let mut len = blocks.iter().take_while(is_all_text).count() * 16;
    while let Some(word) = bytes[len..].first_chunk() {
        let controls = controls(u64::from_le_bytes(*word));
        if controls != 0 {
            return len + controls.trailing_zeros() as usize / 8;
        }
        len += 8;
    }
    len + bytes[len..].iter().take_while(|byte| is_text(**byte)).count()
}

/// The high bit of each control byte and DEL; above the first one of them it may be wrong.
fn controls(word: u64) -> u64 {
    const LOW: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    // A byte below n ≤ 0x80 borrows into its high bit when n is taken away; bytes with the high bit set do not count.
    let below = |word: u64, n: u64| word.wrapping_sub(LOW * n) & !word & HIGH;
    below(word, 0x20) | below(word ^ (LOW * 0x7F), 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SMALL: HeadLimits = HeadLimits { bytes_max: 64, headers_max: 3 };

    fn whole(buf: &[u8], limits: &HeadLimits) -> Result<Option<usize>, HeadError> {
        HeadScanner::default().advance(buf, limits)
    }

    fn byte_by_byte(buf: &[u8], limits: &HeadLimits) -> Result<Option<usize>, HeadError> {
        let mut scanner = HeadScanner::default();
        for len in 0..=buf.len() {
            match scanner.advance(&buf[..len], limits) {
                Ok(None) => {}
                ended => return ended,
            }
        }
        Ok(None)
    }

    #[test]
    fn a_head_ends_at_its_empty_line() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut buf = head.to_vec();
        buf.extend_from_slice(b"\x00body\n");
        assert_eq!(whole(&buf, &SMALL), Ok(Some(head.len())));
        assert_eq!(whole(&head[..head.len() - 1], &SMALL), Ok(None));
        assert_eq!(whole(b"\r\nGET / HTTP/1.1\r\n\r\n", &SMALL), Ok(Some(20)));
        assert_eq!(whole(b"", &SMALL), Ok(None));
    }

    #[test]
    fn what_no_head_contains_is_refused_at_once() {
        let cases: &[(&[u8], HeadError)] = &[
            (b"GET / HTTP/1.1\n", HeadError::BareLf),
            (b"\n", HeadError::BareLf),
            (b"GET / HTTP/1.1\r\nHost: a\n", HeadError::BareLf),
            (b"GET / HTTP/1.1\rX", HeadError::BareCr),
            (b"GET / HTTP/1.1\r\n\rX", HeadError::BareCr),
            (b"GET / HTTP/1.1\r\nA: b\r\r", HeadError::BareCr),
            (b"\r\n\r\n", HeadError::EmptyLines),
            (b"GET / HTTP/1.1\r\nA: b\r\n ", HeadError::Folded),
            (b"GET / HTTP/1.1\r\nA: b\r\n\t", HeadError::Folded),
            (b"GET / HTTP/1.1\r\n ", HeadError::Folded),
            (b"GET / HTTP/1.1\r\nA: \x00", HeadError::ControlByte { byte: 0 }),
            (b"GET / HTTP/1.1\r\nA: \x7F", HeadError::ControlByte { byte: 0x7F }),
            (b"GET /\t", HeadError::ControlByte { byte: b'\t' }),
            (b"\x16", HeadError::ControlByte { byte: 0x16 }),
        ];
        for (head, error) in cases {
            assert_eq!(whole(head, &SMALL), Err(*error), "{}", head.escape_ascii());
            assert_eq!(whole(&head[..head.len() - 1], &SMALL), Ok(None), "refused too early: {}", head.escape_ascii());
        }
    }

    #[test]
    fn a_refusal_is_repeated_when_asked_again() {
        let mut scanner = HeadScanner::default();
        assert_eq!(scanner.advance(b"GET\n", &SMALL), Err(HeadError::BareLf));
        assert_eq!(scanner.advance(b"GET\n\r\n\r\n", &SMALL), Err(HeadError::BareLf));
    }

    #[test]
    fn a_measured_head_stays_measured() {
        let mut scanner = HeadScanner::default();
        assert_eq!(scanner.advance(b"A\r\n\r\n", &SMALL), Ok(Some(5)));
        assert_eq!(scanner.advance(b"A\r\n\r\n\n\n", &SMALL), Ok(Some(5)));
    }

    #[test]
    fn the_limits_are_exact() {
        let head = |value: usize| format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(value));
        let fits = SMALL.bytes_max - head(0).len();
        assert_eq!(whole(head(fits).as_bytes(), &SMALL), Ok(Some(64)));
        assert_eq!(whole(head(fits + 1).as_bytes(), &SMALL), Err(HeadError::TooLong { max: 64 }));
        assert_eq!(whole(&[b'a'; 63], &SMALL), Ok(None));
        assert_eq!(whole(&[b'a'; 64], &SMALL), Err(HeadError::TooLong { max: 64 }));
        assert_eq!(whole(b"G\r\nA:\r\nB:\r\nC:\r\n\r\n", &SMALL), Ok(Some(17)));
        assert_eq!(whole(b"G\r\nA:\r\nB:\r\nC:\r\nD", &SMALL), Err(HeadError::TooManyHeaders { max: 3 }));
    }

    #[test]
    fn refusals_have_the_statuses_of_the_protocol() {
        assert_eq!(HeadError::TooLong { max: 1 }.status(), 431);
        assert_eq!(HeadError::TooManyHeaders { max: 1 }.status(), 431);
        assert_eq!(HeadError::Timeout.status(), 408);
        assert_eq!(HeadError::BareLf.status(), 400);
        assert_eq!(HeadError::HostRepeated.status(), 400);
        assert_eq!(HeadError::TransferCoding.status(), 501);
        assert_eq!(HeadError::Version.status(), 505);
    }

    /// Bytes that look enough like heads to get far into the scanner.
    fn nearly_a_head() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => Just(b"\r\n".to_vec()),
            4 => "[A-Za-z]{1,12}: [ -~]{0,20}\r\n".prop_map(String::into_bytes),
            2 => Just(b"GET / HTTP/1.1\r\n".to_vec()),
            1 => Just(b"\n".to_vec()),
            1 => Just(b"\r".to_vec()),
            1 => proptest::collection::vec(any::<u8>(), 0..9),
        ];
        proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn byte_by_byte_equals_whole(buf in nearly_a_head()) {
            prop_assert_eq!(byte_by_byte(&buf, &SMALL), whole(&buf, &SMALL));
        }

        #[test]
        fn text_len_agrees_with_looking_at_each_byte(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let plain = bytes.iter().position(|byte| *byte < 0x20 || *byte == 0x7F).unwrap_or(bytes.len());
            prop_assert_eq!(text_len(&bytes), plain);
        }

        #[test]
        fn text_len_finds_a_lone_control_byte(position in 0..40usize, byte in any::<u8>()) {
            let mut bytes = [b'a'; 40];
            bytes[position] = byte;
            let control = byte < 0x20 || byte == 0x7F;
            prop_assert_eq!(text_len(&bytes), if control { position } else { 40 });
        }
    }
}
