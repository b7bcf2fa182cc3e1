//! What becomes of an error once the member of its flow is known.

use aya_ebpf::programs::XdpContext;
use balancer_common::encap;
use balancer_common::layout::Member;
use balancer_common::parse::{PROTOCOL_IPIP, Packet};
use balancer_common::verdict::Reason;

use super::tell::{icmp_error_tell_v4, icmp_error_tell_v6};
use super::{BACKENDS, told};
use crate::pick::Picked;
use crate::vip::Family;

/// What becomes of an error now that its flow's member is known: it goes
/// there, which is no new flow and leaves no record, or has become the word to
/// the client (`true`).
#[inline(always)]
pub(crate) fn settle<A: Family>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    picked: &mut Picked,
) -> Result<bool, Reason> {
    picked.leaves_nothing();
    match judge(picked.member, picked.hash) {
        TO_BACKEND => Ok(false),
        NOBODYS => Err(Reason::ErrorUnmatched),
        mtu if A::TUNNEL_PROTOCOL == PROTOCOL_IPIP => {
            sent(icmp_error_tell_v4(ctx.ctx, packet.ip_at as u32, mtu))
        }
        mtu => sent(icmp_error_tell_v6(ctx.ctx, packet.ip_at as u32, mtu)),
    }
}

#[inline(always)]
fn sent(told: u32) -> Result<bool, Reason> {
    match told {
        0 => Err(Reason::ErrorUnmatched),
        _ => Ok(true),
    }
}

/// What [`judge`] gives beside an MTU.
const TO_BACKEND: u32 = 0;
const NOBODYS: u32 = u32::MAX;

/// The MTU that the client is to be told, or what else becomes of the error.
#[inline(never)]
fn judge(member: &Member, hash: u64) -> u32 {
    let Some(told) = told() else {
        return NOBODYS;
    };
    if told.form == BACKENDS {
        return TO_BACKEND;
    }
    let [high, low] = match member.kind {
        Member::IPIP_V4 | Member::GUE_V4 => {
            let source = encap::outer_source_v4(member, hash);
            [u64::from(u32::from_ne_bytes(source)), 0]
        }
        _ => encap::outer_source_v6(member, hash),
    };
    let is_gue = matches!(member.kind, Member::GUE_V4 | Member::GUE_V6);
    let [a, b, c, d, ..] = encap::gue(member, 0, hash);
    let is_ours = told.form == u32::from(member.kind)
        && word(&told.source) == u128::from(low) << 64 | u128::from(high)
        && word(&told.destination) == word(&member.outer_destination)
        && (!is_gue || u32::from_ne_bytes(told.ports) == u32::from_ne_bytes([a, b, c, d]));
    if !is_ours {
        return NOBODYS;
    }
    match told.mtu {
        0 => TO_BACKEND,
        mtu => {
            let mtu = if mtu < u32::from(member.mtu) {
                mtu
            } else {
                u32::from(member.mtu)
            };
            // Never 0: no tunnel packet fits into so little.
            mtu.saturating_sub(encap::overhead(member.kind)).max(1)
        }
    }
}

#[inline(always)]
fn word(address: &[u8; 16]) -> u128 {
    u128::from_ne_bytes(*address)
}
