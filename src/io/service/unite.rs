//! Makes one session of two that two nodes have under one name: this worker's side. Which one stays is decided in
//! `cluster::ownership::union`, and the steps by which the other one becomes part of it in its `fetch`; here they are
//! carried out. What fails is found again by a later walk.

use super::transfers::call;
use crate::base::id::{DiskId, Generation};
use crate::cluster::calls::Call;
use crate::cluster::ownership::claims::{SessionName, Token};
use crate::cluster::ownership::disk_calls::{DiskCall, DiskReply, NameQuery};
use crate::cluster::ownership::grantors::PeerDisk;
use crate::cluster::ownership::union::fetch::{Action, End, Fetch};
use crate::cluster::ownership::union::{NAMES_MAX, Names, Verdict};
use crate::cluster::transfers::{Site, Standing};
use crate::io::api::query;
use crate::io::api::transfers::transfer;
use crate::io::cluster::calls::hash_of_session;
use crate::io::cluster::port::PeerEntry;
use crate::io::runtime::oneshot::ReturnAddress;
use crate::io::worker::turn::Worker;
use crate::shard::command::transfer::{SessionPart, TransferAnswer, TransferCommand, United};
use crate::shard::{Attachment, Reply};
use std::rc::Rc;
use std::time::Duration;
use tracing::{error, info, warn};

/// Looks for sessions that peers have too. Of every worker, for its own sessions.
pub async fn run(worker: Rc<Worker>) {
    loop {
        let is_partial = note_peers(&worker);
        let walk = worker.cluster().unions().poll_walk(worker.now());
        if let Some((peer, names)) = walk {
            let left = self::walk(&worker, peer, names).await;
            worker.cluster().unions().on_walked(peer, left, worker.now());
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

/// The names here, a slice at a time, one question at a time. Returns what is to be done later.
async fn walk(worker: &Rc<Worker>, peer: Generation, names: Names) -> Names {
    let mut left = Vec::new();
    match names {
        Names::These(names) => {
            if walk_slice(worker, peer, &names, &mut left).await.is_none() {
                return Names::All;
            }
        }
        Names::All => {
            let mut behind = None;
            loop {
                let names = worker.ownership().owned_after(behind.as_ref(), NAMES_PER_SLICE);
                let Some(last) = names.last() else { break };
                behind = Some(last.clone());
                if walk_slice(worker, peer, &names, &mut left).await.is_none() {
                    return Names::All;
                }
                // Clients have their turn between the slices.
                monoio::time::sleep(SLICE_PAUSE).await;
            }
        }
    }
    Names::These(left)
}

/// `None`: the peer is gone.
async fn walk_slice(
    worker: &Rc<Worker>,
    peer: Generation,
    names: &[SessionName],
    left: &mut Vec<SessionName>,
) -> Option<()> {
    for name in names {
        let peers = worker.cluster().peers();
        let entry = peers.iter().find(|entry| entry.node.generation == peer && entry.is_linked)?;
        let disk = disk_of(entry)?;
        let is_postponed = worker.cluster().unions().is_postponed(name, peer, worker.now());
        let may_have = entry.table.may_have(hash_of_session(worker.shared().hash_key(), name));
        let is_left = is_postponed || may_have && !compare_with(worker, name, (peer, disk)).await;
        // One more means all.
        if is_left && left.len() <= NAMES_MAX {
            left.push(name.clone());
        }
    }
    Some(())
}

/// A session has come here, or stays here.
pub fn look_for(worker: &Worker, name: &SessionName) {
    worker.cluster().unions().look_for(name, worker.now());
    worker.cluster().look_for_unions();
}

fn part_of(reply: DiskReply) -> Option<Box<SessionPart>> {
    match reply {
        DiskReply::Part(part) => Some(part),
        DiskReply::Code(_) => None,
    }
}

fn code_of(reply: DiskReply) -> Option<u32> {
    match reply {
        DiskReply::Code(code) => Some(code),
        DiskReply::Part(_) => None,
    }
}

/// False: there may be something to be done later.
async fn compare_with(worker: &Rc<Worker>, name: &SessionName, (peer, disk): (Generation, DiskId)) -> bool {
    // It is on its way, or not certain for a moment; or it has gone.
    let Some(standing) = standing(worker, name) else { return !worker.ownership().has(name) };
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
        let end = fetch(&worker, &name, token, peer).await;
        is_united = matches!(end, End::United(_));
        report(&worker, &name, peer, &end);
        let is_known = query::until_all_know(&worker).await;
        worker.own(|sessions, _| sessions.on_united(token));
        // Should it not arrive, the peer asks by itself.
        if is_known {
            let _ = query::query_node(&worker, peer, &Call::Passed { name: &name }).await;
        }
    }
    worker.cluster().unions().on_fetched(&name, is_united, worker.now());
}

fn report(worker: &Worker, name: &SessionName, peer: Generation, end: &End) {
    let End::United(United { taken, repeats, uncertain }) = end else {
        worker.count(|counters| &counters.unions_failed);
        info!(session = &**name, node = %peer, "two sessions of one name have not become one: later again");
        if *end == End::TooLate {
            error!(session = &**name, "the disk has stood still, and then united two sessions: start this node anew");
        }
        return;
    };
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

/// Carries out the steps.
async fn fetch(worker: &Worker, name: &SessionName, token: Token, peer: Generation) -> End {
    let (mut fetch, mut step) = (Fetch::new(name.clone(), token, worker.now()), Action::Pass);
    let mut place = None;
    loop {
        step = match step {
            Action::Pass => {
                let passed = query::query_node(worker, peer, &Call::Pass { name, token }).await;
                fetch.on_replied(matches!(passed, Ok(Reply::Done { connections: 1.., .. })))
            }
            Action::NoteSent => {
                let note = DiskCall::Name(NameQuery::NoteSent { name: name.clone() });
                fetch.on_replied(call(worker, peer, &note).await.and_then(code_of) == Some(1))
            }
            Action::Read(from) => {
                let read = DiskCall::Read { name: name.clone(), token, from };
                let part = call(worker, peer, &read).await.and_then(part_of);
                fetch.on_part(part, worker.now())
            }
            Action::Store(command) => fetch.on_stored(transfer(worker, command).await),
            Action::Begin { backlog, channels } => {
                place = worker.shard_now().union(worker.now()).begin(name, backlog, channels);
                worker.carry_out();
                fetch.on_place(place.as_ref().map(|place| place.room.clone()))
            }
            Action::End { taken } => {
                let place = place.take().expect("they were to become one there");
                worker.shard_now().union(worker.now()).end(place, taken);
                worker.carry_out();
                worker.wakeups().need_turn();
                fetch.on_ended()
            }
            Action::Over(end) => return end,
        };
    }
}

/// Walks are due when a peer comes, which is said, and at times that are known.
const LOOK_MS_MAX: u64 = 60_000;
/// A table is complete a few round trips after the link is up.
const TABLE_MS: u64 = 200;
const NAMES_PER_SLICE: usize = 1_000;
const SLICE_PAUSE: Duration = Duration::from_millis(1);
