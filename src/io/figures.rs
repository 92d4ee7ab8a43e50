//! The server in figures: /info/ (JSON, what the page at /serverinfo/ shows) and /metrics (Prometheus text).

use crate::base::id::ShardId;
use crate::config::StoreKind;
use crate::io::api::query;
use crate::io::backend::{BackendStats, HistogramTotal, UpstreamState};
use crate::io::http::response::Response;
use crate::io::runtime::clock;
use crate::io::runtime::sys;
use crate::io::store::thread::StoreSender;
use crate::io::worker::shared::Counters;
use crate::io::worker::turn::Worker;
use crate::shard::{Figures, Query, Reply, Stats};
use crate::store::State;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use serde_json::{Value, json};
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

/// `GET /info/`; the shape is documented at the head of serverinfo.html.
pub async fn info(core: &Rc<Worker>) -> Response {
    let (figures, stats) = figures(core).await;
    let largest = largest(core, LARGEST).await;
    let shared = core.shared();
    let config = shared.config();
    let now = clock::monotonic();
    let channels: usize = figures.iter().map(|worker| worker.channels).sum();
    let mut counters = serde_json::Map::new();
    let counted = stats.iter().chain(Counters::sum(shared.counters())).chain(admission(core)).chain(backend(core));
    for (name, _, value) in counted.chain(store_counters(core)) {
        counters.insert(name.into(), value.into());
    }
    let info = json!({
        "status": 0,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": shared.uptime_s(now),
        "pid": std::process::id(),
        "cluster_name": config.cluster_name,
        "listen": shared.listen().to_string(),
        "connections": figures.iter().map(|worker| worker.connections).sum::<usize>(),
        "channels": channels,
        "memory_bytes": sys::resident_bytes(),
        "cpu_percent": cpu_percent(shared.uptime_s(now)),
        "cpu_us": sys::cpu_us(),
        "messages_in": stats.messages_in,
        "messages_out": stats.messages_out,
        "sessions": figures.iter().map(|worker| worker.sessions).sum::<usize>(),
        "store": store(core, &figures),
        "backend": upstreams(core),
        "workers": figures.iter().map(|worker| worker_json(core, worker)).collect::<Vec<_>>(),
        "largest_channels":
            largest.iter().map(|(name, members)| json!({"name": name, "members": members})).collect::<Vec<_>>(),
        "counters": counters,
        "config": config.shown(),
    });
    Response::json(info.to_string().into_bytes())
}

fn worker_json(core: &Worker, worker: &Figures) -> Value {
    json!({
        "id": worker.shard,
        "core": core.shared().cpu(ShardId(worker.shard)),
        "connections": worker.connections,
        "channels": worker.channels,
        "messages_in": worker.stats.messages_in,
        "messages_out": worker.stats.messages_out,
        "timers": worker.timers,
        "calls": worker.calls,
        "mailbox": core.shared().mailbox(ShardId(worker.shard)).len(),
    })
}

/// `null` without a store.
fn store(core: &Worker, figures: &[Figures]) -> Value {
    let Some(store) = core.shared().store() else { return Value::Null };
    let stats = store.stats();
    let commits = stats.commits.load(Relaxed);
    let why = match store.state() {
        State::Ready => None,
        State::Refusing { detail, .. } => Some(detail),
    };
    json!({
        "kind": match core.shared().config().store.kind {
            StoreKind::None => "none",
            StoreKind::Sqlite => "sqlite",
            StoreKind::Redis => "redis",
        },
        "state": if why.is_none() { "ready" } else { "refusing" },
        "why": why,
        "messages": stats.messages.load(Relaxed),
        "bytes": stats.bytes.load(Relaxed),
        "queued": store.len(),
        "under_way": figures.iter().map(|worker| worker.store_under_way).sum::<usize>(),
        "commits": commits,
        "commit_us_mean": stats.commit_us.load(Relaxed) / commits.max(1),
        "commit_us_max": stats.commit_us_max.load(Relaxed),
    })
}

fn store_counters(core: &Worker) -> impl Iterator<Item = Counted> {
    let stats = core.shared().store().map(StoreSender::stats);
    let counters = stats.map(|stats| {
        [
            ("store_steps", "Steps that the store was asked for.", &stats.steps),
            ("store_loads", "Pages of messages that it was asked for.", &stats.loads),
            ("store_claims", "Calls with a message_id that it was asked about.", &stats.claims),
            ("store_refused", "What it was asked for and refused.", &stats.refused),
            ("store_commits", "Its commits.", &stats.commits),
            ("store_commit_us", "Time in its commits, in microseconds.", &stats.commit_us),
            ("store_expired", "Messages whose time was over before they reached their session.", &stats.expired),
        ]
    });
    counters.into_iter().flatten().map(|(name, what, counter)| (name, what, counter.load(Relaxed)))
}

fn store_gauges(core: &Worker) -> impl Iterator<Item = Counted> {
    let gauges = core.shared().store().map(|store| {
        let stats = store.stats();
        [
            ("store_messages", "Messages that wait in the store.", stats.messages.load(Relaxed)),
            ("store_bytes", "Bytes that wait in the store.", stats.bytes.load(Relaxed)),
            ("store_queued", "Requests that wait for the store's thread.", store.len() as u64),
            ("store_refusing", "1 while the store makes no promises.", u64::from(!store.is_ready())),
            ("store_commit_us_max", "The longest commit, in microseconds.", stats.commit_us_max.load(Relaxed)),
        ]
    });
    gauges.into_iter().flatten()
}

/// Of the whole life of the process; the page computes what is going on now from `cpu_us`.
fn cpu_percent(uptime_s: u64) -> f64 {
    let percent = sys::cpu_us() as f64 / 1e4 / uptime_s.max(1) as f64;
    (percent * 10.0).round() / 10.0
}

fn upstreams(core: &Worker) -> Vec<Value> {
    let latency = HistogramTotal::of(core.shared().backend().iter().map(|stats| &stats.latency_us));
    let sum =
        |counter: fn(&BackendStats) -> u64| core.shared().backend().iter().map(|stats| counter(stats)).sum::<u64>();
    let (waiting, failures) = (sum(|stats| stats.waiting.get()), sum(failures));
    let one = |upstream: UpstreamState| {
        json!({
            "url": format!("http://{}:{}", upstream.host, upstream.port),
            "state": if upstream.is_closed { "up" } else { "down" },
            "latency_p50_us": latency.per_mille(500),
            "latency_p99_us": latency.per_mille(990),
            "waiting": waiting,
            "failures": failures,
            "connections": upstream.connections,
            "outstanding": upstream.outstanding,
        })
    };
    core.hooks().upstreams().into_iter().map(one).collect()
}

fn failures(stats: &BackendStats) -> u64 {
    let failures = [
        &stats.failures_no_address,
        &stats.failures_refused,
        &stats.failures_reset,
        &stats.failures_timeout,
        &stats.failures_rubbish,
        &stats.failures_too_large,
        &stats.status_5xx,
    ];
    failures.iter().map(|counter| counter.get()).sum()
}

/// The channels with the most members, all workers together.
pub async fn largest(core: &Rc<Worker>, most: usize) -> Vec<(String, usize)> {
    let Ok(Reply::Channels(mut channels)) = query::query(core, core.shared().workers(), Query::Largest { most }).await
    else {
        return Vec::new();
    };
    channels.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    channels.truncate(most);
    channels
}

async fn figures(core: &Rc<Worker>) -> (Vec<Figures>, Stats) {
    let mut figures = match query::query(core, core.shared().workers(), Query::Figures).await {
        Ok(Reply::Figures(figures)) => figures,
        _ => Vec::new(),
    };
    figures.sort_by_key(|worker| worker.shard);
    let mut stats = Stats::default();
    figures.iter().for_each(|worker| stats.add(&worker.stats));
    (figures, stats)
}

type Counted = (&'static str, &'static str, u64);

fn admission(core: &Worker) -> impl Iterator<Item = Counted> {
    let admission = core.shared().admission();
    [
        ("refused_full", "Connections refused at connections_max (503).", admission.refused_full.load(Relaxed)),
        (
            "refused_address",
            "Connections refused at connections_per_address (429).",
            admission.refused_address.load(Relaxed),
        ),
    ]
    .into_iter()
}

fn backend(core: &Worker) -> impl Iterator<Item = Counted> {
    let sum = |counter: fn(&BackendStats) -> u64| core.shared().backend().iter().map(|stats| counter(stats)).sum();
    [
        ("backend_requests", "Attempts to ask the backend.", sum(|stats| stats.requests.get())),
        ("backend_answers", "Answers of the backend, whatever their status.", sum(|stats| stats.answers.get())),
        ("backend_no_address", "Attempts that found no address.", sum(|stats| stats.failures_no_address.get())),
        ("backend_refused", "Attempts that found nobody listening.", sum(|stats| stats.failures_refused.get())),
        ("backend_reset", "Attempts whose connection broke.", sum(|stats| stats.failures_reset.get())),
        ("backend_timeout", "Attempts not answered in time.", sum(|stats| stats.failures_timeout.get())),
        ("backend_rubbish", "Answers that were not HTTP.", sum(|stats| stats.failures_rubbish.get())),
        ("backend_too_large", "Answers over backend_body_max.", sum(|stats| stats.failures_too_large.get())),
        ("backend_4xx", "Answers of status 4xx.", sum(|stats| stats.status_4xx.get())),
        ("backend_5xx", "Answers of status 5xx.", sum(|stats| stats.status_5xx.get())),
        ("backend_retries", "Attempts that followed a failed one.", sum(|stats| stats.retries.get())),
        ("backend_stale", "Requests that met a closing connection.", sum(|stats| stats.stale.get())),
        ("backend_gave_up", "Requests that ended without an answer.", sum(|stats| stats.gave_up.get())),
        ("backend_line_full", "Requests refused because too many wait.", sum(|stats| stats.line_full.get())),
        ("backend_unasked", "Connections that said what nobody asked.", sum(|stats| stats.unasked.get())),
        ("backend_breaker_opened", "Times a breaker opened.", sum(|stats| stats.breaker_opened.get())),
    ]
    .into_iter()
}

/// `GET /metrics`.
pub async fn metrics(core: &Rc<Worker>) -> Response {
    let (figures, stats) = figures(core).await;
    let sum = |part: fn(&Figures) -> usize| figures.iter().map(part).sum::<usize>() as u64;
    let backend_sum = |part: fn(&BackendStats) -> u64| core.shared().backend().iter().map(|stats| part(stats)).sum();
    let latency = HistogramTotal::of(core.shared().backend().iter().map(|stats| &stats.latency_us));
    let mut gauges = vec![
        ("connections", "Open connections.", sum(|worker| worker.connections)),
        ("channels", "Channels with members, added up over the workers.", sum(|worker| worker.channels)),
        ("sessions", "Durable sessions, those without a connection included.", sum(|worker| worker.sessions)),
        ("timers", "Armed timers.", sum(|worker| worker.timers)),
        ("calls_waiting", "Calls waiting for clients' answers.", sum(|worker| worker.calls)),
        ("line_bytes", "Bytes of clients' messages that wait for the backend.", sum(|worker| worker.line_bytes)),
        ("memory_bytes", "Resident memory.", sys::resident_bytes()),
        ("uptime_seconds", "Since the start.", core.shared().uptime_s(clock::monotonic())),
        ("workers", "Worker threads.", figures.len() as u64),
        ("backend_connections", "Connections to backends.", backend_sum(|stats| stats.connections.get())),
        ("backend_waiting", "Requests that wait for a backend.", backend_sum(|stats| stats.waiting.get())),
        ("backend_open_breakers", "Backends that are taken for down.", backend_sum(|stats| stats.open_breakers.get())),
        ("backend_latency_p50_us", "Median of the backend's latency since the start.", latency.per_mille(500)),
        ("backend_latency_p99_us", "99th percentile of the backend's latency.", latency.per_mille(990)),
    ];
    gauges.extend(store_gauges(core));
    let counters =
        stats.iter().chain(Counters::sum(core.shared().counters())).chain(admission(core)).chain(backend(core));
    let counters = counters.chain(store_counters(core));
    let mut registry = Registry::with_prefix("rainbow");
    registry.register_collector(Box::new(Collected { counters: counters.collect(), gauges }));
    let mut body = String::new();
    match text::encode(&mut body, &registry) {
        Ok(()) => Response::new(200, "application/openmetrics-text; version=1.0.0; charset=utf-8", body.into_bytes()),
        Err(_) => Response::plain(500, "the metrics cannot be written"),
    }
}

#[derive(Debug)]
struct Collected {
    counters: Vec<Counted>,
    gauges: Vec<Counted>,
}

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for &(name, what, value) in &self.counters {
            let counter = ConstCounter::new(value);
            let what = what.trim_end_matches('.');
            counter.encode(encoder.encode_descriptor(name, what, None::<&Unit>, counter.metric_type())?)?;
        }
        for &(name, what, value) in &self.gauges {
            let gauge = ConstGauge::new(value as i64);
            let what = what.trim_end_matches('.');
            gauge.encode(encoder.encode_descriptor(name, what, None::<&Unit>, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

const LARGEST: usize = 20;
