//! A bound on the memory of the server alone: a cgroup below the harness's own, removed when dropped.
//!
//! In both versions of cgroups the kernel counts the server's pages and its own objects (sockets, requests of the ring). Bytes
//! in socket buffers are part of that in version 2, and have a counter and a limit of their own in version 1: `used` adds them.
//! Where no cgroup can be made, nothing is bound: `used` then reads /proc, and `name` says so.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::sys;

/// What bounds the memory of the process that joined it, or at least counts it.
pub struct Cgroup {
    kind: Kind,
    limit: u64,
}

#[derive(Debug)]
enum Kind {
    /// The memory controller of the unified hierarchy.
    Unified(PathBuf),
    /// The memory hierarchy of version 1.
    Memory(PathBuf),
    /// None could be made, and why. What the machine's kernel held before the server started.
    Absent { why: String, kernel_before: u64 },
}

/// Bytes that a server takes.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryUse {
    pub total: u64,
    /// Of it, the kernel's: its objects and socket buffers.
    pub kernel: u64,
}

impl Cgroup {
    /// Makes one of `limit` bytes, without swap.
    pub fn new(limit: u64) -> Cgroup {
        let kind = unified(limit).or_else(|unified| {
            memory(limit).map_err(|memory| Kind::Absent {
                why: format!("version 2: {unified}; version 1: {memory}"),
                kernel_before: kernel_of_machine(),
            })
        });
        Cgroup { kind: kind.unwrap_or_else(|absent| absent), limit }
    }

    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// What a figure was measured in, for the row.
    pub fn name(&self) -> String {
        let mib = self.limit >> 20;
        match &self.kind {
            Kind::Unified(_) => format!("cgroup v2 of {mib} MiB"),
            Kind::Memory(_) => format!("cgroup v1 of {mib} MiB, socket buffers counted beside"),
            Kind::Absent { .. } => format!("NO CGROUP: {mib} MiB of RSS and half of the kernel's growth, not enforced"),
        }
    }

    /// Why there is none.
    pub fn absence(&self) -> Option<&str> {
        match &self.kind {
            Kind::Absent { why, .. } => Some(why),
            _ => None,
        }
    }

    /// The file into which a process writes `0` to join.
    pub fn procs(&self) -> Option<CString> {
        let path = self.dir()?.join("cgroup.procs");
        Some(CString::new(path.into_os_string().into_encoded_bytes()).expect("a path holds no zero byte"))
    }

    /// What the server takes at this moment. Without a cgroup: its RSS, and half of what the kernel has grown by, because
    /// the other ends of its connections are on this machine too.
    pub fn used(&self, rss: u64) -> MemoryUse {
        match &self.kind {
            Kind::Unified(dir) => {
                let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
                let kernel = field(&stat, "kernel ") + field(&stat, "sock ");
                MemoryUse { total: number(&dir.join("memory.current")), kernel }
            }
            Kind::Memory(dir) => {
                let buffers = number(&dir.join("memory.kmem.tcp.usage_in_bytes"));
                let total = number(&dir.join("memory.usage_in_bytes")) + buffers;
                MemoryUse { total, kernel: number(&dir.join("memory.kmem.usage_in_bytes")) + buffers }
            }
            Kind::Absent { kernel_before, .. } => {
                let kernel = kernel_of_machine().saturating_sub(*kernel_before) / 2;
                MemoryUse { total: rss + kernel, kernel }
            }
        }
    }

    /// How often the limit was met: each time the kernel had to find memory, or kill.
    pub fn limit_hits(&self) -> u64 {
        match &self.kind {
            Kind::Unified(dir) => {
                let events = fs::read_to_string(dir.join("memory.events")).unwrap_or_default();
                field(&events, "max ") + field(&events, "oom_kill ")
            }
            Kind::Memory(dir) => number(&dir.join("memory.failcnt")) + number(&dir.join("memory.kmem.tcp.failcnt")),
            Kind::Absent { .. } => 0,
        }
    }

    fn dir(&self) -> Option<&Path> {
        match &self.kind {
            Kind::Unified(dir) | Kind::Memory(dir) => Some(dir),
            Kind::Absent { .. } => None,
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let Some(dir) = self.dir() else { return };
        // The process has ended; the kernel may still be counting it.
        for _ in 0..50 {
            match fs::remove_dir(dir) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                _ => return,
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        eprintln!("{} could not be removed", dir.display());
    }
}

/// A group of version 2. It needs the memory controller, which another hierarchy may hold.
fn unified(limit: u64) -> Result<Kind, String> {
    let dir = below_own("cgroup2", "")?;
    let make = || -> std::io::Result<()> {
        fs::write(dir.join("memory.max"), limit.to_string())?;
        // Absent without swap.
        let _ = fs::write(dir.join("memory.swap.max"), "0");
        Ok(())
    };
    made(&dir, make).map(|()| Kind::Unified(dir))
}

/// A group of version 1's memory hierarchy, with the same limit for socket buffers.
fn memory(limit: u64) -> Result<Kind, String> {
    let dir = below_own("cgroup", "memory")?;
    let make = || -> std::io::Result<()> {
        fs::write(dir.join("memory.limit_in_bytes"), limit.to_string())?;
        fs::write(dir.join("memory.kmem.tcp.limit_in_bytes"), limit.to_string())?;
        let _ = fs::write(dir.join("memory.memsw.limit_in_bytes"), limit.to_string());
        Ok(())
    };
    made(&dir, make).map(|()| Kind::Memory(dir))
}

fn made(dir: &Path, limits: impl FnOnce() -> std::io::Result<()>) -> Result<(), String> {
    fs::create_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    limits().map_err(|error| {
        let _ = fs::remove_dir(dir);
        format!("{}: {error}", dir.display())
    })
}

/// A new folder in the harness's own group, in the mounted hierarchy of that type and controller (empty: the unified one).
fn below_own(fs_type: &str, controller: &str) -> Result<PathBuf, String> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
    let has_controller = |options: &str| controller.is_empty() || options.split(',').any(|option| option == controller);
    let mount = mounts.lines().find_map(|text| {
        let fields: Vec<&str> = text.split(' ').collect();
        (fields.len() > 3 && fields[2] == fs_type && has_controller(fields[3])).then(|| fields[1].to_string())
    });
    let mount = mount.ok_or(format!("no {fs_type} {controller} is mounted"))?;
    let own = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
    let path = own.lines().find_map(|text| {
        let mut fields = text.splitn(3, ':').skip(1);
        fields.next()?.split(',').any(|name| name == controller).then(|| fields.next())?
    });
    let path = path.ok_or(format!("this process is in no group of {fs_type} {controller}"))?;
    Ok(Path::new(&mount).join(path.trim_start_matches('/')).join(format!("rainbow-bench-{}", std::process::id())))
}

/// Bytes of the kernel's objects and of the TCP buffers of the whole machine.
fn kernel_of_machine() -> u64 {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let sockets = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let buffers = sockets.lines().find(|text| text.starts_with("TCP:")).map_or(0, |text| field(text, "mem "));
    field(&memory, "Slab:") * 1024 + buffers * sys::PAGE
}

/// The number after `name` in a text of names and numbers; 0 without it.
fn field(text: &str, name: &str) -> u64 {
    let after = |at: usize| text[at + name.len()..].split_whitespace().next()?.parse().ok();
    text.match_indices(name)
        .filter(|(at, _)| *at == 0 || matches!(text.as_bytes()[at - 1], b'\n' | b' '))
        .find_map(|(at, _)| after(at))
        .unwrap_or(0)
}

fn number(file: &Path) -> u64 {
    fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Run by `cargo test --benches`.
pub fn self_test() {
    let stat = "anon 4096\nkernel_stack 16384\nkernel 20480\nsock 12288\n";
    assert_eq!((field(stat, "kernel "), field(stat, "sock "), field(stat, "slab ")), (20480, 12288, 0));
    assert_eq!(field("TCP: inuse 5 orphan 0 tw 0 alloc 6 mem 17", "mem "), 17);
    assert_eq!(field("Slab:   123 kB\nSReclaimable: 4 kB", "Slab:"), 123);
    assert!(kernel_of_machine() > 0, "every machine has kernel objects");
    assert!(below_own("cgroup", "no such controller").is_err());
    let group = Cgroup::new(64 << 20);
    let dir = group.dir().map(Path::to_path_buf);
    assert_eq!(dir.is_none(), group.absence().is_some(), "it says why there is none");
    assert!(dir.as_ref().is_none_or(|dir| dir.is_dir()));
    drop(group);
    assert!(dir.is_none_or(|dir| !dir.exists()), "it is removed");
}
