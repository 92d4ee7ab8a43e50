//! The log: whatever becomes of stderr, the server goes on; and what stands in the log.

use crate::harness::call::{call, signed_target};
use crate::harness::{Backend, Client, Command, Reply, Server, Setup, eventually, http, metrics};
use std::fs::File;
use std::io::{Read, Write};

/// Its answers to messages each cause a line in the log.
fn noisy_backend() -> Backend {
    let backend = Backend::start();
    backend.on_message(|_| Reply::ok("x").header("RAINBOWREQUESTINVALID", "60001"));
    backend
}

/// Makes it log, and sees that both workers serve on.
fn log_and_serve(server: &Server, messages: u16) {
    let mut clients: Vec<_> = (0..4).map(|n| Client::open(server.addr(), &format!("phone{n}"))).collect();
    for id in 1..=messages {
        for client in &mut clients {
            client.send(1, 7, id, "x");
        }
        for client in &mut clients {
            client.expect(Command::Ack, id);
        }
    }
    server.process.signal("HUP");
    clients.iter_mut().for_each(|client| client.assert_open());
}

fn lost(server: &Server) -> f64 {
    metrics::read(server.addr())["rainbow_log_lines_lost_total"]
}

#[test]
fn a_full_disk_below_the_log_costs_lines_only() {
    let backend = noisy_backend();
    let full = File::options().write(true).open("/dev/full").expect("every Linux has it");
    let mut server = Setup::of(&backend).start_with_stderr(full);
    log_and_serve(&server, 20);
    eventually("lost lines are counted", || (lost(&server) > 0.0).then_some(()));
    server.assert_alive();
}

#[test]
fn a_reader_of_the_log_that_has_gone_costs_lines_only() {
    let backend = noisy_backend();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut server = Setup::of(&backend).start_with_stderr(writer);
    drop(reader);
    log_and_serve(&server, 20);
    eventually("lost lines are counted", || (lost(&server) > 0.0).then_some(()));
    server.assert_alive();
}

#[test]
fn a_log_that_nobody_reads_holds_up_nobody_and_ends_in_time() {
    let backend = noisy_backend();
    let (mut reader, mut writer) = std::io::pipe().expect("a pipe");
    writer.write_all(&[b'.'; PIPE_BYTES]).expect("so much room has a pipe");
    let mut server = Setup::of(&backend).start_with_stderr(writer);
    log_and_serve(&server, 100);
    server.terminate();
    server.exited_within(std::time::Duration::from_secs(10));
    let mut text = Vec::new();
    reader.read_to_end(&mut text).expect("the writer has gone");
    assert_eq!(text.len(), PIPE_BYTES, "the pipe was full");
}

#[test]
fn lines_that_a_backend_causes_have_a_limit_per_second_that_is_said() {
    let backend = noisy_backend();
    let server = Setup::of(&backend).start();
    log_and_serve(&server, 200);
    let suppressed = || metrics::read(server.addr())["rainbow_log_lines_suppressed_total"];
    eventually("what was suppressed is said", || server.log().contains("log lines were suppressed").then_some(()));
    assert!(suppressed() > 0.0 && suppressed() < 800.0);
}

#[test]
fn a_log_in_json_is_an_object_per_line() {
    let backend = noisy_backend();
    let server = Setup::of(&backend).text("log_format", "json").start();
    let mut client = Client::open(server.addr(), "phone");
    client.send(1, 7, 1, "x");
    client.expect(Command::Ack, 1);
    let line = eventually("the line", || server.log().lines().find(|line| line.contains("60001")).map(String::from));
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((&line["level"], &line["code"]), (&"ERROR".into(), &60001.into()));
    assert!(server.log().lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
}

#[test]
fn the_audit_says_who_changed_what_and_no_signature() {
    let server = Setup::new().text("log", "info,rainbow::audit=debug").start();
    call(server.addr(), "/sub/", &[("identity", "nobody"), ("channel", "news")], "");
    call(server.addr(), "/kick/", &[], r#"{"channel":"news","reason":"spam"}"#);
    call(server.addr(), "/updateconfig/", &[], "");
    for (what, parts) in [("Subscribe", ["", "2014"]), ("Kick", ["spam", "news"]), ("UpdateConfig", ["", ""])] {
        let is_it = |line: &&str| line.contains("rainbow::audit") && line.contains(what);
        let line = eventually(what, || server.log().lines().find(is_it).map(String::from));
        assert!(parts.iter().all(|part| line.contains(part)) && !line.contains("signature"), "{line}");
    }
}

#[test]
fn the_audit_names_the_trace_of_a_call() {
    let server = Setup::new().text("admin_token", "let-me-in").text("log_format", "json").start();
    let trace_parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [("Authorization", "Bearer let-me-in"), ("traceparent", trace_parent)];
    let kicked = http::request(server.addr(), "POST", "/kick/", &headers, br#"{"channel": "news"}"#);
    assert_eq!(kicked.outcome(), 0, "{}", kicked.text());
    let is_it = |line: &&str| line.contains("rainbow::audit") && line.contains("Kick");
    let line = eventually("the kick", || server.log().lines().find(is_it).map(String::from));
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736", "{line}");
}

#[test]
fn a_call_has_an_id_in_the_log_and_in_its_answer() {
    let setup = Setup::new().text("log", "info,rainbow=debug").set("trusted_proxies", r#"["127.0.0.1"]"#);
    let server = setup.start();
    let kick = |target: &str, id: &str| {
        let headers = [("X-Request-Id", id), ("X-Forwarded-For", "203.0.113.9")];
        let headers = if id.is_empty() { &headers[1..] } else { &headers[..] };
        let response = http::request(server.addr(), "POST", target, headers, br#"{"channel":"news"}"#);
        response.header("x-request-id").expect("every answer names its call").to_owned()
    };
    let signed = || signed_target("/kick/", &[]);
    assert_eq!(kick(&signed(), "order-66"), "order-66");
    let line = |what: &str, id: &str| {
        let is_it = |line: &&str| line.contains(what) && line.contains(id) && line.contains("203.0.113.9");
        eventually(what, || server.log().lines().find(is_it).map(String::from))
    };
    line("Kick", "order-66");
    assert_eq!(kick("/kick/", "order-67"), "order-67");
    line("a call is refused", "order-67");
    for odd in ["", "two words", &*"x".repeat(65)] {
        let drawn = kick(&signed(), odd);
        assert!(drawn.len() == 16 && drawn.bytes().all(|byte| byte.is_ascii_hexdigit()), "{drawn}");
        line("Kick", &drawn);
    }
}

/// What a pipe of Linux holds.
const PIPE_BYTES: usize = 65_536;
