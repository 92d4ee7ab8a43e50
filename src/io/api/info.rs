//! The metrics as pages: /info/ (JSON, what the page at /serverinfo/ shows) and /metrics (Prometheus text).
//!
//! Both read `Metrics` and query no worker for a metric. Only the largest channels are queried from the shards. The
//! past of the metrics is in `history`.

use super::cluster;
use super::query::{self, Reach};
use crate::base::id::{Generation, ShardId};
use crate::cluster::calls::Call;
use crate::config::{StoreKind, differing, shown};
use crate::io::backend::{LastAnswer, UpstreamState};
use crate::io::http::response::Response;
use crate::io::log::writer::Log;
use crate::io::runtime::{clock, sys};
use crate::io::worker::calls::gather::Gathered;
use crate::io::worker::shared::Shared;
use crate::io::worker::turn::Worker;
use crate::metrics::backend::{BackendMetrics, latency_us};
use crate::metrics::export::{by_label, families};
use crate::metrics::histogram::DurationsTotal;
use crate::metrics::process::{Build, ProcessReadings, Readings};
use crate::metrics::shard::ShardMetrics;
use crate::metrics::text::Format;
use crate::policy::api::{Refusal, outcome};
use crate::shard::Query;
use crate::store::Health;
use crate::wire::http1::query_get;
use serde_json::{Value, json};
use std::rc::Rc;
use std::sync::Arc;

/// `GET /info/`; the shape is documented in openapi.json. In a cluster `nodes` has the same of each node. `brief=1`
/// leaves out what costs the shards a walk, the other nodes an answer, and what seldom changes: a page asks for that
/// every second.
pub async fn info(worker: &Rc<Worker>, query: &str) -> Result<Response, Refusal> {
    if query_get(query, "brief").is_some_and(|brief| brief != "0") {
        return Ok(Response::json(figures(worker).to_string().into_bytes()));
    }
    let mut info = of_this_node(worker).await?;
    if worker.cluster().port().is_some() {
        let mut nodes = cluster::nodes(worker, &info).await?;
        nodes.sort_by(|one, other| one["node"].as_str().cmp(&other["node"].as_str()));
        (info["nodes"], info["peers"]) = (nodes.into(), cluster::peers(worker));
    }
    Ok(Response::json(info.to_string().into_bytes()))
}

/// The figures of this node alone.
pub async fn of_this_node(worker: &Worker) -> Result<Value, Refusal> {
    let Largest { channels: largest, silent, .. } = largest(worker, Reach::Node, LARGEST, "".into()).await?;
    let shared = worker.shared();
    let config = shared.config();
    let mut info = figures(worker);
    info["workers_silent"] = silent.into();
    let channels = largest.iter().map(|(name, members)| json!({"name": name, "members": members}));
    info["largest_channels"] = channels.collect();
    info["hooks"] = hooks(shared);
    info["config"] = json!(shown(&config));
    info["config_changed"] = json!(differing(&config));
    Ok(info)
}

/// What is read from atomics: it costs no shard a query.
fn figures(worker: &Worker) -> Value {
    let shared = worker.shared();
    let (config, metrics) = (shared.config(), shared.metrics());
    let now = clock::monotonic();
    let counters: serde_json::Map<_, _> =
        metrics.counters().map(|sample| (sample.name.into(), sample.value.into())).collect();
    let mut info = json!({
        "status": 0,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": shared.uptime_s(now),
        "pid": std::process::id(),
        "cluster_name": config.cluster.name,
        "node": shared.node().to_string(),
        "listen": shared.listen().to_string(),
        "connections": metrics.shards_total(|shard| shard.connections.get()),
        "channels": shared.channels(),
        "cpu_percent": cpu_percent(shared.uptime_s(now)),
        "cpu_us": sys::cpu_us(),
        "messages_in": metrics.shards_total(|shard| shard.messages_in.get()),
        "messages_out": metrics.shards_total(|shard| shard.messages_out.get()),
        "sessions": metrics.shards_total(|shard| shard.sessions.get()),
        "sessions_moving": metrics.workers_total(|worker| worker.sessions_moving.get()),
        "store": store(shared),
        "backend": upstreams(worker),
        "workers": shared.workers().map(|id| worker_figures(shared, id, metrics.shard(id))).collect::<Vec<_>>(),
        "counters": counters,
    });
    if let Some(bytes) = sys::resident_bytes() {
        info["memory_bytes"] = bytes.into();
    }
    info
}

/// How long each hook takes at each upstream, since the start.
fn hooks(shared: &Shared) -> Value {
    let mut hooks = Vec::new();
    let backends = shared.metrics().backends();
    for (index, (hook, _)) in backends[0].latencies().into_iter().enumerate() {
        let by_upstream = by_label(backends.iter().map(|backend| backend.latencies()[index].1));
        hooks.extend(by_upstream.into_iter().map(|(upstream, total)| {
            json!({
                "hook": hook,
                "upstream": upstream,
                "answers": total.count(),
                "mean_us": total.sum_us() / total.count().max(1),
                "p50_us": total.per_mille(500),
                "p99_us": total.per_mille(990),
            })
        }));
    }
    hooks.into()
}

fn worker_figures(shared: &Shared, id: ShardId, metrics: &ShardMetrics) -> Value {
    json!({
        "id": id.0,
        "core": shared.cpu(id),
        "connections": metrics.connections.get(),
        "channels": metrics.channels.get(),
        "messages_in": metrics.messages_in.get(),
        "messages_out": metrics.messages_out.get(),
        "timers": metrics.timers.get(),
        "calls": metrics.calls_waiting.get(),
        "mailbox": shared.mailbox(id).len(),
        "turn_p99_us": DurationsTotal::of([&shared.metrics().worker(id).turns]).per_mille(990),
        "silent_ms": shared.heartbeats().silent_ms(id, clock::monotonic()),
        "stuck": shared.heartbeats().is_stuck(id, clock::monotonic()),
    })
}

/// `null` without a store.
fn store(shared: &Shared) -> Value {
    let (Some(store), Some(metrics)) = (shared.store(), shared.metrics().store()) else { return Value::Null };
    let commits = metrics.commits.get();
    let why = match store.state() {
        Health::Ready => None,
        Health::Refusing { detail, .. } => Some(detail),
    };
    json!({
        "kind": match shared.config().store.kind {
            StoreKind::None => "none",
            StoreKind::Sqlite => "sqlite",
            StoreKind::Redis => "redis",
        },
        "state": if why.is_none() { "ready" } else { "refusing" },
        "why": why,
        "messages": metrics.messages.get(),
        "bytes": metrics.bytes.get(),
        "queued": store.len(),
        "under_way": shared.metrics().shards_total(|shard| shard.store_under_way.get()),
        "commits": commits,
        "commit_us_mean": metrics.commit.sum_us() / commits.max(1),
        "commit_us_max": metrics.commit_us_max.get(),
    })
}

/// Of the whole life of the process; the page computes what is going on now from `cpu_us`.
fn cpu_percent(uptime_s: u64) -> f64 {
    let percent = sys::cpu_us() as f64 / 1e4 / uptime_s.max(1) as f64;
    (percent * 10.0).round() / 10.0
}

fn upstreams(worker: &Worker) -> Vec<Value> {
    let metrics = worker.shared().metrics();
    let latency = latency_us(metrics.backends());
    let waiting = metrics.backends_total(|backend| backend.waiting.get());
    let failures = metrics.backends_total(BackendMetrics::failures);
    let now = clock::monotonic();
    let last_answer = |answer: &LastAnswer| {
        json!({
            "hook": answer.hook.to_string(),
            "status": answer.status,
            "age_s": now.since_ms(answer.at) / 1000,
            "error": String::from_utf8_lossy(&answer.error),
        })
    };
    let one = |upstream: UpstreamState| {
        json!({
            "url": format!("http://{}:{}", upstream.host, upstream.port),
            "state": match upstream {
                UpstreamState { is_closed: false, .. } => "down",
                UpstreamState { has_answered: false, .. } => "unknown",
                _ => "up",
            },
            "latency_p50_us": latency.per_mille(500),
            "latency_p99_us": latency.per_mille(990),
            "waiting": waiting,
            "failures": failures,
            "connections": upstream.connections,
            "outstanding": upstream.outstanding,
            "last_answers": upstream.last_answers.iter().map(last_answer).collect::<Vec<_>>(),
        })
    };
    let mut states = worker.hooks().upstreams();
    for other in worker.shared().workers().filter(|id| *id != worker.id()) {
        worker.shared().upstreams(other).get().into_iter().for_each(|state| add_answers(&mut states, state));
    }
    states.into_iter().map(one).collect()
}

/// What another worker has heard last of an upstream, where that is newer.
fn add_answers(states: &mut [UpstreamState], other: UpstreamState) {
    let same = states.iter_mut().find(|state| state.host == other.host && state.port == other.port);
    let Some(state) = same else { return };
    for answer in other.last_answers {
        match state.last_answers.iter_mut().find(|known| known.hook == answer.hook) {
            Some(known) if known.at < answer.at => *known = answer,
            Some(_) => {}
            None => state.last_answers.push(answer),
        }
    }
    state.last_answers.sort_by_key(|answer| answer.hook as usize);
}

pub struct Largest {
    /// (name, members), the largest first.
    pub channels: Vec<(String, usize)>,
    /// Workers that did not reply: their members are missing.
    pub silent: u32,
    /// The same for nodes.
    pub unreachable: u32,
}

/// The channels with the most members, all workers together, of those whose names contain the text.
pub async fn largest(worker: &Worker, reach: Reach, most: usize, find: Arc<str>) -> Result<Largest, Refusal> {
    let call = Call::Largest { most: most as u32, find: &find };
    let query = match find.is_empty() {
        true => Query::Largest { most },
        false => Query::FindChannels { text: find.clone(), most },
    };
    Largest::of(query::look_everywhere(worker, reach, query, &call).await?, most)
}

/// The same of one other node.
pub async fn largest_of(worker: &Worker, node: Generation, most: usize, find: &str) -> Result<Largest, Refusal> {
    let call = Call::Largest { most: most as u32, find };
    Largest::of(query::look_at_node(worker, node, &call).await?, most)
}

impl Largest {
    fn of(gathered: Gathered, most: usize) -> Result<Largest, Refusal> {
        let Gathered { reply, silent, unreachable, .. } = gathered;
        let mut channels = reply.map_or(Ok(Vec::new()), outcome::channels)?;
        rank(&mut channels, most);
        Ok(Largest { channels, silent, unreachable })
    }
}

fn rank(channels: &mut Vec<(String, usize)>, most: usize) {
    channels.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    channels.truncate(most);
}

/// `GET /metrics`.
pub fn metrics(shared: &Shared, format: Format) -> Response {
    let loss = Log::loss();
    let readings = Readings {
        channels: shared.channels(),
        store_queued: shared.store().map(|store| store.len() as u64),
        log_lines_lost: loss.lost,
        log_lines_suppressed: loss.suppressed,
        build: Build { version: env!("CARGO_PKG_VERSION"), commit: option_env!("BUILD_COMMIT") },
        process: process(),
        cluster: cluster::readings(shared),
    };
    let text = format.encode(&families(shared.metrics(), &readings));
    Response::new(200, format.content_type(), text.into_bytes()).with_header("Vary", "Accept")
}

fn process() -> ProcessReadings {
    ProcessReadings {
        cpu_us: Some(sys::cpu_us()),
        resident_bytes: sys::resident_bytes(),
        virtual_bytes: sys::virtual_bytes(),
        open_fds: sys::open_descriptors_most(),
        max_fds: Some(sys::descriptor_limit() as u64),
        start_us: sys::start_us(),
    }
}

const LARGEST: usize = 20;
