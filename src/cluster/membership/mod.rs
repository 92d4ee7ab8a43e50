//! Who is in the cluster: SWIM (foca) and the links' heartbeats, joined to one state per node.
//!
//! * *Inputs*: `handle` what datagrams, discovery, links, the store and the operator bring; `handle_timers` at
//!   `next_tick`. Timers that are due come first, whatever the input is.
//! * *Outputs*: `poll_output` until `None`. Datagrams are unsealed: `wire::peer::seal` is for `io/cluster`.
//!
//! Each life of a node has one `PeerState`; every change of it is one output with its reason (`peer`).
//!
//! A later life of an address ends an earlier one once it has shown itself over a link: SWIM may still have the name of
//! an earlier one whose clock was ahead, and that word alone ends nobody.
//!
//! Invariant: a `Dead` life never comes back.

pub mod peer;
mod rejoin;
pub mod swim;
mod timers;

use crate::base::id::{Generation, NodeId};
use crate::base::rng::Rng;
use crate::base::time::Tick;
use crate::wire::peer::frame::Goodbye;
use crate::wire::peer::seal::PLAIN_BYTES_MAX;
use foca::{
    AccumulatingRuntime, Config, Foca, Header, Member, Message, NoCustomBroadcast, OwnedNotification, PeriodicParams,
};
use foca::{State, Timer};
use peer::{Links, Peer, PeerState, Reason};
use rejoin::Rejoin;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;
use swim::{Draws, SwimCodec, SwimId, SwimMessage};
use timers::Timers;

/// What happens to the membership.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A message of SWIM, out of a datagram that was authentic.
    Swim(&'a [u8]),
    /// A node may be at this address: a seed, a line of the registry.
    Hint(SocketAddr),
    /// This node says by a broadcast that it is there.
    Online(NodeId),
    /// A link's handshake is done. More than one link to a node counts as one: the first `LinkUp`, the last
    /// `LinkEnded`.
    LinkUp { node: NodeId, start: u64 },
    /// Anything came over a link.
    LinkHeard(Generation),
    /// The last link to the node ended, with what was said last.
    LinkEnded { generation: Generation, goodbye: Option<Goodbye> },
    /// The store's own clock says that the lease of this life has ended.
    LeaseEnded(Generation),
    /// The operator drops a node.
    Forget(Generation),
    /// This node stops. It goes on being polled until `Output::Left`.
    Leave,
}

/// What `io/cluster` has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    SendSwim {
        to: SocketAddr,
        message: Vec<u8>,
    },
    /// A peer's state or its reason has changed.
    Peer {
        node: NodeId,
        state: PeerState,
        reason: Reason,
    },
    /// A link to this node is wanted.
    Connect(NodeId),
    /// Over each link to this node.
    Heartbeat(Generation),
    /// Its links are to be closed.
    Refuse {
        node: NodeId,
        goodbye: Goodbye,
    },
    /// Two nodes that run have one address: a life came back that a later one had replaced. Neither can be served until
    /// one of them stops. For one line of the log; at most one each half a minute.
    AddressConflict {
        one: NodeId,
        other: NodeId,
    },
    /// The others hold this life for dead: the sessions are fenced, and the process needs another generation.
    OwnGenerationDead,
    /// The others have had time to hear that this node leaves.
    Left,
}

/// What was refused or went wrong, for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub malformed: u64,
    /// Datagrams of nodes that would be the 65th, and mentions of such.
    pub over_members_max: u64,
    /// foca has complained about its timers: they came in the wrong order.
    pub timer_faults: u64,
    /// The caller came late, so that time was stopped.
    pub stalls: u64,
    /// This node was declared down, and came back.
    pub rejoins: u64,
}

/// Drawn, read or configured by the caller.
#[derive(Clone, Copy, Debug)]
pub struct Founding {
    pub node: NodeId,
    /// The later of the wall clock's milliseconds and one more than the last start that is remembered.
    pub start: u64,
    pub seed: u64,
}

pub struct Membership {
    foca: Foca<SwimId, SwimCodec, Draws, NoCustomBroadcast>,
    timers: Timers,
    peers: BTreeMap<Generation, Peer>,
    /// Addresses where nodes were, or may be: who is missing there is looked for.
    addresses: BTreeMap<SocketAddr, Tick>,
    rejoin: Rejoin,
    /// A member has told whom it knows; until then, whoever speaks to us is queried, but not before `query_at`.
    is_informed: bool,
    query_at: Tick,
    leaving: Option<Tick>,
    conflict_at: Option<Tick>,
    heartbeat_at: Tick,
    search_at: Tick,
    outputs: VecDeque<Output>,
    counts: Counts,
}

impl Membership {
    pub fn new(founding: Founding, now: Tick) -> Membership {
        let own = SwimId { node: founding.node, start: founding.start };
        Membership {
            foca: Foca::new(own, config(), Draws(Rng::new(founding.seed)), SwimCodec),
            timers: Timers::default(),
            peers: BTreeMap::new(),
            addresses: BTreeMap::new(),
            rejoin: Rejoin::default(),
            is_informed: false,
            query_at: now,
            leaving: None,
            conflict_at: None,
            heartbeat_at: now,
            search_at: now,
            outputs: VecDeque::new(),
            counts: Counts::default(),
        }
    }

    pub fn handle(&mut self, input: Input<'_>, now: Tick) {
        self.handle_timers(now);
        match input {
            Input::Swim(message) => self.on_swim(message, now),
            Input::Hint(address) => self.on_hint(address, now),
            Input::Online(node) => self.on_online(node, now),
            Input::LinkUp { node, start } => self.on_link_up(SwimId { node, start }, now),
            Input::LinkHeard(generation) => self.with(generation, |peer| peer.heard(now)),
            Input::LinkEnded { generation, goodbye } => self.on_link_ended(generation, goodbye, now),
            Input::LeaseEnded(generation) => self.end_peer(generation, Reason::LeaseEnded, now),
            Input::Forget(generation) => self.end_peer(generation, Reason::Forgotten, now),
            Input::Leave => self.on_leave(now),
        }
        self.judge(now);
    }

    /// Everything that is due. Must be called at `next_tick`, and may be called at any time.
    pub fn handle_timers(&mut self, now: Tick) {
        let late_ms = now.since_ms(self.timers.next_due().min(self.heartbeat_at).min(self.search_at));
        if late_ms > STALL_MS {
            self.counts.stalls += 1;
            self.timers.resume(late_ms);
            self.peers.values_mut().for_each(|peer| peer.resume(late_ms));
        }
        let mut runtime = AccumulatingRuntime::new();
        while let Some(timer) = self.timers.take_due(now) {
            let is_fault = self.foca.handle_timer(timer, &mut runtime).is_err();
            self.counts.timer_faults += u64::from(is_fault);
            self.collect(&mut runtime, now);
        }
        if self.heartbeat_at <= now {
            self.heartbeat_at = now + HEARTBEAT_MS;
            let linked = self.peers.values().filter(|peer| peer.is_linked());
            self.outputs.extend(linked.map(|peer| Output::Heartbeat(peer.node().generation)));
            self.pump_goodbye(now);
        }
        if self.rejoin.take_due(now) {
            self.come_back(now);
        }
        if self.search_at <= now {
            self.search_at = now + SEARCH_MS;
            self.search(now);
            self.confront_suspects();
        }
        self.judge(now);
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When `handle_timers` is due.
    pub fn next_tick(&self) -> Tick {
        let judged_at = self.peers.values().map(Peer::judged_at).min().unwrap_or(Tick::NEVER);
        let own = self.heartbeat_at.min(self.search_at).min(self.rejoin.due());
        self.timers.next_due().min(own).min(judged_at)
    }

    /// This life of this node, as SWIM knows it now.
    pub fn own(&self) -> SwimId {
        *self.foca.identity()
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// `Input::Leave` has come.
    pub fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Another node has told whom it knows: they are among the peers.
    pub fn is_informed(&self) -> bool {
        self.is_informed
    }

    /// Every life that is remembered; the dead for some hours.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values()
    }

    pub fn peer(&self, generation: Generation) -> Option<&Peer> {
        self.peers.get(&generation)
    }

    fn on_swim(&mut self, bytes: &[u8], now: Tick) {
        let Some(mut message) = SwimMessage::decode(bytes) else {
            self.counts.malformed += 1;
            return;
        };
        let own = self.own();
        for id in [message.header.src].iter().chain(message.members.iter().flatten().filter_map(alive)) {
            if id.node.address == own.node.address && id.node.generation != own.node.generation {
                self.rejoin.note_rival(*id);
            }
        }
        if message.header.src.node.address == own.node.address {
            return;
        }
        self.note_speaker(message.header.src.node, now);
        if message.header.message == Message::Announce {
            // It has reached us, whatever address of ours the sender knows.
            message.header.dst = own;
        }
        if !self.has_room(&message.header.src) {
            self.counts.over_members_max += 1;
            return;
        }
        self.leave_out_surplus(&mut message);
        let mut runtime = AccumulatingRuntime::new();
        let is_fault = self.foca.handle_data(&message.encode(), &mut runtime).is_err();
        self.counts.malformed += u64::from(is_fault);
        self.collect(&mut runtime, now);
        self.is_informed |= !is_fault && message.header.message == Message::Feed;
        if !self.is_informed && self.query_at <= now && self.leaving.is_none() {
            // Who announces itself does not say whom it knows.
            self.query_at = now + QUERY_MS;
            self.announce(message.header.src.node.address, now);
        }
    }

    /// Takes those mentions out of a message that would make a 65th member.
    fn leave_out_surplus(&mut self, message: &mut SwimMessage) {
        let Some(members) = &mut message.members else { return };
        let count = members.len();
        let sender = usize::from(!self.is_member(&message.header.src));
        let mut room = MEMBERS_MAX.saturating_sub(self.count_active() + sender);
        let own = self.own().node.address;
        members.retain(|member| {
            let is_new = alive(member).is_some_and(|id| id.node.address != own && !self.is_member(id));
            let fits = !is_new || room > 0;
            room -= usize::from(is_new && fits);
            fits
        });
        self.counts.over_members_max += (count - members.len()) as u64;
    }

    /// False if it would be the 65th member, ourselves counted.
    fn has_room(&self, id: &SwimId) -> bool {
        self.count_active() < MEMBERS_MAX || self.is_member(id)
    }

    fn count_active(&self) -> usize {
        self.foca.num_members() + 1
    }

    fn is_member(&self, id: &SwimId) -> bool {
        self.foca.iter_members().any(|member| member.id().node.address == id.node.address)
    }

    fn on_hint(&mut self, address: SocketAddr, now: Tick) {
        if address == self.own().node.address {
            return;
        }
        if self.remember(address, now) && !self.is_member(&SwimId::anybody(address)) {
            self.announce(address, now);
        }
    }

    /// Its address may be that of an earlier life, whether that is held for alive or not.
    fn on_online(&mut self, node: NodeId, now: Tick) {
        self.note_speaker(node, now);
        if node.address != self.own().node.address && !self.peers.contains_key(&node.generation) {
            self.remember(node.address, now);
            self.announce(node.address, now);
        }
    }

    /// True if the address was not known.
    fn remember(&mut self, address: SocketAddr, now: Tick) -> bool {
        let is_new = self.addresses.insert(address, now).is_none();
        if self.addresses.len() > ADDRESSES_MAX {
            let oldest = self.addresses.iter().min_by_key(|(_, at)| **at).map(|(address, _)| *address);
            oldest.and_then(|oldest| self.addresses.remove(&oldest));
        }
        is_new
    }

    fn on_link_up(&mut self, id: SwimId, now: Tick) {
        let own = self.own();
        if id.node.generation == own.node.generation {
            return;
        }
        let rival = self
            .peers
            .values()
            .find(|peer| peer.node().address == id.node.address && peer.node().generation != id.node.generation);
        let is_outlived = rival.is_some_and(|rival| rival.state() != PeerState::Dead && rival.id().outlives(&id));
        let is_dead = self.peer(id.node.generation).is_some_and(|peer| peer.state() == PeerState::Dead);
        let is_full = !self.has_room(&id) && !self.peers.contains_key(&id.node.generation);
        let refusals = [(is_dead, Goodbye::GenerationDead), (is_outlived, Goodbye::Outlived), (is_full, Goodbye::Full)];
        if let Some((_, goodbye)) = refusals.into_iter().find(|(applies, _)| *applies) {
            self.outputs.push_back(Output::Refuse { node: id.node, goodbye });
            if let Some(rival) = rival.filter(|_| goodbye == Goodbye::Outlived) {
                // The refusal cannot say which start is to be beaten.
                let mention = self.mention(Member::alive(rival.id()), id);
                self.outputs.push_back(mention);
            }
            return;
        }
        self.remember(id.node.address, now);
        let peer = self.peers.entry(id.node.generation).or_insert_with(|| Peer::new(id, now));
        peer.set_links(Links::Up { heard: now });
        peer.set_start(id.start);
        if !self.is_member(&id) {
            self.announce(id.node.address, now);
        }
    }

    fn on_link_ended(&mut self, generation: Generation, goodbye: Option<Goodbye>, now: Tick) {
        self.with(generation, |peer| peer.set_links(Links::Ended));
        match goodbye {
            Some(Goodbye::Leaving) => self.end_peer(generation, Reason::Left, now),
            Some(Goodbye::Outlived) => self.rejoin.schedule(now),
            Some(Goodbye::GenerationDead) => self.outputs.push_back(Output::OwnGenerationDead),
            _ => {}
        }
    }

    fn on_leave(&mut self, now: Tick) {
        if self.leaving.is_some() {
            return;
        }
        self.leaving = Some(now + LEAVE_MS);
        self.heartbeat_at = now;
        let mut runtime = AccumulatingRuntime::new();
        let _ = self.foca.leave_cluster(&mut runtime);
        self.collect(&mut runtime, now);
    }

    /// foca sends its goodbye a few times and falls silent: for some seconds it leaves again and again.
    fn pump_goodbye(&mut self, now: Tick) {
        let Some(until) = self.leaving else { return };
        if now >= until {
            self.leaving = Some(Tick::NEVER);
            self.outputs.push_back(Output::Left);
        } else if until != Tick::NEVER {
            self.heartbeat_at = now + LEAVE_PUMP_MS;
            let mut runtime = AccumulatingRuntime::new();
            let _ = self.foca.leave_cluster(&mut runtime);
            self.collect(&mut runtime, now);
        }
    }

    /// The others hold us for down. A later start makes us another member, of the same generation.
    fn come_back(&mut self, now: Tick) {
        if self.leaving.is_some() {
            return;
        }
        let own = self.own();
        let renewed = SwimId { start: self.rejoin.next_start(own, now), ..own };
        self.counts.rejoins += 1;
        let mut runtime = AccumulatingRuntime::new();
        let _ = self.foca.change_identity(renewed, &mut runtime);
        self.collect(&mut runtime, now);
        let members: Vec<SocketAddr> = self.foca.iter_members().map(|member| member.id().node.address).collect();
        members.into_iter().for_each(|address| self.announce(address, now));
    }

    /// Announces us to the addresses where nobody is known to be, the longest unsearched first: foca alone never looks
    /// for those it has lost.
    fn search(&mut self, now: Tick) {
        if self.leaving.is_some() {
            return;
        }
        let missing = |address: &SocketAddr| !self.is_member(&SwimId::anybody(*address));
        let mut missing: Vec<_> = self.addresses.iter().filter(|(address, _)| missing(address)).collect();
        missing.sort_by_key(|(_, at)| **at);
        let searched: Vec<SocketAddr> = missing.iter().take(SEARCHED_MAX).map(|(address, _)| **address).collect();
        for address in searched {
            self.addresses.insert(address, now);
            self.announce(address, now);
        }
    }

    /// Reports their suspicion to those who are suspected, so that they can refute it. foca spreads a suspicion a
    /// limited number of times; who has heard of it from others, while the suspect has not, would hold on to it for
    /// ever.
    fn confront_suspects(&mut self) {
        let suspects = self.foca.iter_members().filter(|member| member.state() == State::Suspect);
        let messages: Vec<Output> = suspects.map(|suspect| self.mention(suspect.clone(), *suspect.id())).collect();
        self.outputs.extend(messages);
    }

    /// Tells one node of one member.
    fn mention(&self, member: Member<SwimId>, to: SwimId) -> Output {
        // Our incarnation is not known here; an old one changes nothing.
        let header = Header { src: self.own(), src_incarnation: 0, dst: to, message: Message::Gossip };
        let message = SwimMessage { header, members: Some(vec![member]) };
        Output::SendSwim { to: to.node.address, message: message.encode() }
    }

    fn announce(&mut self, address: SocketAddr, now: Tick) {
        let mut runtime = AccumulatingRuntime::new();
        let _ = self.foca.announce(SwimId::anybody(address), &mut runtime);
        self.collect(&mut runtime, now);
    }

    /// Carries out what foca wants.
    fn collect(&mut self, runtime: &mut AccumulatingRuntime<SwimId>, now: Tick) {
        let mut at_once = Vec::new();
        while let Some((after, timer)) = runtime.to_schedule() {
            at_once.extend(self.timers.insert(timer, now + after));
        }
        while let Some((to, message)) = runtime.to_send() {
            self.outputs.push_back(Output::SendSwim { to: to.node.address, message: message.to_vec() });
        }
        while let Some(notification) = runtime.to_notify() {
            match notification {
                OwnedNotification::Defunct if self.leaving.is_none() => self.rejoin.schedule(now),
                _ => {}
            }
        }
        for timer in at_once {
            debug_assert!(matches!(timer, Timer::RemoveDown(_)), "it asks for nothing in turn");
            let _ = self.foca.handle_timer(timer, &mut *runtime);
        }
        self.take_states(now);
    }

    /// Brings what SWIM knows to the peers.
    fn take_states(&mut self, now: Tick) {
        let members: Vec<(SwimId, State)> =
            self.foca.iter_membership_state().map(|member| (*member.id(), member.state())).collect();
        let mut at_address = BTreeMap::new();
        for (id, state) in members {
            at_address.insert(id.node.address, id.node);
            if let Some(peer) = self.peers.get_mut(&id.node.generation) {
                peer.set_swim(id, state);
                if let Some(other) = peer.take_displaced().filter(|_| state != State::Down)
                    && peer.comes_back(now)
                {
                    self.report_conflict(id.node, other, now);
                }
                continue;
            }
            if state == State::Down || self.is_outlived(&id) {
                continue;
            }
            self.remember(id.node.address, now);
            self.peers.insert(id.node.generation, Peer::new(id, now));
            self.outputs.push_back(Output::Connect(id.node));
        }
        for peer in self.peers.values_mut() {
            let other = at_address.get(&peer.node().address).filter(|node| **node != peer.node());
            other.into_iter().for_each(|other| peer.displace(*other));
        }
    }

    /// A life that another one has replaced at its address, and that goes on speaking, is on a host of its own. Nobody
    /// hears what we would say to it.
    fn note_speaker(&mut self, speaker: NodeId, now: Tick) {
        let Some(peer) = self.peers.get_mut(&speaker.generation) else { return };
        let Reason::Replaced(other) = peer.reason() else { return };
        if now.since_ms(peer.since()) >= LAST_DATAGRAMS_MS && peer.comes_back(now) {
            self.report_conflict(other, speaker, now);
        }
    }

    fn report_conflict(&mut self, one: NodeId, other: NodeId, now: Tick) {
        if self.conflict_at.is_none_or(|at| now.since_ms(at) >= CONFLICT_MS) {
            self.conflict_at = Some(now);
            self.outputs.push_back(Output::AddressConflict { one, other });
        }
    }

    fn is_outlived(&self, id: &SwimId) -> bool {
        let is_later = |peer: &Peer| peer.node().address == id.node.address && peer.id().outlives(id);
        self.peers.values().any(is_later)
    }

    /// Who has a link to a later life of an address knows that the earlier ones have ended.
    fn end_outlived(&mut self, now: Tick) {
        let linked = self.peers.values().filter(|peer| peer.is_linked() && peer.state() != PeerState::Dead);
        let linked: BTreeMap<SocketAddr, SwimId> = linked.map(|peer| (peer.node().address, peer.id())).collect();
        for peer in self.peers.values_mut() {
            let later = linked.get(&peer.node().address).filter(|id| id.outlives(&peer.id()));
            if let Some(later) = later.filter(|id| id.node.generation != peer.node().generation)
                && peer.end(Reason::Replaced(later.node), now)
            {
                self.outputs.push_back(report(peer));
            }
        }
    }

    fn end_peer(&mut self, generation: Generation, reason: Reason, now: Tick) {
        let Some(peer) = self.peers.get_mut(&generation) else { return };
        if peer.end(reason, now) {
            self.outputs.push_back(report(peer));
        }
    }

    fn with(&mut self, generation: Generation, change: impl FnOnce(&mut Peer)) {
        if let Some(peer) = self.peers.get_mut(&generation) {
            change(peer);
        }
    }

    fn judge(&mut self, now: Tick) {
        self.end_outlived(now);
        for peer in self.peers.values_mut() {
            if peer.judge(now) {
                self.outputs.push_back(report(peer));
            }
        }
        self.forget_long_dead(now);
    }

    /// The dead are remembered for hours, so that nobody brings them back, and not without a limit.
    fn forget_long_dead(&mut self, now: Tick) {
        let is_over = |peer: &Peer| peer.state() == PeerState::Dead && now.since_ms(peer.since()) > DEAD_MS;
        self.peers.retain(|_, peer| !is_over(peer));
        let lifeless = |peer: &Peer| matches!(peer.state(), PeerState::Dead | PeerState::Down);
        while self.peers.values().filter(|peer| lifeless(peer)).count() > LIFELESS_MAX {
            let oldest = self.peers.values().filter(|peer| lifeless(peer)).min_by_key(|peer| peer.since());
            let Some(oldest) = oldest.map(|peer| peer.node().generation) else { return };
            self.peers.remove(&oldest);
        }
    }
}

fn report(peer: &Peer) -> Output {
    Output::Peer { node: peer.node(), state: peer.state(), reason: peer.reason() }
}

fn alive(member: &Member<SwimId>) -> Option<&SwimId> {
    (member.state() != State::Down).then_some(member.id())
}

fn config() -> Config {
    let count = |n| NonZeroUsize::new(n).expect("not zero");
    let each = |ms, n| Some(PeriodicParams { frequency: Duration::from_millis(ms), num_members: count(n) });
    Config {
        probe_period: Duration::from_millis(1_000),
        probe_rtt: Duration::from_millis(300),
        num_indirect_probes: count(3),
        max_transmissions: NonZeroU8::new(8).expect("not zero"),
        suspect_to_down_after: Duration::from_millis(SUSPICION_MS),
        remove_down_after: Some(Duration::from_millis(DEAD_MS)),
        // One byte says what the datagram is.
        max_packet_size: count(PLAIN_BYTES_MAX - 1),
        notify_down_members: true,
        periodic_announce: each(10_000, 1),
        // We look for the missing ourselves, also when nobody is left.
        periodic_announce_to_down_members: None,
        periodic_gossip: each(200, 3),
    }
}

/// A full mesh of links; more nodes are several clusters.
pub const MEMBERS_MAX: usize = 64;
/// Between SWIM's suspicion and its verdict.
pub const SUSPICION_MS: u64 = 3_000;
const HEARTBEAT_MS: u64 = 1_000;
/// An answer takes a round trip.
const QUERY_MS: u64 = 50;
/// All of 64 missing nodes are tried within 8 s.
const SEARCH_MS: u64 = 2_000;
const SEARCHED_MAX: usize = 16;
const ADDRESSES_MAX: usize = 256;
/// A timer that comes so late shows that nobody listened meanwhile.
const STALL_MS: u64 = 100;
const LEAVE_MS: u64 = 3_000;
const LEAVE_PUMP_MS: u64 = 200;
const CONFLICT_MS: u64 = 30_000;
/// For so long what a dead life has sent may be on its way.
const LAST_DATAGRAMS_MS: u64 = 5_000;
const DEAD_MS: u64 = 12 * 3_600_000;
const LIFELESS_MAX: usize = 1024;

#[cfg(test)]
mod tests;
