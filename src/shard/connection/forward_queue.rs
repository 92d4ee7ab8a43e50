//! One client's messages on their way to the backend. `uplink` puts them in and hands them on.

use super::known_ids::KnownIds;
use crate::base::arena::List;
use crate::base::time::Tick;
use crate::wire::packet::QoS;

/// One connection's known ids and forward queue.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uplink {
    pub(super) known: KnownIds,
    pub(super) queue: List,
    pub(super) queue_len: u32,
    pub(super) hold: Hold,
    /// What the backend has now.
    pub(super) current: Option<Current>,
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

/// `Origin` and the length of its body, in 16 bytes: every connection has room for one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Current {
    sequence: u64,
    bytes: u32,
    id: u16,
    qos: QoS,
}

const _: () = assert!(size_of::<Option<Current>>() == 16);

impl Current {
    pub fn new(origin: Origin, bytes: u32) -> Current {
        let Origin { qos, id, sequence } = origin;
        Current { sequence, bytes, id, qos }
    }

    pub fn origin(self) -> Origin {
        let Current { sequence, id, qos, .. } = self;
        Origin { qos, id, sequence }
    }

    pub fn bytes(self) -> u32 {
        self.bytes
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

impl Uplink {
    /// Nothing of the client's is on its way to the backend.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.current.is_none() && self.known.storing() == 0
    }

    /// The backend has a message of this uplink's.
    pub fn has_current(&self) -> bool {
        self.current.is_some()
    }
}
