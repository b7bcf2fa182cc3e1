//! Which backend a QUIC packet names.
//!
//! A server of a QUIC service writes its id into the connection ids that it
//! gives out (plain text form of draft-ietf-quic-load-balancers: first octet,
//! server id, rest), so that a connection keeps its server when the client's
//! address or port changes. Packets whose connection id the client made up
//! itself say nothing: Initial and 0-RTT go by the flow's hash.
//!
//! ```text
//! short header  0.......                         connection id at byte 1
//! long header   1.TT.... version(4) length(1)    connection id at byte 6
//! ```

use crate::parse::Frame;

const LONG_HEADER: u8 = 0x80;
const TYPE_AT: u8 = 4;
/// RFC 9000.
const VERSION_1: u32 = 1;
/// RFC 9369; its packet types are those of version 1 plus one.
const VERSION_2: u32 = 0x6b33_43cf;
const HANDSHAKE: u8 = 2;

/// Longest server id, in bytes.
pub const MAX_SERVER_ID: usize = 8;

/// What a packet says of its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// Nothing: Initial, 0-RTT, Retry, a version we do not know, or a
    /// connection id too short for a server id.
    Unnamed,
    /// Its id, zeros behind it.
    Id([u8; MAX_SERVER_ID]),
}

/// Reads the server id of the UDP payload between `at` and `end`, both
/// offsets in the frame.
///
/// It stands `offset` bytes (0 to 19) into the connection id and has `len`
/// bytes (1 to 8). What follows the connection id of a real packet is longer
/// than 8 bytes (RFC 9001, 5.4.2), so those are read at once: a payload that
/// ends before them names nobody.
#[inline(always)]
pub fn server(frame: &(impl Frame + ?Sized), at: usize, end: usize, offset: u8, len: u8) -> Server {
    // Two, as the verifier follows no check of a single byte.
    let Some([first, _]) = frame.bytes(at) else {
        return Server::Unnamed;
    };
    let connection_id = if first & LONG_HEADER == 0 {
        at + 1
    } else {
        match long_header(frame, at, first, offset + len) {
            Some(connection_id) => connection_id,
            None => return Server::Unnamed,
        }
    };
    let id_at = connection_id + usize::from(offset & 31);
    let Some(bytes) = frame.bytes::<MAX_SERVER_ID>(id_at) else {
        return Server::Unnamed;
    };
    if id_at + MAX_SERVER_ID > end {
        return Server::Unnamed;
    }
    let unused = MAX_SERVER_ID as u32 * 8 - u32::from(len) * 8;
    let id = u64::from_le_bytes(bytes) & u64::MAX >> (unused & 63);
    Server::Id(id.to_le_bytes())
}

/// Where the connection id of a long header begins, if the server chose it
/// and it is long enough.
#[inline(always)]
fn long_header(frame: &(impl Frame + ?Sized), at: usize, first: u8, needed: u8) -> Option<usize> {
    let [a, b, c, d, connection_id_len] = frame.bytes(at + 1)?;
    let kind = first >> TYPE_AT & 3;
    let kind = match u32::from_be_bytes([a, b, c, d]) {
        VERSION_1 => kind,
        VERSION_2 => kind.wrapping_sub(1) & 3,
        _ => return None,
    };
    (kind == HANDSHAKE && connection_id_len >= needed).then_some(at + 6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    const AT: usize = 3;

    fn short(connection_id: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; AT];
        frame.push(0x40);
        frame.extend(connection_id);
        frame.extend([0xee; 20]);
        frame
    }

    fn long(version: u32, kind: u8, connection_id: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; AT];
        frame.push(0xc0 | kind << 4);
        frame.extend(version.to_be_bytes());
        frame.push(connection_id.len() as u8);
        frame.extend(connection_id);
        frame.extend([0xee; 20]);
        frame
    }

    fn read(frame: &[u8], offset: u8, len: u8) -> Server {
        server(frame, AT, frame.len(), offset, len)
    }

    #[test]
    fn short_header_names_its_server_at_the_offset() {
        let frame = short(&[9, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(read(&frame, 1, 2), Server::Id([1, 2, 0, 0, 0, 0, 0, 0]));
        assert_eq!(read(&frame, 0, 8), Server::Id([9, 1, 2, 3, 4, 5, 6, 7]));
    }

    #[test]
    fn of_long_headers_only_handshake_names_its_server() {
        let id = [9, 1, 2, 3, 4, 5, 6, 7];
        for kind in 0..4 {
            let named = Server::Id([1, 2, 3, 0, 0, 0, 0, 0]);
            let expect = |is_handshake| if is_handshake { named } else { Server::Unnamed };
            assert_eq!(read(&long(1, kind, &id), 1, 3), expect(kind == 2));
            assert_eq!(read(&long(VERSION_2, kind, &id), 1, 3), expect(kind == 3));
            assert_eq!(read(&long(0, kind, &id), 1, 3), Server::Unnamed);
        }
    }

    #[test]
    fn what_is_too_short_for_an_id_names_nobody() {
        assert_eq!(read(&long(1, 2, &[1, 2, 3]), 1, 3), Server::Unnamed);
        let frame = short(&[1, 2, 3]);
        assert_eq!(server(frame.as_slice(), AT, AT + 9, 1, 2), Server::Unnamed);
        assert_eq!(read(&frame[..AT + 9], 1, 2), Server::Unnamed);
        assert_eq!(read(&frame[..AT], 1, 2), Server::Unnamed);
    }
}
