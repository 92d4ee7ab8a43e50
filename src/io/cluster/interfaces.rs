//! The addresses of this machine, and which of them is this node's.

use crate::cluster::key::Reach;
use crate::config::Config;
use crate::io::runtime::sys;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where this server listens.
#[derive(Clone, Copy, Debug)]
pub struct Listeners {
    pub public: SocketAddr,
    pub admin: Option<SocketAddr>,
    /// For other nodes alone.
    pub cluster: Option<SocketAddr>,
}

/// Where the peers reach this node. `None`: without a secret the cluster is this machine's, and nothing listens on its
/// loopback.
pub fn own_address(config: &Config, reach: Reach, listeners: Listeners) -> Option<SocketAddr> {
    if config.cluster.address.is_some() {
        return config.cluster.address;
    }
    choose(reach, listeners, || sys::interfaces().iter().map(|interface| interface.address).collect())
}

fn choose(reach: Reach, listeners: Listeners, addresses: impl FnOnce() -> Vec<IpAddr>) -> Option<SocketAddr> {
    let Listeners { public, admin, cluster } = listeners;
    let reaches = |address: &SocketAddr| match reach {
        Reach::Loopback => address.ip().is_loopback() || address.ip().is_unspecified(),
        Reach::Everywhere => !address.ip().is_loopback(),
    };
    // The listener for calls rather than the one for clients, where the peers can come to it.
    let listener = cluster.or(admin.filter(reaches)).unwrap_or(public);
    if !listener.ip().is_unspecified() {
        return (reach == Reach::Everywhere || listener.ip().is_loopback()).then_some(listener);
    }
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    let ip = match reach {
        Reach::Loopback => loopback,
        Reach::Everywhere => {
            let mut addresses = addresses();
            // Link-local addresses mean nothing without their interface.
            addresses.retain(|ip| !ip.is_loopback() && !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()));
            let v4 = addresses.iter().find(|ip| ip.is_ipv4()).copied();
            v4.or(addresses.first().copied()).unwrap_or(loopback)
        }
    };
    Some(SocketAddr::new(ip, listener.port()))
}

/// Where a broadcast goes: to each network of this machine, and to this machine itself.
pub fn broadcast_targets(reach: Reach) -> Vec<IpAddr> {
    let mut targets = vec![IpAddr::from(Ipv4Addr::LOCALHOST)];
    if reach == Reach::Everywhere {
        targets.extend(sys::interfaces().iter().filter_map(|interface| interface.broadcast).map(IpAddr::from));
        targets.dedup();
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_one_that_the_peers_can_come_to() {
        let parse = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let chosen_of = |reach, listen, admin: Option<&str>, cluster: Option<&str>| {
            let addresses = || ["127.0.0.1", "fd00::5", "10.0.0.5"].map(|ip| ip.parse().expect("an address")).to_vec();
            let listeners = Listeners { public: parse(listen), admin: admin.map(parse), cluster: cluster.map(parse) };
            choose(reach, listeners, addresses).map(|address| address.to_string())
        };
        let chosen = |reach, listen, admin| chosen_of(reach, listen, admin, None);
        use Reach::{Everywhere, Loopback};
        let cases = [
            (Loopback, "0.0.0.0:1984", None, Some("127.0.0.1:1984")),
            (Loopback, "127.0.0.2:1984", None, Some("127.0.0.2:1984")),
            (Loopback, "10.0.0.5:1984", None, None),
            (Loopback, "10.0.0.5:1984", Some("127.0.0.1:1985"), Some("127.0.0.1:1985")),
            (Everywhere, "0.0.0.0:1984", None, Some("10.0.0.5:1984")),
            (Everywhere, "10.0.0.6:1984", None, Some("10.0.0.6:1984")),
            (Everywhere, "0.0.0.0:1984", Some("127.0.0.1:1985"), Some("10.0.0.5:1984")),
            (Everywhere, "0.0.0.0:1984", Some("10.0.0.9:1985"), Some("10.0.0.9:1985")),
        ];
        for (reach, listen, admin, expected) in cases {
            assert_eq!(chosen(reach, listen, admin).as_deref(), expected, "{reach:?} {listen} {admin:?}");
        }
        let with_own = |reach, own| chosen_of(reach, "0.0.0.0:1984", Some("10.0.0.9:1985"), Some(own));
        assert_eq!(with_own(Everywhere, "0.0.0.0:1987").as_deref(), Some("10.0.0.5:1987"));
        assert_eq!(with_own(Everywhere, "10.0.0.7:1987").as_deref(), Some("10.0.0.7:1987"));
        assert_eq!(with_own(Everywhere, "127.0.0.1:1987").as_deref(), Some("127.0.0.1:1987"));
        assert_eq!(with_own(Loopback, "127.0.0.1:1987").as_deref(), Some("127.0.0.1:1987"));
        assert_eq!(with_own(Loopback, "10.0.0.7:1987"), None);
    }
}
