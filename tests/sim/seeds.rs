//! Many seeds on two threads, with what happened in all of them together.

use crate::limits::name_of_limits;
use std::panic::{UnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// The number in an environment variable.
pub fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// Runs a world per seed below `seeds`. The seed that breaks a promise is named, with the variable that replays it.
pub fn run_all<Seen: Default + Send>(
    replay: &str,
    seeds: u64,
    run: impl Fn(u64) -> Seen + Copy + Sync + Send + UnwindSafe,
    add: impl Fn(&mut Seen, &Seen) + Copy + Sync + Send,
) -> Seen {
    let next = AtomicU64::new(0);
    let mut all = Seen::default();
    thread::scope(|scope| {
        let work = || {
            let mut seen = Seen::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds {
                    return seen;
                }
                if seed > 0 && seed.is_multiple_of(PROGRESS) {
                    println!("{seed} of {seeds} seeds");
                }
                match catch_unwind(move || run(seed)) {
                    Ok(one) => add(&mut seen, &one),
                    Err(_) => {
                        next.store(seeds, Ordering::Relaxed);
                        let limits = name_of_limits(seed);
                        panic!("replay with {replay}={seed} cargo test --test sim -- --nocapture ({limits})")
                    }
                }
            }
        };
        for worker in [scope.spawn(work), scope.spawn(work)] {
            add(&mut all, &worker.join().expect("a seed broke a promise: it is named above"));
        }
    });
    all
}

const PROGRESS: u64 = 1_000;
