//! The opening handshake, RFC 6455 section 4.2: is this request an upgrade, and the 101 that answers it.
//!
//! Sees a method, a version and header pairs; whether path, origin, device and backend agree is asked elsewhere, and so
//! is the shape of the head itself (one Host, no body). Extensions are not negotiated: what a client offers is ignored.

use crate::wire::http1::is_same_name;
use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, PAD, STANDARD};
use sha1::{Digest, Sha1};
use thiserror::Error;

/// What an upgrade requests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upgrade<'a> {
    /// The value of `Sec-WebSocket-Accept`.
    pub accept: [u8; ACCEPT_LEN],
    /// Subprotocols in the client's order of preference, as sent.
    pub subprotocols: Vec<&'a [u8]>,
}

impl<'a> Upgrade<'a> {
    /// Reads a request. `headers` are all its headers in order, names in any case, values without white space around
    /// them.
    pub fn read<N: AsRef<[u8]>>(
        method: &str,
        version_minor: u8,
        headers: impl IntoIterator<Item = (N, &'a [u8])>,
    ) -> Result<Upgrade<'a>, Refusal> {
        if method != "GET" {
            return Err(Refusal::NotGet);
        }
        if version_minor == 0 {
            return Err(Refusal::Http10);
        }
        let fields = Fields::collect(headers)?;
        if !fields.upgrade_websocket {
            return Err(Refusal::NoUpgrade);
        }
        if !fields.connection_upgrade {
            return Err(Refusal::NoConnectionUpgrade);
        }
        if fields.version != Some(b"13") {
            return Err(Refusal::UnsupportedVersion);
        }
        let key = fields.key.filter(|key| is_key(key)).ok_or(Refusal::InvalidKey)?;
        Ok(Upgrade { accept: accept_key(key), subprotocols: fields.subprotocols })
    }

    /// Subprotocol names compare with case.
    pub fn offers(&self, subprotocol: &str) -> bool {
        self.subprotocols.contains(&subprotocol.as_bytes())
    }

    /// Appends the whole 101. `subprotocol` must be one that the client offered: it fails the connection otherwise.
    pub fn write_response(&self, out: &mut Vec<u8>, subprotocol: Option<&str>) {
        debug_assert!(subprotocol.is_none_or(|name| self.offers(name)));
        write_response(out, &self.accept, subprotocol);
    }
}

/// Appends the whole 101, for a caller that kept only the accept value while it called the backend.
pub fn write_response(out: &mut Vec<u8>, accept: &[u8; ACCEPT_LEN], subprotocol: Option<&str>) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
    );
    out.extend_from_slice(accept);
    if let Some(name) = subprotocol {
        out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        out.extend_from_slice(name.as_bytes());
    }
    out.extend_from_slice(b"\r\n\r\n");
}

/// `Sec-WebSocket-Accept` for a client's `Sec-WebSocket-Key`.
pub fn accept_key(key: &[u8]) -> [u8; ACCEPT_LEN] {
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let mut accept = [0; ACCEPT_LEN];
    STANDARD.encode_slice(digest, &mut accept).expect("20 bytes are 28 digits of base64");
    accept
}

/// Why a request is no upgrade.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Refusal {
    #[error("a WebSocket begins with GET")]
    NotGet,
    #[error("a WebSocket needs HTTP/1.1")]
    Http10,
    #[error("no Upgrade: websocket")]
    NoUpgrade,
    #[error("no Connection: Upgrade")]
    NoConnectionUpgrade,
    #[error("only Sec-WebSocket-Version 13 is spoken here")]
    UnsupportedVersion,
    #[error("Sec-WebSocket-Key is not 16 bytes of base64")]
    InvalidKey,
    #[error("a WebSocket header is repeated")]
    Repeated,
}

impl Refusal {
    /// The HTTP status; the text of the error may be the body.
    pub fn status(self) -> u16 {
        match self {
            Refusal::NotGet => 405,
            Refusal::UnsupportedVersion => 426,
            Refusal::Http10
            | Refusal::NoUpgrade
            | Refusal::NoConnectionUpgrade
            | Refusal::InvalidKey
            | Refusal::Repeated => 400,
        }
    }

    /// Headers that the answer must carry: RFC 9110 section 15.5.6 (405) and 15.5.22 (426), RFC 6455 section 4.4.
    pub fn headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Refusal::NotGet => &[("Allow", "GET")],
            Refusal::UnsupportedVersion => &[("Sec-WebSocket-Version", "13"), ("Upgrade", "websocket")],
            _ => &[],
        }
    }
}

/// The headers that count.
#[derive(Default)]
struct Fields<'a> {
    upgrade_websocket: bool,
    connection_upgrade: bool,
    version: Option<&'a [u8]>,
    key: Option<&'a [u8]>,
    subprotocols: Vec<&'a [u8]>,
}

impl<'a> Fields<'a> {
    fn collect<N: AsRef<[u8]>>(headers: impl IntoIterator<Item = (N, &'a [u8])>) -> Result<Fields<'a>, Refusal> {
        let mut fields = Fields::default();
        for (name, value) in headers {
            let is = |wanted: &str| is_same_name(name.as_ref(), wanted.as_bytes());
            if is("upgrade") {
                fields.upgrade_websocket |= members(value).any(|member| member.eq_ignore_ascii_case(b"websocket"));
            } else if is("connection") {
                fields.connection_upgrade |= members(value).any(|member| member.eq_ignore_ascii_case(b"upgrade"));
            } else if is("sec-websocket-version") {
                set_once(&mut fields.version, value)?;
            } else if is("sec-websocket-key") {
                set_once(&mut fields.key, value)?;
            } else if is("sec-websocket-protocol") {
                fields.subprotocols.extend(members(value));
            }
        }
        Ok(fields)
    }
}

/// RFC 6455 section 11.3: key and version appear once in a request.
fn set_once<'a>(field: &mut Option<&'a [u8]>, value: &'a [u8]) -> Result<(), Refusal> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(Refusal::Repeated),
    }
}

/// Members of a comma-separated list.
fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// 24 digits that stand for 16 bytes. Bits left over in the last digit are allowed: clients that draw random digits set
/// them, and nothing is ever decoded from the key.
fn is_key(key: &[u8]) -> bool {
    const ENGINE: GeneralPurpose =
        GeneralPurpose::new(&base64::alphabet::STANDARD, PAD.with_decode_allow_trailing_bits(true));
    // The decoder wants room for whole groups of three bytes.
    let mut nonce = [0; 18];
    key.len() == 24 && ENGINE.decode_slice(key, &mut nonce) == Ok(16)
}

/// With it the server's first message tells the client whether its session was resumed (PROTOCOL.md section 8).
pub const SUBPROTOCOL: &str = "rainbow.2";

/// 20 bytes of SHA-1 in base64.
pub const ACCEPT_LEN: usize = 28;

/// RFC 6455 section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VECTORS: &str = include_str!("../../../clients/vectors/handshakes.json");

    type Pair = (&'static str, &'static [u8]);

    const KEY: &[u8] = b"dGhlIHNhbXBsZSBub25jZQ==";

    const REQUEST: [Pair; 5] = [
        ("Host", b"example.com"),
        ("Upgrade", b"websocket"),
        ("Connection", b"Upgrade"),
        ("Sec-WebSocket-Key", KEY),
        ("Sec-WebSocket-Version", b"13"),
    ];

    fn read(headers: &[Pair]) -> Result<Upgrade<'static>, Refusal> {
        Upgrade::read("GET", 1, headers.iter().copied())
    }

    /// The request with one header's value replaced, or without it.
    fn altered(name: &str, value: Option<&'static [u8]>) -> Vec<Pair> {
        let headers = REQUEST.iter().filter(|(found, _)| *found != name || value.is_some());
        headers.map(|&(found, old)| (found, if found == name { value.unwrap_or(old) } else { old })).collect()
    }

    #[test]
    fn the_example_of_the_rfc_is_answered() {
        let mut out = Vec::new();
        read(&REQUEST).unwrap().write_response(&mut out, None);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        );
    }

    #[test]
    fn names_and_tokens_compare_without_case_and_within_lists() {
        let headers: [Pair; 4] = [
            ("UPGRADE", b"h2c, WebSocket"),
            ("connection", b"keep-alive ,\tUPGRADE"),
            ("SEC-WEBSOCKET-KEY", KEY),
            ("sec-websocket-version", b"13"),
        ];
        assert_eq!(read(&headers).unwrap().accept, *b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn offered_subprotocols_are_kept_in_order() {
        let mut headers = REQUEST.to_vec();
        headers.push(("Sec-WebSocket-Protocol", b"chat, rainbow.2"));
        headers.push(("sec-websocket-protocol", b",last"));
        let upgrade = read(&headers).unwrap();
        assert_eq!(upgrade.subprotocols, [&b"chat"[..], b"rainbow.2", b"last"]);
        assert!(upgrade.offers("rainbow.2") && !upgrade.offers("Rainbow.2") && !upgrade.offers("rainbow"));
        let mut out = Vec::new();
        upgrade.write_response(&mut out, Some("rainbow.2"));
        assert!(out.ends_with(b"=\r\nSec-WebSocket-Protocol: rainbow.2\r\n\r\n"));
    }

    #[test]
    fn what_is_no_upgrade_is_refused_with_its_status() {
        let cases = [
            (read(&altered("Upgrade", None)), Refusal::NoUpgrade, 400),
            (read(&altered("Upgrade", Some(b"websockets"))), Refusal::NoUpgrade, 400),
            (read(&altered("Connection", Some(b"keep-alive"))), Refusal::NoConnectionUpgrade, 400),
            (read(&altered("Sec-WebSocket-Version", Some(b"8"))), Refusal::UnsupportedVersion, 426),
            (read(&altered("Sec-WebSocket-Version", None)), Refusal::UnsupportedVersion, 426),
            (read(&altered("Sec-WebSocket-Key", None)), Refusal::InvalidKey, 400),
            (read(&[REQUEST, REQUEST].concat()), Refusal::Repeated, 400),
            (Upgrade::read("POST", 1, REQUEST), Refusal::NotGet, 405),
            (Upgrade::read("GET", 0, REQUEST), Refusal::Http10, 400),
        ];
        for (result, refusal, status) in cases {
            assert_eq!(result, Err(refusal));
            assert_eq!(refusal.status(), status);
        }
        assert!(Refusal::UnsupportedVersion.headers().contains(&("Sec-WebSocket-Version", "13")));
    }

    /// What every client's tests read too.
    #[test]
    fn requests_are_answered_as_the_clients_vectors_say() {
        let vectors: serde_json::Value = serde_json::from_str(VECTORS).unwrap();
        let list = |name: &str| vectors[name].as_array().unwrap();
        for vector in list("accept") {
            let key = vector["key"].as_str().unwrap().as_bytes();
            assert!(is_key(key), "{vector}");
            assert_eq!(accept_key(key), vector["accept"].as_str().unwrap().as_bytes());
        }
        for vector in list("accepted") {
            let upgrade = read_request(vector).unwrap_or_else(|refusal| panic!("{refusal}: {vector}"));
            let chosen = upgrade.offers(SUBPROTOCOL).then_some(SUBPROTOCOL);
            assert_eq!(chosen, vector["subprotocol"].as_str(), "{vector}");
            assert_eq!(upgrade.accept, accept_key(KEY));
        }
        for vector in list("refused") {
            let refusal = read_request(vector).expect_err("it is refused");
            assert_eq!(u64::from(refusal.status()), vector["status"], "{vector}");
            for (name, value) in vector["headers"].as_object().unwrap() {
                assert!(refusal.headers().contains(&(name, value.as_str().unwrap())), "{vector}");
            }
        }
    }

    /// Reads the fields of a vector's request.
    fn read_request(vector: &serde_json::Value) -> Result<Upgrade<'_>, Refusal> {
        let mut fields = vector["request"].as_array().unwrap().iter().map(|field| field.as_str().unwrap());
        let [method, _, version] = fields.next().unwrap().split(' ').collect::<Vec<_>>().try_into().unwrap();
        let minor = version.strip_prefix("HTTP/1.").unwrap().parse().unwrap();
        let headers = fields.map(|field| field.split_once(':').unwrap());
        Upgrade::read(method, minor, headers.map(|(name, value)| (name, value.trim().as_bytes())))
    }

    #[test]
    fn a_key_is_sixteen_bytes_of_base64() {
        for key in [KEY, b"AAAAAAAAAAAAAAAAAAAAAA==", b"AAAAAAAAAAAAAAAAAAAAAB==", b"++++++++////////++++++=="] {
            assert!(is_key(key), "{}", key.escape_ascii());
        }
        let wrong: [&[u8]; 7] = [
            b"",
            b"dGhlIHNhbXBsZSBub25jZQ",
            b"dGhlIHNhbXBsZSBub25jZQ=",
            b"dGhlIHNhbXBsZSBub25jZQ==\n",
            b"dGhlIHNhbXBsZSBub25jZ2E=",
            b"dGhlIHNhbXBsZSBub25jZ2Fh",
            b"dGhlIHNhbXBsZSBub25jZ-==",
        ];
        for key in wrong {
            assert!(!is_key(key), "{}", key.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn any_22_digits_are_a_key_and_any_other_byte_spoils_it(
            key in "[A-Za-z0-9+/]{22}==", place in 0..24usize, byte: u8,
        ) {
            prop_assert!(is_key(key.as_bytes()));
            let is_digit = byte.is_ascii_alphanumeric() || b"+/".contains(&byte);
            let mut spoilt = key.into_bytes();
            spoilt[place] = byte;
            let fits = if place < 22 { is_digit } else { byte == b'=' };
            prop_assert_eq!(is_key(&spoilt), fits);
        }
    }
}
