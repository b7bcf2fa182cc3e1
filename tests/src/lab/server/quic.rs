//! A QUIC server whose connection ids tell who it is, made of quinn.
//!
//! It runs on a thread of this process with its socket in the namespace. What
//! it serves is described at [`crate::lab::quic`].

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use quinn::{Connection, Endpoint, EndpointConfig, RecvStream, SendStream, TokioRuntime};
use tokio::runtime::Runtime;

use super::{LIMIT, download_pattern};
use crate::lab::namespace::Namespace;
use crate::lab::quic::{self, CidMaker, QuicAnswer, ServerId};

/// Longest request that is taken.
const MAX_REQUEST_LEN: usize = 64 << 20;

/// What a QUIC server is to be.
#[derive(Clone, Debug)]
pub struct QuicConfig {
    /// What it calls itself.
    pub name: String,
    /// Where it listens. On a wildcard it answers from the address it was
    /// asked at.
    pub listen: SocketAddr,
    /// What its connection ids carry; random ones of eight bytes without it.
    pub server_id: Option<ServerId>,
}

/// A running server. Dropping it is a crash: its clients hear nothing.
#[derive(Debug)]
pub struct QuicServer {
    seen: Arc<Seen>,
    runtime: Option<Runtime>,
}

#[derive(Debug, Default)]
struct Seen {
    connections: AtomicU64,
    exchanges: AtomicU64,
}

impl QuicServer {
    /// Starts it in a namespace.
    ///
    /// # Errors
    /// When it cannot listen there, or the server id does not fit.
    pub fn start(namespace: &Namespace, config: &QuicConfig) -> Result<Self> {
        let listen = config.listen;
        let socket = namespace.run(|| UdpSocket::bind(listen))?;
        let socket = socket.with_context(|| format!("cannot listen on {listen} over udp"))?;
        let mut endpoint = EndpointConfig::default();
        if let Some(server_id) = config.server_id.clone() {
            CidMaker::new(server_id.clone())?;
            endpoint.cid_generator(move || {
                let maker = CidMaker::new(server_id.clone());
                Box::new(maker.expect("checked just above"))
            });
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("lab-quic-server")
            .enable_all()
            .build()?;
        let endpoint = {
            let _inside = runtime.enter();
            let tokio = Arc::new(TokioRuntime);
            Endpoint::new(endpoint, Some(quic::server_config()?), socket, tokio)?
        };
        let seen = Arc::<Seen>::default();
        let serving = serve(endpoint, config.name.clone(), Arc::clone(&seen));
        runtime.spawn(serving);
        Ok(Self {
            seen,
            runtime: Some(runtime),
        })
    }

    /// Connections whose handshake came to its end.
    pub fn connections(&self) -> u64 {
        self.seen.connections.load(Ordering::Relaxed)
    }

    /// Exchanges answered.
    pub fn exchanges(&self) -> u64 {
        self.seen.exchanges.load(Ordering::Relaxed)
    }
}

impl Drop for QuicServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Not in the background: the port has to be free again.
            runtime.shutdown_timeout(LIMIT);
        }
    }
}

async fn serve(endpoint: Endpoint, name: String, seen: Arc<Seen>) {
    while let Some(incoming) = endpoint.accept().await {
        let (name, seen) = (name.clone(), Arc::clone(&seen));
        tokio::spawn(async move {
            // A client that gives up hears of it from its own side.
            let Ok(connection) = incoming.await else {
                return;
            };
            seen.connections.fetch_add(1, Ordering::Relaxed);
            while let Ok((send, receive)) = connection.accept_bi().await {
                let (connection, name) = (connection.clone(), name.clone());
                let seen = Arc::clone(&seen);
                tokio::spawn(async move {
                    // A stream dropped unfinished is reset: the client sees it.
                    match answer(&connection, name, send, receive).await {
                        Ok(()) => drop(seen.exchanges.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => eprintln!("lab: quic server: {error:#}"),
                    }
                });
            }
        });
    }
}

async fn answer(
    connection: &Connection,
    backend: String,
    mut send: SendStream,
    mut receive: RecvStream,
) -> Result<()> {
    let asked = receive.read_to_end(MAX_REQUEST_LEN).await;
    let asked = asked.context("cannot read a request");
    let (wanted_len, upload_len) = match asked.and_then(|bytes| quic::read_request(&bytes)) {
        Ok(lengths) => lengths,
        Err(error) => {
            // Closed already if that is what went wrong.
            let _ = send.reset(1u32.into());
            return Err(error);
        }
    };
    send.write_all(&download_pattern(wanted_len)).await?;
    let answer = QuicAnswer {
        backend,
        client: connection.remote_address(),
        upload_len,
    };
    send.write_all(answer.line().as_bytes()).await?;
    send.finish()?;
    // The stream lives until the client has all of it.
    send.stopped().await?;
    Ok(())
}
