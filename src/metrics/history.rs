//! The recent past of every figure: the last hour at ten seconds and the last day at five minutes, so that a page that
//! is opened after an incident shows it.
//!
//! Plain data of a fixed size: two rings of points per figure. One writer records (the main thread, with the values of
//! `sampler`); whoever looks takes a `View`. No clock: the time of a sample comes in. A point says how much time it
//! covers: 0 is a gap, in which nobody sampled; the point behind a gap covers the gap too, so that a rate stays true.

pub mod sampler;

use crate::base::time::Tick;

/// A figure whose past is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryFigure {
    /// In /info/, and in /info/history/.
    pub name: &'static str,
    pub help: &'static str,
    pub merge: Merge,
}

/// How the values of several intervals become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// What was counted in each.
    Sum,
    /// How high it stood, or how long it took, at the worst.
    Max,
}

/// Which ring is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    Hour,
    Day,
}

/// The points of a ring, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub interval_ms: u64,
    /// The number of the last point; a point's number times the interval is the tick at which it ends.
    pub last: u64,
    /// How much time each point covers; 0 is a gap.
    pub covers_ms: Vec<u32>,
    /// Figures that are not 0 in all points.
    pub figures: Vec<(HistoryFigure, Vec<u64>)>,
}

pub struct History {
    figures: Vec<HistoryFigure>,
    hour: Ring,
    day: Ring,
    /// Of the last sample.
    sampled: Tick,
}

struct Ring {
    interval_ms: u64,
    /// The number of the newest point.
    last: u64,
    /// By point, and of all figures the values of one point together: a sample touches few cache lines.
    values: Vec<u64>,
    covers_ms: Vec<u32>,
    figures: usize,
}

impl History {
    pub fn new(figures: Vec<HistoryFigure>, now: Tick) -> History {
        assert!(figures.len() <= FIGURES_MAX, "{} figures are more than the rings have room for", figures.len());
        let (hour, day) = (Ring::new(HOUR, figures.len(), now), Ring::new(DAY, figures.len(), now));
        History { figures, hour, day, sampled: now }
    }

    pub fn figures(&self) -> &[HistoryFigure] {
        &self.figures
    }

    /// When `record` is to be called next.
    pub fn next_sample(&self) -> Tick {
        Tick((self.sampled.0 / HOUR.interval_ms + 1) * HOUR.interval_ms)
    }

    /// The values of the time since the last call, in the order of the figures.
    pub fn record(&mut self, now: Tick, values: &[u64]) {
        assert_eq!(values.len(), self.figures.len());
        let covers_ms = u32::try_from(now.since_ms(self.sampled)).unwrap_or(u32::MAX);
        self.sampled = self.sampled.max(now);
        let point = self.sampled.0 / HOUR.interval_ms;
        self.hour.add(point, covers_ms, values, &self.figures);
        self.day.add(point.div_ceil(DAY.interval_ms / HOUR.interval_ms), covers_ms, values, &self.figures);
    }

    /// The points behind the one of that number.
    pub fn view(&self, span: Span, after: u64) -> View {
        let ring = match span {
            Span::Hour => &self.hour,
            Span::Day => &self.day,
        };
        let points = (ring.first()..=ring.last).filter(|&point| point > after);
        let figures = self.figures.iter().enumerate().filter_map(|(index, figure)| {
            let values: Vec<u64> = points.clone().map(|point| ring.values_of(point)[index]).collect();
            values.iter().any(|&value| value > 0).then_some((*figure, values))
        });
        View {
            interval_ms: ring.interval_ms,
            last: ring.last,
            covers_ms: points.clone().map(|point| ring.covers_ms[ring.slot(point)]).collect(),
            figures: figures.collect(),
        }
    }

    /// Bytes of the rings.
    pub fn memory(&self) -> usize {
        let rings = [&self.hour, &self.day];
        rings.iter().map(|ring| size_of_val(&*ring.values) + size_of_val(&*ring.covers_ms)).sum()
    }
}

impl Ring {
    fn new(shape: Shape, figures: usize, now: Tick) -> Ring {
        Ring {
            interval_ms: shape.interval_ms,
            last: now.0 / shape.interval_ms,
            values: vec![0; shape.points * figures],
            covers_ms: vec![0; shape.points],
            figures,
        }
    }

    fn slot(&self, point: u64) -> usize {
        (point % self.covers_ms.len() as u64) as usize
    }

    fn values_of(&self, point: u64) -> &[u64] {
        let begin = self.slot(point) * self.figures;
        &self.values[begin..begin + self.figures]
    }

    /// The oldest point that is not overwritten.
    fn first(&self) -> u64 {
        (self.last + 1).saturating_sub(self.covers_ms.len() as u64)
    }

    /// Adds the values to a point; the points that were passed over become gaps.
    fn add(&mut self, point: u64, covers_ms: u32, values: &[u64], figures: &[HistoryFigure]) {
        let passed = point.saturating_sub(self.last).min(self.covers_ms.len() as u64);
        self.last = self.last.max(point);
        for cleared in self.last + 1 - passed..=self.last {
            let slot = self.slot(cleared);
            self.covers_ms[slot] = 0;
            self.values[slot * self.figures..][..self.figures].fill(0);
        }
        let slot = self.slot(self.last);
        self.covers_ms[slot] = self.covers_ms[slot].saturating_add(covers_ms);
        let stored = &mut self.values[slot * self.figures..][..self.figures];
        for ((stored, &value), figure) in stored.iter_mut().zip(values).zip(figures) {
            *stored = match figure.merge {
                Merge::Sum => stored.saturating_add(value),
                Merge::Max => (*stored).max(value),
            };
        }
    }
}

#[derive(Clone, Copy)]
struct Shape {
    interval_ms: u64,
    points: usize,
}

const HOUR: Shape = Shape { interval_ms: 10_000, points: 360 };
const DAY: Shape = Shape { interval_ms: 300_000, points: 288 };
/// There are some 120; a test counts them.
pub const FIGURES_MAX: usize = 190;

// The rings never take a mebibyte.
const _: () = assert!((HOUR.points + DAY.points) * (FIGURES_MAX * size_of::<u64>() + size_of::<u32>()) < 1 << 20);
const _: () = assert!(HOUR.interval_ms * HOUR.points as u64 == 3_600_000);
const _: () = assert!(DAY.interval_ms * DAY.points as u64 == 86_400_000);
// A point of the day is made of whole points of the hour.
const _: () = assert!(DAY.interval_ms.is_multiple_of(HOUR.interval_ms));

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTED: HistoryFigure = HistoryFigure { name: "counted", help: "Counted.", merge: Merge::Sum };
    const STANDS: HistoryFigure = HistoryFigure { name: "stands", help: "Stands.", merge: Merge::Max };

    fn history() -> History {
        History::new(vec![COUNTED, STANDS], Tick(0))
    }

    fn seconds(seconds: u64) -> Tick {
        Tick(seconds * 1000)
    }

    /// One sample per interval, the nth of value n.
    fn record_points(history: &mut History, points: std::ops::RangeInclusive<u64>) {
        points.for_each(|n| history.record(seconds(n * 10), &[n, n]));
    }

    fn points(view: &View, name: &str) -> Vec<u64> {
        view.figures.iter().find(|(figure, _)| figure.name == name).map(|(_, points)| points.clone()).expect("a figure")
    }

    #[test]
    fn samples_are_points_in_their_order() {
        let mut history = history();
        assert_eq!(history.next_sample(), seconds(10));
        record_points(&mut history, 1..=3);
        assert_eq!(history.next_sample(), seconds(40));
        let view = history.view(Span::Hour, 0);
        assert_eq!((view.interval_ms, view.last), (10_000, 3));
        assert_eq!(view.covers_ms, [10_000; 3]);
        assert_eq!(points(&view, "counted"), [1, 2, 3]);
        assert_eq!(points(&history.view(Span::Hour, 2), "counted"), [3]);
        assert_eq!(history.view(Span::Hour, 3).covers_ms, [0u32; 0]);
        assert_eq!(history.view(Span::Hour, 99).covers_ms, [0u32; 0], "a page of an earlier life of the server");
    }

    #[test]
    fn the_oldest_points_make_room() {
        let mut history = history();
        record_points(&mut history, 1..=1_000);
        let view = history.view(Span::Hour, 0);
        assert_eq!(points(&view, "counted"), (641..=1_000).collect::<Vec<_>>());
        assert_eq!((view.last, view.covers_ms.len()), (1_000, 360));
        record_points(&mut history, 1_001..=30 * 400);
        let day = history.view(Span::Day, 0);
        assert_eq!((day.last, day.covers_ms.len()), (400, 288));
        assert!(day.covers_ms.iter().all(|&covers| covers == 300_000));
    }

    #[test]
    fn a_day_adds_up_what_is_counted_and_keeps_the_worst_of_what_stands() {
        let mut history = history();
        record_points(&mut history, 1..=75);
        let day = history.view(Span::Day, 0);
        assert_eq!(points(&day, "counted"), [(1..=30).sum(), (31..=60).sum(), (61..=75).sum::<u64>()]);
        assert_eq!(points(&day, "stands"), [30, 60, 75]);
        assert_eq!(day.covers_ms, [300_000, 300_000, 150_000], "the last one is not over");
    }

    #[test]
    fn a_stall_leaves_a_gap_and_the_point_behind_it_covers_it() {
        let mut history = history();
        record_points(&mut history, 1..=2);
        history.record(seconds(65), &[50, 9]);
        let view = history.view(Span::Hour, 0);
        assert_eq!(view.covers_ms, [10_000, 10_000, 0, 0, 0, 45_000]);
        assert_eq!(points(&view, "counted"), [1, 2, 0, 0, 0, 50]);
        // The next point begins where that one was sampled.
        history.record(seconds(70), &[5, 9]);
        assert_eq!(history.view(Span::Hour, 6).covers_ms, [5_000]);
    }

    #[test]
    fn a_stall_longer_than_a_ring_leaves_nothing_of_the_past() {
        let mut history = history();
        record_points(&mut history, 1..=500);
        history.record(seconds(100_000_000), &[7, 7]);
        for span in [Span::Hour, Span::Day] {
            let view = history.view(span, 0);
            let (last, past) =
                points(&view, "counted").split_last().map(|(last, past)| (*last, past.to_vec())).unwrap();
            assert_eq!((last, past.iter().sum::<u64>()), (7, 0), "{span:?}");
            assert_eq!(view.covers_ms.iter().filter(|&&covers| covers > 0).count(), 1);
        }
    }

    #[test]
    fn a_sample_before_the_next_interval_is_added_to_the_point() {
        let mut history = history();
        history.record(seconds(10), &[1, 5]);
        history.record(seconds(13), &[2, 3]);
        // A clock that went back is none; what it covers is counted once.
        history.record(seconds(12), &[4, 1]);
        let view = history.view(Span::Hour, 0);
        assert_eq!(
            (points(&view, "counted"), points(&view, "stands"), view.covers_ms),
            (vec![7], vec![5], vec![13_000])
        );
    }

    #[test]
    fn a_history_that_begins_late_has_no_points_before() {
        let mut history = History::new(vec![COUNTED], seconds(1_000_005));
        history.record(seconds(1_000_010), &[3]);
        let view = history.view(Span::Hour, 0);
        assert_eq!((view.last, view.covers_ms.len()), (100_001, 360));
        assert_eq!(view.covers_ms.iter().map(|&covers| u64::from(covers)).sum::<u64>(), 5_000);
    }

    #[test]
    fn figures_that_stay_0_are_left_out() {
        let mut history = history();
        history.record(seconds(10), &[0, 1]);
        let names: Vec<_> = history.view(Span::Hour, 0).figures.iter().map(|(figure, _)| figure.name).collect();
        assert_eq!(names, ["stands"]);
    }

    #[test]
    fn as_many_figures_as_there_may_be_take_less_than_a_mebibyte() {
        let history = History::new(vec![COUNTED; FIGURES_MAX], Tick(0));
        assert!(history.memory() < 1 << 20, "{}", history.memory());
    }
}
