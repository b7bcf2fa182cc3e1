//! A plan as it is shown, stored and sent.
//!
//! Shares are from 0 to 1 of a service's slots, which are its new flows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::config::render::settings::SettingChange;
use crate::parallel;

/// What a change would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Plan {
    /// One line that a person can judge by.
    pub summary: String,
    /// Whether anything would change.
    pub has_changes: bool,
    /// The running revision, where there is one.
    pub revision: Option<u64>,
    /// Settings of the node that change.
    pub node: Vec<SettingChange>,
    /// Of these the keys that only a restart takes.
    pub needs_restart: Vec<String>,
    /// Settings of `[apply]` that change.
    pub apply: Vec<SettingChange>,
    /// Drains made by command that go on, though a file does not say so:
    /// service and backend.
    pub drains_on: Vec<(String, String)>,
    /// The services that change, in the order of the new configuration, and
    /// then those that go.
    #[serde(deserialize_with = "parallel::deserialize")]
    pub services: Vec<ServicePlan>,
    /// How many services stay as they are.
    pub unchanged_services: usize,
}

/// What becomes of a service or a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It is new.
    Added,
    /// It goes.
    Removed,
    /// Another server gets a backend's name.
    Replaced,
    /// Settings of it change.
    Changed,
    /// It stays as it is; its share may change.
    Kept,
}

/// What would become of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServicePlan {
    /// Its name.
    pub name: String,
    /// Whether it is new, goes or changes.
    pub fate: Fate,
    /// Settings that change, those of backends apart; none of a service that
    /// is new or goes.
    pub settings: Vec<SettingChange>,
    /// Slots of its table now; 0 if no backend gets traffic.
    pub slots_now: u32,
    /// Slots of its table afterwards.
    pub slots_after: u32,
    /// Slots that get another owner; of the table afterwards, if its size
    /// changes.
    pub slots_moved: u32,
    /// The fewest that could, for these shares of the servers; none where the
    /// table changes its size, as then nearly all move.
    pub slots_required: Option<u32>,
    /// Share of new flows that get another backend.
    pub share_moved: f64,
    /// These flows a second at the present rate; none for UDP, which has no
    /// sign of a new flow.
    pub flows_per_second_moved: Option<f64>,
    /// From whom to whom, the largest first; at most 32.
    pub moves: Vec<Move>,
    /// Further ones, which are left out.
    pub moves_left_out: usize,
    /// What becomes of flows that exist.
    pub established: Established,
    /// The backends in the order of the new configuration, and then those
    /// that go.
    pub backends: Vec<BackendPlan>,
    /// Whether the declared peak can be borne; none where no peak is declared
    /// or no backend declares a capacity.
    pub capacity: Option<CapacityPlan>,
}

/// Slots that go from one backend to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Move {
    /// Who has them; none if nobody has.
    pub from: Option<String>,
    /// Who gets them; none if nobody does, and new flows are dropped.
    pub to: Option<String>,
    /// How many.
    pub slots: u32,
    /// Their share.
    pub share: f64,
    /// New flows a second in them at the present rate.
    pub flows_per_second: Option<f64>,
}

/// What becomes of flows that exist. How many there are is not known: flows
/// of slots that stay leave no trace. A share is that of the slots, which
/// flows fill evenly.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Established {
    /// Share in slots that move, which stay with their backends.
    pub share_kept: f64,
    /// How long they have to be silent to be given up, in seconds.
    pub kept_seconds: Option<u64>,
    /// Backends that are drained by the change: they keep their flows for the
    /// service's `drain_timeout`, in seconds, and then no longer.
    pub drained: Vec<String>,
    /// Share of the flows that break, as far as it is known.
    pub share_breaking: f64,
    /// Which break, and why; empty if none does.
    pub breaks: Vec<Break>,
}

/// Flows that break.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Break {
    /// Whose; none if those of all.
    pub backend: Option<String>,
    /// Their share of the service's flows; none if it is not known.
    pub share: Option<f64>,
    /// Why.
    pub why: String,
}

/// What would become of a backend. What there is none of is left out of JSON:
/// there may be a hundred thousand of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackendPlan {
    /// Its name.
    pub name: String,
    /// Its address, afterwards if it stays.
    pub address: std::net::IpAddr,
    /// Whether it is new, goes, changes or stays.
    pub fate: Fate,
    /// Settings that change; none of a backend that is new or goes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<SettingChange>,
    /// Whether it has to be proven before it gets traffic: it is new, or
    /// another server, or the probe asks for something else.
    pub must_prove: bool,
    /// Its state now: `up`, `unproven`, `down`, `draining` or `disabled`; none
    /// if it is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_now: Option<String>,
    /// Its state afterwards, of one that must prove itself as it does; none if
    /// it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_after: Option<String>,
    /// Slots that it has in the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots_now: Option<u32>,
    /// Slots that it would have, with the health that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots_after: Option<u32>,
    /// Slots that it would have, were all up that are wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots_all_up: Option<u32>,
    /// Its share of the slots in the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_now: Option<f64>,
    /// Its share afterwards, with the health that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_after: Option<f64>,
    /// Its share, were all up that are wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_all_up: Option<f64>,
    /// New flows a second that it gets now; none for UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows_per_second_now: Option<f64>,
    /// What it would get of the service's present rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows_per_second_after: Option<f64>,
    /// New flows a second that it would get at the declared peak.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_flows_per_second: Option<u64>,
    /// What it can take, as declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_flows_per_second: Option<u64>,
}

/// Whether a service's declared peak can be borne, were all up that are
/// wanted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CapacityPlan {
    /// The declared peak of new flows a second.
    pub peak_flows_per_second: u64,
    /// Backends that it overloads even without a loss.
    pub overloaded: Vec<String>,
    /// The worst that the loss of one backend does; none if there is no
    /// other.
    pub without_backend: Option<Loss>,
    /// The worst that the loss of one zone does; none without zones.
    pub without_zone: Option<Loss>,
}

/// What a loss does to the survivor with the least to spare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Loss {
    /// The backend or zone that is lost.
    pub lost: String,
    /// The survivor; none if nobody is left.
    pub survivor: Option<String>,
    /// New flows a second that it would get at peak.
    pub load: u64,
    /// What it can take, as declared.
    pub limit: u64,
    /// Whether that is too much, or nobody is left.
    pub exceeds: bool,
}
