//! Accepts connections of one listener. Each takes a place among those that are neither clients nor have made a call
//! that was allowed, and keeps it until it is one of these; beyond the limits it is refused before it costs anything.
//!
//! Started by `tasks`, once per listener. What comes over a connection is read in `serve`.

use crate::io::client::refusal::ConnectRefusal;
use crate::io::log::interval::LogInterval;
use crate::io::runtime::descriptors;
use crate::io::runtime::net::{self, Listener};
use crate::io::runtime::notify::Notify;
use crate::io::runtime::socket::Socket;
use crate::io::service::serve::{self, ListenerKind};
use crate::io::worker::descriptors::{Purpose, Shortage};
use crate::io::worker::turn::Worker;
use crate::policy::admission::{NotAdmitted, Place};
use crate::policy::proxies::is_trusted;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;
use tracing::warn;

/// Accepts until the worker drains.
pub async fn run(worker: Rc<Worker>, listener: Listener, side: ListenerKind) {
    let acceptor = Acceptor { worker, side, refusals: LogInterval::default(), closed: Rc::default() };
    loop {
        acceptor.wait_for_room().await;
        match listener.accept().await {
            Ok((fd, peer)) => acceptor.begin(fd, peer.ip()),
            Err(_) if acceptor.worker.shared().is_draining() => return,
            Err(error) => acceptor.failed(&error).await,
        }
    }
}

struct Acceptor {
    worker: Rc<Worker>,
    side: ListenerKind,
    refusals: LogInterval,
    /// Notified when a socket of this worker has been closed.
    closed: Rc<Notify>,
}

impl Acceptor {
    /// Leaves in the table what backends, and for newcomers what the operator, may need. Whoever is not accepted waits
    /// in the kernel's queue.
    async fn wait_for_room(&self) {
        let descriptors = self.worker.descriptors();
        let purpose = if self.side == ListenerKind::Admin { Purpose::Service } else { Purpose::Newcomer };
        if descriptors.has_room(purpose) {
            return;
        }
        self.worker.count(|counters| &counters.accept_pauses);
        descriptors.paused(Shortage::Full, self.worker.now());
        while !descriptors.has_room(purpose) {
            self.socket_closed(self.worker.limits().accept_full_pause_ms).await;
        }
        descriptors.went_on(self.worker.now());
    }

    /// The system has nothing left for one more connection: trying at once would only burn the core.
    async fn failed(&self, error: &io::Error) {
        let descriptors = self.worker.descriptors();
        self.worker.count(|counters| &counters.accept_errors);
        descriptors.paused(Shortage::Failed(error), self.worker.now());
        self.socket_closed(self.worker.limits().accept_pause_ms).await;
        descriptors.went_on(self.worker.now());
    }

    /// A descriptor is free again, or so much time is over.
    async fn socket_closed(&self, timeout_ms: u64) {
        descriptors::notify_at_close(&self.closed);
        monoio::select! {
            _ = self.closed.notified() => {}
            _ = monoio::time::sleep(Duration::from_millis(timeout_ms)) => {}
        }
    }

    fn begin(&self, fd: OwnedFd, peer: IpAddr) {
        let worker = &self.worker;
        match self.admit(peer) {
            Ok(place) => match Socket::new(fd) {
                Ok(socket) => worker.spawn(Box::pin(serve::run(worker.clone(), socket, peer, self.side, place))),
                Err(error) => warn!(%error, "a new connection was lost"),
            },
            Err(why) => self.refuse(&fd, peer, why),
        }
    }

    /// Many come through a proxy or to the operator's own address: they are counted in all only.
    fn admit(&self, peer: IpAddr) -> Result<Place, NotAdmitted> {
        let (rules, shared) = (self.worker.rules(), self.worker.shared());
        let is_admin = self.side == ListenerKind::Admin;
        let mut limits = rules.handshakes();
        if is_admin || is_trusted(&rules.config().trusted_proxies, peer) {
            limits.per_address = 0;
        }
        let handshakes = if is_admin { shared.admin_handshakes() } else { shared.handshakes() };
        handshakes.admit(peer, limits)
    }

    /// Sends what an empty socket takes at once; its owner closes it. Nothing waits for somebody who is refused.
    fn refuse(&self, fd: &OwnedFd, peer: IpAddr, why: NotAdmitted) {
        let mut response = Vec::new();
        ConnectRefusal::from(why).write(&mut response, None);
        // It may be gone already.
        let _ = net::send(fd.as_raw_fd(), &response);
        let Some(refused) = self.refusals.due(self.worker.now()) else { return };
        let limit = match why {
            NotAdmitted::Full => "handshakes_max",
            NotAdmitted::TooManyFromAddress => "handshakes_per_address",
        };
        warn!(refused, limit, last = %peer, "closed at accept: too many are neither clients nor callers");
    }
}
