//! One client's task: it owns the socket and a read buffer, and nothing else. What the bytes mean is the shard's.

use super::core::Core;
use super::socket::Socket;
use crate::base::id::ConnKey;
use crate::policy::admission::Place;
use std::rc::Rc;

/// Reads until the socket ends. `early` is what came behind the upgrade; `_place` is given back at the end.
pub async fn run(core: Rc<Core>, mut socket: Socket, key: ConnKey, mut early: Vec<u8>, _place: Place) {
    // Dropped before the socket is closed, whatever happens here.
    let line = Line { core, key };
    let core = &line.core;
    if !early.is_empty() && !core.received(key, &mut early) {
        core.lines.resumed(key).await;
    }
    drop(early);
    let mut buffer = Vec::with_capacity(SILENT);
    loop {
        let (read, filled) = socket.read(buffer).await;
        buffer = filled;
        let Ok(count @ 1..) = read else { break };
        let read_on = core.received(key, &mut buffer[..count]);
        buffer = fitting(buffer, count);
        if !read_on {
            core.lines.resumed(key).await;
        }
    }
}

/// The shard hears of the end exactly once.
struct Line {
    core: Rc<Core>,
    key: ConnKey,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.core.socket_ended(self.key);
    }
}

/// A client that only ever answers pings keeps 64 bytes; one that has said more keeps enough for most messages; a burst
/// is read in large pieces until one of them is not full.
fn fitting(buffer: Vec<u8>, count: usize) -> Vec<u8> {
    match buffer.capacity() {
        full if count == full && full < BURST => Vec::with_capacity(if full < TALKING { TALKING } else { BURST }),
        BURST.. if count <= TALKING => Vec::with_capacity(TALKING),
        _ => buffer,
    }
}

const SILENT: usize = 64;
const TALKING: usize = 512;
const BURST: usize = 16 << 10;
