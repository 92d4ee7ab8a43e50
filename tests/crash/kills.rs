//! `kill -9` of the real process while messages of both kinds go both ways, judged by the audit's ledger.

use crate::deployment::Dir;
use crate::harness::TOKEN;
use crate::harness::ports::free_port;
use rainbow::audit::{Options, Plan, Report, Way, hooks, run};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

/// Points of the store that every run passes often enough.
const POINTS: [&str; 10] = [
    "open.before",
    "open.inside",
    "open.after",
    "commit.before",
    "commit.inside",
    "commit.after",
    "told.before",
    "told.inside",
    "told.after",
    "checkpoint.before",
];

fn run_with_kills(kills: u64, seed: u64, dir: &Dir) -> Report {
    let port = free_port();
    let listener = TcpListener::bind("127.0.0.1:0").expect("some port is free");
    let backend = listener.local_addr().expect("it listens");
    let ledger = dir.0.join("ledger");
    std::fs::create_dir(&ledger).expect("the directory is ours");
    let file = dir.0.join("rainbow.toml");
    let mut config = hooks(backend).map(|(name, url)| format!("{name} = \"{url}\"\n")).concat();
    config += &format!("security_token = \"{TOKEN}\"\nlisten = \"127.0.0.1\"\nworkers = 2\n");
    // Small, so that the business of the window, the log's write-back and the wait for a slow client come often.
    config += "inflight_window = 8\nack_timeout = \"500ms\"\n";
    config += &format!("[store]\nkind = \"sqlite\"\ndata_dir = {:?}\npatience = \"200ms\"\n", dir.0.join("store"));
    std::fs::write(&file, config).expect("the directory is ours");
    let command =
        [env!("CARGO_BIN_EXE_rainbow-server"), "-f", &file.display().to_string(), "-p", &port.number.to_string()];
    let way = Way::Child {
        command: command.map(String::from).into(),
        env: Vec::new(),
        points: POINTS.map(String::from).into(),
    };
    let target = SocketAddr::from(([127, 0, 0, 1], port.number));
    let options = Options {
        sessions: 10,
        messages: None,
        cuts_per_second: 20,
        stumbles_percent: 1,
        seed,
        plan: Some(Plan { way, kills, life: Duration::from_millis(250), away: Duration::ZERO }),
        ..Options::new(target, TOKEN, ledger)
    };
    run(options, listener).unwrap_or_else(|error| panic!("seed {seed}: {error}; see {}", dir.0.display()))
}

#[test]
fn fifty_kills_lose_nothing_and_double_nothing() {
    let kills = std::env::var("CRASH_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(55);
    let seed = std::env::var("CRASH_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let dir = Dir::new("kills");
    let report = run_with_kills(kills, seed, &dir);
    println!("seed {seed}\n{}\n{}", report.verdict, report.to_json());
    assert_eq!(report.violations(), 0, "seed {seed}\n{}\n{}", report.verdict, report.to_json());
    assert!(report.kills >= kills, "{} kills", report.kills);
    assert!(5 * report.kills_in_recovery >= report.kills, "{} of {}", report.kills_in_recovery, report.kills);
    assert!(report.kills_at_points > 0, "no named point was passed");
    let total = report.verdict.total();
    // Else the kills would have met an idle server.
    assert!(total.acknowledged > 20 * kills, "only {} messages were acknowledged", total.acknowledged);
}
