//! Reads numbers, addresses and nodes off the front of a slice. What is not there is `None`; nothing panics.

use crate::base::id::{Generation, NodeId};
use std::net::{IpAddr, SocketAddr};

/// The unread rest of a slice.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor(bytes)
    }

    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// `Some` when everything has been read.
    pub fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }

    pub fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub fn address(&mut self) -> Option<SocketAddr> {
        let ip = match self.u8()? {
            4 => IpAddr::from(self.array::<4>()?),
            6 => IpAddr::from(self.array::<16>()?),
            _ => return None,
        };
        Some(SocketAddr::new(ip, self.u16()?))
    }

    pub fn node(&mut self) -> Option<NodeId> {
        let generation = Generation(self.u32()?);
        Some(NodeId { generation, address: self.address()? })
    }
}

/// At most 19 bytes. The flow and scope of an IPv6 address mean something on one machine only, and are left out.
pub fn put_address(out: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend_from_slice(&ip.octets());
        }
    }
    out.extend_from_slice(&address.port().to_be_bytes());
}

/// At most 23 bytes.
pub fn put_node(out: &mut Vec<u8>, node: NodeId) {
    out.extend_from_slice(&node.generation.0.to_be_bytes());
    put_address(out, node.address);
}
