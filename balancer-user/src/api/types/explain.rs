//! Which backend a flow gets, and why: question and answer.

use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The question which backend a flow gets, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// The client's address and port.
    pub source: SocketAddr,
    /// What it dials.
    pub destination: SocketAddr,
    /// TCP or UDP.
    pub protocol: Transport,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// IP protocol 6.
    Tcp,
    /// IP protocol 17.
    Udp,
}

/// What becomes of a flow's packets, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// The question.
    pub flow: ExplainRequest,
    /// What the kernel program answered for: `running`, or the file's name.
    pub tables: String,
    /// What it does with the flow's packets: of TCP with a SYN and with a
    /// later segment, of UDP with a datagram.
    pub packets: Vec<ExplainedPacket>,
    /// The service they are for; none if no service takes them.
    pub service: Option<String>,
    /// Where the flow's hash leads to, if so far.
    pub slot: Option<ExplainedSlot>,
    /// What is recorded of the flow.
    pub records: Vec<ExplainedRecord>,
    /// The backends that come into it.
    pub backends: Vec<ExplainedBackend>,
    /// Why, a sentence each, in the order in which the program goes.
    pub because: Vec<String>,
}

/// What the kernel program does with a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainedPacket {
    /// `syn`, `segment` or `datagram`.
    pub packet: String,
    /// `pass`, `drop`, `tx` or `redirect`.
    pub verdict: String,
    /// Why, by the name of its counter.
    pub reason: String,
    /// The backend that gets it.
    pub backend: Option<String>,
}

/// A slot of a service's table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainedSlot {
    /// Its number, from 0.
    pub slot: u32,
    /// Slots of the table.
    pub slot_count: u32,
    /// The flow's hash, in hex.
    pub hash: String,
    /// Whether only the client's address leads to the slot.
    pub by_source: bool,
    /// Who gets new flows.
    pub current: Option<String>,
    /// Who had it when it was last settled; the same as `current` where it is
    /// settled.
    pub previous: Option<String>,
    /// Whether the flows of an earlier owner are still kept there.
    pub in_change: bool,
    /// Number of the change that it is in, or was in last.
    pub era: u8,
}

/// A record of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainedRecord {
    /// `flows`, `probation` or `translations`.
    pub table: String,
    /// The backend that it names, if there is one in that seat.
    pub backend: Option<String>,
    /// Whether the program goes by it.
    pub counts: bool,
    /// Why, or why not.
    pub why: String,
}

/// A backend that comes into an explanation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainedBackend {
    /// Its name.
    pub backend: String,
    /// Its address.
    pub address: IpAddr,
    /// As in [`BackendStatus::state`](super::BackendStatus::state); `assumed up` where nobody probes.
    pub state: String,
    /// Why the last bad probe was bad.
    pub last_failure: Option<String>,
    /// `resolved`, or why packets cannot be sent there.
    pub next_hop: String,
    /// Its weight.
    pub weight: u16,
    /// Slots it owns.
    pub slot_count: u32,
    /// Its slots as a share of the table, 0 to 1.
    pub share_expected: f64,
}
