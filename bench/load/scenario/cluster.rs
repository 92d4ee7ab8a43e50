//! What it costs that the caller is on another node than the client: CPU of both nodes, against a caller on the same.

use super::{Bench, Case};
use crate::row::Row;
use crate::target::Kind;
use crate::work::Pace;
use crate::work::fanout::{Fanout, ROOM};
use crate::work::send::{Send, channel};

/// To one client, one call after the other and 32 at a time; and to a room, eight at a time.
pub fn cluster(bench: &Bench, clients: usize, must: (Option<f64>, Option<f64>)) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for (pace, must) in [(Pace::Closed(1), must.0), (Pace::Closed(32), None)] {
        let name = format!("to one of {clients}, QoS 1, {}", pace.name());
        rows.extend(both(bench, must, |kind| {
            let work = Send::new(clients as u32, 1, pace, bench.size);
            Case::new(kind, clients, channel, work.calls(), work).named(&name)
        })?);
    }
    let pace = Pace::Closed(8);
    let name = format!("{clients} clients, QoS 0, {}", pace.name());
    rows.extend(both(bench, must.1, |kind| {
        let work = Fanout::new(clients as u32, 0, pace, bench.size);
        Case::new(kind, clients, |_| ROOM.into(), work.calls(), work).named(&name)
    })?);
    Ok(rows)
}

fn both(bench: &Bench, must: Option<f64>, case: impl Fn(Kind) -> Case) -> Result<Vec<Row>, String> {
    let cases = [false, true].map(|callers_elsewhere| case(Kind::Cluster { callers_elsewhere })).into();
    let mut rows = bench.compare("cluster", cases, 0)?;
    if let [same, other] = &mut rows[..] {
        *other = std::mem::take(other).against(&same.rounds, must);
    }
    Ok(rows)
}
