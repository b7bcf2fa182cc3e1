//! Service lookup: two buckets, one compare each, no map helper.

use balancer_common::features::Features;
use balancer_common::hash::{self, Address};
use balancer_common::layout::{GenerationHead, NatSettings, Target};
use balancer_common::parse::{Frame, PROTOCOL_IPIP, PROTOCOL_IPV6, Packet};

use crate::features;
use crate::maps::Generation;
use crate::packet::FreshFrame;

/// An address family with a service array of its own.
pub(crate) trait Family: Address {
    /// IP protocol number of such a packet inside a tunnel.
    const TUNNEL_PROTOCOL: u8;
    /// Half of `NatSettings::sources` that is the family's.
    const NAT_POOL: u32;

    fn mask(head: &GenerationHead) -> u32;

    /// Source and destination in the IP header at `ip_at`.
    fn addresses(frame: &FreshFrame, ip_at: usize) -> Option<(Self, Self)>;

    /// The bucket's target, if the bucket holds this key.
    fn bucket(
        node: &Generation,
        bucket: u32,
        address: Self,
        port: [u8; 2],
        protocol: u8,
    ) -> Option<&'static Target>;
}

impl Family for [u8; 4] {
    const TUNNEL_PROTOCOL: u8 = PROTOCOL_IPIP;
    const NAT_POOL: u32 = NatSettings::V4 as u32;

    #[inline(always)]
    fn mask(head: &GenerationHead) -> u32 {
        head.mask_v4
    }

    #[inline(always)]
    fn addresses(frame: &FreshFrame, ip_at: usize) -> Option<(Self, Self)> {
        Some((frame.bytes(ip_at + 12)?, frame.bytes(ip_at + 16)?))
    }

    #[inline(always)]
    fn bucket(
        node: &Generation,
        bucket: u32,
        address: Self,
        port: [u8; 2],
        protocol: u8,
    ) -> Option<&'static Target> {
        let entry = node.bucket_v4(bucket)?;
        // One word, as a compiler that sees fields compares each.
        let [a, b, c, d] = address;
        let wanted = u64::from_ne_bytes([a, b, c, d, port[0], port[1], protocol, 0]);
        let found = entry.key() == wanted && entry.target.service != 0;
        found.then_some(&entry.target)
    }
}

impl Family for [u8; 16] {
    const TUNNEL_PROTOCOL: u8 = PROTOCOL_IPV6;
    const NAT_POOL: u32 = NatSettings::V6 as u32;

    #[inline(always)]
    fn mask(head: &GenerationHead) -> u32 {
        head.mask_v6
    }

    #[inline(always)]
    fn addresses(frame: &FreshFrame, ip_at: usize) -> Option<(Self, Self)> {
        Some((frame.bytes(ip_at + 8)?, frame.bytes(ip_at + 24)?))
    }

    #[inline(always)]
    fn bucket(
        node: &Generation,
        bucket: u32,
        address: Self,
        port: [u8; 2],
        protocol: u8,
    ) -> Option<&'static Target> {
        let entry = node.bucket_v6(bucket)?;
        let found = u128::from_ne_bytes(entry.address) == u128::from_ne_bytes(address)
            && u16::from_ne_bytes(entry.port) == u16::from_ne_bytes(port)
            && entry.protocol == protocol
            && entry.target.service != 0;
        found.then_some(&entry.target)
    }
}

/// The service of a packet. Any-port services cost a second probe, and only
/// where one exists.
#[inline(always)]
pub(crate) fn lookup<A: Family>(node: &Generation, packet: &Packet<A>) -> Option<&'static Target> {
    let exact = find(node, packet, packet.destination_port());
    if exact.is_none()
        && node.head.flags & GenerationHead::ANY_PORT != 0
        && features::any(Features::ANY_PORT)
    {
        return find(node, packet, [0, 0]);
    }
    exact
}

#[inline(always)]
fn find<A: Family>(
    node: &Generation,
    packet: &Packet<A>,
    port: [u8; 2],
) -> Option<&'static Target> {
    at(node, packet.destination, port, packet.protocol)
}

/// Whether some service has this address.
#[inline(always)]
pub(crate) fn has_address<A: Family>(node: &Generation, address: A) -> bool {
    at(node, address, [0, 0], 0).is_some()
}

/// Index of the member with this server id, of the service with these options.
#[inline(always)]
pub(crate) fn server(node: &Generation, options: u32, id: [u8; 8]) -> Option<u16> {
    let [a, b, c, d, e, f, g, h] = id;
    let address = [a, b, c, d, e, f, g, h, 0, 0, 0, 0, 0, 0, 0, 0];
    let place = (options as u16).to_be_bytes();
    let found = at(node, address, place, Target::SERVER_ID_PROTOCOL)?;
    Some(found.members as u16)
}

#[inline(always)]
fn at<A: Family>(
    node: &Generation,
    address: A,
    port: [u8; 2],
    protocol: u8,
) -> Option<&'static Target> {
    let mask = A::mask(node.head);
    let (first, second) = hash::buckets(node.head.lookup_seed, mask, address, port, protocol);
    A::bucket(node, first, address, port, protocol)
        .or_else(|| A::bucket(node, second, address, port, protocol))
}
