//! Why the kernel gave no answer.

use std::fmt;

use nix::errno::Errno;

/// A netlink request that failed.
///
/// Comparable, so that a failure that goes on can be told from a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The kernel gave no socket.
    Open(Errno),
    /// The kernel refused a request.
    Refused {
        /// The request, as the rest of "cannot …".
        asked: &'static str,
        /// Its error number.
        errno: Errno,
    },
    /// The kernel's answer did not come in time, or could not be decoded.
    Late {
        /// The request, as the rest of "cannot …".
        asked: &'static str,
    },
    /// The connection's task has ended; [`super::Netlink::connect`] makes a
    /// new one.
    Closed {
        /// The request, as the rest of "cannot …".
        asked: &'static str,
    },
    /// The kernel answered with a message of another kind.
    Unexpected {
        /// The request, as the rest of "cannot …".
        asked: &'static str,
    },
}

impl Error {
    /// What the library says of the request `asked`.
    pub(super) fn of(asked: &'static str, error: &rtnetlink::Error) -> Self {
        match error {
            rtnetlink::Error::NetlinkError(message) => Self::refused(asked, message.raw_code()),
            rtnetlink::Error::RequestFailed => Self::Closed { asked },
            _ => Self::Unexpected { asked },
        }
    }

    /// The kernel's error `code`, which netlink gives as a negative number.
    pub(super) fn refused(asked: &'static str, code: i32) -> Self {
        let errno = Errno::from_raw(code.saturating_neg());
        Self::Refused { asked, errno }
    }

    /// The kernel's error number, if it was the kernel that refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Open(errno) | Self::Refused { errno, .. } => Some(*errno),
            Self::Late { .. } | Self::Closed { .. } | Self::Unexpected { .. } => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(errno) => write!(f, "cannot open a netlink socket: {}", errno.desc()),
            Self::Refused { asked, errno } => {
                write!(f, "cannot {asked}: {}", errno.desc())?;
                if *errno == Errno::EPERM {
                    f.write_str("; run as root or grant CAP_NET_ADMIN")?;
                }
                Ok(())
            }
            Self::Late { asked } => {
                write!(
                    f,
                    "cannot {asked}: no answer from the kernel within 10 s; try again"
                )
            }
            Self::Closed { asked } => {
                write!(
                    f,
                    "cannot {asked}: the netlink connection has ended; connect again"
                )
            }
            Self::Unexpected { asked } => write!(
                f,
                "cannot {asked}: the kernel answered with a message of another kind; try again"
            ),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_for_want_of_rights_says_which() {
        let error = Error::refused("solicit a neighbour", -(Errno::EPERM as i32));
        assert_eq!(error.errno(), Some(Errno::EPERM));
        assert_eq!(
            error.to_string(),
            "cannot solicit a neighbour: Operation not permitted; \
             run as root or grant CAP_NET_ADMIN"
        );
    }
}
