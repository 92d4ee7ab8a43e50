//! Calls carried out: what each asks of the shards, and how it is answered. Access has been decided before (`access`).
//!
//! The body of a refused call says why. Its HTTP status is 200, as in 2014; 400 when the body cannot be read; 503 when
//! the call may be tried again. With `strict_status` every refusal has a status of its own.

use super::access::{self, AccessRefusal, Caller, Pass};
use super::cluster;
use super::pages::Effect;
use super::query::{self, Outgoing, Reach};
use super::trace::{self, OpenTrace};
use super::{history, idempotent, info, pages, sessions};
use crate::base::client::trace_parent::TraceParent;
use crate::cluster::calls::Call as NodeCall;
use crate::io::http::response::Response;
use crate::io::log::limit::AUDIT_TARGET;
use crate::io::worker::turn::Worker;
use crate::metrics::text::Format;
use crate::policy::api::{self, Call, KickTarget, ReadSend, Refusal, Route, Sent, Targets, outcome};
use crate::shard::channel::user::channel_of;
use crate::shard::{Query, Reply, Who};
use crate::wire::http1::query_get;
use crate::wire::ws::frame::CloseCode;
use std::rc::Rc;
use std::sync::Arc;
use tracing::Level;

/// A request whose body is whole; `spare` becomes the response's body.
pub struct ApiRequest<'a> {
    pub route: Route,
    /// Of the metrics.
    pub format: Format,
    pub pass: &'a Pass,
    pub caller: &'a Caller,
    pub query: &'a str,
    pub body: &'a [u8],
    pub spare: Vec<u8>,
}

/// Carries it out, unless its signature turns out to be a wrong one.
pub async fn run(worker: &Rc<Worker>, request: ApiRequest<'_>) -> Result<Response, AccessRefusal> {
    let ApiRequest { route, format, pass, caller, query, body, spare } = request;
    if concerns_the_cluster(route)
        && let Some(ready) = worker.cluster().ready(worker.now())
    {
        // After its time it goes on with what it knows.
        let _ = ready.await;
    }
    let audit = Audit { route, pass, caller, query };
    if let Pass::Webhook(headers) = pass {
        access::verify_webhook(worker, headers, body)?;
    }
    Ok(match route {
        Route::UpdateConfig => {
            let effect = Effect::of(query);
            audit.log(effect.audited(), None);
            pages::update_config(worker, effect).await
        }
        Route::ForgetNode => {
            audit.log("ForgetNode", None);
            cluster::forget(worker, query).await.unwrap_or_else(|why| refusal(worker, &why))
        }
        Route::Drain => {
            let response = pages::drain(worker);
            audit.log("Drain", None);
            response
        }
        Route::Send | Route::Broadcast | Route::Subscribe | Route::Unsubscribe | Route::Kick | Route::DropSession => {
            let timeouts = worker.rules().timeouts();
            let (read, ignored) = if matches!(route, Route::Send | Route::Broadcast) {
                let ReadSend { signature, call, ignored } = api::read_send(route, query, timeouts);
                if matches!(pass, Pass::Query) {
                    access::verify(worker, &signature)?;
                }
                (call, ignored)
            } else {
                (api::read_call(route, query, body, timeouts), api::ignored_parameters(route, query))
            };
            let is_strict = worker.rules().config().strict_status;
            let read =
                if is_strict && !ignored.is_empty() { Err(Refusal::UnknownParameters(ignored.clone())) } else { read };
            let audited = audited(route, caller, &read);
            let outcome = call(worker, route, read, body, spare).await;
            if let Some(what) = audited {
                audit.log(&what, outcome.as_ref().err());
            }
            let mut response = match outcome {
                Ok(response) => {
                    worker.count(|counters| &counters.calls);
                    // A part of it was refused: the figures say which.
                    access::strictly(worker, response, 409)
                }
                Err(why) => {
                    worker.count(|counters| &counters.calls_refused);
                    refusal(worker, &why)
                }
            };
            api::write_ignored(response.body_mut(), &ignored);
            response
        }
        _ => page(worker, route, format, query).await,
    })
}

/// What is only looked at.
async fn page(worker: &Rc<Worker>, route: Route, format: Format, query: &str) -> Response {
    let page = match route {
        Route::Hello => Ok(pages::ok()),
        Route::Live => Ok(pages::live(worker)),
        Route::Ready => Ok(pages::ready(worker)),
        Route::ServerInfo => Ok(pages::server_info()),
        Route::OpenApi => Ok(pages::description()),
        Route::Connection => pages::connection(worker, query).await,
        Route::Info => info::info(worker, query).await,
        Route::History => history::history(worker, query),
        Route::Metrics => Ok(info::metrics(worker.shared(), format)),
        Route::Channel => pages::channel(worker, query).await,
        Route::Session => pages::session(worker, query).await,
        Route::Sessions => sessions::list(worker, query).await,
        _ => unreachable!("not looked at: {route:?}"),
    };
    page.unwrap_or_else(|why| refusal(worker, &why))
}

/// Begins a trace, unless it is refused.
pub async fn begin_trace(
    worker: &Rc<Worker>,
    pass: &Pass,
    query: &str,
    body: &[u8],
) -> Result<Result<OpenTrace, Response>, AccessRefusal> {
    if let Pass::Webhook(headers) = pass {
        access::verify_webhook(worker, headers, body)?;
    }
    Ok(trace::begin(worker, query).await.map_err(|why| refusal(worker, &why)))
}

/// Who makes a call that changes something.
struct Audit<'a> {
    route: Route,
    pass: &'a Pass,
    caller: &'a Caller,
    query: &'a str,
}

impl Audit<'_> {
    /// Logs who changed what, and with what outcome. Subscriptions, which are as frequent as connections, are logged at
    /// debug. A signature is never logged: it could be used again.
    fn log(&self, what: &str, refused: Option<&Refusal>) {
        let by = match self.pass {
            Pass::Webhook(_) => "webhook",
            Pass::Query | Pass::Signed => "2014",
            Pass::Token => "admin token",
            Pass::Granted | Pass::Refused(_) => "this machine",
        };
        let Caller { address, request_id, .. } = self.caller;
        let nonce = query_get(self.query, "nonce");
        let signed = if let Pass::Webhook(headers) = self.pass { Some(headers.id()) } else { nonce.as_deref() };
        let refused = refused.map(tracing::field::display);
        let trace_id = self.caller.trace_parent.as_ref().map(TraceParent::trace_id);
        if is_rare(self.route, self.caller) {
            tracing::info!(
                target: AUDIT_TARGET, by, from = %address, %request_id, trace_id, signed, refused, "{what}"
            );
        } else {
            tracing::debug!(
                target: AUDIT_TARGET, by, from = %address, %request_id, trace_id, signed, refused, "{what}"
            );
        }
    }
}

/// What the audit is to log of a call; `None` when nobody reads that.
fn audited(route: Route, caller: &Caller, read: &Result<Call<'_>, Refusal>) -> Option<String> {
    let is_enabled = match route {
        _ if is_rare(route, caller) => tracing::enabled!(target: AUDIT_TARGET, Level::INFO),
        Route::Subscribe | Route::Unsubscribe => tracing::enabled!(target: AUDIT_TARGET, Level::DEBUG),
        _ => false,
    };
    is_enabled.then(|| read.as_ref().map_or_else(|_| format!("{route:?}"), |call| format!("{call:?}")))
}

/// What it answers depends on who the other nodes are, and on what they have.
fn concerns_the_cluster(route: Route) -> bool {
    use Route::{Broadcast, Channel, DropSession, Kick, Send, Session, Sessions, Subscribe, Unsubscribe};
    matches!(route, Send | Broadcast | Subscribe | Unsubscribe | Kick | DropSession | Channel | Session | Sessions)
}

/// What a person does on a page is logged, messages too: a business server sends more than a log can hold.
fn is_rare(route: Route, caller: &Caller) -> bool {
    caller.is_page
        || matches!(route, Route::Kick | Route::DropSession | Route::UpdateConfig | Route::Drain | Route::ForgetNode)
}

fn refusal(worker: &Worker, why: &Refusal) -> Response {
    let response = access::refusal(why.status(), &why.to_string());
    let response = access::strictly(worker, response, why.strict_status());
    if response.status() == 503 { response.with_retry_after() } else { response }
}

async fn call(
    worker: &Rc<Worker>,
    route: Route,
    read: Result<Call<'_>, Refusal>,
    body: &[u8],
    spare: Vec<u8>,
) -> Result<Response, Refusal> {
    let reply = match read? {
        Call::Send { to, message_type, qos, timeout, ttl_ms, message_id, wait } => {
            let message = Outgoing { qos, message_type, body, timeout, ttl_ms, claim: None, wait };
            if let (Targets::One(_) | Targets::Many(_), None) = (&to, &message_id) {
                query::send(worker, Reach::Cluster, to.channels(), message).await?
            } else {
                // Boxed: an ordinary call's task must not carry the room that these need.
                return Box::pin(send_stored(worker, &to, message_id.as_deref(), message)).await;
            }
        }
        Call::Subscribe { who, channel, occupy } => {
            subscribe(worker, who, channel.into(), occupy).await?;
            Reply::done(1)
        }
        Call::Unsubscribe { who: None, .. } => Reply::done(0),
        Call::Unsubscribe { who: Some(who), channel } => {
            let there = NodeCall::Unsubscribe { who: who.clone(), channel: &channel };
            let unsubscribe = Query::Unsubscribe { who: who.clone(), channel: (*channel).into() };
            if let Some(reply) = query::query_one_of(worker, &who, unsubscribe, &there).await? {
                outcome::done(reply)?;
            }
            Reply::done(0)
        }
        Call::Kick { target: KickTarget::Identity(identity), code, reason } => {
            let there = NodeCall::Kick { identity, code, reason: &reason };
            let kick = Query::Kick { identity, code, reason: (*reason).into() };
            let kicked = query::query_one_of(worker, &identity.into(), kick, &there).await?;
            outcome::found(kicked.ok_or(Refusal::NoSuchConnection)?, Refusal::NoSuchConnection)?;
            Reply::done(1)
        }
        Call::Kick { target: KickTarget::Channel(channel), code, reason } => {
            kick_all(worker, &channel, code, &reason).await?
        }
        Call::Kick { target: KickTarget::User(user), code, reason } => {
            kick_all(worker, &channel_of(&user), code, &reason).await?
        }
        Call::DropSession { session } => {
            let there = NodeCall::DropSession { name: &session };
            let drop = Query::DropSession { session: (*session).into() };
            let reply = query::query_session(worker, &session, drop, &there).await?;
            outcome::found(reply, Refusal::NoSuchSession)?;
            Reply::done(1)
        }
    };
    Ok(respond(route, reply, spare))
}

async fn kick_all(worker: &Worker, channel: &str, code: CloseCode, reason: &str) -> Result<Reply, Refusal> {
    let there = NodeCall::KickChannel { channel, code, reason };
    let kick = Query::KickChannel { channel: channel.into(), code, reason: reason.into() };
    query::query_everywhere(worker, Reach::Cluster, kick, &there, channel).await
}

/// With `occupy` everybody else leaves the channel first: once it is known that the new member is there, and before it
/// is subscribed, which it is not while others may still be in.
async fn subscribe(worker: &Rc<Worker>, who: Who, channel: Arc<str>, occupy: bool) -> Result<(), Refusal> {
    let missing = match who {
        Who::Connection(_) => Refusal::NoSuchConnection,
        Who::Session(_) => Refusal::NoSuchSession,
    };
    if occupy {
        let there = NodeCall::Exists { who: who.clone() };
        let exists = Query::Exists { who: who.clone() };
        let exists = query::query_one_of(worker, &who, exists, &there).await?;
        outcome::found(exists.ok_or(missing.clone())?, missing.clone())?;
        let there = NodeCall::Evict { channel: &channel, keep: who.clone() };
        let evict = Query::Evict { channel: channel.clone(), keep: who.clone() };
        outcome::done(query::query_everywhere(worker, Reach::Cluster, evict, &there, &channel).await?)?;
    }
    let there = NodeCall::Subscribe { who: who.clone(), channel: &channel };
    let subscribe = Query::Subscribe { who: who.clone(), channel: channel.clone() };
    let subscribed = query::query_one_of(worker, &who, subscribe, &there).await?;
    outcome::found(subscribed.ok_or(missing.clone())?, missing)?;
    query::until_known(worker).await;
    Ok(())
}

/// A message to a session, or one with a `message_id`.
async fn send_stored(
    worker: &Rc<Worker>,
    to: &Targets<'_>,
    message_id: Option<&str>,
    message: Outgoing<'_>,
) -> Result<Response, Refusal> {
    let to_session = matches!(to, Targets::Session(_));
    if to_session && !worker.store().has_store() {
        return Err(Refusal::NoStoreForSessions);
    }
    if let Some(id) = message_id {
        return idempotent::send_once(worker, id, to, message).await.map(Response::json);
    }
    match query::send_to(worker, to, message).await? {
        Reply::Sent { tally, data } => {
            let mut body = Vec::with_capacity(128 + data.len());
            api::write_sent(&mut body, Sent { tally, data: &data, to_session });
            Ok(Response::json(body))
        }
        other => Ok(respond(Route::Send, other, Vec::new())),
    }
}

fn respond(route: Route, reply: Reply, mut body: Vec<u8>) -> Response {
    body.clear();
    match reply {
        Reply::Sent { tally, data } => {
            api::write_sent(&mut body, Sent { tally, data: &data, to_session: false });
        }
        Reply::Done { connections, refused: Some(why) } => {
            let refusal = serde_json::json!({"status": 1, "msg": why.to_string(), "connections": connections});
            body.extend_from_slice(refusal.to_string().as_bytes());
        }
        Reply::Done { connections, .. } if route == Route::Kick => {
            body.extend_from_slice(format!("{{\"status\":0,\"connections\":{connections}}}").as_bytes());
        }
        Reply::Done { .. } => body.extend_from_slice(b"{\"status\":0}"),
        Reply::Refused(why) => return access::refusal(200, &why.to_string()),
        other => {
            debug_assert!(false, "not the reply to a call: {other:?}");
            return access::refusal(500, "internal error");
        }
    }
    Response::json(body)
}
