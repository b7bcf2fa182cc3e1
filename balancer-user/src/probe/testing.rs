//! Servers for the probes' tests, good ones and each kind of bad one.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::task::JoinHandle;

use super::scheduler::TargetId;
use super::{ProbeKind, Prober};
use crate::health::{Failure, Outcome};

/// For tests in which the timeout is what is tested.
pub(crate) const SHORT: Duration = Duration::from_millis(200);
/// For all others: never reached, also on a busy machine.
pub(crate) const PATIENT: Duration = Duration::from_secs(20);

/// A server that ends with its test.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves connections one after the other.
pub(crate) async fn serve<F, R>(handle: F) -> Server
where
    F: Fn(TcpStream) -> R + Send + 'static,
    R: Future<Output = ()> + Send,
{
    let (listener, address) = listener().await;
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            handle(stream).await;
        }
    });
    Server { address, task }
}

pub(crate) async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A port that is held but not listened on, so nobody else can open it.
pub(crate) fn closed_port() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// A listener whose queue is full: the kernel drops further SYNs.
pub(crate) async fn full_listener() -> ((TcpListener, TcpStream), SocketAddr) {
    let (socket, address) = closed_port();
    let listener = socket.listen(0).unwrap();
    let queued = TcpStream::connect(address).await.unwrap();
    ((listener, queued), address)
}

pub(crate) async fn outcome(kind: &ProbeKind, address: SocketAddr, timeout: Duration) -> Outcome {
    let prober = Prober::new(kind).unwrap();
    prober.probe(&target(), address, timeout).await
}

/// Whose probes these are.
pub(crate) fn target() -> TargetId {
    TargetId {
        service: "web".to_owned(),
        backend: "web-1".to_owned(),
    }
}

/// Answers each datagram with what is made of it.
pub(crate) async fn answering_udp(
    answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static,
) -> Server {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut buffer = vec![0; 65_535];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            if let Some(answer) = answer(&buffer[..len]) {
                let _ = socket.send_to(&answer, from).await;
            }
        }
    });
    Server { address, task }
}

/// The failure of a probe that must fail.
pub(crate) async fn failure(kind: &ProbeKind, address: SocketAddr, timeout: Duration) -> Failure {
    match outcome(kind, address, timeout).await {
        Outcome::Failed { reason, .. } => reason,
        Outcome::Passed { .. } => panic!("the probe of {address} passed"),
    }
}
