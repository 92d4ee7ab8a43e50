//! Sessions that go from one node's disk to another's: this worker's errands. The rules are in `io::cluster::disks` and
//! `cluster::ownership`; every wait here has a deadline, and an errand that fails leaves the session where it is, or
//! nobody's until its destination says what became of it.

use super::grants::Grants;
use super::unite;
use crate::base::id::{DiskId, Generation};
use crate::cluster::calls::Call;
use crate::cluster::ownership::claims::{ClaimAnswer, RequestId, SessionName, Token};
use crate::cluster::ownership::creation::GRANT_MS;
use crate::cluster::transfers::{DiskReport, Settled, TransferCall};
use crate::io::api::query;
use crate::io::api::transfers::{self, call_peer, read_part};
use crate::io::cluster::calls::hash_of_session;
use crate::io::cluster::disks::DiskErrand;
use crate::io::cluster::port::ToCluster;
use crate::io::worker::turn::Worker;
use crate::shard::Input;
use crate::shard::command::transfer::{Outcome, Position, TransferAnswer, TransferCommand};
use crate::shard::command::{OwnershipAnswer, StoreError, StoredSession, WriteAnswer};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

pub async fn run(worker: &Rc<Worker>, errand: DiskErrand) {
    publish_moving(worker);
    run_errand(worker, errand).await;
    publish_moving(worker);
}

fn publish_moving(worker: &Worker) {
    let metrics = worker.shared().metrics().worker(worker.id());
    metrics.sessions_moving.set(worker.ownership().moving_len() as u64);
}

async fn run_errand(worker: &Rc<Worker>, errand: DiskErrand) {
    match errand {
        DiskErrand::Find { name, token } => find(worker, name, token).await,
        DiskErrand::Fetch { name, token, transfer, from } => {
            let session = fetch(worker, &name, transfer, from).await;
            let answer = if session.is_some() { ClaimAnswer::Claimed } else { ClaimAnswer::Unknown };
            worker.count(|counters| match answer {
                ClaimAnswer::Claimed => &counters.sessions_fetched,
                _ => &counters.session_fetches_failed,
            });
            claimed(worker, name, token, answer, session);
            query::until_known(worker).await;
            worker.own(|sessions, _| sessions.on_fetched(transfer));
        }
        DiskErrand::Freeze { name, token, to } => freeze(worker, name, token, to).await,
        DiskErrand::Settle { name, token } => settle(worker, name, token).await,
        DiskErrand::Thaw { name, token } => drop(end(worker, &name, token, Outcome::Never).await),
        DiskErrand::NoteSent { name, to } => unite::note_sent(worker, name, to).await,
        DiskErrand::Compare { name, standing, from, to } => unite::compare(worker, name, (from, standing), to),
        DiskErrand::Decide { token, to } => {
            if let TransferAnswer::Settled(outcome) =
                transfers::transfer(worker, TransferCommand::Settle { token }).await
            {
                worker.own(|sessions, _| sessions.answer(to, Settled::Known(outcome).code()));
            }
        }
    }
}

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

fn claimed(worker: &Worker, name: SessionName, token: Token, answer: ClaimAnswer, session: Option<Box<StoredSession>>) {
    worker.own(|sessions, now| {
        sessions.on_answer(OwnershipAnswer::Claim { name, token, answer, session }, now);
    });
    worker.carry_out();
}

/// Nobody creates or looks for a session of that name at the same time.
async fn find(worker: &Rc<Worker>, name: SessionName, token: Token) {
    if let Some(ready) = worker.cluster().ready(worker.now()) {
        let _ = ready.await;
    }
    let begun = worker.now();
    let grants = Grants::obtain(worker, &name, RequestId(token.0)).await;
    let answer = match grants.are_whole() {
        true => match located(worker, &name, token).await {
            // The grant may be another node's soon.
            ClaimAnswer::Claimed if worker.now().since_ms(begun) >= GRANT_MS / 2 => ClaimAnswer::Unknown,
            answer => answer,
        },
        false => ClaimAnswer::Unknown,
    };
    claimed(worker, name.clone(), token, answer, None);
    if answer == ClaimAnswer::Claimed {
        query::until_known(worker).await;
    }
    grants.release(worker).await;
}

/// `Claimed`: it is nowhere. `Taken`: a node has it.
async fn located(worker: &Worker, name: &str, token: Token) -> ClaimAnswer {
    let hash = hash_of_session(worker.shared().hash_key(), name);
    for peer in worker.cluster().peers().iter().filter(|peer| peer.table.may_have(hash)) {
        let node = peer.node.generation;
        match call_peer(worker, node, TransferCall::Has { name }).await {
            Some(0) => {}
            Some(_) => return ClaimAnswer::Taken(Some(Token::new(node, token.0 | 1))),
            // It may be there.
            None => return ClaimAnswer::Unknown,
        }
    }
    ClaimAnswer::Claimed
}

/// Copies the session to this disk, part by part.
async fn fetch(worker: &Worker, name: &SessionName, transfer: Token, from: Generation) -> Option<Box<StoredSession>> {
    let deadline = worker.now() + FETCH_MS_MAX;
    let mut next = Position::Start;
    while worker.now() < deadline {
        let Some(part) = read_part(worker, name, transfer, &next, from).await else { break };
        let following = part.next.clone();
        let write = TransferCommand::Write { name: name.clone(), token: transfer, part };
        let mut written = transfers::transfer(worker, write.clone()).await;
        if written == TransferAnswer::Refused(StoreError::Unreachable) {
            // A second time changes nothing.
            written = transfers::transfer(worker, write).await;
        }
        match (written, following) {
            (TransferAnswer::Here(session), _) => return Some(session),
            (TransferAnswer::Done, Some(following)) => next = following,
            _ => break,
        }
    }
    // Nothing of it comes any more, and what has come is removed.
    transfers::transfer(worker, TransferCommand::Settle { token: transfer }).await;
    None
}

/// The session is this node's no longer, once that is on its disk.
async fn freeze(worker: &Worker, name: SessionName, token: Token, to: Token) {
    let frozen = transfers::transfer(worker, TransferCommand::Freeze { name: name.clone(), token: to }).await;
    let answer = match frozen {
        TransferAnswer::Done => WriteAnswer::Stored,
        TransferAnswer::NotHere => WriteAnswer::Fenced,
        _ => WriteAnswer::Unknown,
    };
    worker.own(|sessions, now| {
        sessions.on_frozen(&name, now);
        sessions.on_answer(OwnershipAnswer::Pass { name, token, answer }, now);
    });
}

/// Learns what became of a session that leaves, and does what follows.
async fn settle(worker: &Worker, name: SessionName, token: Token) {
    let Some((outcome, by)) = outcome(worker, &name, token).await else {
        return worker.own(|sessions, now| sessions.on_unsettled(&name, now));
    };
    if end(worker, &name, token, outcome).await {
        // Should it not arrive, a row stays there.
        call_peer(worker, by, TransferCall::Forget { token }).await;
    }
}

/// The session leaves this disk, or stays. False: the store did not do it.
async fn end(worker: &Worker, name: &SessionName, token: Token, outcome: Outcome) -> bool {
    let command = match outcome {
        Outcome::Arrived => TransferCommand::Delete { name: name.clone(), token },
        Outcome::Never | Outcome::Foreign => TransferCommand::Thaw { name: name.clone(), token },
    };
    match (outcome, transfers::transfer(worker, command).await) {
        (Outcome::Arrived, TransferAnswer::Done | TransferAnswer::NotHere) => {
            worker.own(|sessions, _| sessions.on_left(name));
        }
        (Outcome::Never, TransferAnswer::Here(session)) => worker.own(|sessions, _| sessions.on_back(session)),
        _ => {
            worker.own(|sessions, now| sessions.on_unsettled(name, now));
            return false;
        }
    }
    true
}

/// By the word of the disk to which the session was to come, whichever life of its node has it.
async fn outcome(worker: &Worker, name: &str, token: Token) -> Option<(Outcome, Generation)> {
    let peers = worker.cluster().peers();
    let first = peers.iter().filter(|peer| Some(peer.node.generation) == token.owner());
    let others = peers.iter().filter(|peer| Some(peer.node.generation) != token.owner());
    for peer in first.chain(others).filter(|peer| peer.is_linked) {
        let node = peer.node.generation;
        let code = call_peer(worker, node, TransferCall::Settle { name, token }).await;
        match code.and_then(Settled::from_code) {
            Some(Settled::Known(Outcome::Foreign)) | None => {}
            Some(Settled::Known(outcome)) => return Some((outcome, node)),
            Some(Settled::Pending) => return None,
        }
    }
    None
}

/// Its client waits for a minute at most.
const FETCH_MS_MAX: u64 = 30_000;
const MEET_RETRY: Duration = Duration::from_millis(200);
