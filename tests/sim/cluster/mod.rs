//! Seeded simulation of a cluster: three to seven nodes with membership, directory and ownership of sessions, a network
//! that is cut, loses and reorders, nodes that die, stand still and start again with clocks that went back. Where the
//! sessions are is up to the seed: in a model of Redis that goes away and fails over to an older copy (even seeds), or on
//! a disk per node, which is the real SQLite store with the real shard and ownership of sessions above it (odd seeds).
//!
//! `RAINBOW_CLUSTER_SEED=n cargo test --test sim cluster` runs one world and tells what happens in it;
//! `RAINBOW_CLUSTER_SEEDS=n` runs that many; `RAINBOW_CLUSTER_SHARING=disks` (or `redis`) runs that kind only. Each
//! planted mistake has to be noticed.

mod chaos;
mod checks;
mod clients;
mod commits;
mod devices;
mod disk;
mod ledger;
mod model;
mod network;
mod node;
mod seen;
mod serving;
mod stops;
mod store;
mod world;

use crate::seeds::{number, run_all};
use disk::DiskBug;
use node::Mistakes;
use rainbow::cluster::planted::ClusterBug;
use seen::Seen;
use std::panic::catch_unwind;
use store::StoreBug;
use world::{Plan, Sharing, World};

/// In the normal run.
const SEEDS: u64 = 300;
/// In which a planted mistake has to show.
const SEEDS_PER_MISTAKE: u64 = 240;
/// Those that many seeds do not show, and a seed before the first that does.
const SHOWS_LATE: [(&str, u64); 2] = [("NotesNothing", 100), ("OverlooksArrivals", 270)];

fn plan(talks: bool) -> Plan {
    let sharing = match std::env::var("RAINBOW_CLUSTER_SHARING").as_deref() {
        Ok("redis") => Some(Sharing::Redis),
        Ok("disks") => Some(Sharing::Disks),
        _ => None,
    };
    Plan { sharing, talks, ..Plan::default() }
}

#[test]
fn every_cluster_keeps_every_promise() {
    if let Some(seed) = number("RAINBOW_CLUSTER_SEED") {
        println!("{:#?}", World::new(seed, plan(true)).run());
        return;
    }
    let seeds = number("RAINBOW_CLUSTER_SEEDS").unwrap_or(SEEDS);
    let run = |seed| World::new(seed, plan(false)).run();
    let seen = run_all("RAINBOW_CLUSTER_SEED", seeds, run, Seen::add);
    println!("{seen:#?}");
    if seeds >= SEEDS && plan(false).sharing.is_none() {
        seen.assert_everything_happened();
    }
}

#[test]
fn the_same_seed_gives_the_same_cluster() {
    for seed in [1, 76, 77] {
        assert_eq!(World::new(seed, Plan::default()).run(), World::new(seed, Plan::default()).run());
    }
}

#[test]
fn every_planted_mistake_in_a_cluster_is_noticed() {
    let of_redis = Plan { sharing: Some(Sharing::Redis), ..Plan::default() };
    let of_parts = ClusterBug::ALL.iter().map(|bug| {
        let mistakes = Mistakes { bug: Some(*bug), ..Mistakes::default() };
        (format!("{bug:?}"), Plan { mistakes, ..of_redis })
    });
    let of_disks = Plan { sharing: Some(Sharing::Disks), ..Plan::default() };
    let of_transfers = ClusterBug::OF_DISKS.iter().map(|bug| {
        let mistakes = Mistakes { bug: Some(*bug), ..Mistakes::default() };
        (format!("{bug:?}"), Plan { mistakes, ..of_disks })
    });
    let of_unions = ClusterBug::OF_UNIONS.iter().map(|bug| {
        let mistakes = Mistakes { bug: Some(*bug), ..Mistakes::default() };
        (format!("{bug:?}"), Plan { mistakes, apart: true, ..of_disks })
    });
    let reaps = Mistakes { reaps_the_down: true, ..Mistakes::default() };
    let settles = Mistakes { bug: Some(ClusterBug::SettlesWhatComes), ..Mistakes::default() };
    let writes_after_never = Plan { disk_bug: Some(DiskBug::WritesAfterNever), mistakes: settles, ..of_disks };
    let others = [
        ("ReapsTheDown".to_owned(), Plan { mistakes: reaps, ..of_redis }),
        ("DrawsKeys".to_owned(), Plan { mistakes: Mistakes { draws_keys: true, ..Mistakes::default() }, ..of_redis }),
        ("TakesACopy".to_owned(), Plan { store_bug: Some(StoreBug::TakesACopy), ..of_redis }),
        ("ComparesNothing".to_owned(), Plan { store_bug: Some(StoreBug::ComparesNothing), ..of_redis }),
        ("ForgetsLeaving".to_owned(), Plan { disk_bug: Some(DiskBug::ForgetsLeaving), ..of_disks }),
        ("WritesAfterNever".to_owned(), writes_after_never),
    ];
    let mut unnoticed = Vec::new();
    for (name, plan) in of_parts.chain(of_transfers).chain(of_unions).chain(others) {
        let broken = |seed: &u64| catch_unwind(|| World::new(*seed, plan).run()).is_err();
        let first = SHOWS_LATE.iter().find(|(late, _)| *late == name).map_or(0, |(_, first)| *first);
        match (first..first + SEEDS_PER_MISTAKE).find(broken) {
            Some(seed) => println!("{name} is noticed by seed {seed}"),
            None => unnoticed.push(name),
        }
    }
    assert!(unnoticed.is_empty(), "{SEEDS_PER_MISTAKE} seeds do not notice {unnoticed:?}");
}
