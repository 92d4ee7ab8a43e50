//! UTF-8 that arrives in pieces, RFC 6455 section 8.1: refused at the first byte that cannot be right.
//!
//! The bulk goes through simdutf8; only a code point that is cut by the end of a piece is finished byte by byte. Says
//! nothing of what the bytes mean and keeps at most three of them.

use std::str;

use simdutf8::compat;
use thiserror::Error;

/// The state between two pieces.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Utf8 {
    /// The beginning of a code point; one byte larger than what is stored, so that the last byte can be tried in place.
    cut: [u8; 4],
    cut_len: u8,
}

impl Utf8 {
    /// Takes the next piece. After an error the state is meaningless.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), InvalidUtf8> {
        let mut rest = piece;
        while self.cut_len > 0 {
            let Some((&byte, tail)) = rest.split_first() else { return Ok(()) };
            self.finish_cut(byte)?;
            rest = tail;
        }
        match compat::from_utf8(rest) {
            Ok(_) => Ok(()),
            // No `error_len`: the piece ends inside a code point that is right so far.
            Err(error) if error.error_len().is_none() => {
                let cut = &rest[error.valid_up_to()..];
                self.cut[..cut.len()].copy_from_slice(cut);
                self.cut_len = cut.len() as u8;
                Ok(())
            }
            Err(_) => Err(InvalidUtf8),
        }
    }

    /// True between two code points: the text may end here.
    pub fn is_complete(&self) -> bool {
        self.cut_len == 0
    }

    fn finish_cut(&mut self, byte: u8) -> Result<(), InvalidUtf8> {
        let len = usize::from(self.cut_len) + 1;
        self.cut[len - 1] = byte;
        self.cut_len = match str::from_utf8(&self.cut[..len]) {
            Ok(_) => 0,
            Err(error) if error.error_len().is_none() => len as u8,
            Err(_) => return Err(InvalidUtf8),
        };
        Ok(())
    }
}

/// The text is not UTF-8.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("invalid UTF-8")]
pub struct InvalidUtf8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How many bytes of `text` are taken, one by one, before one is refused.
    fn accepted_len(text: &[u8]) -> usize {
        let mut utf8 = Utf8::default();
        text.iter().take_while(|&&byte| utf8.feed(&[byte]).is_ok()).count()
    }

    #[test]
    fn the_first_wrong_byte_is_refused() {
        // Overlong forms, surrogates, beyond U+10FFFF, stray continuation bytes: text, bytes that are right so far.
        let cases: &[(&[u8], usize)] = &[
            (b"\xC0\x80", 0),
            (b"\xE0\x80\x80", 1),
            (b"\xF0\x80\x80\x80", 1),
            (b"\xED\xA0\x80", 1),
            (b"\xF4\x90\x80\x80", 1),
            (b"\xF5\x80\x80\x80", 0),
            (b"a\x80", 1),
            (b"\xE2\x82a", 2),
            (b"\xF0\x9F\x98\x41", 3),
            ("\u{10FFFF}\u{D7FF}\u{E000}\u{0}".as_bytes(), 11),
        ];
        for (text, expected) in cases {
            assert_eq!(accepted_len(text), *expected, "{text:x?}");
        }
    }

    #[test]
    fn a_text_that_ends_inside_a_code_point_is_not_complete() {
        let mut utf8 = Utf8::default();
        for (byte, complete) in "é€😀".bytes().zip([false, true, false, false, true, false, false, false, true]) {
            utf8.feed(&[byte]).unwrap();
            assert_eq!(utf8.is_complete(), complete);
        }
    }

    /// Bytes that are often nearly UTF-8: characters of every length, some bytes overwritten.
    fn nearly_utf8() -> impl Strategy<Value = Vec<u8>> {
        let flips = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..2);
        (".{0,60}", flips).prop_map(|(text, flips)| {
            let mut bytes = text.into_bytes();
            for (index, byte) in flips {
                if !bytes.is_empty() {
                    let index = index.index(bytes.len());
                    bytes[index] = byte;
                }
            }
            bytes
        })
    }

    proptest! {
        #[test]
        fn any_split_agrees_with_std(
            text in prop_oneof![nearly_utf8(), proptest::collection::vec(any::<u8>(), 0..8)],
            splits in proptest::collection::vec(1..20usize, 1..8),
        ) {
            let mut utf8 = Utf8::default();
            let (mut rest, mut valid) = (&text[..], true);
            for len in splits.iter().cycle() {
                let (piece, tail) = rest.split_at(rest.len().min(*len));
                valid = valid && utf8.feed(piece).is_ok();
                rest = tail;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(valid && utf8.is_complete(), str::from_utf8(&text).is_ok());
        }

        #[test]
        fn bytes_are_refused_where_std_sees_the_error(text in nearly_utf8()) {
            let expected = match str::from_utf8(&text) {
                Err(error) if error.error_len().is_some() => {
                    // std names where the bad sequence begins and how much of it looked right.
                    let seen = error.error_len().unwrap_or(0);
                    let lone = seen == 1 && Utf8::default().feed(&text[error.valid_up_to()..][..1]).is_err();
                    error.valid_up_to() + if lone { 0 } else { seen }
                }
                _ => text.len(),
            };
            prop_assert_eq!(accepted_len(&text), expected);
        }
    }
}
