//! What must hold of a client's messages between any two inputs.

use super::Uplinks;
use crate::base::id::ConnIndex;
use crate::shard::connection::forward_queue::{Current, Hold};
use crate::shard::connection::known_ids::Answer;
use crate::shard::connection::table::Table;
use std::collections::HashSet;

/// What one connection's lists hold in the arenas.
#[derive(Default)]
pub struct Holdings {
    pub nodes: usize,
    /// Of its messages in the queue and with the backend.
    pub bytes: usize,
}

impl Holdings {
    /// `answers_max`: as many QoS 1 answers may be remembered.
    pub fn of(uplinks: &Uplinks, table: &Table, index: ConnIndex, answers_max: u16) -> Holdings {
        let uplink = &table.details(index).uplink;
        let durable = table.conn(index).session().is_some();
        uplinks.known.check(&uplink.known, durable, answers_max);
        let mut missing = HashSet::new();
        let mut ids = 0;
        for known in uplinks.known.iter(&uplink.known) {
            ids += 1;
            assert!(!matches!(known.answer(), Answer::Missing) || missing.insert(known.sequence()));
        }
        let queue = || uplinks.queue.iter(&uplink.queue).map(|(_, queued)| queued);
        assert_eq!(queue().count(), uplink.queue_len as usize);
        let origins = queue().map(|queued| queued.origin).chain(uplink.current.map(Current::origin));
        for origin in origins.filter(|origin| origin.id != 0) {
            assert!(missing.remove(&origin.sequence) || durable, "what is queued has no answer, and is queued once");
        }
        assert!(missing.is_empty(), "what has no answer is queued or with the backend");
        let advances = uplink.current.is_some() || uplink.queue.is_empty() || uplink.hold != Hold::No;
        assert!(advances, "the queue moves");
        Holdings {
            nodes: ids + uplink.queue_len as usize,
            bytes: queue().map(|queued| queued.body.len()).sum::<usize>()
                + uplink.current.map_or(0, |current| current.bytes() as usize),
        }
    }
}
