//! The backend's program: takes the tunnel's headers off what the balancer
//! sent, and lets all else through as it came.

mod ecn;
mod gue;
mod ipip;
mod outer;
mod random;
mod sources;

use std::net::IpAddr;

use balancer_common::decap::{Form, Refusal};
use balancer_tests::frames::{Packet, Tunnel};
use balancer_user::dataplane::decap::{Counts, DecapTrial, Sources, Unwrapping};
use balancer_user::dataplane::trial::Action;

use crate::fixture::{tcp_v4, tcp_v6};

const ETHERNET: usize = 14;

/// What a frame counted: its form and bytes, or its refusal, or nothing.
type Counted = Option<Result<(Form, u64), Refusal>>;

/// A loaded copy whose counters are read around each frame.
struct Backend {
    trial: DecapTrial,
}

impl Backend {
    /// One that unwraps what anyone sends.
    fn open() -> Self {
        Self::trusting(Sources::Any)
    }

    fn trusting(sources: Sources) -> Self {
        Self::with(sources, 6080)
    }

    fn with(sources: Sources, gue_port: u16) -> Self {
        let unwrapping = Unwrapping { sources, gue_port };
        Self {
            trial: DecapTrial::load(&unwrapping).unwrap(),
        }
    }

    /// Runs one frame. At most one counter may move, and by one packet.
    fn run(&mut self, frame: &[u8]) -> (Action, Vec<u8>, Counted) {
        let before = self.trial.counts().unwrap();
        let (action, out) = self.trial.run(frame).unwrap();
        (action, out, moved(&before, &self.trial.counts().unwrap()))
    }

    /// The frame is unwrapped to this one, and counted so.
    fn assert_unwraps(&mut self, frame: &[u8], expected: &[u8], form: Form, bytes: usize) {
        let (action, out, counted) = self.run(frame);
        assert_eq!(action, Action::Pass);
        assert_eq!(counted, Some(Ok((form, bytes as u64))));
        assert_eq!(out, expected);
    }

    /// The tunnel comes out as its inner packet, whole and unchanged.
    fn assert_opens(&mut self, tunnel: &Tunnel, form: Form) {
        self.assert_unwraps(
            &tunnel.build(),
            &tunnel.unwrapped(),
            form,
            tunnel.inner.len(),
        );
    }

    /// The frame reaches the stack as it came and counts as refused.
    fn assert_refuses(&mut self, frame: &[u8], refusal: Refusal) {
        let (action, out, counted) = self.run(frame);
        assert_eq!(counted, Some(Err(refusal)));
        assert_eq!(action, Action::Pass);
        assert_eq!(out, frame);
    }

    /// The frame reaches the stack as it came and counts as nothing.
    fn assert_ignores(&mut self, frame: &[u8]) {
        let (action, out, counted) = self.run(frame);
        assert_eq!((action, counted), (Action::Pass, None));
        assert_eq!(out, frame);
    }
}

fn moved(before: &Counts, after: &Counts) -> Counted {
    let mut counted = Vec::new();
    for ((form, old), (_, new)) in before.forms.iter().zip(&after.forms) {
        if new != old {
            assert_eq!(new.packets, old.packets + 1);
            counted.push(Ok((*form, new.bytes - old.bytes)));
        }
    }
    for ((refusal, old), (_, new)) in before.refusals.iter().zip(&after.refusals) {
        if new != old {
            assert_eq!(*new, old + 1);
            counted.push(Err(*refusal));
        }
    }
    assert!(counted.len() <= 1, "{counted:?}");
    counted.pop()
}

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

/// A packet without its link header.
fn inner(packet: &Packet) -> Vec<u8> {
    packet.build()[ETHERNET..].to_vec()
}

/// From the balancer's IPv4 or IPv6 address to a backend's.
fn tunnel(is_v4: bool, inner: Vec<u8>) -> Tunnel {
    let (source, destination) = if is_v4 {
        ("10.9.9.9", "10.1.0.7")
    } else {
        ("fd99::9", "fd00::7")
    };
    Tunnel::ipip(ip(source), ip(destination), inner)
}

/// A tunnel for each pair of families, and whether the inner one is IPv4.
fn pairs(payload_len: usize) -> [(Tunnel, Form); 4] {
    let [v4, v6] = [tcp_v4(), tcp_v6()].map(|packet| {
        inner(&Packet {
            payload_len,
            ..packet
        })
    });
    [
        (tunnel(true, v4.clone()), Form::Ipip4in4),
        (tunnel(true, v6.clone()), Form::Ipip6in4),
        (tunnel(false, v4), Form::Ipip4in6),
        (tunnel(false, v6), Form::Ipip6in6),
    ]
}

fn changed(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}
