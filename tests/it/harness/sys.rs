//! What std has no safe word for, by the tools of every Debian: signals and descriptor limits.

use std::ffi::OsStr;
use std::process::Command;

/// Sends a signal (`TERM`, `HUP`) to a child of ours.
pub fn kill(pid: u32, signal: &str) {
    let script = format!("kill -{signal} {pid}");
    let status = Command::new("sh").args(["-c", &script]).status().expect("there is a shell");
    assert!(status.success(), "{script}: {status}");
}

/// Raises the soft limit of descriptors to the hard one and returns it.
pub fn raise_descriptor_limit() -> u64 {
    let (soft, hard) = descriptor_limits();
    if soft < hard {
        let (pid, limit) = (std::process::id().to_string(), format!("--nofile={hard}:{hard}"));
        let status = Command::new("prlimit").args(["--pid", &pid, &limit]).status().expect("util-linux is essential");
        assert!(status.success(), "prlimit {limit}: {status}");
    }
    descriptor_limits().0
}

/// A command that becomes `program` with this limit of descriptors.
pub fn with_descriptor_limit(max: u64, program: &OsStr) -> Command {
    let mut command = Command::new("prlimit");
    command.arg(format!("--nofile={max}:{max}")).arg(program);
    command
}

/// Changes the soft limit of descriptors of a child of ours while it runs.
pub fn limit_descriptors(pid: u32, max: u64) {
    let limit = format!("--nofile={max}:");
    let status = Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status().expect("util-linux");
    assert!(status.success(), "prlimit {limit}: {status}");
}

fn descriptor_limits() -> (u64, u64) {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("Linux");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit of files");
    let mut numbers = line.split_whitespace().skip(3).map(|word| word.parse().unwrap_or(u64::MAX));
    (numbers.next().expect("soft"), numbers.next().expect("hard"))
}
