//! Requests to the business server, written into a connection's buffer: PROTOCOL.md sections 2 and 4.
//!
//! What does not change between two requests is put together once per URL (`Target`), and the 2014 signature once per
//! second (`Signer`), so that the hot path copies bytes and hashes nothing. No socket and no clock here.

use std::io::Write;

use crate::base::rng::Rng;
use crate::base::time::Tick;
use crate::config::url::HttpUrl;
use crate::policy::headers::is_forwarded;
use crate::wire::sign::{self, WebhookKey};

use super::options::HookKind;
use super::{Hook, Job};

/// One URL of one hook, taken apart so far as it can be.
#[derive(Debug)]
pub struct Target {
    /// Index into the pool's upstreams.
    pub upstream: usize,
    /// The path around each `{message_type}`, method first: `POST /m/` and `/`.
    path: Vec<Box<[u8]>>,
    has_query: bool,
    /// From the version to the last header that is always the same.
    tail: Box<[u8]>,
}

impl Target {
    pub fn new(hook: HookKind, url: &HttpUrl, upstream: usize) -> Target {
        let method = match hook {
            HookKind::Forward | HookKind::Receipts => "POST",
            HookKind::Connect | HookKind::Close => "GET",
        };
        let path = format!("{method} {}", url.path_and_query);
        let mut tail = format!(" HTTP/1.1\r\nHost: {}\r\n", url.host_header());
        if hook != HookKind::Connect {
            // A connect request carries the client's own.
            tail.push_str(concat!("User-Agent: rainbow/", env!("CARGO_PKG_VERSION"), "\r\n"));
        }
        if hook == HookKind::Forward {
            // Bodies are whatever clients send. A form or JSON type would make frameworks eat the body before the user
            // sees it.
            tail.push_str("Content-Type: application/octet-stream\r\n");
        }
        if hook == HookKind::Receipts {
            tail.push_str("Content-Type: application/json\r\n");
        }
        Target {
            upstream,
            path: path.split("{message_type}").map(|part| part.as_bytes().into()).collect(),
            has_query: url.path_and_query.contains('?'),
            tail: tail.into_bytes().into(),
        }
    }

    /// Replaces what `out` holds by the request for `job`. `number` tells one job from any other of this pool, and is
    /// the same over all its attempts.
    pub fn write(&self, out: &mut Vec<u8>, job: &Job, number: u64, signer: &mut Signer, now: Now<'_>) {
        out.clear();
        self.write_target(out, job, signer, now);
        out.extend_from_slice(&self.tail);
        if job.hook.has_identity() {
            put_header(out, "RAINBOWCLIENTIDENTITY", &job.identity);
        }
        if let Some(cookie) = &job.cookie {
            put_header(out, "RAINBOWCLIENTCOOKIE", cookie);
        }
        if let Some(key) = &job.idempotency_key {
            put_header(out, "Idempotency-Key", key.as_bytes());
        }
        match &job.headers {
            Some(lines) if job.hook == Hook::SessionEnded => out.extend_from_slice(lines),
            Some(lines) => put_client_headers(out, lines),
            None => {}
        }
        signer.put_webhook_headers(out, job, number, now);
        if job.hook.has_body() {
            put_number_header(out, "Content-Length", job.body.len() as u64);
        }
        out.extend_from_slice(b"\r\n");
        if job.hook.has_body() {
            out.extend_from_slice(&job.body);
        }
    }

    fn write_target(&self, out: &mut Vec<u8>, job: &Job, signer: &mut Signer, now: Now<'_>) {
        let (first, rest) = self.path.split_first().expect("split yields at least one part");
        out.extend_from_slice(first);
        for part in rest {
            match job.hook {
                Hook::Forward { message_type } => put_number(out, u64::from(message_type)),
                Hook::Connect | Hook::Close | Hook::SessionEnded | Hook::Receipts => {
                    out.extend_from_slice(b"%7Bmessage_type%7D")
                }
            }
            out.extend_from_slice(part);
        }
        let mut join = if self.has_query { b'&' } else { b'?' };
        if let Some(query) = job.query.as_deref().filter(|query| !query.is_empty()) {
            out.push(join);
            put_query(out, query);
            join = b'&';
        }
        let signature = signer.query(now);
        if !signature.is_empty() {
            out.push(join);
            out.extend_from_slice(signature);
        }
    }
}

/// The time, read once for everything that one input sets off, and where Unix time is to be had when it is needed.
#[derive(Clone, Copy)]
pub struct Now<'a> {
    pub tick: Tick,
    /// The same in microseconds.
    pub us: u64,
    pub unix_s: &'a dyn Fn() -> u64,
}

/// Signs requests by both schemes.
pub struct Signer {
    token: String,
    webhook_key: Option<WebhookKey>,
    /// Prefix of webhook ids, new in every process: ids of before a restart must not come again.
    instance: u64,
    rng: Rng,
    /// `timestamp=…&nonce=…&signature=…`, and the second it was made in. It does not cover the body, so one nonce a
    /// second proves as much as one a request would; it keeps SHA-1 off the path of every message.
    query: Vec<u8>,
    query_second: Option<u64>,
}

impl Signer {
    pub fn new(token: String, webhook_key: Option<WebhookKey>, mut rng: Rng) -> Signer {
        let instance = rng.next_u64();
        Signer { token, webhook_key, instance, rng, query: Vec::new(), query_second: None }
    }

    /// Changes the keys.
    pub fn rekey(&mut self, token: String, webhook_key: Option<WebhookKey>) {
        (self.token, self.webhook_key, self.query_second) = (token, webhook_key, None);
    }

    /// The signature's query parameters; empty without a token.
    fn query(&mut self, now: Now<'_>) -> &[u8] {
        let second = now.tick.0 / 1000;
        if self.query_second != Some(second) {
            self.query_second = Some(second);
            self.query.clear();
            if !self.token.is_empty() {
                let (timestamp, nonce) = ((now.unix_s)().to_string(), self.rng.below(1 << 53).to_string());
                let signature = sign::sign_2014(&self.token, &timestamp, &nonce);
                self.query.extend_from_slice(format!("timestamp={timestamp}&nonce={nonce}&signature=").as_bytes());
                self.query.extend_from_slice(&signature);
            }
        }
        &self.query
    }

    /// The three headers of Standard Webhooks. Its signature covers the body, so it is made anew for every attempt.
    fn put_webhook_headers(&self, out: &mut Vec<u8>, job: &Job, number: u64, now: Now<'_>) {
        let Some(key) = &self.webhook_key else { return };
        let mut own_id = [0; OWN_ID_LEN];
        let id = match &job.idempotency_key {
            Some(key) => key.as_str(),
            None => {
                write!(&mut own_id[..], "{:016x}-{number:016x}", self.instance).expect("fits");
                str::from_utf8(&own_id).expect("hex is ASCII")
            }
        };
        let timestamp_s = (now.unix_s)();
        let body: &[u8] = if job.hook.has_body() { &job.body } else { b"" };
        let signature = sign::sign_webhook(std::slice::from_ref(key), id, timestamp_s, body);
        put_header(out, sign::WEBHOOK_ID, id.as_bytes());
        put_number_header(out, sign::WEBHOOK_TIMESTAMP, timestamp_s);
        put_header(out, sign::WEBHOOK_SIGNATURE, signature.as_bytes());
    }
}

const OWN_ID_LEN: usize = 33;

fn put_header(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    debug_assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "a value that would end its line");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn put_number_header(out: &mut Vec<u8>, name: &str, value: u64) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    put_number(out, value);
    out.extend_from_slice(b"\r\n");
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return out.extend_from_slice(&digits[at..]);
        }
    }
}

/// The client's query as it is, but for bytes that would end the request line: those are percent-encoded, whoever let
/// them through.
fn put_query(out: &mut Vec<u8>, query: &str) {
    for byte in query.bytes() {
        if matches!(byte, b'!'..=b'~') && byte != b'#' {
            out.push(byte);
        } else {
            write!(out, "%{byte:02X}").expect("a Vec takes everything");
        }
    }
}

/// The client's header lines, as far as `policy::headers` lets them through: whoever put them together, a second
/// identity or a smuggled Content-Length must not go out.
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

    use super::*;
    use crate::io::backend::{IdempotencyKey, Retry};
    use crate::wire::http1::{BodyFraming, HeadLimits, HeadScanner, REQUEST_SLOTS, RequestHead};

    const UNIX_S: u64 = 1_700_000_000;

    fn job(hook: Hook) -> Job {
        Job {
            hook,
            ticket: 7,
            retry: Retry::Never,
            identity: [b'a'; 64],
            cookie: None,
            idempotency_key: None,
            query: None,
            headers: None,
            body: Vec::new(),
        }
    }

    fn written(url: &str, job: &Job, signer: &mut Signer) -> Vec<u8> {
        let target = Target::new(job.hook.into(), &HttpUrl::parse(url).unwrap(), 0);
        let mut out = b"rest of before".to_vec();
        target.write(&mut out, job, 42, signer, Now { tick: Tick(5000), us: 5_000_000, unix_s: &|| UNIX_S });
        out
    }

    fn text(url: &str, job: &Job) -> String {
        String::from_utf8(written(url, job, &mut Signer::new(String::new(), None, Rng::new(1)))).unwrap()
    }

    /// Reads what was written as a server would.
    fn check<T>(request: &[u8], check: impl FnOnce(&RequestHead<'_>, &[u8]) -> T) -> T {
        let head_len = HeadScanner::default().advance(request, &HeadLimits::RESPONSE).unwrap().expect("a whole head");
        let mut slots = REQUEST_SLOTS;
        check(&RequestHead::parse(&request[..head_len], &mut slots).unwrap(), &request[head_len..])
    }

    #[test]
    fn a_forward_is_a_post_with_the_message_type_in_its_path() {
        let mut job = job(Hook::Forward { message_type: 65535 });
        job.body = b"{\"a\":1}".to_vec();
        job.cookie = Some(Rc::from(&b"Y29va2ll"[..]));
        job.idempotency_key = IdempotencyKey::new("abc-1");
        let request = text("http://Example.com:8000/m/{message_type}/x/{message_type}?k=v", &job);
        assert_eq!(
            request,
            format!(
                "POST /m/65535/x/65535?k=v HTTP/1.1\r\nHost: example.com:8000\r\nUser-Agent: rainbow/{}\r\n\
                 Content-Type: application/octet-stream\r\nRAINBOWCLIENTIDENTITY: {}\r\n\
                 RAINBOWCLIENTCOOKIE: Y29va2ll\r\nIdempotency-Key: abc-1\r\nContent-Length: 7\r\n\r\n{{\"a\":1}}",
                env!("CARGO_PKG_VERSION"),
                "a".repeat(64)
            )
        );
        check(request.as_bytes(), |head, body| {
            assert_eq!((head.framing, body), (BodyFraming::Length(7), &b"{\"a\":1}"[..]));
            assert!(head.keep_alive());
        });
    }

    #[test]
    fn a_connect_carries_the_clients_query_and_headers() {
        let mut job = job(Hook::Connect);
        job.query = Some("X-DEVICEID=1&b=%20".into());
        job.headers = Some(Rc::from(
            &b"X-DEVICEID: 1\r\nUser-Agent: phone\r\nAccept-Encoding: gzip\r\ncontent-length: 9\r\nCookie: a=b\r\n\
               RainbowClientIdentity: me\r\n"[..],
        ));
        let request = text("http://h/c/", &job);
        assert!(request.starts_with("GET /c/?X-DEVICEID=1&b=%20 HTTP/1.1\r\nHost: h\r\n"), "{request}");
        check(request.as_bytes(), |head, body| {
            let names: Vec<_> = head.headers.iter().map(|(name, _)| name).collect();
            assert_eq!(names, ["Host", "RAINBOWCLIENTIDENTITY", "X-DEVICEID", "User-Agent", "Cookie"]);
            assert_eq!((head.framing, body), (BodyFraming::None, &b""[..]));
        });
    }

    #[test]
    fn no_client_query_can_end_the_request_line() {
        let mut job = job(Hook::Connect);
        job.query = Some("a= HTTP/1.1\r\nX: y#z\u{e9}".into());
        let request = text("http://h/c/?k", &job);
        assert!(request.starts_with("GET /c/?k&a=%20HTTP/1.1%0D%0AX:%20y%23z%C3%A9 HTTP/1.1\r\n"), "{request}");
    }

    #[test]
    fn the_end_of_a_session_names_the_session_and_no_connection() {
        let mut job = job(Hook::SessionEnded);
        job.headers = Some(Rc::from(&b"RAINBOWCLIENTSESSION: a b\r\nRAINBOWSESSIONENDED: dropped\r\n"[..]));
        job.cookie = Some(Rc::from(&b"Y29va2ll"[..]));
        let request = text("http://h/bye", &job);
        assert!(request.starts_with("GET /bye HTTP/1.1\r\n"), "{request}");
        check(request.as_bytes(), |head, body| {
            let names: Vec<_> = head.headers.iter().map(|(name, _)| name).collect();
            let expected = ["Host", "User-Agent", "RAINBOWCLIENTCOOKIE", "RAINBOWCLIENTSESSION", "RAINBOWSESSIONENDED"];
            assert_eq!(names, expected);
            assert_eq!(head.headers.get("rainbowclientsession"), Some(&b"a b"[..]));
            assert_eq!((head.framing, body), (BodyFraming::None, &b""[..]));
        });
    }

    #[test]
    fn receipts_are_a_post_of_json() {
        let mut job = job(Hook::Receipts);
        job.body = b"[{}]".to_vec();
        let request = text("http://h/receipts", &job);
        check(request.as_bytes(), |head, body| {
            assert_eq!((head.method, head.headers.get_text("content-type")), ("POST", Some("application/json")));
            assert_eq!(head.headers.get("rainbowclientidentity"), None);
            assert_eq!((head.framing, body), (BodyFraming::Length(4), &b"[{}]"[..]));
        });
    }

    #[test]
    fn a_close_is_a_get_without_a_body() {
        let request = text("http://h/bye", &job(Hook::Close));
        assert!(request.starts_with("GET /bye HTTP/1.1\r\n"));
        assert!(request.ends_with("\r\n\r\n") && !request.contains("Content-"));
    }

    #[test]
    fn the_2014_signature_verifies_and_is_made_once_a_second() {
        let mut signer = Signer::new("testtoken".into(), None, Rng::new(9));
        let query = |signer: &mut Signer, ms, unix_s: &dyn Fn() -> u64| {
            String::from_utf8(signer.query(Now { tick: Tick(ms), us: ms * 1000, unix_s }).to_vec()).unwrap()
        };
        let first = query(&mut signer, 5000, &|| UNIX_S);
        assert_eq!(query(&mut signer, 5999, &|| panic!("read twice in a second")), first);
        let second = query(&mut signer, 6000, &|| UNIX_S + 1);
        assert_ne!(first, second);
        for (query, now_s) in [(first, UNIX_S), (second, UNIX_S + 1)] {
            let part = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)).unwrap();
            let (timestamp, nonce, signature) = (part("timestamp="), part("nonce="), part("signature="));
            assert_eq!(timestamp, now_s.to_string());
            let signed = sign::Signed2014 { timestamp, nonce, signature };
            assert_eq!(sign::verify_2014("testtoken", signed, now_s, 0), Ok(()));
        }
        let request = String::from_utf8(written("http://h/c/", &job(Hook::Close), &mut signer)).unwrap();
        assert!(request.starts_with("GET /c/?timestamp=1700000000&nonce="), "{request}");
        let request = String::from_utf8(written("http://h/c/?a=b", &job(Hook::Close), &mut signer)).unwrap();
        assert!(request.starts_with("GET /c/?a=b&timestamp=1700000000&nonce="), "{request}");
    }

    #[test]
    fn webhook_headers_verify_over_the_body() {
        let key = WebhookKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let mut signer = Signer::new(String::new(), Some(key.clone()), Rng::new(9));
        let mut job = job(Hook::Forward { message_type: 1 });
        job.body = b"hello".to_vec();
        let verify = |request: &[u8]| {
            check(request, |head, body| {
                let of = |name| head.headers.get_text(name).expect("a webhook header");
                let (id, timestamp) = (of(sign::WEBHOOK_ID), of(sign::WEBHOOK_TIMESTAMP));
                let signed = sign::SignedWebhook { id, timestamp, signatures: of(sign::WEBHOOK_SIGNATURE) };
                assert_eq!(sign::verify_webhook(std::slice::from_ref(&key), signed, body, UNIX_S, 0), Ok(()));
                id.to_string()
            })
        };
        let first = verify(&written("http://h/m", &job, &mut signer));
        assert_eq!(verify(&written("http://h/m", &job, &mut signer)), first, "the same over all attempts");
        job.idempotency_key = IdempotencyKey::new("abc-2");
        assert_eq!(verify(&written("http://h/m", &job, &mut signer)), "abc-2");
    }

    #[test]
    fn numbers_are_decimal() {
        for number in [0, 9, 10, 65535, u64::MAX] {
            let mut out = Vec::new();
            put_number(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }
}
