//! Damage to frames: what links, hosts and attackers do to them.

use super::packet::NOISE;
use super::rng::Rng;

/// Bytes at the front where headers lie and damage matters most.
const HEADERS: usize = 96;

/// Damages a frame in one to three ways. It stays between `least_len` and
/// `most_len` bytes long.
pub fn mutate(rng: &mut Rng, frame: &mut Vec<u8>, least_len: usize, most_len: usize) {
    for _ in 0..=rng.below(3) {
        match rng.below(5) {
            0 => {
                let at = place(rng, frame);
                frame[at] ^= 1 << rng.below(8);
            }
            1 => {
                let at = place(rng, frame);
                // Limits find more than random values do.
                frame[at] = match rng.below(4) {
                    0 => 0,
                    1 => 0xff,
                    2 => frame[at].wrapping_add(1),
                    _ => rng.byte(),
                };
            }
            2 => frame.truncate(least_len.max(rng.below(frame.len() + 1))),
            3 => frame.truncate(least_len.max(rng.below(HEADERS))),
            _ => {
                let more = rng.below(64).min(most_len.saturating_sub(frame.len()));
                let from = rng.below(NOISE.len() - more);
                frame.extend_from_slice(&NOISE[from..from + more]);
            }
        }
    }
}

/// Mostly in the headers.
fn place(rng: &mut Rng, frame: &[u8]) -> usize {
    let limit = if rng.chance(90) {
        frame.len().min(HEADERS)
    } else {
        frame.len()
    };
    rng.below(limit)
}
