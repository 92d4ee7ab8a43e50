//! Nodes that find each other serve as one: every call on every node, whatever becomes of the others.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::call::{call, call_get, send, send_later, subscribe};
use crate::harness::http::{self, Wire};
use crate::harness::ports::free_port;
use crate::harness::{Backend, Client, Command, Reply, Server, Setup, TIMEOUT, Upgrade, eventually, sys};

/// Nodes of one cluster, and a business server that subscribes each client to what its query names.
pub struct Nodes {
    pub backend: Backend,
    name: String,
    nodes: Vec<Server>,
}

impl Nodes {
    pub fn start(count: usize) -> Nodes {
        let mut nodes = Nodes::none();
        (0..count).for_each(|_| nodes.add(|setup| setup));
        nodes.until_linked();
        nodes
    }

    fn none() -> Nodes {
        static CLUSTERS: AtomicU32 = AtomicU32::new(0);
        let backend = Backend::start();
        backend.on_connect(|request| {
            Reply::welcome().header("RAINBOWCLIENTCHANNEL", &request.param("channels").unwrap_or_default())
        });
        let name = format!("it-{}-{}", std::process::id(), CLUSTERS.fetch_add(1, Ordering::Relaxed));
        Nodes { backend, name, nodes: Vec::new() }
    }

    fn setup(&self) -> Setup {
        Setup::of(&self.backend).text("cluster_name", &self.name).env("RAINBOW_CLUSTER", "auto")
    }

    fn add(&mut self, also: impl FnOnce(Setup) -> Setup) {
        self.nodes.push(also(self.setup()).start());
    }

    pub fn addr(&self, node: usize) -> SocketAddr {
        self.nodes[node].addr()
    }

    /// Every node has a link to every other.
    fn until_linked(&self) {
        let others = self.nodes.len() - 1;
        for node in &self.nodes {
            eventually("the nodes are linked", || (live(node.addr()) == others).then_some(()));
        }
    }

    fn client(&self, node: usize, channels: &str) -> Client {
        Upgrade::of("phone").query("channels", channels).open(self.addr(node))
    }

    /// The only member of a channel.
    fn identity(&self, channel: &str) -> String {
        let members = call_get(self.addr(0), "/channel/", &[("channel", channel)]).json();
        members["identities"][0].as_str().unwrap_or_else(|| panic!("{members}")).to_owned()
    }
}

fn info(node: SocketAddr) -> Value {
    call_get(node, "/info/", &[]).json()
}

fn live(node: SocketAddr) -> usize {
    let info = info(node);
    let peers = info["peers"].as_array().map(Vec::as_slice).unwrap_or_default();
    peers.iter().filter(|peer| peer["state"] == "live" && peer["is_linked"] == true).count()
}

/// Of the metrics.
fn figure(node: SocketAddr, name: &str) -> f64 {
    let metrics = call_get(node, "/metrics", &[]).text();
    let found = metrics.lines().find_map(|row| row.strip_prefix(name)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("no {name} in {metrics}"))
}

fn at_least(node: SocketAddr, name: &str, least: f64) {
    eventually(name, || (figure(node, name) >= least).then_some(()));
}

fn targets(answer: &Value) -> u64 {
    answer["targets"].as_u64().unwrap_or_else(|| panic!("{answer}"))
}

#[test]
fn two_nodes_of_one_2014_file_find_each_other_and_serve_as_one() {
    let nodes = Nodes::none();
    let url = |path: &str| nodes.backend.url(path);
    let ini = format!(
        "[main]\nconnect_url = {}\nsecurity_token = {}\nforward_url = {}\nclose_url = {}\ncluster_name = {}\n\
         listen = 127.0.0.1\n",
        url("/connect/"),
        crate::harness::TOKEN,
        url("/message/{message_type}/"),
        url("/close/"),
        nodes.name,
    );
    let node = || Setup::new().file("rainbow.ini", &ini).env("RAINBOW_CLUSTER", "auto").start();
    let (one, other) = (node(), node());
    let begun = Instant::now();
    eventually("they have found each other", || (live(one.addr()) == 1 && live(other.addr()) == 1).then_some(()));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let mut client = Upgrade::of("phone").query("channels", "chat").open(one.addr());
    let answer = send_later(other.addr(), "chat", &[("qos", "1")], "hello");
    let sent = client.expect_send();
    client.answer(Command::Ack, sent.id, "well");
    let answer = answer.join().expect("it is answered");
    assert_eq!(answer, serde_json::json!({"status": 0, "connections": 1, "targets": 1, "data": "well"}));
}

#[test]
fn every_call_on_every_node_means_the_whole_cluster() {
    let nodes = Nodes::start(3);
    let mut clients: Vec<Client> = (0..3).map(|node| nodes.client(node, &format!("all;;of{node}"))).collect();
    for node in 0..3 {
        let to = nodes.addr(node);
        // To everybody, with each QoS; each client answers, and the answers add up.
        assert_eq!(targets(&send(to, "all", &[("qos", "0")], "0")), 3);
        clients.iter_mut().for_each(|client| assert_eq!(client.expect_send().body, b"0"));
        for qos in ["1", "2"] {
            let answer = send_later(to, "all", &[("qos", qos)], "x");
            for client in &mut clients {
                let sent = client.expect_send();
                if qos == "1" {
                    client.answer(Command::Ack, sent.id, "");
                } else {
                    client.answer(Command::Rec, sent.id, "");
                    client.expect(Command::Rel, sent.id);
                    client.answer(Command::Com, sent.id, "");
                }
            }
            let answer = answer.join().expect("it is answered");
            assert_eq!((&answer["status"], &answer["connections"]), (&0.into(), &3.into()), "{answer}");
        }
        // To several channels: once to whoever is in several.
        let answer = call(to, "/broadcast/", &[("channel", "all;;of0;;of2"), ("qos", "0")], "b").json();
        assert_eq!(targets(&answer), 3, "{answer}");
        clients.iter_mut().for_each(|client| assert_eq!(client.expect_send().body, b"b"));
        let members = call_get(to, "/channel/", &[("channel", "all")]).json();
        assert_eq!(members["connections"], 3, "{members}");
        assert_eq!(members["identities"].as_array().map(Vec::len), Some(3));
        let largest = call_get(to, "/channel/", &[]).json();
        assert_eq!(largest["channels"][0], serde_json::json!({"channel": "all", "connections": 3}));
        let info = info(to);
        let connections: u64 =
            info["nodes"].as_array().expect("nodes").iter().map(|n| n["connections"].as_u64().unwrap()).sum();
        assert_eq!(connections, 3, "{info}");
    }
    // Page by page, whoever is asked.
    let page = |node, offset: &str| {
        let params = [("channel", "all"), ("offset", offset), ("limit", "1")];
        call_get(nodes.addr(node), "/channel/", &params).json()["identities"][0].as_str().map(String::from)
    };
    let pages: Vec<_> = ["0", "1", "2", "3"].iter().map(|offset| page(0, offset)).collect();
    assert!(pages[..3].iter().all(Option::is_some) && pages[3].is_none(), "{pages:?}");
    assert_eq!(pages, ["0", "1", "2", "3"].map(|offset| page(1, offset)));
    // One who is on another node.
    for node in 0..3 {
        let to = nodes.addr(node);
        let identity = nodes.identity("of2");
        subscribe(to, &identity, "new");
        assert_eq!(targets(&send(nodes.addr(1), "new", &[("qos", "0")], "n")), 1);
        assert_eq!(clients[2].expect_send().body, b"n");
        let body = format!(r#"{{"identity": "{identity}", "channel": "new"}}"#);
        assert_eq!(call(to, "/unsub/", &[], body).outcome(), 0);
        assert_eq!(targets(&send(nodes.addr(1), "new", &[("qos", "0")], "n")), 0);
    }
    // Who occupies a channel drives out those on all nodes.
    let occupy = format!(r#"{{"identity": "{}", "channel": "all", "occupy": 1}}"#, nodes.identity("of1"));
    assert_eq!(call(nodes.addr(0), "/sub/", &[], occupy).outcome(), 0);
    assert_eq!(call_get(nodes.addr(2), "/channel/", &[("channel", "all")]).json()["connections"], 1);
    // Kicked by name, and by channel.
    let kick = format!(r#"{{"identity": "{}", "code": 4500}}"#, nodes.identity("of0"));
    assert_eq!(call(nodes.addr(2), "/kick/", &[], kick).json()["connections"], 1);
    assert_eq!(clients[0].expect_close().0, 4500);
    let kicked = call(nodes.addr(0), "/kick/", &[], r#"{"channel": "of2", "code": 4501}"#).json();
    assert_eq!(kicked["connections"], 1, "{kicked}");
    assert_eq!(clients[2].expect_close().0, 4501);
    let foreign = format!(r#"{{"identity": "{}", "channel": "x"}}"#, "ab".repeat(32));
    assert!(call(nodes.addr(0), "/sub/", &[], foreign).text().contains("no such connection"));
}

#[test]
fn channels_are_found_and_counted_on_all_nodes_or_on_one() {
    let nodes = Nodes::start(2);
    let _clients = [nodes.client(0, "room:here;;room:both"), nodes.client(1, "room:there;;room:both")];
    let find = |more: &[(&str, &str)]| -> Vec<(String, u64)> {
        let page = call_get(nodes.addr(0), "/channel/", &[&[("find", "room:")], more].concat()).json();
        let channels = page["channels"].as_array().unwrap_or_else(|| panic!("{page}"));
        channels
            .iter()
            .map(|one| (one["channel"].as_str().unwrap().into(), one["connections"].as_u64().unwrap()))
            .collect()
    };
    let named = |all: &[(&str, u64)]| all.iter().map(|(name, count)| (name.to_string(), *count)).collect::<Vec<_>>();
    assert_eq!(find(&[]), named(&[("room:both", 2), ("room:here", 1), ("room:there", 1)]));
    let [here, there] = [0, 1].map(|node| info(nodes.addr(node))["node"].as_str().expect("its name").to_owned());
    assert_eq!(find(&[("node", &here)]), named(&[("room:both", 1), ("room:here", 1)]));
    assert_eq!(find(&[("node", &there)]), named(&[("room:both", 1), ("room:there", 1)]));
    let nobody = call_get(nodes.addr(0), "/channel/", &[("node", "00000000")]).json();
    assert_eq!(nobody["msg"], "no such node: /info/ names those that are there");
    let look = || {
        let page = call_get(nodes.addr(0), "/channel/", &[("channel", "room:both"), ("limit", "0"), ("counts", "1")]);
        (page.json()["messages"].clone(), page.json()["deliveries"].clone())
    };
    assert_eq!(look(), (0.into(), 0.into()));
    send(nodes.addr(1), "room:both", &[("qos", "0")], "x");
    eventually("a message to two clients on two nodes", || (look() == (1.into(), 2.into())).then_some(()));
}

/// Directory 6: a send through every other node right after connect: never 0.
#[test]
fn a_client_that_has_its_101_can_be_reached_from_every_node() {
    let nodes = Nodes::start(3);
    for round in 0..150 {
        let (owner, channel) = (round % 3, format!("round {round}"));
        let mut client = nodes.client(owner, &channel);
        for node in 0..3 {
            assert_eq!(targets(&send(nodes.addr(node), &channel, &[("qos", "0")], "x")), 1, "{round} by {node}");
            client.expect_send();
        }
        if round % 5 == 0 {
            let (identity, another) = (nodes.identity(&channel), format!("another {round}"));
            subscribe(nodes.addr((owner + 1) % 3), &identity, &another);
            for node in 0..3 {
                assert_eq!(targets(&send(nodes.addr(node), &another, &[("qos", "0")], "x")), 1, "/sub/ {round}");
            }
        }
        client.cut();
    }
}

#[test]
fn clusters_of_other_names_or_keys_do_not_meet() {
    let (mut here, there) = (Nodes::start(2), Nodes::start(1));
    here.add(|setup| setup.text("cluster_secret", "another"));
    here.add(|setup| setup.env("RAINBOW_CLUSTER", "off"));
    let mut client = here.client(0, "room");
    // Each has heard the others, and cannot open what they send.
    for node in [here.addr(0), here.addr(1), here.addr(2), there.addr(0)] {
        at_least(node, FORGED, 3.0);
    }
    assert_eq!([0, 1, 2].map(|node| live(here.addr(node))), [1, 1, 0]);
    assert_eq!(live(there.addr(0)), 0);
    assert!(info(here.addr(3))["peers"].is_null(), "it is alone by its configuration");
    for stranger in [here.addr(2), here.addr(3), there.addr(0)] {
        assert_eq!(targets(&send(stranger, "room", &[("qos", "0")], "x")), 0);
    }
    assert_eq!(targets(&send(here.addr(1), "room", &[("qos", "0")], "mine")), 1);
    assert_eq!(client.expect_send().body, b"mine");
}

/// Directory 7: calls return in their time, with the others' counts and `unreachable` 1.
#[test]
fn a_node_that_is_stopped_costs_a_call_its_own_part() {
    let nodes = Nodes::start(3);
    let mut clients: Vec<Client> = (0..3).map(|node| nodes.client(node, &format!("all;;of {node}"))).collect();
    let _kicked = nodes.client(2, "there");
    let (here, there) = (nodes.identity("of 0"), nodes.identity("there"));
    assert_eq!(targets(&send(nodes.addr(0), "all", &[("qos", "0")], "x")), 3);
    clients.iter_mut().for_each(|client| drop(client.expect_send()));
    let pid = nodes.nodes[2].process.pid();
    sys::kill(pid, "STOP");
    // All at once, and nobody knows yet.
    std::thread::scope(|scope| {
        let call = |path: &'static str| {
            let (to, there) = (nodes.addr(0), &there);
            scope.spawn(move || (path, answer_of(to, path, there)))
        };
        let calls = CALLS.map(call);
        for client in &mut clients[..2] {
            // Of /send/ and of /broadcast/.
            for _ in 0..2 {
                let sent = client.expect_send();
                client.answer(Command::Ack, sent.id, "");
            }
        }
        for call in calls {
            let (path, (answer, took)) = call.join().expect("it is answered");
            let limit = if WITH_TIMEOUT.contains(&path) { 2_600 } else { 10_600 };
            assert!(took < Duration::from_millis(limit), "{path}: {took:?}");
            assert_is_partial(path, &answer);
        }
    });
    // Its link is found to be silent: from then on nobody waits for it.
    eventually("it is taken for unreachable", || {
        let begun = Instant::now();
        let answer = send(nodes.addr(1), "all", &[("qos", "0")], "z");
        (answer["unreachable"] == 1 && begun.elapsed() < Duration::from_millis(200)).then_some(())
    });
    for path in CALLS {
        // These would wait for the clients.
        if !WITH_TIMEOUT.contains(&path) {
            let (answer, took) = answer_of(nodes.addr(1), path, &there);
            assert!(took < Duration::from_millis(500), "{path}: {took:?}");
            assert_is_partial(path, &answer);
        }
    }
    subscribe(nodes.addr(1), &here, "new");
    sys::kill(pid, "CONT");
    nodes.until_linked();
    eventually("it is reached as before", || {
        (send(nodes.addr(1), "all", &[("qos", "0")], "z")["targets"] == 3).then_some(())
    });
}

/// That all nodes, or the one that has this client, take part in.
const CALLS: [&str; 6] = ["/send/", "/broadcast/", "/channel/", "/sub/", "/unsub/", "/kick/"];
const WITH_TIMEOUT: [&str; 2] = ["/send/", "/broadcast/"];

/// And how long it took.
fn answer_of(to: SocketAddr, path: &str, identity: &str) -> (Value, Duration) {
    let begun = Instant::now();
    let answer = match path {
        "/send/" => call(to, path, &[("channel", "all"), ("qos", "1"), ("timeout", "1")], "y"),
        "/broadcast/" => call(to, path, &[("channel", "all"), ("qos", "1"), ("timeout", "1")], "y"),
        "/channel/" => call_get(to, path, &[("channel", "all")]),
        "/kick/" => call(to, path, &[], format!(r#"{{"identity": "{identity}", "code": 4500}}"#)),
        _ => call(to, path, &[], format!(r#"{{"identity": "{identity}", "channel": "other"}}"#)),
    };
    (answer.json(), begun.elapsed())
}

/// It says that a node is missing, and has what the others have.
fn assert_is_partial(path: &str, answer: &Value) {
    assert_eq!(answer["status"], 1, "{path}: {answer}");
    match path {
        "/send/" | "/broadcast/" | "/channel/" => {
            assert_eq!(
                (answer["connections"].as_u64(), answer["unreachable"].as_u64()),
                (Some(2), Some(1)),
                "{answer}"
            );
        }
        _ => assert!(answer["msg"].as_str().is_some_and(|why| why.contains("did not answer")), "{path}: {answer}"),
    }
}

#[test]
fn a_node_that_is_killed_leaves_the_others_as_they_are_and_comes_back_as_another() {
    let mut nodes = Nodes::start(3);
    let mut client = nodes.client(0, "all");
    let gone = nodes.client(2, "all;;there");
    assert_eq!(targets(&send(nodes.addr(1), "all", &[("qos", "0")], "x")), 2);
    client.expect_send();
    let killed = nodes.nodes.pop().expect("three");
    let identity = nodes.identity("there");
    sys::kill(killed.process.pid(), "KILL");
    let mut longest = Duration::ZERO;
    for _ in 0..50 {
        let begun = Instant::now();
        let answer = send(nodes.addr(1), "all", &[("qos", "0")], "x");
        longest = longest.max(begun.elapsed());
        assert_eq!(answer["targets"], 1, "{answer}");
        client.expect_send();
    }
    assert!(longest < Duration::from_millis(200), "{longest:?}");
    drop(gone);
    // Another life at the same address takes its place at once.
    nodes.nodes.push(nodes.setup().start_on(killed.into_port()));
    nodes.until_linked();
    let answer = send(nodes.addr(1), "all", &[("qos", "0")], "x");
    assert_eq!((answer["status"].as_u64(), answer["targets"].as_u64()), (Some(0), Some(1)), "{answer}");
    let body = format!(r#"{{"identity": "{identity}", "channel": "x"}}"#);
    assert!(call(nodes.addr(0), "/sub/", &[], body).text().contains("no such connection"));
}

#[test]
fn nodes_meet_at_an_address_of_their_own_and_nobody_else_is_served_there() {
    let mut nodes = Nodes::none();
    let ports = [free_port(), free_port()];
    let meeting: Vec<SocketAddr> = ports.iter().map(|port| ([127, 0, 0, 1], port.number).into()).collect();
    for own in &meeting {
        nodes.add(|setup| setup.text("cluster_listen", &own.to_string()));
    }
    nodes.until_linked();
    let mut client = nodes.client(1, "room");
    assert_eq!(targets(&send(nodes.addr(0), "room", &[("qos", "0")], "x")), 1);
    assert_eq!(client.expect_send().body, b"x");
    for (node, other) in [(0, 1), (1, 0)] {
        let peers = info(nodes.addr(node))["peers"].clone();
        assert_eq!(peers[0]["address"], meeting[other].to_string(), "{peers}");
    }
    for own in meeting {
        for path in ["/", "/hello/", "/connect/", "/info/", "/metrics"] {
            assert_eq!(http::get(own, path).status, 404, "{path}");
        }
        assert_eq!(http::get(own, "/cluster/control").status, 426, "links are taken here");
    }
    assert_eq!(http::get(nodes.addr(0), "/cluster/control").status, 404, "and nowhere else");
}

#[test]
fn the_command_line_shows_every_node() {
    let nodes = Nodes::start(2);
    let _client = nodes.client(1, "all");
    let url = format!("http://{}", nodes.addr(0));
    let shown = Setup::new().run(&["cluster", "status", "--server", &url, "--text"]);
    assert!(shown.status.success(), "{}", shown.text);
    let rows: Vec<Vec<&str>> = shown.text.lines().map(|row| row.split_whitespace().collect()).collect();
    let (own, other) = (nodes.addr(0).to_string(), nodes.addr(1).to_string());
    let row =
        |address: &str| rows.iter().find(|row| row.get(1) == Some(&address)).unwrap_or_else(|| panic!("{rows:?}"));
    assert_eq!(row(&own)[2..6], ["this", "node", "0", "0"]);
    assert_eq!(row(&other)[2..5], ["live", "1", "1"]);
    let json = Setup::new().run(&["cluster", "status", "--server", &url]);
    assert!(json.text.contains("\"is_linked\":true"), "{}", json.text);
}

#[test]
fn a_node_that_leaves_is_missed_by_nobody() {
    let mut nodes = Nodes::start(2);
    let mut client = nodes.client(1, "all");
    let mut leaver = nodes.nodes.remove(0);
    leaver.terminate();
    assert!(leaver.exited_within(TIMEOUT).success());
    eventually("it has left", || (live(nodes.addr(0)) == 0).then_some(()));
    let answer = send(nodes.addr(0), "all", &[("qos", "0")], "x");
    assert_eq!((answer["status"].as_u64(), answer["targets"].as_u64()), (Some(0), Some(1)), "{answer}");
    client.expect_send();
    assert_eq!(info(nodes.addr(0))["peers"][0]["reason"], "Left");
}

#[test]
fn a_stranger_neither_joins_nor_disturbs() {
    let nodes = Nodes::start(2);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let mut datagram = vec![b'R', 1];
    datagram.resize(1_300, 7);
    for junk in [&datagram[..], b"", b"hello", &[b'R'; 5000]] {
        socket.send_to(junk, nodes.addr(0)).expect("the kernel takes it");
    }
    let upgrade =
        |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: rainbow-link\r\n\r\n");
    for path in ["/cluster/control", "/cluster/calls"] {
        for junk in [&[0, 48][..], &[0xFF; 300], b"GET / HTTP/1.1\r\n\r\n", &[0; 70]] {
            let mut wire = Wire::connect(nodes.addr(0));
            wire.write(upgrade(path).as_bytes());
            let response = wire.response(Instant::now() + TIMEOUT).expect("the upgrade is answered");
            assert_eq!(response.status, 101);
            wire.write(junk);
            if junk.len() > 60 {
                assert!(wire.ends_before(Instant::now() + TIMEOUT), "{path} {junk:?}");
            }
        }
        let mut wire = Wire::connect(nodes.addr(0));
        wire.write(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        assert_eq!(wire.response(Instant::now() + TIMEOUT).expect("an answer").status, 426);
    }
    assert_eq!([0, 1].map(|node| live(nodes.addr(node))), [1, 1]);
    let to = nodes.addr(0);
    at_least(to, "rainbow_cluster_rejected_total{reason=\"foreign\"}", 3.0);
    at_least(to, FORGED, 1.0);
    at_least(to, "rainbow_node_links_refused_total", 3.0);
    assert_eq!(figure(to, "rainbow_cluster_nodes{state=\"live\"}"), 1.0);
}

#[test]
fn a_node_of_2014_is_named_in_the_log() {
    let nodes = Nodes::start(1);
    let online = br#"{"msgtype":"online","port":1999,"server_identity":"ab12","cluster_name":"old one"}"#;
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    eventually("it is named", || {
        (2014..2034).for_each(|port| drop(socket.send_to(online, ("127.0.0.1", port))));
        let log = nodes.nodes[0].log();
        log.lines().any(|row| row.contains("a node of 2014") && row.contains("old one")).then_some(())
    });
}

const FORGED: &str = "rainbow_cluster_rejected_total{reason=\"forged\"}";
