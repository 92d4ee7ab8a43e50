//! Handover to another worker: a connection goes on in the worker that owns its session.
//!
//! ```text
//! origin: HandoverChannels::send ─► the copy of the socket here is closed
//! owner:  receive ─► adopt ─► HandedOver to the origin ─► attach ─► the client's task, or 503
//! ```
//! The slot at the origin stays until the connection ends, because the identity that the backend knows leads to it.

use super::refusal::ConnectRefusal;
use super::{lifecycle, task};
use crate::base::client::trace_parent::TraceParent;
use crate::base::client::{ClientAddress, ClientContext};
use crate::base::id::{ConnKey, Identity};
use crate::io::handover::channel::{Arrival, NotHandedOver};
use crate::io::handover::session_request::SessionRequest;
use crate::io::http::connection;
use crate::io::runtime::oneshot::Oneshot;
use crate::io::runtime::socket::Socket;
use crate::io::worker::connecting::AttachOutcome;
use crate::io::worker::descriptors::Purpose;
use crate::io::worker::message::PeerMessage;
use crate::io::worker::turn::Worker;
use crate::policy::admission::Place;
use crate::shard::command::StoreError;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;
use tracing::debug;

/// Hands a connection that the backend has let in to the owner of its session. When that is not possible, the socket
/// comes back with the reason.
pub async fn hand_over(
    worker: &Rc<Worker>,
    key: ConnKey,
    socket: Socket,
    arrival: Arrival,
) -> Result<(), (Socket, ConnectRefusal)> {
    let owner = worker.shared().session_owner(&arrival.session.name);
    let limits = worker.limits();
    let mut arrival = Box::new(arrival);
    for _ in 0..limits.handover_attempts_max {
        // The client would wait for as long as the worker does not turn.
        if worker.shared().heartbeats().is_stuck(owner, worker.now()) {
            break;
        }
        let channels = worker.shared().handovers().expect("there are channels where there are workers and a store");
        match channels.send(owner, socket.fd(), arrival) {
            Ok(()) => {
                worker.count(|counters| &counters.handovers);
                worker.sockets().detach(key.index);
                return Ok(());
            }
            Err((back, NotHandedOver::Full)) => arrival = back,
            Err((back, _)) => {
                arrival = back;
                break;
            }
        }
        monoio::time::sleep(Duration::from_millis(limits.handover_retry_ms)).await;
    }
    worker.count(|counters| &counters.handovers_failed);
    lifecycle::abandon(worker, key);
    let Arrival { identity, session, address, .. } = *arrival;
    worker.hooks().close_refused(identity, context_of(worker, &session, address), worker.now());
    Err((socket, ConnectRefusal::OwnerBusy))
}

/// Takes over the connections that wait in this worker's channel, a bounded number.
pub fn take_over(worker: &Rc<Worker>) {
    let Some(channels) = worker.shared().handovers() else { return };
    for _ in 0..worker.limits().handovers_per_turn {
        let Some((fd, arrival)) = channels.receive(worker.id()) else { return };
        arrive(worker, fd, *arrival);
    }
}

fn arrive(worker: &Rc<Worker>, fd: Option<OwnedFd>, arrival: Arrival) {
    let Arrival { identity, address, origin, session, early, place } = arrival;
    let context = context_of(worker, &session, address);
    let accepted = session.greets.then(|| session.response.clone());
    // The last descriptors are for backends.
    let fd = fd.filter(|_| worker.descriptors().has_room(Purpose::Handover));
    let Some(Ok(socket)) = fd.map(Socket::new) else {
        worker.count(|counters| &counters.handovers_failed);
        worker.descriptors().handover_lost(worker.now());
        worker.hooks().close_refused(identity, context, worker.now());
        return worker.send_message(origin.shard, PeerMessage::HandoverFailed { origin });
    };
    let key = lifecycle::adopt(worker, identity, origin, socket.fd());
    worker.shard().set_client(key, context.clone());
    worker.send_message(origin.shard, PeerMessage::HandedOver { origin, to: key });
    let attached = lifecycle::attach(worker, key, identity, session);
    let client = ArrivedClient { key, identity, context, socket, early, place, attached, accepted };
    worker.spawn(Box::pin(attach(worker.clone(), client)));
}

struct ArrivedClient {
    key: ConnKey,
    identity: Identity,
    /// For the close hook, should it not be attached.
    context: ClientContext,
    socket: Socket,
    early: Vec<u8>,
    place: Place,
    attached: Oneshot<AttachOutcome>,
    /// The 101 of a client that hears of a refusal behind it.
    accepted: Option<Vec<u8>>,
}

/// Waits for the store. The client's task is one of its own, so that nothing of this one stays with it.
async fn attach(worker: Rc<Worker>, client: ArrivedClient) {
    let ArrivedClient { key, identity, context, socket, early, place, attached, accepted } = client;
    match attached.await.unwrap_or(Err(StoreError::Unreachable)) {
        Ok(()) => {
            let trace_id = context.trace_parent().map(TraceParent::trace_id);
            debug!(%identity, trace_id, "open, handed over to here");
            monoio::spawn(task::run(worker, socket, key, early, place));
        }
        Err(why) => {
            lifecycle::abandon(&worker, key);
            worker.hooks().close_refused(identity, context, worker.now());
            let why = ConnectRefusal::SessionNotStored(why);
            connection::refuse(worker, socket, |out| why.write(out, accepted)).await;
        }
    }
}

fn context_of(worker: &Worker, session: &SessionRequest, address: ClientAddress) -> ClientContext {
    let (cookie, user) = (session.grant.cookie.as_deref(), session.grant.user.as_deref());
    let client = worker.hooks().client(address.ip, address.site).of_trace(address.trace_parent);
    client.with(cookie.map(Rc::from), user.map(Rc::from))
}
