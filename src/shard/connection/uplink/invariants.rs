//! What must hold of a client's messages between any two inputs.

use super::{EARLIER_ANSWERS, Uplinks};
use crate::base::id::ConnIndex;
use crate::shard::connection::forward_queue::{Current, Hold};
use crate::shard::connection::known_ids::Answer;
use crate::shard::connection::table::Table;
use crate::shard::settings::Settings;
use std::collections::HashSet;

/// What one connection's lists hold in the arenas.
#[derive(Default)]
pub struct Holdings {
    pub nodes: usize,
    /// Of its messages in the queue and with the backend.
    pub memory: usize,
}

impl Holdings {
    pub fn of(uplinks: &Uplinks, table: &Table, index: ConnIndex, settings: &Settings) -> Holdings {
        let uplink = &table.details(index).uplink;
        let durable = table.conn(index).session().is_some();
        let limits = (settings.answers_bytes_max, EARLIER_ANSWERS * settings.answers_bytes_max);
        uplinks.known.check(&uplink.known, settings.limits.answers_remembered_max, limits);
        let mut missing = HashSet::new();
        let mut ids = 0;
        for known in uplinks.known.iter(&uplink.known) {
            ids += 1;
            assert!(!matches!(known.answer(), Answer::Missing) || missing.insert(known.sequence()));
        }
        let queue = || uplinks.queue.iter(&uplink.queue).map(|(_, queued)| queued);
        let memory = queue().map(|queued| queued.memory() as usize).sum::<usize>();
        assert_eq!((queue().count(), memory), (uplink.queue_len as usize, uplink.queue_memory as usize));
        let origins = queue().map(|queued| queued.origin).chain(uplink.current.map(Current::origin));
        for origin in origins.filter(|origin| origin.id != 0) {
            assert!(missing.remove(&origin.sequence) || durable, "what is queued has no answer, and is queued once");
        }
        assert!(missing.is_empty(), "what has no answer is queued or with the backend");
        let is_over = uplinks.known.holds_over(&uplink.known, settings.answers_bytes_max);
        let advances = uplink.current.is_some() || uplink.queue.is_empty() || uplink.hold != Hold::No || is_over;
        assert!(advances, "the queue moves");
        Holdings {
            nodes: ids + uplink.queue_len as usize,
            memory: memory + uplink.current.map_or(0, |current| current.memory() as usize),
        }
    }
}
