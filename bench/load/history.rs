//! `bench/history.jsonl`: a line per recorded run, with the commit and the machine, for `bench/report` to draw.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::row::Row;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/bench/history.jsonl");

/// Appends the run.
pub fn record(rows: &[Row]) -> io::Result<()> {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let line = json!({
        "commit": git(&["rev-parse", "--short=12", "HEAD"]),
        "changed": !git(&["status", "--porcelain", "--untracked-files=no"]).is_empty(),
        "at": at,
        "machine": machine(),
        "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
    });
    writeln!(OpenOptions::new().create(true).append(true).open(FILE)?, "{line}")
}

/// What the figures depend on beside the code.
pub fn machine() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or("");
        line.split(':').nth(1).unwrap_or("").trim().to_string()
    };
    let memory_kb: u64 = after(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0);
    json!({
        "cpu": after(&read("/proc/cpuinfo"), "model name"),
        "cores": crate::sys::allowed_cores_of_machine().len(),
        "memory_gb": (memory_kb as f64 / 1e6).round(),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
    })
}

fn git(arguments: &[&str]) -> String {
    let output = Command::new("git").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    output.map_or(String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().into())
}
