//! One connection of a durable client: bytes on their way in both directions, and what each end knows.

use rainbow::base::id::{ConnKey, Identity};
use rainbow::shard::command::SessionId;
use std::collections::{HashMap, HashSet, VecDeque};

pub type ConnectionId = usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The backend is being asked.
    Connecting,
    /// The shard is asked, and the store.
    Attaching,
    Open,
    /// The shard was told that the socket has ended, or the process has died.
    Ended,
    Abandoned,
}

pub struct Connection {
    pub client: usize,
    /// The process that it belongs to.
    pub epoch: u32,
    pub key: ConnKey,
    pub identity: Identity,
    pub stage: Stage,
    /// Client to server, on its way.
    pub up: VecDeque<u8>,
    /// Server to client: in the socket's buffer and on its way.
    pub down: VecDeque<u8>,
    pub down_max: usize,
    /// The socket takes nothing until the client has read.
    pub blocked: bool,
    /// No byte comes from the client behind those in `up`.
    pub fin: bool,
    /// No byte comes from the server behind those in `down`.
    pub write_ended: bool,
    /// The client does not care for it any more.
    pub left: bool,
    /// It only waits for its end: another connection of the client's is what counts.
    pub ignored: bool,
    /// The server reads nothing until it is told to resume.
    pub paused: bool,
    pub reading: bool,
    pub receiving: bool,
    /// Until then the client reads nothing.
    pub frozen: u64,
    /// `Output::Closed` came.
    pub closed: bool,
    /// What the client has read and not taken apart.
    pub input: Vec<u8>,
    /// The response has come, and what `rainbow.2` says first.
    pub ready: bool,
    pub greeted: bool,
    pub pings: u64,
    pub pongs: u64,
    pub awaits_pong: bool,
    pub closing: bool,
    /// As the model expects it, from when it was attached.
    pub session: Option<SessionId>,
    pub resumed: bool,
    /// The fewest and the most messages that can be waiting.
    pub waiting: (u32, u32),
    /// Answers that the application has not given yet.
    pub later: VecDeque<Vec<u8>>,
    /// The largest window that it has had.
    pub window: usize,
    /// Messages that the client has got and not finished, by id, as far as the window counts them.
    pub unfinished: HashMap<u16, u64>,
    /// Messages that ever came on it.
    pub came: HashSet<u64>,
}

impl Connection {
    pub fn new(client: usize, epoch: u32, key: ConnKey, identity: Identity, down_max: usize) -> Connection {
        Connection {
            client,
            epoch,
            key,
            identity,
            stage: Stage::Connecting,
            up: VecDeque::new(),
            down: VecDeque::new(),
            down_max,
            blocked: false,
            fin: false,
            write_ended: false,
            left: false,
            ignored: false,
            paused: false,
            reading: false,
            receiving: false,
            frozen: 0,
            closed: false,
            input: Vec::new(),
            ready: false,
            greeted: false,
            pings: 0,
            pongs: 0,
            awaits_pong: false,
            closing: false,
            session: None,
            resumed: false,
            waiting: (0, 0),
            later: VecDeque::new(),
            window: 0,
            unfinished: HashMap::new(),
            came: HashSet::new(),
        }
    }

    /// The client may say something.
    pub fn can_speak(&self) -> bool {
        self.stage == Stage::Open
            && !self.fin
            && !self.left
            && !self.ignored
            && self.ready
            && self.greeted
            && !self.closing
    }

    /// The network breaks: the first `arriving` bytes that are on their way to the server still arrive.
    pub fn cut(&mut self, arriving: usize) {
        self.up.truncate(arriving);
        self.down.clear();
        (self.fin, self.left) = (true, true);
    }
}
