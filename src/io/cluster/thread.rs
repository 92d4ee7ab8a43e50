//! The cluster's thread: it carries out what this node's part in the cluster (`cluster::node`) wants. It has a ring of
//! its own, beside those of the workers, so that a busy worker makes no node look dead.
//!
//! ```text
//! datagrams, control links, workers' messages ─► act(node) ─► carry out: datagrams, dials, frames, messages to workers
//! ```
//! Nothing is borrowed across an await.

use super::control;
use super::gossip;
use super::state::{Cluster, ClusterSetup};
use crate::io::runtime::clock;
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// Runs until this node has left its cluster.
pub async fn run(setup: ClusterSetup) -> io::Result<()> {
    let cluster = Rc::new(Cluster::new(setup, clock::monotonic()));
    for (socket, pollable) in cluster.gossip().pollables()? {
        let cluster = cluster.clone();
        monoio::spawn(async move {
            loop {
                pollable.readable().await;
                gossip::receive(&socket, |datagram, from| {
                    cluster.act(|node, now, unix_s| node.on_datagram(datagram, from, now, unix_s));
                });
            }
        });
    }
    monoio::spawn(messages(cluster.clone()));
    monoio::spawn(arrivals(cluster.clone()));
    monoio::spawn(dials(cluster.clone()));
    monoio::spawn(keep_time(cluster.clone()));
    cluster.left().await;
    // The last frames are on their way; who has not read them until then finds a closed link.
    monoio::time::sleep(Duration::from_millis(LAST_WORDS_MS)).await;
    Ok(())
}

async fn messages(cluster: Rc<Cluster>) {
    let Ok(bell) = cluster.mailbox().pollable() else { return };
    loop {
        cluster.mailbox().wait(&bell).await;
        cluster.take_messages();
    }
}

async fn arrivals(cluster: Rc<Cluster>) {
    let Ok(arrivals) = cluster.port().arrivals() else { return };
    loop {
        arrivals.readable().await;
        while let Some(fd) = cluster.port().take_arrival() {
            monoio::spawn(control::accept(cluster.clone(), fd));
        }
    }
}

async fn dials(cluster: Rc<Cluster>) {
    loop {
        for node in cluster.dials().await {
            monoio::spawn(control::dial(cluster.clone(), node));
        }
    }
}

async fn keep_time(cluster: Rc<Cluster>) {
    loop {
        let now = clock::monotonic();
        let nap = Duration::from_millis(cluster.next_tick(now).since_ms(now));
        monoio::select! {
            // A deadline of "at once", one after the other, must not starve the sockets.
            _ = monoio::time::sleep(nap.max(NAP_MIN)) => cluster.on_time(),
            _ = cluster.rearmed() => {}
        }
    }
}

const NAP_MIN: Duration = Duration::from_millis(1);
const LAST_WORDS_MS: u64 = 50;
