//! What a worker waits with: io_uring, or epoll where that is not to be had. Chosen once for all workers, at the start.
//!
//! With io_uring, completions wait until the worker asks for them, which it does when it parks: without
//! `IORING_SETUP_DEFER_TASKRUN` the kernel interrupts the core for each one, and every operation costs about twice
//! (perf/README.md tells how that was found). Flags that a kernel does not know are left out one by one.

use crate::config::DriverChoice;
use crate::io::runtime::claim::ring_advice;
use crate::io::runtime::notify::relay;
use std::io;
use tracing::warn;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    IoUring(RingFlags),
    Epoll,
}

/// Of io_uring_setup(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingFlags {
    /// SINGLE_ISSUER and DEFER_TASKRUN: Linux 6.1.
    Deferred,
    /// COOP_TASKRUN: Linux 5.19.
    Cooperative,
    None,
}

impl RingFlags {
    const BEST_FIRST: [RingFlags; 3] = [RingFlags::Deferred, RingFlags::Cooperative, RingFlags::None];

    fn builder(self) -> io_uring_monoio::Builder {
        let mut ring = io_uring_monoio::IoUring::builder();
        match self {
            RingFlags::Deferred => drop(ring.setup_single_issuer().setup_defer_taskrun()),
            RingFlags::Cooperative => drop(ring.setup_coop_taskrun()),
            RingFlags::None => {}
        }
        ring
    }
}

/// What is to be had, and allowed by the operator. The error names what refuses io_uring, and what to do.
pub fn choose(choice: DriverChoice) -> io::Result<Driver> {
    let refused = match choice {
        DriverChoice::Epoll => return Ok(Driver::Epoll),
        DriverChoice::Auto | DriverChoice::IoUring => match probe(|flags| flags.builder().build(ENTRIES).map(drop)) {
            Ok(flags) => {
                if flags != RingFlags::Deferred {
                    warn!(
                        ?flags,
                        "this kernel lacks IORING_SETUP_DEFER_TASKRUN (Linux 6.1): each operation costs more"
                    );
                }
                return Ok(Driver::IoUring(flags));
            }
            Err(error) => error,
        },
    };
    let advice = ring_advice(&refused);
    if choice == DriverChoice::IoUring {
        return Err(io::Error::new(refused.kind(), format!("driver = \"io_uring\": {refused}. {advice}")));
    }
    warn!(error = %refused, "epoll is used, since there is no io_uring here. {advice}");
    Ok(Driver::Epoll)
}

/// The best flags that are taken; only those that a kernel does not know are left out.
fn probe(set_up: impl Fn(RingFlags) -> io::Result<()>) -> io::Result<RingFlags> {
    let mut refused = None;
    for flags in RingFlags::BEST_FIRST {
        match set_up(flags) {
            Ok(()) => return Ok(flags),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refused = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(refused.expect("there are flags"))
}

impl Driver {
    /// Runs the future, and what it spawns, until it is done.
    pub fn block_on<T>(self, future: impl Future<Output = T>) -> io::Result<T> {
        match self {
            Driver::IoUring(flags) => {
                let builder = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().enable_timer();
                let built = builder.with_entries(ENTRIES).uring_builder(flags.builder()).build();
                let mut runtime = built.map_err(|error| {
                    io::Error::new(error.kind(), format!("io_uring: {error}. {}", ring_advice(&error)))
                })?;
                Ok(runtime.block_on(future))
            }
            Driver::Epoll => {
                let builder = monoio::RuntimeBuilder::<monoio::LegacyDriver>::new().enable_timer();
                Ok(builder.with_entries(ENTRIES).build()?.block_on(async {
                    drop(monoio::spawn(relay()));
                    future.await
                }))
            }
        }
    }
}

/// Of the ring, or events taken from epoll at once.
const ENTRIES: u32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_the_kernel_does_not_know_are_left_out_one_by_one() {
        let error = io::Error::from_raw_os_error;
        let knows = |known: &'static [RingFlags]| {
            probe(move |flags| if known.contains(&flags) { Ok(()) } else { Err(error(libc::EINVAL)) })
        };
        assert_eq!(knows(&RingFlags::BEST_FIRST).ok(), Some(RingFlags::Deferred));
        assert_eq!(knows(&[RingFlags::Cooperative, RingFlags::None]).ok(), Some(RingFlags::Cooperative));
        assert_eq!(knows(&[RingFlags::None]).ok(), Some(RingFlags::None));
        assert_eq!(knows(&[]).expect_err("none is left").raw_os_error(), Some(libc::EINVAL));
        let forbidden = probe(|_| Err(error(libc::EPERM)));
        assert_eq!(forbidden.expect_err("no flags help").raw_os_error(), Some(libc::EPERM));
    }

    /// A peer that always has something to say, beside a task that always has something to do.
    #[test]
    fn on_epoll_tasks_that_are_always_ready_take_turns() {
        use crate::io::runtime::notify::give_way;
        use crate::io::runtime::socket::{RingPass, Socket};
        use std::cell::Cell;
        use std::io::Write;
        use std::rc::Rc;
        const READS: usize = 100;
        let passes = Driver::Epoll.block_on(async {
            let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().expect("two sockets");
            theirs.write_all(&[7; READS]).expect("there is room");
            let mut socket = Socket::new(ours.into()).expect("a socket");
            let (passes, ring) = (Rc::new(Cell::new(0)), RingPass::new().expect("a descriptor"));
            let counted = passes.clone();
            drop(monoio::spawn(async move {
                while counted.get() < 1_000 * READS {
                    counted.set(counted.get() + 1);
                    ring.pass().await;
                }
            }));
            let reading = monoio::spawn(async move {
                for _ in 0..READS {
                    give_way().await;
                    let (read, _) = socket.read(Vec::with_capacity(1)).await;
                    assert_eq!(read.expect("it is open"), 1);
                }
                passes.get()
            });
            reading.await
        });
        let passes = passes.expect("a runtime");
        assert!((READS / 2..10 * READS).contains(&passes), "{passes} passes beside {READS} reads");
    }

    #[test]
    fn each_driver_carries_a_byte_over_a_socket() {
        use std::io::Write;
        for driver in [choose(DriverChoice::Auto).expect("one of them"), Driver::Epoll] {
            let read = driver.block_on(async {
                let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().expect("two sockets");
                let mut socket = crate::io::runtime::socket::Socket::new(ours.into()).expect("a socket");
                let reading = monoio::spawn(async move { socket.read(Vec::with_capacity(4)).await.1 });
                monoio::time::sleep(std::time::Duration::from_millis(1)).await;
                theirs.write_all(b"x").expect("there is room");
                reading.await
            });
            assert_eq!(read.expect("a runtime"), b"x");
        }
    }
}
