//! What a service manager (systemd, `Type=notify`) hears: ready, reloading, alive, stopping.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::harness::stall::Stall;
use crate::harness::{Server, Setup, TIMEOUT};

/// The manager's end of NOTIFY_SOCKET.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(name: &str) -> Manager {
        let path = std::env::temp_dir().join(format!("rainbow-notify-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).expect("the temporary directory is writable");
        Manager { socket, path }
    }

    fn start(&self, setup: Setup) -> Server {
        setup.env("NOTIFY_SOCKET", self.path.to_str().expect("UTF-8")).start()
    }

    fn next_within(&self, timeout: Duration) -> Option<String> {
        let mut buffer = [0; 4096];
        self.socket.set_read_timeout(Some(timeout)).expect("a valid timeout");
        let len = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..len].to_vec()).expect("text"))
    }

    /// The next one that is no sign of life.
    #[track_caller]
    fn next(&self) -> String {
        let deadline = Instant::now() + TIMEOUT;
        while Instant::now() < deadline {
            match self.next_within(TIMEOUT) {
                Some(text) if text.trim() == "WATCHDOG=1" => {}
                Some(text) => return text,
                None => break,
            }
        }
        panic!("nothing within {TIMEOUT:?}");
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[test]
fn the_manager_hears_of_start_reload_and_end() {
    let manager = Manager::new("life");
    let mut server = manager.start(Setup::new().text("shutdown_timeout", "7s"));
    let ready = manager.next();
    assert!(ready.starts_with("READY=1\n"), "{ready:?}");
    assert!(ready.contains(&format!("STATUS=listens on {}", server.addr())), "{ready:?}");
    server.process.signal("HUP");
    let reloading = manager.next();
    let since = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").map(|usec| usec.trim().parse::<u64>());
    assert!(matches!(since, Some(Ok(usec)) if usec > 0), "{reloading:?}");
    assert!(manager.next().starts_with("READY=1\n"));
    server.terminate();
    let stopping = manager.next();
    assert!(stopping.starts_with("STOPPING=1\nEXTEND_TIMEOUT_USEC="), "{stopping:?}");
    let usec: u64 = stopping.trim().rsplit_once('=').expect("a number").1.parse().expect("a number");
    assert!(usec > 7_000_000, "longer than shutdown_timeout: {usec}");
    assert!(server.exited_within(TIMEOUT).success());
}

#[test]
fn a_failed_reload_ends_too() {
    let manager = Manager::new("reload");
    let server = manager.start(Setup::new());
    assert!(manager.next().starts_with("READY=1"));
    server.rewrite("unknown_key = 1\n");
    server.process.signal("HUP");
    assert!(manager.next().starts_with("RELOADING=1"));
    assert!(manager.next().starts_with("READY=1"));
}

#[test]
fn the_watchdog_is_fed_while_every_worker_turns_and_no_longer() {
    let manager = Manager::new("watchdog");
    let server = manager.start(Setup::new().env("WATCHDOG_USEC", "100000"));
    assert!(manager.next_within(TIMEOUT).expect("a message").starts_with("READY=1"));
    for _ in 0..5 {
        assert_eq!(manager.next_within(TIMEOUT).as_deref(), Some("WATCHDOG=1\n"));
    }
    let _stall = Stall::of(&server, 1);
    let deadline = Instant::now() + 2 * TIMEOUT;
    // Ten times the interval without a word.
    while manager.next_within(Duration::from_secs(1)).is_some() {
        assert!(Instant::now() < deadline, "it is fed although a worker stands still");
    }
}

#[test]
fn without_a_manager_or_with_one_that_is_gone_it_serves() {
    let mut server = Setup::new().env("NOTIFY_SOCKET", "/nowhere/notify").env("WATCHDOG_USEC", "many").start();
    server.assert_alive();
}
