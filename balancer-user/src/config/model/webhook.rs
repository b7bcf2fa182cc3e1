//! Where incidents are told.

use std::path::PathBuf;
use std::time::Duration;

/// `[[node.webhook]]`: a receiver of incidents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Unique name.
    pub name: String,
    /// Where it is: `http` or `https`. It may hold a secret.
    pub url: String,
    /// What it takes.
    pub kind: WebhookKind,
    /// How long a request may take.
    pub timeout: Duration,
    /// Authorities of an `https` receiver in PEM; `None` means the system's.
    pub ca_file: Option<PathBuf>,
}

/// What a receiver takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookKind {
    /// Alerts of Alertmanager's API, version 2.
    Alertmanager,
    /// An incident a request.
    Json,
}

impl WebhookKind {
    /// As the file has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alertmanager => "alertmanager",
            Self::Json => "json",
        }
    }
}
