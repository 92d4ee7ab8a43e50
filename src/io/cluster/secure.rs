//! A link between two nodes: an HTTP upgrade, so that it needs no port of its own; then Noise (`NNpsk0`: both sides
//! prove that they have the cluster's key, and the keys of the link are new each time); then frames.
//!
//! ```text
//! dialer:   GET /cluster/… Upgrade ─►            ◄─ 101
//!           length u16 · Noise message ─►        ◄─ length u16 · Noise message
//!           length u16 · sealed frames … in both directions, the first of each is a Hello
//! ```
//! What is sealed in one message are bytes of a stream: a frame may begin in one and end in another.

use crate::base::time::Tick;
use crate::io::runtime::deadlines::Deadlines;
use crate::io::runtime::net::{self, Connecting};
use crate::io::runtime::notify::give_way;
use crate::io::runtime::socket::Socket;
use crate::wire::peer::frame::{Frame, Hello, Violation};
use monoio::buf::IoBufMut;
use snow::{Builder, HandshakeState, TransportState};
use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use thiserror::Error;

/// Which links a request is for; its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// The one of the cluster's thread: heartbeats and the directory.
    Control,
    /// One of a worker's: calls and their replies.
    Calls,
}

impl LinkKind {
    pub fn of_path(path: &str) -> Option<LinkKind> {
        [LinkKind::Control, LinkKind::Calls].into_iter().find(|kind| kind.path() == path)
    }

    pub const fn path(self) -> &'static str {
        match self {
            LinkKind::Control => "/cluster/control",
            LinkKind::Calls => "/cluster/calls",
        }
    }
}

/// What the ends of a link have in common.
#[derive(Clone)]
pub struct LinkTerms {
    pub key: [u8; 32],
    pub cluster_name: String,
    pub kind: LinkKind,
}

/// Why a link is not made, or ends.
#[derive(Debug, Error)]
pub enum LinkError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the link has ended")]
    Ended,
    #[error("the upgrade is refused: {0}")]
    NotUpgraded(String),
    /// Another key, another cluster, or no node at all.
    #[error("the peer does not have this cluster's key")]
    NotOfThisCluster,
    #[error("{0}")]
    Violation(#[from] Violation),
    #[error("the first frame is no greeting")]
    NoHello,
}

impl From<snow::Error> for LinkError {
    fn from(_: snow::Error) -> LinkError {
        LinkError::NotOfThisCluster
    }
}

/// A link whose handshake is done.
pub struct Link {
    pub reader: LinkReader,
    pub writer: LinkWriter,
    /// The peer's.
    pub hello: Hello,
}

/// Dials a node. Whatever takes longer than until `deadline` has failed.
pub async fn dial(
    deadlines: &Rc<Deadlines>,
    deadline: Tick,
    address: SocketAddr,
    terms: &LinkTerms,
    hello: &Hello,
) -> Result<Link, LinkError> {
    let connecting = Connecting::begin(address)?;
    let watch = deadlines.watch(connecting.fd());
    watch.set_writing(deadline);
    let stream = connecting.finish().await?;
    // SAFETY: the number has just been given up by the stream, and nobody else knows it.
    let mut socket = Socket::new(unsafe { OwnedFd::from_raw_fd(stream.into_raw_fd()) })?;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: {UPGRADE}\r\n\r\n",
        terms.kind.path()
    );
    send_all(&socket, request.as_bytes()).await?;
    let mut received = Vec::new();
    let head = loop {
        if let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if received.len() > HEAD_BYTES_MAX {
            return Err(LinkError::NotUpgraded("its head is too long".into()));
        }
        read_more(&mut socket, &mut received).await?;
    };
    if !received.starts_with(b"HTTP/1.1 101") {
        let status = String::from_utf8_lossy(&received[..head]).lines().next().unwrap_or_default().to_owned();
        return Err(LinkError::NotUpgraded(status));
    }
    received.drain(..head);
    let mut state = handshake(terms, true)?;
    send_message(&socket, &mut state).await?;
    let message = read_message(&mut socket, &mut received).await?;
    state.read_message(&message, &mut [0; 64])?;
    let link = greet(socket, received, state, hello).await?;
    drop(watch);
    Ok(link)
}

/// Answers a node whose request has been read; `received` came behind it.
pub async fn accept(
    deadlines: &Rc<Deadlines>,
    deadline: Tick,
    mut socket: Socket,
    mut received: Vec<u8>,
    terms: &LinkTerms,
    hello: &Hello,
) -> Result<Link, LinkError> {
    net::set_nodelay(socket.fd())?;
    let watch = deadlines.watch(socket.fd());
    watch.set_writing(deadline);
    let response = format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {UPGRADE}\r\n\r\n");
    send_all(&socket, response.as_bytes()).await?;
    let mut state = handshake(terms, false)?;
    let message = read_message(&mut socket, &mut received).await?;
    state.read_message(&message, &mut [0; 64])?;
    send_message(&socket, &mut state).await?;
    let link = greet(socket, received, state, hello).await?;
    drop(watch);
    Ok(link)
}

fn handshake(terms: &LinkTerms, is_dialer: bool) -> Result<HandshakeState, snow::Error> {
    // A link of one kind or cluster cannot be taken for another's.
    let prologue = format!("rainbow {} {}", terms.kind.path(), terms.cluster_name);
    let params = NOISE.parse().expect("a pattern that snow knows");
    let builder = Builder::new(params).psk(0, &terms.key)?.prologue(prologue.as_bytes())?;
    if is_dialer { builder.build_initiator() } else { builder.build_responder() }
}

/// The first frame in each direction.
async fn greet(socket: Socket, received: Vec<u8>, state: HandshakeState, hello: &Hello) -> Result<Link, LinkError> {
    let state = Rc::new(RefCell::new(state.into_transport_mode()?));
    // SAFETY: the socket lives during this call.
    let copy = unsafe { BorrowedFd::borrow_raw(socket.fd()) }.try_clone_to_owned()?;
    let mut writer = LinkWriter { socket: Socket::new(copy)?, state: state.clone(), sealed: Vec::new() };
    let mut reader = LinkReader { socket, state, received, plain: Vec::new(), taken: 0 };
    let mut first = Vec::new();
    Frame::Hello(*hello).encode_into(&mut first);
    writer.write(&first).await?;
    loop {
        match reader.next_frame(HELLO_BYTES_MAX)? {
            Some(Frame::Hello(theirs)) => return Ok(Link { reader, writer, hello: theirs }),
            Some(_) => return Err(LinkError::NoHello),
            None => reader.read().await?,
        }
    }
}

async fn send_message(socket: &Socket, state: &mut HandshakeState) -> Result<(), LinkError> {
    let mut message = [0; 2 + HANDSHAKE_BYTES_MAX];
    let len = state.write_message(&[], &mut message[2..])?;
    message[..2].copy_from_slice(&(len as u16).to_be_bytes());
    send_all(socket, &message[..2 + len]).await?;
    Ok(())
}

async fn read_message(socket: &mut Socket, received: &mut Vec<u8>) -> Result<Vec<u8>, LinkError> {
    loop {
        if let Some(len) = message_len(received) {
            if len > HANDSHAKE_BYTES_MAX {
                return Err(LinkError::NotOfThisCluster);
            }
            if received.len() >= 2 + len {
                let message = received[2..2 + len].to_vec();
                received.drain(..2 + len);
                return Ok(message);
            }
        }
        read_more(socket, received).await?;
    }
}

/// Of the message at the front.
fn message_len(received: &[u8]) -> Option<usize> {
    received.first_chunk::<2>().map(|len| usize::from(u16::from_be_bytes(*len)))
}

async fn read_more(socket: &mut Socket, buffer: &mut Vec<u8>) -> Result<(), LinkError> {
    let filled = buffer.len();
    if buffer.capacity() - filled < READ_ROOM / 2 {
        buffer.reserve(READ_ROOM);
    }
    let end = buffer.capacity();
    give_way().await;
    let (read, slice) = socket.read(std::mem::take(buffer).slice_mut(filled..end)).await;
    *buffer = slice.into_inner();
    match read {
        Ok(0) => Err(LinkError::Ended),
        Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn send_all(socket: &Socket, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match net::send(socket.fd(), bytes) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => socket.writable().await,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The receiving half.
pub struct LinkReader {
    socket: Socket,
    state: Rc<RefCell<TransportState>>,
    /// As it came.
    received: Vec<u8>,
    /// Opened; the first `taken` bytes have been handed out.
    plain: Vec<u8>,
    taken: usize,
}

impl LinkReader {
    /// For ending the link: a pending read completes then.
    pub fn fd(&self) -> RawFd {
        self.socket.fd()
    }

    /// Reads until there is more to take frames from.
    pub async fn read(&mut self) -> Result<(), LinkError> {
        self.plain.drain(..std::mem::take(&mut self.taken));
        let before = self.plain.len();
        loop {
            self.open()?;
            if self.plain.len() > before {
                return Ok(());
            }
            read_more(&mut self.socket, &mut self.received).await?;
        }
    }

    /// Opens every message that is whole.
    fn open(&mut self) -> Result<(), LinkError> {
        let mut state = self.state.borrow_mut();
        let mut at = 0;
        while let Some(len) = message_len(&self.received[at..]).filter(|len| self.received.len() >= at + 2 + len) {
            let sealed = &self.received[at + 2..at + 2 + len];
            let start = self.plain.len();
            self.plain.resize(start + len, 0);
            let opened = state.read_message(sealed, &mut self.plain[start..])?;
            self.plain.truncate(start + opened);
            at += 2 + len;
        }
        self.received.drain(..at);
        Ok(())
    }

    /// The next frame that is whole; `None`: `read` has to be called.
    pub fn next_frame(&mut self, bytes_max: usize) -> Result<Option<Frame<'_>>, Violation> {
        let decoded = Frame::decode(&self.plain[self.taken..], bytes_max)?;
        Ok(decoded.map(|(frame, len)| {
            self.taken += len;
            frame
        }))
    }
}

/// The sending half.
pub struct LinkWriter {
    socket: Socket,
    state: Rc<RefCell<TransportState>>,
    sealed: Vec<u8>,
}

impl LinkWriter {
    /// Seals and sends; returns when the kernel has all of it.
    pub async fn write(&mut self, plain: &[u8]) -> Result<(), LinkError> {
        for piece in plain.chunks(PIECES * PLAIN_BYTES_MAX) {
            self.sealed.clear();
            for plain in piece.chunks(PLAIN_BYTES_MAX) {
                let start = self.sealed.len();
                self.sealed.resize(start + 2 + plain.len() + TAG_BYTES, 0);
                let len = self.state.borrow_mut().write_message(plain, &mut self.sealed[start + 2..])?;
                self.sealed[start..start + 2].copy_from_slice(&(len as u16).to_be_bytes());
            }
            send_all(&self.socket, &self.sealed).await?;
        }
        self.sealed.shrink_to(SEALED_BYTES_MAX);
        Ok(())
    }

    /// What was written still arrives; both sides' reads end.
    pub fn end(&self) {
        net::shutdown(self.socket.fd());
    }
}

/// What the upgrade is to.
pub const UPGRADE: &str = "rainbow-link";
const NOISE: &str = "Noise_NNpsk0_25519_AESGCM_SHA256";
const HEAD_BYTES_MAX: usize = 2048;
/// A key and a tag.
const HANDSHAKE_BYTES_MAX: usize = 64;
const HELLO_BYTES_MAX: usize = 512;
const TAG_BYTES: usize = 16;
/// Noise's messages have up to 65,535 bytes.
const PLAIN_BYTES_MAX: usize = 65_535 - TAG_BYTES;
/// Sealed at once: the kernel takes no more at a time.
const PIECES: usize = 4;
const SEALED_BYTES_MAX: usize = 64 << 10;
const READ_ROOM: usize = 16 << 10;
