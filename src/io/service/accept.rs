//! Accepts connections of one listener. Each takes a place among those that are neither clients nor have made a call
//! that was allowed, and keeps it until it is one of these; beyond the limits it is refused before it costs anything.
//!
//! Started by `tasks`, once per listener. What comes over a connection is read in `serve`.

use crate::io::client::refusal::ConnectRefusal;
use crate::io::log::interval::LogInterval;
use crate::io::runtime::net::{self, Listener};
use crate::io::runtime::socket::Socket;
use crate::io::service::serve::{self, ListenerKind};
use crate::io::worker::turn::Worker;
use crate::policy::admission::{NotAdmitted, Place};
use crate::policy::proxies::is_trusted;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;
use tracing::warn;

/// Accepts until the worker drains.
pub async fn run(worker: Rc<Worker>, listener: Listener, side: ListenerKind) {
    let acceptor = Acceptor { worker, side, refusals: LogInterval::default() };
    let worker = &acceptor.worker;
    loop {
        match listener.accept().await {
            Ok((fd, peer)) => acceptor.begin(fd, peer.ip()),
            Err(_) if worker.shared().is_draining() => return,
            Err(error) => {
                worker.count(|counters| &counters.accept_errors);
                warn!(
                    %error,
                    worker = worker.id().0,
                    "accept failed; see RLIMIT_NOFILE when it says too many open files"
                );
                // Until descriptors are free again there is nothing to accept: trying at once would only burn the core.
                monoio::time::sleep(Duration::from_millis(worker.limits().accept_pause_ms)).await;
            }
        }
    }
}

struct Acceptor {
    worker: Rc<Worker>,
    side: ListenerKind,
    refusals: LogInterval,
}

impl Acceptor {
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
