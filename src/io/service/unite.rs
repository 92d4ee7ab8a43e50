//! Makes one session of two that two nodes have under one name: this worker's side. Which one stays is decided in
//! `cluster::ownership::union`. The other one is fetched as any session is, and lies beside this one until the last
//! part is there; then the store makes it part of this one, in one transaction, and the shard hears of it. Whatever
//! ends before that leaves both sessions where they are, and a later walk finds them again.

use super::transfers::call;
use crate::base::id::{DiskId, Generation};
use crate::cluster::calls::Call;
use crate::cluster::ownership::claims::{SessionName, Token};
use crate::cluster::ownership::disk_calls::{DiskCall, DiskReply, NameQuery};
use crate::cluster::ownership::grantors::PeerDisk;
use crate::cluster::ownership::union::Verdict;
use crate::cluster::transfers::{Site, Standing};
use crate::io::api::query;
use crate::io::api::transfers::transfer;
use crate::io::cluster::calls::hash_of_session;
use crate::io::cluster::port::PeerEntry;
use crate::io::runtime::oneshot::ReturnAddress;
use crate::io::worker::turn::Worker;
use crate::shard::command::StoreError;
use crate::shard::command::transfer::{
    Backlog, Outcome, Position, TransferAnswer, TransferCommand, United, shadow_name,
};
use crate::shard::{Attachment, Place, Reply};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tracing::{error, info, warn};

/// Looks for sessions that peers have too. Of every worker, for its own sessions.
pub async fn run(worker: Rc<Worker>) {
    loop {
        let is_partial = note_peers(&worker);
        let walk = worker.cluster().unions().poll_walk(worker.now());
        if let Some(peer) = walk {
            self::walk(&worker, peer).await;
            continue;
        }
        let due = worker.cluster().unions().next_tick().min(worker.now() + LOOK_MS_MAX);
        // Nobody says when a table is complete.
        let nap = due.since_ms(worker.now()).min(if is_partial { TABLE_MS } else { u64::MAX });
        monoio::select! {
            _ = monoio::time::sleep(Duration::from_millis(nap)) => {}
            _ = worker.cluster().unions_due() => {}
        }
    }
}

/// True: there is a peer whose names are not all known yet.
fn note_peers(worker: &Worker) -> bool {
    let peers = worker.cluster().peers();
    let linked: Vec<&PeerEntry> = peers.iter().filter(|peer| peer.is_linked && disk_of(peer).is_some()).collect();
    let complete = linked.iter().filter(|peer| peer.table.is_complete()).map(|peer| peer.node.generation);
    let complete: Vec<Generation> = complete.collect();
    let there: Vec<Generation> = peers.iter().filter(|peer| peer.is_linked).map(|peer| peer.node.generation).collect();
    worker.cluster().unions().on_linked(&there);
    worker.cluster().unions().on_peers(&complete, worker.now());
    complete.len() < linked.len()
}

fn disk_of(peer: &PeerEntry) -> Option<DiskId> {
    match peer.disk {
        PeerDisk::Met { disk, .. } => Some(disk),
        PeerDisk::Unknown | PeerDisk::Missing => None,
    }
}

/// All names here, a slice at a time, one question at a time.
async fn walk(worker: &Rc<Worker>, peer: Generation) {
    let (mut is_settled, mut behind) = (true, None);
    loop {
        let names = worker.ownership().owned_after(behind.as_ref(), NAMES_PER_SLICE);
        let Some(last) = names.last() else { break };
        behind = Some(last.clone());
        for name in &names {
            let peers = worker.cluster().peers();
            let entry = peers.iter().find(|entry| entry.node.generation == peer && entry.is_linked);
            let Some((entry, disk)) = entry.and_then(|entry| Some((entry, disk_of(entry)?))) else {
                return worker.cluster().unions().on_walked(peer, false, worker.now());
            };
            if worker.cluster().unions().is_postponed(name, peer, worker.now()) {
                is_settled = false;
            } else if entry.table.may_have(hash_of_session(worker.shared().hash_key(), name)) {
                is_settled &= compare_with(worker, name, (peer, disk)).await;
            }
        }
        // Clients have their turn between the slices.
        monoio::time::sleep(SLICE_PAUSE).await;
    }
    worker.cluster().unions().on_walked(peer, is_settled, worker.now());
}

fn code_of(reply: DiskReply) -> Option<u32> {
    match reply {
        DiskReply::Code(code) => Some(code),
        DiskReply::Part(_) => None,
    }
}

/// False: there may be something to be done later.
async fn compare_with(worker: &Rc<Worker>, name: &SessionName, (peer, disk): (Generation, DiskId)) -> bool {
    let Some(standing) = standing(worker, name) else { return true };
    let rival = NameQuery::Rival { name: name.clone(), standing };
    let code = call(worker, peer, &DiskCall::Name(rival)).await.and_then(code_of);
    let Some(verdict) = code.and_then(Verdict::from_code) else { return false };
    let sites = (standing.site, Site { disk, node: peer });
    let is_ours = worker.cluster().unions().on_verdict(name, sites, verdict, worker.now());
    if is_ours {
        drop(monoio::spawn(unite(worker.clone(), name.clone(), peer)));
    }
    matches!(verdict, Verdict::Absent | Verdict::Keep)
}

/// `None`: there is none that stays for now.
fn standing(worker: &Worker, name: &str) -> Option<Standing> {
    let disk = worker.shared().disk().filter(|_| worker.ownership().owns(name))?;
    let attachment = worker.shard_now().union(worker.now()).attachment(name)?;
    let age_ms = match attachment {
        Attachment::Online { age_ms } => Some(age_ms),
        Attachment::Absent => None,
    };
    Some(Standing { age_ms, site: Site { disk, node: worker.shared().node() } })
}

/// A peer has asked.
pub fn compare(worker: &Worker, name: SessionName, (from, theirs): (Generation, Standing), to: ReturnAddress) {
    let verdict = match standing(worker, &name) {
        Some(own) => worker.cluster().unions().on_query(&name, from, (own, theirs), worker.now()),
        None if worker.ownership().has(&name) => Verdict::Busy,
        None => Verdict::Absent,
    };
    worker.cluster().look_for_unions();
    worker.own(|sessions, _| sessions.answer(to, verdict.code()));
}

/// The session leaves, to become part of another: what its client may have is not to be sent again under another id.
pub async fn note_sent(worker: &Worker, name: SessionName, to: ReturnAddress) {
    let launched = worker.shard_now().union(worker.now()).launched(&name);
    let is_noted = match launched {
        Some(below) => transfer(worker, TransferCommand::NoteSent { name, below }).await == TransferAnswer::Done,
        None => false,
    };
    worker.own(|sessions, _| sessions.answer(to, is_noted.into()));
}

/// The peer's session becomes part of this node's.
async fn unite(worker: Rc<Worker>, name: SessionName, peer: Generation) {
    let mut is_united = false;
    if let Some(token) = worker.ownership().expect() {
        let united = fetch(&worker, &name, token, peer).await;
        is_united = united.is_some();
        match united {
            Some(united) => report(&worker, &name, peer, &united),
            None => {
                worker.count(|counters| &counters.unions_failed);
                info!(session = &*name, node = %peer, "two sessions of one name have not become one: later again");
                // Nothing of it comes any more, and what has come is removed.
                let settled = transfer(&worker, TransferCommand::Settle { token }).await;
                if settled == TransferAnswer::Settled(Outcome::Arrived) {
                    error!(
                        session = &*name,
                        "the disk has stood still, and then united two sessions: start this node anew"
                    );
                }
            }
        }
        let is_known = query::until_all_know(&worker).await;
        worker.own(|sessions, _| sessions.on_united(token));
        // Should it not arrive, the peer asks by itself.
        if is_known {
            let _ = query::query_node(&worker, peer, &Call::Passed { name: &name }).await;
        }
    }
    worker.cluster().unions().on_fetched(&name, is_united, worker.now());
}

fn report(worker: &Worker, name: &SessionName, peer: Generation, united: &United) {
    let United { taken, repeats, uncertain } = united;
    worker.count(|counters| &counters.sessions_united);
    worker.count_many(|counters| &counters.messages_uncertain, u64::from(*uncertain));
    info!(session = &**name, node = %peer, messages = taken.messages, repeats, "two sessions have become one");
    if *uncertain > 0 {
        warn!(
            session = &**name,
            messages = uncertain,
            "dropped: QoS 2 messages of a session that has become part of another; its client may have them or not"
        );
    }
}

async fn fetch(worker: &Worker, name: &SessionName, token: Token, peer: Generation) -> Option<United> {
    let passed = query::query_node(worker, peer, &Call::Pass { name, token }).await;
    if !matches!(passed, Ok(Reply::Done { connections: 1.., .. })) {
        return None;
    }
    let note = DiskCall::Name(NameQuery::NoteSent { name: name.clone() });
    call(worker, peer, &note).await.and_then(code_of).filter(|noted| *noted == 1)?;
    let (deadline, mut next) = (worker.now() + FETCH_MS_MAX, Some(Position::Start));
    let (mut backlog, mut channels) = (Backlog::default(), Vec::new());
    while let Some(from) = next {
        let read = DiskCall::Read { name: name.clone(), token, from };
        let Some(DiskReply::Part(mut part)) = call(worker, peer, &read).await else { return None };
        channels.append(&mut part.into_shadow(token));
        backlog.add(&part.messages);
        // It does not come as a session of its own: the last part is like those before.
        next = part.next.take();
        part.next = next.clone().or(Some(Position::Start));
        let write = TransferCommand::Write { name: shadow_name(token), token, part };
        if worker.now() >= deadline || carry_out(worker, write).await != TransferAnswer::Done {
            return None;
        }
    }
    merge(worker, (name, channels), token, backlog).await
}

/// The store gets it behind all that the shard has given out for the session, and before whatever follows.
async fn merge(
    worker: &Worker,
    (name, channels): (&SessionName, Vec<Arc<str>>),
    token: Token,
    backlog: Backlog,
) -> Option<United> {
    let now = worker.now();
    let place = worker.shard_now().union(now).begin(name, backlog, channels)?;
    worker.carry_out();
    let Place { session, first, ref channels, .. } = place;
    let unite = TransferCommand::Unite { name: name.clone(), token, session, first, channels: channels.clone() };
    let united = match carry_out(worker, unite).await {
        TransferAnswer::United(united) => Some(united),
        _ => None,
    };
    worker.shard_now().union(worker.now()).end(place, united.map(|united| united.taken));
    worker.carry_out();
    worker.wakeups().need_turn();
    united
}

/// Again while it is not known whether it was done: a second time changes nothing.
async fn carry_out(worker: &Worker, command: TransferCommand) -> TransferAnswer {
    let unknown = TransferAnswer::Refused(StoreError::Unreachable);
    for _ in 1..STORE_ATTEMPTS {
        let answer = transfer(worker, command.clone()).await;
        if answer != unknown {
            return answer;
        }
    }
    transfer(worker, command).await
}

/// Walks are due when a peer comes, which is said, and at times that are known.
const LOOK_MS_MAX: u64 = 60_000;
/// A table is complete a few round trips after the link is up.
const TABLE_MS: u64 = 200;
const NAMES_PER_SLICE: usize = 1_000;
const SLICE_PAUSE: Duration = Duration::from_millis(1);
const FETCH_MS_MAX: u64 = 30_000;
/// Each waits as long as a disk may stand still. One that stands still for longer has failed.
const STORE_ATTEMPTS: u32 = 12;
