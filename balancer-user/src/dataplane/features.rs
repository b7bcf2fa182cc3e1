//! What the kernel program must be able to do for a state.

use balancer_common::features::Features;
use balancer_common::layout::{Member, Target};
use balancer_common::parse::{PROTOCOL_TCP, PROTOCOL_UDP};

use super::{Error, ServiceState, State};

/// The features that a state uses.
pub fn needed(state: &State) -> Features {
    let settings = Features::when(state.settings.answer_echo, Features::ECHO).with(Features::when(
        state.settings.handshake_sample > 0,
        Features::HANDSHAKES,
    ));
    state
        .services
        .values()
        .map(of_service)
        .fold(settings, Features::with)
}

/// Refuses a state for which a program that can do `loaded` lacks something.
pub fn check(loaded: Features, state: &State) -> Result<(), Error> {
    let needed = needed(state);
    if loaded.contains(needed) {
        return Ok(());
    }
    let lacking = Features(needed.0 & !loaded.0);
    Err(Error::Lacks(lacking.names().collect()))
}

fn of_service(service: &ServiceState) -> Features {
    let keys = service.keys.iter().map(|key| {
        let family = if key.address.is_ipv4() {
            Features::IPV4
        } else {
            Features::IPV6
        };
        let is_any = key.port == 0 && matches!(key.protocol, PROTOCOL_TCP | PROTOCOL_UDP);
        family.with(Features::when(is_any, Features::ANY_PORT))
    });
    let members = service.members.iter().map(|member| of_kind(member.kind));
    let options = FLAGS
        .iter()
        .map(|(flag, feature)| Features::when(service.flags & flag != 0, *feature));
    keys.chain(members)
        .chain(options)
        .fold(Features::default(), Features::with)
}

const FLAGS: &[(u16, Features)] = &[
    (Target::AFFINITY_SOURCE, Features::AFFINITY_SOURCE),
    (Target::AFFINITY_FLOW, Features::AFFINITY_FLOW),
    (Target::QUIC, Features::QUIC),
    (Target::FILTER, Features::FILTER),
    (Target::LIMIT, Features::LIMIT),
    (Target::CLAMP_MSS, Features::CLAMP_MSS),
];

fn of_kind(kind: u8) -> Features {
    match kind {
        Member::L2 => Features::L2,
        Member::IPIP_V4 => Features::IPIP_V4,
        Member::IPIP_V6 => Features::IPIP_V6,
        Member::GUE_V4 => Features::GUE_V4,
        Member::GUE_V6 => Features::GUE_V6,
        Member::NAT => Features::NAT,
        Member::FULLNAT => Features::FULLNAT,
        _ => Features::default(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytemuck::Zeroable;

    use super::super::{ServiceKey, Table};
    use super::*;

    #[test]
    fn state_needs_what_its_services_and_settings_use_and_nothing_else() {
        let mut state = State::empty();
        assert_eq!(needed(&state), Features::default());
        let key = ServiceKey {
            address: [192, 0, 2, 1].into(),
            port: 0,
            protocol: PROTOCOL_UDP,
        };
        let member = Member {
            kind: Member::IPIP_V6,
            ..Member::zeroed()
        };
        let table = Table::new(Arc::from(Vec::new()));
        let service = ServiceState {
            flags: Target::QUIC,
            ..ServiceState::new(vec![key], vec![member], table)
        };
        state.services.insert(1, service);
        let names: Vec<_> = needed(&state).names().collect();
        assert_eq!(names, ["IPV4", "ANY_PORT", "IPIP_V6", "QUIC"]);
    }
}
