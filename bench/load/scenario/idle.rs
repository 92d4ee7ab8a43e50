//! Idle connections: what one weighs, and what all of them cost while nothing but pings goes to and fro.

use super::Bench;
use crate::meter::Meter;
use crate::round::Beside;
use crate::row::Row;
use crate::swarm::{Play, Swarm};
use crate::sys::{self, now_ns};
use crate::target::Kind;

/// Clients that answer pings.
struct Quiet;

impl Play for Quiet {
    fn on_message(&mut self, swarm: &mut Swarm, who: u32, _opcode: u8, _payload: &[u8]) {
        swarm.faults.add(format!("client {who} got a message"));
    }
}

pub fn idle(bench: &Bench, clients: usize, ping_s: u64, watch_s: f64) -> Result<Vec<Row>, String> {
    let config = format!("ping_interval = {ping_s}\npong_timeout = {}\n", ping_s.min(20));
    let mut kinds = vec![Kind::Rainbow { workers: 1, cores: vec![bench.server_core()], config }];
    if bench.peers {
        kinds.extend([Kind::Peer("nchan"), Kind::Peer("mosquitto")]);
    }
    let mut rows = Vec::new();
    for kind in kinds {
        rows.extend(idle_on(bench, &kind, clients, ping_s, watch_s)?);
    }
    Ok(rows)
}

fn idle_on(bench: &Bench, kind: &Kind, clients: usize, ping_s: u64, watch_s: f64) -> Result<[Row; 2], String> {
    let mut started = bench.start(kind)?;
    let watched = std::thread::scope(|scope| {
        scope.spawn(|| watch(bench, &started.target, clients, watch_s)).join().expect("no panic")
    })?;
    let Watched { bytes, ms_per_s, swarm_faults, generator_busy } = watched;
    let mut outcome = crate::round::Outcome { faults: swarm_faults, ..Default::default() };
    started.judge(&mut outcome);
    let ours = matches!(kind, Kind::Rainbow { .. });
    let row = |case: String, unit: &'static str, value: f64, must: f64| Row {
        scenario: "idle",
        case,
        target: started.target.name.clone(),
        unit,
        value,
        low: value,
        high: value,
        must: (ours && !bench.small).then_some(must),
        ops: clients as u64,
        generator_busy,
        ..Row::default()
    };
    let mut rss = row(format!("{clients} clients, RSS each"), "B", bytes, 1_400.0);
    rss.faults = outcome.faults;
    // The figure to reach is for pings every 60 s; within the two minutes of the standard set they come more often, and the
    // bound grows with them.
    let must = 10.0 * 60.0 / ping_s as f64;
    let pings = if ours { format!(", ping every {ping_s} s") } else { String::new() };
    Ok([rss, row(format!("{clients} clients{pings}"), "ms/s", ms_per_s, must)])
}

struct Watched {
    bytes: f64,
    ms_per_s: f64,
    swarm_faults: crate::swarm::Faults,
    generator_busy: f64,
}

fn watch(bench: &Bench, target: &crate::target::Target, clients: usize, watch_s: f64) -> Result<Watched, String> {
    sys::own_table(&[]).map_err(|error| format!("unshare: {error}"))?;
    let mut swarm = Swarm::new(target.port, 0, target.kind.dialect()).map_err(|error| format!("epoll: {error}"))?;
    eprint!("  {}: {clients} clients …", target.name);
    // The first ones pay for what is made once (pools, code that is paged in).
    let first = clients / 100 + 1;
    swarm.connect(&mut Quiet, first, |_| String::new())?;
    let before = target.rss();
    swarm.connect(&mut Quiet, clients - first, |_| String::new())?;
    eprintln!(" watching for {watch_s} s");
    let mut beside = Beside::start(&bench.plan, target);
    let meter = Meter::start(target.pids(), &bench.plan.server_cores, bench.plan.generator_core);
    let end_ns = now_ns() + (watch_s * 1e9) as u64;
    while now_ns() < end_ns && swarm.faults.count == 0 {
        swarm.turn(&mut Quiet, 100_000_000).map_err(|error| format!("epoll: {error}"))?;
    }
    let used = meter.stop();
    beside.stop();
    // Now, not while they come: what a server needs for that, it may give back.
    let bytes = target.rss().saturating_sub(before) as f64 / (clients - first) as f64;
    Ok(Watched {
        bytes,
        ms_per_s: used.cpu_ns as f64 / 1e6 / (used.wall_ns as f64 / 1e9),
        swarm_faults: std::mem::take(&mut swarm.faults),
        generator_busy: used.generator_busy,
    })
}
