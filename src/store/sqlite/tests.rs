//! The store against real directories: what each mutation leaves, what a restart finds. `tests/model.rs` has random
//! mutations, `tests/faults.rs` what goes wrong.

mod backup;
mod damage;
mod faults;
mod model;
mod transfer;
mod union;

use super::*;
use crate::base::id::ShardId;
use crate::config::{Durability, StoreKind};
use crate::shard::Message;
use crate::shard::command::*;
use crate::store::opening::StoreNode;
use crate::store::request::ClaimId;
use crate::wire::packet::{MessageId, QoS};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A directory of its own, gone with it.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> TempDir {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let nth = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("rainbow-sqlite-{}-{nth}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn options(&self) -> Options {
        Options {
            kind: StoreKind::Sqlite,
            data_dir: self.0.join("data"),
            url: Default::default(),
            durability: Durability::Fsync,
            bytes_max: 1 << 30,
            cluster_name: "rainbow".into(),
            node: StoreNode::alone(),
        }
    }

    pub fn database(&self) -> PathBuf {
        self.0.join("data/rainbow.db")
    }

    pub fn log(&self) -> PathBuf {
        self.0.join("data/rainbow.db-wal")
    }

    pub fn open(&self) -> (Sqlite, Vec<StoredSession>) {
        let (store, opened) = Sqlite::open(&self.options()).unwrap_or_else(|error| panic!("{error}"));
        (store, opened.sessions)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const NOW: UnixMs = UnixMs(1_700_000_000_000);
const LATER: UnixMs = UnixMs(NOW.0 + 60_000);
const S: SessionId = SessionId(0xA);
const T: SessionId = SessionId(u128::MAX);

fn row(session: SessionId, name: &str) -> SessionRow {
    SessionRow {
        session,
        name: name.into(),
        expiry_s: 3600,
        ends: None,
        cookie: None,
        downlink: DownlinkMark::default(),
        uplink: UplinkMark::default(),
    }
}

fn message(qos: QoS, body: &[u8]) -> Message {
    Message::encode(qos, 7, body, &mut Vec::new())
}

fn stored(session: SessionId, offset: u64, body: &str) -> StoredMessage {
    StoredMessage {
        session,
        offset: Offset(offset),
        message: message(QoS::AtLeastOnce, body.as_bytes()),
        sent: false,
        released: false,
        stored: NOW,
        expires: LATER,
        claim: None,
    }
}

fn put_session(session: SessionId, name: &str) -> Mutation {
    Mutation::PutSession(Box::new(row(session, name)))
}

fn put_message(message: StoredMessage) -> Mutation {
    Mutation::PutMessage(Box::new(message))
}

fn join(session: SessionId, channel: &str) -> Mutation {
    Mutation::JoinChannel { session, channel: channel.into() }
}

fn received(id: u16, sequence: u64, answer: &str) -> Received {
    Received::from_stored(MessageId(id), sequence, answer.as_bytes().into())
}

fn requests(operations: impl IntoIterator<Item = Operation>) -> Vec<Request> {
    let operations = operations.into_iter().zip(1..);
    operations
        .map(|(operation, number)| Request::Shard {
            shard: ShardId(3),
            command: Command { number: CommandNumber(number), operation },
        })
        .collect()
}

/// The outcomes of one commit.
fn run(store: &mut Sqlite, operations: impl IntoIterator<Item = Operation>, now: UnixMs) -> Vec<Completion> {
    let responses = store.commit(requests(operations), now).into_iter().zip(1..);
    let completion = |(answer, nth)| match answer {
        Response::Shard { shard: ShardId(3), number, completion } if number == CommandNumber(nth) => completion,
        other => panic!("{other:?} is no answer to the {nth}th"),
    };
    responses.map(completion).collect()
}

fn mutate(store: &mut Sqlite, mutations: impl IntoIterator<Item = Mutation>) -> Vec<Completion> {
    run(store, mutations.into_iter().map(Operation::Mutate), NOW)
}

#[track_caller]
fn expect_done(store: &mut Sqlite, all: impl IntoIterator<Item = Mutation>) {
    for (nth, completion) in mutate(store, all).into_iter().enumerate() {
        assert_eq!(completion, Completion::Done, "of mutation {nth}");
    }
}

fn page(store: &mut Sqlite, session: SessionId, after: Option<u64>, most: usize, now: UnixMs) -> Page {
    let load = Operation::Load { session, after: after.map(Offset), most };
    match run(store, [load], now).pop() {
        Some(Completion::Loaded(page)) => page,
        other => panic!("{other:?}"),
    }
}

fn all(store: &mut Sqlite, session: SessionId) -> Page {
    page(store, session, None, 1000, NOW)
}

fn offsets(page: &Page) -> Vec<u64> {
    page.messages.iter().map(|message| message.offset.0).collect()
}

fn claim(message_id: &str) -> Option<Claim> {
    Some(Claim { message_id: message_id.into(), until: LATER })
}

fn claimed(store: &mut Sqlite, message_id: &str, now: UnixMs) -> ClaimOutcome {
    let claim = Claim { message_id: message_id.into(), until: UnixMs(now.0 + 1000) };
    match store.commit(vec![Request::Claim { id: ClaimId(9), claim }], now).pop() {
        Some(Response::Claim { id: ClaimId(9), outcome }) => outcome,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_stored_is_found_after_a_restart() {
    let dir = TempDir::new();
    let (mut store, found) = dir.open();
    assert_eq!(found, []);
    let full = SessionRow {
        ends: Some(LATER),
        cookie: Some(Arc::from(&b"cookie\0"[..])),
        downlink: DownlinkMark { reserved: Offset(2048), floor: Offset(7) },
        uplink: UplinkMark { run: u32::MAX, last: 65_535, past_half: true },
        ..row(S, "s")
    };
    let first = StoredMessage { sent: true, claim: claim("m-1"), ..stored(S, 3, "first") };
    let second = StoredMessage { message: message(QoS::ExactlyOnce, &[0xFF, 0]), stored: LATER, ..stored(S, 9, "") };
    let bytes = (first.message.len() + second.message.len()) as u64;
    expect_done(
        &mut store,
        [
            put_session(S, "s"),
            Mutation::PutSession(Box::new(full.clone())),
            put_session(T, "t"),
            join(S, "b"),
            join(S, "a"),
        ],
    );
    expect_done(&mut store, [put_message(first.clone()), put_message(second.clone()), join(T, "a")]);
    let responses = [received(65_534, 1 << 40, "later"), received(1, 2, ""), received(2, 1, "sooner")];
    expect_done(&mut store, responses.clone().map(|received| Mutation::PutReceived { session: S, received }));
    let page = all(&mut store, S);
    drop(store);

    let (mut store, found) = dir.open();
    let expected = [
        StoredSession {
            row: full,
            channels: vec!["a".into(), "b".into()],
            waiting: 2,
            waiting_bytes: bytes,
            next: Offset(10),
            oldest: Some(NOW),
            first: Some(Offset(3)),
        },
        StoredSession {
            row: row(T, "t"),
            channels: vec!["a".into()],
            waiting: 0,
            waiting_bytes: 0,
            next: Offset(0),
            oldest: None,
            first: None,
        },
    ];
    assert_eq!(found, expected);
    assert!(Arc::ptr_eq(&found[0].channels[0], &found[1].channels[0]), "a channel's name is message once");
    let [later, second_answer, sooner] = responses;
    assert_eq!(page.received, [sooner, second_answer, later]);
    assert_eq!(page.messages, [first, second]);
    assert_eq!(all(&mut store, S), page);
    assert_eq!(store.usage(), Usage { messages: 2, bytes });
}

#[test]
fn every_mutation_may_be_done_twice() {
    let dir = TempDir::new();
    let (mut store, _) = dir.open();
    let message = StoredMessage { claim: claim("m"), ..stored(S, 1, "one") };
    let qos2 = StoredMessage { message: message_of_qos_2(), ..stored(S, 2, "") };
    let twice = |mutation: Mutation| [mutation.clone(), mutation];
    let all_steps = [
        put_session(S, "s"),
        join(S, "a"),
        put_message(message.clone()),
        put_message(qos2.clone()),
        Mutation::ReleaseMessage { session: S, offset: Offset(2) },
        Mutation::PutReceived { session: S, received: received(5, 1, "x") },
    ];
    expect_done(&mut store, all_steps.into_iter().flat_map(twice));
    let page = all(&mut store, S);
    assert_eq!(page.messages[0], message);
    assert!(page.messages[1].released);
    assert_eq!(offsets(&page), [1, 2]);
    assert_eq!(page.received, [received(5, 1, "x")]);
    assert_eq!(store.usage(), Usage { messages: 1, bytes: message.message.len() as u64 });
    let ends = [
        Mutation::RemoveReceived { session: S, id: MessageId(5) },
        Mutation::LeaveChannel { session: S, channel: "a".into() },
    ];
    expect_done(&mut store, ends.into_iter().flat_map(twice));
    for offset in [Offset(1), Offset(2)] {
        let removals = twice(Mutation::RemoveMessage { session: S, offset });
        assert_eq!(mutate(&mut store, removals), [Completion::Done, Completion::Absent]);
    }
    assert_eq!(all(&mut store, S), Page::default());
    assert_eq!(store.usage(), Usage::default());
    expect_done(&mut store, twice(Mutation::DropSession { session: S }));
    drop(store);
    assert_eq!(dir.open().1, []);
}

fn message_of_qos_2() -> Message {
    message(QoS::ExactlyOnce, b"exactly")
}

#[test]
fn a_message_that_has_its_offset_stays_as_it_is() {
    let dir = TempDir::new();
    let (mut store, _) = dir.open();
    expect_done(
        &mut store,
        [put_session(S, "s"), put_message(stored(S, 1, "old")), put_message(stored(S, 1, "a new one"))],
    );
    assert_eq!(all(&mut store, S).messages, [stored(S, 1, "old")]);
    assert_eq!(store.usage().bytes, stored(S, 1, "old").message.len() as u64);
}

#[test]
fn a_load_sees_the_mutations_before_it_and_none_behind() {
    let dir = TempDir::new();
    let (mut store, _) = dir.open();
    let load = || Operation::Load { session: S, after: None, most: 10 };
    let completions = run(
        &mut store,
        [
            load(),
            Operation::Mutate(put_session(S, "s")),
            Operation::Mutate(put_message(stored(S, 1, "x"))),
            load(),
            Operation::Mutate(Mutation::RemoveMessage { session: S, offset: Offset(1) }),
            load(),
        ],
        NOW,
    );
    let seen: Vec<usize> = completions
        .iter()
        .filter_map(
            |completion| if let Completion::Loaded(page) = completion { Some(page.messages.len()) } else { None },
        )
        .collect();
    assert_eq!(seen, [0, 1, 0]);
}

#[test]
fn pages_follow_one_another() {
    let dir = TempDir::new();
    let (mut store, _) = dir.open();
    expect_done(&mut store, [put_session(S, "s"), put_session(T, "t"), put_message(stored(T, 4, "another's"))]);
    expect_done(&mut store, [9, 1, 5, 3, 7].map(|offset| put_message(stored(S, offset, "x"))));
    expect_done(&mut store, [Mutation::PutReceived { session: S, received: received(5, 1, "x") }]);
    let first = page(&mut store, S, None, 2, NOW);
    assert_eq!((offsets(&first), first.more, first.received.len()), (vec![1, 3], true, 1));
    let second = page(&mut store, S, Some(3), 2, NOW);
    assert_eq!((offsets(&second), second.more, second.received.len()), (vec![5, 7], true, 0));
    let third = page(&mut store, S, Some(7), 2, NOW);
    assert_eq!((offsets(&third), third.more), (vec![9], false));
    assert!(!page(&mut store, S, Some(7), 1, NOW).more);
    assert_eq!(page(&mut store, S, Some(9), 2, NOW), Page::default());
}

#[test]
fn a_page_of_large_messages_ends_early() {
    let dir = TempDir::new();
    let (mut store, _) = dir.open();
    let large = "x".repeat(600_000);
    expect_done(
        &mut store,
        [
            put_session(S, "s"),
            put_message(stored(S, 0, &large)),
            put_message(stored(S, 1, &large)),
            put_message(stored(S, 2, &large)),
        ],
    );
    let first = page(&mut store, S, None, 10, NOW);
    assert_eq!((offsets(&first), first.more), (vec![0, 1], true));
    assert_eq!(first.messages[1], stored(S, 1, &large));
    let second = page(&mut store, S, Some(1), 10, NOW);
    assert_eq!((offsets(&second), second.more), (vec![2], false));
}

#[test]
fn a_claim_saves_a_session_from_a_second_message() {
    let dir = TempDir::new();
    let (mut store, _) = dir.open();
    let with_claim =
        |session, offset, body| put_message(StoredMessage { claim: claim("m"), ..stored(session, offset, body) });
    expect_done(&mut store, [put_session(S, "s"), put_session(T, "t"), with_claim(S, 1, "x"), with_claim(T, 1, "x")]);
    drop(store);
    let (mut store, _) = dir.open();
    // The same mutation is done already; a repeat of the same call, with a new offset, is recognised.
    assert_eq!(
        mutate(&mut store, [with_claim(S, 1, "x"), with_claim(S, 2, "x")]),
        [Completion::Done, Completion::Duplicate]
    );
    assert_eq!(offsets(&all(&mut store, S)), [1]);
    // So it stays when the message is gone, and in the same commit.
    let after =
        [Mutation::RemoveMessage { session: S, offset: Offset(1) }, with_claim(S, 1, "x"), with_claim(S, 3, "x")];
    assert_eq!(mutate(&mut store, after), [Completion::Done, Completion::Done, Completion::Duplicate]);
    assert_eq!(offsets(&all(&mut store, S)), Vec::<u64>::new());
    // After its time it is a new one.
    let late = StoredMessage { expires: UnixMs(u64::MAX), claim: claim("m"), ..stored(S, 4, "x") };
    assert_eq!(run(&mut store, [Operation::Mutate(put_message(late))], LATER), [Completion::Done]);
    assert_eq!(offsets(&all(&mut store, S)), [4]);
}

#[test]
fn a_call_is_claimed_once_and_a_repeat_gets_its_answer() {
    let dir = TempDir::new();
    let (mut store, _) = dir.open();
    assert_eq!(claimed(&mut store, "m", NOW), ClaimOutcome::New);
    assert_eq!(claimed(&mut store, "m", NOW), ClaimOutcome::Unsettled);
    assert_eq!(claimed(&mut store, "n", NOW), ClaimOutcome::New);
    let settle = Request::Settle { message_id: "m".into(), answer: b"{}".to_vec() };
    assert_eq!(store.commit(vec![settle], NOW), [Response::Settled]);
    drop(store);
    let (mut store, _) = dir.open();
    assert_eq!(claimed(&mut store, "m", NOW), ClaimOutcome::Settled(b"{}".to_vec()));
    assert_eq!(claimed(&mut store, "n", NOW), ClaimOutcome::Unsettled);
    assert_eq!(claimed(&mut store, "m", UnixMs(NOW.0 + 1000)), ClaimOutcome::New);
}

#[test]
fn a_name_belongs_to_one_session() {
    let dir = TempDir::new();
    let (mut store, _) = dir.open();
    let completions = mutate(
        &mut store,
        [put_session(S, "s"), put_session(T, "s"), join(T, "a"), put_message(stored(T, 1, "x")), join(S, "a")],
    );
    let fenced = || Completion::Refused(StoreError::Fenced);
    assert_eq!(
        completions,
        [Completion::Done, Completion::Refused(StoreError::NameTaken), fenced(), fenced(), Completion::Done]
    );
    expect_done(&mut store, [Mutation::DropSession { session: S }, put_session(T, "s")]);
    assert_eq!(dir_reopened(&dir, store), ["s"]);
}

fn dir_reopened(dir: &TempDir, store: Sqlite) -> Vec<String> {
    drop(store);
    dir.open().1.iter().map(|found| found.row.name.to_string()).collect()
}

#[test]
fn what_takes_away_needs_no_session() {
    let dir = TempDir::new();
    let (mut store, _) = dir.open();
    expect_done(
        &mut store,
        [
            Mutation::LeaveChannel { session: S, channel: "a".into() },
            Mutation::ReleaseMessage { session: S, offset: Offset(1) },
            Mutation::RemoveMessage { session: S, offset: Offset(1) },
            Mutation::RemoveReceived { session: S, id: MessageId(1) },
            Mutation::DropSession { session: S },
        ],
    );
    assert_eq!(all(&mut store, S), Page::default());
}

#[test]
fn a_dropped_session_leaves_nothing() {
    let dir = TempDir::new();
    let (mut store, _) = dir.open();
    let claimed = StoredMessage { claim: claim("m"), ..stored(S, 2, "x") };
    expect_done(
        &mut store,
        [
            put_session(S, "s"),
            put_session(T, "t"),
            join(S, "a"),
            put_message(stored(S, 1, "x")),
            put_message(claimed.clone()),
        ],
    );
    expect_done(
        &mut store,
        [Mutation::PutReceived { session: S, received: received(1, 1, "x") }, put_message(stored(T, 1, "y"))],
    );
    expect_done(&mut store, [Mutation::DropSession { session: S }]);
    assert_eq!(store.usage(), Usage { messages: 1, bytes: stored(T, 1, "y").message.len() as u64 });
    for table in ["sessions", "channels", "messages", "received"] {
        let rows: i64 = store
            .database
            .connection()
            .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))
            .unwrap();
        let of_t = i64::from(matches!(table, "sessions" | "messages"));
        assert_eq!(rows, of_t, "in {table}");
    }
    // A new one of that name begins anew, with the same claim.
    expect_done(&mut store, [put_session(S, "s"), put_message(claimed)]);
    assert_eq!(offsets(&all(&mut store, S)), [2]);
}

#[test]
fn a_full_store_refuses_before_it_stores() {
    let dir = TempDir::new();
    let (mut store, _) = dir.open();
    expect_done(&mut store, [put_session(S, "s"), put_message(stored(S, 1, "x"))]);
    let each = stored(S, 1, "x").message.len() as u64 + 64;
    store.set_bytes_max(2 * each);
    let full = || Completion::Refused(StoreError::StoreFull);
    let tried = [
        put_message(stored(S, 2, "x")),
        put_message(stored(S, 3, "x")),
        put_message(stored(S, 2, "x")),
        put_message(stored(S, 1, "x")),
    ];
    assert_eq!(mutate(&mut store, tried), [Completion::Done, full(), Completion::Done, Completion::Done]);
    let after = [Mutation::RemoveMessage { session: S, offset: Offset(1) }, put_message(stored(S, 4, "x"))];
    assert_eq!(mutate(&mut store, after), [Completion::Done, Completion::Done]);
    assert_eq!(store.health(), Health::Ready);
    drop(store);
    let (mut store, _) = dir.open();
    store.set_bytes_max(2 * each);
    assert_eq!(mutate(&mut store, [put_message(stored(S, 5, "x"))]), [full()]);
}

#[test]
fn what_has_expired_is_loaded_until_it_is_purged() {
    let dir = TempDir::new();
    let (mut store, _) = dir.open();
    let soon = UnixMs(NOW.0 + 1);
    let expiring = |session, offset| StoredMessage { expires: soon, ..stored(session, offset, "x") };
    // The client may hold these two ids: they outlive their time.
    let sent = StoredMessage { message: message_of_qos_2(), sent: true, ..expiring(S, 3) };
    let released = StoredMessage { message: message_of_qos_2(), ..expiring(S, 4) };
    expect_done(
        &mut store,
        [
            put_session(S, "s"),
            put_session(T, "t"),
            put_message(expiring(S, 1)),
            put_message(stored(S, 2, "x")),
            put_message(sent),
        ],
    );
    expect_done(&mut store, [put_message(released), Mutation::ReleaseMessage { session: S, offset: Offset(4) }]);
    expect_done(
        &mut store,
        [
            put_message(expiring(T, 1)),
            put_message(expiring(T, 2)),
            put_message(StoredMessage { claim: claim("m"), ..expiring(T, 3) }),
        ],
    );
    assert_eq!(offsets(&page(&mut store, S, None, 10, NOW)), [1, 2, 3, 4]);
    assert_eq!(offsets(&page(&mut store, S, None, 10, soon)), [1, 2, 3, 4]);
    assert_eq!(store.purge(NOW, 10), PurgeOutcome::default());
    let each = expiring(S, 1).message.len() as u64;
    let mut expired = Vec::new();
    loop {
        let purged = store.purge(soon, 2);
        expired.extend(purged.expired);
        if !purged.more {
            break;
        }
    }
    let sum = |session| {
        let of = expired.iter().filter(|expired| expired.session == session);
        of.fold((0, 0), |sum, expired| (sum.0 + expired.messages, sum.1 + expired.bytes))
    };
    assert_eq!((sum(S), sum(T)), ((1, each), (3, 3 * each)));
    assert_eq!(offsets(&page(&mut store, S, None, 10, NOW)), [2, 3, 4]);
    assert_eq!(store.usage().messages, 2);
}

/// Of an hour of calls, each with an answer.
#[test]
fn claims_and_answers_count_towards_the_limit_until_their_time_is_over() {
    const BYTES_MAX: u64 = 10_000;
    let dir = TempDir::new();
    let mut store = dir.open().0;
    store.set_bytes_max(BYTES_MAX);
    let settle = |store: &mut Sqlite, id: &str| {
        let request = Request::Settle { message_id: id.into(), answer: vec![b'a'; 1000] };
        assert_eq!(store.commit(vec![request], NOW), [Response::Settled]);
    };
    let refused = ClaimOutcome::Refused(StoreError::StoreFull);
    let ids = (0..).map(|nth| format!("m-{nth}"));
    let fitted = ids.take(20).take_while(|id| {
        let outcome = claimed(&mut store, id, NOW);
        settle(&mut store, id);
        outcome == ClaimOutcome::New
    });
    assert_eq!(fitted.count(), 10);
    assert_eq!(claimed(&mut store, "m-3", NOW), ClaimOutcome::Settled(vec![b'a'; 1000]), "a repeat is answered");
    drop(store);
    let mut store = dir.open().0;
    store.set_bytes_max(BYTES_MAX);
    assert_eq!(claimed(&mut store, "another", NOW), refused, "after a restart, too");
    let end = UnixMs(NOW.0 + 1000);
    store.purge(end, 100);
    assert_eq!(claimed(&mut store, "another", end), ClaimOutcome::New);
}

#[test]
fn claims_and_guards_are_removed_in_slices_after_their_time() {
    let dir = TempDir::new();
    let (mut store, _) = dir.open();
    expect_done(&mut store, [put_session(S, "s")]);
    for nth in 0..5 {
        assert_eq!(claimed(&mut store, &format!("m-{nth}"), NOW), ClaimOutcome::New);
        let claim = Some(Claim { message_id: format!("m-{nth}").into(), until: UnixMs(NOW.0 + 1000) });
        expect_done(&mut store, [put_message(StoredMessage { claim, ..stored(S, nth, "x") })]);
    }
    let count = |store: &Sqlite, table: &str| -> i64 {
        store.database.connection().query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    };
    let end = UnixMs(NOW.0 + 1000);
    assert_eq!(store.purge(UnixMs(end.0 - 1), 2), PurgeOutcome::default());
    let mut slices = 0;
    while store.purge(end, 2).more {
        slices += 1;
        assert_eq!(count(&store, "claims"), 5 - 2 * slices);
        assert_eq!(count(&store, "guards"), 5 - 2 * slices);
    }
    assert_eq!((slices, count(&store, "claims"), count(&store, "guards")), (2, 0, 0));
    assert_eq!(store.usage().messages, 5);
}

#[test]
fn the_log_stays_bounded_and_a_closed_store_has_none() {
    let dir = TempDir::new();
    let (mut store, _) = dir.open();
    expect_done(&mut store, [put_session(S, "s")]);
    let log = dir.path().join("data/rainbow.db-wal");
    let body = "x".repeat(20_000);
    let mut largest = 0;
    for batch in 0..100 {
        expect_done(&mut store, (0..20).map(|nth| put_message(stored(S, batch * 20 + nth, &body))));
        store.maintain(false);
        largest = largest.max(std::fs::metadata(&log).unwrap().len());
    }
    // 40 MB went through it.
    assert!(largest < 12 << 20, "the log has grown to {largest}");
    assert!(largest > 4 << 20, "the log was written back needlessly often ({largest})");
    store.close();
    assert!(!log.exists());
    let (mut store, found) = dir.open();
    assert_eq!(found[0].waiting, 2000);
    assert_eq!(offsets(&page(&mut store, S, Some(1997), 10, NOW)), [1998, 1999]);
}

#[test]
fn room_is_given_back_when_there_is_nothing_else_to_do() {
    let dir = TempDir::new();
    let (mut store, _) = dir.open();
    let body = "x".repeat(50_000);
    expect_done(&mut store, [put_session(S, "s")]);
    expect_done(&mut store, (0..1000).map(|nth| put_message(stored(S, nth, &body))));
    store.maintain(true);
    let full = std::fs::metadata(dir.database()).unwrap().len();
    assert!(full > 50_000_000, "{full}");
    expect_done(
        &mut store,
        [Mutation::DropSession { session: S }, put_session(T, "t"), put_message(stored(T, 1, "x"))],
    );
    for _ in 0..100 {
        store.maintain(true);
    }
    let after = std::fs::metadata(dir.database()).unwrap().len();
    assert!(after < full / 2, "{after} of {full} bytes are left");
    assert_eq!(all(&mut store, T).messages, [stored(T, 1, "x")]);
}
