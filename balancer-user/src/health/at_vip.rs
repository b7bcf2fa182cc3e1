//! Why a probe by the VIP failed: what of it points at the VIP or the way
//! there, and what at the server. Pure data with messages.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::Failure;

/// A probe by the VIP that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtVip {
    /// The VIP and the port that was probed.
    pub vip: SocketAddr,
    /// How packets go there, such as `ipip to 10.0.0.11`.
    pub by: String,
    /// Whether they go inside others.
    pub is_tunnel: bool,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with the answer of a VIP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// There is none: the backend does not hold the VIP, or packets for it do
    /// not get there, or are not unwrapped.
    Silent {
        /// The time the whole probe had.
        limit: Duration,
    },
    /// No packet can be sent, for the reason given.
    NoWay(String),
    /// It is no good.
    Bad(Failure),
}

impl AtVip {
    pub(super) fn is_local(&self) -> bool {
        matches!(&self.fault, Fault::Bad(failure) if failure.is_local())
    }

    pub(super) fn is_silence(&self) -> bool {
        match &self.fault {
            Fault::Silent { .. } => true,
            Fault::Bad(failure) => failure.is_silence(),
            Fault::NoWay(_) => false,
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match &self.fault {
            Fault::Silent { .. } => "vip-silent",
            Fault::NoWay(_) => "no-way",
            Fault::Bad(failure) => failure.name(),
        }
    }
}

impl fmt::Display for AtVip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vip, by, .. } = self;
        let question = match self.is_tunnel {
            true => "does the backend have the VIP, and its tunnel?",
            false => "does the backend have the VIP?",
        };
        match &self.fault {
            Fault::Silent { limit } => {
                let limit = humantime::format_duration(*limit);
                write!(
                    f,
                    "no answer by the VIP {vip} ({by}) within {limit}: {question}"
                )
            }
            // What an IPv6 host says of an address that is not its own.
            Fault::Bad(failure @ Failure::Unreachable) => {
                write!(f, "{failure}, by the VIP {vip} ({by}): {question}")
            }
            Fault::NoWay(why) => write!(f, "no packet gets to the VIP {vip} ({by}): {why}"),
            Fault::Bad(failure) => write!(f, "{failure}, by the VIP {vip} ({by})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{Evidence, Outcome};

    fn failed(is_tunnel: bool, fault: Fault) -> Failure {
        let by = match is_tunnel {
            true => "ipip to 10.0.0.3",
            false => "l2 to 10.0.0.3",
        };
        Failure::AtVip(Box::new(AtVip {
            vip: "192.0.2.1:80".parse().unwrap(),
            by: by.to_owned(),
            is_tunnel,
            fault,
        }))
    }

    #[test]
    fn message_names_the_vip_the_way_and_what_to_look_at() {
        let limit = Duration::from_millis(500);
        for (failure, name, message) in [
            (
                failed(true, Fault::Silent { limit }),
                "vip-silent",
                "no answer by the VIP 192.0.2.1:80 (ipip to 10.0.0.3) within 500ms: does the \
                 backend have the VIP, and its tunnel?",
            ),
            (
                failed(false, Fault::Silent { limit }),
                "vip-silent",
                "no answer by the VIP 192.0.2.1:80 (l2 to 10.0.0.3) within 500ms: does the \
                 backend have the VIP?",
            ),
            (
                failed(false, Fault::Bad(Failure::Unreachable)),
                "unreachable",
                "host or network unreachable, by the VIP 192.0.2.1:80 (l2 to 10.0.0.3): does the \
                 backend have the VIP?",
            ),
            (
                failed(true, Fault::Bad(Failure::Refused)),
                "refused",
                "connection refused, by the VIP 192.0.2.1:80 (ipip to 10.0.0.3)",
            ),
            (
                failed(true, Fault::NoWay("no route to 10.0.0.3".to_owned())),
                "no-way",
                "no packet gets to the VIP 192.0.2.1:80 (ipip to 10.0.0.3): no route to 10.0.0.3",
            ),
        ] {
            assert_eq!(failure.name(), name);
            assert_eq!(failure.to_string(), message);
            let outcome = Outcome::Failed {
                reason: failure,
                duration: limit,
            };
            assert_eq!(outcome.evidence(), Evidence::Bad);
        }
        assert!(failed(true, Fault::Silent { limit }).is_silence());
        assert!(!failed(true, Fault::Bad(Failure::Refused)).is_silence());
        assert!(failed(true, Fault::Bad(Failure::NoAddress)).is_local());
    }
}
