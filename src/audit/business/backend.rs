//! The audit's business server: it lets its own clients in, names their sessions, and notes every message forwarded.
//!
//! It has a thread per connection of Rainbow's and outlives every kill of the server. It notes each message with its
//! `Idempotency-Key` *before* the answer goes out; by the key the judge recognises a repeat, as PROTOCOL.md asks of a
//! business server that wants each message once. Started by `audit::run`.

use super::caller::read_more;
use crate::audit::ledger::{Entry, Fact, Ledger};
use crate::audit::payload::{Direction, Payload, Stream, answer_to, checksum};
use crate::audit::progress::{Phase, count};
use crate::audit::run::Run;
use crate::base::rng::Rng;
use crate::wire::http1::{BodyDecoder, HeadLimits, HeadScanner, REQUEST_SLOTS, RequestHead, query_get};
use crate::wire::packet::QoS;
use crate::wire::sign::{Signed2014, verify_2014};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

pub struct Backend {
    pub address: SocketAddr,
    inner: Arc<Inner>,
    acceptor: JoinHandle<()>,
}

struct Inner {
    run: Arc<Run>,
    ledger: Mutex<Ledger>,
    rng: Mutex<Rng>,
    is_stopping: AtomicBool,
    streams: Mutex<HashMap<u64, TcpStream>>,
}

/// What a business server does wrong at times; Rainbow must forward the message again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stumble {
    Refuses,
    TakesSilently,
}

impl Backend {
    pub fn start(listener: TcpListener, run: Arc<Run>) -> io::Result<Backend> {
        let address = listener.local_addr()?;
        let ledger = Mutex::new(Ledger::create(&run.options.ledger, "backend", run.options.plant)?);
        let rng = Mutex::new(Rng::new(run.options.seed ^ 0xB0));
        let (is_stopping, streams) = (AtomicBool::new(false), Mutex::default());
        let inner = Arc::new(Inner { run, ledger, rng, is_stopping, streams });
        let acceptor = spawn("audit-accept", {
            let inner = inner.clone();
            move || accept(&listener, &inner)
        })?;
        Ok(Backend { address, inner, acceptor })
    }

    pub fn stop(self) {
        self.inner.is_stopping.store(true, Ordering::SeqCst);
        // The acceptor sleeps in accept(); a connection wakes it.
        drop(TcpStream::connect(self.address));
        self.acceptor.join().expect("the acceptor does not panic");
    }
}

fn accept(listener: &TcpListener, inner: &Arc<Inner>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    for number in 0u64.. {
        let accepted = listener.accept();
        if inner.is_stopping.load(Ordering::SeqCst) {
            break;
        }
        threads.retain(|thread| !thread.is_finished());
        let Ok((stream, _)) = accepted else { continue };
        let Ok(handle) = stream.try_clone() else { continue };
        inner.streams.lock().expect("no thread panics with it").insert(number, handle);
        let serving = inner.clone();
        let spawned = spawn("audit-hook", move || {
            // However it ended, Rainbow sees the closed connection.
            let _ = serving.serve(&stream);
            let _ = stream.shutdown(Shutdown::Both);
            serving.streams.lock().expect("no thread panics with it").remove(&number);
        });
        threads.extend(spawned);
    }
    for stream in inner.streams.lock().expect("no thread panics with it").values() {
        let _ = stream.shutdown(Shutdown::Both);
    }
    threads.into_iter().for_each(|thread| drop(thread.join()));
}

impl Inner {
    fn serve(&self, mut stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let (mut buffer, mut body, mut out) = (Vec::new(), Vec::new(), Vec::new());
        let rubbish = || io::Error::from(io::ErrorKind::InvalidData);
        loop {
            let mut scanner = HeadScanner::default();
            let head_len = loop {
                match scanner.advance(&buffer, &HeadLimits::REQUEST).map_err(|_| rubbish())? {
                    Some(len) => break len,
                    None => read_more(&mut stream, &mut buffer)?,
                }
            };
            let head_bytes: Vec<u8> = buffer.drain(..head_len).collect();
            let mut slots = REQUEST_SLOTS;
            let head = RequestHead::parse(&head_bytes, &mut slots).map_err(|_| rubbish())?;
            let mut decoder = BodyDecoder::new(head.framing, BODY_BYTES_MAX).map_err(|_| rubbish())?;
            body.clear();
            loop {
                let progress = decoder.advance(&buffer, &mut body).map_err(|_| rubbish())?;
                buffer.drain(..progress.consumed);
                if decoder.is_done() {
                    break;
                }
                read_more(&mut stream, &mut buffer)?;
            }
            let stumble = self.stumble(&head);
            if stumble == Some(Stumble::Refuses) {
                stream.write_all(b"HTTP/1.1 500 Stumbled\r\nContent-Length: 0\r\n\r\n")?;
                continue;
            }
            let (headers, answer) = self.answer(&head, &body);
            if stumble == Some(Stumble::TakesSilently) {
                return Ok(());
            }
            out.clear();
            write!(out, "HTTP/1.1 200 OK\r\n{headers}Content-Length: {}\r\n\r\n{answer}", answer.len())?;
            stream.write_all(&out)?;
        }
    }

    fn stumble(&self, head: &RequestHead<'_>) -> Option<Stumble> {
        let Run { options, progress, .. } = &*self.run;
        if options.stumbles_percent == 0 || progress.phase() != Phase::Running || !head.path.starts_with("/message/") {
            return None;
        }
        let mut rng = self.rng.lock().expect("no thread panics with it");
        let kind = if rng.chance(50) { Stumble::Refuses } else { Stumble::TakesSilently };
        rng.chance(options.stumbles_percent).then_some(kind)
    }

    /// Headers, each with its line end, and the body.
    fn answer(&self, head: &RequestHead<'_>, body: &[u8]) -> (String, String) {
        if !self.is_signed(head) {
            return ("RAINBOWREQUESTINVALID: 60001\r\n".into(), r#"{"status":"error"}"#.into());
        }
        if head.path.starts_with("/message/") {
            return (String::new(), self.message(head, body));
        }
        let name = text(head, "X-DEVICEID");
        if head.path.starts_with("/connect") && name.starts_with(&self.run.prefix()) {
            let attempt = query_get(head.query, "attempt").and_then(|attempt| attempt.parse().ok());
            let identity = text(head, "RAINBOWCLIENTIDENTITY");
            attempt.into_iter().for_each(|attempt| self.run.closes.answered(attempt, identity));
            let (expiry, cookie) = (SESSION_EXPIRY_S, STANDARD.encode(name));
            let session = format!("RAINBOWCLIENTSESSION: {name}\r\nRAINBOWCLIENTSESSIONEXPIRY: {expiry}\r\n");
            let session = if self.run.options.channels { String::new() } else { session };
            let rest = format!("RAINBOWCLIENTCHANNEL: {name}\r\nRAINBOWCLIENTCOOKIE: {cookie}\r\n");
            return (session + &rest, r#"{"status":"success"}"#.into());
        }
        if head.path.starts_with("/close/") {
            self.run.closes.heard(text(head, "RAINBOWCLIENTIDENTITY"), text(head, "Idempotency-Key"));
        }
        // And clients that are not the audit's.
        (String::new(), r#"{"status":"error"}"#.into())
    }

    /// Notes a client's message, and answers with what the client can check.
    fn message(&self, head: &RequestHead<'_>, body: &[u8]) -> String {
        let key = text(head, "Idempotency-Key");
        let key = if key.is_empty() { 0 } else { checksum(key.as_bytes()) };
        let unknown = Stream { direction: Direction::Up, qos: QoS::AtMostOnce, session: 0 };
        let (entry, answer) = match Payload::read(body) {
            Ok(Payload { run, stream, sequence }) if run == self.run.number && stream.direction == Direction::Up => {
                let cookie = STANDARD.encode(self.run.session_name(stream.session));
                let known = text(head, "RAINBOWCLIENTCOOKIE") == cookie;
                let fact = if known { Fact::Delivered } else { Fact::Corrupted };
                (Entry { fact, stream, sequence, key }, answer_to(sequence))
            }
            Ok(_) => (Entry { fact: Fact::Delivered, stream: unknown, sequence: u64::MAX, key }, String::new()),
            Err(_) => (Entry { fact: Fact::Corrupted, stream: unknown, sequence: 0, key }, String::new()),
        };
        let mut ledger = self.ledger.lock().expect("no thread panics with it");
        ledger.note(entry);
        ledger.flush();
        drop(ledger);
        count(&self.run.progress.up.delivered);
        answer
    }

    fn is_signed(&self, head: &RequestHead<'_>) -> bool {
        let get = |name: &str| query_get(head.query, name).unwrap_or_default();
        let (timestamp, nonce, signature) = (get("timestamp"), get("nonce"), get("signature"));
        let signed = Signed2014 { timestamp: &timestamp, nonce: &nonce, signature: &signature };
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let token = &self.run.options.token;
        token.is_empty() || verify_2014(token.expose(), signed, now_s, SIGNATURE_WINDOW_S).is_ok()
    }
}

fn text<'a>(head: &RequestHead<'a>, name: &str) -> &'a str {
    head.headers.get_text(name).unwrap_or_default()
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(work)
}

pub const STACK_BYTES: usize = 256 * 1024;
const BODY_BYTES_MAX: usize = 1 << 20;
/// Longer than any run.
const SESSION_EXPIRY_S: u64 = 6 * 3600;
const SIGNATURE_WINDOW_S: u64 = 30;
