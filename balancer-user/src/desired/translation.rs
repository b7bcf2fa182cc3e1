//! What rules translations, from the file.

use std::time::Duration;

use balancer_common::layout::NatSettings;

use crate::config::model::{Config, Node, Service};

/// What rules translations; nothing where no service translates, so that a
/// change of these settings is none for the others.
pub(super) fn settings(config: &Config) -> NatSettings {
    let is_used = |service: &Service| service.forward.is_translation();
    if !config.services.iter().any(is_used) {
        return NatSettings::default();
    }
    let nanoseconds = |duration: Duration| {
        i64::try_from(duration.as_nanos()).map_or(u64::MAX >> 1, i64::cast_unsigned)
    };
    NatSettings {
        idle_ns: nanoseconds(config.node.nat_idle_timeout),
        closed_ns: nanoseconds(config.node.nat_closed_timeout),
        ..pool(&config.node)
    }
}

/// What `fullnat` sends from.
fn pool(node: &Node) -> NatSettings {
    let (first, last) = node.fullnat_ports;
    let mut pool = NatSettings {
        first_port: first.into(),
        port_count: u32::from(last) - u32::from(first) + 1,
        ..NatSettings::default()
    };
    let (v4, v6) = (&node.fullnat_sources_v4, &node.fullnat_sources_v6);
    pool.source_counts = [v4.len() as u32, v6.len() as u32];
    for (place, source) in pool.sources[NatSettings::V4].iter_mut().zip(v4) {
        place[..4].copy_from_slice(&source.octets());
    }
    for (place, source) in pool.sources[NatSettings::V6].iter_mut().zip(v6) {
        *place = source.octets();
    }
    pool
}
