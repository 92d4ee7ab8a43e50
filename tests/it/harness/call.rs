//! Calls by the business server, signed as the protocol says: both schemes, made here and not borrowed from the server.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha1::{Digest, Sha1};
use sha2::Sha256;

use super::http::{self, Response, Wire, percent};
use super::{TIMEOUT, TOKEN};

/// A POST with the 2014 signature.
pub fn call(to: SocketAddr, path: &str, params: &[(&str, &str)], body: impl AsRef<[u8]>) -> Response {
    http::request_within(to, "POST", &signed_target(path, params), &[], body.as_ref(), CALL_TIMEOUT)
}

/// The answer to a `/send/`; `None`: nobody is there, or the answer is none.
pub fn send_if_there(to: SocketAddr, params: &[(&str, &str)], body: &str) -> Option<Value> {
    let mut wire = Wire::new(TcpStream::connect_timeout(&to, TIMEOUT).ok()?);
    let head = format!("POST {} HTTP/1.1\r\nHost: x\r\n", signed_target("/send/", params));
    wire.stream.write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).ok()?;
    let response = wire.response(Instant::now() + TIMEOUT).ok()?;
    (response.status == 200).then(|| response.json())
}

/// A GET with the 2014 signature.
pub fn call_get(to: SocketAddr, path: &str, params: &[(&str, &str)]) -> Response {
    http::get(to, &signed_target(path, params))
}

/// A POST without any signature.
pub fn call_unsigned(to: SocketAddr, path: &str, params: &[(&str, &str)], body: impl AsRef<[u8]>) -> Response {
    http::request(to, "POST", &target(path, params, ""), &[], body.as_ref())
}

/// A POST with the Standard Webhooks headers.
pub fn call_webhook(
    to: SocketAddr,
    path: &str,
    params: &[(&str, &str)],
    body: impl AsRef<[u8]>,
    webhook: &Webhook,
) -> Response {
    let headers = webhook.headers();
    let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
    http::request(to, "POST", &target(path, params, ""), &headers, body.as_ref())
}

/// `/send/` to a channel, answered when everybody has.
pub fn send(to: SocketAddr, channel: &str, params: &[(&str, &str)], body: impl AsRef<[u8]>) -> Value {
    let params = [&[("channel", channel)], params].concat();
    let response = call(to, "/send/", &params, body);
    assert_eq!(response.status, 200, "{:?}", response.text());
    response.json()
}

/// The same in the background.
pub fn send_later(to: SocketAddr, channel: &str, params: &[(&str, &str)], body: impl AsRef<[u8]>) -> JoinHandle<Value> {
    let channel = channel.to_owned();
    let params: Vec<_> = params.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let body = body.as_ref().to_vec();
    std::thread::spawn(move || {
        let params: Vec<_> = params.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        send(to, &channel, &params, body)
    })
}

pub fn subscribe(to: SocketAddr, identity: &str, channel: &str) {
    let body = format!(r#"{{"identity": "{identity}", "channel": "{channel}", "occupy": 0}}"#);
    let response = call(to, "/sub/", &[], body);
    assert_eq!(response.outcome(), 0, "{}", response.text());
}

/// `timestamp=…&nonce=…&signature=…` for now.
pub fn signed_query(token: &str) -> String {
    static NONCE: AtomicU64 = AtomicU64::new(100_000);
    signed_query_at(token, unix_now(), NONCE.fetch_add(7, Ordering::Relaxed))
}

pub fn signed_query_at(token: &str, timestamp: u64, nonce: u64) -> String {
    let (timestamp, nonce) = (timestamp.to_string(), nonce.to_string());
    let signature = signature_2014(token, &timestamp, &nonce);
    format!("timestamp={timestamp}&nonce={nonce}&signature={signature}")
}

/// hex(SHA-1(the three strings, sorted as strings, joined)).
pub fn signature_2014(token: &str, timestamp: &str, nonce: &str) -> String {
    let mut parts = [token, timestamp, nonce];
    parts.sort_unstable();
    hex(&Sha1::digest(parts.concat()))
}

/// One Standard Webhooks signature to be made: what it says can differ from what is sent.
#[derive(Clone)]
pub struct Webhook {
    /// Method and target, where they are signed too.
    pub target: Option<String>,
    pub secret: String,
    pub id: String,
    pub timestamp: u64,
    pub body: Vec<u8>,
}

impl Webhook {
    pub fn now(secret: &str, body: impl AsRef<[u8]>) -> Webhook {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let id = format!("msg_{}_{}", std::process::id(), CALLS.fetch_add(1, Ordering::Relaxed));
        Webhook { target: None, secret: secret.into(), id, timestamp: unix_now(), body: body.as_ref().to_vec() }
    }

    /// The same with `webhook-target`.
    pub fn for_target(mut self, target: &str) -> Webhook {
        self.target = Some(target.to_owned());
        self
    }

    pub fn headers(&self) -> [(&'static str, String); 3] {
        let id = self.target.iter().chain([&self.id]).map(String::as_str).collect::<Vec<_>>().join(".");
        let signature = webhook_signature(&self.secret, &id, &self.timestamp.to_string(), &self.body);
        [
            ("webhook-id", self.id.clone()),
            ("webhook-timestamp", self.timestamp.to_string()),
            ("webhook-signature", signature),
        ]
    }
}

/// `v1,` and base64 of HMAC-SHA256 over `id.timestamp.body`; the key is the base64 after `whsec_`.
pub fn webhook_signature(secret: &str, id: &str, timestamp: &str, body: &[u8]) -> String {
    let key = STANDARD.decode(secret.trim_start_matches("whsec_")).expect("a base64 secret");
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("any length will do");
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

/// A secret as the scheme writes it.
pub fn webhook_secret(seed: u8) -> String {
    format!("whsec_{}", STANDARD.encode([seed; 32]))
}

pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A call's target with the 2014 signature.
pub fn signed_target(path: &str, params: &[(&str, &str)]) -> String {
    target(path, params, &signed_query(TOKEN))
}

pub fn target(path: &str, params: &[(&str, &str)], signature: &str) -> String {
    let mut pairs: Vec<_> = params.iter().map(|(k, v)| format!("{}={}", percent(k), percent(v))).collect();
    if !signature.is_empty() {
        pairs.push(signature.to_owned());
    }
    if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
}

/// A call may wait for its own `timeout`, and then some.
const CALL_TIMEOUT: Duration = TIMEOUT.saturating_add(Duration::from_secs(5));
