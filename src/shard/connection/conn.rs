//! One connection as plain data: its phase, its clocks and its lists. What the lists hold lies in the arenas of the
//! parts that own it.
//!
//! A delivery touches `Conn` only: one cache line. Everything that is used when the client sends, or seldom, is in
//! `ConnDetails`.

use super::forward_queue::Uplink;
use super::outbox::Outbox;
use super::pending::Downlink;
use super::transport::Receiver;
use crate::base::arena::List;
use crate::base::client::ClientContext;
use crate::base::id::{ConnIndex, ConnKey, Identity, ShardId};
use crate::base::time::Tick;
use crate::shard::ids::SessionKey;
use std::rc::Rc;

/// ```text
/// Connecting ──opened──► Open ──close frame sent or received──► Closing ──socket ended──► Gone ──► (freed)
///     │                   └──────────────────────socket ended──────────────────────────────▲   last forward answered
///     ├──abandoned──► (freed)
///     └──handed over──► HandedOver ──ended there──► (freed)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not open yet: its connect hook or its session's attachment is under way.
    Connecting,
    Open,
    /// A close frame is queued or sent; what the client still sends is thrown away.
    Closing,
    /// No socket any more; messages taken from the client are still being forwarded.
    Gone,
    /// The connection went to the shard that owns its session; the slot stays for its identity.
    HandedOver,
}

/// What a delivery touches.
#[repr(C, align(64))]
pub struct Conn {
    pub(super) outbox: Outbox,
    pub(super) downlink: Downlink,
    /// `SessionKey::NONE` without.
    pub(super) session: SessionKey,
    /// Memberships in channels; those of a session's connection are the session's.
    pub(super) joined: List,
    pub(super) generation: u32,
    pub(super) phase: Phase,
    /// On the list of connections to be written.
    pub(super) dirty: bool,
    /// The socket has not taken all that was to be written.
    pub(super) blocked: bool,
    pub(super) peer: Peer,
}

/// What can still come from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Speaks,
    /// Its bytes cannot be decoded any more: it broke the protocol.
    Undecodable,
    /// Nothing: its close frame has come. The socket ends when the outbox is empty.
    Closed,
}

/// The rest of a connection; what every read and every ping touches comes first, close together.
#[repr(C)]
pub struct ConnDetails {
    /// When bytes last came from the client.
    pub(super) received: Tick,
    /// When the unanswered ping went out; `Tick::NEVER` when none is out.
    pub(super) pinged: Tick,
    /// When anything but a pong last came from the client.
    pub(super) active: Tick,
    /// In phase `Closing`: when to stop waiting for the client. Before: when the slot was taken.
    pub(super) phase_time: Tick,
    /// New messages that count in this second: those that came in it, and what earlier ones had too many.
    pub(super) rate_second: u32,
    pub(super) rate_count: u32,
    pub(super) receiver: Receiver,
    /// The connection's task has stopped reading.
    pub(super) paused: bool,
    /// A message of its is with the backend, under this connection's key.
    pub(super) forwarding: bool,
    /// The client speaks `rainbow.2`.
    pub(super) greets: bool,
    pub(super) uplink: Uplink,
    pub(super) client: ClientContext,
    pub(super) identity: Identity,
}

impl Conn {
    pub fn new(generation: u32) -> Conn {
        Conn {
            outbox: Outbox::default(),
            downlink: Downlink::default(),
            session: SessionKey::NONE,
            joined: List::default(),
            generation,
            phase: Phase::Connecting,
            dirty: false,
            blocked: false,
            peer: Peer::Speaks,
        }
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    pub fn generation(&self) -> u32 {
        self.generation
    }

    pub fn session(&self) -> SessionKey {
        self.session
    }

    pub fn downlink(&self) -> &Downlink {
        &self.downlink
    }

    #[cfg(debug_assertions)]
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    pub fn key(&self, index: ConnIndex, shard: ShardId) -> ConnKey {
        ConnKey { index, generation: self.generation, shard }
    }
}

impl ConnDetails {
    pub fn new(identity: Identity, now: Tick) -> ConnDetails {
        ConnDetails {
            received: now,
            pinged: Tick::NEVER,
            active: now,
            phase_time: now,
            rate_second: 0,
            rate_count: 0,
            receiver: Receiver::default(),
            uplink: Uplink::default(),
            client: ClientContext::default(),
            identity,
            paused: false,
            forwarding: false,
            greets: false,
        }
    }

    pub fn identity(&self) -> Identity {
        self.identity
    }

    pub fn cookie(&self) -> Option<&Rc<[u8]>> {
        self.client.cookie()
    }

    /// Of the client's incomplete message.
    #[cfg(debug_assertions)]
    pub fn assembly_memory(&self) -> usize {
        self.receiver.memory()
    }

    pub fn greets(&self) -> bool {
        self.greets
    }

    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// The backend has a message of the client's, whichever connection it came on.
    pub fn has_current(&self) -> bool {
        self.uplink.has_current()
    }

    /// Nothing of the client's is under way to the backend.
    pub fn is_uplink_idle(&self) -> bool {
        self.uplink.is_idle()
    }

    /// Nothing of the client's is under way to the backend, nor anything under this connection's key.
    pub fn is_finished(&self) -> bool {
        self.uplink.is_idle() && !self.forwarding
    }

    /// Counts a new message, where there is a limit. Returns how many came too many.
    pub fn count_message(&mut self, per_second: u32, now: Tick) -> u32 {
        if per_second == 0 {
            return 0;
        }
        let second = (now.0 / 1000) as u32;
        let passed = second.wrapping_sub(self.rate_second);
        self.rate_count = self.rate_count.saturating_sub(passed.saturating_mul(per_second)).saturating_add(1);
        self.rate_second = second;
        self.rate_count.saturating_sub(per_second)
    }

    /// When the messages that came too many have been worked off, and the client may send the next.
    pub fn rate_settled(&self, per_second: u32) -> Tick {
        match self.rate_count.saturating_sub(per_second) {
            excess if per_second > 0 && excess > 0 => {
                Tick((u64::from(self.rate_second) + u64::from(excess.div_ceil(per_second))) * 1000)
            }
            _ => Tick(0),
        }
    }
}

// One cache line.
const _: () = assert!(size_of::<Conn>() == 64);
// A million of them must fit beside their sockets.
const _: () = assert!(size_of::<Conn>() + size_of::<ConnDetails>() <= 240);
