//! What each mutation does, and that doing it twice changes nothing more.

use super::*;
use crate::shard::command::Received;
use crate::wire::packet::MessageId;

/// One batch, sent twice as after a lost answer.
fn twice(rig: &mut Rig, mutations: Vec<Mutation>) -> Vec<Completion> {
    let requests = rig.requests(mutations.into_iter().map(Operation::Mutate).collect());
    commit_twice(&mut rig.store, requests, rig.now).into_iter().map(completion).collect()
}

pub fn commit_twice(store: &mut Redis, requests: Vec<Request>, now: UnixMs) -> Vec<Response> {
    store.batch = store.batch.next();
    let known = Known { room: u64::MAX, claimed: HashMap::new() };
    let batch = Batch::new(requests, &[], known, &store.encoder(now));
    store.exchange(batch.pipeline()).expect("the first time");
    let values = store.exchange(batch.pipeline()).expect("the second time");
    batch.finish(values, true, &mut store.owned).responses
}

#[test]
fn a_session_is_found_again_as_it_was_put() {
    let server = Server::start();
    let mut rig = Rig::new(&server.url());
    let full = SessionRow {
        ends: Some(UnixMs(77)),
        cookie: Some(Arc::from(&b"\0cookie\xFF"[..])),
        downlink: DownlinkMark { reserved: Offset(1024), floor: Offset(17) },
        uplink: UplinkMark { run: 3, last: 65535, past_half: true },
        ..row(1)
    };
    rig.expect_done(vec![Mutation::PutSession(Box::new(full.clone())), put_session(2)]);
    for channel in ["news", "weather", "täglich"] {
        rig.expect_done(vec![Mutation::JoinChannel { session: SessionId(1), channel: channel.into() }]);
    }
    rig.expect_done(vec![
        Mutation::LeaveChannel { session: SessionId(1), channel: "news".into() },
        put_message(1, 5),
        put_message(1, 9),
    ]);
    let found = rig.reopen();
    let bytes = 2 * stored(1, 5).message.len() as u64;
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].row, full);
    assert_eq!(found[0].channels, ["täglich".into(), "weather".into()] as [Arc<str>; 2]);
    assert_eq!((found[0].waiting, found[0].waiting_bytes, found[0].next), (2, bytes, Offset(10)));
    assert_eq!((found[0].oldest, found[0].first), (Some(NOW), Some(Offset(5))));
    assert_eq!(found[1].row, row(2));
    assert_eq!((found[1].waiting, found[1].next, found[1].first), (0, Offset(0), None));
    assert_eq!(rig.store.usage(), Usage { messages: 2, bytes });
}

#[test]
fn messages_are_loaded_in_order_in_pages() {
    let server = Server::start();
    let mut rig = Rig::new(&server.url());
    rig.expect_done(vec![put_session(1)]);
    let offsets = [4, 1, 9, 7, 2, 8, 0, 300, 65536, 5];
    rig.expect_done(offsets.iter().map(|offset| put_message(1, *offset)).collect());
    assert_eq!(rig.offsets(SessionId(1)), [0, 1, 2, 4, 5, 7, 8, 9, 300, 65536]);
    let Completion::Loaded(page) = rig.load(SessionId(1), Some(Offset(3)), 3) else { panic!("a page") };
    assert_eq!(page.messages, [stored(1, 4), stored(1, 5), stored(1, 7)]);
    assert!(page.more);
    let Completion::Loaded(page) = rig.load(SessionId(1), Some(Offset(8)), 3) else { panic!("a page") };
    assert_eq!(page.messages, [stored(1, 9), stored(1, 300), stored(1, 65536)]);
    assert!(!page.more, "there is nothing behind the last one");
}

#[test]
fn a_page_has_a_limit_in_bytes_and_one_message_at_least() {
    let server = Server::start();
    let mut rig = Rig::new(&server.url());
    rig.expect_done(vec![put_session(1)]);
    let large = |offset, bytes| {
        let message = message(QoS::AtLeastOnce, &"x".repeat(bytes));
        Mutation::PutMessage(Box::new(StoredMessage { message, ..stored(1, offset) }))
    };
    rig.expect_done(vec![large(0, 2 << 20), large(1, 600_000), large(2, 600_000), large(3, 10)]);
    assert_eq!(rig.offsets(SessionId(1)), [0]);
    let Completion::Loaded(page) = rig.load(SessionId(1), Some(Offset(0)), 9) else { panic!("a page") };
    assert_eq!((page.messages.len(), page.more), (1, true));
}

#[test]
fn every_mutation_may_be_done_twice() {
    let server = Server::start();
    let mut rig = Rig::new(&server.url());
    let session = SessionId(1);
    let received = Received::from_stored(MessageId(7), 1 << 62 | 99, Arc::from(&b"yes"[..]));
    let mutations = vec![
        put_session(1),
        Mutation::JoinChannel { session, channel: "a".into() },
        Mutation::JoinChannel { session, channel: "b".into() },
        Mutation::LeaveChannel { session, channel: "a".into() },
        put_message(1, 0),
        put_message(1, 1),
        put_message(1, 2),
        Mutation::RemoveMessage { session, offset: Offset(1) },
        Mutation::ReleaseMessage { session, offset: Offset(2) },
        Mutation::PutReceived { session, received: received.clone() },
        Mutation::PutReceived { session, received: Received { id: MessageId(8), ..received.clone() } },
        Mutation::RemoveReceived { session, id: MessageId(8) },
        put_session(2),
        put_message(2, 0),
        Mutation::DropSession { session: SessionId(2) },
    ];
    assert!(twice(&mut rig, mutations).iter().all(|completion| *completion == Completion::Done));
    let page = rig.page(session);
    assert_eq!(page.received, [received]);
    assert_eq!(page.messages[0], stored(1, 0));
    assert!(page.messages[1].released && page.messages[1].offset == Offset(2) && page.messages.len() == 2);
    let found = rig.reopen();
    assert_eq!((found.len(), found[0].channels.len(), found[0].waiting), (1, 1, 1));
    assert_eq!(found[0].waiting_bytes, stored(1, 0).message.len() as u64);
}

#[test]
fn a_stored_message_stays_as_it_was_first_stored() {
    let server = Server::start();
    let mut rig = Rig::new(&server.url());
    rig.expect_done(vec![put_session(1), put_message(1, 3)]);
    let other = StoredMessage { message: message(QoS::ExactlyOnce, "other"), sent: true, ..stored(1, 3) };
    rig.expect_done(vec![Mutation::PutMessage(Box::new(other))]);
    assert_eq!(rig.page(SessionId(1)).messages, [stored(1, 3)]);
}

#[test]
fn a_claim_is_taken_once_per_session_even_when_its_message_is_gone() {
    let server = Server::start();
    let mut rig = Rig::new(&server.url());
    rig.expect_done(vec![put_session(1), put_session(2)]);
    let claim = Claim { message_id: "order-17".into(), until: UnixMs(NOW.0 + 60_000) };
    let claimed = |session, offset| StoredMessage { claim: Some(claim.clone()), ..stored(session, offset) };
    let mutation = |session, offset| Mutation::PutMessage(Box::new(claimed(session, offset)));
    rig.expect_done(vec![mutation(1, 0)]);
    assert_eq!(rig.page(SessionId(1)).messages, [claimed(1, 0)]);
    assert_eq!(rig.mutate_one(mutation(1, 1)), Completion::Duplicate);
    rig.expect_done(vec![Mutation::RemoveMessage { session: SessionId(1), offset: Offset(0) }]);
    assert_eq!(rig.mutate_one(mutation(1, 2)), Completion::Duplicate);
    rig.expect_done(vec![mutation(2, 0)]);
    assert_eq!(twice(&mut rig, vec![mutation(1, 3), put_message(1, 4)]), [Completion::Duplicate, Completion::Done]);
    rig.now.0 += 60_000;
    assert_eq!(rig.mutate_one(mutation(1, 5)), Completion::Done, "the claim's time is over");
}

#[test]
fn a_call_is_claimed_once_until_it_is_settled_or_over() {
    let server = Server::start();
    let mut rig = Rig::new(&server.url());
    assert_eq!(rig.claim("a", 60_000), ClaimOutcome::New);
    assert_eq!(rig.claim("a", 60_000), ClaimOutcome::Unsettled);
    let settle = |id: &str| Request::Settle { message_id: id.into(), answer: b"{\"status\":0}".to_vec() };
    assert_eq!(rig.store.commit(vec![settle("a"), settle("unknown")], rig.now), [Response::Settled, Response::Settled]);
    assert_eq!(rig.claim("a", 60_000), ClaimOutcome::Settled(b"{\"status\":0}".to_vec()));
    rig.reopen();
    assert_eq!(rig.claim("a", 60_000), ClaimOutcome::Settled(b"{\"status\":0}".to_vec()));
    rig.now.0 += 60_000;
    assert_eq!(rig.claim("a", 60_000), ClaimOutcome::New);
    assert_eq!(rig.claim("unknown", 60_000), ClaimOutcome::New);
}

#[test]
fn a_repeated_batch_gets_the_same_answer_to_its_claim() {
    let server = Server::start();
    let mut rig = Rig::new(&server.url());
    let claim = |id| Request::Claim { id, claim: Claim { message_id: "b".into(), until: UnixMs(NOW.0 + 60_000) } };
    let responses = commit_twice(&mut rig.store, vec![claim(ClaimId(1)), claim(ClaimId(2))], NOW);
    let expected = [(ClaimId(1), ClaimOutcome::New), (ClaimId(2), ClaimOutcome::Unsettled)];
    assert_eq!(responses, expected.map(|(id, outcome)| Response::Claim { id, outcome }));
}

#[test]
fn a_name_belongs_to_one_session() {
    let server = Server::start();
    let mut rig = Rig::new(&server.url());
    rig.expect_done(vec![put_session(1)]);
    let thief = || Mutation::PutSession(Box::new(SessionRow { name: "name-1".into(), ..row(2) }));
    assert_eq!(rig.mutate_one(thief()), Completion::Refused(StoreError::NameTaken));
    rig.expect_done(vec![Mutation::DropSession { session: SessionId(1) }, thief()]);
    assert_eq!(rig.mutate_one(put_session(1)), Completion::Refused(StoreError::NameTaken));
    assert_eq!(rig.reopen()[0].row.session, SessionId(2));
    assert_eq!(rig.mutate_one(put_session(1)), Completion::Refused(StoreError::NameTaken), "after a restart as well");
}

#[test]
fn nothing_is_promised_to_a_session_that_is_not_there() {
    let server = Server::start();
    let mut rig = Rig::new(&server.url());
    let session = SessionId(1);
    assert_eq!(rig.mutate_one(put_message(1, 0)), Completion::Refused(StoreError::Broken));
    assert_eq!(rig.load(session, None, 9), Completion::Refused(StoreError::Broken));
    rig.expect_done(vec![Mutation::RemoveMessage { session, offset: Offset(0) }, Mutation::DropSession { session }]);
}

#[test]
fn what_has_expired_is_loaded_until_it_is_purged_in_slices() {
    let server = Server::start();
    let mut rig = Rig::new(&server.url());
    rig.expect_done(vec![put_session(1), put_session(2)]);
    let until = |session, offset, life| StoredMessage { expires: UnixMs(NOW.0 + life), ..stored(session, offset) };
    let lives = [50, 10, 90, 20, 10, 99, 10];
    rig.expect_done((0..7).map(|at| Mutation::PutMessage(Box::new(until(1, at, lives[at as usize])))).collect());
    // The client may hold these ids: they are released first, however old they are.
    let in_use = StoredMessage { sent: true, message: message(QoS::ExactlyOnce, "held"), ..until(2, 0, 5) };
    rig.expect_done(vec![
        Mutation::PutMessage(Box::new(in_use.clone())),
        Mutation::PutMessage(Box::new(until(2, 1, 5))),
    ]);
    assert_eq!(rig.store.purge(rig.now, 100), PurgeOutcome::default());
    rig.now.0 += 20;
    assert_eq!(rig.offsets(SessionId(1)), [0, 1, 2, 3, 4, 5, 6]);
    let mut totals = [(0, 0); 2];
    let mut slices = 0;
    loop {
        let purged = rig.store.purge(rig.now, 2);
        slices += 1;
        assert!(purged.expired.iter().map(|expired| expired.messages).sum::<u32>() <= 2, "{purged:?}");
        for ExpiredMessages { session, messages, bytes } in purged.expired {
            let total = &mut totals[session.0 as usize - 1];
            *total = (total.0 + messages, total.1 + bytes);
        }
        if !purged.more {
            break;
        }
    }
    assert_eq!(rig.offsets(SessionId(1)), [0, 2, 5]);
    let each = stored(1, 0).message.len() as u64;
    assert_eq!(totals, [(4, 4 * each), (1, each)]);
    assert!(slices >= 3, "five messages in slices of two");
    assert_eq!(rig.page(SessionId(2)).messages, [in_use]);
    let found = rig.reopen();
    assert_eq!((found[0].waiting, found[0].waiting_bytes), (3, 3 * each));
    assert_eq!(rig.store.purge(rig.now, 100), PurgeOutcome::default(), "nothing is text twice");
}

#[test]
fn a_full_store_refuses_before_it_promises() {
    let server = Server::start();
    let each = stored(1, 0).message.len() as u64;
    let mut rig = Rig::with(Options { bytes_max: 2 * each, ..options(&server.url(), "test") });
    rig.expect_done(vec![put_session(1)]);
    let completions = rig.mutate(vec![put_message(1, 0), put_message(1, 1), put_message(1, 2)]);
    assert_eq!(completions, [Completion::Done, Completion::Done, Completion::Refused(StoreError::StoreFull)]);
    assert_eq!(rig.mutate_one(put_message(1, 3)), Completion::Refused(StoreError::StoreFull));
    rig.expect_done(vec![Mutation::RemoveMessage { session: SessionId(1), offset: Offset(0) }]);
    rig.expect_done(vec![put_message(1, 4)]);
    assert_eq!(rig.offsets(SessionId(1)), [1, 4]);
}
