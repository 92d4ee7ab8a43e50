//! `rainbow-server audit` as its user runs it: clean against an honest server, and not blind.

use crate::deployment::Dir;
use crate::harness::ports::free_port;
use crate::harness::process::{Outcome, Process};
use crate::harness::{Setup, TOKEN};
use rainbow::audit::hooks;
use serde_json::Value;
use std::net::SocketAddr;
use std::process::Command;

/// Runs it against a server without a store, whose clients are found by their channels.
fn audit(what: &str, options: &[&str]) -> Outcome {
    let (dir, port) = (Dir::new(what), free_port());
    let backend = SocketAddr::from(([127, 0, 0, 1], port.number));
    let setup = hooks(backend).into_iter().fold(Setup::new(), |setup, (name, url)| setup.text(name, &url));
    let server = setup.start();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rainbow-server"));
    command.args(["audit", "--channels", "--sessions", "4", "--messages", "400", "--token", TOKEN]);
    command.args(["--url", &format!("http://{}", server.addr()), "--backend-port", &port.number.to_string()]);
    command.arg("--ledger").arg(dir.0.join("ledger")).args(options);
    Process::run(command, &[])
}

fn last_json(outcome: &Outcome) -> Value {
    let line = outcome.text.lines().rfind(|line| line.starts_with('{'));
    serde_json::from_str(line.unwrap_or_else(|| panic!("no JSON:\n{}", outcome.text))).expect("JSON")
}

#[test]
fn an_honest_server_is_found_clean() {
    let outcome = audit("clean", &["--stumbles", "2"]);
    assert!(outcome.status.success(), "{}", outcome.text);
    let found = last_json(&outcome);
    let total = &found["verdict"]["total"];
    assert_eq!((&found["violations"], &total["tried"], &total["delivered"]), (&0.into(), &400.into(), &400.into()));
    assert_eq!(total["acknowledged"], 400, "{found}");
}

#[test]
fn a_planted_fault_ends_with_an_exit_code_and_a_number() {
    let planted =
        [("lose", "/verdict/total/lost"), ("double", "/verdict/total/doubled"), ("double-close", "/closes/doubled")];
    for (plant, figure) in planted {
        let outcome = audit(plant, &["--plant", plant]);
        assert_eq!(outcome.status.code(), Some(1), "{}", outcome.text);
        let found = last_json(&outcome).pointer(figure).and_then(Value::as_u64);
        assert!(found > Some(0), "{plant}: {}", outcome.text);
    }
}
