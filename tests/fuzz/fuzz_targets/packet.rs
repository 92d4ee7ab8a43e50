//! A message as a packet: what decodes must encode to a packet that means the same, in as many bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rainbow::wire::packet::{MessageId, Packet, QoS, patch_send};

fuzz_target!(|message: &[u8]| {
    let packet = match Packet::decode(message) {
        Ok(packet) => packet,
        Err(error) => return assert!((1..=123).contains(&error.reason().len())),
    };
    let mut encoded = Vec::new();
    packet.encode_into(&mut encoded);
    assert_eq!((encoded.len(), packet.encoded_len()), (message.len(), message.len()));
    assert_eq!(Packet::decode(&encoded), Ok(packet));
    if let Packet::Send { qos, id, .. } = packet {
        assert_eq!(id.is_some(), qos != QoS::AtMostOnce);
        assert!(id.is_none_or(MessageId::is_valid));
        check_patch(packet, &mut encoded);
    }
});

/// The patched bytes are the packet with another id, and nothing else is touched.
fn check_patch(packet: Packet<'_>, encoded: &mut [u8]) {
    let Packet::Send { dup, qos, message_type, id: Some(id), body } = packet else { return };
    let (id, dup) = (id.next(), !dup);
    patch_send(encoded, id, dup);
    assert_eq!(Packet::decode(encoded), Ok(Packet::Send { dup, qos, message_type, id: Some(id), body }));
}
