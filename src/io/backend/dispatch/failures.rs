//! What a failure is to the metrics and to the log.

use std::fmt;

use crate::metrics::backend::BackendMetrics;
use crate::metrics::counter::Counter;
use crate::policy::backend::Failure;

/// What opened or closed a breaker, for the log.
#[derive(Clone, Copy)]
pub enum BreakerCause {
    Status(u16),
    Failure(Failure),
}

impl fmt::Display for BreakerCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BreakerCause::Status(status) => write!(f, "it answered {status}"),
            BreakerCause::Failure(failure) => write!(f, "{failure}"),
        }
    }
}

/// Counts an answer that is no success.
pub fn count_status(metrics: &BackendMetrics, status: u16) {
    match status {
        400..=499 => metrics.status_4xx.add(1),
        500..=599 => metrics.status_5xx.add(1),
        _ => {}
    }
}

/// Where a failed attempt is counted.
pub fn failure_counter(metrics: &BackendMetrics, failure: Failure) -> &Counter {
    match failure {
        Failure::NoAddress => &metrics.failures_no_address,
        Failure::Refused => &metrics.failures_refused,
        Failure::OutOfDescriptors => &metrics.failures_out_of_descriptors,
        Failure::Reset => &metrics.failures_reset,
        Failure::Timeout => &metrics.failures_timeout,
        Failure::Malformed => &metrics.failures_rubbish,
        Failure::TooLarge => &metrics.failures_too_large,
    }
}
