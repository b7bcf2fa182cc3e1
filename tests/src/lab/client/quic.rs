//! A QUIC client that can move to another port or address in mid-connection,
//! made of quinn. What it says is described at [`crate::lab::quic`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use quinn::{Connection, Endpoint, EndpointConfig, RecvStream, TokioRuntime};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::lab::namespace::Namespace;
use crate::lab::quic::{self, QuicAnswer, SERVER_NAME};
use crate::lab::server::download_pattern;

/// How long a connection or an exchange may take.
const LIMIT: Duration = Duration::from_secs(20);

/// A connection. Dropping it closes it.
#[derive(Debug)]
pub struct QuicClient {
    namespace: Namespace,
    server: SocketAddr,
    endpoint: Endpoint,
    connection: Connection,
    runtime: Runtime,
}

impl QuicClient {
    /// Connects from inside a namespace, from an address or the kernel's choice.
    ///
    /// # Errors
    /// When no server answers in time, or it is none of the lab's.
    pub fn connect(
        namespace: &Namespace,
        source: Option<IpAddr>,
        server: SocketAddr,
    ) -> Result<Self> {
        // Its thread acknowledges and keeps time also while nobody asks.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("lab-quic-client")
            .enable_all()
            .build()?;
        let socket = socket(namespace, source, server)?;
        let config = quic::client_config()?;
        let (endpoint, connection) = runtime.block_on(async {
            let tokio = Arc::new(TokioRuntime);
            let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, tokio)?;
            let connecting = endpoint.connect_with(config, server, SERVER_NAME)?;
            let connection = timeout(LIMIT, connecting)
                .await
                .with_context(|| format!("no answer from {server} within {LIMIT:?}"))?
                .with_context(|| format!("cannot connect to {server}"))?;
            anyhow::Ok((endpoint, connection))
        })?;
        Ok(Self {
            namespace: namespace.clone(),
            server,
            endpoint,
            connection,
            runtime,
        })
    }

    /// The client's port.
    ///
    /// # Errors
    /// When its socket is gone.
    pub fn port(&self) -> Result<u16> {
        Ok(self.endpoint.local_addr()?.port())
    }

    /// Uploads and downloads so many bytes, at the same time as far as the
    /// server goes along, and verifies them.
    ///
    /// # Errors
    /// When the connection is lost, bytes are wrong, or it takes too long.
    pub fn exchange(&self, upload_len: usize, download_len: usize) -> Result<QuicAnswer> {
        self.runtime.block_on(async {
            let mut receive = self.ask(upload_len, download_len).await?;
            self.take(&mut receive, 0, download_len).await?;
            self.take_answer(receive, upload_len).await
        })
    }

    /// A download that moves to a new port, and to `source` if there is one,
    /// when a part of it has arrived.
    ///
    /// # Errors
    /// As [`QuicClient::exchange`], and when the new port is the old one.
    pub fn download_moving(
        &self,
        download_len: usize,
        after_len: usize,
        source: Option<IpAddr>,
    ) -> Result<QuicAnswer> {
        let mut receive = self.runtime.block_on(async {
            let mut receive = self.ask(0, download_len).await?;
            self.take(&mut receive, 0, after_len).await?;
            anyhow::Ok(receive)
        })?;
        self.rebind(source)?;
        self.runtime.block_on(async {
            self.take(&mut receive, after_len, download_len).await?;
            self.take_answer(receive, 0).await
        })
    }

    /// Goes on from a new port, and from another address if there is one, as
    /// behind a NAT that has forgotten the client.
    ///
    /// # Errors
    /// When there is no such address.
    pub fn rebind(&self, source: Option<IpAddr>) -> Result<()> {
        let before = self.port()?;
        let socket = socket(&self.namespace, source, self.server)?;
        let _inside = self.runtime.enter();
        self.endpoint.rebind(socket)?;
        // The old socket was still bound, so the kernel had to choose another.
        ensure!(self.port()? != before, "the port is still {before}");
        Ok(())
    }

    async fn ask(&self, upload_len: usize, download_len: usize) -> Result<RecvStream> {
        let (mut send, receive) = self.connection.open_bi().await?;
        let sending = async {
            send.write_all(&quic::request(download_len, upload_len))
                .await?;
            anyhow::Ok(send.finish()?)
        };
        timeout(LIMIT, sending)
            .await
            .with_context(|| format!("an upload of {upload_len} bytes does not get through"))??;
        Ok(receive)
    }

    /// Takes and verifies the bytes of a download from one offset to another.
    async fn take(&self, receive: &mut RecvStream, from: usize, to: usize) -> Result<()> {
        let mut bytes = vec![0; to - from];
        timeout(LIMIT, receive.read_exact(&mut bytes))
            .await
            .with_context(|| format!("a download stands still before byte {to}"))??;
        ensure!(
            bytes == download_pattern(to)[from..],
            "a download is damaged between bytes {from} and {to}"
        );
        Ok(())
    }

    async fn take_answer(&self, mut receive: RecvStream, upload_len: usize) -> Result<QuicAnswer> {
        let line = timeout(LIMIT, receive.read_to_end(1024))
            .await
            .context("an exchange does not end")??;
        let answer = QuicAnswer::read(&line)?;
        ensure!(
            answer.upload_len == upload_len,
            "of {upload_len} bytes uploaded: {answer:?}"
        );
        Ok(answer)
    }
}

impl Drop for QuicClient {
    fn drop(&mut self) {
        self.connection.close(0u32.into(), b"done");
        // A server may be gone; nobody waits for its goodbye.
        let idle = self.endpoint.wait_idle();
        let _ = self
            .runtime
            .block_on(async { timeout(Duration::from_secs(1), idle).await });
    }
}

fn socket(namespace: &Namespace, source: Option<IpAddr>, server: SocketAddr) -> Result<UdpSocket> {
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let source = source.unwrap_or(any);
    let socket = namespace.run(|| UdpSocket::bind((source, 0)))?;
    socket.with_context(|| format!("cannot send from {source}"))
}
