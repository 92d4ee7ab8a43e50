//! Datagrams that are lost, nodes that die and nodes that stand still.

use crate::harness::{Client, TIMEOUT, heavy, sys};
use crate::hosts::{Host, Hosts, during, of_2014, until};
use crate::network::{Family, Namespace};
use std::time::{Duration, Instant};

#[test]
fn a_fifth_of_all_datagrams_lost_declares_nobody_down() {
    let hosts = Hosts::start(3);
    for host in &hosts.hosts {
        host.namespace.filter(&["in iifname eth0 meta l4proto udp numgen random mod 100 < 20 counter drop"]);
    }
    let (mut looks, mut suspected) = (0, 0);
    during(Duration::from_secs(30), || {
        for host in &hosts.hosts {
            let peers = host.peers();
            assert_eq!(peers.len(), 2, "{}", hosts.views());
            for peer in peers {
                let state = peer["state"].as_str().expect("a state");
                assert!(["live", "suspected"].contains(&state), "{peer}");
                (looks, suspected) = (looks + 1, suspected + i32::from(state == "suspected"));
            }
        }
    });
    eprintln!("loss of a fifth: {suspected} of {looks} looks saw a suspicion");
    hosts.assert_one(&mut hosts.clients());
    for host in &hosts.hosts {
        let counted = host.namespace.run("nft list ruleset");
        assert!(!counted.contains("counter packets 0 "), "nothing was lost: {counted}");
    }
}

/// The clone of a virtual machine runs beside its original.
#[test]
fn two_hosts_of_one_address_are_named_and_disturb_nobody_else() {
    let mut hosts = Hosts::start(3);
    let mut clients = [hosts.hosts[0].client("all"), hosts.hosts[1].client("all")];
    let clone = Namespace::new();
    let cable = hosts.lan.connect_clone(&clone, "eth0", Family::V4, hosts.hosts[2].port);
    let mut clone = Host::with(clone, cable);
    clone.start(of_2014());
    let named = |host: &Host| {
        host.server().log().lines().filter(|entry| entry.contains("two nodes run at one address")).count()
    };
    let (begun, mut longest) = (Instant::now(), Duration::ZERO);
    let mut named_after = None;
    during(FIGHT, || {
        let [one, other] = &mut clients;
        for host in &hosts.hosts[..2] {
            let (answer, took) = host.send_to("all", &mut [one, other]);
            assert_eq!(answer["connections"], 2, "{answer}");
            longest = longest.max(took);
        }
        if named_after.is_none() && hosts.hosts.iter().chain([&clone]).any(|host| named(host) > 0) {
            named_after = Some(begun.elapsed());
        }
    });
    let counts: Vec<usize> = hosts.hosts.iter().chain([&clone]).map(named).collect();
    // Who has been told by the others that it is dead ends, and would be started anew.
    let [has_ended, clone_has_ended] =
        [&mut hosts.hosts[2], &mut clone].map(|host| host.server.as_mut().expect("it was started").process.exited());
    eprintln!(
        "two hosts of one address: named after {named_after:?}, times {counts:?}, ended: the original {has_ended:?}, the \
         clone {clone_has_ended:?}; the longest send {longest:?}"
    );
    let is_named = named_after.is_some() || has_ended.is_some() || clone_has_ended.is_some();
    assert!(is_named && counts.iter().all(|count| *count <= 2), "{counts:?}\n{}", hosts.views());
    hosts.lan.pull_cable(cable);
    // Neighbours would believe in the clone's MAC address for half a minute.
    hosts.hosts[..2].iter().for_each(|host| drop(host.namespace.run("ip neigh flush dev eth0")));
    // Then the original may hear that it is dead.
    let begun = Instant::now();
    let is_whole = |hosts: &mut Hosts| {
        if hosts.hosts[2].server().log().contains("have ended this life") {
            let mut ended = hosts.hosts[2].server.take().expect("it runs");
            ended.exited_within(TIMEOUT);
            drop(ended);
            hosts.hosts[2].start(of_2014());
        }
        hosts.hosts.iter().all(|host| host.live() == 2).then_some(())
    };
    until(Duration::from_secs(90), || is_whole(&mut hosts), || "they are not linked".into());
    eprintln!("linked {:?} after the clone was gone", begun.elapsed());
    drop(clone);
}

#[test]
fn a_node_that_is_killed_delays_no_send_and_is_back_within_five_seconds() {
    let _alone = heavy();
    let mut hosts = Hosts::start(3);
    let clients: Vec<Vec<Client>> =
        hosts.hosts.iter().map(|host| (0..CLIENTS).map(|_| host.client("all")).collect()).collect();
    // The longest send of the first two, one after the other, and how many there were.
    let steady = |length: Duration, expected: &[usize]| {
        let (begun, mut longest, mut count) = (Instant::now(), Duration::ZERO, 0);
        while begun.elapsed() < length {
            let (answer, took) = hosts.hosts[count % 2].send("all");
            let targets = answer["targets"].as_u64().expect("a number") as usize;
            assert!(expected.contains(&targets), "{answer}");
            (longest, count) = (longest.max(took), count + 1);
        }
        (longest, count)
    };
    let (before, _) = steady(Duration::from_secs(3), &[3 * CLIENTS]);
    sys::kill(hosts.hosts[2].server().process.pid(), "KILL");
    let (after, count) = steady(Duration::from_secs(4), &[2 * CLIENTS, 3 * CLIENTS]);
    let (later, _) = steady(Duration::from_secs(1), &[2 * CLIENTS]);
    hosts.hosts[2].server = None;
    hosts.hosts[2].start(of_2014());
    let took = hosts.until_linked(Duration::from_secs(5));
    let (answer, _) = hosts.hosts[2].send("all");
    assert_eq!(answer["targets"], 2 * CLIENTS, "{answer}");
    eprintln!(
        "kill -9: the longest send took {before:?} in 3 s before it and {:?} in 5 s after it ({count} in 4 s); linked \
         again after {took:?}",
        after.max(later)
    );
    // The machine may have others to serve: what a send takes without any fault is no pause.
    assert!(after.max(later) < PAUSE + before, "{after:?}, {later:?}");
    drop(clients);
}

#[test]
fn a_node_that_stood_still_accuses_nobody() {
    let hosts = Hosts::start(3);
    let mut clients = hosts.clients();
    let [zero, one, two] = &hosts.hosts[..] else { panic!("three") };
    let healthy = || {
        assert_eq!((zero.states_of(one), one.states_of(zero)), (vec!["live".into()], vec!["live".into()]));
    };
    let pid = two.server().process.pid();
    sys::kill(pid, "STOP");
    during(Duration::from_secs(10), healthy);
    sys::kill(pid, "CONT");
    let begun = Instant::now();
    let accusations = || {
        healthy();
        let seen = [zero, one].map(|other| two.states_of(other)).concat();
        assert!(!seen.contains(&"down".to_owned()), "{seen:?}");
        (hosts.hosts.iter().all(|host| host.live() == 2)).then_some(())
    };
    until(Duration::from_secs(10), accusations, || hosts.views());
    eprintln!("stopped for 10 s: one cluster again after {:?}", begun.elapsed());
    during(Duration::from_secs(4), || assert!(accusations().is_some(), "{}", hosts.views()));
    hosts.assert_one(&mut clients);
}

const PAUSE: Duration = Duration::from_millis(200);
/// Of each node.
const CLIENTS: usize = 100;
const FIGHT: Duration = Duration::from_secs(15);
