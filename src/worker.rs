//! One worker's thread: it is pinned to its CPU and gets a descriptor table of its own, where that is allowed; then it
//! listens, and runs the tasks of `io::worker` on its ring until it is drained. The turn is in `io::worker::turn`.

use crate::base::id::ShardId;
use crate::base::limits::Limits;
use crate::io::backend::resolver::Resolver;
use crate::io::runtime::events::Event;
use crate::io::runtime::mailbox::MailboxReceiver;
use crate::io::runtime::net;
use crate::io::runtime::sys;
use crate::io::service::driver::Driver;
use crate::io::service::tasks::{self, Listeners, Service, StoredShare};
use crate::io::worker::descriptors::Tables;
use crate::io::worker::message::PeerMessage;
use crate::io::worker::rules::Rules;
use crate::io::worker::shared::Shared;
use crate::shard::Mode;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// What a worker is started with.
pub struct WorkerStart {
    pub id: ShardId,
    pub shared: Arc<Shared>,
    pub mailbox: MailboxReceiver<PeerMessage>,
    pub resolver: Resolver,
    pub stored: StoredShare,
    /// The CPU to pin to.
    pub cpu: Option<usize>,
    pub listen: SocketAddr,
    pub admin_listen: Option<SocketAddr>,
    pub tables: Tables,
    pub driver: Driver,
    pub mode: Mode,
    pub limits: Limits,
}

/// Runs until drained. Reports over `Shared::events` when it listens, and when it has ended.
pub fn run(start: WorkerStart) {
    let (id, events) = (start.id, start.shared.events().clone());
    if let Err(error) = serve_until_drained(start) {
        events.send(Event::Ready(Err(format!("worker {}: {error}", id.0))));
    }
    events.send(Event::WorkerEnded(id));
}

fn serve_until_drained(start: WorkerStart) -> io::Result<()> {
    let WorkerStart { id, shared, mailbox, resolver, stored, cpu, listen, admin_listen, tables, driver, mode, limits } =
        start;
    if let Some(cpu) = cpu {
        sys::pin_to_core(cpu).map_err(|error| named(error, &format!("pinning to CPU {cpu}")))?;
    }
    if tables == Tables::Own {
        sys::unshare_files().map_err(|error| named(error, "a descriptor table of its own"))?;
        sys::close_all_but(shared.inherited()).map_err(|error| named(error, "/proc/thread-self/fd"))?;
    }
    let public = net::listen(listen, true).map_err(|error| named(error, &format!("listening on {listen}")))?;
    let admin = match admin_listen {
        Some(address) => {
            Some(net::listen(address, true).map_err(|error| named(error, &format!("admin_listen {address}")))?)
        }
        None => None,
    };
    let cluster = match shared.cluster().and_then(|port| port.listen()) {
        Some(address) => {
            Some(net::listen(address, true).map_err(|error| named(error, &format!("cluster_listen {address}")))?)
        }
        None => None,
    };
    let listeners = Listeners { public, admin, cluster };
    let rules = Rules::new(shared.config(), mode, limits);
    tasks::run(Service { id, shared, rules, mailbox, resolver, stored, listeners, tables, driver })
}

fn named(error: io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
