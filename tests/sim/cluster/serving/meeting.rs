//! Which nodes there are, and which disk each of them has.

use super::{HASH_KEY, Purpose, Serving, Transfer};
use rainbow::base::id::{DiskId, Generation};
use rainbow::base::time::Tick;
use rainbow::cluster::calls::{Answer, Call};
use rainbow::cluster::directory::waiting::Outcome;
use rainbow::cluster::node::PeerView;
use rainbow::cluster::ownership::disk_calls::Peers;
use rainbow::cluster::ownership::grantors::Grantor;
use rainbow::cluster::transfers::{DiskReport, TransferCall};
use rainbow::io::cluster::ownership::SeenPeers;
use rainbow::shard::command::transfer::TransferCommand;

impl Serving {
    /// As `io::cluster::state` publishes them.
    pub fn set_peers(&mut self, peers: &[PeerView], now: Tick) {
        self.entries = self.looked_for.entries(peers).into();
        self.peers = peers.to_vec();
        // What goes over a link ends with it.
        let is_linked = |node| self.entries.iter().any(|peer| peer.is_linked && peer.node.generation == node);
        let lost: Vec<u64> = self.calls.iter().filter(|(_, open)| !is_linked(open.to)).map(|(id, _)| *id).collect();
        lost.into_iter().for_each(|id| self.end_call(id, None, now));
        self.meet(now);
        self.look_for_rivals(now);
    }

    /// Asks each node that comes which lives it has had.
    pub(super) fn meet(&mut self, now: Tick) {
        self.meet_at = Tick::NEVER;
        let linked = self.entries.iter().filter(|peer| peer.is_linked).map(|peer| peer.node.generation);
        let new: Vec<Generation> = linked.filter(|node| !self.met.contains(node)).collect();
        for node in new {
            self.met.insert(node);
            self.call(node, &Call::Transfer(TransferCall::Lives), Purpose::Lives, now);
        }
    }

    pub(super) fn on_lives(&mut self, node: Generation, answer: Option<Answer>, now: Tick) {
        let report = match answer {
            Some(Answer::Text(text)) => serde_json::from_str::<DiskReport>(&text).ok(),
            _ => None,
        };
        let Some(DiskReport { disk: Some(disk), lives }) = report else { return self.meet_later(node, now) };
        let (disk, lives): (_, Vec<Generation>) = (DiskId(disk), lives.into_iter().map(Generation).collect());
        let meet = TransferCommand::Meet { node, disk, lives: lives.clone() };
        self.transfer(meet, Transfer::Meet { node, disk, lives });
    }

    pub(super) fn meet_later(&mut self, node: Generation, now: Tick) {
        self.met.remove(&node);
        self.meet_at = self.meet_at.min(now + 200);
    }

    pub(super) fn seen(&self) -> SeenPeers {
        let own = Grantor { disk: self.disk, node: self.own };
        SeenPeers::new(own, HASH_KEY, self.entries.clone())
    }

    pub fn on_ready(&mut self, now: Tick) {
        // Nor before the peers have said which disks they have.
        if self.awaiting_ready.is_empty() || self.seen().grantors("", now).is_none() {
            return;
        }
        for id in std::mem::take(&mut self.awaiting_ready) {
            self.ownership.on_waited(id, Outcome::Known);
        }
    }
}
