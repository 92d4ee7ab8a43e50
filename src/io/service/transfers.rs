//! What sessions that move from disk to disk need of other nodes: calls, and who has had which lives. The rules are in
//! `cluster::ownership::disks`.

use crate::base::id::{DiskId, Generation};
use crate::cluster::calls::Call;
use crate::cluster::ownership::disk_calls::{DiskCall, DiskReply};
use crate::cluster::transfers::{DiskReport, TransferCall};
use crate::io::api::{query, transfers};
use crate::io::cluster::port::ToCluster;
use crate::io::runtime::clock;
use crate::io::worker::turn::Worker;
use crate::shard::command::transfer::{TransferAnswer, TransferCommand};
use crate::shard::command::{StoredSession, Token};
use crate::shard::{Input, Reply};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// Sessions that were leaving for other nodes' disks: nobody's, until it is known what became of them.
pub fn restore_leaving(worker: &Worker, leaving: Vec<(StoredSession, Token)>) {
    let now = worker.now();
    for (session, token) in leaving {
        let name = session.row.name.clone();
        let mut shard = worker.shard_now();
        shard.restore(vec![session], now);
        shard.handle(Input::PassSession { name: &name }, now);
        drop(shard);
        worker.ownership().leaves(name, token);
    }
    worker.carry_out();
}

/// Asks each node that comes which lives it has had: what they had is on its disk. Of one worker.
pub async fn meet_peers(worker: Rc<Worker>) {
    let mut met: BTreeSet<Generation> = BTreeSet::new();
    loop {
        worker.cluster().new_peers().await;
        // Until all have said which disk they have, no session is made here.
        loop {
            let peers = worker.cluster().peers();
            let new = peers.iter().filter(|peer| peer.is_linked).map(|peer| peer.node.generation);
            let new: Vec<Generation> = new.filter(|node| !met.contains(node)).collect();
            for node in &new {
                if meet(&worker, *node).await {
                    met.insert(*node);
                }
            }
            if new.iter().all(|node| met.contains(node)) {
                break;
            }
            monoio::time::sleep(MEET_RETRY).await;
        }
    }
}

async fn meet(worker: &Worker, node: Generation) -> bool {
    let Ok(gathered) = query::gather_from(worker, node, &Call::Transfer(TransferCall::Lives)).await else {
        return false;
    };
    let report = gathered.texts.first().and_then(|text| serde_json::from_str::<DiskReport>(text).ok());
    let Some(DiskReport { disk, lives }) = report else { return false };
    let (disk, lives): (_, Vec<Generation>) = (disk.map(DiskId), lives.into_iter().map(Generation).collect());
    if let Some(disk) = disk {
        let meet = TransferCommand::Meet { node, disk, lives: lives.clone() };
        if transfers::transfer(worker, meet).await != TransferAnswer::Done {
            return false;
        }
    }
    let port = worker.cluster().port();
    port.is_some_and(|port| port.try_send(ToCluster::Lives { node, disk, lives }).is_ok())
}

/// What the metrics say of sessions that move.
pub fn publish(worker: &Worker) {
    let (fetched, failed) = worker.ownership().take_fetches();
    worker.count_many(|counters| &counters.sessions_fetched, fetched);
    worker.count_many(|counters| &counters.session_fetches_failed, failed);
    worker.shared().metrics().worker(worker.id()).sessions_moving.set(worker.ownership().moving_len() as u64);
}

/// Calls another node about a session that moves. `None`: it cannot be reached, or refuses.
pub async fn call(worker: &Worker, node: Generation, call: &DiskCall) -> Option<DiskReply> {
    let gathered = query::gather_from(worker, node, &Call::Transfer(call.transfer_call())).await.ok()?;
    match (gathered.part, gathered.reply) {
        (Some(mut part), _) => {
            part.set_clock(clock::stored_unix_ms());
            Some(DiskReply::Part(part))
        }
        (None, Some(Reply::Done { connections, refused: None })) => Some(DiskReply::Code(connections)),
        _ => None,
    }
}

const MEET_RETRY: Duration = Duration::from_millis(200);
