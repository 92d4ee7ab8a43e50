//! What a client may have under way: memory of its queue and its answers, messages per second, and what comes at the
//! bound.

use super::*;

#[test]
fn a_full_line_pauses_the_client_and_half_a_line_resumes_it() {
    let mut rig = Rig::new();
    let key = rig.open();
    let mut resumed = 0;
    for id in 1..=5 {
        assert!(!rig.shard.is_paused(key), "one with the backend and three in the line do not fill it");
        rig.send(key, 1, id, "x");
    }
    assert!(rig.shard.is_paused(key));
    assert_eq!(rig.stats().pauses.get(), 1);
    for answered in 1..=5 {
        let forward = rig.forward();
        rig.answer(forward, "");
        let left = 5 - answered;
        assert_eq!(rig.shard.is_paused(key), left > 3, "{left} left");
        resumed += rig.outputs.iter().filter(|output| matches!(output, Output::Resume { .. })).count();
        rig.outputs.retain(|output| !matches!(output, Output::Resume { .. }));
    }
    assert_eq!(resumed, 1);
    rig.finish();
}

#[test]
fn bytes_of_all_lines_pause_whoever_adds_to_them() {
    let mut rig = Rig::with(|settings| settings.forward_queue_bytes = 1_500);
    let (one, two) = (rig.open(), rig.open());
    rig.send(one, 1, 1, &"x".repeat(900));
    assert!(!rig.shard.is_paused(one));
    rig.send(two, 1, 1, &"x".repeat(900));
    assert!(rig.shard.is_paused(two) && !rig.shard.is_paused(one));
    let forwards = rig.forwards();
    for forward in forwards {
        rig.answer(forward, "");
    }
    assert!(!rig.shard.is_paused(two));
    assert_eq!(rig.stats().forward_queue_bytes.get(), 0);
    rig.finish();
}

#[test]
fn answers_of_qos_1_keep_their_limit_in_memory() {
    let mut rig = Rig::with(|settings| settings.answers_bytes_max = 500);
    let key = rig.open();
    for id in 1..=10 {
        rig.send(key, 1, id, "x");
        let forward = rig.forward();
        rig.answer(forward, &"a".repeat(100));
        let memory = rig.shard.conns.details(key.index).uplink.known.answer_memory();
        assert!(memory <= 500, "{memory}");
        rig.hear(key);
    }
    rig.finish();
}

#[test]
fn answers_without_rel_hold_the_queue_until_rel_frees_room() {
    let mut rig = Rig::with(|settings| settings.answers_bytes_max = 500);
    let key = rig.open();
    let burst: Vec<u8> = (1..=8).flat_map(|id| send_frame(false, 2, id, "x")).collect();
    rig.bytes(key, &burst);
    let mut answered = 0;
    while let Some(forward) = rig.forwards().pop() {
        rig.answer(forward, &"a".repeat(100));
        answered += 1;
    }
    assert_eq!(answered, 3, "two within the limit, and the one that passes it");
    assert_eq!(rig.hear(key).len(), 3);
    assert_eq!(rig.stats().answer_holds.get(), 1);
    for id in 1..=8 {
        assert!(rig.forwards().is_empty());
        rig.rel(key, id);
        if id <= 5 {
            let forward = rig.forward();
            rig.answer(forward, &"a".repeat(100));
        }
    }
    let heard = rig.hear(key);
    assert_eq!(heard.iter().filter(|text| text.starts_with("rec")).count(), 5);
    assert_eq!(heard.iter().filter(|text| text.starts_with("com")).count(), 8);
    assert_eq!(rig.stats().closed_policy.get(), 0);
    rig.finish();
}

#[test]
fn a_client_that_never_releases_is_read_until_its_queue_is_full_and_then_closed() {
    let mut rig =
        Rig::with(|settings| (settings.answers_bytes_max, settings.received_max, settings.forward_queue) = (50, 99, 3));
    let key = rig.open();
    for id in 1..=4 {
        rig.send(key, 2, id, "x");
    }
    assert!(rig.shard.is_paused(key), "while the backend has one");
    let forward = rig.forward();
    rig.answer(forward, &"a".repeat(100));
    assert!(!rig.shard.is_paused(key), "its REL has to be read");
    assert_eq!(rig.hear(key).len(), 1);
    rig.send(key, 2, 5, "one more");
    assert_eq!(rig.hear(key), ["close 1008 too many answers without REL"]);
    for id in 2..=5 {
        let forward = rig.forward();
        assert_eq!(forward.sequence, number(id), "what was taken goes on; nobody will ask for the answers");
        rig.answer(forward, &"a".repeat(100));
    }
    rig.finish();
}

#[test]
fn a_queue_of_a_client_that_has_gone_goes_on_and_its_answers_are_not_kept() {
    for answered_before_end in [true, false] {
        let mut rig = Rig::with(|settings| settings.answers_bytes_max = 50);
        let key = rig.open();
        (1..=4).for_each(|id| rig.send(key, 2, id, "x"));
        let mut first = Some(rig.forward());
        if answered_before_end {
            rig.answer(first.take().expect("not answered yet"), &"a".repeat(100));
            assert!(rig.forwards().is_empty());
        }
        rig.end(key);
        first.into_iter().for_each(|forward| rig.answer(forward, &"a".repeat(100)));
        for id in 2..=4 {
            let forward = rig.forward();
            assert_eq!(forward.sequence, number(id));
            assert!(rig.shard.conns.details(key.index).uplink.known.answer_memory() < 300);
            rig.answer(forward, &"a".repeat(100));
        }
        rig.finish();
    }
}

#[test]
fn one_answer_may_be_longer_than_the_limit() {
    let mut rig = Rig::with(|settings| settings.answers_bytes_max = 50);
    let key = rig.open();
    rig.send(key, 2, 1, "x");
    let forward = rig.forward();
    rig.answer(forward, &"a".repeat(100));
    rig.send_dup(key, 2, 1, "x");
    let heard = rig.hear(key);
    assert!(heard.len() == 2 && heard[0] == heard[1], "{heard:?}");
    rig.finish();
}

#[test]
fn more_messages_per_second_than_allowed_wait_until_they_are_worked_off() {
    let mut rig = Rig::with(|settings| (settings.messages_per_second, settings.forwards) = (3, false));
    rig.now = Tick(5_000_000);
    let key = rig.open();
    let burst: Vec<u8> = (1..=8).flat_map(|id| send_frame(false, 1, id, "x")).collect();
    rig.bytes(key, &burst);
    assert_eq!(rig.hear(key).len(), 8, "what was read is taken");
    assert!(rig.shard.is_paused(key));
    assert_eq!(rig.stats().rate_pauses.get(), 1);
    rig.advance(1_900);
    assert!(rig.shard.is_paused(key), "two seconds' worth came too much");
    rig.advance(100);
    assert!(!rig.shard.is_paused(key) && matches!(rig.outputs()[..], [Output::Resume { .. }]));
    rig.send(key, 1, 9, "x");
    assert!(!rig.shard.is_paused(key), "and the next is taken");
    rig.finish();
}

#[test]
fn repeats_do_not_count_as_messages_per_second() {
    let mut rig = Rig::with(|settings| settings.messages_per_second = 3);
    let key = rig.open();
    rig.send(key, 1, 1, "x");
    for _ in 0..50 {
        rig.send_dup(key, 1, 1, "x");
    }
    assert!(!rig.shard.is_paused(key));
    assert_eq!(rig.hear(key), [""; 0]);
    let forward = rig.forward();
    rig.answer(forward, "");
    rig.finish();
}

#[test]
fn a_burst_beyond_all_measure_closes_with_1008() {
    let mut rig = Rig::with(|settings| {
        (settings.messages_per_second, settings.forwards, settings.limits.messages_excess_max) = (3, false, 4);
    });
    let key = rig.open();
    let burst: Vec<u8> = (1..=8).flat_map(|id| send_frame(false, 1, id, "x")).collect();
    rig.bytes(key, &burst);
    let heard = rig.hear(key);
    assert_eq!((heard.len(), heard[7].as_str()), (8, "close 1008 too many messages per second"));
    assert_eq!((rig.stats().rate_closes.get(), rig.stats().closed_policy.get()), (1, 1));
    rig.finish();
}

#[test]
fn a_client_that_was_paused_for_its_rate_and_its_queue_waits_for_both() {
    let mut rig = Rig::with(|settings| (settings.messages_per_second, settings.forward_queue) = (1, 1));
    rig.now = Tick(5_000_000);
    let key = rig.open();
    rig.send(key, 1, 1, "x");
    rig.send(key, 1, 2, "x");
    assert!(rig.shard.is_paused(key));
    rig.advance(2_000);
    assert!(rig.shard.is_paused(key), "its queue is full");
    let forward = rig.forward();
    rig.answer(forward, "");
    assert!(!rig.shard.is_paused(key));
    let forward = rig.forward();
    rig.answer(forward, "");
    rig.finish();
}

#[test]
fn a_client_whose_queue_is_full_is_read_for_its_acknowledgements() {
    let mut rig = Rig::with(|settings| (settings.forward_queue, settings.forward_ahead_bytes) = (4, 3_000));
    let key = rig.open_in("news");
    let query = rig.call("news", QoS::AtLeastOnce, "does the client live?");
    rig.hear(key);
    let burst: Vec<u8> = (1..=9).flat_map(|id| send_frame(false, 1, id, &id.to_string())).collect();
    rig.bytes(key, &burst);
    assert!(!rig.shard.is_paused(key), "nine wait where four may");
    rig.ack(key, 1, "it does");
    assert_eq!(rig.replies(), [(query, crate::shard::tests::sent(1, "it does"))]);
    let mut id = 9;
    while !rig.shard.is_paused(key) {
        id += 1;
        rig.send(key, 1, id, &id.to_string());
    }
    assert!((12..40).contains(&id), "{id} messages fill 3,000 bytes of memory");
    assert_eq!(rig.stats().pauses.get(), 1);
    for expected in 1..=id {
        let forward = rig.forward();
        assert_eq!(forward.body, expected.to_string().as_bytes(), "in the order in which they came");
        rig.answer(forward, "");
    }
    assert!(!rig.shard.is_paused(key));
    assert_eq!(rig.hear(key).len(), usize::from(id));
    rig.finish();
}

#[test]
fn twice_the_workers_budget_pauses_whoever_adds_to_it() {
    let mut rig = Rig::with(|settings| (settings.forward_queue_bytes, settings.forward_ahead_bytes) = (3_000, 1 << 20));
    let (one, two) = (rig.open(), rig.open());
    let mut id = 0;
    while !rig.shard.is_paused(one) {
        id += 1;
        rig.send(one, 1, id, &"x".repeat(900));
    }
    assert_eq!(id, 6);
    rig.send(two, 1, 1, "x");
    assert!(rig.shard.is_paused(two));
    let mut forwards = rig.forwards();
    while let Some(forward) = forwards.pop() {
        rig.answer(forward, "");
        forwards.extend(rig.forwards());
    }
    assert!(!rig.shard.is_paused(one) && !rig.shard.is_paused(two));
    assert_eq!(rig.stats().forward_queue_bytes.get(), 0);
    rig.finish();
}

#[test]
fn a_queue_costs_what_its_entries_take_in_memory() {
    let mut rig = Rig::new();
    let key = rig.open();
    rig.send(key, 1, 1, "");
    rig.send(key, 1, 2, "");
    let memory = rig.stats().forward_queue_bytes.get();
    assert!(memory >= 2 * 100, "{memory} bytes for two messages without a body");
    for _ in 0..2 {
        let forward = rig.forward();
        rig.answer(forward, "");
    }
    rig.finish();
}
