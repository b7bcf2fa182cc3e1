//! The TLS side of a probe.
//!
//! A probe asks for life and identity, not for secrecy, so without a
//! `ca_file` any chain is taken, expired or self-made: internal servers often
//! have no public certificate. Three things hold all the same: the handshake's
//! signature is checked, so the server owns the key of the certificate it
//! shows; a `server_name` must stand in the certificate; and so must a
//! certificate identity. Note what the last proves without a `ca_file`: which
//! server this says it is, enough against a mistake, not against a forger.
//! With a `ca_file` the chain must lead to it, within its validity.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Deadline, PrepareError};
use crate::config::model::{Identity, TlsProbe};
use crate::health::{Failure, Phase, shortened};

/// Makes TLS connections and checks who is at their other end.
pub(crate) struct Client {
    connector: TlsConnector,
    server_name: Option<ServerName<'static>>,
    identity: Option<ServerName<'static>>,
    alpn: Alpn,
}

/// The protocol that is asked for within TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alpn {
    Http1,
    /// A server that does not take it up has failed (RFC 9113, 3.2).
    Http2,
}

impl Alpn {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("server_name", &self.server_name)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Client {
    pub(crate) fn new(
        tls: &TlsProbe,
        identity: Option<&Identity>,
        alpn: Alpn,
    ) -> Result<Self, PrepareError> {
        let server_name = match &tls.server_name {
            None => None,
            Some(name) => Some(
                ServerName::try_from(name.clone())
                    .map_err(|_| PrepareError::ServerName(name.clone()))?,
            ),
        };
        let identity = match identity {
            Some(Identity::Certificate(name)) => Some(ServerName::DnsName(
                DnsName::try_from(name.clone())
                    .map_err(|_| PrepareError::CertificateName(name.clone()))?,
            )),
            _ => None,
        };
        let roots = tls.ca_file.as_deref().map(authorities).transpose()?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Verifier {
            roots,
            name: server_name.clone(),
            algorithms: provider.signature_verification_algorithms,
        };
        Ok(Self {
            connector: TlsConnector::from(Arc::new(settings(provider, verifier, alpn)?)),
            server_name,
            identity,
            alpn,
        })
    }

    /// Makes the TLS handshake and checks the server's certificate.
    pub(crate) async fn handshake(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        deadline: &Deadline,
    ) -> Result<TlsStream<TcpStream>, Failure> {
        // An address as the name means that no SNI is sent.
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::IpAddress(address.ip().into()),
        };
        let stream = deadline
            .within(Phase::Handshake, self.connector.connect(name, stream))
            .await?
            .map_err(|error| match self.alpn {
                Alpn::Http2 if is_alpn_refused(&error) => Failure::NoHttp2 {
                    got: "none, the server refused".into(),
                },
                _ => io_failure(&error, Phase::Handshake, deadline),
            })?;
        let (_, session) = stream.get_ref();
        let chosen = session.alpn_protocol();
        if self.alpn == Alpn::Http2 && chosen != Some(Alpn::Http2.name()) {
            let got = chosen.map_or_else(|| "none".to_owned(), shortened);
            return Err(Failure::NoHttp2 { got });
        }
        if let Some(identity) = &self.identity {
            let chain = session.peer_certificates().unwrap_or_default();
            judge_identity(chain, identity)?;
        }
        Ok(stream)
    }
}

/// When the server's certificate ends, if that can be read.
pub(super) fn certificate_ends(stream: &TlsStream<TcpStream>) -> Option<SystemTime> {
    let chain = stream.get_ref().1.peer_certificates()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(chain.first()?).ok()?;
    // A time before 1970 has long ended.
    let ends = certificate.validity().not_after.timestamp().max(0);
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(ends.unsigned_abs()))
}

fn settings(
    provider: Arc<CryptoProvider>,
    verifier: Verifier,
    alpn: Alpn,
) -> Result<ClientConfig, PrepareError> {
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| PrepareError::Tls(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.name().to_vec()];
    // A resumed session shows no certificate: one that was replaced or has
    // run out since would go unnoticed.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Reads the certificates of a PEM file as authorities.
pub(crate) fn authorities(path: &Path) -> Result<RootCertStore, PrepareError> {
    let unusable = |error: &dyn std::fmt::Display| PrepareError::CaFile {
        path: path.to_owned(),
        error: error.to_string(),
    };
    let mut roots = RootCertStore::empty();
    let bytes = std::fs::read(path).map_err(|error| unusable(&error))?;
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate.map_err(|error| unusable(&error))?;
        roots.add(certificate).map_err(|error| unusable(&error))?;
    }
    if roots.is_empty() {
        return Err(PrepareError::CaFileEmpty {
            path: path.to_owned(),
        });
    }
    Ok(roots)
}

fn judge_identity(chain: &[CertificateDer<'_>], name: &ServerName<'_>) -> Result<(), Failure> {
    let expected = format!("a certificate for {}", name.to_str());
    let Some(certificate) = chain.first() else {
        let got = "none".into();
        return Err(Failure::IdentityMismatch { expected, got });
    };
    let parsed = ParsedCertificate::try_from(certificate);
    match parsed.and_then(|certificate| verify_server_name(&certificate, name)) {
        Ok(()) => Ok(()),
        Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            presented,
            ..
        })) => Err(Failure::IdentityMismatch {
            expected,
            got: format!("one for {}", names(&presented)),
        }),
        Err(Error::InvalidCertificate(CertificateError::NotValidForName)) => {
            let got = "one for other names".into();
            Err(Failure::IdentityMismatch { expected, got })
        }
        Err(error) => Err(tls_failure(&error)),
    }
}

/// Checks the server's certificate as far as the module's doc says.
#[derive(Debug)]
struct Verifier {
    roots: Option<RootCertStore>,
    name: Option<ServerName<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        if let Some(roots) = &self.roots {
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                roots,
                intermediates,
                now,
                self.algorithms.all,
            )
            .map_err(|error| match error {
                // An authority of the right name and another key. The same
                // error later on means the handshake's own signature.
                Error::InvalidCertificate(CertificateError::BadSignature) => {
                    Error::InvalidCertificate(CertificateError::UnknownIssuer)
                }
                error => error,
            })?;
        }
        if let Some(name) = &self.name {
            verify_server_name(&certificate, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Names an I/O error that may hold one of TLS, which can come as late as
/// with the first byte of the answer.
pub(super) fn io_failure(error: &io::Error, phase: Phase, deadline: &Deadline) -> Failure {
    let inner = error.get_ref();
    match inner.and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => tls_failure(error),
        None => deadline.io_failure(error, phase),
    }
}

/// Whether the server speaks nothing that was offered and says so (RFC 7301,
/// 3.2); others go on without a word.
fn is_alpn_refused(error: &io::Error) -> bool {
    let inner = error.get_ref();
    matches!(
        inner.and_then(|inner| inner.downcast_ref::<Error>()),
        Some(Error::AlertReceived(
            AlertDescription::NoApplicationProtocol
        ))
    )
}

fn tls_failure(error: &Error) -> Failure {
    let fault = match error {
        Error::InvalidCertificate(fault) => fault,
        Error::FailedToGetCurrentTime | Error::FailedToGetRandomBytes => {
            return Failure::Local(error.to_string());
        }
        error => return Failure::Tls(shortened(error.to_string().as_bytes())),
    };
    match fault {
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => Failure::CertificateName {
            expected: expected.to_str().into_owned(),
            presented: names(presented),
        },
        CertificateError::ExpiredContext { time, not_after } => {
            let secs = time.as_secs().saturating_sub(not_after.as_secs());
            Failure::CertificateExpired {
                ago: Duration::from_secs(secs),
            }
        }
        CertificateError::UnknownIssuer => {
            Failure::CertificateUntrusted("its issuer is unknown".into())
        }
        CertificateError::NotValidYetContext { .. } => {
            Failure::CertificateUntrusted("it is not valid yet".into())
        }
        CertificateError::InvalidPurposeContext { .. } => {
            Failure::CertificateUntrusted("it is not meant for a server".into())
        }
        CertificateError::BadSignature => {
            Failure::Tls("a signature is not by the certificate's key".into())
        }
        fault => Failure::Tls(shortened(fault.to_string().as_bytes())),
    }
}

/// The names a certificate carries, for a message. They arrive as the debug
/// text of the library's own type: `DnsName("web.example")`.
fn names(presented: &[String]) -> String {
    if presented.is_empty() {
        return "no names".into();
    }
    let plain: Vec<_> = presented
        .iter()
        .map(|name| {
            name.strip_prefix("DnsName(\"")
                .and_then(|name| name.strip_suffix("\")"))
                .unwrap_or(name)
        })
        .collect();
    shortened(plain.join(", ").as_bytes())
}

#[cfg(test)]
mod tests;
