//! What must hold of a connection's messages between any two inputs.

use super::Downlinks;
use crate::base::id::ConnIndex;
use crate::base::time::Tick;
use crate::shard::call::waiting::CallRef;
use crate::shard::connection::pending::{Pending, State};
use crate::shard::connection::table::Table;
use crate::shard::message::{MessageRef, Messages};
use std::collections::HashSet;

/// What one connection's list holds elsewhere.
#[derive(Default)]
pub struct Holdings {
    pub pending: usize,
    pub message_uses: usize,
    pub calls: Vec<CallRef>,
}

impl Holdings {
    pub fn of(downlinks: &Downlinks, table: &Table, index: ConnIndex, messages: &Messages) -> Holdings {
        let mut holds = Holdings::default();
        let conn = table.conn(index);
        let downlink = &conn.downlink;
        let (mut ids, mut queued_memory, mut first_queued) = (HashSet::new(), 0, None);
        for (node, pending) in downlinks.pending.iter(&downlink.list) {
            holds.pending += 1;
            let bytes = pending.message.as_ref().map(|message| messages.get(message).len());
            assert_eq!(bytes, pending.message.as_ref().map(MessageRef::len), "a reference knows its message");
            assert!(bytes.is_some() || pending.is_released() || pending.state == State::Queued, "held until received");
            holds.message_uses += usize::from(bytes.is_some());
            holds.calls.extend(pending.call);
            if pending.state == State::Queued {
                first_queued.get_or_insert(node);
                queued_memory += pending.memory();
            } else {
                assert!(first_queued.is_none(), "what is in flight comes before what is queued");
                assert!(ids.insert(pending.id()), "ids do not collide in flight");
            }
        }
        assert_eq!((ids.len(), queued_memory), (downlink.in_flight(), downlink.queued_memory()));
        assert_eq!(first_queued, downlink.first_queued);
        assert!(first_queued.is_none() || downlink.in_flight() > 0, "something will end and make room for the queued");
        let offsets = downlinks.offsets(table, index);
        assert!(
            !conn.session().is_some() || offsets.is_sorted_by(|a, b| a < b),
            "a session's messages keep their order"
        );
        holds
    }
}

/// When something has to be looked at; `Tick::NEVER` when nothing has. What is queued may wait for the next look at all
/// of it.
pub fn earliest_wake(downlinks: &Downlinks, table: &Table, index: ConnIndex) -> Tick {
    let look = downlinks.long_queues.get(&index).copied().unwrap_or_default();
    let pending = downlinks.pending.iter(&table.conn(index).downlink.list).map(|(_, pending)| pending);
    let wake = |pending: &Pending| match pending.state {
        State::Queued => pending.wake().max(look),
        _ => pending.wake(),
    };
    pending.map(wake).min().unwrap_or(Tick::NEVER)
}
