//! What the server says of itself: /metrics, /info/, /serverinfo/, /livez, /readyz, and to whom.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::process::{self, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::harness::call::{call_get, signed_target, webhook_secret};
use crate::harness::http;
use crate::harness::metrics::{Counted, await_rise, read};
use crate::harness::{Backend, Client, Command, Reply, Server, Setup, TOKEN, eventually, send};
use crate::sessions_api::DataDir;

/// The gauge of open connections.
pub const CONNECTIONS: &str = "rainbow_connections";
/// Set where Prometheus cannot be installed.
const NO_PROMTOOL: &str = "RAINBOW_TESTS_WITHOUT_PROMTOOL";

fn started() -> (Backend, Server) {
    let backend = Backend::start();
    backend.on_connect(|_| Reply::welcome().header("RAINBOWCLIENTCHANNEL", "everybody"));
    let server = Setup::of(&backend).start();
    (backend, server)
}

fn connections(samples: &BTreeMap<String, f64>) -> f64 {
    samples[CONNECTIONS]
}

/// With an Accept header, or none.
fn metrics_text(server: &Server, accept: Option<&str>) -> (String, String) {
    let headers: Vec<_> = accept.map(|accept| ("Accept", accept)).into_iter().collect();
    let response = http::request(server.addr(), "GET", &signed_target("/metrics", &[]), &headers, b"");
    assert_eq!(response.status, 200, "{}", response.text());
    (response.header("content-type").expect("a content type").to_owned(), response.text())
}

/// A server with a store, about which every metric says something: it has asked the backend and answered a call.
fn busy() -> (Backend, DataDir, Server, Client) {
    let backend = Backend::start();
    backend.on_connect(|_| Reply::welcome().header("RAINBOWCLIENTCHANNEL", "everybody"));
    let dir = DataDir::new();
    let server = dir.setup(&backend).start();
    let mut client = Client::open(server.addr(), "phone");
    client.send(1, 1, 1, "x");
    client.expect(Command::Ack, 1);
    send(server.addr(), "everybody", &[("qos", "0")], "x");
    (backend, dir, server, client)
}

#[test]
fn metrics_are_the_classic_text_unless_openmetrics_is_accepted() {
    let (_backend, server) = started();
    for accept in [None, Some("*/*"), Some("text/plain"), Some("application/openmetrics-text;version=0.0.1")] {
        let (kind, text) = metrics_text(&server, accept);
        assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8", "{accept:?}");
        assert!(text.contains("# TYPE rainbow_pings_total counter\n") && !text.contains("# EOF"), "{text}");
    }
    let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
    let (kind, text) = metrics_text(&server, Some(prometheus));
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(text.contains("# TYPE rainbow_pings counter\n") && text.ends_with("# EOF\n"), "{text}");
}

#[test]
fn promtool_finds_nothing_to_mend() {
    let (_backend, _dir, server, _client) = busy();
    let (_, text) = metrics_text(&server, None);
    let started = process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match started {
        Ok(promtool) => promtool,
        Err(error) if error.kind() == ErrorKind::NotFound && std::env::var_os(NO_PROMTOOL).is_some() => return,
        Err(error) => panic!("promtool: {error}. Install Debian's prometheus, or set {NO_PROMTOOL} to go without"),
    };
    promtool.stdin.take().expect("piped").write_all(text.as_bytes()).expect("it reads");
    let output = promtool.wait_with_output().expect("it ends");
    let findings = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && findings.is_empty(), "{}: {findings}", output.status);
}

#[test]
fn histograms_say_how_long_what_took() {
    let (_backend, _dir, server, _client) = busy();
    let samples = read(server.addr());
    let labelled = |family: &str, labels: &[&str]| -> f64 {
        let fits = |name: &str| name.starts_with(&format!("{family}_count")) && labels.iter().all(|l| name.contains(l));
        samples.iter().filter(|(name, _)| fits(name)).map(|(_, count)| *count).sum()
    };
    for hook in ["hook=\"connect\"", "hook=\"forward\""] {
        let count = labelled("rainbow_backend_request_duration_seconds", &[hook, "upstream=\"127.0.0.1:"]);
        assert_eq!(count, 1.0, "{hook}: {samples:?}");
    }
    assert_eq!(labelled("rainbow_call_duration_seconds", &["path=\"/send/\""]), 1.0);
    assert!(labelled("rainbow_turn_duration_seconds", &[]) > 1.0);
    assert!(samples.contains_key("rainbow_store_commit_duration_seconds_count"), "{samples:?}");
    let infinite = samples["rainbow_turn_duration_seconds_bucket{le=\"+Inf\"}"];
    assert_eq!(infinite, samples["rainbow_turn_duration_seconds_count"]);
}

#[test]
fn the_process_and_the_build_have_their_standard_metrics() {
    let (_backend, server) = started();
    let samples = read(server.addr());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    let age = now - samples["process_start_time_seconds"];
    assert!((-2.0..120.0).contains(&age), "{age}");
    assert!(samples["process_cpu_seconds_total"] < 60.0);
    assert!(samples["process_virtual_memory_bytes"] > samples["process_resident_memory_bytes"]);
    assert!(samples["process_resident_memory_bytes"] > 1e6);
    if let Some(open) = samples.get("process_open_fds") {
        assert!((3.0..samples["process_max_fds"]).contains(open), "{open}");
    }
    let build = samples.iter().find(|(name, _)| name.starts_with("rainbow_build_info{version=\"")).expect("a build");
    assert_eq!(*build.1, 1.0);
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
        assert_eq!(http::get(server.admin_addr(), path).status, 200, "{path}");
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
