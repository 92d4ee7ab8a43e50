//! Datagrams that are lost, nodes that die and nodes that stand still.

use crate::harness::{Client, heavy, sys};
use crate::hosts::{Hosts, during, of_2014, until};
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
