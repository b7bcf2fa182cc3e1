//! Whether an answer is the right server's, and how much of it is read.

use std::future::Future;

use hyper::body::Bytes;
use hyper::header::{HeaderMap, HeaderName};
use regex::bytes::{Regex, RegexBuilder};

use super::super::Deadline;
use crate::health::{Failure, shortened};

/// The most of an answer's body that a probe reads.
const BODY_LIMIT: usize = 64 * 1024;
/// The most memory that a compiled pattern may take, in bytes.
const PATTERN_SIZE: usize = 1024 * 1024;

/// The body of an answer, of any version of HTTP.
pub(in crate::probe) trait Chunks: Send {
    /// The next piece; `None` at the end.
    fn next(
        &mut self,
        deadline: &Deadline,
    ) -> impl Future<Output = Result<Option<Bytes>, Failure>> + Send;
}

/// Looks for a field with a whole value.
pub(in crate::probe) fn judge_header(
    headers: &HeaderMap,
    name: &HeaderName,
    value: &str,
) -> Result<(), Failure> {
    let mut values = headers.get_all(name).iter().peekable();
    let first = values.peek().map(|first| shortened(first.as_bytes()));
    if values.any(|one| one.as_bytes() == value.as_bytes()) {
        return Ok(());
    }
    Err(Failure::IdentityMismatch {
        expected: format!("{name}: {}", shortened(value.as_bytes())),
        got: match first {
            Some(first) => format!("{name}: {first}"),
            None => format!("no {name} field"),
        },
    })
}

/// Looks for a text in a body.
pub(super) async fn judge_body(
    mut body: impl Chunks,
    text: &str,
    deadline: &Deadline,
) -> Result<(), Failure> {
    let mut read = Vec::new();
    let wanted = text.as_bytes();
    loop {
        // Only what came last can complete the text: searching all of it
        // again for each byte of a drip would cost a minute of CPU.
        let unsearched = read.len().saturating_sub(wanted.len().saturating_sub(1));
        let ended = !take(&mut body, &mut read, deadline).await?;
        if contains(&read[unsearched..], wanted) {
            return Ok(());
        }
        if ended || read.len() == BODY_LIMIT {
            return Err(Failure::IdentityMismatch {
                expected: format!("a body with \"{}\"", shortened(wanted)),
                got: format!("one of {}", describe(&read, ended)),
            });
        }
    }
}

/// Searches the whole body, as more of it can undo a match (`^ok$`).
pub(super) async fn judge_pattern(
    mut body: impl Chunks,
    pattern: &Regex,
    deadline: &Deadline,
) -> Result<(), Failure> {
    let mut read = Vec::new();
    let mut ended = false;
    while !ended && read.len() < BODY_LIMIT {
        ended = !take(&mut body, &mut read, deadline).await?;
    }
    if pattern.is_match(&read) {
        return Ok(());
    }
    Err(Failure::IdentityMismatch {
        expected: format!(
            "a body that matches {}",
            shortened(pattern.as_str().as_bytes())
        ),
        got: format!("one of {}", describe(&read, ended)),
    })
}

/// Adds the next piece of a body to what was read, as far as there is room;
/// `false` at the end.
async fn take(
    body: &mut impl Chunks,
    read: &mut Vec<u8>,
    deadline: &Deadline,
) -> Result<bool, Failure> {
    let Some(data) = body.next(deadline).await? else {
        return Ok(false);
    };
    let room = BODY_LIMIT - read.len();
    read.extend_from_slice(&data[..data.len().min(room)]);
    Ok(true)
}

/// Compiles a pattern, with a bound on what it may take; the error says what
/// is wrong with it.
pub(crate) fn regex(pattern: &str) -> Result<Regex, String> {
    let mut builder = RegexBuilder::new(pattern);
    builder.size_limit(PATTERN_SIZE).build().map_err(|error| {
        let text = error.to_string();
        // A fault is drawn, and told in the last line.
        let told = text.lines().last().unwrap_or_default();
        let told = told.strip_prefix("error: ").unwrap_or(told);
        told.trim_end_matches('.').to_lowercase()
    })
}

/// Waits for the end of a body, or for as much of it as is read.
pub(super) async fn read_body(mut body: impl Chunks, deadline: &Deadline) -> Result<(), Failure> {
    let mut len = 0;
    while let Some(data) = body.next(deadline).await? {
        len += data.len();
        if len >= BODY_LIMIT {
            break;
        }
    }
    Ok(())
}

fn describe(read: &[u8], ended: bool) -> String {
    let more = if ended { "" } else { " or more" };
    format!("{} bytes{more}: {}", read.len(), shortened(read))
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || text.windows(wanted.len()).any(|window| window == wanted)
}
