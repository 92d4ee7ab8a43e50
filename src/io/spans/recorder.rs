//! Which spans are collected, and their way to the exporter's thread. Each worker has a recorder.
//!
//! Where nobody collects spans, each begin costs one look at an empty option. Else a span is collected when its parent
//! says so; of those that begin a trace, `otlp_ratio` says how many. The queue to the exporter is bounded and has no
//! lock that a worker could wait for: the exporter looks into it on a timer and never sleeps on it.

use super::span::{Span, SpanKind};
use crate::base::client::trace_parent::TraceParent;
use crate::base::rng::Rng;
use crate::io::runtime::clock;
use crate::metrics::worker::WorkerMetrics;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::sync::Arc;

pub struct SpanRecorder {
    /// `None`: nobody collects spans.
    queue: Option<SpanSender>,
    ratio: Cell<f64>,
    rng: RefCell<Rng>,
    metrics: Arc<WorkerMetrics>,
}

/// To the exporter.
#[derive(Clone)]
pub struct SpanSender(Sender<Box<Span>>);

/// The exporter's end.
pub struct SpanReceiver(Receiver<Box<Span>>);

/// `len_max`: of the spans that wait; memory for as many pointers is taken at once.
pub fn span_queue(len_max: usize) -> (SpanSender, SpanReceiver) {
    let (sender, receiver) = bounded(len_max);
    (SpanSender(sender), SpanReceiver(receiver))
}

impl SpanReceiver {
    /// Up to `most` of those that wait. Never waits.
    pub fn take(&self, most: usize) -> Vec<Span> {
        self.0.try_iter().take(most).map(|span| *span).collect()
    }
}

impl SpanRecorder {
    /// `ratio`: so many of the traces that begin here are collected, 0 to 1.
    pub fn new(queue: Option<SpanSender>, ratio: f64, seed: u64, metrics: Arc<WorkerMetrics>) -> SpanRecorder {
        SpanRecorder { queue, ratio: Cell::new(ratio), rng: RefCell::new(Rng::new(seed)), metrics }
    }

    pub fn set_ratio(&self, ratio: f64) {
        self.ratio.set(ratio);
    }

    /// Somebody collects spans.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// A span below what another process says its step is, or the first one of a trace. `None`: it is not collected.
    #[inline]
    pub fn begin(
        &self,
        parent: Option<&TraceParent>,
        kind: SpanKind,
        name: impl Into<Cow<'static, str>>,
    ) -> Option<Box<Span>> {
        if !self.is_on() {
            return None;
        }
        let is_sampled = parent.map_or_else(|| self.draws(), TraceParent::is_sampled);
        is_sampled.then(|| self.open(parent, kind, name.into(), true))
    }

    /// A span below one of ours.
    pub fn begin_below(&self, parent: &Span, kind: SpanKind, name: impl Into<Cow<'static, str>>) -> Box<Span> {
        self.open(Some(&parent.context), kind, name.into(), false)
    }

    /// What a span is of has ended. `error`: why it failed.
    pub fn end(&self, mut span: Box<Span>, error: Option<String>) {
        // The wall clock may have been stepped back.
        span.ended_ns = unix_ns().max(span.began_ns);
        span.error = error;
        if let Some(SpanSender(queue)) = &self.queue
            && queue.try_send(span).is_err()
        {
            self.metrics.spans_dropped.increment();
        }
    }

    fn draws(&self) -> bool {
        // 53 bits: as many as the fraction has.
        let drawn = (self.rng.borrow_mut().next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        drawn < self.ratio.get()
    }

    fn open(
        &self,
        parent: Option<&TraceParent>,
        kind: SpanKind,
        name: Cow<'static, str>,
        is_remote: bool,
    ) -> Box<Span> {
        let mut rng = self.rng.borrow_mut();
        // Ids of zeros are none.
        let span_id = rng.next_u64().max(1);
        let context = match parent {
            Some(parent) => parent.child(span_id),
            None => {
                let trace_id = u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64().max(1));
                TraceParent::sampled(trace_id, span_id)
            }
        };
        Box::new(Span {
            context,
            parent: parent.cloned(),
            is_parent_remote: is_remote && parent.is_some(),
            kind,
            name,
            began_ns: unix_ns(),
            ended_ns: 0,
            attributes: Vec::with_capacity(ATTRIBUTES_ROOM),
            error: None,
        })
    }
}

fn unix_ns() -> u64 {
    clock::unix_ns() as u64
}

/// As many as most spans have.
const ATTRIBUTES_ROOM: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    fn recorder(len_max: usize, ratio: f64) -> (SpanRecorder, SpanReceiver) {
        let (sender, receiver) = span_queue(len_max);
        (SpanRecorder::new(Some(sender), ratio, 7, Arc::default()), receiver)
    }

    fn parent(flags: &str) -> TraceParent {
        TraceParent::read(format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}").as_bytes()).unwrap()
    }

    #[test]
    fn a_parent_decides_and_else_the_ratio() {
        for (ratio, begun) in [(0.0, 0), (1.0, 1_000)] {
            let (recorder, _receiver) = recorder(1, ratio);
            let begin = |parent: Option<&TraceParent>| recorder.begin(parent, SpanKind::Server, "x").is_some();
            assert_eq!((0..1_000).filter(|_| begin(None)).count(), begun);
            assert!(begin(Some(&parent("01"))) && !begin(Some(&parent("00"))), "whatever the ratio is");
        }
        let (recorder, _receiver) = recorder(1, 0.25);
        let begun = (0..10_000).filter(|_| recorder.begin(None, SpanKind::Server, "x").is_some()).count();
        assert!((2_300..2_700).contains(&begun), "{begun} of 10,000 at a quarter");
        recorder.set_ratio(0.0);
        assert!(recorder.begin(None, SpanKind::Server, "x").is_none(), "a reload counts from the next one on");
    }

    #[test]
    fn where_nobody_collects_nothing_begins() {
        let recorder = SpanRecorder::new(None, 1.0, 7, Arc::default());
        assert!(recorder.begin(Some(&parent("01")), SpanKind::Server, "x").is_none());
    }

    #[test]
    fn a_child_is_of_its_parents_trace() {
        let (recorder, receiver) = recorder(4, 1.0);
        let server = recorder.begin(Some(&parent("01")), SpanKind::Server, "server").expect("its parent is collected");
        let hook = recorder.begin_below(&server, SpanKind::Client, "hook");
        assert_eq!(server.context.trace_id(), parent("01").trace_id());
        assert_eq!(hook.parent, Some(server.context.clone()));
        assert_eq!((server.is_parent_remote, hook.is_parent_remote), (true, false));
        assert_ne!(server.context, hook.context);
        let first = recorder.begin(None, SpanKind::Server, "first").expect("all are collected");
        assert!(first.parent.is_none() && !first.is_parent_remote && first.context.is_sampled());
        assert_eq!(TraceParent::read(first.context.as_bytes()), Some(first.context.clone()), "it can be handed on");
        [hook, server, first].into_iter().for_each(|span| recorder.end(span, None));
        let names: Vec<_> = receiver.take(2).into_iter().map(|span| span.name).collect();
        assert_eq!(names, ["hook", "server"]);
        assert_eq!(receiver.take(9).len(), 1);
        assert_eq!(receiver.take(9), [], "it does not wait");
    }

    #[test]
    fn a_span_that_finds_no_room_is_dropped_and_counted() {
        let (recorder, receiver) = recorder(2, 1.0);
        for _ in 0..5 {
            let span = recorder.begin(None, SpanKind::Server, "x").expect("all are collected");
            recorder.end(span, Some("for a reason".into()));
        }
        assert_eq!(recorder.metrics.spans_dropped.get(), 3);
        let spans = receiver.take(9);
        assert_eq!(spans.len(), 2);
        assert!(
            spans.iter().all(|span| span.error.as_deref() == Some("for a reason") && span.ended_ns >= span.began_ns)
        );
    }
}
