//! What one worker counts outside its shard, and what becomes of the spans that workers record. The worker writes, and
//! of spans their exporter; /metrics and /info/ read.

use super::counter::{Counter, Gauge};
use super::figure::figures;
use super::histogram::{Durations, DurationsByLabel};

figures! {
    /// On cache lines of its own: no worker waits for another one to count.
    #[repr(align(128))]
    pub struct WorkerMetrics {
        /// HTTP requests read.
        http_requests: Counter,
        /// HTTP requests that could not be read (4xx).
        http_refused: Counter in "http_requests_refused" reason "malformed",
        /// HTTP requests that did not come, or were not complete, in time (408 once a byte has come).
        http_timeouts: Counter in "http_requests_refused" reason "timeout",
        /// Calls refused because the bodies of others take bodies_bytes_max (503).
        bodies_refused: Counter in "calls_refused" reason "bodies",
        /// Connections closed because they did not begin with a PROXY header of a trusted proxy.
        proxy_refused: Counter in "connections_refused" reason "proxy_header",
        /// Connections refused: no device, or by the backend (401).
        connect_refused: Counter in "connections_refused" reason "backend",
        /// Connections refused because the backend did not answer (503).
        connect_failed: Counter in "connections_refused" reason "backend_away",
        /// Connections refused for their Origin (403).
        origin_refused: Counter in "connections_refused" reason "origin",
        /// Calls by the business server carried out.
        calls: Counter,
        /// Calls refused for what they ask.
        calls_refused: Counter in "calls_refused" reason "request",
        /// Calls refused for their signature.
        signatures_refused: Counter in "calls_refused" reason "signature",
        /// Times that webhook signatures were forgotten before their window was over, because too many were used.
        replays_forgotten: Counter,
        /// Messages between workers refused because a mailbox was full.
        mailbox_full: Counter as "mail_full" in "mailbox_full",
        /// Calls of other nodes, for their callers.
        node_calls_in: Counter,
        /// Links of other nodes that were refused: another key or cluster, or no node at all.
        node_links_refused: Counter,
        /// Links to other nodes that were ended because they owed too many answers.
        node_links_overdue: Counter,
        /// Lines of traces that were not taken: their reader is slow, or there were too many.
        trace_entries_lost: Counter,
        /// Spans that found no room on their way to the exporter.
        spans_dropped: Counter as "spans_queue_full" in "spans_dropped" reason "queue_full",
        /// Panics in the handling of one connection.
        panics: Counter,
        /// Times that deadlines were judged a second late or later, after what had come meanwhile was read.
        timers_late: Counter,
        /// Callers that did not take an answer in time.
        answers_not_taken: Counter,
        /// Times that accepting paused because the last descriptors are for backends.
        accept_pauses: Counter,
        /// New connections that could not be accepted.
        accept_errors: Counter,
        /// Answers that carried RAINBOWREQUESTINVALID.
        backend_invalid: Counter,
        /// Messages that failed because forward_url answered with a redirect.
        backend_redirects: Counter,
        /// Answers with a RAINBOW* header whose value is not what it should be.
        backend_unreadable: Counter,
        /// Sessions that the backend named although there is no store.
        sessions_ignored: Counter,
        /// Connections that went on in their session's worker.
        handovers: Counter as "moves" in "handovers",
        /// Connections that could not move to their session's worker.
        handovers_failed: Counter as "moves_failed" in "handovers_failed",
        /// Durable sessions passed on to another node, where their clients have connected.
        sessions_passed: Counter as "sessions_passed",
        /// Durable sessions that another node has taken by force.
        sessions_lost: Counter as "sessions_lost",
        /// Nodes that wanted to create or fetch a session and were refused: they did not see the same nodes.
        grants_refused: Counter,
        /// Durable sessions that have come from another node's disk to this one's.
        sessions_fetched: Counter,
        /// Durable sessions that did not come whole from another disk: they stay there, and their clients try again.
        session_fetches_failed: Counter,
        /// Durable sessions on their way from this node's disk to another's, or to it.
        sessions_moving: Gauge,
        /// Pairs of durable sessions of one name that two nodes had, and that have become one.
        sessions_united: Counter,
        /// Times that two such sessions have not become one; it is tried again.
        unions_failed: Counter,
        /// QoS 2 messages dropped when two sessions became one: their client may have them, and nobody knows.
        messages_uncertain: Counter,
        /// Closes that the backend did not take within close_deadline, or of which too many waited.
        closes_given_up: Counter,
        /// Clients let in before the store had noted them: should the node die, their closes may stay unreported.
        connections_unrecorded: Counter,
        /// Reported closes that the store could not strike out: should the node die, they are reported again.
        closes_unrecorded: Counter,
        /// Delivery receipts that the backend did not take in time.
        receipts_dropped: Counter,
    }
    unexported {
        /// Lengths of the worker's turns, from the first thing that it handles to the end of what it writes.
        turns: Durations,
        /// Lengths of calls by path, from the whole body to the response.
        calls_by_path: DurationsByLabel,
    }
}

figures! {
    /// What has become of the spans of all workers. Their exporter's thread writes.
    pub struct SpanMetrics {
        /// Spans that the collector has taken (see otlp_endpoint).
        exported: Counter as "spans_exported",
        /// Spans that the collector did not take in time.
        export_failed: Counter as "spans_export_failed" in "spans_dropped" reason "export_failed",
    }
}
