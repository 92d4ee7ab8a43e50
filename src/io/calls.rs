//! Calls carried out: who may make them, what they ask of the shards, how they are answered.

use super::core::{Core, Send};
use super::events::Event;
use super::figures;
use super::repeats;
use super::response::{Response, plain};
use super::store::StoreSender;
use super::{clock, upgrade};
use crate::base::id::ShardId;
use crate::policy::api::{self, Access, Call, Refusal, Route, Sent, Signature, Targets, Whom};
use crate::shard::{Query, Reply, SessionInfo, session_owner};
use crate::store::State;
use crate::wire::http1::{RequestHead, query_get};
use crate::wire::sign::{self, SignError, Signed2014, SignedWebhook};
use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Whether the request may be made, as far as its head tells.
pub enum Pass {
    Granted,
    /// Signed by Standard Webhooks: the body decides.
    Webhook {
        id: String,
        timestamp: String,
        signatures: String,
    },
    /// Signed in its query as 2014: looked at with the rest of the query, since the body is here already.
    Query,
    Refused(String),
}

/// Decided from the head alone, before a body is read; `whole`: there is none to be read.
pub fn pass(core: &Core, route: Route, head: &RequestHead<'_>, peer: IpAddr, whole: bool) -> Pass {
    let rules = core.rules();
    // What a proxy on this machine hands on does not come from this machine.
    let proxied = head.headers.get("x-forwarded-for").is_some() || head.headers.get("forwarded").is_some();
    let here = peer.to_canonical().is_loopback() && !proxied;
    match route.access() {
        Access::Anyone => return Pass::Granted,
        Access::Viewer if here || has_admin_token(&rules.config.admin_token, head) => return Pass::Granted,
        Access::Operator if here => return Pass::Granted,
        // Nothing is configured to sign with: for trying it out on one machine.
        Access::Signed if rules.is_keyless() && here => return Pass::Granted,
        _ => {}
    }
    let text = |name: &str| head.headers.get_text(name).map(String::from);
    if let (Some(id), Some(timestamp), Some(signatures)) =
        (text(sign::WEBHOOK_ID), text(sign::WEBHOOK_TIMESTAMP), text(sign::WEBHOOK_SIGNATURE))
    {
        return Pass::Webhook { id, timestamp, signatures };
    }
    if !rules.accepts_2014() {
        let why = if rules.is_keyless() { "no token or secret is configured" } else { "webhook signature missing" };
        return Pass::Refused(why.into());
    }
    if whole && matches!(route, Route::Send | Route::Broadcast) {
        return Pass::Query;
    }
    match verify(core, &Signature::read(head.query)) {
        Ok(()) => Pass::Granted,
        Err(error) => Pass::Refused(error.to_string()),
    }
}

fn verify(core: &Core, signature: &Signature<'_>) -> Result<(), SignError> {
    let missing = |field| SignError::Missing { field };
    let signed = Signed2014 {
        timestamp: signature.timestamp.as_deref().ok_or(missing("timestamp"))?,
        nonce: signature.nonce.as_deref().ok_or(missing("nonce"))?,
        signature: signature.signature.as_deref().ok_or(missing("signature"))?,
    };
    let rules = core.rules();
    let window_s = rules.config.signature_window.as_secs();
    sign::verify_2014(&rules.config.security_token, signed, clock::unix_s(), window_s)
}

fn has_admin_token(token: &str, head: &RequestHead<'_>) -> bool {
    if token.is_empty() {
        return false;
    }
    let bearer = head.headers.get_text("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let given = bearer.map(Cow::Borrowed).or_else(|| query_get(head.query, "token"));
    given.is_some_and(|given| bool::from(given.as_bytes().ct_eq(token.as_bytes())))
}

/// The answer to a call that may not be made.
pub fn refused(route: Route, why: &str) -> Response {
    match route.access() {
        // 2014's way: HTTP 200, and the status in the body.
        Access::Signed => refusal(200, why),
        _ => refusal(401, why),
    }
}

fn refusal(status: u16, why: &str) -> Response {
    let mut body = Vec::with_capacity(64);
    api::write_refusal(&mut body, why);
    Response::new(status, "application/json", body)
}

/// A request whose body is whole; `spare` becomes the answer's body.
pub struct Request<'a> {
    pub route: Route,
    pub pass: &'a Pass,
    pub query: &'a str,
    pub body: &'a [u8],
    pub spare: Vec<u8>,
}

/// Carries it out.
pub async fn run(core: &Rc<Core>, request: Request<'_>) -> Response {
    let Request { route, pass, query, body, spare } = request;
    if let Pass::Webhook { id, timestamp, signatures } = pass {
        let rules = core.rules();
        let signed = SignedWebhook { id, timestamp, signatures };
        let window = rules.config.signature_window.as_secs();
        if let Err(error) = sign::verify_webhook(&rules.webhook_keys, signed, body, clock::unix_s(), window) {
            core.count(|counters| &counters.signatures_refused);
            return refused(route, &error.to_string());
        }
    }
    match route {
        Route::Connect => unreachable!("an upgrade is no call"),
        Route::Hello | Route::Live => Response::new(200, "text/plain; charset=utf-8", &b"ok"[..]),
        Route::Ready if core.shared.is_draining() => plain(503, "going away"),
        Route::Ready if core.shared.stuck_worker(clock::monotonic()).is_some() => plain(503, "a worker is stuck"),
        Route::Ready if core.shared.store.get().is_some_and(|store| !store.is_ready()) => {
            match core.shared.store.get().map(StoreSender::state) {
                Some(State::Refusing { detail, .. }) => plain(503, &detail),
                _ => Response::new(200, "text/plain; charset=utf-8", &b"ok"[..]),
            }
        }
        Route::Ready => Response::new(200, "text/plain; charset=utf-8", &b"ok"[..]),
        Route::ServerInfo => Response::new(200, "text/html; charset=utf-8", &include_bytes!("serverinfo.html")[..]),
        Route::Info => figures::info(core).await,
        Route::Metrics => figures::metrics(&core.shared),
        Route::Channel => channel(core, query).await,
        Route::Session => match session(core, query).await {
            Ok(response) => response,
            Err(why) => refusal(why.status(), &why.to_string()),
        },
        Route::UpdateConfig => update_config(core).await,
        Route::Send | Route::Broadcast | Route::Subscribe | Route::Unsubscribe | Route::Kick | Route::DropSession => {
            let timeouts = core.rules().timeouts;
            let read = if matches!(pass, Pass::Query) {
                let (signature, read) = api::read_send(route, query, timeouts);
                if let Err(error) = verify(core, &signature) {
                    core.count(|counters| &counters.signatures_refused);
                    return refused(route, &error.to_string());
                }
                read
            } else {
                api::read_call(route, query, body, timeouts)
            };
            match call(core, route, read, body, spare).await {
                Ok(response) => {
                    core.count(|counters| &counters.calls);
                    response
                }
                Err(why) => {
                    core.count(|counters| &counters.calls_refused);
                    let mut response = refusal(why.status(), &why.to_string());
                    if response.status == 503 {
                        response.headers.push(upgrade::RETRY_AFTER);
                    }
                    response
                }
            }
        }
    }
}

async fn call(
    core: &Rc<Core>,
    route: Route,
    read: Result<Call<'_>, Refusal>,
    body: &[u8],
    spare: Vec<u8>,
) -> Result<Response, Refusal> {
    let reply = match read? {
        Call::Send { to, message_type, qos, timeout, ttl_ms, message_id } => {
            let send = Send { qos, message_type, body, timeout, ttl_ms, claim: None };
            if let (Targets::One(_) | Targets::Many(_), None) = (&to, &message_id) {
                core.send(to.channels(), send).await
            } else {
                // Boxed: an ordinary call's task must not carry the room that these need.
                return Box::pin(send_kept(core, &to, message_id.as_deref(), send)).await;
            }
        }
        Call::Subscribe { identity, channel, occupy } => {
            let owner = owner(core, identity.key().shard).ok_or(Refusal::NoSuchConnection)?;
            let channel: Arc<str> = channel.into();
            if occupy {
                let exists = core.ask(owner.into_iter(), Query::Exists { identity }).await;
                if exists == Some(Reply::Done { connections: 0 }) {
                    return Err(Refusal::NoSuchConnection);
                }
                let evict = Query::Evict { channel: channel.clone(), keep: identity };
                core.ask(core.shared.workers(), evict).await;
            }
            match core.ask(owner.into_iter(), Query::Subscribe { identity, channel }).await {
                Some(Reply::Done { connections: 0 }) => return Err(Refusal::NoSuchConnection),
                other => other,
            }
        }
        Call::Unsubscribe { identity, channel } => {
            if let Some((identity, owner)) = identity.and_then(|id| Some((id, owner(core, id.key().shard)?))) {
                let query = Query::Unsubscribe { identity, channel: channel.into() };
                if let Some(Reply::Refused(why)) = core.ask(owner.into_iter(), query).await {
                    return Err(Refusal::Said(why));
                }
            }
            Some(Reply::Done { connections: 0 })
        }
        Call::Kick { whom: Whom::Identity(identity), code, reason } => {
            let owner = owner(core, identity.key().shard).ok_or(Refusal::NoSuchConnection)?;
            match core.ask(owner.into_iter(), Query::Kick { identity, code, reason: reason.into() }).await {
                Some(Reply::Done { connections: 0 }) => return Err(Refusal::NoSuchConnection),
                other => other,
            }
        }
        Call::Kick { whom: Whom::Channel(channel), code, reason } => {
            let query = Query::KickChannel { channel: channel.into(), code, reason: reason.into() };
            core.ask(core.shared.workers(), query).await
        }
        Call::DropSession { session } => {
            match ask_home(core, &session, |session| Query::DropSession { session }).await? {
                Reply::Done { connections: 0 } => return Err(Refusal::NoSuchSession),
                other => Some(other),
            }
        }
    };
    Ok(answer(route, reply.ok_or(Refusal::TooManyCalls)?, spare))
}

/// A message to a session, or one with a `message_id`.
async fn send_kept(
    core: &Rc<Core>,
    to: &Targets<'_>,
    message_id: Option<&str>,
    send: Send<'_>,
) -> Result<Response, Refusal> {
    let to_session = matches!(to, Targets::Session(_));
    if to_session && !core.store.is_open() {
        return Err(Refusal::NoStoreForSessions);
    }
    if let Some(id) = message_id {
        return repeats::send_once(core, id, to, send).await.map(Response::json);
    }
    match core.send_to(to, send).await.ok_or(Refusal::TooManyCalls)? {
        Reply::Sent { connections, data, kept } => {
            let mut body = Vec::with_capacity(64 + data.len());
            api::write_sent(&mut body, Sent { connections, data: &data, kept, to_session });
            Ok(Response::json(body))
        }
        other => Ok(answer(Route::Send, other, Vec::new())),
    }
}

/// A question about a durable session.
async fn ask_home(core: &Rc<Core>, session: &str, query: impl FnOnce(Arc<str>) -> Query) -> Result<Reply, Refusal> {
    if !core.store.is_open() {
        return Err(Refusal::NoStoreForSessions);
    }
    let home = session_owner(session, core.shared.mail.len());
    core.ask(std::iter::once(home), query(session.into())).await.ok_or(Refusal::TooManyCalls)
}

/// The one shard that a name can belong to, if it is one of ours.
fn owner(core: &Core, shard: ShardId) -> Option<Option<ShardId>> {
    (usize::from(shard.0) < core.shared.mail.len()).then_some(Some(shard))
}

fn answer(route: Route, reply: Reply, mut body: Vec<u8>) -> Response {
    body.clear();
    match reply {
        Reply::Sent { connections, data, kept } => {
            api::write_sent(&mut body, Sent { connections, data: &data, kept, to_session: false });
        }
        Reply::Done { connections } if route == Route::Kick => {
            body.extend_from_slice(format!("{{\"status\":0,\"connections\":{connections}}}").as_bytes());
        }
        Reply::Done { .. } => body.extend_from_slice(b"{\"status\":0}"),
        Reply::Refused(why) => return refusal(200, &why.to_string()),
        other => {
            debug_assert!(false, "not the reply to a call: {other:?}");
            return refusal(500, "internal error");
        }
    }
    Response::json(body)
}

/// `channel=` how many and who, paged by `offset` and `limit`; without it the largest channels.
async fn channel(core: &Rc<Core>, query: &str) -> Response {
    let number = |name: &str, default: usize| query_get(query, name).and_then(|n| n.parse().ok()).unwrap_or(default);
    let (offset, limit) = (number("offset", 0), number("limit", PAGE).min(PAGE_MAX));
    let Some(channel) = query_get(query, "channel").filter(|channel| !channel.is_empty()) else {
        let largest = figures::largest(core, limit.max(1)).await;
        let channels: Vec<_> = largest
            .iter()
            .map(|(name, members)| serde_json::json!({"channel": name, "connections": members}))
            .collect();
        return Response::json(serde_json::json!({"status": 0, "channels": channels}).to_string().into_bytes());
    };
    let name: Arc<str> = (*channel).into();
    let (mut total, mut identities) = (0, Vec::new());
    // Shard after shard, so that an offset means the same on every page.
    for shard in core.shared.workers() {
        let skip = offset.saturating_sub(total);
        let query = Query::Members { channel: name.clone(), offset: skip, limit: limit - identities.len() };
        if let Some(Reply::Members { total: here, identities: some }) = core.ask(std::iter::once(shard), query).await {
            total += here;
            identities.extend(some.iter().map(ToString::to_string));
        }
    }
    let body = serde_json::json!({
        "status": 0, "channel": &*channel, "connections": total,
        "offset": offset, "limit": limit, "identities": identities,
    });
    Response::json(body.to_string().into_bytes())
}

/// What is known of one durable session.
async fn session(core: &Rc<Core>, query: &str) -> Result<Response, Refusal> {
    let name = api::session_name(query)?;
    let info = match ask_home(core, &name, |session| Query::Session { session }).await? {
        Reply::Session(Some(info)) => *info,
        Reply::Refused(why) => return Err(Refusal::Said(why)),
        _ => return Err(Refusal::NoSuchSession),
    };
    let SessionInfo { name, identity, channels, waiting, waiting_bytes, oldest, ends } = info;
    let now = clock::unix_ms().0;
    let body = serde_json::json!({
        "status": 0,
        "session": &*name,
        "online": identity.is_some(),
        "identity": identity.map(|identity| identity.to_string()),
        "channels": channels,
        "waiting": waiting,
        "waiting_bytes": waiting_bytes,
        "oldest_s": oldest.map(|oldest| now.saturating_sub(oldest.0) / 1000),
        "expires_s": ends.map(|ends| ends.0.saturating_sub(now) / 1000),
    });
    Ok(Response::json(body.to_string().into_bytes()))
}

/// Asks the main thread to reread the file; the answer says what changed and what wants a restart.
async fn update_config(core: &Rc<Core>) -> Response {
    let ticket = core.next_ticket();
    core.reloads.open(ticket);
    if !core.shared.events.try_send(Event::Reload(Some((core.id, ticket)))) {
        core.reloads.forget(ticket);
        return refusal(503, "a reload is under way");
    }
    match core.reloads.told(ticket).await {
        Ok(said) => Response::json(serde_json::json!({"status": 0, "msg": said}).to_string().into_bytes()),
        Err(why) => refusal(200, &why),
    }
}

const PAGE: usize = 100;
const PAGE_MAX: usize = 10_000;
