//! What `disks` gives out and takes: what nodes with disks of their own ask of each other about one session, commands
//! to the store, and what this node knows of the others.

use super::super::transfers::{Standing, TransferCall};
use super::claims::{ClaimAnswer, RequestId, SessionName, Token, WriteAnswer};
use super::grantors::Grantor;
use crate::base::id::{DiskId, Generation};
use crate::base::time::Tick;
use crate::shard::command::StoredSession;
use crate::shard::command::transfer::{Position, SessionPart, TransferCommand};

/// What this node knows of the others at the moment.
pub trait Peers {
    /// Whom this node asks for a name, in this order. `None`: a peer has not said yet which disk it has.
    fn grantors(&self, name: &str, now: Tick) -> Option<Vec<Grantor>>;
    /// Nodes that may have the session, as far as this one knows.
    fn may_have(&self, name: &str) -> Vec<Generation>;
    /// Nodes that can be called.
    fn linked(&self) -> Vec<Generation>;
}

#[derive(Debug)]
pub enum DisksOutput {
    /// `on_reply` follows.
    Call { id: WaitId, to: Generation, call: DiskCall },
    /// `on_stored` follows.
    Store { id: WaitId, command: TransferCommand },
    /// `on_waited` follows as soon as this node may serve calls and every peer has said which disk it has.
    AwaitReady(WaitId),
    /// `on_waited` follows as soon as the peers know of every session that is here, or have had their time.
    AwaitKnown(WaitId),
    /// To `Claims::on_claim`. `session`: it has come to this disk.
    Claimed { name: SessionName, token: Token, answer: ClaimAnswer, session: Option<Box<StoredSession>> },
    /// A session that was passed to this node has not come.
    FetchFailed,
    /// To `Claims::on_frozen`.
    Passed { name: SessionName, token: Token, answer: WriteAnswer },
    /// The session lies on another disk, and no more on this one.
    Left(SessionName),
    /// The session that was to leave stays: `Claims::take_back`.
    Back(Box<StoredSession>),
    /// Note which messages the client of a session that leaves may have, and answer.
    NoteSent { name: SessionName, to: ReplyTo },
    /// Another node has a session of this name: answer which one stays.
    Compare { name: SessionName, standing: Standing, from: Generation, to: ReplyTo },
    /// To another node's query.
    Answer { to: ReplyTo, code: u32 },
}

/// What an errand waits for; no two are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaitId(pub u64);

/// Where the answer to another node's query goes: the caller's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo(pub u64);

/// What another node asks about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameQuery {
    /// Is the session here?
    Has {
        name: SessionName,
    },
    /// What became of the transfer to this node?
    Settle {
        name: SessionName,
        token: Token,
    },
    /// It wants to create or fetch the session.
    Grant {
        name: SessionName,
        id: RequestId,
    },
    Release {
        name: SessionName,
        id: RequestId,
    },
    /// The session leaves, to become part of another: note which of its messages its client may have.
    NoteSent {
        name: SessionName,
    },
    /// It has a session of this name too: which one stays?
    Rival {
        name: SessionName,
        standing: Standing,
    },
}

/// What this node asks of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskCall {
    Name(NameQuery),
    /// `NameQuery::Grant`, and the disks of all that are asked.
    Grant {
        name: SessionName,
        id: RequestId,
        disks: Vec<DiskId>,
    },
    Read {
        name: SessionName,
        token: Token,
        from: Position,
    },
    Forget {
        token: Token,
    },
}

/// The other node's answer.
#[derive(Clone, Debug, PartialEq)]
pub enum DiskReply {
    Code(u32),
    Part(Box<SessionPart>),
}

impl DiskCall {
    /// As it goes over a link.
    pub fn transfer_call(&self) -> TransferCall<'_> {
        match self {
            DiskCall::Name(NameQuery::Has { name }) => TransferCall::Has { name },
            DiskCall::Name(NameQuery::Settle { name, token }) => TransferCall::Settle { name, token: *token },
            DiskCall::Name(NameQuery::Grant { name, id }) => TransferCall::Grant { name, id: id.0, disks: Vec::new() },
            DiskCall::Grant { name, id, disks } => TransferCall::Grant { name, id: id.0, disks: disks.clone() },
            DiskCall::Name(NameQuery::Release { name, id }) => TransferCall::Release { name, id: id.0 },
            DiskCall::Name(NameQuery::NoteSent { name }) => TransferCall::NoteSent { name },
            DiskCall::Name(NameQuery::Rival { name, standing }) => TransferCall::Rival { name, standing: *standing },
            DiskCall::Read { name, token, from } => TransferCall::Read { name, token: *token, from: from.clone() },
            DiskCall::Forget { token } => TransferCall::Forget { token: *token },
        }
    }
}
