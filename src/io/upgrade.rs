//! From a request to a client: checks the upgrade, asks the business server, answers 101 or says why not.

use super::backend::{Hook, Job, Outcome, Retry};
use super::clock;
use super::core::{CONNECT_TICKET, Core};
use super::response::{Response, plain};
use super::rules::Rules;
use super::session;
use super::shared::Counters;
use super::socket::Socket;
use crate::base::id::{ConnKey, Identity};
use crate::policy::admission::{NotAdmitted, Place};
use crate::policy::backend::{Actions, ConnectAnswer};
use crate::shard::{Input, Mode, RESERVED_TYPE};
use crate::wire::http1::{BodyFraming, RequestHead};
use crate::wire::packet::{Packet, QoS};
use crate::wire::ws::frame::{self, Opcode};
use crate::wire::ws::handshake::{self, Upgrade};
use sha2::{Digest, Sha256};
use slab::Slab;
use std::borrow::Cow;
use std::cell::RefCell;
use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::Rc;
use std::task::{Poll, Waker};
use tracing::debug;

/// An upgrade that may be asked of the backend.
pub struct Plan {
    /// The 101.
    response: Vec<u8>,
    /// The client speaks `rainbow.2`.
    greets: bool,
    digest: [u8; 32],
    query: Rc<str>,
    headers: Rc<[u8]>,
    place: Place,
}

/// Reads the upgrade; no backend is asked for one that cannot succeed.
pub fn plan(core: &Core, head: &RequestHead<'_>, peer: IpAddr) -> Result<Plan, Response> {
    let rules = core.rules();
    let upgrade = Upgrade::read(head.method, head.version_minor, head.headers.iter()).map_err(|refusal| {
        let mut response = plain(refusal.status(), &refusal.to_string());
        response.headers.extend(refusal.headers().iter().map(|&(name, value)| (name, value.into())));
        response
    })?;
    if head.framing != BodyFraming::None {
        return Err(plain(400, "an upgrade has no body"));
    }
    check_origin(core, &rules, head)?;
    let (device, platform) = match rules.mode {
        Mode::Echo => Default::default(),
        _ => device_and_platform(core, head)?,
    };
    let place = core.shared.admission.admit(peer, rules.admission).map_err(|why| match why {
        NotAdmitted::Full => retry_later(503, "too many connections"),
        NotAdmitted::TooManyFromAddress => retry_later(429, "too many connections from this address"),
    })?;
    if core.shared.is_draining() {
        return Err(retry_later(503, "going away"));
    }
    let greets = rules.mode != Mode::Echo && upgrade.offers(handshake::SUBPROTOCOL);
    let mut response = Vec::with_capacity(RESPONSE_ROOM);
    handshake::write_response(&mut response, &upgrade.accept, greets.then_some(handshake::SUBPROTOCOL));
    let digest = Sha256::new()
        .chain_update(&platform)
        .chain_update([0])
        .chain_update(&device)
        .chain_update([0])
        .chain_update(peer.to_string())
        .chain_update(clock::unix_ns().to_be_bytes());
    Ok(Plan {
        response,
        greets,
        digest: digest.finalize().into(),
        query: head.query.into(),
        headers: connect_headers(head, &device, &platform),
        place,
    })
}

fn check_origin(core: &Core, rules: &Rules, head: &RequestHead<'_>) -> Result<(), Response> {
    let allowed = &rules.config.allowed_origins;
    if allowed.is_empty() {
        return Ok(());
    }
    let origin = head.headers.get_text("origin").unwrap_or("");
    if allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)) {
        return Ok(());
    }
    core.count(|counters| &counters.origin_refused);
    Err(plain(403, "this origin is not allowed"))
}

/// By header (with minus or underscore) or by query parameter.
fn device_and_platform(core: &Core, head: &RequestHead<'_>) -> Result<(String, String), Response> {
    let named = |name: &str| {
        let header = head.headers.get_loose(name).and_then(|value| std::str::from_utf8(value).ok());
        let given = header.map(String::from).or_else(|| {
            let mut pairs = crate::wire::http1::query_pairs(head.query);
            pairs.find(|(key, _)| crate::wire::http1::head::same_name_loosely(key, name)).map(|(_, value)| value.into())
        });
        given.filter(|value| !value.is_empty() && value.len() <= DEVICE_MAX && !value.contains(['\r', '\n', '\0']))
    };
    match (named("x-deviceid"), named("x-client-os")) {
        (Some(device), Some(platform)) => Ok((device, platform)),
        _ => {
            core.count(|counters| &counters.connect_refused);
            Err(plain(401, "X-DEVICEID and X-CLIENT-OS must be given, as headers or as query parameters"))
        }
    }
}

/// The client's headers for the backend, as lines. Hop-by-hop ones and those of the upgrade stay here; the pool leaves
/// out what a client must not say (`RAINBOW*`).
fn connect_headers(head: &RequestHead<'_>, device: &str, platform: &str) -> Rc<[u8]> {
    let mut lines = Vec::with_capacity(256);
    let mut line = |name: &str, value: &[u8]| {
        lines.extend_from_slice(name.as_bytes());
        lines.extend_from_slice(b": ");
        lines.extend_from_slice(value);
        lines.extend_from_slice(b"\r\n");
    };
    for (name, value) in head.headers.iter() {
        let loose = name.replace('_', "-").to_ascii_lowercase();
        let named_by_connection = || head.headers.has_token("connection", name);
        let stays =
            NOT_FORWARDED.contains(&&*loose) || loose.starts_with("sec-websocket-") || loose.starts_with("rainbow");
        if !stays && !named_by_connection() {
            line(name, value);
        }
    }
    line("X-DEVICEID", device.as_bytes());
    line("X-CLIENT-OS", platform.as_bytes());
    lines.into()
}

/// Asks the backend and, when it agrees, becomes the client's session. Otherwise the socket comes back with what to
/// answer.
pub async fn connect(core: Rc<Core>, socket: Socket, plan: Plan, early: Vec<u8>) -> Result<(), (Socket, Response)> {
    let Plan { response, greets, digest, query, headers, place } = plan;
    let (key, identity) = core.reserve(digest, socket.fd());
    let rules = core.rules();
    if rules.mode == Mode::Echo || rules.config.connect_url.is_empty() {
        core.handle(Input::Opened { key, response: opening(response, greets) });
    } else {
        let wait = core.connects.open(key, response, greets);
        let job = Job {
            hook: Hook::Connect,
            ticket: CONNECT_TICKET | wait as u64,
            retry: Retry::Never,
            identity: identity.to_hex(),
            cookie: None,
            idempotency_key: None,
            query: Some(query),
            headers: Some(headers),
            body: Vec::new(),
        };
        let answer = match core.pool().submit(job) {
            Ok(()) => core.connects.answer(wait).await,
            Err(_) => {
                core.connects.forget(wait);
                ConnectAnswer::Failed
            }
        };
        if let Some(response) = refusal(&core, answer, identity) {
            core.abandon(key);
            return Err((socket, response));
        }
    }
    debug!(%identity, "open");
    monoio::spawn(session::run(core, socket, key, early, place));
    Ok(())
}

fn refusal(core: &Core, answer: ConnectAnswer, identity: Identity) -> Option<Response> {
    match answer {
        ConnectAnswer::Accepted => None,
        ConnectAnswer::Refused => {
            core.count(|counters| &counters.connect_refused);
            debug!(%identity, "refused by the backend");
            Some(plain(401, "refused"))
        }
        ConnectAnswer::Failed => {
            core.count(|counters| &counters.connect_failed);
            debug!(%identity, "the backend did not answer");
            Some(retry_later(503, "the business server does not answer"))
        }
    }
}

/// What a client without a session gets first: the 101, and the greeting if it speaks `rainbow.2`.
fn opening(mut response: Vec<u8>, greets: bool) -> Rc<[u8]> {
    if greets {
        let body = br#"{"session":null,"resumed":false,"waiting":0}"#;
        let (qos, message_type) = (QoS::AtMostOnce, RESERVED_TYPE);
        let greeting = Packet::Send { dup: false, qos, message_type, id: None, body };
        frame::write_header(&mut response, Opcode::Binary, greeting.encoded_len());
        greeting.encode_into(&mut response);
    }
    response.into()
}

pub fn retry_later(status: u16, why: &str) -> Response {
    let mut response = plain(status, why);
    response.headers.push(RETRY_AFTER);
    response
}

/// Upgrades that wait for the backend.
#[derive(Default)]
pub struct Connects(RefCell<Slab<Connect>>);

struct Connect {
    key: ConnKey,
    response: Vec<u8>,
    greets: bool,
    answer: Option<ConnectAnswer>,
    waker: Option<Waker>,
}

impl Connects {
    fn open(&self, key: ConnKey, response: Vec<u8>, greets: bool) -> usize {
        self.0.borrow_mut().insert(Connect { key, response, greets, answer: None, waker: None })
    }

    fn forget(&self, wait: usize) {
        self.0.borrow_mut().remove(wait);
    }

    async fn answer(&self, wait: usize) -> ConnectAnswer {
        poll_fn(|context| {
            let mut connects = self.0.borrow_mut();
            match connects[wait].answer {
                Some(_) => Poll::Ready(connects.remove(wait).answer.expect("just seen")),
                None => {
                    connects[wait].waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// The backend's answer: the client is subscribed and open before anything else can happen to it.
    pub fn on_answer(&self, core: &Core, wait: u64, outcome: Outcome<'_>) {
        let (key, response, greets) = {
            let connect = &mut self.0.borrow_mut()[wait as usize];
            (connect.key, std::mem::take(&mut connect.response), connect.greets)
        };
        let answer = match outcome {
            Outcome::Answered { head, body, .. } => {
                let answer = ConnectAnswer::read(head.status, body);
                let actions = Actions::read(head.headers);
                if answer == ConnectAnswer::Accepted {
                    core.apply(key, &actions);
                    core.handle(Input::Opened { key, response: opening(response, greets) });
                } else if actions.invalid.is_some() {
                    core.count(|counters: &Counters| &counters.backend_invalid);
                    tracing::error!(code = actions.invalid, "the business server calls our request invalid");
                }
                answer
            }
            Outcome::GaveUp { .. } => ConnectAnswer::Failed,
        };
        let mut connects = self.0.borrow_mut();
        let connect = &mut connects[wait as usize];
        connect.answer = Some(answer);
        if let Some(waker) = connect.waker.take() {
            waker.wake();
        }
    }
}

/// Headers of the client that are for us, not for the backend: hop-by-hop ones, those of the upgrade, and those that
/// are written anew.
const NOT_FORWARDED: [&str; 13] = [
    "host",
    "connection",
    "upgrade",
    "origin",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "x-deviceid",
    "x-client-os",
];
const DEVICE_MAX: usize = 512;
/// The 101 with a subprotocol, and the greeting.
const RESPONSE_ROOM: usize = 224;
/// Seconds.
pub const RETRY_AFTER: (&str, Cow<'static, str>) = ("Retry-After", Cow::Borrowed("2"));
