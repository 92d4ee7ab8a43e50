//! Networks that break and heal.

use crate::harness::Client;
use crate::hosts::{HEALING, Hosts, during, pause, until};
use serde_json::Value;
use std::time::{Duration, Instant};

#[test]
fn each_side_of_a_partition_serves_its_own_and_both_agree_afterwards() {
    let hosts = Hosts::start(3);
    let mut clients = hosts.clients();
    hosts.assert_one(&mut clients);
    let lost = hosts.hosts[2].port;
    // The cable, until each side holds the other for down.
    hosts.lan.pull_cable(lost);
    assert_both_sides_serve(&hosts, &mut clients);
    let is_down = |of: usize, other: usize| hosts.hosts[of].states_of(&hosts.hosts[other]) == ["down"];
    let are_down = || (is_down(0, 2) && is_down(1, 2) && is_down(2, 0) && is_down(2, 1)).then_some(());
    until(Duration::from_secs(20), are_down, || hosts.views());
    // Who comes during the partition is there for all afterwards.
    let mut newcomer = hosts.hosts[2].client("new");
    hosts.lan.plug_in(lost);
    healed(&hosts, &mut clients, "the cable");
    let (answer, _) = hosts.hosts[0].send_to("new", &mut [&mut newcomer]);
    assert_eq!((&answer["status"], &answer["connections"]), (&0.into(), &1.into()), "{answer}");
    // Packets are dropped in both directions, and links do not see it.
    hosts.hosts[2].namespace.filter(&["in iifname eth0 drop", "out oifname eth0 drop"]);
    assert_both_sides_serve(&hosts, &mut clients);
    hosts.hosts[2].namespace.filter(&[]);
    healed(&hosts, &mut clients, "drops in both directions");
}

#[test]
fn a_node_that_is_not_heard_costs_calls_its_own_part() {
    one_way("out oifname eth0 drop");
}

#[test]
fn a_node_that_hears_nothing_costs_calls_its_own_part() {
    one_way("in iifname eth0 drop");
}

fn one_way(rule: &str) {
    let hosts = Hosts::start(3);
    let mut clients = hosts.clients();
    hosts.assert_one(&mut clients);
    hosts.hosts[2].namespace.filter(&[rule]);
    assert_both_sides_serve(&hosts, &mut clients);
    hosts.hosts[2].namespace.filter(&[]);
    healed(&hosts, &mut clients, rule);
}

#[test]
fn a_cable_that_flaps_delays_nobody_else() {
    let hosts = Hosts::start(3);
    let mut clients = hosts.clients();
    hosts.assert_one(&mut clients);
    let (flapping, begun) = (hosts.hosts[2].port, Instant::now());
    let mut longest = Duration::ZERO;
    for second in 1..=15 {
        match second % 2 {
            1 => hosts.lan.pull_cable(flapping),
            _ => hosts.lan.plug_in(flapping),
        }
        let end = begun + Duration::from_secs(second);
        while Instant::now() < end {
            let (answer, took) = hosts.hosts[0].send_to("of0", &mut [&mut clients[0]]);
            assert_eq!(answer["connections"], 1, "{answer}");
            longest = longest.max(took);
            pause(Duration::from_millis(50));
        }
    }
    hosts.lan.plug_in(flapping);
    eprintln!("flapping: the longest call to a client of its own node took {longest:?}");
    assert!(longest < CALL, "{longest:?}");
    healed(&hosts, &mut clients, "flapping");
}

/// Nodes 0 and 1 go on as one, node 2 alone; every call is answered in its time, and says whom it did not reach.
fn assert_both_sides_serve(hosts: &Hosts, clients: &mut [Client]) {
    let [zero, one, two] = clients else { panic!("three") };
    let expected = |answer: &Value, connections: u64, unreachable: u64| {
        let figures = ["status", "connections", "unreachable"].map(|figure| answer[figure].as_u64());
        assert_eq!(figures, [Some(1), Some(connections), Some(unreachable)], "{answer}, {}", hosts.views());
    };
    let mut longest = Duration::ZERO;
    for _ in 0..3 {
        for (host, others) in [(0, 1), (1, 1), (2, 2)] {
            let here: &mut [&mut Client] = if host == 2 { &mut [two] } else { &mut [zero, one] };
            let (answer, took) = hosts.hosts[host].send_to("all", here);
            expected(&answer, here.len() as u64, others);
            longest = longest.max(took);
        }
    }
    eprintln!("in the partition the longest call of 1 s took {longest:?}");
    assert!(longest < CALL, "{longest:?}");
    // Once a link is known to be away, nobody waits for it.
    let at_once = |host: usize| {
        let (answer, took) = hosts.hosts[host].send("all");
        (answer["unreachable"].as_u64() == Some(if host == 2 { 2 } else { 1 }) && took < AT_ONCE).then_some(())
    };
    (0..3).for_each(|host| until(HEALING, || at_once(host), || hosts.views()));
    let begun = Instant::now();
    drop(hosts.hosts[2].client("alone"));
    assert!(begun.elapsed() < CALL, "a client was let in after {:?}", begun.elapsed());
    // Those of one side are still one.
    during(Duration::from_millis(300), || {
        assert_eq!(hosts.hosts[0].states_of(&hosts.hosts[1]), ["live"]);
        assert_eq!(hosts.hosts[1].states_of(&hosts.hosts[0]), ["live"]);
    });
}

fn healed(hosts: &Hosts, clients: &mut [Client], what: &str) {
    let took = hosts.until_linked(HEALING);
    eprintln!("{what}: healed after {took:?}");
    hosts.assert_one(clients);
}

/// A call of a second, the second that nodes have beyond it, the second within which deadlines are noticed; and a machine
/// that is busy.
const CALL: Duration = Duration::from_millis(3_500);
const AT_ONCE: Duration = Duration::from_millis(200);
