//! The model's reading of TCP options (RFC 9293, 3.1), and a lower MSS.

use super::forward::ones_complement_sum;
use super::parse::Flow;

/// The frame of a SYN with an MSS of `limit` at most. Eight options are looked
/// at, padding included.
pub fn clamp(frame: &[u8], flow: &Flow, limit: u16) -> Vec<u8> {
    let mut out = frame.to_vec();
    let tcp = flow.ip_at + flow.header_len;
    let end = tcp + usize::from(frame[tcp + 12] / 16) * 4;
    let mut at = tcp + 20;
    for _ in 0..8 {
        let Some(option) = frame[..end].get(at..at + 4) else {
            return out;
        };
        match (option[0], option[1]) {
            (2, 4) => {
                let mss = u16::from_be_bytes([option[2], option[3]]);
                if mss > limit {
                    let before = ones_complement_sum(&out[tcp..end]);
                    out[at + 2..at + 4].copy_from_slice(&limit.to_be_bytes());
                    let after = ones_complement_sum(&out[tcp..end]);
                    // What the checksum covers grew by that much.
                    let check = !u16::from_be_bytes([out[tcp + 16], out[tcp + 17]]);
                    let words = [check, !before, after].map(u16::to_be_bytes).concat();
                    let check = !ones_complement_sum(&words);
                    out[tcp + 16..tcp + 18].copy_from_slice(&check.to_be_bytes());
                }
                return out;
            }
            (1, _) => at += 1,
            (0, _) | (_, 0 | 1) => return out,
            (_, len) => at += usize::from(len),
        }
    }
    out
}
