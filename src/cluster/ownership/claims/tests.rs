//! Claims of several nodes over a model of the store: the traps of session ownership by their names.

use super::*;

const A: Generation = Generation(0xA);
const B: Generation = Generation(0xB);

#[derive(Clone, Default)]
struct Store {
    records: BTreeMap<SessionName, Token>,
    is_away: bool,
    /// Whoever passes a session on does not hear whether that was done.
    loses_answers: bool,
}

impl Store {
    fn claim(&mut self, name: &SessionName, expected: Option<Token>, token: Token) -> ClaimAnswer {
        let of = self.records.get(name).copied();
        if of != expected {
            return ClaimAnswer::Taken(of);
        }
        self.records.insert(name.clone(), token);
        ClaimAnswer::Claimed
    }

    fn write(&self, name: &SessionName, token: Token) -> WriteAnswer {
        if self.records.get(name) == Some(&token) { WriteAnswer::Stored } else { WriteAnswer::Fenced }
    }

    fn pass(&mut self, name: &SessionName, token: Token, to: Token) -> WriteAnswer {
        let answer = self.write(name, token);
        if answer == WriteAnswer::Stored {
            self.records.insert(name.clone(), to);
        }
        answer
    }
}

/// Two nodes, whose requests to each other may wait.
struct World {
    store: Store,
    nodes: BTreeMap<Generation, Claims>,
    /// Nodes that answer nothing.
    still: Vec<Generation>,
    requests: Vec<(Generation, Generation, RequestId, SessionName, Token)>,
    events: Vec<(Generation, ClaimsOutput)>,
    now: Tick,
}

fn name() -> SessionName {
    "s".into()
}

impl World {
    fn new() -> World {
        let nodes = [(A, Claims::new(A, 1, Tick(0))), (B, Claims::new(B, 2, Tick(0)))];
        World {
            store: Store::default(),
            nodes: nodes.into(),
            still: Vec::new(),
            requests: Vec::new(),
            events: Vec::new(),
            now: Tick(0),
        }
    }

    fn node(&mut self, node: Generation) -> &mut Claims {
        self.nodes.get_mut(&node).expect("one of two")
    }

    fn connect(&mut self, node: Generation) {
        let now = self.now;
        self.node(node).connect(name(), now);
        self.settle();
    }

    /// Until one node has a request of the other, which has not come.
    fn settle_until_requested(&mut self) {
        let still = std::mem::replace(&mut self.still, vec![A]);
        self.settle();
        self.still = still;
        assert_eq!(self.requests.len(), 1);
    }

    /// Everything that can happen without time.
    fn settle(&mut self) {
        loop {
            let awake = |node: &Generation| !self.still.contains(node);
            let nodes: Vec<Generation> = self.nodes.keys().copied().filter(awake).collect();
            let next = nodes.into_iter().find_map(|node| Some((node, self.node(node).poll_output()?)));
            if let Some((node, output)) = next {
                self.carry_out(node, output);
                continue;
            }
            let still = &self.still;
            let Some(index) = self.requests.iter().position(|(_, to, ..)| !still.contains(to)) else { return };
            let (from, to, id, name, token) = self.requests.remove(index);
            let now = self.now;
            self.node(to).on_request(from, id, &name, token, now);
        }
    }

    fn carry_out(&mut self, node: Generation, output: ClaimsOutput) {
        let now = self.now;
        match &output {
            ClaimsOutput::Store(OwnershipCommand::Claim { name, expected, token }) => {
                let answer =
                    if self.store.is_away { ClaimAnswer::Unknown } else { self.store.claim(name, *expected, *token) };
                self.node(node).on_claim(name, *token, answer, now);
            }
            ClaimsOutput::Store(OwnershipCommand::Pass { name, token, to }) => {
                let answer = match self.store.is_away {
                    true => WriteAnswer::Unknown,
                    false => self.store.pass(name, *token, *to),
                };
                let answer = if self.store.loses_answers { WriteAnswer::Unknown } else { answer };
                self.node(node).on_pass(name, *token, answer, now);
            }
            ClaimsOutput::Store(OwnershipCommand::Verify { name, token }) => {
                let answer = if self.store.is_away { WriteAnswer::Unknown } else { self.store.write(name, *token) };
                self.node(node).on_write(name, *token, answer);
            }
            ClaimsOutput::Request { to, id, name, token } => {
                self.requests.push((node, *to, *id, name.clone(), *token));
            }
            ClaimsOutput::Reply { to, id, handover } => {
                let (to, id, handover) = (*to, *id, *handover);
                self.node(to).on_reply(id, Some(handover), now);
            }
            ClaimsOutput::Flush { name, token } => self.node(node).on_flushed(name, *token),
            _ => {}
        }
        self.events.push((node, output));
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now = self.now + 1;
            let now = self.now;
            for (node, claims) in &mut self.nodes {
                if !self.still.contains(node) && claims.next_tick() <= now {
                    claims.handle_timers(now);
                }
            }
            self.settle();
        }
    }

    fn owners(&self) -> Vec<Generation> {
        self.nodes.iter().filter(|(_, node)| node.certain_token("s").is_some()).map(|(node, _)| *node).collect()
    }

    fn ended(&self, node: Generation) -> Vec<EndReason> {
        let ended = self.events.iter().filter_map(|(at, output)| match output {
            ClaimsOutput::Ended { reason, .. } if *at == node => Some(*reason),
            _ => None,
        });
        ended.collect()
    }
}

#[test]
fn a_session_goes_to_the_node_where_its_client_connects() {
    let mut world = World::new();
    world.connect(A);
    assert_eq!(world.owners(), [A]);
    world.connect(A);
    world.connect(B);
    assert_eq!(world.owners(), [B]);
    assert_eq!(world.ended(A), [EndReason::Passed]);
    world.connect(A);
    assert_eq!((world.owners(), world.ended(B)), (vec![A], vec![EndReason::Passed]));
    let now = world.now;
    assert_eq!(now, Tick(0), "nobody had to wait");
}

#[test]
fn two_nodes_in_the_same_millisecond_leave_one_owner() {
    let mut world = World::new();
    let now = world.now;
    world.node(A).connect(name(), now);
    world.node(B).connect(name(), now);
    world.settle();
    world.run(3_000);
    assert_eq!(world.owners().len(), 1);
    let owned = world.events.iter().filter(|(_, output)| matches!(output, ClaimsOutput::Owned { .. })).count();
    assert_eq!(owned, 2, "both had their turn");
}

#[test]
fn an_owner_that_is_stopped_loses_the_session_after_a_second_and_its_late_writes_are_fenced() {
    let mut world = World::new();
    world.connect(A);
    let old = world.node(A).certain_token("s").expect("owned");
    world.still.push(A);
    world.connect(B);
    world.run(FORCE_MS - 1);
    assert_eq!(world.owners(), [A], "it may still answer");
    world.run(1);
    assert!(world.node(B).certain_token("s").is_some());
    // It goes on: a write that was on its way is fenced.
    let answer = world.store.write(&name(), old);
    assert_eq!(answer, WriteAnswer::Fenced);
    world.still.clear();
    world.node(A).on_write(&name(), old, answer);
    world.settle();
    assert_eq!((world.owners(), world.ended(A)), (vec![B], vec![EndReason::Fenced]));
}

#[test]
fn a_node_that_stood_still_acknowledges_nothing_before_the_store_has_said_so() {
    let mut world = World::new();
    world.connect(A);
    world.still.push(A);
    world.connect(B);
    world.run(2_000);
    world.still.clear();
    let now = world.now;
    world.node(A).handle_timers(now);
    assert_eq!(world.node(A).certain_token("s"), None);
    world.settle();
    assert_eq!((world.owners(), world.ended(A)), (vec![B], vec![EndReason::Fenced]));
    // Nobody has taken anything: it goes on.
    world.still.push(B);
    world.run(5_000);
    world.still.clear();
    world.run(1);
    assert_eq!(world.owners(), [B]);
}

/// Its claim was carried out, it stood still, and another took the session before the answer was heard.
#[test]
fn an_answer_to_a_claim_that_is_heard_late_makes_nobody_certain() {
    for (late, owns) in [(FORCE_MS - 1, true), (FORCE_MS, false)] {
        let mut world = World::new();
        let now = world.now;
        world.node(A).connect(name(), now);
        let command = world.node(A).poll_output();
        let Some(ClaimsOutput::Store(OwnershipCommand::Claim { name, expected, token })) = command else {
            panic!("{command:?}")
        };
        let answer = world.store.claim(&name, expected, token);
        world.still.push(A);
        world.connect(B);
        world.run(late);
        let now = world.now;
        world.node(A).on_claim(&name, token, answer, now);
        assert_eq!(world.node(A).certain_token(&name).is_some(), owns, "after {late} ms");
        world.still.clear();
        world.settle();
        world.run(10_000);
        assert_eq!(world.owners().len(), 1, "{:?}", world.owners());
    }
}

#[test]
fn a_session_that_may_not_have_been_passed_on_is_not_left_to_nobody() {
    let mut world = World::new();
    world.connect(A);
    let now = world.now;
    world.node(B).connect(name(), now);
    world.settle_until_requested();
    // Whoever wanted it dies, and the store is away for longer than anybody waits.
    (world.store.is_away, world.still) = (true, vec![B]);
    let (from, to, id, of, token) = world.requests.remove(0);
    world.node(to).on_request(from, id, &of, token, now);
    world.settle();
    assert_eq!(world.owners(), [], "it is not known whose it is");
    world.run(5_000);
    assert_eq!(world.owners(), []);
    world.store.is_away = false;
    world.run(FORCE_MS);
    assert_eq!(world.owners(), [A]);
}

#[test]
fn a_session_that_was_passed_on_stays_there_though_the_answer_was_lost() {
    let mut world = World::new();
    world.connect(A);
    world.store.loses_answers = true;
    world.connect(B);
    world.run(5_000);
    assert_eq!(world.owners(), [B]);
    assert_eq!(world.ended(A), [EndReason::Passed]);
    let owned = world.events.iter().filter(|(_, output)| matches!(output, ClaimsOutput::Owned { .. })).count();
    assert_eq!(owned, 2, "nobody took it from the other again");
}

#[test]
fn a_late_answer_to_an_earlier_ownership_ends_nothing() {
    let mut world = World::new();
    world.connect(A);
    let old = world.node(A).certain_token("s").expect("owned");
    world.connect(B);
    world.connect(A);
    world.node(A).on_write(&name(), old, WriteAnswer::Fenced);
    world.node(A).on_flushed(&name(), old);
    let now = world.now;
    world.node(A).on_pass(&name(), old, WriteAnswer::Stored, now);
    world.settle();
    assert_eq!(world.owners(), [A]);
    assert_eq!(world.store.pass(&name(), old, Token(9)), WriteAnswer::Fenced, "a late disconnect removes nothing");
}

#[test]
fn a_failover_that_loses_the_last_claim_is_noticed_by_both() {
    let mut world = World::new();
    world.connect(A);
    let copy = world.store.clone();
    world.connect(B);
    world.store = copy;
    // The new owner's next write is fenced; the old one knows that it is none.
    let token = world.node(B).certain_token("s").expect("owned");
    let answer = world.store.write(&name(), token);
    world.node(B).on_write(&name(), token, answer);
    world.settle();
    assert_eq!((world.owners(), world.ended(B)), (vec![], vec![EndReason::Fenced]));
    world.connect(B);
    assert_eq!(world.owners(), [B], "the record's owner says that it is none");
}

#[test]
fn an_answer_that_was_lost_locks_nobody_out() {
    let mut world = World::new();
    // The claim was carried out, the answer lost.
    let now = world.now;
    world.node(A).connect(name(), now);
    let Some(ClaimsOutput::Store(OwnershipCommand::Claim { token, .. })) = world.node(A).poll_output() else {
        panic!("a claim")
    };
    world.store.claim(&name(), None, token);
    world.node(A).on_claim(&name(), token, ClaimAnswer::Unknown, now);
    let refused = ClaimsOutput::Refused { name: name(), reason: RefusalReason::StoreAway };
    assert_eq!(world.node(A).poll_output(), Some(refused));
    world.connect(A);
    assert_eq!(world.owners(), [A]);
    // The same, and another node comes.
    let mut world = World::new();
    world.store.claim(&name(), None, Token::new(A, 77));
    world.connect(B);
    assert_eq!(world.owners(), [B]);
}

#[test]
fn redis_away_for_a_minute_ends_no_session() {
    let mut world = World::new();
    world.connect(A);
    world.store.is_away = true;
    world.node(A).on_hint(&name());
    world.run(60_000);
    assert_eq!((world.owners(), world.ended(A)), (vec![A], vec![]));
    world.connect(B);
    let refused = ClaimsOutput::Refused { name: name(), reason: RefusalReason::StoreAway };
    assert!(world.events.contains(&(B, refused)));
    world.store.is_away = false;
    world.connect(B);
    assert_eq!(world.owners(), [B]);
}

#[test]
fn a_hint_that_the_session_was_taken_is_checked() {
    let mut world = World::new();
    world.connect(A);
    world.node(A).on_hint(&name());
    world.settle();
    assert_eq!(world.owners(), [A], "a hint alone ends nothing");
    world.store.claim(&name(), world.nodes[&A].certain_token("s"), Token::new(B, 5));
    world.node(A).on_hint(&name());
    world.settle();
    assert_eq!(world.ended(A), [EndReason::Fenced]);
}

#[test]
fn a_session_that_has_ended_is_not_resumed_elsewhere() {
    let mut world = World::new();
    world.connect(A);
    world.node(A).drop_session(&name());
    world.store.records.clear();
    world.settle();
    world.connect(B);
    let requests = world.events.iter().filter(|(_, output)| matches!(output, ClaimsOutput::Request { .. })).count();
    assert_eq!((world.owners(), requests), (vec![B], 0));
}

#[test]
fn a_client_that_comes_back_during_the_handover_gets_it_afterwards() {
    let mut world = World::new();
    world.connect(A);
    let now = world.now;
    world.node(B).connect(name(), now);
    // One output at a time, until A flushes.
    while !world.events.iter().any(|(_, output)| matches!(output, ClaimsOutput::Request { .. })) {
        let output = world.node(B).poll_output().expect("on its way");
        world.carry_out(B, output);
    }
    let (from, to, id, name_of, token) = world.requests.pop().expect("the request");
    world.node(to).on_request(from, id, &name_of, token, now);
    world.node(A).connect(name(), now);
    world.settle();
    world.run(2_500);
    assert_eq!(world.owners().len(), 1);
    assert_eq!(world.nodes.values().filter(|node| node.claims.len() == 1).count(), 1, "nothing is left over");
}

/// A dead node's token, as its survivors find it in the record.
fn dead() -> Token {
    Token::new(Generation(0xD), 7)
}

#[test]
fn who_adopts_leaves_a_session_to_the_node_that_its_client_has_come_to() {
    let mut world = World::new();
    world.store.records.insert(name(), dead());
    world.still.push(Generation(0xD));
    // Its client has taken it by force, between the survivor's look and its claim.
    world.connect(A);
    world.run(FORCE_MS + 10);
    assert_eq!(world.owners(), [A]);
    world.node(B).adopt(name(), dead());
    world.settle();
    world.run(3_000);
    assert_eq!((world.owners(), world.ended(A)), (vec![A], vec![]), "nobody is thrown out");
    assert!(world.node(B).is_empty());
    world.connect(B);
    assert_eq!(world.owners(), [B], "for a client it is fetched");
}

#[test]
fn a_session_that_its_owner_offers_is_taken_from_nobody_else() {
    let mut world = World::new();
    world.connect(A);
    world.node(B).take(name(), A);
    world.settle();
    assert_eq!((world.owners(), world.ended(A)), (vec![B], vec![EndReason::Passed]));
    // The offer is late: a client has brought it elsewhere.
    world.node(A).take(name(), Generation(0xC));
    world.settle();
    assert_eq!((world.owners(), world.ended(B)), (vec![B], vec![]));
    assert!(world.node(A).is_empty());
}

#[test]
fn a_session_that_was_passed_on_is_taken_although_the_news_of_it_is_late() {
    let mut world = World::new();
    world.connect(A);
    world.still.push(A);
    world.node(B).take(name(), A);
    world.settle();
    // The owner writes what was asked for; its answer does not arrive.
    let (.., ours) = world.requests.pop().expect("it was asked");
    world.store.records.insert(name(), ours);
    world.run(FORCE_MS + 10);
    assert_eq!(world.store.records[&name()].owner(), Some(B));
    assert!(world.node(B).certain_token("s").is_some(), "nobody else would ever have it");
}

#[test]
fn a_client_that_comes_while_a_session_is_taken_gets_it_wherever_it_is() {
    let mut world = World::new();
    world.connect(A);
    world.still.push(A);
    let now = world.now;
    world.node(B).take(name(), Generation(0xC));
    world.node(B).connect(name(), now);
    world.settle();
    world.still.clear();
    world.settle();
    assert_eq!(world.owners(), [B]);
}
