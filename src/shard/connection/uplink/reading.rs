//! How far a client is read. One whose forward queue is full is read on, for its acknowledgements: a call that waits
//! for them must not wait for the client's own messages. Those that come meanwhile join the queue, up to a limit in
//! memory. A client that sends more new messages per second than it may is read again when they have been worked off.
//!
//! ```text
//! queue   |--- forward_queue, forward_queue_bytes ---|--- forward_ahead_bytes, twice forward_queue_bytes ---|
//!          read                                       read, for ACK, REC, REL and COM                        paused
//! ```

use crate::base::id::ConnIndex;
use crate::base::time::Tick;
use crate::shard::connection::keepalive;
use crate::shard::connection::known_ids::KnownTable;
use crate::shard::connection::table::Table;
use crate::shard::context::Context;
use crate::shard::output::Output;
use crate::shard::planted::Bug;
use crate::wire::ws::frame::CloseCode;

/// Counts a new message. False when it is too many: the connection closes.
pub fn count_new(table: &mut Table, index: ConnIndex, cx: &mut Context<'_>) -> bool {
    let excess = table.details_mut(index).count_message(cx.settings.messages_per_second, cx.now);
    if excess > cx.settings.limits.messages_excess_max {
        cx.metrics.rate_closes.increment();
        table.close(index, CloseCode::POLICY, "too many messages per second", cx);
        return false;
    }
    if excess > 0 {
        let was_paused = std::mem::replace(&mut table.details_mut(index).paused, true);
        cx.metrics.rate_pauses.add(u64::from(!was_paused));
        table.arm_no_later(index, resumes_at(table, index, cx));
    }
    true
}

/// A message has joined the queue. `memory` is that of all clients' messages.
pub fn pause_when_full(table: &mut Table, index: ConnIndex, known: &KnownTable, memory: usize, cx: &mut Context<'_>) {
    let uplink = &table.details(index).uplink;
    if uplink.is_idle() || !table.conn(index).is_open() {
        return;
    }
    let bytes_max = cx.settings.forward_queue_bytes;
    let full = uplink.queue_len as usize >= cx.settings.forward_queue || memory >= bytes_max;
    let ahead = uplink.queue_memory as usize >= cx.settings.forward_ahead_bytes || memory >= 2 * bytes_max;
    if !full || !ahead && !cx.is_planted(Bug::StopsAtFullQueue) {
        return;
    }
    if needs_rel(table, index, known, cx) {
        // Nothing more can be read, and what would free room has not come.
        return table.close(index, CloseCode::POLICY, "too many answers without REL", cx);
    }
    let details = table.details_mut(index);
    if !std::mem::replace(&mut details.paused, true) {
        cx.metrics.pauses.increment();
    }
}

/// A client that was not read is read again when there is room.
pub fn resume(table: &mut Table, index: ConnIndex, known: &KnownTable, memory: usize, cx: &mut Context<'_>) {
    let details = table.details(index);
    if !details.paused || details.rate_settled(cx.settings.messages_per_second) > cx.now {
        return;
    }
    let (uplink, bytes_max) = (&details.uplink, cx.settings.forward_queue_bytes);
    let short = uplink.queue_len as usize <= cx.settings.forward_queue / 2 && memory < bytes_max;
    let small = uplink.queue_memory as usize <= cx.settings.forward_ahead_bytes / 2 && memory < 2 * bytes_max;
    if !(uplink.is_idle() || short || small || needs_rel(table, index, known, cx)) {
        return;
    }
    let key = table.key(index);
    let details = table.details_mut(index);
    details.paused = false;
    // Silence while nobody listened is not the client's.
    (details.received, details.active) = (cx.now, cx.now);
    if !cx.is_planted(Bug::NeverResumes) {
        cx.output(Output::Resume { key });
    }
    table.arm_no_later(index, keepalive::next_check(table, index, cx.settings));
}

/// When a client that sent too much is read again; for any other reason it is the backend's answers that resume it.
pub fn resumes_at(table: &Table, index: ConnIndex, cx: &Context<'_>) -> Tick {
    let details = table.details(index);
    let settled = details.rate_settled(cx.settings.messages_per_second);
    if details.paused && settled > cx.now { settled } else { Tick::NEVER }
}

/// Nothing of the client's is with the backend, and nothing will be until it releases answers.
pub fn needs_rel(table: &Table, index: ConnIndex, known: &KnownTable, cx: &Context<'_>) -> bool {
    let uplink = &table.details(index).uplink;
    let can_go_on = uplink.can_go_on() && uplink.known.storing() == 0;
    can_go_on && known.holds_over(&uplink.known, cx.settings.answers_bytes_max)
}
