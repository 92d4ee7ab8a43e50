//! Where a channel is: what this node tells its peers of its channels, and what they have told it.
//!
//! ```text
//! add, remove ─► local ─ end_turn ─► feed per peer ─ next_frame ─► link … link ─ receive ─► view ─► interests
//!                                        ▲                                          │
//!                                        └─────────── acknowledged, resync ─────────┘
//! ```
//! * Own channels: `add`, `remove` and `wait` within a turn, then `end_turn`.
//! * Links: `link_up`, `receive` frames, pull `next_frame` while the link has room, `link_down`.
//! * The membership: `gone` when a peer is down, `heard_of` when it comes back without a link, `forget` when it is
//!   dead and its sessions have other owners.
//! * Time: `handle_timers` at `next_tick`. Outputs: `poll_output`.
//!
//! Invariant: a channel that a linked peer has told us of is never missing in `interests`. Lives of a node are apart:
//! what is said of a dead one changes nothing of a later one.

pub mod bits;
mod feed;
mod local;
mod view;
pub mod waiting;

use super::planted::{ClusterBug, Planted};
use crate::base::id::Generation;
use crate::base::time::Tick;
use crate::wire::peer::frame::{ChangeNumber, Frame};
use bits::{Scratch, Table};
use feed::Feed;
use local::Local;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use view::{Response, View};
use waiting::{Outcome, WaiterId, Waiting};

/// What the directory has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// One that waited goes on.
    Settled { waiter: WaiterId, outcome: Outcome },
    /// Readers need another table: `Directory::table`.
    Table(Generation),
    /// `next_frame` has something for this peer.
    Pull(Generation),
}

/// A peer that may have members of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    pub node: Generation,
    /// It can be sent to. If not, the call must say so: `unreachable`.
    pub is_reachable: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Views that lost the thread, and asked for a snapshot.
    pub resyncs: u64,
    /// Peers that fell behind, and get a snapshot instead of changes.
    pub overflows: u64,
    /// Waits that ended without all acknowledgements.
    pub wait_timeouts: u64,
}

#[derive(Default)]
struct PeerDirectory {
    view: View,
    /// While a link is up.
    feed: Option<Feed>,
    acknowledge_due: Option<ChangeNumber>,
    has_resync_due: bool,
}

pub struct Directory {
    local: Local,
    peers: BTreeMap<Generation, PeerDirectory>,
    waiting: Waiting,
    scratch: Scratch,
    started: Tick,
    checksum_at: Tick,
    outputs: VecDeque<Output>,
    counts: Counts,
    planted: Planted,
}

impl Directory {
    pub fn new(now: Tick) -> Directory {
        Directory {
            local: Local::default(),
            peers: BTreeMap::new(),
            waiting: Waiting::default(),
            scratch: Scratch::default(),
            started: now,
            checksum_at: now + CHECKSUM_MS,
            outputs: VecDeque::new(),
            counts: Counts::default(),
            planted: Planted::default(),
        }
    }

    pub fn plant(&mut self, bug: ClusterBug) {
        self.planted.plant(bug);
    }

    // ---- own channels ----

    /// A shard has got its first member of a channel of this hash.
    pub fn add(&mut self, hash: u64) {
        self.local.add(hash);
    }

    /// It has lost its last one.
    pub fn remove(&mut self, hash: u64) {
        let was_there = self.local.remove(hash);
        debug_assert!(was_there, "what is removed was added");
    }

    /// `Output::Settled` follows when the live peers know all that was added until now.
    pub fn wait(&mut self, waiter: WaiterId, now: Tick) {
        let number = self.local.is_settled().then(|| self.local.number());
        self.waiting.push(waiter, number, now);
        self.settle(now);
    }

    pub fn end_turn(&mut self, now: Tick) {
        self.number_changes();
        self.settle(now);
    }

    fn number_changes(&mut self) {
        let turn = self.local.end_turn();
        self.waiting.number_turn(self.local.number());
        for (generation, peer) in &mut self.peers {
            let Some(feed) = &mut peer.feed else { continue };
            if turn.has_grown {
                feed.restart();
            }
            for batch in &turn.batches {
                self.counts.overflows += u64::from(!feed.push(batch));
            }
            if turn.has_grown || !turn.batches.is_empty() {
                self.outputs.push_back(Output::Pull(*generation));
            }
        }
    }

    // ---- links ----

    pub fn link_up(&mut self, generation: Generation) {
        let peer = self.peers.entry(generation).or_default();
        peer.view.lose();
        let mut feed = Feed::default();
        if self.planted.is(ClusterBug::SkipsSnapshot) {
            feed.pretend_sent();
        }
        peer.feed = Some(feed);
        self.outputs.extend([Output::Table(generation), Output::Pull(generation)]);
    }

    /// Until the peer is back or is found to be down, everything may be there. A link that never was up here (it was
    /// refused) changes nothing.
    pub fn link_down(&mut self, generation: Generation, now: Tick) {
        if let Some(peer) = self.peers.get_mut(&generation)
            && peer.feed.take().is_some()
        {
            peer.acknowledge_due = None;
            peer.has_resync_due = false;
            if !self.planted.is(ClusterBug::TrustsTheUnlinked) {
                peer.view.unlink();
            }
        }
        self.settle(now);
    }

    /// The peer is down by both witnesses: nobody comes to it any more, so what was known last counts, if that was
    /// whole.
    pub fn gone(&mut self, generation: Generation) {
        if let Some(peer) = self.peers.get_mut(&generation)
            && peer.feed.is_none()
        {
            peer.view.freeze();
        }
    }

    /// The peer was down, and SWIM hears of it: what happens there is not known until a link is up.
    pub fn heard_of(&mut self, generation: Generation) {
        if let Some(peer) = self.peers.get_mut(&generation)
            && peer.feed.is_none()
            && !self.planted.is(ClusterBug::TrustsTheUnlinked)
        {
            peer.view.unlink();
        }
    }

    /// The peer is dead, and whatever was there has other owners, or ended.
    pub fn forget(&mut self, generation: Generation, now: Tick) {
        self.peers.remove(&generation);
        self.settle(now);
    }

    /// A frame of the directory came over the first link to a peer. Others are left alone.
    pub fn receive(&mut self, generation: Generation, frame: Frame<'_>, now: Tick) {
        let Some(peer) = self.peers.get_mut(&generation) else { return };
        let Some(feed) = &mut peer.feed else { return };
        let response = match frame {
            Frame::SnapshotBegin { number, size_log2 } => {
                self.outputs.push_back(Output::Table(generation));
                let response = peer.view.begin(number, size_log2);
                if self.planted.is(ClusterBug::TrustsHalfASnapshot) {
                    peer.view.trust();
                }
                response
            }
            Frame::Chunk { index, chunk } => peer.view.chunk(index, chunk),
            Frame::SnapshotEnd { number, checksum } => peer.view.end(number, checksum),
            Frame::Changes { number, size_log2, changes } => peer.view.change(number, size_log2, changes),
            Frame::Checksum { number, checksum } => peer.view.check(number, checksum),
            Frame::Acknowledged { number } => {
                feed.acknowledge(number);
                self.settle(now);
                return;
            }
            Frame::Resync => {
                feed.resync();
                self.outputs.push_back(Output::Pull(generation));
                self.settle(now);
                return;
            }
            _ => return,
        };
        match response {
            Response::Nothing => return,
            Response::Acknowledge(number) => peer.acknowledge_due = Some(number),
            Response::Resync => {
                self.counts.resyncs += 1;
                peer.has_resync_due = true;
            }
        }
        self.outputs.push_back(Output::Pull(generation));
    }

    /// Appends the next frame for a peer; false when there is none. What the turn has changed is numbered first: a
    /// chunk must not show what no change will follow.
    pub fn next_frame(&mut self, generation: Generation, out: &mut Vec<u8>) -> bool {
        if !self.local.is_settled() {
            self.number_changes();
        }
        let Some(peer) = self.peers.get_mut(&generation) else { return false };
        let Some(feed) = &mut peer.feed else { return false };
        if std::mem::take(&mut peer.has_resync_due) {
            Frame::Resync.encode_into(out);
            return true;
        }
        if let Some(number) = peer.acknowledge_due.take() {
            Frame::Acknowledged { number }.encode_into(out);
            return true;
        }
        feed.next_frame(self.local.number(), self.local.bitmap(), &mut self.scratch, out)
    }

    // ---- who is interested ----

    /// The peers that may have members of a channel of this hash.
    pub fn interests(&self, hash: u64) -> impl Iterator<Item = Interest> {
        let interested = self.peers.iter().filter(move |(_, peer)| peer.view.table().may_have(hash));
        interested.map(|(node, peer)| Interest { node: *node, is_reachable: peer.feed.is_some() })
    }

    /// For readers on other threads; `Output::Table` says when there is another one.
    pub fn table(&self, generation: Generation) -> Option<&Arc<Table>> {
        self.peers.get(&generation).map(|peer| peer.view.table())
    }

    /// Calls may be served: every linked peer's channels are known, and it knows ours, or enough time has passed.
    /// `joining` peers have no link yet.
    pub fn is_ready(&self, joining: usize, now: Tick) -> bool {
        let is_whole =
            |peer: &PeerDirectory| peer.feed.as_ref().is_none_or(|feed| feed.is_acknowledged() && peer.view.is_whole());
        let are_whole = self.peers.values().all(is_whole);
        now.since_ms(self.started) >= READY_MS || joining == 0 && are_whole
    }

    /// Own channels that are announced.
    pub fn channels(&self) -> usize {
        self.local.channels()
    }

    /// Memory of the tables of others.
    pub fn bytes(&self) -> usize {
        self.peers.values().map(|peer| peer.view.bytes()).sum()
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    // ---- time ----

    pub fn handle_timers(&mut self, now: Tick) {
        if self.checksum_at <= now {
            self.checksum_at = now + CHECKSUM_MS;
            for (generation, peer) in &mut self.peers {
                if let Some(feed) = &mut peer.feed {
                    feed.request_checksum();
                    self.outputs.push_back(Output::Pull(*generation));
                }
            }
        }
        self.settle(now);
    }

    pub fn next_tick(&self) -> Tick {
        self.checksum_at.min(self.waiting.next_deadline())
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn settle(&mut self, now: Tick) {
        let (peers, planted) = (&self.peers, &self.planted);
        let is_known = |number| {
            planted.is(ClusterBug::OpensUnacknowledged)
                || peers.values().all(|peer| peer.feed.as_ref().is_none_or(|feed| feed.knows(number)))
        };
        while let Some((waiter, outcome)) = self.waiting.pop(now, is_known) {
            self.counts.wait_timeouts += u64::from(outcome == Outcome::TimedOut);
            self.outputs.push_back(Output::Settled { waiter, outcome });
        }
    }
}

const CHECKSUM_MS: u64 = 30_000;
/// A new node goes on without snapshots after it.
const READY_MS: u64 = 2_000;

#[cfg(test)]
mod tests;
