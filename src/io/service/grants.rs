//! Asks the nodes that grant a name, one after the other: while a node joins there are several. The rule is in
//! `cluster::ownership::grantors`; who waits for a grant waits until its deadline.

use crate::base::id::{DiskId, Generation};
use crate::cluster::ownership::claims::{RequestId, SessionName};
use crate::cluster::ownership::grantors;
use crate::cluster::transfers::TransferCall;
use crate::io::api::transfers::{call_peer, grantors_of, query_name};
use crate::io::cluster::disks::NameQuery;
use crate::io::worker::turn::Worker;

/// What one creation or fetch has been granted, by whom.
pub struct Grants {
    name: SessionName,
    id: RequestId,
    /// Those that have granted it, and one that may have.
    nodes: Vec<Generation>,
    are_whole: bool,
}

impl Grants {
    /// `release` must follow, whether they are whole or not.
    pub async fn obtain(worker: &Worker, name: &SessionName, id: RequestId) -> Grants {
        let mut grants = Grants { name: name.clone(), id, nodes: Vec::new(), are_whole: false };
        if let Some(known) = worker.cluster().disks_known(worker.now()) {
            let _ = known.await;
        }
        if !grantors::are_known(&worker.cluster().seen()) {
            return grants;
        }
        let grantors = grantors_of(worker, name);
        let disks: Vec<DiskId> = grantors.iter().map(|grantor| grantor.disk).collect();
        for grantor in &grantors {
            grants.nodes.push(grantor.node);
            if grants.query_one(worker, grantor.node, &disks).await != Some(1) {
                return grants;
            }
        }
        grants.are_whole = true;
        grants
    }

    async fn query_one(&self, worker: &Worker, node: Generation, disks: &[DiskId]) -> Option<u32> {
        let Grants { name, id, .. } = self;
        match node == worker.shared().node() {
            true => query_name(worker, node, name, NameQuery::Grant { name: name.clone(), id: *id }).await,
            false => call_peer(worker, node, TransferCall::Grant { name, id: id.0, disks: disks.to_vec() }).await,
        }
    }

    /// All that were asked have granted it.
    pub fn are_whole(&self) -> bool {
        self.are_whole
    }

    /// The session is here, or will not be.
    pub async fn release(self, worker: &Worker) {
        let Grants { name, id, nodes, .. } = &self;
        for node in nodes {
            let _ = match *node == worker.shared().node() {
                true => query_name(worker, *node, name, NameQuery::Release { name: name.clone(), id: *id }).await,
                false => call_peer(worker, *node, TransferCall::Release { name, id: id.0 }).await,
            };
        }
    }
}
