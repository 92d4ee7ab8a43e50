//! The system calls that std and monoio do not offer, each wrapped once. Those of TCP are in `net`.
//!
//! Descriptors are plain numbers here: the caller owns them and knows in which table they lie. Nothing here waits but
//! `wait_signal`.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// A descriptor table of this thread's own, a copy of the process's as it stands (see DESIGN.md, "Private descriptor
/// tables").
pub fn unshare_files() -> io::Result<()> {
    // SAFETY: takes a number only; from here on this thread's descriptors mean nothing to other threads.
    check(unsafe { libc::unshare(libc::CLONE_FILES) }).map(drop)
}

/// The descriptors in this thread's table.
pub fn open_descriptors() -> io::Result<Vec<RawFd>> {
    let entries = std::fs::read_dir("/proc/thread-self/fd")?;
    let numbers: Vec<RawFd> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // The folder's own was among them, and is closed by now.
    // SAFETY: takes numbers only.
    Ok(numbers.into_iter().filter(|&fd| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0).collect())
}

/// Closes this thread's copies of what belongs to others. Its table must be its own, and nothing in it opened here.
pub fn close_all_but(spared: &[RawFd]) -> io::Result<()> {
    for fd in open_descriptors()?.into_iter().filter(|fd| !spared.contains(fd)) {
        // SAFETY: it is a copy that came with the table; whoever owns the descriptor has it in another.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// Ends what this thread's table still has open, for the other sides at once. By the end of the thread alone, a socket
/// that its ring was reading was seen open for seconds. The table must be its own; `spared` are others' sockets too.
pub fn shut_down_all_but(spared: &[RawFd]) -> io::Result<()> {
    for fd in open_descriptors()?.into_iter().filter(|fd| !spared.contains(fd)) {
        // SAFETY: takes numbers only; what is no socket is left as it is.
        unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
    }
    Ok(())
}

/// 64 bits that nobody can guess: the standard library has its keys from the system.
pub fn draw() -> u64 {
    RandomState::new().hash_one(0)
}

/// Binds this thread to one CPU.
pub fn pin_to_core(core: usize) -> io::Result<()> {
    // SAFETY: the set is plain memory, zeroed as CPU_ZERO does, and its size is passed along.
    check(unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    })
    .map(drop)
}

/// The CPUs this process may run on, in order.
pub fn allowed_cores() -> Vec<usize> {
    // SAFETY: the set is plain memory of the size that is passed along.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) < 0 {
            return vec![0];
        }
        (0..libc::CPU_SETSIZE as usize).filter(|&core| libc::CPU_ISSET(core, &set)).collect()
    }
}

/// The CPUs of the machine that run.
pub fn online_cores() -> usize {
    // SAFETY: takes a number only.
    unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }.max(1) as usize
}

/// Memory in pages of 4 KiB for the whole process. The allocator asks for huge pages, of which many small things of
/// many threads touch a little each: at 18,000 connections per worker that doubled the memory per connection (2.0 kB
/// against 1.0), and cost no CPU to give up. Fails only on kernels without huge pages.
pub fn forgo_huge_pages() {
    // SAFETY: takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

/// What this thread has freed goes back to the system. The allocator keeps freed pages for a moment, in case, and then
/// gives them back when it is next asked for something: after a rush of clients (tables that have grown leave their old
/// halves behind) that may be hours later, and is a third of what an idle connection weighs.
pub fn give_back_freed_memory() {
    // SAFETY: may be called at any time; it touches this thread's heap and what has no owner.
    unsafe { libmimalloc_sys::mi_collect(false) };
}

/// Raises the soft limit of descriptors to the hard one.
pub fn raise_descriptor_limit() {
    let mut limit = descriptor_limits();
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: the struct outlives the call.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    }
}

/// Descriptors that one table may have.
pub fn descriptor_limit() -> usize {
    usize::try_from(descriptor_limits().rlim_cur).unwrap_or(usize::MAX)
}

/// Descriptors that this thread's table has room for.
pub fn descriptors_left() -> io::Result<usize> {
    Ok(descriptor_limit().saturating_sub(open_descriptors()?.len()))
}

fn descriptor_limits() -> libc::rlimit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct outlives the call, which fails for no limit that exists.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    limit
}

/// A counter to wait on: writing adds, reading takes all.
pub fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only; the new descriptor is owned by nobody else.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?)) }
}

pub fn eventfd_ring(fd: RawFd) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: eight bytes of a live array. It fails only when the counter is full, and then it is readable anyway.
    unsafe { libc::write(fd, one.as_ptr().cast(), one.len()) };
}

/// How often it has been rung since it was last cleared.
pub fn eventfd_clear(fd: RawFd) -> u64 {
    let mut count = [0u8; 8];
    // SAFETY: eight bytes of a live array; empty means WouldBlock, and zero stays.
    unsafe { libc::read(fd, count.as_mut_ptr().cast(), count.len()) };
    u64::from_ne_bytes(count)
}

/// Two connected sockets that keep messages apart and carry descriptors.
pub fn seqpacket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut pair = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: the array has room for both numbers; the new descriptors are owned by nobody else.
    unsafe {
        check(libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()))?;
        Ok((OwnedFd::from_raw_fd(pair[0]), OwnedFd::from_raw_fd(pair[1])))
    }
}

/// An address of this machine, and where a broadcast to its network goes.
pub struct Interface {
    pub address: IpAddr,
    pub broadcast: Option<Ipv4Addr>,
}

/// Of the interfaces that are up. Empty when the system does not tell.
pub fn interfaces() -> Vec<Interface> {
    let mut found = Vec::new();
    let mut first: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the list that the system makes is walked as long as it lives, to its null pointer; an address is read as
    // the kind that its family names.
    unsafe {
        if libc::getifaddrs(&raw mut first) < 0 {
            return found;
        }
        let mut next = first;
        while let Some(entry) = next.as_ref() {
            next = entry.ifa_next;
            let is_up = entry.ifa_flags & libc::IFF_UP as u32 != 0;
            let Some(address) = socket_ip(entry.ifa_addr).filter(|_| is_up) else { continue };
            let has_broadcast = entry.ifa_flags & libc::IFF_BROADCAST as u32 != 0;
            let broadcast = match socket_ip(entry.ifa_ifu).filter(|_| has_broadcast) {
                Some(IpAddr::V4(broadcast)) => Some(broadcast),
                _ => None,
            };
            found.push(Interface { address, broadcast });
        }
        libc::freeifaddrs(first);
    }
    found
}

/// # Safety
/// The pointer is null, or leads to an address of the kind that its family names.
unsafe fn socket_ip(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: as the caller promises.
    unsafe {
        match i32::from(address.as_ref()?.sa_family) {
            libc::AF_INET => {
                let inet = address.cast::<libc::sockaddr_in>().read_unaligned();
                Some(Ipv4Addr::from(u32::from_be(inet.sin_addr.s_addr)).into())
            }
            libc::AF_INET6 => {
                let inet = address.cast::<libc::sockaddr_in6>().read_unaligned();
                Some(Ipv6Addr::from(inet.sin6_addr.s6_addr).into())
            }
            _ => None,
        }
    }
}

/// Sends a copy of a descriptor with a number; never waits.
pub fn send_descriptor(socket: RawFd, fd: RawFd, mut number: u64) -> io::Result<()> {
    let mut part = libc::iovec { iov_base: (&raw mut number).cast(), iov_len: size_of::<u64>() };
    let mut control = [0u64; CONTROL_WORDS];
    // SAFETY: the message points at live memory of the lengths it names; the control buffer is aligned as a header of
    // it must be and has room for one header and one descriptor, which are written where the kernel's macros say.
    let sent = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        ((*header).cmsg_level, (*header).cmsg_type) = (libc::SOL_SOCKET, libc::SCM_RIGHTS);
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
        libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(fd);
        libc::sendmsg(socket, &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What `send_descriptor` sent; never waits. The descriptor is missing when this thread's table has no room for it.
pub fn receive_descriptor(socket: RawFd) -> io::Result<(u64, Option<OwnedFd>)> {
    let mut number = 0u64;
    let mut part = libc::iovec { iov_base: (&raw mut number).cast(), iov_len: size_of::<u64>() };
    let mut control = [0u64; CONTROL_WORDS];
    // SAFETY: as in `send_descriptor`; a descriptor that has come is owned by nobody else.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        let received = libc::recvmsg(socket, &raw mut message, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC);
        match received {
            ..0 => return Err(io::Error::last_os_error()),
            received if received as usize != size_of::<u64>() => return Err(ErrorKind::UnexpectedEof.into()),
            _ => {}
        }
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        let has_descriptor = !header.is_null()
            && ((*header).cmsg_level, (*header).cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS)
            && (*header).cmsg_len as usize >= libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize;
        let fd = has_descriptor.then(|| OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned()));
        Ok((number, fd))
    }
}

/// An epoll set that reports when blocked sockets can be written again.
pub fn epoll_create() -> io::Result<OwnedFd> {
    // SAFETY: takes a number only; the new descriptor is owned by nobody else.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?)) }
}

/// Reports `fd` once when it can be written; `data` comes back with the report.
pub fn epoll_arm_write(epoll: RawFd, fd: RawFd, data: u64) -> io::Result<()> {
    let mut event = libc::epoll_event { events: (libc::EPOLLOUT | libc::EPOLLONESHOT) as u32, u64: data };
    // SAFETY: the event outlives the call.
    let changed = check(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_MOD, fd, &mut event) });
    match changed {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
            // SAFETY: as above.
            check(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &mut event) }).map(drop)
        }
        other => other.map(drop),
    }
}

/// What has become writable; never waits.
pub fn epoll_take(epoll: RawFd, events: &mut [libc::epoll_event]) -> usize {
    // SAFETY: the slice is live and its length is passed along.
    let count = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), events.len() as i32, 0) };
    count.max(0) as usize
}

/// Blocks these signals, so that `wait_signal` gets them. Call it before any thread is started: threads inherit it.
pub fn block_signals(signals: &[i32]) {
    // SAFETY: the set is plain memory that outlives the call.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &signal_set(signals), std::ptr::null_mut()) };
}

/// Waits for one of these signals.
pub fn wait_signal(signals: &[i32]) -> i32 {
    let mut signal = 0;
    // SAFETY: the set and the number are plain memory that outlives the call.
    unsafe { libc::sigwait(&signal_set(signals), &mut signal) };
    signal
}

/// Waits for one of these signals, for so long at most.
pub fn wait_signal_for(signals: &[i32], timeout: Duration) -> Option<i32> {
    let seconds = libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX);
    let timeout = libc::timespec { tv_sec: seconds, tv_nsec: timeout.subsec_nanos().into() };
    // SAFETY: the set and the time are plain memory that outlives the call; nobody wants to know more of the signal.
    let signal = unsafe { libc::sigtimedwait(&signal_set(signals), std::ptr::null_mut(), &timeout) };
    (signal > 0).then_some(signal)
}

/// Columns and rows of stdout, if it is a terminal.
pub fn terminal_size() -> Option<(usize, usize)> {
    // SAFETY: the kernel fills the struct, which is plain memory that outlives the call.
    let (outcome, size) = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        (libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &mut size), size)
    };
    let is_known = outcome == 0 && size.ws_col > 0 && size.ws_row > 0;
    is_known.then(|| (size.ws_col.into(), size.ws_row.into()))
}

fn signal_set(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: sigemptyset makes the set; sigaddset is given valid numbers.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        signals.iter().for_each(|&signal| {
            libc::sigaddset(&mut set, signal);
        });
        set
    }
}

/// Bytes of memory that the process holds; `None` when /proc does not say.
pub fn resident_bytes() -> Option<u64> {
    memory_bytes(1)
}

/// Bytes of memory that the process has mapped.
pub fn virtual_bytes() -> Option<u64> {
    memory_bytes(0)
}

/// A field of /proc/self/statm, which counts pages.
fn memory_bytes(field: usize) -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(field)?.parse().ok()?;
    // SAFETY: takes a number only.
    let page_bytes = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    Some(pages * page_bytes)
}

/// Descriptors in the fullest table of the process: a thread may have a table of its own. Linux 6.2 and newer tell
/// their number as the folder's size; to count the entries would stop a worker with many clients for too long, so that
/// older ones say nothing.
pub fn open_descriptors_most() -> Option<u64> {
    let threads = std::fs::read_dir("/proc/self/task").ok()?;
    let tables = threads.flatten().filter_map(|thread| std::fs::metadata(thread.path().join("fd")).ok());
    tables.map(|table| table.len()).max().filter(|&most| most > 0)
}

/// Unix time at which the process started, in microseconds.
pub fn start_us() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the name, which may have anything in it but ends with the last parenthesis.
    let ticks: u64 = stat.rsplit_once(") ")?.1.split(' ').nth(START_FIELD)?.parse().ok()?;
    let system = std::fs::read_to_string("/proc/stat").ok()?;
    let boot_s: u64 = system.lines().find_map(|entry| entry.strip_prefix("btime "))?.trim().parse().ok()?;
    // SAFETY: takes a number only.
    let ticks_per_s = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok().filter(|&ticks| ticks > 0)?;
    Some(boot_s * 1_000_000 + ticks * 1_000_000 / ticks_per_s)
}

/// Microseconds of CPU that the process has used.
pub fn cpu_us() -> u64 {
    // SAFETY: the struct is plain memory and outlives the call.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        let micros = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
        micros(usage.ru_utime) + micros(usage.ru_stime)
    }
}

/// The kernel's monotonic clock in microseconds, as a service manager reads it.
pub fn since_boot_us() -> u64 {
    // SAFETY: the struct is plain memory and outlives the call.
    unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time);
        time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000
    }
}

/// The result of a system call that says -1 and sets `errno`.
pub(super) fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// `starttime` is field 22 of /proc/self/stat; here they are counted from 0, behind the name, which is field 2.
const START_FIELD: usize = 22 - 3;
/// Room for a header and one descriptor, in words, as a header's alignment wants them.
const CONTROL_WORDS: usize = 4;
const _: () = assert!(size_of::<libc::cmsghdr>() + size_of::<u64>() <= CONTROL_WORDS * size_of::<u64>());
