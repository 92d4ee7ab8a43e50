//! Errands of a node with a disk, whose other node and store are the test.

use super::*;
use crate::base::id::DiskId;
use crate::shard::command::{Offset, SessionId, SessionRow};

const OWN: Generation = Generation(1);
const OTHER: Generation = Generation(2);
const OWN_GRANTOR: Grantor = Grantor { disk: DiskId(1), node: OWN };

/// One other node, which is linked and has everything.
struct Linked;

impl Peers for Linked {
    fn grantors(&self, _: &str, _: Tick) -> Option<Vec<Grantor>> {
        Some(vec![OWN_GRANTOR])
    }

    fn may_have(&self, _: &str) -> Vec<Generation> {
        vec![OTHER]
    }

    fn linked(&self) -> Vec<Generation> {
        vec![OTHER]
    }
}

fn outputs(disks: &mut Disks, now: u64) -> Vec<DisksOutput> {
    std::iter::from_fn(|| disks.poll_output(&Linked, Tick(now))).collect()
}

fn session(name: &SessionName) -> StoredSession {
    let row = SessionRow::unused(SessionId(1), name.clone());
    let (waiting_bytes, next) = (0, Offset(0));
    StoredSession { row, channels: vec![], waiting: 0, waiting_bytes, next, oldest: None, first: None }
}

/// The one output, which is a command to the store.
fn stored(disks: &mut Disks, now: u64) -> (WaitId, TransferCommand) {
    match outputs(disks, now).pop() {
        Some(DisksOutput::Store { id, command }) => (id, command),
        other => panic!("{other:?}"),
    }
}

/// The one output, which is a call.
fn called(disks: &mut Disks, now: u64) -> (WaitId, DiskCall) {
    match outputs(disks, now).pop() {
        Some(DisksOutput::Call { id, to: OTHER, call }) => (id, call),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_session_that_leaves_is_asked_about_until_somebody_knows() {
    let (mut disks, name): (Disks, SessionName) = (Disks::new(OWN), "s".into());
    let (token, to) = (Token::new(OWN, 1), Token::new(OTHER, 2));
    let settle = DiskCall::Name(NameQuery::Settle { name: name.clone(), token: to });
    disks.pass(name.clone(), token, to);
    let (id, command) = stored(&mut disks, 0);
    assert_eq!(command, TransferCommand::Freeze { name: name.clone(), token: to });
    disks.on_time(Tick(5_000));
    assert!(outputs(&mut disks, 5_000).is_empty(), "it is being frozen");
    disks.on_stored(id, TransferAnswer::Done);
    let passed = outputs(&mut disks, 5_000);
    assert!(matches!(passed[..], [DisksOutput::Passed { answer: WriteAnswer::Stored, .. }]), "{passed:?}");
    disks.on_time(Tick(5_999));
    assert!(outputs(&mut disks, 5_999).is_empty());
    assert_eq!(disks.next_tick(), Tick(6_000));
    for now in [6_000, 7_000, 8_000] {
        disks.on_time(Tick(now));
        let (id, call) = called(&mut disks, now);
        assert_eq!(call, settle, "at {now}");
        disks.on_time(Tick(now + 500));
        assert!(outputs(&mut disks, now + 500).is_empty(), "one question at a time");
        disks.on_reply(id, None);
        assert!(outputs(&mut disks, now).is_empty(), "nobody knows");
    }
    disks.on_parted(OTHER);
    let (id, command) = stored(&mut disks, 8_100);
    assert_eq!(command, TransferCommand::Thaw { name: name.clone(), token: to }, "it does not come back");
    assert!(disks.is_leaving(&name));
    disks.on_stored(id, TransferAnswer::Here(Box::new(session(&name))));
    let back = outputs(&mut disks, 8_100);
    assert!(matches!(back[..], [DisksOutput::Back(_)]), "{back:?}");
    disks.on_time(Tick(20_000));
    assert!(outputs(&mut disks, 20_000).is_empty() && !disks.is_leaving(&name));
    assert_eq!(disks.next_tick(), Tick::NEVER);
}

#[test]
fn what_has_arrived_is_under_way_until_all_know_of_it() {
    let (mut disks, name): (Disks, SessionName) = (Disks::new(OWN), "s".into());
    let (claims, to, transfer) = (Claims::new(OWN, 7, Tick(0)), ReplyTo(5), Token::new(OWN, 2));
    let settle = NameQuery::Settle { name: name.clone(), token: transfer };
    disks.claim(name.clone(), Token::new(OWN, 1), Some(transfer), Some(OTHER), Tick(0));
    let (id, _) = called(&mut disks, 0);
    disks.on_reply(id, Some(DiskReply::Part(Box::default())));
    let (id, _) = stored(&mut disks, 0);
    disks.on_stored(id, TransferAnswer::Here(Box::new(session(&name))));
    for outcome in [waiting::Outcome::TimedOut, waiting::Outcome::TimedOut, waiting::Outcome::Known] {
        let arrived = outputs(&mut disks, 0);
        let Some(DisksOutput::AwaitKnown(id)) = arrived.last() else { panic!("{arrived:?}") };
        disks.on_query(&claims, (OTHER, settle.clone()), to, Tick(0));
        let pending = outputs(&mut disks, 0);
        assert!(matches!(pending[..], [DisksOutput::Answer { code: 3, .. }]), "{pending:?}");
        disks.on_waited(*id, outcome);
    }
    assert!(outputs(&mut disks, 0).is_empty());
    disks.on_query(&claims, (OTHER, settle), to, Tick(0));
    assert_eq!(stored(&mut disks, 0).1, TransferCommand::Settle { token: transfer });
}

/// Nodes that have the session, one after the other.
struct Has(Vec<Generation>);

impl Peers for Has {
    fn grantors(&self, _: &str, _: Tick) -> Option<Vec<Grantor>> {
        Some(vec![OWN_GRANTOR])
    }

    fn may_have(&self, _: &str) -> Vec<Generation> {
        self.0.clone()
    }

    fn linked(&self) -> Vec<Generation> {
        self.0.clone()
    }
}

#[test]
fn a_session_that_moves_during_a_search_is_found_where_it_is() {
    let mut disks = Disks::new(OWN);
    let (left, came_to) = (Generation(2), Generation(3));
    disks.claim("s".into(), Token::new(OWN, 1), None, None, Tick(0));
    let Some(DisksOutput::AwaitReady(id)) = disks.poll_output(&Has(vec![left]), Tick(0)) else { panic!() };
    disks.on_waited(id, waiting::Outcome::Known);
    let Some(DisksOutput::Call { id, to, .. }) = disks.poll_output(&Has(vec![left]), Tick(0)) else { panic!() };
    assert_eq!(to, left);
    // By the time of the answer it is another's, and all know that.
    disks.on_reply(id, Some(DiskReply::Code(0)));
    let Some(DisksOutput::Call { id, to, .. }) = disks.poll_output(&Has(vec![came_to]), Tick(0)) else { panic!() };
    assert_eq!(to, came_to);
    disks.on_reply(id, Some(DiskReply::Code(1)));
    let found = disks.poll_output(&Has(vec![came_to]), Tick(0));
    let Some(DisksOutput::Claimed { answer: ClaimAnswer::Taken(Some(owner)), .. }) = found else { panic!("{found:?}") };
    assert_eq!(owner.owner(), Some(came_to));
}

#[test]
fn a_session_that_leaves_is_not_created_anew() {
    let (mut disks, name): (Disks, SessionName) = (Disks::new(OWN), "s".into());
    let (token, to) = (Token::new(OWN, 1), Token::new(OTHER, 2));
    disks.pass(name.clone(), token, to);
    let (id, _) = stored(&mut disks, 0);
    disks.on_stored(id, TransferAnswer::Done);
    outputs(&mut disks, 0);
    // A client has come back meanwhile, and the other disk has not got the session yet.
    disks.claim(name, Token::new(OWN, 3), None, None, Tick(0));
    let refused = outputs(&mut disks, 0);
    assert!(matches!(refused[..], [DisksOutput::Claimed { answer: ClaimAnswer::Unknown, .. }]), "{refused:?}");
}

#[test]
fn what_is_under_way_is_pending_and_the_rest_is_the_stores_to_say() {
    let (mut disks, name): (Disks, SessionName) = (Disks::new(OWN), "s".into());
    let (claims, to) = (Claims::new(OWN, 7, Tick(0)), ReplyTo(5));
    let (token, transfer) = (Token::new(OWN, 1), Token::new(OWN, 2));
    let settle = NameQuery::Settle { name: name.clone(), token: transfer };
    disks.claim(name.clone(), token, Some(transfer), Some(OTHER), Tick(0));
    let (id, call) = called(&mut disks, 0);
    assert_eq!(call, DiskCall::Read { name, token: transfer, from: Position::Start });
    disks.on_query(&claims, (OTHER, settle.clone()), to, Tick(0));
    let pending = outputs(&mut disks, 0);
    assert!(matches!(pending[..], [DisksOutput::Answer { to: ReplyTo(5), code: 3 }]), "{pending:?}");
    // The other node says nothing: it is given up.
    disks.on_time(Tick(CALL_MS_MAX));
    let (given_up, command) = stored(&mut disks, CALL_MS_MAX);
    assert_eq!(command, TransferCommand::Settle { token: transfer });
    disks.on_reply(id, Some(DiskReply::Part(Box::default())));
    assert!(outputs(&mut disks, CALL_MS_MAX).is_empty(), "it comes too late");
    disks.on_stored(given_up, TransferAnswer::Settled(Outcome::Never));
    let refused = outputs(&mut disks, CALL_MS_MAX);
    let [DisksOutput::FetchFailed, DisksOutput::Claimed { answer: ClaimAnswer::Unknown, .. }] = refused[..] else {
        panic!("{refused:?}")
    };
    disks.on_query(&claims, (OTHER, settle), to, Tick(CALL_MS_MAX));
    let (id, command) = stored(&mut disks, CALL_MS_MAX);
    assert_eq!(command, TransferCommand::Settle { token: transfer });
    disks.on_stored(id, TransferAnswer::Settled(Outcome::Never));
    let answered = outputs(&mut disks, CALL_MS_MAX);
    assert!(matches!(answered[..], [DisksOutput::Answer { to: ReplyTo(5), code: 2 }]), "{answered:?}");
}

#[test]
fn a_name_is_looked_for_under_its_grant_and_its_grant_is_given_back() {
    let (mut disks, name): (Disks, SessionName) = (Disks::new(OWN), "s".into());
    let claims = Claims::new(OWN, 7, Tick(0));
    disks.claim(name.clone(), Token::new(OWN, 1), None, None, Tick(0));
    let ready = outputs(&mut disks, 0);
    let [DisksOutput::AwaitReady(id)] = ready[..] else { panic!("{ready:?}") };
    disks.on_waited(id, waiting::Outcome::Known);
    let (id, call) = called(&mut disks, 0);
    assert_eq!(call, DiskCall::Name(NameQuery::Has { name: name.clone() }));
    // Another node has to wait for the name.
    let grant = NameQuery::Grant { name: name.clone(), id: RequestId(9) };
    disks.on_query(&claims, (OTHER, grant), ReplyTo(5), Tick(0));
    assert!(outputs(&mut disks, 0).is_empty());
    disks.on_reply(id, Some(DiskReply::Code(0)));
    let created = outputs(&mut disks, 0);
    let [DisksOutput::Claimed { answer: ClaimAnswer::Claimed, .. }, DisksOutput::AwaitKnown(id)] = created[..] else {
        panic!("{created:?}")
    };
    disks.on_waited(id, waiting::Outcome::Known);
    let granted = outputs(&mut disks, 0);
    assert!(matches!(granted[..], [DisksOutput::Answer { to: ReplyTo(5), code: 1 }]), "{granted:?}");
}

#[test]
fn a_session_that_arrived_behind_its_deadline_is_this_nodes() {
    let (mut disks, name): (Disks, SessionName) = (Disks::new(OWN), "s".into());
    let transfer = Token::new(OWN, 2);
    disks.claim(name.clone(), Token::new(OWN, 1), Some(transfer), Some(OTHER), Tick(0));
    let (id, _) = called(&mut disks, 0);
    disks.on_reply(id, Some(DiskReply::Part(Box::default())));
    let (_, write) = stored(&mut disks, 0);
    // The disk is stuck for longer than anything is waited for.
    let mut given_up = None;
    for turn in 1..=3 {
        let now = turn * STORE_MS_MAX;
        disks.on_time(Tick(now));
        given_up = Some(stored(&mut disks, now));
    }
    let (id, command) = given_up.expect("more than one turn");
    assert_eq!(command, TransferCommand::Settle { token: transfer });
    disks.on_stored(id, TransferAnswer::Settled(Outcome::Arrived));
    let (id, command) = stored(&mut disks, 3 * STORE_MS_MAX);
    assert_eq!(command, write, "a second time it says what is there");
    disks.on_stored(id, TransferAnswer::Here(Box::new(session(&name))));
    let claimed = outputs(&mut disks, 3 * STORE_MS_MAX);
    assert!(matches!(claimed[0], DisksOutput::Claimed { answer: ClaimAnswer::Claimed, .. }), "{claimed:?}");
}
