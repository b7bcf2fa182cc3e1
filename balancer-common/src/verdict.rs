//! What happens to a packet, and why, by name.
//!
//! Every packet that enters the program leaves it with exactly one
//! [`Reason`], and each reason owns one counter. A reason says by itself
//! whether the packet passes up the stack, is dropped or is forwarded: a
//! packet that is not for a service is never dropped.

/// What a reason does to the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Up the host's own stack, untouched.
    Pass,
    /// Gone, and counted.
    Drop,
    /// On its way to a backend, or from one to its client.
    Forward,
    /// Turned into its own answer, on its way back.
    Answer,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal, $disposition:ident;)*) => {
        /// Why a packet got its verdict. The number is the index of its counter.
        /// A word, as a byte in the place of a packet's fields would make the
        /// compiler split these, and the kernel allows no misaligned store on
        /// a program's stack.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u64)]
        pub enum Reason {
            $($(#[$doc])* $variant = $number,)*
        }

        impl Reason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Name in metrics, `trace` and the documents.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// What it does to the packet.
            pub const fn disposition(self) -> Disposition {
                match self {
                    $(Self::$variant => Disposition::$disposition,)*
                }
            }
        }
    };
}

reasons! {
    /// Sent to a backend.
    Forwarded = 0, "forwarded", Forward;
    /// Neither IPv4 nor IPv6 (ARP, more than two VLAN tags and the rest).
    NotIp = 1, "not_ip", Pass;
    /// The frame ends before the headers that would tell its service.
    Truncated = 2, "truncated", Pass;
    /// Version or header length of the IP header contradict the EtherType.
    BadIpHeader = 3, "bad_ip_header", Pass;
    /// Neither TCP nor UDP nor an ICMP message that the balancer handles.
    NotTcpUdp = 4, "not_tcp_udp", Pass;
    /// A later fragment to no service's address: it has no ports, so no service can be told.
    LaterFragment = 5, "later_fragment", Pass;
    /// No service has this address, port and protocol.
    NoService = 6, "no_service", Pass;
    /// A first fragment for a service that does not hold the whole TCP or UDP header.
    TinyFragment = 7, "tiny_fragment", Drop;
    /// The IP length goes past the frame or is too short for its transport.
    BadLength = 8, "bad_length", Drop;
    /// The TCP data offset is under 5 or goes past the packet.
    BadTcpHeader = 9, "bad_tcp_header", Drop;
    /// The UDP length is under 8 or goes past the packet.
    BadUdpLength = 10, "bad_udp_length", Drop;
    /// TTL or hop limit 0: it should not have arrived (RFC 1122, 3.2.1.7). Or 1, where addresses are rewritten and it would leave with 0.
    TtlExpired = 11, "ttl_expired", Drop;
    /// The service has no backend that may get traffic.
    NoBackend = 12, "no_backend", Drop;
    /// The backend's next hop or tunnel source is not known.
    NoNextHop = 13, "no_next_hop", Drop;
    /// The packet would not fit the way to the backend, and it is one that is not answered.
    ExceedsMtu = 14, "exceeds_mtu", Drop;
    /// The kernel gave no room for the outer header.
    NoHeadroom = 15, "no_headroom", Drop;
    /// The tables contradict themselves.
    BadTable = 16, "bad_table", Drop;
    /// An echo request to a service's address, answered here.
    EchoAnswered = 17, "echo_answered", Answer;
    /// A backend's packet, rewritten and sent to its client.
    ReplyForwarded = 18, "reply_forwarded", Forward;
    /// A live flow of another service has the same client, port, backend and port.
    NatConflict = 19, "nat_conflict", Drop;
    /// An IPv6 routing header has segments left: its destination is not the last one.
    SourceRouted = 20, "source_routed", Pass;
    /// More than four IPv6 extension headers before the transport header.
    TooManyExtensions = 21, "too_many_extensions", Pass;
    /// A later fragment to a service's address whose first one did not come, or not lately.
    FragmentUnknown = 22, "fragment_unknown", Drop;
    /// No address and port is left to send a new flow to its backend from.
    PortsExhausted = 23, "ports_exhausted", Drop;
    /// The packet would not fit the way to the backend; the client was told what does.
    TooBigAnswered = 24, "too_big_answered", Answer;
    /// An ICMP error about a flow, sent to its backend, or of a translated flow to its client.
    ErrorForwarded = 25, "error_forwarded", Forward;
    /// An ICMP error that seems to be about a service's flow, but about none that there is.
    ErrorUnmatched = 26, "error_unmatched", Pass;
    /// A QUIC packet whose server id no living backend has, sent by its hash.
    UnknownServerId = 27, "unknown_server_id", Forward;
    /// The service denies this source.
    SourceDenied = 28, "source_denied", Drop;
    /// The service allows only other sources.
    SourceNotAllowed = 29, "source_not_allowed", Drop;
    /// More new flows than the service allows a source prefix.
    SourceLimited = 30, "source_limited", Drop;
}

impl Reason {
    /// How many reasons, and so counters, there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The reason of that number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_positions_in_all_so_counters_can_be_indexed() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index, "{}", reason.name());
            assert_eq!(Reason::from_number(index as u32), Some(*reason));
        }
        assert_eq!(Reason::from_number(Reason::COUNT as u32), None);
    }
}
