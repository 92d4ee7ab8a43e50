//! What one shard counts, and how it stands. The shard writes; /metrics and /info/ read.

use super::counter::{Counter, Gauge};
use super::figure::figures;

figures! {
    /// On cache lines of its own: no worker waits for another one to count.
    #[repr(align(128))]
    pub struct ShardMetrics {
        /// Connections opened.
        opened: Counter in "connections_opened",
        /// Connections whose socket has ended.
        ended: Counter in "connections_ended",
        /// Messages from clients.
        messages_in: Counter,
        /// Repeats from clients of a message that was known.
        repeats_in: Counter,
        /// Messages to clients, without repeats.
        messages_out: Counter,
        /// Repeats to clients, of SEND and REL.
        repeats_out: Counter,
        /// Messages to clients given up at their deadline.
        messages_timed_out: Counter,
        /// ACK, REC, REL or COM that answered nothing.
        answers_unknown: Counter,
        /// Messages handed to the backend.
        forwards: Counter,
        /// QoS 0 messages dropped because the backend did not take them.
        forwards_dropped_qos0: Counter in "messages_dropped_qos0" direction "in",
        /// QoS 1/2 messages given back to the client's repeats because the backend did not take them in time.
        forwards_failed: Counter,
        /// Messages that the backend has refused for good.
        forwards_refused: Counter,
        /// Times a client was no longer read because its messages wait for the backend.
        pauses: Counter,
        /// Times a client was no longer read because it sent more messages per second than it may.
        rate_pauses: Counter,
        /// Connections closed because they sent more messages per second than they may, all at once.
        rate_closes: Counter,
        /// Times a client's next message was not forwarded because the answers that it has not released are too long.
        answer_holds: Counter,
        /// QoS 0 messages dropped because a client does not read.
        outbox_dropped_qos0: Counter in "messages_dropped_qos0" direction "out",
        /// Times a client that was behind got nothing more, or its long message was not taken, because all clients
        /// together had used up their memory.
        memory_full: Counter,
        /// Messages refused because too many wait for large channels.
        fanout_refused: Counter,
        /// Messages to large channels that went to some or all members no more, because their time was over.
        fanout_late: Counter,
        /// Keep-alive pings sent.
        pings: Counter,
        /// Connections closed because no pong came.
        pong_timeouts: Counter in "connections_closed" reason "pong_timeout",
        /// Connections closed because they said nothing for too long.
        idle_timeouts: Counter in "connections_closed" reason "idle",
        /// Streams that broke RFC 6455 or the limits (closed 1002, 1007 or 1009).
        ws_violations: Counter in "connections_closed" reason "websocket",
        /// Packets that are none (closed 1002).
        packet_violations: Counter in "connections_closed" reason "packet",
        /// Connections closed for a limit of theirs (1008).
        closed_policy: Counter in "connections_closed" reason "policy",
        /// Connections closed because they were too slow (1013).
        closed_too_slow: Counter in "connections_closed" reason "too_slow",
        /// Connections closed after a panic (1011).
        closed_panic: Counter in "connections_closed" reason "panic",
        /// Connections closed by the business server.
        kicked: Counter in "connections_kicked",
        /// Inputs for a connection that has ended.
        stale: Counter in "inputs_stale",
        /// Subscriptions refused: too many, a bad name, or a closed connection.
        subscriptions_refused: Counter,
        /// Connections that lost their session to another (4409, or 503 while connecting).
        sessions_taken_over: Counter,
        /// Durable sessions whose time was over.
        sessions_expired: Counter,
        /// Messages stored for durable sessions.
        messages_stored: Counter as "kept" in "messages_stored",
        /// Messages given to the store because an online session did not acknowledge them in time.
        stored_late: Counter as "kept_late" in "messages_stored_late",
        /// Messages not stored for a durable session: too many, too large, or the store is too busy.
        stores_refused: Counter as "keeps_refused" in "messages_not_stored",
        /// Stored messages whose time was over.
        messages_expired: Counter,
        /// Answers of a session's earlier connections that were never released, and lost their bodies.
        answers_cut: Counter,
        /// Open connections.
        connections: Gauge,
        /// Channels with members, added up over the workers.
        channels: Gauge,
        /// Armed timers.
        timers: Gauge,
        /// Calls waiting for clients' answers.
        calls_waiting: Gauge,
        /// Memory of clients' messages that wait for the backend or are with it.
        forward_queue_bytes: Gauge as "line_bytes" in "forward_queue_bytes",
        /// Bytes of memory of what waits for clients, their answers for repeats, and their incomplete messages.
        clients_memory: Gauge as "clients_memory_bytes",
        /// Durable sessions, those without a connection included.
        sessions: Gauge,
    }
    unexported {
        /// Commands that the store refused.
        // The store exports its own `store_refused`, which counts these too.
        store_refused: Counter,
        /// Commands that the store has not finished.
        store_under_way: Gauge,
    }
}
