//! The control API as values: path to route, request to call, outcome to answer. Who may call is decided in `access`.
//!
//! Answers are JSON with HTTP 200, `{"status":0,…}` or `{"status":1,"msg":…}`; an error status only where the request
//! cannot be read at all.

use crate::base::id::Identity;
use crate::shard::command::StoreError;
use crate::shard::{CHANNEL_NAME_MAX, DurableTally, QueryRefusal};
use crate::wire::http1::{push_number, query_get, query_pairs};
use crate::wire::packet::QoS;
use crate::wire::ws::frame::CloseCode;
use serde::Deserialize;
use std::borrow::Cow;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Connect,
    Hello,
    Send,
    Broadcast,
    Subscribe,
    Unsubscribe,
    Kick,
    DropSession,
    Channel,
    Session,
    Info,
    ServerInfo,
    Metrics,
    Live,
    Ready,
    UpdateConfig,
}

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Anyone,
    /// The business server: signed.
    Signed,
    /// A person or a scraper: from loopback, or signed, or with the admin token.
    Viewer,
    /// The operator: from loopback, or signed.
    Operator,
}

impl Route {
    /// The slash at the end may be missing.
    pub fn find(path: &str) -> Option<Route> {
        Some(match path.strip_suffix('/').unwrap_or(path) {
            "/connect" => Route::Connect,
            "/hello" => Route::Hello,
            "/send" => Route::Send,
            "/broadcast" => Route::Broadcast,
            "/sub" => Route::Subscribe,
            "/unsub" => Route::Unsubscribe,
            "/kick" => Route::Kick,
            "/session/drop" => Route::DropSession,
            "/channel" => Route::Channel,
            "/session" => Route::Session,
            "/info" => Route::Info,
            "/serverinfo" => Route::ServerInfo,
            "/metrics" => Route::Metrics,
            "/livez" => Route::Live,
            "/readyz" => Route::Ready,
            "/updateconfig" => Route::UpdateConfig,
            _ => return None,
        })
    }

    pub fn access(self) -> Access {
        match self {
            Route::Connect | Route::Hello | Route::Live | Route::Ready => Access::Anyone,
            Route::Send | Route::Broadcast | Route::Subscribe | Route::Unsubscribe | Route::Kick => Access::Signed,
            Route::DropSession => Access::Signed,
            Route::Channel | Route::Session | Route::Info | Route::ServerInfo | Route::Metrics => Access::Viewer,
            Route::UpdateConfig => Access::Operator,
        }
    }

    /// POST where a body is part of the call.
    pub fn is_post(self) -> bool {
        self.access() == Access::Signed
    }

    /// What stays on the public address when `admin_listen` takes the rest away.
    pub fn is_public(self) -> bool {
        matches!(self, Route::Connect | Route::Hello)
    }
}

/// A call of the business server, read.
#[derive(Debug, PartialEq)]
pub enum Call<'a> {
    /// One body to one channel, to one durable session, or with /broadcast/ to several channels.
    Send {
        to: Targets<'a>,
        message_type: u16,
        qos: QoS,
        timeout: Duration,
        /// How long it waits for those who are away; `None`: as configured.
        ttl_ms: Option<u64>,
        /// The caller's own id: a repeat of the call is answered, not carried out.
        message_id: Option<Cow<'a, str>>,
    },
    Subscribe {
        identity: Identity,
        channel: String,
        occupy: bool,
    },
    /// `identity` is `None` when it cannot be one of ours: then there is nothing to do.
    Unsubscribe {
        identity: Option<Identity>,
        channel: String,
    },
    Kick {
        whom: Whom,
        code: CloseCode,
        reason: String,
    },
    DropSession {
        session: String,
    },
}

/// Whom a send is for: nearly always one channel, and then nothing is allocated for it.
#[derive(Debug, PartialEq)]
pub enum Targets<'a> {
    One(Cow<'a, str>),
    Many(Vec<Cow<'a, str>>),
    Session(Cow<'a, str>),
}

impl<'a> Targets<'a> {
    /// None when it is for a session.
    pub fn channels(&self) -> &[Cow<'a, str>] {
        match self {
            Targets::One(channel) => std::slice::from_ref(channel),
            Targets::Many(channels) => channels,
            Targets::Session(_) => &[],
        }
    }
}

#[derive(Debug, PartialEq)]
pub enum Whom {
    Identity(Identity),
    Channel(String),
}

#[derive(Clone, Copy)]
pub struct Timeouts {
    pub default: Duration,
    pub max: Duration,
}

/// Why a call is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no channel")]
    NoChannel,
    #[error("a channel's name has 1 to {CHANNEL_NAME_MAX} bytes")]
    BadChannel,
    #[error("more than {CHANNELS_PER_BROADCAST} channels in one call")]
    TooManyChannels,
    #[error("no session")]
    NoSession,
    #[error("a session's name has 1 to {NAME_BYTES_MAX} printable ASCII characters")]
    BadSession,
    #[error("either channel or session, not both")]
    ChannelAndSession,
    #[error("qos must be 0, 1 or 2")]
    BadQos,
    #[error("msgtype must be a number from 0 to 65534")]
    BadMessageType,
    #[error("timeout must be a number of seconds")]
    BadTimeout,
    #[error("ttl must be a number of seconds above 0")]
    BadTtl,
    #[error("a message_id has 1 to {NAME_BYTES_MAX} printable ASCII characters")]
    BadMessageId,
    #[error("message_id needs a store; none is configured (store.kind)")]
    NoStoreForId,
    #[error("there are no durable sessions; no store is configured (store.kind)")]
    NoStoreForSessions,
    #[error("{0}")]
    Store(StoreError),
    /// As a shard says it.
    #[error("{0}")]
    Said(QueryRefusal),
    #[error("no such connection")]
    NoSuchConnection,
    #[error("no such session")]
    NoSuchSession,
    #[error("identity or channel must be given")]
    Nobody,
    #[error("code must be 1000 or from 3000 to 4999, reason at most 123 bytes")]
    BadClose,
    #[error("too many calls are waiting")]
    TooManyCalls,
    #[error("the body is not the JSON that this call takes: {0}")]
    BadJson(String),
}

impl Refusal {
    /// 400 where the 2014 server failed with 500, 503 where the same call may succeed later; 200 otherwise.
    pub fn status(&self) -> u16 {
        match self {
            Refusal::BadJson(_) => 400,
            Refusal::TooManyCalls | Refusal::Store(StoreError::TooBusy) => 503,
            _ => 200,
        }
    }
}

/// Reads a call. `body` is used by all but /send/ and /broadcast/, whose body is the message.
pub fn read_call<'a>(route: Route, query: &'a str, body: &[u8], timeouts: Timeouts) -> Result<Call<'a>, Refusal> {
    match route {
        Route::Send | Route::Broadcast => read_send(route, query, timeouts).1,
        Route::Subscribe => {
            let body: MembershipBody = read_json(body)?;
            let channel = channel_name(body.channel)?;
            let identity = Identity::from_hex(body.identity.as_bytes()).ok_or(Refusal::NoSuchConnection)?;
            Ok(Call::Subscribe { identity, channel, occupy: body.occupy.0 })
        }
        Route::Unsubscribe => {
            let body: MembershipBody = read_json(body)?;
            Ok(Call::Unsubscribe { identity: Identity::from_hex(body.identity.as_bytes()), channel: body.channel })
        }
        Route::Kick => read_kick(body),
        Route::DropSession => Ok(Call::DropSession { session: session_name(query)?.into_owned() }),
        _ => unreachable!("only signed calls are read"),
    }
}

/// What a query is signed with, as PROTOCOL.md section 5 has it.
#[derive(Debug, Default, PartialEq)]
pub struct Signature<'a> {
    pub timestamp: Option<Cow<'a, str>>,
    pub nonce: Option<Cow<'a, str>>,
    pub signature: Option<Cow<'a, str>>,
}

impl<'a> Signature<'a> {
    pub fn read(query: &'a str) -> Signature<'a> {
        let mut signature = Signature::default();
        query_pairs(query).for_each(|(name, value)| signature.take(&name, value));
        signature
    }

    /// The first of each name counts.
    fn take(&mut self, name: &str, value: Cow<'a, str>) {
        let part = match name {
            "timestamp" => &mut self.timestamp,
            "nonce" => &mut self.nonce,
            "signature" => &mut self.signature,
            _ => return,
        };
        part.get_or_insert(value);
    }
}

/// Reads /send/ and /broadcast/, and in the same look at the query what it is signed with. The call must not be heeded
/// before the signature is, not even for what is wrong with it.
pub fn read_send(route: Route, query: &str, timeouts: Timeouts) -> (Signature<'_>, Result<Call<'_>, Refusal>) {
    let mut signature = Signature::default();
    let mut refusal = None;
    let mut parameters = SendParameters::new(route == Route::Broadcast, timeouts);
    for (name, value) in query_pairs(query) {
        if let Err(why) = parameters.take(&name, value, &mut signature) {
            refusal.get_or_insert(why);
        }
    }
    (signature, refusal.map_or_else(|| parameters.call(), Err))
}

/// The parameters of a send, as they come.
struct SendParameters<'a> {
    many: bool,
    timeout_max: Duration,
    one: Option<Cow<'a, str>>,
    channels: Vec<Cow<'a, str>>,
    session: Option<Cow<'a, str>>,
    message_type: u16,
    qos: QoS,
    timeout: Duration,
    ttl_ms: Option<u64>,
    message_id: Option<Cow<'a, str>>,
}

impl<'a> SendParameters<'a> {
    fn new(many: bool, timeouts: Timeouts) -> SendParameters<'a> {
        SendParameters {
            many,
            timeout_max: timeouts.max,
            one: None,
            channels: Vec::new(),
            session: None,
            message_type: 1,
            qos: QoS::ExactlyOnce,
            timeout: timeouts.default,
            ttl_ms: None,
            message_id: None,
        }
    }

    #[inline]
    fn take(&mut self, name: &str, value: Cow<'a, str>, signature: &mut Signature<'a>) -> Result<(), Refusal> {
        match name {
            "channel" | "channels" if self.many => match value {
                Cow::Borrowed(list) => self.channels.extend(list.split(";;").map(Cow::Borrowed)),
                Cow::Owned(list) => self.channels.extend(list.split(";;").map(|name| Cow::Owned(name.into()))),
            },
            "channel" => {
                self.one.get_or_insert(value);
            }
            "msgtype" => {
                let number = value.parse().ok().filter(|&number| number != crate::shard::RESERVED_TYPE);
                self.message_type = number.ok_or(Refusal::BadMessageType)?;
            }
            "qos" => self.qos = value.parse().ok().and_then(QoS::from_u8).ok_or(Refusal::BadQos)?,
            "timeout" => {
                let seconds = value.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                self.timeout = seconds.ok_or(Refusal::BadTimeout)?.min(self.timeout_max);
            }
            "session" => {
                self.session.get_or_insert(value);
            }
            "ttl" => self.ttl_ms = Some(read_ttl(&value).ok_or(Refusal::BadTtl)?),
            "message_id" if is_name(&value) => self.message_id = Some(value),
            "message_id" => return Err(Refusal::BadMessageId),
            _ => signature.take(name, value),
        }
        Ok(())
    }

    fn call(self) -> Result<Call<'a>, Refusal> {
        let SendParameters { one, mut channels, session, message_type, qos, timeout, ttl_ms, message_id, .. } = self;
        channels.retain(|channel| !channel.is_empty());
        let to = match (one.filter(|channel| !channel.is_empty()), session) {
            (None, Some(session)) if channels.is_empty() => {
                if !is_name(&session) {
                    return Err(Refusal::BadSession);
                }
                Targets::Session(session)
            }
            (_, Some(_)) => return Err(Refusal::ChannelAndSession),
            (Some(channel), None) => Targets::One(channel),
            (None, None) if channels.is_empty() => return Err(Refusal::NoChannel),
            (None, None) => Targets::Many(channels),
        };
        if to.channels().iter().any(|channel| channel.len() > CHANNEL_NAME_MAX) {
            return Err(Refusal::BadChannel);
        }
        if to.channels().len() > CHANNELS_PER_BROADCAST {
            return Err(Refusal::TooManyChannels);
        }
        Ok(Call::Send { to, message_type, qos, timeout, ttl_ms, message_id })
    }
}

fn read_ttl(value: &str) -> Option<u64> {
    let seconds: f64 = value.parse().ok()?;
    let ttl = Duration::try_from_secs_f64(seconds).ok().filter(|ttl| !ttl.is_zero())?;
    Some(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1))
}

/// Names of sessions and of calls: what a header and a query can both carry.
fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(|c| (b' '..=b'~').contains(&c))
}

/// The session that a call is about.
pub fn session_name(query: &str) -> Result<Cow<'_, str>, Refusal> {
    let name = query_get(query, "session").filter(|name| !name.is_empty()).ok_or(Refusal::NoSession)?;
    if is_name(&name) { Ok(name) } else { Err(Refusal::BadSession) }
}

fn read_kick(body: &[u8]) -> Result<Call<'static>, Refusal> {
    let body: KickBody = read_json(body)?;
    let code = CloseCode(body.code);
    if !(code == CloseCode::NORMAL || (3000..5000).contains(&code.0)) || body.reason.len() > 123 {
        return Err(Refusal::BadClose);
    }
    let whom = match (body.identity, body.channel) {
        (Some(identity), _) => {
            Whom::Identity(Identity::from_hex(identity.as_bytes()).ok_or(Refusal::NoSuchConnection)?)
        }
        (None, Some(channel)) => Whom::Channel(channel_name(channel)?),
        (None, None) => return Err(Refusal::Nobody),
    };
    Ok(Call::Kick { whom, code, reason: body.reason })
}

fn channel_name(name: String) -> Result<String, Refusal> {
    match name.len() {
        0 => Err(Refusal::NoChannel),
        1..=CHANNEL_NAME_MAX => Ok(name),
        _ => Err(Refusal::BadChannel),
    }
}

fn read_json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    // serde would take an array for the fields in order.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Refusal::BadJson("not an object".into()));
    }
    serde_json::from_slice(body).map_err(|error| Refusal::BadJson(error.to_string()))
}

#[derive(Deserialize)]
struct MembershipBody {
    #[serde(default)]
    identity: String,
    #[serde(default)]
    channel: String,
    #[serde(default)]
    occupy: Flag,
}

#[derive(Deserialize)]
struct KickBody {
    identity: Option<String>,
    channel: Option<String>,
    /// 4500 and above: the client does not come back by itself.
    #[serde(default = "kicked")]
    code: u16,
    #[serde(default)]
    reason: String,
}

fn kicked() -> u16 {
    4500
}

/// 2014's business servers write 0 and 1, as a number or as text; newer ones write booleans.
#[derive(Default, Deserialize)]
#[serde(from = "serde_json::Value")]
struct Flag(bool);

impl From<serde_json::Value> for Flag {
    fn from(value: serde_json::Value) -> Flag {
        use serde_json::Value;
        Flag(match value {
            Value::Bool(flag) => flag,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::String(text) => !matches!(&*text, "" | "0" | "false"),
            _ => false,
        })
    }
}

/// What became of a send.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    pub connections: u32,
    pub data: &'a [u8],
    pub kept: DurableTally,
    /// It was for a session: how many have it stored is said even when none has.
    pub to_session: bool,
}

/// Appends `{"status":0,"connections":n,"data":"…"}`, with `"stored":n` where durable sessions come in; a refusal with
/// the same figures when some of them will not get the message.
pub fn write_sent(out: &mut Vec<u8>, sent: Sent<'_>) {
    let Sent { connections, data, kept, to_session } = sent;
    if kept.refused > 0 {
        out.extend_from_slice(b"{\"status\":1,\"msg\":");
        let why = kept.why.map_or_else(|| "not stored".into(), |why| why.to_string());
        let _ = serde_json::to_writer(&mut *out, &why);
        for (name, count) in [("connections", connections), ("stored", kept.stored), ("refused", kept.refused)] {
            push_field(out, name, count);
        }
        return out.push(b'}');
    }
    out.extend_from_slice(b"{\"status\":0");
    push_field(out, "connections", connections);
    if kept.stored > 0 || to_session {
        push_field(out, "stored", kept.stored);
    }
    out.extend_from_slice(b",\"data\":");
    if data.is_empty() {
        out.extend_from_slice(b"\"\"}");
        return;
    }
    let _ = serde_json::to_writer(&mut *out, &String::from_utf8_lossy(data));
    out.push(b'}');
}

fn push_field(out: &mut Vec<u8>, name: &str, number: u32) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    push_number(out, number as usize);
}

/// Appends `{"status":1,"msg":"…"}`.
pub fn write_refusal(out: &mut Vec<u8>, why: &str) {
    out.extend_from_slice(b"{\"status\":1,\"msg\":");
    let _ = serde_json::to_writer(&mut *out, why);
    out.push(b'}');
}

/// Channels of one /broadcast/.
pub const CHANNELS_PER_BROADCAST: usize = 1000;
/// Of a session's name and of a `message_id`.
const NAME_BYTES_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::NotStored;

    const TIMEOUTS: Timeouts = Timeouts { default: Duration::from_secs(10), max: Duration::from_secs(300) };

    fn to(query: &str) -> Result<Targets<'_>, Refusal> {
        match send(query)? {
            Call::Send { to, .. } => Ok(to),
            other => panic!("{other:?}"),
        }
    }

    fn written(sent: Sent<'_>) -> serde_json::Value {
        let mut out = Vec::new();
        write_sent(&mut out, sent);
        serde_json::from_slice(&out).expect("valid JSON")
    }

    fn send(query: &str) -> Result<Call<'_>, Refusal> {
        read_call(Route::Send, query, b"", TIMEOUTS)
    }

    #[test]
    fn the_slash_at_the_end_may_be_missing() {
        assert_eq!(Route::find("/send"), Some(Route::Send));
        assert_eq!(Route::find("/send/"), Some(Route::Send));
        assert_eq!(Route::find("/send//"), None);
        assert_eq!(Route::find("/"), None);
    }

    #[test]
    fn send_has_the_defaults_of_2014() {
        let expected = Call::Send {
            to: Targets::One("c 1".into()),
            message_type: 1,
            qos: QoS::ExactlyOnce,
            timeout: Duration::from_secs(10),
            ttl_ms: None,
            message_id: None,
        };
        assert_eq!(send("channel=c+1"), Ok(expected));
    }

    #[test]
    fn bad_parameters_are_named() {
        assert_eq!(send("qos=1"), Err(Refusal::NoChannel));
        assert_eq!(send("channel="), Err(Refusal::NoChannel));
        assert_eq!(send("channel=c&qos=3"), Err(Refusal::BadQos));
        assert_eq!(send("channel=c&qos=x"), Err(Refusal::BadQos));
        assert_eq!(send("channel=c&msgtype=65535"), Err(Refusal::BadMessageType));
        assert_eq!(send("channel=c&timeout=-1"), Err(Refusal::BadTimeout));
        assert_eq!(send("channel=c&timeout=NaN"), Err(Refusal::BadTimeout));
        for ttl in ["0", "-1", "NaN", "inf", "soon", ""] {
            assert_eq!(send(&format!("channel=c&ttl={ttl}")), Err(Refusal::BadTtl), "{ttl}");
        }
        assert_eq!(send("channel=c&message_id="), Err(Refusal::BadMessageId));
        assert_eq!(send("channel=c&message_id=a%0Ab"), Err(Refusal::BadMessageId));
        assert_eq!(send(&format!("channel=c&message_id={}", "m".repeat(129))), Err(Refusal::BadMessageId));
    }

    #[test]
    fn a_long_timeout_is_cut() {
        let Ok(Call::Send { timeout, .. }) = send("channel=c&timeout=1e9") else { panic!("it is a call") };
        assert_eq!(timeout, TIMEOUTS.max);
    }

    #[test]
    fn a_broadcast_names_many_channels() {
        let call = read_call(Route::Broadcast, "channel=a;;b&channels=c%3B%3Bd", b"", TIMEOUTS);
        let Ok(Call::Send { to, .. }) = call else { panic!("{call:?}") };
        assert_eq!(to.channels(), ["a", "b", "c", "d"]);
    }

    #[test]
    fn a_session_stands_in_place_of_a_channel() {
        assert_eq!(to("session=user+7%2Fphone"), Ok(Targets::Session("user 7/phone".into())));
        assert_eq!(to("session="), Err(Refusal::BadSession));
        assert_eq!(to(&format!("session={}", "n".repeat(129))), Err(Refusal::BadSession));
        assert_eq!(to("session=s&channel=c"), Err(Refusal::ChannelAndSession));
        let broadcast = read_call(Route::Broadcast, "channels=a;;b&session=s", b"", TIMEOUTS);
        assert_eq!(broadcast, Err(Refusal::ChannelAndSession));
        let dropped = read_call(Route::DropSession, "session=s", b"", TIMEOUTS);
        assert_eq!(dropped, Ok(Call::DropSession { session: "s".into() }));
        assert_eq!(read_call(Route::DropSession, "", b"", TIMEOUTS), Err(Refusal::NoSession));
    }

    #[test]
    fn a_send_may_name_its_ttl_and_its_own_id() {
        let call = send("channel=c&ttl=1.5&message_id=order%207");
        let Ok(Call::Send { ttl_ms, message_id, .. }) = call else { panic!("{call:?}") };
        assert_eq!((ttl_ms, message_id.as_deref()), (Some(1_500), Some("order 7")));
    }

    #[test]
    fn occupy_is_read_as_2014_wrote_it() {
        let identity = "ab".repeat(32);
        for (occupy, expected) in [("0", false), ("1", true), ("\"1\"", true), ("\"0\"", false), ("true", true)] {
            let body = format!(r#"{{"identity":"{identity}","channel":"c","occupy":{occupy}}}"#);
            match read_call(Route::Subscribe, "", body.as_bytes(), TIMEOUTS) {
                Ok(Call::Subscribe { occupy, .. }) => assert_eq!(occupy, expected),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_foreign_identity_is_no_connection() {
        let body = br#"{"identity":"me","channel":"c"}"#;
        assert_eq!(read_call(Route::Subscribe, "", body, TIMEOUTS), Err(Refusal::NoSuchConnection));
        assert!(matches!(
            read_call(Route::Unsubscribe, "", body, TIMEOUTS),
            Ok(Call::Unsubscribe { identity: None, .. })
        ));
        assert!(matches!(read_call(Route::Subscribe, "", b"[]", TIMEOUTS), Err(error) if error.status() == 400));
        assert!(matches!(read_call(Route::Subscribe, "", b"{", TIMEOUTS), Err(error) if error.status() == 400));
    }

    #[test]
    fn data_is_json_text_whatever_the_client_sent() {
        let sent = Sent { connections: 2, data: b"say \"hi\"\n\xFF", kept: DurableTally::default(), to_session: false };
        let expected = serde_json::json!({"status": 0, "connections": 2, "data": "say \"hi\"\n\u{FFFD}"});
        assert_eq!(written(sent), expected);
    }

    #[test]
    fn what_is_stored_is_counted_where_sessions_come_in() {
        let sent = |stored, to_session| Sent {
            connections: 0,
            data: b"",
            kept: DurableTally { stored, ..DurableTally::default() },
            to_session,
        };
        let plain = serde_json::json!({"status": 0, "connections": 0, "data": ""});
        assert_eq!(written(sent(0, false)), plain);
        assert_eq!(written(sent(2, false))["stored"], 2);
        assert_eq!(written(sent(0, true))["stored"], 0);
    }

    #[test]
    fn a_message_that_some_will_not_get_is_refused_with_the_figures() {
        let kept = DurableTally { stored: 3, refused: 2, why: Some(NotStored::Store(StoreError::DiskFull)) };
        let sent = Sent { connections: 1, data: b"of one", kept, to_session: false };
        let expected = serde_json::json!(
            {"status": 1, "msg": "the disk is full", "connections": 1, "stored": 3, "refused": 2}
        );
        assert_eq!(written(sent), expected);
    }
}
