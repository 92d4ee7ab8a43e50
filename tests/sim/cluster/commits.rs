//! When disks commit, and what that changes: which session is where.

use super::disk::{Change, Disk};
use super::world::{Event, Slot, World};
use crate::peer::token_of;
use rainbow::base::id::Generation;
use rainbow::shard::command::{Mutation, SessionId};
use rainbow::store::Request;
use std::collections::BTreeSet;

pub fn store_soon(world: &mut World, life: Generation, request: Request) {
    let port = world.port_of(life);
    let ms = 1 + world.rng.below(8);
    world.say(|| format!("{life} stores {request:?}"));
    if let Some(Mutation::PutSession(row)) = request.mutation() {
        let unseen = unseen_by(world, life);
        world.ledger.note_creation(row.session, unseen);
    }
    if let Some(Mutation::PutMessage(stored)) = request.mutation() {
        world.ledger.note_message(token_of(stored.message.parts().1), stored.session);
    }
    let disk = world.disks.get_mut(&port).expect("its disk");
    disk.push(request);
    if !std::mem::replace(&mut disk.is_scheduled, true) {
        let at = disk.stuck_until.max(world.now + ms);
        world.push(at, Event::Commit { life });
    }
}

pub fn commit(world: &mut World, life: Generation) {
    let (port, now) = (world.port_of(life), world.now);
    let disk = world.disks.get_mut(&port).expect("its disk");
    disk.is_scheduled = false;
    let (responses, changes) = disk.commit(now);
    world.seen.count("commit");
    for change in changes {
        on_change(world, life, &change);
    }
    let ms = 1 + world.rng.below(3);
    world.push_in(ms, Event::Stored { life, responses });
}

fn on_change(world: &mut World, life: Generation, change: &Change) {
    let port = world.port_of(life);
    world.say(|| format!("{life}: {change:?}"));
    world.seen.count(match change {
        Change::Created(..) => "session created",
        Change::Arrived(..) => "session arrived",
        Change::Stayed(..) => "session stayed",
        Change::Deleted(..) => "session left",
        Change::United(..) => "sessions united",
    });
    if let Change::Created(name, session) = change {
        let other_of = |disk: &Disk| disk.copies.get(name).map(|copy| copy.session).filter(|other| other != session);
        let others = world.disks.iter().filter_map(|(port, disk)| Some((*port, other_of(disk)?)));
        let others: Vec<(u16, SessionId)> = others.collect();
        for (at, other) in others {
            // A disk may commit late what was created long before.
            let was_apart = world.ledger.were_apart(*session, at) || world.ledger.were_apart(other, port);
            assert!(was_apart, "{name} is created at {port}, and is at {at}");
            world.seen.count("created twice, apart");
            world.ledger.created_apart(name);
        }
    }
    if let Change::United(name, token, united) = change {
        world.ledger.united(&world.disks, name, (*token, united.uncertain));
    }
    world.ledger.check_change(&world.disks, port, change);
    if let Change::Deleted(name, ..) = change
        && world.ledger.join(&world.disks, name, world.tokens)
    {
        world.seen.count("apart, and one again");
    }
}

/// Nodes that this one has no link to: until two sessions of one name are united, each side may create one.
fn unseen_by(world: &World, life: Generation) -> BTreeSet<u16> {
    let is_seen = |slot: &Slot| slot.node.as_ref().is_some_and(|node| world.are_linked(life, node.generation()));
    world.slots.iter().filter(|(_, slot)| !is_seen(slot)).map(|(port, _)| *port).collect()
}
