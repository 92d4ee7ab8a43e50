//! Host names to addresses, off the ring threads: one thread for the process, which may block as long as it likes.
//!
//! Answers are kept, used for 30 s, and then still used while they are asked for anew, so that only a name's first use
//! ever waits, and a name server's outage is not ours. No clock is read here: callers say what time it is. Called by
//! the pools of all workers, each with a `Resolver` of its own; address literals never come near the thread.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use crossbeam_channel::{Receiver, Sender, TrySendError};

use crate::base::time::Tick;

/// A worker's handle. Clone it to hand it to a worker; when the last one is dropped, the thread ends.
pub struct Resolver {
    shared: Arc<Shared>,
    questions: Sender<Arc<str>>,
    /// `Shared::news` as last seen by `poll`.
    seen: Cell<u64>,
}

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// At least one address, in the order in which they should be tried.
    Ready(Arc<[IpAddr]>),
    /// Being asked for; look again when the bell rings.
    Pending,
    /// There is no such name, or nobody who could tell.
    Failed,
}

struct Shared {
    names: Mutex<HashMap<Arc<str>, Entry>>,
    /// Counts the answers that came in.
    news: AtomicU64,
    bells: Mutex<Vec<Bell>>,
}

struct Entry {
    known: Lookup,
    /// When it was last asked for.
    asked: Tick,
    /// A question is on its way.
    asking: bool,
}

type Bell = Box<dyn Fn() + Send + Sync>;

impl Resolver {
    /// Starts the thread, which asks the system (files, DNS, whatever nsswitch.conf says).
    pub fn start() -> io::Result<Resolver> {
        Resolver::start_with(|host| Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect()))
    }

    /// The same with another source of answers.
    pub fn start_with(answer: impl FnMut(&str) -> io::Result<Vec<IpAddr>> + Send + 'static) -> io::Result<Resolver> {
        let (questions, asked) = crossbeam_channel::bounded(QUESTIONS_MAX);
        let shared =
            Arc::new(Shared { names: Mutex::default(), news: AtomicU64::new(0), bells: Mutex::new(Vec::new()) });
        let of_thread = Arc::clone(&shared);
        thread::Builder::new().name("rainbow-resolve".into()).spawn(move || of_thread.answer_all(&asked, answer))?;
        Ok(Resolver { shared, questions, seen: Cell::new(0) })
    }

    /// `ring` is called on the resolver's thread after every answer; it should wake the worker, which then calls
    /// `poll`.
    pub fn on_news(&self, ring: impl Fn() + Send + Sync + 'static) {
        lock(&self.shared.bells).push(Box::new(ring));
    }

    /// True when answers have come in since this handle was last asked.
    pub fn poll(&self) -> bool {
        let news = self.shared.news.load(Ordering::Acquire);
        self.seen.replace(news) != news
    }

    /// The addresses of `host`, at once or later. Never blocks: the lock is only ever held for a look into the table.
    pub fn lookup(&self, host: &str, now: Tick) -> Lookup {
        if let Ok(literal) = host.parse::<IpAddr>() {
            return Lookup::Ready(Arc::new([literal]));
        }
        let mut names = lock(&self.shared.names);
        if let Some(entry) = names.get_mut(host) {
            let keep_ms = if matches!(entry.known, Lookup::Ready(_)) { TTL_MS } else { FAILED_TTL_MS };
            if !entry.asking && now.since_ms(entry.asked) >= keep_ms {
                let (name, _) = names.get_key_value(host).expect("just found");
                let name = Arc::clone(name);
                let asking = self.ask(&name);
                let entry = names.get_mut(host).expect("just found");
                (entry.asking, entry.asked) = (asking, now);
                if entry.known == Lookup::Failed {
                    entry.known = Lookup::Pending;
                }
            }
            return names[host].known.clone();
        }
        // Names come from the operator's URLs only, so the table needs no other bound.
        let name: Arc<str> = host.into();
        let asking = self.ask(&name);
        names.insert(name, Entry { known: Lookup::Pending, asked: now, asking });
        Lookup::Pending
    }

    /// Whether the question went out; it does not while the thread is far behind, and the next lookup tries again.
    fn ask(&self, name: &Arc<str>) -> bool {
        match self.questions.try_send(Arc::clone(name)) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }
}

impl Clone for Resolver {
    fn clone(&self) -> Resolver {
        Resolver { shared: Arc::clone(&self.shared), questions: self.questions.clone(), seen: self.seen.clone() }
    }
}

impl Shared {
    /// The thread: one question after another, until nobody is left to ask.
    fn answer_all(&self, asked: &Receiver<Arc<str>>, mut answer: impl FnMut(&str) -> io::Result<Vec<IpAddr>>) {
        for name in asked {
            let addresses = answer(&name);
            self.learn(&name, addresses);
            self.news.fetch_add(1, Ordering::Release);
            lock(&self.bells).iter().for_each(|ring| ring());
        }
    }

    fn learn(&self, name: &str, addresses: io::Result<Vec<IpAddr>>) {
        let found = match addresses {
            Ok(mut addresses) => {
                addresses.dedup();
                addresses.truncate(ADDRESSES_MAX);
                addresses
            }
            Err(error) => {
                tracing::debug!(name, %error, "name not resolved");
                Vec::new()
            }
        };
        let mut names = lock(&self.names);
        let entry = names.get_mut(name).expect("asked for, so entered");
        entry.asking = false;
        if !found.is_empty() {
            entry.known = Lookup::Ready(found.into());
        } else if !matches!(entry.known, Lookup::Ready(_)) {
            // Old addresses are better than none.
            entry.known = Lookup::Failed;
        }
    }
}

/// A panic elsewhere leaves the table as it was between two statements, which is always whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

const TTL_MS: u64 = 30_000;
/// A name that is not there may be there soon: backends start after us.
const FAILED_TTL_MS: u64 = 1000;
const QUESTIONS_MAX: usize = 64;
/// More would only make a failing connect last longer.
const ADDRESSES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::mpsc;

    use super::*;

    /// A resolver whose answers the test gives one by one, and what rings after each.
    struct Scripted {
        resolver: Resolver,
        answers: mpsc::Sender<io::Result<Vec<IpAddr>>>,
        asked: mpsc::Receiver<String>,
        rung: mpsc::Receiver<()>,
    }

    fn scripted() -> Scripted {
        let (answers, next_answer) = mpsc::channel();
        let (on_ask, asked) = mpsc::channel();
        let (on_ring, rung) = mpsc::channel();
        let resolver = Resolver::start_with(move |host| {
            on_ask.send(host.to_owned()).expect("the test listens");
            next_answer.recv().expect("the test answers")
        });
        let resolver = resolver.expect("a thread");
        resolver.on_news(move || on_ring.send(()).unwrap_or_default());
        Scripted { resolver, answers, asked, rung }
    }

    impl Scripted {
        fn answer(&self, addresses: io::Result<Vec<IpAddr>>) {
            self.answers.send(addresses).unwrap();
            self.rung.recv().unwrap();
        }
    }

    fn ip(last: u8) -> IpAddr {
        Ipv4Addr::new(127, 0, 0, last).into()
    }

    fn ready(last: u8) -> Lookup {
        Lookup::Ready(Arc::new([ip(last)]))
    }

    #[test]
    fn literals_are_ready_at_once_and_never_asked() {
        let scripted = scripted();
        assert_eq!(scripted.resolver.lookup("127.0.0.1", Tick(0)), ready(1));
        assert!(matches!(scripted.resolver.lookup("::1", Tick(0)), Lookup::Ready(_)));
        assert!(scripted.asked.try_recv().is_err());
    }

    #[test]
    fn a_name_is_asked_once_and_news_are_polled_once() {
        let scripted = scripted();
        let other = scripted.resolver.clone();
        assert_eq!(scripted.resolver.lookup("a", Tick(0)), Lookup::Pending);
        assert_eq!(other.lookup("a", Tick(50_000)), Lookup::Pending);
        assert!(!scripted.resolver.poll());
        scripted.answer(Ok(vec![ip(1), ip(1)]));
        assert_eq!([scripted.resolver.poll(), scripted.resolver.poll(), other.poll()], [true, false, true]);
        assert_eq!(other.lookup("a", Tick(100)), ready(1));
        assert_eq!(scripted.asked.iter().take(1).collect::<Vec<_>>(), ["a"]);
        assert!(scripted.asked.try_recv().is_err(), "two lookups, one question");
    }

    #[test]
    fn an_old_answer_is_used_while_it_is_refreshed_and_when_that_fails() {
        let scripted = scripted();
        let lookup = |ms| scripted.resolver.lookup("a", Tick(ms));
        lookup(0);
        scripted.answer(Ok(vec![ip(1)]));
        assert_eq!([lookup(29_999), lookup(30_000)], [ready(1), ready(1)]);
        scripted.answer(Err(io::ErrorKind::TimedOut.into()));
        assert_eq!(lookup(59_999), ready(1));
        assert_eq!(lookup(60_000), ready(1));
        scripted.answer(Ok(vec![ip(2)]));
        assert_eq!(lookup(60_001), ready(2));
        assert_eq!(scripted.asked.try_iter().count(), 3);
    }

    #[test]
    fn an_unknown_name_fails_and_is_asked_again_after_a_while() {
        let scripted = scripted();
        let lookup = |ms| scripted.resolver.lookup("a", Tick(ms));
        assert_eq!(lookup(0), Lookup::Pending);
        scripted.answer(Ok(vec![]));
        assert_eq!([lookup(1), lookup(999)], [Lookup::Failed, Lookup::Failed]);
        assert_eq!(lookup(1000), Lookup::Pending);
        scripted.answer(Ok(vec![ip(3)]));
        assert_eq!(lookup(1001), ready(3));
    }

    #[test]
    fn the_thread_ends_with_its_last_handle() {
        let (alive, ended) = mpsc::channel::<()>();
        let resolver = Resolver::start_with(move |_| {
            let _held = &alive;
            Ok(Vec::new())
        });
        drop(resolver);
        assert_eq!(ended.recv(), Err(mpsc::RecvError), "the thread has dropped what it held");
    }

    #[test]
    fn the_system_knows_localhost() {
        let resolver = Resolver::start().unwrap();
        let (on_ring, rung) = mpsc::channel();
        resolver.on_news(move || on_ring.send(()).unwrap_or_default());
        assert_eq!(resolver.lookup("localhost", Tick(0)), Lookup::Pending);
        rung.recv().unwrap();
        let Lookup::Ready(addresses) = resolver.lookup("localhost", Tick(1)) else { panic!("localhost is known") };
        assert!(addresses.iter().all(IpAddr::is_loopback));
    }
}
