//! Whose word about a client's address is taken: that of the proxies that the operator names, and nobody else's.

use crate::base::network::Network;
use std::net::IpAddr;

/// What is known of a client's way to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPath {
    /// The client itself, as far as trusted proxies say.
    pub client: IpAddr,
    /// The proxies behind it, the nearest to the client first; the last one is our peer.
    pub proxies: Vec<IpAddr>,
}

pub fn is_trusted(trusted: &[Network], address: IpAddr) -> bool {
    trusted.iter().any(|network| network.contains(address))
}

/// The client behind `peer`. `forwarded_for`: the values of all `X-Forwarded-For` headers, in order. Read from the end,
/// since each proxy appends whom it heard: the first one that is not trusted is the client, whatever it claims itself.
pub fn client_path<'a>(
    trusted: &[Network],
    peer: IpAddr,
    forwarded_for: impl DoubleEndedIterator<Item = &'a str>,
) -> ClientPath {
    let mut path = ClientPath { client: peer.to_canonical(), proxies: Vec::new() };
    if !is_trusted(trusted, path.client) {
        return path;
    }
    let mut hops = forwarded_for.flat_map(|value| value.split(',')).rev();
    while path.proxies.len() < PROXIES_MAX && is_trusted(trusted, path.client) {
        let Some(hop) = hops.next().and_then(address_of) else { break };
        path.proxies.insert(0, path.client);
        path.client = hop;
    }
    path
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]:4711`.
fn address_of(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    let address = match hop.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None if hop.matches(':').count() == 1 => hop.split_once(':')?.0,
        None => hop,
    };
    address.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// More than this is a loop, or a joke.
const PROXIES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn networks(texts: &[&str]) -> Vec<Network> {
        texts.iter().map(|text| text.parse().expect("a network")).collect()
    }

    fn client(trusted: &[&str], peer: &str, forwarded_for: &[&str]) -> String {
        client_path(&networks(trusted), ip(peer), forwarded_for.iter().copied()).client.to_string()
    }

    #[test]
    fn nobody_is_believed_who_is_not_named() {
        assert_eq!(client(&[], "192.0.2.1", &["203.0.113.9"]), "192.0.2.1");
        assert_eq!(client(&["10.0.0.0/8"], "192.0.2.1", &["203.0.113.9"]), "192.0.2.1");
    }

    #[test]
    fn the_first_that_is_not_trusted_from_the_end_is_the_client() {
        let trusted = &["10.0.0.0/8", "127.0.0.1"];
        assert_eq!(client(trusted, "10.0.0.1", &["203.0.113.9"]), "203.0.113.9");
        assert_eq!(client(trusted, "10.0.0.1", &["1.1.1.1, 203.0.113.9", "10.0.0.7"]), "203.0.113.9");
        assert_eq!(client(trusted, "127.0.0.1", &["203.0.113.9:5000"]), "203.0.113.9");
        assert_eq!(client(trusted, "127.0.0.1", &["[2001:db8::1]:5000"]), "2001:db8::1");
        assert_eq!(client(trusted, "127.0.0.1", &[]), "127.0.0.1");
        assert_eq!(client(trusted, "10.0.0.1", &["203.0.113.9, unknown"]), "10.0.0.1", "what cannot be read ends it");
        let path = client_path(&networks(trusted), ip("10.0.0.1"), ["203.0.113.9, 10.0.0.7"].into_iter());
        assert_eq!(path.proxies, [ip("10.0.0.7"), ip("10.0.0.1")]);
    }

    proptest! {
        #[test]
        fn a_client_cannot_change_what_a_trusted_proxy_appends(claim in "[ -~]{0,60}") {
            let value = format!("{claim}, 203.0.113.9");
            prop_assert_eq!(client(&["10.0.0.0/8"], "10.0.0.1", &[&value]), "203.0.113.9");
        }
    }
}
