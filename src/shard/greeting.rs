//! The first packet for a client of `rainbow.2`: a SEND of QoS 0 and type 65535 that says what the connection is
//! (PROTOCOL.md, section 8). Called when a connection opens, with a session or without.

use super::command::SessionId;
use super::connection::outbox::Item;
use super::connection::table::Table;
use super::connection::uplink::RESERVED_TYPE;
use super::context::Context;
use crate::base::id::ConnIndex;
use crate::wire::packet::{Packet, QoS};

/// The session that the connection was attached to.
pub struct Attached<'a> {
    pub name: &'a str,
    pub id: SessionId,
    pub resumed: bool,
    pub waiting: u32,
}

/// Greets, unless the connection was closed while it opened. The client waits for this packet: other than messages of
/// QoS 0 it is not dropped for room.
pub fn greet(table: &mut Table, conn: ConnIndex, attached: Option<Attached<'_>>, cx: &mut Context<'_>) {
    if !table.conn(conn).is_open() {
        return;
    }
    let body = body(table, conn, attached, cx);
    let (qos, message_type, body) = (QoS::AtMostOnce, RESERVED_TYPE, body.as_bytes());
    let mut packet = Vec::new();
    Packet::Send { dup: false, qos, message_type, id: None, body }.encode_into(&mut packet);
    table.push_unbounded(conn, Item::SharedPacket(packet.into()));
}

fn body(table: &Table, conn: ConnIndex, attached: Option<Attached<'_>>, cx: &Context<'_>) -> String {
    let settings = cx.settings;
    let (name, id) = attached.as_ref().map(|attached| (attached.name, format!("{:032x}", attached.id.0))).unzip();
    serde_json::json!({
        "session": name,
        "session_id": id,
        "resumed": attached.as_ref().is_some_and(|attached| attached.resumed),
        "waiting": attached.as_ref().map_or(0, |attached| attached.waiting),
        "identity": table.details(conn).identity().to_string(),
        "heartbeat": settings.ping_interval_ms.div_ceil(1000).max(1),
        "message_bytes_max": settings.message_bytes_max,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use crate::base::id::ConnKey;
    use crate::shard::Input;
    use crate::shard::settings::Settings;
    use crate::shard::tests::{Rig, client_frame};
    use crate::wire::packet::{PING, QoS};
    use crate::wire::ws::frame::Opcode;
    use std::rc::Rc;

    fn reserved(change: impl FnOnce(&mut Settings)) -> (Rig, ConnKey) {
        let mut rig = Rig::with(change);
        let (key, _) = rig.reserve();
        (rig, key)
    }

    fn open(rig: &mut Rig, key: ConnKey) {
        rig.input(Input::Opened { key, response: Rc::from(&b""[..]), greets: true });
    }

    #[test]
    fn a_client_of_rainbow_2_is_greeted_and_its_ping_is_answered() {
        let mut rig = Rig::new();
        let (key, identity) = rig.reserve();
        open(&mut rig, key);
        let greeting = rig.hear(key)[0].clone();
        let parts = [r#"\"session\":null"#, r#"\"heartbeat\":60"#, r#"\"message_bytes_max\":1000"#];
        for part in parts.into_iter().chain([&*identity.to_string()]) {
            assert!(greeting.contains(part), "{part} in {greeting}");
        }
        rig.bytes(key, &client_frame(Opcode::Binary, &PING));
        assert_eq!(rig.take_bytes(key, usize::MAX), [0x82, 1, 0x70]);
        rig.finish();
    }

    #[test]
    fn a_ping_packet_of_a_2014_client_is_a_violation() {
        let mut rig = Rig::new();
        let key = rig.open();
        rig.bytes(key, &client_frame(Opcode::Binary, &PING));
        assert_eq!(rig.hear(key), ["close 1002 unknown command 6"]);
        rig.finish();
    }

    #[test]
    fn the_greeting_comes_first_and_is_not_dropped_for_room() {
        for outbox_bytes_max in [50, 500] {
            let (mut rig, key) = reserved(|settings| settings.outbox_bytes_max = outbox_bytes_max);
            rig.input(Input::Subscribe { key, channel: "news" });
            open(&mut rig, key);
            for _ in 0..100 {
                rig.call("news", QoS::AtMostOnce, "much to read");
            }
            let heard = rig.hear(key);
            assert!(heard[0].contains("heartbeat"), "{heard:?}");
            rig.finish();
        }
    }

    #[test]
    fn ping_packets_that_nobody_reads_the_answers_of_cost_one_pong() {
        let (mut rig, key) = reserved(|_| {});
        open(&mut rig, key);
        assert_eq!(rig.hear(key).len(), 1);
        for _ in 0..10_000 {
            rig.bytes(key, &client_frame(Opcode::Binary, &PING));
        }
        assert_eq!(rig.stats().closed_too_slow.get(), 0);
        assert_eq!(rig.take_bytes(key, 1), [0x82]);
        rig.bytes(key, &client_frame(Opcode::Binary, &PING));
        assert_eq!(rig.take_bytes(key, usize::MAX), [1, 0x70, 0x82, 1, 0x70], "what is begun answers an earlier one");
        rig.finish();
    }
}
