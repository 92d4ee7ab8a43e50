//! One client's task: it owns the socket and a read buffer, and nothing else. What the bytes mean is the shard's.
//!
//! There may be a million of these: what it keeps over its waits is measured by a test below.

use crate::base::id::{ConnIndex, ConnKey};
use crate::io::runtime::notify::give_way;
use crate::io::runtime::socket::Socket;
use crate::io::worker::turn::Worker;
use crate::policy::admission::Place;
use std::rc::Rc;

/// Reads until the socket ends. `early` came behind the upgrade; `place` is given back at the end.
///
/// Not an `async fn`: that would keep all that it is given twice, times a million.
pub fn run(
    worker: Rc<Worker>,
    socket: Socket,
    key: ConnKey,
    mut early: Vec<u8>,
    place: Place,
) -> impl Future<Output = ()> {
    let mut client = ClientTask { worker, index: key.index, generation: key.generation, socket, _place: place };
    let mut read_on = early.is_empty() || client.worker.received(key, &mut early);
    async move {
        let mut buffer = Vec::with_capacity(SILENT);
        loop {
            if !read_on {
                client.worker.sockets().resumed(client.key()).await;
            }
            give_way().await;
            let (read, filled) = client.socket.read(buffer).await;
            buffer = filled;
            let Ok(count @ 1..) = read else { break };
            read_on = client.worker.received(client.key(), &mut buffer[..count]);
            buffer = fitting(buffer, count);
        }
    }
}

struct ClientTask {
    worker: Rc<Worker>,
    /// With the generation the connection's key: the shard is the worker's.
    index: ConnIndex,
    generation: u32,
    socket: Socket,
    _place: Place,
}

impl ClientTask {
    fn key(&self) -> ConnKey {
        ConnKey { index: self.index, generation: self.generation, shard: self.worker.id() }
    }
}

impl Drop for ClientTask {
    /// The worker reports the end to the shard exactly once, whatever happens, and before the socket is closed.
    fn drop(&mut self) {
        self.worker.socket_ended(self.key());
    }
}

/// A client that only ever answers pings keeps 64 bytes; one that has sent more keeps enough for most messages; a burst
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

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_task<F>(_: impl Fn(Rc<Worker>, Socket, ConnKey, Vec<u8>, Place) -> F) -> usize {
        size_of::<F>()
    }

    /// There may be a million of them.
    #[test]
    fn a_clients_task_is_small() {
        assert!(size_of_task(run) <= 192, "{} bytes", size_of_task(run));
    }
}
