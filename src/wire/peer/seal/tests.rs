//! Strangers, wrong keys and names, old, repeated and damaged datagrams.

use super::*;
use proptest::prelude::*;

const KEY: [u8; 32] = [7; 32];
const A: Generation = Generation(0xA);
const B: Generation = Generation(0xB);
const NOW: u64 = 1_800_000_000;

fn sealer() -> Sealer {
    Sealer::new(&KEY, "demo", A, [1; 12])
}

fn opener() -> Opener {
    Opener::new(&KEY, "demo", B)
}

#[test]
fn a_datagram_of_the_cluster_is_opened_once() {
    let (mut sealer, mut opener) = (sealer(), opener());
    let datagram = sealer.seal(b"ping", NOW).expect("short");
    assert_eq!(datagram.len(), HEAD_BYTES + 4 + TAG_BYTES);
    assert_eq!(opener.open(&datagram, NOW + 5), Ok(Opened { sender: A, plain: b"ping".to_vec() }));
    assert_eq!(opener.open(&datagram, NOW + 5), Err(Rejected::Replayed));
    assert_eq!(Opener::new(&KEY, "demo", A).open(&datagram, NOW), Err(Rejected::Own));
}

#[test]
fn a_strangers_datagram_is_refused_before_it_is_decoded() {
    let mut opener = opener();
    let mut of = |key: [u8; 32], name: &str, sent: u64| {
        let datagram = Sealer::new(&key, name, A, [1; 12]).seal(b"ping", sent).expect("short");
        opener.open(&datagram, NOW)
    };
    assert_eq!(of([8; 32], "demo", NOW), Err(Rejected::Forged), "another key");
    assert_eq!(of(KEY, "demo2", NOW), Err(Rejected::Forged), "another cluster");
    assert_eq!(of(KEY, "demo", NOW - 61), Err(Rejected::Stale { sender: A, by_s: 61 }));
    assert_eq!(of(KEY, "demo", NOW + 61), Err(Rejected::Stale { sender: A, by_s: -61 }));
    assert!(of(KEY, "demo", NOW - 60).is_ok());
    let datagram = sealer().seal(&[0; PLAIN_BYTES_MAX], NOW).expect("just short enough");
    assert_eq!(datagram.len(), DATAGRAM_BYTES_MAX);
    assert!(opener.open(&[&datagram[..], &[0]].concat(), NOW) == Err(Rejected::TooLong));
    assert_eq!(sealer().seal(&[0; PLAIN_BYTES_MAX + 1], NOW), None);
    assert_eq!(opener.open(b"{\"msgtype\":\"online\"}", NOW), Err(Rejected::Foreign));
    assert_eq!(opener.open(&[b'R'; 60], NOW), Err(Rejected::Version(b'R')));
}

#[test]
fn no_bit_of_a_datagram_may_change() {
    let datagram = sealer().seal(b"ping", NOW).expect("short");
    for bit in 0..datagram.len() * 8 {
        let mut damaged = datagram.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(opener().open(&damaged, NOW).is_err(), "bit {bit}");
    }
    assert!((0..datagram.len()).all(|length| opener().open(&datagram[..length], NOW).is_err()));
}

#[test]
fn clocks_an_hour_apart_are_corrected_by_a_link() {
    let (mut sealer, mut opener) = (sealer(), opener());
    let theirs = NOW + 3600;
    let datagram = sealer.seal(b"ping", theirs).expect("short");
    assert_eq!(opener.open(&datagram, NOW), Err(Rejected::Stale { sender: A, by_s: -3600 }));
    opener.learn_clock(A, theirs, NOW);
    assert!(opener.open(&datagram, NOW).is_ok());
    let old = sealer.seal(b"ping", theirs - 61).expect("short");
    assert_eq!(opener.open(&old, NOW), Err(Rejected::Stale { sender: A, by_s: 61 }), "a minute of its own clock");
}

#[test]
fn overtaken_datagrams_are_opened_and_ancient_ones_are_not() {
    let (mut sealer, mut opener) = (sealer(), opener());
    let datagrams: Vec<Vec<u8>> = (0..70).map(|_| sealer.seal(b"x", NOW).expect("short")).collect();
    assert!(opener.open(&datagrams[69], NOW).is_ok());
    assert!(opener.open(&datagrams[6], NOW).is_ok(), "63 behind");
    assert_eq!(opener.open(&datagrams[5], NOW), Err(Rejected::Replayed), "64 behind");
    assert_eq!(opener.open(&datagrams[6], NOW), Err(Rejected::Replayed));
}

#[test]
fn what_is_remembered_of_senders_is_bounded() {
    let mut opener = opener();
    for generation in 0..2 * SENDERS_MAX as u32 {
        let generation = Generation(generation + 100);
        let datagram = Sealer::new(&KEY, "demo", generation, [1; 12]).seal(b"x", NOW).expect("short");
        assert!(opener.open(&datagram, NOW + u64::from(generation.0) / 100).is_ok());
        opener.learn_clock(generation, NOW, NOW);
    }
    assert_eq!((opener.windows.len(), opener.ahead_s.len()), (SENDERS_MAX, SENDERS_MAX));
}

proptest! {
    #[test]
    fn a_window_takes_each_count_at_most_once(counts in prop::collection::vec(1_u64..200, 0..200)) {
        let (mut window, mut taken) = (Window::default(), std::collections::BTreeSet::new());
        for count in counts {
            let is_near = count + 64 > window.highest;
            prop_assert_eq!(window.take(count), taken.insert(count) && is_near);
        }
    }
}
