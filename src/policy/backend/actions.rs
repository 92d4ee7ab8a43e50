//! What the headers of a backend's response do to the connection that the request was about (PROTOCOL.md sections 2 and
//! 8).
//!
//! Borrows everything from the response's head and allocates nothing, since every forwarded message passes here.
//! Unsubscribe is to be applied before subscribe. Called by the worker, which applies it to its shard.

use crate::wire::http1::Headers;

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
                actions.unreadable += u32::from(str::from_utf8(value).is_err());
                actions.subscribe = Names { headers: Some(headers), name: SUBSCRIBE };
            } else if name.eq_ignore_ascii_case(UNSUBSCRIBE) {
                actions.unreadable += u32::from(str::from_utf8(value).is_err());
                actions.unsubscribe = Names { headers: Some(headers), name: UNSUBSCRIBE };
            } else if name.eq_ignore_ascii_case(COOKIE) {
                actions.cookie = actions.cookie.or(Some(value));
            } else if name.eq_ignore_ascii_case(INVALID) {
                set_first(&mut actions.invalid, number(value), &mut actions.unreadable);
            } else if name.eq_ignore_ascii_case(SESSION) {
                set_first(&mut actions.session, session_name(value), &mut actions.unreadable);
            } else if name.eq_ignore_ascii_case(SESSION_EXPIRY) {
                set_first(&mut actions.session_expiry_s, number(value), &mut actions.unreadable);
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
            && self.unreadable == 0
    }
}

/// Channel names out of `a;;b`; empty names, and lists that are not UTF-8, are skipped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names<'a> {
    /// `None` when the response has no such header.
    headers: Option<Headers<'a>>,
    name: &'static str,
}

impl<'a> Names<'a> {
    pub fn iter(self) -> impl Iterator<Item = &'a str> {
        self.headers
            .into_iter()
            .flat_map(|headers| headers.iter())
            .filter(move |(name, _)| name.eq_ignore_ascii_case(self.name))
            .filter_map(|(_, value)| str::from_utf8(value).ok())
            .flat_map(|list| list.split(";;"))
            .map(str::trim_ascii)
            .filter(|name| !name.is_empty())
    }
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

/// Digits only: `parse` alone would take a sign.
fn number<T: std::str::FromStr>(value: &[u8]) -> Option<T> {
    let digits = str::from_utf8(value).ok()?;
    digits.bytes().all(|c| c.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn session_name(value: &[u8]) -> Option<&str> {
    let is_name =
        (1..=SESSION_NAME_BYTES_MAX).contains(&value.len()) && value.iter().all(|c| (b' '..=b'~').contains(c));
    is_name.then(|| str::from_utf8(value).expect("ASCII"))
}

const SESSION_NAME_BYTES_MAX: usize = 128;
const PREFIX: &[u8] = b"RAINBOW";
const SUBSCRIBE: &str = "RAINBOWCLIENTCHANNEL";
const UNSUBSCRIBE: &str = "RAINBOWCLIENTCHANNELUNSUB";
const COOKIE: &str = "RAINBOWCLIENTCOOKIE";
const INVALID: &str = "RAINBOWREQUESTINVALID";
const SESSION: &str = "RAINBOWCLIENTSESSION";
const SESSION_EXPIRY: &str = "RAINBOWCLIENTSESSIONEXPIRY";

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

    fn names(names: Names<'_>) -> Vec<&str> {
        names.iter().collect()
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
