//! What takes several nodes or the disk, how far it has come, and what it waits for.

use super::super::claims::{SessionName, Token};
use super::super::disk_calls::{DiskReply, ReplyTo};
use super::super::grantors::Grantor;
use crate::base::id::Generation;
use crate::base::time::Tick;
use crate::cluster::directory::waiting;
use crate::shard::command::StoreError;
use crate::shard::command::transfer::{Outcome, Position, TransferAnswer, TransferCommand};

/// What takes several nodes or the disk, and how far it has come.
pub enum Errand {
    /// Find the session, or create it: before this node may serve.
    Find(Search),
    /// Waits for the next grant.
    Grant(Search),
    /// Waits for the last of `called` to say whether it has the session.
    Locate { search: Search, called: Vec<Generation> },
    /// It is created, and the peers are to know before anybody else looks for it.
    Announce(Search),
    /// Fetch it: waits for a part.
    Read { fetch: Fetch, from: Position },
    /// Waits for a part to be on this disk; the next one begins at `next`.
    Write { fetch: Fetch, write: TransferCommand, next: Option<Position>, is_repeat: bool },
    /// Nothing of it is to come any more, but it may be here: `write` was its last part, if anything of it was written.
    GiveUp { fetch: Fetch, write: Option<TransferCommand> },
    /// It has come, and the peers are to know before the node that it has left asks.
    Arrived { transfer: Token },
    /// The session leaves by `to`.
    Freeze { name: SessionName, token: Token, to: Token },
    /// What became of a session that leaves? Waits for the last of `nodes` to say it.
    Settle { name: SessionName, token: Token, nodes: Vec<Generation> },
    /// The outcome is known, by the word of `by`; it does what follows.
    End { name: SessionName, token: Token, outcome: Outcome, by: Option<Generation> },
    /// Say what became of one that was to come.
    Decide { to: ReplyTo },
}

pub struct Search {
    pub name: SessionName,
    pub token: Token,
    pub grantors: Vec<Grantor>,
    /// So many of them were asked.
    pub requested: usize,
    /// When the first grant was asked for.
    pub begun: Tick,
}

pub struct Fetch {
    pub name: SessionName,
    pub token: Token,
    pub transfer: Token,
    pub from: Generation,
    pub deadline: Tick,
}

/// What an errand has waited for.
pub enum Arrival {
    Begun,
    /// `None`: the node cannot be reached, or refuses.
    Replied(Option<DiskReply>),
    Stored(TransferAnswer),
    Waited(waiting::Outcome),
    Granted(bool),
}

impl Errand {
    /// What it goes on with when its deadline has passed.
    pub fn late(&self) -> Arrival {
        match self {
            Errand::Find(_) | Errand::Announce(_) | Errand::Arrived { .. } => {
                Arrival::Waited(waiting::Outcome::TimedOut)
            }
            Errand::Grant(_) | Errand::Locate { .. } | Errand::Read { .. } | Errand::Settle { .. } => {
                Arrival::Replied(None)
            }
            // Nobody knows whether the store has done it.
            Errand::Write { .. }
            | Errand::GiveUp { .. }
            | Errand::Freeze { .. }
            | Errand::End { .. }
            | Errand::Decide { .. } => Arrival::Stored(TransferAnswer::Refused(StoreError::Unreachable)),
        }
    }
}
