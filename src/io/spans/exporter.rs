//! The thread that sends spans to a collector.
//!
//! It takes what waits in the queue twice a second, some hundred spans to a request. While a collector is slow or away
//! the queue fills, and workers drop; what a collector does not take in time is dropped here and counted. It holds
//! nobody up: no worker waits for it, and the end of the process waits for its last requests only for a moment.

#[cfg(feature = "otlp")]
use super::otlp::collector;
use super::recorder::SpanReceiver;
use super::span::{Collect, Span};
use crate::io::log::interval::LogInterval;
use crate::io::runtime::clock;
use crate::metrics::worker::SpanMetrics;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tracing::{info, warn};

/// The running thread.
pub struct SpanExporter {
    thread: JoinHandle<()>,
    /// Dropped to end it.
    running: Sender<()>,
}

impl SpanExporter {
    /// `endpoint`: the collector's; `instance` names this life of this node there.
    pub fn start(
        endpoint: &str,
        instance: String,
        spans: SpanReceiver,
        metrics: Arc<SpanMetrics>,
    ) -> io::Result<SpanExporter> {
        info!(otlp_endpoint = endpoint, "spans go to a collector");
        SpanExporter::spawn(collector(endpoint, instance)?, spans, metrics)
    }

    fn spawn(collect: Collect, spans: SpanReceiver, metrics: Arc<SpanMetrics>) -> io::Result<SpanExporter> {
        let (running, stop) = bounded(0);
        let sending = Sending { collect, spans, metrics, failures: LogInterval::default() };
        let thread = thread::Builder::new().name("rainbow-spans".into()).spawn(move || sending.run(&stop))?;
        Ok(SpanExporter { thread, running })
    }

    /// It sends what waits, and ends: nobody records any more. The handle says when it has ended.
    pub fn end(self) -> JoinHandle<()> {
        drop(self.running);
        self.thread
    }
}

/// What the configuration refuses (`config::rules`).
#[cfg(not(feature = "otlp"))]
fn collector(_endpoint: &str, _instance: String) -> io::Result<Collect> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this server was built without the feature otlp"))
}

/// What the thread has.
struct Sending {
    collect: Collect,
    spans: SpanReceiver,
    metrics: Arc<SpanMetrics>,
    failures: LogInterval,
}

impl Sending {
    fn run(self, stop: &Receiver<()>) {
        loop {
            let is_last = stop.recv_timeout(GATHER) != Err(RecvTimeoutError::Timeout);
            loop {
                let batch = self.spans.take(BATCH_MAX);
                if batch.is_empty() {
                    break;
                }
                self.send(batch);
            }
            if is_last {
                return;
            }
        }
    }

    fn send(&self, batch: Vec<Span>) {
        let count = batch.len() as u64;
        match (self.collect)(batch) {
            Ok(()) => self.metrics.exported.add(count),
            Err(error) => {
                self.metrics.export_failed.add(count);
                if let Some(failures) = self.failures.due(clock::monotonic()) {
                    warn!(error, failures, "the collector does not take spans: they are dropped (see otlp_endpoint)");
                }
            }
        }
    }
}

/// Between two looks into the queue.
const GATHER: Duration = Duration::from_millis(500);
/// Spans of one request.
const BATCH_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::spans::recorder::{SpanRecorder, span_queue};
    use crate::io::spans::span::SpanKind;

    /// A collector that names what it gets, and takes only what is not called "bad".
    fn started(len_max: usize) -> (SpanRecorder, SpanExporter, Receiver<Vec<String>>, Arc<SpanMetrics>) {
        let (sender, spans) = span_queue(len_max);
        let (collected, batches) = bounded(16);
        let collect = move |batch: Vec<Span>| {
            let names: Vec<String> = batch.into_iter().map(|span| span.name.into_owned()).collect();
            let is_bad = names.contains(&"bad".into());
            collected.send(names).expect("the test looks");
            if is_bad { Err("bad".into()) } else { Ok(()) }
        };
        let metrics = Arc::<SpanMetrics>::default();
        let exporter = SpanExporter::spawn(Box::new(collect), spans, metrics.clone()).expect("a thread");
        (SpanRecorder::new(Some(sender), 1.0, 7, Arc::default()), exporter, batches, metrics)
    }

    fn record(recorder: &SpanRecorder, name: &'static str) {
        recorder.end(recorder.begin(None, SpanKind::Server, name).expect("all are collected"), None);
    }

    #[test]
    fn spans_are_sent_while_it_runs_and_what_fails_is_counted() {
        let (recorder, exporter, batches, metrics) = started(16);
        record(&recorder, "bad");
        assert_eq!(batches.recv_timeout(DEADLINE).expect("it looks into its queue"), ["bad"]);
        record(&recorder, "good");
        assert_eq!(batches.recv_timeout(DEADLINE).expect("it goes on"), ["good"]);
        exporter.end().join().expect("it does not panic");
        assert_eq!((metrics.exported.get(), metrics.export_failed.get()), (1, 1));
    }

    #[test]
    fn what_waits_at_its_end_is_sent_in_batches() {
        let (recorder, exporter, batches, metrics) = started(2 * BATCH_MAX);
        (0..BATCH_MAX + 3).for_each(|_| record(&recorder, "x"));
        exporter.end().join().expect("it does not panic");
        let lengths: Vec<usize> = batches.try_iter().map(|batch| batch.len()).collect();
        assert_eq!(lengths.iter().sum::<usize>(), BATCH_MAX + 3);
        assert!(lengths.iter().all(|&len| len <= BATCH_MAX), "{lengths:?}");
        assert_eq!(metrics.exported.get(), BATCH_MAX as u64 + 3);
    }

    const DEADLINE: Duration = Duration::from_secs(30);
}
