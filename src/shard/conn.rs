//! One client's line: its phase, its clocks and what it owns. Plain data; the queues' contents lie in the shard's
//! arenas.

use super::arena::List;
use super::downlink::Downlink;
use super::outbox::Outbox;
use super::storeline::SessionKey;
use super::uplink::Uplink;
use crate::base::id::{ConnKey, Identity, ShardId};
use crate::base::time::Tick;
use crate::wire::ws::decoder::Decoder;
use std::rc::Rc;

/// ```text
/// Connecting ──opened──► Open ──close frame sent or received──► Closing ──socket ended──► Gone ──► (freed)
///     │                   └──────────────────────socket ended──────────────────────────────▲   last forward answered
///     ├──abandoned──► (freed)
///     └──moved──► Moved ──ended there──► (freed)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The slot is taken, the backend is being asked.
    Connecting,
    Open,
    /// A close frame is queued or sent; what the client still says is thrown away.
    Closing,
    /// No socket any more; messages taken from the client are still being forwarded.
    Gone,
    /// The connection went to its session's home; the slot is kept for its identity.
    Moved,
}

/// The first fields are those that a delivery touches.
pub struct Conn {
    pub outbox: Outbox,
    pub downlink: Downlink,
    pub generation: u16,
    pub phase: Phase,
    /// On the shard's list of connections to be written.
    pub dirty: bool,
    /// What was to be written has not all been taken by the socket.
    pub stuck: bool,
    /// The client's close frame has come: end the socket when the outbox is empty.
    pub peer_closed: bool,
    /// The stream cannot be decoded any more (it broke the protocol).
    pub deaf: bool,
    /// The session task was told to stop reading.
    pub paused: bool,
    /// A message of its is with the backend, under this connection's key.
    pub owes: bool,
    /// `SessionKey::NONE` without.
    pub session: SessionKey,
    /// Channels; those of a session's connection are the session's.
    pub joined: List,
    /// When bytes last came from the client.
    pub heard: Tick,
    /// When the unanswered ping went out; `Tick::NEVER` when none is out.
    pub pinged: Tick,
    pub decoder: Decoder,
    pub uplink: Uplink,
    pub cookie: Option<Rc<[u8]>>,
    /// When anything but a pong last came from the client.
    pub spoke: Tick,
    /// In phase `Closing`: when to stop waiting for the client.
    pub close_by: Tick,
    /// The second in which `rate_count` messages came.
    pub rate_second: u32,
    pub rate_count: u32,
    pub identity: Identity,
}

impl Conn {
    pub fn new(generation: u16, identity: Identity, now: Tick) -> Conn {
        Conn {
            outbox: Outbox::default(),
            downlink: Downlink::default(),
            generation,
            phase: Phase::Connecting,
            dirty: false,
            stuck: false,
            peer_closed: false,
            deaf: false,
            paused: false,
            owes: false,
            session: SessionKey::NONE,
            joined: List::default(),
            heard: now,
            pinged: Tick::NEVER,
            decoder: Decoder::default(),
            uplink: Uplink::default(),
            cookie: None,
            spoke: now,
            close_by: Tick::NEVER,
            rate_second: 0,
            rate_count: 0,
            identity,
        }
    }

    pub fn key(&self, index: u32, shard: ShardId) -> ConnKey {
        ConnKey { index, generation: self.generation, shard }
    }

    /// Nothing is under way with this client, in either direction.
    pub fn is_settled(&self) -> bool {
        self.uplink.is_idle() && self.downlink.list().is_empty() && self.outbox.is_empty()
    }

    /// Counts a message; true when it is one too many for this second.
    pub fn over_rate(&mut self, per_second: u32, now: Tick) -> bool {
        let second = (now.0 / 1000) as u32;
        if self.rate_second != second {
            (self.rate_second, self.rate_count) = (second, 0);
        }
        self.rate_count = self.rate_count.saturating_add(1);
        per_second > 0 && self.rate_count > per_second
    }
}

// A million of them must fit beside their sockets.
const _: () = assert!(std::mem::size_of::<Conn>() <= 256);

#[cfg(test)]
mod tests;
