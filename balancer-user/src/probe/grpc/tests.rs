//! The call against real HTTP/2 servers that answer as gRPC ones do, or not.

use hyper::Response;
use hyper::header::{HeaderName, HeaderValue};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::*;
use crate::config::model::ProbeKind;
use crate::health::Outcome;
use crate::probe::testing::{PATIENT, SHORT, Server, closed_port, failure, outcome, serve};

fn probe(service: &str) -> ProbeKind {
    ProbeKind::Grpc(GrpcProbe {
        service: service.into(),
        host: None,
        identity: None,
    })
}

/// What a server answers: header, message, trailers; none hangs there.
#[derive(Clone)]
struct Answer {
    head: Vec<(&'static str, &'static str)>,
    message: Option<Vec<u8>>,
    trailers: Option<Vec<(&'static str, &'static str)>>,
}

fn good(message: &[u8]) -> Answer {
    Answer {
        head: vec![("content-type", "application/grpc+proto")],
        message: Some(framed(message).to_vec()),
        trailers: Some(vec![("grpc-status", "0")]),
    }
}

fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &'static str)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    };
    pairs.iter().map(pair).collect()
}

async fn speak(stream: TcpStream, answer: Answer) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    let mut held = Vec::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        assert_eq!(request.uri().path(), METHOD);
        assert_eq!(request.headers()["content-type"], "application/grpc");
        assert_eq!(request.headers()["te"], "trailers");
        let mut head = Response::new(());
        *head.headers_mut() = fields(&answer.head);
        let ends = answer.message.is_none() && answer.trailers.is_some();
        let mut stream = respond.send_response(head, ends).unwrap();
        if let Some(message) = &answer.message {
            stream.send_data(message.clone().into(), false).unwrap();
        }
        match &answer.trailers {
            Some(trailers) if !ends => stream.send_trailers(fields(trailers)).unwrap(),
            _ => held.push(stream),
        }
    }
}

async fn server(answer: Answer) -> Server {
    serve(move |stream| speak(stream, answer.clone())).await
}

async fn fails(answer: Answer) -> Failure {
    failure(&probe("shop"), server(answer).await.address, PATIENT).await
}

#[tokio::test]
async fn serving_passes_and_other_states_are_named() {
    for service in ["", "shop", &"long".repeat(50)] {
        let server = server(good(&[0x08, 0x01])).await;
        let found = outcome(&probe(service), server.address, PATIENT).await;
        assert!(matches!(found, Outcome::Passed { .. }), "{found:?}");
    }
    for (message, status) in [
        (&[][..], "UNKNOWN"),
        (&[0x08, 0x00], "UNKNOWN"),
        (&[0x08, 0x02], "NOT_SERVING"),
        (&[0x08, 0x03], "SERVICE_UNKNOWN"),
        (&[0x08, 0x07], "7"),
    ] {
        let status = status.to_owned();
        assert_eq!(fails(good(message)).await, Failure::NotServing { status });
    }
}

#[tokio::test]
async fn error_of_the_call_is_named_with_and_without_a_message() {
    let only_header = Answer {
        head: vec![
            ("content-type", "application/grpc"),
            ("grpc-status", "12"),
            ("grpc-message", "unknown method"),
        ],
        message: None,
        trailers: Some(Vec::new()),
    };
    assert_eq!(
        fails(only_header).await,
        Failure::GrpcStatus {
            code: 12,
            text: "UNIMPLEMENTED: unknown method".into()
        }
    );
    let mut in_trailers = good(&[0x08, 0x01]);
    in_trailers.trailers = Some(vec![("grpc-status", "5")]);
    assert_eq!(
        fails(in_trailers).await,
        Failure::GrpcStatus {
            code: 5,
            text: "NOT_FOUND".into()
        }
    );
}

#[tokio::test]
async fn answer_that_is_not_grpc_is_named() {
    let right = good(&[0x08, 0x01]);
    let with = |message: Vec<u8>| Answer {
        message: Some(message),
        ..right.clone()
    };
    for (answer, text) in [
        (
            Answer {
                head: vec![("content-type", "text/html")],
                ..right.clone()
            },
            "content-type is text/html, wanted application/grpc",
        ),
        (
            Answer {
                trailers: Some(vec![("grpc-message", "x")]),
                ..right.clone()
            },
            "it ends without a grpc-status",
        ),
        (with(vec![0, 0]), "it holds no message"),
        (
            with(vec![1, 0, 0, 0, 2, 8, 1]),
            "its message is compressed, which nobody asked for",
        ),
        (
            with(vec![0, 0, 0, 0, 9, 8, 1]),
            "its message has another length than it says",
        ),
        (
            with(vec![0, 0, 0, 0, 2, 0x0a, 9]),
            "its message is no HealthCheckResponse",
        ),
        (
            with(vec![0; MESSAGE_LIMIT + 1]),
            "message is longer than 4096 bytes",
        ),
    ] {
        assert_eq!(fails(answer).await, Failure::BadGrpc(text.into()));
    }
}

#[tokio::test]
async fn hang_before_the_message_and_before_the_end_are_named() {
    for message in [None, Some(framed(&[0x08, 0x01]).to_vec())] {
        let answer = Answer {
            message,
            trailers: None,
            ..good(&[])
        };
        let server = server(answer).await;
        assert_eq!(
            failure(&probe(""), server.address, SHORT).await,
            Failure::Timeout {
                phase: Phase::Body,
                limit: SHORT
            }
        );
    }
}

#[tokio::test]
async fn closed_port_and_reset_are_named() {
    let (_held, address) = closed_port();
    assert_eq!(
        failure(&probe(""), address, PATIENT).await,
        Failure::Refused
    );
    let resetting = serve(|mut stream| async move {
        let _ = stream.read_u8().await;
        stream.set_zero_linger().unwrap();
    })
    .await;
    let phase = Phase::Answer;
    assert_eq!(
        failure(&probe(""), resetting.address, PATIENT).await,
        Failure::Reset { phase }
    );
}

#[test]
fn question_is_what_health_proto_says() {
    assert!(question("").is_empty());
    assert_eq!(question("shop"), b"\x0a\x04shop");
    let long = "x".repeat(300);
    assert_eq!(question(&long)[..3], [0x0a, 0xac, 0x02]);
    assert_eq!(framed(b"\x0a\x04shop")[..5], [0, 0, 0, 0, 6]);
}

#[test]
fn status_is_the_last_field_1_and_others_are_passed_over() {
    for (message, found) in [
        (&b""[..], Some(0)),
        (b"\x08\x01", Some(1)),
        (b"\x08\x02\x08\x01", Some(1)),
        (b"\x12\x02ab\x08\x01", Some(1)),
        (b"\x15abcd\x08\x01", Some(1)),
        (b"\x11abcdefgh\x08\x01", Some(1)),
        (b"\x08\x81\x00", Some(1)),
        (b"\x08", None),
        (b"\x12\x05ab", None),
        (b"\x0b", None),
        (
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            None,
        ),
    ] {
        assert_eq!(status(message), found, "{message:?}");
    }
}
