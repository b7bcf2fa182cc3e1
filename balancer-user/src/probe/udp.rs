//! The UDP probe: one datagram, and the first that comes back.
//!
//! The socket is connected, so that only the server's own datagrams are heard,
//! and a closed port is told of at once by ICMP. A datagram that is lost on the
//! way is a bad probe; `fall` is there for that.

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::UdpSocket;

use super::Deadline;
use super::vip::{Ticket, Way};
use crate::config::model::{Payload, UdpProbe};
use crate::health::{Failure, Phase, shortened};

/// The most of a datagram that is read: all of it.
const MAX_DATAGRAM: usize = 65_535;

/// Sends a datagram and judges its answer.
#[derive(Debug)]
pub(super) struct Client(UdpProbe);

impl Client {
    pub(super) fn new(probe: &UdpProbe) -> Self {
        Self(probe.clone())
    }

    pub(super) async fn exchange(&self, way: &Way, deadline: &Deadline) -> Result<(), Failure> {
        let (socket, _ticket) = connect(way, deadline).await?;
        send(&socket, self.0.send.bytes(), deadline).await?;
        let mut buffer = vec![0; MAX_DATAGRAM];
        let answer = receive(&socket, &mut buffer, deadline).await?;
        let Some(wanted) = &self.0.expect else {
            return Ok(());
        };
        let bytes = wanted.bytes();
        if answer.windows(bytes.len().max(1)).any(|part| part == bytes) {
            return Ok(());
        }
        let shown = |bytes: &[u8]| match wanted {
            Payload::Text(_) => format!("\"{}\"", shortened(bytes)),
            Payload::Hex(_) => hex(bytes),
        };
        Err(Failure::UnexpectedAnswer {
            expected: format!("an answer with {}", shown(bytes)),
            got: format!("{} bytes: {}", answer.len(), shown(answer)),
        })
    }
}

/// A socket that hears nobody else. A ticket is to be held as long.
pub(super) async fn connect(
    way: &Way,
    deadline: &Deadline,
) -> Result<(UdpSocket, Option<Ticket>), Failure> {
    let named = |error| deadline.io_failure(&error, Phase::Connect);
    let domain = Domain::for_address(way.address());
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), None).map_err(named)?;
    let ticket = way.enter(SockRef::from(&socket), deadline)?;
    let socket = UdpSocket::from_std(socket.into()).map_err(named)?;
    socket.connect(way.address()).await.map_err(named)?;
    Ok((socket, ticket))
}

pub(super) async fn send(
    socket: &UdpSocket,
    payload: &[u8],
    deadline: &Deadline,
) -> Result<(), Failure> {
    let sent = deadline
        .within(Phase::Datagram, socket.send(payload))
        .await?;
    sent.map(drop)
        .map_err(|error| deadline.io_failure(&error, Phase::Datagram))
}

pub(super) async fn receive<'a>(
    socket: &UdpSocket,
    buffer: &'a mut [u8],
    deadline: &Deadline,
) -> Result<&'a [u8], Failure> {
    let len = deadline
        .within(Phase::Datagram, socket.recv(buffer))
        .await?;
    let len = len.map_err(|error| deadline.io_failure(&error, Phase::Datagram))?;
    Ok(&buffer[..len])
}

/// Bytes as hex digits, cut after 32 of them.
fn hex(bytes: &[u8]) -> String {
    const SHOWN: usize = 32;
    let mut text: String = bytes
        .iter()
        .take(SHOWN)
        .map(|it| format!("{it:02x}"))
        .collect();
    if bytes.len() > SHOWN {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::ProbeKind;
    use crate::health::Outcome;
    use crate::probe::testing::{PATIENT, SHORT, answering_udp, failure, outcome};

    fn probe(send: &str, expect: Option<Payload>) -> ProbeKind {
        ProbeKind::Udp(UdpProbe {
            send: Payload::Text(send.into()),
            expect,
        })
    }

    fn text(text: &str) -> Option<Payload> {
        Some(Payload::Text(text.into()))
    }

    #[tokio::test]
    async fn answer_must_contain_what_is_expected() {
        let echo = answering_udp(|request| Some([b"you said ", request].concat())).await;
        for expect in [
            None,
            text("said ping"),
            Some(Payload::Hex(b"ping".to_vec())),
        ] {
            let found = outcome(&probe("ping", expect), echo.address, PATIENT).await;
            assert!(matches!(found, Outcome::Passed { .. }), "{found:?}");
        }
        assert_eq!(
            failure(&probe("ping", text("pong")), echo.address, PATIENT).await,
            Failure::UnexpectedAnswer {
                expected: "an answer with \"pong\"".into(),
                got: "13 bytes: \"you said ping\"".into()
            }
        );
        let hex = Some(Payload::Hex(vec![0, 255]));
        assert_eq!(
            failure(&probe("!", hex), echo.address, PATIENT).await,
            Failure::UnexpectedAnswer {
                expected: "an answer with 00ff".into(),
                got: "10 bytes: 796f75207361696420 21"
                    .replace(' ', "")
                    .replace("bytes:", " bytes: ")
            }
        );
    }

    #[tokio::test]
    async fn empty_answer_is_one_and_holds_nothing() {
        let empty = answering_udp(|_| Some(Vec::new())).await;
        let found = outcome(&probe("ping", None), empty.address, PATIENT).await;
        assert!(matches!(found, Outcome::Passed { .. }), "{found:?}");
        let found = failure(&probe("ping", text("x")), empty.address, PATIENT).await;
        assert!(matches!(found, Failure::UnexpectedAnswer { .. }), "{found}");
    }

    #[tokio::test]
    async fn silent_server_is_a_timeout_and_a_closed_port_is_refused() {
        let silent = answering_udp(|_| None).await;
        assert_eq!(
            failure(&probe("ping", None), silent.address, SHORT).await,
            Failure::Timeout {
                phase: Phase::Datagram,
                limit: SHORT
            }
        );
        let held = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        // Connected elsewhere, so it is closed to the probe and nobody else's.
        held.connect("127.0.0.1:9").unwrap();
        assert_eq!(
            failure(&probe("ping", None), address, PATIENT).await,
            Failure::Refused
        );
    }
}
