//! Users: whom the business server names when a client comes, and what it may say in JSON besides.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::cluster::Nodes;
use crate::harness::call::call_get;
use crate::harness::{Backend, Client, Command, Reply, Server, Setup, Upgrade, call, eventually, send};
use crate::sessions_api::DataDir;

/// The user is the device's part before the dot, the channel is `room`.
fn welcome(device: &str) -> Reply {
    let user = device.split('.').next().expect("a device");
    Reply::welcome().header("RAINBOWCLIENTUSER", user).header("RAINBOWCLIENTCHANNEL", "room")
}

fn naming() -> Backend {
    let backend = Backend::start();
    backend.on_connect(|request| welcome(request.header("x-deviceid").expect("named")));
    backend
}

fn send_to(server: &Server, user: &str, body: &str) -> Value {
    call(server.addr(), "/send/", &[("user", user), ("qos", "0")], body).json()
}

fn kick(server: &Server, user: &str) -> Value {
    call(server.addr(), "/kick/", &[], json!({"user": user, "code": 4001}).to_string()).json()
}

#[test]
fn a_message_for_a_user_reaches_all_his_connections_and_nobody_else() {
    let backend = naming();
    let server = Setup::of(&backend).set("workers", "4").start();
    let mut anns: Vec<_> = (0..8).map(|n| Client::open(server.addr(), &format!("ann.{n}"))).collect();
    let mut bob = Client::open(server.addr(), "bob.1");
    assert_eq!(send_to(&server, "ann", "for ann")["connections"], 8);
    anns.iter_mut().for_each(|ann| assert_eq!(ann.expect_send().text(), "for ann"));
    assert_eq!(send_to(&server, "nobody", "x")["targets"], 0);
    assert_eq!(send_to(&server, "bob", "for bob")["connections"], 1);
    assert_eq!(bob.expect_send().text(), "for bob", "and it is the first that he hears");

    let page = call_get(server.addr(), "/channel/", &[("channel", "room")]).json();
    let users: BTreeMap<String, String> = serde_json::from_value(page["users"].clone()).expect("users by identity");
    assert_eq!((users.len(), users.get(&backend.identity_of("bob.1")).map(String::as_str)), (9, Some("bob")));
    let page = call_get(server.addr(), "/channel/", &[("user", "bob")]).json();
    assert_eq!((&page["user"], &page["identities"]), (&json!("bob"), &json!([backend.identity_of("bob.1")])));
    let largest = call_get(server.addr(), "/channel/", &[]).json();
    assert_eq!(largest["channels"], json!([{"channel": "room", "connections": 9}]), "users are no channels");
    let info = call_get(server.addr(), "/connection/", &[("identity", &backend.identity_of("bob.1"))]).json();
    assert_eq!((&info["user"], &info["channels"]), (&json!("bob"), &json!(["room"])));

    assert_eq!(kick(&server, "ann")["connections"], 8);
    anns.iter_mut().for_each(|ann| assert_eq!(ann.expect_close().0, 4001));
    assert_eq!(send_to(&server, "bob", "still here")["connections"], 1);
}

#[test]
fn every_later_call_for_a_client_names_its_user() {
    let backend = naming();
    let server = Setup::of(&backend).start();
    let mut client = Client::open(server.addr(), "ann.1");
    client.send(1, 7, 1, "up");
    client.expect(Command::Ack, 1);
    assert_eq!(backend.messages()[0].header("RAINBOWCLIENTUSER"), Some("ann"));
    client.cut();
    assert_eq!(backend.wait_under("/close", 1)[0].header("RAINBOWCLIENTUSER"), Some("ann"));
}

#[test]
fn a_client_does_not_say_who_it_is() {
    let backend = Backend::start();
    let server = Setup::of(&backend).start();
    let _client = Upgrade::of("phone").header("RAINBOWCLIENTUSER", "ann").open(server.addr());
    assert_eq!(backend.connects()[0].header("RAINBOWCLIENTUSER"), None);
    assert_eq!(send_to(&server, "ann", "x")["targets"], 0);
    let identity = backend.identity_of("phone");
    let join = json!({"identity": identity, "channel": "\u{1}ann"}).to_string();
    assert_eq!(call(server.addr(), "/sub/", &[], join).json()["status"], 1);
    for named in [("channel", "\u{1}ann"), ("user", ""), ("user", "\u{1}")] {
        assert_eq!(call(server.addr(), "/send/", &[named], "x").json()["status"], 1, "{named:?}");
    }
}

#[test]
fn the_answer_s_json_says_what_its_headers_say() {
    let backend = Backend::start();
    backend.on_connect(|_| {
        let answer = json!({
            "status": "success", "channels": ["你好", "a;b"], "cookie": "Y29va2ll", "session": "ann/phone", "user": 7,
        });
        Reply::ok(answer.to_string())
    });
    let dir = DataDir::new();
    let server = dir.setup(&backend).start();
    let mut client = Client::open(server.addr(), "phone");
    for channel in ["你好", "a;b"] {
        assert_eq!(send(server.addr(), channel, &[("qos", "0")], channel)["connections"], 1);
        assert_eq!(client.expect_send().text(), channel);
    }
    let session = call_get(server.addr(), "/session/", &[("session", "ann/phone")]).json();
    assert_eq!((&session["user"], &session["online"]), (&json!("7"), &json!(true)));
    client.send(1, 7, 1, "up");
    client.expect(Command::Ack, 1);
    let message = backend.messages().remove(0);
    assert_eq!((message.cookie(), message.header("RAINBOWCLIENTUSER")), (Some("Y29va2ll"), Some("7")));
}

#[test]
fn a_session_that_is_away_gets_what_is_for_its_user_and_its_close_names_him() {
    let backend = Backend::start();
    backend.on_connect(|_| welcome("ann").header("RAINBOWCLIENTSESSION", "phone"));
    let dir = DataDir::new();
    let mut server = dir.setup(&backend).start();
    let client = Client::open(server.addr(), "ann.1");
    server.process.kill();
    drop(client);
    let server = dir.setup(&backend).start();
    let close = backend.wait_under("/close", 1).remove(0);
    assert_eq!(close.header("RAINBOWCLIENTUSER"), Some("ann"), "the node that died did not say it");
    let stored = call(server.addr(), "/send/", &[("user", "ann"), ("qos", "1")], "later").json();
    assert_eq!((&stored["status"], &stored["stored"]), (&json!(0), &json!(1)), "{stored}");
    let mut client = Client::open(server.addr(), "ann.2");
    assert_eq!(client.expect_send().text(), "later");
}

#[test]
fn a_user_is_reached_from_every_node() {
    let nodes = Nodes::start(3);
    nodes.backend.on_connect(|request| welcome(request.header("x-deviceid").expect("named")));
    let mut clients: Vec<_> = (0..3).map(|node| Client::open(nodes.addr(node), &format!("ann.{node}"))).collect();
    for node in 0..3 {
        let sent = call(nodes.addr(node), "/send/", &[("user", "ann"), ("qos", "0")], "hello").json();
        assert_eq!((&sent["connections"], &sent["status"]), (&json!(3), &json!(0)), "by node {node}: {sent}");
        clients.iter_mut().for_each(|client| assert_eq!(client.expect_send().text(), "hello"));
    }
    let page = call_get(nodes.addr(0), "/channel/", &[("channel", "room")]).json();
    assert_eq!(page["users"].as_object().map(|users| users.len()), Some(3), "{page}");
    let kick = json!({"user": "ann", "code": 4001}).to_string();
    assert_eq!(call(nodes.addr(1), "/kick/", &[], kick).json()["connections"], 3);
    clients.iter_mut().for_each(|client| assert_eq!(client.expect_close().0, 4001));
    eventually("nobody is left", || {
        (call(nodes.addr(2), "/send/", &[("user", "ann"), ("qos", "0")], "x").json()["targets"] == 0).then_some(())
    });
}
