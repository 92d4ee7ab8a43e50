//! Between the cluster's thread and the workers: what each tells the other, and what all may look at.

use crate::base::id::{DiskId, Generation, NodeId, ShardId};
use crate::cluster::directory::bits::Table;
use crate::cluster::directory::waiting::Outcome;
use crate::cluster::key::ClusterKeys;
use crate::cluster::node::{PeerView, Rejections};
use crate::cluster::ownership::grantors::{PeerDisk, Seen};
use crate::cluster::{directory, membership};
use crate::io::cluster::secure::{LinkKind, LinkTerms};
use crate::io::runtime::mailbox::MailboxSender;
use crate::io::runtime::oneshot::OneshotId;
use crate::io::runtime::socket::Pollable;
use crate::io::runtime::sys;
use crate::io::store::thread::NodeReport;
use crate::shard::command::Token;
use crate::store::ConnectionRecord;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// A channel, by its hash, has got its first member on a worker, or lost its last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelChange {
    pub hash: u64,
    pub is_here: bool,
}

/// A worker's channel changes, counted from 1 on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchNumber(pub u64);

/// To the cluster's thread.
pub enum ToCluster {
    /// All changes of a worker's turn. `ToWorker::Known` follows, if a channel is new.
    Channels { worker: ShardId, number: BatchNumber, changes: Vec<ChannelChange> },
    /// `ToWorker::CallKnown` follows, when the peers know of every channel that is here.
    Wait { worker: ShardId, oneshot: OneshotId },
    /// Addresses that a name of `cluster_seeds` stands for.
    Seeds(Vec<SocketAddr>),
    /// The node has had these lives, which are over, and has its sessions on this disk; `None`: it has none.
    Lives { node: Generation, disk: Option<DiskId>, lives: Vec<Generation> },
    /// The node does not come back.
    Part(Generation),
    /// This node stops.
    Leave,
}

/// To a worker.
#[derive(Clone)]
pub enum ToWorker {
    Peers(Arc<[PeerEntry]>),
    /// The peers know of the channels of this batch, or have had their time.
    Known {
        number: BatchNumber,
        outcome: Outcome,
    },
    CallKnown {
        oneshot: OneshotId,
        outcome: Outcome,
    },
    /// Sessions of a dead node that fall to this worker, with the tokens of their records.
    Adopt(Arc<[(Arc<str>, Token)]>),
    /// Connections of a dead node, whose closes this worker is to report.
    Closes(Arc<[ConnectionRecord]>),
    /// The node does not come back: what was on its way there stays.
    Parted(Generation),
    /// Calls may be served.
    Ready,
}

/// A node that may have members of a channel.
#[derive(Clone)]
pub struct PeerEntry {
    pub node: NodeId,
    /// It can be sent to. If not, a call that concerns it must say so.
    pub is_linked: bool,
    pub table: Arc<Table>,
    pub disk: PeerDisk,
}

impl From<&PeerEntry> for Seen {
    fn from(peer: &PeerEntry) -> Seen {
        Seen { node: peer.node.generation, is_linked: peer.is_linked, disk: peer.disk }
    }
}

/// What the page and the metrics show.
#[derive(Clone, Default)]
pub struct ClusterView {
    pub peers: Vec<PeerView>,
    /// Nodes that are away, and are looked for: calls that may concern them say so. Of one that an earlier life of this
    /// node has met the address is not known (port 0).
    pub missed: Vec<NodeId>,
    pub rejections: Rejections,
    pub membership: membership::Counts,
    pub directory: directory::Counts,
    pub directory_bytes: usize,
}

/// The cluster's thread, as workers see it.
pub struct ClusterPort {
    own: NodeId,
    /// Of `cluster_listen`.
    listen: Option<SocketAddr>,
    terms: LinkTerms,
    start: u64,
    sender: MailboxSender<ToCluster>,
    /// Descriptors of control links that came to workers.
    arrivals: (OwnedFd, OwnedFd),
    /// Peers that have to know of a channel before a client hears that it is subscribed.
    linked: AtomicU32,
    view: Mutex<Arc<ClusterView>>,
    /// There is a new view.
    view_due: Condvar,
    /// What the store has said, until the thread looks. Bounded by what it asks for.
    store_reports: Mutex<Vec<NodeReport>>,
}

impl ClusterPort {
    /// Must be called before any worker has a descriptor table of its own.
    pub fn new(
        own: NodeId,
        listen: Option<SocketAddr>,
        start: u64,
        terms: LinkTerms,
        sender: MailboxSender<ToCluster>,
    ) -> io::Result<ClusterPort> {
        Ok(ClusterPort {
            own,
            listen,
            terms,
            start,
            sender,
            arrivals: sys::seqpacket_pair()?,
            linked: AtomicU32::new(0),
            view: Mutex::default(),
            view_due: Condvar::new(),
            store_reports: Mutex::default(),
        })
    }

    pub fn terms_of(keys: &ClusterKeys, cluster_name: &str) -> LinkTerms {
        LinkTerms { key: keys.links, cluster_name: cluster_name.into(), kind: LinkKind::Calls }
    }

    /// The only address to which other nodes may come, where there is one.
    pub fn listen(&self) -> Option<SocketAddr> {
        self.listen
    }

    pub fn own(&self) -> NodeId {
        self.own
    }

    pub fn generation(&self) -> Generation {
        self.own.generation
    }

    pub fn start(&self) -> u64 {
        self.start
    }

    /// Of the links that carry calls.
    pub fn terms(&self) -> &LinkTerms {
        &self.terms
    }

    /// Gives the message back when the mailbox is full.
    pub fn try_send(&self, message: ToCluster) -> Result<(), ToCluster> {
        self.sender.try_send(message)
    }

    /// Are there peers that have to know of a channel? To be called behind the `try_send` that tells of it: either the
    /// cluster's thread finds that message when it takes a new link up, or this finds the link.
    pub fn has_peers(&self) -> bool {
        fence(Ordering::SeqCst);
        self.linked.load(Ordering::Relaxed) > 0
    }

    /// The thread has to look into its mailbox behind it, before it takes a new link up.
    pub fn set_linked(&self, links: u32) {
        self.linked.store(links, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Hands a control link to the cluster's thread; `fd` may be closed here afterwards.
    pub fn hand_over(&self, fd: RawFd) -> io::Result<()> {
        sys::send_descriptor(self.arrivals.0.as_raw_fd(), fd, 0)
    }

    /// The next control link that came to a worker.
    pub fn take_arrival(&self) -> Option<OwnedFd> {
        sys::receive_descriptor(self.arrivals.1.as_raw_fd()).ok().and_then(|(_, fd)| fd)
    }

    /// Readable while there are arrivals.
    pub fn arrivals(&self) -> io::Result<Pollable> {
        Pollable::new(self.arrivals.1.try_clone()?)
    }

    /// From the store's thread.
    pub fn push_store(&self, report: NodeReport) {
        let mut reports = self.store_reports.lock().unwrap_or_else(PoisonError::into_inner);
        // Of leases only the newest word counts.
        if matches!(report, NodeReport::Leases { .. }) {
            reports.retain(|waiting| !matches!(waiting, NodeReport::Leases { .. }));
        }
        if matches!(report, NodeReport::Reconnected { .. }) {
            // The later one says all that the one before it says.
            reports.pop_if(|last| matches!(last, NodeReport::Reconnected { .. }));
        }
        reports.push(report);
        drop(reports);
        self.sender.ring_always();
    }

    pub fn take_store_reports(&self) -> Vec<NodeReport> {
        std::mem::take(&mut *self.store_reports.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn view(&self) -> Arc<ClusterView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_view(&self, view: ClusterView) {
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
        self.view_due.notify_all();
    }

    /// The next one. It blocks: for threads that do nothing else.
    pub fn wait_for_view(&self) -> Arc<ClusterView> {
        let known = self.view();
        let is_known = |view: &mut Arc<ClusterView>| Arc::ptr_eq(view, &known);
        let view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        self.view_due.wait_while(view, is_known).unwrap_or_else(PoisonError::into_inner).clone()
    }
}
