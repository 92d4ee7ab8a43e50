//! The scenarios whose figure is CPU per operation against a floor: fanout, send, uplink, storm.

use super::{Bench, Case};
use crate::row::Row;
use crate::target::Kind;
use crate::work::Pace;
use crate::work::fanout::{Fanout, ROOM};
use crate::work::http_echo::HttpEcho;
use crate::work::send::{Send, channel};
use crate::work::storm::Storm;
use crate::work::uplink::Uplink;

/// Every message to every client.
#[derive(Clone, Copy, Debug)]
pub struct FanoutCase {
    pub clients: usize,
    pub qos: u8,
    pub pace: Pace,
    pub must: Option<f64>,
}

pub fn fanout(bench: &Bench, case: FanoutCase) -> Result<Vec<Row>, String> {
    let FanoutCase { clients, qos, pace, must } = case;
    let one = |kind: Kind, qos: u8| {
        let work = Fanout::new(clients as u32, qos, pace, bench.size);
        let name = format!("{clients} clients, QoS {qos}, {}", pace.name());
        Case::new(kind, clients, |_| ROOM.into(), work.calls(), work).named(&name)
    };
    let second = if pace == Pace::Closed(1) { "uring" } else { "epoll8" };
    let server = one(Kind::rainbow(bench.server_core()), qos).must(must);
    let mut cases = vec![one(Kind::Floor("epoll"), 0), one(Kind::Floor(second), 0), server];
    cases.extend(peers(qos).map(|peer| one(peer, qos)));
    bench.compare("fanout", cases, 1)
}

/// Every message to one client, the clients in turn.
#[derive(Clone, Debug)]
pub struct SendCase {
    pub clients: usize,
    pub pace: Pace,
    /// Measured side by side, each with its must.
    pub qos: Vec<(u8, Option<f64>)>,
}

pub fn send(bench: &Bench, case: &SendCase) -> Result<Vec<Row>, String> {
    let SendCase { clients, pace, qos } = case;
    let one = |kind: Kind, qos: u8| {
        let work = Send::new(*clients as u32, qos, *pace, bench.size);
        let name = format!("to one of {clients}, QoS {qos}, {}", pace.name());
        Case::new(kind, *clients, channel, work.calls(), work).named(&name)
    };
    let mut cases = vec![one(Kind::Floor("send-one"), 0)];
    cases.extend(qos.iter().map(|&(qos, must)| one(Kind::rainbow(bench.server_core()), qos).must(must)));
    for &(qos, _) in qos {
        cases.extend(peers(qos).map(|peer| one(peer, qos)));
    }
    bench.compare("send", cases, 1)
}

/// Clients' messages to the business server; the floor is an echo and an HTTP echo.
pub fn uplink(bench: &Bench, clients: usize, qos: u8, pace: Pace, must: Option<f64>) -> Result<Vec<Row>, String> {
    let name = format!("{clients} clients, QoS {qos}, {}", pace.name());
    let one = |kind: Kind| {
        let work = Uplink::new(clients as u32, qos, pace, bench.size, 0);
        Case::new(kind, clients, |_| String::new(), 0, work).named(&name)
    };
    let http = Case::new(Kind::Floor("http-echo"), 0, |_| String::new(), clients, HttpEcho::new(bench.size));
    let server = one(Kind::rainbow(bench.server_core())).must(must);
    bench.compare("uplink", vec![one(Kind::Floor("echo")), http.named(&name), server], 2)
}

/// Handshake with the connect hook, and close.
pub fn storm(bench: &Bench, in_flight: usize, must: Option<f64>) -> Result<Vec<Row>, String> {
    let name = format!("{in_flight} in flight");
    let one = |kind: Kind| Case::new(kind, in_flight, |_| String::new(), 0, Storm::new(in_flight)).named(&name);
    let server = one(Kind::rainbow(bench.server_core())).must(must);
    let mut cases = vec![one(Kind::Floor("upgrade")), server];
    cases.extend(peers(0).map(one));
    bench.compare("storm", cases, 1)
}

/// The peers that have such a quality of service at all; nchan's only is the one of TCP.
fn peers(qos: u8) -> impl Iterator<Item = Kind> {
    ["nchan", "mosquitto"]
        .into_iter()
        .filter(move |&name| qos == 0 || (qos == 1 && name == "mosquitto"))
        .map(Kind::Peer)
}
