//! Opens the connection that every probe begins with; alone it is the TCP
//! probe. Dropping the stream resets it: see the invariants of [`super`].

use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

use super::Deadline;
use super::vip::{Ticket, Way};
use crate::health::{Failure, Phase};

/// Connects, with a reset instead of a close at the end. A ticket is to be held
/// as long as the stream.
pub(super) async fn connect(
    way: &Way,
    deadline: &Deadline,
) -> Result<(TcpStream, Option<Ticket>), Failure> {
    let socket = match way.address() {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let socket = socket.map_err(|error| deadline.io_failure(&error, Phase::Connect))?;
    socket
        .set_zero_linger()
        .map_err(|error| deadline.io_failure(&error, Phase::Connect))?;
    let ticket = way.enter(SockRef::from(&socket), deadline)?;
    let stream = deadline
        .within(Phase::Connect, socket.connect(way.address()))
        .await?
        .map_err(|error| deadline.io_failure(&error, Phase::Connect))?;
    Ok((stream, ticket))
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use tokio::io::AsyncReadExt;

    use super::super::testing::{PATIENT, closed_port, failure, full_listener, listener, target};
    use super::super::{Outcome, Prober};
    use super::*;
    use crate::config::model::ProbeKind;
    use crate::probe::testing::SHORT;

    #[tokio::test]
    async fn open_port_passes_and_is_left_with_a_reset() {
        let (listener, address) = listener().await;
        let prober = Prober::new(&ProbeKind::Tcp).unwrap();
        let id = target();
        let (outcome, accepted) =
            tokio::join!(prober.probe(&id, address, PATIENT), listener.accept());
        assert!(matches!(outcome, Outcome::Passed { .. }), "{outcome:?}");
        let (mut stream, _) = accepted.unwrap();
        let error = stream.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn closed_port_is_refused_at_once() {
        let (_held, address) = closed_port();
        assert_eq!(
            failure(&ProbeKind::Tcp, address, PATIENT).await,
            Failure::Refused
        );
    }

    #[tokio::test]
    async fn handshake_that_never_ends_is_a_timeout() {
        let (_full, address) = full_listener().await;
        assert_eq!(
            failure(&ProbeKind::Tcp, address, SHORT).await,
            Failure::Timeout {
                phase: Phase::Connect,
                limit: SHORT
            }
        );
    }
}
