//! Which demo of its directory this one is. Each has a directory for messages and three usual ports that no other demo
//! has, and finds them again after a restart: to a browser a page at another port is another page.
//!
//! ```text
//! demo 1   ./rainbow-data     1984 for clients   1985 for pages   1983 for calls
//! demo 2   ./rainbow-data-2   1986               1987             1982
//! ```
//! Of the directories that no running demo has, a demo takes the one that was used last: what waits for people is
//! there. A seat is held by an abstract socket name, which ends with its process. Called by `main`.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// Held for as long as it lives.
#[derive(Debug)]
pub struct Seat {
    /// From 1 on.
    pub number: u16,
    pub data_dir: PathBuf,
    _hold: Option<UnixDatagram>,
}

impl Seat {
    /// At a directory that was named.
    pub fn at(data_dir: PathBuf) -> Seat {
        Seat { number: 1, data_dir, _hold: None }
    }

    /// The next one in this directory. Fails with `AddrInUse` where all are taken.
    pub fn take(directory: &Path) -> io::Result<Seat> {
        let about = fs::metadata(directory)?;
        let hold = |number: u16| {
            let name = format!("rainbow-demo/{}/{}/{number}", about.dev(), about.ino());
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?)
        };
        let seats = (1..=SEATS_MAX).map(|number| (number, data_dir(directory, number)));
        let (mut used, mut new) = (Vec::new(), Vec::new());
        for (number, data_dir) in seats {
            match last_use(&data_dir) {
                Some(when) => used.push((when, number, data_dir)),
                None => new.push((number, data_dir)),
            }
        }
        used.sort_by(|(one, ..), (other, ..)| other.cmp(one));
        // A demo that was killed has its seat for some milliseconds more.
        let mut timeout = RESTART_TIMEOUT;
        for (number, data_dir) in used.into_iter().map(|(_, number, data_dir)| (number, data_dir)).chain(new) {
            match wait_for(|| hold(number), timeout) {
                Ok(hold) => return Ok(Seat { number, data_dir, _hold: Some(hold) }),
                Err(error) if error.kind() == ErrorKind::AddrInUse => timeout = Duration::ZERO,
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(ErrorKind::AddrInUse, format!("{SEATS_MAX} demos run in this directory already")))
    }
}

fn data_dir(directory: &Path, number: u16) -> PathBuf {
    let name = if number == 1 { "rainbow-data".into() } else { format!("rainbow-data-{number}") };
    if directory == Path::new(".") { name.into() } else { directory.join(name) }
}

/// `None`: it does not exist.
fn last_use(data_dir: &Path) -> Option<SystemTime> {
    let files = fs::read_dir(data_dir).ok()?;
    let times = files.filter_map(|file| file.ok()?.metadata().ok()?.modified().ok());
    Some(times.max().unwrap_or(SystemTime::UNIX_EPOCH))
}

fn wait_for<T>(hold: impl Fn() -> io::Result<T>, timeout: Duration) -> io::Result<T> {
    let began = Instant::now();
    loop {
        match hold() {
            Err(error) if error.kind() == ErrorKind::AddrInUse && began.elapsed() < timeout => thread::sleep(PAUSE),
            outcome => return outcome,
        }
    }
}

/// Each has two of the ports from 1984 to 2003.
const SEATS_MAX: u16 = 10;
const RESTART_TIMEOUT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Directory {
            let path = std::env::temp_dir().join(format!("rainbow-seats-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Directory(path)
        }

        fn take(&self) -> Seat {
            Seat::take(&self.0).unwrap()
        }

        /// As the store of a demo does.
        fn used(&self, seat: &Seat, s_ago: u64) {
            fs::create_dir_all(&seat.data_dir).unwrap();
            let file = File::create(seat.data_dir.join("rainbow.db")).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(s_ago)).unwrap();
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn each_demo_has_a_directory_of_its_own_and_finds_it_again() {
        let directory = Directory::new("again");
        let (first, second) = (directory.take(), directory.take());
        assert_eq!((first.number, second.number), (1, 2));
        assert_eq!(first.data_dir, directory.0.join("rainbow-data"));
        assert_eq!(second.data_dir, directory.0.join("rainbow-data-2"));
        directory.used(&first, 10);
        directory.used(&second, 20);
        drop(second);
        assert_eq!(directory.take().number, 2, "the first one is running");
    }

    #[test]
    fn a_demo_goes_on_where_the_last_one_ended() {
        let directory = Directory::new("last");
        for (first_s_ago, second_s_ago, expected) in [(10, 20, 1), (20, 10, 2)] {
            let (first, second) = (directory.take(), directory.take());
            let (one, other) = if first.number == 1 { (first, second) } else { (second, first) };
            directory.used(&one, first_s_ago);
            directory.used(&other, second_s_ago);
            drop((one, other));
            assert_eq!(directory.take().number, expected);
        }
    }

    #[test]
    fn a_seat_whose_demo_is_ending_is_waited_for() {
        let directory = Directory::new("ending");
        let first = directory.take();
        directory.used(&first, 0);
        thread::scope(|scope| {
            let next = scope.spawn(|| directory.take().number);
            thread::sleep(Duration::from_millis(100));
            drop(first);
            assert_eq!(next.join().unwrap(), 1);
        });
    }

    #[test]
    fn seats_come_to_an_end() {
        let directory = Directory::new("end");
        let _seats: Vec<Seat> = (0..SEATS_MAX).map(|_| directory.take()).collect();
        let error = Seat::take(&directory.0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
    }
}
