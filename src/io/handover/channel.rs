//! Handover channels: one per worker, for the connections that go on in it. The socket travels as a descriptor over a
//! Unix socket that every worker's table has (made before the tables part), everything else as an arrival in a table
//! that all workers share.
//!
//! ```text
//! origin: arrival into the table ─► descriptor and the arrival's number over the socket ─► its copy is closed
//! owner:  descriptor, number ─► arrival
//! ```
//! An arrival is taken out by the worker that put it in (the socket took nothing) or by the owner, never by both.

use crate::base::client::ClientAddress;
use crate::base::id::{ConnKey, Identity, ShardId};
use crate::io::handover::session_request::SessionRequest;
use crate::io::runtime::socket::Pollable;
use crate::io::runtime::sys;
use crate::policy::admission::Place;
use rustc_hash::FxHashMap;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tracing::warn;

/// Those of all workers.
pub struct HandoverChannels(Vec<HandoverChannel>);

struct HandoverChannel {
    /// All workers write to it.
    sender: OwnedFd,
    /// Its own worker reads from it.
    receiver: OwnedFd,
    arrivals: Mutex<Arrivals>,
}

#[derive(Default)]
struct Arrivals {
    next: u64,
    under_way: FxHashMap<u64, Box<Arrival>>,
    /// The worker has ended.
    closed: bool,
}

/// A connection that is handed over, without its socket.
pub struct Arrival {
    pub identity: Identity,
    pub address: ClientAddress,
    /// Its slot in the worker that it came to first.
    pub origin: ConnKey,
    pub session: SessionRequest,
    /// Bytes that came behind the upgrade.
    pub early: Vec<u8>,
    pub place: Place,
}

/// Why a connection was not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotHandedOver {
    /// Later it may be.
    Full,
    Closed,
    Failed,
}

impl HandoverChannels {
    /// Must be called before any worker has a descriptor table of its own.
    pub fn new(workers: usize) -> io::Result<HandoverChannels> {
        let channel = |_| {
            let (sender, receiver) = sys::seqpacket_pair()?;
            Ok(HandoverChannel { sender, receiver, arrivals: Mutex::default() })
        };
        (0..workers).map(channel).collect::<io::Result<_>>().map(HandoverChannels)
    }

    /// Hands a connection over; its socket `fd` may be closed here afterwards.
    pub fn send(&self, to: ShardId, fd: RawFd, arrival: Box<Arrival>) -> Result<(), (Box<Arrival>, NotHandedOver)> {
        let channel = &self.0[usize::from(to.0)];
        let mut arrivals = channel.lock();
        if arrivals.closed {
            return Err((arrival, NotHandedOver::Closed));
        }
        let number = arrivals.next;
        arrivals.next += 1;
        arrivals.under_way.insert(number, arrival);
        // Under the lock: an arrival that is seen in the table is one whose descriptor is under way.
        let Err(error) = sys::send_descriptor(channel.sender.as_raw_fd(), fd, number) else { return Ok(()) };
        let arrival = arrivals.under_way.remove(&number).expect("just put in");
        // ETOOMANYREFS: this user has too many descriptors under way.
        let is_full = error.kind() == ErrorKind::WouldBlock
            || matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ETOOMANYREFS | libc::ENOMEM));
        if !is_full {
            warn!(%error, worker = to.0, "a connection cannot be handed over");
        }
        Err((arrival, if is_full { NotHandedOver::Full } else { NotHandedOver::Failed }))
    }

    /// The next connection for this worker; the descriptor is missing when the worker's table is full.
    pub fn receive(&self, worker: ShardId) -> Option<(Option<OwnedFd>, Box<Arrival>)> {
        let channel = &self.0[usize::from(worker.0)];
        let (number, fd) = sys::receive_descriptor(channel.receiver.as_raw_fd()).ok()?;
        let arrival = channel.lock().under_way.remove(&number);
        debug_assert!(arrival.is_some(), "a descriptor comes behind its arrival");
        arrival.map(|arrival| (fd, arrival))
    }

    /// The worker's own view of its channel; call it in the thread that will wait.
    pub fn pollable(&self, worker: ShardId) -> io::Result<Pollable> {
        Pollable::new(self.0[usize::from(worker.0)].receiver.try_clone()?)
    }

    /// Accepts no connections for this worker any more; false while one is under way.
    pub fn close(&self, worker: ShardId) -> bool {
        let mut arrivals = self.0[usize::from(worker.0)].lock();
        arrivals.closed = arrivals.under_way.is_empty();
        arrivals.closed
    }
}

impl HandoverChannel {
    fn lock(&self) -> MutexGuard<'_, Arrivals> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::admission::{Admission, AdmissionLimits};
    use std::io::{Read, Write};
    use std::net::IpAddr;
    use std::sync::Arc;

    const OWNER: ShardId = ShardId(1);

    fn arrival(admission: &Arc<Admission>) -> Box<Arrival> {
        let limits = AdmissionLimits { connections_max: 10_000, per_address: 0 };
        Box::new(Arrival {
            identity: Identity([7; 32]),
            address: ClientAddress { ip: IpAddr::from([127, 0, 0, 1]), site: Arc::default(), trace_parent: None },
            origin: ConnKey { index: crate::base::id::ConnIndex(3), generation: 4, shard: ShardId(0) },
            session: SessionRequest { name: "alice".into(), ..SessionRequest::default() },
            early: b"early".to_vec(),
            place: admission.admit(IpAddr::from([127, 0, 0, 1]), limits).expect("there is room"),
        })
    }

    #[test]
    fn a_socket_and_its_arrival_come_together() {
        let (channels, admission) = (HandoverChannels::new(2).expect("sockets"), Arc::default());
        let (mut near, far) = std::os::unix::net::UnixStream::pair().expect("sockets");
        assert!(channels.receive(OWNER).is_none(), "nobody has come");
        channels.send(OWNER, far.as_raw_fd(), arrival(&admission)).ok().expect("the channel is open");
        assert!(!channels.close(OWNER), "somebody is under way");
        drop(far);
        assert!(channels.receive(ShardId(0)).is_none(), "it came to another worker");
        let (fd, arrival) = channels.receive(OWNER).expect("it has come");
        assert_eq!((&*arrival.session.name, &arrival.early[..]), ("alice", &b"early"[..]));
        let mut far = std::os::unix::net::UnixStream::from(fd.expect("with its descriptor"));
        far.write_all(b"hello").expect("it is open");
        let mut received = [0; 5];
        near.read_exact(&mut received).expect("it is the same socket");
        assert_eq!(&received, b"hello");
        drop((far, arrival));
        assert_eq!(admission.connections(), 0);
        assert_eq!(near.read(&mut received).expect("no error"), 0, "no copy is left open");
    }

    #[test]
    fn a_full_channel_gives_the_arrival_back_and_a_closed_one_too() {
        let (channels, admission) = (HandoverChannels::new(2).expect("sockets"), Arc::default());
        let (_near, far) = std::os::unix::net::UnixStream::pair().expect("sockets");
        let mut sent = 0;
        let refused = loop {
            match channels.send(OWNER, far.as_raw_fd(), arrival(&admission)) {
                Ok(()) => sent += 1,
                Err((_, why)) => break why,
            }
            assert!(sent < 10_000, "a channel must be bounded");
        };
        assert_eq!(refused, NotHandedOver::Full);
        assert_eq!(std::iter::from_fn(|| channels.receive(OWNER)).count(), sent, "nobody is lost");
        assert!(channels.close(OWNER));
        let closed = channels.send(OWNER, far.as_raw_fd(), arrival(&admission)).err().map(|(_, why)| why);
        assert_eq!(closed, Some(NotHandedOver::Closed));
        assert_eq!(admission.connections(), 0);
    }
}
