//! /metrics read as text, and "counted" made checkable.
//!
//! The issue says what is counted, not how the counters are called: the names are in `Counted::names` and nowhere else.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::TIMEOUT;
use super::call::call_get;

/// What the issue wants counted.
#[derive(Clone, Copy, Debug)]
pub enum Counted {
    /// A message of a client.
    MessageIn,
    /// A message to a client.
    MessageOut,
    /// A frame or packet that a client must not send.
    Violation,
    /// A client over a limit: closed with 1008.
    OverLimit,
    /// A request head that is refused.
    BadRequest,
    /// An upgrade that is refused without asking the backend.
    Refusal,
    /// A call of the API that is refused.
    BadCall,
    /// A message of QoS 0 to a client that does not read.
    DroppedDown,
    /// A message of QoS 0 to a backend that is away.
    DroppedUp,
    /// The business server failed.
    BackendFailure,
    /// A SEND or REL sent again.
    Repeat,
    /// A client that did not read.
    SlowClient,
}

impl Counted {
    fn names(self) -> &'static [&'static str] {
        match self {
            Counted::MessageIn => &["rainbow_messages_in_total"],
            Counted::MessageOut => &["rainbow_messages_out_total"],
            Counted::Violation => &[
                "rainbow_connections_closed_total{reason=\"websocket\"}",
                "rainbow_connections_closed_total{reason=\"packet\"}",
            ],
            Counted::OverLimit => &["rainbow_connections_closed_total{reason=\"policy\"}"],
            Counted::BadRequest => &[
                "rainbow_http_requests_refused_total{reason=\"malformed\"}",
                "rainbow_http_requests_refused_total{reason=\"timeout\"}",
            ],
            Counted::Refusal => &[
                "rainbow_connections_refused_total{reason=\"full\"}",
                "rainbow_connections_refused_total{reason=\"address\"}",
                "rainbow_connections_refused_total{reason=\"origin\"}",
            ],
            Counted::BadCall => &[
                "rainbow_calls_refused_total{reason=\"signature\"}",
                "rainbow_calls_refused_total{reason=\"request\"}",
            ],
            Counted::DroppedDown => &["rainbow_messages_dropped_qos0_total{direction=\"out\"}"],
            Counted::DroppedUp => &["rainbow_messages_dropped_qos0_total{direction=\"in\"}"],
            Counted::BackendFailure => &[
                "rainbow_backend_failures_total{reason=\"refused\"}",
                "rainbow_backend_failures_total{reason=\"reset\"}",
                "rainbow_backend_failures_total{reason=\"timeout\"}",
                "rainbow_backend_failures_total{reason=\"rubbish\"}",
                "rainbow_backend_failures_total{reason=\"too_large\"}",
                "rainbow_backend_error_answers_total{status=\"5xx\"}",
            ],
            Counted::Repeat => &["rainbow_repeats_out_total"],
            Counted::SlowClient => &["rainbow_connections_closed_total{reason=\"too_slow\"}"],
        }
    }
}

/// Every sample by its name with labels, and what the workers of a gauge have together by the name alone.
pub fn read(from: SocketAddr) -> BTreeMap<String, f64> {
    let response = call_get(from, "/metrics", &[]);
    assert_eq!(response.status, 200, "/metrics: {}", response.text());
    let mut samples = BTreeMap::new();
    for line in response.text().lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("/metrics: {line:?}"));
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("/metrics: {line:?}"));
        if let Some((gauge, _)) = name.split_once("{worker=") {
            *samples.entry(gauge.to_owned()).or_insert(0.0) += value;
        }
        samples.insert(name.to_owned(), value);
    }
    samples
}

/// Runs `act` and waits until a counter for `what` has risen.
pub fn counted<T>(at: SocketAddr, what: Counted, act: impl FnOnce() -> T) -> T {
    let before = read(at);
    let answer = act();
    await_rise(at, &before, what, 1.0);
    answer
}

/// Waits until the counters for `what` stand `count` above `before`; fails the test with all that rose instead.
pub fn await_rise(at: SocketAddr, before: &BTreeMap<String, f64>, what: Counted, count: f64) {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let now = read(at);
        if risen(before, &now, what) >= count {
            return;
        }
        if Instant::now() >= deadline {
            let others: Vec<_> = now.iter().filter(|(name, value)| before.get(*name) != Some(value)).collect();
            panic!("{what:?} has not risen by {count}, but: {others:?}");
        }
        // As in `eventually`: another process, and a look costs it a request.
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// By how much the counters for `what` rose together.
pub fn risen(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>, what: Counted) -> f64 {
    let value = |samples: &BTreeMap<String, f64>| -> f64 {
        let known = |name: &str| samples.get(name).copied().unwrap_or_else(|| panic!("no {name} in /metrics"));
        what.names().iter().map(|name| known(name)).sum()
    };
    value(after) - value(before)
}
