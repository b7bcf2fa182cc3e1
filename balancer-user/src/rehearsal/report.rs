//! What a rehearsal found. The JSON keys are a contract.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Differences that are told one by one; more are only counted.
pub const MAX_DIFFERENCES: usize = 20;

/// How a rehearsal went.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rehearsal {
    /// Synthetic flows that were run.
    pub flows: u64,
    /// Their packets.
    pub packets: u64,
    /// How long it all took, loading included.
    pub duration_millis: u64,
    /// Services whose table was built anew from the file to compare with; of
    /// more than that, only owners' shares were compared with the weights.
    pub tables_built: usize,
    /// Service by service, in the file's order; of those that do not change
    /// only the ones that were sampled.
    pub services: Vec<ServiceRehearsal>,
    /// The first [`MAX_DIFFERENCES`] differences from the plan.
    pub differences: Vec<Difference>,
    /// How many there were.
    pub difference_count: u64,
}

/// What was seen of a service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceRehearsal {
    /// Its name.
    pub service: String,
    /// Whether the change touches it; if not, all was compared with what is
    /// in force.
    pub is_changed: bool,
    /// Flows of it that were run.
    pub flows: u64,
    /// Their packets.
    pub packets: u64,
    /// Of these, refused as the lists of sources say.
    pub refused: u64,
    /// New flows that the limit of new flows stopped.
    pub limited: u64,
    /// Packets to backends to which no way is known yet.
    pub no_next_hop: u64,
    /// Packets with no backend to go to.
    pub no_backend: u64,
    /// New flows that go to another backend than they do now.
    pub moved: u64,
    /// Its backends, in the file's order.
    pub backends: Vec<BackendRehearsal>,
}

/// What was seen of a backend.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackendRehearsal {
    /// Its name.
    pub backend: String,
    /// Slots it owns.
    pub slots: u32,
    /// Its slots as a share of the table, 0 to 1.
    pub share_expected: f64,
    /// New flows by hash that it got.
    pub flows: u64,
    /// Their share, 0 to 1.
    pub share_seen: f64,
}

/// Something that the kernel program does otherwise than planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Difference {
    /// The service's name.
    pub service: String,
    /// The packet, or the backend that a share is of.
    pub flow: String,
    /// What is different: `verdict`, `backend`, `slot`, a field of the frame
    /// that left, `slots`, `share`.
    pub what: String,
    /// What the plan says.
    pub expected: String,
    /// What the program did.
    pub seen: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "service {}: {}: {}: expected {}, seen {}",
            self.service, self.flow, self.what, self.expected, self.seen
        )
    }
}

impl Rehearsal {
    /// Whether the program did all as planned.
    pub fn is_as_planned(&self) -> bool {
        self.difference_count == 0
    }

    /// One sentence.
    pub fn summary(&self) -> String {
        let changed = self.services.iter().filter(|it| it.is_changed).count();
        let ran = format!(
            "{} flows ({} packets) of {} changed and {} other services in {:.1} s",
            self.flows,
            self.packets,
            changed,
            self.services.len() - changed,
            self.duration_millis as f64 / 1000.0
        );
        match (self.difference_count, self.differences.first()) {
            (0, _) | (_, None) => format!("rehearsed {ran}: all as planned"),
            (1, Some(only)) => format!("rehearsed {ran}: 1 difference: {only}"),
            (count, Some(first)) => {
                format!("rehearsed {ran}: {count} differences, the first: {first}")
            }
        }
    }

    /// Adds what another copy of the program did.
    pub(super) fn add(&mut self, part: Self) {
        self.flows += part.flows;
        self.packets += part.packets;
        self.services.extend(part.services);
        self.difference_count += part.difference_count;
        self.differences.extend(part.differences);
        self.differences.truncate(MAX_DIFFERENCES);
    }

    pub(super) fn differ(&mut self, difference: Difference) {
        self.difference_count += 1;
        if self.differences.len() < MAX_DIFFERENCES {
            self.differences.push(difference);
        }
    }
}
