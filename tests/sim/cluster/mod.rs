//! Seeded simulation of a cluster: three to seven nodes with membership, directory and ownership of sessions, a network
//! that is cut, loses and reorders, a model of Redis that goes away and fails over to an older copy, nodes that die,
//! stand still and start again with clocks that went back.
//!
//! `RAINBOW_CLUSTER_SEED=n cargo test --test sim cluster` runs one world and tells what happens in it;
//! `RAINBOW_CLUSTER_SEEDS=n` runs that many. Each planted mistake has to be noticed.

mod chaos;
mod checks;
mod clients;
mod model;
mod network;
mod node;
mod seen;
mod store;
mod world;

use crate::seeds::{number, run_all};
use node::Mistakes;
use rainbow::cluster::planted::ClusterBug;
use seen::Seen;
use std::panic::catch_unwind;
use store::StoreBug;
use world::{Plan, World};

/// In the normal run.
const SEEDS: u64 = 300;
/// In which a planted mistake has to show.
const SEEDS_PER_MISTAKE: u64 = 240;

#[test]
fn every_cluster_keeps_every_promise() {
    if let Some(seed) = number("RAINBOW_CLUSTER_SEED") {
        println!("{:#?}", World::new(seed, Plan { talks: true, ..Plan::default() }).run());
        return;
    }
    let seeds = number("RAINBOW_CLUSTER_SEEDS").unwrap_or(SEEDS);
    let run = |seed| World::new(seed, Plan::default()).run();
    let seen = run_all("RAINBOW_CLUSTER_SEED", seeds, run, Seen::add);
    println!("{seen:#?}");
    if seeds >= SEEDS {
        seen.assert_everything_happened();
    }
}

#[test]
fn the_same_seed_gives_the_same_cluster() {
    for seed in [1, 77] {
        assert_eq!(World::new(seed, Plan::default()).run(), World::new(seed, Plan::default()).run());
    }
}

#[test]
fn every_planted_mistake_in_a_cluster_is_noticed() {
    let of_parts = ClusterBug::ALL.iter().map(|bug| {
        let mistakes = Mistakes { bug: Some(*bug), ..Mistakes::default() };
        (format!("{bug:?}"), Plan { mistakes, ..Plan::default() })
    });
    let reaps = Mistakes { reaps_the_down: true, ..Mistakes::default() };
    let others = [
        ("ReapsTheDown".to_owned(), Plan { mistakes: reaps, ..Plan::default() }),
        (
            "DrawsKeys".to_owned(),
            Plan { mistakes: Mistakes { draws_keys: true, ..Mistakes::default() }, ..Plan::default() },
        ),
        ("TakesACopy".to_owned(), Plan { store_bug: Some(StoreBug::TakesACopy), ..Plan::default() }),
        ("ComparesNothing".to_owned(), Plan { store_bug: Some(StoreBug::ComparesNothing), ..Plan::default() }),
    ];
    let mut unnoticed = Vec::new();
    for (name, plan) in of_parts.chain(others) {
        let broken = |seed: &u64| catch_unwind(|| World::new(*seed, plan).run()).is_err();
        match (0..SEEDS_PER_MISTAKE).find(broken) {
            Some(seed) => println!("{name} is noticed by seed {seed}"),
            None => unnoticed.push(name),
        }
    }
    assert!(unnoticed.is_empty(), "{SEEDS_PER_MISTAKE} seeds do not notice {unnoticed:?}");
}
