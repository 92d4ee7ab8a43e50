//! A few nodes in virtual time: the traps of membership by their names.

use super::*;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// Nodes at ports 1, 2, …; datagrams and links take a millisecond.
struct Network {
    nodes: BTreeMap<u16, Membership>,
    /// Ports between which nothing passes.
    cuts: BTreeSet<(u16, u16)>,
    in_flight: Vec<(Tick, u16, u16, Vec<u8>)>,
    events: Vec<(u16, Output)>,
    /// Nodes that stand still until then.
    still: BTreeMap<u16, Tick>,
    now: Tick,
}

fn address(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn life(port: u16, generation: u32, start: u64) -> Founding {
    let node = NodeId { generation: Generation(generation), address: address(port) };
    Founding { node, start, seed: u64::from(generation) }
}

impl Network {
    fn new(nodes: u16) -> Network {
        let mut network = Network {
            nodes: BTreeMap::new(),
            cuts: BTreeSet::new(),
            in_flight: Vec::new(),
            events: Vec::new(),
            still: BTreeMap::new(),
            now: Tick(1_000_000),
        };
        (1..=nodes).for_each(|port| network.start(life(port, 100 + u32::from(port), 1_000)));
        network
    }

    fn start(&mut self, founding: Founding) {
        let port = founding.node.address.port();
        let mut node = Membership::new(founding, self.now);
        // Everybody knows of node 1, and node 1 of node 2.
        node.handle(Input::Hint(address(if port == 1 { 2 } else { 1 })), self.now);
        self.nodes.insert(port, node);
    }

    fn kill(&mut self, port: u16) {
        let killed = self.nodes.remove(&port).expect("it runs");
        for node in self.nodes.values_mut() {
            let generation = killed.own().node.generation;
            node.handle(Input::LinkEnded { generation, goodbye: None }, self.now);
        }
    }

    fn passes(&self, from: u16, to: u16) -> bool {
        !self.cuts.contains(&(from, to)) && self.nodes.contains_key(&to)
    }

    fn is_still(&self, port: u16) -> bool {
        self.still.get(&port).is_some_and(|until| self.now < *until)
    }

    fn run(&mut self, ms: u64) {
        let until = self.now + ms;
        while self.now < until {
            self.now = self.now + 1;
            let (due, later) = std::mem::take(&mut self.in_flight)
                .into_iter()
                .partition(|(at, _, to, _)| *at <= self.now && !self.is_still(*to));
            self.in_flight = later;
            // A node that stood still has timers to catch up with first.
            for port in self.nodes.keys().copied().collect::<Vec<_>>() {
                if !self.is_still(port) && self.nodes[&port].next_tick() <= self.now {
                    let now = self.now;
                    self.nodes.get_mut(&port).expect("it runs").handle_timers(now);
                }
                self.carry_out(port);
            }
            for (_, from, to, message) in due {
                if self.passes(from, to) {
                    let now = self.now;
                    self.nodes.get_mut(&to).expect("it runs").handle(Input::Swim(&message), now);
                    self.carry_out(to);
                }
            }
        }
    }

    fn carry_out(&mut self, port: u16) {
        while let Some(output) = self.nodes.get_mut(&port).and_then(Membership::poll_output) {
            match &output {
                Output::SendSwim { to, message } => {
                    self.in_flight.push((self.now + 1, port, to.port(), message.clone()));
                }
                Output::Connect(node) => self.connect(port, *node),
                Output::Heartbeat(generation) => self.heartbeat(port, *generation),
                Output::Peer { node, state: PeerState::LinkDown, .. } => {
                    self.connect(port, *node);
                    self.events.push((port, output));
                }
                _ => self.events.push((port, output)),
            }
        }
    }

    /// A link is made if both directions work.
    fn connect(&mut self, port: u16, node: NodeId) {
        let other = node.address.port();
        if !self.passes(port, other) || !self.passes(other, port) || self.nodes[&other].own().node != node {
            return;
        }
        for (here, there) in [(port, other), (other, port)] {
            let id = self.nodes[&there].own();
            let now = self.now;
            let input = Input::LinkUp { node: id.node, start: id.start };
            self.nodes.get_mut(&here).expect("it runs").handle(input, now);
        }
    }

    fn heartbeat(&mut self, port: u16, generation: Generation) {
        let to = self.nodes.iter().find(|(_, node)| node.own().node.generation == generation).map(|(port, _)| *port);
        let Some(to) = to.filter(|to| self.passes(port, *to) && !self.is_still(*to)) else { return };
        let (now, from) = (self.now, self.nodes[&port].own().node.generation);
        self.nodes.get_mut(&to).expect("it runs").handle(Input::LinkHeard(from), now);
    }

    /// Of a node without a socket of its own to receive with.
    fn send_all_of(&mut self, node: &mut Membership) {
        while let Some(output) = node.poll_output() {
            if let Output::SendSwim { to, message } = output {
                self.in_flight.push((self.now, 9, to.port(), message));
            }
        }
    }

    /// Nodes 1 and 2 have named both lives so many times: at most every half minute.
    #[track_caller]
    fn assert_conflict(&self, times: RangeInclusive<usize>, expected: u32, expected_other: u32) {
        for port in [1, 2] {
            let of_node = self.events.iter().filter(|(at, output)| *at == port && is_conflict(output));
            let conflicts: Vec<&Output> = of_node.map(|(_, output)| output).collect();
            assert!(times.contains(&conflicts.len()), "{conflicts:?}");
            let Output::AddressConflict { one, other } = conflicts[0] else { unreachable!("filtered") };
            assert_eq!((one.generation.0, other.generation.0), (expected, expected_other), "{conflicts:?}");
        }
    }

    fn states(&self, port: u16) -> Vec<(u16, PeerState)> {
        self.nodes[&port].peers().map(|peer| (peer.node().address.port(), peer.state())).collect()
    }

    #[track_caller]
    fn assert_whole(&self) {
        for (port, node) in &self.nodes {
            let live = node.peers().filter(|peer| peer.state() == PeerState::Live).count();
            assert_eq!(live, self.nodes.len() - 1, "{port} at {:?} sees {:?}", self.now, self.states(*port));
        }
        assert!(self.nodes.values().all(|node| node.counts().timer_faults == 0), "foca got its timers out of order");
    }

    fn cut(&mut self, one: &[u16], other: &[u16]) {
        for (a, b) in one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b))) {
            self.cuts.extend([(a, b), (b, a)]);
        }
    }

    /// How often `port` reported `state` for a generation.
    fn reports(&self, port: u16, generation: u32, wanted: PeerState) -> usize {
        let is_it = |output: &Output| {
            matches!(output, Output::Peer { node, state, .. }
                if node.generation == Generation(generation) && *state == wanted)
        };
        self.events.iter().filter(|(at, output)| *at == port && is_it(output)).count()
    }
}

#[test]
fn nodes_find_each_other() {
    let mut network = Network::new(5);
    network.run(2_000);
    network.assert_whole();
}

/// Directory 8: who serves calls has to know whom to ask.
#[test]
fn a_newcomer_is_informed_once_it_knows_everybody() {
    for is_lossy in [false, true] {
        let mut network = Network::new(5);
        network.run(5_000);
        network.start(life(6, 206, 2_000));
        if is_lossy {
            // What it asks at first gets lost.
            network.carry_out(6);
            network.in_flight.clear();
            // The others hear of it nevertheless.
            let now = network.now;
            network.nodes.get_mut(&2).expect("it runs").handle(Input::Hint(address(6)), now);
            network.carry_out(2);
        }
        let begun = network.now;
        assert!(!network.nodes[&6].is_informed());
        while !network.nodes[&6].is_informed() {
            network.run(1);
            assert!(network.now.since_ms(begun) < 300, "{:?}", network.states(6));
        }
        assert_eq!(network.states(6).len(), 5, "{:?}", network.states(6));
    }
}

/// Its address is known from the life before; it may be held for alive.
#[test]
fn another_life_that_says_that_it_is_there_is_met_at_once() {
    for dead_ms in [0, 20_000] {
        let mut network = Network::new(3);
        network.run(5_000);
        network.kill(3);
        network.run(dead_ms);
        let founding = life(3, 203, 900_000);
        network.nodes.insert(3, Membership::new(founding, network.now));
        let now = network.now;
        network.nodes.get_mut(&1).expect("it runs").handle(Input::Online(founding.node), now);
        network.carry_out(1);
        network.run(20);
        let state = network.nodes[&1].peer(Generation(203)).map(Peer::state);
        assert_eq!(state, Some(PeerState::Live), "after {dead_ms} ms: {:?}", network.states(1));
    }
}

#[test]
fn a_restart_within_a_second_ends_the_old_generation_once() {
    let mut network = Network::new(3);
    network.run(3_000);
    network.kill(3);
    network.run(300);
    network.start(life(3, 203, 1_001));
    network.run(5_000);
    network.assert_whole();
    for port in [1, 2] {
        assert_eq!(network.reports(port, 103, PeerState::Dead), 1);
        let reason = network.nodes[&port].peer(Generation(103)).map(Peer::reason);
        assert!(matches!(reason, Some(Reason::Replaced(node)) if node.generation == Generation(203)));
    }
}

#[test]
fn a_generation_wins_over_the_old_one_also_when_the_clock_went_back_an_hour() {
    let mut network = Network::new(3);
    network.kill(3);
    network.start(life(3, 103, 3_600_000 + 1_000));
    network.run(3_000);
    network.assert_whole();
    network.kill(3);
    network.run(300);
    network.start(life(3, 203, 1_000));
    network.run(10_000);
    network.assert_whole();
    assert_eq!(network.nodes[&1].peer(Generation(103)).map(Peer::state), Some(PeerState::Dead));
    assert_eq!(
        network.events.iter().filter(|(_, output)| is_conflict(output)).count(),
        0,
        "the memory of an earlier life is no rival"
    );
}

/// Rounds of links take seconds each: doubling the step for an hour would take half a minute.
#[test]
fn a_life_that_a_link_refuses_hears_which_start_it_has_to_beat() {
    let mut network = Network::new(1);
    let earlier = NodeId { generation: Generation(200), address: address(2) };
    let later = NodeId { generation: Generation(201), address: address(2) };
    let node = network.nodes.get_mut(&1).expect("it runs");
    node.handle(Input::LinkUp { node: earlier, start: 1 << 40 }, network.now);
    node.handle(Input::LinkEnded { generation: earlier.generation, goodbye: None }, network.now);
    network.start(life(2, 201, 1_000));
    let node = network.nodes.get_mut(&1).expect("it runs");
    node.handle(Input::LinkUp { node: later, start: 1_000 }, network.now);
    network.run(5);
    let refusal = Output::Refuse { node: later, goodbye: Goodbye::Outlived };
    assert!(network.events.contains(&(1, refusal)));
    let (generation, goodbye) = (Generation(101), Some(Goodbye::Outlived));
    let refused = network.nodes.get_mut(&2).expect("it runs");
    refused.handle(Input::LinkEnded { generation, goodbye }, network.now);
    network.run(100);
    let start = network.nodes[&2].own().start;
    assert!(start > 1 << 40, "{start}");
}

#[test]
fn two_nodes_of_one_address_are_named_and_back_off() {
    let mut network = Network::new(3);
    network.run(3_000);
    // The twin has no socket of its own to receive with; what it sends reaches the others.
    let mut twin = Membership::new(life(3, 999, 5_000), network.now);
    twin.handle(Input::Hint(address(1)), network.now);
    for _ in 0..120 {
        network.run(1_000);
        twin.handle_timers(network.now);
        let start = network.nodes[&3].own().start.max(twin.own().start) + 1;
        let renewed = SwimId { start, ..twin.own() };
        let mut runtime = AccumulatingRuntime::new();
        twin.foca.change_identity(renewed, &mut runtime).expect("another start");
        twin.announce(address(1), network.now);
        network.send_all_of(&mut twin);
    }
    network.assert_conflict(1..=4, 103, 999);
    let rejoins = network.nodes[&3].counts().rejoins;
    assert!((20..40).contains(&rejoins), "it backs off: {rejoins}");
}

/// The clone of a virtual machine runs beside its original, and has the later start: whatever is sent to their address
/// reaches the clone.
#[test]
fn a_life_that_has_been_replaced_and_goes_on_speaking_is_named() {
    let mut network = Network::new(3);
    network.run(3_000);
    let mut original = network.nodes.remove(&3).expect("it runs");
    network.start(life(3, 203, 2_000));
    network.run(LAST_DATAGRAMS_MS);
    let replaced = |node: &Membership| {
        node.peers().any(|peer| peer.node().generation == Generation(103) && peer.state() == PeerState::Dead)
    };
    assert!([1, 2].iter().all(|port| replaced(&network.nodes[port])));
    assert!(!network.events.iter().any(|(_, output)| is_conflict(output)), "as after any restart");
    for _ in 0..120 {
        network.run(1_000);
        original.handle_timers(network.now);
        network.send_all_of(&mut original);
    }
    network.assert_conflict(2..=4, 203, 103);
    assert!(network.states(1).contains(&(3, PeerState::Live)), "{:?}", network.states(1));
}

/// Who stood still reads what the dead had sent before their end, all of it at once.
#[test]
fn late_datagrams_of_a_life_that_has_been_replaced_accuse_nobody() {
    let mut network = Network::new(3);
    network.run(3_000);
    let original = network.nodes.remove(&3).expect("it runs").own().node;
    network.start(life(3, 203, 2_000));
    network.run(2 * LAST_DATAGRAMS_MS);
    let now = network.now;
    let reader = network.nodes.get_mut(&1).expect("it runs");
    (0..20).for_each(|_| reader.handle(Input::Online(original), now));
    network.run(1_000);
    assert!(!network.events.iter().any(|(_, output)| is_conflict(output)));
}

fn is_conflict(output: &Output) -> bool {
    matches!(output, Output::AddressConflict { .. })
}

#[test]
fn who_lost_everybody_announces_itself_again() {
    let parts: [(&[u16], &[u16]); 3] = [(&[3], &[1, 2, 4]), (&[1, 2], &[3, 4]), (&[1], &[2, 3, 4])];
    for (one, other) in parts {
        let mut network = Network::new(4);
        network.run(3_000);
        network.cut(one, other);
        network.run(60_000);
        let lost = network.nodes[&one[0]].peers().filter(|peer| peer.state() == PeerState::Down).count();
        assert_eq!(lost, other.len(), "{:?}", network.states(one[0]));
        network.cuts.clear();
        network.run(10_000);
        network.assert_whole();
    }
    // All of them at once.
    let mut network = Network::new(4);
    network.run(3_000);
    network.cut(&[1, 2, 3, 4], &[1, 2, 3, 4]);
    network.run(60_000);
    network.cuts.clear();
    network.run(10_000);
    network.assert_whole();
}

#[test]
fn the_dead_are_remembered_for_hours_and_their_table_is_bounded() {
    let mut node = Membership::new(life(1, 1, 1_000), Tick(0));
    let mut now = Tick(0);
    for n in 0..6_000_u32 {
        now = now + 1;
        let id = NodeId { generation: Generation(100 + n), address: address(2 + n as u16) };
        node.handle(Input::LinkUp { node: id, start: 1 }, now);
        node.handle(Input::LinkEnded { generation: id.generation, goodbye: Some(Goodbye::Leaving) }, now);
    }
    assert_eq!(node.peers().count(), LIFELESS_MAX);
    assert!(node.addresses.len() <= ADDRESSES_MAX);
    let last = NodeId { generation: Generation(6_099), address: address(6_001) };
    while node.poll_output().is_some() {}
    node.handle(Input::LinkUp { node: last, start: 1 }, now + 3_600_000);
    let refused = Output::Refuse { node: last, goodbye: Goodbye::GenerationDead };
    assert!(std::iter::from_fn(|| node.poll_output()).any(|output| output == refused), "no ghost comes back");
}

#[test]
fn a_goodbye_is_pumped_for_some_seconds() {
    let mut network = Network::new(6);
    network.run(4_000);
    // What is said once is lost.
    let cuts = (1..=5).map(|port| (6, port));
    network.cuts.extend(cuts);
    let now = network.now;
    network.nodes.get_mut(&6).expect("it runs").handle(Input::Leave, now);
    // The link still works here, so that SWIM's word alone is heard.
    let reasons = |network: &Network| -> Vec<_> {
        (1..=5).map(|port| network.nodes[&port].peer(Generation(106)).map(Peer::reason)).collect()
    };
    network.run(1_000);
    assert!(!reasons(&network).contains(&Some(Reason::SwimLost)), "{:?}", reasons(&network));
    network.cuts.clear();
    network.run(600);
    assert_eq!(reasons(&network), [Some(Reason::SwimLost); 5]);
    assert!(!network.events.contains(&(6, Output::Left)), "it stays for some seconds");
    network.run(2_000);
    assert!(network.events.contains(&(6, Output::Left)));
    assert_eq!(network.nodes[&6].counts().rejoins, 0);
}

#[test]
fn late_timers_come_before_data_and_complete_their_probes() {
    let mut network = Network::new(4);
    network.run(3_000);
    for round in 0..20 {
        let until = network.now + 150 + round * 100;
        network.still.insert(1 + (round % 4) as u16, until);
        network.run(3_000);
    }
    network.run(3_000);
    network.assert_whole();
}

#[test]
fn a_node_that_stood_still_accuses_nobody() {
    for still_ms in [1_000, 5_000, 20_000] {
        let mut network = Network::new(4);
        network.run(3_000);
        network.still.insert(2, network.now + still_ms);
        network.run(still_ms);
        network.events.clear();
        network.run(2_000);
        let is_blame = |state| matches!(state, PeerState::Suspected | PeerState::LinkDown | PeerState::Down);
        let accused = |output: &Output| {
            matches!(output, Output::Peer { node, state, .. }
                if is_blame(*state) && node.generation != Generation(102))
        };
        let accusations: Vec<_> = network.events.iter().filter(|(_, output)| accused(output)).collect();
        assert!(accusations.is_empty(), "after {still_ms} ms: {accusations:?}");
        network.run(10_000);
        network.assert_whole();
        assert!(network.nodes[&2].counts().stalls > 0);
    }
}

#[test]
fn a_node_killed_for_good_is_down_by_both_witnesses() {
    let mut network = Network::new(4);
    network.run(3_000);
    network.kill(4);
    network.run(1);
    assert!(network.states(1).contains(&(4, PeerState::LinkDown)), "the link alone kills nobody");
    network.run(12_000);
    for port in 1..=3 {
        assert_eq!(network.reports(port, 104, PeerState::Down), 1);
    }
}

#[test]
fn a_lease_that_ended_is_for_good() {
    let mut network = Network::new(3);
    network.run(3_000);
    let now = network.now;
    network.nodes.get_mut(&1).expect("it runs").handle(Input::LeaseEnded(Generation(102)), now);
    network.run(5_000);
    assert!(network.states(1).contains(&(2, PeerState::Dead)));
    let node = network.nodes[&2].own().node;
    let now = network.now;
    let first = network.nodes.get_mut(&1).expect("it runs");
    first.handle(Input::LinkUp { node, start: 1_000 }, now);
    let outputs: Vec<_> = std::iter::from_fn(|| first.poll_output()).collect();
    assert!(outputs.contains(&Output::Refuse { node, goodbye: Goodbye::GenerationDead }));
    let second = network.nodes.get_mut(&2).expect("it runs");
    second.handle(Input::LinkEnded { generation: Generation(101), goodbye: Some(Goodbye::GenerationDead) }, now);
    assert!(std::iter::from_fn(|| second.poll_output()).any(|output| output == Output::OwnGenerationDead));
}

#[test]
fn the_65th_member_stays_outside() {
    let mut node = Membership::new(life(1, 1, 1_000), Tick(0));
    for n in 0..80_u16 {
        let own = SwimId { node: life(2 + n, 100 + u32::from(n), 1).node, start: 1 };
        let header = foca::Header { src: own, src_incarnation: 0, dst: node.own(), message: Message::Gossip };
        // Each mentions another one, too.
        let other = SwimId { node: life(1_000 + n, 1_000 + u32::from(n), 1).node, start: 1 };
        let message = SwimMessage { header, members: Some(vec![Member::alive(other)]) };
        node.handle(Input::Swim(&message.encode()), Tick(0));
    }
    assert_eq!(node.peers().count(), MEMBERS_MAX - 1);
    assert!(node.counts().over_members_max >= 40);
    let late = NodeId { generation: Generation(7_777), address: address(7_777) };
    node.handle(Input::LinkUp { node: late, start: 1 }, Tick(0));
    let refused = Output::Refuse { node: late, goodbye: Goodbye::Full };
    assert!(std::iter::from_fn(|| node.poll_output()).any(|output| output == refused));
}

#[test]
fn a_suspicion_that_the_suspect_has_not_heard_of_is_refuted() {
    let mut network = Network::new(3);
    network.run(3_000);
    // Somebody who is not there any more has told node 1.
    let suspect = Member::new(network.nodes[&2].own(), 0, State::Suspect);
    let now = network.now;
    let first = network.nodes.get_mut(&1).expect("it runs");
    let mut runtime = AccumulatingRuntime::new();
    first.foca.apply_many([suspect].into_iter(), false, &mut runtime).expect("it is believed");
    first.collect(&mut runtime, now);
    first.judge(now);
    assert!(network.states(1).contains(&(2, PeerState::Suspected)));
    network.run(3_000);
    network.assert_whole();
}

#[test]
fn nonsense_is_counted() {
    let mut node = Membership::new(life(1, 1, 1_000), Tick(0));
    node.handle(Input::Swim(b"nonsense"), Tick(0));
    node.handle(Input::Swim(b""), Tick(0));
    assert_eq!(node.counts().malformed, 2);
}
