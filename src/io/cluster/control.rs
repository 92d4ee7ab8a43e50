//! The control links of the cluster's thread: dialed or accepted, read by one task each and written by another.

use super::link_queue::ControlLink;
use super::secure::{self, Link, LinkError, LinkReader, LinkWriter};
use super::state::Cluster;
use crate::base::id::NodeId;
use crate::cluster::node::LinkNumber;
use crate::io::runtime::clock;
use crate::io::runtime::socket::Socket;
use crate::wire::peer::frame::CHUNK_BYTES;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use tracing::debug;

/// Dials a node's control link, and serves it.
pub async fn dial(cluster: Rc<Cluster>, node: NodeId) {
    let hello = cluster.node().hello(0, 1, clock::unix_s());
    let deadline = clock::monotonic() + HANDSHAKE_MS;
    cluster.rearm();
    let dialed = secure::dial(cluster.deadlines(), deadline, node.address, &cluster.terms(), &hello).await;
    match dialed {
        Ok(link) => serve(cluster, link, true).await,
        Err(why) => {
            cluster.log_refused(&node, &why);
            cluster.act(|own, now, _| own.on_dial_failed(node.generation, now));
        }
    }
}

/// Serves a control link that another node has dialed.
pub async fn accept(cluster: Rc<Cluster>, fd: OwnedFd) {
    let Ok(socket) = Socket::new(fd) else { return };
    let hello = cluster.node().hello(0, 1, clock::unix_s());
    let deadline = clock::monotonic() + HANDSHAKE_MS;
    cluster.rearm();
    match secure::accept(cluster.deadlines(), deadline, socket, Vec::new(), &cluster.terms(), &hello).await {
        Ok(link) => serve(cluster, link, false).await,
        Err(why) => cluster.log_refused(&"whoever dialed", &why),
    }
}

async fn serve(cluster: Rc<Cluster>, link: Link, is_dialed: bool) {
    let Link { reader, writer, hello } = link;
    let control = Rc::new(ControlLink::new(reader.fd()));
    let number = cluster.add_link(control.clone());
    monoio::spawn(write(cluster.clone(), number, control, writer));
    cluster.act(|node, now, unix_s| node.on_link_up(number, &hello, is_dialed, now, unix_s));
    match read(&cluster, number, reader).await {
        LinkError::Violation(why) => {
            cluster.log_refused(&hello.node, &why);
            cluster.act(|node, now, unix_s| node.on_violation(number, now, unix_s));
        }
        why => debug!(node = %hello.node, %why, "a control link has ended"),
    }
    cluster.act(|node, now, unix_s| node.on_link_ended(number, now, unix_s));
    cluster.remove_link(number);
}

async fn read(cluster: &Cluster, number: LinkNumber, mut reader: LinkReader) -> LinkError {
    loop {
        loop {
            match reader.next_frame(FRAME_BYTES_MAX) {
                Ok(Some(frame)) => cluster.act(|node, now, unix_s| node.on_frame(number, frame, now, unix_s)),
                Ok(None) => break,
                Err(why) => return why.into(),
            }
        }
        if let Err(why) = reader.read().await {
            return why;
        }
    }
}

async fn write(cluster: Rc<Cluster>, number: LinkNumber, control: Rc<ControlLink>, mut writer: LinkWriter) {
    loop {
        let bytes = control.take(|out| cluster.pull(number, out));
        if bytes.is_empty() {
            if control.is_closing() {
                break;
            }
            control.woken().await;
        } else if writer.write(&bytes).await.is_err() {
            break;
        }
    }
    writer.end();
}

const HANDSHAKE_MS: u64 = 5_000;
/// The largest is a batch of changes; see `cluster::directory`.
const FRAME_BYTES_MAX: usize = 64 * CHUNK_BYTES;
