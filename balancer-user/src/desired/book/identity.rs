//! Whether a service is still the one that its flow records are of.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::config::model::{Affinity, Protocol, Service};

/// What a flow's record says holds for this only: with another address the
/// same client is another flow, and with another way from flow to slot the
/// record's era is another slot's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::desired) struct Identity {
    address: IpAddr,
    protocol: Protocol,
    by_source: bool,
    /// Services that record every flow ask no slot.
    table_size: Option<u32>,
}

impl Identity {
    /// Of the service with tables of that size.
    pub(in crate::desired) fn of(service: &Service, table_size: u32) -> Self {
        let records_all = matches!(service.affinity, Affinity::Flow { .. });
        Self {
            address: service.address,
            protocol: service.protocol,
            by_source: service.affinity == Affinity::Source,
            table_size: (!records_all).then_some(table_size),
        }
    }
}
