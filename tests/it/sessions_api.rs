//! Durable sessions as a client and a business server meet them: the greeting of `rainbow.2`, resuming, takeover, what a
//! call says of those who are away, `/session/`, and calls repeated with a `message_id`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::call::{call_get, send_later};
use crate::harness::metrics::read;
use crate::harness::{Backend, Client, Command, Reply, Server, Setup, TIMEOUT, Upgrade, call, eventually, http, send};

mod backup;

const SUBPROTOCOL: &str = "rainbow.2";
/// Rainbow's own message type.
const GREETING: u16 = 65_535;

/// A client that speaks `rainbow.2`.
fn speaking(device: &str) -> Upgrade {
    Upgrade::of(device).header("Sec-WebSocket-Protocol", "chat, rainbow.2")
}

/// The first packet of such a client.
fn greeting(client: &mut Client) -> Value {
    let packet = client.expect_send();
    assert_eq!((packet.qos, packet.kind), (0, GREETING), "{packet:?}");
    let mut greeting: Value = serde_json::from_slice(&packet.body).expect("JSON");
    let fields = greeting.as_object_mut().expect("an object");
    assert_eq!(fields.remove("identity").as_ref().and_then(Value::as_str).map(str::len), Some(64));
    assert!(fields.remove("heartbeat").is_some_and(|seconds| seconds.as_u64() > Some(0)));
    assert!(fields.remove("message_bytes_max").is_some_and(|bytes| bytes.as_u64() > Some(0)));
    let id = fields.remove("session_id").expect("is there");
    assert_eq!(id.as_str().map(str::len), fields["session"].as_str().map(|_| 32), "{id}");
    greeting
}

/// A business server that makes every device a session of that name, in the channel `all` and in one of its own.
fn naming() -> Backend {
    let backend = Backend::start();
    backend.on_connect(|request| {
        let device = request.header("X-DEVICEID").expect("a device");
        Reply::welcome()
            .header("RAINBOWCLIENTSESSION", device)
            .header("RAINBOWCLIENTCHANNEL", &format!("all;;of {device}"))
            .header("RAINBOWCLIENTCOOKIE", "Y29va2ll")
    });
    backend
}

/// A directory for the store that outlives the server.
pub struct DataDir(PathBuf);

impl DataDir {
    pub fn new() -> DataDir {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("rainbow-it-store-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        DataDir(std::env::temp_dir().join(name))
    }

    fn path(&self) -> &Path {
        &self.0
    }

    pub fn setup(&self, backend: &Backend) -> Setup {
        let path = self.0.to_str().expect("a path of text");
        Setup::of(backend).text("store.kind", "sqlite").text("store.data_dir", path).set("workers", "4")
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct World {
    backend: Backend,
    server: Server,
    dir: DataDir,
}

fn world() -> World {
    world_with(|setup| setup)
}

fn world_with(change: impl FnOnce(Setup) -> Setup) -> World {
    let (backend, dir) = (naming(), DataDir::new());
    let server = change(dir.setup(&backend)).start();
    World { backend, server, dir }
}

impl World {
    /// A client of the session of that name, and what it was greeted with.
    fn open(&self, name: &str) -> (Client, Value) {
        let mut client = speaking(name).open(self.server.addr());
        let greeting = greeting(&mut client);
        (client, greeting)
    }

    fn session(&self, name: &str) -> Value {
        call_get(self.server.addr(), "/session/", &[("session", name)]).json()
    }

    /// The session's connection has ended, and the server knows it.
    fn gone(&self, client: Client, name: &str) {
        client.leave();
        eventually("the session is absent", || (self.session(name)["online"] == false).then_some(()));
    }

    fn send_to(&self, name: &str, params: &[(&str, &str)], body: &str) -> Value {
        let params = [&[("session", name)], params].concat();
        call(self.server.addr(), "/send/", &params, body).json()
    }

    fn send(&self, channel: &str, params: &[(&str, &str)], body: &str) -> Value {
        send(self.server.addr(), channel, params, body)
    }
}

/// The bodies of the next messages of QoS 1 or 2, each taken to its end as a client does.
fn take(client: &mut Client, count: usize) -> Vec<String> {
    let (mut bodies, mut released) = (Vec::new(), Vec::new());
    while bodies.len() < count || !released.is_empty() {
        let packet = client.next_packet();
        match packet.command {
            Command::Send => {
                client.answer(if packet.qos == 1 { Command::Ack } else { Command::Rec }, packet.id, "");
                released.extend((packet.qos == 2).then_some(packet.id));
                bodies.push(packet.text());
            }
            Command::Rel => {
                let at = released.iter().position(|id| *id == packet.id).expect("a REL of what was received");
                released.remove(at);
                client.answer(Command::Com, packet.id, "");
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(bodies.len(), count, "{bodies:?}");
    bodies
}

#[test]
fn a_client_that_speaks_the_subprotocol_is_greeted_first() {
    let backend = Backend::start();
    let server = Setup::of(&backend).start();
    let mut client = speaking("phone").open(server.addr());
    assert_eq!(client.response.header("sec-websocket-protocol"), Some(SUBPROTOCOL));
    assert_eq!(greeting(&mut client), json!({"session": null, "resumed": false, "waiting": 0}));
    client.assert_open();
}

#[test]
fn a_client_that_speaks_it_need_not_name_its_device_and_its_ping_is_answered() {
    let backend = Backend::start();
    let server = Setup::of(&backend).start();
    let mut client = Upgrade::bare().header("Sec-WebSocket-Protocol", SUBPROTOCOL).open(server.addr());
    greeting(&mut client);
    client.frame(true, 2, &[0x60]);
    let pong = client.next_frame(TIMEOUT).expect("a frame");
    assert_eq!((pong.opcode, &pong.payload[..]), (2, &[0x70][..]));
    let device = backend.connects()[0].header("X-DEVICEID").map(str::len);
    assert_eq!((device, backend.connects()[0].header("X-CLIENT-OS")), (Some(32), Some("web")));
}

#[test]
fn a_client_that_speaks_it_hears_of_a_refusal_by_a_close_code() {
    let backend = Backend::start();
    let server = Setup::of(&backend).start();
    for (reply, code, reason) in [
        (Reply::ok(r#"{"status":"no"}"#), 4401, "refused"),
        (Reply::ok(r#"{"status":"no","reason":"the trial is over"}"#), 4401, "the trial is over"),
        (Reply::status(403, r#"{"reason":"banned"}"#), 4401, "banned"),
        (Reply::status(500, r#"{"reason":"broken"}"#), 4503, "the business server does not answer"),
    ] {
        backend.on_connect(move |_| reply.clone());
        let mut client = speaking("phone").open(server.addr());
        assert_eq!(client.expect_close(), (code, reason.into()));
    }
}

#[test]
fn a_client_that_does_not_speak_it_gets_no_packet_of_its_own_accord() {
    let server = Setup::new().start();
    let mut client = Client::open(server.addr(), "of 2014");
    assert_eq!(client.response.header("sec-websocket-protocol"), None);
    client.assert_open();
    let mut other = Upgrade::of("other").header("Sec-WebSocket-Protocol", "rainbow, chat").open(server.addr());
    assert_eq!(other.response.header("sec-websocket-protocol"), None);
    other.assert_open();
}

#[test]
fn a_session_is_resumed_with_its_channels_and_what_waited_in_order() {
    let world = world();
    let (client, first) = world.open("ann");
    assert_eq!(first, json!({"session": "ann", "resumed": false, "waiting": 0}));
    world.gone(client, "ann");
    // The connect answer of the second time names no channel: the session has them.
    world.backend.on_connect(|_| Reply::welcome().header("RAINBOWCLIENTSESSION", "ann"));
    for (channel, qos, body) in [("all", "1", "one"), ("of ann", "2", "two"), ("all", "2", "three")] {
        let answer = world.send(channel, &[("qos", qos)], body);
        assert_eq!(answer, json!({"status": 0, "connections": 0, "targets": 1, "stored": 1, "data": ""}));
    }
    let (mut client, resumed) = world.open("ann");
    assert_eq!(resumed, json!({"session": "ann", "resumed": true, "waiting": 3}));
    assert_eq!(take(&mut client, 3), ["one", "two", "three"]);
    eventually("nothing waits", || (world.session("ann")["waiting"] == 0).then_some(()));
    let live = send_later(world.server.addr(), "of ann", &[("qos", "1")], "four");
    assert_eq!(take(&mut client, 1), ["four"]);
    assert_eq!(live.join().expect("answered"), json!({"status": 0, "connections": 1, "targets": 1, "data": ""}));
}

#[test]
fn what_was_stored_outlives_a_killed_server() {
    let mut world = world();
    let names: Vec<String> = (0..8).map(|n| format!("user {n}")).collect();
    let clients: Vec<Client> = names.iter().map(|name| world.open(name).0).collect();
    for (client, name) in clients.into_iter().zip(&names) {
        world.gone(client, name);
    }
    let answer = world.send("all", &[("qos", "2")], "to all");
    assert_eq!((&answer["connections"], &answer["stored"]), (&json!(0), &json!(8)));
    world.server.process.kill();
    world.server = world.dir.setup(&world.backend).start();
    assert_eq!(world.send("all", &[("qos", "1")], "to all again")["stored"], 8);
    for name in &names {
        let (mut client, greeting) = world.open(name);
        assert_eq!(greeting, json!({"session": name, "resumed": true, "waiting": 2}));
        assert_eq!(take(&mut client, 2), ["to all", "to all again"]);
        client.assert_open();
    }
}

#[test]
fn a_server_that_drains_leaves_everything_stored() {
    let mut world = world_with(|setup| setup.set("shutdown_timeout", "4"));
    let clients: Vec<Client> = (0..8).map(|n| world.open(&format!("user {n}")).0).collect();
    // Sent, and not answered by anybody.
    let sent = send_later(world.server.addr(), "all", &[("qos", "1"), ("timeout", "20")], "unanswered");
    let mut clients: Vec<Client> = clients
        .into_iter()
        .map(|mut client| {
            assert_eq!(client.expect_send().text(), "unanswered");
            client
        })
        .collect();
    assert_eq!(sent.join().expect("answered")["stored"], 8, "patience is over: it is stored");
    world.server.terminate();
    for client in &mut clients {
        assert_eq!(client.expect_close().0, 1001);
    }
    assert!(world.server.exited_within(TIMEOUT).success(), "{}", world.server.log());
    world.server = world.dir.setup(&world.backend).start();
    for n in 0..8 {
        let (mut client, greeting) = world.open(&format!("user {n}"));
        assert_eq!((&greeting["resumed"], &greeting["waiting"]), (&json!(true), &json!(1)));
        let message = client.expect_send();
        assert_eq!((message.dup, message.text().as_str()), (true, "unanswered"));
    }
}

#[test]
fn a_newer_connection_takes_the_session_over() {
    let world = world();
    for _ in 0..6 {
        let (mut old, _) = world.open("ann");
        let (mut new, greeting) = world.open("ann");
        assert_eq!(greeting["resumed"], true);
        assert_eq!(old.expect_close().0, 4409);
        let sent = send_later(world.server.addr(), "of ann", &[("qos", "1")], "for the new one");
        assert_eq!(take(&mut new, 1), ["for the new one"]);
        assert_eq!(sent.join().expect("answered")["connections"], 1);
        world.gone(new, "ann");
    }
}

#[test]
fn connections_are_handed_to_their_sessions_owner_and_answer_to_their_identity() {
    let world = world();
    let to = world.server.addr();
    let mut clients: Vec<(String, Client)> =
        (0..24).map(|n| format!("user {n}")).map(|name| (name.clone(), world.open(&name).0)).collect();
    let handovers = |samples: &std::collections::BTreeMap<String, f64>| samples["rainbow_handovers_total"];
    // Four workers: a connection comes to its home in one of four cases.
    assert!(handovers(&read(to)) >= 6.0, "only {} of 24 moved", handovers(&read(to)));
    for (n, (name, client)) in clients.iter_mut().enumerate() {
        let identity = world.backend.identity_of(name);
        assert_eq!(world.session(name)["identity"], identity.as_str());
        // What the client sends is forwarded under the identity that the backend knows.
        client.send(1, 5, 1, name.as_bytes());
        assert_eq!(client.expect(Command::Ack, 1).text(), format!("re:{name}"));
        let forwarded = world.backend.wait_under("/message/5", n + 1).pop().expect("forwarded");
        assert_eq!((forwarded.identity(), forwarded.cookie()), (Some(identity.as_str()), Some("Y29va2ll")));
        let body = format!(r#"{{"identity": "{identity}", "channel": "by call"}}"#);
        assert_eq!(call(to, "/sub/", &[], &body).json(), json!({"status": 0}), "{name}");
        assert_eq!(world.session(name)["channels"].as_array().expect("a list").len(), 3);
        assert_eq!(call(to, "/unsub/", &[], &body).json(), json!({"status": 0}));
        assert_eq!(world.session(name)["channels"].as_array().expect("a list").len(), 2);
    }
    for (name, mut client) in clients {
        let identity = world.backend.identity_of(&name);
        let body = format!(r#"{{"identity": "{identity}", "code": 4501, "reason": "out"}}"#);
        assert_eq!(call(to, "/kick/", &[], &body).json(), json!({"status": 0, "connections": 1}));
        assert_eq!(client.expect_close(), (4501, "out".into()));
        drop(client);
        world.backend.wait(&name, 1, |r| r.path.starts_with("/close") && r.identity() == Some(identity.as_str()));
        // The slot that the identity led to is free again.
        let gone = call(to, "/kick/", &[], &body).json();
        assert_eq!(gone, json!({"status": 1, "msg": "no such connection"}));
    }
    assert_eq!(world.backend.closes().len(), 24, "each end is told once");
    assert_eq!(read(to)["rainbow_handovers_failed_total"], 0.0);
}

#[test]
fn a_broadcast_reaches_a_session_of_two_of_its_channels_once_and_counts_it_once() {
    let world = world();
    let names: Vec<String> = (0..6).map(|n| format!("user {n}")).collect();
    let of_each: Vec<String> = names.iter().map(|name| format!("of {name}")).collect();
    let channels = format!("all;;{};;all", of_each.join(";;"));
    let broadcast = |qos: &str| {
        let params = [("channels", channels.as_str()), ("qos", qos), ("timeout", "5")];
        call(world.server.addr(), "/broadcast/", &params, format!("of qos {qos}")).json()
    };
    let clients: Vec<Client> = names.iter().map(|name| world.open(name).0).collect();
    assert_eq!((broadcast("0")["connections"].clone(), broadcast("0")["targets"].clone()), (json!(6), json!(6)));
    for (client, name) in clients.into_iter().zip(&names) {
        world.gone(client, name);
    }
    let away = broadcast("1");
    assert_eq!((&away["targets"], &away["stored"]), (&json!(6), &json!(6)), "{away}");
    assert_eq!(world.session("user 2")["waiting"], 1);
}

#[test]
fn sessions_join_and_leave_by_name_also_while_they_are_absent() {
    let world = world();
    let to = world.server.addr();
    let change = |path: &str, body: Value| call(to, path, &[], body.to_string()).json();
    let names: Vec<String> = (0..8).map(|n| format!("user {n}")).collect();
    for name in &names {
        let (client, _) = world.open(name);
        world.gone(client, name);
        assert_eq!(change("/sub/", json!({"session": name, "channel": "room"})), json!({"status": 0}), "{name}");
        assert!(world.session(name)["channels"].to_string().contains("room"));
    }
    assert_eq!(world.send("room", &[("qos", "1")], "x")["stored"], 8);
    let occupied = change("/sub/", json!({"session": "user 3", "channel": "room", "occupy": 1}));
    assert_eq!(occupied, json!({"status": 0}));
    assert_eq!(world.send("room", &[("qos", "1")], "x")["stored"], 1);
    assert_eq!(change("/unsub/", json!({"session": "user 3", "channel": "room"})), json!({"status": 0}));
    assert_eq!(world.send("room", &[("qos", "1")], "x")["targets"], 0);
    let missing = json!({"status": 1, "msg": "no such session"});
    assert_eq!(change("/sub/", json!({"session": "nobody", "channel": "room", "occupy": 1})), missing);
}

#[test]
fn sessions_that_are_fought_over_leave_nothing_behind() {
    let mut world = world();
    let to = world.server.addr();
    let fight = |thread: usize| {
        let mut last = None;
        for round in 0..40 {
            // Every name is wanted by all; some connections are held over the next one, others end at once.
            let client = speaking(&format!("user {}", (thread * 7 + round * 3) % 5)).try_open(to);
            match client {
                Ok(client) if round % 3 == 0 => last = Some(client),
                Ok(mut client) if round % 3 == 1 => client.hang_up(),
                Ok(client) => drop(client),
                // Another was faster, before the store had answered.
                Err(refusal) => assert_eq!(refusal.status, 503, "{}", refusal.text()),
            }
        }
        drop(last);
    };
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || fight(thread));
        }
    });
    eventually("all connections have ended", || (read(to)["rainbow_connections"] == 0.0).then_some(()));
    assert_eq!(world.backend.wait_under("/close", 8 * 40).len(), 8 * 40, "who was let in has ended, once each");
    for n in 0..5 {
        let (mut client, _) = world.open(&format!("user {n}"));
        client.assert_open();
    }
    // A slot or a stub that is left would hold the drain up.
    world.server.terminate();
    assert!(world.server.exited_within(TIMEOUT).success(), "{}", world.server.log());
    let samples = world.server.log();
    assert!(!samples.contains("shutdown_timeout"), "{samples}");
}

#[test]
fn a_session_is_shown_and_dropped() {
    let world = world();
    let to = world.server.addr();
    let unknown = json!({"status": 1, "msg": "no such session"});
    assert_eq!(world.session("ann"), unknown);
    assert_eq!(world.send_to("ann", &[], "for nobody"), unknown);
    let (client, _) = world.open("ann");
    let shown = world.session("ann");
    assert_eq!((&shown["status"], &shown["session"], &shown["online"]), (&json!(0), &json!("ann"), &json!(true)));
    assert_eq!((&shown["waiting"], &shown["oldest_s"], &shown["expires_s"]), (&json!(0), &Value::Null, &Value::Null));
    world.gone(client, "ann");
    let sent = world.send_to("ann", &[("qos", "1")], "0123456789");
    assert_eq!(sent, json!({"status": 0, "connections": 0, "targets": 1, "stored": 1, "data": ""}));
    let shown = world.session("ann");
    assert_eq!((&shown["identity"], &shown["waiting"]), (&Value::Null, &json!(1)));
    assert!(shown["waiting_bytes"].as_u64().is_some_and(|bytes| bytes >= 10), "{shown}");
    assert!(shown["oldest_s"].as_u64().is_some_and(|age| age < 60), "{shown}");
    assert!(shown["expires_s"].as_u64().is_some_and(|left| left > 60), "{shown}");
    let drop = |name| call(to, "/session/drop/", &[("session", name)], "").json();
    assert_eq!(drop("ann"), json!({"status": 0}));
    assert_eq!((world.session("ann"), drop("ann")), (unknown.clone(), unknown));
    let ended = world.backend.wait("the end", 1, |r| r.has_header("RAINBOWSESSIONENDED")).remove(0);
    assert_eq!((ended.method.as_str(), ended.header("RAINBOWSESSIONENDED")), ("GET", Some("dropped")));
    assert_eq!((ended.header("RAINBOWCLIENTSESSION"), ended.cookie()), (Some("ann"), Some("Y29va2ll")));
    let (_client, greeting) = world.open("ann");
    assert_eq!(greeting, json!({"session": "ann", "resumed": false, "waiting": 0}));
}

#[test]
fn a_session_that_expires_is_told_to_the_backend() {
    let world = world();
    world.backend.on_connect(|_| {
        Reply::welcome().header("RAINBOWCLIENTSESSION", "brief").header("RAINBOWCLIENTSESSIONEXPIRY", "1")
    });
    let (client, _) = world.open("brief");
    client.leave();
    let ended = world.backend.wait("the end", 1, |r| r.has_header("RAINBOWSESSIONENDED")).remove(0);
    assert_eq!(ended.header("RAINBOWSESSIONENDED"), Some("expired"));
    assert_eq!(world.session("brief")["msg"], "no such session");
}

#[test]
fn a_message_waits_no_longer_than_its_ttl() {
    let world = world();
    let (client, _) = world.open("ann");
    world.gone(client, "ann");
    assert_eq!(world.send_to("ann", &[("ttl", "0.2")], "brief")["stored"], 1);
    assert_eq!(world.send_to("ann", &[("ttl", "1000"), ("qos", "1")], "lasting")["stored"], 1);
    eventually("one of two is over", || (world.session("ann")["waiting"] == 1).then_some(()));
    let (mut client, greeting) = world.open("ann");
    assert_eq!(greeting["waiting"], 1);
    assert_eq!(take(&mut client, 1), ["lasting"]);
}

#[test]
fn at_qos_0_nothing_is_kept() {
    let world = world();
    let (mut client, _) = world.open("ann");
    let sent = world.send_to("ann", &[("qos", "0")], "now");
    assert_eq!(sent, json!({"status": 0, "connections": 1, "targets": 1, "stored": 0, "data": ""}));
    assert_eq!(client.expect_send().text(), "now");
    world.gone(client, "ann");
    let sent = world.send_to("ann", &[("qos", "0")], "too late");
    assert_eq!(sent, json!({"status": 0, "connections": 0, "targets": 0, "stored": 0, "data": ""}));
    assert_eq!(world.open("ann").1["waiting"], 0);
}

#[test]
fn a_call_with_the_same_message_id_is_answered_again_and_sent_once() {
    let mut world = world();
    let (client, _) = world.open("ann");
    world.gone(client, "ann");
    let once = [("qos", "1"), ("message_id", "order 7")];
    let first = world.send("all", &once, "once");
    assert_eq!(first["stored"], 1);
    assert_eq!(world.send("all", &once, "once"), first);
    assert_eq!(world.send("all", &[("qos", "1"), ("message_id", "order 8")], "another"), first);
    // Across a crash, too.
    world.server.process.kill();
    world.server = world.dir.setup(&world.backend).start();
    assert_eq!(world.send("all", &once, "once"), first);
    for (channel, qos, body) in [("all", "1", "other"), ("other", "1", "once"), ("all", "2", "once")] {
        let refused = world.send(channel, &[("qos", qos), ("message_id", "order 7")], body);
        assert!(refused["msg"].as_str().is_some_and(|msg| msg.contains("another message")), "{refused}");
    }
    let (mut client, greeting) = world.open("ann");
    assert_eq!(greeting["waiting"], 2);
    assert_eq!(take(&mut client, 2), ["once", "another"]);
    client.assert_open();
}

#[test]
fn calls_with_one_message_id_at_once_are_one_call() {
    let world = world();
    let (mut client, _) = world.open("ann");
    let params = [("qos", "1"), ("message_id", "at once")];
    let calls: Vec<_> = (0..12).map(|_| send_later(world.server.addr(), "of ann", &params, "once")).collect();
    let message = client.expect_send();
    client.answer(Command::Ack, message.id, "");
    // What may be repeated is stored first.
    let expected = json!({"status": 0, "connections": 0, "targets": 1, "stored": 1, "data": ""});
    for call in calls {
        assert_eq!(call.join().expect("answered"), expected);
    }
    client.assert_open();
    assert_eq!(world.send("of ann", &params, "once"), expected);
    client.assert_open();
}

#[test]
fn a_full_session_refuses_before_it_promises() {
    let world = world_with(|setup| setup.set("store.session_messages_max", "2"));
    for name in ["ann", "bob"] {
        let (client, _) = world.open(name);
        world.gone(client, name);
    }
    assert_eq!(world.send_to("ann", &[], "1")["stored"], 1);
    assert_eq!(world.send("all", &[], "2")["stored"], 2);
    let refused = world.send("all", &[("message_id", "m")], "3");
    assert_eq!((&refused["status"], &refused["stored"], &refused["refused"]), (&json!(1), &json!(1), &json!(1)));
    let samples = read(world.server.addr());
    assert_eq!((samples["rainbow_sessions"], samples["rainbow_store_messages"]), (2.0, 4.0));
    let why = refused["msg"].as_str().expect("a reason");
    assert!(why.contains("store.session_messages_max"), "{why}");
    assert_eq!(world.session("ann")["waiting"], 2);
    assert_eq!(world.session("bob")["waiting"], 2);
    // There is room again, and the repeat reaches who was not reached, and nobody twice.
    let (mut ann, _) = world.open("ann");
    assert_eq!(take(&mut ann, 2), ["1", "2"]);
    let (mut bob, _) = world.open("bob");
    assert_eq!(take(&mut bob, 2), ["2", "3"]);
    assert_eq!(world.send("all", &[("message_id", "m")], "3")["status"], 0);
    assert_eq!(take(&mut ann, 1), ["3"]);
    bob.assert_open();
}

#[test]
fn receipts_say_what_reached_whom() {
    let backend = naming();
    backend.on("/receipts", |_| Reply::ok(""));
    let dir = DataDir::new();
    let server = dir.setup(&backend).text("receipt_url", &backend.url("/receipts/")).start();
    let world = World { backend, server, dir };
    let (client, _) = world.open("ann");
    world.gone(client, "ann");
    world.send_to("ann", &[("message_id", "m1")], "one");
    world.send_to("ann", &[("qos", "1")], "two");
    let (mut client, _) = world.open("ann");
    assert_eq!(take(&mut client, 2), ["one", "two"]);
    let heard = || {
        let bodies = world.backend.seen_under("/receipts").into_iter().map(|request| {
            assert_eq!((request.method.as_str(), request.header("content-type")), ("POST", Some("application/json")));
            serde_json::from_slice::<Vec<Value>>(&request.body).expect("an array")
        });
        Some(bodies.flatten().collect::<Vec<Value>>()).filter(|receipts| receipts.len() >= 2)
    };
    let receipts = eventually("two receipts", heard);
    assert_eq!(receipts.len(), 2, "{receipts:?}");
    assert_eq!((&receipts[0]["session"], &receipts[0]["message_id"]), (&json!("ann"), &json!("m1")));
    assert_eq!((&receipts[1]["session"], &receipts[1]["message_id"]), (&json!("ann"), &Value::Null));
    assert!(receipts.iter().all(|receipt| receipt["delivered_at"].as_u64().is_some_and(|ms| ms > 1_700_000_000_000)));
}

#[test]
fn a_store_that_refuses_is_said_and_promises_nothing() {
    let world = world();
    let (client, _) = world.open("ann");
    let to = world.server.addr();
    assert_eq!(http::get(to, "/readyz").status, 200);
    world.gone(client, "ann");
    let files: Vec<_> = std::fs::read_dir(world.dir.path()).expect("it is there").flatten().collect();
    let database = files.iter().find(|file| file.file_name() == "rainbow.db").expect("the store's file");
    std::fs::rename(database.path(), world.dir.path().join("taken away")).expect("ours to move");
    let why = eventually("it is not ready", || Some(http::get(to, "/readyz")).filter(|answer| answer.status == 503));
    assert!(why.text().contains("store") && !why.text().contains("rainbow.db"), "to anybody: {}", why.text());
    let info = call_get(to, "/info/", &[]).json();
    assert!(info["store"]["why"].as_str().is_some_and(|why| why.contains("rainbow.db")), "{info}");
    assert_eq!((&info["sessions"], &info["store"]["state"]), (&json!(1), &json!("refusing")));
    assert_eq!(read(to)["rainbow_store_refusing"], 1.0);
    let refused = world.send_to("ann", &[], "nobody keeps it");
    assert_eq!((&refused["status"], &refused["stored"], &refused["refused"]), (&json!(1), &json!(0), &json!(1)));
    assert_eq!(world.send("all", &[("message_id", "m")], "")["status"], 1);
    assert_eq!(speaking("ann").open(to).expect_close().0, 4503);
    let refusal = Upgrade::of("ann").refused(to);
    assert_eq!(refusal.status, 503);
    assert!(refusal.header("retry-after").is_some());
    // What needs no promise goes on.
    assert_eq!(world.send("all", &[("qos", "0")], "")["status"], 0);
    world.backend.on_connect(|_| Reply::welcome().header("RAINBOWCLIENTCHANNEL", "all"));
    let mut client = Client::open(to, "without a session");
    let sent = send_later(to, "all", &[("qos", "0")], "hello");
    assert_eq!(client.expect_send().text(), "hello");
    sent.join().expect("answered");
}

#[test]
fn the_backend_hears_the_end_of_a_client_that_the_store_did_not_take() {
    let world = world();
    std::fs::rename(world.dir.path().join("rainbow.db"), world.dir.path().join("taken away")).expect("ours to move");
    let to = world.server.addr();
    eventually("it is not ready", || (http::get(to, "/readyz").status == 503).then_some(()));
    // Some of these at home where they came in, others elsewhere.
    for n in 0..8 {
        assert_eq!(speaking(&format!("user {n}")).open(to).expect_close().0, 4503);
    }
    assert_eq!(world.backend.wait_under("/close", 8).len(), 8);
}

#[test]
fn without_a_store_sessions_are_ignored_and_refused_by_name() {
    let backend = naming();
    let server = Setup::of(&backend).start();
    let mut client = speaking("ann").open(server.addr());
    assert_eq!(greeting(&mut client)["session"], Value::Null);
    assert_eq!(read(server.addr())["rainbow_sessions_ignored_total"], 1.0);
    let refused = |path: &str, params: &[(&str, &str)]| {
        let answer = call(server.addr(), path, params, "").json();
        assert_eq!(answer["status"], 1, "{answer}");
        answer["msg"].as_str().expect("a reason").to_owned()
    };
    assert!(refused("/send/", &[("session", "ann")]).contains("store.kind"));
    assert!(refused("/send/", &[("channel", "all"), ("message_id", "m")]).contains("store.kind"));
    assert!(refused("/session/drop/", &[("session", "ann")]).contains("store.kind"));
    let shown = call_get(server.addr(), "/session/", &[("session", "ann")]).json();
    assert_eq!(shown["status"], 1);
    let sent = send_later(server.addr(), "all", &[("qos", "1"), ("ttl", "5")], "as ever");
    assert_eq!(take(&mut client, 1), ["as ever"]);
    assert_eq!(sent.join().expect("answered"), json!({"status": 0, "connections": 1, "targets": 1, "data": ""}));
}

#[test]
fn the_stores_files_are_open_in_its_own_thread_only() {
    let world = world();
    let tasks = std::fs::read_dir(format!("/proc/{}/task", world.server.process.pid())).expect("it runs");
    let mut seen = std::collections::BTreeMap::new();
    for task in tasks.flatten().map(|task| task.path()) {
        let name = std::fs::read_to_string(task.join("comm")).expect("a name").trim().to_owned();
        let links = std::fs::read_dir(task.join("fd")).expect("a table").flatten();
        let files = links.filter_map(|link| std::fs::read_link(link.path()).ok());
        seen.insert(name, files.filter(|file| file.starts_with(world.dir.path())).count());
    }
    assert!(seen["rainbow-store"] > 0, "{seen:?}");
    assert!((0..4).all(|n| seen[&format!("rainbow-{n}")] == 0), "a worker holds a copy: {seen:?}");
}

#[test]
fn a_debug_build_dies_where_it_is_told_and_what_was_committed_stays() {
    let mut world = world();
    world.server.process.kill();
    // So that the session's is the first commit.
    let setup = || world.dir.setup(&world.backend).text("close_events", "best-effort");
    let outcome = setup().arg("--crash-at").arg("commit.beside:1").refused();
    assert!(outcome.text.contains("commit.after"), "{}", outcome.text);
    let mut server = setup().arg("--crash-at").arg("commit.after:1").start();
    let mut wire = http::Wire::connect(server.addr());
    wire.write(speaking("ann").head("rainbow").as_bytes());
    assert!(!server.exited_within(TIMEOUT).success());
    world.server = world.dir.setup(&world.backend).start();
    // Nobody was told, but it was on disk.
    assert_eq!(world.session("ann")["online"], false);
    assert_eq!(world.open("ann").1["resumed"], true);
}

#[test]
fn two_servers_do_not_share_a_directory() {
    let world = world();
    let outcome = world.dir.setup(&world.backend).refused();
    assert!(!outcome.status.success());
    let pid = world.server.process.pid().to_string();
    assert!(outcome.text.contains(&pid) && outcome.text.contains("store"), "{}", outcome.text);
    let (mut client, _) = world.open("ann");
    client.answers_pings = true;
    assert!(client.packet_within(Duration::from_millis(1)).is_none());
}
