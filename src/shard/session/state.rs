//! One durable session: its state, and the offsets that say how far its messages have got.

use crate::base::arena::List;
use crate::base::id::ConnIndex;
use crate::shard::command::{CommandNumber, DownlinkMark, Offset, SessionId, SessionRow, UnixMs};
use crate::shard::ids::{SessionIndex, SessionKey};
use crate::shard::uplink_sequence::UplinkMark;
use crate::wire::packet::MessageId;
use std::rc::Rc;
use std::sync::Arc;

/// The number line of a session's offsets. Every message that is accepted takes `next`.
///
/// ```text
///  0 ······ oldest ······ launched ······ loaded ······ next ······ reserved ······ reserving
///  finished │ unfinished: in flight or stored           │ free     │ not usable    │ not asked for
///           │ may have been│ never sent │ in the store  │ without asking the      │ yet
///           │ sent before  │            │ only          │ store                   │
/// ```
/// * `oldest ≤ next`, `launched ≤ next`, `loaded ≤ next`, `reserved ≤ reserving`; `launched` and `loaded` may pass each
///   other.
/// * `next` passes `reserved` and `reserving` only by messages that are stored at once: the store then knows the offset
///   anyway. A message that goes straight to the client needs `next < reserved`.
/// * *Attaching*: `loaded` is 0 and `loading` is set until the first page has come; the row that is written reserves a
///   first block, which may be used (`reserved = reserving`) when that page is there.
/// * *Online*: messages below `loaded` are finished or in memory. With `more` or `loading`, those from `loaded` to
///   `next` may be stored and not in memory, and everything new is stored behind them; without, `loaded = next`.
/// * *Absent*: nothing is in memory, `loaded` has no meaning, nothing is reserved (`reserved = reserving ≤ next`).
pub struct Session {
    pub id: SessionId,
    pub name: Arc<str>,
    pub generation: u32,
    /// The connection that is online or being attached.
    pub conn: Option<ConnIndex>,
    /// The connection that has the client's messages: `conn`, or one that has ended while its last messages are with
    /// the backend.
    pub uplink_conn: Option<ConnIndex>,
    pub joined: List,
    pub cookie: Option<Arc<[u8]>>,
    pub expiry_s: u64,
    /// When it ends, while it is absent.
    pub ends: Option<UnixMs>,
    pub next: Offset,
    pub reserved: Offset,
    pub reserving: Offset,
    /// Size of the last block reserved.
    pub block: u64,
    pub oldest: Offset,
    pub loaded: Offset,
    /// Messages below it may have been sent on an earlier connection: they are repeats.
    pub launched: Offset,
    /// Messages in the store, those on their way there included.
    pub waiting: u32,
    pub waiting_bytes: u64,
    /// When the oldest of them was stored.
    pub oldest_stored: Option<UnixMs>,
    /// There may be stored messages that are not in memory.
    pub more: bool,
    pub loading: bool,
    /// Counts attachments: a page that was loaded for an earlier one is not for this one.
    pub attachment: u32,
    pub mark: UplinkMark,
    /// The last command that stores the mark because the forward queue waits for it.
    pub mark_command: CommandNumber,
    /// The last change of the row or the channels that an answer to the client must not overtake.
    pub changed: CommandNumber,
    /// The last of those that was refused.
    pub refused: CommandNumber,
    /// The store refused some commands, or their outcome is unknown: later changes are written even if the store may
    /// already have them.
    pub unsure: bool,
    pub sweep: Option<Sweep>,
    /// Its client speaks `rainbow.2`.
    pub greets: bool,
    /// It goes to another node, and nothing more is taken for it here.
    pub passing: bool,
    pub offer: Offer,
    /// Ids that the client holds although they are not in memory: what is stored under them may still be loaded.
    pub unmatched_recs: Vec<MessageId>,
    /// There were more of them than are remembered.
    pub recs_missed: bool,
    pub attaching: Option<Box<Attaching>>,
}

/// QoS 2 ids that the client may hold and of which nothing is known any more: those of the offsets `from` up to `upto`.
/// After a crash, or when the store has refused a REL. Each gets a REL; the sweep is over when the client has answered
/// the last one, and begins anew with the next connection otherwise.
#[derive(Clone, Copy)]
pub struct Sweep {
    pub from: Offset,
    pub upto: Offset,
    /// The last REL that this connection was sent.
    pub last_sent: Option<MessageId>,
}

impl Sweep {
    pub fn new(from: Offset, upto: Offset) -> Sweep {
        Sweep { from, upto, last_sent: None }
    }
}

/// A connection on its way to become a session's.
pub struct Attaching {
    pub response: Rc<[u8]>,
    pub resumed: bool,
}

/// To another node, when this one ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    Due,
    /// It was made: another node may come for the session.
    Open,
    /// Nobody takes it.
    Declined,
}

impl Session {
    pub fn new(id: SessionId, name: Arc<str>, generation: u32) -> Session {
        Session {
            id,
            name,
            generation,
            conn: None,
            uplink_conn: None,
            joined: List::default(),
            cookie: None,
            expiry_s: 0,
            ends: None,
            next: Offset(0),
            reserved: Offset(0),
            reserving: Offset(0),
            block: 0,
            oldest: Offset(0),
            loaded: Offset(0),
            launched: Offset(0),
            waiting: 0,
            waiting_bytes: 0,
            oldest_stored: None,
            more: false,
            loading: false,
            attachment: 0,
            mark: UplinkMark::FIRST,
            mark_command: CommandNumber(0),
            changed: CommandNumber(0),
            refused: CommandNumber(0),
            unsure: false,
            sweep: None,
            greets: false,
            passing: false,
            offer: Offer::Due,
            unmatched_recs: Vec::new(),
            recs_missed: false,
            attaching: None,
        }
    }

    /// It has no client, and nobody else is to have it yet.
    pub fn is_absent(&self) -> bool {
        self.conn.is_none() && self.uplink_conn.is_none() && !self.passing
    }

    pub fn key(&self, index: SessionIndex) -> SessionKey {
        SessionKey { index, generation: self.generation }
    }

    pub fn row(&self) -> SessionRow {
        SessionRow {
            session: self.id,
            name: self.name.clone(),
            expiry_s: self.expiry_s,
            ends: self.ends,
            cookie: self.cookie.clone(),
            downlink: DownlinkMark { reserved: self.reserving, floor: self.floor() },
            uplink: self.mark,
        }
    }

    /// It outlives its connection. Of one that does not, nothing is stored: it would be removed in the same moment.
    pub fn outlives_connection(&self) -> bool {
        self.expiry_s > 0
    }

    /// The client may hold QoS 2 ids of offsets from here on that the store knows nothing of.
    fn floor(&self) -> Offset {
        match self.sweep {
            Some(sweep) => sweep.from,
            None if self.conn.is_none() => self.reserving,
            None => self.oldest,
        }
    }

    /// Where messages that are not in memory may begin.
    pub fn end_of_memory(&self) -> Offset {
        if self.more || self.loading { self.loaded } else { self.next }
    }

    /// Everything before `first`, the first message in memory, is finished.
    pub fn advance_oldest(&mut self, first: Option<Offset>) {
        if self.sweep.is_none_or(|sweep| sweep.last_sent.is_some()) {
            self.oldest = self.oldest.max(first.unwrap_or(self.end_of_memory()));
        }
    }

    /// Takes the next offset.
    pub fn take_offset(&mut self) -> Offset {
        let offset = self.next;
        self.next = offset.next();
        offset
    }

    /// One more message is stored, or on its way there.
    pub fn count_waiting(&mut self, bytes: u64, now: UnixMs) {
        self.waiting += 1;
        self.waiting_bytes += bytes;
        self.oldest_stored.get_or_insert(now);
    }

    pub fn uncount_waiting(&mut self, bytes: u64) {
        self.uncount_expired(1, bytes);
    }

    pub fn uncount_expired(&mut self, messages: u32, bytes: u64) {
        self.waiting = self.waiting.saturating_sub(messages);
        self.waiting_bytes = self.waiting_bytes.saturating_sub(bytes);
        if self.waiting == 0 {
            self.oldest_stored = None;
        }
    }

    /// What the number line promises.
    #[cfg(debug_assertions)]
    pub fn check(&self) {
        assert!(self.oldest <= self.next && self.launched <= self.next && self.loaded <= self.next);
        assert!(self.reserved <= self.reserving);
        assert_eq!(self.ends.is_none(), self.conn.is_some(), "an absent session has an end");
        match (self.conn, &self.attaching) {
            (None, _) => assert!(self.reserved == self.reserving && self.reserved <= self.next),
            (Some(_), Some(_)) => assert!(self.loading && self.loaded == Offset(0)),
            (Some(_), None) => assert!(self.more || self.loading || self.loaded == self.next, "all is in memory"),
        }
    }
}
