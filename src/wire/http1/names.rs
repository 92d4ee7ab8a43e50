//! Names of headers, compared without case (RFC 9110, section 5.1): as `eq_ignore_ascii_case` does it, but eight bytes
//! at a time, because each head is searched for a dozen names.

/// Whether both are the same name.
#[inline]
pub fn is_same_name(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && is_same_text(a, b)
}

/// Whether a name begins with another one.
#[inline]
pub fn begins_with_name(name: &[u8], start: &[u8]) -> bool {
    name.get(..start.len()).is_some_and(|front| is_same_text(front, start))
}

/// Both are of one length.
fn is_same_text(a: &[u8], b: &[u8]) -> bool {
    let (Some(last_a), Some(last_b)) = (a.last_chunk(), b.last_chunk()) else { return a.eq_ignore_ascii_case(b) };
    // The last word overlaps the one before it where the length is no multiple of eight.
    let words = a.as_chunks().0.iter().zip(b.as_chunks().0);
    lower(*last_a) == lower(*last_b) && words.into_iter().all(|(a, b)| lower(*a) == lower(*b))
}

/// Eight bytes with their capital letters made small.
fn lower(bytes: [u8; 8]) -> u64 {
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    let word = u64::from_ne_bytes(bytes);
    // The high bit of each byte, which ASCII leaves free, says whether the rest of it is in the range.
    let low = word & (0x7F * EACH);
    let from_a = low + u64::from(0x80 - b'A') * EACH;
    let behind_z = low + u64::from(0x7F - b'Z') * EACH;
    let capitals = from_a & !behind_z & !word & (0x80 * EACH);
    word | capitals >> 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn names_are_the_same_where_std_says_so(
            a in prop::collection::vec(any::<u8>(), 0..40),
            flips in prop::collection::vec(any::<bool>(), 40),
            changed: Option<(prop::sample::Index, u8)>,
        ) {
            let mut b: Vec<u8> = a.iter().zip(flips).map(|(byte, flip)| byte ^ (u8::from(flip) << 5)).collect();
            if let Some((place, byte)) = changed && !b.is_empty() {
                let place = place.index(b.len());
                b[place] = byte;
            }
            prop_assert_eq!(is_same_name(&a, &b), a.eq_ignore_ascii_case(&b));
            let start = &b[..b.len() / 2];
            prop_assert_eq!(begins_with_name(&a, start), a[..start.len()].eq_ignore_ascii_case(start));
            prop_assert!(!is_same_name(&a, start) || a.is_empty());
        }
    }

    #[test]
    fn only_a_to_z_have_a_case() {
        for byte in 0..=u8::MAX {
            let (a, b) = ([byte; 9], [byte ^ 0x20; 9]);
            assert_eq!(is_same_name(&a, &b), byte.is_ascii_alphabetic(), "{byte:#04x}");
        }
    }
}
