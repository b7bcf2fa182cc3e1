//! The model's word to a client whose packet does not fit (RFC 1191, 4;
//! RFC 4443, 3.2).

use std::net::IpAddr;

use balancer_common::layout::Member;
use balancer_common::verdict::Reason;

use super::forward::{checksum, ones_complement_sum, outer_len};
use super::parse::{Flow, Part};

/// The frame that goes back: as long as RFC 1812 and RFC 4443 let it be.
///
/// # Errors
/// Later fragments are not answered, as the first one was (RFC 1122, 3.2.2),
/// nor packets that fit into an error whole, nor what came to a group of hosts
/// or from no single one: they are dropped.
pub fn answer(frame: &[u8], flow: &Flow, member: &Member) -> Result<Vec<u8>, Reason> {
    let (most_len, header_len) = match flow.destination {
        IpAddr::V4(_) => (576, 20),
        IpAddr::V6(_) => (1280, 40),
    };
    let quote_len = most_len - header_len - 8;
    let is_later = matches!(flow.part, Part::Later(_));
    if is_later || flow.ip_len <= quote_len || !is_told(frame, flow.source) {
        return Err(Reason::ExceedsMtu);
    }
    let quote = &frame[flow.ip_at..flow.ip_at + quote_len];
    let mtu = usize::from(member.mtu).saturating_sub(outer_len(member.kind));
    let mut out = [&frame[6..12], &frame[..6], &frame[12..flow.ip_at]].concat();
    let ends = (flow.destination, flow.source);
    out.extend(message(ends, mtu, quote, ones_complement_sum(quote)));
    Ok(out)
}

/// Whether a client may be told of its frame: both are single hosts'.
pub fn is_told(frame: &[u8], client: IpAddr) -> bool {
    let from_one = match client {
        IpAddr::V4(address) => {
            let from_nowhere = address.octets()[0] == 0 || address.is_loopback();
            !from_nowhere && u32::from(address) < 0xe000_0000
        }
        IpAddr::V6(address) => {
            !address.is_multicast() && !address.is_unspecified() && !address.is_loopback()
        }
    };
    from_one && frame[0].is_multiple_of(2)
}

/// The ICMP error from the first address to the second about a packet of
/// which this is quoted; its bytes have that sum.
pub fn message(ends: (IpAddr, IpAddr), mtu: usize, quote: &[u8], quote_sum: u16) -> Vec<u8> {
    let len = 8 + quote.len() as u16;
    let (mut ip, mut icmp, pseudo) = match ends {
        (IpAddr::V4(service), IpAddr::V4(client)) => {
            let mut ip = vec![0x45, 0xc0];
            ip.extend((20 + len).to_be_bytes());
            ip.extend(&quote[4..6]);
            ip.extend([0, 0, 64, 1, 0, 0]);
            ip.extend(service.octets());
            ip.extend(client.octets());
            let check = checksum(&ip).to_be_bytes();
            ip[10..12].copy_from_slice(&check);
            let mut icmp = vec![3, 4, 0, 0, 0, 0];
            icmp.extend((mtu.clamp(68, 65_535) as u16).to_be_bytes());
            (ip, icmp, Vec::new())
        }
        (IpAddr::V6(service), IpAddr::V6(client)) => {
            let addresses = [service.octets(), client.octets()].concat();
            let mut ip = vec![0x60, 0, 0, 0];
            ip.extend(len.to_be_bytes());
            ip.extend([58, 64]);
            ip.extend(&addresses);
            let mut icmp = vec![2, 0, 0, 0];
            icmp.extend((mtu.max(1280) as u32).to_be_bytes());
            // RFC 8200, 8.1.
            let len = u32::from(len).to_be_bytes();
            (ip, icmp, [&addresses[..], &len, &[0, 0, 0, 58]].concat())
        }
        (service, client) => panic!("an error from {service} to {client}"),
    };
    let check = checksum(&[&pseudo, &icmp[..], &quote_sum.to_be_bytes()].concat());
    icmp[2..4].copy_from_slice(&check.to_be_bytes());
    ip.extend(icmp);
    ip.extend(quote);
    ip
}
