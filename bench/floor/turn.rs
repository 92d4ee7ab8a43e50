//! The loop under every floor: accept, read once, hand on. What a floor does with it is its own file.

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::sys::{self, Epoll};
use crate::ws;

/// A floor. Descriptors are sockets of the loop; writing to one is all that is done with them.
pub trait Floor {
    /// A connection was upgraded; `request` is its head.
    fn on_upgrade(&mut self, _fd: RawFd, _request: &[u8]) {}
    fn on_close(&mut self, _fd: RawFd) {}
    /// Bytes of an upgraded connection, as they came.
    fn on_bytes(&mut self, _fd: RawFd, _bytes: &[u8]) {}
    /// A POST, head and body.
    fn on_post(&mut self, _fd: RawFd, _head: &[u8], _body: &[u8]) {}
    /// Everything that epoll reported has been read.
    fn on_turn_end(&mut self) {}
}

struct Conn {
    socket: OwnedFd,
    upgraded: bool,
}

pub fn run(port: u16, mut floor: impl Floor) -> io::Result<()> {
    sys::raise_nofile();
    let listener = sys::listen(port)?;
    let mut epoll = Epoll::new()?;
    epoll.add_input(listener.as_raw_fd(), listener.as_raw_fd() as u64)?;
    // By descriptor: the kernel hands out the lowest free one.
    let mut conns: Vec<Option<Conn>> = Vec::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        for index in 0..epoll.wait(1_000_000_000)? {
            let event = epoll.event(index);
            let fd = event.tag as RawFd;
            if fd == listener.as_raw_fd() {
                accept_all(&listener, &epoll, &mut conns)?;
                continue;
            }
            while let Some(conn) = &mut conns[fd as usize] {
                match sys::recv(fd, &mut buffer) {
                    Ok(count) if count > 0 => handle(&mut floor, conn, &buffer[..count]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    _ => {
                        floor.on_close(fd);
                        conns[fd as usize] = None;
                    }
                }
                // Edge-triggered: a short read says that nothing is left, unless the peer has ended too.
                if !event.ended {
                    break;
                }
            }
        }
        floor.on_turn_end();
    }
}

fn accept_all(listener: &OwnedFd, epoll: &Epoll, conns: &mut Vec<Option<Conn>>) -> io::Result<()> {
    loop {
        let socket = match sys::accept(listener) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            other => other?,
        };
        let fd = socket.as_raw_fd() as usize;
        conns.resize_with(conns.len().max(fd + 1), || None);
        epoll.add_input(socket.as_raw_fd(), fd as u64)?;
        conns[fd] = Some(Conn { socket, upgraded: false });
    }
}

fn handle(floor: &mut impl Floor, conn: &mut Conn, bytes: &[u8]) {
    let fd = conn.socket.as_raw_fd();
    if conn.upgraded {
        return floor.on_bytes(fd, bytes);
    }
    let end = ws::head_end(bytes).expect("a head in one piece");
    if bytes.starts_with(b"GET /connect/") {
        conn.upgraded = true;
        send(fd, SWITCHING);
        floor.on_upgrade(fd, &bytes[..end]);
    } else {
        floor.on_post(fd, &bytes[..end], &bytes[end..]);
    }
}

/// One send(), whole: floors never fill a socket's buffer.
pub fn send(fd: RawFd, bytes: &[u8]) {
    match sys::send(fd, bytes) {
        Ok(sent) => assert_eq!(sent, bytes.len(), "the socket's buffer is full"),
        // A client that has gone has an event of its own.
        Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
        Err(error) => panic!("send: {error}"),
    }
}

/// A message as the generator expects it: an unmasked frame with a SEND of QoS 0 and type 1.
pub fn frame(body: &[u8]) -> Vec<u8> {
    let length = body.len() + 3;
    let mut frame = vec![0x82];
    if length < 126 {
        frame.push(length as u8);
    } else {
        frame.push(126);
        frame.extend_from_slice(&u16::try_from(length).expect("a floor's message is under 64 kB").to_be_bytes());
    }
    frame.extend_from_slice(&[0x10, 0, 1]);
    frame.extend_from_slice(body);
    frame
}

/// The number after `name` in a request head.
pub fn number_after(head: &[u8], name: &[u8]) -> usize {
    let at = memchr::memmem::find(head, name).expect("the generator names it") + name.len();
    head[at..].iter().take_while(|byte| byte.is_ascii_digit()).fold(0, |sum, byte| sum * 10 + usize::from(byte - b'0'))
}

pub const SENT: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"status\":0}";
/// The answer to the key of RFC 6455's example, which the generator always sends.
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
