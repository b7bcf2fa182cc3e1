//! The end of a probe, and the names of what goes wrong before it.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::health::{Failure, Phase, shortened};

/// The most that a probe may take, so that the deadline can be reckoned.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// The end of a whole probe; its phases share it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    pub(super) at: Instant,
    pub(super) limit: Duration,
}

impl Deadline {
    /// From now on; a day at most.
    pub(crate) fn after(limit: Duration) -> Self {
        let limit = limit.min(MAX_TIMEOUT);
        Self {
            at: Instant::now() + limit,
            limit,
        }
    }

    /// Waits for `work`, at most until the deadline.
    pub(crate) async fn within<T>(
        &self,
        phase: Phase,
        work: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        timeout_at(self.at, work)
            .await
            .map_err(|_| self.timeout(phase))
    }

    pub(super) fn timeout(&self, phase: Phase) -> Failure {
        Failure::Timeout {
            phase,
            limit: self.limit,
        }
    }

    /// Names an error of a socket. An error number that is not known to be
    /// the server's or the network's is taken as our own, since a failure of
    /// our own must never take a backend down. An error without a number comes
    /// from a library's reading of what the server sent, so it is the server's.
    pub(crate) fn io_failure(&self, error: &io::Error, phase: Phase) -> Failure {
        let Some(number) = error.raw_os_error() else {
            return match (error.kind(), phase) {
                (io::ErrorKind::UnexpectedEof, _) => Failure::Closed { phase },
                (io::ErrorKind::BrokenPipe, _) => Failure::Reset { phase },
                (_, Phase::Connect) => Failure::Local(error.to_string()),
                (_, Phase::Handshake) => Failure::Tls(shortened(error.to_string().as_bytes())),
                _ => Failure::BadHttp(shortened(error.to_string().as_bytes())),
            };
        };
        match number {
            libc::ECONNREFUSED => Failure::Refused,
            libc::ECONNRESET | libc::ECONNABORTED | libc::EPIPE => Failure::Reset { phase },
            libc::ETIMEDOUT => self.timeout(phase),
            libc::EADDRNOTAVAIL => Failure::NoAddress,
            // What ICMP errors arrive as. EACCES is ICMPv6's "prohibited": a
            // firewall on the way, which is no fault of this host.
            libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::ENOPROTOOPT
            | libc::EOPNOTSUPP
            | libc::EPROTO
            | libc::EACCES => Failure::Unreachable,
            _ => Failure::Local(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_errors_are_local_and_the_servers_are_not() {
        let deadline = Deadline {
            at: Instant::now(),
            limit: Duration::from_millis(200),
        };
        let phase = Phase::Connect;
        let name = |errno| {
            let error = io::Error::from_raw_os_error(errno);
            deadline.io_failure(&error, phase)
        };
        for errno in [
            libc::EMFILE,
            libc::ENFILE,
            libc::ENOBUFS,
            libc::ENOMEM,
            libc::EPERM,
            libc::EAFNOSUPPORT,
            libc::EADDRNOTAVAIL,
            libc::ENETDOWN,
        ] {
            assert!(name(errno).is_local(), "{:?}", name(errno));
        }
        assert_eq!(name(libc::ECONNREFUSED), Failure::Refused);
        assert_eq!(name(libc::ECONNRESET), Failure::Reset { phase });
        assert_eq!(name(libc::EHOSTUNREACH), Failure::Unreachable);
        assert_eq!(name(libc::ENETUNREACH), Failure::Unreachable);
        assert_eq!(name(libc::EACCES), Failure::Unreachable);
        assert_eq!(name(libc::ETIMEDOUT), deadline.timeout(phase));
    }

    /// Libraries tell of a server's bad bytes as I/O errors without a number:
    /// taken as local they would keep a broken server up for ever.
    #[test]
    fn error_that_no_system_call_made_is_the_servers() {
        let deadline = Deadline {
            at: Instant::now(),
            limit: Duration::from_millis(200),
        };
        let error = io::Error::new(io::ErrorKind::InvalidData, "bad chunk");
        for phase in [Phase::Handshake, Phase::Answer, Phase::Body] {
            assert!(!deadline.io_failure(&error, phase).is_local());
        }
    }
}
