//! What the lab's QUIC servers and clients have in common: one certificate,
//! connection ids that carry a server id, and what is said on a stream.
//!
//! A stream is one exchange. The client sends how many bytes it wants (eight
//! bytes, big endian) and an upload, and ends its side. The server answers with
//! the bytes asked for and a line, `<name> <client's address> <upload's length>`.
//! Both directions hold [`download_pattern`], so a piece lost, repeated or
//! altered shows; a server that finds one breaks the stream off.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use quinn::rustls::{ClientConfig, RootCertStore, ServerConfig, crypto, version};
use quinn::{ConnectionId, ConnectionIdGenerator, TransportConfig};

use super::server::download_pattern;

/// The name on the certificate.
pub const SERVER_NAME: &str = "quic.lab";

/// What both sides speak on top of QUIC, by the name TLS knows it by.
const ALPN: &[u8] = b"lab";

/// Longest connection id of QUIC version 1 (RFC 9000, 17.2).
const MAX_CID_LEN: usize = 20;

/// A connection without a sign of life for so long is lost.
const IDLE_LIMIT: Duration = Duration::from_secs(5);

/// Bytes a sender holds ready beyond what was acknowledged: little, so that a
/// transfer is still under way when its client moves.
const SEND_WINDOW: u64 = 256 << 10;

/// Where in a server's connection ids its id stands, and which it is: the
/// plain-text form of the IETF's QUIC-LB draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerId {
    /// Bytes before it. The first byte says which configuration made the
    /// connection id and how long it is, so this is at least 1.
    pub offset: usize,
    /// The id; its length is the same on all servers of a service.
    pub id: Vec<u8>,
    /// Length of the whole connection id, at most 20. What the server id
    /// leaves is random.
    pub cid_len: usize,
}

/// Makes connection ids that carry the server id.
pub(super) struct CidMaker(ServerId);

impl CidMaker {
    pub(super) fn new(server_id: ServerId) -> Result<Self> {
        let ServerId {
            offset,
            id,
            cid_len,
        } = &server_id;
        ensure!(
            *offset >= 1 && offset + id.len() <= *cid_len && *cid_len <= MAX_CID_LEN,
            "server id {id:02x?} at {offset} does not fit a connection id of {cid_len} bytes"
        );
        Ok(Self(server_id))
    }
}

impl ConnectionIdGenerator for CidMaker {
    fn generate_cid(&mut self) -> ConnectionId {
        let ServerId {
            offset,
            id,
            cid_len,
        } = &self.0;
        let mut bytes = [0; MAX_CID_LEN];
        rand::fill(&mut bytes);
        // Configuration 0 in the upper three bits; below, how many bytes follow.
        bytes[0] = (*cid_len - 1) as u8;
        bytes[*offset..*offset + id.len()].copy_from_slice(id);
        ConnectionId::new(&bytes[..*cid_len])
    }

    fn cid_len(&self) -> usize {
        self.0.cid_len
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// A certificate that signs itself, with its key.
pub(super) struct Identity {
    /// For servers that read it from a file.
    pub(super) certificate_pem: String,
    /// As above.
    pub(super) key_pem: String,
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

/// The identity of all servers of this process.
pub(super) fn identity() -> Result<&'static Identity> {
    static IDENTITY: OnceLock<Result<Identity, String>> = OnceLock::new();
    let made = IDENTITY.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed([SERVER_NAME.to_owned()]);
        let made = made.map_err(|error| error.to_string())?;
        Ok(Identity {
            certificate_pem: made.cert.pem(),
            key_pem: made.signing_key.serialize_pem(),
            certificate: made.cert.der().clone(),
            key: made.signing_key.serialize_der(),
        })
    });
    made.as_ref()
        .map_err(|error| anyhow::anyhow!("cannot make a certificate: {error}"))
}

/// The configuration of a server.
pub(super) fn server_config() -> Result<quinn::ServerConfig> {
    let identity = identity()?;
    let key = PrivatePkcs8KeyDer::from(identity.key.clone());
    let mut tls = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_protocol_versions(&[&version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![identity.certificate.clone()], key.into())?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let tls = QuicServerConfig::try_from(tls)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(transport()?);
    Ok(config)
}

/// The configuration of a client, which trusts the servers' certificate alone.
pub(super) fn client_config() -> Result<quinn::ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(identity()?.certificate.clone())?;
    let mut tls = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_protocol_versions(&[&version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let tls = QuicClientConfig::try_from(tls)?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(transport()?);
    Ok(config)
}

fn transport() -> Result<Arc<TransportConfig>> {
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(IDLE_LIMIT.try_into()?))
        .send_window(SEND_WINDOW);
    Ok(Arc::new(transport))
}

/// Length and whole text of what a client sends.
pub(super) fn request(wanted_len: usize, upload_len: usize) -> Vec<u8> {
    let mut bytes = (wanted_len as u64).to_be_bytes().to_vec();
    bytes.extend(download_pattern(upload_len));
    bytes
}

/// Reads a request: bytes wanted, bytes uploaded.
pub(super) fn read_request(bytes: &[u8]) -> Result<(usize, usize)> {
    let (wanted, upload) = bytes.split_first_chunk().context("a request is cut off")?;
    ensure!(
        upload == download_pattern(upload.len()),
        "an upload of {} bytes is damaged",
        upload.len()
    );
    Ok((usize::try_from(u64::from_be_bytes(*wanted))?, upload.len()))
}

/// What a server said of an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuicAnswer {
    /// The server's name.
    pub backend: String,
    /// The client, as the server saw it at the end of the exchange.
    pub client: SocketAddr,
    /// Bytes of the upload that arrived.
    pub upload_len: usize,
}

impl QuicAnswer {
    pub(super) fn line(&self) -> String {
        let Self {
            backend,
            client,
            upload_len,
        } = self;
        format!("{backend} {client} {upload_len}")
    }

    /// Reads what came after the bytes asked for.
    pub(super) fn read(bytes: &[u8]) -> Result<Self> {
        let line = std::str::from_utf8(bytes).context("the answer's line is no text")?;
        let words: Vec<&str> = line.split(' ').collect();
        let [backend, client, upload_len] = words.as_slice() else {
            bail!("strange line of an answer: {line:?}");
        };
        Ok(Self {
            backend: (*backend).to_owned(),
            client: client.parse()?,
            upload_len: upload_len.parse()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_id(offset: usize, id: &[u8], cid_len: usize) -> ServerId {
        ServerId {
            offset,
            id: id.to_vec(),
            cid_len,
        }
    }

    #[test]
    fn connection_ids_carry_the_server_id_and_differ() {
        let mut maker = CidMaker::new(server_id(3, &[0xab, 0xcd], 11)).unwrap();
        let (one, other) = (maker.generate_cid(), maker.generate_cid());
        for cid in [&one, &other] {
            assert_eq!((cid.len(), cid[0], &cid[3..5]), (11, 10, &[0xab, 0xcd][..]));
        }
        assert_ne!(one, other);
    }

    #[test]
    fn server_id_that_does_not_fit_is_refused() {
        for (offset, id_len, cid_len) in [(0, 2, 8), (1, 8, 8), (1, 1, 21)] {
            let made = CidMaker::new(server_id(offset, &vec![1; id_len], cid_len));
            assert!(made.is_err(), "{offset} {id_len} {cid_len}");
        }
    }

    #[test]
    fn damaged_upload_is_told_from_a_good_one() {
        let mut bytes = request(7, 100);
        assert_eq!(read_request(&bytes).unwrap(), (7, 100));
        bytes[60] ^= 1;
        assert!(read_request(&bytes).is_err());
        assert!(read_request(&bytes[..7]).is_err());
    }

    #[test]
    fn answers_are_read_as_they_are_written() {
        let answer = QuicAnswer {
            backend: "backend1".to_owned(),
            client: "[fd00::1]:4000".parse().unwrap(),
            upload_len: 12,
        };
        assert_eq!(QuicAnswer::read(answer.line().as_bytes()).unwrap(), answer);
        assert!(QuicAnswer::read(b"backend1 x").is_err());
    }
}
