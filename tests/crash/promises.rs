//! The bugs of other brokers, each by its name: what they did wrong is done right here, over the wire.

use crate::deployment::{Deployment, await_absence, come_so_far, open, send};
use crate::harness::client::{BINARY, frame_bytes};
use crate::harness::{Command, Packet, Reply, Server};
use serde_json::json;
use std::sync::atomic::{AtomicU32, Ordering};

/// Answers every request with another number, so that an answer shows which forward it came of.
fn counting(deployment: &Deployment) {
    let forwarded = AtomicU32::new(0);
    deployment.backend.on_message(move |_| Reply::ok(format!("answer {}", forwarded.fetch_add(1, Ordering::SeqCst))));
}

fn stored(server: &Server, session: &str, qos: &str, bodies: &[&str]) {
    for body in bodies {
        let answer = send(server.addr(), session, &[("qos", qos)], body);
        assert_eq!((&answer["status"], &answer["stored"]), (&json!(0), &json!(1)), "{answer}");
    }
}

fn bodies(packets: &[Packet]) -> Vec<String> {
    packets.iter().map(Packet::text).collect()
}

fn ids(packets: &[Packet]) -> Vec<u16> {
    packets.iter().map(|packet| packet.id).collect()
}

#[test]
fn a_qos_2_repeat_before_rel_gets_the_same_rec_and_one_forward() {
    let deployment = Deployment::new("repeat");
    counting(&deployment);
    let server = deployment.start();
    let message = Packet::send(2, 1, 7, "pay");
    let (mut client, resumed) = open(&server, "payer");
    assert!(!resumed);
    client.packet(&message);
    for _ in 0..5 {
        assert_eq!(client.expect(Command::Rec, 7).text(), "answer 0");
        client.packet(&message.clone().with_dup());
    }
    client.expect(Command::Rec, 7);
    client.cut();
    let (mut client, resumed) = open(&server, "payer");
    assert!(resumed);
    for _ in 0..5 {
        client.packet(&message.clone().with_dup());
        assert_eq!(client.expect(Command::Rec, 7).text(), "answer 0");
    }
    client.answer(Command::Rel, 7, "");
    client.expect(Command::Com, 7);
    assert_eq!(deployment.backend.messages().len(), 1);
}

#[test]
fn a_first_copy_cut_in_mid_packet_then_repeated_with_dup_is_delivered() {
    let deployment = Deployment::new("mid-packet");
    let server = deployment.start();
    for qos in [1, 2] {
        let session = format!("cut-{qos}");
        let message = Packet::send(qos, 1, 1, "whole");
        let (mut client, _) = open(&server, &session);
        let bytes = frame_bytes(true, BINARY, &message.bytes());
        client.raw(&bytes[..bytes.len() - 2]);
        client.hang_up();
        client.expect_end();
        let (mut client, resumed) = open(&server, &session);
        assert!(resumed);
        client.packet(&message.with_dup());
        let answer = if qos == 1 { Command::Ack } else { Command::Rec };
        assert_eq!(client.expect(answer, 1).text(), "re:whole");
    }
    assert_eq!(deployment.backend.messages().len(), 2);
}

#[test]
fn equal_ids_in_both_directions_stay_apart() {
    let deployment = Deployment::new("equal-ids");
    let server = deployment.start();
    let (client, _) = open(&server, "both");
    client.cut();
    await_absence(&server, "both");
    stored(&server, "both", "2", &["down"]);
    let (mut client, _) = open(&server, "both");
    let down = client.expect_send();
    let id = down.id;
    // Each step of one direction stands where it could be taken for the other's.
    client.send(2, 1, id, "up");
    assert_eq!(client.expect(Command::Rec, id).text(), "re:up");
    client.answer(Command::Rec, id, "");
    client.expect(Command::Rel, id);
    client.answer(Command::Rel, id, "");
    client.expect(Command::Com, id);
    client.answer(Command::Com, id, "");
    assert_eq!(come_so_far(&mut client), []);
    assert_eq!((down.text().as_str(), deployment.backend.messages().len()), ("down", 1));
    client.leave();
    let (mut client, _) = open(&server, "both");
    assert_eq!(come_so_far(&mut client), []);
}

#[test]
fn ids_after_resume_do_not_collide_with_restored_ones() {
    let deployment = Deployment::new("ids");
    let mut server = deployment.start();
    let (client, _) = open(&server, "ids");
    client.cut();
    await_absence(&server, "ids");
    stored(&server, "ids", "2", &["a", "b", "c"]);
    let (mut client, _) = open(&server, "ids");
    let before: Vec<Packet> = (0..3).map(|_| client.expect_send()).collect();
    // The first is received and not finished when the server dies.
    client.answer(Command::Rec, before[0].id, "");
    client.expect(Command::Rel, before[0].id);
    server.process.kill();
    let server = deployment.start();
    let (mut client, resumed) = open(&server, "ids");
    assert!(resumed);
    assert_eq!(client.next_packet().with_dup(), Packet::answer(Command::Rel, before[0].id, "").with_dup());
    let after: Vec<Packet> = (0..2).map(|_| client.expect_send()).collect();
    assert_eq!((ids(&after), bodies(&after)), (ids(&before[1..]), bodies(&before[1..])));
    assert!(after.iter().all(|packet| packet.dup), "what may have come once comes with DUP");
    let call = std::thread::spawn({
        let to = server.addr();
        move || send(to, "ids", &[("qos", "2")], "d")
    });
    let new = client.expect_send();
    assert!(!ids(&before).contains(&new.id) && !new.dup && new.text() == "d", "{new:?} after {before:?}");
    client.answer(Command::Rec, new.id, "");
    assert_eq!(call.join().expect("the call is answered")["status"], 0);
}

#[test]
fn what_was_in_flight_comes_again_with_dup() {
    let deployment = Deployment::new("dup");
    let server = deployment.start();
    let (client, _) = open(&server, "dup");
    client.cut();
    await_absence(&server, "dup");
    stored(&server, "dup", "1", &["stored"]);
    let (mut client, _) = open(&server, "dup");
    let first = client.expect_send();
    assert!(!first.dup, "it never came before");
    client.cut();
    let (mut client, _) = open(&server, "dup");
    assert_eq!(client.expect_send(), first.with_dup());
}

#[test]
fn the_resume_burst_respects_a_smaller_window() {
    let deployment = Deployment::new("window");
    let mut server = deployment.start();
    let (client, _) = open(&server, "narrow");
    client.cut();
    await_absence(&server, "narrow");
    let all = ["0", "1", "2", "3", "4", "5", "6", "7"];
    stored(&server, "narrow", "1", &all);
    // Five were under way when the connection was lost, in the window of that time.
    let (mut client, _) = open(&server, "narrow");
    let seen: Vec<Packet> = (0..5).map(|_| client.expect_send()).collect();
    assert_eq!(bodies(&seen), all[..5]);
    server.process.kill();
    let server = deployment.setup().set("inflight_window", "2").start();
    let (mut client, _) = open(&server, "narrow");
    let mut in_flight: Vec<Packet> = (0..2).map(|_| client.expect_send()).collect();
    assert_eq!(come_so_far(&mut client), [], "more than the window");
    let mut delivered = bodies(&in_flight);
    while !in_flight.is_empty() {
        client.answer(Command::Ack, in_flight.remove(0).id, "");
        // What a freed place lets through may have to be read from the disk first.
        if delivered.len() < all.len() {
            in_flight.push(client.expect_send());
            delivered.push(in_flight.last().expect("just pushed").text());
        }
        assert_eq!(come_so_far(&mut client), [], "more than the window");
    }
    assert_eq!(delivered, all);
}

#[test]
fn a_full_queue_refuses_before_it_acknowledges() {
    let deployment = Deployment::new("full");
    let server = deployment.setup().set("store.session_messages_max", "3").start();
    let (client, _) = open(&server, "full");
    client.cut();
    await_absence(&server, "full");
    stored(&server, "full", "1", &["0", "1", "2"]);
    for _ in 0..2 {
        let answer = send(server.addr(), "full", &[("qos", "1")], "too many");
        assert_eq!(answer["status"], 1, "{answer}");
    }
    let (mut client, _) = open(&server, "full");
    let come: Vec<Packet> = (0..3).map(|_| client.expect_send()).collect();
    assert_eq!(bodies(&come), ["0", "1", "2"]);
    come.iter().for_each(|packet| client.answer(Command::Ack, packet.id, ""));
    assert_eq!(come_so_far(&mut client), [], "what was refused has come");
}

#[test]
fn acknowledgements_themselves_are_stored() {
    let deployment = Deployment::new("acknowledgements");
    counting(&deployment);
    let mut server = deployment.start();
    let message = Packet::send(2, 1, 1, "pay");
    let (mut client, _) = open(&server, "payer");
    client.packet(&message);
    assert_eq!(client.expect(Command::Rec, 1).text(), "answer 0");
    server.process.kill();
    let mut server = deployment.start();
    let (mut client, resumed) = open(&server, "payer");
    assert!(resumed, "what was acknowledged to a session is kept with it");
    client.packet(&message.clone().with_dup());
    assert_eq!(client.expect(Command::Rec, 1).text(), "answer 0");
    server.process.kill();
    let server = deployment.start();
    let (mut client, _) = open(&server, "payer");
    client.packet(&message.with_dup());
    assert_eq!(client.expect(Command::Rec, 1).text(), "answer 0");
    client.answer(Command::Rel, 1, "");
    client.expect(Command::Com, 1);
    assert_eq!(deployment.backend.messages().len(), 1, "forwarded once, whatever died in between");
}

#[test]
fn a_repeat_keeps_its_number_when_new_messages_follow_a_crash() {
    let deployment = Deployment::new("number");
    counting(&deployment);
    let mut server = deployment.start();
    let message = Packet::send(2, 1, 1, "pay");
    let (mut client, _) = open(&server, "payer");
    client.packet(&message);
    client.expect(Command::Rec, 1);
    server.process.kill();
    let server = deployment.start();
    // The client has not seen that REC, nor does it see this one.
    let (mut client, _) = open(&server, "payer");
    client.packet(&message.clone().with_dup());
    client.expect(Command::Rec, 1);
    client.send(2, 1, 2, "more");
    client.expect(Command::Rec, 2);
    client.cut();
    let (mut client, _) = open(&server, "payer");
    client.packet(&message.with_dup());
    assert_eq!(client.expect(Command::Rec, 1).text(), "answer 0");
    assert_eq!(deployment.backend.messages().len(), 2);
}
