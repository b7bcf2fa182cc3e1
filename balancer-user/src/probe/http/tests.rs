//! The probe against real sockets, one fault a test.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::*;
use crate::config::model::ProbeKind;
use crate::health::Outcome;
use crate::probe::testing::{PATIENT, SHORT, Server, closed_port, failure, outcome, serve};

fn probe() -> HttpProbe {
    HttpProbe {
        path: "/healthz".into(),
        host: None,
        expect_status: Vec::new(),
        identity: None,
    }
}

fn plain() -> ProbeKind {
    ProbeKind::Http(probe())
}

fn expecting(identity: Identity) -> ProbeKind {
    ProbeKind::Http(HttpProbe {
        identity: Some(identity),
        ..probe()
    })
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(request).unwrap()
}

/// Answers each request with these bytes and closes.
async fn answering(answer: impl Into<Vec<u8>>) -> Server {
    let answer = answer.into();
    serve(move |mut stream| {
        let answer = answer.clone();
        async move {
            read_request(&mut stream).await;
            let _ = stream.write_all(&answer).await;
        }
    })
    .await
}

/// Answers with a beginning and then with the same bytes for ever, as fast as
/// the probe reads or one piece each `pause`.
async fn endless(
    beginning: &'static [u8],
    piece: &'static [u8],
    pause: Option<Duration>,
) -> Server {
    serve(move |mut stream| async move {
        read_request(&mut stream).await;
        let _ = stream.write_all(beginning).await;
        let mut pace = pause.map(tokio::time::interval);
        while stream.write_all(piece).await.is_ok() {
            if let Some(pace) = &mut pace {
                pace.tick().await;
            }
        }
    })
    .await
}

async fn assert_passes(kind: &ProbeKind, server: &Server) {
    let found = outcome(kind, server.address, PATIENT).await;
    assert!(matches!(found, Outcome::Passed { .. }), "{found:?}");
}

fn timeout_in(phase: Phase) -> Failure {
    Failure::Timeout {
        phase,
        limit: SHORT,
    }
}

#[tokio::test]
async fn request_names_host_and_agent_and_asks_for_the_end() {
    let (sender, mut requests) = mpsc::unbounded_channel();
    let server = serve(move |mut stream| {
        let sender = sender.clone();
        async move {
            sender.send(read_request(&mut stream).await).unwrap();
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        }
    })
    .await;
    assert_passes(&plain(), &server).await;
    let request = requests.recv().await.unwrap().to_lowercase();
    let version = env!("CARGO_PKG_VERSION");
    for line in [
        "get /healthz http/1.1".to_owned(),
        format!("host: {}", server.address),
        format!("user-agent: balancer-probe/{version}"),
        "connection: close".to_owned(),
    ] {
        assert!(request.lines().any(|one| one == line), "{line}: {request}");
    }
    let named = ProbeKind::Http(HttpProbe {
        host: Some("web.example".into()),
        ..probe()
    });
    assert_passes(&named, &server).await;
    let request = requests.recv().await.unwrap().to_lowercase();
    assert!(request.contains("\r\nhost: web.example\r\n"), "{request}");
}

#[test]
fn host_leaves_out_the_default_port_and_brackets_ipv6() {
    let host = |address: &str, port| host_of(address.parse().unwrap(), port);
    assert_eq!(host("10.0.0.11:80", 80), "10.0.0.11");
    assert_eq!(host("10.0.0.11:80", 443), "10.0.0.11:80");
    assert_eq!(host("[2001:db8::1]:443", 443), "[2001:db8::1]");
    assert_eq!(host("[2001:db8::1]:8443", 443), "[2001:db8::1]:8443");
}

#[tokio::test]
async fn status_must_be_expected() {
    let unset = "200 to 399";
    for (expected, status, passes, text) in [
        (vec![], 200, true, unset),
        (vec![], 302, true, unset),
        (vec![], 404, false, unset),
        (vec![], 503, false, unset),
        (vec![200, 204], 204, true, "200 or 204"),
        (vec![200, 204], 302, false, "200 or 204"),
        (vec![401], 401, true, "401"),
    ] {
        let server = answering(format!("HTTP/1.1 {status} Text\r\n\r\n")).await;
        let kind = ProbeKind::Http(HttpProbe {
            expect_status: expected,
            ..probe()
        });
        if passes {
            assert_passes(&kind, &server).await;
        } else {
            let bad = Failure::BadStatus {
                got: status,
                expected: text.into(),
            };
            assert_eq!(failure(&kind, server.address, PATIENT).await, bad);
        }
    }
}

#[tokio::test]
async fn closed_port_is_refused() {
    let (_held, address) = closed_port();
    assert_eq!(failure(&plain(), address, PATIENT).await, Failure::Refused);
}

#[tokio::test]
async fn server_that_accepts_and_hangs_is_a_timeout_of_the_answer() {
    let server = serve(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    assert_eq!(
        failure(&plain(), server.address, SHORT).await,
        timeout_in(Phase::Answer)
    );
}

#[tokio::test]
async fn reset_after_accept_is_a_reset() {
    let server = serve(|stream| async move { stream.set_zero_linger().unwrap() }).await;
    let found = failure(&plain(), server.address, PATIENT).await;
    // The reset may overtake even the end of connect.
    assert!(
        matches!(
            found,
            Failure::Reset {
                phase: Phase::Answer | Phase::Connect
            }
        ),
        "{found:?}"
    );
}

#[tokio::test]
async fn reset_after_the_request_is_a_reset() {
    let server = serve(|mut stream| async move {
        read_request(&mut stream).await;
        stream.set_zero_linger().unwrap();
    })
    .await;
    assert_eq!(
        failure(&plain(), server.address, PATIENT).await,
        Failure::Reset {
            phase: Phase::Answer
        }
    );
}

#[tokio::test]
async fn close_before_or_within_the_header_is_named() {
    for answer in ["", "HTTP/1.1 200 OK\r\nContent-Le"] {
        let server = answering(answer).await;
        assert_eq!(
            failure(&plain(), server.address, PATIENT).await,
            Failure::Closed {
                phase: Phase::Answer
            },
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn header_dripped_byte_by_byte_ends_with_the_probes_timeout() {
    let pause = Duration::from_millis(5);
    let server = endless(b"HTTP/1.1 200 OK\r\nX: ", b"x", Some(pause)).await;
    assert_eq!(
        failure(&plain(), server.address, SHORT).await,
        timeout_in(Phase::Answer)
    );
}

#[tokio::test]
async fn endless_header_is_too_large() {
    let server = endless(b"HTTP/1.1 200 OK\r\n", b"X-Filler: 0123456789\r\n", None).await;
    assert_eq!(
        failure(&plain(), server.address, PATIENT).await,
        Failure::HeaderTooLarge {
            limit: HEADER_LIMIT
        }
    );
}

#[tokio::test]
async fn giant_header_field_is_too_large() {
    let field = "x".repeat(4 * HEADER_LIMIT);
    let server = answering(format!("HTTP/1.1 200 OK\r\nX: {field}\r\n\r\n")).await;
    assert_eq!(
        failure(&plain(), server.address, PATIENT).await,
        Failure::HeaderTooLarge {
            limit: HEADER_LIMIT
        }
    );
}

#[tokio::test]
async fn endless_interim_answers_end_with_the_probes_timeout() {
    let server = endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", None).await;
    assert_eq!(
        failure(&plain(), server.address, SHORT).await,
        timeout_in(Phase::Answer)
    );
}

#[tokio::test]
async fn endless_body_is_not_read_where_nothing_is_looked_for_in_it() {
    let server = endless(b"HTTP/1.1 200 OK\r\n\r\n", b"body", None).await;
    assert_passes(&plain(), &server).await;
}

#[tokio::test]
async fn endless_body_is_read_to_its_limit_only() {
    let server = endless(b"HTTP/1.1 200 OK\r\n\r\n", b"other", None).await;
    let kind = expecting(Identity::Body("this is web".into()));
    let found = failure(&kind, server.address, PATIENT).await;
    let Failure::IdentityMismatch { expected, got } = found else {
        panic!("{found:?}");
    };
    assert_eq!(expected, "a body with \"this is web\"");
    assert!(
        got.starts_with("one of 65536 bytes or more: otherother"),
        "{got}"
    );
}

#[tokio::test]
async fn body_dripped_byte_by_byte_ends_with_the_probes_timeout() {
    let pause = Duration::from_millis(5);
    let server = endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x", Some(pause)).await;
    let kind = expecting(Identity::Body("this is web".into()));
    assert_eq!(
        failure(&kind, server.address, SHORT).await,
        timeout_in(Phase::Body)
    );
}

#[tokio::test]
async fn body_that_ends_too_early_is_named() {
    let server = answering("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort").await;
    let kind = expecting(Identity::Body("this is web".into()));
    assert_eq!(
        failure(&kind, server.address, PATIENT).await,
        Failure::Closed { phase: Phase::Body }
    );
}

#[tokio::test]
async fn identity_in_the_body_is_found_across_pieces() {
    let server = serve(|mut stream| async move {
        read_request(&mut stream).await;
        stream.set_nodelay(true).unwrap();
        let answer = b"HTTP/1.1 200 OK\r\n\r\nhello, this is web-1, bye";
        for byte in answer {
            let _ = stream.write_all(&[*byte]).await;
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_passes(&expecting(Identity::Body("this is web".into())), &server).await;
    let other = expecting(Identity::Body("this is db".into()));
    assert_eq!(
        failure(&other, server.address, PATIENT).await,
        Failure::IdentityMismatch {
            expected: "a body with \"this is db\"".into(),
            got: "one of 25 bytes: hello, this is web-1, bye".into()
        }
    );
}

#[tokio::test]
async fn identity_in_a_header_must_match_wholly() {
    let identity = |value: &str| {
        expecting(Identity::Header {
            name: "X-Server".into(),
            value: value.into(),
        })
    };
    let server = answering("HTTP/1.1 200 OK\r\nx-server: a\r\nX-SERVER: web-1\r\n\r\n").await;
    assert_passes(&identity("web-1"), &server).await;
    let mismatch = |expected: &str, got: &str| Failure::IdentityMismatch {
        expected: expected.into(),
        got: got.into(),
    };
    assert_eq!(
        failure(&identity("web"), server.address, PATIENT).await,
        mismatch("x-server: web", "x-server: a")
    );
    let silent = answering("HTTP/1.1 200 OK\r\n\r\n").await;
    assert_eq!(
        failure(&identity("web"), silent.address, PATIENT).await,
        mismatch("x-server: web", "no x-server field")
    );
}

#[tokio::test]
async fn what_is_not_http_is_named() {
    for answer in [
        &b"SSH-2.0-OpenSSH_9.6\r\n"[..],
        b"220 mail.example ESMTP\r\n",
        b"<html>no status line</html>\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x50",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    ] {
        let server = answering(answer).await;
        let found = failure(&plain(), server.address, PATIENT).await;
        assert!(matches!(found, Failure::BadHttp(_)), "{answer:?}: {found}");
    }
}

#[tokio::test]
async fn broken_chunk_in_the_body_is_bad_http() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
    let server = answering(answer).await;
    let kind = expecting(Identity::Body("this is web".into()));
    let found = failure(&kind, server.address, PATIENT).await;
    assert!(matches!(found, Failure::BadHttp(_)), "{found:?}");
}

#[tokio::test]
async fn probe_that_is_dropped_leaves_nothing_behind() {
    let (sender, mut ended) = mpsc::unbounded_channel();
    let server = serve(move |mut stream| {
        let sender = sender.clone();
        async move {
            read_request(&mut stream).await;
            sender.send("asked").unwrap();
            let _ = stream.read_u8().await.unwrap_err();
            sender.send("left").unwrap();
        }
    })
    .await;
    let kind = plain();
    tokio::select! {
        found = outcome(&kind, server.address, PATIENT) => panic!("{found:?}"),
        asked = ended.recv() => assert_eq!(asked, Some("asked")),
    }
    assert_eq!(ended.recv().await, Some("left"));
}

#[test]
fn what_cannot_be_sent_is_refused_when_it_is_prepared() {
    let prepare = |probe: HttpProbe| Client::new(&probe, 80).unwrap_err().to_string();
    let path = HttpProbe {
        path: "healthz".into(),
        ..probe()
    };
    assert_eq!(
        prepare(path),
        "path \"healthz\" is no request target; try \"/\""
    );
    let spaced = HttpProbe {
        path: "/a b".into(),
        ..probe()
    };
    assert_eq!(
        prepare(spaced),
        "path \"/a b\" is no request target; try \"/\""
    );
    let host = HttpProbe {
        host: Some("a\r\nX: y".into()),
        ..probe()
    };
    assert!(prepare(host).contains("cannot stand in a header field"));
    let kind = expecting(Identity::Certificate("web.example".into()));
    assert_eq!(
        crate::probe::Prober::new(&kind).unwrap_err(),
        PrepareError::CertificateWithoutTls
    );
}
