//! With SQLite: which nodes are asked for a name, before a session of that name is created or fetched (`creation`).
//!
//! By its disk a name falls to one node, across restarts and while that node is away. Nodes do not meet a new disk at
//! the same moment, though, and a creation may be under way from before. So for a while after a disk was met both are
//! asked: who had the name without the new disks, and each new disk to which it may fall. Then any two nodes ask at
//! least one in common, as long as what is old for one of them has been met by the other.
//!
//! One after the other is asked, in the order of the disks, so that two who want the same name never wait for each
//! other.

use super::creation::GRANT_MS;
use super::rendezvous::{weight, winner};
use crate::base::id::{DiskId, Generation};
use crate::base::time::Tick;

/// What is known of a peer's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerDisk {
    /// It has not said yet. Nobody knows which names fall to it.
    Unknown,
    /// It has none: no session lies there.
    Missing,
    /// `met`: `None`: in an earlier life of this node.
    Met { disk: DiskId, met: Option<Tick> },
}

/// A peer, as far as it concerns grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub node: Generation,
    pub is_linked: bool,
    pub disk: PeerDisk,
}

/// A node that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grantor {
    pub disk: DiskId,
    pub node: Generation,
}

/// Every peer that is there has said which disk it has: before that nobody knows whom to ask.
pub fn are_known(peers: &[Seen]) -> bool {
    peers.iter().all(|peer| !peer.is_linked || peer.disk != PeerDisk::Unknown)
}

/// Those to be asked for the name of this hash, in this order. `peers` are all that are known, away or not.
pub fn grantors(hash: u64, own: Grantor, peers: &[Seen], now: Tick) -> Vec<Grantor> {
    let is_new = |met: Option<Tick>| met.is_some_and(|met| now < met + NEW_MS);
    let (mut old, mut new) = (vec![own.disk], Vec::new());
    for peer in peers {
        match peer.disk {
            PeerDisk::Met { disk, met } if is_new(met) => new.push(disk),
            PeerDisk::Met { disk, .. } => old.push(disk),
            PeerDisk::Unknown | PeerDisk::Missing => {}
        }
    }
    let before = winner(hash, old.into_iter()).unwrap_or(own.disk);
    // For a node that has met nobody before, the others are new: one of them had the name without it.
    let without = winner(hash, new.iter().copied());
    let heavier = new.into_iter().filter(|disk| weight(hash, *disk) > weight(hash, before));
    let mut disks: Vec<DiskId> = heavier.chain([before]).chain(without).collect();
    disks.sort_unstable();
    disks.dedup();
    disks.into_iter().map(|disk| Grantor { disk, node: node_of(disk, own, peers) }).collect()
}

/// Whether this node may grant the name to one who asks these disks: it must ask everybody whom this node would ask. If
/// not, the two do not see the same nodes, and another may grant the name to somebody else.
pub fn covers(disks: &[DiskId], wanted: &[Grantor]) -> bool {
    wanted.iter().all(|grantor| disks.contains(&grantor.disk))
}

/// Several where one was started from a copy of another one's directory, or where an earlier life is not known to be
/// over.
fn node_of(disk: DiskId, own: Grantor, peers: &[Seen]) -> Generation {
    let of_disk = |peer: &&Seen| matches!(peer.disk, PeerDisk::Met { disk: of, .. } if of == disk);
    let peers = peers.iter().filter(of_disk).map(|peer| (!peer.is_linked, peer.node));
    let own = (own.disk == disk).then_some((false, own.node));
    own.into_iter().chain(peers).min().expect("the disk is one of theirs").1
}

/// A creation that is under way ends earlier, and the views of two nodes do not differ for as long as the rest.
pub const NEW_MS: u64 = GRANT_MS;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::keyed_hash::HashKey;
    use crate::base::rng::Rng;
    use std::collections::BTreeSet;

    const NOW: Tick = Tick(1_000_000);

    fn own(n: u32) -> Grantor {
        Grantor { disk: DiskId(n), node: Generation(100 + n) }
    }

    fn seen(n: u32, met: Option<Tick>) -> Seen {
        Seen { node: Generation(100 + n), is_linked: true, disk: PeerDisk::Met { disk: DiskId(n), met } }
    }

    fn hash(n: u64) -> u64 {
        HashKey::new(1, 2).hash(&format!("session/{n}"))
    }

    fn disks_of(hash: u64, by: u32, old: &[u32], new: &[u32]) -> BTreeSet<u32> {
        let others = |disks: &[u32], met| -> Vec<Seen> {
            disks.iter().filter(|disk| **disk != by).map(|disk| seen(*disk, met)).collect()
        };
        let peers = [others(old, None), others(new, Some(Tick(NOW.0 - 1)))].concat();
        grantors(hash, own(by), &peers, NOW).iter().map(|grantor| grantor.disk.0).collect()
    }

    #[test]
    fn a_name_falls_to_a_disk_whatever_life_its_node_has() {
        for n in 0..200 {
            let before = grantors(hash(n), own(1), &[seen(2, None), seen(3, None)], NOW);
            let [before] = before[..] else { panic!("{before:?}") };
            let restarted = Seen { node: Generation(7), is_linked: false, ..seen(before.disk.0, None) };
            let others: Vec<Seen> = [2, 3].into_iter().filter(|n| *n != before.disk.0).map(|n| seen(n, None)).collect();
            let peers = [others, if before.disk == own(1).disk { vec![] } else { vec![restarted] }].concat();
            let after = grantors(hash(n), own(1), &peers, NOW);
            assert_eq!(after.iter().map(|grantor| grantor.disk).collect::<Vec<_>>(), [before.disk]);
        }
    }

    /// One has met the new node, and another not yet; and the new node itself.
    #[test]
    fn while_a_node_joins_any_two_ask_one_in_common() {
        let mut differ = 0;
        for n in 0..500 {
            let (before, during) = (disks_of(hash(n), 1, &[2, 3], &[]), disks_of(hash(n), 2, &[1, 3], &[4]));
            let (after, joining) = (disks_of(hash(n), 3, &[1, 2, 4], &[]), disks_of(hash(n), 4, &[], &[1, 2, 3]));
            assert!(!before.is_disjoint(&during), "{n}: {before:?}, {during:?}");
            assert!(!during.is_disjoint(&after), "{n}: {during:?}, {after:?}");
            for other in [&before, &during, &after] {
                assert!(!joining.is_disjoint(other), "{n}: {joining:?}, {other:?}");
            }
            differ += u32::from(before.is_disjoint(&after));
        }
        assert!(differ > 50, "the views do differ: {differ}");
    }

    /// Disks come one after the other, and each node has met some of them, in its own order; what is old for one has
    /// been met by the other.
    #[test]
    fn any_two_views_ask_one_in_common() {
        let mut rng = Rng::new(5);
        for round in 0..20_000 {
            let mut views: [(Vec<u32>, Vec<u32>); 2] = [(vec![1], vec![]), (vec![2], vec![])];
            for disk in 1..=8 {
                let stages = if disk <= 2 { [rng.below(2), rng.below(2)] } else { [rng.below(3), rng.below(3)] };
                // 0: old, 1: new, 2: not met.
                let is_possible = !stages.contains(&0) || !stages.contains(&2);
                for ((old, new), stage) in views.iter_mut().zip(stages).filter(|_| is_possible) {
                    match stage {
                        0 => old.push(disk),
                        1 => new.push(disk),
                        _ => {}
                    }
                }
            }
            let [one, other] = [&views[0], &views[1]];
            let sets = [disks_of(hash(round), 1, &one.0, &one.1), disks_of(hash(round), 2, &other.0, &other.1)];
            assert!(!sets[0].is_disjoint(&sets[1]), "{round}: {views:?} ask {sets:?}");
        }
    }

    #[test]
    fn whoever_sees_others_grants_nothing() {
        let wanted = [own(2), own(4)];
        assert!(covers(&[DiskId(2), DiskId(3), DiskId(4)], &wanted));
        assert!(!covers(&[DiskId(2), DiskId(3)], &wanted));
    }

    #[test]
    fn nobody_knows_whom_to_ask_while_a_peer_has_not_said_which_disk_it_has() {
        let unknown = Seen { disk: PeerDisk::Unknown, ..seen(2, None) };
        let away = Seen { is_linked: false, ..unknown };
        let without = Seen { disk: PeerDisk::Missing, ..unknown };
        assert!(!are_known(&[seen(1, None), unknown]));
        assert!(are_known(&[seen(1, None), away, without]));
    }

    #[test]
    fn of_two_nodes_with_one_disk_everybody_asks_the_same() {
        let copies = [seen(5, None), Seen { node: Generation(9), ..seen(5, None) }];
        let nodes: BTreeSet<Generation> = (0..50)
            .flat_map(|n| grantors(hash(n), own(1), &copies, NOW))
            .filter(|grantor| grantor.disk == DiskId(5))
            .map(|grantor| grantor.node)
            .collect();
        assert_eq!(nodes, BTreeSet::from([Generation(9)]));
        assert!((0..50).all(|n| grantors(hash(n), own(5), &copies, NOW)[0].node == Generation(9)));
    }
}
