//! Seeded simulation of durable sessions: one shard whose process dies and starts again, a store with faults, clients
//! that outlive their connections, a business server that knows messages by their keys, callers who remember what they
//! were told.
//!
//! `RAINBOW_SESSIONS_SEED=n cargo test --test sim sessions` runs one world and tells what happens in it;
//! `RAINBOW_SESSIONS_SEEDS=n` runs that many. `RAINBOW_SESSIONS_FAULT=name` plants a mistake (of `Bug` or `Fault`).

mod backend;
mod calls;
mod chaos;
mod checks;
mod client;
mod connection;
mod network;
mod seen;
mod store;
mod world;

use crate::limits::name_of_limits;
use crate::seeds::{number, run_all};
use rainbow::shard::{Bug, Mode};
use seen::Seen;
use std::panic::catch_unwind;
use store::Fault;
use world::{Plan, World};

/// In the normal run.
const SEEDS: u64 = 400;
/// In which a planted mistake has to show.
const SEEDS_PER_MISTAKE: u64 = 2000;

fn plan(talks: bool) -> Plan {
    let name = std::env::var("RAINBOW_SESSIONS_FAULT").unwrap_or_default();
    let bug = Bug::OF_SESSIONS.iter().find(|bug| format!("{bug:?}") == name);
    let fault = Fault::ALL.iter().copied().find(|fault| format!("{fault:?}") == name);
    Plan { mode: bug.map_or(Mode::Packets, |bug| Mode::Planted(*bug)), fault, talks }
}

#[test]
fn every_session_keeps_every_promise() {
    if let Some(seed) = number("RAINBOW_SESSIONS_SEED") {
        println!("{:#?}", World::new(seed, plan(true)).run());
        return;
    }
    let seeds = number("RAINBOW_SESSIONS_SEEDS").unwrap_or(SEEDS);
    let seen = run_all("RAINBOW_SESSIONS_SEED", seeds, |seed| World::new(seed, plan(false)).run(), Seen::add);
    println!("{seen:#?}");
    if seeds >= SEEDS {
        seen.assert_everything_happened();
    }
}

#[test]
fn the_same_seed_gives_the_same_sessions() {
    for seed in [1, 77, 1234] {
        assert_eq!(World::new(seed, plan(false)).run(), World::new(seed, plan(false)).run());
    }
}

#[test]
fn every_planted_mistake_with_sessions_is_noticed() {
    let of_shard = Bug::OF_SESSIONS.iter().map(|bug| (format!("{bug:?}"), Mode::Planted(*bug), None));
    let of_store = Fault::ALL.iter().map(|fault| (format!("{fault:?}"), Mode::Packets, Some(*fault)));
    let mut unnoticed = Vec::new();
    for (name, mode, fault) in of_shard.chain(of_store) {
        let plan = Plan { mode, fault, talks: false };
        let broken = |seed: &u64| catch_unwind(|| World::new(*seed, plan).run()).is_err();
        match (0..SEEDS_PER_MISTAKE).find(broken) {
            Some(seed) => println!("{name} is noticed by seed {seed}, {}", name_of_limits(seed)),
            None => unnoticed.push(name),
        }
    }
    assert!(unnoticed.is_empty(), "{SEEDS_PER_MISTAKE} seeds do not notice {unnoticed:?}");
}
