//! Directories that hear each other, frame by frame: the traps by their names.

use super::*;
use crate::base::keyed_hash::HashKey;
use proptest::prelude::*;

const KEY: HashKey = HashKey::new(3, 4);
const A: Generation = Generation(0xA);
const B: Generation = Generation(0xB);
const NOW: Tick = Tick(0);

fn hash(channel: &str) -> u64 {
    KEY.hash(channel)
}

/// Carries up to `frames` frames from one to the other; true while there were that many.
fn carry(
    (from, from_id): (&mut Directory, Generation),
    (to, to_id): (&mut Directory, Generation),
    frames: usize,
) -> bool {
    (0..frames).all(|_| {
        let mut bytes = Vec::new();
        let is_frame = from.next_frame(to_id, &mut bytes);
        if is_frame {
            let (frame, used) = Frame::decode(&bytes, 1 << 20).expect("ours").expect("whole");
            assert_eq!(used, bytes.len());
            to.receive(from_id, frame, NOW);
        }
        is_frame
    })
}

fn carry_all(a: &mut Directory, b: &mut Directory) {
    for _ in 0..4 {
        while carry((a, A), (b, B), 64) {}
        while carry((b, B), (a, A), 64) {}
    }
}

fn linked() -> (Directory, Directory) {
    let (mut a, mut b) = (Directory::new(NOW), Directory::new(NOW));
    a.link_up(B);
    b.link_up(A);
    (a, b)
}

fn has(directory: &Directory, channel: &str) -> bool {
    directory.interests(hash(channel)).next().is_some()
}

fn settled(directory: &mut Directory) -> Vec<(WaiterId, Outcome)> {
    let outputs = std::iter::from_fn(|| directory.poll_output());
    let settled = outputs.filter_map(|output| match output {
        Output::Settled { waiter, outcome } => Some((waiter, outcome)),
        _ => None,
    });
    settled.collect()
}

#[test]
fn a_subscription_made_while_a_link_is_being_set_up_is_told() {
    // At every point of the snapshot.
    for frames in 0..8 {
        let (mut a, mut b) = linked();
        (0..5_000).for_each(|n| a.add(hash(&format!("old/{n}"))));
        a.end_turn(NOW);
        carry((&mut a, A), (&mut b, B), frames);
        a.add(hash("new"));
        a.remove(hash("old/7"));
        a.end_turn(NOW);
        while carry((&mut a, A), (&mut b, B), 1) {
            assert!(has(&b, "new"), "after {frames}");
        }
        assert!(has(&b, "new") && has(&b, "old/4999") && !has(&b, "elsewhere"), "after {frames}");
        assert_eq!(b.counts().resyncs, 0);
    }
}

#[test]
fn unsubscribe_and_subscribe_again_within_one_turn_ends_as_subscribed_everywhere() {
    let (mut a, mut b) = linked();
    a.add(hash("x"));
    a.end_turn(NOW);
    // Within a snapshot, too: the chunk must not show the moment between.
    carry((&mut a, A), (&mut b, B), 1);
    a.remove(hash("x"));
    while carry((&mut a, A), (&mut b, B), 1) {}
    a.add(hash("x"));
    a.end_turn(NOW);
    carry_all(&mut a, &mut b);
    assert!(has(&b, "x"));
    a.remove(hash("x"));
    a.add(hash("x"));
    a.end_turn(NOW);
    carry_all(&mut a, &mut b);
    assert!(has(&b, "x") && !has(&b, "y"));
}

#[test]
fn the_late_removal_of_a_dead_generation_leaves_the_new_one_alone() {
    let (mut a, mut b) = linked();
    a.add(hash("x"));
    a.end_turn(NOW);
    carry_all(&mut a, &mut b);
    let (mut late, later) = (Directory::new(NOW), Generation(0xA2));
    late.add(hash("x"));
    late.end_turn(NOW);
    late.link_up(B);
    b.link_up(later);
    while carry((&mut late, later), (&mut b, B), 64) {}
    b.link_down(A, NOW);
    b.gone(A);
    b.forget(A, NOW);
    b.forget(A, NOW);
    let interests: Vec<_> = b.interests(hash("x")).collect();
    assert_eq!(interests, [Interest { node: later, is_reachable: true }]);
}

#[test]
fn a_peer_that_is_down_keeps_what_was_known_last() {
    let (mut a, mut b) = linked();
    a.add(hash("x"));
    a.end_turn(NOW);
    carry_all(&mut a, &mut b);
    b.link_down(A, NOW);
    let unreachable = [Interest { node: A, is_reachable: false }];
    assert_eq!(b.interests(hash("new")).collect::<Vec<_>>(), unreachable, "whatever happens there is not heard of");
    b.gone(A);
    assert_eq!(b.interests(hash("x")).collect::<Vec<_>>(), unreachable, "down for ten seconds is not dead");
    assert!(!has(&b, "new"));
    b.heard_of(A);
    assert!(has(&b, "new"), "it is back, and nobody knows with what");
    b.gone(A);
    assert!(!has(&b, "new"));
    b.link_up(A);
    assert!(has(&b, "new"), "until its snapshot is whole");
    a.link_up(B);
    carry_all(&mut a, &mut b);
    assert!(!has(&b, "new") && has(&b, "x"));
    b.forget(A, NOW);
    assert!(!has(&b, "x"));
}

#[test]
fn a_peer_that_goes_down_before_its_snapshot_is_whole_may_have_everything() {
    let (mut a, mut b) = linked();
    carry((&mut a, A), (&mut b, B), 1);
    b.link_down(A, NOW);
    b.gone(A);
    assert!(has(&b, "x"));
}

#[test]
fn half_a_million_channels_at_link_up_delay_no_change() {
    let (mut a, mut b) = linked();
    (0..500_000).for_each(|n| a.add(hash(&format!("channel/{n}"))));
    a.end_turn(NOW);
    let (mut frames, mut bytes_max) = (0, 0);
    let mut bytes = Vec::new();
    loop {
        // A change goes out before the next chunk.
        let before = a.local.number();
        a.add(hash(&format!("new/{frames}")));
        a.end_turn(NOW);
        let has_changed = a.local.number() != before;
        bytes.clear();
        assert!(a.next_frame(B, &mut bytes));
        let (frame, _) = Frame::decode(&bytes, 1 << 20).expect("ours").expect("whole");
        let is_first = matches!(frame, Frame::Changes { .. } | Frame::SnapshotBegin { .. });
        assert!(is_first || !has_changed, "a change waits behind a chunk");
        b.receive(A, frame, NOW);
        if !carry((&mut a, A), (&mut b, B), 1) {
            break;
        }
        bytes_max = bytes_max.max(bytes.len());
        frames += 1;
        if frames % 100 == 0 && b.peers[&A].view.is_whole() {
            break;
        }
    }
    assert!(bytes_max < 16 << 10, "no frame keeps others waiting: {bytes_max}");
    assert!(b.peers[&A].view.is_whole() && has(&b, "channel/499999") && has(&b, "new/7"));
    assert_eq!(b.counts().resyncs, 0);
}

#[test]
fn a_peer_that_falls_behind_gets_a_snapshot() {
    let (mut a, mut b) = linked();
    carry_all(&mut a, &mut b);
    (0..1_900).for_each(|n| a.add(hash(&format!("channel/{n}"))));
    a.end_turn(NOW);
    carry_all(&mut a, &mut b);
    let mut turns = 0;
    while a.counts().overflows == 0 {
        (0..1_900).for_each(|n| a.remove(hash(&format!("channel/{n}"))));
        a.end_turn(NOW);
        (0..1_900).for_each(|n| a.add(hash(&format!("channel/{n}"))));
        a.end_turn(NOW);
        turns += 1;
        assert!(turns < 1_000, "a queue without a limit");
    }
    carry_all(&mut a, &mut b);
    assert_eq!((has(&b, "channel/1899"), has(&b, "x"), b.counts().resyncs), (true, false, 0));
}

#[test]
fn who_waits_goes_on_when_the_live_peers_know() {
    let (mut a, mut b) = linked();
    carry_all(&mut a, &mut b);
    a.add(hash("x"));
    a.wait(WaiterId(1), NOW);
    assert_eq!(settled(&mut a), [], "the turn has not ended");
    a.end_turn(NOW);
    carry((&mut a, A), (&mut b, B), 64);
    assert_eq!(settled(&mut a), [], "sent is not known");
    carry((&mut b, B), (&mut a, A), 64);
    assert_eq!(settled(&mut a), [(WaiterId(1), Outcome::Known)]);
    a.wait(WaiterId(2), NOW);
    assert_eq!(settled(&mut a), [(WaiterId(2), Outcome::Known)], "nothing is new");
}

#[test]
fn who_waits_for_a_peer_that_hangs_waits_a_tenth_of_a_second() {
    let (mut a, mut b) = linked();
    carry_all(&mut a, &mut b);
    a.add(hash("x"));
    a.wait(WaiterId(1), Tick(5));
    a.end_turn(Tick(5));
    assert_eq!(a.next_tick(), Tick(105));
    a.handle_timers(Tick(104));
    assert_eq!(settled(&mut a), []);
    a.handle_timers(Tick(105));
    assert_eq!(settled(&mut a), [(WaiterId(1), Outcome::TimedOut)]);
    assert_eq!(a.counts().wait_timeouts, 1);
    // A peer without a link is not live.
    a.add(hash("y"));
    a.wait(WaiterId(2), Tick(200));
    a.end_turn(Tick(200));
    a.link_down(B, Tick(201));
    assert_eq!(settled(&mut a), [(WaiterId(2), Outcome::Known)]);
}

#[test]
fn a_send_through_the_other_node_right_after_connect_never_misses() {
    let (mut a, mut b) = linked();
    carry_all(&mut a, &mut b);
    let mut unknown = 0;
    for n in 0..1_000 {
        let channel = format!("client/{n}");
        unknown += usize::from(!has(&b, &channel));
        a.add(hash(&channel));
        a.wait(WaiterId(n), NOW);
        a.end_turn(NOW);
        // Frame by frame, until the 101 may go out.
        while settled(&mut a).is_empty() {
            carry((&mut a, A), (&mut b, B), 1);
            carry((&mut b, B), (&mut a, A), 1);
        }
        assert!(has(&b, &channel), "{channel}");
    }
    assert!(unknown > 900, "most were news: {unknown}");
}

#[test]
fn a_new_node_serves_no_calls_before_it_has_its_peers_snapshots() {
    let (mut a, mut b) = linked();
    assert!(!b.is_ready(0, Tick(1_999)) && b.is_ready(0, Tick(2_000)), "two seconds at most");
    while carry((&mut a, A), (&mut b, B), 64) {}
    assert!(has(&a, "anything") && !has(&b, "anything"));
    assert!(!b.is_ready(0, NOW), "the other does not know of it");
    carry_all(&mut a, &mut b);
    assert!(b.is_ready(0, NOW) && !b.is_ready(1, NOW), "one has no link yet");
    assert!(Directory::new(NOW).is_ready(0, NOW), "alone");
}

#[test]
fn a_checksum_every_half_a_minute_mends_a_view() {
    let (mut a, mut b) = linked();
    a.add(hash("x"));
    a.end_turn(NOW);
    carry_all(&mut a, &mut b);
    // A fault that should not be: a bit is lost.
    let view = &mut b.peers.get_mut(&A).expect("linked").view;
    view.damage(hash("x"));
    assert!(!has(&b, "x"));
    a.handle_timers(Tick(30_000));
    carry_all(&mut a, &mut b);
    assert_eq!((has(&b, "x"), has(&b, "y"), b.counts().resyncs), (true, false, 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Random subscriptions, turns, deliveries, link failures and growth, against what is true.
    #[test]
    fn a_directory_never_under_reports(
        steps in prop::collection::vec((0..100_u8, 0_u64..3_000), 0..400),
    ) {
        let (mut a, mut b) = linked();
        // Channel → the step at which it was added; what each waiter waits for.
        let (mut there, mut waiters) = (BTreeMap::new(), Vec::new());
        let mut known = BTreeMap::new();
        for (at, (step, n)) in steps.into_iter().enumerate() {
            match step {
                0..30 => (n..n + 40).for_each(|n| {
                    there.entry(n).or_insert_with(|| {
                        a.add(hash(&n.to_string()));
                        at
                    });
                }),
                30..45 => (n..n + 20).for_each(|n| if there.remove(&n).is_some() {
                    a.remove(hash(&n.to_string()));
                }),
                45..60 => {
                    a.wait(WaiterId(waiters.len() as u64), NOW);
                    waiters.push(there.clone());
                    a.end_turn(NOW);
                }
                60..97 => {
                    carry((&mut a, A), (&mut b, B), usize::from(step - 60));
                    carry((&mut b, B), (&mut a, A), 4);
                }
                _ => {
                    a.link_down(B, NOW);
                    b.link_down(A, NOW);
                    a.link_up(B);
                    b.link_up(A);
                }
            }
            for (WaiterId(waiter), outcome) in settled(&mut a) {
                prop_assert_eq!(outcome, Outcome::Known);
                known.append(&mut waiters[waiter as usize]);
            }
            known.retain(|n, at| there.get(n) == Some(at));
            for n in known.keys() {
                prop_assert!(has(&b, &n.to_string()), "{}", n);
            }
        }
        a.end_turn(NOW);
        carry_all(&mut a, &mut b);
        prop_assert!(there.keys().all(|n| has(&b, &n.to_string())));
        let wasted = (0..1_000).filter(|n| has(&b, &format!("elsewhere/{n}"))).count();
        prop_assert!(wasted < 60, "{} of 1,000", wasted);
        prop_assert_eq!(b.counts().resyncs, 0);
    }
}
