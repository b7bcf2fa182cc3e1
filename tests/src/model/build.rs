//! Members and services for the states that tests make.
//!
//! Everything of a member follows from its number, so that the bytes that
//! leave tell who was meant: number 7 has Ethernet address `02:…:00:07`,
//! counter 7 and outer destination `10.1.0.7` or `fd00::7`.

use std::net::IpAddr;
use std::sync::Arc;

use balancer_common::layout::{FLOW_KEYS, Member, NatSettings, Slot, Target};
use balancer_user::dataplane::object::possible_cpus;
use balancer_user::dataplane::{ServiceKey, ServiceState, SourceRules, Table};
use bytemuck::Zeroable;

use super::forward::ones_complement_sum;
use crate::frames::Rng;

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// Flags of a member that may get packets and can.
pub const READY: u8 = Member::ALIVE | Member::RESOLVED;

/// MTU of a member unless a test says otherwise.
pub const MTU: u16 = 1500;

/// Member `number` on the same link, ready.
pub fn l2(number: u16) -> Member {
    let [high, low] = number.to_be_bytes();
    Member {
        kind: Member::L2,
        flags: READY,
        counter: u32::from(number),
        mtu: MTU,
        ethernet: [2, 0, 0, 0, high, low, 2, 0xbb, 0, 0, high, low],
        ..Member::zeroed()
    }
}

/// Member `number` behind an IPv4 tunnel, ready; its Ethernet source is taken
/// from the frame.
pub fn ipip_v4(number: u16) -> Member {
    let [high, low] = number.to_be_bytes();
    let (source, destination) = ([10, 9, 9, 9], [10, 1, high, low]);
    let mut member = Member {
        kind: Member::IPIP_V4,
        flags: READY | Member::SOURCE_FROM_FRAME,
        ..l2(number)
    };
    member.outer_source[..4].copy_from_slice(&source);
    member.outer_destination[..4].copy_from_slice(&destination);
    member
}

/// Member `number` behind an IPv6 tunnel, ready.
pub fn ipip_v6(number: u16) -> Member {
    let [high, low] = number.to_be_bytes();
    let mut member = Member {
        kind: Member::IPIP_V6,
        ..l2(number)
    };
    member.outer_source[..2].copy_from_slice(&[0xfd, 0x99]);
    member.outer_source[15] = 9;
    member.outer_destination[..2].copy_from_slice(&[0xfd, 0x00]);
    member.outer_destination[14..].copy_from_slice(&[high, low]);
    member
}

/// Member `number` behind GUE over IPv4, ready; the outer source is spread
/// over a /20.
pub fn gue_v4(number: u16) -> Member {
    let mut member = Member {
        kind: Member::GUE_V4,
        spread_bits: 12,
        port: 6080u16.to_be_bytes(),
        ..ipip_v4(number)
    };
    member.outer_source[..4].copy_from_slice(&[10, 9, 0, 0]);
    member
}

/// Member `number` behind GUE over IPv6, ready; the outer source is spread
/// over a /96.
pub fn gue_v6(number: u16) -> Member {
    let mut member = Member {
        kind: Member::GUE_V6,
        spread_bits: 32,
        port: 6081u16.to_be_bytes(),
        ..ipip_v6(number)
    };
    member.outer_source[12..].fill(0);
    member
}

/// Member `number` behind a rewritten IPv4 destination, ready; it listens on
/// `port`, or for 0 on the port that was dialled.
pub fn nat_v4(number: u16, port: u16) -> Member {
    Member {
        kind: Member::NAT,
        port: port.to_be_bytes(),
        outer_source: [0; 16],
        ..ipip_v4(number)
    }
}

/// As [`nat_v4`], for IPv6.
pub fn nat_v6(number: u16, port: u16) -> Member {
    Member {
        kind: Member::NAT,
        port: port.to_be_bytes(),
        outer_source: [0; 16],
        ..ipip_v6(number)
    }
}

/// The member as `fullnat` reaches it.
pub fn full(member: Member) -> Member {
    Member {
        kind: Member::FULLNAT,
        ..member
    }
}

/// A pool: `addresses` of each family, `10.8.0.1` and `fd08::1` the first, and
/// for every CPU `ports` from 20000 on, the first CPU's first.
///
/// # Panics
/// When the CPUs cannot be counted.
pub fn pool(addresses: [u32; 2], ports: u32) -> NatSettings {
    let cpus = possible_cpus().expect("the machine has CPUs");
    let mut pool = NatSettings {
        first_port: 20_000,
        port_count: ports * cpus,
        source_counts: addresses,
        ..NatSettings::default()
    };
    for (number, place) in (1..).zip(&mut pool.sources[NatSettings::V4]) {
        place[..4].copy_from_slice(&[10, 8, 0, number]);
    }
    for (number, place) in (1..).zip(&mut pool.sources[NatSettings::V6]) {
        place[..2].copy_from_slice(&[0xfd, 0x08]);
        place[15] = number;
    }
    pool
}

/// Writes what the kernel program reads of an outer IPv4 header but cannot
/// afford to add up: the sum of its constant words.
fn with_outer_sum(mut member: Member, inner: u8) -> Member {
    let mut header = [0; 20];
    header[0] = 0x45;
    header[6] = 0x40;
    header[8] = 64;
    header[9] = inner;
    header[12..16].copy_from_slice(&member.outer_source[..4]);
    header[16..20].copy_from_slice(&member.outer_destination[..4]);
    member.outer_sum = ones_complement_sum(&header);
    member
}

/// A service's way in.
pub fn key(address: &str, port: u16, protocol: u8) -> ServiceKey {
    let address: IpAddr = address.parse().expect("tests write addresses that parse");
    ServiceKey {
        address,
        port,
        protocol,
    }
}

/// A service of one family with these members and slots. Members behind IPv4
/// tunnels get the outer sum that goes with that family.
pub fn service(keys: Vec<ServiceKey>, members: Vec<Member>, slots: Vec<Slot>) -> ServiceState {
    let inner = if keys[0].address.is_ipv4() { 4 } else { 41 };
    let members = members
        .into_iter()
        .map(|member| match member.kind {
            Member::IPIP_V4 => with_outer_sum(member, inner),
            Member::GUE_V4 => with_outer_sum(member, UDP),
            _ => member,
        })
        .collect();
    let mut state = ServiceState::new(keys, members, Table::new(Arc::from(slots)));
    state.flags = match state.members.first().map(|member| member.kind) {
        Some(Member::NAT) => Target::NAT,
        Some(Member::FULLNAT) => Target::FULLNAT,
        _ => 0,
    };
    state
}

/// Takes the packets of a QUIC service by server id: that of member `n` is
/// `len` bytes long and holds `n + 1`.
pub fn quic(mut service: ServiceState, offset: u8, len: u8) -> ServiceState {
    service.flags |= Target::QUIC;
    service.options.server_id_offset = offset;
    service.options.server_id_len = len;
    service.server_ids = (0..service.members.len() as u16)
        .map(|index| {
            let mut id = [0; 8];
            id[usize::from(len) - 1] = index as u8 + 1;
            (id, index)
        })
        .collect();
    service
}

/// Allows (`+`) and denies (`-`) prefixes.
///
/// # Panics
/// When one does not parse.
pub fn sources(mut service: ServiceState, prefixes: &[&str]) -> ServiceState {
    let rules: SourceRules = prefixes
        .iter()
        .map(|text| {
            let (sign, prefix) = text.split_at(1);
            let prefix = prefix.parse().expect("tests write prefixes that parse");
            (prefix, sign == "+")
        })
        .collect();
    service.flags |= Target::FILTER;
    if rules.values().any(|is_allowed| *is_allowed) {
        service.flags |= Target::FILTER_ALLOWS;
    }
    service.sources = Arc::new(rules);
    service
}

/// Lets `burst` flows of each source prefix in, and then none for a century.
pub fn limit(mut service: ServiceState, burst: u64, mask: [u8; 16]) -> ServiceState {
    let century = 3_155_760_000_000_000_000 / burst;
    service.flags |= Target::LIMIT;
    service.options.limit_interval_ns = century;
    service.options.limit_burst_ns = (burst - 1) * century;
    service.options.limit_mask = mask;
    service
}

/// Keys of the flow hash, drawn from a number.
pub fn flow_keys(seed: u64) -> [u64; FLOW_KEYS] {
    let mut rng = Rng::new(seed);
    std::array::from_fn(|_| rng.next())
}
