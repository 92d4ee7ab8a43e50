//! Host names to addresses, off the ring threads: a few threads for the process, which may block as long as they like.
//!
//! Owns the threads and the table of names. An address is used for a while, and then still used while the name is
//! resolved again, so that only a name's first use ever waits, and a name server's outage is not ours. Reads no clock:
//! callers say what time it is. Called by the pools of all workers, each with a `Resolver` of its own; address literals
//! never reach the thread.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use crossbeam_channel::{Receiver, Sender, TrySendError};

use crate::base::limits::Limits;
use crate::base::time::Tick;

/// A worker's handle. Clone it to hand it to a worker; when the last one is dropped, the threads end.
pub struct Resolver {
    table: Arc<NameTable>,
    queries: Sender<Arc<str>>,
    /// `NameTable::results` as last seen by `poll`.
    seen: Cell<u64>,
    ttl_ms: u64,
    failed_ttl_ms: u64,
}

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// At least one address, in the order in which they should be tried.
    Ready(Arc<[IpAddr]>),
    /// Being resolved; look again when the resolver wakes the worker.
    Pending,
    /// There is no such name, or no name server that could say.
    Failed,
}

/// Shared by the threads and all handles.
struct NameTable {
    names: Mutex<HashMap<Arc<str>, Entry>>,
    /// Counts the results that came in.
    results: AtomicU64,
    wakers: Mutex<Vec<WakeWorker>>,
    addresses_max: usize,
}

struct Entry {
    known: Lookup,
    /// When it was last queried.
    queried_at: Tick,
    /// A query is in the queue or with a thread.
    is_queried: bool,
}

type WakeWorker = Box<dyn Fn() + Send + Sync>;

impl Resolver {
    /// Starts the threads, which ask the system (files, DNS, whatever nsswitch.conf says).
    pub fn start(limits: &Limits) -> io::Result<Resolver> {
        let resolve = |host: &str| Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect());
        Resolver::start_with(limits, resolve)
    }

    /// The same with another source of addresses.
    pub fn start_with(
        limits: &Limits,
        resolve: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
    ) -> io::Result<Resolver> {
        let (queries, receiver) = crossbeam_channel::bounded(limits.dns_queries_max);
        let table = Arc::new(NameTable {
            names: Mutex::default(),
            results: AtomicU64::new(0),
            wakers: Mutex::new(Vec::new()),
            addresses_max: limits.dns_addresses_max,
        });
        let resolve = Arc::new(resolve);
        for _ in 0..limits.dns_threads {
            let (table, receiver, resolve) = (Arc::clone(&table), receiver.clone(), Arc::clone(&resolve));
            let run = move || table.run(&receiver, |host| resolve(host));
            thread::Builder::new().name("rainbow-resolve".into()).spawn(run)?;
        }
        let (ttl_ms, failed_ttl_ms) = (limits.dns_ttl_ms, limits.dns_failed_ttl_ms);
        Ok(Resolver { table, queries, seen: Cell::new(0), ttl_ms, failed_ttl_ms })
    }

    /// `wake` is called on the resolver's thread after every result. It should wake the worker, which then calls
    /// `poll`.
    pub fn on_result(&self, wake: impl Fn() + Send + Sync + 'static) {
        lock(&self.table.wakers).push(Box::new(wake));
    }

    /// True when results have come in since this handle was last polled.
    pub fn poll(&self) -> bool {
        let results = self.table.results.load(Ordering::Acquire);
        self.seen.replace(results) != results
    }

    /// The addresses of `host`, at once or later. Never blocks: the lock is only ever held for a look into the table.
    pub fn lookup(&self, host: &str, now: Tick) -> Lookup {
        if let Ok(literal) = host.parse::<IpAddr>() {
            return Lookup::Ready(Arc::new([literal]));
        }
        let mut names = lock(&self.table.names);
        if let Some(entry) = names.get_mut(host) {
            let ttl_ms = if matches!(entry.known, Lookup::Ready(_)) { self.ttl_ms } else { self.failed_ttl_ms };
            if !entry.is_queried && now.since_ms(entry.queried_at) >= ttl_ms {
                let (name, _) = names.get_key_value(host).expect("just found");
                let name = Arc::clone(name);
                let is_queried = self.query(&name);
                let entry = names.get_mut(host).expect("just found");
                (entry.is_queried, entry.queried_at) = (is_queried, now);
                if entry.known == Lookup::Failed {
                    entry.known = Lookup::Pending;
                }
            }
            return names[host].known.clone();
        }
        // Names come from the operator's URLs only, so the table needs no other bound.
        let name: Arc<str> = host.into();
        let is_queried = self.query(&name);
        names.insert(name, Entry { known: Lookup::Pending, queried_at: now, is_queried });
        Lookup::Pending
    }

    /// True when the query was queued. It is not while the threads are far behind; a later lookup tries again.
    fn query(&self, name: &Arc<str>) -> bool {
        match self.queries.try_send(Arc::clone(name)) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }
}

impl Clone for Resolver {
    fn clone(&self) -> Resolver {
        Resolver {
            table: Arc::clone(&self.table),
            queries: self.queries.clone(),
            seen: self.seen.clone(),
            ttl_ms: self.ttl_ms,
            failed_ttl_ms: self.failed_ttl_ms,
        }
    }
}

impl NameTable {
    /// A thread: one query after another, until the last handle is dropped. A name is with one thread at a time.
    fn run(&self, queries: &Receiver<Arc<str>>, resolve: impl Fn(&str) -> io::Result<Vec<IpAddr>>) {
        for name in queries {
            let addresses = resolve(&name);
            self.store_result(&name, addresses);
            self.results.fetch_add(1, Ordering::Release);
            lock(&self.wakers).iter().for_each(|wake| wake());
        }
    }

    fn store_result(&self, name: &str, addresses: io::Result<Vec<IpAddr>>) {
        let found = match addresses {
            Ok(mut addresses) => {
                addresses.dedup();
                addresses.truncate(self.addresses_max);
                addresses
            }
            Err(error) => {
                tracing::debug!(name, %error, "name not resolved");
                Vec::new()
            }
        };
        let mut names = lock(&self.names);
        let entry = names.get_mut(name).expect("queried, so entered");
        entry.is_queried = false;
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::mpsc;

    use super::*;

    /// A resolver whose results the test gives one by one, and what is woken after each.
    struct Scripted {
        resolver: Resolver,
        answers: mpsc::Sender<io::Result<Vec<IpAddr>>>,
        queried: mpsc::Receiver<String>,
        woken: mpsc::Receiver<()>,
    }

    fn scripted() -> Scripted {
        let (answers, next_answer) = mpsc::channel();
        let (on_query, queried) = mpsc::channel();
        let (on_wake, woken) = mpsc::channel();
        let next_answer = Mutex::new(next_answer);
        let limits = Limits { dns_threads: 1, ..Limits::DEFAULT };
        let resolver = Resolver::start_with(&limits, move |host| {
            on_query.send(host.to_owned()).expect("the test listens");
            lock(&next_answer).recv().expect("the test answers")
        });
        let resolver = resolver.expect("a thread");
        resolver.on_result(move || on_wake.send(()).unwrap_or_default());
        Scripted { resolver, answers, queried, woken }
    }

    impl Scripted {
        fn answer(&self, addresses: io::Result<Vec<IpAddr>>) {
            self.answers.send(addresses).unwrap();
            self.woken.recv().unwrap();
        }
    }

    fn ip(last: u8) -> IpAddr {
        Ipv4Addr::new(127, 0, 0, last).into()
    }

    fn ready(last: u8) -> Lookup {
        Lookup::Ready(Arc::new([ip(last)]))
    }

    #[test]
    fn literals_are_ready_at_once_and_never_queried() {
        let scripted = scripted();
        assert_eq!(scripted.resolver.lookup("127.0.0.1", Tick(0)), ready(1));
        assert!(matches!(scripted.resolver.lookup("::1", Tick(0)), Lookup::Ready(_)));
        assert!(scripted.queried.try_recv().is_err());
    }

    #[test]
    fn a_name_is_queried_once_and_its_result_polled_once() {
        let scripted = scripted();
        let other = scripted.resolver.clone();
        assert_eq!(scripted.resolver.lookup("a", Tick(0)), Lookup::Pending);
        assert_eq!(other.lookup("a", Tick(50_000)), Lookup::Pending);
        assert!(!scripted.resolver.poll());
        scripted.answer(Ok(vec![ip(1), ip(1)]));
        assert_eq!([scripted.resolver.poll(), scripted.resolver.poll(), other.poll()], [true, false, true]);
        assert_eq!(other.lookup("a", Tick(100)), ready(1));
        assert_eq!(scripted.queried.iter().take(1).collect::<Vec<_>>(), ["a"]);
        assert!(scripted.queried.try_recv().is_err(), "two lookups, one query");
    }

    #[test]
    fn an_old_address_is_used_while_it_is_refreshed_and_when_that_fails() {
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
        assert_eq!(scripted.queried.try_iter().count(), 3);
    }

    #[test]
    fn an_unknown_name_fails_and_is_queried_again_after_a_while() {
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
        let resolver = Resolver::start_with(&Limits::DEFAULT, move |_| {
            let _dropped_with_the_thread = &alive;
            Ok(Vec::new())
        });
        drop(resolver);
        assert_eq!(ended.recv(), Err(mpsc::RecvError), "the thread has ended");
    }

    #[test]
    fn the_system_knows_localhost() {
        let resolver = Resolver::start(&Limits::DEFAULT).unwrap();
        let (on_wake, woken) = mpsc::channel();
        resolver.on_result(move || on_wake.send(()).unwrap_or_default());
        assert_eq!(resolver.lookup("localhost", Tick(0)), Lookup::Pending);
        woken.recv().unwrap();
        let Lookup::Ready(addresses) = resolver.lookup("localhost", Tick(1)) else { panic!("localhost is known") };
        assert!(addresses.iter().all(IpAddr::is_loopback));
    }
}
