//! Makes a frame that shows a fault smaller, so that people see why.

/// The smallest frame found for which `fails` still holds: tail bytes
/// dropped while that works, then runs of bytes set to zero, ever shorter
/// ones. Never shorter than `least_len`; the frame handed in has to fail.
pub fn shrink(frame: &[u8], least_len: usize, mut fails: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
    let mut best = frame.to_vec();
    let mut step = best.len() / 2;
    while step > 0 {
        let len = best.len().saturating_sub(step);
        if len >= least_len && fails(&best[..len]) {
            best.truncate(len);
        } else {
            step /= 2;
        }
    }
    for run in [256, 64, 16, 4, 1] {
        for at in (0..best.len()).step_by(run) {
            let end = best.len().min(at + run);
            let bytes = best[at..end].to_vec();
            best[at..end].fill(0);
            if bytes != best[at..end] && !fails(&best) {
                best[at..end].copy_from_slice(&bytes);
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_fault_needs_is_left() {
        let frame: Vec<u8> = (1..=200).collect();
        let fails = |frame: &[u8]| frame.len() > 20 && frame[7] == 8;
        let mut expected = vec![0; 21];
        expected[7] = 8;
        assert_eq!(shrink(&frame, 14, fails), expected);
    }

    #[test]
    fn frame_stays_as_long_as_the_kernel_takes() {
        assert_eq!(shrink(&[1; 60], 14, |_| true), [0; 14]);
    }
}
