//! The model's word to a client whose packet does not fit (RFC 1191, 4;
//! RFC 4443, 3.2).

use std::net::IpAddr;

use balancer_common::layout::Member;
use balancer_common::verdict::Reason;

use super::forward::{checksum, outer_len};
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
    let from_one = match flow.source {
        IpAddr::V4(address) => {
            let from_nowhere = address.octets()[0] == 0 || address.is_loopback();
            !from_nowhere && u32::from(address) < 0xe000_0000
        }
        IpAddr::V6(address) => {
            !address.is_multicast() && !address.is_unspecified() && !address.is_loopback()
        }
    };
    let to_one = frame[0].is_multiple_of(2);
    let is_later = matches!(flow.part, Part::Later(_));
    if is_later || flow.ip_len <= quote_len || !from_one || !to_one {
        return Err(Reason::ExceedsMtu);
    }
    let quote = &frame[flow.ip_at..flow.ip_at + quote_len];
    let mtu = usize::from(member.mtu).saturating_sub(outer_len(member.kind));
    let mut out = [&frame[6..12], &frame[..6], &frame[12..flow.ip_at]].concat();
    match (flow.destination, flow.source) {
        (IpAddr::V4(service), IpAddr::V4(client)) => {
            let mut ip = vec![0x45, 0xc0];
            ip.extend((most_len as u16).to_be_bytes());
            ip.extend(&quote[4..6]);
            ip.extend([0, 0, 64, 1, 0, 0]);
            ip.extend(service.octets());
            ip.extend(client.octets());
            fill(&mut ip, 10, &[]);
            out.extend(ip);
            let mut icmp = vec![3, 4, 0, 0, 0, 0];
            icmp.extend((mtu.max(68) as u16).to_be_bytes());
            icmp.extend(quote);
            fill(&mut icmp, 2, &[]);
            out.extend(icmp);
        }
        (IpAddr::V6(service), IpAddr::V6(client)) => {
            let len = (8 + quote_len) as u16;
            let addresses = [service.octets(), client.octets()].concat();
            out.extend([0x60, 0, 0, 0]);
            out.extend(len.to_be_bytes());
            out.extend([58, 64]);
            out.extend(&addresses);
            let mut icmp = vec![2, 0, 0, 0];
            icmp.extend((mtu.max(1280) as u32).to_be_bytes());
            icmp.extend(quote);
            // RFC 8200, 8.1.
            let pseudo = [
                &addresses[..],
                &u32::from(len).to_be_bytes(),
                &[0, 0, 0, 58],
            ]
            .concat();
            fill(&mut icmp, 2, &pseudo);
            out.extend(icmp);
        }
        (service, client) => panic!("a packet from {client} to {service}"),
    }
    Ok(out)
}

/// Fills in the checksum over these bytes and a pseudo-header.
fn fill(bytes: &mut [u8], at: usize, pseudo: &[u8]) {
    let check = checksum(&[pseudo, bytes].concat());
    bytes[at..at + 2].copy_from_slice(&check.to_be_bytes());
}
