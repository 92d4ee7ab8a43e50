//! A durable session on its way from one node's disk to another's: what the two sides ask of their stores, and the
//! parts in which its data travels. The rules are in `cluster::ownership::disks`; plain, owned data.
//!
//! ```text
//! Freeze(token) ─► Read(start) … Read(next)      ─► Delete(token), or Thaw(token)     the disk that it leaves
//!                  Write(token, part) … the last ─► Arrived; Settle(token) answers     the disk that it comes to
//! ```
//! A transfer is named by a token of the node that wants the session. Every command may be repeated: the second time
//! changes nothing. A token that `Settle` has found nothing of is never written afterwards.

use super::{Offset, Received, SessionRow, StoreError, StoredMessage, StoredSession, Token, UnixMs};
use crate::base::id::{DiskId, Generation};
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq)]
pub enum TransferCommand {
    /// The session leaves: from now on this disk has it for this transfer only.
    Freeze { name: Arc<str>, token: Token },
    /// A part of a session that leaves.
    Read { name: Arc<str>, token: Token, from: Position },
    /// The other disk has it.
    Delete { name: Arc<str>, token: Token },
    /// The other disk will never have it by this token: it stays.
    Thaw { name: Arc<str>, token: Token },
    /// A part of a session that comes. The first one has a head.
    Write { name: Arc<str>, token: Token, part: Box<SessionPart> },
    /// Has the session arrived by this token? If not, it will not.
    Settle { token: Token },
    /// The disk that it has left knows the outcome: nobody asks again.
    Forget { token: Token },
    /// A node with a disk of its own is there, and has had these lives.
    Meet { node: Generation, disk: DiskId, lives: Vec<Generation> },
    /// It does not come back: nobody looks for it.
    Part { node: Generation },
}

#[derive(Clone, Debug, PartialEq)]
pub enum TransferAnswer {
    Done,
    /// There is no such session, or it leaves by another token.
    NotHere,
    Part(Box<SessionPart>),
    /// To the last `Write`, and to `Thaw`: the session as it lies on this disk.
    Here(Box<StoredSession>),
    Settled(Outcome),
    Refused(StoreError),
}

/// Of a transfer, by the word of the disk to which the session was to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Arrived,
    /// It will never arrive.
    Never,
    /// The token is not of any life of the node that has this disk.
    Foreign,
}

/// Where a part begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    Start,
    /// Behind this one, by the order of their ids.
    Guards(Arc<str>),
    Messages(Offset),
}

/// A bounded part of a session's data.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SessionPart {
    pub head: Option<Box<Head>>,
    pub guards: Vec<Guard>,
    pub messages: Vec<StoredMessage>,
    /// Where the next part begins; `None` after the last one.
    pub next: Option<Position>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    pub row: SessionRow,
    pub channels: Vec<Arc<str>>,
    pub received: Vec<Received>,
}

/// A session has had the message of this claim, whether it is there still or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    pub message_id: Arc<str>,
    pub offset: Offset,
    pub until: UnixMs,
}

impl TransferCommand {
    /// What it costs in memory, wherever it waits.
    pub fn cost(&self) -> usize {
        let carried = match self {
            TransferCommand::Write { part, .. } => part.cost(),
            _ => 0,
        };
        size_of::<TransferCommand>() + carried
    }
}

impl SessionPart {
    pub fn cost(&self) -> usize {
        let guards = self.guards.iter().map(|guard| size_of::<Guard>() + guard.message_id.len());
        let messages = self.messages.iter().map(|stored| size_of::<StoredMessage>() + stored.message.len());
        size_of::<SessionPart>() + guards.chain(messages).sum::<usize>()
    }
}
