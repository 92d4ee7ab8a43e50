//! Reapers over a model of the store, with deaths at each step.

use super::*;
use std::collections::BTreeSet;

const DEAD: Generation = Generation(9);

fn identity(n: u32) -> Identity {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&n.wrapping_mul(0x9E37_79B9).to_be_bytes());
    bytes[4..8].copy_from_slice(&n.to_be_bytes());
    Identity(bytes)
}

/// The store's records, and the backend, which counts calls by their key.
struct World {
    records: BTreeMap<Identity, Option<Generation>>,
    calls: BTreeMap<String, usize>,
    calls_at: Vec<u64>,
    live: Vec<Generation>,
}

/// After which output a reaper dies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dies {
    Never,
    AfterClaim,
    AfterHook,
}

impl World {
    fn new(records: u32, live: u32) -> World {
        World {
            records: (0..records).map(|n| (identity(n), None)).collect(),
            calls: BTreeMap::new(),
            calls_at: Vec::new(),
            live: (1..=live).map(Generation).collect(),
        }
    }

    /// False if the reaper died of it.
    fn carry_out(&mut self, reaper: &mut Closes, output: CloseOutput, dies: Dies, now: Tick) -> bool {
        match output {
            CloseOutput::Read { from, .. } => {
                let page = self.records.iter().skip(from as usize).take(50);
                let records: Vec<CloseRecord> = page
                    .map(|(identity, by)| CloseRecord { identity: *identity, cookie: None, claimed_by: *by })
                    .collect();
                let next = (records.len() == 50).then_some(from + 50);
                reaper.on_page(Some(ClosePage { records, next }), &self.live, now);
            }
            CloseOutput::Claim { identity, expected } => {
                let is_free = self.records.get(&identity) == Some(&expected);
                if is_free {
                    self.records.insert(identity, Some(reaper.own));
                }
                if dies == Dies::AfterClaim {
                    return false;
                }
                reaper.on_claim(identity, if is_free { CloseAnswer::Done } else { CloseAnswer::Taken }, now);
            }
            CloseOutput::Hook { identity, idempotency_key, .. } => {
                *self.calls.entry(idempotency_key).or_default() += 1;
                self.calls_at.push(now.0);
                if dies == Dies::AfterHook {
                    return false;
                }
                reaper.on_hook(identity, CloseAnswer::Done, now);
            }
            CloseOutput::Remove { identity } => {
                self.records.remove(&identity);
                reaper.on_removed(identity, now);
            }
            CloseOutput::Done { .. } => assert!(self.records.is_empty(), "{} are left", self.records.len()),
        }
        true
    }

    /// Until nobody has anything to do.
    fn run(&mut self, reapers: &mut Vec<Closes>, dies: Dies, from: u64) {
        for now in (from..from + 120_000).map(Tick) {
            let mut died = None;
            for (index, reaper) in reapers.iter_mut().enumerate() {
                reaper.handle_timers(now);
                while let Some(output) = reaper.poll_output() {
                    let dies = if reaper.own == Generation(1) { dies } else { Dies::Never };
                    if !self.carry_out(reaper, output, dies, now) {
                        died = Some(index);
                        break;
                    }
                }
            }
            if let Some(index) = died {
                let dead = reapers.remove(index);
                self.live.retain(|node| *node != dead.own);
            }
            if reapers.iter().all(|reaper| reaper.next_tick() == Tick::NEVER) {
                return;
            }
        }
        panic!("{} closes are left", self.records.len());
    }
}

fn reapers(count: u32) -> Vec<Closes> {
    (1..=count).map(|own| Closes::new(Generation(own), DEAD, Tick(0))).collect()
}

#[test]
fn every_close_is_reported_once() {
    let mut world = World::new(500, 3);
    world.run(&mut reapers(3), Dies::Never, 0);
    assert_eq!((world.calls.len(), world.calls.values().max()), (500, Some(&1)));
}

#[test]
fn a_reaper_killed_after_claiming_leaves_the_same_key_to_the_next() {
    for dies in [Dies::AfterClaim, Dies::AfterHook] {
        let mut world = World::new(60, 2);
        world.run(&mut reapers(2), dies, 0);
        let keys: BTreeSet<String> = (0..60).map(|n| Closes::idempotency_key(&identity(n))).collect();
        assert!(
            world.calls.keys().eq(keys.iter()),
            "{} of {}, {} left",
            world.calls.len(),
            keys.len(),
            world.records.len()
        );
        let repeats = world.calls.values().filter(|count| **count > 1).count();
        assert_eq!(repeats, usize::from(dies == Dies::AfterHook));
    }
}

#[test]
fn the_restarted_node_reports_its_own_closes_alone() {
    let mut world = World::new(20, 1);
    world.live = vec![Generation(77)];
    // Half of them were claimed by the life that died.
    world.records.values_mut().take(10).for_each(|by| *by = Some(DEAD));
    world.run(&mut vec![Closes::new(Generation(77), DEAD, Tick(0))], Dies::Never, 0);
    assert_eq!(world.calls.len(), 20);
}

#[test]
fn many_closes_reach_the_backend_at_a_pace() {
    let mut world = World::new(5_000, 1);
    world.run(&mut reapers(1), Dies::Never, 0);
    assert_eq!(world.calls.len(), 5_000);
    let busiest = world.calls_at.chunk_by(|a, b| a / 1_000 == b / 1_000).map(<[u64]>::len).max();
    assert!(busiest <= Some(1_000 / PACE_MS as usize), "{busiest:?} in a second");
}

#[test]
fn a_backend_that_fails_is_called_again_and_holds_up_a_limited_number() {
    let mut reaper = Closes::new(Generation(1), DEAD, Tick(0));
    let mut world = World::new(200, 1);
    let mut hooks = 0;
    for now in (0..2_000).map(Tick) {
        reaper.handle_timers(now);
        while let Some(output) = reaper.poll_output() {
            match output {
                CloseOutput::Hook { identity, .. } => {
                    hooks += 1;
                    reaper.on_hook(identity, CloseAnswer::Failed, now);
                }
                other => assert!(world.carry_out(&mut reaper, other, Dies::Never, now)),
            }
        }
        assert!(reaper.in_flight.len() <= IN_FLIGHT_MAX);
    }
    assert!((32..200).contains(&hooks), "it backs off: {hooks}");
    world.run(&mut vec![reaper], Dies::Never, 2_000);
    assert_eq!(world.calls.len(), 200);
}

/// A store that failed over makes reapers begin anew: what one of them has claimed is its own, also when others would
/// be chosen by then.
#[test]
fn what_was_claimed_is_seen_through_by_whoever_has_claimed_it() {
    let mut world = World::new(40, 1);
    let mut reapers = vec![Closes::new(Generation(1), DEAD, Tick(0))];
    world.records.values_mut().for_each(|claimed_by| *claimed_by = Some(Generation(1)));
    world.live = (1..=5).map(Generation).collect();
    reapers.extend((2..=5).map(|own| Closes::new(Generation(own), DEAD, Tick(0))));
    world.run(&mut reapers, Dies::Never, 0);
    assert!(world.records.is_empty());
    assert!(world.calls.len() == 40 && world.calls.values().all(|calls| *calls == 1));
}
