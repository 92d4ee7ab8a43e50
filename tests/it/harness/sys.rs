//! What std has no safe word for, by the tools of every Debian: signals and descriptor limits.

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

/// The beginning of a command that runs the rest of it with this limit of descriptors.
pub fn with_descriptor_limit(max: u64) -> Vec<String> {
    vec!["prlimit".into(), format!("--nofile={max}:{max}")]
}

/// The beginning of a command that runs the rest of it without `unshare`: a seccomp filter answers EPERM.
pub fn without_unshare() -> Vec<String> {
    let (prctl, unshare) = if cfg!(target_arch = "aarch64") { (167, 97) } else { (157, 272) };
    let script = format!(
        r#"syscall({prctl}, 38, 1, 0, 0, 0) == 0 or die "no_new_privs: $!";
        my $filter = pack("SCCL" x 4, 0x20,0,0,0, 0x15,0,1,{unshare}, 0x06,0,0,0x00050001, 0x06,0,0,0x7fff0000);
        my $program = pack("S x6 P", 4, $filter);
        syscall({prctl}, 22, 2, $program, 0, 0) == 0 or die "seccomp: $!";
        exec {{ $ARGV[0] }} @ARGV or die "exec: $!";"#
    );
    vec!["perl".into(), "-e".into(), script]
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
