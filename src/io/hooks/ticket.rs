//! What a request of the backend pool is about. The pool carries the ticket as a number and gives it back with the
//! outcome; it is packed and unpacked here and nowhere else.

use crate::base::id::ConnKey;
use crate::io::runtime::oneshot::OneshotId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookTicket {
    /// A message of this connection.
    Forward(ConnKey),
    /// The task that waits for the connect's outcome.
    Connect(OneshotId),
    /// A connection or a session has ended: nobody waits for the outcome.
    Close,
    /// So many receipts.
    Receipts { count: u32 },
}

impl HookTicket {
    /// A forward is its key, whose slot index never reaches the three upper bits; the others have one of them set.
    pub fn pack(self) -> u64 {
        match self {
            HookTicket::Forward(key) => {
                debug_assert!(key.index.0 < INDEX_END, "a slot's index leaves room for the marks");
                key.pack()
            }
            HookTicket::Connect(oneshot) => CONNECT | oneshot.pack(),
            HookTicket::Close => CLOSE,
            HookTicket::Receipts { count } => RECEIPTS | u64::from(count),
        }
    }

    pub fn unpack(packed: u64) -> HookTicket {
        if packed & CONNECT != 0 {
            HookTicket::Connect(OneshotId::unpack(packed))
        } else if packed & CLOSE != 0 {
            HookTicket::Close
        } else if packed & RECEIPTS != 0 {
            HookTicket::Receipts { count: packed as u32 }
        } else {
            HookTicket::Forward(ConnKey::unpack(packed))
        }
    }
}

const CONNECT: u64 = 1 << 63;
const CLOSE: u64 = 1 << 62;
const RECEIPTS: u64 = 1 << 61;
/// The index is the upper half of a packed key.
const INDEX_END: u32 = 1 << 29;
const _: () = assert!(OneshotId::PACKED_BITS <= 61);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::ShardId;

    #[test]
    fn what_is_packed_is_unpacked() {
        let key = ConnKey {
            index: crate::base::id::ConnIndex(INDEX_END - 1),
            generation: u16::MAX,
            shard: ShardId(u16::MAX),
        };
        let oneshot = OneshotId::unpack(u64::MAX);
        let forwards = [HookTicket::Forward(key), HookTicket::Forward(ConnKey::unpack(0))];
        let others = [HookTicket::Connect(oneshot), HookTicket::Close, HookTicket::Receipts { count: 500 }];
        for ticket in forwards.into_iter().chain(others) {
            assert_eq!(HookTicket::unpack(ticket.pack()), ticket);
        }
    }
}
