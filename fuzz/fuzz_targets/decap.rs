//! Any frame through the backend's side.
//!
//! What must hold: nothing panics; what is unwrapped lies inside the frame;
//! reading twice gives the same; form, refusal, bytes out and fate are what the
//! reference model says, which sums every checksum in full.
#![cfg_attr(fuzzing, no_main)]

use balancer_common::checksum;
use balancer_common::decap::gue::PORT;
use balancer_common::decap::{self, Address, Family, Fate, Inside, Outer, Refusal, UdpChecksum};
use balancer_common::parse::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use balancer_fuzz::model;
use balancer_user::dataplane::trial::Action;

fn check(frame: &[u8]) {
    let wanted = model::decap::unwrap(frame, PORT, |_| true);
    let Some((link_len, read)) = read(frame) else {
        assert_eq!((wanted.counted, wanted.action), (None, Action::Pass));
        return;
    };
    let counted = read.map(|inside| (inside.form, inside.len as u64));
    assert_eq!(Some(counted), wanted.counted);
    match read {
        Ok(inside) => {
            assert!(link_len < inside.at && inside.at + inside.len <= frame.len());
            assert_eq!(unwrapped(frame, link_len, &inside), wanted.frame);
        }
        Err(refusal) => {
            let drops = wanted.action == Action::Drop;
            assert_eq!(refusal.fate() == Fate::Drop, drops, "{refusal:?}");
        }
    }
}

/// Bytes of the Ethernet header, and what is in the tunnel packet behind it.
fn read(frame: &[u8]) -> Option<(usize, Result<Inside, Refusal>)> {
    let link = parse::link(frame).ok()?;
    let inside = match link.ethertype {
        ETHERTYPE_IPV4 => inside(frame, &decap::outer_v4(frame, link.len, PORT)?),
        ETHERTYPE_IPV6 => inside(frame, &decap::outer_v6(frame, link.len, PORT)?),
        _ => return None,
    };
    Some((link.len, inside))
}

fn inside<A: Address>(frame: &[u8], outer: &Outer<A>) -> Result<Inside, Refusal> {
    let is_right = |udp: &UdpChecksum| {
        let datagram = &frame[udp.at..udp.at + udp.len];
        checksum::fold(udp.pseudo_header + checksum::sum(datagram)) == 0xffff
    };
    let inside = outer.inside(frame, is_right);
    assert_eq!(inside, outer.inside(frame, is_right));
    inside
}

/// The frame as the program leaves it.
fn unwrapped(frame: &[u8], link_len: usize, inside: &Inside) -> Vec<u8> {
    let ethertype = match inside.family {
        Family::V4 => ETHERTYPE_IPV4,
        Family::V6 => ETHERTYPE_IPV6,
    };
    let mut out = [&frame[..link_len - 2], &ethertype, &frame[inside.at..]].concat();
    if let Some(mark) = inside.mark {
        out[link_len..link_len + 2].copy_from_slice(&mark.first.to_be_bytes());
        if inside.family == Family::V4 {
            let checksum = mark.checksum.to_be_bytes();
            out[link_len + 10..link_len + 12].copy_from_slice(&checksum);
        }
    }
    out
}

balancer_fuzz::target!("decap", check);
