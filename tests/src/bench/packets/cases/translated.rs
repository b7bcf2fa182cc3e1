//! Cases of packets that are rewritten, and of their replies.

use balancer_common::layout::MAX_NAT_SOURCES;
use balancer_common::verdict::Reason;
use balancer_user::dataplane::bench::Stimulus;

use super::super::case::Case;
use super::super::frames::{CLIENT_V4, CLIENT_V6, pooled_reply, reply};
use super::super::scene::{Scene, first_port};
use super::{segment4, segment6, syn4, syn6, tcp4, tcp6};
use crate::model::build::{full, nat_v4, nat_v6};

/// `nat`: each flow has a translation of its own, for the replies.
pub(super) fn nat() -> Vec<Case> {
    let v4 = tcp4().to(|number| nat_v4(number, 8080));
    let v6 = tcp6().to(|number| nat_v6(number, 8080));
    let (one4, one6) = (v4.many(1, 1), v6.many(1, 1));
    let replies = |name, scene, client: Stimulus, backend, to| {
        Case::new(name, scene, reply(backend, to))
            .flows(1 << 16)
            .after(scene, client.with_flows(1 << 16))
            .ends(Reason::ReplyForwarded)
    };
    vec![
        Case::new("tcp4 nat, 1 flow", v4, segment4()),
        Case::new("tcp4 nat, 65,536 flows", v4, segment4()).flows(1 << 16),
        Case::new("tcp6 nat, 1 flow", v6, segment6()),
        Case::new("tcp6 nat, 65,536 flows", v6, segment6()).flows(1 << 16),
        Case::new("tcp4 nat, new flows", v4, syn4()).ever_new(),
        Case::new("tcp6 nat, new flows", v6, syn6()).ever_new(),
        replies(
            "tcp4 nat, replies of 65,536 flows",
            one4,
            segment4(),
            "10.1.0.0:8080",
            CLIENT_V4,
        ),
        replies(
            "tcp6 nat, replies of 65,536 flows",
            one6,
            segment6(),
            "[fd00::]:8080",
            CLIENT_V6,
        ),
    ]
}

/// `fullnat`: each flow has a port of its own, and two translations.
pub(super) fn fullnat() -> Vec<Case> {
    const PORTS: u32 = 256;
    const ADDRESSES: u32 = MAX_NAT_SOURCES as u32;
    let v4 = tcp4().to(|number| full(nat_v4(number, 8080)));
    let v6 = tcp6().to(|number| full(nat_v6(number, 8080)));
    // As many flows as there are ports: each has one.
    let replies = |name, scene: Scene, request: Stimulus, backend, address: &str| {
        let scene = scene.many(1, 1).with_ports(PORTS);
        let first = format!("{address}:{}", first_port(PORTS));
        Case::new(name, scene, pooled_reply(backend, &first))
            .flows(1 << 16)
            .over(ADDRESSES)
            .after(scene, request.with_flows(u64::from(ADDRESSES * PORTS)))
            .ends(Reason::ReplyForwarded)
    };
    vec![
        Case::new("tcp4 fullnat, 1 flow", v4, segment4()),
        Case::new("tcp4 fullnat, 65,536 flows", v4, segment4()).flows(1 << 16),
        Case::new("tcp6 fullnat, 1 flow", v6, segment6()),
        Case::new("tcp6 fullnat, 65,536 flows", v6, segment6()).flows(1 << 16),
        Case::new("tcp4 fullnat, new flows", v4, syn4()).ever_new(),
        Case::new("tcp6 fullnat, new flows", v6, syn6()).ever_new(),
        replies(
            "tcp4 fullnat, replies of 16,384 flows",
            v4,
            segment4(),
            "10.1.0.0:8080",
            "10.8.0.0",
        ),
        replies(
            "tcp6 fullnat, replies of 16,384 flows",
            v6,
            segment6(),
            "[fd00::]:8080",
            "[fd08::]",
        ),
    ]
}
