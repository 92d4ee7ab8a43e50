//! /metrics read as text, and "counted" made checkable.
//!
//! The issue says what is counted, not how the counters are called: the names are in `Counted::names` and nowhere else.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::{eventually, http};

/// What the issue wants counted.
#[derive(Clone, Copy, Debug)]
pub enum Counted {
    /// A frame or packet that a client must not send, or a limit it overran.
    Violation,
    /// A request head that is refused.
    BadRequest,
    /// An upgrade that is refused.
    Refusal,
    /// A call of the API that is refused.
    BadCall,
    /// A message that was dropped.
    Drop,
    /// The business server failed.
    BackendFailure,
    /// A SEND or REL sent again.
    Repeat,
    /// A client that did not read.
    SlowClient,
}

impl Counted {
    /// Parts of the names (with labels) that may stand for it.
    fn names(self) -> &'static [&'static str] {
        match self {
            Counted::Violation => &["violation"],
            Counted::BadRequest => &["bad_request", "http_refus", "http_violation", "head", "refus", "reject"],
            Counted::Refusal => &["refus", "reject"],
            Counted::BadCall => &["refus", "reject", "signature", "unsigned", "calls_failed", "api_error"],
            Counted::Drop => &["drop"],
            Counted::BackendFailure => &["backend_fail", "backend_error", "forward_fail", "retries", "failures"],
            Counted::Repeat => &["repeat", "retransmit", "redeliver", "dup"],
            Counted::SlowClient => &["slow", "violation", "outbox", "1013"],
        }
    }
}

/// Every sample by its name with labels.
pub fn read(from: SocketAddr) -> BTreeMap<String, f64> {
    let response = http::get(from, "/metrics");
    assert_eq!(response.status, 200, "/metrics: {}", response.text());
    let mut samples = BTreeMap::new();
    for line in response.text().lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("/metrics: {line:?}"));
        let value = value.parse().unwrap_or_else(|_| panic!("/metrics: {line:?}"));
        samples.insert(name.to_owned(), value);
    }
    samples
}

/// Runs `act` and waits until a counter for `what` has risen.
pub fn counted<T>(at: SocketAddr, what: Counted, act: impl FnOnce() -> T) -> T {
    let before = read(at);
    let answer = act();
    eventually(&format!("a counter for {what:?} rises"), || (risen(&before, &read(at), what) >= 1.0).then_some(()));
    answer
}

/// By how much the counters for `what` rose together.
pub fn risen(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>, what: Counted) -> f64 {
    let stands_for = |name: &str| name.starts_with("rainbow_") && what.names().iter().any(|part| name.contains(part));
    after
        .iter()
        .filter(|(name, _)| stands_for(name))
        .map(|(name, value)| value - before.get(name).copied().unwrap_or(0.0))
        .filter(|rise| *rise > 0.0)
        .sum()
}
