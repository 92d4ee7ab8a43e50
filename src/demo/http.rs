//! A small HTTP/1.1 server on plain threads, for the demo's business server: one thread per connection, bounded.
//!
//! It reads with the same parsers as Rainbow itself and never answers out of order. It is not on a hot path. Every read
//! has a time limit and a size limit. Called by `server`, which passes the handler in.

use crate::wire::http1::{BodyDecoder, HeadLimits, HeadScanner, REQUEST_SLOTS, RequestHead};
use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A request, with everything that the handler needs, owned.
#[derive(Debug, Default)]
pub struct Request {
    pub method: String,
    /// Still percent-encoded.
    pub path: String,
    pub query: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub content_type: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Cow<'static, [u8]>,
}

impl Response {
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Cow<'static, [u8]>>) -> Response {
        Response { status, content_type, headers: Vec::new(), body: body.into() }
    }
}

/// A running server. `stop` ends it and everything it started.
#[derive(Debug)]
pub struct HttpServer {
    pub address: SocketAddr,
    connections: Arc<Connections>,
    acceptor: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Connections {
    is_stopping: AtomicBool,
    /// The connections that are open, so that stopping can end their reads.
    streams: Mutex<HashMap<u64, TcpStream>>,
}

impl HttpServer {
    pub fn start<H>(address: SocketAddr, handler: H) -> io::Result<HttpServer>
    where
        H: Fn(&Request) -> Response + Send + Sync + 'static,
    {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let connections = Arc::new(Connections::default());
        let acceptor = thread::Builder::new().name("demo-accept".into()).spawn({
            let connections = connections.clone();
            move || accept(listener, &connections, &Arc::new(handler))
        })?;
        Ok(HttpServer { address, connections, acceptor })
    }

    pub fn stop(self) {
        self.connections.is_stopping.store(true, Ordering::SeqCst);
        // The acceptor sleeps in accept(); a connection wakes it.
        drop(TcpStream::connect(self.address));
        self.acceptor.join().expect("the acceptor does not panic");
    }
}

fn accept<H>(listener: TcpListener, connections: &Arc<Connections>, handler: &Arc<H>)
where
    H: Fn(&Request) -> Response + Send + Sync + 'static,
{
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    for number in 0u64.. {
        let accepted = listener.accept();
        if connections.is_stopping.load(Ordering::SeqCst) {
            break;
        }
        threads.retain(|thread| !thread.is_finished());
        let Ok((stream, _)) = accepted else {
            // Out of descriptors: the next try may find some, but not at once.
            thread::sleep(Duration::from_millis(50));
            continue;
        };
        if threads.len() >= CONNECTIONS_MAX {
            let _ = (&stream).write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            continue;
        }
        let Ok(handle) = stream.try_clone() else { continue };
        connections.streams.lock().expect("no thread panics with it").insert(number, handle);
        let spawned = thread::Builder::new().name("demo-http".into()).stack_size(STACK_BYTES).spawn({
            let (connections, handler) = (connections.clone(), handler.clone());
            move || {
                // However it ended, the other side sees the closed connection.
                let _ = serve(&stream, &*handler);
                let _ = stream.shutdown(Shutdown::Both);
                connections.streams.lock().expect("no thread panics with it").remove(&number);
            }
        });
        match spawned {
            Ok(thread) => threads.push(thread),
            Err(_) => drop(connections.streams.lock().expect("no thread panics with it").remove(&number)),
        }
    }
    // A worker of Rainbow in this process has copies of the descriptors that were open at its start. To close ours is
    // not enough to give the port up.
    let _ = TcpStream::from(OwnedFd::from(listener)).shutdown(Shutdown::Both);
    // An answer that is under way is written: it may be that to the order to restart.
    for stream in connections.streams.lock().expect("no thread panics with it").values() {
        let _ = stream.shutdown(Shutdown::Read);
    }
    for thread in threads {
        // A handler that panicked has lost its own connection only.
        let _ = thread.join();
    }
}

/// Answers the requests of one connection, one after the other.
fn serve(stream: &TcpStream, handler: &impl Fn(&Request) -> Response) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE_TIMEOUT))?;
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    let mut buffer = Vec::new();
    loop {
        match read_request(stream, &mut buffer)? {
            Ok((request, keep_alive)) => {
                write_response(stream, &handler(&request), request.method == "HEAD", keep_alive)?;
                if !keep_alive {
                    return Ok(());
                }
            }
            Err(status) => return write_response(stream, &Response::new(status, "text/plain", &b""[..]), false, false),
        }
    }
}

/// The next request and whether another may follow, or the status that refuses it. What was read ahead stays in
/// `buffer`.
fn read_request(mut stream: &TcpStream, buffer: &mut Vec<u8>) -> io::Result<Result<(Request, bool), u16>> {
    let mut scanner = HeadScanner::default();
    let head_len = loop {
        match scanner.advance(buffer, &HeadLimits::REQUEST) {
            Ok(Some(len)) => break len,
            Ok(None) => read_more(stream, buffer)?,
            Err(error) => return Ok(Err(error.status())),
        }
    };
    let mut slots = REQUEST_SLOTS;
    let head = match RequestHead::parse(&buffer[..head_len], &mut slots) {
        Ok(head) => head,
        Err(error) => return Ok(Err(error.status())),
    };
    let mut decoder = match BodyDecoder::new(head.framing, BODY_BYTES_MAX) {
        Ok(decoder) => decoder,
        Err(error) => return Ok(Err(error.status())),
    };
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let mut request = Request {
        method: head.method.to_owned(),
        path: head.path.to_owned(),
        query: head.query.to_owned(),
        headers: head.headers.iter().map(|(name, value)| (name.to_owned(), text(value))).collect(),
        body: Vec::new(),
    };
    let (keep_alive, expects_continue) = (head.keep_alive(), head.expects_continue());
    buffer.drain(..head_len);
    if expects_continue && buffer.is_empty() && !decoder.is_done() {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    loop {
        match decoder.advance(buffer, &mut request.body) {
            Ok(progress) => drop(buffer.drain(..progress.consumed)),
            Err(error) => return Ok(Err(error.status())),
        }
        if decoder.is_done() {
            return Ok(Ok((request, keep_alive)));
        }
        read_more(stream, buffer)?;
    }
}

/// Reads once, at least one byte; the end of the connection is an error.
pub fn read_more(mut stream: &TcpStream, buffer: &mut Vec<u8>) -> io::Result<()> {
    let mut piece = [0; 4096];
    match stream.read(&mut piece)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        len => {
            buffer.extend_from_slice(&piece[..len]);
            Ok(())
        }
    }
}

fn write_response(mut stream: &TcpStream, response: &Response, is_head: bool, keep_alive: bool) -> io::Result<()> {
    let reason = if response.status < 400 { "OK" } else { "Refused" };
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", response.status);
    for (name, value) in &response.headers {
        debug_assert!(!value.contains(['\r', '\n']), "a header is one line");
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let connection = if keep_alive { "keep-alive" } else { "close" };
    head.push_str(&format!(
        "Content-Type: {}\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
        response.content_type,
        response.body.len()
    ));
    let mut bytes = head.into_bytes();
    if !is_head {
        bytes.extend_from_slice(&response.body);
    }
    // One write: head and body in two segments would wait for each other's acknowledgement.
    stream.write_all(&bytes)
}

/// Threads at most. Rainbow has up to 64 connections per worker and closes those it does not need.
const CONNECTIONS_MAX: usize = 256;
const STACK_BYTES: usize = 256 * 1024;
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Longer than Rainbow leaves a connection to its backend idle, so that the close does not meet a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// The end of the server waits for it, too.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn echo_server() -> HttpServer {
        HttpServer::start("127.0.0.1:0".parse().unwrap(), |request| {
            let body = format!("{} {} {} {}", request.method, request.path, request.query, request.body.escape_ascii());
            Response {
                headers: vec![("X-Seen", request.header("x-sent").unwrap_or("-").into())],
                ..Response::new(200, "text/plain", body.into_bytes())
            }
        })
        .unwrap()
    }

    fn talk(address: SocketAddr, input: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(input).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    }

    #[test]
    fn requests_on_one_connection_are_answered_in_order() {
        let server = echo_server();
        let answer = talk(
            server.address,
            b"POST /a?b=c HTTP/1.1\r\nHost: x\r\nX-Sent: 1\r\nContent-Length: 2\r\n\r\nhi\
              GET /d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        );
        let (first, second) = (answer.find("POST /a b=c hi").unwrap(), answer.find("GET /d").unwrap());
        assert!(first < second && answer.contains("X-Seen: 1\r\n") && answer.contains("X-Seen: -\r\n"), "{answer}");
        server.stop();
    }

    #[test]
    fn rubbish_is_refused_and_the_connection_ends() {
        let server = echo_server();
        assert!(talk(server.address, b"GET / HTTP/1.1\n\n").starts_with("HTTP/1.1 400"));
        let large = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\n\r\n";
        assert!(talk(server.address, large).starts_with("HTTP/1.1 413"));
        server.stop();
    }

    #[test]
    fn stopping_ends_idle_connections() {
        let server = echo_server();
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut first = [0; 1];
        stream.read_exact(&mut first).unwrap();
        server.stop();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let ended = stream.read_to_end(&mut Vec::new()).map_err(|error| error.kind());
        assert!(!matches!(ended, Err(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)), "{ended:?}");
    }
}
