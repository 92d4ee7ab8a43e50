//! Responses of one connection, read one after another, in pieces as they arrive, out of one reused buffer.
//!
//! ```text
//!   buf   │ head (≤ 16 KiB) │ bytes not decoded yet │ room for the next read │
//!   body  │ decoded so far (≤ body_max) │
//! ```
//!
//! Owns the buffers and the state of the response that is being read. Reads no socket: `connection_task` reads into the
//! buffer and calls. What is not HTTP/1, or is larger than allowed, is a `Failure` as soon as it shows. Never allocates
//! by a declared length, and allocates nothing once the buffers are warm.

use crate::policy::backend::Failure;
use crate::wire::http1::{BodyDecoder, BodyError, HeadError, HeadLimits, HeadScanner, RESPONSE_SLOTS, ResponseHead};

/// One connection's.
#[derive(Default)]
pub struct ResponseReader {
    /// Begins with the head of the current response.
    buf: Vec<u8>,
    scanner: HeadScanner,
    /// Known once the head is whole.
    body_state: Option<BodyState>,
    body: Vec<u8>,
    interim_heads: u32,
    /// The backend has sent a byte of the current response.
    begun: bool,
}

struct BodyState {
    head_len: usize,
    decoder: BodyDecoder,
}

/// How far the current response has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseProgress {
    More,
    /// `on_response` has been called. With `reusable`, another request may go out on the connection.
    Complete {
        reusable: bool,
    },
}

impl ResponseReader {
    /// Lends the buffer for a read into its spare room, of which there is at least `ROOM_MIN`.
    pub fn take_buffer(&mut self) -> Vec<u8> {
        let mut buf = std::mem::take(&mut self.buf);
        buf.reserve(if self.body_state.is_some() { ROOM_IN_BODY } else { ROOM_MIN });
        buf
    }

    /// Takes the buffer back after the read.
    pub fn put_buffer(&mut self, buf: Vec<u8>) {
        self.buf = buf;
    }

    /// True when no byte of a response has come yet.
    pub fn is_untouched(&self) -> bool {
        !self.begun && self.buf.is_empty()
    }

    /// Reads on after bytes were added. When the response is complete, `on_response` is called with head, body and
    /// reusability, and the reader is ready for the next response.
    pub fn advance(
        &mut self,
        body_max: usize,
        on_response: impl FnOnce(&ResponseHead<'_>, &[u8], bool),
    ) -> Result<ResponseProgress, Failure> {
        self.begun |= !self.buf.is_empty();
        if self.body_state.is_some() {
            return self.advance_body(on_response);
        }
        loop {
            let Some(head_len) = self.scanner.advance(&self.buf, &HeadLimits::RESPONSE).map_err(head_failure)? else {
                return Ok(ResponseProgress::More);
            };
            let mut slots = RESPONSE_SLOTS;
            let head = ResponseHead::parse(&self.buf[..head_len], &mut slots).map_err(head_failure)?;
            if head.is_interim() {
                self.skip_interim(head_len)?;
                continue;
            }
            let mut decoder = BodyDecoder::new(head.framing, body_max).map_err(body_failure)?;
            // Nearly every response is whole in one read: its head is then parsed only once.
            let progress = decoder.advance(&self.buf[head_len..], &mut self.body).map_err(body_failure)?;
            if progress.done {
                let reusable = head.keep_alive() && head_len + progress.consumed == self.buf.len();
                on_response(&head, &self.body, reusable);
                self.reset();
                return Ok(ResponseProgress::Complete { reusable });
            }
            self.buf.truncate(head_len);
            self.body_state = Some(BodyState { head_len, decoder });
            return Ok(ResponseProgress::More);
        }
    }

    /// The backend has closed the connection. A response that ends with its connection is now complete, any other is
    /// cut.
    pub fn finish(&mut self, on_response: impl FnOnce(&ResponseHead<'_>, &[u8], bool)) -> Result<(), Failure> {
        let state = self.body_state.as_mut().ok_or(Failure::Reset)?;
        state.decoder.finish().map_err(body_failure)?;
        let mut slots = RESPONSE_SLOTS;
        let head = ResponseHead::parse(&self.buf[..state.head_len], &mut slots).map_err(head_failure)?;
        on_response(&head, &self.body, false);
        self.reset();
        Ok(())
    }

    fn advance_body(
        &mut self,
        on_response: impl FnOnce(&ResponseHead<'_>, &[u8], bool),
    ) -> Result<ResponseProgress, Failure> {
        let state = self.body_state.as_mut().expect("called with a head");
        let progress = state.decoder.advance(&self.buf[state.head_len..], &mut self.body).map_err(body_failure)?;
        if !progress.done {
            debug_assert_eq!(state.head_len + progress.consumed, self.buf.len(), "a decoder takes all it is given");
            self.buf.truncate(state.head_len);
            return Ok(ResponseProgress::More);
        }
        let mut slots = RESPONSE_SLOTS;
        let head = ResponseHead::parse(&self.buf[..state.head_len], &mut slots).map_err(head_failure)?;
        let reusable = head.keep_alive() && state.head_len + progress.consumed == self.buf.len();
        on_response(&head, &self.body, reusable);
        self.reset();
        Ok(ResponseProgress::Complete { reusable })
    }

    fn skip_interim(&mut self, head_len: usize) -> Result<(), Failure> {
        self.interim_heads += 1;
        if self.interim_heads > INTERIM_HEADS_MAX {
            return Err(Failure::Malformed);
        }
        self.buf.drain(..head_len);
        self.scanner = HeadScanner::default();
        Ok(())
    }

    fn reset(&mut self) {
        self.buf.clear();
        self.body.clear();
        // One large response must not keep its memory for the life of the connection.
        self.buf.shrink_to(BUFFER_BYTES_MAX);
        self.body.shrink_to(BUFFER_BYTES_MAX);
        self.scanner = HeadScanner::default();
        self.body_state = None;
        self.interim_heads = 0;
        self.begun = false;
    }
}

fn head_failure(error: HeadError) -> Failure {
    match error {
        HeadError::TooLong { .. } | HeadError::TooManyHeaders { .. } => Failure::TooLarge,
        _ => Failure::Malformed,
    }
}

fn body_failure(error: BodyError) -> Failure {
    match error {
        BodyError::TooLarge { .. } | BodyError::TooMuchOverhead { .. } => Failure::TooLarge,
        BodyError::Truncated => Failure::Reset,
        _ => Failure::Malformed,
    }
}

/// Room for one read: an ordinary response whole.
const ROOM_MIN: usize = 4096;
/// Room for each further read of a long response: the rest of it in few pieces.
const ROOM_IN_BODY: usize = 32 << 10;
/// What each buffer keeps of its memory between two responses.
const BUFFER_BYTES_MAX: usize = 64 << 10;
const _: () = assert!(2 * ROOM_IN_BODY <= BUFFER_BYTES_MAX);
/// RFC 9110 §15.2 allows any number of 1xx heads; more than a few are an attempt to keep us busy.
const INTERIM_HEADS_MAX: u32 = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BODY_MAX: usize = 100_000;

    type Response = (u16, Vec<u8>, bool);

    /// Status, body and reusability of all responses in `bytes`, fed in pieces of `piece` bytes, and how it ended.
    fn read(bytes: &[u8], piece: usize, closes: bool) -> (Vec<Response>, Option<Failure>) {
        let (mut reader, mut responses) = (ResponseReader::default(), Vec::new());
        for piece in bytes.chunks(piece.max(1)) {
            let mut buf = reader.take_buffer();
            assert!(buf.capacity() - buf.len() >= ROOM_MIN);
            buf.extend_from_slice(piece);
            reader.put_buffer(buf);
            let response = |head: &ResponseHead<'_>, body: &[u8], reusable| {
                responses.push((head.status, body.to_vec(), reusable));
            };
            match reader.advance(BODY_MAX, response) {
                Ok(ResponseProgress::More) => {}
                Ok(ResponseProgress::Complete { reusable }) => {
                    assert!(reader.is_untouched());
                    if !reusable {
                        return (responses, None);
                    }
                }
                Err(failure) => return (responses, Some(failure)),
            }
        }
        if closes && !reader.is_untouched() {
            let end = reader.finish(|head, body, reusable| responses.push((head.status, body.to_vec(), reusable)));
            return (responses, end.err());
        }
        (responses, None)
    }

    fn body_of(bytes: &[u8]) -> Vec<Response> {
        let (responses, failure) = read(bytes, bytes.len(), true);
        assert_eq!(failure, None);
        responses
    }

    #[test]
    fn all_framings_are_read() {
        let hello = b"hello".to_vec();
        assert_eq!(body_of(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"), [(200, hello.clone(), true)]);
        assert_eq!(
            body_of(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
            [(200, hello.clone(), true)]
        );
        assert_eq!(body_of(b"HTTP/1.0 200 OK\r\n\r\nhello"), [(200, hello, false)]);
        assert_eq!(body_of(b"HTTP/1.1 204 No Content\r\n\r\n"), [(204, vec![], true)]);
        assert_eq!(
            body_of(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
            [(200, vec![], false)]
        );
    }

    #[test]
    fn interim_heads_are_skipped_up_to_a_limit() {
        let interim = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";
        let end = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        assert_eq!(body_of(&[&interim[..], interim, end].concat()), [(200, b"ok".to_vec(), true)]);
        let many = interim.repeat(INTERIM_HEADS_MAX as usize + 1);
        assert_eq!(read(&many, many.len(), true).1, Some(Failure::Malformed));
    }

    #[test]
    fn bytes_after_a_response_end_the_connection() {
        let two = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1";
        assert_eq!(body_of(two), [(200, b"ok".to_vec(), false)]);
    }

    #[test]
    fn what_is_no_response_fails() {
        let fails = |bytes: &[u8]| read(bytes, bytes.len(), true).1;
        assert_eq!(fails(b"SSH-2.0-OpenSSH\r\n\r\n"), Some(Failure::Malformed));
        assert_eq!(fails(b"\x00\x01"), Some(Failure::Malformed));
        assert_eq!(fails(b"HTTP/1.1 200 OK\r\nContent-Le"), Some(Failure::Reset));
        assert_eq!(fails(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell"), Some(Failure::Reset));
        assert_eq!(fails(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz"), Some(Failure::Malformed));
        assert_eq!(fails(b"HTTP/1.1 200 OK\r\nContent-Length: 2147483648\r\n\r\n"), Some(Failure::TooLarge));
        let endless = [b"HTTP/1.0 200 OK\r\n\r\n".to_vec(), vec![b'x'; BODY_MAX + 1]].concat();
        assert_eq!(fails(&endless), Some(Failure::TooLarge));
        let long_head = [b"HTTP/1.1 200 OK\r\nA: ".to_vec(), vec![b'x'; HeadLimits::RESPONSE.bytes_max]].concat();
        assert_eq!(fails(&long_head), Some(Failure::TooLarge));
    }

    fn response() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        let chunked = prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..5).prop_map(|chunks| {
            let mut bytes = b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n".to_vec();
            for chunk in &chunks {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(&[chunk, &b"\r\n"[..]].concat());
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
            (bytes, chunks.concat())
        });
        let length = prop::collection::vec(any::<u8>(), 0..5000).prop_map(|body| {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            ([head.as_bytes(), &body].concat(), body)
        });
        prop_oneof![chunked, length]
    }

    proptest! {
        #[test]
        fn byte_by_byte_equals_whole((bytes, body) in response(), piece in 1usize..600) {
            let whole = read(&bytes, bytes.len(), true);
            prop_assert_eq!(&whole, &(vec![(200, body, true)], None));
            prop_assert_eq!(&read(&bytes, 1, true), &whole);
            prop_assert_eq!(&read(&bytes, piece, true), &whole);
        }

        #[test]
        fn a_cut_response_is_a_reset(((bytes, _), cut) in (response(), any::<prop::sample::Index>())) {
            let cut = cut.index(bytes.len());
            let (responses, failure) = read(&bytes[..cut], 1000, true);
            prop_assert!(responses.is_empty());
            prop_assert_eq!(failure, (cut > 0).then_some(Failure::Reset));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, piece in 1usize..50) {
            let with_head = [&b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"[..], &bytes].concat();
            prop_assert_eq!(read(&bytes, piece, true), read(&bytes, 1, true));
            read(&with_head, piece, true);
        }
    }
}
