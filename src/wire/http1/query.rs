//! Query strings: `application/x-www-form-urlencoded` pairs read in place, and percent-encoding for what Rainbow sends.
//!
//! Nothing is allocated unless a name or value really is encoded. The work is bounded by the query's own length, which
//! the limit of the head bounds. Called by the upgrade, the control API, and the client of the business server.

use crate::base::digits::Decimal;
use std::borrow::Cow;

/// The pairs of a query, decoded, in order; repeated names appear repeatedly. A pair without `=` has an empty value.
pub fn query_pairs(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    // Most queries hold nothing encoded: one look at the whole spares a look at each part.
    let encoded = memchr::memchr2(b'%', b'+', query.as_bytes()).is_some();
    let pair = move |name, value| match encoded {
        true => (decode(name), decode(value)),
        false => (Cow::Borrowed(name), Cow::Borrowed(value)),
    };
    let mut rest = query;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            // One look at each byte: a name ends at the first of both, its value at the `&`.
            let end_of_name = find(rest.as_bytes(), [b'=', b'&']);
            let (name, after) = rest.split_at(end_of_name);
            let Some(value) = after.strip_prefix('=') else {
                rest = after.get(1..).unwrap_or("");
                if name.is_empty() {
                    continue;
                }
                return Some(pair(name, ""));
            };
            let (value, after) = value.split_at(find(value.as_bytes(), [b'&', b'&']));
            rest = after.get(1..).unwrap_or("");
            return Some(pair(name, value));
        }
        None
    })
}

/// Where the first of the two bytes stands, or the end. Eight bytes at a time: parts are too short for a search that
/// has to be set up.
fn find(text: &[u8], either: [u8; 2]) -> usize {
    const LOW: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    // The high bit of each byte that is zero; above the first one of them it may be wrong.
    let zeros = |word: u64| word.wrapping_sub(LOW) & !word & HIGH;
    let mut start = 0;
    while let Some(word) = text[start..].first_chunk() {
        let word = u64::from_le_bytes(*word);
        let found = zeros(word ^ (LOW * u64::from(either[0]))) | zeros(word ^ (LOW * u64::from(either[1])));
        if found != 0 {
            return start + found.trailing_zeros() as usize / 8;
        }
        start += 8;
    }
    start + text[start..].iter().position(|byte| either.contains(byte)).unwrap_or(text.len() - start)
}

/// The first value of that name. Names compare exactly, as the first implementation compared them.
pub fn query_get<'q>(query: &'q str, name: &str) -> Option<Cow<'q, str>> {
    query_pairs(query).find(|(found, _)| found == name).map(|(_, value)| value)
}

/// Appends `text` so that it is safe in a query or a path segment: RFC 3986's unreserved characters as they are, every
/// other byte as `%XX`.
pub fn percent_encode_into(out: &mut Vec<u8>, text: impl AsRef<[u8]>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in text.as_ref() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
    }
}

/// Appends a number in decimal digits.
pub fn push_number(out: &mut Vec<u8>, number: usize) {
    out.extend_from_slice(Decimal::of(number as u64).as_bytes());
}

/// As the URL standard decodes forms: `+` is a space, a `%` without two hex digits stands for itself, and bytes that
/// are no UTF-8 become U+FFFD.
fn decode(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let (byte, next) = match (first, after) {
            (b'+', _) => (b' ', after),
            (b'%', [high, low, after_digits @ ..]) => match (hex_digit(*high), hex_digit(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after_digits),
                _ => (b'%', after),
            },
            _ => (*first, after),
        };
        bytes.push(byte);
        rest = next;
    }
    let text = String::from_utf8(bytes);
    Cow::Owned(text.unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// As RFC 8187 (section 3.2.1) encodes text: UTF-8, and each `%` before two hex digits. `None`: it is not that.
pub fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let (byte, next) = match (first, after) {
            (b'%', [high, low, after_digits @ ..]) => (hex_digit(*high)? << 4 | hex_digit(*low)?, after_digits),
            (b'%', _) => return None,
            _ => (*first, after),
        };
        bytes.push(byte);
        rest = next;
    }
    String::from_utf8(bytes).ok()
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_std_writes_them() {
        for number in [0, 7, 10, 65_535, usize::MAX] {
            let mut out = Vec::new();
            push_number(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }

    use proptest::prelude::*;

    #[test]
    fn pairs_come_decoded_and_in_order() {
        let pairs: Vec<_> = query_pairs("a=1&&b=x+y%21&c&a=%E4%BD%A0&=v&d=%zz%4").collect();
        let plain: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (name.as_ref(), value.as_ref())).collect();
        assert_eq!(plain, [("a", "1"), ("b", "x y!"), ("c", ""), ("a", "你"), ("", "v"), ("d", "%zz%4")]);
        assert_eq!(query_pairs("").count(), 0);
    }

    #[test]
    fn plain_pairs_are_borrowed() {
        let pairs: Vec<_> = query_pairs("channel=room").collect();
        assert!(matches!(pairs[..], [(Cow::Borrowed("channel"), Cow::Borrowed("room"))]));
    }

    #[test]
    fn bytes_that_are_no_utf8_are_replaced() {
        assert_eq!(query_get("a=%FFx", "a").as_deref(), Some("\u{FFFD}x"));
    }

    #[test]
    fn the_first_of_a_name_is_found_exactly() {
        assert_eq!(query_get("A=0&a=1&a=2", "a").as_deref(), Some("1"));
        assert_eq!(query_get("a=1", "b"), None);
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(name in any::<String>(), value in any::<String>()) {
            let mut query = Vec::new();
            percent_encode_into(&mut query, &name);
            query.push(b'=');
            percent_encode_into(&mut query, &value);
            let query = String::from_utf8(query).unwrap();
            prop_assert!(query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'&'));
            let found = query_get(&query, &name);
            prop_assert_eq!(found.as_deref(), Some(value.as_str()));
        }

        #[test]
        fn pairs_are_those_of_plain_splitting(query in "[a-c=&]{0,40}") {
            let plain = query.split('&').filter(|pair| !pair.is_empty());
            let plain: Vec<_> = plain.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect();
            let found: Vec<_> = query_pairs(&query).collect();
            prop_assert_eq!(found.iter().map(|(name, value)| (&**name, &**value)).collect::<Vec<_>>(), plain);
        }

        #[test]
        fn no_query_panics(query in any::<String>()) {
            prop_assert!(query_pairs(&query).count() <= query.len());
        }
    }
}
