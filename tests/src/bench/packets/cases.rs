//! The cases, one line each.

mod translated;

use balancer_common::decap::Form;
use balancer_common::layout::Target;
use balancer_common::verdict::Reason;
use balancer_user::dataplane::ServiceState;
use balancer_user::dataplane::bench::Stimulus;

use super::case::Case;
use super::frames::{
    CLIENT_V4, CLIENT_V6, Outer, Place, SERVICE_V4, SERVICE_V6, arp, at, datagram, echo, fragment,
    icmp_error, segment, syn, tunnelled,
};
use super::picky;
use super::scene::{LONG_NS, Scene};
use crate::bench::reference as c;
use crate::model::build::{TCP, UDP, gue_v4, gue_v6, ipip_v4, ipip_v6, l2};

/// Bytes an outer IPv4 header adds.
pub(super) const V4: i64 = 20;
/// Bytes an outer IPv6 header adds.
const V6: i64 = 40;

/// Bytes a UDP header adds.
const UDP_LEN: i64 = 8;

/// More flows than fit the flow table.
const FLOOD: u64 = 1 << 20;
/// Ends of a tunnel.
const TUNNEL_V4: (&str, &str) = ("10.9.9.9:1", "10.1.0.7:1");
/// Ends of a tunnel.
const TUNNEL_V6: (&str, &str) = ("[fd99::9]:1", "[fd00::7]:1");

/// All cases, in the order of the table.
pub(super) fn all() -> Vec<Case> {
    [
        established(),
        opening(),
        modes(),
        translated::nat(),
        translated::fullnat(),
        datagrams(),
        picky::all(),
        kinds_of_service(),
        in_fragments(),
        others(),
        in_change(),
        scale(),
        backend_side(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

pub(super) fn tcp4() -> Scene {
    Scene::new(at(SERVICE_V4).ip(), 80, TCP)
}

fn tcp6() -> Scene {
    Scene::new(at(SERVICE_V6).ip(), 80, TCP).to(ipip_v6)
}

pub(super) fn udp4() -> Scene {
    Scene::new(at(SERVICE_V4).ip(), 80, UDP)
}

fn udp6() -> Scene {
    Scene::new(at(SERVICE_V6).ip(), 80, UDP).to(ipip_v6)
}

pub(super) fn segment4() -> Stimulus {
    segment(CLIENT_V4, SERVICE_V4)
}

fn segment6() -> Stimulus {
    segment(CLIENT_V6, SERVICE_V6)
}

pub(super) fn syn4() -> Stimulus {
    syn(CLIENT_V4, SERVICE_V4)
}

fn syn6() -> Stimulus {
    syn(CLIENT_V6, SERVICE_V6)
}

fn datagram4() -> Stimulus {
    datagram(CLIENT_V4, SERVICE_V4)
}

fn datagram6() -> Stimulus {
    datagram(CLIENT_V6, SERVICE_V6)
}

/// `affinity = "flow"`.
fn records(service: &mut ServiceState) {
    service.flags |= Target::AFFINITY_FLOW;
    service.options.flow_idle_ns = LONG_NS;
}

/// `affinity = "source"`.
fn by_source(service: &mut ServiceState) {
    service.flags |= Target::AFFINITY_SOURCE;
}

fn established() -> Vec<Case> {
    let v4 = |name, flows| Case::new(name, tcp4(), segment4()).flows(flows).grows(V4);
    let v6 = |name, flows| Case::new(name, tcp6(), segment6()).flows(flows).grows(V6);
    vec![
        v4("tcp4 1 flow", 1).at_most(0.30, c::TCP_1),
        v4("tcp4 1,024 flows", 1 << 10),
        v4("tcp4 65,536 flows", 1 << 16).beside(c::TCP_65536),
        v4("tcp4 1,048,576 flows", 1 << 20).at_most(0.13, c::TCP_1048576),
        v6("tcp6 1 flow", 1).at_most(0.38, c::TCP_V6),
        v6("tcp6 1,024 flows", 1 << 10),
        v6("tcp6 65,536 flows", 1 << 16),
        v6("tcp6 1,048,576 flows", 1 << 20),
    ]
}

fn opening() -> Vec<Case> {
    let v4 = |name| Case::new(name, tcp4(), syn4()).ever_new().grows(V4);
    let v6 = |name| Case::new(name, tcp6(), syn6()).ever_new().grows(V6);
    vec![
        v4("tcp4 new flows").at_most(0.07, c::TCP_NEW),
        v6("tcp6 new flows").at_most(0.07, c::TCP_NEW_V6),
        v4("tcp4 SYN flood, flow table full")
            .after(tcp4().in_change(), syn4().with_flows(FLOOD))
            .at_most(0.05, c::SYN_FLOOD),
        v6("tcp6 SYN flood, flow table full").after(tcp6().in_change(), syn6().with_flows(FLOOD)),
    ]
}

fn modes() -> Vec<Case> {
    let v4 = |name, scene| Case::new(name, scene, segment4()).flows(1 << 16);
    let v6 = |name, scene| Case::new(name, scene, segment6()).flows(1 << 16);
    vec![
        v4("tcp4 l2", tcp4().to(l2)),
        v6("tcp6 l2", tcp6().to(l2)),
        v4("tcp4 in IPv4", tcp4().to(ipip_v4)).grows(V4),
        v4("tcp4 in IPv6", tcp4().to(ipip_v6)).grows(V6),
        v6("tcp6 in IPv4", tcp6().to(ipip_v4)).grows(V4),
        v6("tcp6 in IPv6", tcp6().to(ipip_v6)).grows(V6),
        v4("tcp4 in GUE over IPv4", tcp4().to(gue_v4))
            .grows(V4 + UDP_LEN)
            .at_most(0.18, c::GUE),
        v4("tcp4 in GUE over IPv6", tcp4().to(gue_v6)).grows(V6 + UDP_LEN),
        v6("tcp6 in GUE over IPv4", tcp6().to(gue_v4)).grows(V4 + UDP_LEN),
        v6("tcp6 in GUE over IPv6", tcp6().to(gue_v6)).grows(V6 + UDP_LEN),
    ]
}

fn datagrams() -> Vec<Case> {
    let v4 = |name, flows| Case::new(name, udp4(), datagram4()).flows(flows).grows(V4);
    let v6 = |name, flows| Case::new(name, udp6(), datagram6()).flows(flows).grows(V6);
    vec![
        v4("udp4 1 flow", 1),
        v4("udp4 1,024 flows", 1 << 10),
        v4("udp4 65,536 flows", 1 << 16).at_most(0.25, c::UDP),
        v4("udp4 1,048,576 flows", 1 << 20),
        v6("udp6 1 flow", 1),
        v6("udp6 1,024 flows", 1 << 10),
        v6("udp6 65,536 flows", 1 << 16),
        v6("udp6 1,048,576 flows", 1 << 20),
        Case::new(
            "udp4, every flow on record",
            udp4().asking(records),
            datagram4(),
        )
        .flows(1 << 16)
        .grows(V4),
        Case::new(
            "udp6, every flow on record",
            udp6().asking(records),
            datagram6(),
        )
        .flows(1 << 16)
        .grows(V6),
    ]
}

/// What a service asks for.
fn kinds_of_service() -> Vec<Case> {
    let v4 = |name, scene, stimulus| Case::new(name, scene, stimulus).flows(1 << 16).grows(V4);
    let v6 = |name, scene, stimulus| Case::new(name, scene, stimulus).flows(1 << 16).grows(V6);
    let any_port = |scene| Scene { port: 0, ..scene };
    vec![
        v4(
            "tcp4 by the source alone",
            tcp4().asking(by_source),
            segment4(),
        ),
        v4("tcp4 any-port service", any_port(tcp4()), segment4()),
        v6("tcp6 any-port service", any_port(tcp6()), segment6()),
        v4("udp4 any-port service", any_port(udp4()), datagram4()),
        v6("udp6 any-port service", any_port(udp6()), datagram6()),
    ]
}

/// Datagrams in fragments, each of a flow of its own, so that no record of a
/// first fragment is another one's.
fn in_fragments() -> Vec<Case> {
    const PACKETS: u64 = 1 << 10;
    let v4 = |name, place| {
        let stimulus = fragment(place, CLIENT_V4, SERVICE_V4);
        Case::new(name, udp4(), stimulus).flows(PACKETS).grows(V4)
    };
    let v6 = |name, place| {
        let stimulus = fragment(place, CLIENT_V6, SERVICE_V6);
        Case::new(name, udp6(), stimulus).flows(PACKETS).grows(V6)
    };
    let first4 = fragment(Place::First, CLIENT_V4, SERVICE_V4).with_flows(PACKETS);
    let first6 = fragment(Place::First, CLIENT_V6, SERVICE_V6).with_flows(PACKETS);
    vec![
        v4("udp4 first fragment", Place::First),
        v4("udp4 later fragment", Place::Later).after(udp4(), first4),
        v4("udp4 later fragment, first one unseen", Place::Later)
            .grows(0)
            .ends(Reason::FragmentUnknown),
        v6("udp6 first fragment", Place::First),
        v6("udp6 later fragment", Place::Later).after(udp6(), first6),
        v6("udp6 later fragment, first one unseen", Place::Later)
            .grows(0)
            .ends(Reason::FragmentUnknown),
    ]
}

fn others() -> Vec<Case> {
    let echo4 = echo("203.0.113.1:0", SERVICE_V4);
    let echo6 = echo("[2001:db8:c::1]:0", SERVICE_V6);
    let none4 = segment(CLIENT_V4, "192.0.2.77:80");
    let none6 = segment(CLIENT_V6, "[2001:db8::77]:80");
    let none = |name, scene, stimulus| {
        Case::new(name, scene, stimulus)
            .flows(1 << 16)
            .ends(Reason::NoService)
            .at_most(0.20, c::NO_SERVICE)
    };
    vec![
        Case::new("echo4 answered", tcp4().answering_echo(), echo4)
            .ends(Reason::EchoAnswered)
            .at_most(1.5, c::ECHO),
        Case::new("echo6 answered", tcp6().answering_echo(), echo6)
            .ends(Reason::EchoAnswered)
            .at_most(1.5, c::ECHO),
        Case::new(
            "icmp4 error for a flow",
            tcp4(),
            icmp_error(CLIENT_V4, SERVICE_V4),
        )
        .ends(Reason::ErrorForwarded)
        .grows(V4)
        .at_most(0.6, c::ICMP_ERROR),
        Case::new(
            "icmp6 error for a flow",
            tcp6(),
            icmp_error(CLIENT_V6, SERVICE_V6),
        )
        .ends(Reason::ErrorForwarded)
        .grows(V6)
        .at_most(0.6, c::ICMP_ERROR),
        none("tcp4 of no service", tcp4(), none4),
        none("tcp6 of no service", tcp6(), none6),
        none("udp4 of no service", tcp4(), datagram4()),
        none("udp6 of no service", tcp6(), datagram6()),
        Case::new("ARP", tcp4(), arp())
            .ends(Reason::NotIp)
            .at_most(0.20, c::NO_SERVICE),
    ]
}

/// The first half of the backends has got all slots, from the second.
fn in_change() -> Vec<Case> {
    let found = |name, flows| {
        Case::new(name, tcp4().in_change(), segment4())
            .flows(flows)
            .grows(V4)
            .after(tcp4().in_change(), syn4().with_flows(flows))
            .to(0..8)
    };
    vec![
        found("tcp4 in change, 1 flow on record", 1).at_most(0.9, c::TCP_1),
        found("tcp4 in change, 65,536 flows on record", 1 << 16).at_most(0.9, c::TCP_65536),
        Case::new("tcp4 in change, no record", tcp4().in_change(), segment4())
            .ever_new()
            .grows(V4)
            .to(8..16),
        Case::new("tcp6 in change, no record", tcp6().in_change(), segment6())
            .ever_new()
            .grows(V6)
            .to(8..16),
        Case::new("tcp4 in change, SYN flood", tcp4().in_change(), syn4())
            .ever_new()
            .grows(V4)
            .to(0..8),
        Case::new(
            "tcp6 in change, 65,536 flows on record",
            tcp6().in_change(),
            segment6(),
        )
        .flows(1 << 16)
        .grows(V6)
        .after(tcp6().in_change(), syn6().with_flows(1 << 16))
        .to(0..8),
        Case::new("tcp6 in change, SYN flood", tcp6().in_change(), syn6())
            .ever_new()
            .grows(V6)
            .to(0..8),
        Case::new("udp4 in change", udp4().in_change(), datagram4())
            .flows(1 << 16)
            .grows(V4)
            .to(0..8),
    ]
}

/// A thousand services of ten backends, in tables of their own.
fn scale() -> Vec<Case> {
    const SERVICES: u32 = 1000;
    let scene = Scene::new(at("192.0.0.0:0").ip(), 80, TCP).many(SERVICES, 10);
    let case = |name, service| Case::new(name, scene, segment(CLIENT_V4, service)).grows(V4);
    vec![
        case("tcp4 1,000 services, 1 flow to one of them", "192.0.2.1:80")
            .within(1.15, "tcp4 1 flow"),
        case(
            "tcp4 1,000 services, 1,048,576 flows to one of them",
            "192.0.2.1:80",
        )
        .flows(1 << 20)
        .within(1.15, "tcp4 1,048,576 flows"),
        case("tcp4 1,000 services, 1,024 flows to all", "192.0.0.0:80")
            .flows(1 << 10)
            .over(SERVICES),
        case("tcp4 1,000 services, 65,536 flows to all", "192.0.0.0:80")
            .flows(1 << 16)
            .over(SERVICES),
        case(
            "tcp4 1,000 services, 1,048,576 flows to all",
            "192.0.0.0:80",
        )
        .flows(1 << 20)
        .over(SERVICES),
    ]
}

fn backend_side() -> Vec<Case> {
    let case = |form: Form, outer: Outer, inner: &Stimulus, outer_len: i64| {
        let ends = if outer_len < V6 { TUNNEL_V4 } else { TUNNEL_V6 };
        let stimulus = tunnelled(ends, outer, inner);
        let source = at(ends.0).ip();
        Case::decap(format!("decap {}", form.name()), source, stimulus, form)
            .flows(1 << 16)
            .grows(-outer_len)
    };
    vec![
        case(Form::Ipip4in4, Outer::Ip, &segment4(), V4),
        case(Form::Ipip6in4, Outer::Ip, &segment6(), V4),
        case(Form::Ipip4in6, Outer::Ip, &segment4(), V6),
        case(Form::Ipip6in6, Outer::Ip, &segment6(), V6),
        case(Form::Gue4in4, Outer::Gue, &segment4(), V4 + UDP_LEN),
        case(Form::Gue6in4, Outer::Gue, &segment6(), V4 + UDP_LEN),
        case(Form::Gue4in6, Outer::Gue, &segment4(), V6 + UDP_LEN),
        case(Form::Gue6in6, Outer::Gue, &segment6(), V6 + UDP_LEN),
    ]
}
