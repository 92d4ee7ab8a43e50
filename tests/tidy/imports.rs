//! Who may import whom, and where runtime, sockets, clock, chance and `unsafe` may be named.

use crate::File;
use crate::source::{Rust, module_path};

/// `unsafe` stands where the design allows it, and each has its reason above or beside it.
pub fn check_unsafe(file: &File, rust: &Rust, findings: &mut Vec<String>) {
    let path = &file.path;
    let mut last = 0;
    for token in rust.tokens.iter().filter(|token| token.text == "unsafe") {
        let number = token.line;
        if std::mem::replace(&mut last, number) == number {
            continue;
        }
        if !UNSAFE_ALLOWED.iter().any(|allowed| path.starts_with(allowed)) {
            findings.push(format!("{path}:{number}: unsafe; only {} may", UNSAFE_ALLOWED.join(", ")));
        } else if !rust.has_safety_comment(number) {
            findings.push(format!("{path}:{number}: unsafe without `// SAFETY:`; say above it why it holds"));
        }
    }
}

/// Imports run one way: a module names only what `HOUSE` lists for it.
pub fn check_imports(file: &File, rust: &Rust, findings: &mut Vec<String>) {
    let (path, here) = (&file.path, module_path(&file.path));
    let Some(owner) = here.first() else { return };
    let Some((_, allowed)) = HOUSE.iter().find(|(module, _)| module == owner) else {
        findings.push(format!(
            "{path}:1: `{owner}` has no place in the house; give it one in tests/tidy/imports.rs and DESIGN.md"
        ));
        return;
    };
    for named in &rust.paths {
        let Some(target) = named.top_level(&here) else { continue };
        if target != owner && !allowed.contains(&target) {
            let number = named.line;
            findings.push(format!(
                "{path}:{number}: {owner} names `{target}`, which lies above or beside it; pass the value in, or move the code"
            ));
        }
    }
}

/// Runtime, sockets, clock and chance are named where the design puts them.
pub fn check_names(file: &File, rust: &Rust, findings: &mut Vec<String>) {
    let (path, here) = (&file.path, module_path(&file.path));
    let owner = here.first().map_or("lib", |owner| owner.as_str());
    if matches!(owner, "io" | "lib") {
        return;
    }
    let plain = PLAIN.contains(&owner);
    for named in &rust.paths {
        let (number, words) = (named.line, named.segments.iter().map(String::as_str).collect::<Vec<_>>());
        if IO_ONLY.iter().any(|name| words[0] == *name || words[0].starts_with(&format!("{name}_"))) {
            findings.push(format!("{path}:{number}: `{}` is named in io/ only; call io instead", words[0]));
        }
        if OUTSIDERS.contains(&owner) {
            continue;
        }
        let clock = words.windows(2).any(|pair| pair[0] == "time" && CLOCKS.contains(&pair[1]));
        if clock && plain
            || !named.in_test && words.windows(2).any(|pair| CLOCKS.contains(&pair[0]) && pair[1] == "now")
        {
            findings.push(format!("{path}:{number}: the clock is read in io/ only; take `now: Tick` as a parameter"));
        }
        if !plain {
            continue;
        }
        if let Some(name) = words.iter().find(|word| CHANCE.contains(*word)) {
            findings.push(format!("{path}:{number}: `{name}`; take a seeded `Rng` as a parameter"));
        }
        let std = words.iter().position(|word| *word == "net").filter(|at| *at == 0 || words[at - 1] == "std");
        if std.is_some_and(|at| words.get(at + 1).is_none_or(|word| !ADDRESSES.contains(word))) {
            findings.push(format!("{path}:{number}: `{}`; {owner} knows addresses but no sockets", words.join("::")));
        }
        let outside = words.len() > 1 && words[0] == "std" && OUTSIDE.contains(&words[1]);
        if !named.in_test && (outside || words[0] == "tracing" && owner != "policy") {
            findings
                .push(format!("{path}:{number}: `{}`; {owner} is plain data, its caller does that", words.join("::")));
        }
    }
    for token in rust.tokens.iter().filter(|token| plain && matches!(&*token.text, "async" | "await")) {
        findings.push(format!("{path}:{}: {}; {owner} never waits, its caller does", token.line, token.text));
    }
}

/// A hash without a key is for keys of our own making; names and addresses that strangers choose are hashed with a key.
pub fn check_hashes(file: &File, rust: &Rust, findings: &mut Vec<String>) {
    let path = &file.path;
    if HASHED_WITHOUT_KEY.contains(&path.as_str()) {
        return;
    }
    for named in rust.paths.iter().filter(|named| !named.in_test && named.segments[0] == "rustc_hash") {
        let number = named.line;
        findings.push(format!(
            "{path}:{number}: a hash without a key; use `HashKey` for names, or list the file in tests/tidy/imports.rs"
        ));
    }
}

/// Per module, what it may name beside itself. Imports run base ← wire ← shard ← {policy, store, cluster} ← io ← worker
/// ← server ← main; `config` and `metrics` are for policy and above, the shard has a config struct of its own.
const HOUSE: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("wire", &["base"]),
    ("shard", &["base", "wire", "metrics"]),
    ("config", &["base", "wire", "shard"]),
    ("metrics", &["base"]),
    ("policy", &["base", "wire", "shard", "config", "metrics"]),
    ("store", &["base", "wire", "shard", "config", "metrics"]),
    ("cluster", &["base", "wire", "shard", "config", "metrics"]),
    ("io", &["base", "wire", "shard", "config", "metrics", "policy", "store", "cluster"]),
    ("worker", &["base", "wire", "shard", "config", "metrics", "policy", "store", "cluster", "io"]),
    ("server", &["base", "wire", "shard", "config", "metrics", "policy", "store", "cluster", "io", "worker"]),
    ("demo", &["base", "wire", "config"]),
    ("audit", &["base", "wire", "config"]),
    ("command", &["base", "wire", "config"]),
    ("main", &["audit", "base", "command", "config", "demo", "io", "metrics", "server", "store"]),
];

/// Modules without runtime, sockets, clock, chance and waiting.
const PLAIN: &[&str] = &["base", "wire", "shard", "policy", "cluster"];

/// Users of Rainbow that live in its binary: they talk to it over sockets, with threads and a clock of their own.
const OUTSIDERS: &[&str] = &["demo", "audit", "command"];

const IO_ONLY: &[&str] = &["monoio", "libc", "crossbeam", "opentelemetry", "ureq"];

const CLOCKS: &[&str] = &["Instant", "SystemTime", "UNIX_EPOCH", "*"];

const CHANCE: &[&str] = &["rand", "getrandom", "fastrand", "RandomState"];

/// Their keys are slots, numbers and ids that we have made; the digest of a message is in no table.
const HASHED_WITHOUT_KEY: &[&str] = &[
    "src/io/cluster/calls.rs",
    "src/io/handover/channel.rs",
    "src/io/hooks/spans.rs",
    "src/io/worker/connecting.rs",
    "src/io/worker/sockets.rs",
    "src/shard/connection/known_ids.rs",
    "src/shard/connection/downlink.rs",
    "src/shard/connection/table.rs",
    "src/shard/fanout/once.rs",
    "src/shard/session/scope.rs",
    "src/shard/session/table.rs",
    "src/store/sqlite/index.rs",
    "src/store/sqlite/scan.rs",
];

const ADDRESSES: &[&str] =
    &["IpAddr", "Ipv4Addr", "Ipv6Addr", "SocketAddr", "SocketAddrV4", "SocketAddrV6", "AddrParseError"];

/// Parts of `std` that reach outside the process, or to another thread.
const OUTSIDE: &[&str] = &["fs", "thread", "process", "env", "os"];

const UNSAFE_ALLOWED: &[&str] = &["src/io/", "src/wire/ws/mask.rs", "bench/", "tests/it/harness/sys.rs"];

#[cfg(test)]
mod tests {
    use crate::planted::{caught, clean, findings};

    #[test]
    fn an_upward_import_is_caught() {
        caught("src/shard/conn.rs", "use crate::io::Socket;", "names `io`");
        caught("src/shard/conn.rs", "use crate::{base::id::ShardId, config::Config};", "names `config`");
        caught("src/shard/conn.rs", "fn f() -> crate::policy::Verdict { g() }", "names `policy`");
        caught("src/wire/ws/frame.rs", "use super::super::super::shard::Shard;", "names `shard`");
        caught("src/wire/ws/frame.rs", "mod inner { use super::super::super::super::shard::Shard; }", "names `shard`");
        caught("src/policy/api.rs", "pub use crate::{store::{self, Store as Kept}};", "names `store`");
        caught("src/worker.rs", "use super::server::run;", "names `server`");
        caught("src/demo/page.rs", "use crate::server::run;", "names `server`");
        caught("src/audit/client.rs", "use crate::shard::Shard;", "names `shard`");
        caught("src/main.rs", "use rainbow::shard::Shard;", "names `shard`");
        assert!(findings("src/attic/mod.rs", "//! Planted.\n")[0].contains("no place in the house"));
    }

    #[test]
    fn a_downward_import_is_allowed() {
        clean("src/shard/conn.rs", "use crate::{base::time::Tick, wire::ws::frame::{self, Frame}};");
        clean("src/wire/ws/frame.rs", "use super::mask::unmask;\nuse super::super::packet::Packet;");
        clean("src/wire/ws/frame.rs", "#[cfg(test)]\nmod tests {\n    use super::super::mask;\n}");
        clean("src/io/mod.rs", "pub(crate) use crate::policy::api::Call;");
        clean("src/shard/conn.rs", "// crate::io owns the socket\nconst WHERE: &str = \"crate::io\";");
    }

    #[test]
    fn runtime_clock_sockets_and_chance_are_caught() {
        caught("src/wire/packet.rs", "use monoio::net::TcpStream;", "io/ only");
        caught("src/worker.rs", "fn f() { libc::getpid(); }", "io/ only");
        caught("src/server.rs", "use crossbeam_channel::Sender;", "io/ only");
        caught("src/shard/wheel.rs", "use std::time::{Duration, Instant};", "now: Tick");
        caught("src/policy/backend.rs", "fn f() { std::time::SystemTime::now(); }", "now: Tick");
        caught("src/worker.rs", "fn f() { Instant::now(); }", "now: Tick");
        caught("src/shard/conn.rs", "use std::net::{IpAddr, TcpStream};", "no sockets");
        caught("src/shard/conn.rs", "use std::net;", "no sockets");
        caught("src/policy/backend.rs", "async fn f() {}", "never waits");
        caught("src/policy/backend.rs", "use rand::random;", "Rng");
        caught("src/cluster/key.rs", "use std::net::UdpSocket;", "no sockets");
        caught("src/shard/channels.rs", "use std::collections::hash_map::RandomState;", "Rng");
        caught("src/wire/packet.rs", "use tracing::debug;", "plain data");
        caught("src/shard/conn.rs", "use std::{fmt, thread};", "plain data");
    }

    #[test]
    fn a_hash_without_a_key_is_caught() {
        caught("src/shard/channel/members.rs", "use rustc_hash::{FxHashMap, FxHasher};", "without a key");
        caught("src/shard/session/commands.rs", "type A = rustc_hash::FxHashSet<u32>;", "without a key");
        clean("src/shard/connection/table.rs", "use rustc_hash::FxHashMap;");
        clean("src/base/keyed_hash.rs", "#[cfg(test)]\nmod tests {\n    use rustc_hash::FxHasher;\n}");
    }

    #[test]
    fn their_proper_places_are_left_alone() {
        clean("src/io/socket.rs", "use libc::c_int;\nuse std::time::Instant;\nasync fn f() {}");
        clean("src/shard/conn.rs", "use std::net::{IpAddr, SocketAddr};\nuse std::time::Duration;");
        clean("src/demo/mod.rs", "use std::net::TcpListener;\nuse std::time::Instant;");
        clean("src/audit/client.rs", "fn f() { std::time::Instant::now(); }");
        clean("src/wire/packet.rs", "#[cfg(test)]\nmod tests {\n    use std::fs;\n}");
    }

    #[test]
    fn unsafe_out_of_place_or_without_a_reason_is_caught() {
        caught("src/shard/conn.rs", "fn f() { unsafe { g() } }", "only src/io/");
        caught("src/io/socket.rs", "fn f() { unsafe { g() } }", "SAFETY");
        caught("src/wire/ws/mask.rs", "unsafe impl Send for A {}", "SAFETY");
        clean("src/io/socket.rs", "fn f() {\n    // SAFETY: it holds.\n    let n =\n        unsafe { g() };\n}");
        clean("src/io/socket.rs", "/// # Safety\n/// The caller holds it.\n#[inline]\npub unsafe fn f() {}");
        clean(
            "src/io/socket.rs",
            "fn f() {\n    // SAFETY: it holds.\n    Some(n) => {\n        unsafe { g() }\n    }\n}",
        );
        let reason_of_another = "//! Planted.\n// SAFETY: of a.\nlet a = unsafe { g() };\nlet b = unsafe { g() };\n";
        assert!(findings("src/io/socket.rs", reason_of_another)[0].starts_with("src/io/socket.rs:4: "));
    }
}
