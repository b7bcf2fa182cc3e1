//! Requests as an attacker would draw them: valid ones with a part changed,
//! wrong lengths, forms that two servers read differently, and plain noise.

use balancer_tests::frames::Rng;
use balancer_user::api::capture::{CaptureRequest, CaptureStopRequest};
use balancer_user::api::types::ChangeRequest;
use balancer_user::api::types::{ApplyRequest, RollbackRequest};

/// A request, as it goes out.
pub(super) struct Case {
    pub(super) bytes: Vec<u8>,
    /// It may leave the server waiting for more: the client ends it.
    pub(super) is_open: bool,
}

const CONTROL: &[(&str, &str, &str)] = &[
    ("GET", "/v1/status", ""),
    ("GET", "/v1/config", ""),
    ("GET", "/v1/revisions", ""),
    ("GET", "/v1/revisions/1", ""),
    ("GET", "/v1/revisions/18446744073709551616", ""),
    ("GET", "/v1/events?follow=false", ""),
    ("GET", "/v1/events?follow=maybe&what=1", ""),
    ("GET", "/v1/openapi.json", ""),
    ("POST", "/v1/verify", ""),
    ("POST", "/v1/confirm", ""),
    ("POST", "/v1/rollback", "{\"revision\":4000000000}"),
    ("POST", "/v1/capture/stop", "{\"capture\":77}"),
    (
        "POST",
        "/v1/capture",
        "{\"services\":[\"none\"],\"sample\":0,\"limit\":0}",
    ),
    (
        "POST",
        "/v1/explain",
        "{\"source\":\"203.0.113.9:51000\",\"destination\":\"192.0.2.10:443\",\"protocol\":\"tcp\"}",
    ),
    (
        "POST",
        "/v1/changes",
        "{\"change\":{\"op\":\"backend_weight\",\"service\":\"web\",\"backend\":\"backend0\",\
         \"weight\":50},\"dry_run\":true}",
    ),
    (
        "POST",
        "/v1/changes",
        "{\"change\":{\"op\":\"backend_drain\",\"service\":\"web\",\"backend\":\"backend1\"},\
         \"dry_run\":true}",
    ),
    (
        "POST",
        "/v1/changes",
        "{\"change\":{\"op\":\"service_add\",\"toml\":\"name = \\\"x\\\"\\naddress = \
         \\\"192.0.2.77\\\"\\nport = 80\\n\"},\"dry_run\":true}",
    ),
    (
        "POST",
        "/v1/plan",
        "{\"name\":\"hostile.toml\",\"text\":\"[node]\\ninterfaces = [\\\"eth0\\\"]\\n\",\
         \"color\":false,\"allow\":[]}",
    ),
    (
        "POST",
        "/v1/apply",
        "{\"name\":\"hostile.toml\",\"text\":\"[node]\\ninterfaces = 7\\n\"}",
    ),
];

const PUBLIC: &[(&str, &str, &str)] = &[
    ("GET", "/", ""),
    ("GET", "/style.css", ""),
    ("GET", "/app.js", ""),
    ("GET", "/healthz", ""),
    ("GET", "/metrics?detail=service", ""),
    ("GET", "/metrics?detail=everything", ""),
    ("GET", "/v1/digest", ""),
    ("GET", "/v1/status", ""),
    ("POST", "/v1/reload", ""),
    (
        "POST",
        "/v1/changes",
        "{\"change\":{\"op\":\"service_remove\",\"service\":\"web\"}}",
    ),
];

const METHODS: &[&str] = &[
    "GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get", "PRI", "X", "",
    "GET\0", "G E T",
];

const FIELDS: &[&str] = &[
    "Host: a\r\nHost: b",
    "Host:",
    "Content-Type: text/plain",
    "Content-Type: application/json; charset=\"\\",
    "Content-Encoding: gzip",
    "Accept: application/openmetrics-text;version=9.9;q=nan",
    "Accept: \u{80}\u{ff}",
    "Expect: 100-continue",
    "Expect: the-worst",
    "Connection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
    "Connection: keep-alive, close, keep-alive",
    "X-Forwarded-For: 127.0.0.1\r\nX-Real-IP: ::1",
    "Range: bytes=0-18446744073709551615",
    " folded: yes",
    "A B: c",
    "\0: \0",
    "X: a\rb",
    "X: a\nY: b",
    "Transfer-Encoding : chunked",
    "Cookie: =;;;",
];

const VERSIONS: &[&str] = &[
    "HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/1.2", "HTTP/11", "http/1.1", "",
];

/// Framings that two servers may read differently (RFC 9112, 11.2); each
/// takes the rest of the connection with it, one way or the other.
const SMUGGLED: &[&str] = &[
    "POST /v1/confirm HTTP/1.1\r\nHost: b\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
     0\r\n\r\nGET /v1/status HTTP/1.1\r\nHost: b\r\n\r\n",
    "POST /v1/confirm HTTP/1.1\r\nHost: b\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "POST /v1/confirm HTTP/1.1\r\nHost: b\r\nContent-Length: 3, 3\r\n\r\nabc",
    "POST /v1/confirm HTTP/1.1\r\nHost: b\r\nContent-Length: +3\r\n\r\nabc",
    "POST /v1/confirm HTTP/1.1\r\nHost: b\r\nContent-Length: -1\r\n\r\n",
    "POST /v1/confirm HTTP/1.1\r\nHost: b\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    "POST /v1/confirm HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "POST /v1/confirm HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "POST /v1/confirm HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n\
     FFFFFFFFFFFFFFFFF\r\nx\r\n0\r\n\r\n",
    "POST /v1/confirm HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n\
     3;ext=\"\r\n\"\r\nabc\r\n0\r\nHost: c\r\n\r\n",
    "POST /v1/confirm HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "GET /v1/status HTTP/1.1\r\nHost: b\r\nContent-Length: 5\r\n\r\nGET /",
    "GET http://elsewhere:99999/v1/status HTTP/1.1\r\nHost: b\r\n\r\n",
    "GET //v1/../v1/status HTTP/1.1\r\nHost: b\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: b\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    "\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03noise\r\n\r\n",
    "\r\n\r\n\r\nGET /v1/status HTTP/1.1\r\nHost: b\r\n\r\n",
];

/// Words for the places of numbers and texts in JSON.
const VALUES: &[&str] = &[
    "-1",
    "1e999",
    "18446744073709551616",
    "0.1",
    "null",
    "true",
    "[]",
    "{}",
    "\"\\ud800\"",
    "\"\\u0000\"",
    "[[[[[[[[",
    "\"web\",\"service\":\"web\"",
    "NaN",
    "\u{feff}",
];

pub(super) fn draw(rng: &mut Rng, of_socket: bool) -> Case {
    let bases = if of_socket { CONTROL } else { PUBLIC };
    loop {
        let case = match rng.below(100) {
            0..3 => noise(rng),
            3..9 => Case {
                bytes: rng.pick(SMUGGLED).as_bytes().to_vec(),
                is_open: true,
            },
            _ => {
                let (method, path, body) = rng.pick(bases);
                let body = mutate_body(rng, body);
                if of_socket && is_change(path, &body) {
                    continue;
                }
                request(rng, method, path, &body)
            }
        };
        return case;
    }
}

/// Whether it would be taken, and do something: whoever sends it may.
fn is_change(path: &str, body: &[u8]) -> bool {
    match path {
        "/v1/changes" => serde_json::from_slice::<ChangeRequest>(body).is_ok_and(|it| !it.dry_run),
        "/v1/rollback" => {
            let it = serde_json::from_slice::<RollbackRequest>(body);
            it.is_ok_and(|it| it.revision.is_none_or(|it| it < 1000))
        }
        "/v1/apply" => serde_json::from_slice::<ApplyRequest>(body)
            .is_ok_and(|it| !it.text.contains("interfaces = 7")),
        "/v1/capture" => {
            let it = serde_json::from_slice::<CaptureRequest>(body);
            it.is_ok_and(|it| it.services.is_empty() || it.sample > 0)
        }
        "/v1/capture/stop" => serde_json::from_slice::<CaptureStopRequest>(body)
            .is_ok_and(|it| it.capture.is_none_or(|it| it < 10)),
        _ => false,
    }
}

fn noise(rng: &mut Rng) -> Case {
    let len = 1 + rng.below(300);
    Case {
        bytes: (0..len).map(|_| rng.byte()).collect(),
        is_open: true,
    }
}

fn mutate_body(rng: &mut Rng, body: &str) -> Vec<u8> {
    let mut bytes = body.as_bytes().to_vec();
    if bytes.is_empty() || rng.chance(30) {
        return bytes;
    }
    for _ in 0..=rng.below(3) {
        let at = rng.below(bytes.len());
        match rng.below(8) {
            0 => bytes[at] = rng.byte(),
            1 => drop(bytes.drain(at..(at + 1 + rng.below(8)).min(bytes.len()))),
            2 => {
                let word = rng.pick(VALUES);
                bytes.splice(at..at, word.bytes());
            }
            3 => replace_value(rng, &mut bytes),
            4 => bytes.truncate(at),
            5 => {
                let again = bytes[at..].to_vec();
                bytes.extend_from_slice(&again);
            }
            6 => {
                let deep = vec![b'['; 1 + rng.below(4000)];
                bytes.splice(at..at, deep);
            }
            _ => bytes[at] ^= 1 << rng.below(8),
        }
        if bytes.is_empty() {
            break;
        }
    }
    bytes
}

/// What stands behind a colon becomes something else.
fn replace_value(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let colons: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] == b':').collect();
    if colons.is_empty() {
        return;
    }
    let from = rng.pick(&colons) + 1;
    let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']');
    let to = bytes[from..].iter().position(ends);
    let to = to.map_or(bytes.len(), |len| from + len);
    let word = rng.pick(VALUES);
    bytes.splice(from..to, word.bytes());
}

fn request(rng: &mut Rng, method: &str, path: &str, body: &[u8]) -> Case {
    let mut method = method.to_owned();
    let mut path = path.as_bytes().to_vec();
    let mut version = "HTTP/1.1";
    let mut fields: Vec<&str> = vec!["Host: balancer", "Content-Type: application/json"];
    let mut is_open = false;
    match rng.below(10) {
        0 => method = rng.pick(METHODS).to_owned(),
        1 => {
            let at = rng.below(path.len());
            path[at] = rng.byte();
        }
        2 => {
            let long = vec![b'a'; rng.below(9000)];
            path.extend_from_slice(&long);
        }
        3 => version = rng.pick(VERSIONS),
        4 => fields.push(rng.pick(FIELDS)),
        5 => fields = vec![rng.pick(FIELDS)],
        _ => {}
    }
    let mut bytes = [method.as_bytes(), b" ", &path, b" ", version.as_bytes()].concat();
    for field in fields {
        bytes.extend_from_slice(format!("\r\n{field}").as_bytes());
    }
    match rng.below(12) {
        0 => {
            // Too long, so that it waits, or swallows what comes next.
            let len = body.len() + 1 + rng.below(100);
            bytes.extend_from_slice(format!("\r\nContent-Length: {len}\r\n\r\n").as_bytes());
            bytes.extend_from_slice(body);
            is_open = true;
        }
        1 => {
            let len = body.len().saturating_sub(1 + rng.below(20));
            bytes.extend_from_slice(format!("\r\nContent-Length: {len}\r\n\r\n").as_bytes());
            bytes.extend_from_slice(body);
            is_open = true;
        }
        2..5 => {
            bytes.extend_from_slice(b"\r\nTransfer-Encoding: chunked\r\n\r\n");
            for piece in body.chunks(1 + rng.below(40)) {
                bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                bytes.extend_from_slice(piece);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
        }
        5 => {
            bytes.extend_from_slice(format!("\r\nContent-Length: {}", body.len()).as_bytes());
            bytes.extend_from_slice(b"\r\n\r\n");
            bytes.extend_from_slice(body);
            bytes.truncate(1 + rng.below(bytes.len()));
            is_open = true;
        }
        _ => {
            let len = body.len();
            bytes.extend_from_slice(format!("\r\nContent-Length: {len}\r\n\r\n").as_bytes());
            bytes.extend_from_slice(body);
        }
    }
    Case { bytes, is_open }
}
