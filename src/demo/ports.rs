//! Which ports the demo takes: the same after a restart, since to a browser a page at another port is another page.
//! Programs call at a port of their own (`admin_listen`), because there is no token.
//!
//! A server that was killed has its port for some milliseconds more, until the kernel has cleaned up its ring, so the
//! wanted port is waited for. The port is not reserved: another process may take it before the demo listens. Called by
//! `main`.

use std::io;
use std::iter;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;
use std::thread;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub rainbow: u16,
    pub page: u16,
    pub admin: u16,
}

/// The ports that were named (0 names none).
#[derive(Clone, Copy, Debug, Default)]
pub struct NamedPorts {
    pub rainbow: Option<u16>,
    pub page: Option<u16>,
    pub admin: Option<u16>,
}

impl Ports {
    /// The named ports; else those of the seat (from 1 on), two of `usual` and one of those that end with
    /// `usual_admin`; or the first ones that are free.
    pub fn choose(named: NamedPorts, seat: u16, usual: RangeInclusive<u16>, usual_admin: u16) -> io::Result<Ports> {
        let NamedPorts { rainbow, page, admin } = named;
        let before = seat.saturating_sub(1);
        let from = |nth: u16| usual.clone().skip(usize::from(2 * before + nth)).chain(usual.clone());
        let is_named = |port: &u16| [page, admin].contains(&Some(*port));
        let rainbow = choose(rainbow, from(0).filter(|port| !is_named(port)), USUAL_TIMEOUT)?;
        let page = choose(page, from(1).filter(|port| *port != rainbow && Some(*port) != admin), USUAL_TIMEOUT)?;
        let is_taken = |port: &u16| [rainbow, page].contains(port);
        let usual_admin = usual_admin.saturating_sub(before);
        let admin = choose(admin, iter::once(usual_admin).filter(|port| !is_taken(port)), USUAL_TIMEOUT)?;
        Ok(Ports { rainbow, page, admin })
    }
}

fn choose(
    named: Option<u16>,
    mut usual: impl Iterator<Item = u16> + Clone,
    usual_timeout: Duration,
) -> io::Result<u16> {
    if let Some(port) = named.filter(|port| *port != 0) {
        return wait_for(port, NAMED_TIMEOUT);
    }
    let wanted = usual.clone().next().and_then(|first| wait_for(first, usual_timeout).ok());
    wanted.or_else(|| usual.find_map(|port| probe(port).ok())).map_or_else(|| probe(0), Ok)
}

fn wait_for(port: u16, timeout: Duration) -> io::Result<u16> {
    let began = Instant::now();
    loop {
        match probe(port) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && began.elapsed() < timeout => {
                thread::sleep(PAUSE);
            }
            outcome => return outcome,
        }
    }
}

/// Port 0 becomes a free one.
fn probe(port: u16) -> io::Result<u16> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
}

const PAUSE: Duration = Duration::from_millis(10);
const NAMED_TIMEOUT: Duration = Duration::from_secs(5);
/// Another program may have the port for good, and there are others.
const USUAL_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn holder() -> (TcpListener, u16) {
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = holder.local_addr().unwrap().port();
        (holder, port)
    }

    #[test]
    fn named_ports_are_taken_and_waited_for() {
        let ((rainbow_holder, rainbow), (page_holder, page), (admin_holder, admin)) = (holder(), holder(), holder());
        drop((page_holder, admin_holder));
        let named = NamedPorts { rainbow: Some(rainbow), page: Some(page), admin: Some(admin) };
        // It ends while the port is waited for, as a killed server does.
        let chosen = thread::scope(|scope| {
            let chosen = scope.spawn(|| Ports::choose(named, 1, 1..=1, 1));
            drop(rainbow_holder);
            chosen.join().unwrap()
        });
        assert_eq!(chosen.unwrap(), Ports { rainbow, page, admin });
    }

    #[test]
    fn a_usual_port_that_is_taken_is_passed_over() {
        let (_taken, port) = holder();
        let chosen = choose(Some(0), port..=port, Duration::ZERO).unwrap();
        assert!(chosen != port && chosen != 0);
    }

    #[test]
    fn no_two_are_ever_the_same() {
        let (holder, port) = holder();
        drop(holder);
        let named = NamedPorts { page: Some(port), ..NamedPorts::default() };
        let chosen = Ports::choose(named, 1, port..=port, port).unwrap();
        assert!(chosen.page == port && chosen.rainbow != port && chosen.admin != port);
        assert_ne!(chosen.rainbow, chosen.admin);
    }

    #[test]
    fn each_seat_has_ports_of_its_own() {
        // Nobody listens there while the test runs: they are below what the system gives out, and not what we use.
        let usual = 17_101..=17_106;
        let ports = |seat| Ports::choose(NamedPorts::default(), seat, usual.clone(), 17_100);
        let [first, second] = [1, 2].map(|seat| ports(seat).unwrap());
        assert_eq!(first, Ports { rainbow: 17_101, page: 17_102, admin: 17_100 });
        assert_eq!(second, Ports { rainbow: 17_103, page: 17_104, admin: 17_099 });
    }
}
