//! From a request to a client: checks the upgrade, calls the connect hook, answers 101 or says why not.
//!
//! A socket is never lost on the way: it becomes a client's, or goes to another worker, or comes back with the refusal.

use super::refusal::ConnectRefusal;
use super::{lifecycle, task};
use crate::base::client::trace_parent::TraceParent;
use crate::base::client::{ClientContext, ClientSite};
use crate::io::backend::GiveUp;
use crate::io::client::handover;
use crate::io::handover::channel::Arrival;
use crate::io::hooks::requests::ConnectHeaders;
use crate::io::http::request_id::RequestId;
use crate::io::runtime::clock;
use crate::io::runtime::socket::Socket;
use crate::io::spans::span::{Span, SpanKind};
use crate::io::worker::connecting::{Connect, ConnectFailure, ConnectOutcome};
use crate::io::worker::rules::Rules;
use crate::io::worker::turn::Worker;
use crate::policy::admission::Place;
use crate::policy::headers::{REQUEST_ID, TRACE_PARENT, forwarded, put_client, put_header};
use crate::policy::origin::may_connect;
use crate::policy::proxies::{ClientPath, is_trusted};
use crate::shard::command::StoreError;
use crate::shard::{Input, Mode};
use crate::wire::http1::head::same_name_loosely;
use crate::wire::http1::{BodyFraming, RequestHead, query_pairs};
use crate::wire::ws::handshake::{self, Upgrade};
use sha2::{Digest, Sha256};
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use tracing::debug;

/// An upgrade that may go to the connect hook.
pub struct UpgradePlan {
    /// The 101.
    response: Vec<u8>,
    /// The client speaks `rainbow.2`.
    greets: bool,
    digest: [u8; 32],
    query: Rc<str>,
    headers: ConnectHeaders,
    client: ClientContext,
    request_id: RequestId,
    place: Place,
    span: Option<Box<Span>>,
}

impl UpgradePlan {
    /// Of the whole connect.
    pub fn take_span(&mut self) -> Option<Box<Span>> {
        self.span.take()
    }

    /// The 101 of a client that hears of a refusal behind it.
    pub fn accepted(&self) -> Option<Vec<u8>> {
        self.greets.then(|| self.response.clone())
    }
}

/// Reads the upgrade. The connect hook is not called for one that cannot succeed.
pub fn plan(worker: &Worker, head: &RequestHead<'_>, path: &ClientPath) -> Result<UpgradePlan, ConnectRefusal> {
    let rules = worker.rules();
    let upgrade = Upgrade::read(head.method, head.version_minor, head.headers.iter());
    let upgrade = upgrade.map_err(ConnectRefusal::Handshake)?;
    if !matches!(head.framing, BodyFraming::None | BodyFraming::Length(0)) {
        return Err(ConnectRefusal::HasBody);
    }
    check_origin(worker, &rules, head)?;
    let greets = rules.mode() != Mode::Echo && upgrade.offers(handshake::SUBPROTOCOL);
    let (device, platform) = match rules.mode() {
        Mode::Echo => Default::default(),
        _ => device_and_platform(worker, head, greets)?,
    };
    let place = worker.shared().admission().admit(path.client, rules.admission())?;
    if worker.shared().is_draining() {
        return Err(ConnectRefusal::GoingAway);
    }
    let mut response = Vec::with_capacity(RESPONSE_ROOM);
    handshake::write_response(&mut response, &upgrade.accept, greets.then_some(handshake::SUBPROTOCOL));
    let client_ip = path.client.to_string();
    let digest = Sha256::new()
        .chain_update(&platform)
        .chain_update([0])
        .chain_update(&device)
        .chain_update([0])
        .chain_update(&client_ip)
        .chain_update(clock::unix_ns().to_be_bytes());
    let trace_parent = head.headers.get(TRACE_PARENT).and_then(TraceParent::read);
    let span = worker.hooks().spans().begin(trace_parent.as_ref(), SpanKind::Server, "GET /connect/");
    let hook = span.as_deref().map(|span| worker.hooks().connect_span(span));
    let client = worker.hooks().client(path.client, site(&rules, head, path)).of_trace(trace_parent);
    // A stranger does not name our requests.
    let request_id = if path.proxies.is_empty() { RequestId::draw() } else { RequestId::of(head) };
    Ok(UpgradePlan {
        response,
        greets,
        digest: digest.finalize().into(),
        query: head.query.into(),
        headers: ConnectHeaders {
            of_client: client_headers(head, &device, &platform).into(),
            ours: our_headers(&client, hook.as_deref(), &request_id).into(),
            span: hook,
        },
        client,
        request_id,
        place,
        span,
    })
}

fn check_origin(worker: &Worker, rules: &Rules, head: &RequestHead<'_>) -> Result<(), ConnectRefusal> {
    let text = |name: &str| head.headers.get_text(name);
    if may_connect(&rules.config().allowed_origins, text("origin"), text("host")) {
        return Ok(());
    }
    worker.count(|counters| &counters.origin_refused);
    Err(ConnectRefusal::Origin)
}

/// By header (with minus or underscore) or by query parameter. A client of `rainbow.2` need not say.
fn device_and_platform(
    worker: &Worker,
    head: &RequestHead<'_>,
    greets: bool,
) -> Result<(String, String), ConnectRefusal> {
    let named = |name: &str| {
        let header = head.headers.get_loose(name).and_then(|value| std::str::from_utf8(value).ok());
        let value = header.map(String::from).or_else(|| {
            let mut pairs = query_pairs(head.query);
            pairs.find(|(key, _)| same_name_loosely(key, name)).map(|(_, value)| value.into())
        });
        value.filter(|value| !value.is_empty() && value.len() <= DEVICE_MAX && !value.contains(['\r', '\n', '\0']))
    };
    match (named(DEVICE), named(PLATFORM)) {
        (Some(device), Some(platform)) => Ok((device, platform)),
        (device, platform) if greets => {
            Ok((device.unwrap_or_else(random_device), platform.unwrap_or_else(|| PLATFORM_UNNAMED.into())))
        }
        _ => {
            worker.count(|counters| &counters.connect_refused);
            Err(ConnectRefusal::NoDevice)
        }
    }
}

fn random_device() -> String {
    let half = || RandomState::new().hash_one(clock::unix_ns());
    format!("{:016x}{:016x}", half(), half())
}

/// Where the client has come to and from in its own words, and how, as far as trusted proxies say.
fn site(rules: &Rules, head: &RequestHead<'_>, path: &ClientPath) -> ClientSite {
    let [host, origin] = ["host", "origin"].map(|name| head.headers.get(name).map(Box::from));
    let (peer, proxies) = match path.proxies.split_last() {
        Some((&peer, proxies)) => (Some(peer), proxies),
        None => (None, &[][..]),
    };
    let is_behind_proxy = peer.is_some_and(|peer| is_trusted(&rules.config().trusted_proxies, peer));
    let proto = head.headers.get_text("x-forwarded-proto").filter(|_| is_behind_proxy);
    let is_secure = proto.is_some_and(|proto| proto.eq_ignore_ascii_case("https") || proto.eq_ignore_ascii_case("wss"));
    ClientSite { host, origin, proxies: proxies.into(), is_secure }
}

/// The client's headers for the connect hook. Device and platform are written anew.
fn client_headers(head: &RequestHead<'_>, device: &str, platform: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let is_written_anew = |name: &str| same_name_loosely(name, DEVICE) || same_name_loosely(name, PLATFORM);
    for (name, value) in forwarded(head).filter(|(name, _)| !is_written_anew(name)) {
        put_header(&mut out, name, value);
    }
    put_header(&mut out, DEVICE, device.as_bytes());
    put_header(&mut out, PLATFORM, platform.as_bytes());
    out
}

/// What we say of the client in the connect hook; `hook` is that hook's step of its trace.
fn our_headers(client: &ClientContext, hook: Option<&Span>, request_id: &RequestId) -> Vec<u8> {
    let mut out = Vec::with_capacity(192);
    match hook {
        None => put_client(&mut out, client),
        Some(hook) => put_client(&mut out, &client.clone().of_trace(Some(hook.context.clone()))),
    }
    out.extend_from_slice(REQUEST_ID.as_bytes());
    out.extend_from_slice(b": ");
    request_id.write(&mut out);
    out.extend_from_slice(b"\r\n");
    out
}

/// Calls the connect hook. When the business server agrees, the socket becomes a client's; otherwise it comes back with
/// the reason.
pub async fn connect(
    worker: Rc<Worker>,
    socket: Socket,
    plan: UpgradePlan,
    early: Vec<u8>,
) -> Result<(), (Socket, ConnectRefusal)> {
    let UpgradePlan { response, greets, digest, query, headers, client, request_id, place, .. } = plan;
    let (key, identity) = lifecycle::reserve(&worker, digest, socket.fd());
    let trace_parent = client.trace_parent().cloned();
    let trace_id = trace_parent.as_ref().map(TraceParent::trace_id);
    worker.shard().set_client(key, client.clone());
    let rules = worker.rules();
    if rules.mode() == Mode::Echo || rules.config().connect_url.is_empty() {
        worker.handle(Input::Opened { key, response: response.into(), greets });
    } else {
        let deadline = worker.now() + rules.config().connect_timeout + CONNECT_GRACE_MS;
        let oneshot = worker.connects().open(Connect { key, identity, response, greets }, deadline);
        let outcome = match worker.hooks().connect(oneshot.id(), identity, query, headers) {
            true => oneshot.await.unwrap_or(ConnectOutcome::Failed(ConnectFailure::GaveUp(GiveUp::Deadline))),
            false => ConnectOutcome::Failed(ConnectFailure::TooManyRequests),
        };
        let refused = match outcome {
            ConnectOutcome::Opened => None,
            ConnectOutcome::Attaching { cookie, user, attached } => {
                attached.await.unwrap_or(Err(StoreError::Unreachable)).err().map(|why| {
                    worker.hooks().close_refused(identity, client.with(cookie, user), worker.now());
                    ConnectRefusal::SessionNotStored(why)
                })
            }
            ConnectOutcome::OwnedElsewhere(session) => {
                let address = client.address();
                let arrival = Arrival { identity, address, origin: key, session: *session, early, place };
                // Boxed: seldom, and larger than all the rest.
                return Box::pin(handover::hand_over(&worker, key, socket, arrival)).await;
            }
            ConnectOutcome::Refused(reason) => {
                worker.count(|counters| &counters.connect_refused);
                debug!(%identity, %request_id, trace_id, "refused by the backend");
                Some(ConnectRefusal::Refused(reason))
            }
            ConnectOutcome::Failed(why) => {
                worker.count(|counters| &counters.connect_failed);
                worker.connects().log_failure(why, worker.now());
                Some(ConnectRefusal::NoAnswer)
            }
        };
        if let Some(why) = refused {
            lifecycle::abandon(&worker, key);
            return Err((socket, why));
        }
    }
    debug!(%identity, %request_id, trace_id, "open");
    monoio::spawn(task::run(worker, socket, key, early, place));
    Ok(())
}

const DEVICE: &str = "X-DEVICEID";
/// A browser's page cannot set headers.
const PLATFORM_UNNAMED: &str = "web";
const PLATFORM: &str = "X-CLIENT-OS";
/// The pool ends a connect at its timeout; this is a backstop.
const CONNECT_GRACE_MS: u64 = 60_000;
const DEVICE_MAX: usize = 512;
/// The 101 with a subprotocol, and the greeting.
const RESPONSE_ROOM: usize = 224;
