//! One process of a node: the parts of the cluster, and what `io/cluster` will do between them.

use super::store::{Answer, Command};
use rainbow::base::id::{Generation, Identity, NodeId};
use rainbow::base::rng::Rng;
use rainbow::base::time::Tick;
use rainbow::cluster::directory::waiting::{Outcome, WaiterId};
use rainbow::cluster::directory::{self, Directory};
use rainbow::cluster::membership::peer::{PeerState, Reason};
use rainbow::cluster::membership::swim::SwimId;
use rainbow::cluster::membership::{self, Founding, Input, Membership};
use rainbow::cluster::ownership::adoption::{Adoption, AdoptionOutput};
use rainbow::cluster::ownership::claims::{Claims, ClaimsOutput, EndReason, Handover, RequestId, SessionName, Token};
use rainbow::cluster::ownership::closes::{CloseAnswer, CloseOutput, Closes};
use rainbow::cluster::ownership::lease::LeaseWatch;
use rainbow::cluster::planted::ClusterBug;
use rainbow::wire::peer::frame::{Frame, Goodbye};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// What a node does to the world.
#[derive(Debug)]
pub enum Effect {
    Datagram {
        to: SocketAddr,
        message: Vec<u8>,
    },
    Frame {
        to: Generation,
        bytes: Vec<u8>,
    },
    Connect(NodeId),
    /// The link is gone here; the other side hears of it, perhaps.
    CloseLink {
        peer: Generation,
        goodbye: Option<Goodbye>,
    },
    Command(Command),
    Hook {
        dead: Generation,
        identity: Identity,
        key: String,
    },
    Flush {
        name: SessionName,
        token: Token,
    },
    Open {
        channel: u64,
        outcome: Outcome,
    },
    Fenced,
    /// The process ends, and starts as another generation.
    Restart,
    AddressConflict,
    /// Nothing of a dead node is left.
    Buried(Generation),
}

pub struct Node {
    pub membership: Membership,
    pub directory: Directory,
    pub claims: Claims,
    lease: LeaseWatch,
    adoptions: BTreeMap<Generation, Adoption>,
    closes: BTreeMap<Generation, Closes>,
    finished: BTreeSet<Generation>,
    /// Per peer the link that is up.
    pub links: BTreeMap<Generation, u64>,
    /// Channels that were subscribed here, and that are waited for.
    pub channels: BTreeSet<u64>,
    waiters: BTreeMap<WaiterId, u64>,
    waiter: u64,
    pub connections: BTreeSet<Identity>,
    wants_pull: BTreeSet<Generation>,
    pub store_epoch: u64,
    connect_at: Tick,
    bug: Option<ClusterBug>,
    reaps_the_down: bool,
    effects: Vec<Effect>,
}

/// Mistakes that this node makes.
#[derive(Clone, Copy, Default)]
pub struct Mistakes {
    pub bug: Option<ClusterBug>,
    /// What SWIM and the links say is enough to take what a node leaves.
    pub reaps_the_down: bool,
}

impl Node {
    pub fn new(founding: Founding, mistakes: Mistakes, store_epoch: u64, now: Tick) -> Node {
        let own = founding.node.generation;
        let mut node = Node {
            membership: Membership::new(founding, now),
            directory: Directory::new(now),
            claims: Claims::new(own, Rng::new(founding.seed).next_u64(), now),
            lease: LeaseWatch::default(),
            adoptions: BTreeMap::new(),
            closes: BTreeMap::new(),
            finished: BTreeSet::new(),
            links: BTreeMap::new(),
            channels: BTreeSet::new(),
            waiters: BTreeMap::new(),
            waiter: 0,
            connections: BTreeSet::new(),
            wants_pull: BTreeSet::new(),
            store_epoch,
            connect_at: now,
            bug: mistakes.bug,
            reaps_the_down: mistakes.reaps_the_down,
            effects: Vec::new(),
        };
        if let Some(bug) = mistakes.bug {
            node.directory.plant(bug);
            node.claims.plant(bug);
        }
        node
    }

    pub fn generation(&self) -> Generation {
        self.membership.own().node.generation
    }

    // ---- inputs ----

    pub fn wake(&mut self, now: Tick) {
        self.membership.handle_timers(now);
        self.directory.handle_timers(now);
        self.claims.handle_timers(now);
        self.adoptions.values_mut().for_each(|adoption| adoption.handle_timers(now));
        self.closes.values_mut().for_each(|closes| closes.handle_timers(now));
        if self.lease.is_due(now) {
            self.lease.sent(now);
            self.effects.push(Effect::Command(Command::Renew));
        }
        if self.connect_at <= now {
            self.connect_at = now + 500;
            let missing = self.membership.peers().filter(|peer| peer.state() != PeerState::Dead && !peer.is_linked());
            self.effects.extend(missing.map(|peer| Effect::Connect(peer.node())));
        }
    }

    pub fn next_tick(&self) -> Tick {
        let parts = [self.membership.next_tick(), self.directory.next_tick(), self.claims.next_tick()];
        let reaping =
            self.adoptions.values().map(Adoption::next_tick).chain(self.closes.values().map(Closes::next_tick));
        let own = self.lease.next_tick().min(self.connect_at);
        parts.into_iter().chain(reaping).fold(own, Tick::min)
    }

    pub fn link_up(&mut self, peer: SwimId, link: u64, now: Tick) {
        let generation = peer.node.generation;
        match self.links.get(&generation) {
            // Two were made at the same time: both sides take the same one.
            Some(other) if *other > link => return,
            Some(_) => self.directory.link_down(generation, now),
            None => {}
        }
        self.membership.handle(Input::LinkUp { node: peer.node, start: peer.start }, now);
        self.links.insert(generation, link);
        if self.membership.peer(generation).is_some_and(|peer| peer.is_linked() && peer.state() != PeerState::Dead) {
            self.directory.link_up(generation);
        }
    }

    pub fn link_broken(&mut self, peer: Generation, link: u64, goodbye: Option<Goodbye>, now: Tick) {
        if self.links.get(&peer) == Some(&link) {
            self.end_link(peer, goodbye, now);
        }
    }

    fn end_link(&mut self, peer: Generation, goodbye: Option<Goodbye>, now: Tick) {
        self.links.remove(&peer);
        self.membership.handle(Input::LinkEnded { generation: peer, goodbye }, now);
        self.directory.link_down(peer, now);
    }

    pub fn receive(&mut self, from: Generation, bytes: &[u8], now: Tick) {
        self.membership.handle(Input::LinkHeard(from), now);
        let (frame, used) = Frame::decode(bytes, 1 << 20).expect("ours").expect("whole");
        assert_eq!(used, bytes.len());
        match frame {
            Frame::Call { id, body, .. } => {
                let name: SessionName = std::str::from_utf8(body).expect("a name").into();
                self.claims.on_request(from, RequestId(id), &name, now);
            }
            Frame::Reply { id, outcome, .. } => {
                let handover = if outcome == 0 { Handover::Released } else { Handover::NotOwner };
                self.claims.on_reply(RequestId(id), Some(handover), now);
            }
            Frame::Goodbye(goodbye) => self.end_link(from, Some(goodbye), now),
            Frame::Heartbeat { .. } => {}
            other => self.directory.receive(from, other, now),
        }
    }

    pub fn on_answer(&mut self, answer: Answer, now: Tick) {
        match answer {
            Answer::Claim { name, token, answer } => self.claims.on_claim(&name, token, answer, now),
            Answer::Release { name, token, answer } => self.claims.on_release(&name, token, answer, now),
            Answer::Write { name, token, answer } => self.claims.on_write(&name, token, answer),
            Answer::Leases(None) => self.lease.on_failure(),
            Answer::Leases(Some(leases)) if leases.is_empty() => self.effects.push(Effect::Restart),
            Answer::Leases(Some(leases)) => {
                let ended: Vec<Generation> = self.lease.on_answer(&leases, now).collect();
                let own = self.generation();
                let ended = ended.into_iter().filter(|node| *node != own);
                self.effects.extend(ended.map(|node| Effect::Command(Command::Bury(node))));
            }
            Answer::Buried { node, is_buried } => {
                if is_buried {
                    self.membership.handle(Input::LeaseEnded(node), now);
                    self.reap(node, now);
                }
            }
            Answer::Orphans { dead, page } => {
                let live = self.live();
                if let Some(adoption) = self.adoptions.get_mut(&dead) {
                    adoption.on_page(page, &live, now);
                }
            }
            Answer::Closes { dead, page } => {
                let live = self.live();
                self.with_closes(dead, |closes| closes.on_page(page, &live, now));
            }
            Answer::ClaimedClose { dead, identity, answer } => {
                self.with_closes(dead, |closes| closes.on_claim(identity, answer, now));
            }
            Answer::RemovedClose { dead, identity } => {
                self.with_closes(dead, |closes| closes.on_removed(identity, now));
            }
            Answer::Recorded { identity, is_stored } => {
                if is_stored {
                    self.connections.insert(identity);
                }
            }
            Answer::Nothing => {}
        }
    }

    /// The store's connection broke.
    pub fn on_store_reset(&mut self, epoch: u64) {
        self.store_epoch = epoch;
        self.lease.on_failure();
    }

    pub fn on_hook(&mut self, dead: Generation, identity: Identity, answer: CloseAnswer, now: Tick) {
        self.with_closes(dead, |closes| closes.on_hook(identity, answer, now));
    }

    /// A client is subscribed; its 101 waits.
    pub fn subscribe(&mut self, channel: u64, hash: u64, now: Tick) {
        if self.channels.insert(channel) {
            self.directory.add(hash);
        }
        self.waiter += 1;
        self.waiters.insert(WaiterId(self.waiter), channel);
        self.directory.wait(WaiterId(self.waiter), now);
    }

    pub fn unsubscribe(&mut self, channel: u64, hash: u64) {
        if self.channels.remove(&channel) {
            self.directory.remove(hash);
            self.waiters.retain(|_, of| *of != channel);
        }
    }

    fn with_closes(&mut self, dead: Generation, change: impl FnOnce(&mut Closes)) {
        if let Some(closes) = self.closes.get_mut(&dead) {
            change(closes);
        }
    }

    /// Who may take over, as this node sees it.
    fn live(&self) -> Vec<Generation> {
        let served = |state| matches!(state, PeerState::Live | PeerState::Suspected);
        let peers = self.membership.peers().filter(|peer| served(peer.state()));
        peers.map(|peer| peer.node().generation).chain([self.generation()]).collect()
    }

    fn reap(&mut self, dead: Generation, now: Tick) {
        if self.finished.contains(&dead) || self.closes.contains_key(&dead) {
            return;
        }
        let own = self.generation();
        let mut closes = Closes::new(own, dead, now);
        if let Some(bug) = self.bug {
            closes.plant(bug);
        }
        closes.handle_timers(now);
        let mut adoption = Adoption::new(own, dead, now);
        adoption.handle_timers(now);
        self.closes.insert(dead, closes);
        self.adoptions.insert(dead, adoption);
    }

    fn end_reaping_if_over(&mut self, dead: Generation, now: Tick) {
        if !self.closes.contains_key(&dead) && !self.adoptions.contains_key(&dead) {
            self.finished.insert(dead);
            self.directory.forget(dead, now);
            self.effects.extend([Effect::Command(Command::RemoveLease(dead)), Effect::Buried(dead)]);
        }
    }

    // ---- outputs ----

    /// Everything that the inputs have led to.
    pub fn take_effects(&mut self, frames: usize, now: Tick) -> Vec<Effect> {
        self.directory.end_turn(now);
        loop {
            let count = self.effects.len();
            while let Some(output) = self.membership.poll_output() {
                self.on_membership(output, now);
            }
            while let Some(output) = self.directory.poll_output() {
                self.on_directory(output);
            }
            while let Some(output) = self.claims.poll_output() {
                self.on_claims(output);
            }
            self.poll_reaping(now);
            if self.effects.len() == count {
                break;
            }
        }
        self.pull(frames);
        std::mem::take(&mut self.effects)
    }

    /// There is more for the links.
    pub fn wants_pull(&self) -> bool {
        !self.wants_pull.is_empty()
    }

    fn on_membership(&mut self, output: membership::Output, now: Tick) {
        match output {
            membership::Output::SendSwim { to, message } => self.effects.push(Effect::Datagram { to, message }),
            membership::Output::Peer { node, state, reason } => self.on_peer(node.generation, state, reason, now),
            membership::Output::Connect(node) => self.effects.push(Effect::Connect(node)),
            membership::Output::Heartbeat(to) => {
                self.send(to, Frame::Heartbeat { sent_ms: now.0 });
            }
            membership::Output::Refuse { node, goodbye } => {
                self.close_link(node.generation, Some(goodbye), now);
            }
            membership::Output::AddressConflict { .. } => self.effects.push(Effect::AddressConflict),
            membership::Output::OwnGenerationDead => self.effects.push(Effect::Restart),
            membership::Output::Left => {}
        }
    }

    fn on_peer(&mut self, peer: Generation, state: PeerState, reason: Reason, now: Tick) {
        if reason == Reason::LinkSilent || state == PeerState::Dead {
            self.close_link(peer, (state == PeerState::Dead).then_some(Goodbye::GenerationDead), now);
        }
        match state {
            PeerState::Down => {
                self.directory.gone(peer);
                if self.reaps_the_down {
                    self.reap(peer, now);
                }
            }
            PeerState::LinkDown => self.directory.heard_of(peer),
            PeerState::Dead => self.directory.gone(peer),
            _ => {}
        }
    }

    fn close_link(&mut self, peer: Generation, goodbye: Option<Goodbye>, now: Tick) {
        if self.links.contains_key(&peer) {
            self.effects.push(Effect::CloseLink { peer, goodbye });
            self.end_link(peer, None, now);
        }
    }

    fn on_directory(&mut self, output: directory::Output) {
        match output {
            directory::Output::Settled { waiter, outcome } => {
                if let Some(channel) = self.waiters.remove(&waiter) {
                    self.effects.push(Effect::Open { channel, outcome });
                }
            }
            directory::Output::Pull(peer) => drop(self.wants_pull.insert(peer)),
            directory::Output::Table(_) => {}
        }
    }

    /// A few frames for each link.
    fn pull(&mut self, frames: usize) {
        for peer in std::mem::take(&mut self.wants_pull) {
            for count in 0..=frames {
                let mut bytes = Vec::new();
                if count == frames {
                    self.wants_pull.insert(peer);
                } else if self.directory.next_frame(peer, &mut bytes) {
                    self.effects.push(Effect::Frame { to: peer, bytes });
                } else {
                    break;
                }
            }
        }
    }

    fn on_claims(&mut self, output: ClaimsOutput) {
        match output {
            ClaimsOutput::Store(command) => self.effects.push(Effect::Command(Command::Claims(command))),
            ClaimsOutput::Request { to, id, name } => {
                self.send(to, Frame::Call { id: id.0, deadline_ms: 1_000, method: 1, body: name.as_bytes() });
            }
            ClaimsOutput::Reply { to, id, handover } => {
                let outcome = u8::from(handover != Handover::Released);
                self.send(to, Frame::Reply { id: id.0, outcome, body: &[] });
            }
            ClaimsOutput::Flush { name, token } => self.effects.push(Effect::Flush { name, token }),
            ClaimsOutput::Ended { reason: EndReason::Fenced, .. } => self.effects.push(Effect::Fenced),
            ClaimsOutput::Owned { .. } | ClaimsOutput::Ended { .. } | ClaimsOutput::Refused { .. } => {}
        }
    }

    fn poll_reaping(&mut self, now: Tick) {
        let mut over = BTreeSet::new();
        for adoption in self.adoptions.values_mut() {
            while let Some(output) = adoption.poll_output() {
                match output {
                    AdoptionOutput::Read { dead, from } => {
                        self.effects.push(Effect::Command(Command::ReadOrphans { dead, from }));
                    }
                    AdoptionOutput::Adopt { name, token } => self.claims.adopt(name, token),
                    AdoptionOutput::Done { dead } => drop(over.insert(dead)),
                }
            }
        }
        over.iter().for_each(|dead| drop(self.adoptions.remove(dead)));
        let mut reported = BTreeSet::new();
        for (dead, closes) in &mut self.closes {
            while let Some(output) = closes.poll_output() {
                let dead = *dead;
                self.effects.push(match output {
                    CloseOutput::Read { from, .. } => Effect::Command(Command::ReadCloses { dead, from }),
                    CloseOutput::Claim { identity, expected } => {
                        Effect::Command(Command::ClaimClose { dead, identity, expected })
                    }
                    CloseOutput::Hook { identity, idempotency_key, .. } => {
                        Effect::Hook { dead, identity, key: idempotency_key }
                    }
                    CloseOutput::Remove { identity } => Effect::Command(Command::RemoveClose { dead, identity }),
                    CloseOutput::Done { .. } => {
                        reported.insert(dead);
                        continue;
                    }
                });
            }
        }
        reported.iter().for_each(|dead| drop(self.closes.remove(dead)));
        over.union(&reported).for_each(|dead| self.end_reaping_if_over(*dead, now));
    }

    fn send(&mut self, to: Generation, frame: Frame<'_>) {
        let mut bytes = Vec::new();
        frame.encode_into(&mut bytes);
        self.effects.push(Effect::Frame { to, bytes });
    }

    /// Whether a send to this channel from here would look at a node.
    pub fn is_interested(&self, node: Generation, hash: u64) -> bool {
        self.directory.interests(hash).any(|interest| interest.node == node)
    }
}
