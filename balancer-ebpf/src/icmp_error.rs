//! ICMP errors about flows: each goes to the member of the flow it tells of.
//!
//! An error to a service's address quotes what a backend sent to a client, so
//! it is read as a packet of that flow, and goes the way of those. An error to
//! another address may quote what left here through a tunnel: then the quoted
//! inner packet names the flow, and the outer one has to be exactly what the
//! flow's member gets, hash and all, so that strangers, who do not know the
//! keys, cannot make errors up. That a tunnel's packet was too big is for the
//! client to know: it is told from the service's address.

mod outer;
mod settle;
mod tell;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use balancer_common::encap::UDP_LEN;
use balancer_common::features::Features;
use balancer_common::hash::Address;
use balancer_common::icmp_error::{self, ICMP_LEN, Quoted};
use balancer_common::layout::Member;
use balancer_common::parse::{
    Frame, IPV4_LEN, IPV6_LEN, PROTOCOL_IPIP, PROTOCOL_IPV6, PROTOCOL_UDP, Packet, Part,
};
use balancer_common::verdict::Reason;

use crate::packet::FreshFrame;
use crate::vip;
use crate::{features, maps};

pub(crate) use outer::name_inner;
pub(crate) use settle::settle;

/// What the readers give: it is no error about a flow, it is to a service's
/// address and about none, or it was handed over as a packet of a flow.
const NONE: u32 = 0;
const UNMATCHED: u32 = 1;
const OF_V4: u32 = 2;
const OF_V6: u32 = 3;
/// Of either family: it may be about what left here for a backend, rewritten.
const OF_CLIENT: u32 = 4;

/// `form` of an error that quotes what a backend sent.
const BACKENDS: u32 = 0;

/// Tunnels whose packets are IPv4, and IPv6.
pub(crate) const TUNNELS_V4: Features = Features::IPIP_V4.with(Features::GUE_V4);
pub(crate) const TUNNELS_V6: Features = Features::IPIP_V6.with(Features::GUE_V6);

/// More than the headers before any quoted byte take.
const MOST_HEADERS: u32 = 0x7fff;

/// What an error tells beside the flow: this CPU's.
#[repr(C)]
pub(crate) struct Told {
    /// Addresses of the quoted tunnel packet, network order, padded.
    source: [u8; 16],
    destination: [u8; 16],
    /// The four bytes behind its IP header: of GUE, the ports.
    ports: [u8; 4],
    /// [`BACKENDS`], or the kind of member that gets such tunnel packets.
    form: u32,
    /// What fits, if the quoted packet was too big; else 0.
    mtu: u32,
    /// Where the flow's packet begins in the frame.
    inner_at: u32,
    /// Where the transport header that is quoted first begins in it.
    transport_at: u32,
    /// Where the error ends in it.
    end: u32,
}

/// Family of the flow that an error is about.
pub(crate) enum Flow {
    V4,
    V6,
    /// Of the error's own; it goes to the client, if the flow is translated.
    Client,
}

/// Whether errors about tunnels of one family may be about services of
/// another.
#[inline(always)]
pub(crate) fn is_other(services: Features, tunnels: Features) -> bool {
    features::any(services) && features::any(tunnels)
}

/// Hands over the packet of a flow that an ICMP error stands for.
#[inline(always)]
pub(crate) fn v4(ctx: &XdpContext, ip_at: usize) -> Result<Flow, Reason> {
    flow(icmp_error_v4(ctx.ctx, ip_at as u32))
}

/// As [`v4`], of an ICMPv6 error.
#[inline(always)]
pub(crate) fn v6(ctx: &XdpContext, ip_at: usize) -> Result<Flow, Reason> {
    flow(icmp_error_v6(ctx.ctx, ip_at as u32))
}

#[inline(always)]
fn flow(read: u32) -> Result<Flow, Reason> {
    match read {
        OF_V4 => Ok(Flow::V4),
        OF_V6 => Ok(Flow::V6),
        OF_CLIENT => Ok(Flow::Client),
        UNMATCHED => Err(Reason::ErrorUnmatched),
        _ => Err(Reason::NotTcpUdp),
    }
}

// Global functions: the kernel verifies them once, for themselves.

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn icmp_error_v4(ctx: *mut xdp_md, ip_at: u32) -> u32 {
    read_v4(&XdpContext::new(ctx), (ip_at & 0x1f) as usize).unwrap_or(NONE)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn icmp_error_v6(ctx: *mut xdp_md, ip_at: u32) -> u32 {
    read_v6(&XdpContext::new(ctx), (ip_at & 0x1f) as usize).unwrap_or(NONE)
}

#[inline(always)]
fn read_v4(ctx: &XdpContext, ip_at: usize) -> Option<u32> {
    let frame = FreshFrame::of(ctx);
    let error = maps::empty_packet::<[u8; 4]>()?;
    let mtu = icmp_error::v4_into(frame, ip_at, error)?;
    let told = told()?;
    let (at, end) = begin(told, error, mtu);
    let asked = error.destination;
    let quoted = icmp_error::quoted_v4(frame, at, end);
    if vip::has_address(&maps::generation()?, asked) {
        return Some(match quoted {
            Some(quoted) if quoted.source == asked && quoted.is_tcp_or_udp() => {
                told.transport_at = quoted.transport_at as u32;
                hand_over_reversed(error, &quoted);
                OF_V4
            }
            _ => UNMATCHED,
        });
    }
    let quoted = quoted.filter(|quoted| quoted.source == asked)?;
    if quoted.transport_at == at + IPV4_LEN
        && features::any(TUNNELS_V4)
        && tunnel(told, &quoted, Member::IPIP_V4, Member::GUE_V4).is_some()
        && let Some(of) = inner(frame, told, error, quoted.protocol)
    {
        return Some(of);
    }
    of_client(told, error, &quoted)
}

#[inline(always)]
fn read_v6(ctx: &XdpContext, ip_at: usize) -> Option<u32> {
    let frame = FreshFrame::of(ctx);
    let error = maps::empty_packet::<[u8; 16]>()?;
    let mtu = icmp_error::v6_into(frame, ip_at, error)?;
    let told = told()?;
    let (at, end) = begin(told, error, mtu);
    let asked = error.destination;
    let quoted = icmp_error::quoted_v6(frame, at, end).map(|quoted| anew(told, quoted));
    if vip::has_address(&maps::generation()?, asked) {
        return Some(match quoted {
            Some(quoted) if quoted.source == asked && quoted.is_tcp_or_udp() => {
                told.transport_at = quoted.transport_at as u32;
                hand_over_reversed(error, &quoted);
                OF_V6
            }
            _ => UNMATCHED,
        });
    }
    let quoted = quoted.filter(|quoted| quoted.source == asked)?;
    if quoted.transport_at == at + IPV6_LEN
        && features::any(TUNNELS_V6)
        && tunnel(told, &quoted, Member::IPIP_V6, Member::GUE_V6).is_some()
        && let Some(of) = inner(frame, told, error, quoted.protocol)
    {
        return Some(of);
    }
    of_client(told, error, &quoted)
}

/// Notes what is told, and gives where the quoted packet begins and where the
/// error ends.
#[inline(always)]
fn begin<A: Address>(told: &mut Told, packet: &mut Packet<A>, mtu: u32) -> (usize, usize) {
    told.inner_at = packet.header_len;
    packet.header_len = place(&told.inner_at) as u32;
    let ip_at = packet.ip_at as u32;
    told.form = BACKENDS;
    told.mtu = mtu;
    told.end = ip_at + packet.ip_len;
    told.inner_at = ip_at + packet.header_len + ICMP_LEN as u32;
    (place(&told.inner_at), told.end as usize)
}

/// A place in the frame, read back: the verifier then knows nothing of how it
/// came about, and need not follow each way on its own.
#[inline(always)]
fn place(at: &u32) -> usize {
    // SAFETY: a reference.
    (unsafe { core::ptr::read_volatile(at) } & MOST_HEADERS) as usize
}

/// A place so many bytes before another one. Masked, as the verifier takes no
/// step back from a pointer.
#[inline(always)]
fn before(at: usize, by: usize) -> usize {
    core::hint::black_box(at.wrapping_sub(by) & MOST_HEADERS as usize)
}

/// The same, with its place read back.
#[inline(always)]
fn anew<A>(told: &mut Told, quoted: Quoted<A>) -> Quoted<A> {
    told.inner_at = quoted.transport_at as u32;
    Quoted {
        transport_at: place(&told.inner_at),
        ..quoted
    }
}

/// Hands over what a backend would send in the place of the error, if that may
/// be about a packet that was sent to one in its client's name.
#[inline(always)]
fn of_client<A: Address>(told: &mut Told, error: &Packet<A>, quoted: &Quoted<A>) -> Option<u32> {
    let translated = Features::NAT.with(Features::FULLNAT);
    if !features::any(translated) || !quoted.is_tcp_or_udp() {
        return None;
    }
    told.transport_at = quoted.transport_at as u32;
    hand_over_reversed(error, quoted);
    Some(OF_CLIENT)
}

/// What the other end of the flow would send, in the place of the error.
#[inline(always)]
fn hand_over_reversed<A: Address>(error: &Packet<A>, quoted: &Quoted<A>) {
    maps::hand_over(
        maps::PACKET,
        Packet {
            source: quoted.destination,
            destination: quoted.source,
            ports: icmp_error::reversed(quoted.ports),
            protocol: quoted.protocol,
            ..*error
        },
    );
}

/// Notes the quoted tunnel packet, and where the one inside begins.
#[inline(always)]
fn tunnel<A: Address>(told: &mut Told, quoted: &Quoted<A>, ipip: u8, gue: u8) -> Option<()> {
    let (form, inner_at) = match quoted.protocol {
        PROTOCOL_IPIP | PROTOCOL_IPV6 => (ipip, quoted.transport_at),
        PROTOCOL_UDP => (gue, quoted.transport_at + UDP_LEN),
        _ => return None,
    };
    told.source = quoted.source.padded();
    told.destination = quoted.destination.padded();
    told.ports = quoted.ports;
    told.form = u32::from(form);
    told.inner_at = inner_at as u32;
    Some(())
}

/// Hands over the packet in a quoted tunnel packet, in the place of the error.
#[inline(always)]
fn inner<A: Address>(
    frame: &FreshFrame,
    told: &Told,
    error: &Packet<A>,
    protocol: u8,
) -> Option<u32> {
    let (at, end) = (place(&told.inner_at), told.end as usize);
    let [first, _] = frame.bytes(at)?;
    match (protocol, first >> 4) {
        (PROTOCOL_IPIP | PROTOCOL_UDP, 4) if features::any(Features::IPV4) => {
            let quoted = icmp_error::quoted_v4(frame, at, end)?;
            hand_over(error, &quoted)?;
            Some(OF_V4)
        }
        (PROTOCOL_IPV6 | PROTOCOL_UDP, 6) if features::any(Features::IPV6) => {
            let quoted = icmp_error::quoted_v6(frame, at, end)?;
            hand_over(error, &quoted)?;
            Some(OF_V6)
        }
        _ => None,
    }
}

#[inline(always)]
fn hand_over<A: Address, B: Address>(error: &Packet<A>, quoted: &Quoted<B>) -> Option<()> {
    if !quoted.is_tcp_or_udp() {
        return None;
    }
    maps::hand_over(
        maps::PACKET,
        Packet {
            source: quoted.source,
            destination: quoted.destination,
            ports: quoted.ports,
            protocol: quoted.protocol,
            traffic_class: error.traffic_class,
            ttl: error.ttl,
            part: Part::Error,
            ip_at: error.ip_at,
            header_len: error.header_len,
            ip_len: error.ip_len,
        },
    );
    Some(())
}

#[inline(always)]
fn told() -> Option<&'static mut Told> {
    // SAFETY: the entry of this CPU in a live map. Programs do not interrupt
    // each other, and no function keeps it while it calls another.
    maps::told().map(|told| unsafe { &mut *told })
}

/// Where the quoted transport header begins, and where the error ends, of an error about what
/// a backend sent.
#[inline(always)]
pub(crate) fn places() -> Option<(usize, usize)> {
    let told = told()?;
    Some((place(&told.transport_at), told.end as usize))
}
