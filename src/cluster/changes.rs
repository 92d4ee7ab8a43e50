//! How the other nodes change, for people: one is linked, has left, or is missed. It compares what is with what it
//! reported last. A node that is missed for a moment, while it restarts, is no change.

use crate::base::id::{Generation, NodeId};
use crate::base::time::Tick;
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeChange {
    /// It is linked.
    Linked(NodeId),
    /// It has ended, and left nothing behind.
    Left(NodeId),
    /// It is away, and has sessions that nobody else has.
    Missed(NodeId),
}

/// What was told last.
#[derive(Default)]
pub struct Reporter {
    found: BTreeMap<Generation, NodeId>,
    missed: BTreeMap<Generation, Missed>,
}

struct Missed {
    since: Tick,
    is_reported: bool,
}

impl Reporter {
    pub fn report(&mut self, linked: &[NodeId], missed: &[NodeId], now: Tick) -> Vec<NodeChange> {
        let mut changes = Vec::new();
        for node in linked {
            if self.found.insert(node.generation, *node).is_none() {
                changes.push(NodeChange::Linked(*node));
            }
            self.missed.remove(&node.generation);
        }
        for node in missed {
            let missed = self.missed.entry(node.generation).or_insert(Missed { since: now, is_reported: false });
            if !missed.is_reported && now.since_ms(missed.since) >= RESTART_MS {
                missed.is_reported = true;
                self.found.remove(&node.generation);
                changes.push(NodeChange::Missed(*node));
            }
        }
        let is_missed = |of: &Generation| missed.iter().any(|node| node.generation == *of);
        self.missed.retain(|generation, _| is_missed(generation));
        self.found.retain(|generation, node| {
            let is_there = linked.contains(node) || is_missed(generation);
            if !is_there {
                changes.push(NodeChange::Left(*node));
            }
            is_there
        });
        changes
    }
}

/// A node that restarts is back within it.
const RESTART_MS: u64 = 3_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn node(generation: u32) -> NodeId {
        NodeId { generation: Generation(generation), address: ([127, 0, 0, 1], 1984).into() }
    }

    #[test]
    fn each_change_is_reported_once() {
        let (mut reporter, one) = (Reporter::default(), node(1));
        assert_eq!(reporter.report(&[], &[], Tick(0)), []);
        assert_eq!(reporter.report(&[one], &[], Tick(1_000)), [NodeChange::Linked(one)]);
        assert_eq!(reporter.report(&[one], &[], Tick(2_000)), []);
        assert_eq!(reporter.report(&[], &[one], Tick(3_000)), [], "it may be back at once");
        assert_eq!(reporter.report(&[], &[one], Tick(6_000)), [NodeChange::Missed(one)]);
        assert_eq!(reporter.report(&[], &[one], Tick(60_000)), []);
        assert_eq!(reporter.report(&[one], &[], Tick(61_000)), [NodeChange::Linked(one)]);
        assert_eq!(reporter.report(&[], &[], Tick(62_000)), [NodeChange::Left(one)]);
        assert_eq!(reporter.report(&[], &[], Tick(63_000)), []);
    }

    #[test]
    fn a_node_that_restarts_is_not_missed() {
        let (mut reporter, one, next) = (Reporter::default(), node(1), node(2));
        assert_eq!(reporter.report(&[one], &[], Tick(0)), [NodeChange::Linked(one)]);
        assert_eq!(reporter.report(&[], &[one], Tick(500)), []);
        assert_eq!(reporter.report(&[next], &[], Tick(900)), [NodeChange::Linked(next), NodeChange::Left(one)]);
    }
}
