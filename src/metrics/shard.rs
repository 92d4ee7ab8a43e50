//! What one shard counts, and how it stands. The shard writes; /metrics and /info/ read.

use super::counter::{Counter, Gauge};

macro_rules! shard_metrics {
    (
        counters { $($(#[doc = $doc:literal])+ $name:ident)+ }
        gauges { $($(#[doc = $gauge_doc:literal])+ $gauge:ident)+ }
    ) => {
        /// On cache lines of its own: nobody waits for another worker to count.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct ShardMetrics {
            $($(#[doc = $doc])+ pub $name: Counter,)+
            $($(#[doc = $gauge_doc])+ pub $gauge: Gauge,)+
        }

        impl ShardMetrics {
            /// (name, what it counts, value) of each counter.
            pub fn counters(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($name), concat!($($doc),+).trim_ascii(), self.$name.get())),+].into_iter()
            }

            /// (name, what it is, value) of each gauge.
            pub fn gauges(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($gauge), concat!($($gauge_doc),+).trim_ascii(), self.$gauge.get())),+].into_iter()
            }
        }
    };
}

shard_metrics! {
    counters {
        /// Connections opened.
        opened
        /// Connections whose socket has ended.
        ended
        /// Messages from clients.
        messages_in
        /// Repeats from clients of a message that was known.
        repeats_in
        /// Messages to clients, without repeats.
        messages_out
        /// Repeats to clients, of SEND and REL.
        repeats_out
        /// Messages to clients given up at their deadline.
        messages_timed_out
        /// ACK, REC, REL or COM that answered nothing.
        answers_unknown
        /// Messages handed to the backend.
        forwards
        /// QoS 0 messages dropped because the backend did not take them.
        forwards_dropped_qos0
        /// QoS 1/2 messages given back to the client's repeats because the backend did not take them in time.
        forwards_failed
        /// Times a client was no longer read because its messages wait for the backend.
        pauses
        /// QoS 0 messages dropped because a client does not read.
        outbox_dropped_qos0
        /// Messages refused because too many wait for large channels.
        fanout_refused
        /// Keep-alive pings sent.
        pings
        /// Connections closed because no pong came.
        pong_timeouts
        /// Connections closed because they said nothing for too long.
        idle_timeouts
        /// Streams that broke RFC 6455 or the limits (closed 1002, 1007 or 1009).
        ws_violations
        /// Packets that are none (closed 1002).
        packet_violations
        /// Connections closed for a limit of theirs (1008).
        closed_policy
        /// Connections closed because they were too slow (1013).
        closed_too_slow
        /// Connections closed after a panic (1011).
        closed_panic
        /// Connections closed by the business server.
        kicked
        /// Inputs for a connection that is no more.
        stale
        /// Subscriptions refused: too many, or a bad name.
        subscriptions_refused
        /// Connections closed because another took over their session (4409).
        sessions_taken_over
        /// Durable sessions whose time was over.
        sessions_expired
        /// Messages stored for durable sessions.
        kept
        /// Messages given to the store because an online session did not acknowledge them in time.
        kept_late
        /// Messages not kept for a durable session: too many, too large, or the store is too busy.
        keeps_refused
        /// Stored messages whose time was over.
        messages_expired
        /// Work that the store refused.
        store_refused
    }
    gauges {
        /// Open connections.
        connections
        /// Channels with members here.
        channels
        /// Armed timers.
        timers
        /// Calls waiting for clients' answers.
        calls_waiting
        /// Bytes of clients' messages that wait for the backend.
        line_bytes
        /// Durable sessions, those without a connection included.
        sessions
        /// Commands that the store has not finished.
        store_under_way
    }
}
