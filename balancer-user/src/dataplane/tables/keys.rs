//! Every key of the service lookup, and what it leads to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use balancer_common::layout::Target;
use bytemuck::Zeroable;

use super::super::{ServiceId, ServiceKey, State};

/// What a key leads to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Leads {
    /// The service of that number.
    Service(ServiceId),
    /// No service of its own: some service has the address.
    Address,
    /// A member of a service, by index.
    Member(ServiceId, u16),
}

pub(super) fn target_of(leads: Leads, targets: &BTreeMap<ServiceId, Target>) -> Target {
    match leads {
        Leads::Service(id) => targets[&id],
        Leads::Address => Target {
            service: Target::ADDRESS,
            ..Target::zeroed()
        },
        Leads::Member(id, member) => Target {
            service: id,
            members: u32::from(member),
            ..Target::zeroed()
        },
    }
}

/// The keys of all services, one for each address that some service has, and
/// one for each server id.
pub(super) fn all_keys(state: &State, first_options: u32) -> Vec<(ServiceKey, Leads)> {
    let keys = state
        .services
        .iter()
        .flat_map(|(id, service)| service.keys.iter().map(|key| (*key, Leads::Service(*id))));
    let addresses: BTreeSet<IpAddr> = keys.clone().map(|(key, _)| key.address).collect();
    let marks = addresses.into_iter().map(|address| {
        let key = ServiceKey {
            address,
            port: 0,
            protocol: 0,
        };
        (key, Leads::Address)
    });
    let server_ids =
        state
            .services
            .iter()
            .zip(first_options..)
            .flat_map(|((id, service), place)| {
                let members = service.server_ids.iter();
                members.map(move |(server_id, member)| {
                    (
                        server_id_key(*server_id, place as u16),
                        Leads::Member(*id, *member),
                    )
                })
            });
    keys.chain(marks).chain(server_ids).collect()
}

/// The key of a server id of the service at that place in `OPTIONS`,
/// generation included: its low 16 bits tell services apart, as a generation
/// has fewer.
fn server_id_key(server_id: [u8; 8], place: u16) -> ServiceKey {
    let mut address = [0; 16];
    address[..8].copy_from_slice(&server_id);
    ServiceKey {
        address: IpAddr::from(address),
        port: place,
        protocol: Target::SERVER_ID_PROTOCOL,
    }
}
