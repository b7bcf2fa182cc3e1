//! The short way of nearly every packet: a plain frame, read in place.
//!
//! Then it goes the way of all packets, in [`balance`]; but that is compiled
//! anew here, with constants for what is the same in each of these, so that
//! what it needs stays in registers. Frames that are not plain are left to
//! `stages`, untouched.

use aya_ebpf::programs::XdpContext;
use balancer_common::features::Features;
use balancer_common::parse::{ETHERNET_LEN, Frame, Packet};
use balancer_common::plain;

use crate::packet::XdpFrame;
use crate::{IPV4, IPV6, Verdict, balance, features};

/// The verdict on a packet, if it is one for here.
#[inline(always)]
pub(crate) fn verdict(ctx: &XdpContext) -> Option<Verdict> {
    let frame = XdpFrame::of(ctx);
    let ethertype: &[u8; 2] = frame.view(ETHERNET_LEN - 2)?;
    match u16::from_ne_bytes(*ethertype) {
        IPV4 if features::any(Features::IPV4) => {
            let mut packet = Packet::EMPTY;
            if plain::ipv4(frame, &mut packet).is_some() {
                return balance::plain(ctx, &packet);
            }
            let mut error = Packet::EMPTY;
            plain::error_v4(frame, &mut error)?;
            balance::plain(ctx, &error)
        }
        IPV6 if features::any(Features::IPV6) => {
            let mut packet = Packet::EMPTY;
            if plain::ipv6(frame, &mut packet).is_some() {
                return balance::plain(ctx, &packet);
            }
            let mut error = Packet::EMPTY;
            plain::error_v6(frame, &mut error)?;
            balance::plain(ctx, &error)
        }
        _ => None,
    }
}
