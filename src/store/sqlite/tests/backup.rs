//! Backups beside a store that goes on, ends, is killed or has to write its log back.

use super::*;
use std::sync::atomic::AtomicBool;
use std::thread;

fn back_up_to(dir: &TempDir, target: &str) -> Result<Backup, BackupError> {
    back_up(&dir.options().data_dir, &dir.path().join(target), &mut |_| {})
}

/// The bodies of S's messages in a backup, as a server that is started on it finds them.
fn restored(dir: &TempDir, target: &str) -> Vec<Offset> {
    let options = Options { data_dir: dir.path().join(target), ..dir.options() };
    let (mut store, _) = Sqlite::open(&options).unwrap_or_else(|error| panic!("{error}"));
    all(&mut store, S).messages.iter().map(|message| message.offset).collect()
}

fn put(store: &mut Sqlite, offset: u64) {
    expect_done(store, [put_message(stored(S, offset, &"x".repeat(3000)))]);
}

fn filled(dir: &TempDir, messages: u64) -> Sqlite {
    let (mut store, _) = dir.open();
    expect_done(&mut store, [put_session(S, "s")]);
    (0..messages).for_each(|offset| put(&mut store, offset));
    store
}

#[test]
fn a_backup_has_what_was_committed_before_it() {
    let dir = TempDir::new();
    let mut store = filled(&dir, 20);
    let backup = back_up_to(&dir, "one").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((backup.sessions, backup.messages), (1, 20));
    put(&mut store, 20);
    assert_eq!(restored(&dir, "one"), (0..20).map(Offset).collect::<Vec<_>>());
    store.close();
    back_up_to(&dir, "two").unwrap_or_else(|error| panic!("without a server: {error}"));
    assert_eq!(restored(&dir, "two").len(), 21);
    let files = std::fs::read_dir(dir.path().join("one")).unwrap().count();
    assert!(files >= 2 && !dir.path().join("one/unfinished.db").exists());
}

/// Pages come and go, the log is written back and begun anew whenever the store may: each backup is some state that
/// was, whole.
#[test]
fn each_backup_beside_commits_and_checkpoints_is_whole() {
    let dir = TempDir::new();
    let mut store = filled(&dir, 300);
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        let backups = scope.spawn(|| {
            for nth in 0..12 {
                let target = format!("backup-{nth}");
                back_up_to(&dir, &target).unwrap_or_else(|error| panic!("{error}"));
                let found = restored(&dir, &target);
                let first = found[0].0;
                // The put and the removal beside it are two commits.
                assert!((300..=301).contains(&found.len()), "{}", found.len());
                assert_eq!(found, (first..first + found.len() as u64).map(Offset).collect::<Vec<_>>());
            }
            ends.store(true, Ordering::Relaxed);
        });
        for offset in 300.. {
            if ends.load(Ordering::Relaxed) || backups.is_finished() {
                break;
            }
            put(&mut store, offset);
            let session = S;
            expect_done(&mut store, [Mutation::RemoveMessage { session, offset: Offset(offset - 300) }]);
            store.maintain(true);
        }
    });
}

#[test]
fn while_a_backup_is_made_the_file_stays_as_it_is() {
    let dir = TempDir::new();
    let mut store = filled(&dir, 100);
    let lock = BackupLock::open(&dir.options().data_dir).unwrap();
    assert!(lock.wait_shared().unwrap());
    let before = std::fs::read(dir.database()).unwrap();
    (100..200).for_each(|offset| put(&mut store, offset));
    store.maintain(true);
    store.close();
    assert!(std::fs::read(dir.database()).unwrap() == before, "the end of a server wrote into it");
    let (mut store, _) = dir.open();
    put(&mut store, 200);
    store.maintain(true);
    drop(store);
    assert!(std::fs::read(dir.database()).unwrap() == before, "a new server wrote into it");
    assert!(!lock.is_revoked());
    drop(lock);
    let (mut store, _) = dir.open();
    assert_eq!(all(&mut store, S).messages.len(), 201);
    store.close();
    assert!(std::fs::read(dir.database()).unwrap() != before, "the log is written back after the backup");
}

#[test]
fn a_log_at_its_limit_ends_the_backup() {
    let dir = TempDir::new();
    let mut store = filled(&dir, 100);
    let target = dir.path().join("target");
    let backup = back_up(&dir.options().data_dir, &target, &mut |_| store.database.end_backup());
    assert!(matches!(backup, Err(BackupError::Revoked)), "{backup:?}");
    assert!(!target.exists(), "what was begun is removed");
    store.maintain(true);
    back_up_to(&dir, "target").unwrap_or_else(|error| panic!("the next one: {error}"));
    assert_eq!(restored(&dir, "target").len(), 100);
}

#[test]
fn a_target_with_content_and_a_source_without_a_store_are_refused() {
    let dir = TempDir::new();
    let text = back_up_to(&dir, "target").expect_err("no store").to_string();
    assert!(text.contains("there is no store here") && text.contains("-f FILE"), "{text}");
    let _store = filled(&dir, 1);
    let target = dir.path().join("full");
    std::fs::create_dir(&target).unwrap();
    std::fs::write(target.join("letter"), "dear").unwrap();
    let text = back_up_to(&dir, "full").expect_err("it has content").to_string();
    assert!(text.contains("it is not empty"), "{text}");
    assert_eq!(std::fs::read(target.join("letter")).unwrap(), b"dear");
    let text = back_up_to(&dir, "full/letter").expect_err("a file").to_string();
    assert!(text.contains("full/letter") && text.contains("can write"), "{text}");
}

#[test]
fn a_damaged_store_gives_no_backup() {
    let dir = TempDir::new();
    filled(&dir, 200).close();
    let mut database = std::fs::read(dir.database()).unwrap();
    let middle = database.len() / 2 / 4096 * 4096;
    database[middle..middle + 4096].fill(0x5A);
    std::fs::write(dir.database(), database).unwrap();
    let target = dir.path().join("target");
    std::fs::create_dir(&target).unwrap();
    let error = back_up_to(&dir, "target").expect_err("it is damaged");
    assert!(matches!(error, BackupError::Damaged(_)), "{error}");
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0, "what was begun is removed");
}
