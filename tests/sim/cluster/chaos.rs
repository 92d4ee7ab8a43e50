//! What goes wrong in a world: nodes die, stand still and restart, the network and the store fail.

use super::stops;
use super::world::{Event, World};
use rainbow::base::time::Tick;

/// One fault, and the next one later.
pub fn strike(world: &mut World) {
    if world.is_over() {
        return;
    }
    world.disturbed = world.now;
    match world.rng.below(13) {
        0 | 1 => crash(world),
        2 | 3 => stand_still(world),
        4 => cut_in_two(world),
        5 => cut_one_way(world),
        6 => flap(world),
        7 | 8 => heal(world),
        11 => stops::begin(world),
        9 | 10 if world.has_disks() => stick(world),
        9 => {
            world.seen.count("store away");
            world.store.away_until = world.now + 200 + world.rng.below(8_000);
        }
        10 => {
            world.seen.count("store failed over");
            world.say(|| "the store fails over".into());
            world.store.fail_over(world.now);
            let records = world.store.records.clone();
            world.model.failed_over(&records.sessions, &records.connections);
        }
        _ => world.loss_percent = [0, 5, 20, 40][world.rng.below(4) as usize],
    }
    let ms = 200 + world.rng.below(4_000);
    world.push_in(ms, Event::Chaos);
}

/// Everything works from now on.
pub fn end(world: &mut World) {
    world.say(|| "nothing goes wrong from now on".into());
    world.disturbed = world.now;
    world.network.heal();
    world.loss_percent = 0;
    world.store.away_until = Tick(0);
    world.disks.values_mut().for_each(|disk| disk.stuck_until = Tick(0));
    for port in world.slots.keys().copied().collect::<Vec<_>>() {
        let slot = world.slots.get_mut(&port).expect("its slot");
        slot.still_until = slot.still_until.min(world.now);
        world.push(world.now, Event::Resume { port });
        world.push_in(1, Event::Start { port });
    }
}

/// A disk does nothing for a while.
fn stick(world: &mut World) {
    let port = 1 + world.rng.below(world.slots.len() as u64) as u16;
    let ms = if world.rng.chance(10) { 25_000 } else { 100 + world.rng.below(6_000) };
    world.say(|| format!("the disk of {port} is stuck for {ms} ms"));
    world.seen.count("disk stuck");
    let until = world.now + ms;
    world.disks.get_mut(&port).expect("its disk").stuck_until = until;
}

fn crash(world: &mut World) {
    let running = world.running();
    if running.len() < 2 {
        return;
    }
    let life = running[world.rng.below(running.len() as u64) as usize];
    let port = world.port_of(life);
    world.seen.count("crashed");
    world.crash(life);
    let ms = if world.rng.chance(40) {
        world.seen.count("restarted at once");
        world.rng.below(900)
    } else {
        1_000 + world.rng.below(20_000)
    };
    world.seen.count("restarted");
    world.push_in(ms, Event::Start { port });
}

fn stand_still(world: &mut World) {
    let running = world.running();
    let Some(life) = running.get(world.rng.below(running.len() as u64) as usize) else { return };
    let ms = if world.rng.chance(20) { 20_000 } else { world.rng.below(6_000) };
    let (now, port) = (world.now, world.port_of(*life));
    world.say(|| format!("{life} stands still for {ms} ms"));
    let slot = world.slots.get_mut(&port).expect("its slot");
    if slot.still_until <= now {
        (slot.still_since, slot.still_until) = (now, now + ms);
        world.push_in(ms, Event::Resume { port });
    }
    world.seen.count("stood still");
}

pub fn cut_in_two(world: &mut World) {
    let ports: Vec<u16> = world.slots.keys().copied().collect();
    let side: Vec<bool> = ports.iter().map(|_| world.rng.chance(50)).collect();
    for (a, here) in ports.iter().zip(&side) {
        for (b, there) in ports.iter().zip(&side) {
            if here != there {
                world.network.cut(*a, *b);
            }
        }
    }
    world.say(|| format!("the network is cut: {side:?}"));
    world.seen.count("cut in two");
}

fn cut_one_way(world: &mut World) {
    let ports = world.slots.len() as u64;
    let from = 1 + world.rng.below(ports) as u16;
    for to in 1..=ports as u16 {
        if world.rng.chance(70) {
            world.network.cut(from, to);
        }
    }
    world.say(|| format!("{from} is not heard"));
    world.seen.count("cut one way");
}

/// Cut and whole in turns.
fn flap(world: &mut World) {
    for turn in 0..6 {
        let ms = turn * 400 + world.rng.below(300);
        world.push_in(ms, Event::Flap { is_cut: turn % 2 == 0 });
    }
}

pub fn on_flap(world: &mut World, is_cut: bool) {
    if is_cut && !world.is_over() {
        cut_in_two(world);
    } else {
        world.network.heal();
    }
}

fn heal(world: &mut World) {
    world.network.heal();
    world.say(|| "the network is whole".into());
}
