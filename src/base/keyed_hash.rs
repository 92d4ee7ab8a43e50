//! A hash of names that strangers choose: SipHash-1-3 (Aumasson, Bernstein: "SipHash: a fast short-input PRF", 2012),
//! with a key that is drawn at the start of the process. Who does not know the key cannot make names collide.
//!
//! The same name has the same hash on every worker of a process, and another one in the next process: hashes are not
//! for the wire, and not for a store.

/// Two numbers that nobody outside can guess.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey(u64, u64);

impl HashKey {
    pub const fn new(first: u64, second: u64) -> HashKey {
        HashKey(first, second)
    }

    #[inline]
    pub fn hash(self, name: &str) -> u64 {
        siphash::<1, 3>(self, name.as_bytes())
    }
}

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey")
    }
}

fn siphash<const C: usize, const D: usize>(key: HashKey, bytes: &[u8]) -> u64 {
    let HashKey(k0, k1) = key;
    let initial = [0x736F_6D65_7073_6575, 0x646F_7261_6E64_6F6D, 0x6C79_6765_6E65_7261, 0x7465_6462_7974_6573];
    let mut v: [u64; 4] = [k0 ^ initial[0], k1 ^ initial[1], k0 ^ initial[2], k1 ^ initial[3]];
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        absorb::<C>(&mut v, u64::from_le_bytes(*word));
    }
    // The length's low byte is the highest byte of the last word.
    let last = rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)) | (bytes.len() as u64) << 56;
    absorb::<C>(&mut v, last);
    v[2] ^= 0xFF;
    (0..D).for_each(|_| round(&mut v));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn absorb<const ROUNDS: usize>(v: &mut [u64; 4], word: u64) {
    v[3] ^= word;
    (0..ROUNDS).for_each(|_| round(v));
    v[0] ^= word;
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustc_hash::FxHasher;
    use std::collections::HashSet;
    use std::hash::{DefaultHasher, Hasher};

    const KEYS: [HashKey; 2] = [HashKey::new(1, 2), HashKey::new(3, 4)];

    #[test]
    fn the_paper_has_this_hash() {
        let key = HashKey::new(0x0706_0504_0302_0100, 0x0F0E_0D0C_0B0A_0908);
        let bytes: Vec<u8> = (0..15).collect();
        assert_eq!(siphash::<2, 4>(key, &bytes), 0xA129_CA61_49BE_45E5);
    }

    proptest! {
        #[test]
        fn the_standard_library_has_the_same_hash(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut hasher = DefaultHasher::new();
            hasher.write(&bytes);
            prop_assert_eq!(siphash::<1, 3>(HashKey::new(0, 0), &bytes), hasher.finish());
        }
    }

    fn without_key(name: &str) -> u64 {
        let mut hasher = FxHasher::default();
        hasher.write(name.as_bytes());
        hasher.finish()
    }

    /// The product that FxHash folds a block into, when its state is at its start.
    fn folded(block: &str) -> u64 {
        let word = |at: usize| u64::from_le_bytes(block.as_bytes()[at..at + 8].try_into().expect("eight bytes"));
        let product = u128::from(0x243F_6A88_85A3_08D3 ^ word(0)) * u128::from(0xA409_3822_299F_31D0 ^ word(8));
        product as u64 ^ (product >> 64) as u64
    }

    /// Printable names that FxHash takes for one, as the text below makes them by hand: its state after the first block
    /// is printable, so that a word of the last block takes it to 0. Whatever that is multiplied with is then free: 95⁸
    /// names.
    fn colliding(count: usize) -> Vec<String> {
        let is_printable = |word: &u64| word.to_le_bytes().iter().all(|byte| (b' '..=b'~').contains(byte));
        let found = (0_u64..).map(|n| format!("{n:016}")).find(|first| is_printable(&folded(first)));
        let first = found.expect("one of a few thousand is");
        let zero = String::from_utf8(folded(&first).to_le_bytes().into()).expect("it is printable");
        let second = "any other block..";
        (0..count).map(|n| format!("{first}{}{zero}{n:08}", &second[..16])).collect()
    }

    #[test]
    fn names_that_collide_without_a_key_do_not_with_one() {
        let names = colliding(10_000);
        let hashes = |hash: &dyn Fn(&str) -> u64| names.iter().map(|name| hash(name)).collect::<HashSet<_>>();
        assert_eq!(hashes(&without_key).len(), 1, "they were made to collide: {}", names[0]);
        let keyed = KEYS.map(|key| hashes(&|name| key.hash(name)));
        assert!(keyed.iter().all(|hashes| hashes.len() == names.len()));
        assert!(keyed[0].is_disjoint(&keyed[1]), "the key decides");
        // Nor in the buckets of a table, or among the workers.
        let buckets: HashSet<u64> = names.iter().map(|name| KEYS[0].hash(name) >> 48).collect();
        assert!(buckets.len() > 9_000, "{} of 65,536 buckets for 10,000 names", buckets.len());
    }
}
