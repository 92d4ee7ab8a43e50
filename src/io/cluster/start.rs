//! Starts the cluster's thread: its keys, its address, its sockets.

use super::gossip::Gossip;
use super::interfaces::{Listeners, own_address};
use super::port::{ClusterPort, ToCluster, ToWorker};
use super::state::{ClusterSetup, StoreLink};
use super::thread;
use crate::base::id::{Generation, NodeId, ShardId};
use crate::base::keyed_hash::HashKey;
use crate::base::limits::Limits;
use crate::cluster::key::{ClusterKeys, Reach};
use crate::cluster::membership::Founding;
use crate::cluster::node::{Node, NodeTerms, Outlast};
use crate::config::{ClusterChoice, Config, StoreKind};
use crate::io::runtime::clock;
use crate::io::runtime::mailbox::{MailboxReceiver, mailbox};
use crate::io::runtime::sys::draw;
use crate::store::{MetNode, Sharing, StoreNode};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

/// Who this node is, whether it has a cluster or not.
pub struct OwnNode {
    pub generation: Generation,
    /// For names of channels and sessions. In a cluster all nodes have the same.
    pub hash_key: HashKey,
    /// `None`: it stays alone.
    pub cluster: Option<Prepared>,
    /// As a store that others may use knows it.
    pub store_node: StoreNode,
}

/// A cluster's thread that has not been started.
pub struct Prepared {
    port: Arc<ClusterPort>,
    keys: ClusterKeys,
    mailbox: MailboxReceiver<ToCluster>,
}

impl OwnNode {
    /// Must be called before any worker has a descriptor table of its own.
    pub fn prepare(config: &Config, listeners: Listeners, limits: &Limits) -> io::Result<OwnNode> {
        let generation = Generation((draw() as u32).max(1));
        let place = place(listeners.public);
        match prepare(config, generation, listeners, limits)? {
            Some(prepared) => {
                let address = Some(prepared.port.own().address);
                let store_node = StoreNode { generation, place, address, sharing: Sharing::Cluster };
                Ok(OwnNode { generation, hash_key: prepared.keys.channels, cluster: Some(prepared), store_node })
            }
            None => {
                let store_node = StoreNode { generation, place, address: None, sharing: Sharing::Alone };
                Ok(OwnNode { generation, hash_key: HashKey::new(draw(), draw()), cluster: None, store_node })
            }
        }
    }
}

fn prepare(
    config: &Config,
    generation: Generation,
    listeners: Listeners,
    limits: &Limits,
) -> io::Result<Option<Prepared>> {
    if config.cluster.choice == ClusterChoice::Off {
        return Ok(None);
    }
    let secret = if config.cluster.secret.is_empty() { &config.secrets.security_token } else { &config.cluster.secret };
    // Who has no secret shares with the other processes of this machine what nobody outside knows.
    let machine = std::fs::read(BOOT_ID).unwrap_or_default();
    if secret.is_empty() && machine.is_empty() {
        warn!("no cluster: there is neither cluster_secret nor security_token, and {BOOT_ID} cannot be read");
        return Ok(None);
    }
    let keys = ClusterKeys::derive(secret.expose().as_bytes(), &machine, &config.cluster.name);
    let Some(address) = own_address(config, keys.reach, listeners) else {
        info!(
            ?listeners,
            "no cluster: without cluster_secret or security_token it is this machine's, and nothing listens on its \
             loopback"
        );
        return Ok(None);
    };
    let (sender, receiver) = mailbox(limits.cluster_messages_max)?;
    let own = NodeId { generation, address };
    let terms = ClusterPort::terms_of(&keys, &config.cluster.name);
    let port = ClusterPort::new(own, listeners.cluster, clock::unix_ms().0, terms, sender)?;
    Ok(Some(Prepared { port: Arc::new(port), keys, mailbox: receiver }))
}

impl Prepared {
    pub fn port(&self) -> &Arc<ClusterPort> {
        &self.port
    }

    /// Opens the sockets. What it returns runs on a thread with a ring of its own, until this node has left.
    pub fn open(self, config: &Config, workers: usize) -> io::Result<Opened> {
        let Prepared { port, keys, mailbox } = self;
        let own = port.own();
        // Who can be reached on this machine only looks no further.
        let reach = if own.address.ip().is_loopback() { Reach::Loopback } else { keys.reach };
        let gossip = Gossip::bind(own.address, port.listen(), reach)?;
        let now = clock::monotonic();
        let founding = Founding { node: own, start: port.start(), seed: draw() };
        let mut salt = [0; 12];
        salt.iter_mut()
            .zip(draw().to_be_bytes().into_iter().chain(draw().to_be_bytes()))
            .for_each(|(to, from)| *to = from);
        let has_store = config.store.kind != StoreKind::None;
        let outlast = if has_store { Outlast::Sessions } else { Outlast::Nothing };
        let terms = NodeTerms { keys: &keys, cluster_name: &config.cluster.name, salt, outlast };
        let node = Node::new(founding, terms, now);
        info!(
            node = %own, name = config.cluster.name, ?reach, discovery = ?gossip.discovery_port(),
            "looking for the other nodes of the cluster"
        );
        let seeds = config.cluster.seeds.clone();
        Ok(Opened { node, gossip, port, mailbox, workers, seeds })
    }
}

/// Everything that the thread needs.
pub struct Opened {
    node: Node,
    gossip: Gossip,
    port: Arc<ClusterPort>,
    mailbox: MailboxReceiver<ToCluster>,
    workers: usize,
    seeds: Vec<String>,
}

impl Opened {
    pub async fn run(
        self,
        to_worker: impl Fn(ShardId, ToWorker) -> Result<(), ToWorker> + 'static,
        on_dead: impl Fn() + 'static,
        (store, met): (Option<StoreLink>, Vec<MetNode>),
    ) -> io::Result<()> {
        let Opened { node, gossip, port, mailbox, workers, seeds } = self;
        let has_seeds = !seeds.is_empty();
        if has_seeds {
            let port = port.clone();
            std::thread::Builder::new().name("rainbow-seeds".into()).spawn(move || resolve_seeds(&port, &seeds))?;
        }
        let (to_worker, on_dead) = (Box::new(to_worker), Box::new(on_dead));
        thread::run(ClusterSetup { node, gossip, port, mailbox, workers, to_worker, on_dead, has_seeds, store, met })
            .await
    }
}

/// Names may come to stand for other addresses: they are resolved now and then, on a thread that may wait.
fn resolve_seeds(port: &ClusterPort, seeds: &[String]) {
    let mut pause = RESOLVE_FIRST;
    loop {
        let addresses = seeds.iter().filter_map(|seed| seed.to_socket_addrs().ok()).flatten().collect();
        // Next time there may be room.
        let _ = port.try_send(ToCluster::Seeds(addresses));
        std::thread::sleep(pause);
        pause = RESOLVE_EVERY;
    }
}

/// The machine since it was started, its network namespace there, and the address: who can listen there has replaced
/// whoever could before.
fn place(listen: SocketAddr) -> String {
    let boot = std::fs::read_to_string(BOOT_ID).unwrap_or_else(|_| format!("{:016x}", draw()));
    let network = std::fs::read_link("/proc/self/ns/net").unwrap_or_default();
    format!("{} {} {listen}", boot.trim(), network.display())
}

/// The same for all processes of this machine until it is started anew; 122 random bits.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const RESOLVE_FIRST: Duration = Duration::from_secs(1);
const RESOLVE_EVERY: Duration = Duration::from_secs(10);
