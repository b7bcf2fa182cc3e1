//! What a service asks for beyond its members by hash, as the packet path
//! reads it.

use std::sync::Arc;

use balancer_common::layout::{ServiceOptions, Target};

use crate::config::model::{Affinity, Forward, Service, SourceLimit};
use crate::dataplane::{ServiceState, SourceRules};

const SECOND_NS: u64 = 1_000_000_000;

/// Adds to a state what the configuration asks for; `index` gives the member
/// of a backend by name.
pub(super) fn with_options(
    service: &Service,
    mut state: ServiceState,
    index: impl Fn(&str) -> Option<u16>,
) -> ServiceState {
    state.flags |= match service.forward {
        Forward::Nat => Target::NAT,
        Forward::Fullnat => Target::FULLNAT,
        Forward::L2 | Forward::Ipip | Forward::Gue => 0,
    };
    affinity(service, &mut state);
    sources(service, &mut state);
    if let Some(limit) = &service.source_limit {
        state.flags |= Target::LIMIT;
        set_limit(limit, service.address.is_ipv4(), &mut state.options);
    }
    if let Some(mss) = service.mss_clamp {
        state.flags |= Target::CLAMP_MSS;
        state.options.mss = mss;
    }
    if let Some(quic) = &service.quic {
        state.flags |= Target::QUIC;
        state.options.server_id_offset = quic.server_id_offset;
        state.options.server_id_len = quic.server_id_length;
        let backends = service.backends.iter();
        state.server_ids = backends
            .filter_map(|backend| {
                let mut id = [0; 8];
                let bytes = backend.server_id.as_ref()?.bytes();
                id.get_mut(..bytes.len())?.copy_from_slice(bytes);
                Some((id, index(&backend.name)?))
            })
            .collect();
    }
    state
}

fn affinity(service: &Service, state: &mut ServiceState) {
    match service.affinity {
        Affinity::Hash => {}
        Affinity::Source => state.flags |= Target::AFFINITY_SOURCE,
        Affinity::Flow { idle_timeout } => {
            state.flags |= Target::AFFINITY_FLOW;
            let nanos = u64::try_from(idle_timeout.as_nanos());
            state.options.flow_idle_ns = nanos.unwrap_or(u64::MAX);
        }
    }
}

fn sources(service: &Service, state: &mut ServiceState) {
    let allowed = service.allow_sources.iter().map(|prefix| (*prefix, true));
    let denied = service.deny_sources.iter().map(|prefix| (*prefix, false));
    let rules: SourceRules = allowed.chain(denied).collect();
    if rules.is_empty() {
        return;
    }
    state.flags |= Target::FILTER;
    if !service.allow_sources.is_empty() {
        state.flags |= Target::FILTER_ALLOWS;
    }
    state.sources = Arc::new(rules);
}

fn set_limit(limit: &SourceLimit, is_v4: bool, options: &mut ServiceOptions) {
    let interval = SECOND_NS / u64::from(limit.flows_per_second.max(1));
    // A rate above the clock's is as good as none.
    options.limit_interval_ns = interval.max(1);
    options.limit_burst_ns = options.limit_interval_ns * u64::from(limit.burst.saturating_sub(1));
    let bits = u32::from(limit.prefix_length);
    let mask = if is_v4 {
        u128::from(u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0)) << 96
    } else {
        u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0)
    };
    options.limit_mask = mask.to_be_bytes();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(prefix_length: u8, is_v4: bool) -> [u8; 16] {
        let mut options = ServiceOptions::default();
        let limit = SourceLimit {
            flows_per_second: 100,
            burst: 3,
            prefix_length,
        };
        set_limit(&limit, is_v4, &mut options);
        assert_eq!(options.limit_interval_ns, 10_000_000);
        assert_eq!(options.limit_burst_ns, 20_000_000);
        options.limit_mask
    }

    #[test]
    fn mask_covers_the_prefix_and_nothing_behind_it() {
        assert_eq!(mask(32, true)[..5], [255, 255, 255, 255, 0]);
        assert_eq!(mask(22, true)[..5], [255, 255, 252, 0, 0]);
        assert_eq!(mask(1, true)[..5], [128, 0, 0, 0, 0]);
        assert_eq!(mask(128, false), [255; 16]);
        assert_eq!(mask(60, false)[6..9], [255, 240, 0]);
    }
}
