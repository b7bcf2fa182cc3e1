//! What one probe found, and the named reasons for which a probe fails.
//!
//! Pure data with messages: the sockets that produce it are in
//! [`crate::probe`]. Text that came from a server is escaped and shortened
//! before it gets in here ([`shortened`]), so that an answer cannot write
//! into our logs what it likes.

use std::fmt;
use std::time::{Duration, SystemTime};

use super::AtVip;

/// Characters of a server's text that a message repeats.
const SHOWN_CHARS: usize = 64;

/// What one probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The server answered, as the right server and as it should.
    Passed {
        /// From the start of the probe to the last byte it needed.
        duration: Duration,
        /// When the certificate ends that it showed, if it did.
        certificate_ends: Option<SystemTime>,
    },
    /// It did not, or the probe could not be made.
    Failed {
        /// Why.
        reason: Failure,
        /// From the start of the probe to the failure.
        duration: Duration,
    },
}

impl Outcome {
    /// What this says about the backend.
    pub fn evidence(&self) -> Evidence {
        match self {
            Self::Passed { .. } => Evidence::Good,
            Self::Failed { reason, .. } if reason.is_local() => Evidence::None,
            Self::Failed { .. } => Evidence::Bad,
        }
    }

    /// Why the probe failed, if it did.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Passed { .. } => None,
            Self::Failed { reason, .. } => Some(reason),
        }
    }

    /// When the certificate ends that the server showed.
    pub fn certificate_ends(&self) -> Option<SystemTime> {
        match self {
            Self::Passed {
                certificate_ends, ..
            } => *certificate_ends,
            Self::Failed { .. } => None,
        }
    }

    /// How long the probe took.
    pub fn duration(&self) -> Duration {
        match self {
            Self::Passed { duration, .. } | Self::Failed { duration, .. } => *duration,
        }
    }
}

/// What an outcome says about the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// It works.
    Good,
    /// It does not.
    Bad,
    /// Nothing: the probe failed on our own side. Were that counted, one
    /// balancer out of file descriptors would take all its backends down.
    None,
}

/// The part of a probe in which it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// TCP's handshake.
    Connect,
    /// Waiting for a datagram.
    Datagram,
    /// A program of the operator's runs.
    Command,
    /// The TLS handshake.
    Handshake,
    /// Sending the request, and the answer up to the end of its header.
    Answer,
    /// The answer's body.
    Body,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "the TCP handshake",
            Self::Datagram => "the wait for an answer",
            Self::Command => "the command's run",
            Self::Handshake => "the TLS handshake",
            Self::Answer => "the answer's header",
            Self::Body => "the answer's body",
        })
    }
}

/// What a failure begins with of which the server is not the right one.
pub const WRONG_SERVER: &str = "wrong server";

/// Why a probe failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The probe's time ran out; it covers the whole probe, so a server that
    /// drips ends here as well as one that hangs.
    Timeout {
        /// What was going on then.
        phase: Phase,
        /// The time the whole probe had.
        limit: Duration,
    },
    /// The port is closed.
    Refused,
    /// The server reset the connection.
    Reset {
        /// What was going on then.
        phase: Phase,
    },
    /// The server closed the connection too early.
    Closed {
        /// What was going on then.
        phase: Phase,
    },
    /// No route, or the network or a neighbour said so.
    Unreachable,
    /// No local address or port to probe from; a local failure.
    NoAddress,
    /// The status is not one that passes.
    BadStatus {
        /// The answer's.
        got: u16,
        /// Those that pass, as text.
        expected: String,
    },
    /// A server answered, but not the right one.
    IdentityMismatch {
        /// What would have proved it, as text.
        expected: String,
        /// What was there instead, shortened.
        got: String,
    },
    /// The answer is not HTTP/1.
    BadHttp(String),
    /// The answer is not HTTP/2, or the server gave the request up.
    BadHttp2(String),
    /// The server does not take up HTTP/2 within TLS.
    NoHttp2 {
        /// What it chose by ALPN instead.
        got: String,
    },
    /// The answer is not gRPC's.
    BadGrpc(String),
    /// The gRPC call failed.
    GrpcStatus {
        /// gRPC's number of the error.
        code: u32,
        /// Its name, and what the server said, shortened.
        text: String,
    },
    /// The gRPC server says that the service is not served.
    NotServing {
        /// The word that it answered.
        status: String,
    },
    /// A datagram or a DNS answer holds something else.
    UnexpectedAnswer {
        /// What would have passed, as text.
        expected: String,
        /// What came, shortened.
        got: String,
    },
    /// What came is no DNS answer.
    BadDns(String),
    /// The DNS server answered with an error, such as `NXDomain`.
    DnsError(String),
    /// The command ended with another status than 0.
    CommandFailed {
        /// How it ended.
        status: String,
        /// What it wrote, shortened.
        output: String,
    },
    /// The command writes more than is read of it.
    OutputTooLarge {
        /// The most that is read, in bytes.
        limit: usize,
    },
    /// The header of the answer is longer than a probe reads.
    HeaderTooLarge {
        /// The most that a probe reads, in bytes.
        limit: usize,
    },
    /// The TLS handshake failed.
    Tls(String),
    /// The certificate lacks the name that was asked for.
    CertificateName {
        /// The name asked for.
        expected: String,
        /// The names it carries, shortened.
        presented: String,
    },
    /// The certificate has run out.
    CertificateExpired {
        /// How long ago.
        ago: Duration,
    },
    /// The certificate does not lead to an authority of the `ca_file`.
    CertificateUntrusted(String),
    /// A probe by the VIP failed.
    AtVip(Box<AtVip>),
    /// Something of our own failed (file descriptors, memory, a local rule);
    /// it says nothing about the backend and must not count against it.
    Local(String),
}

impl Failure {
    /// Whether this is our own fault and says nothing about the backend.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Local(_) | Self::NoAddress => true,
            Self::AtVip(it) => it.is_local(),
            _ => false,
        }
    }

    /// Whether nothing came back in time, so that nobody may be there.
    pub fn is_silence(&self) -> bool {
        match self {
            Self::Timeout { .. } => true,
            Self::AtVip(it) => it.is_silence(),
            _ => false,
        }
    }

    /// One stable word a kind, for metrics and JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Timeout { .. } => "timeout",
            Self::Refused => "refused",
            Self::Reset { .. } => "reset",
            Self::Closed { .. } => "closed",
            Self::Unreachable => "unreachable",
            Self::NoAddress => "no-address",
            Self::BadStatus { .. } => "bad-status",
            Self::IdentityMismatch { .. } => "identity-mismatch",
            Self::BadHttp(_) => "bad-http",
            Self::BadHttp2(_) => "bad-http2",
            Self::NoHttp2 { .. } => "no-http2",
            Self::BadGrpc(_) => "bad-grpc",
            Self::GrpcStatus { .. } => "grpc-status",
            Self::NotServing { .. } => "not-serving",
            Self::UnexpectedAnswer { .. } => "unexpected-answer",
            Self::BadDns(_) => "bad-dns",
            Self::DnsError(_) => "dns-error",
            Self::CommandFailed { .. } => "command-failed",
            Self::OutputTooLarge { .. } => "output-too-large",
            Self::HeaderTooLarge { .. } => "header-too-large",
            Self::Tls(_) => "tls",
            Self::CertificateName { .. } => "certificate-name",
            Self::CertificateExpired { .. } => "certificate-expired",
            Self::CertificateUntrusted(_) => "certificate-untrusted",
            Self::AtVip(it) => it.name(),
            Self::Local(_) => "local",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout { phase, limit } => {
                let limit = humantime::format_duration(*limit);
                write!(f, "timed out after {limit} during {phase}")
            }
            Self::Refused => f.write_str("connection refused"),
            Self::Reset { phase } => write!(f, "connection reset during {phase}"),
            Self::Closed { phase } => write!(f, "connection closed during {phase}"),
            Self::Unreachable => f.write_str("host or network unreachable"),
            Self::NoAddress => f.write_str(
                "this host has no address or free port to probe from; \
                 says nothing about the backend",
            ),
            Self::BadStatus { got, expected } => write!(f, "status {got}, expected {expected}"),
            Self::IdentityMismatch { expected, got } => {
                write!(f, "{WRONG_SERVER}: expected {expected}, got {got}")
            }
            Self::BadHttp(text) => write!(f, "answer is not valid HTTP/1: {text}"),
            Self::BadHttp2(text) => write!(f, "answer is not valid HTTP/2: {text}"),
            Self::NoHttp2 { got } => {
                write!(f, "server does not speak HTTP/2 over TLS: ALPN chose {got}")
            }
            Self::BadGrpc(text) => write!(f, "answer is not valid gRPC: {text}"),
            Self::GrpcStatus { code, text } => write!(f, "gRPC status {code} ({text})"),
            Self::NotServing { status } => write!(f, "health is {status}, expected SERVING"),
            Self::UnexpectedAnswer { expected, got } => {
                write!(f, "expected {expected}, got {got}")
            }
            Self::BadDns(text) => write!(f, "answer is not valid DNS: {text}"),
            Self::DnsError(text) => write!(f, "DNS server answered {text}"),
            Self::CommandFailed { status, output } if output.is_empty() => {
                write!(f, "command ended with {status}")
            }
            Self::CommandFailed { status, output } => {
                write!(f, "command ended with {status}: {output}")
            }
            Self::OutputTooLarge { limit } => {
                write!(f, "command wrote more than {limit} bytes")
            }
            Self::HeaderTooLarge { limit } => {
                write!(
                    f,
                    "answer's header is longer than {limit} bytes or 100 fields"
                )
            }
            Self::Tls(text) => write!(f, "TLS handshake failed: {text}"),
            Self::CertificateName {
                expected,
                presented,
            } => write!(
                f,
                "certificate lacks the name {expected}, carries {presented}"
            ),
            Self::CertificateExpired { ago } => {
                let ago = humantime::format_duration(Duration::from_secs(ago.as_secs()));
                write!(f, "certificate expired {ago} ago")
            }
            Self::CertificateUntrusted(text) => {
                write!(f, "certificate is not trusted by the ca_file: {text}")
            }
            Self::AtVip(it) => it.fmt(f),
            Self::Local(text) => {
                write!(
                    f,
                    "probe could not be made: {text}; says nothing about the backend"
                )
            }
        }
    }
}

/// A server's text as it may stand in a message: control characters escaped,
/// cut after 64 characters.
pub fn shortened(text: &[u8]) -> String {
    // Four bytes are the most a character takes; one more shows the cut.
    let head = &text[..text.len().min(SHOWN_CHARS * 4 + 4)];
    let text = String::from_utf8_lossy(head);
    let mut short = String::new();
    for (index, character) in text.chars().enumerate() {
        if index == SHOWN_CHARS {
            short.push('…');
            break;
        }
        match character {
            '"' | '\'' => short.push(character),
            _ => short.extend(character.escape_debug()),
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_lower_case_and_name_value_and_limit() {
        let cases = [
            (
                Failure::Timeout {
                    phase: Phase::Connect,
                    limit: Duration::from_millis(500),
                },
                "timed out after 500ms during the TCP handshake",
            ),
            (
                Failure::BadStatus {
                    got: 503,
                    expected: "200".into(),
                },
                "status 503, expected 200",
            ),
            (
                Failure::CertificateExpired {
                    ago: Duration::from_millis(86_400_500),
                },
                "certificate expired 1day ago",
            ),
            (
                Failure::Reset {
                    phase: Phase::Answer,
                },
                "connection reset during the answer's header",
            ),
        ];
        for (failure, message) in cases {
            assert_eq!(failure.to_string(), message);
            assert!(!message.ends_with('.'));
        }
    }

    #[test]
    fn local_failure_is_no_evidence() {
        let duration = Duration::ZERO;
        for (reason, evidence) in [
            (Failure::Local("too many open files".into()), Evidence::None),
            (Failure::NoAddress, Evidence::None),
            (Failure::Refused, Evidence::Bad),
            (Failure::Unreachable, Evidence::Bad),
        ] {
            let outcome = Outcome::Failed { reason, duration };
            assert_eq!(outcome.evidence(), evidence, "{outcome:?}");
        }
        let passed = Outcome::Passed {
            duration,
            certificate_ends: None,
        };
        assert_eq!(passed.evidence(), Evidence::Good);
    }

    #[test]
    fn servers_text_cannot_break_a_log_line() {
        assert_eq!(shortened(b"a\nb\x1b[31m"), "a\\nb\\u{1b}[31m");
        assert_eq!(shortened(&[0xff]), "\u{fffd}");
        let long = shortened("é".repeat(1000).as_bytes());
        assert_eq!(long, "é".repeat(64) + "…");
    }
}
