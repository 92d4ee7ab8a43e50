//! A connection's clocks: pings, silence, idleness; and its rate.

use crate::shard::Input;
use crate::shard::tests::{Rig, client_frame};
use crate::wire::ws::frame::Opcode;

#[test]
fn a_silent_client_is_pinged_and_closed_when_no_pong_comes() {
    let mut rig = Rig::new();
    let key = rig.open();
    rig.advance(59_900);
    assert_eq!(rig.hear(key), [""; 0]);
    rig.advance(200);
    assert_eq!(rig.hear(key), ["ping"]);
    rig.advance(19_800);
    assert_eq!(rig.hear(key), [""; 0], "one ping until it is answered");
    rig.advance(200);
    assert_eq!(rig.hear(key), ["close 1001 no pong"]);
    assert_eq!((rig.stats().pings.get(), rig.stats().pong_timeouts.get()), (1, 1));
    rig.finish();
}

#[test]
fn a_pong_or_anything_else_keeps_the_client() {
    let mut rig = Rig::new();
    let key = rig.open();
    let lives = [client_frame(Opcode::Pong, b""), client_frame(Opcode::Ping, b"!"), b"\x82".to_vec()];
    for life in lives.iter().cycle().take(9) {
        rig.advance(60_100);
        assert_eq!(rig.hear(key), ["ping"]);
        rig.advance(19_000);
        if life.len() == 1 {
            // Half a frame header is life too; its other half comes with the next one.
            rig.bytes(key, life);
            rig.bytes(key, &[0x80, 0, 0, 0, 0]);
        } else {
            rig.bytes(key, life);
        }
        rig.hear(key);
    }
    assert_eq!((rig.stats().pong_timeouts.get(), rig.shard.len()), (0, 1));
    rig.finish();
}

#[test]
fn a_client_that_speaks_is_not_pinged() {
    let mut rig = Rig::with(|settings| settings.forwards = false);
    let key = rig.open();
    for id in 1..=20 {
        rig.advance(50_000);
        rig.send(key, 1, id, "x");
    }
    assert_eq!(rig.stats().pings.get(), 0);
    rig.finish();
}

#[test]
fn a_client_that_says_nothing_but_pongs_is_idle() {
    let mut rig = Rig::with(|settings| settings.idle_timeout_ms = 150_000);
    let (idle, busy) = (rig.open(), rig.open_in("news"));
    for round in 1..=3 {
        rig.advance(40_000);
        rig.bytes(idle, &client_frame(Opcode::Pong, b""));
        rig.call("news", crate::wire::packet::QoS::AtLeastOnce, "x");
        rig.ack(busy, round, "");
    }
    rig.hear(busy);
    rig.advance(29_900);
    assert_eq!(rig.hear(idle), [""; 0]);
    rig.advance(200);
    assert_eq!(rig.hear(idle), ["close 1001 idle"]);
    assert_eq!(rig.stats().idle_timeouts.get(), 1);
    assert_eq!(rig.shard.len(), 1, "an ACK says something");
    rig.finish();
}

#[test]
fn answers_that_nobody_asks_for_are_forgotten_with_the_clients_silence() {
    let mut rig = Rig::with(|settings| settings.forwards = false);
    let key = rig.open();
    rig.send(key, 1, 1, "x");
    rig.send(key, 2, 2, "y");
    rig.advance(60_100);
    rig.hear(key);
    rig.send_dup(key, 2, 2, "y");
    assert_eq!(rig.stats().repeats_in.get(), 1, "QoS 2 is never forgotten by a timer");
    rig.send_dup(key, 1, 1, "x");
    assert_eq!(rig.stats().repeats_in.get(), 1);
    rig.finish();
}

#[test]
fn pings_that_nobody_reads_the_answers_of_cost_one_pong() {
    let mut rig = Rig::new();
    let key = rig.open();
    for n in 0..1000u16 {
        rig.bytes(key, &client_frame(Opcode::Ping, &n.to_be_bytes()));
    }
    assert_eq!(rig.stats().closed_too_slow.get(), 0);
    assert_eq!(rig.hear(key).len(), 1, "the newest");
    rig.finish();
}

#[test]
fn a_connection_closed_by_its_timer_is_cut_off_in_time() {
    let mut rig = Rig::new();
    let key = rig.open();
    rig.advance(60_100 + 20_100 + 5_000);
    let outputs = rig.outputs();
    assert_eq!(outputs.iter().filter(|output| matches!(output, crate::shard::Output::Shutdown { .. })).count(), 1);
    rig.input(Input::SocketEnded { key });
    rig.finish();
}
