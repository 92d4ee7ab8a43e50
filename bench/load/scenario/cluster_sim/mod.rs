//! 100 nodes with 1,000,000 clients each: what a broadcast to all of them takes, the death of a node, and a restart of the
//! whole.
//!
//! Simulated, with the server's own plain data: how the nodes find and lose each other, and what the directory sends
//! (`net`). A stated model, since nobody has a hundred million clients here: what the clients cost (`model`), with the
//! figures of the last recorded run of this harness (`bench/history.jsonl`): `fanout` for a delivery, `storm` for a
//! connection, `idle` for its memory. A cluster has 64 nodes at most, so that these are two clusters of 50 behind one
//! caller. Each node has 8 cores and 10 Gbit/s; the business server is as fast as it has to be.

mod model;
mod net;
mod plot;

use super::Bench;
use crate::row::Row;
use model::{Costs, back_after};
use net::{LATENCY_MS, Net, on_the_wire};
use plot::{Curve, Panel};
use rainbow::base::id::Generation;
use rainbow::base::rng::Rng;
use rainbow::base::time::Tick;
use rainbow::cluster::calls::{Call, SendCall};
use rainbow::cluster::directory::{Directory, Output};
use rainbow::cluster::membership::peer::PeerState;
use rainbow::shard::Wait;
use rainbow::wire::packet::QoS;
use rainbow::wire::peer::frame::Frame;
use std::time::Instant;

/// How large it is.
struct Size {
    clusters: usize,
    /// Of one cluster.
    nodes: usize,
    /// Of one node, each with a channel of its own.
    clients: usize,
}

impl Size {
    fn all_nodes(&self) -> usize {
        self.clusters * self.nodes
    }

    fn words(&self) -> String {
        format!("{} nodes × {} clients", self.all_nodes(), self.clients)
    }
}

/// What one node tells another of its channels when a link comes up.
struct Snapshot {
    bytes: u64,
    /// Of the node that tells, and of the one that is told.
    cpu_ms: f64,
    table_bytes: usize,
}

pub fn cluster_sim(bench: &Bench) -> Result<Vec<Row>, String> {
    let size = if bench.small {
        Size { clusters: 2, nodes: 5, clients: 10_000 }
    } else {
        Size { clusters: 2, nodes: 50, clients: 1_000_000 }
    };
    let costs = Costs::of_last_run()?;
    eprintln!("cluster-sim: costs of {}", costs.source);
    let (mut net, formed) = form(&size)?;
    let before = net.traffic;
    net.run(STEADY_MS);
    let steady = net.traffic.since(before).bytes() as f64 / (STEADY_MS as f64 / 1e3) / size.nodes as f64;
    let snapshot = snapshot(&size);
    let mut rows = vec![
        row("the nodes of a cluster find each other", formed.0, size.nodes, vec![("MB", formed.1)]),
        row("one second of a node without anything to do", steady / 1e3, size.nodes, vec![]).in_unit("kB"),
        row(
            "one node's channels to one other",
            snapshot.cpu_ms / 1e3,
            size.clients,
            vec![
                ("MB", snapshot.bytes as f64 / 1e6),
                ("MB_kept", snapshot.table_bytes as f64 / 1e6),
                ("GB_kept_of_all", snapshot.table_bytes as f64 * (size.nodes - 1) as f64 / 1e9),
            ],
        ),
    ];
    let mut panels = Vec::new();
    broadcast(&size, &costs, &mut rows, &mut panels);
    death(&size, &costs, &mut rows, &mut panels)?;
    restart(&size, &costs, &snapshot, formed.0, &mut rows, &mut panels);
    if !bench.small {
        plot::write(&panels, &format!("{}; costs: {}", size.words(), costs.source)).map_err(|e| e.to_string())?;
    }
    Ok(rows)
}

fn row(case: &str, seconds: f64, count: usize, extra: Vec<(&'static str, f64)>) -> Row {
    let (scenario, case, target, unit) = ("cluster-sim", case.to_owned(), "simulated".to_owned(), "s");
    let (value, low, high, ops) = (seconds, seconds, seconds, count as u64);
    Row { scenario, case, target, unit, value, low, high, ops, extra, ..Row::default() }
}

trait InUnit {
    fn in_unit(self, unit: &'static str) -> Self;
}

impl InUnit for Row {
    fn in_unit(self, unit: &'static str) -> Row {
        Row { unit, ..self }
    }
}

/// One cluster's nodes that start together: when everybody has a link to everybody, and the traffic in MB.
fn form(size: &Size) -> Result<(Net, (f64, f64)), String> {
    let mut net = Net::new(size.nodes);
    let took = net.run_until(10, 60_000, Net::is_whole).ok_or("the nodes have not found each other in a minute")?;
    let mb = net.traffic.bytes() as f64 / 1e6;
    Ok((net, (took as f64 / 1e3, mb)))
}

/// The real directories of two nodes, and what goes over the link between them.
fn snapshot(size: &Size) -> Snapshot {
    let now = Tick(1_000_000);
    let (one, other) = (Generation(1), Generation(2));
    let (mut from, mut to) = (Directory::new(now), Directory::new(now));
    let mut rng = Rng::new(1);
    (0..size.clients).for_each(|_| from.add(rng.next_u64()));
    from.end_turn(now);
    let begun = Instant::now();
    from.link_up(other);
    to.link_up(one);
    let (mut bytes, mut frames) = (0, Vec::new());
    loop {
        frames.clear();
        let is_more = from.next_frame(other, &mut frames);
        exchange(&mut to, one, &frames, now);
        bytes += frames.len() as u64;
        frames.clear();
        while to.next_frame(one, &mut frames) {}
        exchange(&mut from, other, &frames, now);
        bytes += frames.len() as u64;
        if !is_more {
            break;
        }
    }
    while !matches!(to.poll_output(), None | Some(Output::Table(_))) {}
    let table_bytes = to.table(one).map_or(0, |table| {
        assert!(rng_hashes(size.clients).all(|hash| table.may_have(hash)), "the directory has lost a channel");
        to.bytes()
    });
    Snapshot { bytes: on_the_wire(bytes), cpu_ms: begun.elapsed().as_secs_f64() * 1e3, table_bytes }
}

fn rng_hashes(count: usize) -> impl Iterator<Item = u64> {
    let mut rng = Rng::new(1);
    (0..count).map(move |_| rng.next_u64())
}

fn exchange(directory: &mut Directory, from: Generation, mut frames: &[u8], now: Tick) {
    while let Some((frame, len)) = Frame::decode(frames, 16 << 20).expect("ours") {
        directory.receive(from, frame, now);
        frames = &frames[len..];
    }
}

/// One call to one node of each cluster, one hop to the others, one delivery to each client.
fn broadcast(size: &Size, costs: &Costs, rows: &mut Vec<Row>, panels: &mut Vec<Panel>) {
    let body = vec![b'x'; BODY_BYTES];
    let call = Call::Send(SendCall {
        channels: vec!["all"],
        qos: QoS::AtMostOnce,
        message_type: 1,
        ttl_ms: None,
        wait: Wait::Answered,
        claim: None,
        body: &body,
    });
    let (mut encoded, mut frame) = (Vec::new(), Vec::new());
    call.encode_into(&mut encoded);
    Frame::Call { id: 1, deadline_ms: 10_000, method: call.method(), body: &encoded }.encode_into(&mut frame);
    let between = on_the_wire(frame.len() as u64) * (size.all_nodes() - size.clusters) as u64;
    let all = size.all_nodes() * size.clients;
    let by_cpu = size.clients as f64 * costs.delivery_us / 1e6 / model::CORES;
    let by_network = size.clients as f64 * model::delivery_bytes(BODY_BYTES) / model::NETWORK_BYTES_PER_S;
    let hops = 2.0 * LATENCY_MS as f64 / 1e3;
    let took = hops + by_cpu.max(by_network);
    rows.push(row(
        &format!("a broadcast of {BODY_BYTES} bytes to {all}"),
        took,
        all,
        vec![
            ("by_cpu_s", by_cpu),
            ("by_network_s", by_network),
            ("MB_between_nodes", between as f64 / 1e6),
            ("GB_to_clients", all as f64 * model::delivery_bytes(BODY_BYTES) / 1e9),
        ],
    ));
    panels.push(Panel {
        title: format!("A broadcast to {all}: {took:.2} s"),
        curves: vec![Curve::new("clients that have it", vec![(0.0, 0.0), (hops, 0.0), (took, 1.0)])],
    });
}

/// A process that is killed, and a machine that is gone: when the others know, when its clients are elsewhere, and when
/// its closes are reported.
fn death(size: &Size, costs: &Costs, rows: &mut Vec<Row>, panels: &mut Vec<Panel>) -> Result<(), String> {
    let mut curves = Vec::new();
    for (case, is_killed) in [("killed", true), ("gone with its machine", false)] {
        let (mut net, _) = form(size)?;
        net.run(10_000);
        let (before, begun) = (net.traffic, net.now);
        if is_killed {
            net.kill(0)
        } else {
            net.lose(0)
        }
        let is_dead = |peer: &rainbow::cluster::node::PeerView| peer.node.generation == Generation(1);
        let mut seen = vec![(0.0, 0.0)];
        let others = net.live() as f64;
        let unlinked =
            |net: &Net| net.views().filter(|peers| !peers.iter().any(|peer| is_dead(peer) && peer.is_linked)).count();
        while unlinked(&net) < net.live() {
            net.run(10);
            seen.push((net.now.since_ms(begun) as f64 / 1e3, unlinked(&net) as f64 / others));
            if net.now.since_ms(begun) > 60_000 {
                return Err("a node that has died is still linked after a minute".into());
            }
        }
        let unlinked_s = net.now.since_ms(begun) as f64 / 1e3;
        let down = |net: &Net| {
            let is_down = |peer: &rainbow::cluster::node::PeerView| {
                is_dead(peer) && matches!(peer.state, PeerState::Down | PeerState::Dead)
            };
            net.views().all(|peers| peers.iter().any(is_down))
        };
        net.run_until(10, 60_000, down).ok_or("a node that has died is not down after a minute")?;
        let down_s = net.now.since_ms(begun) as f64 / 1e3;
        let traffic = net.traffic.since(before);
        // Of a machine that is gone its clients hear nothing: they ask after the heartbeat, and give up 10 s later.
        let silence_ms = if is_killed { 0 } else { model::HEARTBEAT_MS };
        let share = size.clients / (size.nodes - 1);
        let back = back_after(share, silence_ms, 0, costs.connections_per_s());
        let back_s = back.last().copied().unwrap_or_default();
        let closes_s = model::LEASE_S + size.clients as f64 / (model::CLOSES_PER_S * (size.nodes - 1) as f64);
        rows.push(row(
            &format!("a node is {case}: no call waits for it"),
            unlinked_s,
            size.clients,
            vec![
                ("down_s", down_s),
                ("MB_between_nodes", traffic.bytes() as f64 / 1e6),
                ("clients_back_s", back_s),
                ("closes_reported_s", closes_s),
                ("clients_each_of_the_others_takes", share as f64),
            ],
        ));
        curves.push(Curve::new(&format!("{case}: nodes that know"), seen));
        curves.push(Curve::of_times(&format!("{case}: clients back"), &back));
    }
    panels.push(Panel { title: "The death of a node".into(), curves });
    Ok(())
}

/// Everything stops and starts again after a while; and one node after the other.
fn restart(
    size: &Size,
    costs: &Costs,
    snapshot: &Snapshot,
    formed_s: f64,
    rows: &mut Vec<Row>,
    panels: &mut Vec<Panel>,
) {
    let snapshots = snapshot.bytes as f64 * (size.nodes - 1) as f64;
    let exchanged_s = snapshots / model::NETWORK_BYTES_PER_S;
    let ready_s = model::START_S + formed_s.max(exchanged_s);
    let back = back_after(size.clients, 0, (ready_s * 1e3) as u64, costs.connections_per_s());
    let all_s = back.last().copied().unwrap_or_default();
    let most_s = back[back.len() * 99 / 100];
    let case = format!("all {} nodes start again after {} s: every client is back", size.all_nodes(), model::START_S);
    rows.push(row(
        &case,
        all_s,
        size.all_nodes() * size.clients,
        vec![
            ("99_percent_s", most_s),
            ("nodes_ready_s", ready_s),
            ("GB_of_snapshots_per_node", snapshots / 1e9),
            ("GB_RSS_per_node", size.clients as f64 * costs.client_bytes / 1e9),
        ],
    ));
    // As `policy::drain` has it: the rate, or what half of shutdown_timeout asks for.
    let drain_s = (size.clients as f64 / model::DRAIN_RATE).min(model::SHUTDOWN_S / 2.0);
    let each_s = drain_s + model::START_S;
    let rolling = format!("a rolling restart, each cluster one node after the other: {each_s:.0} s each");
    rows.push(row(&rolling, each_s * size.nodes as f64, size.all_nodes(), vec![]));
    panels.push(Panel {
        title: format!("A restart of the whole: {all_s:.0} s"),
        curves: vec![Curve::of_times("clients back", &back)],
    });
}

const STEADY_MS: u64 = 20_000;
const BODY_BYTES: usize = 128;
