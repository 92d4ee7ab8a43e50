//! The embedded store on the disk below the temporary directory: messages of 200 bytes stored and removed in batches of
//! one commit each, and a start with many of them waiting.

use divan::Bencher;
use divan::counter::ItemsCount;
use rainbow::base::id::ShardId;
use rainbow::config::{Durability, StoreKind};
use rainbow::shard::Message;
use rainbow::shard::command::{
    Command, CommandNumber, DownlinkMark, Mutation, Offset, Operation, SessionId, SessionRow, StoredMessage, UnixMs,
    UplinkMark,
};
use rainbow::store::{Options, Request, Store, StoreNode};
use rainbow::wire::packet::QoS;
use std::path::PathBuf;
use std::sync::Arc;

const BATCHES: [u64; 4] = [1, 16, 256, 1024];
/// Sessions, and messages for each.
const WAITING: [(u64, u64); 2] = [(10_000, 10), (100_000, 10)];
/// Sessions that a batch's messages go to in turn.
const SESSIONS: u64 = 10_000;
const NOW: UnixMs = UnixMs(1_700_000_000_000);

/// A store of its own, gone with it.
struct Disk {
    store: Option<Store>,
    options: Options,
    number: u64,
    offset: u64,
    message: Message,
}

impl Disk {
    fn new(durability: Durability, sessions: u64) -> Disk {
        let data_dir: PathBuf = std::env::temp_dir().join(format!("rainbow-bench-store-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&data_dir);
        let options = Options {
            node: StoreNode::alone(),
            kind: StoreKind::Sqlite,
            data_dir,
            url: Default::default(),
            durability,
            bytes_max: 1 << 40,
            cluster_name: String::new(),
        };
        let store = Store::open(&options, NOW).unwrap_or_else(|error| panic!("{error}")).0;
        let message = Message::encode(QoS::AtLeastOnce, 1, &[b'.'; 200], &mut Vec::new());
        let mut disk = Disk { store: Some(store), options, number: 0, offset: 0, message };
        for first in (0..sessions).step_by(1024) {
            let puts = (first..sessions.min(first + 1024)).map(|who| Mutation::PutSession(Box::new(row(who))));
            disk.commit(puts.collect());
        }
        disk
    }

    fn commit(&mut self, mutations: Vec<Mutation>) {
        let numbers = self.number + 1..;
        self.number += mutations.len() as u64;
        let requests = mutations.into_iter().zip(numbers).map(|(mutation, number)| Request::Shard {
            shard: ShardId(0),
            command: Command { number: CommandNumber(number), operation: Operation::Mutate(mutation) },
        });
        let store = self.store.as_mut().expect("it is open");
        divan::black_box(store.commit(requests.collect(), NOW));
        store.maintain(false);
    }

    fn put_message(&mut self, session: u64) -> Mutation {
        self.offset += 1;
        let offset = self.offset;
        Mutation::PutMessage(Box::new(StoredMessage {
            session: SessionId(u128::from(session)),
            offset: Offset(offset),
            message: self.message.clone(),
            sent: false,
            released: false,
            stored: UnixMs(NOW.0 + offset),
            expires: UnixMs(NOW.0 + offset + 3_600_000),
            claim: None,
        }))
    }

    /// Messages for sessions all over the file.
    fn put_messages(&mut self, batch: u64) -> Vec<Mutation> {
        (0..batch).map(|nth| self.put_message((self.offset + nth) * 7919 % SESSIONS)).collect()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.store = None;
        let _ = std::fs::remove_dir_all(&self.options.data_dir);
    }
}

fn row(who: u64) -> SessionRow {
    SessionRow {
        session: SessionId(u128::from(who)),
        name: Arc::from(format!("session-{who}")),
        expiry_s: 3600,
        ends: None,
        cookie: None,
        downlink: DownlinkMark::default(),
        uplink: UplinkMark::default(),
    }
}

/// Each is on disk when its commit returns. In the table of figures.
#[divan::bench(args = BATCHES)]
fn keep(bencher: Bencher, batch: u64) {
    let mut disk = Disk::new(Durability::Fsync, SESSIONS);
    bencher.counter(ItemsCount::new(batch)).bench_local(|| {
        let mutations = disk.put_messages(batch);
        disk.commit(mutations);
    });
}

/// As it goes all day: stored, and removed when the client has it.
#[divan::bench(args = BATCHES)]
fn keep_and_remove(bencher: Bencher, batch: u64) {
    let mut disk = Disk::new(Durability::Fsync, SESSIONS);
    bencher.counter(ItemsCount::new(2 * batch)).bench_local(|| {
        let mutations = disk.put_messages(batch);
        let removed = mutations.iter().map(|mutation| match mutation {
            Mutation::PutMessage(message) => {
                Mutation::RemoveMessage { session: message.session, offset: message.offset }
            }
            _ => unreachable!("only messages are stored"),
        });
        let removed = removed.collect();
        disk.commit(mutations);
        disk.commit(removed);
    });
}

/// A start: how long until all sessions and their counts are known.
#[divan::bench(args = WAITING, sample_count = 3, sample_size = 1)]
fn open(bencher: Bencher, (sessions, each): (u64, u64)) {
    let mut disk = Disk::new(Durability::Memory, sessions);
    for _ in 0..each {
        for first in (0..sessions).step_by(1024) {
            let mutations = (first..sessions.min(first + 1024)).map(|who| disk.put_message(who)).collect();
            disk.commit(mutations);
        }
    }
    disk.store.take().expect("it is open").close();
    bencher.counter(ItemsCount::new(sessions * each)).bench_local(|| {
        let (store, opened) = Store::open(&disk.options, NOW).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(opened.sessions.len() as u64, sessions);
        drop(store);
        opened
    });
}
