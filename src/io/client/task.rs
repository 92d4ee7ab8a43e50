//! One client's task: it owns the socket and a read buffer, and nothing else. What the bytes mean is the shard's.

use crate::base::id::ConnKey;
use crate::io::runtime::socket::Socket;
use crate::io::worker::turn::Core;
use crate::policy::admission::Place;
use std::rc::Rc;

/// Reads until the socket ends. `early` is what came behind the upgrade; `place` is given back at the end.
///
/// Not an `async fn`: that would keep all that it is given twice, times a million.
pub fn run(core: Rc<Core>, socket: Socket, key: ConnKey, mut early: Vec<u8>, place: Place) -> impl Future<Output = ()> {
    let mut session = Session { core, key, socket, _place: place };
    let mut read_on = early.is_empty() || session.core.received(key, &mut early);
    async move {
        let mut buffer = Vec::with_capacity(SILENT);
        loop {
            if !read_on {
                session.core.sockets.resumed(session.key).await;
            }
            let (read, filled) = session.socket.read(buffer).await;
            buffer = filled;
            let Ok(count @ 1..) = read else { break };
            read_on = session.core.received(session.key, &mut buffer[..count]);
            buffer = fitting(buffer, count);
        }
    }
}

struct Session {
    core: Rc<Core>,
    key: ConnKey,
    socket: Socket,
    _place: Place,
}

impl Drop for Session {
    /// The shard hears of the end exactly once, whatever happens, and before the socket is closed.
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
