//! The command line and the configuration: what is refused before anything starts, what overrides what, what can be reloaded.

use crate::harness::call::{call_get, signed_query, target};
use crate::harness::client::{BINARY, TEXT};
use crate::harness::http;
use crate::harness::ports::free_port;
use crate::harness::{Backend, Client, Command, Reply, Server, Setup, TIMEOUT, TOKEN, Upgrade, eventually};

/// Refused, and the message has all these parts.
fn assert_refused(setup: Setup, parts: &[&str]) {
    let outcome = setup.refused();
    assert!(!outcome.status.success(), "{outcome:?}");
    for part in parts {
        assert!(outcome.text.contains(part), "no {part:?} in:\n{}", outcome.text);
    }
    assert!(!outcome.text.contains("panicked"), "{}", outcome.text);
}

#[test]
fn an_unknown_key_is_refused_with_file_line_and_the_nearest_key() {
    let file = "security_token = \"t\"\n# a comment\nconect_url = \"http://localhost:8000/\"\n";
    assert_refused(Setup::new().file("rainbow.toml", file), &["rainbow.toml", "3", "conect_url", "connect_url"]);
    let ini = "[main]\nconnect_url = http://localhost:8000/\nsecurity_tokn = t\n";
    assert_refused(Setup::new().file("rainbow.ini", ini), &["rainbow.ini", "3", "security_tokn", "security_token"]);
}

#[test]
fn bad_values_are_refused_with_file_and_line() {
    let values = [
        ("connect_url", r#""localhost:8000/connect/""#),
        ("connect_url", r#""ftp://localhost/""#),
        ("connect_url", r#""http:///nohost/""#),
        ("forward_url", r#""not a url""#),
        ("listen", r#""nowhere""#),
        ("http_port", "70000"),
        ("ack_timeout", r#""soon""#),
        ("ack_timeout", "-1"),
        ("message_bytes_max", "-5"),
        ("inflight_window", "true"),
        ("signature_require", r#""perhaps""#),
        ("webhook_secrets", r#"["whsec_!!!"]"#),
        ("store.url", r#""redisss://localhost""#),
        ("store.url", r#""localhost:6379""#),
        ("store.url", r#""redis-sentinel://localhost""#),
        ("connect_url", r#""https://localhost/""#),
        ("webhook_secrets", r#"["whsec_AAAA", "whsec_BBBB", "whsec_CCCC"]"#),
    ];
    for (key, value) in values {
        let file = format!("security_token = \"t\"\n\n\n{key} = {value}\n");
        assert_refused(Setup::new().file("rainbow.toml", &file), &["rainbow.toml", "4", key]);
    }
}

#[test]
fn impossible_limits_are_refused() {
    let limits =
        [("inflight_window", "0"), ("inflight_window", "70000"), ("connections_max", "0"), ("message_bytes_max", "0")];
    for (key, value) in limits {
        let file = format!("security_token = \"t\"\n{key} = {value}\n");
        assert_refused(Setup::new().file("rainbow.toml", &file), &[key]);
    }
}

#[test]
fn a_file_that_cannot_be_read_is_refused() {
    assert_refused(Setup::new().no_file().arg("-f").arg("/nowhere/rainbow.toml"), &["/nowhere/rainbow.toml"]);
    assert_refused(Setup::new().file("rainbow.toml", "security_token = \"t\"\nbroken = [\n"), &["rainbow.toml"]);
    assert_refused(Setup::new().file("rainbow.ini", "security_token\n[main\n"), &["rainbow.ini"]);
}

#[test]
fn a_port_that_is_taken_is_refused() {
    let taken = free_port();
    let _holder = std::net::TcpListener::bind(("0.0.0.0", taken.number)).expect("a reserved port");
    let outcome = Setup::new().no_port().arg("-p").arg(&taken.number.to_string()).run(&[]);
    assert!(!outcome.status.success(), "{outcome:?}");
    assert!(outcome.text.contains(&taken.number.to_string()), "{}", outcome.text);
}

#[test]
fn config_check_judges_a_file_without_starting() {
    let good = Setup::new().set("ack_timeout", "0.5").run(&["config", "check"]);
    assert!(good.status.success(), "{}", good.text);
    let bad = Setup::new().set("ack_timeot", "0.5").run(&["config", "check"]);
    assert!(!bad.status.success(), "{}", bad.text);
    assert!(bad.text.contains("ack_timeout"), "{}", bad.text);
    assert!(!good.text.contains(TOKEN) && !bad.text.contains(TOKEN));
}

#[test]
fn config_default_is_a_file_that_passes_the_check() {
    let default = Setup::new().no_file().run(&["config", "default"]);
    assert!(default.status.success(), "{}", default.text);
    for key in ["connect_url", "ack_timeout", "inflight_window", "outbox_bytes_max", "shutdown_timeout"] {
        assert!(default.text.contains(key), "no {key} in:\n{}", default.text);
    }
    let check = Setup::new().file("rainbow.toml", &default.text).run(&["config", "check"]);
    assert!(check.status.success(), "{}", check.text);
}

#[test]
fn the_environment_overrides_the_file() {
    let backend = Backend::start();
    let server = Setup::of(&backend)
        .text("connect_url", "http://127.0.0.1:9/wrong/")
        .env("RAINBOW_CONNECT_URL", &backend.url("/connect/env/"))
        .env("RAINBOW_MESSAGE_BYTES_MAX", "100")
        .start();
    let mut client = Client::open(server.addr(), "phone");
    assert_eq!(backend.connects()[0].path, "/connect/env/");
    client.send(1, 1, 1, [b'x'; 200]);
    assert_eq!(client.expect_close().0, 1009);
}

#[test]
fn a_bad_environment_variable_is_refused_by_name() {
    assert_refused(Setup::new().env("RAINBOW_ACK_TIMEOUT", "soon"), &["RAINBOW_ACK_TIMEOUT"]);
    assert_refused(Setup::new().env("RAINBOW_CONNECT_URL", "nonsense"), &["RAINBOW_CONNECT_URL"]);
}

#[test]
fn the_port_on_the_command_line_goes_before_the_file() {
    let other = free_port();
    let server = Setup::new().set("http_port", &other.number.to_string()).start();
    assert_ne!(server.port(), other.number);
    assert_answers(&server);
}

#[test]
fn the_port_of_the_file_is_listened_on() {
    let port = free_port();
    let number = port.number.to_string();
    let server = Setup::new().set("http_port", &number).no_port().start_on(port);
    assert_answers(&server);
}

#[test]
fn without_a_file_it_starts_and_says_what_to_do_next() {
    let server = Setup::new().no_file().start();
    let port = server.port().to_string();
    server.process.log.wait_for("the port", TIMEOUT, |line| line.contains(&port));
    server.process.log.wait_for("what to try next", TIMEOUT, |line| line.contains("rainbow-server demo"));
    assert_answers(&server);
    let text = server.log();
    // One screen.
    assert!(text.lines().count() <= 40, "{text}");
    let mut client = Client::open(server.addr(), "phone");
    client.send(1, 1, 1, "x");
    client.expect(Command::Ack, 1);
}

#[test]
fn cores_and_workers_are_chosen_on_the_command_line() {
    let server = Setup::new().arg("--cores").arg("0").arg("--workers").arg("3").start();
    let pid = server.process.pid();
    let mut pinned = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs") {
        let status = std::fs::read_to_string(task.expect("a task").path().join("status")).unwrap_or_default();
        pinned +=
            usize::from(status.lines().any(|l| l.starts_with("Cpus_allowed_list:") && l.trim_end().ends_with("\t0")));
    }
    assert!(pinned >= 3, "{pinned} threads on core 0");
    let mut clients: Vec<_> = (0..30).map(|i| Client::open(server.addr(), &format!("phone{i}"))).collect();
    for client in &mut clients {
        client.assert_open();
    }
}

#[test]
fn every_worker_has_a_descriptor_table_of_its_own() {
    let server = Setup::new().set("workers", "3").start();
    // The harness's own first call may still be about to end in one of them.
    let empty = eventually("three tables alike", || {
        let tables = server.sockets_per_worker();
        (tables.len() == 3 && tables.iter().all(|sockets| *sockets == tables[0])).then_some(tables)
    });
    let clients: Vec<_> = (0..60).map(|i| Client::open(server.addr(), &format!("phone{i}"))).collect();
    eventually("every client is in one table", || {
        let full = server.sockets_per_worker();
        let added: Vec<_> = full.iter().zip(&empty).map(|(full, empty)| full.saturating_sub(*empty)).collect();
        (added.iter().sum::<usize>() == clients.len() && added.iter().all(|&n| n > 0)).then_some(())
    });
}

#[test]
fn the_2014_file_names_its_port() {
    let port = free_port();
    let ini = format!("[main]\nsecurity_token = t\nhttp_port = {}            ; optional\n", port.number);
    let server = Setup::new().file("rainbow.ini", &ini).no_port().start_on(port);
    assert_answers(&server);
}

#[test]
fn what_is_printed_without_a_file_works_as_printed() {
    let server = Setup::new().no_file().start();
    let line = server.process.log.wait_for("a call to try", TIMEOUT, |line| line.contains("/send/"));
    let url = line.split(['\'', '"', ' ']).find(|word| word.starts_with("http://")).expect("a URL");
    let (at, target) = url["http://".len()..].split_at(url.find("/send/").expect("the path") - "http://".len());
    let at = at.parse().expect("an address with its port");
    let answer = http::request(at, "POST", target, &[], b"hello");
    assert_eq!(answer.outcome(), 0, "{line}: {}", answer.text());
}

#[test]
fn echo_sends_back_text_and_binary_on_any_path() {
    let server = Setup::new().no_file().arg("echo").start_quietly();
    for path in ["/", "/any/where?case=1"] {
        let mut client = Upgrade::bare().path(path).open(server.addr());
        for (opcode, payload) in [(TEXT, "grüße".as_bytes()), (BINARY, &[0, 255, 7]), (BINARY, b""), (TEXT, b"")] {
            client.frame(true, opcode, payload);
            let frame = client.next_frame(TIMEOUT).expect("an echo");
            assert_eq!((frame.fin, frame.opcode, &frame.payload[..]), (true, opcode, payload));
        }
        client.close(1000, "");
        client.expect_end();
    }
}

#[test]
fn the_demo_prints_a_url_and_serves_its_page_there() {
    let server = Setup::new().no_file().arg("demo").start_quietly();
    let urls = |text: &str| -> Vec<String> {
        let words = text.split_whitespace().filter(|word| word.starts_with("http://"));
        words.map(|word| word.trim_end_matches(['.', ',']).to_owned()).collect()
    };
    let printed = urls(&server.process.log.wait_for("a URL", TIMEOUT, |line| !urls(line).is_empty()));
    let (host, path) = printed[0]["http://".len()..].split_once('/').unwrap_or((&printed[0]["http://".len()..], ""));
    let at = host.replace("localhost", "127.0.0.1").parse().expect("an address with its port");
    let page = http::get(at, &format!("/{path}"));
    assert_eq!(page.status, 200, "{}", page.text());
    assert!(page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")));
}

#[test]
fn bad_arguments_are_refused_with_a_hint() {
    for args in [&["--cores", "x"][..], &["--port", "many"], &["--frobnicate"], &["config", "frobnicate"], &["audit"]] {
        let outcome = Setup::new().no_file().run(args);
        assert!(!outcome.status.success(), "{args:?}");
        assert!(!outcome.text.contains("panicked"), "{}", outcome.text);
    }
    let help = Setup::new().no_file().run(&["--help"]);
    assert!(help.status.success());
    for word in ["-f", "-p", "--cores", "--workers", "config", "demo"] {
        assert!(help.text.contains(word), "no {word} in:\n{}", help.text);
    }
    let version = Setup::new().no_file().run(&["--version"]);
    assert!(version.status.success() && version.text.contains(env!("CARGO_PKG_VERSION")), "{}", version.text);
}

#[test]
fn sighup_reloads_the_file() {
    let backend = Backend::start();
    let (server, next) = reloadable(&backend);
    let mut client = Client::open(server.addr(), "phone");
    server.rewrite(&next);
    server.process.signal("HUP");
    eventually("messages take the new way", || {
        client.send(0, 1, 0, "x");
        backend.seen_under("/new").first().map(|_| ())
    });
    client.assert_open();
}

#[test]
fn a_reload_changes_what_is_logged() {
    let backend = Backend::start();
    let server = Setup::of(&backend).start();
    server.rewrite(&Setup::of(&backend).text("log", "debug").contents());
    server.process.signal("HUP");
    server.process.log.wait_for("the reload", TIMEOUT, |line| line.contains("configuration reread"));
    let _client = Client::open(server.addr(), "phone");
    server.process.log.wait_for("a line of one connection's life", TIMEOUT, |line| line.contains("DEBUG"));
}

#[test]
fn updateconfig_reloads_the_file() {
    let backend = Backend::start();
    let (server, next) = reloadable(&backend);
    let mut client = Client::open(server.addr(), "phone");
    server.rewrite(&next);
    let answer = http::get(server.addr(), &format!("/updateconfig/?{}", signed_query(TOKEN)));
    assert_eq!(answer.status, 200, "{}", answer.text());
    eventually("messages take the new way", || {
        client.send(0, 1, 0, "x");
        backend.seen_under("/new").first().map(|_| ())
    });
}

#[test]
fn a_reload_with_an_error_changes_nothing() {
    let backend = Backend::start();
    let (server, next) = reloadable(&backend);
    let mut client = Client::open(server.addr(), "phone");
    server.rewrite(&format!("{next}unknwon_key = 1\n"));
    server.process.signal("HUP");
    server.process.log.wait_for("the unknown key", TIMEOUT, |line| line.contains("unknwon_key"));
    let answer = call_get(server.addr(), "/updateconfig/", &[]);
    assert!(answer.is_refusal(), "{} {}", answer.status, answer.text());
    for id in 1..=5 {
        client.send(1, 1, id, "x");
        client.expect(Command::Ack, id);
    }
    assert_eq!(backend.messages().len(), 5);
    assert_eq!(backend.seen_under("/new").len(), 0);
}

#[test]
fn a_reload_says_what_could_not_be_reloaded() {
    let backend = Backend::start();
    let setup = Setup::of(&backend);
    let next = Setup::of(&backend).set("workers", "1").contents();
    let server = setup.start();
    server.rewrite(&next);
    let answer = call_get(server.addr(), "/updateconfig/", &[]);
    let reported = answer.text().contains("workers");
    server.process.signal("HUP");
    server.process.log.wait_for("workers", TIMEOUT, |line| line.contains("workers"));
    assert!(reported, "the caller is not told: {}", answer.text());
}

#[test]
fn reloaded_secrets_hold_at_once() {
    let backend = Backend::start();
    let server = Setup::of(&backend).start();
    server.rewrite(&Setup::of(&backend).text("security_token", "newtoken").contents());
    server.process.signal("HUP");
    // A call goes to either worker: one that still had the old token would refuse some of many.
    let accepted = |token: &str| {
        let target = target("/send/", &[("channel", "a"), ("qos", "0")], &signed_query(token));
        http::request(server.addr(), "POST", &target, &[], b"x").outcome() == 0
    };
    server.process.log.wait_for("the reload", TIMEOUT, |entry| entry.contains("configuration reread"));
    // What is said to be in force is in force everywhere.
    assert!((0..20).all(|_| accepted("newtoken")), "every worker has the new token");
    assert!((0..20).all(|_| !accepted(TOKEN)), "the old token is refused");
}

/// A server, and a file that sends messages elsewhere.
fn reloadable(backend: &Backend) -> (Server, String) {
    backend.on("/new", |_| Reply::ok("new"));
    let next = Setup::of(backend).text("forward_url", &backend.url("/new/{message_type}/")).contents();
    (Setup::of(backend).start(), next)
}

fn assert_answers(server: &Server) {
    assert_eq!(http::get(server.addr(), "/hello/").text().trim(), "ok");
}
