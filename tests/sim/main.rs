//! Seeded simulation: several shards in virtual time, clients that lose, repeat, freeze, cut and come back, a backend
//! that is slow, fails and goes down, callers; and a model that says what must be true of all they see.
//!
//! One seed is one world. `RAINBOW_SIM_SEED=n cargo test --test sim` runs that one alone and tells what happens in it;
//! `RAINBOW_SIM_SEEDS=n` runs that many. The shard can be told to make a mistake (`Bug`): each has to be noticed.

mod backend;
mod calls;
mod chaos;
mod line;
mod peer;
mod seen;
mod sessions;
mod world;

use rainbow::shard::{Bug, Mode};
use seen::Seen;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use world::World;

/// In the normal run.
const SEEDS: u64 = 600;
/// In which a planted mistake has to show.
const SEEDS_PER_BUG: u64 = 60;

#[test]
fn every_seed_keeps_every_promise() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(seed) = number("RAINBOW_SIM_SEED") {
        println!("{:#?}", World::new(seed, Mode::Packets, true).run());
        return;
    }
    let (next, seeds) = (AtomicU64::new(0), number("RAINBOW_SIM_SEEDS").unwrap_or(SEEDS));
    let mut seen = Seen::default();
    thread::scope(|scope| {
        let work = || {
            let mut seen = Seen::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds {
                    return seen;
                }
                match catch_unwind(|| World::new(seed, Mode::Packets, false).run()) {
                    Ok(run) => seen.add(&run),
                    Err(_) => panic!("replay with RAINBOW_SIM_SEED={seed} cargo test --test sim -- --nocapture"),
                }
            }
        };
        for worker in [scope.spawn(work), scope.spawn(work)] {
            seen.add(&worker.join().expect("a seed broke a promise: it is named above"));
        }
    });
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
            Some(seed) => println!("{bug:?} is noticed by seed {seed}"),
            None => unnoticed.push(bug),
        }
    }
    assert!(unnoticed.is_empty(), "{SEEDS_PER_BUG} seeds do not notice {unnoticed:?}");
}
