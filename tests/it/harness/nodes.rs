//! Durable sessions on the nodes of a cluster, as their clients and callers see them, wherever the nodes keep them.

use std::time::Duration;

use serde_json::Value;

use super::call::{call_get, send};
use super::{Backend, Client, Reply, Server, Upgrade, eventually, eventually_within};

/// Nodes of one cluster. Every device is a session of that name, in the channel `all` and in one of its own name.
pub trait SessionNodes {
    fn node(&self, node: usize) -> &Server;

    fn running(&self) -> Vec<&Server>;

    fn until_linked(&self) {
        let others = self.running().len() - 1;
        for node in self.running() {
            eventually("the nodes are linked", || {
                let info = call_get(node.addr(), "/info/", &[]).json();
                let peers = info["peers"].as_array().map(Vec::as_slice).unwrap_or_default();
                let linked = peers.iter().filter(|peer| peer["state"] == "live" && peer["is_linked"] == true);
                (linked.count() == others).then_some(())
            });
        }
    }

    /// The client, and what it is told first.
    fn open(&self, node: usize, name: &str) -> (Client, Value) {
        let mut client = Upgrade::of(name).header("Sec-WebSocket-Protocol", "rainbow.2").open(self.node(node).addr());
        let greeting = client.expect_send();
        (client, serde_json::from_slice(&greeting.body).expect("JSON"))
    }

    fn session(&self, node: usize, name: &str) -> Value {
        call_get(self.node(node).addr(), "/session/", &[("session", name)]).json()
    }

    /// A session that is absent from here on.
    fn absent(&self, node: usize, name: &str) {
        self.open(node, name).0.leave();
        eventually("the session is absent", || (self.session(node, name)["online"] == false).then_some(()));
    }

    fn send(&self, node: usize, channel: &str, body: &str) -> Value {
        send(self.node(node).addr(), channel, &[("qos", "2")], body)
    }

    /// Tries again while it is refused, as callers do.
    fn send_until_taken(&self, node: usize, channel: &str, body: &str) -> Value {
        let params = [("qos", "2"), ("message_id", body)];
        eventually_within(Duration::from_secs(40), "the message is taken", || {
            let answer = send(self.node(node).addr(), channel, &params, body);
            (answer["status"] == 0).then_some(answer)
        })
    }
}

/// As `SessionNodes` has it.
pub fn name_sessions_by_device(backend: &Backend) {
    backend.on_connect(|request| {
        let device = request.header("X-DEVICEID").expect("a device");
        let channels = format!("all;;of {device}");
        Reply::welcome().header("RAINBOWCLIENTSESSION", device).header("RAINBOWCLIENTCHANNEL", &channels)
    });
}

/// All rows of the node's metrics that begin so, added up.
pub fn figure_of(node: &Server, begin: &str) -> u64 {
    let metrics = call_get(node.addr(), "/metrics", &[]).text();
    let of_row = |row: &str| row.strip_prefix(begin)?.rsplit(' ').next()?.parse::<u64>().ok();
    metrics.lines().filter_map(of_row).sum()
}
