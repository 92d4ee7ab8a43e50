//! Hosts with a node and its business server each, and what can be seen on them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::call::{call_get, send, send_later};
use crate::harness::ports::{self, free_port};
use crate::harness::{Backend, Client, Command, Reply, Server, Setup, TOKEN, Upgrade};
use crate::network::{Family, Lan, Namespace, Port};

/// A host of one LAN; it may have one node.
pub struct Host {
    pub namespace: Namespace,
    pub port: Port,
    /// At 127.0.0.1, as all of a host's own traffic.
    backend: Option<Backend>,
    pub server: Option<Server>,
}

/// Hosts of one LAN.
pub struct Hosts {
    pub lan: Lan,
    pub hosts: Vec<Host>,
}

impl Host {
    pub fn new(lan: &Lan, family: Family) -> Host {
        let namespace = Namespace::new();
        let port = lan.connect(&namespace, "eth0", family);
        Host::with(namespace, port)
    }

    pub fn with(namespace: Namespace, port: Port) -> Host {
        let backend = namespace.enter(|| {
            let backend = Backend::start_on(ports::port(BACKEND_PORT));
            backend.forgetful();
            backend.on_connect(|request| {
                let channels = request.param("channels").unwrap_or_default();
                let welcome = Reply::welcome().header("RAINBOWCLIENTCHANNEL", &channels);
                match request.param("session") {
                    Some(name) => welcome.header("RAINBOWCLIENTSESSION", &name),
                    None => welcome,
                }
            });
            backend
        });
        Host { namespace, port, backend: Some(backend), server: None }
    }

    /// At its usual port.
    pub fn start(&mut self, setup: Setup) {
        assert!(self.server.is_none(), "one node per host");
        self.server = Some(self.start_at_its_port(setup));
    }

    /// For a caller that keeps the server itself.
    pub fn start_at_its_port(&self, setup: Setup) -> Server {
        self.start_on(setup, Some(NODE_PORT))
    }

    /// Another node of this host.
    pub fn start_beside(&self, setup: Setup) -> Server {
        self.start_on(setup, None)
    }

    fn start_on(&self, setup: Setup, port: Option<u16>) -> Server {
        let setup = setup.env("RAINBOW_CLUSTER", "auto").env("RAINBOW_WORKERS", "2").ends_with_its_thread();
        self.namespace.enter_to_stay(move || setup.start_on(port.map_or_else(free_port, ports::port)))
    }

    pub fn backend(&self) -> &Backend {
        self.backend.as_ref().expect("until it is dropped")
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("it runs")
    }

    pub fn get(&self, path: &str) -> Value {
        self.namespace.enter(|| call_get(NODE, path, &[]).json())
    }

    /// Of /info/.
    pub fn peers(&self) -> Vec<Value> {
        self.get("/info/")["peers"].as_array().cloned().unwrap_or_default()
    }

    /// Peers that are seen as they should be.
    pub fn live(&self) -> usize {
        self.peers().iter().filter(|peer| peer["state"] == "live" && peer["is_linked"] == true).count()
    }

    /// What it says of another; there may be several lives of it.
    pub fn states_of(&self, other: &Host) -> Vec<String> {
        let (v4, v6) = (format!("{}:", other.port.v4()), format!("[{}]:", other.port.v6()));
        let is_it =
            |peer: &Value| peer["address"].as_str().is_some_and(|at| at.starts_with(&v4) || at.starts_with(&v6));
        self.peers().iter().filter(|peer| is_it(peer)).map(|peer| text(&peer["state"])).collect()
    }

    pub fn client(&self, channels: &str) -> Client {
        self.namespace.enter(|| Upgrade::of("phone").query("channels", channels).open(NODE))
    }

    /// At QoS 0, and how long the answer took.
    pub fn send(&self, channel: &str) -> (Value, Duration) {
        let begun = Instant::now();
        let answer = self.namespace.enter(|| send(NODE, channel, &[("qos", "0"), ("timeout", "1")], "x"));
        (answer, begun.elapsed())
    }

    /// At QoS 1; these clients acknowledge it.
    pub fn send_to(&self, channel: &str, clients: &mut [&mut Client]) -> (Value, Duration) {
        static CALLS: AtomicU32 = AtomicU32::new(0);
        let body = format!("call {}", CALLS.fetch_add(1, Ordering::Relaxed));
        let begun = Instant::now();
        let params = [("qos", "1"), ("timeout", "1")];
        let answer = self.namespace.enter(|| send_later(NODE, channel, &params, &body));
        for client in clients {
            let mut packets = std::iter::repeat_with(|| client.expect_send());
            let sent = packets.find(|sent| sent.body == body.as_bytes());
            client.answer(Command::Ack, sent.expect("endless").id, "");
        }
        (answer.join().expect("it is answered"), begun.elapsed())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.server = None;
        // It talks to itself to stop.
        let backend = self.backend.take();
        self.namespace.enter(|| drop(backend));
    }
}

impl Hosts {
    /// Without nodes.
    pub fn new(count: usize, family: Family) -> Hosts {
        let lan = Lan::new(1);
        let hosts = (0..count).map(|_| Host::new(&lan, family)).collect();
        Hosts { lan, hosts }
    }

    /// Nodes of one 2014 file that have found each other.
    pub fn start(count: usize) -> Hosts {
        let mut hosts = Hosts::new(count, Family::V4);
        hosts.hosts.iter_mut().for_each(|host| host.start(of_2014()));
        hosts.until_linked(DISCOVERY);
        hosts
    }

    /// Everybody sees everybody, after at most so long.
    pub fn until_linked(&self, limit: Duration) -> Duration {
        let begun = Instant::now();
        let others = self.hosts.len() - 1;
        for host in &self.hosts {
            let left = limit.saturating_sub(begun.elapsed());
            until(left, || (host.live() == others).then_some(()), || self.views());
        }
        begun.elapsed()
    }

    /// Each node's message reaches the clients of all: `all` has a client on each.
    pub fn assert_one(&self, clients: &mut [Client]) {
        for host in &self.hosts {
            let mut clients: Vec<&mut Client> = clients.iter_mut().collect();
            let (answer, _) = host.send_to("all", &mut clients);
            let figures = ["status", "connections"].map(|figure| answer[figure].as_u64());
            assert_eq!(figures, [Some(0), Some(clients.len() as u64)], "{answer}, {}", self.views());
        }
    }

    /// One client for each host, of the channel `all` and one of its own.
    pub fn clients(&self) -> Vec<Client> {
        self.hosts.iter().enumerate().map(|(number, host)| host.client(&format!("all;;of{number}"))).collect()
    }

    /// For messages of failure.
    pub fn views(&self) -> String {
        let view = |peer: Value| {
            format!(
                "{} {} {} {}",
                text(&peer["address"]),
                text(&peer["state"]),
                text(&peer["reason"]),
                peer["is_linked"]
            )
        };
        let of =
            |host: &Host| format!("{}: {:?}", host.port.v4(), host.peers().into_iter().map(view).collect::<Vec<_>>());
        self.hosts.iter().filter(|host| host.server.is_some()).map(of).collect::<Vec<_>>().join("\n")
    }
}

/// The file of 2014: the same on all hosts.
pub fn of_2014() -> Setup {
    let url = |path: &str| format!("http://127.0.0.1:{BACKEND_PORT}{path}");
    let ini = format!(
        "[main]\nconnect_url = {}\nforward_url = {}\nclose_url = {}\nsecurity_token = {TOKEN}\n",
        url("/connect/"),
        url("/message/{message_type}/"),
        url("/close/"),
    );
    let log = std::env::var("RAINBOW_IT_LOG").unwrap_or_else(|_| "info".into());
    Setup::new().file("rainbow.ini", &ini).env("RAINBOW_LOG", &log)
}

/// Keys of today beside those of 2014.
pub fn with(keys: &[(&str, &str)]) -> Setup {
    let url = |path: &str| format!("http://127.0.0.1:{BACKEND_PORT}{path}");
    let setup = Setup::new()
        .text("connect_url", &url("/connect/"))
        .text("forward_url", &url("/message/{message_type}/"))
        .text("close_url", &url("/close/"))
        .text("listen", "0.0.0.0");
    keys.iter().fold(setup, |setup, (key, value)| setup.set(key, value))
}

/// Looks until there is something; `why_not` tells what is there instead when the time is over.
pub fn until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>, why_not: impl FnOnce() -> String) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        if Instant::now() >= deadline {
            panic!("not within {limit:?}:\n{}", why_not());
        }
        // Nothing tells us when another process changes.
        pause(Duration::from_millis(20));
    }
}

/// Looks again and again for so long.
pub fn during(length: Duration, mut look: impl FnMut()) {
    let end = Instant::now() + length;
    while Instant::now() < end {
        look();
        pause(Duration::from_millis(20));
    }
}

pub fn pause(length: Duration) {
    let end = Instant::now() + length;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("?").to_owned()
}

/// Nodes of one LAN find each other within so long.
pub const DISCOVERY: Duration = Duration::from_secs(5);
/// After a partition both sides agree within so long.
pub const HEALING: Duration = Duration::from_secs(10);
pub const NODE_PORT: u16 = 1984;
const BACKEND_PORT: u16 = 7000;
/// Of each host, seen from itself.
pub const NODE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), NODE_PORT);
