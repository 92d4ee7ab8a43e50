//! Reads calls: query and body of a request become a `Call`, or a refusal that says what is wrong with them.

use super::call::{Call, KickTarget, Targets, Timeouts};
use super::limits::{CHANNELS_PER_BROADCAST, NAME_BYTES_MAX};
use super::refusal::Refusal;
use super::route::Route;
use crate::base::id::Identity;
use crate::base::time::ms;
use crate::policy::backend::actions::name_of;
use crate::shard::channel::user::{channel_of, user_of};
use crate::shard::{CHANNEL_NAME_MAX, Wait, Who};
use crate::wire::http1::{query_get, query_pairs};
use crate::wire::packet::QoS;
use crate::wire::ws::frame::CloseCode;
use serde::Deserialize;
use std::borrow::Cow;
use std::time::Duration;

/// Reads a call. `body` is used by all calls but /send/ and /broadcast/, whose body is the message.
pub fn read_call<'a>(route: Route, query: &'a str, body: &[u8], timeouts: Timeouts) -> Result<Call<'a>, Refusal> {
    match route {
        Route::Send | Route::Broadcast => read_send(route, query, timeouts).call,
        Route::Subscribe => {
            let body: MembershipBody = read_json(body)?;
            let who = body.who()?;
            let channel = channel_name(body.channel)?;
            Ok(Call::Subscribe { who: who.ok_or(Refusal::NoSuchConnection)?, channel, occupy: body.occupy.0 })
        }
        Route::Unsubscribe => {
            let body: MembershipBody = read_json(body)?;
            match user_of(&body.channel) {
                None => Ok(Call::Unsubscribe { who: body.who()?, channel: body.channel }),
                Some(_) => Err(Refusal::BadChannel),
            }
        }
        Route::Kick => read_kick(body),
        Route::DropSession => Ok(Call::DropSession { session: session_name(query)?.into_owned() }),
        _ => unreachable!("only signed calls are read"),
    }
}

/// The signature in a query (PROTOCOL.md section 5).
#[derive(Debug, Default, PartialEq)]
pub struct Signature<'a> {
    pub timestamp: Option<Cow<'a, str>>,
    pub nonce: Option<Cow<'a, str>>,
    pub signature: Option<Cow<'a, str>>,
}

impl<'a> Signature<'a> {
    pub fn read(query: &'a str) -> Signature<'a> {
        let mut signature = Signature::default();
        query_pairs(query).for_each(|(name, value)| {
            signature.take(&name, value);
        });
        signature
    }

    /// The first of each name counts. False: it is no part of a signature.
    fn take(&mut self, name: &str, value: Cow<'a, str>) -> bool {
        let field = match name {
            "timestamp" => &mut self.timestamp,
            "nonce" => &mut self.nonce,
            "signature" => &mut self.signature,
            _ => return false,
        };
        field.get_or_insert(value);
        true
    }
}

/// A send as it was read.
pub struct ReadSend<'a> {
    pub signature: Signature<'a>,
    pub call: Result<Call<'a>, Refusal>,
    /// Parameters that no send has.
    pub ignored: Vec<String>,
}

/// Parameters in the query of a call, sends apart, that it does not have.
pub fn ignored_parameters(route: Route, query: &str) -> Vec<String> {
    let (mut signature, mut ignored) = (Signature::default(), Vec::new());
    for (name, value) in query_pairs(query) {
        let is_known = signature.take(&name, value) || name == "session" && route == Route::DropSession;
        if !is_known {
            note_ignored(&mut ignored, &name);
        }
    }
    ignored
}

fn note_ignored(ignored: &mut Vec<String>, name: &str) {
    // A node of 2014 adds this one to the calls that it passes on.
    if name != "cluster" && ignored.len() < IGNORED_MAX {
        ignored.push(name.chars().take(NAME_BYTES_MAX).collect());
    }
}

/// Reads /send/ and /broadcast/, and in the same pass over the query its signature. The caller must check the signature
/// before it uses the call, or answers that the call is wrong.
pub fn read_send(route: Route, query: &str, timeouts: Timeouts) -> ReadSend<'_> {
    let (mut signature, mut ignored) = (Signature::default(), Vec::new());
    let mut refusal = None;
    let mut parameters = SendParameters::new(route == Route::Broadcast, timeouts);
    for (name, value) in query_pairs(query) {
        match parameters.take(&name, value, &mut signature) {
            Ok(true) => {}
            Ok(false) => note_ignored(&mut ignored, &name),
            Err(found) => {
                refusal.get_or_insert(found);
            }
        }
    }
    ReadSend { signature, call: refusal.map_or_else(|| parameters.call(), Err), ignored }
}

/// The parameters of a send, collected in the order of the query.
struct SendParameters<'a> {
    many: bool,
    timeout_max: Duration,
    one: Option<Cow<'a, str>>,
    channels: Vec<Cow<'a, str>>,
    session: Option<Cow<'a, str>>,
    user: Option<Cow<'a, str>>,
    message_type: u16,
    qos: QoS,
    timeout: Duration,
    ttl_ms: Option<u64>,
    message_id: Option<Cow<'a, str>>,
    wait: Wait,
}

impl<'a> SendParameters<'a> {
    fn new(many: bool, timeouts: Timeouts) -> SendParameters<'a> {
        SendParameters {
            many,
            timeout_max: timeouts.max,
            one: None,
            channels: Vec::new(),
            session: None,
            user: None,
            message_type: 1,
            qos: QoS::ExactlyOnce,
            timeout: timeouts.default,
            ttl_ms: None,
            message_id: None,
            wait: Wait::Answered,
        }
    }

    /// False: no send has that parameter.
    #[inline]
    fn take(&mut self, name: &str, value: Cow<'a, str>, signature: &mut Signature<'a>) -> Result<bool, Refusal> {
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
                self.timeout = read_seconds(&value).ok_or(Refusal::BadTimeout)?.min(self.timeout_max);
            }
            "session" => {
                self.session.get_or_insert(value);
            }
            "user" => {
                self.user.get_or_insert(value);
            }
            "ttl" => self.ttl_ms = Some(read_ttl(&value).ok_or(Refusal::BadTtl)?),
            "wait" if value == "stored" => self.wait = Wait::Stored,
            "wait" => return Err(Refusal::BadWait),
            "message_id" if is_name(&value) => self.message_id = Some(value),
            "message_id" => return Err(Refusal::BadMessageId),
            _ => return Ok(signature.take(name, value)),
        }
        Ok(true)
    }

    fn call(mut self) -> Result<Call<'a>, Refusal> {
        let to = self.targets()?;
        let SendParameters { message_type, qos, timeout, ttl_ms, message_id, wait, .. } = self;
        if to.channels().len() > CHANNELS_PER_BROADCAST {
            return Err(Refusal::TooManyChannels);
        }
        Ok(Call::Send { to, message_type, qos, timeout, ttl_ms, message_id, wait })
    }

    /// One channel, several, one session or one user.
    fn targets(&mut self) -> Result<Targets<'a>, Refusal> {
        let mut channels = std::mem::take(&mut self.channels);
        channels.retain(|channel| !channel.is_empty());
        let one = self.one.take().filter(|channel| !channel.is_empty());
        if one.iter().chain(&channels).any(|channel| !may_be_named(channel)) {
            return Err(Refusal::BadChannel);
        }
        match (one, self.session.take(), self.user.take()) {
            (None, Some(session), None) if channels.is_empty() => match is_name(&session) {
                true => Ok(Targets::Session(session)),
                false => Err(Refusal::BadSession),
            },
            (None, None, Some(user)) if channels.is_empty() => match is_name(&user) {
                true => Ok(Targets::One(channel_of(&user).into())),
                false => Err(Refusal::BadUser),
            },
            (_, Some(_), _) | (_, _, Some(_)) => Err(Refusal::SeveralTargets),
            (Some(channel), None, None) => Ok(Targets::One(channel)),
            (None, None, None) if channels.is_empty() => Err(Refusal::NoChannel),
            (None, None, None) => Ok(Targets::Many(channels)),
        }
    }
}

/// Whole seconds mostly, which are read without floating point.
fn read_seconds(value: &str) -> Option<Duration> {
    match value.parse::<u32>() {
        Ok(whole) => Some(Duration::from_secs(whole.into())),
        Err(_) => Duration::try_from_secs_f64(value.parse().ok()?).ok(),
    }
}

fn read_ttl(value: &str) -> Option<u64> {
    let ttl = read_seconds(value).filter(|ttl| !ttl.is_zero())?;
    Some(ms(ttl).max(1))
}

/// Channels that stand for users cannot be named as channels.
fn may_be_named(channel: &str) -> bool {
    channel.len() <= CHANNEL_NAME_MAX && user_of(channel).is_none()
}

/// Whether the text may name a session, a user or a call: a header and a query can both carry it.
fn is_name(name: &str) -> bool {
    name_of(name.as_bytes()).is_some()
}

/// The session that a query names.
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
    let target = match (body.identity, body.channel, body.user) {
        (Some(identity), _, _) => {
            KickTarget::Identity(Identity::from_hex(identity.as_bytes()).ok_or(Refusal::NoSuchConnection)?)
        }
        (None, Some(channel), None) => KickTarget::Channel(channel_name(channel)?),
        (None, None, Some(user)) if is_name(&user) => KickTarget::User(user),
        (None, None, Some(_)) => return Err(Refusal::BadUser),
        (None, Some(_), Some(_)) => return Err(Refusal::SeveralTargets),
        (None, None, None) => return Err(Refusal::NoTarget),
    };
    Ok(Call::Kick { target, code, reason: body.reason })
}

fn channel_name(name: String) -> Result<String, Refusal> {
    match name.is_empty() {
        true => Err(Refusal::NoChannel),
        false if may_be_named(&name) => Ok(name),
        false => Err(Refusal::BadChannel),
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
    session: Option<String>,
    #[serde(default)]
    channel: String,
    #[serde(default)]
    occupy: Flag,
}

impl MembershipBody {
    /// `None`: an identity that cannot be one of ours.
    fn who(&self) -> Result<Option<Who>, Refusal> {
        match &self.session {
            None => Ok(Identity::from_hex(self.identity.as_bytes()).map(Who::Connection)),
            Some(_) if !self.identity.is_empty() => Err(Refusal::IdentityAndSession),
            Some(name) if is_name(name) => Ok(Some(Who::Session(name.as_str().into()))),
            Some(_) => Err(Refusal::BadSession),
        }
    }
}

#[derive(Deserialize)]
struct KickBody {
    identity: Option<String>,
    channel: Option<String>,
    user: Option<String>,
    /// With 4500 and above the client does not connect again by itself.
    #[serde(default = "default_kick_code")]
    code: u16,
    #[serde(default)]
    reason: String,
}

/// Names of unknown parameters in one answer.
const IGNORED_MAX: usize = 8;

fn default_kick_code() -> u16 {
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

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: Timeouts = Timeouts { default: Duration::from_secs(10), max: Duration::from_secs(300) };

    fn to(query: &str) -> Result<Targets<'_>, Refusal> {
        match send(query)? {
            Call::Send { to, .. } => Ok(to),
            other => panic!("{other:?}"),
        }
    }

    fn send(query: &str) -> Result<Call<'_>, Refusal> {
        read_call(Route::Send, query, b"", TIMEOUTS)
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
            wait: Wait::Answered,
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
        assert_eq!(send("channel=c&wait=later"), Err(Refusal::BadWait));
        assert!(matches!(send("channel=c&wait=stored"), Ok(Call::Send { wait: Wait::Stored, .. })));
        assert_eq!(send("channel=c&message_id="), Err(Refusal::BadMessageId));
        assert_eq!(send("channel=c&message_id=a%0Ab"), Err(Refusal::BadMessageId));
        assert_eq!(send(&format!("channel=c&message_id={}", "m".repeat(129))), Err(Refusal::BadMessageId));
    }

    #[test]
    fn parameters_that_a_call_does_not_have_are_named() {
        let query = "channel=c&qso=1&timestamp=1&nonce=2&signature=3&cluster=1&TTL=5";
        assert_eq!(read_send(Route::Send, query, TIMEOUTS).ignored, ["qso", "TTL"]);
        assert_eq!(read_send(Route::Broadcast, "channels=a;;b&wait=stored", TIMEOUTS).ignored, [""; 0]);
        assert_eq!(ignored_parameters(Route::DropSession, "session=s&nonce=1&force=1"), ["force"]);
        assert_eq!(ignored_parameters(Route::Subscribe, "session=s"), ["session"]);
        let many: String = (0..99).map(|n| format!("{n}=&")).collect();
        assert_eq!(read_send(Route::Send, &many, TIMEOUTS).ignored.len(), IGNORED_MAX);
    }

    #[test]
    fn a_long_timeout_is_cut() {
        let Ok(Call::Send { timeout, .. }) = send("channel=c&timeout=1e9") else { panic!("it is a call") };
        assert_eq!(timeout, TIMEOUTS.max);
    }

    #[test]
    fn a_user_stands_in_place_of_a_channel() {
        assert_eq!(to("user=ann%40example.com"), Ok(Targets::One("\u{1}ann@example.com".into())));
        for several in ["user=a&channel=b", "user=a&session=b", "channel=a&session=b"] {
            assert_eq!(to(several), Err(Refusal::SeveralTargets), "{several}");
        }
        assert_eq!(to("user="), Err(Refusal::BadUser));
        assert_eq!(to("user=%01"), Err(Refusal::BadUser));
        let kick = |body: &str| read_call(Route::Kick, "", body.as_bytes(), TIMEOUTS);
        assert!(
            matches!(kick(r#"{"user": "ann"}"#), Ok(Call::Kick { target: KickTarget::User(user), .. }) if user == "ann")
        );
        assert_eq!(kick(r#"{"user": "ann", "channel": "c"}"#), Err(Refusal::SeveralTargets));
        assert_eq!(kick(r#"{"user": ""}"#), Err(Refusal::BadUser));
    }

    #[test]
    fn a_user_s_channel_cannot_be_named() {
        for query in ["channel=%01ann", "channel=a&channels=%01ann"] {
            let send = read_send(Route::Broadcast, query, TIMEOUTS).call;
            assert_eq!(send, Err(Refusal::BadChannel), "{query}");
        }
        let id = "0".repeat(64);
        for (route, body) in [
            (Route::Subscribe, format!(r#"{{"identity": "{id}", "channel": "\u0001ann"}}"#)),
            (Route::Unsubscribe, format!(r#"{{"identity": "{id}", "channel": "\u0001ann"}}"#)),
            (Route::Kick, r#"{"channel": "\u0001ann"}"#.into()),
        ] {
            let refused = read_call(route, "", body.as_bytes(), TIMEOUTS);
            assert!(matches!(refused, Err(Refusal::BadChannel | Refusal::NoSuchConnection)), "{refused:?}");
        }
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
        assert_eq!(to("session=s&channel=c"), Err(Refusal::SeveralTargets));
        let broadcast = read_call(Route::Broadcast, "channels=a;;b&session=s", b"", TIMEOUTS);
        assert_eq!(broadcast, Err(Refusal::SeveralTargets));
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
    fn a_session_joins_and_leaves_in_place_of_a_connection() {
        let call = |route, body: &str| read_call(route, "", body.as_bytes(), TIMEOUTS);
        let who = || Who::Session("user 7/phone".into());
        let body = r#"{"session":"user 7/phone","channel":"c"}"#;
        let subscribed = Call::Subscribe { who: who(), channel: "c".into(), occupy: false };
        assert_eq!(call(Route::Subscribe, body), Ok(subscribed));
        let unsubscribed = Call::Unsubscribe { who: Some(who()), channel: "c".into() };
        assert_eq!(call(Route::Unsubscribe, body), Ok(unsubscribed));
        for route in [Route::Subscribe, Route::Unsubscribe] {
            assert_eq!(call(route, r#"{"session":"","channel":"c"}"#), Err(Refusal::BadSession));
            let both = format!(r#"{{"session":"s","identity":"{}","channel":"c"}}"#, "ab".repeat(32));
            assert_eq!(call(route, &both), Err(Refusal::IdentityAndSession));
        }
    }

    #[test]
    fn a_foreign_identity_is_no_connection() {
        let body = br#"{"identity":"me","channel":"c"}"#;
        assert_eq!(read_call(Route::Subscribe, "", body, TIMEOUTS), Err(Refusal::NoSuchConnection));
        assert!(matches!(read_call(Route::Unsubscribe, "", body, TIMEOUTS), Ok(Call::Unsubscribe { who: None, .. })));
        assert!(matches!(read_call(Route::Subscribe, "", b"[]", TIMEOUTS), Err(error) if error.status() == 400));
        assert!(matches!(read_call(Route::Subscribe, "", b"{", TIMEOUTS), Err(error) if error.status() == 400));
    }
}
