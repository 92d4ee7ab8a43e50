//! The end of a worker: nobody new, the sessions without a client to the other nodes, then the clients at a pace
//! (`policy::drain`), their sessions after them, and everything that is under way to its end.

use crate::base::id::{Generation, ShardId};
use crate::base::time::{Tick, ms};
use crate::cluster::calls::Call;
use crate::cluster::ownership::rendezvous;
use crate::cluster::transfers::TransferCall;
use crate::io::api::query;
use crate::io::runtime::{clock, net, sys};
use crate::io::worker::turn::Worker;
use crate::policy::drain::{DrainPace, DrainTerms};
use crate::shard::{DrainScope, OfferWalk, Reply};
use std::cell::{Cell, RefCell};
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tracing::{debug, info, warn};

/// Waits until the worker has to end, then ends it. Returns when all is sent and answered, or time is over.
pub async fn run(worker: &Rc<Worker>, listeners: &[RawFd]) {
    worker.wakeups().drain_requested().await;
    let (id, timeout) = (worker.id(), ms(worker.rules().config().shutdown_timeout));
    let begun = clock::monotonic();
    let (settle_by, over) = (begun + timeout / 2, begun + timeout.saturating_sub(RESERVE_MS));
    for &listener in listeners {
        net::shutdown(listener);
    }
    worker.hooks().release_closes();
    let offers = Rc::new(Offers::default());
    hand_over_absent(worker, &offers, begun + timeout / 4).await;
    let clients = worker.shard().len();
    let (rate, workers) = (worker.rules().config().drain_rate, worker.shared().workers_len());
    let terms = DrainTerms { rate, workers, clients, settle_by, over, seed: sys::draw() };
    let mut pace = DrainPace::new(terms, clock::monotonic());
    debug!(worker = id.0, clients, rate, "draining");
    let (mut is_noted, mut is_parted) = (false, false);
    loop {
        close_some(worker, &mut pace, settle_by);
        offers.make(worker);
        worker.send_receipts();
        let (left, now) = (worker.shard().slots(), clock::monotonic());
        let is_settled = left == 0 && worker.is_settled() && (offers.are_over(worker) || now >= settle_by);
        if is_settled && !is_noted {
            is_noted = true;
            // That nothing is here any more, too: else what was here is looked for behind the end.
            query::until_known(worker).await;
            let leaves_sessions = worker.shard().sessions_len() > 0 || !worker.ownership().is_empty();
            worker.shared().note_drained(leaves_sessions);
        }
        let is_over = is_settled && worker.shared().are_all_drained();
        if is_over && !is_parted && id == ShardId(0) && worker.shared().leaves_no_sessions() {
            is_parted = true;
            part(worker, over).await;
        }
        // Last of all: once the channel is closed, no connection can be handed over to here any more.
        if is_over && worker.shared().handovers().is_none_or(|channels| channels.close(id)) {
            return info!(worker = id.0, "drained");
        }
        if now >= over {
            let closes = worker.hooks().closes_left();
            return warn!(worker = id.0, left, closes, "shutdown_timeout is over; what is left is dropped");
        }
        monoio::time::sleep(Duration::from_millis(STEP_MS)).await;
    }
}

/// The sessions that no client has here; their messages then have an owner that stays.
async fn hand_over_absent(worker: &Rc<Worker>, offers: &Rc<Offers>, until: Tick) {
    loop {
        offers.make(worker);
        if offers.are_over(worker) || clock::monotonic() >= until {
            return;
        }
        monoio::time::sleep(Duration::from_millis(STEP_MS)).await;
    }
}

/// Clients that wait for an answer get it first, until `settle_by`.
fn close_some(worker: &Worker, pace: &mut DrainPace, settle_by: Tick) {
    let now = clock::monotonic();
    let due = pace.due(worker.shard().len(), now);
    let scope = if now < settle_by { DrainScope::Settled } else { DrainScope::All };
    let closed = worker.close_some(due, scope, || pace.reason());
    pace.closed(closed);
}

/// Sessions that other nodes are to have: each is offered once. What nobody takes is adopted when this node has ended.
#[derive(Default)]
struct Offers {
    walk: RefCell<OfferWalk>,
    under_way: Cell<usize>,
}

impl Offers {
    fn make(self: &Rc<Offers>, worker: &Rc<Worker>) {
        let peers = linked(worker);
        if peers.is_empty() {
            return;
        }
        let most = OFFERS_MAX - self.under_way.get();
        let names = worker.shard().offer_sessions(&mut self.walk.borrow_mut(), most);
        for name in names {
            let hash = worker.shared().hash_key().hash(&name);
            let to = rendezvous::winner(hash, peers.iter().copied()).expect("there is one at least");
            self.under_way.set(self.under_way.get() + 1);
            drop(monoio::spawn(offer(worker.clone(), self.clone(), to, name)));
        }
    }

    /// Nothing is left to be handed over, as far as somebody takes it.
    fn are_over(&self, worker: &Worker) -> bool {
        let are_offered = || self.under_way.get() == 0 && worker.shard().are_offers_over(&self.walk.borrow());
        linked(worker).is_empty() || are_offered() && !worker.ownership().stands_in()
    }
}

async fn offer(worker: Rc<Worker>, offers: Rc<Offers>, to: Generation, name: Arc<str>) {
    let replied = query::query_node(&worker, to, &Call::Offer { name: &name }).await;
    offers.under_way.set(offers.under_way.get() - 1);
    if !matches!(replied, Ok(Reply::Done { connections: 1.., .. })) {
        worker.shard().decline_offer(&name);
    }
}

/// Nothing is left on this disk: the others need not look for this node. Who does not hear it misses the node until it
/// is back.
async fn part(worker: &Worker, over: Tick) {
    if !worker.ownership().has_disk() {
        return;
    }
    let node = worker.shared().node();
    let parting = async {
        for peer in linked(worker) {
            let _ = query::query_node(worker, peer, &Call::Transfer(TransferCall::Part { node })).await;
        }
    };
    let left_ms = over.since_ms(clock::monotonic()).min(PART_MS_MAX);
    monoio::select! {
        () = parting => {}
        () = monoio::time::sleep(Duration::from_millis(left_ms)) => {}
    }
}

/// Nodes that can take sessions.
fn linked(worker: &Worker) -> Vec<Generation> {
    if !worker.ownership().is_shared() {
        return Vec::new();
    }
    worker.cluster().peers().iter().filter(|peer| peer.is_linked).map(|peer| peer.node.generation).collect()
}

const STEP_MS: u64 = 20;
const RESERVE_MS: u64 = 500;
const OFFERS_MAX: usize = 256;
const PART_MS_MAX: u64 = 1_000;
