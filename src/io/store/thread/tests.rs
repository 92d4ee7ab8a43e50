//! The thread with a real store: everything is reported once and in order, nothing sent is lost, nobody waits for ever.

use super::*;
use crate::config::{Durability, StoreKind};
use crate::shard::Message;
use crate::shard::command::{
    Claim, Command, CommandNumber, DownlinkMark, Mutation, Offset, Page, SessionId, SessionRow, StoredMessage,
    UplinkMark,
};
use crate::store::{Opened, Options, StoreNode};
use crate::wire::packet::QoS;
use std::path::PathBuf;
use std::sync::mpsc;

/// A folder for one store, removed with the value.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let nth = COUNT.fetch_add(1, Ordering::Relaxed);
        Dir(std::env::temp_dir().join(format!("rainbow-store-{}-{nth}", std::process::id())))
    }

    fn open(&self) -> (Store, Opened) {
        let options = Options {
            kind: StoreKind::Sqlite,
            data_dir: self.0.clone(),
            url: Default::default(),
            durability: Durability::Fsync,
            bytes_max: 1 << 30,
            cluster_name: String::new(),
            node: StoreNode::alone(),
        };
        Store::open(&options, now()).unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[derive(Debug)]
enum Report {
    Completions(ShardId, Completions),
    Claimed(ClaimId, ClaimOutcome),
    Expired(Vec<ExpiredMessages>),
}

struct Running {
    thread: StoreThread,
    sender: StoreSender,
    metrics: Arc<StoreMetrics>,
    reports: mpsc::Receiver<Report>,
    /// While a test holds it, the thread blocks in its next report.
    gate: Arc<Mutex<()>>,
}

fn run(dir: &Dir) -> Running {
    let (sender, reports) = mpsc::channel();
    let gate = Arc::new(Mutex::new(()));
    let sink = |wrap: fn(Report) -> Report| {
        let (sender, gate) = (sender.clone(), gate.clone());
        move |report| {
            // The test may have ended.
            let _ = sender.send(wrap(report));
            drop(gate.lock());
        }
    };
    let (completions, claimed, expired) = (sink(|report| report), sink(|report| report), sink(|report| report));
    let sinks = ReportSinks {
        completions: Box::new(move |shard, what| completions(Report::Completions(shard, what))),
        claimed: Box::new(move |id, outcome| claimed(Report::Claimed(id, outcome))),
        expired: Box::new(move |what| expired(Report::Expired(what))),
        transferred: Box::new(|_, _| {}),
        ownership: Box::new(|_, _| {}),
        recorded: Box::new(|_, _| {}),
        fenced: Box::new(|_| {}),
        nodes: None,
    };
    let metrics = Arc::<StoreMetrics>::default();
    let (store, _) = dir.open();
    let (thread, sender) = start(store, &StoreConfig::default(), &Limits::DEFAULT, sinks, metrics.clone()).unwrap();
    Running { thread, sender, metrics, reports, gate }
}

impl Running {
    fn report(&self) -> Report {
        self.reports.recv_timeout(Duration::from_secs(20)).expect("the thread reports")
    }

    #[track_caller]
    fn send(&self, request: Request) {
        assert!(self.sender.try_send(request).is_ok(), "there is room");
    }
}

fn mutation(shard: u16, number: u64, mutation: Mutation) -> Request {
    Request::Shard {
        shard: ShardId(shard),
        command: Command { number: CommandNumber(number), operation: Operation::Mutate(mutation) },
    }
}

fn put(shard: u16) -> Request {
    let row = SessionRow {
        session: SessionId(u128::from(shard)),
        name: format!("s{shard}").into(),
        expiry_s: 3600,
        ends: None,
        cookie: None,
        downlink: DownlinkMark::default(),
        uplink: UplinkMark::default(),
    };
    mutation(shard, 1, Mutation::PutSession(Box::new(row)))
}

fn store(shard: u16, number: u64) -> Request {
    store_until(shard, number, UnixMs(u64::MAX))
}

fn store_until(shard: u16, number: u64, expires: UnixMs) -> Request {
    let message = StoredMessage {
        session: SessionId(u128::from(shard)),
        offset: Offset(number),
        message: Message::encode(QoS::AtLeastOnce, 1, b"hello", &mut Vec::new()),
        sent: false,
        released: false,
        stored: UnixMs(1),
        expires,
        claim: None,
    };
    mutation(shard, number, Mutation::PutMessage(Box::new(message)))
}

fn load(shard: u16, number: u64) -> Request {
    let operation = Operation::Load { session: SessionId(u128::from(shard)), after: None, most: 10 };
    Request::Shard { shard: ShardId(shard), command: Command { number: CommandNumber(number), operation } }
}

#[test]
fn many_senders_get_completions_in_order_and_many_share_a_commit() {
    const EACH: u64 = 500;
    const SHARDS: u16 = 4;
    let dir = Dir::new();
    let running = run(&dir);
    thread::scope(|scope| {
        for shard in 0..SHARDS {
            let sender = running.sender.clone();
            scope.spawn(move || {
                for number in 1..=EACH {
                    let request = if number == 1 { put(shard) } else { store(shard, number) };
                    assert!(sender.try_send(request).is_ok(), "there is room");
                }
            });
        }
    });
    let mut upto = [0; SHARDS as usize];
    while upto.iter().any(|upto| *upto < EACH) {
        match running.report() {
            Report::Completions(ShardId(shard), new) => {
                assert!(new.upto.0 > upto[usize::from(shard)], "reported once, and in order");
                assert_eq!(new.exceptions, []);
                upto[usize::from(shard)] = new.upto.0;
            }
            other => panic!("{other:?}"),
        }
    }
    let metrics = running.metrics.clone();
    let commits = metrics.commits.get();
    assert_eq!(metrics.mutations.get(), EACH * u64::from(SHARDS));
    assert!(commits < EACH, "{commits} commits: they were not shared");
    assert_eq!(metrics.messages.get(), (EACH - 1) * u64::from(SHARDS));
    assert!(running.thread.stop(Instant::now() + Duration::from_secs(10)));
    let waiting: Vec<u32> = dir.open().1.sessions.iter().map(|found| found.waiting).collect();
    assert_eq!(waiting, [EACH as u32 - 1; SHARDS as usize]);
}

#[test]
fn a_shard_gets_one_report_per_batch_with_what_is_not_plainly_done() {
    let dir = Dir::new();
    let running = run(&dir);
    let closed_gate = running.gate.lock().unwrap();
    running.send(put(7));
    assert!(matches!(running.report(), Report::Completions(ShardId(7), Completions { upto: CommandNumber(1), .. })));
    // The thread is blocked: what is sent now becomes one batch.
    running.send(load(7, 2));
    running.send(put(8));
    running.send(store(7, 3));
    let claim = Claim { message_id: "m".into(), until: UnixMs(u64::MAX) };
    running.send(Request::Claim { id: ClaimId(5), claim });
    running.send(Request::Settle { message_id: "m".into(), answer: b"{}".to_vec() });
    running.send(load(7, 4));
    running.send(store(9, 1));
    drop(closed_gate);
    let mut reports = [(); 4].map(|()| running.report()).into_iter();
    match reports.next() {
        Some(Report::Completions(ShardId(7), Completions { upto: CommandNumber(4), exceptions })) => {
            match &exceptions[..] {
                [(CommandNumber(2), Completion::Loaded(first)), (CommandNumber(4), Completion::Loaded(second))] => {
                    assert_eq!(*first, Page::default());
                    assert_eq!(second.messages[0].offset, Offset(3));
                }
                other => panic!("{other:?}"),
            }
        }
        other => panic!("{other:?}"),
    }
    let mut next_completions = || match reports.next() {
        Some(Report::Completions(shard, Completions { upto, exceptions })) => (shard, upto, exceptions),
        other => panic!("{other:?}"),
    };
    assert_eq!(next_completions(), (ShardId(8), CommandNumber(1), vec![]));
    let fenced = (CommandNumber(1), Completion::Refused(StoreError::Fenced));
    assert_eq!(next_completions(), (ShardId(9), CommandNumber(1), vec![fenced]));
    assert!(matches!(reports.next(), Some(Report::Claimed(ClaimId(5), ClaimOutcome::New))));
    let metrics = &running.metrics;
    let counted = [&metrics.mutations, &metrics.loads, &metrics.claims, &metrics.refused, &metrics.commits];
    assert_eq!(counted.map(|counter| counter.get()), [4, 2, 2, 1, 2]);
    assert!(running.thread.stop(Instant::now() + Duration::from_secs(10)));
}

#[test]
fn a_full_queue_gives_the_request_back_and_a_stop_finishes_what_is_queued() {
    let dir = Dir::new();
    let running = run(&dir);
    let closed_gate = running.gate.lock().unwrap();
    running.send(put(0));
    running.report();
    let mut number = 1;
    let back = loop {
        number += 1;
        if let Err(request) = running.sender.try_send(store(0, number)) {
            break request;
        }
    };
    assert_eq!(
        (running.sender.len(), number as usize),
        (Limits::DEFAULT.store_queue_max, Limits::DEFAULT.store_queue_max + 2)
    );
    assert!(
        matches!(back, Request::Shard { command: Command { number: given_back, .. }, .. } if given_back.0 == number)
    );
    drop(closed_gate);
    assert!(running.thread.stop(Instant::now() + Duration::from_secs(10)));
    let upto = running.reports.try_iter().filter_map(|report| match report {
        Report::Completions(_, completions) => Some(completions.upto),
        _ => None,
    });
    assert_eq!(upto.last(), Some(CommandNumber(number - 1)));
    assert!(running.sender.try_send(store(0, number)).is_err(), "nobody is there any more");
    assert_eq!(dir.open().1.sessions[0].waiting as usize, Limits::DEFAULT.store_queue_max);
}

#[test]
fn what_expires_is_removed_and_reported() {
    let dir = Dir::new();
    let running = run(&dir);
    running.send(put(1));
    running.send(store_until(1, 2, UnixMs(2)));
    running.send(store(1, 3));
    let expired = loop {
        if let Report::Expired(expired) = running.report() {
            break expired;
        }
    };
    assert_eq!(expired.iter().map(|expired| (expired.session.0, expired.messages)).collect::<Vec<_>>(), [(1, 1)]);
    assert!(running.thread.stop(Instant::now() + Duration::from_secs(10)));
    assert_eq!(dir.open().1.sessions[0].waiting, 1);
}
