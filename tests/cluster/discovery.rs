//! How nodes find each other, and who does not.

use crate::harness::{TIMEOUT, heavy};
use crate::hosts::{DISCOVERY, Host, Hosts, NODE_PORT, during, of_2014, with};
use crate::network::{Family, Lan, Namespace};
use std::time::{Duration, Instant};

#[test]
fn nodes_of_one_2014_file_find_each_other_by_broadcast_alone() {
    let mut hosts = Hosts::new(3, Family::V4);
    hosts.hosts.iter_mut().for_each(|host| host.start(of_2014()));
    let took = hosts.until_linked(DISCOVERY);
    eprintln!("found each other by broadcast {took:?} after the last one's start");
    hosts.assert_one(&mut hosts.clients());
}

/// One host is in another network besides, where another cluster has a node.
#[test]
fn nodes_with_several_interfaces_find_each_other() {
    let (mut hosts, other) = (Hosts::new(2, Family::V4), Lan::new(2));
    other.connect(&hosts.hosts[0].namespace, "eth1", Family::V4);
    let mut stranger = Host::new(&other, Family::V4);
    stranger.start(of_2014().env("RAINBOW_CLUSTER_NAME", "another"));
    hosts.hosts.iter_mut().for_each(|host| host.start(of_2014()));
    hosts.until_linked(DISCOVERY);
    hosts.assert_one(&mut hosts.clients());
    assert_eq!(stranger.live(), 0);
}

/// Whose first interface is not the one of the cluster.
#[test]
fn a_node_is_found_where_its_second_interface_is() {
    let (mut hosts, other) = (Hosts::new(2, Family::V4), Lan::new(2));
    let namespace = Namespace::new();
    other.connect(&namespace, "eth0", Family::V4);
    let port = hosts.lan.connect(&namespace, "eth1", Family::V4);
    hosts.hosts.push(Host::with(namespace, port));
    let own = format!("{}:{NODE_PORT}", port.v4());
    let (last, others) = hosts.hosts.split_last_mut().expect("three");
    others.iter_mut().for_each(|host| host.start(of_2014()));
    last.start(of_2014().env("RAINBOW_CLUSTER_ADDRESS", &own));
    hosts.until_linked(DISCOVERY);
    hosts.assert_one(&mut hosts.clients());
}

#[test]
fn nodes_find_each_other_by_seeds_where_broadcasts_are_dropped() {
    let mut hosts = Hosts::new(3, Family::V4);
    let seed = format!("[\"{}:{NODE_PORT}\"]", hosts.hosts[0].port.v4());
    for host in &mut hosts.hosts {
        host.namespace
            .filter(&["in iifname eth0 udp dport 2014-2033 drop", "out oifname eth0 udp dport 2014-2033 drop"]);
        host.start(with(&[("cluster_seeds", &seed)]));
    }
    let took = hosts.until_linked(DISCOVERY);
    eprintln!("found each other by one seed {took:?} after the last one's start");
    hosts.assert_one(&mut hosts.clients());
}

#[test]
fn nodes_find_each_other_where_there_is_ipv6_only() {
    let mut hosts = Hosts::new(3, Family::V6);
    let seed = format!("[\"[{}]:{NODE_PORT}\"]", hosts.hosts[0].port.v6());
    let setup = || with(&[("cluster_seeds", &seed), ("listen", "\"::\"")]);
    hosts.hosts.iter_mut().for_each(|host| host.start(setup()));
    let took = hosts.until_linked(DISCOVERY);
    eprintln!("found each other by IPv6 {took:?} after the last one's start");
    hosts.assert_one(&mut hosts.clients());
}

/// Without any secret the cluster is the machine's: nothing leaves it.
#[test]
fn nodes_without_a_secret_send_nothing_beyond_their_host() {
    let _alone = heavy();
    let mut hosts = Hosts::new(2, Family::V4);
    let setup = || with(&[("security_token", "\"\"")]);
    let seeds = hosts.hosts.iter().map(|host| format!("{}:{NODE_PORT}", host.port.v4())).collect::<Vec<_>>();
    let seeds = format!("{seeds:?}");
    for host in &mut hosts.hosts {
        host.namespace.filter(&[
            "out oifname != lo meta l4proto { tcp, udp } counter",
            "out oifname lo udp dport 2014-2033 counter",
        ]);
        host.start(setup().set("cluster_seeds", &seeds));
    }
    let begun = Instant::now();
    let here = &hosts.hosts[0];
    let beside = here.start_beside(setup());
    // Without a secret there are no calls at such a listener: the log says who is there.
    beside.process.log.wait_for("a peer", TIMEOUT, |row| row.contains(LINKED));
    // The first announcements of a node follow each other within 3.5 s.
    during(Duration::from_millis(4_500).saturating_sub(begun.elapsed()), || {});
    let counted = here.namespace.run("nft list ruleset");
    let counters: Vec<&str> = counted.lines().filter(|rule| rule.contains("counter packets")).collect();
    assert_eq!(counters.len(), 2, "{counted}");
    assert!(counters[0].contains("counter packets 0 "), "something left the host: {counted}");
    assert!(!counters[1].contains("counter packets 0 "), "it has announced itself to its host: {counted}");
    let elsewhere = hosts.hosts[1].server().log();
    assert!(!elsewhere.contains(LINKED), "{elsewhere}");
}

const LINKED: &str = "a node of the cluster is linked";
