//! Datagrams between nodes: what was not sealed with the key is refused, and what was sealed may still be nonsense.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rainbow::base::id::Generation;
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
    }
});

const KEY: [u8; 32] = [0x5A; 32];
const NOW: u64 = 1_800_000_000;
