//! What clients cost and how they come back: stated, with measured figures where there are any.

use rainbow::base::rng::Rng;
use serde_json::Value;

/// Of the last recorded run.
pub struct Costs {
    pub source: String,
    /// CPU of one delivery, of one connection with its hook, and memory of a client.
    pub delivery_us: f64,
    pub connection_us: f64,
    pub client_bytes: f64,
}

impl Costs {
    pub fn of_last_run() -> Result<Costs, String> {
        let last = HISTORY.lines().rfind(|run| !run.trim().is_empty()).ok_or("bench/history.jsonl is empty")?;
        let run: Value = serde_json::from_str(last).map_err(|error| format!("bench/history.jsonl: {error}"))?;
        let figure = |scenario: &str, unit: &str| {
            let rows = run["rows"].as_array().map(Vec::as_slice).unwrap_or_default();
            let is_it = |row: &&Value| row["scenario"] == scenario && row["target"] == "rainbow" && row["unit"] == unit;
            let value = rows.iter().find(is_it).and_then(|row| row["value"].as_f64());
            value.ok_or(format!("the last run of bench/history.jsonl has no {scenario} in {unit}"))
        };
        let (delivery_us, connection_us, client_bytes) =
            (figure("fanout", "µs/op")?, figure("storm", "µs/op")?, figure("idle", "B")?);
        let (commit, cpu) = (&run["commit"], &run["machine"]["cpu"]);
        let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
        Ok(Costs {
            source: format!(
                "{} on {}: fanout {delivery_us} µs, storm {connection_us} µs, idle {client_bytes} B",
                text(commit),
                text(cpu)
            ),
            delivery_us,
            connection_us,
            client_bytes,
        })
    }

    /// That a node takes.
    pub fn connections_per_s(&self) -> f64 {
        CORES * 1e6 / self.connection_us
    }
}

/// When a node's clients are back, in seconds and in order. They lose it within `silence_ms`, each at another moment,
/// and wait as clients/PROTOCOL.md says; nobody is let in before `down_ms`, and then as many as the node takes.
pub fn back_after(clients: usize, silence_ms: u64, down_ms: u64, per_s: f64) -> Vec<f64> {
    let mut rng = Rng::new(7);
    let mut came: Vec<f64> = (0..clients)
        .map(|_| {
            let silence = if silence_ms > 0 { rng.below(silence_ms) + GRACE_MS } else { 0 };
            let mut at_ms = silence as f64;
            for failures in 0.. {
                let longest = (BACKOFF_MS << failures.min(16)).min(BACKOFF_MS_MAX);
                at_ms += longest as f64 * (rng.below(1 << 32) as f64 / (1u64 << 32) as f64);
                if at_ms >= down_ms as f64 {
                    break;
                }
            }
            at_ms / 1e3
        })
        .collect();
    came.sort_by(f64::total_cmp);
    let mut free_at = 0.0f64;
    for at in &mut came {
        free_at = free_at.max(*at) + 1.0 / per_s;
        *at = free_at;
    }
    came
}

/// Of a message of QoS 0 to a client: frame, packet, body, TCP and IP.
pub fn delivery_bytes(body: usize) -> f64 {
    let payload = body + 3;
    let frame = if payload < 126 { 2 } else { 4 };
    (payload + frame + 52) as f64
}

const HISTORY: &str = include_str!("../../../history.jsonl");
/// Of a node.
pub const CORES: f64 = 8.0;
pub const NETWORK_BYTES_PER_S: f64 = 1.25e9;
/// Until a process that was started listens.
pub const START_S: f64 = 2.0;
/// `ping_interval`, which the greeting tells clients; and what they wait beyond it.
pub const HEARTBEAT_MS: u64 = 60_000;
const GRACE_MS: u64 = 10_000;
const BACKOFF_MS: u64 = 500;
const BACKOFF_MS_MAX: u64 = 30_000;
/// A dead node's lease, and the time for which the store must have answered since (`cluster::ownership::lease`).
pub const LEASE_S: f64 = 12.0;
/// Of one survivor, from one Redis: 100 each quarter of a second (`cluster::ownership::reaper`).
pub const CLOSES_PER_S: f64 = 400.0;
/// `drain_rate` and `shutdown_timeout`, as they are unless they are configured.
pub const DRAIN_RATE: f64 = 2_000.0;
pub const SHUTDOWN_S: f64 = 30.0;
