//! Clients that come and go, and callers who send: they use whatever node they meet.

use super::checks;
use super::node::{Effect, key_of_close};
use super::store::Command;
use super::world::{Event, World, hash_of};
use rainbow::base::id::Generation;
use rainbow::cluster::ownership::claims::SessionName;

pub fn act(world: &mut World) {
    let awake = world.welcoming();
    if let Some(life) = awake.get(world.rng.below(awake.len() as u64) as usize) {
        act_at(world, *life);
    }
    // Nothing new begins at the very end, so that what has begun can end.
    if !world.is_over() {
        let ms = 10 + world.rng.below(80);
        world.push_in(ms, Event::Clients);
    }
}

fn act_at(world: &mut World, life: Generation) {
    match world.rng.below(10) {
        // `devices` do that.
        4..=7 if world.has_disks() => checks::send(world, life),
        0..=2 => subscribe(world, life),
        3 => unsubscribe(world, life),
        4 => {
            let (name, now) = (session(world), world.now);
            world.with(life, |_, node| node.claims.connect(name, now));
        }
        5 => write_all(world, life),
        6 => {
            for _ in 0..3 {
                world.open_connection(life);
            }
        }
        7 => drop(disconnect(world, life)),
        _ => checks::send(world, life),
    }
}

fn session(world: &mut World) -> SessionName {
    format!("s{}", world.rng.below(SESSIONS)).into()
}

/// Some channels in one turn, of which one may go and come back.
fn subscribe(world: &mut World, life: Generation) {
    let now = world.now;
    world.with(life, |world, node| {
        for _ in 0..=world.rng.below(3) {
            let channel = world.rng.below(CHANNELS);
            if world.rng.chance(30) && node.channels.contains(&channel) {
                node.unsubscribe(channel, hash_of(channel));
            }
            node.subscribe(channel, hash_of(channel), now);
        }
    });
}

fn unsubscribe(world: &mut World, life: Generation) {
    let channel = world.rng.below(CHANNELS);
    world.model.open.remove(&(life, channel));
    world.with(life, |_, node| node.unsubscribe(channel, hash_of(channel)));
}

/// Every session of this node has something to store; and something to acknowledge at once.
pub fn write_all(world: &mut World, life: Generation) {
    world.with(life, |_, _| {});
    let Some(node) = world.node(life) else { return };
    let owned: Vec<_> = node.claims.owned().map(|(name, token)| (name.clone(), token)).collect();
    let certain: Vec<bool> = owned.iter().map(|(name, _)| node.claims.certain_token(name).is_some()).collect();
    for ((name, token), is_certain) in owned.into_iter().zip(certain) {
        if is_certain {
            world.model.check_own_word(&name, life, token);
            world.seen.count("own word");
        }
        let epoch = world.node(life).expect("it runs").store_epoch;
        world.push_in(1, Event::Command { life, command: Command::Write { name, token }, epoch });
    }
}

/// The client goes; the node reports that itself. False: there is none.
pub fn disconnect(world: &mut World, life: Generation) -> bool {
    let Some(identity) = world.node(life).and_then(|node| node.connections.first().copied()) else { return false };
    world.with(life, |_, node| {
        node.connections.remove(&identity);
    });
    world.model.ended(&identity);
    world.model.hook(&identity, life, &key_of_close(&identity), false);
    world.model.hook_ended(&identity, life);
    world.effect(life, Effect::Command(Command::RemoveConnection { identity }));
    true
}

const SESSIONS: u64 = 6;
pub const CHANNELS: u64 = 40;
