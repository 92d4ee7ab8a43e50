//! Makes the values of one interval for `history`: what was counted since the last sample, what stands now, and how
//! long things took in between.
//!
//! Reads the atomics of `Metrics` and waits for nobody. What only the process around knows comes in as `Surroundings`.

use super::{HistoryFigure, Merge};
use crate::metrics::backend::latency_us;
use crate::metrics::counter::Kind;
use crate::metrics::figure::Sample;
use crate::metrics::histogram::{DurationsTotal, HistogramTotal};
use crate::metrics::process::Metrics;

/// What is read of the process at the moment of a sample.
#[derive(Clone, Copy, Debug, Default)]
pub struct Surroundings {
    pub channels: u64,
    /// Messages in the fullest mailbox of a worker.
    pub mailbox: u64,
    /// 0 without a store.
    pub store_queued: u64,
    pub cpu_us: u64,
    /// 0 when it cannot be read.
    pub resident_bytes: u64,
}

pub struct Sampler {
    /// How the counters stood at the last sample, by figure.
    counted: Vec<u64>,
    cpu_us: u64,
    latency: HistogramTotal,
    turns: DurationsTotal,
    commits: DurationsTotal,
    values: Vec<u64>,
}

impl Sampler {
    /// What was counted before is no part of the first interval.
    pub fn new(metrics: &Metrics, surroundings: &Surroundings) -> Sampler {
        Sampler {
            counted: sampled(metrics).map(|sample| sample.value).collect(),
            cpu_us: surroundings.cpu_us,
            latency: latency_us(metrics.backends()),
            turns: turns(metrics),
            commits: commits(metrics),
            values: Vec::new(),
        }
    }

    /// The figures in the order of the values.
    pub fn figures(metrics: &Metrics) -> Vec<HistoryFigure> {
        let of_metrics = sampled(metrics).map(|Sample { name, help, kind, .. }| {
            let merge = match kind {
                Kind::Counter => Merge::Sum,
                Kind::Gauge => Merge::Max,
            };
            HistoryFigure { name, help, merge }
        });
        of_metrics.chain(OTHERS).collect()
    }

    /// The values since the last call.
    pub fn sample(&mut self, metrics: &Metrics, surroundings: &Surroundings) -> &[u64] {
        self.values.clear();
        for (sample, counted) in sampled(metrics).zip(&mut self.counted) {
            let before = std::mem::replace(counted, sample.value);
            self.values.push(match sample.kind {
                Kind::Counter => sample.value.saturating_sub(before),
                Kind::Gauge => sample.value,
            });
        }
        let &Surroundings { channels, mailbox, store_queued, cpu_us, resident_bytes } = surroundings;
        let cpu_us = cpu_us.saturating_sub(std::mem::replace(&mut self.cpu_us, cpu_us));
        let latency = latency_us(metrics.backends());
        let recent = latency.since(&self.latency);
        self.latency = latency;
        let turns = turns(metrics);
        let recent_turns = turns.since(&self.turns);
        self.turns = turns;
        let commits = commits(metrics);
        let recent_commits = commits.since(&self.commits);
        self.commits = commits;
        // In the order of `OTHERS`.
        self.values.extend([
            channels,
            mailbox,
            store_queued,
            cpu_us,
            resident_bytes,
            recent.per_mille(500),
            recent.per_mille(990),
            recent_turns.per_mille(990),
            recent_commits.per_mille(990),
        ]);
        &self.values
    }
}

/// A channel may have members on several workers: the process has a count of its own.
fn sampled(metrics: &Metrics) -> impl Iterator<Item = Sample> {
    metrics.figures().filter(|sample| sample.name != "channels")
}

fn turns(metrics: &Metrics) -> DurationsTotal {
    DurationsTotal::of(metrics.workers().iter().map(|worker| &worker.turns))
}

fn commits(metrics: &Metrics) -> DurationsTotal {
    DurationsTotal::of(metrics.store().map(|store| &store.commit))
}

const fn other(name: &'static str, merge: Merge, help: &'static str) -> HistoryFigure {
    HistoryFigure { name, help, merge }
}

const OTHERS: [HistoryFigure; 9] = [
    other("channels", Merge::Max, "Channels with members, each once."),
    other("mailbox", Merge::Max, "Messages in the fullest mailbox of a worker."),
    other("store_queued", Merge::Max, "Requests that wait for the store's thread."),
    other("cpu_us", Merge::Sum, "User and system CPU time spent, in microseconds."),
    other("memory_bytes", Merge::Max, "Resident memory."),
    other("latency_p50_us", Merge::Max, "Half of the backend's answers took at most so many microseconds."),
    other("latency_p99_us", Merge::Max, "Of a hundred answers of the backend 99 took at most so many microseconds."),
    other("turn_p99_us", Merge::Max, "Of a hundred turns of the workers 99 took at most so many microseconds."),
    other("store_commit_p99_us", Merge::Max, "Of a hundred commits of the store 99 took at most so many microseconds."),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::ShardId;
    use crate::base::time::Tick;
    use crate::metrics::history::{FIGURES_MAX, History};
    use std::collections::HashSet;

    fn value(metrics: &Metrics, values: &[u64], name: &str) -> u64 {
        let place = Sampler::figures(metrics).iter().position(|figure| figure.name == name);
        values[place.unwrap_or_else(|| panic!("no {name}"))]
    }

    #[test]
    fn counters_are_what_was_counted_since_and_gauges_stand() {
        let metrics = Metrics::new(2, true);
        metrics.shard(ShardId(0)).messages_in.add(100);
        let mut sampler = Sampler::new(&metrics, &Surroundings { cpu_us: 50, ..Surroundings::default() });
        metrics.shard(ShardId(0)).messages_in.add(2);
        metrics.shard(ShardId(1)).messages_in.add(3);
        metrics.shard(ShardId(1)).connections.set(7);
        let surroundings = Surroundings { cpu_us: 80, channels: 4, ..Surroundings::default() };
        let values = sampler.sample(&metrics, &surroundings).to_vec();
        let now = ["messages_in", "connections", "cpu_us", "channels"].map(|name| value(&metrics, &values, name));
        assert_eq!(now, [5, 7, 30, 4]);
        let values = sampler.sample(&metrics, &surroundings).to_vec();
        let now = ["messages_in", "connections", "cpu_us"].map(|name| value(&metrics, &values, name));
        assert_eq!(now, [0, 7, 0]);
    }

    #[test]
    fn percentiles_are_of_the_last_interval() {
        let metrics = Metrics::new(1, true);
        let backend = metrics.backend(ShardId(0));
        (0..1_000).for_each(|_| backend.latency_us.record(5));
        let mut sampler = Sampler::new(&metrics, &Surroundings::default());
        (0..10).for_each(|_| backend.latency_us.record(10));
        backend.latency_us.record(15);
        metrics.worker(ShardId(0)).turns.record(90);
        let values = sampler.sample(&metrics, &Surroundings::default()).to_vec();
        let now = ["latency_p50_us", "latency_p99_us", "turn_p99_us", "store_commit_p99_us"];
        assert_eq!(now.map(|name| value(&metrics, &values, name)), [10, 15, 100, 0]);
        let values = sampler.sample(&metrics, &Surroundings::default()).to_vec();
        assert_eq!(now.map(|name| value(&metrics, &values, name)), [0; 4], "nothing was measured");
    }

    #[test]
    fn every_figure_has_its_name_its_help_and_its_room() {
        let metrics = Metrics::new(3, true);
        let figures = Sampler::figures(&metrics);
        let mut names = HashSet::new();
        for figure in &figures {
            assert!(names.insert(figure.name), "{} names two figures", figure.name);
            assert!(figure.help.ends_with('.'), "{}: {}", figure.name, figure.help);
        }
        assert!(figures.len() <= FIGURES_MAX, "{}", figures.len());
        let mut sampler = Sampler::new(&metrics, &Surroundings::default());
        let mut history = History::new(figures, Tick(0));
        history.record(Tick(10_000), sampler.sample(&metrics, &Surroundings::default()));
        assert!(history.memory() < 1 << 20, "{}", history.memory());
    }
}
