//! Where the frames come from: arguments, stdin or a capture.

use std::collections::VecDeque;
use std::fmt::Write;
use std::io::BufRead;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use super::capture::CaptureReader;

/// Longest line of stdin that is read: far more than a frame needs, and too
/// little to fill the memory.
const MAX_LINE_LEN: usize = 1 << 20;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Frame {
    /// Its bytes, from the Ethernet header on.
    pub(in crate::cli) bytes: Vec<u8>,
    /// How long it was on the wire.
    pub(super) original_len: usize,
    /// When it was captured, since 1970; zero if it was not.
    pub(super) timestamp: Duration,
}

impl Frame {
    fn made_up(bytes: Vec<u8>) -> Self {
        Self {
            original_len: bytes.len(),
            bytes,
            timestamp: Duration::ZERO,
        }
    }
}

/// What one `--hex` gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HexSource {
    /// Every line of stdin.
    Stdin,
    /// This frame.
    Frame(Vec<u8>),
}

/// Reads the value of `--hex`, for clap.
pub(super) fn hex_source(text: &str) -> Result<HexSource, String> {
    match text {
        "-" => Ok(HexSource::Stdin),
        _ => unhex(text).map(HexSource::Frame),
    }
}

/// Frames in order: an outer error ends the trace, an inner one stands for
/// one frame that could not be read.
pub(super) enum Source {
    /// Of arguments, then of the lines of stdin where one of them says so.
    Hex(VecDeque<HexSource>),
    /// Of a capture.
    Capture(Box<CaptureReader>),
}

impl Source {
    pub(super) fn hex(sources: Vec<HexSource>) -> Self {
        Self::Hex(sources.into())
    }

    pub(super) fn capture(path: &Path) -> anyhow::Result<Self> {
        Ok(Self::Capture(Box::new(CaptureReader::open(path)?)))
    }
}

impl Iterator for Source {
    type Item = anyhow::Result<Result<Frame, String>>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Capture(reader) => {
                let frame = reader.next_frame().transpose()?;
                Some(frame.map(Ok))
            }
            Self::Hex(sources) => loop {
                match sources.front()? {
                    HexSource::Frame(_) => {
                        let Some(HexSource::Frame(bytes)) = sources.pop_front() else {
                            return None;
                        };
                        return Some(Ok(Ok(Frame::made_up(bytes))));
                    }
                    HexSource::Stdin => match next_line() {
                        Ok(Some(line)) => return Some(Ok(unhex(&line).map(Frame::made_up))),
                        Ok(None) => drop(sources.pop_front()),
                        Err(error) => {
                            // Reading on would only fail again.
                            sources.clear();
                            return Some(Err(error));
                        }
                    },
                }
            },
        }
    }
}

/// The next line of stdin that is not blank.
fn next_line() -> anyhow::Result<Option<String>> {
    let mut stdin = std::io::stdin().lock();
    loop {
        let mut line = Vec::new();
        let mut limited = std::io::Read::take(&mut stdin, MAX_LINE_LEN as u64);
        let read = limited
            .read_until(b'\n', &mut line)
            .context("reading stdin")?;
        if read == 0 {
            return Ok(None);
        }
        if read == MAX_LINE_LEN {
            anyhow::bail!("a line of stdin is longer than {MAX_LINE_LEN} bytes; one frame a line");
        }
        let line = String::from_utf8_lossy(&line);
        if !line.trim().is_empty() {
            return Ok(Some(line.into_owned()));
        }
    }
}

/// Two lower-case digits a byte, nothing in between.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The bytes that hex digits stand for; blanks, newlines and colons between
/// them are ignored.
fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let mut digits = Vec::with_capacity(text.len());
    for (at, letter) in (1..).zip(text.chars()) {
        if letter.is_whitespace() || letter == ':' {
            continue;
        }
        let digit = letter
            .to_digit(16)
            .ok_or_else(|| format!("character {at} is {letter:?}, no hex digit"))?;
        digits.push(digit as u8);
    }
    if digits.len() % 2 != 0 {
        return Err(format!(
            "{} hex digits are no whole number of bytes",
            digits.len()
        ));
    }
    Ok(digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_read_with_everything_people_put_in_between() {
        for text in ["00abFF", " 00 ab\nff\t", "00:AB:ff"] {
            assert_eq!(unhex(text), Ok(vec![0, 0xab, 0xff]), "{text:?}");
        }
        assert_eq!(hex(&[0, 0xab, 0xff]), "00abff");
    }

    #[test]
    fn what_is_no_hex_is_refused_with_its_place() {
        assert_eq!(
            unhex("0x00"),
            Err("character 2 is 'x', no hex digit".to_owned())
        );
        assert_eq!(
            unhex("000"),
            Err("3 hex digits are no whole number of bytes".to_owned())
        );
    }

    #[test]
    fn arguments_come_in_their_order() {
        let sources = vec![
            hex_source("00").unwrap(),
            hex_source("").unwrap(),
            hex_source("01 02").unwrap(),
        ];
        let frames: Vec<Vec<u8>> = Source::hex(sources)
            .map(|frame| frame.unwrap().unwrap().bytes)
            .collect();
        assert_eq!(frames, [vec![0], vec![], vec![1, 2]]);
        assert_eq!(hex_source("-"), Ok(HexSource::Stdin));
    }
}
