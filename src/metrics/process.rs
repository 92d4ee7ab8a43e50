//! The figures of the whole process: those of every worker, of the store and of the admission, added up.
//!
//! `Metrics` is made at the start, before the threads that write; each of them takes its own part. A scrape reads the
//! parts and asks nobody. What only the process around knows comes in as `Readings`.

use super::admission::AdmissionMetrics;
use super::backend::BackendMetrics;
use super::counter::Kind;
use super::figure::{Sample, totals};
use super::shard::ShardMetrics;
use super::store::StoreMetrics;
use super::worker::{SpanMetrics, WorkerMetrics};
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
    spans: Arc<SpanMetrics>,
}

/// What is read at the moment of a scrape.
pub struct Readings {
    /// Each once; a worker's own figure counts those that it has members of.
    pub channels: u64,
    /// `None` without a store.
    pub store_queued: Option<u64>,
    pub log_lines_lost: u64,
    pub log_lines_suppressed: u64,
    pub build: Build,
    pub process: ProcessReadings,
    /// `None` for a node that stays alone.
    pub cluster: Option<ClusterReadings>,
}

/// What this node knows of its cluster.
#[derive(Clone, Copy)]
pub struct ClusterReadings {
    /// The other nodes, by their state.
    pub nodes: [(&'static str, u64); 5],
    /// Datagrams and links that were not taken, by the reason.
    pub rejected: [(&'static str, u64); 5],
    /// Clients let in, and calls answered, before every node knew of their channels.
    pub announcements_timed_out: u64,
    /// Snapshots of channels that had to be sent anew.
    pub resyncs: u64,
    /// Times that the others held this node for down, and it came back.
    pub rejoins: u64,
    /// Memory of what is known of the other nodes' channels.
    pub directory_bytes: u64,
}

/// What was built.
#[derive(Clone, Copy)]
pub struct Build {
    pub version: &'static str,
    /// `None` when the build did not know it.
    pub commit: Option<&'static str>,
}

/// What the system says of the process. `None` is what cannot be read: it is absent, not 0.
#[derive(Clone, Copy, Default)]
pub struct ProcessReadings {
    pub cpu_us: Option<u64>,
    pub resident_bytes: Option<u64>,
    pub virtual_bytes: Option<u64>,
    /// In the fullest table of descriptors.
    pub open_fds: Option<u64>,
    /// Of one table.
    pub max_fds: Option<u64>,
    /// Unix time.
    pub start_us: Option<u64>,
}

impl Metrics {
    pub fn new(workers: usize, has_store: bool) -> Metrics {
        Metrics {
            shards: per_worker(workers),
            workers: per_worker(workers),
            backends: per_worker(workers),
            store: has_store.then(Arc::default),
            admission: Arc::default(),
            spans: Arc::default(),
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

    /// Of the exporter; all are 0 where there is none.
    pub fn spans(&self) -> &Arc<SpanMetrics> {
        &self.spans
    }

    /// A figure of the shards, all of them together.
    pub fn shards_total(&self, figure: impl Fn(&ShardMetrics) -> u64) -> u64 {
        self.shards.iter().map(|shard| figure(shard)).sum()
    }

    /// A figure of the workers, all together.
    pub fn workers_total(&self, figure: impl Fn(&WorkerMetrics) -> u64) -> u64 {
        self.workers.iter().map(|worker| figure(worker)).sum()
    }

    /// A figure of the backend's clients, all workers together.
    pub fn backends_total(&self, figure: impl Fn(&BackendMetrics) -> u64) -> u64 {
        self.backends.iter().map(|backend| figure(backend)).sum()
    }

    /// Every counter, under its name in /info/.
    pub fn counters(&self) -> impl Iterator<Item = Sample> {
        let commit_us = self.store.as_ref().map(|store| store.commit.sum_us());
        let help = "Microseconds that the store's commits took.";
        let commit_us = commit_us.map(|value| Sample { name: "store_commit_us", help, kind: Kind::Counter, value });
        self.figures().filter(|sample| sample.kind == Kind::Counter).chain(commit_us)
    }

    /// Every counter and gauge, under its name in /info/.
    pub fn figures(&self) -> impl Iterator<Item = Sample> {
        let store = self.store.as_ref().map(slice::from_ref).map(totals);
        totals(&self.shards)
            .chain(totals(&self.workers))
            .chain(totals(slice::from_ref(&self.admission)))
            .chain(totals(&self.backends))
            .chain(store.into_iter().flatten())
            .chain(totals(slice::from_ref(&self.spans)))
    }
}

fn per_worker<Part: Default>(workers: usize) -> Vec<Arc<Part>> {
    (0..workers).map(|_| Arc::default()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_name_in_info_stands_for_one_counter() {
        let mut names = HashSet::new();
        for sample in Metrics::new(2, true).counters() {
            assert!(names.insert(sample.name), "{} names two figures", sample.name);
        }
    }

    #[test]
    fn figures_are_added_up_over_the_workers() {
        let metrics = Metrics::new(2, true);
        metrics.shard(ShardId(0)).messages_in.add(2);
        metrics.shard(ShardId(1)).messages_in.add(3);
        metrics.shard(ShardId(1)).connections.set(7);
        metrics.worker(ShardId(1)).calls.increment();
        metrics.backend(ShardId(1)).failures_reset.increment();
        metrics.backend(ShardId(0)).status_5xx.increment();
        metrics.admission().refused_full.increment();
        metrics.store().expect("a store").commit.record(90);
        let value = |name| {
            let found: Vec<_> = metrics.counters().filter(|sample| sample.name == name).collect();
            assert_eq!(found.len(), 1, "{name}: {found:?}");
            found[0].value
        };
        assert_eq!(["messages_in", "calls", "refused_full", "store_commit_us"].map(value), [5, 1, 1, 90]);
        assert_eq!(metrics.shards_total(|shard| shard.connections.get()), 7);
        assert_eq!(metrics.backends_total(BackendMetrics::failures), 2);
    }

    #[test]
    fn without_a_store_it_has_no_figures() {
        let metrics = Metrics::new(1, false);
        assert!(metrics.counters().all(|sample| !sample.name.starts_with("store_")));
        assert!(metrics.counters().all(|sample| sample.kind == Kind::Counter));
    }
}
