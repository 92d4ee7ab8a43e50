//! This node's part in its cluster: membership, directory and the control links between nodes, joined.
//!
//! ```text
//! datagrams ─► opener ─► membership ─► who is there ─────────► peers
//!                          ▲    │ links, heartbeats              ▲
//! control links ─► frames ─┘    ▼                                │ tables
//!                     └──────► directory ─► changes, snapshots ──┘
//! ```
//! There is one control link between two nodes. Either may dial it; of two that were made at the same time both sides
//! keep the one that the lower generation dialed. Messages go over other links, which `io/cluster` makes to each peer
//! that is reachable.
//!
//! Invariant: the directory has a feed for exactly those peers that have a control link.

use super::directory::bits::Table;
use super::directory::waiting::{Outcome, WaiterId};
use super::directory::{self, Directory};
use super::key::ClusterKeys;
use super::membership::peer::{Peer, PeerState, Reason};
use super::membership::{self, Founding, Membership};
use super::planted::ClusterBug;
use crate::base::id::{Generation, NodeId};
use crate::base::time::Tick;
use crate::wire::peer::datagram::{Datagram, Node2014};
use crate::wire::peer::frame::{Frame, Goodbye, Hello, VersionRange};
use crate::wire::peer::seal::{Opener, Rejected, Sealer};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

/// A control link, by the number that `io/cluster` has given it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkNumber(pub u64);

/// What is to be carried out.
#[derive(Debug)]
pub enum NodeOutput {
    Datagram {
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    /// For whoever may be in the LAN, or on this machine.
    Broadcast {
        bytes: Vec<u8>,
    },
    Dial(NodeId),
    Write {
        link: LinkNumber,
        bytes: Vec<u8>,
    },
    /// `pull` has something for this link.
    Pull(LinkNumber),
    /// Once what was written has gone out.
    Close(LinkNumber),
    Settled {
        waiter: WaiterId,
        outcome: Outcome,
    },
    /// `peers` has changed.
    Peers,
    /// For the log.
    PeerChanged {
        node: NodeId,
        state: PeerState,
        reason: Reason,
    },
    Refused {
        node: NodeId,
        goodbye: Goodbye,
    },
    ClockDiffers {
        sender: Generation,
        by_s: i64,
    },
    AddressConflict {
        one: NodeId,
        other: NodeId,
    },
    Node2014(Node2014),
    /// The others hold this life of this node for dead: the process has to end, and to start as another.
    OwnGenerationDead,
    /// The others have heard that this node leaves.
    Left,
}

/// A peer as calls and pages see it.
#[derive(Clone)]
pub struct PeerView {
    pub node: NodeId,
    pub state: PeerState,
    pub reason: Reason,
    pub since: Tick,
    /// A control link works: it can be sent to.
    pub is_linked: bool,
    /// Its channels; everything may be there while it is not complete. `None`: nothing of it is looked for.
    pub table: Option<Arc<Table>>,
    pub round_trip_ms: Option<u64>,
}

/// Datagrams that were not taken, by the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rejections {
    pub foreign: u64,
    pub forged: u64,
    pub stale: u64,
    pub replayed: u64,
    /// Links that were closed over what their peer sent.
    pub violations: u64,
}

struct Link {
    peer: Generation,
    /// Of the two nodes the one with the lower generation has dialed it.
    is_dialed_by_lower: bool,
}

/// A peer that is being dialed, or was in vain.
#[derive(Default)]
struct Dial {
    not_before: Tick,
    failures: u32,
}

/// With whom a node is one, and what it leaves when it ends.
#[derive(Clone, Copy)]
pub struct NodeTerms<'a> {
    pub keys: &'a ClusterKeys,
    pub cluster_name: &'a str,
    /// Drawn at random; no two processes may have the same.
    pub salt: [u8; 12],
    pub outlast: Outlast,
}

/// What of a node outlasts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlast {
    /// Its clients go to other nodes, and nothing is left.
    Nothing,
    /// Its sessions: what concerns them is looked for until `forget`.
    Sessions,
}

pub struct Node {
    membership: Membership,
    directory: Directory,
    outlast: Outlast,
    sealer: Sealer,
    opener: Opener,
    links: BTreeMap<LinkNumber, Link>,
    by_peer: BTreeMap<Generation, LinkNumber>,
    round_trips: BTreeMap<Generation, u64>,
    dials: BTreeMap<Generation, Dial>,
    dial_at: Tick,
    announce_at: Tick,
    announced: u32,
    started: Tick,
    rejections: Rejections,
    outputs: VecDeque<NodeOutput>,
}

impl Node {
    pub fn new(founding: Founding, terms: NodeTerms<'_>, now: Tick) -> Node {
        let NodeTerms { keys, cluster_name, salt, outlast } = terms;
        let own = founding.node.generation;
        Node {
            membership: Membership::new(founding, now),
            directory: Directory::new(now),
            sealer: Sealer::new(&keys.datagrams, cluster_name, own, salt),
            opener: Opener::new(&keys.datagrams, cluster_name, own),
            outlast,
            links: BTreeMap::new(),
            by_peer: BTreeMap::new(),
            round_trips: BTreeMap::new(),
            dials: BTreeMap::new(),
            dial_at: now,
            announce_at: now,
            announced: 0,
            started: now,
            rejections: Rejections::default(),
            outputs: VecDeque::new(),
        }
    }

    pub fn own(&self) -> NodeId {
        self.membership.own().node
    }

    /// What this node says first over each link.
    pub fn hello(&self, link: u16, links: u16, unix_s: u64) -> Hello {
        let own = self.membership.own();
        Hello { versions: VersionRange::OURS, node: own.node, start: own.start, unix_s, link, links }
    }

    // ---- inputs ----

    /// `from`: who has sent it, as the system says.
    pub fn on_datagram(&mut self, bytes: &[u8], from: SocketAddr, now: Tick, unix_s: u64) {
        match self.opener.open(bytes, unix_s) {
            Ok(opened) => match Datagram::decode(&opened.plain) {
                Some(Datagram::Swim(message)) => self.membership.handle(membership::Input::Swim(message), now),
                Some(Datagram::Online(node)) => self.membership.handle(membership::Input::Online(node), now),
                None => self.rejections.foreign += 1,
            },
            Err(Rejected::Own) => {}
            Err(Rejected::Forged) => self.rejections.forged += 1,
            Err(Rejected::Replayed) => self.rejections.replayed += 1,
            Err(Rejected::Stale { sender, by_s }) => {
                self.rejections.stale += 1;
                self.outputs.push_back(NodeOutput::ClockDiffers { sender, by_s });
                self.dial_stale(NodeId { generation: sender, address: from }, now);
            }
            Err(Rejected::TooLong | Rejected::Foreign | Rejected::Version(_)) => {
                self.rejections.foreign += 1;
                self.outputs.extend(Node2014::recognise(bytes).map(NodeOutput::Node2014));
            }
        }
        self.collect(now, unix_s);
    }

    /// Its clock is not ours, or somebody sends again what it has sent. A link tells, and corrects the clock.
    fn dial_stale(&mut self, sender: NodeId, now: Tick) {
        let is_dialable = self.dials.get(&sender.generation).is_none_or(|dial| dial.not_before <= now);
        let has_room = self.dials.len() < DIALS_MAX || self.dials.contains_key(&sender.generation);
        if is_dialable && has_room && !self.by_peer.contains_key(&sender.generation) {
            self.dial(sender, now);
        }
    }

    /// A node may be at this address.
    pub fn on_seed(&mut self, address: SocketAddr, now: Tick, unix_s: u64) {
        self.on_hint(address, now);
        self.collect(now, unix_s);
    }

    fn on_hint(&mut self, address: SocketAddr, now: Tick) {
        self.membership.handle(membership::Input::Hint(address), now);
    }

    /// A control link's handshake is done. `is_dialed`: by this node.
    pub fn on_link_up(&mut self, link: LinkNumber, hello: &Hello, is_dialed: bool, now: Tick, unix_s: u64) {
        let (own, peer) = (self.own().generation, hello.node.generation);
        self.dials.remove(&peer);
        let is_dialed_by_lower = is_dialed == (own < peer);
        let refusal = match self.by_peer.get(&peer).map(|other| &self.links[other]) {
            _ if hello.versions.agree(VersionRange::OURS).is_none() => Some(Goodbye::Version),
            _ if peer == own => Some(Goodbye::Replaced),
            // Whoever had no link yet when the goodbyes were said.
            _ if self.membership.is_leaving() => Some(Goodbye::Leaving),
            Some(other) if other.is_dialed_by_lower && !is_dialed_by_lower => Some(Goodbye::Replaced),
            _ => None,
        };
        if let Some(goodbye) = refusal {
            self.write(link, Frame::Goodbye(goodbye));
            self.outputs.push_back(NodeOutput::Close(link));
            if goodbye == Goodbye::Version {
                self.outputs.push_back(NodeOutput::Refused { node: hello.node, goodbye });
            }
            return self.collect(now, unix_s);
        }
        if let Some(other) = self.by_peer.get(&peer).copied() {
            self.say_goodbye(other, Goodbye::Replaced);
            self.forget_link(other, None, now);
        }
        self.opener.learn_clock(peer, hello.unix_s, unix_s);
        self.links.insert(link, Link { peer, is_dialed_by_lower });
        self.by_peer.insert(peer, link);
        self.membership.handle(membership::Input::LinkUp { node: hello.node, start: hello.start }, now);
        let is_taken =
            self.membership.peer(peer).is_some_and(|peer| peer.is_linked() && peer.state() != PeerState::Dead);
        if is_taken {
            self.directory.link_up(peer);
            self.outputs.push_back(NodeOutput::Peers);
        }
        self.collect(now, unix_s);
    }

    /// A frame came over a control link.
    pub fn on_frame(&mut self, link: LinkNumber, frame: Frame<'_>, now: Tick, unix_s: u64) {
        let Some(peer) = self.links.get(&link).map(|link| link.peer) else { return };
        self.membership.handle(membership::Input::LinkHeard(peer), now);
        match frame {
            Frame::Goodbye(goodbye) => {
                self.outputs.push_back(NodeOutput::Close(link));
                self.forget_link(link, Some(goodbye), now);
            }
            Frame::Heartbeat { sent_ms } => self.write(link, Frame::HeartbeatEcho { sent_ms }),
            Frame::HeartbeatEcho { sent_ms } => {
                self.round_trips.insert(peer, now.0.saturating_sub(sent_ms));
            }
            Frame::Hello(_) | Frame::Call { .. } | Frame::Reply { .. } => return self.on_violation(link, now, unix_s),
            of_directory => self.directory.receive(peer, of_directory, now),
        }
        self.collect(now, unix_s);
    }

    /// The peer of a control link has sent what makes no sense.
    pub fn on_violation(&mut self, link: LinkNumber, now: Tick, unix_s: u64) {
        self.rejections.violations += 1;
        self.say_goodbye(link, Goodbye::Violation);
        self.forget_link(link, None, now);
        self.collect(now, unix_s);
    }

    /// The control link is gone.
    pub fn on_link_ended(&mut self, link: LinkNumber, now: Tick, unix_s: u64) {
        self.forget_link(link, None, now);
        self.collect(now, unix_s);
    }

    /// The next dial is later each time.
    pub fn on_dial_failed(&mut self, peer: Generation, now: Tick) {
        if let Some(dial) = self.dials.get_mut(&peer) {
            dial.failures += 1;
            dial.not_before = now + (DIAL_MS << dial.failures.min(10)).min(DIAL_PAUSE_MS_MAX);
        }
    }

    /// The store's own clock says that the lease of this life has ended.
    pub fn on_lease_ended(&mut self, peer: Generation, now: Tick, unix_s: u64) {
        self.membership.handle(membership::Input::LeaseEnded(peer), now);
        self.collect(now, unix_s);
    }

    /// Nothing of a dead life is left: it is looked for no longer.
    pub fn forget(&mut self, peer: Generation, now: Tick, unix_s: u64) {
        self.directory.forget(peer, now);
        self.outputs.push_back(NodeOutput::Peers);
        self.collect(now, unix_s);
    }

    /// What is none of this module's came over a control link.
    pub fn on_other_frame(&mut self, link: LinkNumber, now: Tick, unix_s: u64) {
        if let Some(peer) = self.links.get(&link).map(|link| link.peer) {
            self.membership.handle(membership::Input::LinkHeard(peer), now);
            self.collect(now, unix_s);
        }
    }

    /// A shard has got its first member of a channel of this hash, or lost its last one. `end_turn` must follow.
    pub fn on_channel(&mut self, hash: u64, is_here: bool) {
        match is_here {
            true => self.directory.add(hash),
            false => self.directory.remove(hash),
        }
    }

    /// `NodeOutput::Settled` follows when the peers know of all that was added until now.
    pub fn wait(&mut self, waiter: WaiterId, now: Tick) {
        self.directory.wait(waiter, now);
    }

    pub fn end_turn(&mut self, now: Tick, unix_s: u64) {
        self.directory.end_turn(now);
        self.collect(now, unix_s);
    }

    /// This node stops: `NodeOutput::Left` follows.
    pub fn leave(&mut self, now: Tick, unix_s: u64) {
        self.membership.handle(membership::Input::Leave, now);
        let links: Vec<LinkNumber> = self.links.keys().copied().collect();
        links.into_iter().for_each(|link| self.say_goodbye(link, Goodbye::Leaving));
        self.collect(now, unix_s);
        let is_informed =
            |peer: &Peer| peer.state() == PeerState::Dead || self.by_peer.contains_key(&peer.node().generation);
        if self.membership.peers().all(is_informed) {
            self.outputs.push_back(NodeOutput::Left);
        }
    }

    // ---- time ----

    pub fn handle_timers(&mut self, now: Tick, unix_s: u64) {
        self.membership.handle_timers(now);
        self.directory.handle_timers(now);
        if self.announce_at <= now {
            self.announce(now, unix_s);
        }
        if self.dial_at <= now {
            self.dial_at = now + DIAL_MS;
            self.dials.retain(|peer, dial| match self.membership.peer(*peer) {
                Some(peer) => peer.state() != PeerState::Dead,
                None => dial.not_before > now,
            });
            let missing = self.membership.peers().filter(|peer| self.is_to_be_dialed(peer, now));
            let missing: Vec<NodeId> = missing.map(|peer| peer.node()).collect();
            missing.into_iter().for_each(|node| self.dial(node, now));
            self.forget_gone(now);
        }
        self.collect(now, unix_s);
    }

    pub fn next_tick(&self) -> Tick {
        self.membership.next_tick().min(self.directory.next_tick()).min(self.dial_at).min(self.announce_at)
    }

    pub fn poll_output(&mut self) -> Option<NodeOutput> {
        self.outputs.pop_front()
    }

    /// Frames of the directory for a link, until there are so many bytes.
    pub fn pull(&mut self, link: LinkNumber, enough: usize, out: &mut Vec<u8>) {
        let Some(peer) = self.links.get(&link).map(|link| link.peer) else { return };
        while out.len() < enough && self.directory.next_frame(peer, out) {}
    }

    // ---- views ----

    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The control link to a peer.
    pub fn link_to(&self, peer: Generation) -> Option<LinkNumber> {
        self.by_peer.get(&peer).copied()
    }

    pub fn plant(&mut self, bug: ClusterBug) {
        self.directory.plant(bug);
    }

    pub fn peers(&self) -> Vec<PeerView> {
        self.membership
            .peers()
            .map(|peer| {
                let generation = peer.node().generation;
                PeerView {
                    node: peer.node(),
                    state: peer.state(),
                    reason: peer.reason(),
                    since: peer.since(),
                    is_linked: peer.is_linked() && peer.state() != PeerState::Dead,
                    table: self.directory.table(generation).cloned(),
                    round_trip_ms: self.round_trips.get(&generation).copied(),
                }
            })
            .collect()
    }

    /// The peers and their channels are known as far as they can be, and they know of ours: calls may be served.
    pub fn is_ready(&self, now: Tick) -> bool {
        let joining = self.membership.peers().filter(|peer| peer.state() == PeerState::Joining).count();
        let has_looked = now.since_ms(self.started) >= LOOK_MS;
        let is_informed = self.membership.is_informed() || self.membership.peers().next().is_none();
        let unknown = usize::from(!is_informed);
        has_looked && self.directory.is_ready(joining + unknown, now)
    }

    pub fn rejections(&self) -> Rejections {
        self.rejections
    }

    // ---- inside ----

    /// The lower generation dials; the higher one does when nothing has come for a while.
    fn is_to_be_dialed(&self, peer: &Peer, now: Tick) -> bool {
        let generation = peer.node().generation;
        let is_ours = self.own().generation < generation || now.since_ms(peer.since()) >= YIELD_MS;
        !self.membership.is_leaving()
            && peer.state() != PeerState::Dead
            && !self.by_peer.contains_key(&generation)
            && self.dials.get(&generation).is_none_or(|dial| dial.not_before <= now)
            && is_ours
    }

    fn dial(&mut self, node: NodeId, now: Tick) {
        // Until the dial's outcome is known.
        self.dials.entry(node.generation).or_default().not_before = now + DIAL_TIMEOUT_MS;
        self.outputs.push_back(NodeOutput::Dial(node));
    }

    /// Often in the first seconds, then now and then: who comes later finds us, and we him.
    fn announce(&mut self, now: Tick, unix_s: u64) {
        let pause = ANNOUNCE_FIRST_MS.get(self.announced as usize).copied().unwrap_or(ANNOUNCE_MS);
        self.announce_at = now + pause;
        self.announced = self.announced.saturating_add(1);
        let online = Datagram::Online(self.own()).encode();
        let sealed = self.sealer.seal(&online, unix_s);
        self.outputs.extend(sealed.map(|bytes| NodeOutput::Broadcast { bytes }));
    }

    /// Nothing is looked for on a node that has been away for so long that its clients are elsewhere.
    fn forget_gone(&mut self, now: Tick) {
        if self.outlast == Outlast::Sessions {
            return;
        }
        let is_gone = |state, since| state == PeerState::Down && now.since_ms(since) >= FORGET_DOWN_MS;
        let gone = self.membership.peers().filter(|peer| is_gone(peer.state(), peer.since()));
        let gone: Vec<Generation> = gone.map(|peer| peer.node().generation).collect();
        for generation in gone {
            if self.directory.table(generation).is_some() {
                self.directory.forget(generation, now);
                self.outputs.push_back(NodeOutput::Peers);
            }
        }
    }

    fn write(&mut self, link: LinkNumber, frame: Frame<'_>) {
        let mut bytes = Vec::new();
        frame.encode_into(&mut bytes);
        self.outputs.push_back(NodeOutput::Write { link, bytes });
    }

    fn say_goodbye(&mut self, link: LinkNumber, goodbye: Goodbye) {
        self.write(link, Frame::Goodbye(goodbye));
        self.outputs.push_back(NodeOutput::Close(link));
    }

    fn forget_link(&mut self, link: LinkNumber, goodbye: Option<Goodbye>, now: Tick) {
        let Some(Link { peer, .. }) = self.links.remove(&link) else { return };
        if self.by_peer.get(&peer) == Some(&link) {
            self.by_peer.remove(&peer);
            self.membership.handle(membership::Input::LinkEnded { generation: peer, goodbye }, now);
            self.directory.link_down(peer, now);
            self.outputs.push_back(NodeOutput::Peers);
        }
    }

    fn collect(&mut self, now: Tick, unix_s: u64) {
        loop {
            if let Some(output) = self.membership.poll_output() {
                self.on_membership(output, now, unix_s);
            } else if let Some(output) = self.directory.poll_output() {
                self.on_directory(output);
            } else {
                return;
            }
        }
    }

    fn on_membership(&mut self, output: membership::Output, now: Tick, unix_s: u64) {
        match output {
            membership::Output::SendSwim { to, message } => {
                let sealed = self.sealer.seal(&Datagram::Swim(&message).encode(), unix_s);
                self.outputs.extend(sealed.map(|bytes| NodeOutput::Datagram { to, bytes }));
            }
            membership::Output::Peer { node, state, reason } => self.on_peer(node, state, reason, now),
            membership::Output::Connect(node) => {
                if self.membership.peer(node.generation).is_some_and(|peer| self.is_to_be_dialed(peer, now)) {
                    self.dial(node, now);
                }
            }
            membership::Output::Heartbeat(to) => {
                if let Some(link) = self.by_peer.get(&to).copied() {
                    self.write(link, Frame::Heartbeat { sent_ms: now.0 });
                }
            }
            membership::Output::Refuse { node, goodbye } => {
                self.close_link(node.generation, goodbye, now);
                self.outputs.push_back(NodeOutput::Refused { node, goodbye });
            }
            membership::Output::AddressConflict { one, other } => {
                self.outputs.push_back(NodeOutput::AddressConflict { one, other });
            }
            membership::Output::OwnGenerationDead => self.outputs.push_back(NodeOutput::OwnGenerationDead),
            membership::Output::Left => self.outputs.push_back(NodeOutput::Left),
        }
    }

    fn on_peer(&mut self, node: NodeId, state: PeerState, reason: Reason, now: Tick) {
        let peer = node.generation;
        match (state, reason) {
            (PeerState::Dead, _) => self.close_link(peer, Goodbye::GenerationDead, now),
            (_, Reason::LinkSilent) => self.close_link(peer, Goodbye::Replaced, now),
            _ => {}
        }
        match state {
            PeerState::Down => self.directory.gone(peer),
            PeerState::Dead if self.outlast == Outlast::Nothing => self.directory.forget(peer, now),
            PeerState::Dead => self.directory.gone(peer),
            PeerState::LinkDown => self.directory.heard_of(peer),
            _ => {}
        }
        self.outputs.extend([NodeOutput::PeerChanged { node, state, reason }, NodeOutput::Peers]);
    }

    fn close_link(&mut self, peer: Generation, goodbye: Goodbye, now: Tick) {
        if let Some(link) = self.by_peer.get(&peer).copied() {
            self.say_goodbye(link, goodbye);
            self.forget_link(link, None, now);
        }
    }

    fn on_directory(&mut self, output: directory::Output) {
        match output {
            directory::Output::Settled { waiter, outcome } => {
                self.outputs.push_back(NodeOutput::Settled { waiter, outcome });
            }
            directory::Output::Pull(peer) => {
                self.outputs.extend(self.by_peer.get(&peer).copied().map(NodeOutput::Pull));
            }
            directory::Output::Table(_) => self.outputs.push_back(NodeOutput::Peers),
        }
    }
}

/// Between looks at who is to be dialed.
const DIAL_MS: u64 = 200;
/// A dial that says nothing for so long has failed.
const DIAL_TIMEOUT_MS: u64 = 10_000;
/// Between dials of a node that does not answer.
const DIAL_PAUSE_MS_MAX: u64 = 5_000;
/// Nodes of which only a datagram is known, and some that are missing.
const DIALS_MAX: usize = 128;
/// So long the higher generation waits for the lower one's link.
const YIELD_MS: u64 = 1_500;
/// So long a node looks around at least before it serves calls: the first one that answers may know no more itself.
const LOOK_MS: u64 = 300;
/// A broadcast may be lost: the first ones follow each other quickly.
const ANNOUNCE_FIRST_MS: [u64; 4] = [100, 400, 1_000, 2_000];
/// As in 2014.
const ANNOUNCE_MS: u64 = 10_000;
/// The clients of a node that is down have gone to others by then.
const FORGET_DOWN_MS: u64 = 30_000;

#[cfg(test)]
mod tests;
