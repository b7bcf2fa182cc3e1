//! Cases of what only some services, or a sample of flows, ask for.

use std::sync::Arc;

use balancer_common::layout::Target;
use balancer_user::dataplane::ServiceState;
use ipnet::{IpNet, Ipv4Net};

use super::case::Case;
use super::cases::{V4, segment4, syn4, tcp4, udp4};
use super::frames::{CLIENT_V4, SERVICE_V4, quic};
use crate::bench::reference as c;
use crate::model::build::{limit, quic as quic_ids};

/// The cases, in the order of the table.
pub(super) fn all() -> Vec<Case> {
    let established = |name, scene| Case::new(name, scene, segment4()).flows(1 << 16).grows(V4);
    let new = |name, scene| Case::new(name, scene, syn4()).ever_new().grows(V4);
    vec![
        Case::new(
            "udp4 QUIC by connection id",
            udp4().asking(by_server_id),
            quic(CLIENT_V4, SERVICE_V4, [0, 4]),
        )
        .flows(1 << 16)
        .grows(V4)
        .to(3..4)
        .at_most(0.40, c::QUIC),
        established("tcp4, 1,000 sources denied", tcp4().asking(deny_sources)),
        new("tcp4 new flows, limited", tcp4().asking(limited)),
        established("tcp4, limited", tcp4().asking(limited)),
        established("tcp4, no handshake sampled", tcp4().timing(1)),
        established("tcp4, every handshake timed", tcp4().timing(u32::MAX)),
        new(
            "tcp4 new flows, every handshake timed",
            tcp4().timing(u32::MAX),
        ),
    ]
}

/// `[service.quic]`.
fn by_server_id(service: &mut ServiceState) {
    *service = quic_ids(service.clone(), 1, 2);
}

/// `deny_sources`, a thousand of them, none of a client.
fn deny_sources(service: &mut ServiceState) {
    let prefix = |number: u32| Ipv4Net::new_assert((0xac10_0000 | number << 8).into(), 24);
    let denied = (0..1000).map(|number| (IpNet::V4(prefix(number)), false));
    service.flags |= Target::FILTER;
    service.sources = Arc::new(denied.collect());
}

/// `[service.source_limit]`, which no case comes near.
fn limited(service: &mut ServiceState) {
    let mut prefix = [0; 16];
    prefix[..3].fill(255);
    *service = limit(service.clone(), 1 << 40, prefix);
}
