//! The PROXY protocol, versions 1 and 2 (haproxy.org/download/2.9/doc/proxy-protocol.txt): who the client behind a
//! proxy is, in front of the first byte of a connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A header that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// So many bytes; what follows is the client's.
    pub len: usize,
    /// `None`: the proxy speaks for itself (a health check), or does not know the client.
    pub source: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    #[error("no PROXY header at the beginning of the connection")]
    NoHeader,
    #[error("a PROXY header that is malformed or longer than {LEN_MAX} bytes")]
    Malformed,
}

/// Reads the header at the beginning of `bytes`; `None`: more bytes are needed. Never looks at more than `LEN_MAX`.
pub fn parse(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    if begins_like(bytes, SIGNATURE) {
        return if bytes.len() < SIGNATURE.len() { Ok(None) } else { parse_v2(bytes) };
    }
    if begins_like(bytes, b"PROXY ") {
        return parse_v1(bytes);
    }
    Err(ProxyError::NoHeader)
}

/// As far as there are bytes.
fn begins_like(bytes: &[u8], expected: &[u8]) -> bool {
    let len = bytes.len().min(expected.len());
    bytes[..len] == expected[..len]
}

/// `PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n`
fn parse_v1(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    let Some(end) = bytes.iter().take(V1_MAX).position(|byte| *byte == b'\n') else {
        return if bytes.len() < V1_MAX { Ok(None) } else { Err(ProxyError::Malformed) };
    };
    let header = bytes[..end].strip_suffix(b"\r").and_then(|header| std::str::from_utf8(header).ok());
    let mut words = header.ok_or(ProxyError::Malformed)?.split(' ').skip(1);
    let source = match words.next() {
        Some("UNKNOWN") => None,
        Some(family @ ("TCP4" | "TCP6")) => {
            let mut address = || words.next().and_then(|word| word.parse::<IpAddr>().ok());
            let (source, destination) = (address(), address());
            let fits = |address: &IpAddr| address.is_ipv4() == (family == "TCP4");
            let are_ports = words.by_ref().take(2).filter(|port| port.parse::<u16>().is_ok()).count() == 2;
            if !destination.is_some_and(|address| fits(&address)) || !are_ports || words.next().is_some() {
                return Err(ProxyError::Malformed);
            }
            Some(source.filter(fits).ok_or(ProxyError::Malformed)?)
        }
        _ => return Err(ProxyError::Malformed),
    };
    Ok(Some(ProxyHeader { len: end + 1, source }))
}

/// Signature, version and command, family, length, addresses, and TLVs, which are skipped.
fn parse_v2(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    let Some((fixed, rest)) = bytes.split_at_checked(V2_FIXED) else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if fixed[12] >> 4 != 2 || V2_FIXED + length > LEN_MAX {
        return Err(ProxyError::Malformed);
    }
    let Some(addresses) = rest.get(..length) else { return Ok(None) };
    let source = match (fixed[12] & 15, fixed[13] >> 4) {
        // LOCAL, and families without an address of the internet.
        (0, _) | (1, 0 | 3) => None,
        (1, 1) => {
            let bytes: [u8; 4] = addresses
                .get(..4)
                .filter(|_| length >= 12)
                .ok_or(ProxyError::Malformed)?
                .try_into()
                .expect("four bytes");
            Some(Ipv4Addr::from(bytes).into())
        }
        (1, 2) => {
            let bytes: [u8; 16] = addresses
                .get(..16)
                .filter(|_| length >= 36)
                .ok_or(ProxyError::Malformed)?
                .try_into()
                .expect("sixteen bytes");
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => return Err(ProxyError::Malformed),
    };
    Ok(Some(ProxyHeader { len: V2_FIXED + length, source }))
}

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED: usize = 16;
/// The longest of version 1, by its specification.
const V1_MAX: usize = 107;
/// A header of version 2 with room for TLVs. It comes in one piece and must fit into a first read.
pub const LEN_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([0x20 | command, family << 4 | 1]);
        header.extend((addresses.len() as u16).to_be_bytes());
        header.extend(addresses);
        header
    }

    fn source(bytes: &[u8]) -> Result<Option<String>, ProxyError> {
        let header = parse(bytes)?.expect("complete");
        assert_eq!(header.len, bytes.len());
        Ok(header.source.map(|source| source.to_string()))
    }

    #[test]
    fn version_1_names_the_client() {
        assert_eq!(source(b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n"), Ok(Some("192.0.2.1".into())));
        assert_eq!(source(b"PROXY TCP6 2001:db8::1 2001:db8::2 4711 443\r\n"), Ok(Some("2001:db8::1".into())));
        assert_eq!(source(b"PROXY UNKNOWN\r\n"), Ok(None));
        assert_eq!(source(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), Ok(None));
    }

    #[test]
    fn version_2_names_the_client() {
        let mut addresses = vec![192, 0, 2, 1, 198, 51, 100, 1, 0x12, 0x67, 1, 0xbb];
        assert_eq!(source(&v2(1, 1, &addresses)), Ok(Some("192.0.2.1".into())));
        addresses.extend([4, 0, 1, 0]);
        assert_eq!(source(&v2(1, 1, &addresses)), Ok(Some("192.0.2.1".into())), "TLVs are skipped");
        let mut addresses = [0; 36];
        addresses[..2].copy_from_slice(&[0x20, 1]);
        assert_eq!(source(&v2(1, 2, &addresses)), Ok(Some("2001::".into())));
        assert_eq!(source(&v2(0, 0, &[])), Ok(None), "a health check");
        assert_eq!(source(&v2(1, 3, &[0; 216])), Ok(None), "a UNIX socket");
    }

    #[test]
    fn what_is_none_or_malformed_is_refused() {
        assert_eq!(parse(b"GET / HTTP/1.1\r\n"), Err(ProxyError::NoHeader));
        for bad in [
            &b"PROXY TCP4 192.0.2.1 198.51.100.1 4711\r\n"[..],
            b"PROXY TCP4 2001:db8::1 198.51.100.1 4711 443\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443 x\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 99999\r\n",
            b"PROXY TCP5 192.0.2.1 198.51.100.1 4711 443\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\n",
            &[b"PROXY ".as_slice(), &[b'x'; 200]].concat(),
            &v2(1, 1, &[192, 0, 2, 1]),
            &v2(2, 1, &[0; 12]),
            &v2(1, 1, &[0; 2000]),
        ] {
            assert_eq!(parse(bad), Err(ProxyError::Malformed), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn a_header_may_come_byte_by_byte() {
        for header in [b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n".to_vec(), v2(1, 1, &[7; 12])] {
            for len in 0..header.len() {
                assert_eq!(parse(&header[..len]), Ok(None), "{len}");
            }
            let followed = [&header[..], b"GET / HTTP/1.1"].concat();
            assert_eq!(parse(&followed).map(|parsed| parsed.map(|parsed| parsed.len)), Ok(Some(header.len())));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes: Vec<u8>, kind in 0..3usize) {
            let start: &[u8] = [&b""[..], b"PROXY TCP4 ", SIGNATURE][kind];
            bytes.splice(0..0, start.iter().copied());
            if let Ok(Some(header)) = parse(&bytes) {
                prop_assert!(header.len <= bytes.len() && header.len <= LEN_MAX);
            }
        }
    }
}
