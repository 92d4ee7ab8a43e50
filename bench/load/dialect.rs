//! How a server is spoken to: Rainbow's own packets (the floors know no more than their look), nchan's bare messages, MQTT.
//!
//! The same work is done in each: subscribe, publish, receive, acknowledge. To add a peer: its config in `bench/peers/`, its
//! command in `target.rs`, and here what differs.

use std::io::Write;

use crate::api::{self, Answer};
use crate::ws::{self, Packet};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Rainbow,
    Nchan,
    Mqtt,
}

impl Dialect {
    pub fn upgrade_request(self, who: u32, channels: &str) -> String {
        let (path, more) = match self {
            Dialect::Rainbow => {
                (format!("/connect/?chan={channels}"), format!("X-DEVICEID: d{who}\r\nX-CLIENT-OS: bench\r\n"))
            }
            Dialect::Nchan => (format!("/sub?id={channels}"), String::new()),
            Dialect::Mqtt => ("/mqtt".into(), "Sec-WebSocket-Protocol: mqtt\r\n".into()),
        };
        format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n{more}\r\n",
            ws::KEY
        )
    }

    /// What a client says first, as frames; empty when the upgrade was all.
    pub fn hello(self, who: u32, channel: &str) -> Vec<u8> {
        let mut frames = Vec::new();
        if self == Dialect::Mqtt {
            let name = format!("bench{who}");
            // MQTT 3.1.1, section 3.1: clean session, no keep-alive.
            let connect = [&[0, 4][..], b"MQTT", &[4, 2, 0, 0], &length16(&name), name.as_bytes()].concat();
            put_mqtt(&mut frames, MQTT_CONNECT, &[&connect]);
            if !channel.is_empty() {
                put_mqtt(&mut frames, MQTT_SUBSCRIBE, &[&[0, 1], &length16(channel), channel.as_bytes(), &[1]]);
            }
        }
        frames
    }

    /// Whether this message ends the greeting of a client of `channel`.
    pub fn is_welcome(self, channel: &str, payload: &[u8]) -> bool {
        let last = if channel.is_empty() { MQTT_CONNACK } else { MQTT_SUBACK };
        payload.first() == Some(&last) && payload.last().is_some_and(|&code| code < 0x80)
    }

    /// Whether messages are published by HTTP calls; else by a client that subscribes to nothing.
    pub fn publishes_by_http(self) -> bool {
        self != Dialect::Mqtt
    }

    /// Appends what publishes a message: an HTTP request, or a frame. `nonce` differs from call to call.
    pub fn publish(self, call: &api::Send<'_>, nonce: u64, out: &mut Vec<u8>) {
        let api::Send { channel, qos, body, .. } = call;
        match self {
            Dialect::Rainbow => call.write(nonce, out),
            Dialect::Nchan => {
                write!(
                    out,
                    "POST /pub?id={channel} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                )
                .expect("a Vec takes it");
                out.extend_from_slice(body);
            }
            Dialect::Mqtt => {
                let id = ((nonce % 65_535) as u16 + 1).to_be_bytes();
                let id: &[u8] = if *qos > 0 { &id } else { &[] };
                put_mqtt(out, MQTT_PUBLISH | qos << 1, &[&length16(channel), channel.as_bytes(), id, body]);
            }
        }
    }

    /// Checks the answer to a publishing call; `connections` is how many must have acknowledged, where the answer tells.
    pub fn check(self, answer: &Answer<'_>, connections: Option<u64>) -> Result<(), String> {
        match self {
            Dialect::Rainbow => answer.check(connections),
            _ if (200..300).contains(&answer.status) => Ok(()),
            _ => Err(format!("publishing was answered {}", answer.status)),
        }
    }

    /// The body of a message to a client; what acknowledges it is appended to `out`. `None` for what carries no message.
    pub fn receive<'a>(self, payload: &'a [u8], out: &mut Vec<u8>) -> Result<Option<&'a [u8]>, String> {
        match self {
            Dialect::Rainbow => receive_rainbow(payload, out),
            Dialect::Nchan => Ok(Some(payload)),
            Dialect::Mqtt => receive_mqtt(payload, out),
        }
    }
}

fn receive_rainbow<'a>(payload: &'a [u8], out: &mut Vec<u8>) -> Result<Option<&'a [u8]>, String> {
    let packet = Packet::parse(payload)?;
    match (packet.command, packet.qos) {
        (ws::SEND, 0) => {}
        (ws::SEND, 1) => ws::put_answer(out, ws::ACK, packet.id),
        (ws::SEND, 2) => ws::put_answer(out, ws::REC, packet.id),
        (ws::REL, _) => {
            ws::put_answer(out, ws::COM, packet.id);
            return Ok(None);
        }
        (command, qos) => return Err(format!("command {command} with QoS {qos} to a client")),
    }
    Ok(Some(packet.body))
}

fn receive_mqtt<'a>(payload: &'a [u8], out: &mut Vec<u8>) -> Result<Option<&'a [u8]>, String> {
    let wrong = || format!("not one MQTT packet: {:02x?}", &payload[..payload.len().min(8)]);
    let first = *payload.first().ok_or_else(wrong)?;
    // Section 2.2.3: seven bits per byte, low ones first.
    let mut length = 0;
    let mut at = 1;
    loop {
        let byte = *payload.get(at).filter(|_| at < 5).ok_or_else(wrong)?;
        length |= usize::from(byte & 0x7F) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let rest = payload.get(at..).filter(|rest| rest.len() == length).ok_or_else(wrong)?;
    match first & 0xF0 {
        MQTT_PUBLISH => {
            let (topic, rest) = rest.split_first_chunk().ok_or_else(wrong)?;
            let rest = rest.get(usize::from(u16::from_be_bytes(*topic))..).ok_or_else(wrong)?;
            if first & 6 == 0 {
                return Ok(Some(rest));
            }
            let (id, body) = rest.split_at_checked(2).ok_or_else(wrong)?;
            put_mqtt(out, MQTT_PUBACK, &[id]);
            Ok(Some(body))
        }
        MQTT_PUBACK => Ok(None),
        _ => Err(wrong()),
    }
}

/// Appends an MQTT packet as one frame.
fn put_mqtt(out: &mut Vec<u8>, first: u8, parts: &[&[u8]]) {
    let mut length: usize = parts.iter().map(|part| part.len()).sum();
    let mut head = vec![first];
    while length > 127 {
        head.push(0x80 | (length & 0x7F) as u8);
        length >>= 7;
    }
    head.push(length as u8);
    let mut whole = vec![&head[..]];
    whole.extend_from_slice(parts);
    ws::put_frame(out, ws::BINARY, &whole);
}

fn length16(text: &str) -> [u8; 2] {
    (text.len() as u16).to_be_bytes()
}

const MQTT_CONNECT: u8 = 0x10;
const MQTT_CONNACK: u8 = 0x20;
const MQTT_PUBLISH: u8 = 0x30;
const MQTT_PUBACK: u8 = 0x40;
const MQTT_SUBSCRIBE: u8 = 0x82;
const MQTT_SUBACK: u8 = 0x90;

/// Run by `cargo test --benches`.
pub fn self_test() {
    let body = [7; 300];
    let call = api::Send { channel: "room", qos: 1, timeout_s: 1, body: &body };
    let (mut bytes, mut out) = (Vec::new(), Vec::new());
    Dialect::Mqtt.publish(&call, 65_534, &mut bytes);
    let frame = ws::frame_at(&mut bytes, 0).unwrap().unwrap();
    let packet = &bytes[frame.payload];
    assert_eq!(Dialect::Mqtt.receive(packet, &mut out), Ok(Some(&body[..])));
    let frame = ws::frame_at(&mut out, 0).unwrap().unwrap();
    assert_eq!(out[frame.payload], [MQTT_PUBACK, 2, 0xFF, 0xFF]);
    assert!(Dialect::Mqtt.receive(&packet[..packet.len() - 1], &mut Vec::new()).is_err());
    assert!(
        Dialect::Mqtt.is_welcome("room", &[0x90, 3, 0, 1, 1]) && !Dialect::Mqtt.is_welcome("room", &[0x20, 2, 0, 0])
    );
}
