//! The probe against real TLS servers with certificates made for the test.

use std::io::Write;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::model::{HttpProbe, ProbeKind};
use crate::health::Outcome;
use crate::probe::Prober;
use crate::probe::testing::{PATIENT, SHORT, Server, failure, outcome, serve};

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn issuer() -> Issuer {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn pem_file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn params(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
}

fn expired(names: &[&str]) -> CertificateParams {
    let mut params = params(names);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2021, 1, 1);
    params
}

fn server_config(certificate: CertificateParams, issuer: &Issuer) -> Arc<ServerConfig> {
    let key = KeyPair::generate().unwrap();
    let certificate = certificate.signed_by(&key, issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    Arc::new(config)
}

/// Answers 200 over TLS, with the SNI that the client sent in a header field.
async fn https(config: Arc<ServerConfig>) -> Server {
    let acceptor = TlsAcceptor::from(config);
    serve(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                return;
            };
            let sni = stream.get_ref().1.server_name().unwrap_or("none");
            let answer = format!("HTTP/1.1 200 OK\r\nX-Sni: {sni}\r\nContent-Length: 0\r\n\r\n");
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    })
    .await
}

fn probe(name: Option<&str>, ca: Option<&NamedTempFile>, identity: Option<Identity>) -> ProbeKind {
    let http = HttpProbe {
        path: "/".into(),
        host: None,
        expect_status: vec![200],
        identity,
    };
    let tls = TlsProbe {
        server_name: name.map(str::to_owned),
        ca_file: ca.map(|file| file.path().to_owned()),
    };
    ProbeKind::Https(http, tls)
}

fn certificate(name: &str) -> Option<Identity> {
    Some(Identity::Certificate(name.into()))
}

fn sni(name: &str) -> Option<Identity> {
    Some(Identity::Header {
        name: "x-sni".into(),
        value: name.into(),
    })
}

async fn assert_passes(kind: &ProbeKind, server: &Server) {
    let found = outcome(kind, server.address, PATIENT).await;
    assert!(matches!(found, Outcome::Passed { .. }), "{found:?}");
}

#[tokio::test]
async fn any_chain_is_taken_without_a_ca_file() {
    let server = https(server_config(expired(&["web.example"]), &issuer())).await;
    assert_passes(&probe(None, None, sni("none")), &server).await;
    assert_passes(
        &probe(Some("web.example"), None, sni("web.example")),
        &server,
    )
    .await;
}

#[tokio::test]
async fn older_servers_that_speak_tls_1_2_pass() {
    let issuer = issuer();
    let key = KeyPair::generate().unwrap();
    let certificate = params(&["web.example"]).signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let server = https(Arc::new(config)).await;
    let ca = pem_file(&issuer.pem());
    assert_passes(&probe(Some("web.example"), Some(&ca), None), &server).await;
}

#[tokio::test]
async fn server_name_must_stand_in_the_certificate() {
    let server = https(server_config(
        params(&["web.example", "www.example"]),
        &issuer(),
    ))
    .await;
    let wrong = Failure::CertificateName {
        expected: "shop.example".into(),
        presented: "web.example, www.example".into(),
    };
    let kind = probe(Some("shop.example"), None, None);
    assert_eq!(failure(&kind, server.address, PATIENT).await, wrong);
}

#[tokio::test]
async fn chain_must_lead_to_the_ca_file() {
    let good = issuer();
    let server = https(server_config(params(&["web.example"]), &good)).await;
    let ca = pem_file(&good.pem());
    assert_passes(&probe(Some("web.example"), Some(&ca), None), &server).await;
    assert_passes(&probe(None, Some(&ca), None), &server).await;
    let other = pem_file(&issuer().pem());
    let kind = probe(Some("web.example"), Some(&other), None);
    let found = failure(&kind, server.address, PATIENT).await;
    let untrusted = Failure::CertificateUntrusted("its issuer is unknown".into());
    assert_eq!(found, untrusted);
}

#[tokio::test]
async fn expired_certificate_is_named_where_the_chain_counts() {
    let issuer = issuer();
    let server = https(server_config(expired(&["web.example"]), &issuer)).await;
    let ca = pem_file(&issuer.pem());
    let kind = probe(Some("web.example"), Some(&ca), None);
    let found = failure(&kind, server.address, PATIENT).await;
    let Failure::CertificateExpired { ago } = found else {
        panic!("{found:?}");
    };
    assert!(ago > Duration::from_secs(3 * 365 * 24 * 3600), "{ago:?}");
}

#[tokio::test]
async fn identity_is_a_name_of_the_certificate() {
    let server = https(server_config(params(&["*.web.example"]), &issuer())).await;
    assert_passes(&probe(None, None, certificate("a.web.example")), &server).await;
    for name in ["web.example", "a.b.web.example", "db.example"] {
        let kind = probe(None, None, certificate(name));
        let mismatch = Failure::IdentityMismatch {
            expected: format!("a certificate for {name}"),
            got: "one for *.web.example".into(),
        };
        assert_eq!(failure(&kind, server.address, PATIENT).await, mismatch);
    }
}

#[tokio::test]
async fn server_without_the_certificates_key_fails() {
    // The server shows another's certificate and signs with its own key,
    // which is what a verifier that skips signatures would let pass.
    let issuer = issuer();
    let stolen = params(&["web.example"])
        .signed_by(&KeyPair::generate().unwrap(), &issuer)
        .unwrap();
    let own = KeyPair::generate().unwrap();
    let provider = rustls::crypto::ring::default_provider();
    let key = PrivateKeyDer::try_from(own.serialize_der()).unwrap();
    let key = provider.key_provider.load_private_key(key).unwrap();
    let shown = rustls::sign::CertifiedKey::new(vec![stolen.der().clone()], key);
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(shown)));
    let server = https(Arc::new(config)).await;
    let kind = probe(Some("web.example"), None, certificate("web.example"));
    let found = failure(&kind, server.address, PATIENT).await;
    let text = "a signature is not by the certificate's key".into();
    assert_eq!(found, Failure::Tls(text));
}

#[tokio::test]
async fn what_is_not_tls_is_named() {
    for garbage in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09",
    ] {
        let server = serve(move |mut stream| async move {
            let _ = stream.write_all(garbage).await;
            // Until the probe leaves: a reset must not overtake the garbage.
            let mut rest = [0; 4096];
            while matches!(stream.read(&mut rest).await, Ok(1..)) {}
        })
        .await;
        let found = failure(&probe(None, None, None), server.address, PATIENT).await;
        assert!(matches!(found, Failure::Tls(_)), "{garbage:?}: {found:?}");
    }
}

#[tokio::test]
async fn close_reset_and_hang_within_the_handshake_are_named() {
    let kind = probe(None, None, None);
    let phase = Phase::Handshake;
    let closing = serve(|mut stream| async move {
        let _ = stream.shutdown().await;
        let mut rest = [0; 4096];
        while matches!(stream.read(&mut rest).await, Ok(1..)) {}
    })
    .await;
    assert_eq!(
        failure(&kind, closing.address, PATIENT).await,
        Failure::Closed { phase }
    );
    let resetting = serve(|mut stream| async move {
        let _ = stream.read_u8().await;
        stream.set_zero_linger().unwrap();
    })
    .await;
    assert_eq!(
        failure(&kind, resetting.address, PATIENT).await,
        Failure::Reset { phase }
    );
    let hanging = serve(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    assert_eq!(
        failure(&kind, hanging.address, SHORT).await,
        Failure::Timeout {
            phase,
            limit: SHORT
        }
    );
}

#[test]
fn ca_file_that_cannot_be_used_is_an_error_when_it_is_prepared() {
    let message = |file: &Path| {
        let tls = TlsProbe {
            server_name: None,
            ca_file: Some(file.to_owned()),
        };
        Client::new(&tls, None, Alpn::Http1)
            .unwrap_err()
            .to_string()
    };
    let missing = message(Path::new("/nonexistent/ca.pem"));
    assert!(
        missing.starts_with("ca_file /nonexistent/ca.pem cannot be used: "),
        "{missing}"
    );
    let empty = pem_file("no certificate here\n");
    assert!(message(empty.path()).contains("holds no certificate"));
    let broken = pem_file("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    assert!(message(broken.path()).contains("cannot be used"));
}

#[test]
fn names_that_are_none_are_refused_when_they_are_prepared() {
    assert_eq!(
        Prober::new(&probe(Some("web example"), None, None)).unwrap_err(),
        PrepareError::ServerName("web example".into())
    );
    assert_eq!(
        Prober::new(&probe(None, None, certificate("*.web.example"))).unwrap_err(),
        PrepareError::CertificateName("*.web.example".into())
    );
}
