//! The business server's calls: POST /send/, one after the other per stream, many streams at once.
//!
//! A call with a `message_id` is repeated with that id until it is answered: it counts as one call, however often the
//! connection or the server died meanwhile. A call without an id is made once; when its answer is lost, its outcome is
//! not known and the audit claims nothing about it. Started by `audit::run`, a few streams per thread.

use crate::audit::ledger::{Entry, Fact, Ledger};
use crate::audit::payload::{DOWN_TYPE, Direction, Payload, Stream};
use crate::audit::progress::{Phase, count};
use crate::audit::run::Run;
use crate::base::rng::Rng;
use crate::wire::http1::{BodyDecoder, HeadLimits, HeadScanner, RESPONSE_SLOTS, ResponseHead};
use crate::wire::sign::sign_2014;
use serde::Deserialize;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub struct Caller {
    run: Arc<Run>,
    ledger: Ledger,
    rng: Rng,
    connection: Option<TcpStream>,
    /// Each with its next sequence.
    streams: Vec<(Stream, u64)>,
}

/// What Rainbow answers to /send/.
#[derive(Debug, Default, Deserialize)]
struct Sent {
    status: i64,
    #[serde(default)]
    connections: u64,
    #[serde(default)]
    stored: u64,
    #[serde(default)]
    msg: String,
}

/// How one call is made. A repeat is made the same way.
#[derive(Clone, Copy)]
struct Call {
    stream: Stream,
    sequence: u64,
    named: bool,
    by_channel: bool,
}

impl Caller {
    pub fn new(run: Arc<Run>, number: usize, streams: Vec<Stream>) -> io::Result<Caller> {
        let ledger = Ledger::create(&run.options.ledger, &format!("caller-{number}"), None)?;
        let rng = Rng::new(run.options.seed ^ (number as u64 + 1) << 48);
        count(&run.progress.senders);
        let streams = streams.into_iter().map(|stream| (stream, 0)).collect();
        Ok(Caller { run, ledger, rng, connection: None, streams })
    }

    pub fn run(mut self) {
        while self.run.progress.phase() == Phase::Opening {
            thread::sleep(PAUSE);
        }
        let quota = self.run.quota();
        while !self.streams.is_empty() && self.run.progress.phase() == Phase::Running {
            for position in 0..self.streams.len() {
                let (stream, sequence) = self.streams[position];
                // Without a store Rainbow refuses a `message_id`.
                let durable = !self.run.options.channels;
                let named = durable && self.rng.below(100) >= self.run.options.plain_percent;
                let by_channel = self.run.options.channels || self.rng.chance(BY_CHANNEL_PERCENT);
                self.send(Call { stream, sequence, named, by_channel });
                self.streams[position].1 += 1;
            }
            self.streams.retain(|(_, sequence)| *sequence < quota);
        }
        self.run.progress.senders.fetch_sub(1, Ordering::Relaxed);
    }

    /// One message, until it is answered, or may not be repeated, or has been refused for too long.
    fn send(&mut self, call: Call) {
        self.note(Fact::Tried, call);
        count(&self.run.progress.down.tried);
        let mut refused_since = None;
        for attempt in 0u32.. {
            let answer = self.call(call);
            let progress = &self.run.progress;
            match answer {
                Ok(sent) if sent.status == 0 && sent.connections + sent.stored > 0 => {
                    progress.connections.fetch_add(sent.connections, Ordering::Relaxed);
                    progress.stored.fetch_add(sent.stored, Ordering::Relaxed);
                    progress.acknowledged_down(call.stream.session, call.stream.qos, call.sequence);
                    return self.note(Fact::Acknowledged, call);
                }
                Ok(sent) => {
                    count(&progress.calls_refused);
                    let reason = if sent.msg.is_empty() { "it reached nobody" } else { &sent.msg };
                    progress.complain(format!("a call to session {} was refused: {reason}", call.stream.session));
                    let since = *refused_since.get_or_insert_with(Instant::now);
                    // Another node may do it.
                    if self.run.options.targets.len() > 1 {
                        self.connection = None;
                    }
                    if !call.named || since.elapsed() > REFUSED_MAX {
                        count(&progress.calls_given_up);
                        return;
                    }
                }
                Err(error) => {
                    self.connection = None;
                    let silent = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
                    count(if silent { &progress.calls_silent } else { &progress.calls_broken });
                    // A connection that could not even be made has sent nothing.
                    let sent_nothing = error.kind() == io::ErrorKind::ConnectionRefused;
                    if !call.named && !sent_nothing || progress.phase() == Phase::Over {
                        return;
                    }
                }
            }
            let pause = (PAUSE * (1 + attempt)).min(PAUSE_MAX);
            thread::sleep(pause.mul_f64(0.5 + self.rng.below(100) as f64 / 100.0));
        }
    }

    fn call(&mut self, call: Call) -> io::Result<Sent> {
        if self.connection.is_none() {
            self.connection = Some(self.connect()?);
        }
        let request = self.request(call);
        self.ledger.flush();
        let stream = self.connection.as_mut().expect("just made");
        stream.write_all(&request)?;
        let (status, body) = read_answer(stream)?;
        // What is not JSON (a proxy's page, a 401) is a refusal too.
        let unreadable = |_| Sent { status: 1, msg: format!("HTTP {status}"), ..Sent::default() };
        Ok(serde_json::from_slice(&body).unwrap_or_else(unreadable))
    }

    fn connect(&mut self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.run.target(&mut self.rng), Duration::from_secs(3))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(stream)
    }

    fn request(&self, call: Call) -> Vec<u8> {
        let Call { stream, sequence, named, by_channel } = call;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (timestamp, nonce) = (now.as_secs().to_string(), now.subsec_nanos().to_string());
        let signature = sign_2014(self.run.options.token.expose(), &timestamp, &nonce);
        let (target, name) = (if by_channel { "channel" } else { "session" }, self.run.session_name(stream.session));
        let qos = stream.qos as u8;
        let message_id = if named { format!("&message_id={name}-{qos}-{sequence}") } else { String::new() };
        let mut body = Vec::new();
        Payload { run: self.run.number, stream, sequence }.write_into(&mut body);
        let mut request = format!(
            "POST /send/?{target}={name}&msgtype={DOWN_TYPE}&qos={qos}&timeout={SEND_TIMEOUT_S}{message_id}\
             &timestamp={timestamp}&nonce={nonce}&signature={} HTTP/1.1\r\nHost: audit\r\nContent-Length: {}\r\n\r\n",
            signature.escape_ascii(),
            body.len(),
        )
        .into_bytes();
        request.extend_from_slice(&body);
        request
    }

    fn note(&mut self, fact: Fact, call: Call) {
        self.ledger.note(Entry { fact, stream: call.stream, sequence: call.sequence, key: 0 });
        self.ledger.flush();
    }
}

/// The streams of a run, spread over threads.
pub fn streams_per_thread(run: &Run) -> Vec<Vec<Stream>> {
    let sessions = 0..run.options.sessions;
    let qos = run.options.qos.iter();
    let all: Vec<Stream> = qos
        .flat_map(|qos| sessions.clone().map(|session| Stream { direction: Direction::Down, qos: *qos, session }))
        .collect();
    let threads = all.len().min(THREADS_MAX);
    (0..threads).map(|thread| all.iter().copied().skip(thread).step_by(threads).collect()).collect()
}

fn read_answer(stream: &mut TcpStream) -> io::Result<(u16, Vec<u8>)> {
    let rubbish = |error: &dyn std::error::Error| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let (mut buffer, mut scanner) = (Vec::new(), HeadScanner::default());
    let head_len = loop {
        match scanner.advance(&buffer, &HeadLimits::RESPONSE).map_err(|error| rubbish(&error))? {
            Some(len) => break len,
            None => read_more(stream, &mut buffer)?,
        }
    };
    let mut slots = RESPONSE_SLOTS;
    let head = ResponseHead::parse(&buffer[..head_len], &mut slots).map_err(|error| rubbish(&error))?;
    let status = head.status;
    let mut decoder = BodyDecoder::new(head.framing, ANSWER_BYTES_MAX).map_err(|error| rubbish(&error))?;
    buffer.drain(..head_len);
    let mut body = Vec::new();
    loop {
        decoder.advance(&buffer, &mut body).map_err(|error| rubbish(&error))?;
        if decoder.is_done() {
            return Ok((status, body));
        }
        buffer.clear();
        read_more(stream, &mut buffer)?;
    }
}

/// Reads once and appends; the end of the stream is an error.
pub fn read_more(stream: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<()> {
    let mut piece = [0; 16 * 1024];
    match stream.read(&mut piece)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        len => {
            buffer.extend_from_slice(&piece[..len]);
            Ok(())
        }
    }
}

/// One call in four names the session's channel in place of the session.
const BY_CHANNEL_PERCENT: u64 = 25;
const SEND_TIMEOUT_S: u64 = 8;
/// Longer than Rainbow may take, so that no answer is given up that could still come.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(SEND_TIMEOUT_S + 22);
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// A message that is refused for so long is given up: it was never acknowledged.
const REFUSED_MAX: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(250);
const THREADS_MAX: usize = 256;
