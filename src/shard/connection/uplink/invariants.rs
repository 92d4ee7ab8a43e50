//! What must hold of a client's messages between any two inputs.

use super::{Answer, Hold, Uplinks, answer_len};
use crate::base::id::ConnIndex;
use crate::shard::connection::table::Table;
use crate::wire::packet::QoS;
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
        let (mut ids, mut sequence, mut missing) = (HashSet::new(), 0, HashSet::new());
        let (mut answered, mut failed, mut qos2, mut bytes, mut storing) = (0, 0, 0, 0, 0);
        for (_, known) in uplinks.known.iter(&uplink.known) {
            assert!(known.id.is_valid() && ids.insert(known.id), "an id is known once");
            assert!(durable || sequence < known.sequence, "ids are known in their order");
            assert!(known.sequence <= uplink.sequence);
            sequence = known.sequence;
            let qos1 = known.qos == QoS::AtLeastOnce;
            qos2 += u16::from(!qos1);
            match &known.answer {
                Answer::Missing => assert!(missing.insert(known.sequence)),
                Answer::Given(packet) => {
                    answered += u16::from(qos1);
                    bytes += answer_len(packet);
                }
                Answer::Storing(_) => storing += 1,
                Answer::Failed => failed += u16::from(qos1),
            }
        }
        assert_eq!(storing, uplink.storing);
        assert_eq!((answered, failed, qos2), (uplink.answered_qos1, uplink.failed_qos1, uplink.held_qos2));
        assert!(answered <= answers_max && uplink.answer_bytes == bytes);
        let queue = || uplinks.queue.iter(&uplink.queue).map(|(_, queued)| queued);
        assert_eq!(queue().count(), uplink.queue_len as usize);
        let origins = queue().map(|queued| queued.origin).chain(uplink.current.map(|current| current.origin));
        for origin in origins.filter(|origin| origin.id != 0) {
            assert!(missing.remove(&origin.sequence) || durable, "what is queued has no answer, and is queued once");
        }
        assert!(missing.is_empty(), "what has no answer is queued or with the backend");
        let moves = uplink.current.is_some() || uplink.queue.is_empty() || uplink.hold != Hold::No;
        assert!(moves, "the queue moves");
        Holdings {
            nodes: ids.len() + uplink.queue_len as usize,
            bytes: queue().map(|queued| queued.body.len()).sum::<usize>()
                + uplink.current.map_or(0, |current| current.bytes as usize),
        }
    }
}
