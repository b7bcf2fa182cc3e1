//! Frames as text, the way `balancer trace --hex` takes them.

use std::fmt::Write;

/// Two digits a byte, nothing in between.
pub fn hex(frame: &[u8]) -> String {
    let mut text = String::with_capacity(frame.len() * 2);
    for byte in frame {
        write!(text, "{byte:02x}").expect("a string takes all");
    }
    text
}

/// Reads what [`hex`] printed; blanks are skipped. `None` if it is no hex.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|digit| !digit.is_whitespace())
        .map(|digit| Some(digit.to_digit(16)? as u8))
        .collect::<Option<_>>()?;
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    Some(
        digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_comes_back_as_the_same_bytes() {
        assert_eq!(hex(&[0, 0xab, 0xff]), "00abff");
        assert_eq!(unhex("00ab ff"), Some(vec![0, 0xab, 0xff]));
    }

    #[test]
    fn half_a_byte_and_other_letters_are_refused() {
        assert_eq!(unhex("00a"), None);
        assert_eq!(unhex("0x00"), None);
    }
}
