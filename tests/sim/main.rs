//! Seeded simulation: several shards in virtual time, clients that lose, repeat, freeze, cut and come back, a backend
//! that is slow, fails and goes down, callers; and a model that says what must be true of all they see.
//!
//! One seed is one world. `RAINBOW_SIM_SEED=n cargo test --test sim` runs that one alone and tells what happens in it;
//! `RAINBOW_SIM_SEEDS=n` runs that many. The shard can be told to make a mistake (`Bug`): each has to be noticed.

mod backend;
mod calls;
mod chaos;
mod cluster;
mod connection;
mod limits;
mod node;
mod peer;
mod seeds;
mod seen;
mod sessions;
mod watching;
mod world;

use limits::name_of_limits;
use rainbow::shard::{Bug, Mode};
use seeds::{number, run_all};
use seen::Seen;
use std::panic::catch_unwind;
use world::World;

/// In the normal run.
const SEEDS: u64 = 600;
/// In which a planted mistake has to show.
const SEEDS_PER_BUG: u64 = 60;

#[test]
fn every_seed_keeps_every_promise() {
    if let Some(seed) = number("RAINBOW_SIM_SEED") {
        println!("{:#?}", World::new(seed, Mode::Packets, true).run());
        return;
    }
    let seeds = number("RAINBOW_SIM_SEEDS").unwrap_or(SEEDS);
    let seen = run_all("RAINBOW_SIM_SEED", seeds, |seed| World::new(seed, Mode::Packets, false).run(), Seen::add);
    println!("{seen:#?}");
    if seeds >= SEEDS {
        seen.assert_everything_happened();
    }
}

#[test]
fn the_same_seed_gives_the_same_world() {
    for seed in [1, 77, 1234] {
        assert_eq!(World::new(seed, Mode::Packets, false).run(), World::new(seed, Mode::Packets, false).run());
    }
}

#[test]
fn every_planted_mistake_is_noticed() {
    let mut unnoticed = Vec::new();
    for &bug in Bug::ALL {
        let broken = |seed: &u64| catch_unwind(|| World::new(*seed, Mode::Planted(bug), false).run()).is_err();
        match (0..SEEDS_PER_BUG).find(broken) {
            Some(seed) => println!("{bug:?} is noticed by seed {seed}, {}", name_of_limits(seed)),
            None => unnoticed.push(bug),
        }
    }
    assert!(unnoticed.is_empty(), "{SEEDS_PER_BUG} seeds do not notice {unnoticed:?}");
}
