//! What a request of the backend pool is about. The pool carries the ticket as a number and gives it back with the
//! outcome; it is packed and unpacked here and nowhere else.

use super::closes::CloseNumber;
use crate::base::id::{ConnIndex, ConnKey, ShardId};
use crate::io::runtime::oneshot::OneshotId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookTicket {
    /// A message of this connection.
    Forward(ConnKey),
    /// The task that waits for the connect's outcome.
    Connect(OneshotId),
    /// A connection or a session has ended: its number in `Closes`.
    Close(CloseNumber),
    /// So many receipts.
    Receipts { count: u32 },
}

impl HookTicket {
    /// A forward is its slot's index, which never reaches the three upper bits, and the generation; the others have one
    /// of those bits set.
    pub fn pack(self) -> u64 {
        match self {
            HookTicket::Forward(key) => {
                debug_assert!(key.index.0 < INDEX_END, "a slot's index leaves room for the marks");
                u64::from(key.index.0) << 32 | u64::from(key.generation)
            }
            HookTicket::Connect(oneshot) => CONNECT | oneshot.pack(),
            HookTicket::Close(CloseNumber(number)) => CLOSE | u64::from(number),
            HookTicket::Receipts { count } => RECEIPTS | u64::from(count),
        }
    }

    /// Packed by that worker: what it sends comes back to it.
    pub fn unpack(packed: u64, shard: ShardId) -> HookTicket {
        if packed & CONNECT != 0 {
            HookTicket::Connect(OneshotId::unpack(packed))
        } else if packed & CLOSE != 0 {
            HookTicket::Close(CloseNumber(packed as u32))
        } else if packed & RECEIPTS != 0 {
            HookTicket::Receipts { count: packed as u32 }
        } else {
            let (index, generation) = (ConnIndex((packed >> 32) as u32), packed as u32);
            HookTicket::Forward(ConnKey { index, generation, shard })
        }
    }
}

const CONNECT: u64 = 1 << 63;
const CLOSE: u64 = 1 << 62;
const RECEIPTS: u64 = 1 << 61;
/// The index is the upper half of a packed forward.
const INDEX_END: u32 = 1 << 29;
const _: () = assert!(OneshotId::PACKED_BITS <= 61);

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn what_is_packed_is_unpacked() {
        let shard = ShardId(29);
        let key = |index, generation| ConnKey { index: ConnIndex(index), generation, shard };
        let oneshot = OneshotId::unpack(u64::MAX);
        let forwards = [HookTicket::Forward(key(INDEX_END - 1, u32::MAX)), HookTicket::Forward(key(0, 0))];
        let others = [
            HookTicket::Connect(oneshot),
            HookTicket::Close(CloseNumber(u32::MAX)),
            HookTicket::Receipts { count: 500 },
        ];
        for ticket in forwards.into_iter().chain(others) {
            assert_eq!(HookTicket::unpack(ticket.pack(), shard), ticket);
        }
    }
}
