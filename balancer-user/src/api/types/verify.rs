//! Whether the kernel holds what was written there: the answer.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What an audit of the kernel's tables, program, links and interfaces found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Verification {
    /// Whether all is as the running configuration says.
    pub is_right: bool,
    /// What was not, just now or, in large tables, since the present round
    /// began.
    pub findings: Vec<DriftFinding>,
    /// What was found before and written anew, the latest last.
    pub repaired: Vec<RepairedDrift>,
    /// Whether what is found is written anew: by `node.repair_drift`, or as
    /// that was asked for.
    pub repairs: bool,
    /// Services that were compared.
    pub services: usize,
    /// Their slots.
    pub slots: u64,
    /// The number of the program that is in force.
    pub program_id: Option<u32>,
    /// Interfaces that run it.
    pub interfaces: Vec<String>,
    /// How long it took.
    pub duration_micros: u64,
    /// How long the daemon's last round over all tables took by itself.
    pub round_seconds: Option<f64>,
}

/// Something in the kernel that is not what was written there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DriftFinding {
    /// `kernel-drift`.
    pub rule: String,
    /// `slots`, `member`, `options`, `key`, `head`, `sources`, `egress`,
    /// `program` or `pin`.
    pub what: String,
    /// The service's name, if it is about one.
    pub service: Option<String>,
    /// The backend's name, if it is about one.
    pub backend: Option<String>,
    /// First and last slot, if it is about slots.
    pub slots: Option<(u32, u32)>,
    /// The interface, if it is about one.
    pub interface: Option<String>,
    /// What was written.
    pub expected: String,
    /// What is there.
    pub seen: String,
    /// Whether it was written anew at once.
    pub is_repaired: bool,
}

/// A difference that is no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RepairedDrift {
    /// Seconds since it was found.
    pub ago_seconds: u64,
    /// What it was.
    pub finding: DriftFinding,
}

impl std::fmt::Display for DriftFinding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(service) = &self.service {
            write!(f, "service {service}: ")?;
        }
        if let Some(interface) = &self.interface {
            write!(f, "interface {interface}: ")?;
        }
        match (&self.slots, &self.backend) {
            (Some((first, last)), _) if first == last => write!(f, "slot {first}")?,
            (Some((first, last)), _) => write!(f, "slots {first} to {last}")?,
            (None, Some(backend)) => write!(f, "backend {backend}")?,
            (None, None) => f.write_str(&self.what)?,
        }
        write!(
            f,
            ": expected {}, the kernel has {}",
            self.expected, self.seen
        )?;
        f.write_str(if self.is_repaired { "; repaired" } else { "" })
    }
}
