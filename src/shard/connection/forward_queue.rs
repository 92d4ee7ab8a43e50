//! One client's messages on their way to the backend. `uplink` puts them in and hands them on.

use super::known_ids::{Known, KnownIds};
use crate::base::arena::List;
use crate::base::time::Tick;
use crate::wire::packet::QoS;

/// One connection's known ids and forward queue.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uplink {
    pub(super) known: KnownIds,
    pub(super) queue: List,
    pub(super) queue_len: u32,
    /// Memory of the messages in the queue.
    pub(super) queue_memory: u32,
    /// What the backend has now.
    pub(super) current: Option<Current>,
    pub(super) hold: Hold,
}

/// Whether the forward queue waits for the store to record the mark that its numbers are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Hold {
    #[default]
    No,
    Storing,
    /// The store has refused the mark: the next message has it stored again.
    Refused,
}

/// `Origin` and the memory of its message, packed: every connection has room for one.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed)]
pub(super) struct Current {
    sequence: u64,
    memory: u32,
    id: u16,
    qos: QoS,
}

const _: () = assert!(size_of::<Option<Current>>() == 15 && size_of::<Uplink>() == 68);

impl Current {
    pub fn new(origin: Origin, memory: u32) -> Current {
        let Origin { qos, id, sequence } = origin;
        Current { sequence, memory, id, qos }
    }

    pub fn origin(self) -> Origin {
        let Current { sequence, id, qos, .. } = self;
        Origin { qos, id, sequence }
    }

    pub fn memory(self) -> u32 {
        self.memory
    }
}

/// Where a queued message came from; QoS 0 has no id.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub(super) qos: QoS,
    pub(super) id: u16,
    pub(super) sequence: u64,
}

/// A message in a forward queue.
pub(super) struct Queued {
    pub(super) origin: Origin,
    pub(super) message_type: u16,
    pub(super) body: Vec<u8>,
    pub(super) accepted: Tick,
}

impl Queued {
    /// What it costs: its buffer, and its places in the queue and among the known ids.
    pub fn memory(&self) -> u32 {
        (QUEUED_MEMORY + self.body.capacity()) as u32
    }
}

impl Uplink {
    /// Nothing of the client's is on its way to the backend.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.current.is_none() && self.known.storing() == 0
    }

    /// Something is queued that neither the backend nor the store keeps from going on.
    pub fn can_go_on(&self) -> bool {
        !self.queue.is_empty() && self.current.is_none() && self.hold == Hold::No
    }

    /// The backend has a message of this uplink's.
    pub fn has_current(&self) -> bool {
        self.current.is_some()
    }
}

const QUEUED_MEMORY: usize = size_of::<Queued>() + size_of::<Known>() + 4 * size_of::<usize>();
