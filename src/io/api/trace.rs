//! `GET /trace/`: follows a connection, a session, a channel or a user of this node, for a minute at most, and writes a
//! line of JSON for each message and each acknowledgement.
//!
//! The response is one stream of entries, so that nothing has to be kept for a caller who may come back or not; it ends
//! with its time, with the caller, or with the server's drain. While it lasts, each shard looks at each packet once
//! more; without a trace that costs it one look at an empty list.

use super::query;
use crate::base::id::Identity;
use crate::base::time::Tick;
use crate::io::http::connection::HttpConnection;
use crate::io::http::response::ResponseForm;
use crate::io::runtime::clock;
use crate::io::worker::calls::traces::TraceReader;
use crate::io::worker::shared::TracePlace;
use crate::io::worker::turn::Worker;
use crate::policy::api::{self, NAME_BYTES_MAX, Refusal};
use crate::shard::channel::user::{channel_of, user_of};
use crate::shard::{CHANNEL_NAME_MAX, Happening, Query, SeenMessage, TraceEntry, TraceTarget, TraceTerms};
use crate::wire::http1::query_get;
use serde_json::{Value, json};
use std::rc::Rc;

/// A trace that has begun.
pub struct OpenTrace {
    reader: TraceReader,
    ends: Tick,
    _place: TracePlace,
}

/// Begins it in all shards.
pub async fn begin(worker: &Rc<Worker>, query: &str) -> Result<OpenTrace, Refusal> {
    let (target, seconds) = read(query)?;
    let place = worker.shared().take_trace_place().ok_or(Refusal::TooManyTraces)?;
    let (reader, ends) = (worker.calls().traces().open(), worker.now() + seconds * 1000);
    let terms = TraceTerms { target, ends, body_bytes: worker.rules().config().traces.trace_body_bytes };
    let trace = Query::Trace { id: reader.id(), terms };
    query::query(worker, worker.shared().workers(), trace).await?;
    Ok(OpenTrace { reader, ends, _place: place })
}

fn read(query: &str) -> Result<(TraceTarget, u64), Refusal> {
    let get = |name: &str| query_get(query, name).filter(|value| !value.is_empty());
    let target = match (get("identity"), get("session"), get("channel"), get("user")) {
        (Some(identity), None, None, None) => {
            TraceTarget::Identity(Identity::from_hex(identity.as_bytes()).ok_or(Refusal::BadIdentity)?)
        }
        (None, Some(_), None, None) => TraceTarget::Session((*api::session_name(query)?).into()),
        (None, None, Some(channel), None) => match channel.len() <= CHANNEL_NAME_MAX && user_of(&channel).is_none() {
            true => TraceTarget::Channel((*channel).into()),
            false => return Err(Refusal::BadChannel),
        },
        (None, None, None, Some(user)) if user.len() <= NAME_BYTES_MAX => {
            TraceTarget::Channel(channel_of(&user).into())
        }
        (None, None, None, Some(_)) => return Err(Refusal::BadUser),
        _ => return Err(Refusal::NoTraceTarget),
    };
    let seconds = match get("seconds") {
        None => SECONDS_MAX,
        Some(seconds) => seconds.parse().ok().filter(|s| (1..=SECONDS_MAX).contains(s)).ok_or(Refusal::BadSeconds)?,
    };
    Ok((target, seconds))
}

/// Writes entries until the trace ends. The connection is of no more use afterwards.
pub async fn stream(worker: &Rc<Worker>, connection: &mut HttpConnection, trace: OpenTrace, form: &ResponseForm) {
    let mut body = Chunks { is_chunked: !form.is_http_1_0, out: Vec::new() };
    body.head(form);
    let mut lost = 0;
    while connection.write_piece(&mut body.out).await && !form.is_head {
        let now = worker.now();
        if now >= trace.ends || worker.shared().is_draining() {
            body.entry(&json!({"what": "end", "at_ms": clock::unix_ms().0, "lost": lost}).to_string());
            body.end();
            connection.write_piece(&mut body.out).await;
            break;
        }
        trace.reader.wait(trace.ends.min(now + SIGN_OF_LIFE_MS)).await;
        let (entries, missed) = trace.reader.take();
        lost += missed;
        let unix_at_zero = clock::unix_ms().0.saturating_sub(worker.now().0);
        for entry in entries {
            lost += u64::from(entry.lost);
            body.entry(&shown(&entry, unix_at_zero, lost).to_string());
        }
        if body.out.is_empty() {
            // Whoever has gone is noticed by a write.
            body.entry("");
        }
    }
    let _ = query::query(worker, worker.shared().workers(), Query::EndTrace { id: trace.reader.id() }).await;
}

/// The response as it is written: in chunks, or to its end where the caller knows no chunks.
struct Chunks {
    is_chunked: bool,
    out: Vec<u8>,
}

impl Chunks {
    fn head(&mut self, form: &ResponseForm) {
        self.out.extend_from_slice(HEAD);
        if self.is_chunked {
            self.out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        if let Some(id) = &form.request_id {
            self.out.extend_from_slice(b"X-Request-Id: ");
            id.write(&mut self.out);
            self.out.extend_from_slice(b"\r\n");
        }
        self.out.extend_from_slice(b"\r\n");
    }

    fn entry(&mut self, entry: &str) {
        if self.is_chunked {
            self.out.extend_from_slice(format!("{:x}\r\n", entry.len() + 1).as_bytes());
        }
        self.out.extend_from_slice(entry.as_bytes());
        self.out.push(b'\n');
        if self.is_chunked {
            self.out.extend_from_slice(b"\r\n");
        }
    }

    fn end(&mut self) {
        if self.is_chunked {
            self.out.extend_from_slice(b"0\r\n\r\n");
        }
    }
}

/// What is not known is left out.
fn shown(entry: &TraceEntry, unix_at_zero: u64, lost: u64) -> Value {
    let TraceEntry { at, seen, identity, session, user, .. } = entry;
    let mut value = json!({"at_ms": unix_at_zero + at.0, "what": name(seen.what), "lost": lost});
    let mut put = |name: &str, known: Option<Value>| {
        if let Some(known) = known {
            value[name] = known;
        }
    };
    put("identity", identity.map(|identity| identity.to_string().into()));
    put("session", session.as_deref().map(Value::from));
    put("user", user.as_deref().map(Value::from));
    if let Some(SeenMessage { message_type, qos, id, dup, bytes, body }) = &seen.message {
        put("type", message_type.map(Value::from));
        put("qos", qos.map(|qos| (qos as u8).into()));
        put("id", id.map(|id| id.0.into()));
        put("dup", dup.then_some(Value::Bool(true)));
        put("bytes", Some((*bytes).into()));
        put("body", (!body.is_empty()).then(|| String::from_utf8_lossy(body).into()));
    }
    value
}

fn name(what: Happening) -> &'static str {
    match what {
        Happening::Opened => "opened",
        Happening::Closed => "closed",
        Happening::FromClient => "from_client",
        Happening::Answered => "answered",
        Happening::Refused => "refused",
        Happening::Failed => "failed",
        Happening::ToClient => "to_client",
        Happening::Acknowledged => "acknowledged",
        Happening::Called => "called",
    }
}

/// Of one trace.
const SECONDS_MAX: u64 = 60;
const SIGN_OF_LIFE_MS: u64 = 1_000;
const HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nCache-Control: no-store\r\nConnection: close\r\n";
