//! What the headers of a backend's response do to the connection that the request was about (PROTOCOL.md sections 2 and
//! 8).
//!
//! Borrows everything from the response's head and allocates nothing, since every forwarded message passes here.
//! Unsubscribe is to be applied before subscribe. Called by the worker, which applies it to its shard.

use crate::shard::channel::user::user_of;
use crate::wire::http1::{Headers, percent_decode};
use std::borrow::Cow;

/// The headers that act. `'a` is the life of the response's head.
#[derive(Clone, Copy, Debug, Default)]
pub struct Actions<'a> {
    pub unsubscribe: Names<'a>,
    pub subscribe: Names<'a>,
    /// Base64 as the backend wrote it; these bytes are stored and sent back unchanged.
    pub cookie: Option<&'a [u8]>,
    /// 60001 invalid signature, 60002 identity required, 60003 POST required: to be logged as an error.
    pub invalid: Option<u32>,
    /// 1–128 printable ASCII characters.
    pub session: Option<&'a str>,
    pub session_expiry_s: Option<u64>,
    /// 1–128 printable ASCII characters. It counts in the answer to a connect only.
    pub user: Option<&'a str>,
    /// Headers of ours with a value that cannot be read. They have no effect; the worker counts and logs them.
    pub unreadable: u32,
}

impl<'a> Actions<'a> {
    /// Names compare without case. Lists may be spread over several headers; of the others the first one counts.
    pub fn read(headers: Headers<'a>) -> Actions<'a> {
        let mut actions = Actions::default();
        for (name, value) in headers.iter().filter(|(name, _)| is_ours(name)) {
            let value = value.trim_ascii();
            if name.eq_ignore_ascii_case(SUBSCRIBE) {
                actions.unreadable += u32::from(!is_list(value));
                actions.subscribe = Names { headers: Some(headers), name: SUBSCRIBE };
            } else if name.eq_ignore_ascii_case(UNSUBSCRIBE) {
                actions.unreadable += u32::from(!is_list(value));
                actions.unsubscribe = Names { headers: Some(headers), name: UNSUBSCRIBE };
            } else if name.eq_ignore_ascii_case(COOKIE) {
                actions.cookie = actions.cookie.or(Some(value));
            } else if name.eq_ignore_ascii_case(INVALID) {
                set_first(&mut actions.invalid, number(value), &mut actions.unreadable);
            } else if name.eq_ignore_ascii_case(SESSION) {
                set_first(&mut actions.session, name_of(value), &mut actions.unreadable);
            } else if name.eq_ignore_ascii_case(SESSION_EXPIRY) {
                set_first(&mut actions.session_expiry_s, number(value), &mut actions.unreadable);
            } else if name.eq_ignore_ascii_case(USER) {
                set_first(&mut actions.user, name_of(value), &mut actions.unreadable);
            }
        }
        actions
    }

    /// True for most answers: nothing to apply.
    pub fn is_empty(&self) -> bool {
        self.subscribe.headers.is_none()
            && self.unsubscribe.headers.is_none()
            && self.cookie.is_none()
            && self.invalid.is_none()
            && self.session.is_none()
            && self.session_expiry_s.is_none()
            && self.user.is_none()
            && self.unreadable == 0
    }
}

/// Channel names out of `a;;b`, or out of `UTF-8''%61;;b` (RFC 8187, section 3.2.1); empty names, and lists that are
/// not UTF-8, are skipped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names<'a> {
    /// `None` when the response has no such header.
    headers: Option<Headers<'a>>,
    name: &'static str,
}

impl<'a> Names<'a> {
    pub fn iter(self) -> impl Iterator<Item = Cow<'a, str>> {
        self.headers
            .into_iter()
            .flat_map(|headers| headers.iter())
            .filter(move |(name, _)| name.eq_ignore_ascii_case(self.name))
            .flat_map(|(_, value)| names_in(value))
    }
}

/// Nearly always the value is a list as it stands, of which nothing is copied.
fn names_in(value: &[u8]) -> impl Iterator<Item = Cow<'_, str>> {
    let encoded = encoded_text(value.trim_ascii());
    let plain = if encoded.is_some() { None } else { str::from_utf8(value).ok() };
    let decoded = encoded.and_then(decode);
    let owned: Vec<_> = split(decoded.as_deref().unwrap_or_default()).map(|name| Cow::Owned(name.into())).collect();
    plain.into_iter().flat_map(split).map(Cow::Borrowed).chain(owned)
}

/// A channel that stands for a user is nobody's to name.
fn split(list: &str) -> impl Iterator<Item = &str> {
    list.split(";;").map(str::trim_ascii).filter(|name| !name.is_empty() && user_of(name).is_none())
}

fn is_list(value: &[u8]) -> bool {
    match encoded_text(value) {
        Some(encoded) => decode(encoded).is_some(),
        None => str::from_utf8(value).is_ok(),
    }
}

/// What follows `UTF-8''`, where a language may stand between the quotes.
fn encoded_text(value: &[u8]) -> Option<&[u8]> {
    let (charset, rest) = value.split_at_checked(ENCODED.len())?;
    let rest = charset.eq_ignore_ascii_case(ENCODED).then_some(rest)?;
    let quote = rest.iter().position(|&byte| byte == b'\'')?;
    rest[..quote].iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'-').then_some(&rest[quote + 1..])
}

fn is_ours(name: &str) -> bool {
    name.as_bytes().get(..PREFIX.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(PREFIX))
}

fn set_first<T>(slot: &mut Option<T>, value: Option<T>, unreadable: &mut u32) {
    *unreadable += u32::from(value.is_none());
    if slot.is_none() {
        *slot = value;
    }
}

fn decode(encoded: &[u8]) -> Option<String> {
    str::from_utf8(encoded).ok().and_then(percent_decode)
}

/// Digits only: `parse` alone would take a sign.
fn number<T: std::str::FromStr>(value: &[u8]) -> Option<T> {
    let digits = str::from_utf8(value).ok()?;
    digits.bytes().all(|c| c.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Of a session or a user: both must fit into headers and queries.
pub fn name_of(value: &[u8]) -> Option<&str> {
    let is_name = (1..=NAME_BYTES_MAX).contains(&value.len()) && value.iter().all(|c| (b' '..=b'~').contains(c));
    is_name.then(|| str::from_utf8(value).expect("ASCII"))
}

/// Of a session's or a user's name, and of a `message_id`.
pub const NAME_BYTES_MAX: usize = 128;
const ENCODED: &[u8] = b"UTF-8'";
const PREFIX: &[u8] = b"RAINBOW";
const SUBSCRIBE: &str = "RAINBOWCLIENTCHANNEL";
const UNSUBSCRIBE: &str = "RAINBOWCLIENTCHANNELUNSUB";
const COOKIE: &str = "RAINBOWCLIENTCOOKIE";
const INVALID: &str = "RAINBOWREQUESTINVALID";
const SESSION: &str = "RAINBOWCLIENTSESSION";
const SESSION_EXPIRY: &str = "RAINBOWCLIENTSESSIONEXPIRY";
const USER: &str = "RAINBOWCLIENTUSER";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::http1::{RESPONSE_SLOTS, ResponseHead};

    /// Calls `check` with the actions of a response that has these headers.
    fn with_headers<T>(lines: &[(&str, &[u8])], check: impl FnOnce(Actions<'_>) -> T) -> T {
        let mut head = b"HTTP/1.1 200 OK\r\n".to_vec();
        for (name, value) in lines {
            head.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        head.extend_from_slice(b"\r\n");
        let mut slots = RESPONSE_SLOTS;
        check(Actions::read(ResponseHead::parse(&head, &mut slots).expect("a head").headers))
    }

    fn names(names: Names<'_>) -> Vec<String> {
        names.iter().map(Cow::into_owned).collect()
    }

    #[test]
    fn lists_are_split_and_empty_names_skipped() {
        let lines: &[(&str, &[u8])] = &[
            ("rainbowclientchannel", b"a;;b;; ;;;c;;"),
            ("Content-Type", b"text/plain"),
            ("RainbowClientChannelUnsub", b" room 1 ;;\xe4\xbd\xa0"),
            ("RAINBOWCLIENTCHANNEL", b"d"),
        ];
        with_headers(lines, |actions| {
            assert_eq!(names(actions.subscribe), ["a", "b", ";c", "d"]);
            assert_eq!(names(actions.unsubscribe), ["room 1", "你"]);
            assert!(!actions.is_empty());
        });
    }

    #[test]
    fn single_values_are_read_without_case() {
        let lines: &[(&str, &[u8])] = &[
            ("RAINBOWCLIENTCOOKIE", b"eyJhIjoxfQ=="),
            ("rainbowREQUESTinvalid", b"60001"),
            ("RAINBOWCLIENTSESSION", b"user 7/phone"),
            ("RAINBOWCLIENTSESSIONEXPIRY", b"86400"),
            ("RAINBOWCLIENTCOOKIE", b"second"),
        ];
        with_headers(lines, |actions| {
            assert_eq!(actions.cookie, Some(&b"eyJhIjoxfQ=="[..]), "the first one counts");
            assert_eq!(actions.invalid, Some(60001));
            assert_eq!((actions.session, actions.session_expiry_s), (Some("user 7/phone"), Some(86400)));
            assert_eq!(actions.unreadable, 0);
        });
    }

    #[test]
    fn unreadable_values_do_nothing_and_are_counted() {
        let long = [b'x'; 129];
        let lines: &[(&str, &[u8])] = &[
            ("RAINBOWREQUESTINVALID", b"yes"),
            ("RAINBOWCLIENTSESSION", &long),
            ("RAINBOWCLIENTSESSION", b""),
            ("RAINBOWCLIENTSESSION", b"a\tb"),
            ("RAINBOWCLIENTSESSIONEXPIRY", b"+5"),
            ("RAINBOWCLIENTSESSIONEXPIRY", b"99999999999999999999"),
            ("RAINBOWCLIENTCHANNEL", b"\xff;;a"),
        ];
        with_headers(lines, |actions| {
            assert_eq!(actions.unreadable, 7);
            assert_eq!((actions.invalid, actions.session, actions.session_expiry_s), (None, None, None));
            assert_eq!(names(actions.subscribe), [""; 0]);
        });
    }

    #[test]
    fn names_in_any_script_may_be_encoded() {
        let lines: &[(&str, &[u8])] = &[
            ("RAINBOWCLIENTCHANNEL", b"UTF-8''%E4%BD%A0%20%E5%A5%BD;;50%25;;%01ann"),
            ("RAINBOWCLIENTCHANNEL", b"utf-8'zh-CN'%E5%A5%BD;;;;"),
            ("RAINBOWCLIENTCHANNELUNSUB", b"100%;;UTF-8;;%E4"),
        ];
        with_headers(lines, |actions| {
            assert_eq!(
                (names(actions.subscribe), actions.unreadable),
                (vec!["你 好".into(), "50%".into(), "好".into()], 0)
            );
            assert_eq!(names(actions.unsubscribe), ["100%", "UTF-8", "%E4"], "2014's names stay as they are");
        });
        for broken in ["UTF-8''%E4", "UTF-8''%zz", "UTF-8''%4"] {
            with_headers(&[(SUBSCRIBE, broken.as_bytes())], |actions| {
                assert_eq!((names(actions.subscribe).len(), actions.unreadable), (0, 1), "{broken}");
            });
        }
    }

    #[test]
    fn a_user_s_name_is_printable() {
        let user = |value: &[u8]| {
            with_headers(&[("rainbowclientuser", value)], |actions| {
                (actions.user.map(String::from), actions.unreadable)
            })
        };
        assert_eq!(user(b" ann@example.com "), (Some("ann@example.com".into()), 0));
        for broken in [&b""[..], "é".as_bytes(), &[b'x'; 129]] {
            assert_eq!(user(broken), (None, 1));
        }
    }

    #[test]
    fn ordinary_headers_do_nothing() {
        let lines: &[(&str, &[u8])] =
            &[("Server", b"x"), ("RAINBOW", b"x"), ("RAINBOWCLIENTIDENTITY", b"x"), ("R", b"")];
        with_headers(lines, |actions| assert!(actions.is_empty()));
        with_headers(&[], |actions| assert!(actions.is_empty()));
    }

    proptest! {
        #[test]
        fn what_is_joined_is_read_back(
            list in prop::collection::vec("[a-z0-9:._-]{1,12}", 0..8), before in "[ -~]{0,40}",
        ) {
            let joined = list.join(";;");
            let lines: &[(&str, &[u8])] = &[("X", before.as_bytes()), ("RainbowClientChannel", joined.as_bytes())];
            with_headers(lines, |actions| {
                prop_assert_eq!(names(actions.subscribe), list);
                Ok(())
            })?;
        }

        #[test]
        fn whatever_a_head_can_carry_is_read_or_counted(values in prop::collection::vec(header_value(), 6)) {
            let all = [SUBSCRIBE, UNSUBSCRIBE, COOKIE, INVALID, SESSION, SESSION_EXPIRY];
            let lines: Vec<_> = all.iter().zip(&values).map(|(&name, value)| (name, &value[..])).collect();
            with_headers(&lines, |actions| {
                prop_assert!(actions.subscribe.iter().chain(actions.unsubscribe.iter()).all(|name| !name.is_empty()));
                prop_assert!(actions.session.is_none_or(|name| (1..=128).contains(&name.len())));
                let read = [actions.invalid.is_some(), actions.session.is_some(), actions.session_expiry_s.is_some()];
                prop_assert!(actions.unreadable as usize >= read.iter().filter(|read| !**read).count());
                Ok(())
            })?;
        }
    }

    fn header_value() -> impl Strategy<Value = Vec<u8>> {
        let byte = any::<u8>().prop_filter("a control byte", |byte| *byte >= b' ' && *byte != 0x7F);
        prop_oneof![prop::collection::vec(byte, 0..200), "[0-9]{1,20}".prop_map(String::into_bytes)]
    }
}
