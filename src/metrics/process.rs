//! The figures of the whole process: those of every worker, of the store and of the admission, added up.
//!
//! `Metrics` is made at the start, before the threads that write; each of them takes its own part. A scrape reads the
//! parts and asks nobody. What only the process around knows comes in as `Readings`.

use super::admission::AdmissionMetrics;
use super::backend::{BackendMetrics, latency_samples};
use super::counter::Kind;
use super::figure::{Sample, totals};
use super::shard::ShardMetrics;
use super::store::StoreMetrics;
use super::worker::WorkerMetrics;
use crate::base::id::ShardId;
use std::slice;
use std::sync::Arc;

pub struct Metrics {
    /// These three have one entry per worker.
    shards: Vec<Arc<ShardMetrics>>,
    workers: Vec<Arc<WorkerMetrics>>,
    backends: Vec<Arc<BackendMetrics>>,
    store: Option<Arc<StoreMetrics>>,
    admission: Arc<AdmissionMetrics>,
}

/// What is read at the moment of a scrape.
pub struct Readings {
    /// `None` when it cannot be read: a figure that is not known is absent, not 0.
    pub memory_bytes: Option<u64>,
    pub uptime_seconds: u64,
    /// `None` without a store.
    pub store_queued: Option<u64>,
    pub log_lines_lost: u64,
    pub log_lines_suppressed: u64,
}

impl Metrics {
    pub fn new(workers: usize, has_store: bool) -> Metrics {
        Metrics {
            shards: per_worker(workers),
            workers: per_worker(workers),
            backends: per_worker(workers),
            store: has_store.then(Arc::default),
            admission: Arc::default(),
        }
    }

    /// By worker.
    pub fn shards(&self) -> &[Arc<ShardMetrics>] {
        &self.shards
    }

    /// By worker.
    pub fn workers(&self) -> &[Arc<WorkerMetrics>] {
        &self.workers
    }

    /// By worker.
    pub fn backends(&self) -> &[Arc<BackendMetrics>] {
        &self.backends
    }

    pub fn shard(&self, id: ShardId) -> &Arc<ShardMetrics> {
        &self.shards[usize::from(id.0)]
    }

    pub fn worker(&self, id: ShardId) -> &Arc<WorkerMetrics> {
        &self.workers[usize::from(id.0)]
    }

    pub fn backend(&self, id: ShardId) -> &Arc<BackendMetrics> {
        &self.backends[usize::from(id.0)]
    }

    /// `None` without a store.
    pub fn store(&self) -> Option<&Arc<StoreMetrics>> {
        self.store.as_ref()
    }

    pub fn admission(&self) -> &Arc<AdmissionMetrics> {
        &self.admission
    }

    /// A figure of the shards, all of them together.
    pub fn shards_total(&self, figure: impl Fn(&ShardMetrics) -> u64) -> u64 {
        self.shards.iter().map(|shard| figure(shard)).sum()
    }

    /// A figure of the backend's clients, all workers together.
    pub fn backends_total(&self, figure: impl Fn(&BackendMetrics) -> u64) -> u64 {
        self.backends.iter().map(|backend| figure(backend)).sum()
    }

    /// Every counter.
    pub fn counters(&self) -> impl Iterator<Item = Sample> {
        self.figures().filter(|sample| sample.kind == Kind::Counter)
    }

    /// Every figure that /metrics shows.
    pub fn samples(&self, readings: &Readings) -> impl Iterator<Item = Sample> {
        self.figures().chain(latency_samples(&self.backends)).chain(self.read(readings))
    }

    fn figures(&self) -> impl Iterator<Item = Sample> {
        let store = self.store.as_ref().map(slice::from_ref).map(totals);
        totals(&self.shards)
            .chain(totals(&self.workers))
            .chain(totals(slice::from_ref(&self.admission)))
            .chain(totals(&self.backends))
            .chain(store.into_iter().flatten())
    }

    fn read(&self, readings: &Readings) -> impl Iterator<Item = Sample> + use<> {
        let gauge = |name, help, value| Sample { name, help, kind: Kind::Gauge, value };
        let counter = |name, help, value| Sample { name, help, kind: Kind::Counter, value };
        let Readings { log_lines_lost, log_lines_suppressed, .. } = *readings;
        [
            readings.memory_bytes.map(|bytes| gauge("memory_bytes", "Resident memory.", bytes)),
            Some(gauge("uptime_seconds", "Since the start.", readings.uptime_seconds)),
            Some(counter("log_lines_lost", "Lines of the log that stderr did not take.", log_lines_lost)),
            Some(counter("log_lines_suppressed", "Lines of the log over the limit per second.", log_lines_suppressed)),
            Some(gauge("workers", "Worker threads.", self.workers.len() as u64)),
            readings
                .store_queued
                .map(|queued| gauge("store_queued", "Requests that wait for the store's thread.", queued)),
        ]
        .into_iter()
        .flatten()
    }
}

fn per_worker<Part: Default>(workers: usize) -> Vec<Arc<Part>> {
    (0..workers).map(|_| Arc::default()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const READINGS: Readings = Readings {
        memory_bytes: Some(4096),
        uptime_seconds: 9,
        store_queued: Some(3),
        log_lines_lost: 4,
        log_lines_suppressed: 5,
    };

    fn value(metrics: &Metrics, name: &str) -> u64 {
        let found: Vec<_> = metrics.samples(&READINGS).filter(|sample| sample.name == name).collect();
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        found[0].value
    }

    #[test]
    fn a_name_stands_for_one_figure_of_the_process() {
        let mut names = HashSet::new();
        for sample in Metrics::new(2, true).samples(&READINGS) {
            assert!(names.insert(sample.name), "{} names two figures", sample.name);
        }
    }

    #[test]
    fn figures_have_names_that_prometheus_takes_and_a_sentence_of_help() {
        for Sample { name, help, .. } in Metrics::new(1, true).samples(&READINGS) {
            assert!(name.starts_with(|c: char| c.is_ascii_lowercase()), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{name}");
            assert!(!name.ends_with("_total"), "{name}: the text adds it");
            assert!(help.ends_with('.') && !help.contains('\n') && help.trim() == help, "{name}: {help:?}");
        }
    }

    #[test]
    fn figures_are_added_up_over_the_workers() {
        let metrics = Metrics::new(2, true);
        metrics.shard(ShardId(0)).messages_in.add(2);
        metrics.shard(ShardId(1)).messages_in.add(3);
        metrics.shard(ShardId(1)).connections.set(7);
        metrics.worker(ShardId(1)).calls.increment();
        metrics.backend(ShardId(0)).waiting.set(4);
        metrics.backend(ShardId(1)).failures_reset.increment();
        metrics.backend(ShardId(0)).status_5xx.increment();
        metrics.admission().refused_full.increment();
        metrics.store().expect("a store").commit_us_max.raise_to(90);
        let names = [
            "messages_in",
            "connections",
            "calls",
            "backend_waiting",
            "refused_full",
            "store_commit_us_max",
            "workers",
        ];
        assert_eq!(names.map(|name| value(&metrics, name)), [5, 7, 1, 4, 1, 90, 2]);
        assert_eq!(["memory_bytes", "uptime_seconds", "store_queued"].map(|name| value(&metrics, name)), [4096, 9, 3]);
        assert_eq!(metrics.shards_total(|shard| shard.connections.get()), 7);
        assert_eq!(metrics.backends_total(BackendMetrics::failures), 2);
    }

    #[test]
    fn memory_that_cannot_be_read_is_absent() {
        let readings = Readings { memory_bytes: None, ..READINGS };
        assert!(Metrics::new(1, true).samples(&readings).all(|sample| sample.name != "memory_bytes"));
    }

    #[test]
    fn the_latency_is_that_of_all_workers() {
        let metrics = Metrics::new(2, false);
        (0..9).for_each(|_| metrics.backend(ShardId(0)).latency_us.record(5));
        metrics.backend(ShardId(1)).latency_us.record(11);
        assert_eq!(["backend_latency_p50_us", "backend_latency_p99_us"].map(|name| value(&metrics, name)), [5, 11]);
    }

    #[test]
    fn without_a_store_it_has_no_figures() {
        let metrics = Metrics::new(1, false);
        let readings = Readings { store_queued: None, ..READINGS };
        assert!(metrics.samples(&readings).all(|sample| !sample.name.starts_with("store_")));
        assert!(metrics.counters().all(|sample| sample.kind == Kind::Counter));
    }
}
