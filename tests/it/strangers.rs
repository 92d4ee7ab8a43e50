//! What somebody costs who is neither a client nor a caller.

use std::time::Instant;

use crate::harness::call::signed_target;
use crate::harness::http::Wire;
use crate::harness::metrics::read;
use crate::harness::{Backend, Setup, TIMEOUT, eventually};

#[test]
fn bodies_of_all_callers_together_are_bounded() {
    let backend = Backend::start();
    let setup = Setup::of(&backend).set("workers", "1").set("api_body_max", "100000");
    let server = setup.set("bodies_bytes_max", "250000").start();
    let begin = || {
        let mut wire = Wire::connect(server.addr());
        let target = signed_target("/send/", &[("channel", "all"), ("qos", "0")]);
        let head =
            format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\nExpect: 100-continue\r\n\r\n");
        wire.write(head.as_bytes());
        let status = wire.response(Instant::now() + TIMEOUT).expect("an answer to the head");
        (wire, status)
    };
    let mut callers: Vec<_> = (0..2).map(|_| begin()).collect();
    assert!(callers.iter().all(|(_, response)| response.status == 100));
    let (_, refused) = begin();
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("2")));
    assert_eq!(read(server.addr())["rainbow_bodies_refused_total"], 1.0);
    let (wire, _) = &mut callers[0];
    wire.write(&[b'x'; 100_000]);
    assert_eq!(wire.response(Instant::now() + TIMEOUT).expect("carried out").status, 200);
    assert_eq!(begin().1.status, 100, "the room is free again");
    // A caller that goes in the middle of its body gives its room back.
    callers.clear();
    let (_, next) = eventually("the room is free", || Some(begin()).filter(|(_, response)| response.status == 100));
    assert_eq!(next.status, 100);
}
