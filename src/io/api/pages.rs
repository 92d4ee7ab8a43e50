//! What may be looked at: health, channels, sessions; and the configuration's reload. The metrics are in `info`.
//!
//! Pages change nothing but the configuration, and list at most `PAGE_MAX` at a time.

use super::access;
use super::info::{self, Largest};
use super::query::{self, Location, Reach};
use crate::base::id::{Generation, Identity};
use crate::cluster::calls::Call;
use crate::config::{Change, Config};
use crate::io::http::response::Response;
use crate::io::runtime::clock;
use crate::io::runtime::events::Event;
use crate::io::runtime::oneshot::ReturnAddress;
use crate::io::store::thread::StoreSender;
use crate::io::worker::calls::gather::Gathered;
use crate::io::worker::message::ReloadReport;
use crate::io::worker::turn::Worker;
use crate::policy::api::{self, Refusal, outcome};
use crate::policy::heartbeats::Silent;
use crate::shard::channel::traffic::Traffic;
use crate::shard::channel::user::{channel_of, take_user, user_of};
use crate::shard::command::StoreError;
use crate::shard::{ChannelMember, ConnectionInfo, Query, QueryRefusal, Reply, SessionInfo};
use crate::store::Health;
use crate::wire::http1::query_get;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

pub fn ok() -> Response {
    Response::new(200, "text/plain; charset=utf-8", &b"ok"[..])
}

/// No worker is stuck for good. Nothing else fails it: a restart would not help a store or a backend. Workers that have
/// drained beat no longer.
pub fn live(worker: &Worker) -> Response {
    let shared = worker.shared();
    match shared.heartbeats().dead() {
        Some(Silent { worker, ms }) if !shared.is_draining() => {
            let (worker, seconds) = (worker.0, ms / 1000);
            let why = format!("worker {worker} is stuck: it has not ended its turn for {seconds} seconds (restart it)");
            Response::plain(503, &why)
        }
        _ => ok(),
    }
}

/// New clients may come.
pub fn ready(worker: &Worker) -> Response {
    match check_ready(worker) {
        Ok(()) => ok(),
        Err(why) => Response::plain(503, &why.to_string()),
    }
}

fn check_ready(worker: &Worker) -> Result<(), NotReady> {
    let shared = worker.shared();
    if shared.is_drain_announced() {
        return Err(NotReady::Draining);
    }
    if shared.heartbeats().any_is_stuck(clock::monotonic()) {
        return Err(NotReady::WorkerStuck);
    }
    if shared.store().is_some_and(|store| store.busy_ms() >= STORE_SILENT_MS) {
        return Err(NotReady::StoreSilent);
    }
    match shared.store().filter(|store| !store.is_ready()).map(StoreSender::state) {
        Some(Health::Refusing { reason, .. }) => Err(NotReady::StoreRefuses { reason }),
        _ => Ok(()),
    }
}

#[derive(Debug, thiserror::Error)]
enum NotReady {
    #[error("draining")]
    Draining,
    #[error("a worker is stuck")]
    WorkerStuck,
    #[error("the store does not answer")]
    StoreSilent,
    /// Anybody may hear this: no address, no path.
    #[error("{reason} (/info/ and the log say more)")]
    StoreRefuses { reason: StoreError },
}

/// The page that shows /info/.
pub fn server_info() -> Response {
    let page = Response::new(200, "text/html; charset=utf-8", SERVER_INFO.as_bytes());
    PAGE_HEADERS.into_iter().fold(page, |page, (name, value)| page.with_header(name, value))
}

/// Whoever opens the bare address wants to see something. Relative: a proxy may have put the server below a path.
pub fn to_server_info() -> Response {
    Response::new(302, "text/plain; charset=utf-8", &b""[..]).with_header("Location", "serverinfo/")
}

/// Calls and hooks as OpenAPI; any page may read it, since it says the same to all.
pub fn description() -> Response {
    Response::new(200, "application/json", DESCRIPTION.as_bytes()).with_header("Access-Control-Allow-Origin", "*")
}

/// `channel=` or `user=` how many and who, paged by `offset` and `limit`; without them the largest channels.
pub async fn channel(worker: &Rc<Worker>, query: &str) -> Result<Response, Refusal> {
    let number = |name: &str, default: usize| query_get(query, name).and_then(|n| n.parse().ok()).unwrap_or(default);
    let (offset, limit) = (number("offset", 0), number("limit", PAGE).min(PAGE_MAX));
    let counts = query_get(query, "counts").is_some_and(|counts| counts != "0");
    let find = query_get(query, "find").filter(|text| !text.is_empty());
    if let Some(user) = query_get(query, "user") {
        return listed(worker, ("user", &user), &channel_of(&user), (offset, limit), counts).await;
    }
    let channel = query_get(query, "channel").filter(|channel| !channel.is_empty() && find.is_none());
    let Some(channel) = channel else {
        let most = if find.is_some() { limit.clamp(1, FOUND_MAX) } else { limit.max(1) };
        let (node, find) = (query_get(query, "node"), find.as_deref().unwrap_or_default());
        let Largest { channels, silent, unreachable } = largest(worker, node.as_deref(), most, find).await?;
        let mut body = list(&channels, silent);
        note_unreachable(&mut body, unreachable);
        return Ok(Response::json(body.to_string().into_bytes()));
    };
    match user_of(&channel) {
        None => listed(worker, ("channel", &channel), &channel, (offset, limit), counts).await,
        Some(_) => Err(Refusal::BadChannel),
    }
}

/// A page of those who are in the channel. `named`: how the caller has named it.
async fn listed(
    worker: &Worker,
    named: (&str, &str),
    channel: &str,
    (offset, limit): (usize, usize),
    counts: bool,
) -> Result<Response, Refusal> {
    let Members { total, members, traffic, unreachable } = members(worker, channel, (offset, limit), counts).await?;
    let identities: Vec<String> = members.iter().map(|member| member.identity.to_string()).collect();
    let users: serde_json::Map<_, _> = members
        .iter()
        .filter_map(|member| Some((member.identity.to_string(), member.user.as_deref()?.into())))
        .collect();
    let mut body = serde_json::json!({
        "status": 0, named.0: named.1, "connections": total,
        "offset": offset, "limit": limit, "identities": identities, "users": users,
    });
    if let Some(Traffic { messages, deliveries }) = traffic {
        (body["messages"], body["deliveries"]) = (messages.into(), deliveries.into());
    }
    note_unreachable(&mut body, unreachable);
    Ok(Response::json(body.to_string().into_bytes()))
}

/// Of one node, or of all.
async fn largest(worker: &Worker, node: Option<&str>, most: usize, find: &str) -> Result<Largest, Refusal> {
    let Some(node) = node.filter(|node| !node.is_empty()) else {
        return info::largest(worker, Reach::Cluster, most, find.into()).await;
    };
    let node = u32::from_str_radix(node, 16).map(Generation).map_err(|_| Refusal::NoSuchNode)?;
    if node == worker.shared().node() {
        return info::largest(worker, Reach::Node, most, find.into()).await;
    }
    if !worker.cluster().peers().iter().any(|peer| peer.node.generation == node) {
        return Err(Refusal::NoSuchNode);
    }
    info::largest_of(worker, node, most, find).await
}

fn list(channels: &[(String, usize)], silent: u32) -> serde_json::Value {
    let one = |(name, members): &_| serde_json::json!({"channel": name, "connections": members});
    let channels: Vec<_> = channels.iter().map(one).collect();
    let mut body = serde_json::json!({"status": 0, "channels": channels});
    if silent > 0 {
        (body["status"], body["msg"]) = (1.into(), Refusal::NoAnswerInTime.to_string().into());
    }
    body
}

struct Members {
    total: usize,
    members: Vec<ChannelMember>,
    /// `None`: some shard does not count it.
    traffic: Option<Traffic>,
    /// Nodes that did not answer: their members are missing.
    unreachable: u32,
}

/// Node after node, in the same order whichever is asked.
async fn members(
    worker: &Worker,
    channel: &str,
    (offset, limit): (usize, usize),
    counts: bool,
) -> Result<Members, Refusal> {
    let (name, hash): (Arc<str>, u64) = (channel.into(), worker.shared().hash_key().hash(channel));
    let peers = worker.cluster().peers();
    let mut nodes: Vec<_> =
        peers.iter().filter(|peer| peer.table.may_have(hash)).map(|peer| peer.node.generation).collect();
    nodes.push(worker.shared().node());
    nodes.sort_unstable();
    let mut all = Members { total: 0, members: Vec::new(), traffic: Some(Traffic::default()), unreachable: 0 };
    for node in nodes {
        let (skip, left) = (offset.saturating_sub(all.total), limit - all.members.len());
        let (here, some, counted) = if node == worker.shared().node() {
            query::members_here(worker, &name, (skip, left), counts).await?
        } else {
            let call = Call::Members { channel, offset: skip as u64, limit: left as u32, counts };
            let Gathered { reply, unreachable, .. } = query::look_at_node(worker, node, &call).await?;
            all.unreachable += unreachable;
            reply.map_or(Ok((0, Vec::new(), None)), outcome::members)?
        };
        all.total += here;
        all.traffic = Traffic::added(all.traffic, counted);
        all.members.extend(some.into_iter().take(left));
    }
    Ok(all)
}

/// A list in which a part is missing is no success.
pub fn note_unreachable(body: &mut serde_json::Value, unreachable: u32) {
    if unreachable > 0 {
        (body["status"], body["unreachable"]) = (1.into(), unreachable.into());
        body["msg"] = QueryRefusal::Unreachable.to_string().into();
    }
}

/// What is known of one durable session.
pub async fn session(worker: &Rc<Worker>, query: &str) -> Result<Response, Refusal> {
    let name = api::session_name(query)?;
    let (there, here) = (Call::Session { name: &name }, Query::Session { session: (*name).into() });
    let info = match query::query_session(worker, &name, here, &there).await? {
        Reply::Session(Some(info)) => *info,
        Reply::Refused(why) => return Err(Refusal::Shard(why)),
        _ => return Err(Refusal::NoSuchSession),
    };
    let SessionInfo { name, identity, mut channels, waiting, waiting_bytes, oldest_ms, left_ms } = info;
    let body = serde_json::json!({
        "status": 0,
        "session": &*name,
        "user": take_user(&mut channels),
        "online": identity.is_some(),
        "identity": identity.map(|identity| identity.to_string()),
        "channels": channels,
        "waiting": waiting,
        "waiting_bytes": waiting_bytes,
        "oldest_s": oldest_ms.map(|ms| ms / 1000),
        "expires_s": left_ms.map(|ms| ms / 1000),
    });
    Ok(Response::json(body.to_string().into_bytes()))
}

/// How an open connection of this node stands.
pub async fn connection(worker: &Rc<Worker>, query: &str) -> Result<Response, Refusal> {
    let identity = query_get(query, "identity").ok_or(Refusal::BadIdentity)?;
    let identity = Identity::from_hex(identity.as_bytes()).ok_or(Refusal::BadIdentity)?;
    let shard = match query::locate(worker, &identity) {
        Location::Here(shard) => shard,
        Location::Node(node) => return Err(Refusal::OnAnotherNode { node }),
        Location::Nowhere => return Err(Refusal::NoSuchConnection),
    };
    let info = Arc::new(OnceLock::new());
    let looked_at = Query::Connection { identity, info: info.clone() };
    outcome::found(query::look_at(worker, shard, looked_at).await?, Refusal::NoSuchConnection)?;
    let info: &ConnectionInfo = info.get().ok_or(Refusal::NoSuchConnection)?;
    let body = serde_json::json!({
        "status": 0,
        "identity": identity.to_string(),
        "address": info.address.map(|address| address.to_string()),
        "is_secure": info.is_secure,
        "since_s": info.since_s,
        "silent_ms": info.silent_ms,
        "is_paused": info.is_paused,
        "in_flight": info.in_flight,
        "queued_bytes": info.queued_bytes,
        "outbox_bytes": info.outbox_bytes,
        "forward_queue": info.forward_queue,
        "forward_queue_bytes": info.forward_queue_bytes,
        "is_forwarding": info.is_forwarding,
        "cookie_bytes": info.cookie_bytes,
        "user": info.user.as_deref(),
        "session": info.session.as_deref(),
        "channels": info.channels,
    });
    Ok(Response::json(body.to_string().into_bytes()))
}

/// What a call to /updateconfig/ has of an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Reload,
    /// `dry_run`: the response says what a reload would change.
    Preview,
}

impl Effect {
    /// Any value but 0 keeps the call from changing something.
    pub fn of(query: &str) -> Effect {
        match query_get(query, "dry_run") {
            Some(value) if value != "0" => Effect::Preview,
            _ => Effect::Reload,
        }
    }

    /// In the audit.
    pub fn audited(self) -> &'static str {
        match self {
            Effect::Reload => "UpdateConfig",
            Effect::Preview => "UpdateConfig, dry run",
        }
    }
}

/// Makes the main thread reread the file; the response says what changed and what needs a restart.
pub async fn update_config(worker: &Rc<Worker>, effect: Effect) -> Response {
    let reloaded = worker.calls().reloads().open((), worker.now() + RELOAD_TIMEOUT_MS);
    let caller = ReturnAddress::new(worker.id(), reloaded.id());
    let event = match effect {
        Effect::Reload => Event::Reload(Some(caller)),
        Effect::Preview => Event::PreviewReload(caller),
    };
    if !worker.shared().events().try_send(event) {
        return access::refusal(503, "a reload is under way");
    }
    match reloaded.await {
        Ok(Ok(ReloadReport { text, changes })) => {
            let changes: Vec<_> = changes.iter().map(shown_change).collect();
            Response::json(serde_json::json!({"status": 0, "msg": text, "changes": changes}).to_string().into_bytes())
        }
        Ok(Err(why)) => access::refusal(200, &why),
        Err(expired) => access::refusal(503, &expired.to_string()),
    }
}

/// Begins what SIGTERM begins; the response still goes out.
pub fn drain(worker: &Worker) -> Response {
    let shared = worker.shared();
    if shared.is_drain_announced() {
        return Response::json(json_msg("the server is draining already"));
    }
    if !shared.events().try_send(Event::Drain) {
        return access::refusal(503, "the server is busy with its start or a reload");
    }
    let Config { drain_delay, shutdown_timeout, .. } = &*shared.config();
    let (delay, timeout) = (drain_delay.as_secs_f32(), shutdown_timeout.as_secs_f32());
    let msg =
        format!("draining: clients are told to go in {delay} s, and the server ends within {timeout} s after that");
    Response::json(json_msg(&msg))
}

fn json_msg(msg: &str) -> Vec<u8> {
    serde_json::json!({"status": 0, "msg": msg}).to_string().into_bytes()
}

fn shown_change(change: &Change) -> serde_json::Value {
    let Change { key, from, to, needs_restart } = change;
    serde_json::json!({"key": key, "from": from, "to": to, "needs_restart": needs_restart})
}

/// Style and script stand in files of their own; the page is one answer.
const SERVER_INFO: &str = concat!(
    include_str!("serverinfo/head.html"),
    "<style>\n",
    include_str!("serverinfo/style.css"),
    "</style>\n",
    include_str!("serverinfo/body.html"),
    "<script type=\"module\">\n",
    include_str!("serverinfo/text.js"),
    include_str!("serverinfo/charts.js"),
    include_str!("serverinfo/tables.js"),
    include_str!("serverinfo/actions.js"),
    include_str!("serverinfo/poll.js"),
    "</script>\n</body>\n</html>\n"
);
// It must open on a phone in a cellar.
const _: () = assert!(SERVER_INFO.len() < 150_000);
/// The page loads nothing, is in nobody's frame, and tells nobody its address, which may hold a token.
const PAGE_HEADERS: [(&str, &str); 5] = [
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
];
const DESCRIPTION: &str = include_str!("openapi.json");
/// A commit takes milliseconds; a store that is silent for so long makes every promise wait.
const STORE_SILENT_MS: u64 = 3_000;
const PAGE: usize = 100;
const PAGE_MAX: usize = 10_000;
/// Channels that one search lists.
const FOUND_MAX: usize = 200;
/// The main thread waits for the workers for half of that.
const RELOAD_TIMEOUT_MS: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::history::sampler::Sampler;
    use crate::metrics::process::Metrics;
    use crate::policy::api::{Access, Route};

    #[test]
    fn what_the_page_counts_as_an_error_is_a_figure() {
        let (_, list) = SERVER_INFO.split_once("const REASONS = [").expect("the list");
        let (list, _) = list.split_once(']').expect("it ends");
        let names: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
        let figures = Sampler::figures(&Metrics::new(1, true));
        let unknown: Vec<_> = names.iter().filter(|name| !figures.iter().any(|figure| figure.name == **name)).collect();
        assert!(names.len() > 40 && unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn the_description_has_every_route_with_its_method() {
        let description: serde_json::Value = serde_json::from_str(DESCRIPTION).expect("valid JSON");
        let paths = description["paths"].as_object().expect("paths");
        // Clients come to /connect/.
        for route in Route::ALL.into_iter().filter(|route| *route != Route::Connect) {
            let is_post = route.is_post() || route.access() == Access::Operator;
            let method = if is_post { "post" } else { "get" };
            assert!(paths.get(route.path()).is_some_and(|path| path[method].is_object()), "{method} {}", route.path());
        }
        assert_eq!(paths.len(), Route::ALL.len() - 1);
    }
}
