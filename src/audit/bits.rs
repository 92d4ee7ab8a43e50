//! A growing set of numbers from 0, one bit each: which messages of a stream were tried, acknowledged, delivered.

#[derive(Debug, Default)]
pub struct Bits(Vec<u64>);

impl Bits {
    /// True when it was not in the set.
    pub fn insert(&mut self, number: u64) -> bool {
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }

    pub fn contains(&self, number: u64) -> bool {
        self.0.get((number / 64) as usize).is_some_and(|word| word & 1 << (number % 64) != 0)
    }

    pub fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// How many are here and not in `other`.
    pub fn without(&self, other: &Bits) -> u64 {
        let pairs = self.0.iter().enumerate().map(|(position, word)| word & !other.0.get(position).unwrap_or(&0));
        pairs.map(|word| u64::from(word.count_ones())).sum()
    }
}
