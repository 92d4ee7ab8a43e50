//! What goes wrong: two servers, a foreign file, a damaged one, a disk that is full, read-only or failing. Told, never
//! called ok; what was promised before is still there.

use super::*;
use crate::base::rng::Rng;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

fn open_error(dir: &TempDir) -> OpenError {
    Sqlite::open(&dir.options()).map(drop).expect_err("it cannot be opened")
}

fn refused(reason: StoreError) -> Completion {
    Completion::Refused(reason)
}

#[track_caller]
fn refusing(store: &Sqlite, expected: StoreError, text: &str) {
    match store.health() {
        Health::Refusing { reason, detail } => {
            assert_eq!(reason, expected);
            assert!(detail.contains(text) && detail.contains("rainbow.db"), "{detail}");
        }
        Health::Ready => panic!("it makes promises"),
    }
}

#[test]
fn a_directory_belongs_to_one_process() {
    let dir = TempDir::new();
    let (store, _) = dir.open();
    let text = open_error(&dir).to_string();
    assert!(text.contains(&format!("the process {} has this store", std::process::id())), "{text}");
    store.close();
    let (store, _) = dir.open();
    drop(store);
    dir.open();
}

#[test]
fn a_lock_of_another_process_holds() {
    let dir = TempDir::new();
    dir.open();
    let lock = dir.path().join("data/lock");
    let mut other = Command::new("flock")
        .args([lock.to_str().unwrap(), "sh", "-c", "echo locked; cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(other.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "locked\n");
    assert!(matches!(open_error(&dir), OpenError::Locked { .. }));
    drop(other.stdin.take());
    other.wait().unwrap();
    dir.open();
}

#[test]
fn the_directory_is_made_and_nobody_elses_business() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new();
    let data_dir = dir.path().join("a/b/c");
    let options = Options { data_dir: data_dir.clone(), ..dir.options() };
    Sqlite::open(&options).map(drop).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(std::fs::metadata(&data_dir).unwrap().permissions().mode() & 0o777, 0o700);
    let options = Options { data_dir: data_dir.join("rainbow.db/d"), ..options };
    let error = Sqlite::open(&options).map(drop).expect_err("below a file is no directory");
    assert!(matches!(error, OpenError::Directory { .. }), "{error}");
}

#[test]
fn another_format_and_another_programs_file_are_refused_and_left_alone() {
    let dir = TempDir::new();
    let (store, _) = dir.open();
    store.database.connection().pragma_update(None, "user_version", 99).unwrap();
    drop(store);
    let before = std::fs::read(dir.database()).unwrap();
    let text = open_error(&dir).to_string();
    assert!(text.contains("its format is 99, this version reads 1"), "{text}");
    assert!(std::fs::read(dir.database()).unwrap() == before, "the file was written");

    let dir = TempDir::new();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    let foreign = rusqlite::Connection::open(dir.database()).unwrap();
    foreign.execute_batch("CREATE TABLE recipes (name TEXT)").unwrap();
    drop(foreign);
    let before = std::fs::read(dir.database()).unwrap();
    assert!(matches!(open_error(&dir), OpenError::Foreign { .. }));
    assert!(std::fs::read(dir.database()).unwrap() == before, "the file was written");
}

#[test]
fn what_is_no_database_is_reported_as_damaged() {
    let dir = TempDir::new();
    drop(dir.open());
    std::fs::write(dir.database(), "these are not the pages you are looking for".repeat(1000)).unwrap();
    let text = open_error(&dir).to_string();
    assert!(text.contains("is damaged") && text.contains("rainbow.db"), "{text}");
}

/// Wherever the file is damaged: it says so, at the start or later, or hands out only what was stored. It never panics.
#[test]
fn a_damaged_file_never_hands_out_what_was_not_stored() {
    let dir = TempDir::new();
    let (mut store, _) = dir.open();
    let body = |session: u128, offset: u64| format!("{session}/{offset} ").repeat(1 + offset as usize * 13);
    for session in 1..6 {
        let id = SessionId(session);
        expect_done(&mut store, [put_session(id, &format!("s{session}")), join(id, "c")]);
        expect_done(&mut store, (0..20).map(|offset| put_message(stored(id, offset, &body(session, offset)))));
    }
    store.close();
    let sound = std::fs::read(dir.database()).unwrap();
    let (mut reported_at_open, mut reported_later, mut unharmed) = (0, 0, 0);
    let mut rng = Rng::new(7);
    for _ in 0..300 {
        let mut damaged = sound.clone();
        let at = rng.below(damaged.len() as u64) as usize;
        let len = [1, 1, 16, 512, 4096][rng.below(5) as usize];
        for byte in damaged.iter_mut().skip(at).take(len) {
            *byte = rng.next_u64() as u8;
        }
        std::fs::write(dir.database(), &damaged).unwrap();
        let mut store = match Sqlite::open(&dir.options()) {
            Ok((store, _)) => store,
            Err(OpenError::Damaged { .. } | OpenError::Format { .. } | OpenError::Foreign { .. }) => {
                reported_at_open += 1;
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        for session in 1..6 {
            let load = Operation::Load { session: SessionId(session), after: None, most: 1000 };
            let Some(Completion::Loaded(page)) = run(&mut store, [load], NOW).pop() else { continue };
            for found in page.messages.iter().filter(|message| !message.released) {
                let expected = message(QoS::AtLeastOnce, body(session, found.offset.0).as_bytes());
                assert_eq!(found.message, expected, "damaged at {at} for {len}");
            }
        }
        if store.health() == Health::Ready {
            unharmed += 1;
        } else {
            refusing(&store, StoreError::Broken, "damaged");
            reported_later += 1;
            assert_eq!(mutate(&mut store, [put_session(T, "new")]), [refused(StoreError::Broken)]);
        }
    }
    assert!(
        reported_at_open > 10 && reported_later > 10 && unharmed > 10,
        "{reported_at_open} {reported_later} {unharmed}"
    );
}

#[test]
fn a_damaged_message_costs_its_session_alone() {
    let dir = TempDir::new();
    let (mut store, _) = dir.open();
    expect_done(&mut store, [put_session(S, "s"), put_session(T, "t")]);
    expect_done(&mut store, [put_message(stored(S, 0, "one")), put_message(stored(T, 0, "another"))]);
    store.database.connection().execute("UPDATE messages SET body = x'00' WHERE key = 1", []).unwrap();
    let load = |session| Operation::Load { session, after: None, most: 10 };
    assert_eq!(run(&mut store, [load(S)], NOW), [refused(StoreError::Damaged)]);
    assert_eq!(offsets(&all(&mut store, T)), [0]);
    assert_eq!(store.health(), Health::Ready);
    expect_done(&mut store, [put_message(stored(T, 1, "more")), Mutation::DropSession { session: S }]);
    assert_eq!(run(&mut store, [load(S)], NOW), [Completion::Loaded(Page::default())]);
}

#[test]
fn a_full_disk_refuses_what_needs_room_and_recovers() {
    let dir = TempDir::new();
    let (mut store, _) = dir.open();
    let body = "x".repeat(3000);
    expect_done(&mut store, [put_session(S, "s"), put_message(stored(S, 0, &body))]);
    expect_done(&mut store, (1..50).map(|offset| put_message(stored(S, offset, &body))));
    let usage = store.usage();
    let pages: i64 = store.database.connection().pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    store.database.connection().pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).unwrap();

    let mut batch: Vec<Mutation> = (50..60).map(|offset| put_message(stored(S, offset, &body))).collect();
    batch.push(put_session(T, "t"));
    let load = Operation::Load { session: S, after: None, most: 1000 };
    let operations = batch.into_iter().map(Operation::Mutate).chain([load]);
    let mut completions = run(&mut store, operations, NOW);
    assert!(matches!(completions.pop(), Some(Completion::Loaded(page)) if page.messages.len() == 50));
    assert!(completions.iter().all(|completion| *completion == refused(StoreError::DiskFull)), "{completions:?}");
    refusing(&store, StoreError::DiskFull, "the disk is full");
    assert_eq!(store.usage(), usage);
    store.database.index().check_invariants(store.database.connection()).unwrap();
    // A client that comes back for its messages is let in; a new session is not.
    assert_eq!(mutate(&mut store, [put_session(S, "s")]), [Completion::Done]);
    assert_eq!(mutate(&mut store, [put_session(T, "t")]), [refused(StoreError::DiskFull)]);
    // What makes room is done in the same batch, and then there is some.
    let mut batch: Vec<Mutation> =
        (0..20).map(|offset| Mutation::RemoveMessage { session: S, offset: Offset(offset) }).collect();
    batch.extend((50..80).map(|offset| put_message(stored(S, offset, &body))));
    let completions = mutate(&mut store, batch);
    assert!(completions[..20].iter().all(|completion| *completion == Completion::Done));
    assert!(completions[20..].iter().all(|completion| *completion == refused(StoreError::DiskFull)));
    store.database.index().check_invariants(store.database.connection()).unwrap();
    store.check(NOW);
    assert_eq!(store.health(), Health::Ready);
    expect_done(&mut store, (50..60).map(|offset| put_message(stored(S, offset, &body))));
    drop(store);
    let (mut store, _) = dir.open();
    assert_eq!(offsets(&all(&mut store, S)), (20..60).collect::<Vec<u64>>());
}

/// A real disk, of 48 MiB, filled to the last byte by others. Only root can make one; for everybody else there is the
/// test above.
#[test]
fn a_disk_without_a_free_byte_still_lets_messages_go() {
    let dir = TempDir::new();
    let disk = dir.path().join("data");
    std::fs::create_dir(&disk).unwrap();
    let disk = disk.to_str().unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=48m", "tmpfs", disk]).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        return eprintln!("no disk of its own could be mounted");
    }
    let mounted = Mounted(disk);
    fill_the_disk(&dir);
    drop(mounted);
}

struct Mounted<'a>(&'a str);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", self.0]).status();
    }
}

fn fill_the_disk(dir: &TempDir) {
    let (mut store, _) = dir.open();
    let body = "x".repeat(20_000);
    expect_done(&mut store, [put_session(S, "s")]);
    let mut stored_upto = 0;
    let mut fill = |store: &mut Sqlite| {
        while mutate(store, [put_message(stored(S, stored_upto, &body))]) == [Completion::Done] {
            stored_upto += 1;
            store.maintain(false);
        }
        stored_upto
    };
    let upto = fill(&mut store);
    assert!(upto > 500, "full after {upto}");
    refusing(&store, StoreError::DiskFull, "the disk is full");
    let mut others = std::fs::File::create(dir.path().join("data/others")).unwrap();
    while others.write_all(&[1; 4096]).is_ok() {}
    store.check(NOW);
    refusing(&store, StoreError::DiskFull, "the disk is full");
    assert_eq!(offsets(&page(&mut store, S, Some(upto - 2), 10, NOW)), [upto - 1]);
    expect_done(&mut store, (0..400).map(|offset| Mutation::RemoveMessage { session: S, offset: Offset(offset) }));
    assert_eq!(mutate(&mut store, [put_message(stored(S, upto, &body))]), [refused(StoreError::DiskFull)]);
    drop(others);
    std::fs::remove_file(dir.path().join("data/others")).unwrap();
    let checks = (0..50).take_while(|_| {
        store.check(NOW);
        store.health() != Health::Ready
    });
    assert!(checks.count() < 50, "it does not recover");
    expect_done(&mut store, [put_message(stored(S, upto, &body))]);
    drop(store);
    let (mut store, found) = dir.open();
    assert_eq!((found[0].first, found[0].next), (Some(Offset(400)), Offset(upto + 1)));
    assert_eq!(offsets(&page(&mut store, S, Some(upto - 1), 10, NOW)), [upto]);
}

#[test]
fn a_commit_is_synced_unless_memory_is_enough() {
    let dir = TempDir::new();
    for (durability, expected) in [(Durability::Fsync, 2), (Durability::Memory, 1)] {
        let (store, _) =
            Sqlite::open(&Options { durability, ..dir.options() }).unwrap_or_else(|error| panic!("{error}"));
        let pragma = |name| {
            store.database.connection().pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0))
        };
        assert_eq!(pragma("synchronous").unwrap(), rusqlite::types::Value::Integer(expected));
        assert_eq!(pragma("journal_mode").unwrap(), rusqlite::types::Value::Text("wal".into()));
    }
}

#[test]
fn a_disk_that_cannot_be_written_refuses_and_still_reads() {
    let dir = TempDir::new();
    let (mut store, _) = dir.open();
    expect_done(&mut store, [put_session(S, "s"), put_message(stored(S, 1, "x"))]);
    store.database.connection().pragma_update(None, "query_only", true).unwrap();
    assert_eq!(mutate(&mut store, [put_message(stored(S, 2, "x"))]), [refused(StoreError::ReadOnly)]);
    refusing(&store, StoreError::ReadOnly, "cannot be written");
    assert_eq!(offsets(&all(&mut store, S)), [1]);
    assert!(matches!(claimed(&mut store, "m", NOW), ClaimOutcome::Refused(StoreError::ReadOnly)));
    assert_eq!(store.purge(LATER, 10), PurgeOutcome::default());
}

#[test]
fn a_file_that_is_taken_away_ends_all_promises() {
    let dir = TempDir::new();
    let (mut store, _) = dir.open();
    expect_done(&mut store, [put_session(S, "s")]);
    store.check(NOW);
    assert_eq!(store.health(), Health::Ready);
    std::fs::rename(dir.database(), dir.path().join("elsewhere.db")).unwrap();
    store.check(NOW);
    refusing(&store, StoreError::Broken, "moved or removed");
    assert_eq!(mutate(&mut store, [put_message(stored(S, 1, "x"))]), [refused(StoreError::Broken)]);
}

#[test]
fn a_failed_fsync_is_never_tried_again() {
    let dir = TempDir::new();
    let (mut store, _) = dir.open();
    expect_done(&mut store, [put_session(S, "s"), put_message(stored(S, 1, "x"))]);
    let failed = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC), None);
    assert_eq!(store.note_fault(failed), StoreError::Broken);
    for _ in 0..3 {
        assert_eq!(mutate(&mut store, [put_message(stored(S, 2, "x"))]), [refused(StoreError::Broken)]);
        store.maintain(true);
        store.check(NOW);
        refusing(&store, StoreError::Broken, "writing failed");
    }
    assert_eq!(offsets(&all(&mut store, S)), [1]);
}

/// The system refuses to let files grow (EFBIG): SQLite knows it as a write that failed. In a process of its own, since
/// the limit is a process's.
#[test]
fn a_failed_write_breaks_the_store_until_a_restart() {
    const CHILD: &str = "RAINBOW_TEST_SMALL_FILES";
    if let Ok(path) = std::env::var(CHILD) {
        return fail_to_write(TempDir(path.into()));
    }
    let dir = TempDir::new();
    let (mut store, _) = dir.open();
    expect_done(&mut store, [put_session(S, "s")]);
    store.close();
    let test = std::thread::current().name().expect("tests have names").to_owned();
    // Without the signal, which would kill it, the limit is an error. In blocks of 512 bytes: 1 MiB.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 2048; exec \"$0\" --exact \"$1\" --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env(CHILD, dir.path())
        .output()
        .unwrap();
    std::io::stderr().write_all(&output.stderr).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    // All that was promised, and nothing else was called ok.
    let promised: usize = text.lines().find_map(|line| line.strip_prefix("promised ")?.parse().ok()).unwrap();
    let (mut store, _) = dir.open();
    assert!(promised > 0);
    let offsets = offsets(&all(&mut store, S));
    assert!(offsets.iter().copied().take(promised).eq(0..promised as u64), "{promised} promised, found {offsets:?}");
}

fn fail_to_write(dir: TempDir) {
    let dir = std::mem::ManuallyDrop::new(dir);
    let (mut store, _) = dir.open();
    let body = "x".repeat(100_000);
    let mut promised = 0;
    while mutate(&mut store, [put_message(stored(S, promised, &body))]) == [Completion::Done] {
        promised += 1;
        assert!(promised < 100, "the files grow without bounds");
    }
    println!("\npromised {promised}");
    refusing(&store, StoreError::Broken, "writing failed");
    assert_eq!(mutate(&mut store, [join(S, "a")]), [refused(StoreError::Broken)]);
    assert_eq!(offsets(&all(&mut store, S)).len() as u64, promised);
}
