//! The neighbour table: which address answers under which MAC. Pure: messages
//! in, types out.

use std::collections::HashMap;
use std::net::IpAddr;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::link::decode_mac;
use crate::config::model::Mac;

/// Usable neighbours by interface and address.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    macs: HashMap<(u32, IpAddr), Mac>,
}

impl Neighbours {
    /// The MAC that `address` has on the interface.
    pub(super) fn mac(&self, interface: u32, address: IpAddr) -> Option<Mac> {
        self.macs.get(&(interface, address)).copied()
    }
}

impl<'a> FromIterator<&'a NeighbourMessage> for Neighbours {
    fn from_iter<I: IntoIterator<Item = &'a NeighbourMessage>>(messages: I) -> Self {
        let entry = |message: &NeighbourMessage| {
            let key = (message.header.ifindex, address(message)?);
            Some((key, usable_mac(message)?))
        };
        Self {
            macs: messages.into_iter().filter_map(entry).collect(),
        }
    }
}

/// The neighbour's MAC, if the kernel itself would send to it.
pub(super) fn usable_mac(message: &NeighbourMessage) -> Option<Mac> {
    // A proxy entry is an address this host answers for, not one it sends to.
    if message.header.flags.contains(NeighbourFlags::Proxy) || !is_usable(message.header.state) {
        return None;
    }
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => decode_mac(bytes),
            _ => None,
        })
}

/// Whether the kernel has learned the neighbour and does not ask it just now.
pub(super) fn is_trusted(message: &NeighbourMessage) -> bool {
    const TRUSTED: [NeighbourState; 3] = [
        NeighbourState::Reachable,
        NeighbourState::Stale,
        NeighbourState::Delay,
    ];
    TRUSTED.contains(&message.header.state)
}

/// Asks for the neighbour `address` on the interface.
pub(super) fn request(interface: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = interface;
    message.attributes = vec![NeighbourAttribute::Destination(address.into())];
    message
}

/// The address family of an address.
pub(super) fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn address(message: &NeighbourMessage) -> Option<IpAddr> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                Some((*address).into())
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
                Some((*address).into())
            }
            _ => None,
        })
}

/// The kernel sends at once in these states; in the others it has no MAC yet,
/// or one that no longer answers. States are bits, and may stand together.
fn is_usable(state: NeighbourState) -> bool {
    const USABLE: [NeighbourState; 6] = [
        NeighbourState::Reachable,
        NeighbourState::Stale,
        NeighbourState::Delay,
        NeighbourState::Probe,
        NeighbourState::Permanent,
        NeighbourState::Noarp,
    ];
    let bits = u16::from(state);
    USABLE
        .into_iter()
        .any(|usable| bits & u16::from(usable) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn entry(address: &str, state: NeighbourState) -> NeighbourMessage {
        let mut message = request(3, address.parse().unwrap());
        message.header.state = state;
        message
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(MAC.0.to_vec()));
        message
    }

    #[test]
    fn states_are_usable_as_the_kernel_uses_them() {
        use NeighbourState::{
            Delay, Failed, Incomplete, Noarp, None as Nothing, Other, Permanent, Probe, Reachable,
            Stale,
        };
        for state in [
            Reachable,
            Stale,
            Delay,
            Probe,
            Permanent,
            Noarp,
            Other(0xc0),
        ] {
            assert_eq!(usable_mac(&entry("10.0.0.2", state)), Some(MAC), "{state}");
        }
        for state in [Failed, Incomplete, Nothing, Other(0x21)] {
            assert_eq!(usable_mac(&entry("10.0.0.2", state)), None, "{state}");
        }
    }

    #[test]
    fn proxy_entries_and_odd_addresses_are_no_neighbours() {
        let mut proxy = entry("10.0.0.2", NeighbourState::Permanent);
        proxy.header.flags = NeighbourFlags::Proxy;
        assert_eq!(usable_mac(&proxy), None);

        let mut short = request(3, "10.0.0.2".parse().unwrap());
        short.header.state = NeighbourState::Permanent;
        short
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(vec![1, 2, 3, 4]));
        assert_eq!(usable_mac(&short), None);
    }

    #[test]
    fn the_table_is_kept_by_interface_and_address() {
        let messages = [
            entry("10.0.0.2", NeighbourState::Reachable),
            entry("fe80::1", NeighbourState::Stale),
            entry("10.0.0.3", NeighbourState::Failed),
        ];
        let neighbours: Neighbours = messages.iter().collect();
        let mac = |interface, address: &str| neighbours.mac(interface, address.parse().unwrap());
        assert_eq!(mac(3, "10.0.0.2"), Some(MAC));
        assert_eq!(mac(3, "fe80::1"), Some(MAC));
        assert_eq!(mac(3, "10.0.0.3"), None);
        assert_eq!(mac(4, "10.0.0.2"), None);
    }
}
