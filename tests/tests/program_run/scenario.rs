//! One state with a service of every kind, in as many versions as wanted.

use balancer_common::layout::{Member, NatSettings, ServiceOptions, Slot, Target};
use balancer_tests::frames::Rng;
use balancer_tests::model::build::{
    READY, TCP, UDP, flow_keys, full, gue_v4, gue_v6, ipip_v4, ipip_v6, key, l2, limit, nat_v4,
    nat_v6, pool, quic, service, sources,
};
use balancer_user::dataplane::{ServiceKey, ServiceState, State};
use bytemuck::Zeroable;

/// MTU of the members behind a narrow way.
const NARROW: u16 = 576;
/// No flow of a run is idle for that long.
const HOUR_NS: u64 = 3_600_000_000_000;

/// A state with services of both families and protocols, of one port, a
/// range and any port, and with members of every kind and fault. Versions
/// differ in owners, incarnations and who is alive.
pub(crate) fn everything(version: u64, egress: u32) -> State {
    let mut rng = Rng::new(version);
    let mut state = State::empty();
    // Every other change keeps the keys, so that records are asked after it.
    state.flow_keys = flow_keys(version / 2);
    state.settings.answer_echo = version % 3 != 2;
    state.settings.handshake_sample = u32::MAX / 4;
    // Longer than a test runs: to the model, time stands still.
    state.settings.nat = NatSettings {
        idle_ns: HOUR_NS,
        closed_ns: HOUR_NS,
        ..pool([4, 1], 100)
    };
    for (number, (keys, members, slot_count)) in
        (1..).zip([services(egress), translated(egress)].concat())
    {
        let members = unsteady(&mut rng, members);
        let slots = owners(&mut rng, members.len(), slot_count);
        let service = with_affinity(number, service(keys, members, slots));
        let service = with_mss(number, service);
        state.services.insert(number, service);
    }
    for (number, service) in (50..).zip(picky(&mut rng)) {
        state.services.insert(number, service);
    }
    let broken = broken(&mut rng);
    state.services.insert(100, broken);
    state
}

type Parts = (Vec<ServiceKey>, Vec<Member>, usize);

fn services(egress: u32) -> Vec<Parts> {
    let narrow = |member: Member| Member {
        mtu: NARROW,
        ..member
    };
    let elsewhere = |member: Member| Member { egress, ..member };
    let spread = |mut member: Member| {
        member.outer_source[3] = 0;
        Member {
            spread_bits: 7,
            ..member
        }
    };
    // The interface it came in on, by number: the same as none.
    let same_way = |member: Member| Member {
        egress: 1,
        ..member
    };
    let lost = |member: Member| Member {
        flags: READY & !Member::RESOLVED,
        ..member
    };
    let range = (8000..8011)
        .map(|port| key("2001:db8::2", port, TCP))
        .collect();
    let v4 = |number, port, protocol| vec![key(&format!("192.0.2.{number}"), port, protocol)];
    let v6 = |number, port, protocol| vec![key(&format!("2001:db8::{number}"), port, protocol)];
    vec![
        (v4(1, 80, TCP), (0..4).map(l2).collect(), 251),
        (v4(2, 443, TCP), (10..20).map(ipip_v4).collect(), 65_537),
        (
            v4(3, 0, TCP),
            vec![ipip_v6(30), gue_v6(31), elsewhere(gue_v4(32))],
            13,
        ),
        (v4(3, 22, TCP), vec![l2(40)], 1),
        (
            v4(1, 53, UDP),
            vec![l2(50), elsewhere(ipip_v4(51)), ipip_v6(52)],
            101,
        ),
        (
            v6(1, 53, UDP),
            vec![gue_v4(60), same_way(ipip_v4(61)), l2(62), gue_v6(63)],
            101,
        ),
        (range, (70..75).map(ipip_v6).collect(), 251),
        (
            v6(3, 0, TCP),
            vec![l2(80), elsewhere(l2(81)), spread(ipip_v4(82)), gue_v4(83)],
            13,
        ),
        (v4(4, 80, TCP), vec![l2(90)], 0),
        (
            v4(5, 80, TCP),
            vec![lost(l2(100)), l2(101), lost(ipip_v4(102))],
            13,
        ),
        (
            v4(6, 80, TCP),
            [l2(110), ipip_v4(111), gue_v6(112)].map(narrow).into(),
            13,
        ),
        (
            v6(4, 443, UDP),
            [elsewhere(l2(120)), ipip_v4(121), ipip_v6(122)]
                .map(narrow)
                .into(),
            13,
        ),
        (
            v4(3, 0, UDP),
            vec![ipip_v4(130), same_way(ipip_v6(131))],
            13,
        ),
        (v6(5, 0, UDP), vec![], 0),
    ]
}

/// Two UDP services record every flow, three services go by the source.
fn with_affinity(number: u32, service: ServiceState) -> ServiceState {
    match number {
        5 | 13 => ServiceState {
            flags: service.flags | Target::AFFINITY_FLOW,
            options: ServiceOptions {
                flow_idle_ns: HOUR_NS,
                ..service.options
            },
            ..service
        },
        2 | 7 | 12 => ServiceState {
            flags: service.flags | Target::AFFINITY_SOURCE,
            ..service
        },
        _ => service,
    }
}

/// Services whose packets are rewritten there and back.
fn translated(egress: u32) -> Vec<Parts> {
    let narrow = |member: Member| Member {
        mtu: NARROW,
        ..member
    };
    let elsewhere = |member: Member| Member { egress, ..member };
    let same_way = |member: Member| Member {
        egress: 1,
        ..member
    };
    let lost = |member: Member| Member {
        flags: READY & !Member::RESOLVED,
        ..member
    };
    let v4 = |number, port, protocol| vec![key(&format!("192.0.2.{number}"), port, protocol)];
    let v6 = |number, port, protocol| vec![key(&format!("2001:db8::{number}"), port, protocol)];
    vec![
        (
            v4(8, 80, TCP),
            vec![nat_v4(150, 0), elsewhere(nat_v4(151, 0)), nat_v4(152, 8080)],
            13,
        ),
        (
            v4(10, 80, TCP),
            vec![
                full(nat_v4(160, 0)),
                full(nat_v4(161, 0)),
                full(elsewhere(nat_v4(162, 8080))),
            ],
            13,
        ),
        (
            v4(10, 53, UDP),
            vec![full(nat_v4(163, 0)), full(nat_v4(164, 5353))],
            13,
        ),
        (
            v6(10, 0, TCP),
            vec![full(nat_v6(165, 0)), full(narrow(nat_v6(166, 443)))],
            13,
        ),
        (
            v6(10, 53, UDP),
            vec![full(nat_v6(167, 0)), full(lost(nat_v6(168, 5353)))],
            13,
        ),
        // Backends of the first, as another service's.
        (v4(9, 8080, TCP), vec![nat_v4(150, 80), nat_v4(152, 0)], 13),
        (v4(8, 53, UDP), vec![nat_v4(153, 0), nat_v4(154, 5353)], 13),
        (
            v6(8, 0, TCP),
            vec![
                nat_v6(155, 0),
                same_way(nat_v6(156, 0)),
                narrow(nat_v6(157, 443)),
            ],
            13,
        ),
        (
            v6(8, 53, UDP),
            vec![nat_v6(158, 0), lost(nat_v6(159, 5353))],
            13,
        ),
    ]
}

/// A smaller MSS for some TCP services, of both families.
fn with_mss(number: u32, mut service: ServiceState) -> ServiceState {
    if matches!(number, 1 | 3 | 8) {
        service.flags |= Target::CLAMP_MSS;
        service.options.mss = 1360;
    }
    service
}

/// Services that ask for more than a hash.
fn picky(rng: &mut Rng) -> Vec<ServiceState> {
    let one = |rng: &mut Rng, address: &str, protocol, members: Vec<Member>, slots| {
        let members = unsteady(rng, members);
        let slots = owners(rng, members.len(), slots);
        service(vec![key(address, 443, protocol)], members, slots)
    };
    let prefixes_v4 = ["-203.0.113.0/24", "+203.0.113.0/29", "-203.0.113.3/32"];
    let prefixes_v6 = ["+2001:db8:c::/61", "-2001:db8:c:2::/64"];
    let half = {
        let mut mask = [0; 16];
        mask[..8].fill(0xff);
        mask
    };
    vec![
        quic(
            one(rng, "192.0.2.8", UDP, (200..206).map(gue_v4).collect(), 61),
            1,
            2,
        ),
        quic(
            one(rng, "2001:db8::8", UDP, vec![l2(210), ipip_v6(211)], 13),
            0,
            8,
        ),
        // All is told by id: nobody has a slot.
        quic(one(rng, "192.0.2.9", UDP, vec![l2(215)], 0), 3, 1),
        sources(
            one(rng, "192.0.2.10", TCP, vec![l2(220), ipip_v4(221)], 13),
            &prefixes_v4,
        ),
        sources(
            one(rng, "2001:db8::10", UDP, vec![ipip_v4(222)], 13),
            &prefixes_v6,
        ),
        limit(
            one(rng, "192.0.2.11", TCP, vec![l2(230), l2(231)], 13),
            8,
            [255, 255, 255, 0xfc, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
        limit(
            one(rng, "2001:db8::11", TCP, vec![gue_v6(232)], 13),
            20,
            half,
        ),
    ]
}

/// New incarnations and a few dead members.
fn unsteady(rng: &mut Rng, members: Vec<Member>) -> Vec<Member> {
    members
        .into_iter()
        .map(|member| {
            let dead = if rng.chance(20) { Member::ALIVE } else { 0 };
            Member {
                incarnation: rng.below(2) as u16,
                flags: member.flags & !dead,
                ..member
            }
        })
        .collect()
}

/// Half of the slots in change; among those some that came back to their
/// first owner. An era comes again every other change.
fn owners(rng: &mut Rng, member_count: usize, slot_count: usize) -> Vec<Slot> {
    (0..slot_count)
        .map(|_| {
            let (current, previous) = (rng.below(member_count), rng.below(member_count));
            if rng.chance(50) {
                Slot::settled(current as u16)
            } else {
                Slot::unsettled(current as u16, previous as u16).in_era(rng.below(2) as u8)
            }
        })
        .collect()
}

/// A service whose table contradicts its members: slots that name nobody's
/// index, an index past the last and a member of unknown kind.
fn broken(rng: &mut Rng) -> ServiceState {
    let unknown = Member { kind: 9, ..l2(142) };
    let members = vec![l2(140), Member::zeroed(), unknown];
    let slots = (0..61)
        .map(|_| match rng.below(6) {
            0 => Slot::unsettled(0, rng.below(4) as u16),
            1 => Slot::unsettled(3, 1),
            _ => Slot::settled(rng.below(4) as u16),
        })
        .collect();
    service(vec![key("192.0.2.7", 80, TCP)], members, slots)
}
