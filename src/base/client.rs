//! What hooks say of a client beside its identity: where it is, as far as trusted proxies say, where it has come to and
//! from, and its cookie.

use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;
use std::sync::Arc;

/// What hooks say of a connection's client beside its identity. Each connection has one, and each hook that is under
/// way a clone: what many have in common is shared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientContext {
    pub address: Option<ClientAddress>,
    given: Option<Rc<Given>>,
}

/// What the business server has set. Replaced rather than changed: hooks that are under way keep what they began with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Given {
    cookie: Option<Rc<[u8]>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAddress {
    /// IPv4 as `::ffff:192.0.2.1`: `IpAddr` would need 8 bytes more in each connection.
    ip: Ipv6Addr,
    pub site: Arc<ClientSite>,
}

/// What most clients' upgrades have in common: they share it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientSite {
    pub host: Option<Box<[u8]>>,
    pub origin: Option<Box<[u8]>>,
    /// The proxies between the client and the one that is our peer, the nearest to the client first. Mostly none.
    pub proxies: Box<[IpAddr]>,
    /// The client has come by `https` or `wss`.
    pub is_secure: bool,
}

impl ClientContext {
    /// Of a client whose connection has ended.
    pub fn of_cookie(cookie: Rc<[u8]>) -> ClientContext {
        ClientContext::new(None, Some(cookie))
    }

    pub fn new(address: Option<ClientAddress>, cookie: Option<Rc<[u8]>>) -> ClientContext {
        let mut context = ClientContext { address, given: None };
        if cookie.is_some() {
            context.set_cookie(cookie);
        }
        context
    }

    pub fn cookie(&self) -> Option<&Rc<[u8]>> {
        self.given.as_ref()?.cookie.as_ref()
    }

    pub fn set_cookie(&mut self, cookie: Option<Rc<[u8]>>) {
        Rc::make_mut(self.given.get_or_insert_default()).cookie = cookie;
    }

    /// Bytes of the client's own, beside the context itself.
    pub fn memory(&self) -> usize {
        let given = self.given.as_ref().map_or(0, |_| RC_HEADER + size_of::<Given>());
        given + self.cookie().map_or(0, |cookie| RC_HEADER + cookie.len())
    }
}

impl ClientAddress {
    pub fn new(ip: IpAddr, site: Arc<ClientSite>) -> ClientAddress {
        let ip = match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        ClientAddress { ip, site }
    }

    pub fn ip(&self) -> IpAddr {
        self.ip.to_canonical()
    }
}

/// The two counters of an `Rc`.
const RC_HEADER: usize = 16;

// A connection has one, also where its client says nothing of note.
const _: () = assert!(size_of::<ClientContext>() == 32);
