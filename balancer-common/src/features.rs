//! What a loaded program can do.
//!
//! The loader sets one constant before the kernel verifies the program; every
//! stage that only some configurations need asks it first. The verifier knows
//! the constant's value and removes what can never run, so that a
//! configuration does not pay for what it does not use.

/// A set of features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features(pub u32);

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident = $bit:literal;)*) => {
        impl Features {
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)*

            /// Every feature there is.
            pub const ALL: Self = Self(0 $(| 1 << $bit)*);

            /// Names of the features in the set.
            pub fn names(self) -> impl Iterator<Item = &'static str> {
                [$((Self::$name, stringify!($name)),)*]
                    .into_iter()
                    .filter(move |(feature, _)| self.contains(*feature))
                    .map(|(_, name)| name)
            }
        }
    };
}

features! {
    /// Some service has an IPv4 address.
    IPV4 = 0;
    /// Some service has an IPv6 address.
    IPV6 = 1;
    /// Some service takes every port.
    ANY_PORT = 2;
    /// Echo requests to a service's address are answered.
    ECHO = 3;
    /// Some member is reached by rewritten Ethernet addresses.
    L2 = 4;
    /// Some member is behind IP in IPv4.
    IPIP_V4 = 5;
    /// Some member is behind IP in IPv6.
    IPIP_V6 = 6;
    /// Some member is behind GUE over IPv4.
    GUE_V4 = 7;
    /// Some member is behind GUE over IPv6.
    GUE_V6 = 8;
    /// Some member is reached by a rewritten destination.
    NAT = 9;
    /// Some member is reached by a rewritten source and destination.
    FULLNAT = 10;
    /// Some service goes by the source address.
    AFFINITY_SOURCE = 11;
    /// Some service records every flow.
    AFFINITY_FLOW = 12;
    /// Some service routes by QUIC connection id.
    QUIC = 13;
    /// Some service filters sources.
    FILTER = 14;
    /// Some service limits the new flows of a source.
    LIMIT = 15;
    /// Some service lowers the MSS of SYNs.
    CLAMP_MSS = 16;
    /// Some TCP flows are timed.
    HANDSHAKES = 17;
}

impl Features {
    /// Whether all of `other` are in the set.
    #[inline(always)]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// `feature` if `wanted`, nothing otherwise.
    pub const fn when(wanted: bool, feature: Self) -> Self {
        if wanted { feature } else { Self(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_has_a_bit_of_its_own() {
        assert_eq!(
            Features::ALL.0.count_ones() as usize,
            Features::ALL.names().count()
        );
    }

    #[test]
    fn set_contains_its_parts_and_nothing_else() {
        let set = Features::L2.with(Features::ECHO);
        assert!(set.contains(Features::ECHO) && set.contains(Features(0)));
        assert!(!set.contains(Features::ECHO.with(Features::NAT)));
        assert_eq!(Features::when(false, Features::NAT), Features(0));
    }
}
