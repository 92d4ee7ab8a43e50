//! Rendezvous hashing (Thaler, Ravishankar: "Using name-based mappings to increase hit rates", 1998): each node has a
//! weight for each name, and the heaviest has the name. When a node goes, only its names find another one.

use crate::base::rng::Rng;

/// The node (or disk) that a name falls to. `hash` is the name's, with the cluster's key; their order means nothing.
pub fn winner<Id: Copy + Ord + Into<u64>>(hash: u64, nodes: impl Iterator<Item = Id>) -> Option<Id> {
    nodes.max_by_key(|node| weight(hash, *node))
}

/// Of two nodes the heavier one has the name.
pub fn weight<Id: Copy + Ord + Into<u64>>(hash: u64, node: Id) -> (u64, Id) {
    (Rng::new(hash ^ Rng::new(node.into()).next_u64()).next_u64(), node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::Generation;
    use crate::base::keyed_hash::HashKey;
    use std::collections::BTreeMap;

    fn hash(n: u32) -> u64 {
        HashKey::new(1, 2).hash(&format!("session/{n}"))
    }

    #[test]
    fn names_are_spread_evenly_and_everybody_agrees() {
        let nodes: Vec<Generation> = (0..5).map(|n| Generation(n * 7919)).collect();
        let mut shares = BTreeMap::new();
        for n in 0..10_000 {
            let won = winner(hash(n), nodes.iter().copied());
            assert_eq!(won, winner(hash(n), nodes.iter().rev().copied()));
            *shares.entry(won).or_insert(0) += 1;
        }
        assert!(shares.values().all(|share| (1_850..2_150).contains(share)), "{shares:?}");
        assert_eq!(winner(7, std::iter::empty::<Generation>()), None);
    }

    #[test]
    fn when_a_node_goes_only_its_names_change() {
        let nodes: Vec<Generation> = (0..5).map(Generation).collect();
        for n in 0..1_000 {
            let before = winner(hash(n), nodes.iter().copied());
            let after = winner(hash(n), nodes[1..].iter().copied());
            assert!(before == Some(nodes[0]) || before == after);
        }
    }
}
