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

/// The beginning of a command that runs the rest of it without these system calls: a seccomp filter answers EPERM.
pub fn without(calls: &[SystemCall]) -> Vec<String> {
    let prctl = SystemCall::PRCTL.0;
    let count = calls.len();
    // Load the call's number; one jump to the end for each that is forbidden; allow; forbid.
    let jump = |(n, call): (usize, &SystemCall)| format!("0x15,{},0,{}", count - n, call.0);
    let jumps: Vec<String> = calls.iter().enumerate().map(jump).collect();
    let (jumps, len) = (jumps.join(", "), count + 3);
    let script = format!(
        r#"syscall({prctl}, 38, 1, 0, 0, 0) == 0 or die "no_new_privs: $!";
        my $filter = pack("SCCL" x {len}, 0x20,0,0,0, {jumps}, 0x06,0,0,0x7fff0000, 0x06,0,0,0x00050001);
        my $program = pack("S x6 P", {len}, $filter);
        syscall({prctl}, 22, 2, $program, 0, 0) == 0 or die "seccomp: $!";
        exec {{ $ARGV[0] }} @ARGV or die "exec: $!";"#
    );
    vec!["perl".into(), "-e".into(), script]
}

/// By its number on this machine.
#[derive(Clone, Copy)]
pub struct SystemCall(u32);

impl SystemCall {
    const PRCTL: SystemCall = SystemCall(if cfg!(target_arch = "aarch64") { 167 } else { 157 });
    pub const UNSHARE: SystemCall = SystemCall(if cfg!(target_arch = "aarch64") { 97 } else { 272 });
    /// io_uring_setup, io_uring_enter, io_uring_register.
    pub const IO_URING: [SystemCall; 3] = [SystemCall(425), SystemCall(426), SystemCall(427)];
}

/// The beginning of a command that runs the rest of it as nobody, where the tests run as root.
pub fn as_nobody() -> Vec<String> {
    let own = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let is_root = own.lines().any(|entry| entry.starts_with("Uid:\t0\t"));
    let setpriv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    if is_root { setpriv.map(String::from).to_vec() } else { Vec::new() }
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
