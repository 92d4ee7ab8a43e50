//! A session goes from one file to another: whole, once, whatever is repeated, lost or restarted on the way.

use super::*;
use crate::base::id::{DiskId, Generation};
use crate::base::rng::Rng;
use crate::shard::command::transfer::{Outcome, Position, SessionPart, TransferAnswer, TransferCommand};
use crate::store::opening::{MetNode, Sharing};
use crate::store::request::TransferId;

pub const NAME: &str = "alice";

/// A node's store, in one of its lives.
pub struct Node {
    dir: TempDir,
    pub life: u32,
    store: Option<Sqlite>,
    pub opened: Opened,
}

impl Node {
    pub fn new(life: u32) -> Node {
        let mut node = Node { dir: TempDir::new(), life, store: None, opened: Opened::default() };
        node.restart();
        node
    }

    /// As after a kill.
    pub fn restart(&mut self) {
        self.store = None;
        self.life += 1;
        let node = StoreNode { generation: Generation(self.life), sharing: Sharing::Cluster, ..StoreNode::alone() };
        let options = Options { node, ..self.dir.options() };
        let (store, opened) = Sqlite::open(&options).unwrap_or_else(|error| panic!("{error}"));
        store.database.index().check_invariants(store.database.connection()).unwrap();
        (self.store, self.opened) = (Some(store), opened);
    }

    pub fn store(&mut self) -> &mut Sqlite {
        self.store.as_mut().expect("it is open")
    }

    pub fn token(&self, drawn: u64) -> Token {
        Token::new(Generation(self.life), drawn)
    }

    pub fn run(&mut self, command: TransferCommand) -> TransferAnswer {
        let request = Request::Transfer { id: TransferId(5), command };
        let answer = match self.store().commit(vec![request], NOW).pop() {
            Some(Response::Transfer { id: TransferId(5), answer }) => answer,
            other => panic!("{other:?}"),
        };
        let store = self.store();
        store.database.index().check_invariants(store.database.connection()).unwrap();
        answer
    }

    pub fn freeze(&mut self, token: Token) -> TransferAnswer {
        self.run(TransferCommand::Freeze { name: NAME.into(), token })
    }

    pub fn read(&mut self, token: Token, from: Position) -> TransferAnswer {
        self.run(TransferCommand::Read { name: NAME.into(), token, from })
    }

    pub fn write(&mut self, token: Token, part: &SessionPart) -> TransferAnswer {
        self.run(TransferCommand::Write { name: NAME.into(), token, part: Box::new(part.clone()) })
    }

    pub fn delete(&mut self, token: Token) -> TransferAnswer {
        self.run(TransferCommand::Delete { name: NAME.into(), token })
    }

    pub fn thaw(&mut self, token: Token) -> TransferAnswer {
        self.run(TransferCommand::Thaw { name: NAME.into(), token })
    }

    pub fn settle(&mut self, token: Token) -> Outcome {
        match self.run(TransferCommand::Settle { token }) {
            TransferAnswer::Settled(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    /// All parts of the session, which leaves by this token.
    pub fn parts(&mut self, token: Token) -> Vec<SessionPart> {
        let (mut parts, mut next) = (Vec::new(), Some(Position::Start));
        while let Some(from) = next {
            match self.read(token, from) {
                TransferAnswer::Part(part) => {
                    next = part.next.clone();
                    parts.push(*part);
                }
                other => panic!("{other:?}"),
            }
        }
        parts
    }

    /// Names of the sessions that a start gives to the shards, and of those that leave.
    pub fn found(&self) -> (Vec<&str>, Vec<&str>) {
        let own = self.opened.sessions.iter().map(|session| &*session.row.name);
        let leaving = self.opened.leaving.iter().map(|(session, _)| &*session.row.name);
        (own.collect(), leaving.collect())
    }
}

/// A session with something in every table.
pub fn fill(node: &mut Node, messages: u64) {
    let full = SessionRow {
        expiry_s: 77,
        ends: Some(LATER),
        cookie: Some(b"k=v"[..].into()),
        downlink: DownlinkMark { reserved: Offset(9), floor: Offset(3) },
        uplink: UplinkMark { run: 4, last: 5, past_half: true },
        ..row(S, NAME)
    };
    let mut all = vec![Mutation::PutSession(Box::new(full)), join(S, "a"), join(S, "b")];
    all.push(Mutation::PutReceived { session: S, received: received(8, 2, "answer") });
    all.push(put_message(StoredMessage { claim: claim("gone"), ..stored(S, 0, "finished") }));
    all.push(Mutation::RemoveMessage { session: S, offset: Offset(0) });
    let exactly_once = message(QoS::ExactlyOnce, b"two");
    all.push(put_message(StoredMessage { message: exactly_once.clone(), sent: true, ..stored(S, 1, "") }));
    all.push(put_message(StoredMessage { message: exactly_once, sent: true, ..stored(S, 2, "") }));
    all.push(Mutation::ReleaseMessage { session: S, offset: Offset(2) });
    all.push(put_message(StoredMessage { claim: claim("here"), ..stored(S, 3, "claimed") }));
    all.extend((4..4 + messages).map(|offset| put_message(stored(S, offset, &format!("message {offset}")))));
    expect_done(node.store(), all);
}

/// Two nodes, and a session at the first.
fn pair(messages: u64) -> (Node, Node) {
    let (mut source, destination) = (Node::new(100), Node::new(200));
    fill(&mut source, messages);
    // Another session, which stays.
    expect_done(source.store(), [put_session(T, "bob"), put_message(stored(T, 0, "bob's"))]);
    (source, destination)
}

#[test]
fn a_session_moves_with_everything_that_is_its() {
    let (mut source, mut destination) = pair(3_000);
    let before = all(source.store(), S);
    let token = destination.token(1);
    assert_eq!(source.freeze(token), TransferAnswer::Done);
    let parts = source.parts(token);
    assert!(parts.len() > 3, "{} parts", parts.len());
    let (last, first) = parts.split_last().unwrap();
    for part in first {
        assert_eq!(destination.write(token, part), TransferAnswer::Done);
    }
    let TransferAnswer::Here(arrived) = destination.write(token, last) else { panic!("it has not arrived") };
    assert_eq!((arrived.row.cookie.as_deref(), arrived.row.expiry_s), (Some(&b"k=v"[..]), 77));
    assert_eq!((arrived.next, arrived.first, arrived.waiting), (Offset(3_004), Some(Offset(1)), 3_002));
    assert_eq!(destination.settle(token), Outcome::Arrived);
    assert_eq!(source.delete(token), TransferAnswer::Done);
    assert_eq!(destination.run(TransferCommand::Forget { token }), TransferAnswer::Done);
    assert_eq!(all(destination.store(), S), before);
    let repeat = put_message(StoredMessage { claim: claim("gone"), ..stored(S, 5_000, "finished") });
    assert_eq!(mutate(destination.store(), [repeat]), [Completion::Duplicate], "its guard has come along");
    destination.restart();
    source.restart();
    assert_eq!(destination.opened.sessions, [*arrived], "as a start finds it");
    assert_eq!((destination.found(), source.found()), ((vec![NAME], vec![]), (vec!["bob"], vec![])));
    assert_eq!(all(destination.store(), S), before);
}

#[test]
fn a_frozen_session_stays_frozen_over_a_restart_until_it_is_thawed() {
    let (mut source, mut destination) = pair(0);
    let token = destination.token(1);
    source.freeze(token);
    source.restart();
    assert_eq!(source.found(), (vec!["bob"], vec![NAME]));
    assert_eq!(source.opened.leaving[0].1, token);
    assert_eq!(source.freeze(destination.token(2)), TransferAnswer::NotHere, "by another token");
    assert_eq!(source.read(destination.token(2), Position::Start), TransferAnswer::NotHere);
    assert_eq!(source.thaw(destination.token(2)), TransferAnswer::NotHere);
    assert_eq!(source.delete(destination.token(2)), TransferAnswer::NotHere);
    assert_eq!(destination.settle(token), Outcome::Never);
    assert!(matches!(source.thaw(token), TransferAnswer::Here(session) if *session.row.name == *NAME));
    source.restart();
    assert_eq!(source.found(), (vec![NAME, "bob"], vec![]));
}

/// Whoever writes to it has not heard that it leaves: what is written now would not go along.
#[test]
fn nothing_is_written_to_a_frozen_session() {
    let (mut source, destination) = pair(0);
    let (before, token) = (all(source.store(), S), destination.token(1));
    source.freeze(token);
    let writes = || {
        let exactly_once = StoredMessage { message: message(QoS::ExactlyOnce, b"x"), ..stored(S, 99, "") };
        [
            put_session(S, NAME),
            join(S, "late"),
            Mutation::LeaveChannel { session: S, channel: "a".into() },
            put_message(exactly_once),
            Mutation::RemoveMessage { session: S, offset: Offset(3) },
            Mutation::ReleaseMessage { session: S, offset: Offset(1) },
            Mutation::PutReceived { session: S, received: received(9, 3, "late") },
            Mutation::RemoveReceived { session: S, id: MessageId(8) },
            Mutation::DropSession { session: S },
        ]
    };
    for _ in 0..2 {
        for write in writes() {
            let answer = mutate(source.store(), [write.clone()]);
            assert_eq!(answer, [Completion::Refused(StoreError::Fenced)], "{write:?}");
        }
        assert_eq!(all(source.store(), S), before);
        expect_done(source.store(), [join(T, "room"), put_message(stored(T, 7, "the other one is served"))]);
        expect_done(source.store(), [Mutation::RemoveMessage { session: T, offset: Offset(7) }]);
        source.restart();
    }
    assert!(matches!(source.thaw(token), TransferAnswer::Here(_)));
    for write in writes() {
        assert_eq!(mutate(source.store(), [write.clone()]), [Completion::Done], "{write:?}");
    }
}

#[test]
fn what_has_come_in_part_is_nobodys() {
    let (mut source, mut destination) = pair(3_000);
    let token = destination.token(1);
    source.freeze(token);
    let parts = source.parts(token);
    destination.write(token, &parts[0]);
    destination.write(token, &parts[1]);
    assert_eq!(destination.freeze(Token(7)), TransferAnswer::NotHere, "nor does it leave");
    destination.restart();
    assert_eq!(destination.found(), (vec![], vec![]));
    assert_eq!(all(destination.store(), S), Page::default());
    for part in &parts {
        assert_eq!(destination.write(token, part), TransferAnswer::Refused(StoreError::Fenced), "it was given up");
    }
    assert_eq!(destination.settle(token), Outcome::Never);
    // A later attempt takes the place of one that was not ended.
    let (one, other) = (destination.token(2), destination.token(3));
    source.thaw(token);
    source.freeze(one);
    destination.write(one, &parts[0]);
    for part in &parts {
        assert!(matches!(destination.write(other, part), TransferAnswer::Done | TransferAnswer::Here(_)));
    }
    assert_eq!((destination.settle(one), destination.settle(other)), (Outcome::Never, Outcome::Arrived));
}

#[test]
fn a_transfer_that_was_settled_never_arrives() {
    let (mut source, mut destination) = pair(0);
    let (early, late, foreign) = (destination.token(1), destination.token(2), source.token(3));
    source.freeze(early);
    let parts = source.parts(early);
    assert_eq!(destination.settle(early), Outcome::Never);
    assert_eq!(destination.write(early, &parts[0]), TransferAnswer::Refused(StoreError::Fenced));
    destination.write(late, &parts[0]);
    assert_eq!(destination.settle(late), Outcome::Never);
    assert_eq!(destination.write(late, &parts[1]), TransferAnswer::Refused(StoreError::Fenced));
    assert_eq!(destination.settle(foreign), Outcome::Foreign, "its node may have it");
    destination.restart();
    destination.restart();
    let of_earlier_life = Token::new(Generation(201), 9);
    assert_eq!(destination.settle(of_earlier_life), Outcome::Never, "an earlier life of this node");
    assert_eq!(destination.settle(early), Outcome::Never);
}

#[test]
fn a_session_that_is_here_is_not_replaced() {
    let (mut source, mut destination) = pair(0);
    expect_done(destination.store(), [put_session(SessionId(0x77), NAME)]);
    let token = destination.token(1);
    source.freeze(token);
    let part = source.parts(token).remove(0);
    assert_eq!(destination.write(token, &part), TransferAnswer::Refused(StoreError::NameTaken));
    assert_ne!(destination.settle(token), Outcome::Arrived);
    destination.restart();
    assert_eq!(destination.found(), (vec![NAME], vec![]));
    assert_eq!(destination.opened.sessions[0].row.session, SessionId(0x77));
}

#[test]
fn a_full_store_takes_no_part_and_leaves_nothing_of_it() {
    let (mut source, mut destination) = pair(3_000);
    let token = destination.token(1);
    source.freeze(token);
    let parts = source.parts(token);
    destination.store().set_bytes_max(100_000);
    let answers: Vec<TransferAnswer> = parts.iter().map(|part| destination.write(token, part)).collect();
    assert!(answers.contains(&TransferAnswer::Refused(StoreError::StoreFull)), "{answers:?}");
    assert_eq!((destination.store().usage(), destination.settle(token)), (Usage::default(), Outcome::Never));
    assert!(matches!(source.thaw(token), TransferAnswer::Here(session) if session.waiting == 3_002));
}

/// What is planted to see that `roam` notices it.
#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    None,
    /// The source goes on when the destination says that the token is not of one of its lives.
    ThawsOnForeign,
    /// The source deletes the session when all has been read.
    DeletesWhenRead,
    /// The destination takes a session over that has not come whole.
    ServesParts,
}

/// A session roams between three files; commands are lost and repeated, nodes are killed. Returns what went wrong.
fn roam(seed: u64, mistake: Mistake) -> Result<u32, &'static str> {
    let mut rng = Rng::new(seed);
    let mut nodes = [Node::new(100), Node::new(200), Node::new(300)];
    fill(&mut nodes[0], 1_100);
    let before = all(nodes[0].store(), S);
    // Who serves the session, by what a start or an answer said.
    let (mut at, mut handovers) = (Some(0), 0);
    for round in 0..12 {
        let source = at.ok_or("nobody has it")?;
        let to = (source + 1 + rng.below(2) as usize) % 3;
        let token = nodes[to].token(round);
        nodes[source].freeze(token);
        let (mut next, mut arrived) = (Some(Position::Start), false);
        while let Some(from) = next.take() {
            if rng.chance(8) {
                break;
            }
            let TransferAnswer::Part(part) = nodes[source].read(token, from) else { return Err("a part is not there") };
            (0..rng.below(2)).for_each(|_| drop(nodes[to].write(token, &part)));
            arrived = match nodes[to].write(token, &part) {
                TransferAnswer::Here(_) => true,
                _ => arrived || mistake == Mistake::ServesParts,
            };
            if rng.chance(4) {
                nodes[to].restart();
            }
            if rng.chance(4) {
                nodes[source].restart();
            }
            next = part.next;
        }
        if mistake == Mistake::DeletesWhenRead {
            nodes[source].delete(token);
        }
        // The source asks all others until one knows.
        let mut outcomes = (0..3).filter(|other| *other != source).map(|other| nodes[other].settle(token));
        let known = outcomes.find(|outcome| match mistake {
            Mistake::ThawsOnForeign => true,
            _ => *outcome != Outcome::Foreign,
        });
        drop(outcomes);
        at = match known {
            Some(Outcome::Arrived) => {
                (0..1 + rng.below(2)).for_each(|_| drop(nodes[source].delete(token)));
                nodes[to].run(TransferCommand::Forget { token });
                handovers += 1;
                Some(to)
            }
            Some(Outcome::Never) | None if arrived => Some(to),
            _ => matches!(nodes[source].thaw(token), TransferAnswer::Here(_)).then_some(source),
        };
        let at = at.ok_or("nobody has it")?;
        if all(nodes[at].store(), S) != before {
            return Err("it is not what it was");
        }
        nodes.iter_mut().for_each(Node::restart);
        if nodes.iter().map(|node| node.found().0.len()).sum::<usize>() != 1 {
            return Err("not one node has it");
        }
    }
    Ok(handovers)
}

#[test]
fn a_session_that_roams_is_on_one_disk() {
    let handovers: u32 =
        (0..3).map(|seed| roam(seed, Mistake::None).unwrap_or_else(|why| panic!("{seed}: {why}"))).sum();
    assert!((6..34).contains(&handovers), "{handovers} of 36 handovers");
    for mistake in [Mistake::ThawsOnForeign, Mistake::DeletesWhenRead, Mistake::ServesParts] {
        assert!((0..8).any(|seed| roam(seed, mistake).is_err()), "a mistake is noticed");
    }
}

#[test]
fn a_disk_is_known_by_its_first_life_and_so_are_those_that_were_met() {
    let mut node = Node::new(100);
    let met = TransferCommand::Meet { node: Generation(301), disk: DiskId(300), lives: vec![Generation(300)] };
    assert_eq!(node.run(met), TransferAnswer::Done);
    node.restart();
    node.restart();
    assert_eq!((node.life, node.opened.disk), (103, Some(DiskId(101))));
    let other = MetNode { node: Generation(301), disk: Some(DiskId(300)) };
    assert_eq!(node.opened.met, [other]);
    // Its next life takes the place of this one.
    let lives = [300, 301, 302].map(Generation).to_vec();
    node.run(TransferCommand::Meet { node: Generation(302), disk: DiskId(300), lives });
    node.restart();
    assert_eq!(node.opened.met, [MetNode { node: Generation(302), ..other }]);
    node.run(TransferCommand::Part { node: Generation(302) });
    node.restart();
    assert_eq!(node.opened.met, []);
}
