//! Lost answers, restarts, lost data, other servers, full memory: detected, reported, never acknowledged wrongly.

use super::server::Proxy;
use super::*;
use std::fs;
use std::path::Path;
use std::process::Command as Process;

#[track_caller]
fn refusing(rig: &Rig) -> (StoreError, String) {
    match rig.store.health() {
        Health::Refusing { reason, detail } => (reason, detail),
        Health::Ready => panic!("it is ready"),
    }
}

/// The batch's answers are cut off at each place in turn; it is done once nevertheless, and answered rightly.
#[test]
fn a_connection_cut_before_the_answer_is_no_refusal() {
    let server = Server::start();
    let proxy = Proxy::to(server.port);
    let mut rig = Rig::new(&proxy.url());
    rig.expect_done(vec![put_session(1)]);
    for (at, through) in [0, 1, 3, 4, 7, 11, 12, 16].into_iter().enumerate() {
        proxy.cut_answers_after(through);
        let (offset, claim) = (at as u64 * 10, format!("claim-{at}"));
        let claim = Claim { message_id: claim.into(), until: UnixMs(NOW.0 + 60_000) };
        let one = Mutation::PutMessage(Box::new(StoredMessage { claim: Some(claim.clone()), ..stored(1, offset) }));
        let repeat = Mutation::PutMessage(Box::new(StoredMessage { claim: Some(claim), ..stored(1, offset + 1) }));
        let mutations = vec![
            one,
            repeat,
            put_message(1, offset + 2),
            Mutation::RemoveMessage { session: SessionId(1), offset: Offset(offset + 2) },
        ];
        let done = Completion::Done;
        assert_eq!(
            rig.mutate(mutations),
            [done, Completion::Duplicate, Completion::Done, Completion::Done],
            "after {through} bytes"
        );
        assert_eq!(proxy.cuts(), at as u32 + 1, "it was cut");
    }
    assert_eq!(rig.offsets(SessionId(1)), [0, 10, 20, 30, 40, 50, 60, 70]);
    assert_eq!(rig.reopen()[0].waiting, 8);
}

/// A batch that is still under way on the old connection must not be done after the next ones.
#[test]
fn a_given_up_connection_is_killed() {
    let server = Server::start();
    let mut rig = Rig::new(&server.url());
    rig.expect_done(vec![put_session(1)]);
    let clients = |server: &Server| match server.query("CLIENT LIST TYPE normal") {
        Value::BulkString(list) => String::from_utf8(list).expect("text").lines().count(),
        Value::VerbatimString { text, .. } => text.lines().count(),
        other => panic!("no list: {other:?}"),
    };
    assert_eq!(clients(&server), 2, "the store and the one who asks");
    let proxy = Proxy::to(server.port);
    rig.options.url = proxy.url().into();
    rig.reopen();
    proxy.cut_answers_after(0);
    rig.expect_done(vec![put_message(1, 0)]);
    assert_eq!(proxy.cuts(), 1);
    // The proxy keeps the server's side of the cut connection open: only the store can have ended it.
    assert_eq!(clients(&server), 2);
}

#[test]
fn a_restart_with_all_data_goes_unnoticed() {
    let mut server = Server::start();
    let mut rig = Rig::new(&server.url());
    rig.expect_done(vec![put_session(1), put_message(1, 0)]);
    server.restart();
    rig.expect_done(vec![put_message(1, 1)]);
    assert_eq!(rig.offsets(SessionId(1)), [0, 1]);
    assert_eq!(rig.store.health(), Health::Ready);
}

#[test]
fn scripts_that_were_flushed_are_loaded_again() {
    let server = Server::start();
    let mut rig = Rig::new(&server.url());
    rig.expect_done(vec![put_session(1)]);
    server.query("SCRIPT FLUSH");
    rig.expect_done(vec![put_message(1, 0), put_message(1, 1)]);
    assert_eq!(rig.offsets(SessionId(1)), [0, 1]);
}

#[test]
fn a_server_that_is_away_is_unreachable_until_it_is_back() {
    let mut server = Server::start();
    let mut rig = Rig::new(&server.url());
    rig.expect_done(vec![put_session(1), put_message(1, 0)]);
    server.kill();
    rig.store.backoff_ms = &[1, 5, 10];
    let claim = Claim { message_id: "c".into(), until: UnixMs(NOW.0 + 60_000) };
    let mut requests = rig.requests(vec![Operation::Mutate(put_message(1, 1)), Operation::Mutate(put_session(2))]);
    requests.push(Request::Claim { id: ClaimId(1), claim });
    let responses = rig.store.commit(requests, NOW);
    let unreachable = |number| Response::Shard {
        shard: ShardId(0),
        number: CommandNumber(number),
        completion: Completion::Refused(StoreError::Unreachable),
    };
    let claimed = Response::Claim { id: ClaimId(1), outcome: ClaimOutcome::Refused(StoreError::Unreachable) };
    assert_eq!(responses, [unreachable(3), unreachable(4), claimed]);
    assert_eq!(refusing(&rig).0, StoreError::Unreachable);
    rig.store.check(NOW);
    assert_eq!(refusing(&rig).0, StoreError::Unreachable);
    server.restart();
    rig.store.check(NOW);
    assert_eq!(rig.store.health(), Health::Ready);
    rig.expect_done(vec![put_message(1, 2)]);
    assert_eq!(rig.offsets(SessionId(1)), [0, 2]);
}

/// The shard does not know a session whose Put was unreachable, and makes another one of that name.
#[test]
fn a_session_of_which_nobody_knows_is_dropped() {
    let server = Server::start();
    let proxy = Proxy::to(server.port);
    let mut rig = Rig::new(&proxy.url());
    rig.expect_done(vec![put_session(1)]);
    // Away already: one try, which is done and whose answer is lost.
    rig.store.health = Health::Refusing { reason: StoreError::Unreachable, detail: String::new() };
    proxy.cut_answers_after(0);
    assert_eq!(rig.mutate_one(put_session(2)), Completion::Refused(StoreError::Unreachable));
    rig.expect_done(vec![
        Mutation::PutSession(Box::new(SessionRow { name: "name-2".into(), ..row(3) })),
        put_message(3, 0),
    ]);
    let found = rig.reopen();
    assert_eq!(found.iter().map(|found| found.row.session.0).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn a_restart_without_data_is_noticed() {
    let mut server = Server::start();
    let mut rig = Rig::new(&server.url());
    rig.expect_done(vec![put_session(1), put_message(1, 0)]);
    server.kill();
    fs::remove_dir_all(server.dir.join("appendonlydir")).expect("its data");
    server.restart();
    let completions = rig.mutate(vec![put_session(2), put_message(2, 0)]);
    assert_eq!(completions, [Completion::Refused(StoreError::Broken), Completion::Refused(StoreError::Broken)]);
    let (reason, detail) = refusing(&rig);
    assert!(reason == StoreError::Broken && detail.contains("lost its data"), "{detail}");
    rig.store.check(NOW);
    assert_eq!(rig.mutate_one(put_session(3)), Completion::Refused(StoreError::Broken), "it stays so until a restart");
    assert_eq!(rig.reopen(), [], "and nothing was written to it");
}

#[test]
fn data_that_is_flushed_under_a_living_connection_is_noticed() {
    let server = Server::start();
    let mut rig = Rig::new(&server.url());
    rig.expect_done(vec![put_session(1)]);
    server.query("FLUSHALL");
    assert_eq!(rig.mutate_one(put_session(2)), Completion::Refused(StoreError::Broken));
    assert!(refusing(&rig).1.contains("lost its data"));
}

#[test]
fn an_idle_server_notices_lost_data_as_well() {
    let server = Server::start();
    let mut rig = Rig::new(&server.url());
    rig.expect_done(vec![put_session(1)]);
    server.query("FLUSHALL");
    rig.store.check(NOW);
    assert!(refusing(&rig).1.contains("lost its data"));
}

#[test]
fn an_older_copy_of_the_data_is_noticed() {
    let mut server = Server::start();
    let mut rig = Rig::new(&server.url());
    rig.expect_done(vec![put_session(1), put_message(1, 0)]);
    let (data, copy) = (server.dir.join("appendonlydir"), server.dir.join("copy"));
    copy_dir(&data, &copy);
    rig.expect_done(vec![put_message(1, 1)]);
    server.kill();
    fs::remove_dir_all(&data).expect("its data");
    fs::rename(&copy, &data).expect("the copy takes its place");
    server.restart();
    assert_eq!(rig.mutate_one(put_message(1, 2)), Completion::Refused(StoreError::Broken));
    let (_, detail) = refusing(&rig);
    assert!(detail.contains("older copy") && detail.contains("2 was promised"), "{detail}");
    assert_eq!(rig.reopen()[0].waiting, 1, "a new start goes on with what is there");
}

/// A batch of which no answer came is no promise: a copy without it is no loss.
#[test]
fn a_copy_that_lacks_only_what_was_not_promised_is_good() {
    let mut server = Server::start();
    let proxy = Proxy::to(server.port);
    let mut rig = Rig::new(&proxy.url());
    rig.expect_done(vec![put_session(1), put_message(1, 0)]);
    let (data, copy) = (server.dir.join("appendonlydir"), server.dir.join("copy"));
    copy_dir(&data, &copy);
    rig.store.health = Health::Refusing { reason: StoreError::Unreachable, detail: String::new() };
    proxy.cut_answers_after(0);
    assert_eq!(rig.mutate_one(put_message(1, 1)), Completion::Refused(StoreError::Unreachable));
    server.kill();
    fs::remove_dir_all(&data).expect("its data");
    fs::rename(&copy, &data).expect("the copy takes its place");
    server.restart();
    rig.expect_done(vec![put_message(1, 2)]);
    assert_eq!(rig.offsets(SessionId(1)), [0, 2]);
}

#[test]
fn a_second_server_takes_over_and_the_first_is_fenced() {
    let server = Server::start();
    let mut rig = Rig::new(&server.url());
    rig.expect_done(vec![put_session(1), put_message(1, 0)]);
    rig.options.node.generation.0 += 1;
    let (mut second, opened) = Redis::open(&rig.options).expect("it opens");
    assert_eq!(opened.sessions.len(), 1);
    assert_eq!(
        rig.mutate(vec![put_message(1, 1), put_session(2)]),
        [const { Completion::Refused(StoreError::Fenced) }; 2]
    );
    assert!(refusing(&rig).1.contains("another server"));
    std::mem::swap(&mut rig.store, &mut second);
    assert_eq!(rig.offsets(SessionId(1)), [0], "the fenced one has changed nothing");
    rig.expect_done(vec![put_message(1, 3)]);
}

#[test]
fn a_session_of_another_owner_is_fenced() {
    let server = Server::start();
    let mut rig = Rig::new(&server.url());
    rig.expect_done(vec![put_session(1), put_message(1, 0)]);
    server.query("SETRANGE rainbow:test:{0}:s:\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\u{1} 0 stranger");
    let session = SessionId(1);
    for mutation in [
        put_message(1, 1),
        Mutation::RemoveMessage { session, offset: Offset(0) },
        Mutation::ReleaseMessage { session, offset: Offset(0) },
        Mutation::JoinChannel { session, channel: "a".into() },
        Mutation::DropSession { session },
        put_session(1),
    ] {
        assert_eq!(rig.mutate_one(mutation.clone()), Completion::Refused(StoreError::Fenced), "{mutation:?}");
    }
    assert_eq!(rig.load(session, None, 9), Completion::Refused(StoreError::Fenced));
    assert_eq!(rig.store.take_fenced(), [Arc::from("name-1")], "it is reported once");
}

#[test]
fn full_memory_refuses_new_messages_and_lets_the_old_ones_go() {
    let server = Server::start();
    let mut rig = Rig::new(&server.url());
    let session = SessionId(1);
    rig.expect_done(vec![
        put_session(1),
        put_message(1, 0),
        put_message(1, 1),
        put_message(1, 2),
        Mutation::JoinChannel { session, channel: "a".into() },
    ]);
    server.query("CONFIG SET maxmemory 1");
    assert_eq!(rig.mutate_one(put_message(1, 3)), Completion::Refused(StoreError::StoreFull));
    assert_eq!(refusing(&rig).0, StoreError::StoreFull);
    rig.store.check(NOW);
    assert_eq!(refusing(&rig).0, StoreError::StoreFull);
    assert_eq!(rig.mutate_one(put_session(2)), Completion::Refused(StoreError::StoreFull), "no new session");
    // Who comes back to a full store must be let in, get what waits, and make room.
    rig.expect_done(vec![put_session(1)]);
    assert_eq!(rig.offsets(session), [0, 1, 2]);
    rig.expect_done(vec![
        Mutation::ReleaseMessage { session, offset: Offset(0) },
        Mutation::RemoveMessage { session, offset: Offset(0) },
        Mutation::RemoveMessage { session, offset: Offset(1) },
        Mutation::LeaveChannel { session, channel: "a".into() },
    ]);
    rig.now.0 = u64::MAX >> 12;
    assert_eq!(rig.store.purge(rig.now, 9).expired.len(), 1);
    rig.expect_done(vec![Mutation::DropSession { session }]);
    server.query("CONFIG SET maxmemory 0");
    rig.store.check(NOW);
    assert_eq!(rig.store.health(), Health::Ready);
}

#[test]
fn a_policy_that_changed_is_seen_at_the_next_connection() {
    let mut server = Server::start();
    let mut rig = Rig::new(&server.url());
    rig.expect_done(vec![put_session(1)]);
    server.restart_with(&["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "volatile-lru"]);
    assert_ne!(rig.mutate_one(put_message(1, 0)), Completion::Done);
    let (reason, detail) = refusing(&rig);
    assert!(reason == StoreError::Broken && detail.contains("volatile-lru"), "{detail}");
    server.query("CONFIG SET maxmemory-policy noeviction");
    rig.expect_done(vec![put_message(1, 1)]);
    assert_eq!(rig.store.health(), Health::Ready);
}

#[test]
fn a_replica_is_not_written_to() {
    let server = Server::start();
    let mut rig = Rig::new(&server.url());
    rig.expect_done(vec![put_session(1)]);
    rig.store.health = Health::Refusing { reason: StoreError::Unreachable, detail: String::new() };
    server.query("REPLICAOF 127.0.0.1 1");
    assert_eq!(rig.mutate_one(put_message(1, 0)), Completion::Refused(StoreError::Unreachable));
    server.query("REPLICAOF NO ONE");
    rig.expect_done(vec![put_message(1, 1)]);
    assert_eq!(rig.offsets(SessionId(1)), [1]);
}

/// Killed repeatedly while batches run: what was completed is there, once, in its order.
#[test]
fn a_server_killed_under_load_loses_nothing_that_was_answered() {
    let mut server = Server::start();
    let mut rig = Rig::new(&server.url());
    rig.expect_done(vec![put_session(1)]);
    rig.store.backoff_ms = &[1, 5, 10];
    let mut promised = Vec::new();
    let mut offset = 0;
    for round in 0..4 {
        let pid = server.pid();
        // Dies at some point of the next batches; a batch takes a millisecond or two.
        let killer = std::thread::spawn(move || {
            std::thread::park_timeout(Duration::from_millis(15 + round * 7));
            Process::new("kill").args(["-9", &pid.to_string()]).status().expect("kill is there")
        });
        // More than it takes until the server is dead; the pauses of the store end the loop.
        while rig.store.health() == Health::Ready {
            let mutations: Vec<Mutation> = (offset..offset + 20).map(|offset| put_message(1, offset)).collect();
            let completions = rig.mutate(mutations);
            promised.extend(
                (offset..).zip(&completions).filter(|(_, o)| **o == Completion::Done).map(|(offset, _)| offset),
            );
            offset += 20;
        }
        killer.join().expect("it has killed");
        server.restart();
        rig.store.check(NOW);
        assert_eq!(rig.store.health(), Health::Ready);
    }
    assert!(promised.len() >= 80, "something was promised");
    let mut found = Vec::new();
    loop {
        let Completion::Loaded(page) = rig.load(SessionId(1), found.last().map(|offset| Offset(*offset)), 500) else {
            panic!("a page");
        };
        found.extend(page.messages.iter().map(|message| message.offset.0));
        if !page.more {
            break;
        }
    }
    assert!(found.is_sorted() && found.windows(2).all(|pair| pair[0] != pair[1]), "each once, in their order");
    assert!(promised.iter().all(|offset| found.binary_search(offset).is_ok()), "all that was promised is there");
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("its files") {
        let entry = entry.expect("a file");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}
