//! Two files have a session of one name, and one of them takes the other's in: each message once, whatever is repeated
//! or restarted.

use super::transfer::{NAME, Node, fill};
use super::*;
use crate::shard::command::transfer::shadow_name;
use crate::shard::command::transfer::{
    Backlog, Outcome, Position, SessionPart, TransferAnswer, TransferCommand, United,
};

const STAYS: SessionId = SessionId(0x77);

/// The node that loses its session, and the one whose session stays.
fn rivals() -> (Node, Node) {
    let (mut loser, mut keeper) = (Node::new(100), Node::new(200));
    fill(&mut loser, 3);
    let both = |session, offset| put_message(StoredMessage { claim: claim("both"), ..stored(session, offset, "both") });
    let two = StoredMessage { message: message(QoS::ExactlyOnce, b"not sent"), ..stored(S, 8, "") };
    expect_done(loser.store(), [both(S, 7), put_message(two)]);
    expect_done(keeper.store(), [put_session(STAYS, NAME), join(STAYS, "a"), join(STAYS, "mine"), both(STAYS, 0)]);
    (loser, keeper)
}

/// What the driver writes.
fn shadow(part: &SessionPart, token: Token) -> (SessionPart, Vec<Arc<str>>) {
    let mut part = part.clone();
    let channels = part.into_shadow(token);
    part.next = part.next.or(Some(Position::Start));
    (part, channels)
}

/// Everything but the end. Returns the channels.
fn bring(loser: &mut Node, keeper: &mut Node, token: Token) -> Vec<Arc<str>> {
    assert_eq!(loser.freeze(token), TransferAnswer::Done);
    let mut channels = Vec::new();
    for part in loser.parts(token) {
        let (part, more) = shadow(&part, token);
        channels.extend(more);
        for _ in 0..2 {
            let write = TransferCommand::Write { name: shadow_name(token), token, part: Box::new(part.clone()) };
            assert_eq!(keeper.run(write), TransferAnswer::Done);
        }
    }
    channels
}

fn unite(keeper: &mut Node, token: Token, first: u64, channels: &[Arc<str>]) -> TransferAnswer {
    let (name, first, channels) = (NAME.into(), Offset(first), channels.to_vec());
    keeper.run(TransferCommand::Unite { name, token, session: STAYS, first, channels })
}

fn bodies(page: &Page) -> Vec<(u64, String)> {
    let body = |stored: &StoredMessage| String::from_utf8_lossy(stored.message.parts().1).into_owned();
    page.messages.iter().map(|stored| (stored.offset.0, body(stored))).collect()
}

#[test]
fn the_others_messages_come_behind_those_that_are_here_each_once() {
    let (mut loser, mut keeper) = rivals();
    let token = keeper.token(1);
    let channels = bring(&mut loser, &mut keeper, token);
    let answer = unite(&mut keeper, token, 5, &channels);
    let TransferAnswer::United(United { taken, repeats, uncertain }) = answer else { panic!("{answer:?}") };
    // One was sent at QoS 2, one was released; "both" has been here.
    assert_eq!((taken.messages, taken.oldest, repeats, uncertain), (5, Some(NOW), 1, 1));
    let page = all(keeper.store(), STAYS);
    let expected = ["both", "claimed", "message 4", "message 5", "message 6", "not sent"].map(String::from);
    assert_eq!(bodies(&page), [0, 5, 6, 7, 8, 9].into_iter().zip(expected).collect::<Vec<_>>());
    assert!(page.messages.iter().all(|stored| !stored.sent && stored.session == STAYS));
    assert_eq!(page.received, [], "what the other's client has sent is its own");
    assert_eq!(unite(&mut keeper, token, 5, &channels), answer, "the answer was lost");
    for id in ["gone", "here", "both"] {
        let repeat = put_message(StoredMessage { claim: claim(id), ..stored(STAYS, 50, "again") });
        assert_eq!(mutate(keeper.store(), [repeat]), [Completion::Duplicate], "{id}");
    }
    assert_eq!(keeper.settle(token), Outcome::Arrived);
    assert_eq!(loser.delete(token), TransferAnswer::Done);
    assert_eq!(keeper.run(TransferCommand::Forget { token }), TransferAnswer::Done);
    keeper.restart();
    loser.restart();
    assert_eq!((keeper.found(), loser.found()), ((vec![NAME], vec![]), (vec![], vec![])));
    let session = &keeper.opened.sessions[0];
    let channels: Vec<&str> = session.channels.iter().map(|channel| &**channel).collect();
    assert_eq!((channels, session.waiting), (vec!["a", "b", "mine"], 6));
    assert_eq!(session.waiting_bytes, taken.bytes + stored(STAYS, 0, "both").message.len() as u64);
    assert_eq!(all(keeper.store(), STAYS), page);
}

#[test]
fn what_has_not_been_united_is_nobodys_after_a_restart() {
    let (mut loser, mut keeper) = rivals();
    let (before, here) = (all(loser.store(), S), all(keeper.store(), STAYS));
    let token = keeper.token(1);
    let channels = bring(&mut loser, &mut keeper, token);
    keeper.restart();
    loser.restart();
    assert_eq!((keeper.found(), loser.found()), ((vec![NAME], vec![]), (vec![], vec![NAME])));
    assert_eq!(unite(&mut keeper, token, 5, &channels), TransferAnswer::Refused(StoreError::Fenced));
    assert_eq!(keeper.settle(token), Outcome::Never);
    assert!(matches!(loser.thaw(token), TransferAnswer::Here(_)));
    assert_eq!((all(loser.store(), S), all(keeper.store(), STAYS)), (before, here));
}

#[test]
fn a_session_that_has_gone_takes_nothing_in() {
    let (mut loser, mut keeper) = rivals();
    let token = keeper.token(1);
    let channels = bring(&mut loser, &mut keeper, token);
    // Another one has its name by now.
    expect_done(keeper.store(), [Mutation::DropSession { session: STAYS }, put_session(T, NAME)]);
    assert_eq!(unite(&mut keeper, token, 5, &channels), TransferAnswer::NotHere);
    assert_eq!((keeper.settle(token), all(keeper.store(), T)), (Outcome::Never, Page::default()));
    keeper.restart();
    assert_eq!(keeper.found(), (vec![NAME], vec![]));
    assert!(matches!(loser.thaw(token), TransferAnswer::Here(session) if session.waiting == 7));
}

/// A directory was copied, and both nodes run.
#[test]
fn two_copies_of_one_session_become_one() {
    let (mut loser, mut keeper) = (Node::new(100), Node::new(200));
    fill(&mut loser, 1);
    fill(&mut keeper, 1);
    let token = keeper.token(1);
    let channels = bring(&mut loser, &mut keeper, token);
    let (name, first) = (NAME.into(), Offset(5));
    let united = keeper.run(TransferCommand::Unite { name, token, session: S, first, channels });
    // One has a claim, and two have none.
    let TransferAnswer::United(United { taken: Backlog { messages: 1, .. }, repeats: 1, uncertain: 1 }) = united else {
        panic!("{united:?}")
    };
    assert_eq!(bodies(&all(keeper.store(), S)).len(), 5);
}

#[test]
fn messages_that_may_have_been_sent_are_noted_at_qos_2() {
    let mut node = Node::new(100);
    let two = |offset| StoredMessage { message: message(QoS::ExactlyOnce, b"two"), ..stored(S, offset, "") };
    expect_done(node.store(), [put_session(S, NAME)]);
    expect_done(node.store(), [two(0), stored(S, 1, "one"), two(2), two(3)].map(put_message));
    let note = TransferCommand::NoteSent { name: NAME.into(), below: Offset(3) };
    assert_eq!([node.run(note.clone()), node.run(note)], [TransferAnswer::Done, TransferAnswer::Done]);
    let sent: Vec<bool> = all(node.store(), S).messages.iter().map(|stored| stored.sent).collect();
    assert_eq!(sent, [true, false, true, false]);
    let none = TransferCommand::NoteSent { name: "nobody".into(), below: Offset(3) };
    assert_eq!(node.run(none), TransferAnswer::NotHere);
}
