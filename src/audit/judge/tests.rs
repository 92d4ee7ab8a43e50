//! Ledgers written by hand, and planted faults: each is caught, and counted as what it is.

use super::*;
use crate::audit::ledger::{Ledger, Plant};
use crate::wire::packet::QoS;
use std::path::PathBuf;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("rainbow-judge-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn stream(direction: Direction, qos: QoS) -> Stream {
    Stream { direction, qos, session: 3 }
}

fn key_of(stream: Stream, sequence: u64) -> u64 {
    if stream.direction == Direction::Up { 1000 * (1 + stream.qos as u64) + sequence } else { 0 }
}

/// A run without faults of its own: 40 messages per stream.
fn honest(name: &str, plant: Option<Plant>, only: Direction) -> Verdict {
    let dir = Dir::new(name);
    let mut ledger = Ledger::create(&dir.0, "all", plant).unwrap();
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        for sequence in 0..40 {
            let stream = stream(only, qos);
            for fact in [Fact::Tried, Fact::Delivered, Fact::Acknowledged] {
                ledger.note(Entry { fact, stream, sequence, key: key_of(stream, sequence) });
            }
        }
    }
    drop(ledger);
    judge(&dir.0).unwrap()
}

/// The only row that is not empty.
fn row(name: &str, entries: &[(Fact, u64, u64)], direction: Direction, qos: QoS) -> Row {
    let dir = Dir::new(name);
    let mut ledger = Ledger::create(&dir.0, "all", None).unwrap();
    for (fact, sequence, key) in entries {
        ledger.note(Entry { fact: *fact, stream: stream(direction, qos), sequence: *sequence, key: *key });
    }
    drop(ledger);
    let verdict = judge(&dir.0).unwrap();
    verdict.rows[&(direction, qos as u8)]
}

#[test]
fn an_honest_run_is_clean() {
    for direction in [Direction::Up, Direction::Down] {
        let verdict = honest("honest", None, direction);
        assert_eq!(verdict.violations(), 0, "{verdict}");
        let total = verdict.total();
        assert_eq!((total.tried, total.acknowledged, total.delivered, total.repeated), (80, 80, 80, 0));
    }
}

#[test]
fn what_is_planted_is_caught_as_what_it_is() {
    for direction in [Direction::Up, Direction::Down] {
        let total = |plant| honest("planted", Some(plant), direction).total();
        let lost = total(Plant::Lose);
        assert_eq!((lost.lost, lost.violations()), (5, 5));
        let doubled = total(Plant::Double);
        // Twice at QoS 1 is what a client must expect; under a new key it is not what a business server can.
        let of_both = if direction == Direction::Up { 5 } else { 3 };
        assert_eq!((doubled.doubled, doubled.violations()), (of_both, of_both));
        let reordered = total(Plant::Reorder);
        assert!(reordered.out_of_order >= 4 && reordered.violations() == reordered.out_of_order, "{reordered:?}");
        let corrupted = total(Plant::Corrupt);
        assert_eq!((corrupted.corrupted, corrupted.lost), (5, 5));
    }
}

#[test]
fn unknown_outcomes_are_no_violation() {
    use Fact::*;
    let entries = [(Tried, 0, 0), (Tried, 1, 0), (Delivered, 1, 0)];
    let row = row("unknown", &entries, Direction::Down, QoS::ExactlyOnce);
    assert_eq!((row.tried, row.acknowledged, row.delivered, row.violations()), (2, 0, 1, 0));
}

#[test]
fn repeats_are_allowed_to_qos_1_clients_and_under_the_same_key() {
    use Fact::*;
    let down = [(Tried, 0, 0), (Delivered, 0, 0), (Delivered, 0, 0)];
    let found = row("qos1", &down, Direction::Down, QoS::AtLeastOnce);
    assert_eq!((found.repeated, found.violations()), (1, 0));
    let up = [(Tried, 0, 0), (Delivered, 0, 7), (Delivered, 0, 7)];
    let found = row("same-key", &up, Direction::Up, QoS::ExactlyOnce);
    assert_eq!((found.repeated, found.violations()), (1, 0));
}

#[test]
fn a_late_repeat_is_not_out_of_order() {
    use Fact::*;
    let entries = [(Tried, 0, 0), (Tried, 1, 0), (Delivered, 0, 0), (Delivered, 1, 0), (Delivered, 0, 0)];
    let row = row("late", &entries, Direction::Down, QoS::AtLeastOnce);
    assert_eq!((row.out_of_order, row.repeated), (0, 1));
}

#[test]
fn a_call_that_broke_may_come_behind_the_next_and_what_was_acknowledged_may_not() {
    use Fact::*;
    let found = |name, acknowledged: &[u64], direction| {
        let key = if direction == Direction::Up { 7 } else { 0 };
        let tried = [(Tried, 0, 0), (Tried, 1, 0), (Delivered, 1, key), (Delivered, 0, 2 * key)];
        let acknowledged = acknowledged.iter().map(|sequence| (Acknowledged, *sequence, 0));
        row(name, &tried.into_iter().chain(acknowledged).collect::<Vec<_>>(), direction, QoS::ExactlyOnce)
    };
    assert_eq!(found("broken-call", &[1], Direction::Down).violations(), 0);
    assert_eq!(found("answered-call", &[0], Direction::Down).out_of_order, 1);
    // A client that has no answer yet has sent it all the same, before the next.
    assert_eq!(found("from-a-client", &[1], Direction::Up).out_of_order, 1);
}

#[test]
fn one_key_for_two_messages_loses_the_second() {
    use Fact::*;
    let entries = [(Tried, 0, 0), (Tried, 1, 0), (Delivered, 0, 7), (Delivered, 1, 7), (Acknowledged, 1, 0)];
    let found = row("clash", &entries, Direction::Up, QoS::AtLeastOnce);
    assert_eq!((found.keys, found.lost), (1, 1));
    let found = row("keyless", &[(Tried, 0, 0), (Delivered, 0, 0)], Direction::Up, QoS::AtLeastOnce);
    assert_eq!((found.keys, found.violations()), (1, 1));
}

#[test]
fn what_was_never_sent_is_unexpected() {
    use Fact::*;
    let entries = [(Tried, 0, 0), (Delivered, 0, 0), (Delivered, 1, 0), (Delivered, u64::MAX, 0)];
    assert_eq!(row("unexpected", &entries, Direction::Down, QoS::AtLeastOnce).unexpected, 2);
}

#[test]
fn a_session_begun_anew_is_a_violation() {
    let dir = Dir::new("session");
    let mut ledger = Ledger::create(&dir.0, "all", None).unwrap();
    let stream = stream(Direction::Down, QoS::AtLeastOnce);
    ledger.note(Entry { fact: Fact::SessionLost, stream, sequence: 0, key: 0 });
    drop(ledger);
    let verdict = judge(&dir.0).unwrap();
    assert_eq!((verdict.sessions_lost, verdict.violations()), (1, 1));
}
