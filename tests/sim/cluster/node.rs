//! One process of a node: its part in the cluster (`cluster::node`) as it runs in production, and beside it what is not in
//! there yet: ownership of sessions, adoption, closes.

use super::serving::{Known, Serving, ServingOutput};
use super::store::{Answer, Command, SESSIONS_KEY};
use rainbow::base::id::{ConnKey, Generation, Identity, NodeId};
use rainbow::base::rng::Rng;
use rainbow::base::time::Tick;
use rainbow::cluster::directory::waiting::{Outcome, WaiterId};
use rainbow::cluster::key::ClusterKeys;
use rainbow::cluster::membership::Founding;
use rainbow::cluster::membership::peer::PeerState;
use rainbow::cluster::node::{LinkNumber, Node as Core, NodeOutput, NodeTerms, Outlast};
use rainbow::cluster::ownership::claims::{Claims, ClaimsOutput, EndReason, Handover, RequestId, SessionName, Token};
use rainbow::cluster::ownership::lease::Lease;
use rainbow::cluster::ownership::reaper::{Reaper, ReaperOutput, StoredNode};
use rainbow::cluster::ownership::rendezvous::winner;
use rainbow::cluster::planted::ClusterBug;
use rainbow::shard::Reply;
use rainbow::store::{Opened, Request};
use rainbow::wire::peer::frame::{Frame, Hello};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// What a node does to the world.
#[derive(Debug)]
pub enum Effect {
    Datagram {
        to: SocketAddr,
        message: Vec<u8>,
    },
    Broadcast {
        message: Vec<u8>,
    },
    Frame {
        link: u64,
        to: Generation,
        bytes: Vec<u8>,
    },
    Connect(NodeId),
    /// The link is gone here; the other side hears of it, perhaps.
    CloseLink {
        link: u64,
        peer: Generation,
    },
    Command(Command),
    Hook {
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
    /// It has stopped, and the others know.
    Left,
    /// The process ends, and starts as another generation.
    Restart,
    AddressConflict(NodeId, NodeId),
    /// None of a dead node's sessions is left.
    Adopted(Generation),
    /// Nothing of a dead node is left.
    Buried,
    /// Over the link that carries calls.
    CallFrame {
        link: u64,
        to: Generation,
        bytes: Vec<u8>,
    },
    /// For this node's own disk.
    Store(Request),
    Down {
        key: ConnKey,
        bytes: Vec<u8>,
    },
    Refused(ConnKey),
    Called {
        number: u64,
        reply: Option<Reply>,
    },
    Acknowledged(SessionName),
}

/// Who waits until the peers know of every channel.
enum Waiter {
    Channel(u64),
    Sessions(Known),
}

pub struct Node {
    core: Core,
    /// How far its wall clock is ahead.
    ahead_s: i64,
    pub claims: Claims,
    reaper: Reaper,
    /// Closes of others' connections that the backend has not heard, and when it is called again.
    reports: BTreeMap<Identity, Tick>,
    draws_keys: bool,
    /// Links that were made, and their other ends.
    ends: BTreeMap<u64, Generation>,
    /// Channels that were subscribed here, and that are waited for.
    pub channels: BTreeSet<u64>,
    waiters: BTreeMap<WaiterId, Waiter>,
    waiter: u64,
    pub connections: BTreeSet<Identity>,
    wants_pull: BTreeSet<LinkNumber>,
    pub store_epoch: u64,
    /// Whose connections the store was asked for, and has not answered.
    takings: BTreeSet<Generation>,
    reaps_the_down: bool,
    /// Where each node has a disk of its own.
    serving: Option<Serving>,
    has_new_peers: bool,
    stops: bool,
    offered: BTreeSet<SessionName>,
    effects: Vec<Effect>,
}

/// Mistakes that this node makes.
#[derive(Clone, Copy, Default)]
pub struct Mistakes {
    pub bug: Option<ClusterBug>,
    /// What SWIM and the links say is enough to take what a node leaves.
    pub reaps_the_down: bool,
    /// The key of a close names who reports it.
    pub draws_keys: bool,
}

impl Node {
    /// `opened`: what its own disk has, where there is one; and the clock's error.
    pub fn new(
        founding: Founding,
        mistakes: Mistakes,
        (store_epoch, opened): (u64, Option<Opened>),
        ahead_s: i64,
        now: Tick,
    ) -> Node {
        let own = founding.node.generation;
        let keys = ClusterKeys::derive(b"secret", b"", "simulated");
        let mut salt = [0; 12];
        salt[..4].copy_from_slice(&own.0.to_be_bytes());
        let terms = NodeTerms { keys: &keys, cluster_name: "simulated", salt, outlast: Outlast::Sessions };
        let mut node = Node {
            core: Core::new(founding, terms, now),
            ahead_s,
            claims: Claims::new(own, Rng::new(founding.seed).next_u64(), now),
            reaper: Reaper::new(own),
            reports: BTreeMap::new(),
            draws_keys: mistakes.draws_keys,
            ends: BTreeMap::new(),
            channels: BTreeSet::new(),
            waiters: BTreeMap::new(),
            waiter: 0,
            connections: BTreeSet::new(),
            wants_pull: BTreeSet::new(),
            store_epoch,
            takings: BTreeSet::new(),
            reaps_the_down: mistakes.reaps_the_down,
            serving: opened.map(|opened| Serving::new(own, opened, founding.seed, mistakes.bug, now)),
            has_new_peers: false,
            stops: false,
            offered: BTreeSet::new(),
            effects: Vec::new(),
        };
        if let Some(bug) = mistakes.bug {
            node.core.plant(bug);
            node.claims.plant(bug);
        }
        node
    }

    pub fn generation(&self) -> Generation {
        self.core.own().generation
    }

    pub fn serving(&mut self) -> &mut Serving {
        self.serving.as_mut().expect("each node has a disk of its own")
    }

    pub fn core(&self) -> &Core {
        &self.core
    }

    /// The link to a peer, if there is one.
    pub fn link_to(&self, peer: Generation) -> Option<u64> {
        self.core.link_to(peer).map(|link| link.0)
    }

    pub fn hello(&self, now: Tick) -> Hello {
        self.core.hello(0, 1, self.unix_s(now))
    }

    fn unix_s(&self, now: Tick) -> u64 {
        (1_700_000_000 + (now.0 / 1_000) as i64 + self.ahead_s) as u64
    }

    // ---- inputs ----

    pub fn wake(&mut self, now: Tick) {
        self.core.handle_timers(now, self.unix_s(now));
        if let Some(serving) = &mut self.serving {
            return serving.on_time(now);
        }
        self.claims.handle_timers(now);
        self.reaper.handle_timers(now);
        let due: Vec<Identity> =
            self.reports.iter().filter(|(_, at)| **at <= now).map(|(identity, _)| *identity).collect();
        due.into_iter().for_each(|identity| self.report(identity));
        if self.reaper.lease().is_due(now) {
            self.reaper.lease().sent(now);
            self.effects.push(Effect::Command(Command::Renew));
        }
    }

    pub fn next_tick(&self) -> Tick {
        if let Some(serving) = &self.serving {
            return self.core.next_tick().min(serving.next_tick());
        }
        let parts = [self.core.next_tick(), self.claims.next_tick(), self.reaper.next_tick()];
        let reports = self.reports.values().copied();
        parts.into_iter().chain(reports).fold(self.reaper.next_renewal(), Tick::min)
    }

    pub fn on_datagram(&mut self, message: &[u8], from: SocketAddr, now: Tick) {
        self.core.on_datagram(message, from, now, self.unix_s(now));
    }

    pub fn on_seed(&mut self, address: SocketAddr, now: Tick) {
        self.core.on_seed(address, now, self.unix_s(now));
    }

    pub fn link_up(&mut self, hello: &Hello, link: u64, is_dialed: bool, now: Tick) {
        self.ends.insert(link, hello.node.generation);
        self.core.on_link_up(LinkNumber(link), hello, is_dialed, now, self.unix_s(now));
    }

    pub fn dial_failed(&mut self, peer: Generation, now: Tick) {
        self.core.on_dial_failed(peer, now);
    }

    pub fn link_broken(&mut self, link: u64, now: Tick) {
        self.ends.remove(&link);
        self.core.on_link_ended(LinkNumber(link), now, self.unix_s(now));
    }

    pub fn has_link(&self, link: u64) -> bool {
        self.ends.contains_key(&link)
    }

    pub fn links(&self) -> impl Iterator<Item = (u64, Generation)> {
        self.ends.iter().map(|(link, peer)| (*link, *peer))
    }

    pub fn receive(&mut self, link: u64, mut bytes: &[u8], now: Tick) {
        let from = self.ends[&link];
        let (number, unix_s) = (LinkNumber(link), self.unix_s(now));
        while let Some((frame, used)) = Frame::decode(bytes, 1 << 20).expect("ours") {
            bytes = &bytes[used..];
            match frame {
                Frame::Call { method: OFFER, body, .. } => {
                    let name: SessionName = std::str::from_utf8(body).expect("a name").into();
                    self.core.on_other_frame(number, now, unix_s);
                    if !self.stops {
                        self.claims.take(name, from);
                    }
                }
                Frame::Call { id, body, .. } => {
                    let (token, name) = body.split_first_chunk().expect("a token");
                    let token = Token(u64::from_be_bytes(*token));
                    let name: SessionName = std::str::from_utf8(name).expect("a name").into();
                    self.core.on_other_frame(number, now, unix_s);
                    self.claims.on_request(from, RequestId(id), &name, token, now);
                }
                Frame::Reply { id, outcome, .. } => {
                    let handover = if outcome == 0 { Handover::Passed } else { Handover::NotOwner };
                    self.core.on_other_frame(number, now, unix_s);
                    self.claims.on_reply(RequestId(id), Some(handover), now);
                }
                other => self.core.on_frame(number, other, now, unix_s),
            }
        }
        assert!(bytes.is_empty(), "whole frames");
    }

    /// Over the link that carries calls.
    pub fn receive_call(&mut self, link: u64, mut bytes: &[u8], now: Tick) {
        let from = self.ends[&link];
        while let Some((frame, used)) = Frame::decode(bytes, 1 << 20).expect("ours") {
            bytes = &bytes[used..];
            match frame {
                Frame::Call { id, deadline_ms, method, body } => {
                    self.serving().on_call((from, id), deadline_ms, method, body, now);
                }
                Frame::Reply { id, outcome, body } => self.serving().on_reply(id, outcome, body, now),
                other => panic!("no call: {other:?}"),
            }
        }
    }

    pub fn on_answer(&mut self, answer: Answer, now: Tick) {
        match answer {
            Answer::Claim { name, token, answer } => self.claims.on_claim(&name, token, answer, now),
            Answer::Pass { name, token, answer } => self.claims.on_pass(&name, token, answer, now),
            Answer::Write { name, token, answer } => self.claims.on_write(&name, token, answer),
            Answer::Leases(None) => self.reaper.on_leases(None, now),
            Answer::Leases(Some(leases)) if leases.is_empty() => self.effects.push(Effect::Restart),
            Answer::Leases(Some(leases)) => {
                let node = |lease: &Lease| StoredNode {
                    generation: lease.node,
                    remaining_ms: lease.remaining_ms,
                    is_buried: false,
                };
                let nodes: Vec<StoredNode> = leases.iter().map(node).collect();
                self.reaper.on_leases(Some(&nodes), now);
            }
            Answer::Buried { node, is_buried } => self.reaper.on_buried(node, is_buried, now),
            Answer::Orphans { dead, page } => self.reaper.on_orphans(dead, page, &self.live(), now),
            Answer::Taken { dead, connections } => {
                if connections.is_some() {
                    self.takings.remove(&dead);
                }
                self.reaper.on_taken(dead, connections.as_ref().map(Vec::len), now);
                connections.into_iter().flatten().for_each(|identity| self.report(identity));
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
        self.reaper.on_store_reset();
        // What it took and has not heard of is its own by the store's record: when it ends, others take that over.
        if !std::mem::take(&mut self.takings).is_empty() {
            self.effects.push(Effect::Restart);
        }
    }

    fn report(&mut self, identity: Identity) {
        self.reports.insert(identity, Tick::NEVER);
        let by = if self.draws_keys { format!("{} ", self.generation()) } else { String::new() };
        self.effects.push(Effect::Hook { identity, key: by + &key_of_close(&identity) });
    }

    pub fn on_hook(&mut self, identity: Identity, is_done: bool, now: Tick) {
        if is_done {
            self.reports.remove(&identity);
            self.effects.push(Effect::Command(Command::RemoveConnection { identity }));
        } else {
            self.reports.insert(identity, now + 500);
        }
    }

    /// A client is subscribed; its 101 waits.
    pub fn subscribe(&mut self, channel: u64, hash: u64, now: Tick) {
        if self.channels.insert(channel) {
            self.core.on_channel(hash, true);
        }
        self.waiter += 1;
        self.waiters.insert(WaiterId(self.waiter), Waiter::Channel(channel));
        self.core.wait(WaiterId(self.waiter), now);
    }

    pub fn unsubscribe(&mut self, channel: u64, hash: u64) {
        if self.channels.remove(&channel) {
            self.core.on_channel(hash, false);
            self.waiters.retain(|_, of| !matches!(of, Waiter::Channel(of) if *of == channel));
        }
    }

    // ---- its end ----

    pub fn stops(&self) -> bool {
        self.stops
    }

    pub fn stop(&mut self) {
        self.stops = true;
        if let Some(serving) = &mut self.serving {
            serving.stop();
        }
    }

    /// Offers the others what is here. True: nothing is left to be handed over.
    pub fn hand_over(&mut self, now: Tick) -> bool {
        let linked = self.core.peers().into_iter().filter(|peer| peer.is_linked).map(|peer| peer.node.generation);
        let linked: Vec<Generation> = linked.collect();
        if let Some(serving) = &mut self.serving {
            return serving.hand_over(&linked, now);
        }
        for name in self.claims.owned_after(None, usize::MAX) {
            let hash = SESSIONS_KEY.hash(&name);
            if let Some(to) = winner(hash, linked.iter().copied()).filter(|_| self.offered.insert(name.clone())) {
                self.send(to, Frame::Call { id: 0, deadline_ms: 0, method: OFFER, body: name.as_bytes() });
            }
        }
        linked.is_empty() || self.claims.is_empty()
    }

    pub fn leave(&mut self, now: Tick) {
        self.core.leave(now, self.unix_s(now));
    }

    /// Who may take over, as this node sees it.
    fn live(&self) -> Vec<Generation> {
        let served = |state| matches!(state, PeerState::Live | PeerState::Suspected);
        let peers = self.core.membership().peers().filter(|peer| served(peer.state()));
        peers.map(|peer| peer.node().generation).chain([self.generation()]).collect()
    }

    // ---- outputs ----

    /// Everything that the inputs have led to.
    pub fn take_effects(&mut self, frames: usize, now: Tick) -> Vec<Effect> {
        self.core.end_turn(now, self.unix_s(now));
        loop {
            let count = self.effects.len();
            while let Some(output) = self.core.poll_output() {
                self.on_core(output, now);
            }
            while let Some(output) = self.claims.poll_output() {
                self.on_claims(output);
            }
            self.poll_reaping(now);
            if !self.serve(now) && self.effects.len() == count {
                break;
            }
        }
        self.pull(frames);
        std::mem::take(&mut self.effects)
    }

    /// True: something has changed in the rest of the node.
    fn serve(&mut self, now: Tick) -> bool {
        let is_ready = self.core.is_ready(now);
        let Some(serving) = &mut self.serving else { return false };
        if std::mem::take(&mut self.has_new_peers) {
            serving.set_peers(&self.core.peers(), now);
        }
        if is_ready {
            serving.on_ready(now);
        }
        serving.turn(now);
        let outputs: Vec<ServingOutput> = std::iter::from_fn(|| serving.poll_output()).collect();
        let has_any = !outputs.is_empty();
        outputs.into_iter().for_each(|output| self.on_serving(output, now));
        self.core.end_turn(now, self.unix_s(now));
        has_any
    }

    fn on_serving(&mut self, output: ServingOutput, now: Tick) {
        match output {
            ServingOutput::Call { to, id, method, body } => {
                let frame = Frame::Call { id, deadline_ms: 9_500, method, body: &body };
                if !self.send_call(to, frame) {
                    self.serving().on_unreachable(id, now);
                }
            }
            ServingOutput::Reply { to, id, outcome, body } => {
                self.send_call(to, Frame::Reply { id, outcome, body: &body });
            }
            ServingOutput::Store(request) => self.effects.push(Effect::Store(request)),
            ServingOutput::Session { hash, is_here } => self.core.on_channel(hash, is_here),
            ServingOutput::AwaitKnown(known) => {
                self.waiter += 1;
                self.waiters.insert(WaiterId(self.waiter), Waiter::Sessions(known));
                self.core.wait(WaiterId(self.waiter), now);
            }
            ServingOutput::Down { key, bytes } => self.effects.push(Effect::Down { key, bytes }),
            ServingOutput::Refused(key) => self.effects.push(Effect::Refused(key)),
            ServingOutput::Called { number, reply } => self.effects.push(Effect::Called { number, reply }),
            ServingOutput::Acknowledged(name) => self.effects.push(Effect::Acknowledged(name)),
        }
    }

    fn send_call(&mut self, to: Generation, frame: Frame<'_>) -> bool {
        let Some(link) = self.link_to(to) else { return false };
        let mut bytes = Vec::new();
        frame.encode_into(&mut bytes);
        self.effects.push(Effect::CallFrame { link, to, bytes });
        true
    }

    /// There is more for the links.
    pub fn wants_pull(&self) -> bool {
        !self.wants_pull.is_empty()
    }

    fn on_core(&mut self, output: NodeOutput, now: Tick) {
        match output {
            NodeOutput::Datagram { to, bytes } => self.effects.push(Effect::Datagram { to, message: bytes }),
            NodeOutput::Broadcast { bytes } => self.effects.push(Effect::Broadcast { message: bytes }),
            NodeOutput::Dial(node) => self.effects.push(Effect::Connect(node)),
            NodeOutput::Write { link, bytes } => self.write(link.0, bytes),
            NodeOutput::Pull(link) => drop(self.wants_pull.insert(link)),
            NodeOutput::Close(link) => {
                if let Some(peer) = self.ends.remove(&link.0) {
                    self.effects.push(Effect::CloseLink { link: link.0, peer });
                }
            }
            NodeOutput::Settled { waiter, outcome } => match self.waiters.remove(&waiter) {
                Some(Waiter::Channel(channel)) => self.effects.push(Effect::Open { channel, outcome }),
                Some(Waiter::Sessions(known)) => self.serving().on_known(known, outcome, now),
                None => {}
            },
            NodeOutput::PeerChanged { node, state, .. } => {
                if state == PeerState::Down && self.reaps_the_down {
                    self.reaper.reap(node.generation, now);
                }
                if state == PeerState::Dead && self.serving.is_none() {
                    self.reaper.on_gone(node.generation);
                }
            }
            NodeOutput::AddressConflict { one, other } => self.effects.push(Effect::AddressConflict(one, other)),
            NodeOutput::OwnGenerationDead => self.effects.push(Effect::Restart),
            NodeOutput::Node2014(_) => unreachable!("there is none"),
            NodeOutput::Peers => self.has_new_peers = true,
            NodeOutput::Refused { .. } | NodeOutput::ClockDiffers { .. } => {}
            NodeOutput::Left if self.stops => self.effects.push(Effect::Left),
            NodeOutput::Left => {}
        }
    }

    fn write(&mut self, link: u64, bytes: Vec<u8>) {
        if let Some(to) = self.ends.get(&link).copied() {
            self.effects.push(Effect::Frame { link, to, bytes });
        }
    }

    /// A few frames for each link.
    fn pull(&mut self, frames: usize) {
        for link in std::mem::take(&mut self.wants_pull) {
            for count in 0..=frames {
                let mut bytes = Vec::new();
                if count == frames {
                    self.wants_pull.insert(link);
                    break;
                }
                self.core.pull(link, 1, &mut bytes);
                if bytes.is_empty() {
                    break;
                }
                self.write(link.0, bytes);
            }
        }
    }

    fn on_claims(&mut self, output: ClaimsOutput) {
        match output {
            ClaimsOutput::Store(command) => self.effects.push(Effect::Command(Command::Claims(command))),
            ClaimsOutput::Request { to, id, name, token } => {
                let body = [&token.0.to_be_bytes()[..], name.as_bytes()].concat();
                self.send(to, Frame::Call { id: id.0, deadline_ms: 1_000, method: 1, body: &body });
            }
            ClaimsOutput::Reply { to, id, handover } => {
                let outcome = u8::from(handover != Handover::Passed);
                self.send(to, Frame::Reply { id: id.0, outcome, body: &[] });
            }
            ClaimsOutput::Flush { name, token } => self.effects.push(Effect::Flush { name, token }),
            ClaimsOutput::Ended { reason: EndReason::Fenced, .. } => self.effects.push(Effect::Fenced),
            ClaimsOutput::Owned { .. } | ClaimsOutput::Ended { .. } | ClaimsOutput::Refused { .. } => {}
        }
    }

    fn poll_reaping(&mut self, now: Tick) {
        while let Some(output) = self.reaper.poll_output() {
            let command = match output {
                ReaperOutput::Bury(node) => Command::Bury(node),
                ReaperOutput::ReadOrphans { dead, from } => Command::ReadOrphans { dead, from },
                ReaperOutput::Adopt { name, token } => {
                    self.claims.adopt(name, token);
                    continue;
                }
                ReaperOutput::TakeConnections(dead) => {
                    self.takings.insert(dead);
                    Command::TakeConnections(dead)
                }
                ReaperOutput::Buried(node) => {
                    self.core.on_lease_ended(node, now, self.unix_s(now));
                    continue;
                }
                ReaperOutput::Adopted(dead) => {
                    self.core.forget(dead, now, self.unix_s(now));
                    self.effects.push(Effect::Adopted(dead));
                    continue;
                }
                ReaperOutput::Finished(dead) => {
                    self.effects.push(Effect::Buried);
                    Command::RemoveLease(dead)
                }
                ReaperOutput::Met(_) | ReaperOutput::Unknown(_) => continue,
            };
            self.effects.push(Effect::Command(command));
        }
    }

    fn send(&mut self, to: Generation, frame: Frame<'_>) {
        let mut bytes = Vec::new();
        frame.encode_into(&mut bytes);
        if let Some(link) = self.link_to(to) {
            self.write(link, bytes);
        }
    }

    /// Whether a send to this channel from here would look at a node.
    pub fn is_interested(&self, node: Generation, hash: u64) -> bool {
        self.core.directory().interests(hash).any(|interest| interest.node == node)
    }
}

const OFFER: u8 = 2;

/// Of the connection alone.
pub fn key_of_close(identity: &Identity) -> String {
    format!("{identity}-close")
}
