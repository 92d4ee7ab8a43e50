//! Nodes that stop as they should (`io::service::drain`): their clients go, their sessions are offered to the others,
//! they say goodbye, and their processes end.

use super::world::{Event, World};
use super::{clients, devices};
use rainbow::base::id::Generation;
use rainbow::base::time::Tick;

/// One node stops, and another process starts in its place later.
pub fn begin(world: &mut World) {
    let there = world.welcoming();
    if there.len() < 2 {
        return;
    }
    let life = there[world.rng.below(there.len() as u64) as usize];
    world.say(|| format!("{life} stops"));
    world.seen.count("stopped");
    let (now, until) = (world.now, world.now + HAND_OVER_MS);
    world.with(life, |_, node| node.stop());
    match world.has_disks() {
        true => devices::let_go(world, life),
        false => while clients::disconnect(world, life) {},
    }
    world.push(now, Event::Stop { life, until });
}

/// Hands over what is left, until nothing is, or time is over.
pub fn go_on(world: &mut World, life: Generation, until: Tick) {
    if world.node(life).is_none() {
        return;
    }
    let (now, mut is_over) = (world.now, false);
    if world.is_still(life) {
        return world.push_in(STEP_MS, Event::Stop { life, until });
    }
    world.with(life, |_, node| is_over = node.hand_over(now));
    let is_stored = world.disks.get(&world.port_of(life)).is_none_or(|disk| !disk.is_scheduled);
    if is_over && is_stored || now >= until {
        if is_over {
            world.seen.count("handed over");
        }
        world.with(life, |_, node| node.leave(now));
    } else {
        world.push_in(STEP_MS, Event::Stop { life, until });
    }
}

/// The others have had time to hear of it.
pub fn end(world: &mut World, life: Generation) {
    let port = world.port_of(life);
    if world.now >= world.store.away_until {
        world.store.close(life, world.now);
    }
    world.crash(life);
    // When nothing goes wrong any more it is back at once.
    let ms = if world.is_over() { 1 } else { world.rng.below(5_000) };
    world.push_in(ms, Event::Start { port });
}

const STEP_MS: u64 = 20;
const HAND_OVER_MS: u64 = 3_000;
