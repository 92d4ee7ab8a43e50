//! The cluster as /info/ shows it: the figures of each node, and how the others look from this one.

use super::{query, transfers};
use crate::base::id::{Generation, NodeId};
use crate::cluster::calls::Call;
use crate::cluster::membership::peer::PeerState;
use crate::cluster::node::{PeerView, Rejections};
use crate::cluster::transfers::TransferCall;
use crate::io::http::response::Response;
use crate::io::runtime::clock;
use crate::io::worker::calls::gather::Gathered;
use crate::io::worker::shared::Shared;
use crate::io::worker::turn::Worker;
use crate::metrics::process::ClusterReadings;
use crate::policy::api::Refusal;
use crate::shard::Reply;
use crate::shard::command::StoreError;
use crate::wire::http1::query::query_get;
use serde_json::{Value, json};

/// The figures of every node that answers, this one's among them.
pub async fn nodes(worker: &Worker, own: &Value) -> Result<Vec<Value>, Refusal> {
    let Gathered { texts, .. } = query::look_at_nodes(worker, &Call::Info).await?;
    let others = texts.iter().filter_map(|text| serde_json::from_str(text).ok());
    Ok(others.chain([own.clone()]).collect())
}

/// The other nodes, as this one sees them.
pub fn peers(worker: &Worker) -> Value {
    let Some(port) = worker.cluster().port() else { return Value::Null };
    let (view, now) = (port.view(), clock::monotonic());
    let is_shown = |state, since| state != PeerState::Dead || now.since_ms(since) < DEAD_SHOWN_MS;
    let peers = view.peers.iter().filter(|peer| is_shown(peer.state, peer.since));
    let one = |peer: &PeerView| {
        json!({
            "node": peer.node.generation.to_string(),
            "address": peer.node.address.to_string(),
            "state": STATES.iter().find(|(_, state)| *state == peer.state).map_or("left", |(name, _)| name),
            "reason": format!("{:?}", peer.reason),
            "since_s": now.since_ms(peer.since) / 1000,
            "is_linked": peer.is_linked,
            "round_trip_ms": peer.round_trip_ms,
            "queued_bytes": worker.cluster().queued_bytes(peer.node.generation),
        })
    };
    let is_known = |node: &NodeId| view.peers.iter().any(|peer| peer.node.generation == node.generation);
    let unmet = view.missed.iter().filter(|node| !is_known(node));
    peers.map(one).chain(unmet.map(unmet_peer)).collect::<Vec<_>>().into()
}

/// A node that this one has met in an earlier life, and not in this one.
fn unmet_peer(node: &NodeId) -> Value {
    json!({
        "node": node.generation.to_string(),
        "address": "unknown",
        "state": "missed",
        "reason": "MetBefore",
        "since_s": null,
        "is_linked": false,
        "round_trip_ms": null,
        "queued_bytes": 0,
    })
}

/// The operator says that a node does not come back: what it had is nobody's, and is not looked for.
pub async fn forget(worker: &Worker, query: &str) -> Result<Response, Refusal> {
    let node = query_get(query, "node").and_then(|node| u32::from_str_radix(&node, 16).ok());
    let node = Generation(node.ok_or(Refusal::BadNode)?);
    let peers = worker.cluster().peers();
    match peers.iter().find(|peer| peer.node.generation == node) {
        Some(peer) if peer.is_linked => return Err(Refusal::NodeIsThere),
        Some(_) => {}
        None => return Err(Refusal::BadNode),
    }
    if !transfers::part(worker, node).await {
        return Err(Refusal::Store(StoreError::Unreachable));
    }
    let mut unreachable = 0;
    for peer in peers.iter().filter(|peer| peer.node.generation != node) {
        let part = Call::Transfer(TransferCall::Part { node });
        let answer = query::query_node(worker, peer.node.generation, &part).await;
        unreachable += u32::from(!matches!(answer, Ok(Reply::Done { connections: 1, refused: None })));
    }
    let (status, msg) = match unreachable {
        0 => (0, "ok"),
        _ => (1, "some nodes have not heard it: say it again when they are back"),
    };
    let body = json!({"status": status, "msg": msg, "unreachable": unreachable});
    Ok(Response::json(body.to_string().into_bytes()))
}

/// For the metrics; `None` for a node that stays alone.
pub fn readings(shared: &Shared) -> Option<ClusterReadings> {
    let view = shared.cluster()?.view();
    let nodes = STATES.map(|(name, state)| (name, view.peers.iter().filter(|peer| peer.state == state).count() as u64));
    let Rejections { foreign, forged, stale, replayed, violations } = view.rejections;
    Some(ClusterReadings {
        nodes,
        rejected: [
            ("foreign", foreign),
            ("forged", forged),
            ("stale", stale),
            ("replayed", replayed),
            ("violation", violations),
        ],
        announcements_timed_out: view.directory.wait_timeouts,
        resyncs: view.directory.resyncs,
        rejoins: view.membership.rejoins,
        directory_bytes: view.directory_bytes as u64,
    })
}

const STATES: [(&str, PeerState); 5] = [
    ("live", PeerState::Live),
    ("joining", PeerState::Joining),
    ("suspected", PeerState::Suspected),
    ("link_down", PeerState::LinkDown),
    ("down", PeerState::Down),
];
/// Who has left is shown for a while.
const DEAD_SHOWN_MS: u64 = 60_000;
