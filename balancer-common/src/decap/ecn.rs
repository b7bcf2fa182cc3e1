//! ECN at the end of a tunnel: RFC 6040, section 4.2.
//!
//! Congestion that a router of the tunnel marked on the outer header goes on
//! to the inner one, if its ends understand it. If they do not, the mark can
//! only be told by a loss: that packet is dropped. DSCP is the inner packet's
//! own and stays (the pipe model of RFC 2983).

use super::Refusal;
use crate::checksum;
use crate::parse::IPV4_LEN;

/// Bits of the traffic class that are ECN (RFC 3168).
pub(super) const ECN_MASK: u8 = 0b11;
/// The ends do not understand ECN.
pub const NOT_ECT: u8 = 0b00;
/// They do, with the second code point for it.
pub const ECT_1: u8 = 0b01;
/// They do.
pub const ECT_0: u8 = 0b10;
/// Congestion experienced.
pub const CE: u8 = 0b11;

/// The inner packet's ECN after the tunnel (figure 4): `None` drops it.
///
/// Neither code point may be more than two bits.
#[inline(always)]
pub const fn combined(inner: u8, outer: u8) -> Option<u8> {
    match (inner, outer) {
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (_, CE) => Some(CE),
        (ECT_0, ECT_1) => Some(ECT_1),
        _ => Some(inner),
    }
}

/// New words of an inner header, in host order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Bytes 0 and 1: the type of service or traffic class and what stands
    /// around it.
    pub first: u16,
    /// IPv4: the header checksum. IPv6 has none, and 0 here.
    pub checksum: u16,
}

impl Mark {
    /// What changes in an inner IPv4 header; its checksum is updated, so that
    /// a wrong one stays wrong.
    #[inline(always)]
    pub(super) fn v4(ip: &[u8; IPV4_LEN], outer: u8) -> Result<Option<Self>, Refusal> {
        let inner = ip[1] & ECN_MASK;
        let ecn = combined(inner, outer & ECN_MASK).ok_or(Refusal::EcnDrop)?;
        if ecn == inner {
            return Ok(None);
        }
        let old = u16::from_be_bytes([ip[0], ip[1]]);
        let first = old ^ u16::from(inner ^ ecn);
        let checksum = u16::from_be_bytes([ip[10], ip[11]]);
        let checksum = checksum::update(checksum, old, first);
        Ok(Some(Self { first, checksum }))
    }

    /// What changes in an inner IPv6 header, of which the beginning is given.
    #[inline(always)]
    pub(super) fn v6(ip: &[u8; IPV4_LEN], outer: u8) -> Result<Option<Self>, Refusal> {
        // Four bits of version, eight of traffic class, four of flow label.
        let inner = ip[1] >> 4 & ECN_MASK;
        let ecn = combined(inner, outer & ECN_MASK).ok_or(Refusal::EcnDrop)?;
        if ecn == inner {
            return Ok(None);
        }
        let old = u16::from_be_bytes([ip[0], ip[1]]);
        Ok(Some(Self {
            first: old ^ u16::from(inner ^ ecn) << 4,
            checksum: 0,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_sixteen_combinations_are_those_of_rfc_6040_figure_4() {
        // Columns as printed there: the outer header is Not-ECT, ECT(0),
        // ECT(1), CE.
        let outer = [NOT_ECT, ECT_0, ECT_1, CE];
        let rows = [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
        ];
        for (inner, row) in rows {
            for (outer, expected) in outer.into_iter().zip(row) {
                assert_eq!(combined(inner, outer), expected, "{inner:02b} {outer:02b}");
            }
        }
    }

    proptest! {
        #[test]
        fn mark_changes_ecn_alone_and_keeps_the_checksum_right(
            mut ip: [u8; IPV4_LEN], outer in 0u8..4
        ) {
            ip[10..12].fill(0);
            let check = checksum::finish(checksum::sum(&ip)).to_be_bytes();
            ip[10..12].copy_from_slice(&check);
            let before = ip;
            match Mark::v4(&ip, outer) {
                Err(refusal) => {
                    prop_assert_eq!(refusal, Refusal::EcnDrop);
                    prop_assert_eq!((ip[1] & ECN_MASK, outer), (NOT_ECT, CE));
                }
                Ok(None) => prop_assert_eq!(combined(ip[1] & 3, outer), Some(ip[1] & 3)),
                Ok(Some(mark)) => {
                    ip[..2].copy_from_slice(&mark.first.to_be_bytes());
                    ip[10..12].copy_from_slice(&mark.checksum.to_be_bytes());
                    prop_assert_eq!((before[0], before[1] & !3), (ip[0], ip[1] & !3));
                    prop_assert_eq!(combined(before[1] & 3, outer), Some(ip[1] & 3));
                    prop_assert_eq!(checksum::fold(checksum::sum(&ip)), 0xffff);
                }
            }
        }

        #[test]
        fn mark_of_ipv6_leaves_dscp_and_label(ip: [u8; IPV4_LEN], outer in 0u8..4) {
            let inner = ip[1] >> 4 & ECN_MASK;
            if let Ok(Some(mark)) = Mark::v6(&ip, outer) {
                let [version, class] = mark.first.to_be_bytes();
                prop_assert_eq!((version, class & 0xcf), (ip[0], ip[1] & 0xcf));
                prop_assert_eq!(Some(class >> 4 & ECN_MASK), combined(inner, outer));
                prop_assert_eq!(mark.checksum, 0);
            }
        }
    }
}
