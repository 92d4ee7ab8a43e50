//! The operator's subcommands: each makes its call, prints the answer, and its exit code tells what became of it.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::call::webhook_secret;
use crate::harness::ports::free_port;
use crate::harness::process::Outcome;
use crate::harness::{Backend, Client, Command as Packet, Reply, Server, Setup, TIMEOUT, TOKEN, eventually, http};

const DONE: i32 = 0;
const REFUSED: i32 = 1;
const USAGE: i32 = 2;
const UNREACHABLE: i32 = 3;
const UNANSWERED: i32 = 4;

/// Runs a subcommand against this server, with the token of the configuration.
fn run(server: &Server, args: &[&str]) -> Outcome {
    run_with(Setup::new(), server, args)
}

fn run_with(setup: Setup, server: &Server, args: &[&str]) -> Outcome {
    let url = format!("http://{}", server.addr());
    setup.run(&[&args[..1], &["--server", &url], &args[1..]].concat())
}

#[track_caller]
fn assert_code(outcome: &Outcome, code: i32) {
    assert_eq!(outcome.status.code(), Some(code), "{}", outcome.text);
    assert!(!outcome.text.contains("panicked"), "{}", outcome.text);
}

/// The answer that it printed: one line of JSON, since stdout is no terminal.
#[track_caller]
fn json(outcome: &Outcome) -> Value {
    let found = outcome.text.lines().find(|text| text.starts_with('{'));
    serde_json::from_str(found.unwrap_or_else(|| panic!("no JSON in {}", outcome.text))).expect("an answer")
}

/// Everyone who comes is in `news`.
fn with_channel() -> (Backend, Server) {
    let backend = Backend::start();
    backend.on_connect(|_| Reply::welcome().header("RAINBOWCLIENTCHANNEL", "news"));
    let server = Setup::of(&backend).start();
    (backend, server)
}

/// A store, and everyone who comes has the session `ann`.
fn with_session() -> (Backend, Server) {
    let backend = Backend::start();
    backend.on_connect(|_| Reply::welcome().header("RAINBOWCLIENTSESSION", "ann"));
    let contents = format!("{}[store]\nkind = \"sqlite\"\n", Setup::of(&backend).contents());
    let server = Setup::new().file("rainbow.toml", &contents).start();
    (backend, server)
}

#[test]
fn send_says_how_many_have_acknowledged() {
    let (_backend, server) = with_channel();
    let mut client = Client::open(server.addr(), "phone");
    let sender = std::thread::scope(|scope| {
        let sent = scope.spawn(|| run(&server, &["send", "news", "hello", "-q", "1", "-t", "7"]));
        let packet = client.expect_send();
        assert_eq!((&packet.body[..], packet.kind), (&b"hello"[..], 7));
        client.answer(Packet::Ack, packet.id, "thanks");
        sent.join().expect("it ran")
    });
    assert_code(&sender, DONE);
    let answer = json(&sender);
    assert_eq!((&answer["connections"], &answer["targets"], &answer["data"]), (&1.into(), &1.into(), &"thanks".into()));
}

#[test]
fn a_message_comes_from_stdin_byte_for_byte() {
    let (_backend, server) = with_channel();
    let mut client = Client::open(server.addr(), "phone");
    let body = [0, 255, b'\n', 7, b'\n'];
    let mut child = Command::new(env!("CARGO_BIN_EXE_rainbow-server"))
        .args(["send", "--server", &format!("http://{}", server.addr()), "news", "--qos", "0"])
        .env("RAINBOW_SECURITY_TOKEN", TOKEN)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary was built");
    child.stdin.take().expect("piped").write_all(&body).expect("it reads");
    let output = child.wait_with_output().expect("a child of ours");
    assert_eq!(output.status.code(), Some(DONE));
    assert_eq!(output.stdout, b"{\"status\":0,\"connections\":1,\"targets\":1,\"data\":\"\"}\n");
    assert_eq!(client.expect_send().body, body);
}

#[test]
fn broadcast_reaches_who_is_in_two_channels_once() {
    let backend = Backend::start();
    backend.on_connect(|_| Reply::welcome().header("RAINBOWCLIENTCHANNEL", "news;;weather"));
    let server = Setup::of(&backend).start();
    let mut client = Client::open(server.addr(), "phone");
    let sent = run(&server, &["broadcast", "-c", "news", "-c", "weather", "storm", "-q", "0"]);
    assert_code(&sent, DONE);
    assert_eq!(client.expect_send().body, b"storm");
    client.assert_open();
}

#[test]
fn what_is_stored_for_some_only_is_no_success() {
    let (_backend, server) = with_session();
    Client::open(server.addr(), "phone").leave();
    let stored = run(&server, &["send", "--session", "ann", "letter", "--wait-stored", "--ttl", "60"]);
    assert_code(&stored, DONE);
    assert_eq!(json(&stored)["stored"], 1);
    let nobody = run(&server, &["send", "--session", "bob", "letter"]);
    assert_code(&nobody, REFUSED);
    assert!(nobody.text.contains("no such session"), "{}", nobody.text);
    let once = ["send", "--session", "ann", "letter", "--message-id", "m1"];
    let (first, repeat) = (run(&server, &once), run(&server, &once));
    assert_eq!(json(&first), json(&repeat));
    assert_eq!(json(&run(&server, &["session", "ann"]))["waiting"], 2);
}

#[test]
fn a_session_is_shown_joins_leaves_and_is_dropped() {
    let (_backend, server) = with_session();
    Client::open(server.addr(), "phone").leave();
    assert_code(&run(&server, &["sub", "--session", "ann", "a b&c"]), DONE);
    let shown = json(&run(&server, &["session", "ann"]));
    assert_eq!(shown["channels"], serde_json::json!(["a b&c"]));
    assert_code(&run(&server, &["unsub", "--session", "ann", "a b&c"]), DONE);
    let text = run(&server, &["session", "ann", "--text"]);
    assert_code(&text, DONE);
    assert!(text.text.contains("waiting     0 messages, 0 bytes"), "{}", text.text);
    assert_code(&run(&server, &["drop", "ann"]), DONE);
    assert_code(&run(&server, &["session", "ann"]), REFUSED);
    assert_code(&run(&server, &["drop", "ann"]), REFUSED);
}

#[test]
fn sessions_are_listed_in_pages() {
    let backend = Backend::start();
    backend.on_connect(|request| {
        let name = request.header("X-DEVICEID").expect("named").to_owned();
        Reply::welcome().header("RAINBOWCLIENTSESSION", &name).header("RAINBOWCLIENTUSER", &format!("user of {name}"))
    });
    let contents = format!("{}[store]\nkind = \"sqlite\"\n", Setup::of(&backend).contents());
    let server = Setup::new().file("rainbow.toml", &contents).start();
    let _bob = Client::open(server.addr(), "bob");
    ["ann", "cid"].into_iter().for_each(|name| Client::open(server.addr(), name).leave());
    assert_code(&run(&server, &["send", "--session", "cid", "letter", "--wait-stored"]), DONE);
    let names = |args: &[&str]| -> Vec<String> {
        let listed = run(&server, &[&["sessions"], args].concat());
        assert_code(&listed, DONE);
        let listed = json(&listed)["sessions"].as_array().expect("a list").clone();
        listed.iter().map(|one| one["session"].as_str().expect("a name").to_owned()).collect()
    };
    eventually("the two have left", || (names(&["--state", "away"]) == ["ann", "cid"]).then_some(()));
    assert_eq!(names(&[]), ["ann", "bob", "cid"]);
    assert_eq!(names(&["--state", "online"]), ["bob"]);
    assert_eq!(names(&["--state", "waiting"]), ["cid"]);
    assert_eq!(names(&["--order", "oldest"]), ["cid", "ann", "bob"]);
    assert_eq!(names(&["--offset", "1", "--limit", "1"]), ["bob"]);
    assert_eq!(names(&["--find", "i"]), ["cid"]);
    let text = run(&server, &["sessions", "--state", "waiting", "--text"]).text;
    assert!(text.contains("cid      user of cid  no      1        13") && text.contains("1 session, 1 to 1"), "{text}");
    assert_code(&run(&server, &["sessions", "--offset", "5000"]), REFUSED);
    assert_code(&run(&server, &["sessions", "--state", "gone"]), USAGE);
}

#[test]
fn top_prints_one_frame_where_stdout_is_no_terminal() {
    let (_backend, server) = with_channel();
    let _client = Client::open(server.addr(), "phone");
    let once = run(&server, &["top", "--once"]);
    assert_code(&once, DONE);
    let frame = &once.text;
    assert!(!frame.contains('\u{1b}') && frame.lines().all(|row| row.chars().count() <= 80), "{frame}");
    for expected in ["connections          1", "/s   cpu", "BACKEND", "WORKER", "LARGEST CHANNELS", "news"] {
        assert!(frame.contains(expected), "{expected}: {frame}");
    }
    let stranger = run_with(Setup::new().no_file(), &server, &["top"]);
    assert_code(&stranger, REFUSED);
    assert!(stranger.text.contains("RAINBOW_ADMIN_TOKEN"), "{}", stranger.text);
}

/// `script` gives it a terminal, and types Ctrl-C.
#[test]
fn top_gives_the_terminal_back_at_ctrl_c() {
    let (_backend, server) = with_channel();
    // `exec`: a shell that stays ends by the SIGINT, too, and its code is what `script` gives.
    let command = format!("exec {} top --server http://{}", env!("CARGO_BIN_EXE_rainbow-server"), server.addr());
    let mut child = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .env("RAINBOW_SECURITY_TOKEN", TOKEN)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script(1)");
    let (mut stdin, mut stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    let (mut shown, mut piece) = (Vec::new(), [0; 4096]);
    let has = |shown: &[u8], what: &str| shown.windows(what.len()).any(|part| part == what.as_bytes());
    while !has(&shown, "in         0/s") {
        let len = stdout.read(&mut piece).expect("it prints");
        assert!(len > 0, "it has ended: {}", String::from_utf8_lossy(&shown));
        shown.extend_from_slice(&piece[..len]);
    }
    assert!(has(&shown, "\x1b[?1049h\x1b[?25l") && !has(&shown, "\x1b[?1049l"));
    stdin.write_all(b"\x03").expect("it reads");
    stdout.read_to_end(&mut shown).expect("it ends");
    assert!(has(&shown, "\x1b[?25h\x1b[?1049l"), "{}", String::from_utf8_lossy(&shown));
    assert_eq!(child.wait().expect("a child of ours").code(), Some(DONE));
}

#[test]
fn tail_prints_what_happens() {
    let (_backend, server) = with_channel();
    let mut client = Client::open(server.addr(), "phone");
    std::thread::scope(|scope| {
        let tail = scope.spawn(|| run(&server, &["tail", "--channel", "news", "--seconds", "3", "--text"]));
        let json_tail = scope.spawn(|| run(&server, &["tail", "--channel", "news", "--seconds", "3"]));
        for id in 1.. {
            client.send(1, 7, id, "hello");
            client.expect(Packet::Ack, id);
            if tail.is_finished() && json_tail.is_finished() {
                break;
            }
        }
        let (text, entries) = (tail.join().expect("it ran"), json_tail.join().expect("it ran"));
        assert_code(&text, DONE);
        assert!(text.text.contains("from_client") && text.text.contains("type 7  qos 1"), "{}", text.text);
        assert_code(&entries, DONE);
        let last: Value = serde_json::from_str(entries.text.lines().last().expect("entries")).expect("JSON");
        assert_eq!(last["what"], "end", "{last}");
    });
    assert_code(&run(&server, &["tail", "--session", "a", "--channel", "b"]), USAGE);
    assert_code(&run_with(Setup::new().no_file(), &server, &["tail", "--session", "a"]), REFUSED);
}

#[test]
fn drain_ends_the_server_as_sigterm_does() {
    let (_backend, mut server) = with_channel();
    let mut client = Client::open(server.addr(), "phone");
    let stranger = http::request(server.addr(), "POST", "/drain/", &[], b"");
    assert_eq!(stranger.status, 401, "{}", stranger.text());
    let followed = http::request(server.addr(), "GET", "/drain/", &[], b"");
    assert_eq!(followed.status, 405, "{}", followed.text());
    let drained = run(&server, &["drain", "--text"]);
    assert_code(&drained, DONE);
    assert!(drained.text.contains("draining"), "{}", drained.text);
    assert_eq!(client.expect_close().0, 1001);
    drop(client);
    assert_eq!(server.exited_within(TIMEOUT).code(), Some(0));
    assert!(server.log().lines().any(|entry| entry.contains("rainbow::audit") && entry.contains("Drain")));
}

#[test]
fn a_second_drain_ends_nothing_at_once() {
    let backend = Backend::start();
    let mut server = Setup::of(&backend).set("drain_delay", "\"3s\"").start();
    for answer in ["draining: clients are told to go in 3 s", "draining already", "draining already"] {
        let drained = run(&server, &["drain", "--text"]);
        assert_code(&drained, DONE);
        assert!(drained.text.contains(answer), "{}", drained.text);
        assert_code(&run(&server, &["health", "--live"]), DONE);
        eventually("it is not ready", || (http::get(server.addr(), "/readyz").status == 503).then_some(()));
    }
    assert_eq!(server.exited_within(TIMEOUT).code(), Some(0));
}

#[test]
fn sub_members_unsub_and_kick_know_a_client_by_its_identity() {
    let (backend, server) = with_channel();
    let mut client = Client::open(server.addr(), "phone");
    let _other = Client::open(server.addr(), "tablet");
    let identity = backend.identity_of("phone");
    assert_code(&run(&server, &["sub", &identity, "news", "--occupy"]), DONE);
    let members = json(&run(&server, &["members", "news"]));
    assert_eq!(members["identities"], serde_json::json!([identity]));
    assert_code(&run(&server, &["unsub", &identity, "news"]), DONE);
    let members = run(&server, &["members", "news", "--text"]);
    assert!(members.text.contains("0 connections in news"), "{}", members.text);
    assert_code(&run(&server, &["kick", &identity, "--code", "4501", "--reason", "enough"]), DONE);
    assert_eq!(client.expect_close(), (4501, "enough".into()));
    assert_code(&run(&server, &["sub", "nobody", "news"]), REFUSED);
}

#[test]
fn kick_closes_a_channel() {
    let (_backend, server) = with_channel();
    let mut clients = ["phone", "tablet"].map(|device| Client::open(server.addr(), device));
    let kicked = run(&server, &["kick", "--channel", "news", "--text"]);
    assert_code(&kicked, DONE);
    assert!(kicked.text.contains("closed 2 connections"), "{}", kicked.text);
    assert_eq!(clients.each_mut().map(|client| client.expect_close().0), [4500; 2]);
}

#[test]
fn a_user_is_sent_to_listed_and_kicked() {
    let backend = Backend::start();
    backend.on_connect(|_| Reply::welcome().header("RAINBOWCLIENTUSER", "ann"));
    let server = Setup::of(&backend).start();
    let mut client = Client::open(server.addr(), "phone");
    let sent = run(&server, &["send", "--user", "ann", "hello", "--qos", "0", "--text"]);
    assert_code(&sent, DONE);
    assert_eq!(client.expect_send().text(), "hello");
    let listed = run(&server, &["members", "--user", "ann", "--text"]);
    let identity = backend.identity_of("phone");
    assert!(listed.text.contains(&format!("1 connection of ann, 1 to 1:\n{identity}")), "{}", listed.text);
    assert_code(&run(&server, &["kick", "--user", "ann"]), DONE);
    assert_eq!(client.expect_close().0, 4500);
    assert_code(&run(&server, &["kick", "--user", "ann", "--channel"]), USAGE);
}

#[test]
fn channels_are_listed_largest_first() {
    let (backend, server) = with_channel();
    let _clients = ["phone", "tablet"].map(|device| Client::open(server.addr(), device));
    assert_code(&run(&server, &["sub", &backend.identity_of("phone"), "weather"]), DONE);
    let listed = json(&run(&server, &["channels"]));
    let names: Vec<_> = listed["channels"].as_array().expect("a list").iter().map(|one| &one["channel"]).collect();
    assert_eq!(names, ["news", "weather"]);
    let text = run(&server, &["channels", "--limit", "1", "--text"]);
    assert!(text.text.contains("news     2") && !text.text.contains("weather"), "{}", text.text);
}

#[test]
fn info_shows_the_server_to_who_has_a_token() {
    let server = Setup::new().text("admin_token", "let-me-see").start();
    let seen = run_with(Setup::new().no_file().env("RAINBOW_ADMIN_TOKEN", "let-me-see"), &server, &["info"]);
    assert_code(&seen, DONE);
    assert_eq!(json(&seen)["version"], env!("CARGO_PKG_VERSION"));
    let text = run(&server, &["info", "--text"]);
    assert!(text.text.contains(&format!("listens on   {}", server.addr())), "{}", text.text);
    for wrong in [Setup::new().no_file(), Setup::new().no_file().env("RAINBOW_ADMIN_TOKEN", "wrong")] {
        let refused = run_with(wrong, &server, &["info"]);
        assert_code(&refused, REFUSED);
        assert!(refused.text.contains("RAINBOW_ADMIN_TOKEN"), "what to do: {}", refused.text);
    }
    assert!(!text.text.contains("let-me-see") && !seen.text.contains("let-me-see"));
}

#[test]
fn webhook_signatures_are_made_where_they_are_required() {
    let secret = webhook_secret(7);
    let setup = || {
        let setup = Setup::new().text("signature_require", "webhook");
        setup.set("webhook_secrets", &format!("[{secret:?}]"))
    };
    let server = setup().start();
    assert_code(&run_with(setup(), &server, &["send", "news", "x", "-q", "0"]), DONE);
    assert_code(&run_with(setup(), &server, &["channels"]), DONE);
    assert_code(&run(&server, &["send", "news", "x", "-q", "0"]), REFUSED);
    let sign = run_with(setup(), &server, &["sign", "/send/?channel=a"]);
    assert_code(&sign, USAGE);
}

#[test]
fn reload_says_what_changed() {
    let server = Setup::new().start();
    server.rewrite(&Setup::new().set("ping_interval", "\"47s\"").contents());
    let reloaded = run(&server, &["reload", "--text"]);
    assert_code(&reloaded, DONE);
    assert!(reloaded.text.contains("ping_interval"), "{}", reloaded.text);
    server.rewrite("ping_intervall = 1\n");
    let refused = run(&server, &["reload"]);
    assert_code(&refused, REFUSED);
    assert!(refused.text.contains("ping_intervall"), "{}", refused.text);
}

#[test]
fn health_is_an_exit_code() {
    let server = Setup::new().start();
    assert_code(&run(&server, &["health"]), DONE);
    assert_code(&run(&server, &["health", "--live"]), DONE);
    let gone = free_port();
    let nobody = Setup::new().set("http_port", &gone.number.to_string()).run(&["health"]);
    assert_code(&nobody, UNREACHABLE);
}

#[test]
fn the_configuration_says_where_the_server_is() {
    let port = free_port();
    let number = port.number.to_string();
    let setup = || Setup::new().set("http_port", &number).no_port();
    let _server = setup().start_on(port);
    assert_code(&setup().run(&["send", "news", "x", "-q", "0"]), DONE);
}

#[test]
fn a_signed_url_works_as_it_is_printed() {
    let server = Setup::new().start();
    let printed = run(&server, &["sign", "/send/?channel=news&qos=0"]);
    assert_code(&printed, DONE);
    let prefix = format!("http://{}", server.addr());
    let target = printed.text.trim().strip_prefix(&prefix).unwrap_or_else(|| panic!("{}", printed.text));
    let answer = http::request(server.addr(), "POST", target, &[], b"x");
    assert_eq!(answer.outcome(), 0, "{}", answer.text());
    assert_code(&run_with(Setup::new().no_file(), &server, &["sign", "/send/?channel=a"]), USAGE);
    assert_code(&run(&server, &["sign", "send"]), USAGE);
}

#[test]
fn a_server_that_does_not_answer_is_told_from_one_that_is_not_there() {
    let backend = Backend::start();
    backend.on("/send", |_| Reply::reset());
    let silent = Setup::new().run(&["send", "--server", &backend.url(""), "news", "x"]);
    assert_code(&silent, UNANSWERED);
    assert!(silent.text.contains("may have been carried out"), "{}", silent.text);
    backend.on("/send", |_| Reply::status(502, "<html>a proxy's page</html>"));
    let proxy = Setup::new().run(&["send", "--server", &backend.url(""), "news", "x"]);
    assert_code(&proxy, REFUSED);
    assert!(proxy.text.contains("HTTP 502"), "{}", proxy.text);
}

#[test]
fn wrong_usage_sends_nothing() {
    let wrong: [&[&str]; 6] = [
        &["send"],
        &["send", "news", "x", "--qos", "3"],
        &["broadcast", "x"],
        &["info", "--server", "https://example.com"],
        &["info", "-f", "/nowhere/rainbow.toml"],
        &["info", "--json", "--text"],
    ];
    for args in wrong {
        assert_code(&Setup::new().no_file().run(args), USAGE);
    }
}

#[test]
fn secrets_are_as_the_configuration_takes_them() {
    let secret = |args: &[&str]| {
        let printed = Setup::new().no_file().run(args);
        assert_code(&printed, DONE);
        printed.text.trim().to_owned()
    };
    let (one, other) = (secret(&["token"]), secret(&["token"]));
    assert_ne!(one, other);
    assert!(one.len() >= 43, "{one}");
    let check = |key: &str, value: String| Setup::new().set(key, &value).run(&["config", "check"]);
    assert_code(&check("security_token", format!("{one:?}")), DONE);
    let webhook = secret(&["token", "--webhook"]);
    assert_code(&check("webhook_secrets", format!("[{webhook:?}]")), DONE);
}

/// The subcommands that `--help` names.
fn subcommands() -> Vec<String> {
    let help = Setup::new().no_file().run(&["--help"]).text;
    let commands = help.lines().skip_while(|text| *text != "Commands:").skip(1).take_while(|text| !text.is_empty());
    let commands = commands.filter(|text| text.starts_with("  ") && !text.starts_with("   "));
    let names: Vec<_> = commands.map(|text| text.split_whitespace().next().expect("a name").to_owned()).collect();
    names.into_iter().filter(|name| name != "help").collect()
}

#[test]
fn every_call_has_an_example_and_help_lists_the_exit_codes() {
    let calls = subcommands();
    for name in [
        "send",
        "broadcast",
        "kick",
        "sub",
        "unsub",
        "channels",
        "members",
        "sessions",
        "session",
        "drop",
        "info",
        "top",
        "tail",
        "drain",
    ] {
        assert!(calls.iter().any(|call| call == name), "{name} is not in {calls:?}");
        let help = Setup::new().no_file().run(&[name, "--help"]);
        assert_code(&help, DONE);
        assert!(help.text.contains(&format!("rainbow-server {name} ")), "no example of {name}: {}", help.text);
    }
    assert!(Setup::new().no_file().run(&["--help"]).text.contains("  4  sent, and no answer came"));
}

#[test]
fn completions_and_the_manual_know_every_subcommand() {
    let names = subcommands();
    assert!(names.len() > 15, "{names:?}");
    for shell in ["bash", "zsh", "fish"] {
        let script = Setup::new().no_file().run(&["completions", shell]);
        assert_code(&script, DONE);
        names.iter().for_each(|name| assert!(script.text.contains(name.as_str()), "{shell} lacks {name}"));
    }
    let bash = Setup::new().no_file().run(&["completions", "bash"]).text;
    let mut shell = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().expect("bash");
    shell.stdin.take().expect("piped").write_all(bash.as_bytes()).expect("it reads");
    assert!(shell.wait().expect("a child of ours").success(), "bash refuses the script");
    let manual = Setup::new().no_file().run(&["man"]);
    assert_code(&manual, DONE);
    for name in names {
        assert!(manual.text.contains(&format!(".SH {}", name.to_uppercase())), "the manual lacks {name}");
    }
    assert!(manual.text.contains(".SH \"EXIT STATUS\""), "the manual lacks the exit codes");
}
