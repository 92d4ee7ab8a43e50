//! What the worker and the pool say to each other: a hook to be called, and what became of it.
//!
//! Plain data. Made by the worker, which hands a `HookRequest` to `Pool::submit`; each comes back exactly once as a
//! `FinishedRequest`. Nothing here knows how requests are written or sent.

use std::fmt;
use std::rc::Rc;

use crate::base::client::ClientContext;
use crate::base::digits::Decimal;
use crate::base::time::Tick;
use crate::policy::backend::{Failure, Verdict};
use crate::wire::http1::ResponseHead;

/// Which of the business server's URLs is called, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// GET: may this client come in?
    Connect,
    /// POST: a client's message.
    Forward { message_type: u16 },
    /// GET: a connection has ended.
    Close,
    /// GET: a durable session has ended. Goes to the URLs of `Close`; its headers are ours and go out unfiltered.
    SessionEnded,
    /// POST: stored messages have reached their sessions; the body is JSON.
    Receipts,
    /// POST: a message on which the backend has failed for good, as it was forwarded.
    DeadLetter { message_type: u16 },
}

/// A hook without its parameters. Each kind has its own URLs and its own queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookKind {
    Connect,
    Forward,
    Close,
    Receipts,
    DeadLetter,
}

/// Whether a failed attempt is followed by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// One attempt, and none while the backend is known to be down: connects, messages of QoS 0.
    Never,
    /// Attempts until one is answered, or until this time.
    Until(Tick),
}

/// One request to be made. Some 400 bytes beside body, query and headers.
#[derive(Debug)]
pub struct HookRequest {
    pub hook: Hook,
    pub tag: RequestTag,
    pub retry: Retry,
    /// Of the connection that the request is about, in hex, see `base::id::Identity`.
    pub identity: [u8; 64],
    /// Its cookie and its address.
    pub client: ClientContext,
    pub idempotency_key: Option<IdempotencyKey>,
    /// Of a connect: the client's query string, without `?`.
    pub query: Option<Rc<str>>,
    /// Whole header lines of the client's, each with its CRLF: those that a client must not set (framing, compression,
    /// `RAINBOW*`) are left out when the request is written.
    pub client_headers: Option<Rc<[u8]>>,
    /// Whole header lines of our own.
    pub headers: Option<Rc<[u8]>>,
    /// Of a forward or of receipts. Given back for reuse.
    pub body: Vec<u8>,
}

/// The submitter's own name for a request. The pool gives it back with the outcome and does not look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestTag(pub u64);

/// A request that has ended.
#[derive(Debug)]
pub struct FinishedRequest<'a> {
    pub tag: RequestTag,
    pub outcome: HookOutcome<'a>,
    /// The request's own body, for reuse.
    pub request_body: Vec<u8>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub enum HookOutcome<'a> {
    /// A whole response. `Verdict::Retry` is reported only when there is no further attempt.
    Answered {
        verdict: Verdict,
        head: &'a ResponseHead<'a>,
        body: &'a [u8],
    },
    GaveUp {
        reason: GiveUp,
    },
}

/// Why a request ended without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GiveUp {
    #[error("{0}")]
    Failed(#[from] Failure),
    #[error("the backend is down, and was not asked")]
    Down,
    #[error("the deadline has passed")]
    Deadline,
    #[error("no URL is configured for this")]
    NoUrl,
    #[error("shutting down")]
    Closed,
}

/// Names a message towards the backend, the same in all attempts: 1–95 printable ASCII characters, no full stop.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct IdempotencyKey {
    len: u8,
    bytes: [u8; IdempotencyKey::LEN_MAX],
}

impl GiveUp {
    /// The backend may have read the request, and done what it asks for.
    pub fn may_have_arrived(self) -> bool {
        match self {
            GiveUp::Failed(Failure::NoAddress | Failure::Refused | Failure::OutOfDescriptors)
            | GiveUp::Down
            | GiveUp::NoUrl => false,
            GiveUp::Failed(_) | GiveUp::Deadline | GiveUp::Closed => true,
        }
    }
}

impl Hook {
    /// The request carries its body.
    pub(super) fn has_body(self) -> bool {
        matches!(self, Hook::Forward { .. } | Hook::Receipts | Hook::DeadLetter { .. })
    }

    /// The request is about one connection and names it.
    pub(super) fn has_identity(self) -> bool {
        !matches!(self, Hook::SessionEnded | Hook::Receipts)
    }
}

impl HookKind {
    pub const COUNT: usize = HookKind::ALL.len();
    pub const ALL: [HookKind; 5] =
        [HookKind::Connect, HookKind::Forward, HookKind::Close, HookKind::Receipts, HookKind::DeadLetter];
}

impl fmt::Display for HookKind {
    /// As in the name of its URL's key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HookKind::Connect => "connect",
            HookKind::Forward => "forward",
            HookKind::Close => "close",
            HookKind::Receipts => "receipt",
            HookKind::DeadLetter => "dead_letter",
        })
    }
}

impl From<Hook> for HookKind {
    fn from(hook: Hook) -> HookKind {
        match hook {
            Hook::Connect => HookKind::Connect,
            Hook::Forward { .. } => HookKind::Forward,
            Hook::Close | Hook::SessionEnded => HookKind::Close,
            Hook::Receipts => HookKind::Receipts,
            Hook::DeadLetter { .. } => HookKind::DeadLetter,
        }
    }
}

impl IdempotencyKey {
    pub const LEN_MAX: usize = 95;
    const EMPTY: IdempotencyKey = IdempotencyKey { len: 0, bytes: [0; IdempotencyKey::LEN_MAX] };

    pub fn new(text: &str) -> Option<IdempotencyKey> {
        IdempotencyKey::format(format_args!("{text}"))
    }

    /// `sender-run-place`, of which `sequence` is the last two: its upper 48 and its lower 16 bits. Every message has
    /// one, so it is put together without the formatter. `sender` is up to 64 hexadecimal digits.
    pub fn of_message(sender: &[u8], sequence: u64) -> IdempotencyKey {
        let mut key = IdempotencyKey::EMPTY;
        key.push(sender).expect("there is room");
        for number in [sequence >> 16, sequence & 0xFFFF] {
            key.push(b"-").and_then(|()| key.push(Decimal::of(number).as_bytes())).expect("there is room");
        }
        debug_assert!(IdempotencyKey::new(key.as_str()) == Some(key));
        key
    }

    /// Formats into the key itself, without an allocation. `None` when the text is not a valid key.
    pub fn format(text: fmt::Arguments<'_>) -> Option<IdempotencyKey> {
        let mut key = IdempotencyKey::EMPTY;
        fmt::write(&mut key, text).ok()?;
        // Full stops separate the parts of what Standard Webhooks signs.
        let is_key = key.len > 0 && key.as_bytes().iter().all(|byte| byte.is_ascii_graphic() && *byte != b'.');
        is_key.then_some(key)
    }

    fn push(&mut self, text: &[u8]) -> fmt::Result {
        let start = usize::from(self.len);
        let room = self.bytes.get_mut(start..start + text.len()).ok_or(fmt::Error)?;
        room.copy_from_slice(text);
        self.len += text.len() as u8;
        Ok(())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    pub fn as_str(&self) -> &str {
        str::from_utf8(self.as_bytes()).expect("a key is ASCII")
    }
}

impl fmt::Write for IdempotencyKey {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes())
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdempotencyKey({})", self.as_str())
    }
}

const _: () = assert!(IdempotencyKey::LEN_MAX <= u8::MAX as usize);
