//! Which nodes may have what is looked for, and which disk each has: those that are there, those that are away and have
//! left something, and those that an earlier life of this node has met. Of the cluster's thread, for the workers.

use super::port::PeerEntry;
use crate::base::id::{DiskId, Generation, NodeId};
use crate::base::time::Tick;
use crate::cluster::directory::bits::Table;
use crate::cluster::node::PeerView;
use crate::cluster::ownership::grantors::PeerDisk;
use crate::store::MetNode;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

#[derive(Default)]
pub struct LookedFor {
    /// Nodes that only the store knows.
    unmet: BTreeSet<Generation>,
    /// Where nodes have disks of their own: those that were met, in this life or in an earlier one.
    disks: BTreeMap<Generation, PeerDisk>,
    /// Lives of nodes that are over for good.
    over: BTreeSet<Generation>,
}

impl LookedFor {
    /// `met`: by an earlier life of this node.
    pub fn new(met: &[MetNode]) -> LookedFor {
        LookedFor { disks: met.iter().map(disk_of).collect(), ..LookedFor::default() }
    }

    /// True when that is new.
    pub fn set_unmet(&mut self, node: Generation, is_there: bool) -> bool {
        if is_there { self.unmet.insert(node) } else { self.unmet.remove(&node) }
    }

    /// A node has said which disk it has.
    pub fn meet(&mut self, node: Generation, disk: Option<DiskId>, now: Tick) {
        let of_disk = |known: &&PeerDisk| matches!(known, PeerDisk::Met { disk: of, .. } if Some(*of) == disk);
        // What was known of an earlier life holds for this one.
        let known = self.disks.values().find(of_disk).copied();
        let met = known.or(disk.map(|disk| PeerDisk::Met { disk, met: Some(now) }));
        self.disks.insert(node, met.unwrap_or(PeerDisk::Missing));
    }

    /// These lives of nodes are over, and what they had is another one's or nobody's.
    pub fn end_lives(&mut self, lives: impl Iterator<Item = Generation>) {
        for life in lives {
            self.unmet.remove(&life);
            self.disks.remove(&life);
            self.over.insert(life);
        }
    }

    pub fn entries(&self, peers: &[PeerView]) -> Vec<PeerEntry> {
        let disk = |node: Generation| self.disks.get(&node).copied().unwrap_or(PeerDisk::Unknown);
        let entry = |peer: &PeerView| {
            let (table, disk) = (peer.table.clone()?, disk(peer.node.generation));
            Some(PeerEntry { node: peer.node, is_linked: peer.is_linked, table, disk })
        };
        let mut entries: Vec<PeerEntry> = peers.iter().filter_map(entry).collect();
        let with_disk =
            self.disks.iter().filter(|(_, disk)| matches!(disk, PeerDisk::Met { .. })).map(|(node, _)| node);
        let unmet: BTreeSet<Generation> = self.unmet.iter().chain(with_disk).copied().collect();
        for generation in unmet {
            // One that others speak of, and that was never linked, has no table: everything may be there.
            if entries.iter().all(|known| known.node.generation != generation) {
                let (node, table) = (NodeId { generation, address: NOWHERE }, Table::of_everything());
                entries.push(PeerEntry { node, is_linked: false, table, disk: disk(generation) });
            }
        }
        entries.retain(|entry| !self.over.contains(&entry.node.generation));
        entries
    }
}

/// An earlier version has not noted the disk: then the life stands for it, until the node is there again.
fn disk_of(met: &MetNode) -> (Generation, PeerDisk) {
    let disk = met.disk.unwrap_or(DiskId(met.node.0));
    (met.node, PeerDisk::Met { disk, met: None })
}

/// Of a node that was never heard.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::membership::peer::{PeerState, Reason};
    use std::sync::Arc;

    fn peer(generation: u32, table: Option<Arc<Table>>) -> PeerView {
        PeerView {
            node: NodeId { generation: Generation(generation), address: NOWHERE },
            state: PeerState::Down,
            reason: Reason::LinkSilent,
            since: Tick(0),
            is_linked: false,
            table,
            round_trip_ms: None,
        }
    }

    #[test]
    fn a_node_that_was_met_is_looked_for_although_others_say_that_it_is_down() {
        let met = [1, 2, 4, 5].map(|node| MetNode { node: Generation(node), disk: Some(DiskId(node)) });
        let mut looked_for = LookedFor::new(&met);
        looked_for.end_lives([Generation(4)].into_iter());
        let peers = [peer(1, Some(Table::of_everything())), peer(2, None), peer(3, None), peer(4, None)];
        let entries = looked_for.entries(&peers);
        let nodes: Vec<u32> = entries.iter().map(|entry| entry.node.generation.0).collect();
        assert_eq!(nodes, [1, 2, 5], "3 has nothing, and what 4 had is another's");
        assert!(entries.iter().all(|entry| entry.table.may_have(7)));
    }
}
