//! What the operator's page asks and does: the past of the figures, a connection, a search, a reload that only shows what
//! it would change, and the audit of what a person does.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::call::{call_get, send_later};
use crate::harness::{
    Backend, Client, Command, Reply, Server, Setup, TIMEOUT, eventually, eventually_within, http, send,
};
use crate::sessions_api::DataDir;

const ADMIN: (&str, &str) = ("Authorization", "Bearer admin-s3cret");
/// The server samples every ten seconds.
const SAMPLED: Duration = Duration::from_secs(25);

fn setup(backend: &Backend) -> Setup {
    backend.on_connect(|_| Reply::welcome().header("RAINBOWCLIENTCHANNEL", "room:a;;room:b"));
    Setup::of(backend).text("admin_token", "admin-s3cret")
}

fn get(server: &Server, target: &str) -> Value {
    let response = http::request(server.addr(), "GET", target, &[ADMIN], b"");
    assert_eq!(response.status, 200, "{target}: {}", response.text());
    response.json()
}

fn post(server: &Server, target: &str, headers: &[(&str, &str)], body: &str) -> Value {
    http::request(server.addr(), "POST", target, &[&[ADMIN], headers].concat(), body.as_bytes()).json()
}

#[test]
fn the_past_of_the_figures_is_kept() {
    let backend = Backend::start();
    let server = setup(&backend).start();
    let fresh = get(&server, "/info/history/?span=hour");
    assert_eq!(fresh["figures"], json!({}), "nothing was sampled yet");
    let mut client = Client::open(server.addr(), "phone");
    for id in 1..=3 {
        client.send(1, 1, id, "x");
        client.expect(Command::Ack, id);
    }
    let points = |history: &Value, name: &str| -> Vec<u64> {
        let points = history["figures"][name].as_array().cloned().unwrap_or_default();
        points.iter().map(|point| point.as_u64().expect("a number")).collect()
    };
    let hour = eventually_within(SAMPLED, "a sample with three messages", || {
        let history = get(&server, "/info/history/?span=hour");
        (points(&history, "messages_in").iter().sum::<u64>() == 3).then_some(history)
    });
    assert_eq!(hour["interval_ms"], 10_000);
    assert_eq!(points(&hour, "connections").last(), Some(&1));
    assert!(
        points(&hour, "latency_p99_us").last() > Some(&0) && points(&hour, "memory_bytes").last() > Some(&1_000_000)
    );
    let covers = hour["covers_ms"].as_array().expect("a list");
    assert_eq!(covers.len(), points(&hour, "messages_in").len());
    assert!(covers.iter().any(|covers| covers.as_u64() > Some(0)));
    assert_eq!(hour["known"]["messages_in"], json!({"help": "Messages from clients.", "merge": "sum"}));
    let day = get(&server, "/info/history/?span=day");
    assert_eq!((points(&day, "messages_in").iter().sum::<u64>(), &day["interval_ms"]), (3, &json!(300_000)));
    let later = get(&server, &format!("/info/history/?after={}", hour["last"]));
    assert!(later["covers_ms"].as_array().expect("a list").len() < 3 && later.get("known").is_none(), "{later}");
    let refused = http::request(server.addr(), "GET", "/info/history/?span=year", &[ADMIN], b"").json();
    assert_eq!(refused, json!({"status": 1, "msg": "span must be hour or day"}));
}

#[test]
fn what_is_looked_at_is_for_viewers_only() {
    let backend = Backend::start();
    let server = setup(&backend).start();
    let _client = Client::open(server.addr(), "phone");
    let connection = format!("/connection/?identity={}", backend.identity_of("phone"));
    for target in ["/info/history/", &connection, "/channel/?find=room"] {
        assert_eq!(http::get(server.addr(), target).status, 401, "{target}");
        assert_eq!(get(&server, target)["status"], 0, "{target}");
    }
}

#[test]
fn a_connection_says_how_it_stands() {
    let backend = Backend::start();
    let dir = DataDir::new();
    backend.on_connect(|_| {
        Reply::welcome().header("RAINBOWCLIENTCHANNEL", "room:a").header("RAINBOWCLIENTSESSION", "ann")
    });
    let server = dir.setup(&backend).start();
    let mut client = Client::open(server.addr(), "phone");
    let identity = backend.identity_of("phone");
    let connection = |identity: &str| call_get(server.addr(), "/connection/", &[("identity", identity)]).json();
    let info = connection(&identity);
    assert_eq!((&info["status"], &info["session"], &info["channels"]), (&json!(0), &json!("ann"), &json!(["room:a"])));
    assert_eq!((&info["address"], &info["is_secure"]), (&json!("127.0.0.1"), &json!(false)));
    assert!(info["since_s"].as_u64() < Some(60) && info["silent_ms"].as_u64() < Some(60_000), "{info}");
    let sent = send_later(server.addr(), "room:a", &[("qos", "1")], "x");
    let packet = client.expect_send();
    assert_eq!(connection(&identity)["in_flight"], 1);
    client.answer(Command::Ack, packet.id, "");
    assert_eq!(sent.join().expect("an answer")["connections"], 1);
    eventually("it is acknowledged", || (connection(&identity)["in_flight"] == 0).then_some(()));
    let nobody = "ab".repeat(32);
    assert_eq!(connection(&nobody), json!({"status": 1, "msg": "no such connection"}));
    let bad = connection("phone");
    assert_eq!(bad, json!({"status": 1, "msg": "identity must be the 64 hex digits of a connection"}));
}

#[test]
fn channels_are_found_by_a_part_of_their_name() {
    let backend = Backend::start();
    let server = setup(&backend).set("workers", "2").start();
    let _clients: Vec<_> = (0..4).map(|n| Client::open(server.addr(), &format!("phone {n}"))).collect();
    let found = get(&server, "/channel/?find=oom:&limit=9");
    let channel = |name: &str| json!({"channel": name, "connections": 4});
    assert_eq!(found, json!({"status": 0, "channels": [channel("room:a"), channel("room:b")]}));
    assert_eq!(get(&server, "/channel/?find=:b")["channels"], json!([channel("room:b")]));
    assert_eq!(get(&server, "/channel/?find=nobody")["channels"], json!([]));
}

#[test]
fn brief_figures_leave_out_what_costs_a_query() {
    let backend = Backend::start();
    let server = setup(&backend).start();
    let whole = get(&server, "/info/");
    let brief = get(&server, "/info/?brief=1");
    for name in ["largest_channels", "hooks", "config", "config_changed"] {
        assert!(whole.get(name).is_some() && brief.get(name).is_none(), "{name}");
    }
    assert!(brief["counters"]["messages_in"].is_u64() && brief["workers"][0]["silent_ms"].is_u64(), "{brief}");
    let changed = whole["config_changed"].as_array().expect("a list");
    assert!(changed.iter().any(|pair| *pair == json!(["admin_token", ""])), "{changed:?}");
    assert!(!changed.iter().any(|pair| pair[0] == "ping_interval"), "{changed:?}");
    let _client = Client::open(server.addr(), "phone");
    let hooks = get(&server, "/info/")["hooks"].clone();
    assert_eq!((&hooks[0]["hook"], &hooks[0]["answers"]), (&json!("connect"), &json!(1)), "{hooks}");
}

#[test]
fn the_last_answer_of_each_hook_is_kept_with_what_an_error_says() {
    let backend = Backend::start();
    let server = setup(&backend).set("workers", "1").start();
    let mut client = Client::open(server.addr(), "phone");
    let answers = || get(&server, "/info/?brief=1")["backend"][0]["last_answers"].clone();
    assert_eq!((answers()[0]["hook"].clone(), answers()[0]["status"].clone()), (json!("connect"), json!(200)));
    assert_eq!((answers()[0]["error"].clone(), answers().as_array().map(Vec::len)), (json!(""), Some(1)));
    backend.on_message(|_| Reply::status(422, format!("no such room{}", "!".repeat(500))));
    client.send(1, 1, 1, "x");
    let refused = eventually("the refusal is shown", || answers().get(1).cloned());
    assert_eq!((&refused["hook"], &refused["status"]), (&json!("forward"), &json!(422)));
    let error = refused["error"].as_str().expect("text");
    assert!(error.starts_with("no such room!") && error.len() == 200, "{error}");
    assert!(refused["age_s"].as_u64() < Some(60), "{refused}");
}

#[test]
fn every_worker_shows_what_the_backend_has_answered_to_any_of_them() {
    let backend = Backend::start();
    let server = setup(&backend).set("workers", "3").start();
    let _client = Client::open(server.addr(), "phone");
    // One worker has asked. Each request comes by a connection of its own, to whichever worker the kernel chooses.
    let is_shown = |_| get(&server, "/info/?brief=1")["backend"][0]["last_answers"][0]["hook"] == "connect";
    eventually("all of them show it", || (0..40).all(is_shown).then_some(()));
}

#[test]
fn a_channel_is_counted_while_somebody_looks() {
    let backend = Backend::start();
    let server = setup(&backend).set("workers", "2").start();
    let _clients: Vec<_> = (0..4).map(|n| Client::open(server.addr(), &format!("phone {n}"))).collect();
    let look = |counts| get(&server, &format!("/channel/?channel=room:a&limit=0{counts}"));
    let figures = |page: Value| (page["messages"].clone(), page["deliveries"].clone());
    assert_eq!(figures(look("")), (Value::Null, Value::Null), "nobody has asked for it");
    send(server.addr(), "room:a", &[("qos", "0")], "before");
    assert_eq!(figures(look("&counts=1")), (json!(0), json!(0)));
    for channel in ["room:a", "room:b", "room:a", "room:a"] {
        send(server.addr(), channel, &[("qos", "0")], "x");
    }
    let expected = (json!(3), json!(12));
    eventually("three messages to four", || (figures(look("&counts=1")) == expected).then_some(()));
}

#[test]
fn a_dry_run_shows_what_a_reload_would_change() {
    let backend = Backend::start();
    let server = setup(&backend).start();
    let next = setup(&backend).set("workers", "1").text("ping_interval", "77s").text("security_token", "next");
    server.rewrite(&next.contents());
    let preview = post(&server, "/updateconfig/?dry_run=1", &[], "");
    let change = |key: &str| {
        let changes = preview["changes"].as_array().expect("a list");
        changes.iter().find(|change| change["key"] == key).unwrap_or_else(|| panic!("no {key} in {preview}")).clone()
    };
    assert_eq!(
        (&change("ping_interval")["to"], &change("ping_interval")["needs_restart"]),
        (&json!("77s"), &json!(false))
    );
    assert_eq!((&change("workers")["to"], &change("workers")["needs_restart"]), (&json!("1"), &json!(true)));
    assert_eq!(change("security_token")["to"], "(hidden)");
    let msg = preview["msg"].as_str().expect("text");
    assert!(msg.contains("would change") && msg.contains("kept until a restart: workers"), "{msg}");
    assert_eq!(post(&server, "/updateconfig/?dry_run=1", &[], ""), preview, "nothing was changed");
    let reloaded = post(&server, "/updateconfig/", &[], "");
    assert_eq!((&reloaded["status"], &reloaded["changes"]), (&json!(0), &preview["changes"]));
    let after = post(&server, "/updateconfig/?dry_run=1", &[], "");
    assert_eq!(after["changes"].as_array().map(Vec::len), Some(1), "{after}");
    server.rewrite("unknown_key = 1\n");
    let refused = post(&server, "/updateconfig/?dry_run=1", &[], "");
    assert!(refused["status"] == 1 && refused["msg"].to_string().contains("unknown_key"), "{refused}");
    let log = server.log();
    assert!(log.contains("UpdateConfig, dry run"), "{log}");
}

#[test]
fn a_message_from_a_page_is_in_the_audit_and_one_of_the_business_server_is_not() {
    let backend = Backend::start();
    let server = setup(&backend).start();
    send(server.addr(), "quiet", &[("qos", "0")], "x");
    let origin = format!("http://{}", server.addr());
    let sent = post(&server, "/send/?channel=loud&qos=0", &[("Origin", &origin)], "x");
    assert_eq!(sent["status"], 0, "{sent}");
    let is_it = |entry: &str| ["rainbow::audit", "loud", "admin token"].iter().all(|part| entry.contains(part));
    server.process.log.wait_for("the page's message", TIMEOUT, is_it);
    assert!(!server.log().contains("quiet"), "{}", server.log());
}

#[test]
fn the_bare_address_leads_to_the_page() {
    let backend = Backend::start();
    let server = setup(&backend).start();
    let root = http::get(server.addr(), "/");
    assert_eq!((root.status, root.header("location")), (302, Some("serverinfo/")));
    assert_eq!(http::request(server.addr(), "POST", "/", &[], b"x").status, 404);
    let apart = setup(&backend).text("admin_listen", "127.0.0.1:0").start();
    assert_eq!(http::get(apart.addr(), "/").status, 404, "clients have nothing to look at");
    assert_eq!(http::get(apart.admin_addr(), "/").status, 302);
}

/// The entries of a trace that runs while `act` acts; `None` for those that are signs of life.
fn traced(server: &Server, target: &str, act: impl FnOnce()) -> Vec<Value> {
    let mut stream = TcpStream::connect(server.addr()).expect("it listens");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    let (name, value) = ADMIN;
    let head = format!("GET {target} HTTP/1.0\r\nHost: {}\r\n{name}: {value}\r\n\r\n", server.addr());
    stream.write_all(head.as_bytes()).expect("it reads");
    let mut reader = BufReader::new(stream);
    let mut read = || {
        let mut text = String::new();
        reader.read_line(&mut text).expect("it writes");
        text
    };
    while read() != "\r\n" {}
    act();
    let entries = std::iter::from_fn(|| Some(read()).filter(|text| !text.is_empty()));
    entries.filter(|text| text != "\n").map(|text| serde_json::from_str(&text).expect("JSON")).collect()
}

fn whats(entries: &[Value]) -> Vec<&str> {
    entries.iter().map(|entry| entry["what"].as_str().expect("a word")).collect()
}

#[test]
fn a_trace_follows_a_user_on_all_workers_and_shows_no_body() {
    let backend = Backend::start();
    let server = setup(&backend).set("workers", "2").start();
    backend.on_connect(|request| {
        let device = request.header("X-DEVICEID").expect("a device").to_owned();
        Reply::welcome().header("RAINBOWCLIENTUSER", &device).header("RAINBOWCLIENTCHANNEL", "room")
    });
    for n in 0..4 {
        let name = format!("phone {n}");
        let entries = traced(&server, &format!("/trace/?user=phone%20{n}&seconds=2"), || {
            let (mut client, mut other) = (Client::open(server.addr(), &name), Client::open(server.addr(), "other"));
            other.send(1, 1, 9, "of another");
            other.expect(Command::Ack, 9);
            client.send(1, 7, 3, "a secret");
            client.expect(Command::Ack, 3);
            let sent = send_later(server.addr(), "room", &[("qos", "1")], "x");
            for client in [&mut client, &mut other] {
                let packet = client.expect_send();
                client.answer(Command::Ack, packet.id, "");
            }
            sent.join().expect("an answer");
            client.leave();
        });
        let expected = ["opened", "from_client", "answered", "to_client", "acknowledged", "closed", "end"];
        assert_eq!(whats(&entries), expected, "{entries:?}");
        let of = &entries[1];
        assert_eq!([&of["type"], &of["qos"], &of["id"], &of["bytes"]], [7, 1, 3, 8], "{of}");
        assert_eq!((&of["user"], of.get("body")), (&json!(name), None));
        assert!(entries[6]["lost"] == 0 && entries[1]["at_ms"].as_u64() > Some(1_600_000_000_000), "{entries:?}");
    }
}

#[test]
fn a_trace_of_a_channel_shows_bodies_where_the_operator_allows_it() {
    let backend = Backend::start();
    let server = setup(&backend).set("workers", "1").set("trace_body_bytes", "5").start();
    let _client = Client::open(server.addr(), "phone");
    let entries = traced(&server, "/trace/?channel=room:a&seconds=1", || {
        send(server.addr(), "room:a", &[("qos", "0")], "hello world");
        send(server.addr(), "room:b", &[("qos", "0")], "not to it, but to its member");
    });
    assert_eq!(whats(&entries), ["called", "to_client", "to_client", "end"]);
    assert_eq!(
        (&entries[0]["body"], &entries[1]["body"], &entries[0]["bytes"]),
        (&json!("hello"), &json!("hello"), &json!(11))
    );
}

#[test]
fn only_a_few_traces_are_read_at_a_time_and_one_ends_with_its_caller() {
    let backend = Backend::start();
    let server = setup(&backend).start();
    let begin = || {
        let mut stream = TcpStream::connect(server.addr()).expect("it listens");
        let (name, value) = ADMIN;
        let head = format!("GET /trace/?session=ann HTTP/1.1\r\nHost: x\r\n{name}: {value}\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("it reads");
        let mut begun = [0; 15];
        stream.read_exact(&mut begun).expect("an answer");
        (stream, String::from_utf8_lossy(&begun[9..12]).into_owned())
    };
    let four = [begin(), begin(), begin(), begin()];
    assert!(four.iter().all(|(_, status)| status == "200"));
    assert_eq!(begin().1, "503");
    drop(four);
    eventually("they have ended with their callers", || (begin().1 == "200").then_some(()));
    for (query, why) in [
        ("", "one of identity, session, channel and user must be given"),
        ("session=a&channel=b", "one of identity, session, channel and user must be given"),
        ("session=a&seconds=61", "seconds must be from 1 to 60"),
        ("identity=a", "identity must be the 64 hex digits of a connection"),
    ] {
        assert_eq!(get(&server, &format!("/trace/?{query}")), json!({"status": 1, "msg": why}), "{query}");
    }
    assert_eq!(http::get(server.addr(), "/trace/?session=ann").status, 401);
}
