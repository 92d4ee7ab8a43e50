//! What an operation costs: CPU of the server's process and of its core's ksoftirqd, and how busy the generator's core was.
//!
//! Counted is the core, not the process: what leaves the process turns up in ksoftirqd.

use std::fs;

use crate::sys::{cpu_ns, now_ns};

/// Readings at the start of something; `stop` gives the differences.
pub struct Meter {
    pids: Vec<u32>,
    softirqds: Vec<u32>,
    generator_core: usize,
    began_ns: u64,
    server_ns: u64,
    softirq_ns: u64,
    generator: Ticks,
}

/// What was used between start and stop.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    pub wall_ns: u64,
    /// The server's processes and the ksoftirqd of its cores.
    pub cpu_ns: u64,
    /// Of it, ksoftirqd's.
    pub softirq_ns: u64,
    /// 0–1, of the generator's core.
    pub generator_busy: f64,
}

impl Meter {
    pub fn start(pids: Vec<u32>, server_cores: &[usize], generator_core: usize) -> Meter {
        let softirqds: Vec<u32> = server_cores.iter().filter_map(|&core| ksoftirqd(core)).collect();
        Meter {
            generator: Ticks::read(generator_core),
            generator_core,
            began_ns: now_ns(),
            server_ns: total(&pids),
            softirq_ns: total(&softirqds),
            softirqds,
            pids,
        }
    }

    pub fn stop(&self) -> Used {
        let softirq_ns = total(&self.softirqds) - self.softirq_ns;
        // A process that has died counts no more.
        let server_ns = total(&self.pids).saturating_sub(self.server_ns);
        Used {
            wall_ns: now_ns() - self.began_ns,
            cpu_ns: server_ns + softirq_ns,
            softirq_ns,
            generator_busy: Ticks::read(self.generator_core).busy_since(&self.generator),
        }
    }
}

impl Used {
    /// The server's share of its core, 0–1 (more with more cores).
    pub fn server_busy(&self) -> f64 {
        self.cpu_ns as f64 / self.wall_ns.max(1) as f64
    }

    /// The generator could do no more while the server could have.
    pub fn generator_was_the_limit(&self) -> bool {
        self.generator_busy > 0.95 && self.server_busy() < 0.95
    }
}

fn total(pids: &[u32]) -> u64 {
    pids.iter().filter_map(|&pid| cpu_ns(pid).ok()).sum()
}

/// The process id of a core's ksoftirqd.
pub fn ksoftirqd(core: usize) -> Option<u32> {
    let name = format!("ksoftirqd/{core}");
    let entries = fs::read_dir("/proc").ok()?.flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find(|pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name))
}

/// A core's clock ticks as /proc/stat counts them.
#[derive(Clone, Copy, Default)]
struct Ticks {
    all: u64,
    idle: u64,
}

impl Ticks {
    fn read(core: usize) -> Ticks {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let name = format!("cpu{core} ");
        let line = stat.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or("");
        // user nice system idle iowait irq softirq steal; guest time is in user already.
        let fields: Vec<u64> = line.split(' ').filter_map(|field| field.parse().ok()).take(8).collect();
        let idle = fields.get(3).unwrap_or(&0) + fields.get(4).unwrap_or(&0);
        Ticks { all: fields.iter().sum(), idle }
    }

    fn busy_since(&self, before: &Ticks) -> f64 {
        let all = self.all.saturating_sub(before.all);
        let idle = self.idle.saturating_sub(before.idle);
        if all == 0 { 0.0 } else { 1.0 - idle as f64 / all as f64 }
    }
}
