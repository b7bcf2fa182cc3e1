//! How a tunnel packet ends: in one form or one refusal, each with a number,
//! a name and a counter.

use bytemuck::{Pod, Zeroable};

use super::Family;

/// What happens to a tunnel packet that is not unwrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Up the host's own stack, as it came.
    Pass,
    /// Gone.
    Drop,
}

/// One form's counters on one CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Count {
    /// Packets unwrapped.
    pub packets: u64,
    /// Bytes of the inner packets.
    pub bytes: u64,
}

const _: () = assert!(size_of::<Count>() == 16);

macro_rules! numbered {
    (
        $(#[$outer:meta])* $kind:ident:
        $($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*
    ) => {
        $(#[$outer])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        // As wide as its neighbours in results: the compiler copies narrow
        // fields in pieces, at places of the stack that the verifier refuses.
        #[repr(u32)]
        pub enum $kind {
            $($(#[$doc])* $variant = $number,)*
        }

        impl $kind {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// How many, and so how many counters, there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Name in counters and documents.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

numbered! {
    /// What a packet was unwrapped from: `6in4` is IPv6 inside of IPv4. The
    /// number is the index of its counter.
    Form:
    /// RFC 2003.
    Ipip4in4 = 0, "ipip_4in4";
    /// RFC 4213.
    Ipip6in4 = 1, "ipip_6in4";
    /// RFC 2473.
    Ipip4in6 = 2, "ipip_4in6";
    /// RFC 2473.
    Ipip6in6 = 3, "ipip_6in6";
    /// GUE of either variant, as the next three.
    Gue4in4 = 4, "gue_4in4";
    /// IPv6 in GUE over IPv4.
    Gue6in4 = 5, "gue_6in4";
    /// IPv4 in GUE over IPv6.
    Gue4in6 = 6, "gue_4in6";
    /// IPv6 in GUE over IPv6.
    Gue6in6 = 7, "gue_6in6";
}

numbered! {
    /// Why a tunnel packet was not unwrapped. The number is the index of its
    /// counter.
    Refusal:
    /// The outer source is none of those that are trusted.
    UntrustedSource = 0, "untrusted_source";
    /// The frame ends before the packet, or a length leaves no room for what
    /// it holds.
    Truncated = 1, "truncated";
    /// A fragment of the outer packet. A later fragment of GUE has no port
    /// and is not known to be one.
    FragmentedOuter = 2, "fragmented_outer";
    /// The inner packet's version is not what its carrier says.
    BadInnerVersion = 3, "bad_inner_version";
    /// GUE with a flag, a control message, an unknown variant or protocol.
    UnsupportedGue = 4, "unsupported_gue";
    /// A UDP checksum that is there and wrong.
    BadUdpChecksum = 5, "bad_udp_checksum";
    /// Congestion was marked on the way and the inner packet cannot say so:
    /// RFC 6040 has it dropped.
    EcnDrop = 6, "ecn_drop";
    /// The frame lost its link header while it was moved. The checks before
    /// make this impossible; if it happens, the frame is nobody's.
    LostLinkHeader = 7, "lost_link_header";
}

impl Form {
    /// The form of IP in IP.
    #[inline(always)]
    pub(super) const fn ipip(outer: Family, inner: Family) -> Self {
        match (outer, inner) {
            (Family::V4, Family::V4) => Self::Ipip4in4,
            (Family::V4, Family::V6) => Self::Ipip6in4,
            (Family::V6, Family::V4) => Self::Ipip4in6,
            (Family::V6, Family::V6) => Self::Ipip6in6,
        }
    }

    /// The form of GUE.
    #[inline(always)]
    pub(super) const fn gue(outer: Family, inner: Family) -> Self {
        match (outer, inner) {
            (Family::V4, Family::V4) => Self::Gue4in4,
            (Family::V4, Family::V6) => Self::Gue6in4,
            (Family::V6, Family::V4) => Self::Gue4in6,
            (Family::V6, Family::V6) => Self::Gue6in6,
        }
    }
}

impl Refusal {
    /// What happens to the packet.
    pub const fn fate(self) -> Fate {
        match self {
            Self::EcnDrop | Self::LostLinkHeader => Fate::Drop,
            _ => Fate::Pass,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_positions_and_names_are_unique() {
        for (index, form) in Form::ALL.iter().enumerate() {
            assert_eq!(*form as usize, index);
        }
        for (index, refusal) in Refusal::ALL.iter().enumerate() {
            assert_eq!(*refusal as usize, index);
        }
        let mut names: std::vec::Vec<_> = Form::ALL.iter().map(|form| form.name()).collect();
        names.extend(Refusal::ALL.iter().map(|refusal| refusal.name()));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Form::COUNT + Refusal::COUNT);
    }
}
