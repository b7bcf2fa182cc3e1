//! What the figures are compared with.
//!
//! The best known C balancer of this kind, with its defaults, measured once
//! in the same loop on a machine of this kind (x86-64 server, two cores,
//! Linux 6.18): nanoseconds a packet net of the loop's floor. Ratios to them
//! say something on a like machine only; on another, compare our own figures
//! with each other.

/// TCP of an established flow, IPv4, one flow in all.
pub(super) const TCP_1: f64 = 104.0;
/// As [`TCP_1`], 65,536 flows.
pub(super) const TCP_65536: f64 = 140.0;
/// As [`TCP_1`], 1,048,576 flows.
pub(super) const TCP_1048576: f64 = 250.0;
/// First packet of a TCP flow.
pub(super) const TCP_NEW: f64 = 485.0;
/// As [`TCP_NEW`], IPv6.
pub(super) const TCP_NEW_V6: f64 = 757.0;
/// SYN flood with a full flow table.
pub(super) const SYN_FLOOD: f64 = 775.0;
/// UDP.
pub(super) const UDP: f64 = 132.0;
/// TCP of an established flow, IPv6.
pub(super) const TCP_V6: f64 = 102.0;
/// TCP of an established flow, sent in GUE.
pub(super) const GUE: f64 = 281.0;
/// QUIC by connection id.
pub(super) const QUIC: f64 = 104.0;
/// Echo request, answered.
pub(super) const ECHO: f64 = 10.0;
/// ICMP error about a flow.
pub(super) const ICMP_ERROR: f64 = 105.0;
/// Packet of no service.
pub(super) const NO_SERVICE: f64 = 49.0;

/// Memory of all its maps, in megabytes, with its defaults.
pub(super) const MAP_MEGABYTES: f64 = 1370.0;
/// Instructions of it that the kernel verifies.
pub(super) const VERIFIED_INSTRUCTIONS: f64 = 107_965.0;

/// A figure of the reference and the most of it that a case may take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bound {
    /// In the unit of the case.
    pub(super) reference: f64,
    /// Share of it that the project holds itself to; `None` is no promise.
    pub(super) at_most: Option<f64>,
}

impl Bound {
    /// No more than this share of it.
    pub(super) fn new(reference: f64, at_most: f64) -> Self {
        Self {
            reference,
            at_most: Some(at_most),
        }
    }

    /// The most that the project allows itself.
    pub(super) fn limit(self) -> Option<f64> {
        self.at_most.map(|share| share * self.reference)
    }
}
