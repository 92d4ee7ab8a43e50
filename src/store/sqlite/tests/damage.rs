//! A log or a database that was damaged while nobody looked: the start says so, and loses nothing silently.

use super::*;

/// A store that ended without closing: everything lies in the log.
fn unclosed(dir: &TempDir) {
    let (mut store, _) = dir.open();
    expect_done(&mut store, [put_session(S, "s")]);
    for offset in 0..50 {
        expect_done(&mut store, [put_message(stored(S, offset, &"x".repeat(500)))]);
    }
    // As a process that was killed leaves it: the connection's end would write the log back.
    let log = std::fs::read(dir.log()).unwrap();
    let database = std::fs::read(dir.database()).unwrap();
    drop(store);
    std::fs::write(dir.log(), log).unwrap();
    std::fs::write(dir.database(), database).unwrap();
}

fn refusal(dir: &TempDir) -> String {
    match Sqlite::open(&dir.options()) {
        Ok(_) => panic!("it starts"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_sound_log_is_read_and_a_cut_off_one_too() {
    let dir = TempDir::new();
    unclosed(&dir);
    let log = std::fs::read(dir.log()).unwrap();
    // A crash in the middle of the last commit.
    std::fs::write(dir.log(), &log[..log.len() - 1000]).unwrap();
    let (mut store, _) = dir.open();
    assert_eq!(all(&mut store, S).messages.len(), 49);
}

#[test]
fn a_bit_that_has_changed_in_the_log_is_reported() {
    for at in [4, 40, 20_000, 100_000] {
        let dir = TempDir::new();
        unclosed(&dir);
        let mut log = std::fs::read(dir.log()).unwrap();
        log[at] ^= 1;
        std::fs::write(dir.log(), log).unwrap();
        let refusal = refusal(&dir);
        assert!(refusal.contains("the log is damaged") && refusal.contains("accept-loss"), "{at}: {refusal}");
        std::fs::write(dir.database().with_file_name("accept-loss"), "").unwrap();
        drop(Sqlite::open(&dir.options()).unwrap_or_else(|error| panic!("{error}")));
        assert!(!dir.database().with_file_name("accept-loss").exists(), "it counts for one start");
    }
}

#[test]
fn an_emptied_database_is_not_taken_for_a_new_one() {
    let dir = TempDir::new();
    let (mut store, _) = dir.open();
    expect_done(&mut store, [put_session(S, "s")]);
    store.close();
    std::fs::write(dir.database(), "").unwrap();
    let refusal = refusal(&dir);
    assert!(refusal.contains("the database is empty") && refusal.contains("accept-loss"), "{refusal}");
    std::fs::remove_file(dir.database()).unwrap();
    assert!(Sqlite::open(&dir.options()).is_err(), "nor one that is gone");
    std::fs::write(dir.database().with_file_name("accept-loss"), "").unwrap();
    assert_eq!(dir.open().1, []);
}
