//! No secret is ever printed: not in a page, not in the log at its finest level, not by a panic, and not by what refuses
//! a configuration because of it.

use crate::harness::call::{signed_query, target, webhook_secret};
use crate::harness::{Backend, Client, Command, Reply, Server, Setup, TIMEOUT, Upgrade, http};

const TOKEN: &str = "marked-t0ken-5s9d";
const ADMIN: &str = "marked-adm1n-8f3k";
const CLUSTER: &str = "marked-clust3r-1b4z";
const QUERY: &str = "marked-qu3ry-2h7w";
const PASSWORD: &str = "marked-p4ssword-6c1v";

/// Also what a part of it would show.
fn marks() -> [String; 6] {
    let webhook = webhook_secret(77).trim_start_matches("whsec_").to_owned();
    [TOKEN.into(), ADMIN.into(), CLUSTER.into(), QUERY.into(), PASSWORD.into(), webhook]
}

fn assert_hidden(what: &str, printed: &str) {
    for mark in marks() {
        assert!(!printed.contains(&mark), "{what} shows {mark}:\n{printed}");
    }
}

fn marked(backend: &Backend) -> Setup {
    let url = |path: &str| format!("{}?key={QUERY}", backend.url(path));
    Setup::of(backend)
        .text("connect_url", &url("/connect/"))
        .text("forward_url", &url("/message/{message_type}/"))
        .text("close_url", &url("/close/"))
        .text("security_token", TOKEN)
        .text("admin_token", ADMIN)
        .text("cluster_secret", CLUSTER)
        .set("webhook_secrets", &format!("[{:?}]", webhook_secret(77)))
        .text("log", "trace")
}

/// Whatever a server does that could print one.
fn exercise(server: &Server, backend: &Backend) {
    let to = server.addr();
    let mut client = Client::open(to, "phone");
    client.send(1, 1, 1, "x");
    client.expect(Command::Ack, 1);
    let refused = |token: &str| Upgrade::of("stranger").header("Authorization", token).try_open(to).is_ok();
    refused(ADMIN);
    let bearer = format!("Bearer {ADMIN}");
    let call = |method: &str, path: &str, headers: &[(&str, &str)], body: &str| {
        let response = http::request(to, method, path, headers, body.as_bytes());
        assert_hidden(path, &format!("{:?}{}", response.headers, response.text()));
        response.status
    };
    for path in ["/info/", "/serverinfo/", "/metrics", "/channel/", "/readyz", "/livez"] {
        assert_eq!(call("GET", path, &[("Authorization", &bearer)], ""), 200, "{path}");
        call("GET", path, &[("Authorization", &bearer[..bearer.len() - 1])], "");
    }
    let send = target("/send/", &[("channel", "all"), ("qos", "0")], &signed_query(TOKEN));
    assert_eq!(call("POST", &send, &[], "hello"), 200);
    call("POST", &target("/send/", &[("channel", "all")], &signed_query("another")), &[], "hello");
    let kick = target("/kick/", &[], &signed_query(TOKEN));
    let identity = backend.identity_of("phone");
    call("POST", &kick, &[], &format!(r#"{{"identity": "{identity}"}}"#));
    backend.wait_under("/close", 1);
}

#[test]
fn a_server_that_logs_all_prints_no_secret() {
    let backend = Backend::start();
    backend.on_connect(|_| Reply::welcome().header("RAINBOWCLIENTCHANNEL", "all"));
    let mut server = marked(&backend).env("RAINBOW_TEST_PANIC_IN_TURN_TYPE", "4242").start();
    exercise(&server, &backend);
    // Changed, broken, and as it was.
    let contents = marked(&backend).contents();
    let broken = [
        contents.replace(&webhook_secret(77), &format!("whsec_!{}", webhook_secret(77))),
        contents.replace(TOKEN, &format!("{TOKEN}\\u0007")),
        contents.replace(&format!("{ADMIN:?}"), &format!("{ADMIN:?} x")),
    ];
    for file in broken.iter().chain([&contents.replace(ADMIN, &format!("{ADMIN}-2")), &contents]) {
        server.rewrite(file);
        let reload = target("/updateconfig/", &[], &signed_query(TOKEN));
        let answer = http::request(server.addr(), "POST", &reload, &[], b"").text();
        assert_hidden("/updateconfig/", &answer);
    }
    Client::open(server.addr(), "unlucky").send(1, 4242, 1, "x");
    server.exited_within(TIMEOUT);
    server.process.log.wait_end(TIMEOUT);
    let log = server.log();
    assert!(log.contains("panicked") && log.contains("DEBUG"), "it logs all: {log}");
    assert_hidden("the log", &log);
}

#[test]
fn what_refuses_a_configuration_quotes_no_secret() {
    let webhook = webhook_secret(77);
    let files = [
        format!("webhook_secrets = [\"{webhook}!\"]"),
        format!("webhook_secrets = [\"{webhook}\", \"{webhook}\", \"{webhook}\"]"),
        format!("webhook_secrets = \"{}\"", webhook.trim_start_matches("whsec_")),
        format!("security_token = \"{TOKEN}\\u0007\""),
        format!("security_token = \"{TOKEN}"),
        format!("security_token = {TOKEN}"),
        format!("security_token = [\"{TOKEN}\"]"),
        format!("security_token \"{TOKEN}\""),
        format!("admin_token = \"\"\"{ADMIN}"),
        format!("admin_token = \"{ADMIN}\" \"{ADMIN}\""),
        format!("admin_token = {{ value = \"{ADMIN}\" }}"),
        format!("admin_token = '{ADMIN}'\nadmin_token = '{ADMIN}'"),
        format!("cluster_secret = \"{CLUSTER}\\n\""),
        format!("admin_tokn = \"{ADMIN}\""),
        format!("connect_url = \"http://user:{PASSWORD}@127.0.0.1/\""),
        format!("connect_url = \"http://127.0.0.1/ ?key={QUERY}\""),
        format!("connect_url = \"https://127.0.0.1/?key={QUERY}\""),
        format!("connect_url = \"http://127.0.0.1/{{x}}?key={QUERY}\""),
        format!("connect_url = \"http://127.0.0.1/?key={{{QUERY}\""),
        format!("connect_url = \"http://127.0.0.1#{QUERY}\""),
        format!("store.kind = \"redis\"\nstore.url = \"redis://user:{PASSWORD}@:x/\""),
        format!("store.kind = \"redis\"\nstore.url = \"rediss://user:{PASSWORD}@127.0.0.1:1/\""),
        format!("store.kind = \"redis\"\nstore.url = \"http://user:{PASSWORD}@127.0.0.1/\""),
        format!("store.kind = \"redis\"\nstore.url = \"redis://user:{PASSWORD}@127.0.0.1:1/\""),
        format!("store.kind = \"redis\"\nstore.url = \"redis-sentinel://user:{PASSWORD}@127.0.0.1:1/\""),
        format!("store.kind = \"redis\"\nstore.url = \"redis-cluster://user:{PASSWORD}@127.0.0.1:1/\""),
    ];
    for file in &files {
        let setup = || Setup::new().file("rainbow.toml", &format!("log = \"trace\"\n{file}\n"));
        assert_hidden(file, &setup().run(&["config", "check"]).text);
        assert_hidden(file, &setup().refused().text);
        if let Some((name, value)) = file.split_once(" = ").filter(|(name, _)| *name != "store.kind") {
            let variable = format!("RAINBOW_{}", name.to_uppercase());
            assert_hidden(file, &Setup::new().no_file().env(&variable, value).run(&["config", "check"]).text);
        }
        let ini = format!("[main]\n{}\n", file.replace(" = ", " "));
        assert_hidden(file, &Setup::new().file("rainbow.ini", &ini).run(&["config", "check"]).text);
    }
}
