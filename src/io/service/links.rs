//! A worker's links to other nodes: those that it dials, over which it calls, and those that others have dialed, whose
//! calls it carries out.

use super::{transfers, unite};
use crate::base::id::Generation;
use crate::base::time::Tick;
use crate::cluster::calls::{Answer, Call};
use crate::cluster::directory::waiting::Outcome;
use crate::cluster::ownership::claims::Handover;
use crate::io::api::remote::{self, RemoteCall};
use crate::io::api::{self, query};
use crate::io::cluster::calls::{CORKED_MS_MAX, CallLink, WriteQueue};
use crate::io::cluster::ownership::Errand;
use crate::io::cluster::port::ClusterPort;
use crate::io::cluster::secure::{self, Link, LinkError, LinkKind, LinkReader, LinkWriter};
use crate::io::runtime::clock;
use crate::io::runtime::socket::Socket;
use crate::io::worker::turn::Worker;
use crate::policy::admission::Place;
use crate::shard::{QueryId, Reply};
use crate::wire::peer::frame::{Frame, Hello, VersionRange};
use std::rc::Rc;
use tracing::{debug, warn};

/// Dials the links that this worker's calls want.
pub async fn dial_wanted(worker: Rc<Worker>) {
    loop {
        for link in worker.cluster().wanted().await {
            drop(monoio::spawn(call_over(worker.clone(), link)));
        }
    }
}

/// What sessions that come and go have to say to other nodes.
pub async fn run_errands(worker: Rc<Worker>) {
    loop {
        for errand in worker.ownership().errands().await {
            drop(monoio::spawn(run_errand(worker.clone(), errand)));
            transfers::publish(&worker);
        }
    }
}

async fn run_errand(worker: Rc<Worker>, errand: Errand) {
    match errand {
        Errand::Pass { to, id, name, token } => {
            let replied = query::query_node(&worker, to, &Call::Pass { name: &name, token }).await;
            let handover = match replied {
                Ok(Reply::Done { connections: 1.., .. }) => Some(Handover::Passed),
                Ok(Reply::Done { connections: 0, .. }) => Some(Handover::NotOwner),
                Ok(_) | Err(_) => None,
            };
            worker.own(|sessions, now| sessions.on_reply(id, handover, now));
        }
        Errand::Call { id, to, call } => {
            let reply = transfers::call(&worker, to, &call).await;
            worker.own(|sessions, _| sessions.on_disk_reply(id, reply));
        }
        Errand::Store { id, command } => {
            let answer = api::transfers::transfer(&worker, command).await;
            worker.own(|sessions, _| sessions.on_stored(id, answer));
        }
        Errand::AwaitReady(id) => {
            if let Some(ready) = worker.cluster().ready(worker.now()) {
                let _ = ready.await;
            }
            if let Some(known) = worker.cluster().disks_known(worker.now()) {
                let _ = known.await;
            }
            worker.own(|sessions, _| sessions.on_waited(id, Outcome::Known));
        }
        Errand::AwaitKnown(id) => {
            let outcome = query::until_known(&worker).await;
            worker.own(|sessions, _| sessions.on_waited(id, outcome));
        }
        Errand::NoteSent { name, to } => unite::note_sent(&worker, name, to).await,
        Errand::LookForRivals(name) => unite::look_for(&worker, &name),
        Errand::Compare { name, standing, from, to } => unite::compare(&worker, name, (from, standing), to),
        Errand::Passed { to, name, clients } => {
            // Who has not heard of it finds it by the node that it has left. Should the word not arrive there, it is
            // forgotten there in the end.
            let (passed, until) = (Call::Passed { name: &name }, worker.now() + CORKED_MS_MAX);
            let is_known = query::until_known(&worker).await == Outcome::Known;
            if is_known {
                let _ = query::query_node_within(&worker, to, &passed, until.since_ms(worker.now())).await;
            }
            worker.release(clients);
            if !is_known && query::until_all_know(&worker).await {
                let _ = query::query_node(&worker, to, &passed).await;
            }
        }
    }
    transfers::publish(&worker);
}

async fn call_over(worker: Rc<Worker>, link: Rc<CallLink>) {
    let Some(port) = worker.cluster().port().cloned() else { return };
    let deadline = deadline(&worker);
    let hello = hello(&worker, &port);
    let dialed = secure::dial(worker.deadlines(), deadline, link.node().address, port.terms(), &hello).await;
    let dialed = dialed.and_then(|dialed| match dialed.hello.node.generation == link.node().generation {
        true => Ok(dialed),
        // Another life of it.
        false => Err(LinkError::Ended),
    });
    let was_up = dialed.is_ok();
    let why = match dialed {
        Ok(Link { mut reader, writer, .. }) => {
            link.queue().attach(reader.fd());
            let writing = monoio::spawn(write(link.queue().clone(), writer));
            let why = read_replies(&worker, &link, &mut reader).await;
            link.queue().end();
            writing.await;
            why
        }
        Err(why) => why,
    };
    debug!(node = %link.node(), %why, "a link for calls has ended");
    if link.is_overdue() {
        worker.count(|counters| &counters.node_links_overdue);
        warn!(node = %link.node(), "a node answers no calls: the link to it is ended, and made anew");
    }
    worker.cluster().link_ended(&link, was_up, worker.now());
    for query in link.take_open() {
        worker.calls().gathers().resolve_node(query, None);
    }
    worker.wakeups().need_turn();
}

async fn read_replies(worker: &Worker, link: &CallLink, reader: &mut LinkReader) -> LinkError {
    loop {
        loop {
            match reader.next_frame(FRAME_BYTES_MAX) {
                Ok(Some(Frame::Reply { id, outcome, body })) => {
                    if link.answered(QueryId(id)) {
                        worker.calls().gathers().resolve_node(QueryId(id), Answer::decode(outcome, body));
                    }
                }
                Ok(Some(_)) => return LinkError::Ended,
                Ok(None) => break,
                Err(why) => return why.into(),
            }
        }
        worker.wakeups().need_turn();
        if let Err(why) = reader.read().await {
            return why;
        }
    }
}

/// Serves a link that another node has dialed; `early` came behind its request. `place` is given back when it has
/// proved that it is a node.
pub async fn serve(worker: Rc<Worker>, socket: Socket, early: Vec<u8>, kind: LinkKind, place: Option<Place>) {
    let Some(port) = worker.cluster().port().cloned() else { return };
    if kind == LinkKind::Control {
        // The dialer says nothing before it has its 101.
        let handed_over = if early.is_empty() { port.hand_over(socket.fd()) } else { Ok(()) };
        if let Err(error) = handed_over {
            warn!(%error, "a link of another node was lost");
        }
        return;
    }
    let hello = hello(&worker, &port);
    let accepted = secure::accept(worker.deadlines(), deadline(&worker), socket, early, port.terms(), &hello).await;
    match accepted {
        Ok(Link { mut reader, writer, hello: theirs }) => {
            drop(place);
            // The control link says that there is no version in common.
            if theirs.versions.agree(VersionRange::OURS).is_none() {
                return;
            }
            let queue: Rc<WriteQueue> = Rc::default();
            queue.attach(reader.fd());
            let writing = monoio::spawn(write(queue.clone(), writer));
            let why = read_calls(&worker, theirs.node.generation, &queue, &mut reader).await;
            debug!(node = %theirs.node, %why, "a node's link for calls has ended");
            queue.end();
            writing.await;
        }
        Err(why) => {
            worker.count(|counters| &counters.node_links_refused);
            debug!(%why, "a link of a node was refused");
        }
    }
}

async fn read_calls(
    worker: &Rc<Worker>,
    from: Generation,
    queue: &Rc<WriteQueue>,
    reader: &mut LinkReader,
) -> LinkError {
    loop {
        loop {
            match reader.next_frame(FRAME_BYTES_MAX) {
                Ok(Some(Frame::Call { id, deadline_ms, method, body })) => {
                    let Some(call) = Call::decode(method, body) else { return LinkError::Ended };
                    remote::begin(worker, RemoteCall { from, id, deadline_ms, replies: queue.clone() }, call);
                }
                Ok(Some(_)) => return LinkError::Ended,
                Ok(None) => break,
                Err(why) => return why.into(),
            }
        }
        if worker.cluster().is_overfull(queue) {
            return LinkError::Ended;
        }
        worker.wakeups().need_turn();
        if let Err(why) = reader.read().await {
            return why;
        }
    }
}

async fn write(queue: Rc<WriteQueue>, mut writer: LinkWriter) {
    while let Some(frames) = queue.next().await {
        if writer.write(&frames).await.is_err() {
            break;
        }
    }
    writer.end();
}

fn hello(worker: &Worker, port: &ClusterPort) -> Hello {
    let links = worker.shared().workers_len() as u16 + 1;
    let (node, start, link) = (port.own(), port.start(), worker.id().0 + 1);
    Hello { versions: VersionRange::OURS, node, start, unix_s: clock::unix_s(), link, links }
}

fn deadline(worker: &Worker) -> Tick {
    let deadline = worker.now() + HANDSHAKE_MS;
    worker.due_by(deadline);
    deadline
}

const HANDSHAKE_MS: u64 = 5_000;
/// A call's body and its channels; what is longer than an operator may allow bodies to be makes no sense.
const FRAME_BYTES_MAX: usize = (1 << 30) + (1 << 20);
