//! Histograms with one writer, and the sum of several.
//!
//! `Histogram` is fine enough to read percentiles from it, for /info/. `Durations` has the few buckets that /metrics
//! shows, with round bounds. Recording costs the writer two loads and two stores, and no lock. Whoever reads adds the
//! writers' histograms up first.

use super::counter::Counter;
use std::sync::{Arc, OnceLock};

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

    /// What was recorded after `earlier` was read.
    pub fn since(&self, earlier: &HistogramTotal) -> HistogramTotal {
        let counts = std::array::from_fn(|index| self.counts[index].saturating_sub(earlier.counts[index]));
        HistogramTotal { counts, sum: self.sum.saturating_sub(earlier.sum) }
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
}

/// Lengths of time in microseconds, up to each of `BOUNDS_US`.
#[derive(Debug, Default)]
pub struct Durations {
    counts: [Counter; BOUNDS_US.len() + 1],
    sum_us: Counter,
}

/// Several `Durations` added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DurationsTotal {
    counts: [u64; BOUNDS_US.len() + 1],
    sum_us: u64,
}

impl Durations {
    #[inline]
    pub fn record(&self, us: u64) {
        self.counts[bucket_of_duration(us)].add(1);
        self.sum_us.add(us);
    }

    pub fn sum_us(&self) -> u64 {
        self.sum_us.get()
    }
}

impl DurationsTotal {
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a Durations>) -> DurationsTotal {
        let mut total = DurationsTotal::default();
        parts.into_iter().for_each(|part| total.add(part));
        total
    }

    pub fn add(&mut self, part: &Durations) {
        for (count, of_part) in self.counts.iter_mut().zip(&part.counts) {
            *count += of_part.get();
        }
        self.sum_us += part.sum_us.get();
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn sum_us(&self) -> u64 {
        self.sum_us
    }

    /// What was recorded after `earlier` was read.
    pub fn since(&self, earlier: &DurationsTotal) -> DurationsTotal {
        let counts = std::array::from_fn(|index| self.counts[index].saturating_sub(earlier.counts[index]));
        DurationsTotal { counts, sum_us: self.sum_us.saturating_sub(earlier.sum_us) }
    }

    /// The bound in microseconds that so many of a thousand do not exceed (p99 is 990); of those over the last bound
    /// the last bound. 0 when there are none.
    pub fn per_mille(&self, per_mille: u64) -> u64 {
        debug_assert!(per_mille <= 1000);
        let count = self.count();
        let rank = (count * per_mille).div_ceil(1000).max(1);
        let bound = self.cumulative().find(|(_, below)| *below >= rank).map(|(bound, _)| bound);
        let longest = if count > 0 { BOUNDS_US[BOUNDS_US.len() - 1] } else { 0 };
        bound.unwrap_or(longest)
    }

    /// Each bound in microseconds, and how many are not longer; those over the last bound are only in `count`.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> {
        BOUNDS_US.iter().zip(&self.counts).scan(0, |below, (bound, count)| {
            *below += count;
            Some((*bound, *below))
        })
    }
}

/// `Durations` by a label that neither a client nor a caller chooses. A label's place is taken when it is first named,
/// and kept: a reader finds it without a lock. When all places are taken, the others share the last one.
#[derive(Debug)]
pub struct DurationsByLabel {
    places: Box<[OnceLock<Labelled>]>,
}

#[derive(Debug)]
struct Labelled {
    label: Box<str>,
    durations: Arc<Durations>,
}

impl DurationsByLabel {
    /// By the owner only.
    pub fn named(&self, label: &str) -> &Arc<Durations> {
        let (shared, own) = self.places.split_last().expect("there are several places");
        let taken = |label: &str| Labelled { label: label.into(), durations: Arc::default() };
        for place in own {
            let there = place.get_or_init(|| taken(label));
            if *there.label == *label {
                return &there.durations;
            }
        }
        &shared.get_or_init(|| taken(OTHER)).durations
    }

    /// Each label that was named.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Durations)> {
        self.places.iter().filter_map(|place| place.get()).map(|there| (&*there.label, &*there.durations))
    }
}

impl Default for DurationsByLabel {
    fn default() -> DurationsByLabel {
        DurationsByLabel { places: (0..LABELS_MAX).map(|_| OnceLock::new()).collect() }
    }
}

/// The first bound that is not below `us`; behind the last one, what is longer than all.
#[inline]
fn bucket_of_duration(us: u64) -> usize {
    // Without a branch: the compiler compares several bounds at once.
    BOUNDS_US.iter().map(|bound| usize::from(us > *bound)).sum()
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

/// From 10 µs, a short turn, to 60 s, longer than a call or an attempt usually may last.
pub const BOUNDS_US: [u64; 21] = [
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];
/// More than paths, and more than upstreams as a rule; it bounds the page.
const LABELS_MAX: usize = 32;
const OTHER: &str = "other";
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

    #[test]
    fn labels_keep_their_places_and_those_without_one_share_the_last() {
        let durations = DurationsByLabel::default();
        for n in 0..LABELS_MAX + 10 {
            durations.named(&format!("label {n}")).record(7);
        }
        durations.named("label 3").record(7);
        let counts: Vec<_> =
            durations.iter().map(|(label, durations)| (label, DurationsTotal::of([durations]).count())).collect();
        assert_eq!(counts.len(), LABELS_MAX);
        assert_eq!((counts[0], counts[3]), (("label 0", 1), ("label 3", 2)));
        assert_eq!(counts[LABELS_MAX - 1], (OTHER, 11));
    }

    #[test]
    fn what_came_since_has_percentiles_of_its_own() {
        let (fine, rough) = (Histogram::default(), Durations::default());
        (0..100).for_each(|_| fine.record(5));
        (0..100).for_each(|_| rough.record(5));
        let before = (HistogramTotal::of([&fine]), DurationsTotal::of([&rough]));
        assert_eq!((before.0.per_mille(500), before.1.per_mille(500)), (5, 10));
        fine.record(9);
        rough.record(90);
        rough.record(70_000_000);
        let fine = HistogramTotal::of([&fine]).since(&before.0);
        let rough = DurationsTotal::of([&rough]).since(&before.1);
        assert_eq!((fine.count(), fine.sum(), fine.per_mille(500)), (1, 9, 9));
        assert_eq!((rough.count(), rough.per_mille(500), rough.per_mille(990)), (2, 100, 60_000_000));
        assert_eq!(DurationsTotal::default().per_mille(990), 0);
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
        }

        #[test]
        fn a_duration_is_counted_up_to_each_bound_that_it_does_not_exceed(
            values in prop::collection::vec(
                prop_oneof![0u64..100_000_000, prop::sample::select(&BOUNDS_US[..])], 0..50,
            ),
        ) {
            let (left, right) = (Durations::default(), Durations::default());
            for (i, value) in values.iter().enumerate() {
                [&left, &right][i % 2].record(*value);
            }
            let total = DurationsTotal::of([&left, &right]);
            for (bound, count) in total.cumulative() {
                prop_assert_eq!(count, values.iter().filter(|value| **value <= bound).count() as u64);
            }
            prop_assert_eq!(total.cumulative().count(), BOUNDS_US.len());
            prop_assert_eq!(total.count(), values.len() as u64);
            prop_assert_eq!(total.sum_us(), values.iter().sum::<u64>());
        }
    }
}
