//! The load balancer: order of the stages, and verdict to XDP action.
//!
//! The packet logic is in `balancer-common`; the files beside this one are
//! one stage each and hold what needs a map, a helper or a raw pointer. The
//! backend's side is another object, in `decap`.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
// The `xdp` attribute makes an undocumented entry point of each program.
#![allow(missing_docs)]

mod balance;
mod capture;
mod count;
mod echo;
mod features;
mod flow;
mod forward;
mod fragment;
mod handshake;
mod icmp_error;
mod maps;
mod mss;
mod nat;
mod pick;
mod plain;
mod quic;
mod sources;
mod too_big;
mod trace;
mod unusual;
mod vip;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use balancer_common::features::Features;
use balancer_common::parse::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use balancer_common::verdict::{Disposition, Reason};
use balancer_ebpf::packet;

use icmp_error::Flow;
use packet::XdpFrame;

balancer_ebpf::object!();

const IPV4: u16 = u16::from_ne_bytes(ETHERTYPE_IPV4);
const IPV6: u16 = u16::from_ne_bytes(ETHERTYPE_IPV6);

/// The XDP action of a packet and its reason; of most reasons the action
/// follows.
type Verdict = Result<(u32, Reason), Reason>;

/// The load balancer.
#[xdp]
// A call costs several nanoseconds where returns are guarded.
#[inline(always)]
fn balancer(ctx: XdpContext) -> u32 {
    trace::enter();
    let verdict = match plain::verdict(&ctx) {
        Some(verdict) => verdict,
        None => stages(&ctx),
    };
    conclude(&ctx, verdict)
}

/// Counts the reason, and gives the action.
#[inline(always)]
fn conclude(ctx: &XdpContext, verdict: Verdict) -> u32 {
    let (action, reason) = match verdict {
        Ok(done) => done,
        Err(reason) => match reason.disposition() {
            Disposition::Pass => (XDP_PASS, reason),
            Disposition::Drop | Disposition::Forward | Disposition::Answer => (XDP_DROP, reason),
        },
    };
    count::reason(reason);
    trace::reason(ctx, action, reason);
    action
}

/// The verdict on any packet.
#[inline(always)]
fn stages(ctx: &XdpContext) -> Verdict {
    trace::begin();
    let link = parse::link(XdpFrame::of(ctx))?;
    let ip_at = link.len;
    // What is read is handed over, and taken at one place for each family. An
    // ICMP error may be about a flow of the other one.
    'v6: {
        // A number: of bytes, each would be compared for itself.
        match u16::from_ne_bytes(link.ethertype) {
            IPV4 if features::any(Features::IPV4) => match echo::v4(ctx, ip_at) {
                Err(Reason::NotTcpUdp) => match unusual::ipv4(ctx, ip_at) {
                    Err(Reason::NotTcpUdp) => match icmp_error::v4(ctx, ip_at)? {
                        Flow::V6 if features::any(Features::IPV6) => break 'v6,
                        Flow::Client => return nat::error::reply::<[u8; 4]>(ctx),
                        _ => {}
                    },
                    read => read?,
                },
                answered => return answered,
            },
            IPV6 if features::any(Features::IPV6) => match echo::v6(ctx, ip_at) {
                Err(Reason::NotTcpUdp) => match unusual::ipv6(ctx, ip_at) {
                    Err(Reason::NotTcpUdp) => match icmp_error::v6(ctx, ip_at)? {
                        Flow::V4 if features::any(Features::IPV4) => {}
                        Flow::Client => return nat::error::reply::<[u8; 16]>(ctx),
                        _ => break 'v6,
                    },
                    read => {
                        read?;
                        break 'v6;
                    }
                },
                answered => return answered,
            },
            // Services are of one family, tunnels may be of the other.
            IPV4 if icmp_error::is_other(Features::IPV6, icmp_error::TUNNELS_V4) => {
                match icmp_error::v4(ctx, ip_at) {
                    Ok(Flow::V6) => break 'v6,
                    _ => return Err(Reason::NoService),
                }
            }
            IPV6 if icmp_error::is_other(Features::IPV4, icmp_error::TUNNELS_V6) => {
                match icmp_error::v6(ctx, ip_at) {
                    Ok(Flow::V4) => {}
                    _ => return Err(Reason::NoService),
                }
            }
            IPV4 | IPV6 => return Err(Reason::NoService),
            _ => return Err(Reason::NotIp),
        }
        return balance::any(ctx, unusual::taken::<[u8; 4]>()?);
    }
    balance::any(ctx, unusual::taken::<[u8; 16]>()?)
}
