//! What is in a datagram once it has been opened, and the broadcast of a node of 2014, which is not sealed.

use super::cursor::{Cursor, put_node};
use crate::base::id::NodeId;
use serde_json::Value;

/// A datagram's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram<'a> {
    /// A message of SWIM, as `cluster::membership` encodes it.
    Swim(&'a [u8]),
    /// "I am here": broadcast, as in 2014. A hint to send that node a SWIM message, nothing else.
    Online(NodeId),
}

impl<'a> Datagram<'a> {
    pub fn encode(self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Datagram::Swim(message) => {
                out.push(SWIM);
                out.extend_from_slice(message);
            }
            Datagram::Online(node) => {
                out.push(ONLINE);
                put_node(&mut out, node);
            }
        }
        out
    }

    /// `None` for what no node of this version sends.
    pub fn decode(plain: &'a [u8]) -> Option<Datagram<'a>> {
        let mut cursor = Cursor::new(plain);
        match cursor.u8()? {
            SWIM => Some(Datagram::Swim(cursor.rest())),
            ONLINE => {
                let node = cursor.node()?;
                cursor.end().map(|()| Datagram::Online(node))
            }
            _ => None,
        }
    }
}

/// A node of 2014: it cannot be a peer, but the operator should know that it is there.
#[derive(Debug, PartialEq, Eq)]
pub struct Node2014 {
    pub http_port: u16,
    pub cluster_name: String,
}

impl Node2014 {
    /// Recognises the JSON that nodes of 2014 broadcast. The name is cut to what a log should show.
    pub fn recognise(datagram: &[u8]) -> Option<Node2014> {
        if datagram.len() > BYTES_2014_MAX {
            return None;
        }
        let json: Value = serde_json::from_slice(datagram).ok()?;
        if !matches!(json.get("msgtype")?.as_str()?, "online" | "offline") || json.get("server_identity").is_none() {
            return None;
        }
        let http_port = json.get("port")?.as_u64()?.try_into().ok()?;
        let name = json.get("cluster_name").and_then(Value::as_str).unwrap_or_default();
        Some(Node2014 { http_port, cluster_name: name.chars().filter(|c| !c.is_control()).take(64).collect() })
    }
}

const SWIM: u8 = 1;
const ONLINE: u8 = 2;
const BYTES_2014_MAX: usize = 1400;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::Generation;
    use proptest::prelude::*;

    #[test]
    fn a_broadcast_of_2014_is_recognised() {
        let json = br#"{"msgtype":"online","port":1984,"server_identity":"ab12","cluster_name":"demo"}"#;
        assert_eq!(Node2014::recognise(json), Some(Node2014 { http_port: 1984, cluster_name: "demo".into() }));
        let others: [&[u8]; 4] = [b"{}", b"", b"[1]", br#"{"msgtype":"online","port":70000,"server_identity":"a"}"#];
        assert!(others.iter().all(|json| Node2014::recognise(json).is_none()));
        assert_eq!(Node2014::recognise(&[b'['; 1400]), None, "deep nesting");
    }

    proptest! {
        #[test]
        fn datagrams_survive_the_way(generation: u32, ip: std::net::IpAddr, port: u16, body: Vec<u8>) {
            let node = NodeId { generation: Generation(generation), address: (ip, port).into() };
            for datagram in [Datagram::Online(node), Datagram::Swim(&body)] {
                let encoded = datagram.encode();
                prop_assert_eq!(Datagram::decode(&encoded), Some(datagram));
            }
        }

        #[test]
        fn what_decodes_is_what_was_encoded(bytes in prop::collection::vec(0_u8..8, 0..40)) {
            if let Some(datagram) = Datagram::decode(&bytes) {
                prop_assert_eq!(datagram.encode(), bytes);
            }
        }
    }
}
