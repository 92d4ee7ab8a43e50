//! Limits that no operator sets, so small that a handful of clients reaches what is sliced, full and refused. Half of the
//! seeds live with them, half with the defaults.

use rainbow::base::limits::Limits;

/// Every second seed.
pub fn has_tiny_limits(seed: u64) -> bool {
    seed % 2 == 1
}

pub fn limits_of(seed: u64) -> Limits {
    if has_tiny_limits(seed) { tiny_limits() } else { Limits::DEFAULT }
}

/// What a report adds to a seed.
pub fn name_of_limits(seed: u64) -> &'static str {
    if has_tiny_limits(seed) { "with tiny limits" } else { "with the default limits" }
}

fn tiny_limits() -> Limits {
    Limits {
        fanout_slice_members: 1,
        gathered_members: 1,
        copied_packet_bytes_max: 12,
        fanout_at_once_members: 1,
        queue_short_max: 2,
        fanout_jobs_max: 3,
        commands_max: 6,
        commands_bytes_max: 3_000,
        commands_behind: 3,
        page_messages_min: 1,
        page_messages_max: 2,
        // Fewer, and the repeat of a client that lost the answer twice would be taken for a new message.
        answers_remembered_max: 24,
        held_ids_max: 3,
        // Fewer, and a client would hold an id for ever that a crash left behind.
        sweep_ids_max: 64,
        reserve_block_min: 1,
        reserve_block_max: 4,
        session_expiries_per_tick: 1,
        store_retry_ms: 300,
        messages_excess_max: 3,
        spare_bodies_max: 1,
        spare_body_bytes_max: 16,
        ..Limits::DEFAULT
    }
}
