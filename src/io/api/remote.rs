//! Calls of other nodes, carried out on this one: each for a caller that another node has.

use super::info::{self, Largest};
use super::query::{self, Outgoing, Reach};
use super::sessions;
use super::transfers::{self, Answering};
use crate::base::id::Generation;
use crate::cluster::calls::{Answer, Call, SendCall};
use crate::io::cluster::calls::WriteQueue;
use crate::io::runtime::clock;
use crate::io::runtime::oneshot::ReturnAddress;
use crate::io::worker::message::PeerMessage;
use crate::io::worker::turn::Worker;
use crate::policy::api::{Refusal, SESSIONS_LISTED_MAX};
use crate::shard::command::{Claim, Token};
use crate::shard::{Query, QueryRefusal, Reply, WantedSessions, Who};
use crate::wire::peer::frame::Frame;
use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Where the reply to a call goes, and how long its caller waits for that.
pub struct RemoteCall {
    pub from: Generation,
    pub id: u64,
    pub deadline_ms: u32,
    pub replies: Rc<WriteQueue>,
}

/// Begins it at once, in the order in which calls come; the reply follows.
pub fn begin(worker: &Rc<Worker>, remote: RemoteCall, call: Call<'_>) {
    worker.count(|counters| &counters.node_calls_in);
    let of = worker.clone();
    let answering: Answering = match call {
        Call::Send(send) => return begin_send(worker, remote, &send),
        Call::Exists { who } => Box::pin(async move { of_one(&of, &who, Query::Exists { who: who.clone() }).await }),
        Call::Subscribe { who, channel } => {
            let channel: Arc<str> = channel.into();
            Box::pin(async move {
                let subscribed = of_one(&of, &who, Query::Subscribe { who: who.clone(), channel }).await;
                query::until_known(&of).await;
                subscribed
            })
        }
        Call::Unsubscribe { who, channel } => {
            let channel: Arc<str> = channel.into();
            Box::pin(async move { of_one(&of, &who, Query::Unsubscribe { who: who.clone(), channel }).await })
        }
        Call::Kick { identity, code, reason } => {
            let kick = Query::Kick { identity, code, reason: reason.into() };
            Box::pin(async move { of_one(&of, &identity.into(), kick).await })
        }
        Call::Evict { channel, keep } => {
            let evict = Query::Evict { channel: channel.into(), keep };
            Box::pin(async move { of_all(&of, evict).await })
        }
        Call::KickChannel { channel, code, reason } => {
            let kick = Query::KickChannel { channel: channel.into(), code, reason: reason.into() };
            Box::pin(async move { of_all(&of, kick).await })
        }
        Call::Members { channel, offset, limit, counts } => {
            let channel: Arc<str> = channel.into();
            let (offset, limit) = (usize::try_from(offset).unwrap_or(usize::MAX), limit.min(MEMBERS_MAX) as usize);
            Box::pin(async move {
                let (total, members, traffic) = query::members_here(&of, &channel, (offset, limit), counts).await?;
                Ok(Answer::Of(Reply::Members { total, members, traffic }))
            })
        }
        Call::Largest { most, find } => {
            let find: Arc<str> = find.into();
            Box::pin(async move {
                let most = most.min(MEMBERS_MAX) as usize;
                let Largest { channels, .. } = info::largest(&of, Reach::Node, most, find).await?;
                Ok(Answer::Of(Reply::Channels(channels)))
            })
        }
        Call::Sessions(wanted) => Box::pin(async move {
            let wanted = WantedSessions { most: wanted.most.min(SESSIONS_LISTED_MAX), ..*wanted };
            Ok(Answer::Of(sessions::list_here(&of, Arc::new(wanted)).await?))
        }),
        Call::Info => Box::pin(async move {
            let info = info::of_this_node(&of).await?;
            Ok(Answer::Text(info.to_string().into()))
        }),
        Call::SendTo(send) => return begin_send_to(worker, remote, &send),
        about_session => answer_about_session(of, remote.from, about_session),
    };
    let worker = worker.clone();
    drop(monoio::spawn(async move {
        let answer = answering.await.unwrap_or_else(|why| Answer::Of(Reply::Refused(refusal(&why))));
        answer_call(&worker, &remote, &answer);
    }));
}

/// What concerns one durable session, which is this node's or is not here.
fn answer_about_session(of: Rc<Worker>, from: Generation, call: Call<'_>) -> Answering {
    match call {
        Call::Session { name } => {
            let name: Arc<str> = name.into();
            Box::pin(async move { of_session(&of, &name, Query::Session { session: name.clone() }).await })
        }
        Call::DropSession { name } => {
            let name: Arc<str> = name.into();
            Box::pin(async move { of_session(&of, &name, Query::DropSession { session: name.clone() }).await })
        }
        Call::Pass { name, token } => {
            let name = name.into();
            Box::pin(async move { pass(&of, from, name, token).await })
        }
        Call::Transfer(call) => transfers::answer(of, from, call),
        Call::Passed { name } => {
            let name: Arc<str> = name.into();
            of.send_message(of.shared().session_owner(&name), PeerMessage::SessionKnown { name });
            Box::pin(async { Ok(Answer::Of(Reply::found(true))) })
        }
        Call::Offer { name } => {
            // One that stops itself would only pass it on.
            let is_taken = !of.shared().is_drain_announced();
            if is_taken {
                let name: Arc<str> = name.into();
                of.send_message(of.shared().session_owner(&name), PeerMessage::TakeSession { from, name });
            }
            Box::pin(async move { Ok(Answer::Of(Reply::found(is_taken))) })
        }
        _ => unreachable!("it is about no session"),
    }
}

fn begin_send(worker: &Rc<Worker>, remote: RemoteCall, send: &SendCall<'_>) {
    let channels: Vec<Cow<'_, str>> = send.channels.iter().map(|name| Cow::Borrowed(*name)).collect();
    let message = Outgoing {
        qos: send.qos,
        message_type: send.message_type,
        body: send.body,
        timeout: Duration::from_millis(remote.deadline_ms.into()),
        ttl_ms: send.ttl_ms,
        claim: claim_of(send),
        wait: send.wait,
    };
    match query::begin_send(worker, Reach::Node, &channels, message) {
        Ok(gather) => {
            let worker = worker.clone();
            drop(monoio::spawn(async move {
                let reply = query::end_send(gather).await;
                answer_call(&worker, &remote, &Answer::Of(reply));
            }));
        }
        Err(why) => answer_call(worker, &remote, &Answer::Of(Reply::not_sent(1, refusal(&why)))),
    }
}

fn claim_of(send: &SendCall<'_>) -> Option<Claim> {
    send.claim.as_ref().map(|claim| claim.arrive(clock::stored_unix_ms()))
}

/// The body must be kept until the session has taken it.
fn begin_send_to(worker: &Rc<Worker>, remote: RemoteCall, send: &SendCall<'_>) {
    let &SendCall { qos, message_type, ttl_ms, wait, body, .. } = send;
    let (name, body, claim): (Arc<str>, Vec<u8>, _) = (send.channels[0].into(), body.into(), claim_of(send));
    let worker = worker.clone();
    drop(monoio::spawn(async move {
        let timeout = Duration::from_millis(remote.deadline_ms.into());
        let message = Outgoing { qos, message_type, body: &body, timeout, ttl_ms, claim, wait };
        let sent = query::send_to_session(&worker, Reach::Node, &name, message).await;
        let reply = sent.unwrap_or_else(|why| Reply::Refused(refusal(&why)));
        answer_call(&worker, &remote, &Answer::Of(reply));
    }));
}

async fn of_one(worker: &Worker, who: &Who, query: Query) -> Result<Answer, Refusal> {
    let reply = query::query_one_here(worker, who, query).await?;
    Ok(Answer::Of(reply.unwrap_or(Reply::found(false))))
}

async fn of_session(worker: &Worker, name: &str, query: Query) -> Result<Answer, Refusal> {
    query::query_owner(worker, name, query).await.map(Answer::Of)
}

/// Has the session passed on by the worker that owns it; `found`: it was.
async fn pass(worker: &Worker, from: Generation, name: Arc<str>, token: Token) -> Result<Answer, Refusal> {
    let passed = worker.calls().passes().open((), worker.now() + PASS_MS_MAX);
    let to = ReturnAddress::new(worker.id(), passed.id());
    let owner = worker.shared().session_owner(&name);
    worker.send_message(owner, PeerMessage::PassSession { from, name, token, to });
    let is_passed = passed.await.map_err(|_| Refusal::NoAnswerInTime)?;
    Ok(Answer::Of(Reply::found(is_passed)))
}

async fn of_all(worker: &Worker, query: Query) -> Result<Answer, Refusal> {
    query::query(worker, worker.shared().workers(), query).await.map(Answer::Of)
}

fn answer_call(worker: &Worker, remote: &RemoteCall, answer: &Answer) {
    let mut body = Vec::new();
    answer.encode_into(&mut body);
    let frame = Frame::Reply { id: remote.id, outcome: answer.outcome(), body: &body };
    worker.cluster().push(&remote.replies, frame);
    worker.wakeups().need_turn();
}

/// As far as it can be told to another node.
fn refusal(why: &Refusal) -> QueryRefusal {
    match why {
        Refusal::Shard(why) => *why,
        Refusal::NoAnswerInTime => QueryRefusal::Unreachable,
        Refusal::NoSuchConnection => QueryRefusal::NoSuchConnection,
        Refusal::NoSuchSession | Refusal::NoStoreForSessions => QueryRefusal::NoSuchSession,
        _ => QueryRefusal::TooBusy,
    }
}

/// The node that asks takes the session by force much earlier.
const PASS_MS_MAX: u64 = 10_000;
/// Of one list, as for callers.
const MEMBERS_MAX: u32 = 10_000;
