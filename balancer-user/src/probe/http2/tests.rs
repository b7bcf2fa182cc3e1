//! The probe against real HTTP/2 servers and against those that are none.

use std::sync::Arc;
use std::time::Duration;

use hyper::Response;
use rcgen::KeyPair;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::model::{HttpProbe, Identity, ProbeKind, TlsProbe};
use crate::health::Outcome;
use crate::probe::testing::{PATIENT, SHORT, Server, closed_port, failure, outcome, serve};

fn probe() -> HttpProbe {
    HttpProbe {
        path: "/healthz".into(),
        host: Some("web.example".into()),
        expect_status: vec![200],
        identity: None,
    }
}

fn plain() -> ProbeKind {
    ProbeKind::H2c(probe())
}

fn with(identity: Identity) -> ProbeKind {
    ProbeKind::H2c(HttpProbe {
        identity: Some(identity),
        ..probe()
    })
}

/// What a server does with a request.
#[derive(Clone)]
enum Does {
    Answers(Response<()>, &'static [u8]),
    /// Sends the same for ever, each after a pause.
    Drips(&'static [u8], Option<Duration>),
    Hangs,
    Resets(Reason),
}

async fn speak<S>(stream: S, does: Does)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    let mut handles = Vec::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let headers = request.headers();
        let is_right = request.uri().path() == "/healthz"
            && request.uri().host() == Some("web.example")
            && headers[USER_AGENT]
                .to_str()
                .unwrap()
                .starts_with("balancer-probe/");
        let does = match is_right {
            true => does.clone(),
            false => Does::Answers(status(400), b""),
        };
        match does {
            Does::Answers(head, body) => {
                let Ok(mut stream) = respond.send_response(head, false) else {
                    continue;
                };
                let _ = stream.send_data(Bytes::from_static(body), true);
            }
            Does::Drips(piece, pause) => {
                let mut stream = respond.send_response(status(200), false).unwrap();
                let mut pace = pause.map(tokio::time::interval);
                handles.push(tokio::spawn(async move {
                    loop {
                        stream.reserve_capacity(piece.len());
                        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx));
                        let Some(Ok(1..)) = room.await else { return };
                        if stream.send_data(Bytes::from_static(piece), false).is_err() {
                            return;
                        }
                        if let Some(pace) = &mut pace {
                            pace.tick().await;
                        }
                    }
                }));
            }
            Does::Hangs => handles.push(tokio::spawn(async move {
                let _respond = respond;
                std::future::pending::<()>().await;
            })),
            Does::Resets(reason) => respond.send_reset(reason),
        }
    }
    handles.iter().for_each(tokio::task::JoinHandle::abort);
}

fn status(code: u16) -> Response<()> {
    Response::builder().status(code).body(()).unwrap()
}

async fn server(does: Does) -> Server {
    serve(move |stream| speak(stream, does.clone())).await
}

fn timeout_in(phase: Phase) -> Failure {
    Failure::Timeout {
        phase,
        limit: SHORT,
    }
}

async fn assert_passes(kind: &ProbeKind, server: &Server) -> Outcome {
    let found = outcome(kind, server.address, PATIENT).await;
    assert!(matches!(found, Outcome::Passed { .. }), "{found:?}");
    found
}

#[tokio::test]
async fn right_answer_passes_and_a_wrong_one_is_named() {
    let mut head = status(200);
    let value = "web".parse().unwrap();
    head.headers_mut().insert("x-service", value);
    let server = server(Does::Answers(head, b"build 17 ok")).await;
    assert_passes(&plain(), &server).await;
    let header = |value: &str| Identity::Header {
        name: "X-Service".into(),
        value: value.into(),
    };
    assert_passes(&with(header("web")), &server).await;
    assert_passes(&with(Identity::Body("17 ok".into())), &server).await;
    assert_passes(&with(Identity::Pattern(r"^build \d+ ok$".into())), &server).await;
    for wrong in [
        header("db"),
        Identity::Body("18".into()),
        Identity::Pattern(r"^build \d ok$".into()),
    ] {
        let found = failure(&with(wrong), server.address, PATIENT).await;
        assert!(matches!(found, Failure::IdentityMismatch { .. }), "{found}");
    }
}

#[tokio::test]
async fn bad_status_is_named() {
    let server = server(Does::Answers(status(503), b"")).await;
    assert_eq!(
        failure(&plain(), server.address, PATIENT).await,
        Failure::BadStatus {
            got: 503,
            expected: "200".into()
        }
    );
}

#[tokio::test]
async fn hang_drip_and_endless_body_end_at_their_limits() {
    let hanging = server(Does::Hangs).await;
    assert_eq!(
        failure(&plain(), hanging.address, SHORT).await,
        timeout_in(Phase::Answer)
    );
    let drip = server(Does::Drips(b"x", Some(Duration::from_millis(5)))).await;
    let kind = with(Identity::Body("this is web".into()));
    assert_eq!(
        failure(&kind, drip.address, SHORT).await,
        timeout_in(Phase::Body)
    );
    // Nobody looks for anything in it.
    assert_passes(&plain(), &drip).await;
    let endless = server(Does::Drips(&[b'x'; 4096], None)).await;
    let found = failure(&kind, endless.address, PATIENT).await;
    let Failure::IdentityMismatch { got, .. } = &found else {
        panic!("{found:?}");
    };
    assert!(got.starts_with("one of 65536 bytes or more"), "{got}");
}

#[tokio::test]
async fn giant_header_is_named() {
    let mut head = status(200);
    let value = "x".repeat(HEADER_LIMIT + 1).parse().unwrap();
    head.headers_mut().insert("x-filler", value);
    let large = server(Does::Answers(head, b"")).await;
    assert_eq!(
        failure(&plain(), large.address, PATIENT).await,
        Failure::HeaderTooLarge {
            limit: HEADER_LIMIT
        }
    );
    // More than the library takes.
    let mut head = status(200);
    for at in 0..40 {
        let name: hyper::header::HeaderName = format!("x-filler-{at}").parse().unwrap();
        let value = "y".repeat(8192).parse().unwrap();
        head.headers_mut().insert(name, value);
    }
    let giant = server(Does::Answers(head, b"")).await;
    let found = failure(&plain(), giant.address, PATIENT).await;
    assert!(matches!(found, Failure::BadHttp2(_)), "{found:?}");
}

#[tokio::test]
async fn request_that_the_server_gives_up_is_named() {
    let server = server(Does::Resets(Reason::REFUSED_STREAM)).await;
    let found = failure(&plain(), server.address, PATIENT).await;
    let Failure::BadHttp2(text) = &found else {
        panic!("{found:?}");
    };
    assert!(text.starts_with("server gave the request up"), "{text}");
}

#[tokio::test]
async fn what_is_not_http2_is_named() {
    for answer in [
        &b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x00\x00\x00\x00\x00\x00\x00\x00\x00",
    ] {
        let server = serve(move |mut stream| async move {
            let _ = stream.write_all(answer).await;
            let mut rest = [0; 4096];
            while matches!(stream.read(&mut rest).await, Ok(1..)) {}
        })
        .await;
        let found = failure(&plain(), server.address, SHORT).await;
        let is_named = matches!(found, Failure::BadHttp2(_));
        // Only its first bytes look like a frame, and the rest never comes.
        let is_waiting = found == timeout_in(Phase::Answer) && answer.starts_with(b"SSH");
        assert!(is_named || is_waiting, "{answer:?}: {found:?}");
    }
}

#[tokio::test]
async fn closed_port_close_and_reset_are_named() {
    let (_held, address) = closed_port();
    assert_eq!(failure(&plain(), address, PATIENT).await, Failure::Refused);
    let closing = serve(|mut stream| async move {
        let mut request = [0; 16];
        let _ = stream.read_exact(&mut request).await;
        let _ = stream.shutdown().await;
        let mut rest = [0; 4096];
        while matches!(stream.read(&mut rest).await, Ok(1..)) {}
    })
    .await;
    let phase = Phase::Answer;
    assert_eq!(
        failure(&plain(), closing.address, PATIENT).await,
        Failure::Closed { phase }
    );
    let resetting = serve(|mut stream| async move {
        let _ = stream.read_u8().await;
        stream.set_zero_linger().unwrap();
    })
    .await;
    assert_eq!(
        failure(&plain(), resetting.address, PATIENT).await,
        Failure::Reset { phase }
    );
}

/// Speaks HTTP/2 over TLS, with a certificate that ends in 2096, or only
/// offers HTTP/1.1 there.
async fn secure(alpn: &'static [u8]) -> Server {
    let key = KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["web.example".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2096, 1, 1);
    let certificate = params.self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    serve(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                speak(stream, Does::Answers(status(200), b"ok")).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn tls_with_alpn_passes_and_says_when_the_certificate_ends() {
    let tls = TlsProbe {
        server_name: Some("web.example".into()),
        ca_file: None,
    };
    let kind = ProbeKind::H2(probe(), tls);
    let found = assert_passes(&kind, &secure(b"h2").await).await;
    let ends = found.certificate_ends().unwrap();
    let since_1970 = ends.duration_since(std::time::UNIX_EPOCH).unwrap();
    // 2096-01-01 00:00:00 UTC.
    assert_eq!(since_1970, Duration::from_secs(3_976_214_400));
}

#[tokio::test]
async fn tls_peer_without_http2_is_named() {
    let tls = TlsProbe {
        server_name: None,
        ca_file: None,
    };
    let kind = ProbeKind::H2(probe(), tls);
    let found = failure(&kind, secure(b"http/1.1").await.address, PATIENT).await;
    // This one refuses by itself (RFC 7301, 3.2).
    let got = "none, the server refused".into();
    assert_eq!(found, Failure::NoHttp2 { got });
    let silent = secure_without_alpn().await;
    assert_eq!(
        failure(&kind, silent.address, PATIENT).await,
        Failure::NoHttp2 { got: "none".into() }
    );
}

async fn secure_without_alpn() -> Server {
    let key = rcgen::generate_simple_self_signed(vec!["web.example".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let der = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], der)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    serve(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let mut rest = [0; 4096];
                while matches!(stream.read(&mut rest).await, Ok(1..)) {}
            }
        }
    })
    .await
}
