//! The first packet for a client of `rainbow.2`: a SEND of QoS 0 and type 65535 that says what the connection is
//! (PROTOCOL.md, section 8). Called when a connection opens, with a session or without.

use super::command::SessionId;
use super::connection::downlink::Downlinks;
use super::connection::table::Table;
use super::connection::uplink::RESERVED_TYPE;
use super::context::Context;
use super::message::Message;
use crate::base::id::ConnIndex;
use crate::wire::packet::QoS;

/// The session that the connection was attached to.
pub struct Attached<'a> {
    pub name: &'a str,
    pub id: SessionId,
    pub resumed: bool,
    pub waiting: u32,
}

/// Greets, unless the connection was closed while it opened.
pub fn greet(
    table: &mut Table,
    downlinks: &mut Downlinks,
    conn: ConnIndex,
    attached: Option<Attached<'_>>,
    cx: &mut Context<'_>,
) {
    if !table.conn(conn).is_open() {
        return;
    }
    table.set_greets(conn);
    let body = body(table, conn, attached, cx);
    let greeting = Message::encode(QoS::AtMostOnce, RESERVED_TYPE, body.as_bytes(), cx.scratch);
    let greeting = cx.messages.insert(greeting);
    downlinks.deliver_qos0(table, conn, &greeting, cx);
    cx.messages.release(greeting);
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
