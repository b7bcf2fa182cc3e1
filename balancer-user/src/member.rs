//! A backend as the packet path sees it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use balancer_common::encap;
use balancer_common::layout::Member;
use balancer_common::parse::{PROTOCOL_IPIP, PROTOCOL_IPV6, PROTOCOL_UDP};
use bytemuck::Zeroable;

use crate::config::model::{Backend, Forward, Mac, Node, Service, TunnelSource};

/// The way to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// Interface packets leave by; 0 is the one they came in on.
    pub egress: u32,
    /// Longest IP packet that fits, in bytes.
    pub mtu: u32,
    /// Ethernet address of the next hop, where it is known.
    pub destination: Option<Mac>,
    /// Ethernet address of the egress interface; `None` takes the address
    /// that the packet was sent to.
    pub source: Option<Mac>,
    /// The address the kernel would send from.
    pub address: Option<IpAddr>,
    /// Whether the backend is on the link itself, without a gateway.
    pub on_link: bool,
}

/// An index that nobody owns; its incarnation is kept for the next owner.
pub fn nobody(incarnation: u16) -> Member {
    Member {
        incarnation,
        ..Member::zeroed()
    }
}

/// The member for a backend. Without a way to it, it is unresolved: packets
/// for it are dropped by that name.
pub fn build(
    node: &Node,
    service: &Service,
    backend: &Backend,
    hop: Option<&Hop>,
    alive: bool,
    incarnation: u16,
    counter: u32,
) -> Member {
    let mut member = Member {
        kind: kind(service, backend),
        flags: u8::from(alive) * Member::ALIVE,
        incarnation,
        counter,
        ..Member::zeroed()
    };
    let Some(hop) = hop else {
        return member;
    };
    let Some(destination) = backend.mac.or(hop.destination) else {
        return member;
    };
    if service.forward == Forward::L2 && !hop.on_link && backend.mac.is_none() {
        return member;
    }
    member.egress = hop.egress;
    member.mtu = u16::try_from(hop.mtu).unwrap_or(u16::MAX);
    member.ethernet[..6].copy_from_slice(&destination.0);
    match hop.source {
        Some(source) => member.ethernet[6..].copy_from_slice(&source.0),
        None => member.flags |= Member::SOURCE_FROM_FRAME,
    }
    let is_complete = match service.forward {
        Forward::L2 => true,
        Forward::Nat | Forward::Fullnat => set_translation(&mut member, service, backend),
        Forward::Ipip | Forward::Gue => set_outer(&mut member, node, service, backend, hop),
    };
    if is_complete {
        member.flags |= Member::RESOLVED;
    }
    member
}

/// Sets what the destination becomes; `false` if the packet's family has no
/// such address.
fn set_translation(member: &mut Member, service: &Service, backend: &Backend) -> bool {
    member.port = backend.port.unwrap_or(0).to_be_bytes();
    match (service.address, backend.address) {
        (IpAddr::V4(_), IpAddr::V4(address)) => {
            member.outer_destination[..4].copy_from_slice(&address.octets());
            true
        }
        (IpAddr::V6(_), IpAddr::V6(address)) => {
            member.outer_destination = address.octets();
            true
        }
        _ => false,
    }
}

/// The member's kind: the form that the backend's packets take.
pub fn kind(service: &Service, backend: &Backend) -> u8 {
    match (service.forward, backend.address) {
        (Forward::L2, _) => Member::L2,
        (Forward::Ipip, IpAddr::V4(_)) => Member::IPIP_V4,
        (Forward::Ipip, IpAddr::V6(_)) => Member::IPIP_V6,
        (Forward::Gue, IpAddr::V4(_)) => Member::GUE_V4,
        (Forward::Gue, IpAddr::V6(_)) => Member::GUE_V6,
        (Forward::Nat, _) => Member::NAT,
        (Forward::Fullnat, _) => Member::FULLNAT,
    }
}

/// Sets the outer addresses; `false` if there is no source for them.
fn set_outer(
    member: &mut Member,
    node: &Node,
    service: &Service,
    backend: &Backend,
    hop: &Hop,
) -> bool {
    if service.forward == Forward::Gue {
        member.port = node.gue_port.to_be_bytes();
    }
    match backend.address {
        IpAddr::V4(destination) => {
            let route = match hop.address {
                Some(IpAddr::V4(address)) => Some(address.into()),
                _ => None,
            };
            let Some(source) = node.tunnel_source_v4.or(route) else {
                return false;
            };
            set_outer_v4(member, source, destination, carried(service));
        }
        IpAddr::V6(destination) => {
            let route = match hop.address {
                Some(IpAddr::V6(address)) => Some(address.into()),
                _ => None,
            };
            let Some(source) = node.tunnel_source_v6.or(route) else {
                return false;
            };
            set_outer_v6(member, source, destination);
        }
    }
    true
}

/// Protocol number of what follows the outer IP header.
fn carried(service: &Service) -> u8 {
    match (service.forward, service.address) {
        (Forward::Gue, _) => PROTOCOL_UDP,
        (_, IpAddr::V4(_)) => PROTOCOL_IPIP,
        (_, IpAddr::V6(_)) => PROTOCOL_IPV6,
    }
}

fn set_outer_v4(
    member: &mut Member,
    source: TunnelSource<Ipv4Addr>,
    destination: Ipv4Addr,
    protocol: u8,
) {
    let address = source.address().octets();
    member.outer_source[..4].copy_from_slice(&address);
    member.spread_bits = source.host_bits();
    member.outer_destination[..4].copy_from_slice(&destination.octets());
    member.outer_sum = encap::outer_sum(address, destination.octets(), protocol);
}

fn set_outer_v6(member: &mut Member, source: TunnelSource<Ipv6Addr>, destination: Ipv6Addr) {
    member.outer_source = source.address().octets();
    member.spread_bits = source.host_bits();
    member.outer_destination = destination.octets();
}
