//! What hooks say of a client beside its identity: where it is, as far as trusted proxies say, where it has come to and
//! from, and its cookie.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

/// What hooks say of a connection's client beside its identity. Replaced rather than changed: hooks that are under way
/// keep what they began with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientContext {
    /// As the business server has set it.
    pub cookie: Option<Rc<[u8]>>,
    pub address: Option<ClientAddress>,
}

impl ClientContext {
    /// Of a client whose connection has ended.
    pub fn of_cookie(cookie: Rc<[u8]>) -> ClientContext {
        ClientContext { cookie: Some(cookie), address: None }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAddress {
    pub address: IpAddr,
    /// The proxies between the client and the one that is our peer, the nearest to the client first. Mostly none.
    pub proxies: Box<[IpAddr]>,
    /// It has come by `https` or `wss`.
    pub is_secure: bool,
    pub site: Option<Arc<ClientSite>>,
}

/// `Host` and `Origin` of a client's upgrade. Most clients have the same: they share it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientSite {
    pub host: Option<Box<[u8]>>,
    pub origin: Option<Box<[u8]>>,
}

/// Without a proxy that says more.
impl From<IpAddr> for ClientAddress {
    fn from(address: IpAddr) -> ClientAddress {
        ClientAddress { address, proxies: Box::default(), is_secure: false, site: None }
    }
}
