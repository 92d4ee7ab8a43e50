//! Datagrams between nodes: those of the membership, at the port where the node listens, and the broadcast by which
//! nodes of one network find each other, at one of the ports of 2014.

use super::interfaces::broadcast_targets;
use crate::cluster::key::Reach;
use crate::io::runtime::claim::wait_until_free;
use crate::io::runtime::socket::Pollable;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;

/// The sockets; none of their calls waits.
pub struct Gossip {
    reach: Reach,
    membership: UdpSocket,
    /// `None`: all ports of 2014 are taken, and nobody's broadcast is heard here.
    discovery: Option<UdpSocket>,
}

impl Gossip {
    /// `own` is where the peers reach this node, `listen` where it listens for nobody else. Waits for a port that its
    /// last life has not given back yet.
    pub fn bind(own: SocketAddr, listen: Option<SocketAddr>, reach: Reach) -> io::Result<Gossip> {
        let any = match (reach, own.ip()) {
            (Reach::Loopback, ip) => ip,
            (Reach::Everywhere, IpAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
            (Reach::Everywhere, IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let bound = listen.unwrap_or(SocketAddr::new(any, own.port()));
        let membership = wait_until_free(|| UdpSocket::bind(bound))?;
        membership.set_nonblocking(true)?;
        membership.set_broadcast(true)?;
        let heard = if reach == Reach::Loopback { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
        let discovery = PORTS_2014.into_iter().find_map(|port| UdpSocket::bind((heard, port)).ok());
        if let Some(discovery) = &discovery {
            discovery.set_nonblocking(true)?;
        }
        Ok(Gossip { reach, membership, discovery })
    }

    /// The port where broadcasts are heard.
    pub fn discovery_port(&self) -> Option<u16> {
        self.discovery.as_ref().and_then(|socket| socket.local_addr().ok()).map(|address| address.port())
    }

    /// A datagram may be lost; so may one that the kernel does not take.
    pub fn send(&self, to: SocketAddr, datagram: &[u8]) {
        let is_allowed = self.reach == Reach::Everywhere || to.ip().is_loopback();
        if is_allowed {
            let _ = self.membership.send_to(datagram, to);
        }
    }

    /// From the port where this node is reached, so that whoever hears it can come back to it.
    pub fn broadcast(&self, datagram: &[u8]) {
        for target in broadcast_targets(self.reach) {
            for port in PORTS_2014 {
                let _ = self.membership.send_to(datagram, (target, port));
            }
        }
    }

    /// Both sockets, to wait for.
    pub fn pollables(&self) -> io::Result<Vec<(UdpSocket, Pollable)>> {
        let pollable = |socket: &UdpSocket| Ok((socket.try_clone()?, Pollable::new(socket.try_clone()?.into())?));
        std::iter::once(&self.membership).chain(&self.discovery).map(pollable).collect()
    }
}

/// Hands over what has come, so many datagrams at most.
pub fn receive(socket: &UdpSocket, mut take: impl FnMut(&[u8], SocketAddr)) {
    let mut buffer = [0; DATAGRAM_ROOM];
    for _ in 0..BATCH {
        match socket.recv_from(&mut buffer) {
            Ok((len, from)) => take(&buffer[..len], from),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            // Nobody listens where one was sent before.
            Err(_) => {}
        }
    }
}

/// The first implementation's.
const PORTS_2014: RangeInclusive<u16> = 2014..=2033;
/// One byte more than the longest that is taken, so that a longer one is seen to be so.
const DATAGRAM_ROOM: usize = 1401;
const BATCH: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn the_port_of_a_server_that_has_just_ended_is_waited_for() {
        let before = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let own = before.local_addr().expect("it is bound");
        let ends = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            drop(before);
        });
        assert!(Gossip::bind(own, None, Reach::Loopback).is_ok());
        ends.join().expect("it ends");
    }
}
