//! Datagrams between nodes: what was not sealed with the key is refused, and what was sealed may still be nonsense.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rainbow::base::id::{Generation, NodeId};
use rainbow::base::time::Tick;
use rainbow::cluster::membership::{Founding, Input, MEMBERS_MAX, Membership};
use rainbow::wire::peer::datagram::{Datagram, Node2014};
use rainbow::wire::peer::seal::{Opener, Sealer};

fuzz_target!(|bytes: &[u8]| {
    let mut opener = Opener::new(&KEY, "demo", Generation(1));
    assert!(opener.open(bytes, NOW).is_err(), "a stranger's datagram was opened");
    let _ = Node2014::recognise(bytes);
    let mut sealer = Sealer::new(&KEY, "demo", Generation(2), [0; 12]);
    let Some(sealed) = sealer.seal(bytes, NOW) else { return };
    let opened = opener.open(&sealed, NOW).expect("it is sealed with the key");
    assert_eq!(opened.plain, bytes);
    assert!(opener.open(&sealed, NOW).is_err(), "a repeat was opened");
    if let Some(datagram) = Datagram::decode(bytes) {
        assert_eq!(datagram.encode(), bytes);
        if let Datagram::Swim(message) = datagram {
            hear(message);
        }
    }
});

/// A member may say anything: it is counted or believed, within the limits.
fn hear(message: &[u8]) {
    let node = NodeId { generation: Generation(1), address: ([127, 0, 0, 1], 1984).into() };
    let mut membership = Membership::new(Founding { node, start: 7, seed: 7 }, Tick(0));
    for now in [0, 1, 5_000, 20_000] {
        membership.handle(Input::Swim(message), Tick(now));
        assert!(membership.next_tick() > Tick(now));
    }
    assert!(membership.peers().count() < MEMBERS_MAX);
    assert_eq!(membership.counts().timer_faults, 0);
}

const KEY: [u8; 32] = [0x5A; 32];
const NOW: u64 = 1_800_000_000;
