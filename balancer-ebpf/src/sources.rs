//! Which sources a service takes packets from, and how many new flows.
//!
//! What asks a map is in functions of their own, which the kernel verifies
//! once, and which read the source from the frame again: their keys would take
//! room on the stack of every packet.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::programs::XdpContext;
use balancer_common::features::Features;
use balancer_common::hash::Address;
use balancer_common::layout::{SourceKey, Target};
use balancer_common::limit;
use balancer_common::parse::{PROTOCOL_IPIP, Packet};
use balancer_common::verdict::Reason;

use crate::features;
use crate::maps;
use crate::packet::FreshFrame;
use crate::pick::Picked;
use crate::vip::Family;

/// Number for a source that is let in.
const IN: u32 = 0;
/// Added to the numbers of reasons.
const REASONS: u32 = 1;
/// Added to the offset of an IPv4 header.
const V4: u32 = 1 << 8;

/// Passes what the service's lists pass.
#[inline(always)]
pub(crate) fn filter<A: Family>(
    ctx: &XdpContext,
    target: &Target,
    packet: &Packet<A>,
) -> Result<(), Reason> {
    if !features::asked(target, Target::FILTER, Features::FILTER) {
        return Ok(());
    }
    let is_strict = u32::from(target.flags & Target::FILTER_ALLOWS != 0);
    let told = source_listed(ctx.ctx, place(packet), target.options, is_strict);
    let_in(told)
}

/// Takes a token for a new flow. Two CPUs that take one at the same instant
/// may take the same: the limit is one of thousands a second, not exact.
#[inline(always)]
pub(crate) fn limit<A: Family>(
    ctx: &XdpContext,
    target: &Target,
    packet: &Packet<A>,
    picked: &Picked,
) -> Result<(), Reason> {
    if !features::asked(target, Target::LIMIT, Features::LIMIT) || picked.new == 0 {
        return Ok(());
    }
    let told = source_limited(ctx.ctx, place(packet), target.options, target.service);
    let_in(told)
}

/// Where the IP header begins, and of which family it is, in one number.
#[inline(always)]
fn place<A: Family>(packet: &Packet<A>) -> u32 {
    let family = if A::TUNNEL_PROTOCOL == PROTOCOL_IPIP {
        V4
    } else {
        0
    };
    packet.ip_at as u32 | family
}

#[inline(always)]
fn let_in(told: u32) -> Result<(), Reason> {
    // The kernel does not know, as the compiler does, what these functions may
    // return, and has to see it checked.
    let told = core::hint::black_box(told);
    if told == IN {
        return Ok(());
    }
    Err(Reason::from_number(told - REASONS).unwrap_or(Reason::BadTable))
}

#[inline(always)]
fn turned_away(reason: Reason) -> u32 {
    reason as u32 + REASONS
}

/// Whether the lists of a service let the source in; with `is_strict` it has
/// to be in one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn source_listed(ctx: *mut xdp_md, place: u32, options: u32, is_strict: u32) -> u32 {
    let ctx = XdpContext::new(ctx);
    let Some(source) = source(&ctx, place) else {
        return turned_away(Reason::Truncated);
    };
    let Some(options) = maps::options(options) else {
        return turned_away(Reason::BadTable);
    };
    match maps::source_rule(options.sources, source) {
        Some(SourceKey::ALLOW) => IN,
        Some(_) => turned_away(Reason::SourceDenied),
        None if is_strict != 0 => turned_away(Reason::SourceNotAllowed),
        None => IN,
    }
}

/// Whether the source's prefix has a token left, which is then taken.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn source_limited(ctx: *mut xdp_md, place: u32, options: u32, service: u32) -> u32 {
    let ctx = XdpContext::new(ctx);
    let Some(source) = source(&ctx, place) else {
        return turned_away(Reason::Truncated);
    };
    let Some(options) = maps::options(options) else {
        return turned_away(Reason::BadTable);
    };
    let key = limit::key(service, source, options);
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    let kept = maps::limit(&key);
    // SAFETY: a live value of a map; a torn time is impossible, as it is one
    // aligned word.
    let before = kept.map_or(0, |kept| unsafe { kept.read_volatile() });
    let Some(full) = limit::admit(before, now, options) else {
        return turned_away(Reason::SourceLimited);
    };
    match kept {
        // SAFETY: as above.
        Some(kept) => unsafe { kept.write_volatile(full) },
        None => maps::begin_limit(&key, full),
    }
    IN
}

/// The source as keys have it.
#[inline(always)]
fn source(ctx: &XdpContext, place: u32) -> Option<[u8; 16]> {
    let frame = FreshFrame::of(ctx);
    let ip_at = (place & 0x1f) as usize;
    if place & V4 != 0 {
        let (source, _) = <[u8; 4]>::addresses(frame, ip_at)?;
        return Some(source.padded());
    }
    let (source, _) = <[u8; 16]>::addresses(frame, ip_at)?;
    Some(source)
}
