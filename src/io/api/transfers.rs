//! What other nodes ask about sessions that go from one disk to another, answered by the worker that has the name and
//! by the store.

use crate::base::id::{DiskId, Generation};
use crate::cluster::calls::Answer;
use crate::cluster::ownership::claims::RequestId;
use crate::cluster::ownership::disk_calls::NameQuery;
use crate::cluster::ownership::grantors::{self, Grantor};
use crate::cluster::transfers::{DiskReport, TransferCall};
use crate::io::cluster::calls::hash_of_session;
use crate::io::cluster::port::ToCluster;
use crate::io::runtime::oneshot::ReturnAddress;
use crate::io::worker::message::PeerMessage;
use crate::io::worker::turn::Worker;
use crate::policy::api::Refusal;
use crate::shard::command::StoreError;
use crate::shard::command::transfer::{TransferAnswer, TransferCommand};
use crate::shard::{QueryRefusal, Reply};
use crate::store::{Request, TransferId};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

/// The answer to a call, under way.
pub type Answering = Pin<Box<dyn Future<Output = Result<Answer, Refusal>>>>;

pub fn answer(of: Rc<Worker>, from: Generation, call: TransferCall<'_>) -> Answering {
    // Who has no disk has no session, and grants nothing.
    if !of.ownership().has_disk() {
        let answer = match call {
            TransferCall::Has { .. } => Ok(Answer::Of(Reply::found(false))),
            TransferCall::Lives => Ok(lives(&of)),
            _ => Err(Refusal::NoStoreForSessions),
        };
        return Box::pin(async move { answer });
    }
    let (name, query): (Arc<str>, NameQuery) = match call {
        TransferCall::Has { name } => (name.into(), NameQuery::Has { name: name.into() }),
        TransferCall::Settle { name, token } => (name.into(), NameQuery::Settle { name: name.into(), token }),
        TransferCall::Grant { name, id, disks } => return grant(of, from, (name.into(), RequestId(id)), disks),
        TransferCall::NoteSent { name } => (name.into(), NameQuery::NoteSent { name: name.into() }),
        TransferCall::Rival { name, standing } => (name.into(), NameQuery::Rival { name: name.into(), standing }),
        TransferCall::Release { name, id } => {
            (name.into(), NameQuery::Release { name: name.into(), id: RequestId(id) })
        }
        TransferCall::Read { name, token, from } => {
            let read = TransferCommand::Read { name: name.into(), token, from };
            return Box::pin(async move {
                match transfer(&of, read).await {
                    TransferAnswer::Part(part) => Ok(Answer::Part(part)),
                    TransferAnswer::NotHere => Ok(Answer::Of(Reply::found(false))),
                    _ => Err(Refusal::Shard(QueryRefusal::Unreachable)),
                }
            });
        }
        TransferCall::Lives => {
            return Box::pin(async move { Ok(lives(&of)) });
        }
        TransferCall::Part { node } => {
            return Box::pin(async move { Ok(Answer::Of(Reply::found(part(&of, node).await))) });
        }
        TransferCall::Forget { token } => {
            return Box::pin(async move {
                transfer(&of, TransferCommand::Forget { token }).await;
                Ok(Answer::Of(Reply::found(true)))
            });
        }
    };
    Box::pin(async move { query_as(&of, from, &name, query).await })
}

fn lives(worker: &Worker) -> Answer {
    let disk = worker.shared().disk().filter(|_| worker.ownership().has_disk());
    let lives = worker.shared().lives().iter().map(|life| life.0).collect();
    let report = DiskReport { disk: disk.map(|disk| disk.0), lives };
    Answer::Text(serde_json::to_string(&report).expect("numbers").into())
}

/// Whom this node asks for a name, in this order.
pub fn grantors_of(worker: &Worker, name: &str) -> Vec<Grantor> {
    let shared = worker.shared();
    let hash = hash_of_session(shared.hash_key(), name);
    grantors::grantors(hash, shared.grantor(), &worker.cluster().seen(), worker.now())
}

/// Grants nothing to a node that does not see those whom this one sees.
fn grant(of: Rc<Worker>, from: Generation, (name, id): (Arc<str>, RequestId), disks: Vec<DiskId>) -> Answering {
    Box::pin(async move {
        if let Some(known) = of.cluster().disks_known(of.now()) {
            let _ = known.await;
        }
        if !grantors::are_known(&of.cluster().seen()) || !grantors::covers(&disks, &grantors_of(&of, &name)) {
            of.count(|counters| &counters.grants_refused);
            return Ok(Answer::Of(Reply::found(false)));
        }
        query_as(&of, from, &name, NameQuery::Grant { name: name.clone(), id }).await
    })
}

async fn query_as(worker: &Worker, from: Generation, name: &str, query: NameQuery) -> Result<Answer, Refusal> {
    let code = query_name(worker, from, name, query).await.ok_or(Refusal::NoAnswerInTime)?;
    Ok(Answer::Of(Reply::Done { connections: code, refused: None }))
}

/// Asks the worker of this node that has the name. `None`: it has not answered in time.
pub async fn query_name(worker: &Worker, from: Generation, name: &str, query: NameQuery) -> Option<u32> {
    let answered = worker.calls().names().open((), worker.now() + QUERY_MS_MAX);
    let to = ReturnAddress::new(worker.id(), answered.id());
    worker.send_message(worker.shared().session_owner(name), PeerMessage::QueryName { from, query, to });
    answered.await.ok()
}

/// Has the store carry out a command of a transfer. `Unreachable`: nobody knows whether it has.
pub async fn transfer(worker: &Worker, command: TransferCommand) -> TransferAnswer {
    let answered = worker.calls().transfers().open((), worker.now() + STORE_MS_MAX);
    let to = ReturnAddress::new(worker.id(), answered.id());
    worker.store().push(Request::Transfer { id: TransferId(to.pack()), command });
    worker.wakeups().need_turn();
    answered.await.unwrap_or(TransferAnswer::Refused(StoreError::Unreachable))
}

/// The node does not come back: nobody here looks for it. False: the store did not take that.
pub async fn part(worker: &Worker, node: Generation) -> bool {
    let is_stored = transfer(worker, TransferCommand::Part { node }).await == TransferAnswer::Done;
    if is_stored && let Some(port) = worker.cluster().port() {
        return port.try_send(ToCluster::Part(node)).is_ok();
    }
    is_stored
}

/// Longer than a session waits for its grant.
const QUERY_MS_MAX: u64 = 10_000;
const STORE_MS_MAX: u64 = 10_000;
