//! What a shard asks the store to keep, and what it hears back. Plain, owned data: it travels to the store's thread.
//!
//! Each shard numbers its work from 1, without gaps, and the store does it strictly in that order: a load sees every
//! step before it. Every step may be done twice (a crash, a lost answer): the second time changes nothing more.

use super::messages::Message;
use crate::wire::packet::MessageId;
use std::sync::Arc;

/// Names a durable session in the store and in `Idempotency-Key`s; random, made when the session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u128);

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
    /// Answered by a `Page`. `session` was made by an earlier step.
    Load {
        session: SessionId,
        /// Messages behind this place; `None`: from the first, and the received ids too.
        after: Option<Offset>,
        /// Messages at most; the store adds a limit in bytes of its own (about 1 MiB, at least one message).
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
    /// Keeps a message for the session. One that has its order already stays as it is.
    PutMessage(Box<StoredMessage>),
    /// The client has the QoS 2 message (REC): only its REL is still to be said.
    ReleaseMessage {
        session: SessionId,
        offset: Offset,
    },
    /// The message is done.
    RemoveMessage {
        session: SessionId,
        offset: Offset,
    },
    /// A QoS 2 message from the client, forwarded and answered. Replaces what was known of that id.
    PutReceived {
        session: SessionId,
        received: Received,
    },
    /// REL came: the id is free again.
    RemoveReceived {
        session: SessionId,
        id: MessageId,
    },
    /// The session ends: all of it goes.
    DropSession {
        session: SessionId,
    },
}

/// The session's own row: what is known of it without its messages.
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

/// Where the numbering of messages to the client stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DownlinkMark {
    /// Orders below this one may have been used.
    pub reserved: Offset,
    /// Orders below this one are finished or stored; the client may hold QoS 2 ids of those between.
    pub floor: Offset,
}

/// Where the numbering of the client's messages stands. A *run* is a row of rising ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UplinkMark {
    pub run: u32,
    /// The highest id of the run; 0 before the first, 65535 when it is not known (the process has died since).
    pub last: u16,
    /// More than half of all ids have been used in this run.
    pub past_half: bool,
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
    /// REC came: only its REL is still to be said.
    pub released: bool,
    pub stored: UnixMs,
    pub expires: UnixMs,
    /// Where the caller gave a `message_id`.
    pub claim: Option<Claim>,
}

/// What makes a repeated call harmless: the session takes one message per claim, as long as the claim is kept
/// (`dedupe_window`), even when that message is gone already.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The caller's own id.
    pub message_id: Arc<str>,
    /// Until when it is kept.
    pub until: UnixMs,
}

/// A QoS 2 message of the client that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub id: MessageId,
    /// Run and id, as in its `Idempotency-Key`.
    pub sequence: u64,
    pub answer: Arc<[u8]>,
}

/// What a load found.
#[derive(Debug, Default, PartialEq)]
pub struct Page {
    /// In their order; what has expired is left out.
    pub messages: Vec<StoredMessage>,
    /// In the order of `sequence`; of the first page only.
    pub received: Vec<Received>,
    /// Messages behind these.
    pub more: bool,
}

/// What became of the shard's work up to a number.
#[derive(Debug, Default, PartialEq)]
pub struct Completions {
    /// All work up to this number is finished, and what is done is on disk.
    pub upto: CommandNumber,
    /// Those among it whose outcome is not plainly `Done`, in their order.
    pub exceptions: Vec<(CommandNumber, Completion)>,
}

#[derive(Debug, PartialEq)]
pub enum Completion {
    Done,
    /// A `Keep` whose claim the session has had already: nothing is kept under this order.
    Duplicate,
    Loaded(Page),
    Refused(StoreError),
}

/// Why the store makes no promise now. Whether the step was done is not known when the reason is `Unreachable`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
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
    /// Messages that wait, and their bytes (`Message::len`); those that are only to be released do not count.
    pub waiting: u32,
    pub waiting_bytes: u64,
    /// The order behind the last message kept; 0 without any.
    pub next: Offset,
    /// When the first of them was stored, and its order (or that of the first to be released).
    pub oldest: Option<UnixMs>,
    pub first: Option<Offset>,
}

/// Messages that have expired in the store and were removed there; told to the session's shard.
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
