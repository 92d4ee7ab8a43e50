//! A histogram of values up to 2²⁷ with one writer, and the sum of several, from which percentiles are read.
//!
//! Recording costs the writer two loads and two stores. Whoever reads adds the writers' histograms up first.

use super::counter::Counter;

/// Log-linear buckets: each power of two is cut into sixteen, so that a percentile read back is at most 1/16 too high.
#[derive(Debug)]
pub struct Histogram {
    counts: [Counter; BUCKETS],
    sum: Counter,
}

/// Several histograms added up.
#[derive(Clone, Debug)]
pub struct HistogramTotal {
    counts: [u64; BUCKETS],
    sum: u64,
}

impl Histogram {
    pub fn record(&self, value: u64) {
        self.counts[bucket(value)].add(1);
        self.sum.add(value);
    }
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: std::array::from_fn(|_| Counter::default()), sum: Counter::default() }
    }
}

impl HistogramTotal {
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a Histogram>) -> HistogramTotal {
        let mut total = HistogramTotal { counts: [0; BUCKETS], sum: 0 };
        for part in parts {
            for (count, of_part) in total.counts.iter_mut().zip(&part.counts) {
                *count += of_part.get();
            }
            total.sum += part.sum.get();
        }
        total
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The value below or at which so many of a thousand values lie (p99 is 990); 0 when there are none.
    pub fn per_mille(&self, per_mille: u64) -> u64 {
        debug_assert!(per_mille <= 1000);
        let rank = (self.count() * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_bound(index);
            }
        }
        0
    }

    /// For cumulative exports: the values counted that are certainly not above `bound`.
    pub fn count_up_to(&self, bound: u64) -> u64 {
        self.counts
            .iter()
            .enumerate()
            .take_while(|(index, _)| upper_bound(*index) <= bound)
            .map(|(_, count)| count)
            .sum()
    }
}

fn bucket(value: u64) -> usize {
    let value = value.min(VALUE_MAX);
    if value < CUTS {
        return value as usize;
    }
    let octave = value.ilog2() - CUTS.ilog2();
    // The top four bits below the highest one say which sixteenth of the octave it is.
    let cut = (value >> octave) - CUTS;
    (u64::from(octave + 1) * CUTS + cut) as usize
}

/// The largest value that lands in the bucket.
fn upper_bound(index: usize) -> u64 {
    let (octave, cut) = (index as u64 / CUTS, index as u64 % CUTS);
    if octave == 0 { cut } else { ((CUTS + cut + 1) << (octave - 1)) - 1 }
}

const CUTS: u64 = 16;
/// 2²⁷ µs are 134 s, longer than any attempt lasts.
const OCTAVES: u64 = 27 - CUTS.ilog2() as u64;
const VALUE_MAX: u64 = (1 << 27) - 1;
const BUCKETS: usize = ((OCTAVES + 1) * CUTS) as usize;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_bucket_ends_where_the_next_begins() {
        for index in 0..BUCKETS {
            assert_eq!(bucket(upper_bound(index)), index);
            assert_eq!(bucket(upper_bound(index) + 1), (index + 1).min(BUCKETS - 1));
        }
        assert_eq!(upper_bound(BUCKETS - 1), VALUE_MAX);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn an_empty_histogram_has_no_percentiles() {
        let total = HistogramTotal::of([&Histogram::default()]);
        assert_eq!((total.count(), total.per_mille(990), total.sum()), (0, 0, 0));
    }

    proptest! {
        #[test]
        fn percentiles_are_at_most_a_sixteenth_too_high(
            mut values in prop::collection::vec(0u64..100_000_000, 1..300), per_mille in 1u64..=1000,
        ) {
            let (left, right) = (Histogram::default(), Histogram::default());
            for (i, value) in values.iter().enumerate() {
                [&left, &right][i % 2].record(*value);
            }
            values.sort_unstable();
            let total = HistogramTotal::of([&left, &right]);
            let exact = values[((values.len() as u64 * per_mille).div_ceil(1000) as usize).max(1) - 1];
            let read = total.per_mille(per_mille);
            prop_assert!(read >= exact && read <= exact + exact / 16, "{read} for {exact}");
            prop_assert_eq!(total.count(), values.len() as u64);
            prop_assert_eq!(total.sum(), values.iter().sum::<u64>());
            prop_assert_eq!(total.count_up_to(u64::MAX), total.count());
        }
    }
}
