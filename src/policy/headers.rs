//! Which of a client's headers reach the business server: one decision, for the upgrade that collects them and for the
//! backend connection that sends them.
//!
//! What a client sends is never believed about itself: names that state an identity, a cookie or a signature are ours,
//! and so is what would change how the request or its response is framed.

use crate::base::client::ClientAddress;
use crate::wire::http1::RequestHead;
use std::io::Write;

/// Whether a client's header of this name reaches the business server. Names are compared without case. One with `_`
/// does not, because many servers make `-` of it.
pub fn is_forwarded(name: &[u8]) -> bool {
    if name.contains(&b'_') {
        return false;
    }
    let is_ours = STAYS.iter().any(|stays| name.len() == stays.len() && begins_with(name, stays));
    !is_ours && !STAYS_PREFIXES.iter().any(|prefix| begins_with(name, prefix))
}

/// The client's headers that reach the business server, in order. Those that the client itself declares hop-by-hop (RFC
/// 9110, section 7.6.1) do not.
pub fn forwarded<'a>(head: &RequestHead<'a>) -> impl Iterator<Item = (&'a str, &'a [u8])> {
    let is_named_by_connection = |name: &str| head.headers.has_token("connection", name);
    head.headers.iter().filter(move |(name, _)| is_forwarded(name.as_bytes()) && !is_named_by_connection(name))
}

/// One header with its CRLF.
pub fn put_header(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    debug_assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "a value that would end its line");
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// What a hook says of where the client is.
pub fn put_address(out: &mut Vec<u8>, client: &ClientAddress) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "X-Forwarded-For: {}", client.address);
    client.proxies.iter().for_each(|proxy| drop(write!(out, ", {proxy}")));
    let proto = if client.is_secure { "https" } else { "http" };
    let _ = write!(out, "\r\nX-Real-IP: {}\r\nX-Forwarded-Proto: {proto}\r\n", client.address);
}

/// Of the header that names a request.
pub const REQUEST_ID: &str = "X-Request-Id";

/// `prefix` is in lower case. Most names differ from it in their first letter.
fn begins_with(name: &[u8], prefix: &str) -> bool {
    let (Some(first), [start, ..]) = (name.first(), prefix.as_bytes()) else { return false };
    first.to_ascii_lowercase() == *start
        && name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
}

/// Hop-by-hop headers, those of the upgrade, and those that frame or name a request.
const STAYS: [&str; 18] = [
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "forwarded",
    "host",
    "idempotency-key",
    "keep-alive",
    "origin",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-real-ip",
    "x-request-id",
];
/// The handshake's; identity and cookie; signatures; where the client is, which we say.
const STAYS_PREFIXES: [&str; 4] = ["sec-websocket-", "rainbow", "webhook-", "x-forwarded-"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::http1::REQUEST_SLOTS;

    #[test]
    fn what_states_an_identity_or_frames_the_request_stays() {
        for name in ["Host", "TE", "Transfer_Encoding", "content-length", "Sec-WebSocket-Key", "RAINBOWCLIENTCOOKIE"] {
            assert!(!is_forwarded(name.as_bytes()), "{name}");
        }
        for name in
            ["rainbow_identity", "Webhook-Signature", "X_User", "_", "X-Forwarded-For", "X-Real-IP", "Accept-Encoding"]
        {
            assert!(!is_forwarded(name.as_bytes()), "{name}");
        }
        for name in ["", "Cookie", "Authorization", "User-Agent", "X-DEVICEID", "Hosts", "Tea", "Accept", "X-Rainbow"] {
            assert!(is_forwarded(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn what_the_client_declares_hop_by_hop_stays() {
        let request = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade, X-Hop\r\nX-Hop: 1\r\nX-Far: 2\r\n\r\n";
        let mut slots = REQUEST_SLOTS;
        let head = RequestHead::parse(request, &mut slots).expect("a head");
        assert_eq!(forwarded(&head).collect::<Vec<_>>(), [("X-Far", &b"2"[..])]);
    }
}
