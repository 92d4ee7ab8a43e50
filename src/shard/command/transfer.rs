//! A durable session on its way from one node's disk to another's: what the two sides ask of their stores, and the
//! parts in which its data travels. The rules are in `cluster::ownership::disks`; plain, owned data.
//!
//! ```text
//! Freeze(token) ─► Read(start) … Read(next)      ─► Delete(token), or Thaw(token)     the disk that it leaves
//!                  Write(token, part) … the last ─► Arrived; Settle(token) answers     the disk that it comes to
//! ```
//! A transfer is named by a token of the node that wants the session. Every command may be repeated: the second time
//! changes nothing. A token that `Settle` has found nothing of is never written afterwards.

use super::{Offset, Received, SessionId, SessionRow, StoreError, StoredMessage, StoredSession, Token, UnixMs};
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
    /// All of a session has come in part that is to become one with this one, which has the same name: what is its goes
    /// behind what this one has, from the offset `first` on. It has come then.
    Unite { name: Arc<str>, token: Token, session: SessionId, first: Offset, channels: Vec<Arc<str>> },
    /// The session leaves: its messages below this offset may have been sent to its client.
    NoteSent { name: Arc<str>, below: Offset },
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
    /// To `Unite`.
    United(United),
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

/// Messages that wait for a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    pub messages: u32,
    pub bytes: u64,
    pub oldest: Option<UnixMs>,
}

/// Where the messages of another session go in the one that it becomes part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    pub session: SessionId,
    /// The offset of the first one; the others follow it.
    pub first: Offset,
    /// Those of the other one that this one is to be in.
    pub channels: Vec<Arc<str>>,
}

/// What came of the messages of a session that has become one with another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct United {
    pub taken: Backlog,
    /// The other one has had them before, by their claims.
    pub repeats: u32,
    /// Of QoS 2, and sent before: whether the client has them nobody knows, and under another id they would come twice.
    pub uncertain: u32,
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
    /// By the clock that all times in it are of, when it was read. `set_clock` makes them those of another.
    pub now: UnixMs,
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
            TransferCommand::Unite { channels, .. } => channels.iter().map(|channel| channel.len() + 16).sum(),
            _ => 0,
        };
        size_of::<TransferCommand>() + carried
    }
}

/// Under which a session lies that is to become one with another of its name. No client can name such a one.
pub fn shadow_name(token: Token) -> Arc<str> {
    format!("\u{1}{:016x}", token.0).into()
}

impl Backlog {
    pub fn add(&mut self, messages: &[StoredMessage]) {
        for stored in messages.iter().filter(|stored| !stored.released) {
            self.messages += 1;
            self.bytes += stored.message.len() as u64;
            self.oldest = self.oldest.into_iter().chain([stored.stored]).min();
        }
    }
}

impl SessionPart {
    /// As it is to lie beside a session of the same name. Its channels are returned: they become the other one's. What
    /// its client has sent is forgotten: that client has begun anew.
    pub fn into_shadow(&mut self, token: Token) -> Vec<Arc<str>> {
        // Two copies of one session have one id.
        let session = SessionId(u128::from(token.0) << 64 | u128::from(token.0));
        self.messages.iter_mut().for_each(|stored| stored.session = session);
        let Some(head) = &mut self.head else { return Vec::new() };
        (head.row.session, head.row.name) = (session, shadow_name(token));
        head.received.clear();
        std::mem::take(&mut head.channels)
    }

    /// It has come to a node whose clock shows `now`, and keeps the time that it has left.
    pub fn set_clock(&mut self, now: UnixMs) {
        let ahead_ms = now.0.wrapping_sub(self.now.0) as i64;
        let set = |time: &mut UnixMs| time.0 = time.0.saturating_add_signed(ahead_ms);
        self.now = now;
        self.head.iter_mut().filter_map(|head| head.row.ends.as_mut()).for_each(set);
        self.guards.iter_mut().for_each(|guard| set(&mut guard.until));
        for stored in &mut self.messages {
            [&mut stored.stored, &mut stored.expires].into_iter().for_each(set);
            stored.claim.iter_mut().for_each(|claim| set(&mut claim.until));
        }
    }

    pub fn cost(&self) -> usize {
        let guards = self.guards.iter().map(|guard| size_of::<Guard>() + guard.message_id.len());
        let messages = self.messages.iter().map(|stored| size_of::<StoredMessage>() + stored.message.len());
        size_of::<SessionPart>() + guards.chain(messages).sum::<usize>()
    }
}
