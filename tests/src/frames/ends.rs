//! Addresses that frames for a state come from and go to.

use std::net::IpAddr;

use balancer_common::layout::Member;
use balancer_user::dataplane::{ServiceKey, ServiceState};

/// What a service's backends are to the balancer that rewrites for them.
pub(super) fn backends(service: &ServiceState) -> Vec<(ServiceKey, bool)> {
    let translates = |member: &&Member| matches!(member.kind, Member::NAT | Member::FULLNAT);
    let members = service.members.iter().filter(translates);
    let address = |member: &Member| {
        if service.keys[0].address.is_ipv4() {
            let octets: [u8; 4] = *member.outer_destination.first_chunk().expect("of sixteen");
            IpAddr::from(octets)
        } else {
            IpAddr::from(member.outer_destination)
        }
    };
    members
        .flat_map(|member| {
            service.keys.iter().map(move |key| {
                let backend = ServiceKey {
                    address: address(member),
                    port: match u16::from_be_bytes(member.port) {
                        0 => key.port,
                        port => port,
                    },
                    protocol: key.protocol,
                };
                (backend, member.kind == Member::FULLNAT)
            })
        })
        .collect()
}

/// The address with its last bit turned.
pub(super) fn neighbour(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => (address.to_bits() ^ 1).to_be_bytes().into(),
        IpAddr::V6(address) => (address.to_bits() ^ 1).to_be_bytes().into(),
    }
}
