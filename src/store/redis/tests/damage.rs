//! What lies in Redis for one session is damaged: that session is refused by name, and everything else goes on.

use super::*;
use redis::Cmd;

/// A store with the sessions 1 and 2, three messages each.
fn rig(server: &Server) -> Rig {
    let mut rig = Rig::new(&server.url());
    for session in [1, 2] {
        rig.expect_done(vec![
            put_session(session),
            Mutation::JoinChannel { session: SessionId(session), channel: "c".into() },
        ]);
        rig.expect_done((0..3).map(|offset| put_message(session, offset)).collect());
    }
    rig
}

/// What is done to session 1.
type Damage = fn(&Keys) -> Vec<Cmd>;

const ONE: SessionId = SessionId(1);

fn command(words: &[&[u8]]) -> Cmd {
    let mut command = Cmd::new();
    for word in words {
        command.arg(*word);
    }
    command
}

fn entry(bytes: &[u8], index: &str, keys: &Keys) -> Vec<Cmd> {
    vec![command(&[b"LSET", &keys.queue(ONE), index.as_bytes(), bytes])]
}

fn whole_entry() -> Vec<u8> {
    encoding::encode_message(&stored(1, 1))
}

fn with_flags(flags: u8) -> Vec<u8> {
    let mut bytes = whole_entry();
    bytes[12] = flags;
    bytes
}

/// Of the messages, the received ids or the channels: the session and its name are known.
const OF_CONTENT: &[(&str, Damage)] = &[
    ("the first entry is cut off within its offset", |keys| entry(b"\0\0\0", "0", keys)),
    ("the last entry is cut off within its offset", |keys| entry(b"\0\0\0", "-1", keys)),
    ("an entry is cut off within its header", |keys| entry(&whole_entry()[..15], "1", keys)),
    ("the first entry is cut off within its header", |keys| entry(&[0; 15], "0", keys)),
    ("an entry is cut off within its body", |keys| entry(&whole_entry()[..whole_entry().len() - 1], "1", keys)),
    ("an entry is of another version", |keys| entry(&with_flags(0x80), "1", keys)),
    ("an entry is empty", |keys| entry(b"", "1", keys)),
    ("the queue is no list", |keys| vec![command(&[b"SET", &keys.queue(ONE), b"queue"])]),
    ("a received id is cut off", |keys| vec![command(&[b"HSET", &keys.received(ONE), b"\0\x07", b"\0\0"])]),
    ("the received ids are no hash", |keys| vec![command(&[b"SET", &keys.received(ONE), b"ids"])]),
];

/// Of the row: the session cannot be known.
const OF_ROW: &[(&str, Damage)] = &[
    ("the row is cut off within what waits", |keys| vec![command(&[b"SET", &keys.row(ONE), b"0123456789"])]),
    ("the row is cut off within the session", |keys| vec![command(&[b"SET", &keys.row(ONE), &[0; 60]])]),
    ("the row is no string", |keys| {
        vec![command(&[b"DEL", &keys.row(ONE)]), command(&[b"SADD", &keys.row(ONE), b"row"])]
    }),
];

#[track_caller]
fn damaged(server: &Server, rig: &Rig, damage: Damage) {
    for command in damage(&rig.store.keys) {
        let answer = server.run_command(&command);
        assert!(!matches!(answer, Value::ServerError(_)), "{answer:?}");
    }
}

/// Session 2 and the store are as if nothing were wrong.
#[track_caller]
fn expect_well(rig: &mut Rig, what: &str) {
    rig.store.check(rig.now);
    assert_eq!(rig.store.health(), Health::Ready, "{what}");
    assert_eq!(rig.offsets(SessionId(2)), [0, 1, 2], "{what}");
    rig.expect_done(vec![put_message(2, 3), Mutation::RemoveMessage { session: SessionId(2), offset: Offset(3) }]);
    assert_eq!(rig.store.health(), Health::Ready, "{what}");
}

#[test]
fn damaged_content_costs_its_session_alone() {
    for (what, damage) in OF_CONTENT {
        let server = Server::start();
        let mut rig = rig(&server);
        damaged(&server, &rig, *damage);
        let refused = Completion::Refused(StoreError::Damaged);
        assert_eq!(rig.load(ONE, None, 1000), refused, "{what}");
        assert_eq!(rig.store.health(), Health::Ready, "{what}");
        // Beside session 2 in one batch.
        let completions = rig.mutate(vec![put_message(1, 7), put_message(2, 7)]);
        assert_eq!(completions[1], Completion::Done, "{what}");
        rig.expect_done(vec![Mutation::RemoveMessage { session: SessionId(2), offset: Offset(7) }]);
        expect_well(&mut rig, what);
        let found = rig.reopen();
        assert_eq!(found.len(), 2, "{what}");
        assert_eq!(rig.load(ONE, None, 1000), refused, "{what}: after a restart");
        expect_well(&mut rig, what);
        rig.expect_done(vec![Mutation::DropSession { session: ONE }, put_session(1), put_message(1, 0)]);
        assert_eq!(rig.offsets(ONE), [0], "{what}: dropped and made anew");
    }
}

#[test]
fn a_damaged_row_costs_its_session_alone() {
    for (what, damage) in OF_ROW {
        let server = Server::start();
        let mut rig = rig(&server);
        damaged(&server, &rig, *damage);
        let _ = rig.load(ONE, None, 1000);
        let _ = rig.mutate(vec![put_message(1, 7), put_message(2, 7)]);
        rig.expect_done(vec![Mutation::RemoveMessage { session: SessionId(2), offset: Offset(7) }]);
        expect_well(&mut rig, what);
        rig.options.node.generation.0 += 1;
        let (store, opened) = Redis::open(&rig.options).unwrap_or_else(|error| panic!("{what}: {error}"));
        rig.store = store;
        assert_eq!(opened.damaged, 1, "{what}");
        assert_eq!(opened.sessions.len(), 1, "{what}");
        expect_well(&mut rig, what);
        rig.expect_done(vec![Mutation::DropSession { session: ONE }, put_session(1), put_message(1, 0)]);
        assert_eq!(rig.offsets(ONE), [0], "{what}: dropped and made anew");
    }
}

/// Whatever due sessions hold, the purge goes on to the others.
#[test]
fn a_damaged_queue_does_not_stop_the_purge() {
    let server = Server::start();
    let mut rig = rig(&server);
    damaged(&server, &rig, |keys| entry(b"\0\0\0", "0", keys));
    let outcome = rig.store.purge(UnixMs(NOW.0 + 2_000_000), 100);
    assert_eq!(outcome.expired.len(), 1, "{outcome:?}");
    assert_eq!((outcome.expired[0].session, outcome.expired[0].messages), (SessionId(2), 3));
    assert!(!outcome.more, "{outcome:?}");
    assert_eq!(rig.store.health(), Health::Ready);
}
