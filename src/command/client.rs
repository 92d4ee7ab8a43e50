//! One HTTP request over one connection, with a deadline for each part.

use super::exit::CommandError;
use super::request::Request;
use super::server::Server;
use crate::wire::http1::{BodyDecoder, HeadLimits, HeadScanner, RESPONSE_SLOTS, ResponseHead};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// What the server answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

pub fn call(server: &Server, request: &Request) -> Result<Answer, CommandError> {
    call_within(server, request, server.answer_timeout(request))
}

/// The answer has to be whole in that time.
pub fn call_within(server: &Server, request: &Request, timeout: Duration) -> Result<Answer, CommandError> {
    let mut body = Vec::new();
    let status = stream(server, request, timeout, |_, piece| {
        body.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(Answer { status, body })
}

/// Hands the body to `take` piece by piece, as it comes; returns the status.
pub fn stream(
    server: &Server,
    request: &Request,
    timeout: Duration,
    take: impl FnMut(u16, &[u8]) -> io::Result<()>,
) -> Result<u16, CommandError> {
    let mut stream = connect(server).map_err(|error| CommandError::Unreachable { server: server.name(), error })?;
    let mut bytes = server.head(request).into_bytes();
    bytes.extend_from_slice(&request.body);
    // A server that refuses a body by its head answers and closes, while we still write.
    let written = stream.set_write_timeout(Some(WRITE_TIMEOUT)).and_then(|()| stream.write_all(&bytes));
    let end = Instant::now() + timeout;
    read_answer(&mut stream, end, take)
        .map_err(|error| CommandError::Unanswered { server: server.name(), error: written.err().unwrap_or(error) })
}

/// The first of the name's addresses that accepts.
fn connect(server: &Server) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in server.host_and_port().to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn read_answer(
    stream: &mut TcpStream,
    end: Instant,
    mut take: impl FnMut(u16, &[u8]) -> io::Result<()>,
) -> io::Result<u16> {
    let rubbish = |error: &dyn std::error::Error| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let (mut buffer, mut scanner) = (Vec::new(), HeadScanner::default());
    let head_len = loop {
        match scanner.advance(&buffer, &HeadLimits::RESPONSE).map_err(|error| rubbish(&error))? {
            Some(len) => break len,
            None if read_more(stream, end, &mut buffer)? == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            None => {}
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
        take(status, &body)?;
        body.clear();
        if decoder.is_done() {
            return Ok(status);
        }
        buffer.clear();
        if read_more(stream, end, &mut buffer)? == 0 {
            decoder.finish().map_err(|error| rubbish(&error))?;
            return Ok(status);
        }
    }
}

/// Reads once and appends; 0 at the end of the stream.
fn read_more(stream: &mut TcpStream, end: Instant, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    stream.set_read_timeout(Some(left))?;
    let mut piece = [0; 16 * 1024];
    let len = match stream.read(&mut piece) {
        // What Linux says at the timeout.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
        read => read?,
    };
    buffer.extend_from_slice(&piece[..len]);
    Ok(len)
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// /info/ of many workers, and a page of 10,000 members, with room.
const ANSWER_BYTES_MAX: usize = 64 << 20;
