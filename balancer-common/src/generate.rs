//! The packets of a load test: what the kernel's generator and its driver share.
//!
//! [`Generate`] is fixed when the program is loaded. Each packet is the
//! template with the source of its flow in it, and checksums to match. Host
//! order. The driver embeds the very object it was built with, so no version
//! is needed.

use bytemuck::{Pod, Zeroable};

use crate::checksum;

/// The lowest source port: those below are servers'.
pub const FIRST_PORT: u16 = 1024;
/// Source ports of an address.
pub const PORTS: u32 = 65_536 - FIRST_PORT as u32;

/// How the packets of the flows differ from the template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Generate {
    /// Words of the template to write before each packet, which its headers
    /// lie in.
    pub words: u32,
    /// Distinct flows, from 1 up to `sources` times [`PORTS`].
    pub flows: u32,
    /// Distinct source addresses, 1 or more.
    pub sources: u32,
    /// The last four bytes of the first of them.
    pub address: u32,
    /// Where these bytes are.
    pub address_at: u32,
    /// Where the source port is.
    pub port_at: u32,
    /// Where the IPv4 header's checksum is; 0 where there is none.
    pub ip_checksum_at: u32,
    /// Where the checksum of TCP or UDP is.
    pub checksum_at: u32,
    /// Folded sum of the IPv4 header but for its checksum and `address`.
    pub ip_sum: u32,
    /// Folded sum of what TCP or UDP sums but for the checksum, `address` and
    /// the source port.
    pub sum: u32,
    /// 1: of UDP, where a checksum of 0 would mean that there is none.
    pub is_udp: u32,
    /// Zero.
    pub padding: u32,
}

/// What the template lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// The last four bytes of the address.
    pub address: u32,
    /// The port.
    pub port: u16,
    /// Of the IPv4 header.
    pub ip_checksum: u16,
    /// Of TCP or UDP.
    pub checksum: u16,
}

impl Generate {
    /// The source of the flow of a number below `flows`. Addresses take turns,
    /// and each round of them has the next port, so no two flows are alike.
    #[inline(always)]
    pub const fn source(&self, flow: u32) -> Source {
        // Never 0; the verifier and the compiler have to see it.
        let sources = if self.sources == 0 { 1 } else { self.sources };
        let address = self.address.wrapping_add(flow % sources);
        let port = (FIRST_PORT as u32 + flow / sources % PORTS) as u16;
        let added = (address >> 16) + (address & 0xffff);
        let checksum = checksum::finish(self.sum + added + port as u32);
        Source {
            address,
            port,
            ip_checksum: checksum::finish(self.ip_sum + added),
            // RFC 768: sent as its other form.
            checksum: if checksum == 0 && self.is_udp != 0 {
                0xffff
            } else {
                checksum
            },
        }
    }

    /// The flow after that one.
    #[inline(always)]
    pub const fn after(&self, flow: u32) -> u32 {
        let next = flow + 1;
        if next >= self.flows { 0 } else { next }
    }
}

const _: () = assert!(size_of::<Generate>() == 48);

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const GENERATE: Generate = Generate {
        words: 8,
        flows: 3 * PORTS,
        sources: 3,
        address: 0xc0a8_00fe,
        address_at: 26,
        port_at: 34,
        ip_checksum_at: 24,
        checksum_at: 40,
        ip_sum: 0xfffe,
        sum: 0xfff0,
        is_udp: 1,
        padding: 0,
    };

    #[test]
    fn flows_are_all_distinct_and_begin_anew_after_the_last() {
        let (mut flow, mut seen) = (0, HashSet::new());
        for _ in 0..GENERATE.flows {
            let source = GENERATE.source(flow);
            assert!(source.port >= FIRST_PORT);
            assert!((0xc0a8_00fe..=0xc0a8_0100).contains(&source.address));
            assert!(seen.insert((source.address, source.port)));
            flow = GENERATE.after(flow);
        }
        assert_eq!(flow, 0);
    }

    #[test]
    fn checksums_are_those_of_all_words_and_of_udp_never_zero() {
        for is_udp in [0, 1] {
            let generate = Generate { is_udp, ..GENERATE };
            for flow in 0..generate.flows {
                let source = generate.source(flow);
                let words = [
                    source.address >> 16,
                    source.address & 0xffff,
                    generate.sum,
                    source.port.into(),
                ];
                let sum = checksum::fold(words.iter().sum());
                match source.checksum {
                    0xffff if is_udp == 1 => assert_eq!(sum, 0xffff),
                    checksum => assert_eq!(sum, !checksum),
                }
                assert!(is_udp == 0 || source.checksum != 0);
            }
        }
    }
}
