//! Several nodes at one Redis: each session is one's, and goes from one to the next.

use super::server::Proxy;
use super::*;
use crate::base::id::Identity;
use crate::shard::command::{ClaimAnswer, OwnershipAnswer, OwnershipCommand, Token, WriteAnswer};
use crate::store::request::{ConnectionRecord, RecordId};

/// A node of a cluster.
fn open(server: &Server, nth: u32, place: &str) -> (Rig, Vec<StoredSession>) {
    let options = Options { node: node(nth, place, Sharing::Cluster), ..options(&server.url(), "test") };
    let (store, opened) = Redis::open(&options).expect("it opens");
    assert!(opened.token.is_some());
    (Rig { store, options, number: 0, now: NOW }, sorted(opened))
}

fn token(nth: u32, drawn: u64) -> Token {
    Token::new(Generation(nth), drawn)
}

impl Rig {
    fn own(&mut self, command: OwnershipCommand) -> OwnershipAnswer {
        match self.store.commit(vec![Request::Ownership { shard: ShardId(0), command }], self.now).remove(0) {
            Response::Ownership { answer, .. } => answer,
            other => panic!("another answer: {other:?}"),
        }
    }

    fn claim_session(
        &mut self,
        name: &str,
        expected: Option<Token>,
        token: Token,
    ) -> (ClaimAnswer, Option<StoredSession>) {
        match self.own(OwnershipCommand::Claim { name: name.into(), expected, token }) {
            OwnershipAnswer::Claim { answer, session, .. } => (answer, session.map(|session| *session)),
            other => panic!("another answer: {other:?}"),
        }
    }

    fn pass(&mut self, name: &str, token: Token, to: Token) -> WriteAnswer {
        match self.own(OwnershipCommand::Pass { name: name.into(), token, to }) {
            OwnershipAnswer::Pass { answer, .. } => answer,
            other => panic!("another answer: {other:?}"),
        }
    }

    /// Claims a new session, and puts it online; its id.
    #[track_caller]
    fn begin(&mut self, name: &str, token: Token) -> SessionId {
        let (answer, session) = self.claim_session(name, None, token);
        assert_eq!(answer, ClaimAnswer::Claimed);
        let row = session.expect("it is new").row;
        assert!(row.is_unused());
        let id = row.session;
        self.expect_done(vec![Mutation::PutSession(Box::new(SessionRow { expiry_s: 60, ends: None, ..row }))]);
        id
    }

    /// Whether it is stored.
    fn put_connection(&mut self, record: &ConnectionRecord) -> bool {
        let id = RecordId { worker: ShardId(0), number: 1 };
        match self.store.commit(vec![Request::PutConnection { id, record: record.clone() }], self.now).remove(0) {
            Response::ConnectionPut { is_stored, .. } => is_stored,
            other => panic!("another answer: {other:?}"),
        }
    }

    fn message_for(&self, session: SessionId, offset: u64) -> Mutation {
        Mutation::PutMessage(Box::new(StoredMessage { session, ..stored(0, offset) }))
    }
}

#[test]
fn a_session_goes_from_node_to_node_with_all_that_waits() {
    let server = Server::start();
    let (mut one, _) = open(&server, 1, "a");
    let (mut other, _) = open(&server, 2, "b");
    let id = one.begin("s", token(1, 7));
    let mutations = vec![
        one.message_for(id, 0),
        Mutation::JoinChannel { session: id, channel: "c".into() },
        one.message_for(id, 1),
    ];
    one.expect_done(mutations);
    assert_eq!(other.claim_session("s", None, token(2, 1)), (ClaimAnswer::Taken(Some(token(1, 7))), None));
    let late = one.message_for(id, 2);
    assert_eq!(other.mutate_one(late.clone()), Completion::Refused(StoreError::Fenced), "it is not its");
    assert_eq!(one.pass("s", token(1, 7), token(2, 2)), WriteAnswer::Stored);
    assert_eq!(one.mutate_one(late), Completion::Refused(StoreError::Fenced), "it has passed it on");
    let (answer, session) = other.claim_session("s", Some(token(2, 2)), token(2, 3));
    let session = session.expect("it is there");
    assert_eq!((answer, session.row.session, session.waiting), (ClaimAnswer::Claimed, id, 2));
    assert_eq!(session.channels, [Arc::from("c")]);
    let more = other.message_for(id, 2);
    other.expect_done(vec![more]);
    assert_eq!(other.offsets(id), [0, 1, 2]);
    // Done twice, a claim is the same claim.
    assert_eq!(other.claim_session("s", Some(token(2, 2)), token(2, 3)).0, ClaimAnswer::Claimed);
}

#[test]
fn who_has_lost_a_session_to_force_is_told_once() {
    let server = Server::start();
    let (mut one, _) = open(&server, 1, "a");
    let (mut other, _) = open(&server, 2, "b");
    let id = one.begin("s", token(1, 7));
    assert_eq!(other.claim_session("s", Some(token(1, 7)), token(2, 1)).0, ClaimAnswer::Claimed);
    let late = one.message_for(id, 0);
    assert_eq!(one.mutate_one(late), Completion::Refused(StoreError::Fenced));
    assert_eq!(one.store.take_fenced(), [Arc::from("s")]);
    assert_eq!(
        one.own(OwnershipCommand::Verify { name: "s".into(), token: token(1, 7) }),
        OwnershipAnswer::Verify { name: "s".into(), token: token(1, 7), answer: WriteAnswer::Fenced }
    );
    assert_eq!(one.pass("s", token(1, 7), token(3, 1)), WriteAnswer::Fenced);
    assert_eq!(other.offsets(id), [0; 0]);
}

#[test]
fn a_name_that_was_dropped_is_a_new_sessions() {
    let server = Server::start();
    let (mut one, _) = open(&server, 1, "a");
    let id = one.begin("s", token(1, 1));
    one.expect_done(vec![Mutation::DropSession { session: id }]);
    let (mut other, _) = open(&server, 2, "b");
    assert_eq!(other.claim_session("s", Some(token(1, 1)), token(2, 1)), (ClaimAnswer::Taken(None), None));
    assert_ne!(other.begin("s", token(2, 2)), id);
}

#[test]
fn a_new_life_at_the_same_place_has_the_sessions_at_once_and_others_have_not() {
    let server = Server::start();
    let (mut one, _) = open(&server, 1, "a");
    let id = one.begin("s", token(1, 1));
    let message = one.message_for(id, 0);
    one.expect_done(vec![message]);
    assert_eq!(open(&server, 2, "b").1, []);
    let (mut next, found) = open(&server, 3, "a");
    assert_eq!((found.len(), found[0].row.session, found[0].waiting), (1, id, 1));
    assert_eq!(next.offsets(id), [0]);
    let late = one.message_for(id, 1);
    assert_eq!(one.mutate_one(late), Completion::Refused(StoreError::Fenced));
    assert!(one.store.has_ended(), "this life is over");
    assert_eq!(next.store.renew().map(|nodes| nodes.len()), Some(2), "the first one is forgotten");
}

#[test]
fn where_a_node_is_reached_lies_beside_its_place() {
    let server = Server::start();
    let open_at = |nth, place: &str, address: Option<&str>| {
        let address = address.map(|address| address.parse().expect("an address"));
        let node = StoreNode { address, ..node(nth, place, Sharing::Cluster) };
        Redis::open(&Options { node, ..options(&server.url(), "test") }).expect("it opens").0
    };
    let mut one = open_at(1, "a", Some("10.0.0.1:1987"));
    let _other = open_at(2, "b", Some("[fd00::2]:1984"));
    let _third = open_at(3, "c", None);
    let addresses = |store: &mut Redis| {
        let nodes = store.renew().expect("Redis answers").into_iter();
        nodes.map(|node| node.address.map(|address| address.to_string())).collect::<Vec<_>>()
    };
    assert_eq!(addresses(&mut one), [Some("10.0.0.1:1987".into()), Some("[fd00::2]:1984".into()), None]);
    // The next life at that place is another's successor wherever it is reached.
    let mut next = open_at(4, "a", Some("10.0.0.9:1987"));
    assert!(one.renew().is_none() && one.has_ended());
    assert_eq!(addresses(&mut next), [Some("[fd00::2]:1984".into()), None, Some("10.0.0.9:1987".into())]);
}

#[test]
fn what_a_dead_node_had_is_listed_until_it_is_adopted() {
    let server = Server::start();
    let (mut one, _) = open(&server, 1, "a");
    let (mut other, _) = open(&server, 2, "b");
    for n in 0..1_200 {
        // A slow machine needs longer for all of them than a lease lasts.
        assert!(n % 100 > 0 || one.store.renew().is_some());
        let token = token(1, n + 1);
        assert_eq!(one.claim_session(&format!("s{n}"), None, token).0, ClaimAnswer::Claimed);
    }
    let dead = Generation(1);
    assert!(one.store.renew().is_some());
    assert!(!other.store.bury(dead), "its lease has not ended");
    let nodes = other.store.renew().expect("Redis answers");
    assert!(nodes.iter().all(|node| node.remaining_ms > 4_000 && !node.is_buried), "{nodes:?}");
    one.store.close();
    let nodes = other.store.renew().expect("Redis answers");
    assert!(nodes.iter().any(|node| node.generation == dead && node.is_buried), "{nodes:?}");
    assert!(other.store.bury(dead));
    let mut found = Vec::new();
    let mut from = Some(0);
    while let Some(page) = from {
        let orphans = other.store.orphans(dead, page).expect("Redis answers");
        found.extend(orphans.sessions);
        from = orphans.next;
    }
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 1_200);
    for (nth, (name, token)) in found.into_iter().enumerate() {
        assert!(nth % 100 > 0 || other.store.renew().is_some());
        let (answer, session) = other.claim_session(&name, Some(token), super::nodes::token(2, nth as u64));
        assert_eq!((answer, session.is_some()), (ClaimAnswer::Claimed, true));
    }
    assert_eq!(other.store.orphans(dead, 0).map(|page| page.sessions), Some(vec![]));
    other.store.forget_node(dead);
    assert_eq!(other.store.renew().map(|nodes| nodes.len()), Some(1));
}

/// What another master has of leases, or nobody could renew meanwhile, makes nobody dead, and what it has again of a
/// dead node is not thrown away.
#[test]
fn who_finds_redis_again_says_so_once_and_forgets_nobody_before() {
    let server = Server::start();
    let (mut one, _) = open(&server, 1, "a");
    let (other, _) = open(&server, 2, "b");
    assert!(one.store.renew().is_some() && !one.store.take_reconnected());
    other.store.close();
    server.query("CLIENT KILL TYPE normal");
    assert!(one.store.renew().is_none(), "in the middle of a command");
    one.store.forget_node(Generation(2));
    assert_eq!(one.store.renew().map(|nodes| nodes.len()), Some(2));
    assert!(one.store.take_reconnected() && !one.store.take_reconnected());
    one.store.forget_node(Generation(2));
    assert_eq!(one.store.renew().map(|nodes| nodes.len()), Some(1));
}

#[test]
fn a_node_without_a_lease_claims_nothing_and_a_buried_one_ends() {
    let server = Server::start();
    let (mut one, _) = open(&server, 1, "a");
    let (mut other, _) = open(&server, 2, "b");
    server.query("DEL rainbow:test:{0}:l:00000001");
    assert_eq!(one.claim_session("s", None, token(1, 1)).0, ClaimAnswer::NoLease);
    assert!(one.store.renew().is_some());
    assert_eq!(one.claim_session("s", None, token(1, 2)).0, ClaimAnswer::Claimed);
    server.query("DEL rainbow:test:{0}:l:00000001");
    assert!(other.store.bury(Generation(1)));
    assert!(one.store.renew().is_none() && one.store.has_ended());
    assert!(refusal(&one).contains("has taken over"));
}

#[test]
fn connections_of_a_dead_node_are_anothers_and_a_buried_one_records_none() {
    let server = Server::start();
    let (mut one, _) = open(&server, 1, "a");
    let (mut other, _) = open(&server, 2, "b");
    let record = |n: u8, user: Option<&str>| ConnectionRecord {
        identity: Identity([n; 32]),
        cookie: user.map(|user| user.as_bytes().into()),
        user: user.map(Box::from),
    };
    let (plain, named) = (record(1, None), record(2, Some("ann")));
    assert!(one.put_connection(&plain) && one.put_connection(&named));
    server.query("DEL rainbow:test:{0}:l:00000001");
    assert!(other.store.bury(Generation(1)));
    let mut taken = other.store.take_connections(Generation(1)).expect("Redis answers");
    taken.sort_unstable_by_key(|record| record.identity.0);
    assert_eq!(taken, [plain, named]);
    assert_eq!(other.store.take_connections(Generation(1)), Some(vec![]));
    assert!(!one.put_connection(&record(3, None)), "nobody would look for it");
    assert_eq!(other.store.take_connections(Generation(1)), Some(vec![]), "it has left none behind");
}

#[test]
fn nothing_is_passed_to_a_node_that_has_ended_and_a_buried_one_takes_nothing() {
    let server = Server::start();
    let (mut one, _) = open(&server, 1, "a");
    let (mut other, _) = open(&server, 2, "b");
    one.begin("s", token(1, 1));
    let record = ConnectionRecord { identity: Identity([1; 32]), cookie: None, user: None };
    assert!(one.put_connection(&record));
    server.query("DEL rainbow:test:{0}:l:00000002");
    assert!(one.store.bury(Generation(2)));
    assert_eq!(one.pass("s", token(1, 1), token(2, 1)), WriteAnswer::Unknown);
    assert_eq!(one.claim_session("s", Some(token(1, 1)), token(1, 2)).0, ClaimAnswer::Claimed, "it has stayed");
    one.store.forget_node(Generation(2));
    assert_eq!(one.pass("s", token(1, 2), token(2, 2)), WriteAnswer::Unknown);
    assert_eq!(one.claim_session("s", Some(token(1, 2)), token(1, 3)).0, ClaimAnswer::Claimed, "it has stayed");
    assert_eq!(other.store.take_connections(Generation(1)), None);
    assert!(other.store.has_ended() && refusal(&other).contains("has taken over"));
    assert_eq!(server.query("HLEN rainbow:test:{0}:k:00000001"), Value::Int(1), "others find it there");
}

/// It was done, and nobody heard of it: those connections would be nobody's to report.
#[test]
fn an_answer_that_is_lost_loses_no_connections() {
    let server = Server::start();
    let (mut one, _) = open(&server, 1, "a");
    let (mut other, _) = open(&server, 2, "b");
    let records = [1, 2, 3].map(|n| ConnectionRecord { identity: Identity([n; 32]), cookie: None, user: None });
    records.iter().for_each(|record| assert!(one.put_connection(record)));
    server.query("DEL rainbow:test:{0}:l:00000001");
    assert!(other.store.bury(Generation(1)));
    let proxy = Proxy::to(server.port);
    let options = Options { url: proxy.url().into(), ..other.options.clone() };
    let (mut store, _) = Redis::open(&options).expect("it opens");
    proxy.cut_answers_after(0);
    assert_eq!((store.take_connections(Generation(1)), proxy.cuts()), (None, 1));
    assert_eq!(server.query("HLEN rainbow:test:{0}:k:00000002"), Value::Int(3), "they are its own");
    let mut taken = store.take_connections(Generation(1)).expect("Redis answers");
    taken.sort_unstable_by_key(|record| record.identity.0);
    assert_eq!(taken, records);
    assert_eq!(store.take_connections(Generation(1)), Some(vec![]));
    assert_eq!(server.query("EXISTS rainbow:test:{0}:t:00000002"), Value::Int(0), "nothing is kept");
}

/// The answers are cut off at one place after the other; what was done before is done.
#[test]
fn a_start_that_is_interrupted_has_everything_all_the_same() {
    let server = Server::start();
    let proxy = Proxy::to(server.port);
    let mut begun = 0;
    for through in (0..).step_by(40) {
        let cluster = format!("test-{through}");
        let first = Options { node: node(1, "a", Sharing::Cluster), ..options(&server.url(), &cluster) };
        let (store, _) = Redis::open(&first).expect("it opens");
        let mut one = Rig { store, options: first, number: 0, now: NOW };
        one.begin("s", token(1, 1));
        let record = ConnectionRecord { identity: Identity([7; 32]), cookie: None, user: None };
        assert!(one.put_connection(&record));
        let cuts = proxy.cuts();
        proxy.cut_answers_after(through);
        let next = Options { node: node(2, "a", Sharing::Cluster), ..options(&proxy.url(), &cluster) };
        let (_, opened) = Redis::open(&next).expect("it tries again");
        let names: Vec<&str> = opened.sessions.iter().map(|session| &*session.row.name).collect();
        assert_eq!((names, opened.connections), (vec!["s"], vec![record]), "cut after {through} bytes");
        if proxy.cuts() == cuts {
            break;
        }
        begun += 1;
    }
    assert!(begun > 10, "it was cut at {begun} places");
}

fn refusal(rig: &Rig) -> String {
    match rig.store.health() {
        Health::Refusing { detail, .. } => detail,
        Health::Ready => panic!("it is ready"),
    }
}

#[test]
fn each_node_purges_what_is_its_own() {
    let server = Server::start();
    let (mut one, _) = open(&server, 1, "a");
    let (mut other, _) = open(&server, 2, "b");
    let (first, second) = (one.begin("s", token(1, 1)), other.begin("t", token(2, 1)));
    let messages = [one.message_for(first, 0), other.message_for(second, 0)];
    one.expect_done(vec![messages[0].clone()]);
    other.expect_done(vec![messages[1].clone()]);
    // What is passed on is looked at by its new owner.
    assert_eq!(one.pass("s", token(1, 1), token(2, 5)), WriteAnswer::Stored);
    assert_eq!(other.claim_session("s", Some(token(2, 5)), token(2, 6)).0, ClaimAnswer::Claimed);
    let later = UnixMs(NOW.0 + 2_000_000);
    assert_eq!(one.store.purge(later, 9).expired, []);
    let mut expired: Vec<SessionId> = other.store.purge(later, 9).expired.iter().map(|found| found.session).collect();
    expired.sort();
    let mut both = [first, second];
    both.sort();
    assert_eq!(expired, both);
}

#[test]
fn format_1_is_brought_to_this_one() {
    let server = Server::start();
    let mut rig = Rig::new(&server.url());
    rig.expect_done(vec![put_session(1), put_message(1, 0)]);
    // As that version left it.
    let key = "rainbow:test:{0}:";
    server.query(&format!("DEL {key}format {key}nodes {key}l:00000001 {key}w:00000001 {key}o:00000001 {key}n:name-1"));
    server.query(&format!("SET {key}writer \u{1}\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\u{5}"));
    let found = rig.reopen();
    assert_eq!((found.len(), found[0].waiting), (1, 1));
    assert_eq!(rig.offsets(SessionId(1)), [0]);
    rig.store.close();
    let (mut node, found) = open(&server, 9, "elsewhere");
    assert_eq!(found, []);
    let owner = match node.claim_session("name-1", None, token(9, 1)) {
        (ClaimAnswer::Taken(owner), _) => owner,
        other => panic!("{other:?}"),
    };
    let (answer, session) = node.claim_session("name-1", owner, token(9, 2));
    assert_eq!((answer, session.map(|session| session.row.session)), (ClaimAnswer::Claimed, Some(SessionId(1))));
}
