//! What the server says of itself: /metrics, /info/, /serverinfo/, /livez, /readyz, and to whom.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::harness::call::{call_get, webhook_secret};
use crate::harness::http;
use crate::harness::metrics::{Counted, await_rise, read};
use crate::harness::{Backend, Client, Command, Reply, Server, Setup, TOKEN, eventually, send};

/// The gauge of open connections begins so.
pub const CONNECTIONS: &str = "rainbow_connections";

fn started() -> (Backend, Server) {
    let backend = Backend::start();
    backend.on_connect(|_| Reply::welcome().header("RAINBOWCLIENTCHANNEL", "everybody"));
    let server = Setup::of(&backend).start();
    (backend, server)
}

fn connections(samples: &BTreeMap<String, f64>) -> f64 {
    let gauge = |name: &str| name == CONNECTIONS || name.starts_with(&format!("{CONNECTIONS}{{"));
    let found: Vec<_> = samples.iter().filter(|(name, _)| gauge(name)).map(|(_, value)| *value).collect();
    assert!(!found.is_empty(), "no {CONNECTIONS} in {:?}", samples.keys());
    found.iter().sum()
}

#[test]
fn metrics_are_prometheus_text() {
    let (_backend, server) = started();
    let response = call_get(server.addr(), "/metrics", &[]);
    assert_eq!(response.status, 200);
    let kind = response.header("content-type").expect("a content type");
    assert!(kind.starts_with("text/plain") || kind.starts_with("application/openmetrics-text"), "{kind}");
    let text = response.text();
    let mut described = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("# TYPE name kind");
            assert!(described.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} is described twice");
        }
    }
    assert!(!described.is_empty());
    for name in read(server.addr()).keys() {
        let bare = name.split('{').next().expect("a name");
        assert!(bare.starts_with("rainbow_") || bare.starts_with("process_"), "{bare} has no namespace");
        let known = described.keys().any(|family| bare.starts_with(family.as_str()));
        assert!(known, "{bare} has no # TYPE");
    }
}

#[test]
fn the_gauge_of_connections_follows_the_clients() {
    let (_backend, server) = started();
    assert_eq!(connections(&read(server.addr())), 0.0);
    let mut clients: Vec<_> = (0..7).map(|i| Client::open(server.addr(), &format!("phone{i}"))).collect();
    eventually("seven are open", || (connections(&read(server.addr())) == 7.0).then_some(()));
    clients.truncate(2);
    eventually("two are open", || (connections(&read(server.addr())) == 2.0).then_some(()));
}

#[test]
fn messages_are_counted_each_way() {
    let (_backend, server) = started();
    let mut client = Client::open(server.addr(), "phone");
    let before = read(server.addr());
    for id in 1..=10 {
        client.send(1, 1, id, "x");
        client.expect(Command::Ack, id);
        send(server.addr(), "everybody", &[("qos", "0")], "x");
        client.expect_send();
    }
    await_rise(server.addr(), &before, Counted::MessageIn, 10.0);
    await_rise(server.addr(), &before, Counted::MessageOut, 10.0);
}

#[test]
fn info_is_json_with_live_figures() {
    let (_backend, server) = started();
    let _clients: Vec<_> = (0..5).map(|i| Client::open(server.addr(), &format!("phone{i}"))).collect();
    let info = eventually("five connections in /info/", || {
        let response = call_get(server.addr(), "/info/", &[]);
        assert_eq!(response.status, 200, "{}", response.text());
        assert!(response.header("content-type").is_some_and(|v| v.starts_with("application/json")));
        let info = response.json();
        has(&info, &|key, value| key.contains("connection") && value.as_u64() == Some(5)).then_some(info)
    });
    let named = |part: &'static str| has(&info, &|key, value| key.contains(part) && !value.is_null());
    for part in ["uptime", "version", "worker", "memory", "channel"] {
        assert!(named(part) || part == "memory" && named("rss"), "no {part} in {info}");
    }
    assert!(info.to_string().contains("everybody"), "the largest channels are named: {info}");
}

#[test]
fn serverinfo_is_a_page_of_its_own() {
    let (_backend, server) = started();
    let page = http::get(server.addr(), "/serverinfo/");
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").is_some_and(|v| v.starts_with("text/html")), "{:?}", page.headers);
    let text = page.text();
    assert!(text.contains("<html") || text.contains("<!doctype html"), "{text}");
    for part in ["src=\"http", "href=\"http", "src='http", "src=\"//", "@import", "cdn."] {
        assert!(!text.contains(part), "the page needs another server: {part}");
    }
}

#[test]
fn no_page_shows_a_secret() {
    let backend = Backend::start();
    let secret = webhook_secret(5);
    let with_password = backend.url("/connect/").replace("http://", "http://user:pa55word@");
    let setup = Setup::of(&backend)
        .set("webhook_secrets", &format!("[{secret:?}]"))
        .text("admin_token", "admin-s3cret")
        .text("forward_url", &with_password);
    // A URL with a password may be refused as a whole; if it is taken, it is not shown.
    let server =
        if setup_is_refused(&backend) { setup.text("forward_url", &backend.url("/m/")) } else { setup }.start();
    for path in ["/serverinfo/", "/info/", "/metrics", "/channel/"] {
        let text = call_get(server.addr(), path, &[]).text();
        for hidden in [TOKEN, secret.trim_start_matches("whsec_"), "admin-s3cret", "pa55word"] {
            assert!(!text.contains(hidden), "{path} shows {hidden}");
        }
    }
}

fn setup_is_refused(backend: &Backend) -> bool {
    let url = backend.url("/m/").replace("http://", "http://user:pa55word@");
    !Setup::of(backend).text("forward_url", &url).run(&["config", "check"]).status.success()
}

#[test]
fn livez_and_readyz_are_200_while_all_is_well() {
    let (_backend, server) = started();
    for path in ["/livez", "/readyz"] {
        assert_eq!(http::get(server.addr(), path).status, 200, "{path}");
    }
}

#[test]
fn livez_does_not_depend_on_the_backend() {
    let (mut backend, server) = started();
    backend.stop();
    assert_eq!(http::get(server.addr(), "/livez").status, 200);
}

#[test]
fn without_any_secret_this_machine_may_read() {
    let server = Setup::new().text("security_token", "").start();
    for path in ["/serverinfo/", "/info/", "/metrics", "/channel/?channel=everybody"] {
        assert_eq!(http::get(server.addr(), path).status, 200, "{path}");
    }
}

/// Whether some key and its value, at any depth, are what is looked for.
fn has(json: &Value, wanted: &dyn Fn(&str, &Value) -> bool) -> bool {
    match json {
        Value::Object(map) => map.iter().any(|(key, value)| wanted(key, value) || has(value, wanted)),
        Value::Array(list) => list.iter().any(|value| has(value, wanted)),
        _ => false,
    }
}

#[test]
fn a_channel_with_members_on_several_workers_is_one_channel() {
    let backend = Backend::start();
    backend.on_connect(|request| {
        let device = request.header("X-DEVICEID").expect("a device");
        Reply::welcome().header("RAINBOWCLIENTCHANNEL", &format!("room;;of {device}"))
    });
    let server = Setup::of(&backend).set("workers", "4").start();
    let clients: Vec<Client> = (0..24).map(|n| Client::open(server.addr(), &format!("phone {n}"))).collect();
    let info = call_get(server.addr(), "/info/", &[]).json();
    let workers = info["workers"].as_array().expect("a list");
    let has_channels = workers.iter().filter(|worker| worker["channels"] != 0).count();
    assert!(has_channels > 1, "{workers:?}");
    assert_eq!(info["channels"], 25);
    assert_eq!(read(server.addr())["rainbow_channels"], 25.0);
    clients.into_iter().for_each(Client::leave);
    eventually("no channel is left", || (read(server.addr())["rainbow_channels"] == 0.0).then_some(()));
}
