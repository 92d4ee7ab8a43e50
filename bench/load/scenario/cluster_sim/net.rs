//! The real plain data of a cluster's nodes (membership, control links, directory) over a network in memory, in virtual
//! time: what is sent is what the nodes would send, byte for byte.

use rainbow::base::id::{Generation, NodeId};
use rainbow::base::time::Tick;
use rainbow::cluster::key::ClusterKeys;
use rainbow::cluster::membership::Founding;
use rainbow::cluster::node::{LinkNumber, Node, NodeOutput, NodeTerms, Outlast, PeerView};
use rainbow::wire::peer::frame::Frame;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;

/// What went over the network.
#[derive(Clone, Copy, Default, Debug)]
pub struct Traffic {
    pub datagrams: u64,
    /// With the heads of UDP and IP.
    pub datagram_bytes: u64,
    /// Over control links: with what Noise, TCP and IP add.
    pub link_bytes: u64,
}

impl Traffic {
    pub fn since(self, before: Traffic) -> Traffic {
        Traffic {
            datagrams: self.datagrams - before.datagrams,
            datagram_bytes: self.datagram_bytes - before.datagram_bytes,
            link_bytes: self.link_bytes - before.link_bytes,
        }
    }

    pub fn bytes(self) -> u64 {
        self.datagram_bytes + self.link_bytes
    }
}

pub struct Net {
    pub now: Tick,
    /// `None`: it has died.
    nodes: Vec<Option<Node>>,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    sequence: u64,
    links: u64,
    /// Ends of links: the node that has it. The other end has the number with the last bit flipped.
    ends: BTreeMap<LinkNumber, usize>,
    pub traffic: Traffic,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct UnderWay {
    at: Tick,
    sequence: u64,
    what: What,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Datagram { to: usize, from: usize, bytes: Vec<u8> },
    Dialed { from: usize, to: usize },
    Frames { link: LinkNumber, bytes: Vec<u8> },
    LinkEnds(LinkNumber),
}

impl Net {
    pub fn new(nodes: usize) -> Net {
        let now = Tick(1_000_000);
        let keys = ClusterKeys::derive(b"secret", b"machine", NAME);
        let node = |place: usize| {
            let own = NodeId { generation: Generation(place as u32 + 1), address: address(place) };
            let founding = Founding { node: own, start: 1, seed: place as u64 + 7 };
            let (mut salt, outlast) = ([0; 12], Outlast::Nothing);
            salt[..8].copy_from_slice(&(place as u64).to_be_bytes());
            Some(Node::new(founding, NodeTerms { keys: &keys, cluster_name: NAME, salt, outlast }, now))
        };
        Net {
            now,
            nodes: (0..nodes).map(node).collect(),
            under_way: BinaryHeap::new(),
            sequence: 0,
            links: 0,
            ends: BTreeMap::new(),
            traffic: Traffic::default(),
        }
    }

    /// Runs until it holds, looking each `step_ms`; `None` when it does not within `limit_ms`. How long it took.
    pub fn run_until(&mut self, step_ms: u64, limit_ms: u64, holds: impl Fn(&Net) -> bool) -> Option<u64> {
        let begun = self.now;
        while self.now.since_ms(begun) < limit_ms {
            if holds(self) {
                return Some(self.now.since_ms(begun));
            }
            self.run(step_ms);
        }
        holds(self).then_some(limit_ms)
    }

    pub fn run(&mut self, ms: u64) {
        let end = self.now + ms;
        loop {
            let timer = self.nodes.iter().flatten().map(Node::next_tick).min().unwrap_or(Tick::NEVER);
            let next = self.under_way.peek().map_or(Tick::NEVER, |Reverse(next)| next.at).min(timer);
            if next >= end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            while self.under_way.peek().is_some_and(|Reverse(next)| next.at <= self.now) {
                let Reverse(next) = self.under_way.pop().expect("just seen");
                self.arrive(next.what);
            }
            for place in 0..self.nodes.len() {
                let now = self.now;
                if self.nodes[place].as_ref().is_some_and(|node| node.next_tick() <= now) {
                    self.act(place, |node| node.handle_timers(now, UNIX_S));
                }
            }
        }
    }

    /// The process is killed: the kernel closes its links.
    pub fn kill(&mut self, place: usize) {
        self.lose(place);
        let theirs: Vec<LinkNumber> =
            self.ends.iter().filter(|(_, owner)| **owner == place).map(|(link, _)| LinkNumber(link.0 ^ 1)).collect();
        theirs.into_iter().for_each(|link| self.send(LATENCY_MS, What::LinkEnds(link)));
    }

    /// The machine is gone, and says nothing.
    pub fn lose(&mut self, place: usize) {
        self.nodes[place] = None;
    }

    pub fn live(&self) -> usize {
        self.nodes.iter().flatten().count()
    }

    /// What each node that lives sees of the others.
    pub fn views(&self) -> impl Iterator<Item = Vec<PeerView>> + '_ {
        self.nodes.iter().flatten().map(Node::peers)
    }

    /// Every node has a link to every other.
    pub fn is_whole(&self) -> bool {
        let others = self.live() - 1;
        self.views().all(|peers| peers.iter().filter(|peer| peer.is_linked).count() == others)
    }

    fn act(&mut self, place: usize, input: impl FnOnce(&mut Node)) {
        let Some(node) = self.nodes[place].as_mut() else { return };
        input(node);
        while let Some(output) = self.nodes[place].as_mut().and_then(Node::poll_output) {
            self.carry_out(place, output);
        }
    }

    fn carry_out(&mut self, place: usize, output: NodeOutput) {
        match output {
            NodeOutput::Datagram { to, bytes } => {
                if let Some(to) = (0..self.nodes.len()).find(|other| address(*other) == to) {
                    self.datagram(place, to, bytes);
                }
            }
            NodeOutput::Broadcast { bytes } => {
                // One on the wire, whoever hears it.
                self.count_datagram(bytes.len());
                for to in (0..self.nodes.len()).filter(|to| *to != place) {
                    self.send(LATENCY_MS, What::Datagram { to, from: place, bytes: bytes.clone() });
                }
            }
            NodeOutput::Dial(node) => match (0..self.nodes.len()).find(|other| address(*other) == node.address) {
                Some(to) if self.nodes[to].is_some() => {
                    self.traffic.link_bytes += HANDSHAKE_BYTES;
                    self.send(DIAL_MS, What::Dialed { from: place, to });
                }
                _ => {
                    let now = self.now;
                    self.act(place, |own| own.on_dial_failed(node.generation, now));
                }
            },
            NodeOutput::Write { link, bytes } => self.frames(link, bytes),
            NodeOutput::Pull(link) => {
                let mut bytes = Vec::new();
                if let Some(node) = self.nodes[place].as_mut() {
                    node.pull(link, usize::MAX, &mut bytes);
                }
                self.frames(link, bytes);
            }
            NodeOutput::Close(link) => {
                self.ends.remove(&link);
                self.send(LATENCY_MS, What::LinkEnds(LinkNumber(link.0 ^ 1)));
            }
            _ => {}
        }
    }

    fn datagram(&mut self, from: usize, to: usize, bytes: Vec<u8>) {
        self.count_datagram(bytes.len());
        self.send(LATENCY_MS, What::Datagram { to, from, bytes });
    }

    fn count_datagram(&mut self, len: usize) {
        self.traffic.datagrams += 1;
        self.traffic.datagram_bytes += len as u64 + UDP_BYTES;
    }

    fn frames(&mut self, link: LinkNumber, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.traffic.link_bytes += on_the_wire(bytes.len() as u64);
            self.send(LATENCY_MS, What::Frames { link: LinkNumber(link.0 ^ 1), bytes });
        }
    }

    fn send(&mut self, ms: u64, what: What) {
        self.sequence += 1;
        self.under_way.push(Reverse(UnderWay { at: self.now + ms, sequence: self.sequence, what }));
    }

    fn arrive(&mut self, what: What) {
        let now = self.now;
        match what {
            What::Datagram { to, from, bytes } => {
                self.act(to, |node| node.on_datagram(&bytes, address(from), now, UNIX_S));
            }
            What::Dialed { from, to } => self.link(from, to),
            What::Frames { link, bytes } => {
                let Some(place) = self.ends.get(&link).copied() else { return };
                let mut left = &bytes[..];
                while let Some((frame, len)) = Frame::decode(left, FRAME_BYTES_MAX).expect("ours") {
                    self.act(place, |node| node.on_frame(link, frame, now, UNIX_S));
                    left = &left[len..];
                }
            }
            What::LinkEnds(link) => {
                if let Some(place) = self.ends.remove(&link) {
                    self.act(place, |node| node.on_link_ended(link, now, UNIX_S));
                }
            }
        }
    }

    fn link(&mut self, from: usize, to: usize) {
        let (Some(dialer), Some(other)) = (&self.nodes[from], &self.nodes[to]) else { return };
        let hellos = [dialer.hello(0, 1, UNIX_S), other.hello(0, 1, UNIX_S)];
        self.links += 2;
        let (ours, theirs) = (LinkNumber(self.links), LinkNumber(self.links + 1));
        self.ends.extend([(ours, from), (theirs, to)]);
        let now = self.now;
        self.act(to, |node| node.on_link_up(theirs, &hellos[0], false, now, UNIX_S));
        self.act(from, |node| node.on_link_up(ours, &hellos[1], true, now, UNIX_S));
    }
}

/// With what Noise adds to each message, and TCP and IP to each segment.
pub fn on_the_wire(bytes: u64) -> u64 {
    bytes + bytes.div_ceil(NOISE_MESSAGE) * NOISE_BYTES + bytes.div_ceil(SEGMENT) * TCP_BYTES
}

fn address(place: usize) -> SocketAddr {
    ([10, 0, 0, place as u8 + 1], 1984).into()
}

const NAME: &str = "simulated";
const UNIX_S: u64 = 1_700_000_000;
/// Within a data centre, one way.
pub const LATENCY_MS: u64 = 1;
/// TCP's handshake, the upgrade and Noise's: three round trips.
const DIAL_MS: u64 = 6 * LATENCY_MS;
const HANDSHAKE_BYTES: u64 = 1_000;
const UDP_BYTES: u64 = 28;
const TCP_BYTES: u64 = 52;
const SEGMENT: u64 = 1_448;
const NOISE_MESSAGE: u64 = 65_519;
const NOISE_BYTES: u64 = 18;
const FRAME_BYTES_MAX: usize = 16 << 20;
