//! Any bytes on the daemon's control socket.
//!
//! What must hold: nothing panics, the server is there until the client goes,
//! and what comes back is HTTP with a status that blames nobody but the client.
#![cfg_attr(fuzzing, no_main)]

use balancer_fuzz::control;

fn check(data: &[u8]) {
    let answer = control::exchange(data);
    if answer.is_empty() {
        return;
    }
    let status = status(&answer);
    let expected = matches!(status, Some(100 | 200 | 400..=499));
    assert!(expected, "{}", String::from_utf8_lossy(&answer));
}

/// The status in `HTTP/1.1 200 OK` (RFC 9112, 4).
fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\r').next()?;
    let line = str::from_utf8(line).ok()?;
    let rest = line
        .strip_prefix("HTTP/1.1 ")
        .or_else(|| line.strip_prefix("HTTP/1.0 "))?;
    rest.get(..3)?.parse().ok()
}

balancer_fuzz::target!("http", check);
