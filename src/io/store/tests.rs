//! The thread with a real store: everything is told once and in order, nothing sent is lost, nobody waits for ever.

use super::*;
use crate::config::{Durability, StoreKind};
use crate::shard::Message;
use crate::shard::command::{
    Claim, Command, CommandNumber, DownlinkMark, Mutation, Offset, Page, SessionId, SessionRow, StoredMessage,
    UplinkMark,
};
use crate::store::{Opened, Options};
use crate::wire::packet::QoS;
use std::path::PathBuf;
use std::sync::mpsc;

/// A store of its own, gone with it.
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
            url: String::new(),
            durability: Durability::Fsync,
            bytes_max: 1 << 30,
            cluster_name: String::new(),
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
enum Heard {
    Completions(ShardId, Completions),
    Claimed(u64, Claimed),
    Expired(Vec<ExpiredMessages>),
}

struct Running {
    thread: StoreThread,
    sender: StoreSender,
    metrics: Arc<StoreMetrics>,
    heard: mpsc::Receiver<Heard>,
    /// While it is held, the thread stands still in the next thing it says.
    gate: Arc<Mutex<()>>,
}

fn run(dir: &Dir) -> Running {
    let (say, heard) = mpsc::channel();
    let gate = Arc::new(Mutex::new(()));
    let outlet = |wrap: fn(Heard) -> Heard| {
        let (say, gate) = (say.clone(), gate.clone());
        move |heard| {
            // The test may have heard enough.
            let _ = say.send(wrap(heard));
            drop(gate.lock());
        }
    };
    let (told, claimed, expired) = (outlet(|heard| heard), outlet(|heard| heard), outlet(|heard| heard));
    let outlets = Outlets {
        told: Box::new(move |shard, what| told(Heard::Completions(shard, what))),
        claimed: Box::new(move |ticket, what| claimed(Heard::Claimed(ticket, what))),
        expired: Box::new(move |what| expired(Heard::Expired(what))),
    };
    let metrics = Arc::<StoreMetrics>::default();
    let (thread, sender) = start(dir.open().0, &StoreConfig::default(), outlets, metrics.clone()).unwrap();
    Running { thread, sender, metrics, heard, gate }
}

impl Running {
    fn hear(&self) -> Heard {
        self.heard.recv_timeout(Duration::from_secs(20)).expect("the thread says something")
    }

    #[track_caller]
    fn send(&self, request: Request) {
        assert!(self.sender.try_send(request).is_ok(), "there is room");
    }
}

fn step(shard: u16, number: u64, step: Mutation) -> Request {
    Request::Shard {
        shard: ShardId(shard),
        command: Command { number: CommandNumber(number), operation: Operation::Mutate(step) },
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
    step(shard, 1, Mutation::PutSession(Box::new(row)))
}

fn keep(shard: u16, number: u64) -> Request {
    keep_until(shard, number, UnixMs(u64::MAX))
}

fn keep_until(shard: u16, number: u64, expires: UnixMs) -> Request {
    let kept = StoredMessage {
        session: SessionId(u128::from(shard)),
        offset: Offset(number),
        message: Message::encode(QoS::AtLeastOnce, 1, b"hello", &mut Vec::new()),
        sent: false,
        released: false,
        stored: UnixMs(1),
        expires,
        claim: None,
    };
    step(shard, number, Mutation::PutMessage(Box::new(kept)))
}

fn load(shard: u16, number: u64) -> Request {
    let operation = Operation::Load { session: SessionId(u128::from(shard)), after: None, most: 10 };
    Request::Shard { shard: ShardId(shard), command: Command { number: CommandNumber(number), operation } }
}

#[test]
fn many_senders_are_all_told_in_order_and_many_share_a_commit() {
    const EACH: u64 = 500;
    const SHARDS: u16 = 4;
    let dir = Dir::new();
    let running = run(&dir);
    thread::scope(|scope| {
        for shard in 0..SHARDS {
            let sender = running.sender.clone();
            scope.spawn(move || {
                for number in 1..=EACH {
                    let request = if number == 1 { put(shard) } else { keep(shard, number) };
                    assert!(sender.try_send(request).is_ok(), "there is room");
                }
            });
        }
    });
    let mut upto = [0; SHARDS as usize];
    while upto.iter().any(|upto| *upto < EACH) {
        match running.hear() {
            Heard::Completions(ShardId(shard), told) => {
                assert!(told.upto.0 > upto[usize::from(shard)], "told once, and in order");
                assert_eq!(told.exceptions, []);
                upto[usize::from(shard)] = told.upto.0;
            }
            other => panic!("{other:?}"),
        }
    }
    let metrics = &running.metrics;
    let commits = metrics.commits.get();
    assert_eq!(metrics.mutations.get(), EACH * u64::from(SHARDS));
    assert!(commits < EACH, "{commits} commits: they were not shared");
    assert_eq!(metrics.messages.get(), (EACH - 1) * u64::from(SHARDS));
    running.thread.stop();
    let waiting: Vec<u32> = dir.open().1.sessions.iter().map(|found| found.waiting).collect();
    assert_eq!(waiting, [EACH as u32 - 1; SHARDS as usize]);
}

#[test]
fn a_shard_is_told_once_per_batch_what_is_not_plainly_done() {
    let dir = Dir::new();
    let running = run(&dir);
    let held = running.gate.lock().unwrap();
    running.send(put(7));
    assert!(matches!(running.hear(), Heard::Completions(ShardId(7), Completions { upto: CommandNumber(1), .. })));
    // It stands still: what comes now is one batch.
    running.send(load(7, 2));
    running.send(put(8));
    running.send(keep(7, 3));
    let claim = Claim { message_id: "m".into(), until: UnixMs(u64::MAX) };
    running.send(Request::Claim { ticket: 5, claim });
    running.send(Request::Settle { message_id: "m".into(), answer: b"{}".to_vec() });
    running.send(load(7, 4));
    running.send(keep(9, 1));
    drop(held);
    let mut heard = [(); 4].map(|()| running.hear()).into_iter();
    match heard.next() {
        Some(Heard::Completions(ShardId(7), Completions { upto: CommandNumber(4), exceptions })) => {
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
    assert!(
        matches!(heard.next(), Some(Heard::Completions(ShardId(8), Completions { upto: CommandNumber(1), exceptions })) if exceptions.is_empty())
    );
    let fenced = [(CommandNumber(1), Completion::Refused(StoreError::Fenced))];
    assert!(
        matches!(heard.next(), Some(Heard::Completions(ShardId(9), Completions { upto: CommandNumber(1), exceptions })) if exceptions == fenced)
    );
    assert!(matches!(heard.next(), Some(Heard::Claimed(5, Claimed::New))));
    let metrics = &running.metrics;
    let counted = [&metrics.mutations, &metrics.loads, &metrics.claims, &metrics.refused, &metrics.commits];
    assert_eq!(counted.map(|counter| counter.get()), [4, 2, 2, 1, 2]);
    running.thread.stop();
}

#[test]
fn a_full_queue_gives_the_request_back_and_a_stop_finishes_what_is_queued() {
    let dir = Dir::new();
    let running = run(&dir);
    let held = running.gate.lock().unwrap();
    running.send(put(0));
    running.hear();
    let mut number = 1;
    let back = loop {
        number += 1;
        if let Err(request) = running.sender.try_send(keep(0, number)) {
            break request;
        }
    };
    assert_eq!((running.sender.len(), number as usize), (QUEUE_MAX, QUEUE_MAX + 2));
    assert!(
        matches!(back, Request::Shard { command: Command { number: given_back, .. }, .. } if given_back.0 == number)
    );
    drop(held);
    running.thread.stop();
    let told = running.heard.try_iter().filter_map(|heard| match heard {
        Heard::Completions(_, told) => Some(told.upto),
        _ => None,
    });
    assert_eq!(told.last(), Some(CommandNumber(number - 1)));
    assert!(running.sender.try_send(keep(0, number)).is_err(), "nobody is there any more");
    assert_eq!(dir.open().1.sessions[0].waiting as usize, QUEUE_MAX);
}

#[test]
fn what_expires_is_removed_and_told() {
    let dir = Dir::new();
    let running = run(&dir);
    running.send(put(1));
    running.send(keep_until(1, 2, UnixMs(2)));
    running.send(keep(1, 3));
    let expired = loop {
        if let Heard::Expired(expired) = running.hear() {
            break expired;
        }
    };
    assert_eq!(expired.iter().map(|expired| (expired.session.0, expired.messages)).collect::<Vec<_>>(), [(1, 1)]);
    running.thread.stop();
    assert_eq!(dir.open().1.sessions[0].waiting, 1);
}

#[test]
fn a_panic_refuses_and_does_not_stay_silent() {
    let dir = Dir::new();
    let (told, heard) = mpsc::channel();
    let outlets = Outlets {
        told: Box::new(move |_, what| told.send(what).unwrap()),
        claimed: Box::new(|_, _| {}),
        expired: Box::new(|_| {}),
    };
    let shared = Arc::new(Shared::default());
    shared.set(&StoreConfig::default());
    let (store, requests) = (dir.open().0, bounded(1).1);
    let mut turns = Turns { store, requests, outlets, shared: shared.clone(), last_len: 1, failed: false };
    assert_eq!(turns.guarded(|_| -> u8 { panic!("planted") }), None);
    turns.commit(vec![put(0), load(0, 2)]);
    let broken = || Completion::Refused(StoreError::Broken);
    assert_eq!(
        heard.recv().unwrap(),
        Completions {
            upto: CommandNumber(2),
            exceptions: vec![(CommandNumber(1), broken()), (CommandNumber(2), broken())]
        }
    );
    assert_eq!(shared.metrics.refusing.get(), 1);
    assert!(matches!(shared.state(), State::Refusing { why: StoreError::Broken, .. }));
}
