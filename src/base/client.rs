//! What hooks say of a client beside its identity: where it is, as far as trusted proxies say, where it has come to and
//! from, and what the business server has set: its cookie and its user.

pub mod trace_parent;

use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;
use std::sync::Arc;
use trace_parent::TraceParent;

/// What hooks say of a connection's client beside its identity. Each connection has one, and each hook that is under
/// way a clone: it is small, and what many clients have in common is shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientContext {
    /// IPv4 as `::ffff:192.0.2.1`, unknown as `::`: an `IpAddr` would need 8 bytes more in each connection.
    ip: Ipv6Addr,
    facts: Option<Rc<ClientFacts>>,
}

/// What is known of a client beside its address. It is replaced rather than changed, since other clients share it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFacts {
    site: Option<Arc<ClientSite>>,
    cookie: Option<Rc<[u8]>>,
    user: Option<Rc<str>>,
    trace_parent: Option<Rc<TraceParent>>,
}

/// Where a client is, for another worker.
#[derive(Clone, Debug)]
pub struct ClientAddress {
    pub ip: IpAddr,
    pub site: Arc<ClientSite>,
    pub trace_parent: Option<TraceParent>,
}

/// What most clients' upgrades have in common.
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
    /// `facts` are those of the client's site, as all clients of this worker share them.
    pub fn new(ip: IpAddr, facts: Rc<ClientFacts>) -> ClientContext {
        let ip = match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        ClientContext { ip, facts: Some(facts) }
    }

    /// Of a client that was another process's, or that has no connection any more.
    pub fn of_absent(cookie: Option<Rc<[u8]>>, user: Option<Rc<str>>) -> ClientContext {
        ClientContext::default().with(cookie, user)
    }

    pub fn ip(&self) -> Option<IpAddr> {
        (!self.ip.is_unspecified()).then(|| self.ip.to_canonical())
    }

    pub fn site(&self) -> Option<&Arc<ClientSite>> {
        self.facts.as_ref()?.site.as_ref()
    }

    /// The client has come by `https` or `wss`.
    pub fn is_secure(&self) -> bool {
        self.site().is_some_and(|site| site.is_secure)
    }

    /// For another worker: cookie and user go their own way.
    pub fn address(&self) -> ClientAddress {
        let (site, trace_parent) = (self.site().cloned().unwrap_or_default(), self.trace_parent().cloned());
        ClientAddress { ip: self.ip.to_canonical(), site, trace_parent }
    }

    pub fn cookie(&self) -> Option<&Rc<[u8]>> {
        self.facts.as_ref()?.cookie.as_ref()
    }

    pub fn set_cookie(&mut self, cookie: Option<Rc<[u8]>>) {
        if self.cookie() != cookie.as_ref() {
            Rc::make_mut(self.facts.get_or_insert_default()).cookie = cookie;
        }
    }

    /// Who the client is, as the business server says.
    pub fn user(&self) -> Option<&Rc<str>> {
        self.facts.as_ref()?.user.as_ref()
    }

    pub fn set_user(&mut self, user: Option<Rc<str>>) {
        if self.user() != user.as_ref() {
            Rc::make_mut(self.facts.get_or_insert_default()).user = user;
        }
    }

    /// The trace that the client's connect belongs to.
    pub fn trace_parent(&self) -> Option<&TraceParent> {
        self.facts.as_ref()?.trace_parent.as_deref()
    }

    /// The same client, of this trace.
    pub fn of_trace(mut self, trace_parent: Option<TraceParent>) -> ClientContext {
        if trace_parent.is_some() {
            Rc::make_mut(self.facts.get_or_insert_default()).trace_parent = trace_parent.map(Rc::new);
        }
        self
    }

    /// The same client with this cookie, and as this user.
    pub fn with(mut self, cookie: Option<Rc<[u8]>>, user: Option<Rc<str>>) -> ClientContext {
        self.set_cookie(cookie);
        self.set_user(user);
        self
    }

    /// Bytes that are this client's alone, beside the context itself.
    pub fn memory(&self) -> usize {
        let trace_parent = self.trace_parent().map(|_| size_of::<TraceParent>());
        let lengths = [self.cookie().map(|cookie| cookie.len()), self.user().map(|user| user.len()), trace_parent];
        let texts: usize = lengths.into_iter().flatten().map(|len| RC_HEADER + len).sum();
        if texts == 0 { 0 } else { RC_HEADER + size_of::<ClientFacts>() + texts }
    }
}

impl Default for ClientContext {
    fn default() -> ClientContext {
        ClientContext { ip: Ipv6Addr::UNSPECIFIED, facts: None }
    }
}

impl From<Arc<ClientSite>> for ClientFacts {
    fn from(site: Arc<ClientSite>) -> ClientFacts {
        ClientFacts { site: Some(site), ..ClientFacts::default() }
    }
}

/// The two counters of an `Rc`.
const RC_HEADER: usize = 16;

// A connection has one, also where its client says nothing of note.
const _: () = assert!(size_of::<ClientContext>() == 24);
