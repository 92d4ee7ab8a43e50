//! What a connection reports to the parts above it: its channels and its durable session. Events are handled in their
//! order, after the packet, timer or delivery that caused them. A connection without a session only ever reports
//! `Left`, `Done` and, while somebody traces, `Traced`.

use crate::base::arena::NodeIndex;
use crate::base::id::ConnIndex;
use crate::shard::call::trace::Seen;
use crate::shard::command::Offset;
use crate::wire::packet::MessageId;
use std::sync::Arc;

#[derive(Debug)]
pub enum Event {
    /// It is not open any more: it leaves its channels and its session, and nobody waits for its answers.
    Left(ConnIndex),
    /// It has ended, and nothing of its client's is under way any more: its slot is to be freed.
    Done(ConnIndex),

    /// Somebody may be tracing it.
    Traced { index: ConnIndex, seen: Box<Seen> },

    // ---- downlink of a session's connection ----
    /// A message has left the connection's list. `stored`: the store has it, or may have it; `bytes` of it count as
    /// waiting. `expired`: its time was over.
    Finished { index: ConnIndex, offset: Offset, stored: bool, bytes: u64, expired: bool },
    /// The client has a stored message. `message_id` is the caller's, if there was one.
    Received { index: ConnIndex, message_id: Option<Arc<str>> },
    /// REC came for a message that the store has, or its time is over: REL waits until the store knows. `bytes` and
    /// `expired` as above.
    Releasing { index: ConnIndex, offset: Offset, bytes: u64, expired: bool },
    /// The client has not acknowledged this message in time: it is to be stored.
    StoreDue { index: ConnIndex, node: NodeIndex },
    /// REC came for an id that is not in flight.
    UnknownRec { index: ConnIndex, id: MessageId },
    /// COM came for an id that is not in flight.
    UnknownCom { index: ConnIndex, id: MessageId },

    // ---- uplink of a session's connection ----
    /// The mark of the client's numbering has changed and must be stored before the forward queue goes on.
    MarkChanged(ConnIndex),
    /// The backend has answered the message of this number; the answer waits until the session lets it go.
    Answered { index: ConnIndex, sequence: u64 },
    /// A QoS 2 id is free again.
    IdReleased { index: ConnIndex, id: MessageId },
}
