//! Requests to the business server, written into a connection's buffer: PROTOCOL.md sections 2 and 4.
//!
//! Owns what is the same in many requests: a `RequestTemplate` is made once per URL, so that the hot path copies bytes
//! and hashes only the signature's three short strings (`Signer`). Has no socket and no clock. Called by the
//! dispatcher when a request goes out.

use std::fmt::Write as _;
use std::io::Write;

use crate::base::digits::{Decimal, hex_of};
use crate::base::rng::Rng;
use crate::base::secret::Secret;
use crate::config::url::HttpUrl;
use crate::policy::headers::{REQUEST_ID, is_forwarded, put_client, put_header};
use crate::wire::sign::{self, NonceTag, WebhookKey};

use super::hook::{Hook, HookKind, HookRequest};
use super::time_source::Now;

/// All requests to one URL of one hook, but for what differs from request to request.
#[derive(Debug)]
pub struct RequestTemplate {
    /// The path around each `{message_type}`, method first: `POST /m/` and `/`.
    path: Vec<Box<[u8]>>,
    has_query: bool,
    /// From the HTTP version to the last header that is always the same.
    tail: Box<[u8]>,
}

impl RequestTemplate {
    pub fn new(hook: HookKind, url: &HttpUrl) -> RequestTemplate {
        let method = match hook {
            HookKind::Forward | HookKind::Receipts | HookKind::DeadLetter => "POST",
            HookKind::Connect | HookKind::Close => "GET",
        };
        let path = format!("{method} {}", url.path_and_query);
        let mut tail = format!(" HTTP/1.1\r\nHost: {}\r\n", url.host_header());
        if hook != HookKind::Connect {
            // A connect request carries the client's own header.
            tail.push_str(concat!("User-Agent: rainbow/", env!("CARGO_PKG_VERSION"), "\r\n"));
        }
        if matches!(hook, HookKind::Forward | HookKind::DeadLetter) {
            // Bodies are whatever clients send. A form or JSON type would make frameworks eat the body before the user
            // sees it.
            tail.push_str("Content-Type: application/octet-stream\r\n");
        }
        if hook == HookKind::Receipts {
            tail.push_str("Content-Type: application/json\r\n");
        }
        RequestTemplate {
            path: path.split("{message_type}").map(|part| part.as_bytes().into()).collect(),
            has_query: url.path_and_query.contains('?'),
            tail: tail.into_bytes().into(),
        }
    }

    /// Replaces the contents of `out` by the request. `number` is the same in all attempts of one request, and differs
    /// from that of any other request of this pool.
    pub fn write(
        &self,
        out: &mut Vec<u8>,
        request: &HookRequest,
        number: RequestNumber,
        signer: &mut Signer,
        now: Now<'_>,
    ) {
        out.clear();
        self.write_target(out, request, signer, now);
        out.extend_from_slice(&self.tail);
        if request.hook.has_identity() {
            put_header(out, "RAINBOWCLIENTIDENTITY", &request.identity);
        }
        put_client(out, &request.client);
        if request.hook != Hook::Connect {
            // A connect request carries that of its upgrade.
            put_header(out, REQUEST_ID, &signer.request_id(number));
        }
        if let Some(key) = &request.idempotency_key {
            put_header(out, "Idempotency-Key", key.as_bytes());
        }
        if let Some(lines) = &request.client_headers {
            put_client_headers(out, lines);
        }
        if let Some(lines) = &request.headers {
            out.extend_from_slice(lines);
        }
        signer.put_webhook_headers(out, request, number, now);
        if request.hook.has_body() {
            put_number_header(out, "Content-Length", request.body.len() as u64);
        }
        out.extend_from_slice(b"\r\n");
        if request.hook.has_body() {
            out.extend_from_slice(&request.body);
        }
    }

    fn write_target(&self, out: &mut Vec<u8>, request: &HookRequest, signer: &mut Signer, now: Now<'_>) {
        let (first, rest) = self.path.split_first().expect("split yields at least one part");
        out.extend_from_slice(first);
        for part in rest {
            match request.hook {
                Hook::Forward { message_type } | Hook::DeadLetter { message_type } => {
                    put_number(out, u64::from(message_type))
                }
                Hook::Connect | Hook::Close | Hook::SessionEnded | Hook::Receipts => {
                    out.extend_from_slice(b"%7Bmessage_type%7D")
                }
            }
            out.extend_from_slice(part);
        }
        let mut join = if self.has_query { b'&' } else { b'?' };
        if let Some(query) = request.query.as_deref().filter(|query| !query.is_empty()) {
            out.push(join);
            put_query(out, query);
            join = b'&';
        }
        signer.put_query(out, join, now);
    }
}

/// A request's place in the order in which the pool's requests were submitted, and its part of a webhook id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestNumber(pub u64);

/// Signs requests by both schemes.
pub struct Signer {
    token: Secret,
    webhook_key: Option<WebhookKey>,
    /// Prefix of webhook ids, new in every process: an id from before a restart must not come again.
    instance: u64,
    nonce_tag: NonceTag,
    /// Of the next nonce: no two requests have one in common, so that a backend may remember them.
    serial: u64,
    /// The second now, in decimal digits.
    timestamp: String,
    /// The second that `timestamp` was made in.
    timestamp_second: Option<u64>,
}

impl Signer {
    pub fn new(token: Secret, webhook_key: Option<WebhookKey>, mut rng: Rng) -> Signer {
        let (instance, serial) = (rng.next_u64(), rng.next_u64() % NonceTag::SERIALS);
        let nonce_tag = NonceTag::new(token.expose());
        Signer { token, webhook_key, instance, nonce_tag, serial, timestamp: String::new(), timestamp_second: None }
    }

    /// Changes the keys.
    pub fn rekey(&mut self, token: Secret, webhook_key: Option<WebhookKey>) {
        self.nonce_tag = NonceTag::new(token.expose());
        (self.token, self.webhook_key) = (token, webhook_key);
    }

    /// Names a request in the business server's log and in ours, the same over all attempts.
    pub fn request_id(&self, number: RequestNumber) -> [u8; REQUEST_ID_LEN] {
        let mut id = [b'-'; REQUEST_ID_LEN];
        id[..16].copy_from_slice(&hex_of::<8, 16>(self.instance.to_be_bytes()));
        id[17..].copy_from_slice(&hex_of::<8, 16>(number.0.to_be_bytes()));
        id
    }

    /// `timestamp=…&nonce=…&signature=…` behind `join`; nothing without a token.
    fn put_query(&mut self, out: &mut Vec<u8>, join: u8, now: Now<'_>) {
        if self.token.is_empty() {
            return;
        }
        let second = now.tick.0 / 1000;
        if self.timestamp_second != Some(second) {
            self.timestamp_second = Some(second);
            self.timestamp.clear();
            write!(self.timestamp, "{}", (now.unix_s)()).expect("a String takes everything");
        }
        let nonce = self.nonce_tag.nonce(self.serial, &self.timestamp);
        self.serial = (self.serial + 1) % NonceTag::SERIALS;
        let nonce = str::from_utf8(&nonce).expect("digits");
        let signature = sign::sign_2014(self.token.expose(), &self.timestamp, nonce);
        out.push(join);
        for part in ["timestamp=", &self.timestamp, "&nonce=", nonce, "&signature="] {
            out.extend_from_slice(part.as_bytes());
        }
        out.extend_from_slice(&signature);
    }

    /// The three headers of Standard Webhooks. Their signature covers the timestamp and the body, so it is made for
    /// every attempt.
    fn put_webhook_headers(&self, out: &mut Vec<u8>, request: &HookRequest, number: RequestNumber, now: Now<'_>) {
        let Some(key) = &self.webhook_key else { return };
        let own_id;
        let id = match &request.idempotency_key {
            Some(key) => key.as_str(),
            None => {
                own_id = self.request_id(number);
                str::from_utf8(&own_id).expect("hex is ASCII")
            }
        };
        let timestamp_s = (now.unix_s)();
        let body: &[u8] = if request.hook.has_body() { &request.body } else { b"" };
        let signature = sign::sign_webhook(std::slice::from_ref(key), id, timestamp_s, body);
        put_header(out, sign::WEBHOOK_ID, id.as_bytes());
        put_number_header(out, sign::WEBHOOK_TIMESTAMP, timestamp_s);
        put_header(out, sign::WEBHOOK_SIGNATURE, signature.as_bytes());
    }
}

/// Two numbers in hexadecimal digits.
const REQUEST_ID_LEN: usize = 16 + 1 + 16;

fn put_number_header(out: &mut Vec<u8>, name: &str, value: u64) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    put_number(out, value);
    out.extend_from_slice(b"\r\n");
}

fn put_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(Decimal::of(number).as_bytes());
}

/// The client's query as it is. Bytes that would end the request line are percent-encoded here, even if an earlier
/// check should have refused them.
fn put_query(out: &mut Vec<u8>, query: &str) {
    for byte in query.bytes() {
        if matches!(byte, b'!'..=b'~') && byte != b'#' {
            out.push(byte);
        } else {
            write!(out, "%{byte:02X}").expect("a Vec takes everything");
        }
    }
}

/// The client's header lines that `policy::headers` lets through. The upgrade has filtered them already; here it is
/// made sure that no second identity and no smuggled Content-Length goes out, whatever put the lines together.
fn put_client_headers(out: &mut Vec<u8>, lines: &[u8]) {
    debug_assert!(lines.is_empty() || lines.ends_with(b"\r\n"), "whole lines");
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default().trim_ascii();
        if is_forwarded(name) {
            out.extend_from_slice(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::Arc;

    use super::*;
    use crate::base::client::{ClientContext, ClientSite};
    use crate::base::time::Tick;
    use crate::io::backend::hook::{IdempotencyKey, RequestTag, Retry};
    use crate::wire::http1::{BodyFraming, HeadLimits, HeadScanner, REQUEST_SLOTS, RequestHead};

    const UNIX_S: u64 = 1_700_000_000;

    fn request_for(hook: Hook) -> HookRequest {
        HookRequest {
            hook,
            tag: RequestTag(7),
            retry: Retry::Never,
            identity: [b'a'; 64],
            client: ClientContext::default(),
            idempotency_key: None,
            query: None,
            client_headers: None,
            headers: None,
            body: Vec::new(),
        }
    }

    fn written(url: &str, hook_request: &HookRequest, signer: &mut Signer) -> Vec<u8> {
        let template = RequestTemplate::new(hook_request.hook.into(), &HttpUrl::parse(url).unwrap());
        let mut out = b"rest of before".to_vec();
        template.write(
            &mut out,
            hook_request,
            RequestNumber(42),
            signer,
            Now { tick: Tick(5000), us: 5_000_000, unix_s: &|| UNIX_S },
        );
        out
    }

    fn text(url: &str, hook_request: &HookRequest) -> String {
        String::from_utf8(written(url, hook_request, &mut Signer::new(Secret::default(), None, Rng::new(1)))).unwrap()
    }

    /// Reads what was written as a server would.
    fn check<T>(request: &[u8], check: impl FnOnce(&RequestHead<'_>, &[u8]) -> T) -> T {
        let head_len = HeadScanner::default().advance(request, &HeadLimits::RESPONSE).unwrap().expect("a whole head");
        let mut slots = REQUEST_SLOTS;
        check(&RequestHead::parse(&request[..head_len], &mut slots).unwrap(), &request[head_len..])
    }

    #[test]
    fn a_forward_is_a_post_with_the_message_type_in_its_path() {
        let mut hook_request = request_for(Hook::Forward { message_type: 65535 });
        hook_request.body = b"{\"a\":1}".to_vec();
        hook_request.client = ClientContext::of_absent(Some(Rc::from(&b"Y29va2ll"[..])), None);
        hook_request.idempotency_key = IdempotencyKey::new("abc-1");
        let request = text("http://Example.com:8000/m/{message_type}/x/{message_type}?k=v", &hook_request);
        assert_eq!(
            request,
            format!(
                "POST /m/65535/x/65535?k=v HTTP/1.1\r\nHost: example.com:8000\r\nUser-Agent: rainbow/{}\r\n\
                 Content-Type: application/octet-stream\r\nRAINBOWCLIENTIDENTITY: {}\r\n\
                 RAINBOWCLIENTCOOKIE: Y29va2ll\r\nX-Request-Id: {:016x}-000000000000002a\r\n\
                 Idempotency-Key: abc-1\r\nContent-Length: 7\r\n\r\n{{\"a\":1}}",
                env!("CARGO_PKG_VERSION"),
                "a".repeat(64),
                Rng::new(1).next_u64()
            )
        );
        check(request.as_bytes(), |head, body| {
            assert_eq!((head.framing, body), (BodyFraming::Length(7), &b"{\"a\":1}"[..]));
            assert!(head.keep_alive());
        });
    }

    #[test]
    fn a_connect_carries_the_clients_query_and_headers() {
        let mut hook_request = request_for(Hook::Connect);
        hook_request.query = Some("X-DEVICEID=1&b=%20".into());
        hook_request.client_headers = Some(Rc::from(
            &b"X-DEVICEID: 1\r\nUser-Agent: phone\r\nAccept-Encoding: gzip\r\ncontent-length: 9\r\nCookie: a=b\r\n\
               RainbowClientIdentity: me\r\n"[..],
        ));
        let request = text("http://h/c/", &hook_request);
        assert!(request.starts_with("GET /c/?X-DEVICEID=1&b=%20 HTTP/1.1\r\nHost: h\r\n"), "{request}");
        check(request.as_bytes(), |head, body| {
            let names: Vec<_> = head.headers.iter().map(|(name, _)| name).collect();
            assert_eq!(names, ["Host", "RAINBOWCLIENTIDENTITY", "X-DEVICEID", "User-Agent", "Cookie"]);
            assert_eq!((head.framing, body), (BodyFraming::None, &b""[..]));
        });
    }

    #[test]
    fn no_client_query_can_end_the_request_line() {
        let mut hook_request = request_for(Hook::Connect);
        hook_request.query = Some("a= HTTP/1.1\r\nX: y#z\u{e9}".into());
        let request = text("http://h/c/?k", &hook_request);
        assert!(request.starts_with("GET /c/?k&a=%20HTTP/1.1%0D%0AX:%20y%23z%C3%A9 HTTP/1.1\r\n"), "{request}");
    }

    #[test]
    fn the_end_of_a_session_names_the_session_and_no_connection() {
        let mut hook_request = request_for(Hook::SessionEnded);
        hook_request.headers = Some(Rc::from(&b"RAINBOWCLIENTSESSION: a b\r\nRAINBOWSESSIONENDED: dropped\r\n"[..]));
        hook_request.client = ClientContext::of_absent(Some(Rc::from(&b"Y29va2ll"[..])), None);
        let request = text("http://h/bye", &hook_request);
        assert!(request.starts_with("GET /bye HTTP/1.1\r\n"), "{request}");
        check(request.as_bytes(), |head, body| {
            let names: Vec<_> = head.headers.iter().map(|(name, _)| name).collect();
            let expected = [
                "Host",
                "User-Agent",
                "RAINBOWCLIENTCOOKIE",
                REQUEST_ID,
                "RAINBOWCLIENTSESSION",
                "RAINBOWSESSIONENDED",
            ];
            assert_eq!(names, expected);
            assert_eq!(head.headers.get("rainbowclientsession"), Some(&b"a b"[..]));
            assert_eq!((head.framing, body), (BodyFraming::None, &b""[..]));
        });
    }

    #[test]
    fn each_request_has_an_id_of_its_own_over_all_its_attempts() {
        let hooks = [Hook::Forward { message_type: 1 }, Hook::Close, Hook::SessionEnded, Hook::Receipts];
        let mut signer = Signer::new(Secret::default(), None, Rng::new(9));
        let template = RequestTemplate::new(HookKind::Close, &HttpUrl::parse("http://h/").unwrap());
        let mut id_of = |hook, number, unix_s| {
            let mut out = Vec::new();
            let now = Now { tick: Tick(5), us: 5000, unix_s: &|| unix_s };
            template.write(&mut out, &request_for(hook), RequestNumber(number), &mut signer, now);
            check(&out, |head, _| head.headers.get_text("x-request-id").expect("an id").to_owned())
        };
        for hook in hooks {
            assert_eq!(id_of(hook, 7, UNIX_S), id_of(hook, 7, UNIX_S + 9), "another attempt");
            assert_ne!(id_of(hook, 7, UNIX_S), id_of(hook, 8, UNIX_S), "another request");
        }
        assert!(id_of(Hook::Close, 0xABC, UNIX_S).ends_with("-0000000000000abc"));
    }

    #[test]
    fn a_hook_says_where_its_client_is() {
        let mut hook_request = request_for(Hook::Close);
        let ip = |text: &str| text.parse().expect("an address");
        let site = ClientSite {
            host: Some((*b"chat.example").into()),
            origin: None,
            proxies: [ip("10.0.0.7"), ip("10.0.0.8")].into(),
            is_secure: true,
        };
        hook_request.client = ClientContext::new(ip("2001:db8::9"), Rc::new(Arc::new(site).into()));
        check(text("http://h/bye", &hook_request).as_bytes(), |head, _| {
            let reported = |name| head.headers.get_text(name).expect("reported").to_owned();
            let expected = ["2001:db8::9, 10.0.0.7, 10.0.0.8", "2001:db8::9", "https"];
            assert_eq!(["x-forwarded-for", "x-real-ip", "x-forwarded-proto"].map(reported), expected);
            assert_eq!(reported("rainbowclienthost"), "chat.example");
            assert_eq!(head.headers.get("rainbowclientorigin"), None);
        });
    }

    #[test]
    fn receipts_are_a_post_of_json() {
        let mut hook_request = request_for(Hook::Receipts);
        hook_request.body = b"[{}]".to_vec();
        let request = text("http://h/receipts", &hook_request);
        check(request.as_bytes(), |head, body| {
            assert_eq!((head.method, head.headers.get_text("content-type")), ("POST", Some("application/json")));
            assert_eq!(head.headers.get("rainbowclientidentity"), None);
            assert_eq!((head.framing, body), (BodyFraming::Length(4), &b"[{}]"[..]));
        });
    }

    #[test]
    fn a_close_is_a_get_without_a_body() {
        let request = text("http://h/bye", &request_for(Hook::Close));
        assert!(request.starts_with("GET /bye HTTP/1.1\r\n"));
        assert!(request.ends_with("\r\n\r\n") && !request.contains("Content-"));
    }

    #[test]
    fn the_2014_signature_verifies_and_no_two_have_a_nonce_in_common() {
        let mut signer = Signer::new("testtoken".into(), None, Rng::new(9));
        let query = |signer: &mut Signer, ms, unix_s: &dyn Fn() -> u64| {
            let mut out = Vec::new();
            signer.put_query(&mut out, b'&', Now { tick: Tick(ms), us: ms * 1000, unix_s });
            String::from_utf8(out).unwrap()
        };
        let first = query(&mut signer, 5000, &|| UNIX_S);
        let second = query(&mut signer, 5999, &|| panic!("the clock is read once in a second"));
        let third = query(&mut signer, 6000, &|| UNIX_S + 1);
        assert_ne!(first, second);
        for (query, now_s) in [(first, UNIX_S), (second, UNIX_S), (third, UNIX_S + 1)] {
            let part = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)).unwrap();
            let (timestamp, nonce, signature) = (part("timestamp="), part("nonce="), part("signature="));
            assert_eq!(timestamp, now_s.to_string());
            let signed = sign::Signed2014 { timestamp, nonce, signature };
            assert_eq!(sign::verify_2014("testtoken", signed, now_s, 0), Ok(()));
            assert!(NonceTag::new("testtoken").made(nonce, timestamp), "we know it again");
        }
        let request = String::from_utf8(written("http://h/c/", &request_for(Hook::Close), &mut signer)).unwrap();
        assert!(request.starts_with("GET /c/?timestamp=1700000000&nonce="), "{request}");
        let request = String::from_utf8(written("http://h/c/?a=b", &request_for(Hook::Close), &mut signer)).unwrap();
        assert!(request.starts_with("GET /c/?a=b&timestamp=1700000000&nonce="), "{request}");
    }

    #[test]
    fn webhook_headers_verify_over_the_body() {
        let key = WebhookKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let mut signer = Signer::new(Secret::default(), Some(key.clone()), Rng::new(9));
        let mut hook_request = request_for(Hook::Forward { message_type: 1 });
        hook_request.body = b"hello".to_vec();
        let verify = |request: &[u8]| {
            check(request, |head, body| {
                let of = |name| head.headers.get_text(name).expect("a webhook header");
                let (id, timestamp) = (of(sign::WEBHOOK_ID), of(sign::WEBHOOK_TIMESTAMP));
                let signed =
                    sign::SignedWebhook { target: None, id, timestamp, signatures: of(sign::WEBHOOK_SIGNATURE) };
                assert_eq!(sign::verify_webhook(std::slice::from_ref(&key), signed, body, UNIX_S, 0), Ok(()));
                id.to_string()
            })
        };
        let first = verify(&written("http://h/m", &hook_request, &mut signer));
        assert_eq!(verify(&written("http://h/m", &hook_request, &mut signer)), first, "the same over all attempts");
        hook_request.idempotency_key = IdempotencyKey::new("abc-2");
        assert_eq!(verify(&written("http://h/m", &hook_request, &mut signer)), "abc-2");
    }
}
