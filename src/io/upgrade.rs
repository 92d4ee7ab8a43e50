//! From a request to a client: checks the upgrade, asks the business server, answers 101 or says why not.

use super::backend::{Hook, Job, Outcome, Retry};
use super::clock;
use super::core::{CONNECT_TICKET, Core};
use super::moves::{self, Arrival};
use super::response::{Response, plain};
use super::rules::Rules;
use super::session;
use super::socket::Socket;
use crate::base::id::{ConnKey, Identity, ShardId};
use crate::policy::admission::{NotAdmitted, Place};
use crate::policy::backend::{Actions, ConnectAnswer};
use crate::shard::command::{SessionId, StoreError};
use crate::shard::{Input, Mode, RESERVED_TYPE, session_owner};
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
use std::sync::Arc;
use std::task::{Poll, Waker};
use tracing::{debug, warn};

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
        let wait = core.connects.open(Connect { key, identity, response, greets, answer: None, waker: None });
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
                Answer::Failed
            }
        };
        let refused = match answer {
            Answer::Open => None,
            Answer::Attaching { cookie } => core.attaches.told(key).await.err().map(|why| {
                core.tell_close(identity, cookie);
                not_kept(why)
            }),
            Answer::Moves(joining) => {
                let arrival = Arrival { identity, stub: key, joining: *joining, early, place };
                // Boxed: seldom, and larger than all the rest.
                return Box::pin(moves::hand_over(&core, key, socket, arrival)).await;
            }
            Answer::Refused => {
                core.count(|counters| &counters.connect_refused);
                debug!(%identity, "refused by the backend");
                Some(plain(401, "refused"))
            }
            Answer::Failed => {
                core.count(|counters| &counters.connect_failed);
                debug!(%identity, "the backend did not answer");
                Some(retry_later(503, "the business server does not answer"))
            }
        };
        if let Some(response) = refused {
            core.abandon(key);
            return Err((socket, response));
        }
    }
    debug!(%identity, "open");
    monoio::spawn(session::run(core, socket, key, early, place));
    Ok(())
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

/// The store does not take the session.
pub fn not_kept(why: StoreError) -> Response {
    retry_later(503, &format!("the session cannot be kept: {why}"))
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
    identity: Identity,
    response: Vec<u8>,
    greets: bool,
    answer: Option<Answer>,
    waker: Option<Waker>,
}

/// What the backend's answer has come to.
enum Answer {
    Open,
    /// Its session was asked for here: `Core::attaches` tells.
    Attaching {
        cookie: Option<Rc<[u8]>>,
    },
    /// Its session is at home elsewhere.
    Moves(Box<Joining>),
    Refused,
    Failed,
}

/// What the backend has decided about a connection of a durable session; it may go to another worker.
#[derive(Default)]
pub struct Joining {
    pub name: Arc<str>,
    pub expiry_s: Option<u64>,
    pub cookie: Option<Box<[u8]>>,
    pub unsubscribe: Vec<String>,
    pub subscribe: Vec<String>,
    /// The 101.
    pub response: Vec<u8>,
    pub greets: bool,
}

impl Connects {
    fn open(&self, connect: Connect) -> usize {
        self.0.borrow_mut().insert(connect)
    }

    fn forget(&self, wait: usize) {
        self.0.borrow_mut().remove(wait);
    }

    async fn answer(&self, wait: usize) -> Answer {
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
        let (key, identity, response, greets) = {
            let connect = &mut self.0.borrow_mut()[wait as usize];
            (connect.key, connect.identity, std::mem::take(&mut connect.response), connect.greets)
        };
        let answer = match outcome {
            Outcome::Answered { head, body, .. } => {
                let actions = Actions::read(head.headers);
                match ConnectAnswer::read(head.status, body) {
                    ConnectAnswer::Accepted => core.accepted(key, identity, &actions, response, greets),
                    refused => {
                        core.note_invalid(&actions);
                        if refused == ConnectAnswer::Refused { Answer::Refused } else { Answer::Failed }
                    }
                }
            }
            Outcome::GaveUp { .. } => Answer::Failed,
        };
        let mut connects = self.0.borrow_mut();
        let connect = &mut connects[wait as usize];
        connect.answer = Some(answer);
        if let Some(waker) = connect.waker.take() {
            waker.wake();
        }
    }
}

impl Core {
    /// The backend lets it in.
    fn accepted(
        &self,
        key: ConnKey,
        identity: Identity,
        actions: &Actions<'_>,
        response: Vec<u8>,
        greets: bool,
    ) -> Answer {
        let Some(home) = self.session_home(actions) else {
            self.apply(key, actions);
            self.handle(Input::Opened { key, response: opening(response, greets) });
            return Answer::Open;
        };
        self.note_invalid(actions);
        let joining = Joining::new(actions, response, greets);
        if home != self.id {
            return Answer::Moves(Box::new(joining));
        }
        self.attach(key, identity, joining);
        Answer::Attaching { cookie: actions.cookie.map(Rc::from) }
    }

    /// Where the session is at home that the backend wants; `None` without one, or without a store.
    fn session_home(&self, actions: &Actions<'_>) -> Option<ShardId> {
        let name = actions.session?;
        if !self.store.is_open() {
            if self.count_first(|counters| &counters.sessions_ignored) {
                warn!("the business server names a session, but no store is configured (store.kind): it is ignored");
            }
            return None;
        }
        Some(session_owner(name, self.shared.mail.len()))
    }

    /// Makes the connection its session's; `Core::attaches` tells what the store says.
    pub fn attach(&self, key: ConnKey, identity: Identity, joining: Joining) {
        let Joining { name, expiry_s, cookie, unsubscribe, subscribe, response, greets } = joining;
        let new = SessionId(u128::from_be_bytes(identity.0[..16].try_into().expect("sixteen bytes")));
        self.attaches.open(key);
        let now = self.clock.now();
        let mut shard = self.shard.borrow_mut();
        for channel in &subscribe {
            shard.handle(Input::Subscribe { key, channel }, now);
        }
        if let Some(value) = &cookie {
            shard.handle(Input::Cookie { key, value }, now);
        }
        shard.handle(Input::Attach { key, response: response.into(), new, name, expiry_s, greets }, now);
        // A session that exists brings channels of its own; what is named in both lists stays, as unsubscribing comes
        // first.
        for channel in unsubscribe.iter().filter(|name| !subscribe.contains(name)) {
            shard.handle(Input::Unsubscribe { key, channel }, now);
        }
        drop(shard);
        self.turn.notify();
    }
}

impl Joining {
    fn new(actions: &Actions<'_>, response: Vec<u8>, greets: bool) -> Joining {
        Joining {
            name: actions.session.unwrap_or_default().into(),
            expiry_s: actions.session_expiry_s,
            cookie: actions.cookie.map(Box::from),
            unsubscribe: actions.unsubscribe.iter().map(String::from).collect(),
            subscribe: actions.subscribe.iter().map(String::from).collect(),
            response,
            greets,
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
