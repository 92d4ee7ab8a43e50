//! The load harness: `cargo bench --bench load -- [SCENARIO] [options]`.
//!
//! It starts the server and the floors as processes of their own on one core, and plays clients and business server on
//! another. One JSON line per result and a table on stdout, progress on stderr. Exit 1 on any loss, repeat or error; 2 with `--strict`
//! when a figure is missed. Called without `--bench` (as `cargo test --benches` does) it tests itself and runs everything small.

mod api;
mod backend;
mod cgroup;
mod dialect;
#[path = "../floor/mod.rs"]
mod floor;
mod history;
mod meter;
mod round;
mod row;
mod scenario;
mod swarm;
mod sys;
mod target;
mod work;
mod ws;

use clap::Parser;

use crate::round::Plan;
use crate::row::Row;
use crate::scenario::Bench;
use crate::scenario::chat::{chat, two_workers};
use crate::scenario::cluster::cluster;
use crate::scenario::cluster_sim::cluster_sim;
use crate::scenario::cost::{FanoutCase, SendCase, fanout, send, storm, uplink};
use crate::scenario::crowd::{slow, uplink_during_fanout};
use crate::scenario::durable::{send_durable, stored, waiting};
use crate::scenario::idle::idle;
use crate::scenario::million::million;
use crate::scenario::pages::pages;
use crate::scenario::peer::uplink_during_peer;
use crate::scenario::small_box::small_box;
use crate::work::Pace;

#[derive(Parser, Debug, Clone)]
#[command(args_override_self = true)]
#[command(about = "Measures what the server's work costs, beside the least that the kernel charges for it.")]
struct Options {
    /// One of fanout, fanout-8, fanout-qos1, send, uplink, storm, idle, mixed, churn, slow, million, uplink-during-fanout,
    /// uplink-during-peer, two-workers, cluster, cluster-sim, send-durable, stored, waiting, small-box, pages, all; none: the standard set, two minutes (all with --small)
    scenario: Option<String>,
    /// Clients that are connected
    #[arg(long)]
    clients: Option<usize>,
    /// Quality of service of messages: 0, 1 or 2
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: Option<u8>,
    /// Closed loop: so many at any time
    #[arg(long, value_name = "N")]
    inflight: Option<usize>,
    /// Open loop: so many per second; latency counts from the intended time
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Bytes of a message's body
    #[arg(long, default_value_t = 128)]
    size: usize,
    /// Length of a round
    #[arg(long)]
    seconds: Option<f64>,
    /// Rounds per target; the figure is their median
    #[arg(long)]
    rounds: Option<usize>,
    /// A second or two per scenario: shows that it works, not how fast
    #[arg(long)]
    small: bool,
    /// Measure nchan and mosquitto too (installs nothing: bench/peers/README.md)
    #[arg(long)]
    peers: bool,
    /// Measure the server alone
    #[arg(long)]
    no_floors: bool,
    /// Measure the floors alone
    #[arg(long)]
    no_server: bool,
    /// Append the run to bench/history.jsonl
    #[arg(long)]
    record: bool,
    /// Exit 2 when a figure is missed
    #[arg(long)]
    strict: bool,
    /// Workers of the server, in `million`
    #[arg(long)]
    workers: Option<usize>,
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    #[arg(long, default_value_t = 1)]
    generator_core: usize,
    /// A shell command to run beside the server's rounds, with SERVER_PID and SOFTIRQ_PID set; SIGINT ends it
    #[arg(long, value_name = "COMMAND")]
    beside: Option<String>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, role, name, port] = &arguments[..]
        && role == "floor"
    {
        let port = port.parse().expect("a port");
        floor::run(name, port).unwrap_or_else(|error| panic!("floor {name}: {error}"));
        return;
    }
    let mut options = Options::parse();
    if !options.bench && options.scenario.is_none() {
        ws::self_test();
        api::self_test();
        backend::self_test();
        dialect::self_test();
        cgroup::self_test();
        options.small = true;
    }
    std::process::exit(measure(&options));
}

/// Runs what was asked for; the exit code.
fn measure(options: &Options) -> i32 {
    sys::raise_nofile();
    let allowed = sys::allowed_cores_of_machine();
    let core = |wish: usize| if allowed.contains(&wish) { wish } else { allowed[0] };
    let (server_core, generator_core) = (core(options.server_core), core(options.generator_core));
    sys::pin(&[generator_core]).expect("an allowed core");
    let bench = Bench {
        plan: Plan {
            rounds: options.rounds.unwrap_or(if options.small { 1 } else { 5 }),
            seconds: options.seconds.unwrap_or(if options.small { 0.2 } else { 1.0 }),
            server_cores: vec![server_core],
            generator_core,
            beside: options.beside.clone(),
        },
        small: options.small,
        floors: !options.no_floors,
        server: !options.no_server,
        peers: options.peers,
        size: options.size,
    };
    let scenarios = match &options.scenario {
        Some(name) if name == "all" => STANDARD.iter().chain(&OTHERS).copied().collect(),
        Some(name) => vec![name.as_str()],
        None if !options.small => STANDARD.to_vec(),
        None => STANDARD.iter().chain(&OTHERS).copied().collect(),
    };
    let mut rows: Vec<Row> = Vec::new();
    let mut failed = false;
    for name in scenarios {
        eprintln!("{name}");
        match run(name, &bench, options) {
            Ok(more) => {
                more.iter().for_each(|row| println!("{}", row.json()));
                rows.extend(more);
            }
            Err(what) => {
                eprintln!("{name}: {what}");
                failed = true;
            }
        }
    }
    let machine = history::machine();
    println!("\n{}\n{}", machine_words(&machine), row::table(&rows));
    if failed || !rows.iter().all(Row::is_sound) {
        eprintln!("logs and configs: {}", target::scratch_dir().display());
        return 1;
    }
    target::remove_scratch();
    if options.record {
        history::record(&rows).expect("bench/history.jsonl can be written");
    }
    if options.strict && rows.iter().any(|row| row.holds() == Some(false)) { 2 } else { 0 }
}

fn machine_words(machine: &serde_json::Value) -> String {
    let text = |name: &str| machine[name].to_string().trim_matches('"').to_string();
    format!("{} × {}, {} GB, Linux {}", text("cores"), text("cpu"), text("memory_gb"), text("kernel"))
}

/// The standard set's names are scenarios, and cases of them that have a must of their own.
const STANDARD: [&str; 7] = ["fanout", "fanout-8", "fanout-qos1", "send", "uplink", "storm", "idle"];

/// What the standard set has no time for.
const OTHERS: [&str; 14] = [
    "mixed",
    "churn",
    "slow",
    "uplink-during-fanout",
    "uplink-during-peer",
    "two-workers",
    "cluster",
    "cluster-sim",
    "million",
    "send-durable",
    "stored",
    "waiting",
    "small-box",
    "pages",
];

fn run(name: &str, bench: &Bench, options: &Options) -> Result<Vec<Row>, String> {
    let clients = |full: usize, small: usize| options.clients.unwrap_or(bench.scaled(full, small));
    let pace = |in_flight: usize| match options.rate {
        Some(rate) => Pace::Open(rate),
        None => Pace::Closed(options.inflight.unwrap_or(in_flight)),
    };
    let qos = |usual: u8| options.qos.unwrap_or(usual);
    // The musts hold for the cases that the table names, not for any options.
    let plain = options.clients.is_none() && options.qos.is_none() && options.inflight.is_none();
    let must = |limit: f64| (plain && options.rate.is_none() && !bench.small).then_some(limit);
    let room = |clients, qos, pace, must| fanout(bench, FanoutCase { clients, qos, pace, must });
    match name {
        "fanout" => room(clients(10_000, 200), qos(0), pace(1), must(1.15)),
        "fanout-8" => room(clients(10_000, 200), qos(0), pace(8), must(0.36)),
        "fanout-qos1" => room(clients(1_000, 100), qos(1), pace(8), must(1.1)),
        "send" => {
            let both = vec![(0, must(1.25)), (1, must(1.8))];
            let qos = options.qos.map_or(both, |qos| vec![(qos, None)]);
            send(bench, &SendCase { clients: clients(1_000, 50), pace: pace(32), qos })
        }
        "uplink" => {
            let clients = clients(64, 16);
            uplink(bench, clients, qos(1), pace(clients), must(1.4))
        }
        "storm" => storm(bench, options.inflight.unwrap_or(32), must(2.2)),
        "idle" => {
            let (ping_s, watch_s) = match options.seconds {
                // Each is pinged once.
                Some(seconds) => ((seconds as u64).clamp(1, 60), seconds),
                None if bench.small => (1, 1.5),
                None if options.scenario.is_some() => (60, 65.0),
                None => (15, 16.0),
            };
            idle(bench, clients(15_000, 200), ping_s, watch_s)
        }
        "mixed" => chat(bench, clients(1_000, 200), pace(8), 0.0),
        "churn" => chat(bench, clients(1_000, 200), pace(8), if bench.small { 0.1 } else { 0.01 }),
        "slow" => slow(bench, clients(1_000, 50), pace(1)),
        "uplink-during-fanout" => {
            let rate = options.rate.unwrap_or(if bench.small { 500.0 } else { 2_000.0 });
            uplink_during_fanout(bench, clients(10_000, 200), rate, must(3.0))
        }
        "uplink-during-peer" => {
            let (messages, rate) = if bench.small { (1_000.0, 500.0) } else { (30_000.0, 2_000.0) };
            uplink_during_peer(bench, options.rate.unwrap_or(messages), rate, must(3.0))
        }
        "two-workers" => {
            let (seldom, often) = if bench.small { (20.0, 50.0) } else { (200.0, 1_500.0) };
            let often = options.rate.unwrap_or(often);
            let mut rows = two_workers(bench, clients(1_000, 200), often, must(1.15))?;
            if options.rate.is_none() {
                rows.extend(two_workers(bench, clients(1_000, 200), seldom, None)?);
            }
            Ok(rows)
        }
        "cluster" => cluster(bench, clients(1_000, 50), (must(1.6), must(1.25))),
        "cluster-sim" => cluster_sim(bench),
        "send-durable" => send_durable(bench, clients(1_000, 50), pace(32), must(1.05)),
        "stored" => stored(bench, clients(1_000, 50), pace(256), options.size.max(200)),
        "waiting" => waiting(bench, clients(100_000, 200), 10),
        "small-box" => small_box(bench, options.clients.or(bench.small.then_some(1_000))),
        "pages" => {
            let watch_s = options.seconds.unwrap_or(if bench.small { 1.5 } else { 30.0 });
            pages(bench, clients(100_000, 200), watch_s)
        }
        "million" => million(bench, clients(1_000_000, 2_000), options.workers),
        other => Err(format!("no scenario is called {other}")),
    }
}
