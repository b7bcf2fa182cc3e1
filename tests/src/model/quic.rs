//! The model's reading of a QUIC packet (RFC 9000, 17; RFC 9369).

/// What a datagram says of its server: nothing, or its id.
///
/// A short header's connection id begins at the second byte; a long header's
/// is preceded by its length, and only in Handshake packets did the server
/// choose it. A datagram that ends within eight bytes of where the server id
/// begins is no QUIC packet of ours.
pub fn server_id(datagram: &[u8], offset: usize, len: usize) -> Option<[u8; 8]> {
    let first = *datagram.first()?;
    let connection_id = if first < 0x80 {
        &datagram[1..]
    } else {
        let version: [u8; 4] = datagram.get(1..5)?.try_into().ok()?;
        let handshake = match u32::from_be_bytes(version) {
            1 => 0b10,
            0x6b33_43cf => 0b11,
            _ => return None,
        };
        let has = usize::from(*datagram.get(5)?);
        if first / 16 % 4 != handshake || has < offset + len {
            return None;
        }
        &datagram[6..]
    };
    let behind: [u8; 8] = connection_id.get(offset..offset + 8)?.try_into().ok()?;
    let mut id = [0; 8];
    id[..len].copy_from_slice(&behind[..len]);
    Some(id)
}
