//! Which of a client's headers reach the business server: one decision, for the upgrade that collects them and for the
//! backend connection that sends them.
//!
//! What a client sends is never believed about itself: names that state an identity, a cookie or a signature are ours,
//! and so is what would change how the request or its response is framed.

use crate::base::client::{ClientContext, ClientSite};
use crate::wire::http1::{RequestHead, begins_with_name, is_same_name};
use std::io::Write;
use std::net::IpAddr;

/// Whether a client's header of this name reaches the business server. Names are compared without case. One with `_`
/// does not, because many servers make `-` of it.
pub fn is_forwarded(name: &[u8]) -> bool {
    let Some(first) = name.first() else { return true };
    let (names, prefixes) = staying(first.to_ascii_lowercase());
    let is_ours = names.iter().any(|stays| is_same_name(name, stays.as_bytes()))
        || prefixes.iter().any(|prefix| begins_with_name(name, prefix.as_bytes()));
    !is_ours && !name.contains(&b'_')
}

/// The client's headers that reach the business server, in order. Those that the client itself declares hop-by-hop (RFC
/// 9110, section 7.6.1) do not.
pub fn forwarded<'a>(head: &RequestHead<'a>) -> impl Iterator<Item = (&'a str, &'a [u8])> {
    let is_named_by_connection = |name: &str| head.headers.has_token("connection", name);
    head.headers.iter().filter(move |(name, _)| is_forwarded(name.as_bytes()) && !is_named_by_connection(name))
}

/// One header with its CRLF.
#[inline]
pub fn put_header(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    debug_assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "a value that would end its line");
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// What a hook says of a client beside its identity.
pub fn put_client(out: &mut Vec<u8>, client: &ClientContext) {
    if let Some(cookie) = client.cookie() {
        put_header(out, "RAINBOWCLIENTCOOKIE", cookie);
    }
    if let Some(user) = client.user() {
        put_header(out, "RAINBOWCLIENTUSER", user.as_bytes());
    }
    if let Some(trace_parent) = client.trace_parent() {
        put_header(out, TRACE_PARENT, trace_parent.as_bytes());
    }
    if let Some((ip, site)) = client.ip().zip(client.site()) {
        put_address(out, ip, site);
    }
}

/// Where the client is, and what it has come to.
fn put_address(out: &mut Vec<u8>, ip: IpAddr, site: &ClientSite) {
    out.extend_from_slice(b"X-Forwarded-For: ");
    let start = out.len();
    put_ip(out, ip);
    let own = start..out.len();
    for proxy in &site.proxies {
        out.extend_from_slice(b", ");
        put_ip(out, *proxy);
    }
    out.extend_from_slice(b"\r\nX-Real-IP: ");
    out.extend_from_within(own);
    let proto: &[u8] = if site.is_secure { b"https" } else { b"http" };
    for part in [b"\r\nX-Forwarded-Proto: ", proto, b"\r\n"] {
        out.extend_from_slice(part);
    }
    for (name, value) in [("RAINBOWCLIENTHOST", &site.host), ("RAINBOWCLIENTORIGIN", &site.origin)] {
        if let Some(value) = value {
            put_header(out, name, value);
        }
    }
}

fn put_ip(out: &mut Vec<u8>, address: IpAddr) {
    let IpAddr::V4(address) = address else {
        // Its short forms have rules of their own. Writing to a vector cannot fail.
        let _ = write!(out, "{address}");
        return;
    };
    for (place, octet) in address.octets().into_iter().enumerate() {
        if place > 0 {
            out.push(b'.');
        }
        if octet >= 100 {
            out.push(b'0' + octet / 100);
        }
        if octet >= 10 {
            out.push(b'0' + octet / 10 % 10);
        }
        out.push(b'0' + octet % 10);
    }
}

/// Of the W3C's header that names a trace.
pub const TRACE_PARENT: &str = "traceparent";

/// Of the header that names a request.
pub const REQUEST_ID: &str = "X-Request-Id";

/// Names and beginnings of names that stay, of those with this first letter: hop-by-hop headers, those of the upgrade,
/// and those that frame or name a request or its trace; the handshake's; identity and cookie; signatures; where the
/// client is, which we say.
fn staying(first: u8) -> (&'static [&'static str], &'static [&'static str]) {
    match first {
        b'a' => (&["accept-encoding"], &[]),
        b'c' => (&["connection", "content-length"], &[]),
        b'e' => (&["expect"], &[]),
        b'f' => (&["forwarded"], &[]),
        b'h' => (&["host"], &[]),
        b'i' => (&["idempotency-key"], &[]),
        b'k' => (&["keep-alive"], &[]),
        b'o' => (&["origin"], &[]),
        b'p' => (&["proxy-authenticate", "proxy-authorization", "proxy-connection"], &[]),
        b'r' => (&[], &["rainbow"]),
        b's' => (&[], &["sec-websocket-"]),
        b't' => (&["te", "traceparent", "trailer", "transfer-encoding"], &[]),
        b'u' => (&["upgrade"], &[]),
        b'w' => (&[], &["webhook-"]),
        b'x' => (&["x-real-ip", "x-request-id"], &["x-forwarded-"]),
        _ => (&[], &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::http1::REQUEST_SLOTS;

    #[test]
    fn what_states_an_identity_or_frames_the_request_stays() {
        for name in ["Host", "TE", "Transfer_Encoding", "content-length", "Sec-WebSocket-Key", "RAINBOWCLIENTCOOKIE"] {
            assert!(!is_forwarded(name.as_bytes()), "{name}");
        }
        for name in [
            "rainbow_identity",
            "Webhook-Signature",
            "X_User",
            "_",
            "X-Forwarded-For",
            "X-Real-IP",
            "Accept-Encoding",
            "Traceparent",
        ] {
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
