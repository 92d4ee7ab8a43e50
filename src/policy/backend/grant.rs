//! What the business server grants a client that it lets in. Its answer to the connect may say that in headers, in its
//! JSON, or in both: JSON takes long lists, and names in any script.

use super::actions::{Actions, name_of};
use crate::shard::channel::user::user_of;
use serde::Deserialize;
use serde_json::Value;

/// Headers and JSON together. Where both say the same thing, the headers count; channels add up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Before `subscribe`.
    pub unsubscribe: Vec<String>,
    pub subscribe: Vec<String>,
    pub cookie: Option<Box<[u8]>>,
    pub session: Option<Box<str>>,
    pub session_expiry_s: Option<u64>,
    /// Who the client is.
    pub user: Option<Box<str>>,
}

/// The answer's JSON. Each may be of any type: what cannot be read is counted.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Granted {
    status: Value,
    channels: Value,
    cookie: Value,
    session: Value,
    session_expiry: Value,
    user: Value,
}

impl Granted {
    pub fn is_success(&self) -> bool {
        self.status == "success"
    }
}

impl Grant {
    /// Counts what cannot be read of the JSON in `actions.unreadable`.
    pub fn new(actions: &mut Actions<'_>, granted: Granted) -> Grant {
        let mut reader = Reader { unreadable: 0 };
        let channels = reader.channels(granted.channels);
        let cookie = reader.read(granted.cookie, cookie);
        let (session, user) = (reader.read(granted.session, name), reader.read(granted.user, name));
        let expiry_s = reader.read(granted.session_expiry, number);
        actions.unreadable += reader.unreadable;
        Grant {
            unsubscribe: actions.unsubscribe.iter().map(String::from).collect(),
            subscribe: actions.subscribe.iter().map(String::from).chain(channels).collect(),
            cookie: actions.cookie.map(Box::from).or(cookie),
            session: actions.session.map(Box::from).or(session),
            session_expiry_s: actions.session_expiry_s.or(expiry_s),
            user: actions.user.map(Box::from).or(user),
        }
    }
}

struct Reader {
    unreadable: u32,
}

impl Reader {
    /// `null` is as good as nothing.
    fn read<T>(&mut self, value: Value, read: impl FnOnce(Value) -> Option<T>) -> Option<T> {
        if value.is_null() {
            return None;
        }
        let read = read(value);
        self.unreadable += u32::from(read.is_none());
        read
    }

    fn channels(&mut self, value: Value) -> Vec<String> {
        let channels = self.read(value, |value| if let Value::Array(names) = value { Some(names) } else { None });
        channels.unwrap_or_default().into_iter().filter_map(|name| self.read(name, channel)).collect()
    }
}

/// The shard refuses names that are too long.
fn channel(value: Value) -> Option<String> {
    let Value::String(name) = value else { return None };
    (!name.is_empty() && user_of(&name).is_none()).then_some(name)
}

/// It must fit into a header.
fn cookie(value: Value) -> Option<Box<[u8]>> {
    let cookie = value.as_str().filter(|cookie| (1..=COOKIE_BYTES_MAX).contains(&cookie.len()))?;
    cookie.bytes().all(|byte| byte.is_ascii_graphic()).then(|| cookie.as_bytes().into())
}

/// Many business servers number their users.
fn name(value: Value) -> Option<Box<str>> {
    match value {
        Value::String(name) => name_of(name.as_bytes()).map(Box::from),
        Value::Number(number) if number.is_u64() => Some(number.to_string().into()),
        _ => None,
    }
}

fn number(value: Value) -> Option<u64> {
    value.as_u64()
}

/// A header of ours has as much room.
const COOKIE_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::http1::{RESPONSE_SLOTS, ResponseHead};

    /// The grant, and how much of it could not be read.
    fn grant(headers: &str, json: &str) -> (Grant, u32) {
        let head = format!("HTTP/1.1 200 OK\r\n{headers}\r\n");
        let mut slots = RESPONSE_SLOTS;
        let mut actions = Actions::read(ResponseHead::parse(head.as_bytes(), &mut slots).expect("a head").headers);
        let grant = Grant::new(&mut actions, serde_json::from_str(json).expect("an object"));
        (grant, actions.unreadable)
    }

    #[test]
    fn json_says_what_headers_say() {
        let headers = "RAINBOWCLIENTCHANNEL: a;;b\r\nRAINBOWCLIENTCOOKIE: Yw==\r\nRAINBOWCLIENTSESSION: s\r\n\
            RAINBOWCLIENTSESSIONEXPIRY: 60\r\nRAINBOWCLIENTUSER: 7\r\n";
        let json = r#"{"status": "success", "channels": ["a", "b"], "cookie": "Yw==", "session": "s",
            "session_expiry": 60, "user": 7}"#;
        assert_eq!(grant(headers, "{}"), grant("", json));
        let (granted, unreadable) = grant("", json);
        assert_eq!(
            (&granted.subscribe[..], granted.user.as_deref(), unreadable),
            (&["a".into(), "b".into()][..], Some("7"), 0)
        );
    }

    #[test]
    fn headers_count_before_json_and_channels_add_up() {
        let (granted, unreadable) = grant(
            "RAINBOWCLIENTUSER: ann\r\nRAINBOWCLIENTCHANNEL: a\r\n",
            r#"{"user": "bob", "channels": ["\u4f60;;\u597d", "b"], "cookie": null}"#,
        );
        assert_eq!((granted.user.as_deref(), granted.cookie, unreadable), (Some("ann"), None, 0));
        assert_eq!(granted.subscribe, ["a", "你;;好", "b"]);
    }

    #[test]
    fn what_cannot_be_read_is_counted_and_has_no_effect() {
        let json = r#"{"channels": ["", 1, "\u0001ann", "good"], "cookie": "a b", "session": "\u00e9", "user": -1,
            "session_expiry": "soon"}"#;
        let (granted, unreadable) = grant("", json);
        assert_eq!((granted.subscribe, unreadable), (vec!["good".into()], 7));
        assert_eq!((granted.cookie, granted.session, granted.user, granted.session_expiry_s), (None, None, None, None));
        assert_eq!(grant("", r#"{"channels": "a;;b"}"#), (Grant::default(), 1));
    }
}
