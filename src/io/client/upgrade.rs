//! From a request to a client: checks the upgrade, calls the connect hook, answers 101 or says why not.
//!
//! A socket is never lost on the way: it becomes a client's, or goes to another worker, or comes back with the refusal.

use super::refusal::ConnectRefusal;
use super::{lifecycle, task};
use crate::io::backend::GiveUp;
use crate::io::client::handover;
use crate::io::handover::channel::Arrival;
use crate::io::hooks::requests::ConnectHeaders;
use crate::io::runtime::clock;
use crate::io::runtime::socket::Socket;
use crate::io::worker::connecting::{Connect, ConnectFailure, ConnectOutcome};
use crate::io::worker::rules::Rules;
use crate::io::worker::turn::Worker;
use crate::policy::admission::Place;
use crate::policy::headers::forwarded;
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
    place: Place,
}

impl UpgradePlan {
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
    let client = path.client.to_string();
    let digest = Sha256::new()
        .chain_update(&platform)
        .chain_update([0])
        .chain_update(&device)
        .chain_update([0])
        .chain_update(&client)
        .chain_update(clock::unix_ns().to_be_bytes());
    Ok(UpgradePlan {
        response,
        greets,
        digest: digest.finalize().into(),
        query: head.query.into(),
        headers: connect_headers(head, (&device, &platform), (&client, path), proto(&rules, head, path)),
        place,
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

/// By which scheme the client has come, as far as a trusted proxy says.
fn proto(rules: &Rules, head: &RequestHead<'_>, path: &ClientPath) -> &'static str {
    let is_behind_proxy = path.proxies.last().is_some_and(|&proxy| is_trusted(&rules.config().trusted_proxies, proxy));
    match head.headers.get_text("x-forwarded-proto").filter(|_| is_behind_proxy) {
        Some(proto) if proto.eq_ignore_ascii_case("https") || proto.eq_ignore_ascii_case("wss") => "https",
        _ => "http",
    }
}

/// The headers for the connect hook, each with its CRLF: the client's, and what we say of it. Device and platform are
/// written anew; `client` is the address of `path` as text.
fn connect_headers(
    head: &RequestHead<'_>,
    (device, platform): (&str, &str),
    (client, path): (&str, &ClientPath),
    proto: &'static str,
) -> ConnectHeaders {
    let mut of_client = Vec::with_capacity(256);
    let mut write = |name: &str, value: &[u8]| put_header(&mut of_client, name, value);
    let is_written_anew = |name: &str| same_name_loosely(name, DEVICE) || same_name_loosely(name, PLATFORM);
    forwarded(head).filter(|(name, _)| !is_written_anew(name)).for_each(|(name, value)| write(name, value));
    write(DEVICE, device.as_bytes());
    write(PLATFORM, platform.as_bytes());
    let mut ours = Vec::with_capacity(128);
    let mut write = |name: &str, value: &[u8]| put_header(&mut ours, name, value);
    let mut hops = String::from(client);
    for proxy in path.proxies.iter().rev().skip(1).rev() {
        hops.push_str(", ");
        hops.push_str(&proxy.to_string());
    }
    write("X-Forwarded-For", hops.as_bytes());
    write("X-Real-IP", client.as_bytes());
    write("X-Forwarded-Proto", proto.as_bytes());
    for (name, of_client) in [("RAINBOWCLIENTHOST", "host"), ("RAINBOWCLIENTORIGIN", "origin")] {
        if let Some(value) = head.headers.get(of_client) {
            write(name, value);
        }
    }
    ConnectHeaders { of_client: of_client.into(), ours: ours.into() }
}

fn put_header(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Calls the connect hook. When the business server agrees, the socket becomes a client's; otherwise it comes back with
/// the reason.
pub async fn connect(
    worker: Rc<Worker>,
    socket: Socket,
    plan: UpgradePlan,
    early: Vec<u8>,
) -> Result<(), (Socket, ConnectRefusal)> {
    let UpgradePlan { response, greets, digest, query, headers, place } = plan;
    let (key, identity) = lifecycle::reserve(&worker, digest, socket.fd());
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
            ConnectOutcome::Attaching { cookie, attached } => {
                attached.await.unwrap_or(Err(StoreError::Unreachable)).err().map(|why| {
                    worker.hooks().close(identity, cookie, worker.now());
                    ConnectRefusal::SessionNotStored(why)
                })
            }
            ConnectOutcome::OwnedElsewhere(session) => {
                let arrival = Arrival { identity, origin: key, session: *session, early, place };
                // Boxed: seldom, and larger than all the rest.
                return Box::pin(handover::hand_over(&worker, key, socket, arrival)).await;
            }
            ConnectOutcome::Refused(reason) => {
                worker.count(|counters| &counters.connect_refused);
                debug!(%identity, "refused by the backend");
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
    debug!(%identity, "open");
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
