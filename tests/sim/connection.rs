//! One connection as the network sees it: bytes on their way in both directions, how far each end has got, and where it
//! was cut. Bytes arrive in order and in pieces of any length; what is cut off never arrives.

use crate::peer::Peer;
use rainbow::base::id::{ConnKey, Identity};
use std::collections::VecDeque;

/// A connection of the world; never reused.
pub type ConnectionId = usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The backend is being asked.
    Connecting,
    Open,
    /// The shard was told that the socket has ended.
    Ended,
    /// The backend refused, or the client went away meanwhile.
    Abandoned,
}

pub struct Connection {
    pub node: usize,
    pub key: ConnKey,
    pub identity: Identity,
    pub client: usize,
    pub stage: Stage,
    /// Client to server: on its way; bytes that the client ever wrote; bytes that the shard ever got.
    pub up: VecDeque<u8>,
    pub up_written: usize,
    pub up_read: usize,
    /// Server to client: in the socket's buffer and on its way.
    pub down: VecDeque<u8>,
    pub down_max: usize,
    /// The socket takes nothing until the client has read.
    pub blocked: bool,
    /// No byte comes from the client behind those in `up`.
    pub fin: bool,
    /// No byte comes from the server behind those in `down`.
    pub write_ended: bool,
    /// The client knows that it is over.
    pub left: bool,
    /// The server reads nothing until it is told to resume.
    pub paused: bool,
    pub reading: bool,
    pub receiving: bool,
    /// When the client was last kept from reading or from being read.
    pub hindered: u64,
    /// Until then the client does nothing; `u64::MAX`: it has vanished.
    pub frozen: u64,
    pub cookie: Option<Vec<u8>>,
    /// What the backend has of it now.
    pub forwarding: bool,
    /// `Output::Closed` came.
    pub closed: bool,
    /// Answers of the client and the stream's length behind each, not yet read by the server.
    pub answers: VecDeque<(usize, Answer)>,
    pub peer: Peer,
}

/// An ACK or REC of the client's.
#[derive(Clone, Debug)]
pub struct Answer {
    pub token: u64,
    pub body: String,
}

impl Connection {
    pub fn new(
        node: usize,
        client: usize,
        key: ConnKey,
        identity: Identity,
        down_max: usize,
        loses: bool,
    ) -> Connection {
        Connection {
            node,
            key,
            identity,
            client,
            stage: Stage::Connecting,
            up: VecDeque::new(),
            up_written: 0,
            up_read: 0,
            down: VecDeque::new(),
            down_max,
            blocked: false,
            fin: false,
            write_ended: false,
            left: false,
            paused: false,
            reading: false,
            receiving: false,
            hindered: 0,
            frozen: 0,
            cookie: None,
            forwarding: false,
            closed: false,
            answers: VecDeque::new(),
            peer: Peer::new(loses),
        }
    }

    /// The client is there and may say something.
    pub fn can_speak(&self) -> bool {
        self.stage == Stage::Open && !self.fin && !self.left && self.peer.ready && !self.peer.closing
    }

    pub fn write(&mut self, bytes: &[u8]) {
        if !self.fin {
            self.up.extend(bytes);
            self.up_written += bytes.len();
        }
    }

    /// The network breaks behind the first `arriving` bytes that are on their way to the server.
    pub fn cut(&mut self, arriving: usize) {
        self.up.truncate(arriving);
        self.fin = true;
        self.left = true;
        self.down.clear();
    }
}
