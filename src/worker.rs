//! One thread: a ring, a shard, a descriptor table of its own, and the tasks that turn them.
//!
//! A turn, in this order: what the ring brought (reads, new connections, answers of the backend) → mail → a slice of
//! fan-out → outputs → one write per connection that has something to write → the timer → park.

use crate::base::id::ShardId;
use crate::io::backend::resolver::Resolver;
use crate::io::runtime::events::Event;
use crate::io::runtime::mailbox::MailReceiver;
use crate::io::runtime::net;
use crate::io::runtime::sys;
use crate::io::worker::rules::Rules;
use crate::io::worker::shared::{Mail, Shared};
use crate::io::worker::tasks::{self, Parts};
use crate::shard::Mode;
use crate::shard::command::StoredSession;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// What a worker is started with.
pub struct Start {
    pub id: ShardId,
    pub shared: Arc<Shared>,
    pub mail: MailReceiver<Mail>,
    pub resolver: Resolver,
    /// The sessions that are at home here.
    pub found: Vec<StoredSession>,
    /// The CPU to pin to.
    pub core: Option<usize>,
    pub listen: SocketAddr,
    pub admin_listen: Option<SocketAddr>,
    pub mode: Mode,
}

/// Runs until drained. Says over `Shared::events` when it listens.
pub fn run(start: Start) {
    let (id, events) = (start.id, start.shared.events.clone());
    if let Err(error) = serve_until_drained(start) {
        events.send(Event::Ready(Err(format!("worker {}: {error}", id.0))));
    }
    events.send(Event::WorkerEnded(id));
}

fn serve_until_drained(start: Start) -> io::Result<()> {
    let Start { id, shared, mail, resolver, found, core: cpu, listen, admin_listen, mode } = start;
    if let Some(cpu) = cpu {
        sys::pin_to_core(cpu).map_err(|error| named(error, &format!("pinning to CPU {cpu}")))?;
    }
    sys::unshare_files().map_err(|error| named(error, "a descriptor table of its own"))?;
    sys::close_all_but(&shared.inherited).map_err(|error| named(error, "/proc/thread-self/fd"))?;
    let listener = net::listen(listen, true).map_err(|error| named(error, &format!("listening on {listen}")))?;
    let admin = match admin_listen {
        Some(address) => {
            Some(net::listen(address, true).map_err(|error| named(error, &format!("admin_listen {address}")))?)
        }
        None => None,
    };
    let rules = Rules::new(shared.config(), mode);
    tasks::run(Parts { id, shared, rules, mail, resolver, found, listener, admin })
}

fn named(error: io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
