//! One world: nodes, the network between them, their store, and time.

mod wires;

use super::devices::{self, Connection, Device};
use super::disk::{Disk, DiskBug};
use super::ledger::Ledger;
use super::model::{Left, Model};
use super::network::{CALLS, Network};
use super::node::{Effect, Mistakes, Node};
use super::seen::Seen;
use super::store::{Answer, Command, Store, StoreBug};
use super::{chaos, checks, clients, commits, stops};
use rainbow::base::id::{ConnKey, Generation, Identity, NodeId};
use rainbow::base::keyed_hash::HashKey;
use rainbow::base::rng::Rng;
use rainbow::base::time::Tick;
use rainbow::cluster::directory::waiting::Outcome;
use rainbow::cluster::membership::Founding;
use rainbow::cluster::ownership::claims::{ClaimAnswer, OwnershipCommand, SessionName, Token, WriteAnswer};
use rainbow::cluster::ownership::lease::LEASE_MS;
use rainbow::store::Response;
use rainbow::wire::peer::frame::Hello;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

/// What a world is made of.
#[derive(Clone, Copy, Default)]
pub struct Plan {
    pub mistakes: Mistakes,
    pub store_bug: Option<StoreBug>,
    pub disk_bug: Option<DiskBug>,
    /// `None`: as the seed decides.
    pub sharing: Option<Sharing>,
    /// Disks: the nodes begin in two parts.
    pub apart: bool,
    pub talks: bool,
}

/// Where the sessions of all nodes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    Redis,
    Disks,
}

#[derive(Debug)]
pub enum Event {
    Wake {
        life: Generation,
        at: Tick,
    },
    Datagram {
        to: u16,
        from: u16,
        message: Vec<u8>,
    },
    LinkUp {
        life: Generation,
        hello: Hello,
        link: u64,
        is_dialed: bool,
    },
    DialFailed {
        life: Generation,
        peer: Generation,
    },
    LinkBroken {
        life: Generation,
        link: u64,
    },
    Frame {
        life: Generation,
        link: u64,
        bytes: Vec<u8>,
    },
    Command {
        life: Generation,
        command: Command,
        epoch: u64,
    },
    Answer {
        life: Generation,
        answer: Answer,
        epoch: u64,
    },
    HookAnswer {
        life: Generation,
        identity: Identity,
        is_done: bool,
    },
    Flushed {
        life: Generation,
        name: SessionName,
        token: Token,
    },
    /// A disk writes what waits.
    Commit {
        life: Generation,
    },
    Stored {
        life: Generation,
        responses: Vec<Response>,
    },
    Down {
        id: usize,
        bytes: Vec<u8>,
    },
    Up {
        id: usize,
        bytes: Vec<u8>,
    },
    SocketEnded {
        id: usize,
    },
    Device {
        device: usize,
    },
    Caller {
        device: usize,
        turn: u64,
    },
    Start {
        port: u16,
    },
    Chaos,
    Clients,
    Copy,
    Flap {
        is_cut: bool,
    },
    Resume {
        port: u16,
    },
    Stop {
        life: Generation,
        until: Tick,
    },
}

/// A place where processes of one address run, one after the other.
#[derive(Default)]
pub struct Slot {
    pub node: Option<Node>,
    pub still_since: Tick,
    pub still_until: Tick,
    /// What came while it stood still.
    parked: Vec<Event>,
    wake_at: Option<Tick>,
    start: u64,
}

pub struct World {
    pub rng: Rng,
    pub now: Tick,
    pub queue: BTreeMap<(Tick, u64), Event>,
    order: u64,
    pub slots: BTreeMap<u16, Slot>,
    ports: BTreeMap<Generation, u16>,
    pub network: Network,
    pub store: Store,
    pub model: Model,
    pub disks: BTreeMap<u16, Disk>,
    pub ledger: Ledger,
    pub devices: Vec<Device>,
    pub connections: Vec<Connection>,
    pub keys: HashMap<(Generation, ConnKey), usize>,
    pub tokens: u64,
    pub seen: Seen,
    plan: Plan,
    lives: u32,
    identities: u64,
    /// When something was last disturbed.
    pub disturbed: Tick,
    pub loss_percent: u64,
}

impl World {
    pub fn new(seed: u64, plan: Plan) -> World {
        let mut rng = Rng::new(seed);
        let nodes = 3 + rng.below(5) as u16;
        let mut world = World {
            rng,
            now: Tick(1_000_000),
            queue: BTreeMap::new(),
            order: 0,
            slots: (1..=nodes).map(|port| (port, Slot::default())).collect(),
            ports: BTreeMap::new(),
            network: Network::default(),
            store: Store { bug: plan.store_bug, ..Store::default() },
            model: Model::default(),
            disks: BTreeMap::new(),
            ledger: Ledger::default(),
            devices: Vec::new(),
            connections: Vec::new(),
            keys: HashMap::new(),
            tokens: 0,
            seen: Seen::default(),
            plan,
            lives: 0,
            identities: 0,
            disturbed: Tick(1_000_000),
            loss_percent: 0,
        };
        for port in 1..=nodes {
            world.push_in(u64::from(port) * 3, Event::Start { port });
        }
        let by_seed = if seed.is_multiple_of(2) { Sharing::Redis } else { Sharing::Disks };
        if plan.sharing.unwrap_or(by_seed) == Sharing::Disks {
            world.disks = (1..=nodes).map(|port| (port, Disk::new(plan.disk_bug))).collect();
            devices::begin(&mut world);
            if world.rng.chance(30) || plan.apart {
                // Nodes that have never seen each other.
                chaos::cut_in_two(&mut world);
            }
        }
        world.push_in(500, Event::Clients);
        world.push_in(1_500, Event::Chaos);
        world.push_in(700, Event::Copy);
        world
    }

    /// Half a minute of faults, then none: everybody agrees within ten seconds, and all is cleared up later.
    pub fn run(mut self) -> Seen {
        self.run_until(Tick(1_000_000) + CHAOS_MS);
        chaos::end(&mut self);
        self.run_until(self.now + AGREEMENT_MS);
        checks::agreement(&mut self);
        self.run_until(self.now + CLEARING_MS);
        match self.has_disks() {
            true => checks::cleared_disks(&self),
            false => checks::cleared(&self),
        }
        self.seen
    }

    fn run_until(&mut self, until: Tick) {
        while let Some((&(at, order), _)) = self.queue.first_key_value()
            && at <= until
        {
            let event = self.queue.remove(&(at, order)).expect("the first");
            self.now = self.now.max(at);
            self.dispatch(event);
        }
        self.now = until;
    }

    /// Each node has a disk of its own.
    pub fn has_disks(&self) -> bool {
        !self.disks.is_empty()
    }

    pub fn is_over(&self) -> bool {
        self.now >= Tick(1_000_000) + CHAOS_MS
    }

    pub fn push(&mut self, at: Tick, event: Event) {
        self.order += 1;
        self.queue.insert((at, self.order), event);
    }

    pub fn push_in(&mut self, ms: u64, event: Event) {
        self.push(self.now + ms, event);
    }

    pub fn say(&self, what: impl FnOnce() -> String) {
        if self.plan.talks {
            println!("{:>8} {}", self.now.0 - 1_000_000, what());
        }
    }

    pub fn port_of(&self, life: Generation) -> u16 {
        self.ports[&life]
    }

    /// The node of this life, if it runs.
    pub fn node(&self, life: Generation) -> Option<&Node> {
        let node = self.slots[self.ports.get(&life)?].node.as_ref()?;
        (node.generation() == life).then_some(node)
    }

    pub fn running(&self) -> Vec<Generation> {
        self.slots.values().filter_map(|slot| slot.node.as_ref().map(Node::generation)).collect()
    }

    /// Where clients are let in.
    pub fn welcoming(&self) -> Vec<Generation> {
        let is_welcoming =
            |life: &Generation| !self.is_still(*life) && self.node(*life).is_some_and(|node| !node.stops());
        self.running().into_iter().filter(is_welcoming).collect()
    }

    pub fn is_still(&self, life: Generation) -> bool {
        self.slots[&self.ports[&life]].still_until > self.now
    }

    // ---- events ----

    fn dispatch(&mut self, event: Event) {
        let life = match &event {
            Event::Wake { life, .. }
            | Event::LinkUp { life, .. }
            | Event::LinkBroken { life, .. }
            | Event::DialFailed { life, .. }
            | Event::Frame { life, .. }
            | Event::Answer { life, .. }
            | Event::HookAnswer { life, .. }
            | Event::Commit { life }
            | Event::Stored { life, .. }
            | Event::Flushed { life, .. } => Some(*life),
            Event::Up { id, .. } | Event::SocketEnded { id } => Some(self.connections[*id].life),
            Event::Datagram { to, .. } => match &self.slots[to].node {
                Some(node) => Some(node.generation()),
                None => return,
            },
            _ => None,
        };
        match life {
            None => self.on_world(event),
            Some(life) if self.node(life).is_none() || self.is_stale_wake(&event) => {}
            Some(life) if self.is_still(life) => {
                let port = self.port_of(life);
                self.slots.get_mut(&port).expect("its slot").parked.push(event);
            }
            Some(life) => self.on_node(life, event),
        }
    }

    fn on_world(&mut self, event: Event) {
        match event {
            Event::Start { port } => self.start(port),
            Event::Command { life, command, epoch } => self.carry_out(life, command, epoch),
            Event::Chaos => chaos::strike(self),
            Event::Clients => clients::act(self),
            Event::Flap { is_cut } => chaos::on_flap(self, is_cut),
            Event::Resume { port } => self.resume(port),
            Event::Stop { life, until } => stops::go_on(self, life, until),
            Event::Down { id, bytes } => devices::on_down(self, id, &bytes),
            Event::Device { device } => devices::act(self, device),
            Event::Caller { device, turn } => devices::call(self, device, turn),
            Event::Copy => {
                self.store.copy = self.store.records.clone();
                self.push_in(2_000, Event::Copy);
            }
            _ => unreachable!("it is of a node"),
        }
    }

    /// An earlier one has taken its place.
    fn is_stale_wake(&self, event: &Event) -> bool {
        matches!(event, Event::Wake { life, at } if self.slots[&self.port_of(*life)].wake_at != Some(*at))
    }

    /// Everything that came meanwhile is there, in order.
    fn resume(&mut self, port: u16) {
        let slot = self.slots.get_mut(&port).expect("its slot");
        if slot.still_until <= self.now {
            let parked = std::mem::take(&mut slot.parked);
            parked.into_iter().for_each(|event| self.push(self.now, event));
        }
    }

    fn on_node(&mut self, life: Generation, event: Event) {
        let now = self.now;
        match event {
            Event::Commit { .. } => return commits::commit(self, life),
            Event::Up { id, bytes } => return devices::on_up(self, id, bytes),
            Event::SocketEnded { id } => return devices::on_socket_ended(self, id),
            _ => {}
        }
        self.with(life, |world, node| match event {
            Event::Wake { .. } => {
                world.slots.get_mut(&world.ports[&life]).expect("its slot").wake_at = None;
                node.wake(now);
            }
            Event::Datagram { message, from, .. } => node.on_datagram(&message, address_of(from), now),
            Event::LinkUp { hello, link, is_dialed, .. } => {
                world.seen.count("link up");
                world.say(|| format!("{life} has link {link} to {}", hello.node.generation));
                node.link_up(&hello, link, is_dialed, now);
            }
            Event::DialFailed { peer, .. } => node.dial_failed(peer, now),
            Event::LinkBroken { link, .. } => node.link_broken(link, now),
            Event::Frame { link, bytes, .. } => {
                let (number, is_call) = (link % CALLS, link >= CALLS);
                match node.has_link(number) {
                    true if is_call => node.receive_call(number, &bytes, now),
                    true => node.receive(number, &bytes, now),
                    false => {}
                }
            }
            Event::Answer { answer, epoch, .. } => world.on_answer(node, answer, epoch),
            Event::HookAnswer { identity, is_done, .. } => {
                world.model.hook_ended(&identity, life);
                node.on_hook(identity, is_done, now);
            }
            Event::Flushed { name, token, .. } => node.claims.on_flushed(&name, token),
            Event::Stored { responses, .. } => node.serving().on_stored(responses, now),
            _ => unreachable!("it is of the world"),
        });
    }

    /// Does something with a node, and carries out what follows.
    pub fn with(&mut self, life: Generation, act: impl FnOnce(&mut World, &mut Node)) {
        let port = self.port_of(life);
        self.seen.count("event");
        let mut node = self.slots.get_mut(&port).expect("its slot").node.take().expect("it runs");
        // What is due comes first, whatever else there is.
        if node.next_tick() <= self.now {
            node.wake(self.now);
        }
        act(self, &mut node);
        // A link may be slow.
        let frames = self.rng.below(5) as usize;
        let effects = node.take_effects(frames, self.now);
        let pull_at = if node.wants_pull() { self.now + 1 + self.rng.below(20) } else { Tick::NEVER };
        let next = node.next_tick().max(self.now + 1).min(pull_at);
        self.slots.get_mut(&port).expect("its slot").node = Some(node);
        self.wake_at(life, next);
        for effect in effects {
            if self.node(life).is_some() {
                self.effect(life, effect);
            }
        }
    }

    fn wake_at(&mut self, life: Generation, at: Tick) {
        let port = self.port_of(life);
        let slot = self.slots.get_mut(&port).expect("its slot");
        if at < Tick::NEVER && slot.wake_at.is_none_or(|earlier| at < earlier) {
            slot.wake_at = Some(at);
            self.push(at, Event::Wake { life, at });
        }
    }

    fn start(&mut self, port: u16) {
        if self.slots[&port].node.is_some() {
            return;
        }
        self.lives += 1;
        let generation = Generation(self.lives * 1_000 + u32::from(port));
        // Its clock may have gone back.
        let slot_start = self.slots[&port].start;
        let clock = if self.rng.chance(20) { 0 } else { self.now.0 };
        let start = if self.rng.chance(50) { clock.max(slot_start + 1) } else { clock };
        let node = NodeId { generation, address: address_of(port) };
        // Node clocks an hour apart change nothing.
        let ahead_s = if self.rng.chance(30) { 3_600 } else { 0 };
        let founding = Founding { node, start, seed: self.rng.next_u64() };
        let opened = self.disks.get_mut(&port).map(|disk| disk.open(generation, self.now));
        let slot = self.slots.get_mut(&port).expect("its slot");
        let store = (self.store.epoch, opened);
        slot.node = Some(Node::new(founding, self.plan.mistakes, store, ahead_s, self.now));
        (slot.start, slot.wake_at, slot.still_until) = (start, None, Tick(0));
        self.ports.insert(generation, port);
        self.say(|| format!("{generation} starts at {port}"));
        let now = self.now;
        let seeds = if port == 1 { [2, 3] } else { [1, 2] };
        self.with(generation, |_, node| {
            seeds.iter().for_each(|port| node.on_seed(address_of(*port), now));
        });
    }

    /// The process ends without a word.
    pub fn crash(&mut self, life: Generation) {
        let port = self.port_of(life);
        self.say(|| format!("{life} crashes"));
        self.note_left(life);
        if let Some(disk) = self.disks.get_mut(&port) {
            disk.crash();
        }
        devices::on_crash(self, life);
        let node = self.slots.get_mut(&port).expect("its slot").node.take().expect("it runs");
        self.model.life_ended(life);
        for (link, peer) in node.links() {
            // The system resets its connections, unless the machine is gone.
            if self.network.passes(port, self.port_of(peer)) && self.rng.chance(70) {
                let event = Event::LinkBroken { life: peer, link };
                self.push_in(1 + self.order % 3, event);
            }
        }
    }

    /// Who was linked to it must go on knowing what is there, until others have taken it over.
    fn note_left(&mut self, life: Generation) {
        let witnesses = self.running().into_iter().filter(|other| *other != life && self.are_linked(life, *other));
        let witnesses: BTreeSet<Generation> = witnesses.collect();
        let channels = self.model.open.iter().filter(|(of, _)| *of == life).map(|(_, channel)| *channel);
        let channels = channels.collect();
        self.model.open.retain(|(of, _)| *of != life);
        self.model.left.insert(life, Left { channels, witnesses });
    }

    /// Both sides think so, of the same link.
    pub fn are_linked(&self, one: Generation, other: Generation) -> bool {
        let link = |from, to| self.node(from).and_then(|node| node.link_to(to));
        let here = link(one, other);
        here.is_some() && here == link(other, one)
    }

    // ---- what nodes do ----

    pub fn effect(&mut self, life: Generation, effect: Effect) {
        match effect {
            Effect::Datagram { to, message } => self.send_datagram(life, to.port(), message),
            Effect::Broadcast { message } => {
                let ports: Vec<u16> = self.slots.keys().copied().collect();
                ports.into_iter().for_each(|to| self.send_datagram(life, to, message.clone()));
            }
            Effect::Frame { link, to, bytes } => self.send_frame(life, link, to, bytes),
            Effect::CallFrame { link, to, bytes } => self.send_frame(life, link + CALLS, to, bytes),
            Effect::Store(request) => commits::store_soon(self, life, request),
            Effect::Down { key, bytes } => devices::send_down(self, (life, key), bytes),
            Effect::Refused(key) => devices::on_refused(self, (life, key)),
            Effect::Called { number, reply } => devices::on_called(self, life, number, reply),
            Effect::Acknowledged(name) => self.ledger.check_owner(&self.disks, self.port_of(life), &name),
            Effect::Connect(node) => self.connect(life, node),
            Effect::CloseLink { link, peer } => self.close_link(life, link, peer),
            Effect::Command(command) => {
                let epoch = self.node(life).expect("it runs").store_epoch;
                self.push_in(1, Event::Command { life, command, epoch });
            }
            Effect::Hook { identity, key } => self.call_hook(life, identity, &key),
            Effect::Flush { name, token } => {
                let ms = if self.rng.chance(10) { 1_500 } else { self.rng.below(30) };
                self.push_in(ms, Event::Flushed { life, name, token });
            }
            Effect::Open { channel, outcome } => self.on_open(life, channel, outcome),
            Effect::Left => stops::end(self, life),
            Effect::Fenced => self.seen.count("fenced"),
            Effect::AddressConflict(one, other) => {
                panic!("{life:?} says that {one:?} and {other:?} run with one address")
            }
            Effect::Restart => {
                self.seen.count("own generation dead");
                let port = self.port_of(life);
                self.crash(life);
                self.push_in(10, Event::Start { port });
            }
            Effect::Buried => self.seen.count("dead life finished"),
            Effect::Adopted(dead) => {
                if let Some(left) = self.model.left.get_mut(&dead) {
                    left.witnesses.remove(&life);
                }
            }
        }
    }

    fn call_hook(&mut self, life: Generation, identity: Identity, key: &str) {
        let is_calm = self.now.since_ms(self.disturbed) > 8_000;
        let is_done = self.is_over() || !self.rng.chance(20);
        // A hook that fails may have been carried out.
        if is_done || self.rng.chance(50) {
            let is_first = self.model.hook(&identity, life, key, is_calm);
            self.seen.count(if is_first { "close reported by a survivor" } else { "close reported again" });
        }
        if !is_done {
            self.seen.count("hook failed");
        }
        let ms = 1 + self.rng.below(200);
        self.push_in(ms, Event::HookAnswer { life, identity, is_done });
    }

    fn on_open(&mut self, life: Generation, channel: u64, outcome: Outcome) {
        if outcome == Outcome::TimedOut {
            return self.seen.count("open, late");
        }
        self.seen.count("open");
        self.model.open.insert((life, channel));
        for other in self.running() {
            self.check_reach(other, life, channel);
        }
    }

    /// A send from `from` must look at a node that has this channel.
    pub fn check_reach(&mut self, from: Generation, node: Generation, channel: u64) {
        if from == node || self.is_still(from) || !self.are_linked(from, node) {
            return;
        }
        let knows = self.node(from).is_some_and(|other| other.is_interested(node, hash_of(channel)));
        assert!(knows, "{from} does not know that {node} has channel {channel}");
        self.seen.count("send reaches");
    }

    // ---- the store ----

    fn carry_out(&mut self, life: Generation, command: Command, epoch: u64) {
        let ms = 1 + self.rng.below(3);
        if epoch != self.store.epoch || self.now < self.store.away_until {
            // It may have been carried out, and the answer lost.
            if epoch == self.store.epoch && self.rng.chance(20) {
                let answer = self.store.carry_out(life, command.clone(), self.now);
                self.note_claim(life, &answer);
            }
            let event = Event::Answer { life, answer: Store::no_answer(command), epoch };
            return self.push_in(300, event);
        }
        let answer = self.store.carry_out(life, command.clone(), self.now);
        self.store.arrives(life, &answer);
        if !matches!(command, Command::Renew | Command::Write { .. }) {
            self.say(|| format!("{life}: {command:?}: {answer:?}"));
        }
        self.note_claim(life, &answer);
        if let (Command::Write { name, token }, Answer::Write { answer: WriteAnswer::Stored, .. }) = (&command, &answer)
        {
            self.model.check_write(name, life, *token);
            self.seen.count("write acknowledged");
        }
        if let (Command::Claims(OwnershipCommand::Claim { .. }), Answer::Claim { .. }) = (&command, &answer) {
            self.seen.count("claimed");
        }
        if let Answer::Buried { node, is_buried: true } = answer {
            self.check_buried(node);
        }
        self.push_in(ms, Event::Answer { life, answer, epoch });
    }

    /// By the store's word a node is dead; it may stand still, and not know it.
    fn check_buried(&mut self, dead: Generation) {
        // One that has said goodbye wants nothing more of its lease.
        let is_well = self.node(dead).is_some_and(|node| !node.stops())
            && self.slots[&self.port_of(dead)].still_until + LEASE_MS < self.now;
        assert!(!is_well, "{dead} lives and is buried");
        self.model.life_ended(dead);
    }

    fn note_claim(&mut self, life: Generation, answer: &Answer) {
        match answer {
            Answer::Claim { name, token, answer: ClaimAnswer::Claimed } => {
                let before = self.model.claimed(name, life, *token);
                let Some((owner, taken)) = before.filter(|(owner, _)| *owner != life) else { return };
                let slot = &self.slots[&self.port_of(owner)];
                let stood_still = slot.still_until > self.now && self.now.since_ms(slot.still_since) > 1_100;
                if self.node(owner).is_some() && stood_still {
                    self.seen.count("taken by force");
                    self.model.forced.insert((name.clone(), owner, taken));
                }
            }
            Answer::Pass { name, answer: WriteAnswer::Stored, .. } => {
                self.model.passed(name, self.store.records.sessions[name]);
            }
            _ => {}
        }
    }

    fn on_answer(&mut self, node: &mut Node, answer: Answer, epoch: u64) {
        if epoch != self.store.epoch && node.store_epoch != self.store.epoch {
            node.on_store_reset(self.store.epoch);
        }
        if let Answer::Recorded { identity, is_stored: true } = &answer {
            // A failover may have taken the record away before this answer arrived.
            let is_lost = !self.store.records.connections.iter().any(|(_, known)| known == identity);
            self.model.connected(*identity, node.generation(), is_lost);
        }
        node.on_answer(answer, self.now);
    }

    /// A connection is let in once its record is written.
    pub fn open_connection(&mut self, life: Generation) {
        self.identities += 1;
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.rng.next_u64().to_be_bytes());
        bytes[8..16].copy_from_slice(&self.identities.to_be_bytes());
        self.effect(life, Effect::Command(Command::Record { identity: Identity(bytes) }));
    }
}

fn address_of(port: u16) -> SocketAddr {
    ([10, 0, 0, 1], port).into()
}

pub fn hash_of(channel: u64) -> u64 {
    HashKey::new(3, 5).hash(&format!("channel/{channel}"))
}

const CHAOS_MS: u64 = 30_000;
pub const AGREEMENT_MS: u64 = 10_000;
const CLEARING_MS: u64 = 35_000;
