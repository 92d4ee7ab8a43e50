//! Clients with durable sessions, and those who send to them, where each node has a disk of its own. A client uses
//! whatever node it meets, and sometimes two; a caller sends one message after the other, each until it is acknowledged.

use super::disk::unix_ms;
use super::serving::Sending;
use super::world::{Event, World};
use crate::peer::{RESPONSE, body_of, take_frame, token_of};
use rainbow::base::id::{ConnKey, Generation};
use rainbow::base::time::Tick;
use rainbow::cluster::ownership::claims::SessionName;
use rainbow::shard::command::{Claim, UnixMs};
use rainbow::shard::{RESERVED_TYPE, Reply};
use rainbow::wire::packet::{Packet, QoS};
use rainbow::wire::ws::frame::{ClientFrame, Opcode};
use std::collections::{BTreeMap, BTreeSet};

pub struct Device {
    pub name: SessionName,
    /// The connection that counts for it.
    connection: Option<usize>,
    /// It was let in once.
    is_known: bool,
    /// QoS 2 ids between SEND and REL, and their tokens.
    received: BTreeMap<u16, u64>,
    /// Messages that its caller has tried more than once, and ids that two sessions of its name have used: while there
    /// are two, each may hand one over.
    ambiguous: BTreeSet<u64>,
    /// Messages that have reached the application.
    pub handed: BTreeSet<u64>,
    last_new: u64,
    /// The caller's message that is not acknowledged, and how often the caller has had its turn.
    call: Option<u64>,
    turn: u64,
}

pub struct Connection {
    pub life: Generation,
    key: ConnKey,
    device: usize,
    input: Vec<u8>,
    is_open: bool,
    is_greeted: bool,
    /// The server is done with it.
    is_over: bool,
    /// When the last bytes arrive in either direction.
    down_at: Tick,
    up_at: Tick,
}

impl Device {
    pub fn new(number: u64) -> Device {
        Device {
            name: format!("d{number}").into(),
            connection: None,
            is_known: false,
            received: BTreeMap::new(),
            ambiguous: BTreeSet::new(),
            handed: BTreeSet::new(),
            last_new: 0,
            call: None,
            turn: 0,
        }
    }
}

/// Names come one after the other, some of them while much goes wrong.
pub fn begin(world: &mut World) {
    world.devices = (0..DEVICES).map(Device::new).collect();
    for device in 0..world.devices.len() {
        let ms = if device % 2 == 0 { 700 + world.rng.below(600) } else { 700 + world.rng.below(20_000) };
        world.push_in(ms, Event::Device { device });
        next_turn(world, device, ms + 500);
    }
}

/// A device comes, goes, or stays.
pub fn act(world: &mut World, device: usize) {
    let is_connected = world.devices[device].connection.is_some_and(|id| !world.connections[id].is_over);
    let ms = match (is_connected, world.is_over()) {
        // It gives up a connection that is not let in.
        (true, true) if !world.connections[world.devices[device].connection.expect("just seen")].is_greeted => {
            leave(world, device);
            1_000
        }
        (true, true) => 3_000,
        (false, _) => {
            dial(world, device);
            if world.rng.chance(10) {
                dial(world, device);
            }
            3_000
        }
        (true, false) => match world.rng.below(10) {
            0..=3 => {
                leave(world, device);
                1 + world.rng.below(2_000)
            }
            // It forgets the other one.
            4..=6 => {
                dial(world, device);
                100 + world.rng.below(4_000)
            }
            _ => 500 + world.rng.below(4_000),
        },
    };
    world.push_in(ms, Event::Device { device });
}

fn any_node(world: &mut World) -> Option<Generation> {
    let awake = world.welcoming();
    awake.get(world.rng.below(awake.len().max(1) as u64) as usize).copied()
}

fn dial(world: &mut World, device: usize) {
    let Some(life) = any_node(world) else { return };
    let name = world.devices[device].name.clone();
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&world.rng.next_u64().to_be_bytes());
    digest[8..16].copy_from_slice(&world.rng.next_u64().to_be_bytes());
    let id = world.connections.len();
    world.say(|| format!("{name} connects to {life} as {id}"));
    let now = world.now;
    world.with(life, |world, node| {
        let key = node.serving().attach(name, digest, now);
        let connection = Connection {
            life,
            key,
            device,
            input: Vec::new(),
            is_open: false,
            is_greeted: false,
            is_over: false,
            down_at: now,
            up_at: now,
        };
        world.connections.push(connection);
        world.keys.insert((life, key), id);
    });
    world.devices[device].connection = Some(id);
}

fn leave(world: &mut World, device: usize) {
    let Some(id) = world.devices[device].connection.take() else { return };
    end(world, id);
}

/// The node closes all its connections.
pub fn let_go(world: &mut World, life: Generation) {
    for id in 0..world.connections.len() {
        let Connection { life: of, device, is_over, .. } = world.connections[id];
        if of == life && !is_over {
            world.devices[device].connection.take_if(|current| *current == id);
            end(world, id);
        }
    }
}

/// The server hears that the socket has ended.
fn end(world: &mut World, id: usize) {
    let at = (world.now + 1 + world.rng.below(20)).max(world.connections[id].up_at);
    world.push(at, Event::SocketEnded { id });
}

pub fn on_socket_ended(world: &mut World, id: usize) {
    let Connection { life, key, is_over, .. } = world.connections[id];
    world.connections[id].is_over = true;
    if !is_over && world.node(life).is_some() {
        let now = world.now;
        world.with(life, |_, node| node.serving().on_ended(key, now));
    }
}

/// The node did not let it in.
pub fn on_refused(world: &mut World, of: (Generation, ConnKey)) {
    world.seen.count("client refused");
    let id = world.keys[&of];
    world.connections[id].is_over = true;
}

/// Its connections have ended with it.
pub fn on_crash(world: &mut World, life: Generation) {
    world.connections.iter_mut().filter(|connection| connection.life == life).for_each(|known| known.is_over = true);
}

pub fn send_down(world: &mut World, of: (Generation, ConnKey), bytes: Vec<u8>) {
    let id = world.keys[&of];
    let at = (world.now + 1 + world.rng.below(10)).max(world.connections[id].down_at);
    world.connections[id].down_at = at;
    world.push(at, Event::Down { id, bytes });
}

/// Bytes of the server have reached the client.
pub fn on_down(world: &mut World, id: usize, bytes: &[u8]) {
    let connection = &mut world.connections[id];
    connection.input.extend_from_slice(bytes);
    if !connection.is_open {
        assert_eq!(&connection.input[..RESPONSE.len()], RESPONSE, "the response comes first");
        connection.input.drain(..RESPONSE.len());
        connection.is_open = true;
    }
    while let Some((opcode, payload)) = take_frame(&mut world.connections[id].input) {
        match opcode {
            8 => {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                world.say(|| format!("connection {id} is closed: {code}"));
                world.seen.count(if code == 4409 { "connection taken over" } else { "connection closed" });
                end(world, id);
            }
            9 => say_frame(world, id, Opcode::Pong, &payload),
            2 if world.devices[world.connections[id].device].connection == Some(id) => on_packet(world, id, &payload),
            _ => {}
        }
    }
}

fn on_packet(world: &mut World, id: usize, payload: &[u8]) {
    match Packet::decode(payload).expect("the server speaks the protocol") {
        Packet::Send { message_type: RESERVED_TYPE, body, .. } => on_greeting(world, id, body),
        Packet::Send { qos, id: Some(number), body, .. } => {
            on_message(world, id, qos, number.0, token_of(body));
            let answer = match qos {
                QoS::ExactlyOnce => Packet::Rec { id: number, body: b"" },
                _ => Packet::Ack { id: number, body: b"" },
            };
            say(world, id, answer);
        }
        Packet::Rel { id: number, .. } => {
            let device = world.connections[id].device;
            world.devices[device].received.remove(&number.0);
            say(world, id, Packet::Com { id: number });
        }
        other => panic!("{other:?} answers nothing"),
    }
}

fn on_greeting(world: &mut World, id: usize, body: &[u8]) {
    let greeting: serde_json::Value = serde_json::from_slice(body).expect("JSON");
    let device = world.connections[id].device;
    world.connections[id].is_greeted = true;
    let is_resumed = greeting["resumed"] == true;
    world.seen.count(if is_resumed { "session resumed" } else { "session new" });
    let Device { name, is_known, .. } = &world.devices[device];
    assert!(is_resumed || !is_known || world.ledger.is_apart(name), "the session of {name} is lost");
    world.devices[device].is_known = true;
}

fn on_message(world: &mut World, id: usize, qos: QoS, number: u16, token: u64) {
    let device = world.connections[id].device;
    let name = world.devices[device].name.clone();
    let is_apart = world.ledger.was_apart(&name, token);
    let known = &mut world.devices[device];
    let is_new = known.handed.insert(token);
    if qos == QoS::ExactlyOnce {
        let before = known.received.insert(number, token);
        if let Some(other) = before.filter(|other| *other != token) {
            assert!(is_apart || world.ledger.was_apart(&name, other), "id {number} stands for two messages");
            known.ambiguous.extend([token, other]);
        }
        let is_twofold = known.ambiguous.contains(&token) || world.ledger.is_twofold(token);
        let may_repeat = before == Some(token) || is_apart && is_twofold;
        assert!(is_new || may_repeat, "{token} was handed on twice at QoS 2");
    }
    if is_new {
        assert!(known.last_new < token || is_apart, "{token} comes behind {}", known.last_new);
        known.last_new = known.last_new.max(token);
        world.seen.count("message handed over");
    } else {
        world.seen.count("message repeated");
    }
}

fn say(world: &mut World, id: usize, packet: Packet<'_>) {
    let mut payload = Vec::new();
    packet.encode_into(&mut payload);
    say_frame(world, id, Opcode::Binary, &payload);
}

fn say_frame(world: &mut World, id: usize, opcode: Opcode, payload: &[u8]) {
    let mut bytes = Vec::new();
    ClientFrame { fin: true, opcode, key: [1, 2, 3, 4], payload }.write_into(&mut bytes);
    // It may be slow, and something may be stored meanwhile.
    let ms = if world.rng.chance(20) { 400 + world.rng.below(800) } else { 1 + world.rng.below(5) };
    let at = (world.now + ms).max(world.connections[id].up_at);
    world.connections[id].up_at = at;
    world.push(at, Event::Up { id, bytes });
}

pub fn on_up(world: &mut World, id: usize, mut bytes: Vec<u8>) {
    let Connection { life, key, is_over, .. } = world.connections[id];
    if !is_over && world.node(life).is_some() {
        let now = world.now;
        world.with(life, |_, node| node.serving().on_bytes(key, &mut bytes, now));
    }
}

// ---- callers ----

/// Sends the next message to a device, or the one again that was not acknowledged.
pub fn call(world: &mut World, device: usize, turn: u64) {
    let is_over = world.is_over();
    let (known, tokens) = (&mut world.devices[device], &mut world.tokens);
    // A later turn has taken its place; at the end nothing new is sent.
    if known.turn != turn || known.call.is_none() && is_over {
        return;
    }
    let token = match known.call {
        Some(token) => {
            known.ambiguous.insert(token);
            token
        }
        None => {
            *tokens += 1;
            known.call = Some(*tokens);
            *tokens
        }
    };
    let ms = TRY_MS + world.rng.below(1_500);
    let turn = next_turn(world, device, ms);
    let Some(life) = any_node(world) else { return };
    let name = world.devices[device].name.clone();
    let claim = Claim { message_id: format!("m{token}").into(), until: UnixMs(unix_ms(world.now).0 + CLAIM_MS) };
    let qos = if is_qos_2(token) { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
    world.say(|| format!("{token} for {name} goes to {life}"));
    let now = world.now;
    // Of the call, not of the message.
    let number = turn << 32 | token;
    let sending = Sending { number, name, qos, body: body_of(token, "m"), claim };
    world.with(life, |_, node| node.serving().send(sending, now));
}

fn is_qos_2(token: u64) -> bool {
    token.is_multiple_of(2)
}

/// Its caller goes on after so long, unless something happens before.
pub fn next_turn(world: &mut World, device: usize, ms: u64) -> u64 {
    world.devices[device].turn += 1;
    let turn = world.devices[device].turn;
    world.push_in(ms, Event::Caller { device, turn });
    turn
}

pub fn on_called(world: &mut World, life: Generation, number: u64, reply: Option<Reply>) {
    let (turn, token) = (number >> 32, number & u64::from(u32::MAX));
    world.say(|| format!("{token} by {life}: {reply:?}"));
    let is_its = |device: &Device| device.call == Some(token) && device.turn == turn;
    let Some(device) = world.devices.iter().position(is_its) else { return };
    if !reply.as_ref().is_some_and(is_taken) {
        return world.seen.count("message not taken");
    }
    world.seen.count("message acknowledged");
    let name = world.devices[device].name.clone();
    world.ledger.acknowledge(&name, token);
    world.devices[device].call = None;
    let ms = 1 + world.rng.below(2_000);
    next_turn(world, device, ms);
}

/// The session has it, or its disk.
pub fn is_taken(reply: &Reply) -> bool {
    matches!(reply, Reply::Sent { tally, .. } if tally.is_success() && tally.connections + tally.stored > 0)
}

// ---- the end ----

pub fn check(world: &World) {
    for device in &world.devices {
        let name = &device.name;
        assert!(!world.ledger.is_apart(name), "{name} is there twice for ever");
        assert_eq!(device.call, None, "{name}: a message is never acknowledged");
        let connection = device.connection.map(|id| &world.connections[id]);
        assert!(connection.is_some_and(|connection| connection.is_greeted), "{name} is never let in");
        let missing = world.ledger.acknowledged(name).filter(|token| !device.handed.contains(token));
        let (apart, missing): (Vec<u64>, Vec<u64>) =
            missing.partition(|token| is_qos_2(*token) && world.ledger.was_apart(name, *token));
        let uncertain = world.ledger.uncertain(name);
        assert!(apart.len() as u64 <= uncertain, "{name} never gets {apart:?}, and {uncertain} were dropped");
        assert!(missing.is_empty(), "{name} never gets {missing:?}, which were acknowledged");
    }
}

const DEVICES: u64 = 6;
/// A caller that hears nothing tries again.
const TRY_MS: u64 = 4_000;
/// Longer than any world lasts.
const CLAIM_MS: u64 = 3_600_000;
