//! What the client of the backend has done on one worker, and how it stands.
//!
//! The worker that owns the pool writes; /metrics and /info/ read. Totals count from the start of the process.

use super::counter::{Counter, Gauge};
use super::figure::figures;
use super::histogram::{DurationsByLabel, Histogram, HistogramTotal};
use std::sync::Arc;

figures! {
    pub struct BackendMetrics {
        /// Attempts to ask the backend.
        // A request written to a connection, or given to one that did not come about.
        requests: Counter as "backend_requests",
        /// Answers of the backend, whatever their status.
        answers: Counter as "backend_answers",
        /// Attempts that found no address.
        failures_no_address: Counter as "backend_no_address" in "backend_failures" reason "no_address",
        /// Attempts that found nobody listening.
        failures_refused: Counter as "backend_refused" in "backend_failures" reason "refused",
        /// Attempts for which this process had no descriptor left.
        failures_out_of_descriptors: Counter as "backend_out_of_descriptors"
            in "backend_failures" reason "out_of_descriptors",
        /// Attempts whose connection broke.
        failures_reset: Counter as "backend_reset" in "backend_failures" reason "reset",
        /// Attempts not answered in time.
        failures_timeout: Counter as "backend_timeout" in "backend_failures" reason "timeout",
        /// Answers that were not HTTP.
        failures_rubbish: Counter as "backend_rubbish" in "backend_failures" reason "rubbish",
        /// Answers over backend_body_max.
        failures_too_large: Counter as "backend_too_large" in "backend_failures" reason "too_large",
        /// Answers of status 4xx.
        status_4xx: Counter as "backend_4xx" in "backend_error_answers" status "4xx",
        /// Answers of status 5xx.
        status_5xx: Counter as "backend_5xx" in "backend_error_answers" status "5xx",
        /// Attempts that followed a failed one.
        retries: Counter as "backend_retries",
        /// Requests that met a closing connection.
        // They went out again on another one.
        stale: Counter as "backend_stale",
        /// Messages refused because the backend answered each of forward_attempts_max attempts with an error.
        poison: Counter as "backend_poison",
        /// Refused messages that dead_letter_url has taken.
        dead_letters: Counter,
        /// Refused messages that dead_letter_url did not take in time, or for which there was no room.
        dead_letters_lost: Counter,
        /// Requests that ended without an answer.
        gave_up: Counter as "backend_gave_up",
        /// Requests refused because too many wait.
        queue_full: Counter as "backend_line_full" in "backend_queue_full",
        /// Connections that said what nobody asked.
        unasked: Counter as "backend_unasked",
        /// Times a breaker opened.
        breaker_opened: Counter as "backend_breaker_opened",
        /// Connections to backends.
        connections: Gauge as "backend_connections",
        /// Requests that wait for a backend.
        // For a connection, a retry or a breaker.
        waiting: Gauge as "backend_waiting",
        /// Backends that are taken for down.
        // Their breaker is not closed.
        open_breakers: Gauge as "backend_open_breakers",
    }
    unexported {
        /// Connections opened.
        connections_opened: Counter,
        /// Jobs accepted and not yet given back.
        jobs: Gauge,
        /// Microseconds from the start of an attempt to its whole answer.
        latency_us: Histogram,
        /// The same for each hook, by upstream.
        connects: DurationsByLabel,
        /// See `connects`.
        forwards: DurationsByLabel,
        /// See `connects`.
        closes: DurationsByLabel,
        /// See `connects`.
        receipts: DurationsByLabel,
        /// See `connects`.
        handed_dead_letters: DurationsByLabel,
    }
}

impl BackendMetrics {
    /// Attempts that failed, and answers of status 5xx.
    pub fn failures(&self) -> u64 {
        let failures = [
            &self.failures_no_address,
            &self.failures_refused,
            &self.failures_reset,
            &self.failures_timeout,
            &self.failures_rubbish,
            &self.failures_too_large,
            &self.status_5xx,
        ];
        failures.iter().map(|counter| counter.get()).sum()
    }
}

impl BackendMetrics {
    /// By hook and, in each, by upstream.
    pub fn latencies(&self) -> [(&'static str, &DurationsByLabel); 5] {
        [
            ("connect", &self.connects),
            ("forward", &self.forwards),
            ("close", &self.closes),
            ("receipt", &self.receipts),
            ("dead_letter", &self.handed_dead_letters),
        ]
    }
}

/// The backend's latency on all workers together.
pub fn latency_us(backends: &[Arc<BackendMetrics>]) -> HistogramTotal {
    HistogramTotal::of(backends.iter().map(|backend| &backend.latency_us))
}
