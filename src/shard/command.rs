//! What a shard asks of the store, and what comes back. Plain, owned data: it travels to the store's thread.
//!
//! Each shard numbers its commands from 1, without gaps, and the store carries them out strictly in that order: a load
//! sees every mutation before it. A mutation may be done twice (after a crash, or when a completion is lost): the
//! second time changes nothing.

pub mod transfer;

use super::message::Message;
pub use super::uplink_sequence::UplinkMark;
use crate::base::id::Generation;
use crate::wire::packet::MessageId;
use std::sync::Arc;

/// Names a durable session in the store and in `Idempotency-Key`s; random, made when the session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u128);

impl SessionId {
    /// `random` with the name's hash in the lowest bits: what the store keeps of the name lies with what it keeps of
    /// the session.
    pub fn new(random: u128, name: &str) -> SessionId {
        SessionId(random & !(SessionId::PLACES - 1) | u128::from(place_of(name)))
    }

    /// As many places there are for names and sessions: a power of two.
    pub const PLACES: u128 = 64;
}

/// The place of a session's name, and of a call's `message_id`: FNV-1a, which is the same in every version.
pub fn place_of(name: &str) -> u64 {
    let hash = name
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
    hash % SessionId::PLACES as u64
}

/// A message's place among all that were ever accepted for a session, from 0. Its message id follows from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Offset(pub u64);

/// Wall-clock time in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnixMs(pub u64);

/// Counts a shard's commands from 1, without gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandNumber(pub u64);

#[derive(Debug)]
pub struct Command {
    pub number: CommandNumber,
    pub operation: Operation,
}

#[derive(Debug)]
pub enum Operation {
    Mutate(Mutation),
    /// Completed by a `Page`. An earlier mutation has made `session`.
    Load {
        session: SessionId,
        /// Messages behind this offset; `None`: from the first, and the received ids too.
        after: Option<Offset>,
        /// Messages at most. The store adds a limit in bytes of its own (about 1 MiB, at least one message).
        most: usize,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum Mutation {
    /// Writes the session's own row, new or not. Refused where another session has the name.
    PutSession(Box<SessionRow>),
    JoinChannel {
        session: SessionId,
        channel: Arc<str>,
    },
    LeaveChannel {
        session: SessionId,
        channel: Arc<str>,
    },
    /// Stores a message for the session. A message that is stored under its offset already stays as it is.
    PutMessage(Box<StoredMessage>),
    /// The client has the QoS 2 message (REC): only its REL is left to send.
    ReleaseMessage {
        session: SessionId,
        offset: Offset,
    },
    /// The message is finished.
    RemoveMessage {
        session: SessionId,
        offset: Offset,
    },
    /// A QoS 2 message of the client's, forwarded and answered. Replaces what was stored under its id.
    PutReceived {
        session: SessionId,
        received: Received,
    },
    /// REL came: the id is free again.
    RemoveReceived {
        session: SessionId,
        id: MessageId,
    },
    /// The session ends: everything of it is removed.
    DropSession {
        session: SessionId,
    },
}

impl Mutation {
    /// What it costs in memory, wherever it waits.
    pub fn cost(&self) -> usize {
        let carried = match self {
            Mutation::PutSession(row) => {
                size_of::<SessionRow>() + row.cookie.as_ref().map_or(0, |cookie| cookie.len()) + row.name.len()
            }
            Mutation::PutMessage(stored) => {
                let claim = stored.claim.as_ref().map_or(0, |claim| claim.message_id.len());
                size_of::<StoredMessage>() + stored.message.len() + claim
            }
            Mutation::PutReceived { received, .. } => received.answer.len(),
            Mutation::JoinChannel { channel, .. } | Mutation::LeaveChannel { channel, .. } => channel.len(),
            _ => 0,
        };
        size_of::<Command>() + carried
    }

    /// The session that it changes.
    pub fn session(&self) -> SessionId {
        match self {
            Mutation::PutSession(row) => row.session,
            Mutation::PutMessage(message) => message.session,
            Mutation::JoinChannel { session, .. }
            | Mutation::LeaveChannel { session, .. }
            | Mutation::ReleaseMessage { session, .. }
            | Mutation::RemoveMessage { session, .. }
            | Mutation::PutReceived { session, .. }
            | Mutation::RemoveReceived { session, .. }
            | Mutation::DropSession { session } => *session,
        }
    }
}

/// The session's own row: everything but its messages, received ids and channels.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionRow {
    pub session: SessionId,
    pub name: Arc<str>,
    /// How long it outlives its last connection, in seconds.
    pub expiry_s: u64,
    /// When it ends; `None` while it is online.
    pub ends: Option<UnixMs>,
    pub cookie: Option<Arc<[u8]>>,
    pub downlink: DownlinkMark,
    pub uplink: UplinkMark,
}

impl SessionRow {
    /// Of a session that was claimed, and to which no connection has been attached yet.
    pub fn unused(session: SessionId, name: Arc<str>) -> SessionRow {
        let (downlink, uplink) = (DownlinkMark::default(), UplinkMark::FIRST);
        SessionRow { session, name, expiry_s: 0, ends: Some(UnixMs(0)), cookie: None, downlink, uplink }
    }

    pub fn is_unused(&self) -> bool {
        self.ends == Some(UnixMs(0))
    }

    /// The node that had it has ended, or stands still, and took its client with it.
    pub fn has_ended_with_its_node(&self) -> bool {
        self.ends.is_none() && self.expiry_s == 0
    }
}

/// Where the numbering of messages to the client stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DownlinkMark {
    /// Offsets below this one may have been used.
    pub reserved: Offset,
    /// Messages below this offset are finished or stored; the client may hold QoS 2 ids of offsets between the two.
    pub floor: Offset,
}

/// A message that waits for a session.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredMessage {
    pub session: SessionId,
    pub offset: Offset,
    /// QoS 1 or 2. Of no meaning when `released`.
    pub message: Message,
    /// It may have reached the client: sent again with DUP.
    pub sent: bool,
    /// REC came: only its REL is left to send.
    pub released: bool,
    pub stored: UnixMs,
    pub expires: UnixMs,
    /// Where the caller gave a `message_id`.
    pub claim: Option<Claim>,
}

/// What makes a repeated call harmless: the session takes one message per claim, as long as the claim is stored
/// (`dedupe_window`), even when that message is gone already.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The caller's own id.
    pub message_id: Arc<str>,
    /// Until when it is stored.
    pub until: UnixMs,
}

/// A QoS 2 message of the client that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub id: MessageId,
    /// Run and id, as in its `Idempotency-Key`.
    pub sequence: u64,
    /// The backend's body; before it, where it has refused the message, the HTTP status (u16).
    pub answer: Arc<[u8]>,
    /// The answer is a refusal.
    pub refused: bool,
}

impl Received {
    /// Sequence and `refused` in one number, as it is stored. An answer that is no refusal is its sequence.
    pub fn stored_sequence(&self) -> u64 {
        self.sequence | if self.refused { REFUSED } else { 0 }
    }

    pub fn from_stored(id: MessageId, stored_sequence: u64, answer: Arc<[u8]>) -> Received {
        let (sequence, refused) = (stored_sequence & !REFUSED, stored_sequence & REFUSED != 0);
        Received { id, sequence, answer, refused }
    }
}

/// Above every sequence, and positive where numbers have a sign.
const REFUSED: u64 = 1 << 62;

/// What a load found.
#[derive(Debug, Default, PartialEq)]
pub struct Page {
    /// By offset. What has expired and is not purged yet is among them: the shard alone decides by its clock, and
    /// removes it. Were it left out, a wall clock that is stepped back would make it wait, passed over, in the store.
    pub messages: Vec<StoredMessage>,
    /// By `sequence`; on the first page only.
    pub received: Vec<Received>,
    /// There are messages behind these.
    pub more: bool,
}

/// The completions of a shard's commands up to a number.
#[derive(Debug, Default, PartialEq)]
pub struct Completions {
    /// All commands up to this number are completed, and what is done is on disk.
    pub upto: CommandNumber,
    /// Those among them that are not plainly `Done`, by number.
    pub exceptions: Vec<(CommandNumber, Completion)>,
}

#[derive(Debug, PartialEq)]
pub enum Completion {
    Done,
    /// A `PutMessage` whose claim the session has had already: nothing is stored under this offset.
    Duplicate,
    /// A `ReleaseMessage` or `RemoveMessage` of a message that is not there: it has expired, or was never stored.
    Absent,
    Loaded(Page),
    Refused(StoreError),
}

/// Why the store promises nothing now. `Unreachable`: whether the command was carried out is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum StoreError {
    #[error("the disk is full")]
    DiskFull,
    #[error("the store is full (store.bytes_max)")]
    StoreFull,
    #[error("the store cannot be written")]
    ReadOnly,
    #[error("the store is broken")]
    Broken,
    #[error("the store does not answer")]
    Unreachable,
    #[error("what is stored for the session is damaged (see the log)")]
    Damaged,
    #[error("another connection has taken the session over")]
    Fenced,
    #[error("the session's name is taken")]
    NameTaken,
    #[error("the store is too busy")]
    TooBusy,
}

/// A session as the store has it at the start of the process.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredSession {
    pub row: SessionRow,
    pub channels: Vec<Arc<str>>,
    /// Messages that wait, and their bytes (`Message::len`); released ones do not count.
    pub waiting: u32,
    pub waiting_bytes: u64,
    /// The offset behind the last stored message; 0 without any.
    pub next: Offset,
    /// When the first of them was stored, and its offset (or that of the first released one).
    pub oldest: Option<UnixMs>,
    pub first: Option<Offset>,
}

/// Messages of one session that have expired in the store and were removed there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpiredMessages {
    pub session: SessionId,
    pub messages: u32,
    pub bytes: u64,
}

impl Offset {
    /// 1, 2, …, 65534, 1, …
    pub fn id(self) -> MessageId {
        MessageId((self.0 % IDS) as u16 + 1)
    }

    pub fn next(self) -> Offset {
        Offset(self.0 + 1)
    }
}

/// As many ids as there are.
pub const IDS: u64 = MessageId::MAX.0 as u64;

// ---- who owns a session, where several nodes share a store; what is made of it is in `cluster::ownership` ----

/// Names one ownership of one session: the owner's generation, and a number that is drawn for each claim. 0 is
/// nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

impl Token {
    pub fn new(owner: Generation, drawn: u64) -> Token {
        Token(u64::from(owner.0) << 32 | drawn & 0xFFFF_FFFF)
    }

    /// `None`: nobody.
    pub fn owner(self) -> Option<Generation> {
        (self.0 != 0).then_some(Generation((self.0 >> 32) as u32))
    }
}

/// For the store; each is atomic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnershipCommand {
    /// If the record's token is `expected` (`None`: nobody owns it, or there is none), it becomes `token`, one of this
    /// node's.
    Claim { name: Arc<str>, expected: Option<Token>, token: Token },
    /// If the record's token is still `token`, it becomes `to`, one of another node's.
    Pass { name: Arc<str>, token: Token, to: Token },
    /// Is the record's token still this one?
    Verify { name: Arc<str>, token: Token },
}

/// Of a `Claim`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimAnswer {
    Claimed,
    /// The record has another token than expected; `None`: nobody owns the session.
    Taken(Option<Token>),
    /// The store did not answer: it may have carried the claim out, or not.
    Unknown,
    /// This node has no lease, or was buried: what it claims nobody would adopt.
    NoLease,
    /// What lies in the store cannot be read.
    Damaged,
}

/// Of any other command with a token, and of the shards' writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteAnswer {
    Stored,
    Fenced,
    Unknown,
}

/// What became of an `OwnershipCommand`.
#[derive(Clone, Debug, PartialEq)]
pub enum OwnershipAnswer {
    /// The session as it lies in the store, where it is this node's now.
    Claim {
        name: Arc<str>,
        token: Token,
        answer: ClaimAnswer,
        session: Option<Box<StoredSession>>,
    },
    Pass {
        name: Arc<str>,
        token: Token,
        answer: WriteAnswer,
    },
    Verify {
        name: Arc<str>,
        token: Token,
        answer: WriteAnswer,
    },
}

impl OwnershipCommand {
    pub fn name(&self) -> &Arc<str> {
        let (OwnershipCommand::Claim { name, .. }
        | OwnershipCommand::Pass { name, .. }
        | OwnershipCommand::Verify { name, .. }) = self;
        name
    }

    /// The answer of a store that did not do it, or of which nobody knows.
    pub fn undone(self, claim: ClaimAnswer, write: WriteAnswer) -> OwnershipAnswer {
        match self {
            OwnershipCommand::Claim { name, token, .. } => {
                OwnershipAnswer::Claim { name, token, answer: claim, session: None }
            }
            OwnershipCommand::Pass { name, token, .. } => OwnershipAnswer::Pass { name, token, answer: write },
            OwnershipCommand::Verify { name, token } => OwnershipAnswer::Verify { name, token, answer: write },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leads_to_its_owner() {
        assert_eq!(Token::new(Generation(7), u64::MAX).owner(), Some(Generation(7)));
        assert_ne!(Token::new(Generation(7), 1), Token::new(Generation(7), 2));
        assert_eq!(Token(0).owner(), None);
    }
}
