//! Connections that go on in another worker: that of their session's home. The socket travels as a descriptor over a
//! Unix socket that every worker's table has (made before the tables part), everything else as a letter in a table that
//! all workers share.
//!
//! ```text
//! here:  letter into the table ─► descriptor and the letter's number through the door ─► our copy is closed
//! home:  descriptor, number ─► letter ─► adopt ─► Mail::Moved ─► attach ─► session task, or 503
//! ```
//! The slot here stays as a stub, because the identity that the backend knows leads to it. A letter is taken out by
//! whoever put it in (the door took nothing) or by the home, never by both.

use super::core::Core;
use super::response::Response;
use super::serve;
use super::session;
use super::shared::Mail;
use super::socket::{Pollable, Socket};
use super::sys;
use super::upgrade::{self, Joining};
use crate::base::id::{ConnKey, Identity, ShardId};
use crate::policy::admission::Place;
use crate::shard::session_owner;
use rustc_hash::FxHashMap;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tracing::{debug, warn};

/// One door per worker.
pub struct Moves(Vec<Door>);

struct Door {
    /// Written by all workers.
    outside: OwnedFd,
    /// Read by its own.
    inside: OwnedFd,
    letters: Mutex<Letters>,
}

#[derive(Default)]
struct Letters {
    next: u64,
    on_the_way: FxHashMap<u64, Box<Arrival>>,
    /// The worker has ended.
    closed: bool,
}

/// A connection on its way, but for its socket.
pub struct Arrival {
    pub identity: Identity,
    /// Its slot where it came in.
    pub stub: ConnKey,
    pub joining: Joining,
    /// What came behind the upgrade.
    pub early: Vec<u8>,
    pub place: Place,
}

/// Why a connection did not go through a door. `Full`: it may later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotMoved {
    Full,
    Closed,
    Failed,
}

impl Moves {
    /// Must be called before any worker has a descriptor table of its own.
    pub fn new(workers: usize) -> io::Result<Moves> {
        let door = |_| {
            let (outside, inside) = sys::seqpacket_pair()?;
            Ok(Door { outside, inside, letters: Mutex::default() })
        };
        (0..workers).map(door).collect::<io::Result<_>>().map(Moves)
    }

    /// Hands a connection over; its socket `fd` may be closed here afterwards.
    pub fn send(&self, to: ShardId, fd: RawFd, arrival: Box<Arrival>) -> Result<(), (Box<Arrival>, NotMoved)> {
        let door = &self.0[usize::from(to.0)];
        let mut letters = door.letters();
        if letters.closed {
            return Err((arrival, NotMoved::Closed));
        }
        let number = letters.next;
        letters.next += 1;
        letters.on_the_way.insert(number, arrival);
        // Under the lock: a letter that is seen in the table is one whose descriptor is on its way.
        let Err(error) = sys::send_descriptor(door.outside.as_raw_fd(), fd, number) else { return Ok(()) };
        let arrival = letters.on_the_way.remove(&number).expect("just put in");
        // ETOOMANYREFS: this user has too many descriptors on the way.
        let full = error.kind() == ErrorKind::WouldBlock
            || matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ETOOMANYREFS | libc::ENOMEM));
        if !full {
            warn!(%error, worker = to.0, "a connection cannot be handed over");
        }
        Err((arrival, if full { NotMoved::Full } else { NotMoved::Failed }))
    }

    /// What has come for this worker; the descriptor is missing when its table is full.
    fn take(&self, whose: ShardId) -> Option<(Option<OwnedFd>, Box<Arrival>)> {
        let door = &self.0[usize::from(whose.0)];
        let (number, fd) = sys::receive_descriptor(door.inside.as_raw_fd()).ok()?;
        let arrival = door.letters().on_the_way.remove(&number);
        debug_assert!(arrival.is_some(), "a descriptor comes behind its letter");
        arrival.map(|arrival| (fd, arrival))
    }

    /// The worker's own view of its door; call it in the thread that will wait.
    pub fn pollable(&self, whose: ShardId) -> io::Result<Pollable> {
        Pollable::new(self.0[usize::from(whose.0)].inside.try_clone()?)
    }

    /// Lets nobody in any more; false while somebody is on the way.
    pub fn close(&self, whose: ShardId) -> bool {
        let mut letters = self.0[usize::from(whose.0)].letters();
        letters.closed = letters.on_the_way.is_empty();
        letters.closed
    }
}

impl Door {
    fn letters(&self) -> MutexGuard<'_, Letters> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands a connection that the backend has let in to its session's home. The socket comes back when that is not
/// possible, with what to answer.
pub async fn hand_over(
    core: &Rc<Core>,
    key: ConnKey,
    socket: Socket,
    arrival: Arrival,
) -> Result<(), (Socket, Response)> {
    let to = session_owner(&arrival.joining.name, core.shared.mail.len());
    let mut arrival = Box::new(arrival);
    for _ in 0..TRIES {
        let moves = core.shared.moves.as_ref().expect("there are doors where there are workers and a store");
        match moves.send(to, socket.fd(), arrival) {
            Ok(()) => {
                core.count(|counters| &counters.moves);
                core.lines.detach(key.index);
                return Ok(());
            }
            Err((back, NotMoved::Full)) => arrival = back,
            Err((back, _)) => {
                arrival = back;
                break;
            }
        }
        monoio::time::sleep(TRY_AGAIN).await;
    }
    core.count(|counters| &counters.moves_failed);
    core.abandon(key);
    let Arrival { identity, joining, .. } = *arrival;
    core.tell_close(identity, joining.cookie.as_deref().map(Rc::from));
    Err((socket, upgrade::retry_later(503, "the session's worker is too busy")))
}

/// Lets in who waits at this worker's door, a bounded number.
pub fn let_in(core: &Rc<Core>) {
    let Some(moves) = &core.shared.moves else { return };
    for _ in 0..PER_TURN {
        let Some((fd, arrival)) = moves.take(core.id) else { return };
        arrive(core, fd, *arrival);
    }
}

fn arrive(core: &Rc<Core>, fd: Option<OwnedFd>, arrival: Arrival) {
    let Arrival { identity, stub, joining, early, place } = arrival;
    let cookie: Option<Rc<[u8]>> = joining.cookie.as_deref().map(Rc::from);
    let Some(Ok(socket)) = fd.map(Socket::new) else {
        core.count(|counters| &counters.moves_failed);
        warn!(worker = core.id.0, "a connection was lost on its way here; see RLIMIT_NOFILE");
        core.tell_close(identity, cookie);
        return core.post(stub.shard, Mail::MoveLost { key: stub });
    };
    let key = core.adopt(identity, stub, socket.fd());
    core.post(stub.shard, Mail::Moved { key: stub, to: key });
    core.attach(key, identity, joining);
    let task = attached(core.clone(), Attaching { key, identity, cookie, socket, early, place });
    monoio::spawn(core.clone().caught(Box::pin(task)));
}

struct Attaching {
    key: ConnKey,
    identity: Identity,
    cookie: Option<Rc<[u8]>>,
    socket: Socket,
    early: Vec<u8>,
    place: Place,
}

/// Waits for the store's word. The session's task is one of its own, so that nothing of this one stays with it.
async fn attached(core: Rc<Core>, attaching: Attaching) {
    let Attaching { key, identity, cookie, socket, early, place } = attaching;
    match core.attaches.told(key).await {
        Ok(()) => {
            debug!(%identity, "open, moved here");
            monoio::spawn(session::run(core, socket, key, early, place));
        }
        Err(why) => {
            core.abandon(key);
            core.tell_close(identity, cookie);
            serve::refuse(core, socket, &upgrade::not_kept(why)).await;
        }
    }
}

/// A full door is tried again for a second.
const TRIES: usize = 200;
const TRY_AGAIN: Duration = Duration::from_millis(5);
const PER_TURN: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::admission::{Admission, AdmissionLimits};
    use std::io::{Read, Write};
    use std::net::IpAddr;
    use std::sync::Arc;

    const HOME: ShardId = ShardId(1);

    fn arrival(admission: &Arc<Admission>) -> Box<Arrival> {
        let limits = AdmissionLimits { connections_max: 10_000, per_address: 0 };
        Box::new(Arrival {
            identity: Identity([7; 32]),
            stub: ConnKey { index: crate::base::id::ConnIndex(3), generation: 4, shard: ShardId(0) },
            joining: Joining { name: "alice".into(), ..Joining::default() },
            early: b"early".to_vec(),
            place: admission.admit(IpAddr::from([127, 0, 0, 1]), limits).expect("there is room"),
        })
    }

    #[test]
    fn a_socket_and_its_letter_arrive_together() {
        let (moves, admission) = (Moves::new(2).expect("sockets"), Arc::default());
        let (mut near, far) = std::os::unix::net::UnixStream::pair().expect("sockets");
        assert!(moves.take(HOME).is_none(), "nobody has come");
        moves.send(HOME, far.as_raw_fd(), arrival(&admission)).ok().expect("the door is open");
        assert!(!moves.close(HOME), "somebody is on the way");
        drop(far);
        assert!(moves.take(ShardId(0)).is_none(), "it came to another door");
        let (fd, arrival) = moves.take(HOME).expect("it has come");
        assert_eq!((&*arrival.joining.name, &arrival.early[..]), ("alice", &b"early"[..]));
        let mut far = std::os::unix::net::UnixStream::from(fd.expect("with its descriptor"));
        far.write_all(b"hello").expect("it is open");
        let mut heard = [0; 5];
        near.read_exact(&mut heard).expect("it is the same socket");
        assert_eq!(&heard, b"hello");
        drop((far, arrival));
        assert_eq!(admission.connections(), 0);
        assert_eq!(near.read(&mut heard).expect("no error"), 0, "no copy is left open");
    }

    #[test]
    fn a_full_door_gives_the_letter_back_and_a_closed_one_too() {
        let (moves, admission) = (Moves::new(2).expect("sockets"), Arc::default());
        let (_near, far) = std::os::unix::net::UnixStream::pair().expect("sockets");
        let mut sent = 0;
        let refused = loop {
            match moves.send(HOME, far.as_raw_fd(), arrival(&admission)) {
                Ok(()) => sent += 1,
                Err((_, why)) => break why,
            }
            assert!(sent < 10_000, "a door must be bounded");
        };
        assert_eq!(refused, NotMoved::Full);
        assert_eq!(std::iter::from_fn(|| moves.take(HOME)).count(), sent, "nobody is lost");
        assert!(moves.close(HOME));
        let closed = moves.send(HOME, far.as_raw_fd(), arrival(&admission)).err().map(|(_, why)| why);
        assert_eq!(closed, Some(NotMoved::Closed));
        assert_eq!(admission.connections(), 0);
    }
}
