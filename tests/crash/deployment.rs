//! A store on disk, a business server that names sessions, and Rainbow processes that come and go over both.

use crate::harness::call::{call, call_get};
use crate::harness::client::{Message, PING, Upgrade};
use crate::harness::{Backend, Client, Packet, Reply, Server, Setup, eventually};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that goes with its test, unless that fails.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new(what: &str) -> Dir {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("rainbow-crash-{}-{number}-{what}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary directory can be made");
        Dir(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("left for you: {}", self.0.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// What outlives the processes. Every client's session has the name of its device.
pub struct Deployment {
    pub backend: Backend,
    dir: Dir,
}

impl Deployment {
    pub fn new(what: &str) -> Deployment {
        let backend = Backend::start();
        backend.on_connect(|request| {
            let device = request.header("x-deviceid").expect("Rainbow hands it on");
            Reply::welcome().header("RAINBOWCLIENTSESSION", device).header("RAINBOWCLIENTSESSIONEXPIRY", "600")
        });
        Deployment { backend, dir: Dir::new(what) }
    }

    pub fn setup(&self) -> Setup {
        let dir = format!("{:?}", self.dir.0.join("store"));
        Setup::of(&self.backend).set("store.kind", "\"sqlite\"").set("store.data_dir", &dir)
    }

    pub fn start(&self) -> Server {
        self.setup().start()
    }
}

/// A client of a durable session, and whether the server knew the session.
pub fn open(server: &Server, session: &str) -> (Client, bool) {
    let mut client = Upgrade::of(session).header("Sec-WebSocket-Protocol", "rainbow.2").open(server.addr());
    let greeting = client.next_packet();
    assert_eq!((greeting.kind, greeting.qos), (u16::MAX, 0), "the first packet is the greeting: {greeting:?}");
    let greeting: Value = serde_json::from_slice(&greeting.body).expect("the greeting is JSON");
    assert_eq!(greeting["session"], session, "{greeting}");
    (client, greeting["resumed"].as_bool().expect("resumed is true or false"))
}

/// `/send/` to a session.
pub fn send(to: SocketAddr, session: &str, params: &[(&str, &str)], body: impl AsRef<[u8]>) -> Value {
    let response = call(to, "/send/", &[&[("session", session)], params].concat(), body);
    response.json()
}

/// What `/session/` says.
pub fn look(to: SocketAddr, session: &str) -> Value {
    call_get(to, "/session/", &[("session", session)]).json()
}

/// Waits until the server has noticed that the session's connection has ended.
pub fn await_absence(server: &Server, session: &str) {
    eventually("the session is offline", || (look(server.addr(), session)["online"] == false).then_some(()));
}

/// What has come until now: everything before the pong to a ping of ours.
pub fn come_so_far(client: &mut Client) -> Vec<Packet> {
    client.frame(true, PING, b"so far");
    let mut packets = Vec::new();
    loop {
        match client.next() {
            Message::Packet(packet) => packets.push(packet),
            Message::Pong(_) => return packets,
            Message::Ping(_) => {}
            Message::Close(code, reason) => panic!("closed with {code} {reason:?}"),
        }
    }
}
