//! Translations of flows that are rewritten, and what rules them.

use bytemuck::{Pod, Zeroable};

/// Most addresses of a family that `fullnat` sends from.
pub const MAX_NAT_SOURCES: usize = 64;

/// Key of `NAT`: a packet as it arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct NatKey {
    /// Source address, network order; IPv4 in the first four bytes.
    pub source: [u8; 16],
    /// Destination address, likewise.
    pub destination: [u8; 16],
    /// Source and destination port, network order.
    pub ports: [u8; 4],
    /// IP protocol number; a word, as the program builds the key on its
    /// stack, where the kernel allows no misaligned store.
    pub protocol: u32,
}

impl NatKey {
    /// The same flow in the other direction.
    #[inline(always)]
    #[must_use]
    pub const fn turned(&self) -> Self {
        let [a, b, c, d] = self.ports;
        Self {
            source: self.destination,
            destination: self.source,
            ports: [c, d, a, b],
            protocol: self.protocol,
        }
    }
}

/// What the packets of a [`NatKey`] are rewritten to, and where they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct NatRecord {
    /// The new source address, network order; IPv4 in the first four bytes.
    pub source: [u8; 16],
    /// The new destination address, likewise.
    pub destination: [u8; 16],
    /// The new source and destination port, network order.
    pub ports: [u8; 4],
    /// [`NatRecord::REPLY`]: the interface that the client's packets come in
    /// on; replies leave by it.
    pub egress: u32,
    /// [`NatRecord::REPLY`]: when a packet of the flow was last seen,
    /// `CLOCK_MONOTONIC_COARSE`, not more than a second late.
    pub seen_ns: u64,
    /// [`NatRecord::REPLY`]: Ethernet destination, then source, of replies.
    pub ethernet: [u8; 12],
    /// Number of the service.
    pub service: u32,
    /// Index of the member in its service.
    pub member: u16,
    /// The member's incarnation.
    pub incarnation: u16,
    /// [`NatRecord::REPLY`]: [`NatRecord::FIN`] and [`NatRecord::RST`], what
    /// the client has sent of them.
    pub client: u8,
    /// As `client`, of the backend.
    pub backend: u8,
    /// [`NatRecord::REPLY`] or [`NatRecord::REQUEST`].
    pub kind: u16,
}

impl NatRecord {
    /// `kind`: the key is a packet of a backend.
    pub const REPLY: u16 = 1;
    /// `kind`: the key is a packet of a client to a `fullnat` service. Its
    /// reply record holds all that changes with time.
    pub const REQUEST: u16 = 2;

    /// This side has said that it sends no more.
    pub const FIN: u8 = 1;
    /// This side has torn the connection down.
    pub const RST: u8 = 2;

    /// Whether the TCP connection is over: both sides have finished, or one
    /// has torn it down.
    #[inline(always)]
    pub const fn is_closed(&self) -> bool {
        self.client & self.backend & Self::FIN != 0 || (self.client | self.backend) & Self::RST != 0
    }

    /// Whether another flow may take the record's place at `now`.
    #[inline(always)]
    pub const fn is_over(&self, now: u64, settings: &NatSettings) -> bool {
        let silent = now.saturating_sub(self.seen_ns);
        silent >= settings.idle_ns || self.is_closed() && silent >= settings.closed_ns
    }
}

/// One of the two entries of `NAT_SETTINGS`, one a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct NatSettings {
    /// Nanoseconds of silence after which a translation is over.
    pub idle_ns: u64,
    /// The same for a TCP connection that is closed.
    pub closed_ns: u64,
    /// `fullnat`: the first port of CPU 0.
    pub first_port: u32,
    /// `fullnat`: how many ports of each address a CPU has; the next CPU's
    /// follow.
    pub ports_per_cpu: u32,
    /// `fullnat`: addresses in each half of `sources`, at most
    /// [`MAX_NAT_SOURCES`].
    pub source_counts: [u32; 2],
    /// `fullnat`: what is sent from to IPv4 backends, then to IPv6 ones;
    /// network order, IPv4 in the first four bytes.
    pub sources: [[[u8; 16]; MAX_NAT_SOURCES]; 2],
}

impl NatSettings {
    /// Half of `sources` for IPv4.
    pub const V4: usize = 0;
    /// Half of `sources` for IPv6.
    pub const V6: usize = 1;
}

impl Default for NatSettings {
    /// Nothing to send from, and nothing kept.
    fn default() -> Self {
        Self::zeroed()
    }
}

const _: () = {
    assert!(size_of::<NatKey>() == 40);
    assert!(size_of::<NatRecord>() == 72);
    assert!(core::mem::offset_of!(NatRecord, seen_ns) == 40);
    assert!(core::mem::offset_of!(NatRecord, service) == 60);
    assert!(size_of::<NatSettings>() == 32 + 2 * 16 * MAX_NAT_SOURCES);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_is_over_when_both_sides_finished_or_one_tore_it_down() {
        const FIN: u8 = NatRecord::FIN;
        const RST: u8 = NatRecord::RST;
        let cases = [
            (0, 0, false),
            (FIN, 0, false),
            (0, FIN, false),
            (FIN, FIN, true),
            (RST, 0, true),
            (0, RST, true),
            (FIN | RST, 0, true),
        ];
        for (client, backend, closed) in cases {
            let record = NatRecord {
                client,
                backend,
                ..NatRecord::zeroed()
            };
            assert_eq!(record.is_closed(), closed, "{client} {backend}");
        }
    }

    #[test]
    fn closed_connection_is_given_up_sooner_than_a_silent_one() {
        let settings = NatSettings {
            idle_ns: 100,
            closed_ns: 10,
            ..NatSettings::zeroed()
        };
        let open = NatRecord {
            seen_ns: 1000,
            ..NatRecord::zeroed()
        };
        let closed = NatRecord {
            client: NatRecord::RST,
            ..open
        };
        // A clock that another CPU has read a little later is no age.
        for (now, open_is_over, closed_is_over) in [
            (990, false, false),
            (1009, false, false),
            (1010, false, true),
            (1099, false, true),
            (1100, true, true),
        ] {
            assert_eq!(open.is_over(now, &settings), open_is_over, "{now}");
            assert_eq!(closed.is_over(now, &settings), closed_is_over, "{now}");
        }
    }
}
