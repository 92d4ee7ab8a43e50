//! Calls Rainbow's control API: messages to rooms wait in a bounded queue for a few threads that POST to /send/.
//!
//! Hooks must not call /send/ themselves: Rainbow keeps the order of one client's messages, so a hook that waited for
//! that client to acknowledge would wait for itself. A call that fails is tried again a few times, then given up:
//! pages read the history whenever they connect. Called by `hooks`.

use super::http::read_more;
use crate::base::secret::Secret;
use crate::wire::http1::{BodyDecoder, HeadLimits, HeadScanner, RESPONSE_SLOTS, ResponseHead, percent_encode_into};
use crate::wire::sign::sign_2014;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Who gets a message.
#[derive(Debug)]
pub enum Receiver {
    Channel(String),
    Session(String),
}

/// One message.
#[derive(Debug)]
pub struct Call {
    pub to: Receiver,
    pub message_type: u16,
    /// 0: a client that is away does not get the message later.
    pub qos: u8,
    pub body: String,
}

/// Where Rainbow listens, and the token that calls are signed with.
#[derive(Clone, Debug)]
pub struct Target {
    pub port: u16,
    pub token: Secret,
}

/// The queue and its threads.
#[derive(Debug)]
pub struct Caller {
    queue: SyncSender<Call>,
    is_stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Caller {
    pub fn start(target: &Target) -> io::Result<Caller> {
        let (queue, calls) = sync_channel(QUEUE_MAX);
        let (calls, is_stopping) = (Arc::new(Mutex::new(calls)), Arc::new(AtomicBool::new(false)));
        let threads = (0..THREADS)
            .map(|_| {
                let (calls, target, is_stopping) = (calls.clone(), target.clone(), is_stopping.clone());
                thread::Builder::new().name("demo-call".into()).spawn(move || work(&calls, &target, &is_stopping))
            })
            .collect::<io::Result<_>>()?;
        Ok(Caller { queue, is_stopping, threads })
    }

    /// A sender for the handler of hooks.
    pub fn sender(&self) -> CallSender {
        CallSender(self.queue.clone())
    }

    /// Ends the threads after the calls that they are in; calls that still wait are dropped. Every `CallSender` must be
    /// dropped before.
    pub fn stop(self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        drop(self.queue);
        for thread in self.threads {
            thread.join().expect("calling does not panic");
        }
    }
}

/// The queue is full: the hook answers 503, and Rainbow calls it again later.
#[derive(Debug)]
pub struct QueueFull;

#[derive(Clone, Debug)]
pub struct CallSender(pub(super) SyncSender<Call>);

impl CallSender {
    pub fn push(&self, call: Call) -> Result<(), QueueFull> {
        match self.0.try_send(call) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(QueueFull),
        }
    }
}

fn work(calls: &Mutex<mpsc::Receiver<Call>>, target: &Target, is_stopping: &AtomicBool) {
    let mut connection = None;
    loop {
        let next = calls.lock().expect("no thread panics with it").recv();
        let Ok(call) = next else { return };
        if is_stopping.load(Ordering::Relaxed) {
            continue;
        }
        // The first failure may be no more than an idle connection that Rainbow has closed.
        let outcome = (0..ATTEMPTS_MAX).find_map(|attempt| {
            thread::sleep(RETRY_PAUSE * attempt);
            send(&mut connection, target, &call).inspect_err(|_| connection = None).ok()
        });
        match outcome {
            Some(200) => {}
            Some(status) => tracing::warn!(status, to = ?call.to, "rainbow refused a call of the demo"),
            None => tracing::warn!(port = target.port, to = ?call.to, "rainbow cannot be reached by the demo"),
        }
    }
}

/// One POST /send/ over a connection that is reused for the next; returns the status.
fn send(connection: &mut Option<TcpStream>, target: &Target, call: &Call) -> io::Result<u16> {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => connect(target.port)?,
    };
    stream.write_all(&request(target, call))?;
    let (status, keep_alive) = read_answer(&stream)?;
    if keep_alive {
        *connection = Some(stream);
    }
    Ok(status)
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    // Rainbow answers when every client has, or after the call's own timeout.
    stream.set_read_timeout(Some(Duration::from_secs(SEND_TIMEOUT_S + 5)))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    Ok(stream)
}

fn request(target: &Target, call: &Call) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (timestamp, nonce) = (now.as_secs().to_string(), now.subsec_nanos().to_string());
    let signature = sign_2014(target.token.expose(), &timestamp, &nonce);
    let (parameter, name) = match &call.to {
        Receiver::Channel(name) => ("channel", name),
        Receiver::Session(name) => ("session", name),
    };
    let mut bytes = format!("POST /send/?{parameter}=").into_bytes();
    percent_encode_into(&mut bytes, name);
    bytes.extend_from_slice(
        format!(
            "&msgtype={}&qos={}&timeout={SEND_TIMEOUT_S}&timestamp={timestamp}&nonce={nonce}&signature={} HTTP/1.1\r\n\
             Host: 127.0.0.1:{}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}",
            call.message_type,
            call.qos,
            signature.escape_ascii(),
            target.port,
            call.body.len(),
            call.body,
        )
        .as_bytes(),
    );
    bytes
}

fn read_answer(stream: &TcpStream) -> io::Result<(u16, bool)> {
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
    let (status, keep_alive) = (head.status, head.keep_alive());
    let mut decoder = BodyDecoder::new(head.framing, ANSWER_BYTES_MAX).map_err(|error| rubbish(&error))?;
    buffer.drain(..head_len);
    let mut body = Vec::new();
    loop {
        decoder.advance(&buffer, &mut body).map_err(|error| rubbish(&error))?;
        if decoder.is_done() || !keep_alive {
            // A body that ends with its connection is nothing that we would read.
            return Ok((status, keep_alive));
        }
        buffer.clear();
        read_more(stream, &mut buffer)?;
    }
}

/// Calls that wait. When there are more, hooks answer 503 and Rainbow calls them again later.
const QUEUE_MAX: usize = 1024;
/// A silent client delays one call until its timeout; the other threads go on.
const THREADS: usize = 4;
const SEND_TIMEOUT_S: u64 = 5;
const ATTEMPTS_MAX: u32 = 3;
const RETRY_PAUSE: Duration = Duration::from_millis(200);
const ANSWER_BYTES_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::super::http::{HttpServer, Response};
    use super::*;
    use crate::wire::http1::query_get;
    use crate::wire::sign::{Signed2014, verify_2014};
    use std::sync::mpsc::channel;

    #[test]
    fn calls_arrive_signed_and_in_full() {
        let (seen, arrivals) = channel();
        let rainbow = HttpServer::start("127.0.0.1:0".parse().unwrap(), move |request| {
            let get = |name: &str| query_get(&request.query, name).unwrap_or_default().into_owned();
            let (timestamp, nonce, signature) = (get("timestamp"), get("nonce"), get("signature"));
            let signed = Signed2014 { timestamp: &timestamp, nonce: &nonce, signature: &signature };
            let valid = verify_2014("secret", signed, timestamp.parse().unwrap(), 10).is_ok();
            let body = String::from_utf8(request.body.clone()).unwrap();
            seen.send((request.path.clone(), get("channel"), get("msgtype"), get("qos"), body, valid)).unwrap();
            Response::new(200, "application/json", &b"{\"status\":0}"[..])
        })
        .unwrap();
        let caller = Caller::start(&Target { port: rainbow.address.port(), token: "secret".into() }).unwrap();
        let sender = caller.sender();
        for number in 0..3 {
            let body = format!("{{\"n\":\"ä{number}\"}}");
            sender
                .push(Call { to: Receiver::Channel("room:a b&c".into()), message_type: 7, qos: number % 3, body })
                .unwrap();
        }
        let mut bodies: Vec<(String, String)> = (0..3)
            .map(|_| {
                let (path, channel, message_type, qos, body, valid) = arrivals.recv().unwrap();
                assert_eq!((path.as_str(), channel.as_str(), message_type.as_str()), ("/send/", "room:a b&c", "7"));
                assert!(valid);
                (qos, body)
            })
            .collect();
        drop(sender);
        caller.stop();
        bodies.sort();
        let expected = [0, 1, 2].map(|number| (number.to_string(), format!("{{\"n\":\"ä{number}\"}}")));
        assert_eq!(bodies, expected);
        rainbow.stop();
    }
}
