//! The state of the cluster's thread, and what it does with each output of the node.

use super::gossip::Gossip;
use super::link_queue::ControlLink;
use super::looked_for::LookedFor;
use super::port::{BatchNumber, ClusterPort, ClusterView, PeerEntry, ToCluster, ToWorker};
use super::secure::{LinkKind, LinkTerms};
use crate::base::id::{Generation, NodeId, ShardId};
use crate::base::keyed_hash::HashKey;
use crate::base::time::Tick;
use crate::cluster::directory::waiting::{Outcome, WaiterId};
use crate::cluster::membership::peer::{PeerState, Reason};
use crate::cluster::node::{LinkNumber, Node, NodeOutput};
use crate::cluster::ownership::adoption::{Orphan, OrphanPage};
use crate::cluster::ownership::claims::Token;
use crate::cluster::ownership::reaper::{Reaper, ReaperOutput, StoredNode};
use crate::io::log::interval::LogInterval;
use crate::io::runtime::clock;
use crate::io::runtime::deadlines::Deadlines;
use crate::io::runtime::mailbox::MailboxReceiver;
use crate::io::runtime::notify::Notify;
use crate::io::runtime::oneshot::OneshotId;
use crate::io::store::thread::{NodeCommand, NodeReport};
use crate::store::{ConnectionRecord, MetNode, NodeRecord, OrphanedSessions};
use std::cell::{Cell, Ref, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Display;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use tracing::{debug, error, info, warn};

/// What the thread is started with.
pub struct ClusterSetup {
    pub node: Node,
    pub gossip: Gossip,
    pub port: Arc<ClusterPort>,
    pub mailbox: MailboxReceiver<ToCluster>,
    pub workers: usize,
    /// Gives the message back when the worker's mailbox is full.
    pub to_worker: Box<dyn Fn(ShardId, ToWorker) -> Result<(), ToWorker>>,
    /// The others hold this life of the node for dead.
    pub on_dead: Box<dyn Fn()>,
    pub has_seeds: bool,
    /// `None`: nobody shares a store.
    pub store: Option<StoreLink>,
    /// Nodes that an earlier life of this one has met: what concerns them is looked for until they are there.
    pub met: Vec<MetNode>,
}

/// How the thread speaks with a store that all nodes use.
pub struct StoreLink {
    /// False when there is no room now.
    pub command: Box<dyn Fn(NodeCommand) -> bool>,
    /// For names of sessions.
    pub hash_key: HashKey,
    /// The worker that owns the session of a name.
    pub owner: Box<dyn Fn(&str) -> ShardId>,
}

/// Everything of this thread.
pub struct Cluster {
    node: RefCell<Node>,
    gossip: Gossip,
    port: Arc<ClusterPort>,
    mailbox: MailboxReceiver<ToCluster>,
    workers: usize,
    to_worker: Box<dyn Fn(ShardId, ToWorker) -> Result<(), ToWorker>>,
    on_dead: Box<dyn Fn()>,
    has_seeds: bool,
    store: Option<StoreLink>,
    reaper: RefCell<Reaper>,
    /// How often the store was away, as far as the reaper knows.
    gaps: Cell<u64>,
    /// The store was asked, and knows which nodes there are.
    knows_store: Cell<bool>,
    looked_for: RefCell<LookedFor>,
    /// What the store's thread has had no room for.
    commands: RefCell<VecDeque<NodeCommand>>,
    deadlines: Rc<Deadlines>,
    links: RefCell<BTreeMap<LinkNumber, Rc<ControlLink>>>,
    last_link: Cell<u64>,
    waiters: RefCell<Waiters>,
    /// Messages to workers that have found no room.
    backlog: RefCell<VecDeque<(ShardId, ToWorker)>>,
    has_new_peers: Cell<bool>,
    is_ready: Cell<bool>,
    started: Tick,
    /// The log says that nobody is there.
    has_reported_alone: Cell<bool>,
    /// Nodes to be dialed.
    dials: RefCell<Vec<NodeId>>,
    dial_due: Notify,
    left: Notify,
    rearm: Notify,
    clocks: LogInterval,
    refused: LogInterval,
    old_nodes: LogInterval,
}

#[derive(Default)]
struct Waiters {
    last: u64,
    by_id: BTreeMap<WaiterId, Waiter>,
}

/// Who waits until the peers know of channels.
enum Waiter {
    Batch { worker: ShardId, number: BatchNumber },
    Call { worker: ShardId, oneshot: OneshotId },
}

impl Cluster {
    pub fn new(setup: ClusterSetup, now: Tick) -> Cluster {
        let ClusterSetup { node, gossip, port, mailbox, workers, to_worker, on_dead, has_seeds, store, met } = setup;
        let own = node.own().generation;
        Cluster {
            node: RefCell::new(node),
            gossip,
            port,
            mailbox,
            workers,
            to_worker,
            on_dead,
            has_seeds,
            reaper: RefCell::new(Reaper::new(own)),
            gaps: Cell::new(0),
            knows_store: Cell::new(store.is_none()),
            store,
            looked_for: RefCell::new(LookedFor::new(&met)),
            commands: RefCell::default(),
            deadlines: Rc::new(Deadlines::new(now)),
            links: RefCell::default(),
            last_link: Cell::new(0),
            waiters: RefCell::default(),
            backlog: RefCell::default(),
            // Who was met is missed from the start.
            has_new_peers: Cell::new(!met.is_empty()),
            is_ready: Cell::new(false),
            started: now,
            has_reported_alone: Cell::new(false),
            dials: RefCell::default(),
            dial_due: Notify::default(),
            left: Notify::default(),
            rearm: Notify::default(),
            clocks: LogInterval::default(),
            refused: LogInterval::default(),
            old_nodes: LogInterval::default(),
        }
    }

    pub fn gossip(&self) -> &Gossip {
        &self.gossip
    }

    pub fn port(&self) -> &ClusterPort {
        &self.port
    }

    pub fn mailbox(&self) -> &MailboxReceiver<ToCluster> {
        &self.mailbox
    }

    /// This node has left its cluster.
    pub async fn left(&self) {
        self.left.notified().await;
    }

    /// Something is due earlier than was known.
    pub async fn rearmed(&self) {
        self.rearm.notified().await;
    }

    /// The next nodes to be dialed.
    pub async fn dials(&self) -> Vec<NodeId> {
        self.dial_due.notified().await;
        std::mem::take(&mut *self.dials.borrow_mut())
    }

    /// When `on_time` is due.
    pub fn next_tick(&self, now: Tick) -> Tick {
        let due = self.node.borrow().next_tick().min(self.deadlines.next_poll().unwrap_or(Tick::NEVER));
        let due = due.min(self.reaper.borrow().next_tick());
        let has_backlog = !self.backlog.borrow().is_empty() || !self.commands.borrow().is_empty();
        let latest = if has_backlog { BACKLOG_RETRY_MS } else { SLEEP_MAX_MS };
        due.min(now + latest)
    }

    pub fn deadlines(&self) -> &Rc<Deadlines> {
        &self.deadlines
    }

    pub fn terms(&self) -> LinkTerms {
        LinkTerms { kind: LinkKind::Control, ..self.port.terms().clone() }
    }

    /// The node, for looking.
    pub fn node(&self) -> Ref<'_, Node> {
        self.node.borrow()
    }

    /// Gives the node something, and carries out what follows.
    pub fn act(&self, input: impl FnOnce(&mut Node, Tick, u64)) {
        let due = {
            let mut node = self.node.borrow_mut();
            let before = node.next_tick();
            input(&mut node, clock::monotonic(), clock::unix_s());
            node.next_tick() < before
        };
        self.carry_out();
        if due {
            self.rearm.notify();
        }
    }

    pub fn rearm(&self) {
        self.rearm.notify();
    }

    /// A link whose handshake is done.
    pub fn add_link(&self, link: Rc<ControlLink>) -> LinkNumber {
        let number = LinkNumber(self.last_link.get() + 1);
        self.last_link.set(number.0);
        self.links.borrow_mut().insert(number, link);
        number
    }

    pub fn remove_link(&self, number: LinkNumber) {
        self.links.borrow_mut().remove(&number);
    }

    pub fn pull(&self, number: LinkNumber, out: &mut Vec<u8>) {
        self.node.borrow_mut().pull(number, PULLED_BYTES, out);
    }

    /// A link that was not made, for whatever reason: said now and then.
    pub fn log_refused(&self, with: &dyn Display, why: &dyn Display) {
        debug!(with = %with, "no link between nodes: {why}");
        if let Some(count) = self.refused.due(clock::monotonic()) {
            warn!(with = %with, count, "no link between nodes: {why}");
        }
    }

    pub fn take_messages(&self) {
        self.take_store_reports();
        for _ in 0..MESSAGES_PER_TURN {
            let Some(message) = self.mailbox.try_recv() else { break };
            self.act(|node, now, unix_s| match message {
                ToCluster::Channels { worker, number, changes } => {
                    let has_new = changes.iter().any(|change| change.is_here);
                    changes.iter().for_each(|change| node.on_channel(change.hash, change.is_here));
                    if has_new {
                        node.wait(self.waiters.borrow_mut().insert(Waiter::Batch { worker, number }), now);
                    }
                    node.end_turn(now, unix_s);
                }
                ToCluster::Wait { worker, oneshot } => {
                    node.wait(self.waiters.borrow_mut().insert(Waiter::Call { worker, oneshot }), now);
                    node.end_turn(now, unix_s);
                }
                ToCluster::Seeds(addresses) => {
                    addresses.into_iter().for_each(|address| node.on_seed(address, now, unix_s));
                }
                ToCluster::Lives { node: peer, disk, lives } => {
                    self.looked_for.borrow_mut().meet(peer, disk, now);
                    self.end_lives(lives.into_iter().filter(|life| *life != peer));
                }
                ToCluster::Part(peer) => {
                    self.end_lives(std::iter::once(peer));
                    self.each_worker(|| ToWorker::Parted(peer));
                }
                ToCluster::Leave => node.leave(now, unix_s),
            });
        }
    }

    fn carry_out(&self) {
        loop {
            let output = self.node.borrow_mut().poll_output();
            let Some(output) = output else { break };
            self.carry_out_one(output);
        }
        if self.has_new_peers.take() {
            self.publish_peers();
        }
        self.look_ready();
    }

    fn carry_out_one(&self, output: NodeOutput) {
        match output {
            NodeOutput::Datagram { to, bytes } => self.gossip.send(to, &bytes),
            NodeOutput::Broadcast { bytes } => self.gossip.broadcast(&bytes),
            NodeOutput::Dial(node) => {
                self.dials.borrow_mut().push(node);
                self.dial_due.notify();
            }
            NodeOutput::Write { link, bytes } => self.with_link(link, |link| link.write(&bytes)),
            NodeOutput::Pull(link) => self.with_link(link, ControlLink::pull),
            NodeOutput::Close(link) => self.with_link(link, ControlLink::close),
            NodeOutput::Settled { waiter, outcome } => self.on_settled(waiter, outcome),
            NodeOutput::Peers => self.has_new_peers.set(true),
            NodeOutput::PeerChanged { node, state, reason } => {
                log_peer(node, state, reason);
                if state == PeerState::Dead && self.store.is_some() {
                    self.reaper.borrow_mut().on_gone(node.generation);
                    self.carry_out_reaping();
                }
            }
            NodeOutput::Refused { node, goodbye } => self.log_refused(&node, &format_args!("{goodbye:?}")),
            NodeOutput::ClockDiffers { sender, by_s } => {
                if self.clocks.due(clock::monotonic()).is_some() {
                    warn!(%sender, by_s, "a node's clock differs by more than a minute: its datagrams are not taken");
                }
            }
            NodeOutput::AddressConflict { one, other } => {
                error!(%one, %other, "two nodes run at one address: stop one of them (cluster_address)");
            }
            NodeOutput::Node2014(old) => {
                if self.old_nodes.due(clock::monotonic()).is_some() {
                    let (port, name) = (old.http_port, old.cluster_name);
                    warn!(port, name, "a node of 2014 is in this network: it cannot be a peer of this one");
                }
            }
            NodeOutput::OwnGenerationDead => (self.on_dead)(),
            NodeOutput::Left => self.left.notify(),
        }
    }

    fn with_link(&self, number: LinkNumber, act: impl FnOnce(&ControlLink)) {
        let link = self.links.borrow().get(&number).cloned();
        if let Some(link) = link {
            act(&link);
        }
    }

    fn on_settled(&self, waiter: WaiterId, outcome: Outcome) {
        match self.waiters.borrow_mut().by_id.remove(&waiter) {
            Some(Waiter::Batch { worker, number }) => self.send(worker, ToWorker::Known { number, outcome }),
            Some(Waiter::Call { worker, oneshot }) => self.send(worker, ToWorker::CallKnown { oneshot, outcome }),
            None => {}
        }
    }

    fn publish_peers(&self) {
        let peers = self.node.borrow().peers();
        let linked = peers.iter().filter(|peer| peer.is_linked).count();
        self.port.set_linked(linked as u32);
        // What workers told before they could see the link.
        if !self.mailbox.is_empty() {
            self.take_messages();
        }
        let entries: Arc<[PeerEntry]> = self.looked_for.borrow().entries(&peers).into();
        self.each_worker(|| ToWorker::Peers(entries.clone()));
        self.publish_view();
    }

    fn publish_view(&self) {
        let node = self.node.borrow();
        let peers = node.peers();
        let missed = self
            .looked_for
            .borrow()
            .entries(&peers)
            .into_iter()
            .filter(|entry| !entry.is_linked)
            .map(|entry| entry.node)
            .collect();
        self.port.set_view(ClusterView {
            peers,
            missed,
            rejections: node.rejections(),
            membership: node.membership().counts(),
            directory: node.directory().counts(),
            directory_bytes: node.directory().bytes(),
        });
    }

    fn look_ready(&self) {
        if !self.is_ready.get() && self.knows_store.get() && self.node.borrow().is_ready(clock::monotonic()) {
            self.is_ready.set(true);
            self.each_worker(|| ToWorker::Ready);
        }
    }

    /// Everything that is due.
    pub fn on_time(&self) {
        self.deadlines.poll(clock::monotonic());
        self.send_backlog();
        self.send_commands();
        self.act(|node, now, unix_s| node.handle_timers(now, unix_s));
        self.reaper.borrow_mut().handle_timers(clock::monotonic());
        self.carry_out_reaping();
        self.publish_view();
        let is_alone = self.node.borrow().peers().is_empty();
        if is_alone && !self.has_reported_alone.get() && clock::monotonic().since_ms(self.started) >= ALONE_MS {
            self.has_reported_alone.set(true);
            let port = self.gossip.discovery_port();
            let seeds = if self.has_seeds { "none of cluster_seeds answers" } else { "cluster_seeds is empty" };
            info!(
                address = %self.port.own().address, ?port,
                "no other node of this cluster has been found: nobody answers the broadcast, and {seeds}"
            );
        }
    }

    // ---- the store that all nodes use ----

    fn take_store_reports(&self) {
        for report in self.port.take_store_reports() {
            if let NodeReport::Leases { nodes: Some(nodes), .. } = &report {
                self.look_for(nodes);
            }
            let (mut reaper, now) = (self.reaper.borrow_mut(), clock::monotonic());
            match report {
                NodeReport::Reconnected { gaps } => {
                    self.gaps.set(gaps);
                    reaper.on_store_reset();
                }
                NodeReport::Leases { sent, nodes } => {
                    reaper.lease().sent(sent);
                    let stored = |record: &NodeRecord| StoredNode {
                        generation: record.generation,
                        remaining_ms: record.remaining_ms,
                        is_buried: record.is_buried,
                    };
                    let nodes: Option<Vec<StoredNode>> = nodes.map(|nodes| nodes.iter().map(stored).collect());
                    self.knows_store.set(self.knows_store.get() || nodes.is_some());
                    reaper.on_leases(nodes.as_deref(), now);
                }
                NodeReport::Buried { node, is_buried } => reaper.on_buried(node, is_buried, now),
                NodeReport::Orphans { node, page } => {
                    let page = page.map(|page| self.orphan_page(page));
                    reaper.on_orphans(node, page, &self.live(), now);
                }
                NodeReport::Connections { node, records } => {
                    reaper.on_taken(node, records.as_ref().map(Vec::len), now);
                    self.report_closes(records.unwrap_or_default());
                }
                NodeReport::Ended => {
                    error!("what lies in the store is not what this node has been told: it ends, to begin anew");
                    (self.on_dead)();
                }
            }
            drop(reaper);
            self.carry_out_reaping();
        }
        self.look_ready();
        self.rearm.notify();
    }

    /// The nodes that the store knows of, where neither broadcasts nor seeds lead to them. A hint: they have to prove
    /// that they are of this cluster, as all do.
    fn look_for(&self, nodes: &[NodeRecord]) {
        let own = self.port.generation();
        let live = nodes.iter().filter(|node| node.generation != own && node.remaining_ms > 0 && !node.is_buried);
        let addresses: Vec<SocketAddr> = live.filter_map(|node| node.address).collect();
        self.act(|node, now, unix_s| addresses.iter().for_each(|address| node.on_seed(*address, now, unix_s)));
    }

    /// Each worker gets its share.
    fn report_closes(&self, records: Vec<ConnectionRecord>) {
        let share = records.len().div_ceil(self.workers).max(1);
        for (worker, records) in records.chunks(share).enumerate() {
            self.send(ShardId(worker as u16), ToWorker::Closes(records.into()));
        }
    }

    fn orphan_page(&self, page: OrphanedSessions) -> OrphanPage {
        let key = self.store.as_ref().map(|store| store.hash_key);
        let hash = |name: &str| key.map_or(0, |key| key.hash(name));
        let orphan = |(name, token): (Arc<str>, Token)| Orphan { hash: hash(&name), name, token };
        OrphanPage { sessions: page.sessions.into_iter().map(orphan).collect(), next: page.next }
    }

    /// Who may adopt, as this node sees it.
    fn live(&self) -> Vec<Generation> {
        let node = self.node.borrow();
        let serves = |state| matches!(state, PeerState::Live | PeerState::Suspected);
        let peers = node.membership().peers().filter(|peer| serves(peer.state()));
        peers.map(|peer| peer.node().generation).chain([node.own().generation]).collect()
    }

    fn carry_out_reaping(&self) {
        let Some(store) = &self.store else { return };
        let mut adopted: BTreeMap<ShardId, Vec<(Arc<str>, Token)>> = BTreeMap::new();
        loop {
            let output = self.reaper.borrow_mut().poll_output();
            let Some(output) = output else { break };
            match output {
                ReaperOutput::Bury(node) => self.command(NodeCommand::Bury(node)),
                ReaperOutput::ReadOrphans { dead, from } => {
                    self.command(NodeCommand::ReadOrphans { node: dead, from });
                }
                ReaperOutput::Adopt { name, token } => {
                    adopted.entry((store.owner)(&name)).or_default().push((name, token));
                }
                ReaperOutput::Met(node) => self.set_unmet(node, true),
                ReaperOutput::Unknown(node) => self.set_unmet(node, false),
                ReaperOutput::Buried(node) => {
                    info!(%node, "a node has ended: the others take its sessions");
                    self.act(|core, now, unix_s| core.on_lease_ended(node, now, unix_s));
                }
                ReaperOutput::TakeConnections(node) => self.command(NodeCommand::TakeConnections(node)),
                ReaperOutput::Adopted(node) => {
                    info!(%node, "all sessions of a node that has ended have a new one");
                    self.set_unmet(node, false);
                    self.act(|core, now, unix_s| core.forget(node, now, unix_s));
                }
                ReaperOutput::Finished(node) => {
                    info!(%node, "nothing is left of a node that has ended");
                    self.command(NodeCommand::Forget { node, gaps: self.gaps.get() });
                }
            }
        }
        for (worker, sessions) in adopted {
            self.send(worker, ToWorker::Adopt(sessions.into()));
        }
    }

    /// These lives of nodes are over, and what they had is another one's or nobody's: they are looked for no longer.
    fn end_lives(&self, lives: impl Iterator<Item = Generation>) {
        self.looked_for.borrow_mut().end_lives(lives);
        self.has_new_peers.set(true);
    }

    fn set_unmet(&self, node: Generation, is_there: bool) {
        let has_changed = self.looked_for.borrow_mut().set_unmet(node, is_there);
        if has_changed {
            self.publish_peers();
        }
    }

    /// In the order in which they are given.
    fn command(&self, command: NodeCommand) {
        self.commands.borrow_mut().push_back(command);
        self.send_commands();
    }

    fn send_commands(&self) {
        let Some(store) = &self.store else { return };
        let mut commands = self.commands.borrow_mut();
        while commands.front().is_some_and(|command| (store.command)(*command)) {
            commands.pop_front();
        }
    }

    fn each_worker(&self, message: impl Fn() -> ToWorker) {
        (0..self.workers).for_each(|worker| self.send(ShardId(worker as u16), message()));
    }

    /// In the order in which they are sent.
    fn send(&self, worker: ShardId, message: ToWorker) {
        let mut backlog = self.backlog.borrow_mut();
        let is_behind = backlog.iter().any(|(other, _)| *other == worker);
        let message = if is_behind { Err(message) } else { (self.to_worker)(worker, message) };
        if let Err(message) = message {
            // A later list of peers takes the place of an earlier one: what waits is bounded by what workers wait for.
            if matches!(message, ToWorker::Peers(_)) {
                backlog.retain(|(other, waiting)| *other != worker || !matches!(waiting, ToWorker::Peers(_)));
            }
            backlog.push_back((worker, message));
            self.rearm.notify();
        }
    }

    fn send_backlog(&self) {
        let waiting = std::mem::take(&mut *self.backlog.borrow_mut());
        waiting.into_iter().for_each(|(worker, message)| self.send(worker, message));
    }
}

impl Waiters {
    fn insert(&mut self, waiter: Waiter) -> WaiterId {
        self.last += 1;
        self.by_id.insert(WaiterId(self.last), waiter);
        WaiterId(self.last)
    }
}

fn log_peer(node: NodeId, state: PeerState, reason: Reason) {
    match state {
        PeerState::Joining | PeerState::Suspected => debug!(%node, ?state, ?reason, "a node of the cluster"),
        PeerState::Live => info!(%node, ?reason, "a node of the cluster is linked"),
        PeerState::LinkDown => warn!(%node, ?reason, "the link to a node is down: calls name it as unreachable"),
        PeerState::Down => warn!(%node, ?reason, "a node of the cluster is down"),
        PeerState::Dead => info!(%node, ?reason, "a node has left the cluster"),
    }
}

const MESSAGES_PER_TURN: usize = 1_024;
/// Of the directory, for one write.
const PULLED_BYTES: usize = 64 << 10;
const ALONE_MS: u64 = 30_000;
const SLEEP_MAX_MS: u64 = 1_000;
const BACKLOG_RETRY_MS: u64 = 5;
