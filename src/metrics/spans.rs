//! What has become of the spans that were handed to the exporter. Its thread writes; /metrics and /info/ read.

use super::counter::Counter;
use super::figure::figures;

figures! {
    pub struct SpanMetrics {
        /// Spans that the collector has taken (see otlp_endpoint).
        exported: Counter as "spans_exported",
        /// Spans that the collector did not take in time.
        export_failed: Counter as "spans_export_failed" in "spans_dropped" reason "export_failed",
    }
}
