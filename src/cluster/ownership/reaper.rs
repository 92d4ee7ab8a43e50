//! What this node does about nodes that have ended: it finds out by the store's word, buries them, adopts its share of
//! their sessions and reports its share of their closes.
//!
//! ```text
//! leases of the store ─► has ended ─► Bury ─► buried ─┬─► its sessions ─────► adopted ─┴─► nothing is left: Finished
//!                                                     └─► its connections ─► taken ────┘
//! ```
//! Until its sessions are adopted, what may concern a node is looked for, and answered as unreachable.
//!
//! Each connection that was let in has a record in the store, among those of its node. Survivors take such records
//! over, some at a time, each by one of them in one step: from then on they are among its own, and it reports the
//! closes. A survivor that dies leaves what it has not reported among what it had itself. The key of a close is the
//! connection's alone, so that the business server knows a repeat, whoever reports it.

use super::adoption::{Adoption, AdoptionOutput, OrphanPage};
use super::claims::{SessionName, Token};
use super::lease::{Lease, LeaseWatch};
use crate::base::id::Generation;
use crate::base::time::Tick;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A node by the store's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredNode {
    pub generation: Generation,
    /// What is left of its lease, by the store's clock; 0: it has ended.
    pub remaining_ms: u64,
    /// It writes no more.
    pub is_buried: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReaperOutput {
    /// For the store: `on_buried` follows.
    Bury(Generation),
    /// For the store: `on_orphans` follows.
    ReadOrphans { dead: Generation, from: u64 },
    /// `Claims::adopt`.
    Adopt { name: SessionName, token: Token },
    /// For the store: `on_taken` follows.
    TakeConnections(Generation),
    /// None of its sessions is left: what concerns it is looked for no longer.
    Adopted(Generation),
    /// The store knows a node that may own sessions.
    Met(Generation),
    /// A node is dead for good.
    Buried(Generation),
    /// Nothing of it is left: for the store, and for everybody who looks for it.
    Finished(Generation),
    /// The store has never heard of it, or not any more.
    Unknown(Generation),
}

pub struct Reaper {
    own: Generation,
    lease: LeaseWatch,
    adoptions: BTreeMap<Generation, Adoption>,
    takings: BTreeMap<Generation, Taking>,
    finished: BTreeSet<Generation>,
    met: BTreeMap<Generation, Tick>,
    announced: BTreeSet<Generation>,
    /// They have said goodbye, or have been replaced: the lease alone is waited for.
    gone: BTreeSet<Generation>,
    outputs: VecDeque<ReaperOutput>,
}

/// A dead node's connections are taken over.
#[derive(Clone, Copy)]
struct Taking {
    /// `Tick::NEVER` while the store is at it.
    next_at: Tick,
}

impl Reaper {
    pub fn new(own: Generation) -> Reaper {
        Reaper {
            own,
            lease: LeaseWatch::default(),
            adoptions: BTreeMap::new(),
            takings: BTreeMap::new(),
            finished: BTreeSet::new(),
            met: BTreeMap::new(),
            announced: BTreeSet::new(),
            gone: BTreeSet::new(),
            outputs: VecDeque::new(),
        }
    }

    pub fn lease(&mut self) -> &mut LeaseWatch {
        &mut self.lease
    }

    /// Our lease was to be renewed at `sent`. `None`: the store did not answer.
    pub fn on_leases(&mut self, nodes: Option<&[StoredNode]>, now: Tick) {
        let Some(nodes) = nodes else { return self.lease.on_failure() };
        let leases: Vec<Lease> =
            nodes.iter().map(|node| Lease { node: node.generation, remaining_ms: node.remaining_ms }).collect();
        let mut ended: BTreeSet<Generation> = self.lease.on_answer(&leases, now).collect();
        let others = nodes.iter().filter(|node| node.generation != self.own);
        for node in others {
            let generation = node.generation;
            let since = *self.met.entry(generation).or_insert(now);
            // One that has just begun has no clients yet, and is linked soon.
            let is_old = now.since_ms(since) >= MET_MS || node.remaining_ms == 0 || node.is_buried;
            let is_missing = !self.finished.contains(&generation) && !self.is_adopted(generation);
            if is_old && is_missing && self.announced.insert(generation) {
                self.outputs.push_back(ReaperOutput::Met(generation));
            }
            if node.is_buried || node.remaining_ms == 0 && self.gone.contains(&generation) {
                ended.insert(generation);
            }
        }
        let known = |node: &Generation| nodes.iter().any(|other| other.generation == *node);
        let unknown: Vec<Generation> = self.met.keys().copied().filter(|node| !known(node)).collect();
        for node in unknown {
            self.met.remove(&node);
            self.gone.remove(&node);
            // Its own process, or another survivor, has finished with it.
            if self.announced.remove(&node) && !self.is_reaping(node) {
                self.outputs.push_back(ReaperOutput::Unknown(node));
            }
        }
        ended.remove(&self.own);
        ended.retain(|node| !self.is_reaping(*node));
        self.outputs.extend(ended.into_iter().map(ReaperOutput::Bury));
    }

    /// The other nodes say that it has left, or that another life has taken its place.
    pub fn on_gone(&mut self, node: Generation) {
        if !self.finished.contains(&node) && self.gone.insert(node) {
            self.outputs.push_back(ReaperOutput::Bury(node));
        }
    }

    /// False: its lease has not ended, or the store does not answer.
    pub fn on_buried(&mut self, node: Generation, is_buried: bool, now: Tick) {
        if is_buried {
            self.outputs.push_back(ReaperOutput::Buried(node));
            self.reap(node, now);
        }
    }

    /// Whatever the store says of it, it is taken for dead.
    pub fn reap(&mut self, dead: Generation, now: Tick) {
        if self.finished.contains(&dead) || self.is_reaping(dead) {
            return;
        }
        self.takings.insert(dead, Taking { next_at: now });
        let mut adoption = Adoption::new(self.own, dead, now);
        adoption.handle_timers(now);
        self.adoptions.insert(dead, adoption);
        self.handle_timers(now);
    }

    /// Its sessions have found new owners, and its connections are still being taken over.
    fn is_adopted(&self, dead: Generation) -> bool {
        self.takings.contains_key(&dead) && !self.adoptions.contains_key(&dead)
    }

    fn is_reaping(&self, dead: Generation) -> bool {
        self.adoptions.contains_key(&dead) || self.takings.contains_key(&dead)
    }

    /// The store may have an older copy of its data, in which a dead life has left things again, or is alive: who is
    /// dead is found out anew.
    pub fn on_store_reset(&mut self) {
        self.finished.clear();
        self.adoptions.clear();
        self.takings.clear();
        self.met.clear();
        self.lease.on_failure();
    }

    /// `None`: the store did not answer. `live` are all nodes that may adopt, ourselves among them.
    pub fn on_orphans(&mut self, dead: Generation, page: Option<OrphanPage>, live: &[Generation], now: Tick) {
        if let Some(adoption) = self.adoptions.get_mut(&dead) {
            adoption.on_page(page, live, now);
        }
        self.collect();
    }

    /// So many of its connections are ours to report; 0: there are none left. `None`: the store did not answer.
    pub fn on_taken(&mut self, dead: Generation, count: Option<usize>, now: Tick) {
        match (self.takings.get_mut(&dead), count) {
            (Some(_), Some(0)) => {
                self.takings.remove(&dead);
                self.end_if_over(dead);
            }
            (Some(taking), Some(_)) => taking.next_at = now + TAKE_MS,
            (Some(taking), None) => taking.next_at = now + RETRY_MS,
            (None, _) => {}
        }
    }

    pub fn handle_timers(&mut self, now: Tick) {
        self.adoptions.values_mut().for_each(|adoption| adoption.handle_timers(now));
        for (dead, taking) in self.takings.iter_mut().filter(|(_, taking)| taking.next_at <= now) {
            taking.next_at = Tick::NEVER;
            self.outputs.push_back(ReaperOutput::TakeConnections(*dead));
        }
        self.collect();
    }

    pub fn next_tick(&self) -> Tick {
        let takings = self.takings.values().map(|taking| taking.next_at);
        self.adoptions.values().map(Adoption::next_tick).chain(takings).min().unwrap_or(Tick::NEVER)
    }

    pub fn poll_output(&mut self) -> Option<ReaperOutput> {
        self.outputs.pop_front()
    }

    /// When our lease is to be renewed.
    pub fn next_renewal(&self) -> Tick {
        self.lease.next_tick()
    }

    /// Nodes that have ended and have left something.
    pub fn len(&self) -> usize {
        self.adoptions.keys().chain(self.takings.keys()).collect::<BTreeSet<_>>().len()
    }

    pub fn is_empty(&self) -> bool {
        self.adoptions.is_empty() && self.takings.is_empty()
    }

    fn collect(&mut self) {
        let mut over = BTreeSet::new();
        for adoption in self.adoptions.values_mut() {
            while let Some(output) = adoption.poll_output() {
                self.outputs.push_back(match output {
                    AdoptionOutput::Read { dead, from } => ReaperOutput::ReadOrphans { dead, from },
                    AdoptionOutput::Adopt { name, token } => ReaperOutput::Adopt { name, token },
                    AdoptionOutput::Done { dead } => {
                        over.insert(dead);
                        continue;
                    }
                });
            }
        }
        for dead in over {
            self.adoptions.remove(&dead);
            self.announced.remove(&dead);
            self.outputs.push_back(ReaperOutput::Adopted(dead));
            self.end_if_over(dead);
        }
    }

    fn end_if_over(&mut self, dead: Generation) {
        if self.is_reaping(dead) {
            return;
        }
        self.finished.insert(dead);
        self.gone.remove(&dead);
        if self.finished.len() > FINISHED_MAX {
            self.finished.pop_first();
        }
        self.outputs.push_back(ReaperOutput::Finished(dead));
    }
}

/// A node that the store knows and nobody else is looked for after so long.
const MET_MS: u64 = 3_000;
/// Between takings: a business server that loses a node's clients must not drown in their closes.
const TAKE_MS: u64 = 250;
const RETRY_MS: u64 = 1_000;
/// Who has been finished with is no node of the store's any more; this is for a word that comes late.
const FINISHED_MAX: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::super::adoption::Orphan;
    use super::super::lease::{LEASE_MS, RENEW_MS};
    use super::*;

    const OWN: Generation = Generation(1);
    const DEAD: Generation = Generation(2);

    fn node(generation: Generation, remaining_ms: u64, is_buried: bool) -> StoredNode {
        StoredNode { generation, remaining_ms, is_buried }
    }

    fn outputs(reaper: &mut Reaper) -> Vec<ReaperOutput> {
        std::iter::from_fn(|| reaper.poll_output()).collect()
    }

    fn report(reaper: &mut Reaper, nodes: &[StoredNode], now: Tick) -> Vec<ReaperOutput> {
        reaper.lease().sent(now);
        reaper.on_leases(Some(nodes), now);
        outputs(reaper)
    }

    #[test]
    fn a_node_whose_lease_has_ended_is_buried_adopted_and_forgotten() {
        let mut reaper = Reaper::new(OWN);
        let nodes = [node(OWN, LEASE_MS, false), node(DEAD, 0, false)];
        assert_eq!(report(&mut reaper, &nodes, Tick(0)), [ReaperOutput::Met(DEAD)], "the store has just come");
        let mut now = Tick(0);
        for _ in 0..2 * LEASE_MS / RENEW_MS - 1 {
            now = now + RENEW_MS;
            assert_eq!(report(&mut reaper, &nodes, now), []);
        }
        now = now + RENEW_MS;
        assert_eq!(report(&mut reaper, &nodes, now), [ReaperOutput::Bury(DEAD)]);
        reaper.on_buried(DEAD, false, now);
        assert_eq!(outputs(&mut reaper), [], "it has come back");
        reaper.on_buried(DEAD, true, now);
        let read = ReaperOutput::ReadOrphans { dead: DEAD, from: 0 };
        let take = ReaperOutput::TakeConnections(DEAD);
        assert_eq!(outputs(&mut reaper), [ReaperOutput::Buried(DEAD), take.clone(), read.clone()]);
        reaper.on_taken(DEAD, Some(100), now);
        let orphan = Orphan { name: "s".into(), hash: 7, token: Token::new(DEAD, 1) };
        let page = OrphanPage { sessions: vec![orphan], next: None };
        reaper.on_orphans(DEAD, Some(page), &[OWN], now);
        assert_eq!(outputs(&mut reaper), [ReaperOutput::Adopt { name: "s".into(), token: Token::new(DEAD, 1) }]);
        now = reaper.next_tick();
        reaper.handle_timers(now);
        assert_eq!(outputs(&mut reaper), std::slice::from_ref(&take), "at a pace");
        reaper.on_taken(DEAD, None, now);
        now = now + RETRY_MS;
        reaper.handle_timers(now);
        assert_eq!(outputs(&mut reaper), [take, read], "what was not answered, and whether all were adopted");
        reaper.on_orphans(DEAD, Some(OrphanPage { sessions: vec![], next: None }), &[OWN], now);
        assert_eq!(outputs(&mut reaper), [ReaperOutput::Adopted(DEAD)]);
        assert_eq!(report(&mut reaper, &nodes, now), [], "it is not waited for any more");
        reaper.on_taken(DEAD, Some(0), now);
        assert_eq!(outputs(&mut reaper), [ReaperOutput::Finished(DEAD)]);
        assert!(reaper.is_empty());
    }

    #[test]
    fn a_node_that_has_said_goodbye_is_not_waited_for() {
        let mut reaper = Reaper::new(OWN);
        reaper.on_gone(DEAD);
        reaper.on_gone(DEAD);
        assert_eq!(outputs(&mut reaper), [ReaperOutput::Bury(DEAD)], "once");
        // It had not told the store yet.
        reaper.on_buried(DEAD, false, Tick(0));
        let buried = [node(OWN, LEASE_MS, false), node(DEAD, 0, true)];
        assert_eq!(report(&mut reaper, &buried, Tick(5)), [ReaperOutput::Met(DEAD), ReaperOutput::Bury(DEAD)]);
    }

    #[test]
    fn a_node_that_has_just_begun_is_given_time_and_one_that_others_finish_with_is_forgotten() {
        let mut reaper = Reaper::new(OWN);
        let nodes = [node(OWN, LEASE_MS, false), node(DEAD, LEASE_MS, false)];
        assert_eq!(report(&mut reaper, &nodes, Tick(0)), []);
        assert_eq!(report(&mut reaper, &nodes, Tick(MET_MS)), [ReaperOutput::Met(DEAD)]);
        assert_eq!(report(&mut reaper, &nodes[..1], Tick(MET_MS + 1)), [ReaperOutput::Unknown(DEAD)]);
    }
}
