//! A client and a business server as they were in 2014, against the 2014 configuration file, unchanged.
//!
//! The business server answers as Django's development server did: HTTP/1.0, no length, header names in capitals, and it
//! verifies the signature of everything it hears. The client sends its identity in headers, counts its ids from 1, repeats
//! with DUP, and leaves the reserved bit alone.

use std::sync::{Arc, Mutex};

use crate::harness::backend::Request;
use crate::harness::call::{call_get, send_later, signature_2014};
use crate::harness::{Backend, Client, Command, Packet, Reply, Server, Setup, TOKEN, Upgrade, call, eventually, send};

/// What the 2014 application says to a request.
fn application(request: &Request) -> Reply {
    let param = |name: &str| request.param(name).unwrap_or_default();
    let json = |body: &str| {
        Reply::ok(body)
            .header("Content-Type", "application/json")
            .header("Server", "WSGIServer/0.1 Python/2.7.6")
            .until_close()
    };
    if param("signature") != signature_2014(TOKEN, &param("timestamp"), &param("nonce")) {
        return json(r#"{"status": "error"}"#).header("RAINBOWREQUESTINVALID", "60001");
    }
    if request.identity().is_none() {
        return json(r#"{"status": "error"}"#).header("RAINBOWREQUESTINVALID", "60002");
    }
    match request.path.as_str() {
        "/rainbow/connect/" => match request.header("X-DEVICEID") {
            Some("banned") => json(r#"{"status": "failed", "msg": "banned"}"#),
            _ => json(r#"{"status": "success"}"#)
                .header("RAINBOWCLIENTCHANNEL", "lobby;;room1")
                .header("RAINBOWCLIENTCOOKIE", "dXNlcj0x"),
        },
        "/rainbow/close/" => json("{}"),
        _ if request.method != "POST" => json("{}").header("RAINBOWREQUESTINVALID", "60003"),
        "/rainbow/message/1/" => json(&format!(r#"{{"echo": {}}}"#, request.text())),
        "/rainbow/message/2/" => {
            json("{}").header("RAINBOWCLIENTCHANNEL", "room2").header("RAINBOWCLIENTCHANNELUNSUB", "room1")
        }
        path => Reply::status(404, path).until_close(),
    }
}

fn started() -> (Backend, Server) {
    let backend = Backend::start();
    backend.on("/rainbow", application);
    let server = Setup::new().file("rainbow.ini", &file_of_2014(&backend, "demo")).start();
    (backend, server)
}

fn file_of_2014(backend: &Backend, cluster: &str) -> String {
    format!(
        "[main]\n\
         connect_url = {}\n\
         security_token = {TOKEN}\n\
         forward_url = {}\n\
         close_url = {}\n\
         http_port = 1984            ; optional\n\
         cluster_name = {cluster}    ; optional; nodes with other names are ignored\n\
         udp_ports = [1984, 1985]    ; found in old files; ignored\n",
        backend.url("/rainbow/connect/"),
        backend.url("/rainbow/message/{message_type}/"),
        backend.url("/rainbow/close/"),
    )
}

#[test]
fn the_2014_file_starts_a_server_that_talks() {
    let (backend, server) = started();
    let mut client = Client::open(server.addr(), "ios-1");
    client.send(1, 1, 1, r#"{"text": "hello"}"#);
    assert_eq!(client.expect(Command::Ack, 1).text(), r#"{"echo": {"text": "hello"}}"#);
    let heard = backend.wait_under("/rainbow/message", 1).remove(0);
    assert_eq!((heard.cookie(), heard.path.as_str()), (Some("dXNlcj0x"), "/rainbow/message/1/"));
    client.leave();
    let closed = backend.wait_under("/rainbow/close", 1).remove(0);
    assert_eq!((closed.identity(), closed.cookie()), (heard.identity(), Some("dXNlcj0x")));
    let error = server.log().lines().find(|l| l.contains("6000")).map(str::to_owned);
    assert_eq!(error, None, "the application called a request invalid");
}

#[test]
fn a_2014_client_lives_through_all_of_its_day() {
    let (_backend, server) = started();
    // The JavaScript client could set no headers.
    let mut client = Upgrade::bare().query("X-DEVICEID", "js-1").query("X-CLIENT-OS", "web").open(server.addr());
    let mut next_id = 1;
    let mut id = || {
        next_id += 1;
        next_id - 1
    };
    // Up, in all qualities, with a repeat.
    client.send(0, 1, 0, "0");
    let first = id();
    client.send(2, 1, first, "1");
    client.packet(&Packet::send(2, 1, first, "1").with_dup());
    assert_eq!(client.expect(Command::Rec, first).text(), r#"{"echo": 1}"#);
    client.answer(Command::Rel, first, "");
    while client.next_packet().command != Command::Com {}
    let second = id();
    client.send(1, 1, second, "2");
    assert_eq!(client.expect(Command::Ack, second).text(), r#"{"echo": 2}"#);
    // Down, to the channels that connect named.
    let waiting =
        send_later(server.addr(), "lobby", &[("msgtype", "3"), ("qos", "2"), ("timeout", "5")], "to the lobby");
    let message = client.expect_send();
    assert_eq!((message.kind, message.qos, message.text()), (3, 2, "to the lobby".into()));
    client.answer(Command::Rec, message.id, r#"{"seen": true}"#);
    client.expect(Command::Rel, message.id);
    client.answer(Command::Com, message.id, "");
    let answer = waiting.join().expect("answered");
    assert_eq!(
        (&answer["status"], &answer["connections"], &answer["data"]),
        (&0.into(), &1.into(), &r#"{"seen": true}"#.into())
    );
    // From one room to the next.
    let third = id();
    client.send(1, 2, third, "{}");
    client.expect(Command::Ack, third);
    assert_eq!(send(server.addr(), "room1", &[("qos", "1"), ("timeout", "2")], "")["connections"], 0);
    send(server.addr(), "room2", &[("qos", "0")], "welcome");
    assert_eq!(client.expect_send().text(), "welcome");
    client.assert_open();
}

#[test]
fn a_2014_business_server_calls_by_its_identities() {
    let (backend, server) = started();
    let identities = Arc::new(Mutex::new(Vec::new()));
    backend.on("/rainbow", {
        let identities = identities.clone();
        move |request| {
            identities.lock().unwrap().push(request.identity().unwrap_or_default().to_owned());
            application(request)
        }
    });
    let mut client = Client::open(server.addr(), "android-1");
    let identity = identities.lock().unwrap()[0].clone();
    let body = format!(r#"{{"identity": "{identity}", "channel": "vip", "occupy": 1}}"#);
    assert_eq!(call(server.addr(), "/sub/", &[], body).json()["status"], 0);
    send(server.addr(), "vip", &[("qos", "0"), ("msgtype", "9")], "for you");
    assert_eq!(client.expect_send(), Packet::send(0, 9, 0, "for you"));
    let body = format!(r#"{{"identity": "{identity}", "channel": "vip"}}"#);
    assert_eq!(call(server.addr(), "/unsub/", &[], body).json()["status"], 0);
    assert_eq!(send(server.addr(), "vip", &[("qos", "1"), ("timeout", "2")], "")["connections"], 0);
    let body = r#"{"identity": "gone", "channel": "vip", "occupy": 0}"#;
    assert_eq!(
        call(server.addr(), "/sub/", &[], body).json(),
        serde_json::json!({"status": 1, "msg": "no such connection"})
    );
}

#[test]
fn a_2014_business_server_refuses_a_client() {
    let (_backend, server) = started();
    assert_eq!(Upgrade::of("banned").refused(server.addr()).status, 401);
}

/// `rainbow-server -f rainbow.ini -p 1984` in one shell and `-p 1985` in another. The application knows one address, as
/// its settings did.
#[test]
fn two_nodes_of_the_2014_file_are_one_chat() {
    let backend = Backend::start();
    let ini = file_of_2014(&backend, &format!("chat-{}", std::process::id()));
    let node = || Setup::new().file("rainbow.ini", &ini).env("RAINBOW_CLUSTER", "auto").start();
    let (one, mut other) = (node(), node());
    let calls = one.addr();
    backend.on("/rainbow", move |request| match request.path.as_str() {
        "/rainbow/message/3/" => {
            send(calls, "lobby", &[("msgtype", "3"), ("qos", "0")], request.text());
            Reply::ok("{}").until_close()
        }
        _ => application(request),
    });
    eventually("they have found each other", || {
        let is_linked = |node: &Server| call_get(node.addr(), "/info/", &[]).json()["peers"][0]["is_linked"] == true;
        (is_linked(&one) && is_linked(&other)).then_some(())
    });
    let (mut ann, mut bob) = (Client::open(one.addr(), "ann"), Client::open(other.addr(), "bob"));
    ann.send(1, 3, 1, "from the first");
    hears(&mut bob, "from the first");
    hears(&mut ann, "from the first");
    bob.send(1, 3, 1, "from the second");
    hears(&mut ann, "from the second");
    other.process.kill();
    ann.send(1, 3, 2, "still here");
    hears(&mut ann, "still here");
}

/// Beside the answers to what it has sent.
fn hears(client: &mut Client, text: &str) {
    let heard = std::iter::repeat_with(|| client.next_packet()).find(|packet| packet.command == Command::Send);
    assert_eq!(heard.expect("it comes").text(), text);
}
