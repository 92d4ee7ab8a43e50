//! What the tests stand on: the server as a process, a client, a business server, signed calls.
//!
//! Everything waits with a deadline and fails with what it saw. Nothing here reads the crate's source: the codec, the
//! signatures and the HTTP reader are a second implementation on purpose.

pub mod backend;
pub mod call;
mod checks;
pub mod client;
pub mod fleet;
pub mod front;
pub mod http;
pub mod log;
pub mod metrics;
pub mod nodes;
pub mod packet;
pub mod ports;
pub mod process;
pub mod server;
pub mod stall;
pub mod sys;

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

pub use backend::{Backend, Reply};
pub use call::{call, send};
pub use client::{Client, Gone, Upgrade};
pub use packet::{Command, Packet};
pub use server::{Server, Setup};

/// How long a test waits for what must happen. Generous: the machine is shared, and a test that passes never waits so long.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// The 2014 token of every server that the tests start.
pub const TOKEN: &str = "testtoken";

/// Calls `look` until it answers, for as long as `TIMEOUT`; for state of another process that cannot be awaited.
pub fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    eventually_within(TIMEOUT, what, look)
}

pub fn eventually_within<T>(timeout: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {timeout:?}: {what}");
        // Nothing tells us when another process changes; a look costs it a request, so there is a pause between two.
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Tests that load the machine run one at a time.
pub fn heavy() -> MutexGuard<'static, ()> {
    static HEAVY: Mutex<()> = Mutex::new(());
    HEAVY.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The long form of the tests that measure over time.
pub fn full() -> bool {
    std::env::var_os("RAINBOW_TEST_FULL").is_some_and(|v| v == "1")
}
