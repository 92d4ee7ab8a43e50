//! Nodes that exchange datagrams and frames in memory, and time that passes when it is told to.

use super::*;
use crate::wire::peer::frame::{ChangeNumber, Changes};

const NAME: &str = "demo";
const UNIX_S: u64 = 1_700_000_000;

/// Nodes, and the links between them: the same number at both ends.
struct Bench {
    now: Tick,
    nodes: Vec<Node>,
    links: u64,
    /// Ends of links: the node's place, and the other's.
    ends: BTreeMap<LinkNumber, (usize, usize)>,
    /// What each node put out that the bench does not carry out.
    outputs: Vec<Vec<NodeOutput>>,
    /// Nodes that cannot be dialed.
    undialable: Vec<usize>,
    /// How far a node's wall clock is ahead.
    ahead_s: BTreeMap<usize, u64>,
    outlast: Outlast,
}

fn keys(secret: &str) -> ClusterKeys {
    ClusterKeys::derive(secret.as_bytes(), b"machine", NAME)
}

fn address(place: usize) -> SocketAddr {
    ([10, 0, 0, place as u8 + 1], 1984).into()
}

impl Bench {
    /// Nodes with these generations.
    fn of(generations: &[u32]) -> Bench {
        Bench::with(Outlast::Nothing, generations)
    }

    fn with(outlast: Outlast, generations: &[u32]) -> Bench {
        let now = Tick(1_000_000);
        let mut bench = Bench {
            now,
            nodes: Vec::new(),
            links: 0,
            ends: BTreeMap::new(),
            outputs: Vec::new(),
            undialable: Vec::new(),
            ahead_s: BTreeMap::new(),
            outlast,
        };
        generations.iter().for_each(|generation| bench.add(*generation, "secret"));
        bench
    }

    fn add(&mut self, generation: u32, secret: &str) {
        let place = self.nodes.len();
        let node = NodeId { generation: Generation(generation), address: address(place) };
        let founding = Founding { node, start: u64::from(generation), seed: u64::from(generation) };
        let keys = keys(secret);
        let terms = NodeTerms { keys: &keys, cluster_name: NAME, salt: [place as u8; 12], outlast: self.outlast };
        self.nodes.push(Node::new(founding, terms, self.now));
        self.outputs.push(Vec::new());
    }

    fn unix_s(&self, place: usize) -> u64 {
        UNIX_S + self.ahead_s.get(&place).copied().unwrap_or_default()
    }

    fn run(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.now < end {
            self.now = self.now + 20;
            for place in 0..self.nodes.len() {
                let unix_s = self.unix_s(place);
                self.nodes[place].handle_timers(self.now, unix_s);
            }
            self.carry_out();
        }
    }

    fn carry_out(&mut self) {
        while let Some((place, output)) =
            (0..self.nodes.len()).find_map(|place| self.nodes[place].poll_output().map(|output| (place, output)))
        {
            self.carry_out_one(place, output);
        }
    }

    fn carry_out_one(&mut self, place: usize, output: NodeOutput) {
        let now = self.now;
        match output {
            NodeOutput::Datagram { to, bytes } => {
                if let Some(to) = (0..self.nodes.len()).find(|place| address(*place) == to) {
                    let unix_s = self.unix_s(to);
                    self.nodes[to].on_datagram(&bytes, address(place), now, unix_s);
                }
            }
            NodeOutput::Broadcast { bytes } => {
                for to in 0..self.nodes.len() {
                    let unix_s = self.unix_s(to);
                    self.nodes[to].on_datagram(&bytes, address(place), now, unix_s);
                }
            }
            NodeOutput::Dial(node) => self.dial(place, node),
            NodeOutput::Write { link, bytes } => self.deliver(link, place, &bytes),
            NodeOutput::Pull(link) => {
                let mut frames = Vec::new();
                self.nodes[place].pull(link, usize::MAX, &mut frames);
                self.deliver(link, place, &frames);
            }
            NodeOutput::Close(link) => {
                if let Some((other, _)) = self.ends.remove(&LinkNumber(link.0 ^ 1)) {
                    self.ends.remove(&link);
                    self.nodes[other].on_link_ended(LinkNumber(link.0 ^ 1), now, UNIX_S);
                }
            }
            other => self.outputs[place].push(other),
        }
    }

    fn dial(&mut self, from: usize, node: NodeId) {
        let to = (0..self.nodes.len()).find(|place| address(*place) == node.address);
        match to.filter(|to| !self.undialable.contains(to)) {
            Some(to) => self.link(from, to),
            None => self.nodes[from].on_dial_failed(node.generation, self.now),
        }
    }

    fn link(&mut self, from: usize, to: usize) {
        self.links += 2;
        let (ours, theirs) = (LinkNumber(self.links), LinkNumber(self.links + 1));
        self.ends.extend([(ours, (from, to)), (theirs, (to, from))]);
        let clocks = [from, to].map(|place| self.unix_s(place));
        let hellos = [self.nodes[from].hello(0, 1, clocks[0]), self.nodes[to].hello(0, 1, clocks[1])];
        self.nodes[to].on_link_up(theirs, &hellos[0], false, self.now, clocks[1]);
        self.nodes[from].on_link_up(ours, &hellos[1], true, self.now, clocks[0]);
    }

    fn deliver(&mut self, link: LinkNumber, from: usize, mut frames: &[u8]) {
        let Some((_, to)) = self.ends.get(&link).copied().filter(|(end, _)| *end == from) else { return };
        while let Some((frame, len)) = Frame::decode(frames, 1 << 20).expect("ours") {
            self.nodes[to].on_frame(LinkNumber(link.0 ^ 1), frame, self.now, UNIX_S);
            frames = &frames[len..];
        }
    }

    /// The link breaks without a word.
    fn cut(&mut self, place: usize) {
        let cut: Vec<LinkNumber> = self
            .ends
            .iter()
            .filter(|(_, (one, other))| *one == place || *other == place)
            .map(|(link, _)| *link)
            .collect();
        for link in cut {
            let (end, _) = self.ends.remove(&link).expect("just found");
            self.nodes[end].on_link_ended(link, self.now, UNIX_S);
        }
        self.carry_out();
    }

    fn states(&self, place: usize) -> Vec<(u32, PeerState)> {
        self.nodes[place].peers().iter().map(|peer| (peer.node.generation.0, peer.state)).collect()
    }

    fn add_channel(&mut self, place: usize, hash: u64) {
        self.nodes[place].on_channel(hash, true);
        self.nodes[place].wait(WaiterId(hash), self.now);
        self.nodes[place].end_turn(self.now, UNIX_S);
        self.carry_out();
    }

    fn finds(&self, place: usize, generation: u32, hash: u64) -> bool {
        let peers = self.nodes[place].peers();
        let peer = peers.iter().find(|peer| peer.node.generation.0 == generation).expect("a peer");
        peer.table.as_ref().is_some_and(|table| table.may_have(hash))
    }

    /// Links that a node counts on; both ends of each are known.
    fn links_of(&self, place: usize) -> usize {
        self.nodes[place].by_peer.len()
    }
}

#[test]
fn nodes_find_each_other_by_broadcast_and_have_one_link_each() {
    let mut bench = Bench::of(&[30, 10, 20]);
    assert!(!bench.nodes[0].is_ready(bench.now), "it has not looked around");
    bench.run(1_000);
    for place in 0..3 {
        let states = bench.states(place);
        assert!(states.len() == 2 && states.iter().all(|(_, state)| *state == PeerState::Live), "{states:?}");
        assert_eq!(bench.links_of(place), 2);
        assert!(bench.nodes[place].is_ready(bench.now));
    }
    assert_eq!(bench.ends.len(), 6, "nobody keeps a second link");
}

#[test]
fn a_node_alone_is_ready_after_a_look_around() {
    let mut bench = Bench::of(&[1]);
    bench.run(LOOK_MS - 20);
    assert!(!bench.nodes[0].is_ready(bench.now));
    bench.run(40);
    assert!(bench.nodes[0].is_ready(bench.now));
}

#[test]
fn a_channel_is_known_everywhere_when_its_waiter_goes_on() {
    let mut bench = Bench::of(&[1, 2, 3]);
    bench.run(1_000);
    let (one, unknown) = (0x1234_5678 << 32, 0x8765_4321 << 32);
    bench.add_channel(0, one);
    assert!(matches!(
        bench.outputs[0].iter().rev().find(|output| matches!(output, NodeOutput::Settled { .. })),
        Some(NodeOutput::Settled { waiter: WaiterId(waiter), outcome: Outcome::Known }) if *waiter == one
    ));
    for place in [1, 2] {
        assert!(bench.finds(place, 1, one) && !bench.finds(place, 1, unknown));
    }
}

#[test]
fn of_two_links_both_sides_keep_the_one_that_the_lower_dialed() {
    for first in [0, 1] {
        let mut bench = Bench::of(&[5, 6]);
        bench.link(first, 1 - first);
        bench.link(1 - first, first);
        bench.carry_out();
        bench.run(100);
        let links: Vec<LinkNumber> = bench.ends.keys().copied().collect();
        assert_eq!(links.len(), 2, "the two ends of one link");
        let dialed_by_lower = LinkNumber(if first == 0 { 2 } else { 4 });
        assert_eq!(links[0], dialed_by_lower);
        assert!((0..2).all(|place| bench.links_of(place) == 1));
    }
}

#[test]
fn the_higher_one_dials_when_the_lower_one_cannot() {
    let mut bench = Bench::of(&[5, 6]);
    bench.undialable = vec![1];
    bench.run(1_000);
    assert_eq!(bench.links_of(0), 0, "it waits for the lower one");
    bench.run(1_500);
    assert_eq!((bench.links_of(0), bench.links_of(1)), (1, 1));
}

#[test]
fn a_node_that_does_not_answer_is_dialed_ever_more_seldom() {
    let mut bench = Bench::of(&[5, 6]);
    bench.run(1_000);
    bench.undialable = vec![0, 1];
    bench.cut(1);
    let mut dials = 0;
    for _ in 0..3_000 {
        bench.now = bench.now + 10;
        bench.nodes[0].handle_timers(bench.now, UNIX_S);
        while let Some(output) = bench.nodes[0].poll_output() {
            if let NodeOutput::Dial(node) = output {
                dials += 1;
                bench.nodes[0].on_dial_failed(node.generation, bench.now);
            }
        }
    }
    assert!((5..15).contains(&dials), "{dials} in half a minute");
}

#[test]
fn who_leaves_is_missed_at_once_and_nothing_is_looked_for_there() {
    let mut bench = Bench::of(&[1, 2]);
    bench.run(1_000);
    bench.nodes[0].leave(bench.now, UNIX_S);
    bench.carry_out();
    assert!(bench.outputs[0].iter().any(|output| matches!(output, NodeOutput::Left)));
    let peers = bench.nodes[1].peers();
    assert_eq!((peers[0].state, peers[0].reason), (PeerState::Dead, Reason::Left));
    assert!(peers[0].table.is_none());
}

#[test]
fn who_leaves_dials_nobody_and_whoever_dials_it_hears_so() {
    let mut bench = Bench::of(&[1, 2]);
    bench.undialable = vec![1];
    bench.run(400);
    assert_eq!((bench.links_of(0), bench.states(1)), (0, vec![(1, PeerState::Joining)]));
    bench.nodes[0].leave(bench.now, UNIX_S);
    bench.undialable.clear();
    bench.link(1, 0);
    bench.carry_out();
    assert_eq!(bench.states(1), [(1, PeerState::Dead)]);
    let links = bench.links;
    bench.run(5_000);
    assert_eq!((bench.links, bench.links_of(0), bench.links_of(1)), (links, 0, 0));
}

/// Found by a node that dialed once more as it left: every call of the other named it, until it was forgotten.
#[test]
fn a_link_that_is_refused_to_the_dead_changes_nothing_of_what_is_known_of_them() {
    let mut bench = Bench::with(Outlast::Sessions, &[1, 2]);
    bench.run(1_000);
    bench.add_channel(0, 7 << 56);
    bench.nodes[0].leave(bench.now, UNIX_S);
    bench.carry_out();
    let is_as_known = |bench: &Bench| bench.finds(1, 1, 7 << 56) && !bench.finds(1, 1, 9 << 56);
    assert!(bench.states(1) == [(1, PeerState::Dead)] && is_as_known(&bench));
    let hello = bench.nodes[0].hello(0, 1, UNIX_S);
    bench.nodes[1].on_link_up(LinkNumber(99), &hello, false, bench.now, UNIX_S);
    bench.carry_out();
    assert!(is_as_known(&bench));
}

#[test]
fn a_node_without_a_link_may_have_anything_until_it_is_given_up() {
    let mut bench = Bench::of(&[1, 2]);
    bench.run(1_000);
    bench.add_channel(1, 7 << 56);
    // Its process is gone: no datagram and no link comes from it any more.
    bench.undialable = vec![1];
    bench.cut(1);
    bench.nodes.truncate(1);
    assert!(bench.finds(0, 2, 9 << 56), "whatever it is");
    let deadline = bench.now + 60_000;
    while bench.nodes[0].peers()[0].state != PeerState::Down {
        assert!(bench.now < deadline);
        bench.run(100);
    }
    assert!(bench.finds(0, 2, 7 << 56) && !bench.finds(0, 2, 9 << 56), "what was known last");
    bench.run(FORGET_DOWN_MS + 200);
    assert!(bench.nodes[0].peers()[0].table.is_none());
}

#[test]
fn a_stranger_is_counted_and_changes_nothing() {
    let mut bench = Bench::of(&[1, 2]);
    bench.add(3, "another secret");
    bench.run(1_000);
    assert_eq!(bench.states(0), [(2, PeerState::Live)]);
    assert!(bench.states(2).is_empty());
    assert!(bench.nodes[0].rejections().forged > 0);
    bench.nodes[0].on_datagram(b"hello", address(9), bench.now, UNIX_S);
    let old = br#"{"msgtype":"online","port":1,"server_identity":"a","cluster_name":"x"}"#;
    bench.nodes[0].on_datagram(old, address(9), bench.now, UNIX_S);
    assert_eq!(bench.nodes[0].rejections().foreign, 2);
    bench.carry_out();
    assert!(bench.outputs[0].iter().any(|output| matches!(output, NodeOutput::Node2014(_))));
}

#[test]
fn a_peer_that_sends_nonsense_is_closed_and_the_others_go_on() {
    let mut bench = Bench::of(&[1, 2, 3]);
    bench.run(1_000);
    let link = bench.nodes[0].by_peer[&Generation(2)];
    let call = Frame::Call { id: 1, deadline_ms: 1, method: 1, body: b"" };
    bench.nodes[0].on_frame(link, call, bench.now, UNIX_S);
    bench.carry_out();
    assert_eq!(bench.nodes[0].rejections().violations, 1);
    assert!(!bench.nodes[0].by_peer.contains_key(&Generation(2)));
    assert!(bench.nodes[0].by_peer.contains_key(&Generation(3)));
    // Changes that no snapshot came before are the directory's business: it asks for one.
    let link = bench.nodes[0].by_peer[&Generation(3)];
    let encoded = Changes::encode(std::iter::empty());
    let changes = Changes::new(&encoded).expect("whole words");
    let gap = Frame::Changes { number: ChangeNumber(99), size_log2: 16, changes };
    bench.nodes[0].on_frame(link, gap, bench.now, UNIX_S);
    bench.carry_out();
    assert_eq!(bench.nodes[0].directory().counts().resyncs, 1);
    bench.run(1_000);
    assert_eq!(bench.states(0), [(2, PeerState::Live), (3, PeerState::Live)]);
}

/// Clocks an hour apart: their datagrams are not taken, until a link has told the difference.
#[test]
fn nodes_whose_clocks_differ_find_each_other_by_a_link() {
    let mut bench = Bench::of(&[1, 2]);
    bench.ahead_s.insert(1, 3_600);
    bench.run(1_000);
    assert!((0..2).any(|place| bench.nodes[place].rejections().stale > 0));
    for (place, other) in [(0, 2), (1, 1)] {
        assert_eq!(bench.states(place), [(other, PeerState::Live)]);
    }
    let stale: u64 = (0..2).map(|place| bench.nodes[place].rejections().stale).sum();
    bench.run(5_000);
    assert_eq!((0..2).map(|place| bench.nodes[place].rejections().stale).sum::<u64>(), stale, "they are in step now");
}

#[test]
fn another_version_is_told_so_and_not_linked() {
    let mut bench = Bench::of(&[1, 2]);
    let hello = Hello { versions: VersionRange { min: 7, max: 9 }, ..bench.nodes[1].hello(0, 1, UNIX_S) };
    bench.nodes[0].on_link_up(LinkNumber(2), &hello, false, bench.now, UNIX_S);
    assert!(bench.nodes[0].by_peer.is_empty());
    let refused = std::iter::from_fn(|| bench.nodes[0].poll_output());
    assert!(refused.into_iter().any(|output| matches!(output, NodeOutput::Refused { goodbye: Goodbye::Version, .. })));
}
