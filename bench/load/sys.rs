//! The system calls of the harness: sockets, epoll, clocks, cores, descriptor tables. All `unsafe` of `bench/load` is here.
//!
//! Descriptors are plain `OwnedFd`s; a thread that called `own_table` must keep to itself what it opens afterwards.

use std::ffi::CString;
use std::io;
use std::mem;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Turns the C convention (−1 and errno) into a `Result`.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_len(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Nanoseconds of the monotonic clock.
pub fn now_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC).expect("the monotonic clock exists")
}

/// The wall clock.
pub fn unix_ms() -> u64 {
    clock_ns(libc::CLOCK_REALTIME).expect("the wall clock exists") / 1_000_000
}

fn clock_ns(clock: libc::clockid_t) -> io::Result<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec for the call to fill.
    check(unsafe { libc::clock_gettime(clock, &mut time) })?;
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// CPU time (user + system) that process `pid` has used, with its ended threads; ns. Unlike /proc it counts to this moment.
pub fn cpu_ns(pid: u32) -> io::Result<u64> {
    let mut clock = 0;
    // SAFETY: `clock` is a valid clockid_t for the call to fill.
    let error = unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    clock_ns(clock)
}

/// How many sockets the descriptor table of that thread holds.
pub fn sockets_of_thread(pid: u32, name: &str) -> usize {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let is_named =
        |task: &std::path::PathBuf| std::fs::read_to_string(task.join("comm")).is_ok_and(|c| c.trim() == name);
    let Some(task) = tasks.flatten().map(|task| task.path()).find(is_named) else { return 0 };
    let Ok(descriptors) = std::fs::read_dir(task.join("fd")) else { return 0 };
    let links = descriptors.flatten().filter_map(|descriptor| std::fs::read_link(descriptor.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
}

/// Keeps the calling thread, and the threads it starts, on these cores.
pub fn pin(cores: &[usize]) -> io::Result<()> {
    // SAFETY: an all-zero cpu_set_t is the empty set; CPU_SET writes inside it because cores are below its 1,024 bits.
    unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        cores.iter().filter(|&&core| core < 1024).for_each(|&core| libc::CPU_SET(core, &mut set));
        check(libc::sched_setaffinity(0, mem::size_of_val(&set), &set))?;
    }
    Ok(())
}

/// The cores that were allowed when the harness started, before it pinned itself.
pub fn allowed_cores_of_machine() -> Vec<usize> {
    static CORES: std::sync::OnceLock<Vec<usize>> = std::sync::OnceLock::new();
    CORES.get_or_init(allowed_cores).clone()
}

/// The cores this thread may run on.
fn allowed_cores() -> Vec<usize> {
    // SAFETY: the call fills the set; CPU_ISSET reads inside its 1,024 bits.
    unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        if libc::sched_getaffinity(0, mem::size_of_val(&set), &mut set) != 0 {
            return vec![0];
        }
        (0..1024).filter(|&core| libc::CPU_ISSET(core, &set)).collect()
    }
}

/// Runs the calling thread before all ordinary ones of its core, so that a queue in the generator is not taken for one in
/// the server. Needs privilege; without it nothing changes.
pub fn be_first() -> bool {
    let wish = libc::sched_param { sched_priority: 1 };
    // SAFETY: `wish` outlives the call; 0 means the calling thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &wish) == 0 }
}

/// Gives the calling thread a descriptor table of its own: RLIMIT_NOFILE then counts per thread. Of what was open only
/// `keep` and the first three stay in it: a copy of another thread's pipe would keep that pipe open for ever.
pub fn own_table(keep: &[RawFd]) -> io::Result<()> {
    // SAFETY: only this thread's table changes; the harness hands no descriptor to another thread after this.
    check(unsafe { libc::unshare(libc::CLONE_FILES) })?;
    let mut spared: Vec<u32> = keep.iter().map(|&fd| fd as u32).collect();
    spared.sort_unstable();
    let mut first = 3;
    for last in spared.into_iter().chain([u32::MAX]) {
        if first < last {
            // SAFETY: nobody uses these numbers through this table.
            check(unsafe { libc::close_range(first, last - 1, 0) })?;
        }
        first = last.saturating_add(1);
    }
    Ok(())
}

/// Raises the soft limit of descriptors to the hard one and returns it.
pub fn raise_nofile() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit both to fill and to read.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
    limit.rlim_max
}

/// Makes `command`'s process run on `cores`, in a cgroup if its file of processes is named, and end with the thread that
/// spawns it.
pub fn prepare(command: &mut Command, cores: Vec<usize>, cgroup: Option<CString>) {
    // SAFETY: between fork and exec only system calls are made, on memory that was made before the fork.
    unsafe {
        command.pre_exec(move || {
            pin(&cores)?;
            if let Some(procs) = &cgroup {
                let fd = OwnedFd::from_raw_fd(check(libc::open(procs.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC))?);
                check_len(libc::write(fd.as_raw_fd(), c"0".as_ptr().cast(), 1))?;
            }
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL)).map(drop)
        });
    }
}

/// Sends a signal to a process that we started.
pub fn kill(pid: u32, signal: i32) {
    // SAFETY: no memory is involved.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

fn loopback(address: Ipv4Addr, port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(address).to_be() },
        sin_zero: [0; 8],
    }
}

fn set_option(socket: &OwnedFd, level: i32, name: i32, value: i32) {
    // SAFETY: `value` outlives the call and its size is given.
    unsafe {
        let size = mem::size_of_val(&value) as u32;
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size);
    }
}

fn tcp_socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the descriptor is new and owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(check(libc::socket(libc::AF_INET, kind, 0))?) };
    set_option(&socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
    Ok(socket)
}

/// Starts to connect from `source` to 127.0.0.1:`port`; the socket is non-blocking and turns writable when it is done.
pub fn connect(source: Ipv4Addr, port: u16) -> io::Result<OwnedFd> {
    let socket = tcp_socket()?;
    let size = mem::size_of::<libc::sockaddr_in>() as u32;
    if source != Ipv4Addr::LOCALHOST {
        // The port is chosen at connect, so that it must be free for this pair of addresses only.
        set_option(&socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1);
        let from = loopback(source, 0);
        // SAFETY: `from` is a sockaddr_in of the size given.
        check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const from).cast(), size) })?;
    }
    let to = loopback(Ipv4Addr::LOCALHOST, port);
    // SAFETY: `to` is a sockaddr_in of the size given.
    match check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const to).cast(), size) }) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

/// Listens on 127.0.0.1:`port` (0: any free one). Non-blocking.
pub fn listen(port: u16) -> io::Result<OwnedFd> {
    let socket = tcp_socket()?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
    let at = loopback(Ipv4Addr::LOCALHOST, port);
    // SAFETY: `at` is a sockaddr_in of the size given; listen takes no memory.
    unsafe {
        let size = mem::size_of_val(&at) as u32;
        check(libc::bind(socket.as_raw_fd(), (&raw const at).cast(), size))?;
        check(libc::listen(socket.as_raw_fd(), 4096))?;
    }
    Ok(socket)
}

/// The port a socket is bound to.
pub fn port_of(socket: &OwnedFd) -> io::Result<u16> {
    let mut at = loopback(Ipv4Addr::UNSPECIFIED, 0);
    let mut size = mem::size_of_val(&at) as u32;
    // SAFETY: `at` and `size` are valid for the call to fill.
    check(unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut at).cast(), &mut size) })?;
    Ok(u16::from_be(at.sin_port))
}

/// A waiting connection, non-blocking; `WouldBlock` when there is none.
pub fn accept(listener: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let (nobody, nothing) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: no address is asked for; the descriptor returned is new and owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(check(libc::accept4(listener.as_raw_fd(), nobody, nothing, flags))?) };
    set_option(&socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
    Ok(socket)
}

pub fn recv(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes into `buffer`.
    check_len(unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) })
}

pub fn send(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the kernel reads `bytes.len()` bytes from `bytes`.
    check_len(unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// The error a connecting socket met, if any.
pub fn socket_error(fd: RawFd) -> Option<io::Error> {
    let (mut value, mut size) = (0i32, mem::size_of::<i32>() as u32);
    // SAFETY: `value` and `size` are valid for the call to fill.
    unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut value).cast(), &mut size) };
    (value != 0).then(|| io::Error::from_raw_os_error(value))
}

/// An epoll set. Everything in it is edge-triggered for input and output.
pub struct Epoll {
    set: OwnedFd,
    events: Vec<libc::epoll_event>,
}

/// What epoll says of one descriptor; `tag` is the caller's.
#[derive(Clone, Copy)]
pub struct Event {
    pub tag: u64,
    pub readable: bool,
    pub writable: bool,
    /// The peer will send no more, or the socket is broken: read until the end.
    pub ended: bool,
}

impl Epoll {
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: the descriptor is new and owned by nobody else.
        let set = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        Ok(Epoll { set, events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS] })
    }

    pub fn add(&self, fd: RawFd, tag: u64) -> io::Result<()> {
        self.add_for(fd, tag, libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET)
    }

    /// For who never waits for room to write.
    pub fn add_input(&self, fd: RawFd, tag: u64) -> io::Result<()> {
        self.add_for(fd, tag, libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET)
    }

    fn add_for(&self, fd: RawFd, tag: u64, events: libc::c_int) -> io::Result<()> {
        let events = events as u32;
        let mut event = libc::epoll_event { events, u64: tag };
        // SAFETY: `event` outlives the call.
        check(unsafe { libc::epoll_ctl(self.set.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) }).map(drop)
    }

    /// Waits at most `timeout_ns` and returns how many events there are; `event(i)` reads them.
    pub fn wait(&mut self, timeout_ns: u64) -> io::Result<usize> {
        let time = libc::timespec {
            tv_sec: (timeout_ns / 1_000_000_000) as i64,
            tv_nsec: (timeout_ns % 1_000_000_000) as i64,
        };
        let (room, no_signals) = (self.events.len(), std::ptr::null::<libc::sigset_t>());
        // SAFETY: the kernel fills at most `room` events; `time` outlives the call; epoll_pwait2 is in Linux since 5.11.
        let found = unsafe {
            let at = self.events.as_mut_ptr();
            libc::syscall(libc::SYS_epoll_pwait2, self.set.as_raw_fd(), at, room, &raw const time, no_signals, 0usize)
        };
        match check_len(found as isize) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            other => other,
        }
    }

    pub fn event(&self, index: usize) -> Event {
        let raw = self.events[index];
        let has = |mask: i32| raw.events & mask as u32 != 0;
        Event {
            tag: raw.u64,
            readable: has(libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR),
            writable: has(libc::EPOLLOUT),
            ended: has(libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR),
        }
    }
}

/// Bytes of a page of memory on the machines that the server runs on.
pub const PAGE: u64 = 4096;
/// Few enough that a turn of the loop is short, many enough that its syscall does not show.
const EVENTS: usize = 256;
