//! Limits that no operator sets: sizes of slices and batches, caps of queues, times between retries. One struct, handed
//! down with the settings, so that a simulation or a fuzzer can shrink them and reach the full, sliced and refused
//! paths with a handful of clients.
//!
//! What an operator decides is in `config`; what a protocol fixes is a constant beside its code.

/// Today's values are the defaults. Times in milliseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    // ---- cluster ----
    /// Bytes of frames that may wait for a node to read them; calls beyond it name the node unreachable.
    pub link_queue_bytes_max: usize,
    /// Messages that may wait for the cluster's thread.
    pub cluster_messages_max: usize,

    // ---- shard ----
    /// Members of a large channel served before the rest of the worker gets its turn: a sixth of a millisecond, which
    /// another client's message waits twice.
    pub fanout_slice_members: usize,
    /// Members that a fan-out notes in one turn, before it serves the first.
    pub gathered_members: usize,
    /// A channel of up to so many members is served in one go.
    pub fanout_at_once_members: usize,
    /// What is as short is kept for a client however little memory is left.
    pub memory_short_max: usize,
    /// Messages behind one client's window that are looked at for each deadline among them; more are looked at in one
    /// go, every so many ms.
    pub queue_short_max: usize,
    pub queue_look_ms: u64,
    /// Channels that are looked at in one turn for the largest ones, and sessions for a list.
    pub walked_slots: usize,
    /// A longer packet is not copied for a write: the socket gets it where it lies, a 1 MiB one as often as it takes a
    /// part of it.
    pub copied_packet_bytes_max: usize,
    /// Messages that may wait for fan-out runs; more are refused.
    pub fanout_jobs_max: usize,
    /// Commands to the store that may be unfinished; beyond it nothing more is promised.
    pub commands_max: usize,
    /// The same for what they cost in memory, in bytes.
    pub commands_bytes_max: usize,
    /// Large fan-outs wait while so many commands are unfinished.
    pub commands_behind: usize,
    /// Messages of one page that is loaded from the store: twice the in-flight window, within these bounds.
    pub page_messages_min: usize,
    pub page_messages_max: usize,
    /// QoS 1 answers remembered per client, for repeats that crossed them.
    pub answers_remembered_max: u16,
    /// QoS 2 ids that a client may report as held before all that is stored has been loaded.
    pub held_ids_max: usize,
    /// Ids that are released after a crash, at most.
    pub sweep_ids_max: u64,
    /// Offsets reserved ahead in the store, doubled each time: one write of the session's row per half a block. A crash
    /// leaves the rest of a block unused, and many crashes in a row must not use up the ids behind an unfinished
    /// message.
    pub reserve_block_min: u64,
    pub reserve_block_max: u64,
    /// Sessions ended per tick.
    pub session_expiries_per_tick: usize,
    /// When the store refused a page, a drop, or a session's end has to wait.
    pub store_retry_ms: u64,
    /// New messages beyond `messages_per_second` after which a connection closes; before that it is not read until they
    /// have been worked off. More than one read of 16 KiB holds.
    pub messages_excess_max: u32,
    /// Body buffers kept for reuse per shard, and the largest that is kept.
    pub spare_bodies_max: usize,
    pub spare_body_bytes_max: usize,

    // ---- between workers ----
    /// Messages that may wait in one worker's mailbox.
    pub mailbox_messages_max: usize,
    /// Messages taken from the mailbox per turn.
    pub mailbox_batch: usize,
    /// Messages put before their receivers are woken.
    pub mailbox_unrung_max: usize,
    /// Events that may wait for the main thread.
    pub events_max: usize,
    /// Connections taken over from other workers per turn, and how a full handover channel is retried.
    pub handovers_per_turn: usize,
    pub handover_attempts_max: usize,
    pub handover_retry_ms: u64,
    /// Pause before what a full mailbox or store queue did not take is offered again.
    pub backlog_retry_ms: u64,

    // ---- HTTP ----
    pub keep_alive_ms: u64,
    pub body_timeout_ms: u64,
    /// After the last response of a connection: how long, and how many bytes, are read and thrown away.
    pub linger_ms: u64,
    pub linger_bytes: usize,
    /// Responses that a caller has not taken: bytes gathered, and the time after which it is given up.
    pub responses_bytes_max: usize,
    pub response_timeout_ms: u64,
    /// Pause before accepting is tried again when it has failed, and when the table of descriptors is full; it ends
    /// early when a descriptor is free again.
    pub accept_pause_ms: u64,
    pub accept_full_pause_ms: u64,
    /// Webhook signatures remembered, so that none is taken twice: this many, twice.
    pub replays_max: usize,
    /// Pairs of `Host` and `Origin` that are kept once for all clients of a worker that have them.
    pub sites_max: usize,
    /// Repeats of one `message_id` that may wait for the call that is being carried out.
    pub repeats_waiting_max: usize,
    /// Bytes of a client's reply that are remembered for repeats of a call with a `message_id`; a longer one is not.
    pub remembered_data_max: usize,

    // ---- hooks ----
    /// Requests that may wait for the backend, per worker.
    pub backend_queue_max: usize,
    pub backend_connect_ms: u64,
    /// How long an address that was not reached is tried last.
    pub backend_address_failed_ms: u64,
    /// A connection to the backend of this age gets no further request.
    pub backend_connection_age_ms: u64,
    /// Closing keep-alive connections that one request may meet.
    pub backend_stale_max: u32,
    /// Ends of connections and sessions that a worker's business server has not confirmed: with the pool at a time, and
    /// the memory of those that wait for that.
    pub closes_in_flight_max: usize,
    pub closes_bytes_max: usize,
    /// Requests to a busy store that wait in a worker: then connections go unrecorded.
    pub records_waiting_max: usize,
    /// Between two lines of the log about closes that were given up.
    pub closes_log_interval_ms: u64,
    /// How long a batch of receipts is retried.
    pub receipts_deadline_ms: u64,
    pub receipts_gather_ms: u64,
    pub receipts_per_batch: usize,
    pub receipt_batches_max: usize,
    /// Messages on their way to `dead_letter_url`, per worker: how many, their bytes, and how long each is retried.
    pub dead_letters_max: usize,
    pub dead_letters_bytes_max: usize,
    pub dead_letters_deadline_ms: u64,
    /// How long an address is used before its name is resolved again, and after a failure. By how
    /// many threads; how many names may wait, and how many addresses one may have.
    pub dns_ttl_ms: u64,
    pub dns_failed_ttl_ms: u64,
    pub dns_threads: usize,
    pub dns_queries_max: usize,
    pub dns_addresses_max: usize,

    // ---- spans ----
    /// Spans that may wait for the exporter; more are dropped.
    pub spans_max: usize,

    // ---- store thread ----
    /// Requests that may wait for the store's thread: some 0.1 s of its work.
    pub store_queue_max: usize,
    /// Requests, and bytes, of one commit.
    pub store_batch_max: usize,
    pub store_batch_bytes_max: usize,
    /// Expired messages removed between two commits.
    pub store_purge_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::DEFAULT
    }
}

impl Limits {
    pub const DEFAULT: Limits = Limits {
        link_queue_bytes_max: 16 << 20,
        cluster_messages_max: 65_536,
        fanout_slice_members: 32,
        gathered_members: 1024,
        fanout_at_once_members: 64,
        memory_short_max: 4 << 10,
        queue_short_max: 256,
        queue_look_ms: 500,
        walked_slots: 2048,
        copied_packet_bytes_max: 2 << 10,
        fanout_jobs_max: 4096,
        commands_max: 1 << 16,
        commands_bytes_max: 64 << 20,
        commands_behind: 4096,
        page_messages_min: 16,
        page_messages_max: 1024,
        answers_remembered_max: 64,
        held_ids_max: 20_000,
        sweep_ids_max: 20_000,
        reserve_block_min: 64,
        reserve_block_max: 1024,
        session_expiries_per_tick: 64,
        store_retry_ms: 1_000,
        messages_excess_max: 2048,
        spare_bodies_max: 1024,
        spare_body_bytes_max: 4096,
        mailbox_messages_max: 4096,
        mailbox_batch: 1024,
        mailbox_unrung_max: 64,
        events_max: 1024,
        handovers_per_turn: 256,
        handover_attempts_max: 200,
        handover_retry_ms: 5,
        backlog_retry_ms: 2,
        keep_alive_ms: 75_000,
        body_timeout_ms: 30_000,
        linger_ms: 1_000,
        linger_bytes: 1 << 20,
        responses_bytes_max: 64 << 10,
        response_timeout_ms: 30_000,
        accept_pause_ms: 50,
        accept_full_pause_ms: 1_000,
        replays_max: 1 << 18,
        sites_max: 1024,
        repeats_waiting_max: 64,
        remembered_data_max: 1024,
        backend_queue_max: 65_536,
        backend_connect_ms: 3_000,
        backend_address_failed_ms: 10_000,
        backend_connection_age_ms: 300_000,
        backend_stale_max: 3,
        closes_in_flight_max: 64,
        closes_bytes_max: 64 << 20,
        records_waiting_max: 16_384,
        closes_log_interval_ms: 60_000,
        receipts_deadline_ms: 60_000,
        receipts_gather_ms: 100,
        receipts_per_batch: 500,
        receipt_batches_max: 32,
        dead_letters_max: 1_024,
        dead_letters_bytes_max: 16 << 20,
        dead_letters_deadline_ms: 600_000,
        dns_ttl_ms: 30_000,
        dns_failed_ttl_ms: 1_000,
        dns_threads: 4,
        dns_queries_max: 64,
        dns_addresses_max: 8,
        spans_max: 4096,
        store_queue_max: 16_384,
        store_batch_max: 1024,
        store_batch_bytes_max: 4 << 20,
        store_purge_max: 512,
    };
}

const _: () = {
    let limits = Limits::DEFAULT;
    assert!(limits.commands_behind < limits.commands_max, "fan-out waits before promises are refused");
    assert!(limits.reserve_block_min <= limits.reserve_block_max);
    assert!(limits.page_messages_min <= limits.page_messages_max);
    assert!(
        limits.mailbox_unrung_max < limits.mailbox_messages_max,
        "receivers are woken before their mailbox is full"
    );
};
