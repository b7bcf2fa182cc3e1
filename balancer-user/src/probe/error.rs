//! Why a probe cannot be made as configured.

use std::fmt;
use std::path::PathBuf;

/// Why a probe cannot be made from its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrepareError {
    /// The authorities' file cannot be read or holds something unusable.
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: String,
    },
    /// The authorities' file holds no certificate.
    CaFileEmpty {
        /// The file.
        path: PathBuf,
    },
    /// The path is no request target.
    Path(String),
    /// The host cannot stand in a header field.
    Host(String),
    /// The name of the identity's header field is none.
    HeaderName(String),
    /// The server name is neither a DNS name nor an address.
    ServerName(String),
    /// The certificate identity is no DNS name.
    CertificateName(String),
    /// A certificate identity on a probe without TLS.
    CertificateWithoutTls,
    /// The pattern of the identity is no regular expression, or a vast one.
    Pattern(String),
    /// The name that a DNS server is asked for is none.
    QueryName(String),
    /// The user that a command is to run as is not known here.
    User(String),
    /// The TLS library refuses its own defaults.
    Tls(String),
}

impl fmt::Display for PrepareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CaFile { path, error } => {
                write!(f, "ca_file {} cannot be used: {error}", path.display())
            }
            Self::CaFileEmpty { path } => write!(
                f,
                "ca_file {} holds no certificate; it must hold at least one in PEM",
                path.display()
            ),
            Self::Path(path) => write!(f, "path {path:?} is no request target; try \"/\""),
            Self::Host(host) => write!(f, "host {host:?} cannot stand in a header field"),
            Self::HeaderName(name) => {
                write!(f, "identity header {name:?} is no name of a header field")
            }
            Self::ServerName(name) => {
                write!(
                    f,
                    "server_name {name:?} is neither a DNS name nor an address"
                )
            }
            Self::CertificateName(name) => write!(
                f,
                "identity certificate {name:?} is no DNS name; give one name without a wildcard"
            ),
            Self::CertificateWithoutTls => f.write_str(
                "identity certificate needs a probe of kind \"https\", \"h2\" or \"grpcs\"",
            ),
            Self::Pattern(error) => write!(f, "identity pattern cannot be used: {error}"),
            Self::QueryName(name) => write!(f, "query_name {name:?} is no DNS name"),
            Self::User(name) => write!(
                f,
                "command_user {name:?} is no user of this host; create it or name another"
            ),
            Self::Tls(error) => write!(f, "TLS cannot be set up: {error}"),
        }
    }
}

impl std::error::Error for PrepareError {}
