//! Bodies of `POST /v1/changes`, a line each, one after another to one daemon.
//!
//! What must hold: each gets one answer, of the documented form; what is taken
//! says nothing that was not heard; and of every change that is taken, what
//! `control` asserts.
#![cfg_attr(fuzzing, no_main)]

use balancer_fuzz::control;
use balancer_user::api::types::{ChangeRequest, Changed, Problem};
use serde_json::Value;

/// More lines only repeat what fewer show.
const MAX_REQUESTS: usize = 16;

fn check(data: &[u8]) {
    let bodies: Vec<&[u8]> = data
        .split(|byte| *byte == b'\n')
        .take(MAX_REQUESTS)
        .collect();
    let mut requests = Vec::new();
    for body in &bodies {
        let head = "POST /v1/changes HTTP/1.1\r\nHost: balancer\r\nContent-Type: application/json";
        requests.extend(format!("{head}\r\nContent-Length: {}\r\n\r\n", body.len()).bytes());
        requests.extend(*body);
    }
    let answers = control::exchange(&requests);
    let mut rest = answers.as_slice();
    for body in bodies {
        let (status, answer, after) = split(rest).expect("an answer for every request");
        judge(body, status, answer);
        rest = after;
    }
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(rest));
}

fn judge(body: &[u8], status: u16, answer: &[u8]) {
    let said = String::from_utf8_lossy(body);
    if status != 200 {
        let problem: Problem = serde_json::from_slice(answer).expect("a refusal is a problem");
        assert_eq!(problem.status, status, "{said}");
        assert!(matches!(status, 400 | 409 | 422), "{said}: {problem:?}");
        assert!(!problem.detail.is_empty(), "{said}");
        return;
    }
    let changed: Changed = serde_json::from_slice(answer).expect("a change that was made");
    let request: ChangeRequest = serde_json::from_slice(body).expect("what was taken");
    assert_eq!(changed.dry_run, request.dry_run, "{said}");
    // What was understood, written again, has every key that was sent.
    let (Ok(Value::Object(sent)), Ok(Value::Object(heard))) =
        (serde_json::from_slice(body), serde_json::to_value(&request))
    else {
        // Serde reads a list as well, by position.
        return;
    };
    for key in sent.keys() {
        assert!(heard.contains_key(key), "{key} was not heard: {said}");
    }
}

/// Status and body of the first answer, and what comes after it.
fn split(answers: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let end = answers.windows(4).position(|it| it == b"\r\n\r\n")? + 4;
    let head = str::from_utf8(&answers[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let len = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))?
        .parse()
        .ok()?;
    let (body, after) = answers[end..].split_at_checked(len)?;
    Some((status, body, after))
}

balancer_fuzz::target!("change", check);
