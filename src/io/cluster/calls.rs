//! A worker's part in the cluster: whom it may call and over which links, which of its channels the peers know, and who
//! waits for that.
//!
//! Each worker has one link to each node that is reachable, for its own calls. It dials it; the other end is a worker
//! of that node, which carries the calls out.

use super::port::{BatchNumber, ChannelChange, ClusterPort, PeerEntry, ToCluster, ToWorker};
use crate::base::id::{ConnKey, Generation, NodeId, ShardId};
use crate::base::keyed_hash::HashKey;
use crate::base::limits::Limits;
use crate::base::time::Tick;
use crate::cluster::calls::Call;
use crate::cluster::directory::waiting::Outcome;
use crate::cluster::ownership::grantors::{self, Seen};
use crate::cluster::ownership::union::Unions;
use crate::io::runtime::net;
use crate::io::runtime::notify::Notify;
use crate::io::runtime::oneshot::{Oneshot, Oneshots};
use crate::shard::QueryId;
use crate::wire::peer::frame::Frame;
use rustc_hash::FxHashSet;
use std::cell::{Cell, RefCell, RefMut};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;

/// Of one worker; empty where there is no cluster.
pub struct WorkerCluster {
    port: Option<Arc<ClusterPort>>,
    worker: ShardId,
    peers: RefCell<Arc<[PeerEntry]>>,
    links: RefCell<BTreeMap<Generation, Rc<CallLink>>>,
    /// Nodes that could not be dialed, and until when they are left alone.
    undialable: RefCell<BTreeMap<Generation, Tick>>,
    /// Links to be dialed.
    wanted: RefCell<Vec<Rc<CallLink>>>,
    dial_due: Notify,
    peers_due: Notify,
    /// Queues that have got something in this turn.
    due: RefCell<Vec<Rc<WriteQueue>>>,
    scratch: RefCell<Vec<u8>>,
    changes: RefCell<Vec<ChannelChange>>,
    /// Of the last batch with a new channel, and the last one that the peers know.
    sent: Cell<BatchNumber>,
    known: Cell<BatchNumber>,
    /// Clients that were let in this turn, and are subscribed.
    opened: RefCell<Vec<ConnKey>>,
    /// Those whose 101 waits until the peers know of their channels.
    corked: RefCell<VecDeque<Corked>>,
    waiters: Oneshots<Outcome>,
    is_ready: Cell<bool>,
    ready_waiters: Oneshots<()>,
    /// Sessions of names that other nodes have too.
    unions: RefCell<Unions>,
    unions_due: Notify,
    /// Those that wait until every peer that is there has said which disk it has.
    disk_waiters: Oneshots<()>,
    queue_bytes_max: usize,
}

struct Corked {
    until: BatchNumber,
    key: ConnKey,
    /// Should the cluster's thread say nothing.
    deadline: Tick,
}

/// A link to a node, for this worker's calls.
pub struct CallLink {
    node: NodeId,
    queue: Rc<WriteQueue>,
    /// Queries that have gone over it, or wait for it, and have not been answered.
    open: RefCell<FxHashSet<u64>>,
}

/// Frames that wait to be written to a link, by its one writer, once per turn.
#[derive(Default)]
pub struct WriteQueue {
    frames: RefCell<Vec<u8>>,
    is_due: Cell<bool>,
    has_ended: Cell<bool>,
    /// Of the link, while there is one.
    fd: Cell<Option<RawFd>>,
    wake: Notify,
}

/// A session by its name, among the channels that a node tells its peers of.
pub fn hash_of_session(key: HashKey, name: &str) -> u64 {
    // No channel's name begins so.
    key.hash(&format!("\0{name}"))
}

/// A call's part that was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreachable;

impl WriteQueue {
    /// What is to be written next; `None`: the link is to be ended.
    pub async fn next(&self) -> Option<Vec<u8>> {
        loop {
            if self.has_ended.get() {
                return None;
            }
            if !self.is_due.get() {
                let frames = std::mem::take(&mut *self.frames.borrow_mut());
                if !frames.is_empty() {
                    return Some(frames);
                }
            }
            self.wake.notified().await;
        }
    }

    pub fn len(&self) -> usize {
        self.frames.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.frames.borrow().is_empty()
    }

    /// Frames go to this socket from now on, until `end`.
    pub fn attach(&self, fd: RawFd) {
        self.fd.set(Some(fd));
    }

    /// Ends the link: its reads and writes end, however long they have waited. Before the socket is closed.
    pub fn end(&self) {
        self.has_ended.set(true);
        if let Some(fd) = self.fd.take() {
            net::shutdown(fd);
        }
        self.wake.notify();
    }
}

impl CallLink {
    pub fn node(&self) -> NodeId {
        self.node
    }

    pub fn queue(&self) -> &Rc<WriteQueue> {
        &self.queue
    }

    /// A query goes over it. False: it owes too many answers, and ends.
    fn owe(&self, query: QueryId) -> bool {
        if self.is_overdue() {
            self.queue.end();
            return false;
        }
        self.open.borrow_mut().insert(query.0);
        true
    }

    /// So many queries have not been answered, in their time or at all, that no more go over it.
    pub fn is_overdue(&self) -> bool {
        self.open.borrow().len() >= OWED_MAX
    }

    /// True for a query that has not been answered.
    pub fn answered(&self, query: QueryId) -> bool {
        self.open.borrow_mut().remove(&query.0)
    }

    /// Those that will not be answered any more.
    pub fn take_open(&self) -> Vec<QueryId> {
        self.open.borrow_mut().drain().map(QueryId).collect()
    }
}

impl WorkerCluster {
    pub fn new(port: Option<Arc<ClusterPort>>, worker: ShardId, limits: &Limits, now: Tick) -> WorkerCluster {
        WorkerCluster {
            is_ready: Cell::new(port.is_none()),
            port,
            worker,
            peers: RefCell::new(Arc::new([])),
            links: RefCell::default(),
            undialable: RefCell::default(),
            wanted: RefCell::default(),
            dial_due: Notify::default(),
            peers_due: Notify::default(),
            due: RefCell::default(),
            scratch: RefCell::default(),
            changes: RefCell::default(),
            sent: Cell::default(),
            known: Cell::default(),
            opened: RefCell::default(),
            corked: RefCell::default(),
            waiters: Oneshots::new(now),
            ready_waiters: Oneshots::new(now),
            unions: RefCell::default(),
            unions_due: Notify::default(),
            disk_waiters: Oneshots::new(now),
            queue_bytes_max: limits.link_queue_bytes_max,
        }
    }

    /// `None`: this node is alone by its configuration.
    pub fn port(&self) -> Option<&Arc<ClusterPort>> {
        self.port.as_ref()
    }

    // ---- peers and links ----

    pub fn peers(&self) -> Arc<[PeerEntry]> {
        self.peers.borrow().clone()
    }

    /// The peers have changed.
    pub async fn new_peers(&self) {
        self.peers_due.notified().await;
    }

    /// The peers, as far as it concerns who grants names.
    pub fn seen(&self) -> Vec<Seen> {
        self.peers.borrow().iter().map(Seen::from).collect()
    }

    /// For one statement.
    pub fn unions(&self) -> RefMut<'_, Unions> {
        self.unions.borrow_mut()
    }

    /// There may be something to be found sooner than was known.
    pub fn look_for_unions(&self) {
        self.unions_due.notify();
    }

    pub async fn unions_due(&self) {
        self.unions_due.notified().await;
    }

    /// Waits until the disks of all peers that are there are known. `None`: they are.
    pub fn disks_known(&self, now: Tick) -> Option<Oneshot<()>> {
        (!grantors::are_known(&self.seen())).then(|| self.disk_waiters.open((), now + DISKS_MS_MAX))
    }

    /// What waits to be written to a node, of this worker's calls.
    pub fn queued_bytes(&self, node: Generation) -> usize {
        self.links.borrow().get(&node).map_or(0, |link| link.queue.len())
    }

    pub fn has_peers(&self) -> bool {
        !self.peers.borrow().is_empty()
    }

    /// Sends a part of a call to a node. Its reply, or that there is none, goes to the gather of `query`; with an error
    /// nothing follows.
    pub fn call(
        &self,
        peer: &PeerEntry,
        query: QueryId,
        timeout_ms: u64,
        call: &Call<'_>,
        now: Tick,
    ) -> Result<(), Unreachable> {
        let link = self.link_to(peer, now)?;
        if link.queue.len() > self.queue_bytes_max || !link.owe(query) {
            return Err(Unreachable);
        }
        let mut body = self.scratch.borrow_mut();
        body.clear();
        call.encode_into(&mut body);
        let deadline_ms = timeout_ms.try_into().unwrap_or(u32::MAX);
        let frame = Frame::Call { id: query.0, deadline_ms, method: call.method(), body: &body };
        self.push(&link.queue, frame);
        body.shrink_to(SCRATCH_BYTES_MAX);
        Ok(())
    }

    /// Behind what waits; it is written at the end of the turn.
    pub fn push(&self, queue: &Rc<WriteQueue>, frame: Frame<'_>) {
        frame.encode_into(&mut queue.frames.borrow_mut());
        if !queue.is_due.replace(true) {
            self.due.borrow_mut().push(queue.clone());
        }
    }

    /// A peer reads nothing of what it has asked for.
    pub fn is_overfull(&self, queue: &WriteQueue) -> bool {
        queue.len() > self.queue_bytes_max
    }

    fn link_to(&self, peer: &PeerEntry, now: Tick) -> Result<Rc<CallLink>, Unreachable> {
        let generation = peer.node.generation;
        if !peer.is_linked {
            return Err(Unreachable);
        }
        if let Some(link) = self.links.borrow().get(&generation) {
            return Ok(link.clone());
        }
        let mut undialable = self.undialable.borrow_mut();
        if undialable.get(&generation).is_some_and(|until| *until > now) {
            return Err(Unreachable);
        }
        undialable.remove(&generation);
        let link = Rc::new(CallLink { node: peer.node, queue: Rc::default(), open: RefCell::default() });
        self.links.borrow_mut().insert(generation, link.clone());
        self.wanted.borrow_mut().push(link.clone());
        self.dial_due.notify();
        Ok(link)
    }

    /// The next links to be dialed.
    pub async fn wanted(&self) -> Vec<Rc<CallLink>> {
        self.dial_due.notified().await;
        std::mem::take(&mut *self.wanted.borrow_mut())
    }

    /// The link was not made, or has ended.
    pub fn link_ended(&self, link: &Rc<CallLink>, was_up: bool, now: Tick) {
        link.queue.end();
        let generation = link.node.generation;
        let mut links = self.links.borrow_mut();
        if links.get(&generation).is_some_and(|known| Rc::ptr_eq(known, link)) {
            links.remove(&generation);
            if !was_up {
                self.undialable.borrow_mut().insert(generation, now + REDIAL_MS);
            }
        }
    }

    /// Wakes the writers of what this turn has put into their queues.
    pub fn flush(&self) {
        for queue in self.due.borrow_mut().drain(..) {
            queue.is_due.set(false);
            queue.wake.notify();
        }
    }

    // ---- what the cluster's thread tells ----

    /// Returns clients whose 101 may go out.
    pub fn on_message(&self, message: ToWorker, now: Tick) -> Vec<ConnKey> {
        match message {
            ToWorker::Peers(peers) => self.set_peers(peers, now),
            ToWorker::Known { number, .. } => {
                self.known.set(self.known.get().max(number));
                return self.release(now);
            }
            ToWorker::CallKnown { oneshot, outcome } => self.waiters.complete(oneshot, outcome),
            ToWorker::Adopt(_) | ToWorker::Closes(_) | ToWorker::Parted(_) => unreachable!("the worker has taken it"),
            ToWorker::Ready => {
                self.is_ready.set(true);
                self.ready_waiters.complete_all(());
                return self.release(now);
            }
        }
        Vec::new()
    }

    fn set_peers(&self, peers: Arc<[PeerEntry]>, now: Tick) {
        // Dialed at once, so that the first call finds it.
        peers.iter().filter(|peer| peer.is_linked).for_each(|peer| drop(self.link_to(peer, now)));
        let is_linked =
            |generation: &Generation| peers.iter().any(|peer| peer.is_linked && peer.node.generation == *generation);
        let ended: Vec<Rc<CallLink>> = {
            let links = self.links.borrow();
            links.iter().filter(|(generation, _)| !is_linked(generation)).map(|(_, link)| link.clone()).collect()
        };
        ended.iter().for_each(|link| link.queue.end());
        *self.peers.borrow_mut() = peers;
        self.peers_due.notify();
        self.unions_due.notify();
        if grantors::are_known(&self.seen()) {
            self.disk_waiters.complete_all(());
        }
    }

    // ---- channels ----

    /// The shard has got its first member of a channel, or lost its last one.
    pub fn on_channel(&self, hash: u64, is_here: bool) {
        if self.port.is_some() {
            self.changes.borrow_mut().push(ChannelChange { hash, is_here });
        }
    }

    /// Tells the cluster's thread what has changed. False when it has no room yet.
    pub fn send_changes(&self) -> bool {
        let Some(port) = &self.port else { return true };
        let mut waiting = self.changes.borrow_mut();
        if waiting.is_empty() {
            return true;
        }
        let changes = std::mem::take(&mut *waiting);
        let has_new = changes.iter().any(|change| change.is_here);
        let number = BatchNumber(self.sent.get().0 + u64::from(has_new));
        match port.try_send(ToCluster::Channels { worker: self.worker, number, changes }) {
            Ok(()) => {
                self.sent.set(number);
                true
            }
            Err(ToCluster::Channels { changes, .. }) => {
                *waiting = changes;
                false
            }
            Err(_) => unreachable!("it is given back as it was"),
        }
    }

    pub fn has_changes(&self) -> bool {
        !self.changes.borrow().is_empty()
    }

    /// A client was let in, and is subscribed to channels.
    pub fn on_opened(&self, key: ConnKey) {
        if self.port.is_some() {
            self.opened.borrow_mut().push(key);
        }
    }

    /// Those that were let in this turn, and whose 101 has to wait: for the peers that are linked, or, before this node
    /// is ready, for those that are not linked yet. `send_changes` comes before.
    pub fn take_corked(&self, now: Tick) -> Vec<ConnKey> {
        let opened = std::mem::take(&mut *self.opened.borrow_mut());
        let are_known = self.known.get() >= self.sent.get() && !self.has_changes();
        let is_ready = self.is_ready.get();
        let has_peers = self.port.as_ref().is_some_and(|port| port.has_peers());
        if opened.is_empty() || is_ready && (are_known || !has_peers) {
            return Vec::new();
        }
        let deadline = now + if is_ready { CORKED_MS_MAX } else { READY_MS_MAX };
        let until = BatchNumber(self.sent.get().0 + u64::from(self.has_changes()));
        let corked = opened.iter().map(|&key| Corked { until, key, deadline });
        self.corked.borrow_mut().extend(corked);
        opened
    }

    /// Clients whose 101 may go out by now.
    pub fn release(&self, now: Tick) -> Vec<ConnKey> {
        let (mut corked, known) = (self.corked.borrow_mut(), self.known.get());
        let is_ready = self.is_ready.get();
        let is_over = |corked: &Corked| is_ready && corked.until <= known || corked.deadline <= now;
        std::iter::from_fn(|| corked.pop_front_if(|corked| is_over(corked))).map(|corked| corked.key).collect()
    }

    /// Waits until the peers know of every channel that is here now, or have had their time. `None`: there are none.
    pub fn known(&self, now: Tick) -> Option<Oneshot<Outcome>> {
        let port = self.port.as_ref()?;
        self.send_changes();
        if !port.has_peers() {
            return None;
        }
        let oneshot = self.waiters.open((), now + CORKED_MS_MAX);
        let wait = ToCluster::Wait { worker: self.worker, oneshot: oneshot.id() };
        // Without room in its mailbox nobody answers, and nothing is known.
        let _ = port.try_send(wait);
        Some(oneshot)
    }

    /// Waits until calls may be served. `None`: they may.
    pub fn ready(&self, now: Tick) -> Option<Oneshot<()>> {
        (!self.is_ready.get()).then(|| self.ready_waiters.open((), now + READY_MS_MAX))
    }

    pub fn is_ready(&self) -> bool {
        self.is_ready.get()
    }

    pub fn expire(&self, now: Tick) {
        self.waiters.expire(now);
        self.ready_waiters.expire(now);
        self.disk_waiters.expire(now);
    }
}

/// The directory ends its waiters earlier; this is for a thread that says nothing.
pub const CORKED_MS_MAX: u64 = 1_000;
const READY_MS_MAX: u64 = 3_000;
/// A peer that is there says at once which disk it has.
const DISKS_MS_MAX: u64 = 2_000;
const REDIAL_MS: u64 = 500;
const SCRATCH_BYTES_MAX: usize = 64 << 10;
/// Of a link. A peer answers every query at its deadline at the latest, so that one that owes so many is not well.
const OWED_MAX: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_owes_too_many_answers_ends() {
        let node = NodeId { generation: Generation(1), address: ([127, 0, 0, 1], 1984).into() };
        let link = CallLink { node, queue: Rc::default(), open: RefCell::default() };
        let most = OWED_MAX as u64;
        assert!((0..most).all(|query| link.owe(QueryId(query))));
        assert!(link.answered(QueryId(7)) && !link.answered(QueryId(7)) && !link.is_overdue());
        assert!(link.owe(QueryId(most)) && !link.queue.has_ended.get());
        assert!(!link.owe(QueryId(most + 1)) && link.is_overdue() && link.queue.has_ended.get());
        assert_eq!(link.take_open().len(), OWED_MAX, "none of them waits any longer");
    }
}
