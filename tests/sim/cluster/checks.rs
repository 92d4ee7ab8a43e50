//! What must be true at every send, and in the end.

use super::clients::{CHANNELS, write_all};
use super::devices;
use super::world::{World, hash_of};
use rainbow::base::id::Generation;
use rainbow::cluster::membership::peer::PeerState;

/// A caller sends to a channel through this node.
pub fn send(world: &mut World, from: Generation) {
    let channel = world.rng.below(CHANNELS);
    for node in world.running() {
        if world.model.open.contains(&(node, channel)) {
            world.check_reach(from, node, channel);
        }
        check_unlinked(world, from, node);
    }
    check_left(world, from);
    check_dead(world, from);
}

/// Without a link, and before both witnesses say that it is down, everything may be there.
fn check_unlinked(world: &mut World, from: Generation, node: Generation) {
    let Some(sender) = world.node(from).filter(|sender| from != node && sender.link_to(node).is_none()) else {
        return;
    };
    let state = sender.core().membership().peer(node).map(|peer| peer.state());
    if state != Some(PeerState::LinkDown) || sender.core().directory().table(node).is_none() {
        return;
    }
    let channels = world.node(node).map(|node| node.channels.clone()).unwrap_or_default();
    for channel in channels {
        let sender = world.node(from).expect("it runs");
        assert!(sender.is_interested(node, hash_of(channel)), "{from} has no link to {node} and says nothing is there");
        world.seen.count("send, unreachable");
    }
}

/// What is left of a dead life is named until others have it.
fn check_left(world: &World, from: Generation) {
    let sender = world.node(from).expect("it runs");
    for (dead, left) in world.model.left.iter().filter(|(_, left)| left.witnesses.contains(&from)) {
        for channel in &left.channels {
            assert!(sender.is_interested(*dead, hash_of(*channel)), "{from} has forgotten what is left of {dead}");
        }
    }
}

/// Nothing happens any more on a node that is dead: whoever knew all of it goes on knowing all of it.
fn check_dead(world: &mut World, from: Generation) {
    let core = world.node(from).expect("it runs").core();
    let dead = core.membership().peers().filter(|peer| peer.state() == PeerState::Dead);
    let known = dead.filter_map(|peer| {
        let life = peer.node().generation;
        core.directory().table(life).map(|table| (life, table.is_complete()))
    });
    for (dead, is_known) in known.collect::<Vec<_>>() {
        let has_been_known = !is_known && world.model.known_dead.contains(&(from, dead));
        assert!(!has_been_known, "{from} knew what is left of the dead {dead}, and now anything may be there");
        if is_known {
            world.model.known_dead.insert((from, dead));
        }
    }
}

/// Ten seconds after the last fault.
pub fn agreement(world: &mut World) {
    let running = world.running();
    assert_eq!(running.len(), world.slots.len(), "all run");
    for from in &running {
        for to in running.iter().filter(|to| *to != from) {
            check_pair(world, *from, *to);
        }
        let counts = world.node(*from).expect("it runs").core().membership().counts();
        assert_eq!(counts.timer_faults, 0, "foca got its timers out of order");
    }
    // Whoever still believes in a session hears of it.
    running.into_iter().for_each(|life| write_all(world, life));
}

fn check_pair(world: &World, from: Generation, to: Generation) {
    let (node, other) = (world.node(from).expect("it runs"), world.node(to).expect("it runs"));
    let peer = node.core().membership().peer(to);
    let state = peer.map(|peer| (peer.state(), peer.reason()));
    assert_eq!(state.map(|(state, _)| state), Some(PeerState::Live), "{from} of {to}: {state:?}");
    assert!(world.are_linked(from, to), "{from} and {to} have no link");
    let has = |channel: &u64| node.is_interested(to, hash_of(*channel));
    let missing: Vec<_> = other.channels.iter().filter(|channel| !has(channel)).collect();
    assert!(missing.is_empty(), "{from} misses channels of {to}: {missing:?}");
    let surplus = (0..CHANNELS).filter(|channel| !other.channels.contains(channel) && has(channel)).count();
    assert!(surplus <= 3, "{from} believes {surplus} channels at {to} that are not there");
}

/// Each session is on one disk, whole, and its client has all that was acknowledged for it.
pub fn cleared_disks(world: &World) {
    world.ledger.check_places(&world.disks);
    devices::check(world);
}

/// When everything that a dead life left must have found its end.
pub fn cleared(world: &World) {
    let running = world.running();
    for life in &running {
        let node = world.node(*life).expect("it runs");
        for (name, token) in node.claims.owned() {
            let record = world.store.records.sessions.get(name);
            assert_eq!(record, Some(&token), "{name}: {life} is not its owner");
        }
    }
    for (name, token) in &world.store.records.sessions {
        assert!(token.owner().is_some_and(|owner| running.contains(&owner)), "{name} belongs to the dead: {token:?}");
    }
    world.model.check_all_closed(&running);
}
