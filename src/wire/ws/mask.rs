//! The client's mask, RFC 6455 section 5.3: payload byte i is XORed with key byte i mod 4. Masking undoes itself.
//!
//! Safe code over eight-byte words, which the compiler widens to the vector registers of the target.

/// Unmasks (or masks) `data` in place; `offset` is the place of `data[0]` in its frame's payload.
pub fn unmask(data: &mut [u8], key: [u8; 4], offset: usize) {
    let key = rotated(key, offset);
    let [a, b, c, d] = key;
    let word_key = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, tail) = data.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ word_key).to_ne_bytes();
    }
    // Eight is a multiple of four, so the tail starts at the key's first byte again.
    for (byte, key) in tail.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// The key as it lies at `offset`.
fn rotated(mut key: [u8; 4], offset: usize) -> [u8; 4] {
    key.rotate_left(offset % 4);
    key
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(data: &mut [u8], key: [u8; 4], offset: usize) {
        for (i, byte) in data.iter_mut().enumerate() {
            *byte ^= key[(offset + i) % 4];
        }
    }

    #[test]
    fn the_example_of_the_rfc_unmasks() {
        let mut data = *b"\x7f\x9f\x4d\x51\x58";
        unmask(&mut data, [0x37, 0xfa, 0x21, 0x3d], 0);
        assert_eq!(&data, b"Hello");
    }

    proptest! {
        #[test]
        fn any_alignment_equals_the_naive_loop(
            data in proptest::collection::vec(any::<u8>(), 0..200),
            key: [u8; 4],
            offset in 0..1000usize,
            skip in 0..16usize,
        ) {
            let skip = skip.min(data.len());
            let (mut fast, mut slow) = (data.clone(), data);
            unmask(&mut fast[skip..], key, offset);
            naive(&mut slow[skip..], key, offset);
            prop_assert_eq!(fast, slow);
        }
    }
}
